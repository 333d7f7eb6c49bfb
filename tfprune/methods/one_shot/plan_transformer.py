"""Plan which blocks, heads, units, experts, tokens and dimensions to remove from a transformer, under one budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_choice, check_count
from tfprune.compact.shrinking.budget import Budget, check_budget
from tfprune.compact.shrinking.transformer_plan import PartAlone, TransformerPlan, TransformerStep
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.layers import weight_bytes
from tfprune.masking.wrapping.pruned import check_without_masks
from tfprune.methods.one_shot.judges import is_loss
from tfprune.methods.one_shot.mixed_cuts import KINDS, MixedCuts
from tfprune.methods.one_shot.unit_scores import SCORES
from tfprune.solving.greedy_levels import Candidate, GreedyLevels, Levels


def plan_transformer(
    model: keras.Model,
    samples: Any,
    *,
    budget: Budget,
    tokenizer: Any = None,
    texts: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    criterion: str = "activation",
    judge: Any = "distance",
    batch_size: int = 8,
    verbose: int | str = "auto",
) -> TransformerPlan:
    """Plan which blocks, heads, hidden units, experts and tokens of a transformer to remove, to meet one budget.

    Use it when the size is given, and not what to remove. Again and again, it tries the next step of each kind,
    builds that model without training (`drop_blocks`, `experts.drop`, `prune_units`, `trim_vocabulary`, `narrow`),
    and takes the step whose outputs get worse least for what it saves. Print the plan, then call `plan.build()`.

    If one kind alone meets the budget with a smaller loss on `samples` than the steps, the plan has that kind alone.

    Args:
        model: A built transformer: a Functional model, or a backbone or task of KerasHub, without masks. It is left
            unchanged. A backbone takes less memory than a task, which returns a score for each token.
        samples: Calibration data, as in `prune_units`: token ids and the other inputs of the model. Only a loss as
            `judge` needs labels: pass (x, y).
        budget: What the model may cost, for example `tfprune.budget(bytes=0.5)`: a limit of bytes, of parameters, or
            of the latency that its `measure` returns, or several.
        tokenizer: The tokenizer of a model without a preprocessor, for `texts`. None (the default) takes that of its
            preprocessor.
        texts: Texts of all kinds that the model will read and write. If they are given, the other tokens may be
            removed, as by `trim_vocabulary`. None (the default) keeps the vocabulary.
        parts: What may be removed: some of "blocks", "experts", "heads", "units", "vocabulary" and "width" (hidden
            dimensions, as by `narrow`). None (the default) takes all that the model has but its width, and the
            vocabulary only if there are `texts`.
        criterion: The importance of a hidden unit, as in `prune_units`. Default `"activation"`.
        judge: The loss of a smaller model. `"distance"` (the default): the squared distance to the outputs of the
            dense model, as a fraction of their mean square. `"perplexity"`: the cross-entropy of the next token id.
            With `texts`, both compare the scores of the tokens that may remain. Or a loss of Keras, its name, or a
            function of labels and outputs, without sample weights.
        batch_size: Samples in a batch, at least 1. Default 8.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            a bar after three seconds, in a terminal or a notebook.

    Returns:
        The plan. It prints as a table of steps, each with what it saves and the loss after it, and as another one of
        the losses with one kind alone.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model has masks.
        ValueError: If the budget is not smaller than the model, limits FLOPs, has an allocation, or cannot be met.
        ValueError: If the model has no part that can be removed, or not one that `parts` names.
        ValueError: If `samples` are empty, do not fit the model, or are too short for `judge`.
        ValueError: If the loss of the model is not finite.
        ValueError: If `judge` is a loss, and the model has several outputs, `samples` have no labels or have sample
            weights, or the labels are token ids and `texts` are given.
        ValueError: If `texts` come without the vocabulary in `parts`, or the other way around.

    Example:
        >>> import tfprune
        >>> block = lambda index: keras.layers.Dense(8, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((8,)), *map(block, range(4)), keras.layers.Dense(2)])
        >>> x = keras.random.normal((32, 8), seed=0)
        >>> plan = plan_transformer(model, x, budget=tfprune.budget(parameters=0.7))
        >>> smaller, tokenizer = plan.build()
        >>> smaller.count_params() <= 0.7 * model.count_params()
        True

    Reference:
        Song et al., 2024, "SLEB", arXiv:2402.09025 (blocks one by one); Coello de Portugal Mecke et al., 2026,
        "Prune, Update and Trim", arXiv:2605.18331 (units and heads). The choice among them is greedy.
    """
    check_keras(model)
    check_without_masks(model)
    check_budget(budget)
    check_verbose(verbose)
    check_choice(criterion, "criterion", choices=[*SCORES, "greedy"])
    check_count(batch_size, "batch_size", least=1)
    _check_parts(parts, has_texts=texts is not None)
    targets = _targets(budget, _costs(model, budget))
    batches = list(Batches(samples, model, batch_size=batch_size, argument="samples", is_for_loss=is_loss(judge)))
    cuts = MixedCuts(model, batches, texts=texts, tokenizer=tokenizer, criterion=criterion, judge=judge)
    most = _most(cuts, parts or _usual(has_texts=texts is not None), is_asked=bool(parts))
    with Progress(sum(most.values()), verbose=verbose, unit="candidate", shown=["loss"]) as progress:

        def measure(levels: Levels) -> Candidate:
            smaller = cuts.build(levels)
            loss = cuts.loss_of(smaller, levels)
            progress.add(1, {"loss": loss})
            return Candidate(levels, _costs(smaller, budget), loss)

        search = GreedyLevels(most, measure, targets=targets)
        _check_finite(model, search.whole.loss, judge=judge)
        path = search.walk()
        if search.lack_of(path[-1]):
            raise ValueError(_not_met(budget, path, targets))
        path = search.undone(path)
        alone = {kind: search.alone(kind) for kind in most}
    best = min([path[-1], *filter(None, alone.values())], key=lambda candidate: candidate.loss)
    path = path if best is path[-1] else [search.whole, best]

    def build() -> tuple[keras.Model, Any]:
        return cuts.build(best.levels), cuts.trimmed[1].tokenizer if best.levels.get("vocabulary") else None

    return TransformerPlan(
        tuple(_step(cuts, before, after) for before, after in zip(path, path[1:], strict=False)),
        dict(search.whole.costs),
        targets,
        search.whole.loss,
        tuple(_alone(kind, each) for kind, each in alone.items()),
        best.levels,
        build,
    )


def _costs(model: keras.Model, budget: Budget) -> dict[str, float]:
    counts: dict[str, Any] = {
        "bytes": weight_bytes,
        "parameters": lambda counted: counted.count_params(),
        "latency": budget.measure,
    }
    unknown = [name for name, _ in budget.limits if name not in counts]
    if unknown or budget.allocation != "uniform":
        received = f"a limit of {unknown[0]}" if unknown else f"allocation={budget.allocation!r}"
        raise ValueError(
            f"Expected a budget of bytes, parameters or latency, without an allocation, because the loss splits it. "
            f"Received: {received}. Pass, for example, tfprune.budget(bytes=0.5)."
        )
    return {name: float(counts[name](model)) for name, _ in budget.limits}


def _targets(budget: Budget, costs: Mapping[str, float]) -> dict[str, float]:
    """Return what each limit allows.

    Raises:
        ValueError: If the model meets all of them.
    """
    targets = {
        name: costs[name] * limit if isinstance(limit, float) else float(limit) for name, limit in budget.limits
    }
    if all(costs[name] <= target for name, target in targets.items()):
        limits = ", ".join(f"{name}={limit!r}" for name, limit in budget.limits)
        own = ", ".join(f"{costs[name]:,.0f} {name}" for name in costs)
        raise ValueError(
            f"Expected a budget that is smaller than the model. Received: budget({limits}) for a model of {own}. "
            f"Lower it, for example to tfprune.budget({next(iter(costs))}=0.5)."
        )
    return targets


def _check_finite(model: keras.Model, loss: float, *, judge: Any) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"Expected a model with a finite loss on `samples`. Received: {model.name!r}, computing in "
            f"{model.compute_dtype}, with a loss of {loss} by judge={judge!r}. In float16, large numbers overflow: "
            f"load the model in bfloat16 or float32."
        )


def _check_parts(parts: Sequence[str] | None, *, has_texts: bool) -> None:
    for part in parts or ():
        check_choice(part, "parts", choices=KINDS)
    if parts is not None and (not parts or ("vocabulary" in parts) != has_texts):
        raise ValueError(
            f"Expected some parts, and `texts` with 'vocabulary' in `parts`, and only then. Received: "
            f"parts={list(parts)!r}, {'' if has_texts else 'no '}texts. Pass the texts whose tokens remain."
        )


def _usual(*, has_texts: bool) -> list[str]:
    """Return the parts that are removed if none are named."""
    return [kind for kind in KINDS if kind != "width" and (kind != "vocabulary" or has_texts)]


def _most(cuts: MixedCuts, parts: Sequence[str], *, is_asked: bool) -> Levels:
    """Return how many steps of each kind there are.

    Raises:
        ValueError: If a kind that is asked for has none, or no kind has any.
    """
    most: Levels = {}
    reasons = []
    for kind in [kind for kind in KINDS if kind in parts]:
        try:
            most[kind] = cuts.most(kind)
        except ValueError as error:
            if is_asked:
                raise ValueError(
                    f"Expected a model with what `parts` names. Received: parts={list(parts)!r}; {error} Leave "
                    f"{kind!r} out."
                ) from error
            reasons.append(f"{kind}: {error}")
    if not any(most.values()):
        raise ValueError(f"Expected a model with parts that can be removed. Received: {' '.join(reasons) or parts!r}")
    return {kind: count for kind, count in most.items() if count}


def _not_met(budget: Budget, path: Sequence[Candidate], targets: Mapping[str, float]) -> str:
    limits = ", ".join(f"{name}={limit!r}" for name, limit in budget.limits)
    closest = ", ".join(
        f"{name} of {path[-1].costs[name]:,.0f} where {target:,.0f} are allowed" for name, target in targets.items()
    )
    return (
        f"Expected a budget that can be met. Received: budget({limits}). The closest was {closest}, with a loss of "
        f"{path[-1].loss:.4f}, after {len(path) - 1} steps. Raise the limit, or let more be removed "
        f"with `parts`, and with `texts` the vocabulary."
    )


def _step(cuts: MixedCuts, before: Candidate, after: Candidate) -> TransformerStep:
    kind = next(kind for kind, level in after.levels.items() if level != before.levels[kind])
    saved = {name: before.costs[name] - cost for name, cost in after.costs.items()}
    removed = cuts.described(kind, before=before.levels[kind], level=after.levels[kind])
    return TransformerStep(kind, removed, dict(after.costs), saved, after.loss)


def _alone(kind: str, found: Candidate | None) -> PartAlone:
    if found is None:
        return PartAlone(kind, None, {}, {})
    return PartAlone(kind, found.loss, dict(found.costs), found.levels)
