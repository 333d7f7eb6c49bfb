"""Remove channels from a .tflite file on samples without labels, without training and without its framework."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from tfprune.base.progress import check_verbose
from tfprune.base.spec import BudgetLimit, check_budget_limit, check_count, check_number
from tfprune.export.file.files.codec import check_method, check_suffix
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.pruning.apart import jobs_of, run_apart
from tfprune.export.pruning.prune_tflite_report import OutputError
from tfprune.export.pruning.sampling.samples import first_graph, warnings_of
from tfprune.export.pruning.shrinking.shrink_tflite_report import ShrinkTfliteReport, ShrunkGroup
from tfprune.export.rewriting.forms import Check, candidate_files, choose, export_report
from tfprune.export.rewriting.rewrite import default_tolerance, file_name
from tfprune.report import Skipped

JOB = "tfprune.export.pruning.shrinking.shrinking_job:_run_job"
ADVICE = "Check that the file itself runs (`tfprune verify`)."


def shrink_tflite(
    source: Source,
    path: str | os.PathLike[str],
    samples: Any,
    *,
    max_bytes: int | None = None,
    max_error: float | None = None,
    flops: BudgetLimit | None = None,
    round_to: int = 1,
    compress: str | None = None,
    verbose: int | str = "auto",
) -> ShrinkTfliteReport:
    """Remove the channels of a .tflite file that its outputs miss least, and write the smaller file.

    Use it on a file without training code: from another framework, from a vendor, or from a package. It needs neither
    Keras nor TensorFlow, neither labels nor training. Fewer channels make a file faster on every runtime. Where the
    model can be trained, `tfprune.prune_to` removes more of them at the same accuracy.

    Channels are followed from operator to operator: those that meet in an addition can only be removed together.
    Channels of the inputs and outputs stay, and so do channels that reach an operator without a rule; the report
    gives the reason. Each group of channels is ranked by optimal brain surgery on the operators that read it. The
    groups that the outputs depend on least lose the most. Then the remaining weights are solved for in order, by
    least squares on the samples. Integer weights keep their types; their scales grow where values no longer fit.

    Args:
        source: The file: a path, or its content. Plain, gzip, xz or packed; float32, float16, or with 8-bit or 4-bit
            weights.
        path: Where the new file is written; it may be the path of the old one.
        samples: Inputs as the file will see them, without labels, 256 or so, as for `prune_tflite`. Every eighth is
            held out, from the end. `"random"` draws numbers in the range of the inputs, which costs accuracy.
        max_bytes: The largest size of the new file, as written: as few channels go as this allows.
        max_error: The largest error of an output on the held-out samples, as a fraction of its standard deviation,
            such as 0.1: as many channels go as this allows.
        flops: The floating-point operations of one sample, two for each multiplication of a kernel, that the new file
            may need: an int is an amount, a float in (0, 1) a fraction of those of the file. As few channels go as
            this allows, in two rounds, between which the others are ranked and solved for anew. Give this, or one of
            `max_bytes` and `max_error`, which search with one round in each try.
        round_to: The number of remaining channels of a group is rounded up to a multiple of this, at least 1. Default
            1. Many kernels are fastest at multiples of 4 or 8.
        compress: None (the default), `"gzip"`, `"xz"` or `"packed"`.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts layers: each is ranked once, and
            solved for once for each number of channels that is tried.

    Returns:
        The channels of each group before and after, the error of each output, and what was written. The file's
        `max_abs_diff` compares it with the file that has the same weights, and zeros in place of those that the last
        round removed: it is 0 for integer files, and at most rounding for float32. Other rounds are checked alike.

    Raises:
        TypeError: If `samples` are None, or an argument has another type.
        ValueError: If the file cannot be read or run, has hash tables, or has no channels that can be removed.
        ValueError: If not one of `flops`, `max_bytes` and `max_error` is given, or it cannot be met.
        ValueError: If a value is out of range.
        ValueError: If samples do not fit the inputs, or do not change the outputs.

    Example:
        >>> report = shrink_tflite("digits.tflite", "small.tflite", images, flops=0.5)
        >>> report.flops_kept <= report.flops / 2, report.file.max_abs_diff < 1e-4
        (True, True)

    Reference:
        Hassibi & Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon".
    """
    check_verbose(verbose)
    destination = check_destination(path)
    check_method(compress)
    check_suffix(destination, compress)
    limits = _checked_limits(flops=flops, max_bytes=max_bytes, max_error=max_error)
    round_to = check_count(round_to, "round_to", least=1)
    file = ModelFile.open(source)
    graph = first_graph(samples, file.graph)
    jobs = jobs_of({**limits, "round_to": round_to, "compress": compress}, [graph])
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        small = run_apart(JOB, folder, content=file.content, jobs=jobs, name=source_name(source), verbose=verbose)
    forms = candidate_files(small.file, name="shrunk", optimize="dense")
    check = Check(small.outputs, default_tolerance(file.graph), ADVICE)
    choice = choose(forms, inputs=small.inputs, check=check, optimize="dense", compress=compress)
    write_atomically(destination, choice.packed)
    weights = choice.form.file.graph.weights
    size, nnz = (sum(getattr(weight, count) for weight in weights) for count in ("size", "nnz"))
    return ShrinkTfliteReport(
        groups=tuple(ShrunkGroup(**row) for row in small.settings["groups"]),
        flops=small.settings["flops"],
        flops_kept=small.settings["flops_kept"],
        bytes_before=len(file.content),
        errors=tuple(OutputError(**row) for row in small.settings["errors"]),
        skipped=tuple(Skipped(group, reason, Skipped.HELD) for group, reason in small.settings["skipped"]),
        samples=graph.fitted,
        held_out=graph.held,
        warnings=warnings_of([graph], small.settings["warnings"]),
        file=export_report(str(destination), choice, source=file_name(source), nnz=nnz, size=size),
    )


def _checked_limits(**limits: Any) -> dict[str, Any]:
    """Return the limits of which one is given."""
    received = {name: value for name, value in limits.items() if value is not None}
    if len(received) != 1:
        text = ", ".join(f"{name}={value!r}" for name, value in received.items()) or "none of them"
        raise ValueError(f"Expected one of `flops`, `max_bytes` and `max_error`. Received: {text}.")
    ((name, value),) = received.items()
    if name == "flops":
        value = check_budget_limit(value, name)
    else:
        value = check_count(value, name, least=1) if name == "max_bytes" else check_number(value, name, above=0)
    return {**limits, name: value}
