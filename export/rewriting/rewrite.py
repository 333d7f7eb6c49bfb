"""From a .tflite file that exists to a smaller or faster one: export without a Keras model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_number
from tfprune.export.device.running.inputs import arrays_of, random_inputs
from tfprune.export.device.running.verify import run_in_child
from tfprune.export.file.files.codec import check_method, check_suffix
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.files.metadata import REDUCED_PRECISION
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite.model import Model
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.export_report import ExportReport
from tfprune.export.rewriting.forms import (
    TIMEOUT,
    Check,
    candidate_files,
    choose,
    choose_micro,
    export_report,
)
from tfprune.export.rewriting.shapes.fix_batch import check_batch, fix_batch
from tfprune.export.rewriting.target import Target, read_target

RANDOM_SAMPLES = 8
EXACT_TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 0.1  # a file with 8-bit weights rounds its activations, its sparse form may not
ADVICE = "Check that the file itself runs (`tfprune verify`), or allow more with `tolerance`."


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
        kernels         1,480 of 14,800 entries non-zero (90.0% zeros)
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
    inputs = random_inputs(model.inputs, model.outputs, rows=RANDOM_SAMPLES) if check_on is None else check_on
    fixed = _with_batch(file, wanted)
    if wanted.micro is not None:
        samples = arrays_of(inputs, names=[info.name for info in model.inputs])
        choice = choose_micro(fixed, inputs=samples, check=Check(None, allowed, ADVICE), micro=wanted.micro)
    else:
        name = "as it was" if fixed == file else f"batch of {wanted.fixed_batch}"
        forms = candidate_files(fixed, name=name, optimize=wanted.optimize)
        forms = wanted.forms(forms, source=source_name(source))
        if check_on is None and len(file.signatures) > 1:
            inputs = None if fixed == file else _drawn(file, wanted.fixed_batch or 1)
        with Progress(1 + len(forms), verbose=verbose, unit="form") as progress:
            check = Check(_outputs(file, inputs), allowed, ADVICE)
            progress.add()
            choice = choose(
                forms, inputs=inputs, check=check, optimize=wanted.optimize, compress=compress, each_form=progress.add
            )
    write_atomically(destination, choice.packed)
    size, nnz = (sum(getattr(weight, count) for weight in model.weights) for count in ("size", "nnz"))
    report = export_report(str(destination), choice, source=file_name(source), nnz=nnz, size=size)
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
        raise ValueError(
            f"Expected a file that runs. Received: one that does not: {run.reason}. Nothing was written. "
            "Check it with `tfprune verify`, and give data that it takes with `check_on`."
        )
    return run.outputs


def file_name(source: Source) -> str:
    """Return the name of a file, without its folder, which is nobody else's business; empty for bytes."""
    return Path(source).name if isinstance(source, str | os.PathLike) else ""


def default_tolerance(model: Model) -> float:
    """Return the difference that two forms of a file may have, as a fraction of its largest output."""
    return ROUNDED_TOLERANCE if any(weight.dtype == "int8" for weight in model.weights) else EXACT_TOLERANCE
