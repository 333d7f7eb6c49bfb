"""Find the groups of units and heads that may go, remove their channels in order, and solve for the weights left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.run_folder import NamedArrays, RunFolder
from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.improve_layer import improve_layer, unsolved
from tfprune.compact.reconstruction.layer_moments import IsHeld, MomentSums
from tfprune.compact.reconstruction.linear_map import NotLinear
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionRow
from tfprune.compact.shrinking.channel_readers import Reader, RunningModel
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.one_shot.putri_report import PutriRow
from tfprune.report import Skipped
from tfprune.solving.dependency_graph import Group, Network, is_cut_off
from tfprune.solving.least_squares import GramMoments

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
        is_held: Tells whether a batch is held out, by its number.
    """

    order: str | None
    to_dense: bool
    ridge: float
    is_held: IsHeld


@dataclass(eq=False)
class Changes:
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
    branches = [each.group for each in units + heads if network.branch_ends(without(network, [each.group]))]
    ends = network.branch_ends(without(network, branches))
    whole = set() if is_cut_off(network.takers, ends=ends) else {group.name for group in branches}

    def completed(removal: Removal) -> Removal:
        least = 0 if removal.group.name in whole else 1
        return replace(removal, least=least, parts=_parts(network, removal.group, is_whole=not least))

    return list(map(completed, units)), list(map(completed, heads)), (*skipped, *others)


def without(network: Network, groups: list[Group]) -> np.ndarray:
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
    keep = without(network, [group])
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
    """Tell whether matrices make and read channels: a kernel of attention has an axis of heads, too."""
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
    changes = Changes()
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
            row = json.loads(str(result["row"]))
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
