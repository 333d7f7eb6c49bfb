"""What `filters` means: which weights of a model are meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfprune.models.kernels import Kernel
from tfprune.patterns import Pattern
from tfprune.spec import check_regex

Filters = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


def selector(
    filters: Filters, pattern: Pattern, paths: list[str]
) -> Callable[[str, keras.layers.Layer, Kernel], bool]:
    """Turn `filters` into a function of path, layer and kernel; refuse an expression that matches no path."""
    if filters is None:  # of a whole model, what cannot take the pattern is left out instead of refused
        return lambda path, layer, kernel: kernel.mixes_inputs and kernel.takes(pattern)
    if callable(filters):
        return lambda path, layer, kernel: bool(filters(layer))
    expressions = [filters] if isinstance(filters, str) else filters
    if not isinstance(expressions, Sequence):
        raise TypeError(
            f"Expected `filters` to be None, regular expressions or a function of a layer. Received: {filters!r}."
        )
    compiled = [check_regex(expression, "`filters`") for expression in expressions]
    for regex in compiled:
        if not any(regex.search(path) for path in paths):
            raise ValueError(
                f"Expected the filter to match a weight. Received: {regex.pattern!r}, which is found in none of "
                f"{', '.join(paths) or 'no weights at all'}."
            )
    return lambda path, layer, kernel: any(regex.search(path) for regex in compiled)
