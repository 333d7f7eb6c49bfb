"""What the export module tells: frozen values that print as tables and turn into JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tfprune.report import table

MEBIBYTE = 2**20


class Report:
    """Base of the reports: plain values by name."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts, ready for `json.dumps`."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]


@dataclass(frozen=True)
class TensorInfo(Report):
    """An input or output of a file.

    Attributes:
        name: Its name in the signature, or the tensor's own when there is none.
        shape: Its shape, None for a dimension that is free.
        dtype: How the file holds it, such as `float32` or `int8`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {shape_text(self.shape)} {self.dtype}"


@dataclass(frozen=True)
class Candidate(Report):
    """One form in which the model was tried.

    Attributes:
        name: What distinguishes it.
        bytes: Size of the plain .tflite, in bytes.
        packed_bytes: Size as written, in bytes.
        verified: True when it ran and gave the right outputs.
        reason: Why it was not taken; empty for the one that was.
    """

    name: str
    bytes: int
    packed_bytes: int
    verified: bool
    reason: str = ""


@dataclass(frozen=True)
class ExportReport(Report):
    """What `to_tflite` wrote, and how it was checked.

    Attributes:
        path: The file written.
        bytes: Its size.
        tflite_bytes: Its size when unpacked.
        nnz: Non-zero entries of the exported Keras kernels.
        size: Entries of the exported Keras kernels.
        sparsity: 1 - nnz / size.
        max_abs_diff: Largest difference from Keras' outputs.
        tolerance: The difference allowed, relative to the largest Keras output.
        ops: How often each operator occurs.
        candidates: Everything that was tried.
        runtime: The interpreter that ran the check, with its version.
        sparse_inference: Whether XNNPACK's sparse kernels run it, where, and if not, why.
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
    sparse_inference: Report

    def __str__(self) -> str:
        rows = [
            ["bytes", f"{self.bytes:,}"],
            ["unpacked bytes", f"{self.tflite_bytes:,}"],
            ["kernels", _zeros(self.nnz, self.size, self.sparsity)],
            ["difference", f"{_number(self.max_abs_diff)} (allowed: {self.tolerance:g} of the largest output)"],
            ["checked on", self.runtime],
            ["operators", ", ".join(f"{count} {name}" for name, count in self.ops.items())],
        ]
        text = table(["exported", self.path], rows, left=2)
        if len(self.candidates) > 1:
            tried = [
                [item.name, f"{item.bytes:,}", f"{item.packed_bytes:,}", _yes(item.verified), item.reason]
                for item in self.candidates
            ]
            text += "\n\n" + table(["candidate", "bytes", "packed", "verified", "reason"], tried)
        return text


@dataclass(frozen=True)
class VerifyReport(Report):
    """Whether a file ran in a process of its own and gave the expected outputs.

    Attributes:
        passed: True when it did.
        reason: Why not; empty when it passed.
        max_abs_diff: Largest difference of the output that differs most for its scale; None when nothing
            could be compared.
        scale: Largest expected magnitude of that output; None when nothing could be compared.
        tolerance: The difference allowed, relative to the scale.
        runtime: The interpreter that ran it, with its version; empty when none came that far.
    """

    passed: bool
    reason: str
    max_abs_diff: float | None
    scale: float | None
    tolerance: float
    runtime: str

    def __str__(self) -> str:
        rows = [
            ["difference", _number(self.max_abs_diff)],
            ["largest output", _number(self.scale)],
            ["tolerance", f"{self.tolerance:g}"],
            ["runtime", self.runtime or "-"],
        ]
        if self.reason:
            rows.insert(0, ["reason", self.reason])
        return table(["verified", _yes(self.passed)], rows, left=2)


@dataclass(frozen=True)
class BenchmarkReport(Report):
    """How long one `predict` takes in a process of its own, and what memory that process needed.

    Attributes:
        median_ms: Median over the runs, in milliseconds.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        min_ms: The fastest run.
        peak_memory: Largest resident memory of the whole process, interpreter and Python included, in bytes;
            None where the system does not tell.
        file_bytes: Size of the file as given.
        runtime: The interpreter, with its version.
        machine: Architecture and, where known, processor.
        runs: Number of timed runs.
        warmup: Number of runs before them.
        threads: Threads of the interpreter.
        batch: Rows in each run.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    peak_memory: int | None
    file_bytes: int
    runtime: str
    machine: str
    runs: int
    warmup: int
    threads: int
    batch: int

    def __str__(self) -> str:
        memory = "unknown" if self.peak_memory is None else f"{self.peak_memory / MEBIBYTE:.1f} MiB"
        rows = [
            ["10 % / 90 % / 99 %", f"{self.p10_ms:.3f} / {self.p90_ms:.3f} / {self.p99_ms:.3f} ms"],
            ["fastest", f"{self.min_ms:.3f} ms"],
            ["peak memory", memory],
            ["file", f"{self.file_bytes:,} bytes"],
            ["runs", f"{self.runs} after {self.warmup}, batch {self.batch}, threads {self.threads}"],
            ["runtime", self.runtime],
            ["machine", self.machine],
        ]
        return table(["median", f"{self.median_ms:.3f} ms"], rows, left=2)


def fraction_of_zeros(nnz: int, size: int) -> float:
    """Return 1 - nnz / size, and 0 for no entries at all."""
    return 1 - nnz / size if size else 0.0


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Write a shape as `?x28x28x1`, a question mark for a free dimension."""
    return "x".join("?" if length is None else str(length) for length in shape) or "scalar"


def shortened(text: str, length: int) -> str:
    """Cut the middle out of a text that is longer than so many characters."""
    return text if len(text) <= length else f"{text[: length // 2]}\u2026{text[-(length - length // 2 - 1) :]}"


def _zeros(nnz: int, size: int, sparsity: float) -> str:
    return f"{nnz:,} of {size:,} entries non-zero ({sparsity:.1%} zeros)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
