"""The samples that a file is pruned on: checked, drawn if asked for by name, and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfprune.export.device.running.inputs import arrays_of, random_inputs
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import TensorInfo, shape_text
from tfprune.export.file.tflite.model import Model

RANDOM, RANDOM_ROWS = "random", 64
LEAST_SAMPLES, MAX_HELD = 3, 64  # two to prune on, which differ, and one to hold out
HELD_PART = 8  # every eighth sample is held out
FEW = 64

WARN_RANDOM = (
    "the samples are random numbers, not data: the accuracy may drop by 4 to 16 points more than with data, and the "
    "errors above say little. Pass samples as the file will see them."
)


class GraphSamples(NamedTuple):
    """The samples of one graph of a file.

    Attributes:
        signature: The signature that starts at the graph; empty for the first graph of the file.
        arrays: An array for each of its inputs.
        held: How many of them, at the end, are held out.
        is_random: Whether they were drawn.
    """

    signature: str
    arrays: list[np.ndarray]
    held: int
    is_random: bool

    @property
    def fitted(self) -> int:
        """The number of samples that are not held out."""
        return min(len(array) for array in self.arrays if array.ndim) - self.held


def samples_of_graphs(samples: Any, file: ModelFile) -> list[GraphSamples]:
    """Return the samples of the first graph of a file, or those of some of its signatures.

    Args:
        samples: What `prune_tflite` takes.
        file: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or name a signature that the file does not have.
    """
    graphs = []
    for name, own in _by_signature(samples, file).items():
        try:
            graphs.append(first_graph(own, file.starting_at(name).graph)._replace(signature=name))
        except (TypeError, ValueError) as error:
            if not name:
                raise
            raise type(error)(f"For signature {name!r}: {error}") from error
    return graphs


def first_graph(samples: Any, model: Model) -> GraphSamples:
    """Return the samples of the first graph of a file.

    Args:
        samples: What `shrink_tflite` takes.
        model: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs.
    """
    arrays = check_samples(samples, model)
    return GraphSamples("", arrays, held_out(arrays, model), isinstance(samples, str))


def _by_signature(samples: Any, file: ModelFile) -> Mapping[str, Any]:
    """Return samples by signature; those of the first graph have an empty name."""
    names = [info.name for info in file.graph.inputs]
    if not isinstance(samples, Mapping) or {*samples} == {*names}:
        return {"": samples}
    graphs = file.signatures
    unknown = [name for name in samples if name not in graphs]
    if not samples or (unknown and len(graphs) < 2):
        return {"": samples}
    if unknown:
        raise ValueError(
            f"Expected samples by signature, of which the file has {', '.join(map(repr, graphs))}, or by the inputs "
            f"of its first graph: {', '.join(map(repr, names))}. Received: names {[*samples]}."
        )
    if len({graphs[name] for name in samples}) < len(samples):
        raise ValueError(
            f"Expected signatures that start at different graphs. Received: {', '.join(map(repr, samples))}, some of "
            "which are the same graph under two names. Pass the samples of this graph once."
        )
    return samples


def check_samples(samples: Any, model: Model) -> list[np.ndarray]:
    """Return an array for each input of a file.

    Args:
        samples: What `prune_tflite` takes.
        model: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or are the same for all samples.
    """
    if samples is None:
        raise TypeError(
            "Expected samples as the file will see them, a few hundred, without labels. Received: samples=None. If "
            "there are none at all, samples='random' draws numbers, which costs accuracy."
        )
    _check_batch(model)
    if isinstance(samples, str):
        return _random(samples, model)
    arrays = arrays_of(samples, names=[info.name for info in model.inputs])
    for info, array in zip(model.inputs, arrays, strict=True):
        _check_array(info, array)
    rows = {len(array) for array in arrays if array.ndim}
    if len(rows) != 1 or min(rows) < LEAST_SAMPLES:
        raise ValueError(
            f"Expected at least {LEAST_SAMPLES} samples, the same number for each input. Received: "
            f"{', '.join(shape_text(array.shape) for array in arrays)}."
        )
    if all((array == array[:1]).all() for array in arrays):
        raise ValueError(
            "Expected samples that differ from each other. Received: samples that are all the same. Pass data as the "
            "file will see them."
        )
    return arrays


def held_out(arrays: Sequence[np.ndarray], model: Model) -> int:
    """Return how many samples at the end are held out: whole batches where the file has a fixed one."""
    rows = min(len(array) for array in arrays if array.ndim)
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    held = min(max(rows // HELD_PART // batch, 1) * batch, MAX_HELD * batch)
    if rows - held < batch:
        raise ValueError(
            f"Expected samples for two runs of the file at least, which takes {batch} at once. Received: {rows}."
        )
    return held


def warnings_of(samples: Sequence[GraphSamples], others: Sequence[str]) -> tuple[str, ...]:
    """Return what makes the result less reliable, and the warnings of the process that ran the file."""
    warnings = [WARN_RANDOM] if any(each.is_random for each in samples) else []
    few = [each.fitted for each in samples if each.fitted < FEW and not each.is_random]
    text = [f"{count} samples are few: with 256 the outputs stay closer." for count in few]
    return *warnings, *others, *dict.fromkeys(text)


def _random(name: str, model: Model) -> list[np.ndarray]:
    if name != RANDOM:
        raise ValueError(f"Expected samples as arrays, or samples='random'. Received: samples={name!r}.")
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    infos = [TensorInfo(info.name, (None, *info.shape[1:]), info.dtype) for info in model.inputs]
    return random_inputs(infos, model.outputs, rows=RANDOM_ROWS * batch)


def _check_batch(model: Model) -> None:
    if len({info.shape[0] for info in model.inputs if info.shape} - {None}) > 1:
        shapes = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in model.inputs)
        raise ValueError(
            "Expected inputs that take the same number of samples in a run. Received: inputs whose first dimensions "
            f"differ: {shapes}. If another signature of the file takes one sample in a run, as `decode` of language "
            "models does, pass samples for that: weights that signatures share are pruned once."
        )


def _check_array(info: TensorInfo, array: np.ndarray) -> None:
    wanted = info.shape
    fits = array.ndim == len(wanted) and all(
        length in (None, given) for length, given in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not fits or not array.size:
        shape = shape_text((None, *wanted[1:]))
        raise ValueError(
            f"Expected samples of shape {shape} for input {info.name!r}. Received: {shape_text(array.shape)}."
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Expected numbers for input {info.name!r}. Received: values of type {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite numbers for input {info.name!r}. Received: NaN or infinity.")
