"""Keras models to .tflite bytes, in a child process: the converter can take a process down with it.

The model travels as a SavedModel, so custom layers need no registration in the child.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfprune.export.converting.float_islands import join_islands
from tfprune.export.converting.output_order import keep_order
from tfprune.export.running.child_process import OUTPUT, read_job, run_as_child, run_module, write_job

if TYPE_CHECKING:
    import keras

    from tfprune.export.converting.signature import Signature

QUANTIZE = (None, "float16", "dynamic", "int8")
IO_DTYPES = ("float32", "int8")
TIMEOUT = 3600.0  # seconds; calibrating a large network takes minutes


def convert(
    model: keras.Model,
    *,
    quantize: str | None = None,
    calibration: Any = None,
    io_dtype: str = "float32",
) -> bytes:
    """Convert a Keras model to a TFLite file of built-in operators only.

    Inputs keep their names; inputs and outputs keep Keras' order. A model with recurrent layers gets a batch of 1,
    which the converter needs, and for `"int8"` its recurrent layers are unrolled.

    Args:
        model: A built Sequential or Functional model.
        quantize: None (float32), `"float16"` (weights), `"dynamic"` (8-bit weights, float activations) or `"int8"`
            (weights and activations, every operator).
        calibration: For `"int8"`, which needs it: samples of real data, as `to_tflite` takes them. 100 to 500 are
            enough; more are not read. The other kinds check it and convert without it.
        io_dtype: `"float32"`, or `"int8"` to leave out the conversion at the file's borders. Integer inputs stay
            as they are.

    Returns:
        The file's bytes; the same model gives the same bytes.

    Raises:
        TypeError: If `model` is not a Keras model, or `calibration` holds no batches.
        ValueError: If an argument does not fit, or the converter refuses the model or crashes on it.
    """
    from tfprune.export.converting.samples import read_calibration, split
    from tfprune.export.converting.signature import signature

    check_options(quantize=quantize, calibration=calibration, io_dtype=io_dtype)
    inputs = signature(model)
    _check_backend(model)
    batches = [] if calibration is None else read_calibration(calibration, inputs)
    samples = split(batches) if quantize == "int8" else []
    with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
        folder = Path(name)
        _export(model, inputs, folder / "saved_model", unroll=quantize == "int8")
        settings = {"quantize": quantize, "io_dtype": io_dtype, "inputs": inputs.names, "samples": len(samples)}
        arrays = {f"{row}/{key}": array for row, sample in enumerate(samples) for key, array in sample.items()}
        write_job(folder, "job", settings=settings, arrays=arrays)
        completed = run_module(__name__, folder, timeout=TIMEOUT)
        if not completed.ok:
            output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
            raise ValueError(_failure(completed.reason, output, f"{model.name!r} with quantize={quantize!r}"))
        data = keep_order((folder / "model.tflite").read_bytes(), inputs.names)
        return join_islands(data) if quantize == "int8" else data


def check_options(*, quantize: Any, calibration: Any, io_dtype: Any) -> None:
    """Refuse options that do not exist or do not go together."""
    if quantize not in QUANTIZE:
        raise ValueError(f"Expected `quantize` to be one of {list(QUANTIZE)}. Received: quantize={quantize!r}.")
    if io_dtype not in IO_DTYPES:
        raise ValueError(f"Expected `io_dtype` to be one of {list(IO_DTYPES)}. Received: io_dtype={io_dtype!r}.")
    if io_dtype != "float32" and quantize != "int8":
        raise ValueError(
            f"Expected io_dtype='float32' with quantize={quantize!r}. Received: io_dtype={io_dtype!r}. "
            "Only quantize='int8' has integer inputs and outputs."
        )
    if quantize == "int8" and calibration is None:
        raise ValueError(
            "Expected `calibration` with quantize='int8'. Received: None. Give about 100 samples of real data, "
            "such as calibration=x[:100]."
        )


def _check_backend(model: keras.Model) -> None:
    """Refuse what would reach the converter in a form it cannot read."""
    import keras

    from tfprune.models.layers import walk

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected Keras on the TensorFlow backend. Received: {keras.backend.backend()!r}. Save the stripped "
            "model with `model.save`, and export it from a process with KERAS_BACKEND=tensorflow."
        )
    for path, layer in walk(model):
        computes = not isinstance(layer, keras.Model | keras.layers.InputLayer)
        if computes and layer.compute_dtype in ("float16", "bfloat16"):
            raise ValueError(
                f"Expected a model that computes in float32. Received: layer {path!r} in "
                f"{layer.compute_dtype}, for which TFLite has no operators. Build the model again with "
                "dtype='float32', load the weights with `set_weights`, and use quantize='float16' for a small file."
            )


def _export(model: keras.Model, inputs: Signature, folder: Path, *, unroll: bool) -> None:
    """Write the SavedModel that the child converts; a loop in it fixes the batch at 1."""
    _export_with_batch(model, inputs, folder, batch=inputs.batch)
    # Lists of tensors (a recurrent layer's steps) have a builtin form only when their size is known.
    if b"TensorListReserve" not in (folder / "saved_model.pb").read_bytes():
        return
    shutil.rmtree(folder)
    if not unroll:
        _export_with_batch(model, inputs, folder, batch=1)
        return
    for entry in inputs.inputs:
        if None in entry.shape[1:]:
            raise ValueError(
                f"Expected inputs of fixed length with quantize='int8', which unrolls recurrent layers. Received: "
                f"{entry.name!r} of shape {entry.shape}. Build the model with the length in `keras.Input(shape)`, "
                "or use quantize='dynamic'."
            )
    with _unrolled(model):
        _export_with_batch(model, inputs, folder, batch=1)


def _export_with_batch(model: keras.Model, inputs: Signature, folder: Path, *, batch: int | None) -> None:
    import keras

    specs = {
        entry.name: keras.InputSpec(shape=(batch, *entry.shape[1:]), dtype=entry.dtype, name=entry.name)
        for entry in inputs.inputs
    }
    # Given explicitly, because Keras' own signature always leaves the batch open.
    model.export(str(folder), verbose=False, input_signature=[inputs.pack(specs)])


@contextmanager
def _unrolled(model: keras.Model) -> Iterator[None]:
    """Unroll every recurrent layer for the time being: the integer converter crashes on their loops."""
    import keras

    from tfprune.models.layers import walk

    layers = [layer for _, layer in walk(model) if isinstance(layer, keras.layers.RNN)]
    before = [layer.unroll for layer in layers]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer, unroll in zip(layers, before, strict=True):
            layer.unroll = unroll


def _failure(reason: str, output: str, what: str) -> str:
    """Say what stopped the converter and what to try."""
    expected = f"Expected the converter to accept {what}."
    if reason.startswith(("killed by", "did not finish")):
        return (
            f"{expected} Received: its process {'was ' if reason.startswith('killed') else ''}{reason}. "
            "Try another value of `quantize`, or a machine with more memory."
        )
    lists = re.findall(r"(?:Flex|Custom|Select) ops: (.+)", output)
    missing = sorted({name.strip() for names in lists for name in names.split(",")})
    if missing:
        return (
            f"{expected} Received: operators without a builtin form in TFLite: {', '.join(missing)}. "
            "Replace the layers or functions that need them."
        )
    errors = re.findall(r"error: (.+)", output)
    return f"{expected} Received: {errors[-1].strip() if errors else reason}"


def _convert(folder: Path) -> None:
    """Convert the job's SavedModel: what the child does."""
    import tensorflow as tf

    settings, arrays = read_job(folder, "job")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    if settings["quantize"] is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings["quantize"] == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings["quantize"] == "int8":
        samples = [
            {name: arrays[f"{row}/{name}"] for name in settings["inputs"]} for row in range(settings["samples"])
        ]
        converter.representative_dataset = lambda: iter(samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(settings["io_dtype"])
    (folder / "model.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    run_as_child(_convert)
