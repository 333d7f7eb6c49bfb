"""Grow a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.methods.experts.experts_report import ExpertsReport
from tfprune.methods.experts.moe_layers import MoeLayer
from tfprune.methods.experts.rebuild_experts import read_experts, rebuild_experts


def grow_experts(
    model_or_layer: keras.layers.Layer,
    factor: int = 2,
    *,
    samples: Any = None,
    order: str = "append",
    noise: float = 0.01,
    random: str | None = None,
    grow_top_k: bool = True,
    seed: int = 0,
) -> tuple[Any, ExpertsReport]:
    """Repeat the experts of a mixture, so that the model becomes wider.

    Use it to start from a trained model instead of training a larger one from scratch. Each expert is copied with its
    row of the router, and `factor` times as many experts are used for each input. Without noise the wider model
    computes the same, but copies get equal gradients and stay equal; noise makes them differ. Each copy gets the
    masks and latent values of its expert, and noise never changes a zero. `experts.drop(grown, report.copies,
    top_k=...)` undoes the growth.

    Args:
        model_or_layer: A built model or layer with a mixture of experts: of KerasHub, or registered with
            `experts.register`, wrapped or not. It is not changed.
        factor: The number of copies of each expert afterwards, at least 2. Default 2.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. Labels are ignored.
            None (the default) takes random numbers; for a layer it compares nothing.
        order: `"append"` (the default) puts the copies after all experts: 0, 1, 0, 1. `"interleave"` puts each after
            its expert: 0, 0, 1, 1. The models compute the same up to the noise.
        noise: Standard deviation of the noise of the copies, as a fraction of that of each weight, at least 0.
            Default 0.01, as in the paper.
        random: For comparison with the paper, the part to draw at random instead of copying it: `"experts"`, the
            weights of the copies, or `"router"`, all weights of the router. None (the default) copies both.
        grow_top_k: Whether `factor` times as many experts are used for each input. Default True. With False the
            model computes a different function, and the report has a warning.
        seed: Seed of the noise, at least 0. Default 0.

    Returns:
        An uncompiled model of the same class, or a layer, and a report with the difference of the outputs.

    Raises:
        TypeError: If `model_or_layer` is not a Keras model or layer, or another argument has a wrong type.
        ValueError: If it has no experts, or their router cannot be found.
        ValueError: If `random` names a part of which no weight is known.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> grown, report = grow_experts(model, 2, noise=0)
        >>> grown.num_experts, grown.top_k, report.is_function_preserving
        (8, 4, True)

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (experts and top k doubled, noise of 0.01).
    """
    check_count(factor, "factor", least=2)
    check_choice(order, "order", choices=("append", "interleave"))
    check_number(noise, "noise", least=0)
    check_choice(random, "random", choices=(None, "router", "experts"))
    check_count(seed, "seed", least=0)
    check_choice(grow_top_k, "grow_top_k", choices=(True, False))
    source, layers = read_experts(model_or_layer)
    if random:
        _check_has(random, layers)
    groups = {layer.path: _repeated(layer.experts, factor, order=order) for layer in layers}
    top_k = {layer.path: layer.top_k * (factor if grow_top_k else 1) for layer in layers}
    new, report = rebuild_experts(
        source, layers, groups=groups, top_k=top_k, samples=samples, noise=noise, random=random, seed=seed
    )
    return new, replace(report, warning=_warning(report, noise=noise, random=random, grow_top_k=grow_top_k))


def _repeated(count: int, factor: int, *, order: str) -> list[list[int]]:
    experts = [[index] for index in range(count)]
    return experts * factor if order == "append" else [group for group in experts for _ in range(factor)]


def _check_has(part: str, layers: Sequence[MoeLayer]) -> None:
    """Refuse to draw the weights of the router, or of the experts, in a layer that has none of them."""
    for layer in layers:
        if part not in {"router" if key in layer.router else "experts" for key in layer.axes}:
            raise ValueError(
                f"Expected weights of the {part} in {layer.path!r} for random={part!r}. Received: none among "
                f"{', '.join(layer.rule.axes)}. Name the router in tfprune.experts.register."
            )


def _warning(report: ExpertsReport, *, noise: float, random: str | None, grow_top_k: bool) -> str:
    if random:
        return f"The {'router is' if random == 'router' else 'new experts are'} drawn at random."
    if not grow_top_k:
        return "As many experts as before are used for each input, so copies take the place of others."
    if report.is_function_preserving is False and not noise:
        return "The gates are not normalized over the experts, so each copy counts in full."
    return ""
