"""Rewrite a .tflite file: every form of it is made, run and compared, and the best one is written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_choice, check_count, check_number
from tfprune.export.device.benchmark import BenchmarkReport
from tfprune.export.device.quantization_error import MOVES, QuantizationErrorReport, QuantizationErrorRow
from tfprune.export.device.runner import arrays_of, random_inputs
from tfprune.export.device.verify import Run, VerifyReport, compare_run, rms_row, run_in_child
from tfprune.export.file.container import (
    Source,
    check_destination,
    check_method,
    check_suffix,
    encode,
    source_name,
    write_atomically,
)
from tfprune.export.file.document import REDUCED_PRECISION
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model
from tfprune.export.file.report import (
    FileReport,
    HubEntry,
    certified,
    fraction_of_zeros,
    model_card,
    number_text,
    yes_or_no,
)
from tfprune.export.file.xnnpack import SparseInferenceReport
from tfprune.export.micro.interpreter import runtime_name
from tfprune.export.micro.micro import Micro, fit_budgets, read_micro
from tfprune.export.micro.reports import MicroReport, unrolled_row
from tfprune.export.rewriting.frozen import join_moves
from tfprune.export.rewriting.shapes import check_batch, fix_batch, spell_out_numbers, spell_out_padding
from tfprune.export.rewriting.sparse_convolutions import (
    estimated_gain,
    plan_convolutions,
    spread_convolutions,
)
from tfprune.export.rewriting.sparsify import (
    INTEGER,
    TYPES,
    SparseForms,
    SparseRow,
    has_hybrid_layers,
    with_dense_weights,
)
from tfprune.report import Report, table

# Report of an export: the file that was written, and how it was checked.

_OPERATORS_PER_LINE = 8
_ON_AVX = "x86 with AVX, where such a file runs dense, 1.2 to 3 times slower than the dense file"


@dataclass(frozen=True)
class Candidate(Report):
    """A form of the file that was tried.

    Attributes:
        name: The name of the form, such as `sparse`.
        bytes: The size of the plain .tflite file, in bytes; 0 for a form that was not made.
        packed_bytes: The size as written, in bytes; 0 for a form that was not made.
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


_SHOWN = 10  # operators in float in a printed report


@dataclass(frozen=True)
class ExportReport(FileReport):
    """Report of `to_tflite` and `rewrite`: the written file, and how it was checked.

    Attributes:
        path: The file that was written.
        bytes: The size of the file, in bytes.
        tflite_bytes: The size of the unpacked file, in bytes.
        nnz: The number of non-zero entries in the exported Keras kernels, or in all weights of a changed file.
        size: The number of entries in them.
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
        rms_diff: The root of the mean squared difference in the output that differs most; None if nothing could be
            compared.
        unrolled: The recurrent layers whose operators the file has once for each step, as files of integers have to.
        other_bytes: The sizes in other formats, as written, where they may be smaller than an unrolled file.
        gain: The estimated time of the dense file on ARM and in browsers, divided by that of this one, if its
            convolutions were rewritten as sparse 1x1 ones; None for other files.
        converter: What made a file of the Keras model, and its version; empty where it was TensorFlow's converter.
        in_float: The operators of a file of integers that compute in float, by name, and the bytes that their weights
            take beyond those of 8 bits.
        in_float_ms: With skip="auto", milliseconds of a run here: of the file, and of that without such operators.

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
    rms_diff: float | None = None
    unrolled: tuple[str, ...] = ()
    other_bytes: dict[str, int] = field(default_factory=dict)
    gain: float | None = None
    converter: str = ""
    in_float: dict[str, int] = field(default_factory=dict)
    in_float_ms: tuple[float, float] | None = None

    def card(
        self,
        *,
        license: str = "",  # noqa: A002
        base_model: str = "",
        task: str = "",
        dataset: str = "",
        pictures: Sequence[str] = (),
        latency: BenchmarkReport | None = None,
    ) -> str:
        """Return a model card in Markdown: what is known about the file, and nothing else.

        Write it beside the file, or as the README.md of a repository on the Hugging Face Hub, whose front matter it
        has. Pass what only you know, and add the limits of the model to the text.

        Args:
            license: The Hub's identifier of the license, such as `"apache-2.0"`; empty leaves it out.
            base_model: The id of the base model on the Hub; empty leaves it out.
            task: The Hub's name of the task, such as `"image-classification"`; empty leaves it out.
            dataset: The name of the data on which the metrics were measured; empty calls it evaluation data.
            pictures: Paths of pictures beside the card, which it then shows, such as that of `DamageReport.plot`.
            latency: What `benchmark` measured of the file; None leaves the latency out.

        Raises:
            TypeError: If one of the texts is not a string.
            ValueError: If the Hub would not read one of them.

        Example:
            >>> report = tfprune.export.to_tflite(model, "digits.tflite", check_on=images)
            >>> card = report.card()
            >>> "# digits.tflite" in card, "| bytes |" in card
            (True, True)
        """
        form = next((item.name for item in self.candidates if not item.reason), "")
        rows = [["base model", self.source], ["form", form], ["weights", _zeros(self.nnz, self.size, self.sparsity)]]
        rows += [["operators", _operators(self.ops)], *self._purpose]
        sizes = [["bytes", f"{self.bytes:,}"], ["unpacked bytes", f"{self.tflite_bytes:,}"]]
        if self.micro is not None:
            sizes.append(["arena, bytes", f"{self.micro.arena:,}"])
        lost = [[row.metric, f"{row.before:.4f}", f"{row.file:.4f}"] for row in self.lost]
        rows += self._converted
        checks = [["largest difference of an output", self._difference], ["interpreter", self.runtime]]
        sections = [
            ("Model", [["", ""], *(row for row in rows if row[1])]),
            ("Size", [["", ""], *sizes]),
            ("Accuracy", [["metric", "base model", "this file"], *lost]),
            ("Latency", [["", ""], *(_latency(latency) if latency else [])]),
            ("Checks", [["", ""], *checks]),
        ]
        results = [("evaluation", row.metric, row.file) for row in self.lost]
        entry = HubEntry(license, base_model, task, dataset, pictures)
        return model_card(PurePath(self.path).name, sections, results=results, entry=entry)

    @property
    def _difference(self) -> str:
        """The largest difference, and the one that is allowed, in the unit of the outputs."""
        limit = f"{self.tolerance:.3g} x the largest output"
        if self.scale is not None:
            limit = f"{number_text(self.tolerance * self.scale)} = {limit}"
        return f"{number_text(self.max_abs_diff)} (limit: {limit})"

    @property
    def _purpose(self) -> list[list[str]]:
        """Rows with the machines that a file is for whose convolutions were rewritten."""
        if self.gain is None:
            return []
        fast = f"ARM and browsers, about {self.gain:.1f} times as fast as the dense file by an estimate"
        return [["for", fast], ["not for", f"{_ON_AVX}: optimize='dense' writes the dense file"]]

    @property
    def _converted(self) -> list[list[str]]:
        """A row with the converter, unless it is the usual one."""
        return [["converted by", self.converter]] if self.converter else []

    @property
    def _other_formats(self) -> list[list[str]]:
        """A row with the formats in which the file would be smaller."""
        smaller = [f"{name} {size:,} bytes" for name, size in self.other_bytes.items() if size < self.bytes]
        return [["smaller as", ", ".join(smaller)]] if smaller else []

    @property
    def _float_rows(self) -> list[list[str]]:
        """Rows with the operators in float, those with most bytes first, and what they cost in time."""
        sizes = sorted(self.in_float.items(), key=lambda item: -item[1])
        rows = [["in float", f"{name} (+{size:,} bytes)"] for name, size in sizes[:_SHOWN]]
        if len(sizes) > _SHOWN:
            more = sum(size for _, size in sizes[_SHOWN:])
            rows.append(["in float", f"{len(sizes) - _SHOWN} more (+{more:,} bytes): see `in_float`"])
        if self.in_float_ms is not None:
            mixed, whole = self.in_float_ms
            rows.append(["time here", f"{mixed:.2f} ms; {whole:.2f} ms with all operators in integers"])
        return rows

    def __str__(self) -> str:
        rows = [
            ["bytes", f"{self.bytes:,}"],
            ["unpacked bytes", f"{self.tflite_bytes:,}"],
            ["all kernels", _zeros(self.nnz, self.size, self.sparsity)],
            *self._purpose,
            ["difference", self._difference],
            *rms_row(self.rms_diff, self.tolerance),
            *unrolled_row(self.unrolled),
            *self._other_formats,
            *self._float_rows,
            *([["compared on", "calibration data only: pass other samples as check_on"]] * self.uses_calibration),
            *([output.metric, f"{output.file:.4f} (Keras: {output.before:.4f})"] for output in self.lost),
            *(["left out", f"metadata {name}: half precision has no sparse kernels"] for name in self.left_out),
            ["checked on", self.runtime],
            *self._converted,
            *_operator_rows(self.ops),
        ]
        text = table(["exported", self.path], rows, left=2)
        if len(self.candidates) > 1:
            tried = [[item.name, *_made(item), item.reason] for item in self.candidates]
            text += "\n\n" + table(["candidate", "bytes", "packed", "verified", "reason"], tried)
        return text if self.micro is None else f"{text}\n\n{self.micro}"


def _made(item: Candidate) -> list[str]:
    if not item.bytes:
        return ["-", "-", "-"]
    return [f"{item.bytes:,}", f"{item.packed_bytes:,}", yes_or_no(item.verified)]


def _zeros(nnz: int, size: int, sparsity: float) -> str:
    return f"{nnz:,} of {size:,} entries non-zero ({sparsity:.1%} zeros)"


def _operators(ops: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in ops.items())


def _operator_rows(ops: dict[str, int]) -> list[list[str]]:
    """Return lines of some operators each: a transformer has dozens."""
    items = list(ops.items())
    lines = [
        _operators(dict(items[index : index + _OPERATORS_PER_LINE]))
        for index in range(0, len(items), _OPERATORS_PER_LINE)
    ]
    return [["operators" if number == 0 else "", line] for number, line in enumerate(lines)]


def _latency(latency: BenchmarkReport) -> list[list[str]]:
    return [
        ["median", f"{latency.median_ms:.3f} ms, batch {latency.batch_size}, threads {latency.threads}"],
        ["machine", latency.machine],
        ["interpreter", latency.runtime],
    ]


# The forms in which a converted file can be written: each is run before the best one is taken.

_log = logging.getLogger(__name__)
OPTIMIZE = ("size", "latency", "dense", "sparse")
TIMEOUT = 600.0  # seconds for the check of one form in its process


class Speed(IntEnum):
    """The kernels that a form reaches, the fastest last."""

    DENSE = 0
    BLOCKS = 1  # of fully connected layers whose zeros come in blocks of four
    SPARSE = 2  # of XNNPACK, for 1x1 convolutions


_KERNELS = {Speed.DENSE: "dense kernels", Speed.BLOCKS: "kernels for blocks", Speed.SPARSE: "sparse kernels"}
_HOLDS_FOR = {
    Speed.BLOCKS: "TFLite's own kernels in ai-edge-litert 2.3, on any processor",
    Speed.SPARSE: "ARM, and browsers on any processor",
}


@dataclass(frozen=True)
class FileForm:
    """One way to write a file.

    Attributes:
        name: What distinguishes it from the others.
        file: The file.
        bitwise_reference: A file whose outputs it has to give bit for bit; None where it may round in another way.
        gain: The estimated time of the dense file, divided by that of this one, if its convolutions were rewritten.
        refusal: Why it was not made; empty if it was. `file` is then the dense file.
    """

    name: str
    file: ModelFile
    bitwise_reference: ModelFile | None = None
    gain: float | None = None
    refusal: str = ""

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

    @cached_property
    def estimate(self) -> float:
        """The estimated time on dense kernels, divided by that on the sparse ones that it reaches."""
        if self.gain is not None:
            return self.gain
        return estimated_gain(with_dense_weights(self.file)) if self.speed is Speed.SPARSE else 1.0


@dataclass(frozen=True)
class _Choice:
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
        passes = (spell_out_padding, spell_out_numbers) if optimize == "latency" else ()
        sparse = SparseForms(dense.after(*passes))
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
    refused: list[FileForm] = []
    if optimize == "latency":
        spread = _spread_form(dense, name=f"{name}, convolutions as sparse 1x1 ones")
        if spread is not None and spread.refusal:
            refused = [spread]
        elif spread is not None and spread.estimate > max(form.estimate for form in forms):
            forms.append(spread)
    unique: dict[bytes, FileForm] = {}
    for form in forms:
        unique.setdefault(form.file.content, form)
    offered = [form for form in unique.values() if optimize != "sparse" or form.file.content != dense.content]
    if not offered:
        raise ArgumentError(
            "optimize",
            "weights with zeros enough that a sparse form is smaller, because optimize='sparse'",
            found="none",
            advice="Prune the model first, or use optimize='size'.",
        )
    return offered + refused


_LEAST_ZEROS = 0.5  # of some convolution, for a word on what its zeros would gain with a batch of 1


def _spread_form(dense: ModelFile, *, name: str) -> FileForm | None:
    """Return the form whose convolutions are sparse 1x1 convolutions between shifts, or why there is none.

    None for a file without convolutions of float32 that could be rewritten.
    """
    if any(info.shape[:1] != (1,) for info in dense.graph.inputs):
        refusal = "not made for more than one image at a time: give batch=1, or build the model with batch_size=1"
        return FileForm(name, dense, refusal=refusal) if _has_zeros_in_convolutions(dense.graph) else None
    file = with_dense_weights(dense)
    spread, gain = spread_convolutions(file)
    if spread is not file:
        sparse = SparseForms(spread).form(("csr",))[0]
        form = FileForm(f"{name}, about {gain:.1f} times as fast on ARM and in browsers", sparse, gain=gain)
        return form if sparse.inference.active else None
    plan = plan_convolutions(file)
    return None if plan is None or plan.pays else FileForm(name, dense, refusal=plan.verdict)


def _has_zeros_in_convolutions(model: Model) -> bool:
    """Tell whether half of a convolution's float32 kernel are zeros, which is not 1x1."""
    graph = model.subgraphs[0]
    kernels = [graph.tensors[each.inputs[1]] for each in graph.operators if each.name == "CONV_2D"]
    return any(
        kernel.dtype == "float32" and {*kernel.shape[1:3]} != {1}
        for kernel in kernels
        if kernel.nnz is not None and kernel.nnz <= (1 - _LEAST_ZEROS) * kernel.size
    )


@dataclass(frozen=True)
class Check:
    """The outputs that those of a file are compared with.

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
) -> _Choice:
    """Run every form in a process of its own and take the best of those that gave the expected outputs.

    Args:
        forms: At least one. Of equals the first is taken, so the same forms give the same choice.
        inputs: What `Runner.predict` takes.
        check: The outputs for them.
        optimize: "latency" takes the fastest kernels that the form reaches, of forms that reach sparse ones the
            highest `FileForm.estimate`, which is not measured and has to be 1 or more, and of equals the fewest bytes
            as written; all others take the fewest bytes.
        compress: How the file is to be written, as `encode` takes it.
        each_form: Called when a form was checked, to move a bar.

    Raises:
        ValueError: If no form passes, with the reason of the first.
    """
    checks = _Checks(inputs, check)
    forms, refused = [form for form in forms if not form.refusal], [form for form in forms if form.refusal]
    checked = []
    for form in forms:
        checked.append(checks.check(form))
        each_form()
    packed = [encode(form.file.content, compress) for form in forms]
    passed = [index for index, report in enumerate(checked) if report.passed]
    if not passed:
        raise ValueError(check.refusal(checked[0].reason))
    speeds = [form.speed if optimize == "latency" else Speed.DENSE for form in forms]
    gains = [form.estimate if optimize == "latency" else 1.0 for form in forms]
    best = min(passed, key=lambda index: (gains[index] < 1, -speeds[index], -gains[index], len(packed[index]), index))
    rows = []
    for index, form in enumerate(forms):
        reason = checked[index].reason
        if checked[index].passed and index != best:
            more = len(packed[index]) - len(packed[best])
            reason = _slower(gains[index], gains[best]) or _loss(speeds[index], speeds[best], more=more)
        rows.append(Candidate(form.name, len(form.file.content), len(packed[index]), checked[index].passed, reason))
    if speeds[best] is not Speed.SPARSE:
        rows += [Candidate(form.name, 0, 0, verified=False, reason=form.refusal) for form in refused]
    forms[best].file.checked()
    return _Choice(forms[best], packed[best], checked[best], tuple(rows))


def choose_micro(dense: ModelFile, *, inputs: Sequence[np.ndarray], check: Check, micro: Micro) -> _Choice:
    """Take the form for microcontrollers that keeps to the budgets.

    Args:
        dense: The file whose outputs in the interpreter for microcontrollers the form has to give bit for bit. Sparse
            weights, which no kernel reads there, are made dense first.
        inputs: An array of samples for each input, in order.
        check: The outputs for them.
        micro: Bytes of flash and of RAM.

    Raises:
        ValueError: If the file does not run there, keeps to no budget, or gives other outputs.
    """
    fitted = fit_budgets(with_dense_weights(dense, types=TYPES), inputs, micro=micro)
    names = [info.name for info in dense.graph.outputs]
    run = Run(dict(zip(names, fitted.run.outputs, strict=True)), runtime_name())
    expected = fitted.run.outputs if check.expected is None else check.expected
    verified = compare_run(run, expected, tolerance=check.tolerance)
    if not verified.passed:
        raise ValueError(check.refusal(verified.reason))
    form = FileForm("for microcontrollers", fitted.file.checked(), dense)
    content = form.file.content
    row = Candidate(form.name, len(content), len(content), verified=True)
    return _Choice(form, content, verified, (row,), fitted.report)


def _slower(mine: float, best: float) -> str:
    """Say why a form on sparse kernels is not taken: "" if it is not slower by the estimate."""
    if mine == 1 or mine >= best:
        return ""
    chosen = f", the chosen file {best:.2f} times" if best > 1 else ""
    return f"about {mine:.2f} times as fast as on dense kernels{chosen}, by an estimate"


def _loss(mine: Speed, best: Speed, *, more: int) -> str:
    if mine < best:
        return f"reaches {_KERNELS[mine]}; the chosen file reaches {_KERNELS[best]} ({_HOLDS_FOR[best]})"
    return f"{more:,} bytes larger than the chosen file" if more else "equal to the chosen file"


def write_choice(
    path: Path, choice: _Choice, *, source: str, weights: Sequence[Any], lost: tuple[AccuracyDrop, ...] = ()
) -> ExportReport:
    """Write a form, and return how it was checked, and the zeros of the weights, each with its `nnz` and `size`."""
    write_atomically(path, choice.packed, holds=choice.form.file.content)
    nnz, size = (sum(getattr(weight, count) for weight in weights) for count in ("nnz", "size"))
    return ExportReport(
        path=str(path),
        bytes=len(choice.packed),
        tflite_bytes=len(choice.form.file.content),
        nnz=nnz,
        size=size,
        sparsity=fraction_of_zeros(nnz, size),
        max_abs_diff=choice.verified.max_abs_diff,
        tolerance=choice.verified.tolerance,
        scale=choice.verified.scale,
        rms_diff=choice.verified.rms_diff,
        ops=choice.form.file.graph.ops,
        candidates=choice.candidates,
        runtime=choice.verified.runtime,
        sparse_inference=choice.form.file.inference,
        lost=lost,
        micro=choice.micro,
        source=source,
        gain=choice.form.gain,
    )


# The runtime that a file is for, and the form, the batch and the kernels that go with it.

_WEB = "web"
_FASTEST = ("size", "latency")  # what `optimize` may be for the web: the default, or the same said again


@dataclass(frozen=True)
class Target:
    """The request that the arguments of an export make.

    Attributes:
        optimize: The form to take, as `choose` takes it.
        micro: The microcontroller; None for another runtime.
        is_web: Whether the file is for LiteRT.js.
        batch: The batch that the file has to have; None for any.
    """

    optimize: str
    micro: Micro | None
    is_web: bool
    batch: int | None

    @property
    def fixed_batch(self) -> int | None:
        """The batch where the model leaves it open; None leaves it open in the file, too."""
        return 1 if self.batch is None and (self.is_web or self.micro) else self.batch

    def forms(self, forms: Sequence[FileForm], *, source: str) -> list[FileForm]:
        """Return the forms that the runtime is fast with.

        Args:
            forms: The forms of the file.
            source: What the file is made from, for the message.

        Raises:
            ValueError: If there is none.
        """
        suitable = [form for form in forms if not (self.is_web and has_hybrid_layers(form.file.graph))]
        if not suitable:
            raise ArgumentError(
                "target",
                "weights with zeros enough for a sparse form",
                f"'web' and {source}, whose dense form computes in float32 with 8-bit weights, at about a third "
                f"of the speed of float32 in a browser",
                advice="Use quantize='float16', 'int8' or None, or prune the model first.",
            )
        return suitable


def read_target(target: Any, *, optimize: Any, compress: Any, batch: Any) -> Target:
    """Read the arguments that say which file to write.

    Raises:
        TypeError: If one has another type.
        ValueError: If one is out of range, or does not go with the others; or (also an ImportError) if the
            interpreter for microcontrollers is needed and not installed.
    """
    check_choice(optimize, "optimize", choices=OPTIMIZE)
    size = None if batch is None else check_count(batch, "batch", least=1)
    micro = read_micro(target, others=(_WEB,), optimize=optimize, compress=compress)
    is_web = micro is None and target is not None
    if is_web and optimize not in _FASTEST:
        raise ArgumentError(
            "optimize",
            "optimize='size' or 'latency' with target='web', for which the form with the fastest kernels is "
            "written, the smallest of equally fast ones",
            repr(optimize),
            advice="For another form, leave `target` out and give batch=1.",
        )
    if micro is not None and size not in (None, 1):
        raise ArgumentError("batch", "batch=1 or None with target='micro'", str(size), advice="Leave it out.")
    return Target("latency" if is_web else optimize, micro, is_web, size)


# Operators of an 8-bit file that stay in float, by the errors that they add.

_NAMED = 3  # operators in a refusal
_PASSING = {*MOVES, "QUANTIZE", "DEQUANTIZE"}  # operators that compute nothing
_FEWER = 4  # one of so many operators in float fewer, where no file can be made
_TIMES = 5  # the bytes of the 8-bit file: more than with all weights in float


def fewest_in_float(
    errors: QuantizationErrorReport, *, convert: Callable[[Sequence[str]], tuple[ModelFile | None, str]]
) -> tuple[tuple[QuantizationErrorRow, ...], ModelFile]:
    """Find the fewest operators of a file, in the order of `to_skip`, that have to stay in float.

    As many as leave some for integers are tried first, so that a file that cannot pass is refused at once. Then the
    interval is halved.

    Args:
        errors: The errors of the 8-bit file.
        convert: Returns the file in which the operators with some names stay in float, and why it does not pass, or
            an empty string.

    Returns:
        The rows of these operators, and the file.

    Raises:
        ValueError: If no file passes.
    """
    rows = errors.to_skip(max_bytes=_TIMES * errors.bytes)
    failed, count = 0, max(1, len(rows) - 1)
    best, refusal = convert([row.name for row in rows[:count]])
    while best is None and count > 1:  # what is left of the operators has no kernel of integers by itself
        count -= -(-count // _FEWER)
        best, refusal = convert([row.name for row in rows[:count]])
    if best is None or refusal:
        raise ValueError(
            f"Expected a file that passes with some operators in float. Received: skip='auto', and a file that does "
            f"not pass with {count} of {len(rows)} operators in float: {refusal.rstrip('.')}. Nothing was written. "
            f"{worst_operators(rows)} Allow more, or use quantize='float16'."
        )
    while count - failed > 1:
        middle = (count + failed) // 2
        file, refusal = convert([row.name for row in rows[:middle]])
        if file is None or refusal:
            failed = middle
        else:
            count, best = middle, file
    return rows[:count], best


def operators_in_float(file: ModelFile) -> dict[str, int]:
    """Return the operators of a file of integers that compute in float, as `ExportReport.in_float` describes them."""
    graph, sizes = file.graph.subgraphs[0], {}
    for operator in graph.operators:
        outputs = [graph.tensors[index] for index in operator.outputs if index >= 0]
        if operator.name not in _PASSING and any(output.dtype == "float32" for output in outputs):
            inputs = [graph.tensors[index] for index in {*operator.inputs} if index >= 0]
            sizes[outputs[0].name] = sum(3 * each.size for each in inputs if each.weight and each.dtype == "float32")
    return sizes


def worst_operators(rows: Sequence[QuantizationErrorRow]) -> str:
    """Return a sentence that names the operators whose rounding moves the outputs most."""
    worst = sorted(rows, key=lambda row: -row.effect)[:_NAMED]
    names = ", ".join(f"{row.operator} {row.layer!r} ({row.effect:.2g})" for row in worst)
    return f"Rounding these operators moves the outputs most, as a fraction of the outputs: {names}."


# From a .tflite file that exists to a smaller or faster one: export without a Keras model.

_RANDOM_SAMPLES = 8
_EXACT_TOLERANCE = 1e-4
_ROUNDED_TOLERANCE = 0.1  # a file with 8-bit weights rounds its activations, its sparse form may not
_ADVICE = "Check that the file itself runs (`tfprune verify`), or allow more with `tolerance`."


@certified
def rewrite(
    source: Source,
    path: str | os.PathLike[str],
    *,
    check_on: Any = None,
    tolerance: float | None = None,
    optimize: str = "size",
    compress: str | None = None,
    target: str | Micro | None = None,
    batch: int | None = None,
    verbose: int | str = "auto",
) -> ExportReport:
    """Rewrite a .tflite file so that it is smaller or faster, and check its outputs against those of the old file.

    Use it for a file whose Keras model you do not have; neither Keras nor TensorFlow is needed. Weights keep their
    values, signatures and metadata stay. All signatures are checked; graphs other than the first are not changed.
    Where the shapes are fixed, a chain of TRANSPOSE and RESHAPE, as between PyTorch's order of dimensions and the
    runtime's, becomes one TRANSPOSE or none.

    Args:
        source: A path, or the bytes of a .tflite file of any origin, plain or packed.
        path: Where the new file is written, exactly as given; it may be the path of the old file.
        check_on: Samples on which both files are compared, in the forms that `verify` takes. None (the default)
            draws random numbers.
        tolerance: The largest difference allowed, as a fraction of the largest output, at least 0. None (the default)
            allows 1e-4, or 0.1 for a file with 8-bit weights, because its activations may be rounded in the old file
            and not in the new one.
        optimize: `"size"` (the default) for the fewest bytes, `"latency"` for the fastest kernels that a form
            reaches. Both try sparse forms beside the dense form; `"dense"` tries the dense form only, and `"sparse"`
            sparse forms only.
        compress: None (the default), `"gzip"`, `"xz"` or `"packed"`; `Runner` reads all of them.
        target: The runtime that the file is for: None (the default) for phones and computers, or `"micro"` for
            TensorFlow Lite for Microcontrollers; a `Micro` sets budgets of RAM and flash. `source` is then a float32
            or int8 file. The new file has no zeros of the weights, which the interpreter unpacks while it runs, and
            its outputs there must equal those of `source` bit for bit. Needs the extra `micro`. `"web"` is for
            LiteRT.js in a browser: a batch of 1 where `source` leaves it open, and the form with the fastest kernels,
            the smallest of equally fast ones. A dense form that computes in float32 with 8-bit weights is not
            written, because it has about a third of the speed of float32 there.
        batch: The number of samples that the new file takes at once, at least 1, such as 1 for LiteRT.js, which
            cannot resize an input. All shapes of the new file are fixed, and what operators compute from shapes only
            becomes a constant. None (the default) leaves the batch as it is, but for a `target`.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts the forms that are checked.

    Returns:
        A report of the file that was written, and of its checks.

    Raises:
        TypeError: If `source` is neither a path nor bytes, `path` is not a path, or an argument has another type.
        ValueError: If an argument does not fit, the file cannot be read, written or run, or no form passes. A file
            that was at `path` before is then untouched.
        ValueError: If `source` has another fixed batch than `batch`, or its batch cannot be fixed.

    Example:
        >>> print(rewrite("digits.tflite", "digits.tfz", compress="packed"))
        exported        digits.tfz
        --------------  ---...
        bytes           5,...
        unpacked bytes  60,...
        all kernels     1,480 of 14,800 entries non-zero (90.0% zeros)
        difference      0 (limit: ... = 0.0001 x the largest output)
        ...
    """
    destination = check_destination(path)
    check_method(compress)
    check_verbose(verbose)
    wanted = read_target(target, optimize=optimize, compress=compress, batch=batch)
    check_suffix(destination, compress)
    file = ModelFile.open(source)
    model = file.graph
    allowed = default_tolerance(model) if tolerance is None else check_number(tolerance, "tolerance", least=0)
    inputs = random_inputs(model.inputs, model.outputs, rows=_RANDOM_SAMPLES) if check_on is None else check_on
    fixed = _with_batch(file, wanted)
    if wanted.micro is not None:
        samples = arrays_of(inputs, names=[info.name for info in model.inputs])
        choice = choose_micro(fixed, inputs=samples, check=Check(None, allowed, _ADVICE), micro=wanted.micro)
    else:
        form = fixed.after(join_moves)
        plain = "as it was" if form == fixed else "fewer moves of entries"
        name = plain if fixed == file else f"batch of {wanted.fixed_batch}"
        forms = candidate_files(form, name=name, optimize=wanted.optimize)
        forms = wanted.forms(forms, source=source_name(source))
        if check_on is None and len(file.signatures) > 1:
            inputs = None if fixed == file else _drawn(file, wanted.fixed_batch or 1)
        with Progress(1 + len(forms), verbose=verbose, unit="form") as progress:
            check = Check(_outputs(file, inputs), allowed, _ADVICE)
            progress.add()
            choice = choose(
                forms, inputs=inputs, check=check, optimize=wanted.optimize, compress=compress, each_form=progress.add
            )
    report = write_choice(destination, choice, source=file_name(source), weights=model.weights)
    dropped = {REDUCED_PRECISION} & (file.metadata.keys() - choice.form.file.metadata.keys())
    return replace(report, left_out=tuple(dropped)) if wanted.micro is None else report


def _with_batch(file: ModelFile, wanted: Target) -> ModelFile:
    if wanted.batch is not None:
        check_batch(file, wanted.batch)
    return file if wanted.fixed_batch is None else fix_batch(file, wanted.fixed_batch)


def _drawn(file: ModelFile, rows: int) -> dict[str, dict[str, np.ndarray]]:
    """Draw random inputs for all signatures."""
    inputs = {}
    for signature, number in file.signatures.items():
        model = file.starting_at(signature if number else "").graph
        arrays = random_inputs(model.inputs, model.outputs, rows=rows)
        inputs[signature] = {info.name: array for info, array in zip(model.inputs, arrays, strict=True)}
    return inputs


def _outputs(file: ModelFile, inputs: Any) -> dict[str, np.ndarray]:
    run = run_in_child(file, inputs, timeout=TIMEOUT)
    if run.reason:
        raise ArgumentError(
            "check_on",
            "a file that runs",
            found=f"one that does not: {run.reason}",
            advice="Nothing was written. Check it with `tfprune verify`, or give data that fit with `check_on`.",
        )
    return run.outputs


def file_name(source: Source) -> str:
    """Return the name of a file, without its folder, which is nobody else's business; empty for bytes."""
    return Path(source).name if isinstance(source, str | os.PathLike) else ""


def default_tolerance(model: Model) -> float:
    """Return the difference that two forms of a file may have, as a fraction of its largest output."""
    return _ROUNDED_TOLERANCE if any(weight.dtype == "int8" for weight in model.weights) else _EXACT_TOLERANCE
