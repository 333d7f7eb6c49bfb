"""Which weights of a model to wrap, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras

from tfprune.criteria import Criterion
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.filters import Filters, selector
from tfprune.keras_models.models.kernels import Kernel, expected_kernels, kernels
from tfprune.keras_models.models.layers import quantized_already
from tfprune.masking.wrapping.pruned import Pruned, holds_pruned
from tfprune.patterns import Pattern

# By the path of a layer: the names of its weights, None for those that the wrapper finds, and their pattern.
Choice = dict[str, tuple[list[str] | None, Pattern]]

_Offer = tuple[str, keras.layers.Layer, Kernel]  # the path of a layer, the layer, and a weight of it


def choose_weights(
    anatomy: Anatomy, *, criterion: Criterion, pattern: Pattern, filters: Filters, latent: str
) -> Choice:
    """Return the names of the weights to wrap, by the path of their layer, with the pattern.

    Weights that are wrapped already, with these arguments, stay as they are and are not in the choice. The layers of
    a Sequential model that is not built are chosen by their class.

    Raises:
        ValueError: If no weight is meant, a filter matches nothing, two weights have the same path, or one is wrapped
            with another criterion, pattern or choice of latent values.
        TypeError: If `filters` is neither None, nor regular expressions, nor a function.
    """
    model = anatomy.model
    find = expected_kernels if is_unbuilt(model) else kernels
    kernels(model)  # refuses two weights of one path, of which no report could tell which is which
    offered = _each_once(
        (path, layer, kernel)
        for path, layer in anatomy.leaves
        if not isinstance(layer, keras.Model)  # its class calls a graph
        for kernel in _offered(layer, find)
    )
    paths = [f"{path}/{kernel.path}" for path, _, kernel in offered]
    others = ((f"{path}/{weight.name}", layer) for path, layer in anatomy.leaves for weight in layer.weights)
    wanted = selector(filters, pattern, paths, others=others)
    meant = [entry for entry in offered if wanted(f"{entry[0]}/{entry[2].path}", entry[1], entry[2])]
    if not meant:
        unnamed = "" if paths else "Name the weights of your layers with tfprune.register_prunable."
        advice = quantized_already(model) or unnamed
        raise ValueError(
            f"Expected weights to prune in model {model.name!r}. Received: filters={filters!r}, pattern={pattern!r}, "
            f"which leave none of those that can be pruned: {', '.join(paths) or 'none'}. {advice}".rstrip()
        )
    wrapped = {path: layer for path, layer, _ in meant if isinstance(layer, Pruned) and layer.prunes}
    _check_agreement(wrapped, criterion, pattern, latent)
    choice: Choice = {}
    finds_them = filters is None and is_unbuilt(model)
    for path, _, kernel in meant:
        if path not in wrapped:
            names = [] if path not in choice else choice[path][0] or []
            choice[path] = (None if finds_them else [*names, kernel.path], pattern)
    return choice


def _each_once(offered: Iterable[_Offer]) -> list[_Offer]:
    """Leave a weight that several layers hold to the one that holds it most closely."""
    closest: dict[int, _Offer] = {}
    offers = list(offered)
    for offer in offers:
        if offer[2].variable is not None:
            best = closest.setdefault(id(offer[2].variable), offer)
            if offer[2].path.count("/") < best[2].path.count("/"):
                closest[id(offer[2].variable)] = offer
    return [offer for offer in offers if closest.get(id(offer[2].variable), offer) is offer]


def is_unbuilt(model: keras.Model) -> bool:
    """Tell whether it is a list of layers that the first batch will build."""
    return isinstance(model, keras.Sequential) and not model.built


def _offered(layer: keras.layers.Layer, find: Callable[[keras.layers.Layer], list[Kernel]]) -> list[Kernel]:
    if isinstance(layer, Pruned):
        return list(layer.kernels.values()) if layer.built and layer.prunes else find(layer.layer)
    return [] if holds_pruned(layer) else find(layer)


def _check_agreement(wrapped: dict[str, Pruned], criterion: Criterion, pattern: Pattern, latent: str) -> None:
    """Refuse wrappers that are to stay as they are, but were made with other arguments.

    Raises:
        ValueError: Naming the first of them.
    """
    for path, layer in wrapped.items():
        if layer.criterion != criterion or layer.pattern != pattern:
            asked = f"criterion={criterion!r} and pattern={pattern!r}"
            own = f"criterion={layer.criterion!r} and pattern={layer.pattern!r}"
        elif layer.latent_values != latent:
            asked, own = f"latent={latent!r}", f"latent={layer.latent_values!r}"
        else:
            continue
        raise ValueError(
            f"Expected weights that are not wrapped yet, or wrapped with {asked}. Received: {path}, which is wrapped "
            f"with {own}. Leave it out with `filters`, or wrap tfprune.strip(model)."
        )
