"""Putri: remove hidden units and attention heads of a transformer without training."""

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
from tfprune.compact.reconstruction.linear_map import NotLinear
from tfprune.compact.shrinking.readers import RunningModel
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.keras_models.channels.choose_groups import why_stuck
from tfprune.keras_models.channels.network import Group, Network
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.layers import weight_values
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.one_shot.head_choice import Loss, choose_heads
from tfprune.methods.one_shot.putri_report import PutriReport
from tfprune.methods.one_shot.remove_in_order import Target, Update, remove_in_order
from tfprune.methods.one_shot.split import checked, split
from tfprune.methods.one_shot.token_ids import check_token_ids
from tfprune.methods.one_shot.unit_scores import SCORES, kept_units
from tfprune.report import Skipped

_log = logging.getLogger(__name__)
UPDATES = ("sequential", "parallel", "none")
TARGETS = ("own", "dense")
RIDGE = 1e-3


def putri(
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
    """Remove hidden units and attention heads of a transformer, block by block, and solve for the weights left.

    Use it on a model that is too large to be trained again: it takes some passes over a few hundred texts. First the
    hidden units go that matter least to the layer that reads them, whose other weights take over by least squares;
    then whole heads without which the model changes least, with the queries that share them, or of queries that all
    share one, each by itself.

    Calibrate on texts of every kind that the model will see. An update fits what it was calibrated on, and can harm
    the rest: a layer keeps its old weights where the new ones are worse on the texts that `holdout` keeps apart.

    Args:
        model: A built model with feed-forward networks, such as a backbone of KerasHub, wrapped or not. It is left
            unchanged.
        data: Token ids and whatever else the model takes, in the forms that `reconstruct` takes: full windows of
            text, as padding counts like any token. With a `loss`, a tuple (x, y) or a dataset of such batches.
        sparsity: The fraction of the parameters of all blocks to remove, in [0, 1), default 0.5: how much of it comes
            from heads is the paper's rule, see `transformer_budget`, except that a head stays in each layer. Or a
            dict such as `{"units": 0.5, "heads": 0.25}`, the fraction of each.
        score: How important a unit is. `"activation"` (the default): the norm of its activations, as 2SSP.
            `"wanda"`: that, times the norm of the weights that read it. `"obs"`: the error without it, once the other
            weights are updated. `"greedy"`: the same, one unit after the other; for many units the slowest.
            `"putri"`: the paper's, which depends on the order of the units; it was worse wherever it was measured.
        update: `"sequential"` (the default) solves for the weights of each layer on the outputs of the layers before
            it with their new weights, `"parallel"` on those of the dense model, `"none"` leaves the weights.
        targets: What a layer should return in sequential order: `"own"` (the default), what its dense weights make of
            its inputs, or `"dense"`, what it returns in the dense model.
        ridge: How strongly the weights are pulled towards the old ones, as a fraction of the mean square of the
            inputs, at least 0. Default 0.001.
        holdout: The part of the batches to keep apart, at most 0.5. Default 0.2; 0 takes every new weight.
        loss: What heads are judged by: a loss, its name or a function of targets and outputs, on the first batch.
            None (the default) takes the squared distance to what the model returned before, without targets.
        batch_size: Samples in a batch, at least 1. Default 8.
        folder: A folder in which each step is kept, so that a run that was stopped goes on where it stopped when it
            is started again with the same arguments. None (the default) keeps nothing.
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

    Example:
        >>> from tfprune import shrink
        >>> x = keras.Input((8,))
        >>> hidden = keras.layers.Dense(16, activation="relu", name="hidden")(x)
        >>> model = keras.Model(x, keras.layers.Dense(4, name="out")(hidden))
        >>> masked, plan, report = putri(model, keras.random.normal((64, 8), seed=0), verbose=0)
        >>> [(row.group, row.kept) for row in report.rows], shrink(masked, plan).get_layer("hidden").units
        ([('hidden', 8)], 8)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331; Sandri et al., 2025,
        "2SSP", arXiv:2501.17771.
    """
    sparsity = checked(sparsity)
    check_choice(score, "score", choices=[*SCORES, "greedy"])
    settings = _settings(update, targets, ridge=ridge, holdout=holdout)
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    copy = flat_copy(model)
    running = RunningModel(copy)
    units, skipped = _groups(running, kind="channels")
    heads, others = _groups(running, kind="heads")
    _check_units(units, model)
    wanted = split(sparsity, running.network, units=[one.group for one in units], heads=[one.group for one in heads])
    batches = Batches(data, running.graph.model, batch_size=batch_size)
    check_token_ids(running.graph, batches)
    judge = _judge(running, batches, loss=loss) if wanted.heads else None
    keep, rows = running.network.all_kept(), []
    first = next(iter(batches))[0]
    run = {"sparsity": sparsity, "score": score, "update": [update, targets, ridge, holdout]}
    steps = RunFolder(folder, settings=run, arrays=[*weight_values(copy.plain), *first])
    count = len(units) + (len(heads) if wanted.heads else 0)
    progress = Progress(count, verbose=verbose, unit="group", shown=["error"])

    def remove(found: Sequence[Target], choose: Any) -> None:
        arrays = (inputs for inputs, _ in batches)
        job = {"targets": found, "keep": keep, "choose": choose, "update": settings, "folder": steps}
        for row in remove_in_order(running, arrays, **job):
            rows.append(row)
            _log.info("%s: %d of %d stay, error %.3g", row.group, row.kept, row.channels, row.error.after)
            progress.add(1, {"error": row.error.after})

    def unit_choice(target: Target, moments: Any, weights: np.ndarray) -> np.ndarray:
        return kept_units(score, moments, weights=weights, indices=target.reader.indices, keep=target.keep)

    with progress:
        remove([Target(one.group, one.reader, wanted.units[one.group.name]) for one in units], unit_choice)
        if judge is not None:
            search = functools.partial(choose_heads, running, first, targets=heads, rounds=wanted.heads, loss=judge)
            left = steps.remember("heads", search)
            remove(heads, lambda target, moments, weights: left[target.group.name])
    plan = ShrinkPlan(running.network, keep, tuple(skipped + others))
    return copy.as_it_was(), plan, PutriReport(tuple(rows), tuple(skipped + others))


def _settings(update: str, targets: str, *, ridge: float, holdout: float) -> Update:
    check_choice(update, "update", choices=UPDATES)
    check_choice(targets, "targets", choices=TARGETS)
    holdout = check_number(holdout, "holdout", least=0, most=0.5)
    is_held = every(0.0 if update == "none" else holdout)  # nothing is solved for that could be worse
    return Update(update, targets == "dense", check_number(ridge, "ridge", least=0), is_held)


def _check_units(units: list[Target], model: keras.Model) -> None:
    if not units:
        raise ValueError(
            f"Expected a model with hidden units that can be removed. Received: {model.name!r} without any; "
            f"plan_shrink(model, 0.5) says why."
        )


def _groups(running: RunningModel, *, kind: str) -> tuple[list[Target], list[Skipped]]:
    """Return the groups of a kind that one layer reads, and why others are left whole."""
    found: list[Target] = []
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
            found.append(Target(part, readers[0], part.bundles.size))
        else:
            skipped.append(Skipped(group.name, reason or "one is left", Skipped.HELD))
    return found, skipped


def _are_units(network: Network, group: Group) -> bool:
    """Tell whether matrices make and read channels: a kernel of attention has an axis of heads, too."""
    return all(
        len(weight.shape) == 2
        for weight in network.weights_of(group)
        if weight.making(group.bundles) or weight.reading(group.bundles)
    )


def _judge(running: RunningModel, batches: Batches, *, loss: Any) -> Loss:
    """Return the loss of outputs on the first batch."""
    inputs, targets = next(iter(batches))
    if loss is None:
        dense = GraphWalk(running.graph, [inputs]).outputs(0)
        return lambda outputs: sum(
            float(np.mean(np.square(_as_array(one) - _as_array(other))))
            for one, other in zip(outputs, dense, strict=True)
        )
    if targets is None:
        raise ValueError("Expected `data` with targets, (x, y), as there is a `loss`. Received: inputs alone.")
    measured = keras.losses.get(loss)
    return lambda outputs: float(keras.ops.mean(measured(keras.ops.convert_to_tensor(targets), outputs[0])))


def _as_array(output: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(output).astype("float32")
