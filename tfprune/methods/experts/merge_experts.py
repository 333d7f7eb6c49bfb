"""Merge experts of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import check_count
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.experts.expert_ranking import ExpertRanking
from tfprune.methods.experts.experts_report import ExpertsReport
from tfprune.methods.experts.moe_layers import MoeLayer
from tfprune.methods.experts.rebuild_experts import new_top_k, read_experts, rebuild_experts


def merge_experts(
    model_or_layer: keras.layers.Layer,
    merge: int | Iterable[Iterable[int]],
    *,
    samples: Any = None,
    ranking: ExpertRanking | None = None,
    top_k: int | None = None,
) -> tuple[Any, ExpertsReport]:
    """Merge each group of experts of a mixture into one.

    Use it if experts of a mixture are similar. A merged expert is the mean of its group, in its weights and in its
    row of the router; its mask is the union of their masks.

    Args:
        model_or_layer: A built model or layer with a mixture of experts: of KerasHub, or registered with
            `experts.register`, wrapped or not. It is not changed.
        merge: The groups of experts that become one expert each, counted from 0, such as
            `[[0, 4], [1, 5], [2], [3]]`. Each expert belongs to one group. Or, with a ranking, the number of experts
            that remain in each layer, at least 1: the most important ones, and each other expert joins the one
            among them whose weights in the router are most similar by their cosine.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. Labels are ignored.
            None (the default) takes random numbers; for a layer it compares nothing.
        ranking: What `experts.rank` returned for the model. The experts of a group then have the weight of their
            importance in the mean. None (the default) gives them equal weights.
        top_k: The number of experts that are used for each input afterwards, at least 1. None (the default) keeps the
            number, or uses all remaining experts if there are fewer.

    Returns:
        An uncompiled model of the same class, or a layer, and a report with the difference of the outputs.

    Raises:
        TypeError: If `model_or_layer` is not a Keras model or layer, or `merge` are neither groups of integers nor an
            integer with a ranking, or `ranking` is not an `ExpertRanking`.
        ValueError: If it has no experts, or the groups do not name each expert once, or fewer experts should remain
            than there are.
        ValueError: If the ranking is that of another model, or the experts have no known router to compare.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> smaller, report = merge_experts(model, [[0, 1], [2, 3]], top_k=1)
        >>> smaller.num_experts, smaller.top_k, report.is_function_preserving
        (2, 1, False)

    Reference:
        Li et al., 2023, "Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy",
        arXiv:2310.01334, for merging by a ranking. The paper compares the scores of the router on data, and reorders
        hidden units before it merges; here the weights of the router are compared, and units stay in their order.
    """
    if ranking is not None and not isinstance(ranking, ExpertRanking):
        raise TypeError(
            f"Expected `ranking` to be what tfprune.experts.rank returns, or None. Received: ranking of type "
            f"{type(ranking).__name__}."
        )
    parts = None if ranking is not None and isinstance(merge, int) else _check_groups(merge)
    source, layers = read_experts(model_or_layer)
    importances = {} if ranking is None else _checked_importances(ranking, layers, name=model_or_layer.name)
    if parts is None:
        most = min(layer.experts for layer in layers) - 1
        count = check_count(merge, "merge", least=1, most=most)
        groups = {layer.path: _groups_around(importances[layer.path], layer, count=count) for layer in layers}
    else:
        groups = {layer.path: _all_named(parts, layer, name=model_or_layer.name) for layer in layers}
    shares = {path: [_shares(importances[path][group]) for group in groups[path]] for path in importances}
    new_count = new_top_k(top_k, layers, groups=groups)
    return rebuild_experts(source, layers, groups=groups, top_k=new_count, samples=samples, shares=shares)


def _check_groups(merge: Any) -> list[list[int]]:
    is_nested = isinstance(merge, Iterable) and not isinstance(merge, (str, bytes))
    parts = list(merge) if is_nested else []
    if not parts or any(isinstance(part, (str, bytes)) or not isinstance(part, Iterable) for part in parts):
        raise TypeError(
            f"Expected `merge` to be groups of experts, such as [[0, 1], [2, 3]], or with `ranking` a number of "
            f"experts. Received: merge={merge!r} of type {type(merge).__name__}."
        )
    checked = [[check_count(index, "merge", least=0) for index in part] for part in parts]
    if not all(checked):
        raise ValueError(f"Expected an expert in each group of `merge`. Received: merge={checked!r}.")
    return checked


def _all_named(parts: list[list[int]], layer: MoeLayer, *, name: str) -> list[list[int]]:
    if sorted(index for group in parts for index in group) != list(range(layer.experts)):
        raise ValueError(
            f"Expected `merge` to name each of the experts 0 to {layer.experts - 1} of {layer.path!r} in {name!r} "
            f"once. Received: merge={parts!r}. Remove experts with tfprune.experts.drop."
        )
    return parts


def _checked_importances(ranking: ExpertRanking, layers: Sequence[MoeLayer], *, name: str) -> dict[str, np.ndarray]:
    """Return the importance of each expert of each layer; refuse a ranking of another model."""
    importances = ranking.importances()
    sizes = {path: sorted(values) for path, values in importances.items()}
    if sizes != {layer.path: list(range(layer.experts)) for layer in layers}:
        raise ValueError(
            f"Expected a `ranking` of the experts of {name!r}: {_counted({x.path: x.experts for x in layers})}. "
            f"Received: {_counted({path: len(experts) for path, experts in sizes.items()})}. Rank the experts of "
            f"{name!r} itself."
        )
    return {path: np.array([values[index] for index in sizes[path]]) for path, values in importances.items()}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {path!r}" for path, count in counts.items())


def _groups_around(importances: np.ndarray, layer: MoeLayer, *, count: int) -> list[list[int]]:
    """Let each expert join the most similar one of the most important ones, which stay in their order."""
    rows = [
        np.moveaxis(as_numpy(variable), layer.axes[id(variable)], 0).reshape(layer.experts, -1)
        for variable in layer.layer.weights
        if id(variable) in layer.router
    ]
    if not rows:
        raise ValueError(
            f"Expected a known router in {layer.path!r} to find similar experts. Received: none among "
            f"{', '.join(layer.rule.axes)}. Name the router in tfprune.experts.register, or pass groups as `merge`."
        )
    router = np.concatenate(rows, axis=1).astype(np.float64)
    router /= np.maximum(np.linalg.norm(router, axis=1, keepdims=True), 1e-30)
    leaders = sorted(np.argsort(-importances, kind="stable")[:count].tolist())
    groups = {leader: [leader] for leader in leaders}
    for expert in sorted({*range(layer.experts)} - {*leaders}):
        groups[max(leaders, key=lambda leader: router[leader] @ router[expert])].append(expert)
    return [groups[leader] for leader in leaders]


def _shares(importances: np.ndarray) -> list[float]:
    total = float(importances.sum())
    return (importances / total if total > 0 else np.full(len(importances), 1 / len(importances))).tolist()
