"""Reconstruct the outputs of each layer after pruning: solve for the remaining weights by least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_choice, check_count, check_number
from tfprune.compact.linear_map import (
    GraphWalk,
    IsHeld,
    MomentSums,
    Site,
    calls_by_name,
    every,
    none_held,
    sites_of,
    sums_of,
)
from tfprune.masking.pruned import holds_pruned
from tfprune.masking.strip import copy_with, plain_copy, transfer_weights
from tfprune.models.anatomy import Anatomy, Kernel, as_numpy, from_matrix, kernels, rename, to_matrix, walk
from tfprune.models.graph import Graph, trace_to_run
from tfprune.models.tracing import Tolerance, call_graph, check_followable, same_outputs
from tfprune.models.training import Batches, check_token_ids
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.least_squares import RIDGE, GramMoments, solve

# The outputs that pruning has removed, put back so that the layers that read them can be solved for.


class _Restored:
    """Values for the kernels of a pruned model, in which outputs without weights have those of the reference.

    A removed channel is zero in the layer that makes it. Put back, it shows its readers what they did with it, and
    does nothing where the kernels that read it are zero for it.

    Args:
        ours: The pruned model.
        theirs: The reference.
    """

    def __init__(self, ours: Graph, theirs: Graph) -> None:
        others = calls_by_name(theirs)
        self._pairs: list[tuple[Kernel, Kernel]] = []
        for name, calls in calls_by_name(ours).items():
            self._pairs += zip(kernels(calls[0].layer), kernels(others[name][0].layer), strict=True)
        self._pairs = [(kernel, other) for kernel, other in self._pairs if _dead(kernel).any()]
        self._kept: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def values(self) -> list[tuple[keras.Variable, Any]]:
        """Return the variables, each with the value to use in its place."""
        for kernel, other in self._pairs:
            if id(kernel.variable) not in self._kept:
                self._kept[id(kernel.variable)] = keras.ops.convert_to_tensor(_restored(kernel, other))
        return [(kernel.variable, self._kept[id(kernel.variable)]) for kernel, _ in self._pairs]

    def forget(self, variable: keras.Variable) -> None:
        """Read a kernel anew that has other weights now."""
        self._kept.pop(id(variable), None)


def _dead(kernel: Kernel) -> np.ndarray:
    matrix = to_matrix(as_numpy(kernel.variable), kernel)
    return np.logical_not(np.any(matrix.reshape(len(matrix), -1), axis=1))


def _restored(kernel: Kernel, other: Kernel) -> np.ndarray:
    dead = _dead(kernel)
    matrix = to_matrix(as_numpy(kernel.variable), kernel).copy()
    matrix[dead] = to_matrix(as_numpy(other.variable), other)[dead]
    return from_matrix(matrix, kernel)


# Improve the layers in order, each on the outputs of the layers before it with their new weights.

_ROUNDED = Tolerance(relative=1e-4, of_largest=1e-4)
Pair = tuple[Site, Site]  # of the pruned model and of the reference
_Improve = Callable[[Pair, list[GramMoments], list[GramMoments]], None]


@dataclass(frozen=True, eq=False)
class _Stage:
    """Neighboring calls with the layers to improve in them: from the first call of one to the last of any."""

    start: int
    end: int
    pairs: list[Pair]


def improve_in_order(
    pairs: Sequence[Pair],
    batches: Iterable[Sequence[Any]],
    *,
    graphs: tuple[Graph, Graph],
    improve: _Improve,
    to_dense: bool,
    is_held: IsHeld = none_held,
) -> None:
    """Run a model from its first layer to its last, and improve layers on the way; those not called are left out.

    It takes one run of the model and one more of each layer for each of its kernels.

    Args:
        pairs: The layers to improve, each with its counterpart in the reference.
        batches: The arrays for the inputs of the model, batch by batch.
        graphs: The pruned model and the reference.
        improve: Sets new weights, from the moments of the batches and of those that are kept apart.
        to_dense: Whether the outputs in the reference are wanted, or what its weights make of the inputs here.
        is_held: Tells by its number whether a batch is kept apart.
    """
    restored = _Restored(*graphs)
    walks = _walks(batches, graphs, restored=restored, to_dense=to_dense)
    for pair, moments, held in seen_in_order(pairs, walks, is_held=is_held):
        improve(pair, moments, held)
        restored.forget(pair[0].map.kernel.variable)


def seen_in_order(
    pairs: Sequence[Pair], walks: Sequence[GraphWalk], *, is_held: IsHeld = none_held
) -> Iterator[tuple[Pair, list[GramMoments], list[GramMoments]]]:
    """Yield layers in order, each with its moments, as its weights are at that time; walks stay before the layer.

    Args:
        pairs: The layers, each with its counterpart in the reference.
        walks: A walk that gives the inputs of the layers, and one that gives those of the outputs that are wanted;
            without it the wanted outputs are those that the weights in the reference make of the same inputs.
        is_held: Tells by its number whether a batch is kept apart.
    """
    for stage in _stages(pairs):
        for each in walks:
            each.advance(stage.start)
        for some in _with_the_same_inputs(walks[0], stage):
            maps = [ours.map for ours, _ in some]
            sums = MomentSums(maps, [reference.map.weights() for _, reference in some], is_held=is_held)
            streams = zip(*(each.seen(maps, end=stage.end) for each in walks), strict=True)
            for number, (rows, *meant) in enumerate(streams):
                sums.add(number, rows, meant=meant[0] if meant else None)
            yield from zip(some, sums.moments(), sums.moments(held=True), strict=True)


def _walks(
    batches: Iterable[Sequence[Any]], graphs: tuple[Graph, Graph], *, restored: _Restored, to_dense: bool
) -> list[GraphWalk]:
    """Return a walk that gives the inputs of layers, and one that gives them in the reference where it is another."""
    walk = GraphWalk(graphs[0], batches)
    if to_dense:
        dense = _dense_weights(*graphs)
        return [walk, GraphWalk(graphs[0], walk.inputs(), weights=lambda: dense)]
    if not restored:
        return [walk]
    whole = GraphWalk(graphs[0], walk.inputs(), weights=restored.values)
    # All that read what was removed are zero for it where the outputs are the same with it put back.
    return [whole] if same_outputs(whole.outputs(0), walk.outputs(0), tolerance=_ROUNDED) else [walk, whole]


def _stages(pairs: Sequence[Pair]) -> Iterator[_Stage]:
    """Yield the parts of the graph in which layers are improved, in order; a layer that is called twice spans one."""
    places = {id(call): place for pair in pairs[:1] for place, call in enumerate(pair[0].graph.calls)}
    spans = [([places[id(call)] for call in pair[0].calls], pair) for pair in pairs]
    current: _Stage | None = None
    for span, pair in sorted(spans, key=lambda entry: min(entry[0])):
        if current is None or min(span) >= current.end:
            if current is not None:
                yield current
            current = _Stage(min(span), max(span) + 1, [pair])
        else:
            current = _Stage(current.start, max(current.end, max(span) + 1), [*current.pairs, pair])
    if current is not None:
        yield current


def _with_the_same_inputs(walk: GraphWalk, stage: _Stage) -> list[list[Pair]]:
    """Return the pairs of a stage whose layers are called, in the order in which the first batch calls them.

    Those in a list are other layers, called one after the other on the same tensors, so none sees the new weights of
    another.
    """
    maps = [ours.map for ours, _ in stage.pairs]
    calls: dict[int, list[int]] = {}
    first_inputs = walk.first_inputs(maps, end=stage.end)
    for index, tensor in first_inputs:
        calls.setdefault(index, []).append(id(tensor))  # of a tensor that is still held, and so has no other's id
    together: list[list[int]] = []
    for index, tensors in calls.items():
        last = together[-1][-1] if together else None
        if last is not None and calls[last] == tensors and maps[last].leaf is not maps[index].leaf:
            together[-1].append(index)
        else:
            together.append([index])
    return [[stage.pairs[index] for index in some] for some in together]


def _dense_weights(ours: Graph, theirs: Graph) -> list[tuple[Any, Any]]:
    """Return the variables of the pruned model with their values in the reference."""
    others = calls_by_name(theirs)
    return [
        (variable, keras.ops.convert_to_tensor(counterpart))
        for name, calls in calls_by_name(ours).items()
        for variable, counterpart in zip(calls[0].layer.weights, others[name][0].layer.weights, strict=True)
    ]


# Report of a reconstruction: the output error of each layer before and after.


@dataclass(frozen=True)
class ReconstructionRow(Report):
    """The output error of a layer on the calibration data, compared with the reference.

    Attributes:
        layer: The name of the layer.
        weight: The name of the kernel that was solved for, with the bias of the layer if it has one.
        before: The squared error with the old weights, as a fraction of the squared outputs.
        after: The squared error with the new weights, as the same fraction; never larger than `before`, unless
            `prune_weights` rounds the weights.
        held_before: `before` on the data that were kept apart by `holdout`, None without any.
        held_after: The same with the new weights. Where it is larger than `held_before`, the old ones were kept.
    """

    layer: str
    weight: str
    before: float
    after: float
    held_before: float | None = None
    held_after: float | None = None


@dataclass(frozen=True)
class ReconstructionReport(Report):
    """The output error of each layer before and after `reconstruct`.

    Attributes:
        rows: One row per kernel, in the order of the model.
        skipped: The layers whose kernels were left as they are, each with the reason.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> pruned = tfprune.wrap(model)
        >>> _ = tfprune.update_masks(pruned, 0.5)
        >>> better, report = tfprune.reconstruct(pruned, model, numpy.eye(8, dtype="float32"))
        >>> [row.weight for row in report.rows]
        ['kernel']
    """

    rows: tuple[ReconstructionRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        columns = ["weight", "error before", "after"]
        lines = [[f"{row.layer}/{row.weight}", f"{row.before:.3%}", f"{row.after:.3%}"] for row in self.rows]
        if any(row.held_before is not None for row in self.rows):
            columns += ["held out before", "after"]
            for line, row in zip(lines, self.rows, strict=True):
                line += ["" if value is None else f"{value:.3%}" for value in (row.held_before, row.held_after)]
        return table(columns, lines) + skipped_table(self.skipped)


# Solve for the weights of one layer, and keep them where they are better.


def improve_layer(
    site: Site,
    fit: list[GramMoments],
    *,
    held: list[GramMoments],
    ridge: float,
    live: np.ndarray | None = None,
) -> ReconstructionRow:
    """Solve for the weights of a layer, and set them unless they are worse on the data that are held out.

    Args:
        site: The layer.
        fit: The moments of each of its groups, to solve with.
        held: The moments of the data that are held out, of 0 rows if there are none.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean.
        live: The outputs that are judged and get a new bias, of shape (groups, outputs); None takes those that have
            weights.

    Raises:
        ValueError: If all data are held out.
    """
    if not fit[0].count:
        raise ArgumentError(
            "holdout", "at least two batches with a `holdout`", found="one", advice="Lower `batch_size`."
        )
    weights, free = site.map.weights(), site.map.free()
    if live is None:
        live = np.asarray(free.any(axis=2))
    elif site.map.bias is not None:
        free[..., -1] = live
    old = weights.copy()
    for group, all_outputs in enumerate(fit):
        rows = live[group]
        some, masked, unmasked = all_outputs.of(rows), old[group][rows], free[group][rows]
        solved = solve(some, masked, free=unmasked, ridge=ridge)
        weights[group][rows] = some.better(masked, solved.astype(masked.dtype))  # judged as the model holds them
    before, after = (_error(fit, values, live) for values in (old, weights))
    held_before, held_after = (_error(held, values, live) if held[0].count else None for values in (old, weights))
    if held_before is not None and held_after is not None and held_after > held_before:
        after = before
    else:
        site.map.assign(weights)
    return ReconstructionRow(site.name, site.map.kernel.path, before, after, held_before, held_after)


def _differs(pair: tuple[Site, Site]) -> bool:
    """Return True if a layer has other weights than its counterpart, outputs without weights aside."""
    ours, reference = pair
    live = ours.map.free().any(axis=2)
    return bool((ours.map.weights()[live] != reference.map.weights()[live]).any())


def unsolved(site: Site, fit: list[GramMoments], *, held: list[GramMoments], live: np.ndarray) -> ReconstructionRow:
    """Return the row of a layer whose weights stay as they are, judged by some of its outputs."""
    weights = site.map.weights()
    error = _error(fit, weights, live)
    apart = _error(held, weights, live) if held[0].count else None
    return ReconstructionRow(site.name, site.map.kernel.path, error, error, apart, apart)


def _unchanged(pair: tuple[Site, Site]) -> ReconstructionRow:
    """Return the row of a layer that makes of its inputs what its counterpart would make of them."""
    return ReconstructionRow(pair[0].name, pair[0].map.kernel.path, 0.0, 0.0)


def _error(moments: list[GramMoments], weights: np.ndarray, live: np.ndarray) -> float:
    """Return the squared error of the outputs that have weights, as a fraction of their squares."""
    parts = [(moment.of(rows), values[rows]) for moment, values, rows in zip(moments, weights, live, strict=True)]
    energy = sum(float(some.energy.sum()) / some.count for some, _ in parts)
    return sum(float(some.errors(values).sum()) for some, values in parts) / (energy or 1.0)


# Reconstruct the outputs of each layer: solve for the remaining weights by least squares.

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
    to_solve = [pair for pair in pairs if is_parallel or to_dense or _differs(pair)]
    rows: dict[Site, ReconstructionRow] = {pair[0]: _unchanged(pair) for pair in pairs if pair not in to_solve}
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


def _improve_at_once(pairs: list[Pair], batches: Batches, *, improve: _Improve, is_held: IsHeld) -> None:
    """Improve layers on the inputs that they have in the reference."""
    sums = sums_of([reference for _, reference in pairs], batches, is_held=is_held)
    for pair, moments, held in zip(pairs, sums.moments(), sums.moments(held=True), strict=True):
        if moments[0].count or held[0].count:
            improve(pair, moments, held)
