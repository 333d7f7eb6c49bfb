"""Mask single weights of a model on calibration data, without training: ALPS, SparseGPT, Wanda and RIA."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.allocation import ALLOCATIONS, Allocation, Weight, allocate, check_allocation
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import (
    ArgumentError,
    ArgumentTypeError,
    check_choice,
    check_count,
    check_number,
    check_sparsity,
)
from tfprune.compact.linear_map import GraphWalk, LinearMap, Rows, Site, sites_of
from tfprune.compact.reconstruct import (
    TARGETS,
    Pair,
    ReconstructionReport,
    ReconstructionRow,
    improve_in_order,
    seen_in_order,
)
from tfprune.masking.pruned import holds_pruned
from tfprune.masking.strip import copy_with, mask_zeros, plain_copy, transfer_weights
from tfprune.models.anatomy import Anatomy, Filters, Kernel, kernels, rename, selector, uses, walk
from tfprune.models.graph import Graph, trace_to_run
from tfprune.models.tracing import call_graph, check_followable
from tfprune.models.training import Batches, check_token_ids
from tfprune.patterns import NM, Pattern, as_weight_pattern
from tfprune.report import Skipped
from tfprune.solving.least_squares import GramMoments, Rounding, grid_of
from tfprune.solving.surgery import (
    SAMPLES_FELT,
    ErrorCurve,
    outlier_ratio,
    output_error,
    split_by_error,
    split_by_outliers,
    split_by_tails,
    tail_exponent,
    variation,
)
from tfprune.solving.zeros import RIDGE, ZeroSolver, relative_error, ria_mask, wanda_mask

# Put zeros into one kernel by a criterion, from the moments of its inputs.

_UPDATING = ("alps", "sparsegpt")  # criteria that give the remaining weights new values
_MASKS: dict[str, Callable[..., np.ndarray]] = {"wanda": wanda_mask, "ria": ria_mask}
_CRITERIA = (*_UPDATING, *_MASKS)


@dataclass(frozen=True)
class _MaskSettings:
    """How kernels are masked.

    Attributes:
        criterion: One of `_CRITERIA`.
        pattern: The shape of the zeros.
        ridge: As in `ZeroSolver`.
        rounding: The integers that weights are rounded to; None for none.
    """

    criterion: str
    pattern: Pattern
    ridge: float
    rounding: Rounding | None = None


def _zero_solver(linear: LinearMap, ridge: float) -> ZeroSolver:
    """Return what puts zeros into a kernel."""
    weights = linear.weights()
    shape = linear.kernel.matrix_shape
    inputs = weights.shape[2] - (linear.bias is not None)
    return ZeroSolver(weights, inputs=inputs, positions=shape[1] if len(shape) == 3 else 1, ridge=ridge)


def _path_of(site: Site) -> str:
    """Return the path of a kernel in the model."""
    return f"{site.name}/{site.map.kernel.path}"


def _check_inputs(site: Site, moments: list[GramMoments], *, inputs: int) -> None:
    """Refuse moments that say nothing about a kernel.

    Raises:
        ValueError: If all inputs of the kernel were 0, or it got none.
    """
    if not any(sums.gram.diagonal()[:inputs].any() for sums in moments):
        raise ValueError(
            f"Expected samples that give each pruned layer inputs other than 0. Received: samples for which all "
            f"inputs of {_path_of(site)} are 0. Pass more samples, or leave the layer out by `filters`."
        )


def _mask_kernel(
    pair: Pair, moments: list[GramMoments], *, sparsity: float, settings: _MaskSettings
) -> ReconstructionRow:
    """Set the weights of a kernel, and return its error with zeros alone and with the update.

    Raises:
        ValueError: If the inputs of the kernel are all 0.
    """
    site = pair[0]
    solver = _zero_solver(site.map, settings.ridge)
    _check_inputs(site, moments, inputs=solver.inputs)
    if settings.criterion in _UPDATING:
        start = solver.weights if pair[1].graph is site.graph else solver.refit(moments)
        if settings.criterion == "alps":
            updated = solver.by_alps(moments, start, pattern=settings.pattern, sparsity=sparsity)
        else:
            masking = solver.masking(moments, start, pattern=settings.pattern)
            updated = masking(sparsity)
            if settings.rounding is not None:
                updated = masking(
                    sparsity, [grid_of(each[:, : solver.inputs], settings.rounding) for each in updated]
                )
        masked = np.where(updated == 0, 0, solver.weights)
    else:
        masked = updated = solver.weights.copy()
        mask = _MASKS[settings.criterion]
        for sums, weights in zip(moments, masked[..., : solver.inputs], strict=True):
            weights *= mask(sums, weights, pattern=settings.pattern, sparsity=sparsity, positions=solver.positions)
    site.map.assign(updated)
    before, after = (relative_error(moments, weights) for weights in (masked, updated))
    return ReconstructionRow(site.name, site.map.kernel.path, before, after)


# What zeros in each kernel alone cost the outputs of a model.


def _error_curves(
    sites: Sequence[Site], batches: Iterable[Sequence[Any]], *, graph: Graph, settings: _MaskSettings, by: str
) -> dict[Site, ErrorCurve]:
    """Run a model layer by layer, and measure what zeros in each kernel alone cost, as SparseGPT sets them.

    The weights are the same afterwards.

    Args:
        sites: The kernels.
        batches: The arrays for the inputs of the model, batch by batch.
        graph: The model.
        settings: How kernels are masked.
        by: `"error"`, the error of the outputs of the kernel itself; or `"outputs"`, which moves this curve to the
            height of the error that the outputs of the model have for some samples.

    Raises:
        ValueError: If the outputs are the same for all samples.
    """
    walk = GraphWalk(graph, batches)
    some = _first_batches(walk) if by == "outputs" else []
    if some and not any(variation(values) for values in _outputs(walk, some)):
        raise ValueError(
            "Expected samples for which the outputs of the model differ. Received: samples that all give the same. "
            "Pass samples as the model will see them, or allocation='uniform'."
        )
    curves: dict[Site, ErrorCurve] = {}
    for (site, _), moments, _ in seen_in_order([(site, site) for site in sites], [walk]):
        solver = _zero_solver(site.map, settings.ridge)
        _check_inputs(site, moments, inputs=solver.inputs)
        kernel = solver.weights[..., : solver.inputs]
        masks = (kernel != 0).reshape(*kernel.shape[:2], solver.positions, -1)
        zeros = float(np.mean([settings.pattern.sparsity_of(mask) for mask in masks]))
        solved, errors = solver.at_levels(moments, pattern=settings.pattern)
        curves[site] = ErrorCurve(kernel.size, zeros, errors)
        if some:
            dense, weights = _outputs(walk, some), site.map.weights()
            site.map.assign(solved)
            felt = output_error(dense, _outputs(walk, some))
            site.map.assign(weights)
            curves[site] = curves[site].scaled(felt)
    return curves


def _first_batches(walk: GraphWalk) -> list[int]:
    sizes = (len(arrays[0]) for arrays in walk.inputs())
    ends = itertools.accumulate(sizes)
    return [number for number, end in enumerate(ends) if number == 0 or end <= SAMPLES_FELT]


def _outputs(walk: GraphWalk, batches: Sequence[int]) -> list[np.ndarray]:
    """Return the outputs of the model that later layers make."""
    parts = ([keras.ops.convert_to_numpy(output) for output in walk.outputs(batch)] for batch in batches)
    return [np.concatenate(some).astype(np.float64) for some in zip(*parts, strict=True)]


# Split a sparsity over the kernels of a model by what their inputs, their spectra or their errors say.

_BY_ERROR = ("error", "outputs")  # measured with zeros in each kernel alone
_BY_BLOCK = ("owl", "alpha_pruning")  # one sparsity for all kernels of a block
_Split = str | Mapping[str, float | None] | Allocation


@dataclass(frozen=True)
class _Calibration:
    """A model and the data that its kernels are measured on.

    Attributes:
        graph: The model.
        batches: Yields the arrays for the inputs of the model, batch by batch, anew in each call.
    """

    graph: Graph
    batches: Callable[[], Iterable[Sequence[Any]]]


def _checked_split(allocation: _Split | None, settings: _MaskSettings) -> _Split:
    """Return the allocation, or the default one of a criterion and a pattern.

    Raises:
        TypeError, ValueError: If it is not an allocation, or does not fit the criterion or the pattern.
    """
    is_free = not isinstance(settings.pattern, NM)
    if allocation is None:
        return "error" if is_free and settings.criterion in _UPDATING else "uniform"
    if not isinstance(allocation, str):
        check_allocation(allocation)
    else:
        others = "a dict from regular expressions to sparsities, or a function"
        check_choice(allocation, "allocation", choices=(*_BY_ERROR, *_BY_BLOCK, *ALLOCATIONS), others=others)
    if allocation in _BY_ERROR and not (is_free and settings.criterion in _UPDATING):
        raise ArgumentError(
            "allocation",
            f"allocation='uniform' with criterion={settings.criterion!r} and pattern={settings.pattern!r}",
            f"{allocation!r}, which is for unstructured zeros or blocks by 'alps' or 'sparsegpt'",
        )
    if isinstance(allocation, str) and allocation != "uniform" and not is_free:
        raise ArgumentError(
            "allocation",
            f"allocation='uniform' with pattern={settings.pattern!r}, whose groups have the same zeros in all "
            f"kernels, or a dict",
            repr(allocation),
            advice="To leave kernels without zeros, pass for example allocation={'out/kernel': None}.",
        )
    return allocation


def _split_zeros(
    sites: Sequence[Site], calibration: _Calibration, *, sparsity: float, allocation: _Split, settings: _MaskSettings
) -> dict[Site, float | None]:
    """Return the sparsity of each kernel: None for one that stays as it is. One that is not called is left out.

    Args:
        sites: The kernels.
        calibration: The model and the data.
        sparsity: The fraction of zeros of all kernels together.
        allocation: A name, a dict from regular expressions to sparsities, or a function.
        settings: How kernels are masked.

    Raises:
        ValueError: If a kernel would get a sparsity outside [0, 1) or one that the pattern does not allow, or a dict
            has an expression without a match.
    """
    if allocation in _BY_ERROR:
        curves = _error_curves(
            sites, calibration.batches(), graph=calibration.graph, settings=settings, by=allocation
        )
        return dict(zip(curves, split_by_error([*curves.values()], sparsity), strict=True))
    scores = _WandaScores(sites, calibration)
    if allocation in _BY_BLOCK:
        return _by_block(sites, scores, sparsity=sparsity, allocation=allocation)
    weights = [
        Weight(
            _path_of(site),
            tuple(site.map.kernel.variable.shape),
            functools.partial(scores.of, site),
            functools.partial(uses, site.map.leaf, site.map.kernel),
        )
        for site in sites
    ]
    shares = allocate(weights, sparsity, allocation)
    for weight, share in zip(weights, shares, strict=True):
        _check_pattern(settings.pattern, weight.path, share)
    return dict(zip(sites, shares, strict=True))


def _check_pattern(pattern: Pattern, path: str, share: float | None) -> None:
    try:
        pattern.check(share or 0)
    except ValueError as error:
        raise ArgumentError(
            "allocation",
            f"an `allocation` that pattern={pattern!r} allows",
            found=f"{share:g} for {path}",
            advice=str(error),
        ) from error


def _by_block(
    sites: Sequence[Site], scores: _WandaScores, *, sparsity: float, allocation: str
) -> dict[Site, float | None]:
    """Give the kernels of a block, which is a layer of the graph, the same sparsity."""
    blocks: dict[str, list[Site]] = {}
    for site in sites:
        blocks.setdefault(site.name, []).append(site)
    sizes = [sum(math.prod(site.map.kernel.variable.shape) for site in some) for some in blocks.values()]
    if allocation == "owl":
        ratios = [outlier_ratio([scores.of(site) for site in some]) for some in blocks.values()]
        shares = split_by_outliers(ratios, sizes=sizes, sparsity=sparsity)
    else:
        exponents = [
            float(
                np.mean([tail_exponent(matrix) for site in some for matrix in replace(site.map, bias=None).weights()])
            )
            for some in blocks.values()
        ]
        shares = split_by_tails(exponents, sizes=sizes, sparsity=sparsity)
    for name, share in zip(blocks, shares, strict=True):
        if not 0 <= share < 1:
            raise ArgumentError(
                "sparsity",
                f"a sparsity that allocation={allocation!r} can split",
                f"{sparsity!r}, of which {name} would get {share:.3f}",
                advice="Pass allocation='error', or a sparsity nearer to 0.5.",
            )
    return {site: share for some, share in zip(blocks.values(), shares, strict=True) for site in some}


class _WandaScores:
    """The sizes of weights times the norms of their inputs, which are measured when they are first asked for.

    Args:
        sites: The kernels.
        calibration: The model and the data.
    """

    def __init__(self, sites: Sequence[Site], calibration: _Calibration) -> None:
        self._sites, self._calibration = sites, calibration
        self._norms: dict[Site, np.ndarray] = {}

    def of(self, site: Site) -> np.ndarray:
        """Return the scores of a kernel, of shape (outputs, inputs)."""
        if not self._norms:
            self._norms = self._measured()
        kernel = replace(site.map, bias=None).weights()
        return np.concatenate(np.abs(kernel) * self._norms[site])

    def _measured(self) -> dict[Site, np.ndarray]:
        def squared(rows: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
            return lambda x: np.square(rows(x), dtype=np.float64).sum(axis=1, keepdims=True)

        maps = [replace(site.map, bias=None, rows=squared(site.map.rows)) for site in self._sites]
        sums = [np.zeros((each.groups, 1, each.weights().shape[2])) for each in maps]
        walk = GraphWalk(self._calibration.graph, self._calibration.batches())
        for rows in walk.seen(maps, end=len(self._calibration.graph.calls)):
            for index, powers in rows:
                sums[index] += powers
        return {site: np.sqrt(power) for site, power in zip(self._sites, sums, strict=True)}


# Recurrent layers as linear maps: what their kernels multiply in each step, the states before it included.

_layers = keras.layers
_CELLS = (_layers.LSTMCell, _layers.GRUCell, _layers.SimpleRNNCell)
_NOT_KNOWN = "what the kernels of {} multiply is not known"
_STATEFUL = "its states go on from one batch to the next"
_RESET_BEFORE = "reset_after=False multiplies a part of it by states that the reset gate has changed"


def _recurrent_maps(layer: keras.layers.Layer, name: str) -> tuple[list[LinearMap], list[Skipped]]:
    """Return the kernels of a layer that calls its cell step by step as linear maps, and those that are left alone.

    Args:
        layer: The layer, an LSTM for example.
        name: How it is called where it is left alone.
    """
    cell = getattr(layer, "cell", None)
    if type(cell) not in _CELLS:
        kind = type(layer if cell is None else cell).__name__
        parts = kernels(layer) or kernels(cell or layer)
        return [], [Skipped(name, _NOT_KNOWN.format(kind), Skipped.NO_RULE)] if parts else []
    maps: list[LinearMap] = []
    skipped: list[Skipped] = []
    for kernel in kernels(layer):
        reason = _recurrent_refusal(layer, kernel)
        if reason:
            skipped.append(Skipped(f"{name}/{kernel.path}", reason, Skipped.NO_RULE))
        else:
            are_states = _is_recurrent(kernel)
            rows = _states_before(layer) if are_states else _inputs
            maps.append(LinearMap(kernel, None, 1, rows, layer, layer, is_by_position=not are_states))
    return maps, skipped


def _is_recurrent(kernel: Kernel) -> bool:
    """Return True if a kernel multiplies the states of the step before."""
    return kernel.path.split("/")[-1] == "recurrent_kernel"


def _recurrent_refusal(layer: Any, kernel: Kernel) -> str | None:
    if not _is_recurrent(kernel):
        return None
    if layer.stateful:
        return _STATEFUL
    is_reset_before = isinstance(layer.cell, _layers.GRUCell) and not layer.cell.reset_after
    return _RESET_BEFORE if is_reset_before else None


def _inputs(x: Any) -> np.ndarray:
    x = keras.ops.convert_to_numpy(x)
    return x.reshape(1, -1, x.shape[-1])


def _states_before(layer: Any) -> Rows:
    """Return a function from sequences to the states before each of their steps, of shape (1, steps, units)."""

    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_tensor(x)
        return np.concatenate([*_steps(layer, keras.ops.flip(x, axis=1) if layer.go_backwards else x)])[np.newaxis]

    return rows


def _steps(layer: Any, x: Any) -> Iterator[np.ndarray]:
    states = layer.get_initial_state(batch_size=x.shape[0])
    for step in range(x.shape[1]):
        yield keras.ops.convert_to_numpy(states[0])
        _, states = layer.cell(x[:, step], states)


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
        pattern: `"unstructured"` (the default), `patterns.NM(2, 4)`, or blocks such as `patterns.Block(1, 4)`; in
            short `"2:4"` and `"1x4"`.
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
        >>> _layers = [keras.Input((8,)), keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4)]
        >>> model = keras.Sequential(_layers)
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
    check_choice(criterion, "criterion", choices=_CRITERIA)
    shape = as_weight_pattern(pattern, advice="Whole channels and heads are removed by prune_units.")
    shape.check(sparsity)
    settings = _MaskSettings(
        criterion,
        shape,
        check_number(ridge, "ridge", least=0),
        _checked_rounding(rounding, criterion),
    )
    split = _checked_split(allocation, settings)
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
    to_dense = targets == "dense" and criterion in _UPDATING
    reference = trace_to_run(call_graph(Anatomy.of(plain_copy(anatomy)))) if to_dense else graph
    pairs, skipped = _chosen(
        *sites_of(graph, reference, of_loop=_recurrent_maps), filters=filters, pattern=settings.pattern
    )
    sites = [site for site, _ in pairs]
    calibration = _Calibration(graph, lambda: (inputs for inputs, _ in batches))
    shares = _split_zeros(sites, calibration, sparsity=sparsity, allocation=split, settings=settings)
    rows = _mask_all(pairs, calibration, reference=reference, shares=shares, settings=settings, verbose=verbose)
    rename(plain, names)
    result = plain
    if holds_pruned(model):
        result = copy_with(anatomy)
        transfer_weights(Anatomy.of(plain), result)
        mask_zeros(result)
    skipped += [
        Skipped(_path_of(site), _NOT_CALLED, Skipped.NO_RULE)
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
    paths = [_path_of(site) for site, _ in pairs]
    is_chosen = selector(filters, pattern, paths, others=[])
    reasons = {site: reason for site, _ in pairs if (reason := _refusal(site, pattern))}
    if filters is None:
        others = [Skipped(_path_of(site), reason, Skipped.NO_RULE) for site, reason in reasons.items()]
        return [pair for pair in pairs if pair[0] not in reasons], [*skipped, *others]
    chosen = [pair for pair in pairs if is_chosen(_path_of(pair[0]), pair[0].map.layer, pair[0].map.kernel)]
    named = [f"{_path_of(site)} ({reasons[site]})" for site, _ in chosen if site in reasons]
    if named or not chosen:
        raise ArgumentError(
            "filters",
            "`filters` to match kernels that can be pruned",
            f"{filters!r}, which match {', '.join(named) or 'none of ' + ', '.join(paths)}",
        )
    return chosen, []


def _refusal(site: Site, pattern: Pattern) -> str | None:
    """Return why a kernel cannot be pruned, or None if it can."""
    kernel = site.map.kernel
    if not kernel.mixes_inputs:
        return "depthwise kernels have one input for each output, and are never pruned here"
    if not kernel.takes(pattern):
        return f"{pattern!r} does not fit its shape"
    if _is_recurrent(kernel) and any(len(call.inputs) > 1 for call in site.calls):
        return "its layer is called with initial states or a mask"
    return None


def _mask_all(
    pairs: list[Pair],
    calibration: _Calibration,
    *,
    reference: Graph,
    shares: Mapping[Site, float | None],
    settings: _MaskSettings,
    verbose: int | str,
) -> dict[Site, ReconstructionRow]:
    rows: dict[Site, ReconstructionRow] = {}
    wanted = {site: share for site, share in shares.items() if share is not None}
    masked = [pair for pair in pairs if pair[0] in wanted]
    progress = Progress(len(masked), verbose=verbose, unit="layer")

    def mask(pair: Pair, moments: list[GramMoments], held: list[GramMoments]) -> None:
        rows[pair[0]] = _mask_kernel(pair, moments, sparsity=wanted[pair[0]], settings=settings)
        progress.add()

    graphs = calibration.graph, reference
    to_dense = graphs[0] is not graphs[1]
    with progress:
        improve_in_order(masked, calibration.batches(), graphs=graphs, improve=mask, to_dense=to_dense)
    return rows


def _checked_rounding(rounding: Any, criterion: str) -> Rounding | None:
    if rounding is not None and not isinstance(rounding, Rounding):
        raise ArgumentTypeError(
            "rounding",
            "`rounding` to be a Rounding or None",
            repr(rounding),
            advice="Pass tfprune.Rounding(8) or tfprune.Rounding(4).",
        )
    if rounding is not None and criterion != "sparsegpt":
        raise ArgumentError(
            "criterion",
            "criterion='sparsegpt' with `rounding`: the other criteria set zeros only",
            repr(criterion),
            advice="Pass criterion='sparsegpt'.",
            beside={"rounding": rounding},
        )
    return rounding
