"""A smaller model of the same class, built from its configuration with other numbers of heads and hidden units."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import keras
import numpy as np

from tfprune.compact.same_class.class_arguments import build_with_arguments, dicts_in
from tfprune.compact.same_class.exchanged import Resized, has_cache, replace_methods
from tfprune.compact.same_class.removed_branches import NoClass
from tfprune.keras_models.copying.twin import class_config
from tfprune.keras_models.models.layers import as_numpy, rename, walk
from tfprune.keras_models.tracing.same_outputs import same_outputs
from tfprune.keras_models.tracing.sample_inputs import first_run, run_on_numbers
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.solving.dependency_graph import ChanneledLayer, Network

Sizes = dict[tuple[bool, int], int]  # how many are kept, by whether they are heads and how many there are

# Which arguments count heads and hidden units: by a word in their names, and by words that mean something else.
_UNITS = ("intermediate", "mlp", "feed", "ffn", "ffw", "inner", "units")
_OTHERS = ("layers", "ratio", "size", "length", "rate")


def resized_by_arguments(copy: FlatCopy, network: Network, *, keep: np.ndarray) -> keras.Model:
    """Build a model of the same class with fewer channels by other arguments.

    Use it where all blocks keep the same number of heads, and of hidden units.

    Args:
        copy: The flat copy of a Functional subclass.
        network: Its channels.
        keep: Which bundles are kept.

    Raises:
        NoClass: If the arguments of the class cannot say what is kept.
    """
    plain = copy.plain
    if any(isinstance(layer, Resized) for layer in copy.layers):
        raise NoClass("some of its layers have other sizes than its arguments say")
    if network.branch_ends(keep):
        raise NoClass("a branch of it is removed whole")
    weights = {id(variable): weight for weight, variable in network.variables(copy.model)}
    values_kept = [
        weights[id(variable)].kept(as_numpy(variable), keep) if id(variable) in weights else as_numpy(variable)
        for variable in plain.variables
    ]
    config = deepcopy(class_config(plain))
    sizes = sizes_of(network, network.layers.values(), keep=keep)
    if not _resize(config["config"], sizes, dict(_head_sizes(network))):
        raise NoClass(f"no argument of {type(plain).__name__} counts what is removed")
    smaller = build_with_arguments(plain, config)
    if [tuple(variable.shape) for variable in smaller.variables] != [values.shape for values in values_kept]:
        raise NoClass(f"{type(plain).__name__} makes layers of other sizes")
    rename(smaller, copy.names)
    copy.write_zeros(network, keep)
    run = first_run(copy.plain)
    for variable, values in zip(smaller.variables, values_kept, strict=True):
        variable.assign(values)
    if run is not None and not same_outputs(run_on_numbers(smaller, run[0]), run[1]):
        raise NoClass(f"{type(plain).__name__} computes something else with other arguments")
    if reason := _head_size_apart(smaller):
        replace_methods(smaller, export_to_transformers=functools.partial(_refuse_head_size, reason))
    return smaller


def _refuse_head_size(reason: str, *args: Any, **kwargs: Any) -> None:
    raise ValueError(
        f"Expected a model that the configuration of a Transformers model describes. Received: {reason}. Remove "
        f"units only, with `filters`, or save the model with save('model.keras') or save_to_preset."
    )


def _head_size_apart(model: keras.Model) -> str:
    """Say which model has heads of another size than the one that is derived where none is given; "" for none.

    KerasHub derives it anew for the configuration of a Transformers model of such a class.
    """
    for _, part in walk(model):
        if not isinstance(part, keras.Model) or not _may_derive_head_size(type(part)):
            continue
        config = part.get_config()
        head_size, width, heads = (config.get(name) for name in ("head_dim", "hidden_dim", "num_query_heads"))
        if head_size and width and heads and width // heads != head_size:
            return (
                f"a {type(part).__name__} with {heads} heads of {head_size} channels, for which KerasHub writes a "
                f"head_dim of {width // heads}"
            )
    return ""


def _may_derive_head_size(model_class: type) -> bool:
    parameters = inspect.signature(model_class).parameters
    return "head_dim" in parameters and parameters["head_dim"].default is None


def sizes_of(network: Network, layers: Iterable[ChanneledLayer], *, keep: np.ndarray) -> Sizes:
    """Return how many are kept of how many along the axes that kernels make, heads (True) and units apart."""
    heads = _heads(network)
    sizes: Sizes = {}
    for layer in layers:
        for weight in layer.weights:
            for axis in weight.makes:
                bundles = weight.bundles_along[axis]
                sizes[int(bundles[0]) in heads, bundles.size] = int(np.count_nonzero(keep[bundles]))
    return sizes


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


def _resize(config: dict[str, Any], sizes: Sizes, head_sizes: Mapping[str, int]) -> bool:
    """Change the numbers of heads and units in a configuration; tell whether any changed."""
    changed = False
    for arguments in dicts_in(config):
        for name, value in arguments.items():
            if value is None and name in head_sizes:
                arguments[name] = head_sizes[name]
            elif type(value) is int:
                arguments[name] = smaller_count(name, value, sizes=sizes)
                changed |= arguments[name] != value
    return changed


def smaller_count(name: str, value: int, *, sizes: Sizes) -> int:
    """Return a number of heads or units in the smaller model; a multiple of it where several layers are joined."""
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


def numbers_kept(layer: keras.layers.Layer, sizes: Sizes) -> dict[str, int]:
    """Return the attributes of a layer that count heads or units of the layers inside, with how many are kept."""
    before = {name: value for name, value in vars(layer).items() if type(value) is int}
    after = {name: smaller_count(name, value, sizes=sizes) for name, value in before.items()}
    return {name: value for name, value in after.items() if value != before[name]}


def heads_kept(layer: keras.layers.Layer, sizes: Sizes) -> int | None:
    """Return how many heads an attention keeps of those that a cache holds, the fewer of queries' and keys'."""
    counts = [count for (of_heads, _), count in sizes.items() if of_heads]
    return min(counts) if counts and has_cache(layer) else None
