"""Micro: a microcontroller as the target of a file, the file that fits its budgets, and a component for firmware."""

from __future__ import annotations

import copy
import importlib.resources
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import parse_json, reading, unfinished
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_count
from tfprune.export.device.runner import IOTensor, arrays_of, random_inputs
from tfprune.export.file import schema
from tfprune.export.file.container import Source, check_destination, source_name, write_together
from tfprune.export.file.document import indices_of, numbers_operators, save_objects
from tfprune.export.file.model_file import ModelFile, fitting
from tfprune.export.file.reader import Model
from tfprune.export.file.sparse_tensors import OPERATOR
from tfprune.export.micro.interpreter import (
    MicroRun,
    chip_arena,
    drop_unused,
    fits,
    largest_live,
    missing,
    registrations,
    require_interpreter,
    run_files,
    variables_of,
)
from tfprune.export.micro.memory import Layer, Unpacker, encode_smallest, layers_of, save_memory, split_rows
from tfprune.export.micro.reports import (
    ARDUINO,
    ESP_IDF,
    ESPHOME,
    ComponentReport,
    Firmware,
    MicroLayer,
    MicroReport,
    array_texts,
    byte_lines,
    cpp_name,
    find_firmware,
    fit_firmware,
    title_of,
)

# Micro: a microcontroller as the target of a file, with its budgets, and the arguments that fit it.


@dataclass(frozen=True)
class Micro:
    """A microcontroller as the target of a file, with the flash and RAM that the file may use there.

    Pass it as `target=` to `to_tflite`, `rewrite`, `compress` or `shrink_tflite`, which removes channels until the
    file keeps to `arena`. `"micro"` is short for `Micro()`, without budgets.

    Args:
        arena: The bytes of RAM that the file may use, at least 1: as the interpreter for microcontrollers counts them
            with pointers of 32 bits, or with those of 64 bits, which are more, where mcufit or Node is missing.
            Large layers are then computed in parts, and the smallest file within the budget is written. If no file
            keeps to it, layers on images run strip by strip, which takes up to 30 % more multiplications. None (the
            default) sets no budget.
        flash: The bytes that the file may have, at least 1. With `flash` alone the file that uses the least RAM is
            written; with neither, the file with the smallest sum of flash and RAM. None (the default) sets no budget.
        firmware: The firmware that is to run the file, whose operators it may use: `"esphome"`, `"esp-tflite-micro"`
            or `"arduino"`. None (the default) allows all operators of the interpreter.

    Raises:
        TypeError: If a budget is neither an integer nor None, or `firmware` neither a string nor None.
        ValueError: If a budget is less than 1, or there is no such firmware.

    Example:
        >>> Micro(arena=60_000)
        Micro(arena=60000, flash=None, firmware=None)
    """

    arena: int | None = None
    flash: int | None = None
    firmware: str | None = None

    def __post_init__(self) -> None:
        for name in ("arena", "flash"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, least=1)
        if self.firmware is not None:
            find_firmware(self.firmware)


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


# The files of one model for microcontrollers: from dense ones to those that unpack every layer, in few parts.

_MAX_PARTS = 100  # parts of a layer
_LAYER_OVERHEAD_BYTES, _PART_OVERHEAD_BYTES = (
    130,
    360,
)  # bytes of the file that an unpacked layer takes besides, and each further part, about
_CUT = "it runs strip by strip"
_GAINLESS = "the file would not be smaller"
_TIGHT = "unpacked it would not fit into the arena"

_Plan = tuple[int, ...]  # for each layer: in how many parts it is unpacked, 0 for not at all


@dataclass(frozen=True)
class _MicroCandidate:
    """A way to write the file, and how each layer is stored."""

    file: ModelFile
    rows: tuple[MicroLayer, ...]
    extra_work: float | None


class _Candidates:
    """Writes a model in several ways.

    Args:
        dense: The file, with every weight as it is.
        refusal: Why no weight is unpacked; empty if they may be.
        excess: The bytes of RAM that are too many, for which layers run strip by strip; 0 if they need not.

    Attributes:
        layers: The number of layers with weights.
        caps: The bytes that are live at once, at most: in the dense file, and where every layer is unpacked whole.
        extra_work: The multiplications that strips take more, as a fraction of all; None without strips.

    Raises:
        ValueError: If the file names its operators by number.
    """

    layers: int
    caps: tuple[int, int]
    extra_work: float | None

    def __init__(self, dense: ModelFile, *, refusal: str = "", excess: int = 0) -> None:
        self._model, self._refusal = dense.objects(), refusal
        if numbers_operators(self._model):
            raise ValueError(
                "Expected a file whose operators can change. Received: one whose metadata name them by number. "
                "Convert the model again."
            )
        with fitting(dense):
            save_memory(self._model)
            whole = Counter(layer.buffer for layer in layers_of(self._model))
            self.extra_work = split_rows(self._model, excess=excess) if excess else None
            self._cut = {*(Counter(layer.buffer for layer in layers_of(self._model)) - whole)}
            self._layers = self._layers_of(self._model)
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
        pieces = [0 if self._refusal else _pieces(layer, size, cap=cap, least=least) for layer, size in pairs]
        # A weight that one layer reads as it is stays in the file, and the others may do so, too.
        whole = {layer.buffer for layer, count in zip(self._layers, pieces, strict=True) if not count}
        return tuple(0 if layer.buffer in whole else count for layer, count in zip(self._layers, pieces, strict=True))

    def write(self, plan: _Plan) -> _MicroCandidate:
        """Write the file that a plan describes."""
        model = _copy(self._model)
        with fitting(self._dense):
            layers, unpacker = self._layers_of(model), Unpacker(model)
            pairs = zip(layers, plan, strict=True)
            rows = tuple(_row(unpacker, layer, count, refusal=self._refusal) for layer, count in pairs)
            drop_unused(model)
        return _MicroCandidate(ModelFile(save_objects(model)), rows, self.extra_work)

    def _layers_of(self, model: schema.ModelT) -> list[Layer]:
        """Return the layers; one that runs strip by strip stays dense, and counts once."""
        layers = layers_of(model)
        first = {layer.buffer: replace(layer, reason=layer.reason or _CUT) for layer in reversed(layers)}
        split = [first.pop(layer.buffer, None) if layer.buffer in self._cut else layer for layer in layers]
        return [layer for layer in split if layer is not None]


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


def _row(unpacker: Unpacker, layer: Layer, pieces: int, *, refusal: str) -> MicroLayer:
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
        reason="" if pieces else layer.reason or refusal or (_TIGHT if tight else _GAINLESS),
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
_STRIP_ROUNDS = 3  # of strips for fewer bytes than estimated, where more are measured
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
    refusal = ""
    if micro.firmware is not None:
        dense, refusal = _for_firmware(dense, find_firmware(micro.firmware))
    _check_runnable(dense.graph)
    candidates = _Candidates(dense, refusal=refusal)
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
    least = min((file.arena for file in measured), default=0)
    if least > (micro.arena or least):
        measured += _strip_by_strip(dense, refusal, inputs, micro=micro, least=least)
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
        extra_work=best.candidate.extra_work,
    )
    return _FittedFile(best.candidate.file, report, run)


def smallest_arena(dense: ModelFile, *, micro: Micro) -> int:
    """Return the bytes of RAM that a file needs on a microcontroller at least: with every weight as it is.

    Args:
        dense: A file with a batch of 1.
        micro: The firmware that runs it.

    Raises:
        ValueError: If the interpreter or the firmware does not run the file.
    """
    if micro.firmware is not None:
        dense, _ = _for_firmware(dense, find_firmware(micro.firmware))
    _check_runnable(dense.graph)
    candidates = _Candidates(dense)
    file = candidates.write((0,) * candidates.layers).file
    shapes = [[size or 1 for size in info.shape] for info in file.graph.inputs]
    zeros = [np.zeros(shape, info.dtype) for shape, info in zip(shapes, file.graph.inputs, strict=True)]
    (run,) = run_files([file], zeros)
    if run.reason:
        raise ValueError(f"Expected a file that the interpreter for microcontrollers runs. Received: {run.reason}.")
    return _arena(file, run)


def _strip_by_strip(
    dense: ModelFile, refusal: str, inputs: Sequence[np.ndarray], *, micro: Micro, least: int
) -> list[_Measured]:
    """Return files whose layers run strip by strip, if the least arena of the others is above the budget."""
    files: list[_Measured] = []
    excess = 0
    for _ in range(_STRIP_ROUNDS):
        excess += least - (micro.arena or least)
        candidates = _Candidates(dense, refusal=refusal, excess=excess)
        files += _Search(candidates, inputs).run(micro) if candidates.extra_work is not None else []
        smallest = min((file.arena for file in files), default=least)
        if not (micro.arena or least) < smallest < least:
            break
        least = smallest
    return files


def _for_firmware(file: ModelFile, firmware: Firmware) -> tuple[ModelFile, str]:
    """Return a file with the operators of a firmware, and why no weight of it can be unpacked there, if none can.

    Raises:
        ValueError: If the firmware lacks an operator, or does not run such a file.
    """
    fitted, fit = fit_firmware(file, firmware)
    if not fit.fits:
        raise ValueError(f"Expected a file that {fit.title} runs. Received: {fit.reason} Nothing was written.")
    return fitted, "" if OPERATOR in firmware.operators else "the firmware does not unpack weights"


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


# A file as firmware takes it: a wake word for ESPHome, a component for ESP-IDF, or a library for Arduino.

_RUNS, _RUNS_WITH_STATE = 4, 16  # runs on drawn numbers; those of a file with variables depend on each other
_MOST_RUNS = 256  # on samples: 2.5 seconds of a wake word
_MOST_GOLDEN_BYTES = 2**15  # of the inputs of a self test, which lie in flash
_FLOAT_TOLERANCE = 1e-4  # of the largest output: kernels of a chip's maker add floats in another order
_LEAST_OUTPUT = 1e-3  # smaller outputs have the tolerance of this one
_WRITABLE = "biuf"  # kinds of numbers that a self test holds
_ARENA_STEP = 16  # bytes
_MARGIN = 1.5  # for the scratch memory of Espressif's kernels: ESPHome's own files state 1.21 to 1.64 times as much
_MANIFEST_DEFAULTS = {"sliding_window_size": 5, "feature_step_size": 10, "minimum_esphome_version": "2024.7.0"}
_MANIFEST_EXAMPLE = (
    '{"wake_word": "Okay Nabu", "author": "...", "trained_languages": ["en"], "micro": {"probability_cutoff": 0.97}}'
)
_LATEST_STEP = 30  # milliseconds between two steps of features, at most
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same files give the same bytes


def _trimmed(model: schema.ModelT) -> bool:
    save_memory(model)
    drop_unused(model)
    return True


def component(
    source: Source,
    path: str | os.PathLike[str],
    *,
    check_on: Any = None,
    firmware: str,
    manifest: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> ComponentReport:
    """Write a .tflite file as firmware for microcontrollers takes it, with the code that registers its operators.

    Use it to bring a file into ESPHome, an ESP-IDF project or an Arduino sketch. For ESP-IDF and Arduino, a self test
    is written as well: it runs the model on inputs whose outputs are known, and gives `"PASS"` if it finds the same.
    Names and metadata that the interpreter does not read are left out. Operators that the firmware lacks are
    rewritten into others with the same outputs, bit for bit, where there are such.

    Args:
        source: A path, or the bytes of a .tflite file.
        path: The folder to write, or for Arduino the zip file. Its name becomes that of the component and its
            functions. A folder has to be new or empty, or have the files of an earlier call only.
        check_on: Samples for the self test, as `verify` takes inputs: the first 256, at most 32 kB. For a file with
            variables they are runs that follow each other. None (the default) draws random numbers. A classifier may
            give the same output for all of these: the report says how many different outputs there are.
        firmware: `"esphome"` for a wake word with its manifest, `"esp-tflite-micro"` for a component of ESP-IDF, or
            `"arduino"` for a library.
        manifest: For ESPHome: the manifest of the wake word, as a mapping or as the path of a JSON file, with
            `wake_word`, `author`, `trained_languages` and, in `micro`, `probability_cutoff`. The name of the file
            and the RAM are filled in. None (the default) for other firmware.

    Returns:
        A report of the files.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the file cannot be read or does not run, the firmware lacks one of its operators, or nothing
            can be written at the path; or (also an ImportError) if tflite-micro is not installed.

    Example:
        >>> report = component("digits.tflite", "digits.zip", firmware="arduino")
        >>> report.rewritten, report.runs
        ((), 4)
    """
    require_interpreter()
    wanted = find_firmware(firmware)
    target, name = _component_path(path, wanted)
    fields = _manifest_fields(manifest, wanted)
    file = ModelFile.open(source)
    fitted, fit = fit_firmware(file, wanted)
    if not fit.fits:
        raise ValueError(f"Expected a file that {fit.title} runs. Received: {source_name(source)}: {fit.reason}")
    _check_runnable(fitted.graph)  # before open shapes are written into the file
    fitted = fitted.after(_trimmed)
    golden = _Golden.of(file, fitted, check_on)
    parts = _Parts(fitted.checked(), name, title_of(source), golden)
    arena, defaults = golden.arena, dict[str, Any]()
    if wanted.name == ESPHOME:
        arena = _ARENA_STEP * math.ceil(_MARGIN * golden.on_chip / _ARENA_STEP)
        content, defaults = _manifest_text(fields, name=name, arena=arena)
        files = {f"{name}.json": content, f"{name}.tflite": fitted.content}
    elif wanted.name == ESP_IDF:
        files = parts.idf_files(wanted)
    else:
        files = parts.arduino_files(wanted)
    if wanted.name == ARDUINO:
        write_together({target: _zipped({f"{name}/{inner}": files[inner] for inner in files})})
    else:
        _write_folder(target, files)
    return ComponentReport(
        path=str(target),
        firmware=fit.title,
        files=tuple(f"{name}/{inner}" for inner in files),
        bytes=len(fitted.content),
        arena=arena,
        runs=0 if wanted.name == ESPHOME else golden.runs,
        different=0 if wanted.name == ESPHOME else golden.different,
        rewritten=fit.rewritten,
        registrations=tuple(registrations(fitted.graph.ops)),
        defaults=defaults,
    )


def _component_path(path: str | os.PathLike[str], firmware: Firmware) -> tuple[Path, str]:
    """Return where a component is written, and its name, before any work is done for it."""
    is_zip = firmware.name == ARDUINO
    target = check_destination(path) if is_zip else _check_folder(path)
    name = cpp_name(target.stem if is_zip else target.resolve().name)
    if name is None or is_zip != (target.suffix == ".zip"):
        kind = "a path that ends in .zip" if is_zip else "a folder, whose name has no .zip"
        raise ValueError(
            f"Expected {kind}, with a name that begins with a letter and is not a word of C++, for the firmware "
            f"{firmware.name!r}. Received: {str(target)!r}. Call it model{'.zip' if is_zip else ''}, for example."
        )
    return target, name


def _check_folder(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"Expected the path of the folder to write. Received: an object of type {type(path).__name__}."
        )
    target = Path(path)
    check_destination(target.absolute() / "file" if target.is_dir() else target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"Cannot write the folder {str(target)!r}: it is a file. Choose another name.")
    return target


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder whole or not at all, in place of one with the same files.

    Raises:
        ValueError: If there are other files, or it cannot be written.
    """
    real = Path(os.path.realpath(target))
    others = [inner for inner in real.rglob("*") if inner.is_file()] if real.is_dir() else []
    foreign = [inner.relative_to(real).as_posix() for inner in others]
    foreign = [inner for inner in foreign if inner not in files]
    if foreign:
        raise ValueError(
            f"Expected a new or empty folder, or one with the files of an earlier call. Received: {str(target)!r}, "
            f"with {foreign[0]!r}. Choose another folder."
        )
    try:
        with unfinished(real) as staged:
            for name, content in files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_bytes(content)
            with unfinished(real) as old:
                if real.is_dir():
                    real.rename(old)
                staged.rename(real)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(target)!r}: {error.strerror}. Choose another folder or free some space."
        ) from error


def _zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


# The manifest of a wake word for ESPHome.


def _manifest_fields(manifest: Any, firmware: Firmware) -> dict[str, Any]:
    """Return a manifest that has all that only its author knows; empty for other firmware than ESPHome."""
    if firmware.name != ESPHOME:
        if manifest is not None:
            raise ArgumentError("manifest", "no `manifest` without firmware='esphome'", "one", advice="Leave it out.")
        return {}
    if manifest is not None and not isinstance(manifest, str | os.PathLike | Mapping):
        raise ArgumentTypeError(
            "manifest", "`manifest` to be a mapping or a path", f"an object of type {type(manifest).__name__}"
        )
    if isinstance(manifest, str | os.PathLike):
        with reading(manifest, expected="a manifest of a wake word, as JSON", advice=f"Write {_MANIFEST_EXAMPLE}"):
            manifest = parse_json(Path(manifest).read_bytes())
    given = dict(manifest) if isinstance(manifest, Mapping) else {}
    micro = given.get("micro")
    given["micro"] = dict(micro) if isinstance(micro, Mapping) else {}
    faults = [name for name, is_right in _manifest_checks(given).items() if not is_right]
    if faults:
        received = "none" if manifest is None else f"one without, or with a wrong, {', '.join(faults)}"
        raise ArgumentError(
            "manifest", "a `manifest` of version 2 for ESPHome", received, advice=f"Give {_MANIFEST_EXAMPLE}."
        )
    return given


def _manifest_checks(given: Mapping[str, Any]) -> dict[str, bool]:
    """Return by field whether it is as ESPHome takes it."""
    micro = {**_MANIFEST_DEFAULTS, **given["micro"]}
    languages, cutoff = given.get("trained_languages"), micro.get("probability_cutoff")
    window, step = micro["sliding_window_size"], micro["feature_step_size"]
    are_texts = isinstance(languages, list | tuple) and all(isinstance(each, str) for each in languages)
    is_number = isinstance(cutoff, int | float) and not isinstance(cutoff, bool)
    are_counts = {type(window), type(step)} == {int}
    return {
        "type": given.get("type", "micro") == "micro",
        "version": given.get("version", 2) == 2,
        "wake_word": isinstance(given.get("wake_word"), str) and bool(given["wake_word"]),
        "author": isinstance(given.get("author"), str),
        "trained_languages": bool(are_texts and languages),
        "micro.probability_cutoff": is_number and 0 <= float(cutoff or 0) <= 1,
        "micro.sliding_window_size": are_counts and window >= 1,
        "micro.feature_step_size": are_counts and 0 <= step <= _LATEST_STEP,
        "micro.minimum_esphome_version": isinstance(micro["minimum_esphome_version"], str),
    }


def _manifest_text(fields: Mapping[str, Any], *, name: str, arena: int) -> tuple[bytes, dict[str, Any]]:
    """Return the manifest of a wake word, and what of it was not given."""
    defaults = {key: value for key, value in _MANIFEST_DEFAULTS.items() if key not in fields["micro"]}
    micro = {**fields["micro"], **defaults, "tensor_arena_size": arena}
    written = {**fields, "type": "micro", "version": 2, "model": f"{name}.tflite", "micro": micro}
    return (json.dumps(written, indent=2, ensure_ascii=False) + "\n").encode(), defaults


# The inputs and outputs of a self test, and its source.


@dataclass(frozen=True)
class _Golden:
    """What a self test feeds and expects.

    Attributes:
        runs: How often the model runs.
        variables: The number of its variables.
        arena: The bytes of RAM in which it runs here.
        on_chip: The same on a chip, if that can be measured.
        inputs: The raw inputs, an array with a row for each run.
        outputs: The same of the outputs.
    """

    runs: int
    variables: int
    arena: int
    on_chip: int
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]

    @property
    def different(self) -> int:
        """How many different outputs the runs give."""
        return len({*(b"".join(array[run].tobytes() for array in self.outputs) for run in range(self.runs))})

    @classmethod
    def of(cls, file: ModelFile, fitted: ModelFile, samples: Any) -> _Golden:
        """Run the file as it is written, and compare it with the file that it was made from.

        Raises:
            ValueError: If one of them does not run, their outputs differ, or there are no numbers to compare.
        """
        with fitting(fitted):
            ends, variables = _ends(fitted), variables_of(fitted)
        most = max(1, _MOST_GOLDEN_BYTES // max(1, sum(_bytes(end) for end in ends)))
        drawn = _RUNS_WITH_STATE if variables else _RUNS
        rows = min(most, drawn if samples is None else _MOST_RUNS)
        arrays = [end.encode(array) for end, array in zip(ends, _samples(fitted, ends, samples, rows), strict=True)]
        real = [end.decode(array) for end, array in zip(ends, arrays, strict=True)]
        runs = run_files([fitted] if fitted is file else [fitted, file], real)
        if runs[0].reason:
            raise ValueError(
                "Expected a file that the interpreter for microcontrollers runs. Received: one that does not: "
                f"{runs[0].reason}. Nothing was written."
            )
        if not runs[-1].reason and not _mean_the_same(runs[0], runs[-1]):
            raise ValueError(
                "Expected a file whose operators can be rewritten with the same outputs. Received: other outputs. "
                "Nothing was written. Please report this model."
            )
        is_one = any(array.shape == end.info.shape for end, array in zip(ends, arrays, strict=True))
        count = 1 if is_one else len(arrays[0])
        outputs = [array.reshape(count, -1) for array in runs[0].raw]
        if any(array.dtype.kind not in _WRITABLE for array in outputs) or not any(array.size for array in outputs):
            raise ValueError(
                "Expected outputs that are numbers. Received: others. Choose another part of the network."
            )
        inputs = [array.reshape(count, -1) for array in arrays]
        return cls(count, variables, runs[0].arena, _arena(fitted, runs[0]), inputs, outputs)


def _mean_the_same(one: MicroRun, other: MicroRun) -> bool:
    """Return True if outputs are the same, bit for bit; those of another type, as the real numbers that they mean."""
    if [array.dtype for array in one.raw] == [array.dtype for array in other.raw]:
        return one.equals(other)
    return all(np.array_equal(a, b) for a, b in zip(one.outputs, other.outputs, strict=True))


def _ends(file: ModelFile) -> list[IOTensor]:
    """Return the inputs of a file in the order of its graph."""
    model = file.objects()
    ends = []
    for index in indices_of(model.subgraphs[0].inputs):
        known = file.graph.subgraphs[0].tensors[index]
        quantization = model.subgraphs[0].tensors[index].quantization
        parts = {
            "scales": getattr(quantization, "scale", None),
            "zero_points": getattr(quantization, "zeroPoint", None),
        }
        detail = {
            "dtype": known.dtype,
            "index": index,
            "shape": known.shape,
            "quantization_parameters": {key: () if value is None else value for key, value in parts.items()},
        }
        ends.append(IOTensor.of(known.name, detail))
    return ends


def _bytes(end: IOTensor) -> int:
    return math.prod(length or 1 for length in end.info.shape) * end.dtype.itemsize


def _samples(file: ModelFile, ends: Sequence[IOTensor], samples: Any, rows: int) -> list[np.ndarray]:
    """Return the first samples, or numbers that reach all integers of a quantized input."""
    if samples is not None:
        places = [file.graph.input_tensors.index(end.index) for end in ends]
        arrays = arrays_of(samples, names=[info.name for info in file.graph.inputs])
        for end, place in zip(ends, places, strict=True):
            if arrays[place].shape != end.info.shape and not (end.batch == 1 and end.takes(arrays[place])):
                expected = f"samples of shape {end.info.shape} for the input {end.info.name!r}"
                raise ArgumentError("check_on", expected, f"an array of shape {arrays[place].shape}")
        return [arrays[place][:rows] if arrays[place].ndim else arrays[place] for place in places]
    infos = [end.info for end in ends]
    drawn = random_inputs(infos, file.graph.outputs, rows=1)
    if all(array.ndim and len(array) == 1 for array in drawn):
        drawn = [np.concatenate([array] * rows) for array in drawn]
    generator = np.random.default_rng(0)
    for place, end in enumerate(ends):
        shape = drawn[place].shape
        if end.scale:
            limits = np.iinfo(end.dtype)
            drawn[place] = end.decode(generator.integers(limits.min, limits.max, shape, end.dtype, endpoint=True))
        elif end.dtype.kind == "f":
            drawn[place] = generator.uniform(-1, 1, shape).astype(np.float32)
    return drawn


_TEMPLATES = "templates"  # a folder beside this module; words between @ are replaced


def _filled(template: str, words: Mapping[str, object]) -> str:
    """Return a template with the words that it names."""
    text = (importlib.resources.files(__package__) / _TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda match: str(words[match[1]]), text)


@dataclass(frozen=True)
class _Parts:
    """The source of a component.

    Attributes:
        file: The model.
        name: The name of the component, and of all in it.
        title: What comments call the model.
        golden: The numbers of the self test.
    """

    file: ModelFile
    name: str
    title: str
    golden: _Golden

    def idf_files(self, firmware: Firmware) -> dict[str, bytes]:
        """Return the files of a component for ESP-IDF, with a project that runs its self test."""
        project = "examples/self_test"
        templates = {
            "CMakeLists.txt": "component.cmake",
            "idf_component.yml": "component.yml",
            f"{project}/CMakeLists.txt": "project.cmake",
            f"{project}/main/CMakeLists.txt": "main.cmake",
            f"{project}/main/idf_component.yml": "main.yml",
            f"{project}/main/main.cc": "main.cc",
        }
        words = {"name": self.name, "version": firmware.version}
        texts = {path: _filled(template, words) for path, template in templates.items()}
        return _encoded({**texts, **self._sources(headers="include/", sources="", ending=".cc")})

    def arduino_files(self, firmware: Firmware) -> dict[str, bytes]:
        """Return the files of a library for Arduino, with a sketch that runs its self test."""
        words = {"name": self.name, "firmware": f"{firmware.title} {firmware.version}"}
        templates = {
            "library.properties": "library.properties",
            "examples/SelfTest/SelfTest.ino": "SelfTest.ino",
        }
        texts = {path: _filled(template, words) for path, template in templates.items()}
        return _encoded({**texts, **self._sources(headers="src/", sources="src/", ending=".cpp")})

    def _sources(self, *, headers: str, sources: str, ending: str) -> dict[str, str]:
        name, golden = self.name, self.golden
        header, code = array_texts(self.file, name, header=f"{name}.h", title=self.title, arena=golden.arena)
        guard = f"{name.upper()}_TEST_H_"
        return {
            f"{headers}{name}.h": header,
            f"{headers}{name}_test.h": _filled("self_test.h", {"name": name, "guard": guard, "runs": golden.runs}),
            f"{sources}{name}{ending}": code,
            f"{sources}{name}_test{ending}": self._test_code(),
        }

    def _test_code(self) -> str:
        golden = self.golden
        template = "interpreter_with_variables.cc" if golden.variables else "plain_interpreter.cc"
        words = {
            "name": self.name,
            "checksum": zlib.crc32(self.file.content),
            "runs": golden.runs,
            "inputs": len(golden.inputs),
            "outputs": len(golden.outputs),
            "input_bytes": ", ".join(str(array[0].nbytes) for array in golden.inputs),
            "output_bytes": ", ".join(str(array[0].nbytes) for array in golden.outputs),
            "tolerances": ", ".join(f"{_tolerance(array):.9e}f" for array in golden.outputs),
            "golden_inputs": byte_lines(_interleaved(golden.inputs)),
            "golden_outputs": byte_lines(_interleaved(golden.outputs)),
            "interpreter": _filled(template, {"variables": golden.variables}).rstrip(),
        }
        return _filled("self_test.cc", words)


def _encoded(texts: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode() for path, text in texts.items()}


def _tolerance(outputs: np.ndarray) -> float:
    """Return by how much floats may differ from those of the self test; 0 for integers."""
    if outputs.dtype.kind != "f":
        return 0.0
    return _FLOAT_TOLERANCE * max(_LEAST_OUTPUT, float(np.abs(outputs).max(initial=0)))


def _interleaved(arrays: Sequence[np.ndarray]) -> bytes:
    """Return the bytes of all arrays for the first run, then those for the second."""
    return b"".join(array[run].tobytes() for run in range(len(arrays[0])) for array in arrays)
