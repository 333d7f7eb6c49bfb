"""The plain, flat copy of a graph model in which channels are followed, and where each of its layers came from."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfprune.copying.subclassed import layer_pairs
from tfprune.models.graph import check_graph, flatten
from tfprune.wrapping.strip import plain_copy


@dataclass(frozen=True, eq=False)
class FlatCopy:
    """A copy of a model without wrappers and without models nested in it.

    Attributes:
        model: The copy, a Functional model.
        origins: The layers of the model that was copied, wrappers among them, by the names of their copies.
    """

    model: keras.Model
    origins: dict[str, keras.layers.Layer]


def flat_copy(model: keras.Model) -> FlatCopy:
    """Strip and flatten a model; it is left untouched.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not a graph.
    """
    check_graph(model)
    plain = plain_copy(model)
    sources = {id(copy): layer for layer, copy in layer_pairs(model, plain)}
    flat = flatten(plain)
    return FlatCopy(flat, {layer.name: sources[id(layer)] for layer in flat.layers if id(layer) in sources})
