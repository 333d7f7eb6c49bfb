"""SparseGPT and Wanda: mask single weights of a model on calibration data, without training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.renamed import renamed
from tfprune.base.spec import check_choice, check_count, check_number, check_sparsity, resolve
from tfprune.compact.reconstruction.in_order import Pair, improve_in_order
from tfprune.compact.reconstruction.layer_moments import Site, sites_of
from tfprune.compact.reconstruction.reconstruct import TARGETS
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import Graph, trace_to_run
from tfprune.keras_models.models.layers import rename, walk
from tfprune.keras_models.tracing.call_graph import call_graph, check_followable
from tfprune.masking.wrapping.pruned import holds_pruned
from tfprune.masking.wrapping.pruned_layers import mask_zeros
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with, transfer_weights
from tfprune.methods.one_shot.error_curves import error_curves, zero_solver
from tfprune.methods.one_shot.token_ids import check_token_ids
from tfprune.patterns import NM, PATTERNS, Pattern, Unstructured
from tfprune.report import Skipped
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.split_by_error import split_by_error
from tfprune.solving.weight_masks import wanda_mask
from tfprune.solving.zero_solver import RIDGE, ZeroSolver, relative_error

CRITERIA = ("sparsegpt", "wanda")
ALLOCATIONS = ("outputs", "uniform")


@dataclass(frozen=True)
class _Settings:
    criterion: str
    pattern: Pattern
    sparsity: float
    allocation: str
    ridge: float


@renamed(data="samples=", method="criterion=")
def prune_weights(
    model: keras.Model,
    samples: Any,
    sparsity: float = 0.5,
    *,
    criterion: str = "sparsegpt",
    pattern: str | Pattern = "unstructured",
    allocation: str | None = None,
    targets: str = "dense",
    ridge: float = RIDGE,
    batch_size: int = 8,
    verbose: int | str = "auto",
) -> tuple[keras.Model, ReconstructionReport]:
    """Set single weights of a model to zero, layer by layer, without training.

    Use it on a model that cannot be trained again, because it is too large or labels are missing; `prune_units`
    removes whole units and heads. Each layer is masked on the outputs of the layers before it with their zeros. It
    masks the kernels of convolutions and of all linear layers, including those in transformer blocks; depthwise
    kernels and layers whose inputs are not known are left as they are, and the report lists them.

    Args:
        model: A built model that can be followed, wrapped or not. It is left unchanged.
        samples: Inputs like those that the model will see, in the forms that `reconstruct` accepts.
        sparsity: The fraction of zeros, in [0, 1). Default 0.5. With a pattern n:m at most 1 - n/m.
        criterion: `"sparsegpt"` (the default) removes the weights whose removal costs least after an update of the
            remaining ones, in blocks of 128 columns, and makes this update. `"wanda"` compares the weights of one
            output by their magnitude times the norm of their input, and updates none.
        pattern: `"unstructured"` (the default), or `patterns.NM(2, 4)`.
        allocation: `"outputs"` gives the fewest zeros to the kernels on which the outputs of the model depend most:
            each kernel alone gets zeros, and the outputs for 16 samples are compared. `"uniform"` gives all kernels
            the same sparsity. Default None: `"outputs"` for unstructured zeros by SparseGPT, else `"uniform"`.
        targets: The outputs that an update fits, as in `reconstruct`: `"dense"` (the default) those of the layer in
            the model as it was, or `"own"` those that its weights give on the outputs of the layers before it with
            their zeros, which takes less time. `"wanda"` updates nothing.
        ridge: How strongly the new weights are pulled towards the old ones, as a fraction of the mean square of the
            inputs, at least 0; more where there are fewer than ten rows for each input. Default 0.1.
        batch_size: Samples in a batch, at least 1. Default 8.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A copy of the model with zeros, in its masks if it is wrapped; and a `ReconstructionReport` with the error of
        each layer before and after the update.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model cannot be followed, or has no layer whose inputs are known.
        ValueError: If the pattern is another one, or does not allow the sparsity.
        ValueError: If the allocation is for other patterns, or the outputs are the same for all samples.
        ValueError: If `samples` are empty, do not fit the model, or have token ids beyond its vocabulary.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4)]
        >>> model = keras.Sequential(layers)
        >>> samples = keras.random.normal((64, 8), seed=0)
        >>> sparse, report = prune_weights(model, samples, 0.75, allocation="uniform")
        >>> int(keras.ops.count_nonzero(sparse.get_layer("hidden").kernel))
        32

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774; Sun et al., 2024, "A Simple and Effective Pruning
        Approach for Large Language Models" (Wanda), arXiv:2306.11695.
    """
    sparsity = check_sparsity(sparsity, "sparsity")
    check_choice(criterion, "criterion", choices=CRITERIA)
    pattern = _checked_pattern(pattern, sparsity)
    allocation = _checked_allocation(allocation, criterion=criterion, pattern=pattern)
    check_choice(targets, "targets", choices=TARGETS)
    settings = _Settings(criterion, pattern, sparsity, allocation, check_number(ridge, "ridge", least=0))
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    anatomy = Anatomy.of(model)
    check_followable(anatomy)
    plain = plain_copy(anatomy)
    of_plain = Anatomy.of(plain)
    names = [layer.name for _, layer in walk(plain)]
    graph = trace_to_run(call_graph(of_plain))
    batches = Batches(samples, graph.model, batch_size=batch_size, argument="samples")
    check_token_ids(graph, batches)
    to_dense = targets == "dense" and criterion == "sparsegpt"
    reference = trace_to_run(call_graph(Anatomy.of(plain_copy(anatomy)))) if to_dense else graph
    pairs, skipped = sites_of(graph, reference)
    refused = [site for site, _ in pairs if not site.map.kernel.takes(pattern) or not site.map.kernel.mixes_inputs]
    maskable = [pair for pair in pairs if pair[0] not in refused]
    progress = Progress(len(maskable), verbose=verbose, unit="layer")
    with progress:
        rows = _mask_all(maskable, batches, graphs=(graph, reference), settings=settings, progress=progress)
    rename(plain, names)
    result = plain
    if holds_pruned(model):
        result = copy_with(anatomy, lambda path, layer: None)
        transfer_weights(of_plain, result)
        mask_zeros(result)
    skipped += [
        Skipped(site.name, f"{pattern!r} does not fit {site.map.kernel.path}", Skipped.NO_RULE) for site in refused
    ]
    return result, ReconstructionReport(tuple(rows[site] for site, _ in maskable if site in rows), tuple(skipped))


def _mask_all(
    pairs: list[Pair], batches: Batches, *, graphs: tuple[Graph, Graph], settings: _Settings, progress: Progress
) -> dict[Site, ReconstructionRow]:
    shares = _shares(pairs, (inputs for inputs, _ in batches), graph=graphs[0], settings=settings)
    rows: dict[Site, ReconstructionRow] = {}

    def mask(pair: Pair, moments: list[GramMoments], held: list[GramMoments]) -> None:
        rows[pair[0]] = _mask_layer(pair, moments, sparsity=shares[pair[0]], settings=settings)
        progress.add()

    to_dense = graphs[0] is not graphs[1]
    improve_in_order(pairs, (inputs for inputs, _ in batches), graphs=graphs, improve=mask, to_dense=to_dense)
    return rows


def _shares(
    pairs: list[Pair], batches: Iterable[Sequence[Any]], *, graph: Graph, settings: _Settings
) -> dict[Site, float]:
    """Return the sparsity of each kernel; those that are not called have no share in the zeros."""
    if settings.allocation == "uniform":
        return {site: settings.sparsity for site, _ in pairs}
    own = [(site, site) for site, _ in pairs]
    curves = error_curves(own, batches, graph=graph, pattern=settings.pattern, ridge=settings.ridge)
    return dict(zip(curves, split_by_error([*curves.values()], settings.sparsity), strict=True))


def _checked_allocation(allocation: str | None, *, criterion: str, pattern: Pattern) -> str:
    fits = criterion == "sparsegpt" and isinstance(pattern, Unstructured)
    if allocation is None:
        return "outputs" if fits else "uniform"
    check_choice(allocation, "allocation", choices=ALLOCATIONS)
    if allocation == "outputs" and not fits:
        raise ValueError(
            f"Expected allocation='uniform' with criterion={criterion!r} and pattern={pattern!r}. Received: "
            f"allocation='outputs', which is for unstructured zeros by 'sparsegpt'."
        )
    return allocation


def _checked_pattern(pattern: str | Pattern, sparsity: float) -> Pattern:
    resolved = resolve(pattern, PATTERNS, Pattern, "pattern")
    if not isinstance(resolved, (Unstructured, NM)):
        raise ValueError(
            f"Expected `pattern` to be 'unstructured' or patterns.NM(n, m). Received: pattern={pattern!r}. Whole "
            f"channels and heads are removed by prune_units."
        )
    resolved.check(sparsity)
    return resolved


def _mask_layer(pair: Pair, moments: list[GramMoments], *, sparsity: float, settings: _Settings) -> ReconstructionRow:
    """Set the weights of a kernel, and return its error with zeros alone and with the update."""
    site = pair[0]
    solver = zero_solver(site.map, settings.ridge)
    if settings.criterion == "sparsegpt":
        start = solver.weights if pair[1] is site else solver.refit(moments)
        updated = solver.masking(moments, start, pattern=settings.pattern)(sparsity)
        masked = np.where(updated == 0, 0, solver.weights)
    else:
        masked = updated = _masked_by_wanda(solver, moments, sparsity=sparsity, pattern=settings.pattern)
    site.map.assign(updated)
    before, after = (relative_error(moments, weights) for weights in (masked, updated))
    return ReconstructionRow(site.name, site.map.kernel.path, before, after)


def _masked_by_wanda(
    solver: ZeroSolver, moments: list[GramMoments], *, sparsity: float, pattern: Pattern
) -> np.ndarray:
    masked = solver.weights.copy()
    kernel = masked[..., : solver.inputs]
    for sums, weights in zip(moments, kernel, strict=True):
        weights *= wanda_mask(sums, weights, pattern=pattern, sparsity=sparsity, positions=solver.positions)
    return masked
