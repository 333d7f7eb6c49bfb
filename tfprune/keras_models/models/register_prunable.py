"""Which weights of which layers can be pruned, and which axes they have."""

from __future__ import annotations

from collections.abc import Callable

import keras

from tfprune.base.axes import CHANNEL, OUTPUT, parse_equation

Axes = str | Callable[[keras.layers.Layer], str]


def _einsum_axes(layer: keras.layers.EinsumDense) -> str:
    return parse_equation(layer.equation).axes


_RECURRENT: dict[str, Axes] = {"kernel": "io", "recurrent_kernel": "io"}


REGISTRY: dict[type, dict[str, Axes]] = {
    keras.layers.Dense: {"kernel": "io"},
    keras.layers.EinsumDense: {"kernel": _einsum_axes},
    keras.layers.Embedding: {"embeddings": "io"},
    keras.layers.ReversibleEmbedding: {"embeddings": "io", "reverse_embeddings": "io"},
    keras.layers.Conv1D: {"kernel": "wio"},
    keras.layers.Conv2D: {"kernel": "hwio"},
    keras.layers.Conv3D: {"kernel": "dhwio"},
    keras.layers.Conv1DTranspose: {"kernel": "woi"},
    keras.layers.Conv2DTranspose: {"kernel": "hwoi"},
    keras.layers.Conv3DTranspose: {"kernel": "dhwoi"},
    keras.layers.DepthwiseConv1D: {"kernel": "wco"},
    keras.layers.DepthwiseConv2D: {"kernel": "hwco"},
    keras.layers.SeparableConv1D: {"depthwise_kernel": "wco", "pointwise_kernel": "wio"},
    keras.layers.SeparableConv2D: {"depthwise_kernel": "hwco", "pointwise_kernel": "hwio"},
    keras.layers.SimpleRNN: _RECURRENT,
    keras.layers.SimpleRNNCell: _RECURRENT,
    keras.layers.LSTM: _RECURRENT,
    keras.layers.LSTMCell: _RECURRENT,
    keras.layers.GRU: _RECURRENT,
    keras.layers.GRUCell: _RECURRENT,
    keras.layers.ConvLSTM1D: {"kernel": "wio", "recurrent_kernel": "wio"},
    keras.layers.ConvLSTM2D: {"kernel": "hwio", "recurrent_kernel": "hwio"},
    keras.layers.ConvLSTM3D: {"kernel": "dhwio", "recurrent_kernel": "dhwio"},
}


# Layers of other packages, by package and class, whose weights have names that do not say what they are.
_BY_NAME: dict[tuple[str, str], dict[str, Axes]] = {
    ("keras_hub", "RWKV7TimeMix"): {f"{part}{half}": "io" for part in "wavg" for half in "12"},
}


def register_prunable(layer_class: type[keras.layers.Layer], **axes: Axes) -> None:
    """Register the weights of a layer class that can be pruned.

    Use it for a layer of your own whose weights have other names than `kernel`, `dense` or `proj`.

    Args:
        layer_class: A subclass of `keras.layers.Layer`. The axes also serve its subclasses.
        **axes: For each weight, by the name it was given in `add_weight`, one letter per dimension: `o` output,
            `i` input, `c` a channel that is both, any other letter a kernel position. For weights
            whose shape depends on the layer's arguments, pass a function that takes the layer and returns the
            letters. Only the weights named here are pruned. Without this call, weights whose names end in
            `kernel`, `dense` or `proj` are pruned, with inputs and outputs along their last two axes.

    Raises:
        TypeError: If `layer_class` is not a layer class, or an axis is neither text nor a function.
        ValueError: If no weight is named, or axes have no output.

    Example:
        >>> class Projection(keras.layers.Layer):
        ...     def build(self, input_shape):
        ...         self.basis = self.add_weight(name="basis", shape=(8, input_shape[-1]))
        ...     def call(self, inputs):
        ...         return keras.ops.matmul(inputs, keras.ops.transpose(self.basis))
        >>> register_prunable(Projection, basis="oi")
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(
            f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r} of type "
            f'{type(layer_class).__name__}. Pass the class itself, such as register_prunable(MyLayer, kernel="io").'
        )
    if not axes:
        raise ValueError(
            f"Expected the axes of at least one weight, such as "
            f'register_prunable({layer_class.__name__}, kernel="io"). Received none.'
        )
    for name, letters in axes.items():
        if not isinstance(letters, str) and not callable(letters):
            raise TypeError(f"Expected axes as text, such as 'hwio', or a function. Received: {name}={letters!r}.")
        if isinstance(letters, str) and not set(letters) & {OUTPUT, CHANNEL}:
            raise ValueError(
                f"Expected an output axis `o` among the letters. Received: {name}={letters!r}. Write one letter per "
                f"dimension, such as 'hwio': `o` output, `i` input, `c` both, any other a kernel position."
            )
    REGISTRY[layer_class] = dict(axes)


def axes_rule(layer: keras.layers.Layer) -> dict[str, Axes] | None:
    """Return the entry of the closest registered class."""
    for cls in type(layer).__mro__:
        rule = REGISTRY.get(cls) or _BY_NAME.get((cls.__module__.partition(".")[0], cls.__name__))
        if rule is not None:
            return rule
    return None


def is_registered(layer: keras.layers.Layer) -> bool:
    """Return whether the layer's class, or one that it derives from, is registered."""
    return axes_rule(layer) is not None
