"""The norms on a residual stream: how they scale, and what data make of each hidden dimension in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.compact.narrowing.stream import Stream
from tfprune.keras_models.models.layer_hooks import hooked_calls
from tfprune.keras_models.models.layers import as_numpy, sublayers, walk
from tfprune.keras_models.models.token_ids import without_padding

PROBES = 3  # vectors on which a norm is read
ROUNDING = 0.05  # of a norm in 16-bit floats


@dataclass(frozen=True, eq=False)
class StreamNorm:
    """A norm that divides by the root mean square of a stream, and multiplies.

    Attributes:
        layer: The layer.
        index: Its scale among the variables of the model.
        offset: The number that its code adds to the scale: 1 in models of Gemma's kind, else 0.
    """

    layer: keras.layers.Layer
    index: int
    offset: int

    def scaled(self, scale: np.ndarray, factor: float) -> np.ndarray:
        """Return the scale with which the outputs are `factor` times as large."""
        return (scale + self.offset) * factor - self.offset


@dataclass(eq=False)
class NormStatistics:
    """What the calls of a norm show, dimension by dimension.

    Attributes:
        vectors: How many vectors were seen.
        outputs: The sum of the sizes of its outputs.
        squares: The sum of the squares of its inputs, each as a fraction of the mean square of its vector.
    """

    vectors: int = 0
    outputs: Any = 0.0
    squares: Any = 0.0

    def add(self, inputs: Any, outputs: Any, masks: Sequence[np.ndarray]) -> None:
        inputs, outputs = (_vectors(tensor, masks) for tensor in (inputs, outputs))
        square = np.square(inputs)
        self.vectors += len(square)
        self.outputs = self.outputs + np.abs(outputs).sum(axis=0)
        self.squares = self.squares + (square / np.maximum(square.mean(axis=1, keepdims=True), 1e-30)).sum(axis=0)


@dataclass(eq=False)
class ObservedNorms:
    """The statistics of norms, in the order in which a model calls them first.

    Set `masks` before each batch to where its texts have tokens; padding is left out.
    """

    by_layer: dict[int, NormStatistics] = field(default_factory=dict)
    masks: Sequence[np.ndarray] = ()

    def importance(self) -> np.ndarray:
        """Return how large each dimension is in the outputs of all norms, on average over vectors."""
        return np.sum([each.outputs / each.vectors for each in self.by_layer.values()], axis=0)

    def energy(self, norm: StreamNorm, dimensions: np.ndarray) -> float:
        """Return the part of the squares of a norm's inputs that is in some dimensions."""
        squares = self.by_layer[id(norm.layer)].squares
        return float(squares[dimensions].sum() / squares.sum())


@contextmanager
def observed(norms: Sequence[StreamNorm]) -> Iterator[ObservedNorms]:
    """Observe all calls of norms within the context."""
    statistics = ObservedNorms()

    def add(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        statistics.by_layer.setdefault(id(layer), NormStatistics()).add(inputs, outputs, statistics.masks)

    with hooked_calls([norm.layer for norm in norms], add):
        yield statistics


def stream_norms(model: keras.Model, stream: Stream) -> list[StreamNorm]:
    """Return the norms on the stream of a model.

    Raises:
        ValueError: If it has none, or others than those that divide by the root mean square.
    """
    numbers = {id(variable): index for index, variable in enumerate(model.variables)}
    norms = []
    for path, layer in walk(model):
        own = [numbers[id(variable)] for variable in layer.variables] if not sublayers(layer) else []
        if not own or any(len(model.variables[index].shape) != 1 or not stream.axes[index] for index in own):
            continue
        offset = _offset(layer, stream.width) if len(own) == 1 else None
        if offset is None:
            raise _refusal(model, f"{path} of class {type(layer).__name__}")
        norms.append(StreamNorm(layer, own[0], offset))
    if not norms:
        raise _refusal(model, "none")
    return norms


def _refusal(model: keras.Model, received: str) -> ValueError:
    return ValueError(
        f"Expected norms that divide by the root mean square, as those of Gemma, Qwen3 and Mistral do. Received: "
        f"{received} in {model.name!r}. Remove hidden units, heads or blocks of this model: tfprune.plan_transformer."
    )


def _offset(layer: keras.layers.Layer, width: int) -> int | None:
    """Return what a norm adds to its scale; None for a layer that computes something else."""
    inputs = np.random.default_rng(0).normal(size=(PROBES, width)) + 1.0  # so that a mean that is subtracted shows
    outputs = _vectors(layer(keras.ops.convert_to_tensor(inputs, dtype=layer.compute_dtype)))
    factors = outputs / (inputs / np.sqrt(np.square(inputs).mean(axis=1, keepdims=True)))
    scale = as_numpy(layer.variables[0]).astype(np.float32)
    for offset in (0, 1):
        if np.allclose(factors, scale + offset, rtol=ROUNDING, atol=ROUNDING / 5):
            return offset
    return None


def _vectors(tensor: Any, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
    array = without_padding(np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))), masks)
    return array.reshape(-1, array.shape[-1])
