"""A Functional model with the blocks of another model, in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call, unused_name
from tfprune.keras_models.models.rebuild import copy_of, copy_variables
from tfprune.methods.blocks.block import layer_inside
from tfprune.methods.blocks.find_blocks import Blocks
from tfprune.methods.blocks.names import numbered_names
from tfprune.methods.blocks.reordered_model import Arranged
from tfprune.methods.blocks.run import run


def arranged_graph(found: Blocks, order: Sequence[int], *, reason: str = "") -> Arranged:
    """Return a Functional model of copies of the layers, with their weights, masks and latent values.

    Args:
        found: The blocks of a model.
        order: The numbers of the blocks, one after the other.
        reason: Why it is not made as an instance of the model's class.

    Raises:
        ValueError: If a layer has no configuration.
    """
    source = found.graph.model
    inputs = [keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name) for one in source.inputs]
    made = _Copies(found)
    outputs = run(found, order, inputs=inputs, perform=made.perform).outputs
    made.fill()
    structured = [
        keras.tree.pack_sequence_as(structure, tensors)
        for structure, tensors in ((source.input, inputs), (source.output, outputs))
    ]
    return Arranged(keras.Model(*structured, name=found.copy.name), found, order, made.layers, "graph", reason)


class _Copies:
    """Copies of the layers and operations of a graph, one for each place where they are called."""

    def __init__(self, found: Blocks) -> None:
        self._found = found
        self._names = dict(zip(map(id, found.blocks[0].calls), numbered_names(found), strict=True))
        self._part = {
            id(call): model
            for block in found.blocks
            for call, model in zip(block.calls, found.blocks[0].calls, strict=True)
        }
        inside = found.inside()
        self._taken = {one.name for one in found.graph.model.inputs}
        self._taken |= {call.layer.name for call in found.graph.calls if id(call) not in inside}
        self._filled: list[tuple[Any, Any, str]] = []
        self.layers: dict[tuple[int, int | None], Any] = {}

    def perform(self, call: Call, place: int | None) -> Any:
        """Return the copy that takes the place of a call."""
        key = (id(call.layer), None if self._found.is_shared(call.layer) else place)
        if key not in self.layers:
            copy = _copied(call.layer)
            name = self._name(call, key[1])
            _rename(copy, name)
            self._filled.append((call.layer, copy, name))
            self.layers[key] = copy
        self.layers[id(call.layer), place] = self.layers[key]
        return self.layers[key]

    def _name(self, call: Call, place: int | None) -> str:
        if place is None:
            return call.layer.name if call.layer.name in self._taken else unused_name(call.layer.name, self._taken)
        numbered = self._names[id(self._part[id(call)])]
        return unused_name(numbered(place) if numbered else call.layer.name, self._taken)

    def fill(self) -> None:
        """Give the copies the weights, which are there once they were called, and their own names."""
        for layer, copy, name in self._filled:
            if isinstance(layer, keras.layers.Layer):
                copy_variables(layer, copy)
                _rename(copy, name)


def _copied(layer: Any) -> Any:
    if isinstance(layer, keras.layers.Layer):
        return copy_of(layer)
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))


def _rename(layer: Any, name: str) -> None:
    layer.name = name
    inside = layer_inside(layer)
    if inside is not layer:
        inside.name = name
