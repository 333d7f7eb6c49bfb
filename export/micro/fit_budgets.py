"""Find the file of a model that keeps to budgets of flash and RAM, and prove in the interpreter that it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite.model import Model
from tfprune.export.micro.boards import fits
from tfprune.export.micro.candidates import Candidates, MicroCandidate, Plan, spread
from tfprune.export.micro.interpreter import MicroRun, require_interpreter, run_files
from tfprune.export.micro.micro import Micro, OverBudgetError
from tfprune.export.micro.micro_report import MicroReport
from tfprune.export.micro.operators import missing, registrations

ARENA_SIZES_TRIED = 8  # amounts of RAM that are tried, from the dense file's to what unpacks every layer whole
MIN_SAVINGS_TRIED = (0, 1024, 8192)  # bytes of flash that a layer has to save
BISECTION_ROUNDS = 5  # of halving the distance between files that keep to a budget and those that do not


@dataclass(frozen=True)
class FittedFile:
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
    candidate: MicroCandidate
    arena: int

    @property
    def flash(self) -> int:
        return len(self.candidate.file.content)


def check_runnable(model: Model) -> None:
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


def fit_budgets(dense: ModelFile, inputs: Sequence[np.ndarray], *, micro: Micro) -> FittedFile:
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
    check_runnable(dense.graph)
    candidates = Candidates(dense)
    # A file with an open batch may run only once its shapes are written into it.
    runs = run_files([dense, candidates.write((0,) * candidates.layers).file], inputs)
    before = next((run for run in runs if not run.reason), None)
    if before is None:
        raise ValueError(
            "Expected a file that the interpreter for microcontrollers runs. Received: one that does not: "
            f"{runs[-1].reason}. Nothing was written."
        )
    measured = _Search(candidates, inputs).run(micro)
    best = _best(measured, micro)
    (run,) = run_files([best.candidate.file], inputs)
    if run.reason or not run.equals(before):
        raise ValueError(
            "Expected a file that gives the dense file's outputs bit for bit on microcontrollers. Received: "
            f"{run.reason or 'others'}. Nothing was written. Please report this model."
        )
    report = MicroReport(
        flash=best.flash,
        dense_flash=len(dense.content),
        arena=run.arena,
        dense_arena=before.arena,
        decode_buffer=max((row.buffer for row in best.candidate.rows), default=0),
        samples=len(run.raw[0]) if run.raw and run.raw[0].ndim else 1,
        rows=best.candidate.rows,
        curve=_curve(measured),
        registrations=tuple(registrations(best.candidate.file.graph.ops)),
        boards=fits(best.flash, run.arena),
    )
    return FittedFile(best.candidate.file, report, run)


class _Search:
    """Writes and measures files for more and more amounts of RAM."""

    def __init__(self, candidates: Candidates, inputs: Sequence[np.ndarray]) -> None:
        self._candidates, self._inputs = candidates, [array[:1] if array.ndim else array for array in inputs]
        self._runs: dict[Plan, tuple[MicroCandidate, MicroRun]] = {}

    def run(self, micro: Micro) -> list[_Measured]:
        """Return files that run; with a budget, more of them near it."""
        caps = [0, *spread(*self._candidates.caps, count=ARENA_SIZES_TRIED)]  # with 0 every layer stays dense
        measured = self._measure([(cap, least) for cap in caps for least in MIN_SAVINGS_TRIED])
        for _ in range(BISECTION_ROUNDS if micro.arena or micro.flash else 0):
            points = [point for least in MIN_SAVINGS_TRIED for point in _between(measured, least, micro)]
            measured += self._measure(points)
        return measured

    def _measure(self, points: Sequence[tuple[int, int]]) -> list[_Measured]:
        plans = {point: self._candidates.plan(*point) for point in points}
        fresh = [plan for plan in dict.fromkeys(plans.values()) if plan not in self._runs]
        written = [self._candidates.write(plan) for plan in fresh]
        runs = run_files([candidate.file for candidate in written], self._inputs) if written else []
        self._runs.update(zip(fresh, zip(written, runs, strict=True), strict=True))
        results = [(point, *self._runs[plan]) for point, plan in plans.items()]
        return [_Measured(*point, candidate, run.arena) for point, candidate, run in results if not run.reason]


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
