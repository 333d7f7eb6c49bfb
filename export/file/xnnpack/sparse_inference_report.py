"""Whether zeros make a model faster: what XNNPACK runs with its sparse kernels, and why not the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfprune.export.file.files.metadata import REDUCED_PRECISION
from tfprune.export.file.report import yes_or_no
from tfprune.export.file.xnnpack.groups import SPARSE_THRESHOLD, Analysis, Group
from tfprune.export.file.xnnpack.steps import Step
from tfprune.report import Report, table

RUNTIME = (
    "XNNPACK in ai-edge-litert 2.3 on ARM, and in LiteRT.js 2.5 (WebAssembly) on every processor; native on x86 "
    "processors with AVX it always runs dense"
)
Layers = tuple[Mapping[str, str], Mapping[str, str]]  # paths by name: of layers with kernels, and of all
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
DENSE_FILE = (
    "the file holds no sparse weight, without which XNNPACK does not look for zeros: export with sparse weights"
)
HALF_PRECISION = (
    f"the metadata `{REDUCED_PRECISION}` asks for half precision, for which LiteRT 2.2 and 2.3 have no sparse "
    "kernels on ARMv8.2 and later, and LiteRT 2.1 gives NaN: `rewrite` leaves the entry out"
)


@dataclass(frozen=True)
class OperatorRow(Report):
    """An operator with weights, or one that keeps such an operator from running sparse.

    Attributes:
        name: The path of the Keras layer, if it is known, or the name of the operator's output in the file.
        kind: The operator, such as `CONV_2D`.
        sparsity: The fraction of zeros in the kernel; None for an operator without a kernel.
        sparse: Whether the operator belongs to a group that can run sparse.
        reason: Why it does not; empty if it does.
    """

    name: str
    kind: str
    sparsity: float | None
    sparse: bool
    reason: str = ""


@dataclass(frozen=True)
class SparseInferenceReport(Report):
    """Whether sparse kernels can run a model, and whether they do as it stands.

    Attributes:
        eligible: Whether the structure of the model lets XNNPACK run its 1x1 convolutions sparse, however many zeros
            they hold now.
        active: Whether they also hold enough zeros and, in a file, are stored sparse.
        sparsity: The fraction of zeros in all kernels that can run sparse.
        needed: The fraction of zeros that `sparsity` has to exceed.
        reasons: Why the model does not run sparse, one sentence for each cause.
        hazards: Why the outputs are wrong on ARM as soon as a weight of the file is sparse; empty if they are right.
            Hazards are reported for all graphs of a file, the rest for the main graph, which `Runner` runs.
        rows: The operators.
        runtime: The runtime and the processors that the answer holds for.

    Example:
        >>> report = tfprune.export.sparse_inference("digits.tflite")
        >>> report.eligible, report.reasons
        (False, ('it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels',))
    """

    eligible: bool
    active: bool
    sparsity: float
    needed: float
    reasons: tuple[str, ...]
    hazards: tuple[str, ...]
    rows: tuple[OperatorRow, ...]
    runtime: str

    def __str__(self) -> str:
        facts = [["runs sparse now", yes_or_no(self.active)]]
        facts += [["zeros", f"{self.sparsity:.1%} (more than {self.needed:.1%} needed)"]]
        facts += [["because", reason] for reason in self.reasons]
        facts += [["WRONG OUTPUTS", hazard] for hazard in self.hazards]
        facts += [["holds for", self.runtime]]
        rows = [
            [
                row.name,
                row.kind,
                "-" if row.sparsity is None else f"{row.sparsity:.1%}",
                yes_or_no(row.sparse),
                row.reason,
            ]
            for row in self.rows
        ]
        operators = table(["layer", "operator", "zeros", "sparse", "reason"], rows, left=5)
        return table(["can run sparse", yes_or_no(self.eligible)], facts, left=2) + "\n\n" + operators


def inference_of(analyses: Sequence[Analysis], *, half: bool) -> SparseInferenceReport:
    """Describe how XNNPACK runs a file (`ModelFile.inference`).

    Args:
        analyses: What XNNPACK makes of its graphs.
        half: Whether its metadata ask for half precision.
    """
    missing = [DENSE_FILE] if not analyses[0].sparse else [HALF_PRECISION] * half
    return describe(analyses, layers=({}, {}), missing=tuple(missing))


def describe(analyses: Sequence[Analysis], *, layers: Layers, missing: tuple[str, ...] = ()) -> SparseInferenceReport:
    """Put an analysis into words.

    Args:
        analyses: What XNNPACK makes of the graphs of the file.
        layers: Paths of the Keras layers with kernels, and of all, by name; empty where they are not known.
        missing: What else the file lacks, in sentences.
    """
    analysis, names = analyses[0], _names(analyses[0], layers)
    ready = [group for group in analysis.groups if group.whole]
    leaking = [leak for group in analysis.groups if group.size and not group.obstacles for leak in group.leaks]
    size, zeros = sum(group.size for group in ready), sum(group.zeros for group in ready)
    eligible = bool(ready) and not leaking
    is_used = eligible and any(group.taken for group in ready)
    reasons = [] if eligible else _causes(analysis, names)
    if eligible and not is_used:
        reasons.append(f"more than {SPARSE_THRESHOLD:.1%} of the 1x1 kernels have to be zero; {zeros / size:.1%} are")
    return SparseInferenceReport(
        eligible=eligible,
        active=is_used and not missing,
        sparsity=zeros / size if size else 0.0,
        needed=SPARSE_THRESHOLD,
        reasons=(*reasons, *(missing if eligible else ())),
        hazards=tuple(_sentence(each, _names(each, layers), danger) for each in analyses for danger in each.dangers),
        rows=_rows(analysis, names),
        runtime=RUNTIME,
    )


def _causes(analysis: Analysis, names: list[str]) -> list[str]:
    """List the causes to remove, each once, in the order of the operators."""
    causes = {cause for group in analysis.groups if group.size for cause in (*group.obstacles, *group.leaks)}
    if not causes:
        return ["it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels"]
    return [_sentence(analysis, names, cause) for cause in sorted(causes)]


def _sentence(analysis: Analysis, names: list[str], cause: tuple[int, str]) -> str:
    number, reason = cause
    return f"{names[number]} ({analysis.steps[number].kind}): {reason}"


def _rows(analysis: Analysis, names: list[str]) -> tuple[OperatorRow, ...]:
    group_of = {number: group for group in analysis.groups for number in group.members}
    causes = {number: reason for group in analysis.groups for number, reason in (*group.leaks, *group.obstacles)}
    rows = []
    for number, step in enumerate(analysis.steps):
        if step.kind not in WEIGHTED and number not in causes:
            continue
        group = group_of.get(number)
        sparse = group is not None and group.whole
        reason = causes.get(number) or analysis.roles[number].reason or _because(analysis, names, group)
        rows.append(
            OperatorRow(names[number], step.kind, _sparsity(analysis, step), sparse, "" if sparse else reason)
        )
    return tuple(rows)


def _because(analysis: Analysis, names: list[str], group: Group | None) -> str:
    causes = [] if group is None else [*group.obstacles, *group.leaks]
    return _sentence(analysis, names, causes[0]) if causes else "no 1x1 convolution follows that could be sparse"


def _sparsity(analysis: Analysis, step: Step) -> float | None:
    weight = analysis.graph.values(step.inputs[1]) if len(step.inputs) > 1 and step.kind in WEIGHTED else None
    return None if weight is None or weight.nnz is None or not weight.size else 1 - weight.nnz / weight.size


def _names(analysis: Analysis, layers: Layers) -> list[str]:
    return [_name(analysis, step, layers) for step in analysis.steps]


def _name(analysis: Analysis, step: Step, layers: Layers) -> str:
    """Return the path of the layer that an operator comes from; the converter writes it into names of tensors."""
    tensors = [*step.outputs, *(index for index in step.inputs if index in analysis.graph.origin)]
    texts = [analysis.graph.tensors[index].name for index in tensors]
    parts = [part for text in texts for part in reversed(re.split("[/;]", text))]
    kernels, every = layers
    for names in (kernels, every) if step.kind in WEIGHTED else (every,):
        for part in parts:
            # An exported model is traced a second time, which numbers its layers.
            layer = names.get(part) or names.get(re.sub(r"_\d+$", "", part))
            if layer:
                return layer
    named = [text.partition(";")[0] for text in texts if "/" in text]
    return named[0] if named and not every else step.name
