"""Remove channels of one group after the other, and solve for the weights that read the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.base.run_folder import Arrays, RunFolder
from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.improve_layer import improve_layer, unsolved
from tfprune.compact.reconstruction.layer_moments import IsHeld, MomentSums
from tfprune.compact.reconstruction.least_squares import GramMoments
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionRow
from tfprune.compact.shrinking.readers import Reader, RunningModel
from tfprune.keras_models.channels.network import Group
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.one_shot.putri_report import PutriRow

Choose = Callable[["Target", GramMoments, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Target:
    """A group that loses channels, and the layer that reads them.

    Attributes:
        group: The group, without the bundles that have to stay.
        reader: The layer.
        keep: How many channels to keep.
    """

    group: Group
    reader: Reader
    keep: int


@dataclass(frozen=True)
class Update:
    """How the weights that are left are solved for.

    Attributes:
        order: "sequential" on the outputs of the layers before with their new weights, "parallel" on those of the
            dense model, "none" leaves the weights as they are.
        to_dense: Whether a layer should return what it returns in the dense model, or what its dense weights make of
            its inputs.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean.
        is_held: Tells by its number whether a batch is kept apart.
    """

    order: str
    to_dense: bool
    ridge: float
    is_held: IsHeld


@dataclass(eq=False)
class Changes:
    """Variables that were changed, with their values before, and the values that they get at the end.

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


def remove_in_order(
    running: RunningModel,
    arrays: Iterable[Sequence[Any]],
    *,
    targets: Sequence[Target],
    keep: np.ndarray,
    choose: Choose,
    update: Update,
    folder: RunFolder,
) -> Iterator[PutriRow]:
    """Remove channels in the order of the model, and yield a row for each group.

    Args:
        running: The model; its weights change.
        arrays: The arrays for its inputs, batch by batch.
        targets: What is removed.
        keep: Which bundles of the whole model stay, changed in place.
        choose: Returns which bundles of a group stay, from the moments of the inputs of the layer that reads them,
            and its weights.
        update: How the weights that are left are solved for.
        folder: Where each step is kept.
    """
    changes = Changes()
    walk = GraphWalk(running.graph, arrays)
    walks = [walk]
    if update.to_dense and update.order == "sequential":
        walks.append(GraphWalk(running.graph, walk.inputs(), weights=changes.dense_values))
    places = {id(call): place for place, call in enumerate(running.graph.calls)}
    spans = [[places[id(call)] for call in target.reader.site.calls] for target in targets]
    in_order = sorted(zip(spans, targets, strict=True), key=lambda entry: min(entry[0]))
    for number, (span, target) in enumerate(in_order):
        touched = _touched(running, target)
        changes.note(touched)

        def step(span: list[int] = span, target: Target = target, touched: list = touched) -> Arrays:
            for one in walks:
                one.advance(min(span))
            fit, held = _moments(walks, target, end=max(span) + 1, is_held=update.is_held)
            row = _remove(running, target, fit=fit, held=held, keep=keep, choose=choose, update=update)
            values = {str(index): as_numpy(variable) for index, variable in enumerate(touched)}
            return {"keep": keep[target.group.bundles], "row": np.array(json.dumps(asdict(row))), **values}

        found = folder.remember(f"{target.group.kind}_{number:03d}", step)
        keep[target.group.bundles] = found["keep"]
        for index, variable in enumerate(touched):
            variable.assign(found[str(index)])
        row = json.loads(str(found["row"]))
        yield PutriRow(**{**row, "error": ReconstructionRow(**row["error"])})
        if update.order != "sequential":
            changes.defer(touched)
    changes.apply_deferred()


def _touched(running: RunningModel, target: Target) -> list[keras.Variable]:
    """Return the variables that change when channels of a group go."""
    touched = [variable for weight, variable in running.variables if weight.holding(target.group.bundles)]
    bias = target.reader.site.map.bias
    return touched if bias is None or any(bias is one for one in touched) else [*touched, bias]


def _moments(
    walks: Sequence[GraphWalk], target: Target, *, end: int, is_held: IsHeld
) -> tuple[list[GramMoments], list[GramMoments]]:
    found = target.reader.site.map
    sums = MomentSums([found], [found.weights()], is_held=is_held)
    streams = zip(*(one.seen([found], end=end) for one in walks), strict=True)
    for number, (rows, *meant) in enumerate(streams):
        sums.add(number, rows, meant=meant[0] if meant else None)
    return sums.moments()[0], sums.moments(held=True)[0]


def _remove(
    running: RunningModel,
    target: Target,
    *,
    fit: list[GramMoments],
    held: list[GramMoments],
    keep: np.ndarray,
    choose: Choose,
    update: Update,
) -> PutriRow:
    """Put zeros in place of what is removed, and solve for the weights that read the rest."""
    site = target.reader.site
    dense = site.map.weights()
    keep[target.group.bundles] = choose(target, fit[0], dense[0])
    for weight, variable in running.variables:
        if weight.reading(target.group.bundles) or weight.making(target.group.bundles):
            variable.assign(as_numpy(variable) * weight.mask(keep))
    if update.order == "none":
        row = unsolved(site, fit, held=held)
    else:
        row = improve_layer(site, fit, dense=dense, held=held, method="exact", ridge=update.ridge)
    count, kept = target.group.bundles.size, int(keep[target.group.bundles].sum())
    return PutriRow(target.group.name, target.group.kind, count, kept, row, row.after < row.before)
