"""Copies of models with some layers replaced; the weights are another step, and another module's."""

from __future__ import annotations

from collections.abc import Callable

import keras

from tfprune.copying.subclassed import reassemble
from tfprune.models.kinds import as_graph, is_subclassed
from tfprune.models.rebuild import Replace, rebuild

Copy = Callable[..., keras.Model]  # `reassemble` or `restore`


def copy_model(model: keras.Model, replace: Replace, *, subclassed: Copy = reassemble) -> keras.Model:
    """Return an uncompiled copy of a model in which some layers are replaced; weights are not copied.

    Args:
        model: A built model. It is left untouched.
        replace: Called with the path of each layer and the layer; returns the replacement, of which only the
            configuration is used, or None to keep a copy of the layer.
        subclassed: Copies a subclassed model: `reassemble` as an instance that is saved with its layers, `restore`
            as an instance of its first class.

    Raises:
        ValueError: If the model cannot be copied.
    """

    def replaced(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return subclassed(layer, replaced, path=path) if is_subclassed(layer) else replace(path, layer)

    graph = as_graph(model)
    return subclassed(model, replaced) if graph is None else rebuild(graph, replaced)
