"""Rounding: the integers that weights become in a file, and the grids of real numbers that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfprune.base.spec import Spec, check_count

BLOCK = 32  # weights that share a scale in the 4-bit weights of a language model's file
SCALE_FACTORS = np.linspace(1, 0.5, 26)  # of the scale that clips nothing, tried for 4 bits


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that the weights of a matrix may have.

    Attributes:
        steps: The distance of two neighboring values, of shape (outputs, inputs) or (outputs, 1); infinite where 0 is
            the only value.
        largest: The largest integer; infinite if none is clipped.
        anchors: Where a weight has the largest integer, of shape (outputs, inputs). The scale of a file follows from
            the largest weight, so that these make it the one of the grid. None for none.
    """

    steps: np.ndarray
    largest: float = np.inf
    anchors: np.ndarray | None = None

    def nearest(self, weights: np.ndarray, inputs: slice = slice(None)) -> np.ndarray:
        """Return the nearest values of the grid.

        Args:
            weights: Weights of some inputs, of shape (outputs, inputs).
            inputs: Which inputs they are.
        """
        steps = self.steps if self.steps.shape[1] == 1 else self.steps[:, inputs]
        finite = np.where(np.isfinite(steps), steps, 1)
        integers = np.where(np.isfinite(steps), np.clip(np.rint(weights / finite), -self.largest, self.largest), 0)
        if self.anchors is not None:
            integers = np.where(self.anchors[:, inputs], np.copysign(self.largest, weights), integers)
        return integers * finite


@dataclass(frozen=True)
class Rounding(Spec):
    """The integers that weights become in a file, for `prune_weights`.

    Use it with `criterion="sparsegpt"` if the sparse model will be exported with 8-bit or 4-bit weights: the
    remaining weights then make up for the zeros and for the rounding together, and the file gets exactly these
    integers.

    Args:
        bits: 8, for `quantize="int8"` and `"dynamic"`, or 4, for `quantize="int4"`.
        block: The number of inputs of an output that share a scale: 32 for the 4-bit weights that `to_generator`
            writes; rows whose length is not a multiple of it then get 8 bits, as in the file. None (the default) for
            one scale for each output, as in the files of `to_tflite`.

    Raises:
        TypeError: If `bits` is not an integer.
        ValueError: If no file has such weights.

    Example:
        >>> import keras
        >>> from tfprune import prune_weights
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> samples = keras.random.normal((64, 8), seed=0)
        >>> sparse, report = prune_weights(model, samples, 0.5, criterion="sparsegpt", rounding=Rounding(4))
        >>> column = keras.ops.convert_to_numpy(sparse.layers[0].kernel)[:, 0]
        >>> integers = column / np.abs(column).max() * 7
        >>> bool(np.allclose(integers, integers.round(), atol=1e-4))
        True

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774, section 3.5; Frantar et al., 2022, "GPTQ",
        arXiv:2210.17323.
    """

    bits: int
    block: int | None = None

    def __post_init__(self) -> None:
        check_count(self.bits, "bits", least=1)
        if (self.bits, self.block) not in ((8, None), (4, None), (4, BLOCK)):
            raise ValueError(
                f"Expected `bits` to be 8 or 4, and `block` to be None, or {BLOCK} with bits=4, as in files. "
                f"Received: bits={self.bits}, block={self.block!r}."
            )


def grid_of(weights: np.ndarray, rounding: Rounding) -> Grid:
    """Return the grid on which a matrix loses least when each weight is rounded to its nearest value.

    Args:
        weights: The weights, of shape (outputs, inputs), without a bias.
        rounding: The integers that they become.

    Example:
        >>> weights = np.array([[0.7, -0.29, 0.0]])
        >>> grid_of(weights, Rounding(4)).nearest(weights).round(3)
        array([[ 0.7, -0.3,  0. ]])
    """
    length = rounding.block or weights.shape[1]
    is_blocked = rounding.block is not None and weights.shape[1] % length == 0
    bits = 8 if rounding.block is not None and not is_blocked else rounding.bits
    rows = weights.reshape(-1, length) if is_blocked else weights
    largest = 2 ** (bits - 1) - 1
    widest = np.abs(rows).max(axis=1, initial=0)
    steps = _best_steps(rows, widest / largest, largest=largest) if bits == 4 else widest / largest
    steps = _as_stored(steps, is_half=is_blocked)
    steps = np.where(steps > 0, steps, np.inf)
    anchors = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(anchors, np.abs(rows).argmax(axis=1)[:, np.newaxis], np.isfinite(steps)[:, np.newaxis], 1)
    columns = np.repeat(steps.reshape(len(weights), -1), length if is_blocked else 1, axis=1)
    return Grid(columns, largest, anchors.reshape(weights.shape))


def _best_steps(rows: np.ndarray, widest: np.ndarray, *, largest: int) -> np.ndarray:
    """Return the step of each row with the least squared error; the largest weight gets the largest integer."""
    best, least = widest, np.full(len(rows), np.inf)
    for factor in SCALE_FACTORS:
        steps = np.where(widest > 0, widest * factor, 1)[:, np.newaxis]
        left = np.square(np.clip(np.rint(rows / steps), -largest, largest) * steps - rows).sum(axis=1)
        best, least = np.where(left < least, widest * factor, best), np.minimum(left, least)
    return best


def _as_stored(steps: np.ndarray, *, is_half: bool) -> np.ndarray:
    """Return steps as a file holds them: as float32, or as float16 of 8 bits, which is what XNNPACK reads."""
    if not is_half:
        return steps.astype(np.float32).astype(np.float64)
    bits = steps.astype(np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float16).astype(np.float64)
