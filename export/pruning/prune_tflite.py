"""Prune a .tflite file on samples without labels, without training and without the framework that it came from."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from tfprune.base.limit import Limit
from tfprune.base.progress import check_verbose
from tfprune.base.spec import check_choice
from tfprune.export.device.running.inputs import inputs_to_job
from tfprune.export.file.files.codec import check_method, check_suffix
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import fraction_of_zeros
from tfprune.export.pruning.apart import jobs_of, numbered, run_apart
from tfprune.export.pruning.prune_tflite_report import OutputError, PrunedLayer, PruneTfliteReport
from tfprune.export.pruning.pruning_goal import checked_goal, checked_pattern
from tfprune.export.pruning.pruning_job import X, Y
from tfprune.export.pruning.sampling.samples import check_samples, samples_of_graphs, warnings_of
from tfprune.export.rewriting.export_report import AccuracyDrop
from tfprune.export.rewriting.forms import OPTIMIZE, Check, candidate_files, choose, export_report
from tfprune.export.rewriting.rewrite import default_tolerance, file_name
from tfprune.patterns import Pattern
from tfprune.report import Skipped

JOB = "tfprune.export.pruning.pruning_job:_run_job"
ADVICE = "Check that the file itself runs (`tfprune verify`)."


def prune_tflite(
    source: Source,
    path: str | os.PathLike[str],
    samples: Any,
    *,
    sparsity: float | None = None,
    max_bytes: int | None = None,
    max_error: float | None = None,
    pattern: str | Pattern = "unstructured",
    optimize: str = "size",
    compress: str | None = None,
    max_drop: Limit | None = None,
    verbose: int | str = "auto",
) -> PruneTfliteReport:
    """Put zeros in place of the weights of a .tflite file that its outputs miss least, and write the file anew.

    Use it on a file without training code: from another framework, from a vendor, or from a package. It needs neither
    Keras nor TensorFlow, neither labels nor training. Where the model can be trained, `PruningCallback` reaches more
    zeros at the same accuracy.

    The weights of convolutions, transposed convolutions, fully connected and recurrent layers, of products with
    constant matrices and of tables get zeros, in order: each layer is solved for so that it returns, on what the
    layers before it return with their zeros, what it returned in the dense file. Layers that the outputs depend on
    most get the fewest zeros. Integer weights keep their types; their scales grow where values no longer fit. All
    other weights stay, and the report lists them.

    Args:
        source: The file: a path, or its content. Plain, gzip, xz or packed; float32, float16, or with 8-bit or 4-bit
            weights.
        path: Where the new file is written; it may be the path of the old one.
        samples: Inputs as the file will see them, without labels, 256 or so: one array, batch first; for several
            inputs a list in the file's order or a dict by name. For a file with several signatures a dict of such
            samples by signature, or those of its first graph alone; the others keep their weights. A weight that
            signatures share is pruned on the samples of the first one that uses it. For a file that keeps values from
            one run to the next, such as a wake word, samples are successive inputs of one stream. Real numbers,
            preprocessed as in training: no error in the report shows a wrong preprocessing. Every eighth is held out,
            from the end: put samples of another origin there. `"random"` draws numbers in the range of the inputs,
            which costs accuracy.
        sparsity: The fraction of zeros in all weights that are pruned, in [0, 1). Give this, or
            one of `max_bytes`, `max_error` and `max_drop`.
        max_bytes: The largest size of the new file, as written: the fewest zeros that keep to it are taken.
        max_error: The largest error of an output on the held-out samples, as a fraction of its standard deviation,
            such as 0.1: the most zeros that keep to it are taken.
        pattern: `"unstructured"` (the default), `patterns.NM(2, 4)` or `patterns.Block(1, 4)`.
        optimize: As in `rewrite`: `"size"` (the default) takes the form of the fewest bytes, `"latency"` the one with
            the fastest kernels, `"dense"` the dense one, `"sparse"` the smallest sparse one.
        compress: None (the default), `"gzip"`, `"xz"` or `"packed"`.
        max_drop: A `tfprune.Limit` with labeled data, such as `tfprune.Limit(0.01, data=(x, y))`: the most zeros with
            which the file loses no more of the metric there are taken. The data decide, so report the accuracy on
            others. For several outputs, the limit holds for each; for several signatures, it holds for the outputs
            of the first graph.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts layers: each is measured once,
            and pruned once for each sparsity that is tried.

    Returns:
        The zeros and the error of each layer, the error of each output, and what was written.

    Raises:
        TypeError: If `samples` are None, or an argument has another type.
        ValueError: If not one of `sparsity`, `max_bytes`, `max_error` and `max_drop` is given, or a value is out of
            range.
        ValueError: If the file cannot be read or run, has hash tables, or has no weights to prune.
        ValueError: If samples do not fit the inputs, or do not change the outputs.

    Example:
        >>> report = prune_tflite("digits.tflite", "sparse.tflite", images, sparsity=0.92)  # 0.9 are zeros already
        >>> round(report.sparsity, 2)
        0.92

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774 (the step of each layer).
    """
    check_verbose(verbose)
    destination = check_destination(path)
    check_method(compress)
    check_suffix(destination, compress)
    check_choice(optimize, "optimize", choices=OPTIMIZE)
    shape = checked_pattern(pattern)
    goal = checked_goal(shape, sparsity=sparsity, max_bytes=max_bytes, max_error=max_error, max_drop=max_drop)
    file = ModelFile.open(source)
    graphs = samples_of_graphs(samples, file)
    settings = {**goal.settings(), "optimize": "size" if optimize == "latency" else optimize, "compress": compress}
    settings |= {"pattern": type(shape).__name__, "pattern_arguments": shape.get_config()}
    jobs = jobs_of(settings, graphs)
    if goal.metric:
        form, answers = inputs_to_job(goal.y)
        jobs |= {X: ({}, numbered(check_samples(goal.x, file.graph))), Y: ({"form": form}, answers)}
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        pruned = run_apart(JOB, folder, content=file.content, jobs=jobs, name=source_name(source), verbose=verbose)
    forms = candidate_files(pruned.file, name="pruned", optimize=optimize)
    check = Check(pruned.outputs, default_tolerance(file.graph), ADVICE)
    choice = choose(forms, inputs=pruned.inputs, check=check, optimize=optimize, compress=compress)
    write_atomically(destination, choice.packed)
    layers = tuple(PrunedLayer(**row) for row in pruned.settings["layers"])
    size, nnz = (sum(getattr(layer, count) for layer in layers) for count in ("size", "nnz"))
    return PruneTfliteReport(
        sparsity=fraction_of_zeros(nnz, size),
        layers=layers,
        errors=tuple(OutputError(**row) for row in pruned.settings["errors"]),
        skipped=tuple(Skipped(layer, reason, Skipped.NO_RULE) for layer, reason in pruned.settings["skipped"]),
        samples=sum(graph.fitted for graph in graphs),
        held_out=sum(graph.held for graph in graphs),
        warnings=warnings_of(graphs, pruned.settings["warnings"]),
        lost=tuple(AccuracyDrop(**row) for row in pruned.settings["lost"]),
        file=export_report(str(destination), choice, source=file_name(source), nnz=nnz, size=size),
    )
