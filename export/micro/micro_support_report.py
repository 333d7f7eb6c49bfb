"""Report of whether a microcontroller runs a file: operators, flash, RAM, and boards on which it fits."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.device.running.inputs import random_inputs
from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import yes_or_no
from tfprune.export.micro.boards import BoardFit, find_board, fits
from tfprune.export.micro.interpreter import require_interpreter, run_files
from tfprune.export.micro.micro_report import board_text
from tfprune.export.micro.operators import KNOWN_OPERATORS, missing, registrations
from tfprune.report import Report, table


@dataclass(frozen=True)
class MicroSupportReport(Report):
    """Whether the interpreter for microcontrollers runs a file, and what it takes there.

    Attributes:
        runs: Whether it runs.
        reason: Why it does not; empty if it does.
        missing: The operators that the interpreter lacks.
        ops: The number of times that each operator occurs.
        registrations: The functions of the resolver that a program calls for those that it has.
        flash: The bytes of the file.
        arena: The bytes of RAM in which it runs; None if it does not.
        boards: Whether it fits on common boards, or on the one that was named; empty if it does not run.

    Example:
        >>> report = tfprune.export.micro_support("digits.tflite")
        >>> report.runs, report.missing
        (True, ())
    """

    runs: bool
    reason: str
    missing: tuple[str, ...]
    ops: dict[str, int]
    registrations: tuple[str, ...]
    flash: int
    arena: int | None
    boards: tuple[BoardFit, ...]

    @property
    def passed(self) -> bool:
        """Whether it runs, and fits on the board if one was named."""
        return self.runs and (len(self.boards) != 1 or self.boards[0].fits)

    def __str__(self) -> str:
        rows = [
            *([["because", self.reason]] if self.reason else []),
            ["flash", f"{self.flash:,} bytes"],
            ["arena", "-" if self.arena is None else f"{self.arena:,} bytes"],
            ["operators", ", ".join(f"{count} {name}" for name, count in self.ops.items())],
            ["to register", ", ".join(self.registrations)],
        ]
        text = table(["runs on microcontrollers", yes_or_no(self.runs)], rows, left=2)
        return f"{text}\n\n{board_text(self.boards)}" if self.boards else text


def support_of_file(source: Source, *, board: str | None = None) -> MicroSupportReport:
    """Say of a file what `micro_support` says; see there."""
    require_interpreter()
    if board is not None:
        find_board(board)
    file = ModelFile.open(source)
    model = file.graph
    lacking, reason, arena = missing(model.ops), "", None
    open_shapes = [info.name for info in model.inputs if None in info.shape[1:]]
    if lacking:
        reason = f"the interpreter has no {', '.join(lacking)}"
    elif open_shapes:
        reason = f"memory is laid out once, and the shape of {', '.join(open_shapes)} is open"
    else:
        (run,) = run_files([file], random_inputs(model.inputs, model.outputs, rows=1))
        reason, arena = run.reason, None if run.reason else run.arena
    return MicroSupportReport(
        runs=not reason,
        reason=reason,
        missing=tuple(lacking),
        ops=model.ops,
        registrations=tuple(registrations({*model.ops} & KNOWN_OPERATORS)),
        flash=len(file.content),
        arena=arena,
        boards=() if arena is None else fits(len(file.content), arena, board=board),
    )
