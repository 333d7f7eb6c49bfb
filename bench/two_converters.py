"""Int8 files of one quantization-aware model by two converters: their integers, scales and outputs.

Run it where TensorFlow is not installed, and then where it is, with the same folder:

    export PYTHONPATH=tests/export/keras_side:tests/helpers
    KERAS_BACKEND=jax PYTHON bench/two_converters.py FOLDER
    python bench/two_converters.py FOLDER

Names of cases behind the folder choose some of them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
from test_trained_ranges import CASES

import tfprune
from tfprune.export import Quantization, Runner, to_tflite
from tfprune.export.file.document import NamedTensors, inputs_of
from tfprune.export.file.model_file import ModelFile


def train(folder: Path, case: str) -> None:
    """Save a pruned network whose ranges have seen data, and the data."""
    build, data = CASES[case]
    keras.utils.set_random_seed(0)
    model = tfprune.quantize_aware(tfprune.wrap(build()))
    tfprune.update_masks(model, 0.6)
    model.compile(keras.optimizers.SGD(0.001), "mse")
    targets = keras.tree.map_structure(lambda output: np.ones((len(data), *output.shape[1:])) / 3, model.output)
    model.fit(data, targets, epochs=2, verbose=0)
    model.save(folder / f"{case}.keras")
    np.save(folder / f"{case}.npy", data)


def write(folder: Path, case: str, name: str) -> None:
    """Export a network by the converter of this environment."""
    if name == "litert":
        train(folder, case)
    model, data = keras.saving.load_model(folder / f"{case}.keras", compile=False), np.load(folder / f"{case}.npy")
    form = Quantization("int8", io_dtype="float32" if case == "tokens" else "int8")
    to_tflite(model, folder / f"{case}.{name}.tflite", quantize=form, check_on=data, optimize="dense")


def constants(view: NamedTensors) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the integers of each weight and bias, and their scales, in the order of the operators."""
    found = []
    for operator in view.graph.operators:
        for index in inputs_of(operator):
            grid, values = (view.grid(index), view.constant(index)) if index >= 0 else (None, None)
            if grid is not None and values is not None:
                found.append((values.ravel(), np.ravel(grid.scale)))
    return found


def compared(folder: Path, case: str) -> str:
    """Return a row of the table."""
    files = [ModelFile.open(folder / f"{case}.{name}.tflite") for name in ("tensorflow", "litert")]
    views = [NamedTensors(file.objects()) for file in files]
    kinds = [[view.kind(operator) for operator in view.graph.operators] for view in views]
    first, second = map(constants, views)
    counts, offs = [len(first), len(second)], []
    for values, scale in first:  # the order of the operators may be another one
        same = [each for each in second if np.array_equal(np.sort(each[0]), np.sort(values))]
        best = min(same, key=lambda each: _off(each[1], scale), default=None)
        if best is not None:
            offs.append(_off(best[1], scale))
            second = [each for each in second if each is not best]
    activations = [_activations(view) for view in views]
    data = np.load(folder / f"{case}.npy")
    outputs = [keras.tree.flatten(Runner(file.content).predict(data)) for file in files]
    units = [view.grid(int(index)) for view in views[:1] for index in _rounded_outputs(view)]
    steps = max(
        np.abs(one - two).max() / grid.scale.item() for one, two, grid in zip(*outputs, units, strict=True) if grid
    )
    sizes = [f"{len(file.content):,}" for file in files]
    equal = f"{len(offs)} of {counts[0]}, {counts[1]}"
    return (
        f"{case:<14}{str(kinds[0] == kinds[1]):<11}{equal:<16}{max(offs, default=0):<10.1e}"
        f"{_off(*activations):<10.1e}{steps:<8.2f}{' '.join(sizes)}"
    )


def _rounded_outputs(view: NamedTensors) -> list[int]:
    """Return the integers that become the outputs of a file."""
    makers = [view.maker[index] for index in view.graph.outputs.tolist()]
    pairs = zip(view.graph.outputs.tolist(), makers, strict=True)
    return [int(maker.inputs[0]) if view.kind(maker) == "DEQUANTIZE" else index for index, maker in pairs]


def _activations(view: NamedTensors) -> np.ndarray:
    indices = {index for operator in view.graph.operators for index in operator.outputs.tolist()}
    grids = [view.grid(index) for index in indices]
    return np.array(sorted({float(np.ravel(grid.scale)[0]) for grid in grids if grid is not None}))


def _off(one: np.ndarray, two: np.ndarray) -> float:
    one, two = np.sort(one), np.sort(two)
    return float("inf") if one.shape != two.shape else float(np.abs(one / two - 1).max(initial=0))


def main(folder: Path, cases: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    name = "tensorflow" if importlib.util.find_spec("tensorflow") else "litert"
    for case in cases or CASES:
        if not (folder / f"{case}.{name}.tflite").exists():
            write(folder, case, name)
    if name == "tensorflow":
        print("model         operators  equal constants  scales    of activations  steps  bytes")
        for case in cases or CASES:
            print(compared(folder, case), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
