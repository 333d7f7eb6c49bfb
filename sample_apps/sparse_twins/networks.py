"""A ResNet that names a piece of clothing, and a U-Net that finds pieces of clothing in a scene."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

Tensor = keras.KerasTensor
BODY = "body"  # what the layers are called that lose weights: all but the first one and the last one


def resnet(shape: tuple[int, ...], classes: int, width: int) -> keras.Model:
    """Return a residual network of three stages, for small images; the first convolution has a stride of 2."""
    image = keras.Input(shape, name="image")
    x = layers.ReLU()(conv(image, width, strides=2, name="stem"))
    for stage, channels in enumerate((width, 2 * width, 4 * width)):
        strides = 2 if stage else 1
        y = layers.ReLU()(conv(x, channels, strides=strides, name=f"{BODY}_{stage}_first"))
        y = conv(y, channels, name=f"{BODY}_{stage}_second")
        if stage:
            x = conv(x, channels, size=1, strides=strides, name=f"{BODY}_{stage}_skip")
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(image, layers.Dense(classes, name="head")(layers.GlobalAveragePooling2D()(x)))


def unet(shape: tuple[int, ...], classes: int, width: int) -> keras.Model:
    """Return a U-Net of three levels; its first convolution has a stride of 2, and its outputs are enlarged."""
    image = keras.Input(shape, name="image")
    x = layers.ReLU()(conv(image, width, strides=2, name="stem"))
    x = layers.ReLU()(conv(x, width, name=f"{BODY}_down_0"))
    skips = []
    for level in (1, 2):
        skips.append(x)
        x = twice(layers.MaxPooling2D()(x), 2**level * width, name=f"{BODY}_down_{level}")
    for level in (1, 0):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skips.pop()])
        x = twice(x, 2**level * width, name=f"{BODY}_up_{level}")
    x = layers.Conv2D(classes, 1, name="head")(x)
    return keras.Model(image, layers.UpSampling2D(2, interpolation="bilinear")(x))


def twice(x: Tensor, channels: int, *, name: str) -> Tensor:
    for part in ("first", "second"):
        x = layers.ReLU()(conv(x, channels, name=f"{name}_{part}"))
    return x


def conv(x: Tensor, channels: int, *, name: str, size: int = 3, strides: int = 1) -> Tensor:
    x = layers.Conv2D(channels, size, strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=0.95)(x)


Build = Callable[[tuple[int, ...], int, int], keras.Model]
