"""Removal of units and heads in order: the groups, the split of a sparsity, the choice of heads, and the losses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.folders import NamedArrays, RunFolder, parse_json
from tfprune.base.spec import ArgumentError, check_sparsity
from tfprune.compact.linear_map import GraphWalk, IsHeld, MomentSums, NotLinear
from tfprune.compact.plan import attention_layers
from tfprune.compact.reconstruct import ReconstructionRow, improve_layer, unsolved
from tfprune.compact.shrink import Reader, RunningModel, ShrinkPlan
from tfprune.models.anatomy import as_numpy, walk
from tfprune.models.graph import Graph
from tfprune.models.training import Batches, batch_loss, loss_of, token_input, token_masks, without_padding
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import Group, Network, is_cut_off
from tfprune.solving.least_squares import GramMoments

# Report of `prune_units`: the channels and heads removed from each layer, and the error.

_TOLERANCE = 0.01  # of the requested number


@dataclass(frozen=True)
class PutriRow(Report):
    """A group of channels or heads and its error.

    Attributes:
        group: The name of the group.
        kind: "channels", which are hidden units, or "heads".
        channels: The number of channels or heads before.
        kept: The number that is kept.
        error: The output error of the layer that reads them, before its weights were updated and after.
        is_updated: Whether its new weights were kept.
    """

    group: str
    kind: str
    channels: int
    kept: int
    error: ReconstructionRow
    is_updated: bool


@dataclass(frozen=True)
class PutriTotal(Report):
    """The requested and the removed number of parameters.

    Attributes:
        parameters: Parameters of all hidden units and heads that can be removed, their norms included.
        asked: The number of them that you asked to remove.
        removed: The number that was removed.
        limits: The reasons why it is not the same number.
    """

    parameters: int
    asked: int
    removed: int
    limits: tuple[str, ...] = ()

    @property
    def is_met(self) -> bool:
        """Whether the removed number is within 1 % of the requested one."""
        return abs(self.removed - self.asked) <= _TOLERANCE * self.asked

    def __str__(self) -> str:
        parts = [f"{number / max(self.parameters, 1):.2%}" for number in (self.asked, self.removed)]
        line = f"Of {self.parameters:,} parameters of the blocks, {parts[0]} were to be removed; {parts[1]} were."
        return line if self.is_met else "\n".join([line, "The reasons:", *(f"- {text}" for text in self.limits)])


@dataclass(frozen=True)
class PutriReport(Report):
    """The channels and heads that `prune_units` removed.

    Attributes:
        rows: One row per group, in the order in which they were removed.
        skipped: The groups that keep all channels or heads, each with the reason.
        total: The requested and the removed number of parameters.
        plan: The plan of the smaller model, for `shrink(masked, report.plan)`.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dense(4)]
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> model = keras.Sequential(layers)
        >>> masked, report = tfprune.prune_units(model, x, {"units": 0.5}, verbose=0)
        >>> [(row.group, row.kept) for row in report.rows]
        [('hidden', 8)]
    """

    JSON_NAMES = ("rows", "skipped", "total")

    rows: tuple[PutriRow, ...]
    skipped: tuple[Skipped, ...]
    total: PutriTotal
    plan: ShrinkPlan = field(compare=False, repr=False)

    def __str__(self) -> str:
        lines = [
            [
                *(row.group, f"{row.kept:,} of {row.channels:,}"),
                *(f"{row.error.before:.3%}", f"{row.error.after:.3%}"),
                *("" if value is None else f"{value:.3%}" for value in (row.error.held_before, row.error.held_after)),
                "yes" if row.is_updated else "no",
            ]
            for row in self.rows
        ]
        columns = ["group", "channels kept", "error without reconstruction", "with it"]
        rows = table([*columns, "held-out error without", "with it", "reconstructed"], lines)
        return f"{rows}\n\n{self.total}{skipped_table(self.skipped)}"


# Find the groups of units and heads that may go, remove their channels in order, and solve for the weights left.

Choose = Callable[["Removal", GramMoments, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Removal:
    """A group that loses channels, and the layer that reads them.

    Attributes:
        group: The group, without the bundles that have to stay.
        reader: The layer.
        keep: The number of channels to keep.
        least: The smallest number that may be kept: 0 where the whole branch may go.
        parts: The indices of the channels that go together.
    """

    group: Group
    reader: Reader
    keep: int
    least: int = 1
    parts: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class WeightUpdate:
    """How the remaining weights are solved for.

    Attributes:
        order: "sequential" on the outputs of the layers before with their new weights, "parallel" on those of the
            dense model, None leaves the weights as they are.
        to_dense: Whether a layer is fitted to its outputs in the dense model, or to those of its dense weights on its
            own inputs.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean.
        is_held: Returns True if a batch is held out, by its number.
    """

    order: str | None
    to_dense: bool
    ridge: float
    is_held: IsHeld


@dataclass(eq=False)
class _Changes:
    """Changed variables, with their values before, and the values that they get at the end.

    Attributes:
        dense: The values before, by the id of the variable.
    """

    dense: dict[int, tuple[keras.Variable, np.ndarray]] = field(default_factory=dict)
    _later: list[tuple[keras.Variable, np.ndarray]] = field(default_factory=list)

    def note(self, variables: Iterable[keras.Variable]) -> None:
        """Remember variables that are about to change."""
        for variable in variables:
            self.dense.setdefault(id(variable), (variable, as_numpy(variable).copy()))

    def dense_values(self) -> list[tuple[keras.Variable, Any]]:
        """Return the variables with their values before."""
        return [(variable, keras.ops.convert_to_tensor(values)) for variable, values in self.dense.values()]

    def defer(self, variables: Iterable[keras.Variable]) -> None:
        """Set variables back to their values before, until `apply_deferred`."""
        for variable in variables:
            self._later.append((variable, as_numpy(variable).copy()))
            variable.assign(self.dense[id(variable)][1])

    def apply_deferred(self) -> None:
        """Set the deferred values."""
        for variable, values in self._later:
            variable.assign(values)


def find_removals(running: RunningModel) -> tuple[list[Removal], list[Removal], tuple[Skipped, ...]]:
    """Return a removal for each group of hidden units, one for each group of heads, and the groups that are skipped.

    A whole feed-forward network or attention may go where the model still depends on its inputs without all of them.
    """
    units, skipped = _removals(running, kind="channels")
    heads, others = _removals(running, kind="heads")
    network = running.network
    branches = [each.group for each in units + heads if network.branch_ends(_without(network, [each.group]))]
    ends = network.branch_ends(_without(network, branches))
    whole = set() if is_cut_off(network.takers, ends=ends) else {group.name for group in branches}

    def completed(removal: Removal) -> Removal:
        least = 0 if removal.group.name in whole else 1
        return replace(removal, least=least, parts=_parts(network, removal.group, is_whole=not least))

    return list(map(completed, units)), list(map(completed, heads)), (*skipped, *others)


def _without(network: Network, groups: list[Group]) -> np.ndarray:
    """Return which bundles are kept where all of some groups are removed."""
    keep = network.all_kept()
    for group in groups:
        keep[group.bundles] = False
    return keep


def _parts(network: Network, group: Group, *, is_whole: bool) -> tuple[np.ndarray, ...]:
    """Return the indices of the channels that go together: all, where kernels go that only the whole group frees.

    Such a kernel makes the only keys and values of a layer, which all of its queries share.
    """
    indices = np.arange(group.bundles.size)
    keep = _without(network, [group])
    gone = network.unread(keep) | network.branch_ends(keep)
    shared = [
        weight
        for name in gone & network.layers.keys()
        for weight in network.layers[name].weights
        if weight.reads + weight.makes and not weight.holding(group.bundles)
    ]
    return (indices,) if is_whole and shared else tuple(indices[:, np.newaxis])


def _removals(running: RunningModel, *, kind: str) -> tuple[list[Removal], list[Skipped]]:
    """Return a removal for each group of a kind that one layer reads, and the groups that are skipped."""
    removals: list[Removal] = []
    skipped: list[Skipped] = []
    for group in running.network.groups:
        part = group.free_part()
        if group.kind != kind:
            continue
        reason = group.stuck
        if kind == "channels" and not _are_units(running.network, part):
            reason = reason or "parts of attention, not hidden units"
        try:
            readers = running.readers_of(part) if reason is None else []
            if reason is None and len(readers) != 1:
                reason = f"{len(readers)} layers read it, not one"
        except NotLinear as error:
            reason = str(error)
        if reason is None and part.bundles.size > 1:
            removals.append(Removal(part, readers[0], part.bundles.size))
        else:
            skipped.append(Skipped(group.name, reason or "one is left", Skipped.HELD))
    return removals, skipped


def _are_units(network: Network, group: Group) -> bool:
    """Return True if matrices make and read channels: a kernel of attention has an axis of heads, too."""
    return all(
        len(weight.shape) == 2
        for weight in network.weights_of(group)
        if weight.making(group.bundles) or weight.reading(group.bundles)
    )


def remove_in_order(
    running: RunningModel,
    arrays: Iterable[Sequence[Any]],
    *,
    removals: Sequence[Removal],
    keep: np.ndarray,
    choose: Choose,
    update: WeightUpdate,
    folder: RunFolder,
) -> Iterator[PutriRow]:
    """Remove channels in the order of the model, and yield a row for each group.

    Args:
        running: The model; its weights change.
        arrays: The arrays for its inputs, batch by batch.
        removals: The groups that lose channels.
        keep: Which bundles of the whole model stay, changed in place.
        choose: Returns which bundles of a group stay, from the moments of the inputs of the layer that reads them,
            and its weights.
        update: How the remaining weights are solved for.
        folder: Stores the result of each step.
    """
    changes = _Changes()
    walk = GraphWalk(running.graph, arrays)
    walks = [walk]
    if update.to_dense and update.order == "sequential":
        walks.append(GraphWalk(running.graph, walk.inputs(), weights=changes.dense_values))
    for number, (span, removal) in enumerate(_in_order(running, removals)):
        variables = changing(running, removal)
        changes.note(variables)

        def step(span: range = span, removal: Removal = removal, variables: list = variables) -> NamedArrays:
            for each in walks:
                each.advance(span.start)
            fit, held = _moments(walks, removal, end=span.stop, is_held=update.is_held)
            row = _remove(running, removal, fit=fit, held=held, keep=keep, choose=choose, update=update)
            values = {str(index): as_numpy(variable) for index, variable in enumerate(variables)}
            return {"keep": keep[removal.group.bundles], "row": np.array(json.dumps(asdict(row))), **values}

        def apply(result: NamedArrays, removal: Removal = removal, variables: list = variables) -> PutriRow:
            keep[removal.group.bundles] = result["keep"]
            for index, variable in enumerate(variables):
                variable.assign(result[str(index)])
            row = parse_json(str(result["row"]).encode())
            return PutriRow(**{**row, "error": ReconstructionRow(**row["error"])})

        yield folder.remember(f"{removal.group.kind}_{number:03d}", step, apply)
        if update.order != "sequential":
            changes.defer(variables)
    changes.apply_deferred()


def _in_order(running: RunningModel, removals: Sequence[Removal]) -> list[tuple[range, Removal]]:
    """Return the removals in the order of the model, each with the range of calls that read its channels."""
    indices = {id(call): index for index, call in enumerate(running.graph.calls)}
    reads = [[indices[id(call)] for call in removal.reader.site.calls] for removal in removals]
    spans = [range(min(calls), max(calls) + 1) for calls in reads]
    return sorted(zip(spans, removals, strict=True), key=lambda pair: pair[0].start)


def changing(running: RunningModel, removal: Removal) -> list[keras.Variable]:
    """Return the variables that change when channels of a group are removed."""
    variables = [variable for weight, variable in running.variables if weight.holding(removal.group.bundles)]
    bias = removal.reader.site.map.bias
    return variables if bias is None or any(bias is variable for variable in variables) else [*variables, bias]


def _moments(
    walks: Sequence[GraphWalk], removal: Removal, *, end: int, is_held: IsHeld
) -> tuple[list[GramMoments], list[GramMoments]]:
    linear = removal.reader.site.map
    sums = MomentSums([linear], [linear.weights()], is_held=is_held)
    streams = zip(*(walk.seen([linear], end=end) for walk in walks), strict=True)
    for number, (rows, *meant) in enumerate(streams):
        sums.add(number, rows, meant=meant[0] if meant else None)
    return sums.moments()[0], sums.moments(held=True)[0]


def _remove(
    running: RunningModel,
    removal: Removal,
    *,
    fit: list[GramMoments],
    held: list[GramMoments],
    keep: np.ndarray,
    choose: Choose,
    update: WeightUpdate,
) -> PutriRow:
    """Set the weights of removed channels to zero, and solve for the weights that read the others."""
    site, group = removal.reader.site, removal.group
    dense = site.map.weights()
    keep[group.bundles] = choose(removal, fit[0], dense[0])
    for weight, variable in running.variables:
        if weight.reading(group.bundles) or weight.making(group.bundles):
            variable.assign(as_numpy(variable) * weight.mask(keep))
    live = np.asarray((dense if site.map.bias is None else dense[..., :-1]).any(axis=2))
    if update.order is None:
        row = unsolved(site, fit, held=held, live=live)
    else:
        row = improve_layer(site, fit, held=held, ridge=update.ridge, live=live)
    count, kept = group.bundles.size, int(keep[group.bundles].sum())
    return PutriRow(group.name, group.kind, count, kept, row, row.after < row.before)


# Split a sparsity of a transformer into numbers of hidden units and heads.

PARTS = ("units", "heads")
_SHOWN = 3  # names in a line of text


@dataclass(frozen=True)
class SparsitySplit:
    """The numbers of hidden units and heads.

    Attributes:
        units: The number of hidden units that each group keeps, by its name.
        heads: The number of heads that all layers together lose in each round of choosing them.
        asked: The number of parameters that the sparsity asks for.
        parameters: The number of parameters of all hidden units and heads.
    """

    units: dict[str, int]
    heads: tuple[int, ...]
    asked: int
    parameters: int


def check_sparsities(sparsity: float | Mapping[str, float]) -> float | dict[str, float]:
    """Return a checked sparsity, or one for each part.

    Raises:
        TypeError: If it is neither a number nor a dict of numbers.
        ValueError: If a number is outside [0, 1), or a part is not one of "units" and "heads".
    """
    if not isinstance(sparsity, Mapping):
        return check_sparsity(sparsity, "sparsity")
    unknown = sorted(map(str, sparsity.keys() - set(PARTS)))
    if unknown or not sparsity:
        raise ArgumentError(
            "sparsity",
            "sparsities of 'units', 'heads' or both",
            repr(dict(sparsity)),
            advice="Pass, for example, {'units': 0.5, 'heads': 0.25}.",
        )
    return {part: check_sparsity(sparsity.get(part, 0.0), f"sparsity[{part!r}]") for part in PARTS}


def split_sparsity(
    sparsity: float | Mapping[str, float], network: Network, *, units: Sequence[Removal], heads: Sequence[Removal]
) -> SparsitySplit:
    """Split a sparsity, by the rule of the paper if it is one number.

    More layers of attention go than the rule says where the hidden units alone do not have as many parameters as are
    left to remove, and fewer where its layers have more than the sparsity asks for.
    """
    forward = sum(_parameters(network, removal) for removal in units)
    attention = sum(_parameters(network, removal) for removal in heads)
    count = sum(removal.group.bundles.size for removal in heads)
    most = count - sum(removal.least for removal in heads)
    if isinstance(sparsity, Mapping):
        lost_units, lost_heads = sparsity["units"], round(sparsity["heads"] * count)
        asked = sparsity["units"] * forward + sparsity["heads"] * attention
    else:
        asked = sparsity * (forward + attention)
        layers = _layers_lost(sparsity, asked, forward=forward, attention=attention, count=len(heads))
        lost_heads = min(round(layers * count / max(len(heads), 1)), most)
        lost_units = (asked - attention * lost_heads / max(count, 1)) / (forward or 1)
    kept = {}
    for removal in units:
        size = removal.group.bundles.size
        kept[removal.group.name] = min(max(round(size * (1 - lost_units)), removal.least), size)
    heads_of_a_layer = max(round(count / max(len(heads), 1)), 1)
    lost_heads = min(lost_heads, most)
    rounds = (*[heads_of_a_layer] * (lost_heads // heads_of_a_layer), lost_heads % heads_of_a_layer)
    return SparsitySplit(kept, tuple(number for number in rounds if number), round(asked), forward + attention)


def _layers_lost(sparsity: float, asked: float, *, forward: int, attention: int, count: int) -> int:
    """Return how many layers of attention are removed: by the rule of the paper, as near as the others allow."""
    if not count or not forward:
        return 0
    layers = attention_layers(sparsity, block_count=count, attention=attention / count, feed_forward=forward / count)
    least, most = (asked - forward) * count / attention, asked * count / attention
    return int(np.clip(layers, np.ceil(least), np.floor(most)))


def _parameters(network: Network, removal: Removal) -> int:
    """Return the number of entries of all weights that go with the channels of a group, but for the last of them."""
    without = network.all_kept()
    without[removal.group.bundles] = False
    if not removal.least:
        return network.parameters(network.all_kept()) - network.parameters(without)
    without[removal.group.bundles[0]] = True
    size = removal.group.bundles.size
    return (network.parameters(network.all_kept()) - network.parameters(without)) * size // (size - 1)


def limits(removals: Sequence[Removal]) -> tuple[str, ...]:
    """Return the reasons why the removed number of parameters differs from the requested one."""
    held = [removal.group.name for removal in removals if removal.least]
    coarse = [removal.group.name for removal in removals if len(removal.parts) == 1]
    lines = []
    if held:
        lines.append(f"one unit or head is kept in {_listed(held)}, as the model has no way around them")
    if coarse:
        lines.append(f"all heads of {_listed(coarse)} share one key and value, and are removed together")
    return (*lines, "units and heads are removed whole, and the same number of units from each feed-forward network")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


# Choose the attention heads without which the model changes least, in rounds.

HeadLoss = Callable[[Sequence[Any]], float]  # of the outputs of the model


class HeadOrder:
    """The order in which attention heads go, in rounds, whatever the number of heads to remove.

    In each round, every remaining part of a layer is removed alone: a head with the queries that share it. Where all
    queries of a layer share one, it is the whole layer, as long as so many are to be removed. The parts with the
    smallest loss go. A round is measured once, for all numbers of heads that begin with the rounds before it.

    Args:
        running: The model. It has the same weights whenever heads are chosen.
        arrays: The arrays for its inputs, of one batch.
        removals: The layers of attention.
        loss: Returns the loss of outputs of the model.
    """

    def __init__(
        self, running: RunningModel, arrays: Sequence[Any], *, removals: Sequence[Removal], loss: HeadLoss
    ) -> None:
        self._running, self._arrays = running, arrays
        self._removals, self._loss = removals, loss
        self._measured: dict[tuple, dict[tuple[str, int], float]] = {}  # by the rounds before, and what goes at once

    def kept(self, rounds: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the heads that each layer keeps.

        Args:
            rounds: The number of heads to remove in each round.

        Returns:
            For each layer, by the name of its group, True for the heads that it keeps.
        """
        kept = {each.group.name: np.ones(each.group.bundles.size, dtype=bool) for each in self._removals}
        of_name = {removal.group.name: removal for removal in self._removals}
        for number, count in enumerate(rounds):
            parts = {name: _heads_of(removal, count) for name, removal in of_name.items()}
            state = (tuple(rounds[:number]), tuple(map(len, parts.values())))
            if state not in self._measured:
                self._measured[state] = self._losses(kept, parts)
            losses = self._measured[state]
            for name, index in sorted(losses, key=lambda key: losses[key]):
                part = parts[name][index]
                if part.size <= min(count, kept[name].sum() - of_name[name].least):
                    kept[name][part] = False
                    count -= part.size
        return kept

    def _losses(
        self, kept: dict[str, np.ndarray], parts: dict[str, tuple[np.ndarray, ...]]
    ) -> dict[tuple[str, int], float]:
        """Return the loss without each of the remaining parts, by the name of its group and its index."""
        running, removals = self._running, self._removals
        masked: dict[str, Any] = {}

        def masked_kernels() -> list[tuple[Any, Any]]:
            return [(removal.reader.site.map.kernel.variable, masked[removal.group.name]) for removal in removals]

        def show(removal: Removal, heads: np.ndarray) -> None:
            keep = running.network.all_kept()
            keep[removal.group.bundles] = heads
            values = as_numpy(removal.reader.site.map.kernel.variable) * removal.reader.weight.mask(keep)
            masked[removal.group.name] = keras.ops.convert_to_tensor(values)

        for removal in removals:
            show(removal, kept[removal.group.name])
        walk = GraphWalk(running.graph, [self._arrays], weights=masked_kernels)
        losses: dict[tuple[str, int], float] = {}
        for removal in removals:
            walk.advance(min(running.graph.calls.index(call) for call in removal.reader.site.calls))
            name, heads = removal.group.name, kept[removal.group.name]
            for index, part in enumerate(parts[name]):
                if heads[part].all() and heads.sum() - part.size >= removal.least:
                    show(removal, heads & ~np.isin(np.arange(heads.size), part))
                    losses[name, index] = self._loss(walk.outputs(0))
            show(removal, heads)
        return losses


def _heads_of(removal: Removal, count: int) -> tuple[np.ndarray, ...]:
    """Return the parts of a layer, or its single heads where fewer than a part are to be removed."""
    heads = np.arange(removal.group.bundles.size)
    return removal.parts if removal.parts[0].size <= count else tuple(heads[:, np.newaxis])


# Judges of outputs: how much a model changes without a head, or how well it foretells the next token.

_Sums = tuple[float, int]  # of losses, and how many they are
SampleBatch = tuple[list[np.ndarray], Any]  # the arrays for the inputs of the dense model, and targets or None
_TOKENS = 256  # whose logits are computed at a time: a vocabulary is large


@dataclass(frozen=True)
class RemainingTokens:
    """The only tokens whose scores a loss compares.

    Attributes:
        model: The model with these tokens alone.
        ids: Their ids in the dense model, ascending.
    """

    model: keras.Model
    ids: np.ndarray

    def embedding_like(self, embedding: keras.layers.Embedding) -> keras.layers.Embedding:
        """Return the embedding of the fewer tokens, or the same one if it has fewer hidden dimensions."""
        own = _embedding_of(self.model, embedding.name)
        return own if own.output_dim == embedding.output_dim else embedding

    def are_scores(self, graph: Graph) -> list[bool]:
        """Tell of each output of a model with all tokens whether it has a score for each of them."""
        pairs = zip(self.model.outputs, graph.model.outputs, strict=True)
        return [fewer.shape[-1] != whole.shape[-1] for fewer, whole in pairs]

    def of(self, scores: Any) -> Any:
        """Return the scores of these tokens, of those of all tokens or of these alone."""
        return scores if scores.shape[-1] == len(self.ids) else keras.ops.take(scores, self.ids, axis=-1)


class _NextTokens:
    """The cross-entropy of the token ids after the first: of logits, or of hidden states by the embedding backwards.

    Args:
        graph: The model.
        remaining: The only tokens that are scored; None scores all.

    Raises:
        ValueError: If the first output of the model is neither logits nor such hidden states.
    """

    def __init__(self, graph: Graph, remaining: RemainingTokens | None) -> None:
        self._graph, (self._index, self._embedding) = graph, token_input(graph)
        self._remaining, output = remaining, graph.model.outputs[0]
        size, maker = int(output.shape[-1] or 0), getattr(graph.producer(output), "layer", None)
        makers = [maker] if isinstance(maker, keras.layers.Layer) else []
        are_scores = any(part is self._embedding for layer in makers for _, part in walk(layer))
        is_reversible = isinstance(self._embedding, keras.layers.ReversibleEmbedding)
        self._are_hidden = is_reversible and size == self._embedding.output_dim and not are_scores
        if len(output.shape) != 3 or (size != self._embedding.input_dim and not self._are_hidden):
            raise ValueError(
                f"Expected outputs of which judge='perplexity' can make logits of {self._embedding.input_dim} "
                f"tokens. Received: {graph.model.name!r} with a first output of shape {tuple(output.shape)}, and no "
                f"embedding that is read backwards. Pass a model that returns logits, or judge='distance'."
            )

    def check_lengths(self, batches: Sequence[SampleBatch]) -> None:
        """Refuse texts without a next token."""
        shortest = min(int(self._tokens(arrays).sum(axis=1).max()) for arrays, _ in batches)
        if shortest < 2:
            raise ValueError(
                f"Expected texts of two tokens or more for judge='perplexity'. Received in `samples`: texts of "
                f"{shortest}. Pass longer windows, or judge='distance'."
            )

    def _tokens(self, arrays: Sequence[Any]) -> np.ndarray:
        """Return where a batch has tokens and no padding, of shape (texts, positions)."""
        masks = token_masks(self._graph, arrays)
        return masks[self._index] if self._index in masks else np.ones(np.shape(arrays[self._index]), bool)

    def sums(self, outputs: Sequence[Any], arrays: Sequence[Any], *, narrower: keras.Model | None = None) -> _Sums:
        """Return the sum of the losses of a batch, and of how many tokens; none is padding, or follows it.

        Args:
            outputs: What a model returned, perhaps with some parts removed.
            arrays: The inputs of the whole model.
            narrower: A model with fewer hidden dimensions, whose own embedding makes scores of its hidden states.
        """
        embedding = self._embedding if narrower is None else _embedding_of(narrower, self._embedding.name)
        ids, states = np.asarray(arrays[self._index]), outputs[0][:, :-1]
        if self._remaining is not None:
            embedding, ids = self._remaining.embedding_like(embedding), np.searchsorted(self._remaining.ids, ids)
        mask = self._tokens(arrays)
        places = np.flatnonzero(mask[:, :-1] & mask[:, 1:])
        states = keras.ops.take(keras.ops.reshape(states, (-1, states.shape[-1])), places, axis=0)
        following = ids[:, 1:].reshape(-1)[places]
        total = 0.0
        for start in range(0, len(following), _TOKENS):
            some = slice(start, start + _TOKENS)
            logits = embedding(states[some], reverse=True) if self._are_hidden else states[some]
            logits = logits if self._remaining is None else self._remaining.of(logits)
            logits = keras.ops.cast(logits, "float32")  # a sum of 16-bit floats has three digits
            losses = keras.losses.sparse_categorical_crossentropy(following[some], logits, from_logits=True)
            total += float(keras.ops.sum(losses))
        return total, len(following)


def is_loss(judge: Any) -> bool:
    """Return True if a judge is a loss of labels."""
    return not isinstance(judge, str) or judge not in ("distance", "perplexity")


def head_loss(graph: Graph, batches: Batches, *, judge: Any, remaining: RemainingTokens | None = None) -> HeadLoss:
    """Return the loss of outputs on the first batch.

    Args:
        graph: The dense model.
        batches: The data.
        judge: "distance", the squared distance to the outputs of the dense model; "perplexity"; or a loss of Keras.
        remaining: The only tokens whose scores are compared; None compares all.

    Raises:
        ValueError: If the data have no targets for a loss, or the outputs are neither logits nor hidden states.
    """
    inputs, targets = next(iter(batches))
    if judge == "distance":
        return _distance(graph, inputs, remaining)
    if judge == "perplexity":
        next_tokens = _NextTokens(graph, remaining)
        return lambda outputs: float(np.exp(_mean(next_tokens.sums(outputs, inputs))))
    if targets is None:
        raise _no_labels(judge)
    measured = loss_of(graph.model, judge)
    return lambda outputs: batch_loss(measured, outputs[0], targets=targets)


def _no_labels(judge: Any) -> ValueError:
    return ValueError(
        f"Expected `samples` with labels, (x, y), because `judge` is a loss. Received: inputs alone, "
        f"judge={judge!r}. Without labels, pass judge='distance' or, for a language model, 'perplexity'."
    )


def _distance(graph: Graph, inputs: Sequence[Any], remaining: RemainingTokens | None) -> HeadLoss:
    as_arrays = _Arrays(graph, remaining)
    dense = as_arrays(GraphWalk(graph, [inputs]).outputs(0), inputs)

    def distance(outputs: Sequence[Any]) -> float:
        pairs = zip(as_arrays(outputs, inputs), dense, strict=True)
        return sum(float(np.mean(np.square(output - other))) for output, other in pairs)

    return distance


class OutputLoss:
    """A loss of the outputs of models that were made of one.

    Args:
        graph: The dense model.
        batches: The data.
        judge: As in `prune_units`.
        remaining: The tokens that models with fewer of them have, and whose scores are compared; None is all.

    Raises:
        ValueError: If `judge` needs targets or texts, and there are none.
    """

    def __init__(
        self, graph: Graph, batches: Sequence[SampleBatch], *, judge: Any, remaining: RemainingTokens | None = None
    ) -> None:
        self._batches, self._judge = batches, judge
        self._as_arrays = _Arrays(graph, remaining)
        self._dense: list[list[np.ndarray]] = []
        self._scales = np.ones(1)
        if judge == "distance":
            self._dense = [self._as_arrays(run(graph.model, arrays), arrays) for arrays, _ in batches]
            squares = [[_squares(each) for each in outputs] for outputs in self._dense]
            self._scales = np.maximum(_means(squares), 1e-30)  # of each output
        elif judge == "perplexity":
            self._next_tokens = _NextTokens(graph, remaining)
            self._next_tokens.check_lengths(batches)
        elif any(targets is None for _, targets in batches):
            raise _no_labels(judge)
        elif remaining is not None and any(remaining.are_scores(graph)):
            raise ArgumentError(
                "judge",
                "judge='perplexity' or 'distance' with `texts`, for a model that returns a score of each token: "
                "labels number the tokens of the whole vocabulary",
                f"{judge!r} for {graph.model.name!r}",
            )
        else:
            self._loss = loss_of(graph.model, judge)

    def __call__(self, outputs_of: Any, *, narrower: keras.Model | None = None) -> float:
        """Return the mean loss over the data.

        Args:
            outputs_of: Returns the outputs for the arrays of a batch.
            narrower: A model with fewer hidden dimensions, whose own embedding makes scores of its hidden states.
        """
        sums = [
            self._of_batch(index, outputs_of(arrays), narrower) for index, (arrays, _) in enumerate(self._batches)
        ]
        return float(np.sum(_means(sums) / self._scales))

    def _of_batch(self, index: int, outputs: Sequence[Any], narrower: keras.Model | None) -> list[_Sums]:
        """Return the losses of a batch; as a distance, those of each output."""
        arrays, targets = self._batches[index]
        if self._judge == "perplexity":
            return [self._next_tokens.sums(outputs, arrays, narrower=narrower)]
        if self._judge == "distance":
            pairs = zip(self._as_arrays(outputs, arrays), self._dense[index], strict=True)
            return [_squares(output - dense) for output, dense in pairs]
        size = len(arrays[0])
        return [(size * batch_loss(self._loss, outputs[0], targets=targets), size)]


def _squares(differences: np.ndarray) -> _Sums:
    return float(np.sum(np.square(differences))), differences.size


def _mean(sums: _Sums) -> float:
    return sums[0] / max(sums[1], 1)


def _means(batches: Sequence[Sequence[_Sums]]) -> np.ndarray:
    """Return the mean over all batches of each of their sums."""
    totals, counts = np.sum(batches, axis=0).T
    return totals / np.maximum(counts, 1)


def _embedding_of(model: keras.Model, name: str) -> keras.layers.Embedding:
    embeddings = [part for _, part in walk(model) if isinstance(part, keras.layers.Embedding)]
    return next(part for part in embeddings if part.name == name)


class _Arrays:
    """Outputs of a model as arrays of float32, without padding; of scores of tokens those of the remaining ones."""

    def __init__(self, graph: Graph, remaining: RemainingTokens | None) -> None:
        self._graph, self._remaining = graph, remaining
        self._are_scores = [] if remaining is None else remaining.are_scores(graph)

    def __call__(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> list[np.ndarray]:
        masks = list(token_masks(self._graph, inputs).values())
        if self._remaining is not None:
            pairs = zip(outputs, self._are_scores, strict=True)
            outputs = [self._remaining.of(output) if is_score else output for output, is_score in pairs]
        arrays = [keras.ops.convert_to_numpy(output).astype("float32") for output in outputs]
        return [without_padding(array, masks) for array in arrays]


def run(model: keras.Model, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Return the outputs of a model for the arrays of its inputs, in order."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    return keras.tree.flatten(model(packed_inputs(model, tensors), training=False))


def packed_inputs(model: keras.Model, arrays: Sequence[Any]) -> Any:
    """Return the arrays of a model's inputs in the structure in which it takes them."""
    structure = getattr(model, "input", model.inputs[0])  # a Sequential that was never called lacks `input`
    return keras.tree.pack_sequence_as(structure, arrays)
