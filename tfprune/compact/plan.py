"""Plan which channels and heads of a model to remove, within budgets of parameters, bytes, FLOPs or latency."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.allocation import ALLOCATIONS, Allocation, LayerThreshold, Weight, allocate
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import (
    LEAST_AMOUNT,
    ArgumentError,
    ArgumentTypeError,
    BudgetLimit,
    check_budget_limit,
    check_choice,
    check_count,
    check_sparsity,
    resolve,
    text_of,
)
from tfprune.channels.groups import as_weights, choose_groups, kernels_by_weight
from tfprune.compact.rank import RankingReport
from tfprune.compact.shrink import PlannedCopy, ShrinkPlan, shrink
from tfprune.criteria import CRITERIA, Criterion, Magnitude, finite
from tfprune.evidence import Gatherer, check_needs
from tfprune.masking.strip import flat_copy, score_kernels
from tfprune.masking.update_masks import check_sparsity_or_budget
from tfprune.models.anatomy import Anatomy, Filters, as_numpy
from tfprune.patterns import Unstructured
from tfprune.report import Report, Skipped, table
from tfprune.solving.dependency_graph import Group, Network

# Budgets: prune until a model costs no more than is allowed.

_log = logging.getLogger(__name__)
# Where each candidate has to be measured: sparsities to choose among, parts of the model that may go some steps less,
# how many steps, and how much of the limit is taken when no more is tried.
_STEPS_OF_LATENCY, _PARTS_OF_LATENCY, _ROUNDS, _NEAR = 64, 16, 2, 0.95

# What of a network can be counted; a latency has to be measured.
_COUNTS = {"flops": Network.flops, "parameters": Network.parameters, "bytes": Network.bytes}
_Keeping = Callable[[list[float | None]], np.ndarray]


@dataclass(frozen=True)
class Budget:
    """The largest cost of a pruned model; made by `budget`.

    Attributes:
        limits: By name, `flops`, `parameters`, `bytes` or `latency`. An int is an amount, a float a fraction of what
            the model costs now.
        allocation: Splits a sparsity over the groups.
        measure: Returns the latency of a plain model, in any unit.
        progress: How far on the way to the limits, in [0, 1].

    Example:
        >>> budget(flops=0.5, bytes=100_000).limits
        (('flops', 0.5), ('bytes', 100000))
    """

    limits: tuple[tuple[str, int | float], ...]
    allocation: str | Allocation
    measure: Callable[[keras.Model], float] | None
    progress: float = 1.0

    def at(self, progress: float) -> Budget:
        """Return the budget part of the way."""
        return replace(self, progress=progress)

    def in_rounds(self, rounds: int, *, network: Network, model: keras.Model) -> list[Budget]:
        """Return budgets that approach the limits by equal steps, as amounts: they hold for smaller models, too."""
        costs = {name: self._cost(name, network, model)(network.all_kept()) for name, _ in self.limits}

        def amounts(progress: float) -> tuple[tuple[str, int | float], ...]:
            part = self.at(progress)
            return tuple((name, max(int(part._target(limit, costs[name])), 1)) for name, limit in self.limits)

        return [replace(self, limits=amounts(number / rounds)) for number in range(1, rounds + 1)]

    def meet(
        self,
        weights: Sequence[Weight],
        keeping: _Keeping,
        network: Network,
        model: keras.Model,
        *,
        verbose: int | str = 0,
    ) -> np.ndarray:
        """Return which bundles stay, where as few go as the limits allow.

        Args:
            weights: The groups that may lose channels.
            keeping: Turns the sparsity of each group into the bundles that stay.
            network: The channels of the model.
            model: The model itself.
            verbose: Whether to show a bar.

        Raises:
            ValueError: If even the largest sparsity does not meet a limit.
        """
        steps, parts = sum(weight.size for weight in weights), []
        if "latency" in dict(self.limits):
            steps = min(steps, _STEPS_OF_LATENCY)
            parts = _ROUNDS * np.array_split(range(len(weights)), min(len(weights), _PARTS_OF_LATENCY))
        costs = {name: self._cost(name, network, model) for name, _ in self.limits}
        most = 2 + (steps - 1).bit_length() + len(parts)  # the model as it is, the smallest one, and the searches
        shares: dict[tuple[int, tuple[int, ...]], float] = {}

        def kept(step: int, behind: tuple[int, ...] = ()) -> np.ndarray:
            """Go as far as a step says, and with a group one step less for each time that it is named."""
            fewer = [behind.count(group) for group in range(len(weights))]
            splits = {less: allocate(weights, max(step - less, 0) / steps, self.allocation) for less in {*fewer}}
            return keeping([splits[less][group] for group, less in enumerate(fewer)])

        def lack(step: int, behind: tuple[int, ...] = ()) -> str:
            shares[step, behind], text = self._tightest(kept(step, behind), costs, targets)
            progress.add()
            return text if shares[step, behind] > 1 else ""

        with Progress(most, verbose=verbose, unit="candidate") as progress:
            targets = {name: self._target(limit, costs[name](network.all_kept())) for name, limit in self.limits}
            progress.add()
            if lacking := lack(steps - 1):
                raise ArgumentError(
                    "budget",
                    "a budget that can be met",
                    advice=(
                        f"With all channels removed that may go, the model still has {lacking}. Raise the limit, or "
                        f"let more groups lose channels."
                    ),
                    beside=dict(self.limits),
                )
            step = _first(0, steps - 1, lambda step: not lack(step))
            behind: tuple[int, ...] = ()
            # Kernels of a device take channels by eights or so: a step of all groups at once may be a long one.
            for part in parts if step else ():
                more = (*behind, *map(int, part))
                behind = more if shares[step, behind] < _NEAR and not lack(step, more) else behind
        return kept(step, behind)

    @staticmethod
    def _tightest(
        keep: np.ndarray, costs: Mapping[str, Callable[[np.ndarray], float]], targets: Mapping[str, float]
    ) -> tuple[float, str]:
        """Return the largest share of a limit that is taken, and say so; it measures no more than it has to."""
        largest = (0.0, "")
        for name, target in targets.items():
            if largest[0] <= 1:
                cost = costs[name](keep)
                said = f"{name} of {cost:,.0f} where {target:,.0f} are allowed"
                largest = max(largest, (cost / target, said))
        return largest

    def _target(self, limit: int | float, cost: float) -> float:
        final = cost * limit if isinstance(limit, float) else limit
        return cost - (cost - final) * self.progress

    def _cost(self, name: str, network: Network, model: keras.Model) -> Callable[[np.ndarray], float]:
        if name in _COUNTS:
            return functools.partial(_COUNTS[name], network)
        measure: Any = self.measure

        def latency(keep: np.ndarray) -> float:
            cost = measure(shrink(model, ShrinkPlan(network, keep)))
            _log.info("a latency of %s with %d of %d channels", f"{cost:,.0f}", keep.sum(), keep.size)
            return cost

        return latency


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the first number from which on something holds; it does for the last."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def budget(
    *,
    flops: BudgetLimit = None,
    parameters: BudgetLimit = None,
    bytes: BudgetLimit = None,  # noqa: A002
    latency: BudgetLimit = None,
    measure: Callable[[keras.Model], float] | None = None,
    allocation: str | Allocation = "uniform",
) -> Budget:
    """Limit the cost of a model after pruning.

    Use it when you know how small or fast the model has to be: pass it in place of a sparsity to `plan_shrink` and
    `update_masks`, or as the `budget` of `PruningCallback` and `prune_to`. An int is an amount; a float in (0, 1) is
    a fraction of the present cost. With several limits, all of them are met.

    Args:
        flops: Floating-point operations on one sample, two for each multiplication of kernels and attention.
        parameters: Entries of all weights.
        bytes: Bytes of all weights, as they are in the Keras model.
        latency: The result of `measure`, such as microseconds of one inference.
        measure: A function from a plain model to its cost, such as `tfprune.export.latency`, which exports the model
            and runs it on this machine, or `tfprune.export.vela(...)`, which counts the cycles on an NPU.
        allocation: How a sparsity is split over the groups: `"uniform"` (the default), `"global"`, `"lamp"`, or a
            function, such as `allocation.LayerThreshold()`.

    Returns:
        The budget.

    Raises:
        TypeError: If a limit is not a number, or `allocation` is neither a name nor a function.
        ValueError: If there is no limit, one is not positive, is a fraction of 1 or more, or is an amount of 100 or
            less that is not a latency, `latency` comes without `measure`, or `allocation` is not one of the names.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(64), keras.layers.Dense(2)]
        >>> plan = plan_shrink(keras.Sequential(layers), budget(flops=0.5))
        >>> plan.flops_kept <= plan.flops / 2
        True
    """
    amounts = {"flops": flops, "parameters": parameters, "bytes": bytes, "latency": latency}
    limits = tuple(
        (name, check_budget_limit(value, name, least=1 if name == "latency" else LEAST_AMOUNT))
        for name, value in amounts.items()
        if value is not None
    )
    if not limits:
        raise ValueError("Expected a limit, such as budget(flops=0.5). Received none.")
    if (latency is None) != (measure is None):
        raise ArgumentError(
            "latency",
            "`measure` with a latency, and only then",
            repr(latency),
            advice=(
                "tfprune.export.latency measures on this machine: budget(latency=0.5, "
                "measure=tfprune.export.latency)."
            ),
            beside={"measure": measure},
        )
    if not callable(allocation):
        check_choice(allocation, "allocation", choices=ALLOCATIONS, others="or a function")
    return Budget(limits, allocation, measure)


def check_budget(value: Any) -> None:
    """Refuse everything but a budget.

    Raises:
        TypeError: If it is not a budget.
    """
    if isinstance(value, Budget):
        return
    advice = ""
    if isinstance(value, tuple):
        advice = (
            "transformer_budget returns two counts, not a budget: pass plan_shrink(model, sparsity, "
            "allocation={'heads': removed / blocks, 'hidden': 1 - kept / width, '': None})."
        )
    if hasattr(value, "shape") or any(hasattr(part, "shape") for part in (value if isinstance(value, tuple) else ())):
        advice = "The budget comes before the data: prune_to(model, tfprune.budget(flops=0.5), (x, y))."
    raise ArgumentTypeError("budget", "a budget, such as tfprune.budget(flops=0.5)", text_of(value), advice=advice)


# Plan which channels and heads of a model to remove.


def plan_shrink(
    model: keras.Model,
    sparsity: float | Budget | LayerThreshold | None = None,
    *,
    criterion: str | Criterion | RankingReport | Mapping[str, np.ndarray] = "magnitude",
    allocation: str | Mapping[str, float | None] | Allocation = "uniform",
    filters: Filters = None,
    round_to: int = 1,
    data: Any = None,
    loss: Any = None,
    verbose: int | str = "auto",
) -> ShrinkPlan:
    """Plan which channels, units and attention heads of a model to remove.

    Use it to make a model smaller and faster everywhere: print the plan, then `shrink(model, plan)`. Channels that
    meet in an addition, a multiplication or a grouped convolution can only be removed together: they count as one
    channel of the plan, and layers that share channels are one group.

    Choose how much is removed in one of four ways:

    - `plan_shrink(model, 0.5)`: this fraction of the channels, those with the lowest scores.
    - `plan_shrink(model, budget(flops=0.5))`: as few channels as the budget allows.
    - `plan_shrink(model, LayerThreshold(...), criterion=...)`: the channels below the threshold of their layer.
    - `plan_shrink(model)`: the channels that no kernel reads any more, because all its weights for them are zero. Use
      it after training with `patterns.Channel()`, whose masks have made the choice. All other arguments are then
      refused.

    Args:
        model: A built Sequential or Functional model, models nested in it included, wrapped or not. It is left
            unchanged.
        sparsity: The fraction of channels to remove, in [0, 1); or a `budget(...)` or an `allocation.LayerThreshold`,
            which find it. None (the default) removes the channels that no kernel reads.
        criterion: The importance of an entry of a weight; the score of a channel is the mean over the entries that
            make it. Default `"magnitude"`. Or scores of the channels themselves: the report of `rank_channels` or
            `rank_heads`, or a dict of arrays by the name of their group. Groups without scores then keep all
            channels.
        allocation: How to split a fraction over the groups: `"uniform"` (the default), `"global"`, `"lamp"`, a dict
            from regular expressions (searched in the groups' names) to sparsities, or a function.
        filters: Which groups may lose channels: those in which one of these kernels makes channels. None (the
            default) takes all.
        round_to: The number of remaining channels is rounded up to a multiple of this, at least 1, because many
            kernels are fastest at multiples of 4 or 8. Default 1.
        data: For criteria that need evidence: a tuple (x, y) of arrays, a dataset, or an iterable of batches.
        loss: For criteria that look at gradients; None takes the loss that the model was compiled with.
        verbose: For a budget, which takes long if a latency is measured. As in Keras: 0 shows nothing, 1 a progress
            bar, 2 one line at the end. `"auto"` (the default) shows the bar in a terminal or a notebook,
            once the search has taken some seconds.

    Returns:
        The plan. It prints as a table, with the groups that keep all channels and the reasons.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, or nothing in it can be removed.
        ValueError: If `filters` matches nothing, or names channels that cannot be removed.
        ValueError: If the budget cannot be met, or comes with an `allocation`.
        ValueError: If the criterion needs data and there are none, or `data` are empty, of the wrong shape or not
            finite, or no criterion looks at them.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> plan = plan_shrink(keras.Sequential(layers), 0.5)
        >>> [(row.group, row.channels, row.kept) for row in plan.rows]
        [('hidden', 6, 3), ('out', 2, 2)]
    """
    if isinstance(criterion, RankingReport):
        criterion = criterion.scores
    elif not isinstance(criterion, Mapping):
        criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    round_to = check_count(round_to, "round_to", least=1)
    if sparsity is not None or isinstance(allocation, Budget):
        check_sparsity_or_budget(sparsity, allocation, others=(LayerThreshold,))
    check_verbose(verbose)
    copy = flat_copy(Anatomy.of(model))
    flat, network = copy.model, copy.network
    is_ranked = sparsity is not None
    check_needs([criterion] if is_ranked and isinstance(criterion, Criterion) else [], data=data, loss=loss)
    if not is_ranked:
        _check_no_choice(criterion=criterion, allocation=allocation, filters=filters, round_to=round_to)
        free = [group for group in network.groups if group.stuck is None]
        return ShrinkPlan(network, _alive(network, flat), left_alone(network, free), PlannedCopy(model, copy))
    named = kernels_by_weight(network, flat)
    groups = choose_groups(network, named, pattern=Unstructured(), filters=filters, refusal=lambda group: group.stuck)
    chosen = groups
    if isinstance(criterion, Mapping):
        groups, scores = _ranked(network, groups, criterion)
    else:
        gatherer = None if data is None else Gatherer(copy.plain, data, loss=loss, compiled=model)
        bundles = np.concatenate([group.bundles for group in groups])
        makers = {weight: each for weight, each in named.items() if weight.making(bundles)}
        scored = score_kernels(copy, makers, criterion=criterion, gatherer=gatherer)
        scores = network.scores((weight, score()) for weight, score in scored.items())
    weights = as_weights(groups, lambda: scores)

    def keeping(split: list[float | None]) -> np.ndarray:
        return network.keep_best(groups, scores, split, round_to=[round_to] * len(groups))

    if isinstance(sparsity, Budget):
        keep = sparsity.meet(weights, keeping, network, model, verbose=verbose)
    elif isinstance(sparsity, LayerThreshold):
        keep = keeping(list(sparsity.below(weights)))
    else:
        keep = keeping(allocate(weights, check_sparsity(sparsity, "sparsity"), allocation))

    def left_out(group: Group) -> str:
        return "it has no scores in `criterion`" if group in chosen else "left out by `filters`"

    return ShrinkPlan(network, keep, left_alone(network, groups, left_out=left_out), PlannedCopy(model, copy))


CHOICES = {"criterion": Magnitude(), "allocation": "uniform", "filters": None, "round_to": 1}


def _check_no_choice(**choices: Any) -> None:
    changed = [name for name, value in choices.items() if value != CHOICES[name]]
    if changed:
        listed = ", ".join(f"{name}={choices[name]!r}" for name in changed)
        raise ValueError(
            f"Expected a sparsity, a budget or a LayerThreshold as the second argument with "
            f"{' and '.join(f'`{name}`' for name in changed)}: without one, all channels that no kernel reads are "
            f"removed. Received: {listed}. Pass it, or leave {'them' if len(changed) > 1 else 'it'} out; "
            f"patterns.Channel has a round_to for training."
        )


def _ranked(
    network: Network, groups: list[Group], criterion: Mapping[str, np.ndarray]
) -> tuple[list[Group], np.ndarray]:
    """Return the groups that have scores, and the score of each bundle."""
    scores = np.full(network.size, np.nan)
    ranked = {group.name: group for group in groups if group.name in criterion}
    unknown = sorted(criterion.keys() - {group.name for group in network.groups})
    if unknown or not ranked:
        names = ", ".join(repr(group.name) for group in groups)
        raise ValueError(
            f"Expected scores of groups of this model that may lose channels: {names}. Received: scores of "
            f"{', '.join(map(repr, unknown or criterion)) or 'none'}. Rank the model that the plan is for."
        )
    for name, group in ranked.items():
        values = np.asarray(criterion[name], dtype=np.float64)
        if values.shape != group.bundles.shape:
            raise ValueError(
                f"Expected {group.bundles.size} scores for {name!r}. Received: an array of shape {values.shape}."
            )
        scores[group.bundles] = finite(values, name)
    return list(ranked.values()), scores


def left_alone(
    network: Network, groups: list[Group], *, left_out: Callable[[Group], str] = lambda _: "left out by `filters`"
) -> tuple[Skipped, ...]:
    """List the groups and layers that keep all or some of their channels, with the reason.

    Args:
        network: The channels.
        groups: The groups that may lose channels.
        left_out: Says why a group is not among them that could be.
    """
    rest = [group for group in network.groups if group not in groups]
    partly = [group for group in groups if not group.free.all()]
    return tuple(
        [
            Skipped(group.name, group.stuck or left_out(group), Skipped.HELD if group.stuck else Skipped.FILTERED)
            for group in rest
        ]
        + [Skipped(group.name, f"in part: {group.reason}", Skipped.PARTLY_HELD) for group in partly]
        + [Skipped(name, reason, Skipped.NO_RULE) for name, reason in network.unfollowed.items()]
    )


def _alive(network: Network, flat: keras.Model) -> np.ndarray:
    """Return the bundles that some kernel reads, or that have to stay."""
    keep = np.zeros(network.size, dtype=bool)
    keep[list(network.reasons)] = True
    for weight, variable in network.variables(flat):
        keep[weight.bundles_read(as_numpy(variable) != 0)] = True
    for group in network.groups:
        if not all(keep[part].any() for part in (group.bundles, *group.parts)):
            raise ValueError(
                f"Expected at least one channel of {group.name!r} that a kernel reads. Received: none, the kernels "
                f"that read them are all zero. Lower the sparsity, or take these layers out of the model."
            )
    return keep


# Split a sparsity between the attention layers and the feed-forward networks of a transformer.

_ALPHA = 1.5  # as in the paper: less attention is removed than its share of the parameters


def transformer_budget(
    sparsity: float, *, block_count: int, attention: int, feed_forward: int, width: int
) -> tuple[int, int]:
    """Split a sparsity over equal blocks of attention and a feed-forward network.

    Use it before `plan_shrink`, to remove heads and hidden units in the proportion that the paper found best. With B
    blocks of |A| and |F| parameters, the heads of round(B s^((|F|/|A|) / 1.5)) attention layers are removed. The rest
    is removed from the feed-forward networks, the same from each.

    Args:
        sparsity: The fraction of the blocks' parameters to remove, in [0, 1).
        block_count: The number of blocks, at least 1.
        attention: The number of parameters of the attention in one block, at least 1.
        feed_forward: The number of parameters of the feed-forward network in one block, at least 1.
        width: The number of hidden units of the feed-forward network in one block, at least 1.

    Returns:
        Two counts: the number of attention layers whose heads are removed, and the number of hidden units that each
        block keeps. These are not what `tfprune.budget` returns. If the hidden layers are called "hidden", the plan
        is `plan_shrink(model, sparsity, allocation=split)` with
        `split = {"heads": removed / block_count, "hidden": 1 - kept / width, "": None}`.

    Raises:
        TypeError: If `sparsity` is not a number, or a count is not an integer.
        ValueError: If `sparsity` is outside [0, 1), a count is below 1, or the networks would lose all units.

    Example:
        >>> transformer_budget(0.5, block_count=32, attention=41_943_040, feed_forward=176_160_768, width=14336)
        (5, 5995)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331, section on the budget.
    """
    sparsity = check_sparsity(sparsity, "sparsity")
    counts = {"block_count": block_count, "attention": attention, "feed_forward": feed_forward, "width": width}
    for name, count in counts.items():
        check_count(count, name, least=1)
    removed = attention_layers(sparsity, block_count=block_count, attention=attention, feed_forward=feed_forward)
    total = block_count * (attention + feed_forward)
    lost = (round(sparsity * total) - removed * attention) / block_count / feed_forward
    remaining_width = min(round(width * (1 - lost)), width)  # more attention may go than was asked for
    if remaining_width < 1:
        raise ArgumentError(
            "sparsity",
            "a sparsity that leaves a unit of the feed-forward networks",
            f"{sparsity!r}, with {removed} of {block_count} layers of attention removed",
            advice="Lower it.",
        )
    return removed, remaining_width


def attention_layers(sparsity: float, *, block_count: int, attention: float, feed_forward: float) -> int:
    """Return the number of attention layers to remove, from the parameters of one block."""
    return round(block_count * sparsity ** (feed_forward / attention / _ALPHA))


# Plan of `plan_transformer`: the steps, what each saves, and the loss after it.


@dataclass(frozen=True)
class TransformerStep(Report):
    """A step of a plan.

    Attributes:
        part: What it removes from: "blocks", "experts", "heads", "units", "vocabulary" or "width".
        removed: What is removed after it, in words.
        costs: What the model costs after it, by the name of the limit.
        saved: What it saves, by the name of the limit.
        loss: The loss after it.
    """

    part: str
    removed: str
    costs: dict[str, float]
    saved: dict[str, float]
    loss: float


@dataclass(frozen=True)
class PartAlone(Report):
    """The loss of the model that meets the budget by one kind of parts.

    Attributes:
        part: The kind.
        loss: The loss on the calibration data; None if it cannot meet the budget.
        costs: What that model costs, by the name of the limit; empty if it cannot meet the budget.
        levels: How many steps of each kind it has; empty if it cannot meet the budget.
    """

    part: str
    loss: float | None
    costs: dict[str, float]
    levels: dict[str, int]


@dataclass(frozen=True)
class TransformerPlan(Report):
    """Which parts of a transformer to remove, to meet a budget.

    Attributes:
        steps: The steps, in the order in which they were chosen.
        costs: What the model costs before, by the name of the limit.
        targets: What it may cost, by the name of the limit.
        loss: The loss of the model before.
        alone: For each kind of parts, the loss of the model that meets the budget by it alone.
        levels: How many steps of each kind the plan has.

    Example:
        >>> step = TransformerStep("blocks", "block 2", {"bytes": 60.0}, {"bytes": 40.0}, 0.25)
        >>> print(TransformerPlan((step,), {"bytes": 100.0}, {"bytes": 70.0}, 0.0, (), {"blocks": 1}))
        step  part    removed  bytes  saved    loss
        ----  ------  -------  -----  -----  ------
                                 100         0.0000
        1     blocks  block 2     60     40  0.2500
        <BLANKLINE>
        The budget: bytes of 70.
    """

    JSON_NAMES = ("steps", "costs", "targets", "loss", "alone", "levels")

    steps: tuple[TransformerStep, ...]
    costs: dict[str, float]
    targets: dict[str, float]
    loss: float
    alone: tuple[PartAlone, ...]
    levels: dict[str, int]
    builder: Callable[[], tuple[keras.Model, Any]] | None = field(default=None, compare=False, repr=False)

    def build(self) -> tuple[keras.Model, Any]:
        """Build the smaller model.

        Returns:
            The model, uncompiled and without masks; of the same class where its arguments or its layers can have the
            new sizes, else Functional. And its tokenizer, None if the plan removes no tokens.

        Raises:
            ValueError: If the plan was made by hand or read from JSON.
        """
        if self.builder is None:
            raise ValueError(
                "Expected a plan of tfprune.plan_transformer. Received: a plan without its model. Plan again."
            )
        return self.builder()

    def __str__(self) -> str:
        names = list(self.targets)

        def cells(values: dict[str, float]) -> list[str]:
            return [f"{values[name]:,.0f}" for name in names]

        lines = [["", "", "", *cells(self.costs), *[""] * len(names), f"{self.loss:.4f}"]]
        for number, step in enumerate(self.steps, 1):
            lines.append(
                [str(number), step.part, step.removed, *cells(step.costs), *cells(step.saved), f"{step.loss:.4f}"]
            )
        saved = ["saved"] if len(names) == 1 else [f"{name} saved" for name in names]
        text = table(["step", "part", "removed", *names, *saved, "loss"], lines, left=3)
        limits = " and ".join(f"{name} of {self.targets[name]:,.0f}" for name in names)
        return f"{text}\n\nThe budget: {limits}.{self._alone()}"

    def _alone(self) -> str:
        if not self.alone:
            return ""
        lines = [
            [row.part, *(f"{row.costs[name]:,.0f}" if row.costs else "" for name in self.targets), _loss(row.loss)]
            for row in self.alone
        ]
        return "\n\n" + table(["one kind alone", *self.targets, "loss"], lines)


def _loss(loss: float | None) -> str:
    return "cannot meet it" if loss is None else f"{loss:.4f}"
