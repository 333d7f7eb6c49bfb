"""SparseGPT and Wanda: mask single weights of a model on calibration data, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.renamed import renamed
from tfprune.base.spec import check_choice, check_count, check_number, check_sparsity, resolve
from tfprune.compact.reconstruction.in_order import Pair, improve_in_order
from tfprune.compact.reconstruction.layer_moments import Site, sites_of
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import trace_to_run
from tfprune.keras_models.models.layers import rename, walk
from tfprune.keras_models.tracing.call_graph import call_graph, check_followable
from tfprune.masking.wrapping.pruned import holds_pruned
from tfprune.masking.wrapping.pruned_layers import mask_zeros
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with, transfer_weights
from tfprune.methods.one_shot.token_ids import check_token_ids
from tfprune.patterns import NM, PATTERNS, Pattern, Unstructured
from tfprune.report import Skipped
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.weight_masks import sparse_gpt, wanda_mask

CRITERIA = ("sparsegpt", "wanda")


@dataclass(frozen=True)
class _Settings:
    criterion: str
    pattern: Pattern
    sparsity: float
    ridge: float


@renamed(data="samples=", method="criterion=")
def prune_weights(
    model: keras.Model,
    samples: Any,
    sparsity: float = 0.5,
    *,
    criterion: str = "sparsegpt",
    pattern: str | Pattern = "unstructured",
    ridge: float = 0.01,
    batch_size: int = 8,
    verbose: int | str = "auto",
) -> tuple[keras.Model, ReconstructionReport]:
    """Set single weights of a model to zero, layer by layer, without training.

    Use it on a model that is too large to be trained again, if the runtime has kernels for unstructured or 2:4 zeros;
    `prune_units` removes whole units and heads. Each layer is masked on the outputs of the layers before it with
    their zeros. It masks the kernels of all linear layers, including those in transformer blocks.

    Args:
        model: A built model that can be followed, wrapped or not. It is left unchanged.
        samples: Inputs like those that the model will see, in the forms that `reconstruct` accepts.
        sparsity: The fraction of zeros, in [0, 1). Default 0.5. With a pattern n:m at most 1 - n/m.
        criterion: `"sparsegpt"` (the default) removes the weights whose removal costs least after an update of the
            remaining ones, in blocks of 128 columns, and makes this update. `"wanda"` compares the weights of one
            output by their magnitude times the norm of their input, and updates none.
        pattern: `"unstructured"` (the default), or `patterns.NM(2, 4)`.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean. Default 0.01.
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
        ValueError: If `samples` are empty, do not fit the model, or have token ids beyond its vocabulary.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4)]
        >>> model = keras.Sequential(layers)
        >>> sparse, report = prune_weights(model, keras.random.normal((64, 8), seed=0), 0.75)
        >>> int(keras.ops.count_nonzero(sparse.get_layer("hidden").kernel))
        32

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774; Sun et al., 2024, "A Simple and Effective Pruning
        Approach for Large Language Models" (Wanda), arXiv:2306.11695.
    """
    sparsity = check_sparsity(sparsity, "sparsity")
    check_choice(criterion, "criterion", choices=CRITERIA)
    pattern = _checked_pattern(pattern, sparsity)
    settings = _Settings(criterion, pattern, sparsity, check_number(ridge, "ridge", least=0))
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
    pairs, skipped = sites_of(graph, graph)
    rows: dict[Site, ReconstructionRow] = {}

    refused = [site for site, _ in pairs if not site.map.kernel.takes(pattern) or not site.map.kernel.mixes_inputs]
    maskable = [pair for pair in pairs if pair[0] not in refused]
    progress = Progress(len(maskable), verbose=verbose, unit="layer")

    def mask(pair: Pair, moments: list[GramMoments], held: list[GramMoments]) -> None:
        rows[pair[0]] = _mask_layer(pair[0], moments, settings)
        progress.add()

    arrays = (inputs for inputs, _ in batches)
    with progress:
        improve_in_order(maskable, arrays, graphs=(graph, graph), improve=mask, to_dense=False)
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


def _checked_pattern(pattern: str | Pattern, sparsity: float) -> Pattern:
    resolved = resolve(pattern, PATTERNS, Pattern, "pattern")
    if not isinstance(resolved, (Unstructured, NM)):
        raise ValueError(
            f"Expected `pattern` to be 'unstructured' or patterns.NM(n, m). Received: pattern={pattern!r}. Whole "
            f"channels and heads are removed by prune_units."
        )
    resolved.check(sparsity)
    return resolved


def _mask_layer(site: Site, moments: list[GramMoments], settings: _Settings) -> ReconstructionRow:
    """Set the weights of a layer, and return its error with zeros alone and with the update."""
    linear = site.map
    dense, updated = linear.weights(), linear.weights()
    masked = dense.copy()
    inputs = dense.shape[2] - (linear.bias is not None)
    positions = linear.kernel.matrix_shape[1] if len(linear.kernel.matrix_shape) == 3 else 1
    for group, sums in enumerate(moments):
        if settings.criterion == "sparsegpt":
            mask, updated[group] = sparse_gpt(
                sums,
                dense[group],
                inputs=inputs,
                pattern=settings.pattern,
                sparsity=settings.sparsity,
                ridge=settings.ridge,
                positions=positions,
            )
            masked[group] = np.where(mask, dense[group], 0)
        else:
            mask = wanda_mask(
                sums,
                dense[group, :, :inputs],
                pattern=settings.pattern,
                sparsity=settings.sparsity,
                positions=positions,
            )
            masked[group, :, :inputs] = updated[group, :, :inputs] = np.where(mask, dense[group, :, :inputs], 0)
    linear.assign(updated)
    energy = sum(float(sums.energy.sum()) / sums.count for sums in moments) or 1.0
    before, after = (
        sum(float(sums.errors(weights).sum()) for sums, weights in zip(moments, values, strict=True)) / energy
        for values in (masked, updated)
    )
    return ReconstructionRow(site.name, linear.kernel.path, before, after)
