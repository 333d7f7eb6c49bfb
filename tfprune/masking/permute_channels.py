"""Reorder the channels of a model so that N:M masks keep more of its weights.

N:M masks compare neighboring inputs, and a network computes the same with its channels in another order. First the
channels that may change places are found, then they are ordered for the kernels that read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import shape_along
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, resolve
from tfprune.channels.groups import kernels_by_weight
from tfprune.criteria import CRITERIA, Criterion
from tfprune.evidence import Gatherer, check_needs
from tfprune.masking.pruned import holds_pruned
from tfprune.masking.strip import FlatCopy, copy_with, flat_copy, mask_zeros, score_kernels, transfer_weights
from tfprune.models.anatomy import Anatomy, Filters, Kernel, as_numpy, selector, to_matrix
from tfprune.models.tracing import LargestDifference, difference_in_words, first_run, run_on_numbers, same_outputs
from tfprune.patterns import NM, Pattern, as_pattern
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network
from tfprune.solving.surgery import column_order

# Channels that may change places: what each weight looks like when they do, and which kernels read them.


def _cells_of(network: Network, group: Group) -> Iterator[np.ndarray]:
    """Yield the bundles of a group that may change places with each other: those that stand in the same tensors.

    The channels of two layers that are concatenated stand in one tensor together, but each layer makes only its own.

    Args:
        network: The channels.
        group: The group, of which bundles that have to stay do not move.
    """
    free = group.free_part().bundles
    layers = [network.layers[name] for name in group.members]
    tensors = [along for layer in layers for weight in layer.weights for along in weight.bundles_along.values()]
    tensors += [along for layer in layers for along in layer.takes if along is not None]
    tensors += [np.array(sorted(bundles)) for layer in layers for bundles in layer.taken_by_index()]
    counts = np.stack([np.bincount(along, minlength=network.size)[free] for along in tensors])
    _, labels = np.unique(counts, axis=1, return_inverse=True)
    for label in range(labels.max(initial=-1) + 1):
        cell = free[labels.ravel() == label]
        if cell.size > 1:
            yield cell


def _moved_along(along: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return which index along an axis moves to each index, when bundles change places.

    Args:
        along: The bundle at each index.
        moved: The bundle that moves to the place of each bundle. Both are there equally often, and their first,
            second and further indices correspond.

    Example:
        >>> _moved_along(np.array([0, 1, 2, 0, 1, 2]), np.array([1, 2, 0]))
        array([1, 2, 0, 4, 5, 3])
    """
    by_bundle = np.argsort(along, kind="stable")
    of_sorted = along[by_bundle]
    places = np.empty_like(by_bundle)
    places[by_bundle] = np.arange(along.size)
    occurrence = places - np.searchsorted(of_sorted, along)
    return by_bundle[np.searchsorted(of_sorted, moved[along]) + occurrence]


def _reordered(values: np.ndarray, weight: ChanneledWeight, *, moved: np.ndarray) -> np.ndarray:
    """Return an array of a weight's shape with bundles in the places of others, as in `_moved_along`."""
    for axis, along in weight.bundles_along.items():
        order = _moved_along(along, moved)
        if not np.array_equal(order, np.arange(order.size)):
            values = values.take(order, axis)
    return values


def _as_rows(values: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return an array of a kernel's shape as rows of inputs: one row for each output and position."""
    matrix = to_matrix(values, kernel)
    return matrix.reshape(-1, matrix.shape[-1])


def _inputs_of(cell: np.ndarray, weight: ChanneledWeight, *, axis: int, kernel: Kernel) -> np.ndarray:
    """Return the indices of each bundle of a cell among the inputs of a kernel, of shape (bundles, indices)."""
    along = weight.bundles_along[axis].reshape(shape_along(len(weight.shape), axis))
    bundles = _as_rows(np.broadcast_to(along, weight.shape), kernel)[0]
    indices = np.flatnonzero(np.isin(bundles, cell))
    return indices[np.argsort(bundles[indices], kind="stable")].reshape(cell.size, -1)


def _groups_of(indices: np.ndarray, m: int) -> np.ndarray:
    """Return the group of `m` inputs that each index is in, numbered by the first bundle of each group.

    Example:
        >>> _groups_of(np.array([4, 5, 8, 0, 9]), 4)
        array([0, 0, 1, 2, 1])
    """
    _, firsts, groups = np.unique(indices // m, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[groups]


# Report of reordered channels: how much of each kernel N:M masks keep, before and after.


@dataclass(frozen=True)
class PermutedKernel(Report):
    """One kernel, and the part of its scores that the masks keep.

    Attributes:
        path: Its path.
        inputs: The number of its inputs.
        moved: How many of them have another place.
        before: The scores that N:M masks keep of the kernel as it was, as a fraction of all its scores.
        after: The same with the channels in the new order.
    """

    path: str
    inputs: int
    moved: int
    before: float
    after: float


@dataclass(frozen=True)
class PermutationReport(Report):
    """Reordered channels.

    Attributes:
        rows: One entry for each kernel some of whose inputs may change places.
        skipped: The kernels whose inputs have to stay, with the reason.
        difference: The largest difference of the outputs from those before, as a fraction of the largest output, on
            random numbers: sums in another order are rounded differently. None if the model does not run on them.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(4, name="out")]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> _, report = tfprune.permute_channels(model, tfprune.patterns.NM(2, 4))
        >>> [row.path for row in report.rows]
        ['out/kernel']
    """

    rows: tuple[PermutedKernel, ...]
    skipped: tuple[Skipped, ...] = ()
    difference: float | None = None

    def __str__(self) -> str:
        lines = [[row.path, row.inputs, row.moved, f"{row.before:.1%}", f"{row.after:.1%}"] for row in self.rows]
        text = table(["kernel", "inputs", "moved", "kept before", "kept after"], lines) + skipped_table(self.skipped)
        return f"{text}\n\n{difference_in_words(self.difference, is_same=True, samples=0)}"


# Reorder the channels of a model so that N:M masks keep more of its weights; its outputs stay the same.

_LEAST_GAIN = 1e-6  # of the scores of a kernel


def permute_channels(
    model: keras.Model,
    pattern: str | Pattern,
    *,
    criterion: str | Criterion = "magnitude",
    filters: Filters = None,
    data: Any = None,
    loss: Any = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, PermutationReport]:
    """Reorder the channels of a model so that N:M masks keep more of its weights.

    Use it before masks with `patterns.NM` are set by `prune_weights`, `update_masks` or training. Channels change
    places in the layers that make them and in all layers that read them, so the model computes the same, up to the
    rounding of sums in another order, and costs nothing more. Inputs and outputs of the model keep their order.

    Args:
        model: A built model that can be followed, wrapped or not. It is left unchanged.
        pattern: The pattern of the masks, `patterns.NM(n, m)`, in short such as `"2:4"`.
        criterion: The importance of an entry of a kernel. Default `"magnitude"`. Use that of the masks: `"wanda"` for
            Wanda. The masks should keep as much as possible of the sum.
        filters: The kernels that get masks: regular expressions for their paths, or a function of a layer. Default
            None: all that can have the pattern.
        data: For criteria that need evidence: a tuple (x, y) of arrays, a dataset, or an iterable of batches.
        loss: For criteria that look at gradients; None takes the loss that the model was compiled with.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        An uncompiled copy of the model with its channels in another order, in its masks if it is wrapped; and a
        `PermutationReport` with the part of each kernel that the masks keep before and after.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model cannot be followed, or the pattern is another one.
        ValueError: If `filters` match no kernel, or one that cannot have the pattern.
        ValueError: If the criterion needs data and there are none, or no criterion looks at them.
        ValueError: If the outputs of the model depend on the order of its channels.

    Example:
        >>> layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(4, name="out")]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> reordered, report = permute_channels(model, NM(2, 4))
        >>> report.rows[0].after > report.rows[0].before
        True

    Reference:
        Pool & Yu, 2021, "Channel Permutations for N:M Sparsity" (NeurIPS); Zhang et al., 2024, "Plug-and-Play: An
        Efficient Post-training Pruning Method for Large Language Models" (ICLR).
    """
    shape = as_pattern(pattern)
    if not isinstance(shape, NM):
        raise ArgumentError("pattern", "`pattern` to be patterns.NM(n, m), such as '2:4'", repr(pattern))
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    check_needs([criterion], data=data, loss=loss)
    check_verbose(verbose)
    copy = flat_copy(Anatomy.of(model))
    kernels = _read_kernels(copy, shape, filters)
    gatherer = None if data is None else Gatherer(copy.plain, data, loss=loss, compiled=model)
    scores = score_kernels(copy, kernels, criterion=criterion, gatherer=gatherer)
    search = _Search(copy.network, kernels, scores, pattern=shape)
    with Progress(len(copy.network.groups), verbose=verbose, unit="group") as progress:
        for group in copy.network.groups:
            for cell in _cells_of(copy.network, group):
                search.order(cell)
            progress.add()
    rows, skipped = search.rows()
    difference = _write(copy, search.moved)
    result = copy.hand_out()
    if holds_pruned(model):
        plain = result
        result = copy_with(Anatomy.of(model))
        transfer_weights(Anatomy.of(plain), result)
        mask_zeros(result)
    return result, PermutationReport(rows, skipped, difference)


_Kernels = Mapping[ChanneledWeight, tuple[str, keras.layers.Layer, Kernel]]


def _read_kernels(copy: FlatCopy, pattern: NM, filters: Filters) -> _Kernels:
    """Return the kernels that get masks.

    Raises:
        ValueError: If `filters` match no kernel, or one that cannot have the pattern.
    """
    named = kernels_by_weight(copy.network, copy.model)
    others = [(weight.path, layer) for weight, (_, layer, _) in named.items()]
    is_wanted = selector(filters, pattern, [path for path, _, _ in named.values()], others=others)
    kernels = {weight: each for weight, each in named.items() if is_wanted(*each)}
    unfit = [path for path, _, kernel in kernels.values() if not (kernel.mixes_inputs and kernel.takes(pattern))]
    if unfit or not kernels:
        raise ArgumentError(
            "filters",
            f"kernels that can have the pattern {pattern!r}",
            f"{filters!r}, which match "
            f"{', '.join(unfit) or 'none of ' + ', '.join((path for path, _, _ in named.values()))}",
        )
    return kernels


class _Search:
    """The order of the channels so far.

    Attributes:
        moved: The bundle that moves to the place of each bundle.
    """

    def __init__(
        self,
        network: Network,
        kernels: _Kernels,
        scores: Mapping[ChanneledWeight, Callable[[], np.ndarray]],
        *,
        pattern: NM,
    ) -> None:
        self._network, self._kernels, self._scores, self._pattern = network, kernels, scores, pattern
        self.moved = np.arange(network.size)
        self._free = np.zeros(network.size, dtype=bool)

    def order(self, cell: np.ndarray) -> None:
        """Order the bundles of a cell, if the kernels that read them then keep more in the mean."""
        readers = {weight: weight.reading(cell) for weight in self._kernels}
        readers = {weight: axes for weight, axes in readers.items() if axes}
        if not readers:
            return
        self._free[cell] = True
        scores = {weight: self._fractions(weight) for weight in readers}
        alike = self._alike(cell, readers, scores)
        if alike is None:
            return
        groups, columns = alike
        moved = np.arange(self._network.size)
        moved[cell] = cell[column_order(columns, groups=groups, n=self._pattern.n)]
        gain = 0.0
        for weight, values in scores.items():
            gain += self._kept(weight, _reordered(values, weight, moved=moved)) - self._kept(weight, values)
        if gain > _LEAST_GAIN:
            self.moved = self.moved[moved]

    def _alike(
        self, cell: np.ndarray, readers: Mapping[ChanneledWeight, list[int]], scores: Mapping[Any, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return how most of the kernels' scores put the bundles into groups of m, and these scores as columns.

        None if all of them have one bundle in a group, or all in one.
        """
        parts: dict[bytes, tuple[np.ndarray, list[np.ndarray]]] = {}
        for weight, axes in readers.items():
            kernel = self._kernels[weight][2]
            rows = _as_rows(scores[weight], kernel)
            for axis in axes:
                for indices in _inputs_of(cell, weight, axis=axis, kernel=kernel).T:
                    groups = _groups_of(indices, self._pattern.m)
                    parts.setdefault(groups.tobytes(), (groups, []))[1].append(rows[:, indices])
        groups, columns = max(parts.values(), key=lambda part: sum(float(some.sum()) for some in part[1]))
        count = int(groups.max()) + 1
        return (groups, np.concatenate(columns)) if 1 < count < groups.size else None

    def _fractions(self, weight: ChanneledWeight, *, is_moved: bool = True) -> np.ndarray:
        """Return the scores of a kernel as fractions of their sum, in the order so far or in that of the model."""
        scores = self._scores[weight]().astype(np.float64)
        scores = scores / (np.abs(scores).sum() or 1)
        return _reordered(scores, weight, moved=self.moved) if is_moved else scores

    def _kept(self, weight: ChanneledWeight, scores: np.ndarray) -> float:
        rows = _as_rows(scores, self._kernels[weight][2])
        return float(rows[self._pattern(rows, 1 - self._pattern.n / self._pattern.m)].sum())

    def rows(self) -> tuple[tuple[PermutedKernel, ...], tuple[Skipped, ...]]:
        """Return a row for each kernel with inputs that may move, and the others with the reason."""
        rows, skipped = [], []
        for weight, (path, _, kernel) in self._kernels.items():
            axes = [axis for axis in weight.reads if self._free[weight.bundles_along[axis]].any()]
            if not axes:
                skipped.append(Skipped(path, self._reason(weight), Skipped.HELD))
                continue
            along = weight.bundles_along[axes[0]]
            scores = [self._kept(weight, self._fractions(weight, is_moved=is_moved)) for is_moved in (False, True)]
            moved = int(np.count_nonzero(_moved_along(along, self.moved) != np.arange(along.size)))
            rows.append(PermutedKernel(path, kernel.matrix_shape[-1], moved, *scores))
        return tuple(rows), tuple(skipped)

    def _reason(self, weight: ChanneledWeight) -> str:
        bundles = [int(bundle) for axis in weight.reads for bundle in weight.bundles_along[axis]]
        reasons = (self._network.reasons[bundle] for bundle in bundles if bundle in self._network.reasons)
        return next(reasons, "its inputs are a single channel" if bundles else "its inputs are those of the model")


def _write(copy: FlatCopy, moved: np.ndarray) -> float | None:
    """Reorder the weights of a copy, and return how far its outputs differ on random numbers.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    run = first_run(copy.called)
    written: set[int] = set()
    for weight, variable in copy.network.variables(copy.model):
        if id(variable) not in written:
            written.add(id(variable))
            variable.assign(_reordered(as_numpy(variable), weight, moved=moved))
    if run is None:
        return None
    outputs = run_on_numbers(copy.called, run[0])
    difference = LargestDifference()
    difference.add(outputs, run[1])
    if not same_outputs(outputs, run[1]):
        raise ValueError(
            f"Expected a model whose outputs do not depend on the order of its channels. Received: "
            f"{copy.plain.name!r}, whose outputs differ by {difference.fraction:.1e} of the largest. Pass `filters` "
            f"for fewer kernels."
        )
    return difference.fraction
