"""The networks whose files run on devices: small, of many kinds, each with samples that tell right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

import tfprune

SPARSITY = 0.9
SAMPLES = 4  # an emulated processor is slow
PIXELS = 64
# What moves the outputs less than this when it is replaced by noise, a wrong file could get wrong unseen.
TELLING = {"one": 1e-2, "all": 0.35}


@dataclass(frozen=True)
class Network:
    """A model that was pruned in one go, without its wrappers, and samples by the names of its inputs."""

    model: keras.Model
    samples: dict[str, np.ndarray]

    def outputs(self) -> list[np.ndarray]:
        """Return what Keras gives for the samples, in the model's order."""
        outputs = self.model(self.samples if len(self.samples) > 1 else next(iter(self.samples.values())))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return [keras.ops.convert_to_numpy(output) for output in outputs]


def _mlp(width: int = 1) -> keras.Model:
    hidden = [layers.Dense(128 * width, "relu"), layers.Dense(64 * width, "relu")]
    return keras.Sequential([keras.Input((64,), name="pixels"), *hidden, layers.Dense(10)])


def _cnn(width: int = 1) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            layers.Conv2D(16 * width, 3, activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.SeparableConv2D(32 * width, 3, strides=2, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def _separable() -> keras.Model:
    """Depthwise and 1x1 kernels in one layer, with shortcuts around two of them, as Xception has it."""
    image = keras.Input((PIXELS, PIXELS, 3), name="image")
    maps = _normalized(layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False)(image), "relu")
    for width in (48, 96):
        shortcut = _normalized(layers.Conv2D(width, 1, strides=2, use_bias=False)(maps))
        maps = _normalized(layers.SeparableConv2D(width, 3, padding="same", use_bias=False)(maps), "relu")
        maps = _normalized(layers.SeparableConv2D(width, 3, padding="same", use_bias=False)(maps))
        maps = layers.Add()([layers.MaxPooling2D(3, strides=2, padding="same")(maps), shortcut])
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(maps)))


def _mobilenet() -> keras.Model:
    return keras.applications.MobileNet(
        (PIXELS, PIXELS, 3), alpha=0.25, weights=None, classes=10, classifier_activation=None
    )


def _mobilenet_v2() -> keras.Model:
    return keras.applications.MobileNetV2(
        (PIXELS, PIXELS, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )


def _mobilenet_v3() -> keras.Model:
    return keras.applications.MobileNetV3Small(
        (PIXELS, PIXELS, 3),
        alpha=0.35,
        weights=None,
        classes=10,
        classifier_activation=None,
        include_preprocessing=False,
    )


def _gated() -> keras.Model:
    """Inverted residual blocks with a squeeze-and-excite gate of dense layers."""
    image = keras.Input((PIXELS, PIXELS, 3), name="image")
    maps = _normalized(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image), "relu6")
    for width, strides in ((24, 2), (24, 1), (48, 2), (48, 1)):
        inputs, channels = maps, 4 * maps.shape[-1]
        maps = _normalized(layers.Conv2D(channels, 1, use_bias=False)(maps), "relu6")
        maps = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(maps)
        maps = _normalized(maps, "relu6")
        gate = layers.Dense(channels // 4, "relu")(layers.GlobalAveragePooling2D()(maps))
        gate = layers.Reshape((1, 1, channels))(layers.Dense(channels, "sigmoid")(gate))
        maps = _normalized(layers.Conv2D(width, 1, use_bias=False)(layers.Multiply()([maps, gate])))
        maps = layers.Add()([inputs, maps]) if inputs.shape == maps.shape else maps
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(maps)))


def _resnet() -> keras.Model:
    """Bottlenecks with a full 3x3 convolution, a projected shortcut in the first of each width."""
    image = keras.Input((32, 32, 3), name="image")
    maps = _normalized(layers.Conv2D(16, 3, padding="same", use_bias=False)(image), "relu")
    for width, strides in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        shortcut = maps
        if (strides, maps.shape[-1]) != (1, 2 * width):
            shortcut = _normalized(layers.Conv2D(2 * width, 1, strides=strides, use_bias=False)(maps))
        maps = _normalized(layers.Conv2D(width, 1, use_bias=False)(maps), "relu")
        maps = _normalized(layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(maps), "relu")
        maps = _normalized(layers.Conv2D(2 * width, 1, use_bias=False)(maps))
        maps = layers.ReLU()(layers.Add()([maps, shortcut]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(maps)))


def _normalized(maps: keras.KerasTensor, activation: str | None = None) -> keras.KerasTensor:
    maps = layers.BatchNormalization()(maps)
    return layers.Activation(activation)(maps) if activation else maps


def _lstm(width: int = 1) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((12, 6), name="window"),
            layers.LSTM(48 * width, return_sequences=True),
            layers.LSTM(32 * width),
            layers.Dense(4),
        ]
    )


def _gru(width: int = 1) -> keras.Model:
    recurrent = [layers.GRU(48 * width, return_sequences=True), layers.GRU(32 * width)]
    return keras.Sequential([keras.Input((12, 6), name="window"), *recurrent, layers.Dense(4)])


def _recurrent() -> keras.Model:
    """Two kinds of loop in one file."""
    return keras.Sequential(
        [keras.Input((12, 6), name="window"), layers.LSTM(32, return_sequences=True), layers.GRU(16), layers.Dense(4)]
    )


def _attention(width: int = 1) -> keras.Model:
    """Two inputs of different kinds and two outputs."""
    tokens, context = keras.Input((8,), dtype="int32", name="tokens"), keras.Input((5, 16), name="context")
    words = layers.Embedding(50, 32 * width)(tokens)
    mixed = layers.MultiHeadAttention(2, 16 * width)(words, layers.Dense(32 * width)(context))
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([words, mixed])))
    return keras.Model(
        [tokens, context], [layers.Dense(7, name="scores")(pooled), layers.Dense(2, name="box")(pooled)]
    )


def _several() -> keras.Model:
    """An image and a vector in, a map and scores out: the map leaves the convolutions before their pool."""
    image, state = keras.Input((PIXELS, PIXELS, 3), name="image"), keras.Input((8,), name="state")
    maps = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(image)
    maps = layers.Conv2D(64, 1, activation="relu")(maps)
    maps = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu")(maps)
    maps = layers.Conv2D(64, 1, activation="relu")(maps)
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(maps), layers.Dense(32, "relu")(state)])
    return keras.Model(
        [image, state], [layers.Conv2D(1, 1, name="map")(maps), layers.Dense(6, name="scores")(joined)]
    )


def _unet() -> keras.Model:
    """3x3 convolutions, pools, upsampling, skips by addition and concatenation; a map and scores out."""
    image = keras.Input((PIXELS, PIXELS, 3), name="image")
    fine = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    fine = layers.Conv2D(32, 3, padding="same", activation="relu")(fine)
    maps = layers.Conv2D(48, 3, padding="same", activation="silu")(layers.MaxPooling2D()(fine))
    maps = layers.Add()([maps, layers.Conv2D(48, 3, padding="same", activation="relu")(maps)])
    coarse = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(maps)
    maps = layers.Concatenate()([layers.UpSampling2D()(layers.UpSampling2D()(coarse)), fine])
    maps = layers.Conv2D(32, 3, padding="same", activation="relu")(maps)
    scores = layers.Dense(6, name="scores")(layers.GlobalAveragePooling2D()(coarse))
    return keras.Model(image, [layers.Conv2D(2, 1, name="map")(maps), scores])


MODELS: dict[str, Callable[..., keras.Model]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "separable": _separable,
    "mobilenet": _mobilenet,
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3": _mobilenet_v3,
    "gated": _gated,
    "resnet": _resnet,
    "lstm": _lstm,
    "gru": _gru,
    "recurrent": _recurrent,
    "attention": _attention,
    "several": _several,
    "unet": _unet,
}


def network(name: str, **sizes: int) -> Network:
    """Build a model by its name in MODELS, prune it, and draw samples: the same every time.

    Some are built wider than the others, by a factor `width`.

    Raises:
        ValueError: If the outputs would hardly differ with wrong weights, so that comparing them proves little.
    """
    keras.utils.set_random_seed(0)
    wrapped = tfprune.wrap(MODELS[name](**sizes))
    tfprune.update_masks(wrapped, SPARSITY)
    model = tfprune.strip(wrapped)
    _settle(model)
    net = Network(model, _draw(model, SAMPLES, seed=0))
    _check_telling(name, net)
    return net


def _settle(model: keras.Model) -> None:
    """Do to a net that was not trained what training does: keep the size of the activations, and use the biases."""
    data = np.random.default_rng(3)
    for weight in model.trainable_weights:
        if weight.path.endswith(("bias", "beta")):
            weight.assign(data.uniform(-0.1, 0.1, weight.shape))
        elif weight.ndim > 1:
            weight.assign(weight / np.sqrt(1 - SPARSITY))
    normalizations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    if not normalizations:
        return
    for layer in normalizations:
        # The statistics of one batch, nearly: with all of it an untrained net is chaotic, and rounding grows layer by
        # layer; with much less of it what the image shows fades away.
        layer.momentum = 0.05
    model(next(iter(_draw(model, 16, seed=1).values())), training=True)


def _draw(model: keras.Model, rows: int, *, seed: int) -> dict[str, np.ndarray]:
    data = np.random.default_rng(seed)
    return {tensor.name: _values(data, (rows, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs}


def _values(data: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype.startswith("int"):
        return data.integers(0, 50, shape, dtype)
    values = data.uniform(-1, 1, shape)
    if len(shape) == 4:  # patches as well: after a pool over the image, samples of noise alone look the same
        rows, height, width, channels = shape
        patches = data.uniform(-1, 1, (rows, 4, 4, channels))
        values = values / 2 + patches.repeat(height // 4, axis=1).repeat(width // 4, axis=2) / 2
    return values.astype("float32")


def _check_telling(name: str, net: Network) -> None:
    """Shuffle the first, a middle and the last kernel, and then all, and see whether the outputs move."""
    right = net.outputs()
    weights = net.model.trainable_weights
    kernels = [weight for weight in weights if weight.ndim > 1 and not weight.path.endswith("bias")]
    for what, some_kernels in (
        *(("one", [kernels[place]]) for place in (0, len(kernels) // 2, -1)),
        ("all", kernels),
    ):
        before = [keras.ops.convert_to_numpy(kernel) for kernel in some_kernels]
        for kernel, values in zip(some_kernels, before, strict=True):
            kernel.assign(np.random.default_rng(2).permutation(values.ravel()).reshape(values.shape))
        moved = max(
            np.abs(wrong - output).max() / np.abs(output).max()
            for wrong, output in zip(net.outputs(), right, strict=True)
        )
        for kernel, values in zip(some_kernels, before, strict=True):
            kernel.assign(values)
        if moved < TELLING[what]:
            names = ", ".join(kernel.path for kernel in some_kernels[:1])
            raise ValueError(f"Expected outputs of {name!r} that tell. Received: {moved:.2g} from {names} shuffled")
