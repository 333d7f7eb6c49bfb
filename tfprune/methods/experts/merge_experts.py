"""Make one expert of several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tfprune.base.spec import check_count
from tfprune.methods.experts.experts_report import ExpertsReport
from tfprune.methods.experts.rebuild_experts import checked_layers, remade


def merge_experts(
    model_or_layer: keras.layers.Layer,
    groups: Iterable[Iterable[int]],
    *,
    top_k: int | None = None,
    data: Any = None,
) -> tuple[Any, ExpertsReport]:
    """Make one expert of each group of experts, and return the smaller model with a report.

    Use it where experts of a mixture are much alike. A merged expert is the mean of its group, in its weights and in
    its row of the router; it keeps what the mask of any of them keeps.

    Args:
        model_or_layer: A built model or layer with a mixture of experts: of KerasHub, or registered with
            `register_experts`, wrapped or not. It is left unchanged.
        groups: The experts of each new expert, counted from 0, such as `[[0, 4], [1, 5], [2], [3]]`. Each expert
            belongs to one group.
        top_k: How many experts are used for each input afterwards, at least 1; None (the default) keeps the number,
            or uses all that are left if there are fewer.
        data: Inputs, or (x, y), on which the outputs of both models are compared; a few dozen samples do. None
            (the default) takes random numbers, and compares nothing for a layer.

    Returns:
        An uncompiled model of the same class, or a layer; and a report that says whether it computes the same.

    Raises:
        TypeError: If `model_or_layer` is not a Keras model or layer, or `groups` are not groups of integers.
        ValueError: If it has no experts, or the groups do not name each expert once.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> smaller, report = merge_experts(model, [[0, 1], [2, 3]], top_k=1)
        >>> smaller.num_experts, smaller.top_k, report.is_function_preserving
        (2, 1, False)
    """
    wanted = _checked(groups)
    found = checked_layers(model_or_layer)
    count = found[0].experts
    if sorted(index for group in wanted for index in group) != list(range(count)):
        raise ValueError(
            f"Expected `groups` to name each of the experts 0 to {count - 1} of {model_or_layer.name!r} once. "
            f"Received: groups={wanted!r}. Leave experts out with tfprune.drop_experts."
        )
    used = (
        min(found[0].top_k, len(wanted)) if top_k is None else check_count(top_k, "top_k", least=1, most=len(wanted))
    )
    return remade(model_or_layer, {layer.path: wanted for layer in found}, top_k=used, data=data)


def _checked(groups: Any) -> list[list[int]]:
    is_nested = isinstance(groups, Iterable) and not isinstance(groups, (str, bytes))
    parts = list(groups) if is_nested else []
    if not parts or any(isinstance(part, (str, bytes)) or not isinstance(part, Iterable) for part in parts):
        raise TypeError(
            f"Expected `groups` to be groups of experts, such as [[0, 1], [2, 3]]. Received: groups={groups!r} of "
            f"type {type(groups).__name__}."
        )
    found = [[check_count(index, "groups", least=0) for index in part] for part in parts]
    if not all(found):
        raise ValueError(f"Expected an expert in each of `groups`. Received: groups={found!r}.")
    return found
