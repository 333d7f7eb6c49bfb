"""Keras models to .tflite bytes, in a child process: the converter can take a process down with it.

On the TensorFlow backend the model travels as a SavedModel, so that the child needs none of its classes. On other
backends it travels as Keras saves it, and the child loads it on TensorFlow.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.export.device.processes.child_process import OUTPUT, run_job
from tfprune.export.device.processes.job_files import write_job
from tfprune.export.file.model_file import ModelFile, Pass
from tfprune.export.file.report import reason_of
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.check_operators import check_operators
from tfprune.export.file.tflite.signature_order import keep_order
from tfprune.export.keras_side.converting.convert_job import CONVERTED, JOB, SAVED_MODEL
from tfprune.export.keras_side.converting.float_islands import join_islands
from tfprune.export.keras_side.converting.mixed_precision import write_marked
from tfprune.export.keras_side.converting.quantization import INTEGERS, Quantization
from tfprune.export.keras_side.preparing.trained_ranges import holds_ranges
from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer, edge_quantized
from tfprune.export.rewriting.weights.four_bit_weights import four_bit_weights
from tfprune.export.rewriting.weights.merge_constants import merge_constants, own_biases

if TYPE_CHECKING:
    import keras

    from tfprune.export.keras_side.preparing.signature import Signature

_log = logging.getLogger(__name__)
FLOATS = Quantization(None)
# What becomes of a file of the converter, by the number format.
PASSES: dict[str | None, tuple[Pass, ...]] = {
    "int8": (join_islands,),
    "int16x8": (join_islands, own_biases),
    "int4": (join_islands, merge_constants, four_bit_weights),
}
TIMEOUT = 3600.0  # seconds; calibrating a large network takes minutes
CHILD = "tfprune.export.keras_side.converting.convert_job:_in_child"
# The GPU is the parent's: JAX takes most of its memory, and the child needs none.
ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}


def convert(
    model: keras.Model,
    *,
    quantize: str | None = None,
    calibration: Any = None,
    io_dtype: str = "float32",
    batch: int | None = None,
    skip: Sequence[str] = (),
) -> bytes:
    """Convert a Keras model to a TFLite file of built-in operators only.

    Inputs keep their names; inputs and outputs keep Keras' order. A model with recurrent layers gets a batch of 1,
    which the converter needs, and for `"int8"` its recurrent layers are unrolled.

    Args:
        model: A built Sequential or Functional model.
        quantize: None (float32), `"float16"` (weights), `"dynamic"` (8-bit weights, float activations), `"int8"`
            (weights and activations, every operator; of a model with ranges those that are not left in float),
            `"int16x8"` (16-bit activations, 8-bit weights) or `"int4"` (`four_bit_weights`).
        calibration: For integers, which need it; `"int8"` only unless the model has ranges (`with_known_ranges`):
            samples of real data, as `to_tflite` takes them. 100 to 500 are enough; more are not read. The other kinds
            check it and convert without it.
        io_dtype: `"float32"`, or the type of the activations, such as `"int8"`, to leave out the conversion at the
            file's borders. Integer inputs stay as they are.
        batch: The batch that the file takes; None leaves it open where the model does.
        skip: The layers and operators that stay in float in an int8 file, as `Quantization` describes them.

    Returns:
        The file's bytes; the same model gives the same bytes.

    Raises:
        TypeError: If `model` is not a Keras model, `calibration` holds no batches, or an option has another type.
        ValueError: If an argument does not fit, another process cannot import a custom class that it needs, or the
            converter refuses the model or crashes on it.
    """
    from tfprune.export.keras_side.converting.calibration_data import read_calibration
    from tfprune.export.keras_side.preparing.signature import signature

    form = Quantization(quantize, io_dtype=io_dtype, skip=skip or None)  # refuses what does not go together
    check_calibration(calibration, quantize=quantize, has_ranges=holds_ranges(model))
    inputs = signature(model)
    batches = [] if calibration is None else read_calibration(calibration, inputs)
    return convert_prepared(model, inputs, form=form, batches=batches, batch=batch).content


def convert_prepared(
    model: keras.Model,
    inputs: Signature,
    *,
    form: Quantization | EdgeQuantizer = FLOATS,
    batches: Sequence[Mapping[str, np.ndarray]] = (),
    batch: int | None = None,
    unroll: bool = False,
) -> ModelFile:
    """Convert a model whose inputs and calibration data have been read, with options that have been checked.

    Args:
        model: The model.
        inputs: Its inputs.
        form: The number format; `levels` and `allow_float` are for later.
        batches: What `read_calibration` returned; empty without calibration data.
        batch: As in `convert`.
        unroll: Whether recurrent layers are unrolled, as they always are for integers.

    Raises:
        ValueError: As `convert` does.
    """
    from tfprune.export.keras_side.converting.calibration_data import split

    if isinstance(form, EdgeQuantizer):
        file = convert_prepared(model, inputs, batch=batch, unroll=unroll)
        return edge_quantized(form, file, samples=split(batches, rows=batch or inputs.batch or 1))
    quantize, skip = form.scheme, form.skip or ()
    _check_inputs(inputs, quantize)
    if batch is not None:
        fixed = (dataclasses.replace(entry, shape=(batch, *entry.shape[1:])) for entry in inputs.inputs)
        inputs = dataclasses.replace(inputs, inputs=tuple(fixed))
    samples = split(batches, rows=inputs.batch or 1) if quantize in INTEGERS else []
    with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
        folder = Path(name)
        unroll = unroll or quantize in INTEGERS
        things = _write_model(model, inputs, folder, unroll=unroll, is_mixed=bool(skip))
        settings = {"quantize": quantize, "io_dtype": form.io_dtype, "things": things, **dataclasses.asdict(inputs)}
        settings |= {"unroll": unroll, "skip": [*skip]}
        _write_job(folder, settings, samples)
        content = keep_order(convert_apart(folder, model, quantize=quantize), inputs.names)
    if quantize in INTEGERS:
        _check_scales(content, model)
    file = ModelFile.open(content).after(*PASSES.get(quantize, ()))
    _log.info("converted %r to %s: %s bytes", model.name, quantize or "float32", f"{len(file.content):,}")
    return file


def convert_apart(folder: Path, model: keras.Model, *, quantize: str | None) -> bytes:
    """Convert the job in a folder in a process of its own.

    Args:
        folder: The folder with the job and the model.
        model: The model, for messages.
        quantize: The number format, for messages.

    Raises:
        ValueError: If the converter refuses the model or crashes on it.
    """
    completed = run_job(CHILD, folder, timeout=TIMEOUT, environment=ENVIRONMENT, package="tensorflow")
    if not completed.ok:
        _refuse_quantized(model)
        output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        raise ValueError(_failure(completed.reason, output, f"{model.name!r} with quantize={quantize!r}"))
    return (folder / CONVERTED).read_bytes()


def _check_scales(data: bytes, model: keras.Model) -> None:
    """Refuse weights so large that the converter finds no scale for the integers: no reader takes such a file."""
    from tfprune.keras_models.models.layers import as_numpy

    try:
        check_operators(data)
    except ValueError as error:
        largest = {weight.path: float(np.abs(as_numpy(weight)).max(initial=0)) for weight in model.weights}
        path = max(largest, key=lambda name: largest[name])
        raise ValueError(
            f"Expected weights and activations that integers can stand for. Received: {model.name!r}, whose largest "
            f"weight is {largest[path]:.3g} in {path!r}: in the file of the converter, {reason_of(error)}. Train the "
            f"model again with smaller weights, or export it without `quantize`."
        ) from error


def check_calibration(calibration: Any, *, quantize: str | None, has_ranges: bool) -> None:
    """Refuse calibration data where the ranges are known, and missing data where they are not."""
    if quantize == "int8" and has_ranges and calibration is not None:
        raise ValueError(
            "Expected no `calibration` with a model that was trained quantization-aware: its ranges were trained. "
            "Leave it out, or export tfprune.strip(model) to calibrate instead."
        )
    if quantize in INTEGERS and calibration is None and not (has_ranges and quantize == "int8"):
        trained = "" if quantize == "int8" else "; the ranges of tfprune.quantize_aware are those of int8"
        raise ValueError(
            f"Expected `calibration` with quantize={quantize!r}. Received: None. Give about 100 samples of real "
            f"data, such as calibration=x[:100]{trained}."
        )


def _check_inputs(inputs: Signature, quantize: str | None) -> None:
    integers = [entry.name for entry in inputs.inputs if "int" in entry.dtype]
    if quantize == "int16x8" and integers:
        raise ValueError(
            f"Expected inputs of real numbers with quantize='int16x8'. Received: integers for {integers}, which "
            f"TensorFlow's converter does not take with activations of 16 bits. Use quantize='int8'."
        )


def _refuse_quantized(model: keras.Model) -> None:
    """Say of a model that could not be converted that Keras has quantized it, which the converter does not know."""
    from tfprune.keras_models.models.layers import quantized_already

    quantized = quantized_already(model)
    if quantized:
        raise ValueError(
            f"Expected a model that is not quantized yet. Received: {model.name!r}. {quantized} TFLite has no "
            f"operators for Keras' form: quantize it here, with quantize='int8' or 'dynamic'."
        )


def _write_model(
    model: keras.Model, inputs: Signature, folder: Path, *, unroll: bool, is_mixed: bool
) -> list[list[str]]:
    """Write what the child reads, in float32; return the custom classes and functions that it has to import."""
    import keras

    from tfprune.export.keras_side.preparing.half_precision import has_half_weights, in_float32
    from tfprune.export.keras_side.preparing.saved_model import states_at_start, write_copy, write_saved_model

    with in_float32(model), states_at_start(model):  # a file begins with the states that it is made with
        # Weights of half precision become float32 when they are loaded; a layer that holds them cannot read them so.
        if keras.backend.backend() != "tensorflow" or has_half_weights(model):
            return write_copy(model, folder)
        write_saved_model(model, folder / SAVED_MODEL, inputs=inputs, unroll=unroll)
        if is_mixed:
            write_marked(model, folder, inputs=inputs, unroll=unroll)
        return []


def _write_job(folder: Path, settings: dict[str, Any], samples: Sequence[dict[str, np.ndarray]]) -> None:
    arrays = {f"{row}/{name}": array for row, sample in enumerate(samples) for name, array in sample.items()}
    write_job(folder, JOB, settings={**settings, "samples": len(samples)}, arrays=arrays)


def _failure(reason: str, output: str, what: str) -> str:
    """Say what stopped the converter and what to try."""
    if reason.startswith("Expected "):  # said by the child itself
        return f"{reason}."
    expected = f"Expected the converter to accept {what}."
    if reason.startswith(("killed by", "did not finish")):
        return (
            f"{expected} Received: its process {'was ' if reason.startswith('killed') else ''}{reason}. "
            "Try another value of `quantize`, or a machine with more memory."
        )
    lists = re.findall(r"(?:Flex|Custom|Select) ops: (.+)", output)
    missing = sorted({name.strip() for names in lists for name in names.split(",")})
    in_general = {name.replace("_", "").lower() for name in vars(schema.BuiltinOperator)}
    sized = [name for name in missing if name.lower() in in_general]
    if sized:
        return (
            f"{expected} Received: {', '.join(sized)} on inputs whose sizes stay open, because the batch is. Fix the "
            f"batch: x = keras.Input(shape, batch_size=1), and export keras.Model(x, model(x))."
        )
    if missing:
        return (
            f"{expected} Received: operators without a builtin form in TFLite: {', '.join(missing)}. "
            "Replace the layers or functions that need them."
        )
    wide = re.findall(r"16x8-bit not yet supported for op: '(\w+)'", reason)
    if wide:
        return (
            f"{expected} Received: {wide[0]}, which has no form with activations of 16 bits. Replace the layer that "
            f"needs it, or use quantize='int8'."
        )
    errors = re.findall(r"error: (.+)", output)
    return f"{expected} Received: {(errors[-1] if errors else reason).strip().rstrip('.')}."
