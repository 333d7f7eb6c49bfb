"""Small pictures of samples for a page: images as PNG, series as lines."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from tfprune.base.html import image
from tfprune.export.file.inspecting.heatmap import png_file

LARGEST_SIDE = 64  # pixels of an image; larger ones are thinned out
MOST_CHANNELS = 16  # of a series; more columns make it an image
SHORTEST_SERIES = 16
COLUMNS = 120  # of a drawn series, each from its lowest to its highest value
WIDTH, HEIGHT = 160, 48  # pixels of a drawn series
SHOWN_SIDE = 84  # pixels at which an image is shown


def sample_picture(sample: np.ndarray, alt: str) -> str:
    """Return HTML that shows a sample; empty if it has the shape of neither an image nor a series.

    Args:
        sample: Of shape (height, width), (height, width, 1), (height, width, 3), (steps,) or (steps, channels).
        alt: Its description, as HTML.
    """
    if sample.dtype.kind not in "biuf" or not sample.size or not np.isfinite(sample).all():
        return ""
    values = sample.astype(np.float64)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_series = values.ndim == 2 and values.shape[1] <= MOST_CHANNELS < values.shape[0]
    if values.ndim == 2 and not is_series or values.ndim == 3 and values.shape[2] == 3:
        return _image(values, alt)
    if is_series or (values.ndim == 1 and len(values) >= SHORTEST_SERIES and sample.dtype.kind == "f"):
        return _series(values.reshape(len(values), -1), alt)
    return ""


def _image(values: np.ndarray, alt: str) -> str:
    step = -(-max(values.shape[:2]) // LARGEST_SIDE)
    small = _unit(values[::step, ::step])
    pixels = np.round(255 * small).astype(np.uint8)
    height, width = pixels.shape[:2]
    lines = np.insert(pixels.reshape(height, -1), 0, 0, axis=1)  # a line begins with its filter: none
    color = 2 if pixels.ndim == 3 else 0
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    scale = SHOWN_SIDE / max(height, width)
    return image(png_file(parts), alt, size=(round(height * scale), round(width * scale)))


def _series(values: np.ndarray, alt: str) -> str:
    """Draw each channel over the same axes."""
    unit = _unit(values)
    lines = []
    for channel in unit.T:
        parts = np.array_split(channel, min(COLUMNS, len(channel)))
        heights = [end for part in parts for end in (part.min(), part.max())]
        across = np.linspace(0, WIDTH, len(heights))
        points = " ".join(f"{x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in zip(across, heights, strict=True))
        lines.append(f'<polyline points="{points}" style="fill:none;stroke:var(--values);stroke-width:1"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{alt}">'
        f"{''.join(lines)}</svg>"
    )


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1.0)
