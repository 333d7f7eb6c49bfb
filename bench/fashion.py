"""Fashion-MNIST from Debian's package: apt-get install dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def is_there() -> bool:
    """Tell whether the images are installed; say on the error output what to do if they are not."""
    if not FOLDER.is_dir():
        print(f"skipped: no Fashion-MNIST in {FOLDER} (apt-get install dataset-fashion-mnist)", file=sys.stderr)
    return FOLDER.is_dir()


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, (rows, 28, 28, 1) in [0, 1], and the labels of "train" or "t10k"."""
    images = gzip.decompress((FOLDER / f"{name}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FOLDER / f"{name}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return (pixels / np.float32(255)).astype(np.float32), np.frombuffer(labels, np.uint8, offset=8)
