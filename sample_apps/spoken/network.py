"""MLPerf Tiny's network for keyword spotting (DS-CNN), for log-mel clips of a second."""

from __future__ import annotations

import keras
from keras import layers

from sample_apps.spoken.log_mel import BANDS, FRAMES

Tensor = keras.KerasTensor


def ds_cnn(classes: int, width: int) -> keras.Model:
    """Return a convolution and four depthwise separable ones of so many filters."""
    inputs = keras.Input((FRAMES, BANDS, 1), name="clip")
    tensor = unit(inputs, layers.Conv2D(width, (10, 4), 2, padding="same", use_bias=False))
    for _ in range(4):
        tensor = unit(tensor, layers.DepthwiseConv2D(3, padding="same", use_bias=False))
        tensor = unit(tensor, layers.Conv2D(width, 1, use_bias=False))
    pooled = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(tensor))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="language")(pooled))


def unit(tensor: Tensor, layer: keras.layers.Layer) -> Tensor:
    # Keras' default momentum of 0.99 needs more steps than a short fine-tuning has, until statistics are right.
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(tensor)))
