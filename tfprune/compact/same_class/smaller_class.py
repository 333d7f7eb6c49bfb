"""A smaller model of the same class: by its arguments where they can say what is kept, else block by block."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tfprune.compact.same_class.class_arguments import NoClass
from tfprune.compact.same_class.exchanged import Exchange, has_cache, resize
from tfprune.compact.same_class.resized_by_arguments import Sizes, sizes_of, smaller_count
from tfprune.keras_models.channels.network import ChanneledLayer, Network
from tfprune.keras_models.models.layers import sublayers
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.keras_models.models.rebuild import copy_of
from tfprune.keras_models.tracing.same_outputs import same_outputs
from tfprune.keras_models.tracing.sample_inputs import first_run, run_on_numbers
from tfprune.masking.wrapping.flat_copy import FlatCopy


def smaller_class(copy: FlatCopy, network: Network, *, keep: np.ndarray) -> keras.Model:
    """Build a model of the same class with fewer channels, the layers inside of its blocks exchanged.

    Args:
        copy: The flat copy of a Functional subclass. It is used up; if there is no such model, its graph is intact.
        network: Its channels.
        keep: Which bundles are kept.

    Raises:
        NoClass: If the smaller model returns something else than the model with zeros.
    """
    layers = copy.layers
    known = {id(layer): network.layers[layer.name] for layer in copy.model.layers if layer.name in network.layers}
    changed = {key: layer for key, layer in known.items() if layer.changes(keep)}
    parts = {
        index: _part(layer, changed[id(layer)], keep) for index, layer in enumerate(layers) if id(layer) in changed
    }
    inner = {index: [changed[id(part)] for part in _inside(layer, changed)] for index, layer in enumerate(layers)}
    sizes = {index: sizes_of(network, some, keep=keep) for index, some in inner.items() if some}
    heads = {index: count for index, of_layer in sizes.items() if (count := _heads(layers[index], of_layer))}
    numbers = {index: _numbers(layers[index], of_layer) for index, of_layer in sizes.items()}
    copy.is_used_up = True
    copy.write_zeros(network, keep)
    run = first_run(copy.plain)
    before = [(layer, type(layer), dict(vars(layer))) for layer in layers]
    resize(layers, Exchange(parts, {key: values for key, values in numbers.items() if values}, heads))
    outputs = None if run is None else run_on_numbers(copy.plain, run[0])
    if run is None or not same_outputs(outputs, run[1]):
        for layer, layer_class, attributes in before:
            layer.__class__ = layer_class
            vars(layer).clear()
            vars(layer).update(attributes)
        raise NoClass("its code returns something else where layers are smaller")
    return copy.hand_out()


def _inside(layer: keras.layers.Layer, changed: Mapping[int, ChanneledLayer]) -> list[keras.layers.Layer]:
    """Return the changed layers that a layer holds; the numbers of a model say what its cache is, and stay."""
    if isinstance(layer, keras.Model):
        return []
    return [part for part in sublayers(layer) if id(part) in changed]


def _part(layer: keras.layers.Layer, known: ChanneledLayer, keep: np.ndarray) -> keras.layers.Layer:
    """Return the smaller layer, built as the layer was, with its sizes open."""
    part = copy_of(layer, changes=known.counted(keep))
    config = layer.get_build_config() or {}  # none of a layer without weights that another one built
    if "input_shape" in config:
        built = config["input_shape"]
        takes = known.takes[-len(built) :]  # perhaps called on positions in one axis
        takes = (None,) * (len(built) - len(takes)) + takes
        config = {
            "input_shape": tuple(
                size if size is None or bundles is None else int(np.count_nonzero(keep[bundles]))
                for size, bundles in zip(built, takes, strict=True)
            )
        }
    part.build_from_config(config)
    train_alike(layer, part)
    for variable, values in zip(part.variables, known.values_kept(layer, keep), strict=True):
        variable.assign(values)
    return part


def _numbers(layer: keras.layers.Layer, sizes: Sizes) -> dict[str, int]:
    """Return the attributes of a layer that count heads or units of the layers inside, with how many are kept."""
    before = {name: value for name, value in vars(layer).items() if type(value) is int}
    after = {name: smaller_count(name, value, sizes=sizes) for name, value in before.items()}
    return {name: value for name, value in after.items() if value != before[name]}


def _heads(layer: keras.layers.Layer, sizes: Sizes) -> int | None:
    """Return how many heads an attention keeps of those that a cache holds, the fewer of queries' and keys'."""
    kept = [count for (of_heads, _), count in sizes.items() if of_heads]
    return min(kept) if kept and has_cache(layer) else None
