"""From a .tflite file that exists to a smaller or faster one: export without a Keras model."""

from __future__ import annotations

import os
from typing import Any

from tfprune.export.files.codec import check_method
from tfprune.export.files.model_file import Source, read_model
from tfprune.export.files.target import check_target, write_atomically
from tfprune.export.rewriting.export_report import ExportReport
from tfprune.export.rewriting.forms import TIMEOUT, check_form_arguments, choose, export_report, forms
from tfprune.export.running.inputs import random_inputs
from tfprune.export.running.verify import run_in_child
from tfprune.export.tflite.model import Model
from tfprune.export.tflite.reader import read
from tfprune.spec import check_number

SAMPLES = 8  # drawn for the check when no data is given
EXACT, ROUNDED = 1e-4, 0.1  # tolerances: a file with 8-bit weights rounds its activations, its sparse form may not
ADVICE = "Check that the file itself runs (`tfprune verify`), or allow more with `tolerance`."


def rewrite(
    source: Source,
    path: str | os.PathLike[str],
    *,
    sparse: str | bool = "auto",
    optimize: str = "size",
    compress: str | None = None,
    check_on: Any = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Write a .tflite file anew: sparse where that pays, packed if asked, and checked against what it gave before.

    Neither Keras nor TensorFlow is needed. Weights keep their values; signatures and metadata stay. Only the first
    graph is checked; where further signatures start at others, those stay as they are.

    Args:
        source: A path, or the content of such a file: plain or packed, of any origin.
        path: Where the new file goes, exactly as given; it may be the path of the old one.
        sparse: `"auto"` tries sparse forms beside the dense one, True takes sparse ones only, False none.
        optimize: `"size"` for the fewest bytes, `"latency"` for the fastest kernels that a form reaches.
        compress: None, `"gzip"`, `"xz"` or `"packed"`; `Runner` reads each.
        check_on: Data on which both files are compared: what `Runner.predict` takes. None draws random numbers.
        tolerance: The largest difference allowed, as a fraction of the largest output, at least 0. None takes
            1e-4, or 0.1 for a file with 8-bit weights, whose activations may be rounded before and not after.

    Returns:
        What was written and how it was checked.

    Raises:
        TypeError: If `source` is neither a path nor bytes, `path` is not a path, or an argument has another type.
        ValueError: If an argument does not fit, the file cannot be read, written or run, or no form passes. What was
            at `path` before is then untouched.

    Example:
        >>> print(rewrite("digits.tflite", "digits.tfz", compress="packed"))
        exported        digits.tfz
        --------------  ---...
        bytes           5,...
        unpacked bytes  60,...
        kernels         1,480 of 14,800 entries non-zero (90.0% zeros)
        difference      0 (allowed: 0.0001 of the largest output)
        ...
    """
    target = check_target(path)
    check_method(compress)
    check_form_arguments(sparse=sparse, optimize=optimize)
    content = read_model(source)
    model = read(content)
    inputs = random_inputs(model.inputs, model.outputs, rows=SAMPLES) if check_on is None else check_on
    before = run_in_child(content, inputs, timeout=TIMEOUT)
    if before.reason:
        raise ValueError(
            f"Expected a file that runs. Received: one that does not: {before.reason}. Nothing was written. "
            "Check it with `tfprune verify`, and give data that it takes with `check_on`."
        )
    choice = choose(
        forms(content, name="as it was", sparse=sparse, optimize=optimize),
        inputs=inputs,
        expected=before.outputs,
        tolerance=_default(model) if tolerance is None else check_number(tolerance, "tolerance", least=0),
        optimize=optimize,
        compress=compress,
        advice=ADVICE,
    )
    write_atomically(target, choice.packed)
    size, nnz = (sum(getattr(weight, count) for weight in model.weights) for count in ("size", "nnz"))
    return export_report(str(target), choice, nnz=nnz, size=size)


def _default(model: Model) -> float:
    return ROUNDED if any(weight.dtype == "int8" for weight in model.weights) else EXACT
