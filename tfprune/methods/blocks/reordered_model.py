"""A model with the blocks of another one, in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.models.graph import Call
from tfprune.methods.blocks.find_blocks import Blocks


@dataclass(frozen=True, eq=False)
class Arranged:
    """A model with the blocks of another one, in another order.

    Attributes:
        model: The model.
        found: The blocks that it was made of.
        order: Their numbers, one after the other.
        layers: What each layer became at a place among the blocks, by its id and the place; None is outside of them.
        into: `"class"` for an instance of the same class, `"graph"` for a Functional model.
        reason: Why it is a graph where the model was of a class; empty if it was not.
    """

    model: keras.Model
    found: Blocks
    order: Sequence[int]
    layers: dict[tuple[int, int | None], Any]
    into: str
    reason: str = ""

    def at(self, place: int) -> list[keras.layers.Layer]:
        """Return the layers of the block at a place, in the order in which they are called."""
        calls = self.found.blocks[self.order[place]].calls
        layers = [self.perform(call, place) for call in calls]
        return list(filter(_is_layer, layers))

    def every(self) -> list[keras.layers.Layer]:
        """Return all layers of the model, each once."""
        return list(filter(_is_layer, {id(one): one for one in self.layers.values()}.values()))

    def perform(self, call: Call, place: int | None) -> Any:
        """Return what takes the place of a call: see `run`."""
        return self.layers.get((id(call.layer), place), call.layer)


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.layers.Layer)
