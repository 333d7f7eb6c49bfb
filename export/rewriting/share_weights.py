"""Weight sharing: fewer distinct values in each weight, so that a packed file is smaller. Zeros stay zeros."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.base.spec import check_count
from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite import schema

MAX_LEVELS = 256  # distinct int8 values
DEFAULT_LEVELS = 32


def share_weights(source: Source, *, levels: int = DEFAULT_LEVELS) -> bytes:
    """Reduce the values of each 8-bit weight to a few, chosen for the least squared error.

    Use it before `pack`: the file keeps its form and size, any runtime runs it as before, and the packed file is
    smaller. Check the accuracy afterwards.

    Args:
        source: A path, or the bytes of a .tflite file with 8-bit weights (`quantize="int8"` or `"dynamic"`), dense or
            sparse.
        levels: The number of distinct values in each weight, 0 included, 2 to 256. Default 32. A weight without
            zeros has one value less.

    Returns:
        The bytes of the changed file, which is not packed.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or `levels` is not an integer.
        ValueError: If the file cannot be read, is not a whole TFLite file, has no weights of 8 bits, or `levels` is
            out of range; or (also an ImportError) if ai-edge-litert is not installed.

    Reference:
        Han, S., Mao, H. and Dally, W. J. Deep Compression. ICLR 2016. arXiv:1510.00149, section 3.

    Example:
        >>> pack = tfprune.export.pack
        >>> len(pack(share_weights("digits_int8.tflite", levels=16))) < len(pack("digits_int8.tflite"))
        True
    """
    check_levels(levels)
    with ModelFile.open(source).edit() as edit:
        share_values(edit.model, levels=levels)
    return edit.file.content


def share_values(model: schema.ModelT, *, levels: int) -> bool:
    """Share the values of the 8-bit weights of an open file, as `share_weights` does; return True.

    Raises:
        ValueError: If it has no weights of 8 bits.
    """
    indices = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or () if _is_weight(tensor)}
    buffers = [model.buffers[index] for index in sorted(indices)]
    filled = [buffer for buffer in buffers if buffer.data is not None and len(buffer.data)]
    if not filled:
        raise ValueError(
            "Expected a file with 8-bit weights. Received: one without. Export it with quantize='int8' or 'dynamic'."
        )
    for buffer in filled:
        buffer.data = share(buffer.data.view(np.int8), levels).view(np.uint8)
    return True


def check_levels(levels: Any) -> None:
    """Refuse a number of distinct values, 0 included, that weights of 8 bits cannot have.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is not from 2 to 256.
    """
    check_count(levels, "levels", least=2, most=MAX_LEVELS)


def share(values: np.ndarray, levels: int) -> np.ndarray:
    """Replace each non-zero value by one of a few.

    Args:
        values: int8.
        levels: The number of distinct values to keep at most, 0 included.

    Returns:
        int8, of the same shape.

    Example:
        >>> share(np.int8([0, 10, 11, 12, -50, 0]), 3).tolist()
        [0, 11, 11, 11, -50, 0]
    """
    distinct, counts = np.unique(values[values != 0], return_counts=True)
    groups = levels - 1  # beside 0
    if len(distinct) <= groups:
        return values
    table = np.zeros(256, np.int8)
    bounds = _bounds(distinct.astype(float), counts, groups)
    for start, end in zip(bounds, bounds[1:], strict=False):
        group = slice(start, end)
        table[distinct[group].view(np.uint8)] = np.rint(np.average(distinct[group], weights=counts[group]))
    return table[values.view(np.uint8)]


def _bounds(values: np.ndarray, counts: np.ndarray, groups: int) -> list[int]:
    """Cut sorted values into groups of the least squared error: k-means in one dimension, exact."""
    sums = [np.concatenate([[0], np.cumsum(counts * values**power)]) for power in (0, 1, 2)]
    start, end = np.triu_indices(len(values) + 1, 1)
    count, total, squares = (of_power[end] - of_power[start] for of_power in sums)
    errors = np.full((len(values) + 1,) * 2, np.inf)  # of each group, by where it starts and ends
    errors[start, end] = squares - total**2 / count
    least, starts = errors[0], []
    for _ in range(groups - 1):
        extended = least[:, None] + errors
        starts.append(extended.argmin(axis=0))
        least = extended.min(axis=0)
    bounds = [len(values)]
    for before in reversed(starts):
        bounds.append(int(before[bounds[-1]]))
    return [0, *reversed(bounds)]


def _is_weight(tensor: Any) -> bool:
    if tensor.type != schema.TensorType.INT8 or tensor.isVariable or tensor.shape is None or len(tensor.shape) < 2:
        return False
    if tensor.sparsity is not None:
        return True  # what is not stored is 0, and its scales stand where DENSIFY unpacks it
    zeros = tensor.quantization.zeroPoint if tensor.quantization is not None else None
    return zeros is not None and not np.any(zeros)
