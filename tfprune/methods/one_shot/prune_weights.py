"""Mask single weights of a model on calibration data, without training: ALPS, SparseGPT, Wanda and RIA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfprune.allocation import Allocation
from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_choice, check_count, check_number, check_sparsity, resolve
from tfprune.compact.reconstruction.in_order import Pair, improve_in_order
from tfprune.compact.reconstruction.layer_moments import Site, sites_of
from tfprune.compact.reconstruction.reconstruct import TARGETS
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.filters import Filters, selector
from tfprune.keras_models.models.graph import Graph, trace_to_run
from tfprune.keras_models.models.layers import rename, walk
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.keras_models.tracing.call_graph import call_graph, check_followable
from tfprune.masking.wrapping.pruned import holds_pruned
from tfprune.masking.wrapping.pruned_layers import mask_zeros
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with, transfer_weights
from tfprune.methods.one_shot.mask_kernel import CRITERIA, UPDATING, MaskSettings, mask_kernel, path_of
from tfprune.methods.one_shot.recurrent_maps import is_recurrent, recurrent_maps
from tfprune.methods.one_shot.split_zeros import Calibration, checked_split, split_zeros
from tfprune.patterns import NM, PATTERNS, Block, Pattern, Unstructured
from tfprune.report import Skipped
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.rounding import Rounding
from tfprune.solving.zero_solver import RIDGE

_NOT_CALLED = "it is not called for these samples"


def prune_weights(
    model: keras.Model,
    samples: Any,
    sparsity: float = 0.5,
    *,
    criterion: str = "alps",
    pattern: str | Pattern = "unstructured",
    allocation: str | Mapping[str, float | None] | Allocation | None = None,
    filters: Filters = None,
    rounding: Rounding | None = None,
    targets: str = "dense",
    ridge: float = RIDGE,
    batch_size: int = 8,
    verbose: int | str = "auto",
) -> tuple[keras.Model, ReconstructionReport]:
    """Set single weights of a model to zero, layer by layer, without training.

    Use it on a model that cannot be trained again, because it is too large or labels are missing; `prune_units`
    removes whole units and heads. Each layer is masked on the outputs of the layers before it with their zeros. It
    masks the kernels of convolutions, of LSTM, GRU and SimpleRNN, and of all linear layers, including those in
    transformer blocks; depthwise kernels and layers whose inputs are not known are left as they are, and the report
    lists them.

    Args:
        model: A built model that can be followed, wrapped or not. It is left unchanged. Its zeros may get values in
            the copy, except with `"wanda"` and `"ria"`.
        samples: Inputs like those that the model will see, in the forms that `reconstruct` accepts.
        sparsity: The fraction of zeros, in [0, 1). Default 0.5. With a pattern n:m at most 1 - n/m.
        criterion: `"alps"` (the default) searches for the zeros and the other values of a kernel together.
            `"sparsegpt"` removes the weights whose removal costs least after an update of the remaining ones, in
            blocks of 128 columns, and makes this update: it takes less time and changes the outputs more. `"wanda"`
            compares the weights of one output by their magnitude times the norm of their input, so that each output
            gets the same number of zeros, rounded; `"ria"` compares those of a kernel by their share in the weights
            of their output and input. Both leave the remaining weights as they are.
        pattern: `"unstructured"` (the default), `patterns.NM(2, 4)`, or blocks such as `patterns.Block(1, 4)`.
        allocation: The split of the zeros over the kernels. `"error"` gives the fewest zeros to the kernels whose own
            outputs change most when they alone get zeros. `"outputs"` compares the outputs of the model instead, for
            16 samples: use it where branches count for much less than others. It takes far longer for a deep model.
            Both are for the criteria `"alps"` and `"sparsegpt"`. `"owl"` gives fewer zeros to blocks with more
            outliers among the products of weights and inputs, and `"alpha_pruning"` to blocks whose weights have
            spectra with heavier tails. `"uniform"`, the other names, dicts and functions are those of
            `allocation.allocate`, with the scores of Wanda. With a pattern n:m, pass `"uniform"`, a dict or a
            function. Default None: `"error"` for `"alps"` and `"sparsegpt"` without a pattern n:m, else `"uniform"`.
        filters: The kernels to prune: regular expressions for their paths, as in the report, or a function of a
            layer. Default None: all. The sparsity is that of these kernels.
        rounding: The integers that the remaining weights are rounded to, such as `tfprune.Rounding(4)` for a file of
            `quantize="int4"`: weights then make up for the zeros and for the rounding together. It needs
            `criterion="sparsegpt"`. Default None, which rounds nothing.
        targets: The outputs that an update fits, as in `reconstruct`: `"dense"` (the default) those of the layer in
            the model as it was, or `"own"` those that its weights give on the outputs of the layers before it with
            their zeros, which takes less time. `"wanda"` and `"ria"` update nothing.
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
        ValueError: If weights are rounded with another criterion than `"sparsegpt"`.
        ValueError: If `filters` match no kernel, or one that cannot have the pattern.
        ValueError: If the allocation is for other patterns or criteria, names kernels that are not pruned, or would
            give a kernel a sparsity outside [0, 1).
        ValueError: If all inputs of a kernel are 0, or, for `"outputs"`, the outputs are the same for all samples.
        ValueError: If `samples` are empty, do not fit the model, or have token ids beyond its vocabulary.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4)]
        >>> model = keras.Sequential(layers)
        >>> samples = keras.random.normal((64, 8), seed=0)
        >>> sparse, report = prune_weights(model, samples, 0.75, allocation="uniform")
        >>> int(keras.ops.count_nonzero(sparse.get_layer("hidden").kernel))
        32

    Reference:
        Meng et al., 2024, "ALPS", arXiv:2406.07831; Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774; Sun et
        al., 2024, "Wanda", arXiv:2306.11695; Zhang et al., 2024, "Plug-and-Play" (RIA, ICLR); Yin et al., 2024,
        "OWL", arXiv:2310.05175; Lu et al., 2024, "AlphaPruning", arXiv:2410.10912.
    """
    sparsity = check_sparsity(sparsity, "sparsity")
    check_choice(criterion, "criterion", choices=CRITERIA)
    settings = MaskSettings(
        criterion,
        _checked_pattern(pattern, sparsity),
        check_number(ridge, "ridge", least=0),
        _checked_rounding(rounding, criterion),
    )
    split = checked_split(allocation, settings)
    check_choice(targets, "targets", choices=TARGETS)
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    anatomy = Anatomy.of(model)
    check_followable(anatomy)
    plain = plain_copy(anatomy)
    names = [layer.name for _, layer in walk(plain)]
    graph = trace_to_run(call_graph(Anatomy.of(plain)))
    batches = Batches(samples, graph.model, batch_size=batch_size, argument="samples")
    check_token_ids(graph, batches)
    to_dense = targets == "dense" and criterion in UPDATING
    reference = trace_to_run(call_graph(Anatomy.of(plain_copy(anatomy)))) if to_dense else graph
    pairs, skipped = _chosen(
        *sites_of(graph, reference, of_loop=recurrent_maps), filters=filters, pattern=settings.pattern
    )
    sites = [site for site, _ in pairs]
    calibration = Calibration(graph, lambda: (inputs for inputs, _ in batches))
    shares = split_zeros(sites, calibration, sparsity=sparsity, allocation=split, settings=settings)
    rows = _mask_all(pairs, calibration, reference=reference, shares=shares, settings=settings, verbose=verbose)
    rename(plain, names)
    result = plain
    if holds_pruned(model):
        result = copy_with(anatomy)
        transfer_weights(Anatomy.of(plain), result)
        mask_zeros(result)
    skipped += [
        Skipped(path_of(site), _NOT_CALLED, Skipped.NO_RULE)
        for site in sites
        if site not in rows and shares.get(site, sparsity) is not None
    ]
    return result, ReconstructionReport(tuple(rows[site] for site in sites if site in rows), tuple(skipped))


def _chosen(
    pairs: list[Pair], skipped: list[Skipped], *, filters: Filters, pattern: Pattern
) -> tuple[list[Pair], list[Skipped]]:
    """Return the kernels to prune, and those that were left alone without being asked for.

    Raises:
        ValueError: If `filters` match no kernel, or one that cannot have the pattern.
    """
    paths = [path_of(site) for site, _ in pairs]
    is_chosen = selector(filters, pattern, paths, others=[])
    reasons = {site: reason for site, _ in pairs if (reason := _refusal(site, pattern))}
    if filters is None:
        others = [Skipped(path_of(site), reason, Skipped.NO_RULE) for site, reason in reasons.items()]
        return [pair for pair in pairs if pair[0] not in reasons], [*skipped, *others]
    chosen = [pair for pair in pairs if is_chosen(path_of(pair[0]), pair[0].map.layer, pair[0].map.kernel)]
    named = [f"{path_of(site)} ({reasons[site]})" for site, _ in chosen if site in reasons]
    if named or not chosen:
        raise ValueError(
            f"Expected `filters` to match kernels that can be pruned. Received: filters={filters!r}, which match "
            f"{', '.join(named) or 'none of ' + ', '.join(paths)}."
        )
    return chosen, []


def _refusal(site: Site, pattern: Pattern) -> str | None:
    """Return why a kernel cannot be pruned, or None if it can."""
    kernel = site.map.kernel
    if not kernel.mixes_inputs:
        return "depthwise kernels have one input for each output, and are never pruned here"
    if not kernel.takes(pattern):
        return f"{pattern!r} does not fit its shape"
    if is_recurrent(kernel) and any(len(call.inputs) > 1 for call in site.calls):
        return "its layer is called with initial states or a mask"
    return None


def _mask_all(
    pairs: list[Pair],
    calibration: Calibration,
    *,
    reference: Graph,
    shares: Mapping[Site, float | None],
    settings: MaskSettings,
    verbose: int | str,
) -> dict[Site, ReconstructionRow]:
    rows: dict[Site, ReconstructionRow] = {}
    wanted = {site: share for site, share in shares.items() if share is not None}
    masked = [pair for pair in pairs if pair[0] in wanted]
    progress = Progress(len(masked), verbose=verbose, unit="layer")

    def mask(pair: Pair, moments: list[GramMoments], held: list[GramMoments]) -> None:
        rows[pair[0]] = mask_kernel(pair, moments, sparsity=wanted[pair[0]], settings=settings)
        progress.add()

    graphs = calibration.graph, reference
    to_dense = graphs[0] is not graphs[1]
    with progress:
        improve_in_order(masked, calibration.batches(), graphs=graphs, improve=mask, to_dense=to_dense)
    return rows


def _checked_rounding(rounding: Any, criterion: str) -> Rounding | None:
    if rounding is not None and not isinstance(rounding, Rounding):
        raise TypeError(
            f"Expected `rounding` to be a Rounding or None. Received: rounding={rounding!r}. Pass "
            f"tfprune.Rounding(8) or tfprune.Rounding(4)."
        )
    if rounding is not None and criterion != "sparsegpt":
        raise ValueError(
            f"Expected criterion='sparsegpt' with `rounding`: the other criteria set zeros only. Received: "
            f"criterion={criterion!r}, rounding={rounding!r}. Pass criterion='sparsegpt'."
        )
    return rounding


def _checked_pattern(pattern: str | Pattern, sparsity: float) -> Pattern:
    resolved = resolve(pattern, PATTERNS, Pattern, "pattern")
    if not isinstance(resolved, (Unstructured, NM, Block)):
        raise ValueError(
            f"Expected `pattern` to be 'unstructured', patterns.NM(n, m) or patterns.Block(rows, cols). Received: "
            f"pattern={pattern!r}. Whole channels and heads are removed by prune_units."
        )
    resolved.check(sparsity)
    return resolved
