"""Fashion-MNIST, with a MobileNet-like network of several widths and an Inception-like one."""

from __future__ import annotations

import keras

from sample_apps import fashion_cnn
from sample_apps.data import fashion_mnist
from sample_apps.study.digits import Data, score

__all__ = ["LOSS", "PRUNED", "Data", "build", "load", "score"]

# All of the Inception-like network; of the MobileNet-like one 1x1 convolutions and classifier, as in the paper.
PRUNED = [r"(pointwise|inception|class)[^/]*/kernel"]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BLOCKS = [(64, 2), (128, 1), (128, 2), (256, 1), (256, 1)]  # channels at width 1, and stride
MOMENTUM = 0.9  # of the running means: Keras' 0.99 lags behind what pruning changes
layers = keras.layers


def load(*, seed: int, smoke: bool) -> Data:
    x, y, test_x, test_y = fashion_cnn.synthetic() if smoke else fashion_mnist.load()
    return Data(x, y, test_x, test_y)


def build(data: Data, *, kind: str, width: float, last: int = 512) -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = mobilenet(image, width, last) if kind == "mobilenet" else inception(image, width)
    return keras.Model(image, layers.Dense(10, name="class")(layers.Flatten()(x)))


def mobilenet(x: keras.KerasTensor, width: float, last: int) -> keras.KerasTensor:
    """Stack depthwise and 1x1 convolutions; the last comes after the mean, as in MobileNetV3."""
    x = unit(layers.Conv2D(round(32 * width), 3, strides=2, padding="same", use_bias=False, name="first"), x)
    for number, (channels, stride) in enumerate(BLOCKS):
        depthwise = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)
        x = unit(depthwise, x)
        x = unit(layers.Conv2D(round(channels * width), 1, use_bias=False, name=f"pointwise_{number}"), x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Conv2D(last, 1, activation="relu", name="pointwise_last")(x)


def inception(x: keras.KerasTensor, width: float) -> keras.KerasTensor:
    """Stack two blocks of four branches at 7x7 pixels, and two at 4x4."""
    x = convolution(x, round(32 * width), 3, "stem", strides=2)
    for number in range(4):
        if number in (0, 2):
            x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        scale = width * (1 + number // 2)
        x = branches(x, [round(size * scale) for size in (32, 24, 32, 8, 16)], f"block_{number}")
    return layers.GlobalAveragePooling2D()(x)


def branches(x: keras.KerasTensor, sizes: list[int], name: str) -> keras.KerasTensor:
    single, narrow, middle, small, large = sizes
    one = convolution(x, single, 1, f"{name}_1x1")
    three = convolution(convolution(x, narrow, 1, f"{name}_3x3_narrow"), middle, 3, f"{name}_3x3")
    five = convolution(convolution(x, small, 1, f"{name}_5x5_narrow"), large, 5, f"{name}_5x5")
    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
    return layers.Concatenate()([one, three, five, convolution(pooled, large, 1, f"{name}_pool")])


def convolution(x: keras.KerasTensor, channels: int, side: int, name: str, *, strides: int = 1) -> keras.KerasTensor:
    name = f"inception_{name}"
    return unit(layers.Conv2D(channels, side, strides=strides, padding="same", use_bias=False, name=name), x)


def unit(layer: keras.layers.Layer, x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(layer(x)))
