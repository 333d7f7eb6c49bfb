"""Which weights of a model to prune: what `filters` means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfprune.patterns import Pattern
from tfprune.prunable import Kernel, kernels
from tfprune.rebuild import units
from tfprune.spec import check_regex
from tfprune.wrapper import holds_pruned

Filters = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None
Choice = dict[str, tuple[list[str], Pattern]]  # names of weights and their pattern, by the path of their layer


def choose(model: keras.Model, *, pattern: Pattern, filters: Filters) -> Choice:
    """Return the names of the weights to prune, by the path of their layer, with the pattern.

    Raises:
        ValueError: If none is chosen, a filter matches nothing, or two weights have the same path.
        TypeError: If `filters` is neither None, nor regular expressions, nor a function.
    """
    kernels(model)  # refuses two weights of one path, of which no report could tell which is which
    offered = [
        (path, layer, kernel)
        for path, layer in units(model)
        if not holds_pruned(layer) and not isinstance(layer, keras.Model)  # its class calls a graph
        for kernel in kernels(layer)
    ]
    paths = [f"{path}/{kernel.path}" for path, _, kernel in offered]
    if not paths and holds_pruned(model):
        raise ValueError(
            f"Expected weights that are not wrapped yet in model {model.name!r}. Received: a model whose wrappers "
            f"hold all that can be pruned. Use it as it is, or wrap tfprune.strip(model)"
        )
    wanted = selector(filters, pattern, paths)
    chosen: Choice = {}
    for path, layer, kernel in offered:
        if wanted(f"{path}/{kernel.path}", layer, kernel):
            chosen.setdefault(path, ([], pattern))[0].append(kernel.path)
    if not chosen:
        raise ValueError(
            f"Expected weights to prune in model {model.name!r}. Received: filters={filters!r}, pattern={pattern!r}, "
            f"which leave none of those that can be pruned: {', '.join(paths) or 'none'}"
        )
    return chosen


def selector(
    filters: Filters, pattern: Pattern, paths: list[str]
) -> Callable[[str, keras.layers.Layer, Kernel], bool]:
    """Turn `filters` into a function of path, layer and kernel; refuse an expression that matches no path."""
    if filters is None:  # of a whole model, what cannot take the pattern is left out instead of refused
        return lambda path, layer, kernel: kernel.mixes_inputs and not pattern.refusal(kernel.matrix_shape)
    if callable(filters):
        return lambda path, layer, kernel: bool(filters(layer))
    expressions = [filters] if isinstance(filters, str) else filters
    if not isinstance(expressions, Sequence):
        raise TypeError(
            f"Expected `filters` to be None, regular expressions or a function of a layer. Received: {filters!r}"
        )
    compiled = [check_regex(expression, "`filters`") for expression in expressions]
    for regex in compiled:
        if not any(regex.search(path) for path in paths):
            raise ValueError(
                f"Expected the filter to match a weight. Received: {regex.pattern!r}, which is found in none of "
                f"{', '.join(paths) or 'no weights at all'}"
            )
    return lambda path, layer, kernel: any(regex.search(path) for regex in compiled)
