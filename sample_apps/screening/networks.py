"""Two networks to prune, each with its data and its epochs: dense layers on digits, a CNN on clothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras

from sample_apps import fashion_cnn
from sample_apps.data import fashion_mnist
from sample_apps.study import digits
from sample_apps.study.digits import Data


@dataclass(frozen=True)
class Network:
    """A network and how it is trained.

    Attributes:
        load: Returns the data of a seed.
        build: Returns the dense network, untrained.
        batch: Samples in a batch.
        rate: The learning rate.
        epochs: Epochs of the dense network before anything is removed, and after each removal.
    """

    load: Callable[[int], Data]
    build: Callable[[], keras.Model]
    batch: int
    rate: float
    epochs: tuple[int, int]


def dense_layers() -> keras.Model:
    layers = keras.layers
    hidden = [layers.Dense(width, activation="relu", name=f"hidden_{width}") for width in (256, 128)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, activation="softmax", name="class")])


def networks(*, samples: int, smoke: bool) -> dict[str, Network]:
    """Return the networks by name.

    Args:
        samples: Images of clothing to train on.
        smoke: Whether to run on made-up clothing, for an epoch each.
    """

    def clothes(seed: int) -> Data:  # the seed chooses the first weights and the order, not the images
        return Data(*(fashion_cnn.synthetic() if smoke else fashion_mnist.load(samples)))

    def handwriting(seed: int) -> Data:
        return digits.load(seed=seed, smoke=smoke)

    return {
        "digits": Network(handwriting, dense_layers, 64, 1e-3, (1, 1) if smoke else (30, 10)),
        "fashion": Network(clothes, fashion_cnn.build, 128, 1e-3, (1, 1) if smoke else (8, 2)),
    }
