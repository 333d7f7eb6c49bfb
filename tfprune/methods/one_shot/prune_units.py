"""Putri: remove hidden units and attention heads of a transformer, without training."""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfprune.base.folders import RunFolder
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_choice, check_count, check_number
from tfprune.compact.linear_map import every
from tfprune.compact.shrink import RunningModel, ShrinkPlan, build_smaller
from tfprune.masking.strip import flat_copy
from tfprune.methods.one_shot.removal import (
    PARTS,
    Choose,
    HeadLoss,
    HeadOrder,
    PutriReport,
    PutriRow,
    PutriTotal,
    Removal,
    SparsitySplit,
    WeightUpdate,
    changing,
    check_sparsities,
    find_removals,
    head_loss,
    is_loss,
    limits,
    remove_in_order,
    split_sparsity,
)
from tfprune.models.anatomy import Anatomy, as_numpy, weight_values
from tfprune.models.graph import Graph
from tfprune.models.training import Batches, check_token_ids
from tfprune.solving.least_squares import GramMoments, damped_factor, inverse_of_lower
from tfprune.solving.surgery import DAMPING, Surgeon, removals

# Scores of hidden units, from the moments of the inputs of the layer that reads them.

_Score = Callable[..., np.ndarray]


def _kept_units(
    score: str, moments: GramMoments, *, weights: np.ndarray, indices: np.ndarray, keep: int
) -> np.ndarray:
    """Choose the channels to keep.

    Args:
        score: One of `SCORES`, or "greedy".
        moments: The moments of the inputs, and of the outputs of the weights.
        weights: The weights, of shape (outputs, inputs).
        indices: The indices of the inputs of each channel, of shape (channels, size).
        keep: The number of channels to keep.

    Returns:
        Booleans, one for each channel.

    Example:
        >>> moments = GramMoments(3, 1)
        >>> moments.add_inputs(np.diag([1.0, 2.0, 3.0]))
        >>> _kept_units("activation", moments, weights=np.ones((1, 3)), indices=np.arange(3)[:, np.newaxis], keep=2)
        array([False,  True,  True])
    """
    kept = np.ones(len(indices), dtype=bool)
    if score == "greedy":
        surgeon = Surgeon(moments.gram, weights, channels=indices)
        order = itertools.islice(removals([surgeon], len(indices)), len(indices) - keep)
        kept[[channel for channel, _ in order]] = False
    else:
        scores = SCORES[score](moments, weights.astype(np.float64), indices)
        kept[np.argsort(scores, kind="stable")[: len(indices) - keep]] = False
    return kept


def _activation(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score by the norm of the inputs of a channel over all data."""
    return np.sqrt(moments.gram.diagonal()[indices].sum(axis=1))


def _wanda(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score by the norm of the inputs of a channel, times the norm of the weights that read it."""
    energy = moments.gram.diagonal() * np.square(weights).sum(axis=0)
    return np.sqrt(energy[indices].sum(axis=1))


def _obs(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score by the error without the channel, after the other weights are updated."""
    return Surgeon(moments.gram, weights, channels=indices).costs()


def _putri(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score as in the paper: as if all channels before this one were removed, so that their order matters."""
    half = inverse_of_lower(damped_factor(moments.gram, DAMPING))
    factor = np.linalg.cholesky(half.T @ half).diagonal()
    power = moments.energy / max(moments.count, 1)
    return (power @ np.square(weights) / np.square(factor))[indices].sum(axis=1)


SCORES: dict[str, _Score] = {"activation": _activation, "wanda": _wanda, "obs": _obs, "putri": _putri}


_log = logging.getLogger(__name__)
_RECONSTRUCTIONS = ("sequential", "parallel", None)
_TARGETS = ("own", "dense")
_RIDGE = 1e-3


def prune_units(
    model: keras.Model,
    samples: Any,
    sparsity: float | Mapping[str, float] = 0.5,
    *,
    criterion: str = "activation",
    reconstruction: str | Mapping[str, str | None] | None = "sequential",
    targets: str = "own",
    ridge: float = _RIDGE,
    holdout: float = 0.2,
    judge: Any = "distance",
    batch_size: int = 8,
    folder: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, PutriReport]:
    """Remove hidden units and attention heads of a transformer, block by block, and solve for the remaining weights.

    Use it on a model that is too large to be trained again: it needs a few passes over a few hundred texts. First it
    removes the hidden units that matter least to the layer that reads them, and fits the remaining weights of that
    layer by least squares. Then it removes the heads whose removal changes the model least. Queries that share a key
    and value are removed together with these; if all queries of a layer share one, the layer is removed as a whole.
    If a residual connection bypasses an attention layer or a feed-forward network, it can lose all its heads or
    units, and `shrink` drops it.

    Use texts of every kind that the model will see. New weights fit these texts and can be worse on others: a layer
    keeps its old weights if the new ones are worse on the batches that `holdout` sets aside.

    Args:
        model: A built model with feed-forward networks, such as a backbone of KerasHub, wrapped or not. It is left
            unchanged.
        samples: Token ids and the other inputs of the model, in the forms that `reconstruct` accepts. Only a
            loss as `judge` needs labels: pass (x, y).
        sparsity: The fraction of the parameters of all blocks to remove, in [0, 1). Default 0.5. The paper's rule
            (see `transformer_budget`) splits it between units and heads. Or a dict with the fraction of each, such as
            `{"units": 0.5, "heads": 0.25}`. The report shows the fraction that was removed.
        criterion: The importance of a unit. `"activation"` (the default): the norm of its activations, as in 2SSP.
            `"wanda"`: this norm times the norm of the weights that read the unit. `"obs"`: the error without the unit
            after the other weights are updated. `"greedy"`: the same, one unit after the other; slow for many units.
            `"putri"`: for comparison with the paper; it depends on the order of the units, and was worse in every
            measurement.
        reconstruction: `"sequential"` (the default) solves for the weights of each layer on the outputs of the layers
            before it with their new weights, as the authors do; `"parallel"` on those of the dense model; None leaves
            the weights as they are. Or a dict for the two steps: the paper uses
            `{"units": "sequential", "heads": None}`.
        targets: The outputs that a sequential reconstruction fits: `"own"` (the default), those of the dense weights
            of the layer on its present inputs, or `"dense"`, those of the layer in the dense model.
        ridge: How strongly the new weights are pulled towards the old ones, as a fraction of the mean square of the
            inputs, at least 0. Default 0.001.
        holdout: The fraction of the batches to set aside, in [0, 0.5]. Default 0.2; 0 accepts all new weights.
        judge: How the first batch rates a model without a head. `"distance"` (the default): the squared distance to
            the outputs of the dense model. `"perplexity"`, as in the paper: of the next token id, from logits, or
            from hidden states and a reversible embedding. Or a loss of Keras, its name, or a function of labels and
            outputs.
        batch_size: Samples in a batch, at least 1. Default 8.
        folder: Where the state of the run is saved: call `prune_units` again with the same arguments to continue a
            run that was stopped. None (the default) saves none.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A copy of the model, of the same class and size, with zeros and new weights; and a `PutriReport`, which prints
        as a table. `shrink(masked, report.plan)` builds the smaller model.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model cannot be followed, or has no hidden units that can be removed.
        ValueError: If `judge` needs labels or token ids, and there are none; or it is a loss, and the model has
            several outputs or `samples` have sample weights.
        ValueError: If `samples` are empty, do not fit the model, or have token ids beyond its vocabulary.
        ValueError: If `folder` has another run, is in use by one, or cannot be written.

    Example:
        >>> from tfprune import shrink
        >>> x = keras.Input((8,))
        >>> hidden = keras.layers.Dense(16, activation="relu", name="hidden")(x)
        >>> model = keras.Model(x, keras.layers.Dense(4, name="out")(hidden))
        >>> masked, report = prune_units(model, keras.random.normal((64, 8), seed=0), verbose=0)
        >>> [(row.group, row.kept) for row in report.rows], shrink(masked, report.plan).get_layer("hidden").units
        ([('hidden', 8)], 8)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331; Sandri et al., 2025,
        "2SSP", arXiv:2501.17771.
    """
    sparsity = check_sparsities(sparsity)
    check_choice(criterion, "criterion", choices=[*SCORES, "greedy"])
    updates = _weight_updates(reconstruction, targets, ridge=ridge, holdout=holdout)
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    copy = flat_copy(Anatomy.of(model))
    running = RunningModel(copy)
    units, heads, skipped = find_removals(running)
    if not units:
        raise ValueError(
            f"Expected a model with hidden units that can be removed. Received: {model.name!r} without any; "
            f"plan_shrink(model, 0.5) says why."
        )
    parts = split_sparsity(sparsity, running.network, units=units, heads=heads)
    batches = Batches(
        samples, running.graph.model, batch_size=batch_size, argument="samples", is_for_loss=is_loss(judge)
    )
    check_token_ids(running.graph, batches)
    loss = head_loss(running.graph, batches, judge=judge) if parts.heads else None
    keep = running.network.all_kept()
    rows: list[PutriRow] = []
    first = next(iter(batches))[0]
    settings = {
        "sparsity": sparsity,
        "score": criterion,
        "update": [reconstruction, targets, ridge, holdout],
        "judge": str(judge),
    }
    count = len(units) + (len(heads) if parts.heads else 0)
    progress = Progress(count, verbose=verbose, unit="group", shown=["error"])

    def remove(removals: Sequence[Removal], choose: Choose, weight_update: WeightUpdate) -> None:
        arrays = (inputs for inputs, _ in batches)
        for row in remove_in_order(
            running, arrays, removals=removals, keep=keep, choose=choose, update=weight_update, folder=steps
        ):
            rows.append(row)
            _log.info("%s: %d of %d stay, error %.3g", row.group, row.kept, row.channels, row.error.after)
            progress.add(1, {"error": row.error.after})

    with RunFolder(folder, settings=settings, arrays=[*weight_values(copy.plain), *first]) as steps, progress:
        counted = [replace(each, keep=parts.units[each.group.name]) for each in units]
        remove(counted, _unit_choice(criterion), updates["units"])
        if loss is not None:
            order = HeadOrder(running, first, removals=heads, loss=loss)
            kept_heads = steps.remember("heads", functools.partial(order.kept, parts.heads))
            remove(heads, lambda removal, moments, weights: kept_heads[removal.group.name], updates["heads"])
    dense, left = (running.network.parameters(choice) for choice in (running.network.all_kept(), keep))
    total = PutriTotal(parts.parameters, parts.asked, dense - left, limits=limits(units + heads))
    plan = ShrinkPlan(running.network, keep, skipped)
    return copy.hand_out(), PutriReport(tuple(rows), skipped, total, plan)


def _unit_choice(criterion: str) -> Choose:
    """Return the function that chooses the hidden units that a group keeps, by one of the criteria."""

    def choose(removal: Removal, moments: GramMoments, weights: np.ndarray) -> np.ndarray:
        return _kept_units(criterion, moments, weights=weights, indices=removal.reader.indices, keep=removal.keep)

    return choose


def _weight_updates(
    reconstruction: str | Mapping[str, str | None] | None, targets: str, *, ridge: float, holdout: float
) -> dict[str, WeightUpdate]:
    """Return how the weights that read hidden units and those that read heads are solved for.

    Raises:
        ValueError: If a way of reconstruction is not known, or a number is out of range.
    """
    orders: dict[str, str | None]
    orders = dict(reconstruction) if isinstance(reconstruction, Mapping) else dict.fromkeys(PARTS, reconstruction)
    if orders.keys() != set(PARTS):
        raise ArgumentError(
            "reconstruction",
            "a reconstruction, or a dict with one for 'units' and one for 'heads'",
            repr(reconstruction),
            advice="Pass, for example, {'units': 'sequential', 'heads': None}.",
        )
    check_choice(targets, "targets", choices=_TARGETS)
    ridge, holdout = check_number(ridge, "ridge", least=0), check_number(holdout, "holdout", least=0, most=0.5)
    for order in orders.values():
        check_choice(order, "reconstruction", choices=_RECONSTRUCTIONS)
    return {  # without a reconstruction, nothing could be worse on data that are held out
        part: WeightUpdate(order, targets == "dense", ridge, every(0.0 if order is None else holdout))
        for part, order in orders.items()
    }


# Smaller models of one transformer, with fewer hidden units and heads; what several of them need is done once.

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
        self._choose_units, self._loss_of = _unit_choice(criterion), loss_of
        holdout = _HOLDOUT if len(samples) > 1 else 0.0
        self._updates = _weight_updates("sequential", "own", ridge=_RIDGE, holdout=holdout)
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
