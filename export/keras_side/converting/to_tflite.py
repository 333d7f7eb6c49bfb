"""From a pruned Keras model to a compressed file that was run before it was written."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from tfprune.base.limit import Limit
from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_number
from tfprune.export.device.running.evaluate import DATA
from tfprune.export.device.running.format_tolerance import TOLERANCES, format_tolerance
from tfprune.export.file.files.codec import check_method, check_suffix
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.model_file import ModelFile, Pass
from tfprune.export.file.xnnpack.groups import SPARSE_THRESHOLD
from tfprune.export.keras_side.converting.accuracy_drop import accuracy_drop, read_max_drop
from tfprune.export.keras_side.converting.calibration_data import choose_check_on, predict, read_calibration
from tfprune.export.keras_side.converting.check_converted import (
    KernelZeros,
    check_converted,
    check_rounding,
    kernels_read,
)
from tfprune.export.keras_side.converting.convert import check_calibration, convert_prepared
from tfprune.export.keras_side.converting.quantization import INTEGERS, Quantization, as_quantization
from tfprune.export.keras_side.converting.shared_values import share_grids
from tfprune.export.keras_side.preparing.half_precision import half_types
from tfprune.export.keras_side.preparing.signature import Signature, signature
from tfprune.export.keras_side.preparing.stripped_model import StrippedModel, strip_for_export
from tfprune.export.keras_side.preparing.trained_ranges import holds_ranges, with_known_ranges
from tfprune.export.keras_side.sparse_ready.make_sparse_ready import become_sparse_ready
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.export_report import ExportReport
from tfprune.export.rewriting.forms import (
    Check,
    FileForm,
    Speed,
    candidate_files,
    choose,
    choose_micro,
    export_report,
)
from tfprune.export.rewriting.share_weights import share_values
from tfprune.export.rewriting.target import Target, read_target
from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer
from tfprune.masking.wrapping.pruned_layers import warn_if_dense

_log = logging.getLogger(__name__)

# Of models that compute in half precision, whose outputs are less exact than those of the file.
HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 0.1}
# Of the float file beside an int8 one: rounding in float32 moves the outputs of an untrained deep network by 1e-4.
FLOAT_BESIDE_INT8 = 1e-3
ADVICE = (
    "Try another value of `quantize`, for 'int8' calibration data scaled like `check_on`, or allow more "
    "with `tolerance` if the file is accurate enough for you."
)
PROGRESS_STEPS = 4  # that take time: Keras' outputs, the conversion, the forms, their checks


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | Quantization | EdgeQuantizer | None = None,
    calibration: Any = None,
    check_on: Any = None,
    tolerance: float | None = None,
    optimize: str = "size",
    compress: str | None = None,
    target: str | Micro | None = None,
    batch: int | None = None,
    max_drop: Limit | None = None,
    verbose: int | str = "auto",
) -> ExportReport:
    """Export a model as a TFLite file, and write it only after its outputs were compared with Keras' outputs.

    Wrappers are stripped first. `to_tflite` builds several forms of the file, a dense one and forms without the zeros
    of the weights, runs each in another process, and writes the best form that passes; the report lists all of them.
    A form passes if max|file - Keras| <= tolerance * max|Keras| for every output, and if its weights have at least
    the zeros of the kernels. The same model gives the same bytes. If the model has wrappers but no mask has a zero,
    `to_tflite` warns.

    Args:
        model: A built Sequential or Functional model, wrapped for pruning or plain, on any backend of Keras. It is
            left untouched. Layers in mixed precision become float32. On other backends than TensorFlow, the process
            that converts it has to be able to import its custom classes.
        path: Where the file is written, exactly as given.
        quantize: The number format. None (the default) is float32, `"float16"` stores the weights in 16 bits,
            `"dynamic"` the weights in 8 bits; `"int8"` uses 8 bits for weights and activations, `"int16x8"` 8-bit
            weights and 16-bit activations, `"int4"` 4-bit weights in convolutions and Dense layers and 8-bit
            activations. The last three need `calibration`, except `"int8"` for a model of `quantize_aware`, whose
            ranges were trained. A `Quantization` has further options, such as integer inputs and outputs, and an
            `EdgeQuantizer` is a recipe of AI Edge Quantizer, such as 4-bit weights with a scale for each block.
        calibration: About 100 samples of real data: an array, a list or dict of arrays for several inputs, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, or any iterable of batches. Labels in a tuple (x, y) are
            ignored, and only the first 500 samples are read.
        check_on: Samples on which the file is compared with Keras, any number of them, in the same forms as
            `calibration`. None (the default) uses the first calibration batch (32 samples of an array), or random
            numbers without calibration data.
        tolerance: The largest difference allowed, as a fraction of the largest Keras output, at least 0. None (the
            default) allows 1e-4 for float32, 1e-2 for float16, 0.1 for dynamic and int16x8, 0.35 for int8 and 0.5 for
            int4; at least 1e-2 or 0.1 if layers of the model compute in float16 or bfloat16, whose outputs are less
            exact than those of the file. For int8, None also compares each weight and each operator with the float
            file: they may differ by a few steps of the int8 file's scales, and the outputs by the effect of such
            rounding. Scores of a softmax may move further where two classes are close: judge such a file by its
            accuracy (`max_drop`), and raise the tolerance if needed.
        optimize: `"size"` (the default) for the fewest bytes, or `"latency"` for the fastest kernels that a form
            reaches, which is estimated from the file (`sparse_inference`), not measured. `"latency"` also tries
            `make_sparse_ready(model)`, and its sparse forms have no channels that no kernel reads. Both try sparse
            forms beside the dense form; `"dense"` tries the dense form only, and `"sparse"` sparse forms only. With
            `quantize="dynamic"` a sparse form computes in float32; with `"int8"` it computes as the dense form does.
        compress: None (the default), `"gzip"`, `"xz"` or `"packed"` (the smallest); `Runner` reads all of them.
        target: The runtime that the file is for: None (the default) for phones and computers, or `"micro"` for
            TensorFlow Lite for Microcontrollers, with `quantize` None, `"int8"` or `"int16x8"`. A `Micro` sets
            budgets of RAM and flash. The file then has a batch of 1 and no zeros of its weights; the interpreter
            unpacks them while it runs. Its outputs there must equal the dense file's bit for bit, and Keras' within
            `tolerance`. Needs the extra `micro`. `"web"` is for LiteRT.js in a browser: a batch of 1, and the form
            with the fastest kernels, as with `optimize="latency"`; of equally fast ones the smallest. With
            `quantize="dynamic"` it needs weights with zeros enough for a sparse form, because the dense form has
            about a third of the speed of float32 there and is not written.
        batch: The number of samples that the file takes at once, at least 1, such as 1 for LiteRT.js, which cannot
            resize an input. None (the default) leaves it open where the model does, but for a `target`.
        max_drop: A `tfprune.Limit` with labeled data, such as `tfprune.Limit(0.01, data=(x, y))`. The file and the
            Keras model are both measured on this data, with `metric` by a name that `tfprune.export.evaluate` knows
            (`"accuracy"` by default); the report has both values, and a file that loses more is refused. With
            `max_drop_per_class`, a file that loses more of one class is refused, too. None (the default) measures
            nothing.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds. Its steps are Keras' outputs,
            the conversion, the forms and their checks.

    Returns:
        A report of the file that was written, and of its checks.

    Raises:
        TypeError: If `model` is not a Keras model, `path` is not a path, `calibration` or `check_on` holds no
            batches, `max_drop` is not a Limit, or an argument has another type.
        ValueError: If an argument does not fit, the file cannot be written, the converter fails, no form passes, or
            the file loses more than `max_drop` allows. A file that was at `path` before is then untouched.

    Example:
        >>> report = to_tflite(model, "model.tflite.xz", quantize="float16", compress="xz", check_on=images)
        >>> print(report)
        exported        model.tflite.xz
        --------------  ---...
        bytes           4,...
        unpacked bytes  6,...
        kernels         1,480 of 14,800 entries non-zero (90.0% zeros)
        difference      ... (limit: ... = 0.01 x the largest output)
        ...
    """
    destination = check_destination(path)
    check_method(compress)
    form = quantize if isinstance(quantize, EdgeQuantizer) else as_quantization(quantize)
    trained = model if form.scheme == "int8" and holds_ranges(model) else None
    check_calibration(calibration, quantize=form.scheme, has_ranges=trained is not None)
    wanted = read_target(target, optimize=optimize, compress=compress, batch=batch)
    check_suffix(destination, compress)
    _check_form(form, trained=trained, micro=wanted.micro)
    check_verbose(verbose)
    allowed = None if tolerance is None else check_number(tolerance, "tolerance", least=0)
    fixed = _batch(wanted, signature(model), model)
    tries_latency = wanted.optimize == "latency"
    if trained is None:
        stripped = strip_for_export(model, finds_unread=tries_latency)
    else:
        stripped = StrippedModel(with_known_ranges(model))
    warn_if_dense(model)
    inputs = signature(stripped.model)
    batches = None if calibration is None else read_calibration(calibration, inputs)
    data = choose_check_on(check_on, inputs, batches=batches, model=stripped.model)
    first = inputs.pack({name: array[: inputs.batch or 1] for name, array in data.items()})
    labeled = read_max_drop(max_drop, inputs)
    with Progress(PROGRESS_STEPS, verbose=verbose, unit="step") as progress:
        expected = predict(stripped.model, data, inputs=inputs, argument="check_on")
        scored = [] if labeled is None else predict(stripped.model, labeled.x, inputs=inputs, argument=DATA)
        plain = stripped.without_unread()
        kernels = kernels_read(plain, first)
        progress.add()
        converted = convert_prepared(plain, inputs, form=form, batches=batches or (), batch=fixed)
        file = share_grids(converted, plain, of=trained)
        check = Check(expected, _default(form.scheme, plain, file) if allowed is None else allowed, ADVICE)
        if form.scheme == "int8" and allowed is None:
            precision = max(FLOAT_BESIDE_INT8, _default(None, plain))
            check = check_rounding(
                file, plain, inputs=inputs, batch=fixed, data=data, check=check, precision=precision
            )
        file = file.after(*_passes(form))
        called_on = plain, first
        check_converted(file.graph, kernels, called_on=called_on, trained=trained, allow_float=form.allow_float)
        progress.add()
        if wanted.micro is not None:
            samples = [data[name] for name in inputs.names]
            choice = choose_micro(file, inputs=samples, micro=wanted.micro, check=check)
        else:
            forms = candidate_files(file, name=_name(form), optimize=wanted.optimize)
            if tries_latency and plain is not model and _may_run_sparse(kernels, form.scheme):
                forms += _sparse_ready(plain, inputs, form, fixed)
            forms = wanted.forms(forms, source=f"{model.name!r} with quantize={form.scheme!r}")
            progress.add()
            choice = choose(forms, inputs=data, optimize=wanted.optimize, compress=compress, check=check)
        lost = accuracy_drop(choice.form.file, labeled, expected=scored, micro=wanted.micro)
    write_atomically(destination, choice.packed)
    nnz, size = (sum(getattr(row, count) for row in kernels) for count in ("nnz", "size"))
    report = export_report(str(destination), choice, source=model.name, lost=lost, nnz=nnz, size=size)
    return replace(report, uses_calibration=check_on is None and bool(batches))


def _default(scheme: str | None, plain: keras.Model, file: ModelFile | None = None) -> float:
    """Return the difference allowed: by the number format, or that of the weights in a file of a recipe."""
    is_recipe = file is not None and scheme == EdgeQuantizer.scheme
    of_format = format_tolerance(file.graph) if is_recipe else TOLERANCES[scheme]
    return max([of_format, *(HALF_TOLERANCES[half] for half in half_types(plain))])


def _check_form(form: Quantization | EdgeQuantizer, *, trained: keras.Model | None, micro: Micro | None) -> None:
    if trained is not None and form.skip:
        raise ValueError(
            f"Expected a Quantization without `skip` for a model of tfprune.quantize_aware. Received: "
            f"skip={form.skip!r}. Pass `skip` to quantize_aware, and allow_float=True here."
        )
    if micro is not None and form.scheme not in (None, "int8", "int16x8"):
        raise ValueError(
            f"Expected quantize='int8', 'int16x8' or None with target='micro'. Received: quantize={form.scheme!r}. "
            "The interpreter for microcontrollers has no kernels for it."
        )


def _passes(form: Quantization | EdgeQuantizer) -> list[Pass]:
    """Return what becomes of a file whose rounding was checked."""
    return [] if form.levels is None else [partial(share_values, levels=form.levels)]


def _name(form: Quantization | EdgeQuantizer) -> str:
    return form.name if isinstance(form, EdgeQuantizer) else form.scheme or "float32"


def _may_run_sparse(kernels: list[KernelZeros], scheme: str | None) -> bool:
    """Tell whether sparse kernels for whole maps, which take floats only, find zeros enough in a kernel."""
    return scheme not in (*INTEGERS, EdgeQuantizer.scheme) and any(row.sparsity > SPARSE_THRESHOLD for row in kernels)


def _batch(wanted: Target, inputs: Signature, model: keras.Model) -> int | None:
    """Return the batch of the file; None leaves it open where the model does."""
    if inputs.batch is not None and wanted.batch not in (None, inputs.batch):
        raise ValueError(
            f"Expected batch={inputs.batch} or None with {model.name!r}, whose input {inputs.names[0]!r} has this "
            f"batch. Received: batch={wanted.batch}. Build the model on keras.Input(shape), which leaves it open."
        )
    return wanted.fixed_batch


def _sparse_ready(
    plain: keras.Model, inputs: Signature, form: Quantization | EdgeQuantizer, batch: int | None
) -> list[FileForm]:
    """Convert an equal model that sparse kernels run; `plain` becomes it and is used up."""
    try:
        ready = become_sparse_ready(plain)
    except ValueError as error:  # which `sparse_inference` of the file says as well
        _log.info("%r has no form for sparse kernels: %s", plain.name, error)
        return []
    file = convert_prepared(ready, inputs, form=Quantization(form.scheme), batch=batch).after(*_passes(form))
    forms = candidate_files(file, name=f"{form.scheme or 'float32'}, sparse-ready", optimize="latency")
    return [candidate for candidate in forms if candidate.speed is Speed.SPARSE]
