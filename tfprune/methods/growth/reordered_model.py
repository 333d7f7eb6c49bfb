"""A model with the blocks of another one in another order, and how it is made as a Functional model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.copying.origins import MadeOf, Origins, read_origins
from tfprune.keras_models.copying.twin import copy_of, copy_variables, layer_inside
from tfprune.keras_models.models.graph import Call, unused_name
from tfprune.methods.growth.blocks import Blocks


@dataclass(frozen=True, eq=False)
class ReorderedModel:
    """A model with the blocks of another one, in another order.

    Attributes:
        model: The model.
        source: The blocks that it was made of.
        order: Their numbers, one after the other.
        layers: The new layer for each layer, by its id and the index of the block; None is outside of the blocks.
        into: `"class"` for an instance of the same class, `"graph"` for a Functional model.
        reason: Why it is a graph although the model has a class; empty otherwise.
    """

    model: keras.Model
    source: Blocks
    order: Sequence[int]
    layers: dict[tuple[int, int | None], Any]
    into: str
    reason: str = ""

    def block_layers(self, index: int) -> list[keras.layers.Layer]:
        """Return the layers of the block at an index, in the order in which they are called."""
        calls = self.source.blocks[self.order[index]].calls
        return list(filter(_is_layer, (self.perform(call, index) for call in calls)))

    def all_layers(self) -> list[keras.layers.Layer]:
        """Return all layers of the model, each once."""
        return list(filter(_is_layer, {id(layer): layer for layer in self.layers.values()}.values()))

    def origins(self) -> Origins:
        """Return where each weight of the model comes from."""
        graph = self.source.graph
        old = {id(layer): layer for layer in [*graph.model.layers, *(call.layer for call in graph.calls)]}
        made_of: dict[int, MadeOf] = {}
        for (key, _), layer in self.layers.items():
            if _is_layer(layer):
                pairs = zip(old[key].weights, layer.weights, strict=True)
                made_of |= {id(new): (weight, 0, (), ()) for weight, new in pairs}
        return read_origins(self.source.copy, self.model, made_of=made_of)

    def perform(self, call: Call, index: int | None) -> Any:
        """Return the layer to call for a call: see `Blocks.run`."""
        return self.layers.get((id(call.layer), index), call.layer)


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.layers.Layer)


def reorder_as_graph(blocks: Blocks, order: Sequence[int], *, reason: str = "") -> ReorderedModel:
    """Build a Functional model of copies of the layers, with their weights, masks and latent values.

    Args:
        blocks: The blocks of a model.
        order: The numbers of the blocks, one after the other.
        reason: Why it is not built as an instance of the model's class.

    Raises:
        ValueError: If a layer has no configuration.
    """
    source = blocks.graph.model
    inputs = [keras.Input(batch_shape=each.shape, dtype=each.dtype, name=each.name) for each in source.inputs]
    copies = _Copies(blocks)
    outputs = blocks.run(order, inputs=inputs, perform=copies.perform).outputs
    copies.copy_weights()
    model = keras.Model(
        keras.tree.pack_sequence_as(source.input, inputs),
        keras.tree.pack_sequence_as(source.output, outputs),
        name=blocks.copy.name,
    )
    return ReorderedModel(model, blocks, order, copies.layers, "graph", reason)


class _Copies:
    """Copies of the layers and operations of a graph, one for each index at which they are called."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        names = blocks.names()
        self._names = {
            id(call): name_at for block in blocks.blocks for call, name_at in zip(block.calls, names, strict=True)
        }
        self._used_names = {tensor.name for tensor in blocks.graph.model.inputs}
        self._used_names |= {call.layer.name for call in blocks.outside}
        self._copied: list[tuple[Any, Any, str]] = []
        self.layers: dict[tuple[int, int | None], Any] = {}

    def perform(self, call: Call, index: int | None) -> Any:
        """Return the copy to call for a call."""
        key = (id(call.layer), None if self._blocks.is_shared(call.layer) else index)
        if key not in self.layers:
            copy, name = _copy(call.layer), self._name(call, key[1])
            _rename(copy, name)
            self._copied.append((call.layer, copy, name))
            self.layers[key] = copy
        self.layers[id(call.layer), index] = self.layers[key]
        return self.layers[key]

    def _name(self, call: Call, index: int | None) -> str:
        name = call.layer.name
        if index is None:
            return name if name in self._used_names else unused_name(name, self._used_names)
        name_at = self._names[id(call)]
        return unused_name(name_at(index) if name_at else name, self._used_names)

    def copy_weights(self) -> None:
        """Give the copies the weights, which exist once the copies were called, and their own names."""
        for layer, copy, name in self._copied:
            if isinstance(layer, keras.layers.Layer):
                copy_variables(layer, copy)
                _rename(copy, name)


def _copy(layer: Any) -> Any:
    if isinstance(layer, keras.layers.Layer):
        return copy_of(layer)
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))


def _rename(layer: Any, name: str) -> None:
    layer.name = name
    inside = layer_inside(layer)
    if inside is not layer:
        inside.name = name
