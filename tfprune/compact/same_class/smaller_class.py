"""A smaller model of the same class: by its arguments where they can say what is kept, else block by block."""

from __future__ import annotations

import keras
import numpy as np

from tfprune.compact.same_class.exchanged import Exchange, resize
from tfprune.compact.same_class.removed_branches import NoClass, RemovedBranches
from tfprune.compact.same_class.resized_by_arguments import heads_kept, numbers_kept, sizes_of
from tfprune.keras_models.copying.twin import copy_of, set_values
from tfprune.keras_models.models.layers import as_numpy, sublayers
from tfprune.keras_models.tracing.same_outputs import same_outputs
from tfprune.keras_models.tracing.sample_inputs import first_run, run_on_numbers
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.solving.dependency_graph import ChanneledLayer, Network


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
    channels = {id(layer): network.layers[layer.name] for layer in copy.model.layers if layer.name in network.layers}
    changed = {key: layer for key, layer in channels.items() if layer.changes(keep)}
    branches = RemovedBranches(copy, network, keep=keep)
    parts = branches.parts | {
        index: _part(layer, changed[id(layer)], keep)
        for index, layer in enumerate(layers)
        if id(layer) in changed and index not in branches.touched
    }
    inner = {
        index: [changed[id(part)] for part in sublayers(layer) if id(part) in changed]
        for index, layer in enumerate(layers)
        if not isinstance(layer, keras.Model)  # whose numbers say what its cache is
    }
    sizes = {
        index: sizes_of(network, some, keep=keep)
        for index, some in inner.items()
        if some and index not in branches.touched
    }
    heads = {index: count for index, of_layer in sizes.items() if (count := heads_kept(layers[index], of_layer))}
    numbers = {index: numbers_kept(layers[index], of_layer) for index, of_layer in sizes.items()}
    copy.is_used_up = True
    copy.write_zeros(network, keep)
    run = first_run(copy.plain)
    before = [(layer, type(layer), dict(vars(layer))) for layer in layers]
    filled = {key: values for key, values in numbers.items() if values}
    resize(layers, Exchange(parts, filled, heads, dict.fromkeys(branches.whole, 1)))
    outputs = None if run is None else run_on_numbers(copy.plain, run[0])
    if run is None or not same_outputs(outputs, run[1]):
        for layer, layer_class, attributes in before:
            layer.__class__ = layer_class
            vars(layer).clear()
            vars(layer).update(attributes)
        raise NoClass("its code returns something else where layers are smaller")
    return copy.hand_out()


def _part(layer: keras.layers.Layer, channels: ChanneledLayer, keep: np.ndarray) -> keras.layers.Layer:
    """Return the smaller layer, built as the layer was, with its sizes open."""
    sizes, values = channels.counted(keep), channels.values_kept(layer, map(as_numpy, layer.variables), keep)
    part = copy_of(layer, changes=sizes)
    config = layer.get_build_config() or {}  # none of a layer without weights that another one built
    if "input_shape" in config:
        built = config["input_shape"]
        takes = channels.takes[-len(built) :]  # perhaps called on positions in one axis
        takes = (None,) * (len(built) - len(takes)) + takes
        config = {
            "input_shape": tuple(
                size if size is None or bundles is None else int(np.count_nonzero(keep[bundles]))
                for size, bundles in zip(built, takes, strict=True)
            )
        }
    part.build_from_config(config)
    set_values(layer, part, values=values)
    return part
