"""The forms in which a converted file can be written: each is run before the best one is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from tfprune.export.device.running.verify import Run, compare_run, run_in_child
from tfprune.export.device.running.verify_report import VerifyReport
from tfprune.export.file.files.codec import encode
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import fraction_of_zeros
from tfprune.export.file.xnnpack.sparse_inference_report import RUNTIME
from tfprune.export.micro.fit_budgets import fit_budgets
from tfprune.export.micro.interpreter import runtime_name
from tfprune.export.micro.micro import Micro
from tfprune.export.micro.micro_report import MicroReport
from tfprune.export.rewriting.export_report import AccuracyDrop, Candidate, ExportReport
from tfprune.export.rewriting.shapes.explicit_padding import spell_out_padding
from tfprune.export.rewriting.sparsify import SparseForms, SparseRow
from tfprune.export.rewriting.weights.sparse_eligible import INTEGER

_log = logging.getLogger(__name__)
OPTIMIZE = ("size", "latency", "dense", "sparse")
TIMEOUT = 600.0  # seconds for the check of one form in its process


class Speed(IntEnum):
    """The kernels that a form reaches, the fastest last."""

    DENSE = 0
    BLOCKS = 1  # of fully connected layers whose zeros come in blocks of four
    SPARSE = 2  # of XNNPACK, for 1x1 convolutions


KERNELS = {Speed.DENSE: "dense kernels", Speed.BLOCKS: "kernels for blocks", Speed.SPARSE: "sparse kernels"}
HOLDS_FOR = {Speed.BLOCKS: "TFLite's own kernels in ai-edge-litert 2.3, on any processor", Speed.SPARSE: RUNTIME}


@dataclass(frozen=True)
class FileForm:
    """One way to write a file.

    Attributes:
        name: What distinguishes it from the others.
        file: The file.
        bitwise_reference: A file whose outputs it has to give bit for bit; None where it may round in another way.
    """

    name: str
    file: ModelFile
    bitwise_reference: ModelFile | None = None

    @property
    def speed(self) -> Speed:
        """The fastest kernels that it reaches."""
        if self.file.inference.active:
            return Speed.SPARSE
        has_blocks = any(
            operator.name == "FULLY_CONNECTED" and subgraph.tensors[operator.inputs[1]].sparse
            for subgraph in self.file.graph.subgraphs
            for operator in subgraph.operators
        )
        return Speed.BLOCKS if has_blocks else Speed.DENSE


@dataclass(frozen=True)
class Choice:
    """The form taken, and what became of all.

    Attributes:
        form: The one taken.
        packed: Its bytes as they are to be written.
        verified: How it ran.
        candidates: One row for every form tried.
        micro: What a form for microcontrollers takes there.
    """

    form: FileForm
    packed: bytes
    verified: VerifyReport
    candidates: tuple[Candidate, ...]
    micro: MicroReport | None = None


def candidate_files(dense: ModelFile, *, name: str, optimize: str) -> list[FileForm]:
    """Return the forms of a converted file: dense, sparse, and sparse where fully connected layers are rewritten.

    Kernels may take these in blocks, and 8-bit ones as 1x1 convolutions.

    Args:
        dense: The file as the converter wrote it.
        name: What to call it.
        optimize: "size" and "latency" give all, "dense" the dense one, "sparse" all but the dense one. For "latency"
            the sparse ones get the padding that sparse kernels can read.

    Returns:
        Forms that differ from each other.

    Raises:
        ValueError: With "sparse", if no weight gets smaller.
    """
    forms = [FileForm(name, dense)]
    if optimize != "dense":
        sparse = SparseForms(dense.after(spell_out_padding) if optimize == "latency" else dense)
        single, rows = sparse.form(("csr",))
        variants: list[tuple[str, ModelFile, tuple[SparseRow, ...], ModelFile | None]]
        variants = [("sparse", single, rows, None), ("sparse in blocks", *sparse.form(("csr", "block")), None)]
        if any(row.reason == INTEGER for row in rows):
            variants.append(("sparse as 1x1 convolutions", *sparse.form(("csr", "pointwise")), single))
        forms += [
            FileForm(f"{name}, {text}", file, reference)
            for text, file, rows, reference in variants
            if any(row.form != "dense" for row in rows)
        ]
    unique: dict[bytes, FileForm] = {}
    for form in forms:
        unique.setdefault(form.file.content, form)
    offered = [form for form in unique.values() if optimize != "sparse" or form.file.content != dense.content]
    if not offered:
        raise ValueError(
            "Expected weights with zeros enough that a sparse form is smaller, because optimize='sparse'. Received: "
            "none. Prune the model first, or use optimize='size'."
        )
    return offered


@dataclass(frozen=True)
class Check:
    """What the outputs of a file are compared with.

    Attributes:
        expected: The outputs for the samples, as `verify` takes them; for microcontrollers None compares with the
            dense file only.
        tolerance: The largest difference allowed, as a fraction of the largest expected magnitude of an output.
        advice: What to try if no file passes.
    """

    expected: Any
    tolerance: float
    advice: str

    def refusal(self, reason: str) -> str:
        """Return the error text for a file that does not pass."""
        return (
            f"Expected a converted file that gives the model's outputs. Received: {reason}. "
            f"Nothing was written. {self.advice}"
        )


class _Checks:
    """Runs files, each in a process of its own, and compares their outputs with the expected ones.

    Args:
        inputs: What `Runner.predict` takes.
        check: The outputs for them.
    """

    def __init__(self, inputs: Any, check: Check) -> None:
        self._inputs, self._expected, self._tolerance = inputs, check.expected, check.tolerance
        self._runs: dict[ModelFile, Run] = {}

    def check(self, form: FileForm) -> VerifyReport:
        """Say whether a form gave what it should."""
        report = self._check(form)
        _log.info("checked %s, %s bytes: %s", form.name, f"{len(form.file.content):,}", report.reason or "passed")
        return report

    def _check(self, form: FileForm) -> VerifyReport:
        """Run a form, unless it is known to go wrong on processors other than this one."""
        is_sparse = any(weight.sparse for weight in form.file.graph.weights)
        hazards = form.file.inference.hazards if is_sparse else ()
        if hazards:
            reason = f"wrong outputs on ARM: {hazards[0]}"
            return VerifyReport(False, reason, max_abs_diff=None, scale=None, tolerance=self._tolerance, runtime="")
        report = compare_run(self._run(form.file), self._expected, tolerance=self._tolerance)
        if form.bitwise_reference is None or not report.passed:
            return report
        same = compare_run(self._run(form.file), self._run(form.bitwise_reference).outputs, tolerance=0)
        reason = "" if same.passed else f"it should give the same as fully connected layers: {same.reason}"
        return replace(report, passed=same.passed, reason=reason)

    def _run(self, file: ModelFile) -> Run:
        if file not in self._runs:
            self._runs[file] = run_in_child(file, self._inputs, timeout=TIMEOUT)
        return self._runs[file]


def choose(
    forms: list[FileForm],
    *,
    inputs: Any,
    check: Check,
    optimize: str,
    compress: str | None,
    each_form: Callable[[], None] = lambda: None,
) -> Choice:
    """Run every form in a process of its own and take the best of those that gave the expected outputs.

    Args:
        forms: At least one. Of equals the first is taken, so the same forms give the same choice.
        inputs: What `Runner.predict` takes.
        check: The outputs for them.
        optimize: "latency" takes the fastest kernels that the form reaches, which is estimated from the file, not
            measured, and of these the fewest bytes as written; all others take the fewest bytes.
        compress: How the file is to be written, as `codec.encode` takes it.
        each_form: Called when a form was checked, to move a bar.

    Raises:
        ValueError: If no form passes, with the reason of the first.
    """
    checks = _Checks(inputs, check)
    checked = []
    for form in forms:
        checked.append(checks.check(form))
        each_form()
    packed = [encode(form.file.content, compress) for form in forms]
    passed = [index for index, report in enumerate(checked) if report.passed]
    if not passed:
        raise ValueError(check.refusal(checked[0].reason))
    speeds = [form.speed if optimize == "latency" else Speed.DENSE for form in forms]
    best = min(passed, key=lambda index: (-speeds[index], len(packed[index]), index))
    rows = []
    for index, form in enumerate(forms):
        reason = checked[index].reason
        if checked[index].passed and index != best:
            reason = _loss(speeds[index], speeds[best], more=len(packed[index]) - len(packed[best]))
        rows.append(Candidate(form.name, len(form.file.content), len(packed[index]), checked[index].passed, reason))
    forms[best].file.checked()
    return Choice(forms[best], packed[best], checked[best], tuple(rows))


def choose_micro(dense: ModelFile, *, inputs: Sequence[np.ndarray], check: Check, micro: Micro) -> Choice:
    """Take the form for microcontrollers that keeps to the budgets.

    Args:
        dense: The file with every weight as it is, whose outputs in the interpreter for microcontrollers the form has
            to give bit for bit.
        inputs: An array of samples for each input, in order.
        check: The outputs for them.
        micro: Bytes of flash and of RAM.

    Raises:
        ValueError: If the file does not run there, keeps to no budget, or gives other outputs.
    """
    fitted = fit_budgets(dense, inputs, micro=micro)
    run = Run({str(place): array for place, array in enumerate(fitted.run.outputs)}, runtime_name())
    expected = fitted.run.outputs if check.expected is None else check.expected
    verified = compare_run(run, expected, tolerance=check.tolerance)
    if not verified.passed:
        raise ValueError(check.refusal(verified.reason))
    form = FileForm("for microcontrollers", fitted.file.checked(), dense)
    content = form.file.content
    row = Candidate(form.name, len(content), len(content), verified=True)
    return Choice(form, content, verified, (row,), fitted.report)


def _loss(mine: Speed, best: Speed, *, more: int) -> str:
    if mine < best:
        return f"reaches {KERNELS[mine]}; the chosen file reaches {KERNELS[best]} ({HOLDS_FOR[best]})"
    return f"{more:,} bytes larger than the chosen file" if more else "equal to the chosen file"


def export_report(
    path: str, choice: Choice, *, source: str, nnz: int, size: int, lost: tuple[AccuracyDrop, ...] = ()
) -> ExportReport:
    """Say what was written at a path, and how it was checked."""
    return ExportReport(
        path=path,
        bytes=len(choice.packed),
        tflite_bytes=len(choice.form.file.content),
        nnz=nnz,
        size=size,
        sparsity=fraction_of_zeros(nnz, size),
        max_abs_diff=choice.verified.max_abs_diff,
        tolerance=choice.verified.tolerance,
        scale=choice.verified.scale,
        ops=choice.form.file.graph.ops,
        candidates=choice.candidates,
        runtime=choice.verified.runtime,
        sparse_inference=choice.form.file.inference,
        lost=lost,
        micro=choice.micro,
        source=source,
    )
