"""Remove channels from a .tflite file on samples without labels, without training and without its framework."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.output import check_verbose
from tfprune.base.spec import ArgumentError, BudgetLimit, check_budget_limit, check_count, check_number
from tfprune.export.device.processes import ChildProgress
from tfprune.export.file import schema
from tfprune.export.file.container import (
    Source,
    check_destination,
    check_method,
    check_suffix,
    encode,
)
from tfprune.export.file.document import (
    add_tensor,
    add_values,
    copy_objects,
    drop_hash,
    indices_of,
    inputs_of,
    load_objects,
    numbers_operators,
    put_in_order,
    save_objects,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import FileReport, certified, layer_title, titled
from tfprune.export.micro.interpreter import live_at_peak
from tfprune.export.micro.micro import Micro, smallest_arena
from tfprune.export.pruning.channels import OPTIONS, FileChannels, file_channels, mixing_layers
from tfprune.export.pruning.layers import Activations, FileLayer
from tfprune.export.pruning.pieces import FileOutputs, FilePart, Pieces, Runs, type_name
from tfprune.export.pruning.prune import TRIES, FileJob, change, jobs_of, search
from tfprune.export.pruning.samples import OutputError, first_graph, warnings_of
from tfprune.export.rewriting.rewrite import ExportReport, read_target
from tfprune.export.rewriting.shapes import fix_batch
from tfprune.export.rewriting.sparsify import with_dense_weights
from tfprune.export.rewriting.weights import packed
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import Group, Layout, channels_in, counted
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.surgery import LEVEL_FELT, LEVELS, ErrorCurve, Surgeon, removals, split_by_error

# Report of a file with fewer channels: its groups, how far its outputs moved, and what was written.


@dataclass(frozen=True)
class ShrunkGroup(Report):
    """Channels that are ranked together, and how many are left.

    Attributes:
        group: The name of the first weight that makes them.
        channels: Their number; tied channels, which can only go together, count as one.
        kept: The number of remaining channels.
        flops: Floating-point operations of the operators that make, take or pass them, before.
    """

    group: str
    channels: int
    kept: int
    flops: int


@dataclass(frozen=True)
class ShrinkTfliteReport(FileReport):
    """Report of `shrink_tflite`: the removed channels, and how far the file's outputs moved.

    Attributes:
        groups: One row for each group of channels.
        flops: Floating-point operations of one sample, two for each multiplication of a kernel, before.
        flops_kept: The same of the new file.
        bytes_before: The size of the plain file, in bytes, before.
        errors: One row for each output of the file.
        skipped: The groups that keep all or some of their channels, with the reason.
        samples: The number of samples that channels were ranked on and weights solved for.
        held_out: The number of samples that the outputs were compared on.
        warnings: What makes these numbers less reliable.
        file: The file that was written. Its difference is the one from the file of the old size with the same
            weights and zeros in place of the removed ones.

    Example:
        >>> report = tfprune.export.shrink_tflite("digits.tflite", "small.tflite", images, flops=0.5)
        >>> report.flops_kept <= report.flops / 2
        True
    """

    groups: tuple[ShrunkGroup, ...]
    flops: int
    flops_kept: int
    bytes_before: int
    errors: tuple[OutputError, ...]
    skipped: tuple[Skipped, ...]
    samples: int
    held_out: int
    warnings: tuple[str, ...]
    file: ExportReport

    def __str__(self) -> str:
        groups = [
            [layer_title(row.group), f"{row.channels:,}", f"{row.kept:,}", f"{row.flops:,}"] for row in self.groups
        ]
        sums = [
            ["FLOPs", f"{self.flops:,}", f"{self.flops_kept:,}", f"{self.flops_kept / max(self.flops, 1):.1%}"],
            [
                "bytes",
                f"{self.bytes_before:,}",
                f"{self.file.tflite_bytes:,}",
                f"{self.file.tflite_bytes / self.bytes_before:.1%}",
            ],
        ]
        outputs = [row.row for row in self.errors]
        parts = [
            table(["channels of", "before", "after", "FLOPs"], groups) + skipped_table(titled(self.skipped)),
            table(["the file", "before", "after", "ratio"], sums),
            table([f"output, on {self.held_out} held-out samples", "error", "agreement"], outputs),
            *(f"Warning: {warning}" for warning in self.warnings),
            str(self.file),
        ]
        return "\n\n".join(parts)


@certified
def shrink_tflite(
    source: Source,
    path: str | os.PathLike[str],
    samples: Any,
    *,
    max_bytes: int | None = None,
    max_error: float | None = None,
    flops: BudgetLimit | None = None,
    round_to: int = 1,
    compress: str | None = None,
    target: str | Micro | None = None,
    verbose: int | str = "auto",
) -> ShrinkTfliteReport:
    """Remove the channels of a .tflite file that its outputs miss least, and write the smaller file.

    Use it on a file without training code: from another framework, from a vendor, or from a package. It needs neither
    Keras nor TensorFlow, neither labels nor training. Fewer channels make a file faster on every runtime. Where the
    model can be trained, `tfprune.prune_to` removes more of them at the same accuracy.

    Channels are followed from operator to operator: those that meet in an addition can only be removed together. So
    are they through variables, such as the ring buffers of a wake word, whose first values are cut as well, and
    through what loops keep from turn to turn. Channels of the inputs and outputs stay, and so do channels that reach
    an operator without a rule; the report gives the reason. Each group of channels is ranked by optimal brain surgery
    on the operators that read it. The groups that the outputs depend on least lose the most. Then the remaining
    weights are solved for in order, by least squares on the samples. Integer weights keep their types; their scales
    grow where values no longer fit.

    Args:
        source: The file: a path, or its content. Plain, gzip, xz or packed; float32, float16, or with 8-bit or 4-bit
            weights.
        path: Where the new file is written; it may be the path of the old one.
        samples: Inputs as the file will see them, without labels, 256 or so, as for `prune_tflite`. Every eighth is
            held out, from the end. They are those of the first graph; in a file with signatures, a dict may give them
            under the name of the signature that starts there. `"random"` draws numbers in the range of the inputs,
            which costs accuracy.
        max_bytes: The largest size of the new file, as written: as few channels go as this allows.
        max_error: The largest error of an output on the held-out samples, as a fraction of its standard deviation,
            such as 0.1: as many channels go as this allows.
        flops: The floating-point operations of one sample, two for each multiplication of a kernel, that the new file
            may need: an int is an amount, a float in (0, 1) a fraction of those of the file. As few channels go as
            this allows. Give this, or one of `max_bytes` and `max_error`, or a `target` with an arena. Channels go in
            two rounds, between which the others are ranked and solved for anew; a search goes through both.
        round_to: The number of remaining channels of a group is rounded up to a multiple of this, at least 1. Default
            1. Many kernels are fastest at multiples of 4 or 8.
        compress: None (the default), `"gzip"`, `"xz"` or `"packed"`.
        target: The runtime that the file is for, as in `rewrite`: None (the default) for phones and computers,
            `"micro"` or a `Micro` for microcontrollers, in whose interpreter the new file is then run, too, `"web"`
            for LiteRT.js. With `Micro(arena=...)`, channels go until the new file keeps to so much RAM as well, and
            those that take most of it are the first to go.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts layers: each is ranked once, and
            solved for once for each number of channels that is tried.

    Returns:
        The channels of each group before and after, the error of each output, and what was written. The file's
        `max_abs_diff` compares it with the file that has the same weights, and zeros in place of those that the last
        round removed: it is 0 for integer files, and at most rounding for float32. Other rounds are checked alike.

    Raises:
        TypeError: If `samples` are None, or an argument has another type.
        ValueError: If the file cannot be read or run, has hash tables, or has no channels that can be removed.
        ValueError: If not one of `flops`, `max_bytes` and `max_error` is given, and no arena, or they cannot be met.
        ValueError: If a value is out of range.
        ValueError: If samples do not fit the inputs, or do not change the outputs.

    Example:
        >>> report = shrink_tflite("digits.tflite", "small.tflite", images, flops=0.5)
        >>> report.flops_kept <= report.flops / 2, report.file.max_abs_diff < 1e-4
        (True, True)

    Reference:
        Hassibi & Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon".
    """
    check_verbose(verbose)
    destination = check_destination(path)
    check_method(compress)
    check_suffix(destination, compress)
    wanted = read_target(target, optimize="dense" if target is None else "size", compress=compress, batch=None)
    micro = None if wanted.micro is None or wanted.micro.arena is None else vars(wanted.micro)
    limits = _checked_limits(is_needed=micro is None, flops=flops, max_bytes=max_bytes, max_error=max_error)
    round_to = check_count(round_to, "round_to", least=1)
    file = ModelFile.open(source)
    graph = first_graph(samples, file)
    jobs = jobs_of({**limits, "micro": micro, "round_to": round_to, "compress": compress}, [graph])
    small = change(_run_job, file, source=source, jobs=jobs, verbose=verbose)
    report = small.write(destination, name="shrunk", wanted=wanted, compress=compress)
    return ShrinkTfliteReport(
        groups=tuple(ShrunkGroup(**row) for row in small.settings["groups"]),
        flops=small.settings["flops"],
        flops_kept=small.settings["flops_kept"],
        bytes_before=len(file.content),
        errors=tuple(OutputError(**row) for row in small.settings["errors"]),
        skipped=tuple(Skipped(group, reason, Skipped.HELD) for group, reason in small.settings["skipped"]),
        samples=graph.fitted,
        held_out=graph.held,
        warnings=warnings_of([graph], small.settings["warnings"]),
        file=report,
    )


def _checked_limits(*, is_needed: bool, **limits: Any) -> dict[str, Any]:
    """Return the limits, of which one may be given, and one has to be where no other is."""
    received = {name: value for name, value in limits.items() if value is not None}
    if len(received) > 1 or (is_needed and not received):
        none = "" if received else "none of them"
        expected = "one of `flops`, `max_bytes` and `max_error`, or a `target` with an arena"
        raise ArgumentError("flops", expected, found=none, beside=received)
    checked = dict(limits)
    for name, value in received.items():
        if name == "flops":
            checked[name] = check_budget_limit(value, name)
        else:
            checked[name] = (
                check_count(value, name, least=1) if name == "max_bytes" else check_number(value, name, above=0)
            )
    return checked


# Rank the channels of a file by the errors of the operators that read them, and by what the outputs feel.

_RIDGE = 1e-4  # of the mean square of the inputs, while channels are ranked
_NONE = -1  # in place of a bundle


@dataclass(frozen=True, eq=False)
class RankedGroup:
    """A group of channels with an order of removal.

    Attributes:
        group: The channels.
        order: The bundles that may go, the first to go first.
        curve: What the file's outputs lose with the fraction of these that is gone.
    """

    group: Group
    order: np.ndarray
    curve: ErrorCurve

    def removed(self, share: float, *, round_to: int) -> np.ndarray:
        """Return the bundles that go, at most a share of those that may, where a multiple of a number stays."""
        total = len(self.group.bundles)
        remaining = total - int(share * len(self.order) + 1e-9)
        remaining = min(-(-remaining // round_to) * round_to, total)
        places = np.searchsorted(self.group.bundles, self.order)
        keep, scores = np.ones(total, dtype=bool), np.zeros(total)
        keep[places[: total - remaining]] = False
        scores[places] = np.arange(len(places))
        self.group.keep_one_of_each_part(keep, scores)
        return self.group.bundles[~keep]


class _Ranking:
    """Runs the dense file on samples once, and ranks the channels of each group when all who read them were reached.

    Args:
        pieces: The dense file.
        runs: The inputs of each run, by tensor.
        layers: The weights that can be solved for.
        channels: The channels.
        cost: Returns what the channels of a group cost.
        progress: Counts the layers that were reached.
    """

    def __init__(
        self,
        pieces: Pieces,
        runs: Runs,
        *,
        layers: Sequence[FileLayer],
        channels: FileChannels,
        cost: Callable[[Group], int],
        progress: ChildProgress,
    ) -> None:
        self._pieces, self._runs, self._channels = pieces, runs, channels
        self._layers, self._cost, self._progress = layers, cost, progress
        self._read = {id(layer): _read_bundles(channels, layer) for layer in layers}
        self._moments: dict[int, list[GramMoments]] = {}
        self.shared: dict[int, list[GramMoments]] = {}
        self.unranked: list[tuple[Group, str]] = []

    def ranked(self, folder: Path) -> list[RankedGroup]:
        """Return the groups that may lose channels, in order."""
        waiting = [(group, readers) for group in self._channels.groups if (readers := self._readers(group))]
        states = Activations(self._pieces, self._runs, folder=folder)
        outputs = FileOutputs(self._pieces, self._runs)
        done: dict[str, RankedGroup] = {}
        for _ in self._passed(states, apart=outputs.apart):
            ready = [(group, readers) for group, readers in waiting if self._has_all(readers)]
            waiting = [entry for entry in waiting if not self._has_all(entry[1])]
            for group, readers in ready:
                done[group.name] = self._rank(group, readers, states=states, outputs=outputs)
            needed = {id(reader) for _, readers in waiting for reader in readers}
            self._moments = {key: sums for key, sums in self._moments.items() if key in needed}
        return [done[group.name] for group in self._channels.groups if group.name in done]

    def _readers(self, group: Group) -> list[FileLayer]:
        """Return the layers that read channels of a group which may go."""
        if group.stuck:
            return []
        free = group.free_part().bundles
        readers = [layer for layer in self._layers if np.isin(self._read[id(layer)], free).any()]
        counts = [np.unique(self._read[id(layer)], return_counts=True) for layer in readers]
        uneven = any(len({*numbers[np.isin(bundles, free)].tolist()}) > 1 for bundles, numbers in counts)
        if uneven or not readers:
            reason = "an operator reads some channels more often than others" if uneven else "no operator reads them"
            self.unranked.append((group, reason))
            return []
        return readers

    def _has_all(self, readers: Sequence[FileLayer]) -> bool:
        return all(id(reader) in self._moments for reader in readers)

    def _passed(self, states: Activations, *, apart: int) -> Iterator[None]:
        """Go through the layers in order, and yield whenever the inputs of one were added up."""
        adding = {id(layer): layer.moments() for layer in self._layers}
        uses = [(operator, layer) for layer in self._layers for operator in layer.operators]
        for operator, layer in sorted(uses, key=lambda use: use[0].order):
            for run, x in enumerate(states.of(operator)):
                if run >= apart or operator.loop is not None:
                    layer.add(adding[id(layer)], layer.rows(self._pieces, operator, x, run=run))
            if operator is layer.operators[-1]:
                sums = adding.pop(id(layer))
                aimed = [each.aimed_at(own) for each, own in zip(sums, layer.weights, strict=True)]
                self._moments[id(layer)] = aimed
                if layer.is_in_parallel:
                    self.shared[id(layer)] = aimed
                self._progress.add()
                yield

    def _rank(
        self, group: Group, readers: Sequence[FileLayer], *, states: Activations, outputs: FileOutputs
    ) -> RankedGroup:
        free = group.free_part().bundles
        free_bundles = free[np.any([np.isin(free, self._read[id(reader)]) for reader in readers], axis=0)]
        order, costs = zip(
            *removals([self._surgeon(free_bundles, reader) for reader in readers], len(free_bundles)), strict=True
        )
        errors = np.concatenate([[0.0], np.cumsum(costs)])
        bundles = free_bundles[list(order)]
        counts = np.rint(LEVELS * len(bundles)).astype(int)
        curve = ErrorCurve(self._cost(group), 0.0, errors[counts])
        felt = self._felt(bundles[: counts[LEVEL_FELT]], readers, states=states, outputs=outputs)
        return RankedGroup(group, bundles, curve.scaled(felt))

    def _surgeon(self, free_bundles: np.ndarray, reader: FileLayer) -> Surgeon:
        (sums,) = self._moments[id(reader)]
        bundles = self._read[id(reader)]
        places = [np.flatnonzero(bundles == bundle) for bundle in free_bundles]
        size = max(map(len, places))
        columns = np.array([own if len(own) else np.full(size, _NONE) for own in places])
        weights = reader.weights[0] / np.sqrt(sums.energy.sum() or 1.0)
        return Surgeon(sums.gram, weights, channels=columns, ridge=_RIDGE)

    def _felt(
        self, gone: np.ndarray, readers: Sequence[FileLayer], *, states: Activations, outputs: FileOutputs
    ) -> float:
        """Return the error of the file's outputs where some channels of a group alone are gone."""
        is_here = len(readers) == 1 and not readers[0].is_in_parallel
        start, values = (states.step, states.all) if is_here else (0, outputs.inputs)
        with contextlib.ExitStack() as stack:
            for reader in readers:
                mask = ~np.isin(self._read[id(reader)], gone)
                solved = reader.solver.without(self._moments[id(reader)], mask)
                stack.enter_context(reader.written(self._pieces, solved))
            return outputs.error(start, values)


def _read_bundles(channels: FileChannels, layer: FileLayer) -> np.ndarray:
    """Return the bundle of each input of a layer, `_NONE` for one that stays."""
    operator, layout = layer.operators[0], channels.along_weight(layer)
    axes = [axis for axis, bundles in enumerate(layout) if bundles is not None and axis != operator.output_axis]
    if not axes:
        return np.full(layer.inputs, _NONE)
    (axis,) = axes
    along: np.ndarray = layout[axis]  # type: ignore[assignment]
    lengths = [-1 if other == axis else 1 for other in range(len(layout))]
    return operator.to_matrix(np.broadcast_to(along.reshape(lengths), layer.stored.shape))[0, 0]


def _made_bundles(channels: FileChannels, layer: FileLayer) -> np.ndarray:
    """Return the bundle of each output of a layer, of shape (groups, outputs), `_NONE` for one that stays."""
    layout = channels.along_weight(layer)
    bundles = layout[layer.operators[0].output_axis] if layout else None
    return np.full(layer.weights.shape[:2], _NONE) if bundles is None else bundles.reshape(layer.weights.shape[:2])


# Write a file without some of its channels: smaller tensors, and constants without their entries.

_ITEMS = {"FLOAT32": 4, "FLOAT16": 2, "INT8": 1, "UINT8": 1, "INT16": 2, "INT32": 4, "INT64": 8}  # bytes


def _cut_channels(channels: FileChannels, keep: np.ndarray) -> None:
    """Remove channels from the model that they were found in.

    Args:
        channels: The channels; their model is changed.
        keep: Whether each bundle of channels stays.
    """
    cuts = [_Cut(channels, part, keep) for part in channels.parts]
    for cut in cuts:
        cut.work()
    _leave_out_unused(channels.pieces.model)


class _Cut:
    """Cuts one graph.

    Args:
        channels: The channels.
        part: The graph.
        keep: Whether each bundle of channels stays.
    """

    def __init__(self, channels: FileChannels, part: FilePart, keep: np.ndarray) -> None:
        self._keep, self._pieces = keep, part.pieces
        self._layouts, self._recorded = channels.inside(part)
        self._has_variables = part.loop is None
        self._model, self._graph = self._pieces.model, self._pieces.graph
        self._cut: dict[tuple, int] = {}  # the new tensor of a constant, by its graph and what is kept of it

    def work(self) -> None:
        self._cut_constants()
        self._cut_first_values()
        for tensor, layout in self._layouts.items():
            self._resize(self._graph.tensors[tensor], self._masks(layout))
        for step, recorded in self._recorded.items():
            for place, numbers in counted(recorded.arguments, self._keep).items():
                self._count(self._pieces.steps[step], place, numbers)

    def _cut_first_values(self) -> None:
        for store in self._pieces.stores() if self._has_variables else ():
            layouts = [self._layouts[tensor] for tensor in store.read if tensor in self._layouts]
            for graph, operator in store.first if layouts else ():
                self._take(operator, 1, self._constant(int(operator.inputs[1]), self._masks(layouts[0]), graph))

    def _masks(self, layout: Layout) -> list[np.ndarray | None]:
        """Return which entries along each axis stay; None for all."""
        masks = [None if bundles is None else self._keep[bundles] for bundles in layout]
        return [None if mask is None or mask.all() else mask for mask in masks]

    def _cut_constants(self) -> None:
        unpacked: dict[int, tuple[int, list[np.ndarray | None]]] = {}
        uses = [
            (step, place, layout)
            for step, recorded in self._recorded.items()
            for place, layout in recorded.weights.items()
        ]
        for step, place, layout in uses:
            masks = self._masks(layout)
            if all(mask is None for mask in masks):
                continue
            operator = self._pieces.steps[step]
            tensor = inputs_of(operator)[place]
            source = self._pieces.constant_behind(tensor)
            if source == tensor:
                self._take(operator, place, self._constant(source, masks, self._graph))
            else:  # whatever takes it has the same channels
                unpacked[tensor] = source, masks
        for tensor, (source, masks) in unpacked.items():
            self._unpack(source, self._constant(source, masks, self._graph))
            self._resize(self._graph.tensors[tensor], masks)

    def _constant(self, tensor: int, masks: Sequence[np.ndarray | None], graph: schema.SubGraphT) -> int:
        key = (id(graph), tensor, *(None if mask is None else mask.tobytes() for mask in masks))
        if key not in self._cut:
            old = graph.tensors[tensor]
            values = _values(self._model, old)
            for axis, mask in enumerate(masks):
                values = values if mask is None else np.compress(mask, values, axis=axis)
            raw = packed(values.view(np.int8)) if type_name(old.type) == "INT4" else values
            buffer = add_values(self._model, raw)
            shape = np.array(values.shape[: len(masks)], np.int32)
            quantization = _quantization(old.quantization, masks)
            self._cut[key] = add_tensor(
                graph, old, buffer=buffer, shape=shape, shapeSignature=None, quantization=quantization
            )
        return self._cut[key]

    def _unpack(self, source: int, new: int) -> None:
        for operator in self._graph.operators:
            for place, tensor in enumerate(inputs_of(operator)):
                if tensor == source:
                    self._take(operator, place, new)

    @staticmethod
    def _take(operator: schema.OperatorT, place: int, tensor: int) -> None:
        inputs = inputs_of(operator)
        inputs[place] = tensor
        operator.inputs = np.array(inputs, np.int32)

    @staticmethod
    def _resize(tensor: schema.TensorT, masks: Sequence[np.ndarray | None]) -> None:
        for name in ("shape", "shapeSignature"):
            lengths = getattr(tensor, name)
            if lengths is not None and len(lengths):
                counts = [
                    length if mask is None or length < 0 else np.count_nonzero(mask)
                    for length, mask in zip(lengths, masks, strict=True)
                ]
                setattr(tensor, name, np.array(counts, np.int32))

    def _count(self, operator: schema.OperatorT, place: int, numbers: tuple[int, ...]) -> None:
        if place == OPTIONS:
            options = copy.copy(operator.builtinOptions)
            options.newShape = np.array(numbers, np.int32)
            operator.builtinOptions = options
            return
        old = self._graph.tensors[inputs_of(operator)[place]]
        counted = np.array(numbers, type_name(old.type).lower())
        new = add_tensor(self._graph, old, buffer=add_values(self._model, counted))
        self._take(operator, place, new)


def _values(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return the entries of a constant, in its shape; those of several bytes have another axis for these."""
    raw, shape = np.asarray(model.buffers[tensor.buffer].data, np.uint8), tuple(map(int, tensor.shape))
    kind = type_name(tensor.type)
    if kind == "INT4":
        halves = np.stack([raw & 15, raw >> 4], axis=-1).ravel()[: int(np.prod(shape))].astype(np.int8)
        return np.where(halves > 7, halves - 16, halves).astype(np.int8).reshape(shape)
    return raw.reshape(*shape, _ITEMS[kind])


def _quantization(
    old: schema.QuantizationParametersT | None, masks: Sequence[np.ndarray | None]
) -> schema.QuantizationParametersT | None:
    if old is None or old.scale is None or len(old.scale) < 2:
        return old
    axis = int(old.quantizedDimension)
    mask = masks[axis]
    if mask is None:
        return old
    new = copy.copy(old)
    for name in ("scale", "zeroPoint", "min", "max"):
        numbers = getattr(old, name)
        if numbers is not None and len(numbers) == mask.size:
            setattr(new, name, np.asarray(numbers)[mask])
    return new


def _leave_out_unused(model: schema.ModelT) -> None:
    if not numbers_operators(model):
        drop_hash(model)
        put_in_order(model)
        return
    for graph in model.subgraphs:
        lists = [graph.inputs, graph.outputs]
        lists += [tensors for operator in graph.operators or () for tensors in (operator.inputs, operator.outputs)]
        used_tensors = {index for tensors in lists for index in indices_of(tensors)}
        for index, tensor in enumerate(graph.tensors):
            tensor.buffer = tensor.buffer if index in used_tensors else 0
    holders = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    holders |= {entry.buffer for entry in model.metadata or ()}
    model.buffers = [buffer if index in holders else schema.BufferT() for index, buffer in enumerate(model.buffers)]


# Choose the channels to remove, and solve for the other weights in order: each on what the file returns by then.

_STEPS, _MOST = 198, 0.99  # of the shares that are tried, and the largest of them
_SHARE = 10**6  # the cost of all of a file
_CHANNEL_BYTES = 8  # of RAM, for a channel that an operator of integers makes: its multiplier and shift


@dataclass(frozen=True)
class _Limits:
    """What a file may take.

    Attributes:
        flops: Floating-point operations of one sample; None for any number.
        micro: A microcontroller with a budget of RAM; None for none.
    """

    flops: int | None = None
    micro: Micro | None = None

    def halfway(self, job: _ShrinkingInOrder) -> _Limits:
        """Return limits in the middle between what a file takes and these."""
        flops, micro = self.flops, self.micro
        if flops is not None:
            flops = (job.flops + flops) // 2
        if micro is not None and micro.arena is not None:
            micro = replace(micro, arena=max(micro.arena, (job.arena(micro=micro) + micro.arena) // 2))
        return _Limits(flops, micro)

    def costs(self, channels: FileChannels, layers: Sequence[FileLayer]) -> Callable[[Group], int]:
        """Return what the channels of a group cost, in millionths of the file, of what is limited."""
        if self.micro is None:
            return channels.flops_of
        sizes = _bytes_in_arena(channels, layers)
        total, operations = max(float(sizes.sum()), 1.0), max(channels.flops(channels.all_kept()), 1)

        def cost(group: Group) -> int:
            share = sizes[group.bundles].sum() / total
            if self.flops is not None:
                share += channels.flops_of(group) / operations
            return round(_SHARE * share)

        return cost


def _bytes_in_arena(channels: FileChannels, layers: Sequence[FileLayer]) -> np.ndarray:
    """Return about how many bytes of RAM each bundle of channels takes where the file needs most of it."""
    pieces, sizes = channels.pieces, np.zeros(len(channels.all_kept()))
    for tensor in {*live_at_peak(pieces.model), *(store.read[0] for store in pieces.stores() if store.read)}:
        info = pieces.graph.tensors[tensor]
        size = float(np.prod(info.shape, dtype=np.int64)) * _ITEMS.get(type_name(info.type), 1)
        for along in channels_in(channels.layouts.get(tensor, ())):
            np.add.at(sizes, along, size / len(along))
    for layer in layers:
        made = _made_bundles(channels, layer)
        if layer.stored.kind == "INT8":
            np.add.at(sizes, made[made != _NONE], _CHANNEL_BYTES)
    return sizes


def _without_channels(model: schema.ModelT, keep: np.ndarray) -> bytes:
    """Return a model, which is changed, as a file without some of its channels."""
    pieces = Pieces(model)
    _cut_channels(file_channels(pieces, mixing_layers(pieces)), keep)
    return save_objects(pieces.model)


@dataclass(frozen=True)
class _ShrunkFile:
    """A smaller file.

    Attributes:
        content: The plain file.
        zeroed: The file of the old size with the same weights, and zeros in place of the others.
        groups: The groups of channels, and how many are left of each.
        skipped: The groups that keep their channels, and why.
        flops: The floating-point operations of one sample, before.
        flops_kept: The same of the smaller file.
    """

    content: bytes
    zeroed: bytes
    groups: tuple[ShrunkGroup, ...]
    skipped: tuple[tuple[str, str], ...]
    flops: int
    flops_kept: int

    def after(self, first: _ShrunkFile) -> _ShrunkFile:
        """Return the same file, counted from the one that a first round began with."""
        counts = {group.group: group.kept for group in self.groups}
        groups = tuple(replace(group, kept=counts.get(group.group, group.kept)) for group in first.groups)
        return replace(self, groups=groups, skipped=first.skipped, flops=first.flops)


class _ShrinkingInOrder:
    """A file and samples, from which a file with fewer channels is made.

    Args:
        content: The plain file.
        runs: The inputs of each run of the interpreter, by tensor.
        limits: What the channels are to be fewer for.
        folder: For arrays that do not fit into the memory.
        progress: Counts the layers whose channels were ranked, or which were solved for.

    Attributes:
        flops: The floating-point operations of one sample.
        least: Those without all channels that may go.
    """

    def __init__(self, content: bytes, runs: Runs, *, limits: _Limits, folder: Path, progress: ChildProgress) -> None:
        self._dense, self._runs, self._folder = Pieces(load_objects(content)), runs, folder
        self._progress = progress
        self._layers = mixing_layers(self._dense)
        self._channels = file_channels(self._dense, self._layers)
        if all(group.stuck for group in self._channels.groups):
            reasons = "; ".join(dict.fromkeys(f"{name}: {reason}" for name, reason in self._held()))
            raise ValueError(
                f"Expected a file with channels that can be removed. Received: one where all have to stay: "
                f"{reasons or 'it has none'}"
            )
        progress.expect(len(self._layers))
        channels = self._channels
        cost = limits.costs(channels, self._layers)
        ranking = _Ranking(self._dense, runs, layers=self._layers, channels=channels, cost=cost, progress=progress)
        self._ranked = ranking.ranked(folder)
        self._shared, self._unranked = ranking.shared, ranking.unranked
        self.flops = self._channels.flops(self._channels.all_kept())
        self.least = self._channels.flops(self._choice(_STEPS, round_to=1))

    def shrunk(self, limits: _Limits, *, round_to: int) -> _ShrunkFile:
        """Return a file with as many channels as limits allow.

        Args:
            limits: The limits.
            round_to: The number of channels of a group is a multiple of this.
        """
        keep = self._bundles_within(limits, round_to=round_to)
        zeroed = self._solved(keep)
        rows = [
            ShrunkGroup(
                group.name, len(group.bundles), int(keep[group.bundles].sum()), self._channels.flops_of(group)
            )
            for group in self._channels.groups
        ]
        remaining_flops = self._channels.flops(keep)
        small = _without_channels(load_objects(zeroed), keep)
        return _ShrunkFile(small, zeroed, tuple(rows), self._skipped(), self.flops, remaining_flops)

    def arena(self, keep: np.ndarray | None = None, *, micro: Micro) -> int:
        """Return the RAM that a microcontroller needs for the bundles that stay, whatever their weights are."""
        model = copy_objects(self._dense.model)
        content = save_objects(model) if keep is None else _without_channels(model, keep)
        return smallest_arena(with_dense_weights(fix_batch(ModelFile(content), 1)), micro=micro)

    def check(self, limits: _Limits, *, round_to: int) -> None:
        """Refuse limits that cannot be met."""
        keep = self._choice(_STEPS, round_to=round_to)
        least = self._channels.flops(keep)
        if limits.flops is not None and least > limits.flops:
            raise ValueError(
                f"Expected a limit that can be met. Received: {limits.flops:,.0f} floating-point operations of "
                f"{self.flops:,}; without all channels that may go, the file still has {least:,}. Raise the limit"
            )
        if limits.micro is not None and limits.micro.arena is not None:
            arena = self.arena(keep, micro=limits.micro)
            if arena > limits.micro.arena:
                raise ValueError(
                    f"Expected a limit that can be met. Received: arena={limits.micro.arena:,} bytes; without all "
                    f"channels that may go, the file still takes {arena:,}. Raise the limit"
                )

    def _skipped(self) -> tuple[tuple[str, str], ...]:
        return (*self._held(), *((group.name, reason) for group, reason in self._unranked))

    def _held(self) -> list[tuple[str, str]]:
        """Return the groups of which some channels have to stay, and why."""
        reasons = ((group.name, group.reason or group.stuck) for group in self._channels.groups)
        return [(name, reason) for name, reason in reasons if reason]

    def _bundles_within(self, limits: _Limits, *, round_to: int) -> np.ndarray:
        """Return which bundles stay, where as few go as the limits allow."""
        self.check(limits, round_to=round_to)
        flops, micro, low = limits.flops, limits.micro, 0
        if flops is not None:
            low = self._first_step(lambda keep: self._channels.flops(keep) <= flops, low, round_to=round_to)
        if micro is not None and (arena := micro.arena) is not None:
            low = self._first_step(lambda keep: self.arena(keep, micro=micro) <= arena, low, round_to=round_to)
        return self._choice(low, round_to=round_to)

    def _first_step(self, fits: Callable[[np.ndarray], bool], low: int, *, round_to: int) -> int:
        high = _STEPS
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(self._choice(middle, round_to=round_to)) else (middle + 1, high)
        return low

    def _choice(self, step: int, *, round_to: int) -> np.ndarray:
        """Return which bundles stay where a share of those that may go is gone."""
        keep = self._channels.all_kept()
        shares = split_by_error([ranked.curve for ranked in self._ranked], _MOST * step / _STEPS)
        for ranked, share in zip(self._ranked, shares, strict=True):
            keep[ranked.removed(share, round_to=round_to)] = False
        return keep

    def _solved(self, keep: np.ndarray) -> bytes:
        """Return the file of the old size with zeros for what goes, and new values for the other weights."""
        file = Pieces(copy_objects(self._dense.model))
        dense, now = (Activations(pieces, self._runs, folder=self._folder) for pieces in (self._dense, file))
        gone = np.flatnonzero(~keep)
        is_changed = False
        for layer in self._layers:
            self._progress.add()
            reads = np.isin(_read_bundles(self._channels, layer), gone)
            makes = np.isin(_made_bundles(self._channels, layer), gone)
            is_changed |= bool(reads.any())
            if not is_changed and not makes.any():
                continue
            weights = layer.weights
            if is_changed:
                moments = self._shared.get(id(layer)) or layer.moments_in_order(self._dense, dense=dense, now=now)
                weights = layer.solver.without(moments, ~reads)
            weights = np.where(makes[..., np.newaxis], 0, weights)
            layer.write(file, weights, layer.stored.grown(layer.tensor(weights)))
        return save_objects(file.model)


# The part of `shrink_tflite` that runs in a process of its own.


def _run_job(folder: Path) -> None:
    samples = FileJob(folder)
    settings = samples.settings
    micro = None if settings["micro"] is None else Micro(**settings["micro"])
    is_search = any(settings[name] is not None for name in ("max_bytes", "max_error"))
    tries = TRIES if is_search else 0
    progress = ChildProgress(folder, rounds=4 + 2 * tries)  # rank, try, solve, rank again, try and solve again
    limits = _Limits(settings["flops"], micro)
    job = _ShrinkingInOrder(samples.content, samples.runs[0], limits=limits, folder=folder, progress=progress)
    small = (_wanted if is_search else _within)(job, samples, limits=limits, progress=progress)
    rows = {
        "groups": [vars(row) for row in small.groups],
        "errors": [vars(row) for row in samples.errors(small.content)],
        "skipped": small.skipped,
        "flops": small.flops,
        "flops_kept": small.flops_kept,
    }
    samples.hand_over(small.content, rows, expected=small.zeroed)


def _within(job: _ShrinkingInOrder, samples: FileJob, *, limits: _Limits, progress: ChildProgress) -> _ShrunkFile:
    """Return a file that keeps to limits of what it takes, in two rounds."""
    round_to = samples.settings["round_to"]
    if isinstance(limits.flops, float):
        limits = replace(limits, flops=int(job.flops * limits.flops))
    job.check(limits, round_to=round_to)
    half, again = _halfway(job, samples, limits=limits, progress=progress)
    return again.shrunk(limits, round_to=round_to).after(half)


def _halfway(
    job: _ShrinkingInOrder, samples: FileJob, *, limits: _Limits, progress: ChildProgress
) -> tuple[_ShrunkFile, _ShrinkingInOrder]:
    """Go half of the way, and rank the channels of that file anew: their worth depends on which others are there."""
    half = job.shrunk(limits.halfway(job), round_to=1)
    samples.check_same(half.content, half.zeroed)  # those of the last file are compared by the parent
    runs = samples.runs_of(half.content)[0]
    return half, _ShrinkingInOrder(half.content, runs, limits=limits, folder=samples.folder, progress=progress)


def _wanted(job: _ShrinkingInOrder, samples: FileJob, *, limits: _Limits, progress: ChildProgress) -> _ShrunkFile:
    """Search for the file that keeps to a limit of bytes or of the error: in one round, then from halfway there."""
    once = _searched(job, samples, micro=limits.micro)
    half, again = _halfway(job, samples, limits=replace(limits, flops=once.flops_kept), progress=progress)
    try:
        twice = _searched(again, samples, micro=limits.micro).after(half)
    except ValueError:  # none from there keeps to the limit
        return once
    if samples.settings["max_error"] is not None:
        return min(once, twice, key=lambda file: file.flops_kept)
    return min(once, twice, key=lambda file: samples.error(file.content))


def _searched(job: _ShrinkingInOrder, samples: FileJob, *, micro: Micro | None) -> _ShrunkFile:
    """Return the file that keeps to a limit of bytes or of the error, each try solved for from one ranking."""
    names = ("max_bytes", "max_error", "round_to", "compress")
    max_bytes, max_error, round_to, compress = (samples.settings[name] for name in names)

    def without(percent: int) -> _ShrunkFile:
        flops = job.flops - percent * (job.flops - job.least) // 100
        return job.shrunk(_Limits(flops, micro), round_to=round_to)

    if max_bytes is not None:
        limit = f"{max_bytes:,} bytes"
        return search(without, lambda file: len(encode(file.content, compress)) <= max_bytes, limit=limit, toward=-1)
    limit = f"an error of {max_error:g}"
    return search(without, lambda file: samples.error(file.content) <= max_error, limit=limit, toward=1)
