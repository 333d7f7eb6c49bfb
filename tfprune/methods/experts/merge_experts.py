"""Merge experts of a mixture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tfprune.base.renamed import renamed
from tfprune.base.spec import check_count
from tfprune.methods.experts.experts_report import ExpertsReport
from tfprune.methods.experts.rebuild_experts import new_top_k, read_experts, rebuild_experts


@renamed(data="samples=", groups="merge=")
def merge_experts(
    model_or_layer: keras.layers.Layer,
    merge: Iterable[Iterable[int]],
    *,
    samples: Any = None,
    top_k: int | None = None,
) -> tuple[Any, ExpertsReport]:
    """Merge each group of experts of a mixture into one.

    Use it if experts of a mixture are similar. A merged expert is the mean of its group, in its weights and in its
    row of the router; its mask is the union of their masks.

    Args:
        model_or_layer: A built model or layer with a mixture of experts: of KerasHub, or registered with
            `register_experts`, wrapped or not. It is not changed.
        merge: The groups of experts that become one expert each, counted from 0, such as
            `[[0, 4], [1, 5], [2], [3]]`. Each expert belongs to one group.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. Labels are ignored.
            None (the default) takes random numbers; for a layer it compares nothing.
        top_k: The number of experts that are used for each input afterwards, at least 1. None (the default) keeps the
            number, or uses all remaining experts if there are fewer.

    Returns:
        An uncompiled model of the same class, or a layer, and a report with the difference of the outputs.

    Raises:
        TypeError: If `model_or_layer` is not a Keras model or layer, or `merge` are not groups of integers.
        ValueError: If it has no experts, or the groups do not name each expert once.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> smaller, report = merge_experts(model, [[0, 1], [2, 3]], top_k=1)
        >>> smaller.num_experts, smaller.top_k, report.is_function_preserving
        (2, 1, False)
    """
    parts = _check_groups(merge)
    source, layers = read_experts(model_or_layer)
    count = layers[0].experts
    if sorted(index for group in parts for index in group) != list(range(count)):
        raise ValueError(
            f"Expected `merge` to name each of the experts 0 to {count - 1} of {model_or_layer.name!r} once. "
            f"Received: merge={parts!r}. Remove experts with tfprune.drop_experts."
        )
    used = new_top_k(top_k, layers, experts=len(parts))
    return rebuild_experts(
        source, layers, groups={layer.path: parts for layer in layers}, top_k=used, samples=samples
    )


def _check_groups(merge: Any) -> list[list[int]]:
    is_nested = isinstance(merge, Iterable) and not isinstance(merge, (str, bytes))
    parts = list(merge) if is_nested else []
    if not parts or any(isinstance(part, (str, bytes)) or not isinstance(part, Iterable) for part in parts):
        raise TypeError(
            f"Expected `merge` to be groups of experts, such as [[0, 1], [2, 3]]. Received: merge={merge!r} of "
            f"type {type(merge).__name__}."
        )
    checked = [[check_count(index, "merge", least=0) for index in part] for part in parts]
    if not all(checked):
        raise ValueError(f"Expected an expert in each group of `merge`. Received: merge={checked!r}.")
    return checked
