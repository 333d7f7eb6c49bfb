"""Cross-layer equalization: scale the channels between two layers without changing the outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.graph import Call, Graph, check_graph, flatten, trace
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.quantizing.rules import KERNELS, activation_of

_log = logging.getLogger(__name__)
SCALES = ("linear", "relu", "leaky_relu")  # f(s x) = s f(x) for s > 0
PASSES = (  # the same for each channel, whatever its size
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D, layers.Cropping2D, layers.UpSampling2D),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.Identity, layers.Flatten),
)
SWEEPS, CLOSE = 100, 1e-3  # until no channel moves by more than this factor
DEAD = 1e-6  # of the largest channel's weights: such a channel has no size to go by


def equalize(model: keras.Model) -> keras.Model:
    """Scale channels so that their weights have the same range in both layers around them, with the same outputs.

    Use it before int8 quantization if `tfprune.export.quantization_error` shows channels of very different ranges; it
    helps little otherwise. It needs no data and no training. An int8 tensor has 256 values for all its channels, so a
    channel with small activations is represented by few of them. If the largest weight of a channel of a convolution
    or Dense layer is r1, and r2 in the layer that reads it, the channel is divided by s = sqrt(r1 / r2) in the first,
    biases included, and multiplied by s in the second (equation 11). A batch normalization between them absorbs the
    division. Zeros stay zeros, and layers keep their names.

    Args:
        model: A built Sequential or Functional model, wrapped or plain. It is left unchanged. Layers before a ReLU6
            are skipped: it clips all channels at the same value.

    Returns:
        An uncompiled plain copy. Skipped layers and the reasons are logged.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not a graph, or no two layers can be equalized.

    Reference:
        Nagel, M., van Baalen, M., Blankevoort, T. and Welling, M. Data-Free Quantization Through Weight Equalization
        and Bias Correction. ICCV 2019. arXiv:1906.04721, section 4.1.

    Example:
        >>> stack = [keras.layers.Dense(3, activation="relu", name="first"), keras.layers.Dense(2, name="second")]
        >>> model = equalize(keras.Sequential([keras.Input((4,)), *stack]))
        >>> first, second = (np.asarray(model.get_layer(name).kernel) for name in ("first", "second"))
        >>> bool(np.allclose(np.abs(first).max(axis=0), np.abs(second).max(axis=1), rtol=1e-3))
        True
    """
    check_graph(model)
    copy = plain_copy(Anatomy.of(model))
    pairs, reasons = _pairs(trace(flatten(copy)))
    for name, reason in reasons.items():
        _log.info("%s is not equalized: %s", name, reason)
    if not pairs:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no convolution or Dense layer"
        raise ValueError(
            f"Expected layers in {model.name!r} whose channels another layer reads alone. Received none. {listed}."
        )
    _equalize(pairs)
    _log.info("equalized the channels between %s pairs of layers in %r", len(pairs), model.name)
    return copy


@dataclass
class _Pair:
    """Two layers with channels between them that nothing else reads."""

    first: keras.layers.Layer
    norm: keras.layers.BatchNormalization | None
    second: keras.layers.Layer


def _pairs(graph: Graph) -> tuple[list[_Pair], dict[str, str]]:
    """Return the pairs of a graph, and why other layers are in none as the first."""
    calls: dict[int, int] = {}
    for call in graph.calls:
        calls[id(call.layer)] = calls.get(id(call.layer), 0) + 1
    pairs, reasons = [], {}
    for call in graph.calls:
        if type(call.layer) in KERNELS:
            pair = _pair(graph, call, calls)
            if isinstance(pair, str):
                reasons[call.layer.name] = pair
            else:
                pairs.append(pair)
    return pairs, reasons


def _pair(graph: Graph, call: Call, calls: dict[int, int]) -> _Pair | str:
    """Return the pair that begins with a layer, or why there is none."""
    norm, current = None, call
    while True:
        layer = current.layer
        if calls[id(layer)] > 1:
            return f"{layer.name} is called more than once"
        if activation_of(layer) not in SCALES:
            return f"{layer.name} does not scale with what it gets"
        if getattr(layer, "data_format", None) == "channels_first":
            return f"{layer.name} has its channels first"
        following = graph.consumers(current)
        if len(following) != 1 or graph.is_output(current):
            return f"what {layer.name} returns is read in more than one place"
        (taker,) = following
        if type(taker.layer) is layers.BatchNormalization:
            if current is not call or not taker.layer.scale or activation_of(call.layer) != "linear":
                return f"{taker.layer.name} has no scale of its own, or does not stand right behind"
            norm = taker.layer
        elif type(taker.layer) in KERNELS:
            return _ended(call.layer, norm, taker.layer, calls)
        elif not isinstance(taker.layer, (*PASSES, layers.Activation, layers.ReLU, layers.LeakyReLU)):
            return f"{type(taker.layer).__name__} stands behind it"
        current = taker


def _ended(
    first: keras.layers.Layer,
    norm: keras.layers.BatchNormalization | None,
    second: keras.layers.Layer,
    calls: dict[int, int],
) -> _Pair | str:
    if calls[id(second)] > 1:
        return f"{second.name} is called more than once"
    if getattr(second, "groups", 1) > 1 or getattr(second, "data_format", None) == "channels_first":
        return f"{second.name} has groups, or its channels first"
    return _Pair(first, norm, second)


def _equalize(pairs: list[_Pair]) -> None:
    involved = {id(layer): layer for pair in pairs for layer in (pair.first, pair.norm, pair.second) if layer}
    weights = {id(variable): as_numpy(variable) for layer in involved.values() for variable in layer.weights}
    for _ in range(SWEEPS):
        if max(_scale(pair, weights) for pair in pairs) < CLOSE:  # a layer in two pairs moves in both
            break
    for layer in involved.values():
        for variable in layer.trainable_variables + layer.non_trainable_variables:
            variable.assign(weights[id(variable)])


def _scale(pair: _Pair, weights: dict[int, np.ndarray]) -> float:
    """Apply equation 11 to a pair; return the logarithm of the largest factor."""
    first, second = id(pair.first.kernel), id(pair.second.kernel)
    outputs = weights[first].reshape(-1, _width(pair.first))
    # Positions that a Flatten put beside each other, and those of the kernel, come before the channels.
    inputs = weights[second].reshape(-1, outputs.shape[1], weights[second].shape[-1])
    sizes = np.abs(outputs).max(axis=0), np.abs(inputs).max(axis=(0, 2))
    factor = np.ones(outputs.shape[1], outputs.dtype)
    if pair.norm is not None:
        gamma, variance = weights[id(pair.norm.gamma)], weights[id(pair.norm.moving_variance)]
        sizes = sizes[0] * np.abs(gamma) / np.sqrt(variance + pair.norm.epsilon), sizes[1]
    alive = (sizes[0] > DEAD * sizes[0].max()) & (sizes[1] > DEAD * sizes[1].max())
    factor[alive] = np.sqrt(sizes[0][alive] / sizes[1][alive])
    for variable in _divided(pair):
        shape = weights[id(variable)].shape
        weights[id(variable)] = (weights[id(variable)].reshape(-1, len(factor)) / factor).reshape(shape)
    weights[second] = (inputs * factor[:, None]).reshape(weights[second].shape)
    return float(np.abs(np.log(factor)).max())


def _width(layer: keras.layers.Layer) -> int:
    shape = layer.kernel.shape
    return shape[-1] * shape[-2] if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)) else shape[-1]


def _divided(pair: _Pair) -> list[keras.Variable]:
    if pair.norm is not None:
        return [pair.norm.gamma, *([pair.norm.beta] if pair.norm.center else [])]
    return [pair.first.kernel, *([pair.first.bias] if pair.first.use_bias else [])]
