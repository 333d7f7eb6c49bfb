"""A small picture of where the non-zero entries of a weight lie, as a PNG that suits light and dark pages."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tfprune.export.file.tflite.tensor_values import TensorValues

MAX_CELLS = 64  # along each side, at most
SHADES = 16  # of one color, from clear to solid; a PNG holds two such cells in a byte
INK = (61, 123, 196)  # readable on white and on black


def density(values: TensorValues, cells: int = MAX_CELLS) -> np.ndarray:
    """Return which part of the entries is not zero, cell by cell of a grid laid over the weight as a matrix.

    Args:
        values: A tensor of rank 2 or more.
        cells: Cells along each side, at most.

    Returns:
        Numbers in [0, 1]. Rows of the grid run along the first dimension of the weight, which holds the outputs;
        where it has one position only, as in depthwise kernels, columns run along the last dimension.

    Raises:
        ValueError: If the positions of a sparse tensor make no sense.
    """
    rows, columns = matrix_shape(values.shape)
    grid = (min(cells, rows), min(cells, columns))
    counts = np.zeros(grid[0] * grid[1], np.int64)
    for positions, _ in values.pieces():
        row, column = np.divmod(positions, max(1, columns))
        cell = (row * grid[0] // rows) * grid[1] + column * grid[1] // columns
        counts += np.bincount(cell, minlength=counts.size)
    return counts.reshape(grid) / np.outer(_lengths(rows, grid[0]), _lengths(columns, grid[1]))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns as which `density` sees a weight."""
    rows = shape[0] if shape[0] != 1 else math.prod(shape[:-1])
    return rows, math.prod(shape) // max(1, rows)


def png(values: np.ndarray) -> bytes:
    """Draw a grid of numbers in [0, 1] as a PNG, a pixel for each: clear for 0, solid for 1, square root between.

    The square root keeps sparse areas visible; a cell that is not 0 is never clear.
    """
    height, width = values.shape
    shades = np.ceil(np.sqrt(values) * (SHADES - 1)).astype(np.uint8)
    shades = np.pad(shades, ((0, 0), (0, width % 2)))
    lines = np.insert(shades[:, ::2] << 4 | shades[:, 1::2], 0, 0, axis=1)  # a line begins with its filter: none
    clear_to_solid = bytes(round(255 * shade / (SHADES - 1)) for shade in range(SHADES))
    header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)  # four bits, palette
    parts = [
        (b"IHDR", header),
        (b"PLTE", bytes(INK) * SHADES),
        (b"tRNS", clear_to_solid),
        (b"IDAT", zlib.compress(lines.astype(np.uint8).tobytes(), 9)),
        (b"IEND", b""),
    ]
    return png_file(parts)


def png_file(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG made of chunks: the name and the content of each."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _lengths(length: int, cells: int) -> np.ndarray:
    """Return how many of so many positions fall into each cell."""
    edges = [-(-cell * length // cells) for cell in range(cells + 1)] if cells else [0]
    return np.diff(edges)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
