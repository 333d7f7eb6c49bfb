"""Which weights of a model to prune: what `filters` means."""

from __future__ import annotations

import keras

from tfprune.models.filters import Filters, selector
from tfprune.models.kernels import kernels
from tfprune.models.kinds import leaf_layers
from tfprune.patterns import Pattern
from tfprune.wrapping.pruned import holds_pruned

Choice = dict[str, tuple[list[str], Pattern]]  # names of weights and their pattern, by the path of their layer


def choose_weights(model: keras.Model, *, pattern: Pattern, filters: Filters) -> Choice:
    """Return the names of the weights to prune, by the path of their layer, with the pattern.

    Raises:
        ValueError: If none is chosen, a filter matches nothing, or two weights have the same path.
        TypeError: If `filters` is neither None, nor regular expressions, nor a function.
    """
    kernels(model)  # refuses two weights of one path, of which no report could tell which is which
    offered = [
        (path, layer, kernel)
        for path, layer in leaf_layers(model)
        if not holds_pruned(layer) and not isinstance(layer, keras.Model)  # its class calls a graph
        for kernel in kernels(layer)
    ]
    paths = [f"{path}/{kernel.path}" for path, _, kernel in offered]
    if not paths and holds_pruned(model):
        raise ValueError(
            f"Expected weights that are not wrapped yet in model {model.name!r}. Received: a model whose wrappers "
            f"hold all that can be pruned. Use it as it is, or wrap tfprune.strip(model)."
        )
    wanted = selector(filters, pattern, paths)
    chosen: Choice = {}
    for path, layer, kernel in offered:
        if wanted(f"{path}/{kernel.path}", layer, kernel):
            chosen.setdefault(path, ([], pattern))[0].append(kernel.path)
    if not chosen:
        raise ValueError(
            f"Expected weights to prune in model {model.name!r}. Received: filters={filters!r}, pattern={pattern!r}, "
            f"which leave none of those that can be pruned: {', '.join(paths) or 'none'}."
        )
    return chosen
