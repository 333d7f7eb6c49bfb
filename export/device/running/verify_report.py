"""Report of a check: whether a file gave the expected outputs."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.file.report import OPEN_BATCH, number_text, yes_or_no
from tfprune.report import Report, table


@dataclass(frozen=True)
class VerifyReport(Report):
    """Whether a file ran in a process of its own and gave the expected outputs.

    Attributes:
        passed: Whether it did.
        reason: Why it did not; empty if it passed.
        max_abs_diff: The largest difference in the output that differs most relative to its scale; None if nothing
            could be compared.
        scale: The largest expected magnitude in that output; None if nothing could be compared.
        tolerance: The difference that is allowed, relative to the scale, as given or by the format of the file; of no
            meaning where nothing was compared.
        runtime: The interpreter that ran the file, and its version; empty if none started.
        accuracy: The fraction of samples whose largest output is that of their class; None without labels.
        open_batch: The inputs of the first graph that take any number of samples at once; empty if the file did not
            run.

    Example:
        >>> report = tfprune.export.verify("digits.tflite", images, expected=model(images))
        >>> report.passed, report.reason
        (True, '')
    """

    passed: bool
    reason: str
    max_abs_diff: float | None
    scale: float | None
    tolerance: float
    runtime: str
    accuracy: float | None = None
    open_batch: tuple[str, ...] = ()

    def __str__(self) -> str:
        compared = [
            ["difference", number_text(self.max_abs_diff)],
            ["largest output", number_text(self.scale)],
            ["tolerance", f"{self.tolerance:g}"],
        ]
        if self.passed and self.max_abs_diff is None:
            compared = [["compared with", "nothing: it runs, and its outputs are finite"]]
        measured = [] if self.accuracy is None else [["accuracy", f"{self.accuracy:.2%}"]]
        rows = [*compared, *measured, ["runtime", self.runtime or "-"]]
        if self.open_batch:
            rows.append(["open batch", OPEN_BATCH])
        if self.reason:
            rows.insert(0, ["reason", self.reason])
        return table(["verified", yes_or_no(self.passed)], rows, left=2)
