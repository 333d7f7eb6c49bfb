"""Fashion-MNIST: 28x28 pixels of ten kinds of clothing."""

from __future__ import annotations

import gzip
from pathlib import Path

import keras
import numpy as np

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images and labels to train on, then to test on


def load(count: int | None = None) -> Data:
    """Read the files of the Debian package if it is installed; otherwise let Keras download them.

    Args:
        count: How many images to train on; None (the default) takes all.
    """
    if DEBIAN.is_dir():
        x, y = idx("train-images-idx3"), idx("train-labels-idx1")
        test_x, test_y = idx("t10k-images-idx3"), idx("t10k-labels-idx1")
    else:
        print(f"Downloading Fashion-MNIST. Without a network: apt-get install dataset-fashion-mnist, for {DEBIAN}")
        (x, y), (test_x, test_y) = keras.datasets.fashion_mnist.load_data()
    return pixels(x[:count]), y[:count], pixels(test_x), test_y


def idx(name: str) -> np.ndarray:
    """Read a file in MNIST's format: the fourth byte counts the dimensions, whose sizes follow, then come bytes."""
    content = gzip.decompress((DEBIAN / f"{name}-ubyte.gz").read_bytes())
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def pixels(images: np.ndarray) -> np.ndarray:
    return (images[..., np.newaxis] / 255).astype("float32")
