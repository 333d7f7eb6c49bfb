"""Rewrite the layers after a global pool: a gate as 1x1 convolutions on 1x1 maps, a classifier as dense layers.

A pooled map holds one number per channel, and a tensor of shape (batch, channels) holds the same. Keras computes the
same with either; XNNPACK runs only the right one sparse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.export.keras_side.sparse_ready.mirrorable import (
    GLOBAL_POOLS,
    has_pointwise_activation,
    is_pointwise,
    operation_name,
)
from tfprune.keras_models.models.graph import Call, Graph, grouped, retrace, trace, unused_name

layers = keras.layers
MAP, VECTOR = 4, 2  # ranks
ARGUMENTS = (  # that a dense layer and a convolution have in common
    *("activation", "use_bias", "kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer"),
    *("activity_regularizer", "kernel_constraint", "bias_constraint", "name", "dtype", "trainable"),
)


def rewrite_vectors(model: keras.Model) -> keras.Model:
    """Return a flat model whose gates work on 1x1 maps and whose classifiers on vectors; its layers are changed."""
    graph = trace(model)
    ranks = _ranks(graph)
    return _Rewriting(graph, ranks).apply() if ranks else model


def _ranks(graph: Graph) -> dict[int, int]:
    """Return the rank that calls on vectors get, by the call's id; calls that stay as they are have none."""
    map_layers = {id(call.layer) for call in graph.calls if not _works_on_vectors(call)}
    members = {id(call): call for call in graph.calls if id(call.layer) not in map_layers}
    links = [
        (members[id(producer)], call)
        for call in members.values()
        for tensor in call.inputs
        if id(producer := graph.producer(tensor)) in members and type(call.layer) not in GLOBAL_POOLS
    ]
    ranks: dict[int, int] = {}
    for group in grouped(list(members.values()), links):
        takers = [taker for call in group for taker in graph.consumers(call) if id(taker) not in members]
        rank = _rank(group, takers)
        ranks |= {id(call): rank for call in group if rank}
    return ranks


def _rank(group: list[Call], takers: list[Call]) -> int | None:
    """Choose the rank for a group of calls on vectors, given who else takes their outputs; None keeps it."""
    has_pool = any(type(call.layer) in GLOBAL_POOLS for call in group)
    scales_maps = any(not _is_vector(tensor) for taker in takers for tensor in taker.inputs)
    if has_pool and scales_maps and all(len(tensor.shape) == MAP for taker in takers for tensor in taker.inputs):
        return MAP
    has_convolution = any(type(call.layer) is layers.Conv2D for call in group)
    takes_maps = any(len(tensor.shape) == MAP for taker in takers for tensor in taker.inputs)
    # The last maps of a small image are 1x1 as well: layers before the pool have to stay convolutions.
    return VECTOR if has_pool and has_convolution and not takes_maps else None


def _is_vector(tensor: keras.KerasTensor) -> bool:
    shape = tensor.shape
    return shape[-1] is not None and (len(shape) == VECTOR or (len(shape) == MAP and tuple(shape[1:3]) == (1, 1)))


def _works_on_vectors(call: Call) -> bool:
    """Tell whether a call gives the same numbers for a vector and for a 1x1 map."""
    layer, kind = call.layer, type(call.layer)
    if not all(map(_is_vector, call.outputs)) or not has_pointwise_activation(layer):
        return False
    if kind in GLOBAL_POOLS:
        return layer.data_format == "channels_last"
    if not all(map(_is_vector, call.inputs)) or len({len(tensor.shape) for tensor in call.inputs}) != 1:
        return False
    if kind in (layers.Reshape, layers.Flatten):
        return call.inputs[0].shape[-1] == call.outputs[0].shape[-1]
    if kind is layers.Conv2D:
        return math.prod(layer.kernel_size) == layer.groups == 1 and layer.data_format == "channels_last"
    if kind is layers.BatchNormalization:
        return layer.axis == -1
    # SpatialDropout2D takes maps alone.
    return is_pointwise(layer) and kind is not layers.SpatialDropout2D and _has_numbers_only(call)


def _has_numbers_only(call: Call) -> bool:
    """Tell whether all arguments of a call besides tensors are numbers, not arrays."""
    leaves = keras.tree.flatten((call.args, call.kwargs))
    return not any(hasattr(leaf, "shape") and not isinstance(leaf, keras.KerasTensor) for leaf in leaves)


class _Rewriting:
    """Repeat the calls of a model, those on vectors with the rank that was chosen for them."""

    def __init__(self, graph: Graph, ranks: dict[int, int]) -> None:
        self.graph, self.ranks = graph, ranks
        self.calls = iter(graph.calls)
        self.names = {operation.name for operation in graph.model.operations}
        self.replaced: dict[int, Any] = {}

    def apply(self) -> keras.Model:
        """Return the model made of the changed layers."""
        model = retrace(self.graph.model, self.call)
        outputs = [
            self.shaped(tensor, original, len(original.shape))
            for tensor, original in zip(model.outputs, self.graph.model.outputs, strict=True)
        ]
        return keras.Model(model.input, keras.tree.pack_sequence_as(model.output, outputs), name=model.name)

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer, or what replaces it, on tensors of the right rank."""
        call = next(self.calls)
        rank = self.ranks.get(id(call))
        input_rank = None if type(layer) in GLOBAL_POOLS else rank
        args, kwargs = keras.tree.map_structure(
            lambda value, original: self.shaped(value, original, input_rank), (args, kwargs), (call.args, call.kwargs)
        )
        if rank is None:
            return layer(*args, **kwargs)
        if id(layer) not in self.replaced:
            self.replaced[id(layer)] = _replacement(layer, rank)
        new, activation = self.replaced[id(layer)]
        if rank == MAP and operation_name(new) in ("Add", "Multiply"):
            args, kwargs = keras.tree.map_structure(lambda value: _spread(value, call.outputs[0]), (args, kwargs))
        return activation(new(*args, **kwargs))

    def shaped(self, value: Any, original: Any, rank: int | None) -> Any:
        """Return a tensor with the rank wanted, or that of the original; anything else unchanged."""
        if not isinstance(value, keras.KerasTensor) or not _is_vector(original):
            return value
        new_rank = rank or len(original.shape)
        if len(value.shape) == new_rank:
            return value
        form = (1, 1, value.shape[-1])[-1 if new_rank == VECTOR else 0 :]
        return layers.Reshape(form, name=unused_name("reshape", self.names))(value)


def _replacement(layer: Any, rank: int) -> tuple[Any, Callable]:
    """Return a layer that computes the same on tensors of a rank, and a function to apply to its output."""
    if type(layer) in (layers.Reshape, layers.Flatten):
        return layers.Identity(name=layer.name, dtype=layer.dtype_policy.name), _unchanged
    if type(layer) in GLOBAL_POOLS:
        layer.keepdims = rank == MAP
    after = _unchanged
    if rank == MAP and getattr(layer, "activation", None) is keras.activations.hard_sigmoid:
        layer.activation, after = keras.activations.linear, _hard_sigmoid
    if type(layer) is (layers.Conv2D if rank == VECTOR else layers.Dense):
        layer = _converted(layer, rank)
    if type(layer) is layers.BatchNormalization:  # takes only the rank that it was built for
        layer = _normalization(layer, rank)
    return layer, after


def _converted(layer: Any, rank: int) -> Any:
    """Return a 1x1 convolution as a dense layer, or the other way round."""
    config = layer.get_config()
    common = {name: config[name] for name in ARGUMENTS if name in config}
    if rank == VECTOR:
        new = layers.Dense(layer.filters, **common)
        new.build((None, layer.kernel.shape[-2]))
    else:
        new = layers.Conv2D(layer.units, 1, data_format="channels_last", **common)
        new.build((None, 1, 1, layer.kernel.shape[0]))
    for old, variable in zip(layer.weights, new.weights, strict=True):
        variable.assign(keras.ops.reshape(old, variable.shape))
    return new


def _normalization(layer: Any, rank: int) -> Any:
    new = layers.BatchNormalization.from_config(layer.get_config())
    new.build((None, *[1] * (rank - 2), layer.moving_mean.shape[0]))
    for old, variable in zip(layer.weights, new.weights, strict=True):
        variable.assign(old)
    return new


def _unchanged(value: Any) -> Any:
    return value


def _hard_sigmoid(value: keras.KerasTensor) -> keras.KerasTensor:
    """Return the hard sigmoid in a form whose constants the converter leaves maps, as XNNPACK needs."""
    return keras.ops.relu6(value + _spread(3.0, value)) * _spread(1 / 6, value)


def _spread(value: Any, like: keras.KerasTensor) -> Any:
    """Return a number as a 1x1 map; anything else unchanged."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return np.full((1, 1, 1, like.shape[-1]), value, like.dtype) if is_number else value
