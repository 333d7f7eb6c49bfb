"""The two networks of the bench of sparse training, smaller dense ones, and what is measured and changed in a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import tfprune

Widths = tuple[int, ...]


def _cnn(widths: Widths) -> keras.Model:
    layers, (first, second, third) = keras.layers, widths
    stack = [
        layers.Conv2D(first, 3, strides=2, activation="relu"),
        layers.Conv2D(second, 3, strides=2, activation="relu"),
        *(layers.Flatten(), layers.Dense(third, activation="relu"), layers.Dense(10)),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def _cnn_size(widths: Widths) -> int:
    first, second, third = widths
    return 9 * first + 9 * first * second + 36 * second * third + 10 * third


def _lstm(widths: Widths) -> keras.Model:
    """Return a network that reads the rows of an image one after the other."""
    layers = keras.layers
    stack = [layers.Reshape((28, 28)), layers.LSTM(widths[0]), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def _lstm_size(widths: Widths) -> int:
    return 4 * widths[0] * (28 + widths[0]) + 10 * widths[0]


@dataclass(frozen=True)
class Network:
    """A network of some widths.

    Attributes:
        build: Returns the model of the widths.
        size: Returns the number of entries of its kernels.
        widths: Of the model that is pruned.
    """

    build: Callable[[Widths], keras.Model]
    size: Callable[[Widths], int]
    widths: Widths

    def dense(self) -> keras.Model:
        return self.build(self.widths)

    def small(self, sparsity: float) -> keras.Model:
        """Return the widest model of the same shape with no more weights than the sparse ones keep."""
        scaled = (tuple(max(round(scale * width), 1) for width in self.widths) for scale in np.linspace(1, 0.01, 400))
        most = (1 - sparsity) * self.size(self.widths)
        return self.build(next(widths for widths in scaled if self.size(widths) <= most))


NETWORKS = {
    "CNN": Network(_cnn, _cnn_size, (16, 32, 128)),  # two convolutions and a dense layer
    "LSTM": Network(_lstm, _lstm_size, (64,)),
}


def multiply_adds(model: keras.Model) -> int:
    """Return the multiply-adds of the forward pass of one sample of a dense model."""
    return forward(wrapped(tfprune.wrap(model)))


def wrapped(model: keras.Model) -> list[tfprune.Pruned]:
    return [layer for layer in model.layers if isinstance(layer, tfprune.Pruned)]


def forward(layers: list[tfprune.Pruned]) -> int:
    """Return the multiply-adds of the forward pass of one sample, without those of zeros."""
    return sum(int(mask.numpy().sum()) * _uses(layer) for layer in layers for mask in layer.masks.values())


def _uses(layer: tfprune.Pruned) -> int:
    """Return how often an entry of a layer's kernels is used for one sample."""
    if isinstance(layer.layer, keras.layers.LSTM):
        return int(layer.input.shape[1])
    return int(np.prod(layer.output.shape[1:-1], dtype=int))


class Watch(keras.callbacks.Callback):
    """Count entries under the masks after each step, and values that are not zero where the masks hide them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: set[int] = set()
        self.leaks = 0
        self.cost = 0.0  # multiply-adds of a sample's forward pass, added up over the steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        layers = wrapped(self.model)
        self.counts.add(sum(int(mask.numpy().sum()) for layer in layers for mask in layer.masks.values()))
        self.cost += forward(layers)
        if batch % 50 == 0:  # a look at all slots takes longer than a step
            self.leaks += sum(self._leaks(layer, name) for layer in layers for name in layer.masks)

    def _leaks(self, layer: tfprune.Pruned, name: str) -> int:
        hidden, kernel = ~layer.masks[name].numpy(), layer.kernels[name].variable
        path = kernel.path.replace("/", "_")
        slots = [slot for slot in self.model.optimizer.variables if slot.name.startswith(path + "_")]
        assert slots, f"no slots of {path} among {[slot.name for slot in self.model.optimizer.variables]}"
        return sum(int(np.count_nonzero(value.numpy()[hidden])) for value in [kernel, *slots])


class EvenGradients(tfprune.Gatherer):
    """Gradients of the same root mean square in each output of a weight, and then in each input."""

    def gather(self, subjects: Any) -> Any:
        facts = super().gather(subjects)
        for values in filter(None, facts.values()):  # no update needs them at the first step and at the end
            even = values["gradient"].reshape(-1, values["gradient"].shape[-1])  # outputs last
            for axis in (0, 1):
                sizes = np.sqrt(np.mean(even**2, axis=axis, keepdims=True))
                even = even / np.where(sizes, sizes, 1)
            values["gradient"] = even.reshape(values["gradient"].shape)
        return facts
