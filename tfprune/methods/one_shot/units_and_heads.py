"""Smaller models of one transformer, with fewer hidden units and heads; what several of them need is done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
import numpy as np

from tfprune.base.run_folder import RunFolder
from tfprune.compact.shrinking.channel_readers import RunningModel
from tfprune.compact.shrinking.shrink import build_smaller
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.one_shot.head_choice import HeadLoss, HeadOrder
from tfprune.methods.one_shot.prune_units import RIDGE, unit_choice, weight_updates
from tfprune.methods.one_shot.remove_in_order import Choose, Removal, changing, find_removals, remove_in_order
from tfprune.methods.one_shot.split_sparsity import SparsitySplit, split_sparsity

_HOLDOUT = 0.2  # of the batches, as prune_units has it


class UnitsAndHeads:
    """The models that `prune_units` and `shrink` make of one model, for several numbers of units and heads.

    The model is traced once. Models with as many units share them, with the weights that were fitted to them, and the
    order in which their heads go.

    Args:
        model: The model. It keeps its weights as long as smaller ones are built.
        samples: The calibration data, as batches of inputs, and of targets where there are some.
        criterion: The importance of hidden units.
        loss_of: Returns the loss of outputs by which heads are chosen, of the graph of the model and the data.

    Attributes:
        running: A copy of the model; it has fewer units and heads once a smaller model was built.
        units: The groups of hidden units that can be removed.
        heads: The groups of heads.
        skipped: Those that cannot be.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Sequence[tuple],
        *,
        criterion: str,
        loss_of: Callable[[Graph, Batches], HeadLoss],
    ) -> None:
        self._model, self._samples = model, samples
        self._choose_units, self._loss_of = unit_choice(criterion), loss_of
        holdout = _HOLDOUT if len(samples) > 1 else 0.0
        self._updates = weight_updates("sequential", "own", ridge=RIDGE, holdout=holdout)
        self._read()

    def _read(self) -> None:
        self._copy = flat_copy(Anatomy.of(self._model))
        self.running = RunningModel(self._copy)
        self.units, self.heads, self.skipped = find_removals(self.running)
        self._batches = Batches(self._samples, self.running.graph.model, batch_size=1, argument="samples")
        self._kept_units: dict[str, int] | None = None  # by the copy; None if it has to be made anew

    def smaller(self, *, units: float, heads: float) -> keras.Model:
        """Build the model without some fractions of its hidden units and heads."""
        if self._copy.is_used_up:
            self._read()
        network = self.running.network
        split = split_sparsity({"units": units, "heads": heads}, network, units=self.units, heads=self.heads)
        if self._kept_units == split.units:
            for variable, values in self._with_heads:
                variable.assign(values)
        else:
            self._remove_units(split)
        keep = self._keep.copy()
        if not split.heads:
            return build_smaller(self._copy, ShrinkPlan(network, keep, self.skipped))
        kept = self._order.kept(split.heads)
        self._remove(self.heads, lambda removal, moments, weights: kept[removal.group.name], keep=keep, part="heads")
        copy = flat_copy(Anatomy.of(self._model))  # a model of unequal blocks uses it up
        for variable, values in zip(copy.plain.variables, self._copy.plain.variables, strict=True):
            variable.assign(values)
        return build_smaller(copy, ShrinkPlan(network, keep, self.skipped))

    def _remove_units(self, split: SparsitySplit) -> None:
        """Remove hidden units from the dense model, and prepare to remove heads."""
        self._kept_units = None  # until it is done
        self._copy.read_weights(self._model)
        loss = self._loss_of(self.running.graph, self._batches) if self.heads else None
        self._keep = self.running.network.all_kept()
        removals = [replace(each, keep=split.units[each.group.name]) for each in self.units]
        fewer = [each for each in removals if each.keep < each.group.bundles.size]
        self._remove(fewer, self._choose_units, keep=self._keep, part="units")
        if loss is not None:
            first = next(iter(self._batches))[0]
            self._order = HeadOrder(self.running, first, removals=self.heads, loss=loss)
        changed = [variable for removal in self.heads for variable in changing(self.running, removal)]
        self._with_heads = [(variable, as_numpy(variable).copy()) for variable in changed]
        self._kept_units = split.units

    def _remove(self, removals: Sequence[Removal], choose: Choose, *, keep: np.ndarray, part: str) -> None:
        arrays = (inputs for inputs, _ in self._batches)
        update = self._updates[part]
        with RunFolder(None, settings={}, arrays=[]) as folder:
            for _ in remove_in_order(
                self.running, arrays, removals=removals, keep=keep, choose=choose, update=update, folder=folder
            ):
                pass
