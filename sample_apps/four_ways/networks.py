"""Two networks of depthwise convolutions for small images, which are the ones that lose most in 8 bits."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

Tensor = keras.KerasTensor
CLASSES = 10


def mobilenet(shape: tuple[int, ...], width: int) -> keras.Model:
    """Return a network like MobileNetV2: inverted residual blocks, which widen six times."""
    inputs = keras.Input(shape, name="image")
    tensor = unit(inputs, conv(width, 3, strides=2))
    for filters, strides, repeats in ((2, 2, 1), (4, 1, 2), (6, 2, 2)):
        for block in range(repeats):
            hidden = unit(tensor, conv(6 * tensor.shape[-1], 1))
            hidden = unit(hidden, depthwise(strides if block == 0 else 1))
            hidden = layers.BatchNormalization(momentum=0.95)(conv(filters * width, 1)(hidden))
            tensor = layers.Add()([tensor, hidden]) if block else hidden
    return classifier(inputs, unit(tensor, conv(24 * width, 1)))


def depthwise_separable(shape: tuple[int, ...], width: int) -> keras.Model:
    """Return a small network in the shape of MLPerf Tiny's DS-CNN: a convolution, and four separable ones."""
    inputs = keras.Input(shape, name="image")
    tensor = unit(inputs, conv(4 * width, 3, strides=2))
    for _ in range(4):
        tensor = unit(unit(tensor, depthwise(1)), conv(4 * width, 1))
    return classifier(inputs, tensor)


def unit(tensor: Tensor, layer: keras.layers.Layer) -> Tensor:
    return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.95)(layer(tensor)))


def conv(filters: int, size: int, strides: int = 1) -> keras.layers.Layer:
    return layers.Conv2D(filters, size, strides, padding="same", use_bias=False)


def depthwise(strides: int) -> keras.layers.Layer:
    return layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)


def classifier(inputs: Tensor, tensor: Tensor) -> keras.Model:
    pooled = layers.GlobalAveragePooling2D()(tensor)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", name="class")(pooled))


NETWORKS: dict[str, Callable[[tuple[int, ...], int], keras.Model]] = {
    "like MobileNetV2": mobilenet,
    "small depthwise net": depthwise_separable,
}
