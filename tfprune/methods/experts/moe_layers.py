"""The layers of a model with experts and a router, and the axes of their weights along which the experts lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.models.layers import join_path, walk


@dataclass(frozen=True)
class ExpertRule:
    """The weights of a layer class that belong to its experts.

    Attributes:
        axes: The axis along which the experts lie, by the path of the weight below the layer.
        router: The paths of those that belong to the router.
        count_argument: The argument, and attribute, with the number of experts.
        top_k_argument: The argument, and attribute, with the number of experts that are used for each input.
    """

    axes: Mapping[str, int]
    router: tuple[str, ...]
    count_argument: str = "num_experts"
    top_k_argument: str = "top_k"


@dataclass(frozen=True, eq=False)
class MoeLayer:
    """A layer with experts.

    Attributes:
        path: Its path in the model.
        layer: The layer.
        rule: The weights of its class that belong to experts.
        experts: The number of experts.
        top_k: The number of experts that are used for each input.
        axes: The axis along which the experts lie, by the id of the variable.
        router: The ids of the variables of the router.
    """

    path: str
    layer: keras.layers.Layer
    rule: ExpertRule
    experts: int
    top_k: int
    axes: dict[int, int]
    router: frozenset[int]


REGISTERED: dict[type, ExpertRule] = {}

# In KerasHub's layers with experts the router is a Dense layer, and those of the experts lie along the first axis.
_ROUTER = re.compile(r"(^|/)(sparse_feedforward_gate_dense|router_gate|router_dense)/(kernel|bias)$")
_EXPERTS = re.compile(r"(^|/)experts/[^/]+$")


def moe_layers(root: keras.layers.Layer) -> list[MoeLayer]:
    """Return the layers with experts in a model or layer.

    Raises:
        ValueError: If there are none, or a router or a registered weight cannot be found in one.
    """
    layers = find_moe_layers(root)
    if not layers:
        raise ValueError(
            f"Expected a model or layer with a mixture of experts. Received: {root.name!r}, in which none is known. "
            f"Register a layer of your own: tfprune.experts.register(MyMixture, {{'router/kernel': 1, ...}})."
        )
    return layers


def find_moe_layers(root: keras.layers.Layer) -> list[MoeLayer]:
    """Return the layers with experts in a model or layer, perhaps none.

    Raises:
        ValueError: If a router or a registered weight cannot be found in one.
    """
    return [moe for path, layer in walk(root) if (moe := _moe_layer(path, layer)) is not None]


def _moe_layer(path: str, layer: keras.layers.Layer) -> MoeLayer | None:
    weights = {join_path(inner, weight.name): weight for inner, weight in _weights(layer)}
    rule = next((REGISTERED[cls] for cls in type(layer).__mro__ if cls in REGISTERED), None)
    if rule is None:
        rule = _rule_of_keras_hub(path or layer.name, layer, weights)
    if rule is None:
        return None
    numbers: dict[str, Any] = {
        name: getattr(layer, name, None) for name in (rule.count_argument, rule.top_k_argument)
    }
    missing = [name for name, value in numbers.items() if type(value) is not int]
    missing += [name for name in rule.axes if name not in weights]
    if missing:
        raise ValueError(
            f"Expected {path or layer.name!r} ({type(layer).__name__}) to have all names registered for it. "
            f"Received: a layer without {missing[0]!r}; its weights are {', '.join(weights) or '(none)'}. Build it, "
            f"keep its arguments in attributes of their names, and register the weights that it has."
        )
    count = numbers[rule.count_argument]
    for name, axis in rule.axes.items():
        shape = tuple(weights[name].shape)
        if not -len(shape) <= axis < len(shape) or shape[axis] != count:
            raise ValueError(
                f"Expected {count} experts along axis {axis} of {name!r} in {path or layer.name!r}. Received: shape "
                f"{shape}. Register the axis of the experts."
            )
    axes = {id(weights[name]): axis for name, axis in rule.axes.items()}
    router = frozenset(id(weights[name]) for name in rule.router)
    return MoeLayer(path or layer.name, layer, rule, count, numbers[rule.top_k_argument], axes, router)


def _weights(layer: keras.layers.Layer) -> list[tuple[str, keras.Variable]]:
    """Return the weights in a layer with the paths of the innermost layers that hold them."""
    innermost: dict[int, tuple[str, keras.Variable]] = {}
    for path, part in walk(layer):
        innermost.update({id(weight): (path, weight) for weight in part.weights})
    return list(innermost.values())


def _rule_of_keras_hub(
    path: str, layer: keras.layers.Layer, weights: Mapping[str, keras.Variable]
) -> ExpertRule | None:
    """Return the rule of a layer of KerasHub that holds experts itself, and not only a layer that does."""
    if not type(layer).__module__.startswith("keras_hub.") or not type(layer).__name__.endswith("MoeBlock"):
        return None
    routers = [name for name in weights if _ROUTER.search(name)]
    experts = [name for name in weights if _EXPERTS.search(name)]
    if not routers or not experts:
        raise ValueError(
            f"Expected a router and experts in {path!r} ({type(layer).__name__}). Received: "
            f"{'no router' if not routers else 'no experts'} among its weights {', '.join(weights) or '(none)'}. "
            f"Build the model, or register the layer with tfprune.experts.register."
        )
    return ExpertRule({**dict.fromkeys(routers, -1), **dict.fromkeys(experts, 0)}, tuple(routers))
