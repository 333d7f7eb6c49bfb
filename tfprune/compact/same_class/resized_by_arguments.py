"""A smaller model of the same class, built from its configuration with other numbers of heads and hidden units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.channels.network import ChanneledLayer, Network
from tfprune.keras_models.copying.class_config import class_config
from tfprune.keras_models.copying.functional_subclass import fresh_copy
from tfprune.keras_models.models.layers import as_numpy, rename
from tfprune.masking.wrapping.flat_copy import FlatCopy

Sizes = dict[tuple[bool, int], int]  # how many are kept, by whether they are heads and how many there are

# Which arguments count heads and hidden units: by a word in their names, and by words that mean something else.
_UNITS = ("intermediate", "mlp", "feed", "ffn", "ffw", "inner", "units")
_OTHERS = ("layers", "ratio", "size", "length", "rate")


def resized_by_arguments(copy: FlatCopy, network: Network, *, keep: np.ndarray) -> keras.Model | None:
    """Return a model of the same class of some channels alone; None if its arguments cannot say so.

    They can where all blocks keep the same number of heads, and of hidden units.

    Args:
        copy: The flat copy of a Functional subclass.
        network: Its channels.
        keep: Which bundles are kept.
    """
    plain = copy.plain
    weights = {id(variable): weight for weight, variable in network.variables(copy.model)}
    kept = [
        weights[id(variable)].kept(as_numpy(variable), keep) if id(variable) in weights else as_numpy(variable)
        for variable in plain.variables
    ]
    config = deepcopy(class_config(plain))
    sizes = sizes_of(network, network.layers.values(), keep=keep)
    if not _resize(config["config"], sizes, dict(_head_sizes(network))):
        return None
    try:
        smaller = fresh_copy(plain, origin=config)
    except ValueError:
        return None
    if [tuple(variable.shape) for variable in smaller.variables] != [values.shape for values in kept]:
        return None
    rename(smaller, copy.names)
    for variable, values in zip(smaller.variables, kept, strict=True):
        variable.assign(values)
    return smaller


def sizes_of(network: Network, layers: Iterable[ChanneledLayer], *, keep: np.ndarray) -> Sizes:
    """Return how many are kept of how many along the axes that kernels make, heads (True) and units apart."""
    heads = _heads(network)
    found: Sizes = {}
    for layer in layers:
        for weight in layer.weights:
            for axis in weight.makes:
                bundles = weight.bundles_along[axis]
                found[int(bundles[0]) in heads, bundles.size] = int(np.count_nonzero(keep[bundles]))
    return found


def _head_sizes(network: Network) -> Iterator[tuple[str, int]]:
    """Yield the size of a head, which stays: classes derive it from the number of heads where it is not given."""
    heads = _heads(network)
    for layer in network.layers.values():
        for weight in layer.weights:
            for axis in weight.makes:
                if int(weight.bundles_along[axis][0]) in heads and len(weight.shape) == 3 and 2 in weight.makes:
                    yield "head_dim", weight.shape[2]


def _heads(network: Network) -> set[int]:
    return {bundle for group in network.groups if group.kind == "heads" for bundle in group.bundles.tolist()}


def _resize(config: Any, sizes: Sizes, given: Mapping[str, int]) -> bool:
    """Change the numbers of heads and units in a configuration and in those inside of it; tell whether any was."""
    changed = False
    for name, value in list(config.items()):
        if isinstance(value, dict):
            changed |= _resize(value, sizes, given)
        elif value is None and name in given:
            config[name] = given[name]
        elif type(value) is int:
            config[name] = resized(name, value, sizes=sizes)
            changed |= config[name] != value
    return changed


def resized(name: str, value: int, *, sizes: Sizes) -> int:
    """Return a number of heads or units once the plan is carried out; a multiple of one where several are joined."""
    if name.endswith("key_value_groups"):  # how many queries share a key: all, where there is one
        queries = max((size for of_heads, size in sizes if of_heads), default=None)
        return sizes[True, value] if value == queries else value
    is_heads = "head" in name and "dim" not in name
    if any(word in name for word in _OTHERS) or not (is_heads or any(word in name for word in _UNITS)):
        return value
    fitting = {size: kept for (of_heads, size), kept in sizes.items() if of_heads == is_heads and value % size == 0}
    if not fitting:
        return value
    size = max(fitting)
    return value // size * fitting[size]
