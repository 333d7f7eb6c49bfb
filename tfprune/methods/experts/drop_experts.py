"""Drop experts of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfprune.base.spec import check_numbers
from tfprune.methods.experts.experts_report import ExpertsReport
from tfprune.methods.experts.rebuild_experts import new_top_k, read_experts, rebuild_experts


def drop_experts(
    model_or_layer: keras.layers.Layer,
    drop: Iterable[int] | Mapping[str, Iterable[int]],
    *,
    samples: Any = None,
    top_k: int | None = None,
) -> tuple[Any, ExpertsReport]:
    """Remove experts from a mixture.

    Use it to make a mixture of experts smaller, and train it afterwards. The remaining experts keep their masks and
    latent values.

    Args:
        model_or_layer: A built model or layer with a mixture of experts: of KerasHub, or registered with
            `experts.register`, wrapped or not. It is not changed.
        drop: The experts to drop from each layer, counted from 0; or a dict with those of each layer by its path,
            such as `experts.rank(model, samples).lowest(4)`. The layers of a class that counts its experts with one
            argument lose the same number of them.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. Labels are ignored.
            None (the default) takes random numbers; for a layer it compares nothing.
        top_k: The number of experts that are used for each input afterwards, at least 1. None (the default) keeps the
            number, or uses all remaining experts if there are fewer.

    Returns:
        An uncompiled model of the same class, or a layer, and a report with the difference of the outputs.

    Raises:
        TypeError: If `model_or_layer` is not a Keras model or layer, or `drop` holds something other than integers.
        ValueError: If it has no experts, or not these, or none would remain, or a dict names other layers.
        ValueError: If the class cannot have the numbers of experts that would remain.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> smaller, report = drop_experts(model, [1, 3])
        >>> smaller.num_experts, report.groups
        (2, ((0,), (2,)))
    """
    by_layer: dict[str, set[int]] = {}
    everywhere: set[int] = set()
    if isinstance(drop, Mapping):
        by_layer = {path: check_numbers(experts, "drop", of="experts") for path, experts in drop.items()}
    else:
        everywhere = check_numbers(drop, "drop", of="experts")
    source, layers = read_experts(model_or_layer)
    if isinstance(drop, Mapping):
        _check_layers(by_layer, [layer.path for layer in layers], model_or_layer.name)
    groups = {}
    for layer in layers:
        dropped, count = by_layer.get(layer.path, everywhere), layer.experts
        unknown = [index for index in dropped if index >= count]
        if unknown or len(dropped) >= count:
            received = f"expert {unknown[0]}" if unknown else f"all {count}"
            raise ValueError(
                f"Expected experts to drop among 0 to {count - 1}, and at least one to remain. Received: {received} "
                f"of {layer.path!r} in {model_or_layer.name!r}."
            )
        groups[layer.path] = [[index] for index in range(count) if index not in dropped]
    new_count = new_top_k(top_k, layers, groups=groups)
    return rebuild_experts(source, layers, groups=groups, top_k=new_count, samples=samples)


def _check_layers(by_layer: Mapping[str, set[int]], paths: Sequence[str], name: str) -> None:
    """Refuse experts by layer that are those of another model."""
    if by_layer.keys() != {*paths}:
        raise ValueError(
            f"Expected the experts to drop from each of {', '.join(map(repr, paths))}. Received: "
            f"{', '.join(map(repr, by_layer)) or 'none'}. Rank the experts of {name!r} itself."
        )
