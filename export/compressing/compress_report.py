"""Report of a search: the files that no other file beats in both size and accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.compressing.trial import MeasuredFile
from tfprune.export.device.running.metrics import is_error
from tfprune.report import Report, table


@dataclass(frozen=True)
class CompressReport(Report):
    """The best files of `compress`, and all files that it measured.

    Attributes:
        folder: The folder of the files.
        metric: The name of the metric.
        max_drop: The most that a file may lose of it on the validation data.
        optimize: `"size"` or `"latency"`.
        target: The runtime of the files: None, or `"micro"` for a microcontroller.
        dense: The float32 file of the original model; for a microcontroller the int8 file.
        front: The files that no other file beats in both size (or latency) and the metric, smallest or fastest first.
        trials: The number of recipes that were tried.
        failed: The recipes without a file, each with the reason.
        tried: All files that were measured.
        seconds: The time of the search, in all calls.

    Example:
        >>> from tfprune.export.compressing.trial import MeasuredFile
        >>> dense = MeasuredFile(None, None, bytes=8000, packed_bytes=7000, score=0.9, drop=0.0)
        >>> int8 = MeasuredFile(None, "int8", bytes=2500, packed_bytes=1900, score=0.895, drop=0.005)
        >>> report = tfprune.export.CompressReport(
        ...     folder="searched", metric="accuracy", max_drop=0.01, optimize="size", target=None,
        ...     dense=dense, front=(int8, dense), trials=0, failed=(), tried=(dense, int8), seconds=9.0,
        ... )
        >>> report.best.bytes, report.baseline
        (2500, 0.9)
        >>> report.smaller
        '3.2 times smaller than the dense float32 file'
    """

    folder: str
    metric: str
    max_drop: float
    optimize: str
    target: str | None
    dense: MeasuredFile
    front: tuple[MeasuredFile, ...]
    trials: int
    failed: tuple[str, ...]
    tried: tuple[MeasuredFile, ...]
    seconds: float

    @property
    def best(self) -> MeasuredFile:
        """The smallest or fastest file."""
        return self.front[0]

    @property
    def baseline(self) -> float:
        """The metric of the original model, in float32."""
        return self.dense.score - self.dense.drop if is_error(self.metric) else self.dense.score + self.dense.drop

    @property
    def passed(self) -> bool:
        """Whether at least one recipe was tried."""
        return self.trials > 0

    @property
    def warning(self) -> str:
        """What the search lacked, in words; empty if at least one recipe was tried."""
        if self.passed:
            return ""
        return (
            f"No recipe was tried: the search was over after {self.seconds:.0f} s, in which it exported the original "
            f"model, measured it, and timed a training step. The files are those of the original model. Search again "
            f"with several times as many minutes and the same folder: it continues there."
        )

    @property
    def smaller(self) -> str:
        """How much smaller the best file is than that of the original model, in words."""
        dense = self.dense.quantize or "float32"
        return f"{self.dense.bytes / self.best.bytes:.1f} times smaller than the dense {dense} file"

    def __str__(self) -> str:
        has_test = any(file.test_score is not None for file in self.front)
        costs = ["arena"] if self.target == "micro" else ["packed", "ms"]
        header = ["file", "bytes", "of dense", *costs, self.metric, "drop", *(["test"] if has_test else [])]
        rows = [self._row(file, has_test) for file in self.front]
        words = (
            f"{len(self.front)} of {len(self.tried)} files that were measured. Recipes tried: {self.trials}, in "
            f"{self.seconds:.0f} s. The first is {self.smaller}.\nFiles, report.json and report.html: {self.folder}"
        )
        return "\n\n".join([*([self.warning] if self.warning else []), table(header, rows), words])

    def _row(self, file: MeasuredFile, has_test: bool) -> list[str]:
        row = [
            file.file,
            f"{file.bytes:,}",
            f"{file.bytes / self.dense.bytes:.1%}",
            *_costs(file),
            f"{file.score:.4f}",
            f"{file.drop:+.4f}",
        ]
        return [*row, f"{file.test_score:.4f}"] if has_test and file.test_score is not None else row


def _costs(file: MeasuredFile) -> list[str]:
    if file.arena_bytes is not None:
        return [f"{file.arena_bytes:,}"]
    return [f"{file.packed_bytes:,}", "-" if file.latency_ms is None else f"{file.latency_ms:.3f}"]
