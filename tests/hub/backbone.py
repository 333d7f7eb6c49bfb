"""One backbone of KerasHub on its whole way: masks to a file, channels to a smaller model; prints a line per step.

A step that is refused says why in its line, and the steps that build on it are left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from family import enliven
from hub_models import BACKBONES, inputs_for

import tfprune
import tfprune.export

SPARSITY, CHANNELS = 0.5, 0.5
ALIKE = 1e-5  # as a fraction of the largest output
SAMPLES = 16
RIGHT = 1e-3  # of a file, as a fraction of the largest output


class Step:
    """Note what a step returns, or the first line of its error, with which the walk goes on."""

    def __init__(self, name: str) -> None:
        self.name, self.value, self.start = name, "yes", time.perf_counter()

    def __enter__(self) -> Step:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        holds = error is None
        value = self.value if holds else f"{kind.__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        seconds = round(time.perf_counter() - self.start, 1)
        line = {"step": self.name, "holds": holds, "value": value, "seconds": seconds}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return holds or isinstance(error, Exception)


def walk_through(name: str) -> None:
    """Take the model through all steps."""
    keras.utils.set_random_seed(1)
    model = BACKBONES[name]()
    inputs = inputs_for(model)
    enliven(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        prune(model, inputs, Path(folder))
    if not remove(model, inputs):
        remove(fixed(model, inputs, batch=len(keras.tree.flatten(inputs)[0])), inputs, note="sizes fixed: ")


def prune(model: keras.Model, inputs: Any, folder: Path) -> None:
    """Wrap, mask, save, load, strip and export."""
    wrapped = None
    with Step("wrap") as step:
        wrapped = tfprune.wrap(model)
        step.value = alike(wrapped, model, inputs)
    if wrapped is None:
        return
    with Step("masks") as step:
        report = tfprune.update_masks(wrapped, SPARSITY)
        # Biases and scales apart, a mask that is missing shows here.
        matrices = sum(weight.size for weight in map(np.asarray, model.weights) if weight.ndim > 1)
        step.value = f"{report.size / matrices:.0%}"
    with Step("saved, loaded") as step:
        wrapped.save(folder / "wrapped.keras")
        step.value = alike(keras.models.load_model(folder / "wrapped.keras"), wrapped, inputs)
    with Step("stripped") as step:
        step.value = alike(tfprune.strip(wrapped), wrapped, inputs)
    with Step("exported") as step:
        # Sparse forms are for larger weights than these.
        tfprune.export.to_tflite(fixed(wrapped, inputs), folder / "model.tflite", optimize="dense", check_on=inputs)


def export(name: str) -> None:
    """Prune and export only, by the converter that the environment names, and judge the file on other inputs."""
    keras.utils.set_random_seed(1)
    model = BACKBONES[name]()
    inputs = inputs_for(model)
    enliven(model, inputs)
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, SPARSITY)
    wrapped = flat(fixed(wrapped, inputs))
    with Step("exported") as step, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        tfprune.export.to_tflite(wrapped, path, optimize="dense", check_on=inputs)
        other = inputs_for(model, seed=1)
        found, expected = tfprune.export.Runner(path).predict(other), wrapped(other, training=False)
        pairs = zip(_arrays(found), _arrays(expected), strict=True)
        differences = [float(np.abs(each - wanted).max() / (np.abs(wanted).max() or 1)) for each, wanted in pairs]
        assert max(differences) <= RIGHT, f"a wrong file was written: it differs by {max(differences):.0e}"
        step.value = f"{max(differences):.0e}"


def flat(model: keras.Model) -> keras.Model:
    """Return the model with a flat list of outputs where they are nested, which no file can have."""
    outputs = [*model.output.values()] if isinstance(model.output, dict) else [model.output]
    is_nested = any(isinstance(each, dict | list | tuple) for each in outputs)
    return keras.Model(model.input, keras.tree.flatten(model.output)) if is_nested and len(outputs) > 1 else model


def _arrays(outputs: Any) -> list[np.ndarray]:
    named = [outputs[key] for key in sorted(outputs)] if isinstance(outputs, dict) else outputs
    return [keras.ops.convert_to_numpy(each).astype("float64") for each in keras.tree.flatten(named)]


def fixed(model: keras.Model, inputs: Any, *, batch: int | None = None) -> keras.Model:
    """Return the model on inputs of the sizes of these, as a file has them."""
    given = keras.tree.map_structure(
        lambda tensor, values: keras.Input(values.shape[1:], batch, tensor.dtype, name=tensor.name),
        model.input,
        inputs,
    )
    return keras.Model(given, model(given))


def remove(model: keras.Model, inputs: Any, *, note: str = "") -> bool:
    """Plan, shrink and reconstruct; tell whether there is a smaller model, or nothing to remove."""
    plan = masked = None
    with Step("planned") as step:
        plan = tfprune.plan_shrink(model, CHANNELS)
        groups = [row for row in plan.rows if row.kept < row.channels]
        heads = sum(row.kind == "heads" for row in groups)
        step.value = f"channels {len(groups) - heads}, heads {heads}"
    if plan is None:
        return True
    with Step("shrunk") as step:
        smaller = tfprune.shrink(model, plan)
        masked = tfprune.zero_channels(model, plan)
        difference = alike(smaller, masked, inputs)
        step.value = f"{note}{difference}, size {smaller.count_params() / model.count_params():.0%}"
    if masked is None:
        return False
    with Step("reconstructed") as step:
        data = inputs_for(model, batch=SAMPLES, seed=1)
        better, report = tfprune.reconstruct(masked, model, data, batch_size=2)
        alike(tfprune.shrink(better, plan), better, inputs)
        step.value = f"{len(report.rows)} layers"
    return True


def alike(model: Callable, expected: Callable, inputs: Any) -> str:
    """Return by how much two models differ, as a fraction of the largest output; refuse too large a difference."""
    pairs = zip(outputs(model, inputs), outputs(expected, inputs), strict=True)
    difference = max(float(np.abs(one - other).max() / (np.abs(other).max() or 1)) for one, other in pairs)
    if not difference <= ALIKE:
        raise AssertionError(f"outputs differ by {difference:.1g} of the largest")
    return f"{difference:.0e}" if difference else "0"


def outputs(model: Callable, inputs: Any) -> list[np.ndarray]:
    tensors = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(tensor).astype("float64") for tensor in tensors]


if __name__ == "__main__":
    (export if "export" in sys.argv[2:] else walk_through)(sys.argv[1])
