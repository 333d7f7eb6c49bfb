"""The rows of numbers that a weight multiplies, taken from the tensor that an operator reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfprune.export.file.tflite import schema

Pick = Callable[[int], np.ndarray]  # how many rows there are -> the indices of those to take
Rows = Callable[[np.ndarray, Pick], np.ndarray]  # the tensor -> rows, of shape (groups, rows, inputs)


def vectors(inputs: int) -> Rows:
    """Return a function from a tensor to the vectors along its last axis."""

    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        flat = x.reshape(-1, inputs)
        return flat[np.newaxis, pick(len(flat))]

    return rows


def patches(options: schema.Conv2DOptionsT, shape: tuple[int, ...], *, groups: int) -> Rows:
    """Return a function from feature maps to the patches that a kernel of that shape, outputs first, sees."""
    is_same = options.padding == schema.Padding.SAME
    steps = options.strideH, options.strideW
    rates = max(options.dilationHFactor, 1), max(options.dilationWFactor, 1)

    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        spans = [
            _span(length, (taps - 1) * rate + 1, step, is_same)
            for length, taps, rate, step in zip(x.shape[1:3], shape[1:3], rates, steps, strict=True)
        ]
        paddings = [padding for padding, _ in spans]
        padded = np.pad(x, [(0, 0), *paddings, (0, 0)]) if np.any(paddings) else x
        counts = len(x), spans[0][1], spans[1][1]
        image, row, column = np.unravel_index(pick(int(np.prod(counts))), counts)
        down = row[:, None] * steps[0] + np.arange(shape[1]) * rates[0]
        right = column[:, None] * steps[1] + np.arange(shape[2]) * rates[1]
        seen = padded[image[:, None, None], down[:, :, None], right[:, None, :]]
        seen = seen.reshape(len(image), shape[1] * shape[2], groups, shape[3])
        return np.moveaxis(seen, 2, 0).reshape(groups, len(image), -1)

    return rows


def _span(length: int, reach: int, step: int, is_same: bool) -> tuple[tuple[int, int], int]:
    """Return the zeros before and after an axis, and the number of outputs along it."""
    if not is_same:
        return (0, 0), (length - reach) // step + 1
    count = -(-length // step)
    missing = max((count - 1) * step + reach - length, 0)
    return (missing // 2, missing - missing // 2), count


def transposed_patches(
    options: schema.TransposeConvOptionsT, shape: tuple[int, ...], *, lengths: tuple[int, ...]
) -> Rows:
    """Return the same for a transposed convolution: the inputs that each output adds up, 0 where there is none."""
    is_same = options.padding == schema.Padding.SAME
    steps = options.strideH, options.strideW

    def along(axis: int, output: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        taps, step = shape[1 + axis], steps[axis]
        missing = max((length - 1) * step + taps - lengths[axis], 0) if is_same else 0
        place = output[:, None] + missing // 2 - np.arange(taps)
        source, rest = np.divmod(place, step)
        is_there = (rest == 0) & (source >= 0) & (source < length)
        return np.where(is_there, source, 0), is_there

    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        counts = len(x), *lengths
        image, row, column = np.unravel_index(pick(int(np.prod(counts))), counts)
        (down, is_down), (right, is_right) = along(0, row, x.shape[1]), along(1, column, x.shape[2])
        seen = x[image[:, None, None], down[:, :, None], right[:, None, :]]
        seen = seen * (is_down[:, :, None] & is_right[:, None, :])[..., None]
        return seen.reshape(1, len(image), -1)

    return rows


def steps_before(axis: int, columns: slice, *, is_reversed: bool) -> Rows:
    """Return a function from the outputs of a recurrent operator to those of one step of time before.

    Args:
        axis: The axis of time.
        columns: Which entries of the last axis are outputs of this direction.
        is_reversed: Whether it reads time from the end.
    """

    def rows(x: np.ndarray, pick: Pick) -> np.ndarray:
        states = np.moveaxis(x, axis, 0)[..., columns]
        first = np.zeros_like(states[:1])  # the state before the first step
        before = np.concatenate([states[1:], first] if is_reversed else [first, states[:-1]])
        before = np.moveaxis(before, 0, axis)
        flat = before.reshape(-1, before.shape[-1])
        return flat[np.newaxis, pick(len(flat))]

    return rows
