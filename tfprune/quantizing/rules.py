"""Where the 8-bit operators of each kind of layer round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
from keras import activations, layers

FUSED = ("linear", "relu", "relu6")  # what an operator applies before it rounds
# Operators whose results have a range that the runtime fixes.
FIXED = {"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}
SEPARATE = (*FIXED, "silu", "hard_silu", "leaky_relu")  # operators of their own, in 8 bits

MIXES = "mixes"  # an operator with a kernel
NORMALIZES = "normalizes"  # is folded into the kernel before it
ACTIVATES = "activates"
MERGES = "merges"  # several tensors, and applies an activation before it rounds
ROUNDS = "rounds"  # an operator without weights
KEEPS = "keeps"  # moves numbers only, and keeps their range
LOOKS_UP = "looks up"  # takes rows of its weights, which get the range of what it returns


@dataclass(frozen=True)
class RoundingRule:
    """How a kind of layer is computed in 8 bits.

    Attributes:
        kind: One of the constants of this module.
        inside: Names of the places between its input and its output where it rounds, with the output as the last.
        within: Names of such places before its output, which has a range as that of any other layer.
    """

    kind: str
    inside: tuple[str, ...] = field(default=())
    within: tuple[str, ...] = field(default=())


# They take a normalization into their kernel.
KERNELS = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
FOLDING = (*KERNELS, layers.SeparableConv2D)
_KEEPING = (
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Identity),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D, layers.Cropping2D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
    *(layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.GaussianDropout),
    *(layers.GaussianNoise, layers.AlphaDropout, layers.ActivityRegularization),
)
LSTM = ("inputs", "states", "sum", "kept", "written", "carry", "state")
GRU = ("inputs", "states", "update", "reset", "reset_state", "candidate", "kept", "rest", "written", "state")

RULES: dict[type, RoundingRule] = {
    **dict.fromkeys((*KERNELS, layers.Conv2DTranspose), RoundingRule(MIXES)),
    layers.SeparableConv2D: RoundingRule(MIXES, within=("depthwise",)),
    **dict.fromkeys((layers.Rescaling, layers.Normalization), RoundingRule(ROUNDS, within=("scaled",))),
    layers.BatchNormalization: RoundingRule(NORMALIZES),
    **dict.fromkeys((layers.Activation, layers.ReLU, layers.LeakyReLU, layers.Softmax), RoundingRule(ACTIVATES)),
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Multiply), RoundingRule(MERGES)),
    **dict.fromkeys((layers.Maximum, layers.Minimum, layers.Concatenate), RoundingRule(ROUNDS)),
    **dict.fromkeys((layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D), RoundingRule(ROUNDS)),
    **dict.fromkeys(_KEEPING, RoundingRule(KEEPS)),
    layers.Embedding: RoundingRule(LOOKS_UP),
    layers.LSTM: RoundingRule(MIXES, inside=LSTM),
    layers.GRU: RoundingRule(MIXES, inside=GRU),
}

ALONE = RoundingRule(NORMALIZES, within=("scaled",))  # a normalization that no kernel takes


def rule_of(layer: Any) -> RoundingRule | None:
    """Return the rule of a layer, None if there is none; a subclass may compute something else, and has none."""
    if type(layer) is layers.UpSampling2D and layer.interpolation == "nearest":
        return RoundingRule(KEEPS)
    return RULES.get(type(layer))


def activation_of(layer: keras.layers.Layer) -> str | None:
    """Return the name of the activation that a layer applies, None if it is none of Keras' simple ones."""
    if isinstance(layer, layers.ReLU):
        return _relu(layer)
    if isinstance(layer, layers.Softmax):
        return "softmax" if layer.axis in (-1, (-1,), [-1]) else None
    if isinstance(layer, layers.LeakyReLU):
        return "leaky_relu"
    function = getattr(layer, "activation", None) or activations.linear
    named = {getattr(activations, name): name for name in (*FUSED, *SEPARATE)}
    return named.get(function)


def _relu(layer: keras.layers.ReLU) -> str | None:
    if layer.threshold or layer.max_value not in (None, 6):
        return None
    if layer.negative_slope:
        return "leaky_relu" if layer.max_value is None else None
    return "relu" if layer.max_value is None else "relu6"
