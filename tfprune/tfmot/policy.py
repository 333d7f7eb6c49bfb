"""Policies of tfmot: which layers of a model to prune, and which models not to prune at all."""

from __future__ import annotations

import abc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
from keras import layers

from tfprune.models.kinds import as_graph
from tfprune.wrapping.pruned import Pruned


class PruningPolicy(abc.ABC):
    """Base of policies, and of your own."""

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Tell whether to prune a layer of the model."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise a ValueError for a model that cannot be pruned for the policy's purpose."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prune 1x1 convolutions only, in models whose middle runs on the sparse kernels of XNNPACK.

    These start after a 3x3 convolution of 3 channels with strides of 2 that a zero padding of 1 precedes, and end at
    a global average pooling; all layers between them have to be supported.

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
        """Raise a ValueError for a model that does not have this form, and name the layer at fault."""
        graph = as_graph(model) if isinstance(model, keras.Model) else None
        if graph is None or not graph.built:
            raise ValueError(
                f"Expected a built Sequential or Functional model. Received: {getattr(model, 'name', model)!r} of "
                f"type {type(model).__name__}."
            )
        parts, producers, inputs, outputs = _connections(graph)
        consumers = _reversed(producers)

        def is_start(name: str) -> bool:
            return _is_stem(parts[name], [parts[one] for one in producers[name]])

        starts = _frontier(inputs, consumers, is_start)
        if not starts:
            raise ValueError(
                f"Expected every input of {model.name!r} to lead to ZeroPadding2D(1) and a Conv2D of 3 channels with "
                f"kernel_size=3, strides=2, padding='valid'. Received: one that does not."
            )
        ends = _frontier(outputs, producers, lambda name: isinstance(parts[name], layers.GlobalAveragePooling2D))
        if not ends:
            raise ValueError(
                f"Expected every output of {model.name!r} to come from a GlobalAveragePooling2D. Received: one that "
                f"does not."
            )

        def is_end(name: str) -> bool:
            if name not in ends and not _is_supported(parts[name], [parts[one] for one in producers[name]]):
                raise ValueError(
                    f"Expected layers that run on XNNPACK's sparse kernels. Received: {name!r} of type "
                    f"{type(parts[name]).__name__} in {model.name!r}."
                )
            return name in ends

        _frontier([one for name in starts for one in consumers[name]], consumers, is_end)


Names = Mapping[str, Iterable[str]]


def _connections(model: keras.Model) -> tuple[dict[str, Any], dict[str, list[str]], list[str], list[str]]:
    """Return the operations of a graph, the names of each one's producers, and those of inputs and outputs."""
    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        producers = dict(zip(names, [[], *([name] for name in names)], strict=False))
        inputs, outputs, operations = names[:1], names[-1:], model.layers
    else:
        config = model.get_config()
        producers = {entry["name"]: sorted(set(_origins(entry["inbound_nodes"]))) for entry in config["layers"]}
        inputs, outputs = list(_ends(config["input_layers"])), list(_ends(config["output_layers"]))
        operations = model.operations
    parts = {one.name: one.layer if isinstance(one, Pruned) else one for one in operations}
    return parts, producers, inputs, outputs


def _origins(config: Any) -> Iterator[str]:
    """Yield the names of the operations that the tensors in a node's configuration come from."""
    if isinstance(config, dict) and "keras_history" in config:
        yield config["keras_history"][0]
    elif isinstance(config, (dict, list, tuple)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _origins(value)


def _ends(config: Any) -> Iterator[str]:
    """Yield the names in a list or dict of tensors, each [name, node, place]; a single one is not in a list."""
    if isinstance(config, dict):
        config = list(config.values())
    if config and isinstance(config[0], str):
        yield config[0]
    else:
        for value in config:
            yield from _ends(value)


def _reversed(producers: Names) -> dict[str, list[str]]:
    consumers = defaultdict(list)
    for name, sources in producers.items():
        for source in sources:
            consumers[source].append(name)
    return consumers


def _frontier(sources: Iterable[str], neighbours: Names, stops: Callable[[str], bool]) -> set[str]:
    """Follow every way from the sources to the first part that stops it; nothing if one way ends before."""
    ahead, seen, found = list(sources), set(sources), set()
    while ahead:
        name = ahead.pop()
        if stops(name):
            found.add(name)
            continue
        following = list(neighbours.get(name, ()))
        if not following:
            return set()
        ahead += [one for one in following if one not in seen]
        seen.update(following)
    return found


def _is_stem(layer: Any, before: list[Any]) -> bool:
    return (
        isinstance(layer, layers.Conv2D)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and layer.strides == (2, 2)
        and layer.padding == "valid"
        and _zero_padding(before) == 1
    )


def _zero_padding(before: list[Any]) -> int | None:
    """Return by how much the one layer before pads all sides with zeros, None if it does not."""
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
