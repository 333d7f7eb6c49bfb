"""The layers that a model or layer holds, and the values of their variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np


def as_numpy(variable: keras.Variable) -> np.ndarray:
    """Return a variable's value, with one copy at most; do not write to it."""
    return np.asarray(keras.ops.stop_gradient(keras.ops.convert_to_tensor(variable)))


def weight_values(model: keras.Model) -> Iterator[np.ndarray]:
    """Yield the values of all weights of a model."""
    return map(as_numpy, model.weights)


def weight_bytes(model: keras.Model) -> int:
    """Return the bytes of all weights of a model."""
    widths = {dtype: as_numpy(keras.ops.zeros(1, dtype)).itemsize for dtype in {each.dtype for each in model.weights}}
    return sum(int(np.prod(weight.shape)) * widths[weight.dtype] for weight in model.weights)


def is_of_keras(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer's class is one of Keras' own, or one of this library's around it."""
    return type(layer).__module__.partition(".")[0] in ("keras", "tfprune")


def join_path(path: str, inner: str) -> str:
    """Return the path of what is below a path; that of a model itself is empty."""
    return "/".join(filter(None, (path, inner)))


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a layer holds: a model's own list, else its attributes, lists and dicts included."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    layers: list[keras.layers.Layer] = []
    _collect_layers(attributes(layer).values(), layers)
    return layers


def attributes(layer: keras.layers.Layer) -> Mapping[str, Any]:
    """Return the attributes of a layer, by name."""
    if not hasattr(layer, "named_children"):
        return vars(layer)
    # A module of PyTorch keeps the layers in it apart.
    children = {name: child for name, child in layer.named_children() if isinstance(child, keras.layers.Layer)}
    return {**vars(layer), **children}


def quantized_already(root: keras.layers.Layer) -> str:
    """Say which layer `keras.Model.quantize` has quantized, and what to do; return an empty string if it has none."""
    for path, layer in walk(root):
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            return (
                f"keras.Model.quantize has quantized {path or layer.name!r} to {mode} already. Take the model from "
                f"before that call."
            )
    return ""


def _collect_layers(values: Iterable[Any], layers: list[keras.layers.Layer]) -> None:
    for value in values:
        if isinstance(value, (dict, list, tuple)):
            if value:  # Keras keeps many empty lists
                _collect_layers(value.values() if isinstance(value, dict) else value, layers)
        elif isinstance(value, keras.layers.Layer):
            layers.append(value)


def walk(
    root: keras.layers.Layer, *, stop: type[keras.layers.Layer] | tuple[type[keras.layers.Layer], ...] = ()
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield every layer below `root`, itself first, with its path; a layer used twice comes once.

    Args:
        root: A model or a layer.
        stop: Layers of this class are yielded, but not entered.
    """
    seen: set[int] = set()

    def visit(path: str, layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        if isinstance(layer, stop):
            return
        for child in sublayers(layer):
            yield from visit(join_path(path, child.name), child)

    yield from visit("", root)


def paired(source: keras.layers.Layer, target: keras.layers.Layer) -> list[tuple[Any, Any]]:
    """Return every layer below a root, itself first, with its counterpart in a copy."""
    return [(layer, counterpart) for (_, layer), (_, counterpart) in zip(walk(source), walk(target), strict=False)]


def rename(root: keras.layers.Layer, names: Iterable[str]) -> None:
    """Give the layers of `walk(root)` other names, those of the layer that it is a copy of."""
    for (_, layer), name in zip(list(walk(root)), names, strict=False):
        layer.name = name
