"""From a pruned Keras model to a compressed file that was run before it was written."""

from __future__ import annotations

import logging
import os
from typing import Any

import keras

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_number
from tfprune.export.file.files.codec import check_method
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.tflite.reader import read
from tfprune.export.file.xnnpack.groups import SPARSE_THRESHOLD
from tfprune.export.keras_side.converting.accuracy_drop import accuracy_drop, read_evaluate_on
from tfprune.export.keras_side.converting.calibration_data import choose_check_on, predict, read_calibration
from tfprune.export.keras_side.converting.check_converted import (
    KernelZeros,
    check_converted,
    check_rounding,
    kernels_read,
)
from tfprune.export.keras_side.converting.convert import INTEGERS, check_options, convert_prepared
from tfprune.export.keras_side.converting.shared_values import share_grids
from tfprune.export.keras_side.preparing.half_precision import half_types
from tfprune.export.keras_side.preparing.signature import Signature, signature
from tfprune.export.keras_side.preparing.stripped_model import StrippedModel, strip_for_export
from tfprune.export.keras_side.preparing.trained_ranges import holds_ranges, with_known_ranges
from tfprune.export.keras_side.sparse_ready.make_sparse_ready import become_sparse_ready
from tfprune.export.micro.micro import Micro, read_micro
from tfprune.export.rewriting.export_report import ExportReport
from tfprune.export.rewriting.file_form import FileForm, Speed
from tfprune.export.rewriting.forms import (
    Check,
    candidate_files,
    check_form_arguments,
    choose,
    choose_micro,
    export_report,
)
from tfprune.export.rewriting.share_weights import check_levels, share_weights
from tfprune.masking.wrapping.pruned_layers import warn_if_dense

_log = logging.getLogger(__name__)

# Relative to the largest Keras output. Right files were seen to differ by 2e-6, 2e-3, 0.02 and 0.26 at most (the last
# an untrained LSTM on integers, 0.03 without recurrent layers), files with shuffled weights by 0.7 at least.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.35, "int16x8": 0.1, "int4": 0.5}
# Of models that compute in half precision, whose outputs are less exact than those of the file.
HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 0.1}
# Of the float file beside an int8 one: rounding in float32 moves the outputs of an untrained deep network by 1e-4.
FLOAT_BESIDE_INT8 = 1e-3
ADVICE = (
    "Try another value of `quantize`, for 'int8' more calibration data like `check_on`, or allow more "
    "with `tolerance` if the file is accurate enough for you."
)
PROGRESS_STEPS = 4  # that take time: Keras' outputs, the conversion, the forms, their checks


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    levels: int | None = None,
    sparse: str | bool = "auto",
    optimize: str = "size",
    calibration: Any = None,
    io_dtype: str = "float32",
    compress: str | None = None,
    check_on: Any = None,
    tolerance: float | None = None,
    evaluate_on: Any = None,
    max_drop: float = 0.01,
    metric: str = "accuracy",
    allow_float: bool = False,
    target: str | None = None,
    arena: int | None = None,
    flash: int | None = None,
    verbose: int | str = "auto",
) -> ExportReport:
    """Strip, convert, check and write a model; only a file that gave Keras' outputs in another process is written.

    Several forms of the file are built: dense, and with the zeros of the weights left out. Each is run, and the best
    of those that pass is written; the report lists all. The same model gives the same bytes. A form passes if
    max|file - Keras| <= tolerance * max|Keras| for every output; the converter's file has to hold at least the zeros
    that the kernels hold. Warns if the model has wrappers, but none of their masks holds a zero.

    Args:
        model: A built Sequential or Functional model, wrapped for pruning or plain, on any backend of Keras. It is
            left untouched. Layers in mixed precision become float32. On other backends than TensorFlow, the process
            that converts it has to be able to import its custom classes.
        path: Where the file goes, exactly as given.
        quantize: None (float32), `"float16"` (weights), `"dynamic"` (8-bit weights), `"int8"` (8-bit weights and
            activations), `"int16x8"` (8-bit weights and 16-bit activations) or `"int4"` (weights of convolutions and
            Dense layers in 4 bits, activations in 8). The last three need `calibration`, `"int8"` not of a model that
            `quantize_aware` made: its ranges are those of 8 bits.
        levels: With weights of 8 bits: how many different non-zero values each may hold, 1 to 255, which makes packed
            files smaller (`share_weights`). None leaves them as they are.
        sparse: `"auto"` tries sparse forms beside the dense one, True takes sparse ones only, False none. With
            `quantize="dynamic"` the sparse form computes in float32, and with 8-bit weights as the dense one.
        optimize: `"size"` for the fewest bytes; `"latency"` for the fastest kernels that a form reaches, which is
            read from the file (`sparse_inference`), not measured. It also tries
            `make_sparse_ready(model)`, and with sparse forms leaves out channels that no kernel reads.
        calibration: About 100 samples of real data: an array, a list or dict of arrays for several inputs, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, or any iterable of batches. Labels in a tuple (x, y) are
            ignored. More than 500 samples are not read.
        io_dtype: `"float32"`, or the type of integer activations: `"int8"`, or with `quantize="int16x8"` `"int16"`.
        compress: None, `"gzip"`, `"xz"` or `"packed"` (the smallest); `Runner` reads each.
        check_on: Samples on which the file is compared with Keras, any number of them, in the same forms as
            `calibration`. None takes the first calibration batch (of an array, 32 samples), or random numbers.
        tolerance: The largest difference allowed, as a fraction of the largest Keras output, at least 0. None takes
            1e-4 (float32), 1e-2 (float16), 0.1 (dynamic, int16x8), 0.35 (int8) or 0.5 (int4); and at least 1e-2 or
            0.1 if layers of the model compute in float16 or bfloat16, whose outputs are less exact than those of the
            file. For int8, None also asks for more and allows more: each weight and each operator has to be that of
            the float file up to some steps of the int8 file's own scales, and outputs may then differ by what such
            rounding moves them. Scores of a softmax may move more where two classes are close: judge such a file by
            its accuracy, and allow what it needs.
        evaluate_on: A tuple (x, y) of samples and their answers, or batches of such tuples. The file that would be
            written and the Keras model are both measured on them, and the report has both values.
        max_drop: How much worse than the Keras model the file may be on `evaluate_on`, in units of the metric; at
            least 0. The default allows one point of accuracy.
        metric: The metric, by a name that `tfprune.export.evaluate` takes.
        allow_float: Whether operators of a model of `quantize_aware` may stay in float; otherwise such a file is
            refused, and they are named.
        target: None for phones and computers, or `"micro"` for TensorFlow Lite for Microcontrollers, with `quantize`
            None, `"int8"` or `"int16x8"`: a file with a batch of 1 and without the zeros of its weights, which the
            interpreter there unpacks while it runs. It has to give the dense file's outputs there bit for bit, and
            Keras' within `tolerance`; `evaluate_on` is run there, too. Needs the extra `micro`.
        arena: With `target="micro"`: the bytes of RAM that the file may take (`rewrite`).
        flash: With `target="micro"`: the bytes that it may have (`rewrite`).
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds. Its steps are Keras' outputs,
            the conversion, the forms and their checks.

    Returns:
        What was written and how it was checked.

    Raises:
        TypeError: If `model` is not a Keras model, `path` is not a path, `calibration` or `check_on` holds no
            batches, or an argument has another type.
        ValueError: If an argument does not fit, the target cannot be written, the converter fails, no form passes,
            or the file loses more than `max_drop`. What was at `path` before is then untouched.

    Example:
        >>> report = to_tflite(model, "model.tflite.xz", quantize="float16", compress="xz", check_on=images)
        >>> print(report)
        exported        model.tflite.xz
        --------------  ---...
        bytes           4,...
        unpacked bytes  6,...
        kernels         1,480 of 14,800 entries non-zero (90.0% zeros)
        difference      ... (allowed: 0.01 of the largest output)
        ...
    """
    destination = check_destination(path)
    check_method(compress)
    trained = model if quantize == "int8" and holds_ranges(model) else None
    check_options(quantize=quantize, calibration=calibration, io_dtype=io_dtype, has_ranges=trained is not None)
    check_form_arguments(sparse=sparse, optimize=optimize)
    micro = read_micro(target, arena=arena, flash=flash, sparse=sparse, optimize=optimize, compress=compress)
    check_verbose(verbose)
    _check_numbers(quantize, levels=levels, micro=micro)
    allowed = None if tolerance is None else check_number(tolerance, "tolerance", least=0)
    signature(model)
    tries_latency = optimize == "latency" and sparse is not False
    if trained is None:
        stripped = strip_for_export(model, finds_unread=tries_latency)
    else:
        stripped = StrippedModel(with_known_ranges(model))
    warn_if_dense(model)
    inputs = signature(stripped.model)
    batches = None if calibration is None else read_calibration(calibration, inputs)
    data = choose_check_on(check_on, inputs, batches=batches, model=stripped.model)
    first = inputs.pack({name: array[: inputs.batch or 1] for name, array in data.items()})
    labeled = read_evaluate_on(evaluate_on, inputs, metric=metric, max_drop=max_drop)
    with Progress(PROGRESS_STEPS, verbose=verbose, unit="step") as progress:
        expected = predict(stripped.model, data, inputs=inputs, argument="check_on")
        scored = [] if labeled is None else predict(stripped.model, labeled.x, inputs=inputs, argument="evaluate_on")
        plain = stripped.without_unread()
        kernels = kernels_read(plain, first)
        progress.add()
        batch = 1 if micro else None
        converted = convert_prepared(
            plain, inputs, batches=batches or (), quantize=quantize, io_dtype=io_dtype, batch=batch
        )
        content = share_grids(converted, plain, of=trained)
        check = Check(expected, _default(quantize, plain) if allowed is None else allowed, ADVICE)
        if quantize == "int8" and allowed is None:
            precision = max(FLOAT_BESIDE_INT8, _default(None, plain))
            check = check_rounding(
                content, plain, inputs=inputs, batch=batch, data=data, check=check, precision=precision
            )
        content = content if levels is None else share_weights(content, levels=levels)
        graph, called_on = read(content), (plain, first)
        check_converted(graph, kernels, called_on=called_on, trained=trained, allow_float=allow_float)
        progress.add()
        if micro is not None:
            choice = choose_micro(content, inputs=[data[name] for name in inputs.names], micro=micro, check=check)
        else:
            files = candidate_files(content, name=quantize or "float32", sparse=sparse, optimize=optimize)
            if tries_latency and plain is not model and _may_run_sparse(kernels, quantize):
                files += _sparse_ready(plain, inputs, quantize, levels)
            progress.add()
            choice = choose(files, inputs=data, optimize=optimize, compress=compress, check=check)
        lost = accuracy_drop(choice.form.content, labeled, expected=scored, micro=micro)
    write_atomically(destination, choice.packed)
    nnz, size = (sum(getattr(row, count) for row in kernels) for count in ("nnz", "size"))
    return export_report(str(destination), choice, lost=lost, nnz=nnz, size=size)


def _default(quantize: str | None, plain: keras.Model) -> float:
    return max([TOLERANCES[quantize], *(HALF_TOLERANCES[half] for half in half_types(plain))])


def _check_numbers(quantize: str | None, *, levels: Any, micro: Micro | None) -> None:
    if micro is not None and quantize not in (None, "int8", "int16x8"):
        raise ValueError(
            f"Expected quantize='int8', 'int16x8' or None with target='micro'. Received: quantize={quantize!r}. The "
            "interpreter for microcontrollers has no kernels for it."
        )
    if levels is None:
        return
    check_levels(levels)
    if quantize not in ("dynamic", "int8", "int16x8"):
        raise ValueError(
            f"Expected quantize='dynamic', 'int8' or 'int16x8' with `levels`, which 8-bit weights share. Received: "
            f"levels={levels}, quantize={quantize!r}."
        )


def _may_run_sparse(kernels: list[KernelZeros], quantize: str | None) -> bool:
    """Tell whether sparse kernels for whole maps, which take floats only, find zeros enough in a kernel."""
    return quantize not in INTEGERS and any(row.sparsity > SPARSE_THRESHOLD for row in kernels)


def _sparse_ready(plain: keras.Model, inputs: Signature, quantize: str | None, levels: int | None) -> list[FileForm]:
    """Convert an equal model that sparse kernels run; `plain` becomes it and is used up."""
    try:
        ready = become_sparse_ready(plain)
    except ValueError as error:  # which `sparse_inference` of the file says as well
        _log.info("%r has no form for sparse kernels: %s", plain.name, error)
        return []
    content = convert_prepared(ready, inputs, quantize=quantize)
    content = content if levels is None else share_weights(content, levels=levels)
    name = f"{quantize or 'float32'}, sparse-ready"
    files = candidate_files(content, name=name, sparse="auto", optimize="latency")
    return [file for file in files if file.speed is Speed.SPARSE]
