"""Whether a narrower class computes the sums of the whole one, tried on random weights that are 0 where it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.compact.narrowing.norms import StreamNorm
from tfprune.compact.narrowing.stream import Stream
from tfprune.compact.same_class.class_arguments import build_with_arguments
from tfprune.keras_models.copying.twin import class_config
from tfprune.keras_models.models.layer_hooks import hooked_calls
from tfprune.keras_models.models.layers import as_numpy, walk
from tfprune.keras_models.tracing.same_outputs import ROUNDED, Tolerance, as_arrays, same_outputs
from tfprune.keras_models.tracing.sample_inputs import first_run, numbers_for
from tfprune.keras_models.tracing.trace_failure import FAILURES, describe

COARSE = Tolerance(of_largest=0.05)  # of 16-bit floats


@dataclass(frozen=True, eq=False)
class Cut:
    """What remains of a residual stream.

    Attributes:
        stream: The whole stream.
        norms: The norms on it, in the order in which they are called.
        dimensions: The hidden dimensions that remain.
        energies: The part of the squares of each norm's inputs that is in them, on average.
    """

    stream: Stream
    norms: tuple[StreamNorm, ...]
    dimensions: np.ndarray
    energies: tuple[float, ...]

    def values(self, values: Sequence[np.ndarray], *, factor: float = 1.0) -> list[np.ndarray]:
        """Return the values of the variables of the narrower model.

        Args:
            values: Those of the whole model.
            factor: How many times as large embeddings have to be, as the code of the class scales them by the width.
        """
        entries = self.stream.kept(values, self.dimensions)
        ratio = self.stream.width / len(self.dimensions)
        for norm, energy in zip(self.norms, self.energies, strict=True):  # the mean square is of fewer dimensions
            entries[norm.index] = norm.scaled(entries[norm.index], np.sqrt(ratio * energy))
        for index in self.stream.tables:
            entries[index] = entries[index] * factor
        if self.stream.tied:  # the same table makes the scores
            last = self.norms[-1]
            entries[last.index] = last.scaled(entries[last.index], 1 / factor)
        return entries


def embedding_factor(
    model: keras.Model,
    narrower: keras.Model,
    *,
    stream: Stream,
    norms: Sequence[StreamNorm],
    dimensions: np.ndarray,
) -> float:
    """Return how many times as large the embeddings of the narrower model have to be.

    Args:
        model: The whole model.
        narrower: One of its class with a narrower stream, which gets random weights.
        stream: The stream of the whole model.
        norms: The norms on it, in the order in which they are called.
        dimensions: The hidden dimensions that remain.

    Raises:
        ValueError: If the two compute something else, with weights that are 0 in all other dimensions.
    """
    whole = build_with_arguments(model, deepcopy(class_config(model)))
    values = _random_values(whole, stream, norms=norms, dimensions=dimensions)
    assign_all(whole, values)
    run = first_run(whole)
    if run is None:
        raise _refusal(model, "does not run on a few tokens")
    inputs = numbers_for(whole.input, length=run[0])
    expected = _run(whole, inputs, at=norms[0].index)
    cut = Cut(stream, tuple(norms), dimensions, (1.0,) * len(norms))
    by_width = float(np.sqrt(stream.width / len(dimensions)))
    try:
        assign_all(narrower, cut.values(values))
        ratio = np.median(expected[0][..., dimensions] / _run(narrower, inputs, at=norms[0].index)[0])
        factor = min(1.0, by_width, key=lambda candidate: abs(float(ratio) / candidate - 1))
        assign_all(narrower, cut.values(values, factor=factor))
        outputs = as_arrays(narrower(inputs, training=False))
    except FAILURES as error:  # code of the class, which may count on another width
        raise _refusal(model, f"does not run with another width: {describe(error)}") from None
    hidden_by = factor if stream.tied else 1.0
    wanted = [
        array[..., dimensions] / hidden_by if array.shape != other.shape else array
        for array, other in zip(expected[1], outputs, strict=True)
    ]
    is_precise = {whole.compute_dtype, *(weight.dtype for weight in whole.weights)} <= {"float32", "float64"}
    if not same_outputs(outputs, wanted, tolerance=ROUNDED if is_precise else COARSE):
        raise _refusal(model, "uses the width in some other way")
    return factor


def _refusal(model: keras.Model, reason: str) -> ValueError:
    return ValueError(
        f"Expected a class that computes the same with a narrower stream where all other dimensions are 0. Received: "
        f"{model.name!r} of class {type(model).__name__}, whose code {reason}. Remove hidden units, heads or blocks: "
        f"tfprune.plan_transformer."
    )


def assign_all(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Set all variables of a model."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def _run(model: keras.Model, inputs: Any, *, at: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the first input of the layer that has a variable, and the outputs of the model."""
    variable, seen = model.variables[at], []
    holder = [layer for _, layer in walk(model) if any(each is variable for each in layer.variables)][-1]
    with hooked_calls([holder], lambda layer, tensor, _: seen.append(as_arrays(tensor)[0])):
        outputs = as_arrays(model(inputs, training=False))
    return seen[0], outputs


def _random_values(
    model: keras.Model, stream: Stream, *, norms: Sequence[StreamNorm], dimensions: np.ndarray
) -> list[np.ndarray]:
    """Return random values of all variables, 0 in the other dimensions of the stream; attention is not even."""
    generator = np.random.default_rng(0)
    offsets = {norm.index: norm.offset for norm in norms}
    others = np.setdiff1d(np.arange(stream.width), dimensions)
    values = []
    for index, variable in enumerate(model.variables):
        array = as_numpy(variable)
        if keras.backend.is_float_dtype(variable.dtype):
            size = 1.0 if index in stream.tables else 0.1 if array.ndim < 2 else stream.width**-0.5
            array = size * generator.normal(size=array.shape) + (1 - offsets[index] if index in offsets else 0)
        for axis in stream.axes[index]:
            array[(slice(None),) * axis + (others,)] = 0
        values.append(array)
    return values
