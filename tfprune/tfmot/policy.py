"""Policies of tfmot: which layers of a model to prune, and which models not to prune at all."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.graph import Call, Graph, trace
from tfprune.masking.wrapping.flat_copy import flat_copy

_ALWAYS = (
    layers.Add,
    layers.Multiply,
    layers.ZeroPadding2D,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
)
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
_OPERATIONS = ("Add", "Identity", "Multiply", "Subtract")  # of tensors, as in x + y


class PruningPolicy(abc.ABC):
    """Base class of all policies. Derive your own from it.

    Example:
        >>> class DenseOnly(PruningPolicy):
        ...     def allow_pruning(self, layer):
        ...         return isinstance(layer, keras.layers.Dense)
        ...
        ...     def ensure_model_supports_pruning(self, model):
        ...         pass
        >>> DenseOnly().allow_pruning(keras.layers.Flatten())
        False
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Tell whether to prune a layer of the model."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise a ValueError for a model that cannot be pruned for the policy's purpose."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prune only the 1x1 convolutions of models that XNNPACK can run with its sparse kernels.

    The sparse part of a model starts after a 3x3 convolution of 3 input channels with strides of 2, which follows a
    zero padding of 1, and ends at a global average pooling. All layers between them have to be supported.

    Example:
        >>> policy = PruneForLatencyOnXNNPack()
        >>> policy.allow_pruning(layers.Conv2D(8, 1)), policy.allow_pruning(layers.Conv2D(8, 3))
        (True, False)

    Reference:
        Elsen et al., 2019, "Fast Sparse ConvNets", arXiv:1911.09723.
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise a ValueError that names the layer at fault if a model does not have this form.

        The layers of nested models are checked as if they were layers of the model itself.
        """
        graph = trace(flat_copy(Anatomy.of(Anatomy.of(model).graph or model)).model)
        entries = [call for call in graph.calls if any(graph.producer(tensor) is None for tensor in call.inputs)]
        starts = _frontier(entries, graph.consumers, lambda call: _is_stem(call.layer, _before(graph, call)))
        if not starts:
            raise ValueError(
                f"Expected every input of {model.name!r} to lead to ZeroPadding2D(1) and a Conv2D of 3 channels with "
                f"kernel_size=3, strides=2, padding='valid'. Received: one that does not."
            )
        exits = [call for call in graph.calls if graph.is_output(call)]
        ends = _frontier(exits, lambda call: _producers(graph, call), _is_pool)
        if not ends:
            raise ValueError(
                f"Expected every output of {model.name!r} to come from a GlobalAveragePooling2D. Received: one that "
                f"does not."
            )

        def is_end(call: Call) -> bool:
            if call not in ends and not _is_supported(call.layer, _before(graph, call)):
                raise ValueError(
                    f"Expected layers that run on XNNPACK's sparse kernels. Received: {call.layer.name!r} of type "
                    f"{type(call.layer).__name__} in {model.name!r}."
                )
            return call in ends

        _frontier([reader for call in starts for reader in graph.consumers(call)], graph.consumers, is_end)


def _producers(graph: Graph, call: Call) -> list[Call]:
    return [producer for tensor in call.inputs if (producer := graph.producer(tensor)) is not None]


def _before(graph: Graph, call: Call) -> list[Any]:
    """Return the layers and operations whose outputs a call takes."""
    return [producer.layer for producer in _producers(graph, call)]


def _frontier(
    sources: Iterable[Call], following: Callable[[Call], list[Call]], stops: Callable[[Call], bool]
) -> set[Call]:
    """Follow every path from the sources to the first call that stops it; an empty set if a path ends before."""
    ahead, seen, stopped = list(sources), set(sources), set()
    while ahead:
        call = ahead.pop()
        if stops(call):
            stopped.add(call)
            continue
        neighbors = following(call)
        if not neighbors:
            return set()
        ahead += [neighbor for neighbor in neighbors if neighbor not in seen]
        seen.update(neighbors)
    return stopped


def _is_pool(call: Call) -> bool:
    return isinstance(call.layer, layers.GlobalAveragePooling2D)


def _is_stem(layer: Any, before: list[Any]) -> bool:
    return (
        isinstance(layer, layers.Conv2D)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and layer.strides == (2, 2)
        and layer.padding == "valid"
        and _zero_padding(before) == 1
    )


def _zero_padding(before: list[Any]) -> int | None:
    """Return the zeros that the only layer before adds on every side; None if the sides differ."""
    if len(before) != 1 or not isinstance(before[0], layers.ZeroPadding2D):
        return None
    sizes = {size for side in before[0].padding for size in side}
    return sizes.pop() if len(sizes) == 1 else None


def _is_supported_depthwise(layer: Any, before: list[Any]) -> bool:
    is_plain = layer.depth_multiplier == 1 and layer.dilation_rate == (1, 1)
    if layer.kernel_size not in ((3, 3), (5, 5)) or not is_plain:
        return False
    if layer.padding == "same":
        return layer.strides == (1, 1)
    return layer.strides in ((1, 1), (2, 2)) and _zero_padding(before) == layer.kernel_size[0] // 2


_RULES: dict[type, Callable[[Any, list[Any]], bool]] = {
    layers.DepthwiseConv2D: _is_supported_depthwise,
    layers.Conv2D: lambda layer, before: (
        layer.kernel_size == layer.strides == layer.dilation_rate == (1, 1) and layer.groups == 1
    ),
    layers.GlobalAveragePooling2D: lambda layer, before: layer.keepdims,
    layers.BatchNormalization: lambda layer, before: layer.axis in (-1, 3),
    layers.UpSampling2D: lambda layer, before: layer.interpolation == "bilinear",
    layers.Activation: lambda layer, before: keras.activations.serialize(layer.activation) in _ACTIVATIONS,
}


def _is_supported(layer: Any, before: list[Any]) -> bool:
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).__name__ in _OPERATIONS
    if isinstance(layer, _ALWAYS):
        return True
    return any(isinstance(layer, kind) and rule(layer, before) for kind, rule in _RULES.items())
