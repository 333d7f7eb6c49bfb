"""Report of an export: the file that was written, and how it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from tfprune.export.device.running.benchmark_report import BenchmarkReport
from tfprune.export.file.model_card import model_card
from tfprune.export.file.report import number_text, yes_or_no
from tfprune.export.file.xnnpack.sparse_inference_report import SparseInferenceReport
from tfprune.export.micro.micro_report import MicroReport
from tfprune.report import Report, table

OPERATORS_PER_LINE = 8


@dataclass(frozen=True)
class Candidate(Report):
    """A form of the file that was tried.

    Attributes:
        name: The name of the form, such as `sparse`.
        bytes: The size of the plain .tflite file, in bytes.
        packed_bytes: The size as written, in bytes.
        verified: Whether the file ran and gave the right outputs.
        reason: Why the form was not taken; empty for the form that was written.
    """

    name: str
    bytes: int
    packed_bytes: int
    verified: bool
    reason: str = ""


@dataclass(frozen=True)
class AccuracyDrop(Report):
    """How much worse a file is than the Keras model, or the file, that it was made from.

    Attributes:
        metric: The name of the metric, behind that of the output if there are several.
        before: Its value for the model or file that the file was made from.
        file: Its value for the file.
        drop: How much worse the file is; negative if it is better.
    """

    metric: str
    before: float
    file: float
    drop: float


def accuracy_drops(before: Mapping[str, float], file: Mapping[str, float], *, mode: str) -> tuple[AccuracyDrop, ...]:
    """Compare what `measure` returned before, and for the file; `mode` is "max" if a larger value is better."""
    sign = 1 if mode == "max" else -1
    return tuple(AccuracyDrop(name, before[name], file[name], sign * (before[name] - file[name])) for name in before)


@dataclass(frozen=True)
class ExportReport(Report):
    """What `to_tflite` wrote, and how it was checked.

    Attributes:
        path: The file that was written.
        bytes: The size of the file, in bytes.
        tflite_bytes: The size of the unpacked file, in bytes.
        nnz: The number of non-zero entries in the exported Keras kernels.
        size: The number of entries in the exported Keras kernels.
        sparsity: The fraction of zeros, 1 - nnz / size.
        max_abs_diff: The largest difference from the outputs of Keras.
        tolerance: The difference that is allowed, relative to the largest output of Keras.
        ops: The number of times that each operator occurs.
        candidates: The forms of the file that were tried.
        runtime: The interpreter that ran the check, and its version.
        sparse_inference: Whether XNNPACK's sparse kernels run the file, on which machines, and why not.
        lost: How much worse the file is than the Keras model, for each output, if samples for that were given.
        micro: What a file for microcontrollers takes there; None for other files.
        source: The name of the Keras model, or of the file, that it was made from; empty if it has none.
        scale: The largest magnitude of the output that differs most; None if nothing could be compared.
        uses_calibration: Whether the outputs were compared on calibration data, because `check_on` was not given.
        left_out: The entries of the source's metadata that are not in the file, because its zeros would not be fast.

    Example:
        >>> report = tfprune.export.to_tflite(model, "digits.tflite", check_on=images)
        >>> report.sparsity, report.max_abs_diff < 1e-4
        (0.9, True)
    """

    path: str
    bytes: int
    tflite_bytes: int
    nnz: int
    size: int
    sparsity: float
    max_abs_diff: float | None
    tolerance: float
    ops: dict[str, int]
    candidates: tuple[Candidate, ...]
    runtime: str
    sparse_inference: SparseInferenceReport
    lost: tuple[AccuracyDrop, ...] = ()
    micro: MicroReport | None = None
    source: str = ""
    scale: float | None = None
    uses_calibration: bool = False
    left_out: tuple[str, ...] = ()

    def card(self, *, latency: BenchmarkReport | None = None) -> str:
        """Return a model card in Markdown: what is known about the file, and nothing else.

        Write it beside the file, or as the README.md of a repository on the Hugging Face Hub, whose front matter it
        has. Add what only you know: the task, the data, the license, and the limits of the model.

        Args:
            latency: What `benchmark` measured of the file; None leaves the latency out.

        Example:
            >>> report = tfprune.export.to_tflite(model, "digits.tflite", check_on=images)
            >>> card = report.card()
            >>> "# digits.tflite" in card, "| bytes |" in card
            (True, True)
        """
        form = next((item.name for item in self.candidates if not item.reason), "")
        rows = [["base model", self.source], ["form", form], ["weights", _zeros(self.nnz, self.size, self.sparsity)]]
        rows.append(["operators", _operators(self.ops)])
        sizes = [["bytes", f"{self.bytes:,}"], ["unpacked bytes", f"{self.tflite_bytes:,}"]]
        if self.micro is not None:
            sizes.append(["arena, bytes", f"{self.micro.arena:,}"])
        lost = [[row.metric, f"{row.before:.4f}", f"{row.file:.4f}"] for row in self.lost]
        checks = [["largest difference of an output", self._difference], ["interpreter", self.runtime]]
        sections = [
            ("Model", [["", ""], *(row for row in rows if row[1])]),
            ("Size", [["", ""], *sizes]),
            ("Accuracy", [["metric", "base model", "this file"], *lost]),
            ("Latency", [["", ""], *(_latency(latency) if latency else [])]),
            ("Checks", [["", ""], *checks]),
        ]
        metrics = [row.metric for row in self.lost]
        return model_card(PurePath(self.path).name, sections, metrics=metrics)

    @property
    def _difference(self) -> str:
        """The largest difference, and the one that is allowed, in the unit of the outputs."""
        limit = f"{self.tolerance:.3g} x the largest output"
        if self.scale is not None:
            limit = f"{number_text(self.tolerance * self.scale)} = {limit}"
        return f"{number_text(self.max_abs_diff)} (limit: {limit})"

    def __str__(self) -> str:
        rows = [
            ["bytes", f"{self.bytes:,}"],
            ["unpacked bytes", f"{self.tflite_bytes:,}"],
            ["kernels", _zeros(self.nnz, self.size, self.sparsity)],
            ["difference", self._difference],
            *([["compared on", "calibration data only: pass other samples as check_on"]] * self.uses_calibration),
            *([output.metric, f"{output.file:.4f} (Keras: {output.before:.4f})"] for output in self.lost),
            *(["left out", f"metadata {name}: half precision has no sparse kernels"] for name in self.left_out),
            ["checked on", self.runtime],
            *_operator_rows(self.ops),
        ]
        text = table(["exported", self.path], rows, left=2)
        if len(self.candidates) > 1:
            tried = [
                [item.name, f"{item.bytes:,}", f"{item.packed_bytes:,}", yes_or_no(item.verified), item.reason]
                for item in self.candidates
            ]
            text += "\n\n" + table(["candidate", "bytes", "packed", "verified", "reason"], tried)
        return text if self.micro is None else f"{text}\n\n{self.micro}"


def _zeros(nnz: int, size: int, sparsity: float) -> str:
    return f"{nnz:,} of {size:,} entries non-zero ({sparsity:.1%} zeros)"


def _operators(ops: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in ops.items())


def _operator_rows(ops: dict[str, int]) -> list[list[str]]:
    """Return lines of some operators each: a transformer has dozens."""
    items = list(ops.items())
    lines = [
        _operators(dict(items[index : index + OPERATORS_PER_LINE]))
        for index in range(0, len(items), OPERATORS_PER_LINE)
    ]
    return [["operators" if number == 0 else "", line] for number, line in enumerate(lines)]


def _latency(latency: BenchmarkReport) -> list[list[str]]:
    return [
        ["median", f"{latency.median_ms:.3f} ms, batch {latency.batch_size}, threads {latency.threads}"],
        ["machine", latency.machine],
        ["interpreter", latency.runtime],
    ]
