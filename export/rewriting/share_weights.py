"""Weight sharing: fewer different values per weight, which packing makes a smaller file of. Zeros stay zeros."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.base.spec import check_count
from tfprune.export.file.files.unpack import as_bytes
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import load_objects, save_objects

MAX_LEVELS = 255  # different int8 values
DEFAULT_LEVELS = 32


def share_weights(data: bytes, *, levels: int = DEFAULT_LEVELS) -> bytes:
    """Reduce the distinct non-zero values of each 8-bit weight to a few, those with the least squared error.

    The file keeps its form and size, and any runtime runs it as before; `pack` then makes it smaller. Check the
    accuracy afterwards: 32 levels cost pruned Fashion-MNIST classifiers nothing measurable.

    Args:
        data: A plain .tflite file with 8-bit weights (`quantize="int8"` or `"dynamic"`), dense or sparse.
        levels: Different non-zero values in a weight at most, 1 to 255.

    Returns:
        The changed file.

    Raises:
        TypeError: If `data` is not bytes, or `levels` is not an integer.
        ValueError: If the bytes are not a whole TFLite file, none of its weights has 8 bits, or `levels` is out of
            range; or (also an ImportError) if ai-edge-litert is not installed.

    Reference:
        Han, S., Mao, H. and Dally, W. J. Deep Compression. ICLR 2016. arXiv:1510.00149, section 3.

    Example:
        >>> data = Path("digits_int8.tflite").read_bytes()
        >>> pack = tfprune.export.pack
        >>> len(pack(share_weights(data, levels=16))) < len(pack(data))
        True
    """
    check_levels(levels)
    model = load_objects(as_bytes(data))
    indices = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or () if _is_weight(tensor)}
    buffers = [model.buffers[index] for index in sorted(indices)]
    filled = [buffer for buffer in buffers if buffer.data is not None and len(buffer.data)]
    if not filled:
        raise ValueError(
            "Expected a file with 8-bit weights. Received: one without. Export it with quantize='int8' or 'dynamic'."
        )
    for buffer in filled:
        buffer.data = share(buffer.data.view(np.int8), levels).view(np.uint8)
    return save_objects(model)


def check_levels(levels: Any) -> None:
    """Refuse a number of values that 8 bits cannot tell apart from zero.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of 1 to 255.
    """
    check_count(levels, "levels", least=1, most=MAX_LEVELS)


def share(values: np.ndarray, levels: int) -> np.ndarray:
    """Replace each non-zero value by one of a few.

    Args:
        values: int8.
        levels: How many different non-zero values may be left.

    Returns:
        int8, of the same shape.

    Example:
        >>> share(np.int8([0, 10, 11, 12, -50, 0]), 2).tolist()
        [0, 11, 11, 11, -50, 0]
    """
    found, counts = np.unique(values[values != 0], return_counts=True)
    if len(found) <= levels:
        return values
    table = np.zeros(256, np.int8)
    bounds = _bounds(found.astype(float), counts, levels)
    for start, end in zip(bounds, bounds[1:], strict=False):
        group = slice(start, end)
        table[found[group].view(np.uint8)] = np.rint(np.average(found[group], weights=counts[group]))
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
