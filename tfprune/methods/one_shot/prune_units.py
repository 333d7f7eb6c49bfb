"""Putri: remove hidden units and attention heads of a transformer, without training."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.layer_moments import every
from tfprune.compact.reconstruction.least_squares import GramMoments
from tfprune.compact.reconstruction.linear_map import NotLinear
from tfprune.compact.shrinking.channel_readers import RunningModel
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.keras_models.channels.choose_groups import why_stuck
from tfprune.keras_models.channels.network import Group, Network
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss
from tfprune.keras_models.models.layers import weight_values
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.one_shot.head_choice import HeadLoss, choose_heads
from tfprune.methods.one_shot.putri_report import PutriReport, PutriRow
from tfprune.methods.one_shot.remove_in_order import Choose, Removal, WeightUpdate, remove_in_order
from tfprune.methods.one_shot.split_sparsity import check_sparsities, split_sparsity
from tfprune.methods.one_shot.token_ids import check_token_ids
from tfprune.methods.one_shot.unit_scores import SCORES, kept_units
from tfprune.report import Skipped

_log = logging.getLogger(__name__)
UPDATES = ("sequential", "parallel", "none")
TARGETS = ("own", "dense")
RIDGE = 1e-3


def prune_units(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float | Mapping[str, float] = 0.5,
    score: str = "activation",
    update: str = "sequential",
    targets: str = "own",
    ridge: float = RIDGE,
    holdout: float = 0.2,
    loss: Any = None,
    batch_size: int = 8,
    folder: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, ShrinkPlan, PutriReport]:
    """Remove hidden units and attention heads of a transformer, block by block, and solve for the remaining weights.

    Use it on a model that is too large to be trained again: it takes a few passes over a few hundred texts. First it
    removes the hidden units that matter least to the layer that reads them, and fits the other weights of that layer
    by least squares. Then it removes the heads without which the model changes least. Queries that share a key and
    value go together; if all queries of a layer share one, each goes by itself.

    Calibrate on texts of every kind that the model will see. New weights fit the calibration texts and can be worse
    on others: a layer keeps its old weights if the new ones are worse on the texts that `holdout` sets aside.

    Args:
        model: A built model with feed-forward networks, such as a backbone of KerasHub, wrapped or not. It is left
            unchanged.
        data: Token ids and the other inputs of the model, in the forms that `reconstruct` takes. Use full windows of
            text, as padding counts like any token. With a `loss`, a tuple (x, y) or a dataset of such batches.
        sparsity: The fraction of the parameters of all blocks to remove, in [0, 1). Default 0.5. The paper's rule
            (see `transformer_budget`) says how much of it comes from heads, but each layer keeps a head. Or a dict
            such as `{"units": 0.5, "heads": 0.25}`, the fraction of each.
        score: The importance of a unit. `"activation"` (the default): the norm of its activations, as in 2SSP.
            `"wanda"`: that, times the norm of the weights that read it. `"obs"`: the error without it, after the
            other weights are updated. `"greedy"`: the same, one unit after the other; for many units the slowest.
            `"putri"`: the paper's, which depends on the order of the units; it was worse wherever it was measured.
        update: `"sequential"` (the default) solves for the weights of each layer on the outputs of the layers before
            it with their new weights, `"parallel"` on those of the dense model, `"none"` leaves the weights.
        targets: The outputs that a layer is fitted to in sequential order: `"own"` (the default), those of its dense
            weights on its inputs, or `"dense"`, those that it has in the dense model.
        ridge: How strongly the weights are pulled towards the old ones, as a fraction of the mean square of the
            inputs, at least 0. Default 0.001.
        holdout: The fraction of the batches to set aside, in [0, 0.5]. Default 0.2; 0 accepts all new weights.
        loss: The loss by which heads are chosen, on the first batch: a loss, its name, or a function of targets and
            outputs. None (the default) takes the squared distance to the outputs of the dense model, without targets.
        batch_size: Samples in a batch, at least 1. Default 8.
        folder: A folder for the results of the steps: a run that was stopped continues where it stopped if you start
            it again with the same arguments. None (the default) stores nothing.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A copy of the model, of the same class and size, with zeros and new weights; the plan, so that
        `shrink(masked, plan)` builds the smaller model; and a `PutriReport`, which prints as a table.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model cannot be followed, or has no hidden units that can be removed.
        ValueError: If the sparsity would leave a block without units, or a layer of attention without heads.
        ValueError: If `data` are empty, do not fit the model, or hold token ids beyond its vocabulary.
        ValueError: If `folder` holds another run, is in use by one, or cannot be written.

    Example:
        >>> from tfprune import shrink
        >>> x = keras.Input((8,))
        >>> hidden = keras.layers.Dense(16, activation="relu", name="hidden")(x)
        >>> model = keras.Model(x, keras.layers.Dense(4, name="out")(hidden))
        >>> masked, plan, report = prune_units(model, keras.random.normal((64, 8), seed=0), verbose=0)
        >>> [(row.group, row.kept) for row in report.rows], shrink(masked, plan).get_layer("hidden").units
        ([('hidden', 8)], 8)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331; Sandri et al., 2025,
        "2SSP", arXiv:2501.17771.
    """
    sparsity = check_sparsities(sparsity)
    check_choice(score, "score", choices=[*SCORES, "greedy"])
    how = _weight_update(update, targets, ridge=ridge, holdout=holdout)
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    copy = flat_copy(Anatomy.of(model))
    running = RunningModel(copy)
    units, skipped = _removals(running, kind="channels")
    heads, others = _removals(running, kind="heads")
    if not units:
        raise ValueError(
            f"Expected a model with hidden units that can be removed. Received: {model.name!r} without any; "
            f"plan_shrink(model, 0.5) says why."
        )
    parts = split_sparsity(
        sparsity, running.network, units=[each.group for each in units], heads=[each.group for each in heads]
    )
    batches = Batches(data, running.graph.model, batch_size=batch_size)
    check_token_ids(running.graph, batches)
    head_loss = _head_loss(running, batches, loss=loss) if parts.heads else None
    keep = running.network.all_kept()
    rows: list[PutriRow] = []
    first = next(iter(batches))[0]
    settings = {"sparsity": sparsity, "score": score, "update": [update, targets, ridge, holdout]}
    count = len(units) + (len(heads) if parts.heads else 0)
    progress = Progress(count, verbose=verbose, unit="group", shown=["error"])

    def remove(removals: Sequence[Removal], choose: Choose) -> None:
        arrays = (inputs for inputs, _ in batches)
        for row in remove_in_order(
            running, arrays, removals=removals, keep=keep, choose=choose, update=how, folder=steps
        ):
            rows.append(row)
            _log.info("%s: %d of %d stay, error %.3g", row.group, row.kept, row.channels, row.error.after)
            progress.add(1, {"error": row.error.after})

    def choose_units(removal: Removal, moments: GramMoments, weights: np.ndarray) -> np.ndarray:
        return kept_units(score, moments, weights=weights, indices=removal.reader.indices, keep=removal.keep)

    with RunFolder(folder, settings=settings, arrays=[*weight_values(copy.plain), *first]) as steps, progress:
        remove([Removal(each.group, each.reader, parts.units[each.group.name]) for each in units], choose_units)
        if head_loss is not None:
            search = functools.partial(
                choose_heads, running, first, removals=heads, rounds=parts.heads, loss=head_loss
            )
            kept_heads = steps.remember("heads", search)
            remove(heads, lambda removal, moments, weights: kept_heads[removal.group.name])
    plan = ShrinkPlan(running.network, keep, tuple(skipped + others))
    return copy.hand_out(), plan, PutriReport(tuple(rows), tuple(skipped + others))


putri = prune_units  # the name of the method, which was that of the function before


def _weight_update(update: str, targets: str, *, ridge: float, holdout: float) -> WeightUpdate:
    check_choice(update, "update", choices=UPDATES)
    check_choice(targets, "targets", choices=TARGETS)
    holdout = check_number(holdout, "holdout", least=0, most=0.5)
    is_held = every(0.0 if update == "none" else holdout)  # without an update, nothing could be worse
    return WeightUpdate(update, targets == "dense", check_number(ridge, "ridge", least=0), is_held)


def _removals(running: RunningModel, *, kind: str) -> tuple[list[Removal], list[Skipped]]:
    """Return a removal for each group of a kind that one layer reads, and the groups that are skipped."""
    removals: list[Removal] = []
    skipped: list[Skipped] = []
    for group in running.network.groups:
        part = running.network.free_part(group)
        if group.kind != kind:
            continue
        reason = why_stuck(running.network, group)
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


def _head_loss(running: RunningModel, batches: Batches, *, loss: Any) -> HeadLoss:
    """Return the loss of outputs on the first batch: the user's, or the squared distance to the dense outputs."""
    inputs, targets = next(iter(batches))
    if loss is None:
        dense = GraphWalk(running.graph, [inputs]).outputs(0)
        return lambda outputs: sum(
            float(np.mean(np.square(_as_array(output) - _as_array(other))))
            for output, other in zip(outputs, dense, strict=True)
        )
    if targets is None:
        raise ValueError("Expected `data` with targets, (x, y), as there is a `loss`. Received: inputs alone.")
    measured = keras.losses.get(loss)
    return lambda outputs: batch_loss(measured, outputs[0], targets=targets)


def _as_array(output: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(output).astype("float32")
