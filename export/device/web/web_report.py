"""Report of a folder that runs files in a browser."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tfprune.report import Report, table


@dataclass(frozen=True)
class WebFile(Report):
    """A file in the folder.

    Attributes:
        name: Its name.
        bytes: Its size, which a browser downloads.
        runs: How many runs the page compares with those on this machine.
        tolerance: The difference allowed, relative to the largest output.
    """

    name: str
    bytes: int
    runs: int
    tolerance: float


@dataclass(frozen=True)
class WebReport(Report):
    """What `web` has written, and how to open it.

    Attributes:
        folder: The folder.
        files: A row for each file; the first is the reference of the speed.
        runtime: The interpreter that gave the expected outputs, and its version.
        browser_runtime: What runs the files in the browser; npm brings it.

    Example:
        >>> report = tfprune.export.web("digits_web.tflite", "page")
        >>> [(file.name, file.runs) for file in report.files]
        [('digits_web.tflite', 4)]
    """

    folder: str
    files: tuple[WebFile, ...]
    runtime: str
    browser_runtime: str

    def __str__(self) -> str:
        rows = [[row.name, f"{row.bytes:,}", row.runs, f"{row.tolerance:g}"] for row in self.files]
        steps = [
            f"Compared with {self.runtime}. To open the page, which runs {self.browser_runtime}:",
            f"cd {shlex.quote(self.folder)} && npm install && python3 -m http.server",
            "then open http://localhost:8000",
        ]
        return table(["model", "bytes", "runs", "tolerance"], rows) + "\n\n" + "\n".join(steps)
