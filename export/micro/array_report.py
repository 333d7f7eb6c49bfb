"""Report of a file that was written as C++ source."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table


@dataclass(frozen=True)
class ArrayReport(Report):
    """What `c_array` wrote.

    Attributes:
        path: The source file.
        header: The header file beside it.
        name: The name of the array; the other names in the header begin with it.
        bytes: The bytes of the model.
        registrations: The functions of the resolver that the header calls.

    Example:
        >>> report = tfprune.export.c_array("digits.tflite", "digits.cc")
        >>> report.name, report.registrations
        ('digits', ('AddFullyConnected',))
    """

    path: str
    header: str
    name: str
    bytes: int
    registrations: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            ["header", self.header],
            ["array", f"{self.name}, {self.bytes:,} bytes"],
            ["registers", ", ".join(self.registrations)],
        ]
        return table(["written", self.path], rows, left=2)
