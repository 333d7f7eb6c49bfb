"""Plan which blocks, heads, units, experts, tokens and dimensions to remove from a transformer, under one budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_choice, check_count
from tfprune.compact.narrow import narrow, width_of
from tfprune.compact.plan import Budget, PartAlone, TransformerPlan, TransformerStep, check_budget
from tfprune.compact.vocabulary import VocabularyReport, trim_vocabulary
from tfprune.masking.pruned import check_without_masks
from tfprune.methods.experts.change import drop_experts, rank_experts
from tfprune.methods.experts.experts import read_experts
from tfprune.methods.growth.blocks import find_blocks, one_by_one
from tfprune.methods.growth.change import ReorderedModel, drop_blocks, reorder
from tfprune.methods.one_shot.prune_units import SCORES, UnitsAndHeads
from tfprune.methods.one_shot.removal import (
    HeadLoss,
    OutputLoss,
    RemainingTokens,
    SampleBatch,
    head_loss,
    is_loss,
    packed_inputs,
    run,
)
from tfprune.models.anatomy import check_keras, weight_bytes
from tfprune.models.graph import Graph
from tfprune.models.training import Batches, check_token_ids
from tfprune.solving.zeros import Candidate, GreedyLevels, Levels

# Build a transformer without some of its tokens, blocks, experts, units and heads, and say what was removed.

_KINDS = ("vocabulary", "blocks", "experts", "width", "units", "heads")
_STEPS = 8  # of units, of heads and of hidden dimensions: each step removes this part of all of them
_FIRST = ("vocabulary", "blocks", "experts", "width")  # without which units and heads are chosen


class _MixedCuts:
    """The smaller models of one transformer, each made of the dense weights.

    Tokens, blocks and experts go first, so that the other weights are fitted to what remains.

    Args:
        model: The model.
        batches: The calibration data.
        texts: The texts whose tokens remain.
        tokenizer: The tokenizer of a model without a preprocessor.
        criterion: The importance of hidden units.
        judge: The loss of outputs.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Sequence[SampleBatch],
        *,
        texts: Sequence[str] | None,
        tokenizer: Any,
        criterion: str,
        judge: Any,
    ) -> None:
        self._model, self._batches = model, batches
        self._texts, self._tokenizer = texts, tokenizer
        self._criterion, self._judge = criterion, judge
        whole = self._units_and_heads(model, {})
        self._last = (dict.fromkeys(_FIRST, 0), whole)
        self._removable = {"units": bool(whole.units), "heads": bool(whole.units and whole.heads)}
        self._skipped = whole.skipped
        check_token_ids(whole.running.graph, batches)
        self.loss = OutputLoss(whole.running.graph, batches, judge=judge, remaining=self._remaining)
        self._dropped: list[int] = []

    def most(self, kind: str) -> int:
        """Return how many steps of a kind there are.

        Raises:
            ValueError: If the model has no parts of this kind; the message says why.
        """
        if kind == "vocabulary":
            return 1
        if kind == "blocks":
            return len(self._blocks.blocks) - 1
        if kind == "experts":
            layers = read_experts(self._model)[1]
            return min(layer.experts - layer.top_k for layer in layers)
        if kind == "width":
            self._check_width()
            return _STEPS - 1
        if self._removable[kind]:
            return _STEPS - 1
        reasons = "; ".join(f"{each.layer}: {each.reason}" for each in self._skipped[:2]) or "it has none"
        raise ValueError(f"{self._model.name!r} has no {kind} that can be removed ({reasons}).")

    def _check_width(self) -> None:
        """Refuse a model that cannot have a narrower stream, or whose outputs could not be compared then."""
        width = width_of(self._model)
        if self._judge != "perplexity" and any(output.shape[-1] == width for output in self._model.outputs):
            raise ValueError(
                f"{self._model.name!r} returns hidden states, and judge={self._judge!r} cannot compare them with "
                f"fewer; pass a model that returns scores, or judge='perplexity'."
            )
        self._narrower(self._model, 1, self._samples({}))

    def loss_of(self, model: keras.Model, levels: Levels) -> float:
        """Return the loss of the model without the parts that levels name."""
        renumbered = self.inputs_of(levels)
        return self.loss(
            lambda arrays: run(model, renumbered(arrays)), narrower=model if levels.get("width") else None
        )

    @functools.cached_property
    def _blocks(self) -> Any:
        return find_blocks(self._model, None)

    @functools.cached_property
    def _one_by_one(self) -> Any:
        def measure(kept: list[int]) -> float:
            return self.loss(lambda arrays: self._blocks.run(kept, inputs=_tensors(arrays)).outputs)

        return one_by_one(len(self._blocks.blocks), measure)

    def dropped(self, count: int) -> list[int]:
        """Return the blocks that go one by one, by the loss of the dense blocks that remain."""
        while len(self._dropped) < count:
            self._dropped.append(next(self._one_by_one)[0])
        return self._dropped[:count]

    @functools.cached_property
    def trimmed(self) -> tuple[keras.Model, VocabularyReport]:
        """The model with the tokens of the texts and of the calibration data, and the report on it."""
        ids = [row.astype("int64") for arrays in self._token_arrays() for row in arrays]
        return trim_vocabulary(self._model, [*(self._texts or ()), *ids], tokenizer=self._tokenizer)

    @functools.cached_property
    def _remaining(self) -> RemainingTokens | None:
        """The tokens that remain. All models are judged by their scores of these, also those that have more."""
        if self._texts is None:
            return None
        model, report = self.trimmed
        return RemainingTokens(model, report.kept[report.kept < report.tokens[0]])

    def _token_arrays(self) -> list[np.ndarray]:
        return [arrays[index] for arrays, _ in self._batches for index in self._token_inputs]

    @functools.cached_property
    def _token_inputs(self) -> list[int]:
        return [index for index, each in enumerate(self._model.inputs) if each.name.endswith("token_ids")]

    def inputs_of(self, levels: Levels) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
        """Return the function from inputs of the dense model to those of a smaller one, with its token ids."""
        if not levels.get("vocabulary"):
            return list
        kept = self.trimmed[1].kept

        def renumbered(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [
                np.searchsorted(kept, array).astype(array.dtype) if index in self._token_inputs else array
                for index, array in enumerate(arrays)
            ]

        return renumbered

    def build(self, levels: Levels) -> keras.Model:
        """Build the model without the parts that levels name."""
        first = {kind: levels.get(kind, 0) for kind in _FIRST}
        units, heads = levels.get("units", 0), levels.get("heads", 0)
        if units or heads:
            return self._units_and_heads_without(first).smaller(units=units / _STEPS, heads=heads / _STEPS)
        return self._without_first(first)

    def _units_and_heads_without(self, first: Levels) -> UnitsAndHeads:
        """Return the units and heads of a model without other parts; those of the last one are kept."""
        if self._last[0] != first:
            self._last = (first, self._units_and_heads(self._without_first(first), first))
        return self._last[1]

    def _without_first(self, first: Levels) -> keras.Model:
        """Return the model without some tokens, blocks and experts, to which the other weights are fitted."""
        model = self.trimmed[0] if first["vocabulary"] else self._model
        if first["blocks"]:
            blocks = self.dropped(first["blocks"])
            model = self._without(blocks).model if model is self._model else drop_blocks(model, blocks)[0]
        if first["experts"]:
            model = drop_experts(model, rank_experts(model, self._samples(first)).lowest(first["experts"]))[0]
        return self._narrower(model, first["width"], self._samples(first)) if first["width"] else model

    def _narrower(self, model: keras.Model, level: int, samples: list[tuple]) -> keras.Model:
        hidden_dim = round(width_of(model) * (1 - level / _STEPS))
        return narrow(model, samples, hidden_dim=hidden_dim, verbose=0)[0]

    def _without(self, blocks: Sequence[int]) -> ReorderedModel:
        return reorder(self._blocks, [block for block in range(len(self._blocks.blocks)) if block not in blocks])

    def _samples(self, levels: Levels) -> list[tuple]:
        renumbered = self.inputs_of(levels)
        return [self._as_samples(renumbered(arrays), targets) for arrays, targets in self._batches]

    def _as_samples(self, arrays: list[np.ndarray], targets: Any) -> tuple:
        inputs = packed_inputs(self._model, arrays)
        return (inputs,) if targets is None else (inputs, targets)

    def _units_and_heads(self, model: keras.Model, first: Levels) -> UnitsAndHeads:
        """Return the units and heads of a model without the parts of the first levels."""

        def loss_of(graph: Graph, batches: Batches) -> HeadLoss:
            remaining = None if first.get("vocabulary") else self._remaining
            return head_loss(graph, batches, judge=self._judge, remaining=remaining)

        return UnitsAndHeads(model, self._samples(first), criterion=self._criterion, loss_of=loss_of)

    def described(self, kind: str, *, before: int, level: int) -> str:
        """Return what is removed of a kind after a step."""
        if kind == "vocabulary":
            tokens = self.trimmed[1].tokens
            return f"all but {tokens[1]:,} of {tokens[0]:,} tokens" if level else "no tokens"
        if kind == "blocks":
            blocks = self.dropped(max(before, level))[min(before, level) :]
            numbers = ("block " if len(blocks) == 1 else "blocks ") + ", ".join(map(str, blocks))
            return numbers if level > before else f"{numbers} again there"
        if kind == "experts":
            return f"{level} experts of each layer" if level > 1 else "one expert of each layer"
        return f"{level / _STEPS:.1%} of the {'hidden dimensions' if kind == 'width' else kind}"


def _tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    return [keras.ops.convert_to_tensor(array) for array in arrays]


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
    cuts = _MixedCuts(model, batches, texts=texts, tokenizer=tokenizer, criterion=criterion, judge=judge)
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
        raise ArgumentError(
            "samples",
            "a model with a finite loss on `samples`",
            found=f"{model.name!r}, computing in {model.compute_dtype}, with a loss of {loss} by judge={judge!r}",
            advice="In float16, large numbers overflow: load the model in bfloat16 or float32.",
        )


def _check_parts(parts: Sequence[str] | None, *, has_texts: bool) -> None:
    for part in parts or ():
        check_choice(part, "parts", choices=_KINDS)
    if parts is not None and (not parts or ("vocabulary" in parts) != has_texts):
        raise ArgumentError(
            "parts",
            "some parts, and `texts` with 'vocabulary' in `parts`, and only then",
            f"{list(parts)!r}, {'' if has_texts else 'no '}texts",
            advice="Pass the texts whose tokens remain.",
        )


def _usual(*, has_texts: bool) -> list[str]:
    """Return the parts that are removed if none are named."""
    return [kind for kind in _KINDS if kind != "width" and (kind != "vocabulary" or has_texts)]


def _most(cuts: _MixedCuts, parts: Sequence[str], *, is_asked: bool) -> Levels:
    """Return how many steps of each kind there are.

    Raises:
        ValueError: If a kind that is asked for has none, or no kind has any.
    """
    most: Levels = {}
    reasons = []
    for kind in [kind for kind in _KINDS if kind in parts]:
        try:
            most[kind] = cuts.most(kind)
        except ValueError as error:
            if is_asked:
                raise ArgumentError(
                    "parts", "a model with what `parts` names", f"{list(parts)!r}; {error} Leave {kind!r} out"
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


def _step(cuts: _MixedCuts, before: Candidate, after: Candidate) -> TransformerStep:
    kind = next(kind for kind, level in after.levels.items() if level != before.levels[kind])
    saved = {name: before.costs[name] - cost for name, cost in after.costs.items()}
    removed = cuts.described(kind, before=before.levels[kind], level=after.levels[kind])
    return TransformerStep(kind, removed, dict(after.costs), saved, after.loss)


def _alone(kind: str, found: Candidate | None) -> PartAlone:
    if found is None:
        return PartAlone(kind, None, {}, {})
    return PartAlone(kind, found.loss, dict(found.costs), found.levels)
