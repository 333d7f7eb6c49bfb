"""Report of a file for microcontrollers: what it takes there, and how each layer is stored."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.file.report import shape_text
from tfprune.export.micro.boards import BoardFit
from tfprune.report import Report, shortened, table

NAME_WIDTH = 32  # characters of a name in a table
CHOICES = "bytes of the files to choose from: less flash needs a larger arena"


@dataclass(frozen=True)
class MicroLayer(Report):
    """A layer with a weight, and how the file holds it.

    Attributes:
        name: The name of the weight.
        operator: The operator that reads it.
        shape: Its shape.
        stored: `dense`, `pruned`, `table`, or both of these joined by `+`.
        slices: The number of parts in which it is unpacked, one after the other; 0 if it is dense.
        dense_bytes: The bytes that it takes densely.
        bytes: The bytes that it takes now.
        buffer: The bytes of the arena into which it is unpacked.
        reason: Why it is dense; empty if it is not.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    stored: str
    slices: int
    dense_bytes: int
    bytes: int
    buffer: int
    reason: str = ""


@dataclass(frozen=True)
class MicroReport(Report):
    """What a file takes on a microcontroller, as the interpreter counts it.

    Attributes:
        flash: The bytes of the file.
        dense_flash: Those of the dense file that it was made from.
        arena: The bytes of RAM in which it runs.
        dense_arena: Those of the dense file.
        decode_buffer: The bytes of the largest weight, or part of one, that is unpacked there.
        samples: The number of samples on which its outputs equal the dense file's, bit for bit.
        rows: The layers with weights.
        curve: What other files of the same model take: pairs of flash and arena, none of which is worse in both.
        registrations: The functions of the resolver that a program calls.
        boards: Whether it fits on common boards.

    Example:
        >>> report = tfprune.export.rewrite("digits.tflite", "micro.tflite", target="micro", check_on=images)
        >>> report.micro.flash < 0.3 * report.micro.dense_flash
        True
    """

    flash: int
    dense_flash: int
    arena: int
    dense_arena: int
    decode_buffer: int
    samples: int
    rows: tuple[MicroLayer, ...]
    curve: tuple[tuple[int, int], ...]
    registrations: tuple[str, ...]
    boards: tuple[BoardFit, ...]

    def __str__(self) -> str:
        rows = [
            ["arena", f"{self.arena:,} bytes", f"{self.dense_arena:,}", f"{self.arena / self.dense_arena:.2f}"],
            ["largest unpacked part", f"{self.decode_buffer:,} bytes", "", ""],
            ["outputs", f"equal the dense file's on {self.samples:,} samples, bit for bit", "", ""],
        ]
        head = ["flash", f"{self.flash:,} bytes", f"{self.dense_flash:,}", f"{self.flash / self.dense_flash:.2f}"]
        parts = [table(["on the device", "this file", "dense", "ratio"], [head, *rows], left=2), self._layers()]
        points = [[f"{flash:,}", f"{arena:,}"] for flash, arena in self.curve]
        parts += [f"{CHOICES}\n\n{table(['flash', 'arena'], points, left=0)}", board_text(self.boards)]
        return "\n\n".join([*parts, f"to register: {', '.join(self.registrations)}"])

    def _layers(self) -> str:
        lines = [
            [shortened(row.name, NAME_WIDTH), row.operator, shape_text(row.shape), row.stored, row.slices or ""]
            + [f"{row.dense_bytes:,}", f"{row.bytes:,}", f"{row.buffer:,}", row.reason]
            for row in self.rows
        ]
        return table(
            ["weight", "operator", "shape", "stored", "parts", "bytes if dense", "bytes", "RAM", "why dense"],
            lines,
            left=4,
        )


def board_text(boards: tuple[BoardFit, ...]) -> str:
    """Say on which boards a file fits, and what is missing on the others."""
    if len(boards) == 1:
        return f"{boards[0].title}: {boards[0]}"
    fitting = [fit.board for fit in boards if fit.fits]
    lacking = [f"{fit.board} {fit}" for fit in boards if not fit.fits]
    return "\n".join([f"fits on: {', '.join(fitting) or 'none of the boards'}", *lacking])
