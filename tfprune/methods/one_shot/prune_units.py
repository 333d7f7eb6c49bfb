"""Putri: remove hidden units and attention heads of a transformer, without training."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.compact.reconstruction.layer_moments import every
from tfprune.compact.shrinking.channel_readers import RunningModel
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.layers import weight_values
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.one_shot.head_choice import HeadOrder
from tfprune.methods.one_shot.judges import head_loss, is_loss
from tfprune.methods.one_shot.putri_report import PutriReport, PutriRow, PutriTotal
from tfprune.methods.one_shot.remove_in_order import Choose, Removal, WeightUpdate, find_removals, remove_in_order
from tfprune.methods.one_shot.split_sparsity import PARTS, check_sparsities, limits, split_sparsity
from tfprune.methods.one_shot.unit_scores import SCORES, kept_units
from tfprune.solving.least_squares import GramMoments

_log = logging.getLogger(__name__)
RECONSTRUCTIONS = ("sequential", "parallel", None)
TARGETS = ("own", "dense")
RIDGE = 1e-3


def prune_units(
    model: keras.Model,
    samples: Any,
    sparsity: float | Mapping[str, float] = 0.5,
    *,
    criterion: str = "activation",
    reconstruction: str | Mapping[str, str | None] | None = "sequential",
    targets: str = "own",
    ridge: float = RIDGE,
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
    updates = weight_updates(reconstruction, targets, ridge=ridge, holdout=holdout)
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
        remove(counted, unit_choice(criterion), updates["units"])
        if loss is not None:
            order = HeadOrder(running, first, removals=heads, loss=loss)
            kept_heads = steps.remember("heads", functools.partial(order.kept, parts.heads))
            remove(heads, lambda removal, moments, weights: kept_heads[removal.group.name], updates["heads"])
    dense, left = (running.network.parameters(choice) for choice in (running.network.all_kept(), keep))
    total = PutriTotal(parts.parameters, parts.asked, dense - left, limits=limits(units + heads))
    plan = ShrinkPlan(running.network, keep, skipped)
    return copy.hand_out(), PutriReport(tuple(rows), skipped, total, plan)


def unit_choice(criterion: str) -> Choose:
    """Return the function that chooses the hidden units that a group keeps, by one of the criteria."""

    def choose(removal: Removal, moments: GramMoments, weights: np.ndarray) -> np.ndarray:
        return kept_units(criterion, moments, weights=weights, indices=removal.reader.indices, keep=removal.keep)

    return choose


def weight_updates(
    reconstruction: str | Mapping[str, str | None] | None, targets: str, *, ridge: float, holdout: float
) -> dict[str, WeightUpdate]:
    """Return how the weights that read hidden units and those that read heads are solved for.

    Raises:
        ValueError: If a way of reconstruction is not known, or a number is out of range.
    """
    orders: dict[str, str | None]
    orders = dict(reconstruction) if isinstance(reconstruction, Mapping) else dict.fromkeys(PARTS, reconstruction)
    if orders.keys() != set(PARTS):
        raise ValueError(
            f"Expected a reconstruction, or a dict with one for 'units' and one for 'heads'. Received: "
            f"reconstruction={reconstruction!r}. Pass, for example, {{'units': 'sequential', 'heads': None}}."
        )
    check_choice(targets, "targets", choices=TARGETS)
    ridge, holdout = check_number(ridge, "ridge", least=0), check_number(holdout, "holdout", least=0, most=0.5)
    for order in orders.values():
        check_choice(order, "reconstruction", choices=RECONSTRUCTIONS)
    return {  # without a reconstruction, nothing could be worse on data that are held out
        part: WeightUpdate(order, targets == "dense", ridge, every(0.0 if order is None else holdout))
        for part, order in orders.items()
    }
