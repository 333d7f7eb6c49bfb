"""Reconstruct the outputs of each layer: solve for the remaining weights by least squares."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.compact.reconstruction.improve_layer import differs, improve_layer, unchanged
from tfprune.compact.reconstruction.in_order import Improve, Pair, improve_in_order
from tfprune.compact.reconstruction.layer_moments import IsHeld, Site, every, none_held, sites_of, sums_of
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import trace_to_run
from tfprune.keras_models.models.layers import rename, walk
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.keras_models.tracing.call_graph import call_graph, check_followable
from tfprune.masking.wrapping.pruned import holds_pruned
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with, transfer_weights
from tfprune.report import Skipped
from tfprune.solving.least_squares import RIDGE, GramMoments

RECONSTRUCTIONS = ("sequential", "parallel")
TARGETS = ("dense", "own")


def reconstruct(
    model: keras.Model,
    reference: keras.Model,
    samples: Any,
    *,
    reconstruction: str = "sequential",
    targets: str = "dense",
    ridge: float = RIDGE,
    holdout: float = 0.0,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> tuple[keras.Model, ReconstructionReport]:
    """Solve for the remaining weights of a pruned model, so that each layer returns what it returned before pruning.

    Use it after pruning in one step, between `zero_channels` and `shrink` or after `update_masks`: it recovers much
    of the accuracy without training. Layer by layer, it replaces the non-zero entries of the kernel and the bias with
    the least-squares solution on the samples, before the activation. Zeros stay zeros. The bias absorbs the mean of
    the removed inputs. An output keeps its old weights if the new ones are not better, or if it has no non-zero
    weights.

    Layers that contain others, such as transformer blocks, are opened, and the layers inside are solved for one by
    one.

    Memory does not grow with the number of samples, but with the square of the inputs of the widest layer. A
    sequential reconstruction runs the model once, and each layer once more for each of its kernels; it keeps the
    activations that later layers need in temporary files.

    Args:
        model: A built model that can be followed, wrapped or not, with zeros where weights were removed. It is left
            unchanged.
        reference: The model before pruning, with layers of the same names and weights of the same shapes.
        samples: Inputs like those that the model will see, a few hundred: an array, a list or dict of arrays for
            several inputs, or a dataset that can be read more than once. Labels in it are ignored. In texts, padding
            is left out: where an input that is called `padding_mask` is 0, or an embedding with `mask_zero` says so.
            What convolutions read there still counts.
        reconstruction: `"sequential"` (the default) solves for each layer on the outputs of the layers before it with
            their new weights, so that it also corrects their remaining errors. `"parallel"` solves for all layers on
            the inputs that they have in `reference`, in one pass over the samples.
        targets: The outputs that a sequential reconstruction fits; for a parallel one both are the same. `"dense"`
            (the default): the outputs of the layer in `reference`, which corrects the errors of earlier layers.
            `"own"`: the outputs that its weights in `reference` give on its present inputs. That takes half the time,
            overfits less on few samples, and is better for language models.
        ridge: How strongly the new weights are pulled towards the old ones, as a fraction of the mean square of the
            inputs, at least 0. Default 1e-5; raise it for few samples, for example to 0.001.
        holdout: The fraction of the batches to hold out, in [0, 0.5], for example 0.2: a layer keeps its old weights
            if the new ones are worse on these. Default 0. Hold out batches if the model will see data that the
            samples do not cover: new weights can fit the samples and harm the rest.
        batch_size: Samples in a batch, at least 1. Default 32. The patches that a convolution sees in one batch are
            in memory at once.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        An uncompiled model like `model` with the new weights, and a `ReconstructionReport`, which prints as a table.

    Raises:
        TypeError: If a model is not a Keras model, or `samples` are not data.
        ValueError: If a model is not a graph of layers, or `reference` has other layers than `model`.
        ValueError: If `samples` are empty, of another shape or not finite, or have token ids beyond the
                vocabulary, or weights are not finite.
        ValueError: If there is no layer to solve for.

    Example:
        >>> from tfprune import plan_shrink, shrink, zero_channels
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> plan = plan_shrink(model, 0.5)
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> better, report = reconstruct(zero_channels(model, plan), model, x)
        >>> [(row.layer, row.after <= row.before) for row in report.rows]
        [('hidden', True), ('out', True)]
        >>> shrink(better, plan).count_params() < model.count_params()
        True

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331 (the update).
    """
    check_choice(reconstruction, "reconstruction", choices=RECONSTRUCTIONS)
    check_choice(targets, "targets", choices=TARGETS)
    ridge = check_number(ridge, "ridge", least=0)
    is_held = every(check_number(holdout, "holdout", least=0, most=0.5))
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    anatomy, other = Anatomy.of(model), Anatomy.of(reference, argument="reference")
    for each in (anatomy, other):
        check_followable(each)
    plain = plain_copy(anatomy)
    names = [layer.name for _, layer in walk(plain)]
    report = reconstruct_in_place(
        plain,
        reference,
        samples=samples,
        reconstruction=reconstruction,
        targets=targets,
        ridge=ridge,
        is_held=is_held,
        batch_size=batch_size,
        verbose=verbose,
    )
    rename(plain, names)  # flattening may have changed some
    if not holds_pruned(model):
        return plain, report
    result = copy_with(anatomy)
    transfer_weights(Anatomy.of(plain), result)
    return result, report


def reconstruct_in_place(
    plain: keras.Model,
    reference: keras.Model,
    *,
    samples: Any,
    reconstruction: str,
    targets: str = "dense",
    ridge: float = RIDGE,
    is_held: IsHeld = none_held,
    batch_size: int = 32,
    verbose: int | str = 0,
) -> ReconstructionReport:
    """Solve for the weights of a plain model in the model itself, whose layers may get other names.

    Args:
        plain: A model without wrappers.
        reference: As in `reconstruct`, like all that follows.
        samples: Inputs.
        reconstruction: `"sequential"` or `"parallel"`.
        targets: `"dense"` or `"own"`.
        ridge: How strongly the weights are pulled towards the old ones.
        is_held: Returns whether the batch of a number is held out.
        batch_size: Samples in a batch.
        verbose: As in Keras.

    Raises:
        ValueError: As `reconstruct` does.
    """
    graphs = (
        trace_to_run(call_graph(Anatomy.of(plain))),
        trace_to_run(call_graph(Anatomy.of(plain_copy(Anatomy.of(reference))))),
    )
    batches = Batches(samples, graphs[0].model, batch_size=batch_size, argument="samples")
    check_token_ids(graphs[0], batches)
    pairs, skipped = sites_of(*graphs)
    to_dense = targets == "dense"
    is_parallel = reconstruction == "parallel"
    to_solve = [pair for pair in pairs if is_parallel or to_dense or differs(pair)]
    rows: dict[Site, ReconstructionRow] = {pair[0]: unchanged(pair) for pair in pairs if pair not in to_solve}
    progress = Progress(len(to_solve), verbose=verbose, unit="layer")

    def improve(pair: Pair, moments: list[GramMoments], held: list[GramMoments]) -> None:
        rows[pair[0]] = improve_layer(pair[0], moments, held=held, ridge=ridge)
        progress.add()

    with progress:
        if is_parallel:
            _improve_at_once(to_solve, batches, improve=improve, is_held=is_held)
        else:
            arrays = (inputs for inputs, _ in batches)
            improve_in_order(to_solve, arrays, graphs=graphs, improve=improve, to_dense=to_dense, is_held=is_held)
    sites = [site for site, _ in pairs]
    skipped += [
        Skipped(f"{site.name}/{site.map.kernel.path}", "it is not called", Skipped.NO_RULE)
        for site in sites
        if site not in rows
    ]
    return ReconstructionReport(tuple(rows[site] for site in sites if site in rows), tuple(skipped))


def _improve_at_once(pairs: list[Pair], batches: Batches, *, improve: Improve, is_held: IsHeld) -> None:
    """Improve layers on the inputs that they have in the reference."""
    sums = sums_of([reference for _, reference in pairs], batches, is_held=is_held)
    for pair, moments, held in zip(pairs, sums.moments(), sums.moments(held=True), strict=True):
        if moments[0].count or held[0].count:
            improve(pair, moments, held)
