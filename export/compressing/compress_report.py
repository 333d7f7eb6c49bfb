"""Report of a search: the files that no other beats."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.compressing.trial import MeasuredFile
from tfprune.export.device.running.metrics import is_error
from tfprune.report import Report, table


@dataclass(frozen=True)
class CompressReport(Report):
    """What `compress` found.

    Attributes:
        folder: Where the files are.
        metric: What was measured.
        max_drop: What a file may lose of it on the validation data.
        target: `"size"`, `"latency"` or `"micro"`.
        dense: The float32 file of the model as it was; for `"micro"` the int8 one.
        front: The files that no other beats in both the target and the metric, the smallest or fastest first.
        trials: The recipes that were tried.
        failed: Those that made no file, and why.
        tried: All files that were measured.
        seconds: How long it took, in all calls.

    Example:
        >>> import keras
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss, metrics=["accuracy"])
        >>> data = (images, model.predict(images, verbose=0).argmax(axis=1))
        >>> report = tfprune.export.compress(model, data, data, folder="searched", trials=1)
        >>> report.best.bytes <= report.dense.bytes
        True
    """

    folder: str
    metric: str
    max_drop: float
    target: str
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
        """The metric of the model as it was, in float32."""
        return self.dense.score - self.dense.drop if is_error(self.metric) else self.dense.score + self.dense.drop

    @property
    def smaller(self) -> str:
        """How much smaller the best file is than that of the model as it was, in words."""
        dense = self.dense.quantize or "float32"
        return f"{self.dense.bytes / self.best.bytes:.1f} times smaller than the dense {dense} file"

    def __str__(self) -> str:
        has_test = any(one.test_score is not None for one in self.front)
        costs = ["arena"] if self.target == "micro" else ["packed", "ms"]
        header = ["file", "bytes", "of dense", *costs, self.metric, "drop", *(["test"] if has_test else [])]
        rows = [self._row(one, has_test) for one in self.front]
        words = (
            f"{len(self.front)} of {len(self.tried)} files that were measured. Recipes tried: {self.trials}, in "
            f"{self.seconds:.0f} s. The first is {self.smaller}.\nFiles, report.json and report.html: {self.folder}"
        )
        return f"{table(header, rows)}\n\n{words}"

    def _row(self, one: MeasuredFile, has_test: bool) -> list[str]:
        row = [
            one.file,
            f"{one.bytes:,}",
            f"{one.bytes / self.dense.bytes:.1%}",
            *_costs(one),
            f"{one.score:.4f}",
            f"{one.drop:+.4f}",
        ]
        return [*row, f"{one.test_score:.4f}"] if has_test and one.test_score is not None else row


def _costs(one: MeasuredFile) -> list[str]:
    if one.arena_bytes is not None:
        return [f"{one.arena_bytes:,}"]
    return [f"{one.packed_bytes:,}", "-" if one.latency_ms is None else f"{one.latency_ms:.3f}"]
