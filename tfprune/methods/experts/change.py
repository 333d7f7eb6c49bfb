"""Grow, drop, merge or rank the experts of a model, and count what training a grown model costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_count, check_number, check_numbers
from tfprune.masking.pruned import Pruned
from tfprune.methods.experts.experts import (
    ExpertsReport,
    MoeLayer,
    find_moe_layers,
    new_top_k,
    read_experts,
    rebuild_experts,
)
from tfprune.models.anatomy import Anatomy, as_numpy, check_model
from tfprune.models.graph import functional, hooked_calls, trace_to_run
from tfprune.models.training import Batches, check_token_ids, token_masks, without_padding
from tfprune.report import Report, table

# Grow a mixture of experts.


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


# Drop experts of a mixture.


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
            raise ArgumentError(
                "drop",
                f"experts to drop among 0 to {count - 1}, and at least one to remain",
                found=f"{received} of {layer.path!r} in {model_or_layer.name!r}",
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


# Report of `experts.rank`: how much each layer of a mixture needs each of its experts.


@dataclass(frozen=True)
class RankedExpert(Report):
    """An expert and its importance.

    Attributes:
        layer: The path of its layer.
        expert: Its number, counted from 0.
        reap: The mean norm of what it adds to the output of its layer, gate included, over the tokens that use it.
        frequency: The share of the tokens that use it.
    """

    layer: str
    expert: int
    reap: float
    frequency: float


@dataclass(frozen=True)
class ExpertRanking(Report):
    """The experts of a model, ranked in each layer.

    Attributes:
        rows: A row for each expert of each layer.
        criterion: `"reap"` or `"frequency"`.

    Example:
        >>> rows = (RankedExpert("moe", 0, 0.5, 0.9), RankedExpert("moe", 1, 2.0, 0.1))
        >>> ExpertRanking(rows, "reap").lowest(1), ExpertRanking(rows, "frequency").lowest(1)
        ({'moe': (0,)}, {'moe': (1,)})
    """

    rows: tuple[RankedExpert, ...]
    criterion: str

    def lowest(self, count: int | Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the least important experts of each layer: `experts.drop(model, ranking.lowest(4))`.

        Args:
            count: How many of each layer, from 1 to all but one; or a dict with the number for each layer by its
                path.

        Raises:
            TypeError: If a number is not an integer.
            ValueError: If a layer has not more experts, or the dict names other layers.
        """
        experts = self.importances()
        if isinstance(count, Mapping):
            if count.keys() != experts.keys():
                raise ArgumentError(
                    "count",
                    f"`count` for each of {', '.join(map(repr, experts))}",
                    found=", ".join(map(repr, count)) or "none",
                    advice="Name each layer of the ranking.",
                )
            counts = dict(count)
        else:
            counts = dict.fromkeys(experts, count)
        for layer, number in counts.items():
            check_count(number, "count", least=1, most=len(experts[layer]) - 1)
        return {
            layer: tuple(sorted(sorted(values, key=values.__getitem__)[: counts[layer]]))
            for layer, values in experts.items()
        }

    def importances(self) -> dict[str, dict[int, float]]:
        """Return the importance of each expert by its number, for each layer by its path."""
        by_layer: dict[str, dict[int, float]] = {}
        for row in self.rows:
            figure = row.reap if self.criterion == "reap" else row.frequency
            by_layer.setdefault(row.layer, {})[row.expert] = figure
        return by_layer

    def __str__(self) -> str:
        lines = [[row.layer, row.expert, f"{row.reap:.4g}", f"{row.frequency:.3f}"] for row in self.rows]
        return table(["layer", "expert", "REAP", "frequency"], lines)


# Merge experts of a mixture.


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
        raise ArgumentTypeError(
            "ranking",
            "`ranking` to be what tfprune.experts.rank returns, or None",
            found=f"ranking of type {type(ranking).__name__}",
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
        raise ArgumentTypeError(
            "merge",
            "`merge` to be groups of experts, such as [[0, 1], [2, 3]], or with `ranking` a number of experts",
            f"{merge!r} of type {type(merge).__name__}",
        )
    checked = [[check_count(index, "merge", least=0) for index in part] for part in parts]
    if not all(checked):
        raise ArgumentError("merge", "an expert in each group of `merge`", repr(checked))
    return checked


def _all_named(parts: list[list[int]], layer: MoeLayer, *, name: str) -> list[list[int]]:
    if sorted(index for group in parts for index in group) != list(range(layer.experts)):
        raise ArgumentError(
            "merge",
            f"`merge` to name each of the experts 0 to {layer.experts - 1} of {layer.path!r} in {name!r} once",
            repr(parts),
            advice="Remove experts with tfprune.experts.drop.",
        )
    return parts


def _checked_importances(ranking: ExpertRanking, layers: Sequence[MoeLayer], *, name: str) -> dict[str, np.ndarray]:
    """Return the importance of each expert of each layer; refuse a ranking of another model."""
    importances = ranking.importances()
    sizes = {path: sorted(values) for path, values in importances.items()}
    if sizes != {layer.path: list(range(layer.experts)) for layer in layers}:
        raise ArgumentError(
            "ranking",
            f"a `ranking` of the experts of {name!r}: {_counted({x.path: x.experts for x in layers})}",
            found=_counted({path: len(experts) for path, experts in sizes.items()}),
            advice=f"Rank the experts of {name!r} itself.",
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


# Rank the experts of a mixture by what they add to the outputs of their layers, or by how often they are used.

_NOTHING = 1e-6  # of the largest contribution: what rounding leaves of an expert that is not used


def rank_experts(model: keras.Model, samples: Any, *, criterion: str = "reap", batch_size: int = 8) -> ExpertRanking:
    """Rank the experts of each layer of a mixture on samples.

    Use it to choose the experts for `experts.drop`, without training. An expert's contribution is what its layer
    returns with this expert alone, minus what it returns with none, so an expert has to return zeros where its
    weights are zero. Each layer is run once more for each of its experts.

    Args:
        model: A built model with a mixture of experts: of KerasHub, or registered with `experts.register`. It is
            left unchanged.
        samples: Inputs that are like those of the model's use; labels are ignored. Padding is left out, as in
            `reconstruct`.
        criterion: `"reap"` (the default): the mean norm of the contribution, over the tokens that use the expert.
            `"frequency"`: the share of the tokens that use it. An expert that no token uses is the least important.
        batch_size: Samples in a batch, at least 1. Default 8.

    Returns:
        An `ExpertRanking` with both figures of each expert.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no experts, or `samples` are empty, do not fit the model, are not finite, or have
                token ids beyond its vocabulary.
        ValueError: If a layer has no known router, as one that was registered under another name.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> tokens = np.random.default_rng(0).integers(0, 20, (4, 8))
        >>> ranking = rank_experts(model, {"token_ids": tokens, "padding_mask": np.ones((4, 8), int)})
        >>> len(ranking.rows), round(sum(row.frequency for row in ranking.rows), 3)
        (4, 2.0)

    Reference:
        Lasby et al., 2025, "REAP the Experts", arXiv:2510.13999 (router-weighted expert activation pruning).
    """
    check_choice(criterion, "criterion", choices=("reap", "frequency"))
    check_count(batch_size, "batch_size", least=1)
    _, layers = read_experts(model)
    _check_routers(layers)
    sums = [np.zeros((3, layer.experts)) for layer in layers]  # norms, tokens that use the expert, all tokens
    places = {id(layer.layer): index for index, layer in enumerate(layers)}
    called: list[tuple[int, Any]] = []
    batches = Batches(samples, model, batch_size=batch_size, argument="samples")
    graph = trace_to_run(functional(model))
    check_token_ids(graph, batches)

    def note(layer: keras.layers.Layer, inputs: Any, _: Any) -> None:
        called.append((places[id(layer)], inputs))

    for inputs, _ in batches:
        tensors = keras.tree.pack_sequence_as(model.input, [keras.ops.convert_to_tensor(array) for array in inputs])
        with hooked_calls([layer.layer for layer in layers], note):
            model(tensors, training=False)
        masks = list(token_masks(graph, inputs).values())
        for index, x in called:
            sums[index] += _contributions(layers[index], x, masks)
        called.clear()
    rows = [
        RankedExpert(layer.path, expert, norms / max(used, 1), used / max(tokens, 1))
        for layer, totals in zip(layers, sums, strict=True)
        for expert, (norms, used, tokens) in enumerate(totals.T.tolist())
    ]
    return ExpertRanking(tuple(rows), criterion)


def _check_routers(layers: Sequence[MoeLayer]) -> None:
    """Refuse a layer without a known router, which would be taken for a part of the experts."""
    for layer in layers:
        if not layer.router:
            raise ValueError(
                f"Expected a known router in {layer.path!r}, whose weights remain where an expert is alone. "
                f"Received: none among {', '.join(layer.rule.axes)}. Name the router in tfprune.experts.register."
            )


def _contributions(layer: MoeLayer, x: Any, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return of each expert the sum of the norms of its contributions, the tokens that use it, and all tokens."""
    nothing = _output(layer, x, experts=())
    added = [_output(layer, x, experts=(expert,)) - nothing for expert in range(layer.experts)]
    norms = np.stack([np.linalg.norm(without_padding(each, masks), axis=-1).ravel() for each in added])
    mask = norms > _NOTHING * norms.max(initial=0)
    return np.stack([(norms * mask).sum(axis=1), mask.sum(axis=1), np.full(len(norms), norms.shape[1])])


def _output(layer: MoeLayer, x: Any, *, experts: Sequence[int]) -> np.ndarray:
    """Return the output of a layer in which all other experts have weights of zero."""
    mapping = []
    for variable in layer.layer.weights:
        if id(variable) in layer.axes and id(variable) not in layer.router:
            value, axis = as_numpy(variable), layer.axes[id(variable)]
            shape = [-1 if place == axis % value.ndim else 1 for place in range(value.ndim)]
            keep = np.isin(np.arange(layer.experts), experts).reshape(shape)
            mapping.append((variable, keras.ops.convert_to_tensor(value * keep)))
    with keras.StatelessScope(state_mapping=mapping):
        output = keras.tree.flatten(layer.layer(x))[0]
    return keras.ops.convert_to_numpy(output).astype(np.float64)


# How much compute a model should have been trained with before it grows.

_TOKENS_PER_PARAMETER = 20  # of Hoffmann et al., 2022
_OPERATIONS_PER_PARAMETER = 6  # for each token: two in the forward pass, four for the gradients


@dataclass(frozen=True)
class GrowthCompute(Report):
    """The compute with which a model is about converged, so that growth by interposition is worth a try.

    Attributes:
        parameters: All parameters of the model.
        active_parameters: Those that each token meets: of a mixture, the share of experts that the router chooses.

    Example:
        >>> print(GrowthCompute(parameters=8_000_000, active_parameters=3_000_000))
        3,000,000 of 8,000,000 parameters are active. Train on 6.0e+07 tokens (1.1e+15 operations) before growth.
    """

    JSON_NAMES = ("parameters", "active_parameters", "tokens", "operations")

    parameters: int
    active_parameters: int

    @property
    def tokens(self) -> int:
        """Tokens to train on: 20 for each active parameter."""
        return _TOKENS_PER_PARAMETER * self.active_parameters

    @property
    def operations(self) -> int:
        """Floating-point operations of this training: 6 for each active parameter and token."""
        return _OPERATIONS_PER_PARAMETER * self.active_parameters * self.tokens

    def __str__(self) -> str:
        return (
            f"{self.active_parameters:,} of {self.parameters:,} parameters are active. "
            f"Train on {self.tokens:.1e} tokens ({self.operations:.1e} operations) before growth."
        )


def growth_compute(model: keras.Model) -> GrowthCompute:
    """Return how much compute a model should have been trained with before it grows.

    Use it to decide when to grow. The source found that from about this compute on, interposed copies of blocks are
    better than stacked ones. It is a rule of thumb, found on language models of billions of parameters.

    Args:
        model: A built model, wrapped or not, with mixtures of experts or without.

    Returns:
        The active parameters, and the tokens and operations for them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, use_bias=False)])
        >>> advice = growth_compute(model)
        >>> advice.active_parameters, advice.tokens, advice.operations
        (100, 2000, 1200000)

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (F_c = 6 N 20 N, with N active parameters).
    """
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    wrappers = [layer for _, layer in anatomy.every if isinstance(layer, Pruned)]
    beside = {id(variable) for wrapper in wrappers for variable in wrapper.saved_variables().values()}
    sizes = {id(weight): math.prod(weight.shape) for weight in model.weights if id(weight) not in beside}
    active = dict(sizes)
    for layer in find_moe_layers(model):
        for key in layer.axes.keys() - layer.router:
            active[key] = sizes[key] * layer.top_k // layer.experts
    return GrowthCompute(sum(sizes.values()), sum(active.values()))
