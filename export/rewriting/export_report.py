"""What was written, and how it was checked."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.report import number_text, yes_or_no
from tfprune.export.xnnpack.sparse_inference_report import SparseInferenceReport
from tfprune.report import Report, table


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
    sparse_inference: SparseInferenceReport

    def __str__(self) -> str:
        rows = [
            ["bytes", f"{self.bytes:,}"],
            ["unpacked bytes", f"{self.tflite_bytes:,}"],
            ["kernels", _zeros(self.nnz, self.size, self.sparsity)],
            ["difference", f"{number_text(self.max_abs_diff)} (allowed: {self.tolerance:g} of the largest output)"],
            ["checked on", self.runtime],
            ["operators", ", ".join(f"{count} {name}" for name, count in self.ops.items())],
        ]
        text = table(["exported", self.path], rows, left=2)
        if len(self.candidates) > 1:
            tried = [
                [item.name, f"{item.bytes:,}", f"{item.packed_bytes:,}", yes_or_no(item.verified), item.reason]
                for item in self.candidates
            ]
            text += "\n\n" + table(["candidate", "bytes", "packed", "verified", "reason"], tried)
        return text


def _zeros(nnz: int, size: int, sparsity: float) -> str:
    return f"{nnz:,} of {size:,} entries non-zero ({sparsity:.1%} zeros)"
