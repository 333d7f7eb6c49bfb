"""What `filters` means: which weights of a model are meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras

from tfprune.base.spec import check_regex
from tfprune.keras_models.models.kernels import Kernel
from tfprune.keras_models.models.layers import quantized_already
from tfprune.patterns import Pattern

Filters = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


def selector(
    filters: Filters, pattern: Pattern, paths: list[str], *, others: Iterable[tuple[str, keras.layers.Layer]]
) -> Callable[[str, keras.layers.Layer, Kernel], bool]:
    """Turn `filters` into a function of path, layer and kernel.

    Args:
        filters: What the user passed.
        pattern: The pattern that is wanted.
        paths: The paths of the weights that can be pruned.
        others: The paths of other weights, and their layers, for the message.

    Raises:
        TypeError: If `filters` is neither None, nor regular expressions, nor a function.
        ValueError: If an expression is none, or matches no path.
    """
    if filters is None:  # of a whole model, what cannot take the pattern is left out instead of refused
        return lambda path, layer, kernel: kernel.mixes_inputs and kernel.takes(pattern)
    if callable(filters) and not isinstance(filters, (type, keras.layers.Layer)):
        return lambda path, layer, kernel: bool(filters(layer))
    expressions = [filters] if isinstance(filters, str) else filters
    if not isinstance(expressions, Sequence) or not all(isinstance(each, str) for each in expressions):
        raise TypeError(
            f"Expected `filters` to be None, a regular expression, several, or a function of a layer. Received: "
            f"filters={filters!r} of type {type(filters).__name__}. To choose by class, pass filters=lambda layer: "
            f"isinstance(layer, keras.layers.Dense)."
        )
    compiled = [check_regex(expression, "`filters`") for expression in expressions]
    for regex in compiled:
        if not any(regex.search(path) for path in paths):
            elsewhere = (f" It is found in {path}: {_reason(layer)}" for path, layer in others if regex.search(path))
            raise ValueError(
                f"Expected `filters` to match a weight that can be pruned. Received: {regex.pattern!r}, which is "
                f"found in none of {', '.join(paths) or 'no weights at all'}.{next(elsewhere, '')}"
            )
    return lambda path, layer, kernel: any(regex.search(path) for regex in compiled)


def _reason(layer: keras.layers.Layer) -> str:
    """Say why a weight of a layer cannot be pruned."""
    return quantized_already(layer) or (
        "biases and the weights of normalization are never pruned, and those of a layer of your own once "
        "tfprune.register_prunable names them."
    )
