"""Readers of an `Anatomy` for callers that do not hand it on yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfprune.keras_models.models import anatomy
from tfprune.keras_models.models.anatomy import Anatomy, Kind, check_keras, kind_of

__all__ = ["check_keras"]


def is_graph(layer: Any) -> bool:
    """Tell whether it is a Sequential or Functional model, which is built from a list of layers."""
    return kind_of(layer) is Kind.GRAPH


def is_subclassed(layer: Any) -> bool:
    """Tell whether it is a model whose own code creates its layers and calls them."""
    return kind_of(layer) is Kind.CODE


def is_functional_subclass(layer: Any) -> bool:
    """Tell whether it is a model of a class of its own that is built around a graph, and calls nothing but it."""
    return kind_of(layer).is_functional_subclass


def rebuilds_as_class(layer: Any) -> bool:
    """Tell whether it is a Functional subclass whose class can be built anew, and does more than a plain graph."""
    return kind_of(layer) is Kind.FUNCTIONAL_SUBCLASS


def as_graph(layer: Any) -> keras.Model | None:
    """Return a model as a Sequential or Functional one over the same layers; None if it is not built from a graph."""
    return Anatomy.of(layer, accepts=keras.layers.Layer).graph if isinstance(layer, keras.Model) else None


def leaf_layers(model: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that a model and the models in it, subclassed ones too, are made of, with their paths."""
    yield from Anatomy.of(model, accepts=keras.layers.Layer).leaves


def graph_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that the graph of a model and of the models nested in it is made of, with their paths."""
    for path, part in Anatomy.of(model).ends(lambda part: part.kind.has_graph):
        yield path, part.model


def configured_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that a graph is built anew from, with their paths: models that keep their class stay whole."""
    for path, part in Anatomy.of(model).configured:
        yield path, part.model


def check_model(model: keras.Model) -> None:
    """Refuse a model that cannot be copied with its weights: see `anatomy.check_model`."""
    anatomy.check_model(Anatomy.of(model))


def check_layers(model: keras.Model) -> None:
    """Refuse a model whose layers cannot be copied: see `anatomy.check_layers`."""
    anatomy.check_layers(Anatomy.of(model))
