"""Micro: a microcontroller as the target of a file, and the file that fits its budgets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, check_choice, check_count
from tfprune.export.file import schema
from tfprune.export.file.document import (
    indices_of,
    numbers_operators,
    put_in_order,
    save_objects,
)
from tfprune.export.file.model_file import ModelFile, fitting
from tfprune.export.file.reader import Model
from tfprune.export.micro.interpreter import (
    MicroRun,
    chip_arena,
    fits,
    missing,
    registrations,
    require_interpreter,
    run_files,
)
from tfprune.export.micro.memory import Layer, Unpacker, encode_smallest, largest_live, layers_of, save_memory
from tfprune.export.micro.reports import MicroLayer, MicroReport

# Micro: a microcontroller as the target of a file, with its budgets, and the arguments that fit it.


@dataclass(frozen=True)
class Micro:
    """A microcontroller as the target of a file, with the flash and RAM that the file may use there.

    Pass it as `target=` to `to_tflite`, `rewrite` or `compress`. `"micro"` is short for `Micro()`, without budgets.

    Args:
        arena: The bytes of RAM that the file may use, at least 1: as the interpreter for microcontrollers counts them
            with pointers of 32 bits, or with those of 64 bits, which are more, where mcufit or Node is missing.
            Large layers are then computed in parts, and the smallest file within the budget is written. None (the
            default) sets no budget.
        flash: The bytes that the file may have, at least 1. With `flash` alone the file that uses the least RAM is
            written; with neither, the file with the smallest sum of flash and RAM. None (the default) sets no budget.

    Raises:
        TypeError: If a budget is neither an integer nor None.
        ValueError: If a budget is less than 1.

    Example:
        >>> Micro(arena=60_000)
        Micro(arena=60000, flash=None)
    """

    arena: int | None = None
    flash: int | None = None

    def __post_init__(self) -> None:
        for name in ("arena", "flash"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, least=1)


class OverBudgetError(ValueError):
    """No file keeps to the budgets."""


def read_micro(
    target: Any,
    *,
    others: tuple[str, ...] = (),
    objects: str = "or a Micro",
    optimize: Any = "size",
    compress: Any = None,
) -> Micro | None:
    """Read the argument `target`; None for other targets than microcontrollers, such as `others`.

    Args:
        target: The argument.
        others: The names of other targets.
        objects: The objects that it may be, for the message.
        optimize: The argument `optimize`.
        compress: The argument `compress`.

    Raises:
        TypeError: If it has another type.
        ValueError: If there is no such target, or other arguments do not go with it; or (also an ImportError) if the
            interpreter for microcontrollers is not installed.
    """
    if not isinstance(target, Micro):
        check_choice(target, "target", choices=(None, "micro", *others), others=objects)
    if target is None or target in others:
        return None
    if optimize != "size" or compress is not None:
        raise ArgumentError(
            "optimize",
            "optimize='size' and compress=None with target='micro', whose file is compiled into a program as it is",
            repr(optimize),
            advice="Leave them out.",
            beside={"compress": compress},
        )
    require_interpreter()
    return target if isinstance(target, Micro) else Micro()


# Leave out of a file what the interpreter for microcontrollers never reads.


def _drop_unused(model: schema.ModelT) -> None:
    """Leave out names, signatures, metadata, files behind the flatbuffer and known scales of biases.

    Inputs and outputs keep their names, those of the signature if there is one. A bias has the scale of its input
    times that of its weight, and the interpreter takes it from these for each channel.
    """
    _name_ends(model)
    ends = {index for kind in ("inputs", "outputs") for index in indices_of(getattr(model.subgraphs[0], kind))}
    for number, graph in enumerate(model.subgraphs):
        graph.name = b"" if number == 0 else graph.name
        for index, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name if number == 0 and index in ends else None
            tensor.shapeSignature = None
            tensor.quantization = _quantization(tensor)
            data = model.buffers[tensor.buffer].data
            if not tensor.isVariable and (data is None or not len(data)):
                tensor.buffer = 0  # the empty one
    model.signatureDefs = model.metadata = model.metadataBuffer = model.description = None
    model.archive = b""
    put_in_order(model)
    for name in ("metadata", "signatureDefs"):
        setattr(model, name, getattr(model, name) or None)


def _name_ends(model: schema.ModelT) -> None:
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                model.subgraphs[0].tensors[entry.tensorIndex].name = entry.name
            return


def _quantization(tensor: schema.TensorT) -> schema.QuantizationParametersT | None:
    quantization = copy.copy(tensor.quantization)
    if quantization is None or (tensor.type == schema.TensorType.INT32 and np.size(quantization.scale) > 1):
        return None
    if quantization.scale is None or not np.size(quantization.scale):
        return None
    quantization.min = quantization.max = None
    points = quantization.zeroPoint
    if np.size(points) > 1 and (points == points[0]).all():  # one stands for all channels, of 8 bytes each
        quantization.zeroPoint = points[:1]
    return quantization


# The files of one model for microcontrollers: from dense ones to those that unpack every layer, in few parts.

_MAX_PARTS = 100  # parts of a layer
_LAYER_OVERHEAD_BYTES, _PART_OVERHEAD_BYTES = (
    130,
    360,
)  # bytes of the file that an unpacked layer takes besides, and each further part, about
_GAINLESS = "the file would not be smaller"
_TIGHT = "unpacked it would not fit into the arena"

_Plan = tuple[int, ...]  # for each layer: in how many parts it is unpacked, 0 for not at all


@dataclass(frozen=True)
class _MicroCandidate:
    """A way to write the file, and how each layer is stored."""

    file: ModelFile
    rows: tuple[MicroLayer, ...]


class _Candidates:
    """Writes a model in several ways.

    Args:
        dense: The file, with every weight as it is.

    Attributes:
        layers: The number of layers with weights.
        caps: The bytes that are live at once, at most: in the dense file, and where every layer is unpacked whole.

    Raises:
        ValueError: If the file names its operators by number.
    """

    layers: int
    caps: tuple[int, int]

    def __init__(self, dense: ModelFile) -> None:
        self._model = dense.objects()
        if numbers_operators(self._model):
            raise ValueError(
                "Expected a file whose operators can change. Received: one whose metadata name them by number. "
                "Convert the model again."
            )
        with fitting(dense):
            save_memory(self._model)
            self._layers = layers_of(self._model)
            least = largest_live(self._model)
        self._dense, self.layers = dense, len(self._layers)
        self.caps = (least, max([least, *(layer.peak(1) for layer in self._layers if not layer.reason)]))
        self._bytes = [0 if layer.reason else encode_smallest(layer.values).bytes for layer in self._layers]

    def plan(self, cap: int, least: int) -> _Plan:
        """Choose the layers that are unpacked, each in as few parts as possible.

        Args:
            cap: Bytes that may be live at once.
            least: Bytes of the file that a layer has to save.
        """
        pairs = [*zip(self._layers, self._bytes, strict=True)]
        pieces = [_pieces(layer, size, cap=cap, least=least) for layer, size in pairs]
        # A weight that one layer reads as it is stays in the file, and the others may do so, too.
        whole = {layer.buffer for layer, count in zip(self._layers, pieces, strict=True) if not count}
        return tuple(0 if layer.buffer in whole else count for layer, count in zip(self._layers, pieces, strict=True))

    def write(self, plan: _Plan) -> _MicroCandidate:
        """Write the file that a plan describes."""
        model = _copy(self._model)
        with fitting(self._dense):
            layers, unpacker = layers_of(model), Unpacker(model)
            rows = tuple(_row(unpacker, layer, count) for layer, count in zip(layers, plan, strict=True))
            _drop_unused(model)
        return _MicroCandidate(ModelFile(save_objects(model)), rows)


def _spread(least: int, most: int, *, count: int) -> Sequence[int]:
    """Return so many whole numbers from one to another whose ratios are alike."""
    ratio = (max(1, most) / max(1, least)) ** (1 / (count - 1))
    return sorted({round(least * ratio**step) for step in range(count - 1)} | {most})


def _pieces(layer: Layer, size: int, *, cap: int, least: int) -> int:
    for pieces in range(1, min(layer.pieces, _MAX_PARTS) + 1):
        gain = layer.values.nbytes - size - _LAYER_OVERHEAD_BYTES - _PART_OVERHEAD_BYTES * (pieces - 1)
        if layer.reason or gain <= least:
            return 0
        if layer.peak(pieces) <= cap:
            return pieces
    return 0


def _row(unpacker: Unpacker, layer: Layer, pieces: int) -> MicroLayer:
    parts = unpacker.unpack(layer, pieces) if pieces else []
    size = layer.values.nbytes
    tight = size - encode_smallest(layer.values).bytes > _LAYER_OVERHEAD_BYTES
    return MicroLayer(
        name=layer.name,
        operator=layer.kind,
        shape=layer.values.shape,
        stored="+".join(sorted({part.kind for part in parts})) or "dense",
        slices=pieces,
        dense_bytes=size,
        bytes=sum(part.bytes for part in parts) if parts else size,
        buffer=layer.slice_bytes(pieces) if pieces else 0,
        reason="" if pieces else layer.reason or (_TIGHT if tight else _GAINLESS),
    )


def _copy(model: schema.ModelT) -> schema.ModelT:
    """Copy what is changed in a model, and share the values."""
    copied = copy.copy(model)
    copied.buffers, copied.operatorCodes = [*model.buffers], [*map(copy.copy, model.operatorCodes)]
    copied.subgraphs = [*map(copy.copy, model.subgraphs)]
    for graph in copied.subgraphs:
        graph.tensors = [*map(copy.copy, graph.tensors)]
        graph.operators = [*map(copy.copy, graph.operators or ())]
    return copied


# Find the file of a model that keeps to budgets of flash and RAM, and prove in the interpreter that it is right.

_ARENA_SIZES_TRIED = 8  # amounts of RAM that are tried, from the dense file's to what unpacks every layer whole
_MIN_SAVINGS_TRIED = (0, 1024, 8192)  # bytes of flash that a layer has to save
_BISECTION_ROUNDS = 5  # of halving the distance between files that keep to a budget and those that do not


@dataclass(frozen=True)
class _FittedFile:
    """A file for microcontrollers.

    Attributes:
        file: The file.
        report: What it takes, and how it was checked.
        run: How it ran on the samples.
    """

    file: ModelFile
    report: MicroReport
    run: MicroRun


@dataclass(frozen=True)
class _Measured:
    """A candidate that ran: the room it was made for, and what it takes."""

    cap: int
    least: int
    candidate: _MicroCandidate
    arena: int

    @property
    def flash(self) -> int:
        return len(self.candidate.file.content)


def _check_runnable(model: Model) -> None:
    """Refuse files that no interpreter for microcontrollers runs, before any is started.

    Raises:
        ValueError: If operators are missing there, or a shape other than the batch is open.
    """
    lacking = missing(model.ops)
    if lacking:
        raise ValueError(
            f"Expected operators that the interpreter for microcontrollers has. Received: {', '.join(lacking)}. "
            "Replace the layers or functions that need them: tfprune.export.micro_support tells before training."
        )
    for info in model.inputs:
        if None in info.shape[1:]:
            raise ValueError(
                "Expected inputs of fixed shapes: a microcontroller lays out its memory once. Received: "
                f"{info.name!r} of shape {info.shape}. Build the model with the lengths in `keras.Input(shape)`."
            )


def fit_budgets(dense: ModelFile, inputs: Sequence[np.ndarray], *, micro: Micro) -> _FittedFile:
    """Write a model for microcontrollers: pruned weights without their zeros, unpacked where the arena has room.

    Args:
        dense: A file with a batch of 1.
        inputs: Samples for each input, on which the outputs of both files have to be equal.
        micro: What it may take.

    Returns:
        The file, and what it takes.

    Raises:
        OverBudgetError: If no file keeps to the budgets.
        ValueError: If the interpreter does not run the file; or (also an ImportError) if tflite-micro is not
            installed.
    """
    require_interpreter()
    _check_runnable(dense.graph)
    candidates = _Candidates(dense)
    # A file with an open batch may run only once its shapes are written into it.
    files = [dense, candidates.write((0,) * candidates.layers).file]
    runs = run_files(files, inputs)
    before = next(((file, run) for file, run in zip(files, runs, strict=True) if not run.reason), None)
    if before is None:
        raise ValueError(
            "Expected a file that the interpreter for microcontrollers runs. Received: one that does not: "
            f"{runs[-1].reason}. Nothing was written."
        )
    measured = _Search(candidates, inputs).run(micro)
    best = _best(measured, micro)
    (run,) = run_files([best.candidate.file], inputs)
    if run.reason or not run.equals(before[1]):
        raise ValueError(
            "Expected a file that gives the dense file's outputs bit for bit on microcontrollers. Received: "
            f"{run.reason or 'others'}. Nothing was written. Please report this model."
        )
    report = MicroReport(
        flash=best.flash,
        dense_flash=len(dense.content),
        arena=best.arena,
        dense_arena=_arena(*before),
        decode_buffer=max((row.buffer for row in best.candidate.rows), default=0),
        samples=len(run.raw[0]) if run.raw and run.raw[0].ndim else 1,
        rows=best.candidate.rows,
        curve=_curve(measured),
        registrations=tuple(registrations(best.candidate.file.graph.ops)),
        boards=fits(best.flash, best.arena),
        on_chip=chip_arena(best.candidate.file, run),
    )
    return _FittedFile(best.candidate.file, report, run)


def _arena(file: ModelFile, run: MicroRun) -> int:
    """Return the arena of a file as a chip has it, or as it is here if that cannot be measured."""
    chip = chip_arena(file, run)
    return run.arena if chip is None else chip.total


class _Search:
    """Writes and measures files for more and more amounts of RAM."""

    def __init__(self, candidates: _Candidates, inputs: Sequence[np.ndarray]) -> None:
        self._candidates, self._inputs = candidates, [array[:1] if array.ndim else array for array in inputs]
        self._runs: dict[_Plan, tuple[_MicroCandidate, int | None]] = {}  # the arena; None if it does not run

    def run(self, micro: Micro) -> list[_Measured]:
        """Return files that run; with a budget, more of them near it."""
        caps = [0, *_spread(*self._candidates.caps, count=_ARENA_SIZES_TRIED)]  # with 0 every layer stays dense
        measured = self._measure([(cap, least) for cap in caps for least in _MIN_SAVINGS_TRIED])
        for _ in range(_BISECTION_ROUNDS if micro.arena or micro.flash else 0):
            points = [point for least in _MIN_SAVINGS_TRIED for point in _between(measured, least, micro)]
            measured += self._measure(points)
        return measured

    def _measure(self, points: Sequence[tuple[int, int]]) -> list[_Measured]:
        plans = {point: self._candidates.plan(*point) for point in points}
        fresh = [plan for plan in dict.fromkeys(plans.values()) if plan not in self._runs]
        written = [self._candidates.write(plan) for plan in fresh]
        runs = run_files([candidate.file for candidate in written], self._inputs) if written else []
        for plan, candidate, run in zip(fresh, written, runs, strict=True):
            self._runs[plan] = candidate, None if run.reason else _arena(candidate.file, run)
        results = [(point, *self._runs[plan]) for point, plan in plans.items()]
        return [_Measured(*point, candidate, arena) for point, candidate, arena in results if arena is not None]


def _between(measured: Sequence[_Measured], least: int, micro: Micro) -> list[tuple[int, int]]:
    """Return the point in the middle between the last file that keeps to the budget and the first that does not."""
    alike = sorted((file for file in measured if file.least == least), key=lambda file: file.cap)
    for smaller, larger in zip(alike, alike[1:], strict=False):
        if micro.arena:
            is_crossed = smaller.arena <= micro.arena < larger.arena
        else:
            is_crossed = larger.flash <= (micro.flash or 0) < smaller.flash
        if is_crossed and larger.cap - smaller.cap > 1:
            return [((smaller.cap + larger.cap) // 2, least)]
    return []


def _best(measured: Sequence[_Measured], micro: Micro) -> _Measured:
    arena, flash = micro.arena, micro.flash
    fitting = [
        file for file in measured if file.arena <= (arena or file.arena) and file.flash <= (flash or file.flash)
    ]
    if not measured:
        raise ValueError("Expected a file that the interpreter for microcontrollers runs. Received: none that does.")
    if not fitting:
        raise OverBudgetError(_refusal(measured, micro))
    if arena:
        return min(fitting, key=lambda file: (file.flash, file.arena))
    if flash:
        return min(fitting, key=lambda file: (file.arena, file.flash))
    return min(fitting, key=lambda file: (file.flash + file.arena, file.flash))


def _refusal(measured: Sequence[_Measured], micro: Micro) -> str:
    arena, flash = micro.arena, micro.flash
    limits = [f"{name}={value:,}" for name, value in (("arena", arena), ("flash", flash)) if value]
    nearest = min(
        measured, key=lambda file: max(file.arena / (arena or file.arena), file.flash / (flash or file.flash))
    )
    smallest = min(measured, key=lambda file: file.arena)
    return (
        f"Expected a file for {' and '.join(limits)} bytes. Received: at best {nearest.arena:,} bytes of arena with "
        f"{nearest.flash:,} of flash; the smallest arena is {smallest.arena:,} with {smallest.flash:,} of flash. "
        "Nothing was written. Allow so much, prune more, or remove channels (tfprune.plan_shrink)."
    )


def _curve(measured: Sequence[_Measured]) -> tuple[tuple[int, int], ...]:
    points: list[tuple[int, int]] = []
    for flash, arena in sorted({(file.flash, file.arena) for file in measured}):
        if not points or arena < points[-1][1]:
            points.append((flash, arena))
    return tuple(points)
