"""Questions before training: latency, sparse inference, microcontrollers and NPUs, of a model as a file.

Of a file they can be asked where Keras is not installed, so it is imported for models only.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice
from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.processes import Device
from tfprune.export.device.quantization_error import QuantizationErrorReport, errors_of_files
from tfprune.export.file import schema
from tfprune.export.file.container import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.xnnpack import Layers, SparseInferenceReport, describe
from tfprune.export.micro.interpreter import require_interpreter
from tfprune.export.micro.reports import (
    MicroSupportReport,
    VelaReport,
    check_accelerator,
    compile_file,
    support_of_file,
)
from tfprune.export.rewriting.shapes import spell_out_padding
from tfprune.export.rewriting.sparse_convolutions import plan_convolutions
from tfprune.export.rewriting.sparsify import with_dense_weights

if TYPE_CHECKING:
    import keras
    from typing_extensions import TypeIs

    from tfprune.export.keras_side.convert import Quantization


# How long a Keras model takes, once it is a TFLite file.


def latency(
    model: keras.Model,
    *,
    quantize: str | Quantization | None = None,
    calibration: Any = None,
    runs: int = 50,
    threads: int = 1,
    on: Device | None = None,
) -> float:
    """Strip and convert a model, and measure one inference of the dense file on this machine or on a device.

    It is what `tfprune.budget(latency=..., measure=tfprune.export.latency)` asks for; with arguments:
    `measure=lambda model: latency(model, quantize="dynamic")`.

    Args:
        model: A built Sequential or Functional model, wrapped for pruning or plain.
        quantize: The number format, as in `to_tflite`: a scheme's name, a `Quantization`, or None (the default) for
            float32.
        calibration: Samples of real data for a scheme of integers, as in `to_tflite`. Default None.
        runs: The number of timed runs, at least 1. Default 50.
        threads: Threads of the interpreter, at least 1. Default 1.
        on: The device that runs the file, as in `benchmark`; None (the default) is this machine.

    Returns:
        Microseconds of one inference with a batch of 1, the median, in a process of its own.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument does not fit, the model cannot be converted or does not run, or the device does not
            answer.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> latency(model, runs=5) > 0
        True
    """
    from tfprune.export.keras_side.convert import as_quantization, convert

    form = as_quantization(quantize)
    content = convert(
        _plain(model), quantize=form.scheme, calibration=calibration, io_dtype=form.io_dtype, skip=form.skip or ()
    )
    return 1000 * benchmark(content, runs=runs, threads=threads, on=on).median_ms


# Which layer loses most in 8 bits.


def quantization_error(
    reference: keras.Model | Source, quantized: Source | None, samples: Any
) -> QuantizationErrorReport:
    """Compare an 8-bit file with the float file of the same model, layer by layer.

    Use it when an int8 file is less accurate than the model, or `to_tflite` refuses it: the layer at which the error
    jumps is the one to leave in float, to train further, or to give calibration data for. A large error in steps
    means a range that is too narrow, if values are clipped, or too wide for most channels, if none are.

    Args:
        reference: The float32 file, as `to_tflite(model, path)` writes it: a path or the bytes. Or a built Keras
            model, of which both files are then made.
        quantized: The file with 8-bit weights and activations, of the same model; None with a Keras model, whose
            int8 file is calibrated on `samples`, and needs not pass the checks of `to_tflite`.
        samples: Some samples of real data, in the forms that `Runner.predict` takes.

    Returns:
        The error of each layer's output, in the order of the file.

    Raises:
        TypeError: If a source is neither a path nor bytes nor a Keras model.
        ValueError: If a file cannot be read or does not run, the two have no layers in common, or the model cannot be
            converted.

    Example:
        >>> report = quantization_error("digits.tflite", "digits_int8.tflite", images)
        >>> print(report)
        layer ... operator ... output error  input error  steps  clipped  effect
        ...
        >>> report.rows[-1].error < 0.1
        True
    """
    if quantized is not None:
        return errors_of_files(reference, quantized, samples=samples)
    if _is_file(reference):
        raise ArgumentError("quantized", "an 8-bit file beside a float file", "None", advice="Or pass a Keras model.")
    from tfprune.export.keras_side.convert import Quantization, convert_prepared, read_calibration
    from tfprune.export.keras_side.prepare import signature

    model, form = _plain(reference), Quantization("int8")
    inputs = signature(model)
    batches = read_calibration(samples, inputs)
    file = convert_prepared(model, inputs, form=form, batches=batches)
    data = {name: np.concatenate([batch[name] for batch in batches]) for name in inputs.names}
    reference = convert_prepared(model, inputs, beside=form, beside_file=file)
    return errors_of_files(reference.content, file.content, samples=data)


# Arguments that may be a Keras model or a file: a path, or its content.


def _is_file(model_or_source: keras.Model | Source) -> TypeIs[Source]:
    """Tell a file from a Keras model, of which there is none where Keras was not imported.

    Raises:
        TypeError: If it is neither a model nor a path nor bytes.
    """
    if isinstance(model_or_source, (str, os.PathLike, bytes, bytearray, memoryview)):
        return True
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model_or_source, keras.Model):
        raise TypeError(
            "Expected a Keras model, or a path or the bytes of a .tflite file. Received: "
            f"{type(model_or_source).__name__}."
        )
    return False


def _plain(model: keras.Model) -> keras.Model:
    from tfprune.masking.strip import plain_copy
    from tfprune.models.anatomy import Anatomy

    return plain_copy(Anatomy.of(model))


# Whether a microcontroller runs a Keras model, or a file, and what it takes there.

_MIN_ACTIVATION_SCALE = 2.0**-20  # below it the interpreter's softmax stops
_RANDOM_OFFSETS = (0.01, 0.1)  # positive, because variances are among the weights
_RANDOM_SAMPLES = 8  # ranges change neither operators nor sizes


def micro_support(
    model_or_source: keras.Model | Source, *, board: str | None = None, firmware: str | None = None
) -> MicroSupportReport:
    """Say whether TensorFlow Lite for Microcontrollers runs a model or file, which operators it lacks, and the RAM.

    Args:
        model_or_source: A built Keras model, wrapped or plain, trained or not, which is converted as dense int8 on
            random numbers; or a .tflite file: a path, or its content.
        board: A board to compare with, such as `"pico"` or `"nano33"`, or the bytes of its memory, as in
            `"flash=1048576,ram=262144"`; None compares with all of the table. A file fits if its arena fits into the
            RAM that the system of the board leaves.
        firmware: Firmware whose operators the file may use: `"esphome"`, `"esp-tflite-micro"` or `"arduino"`; None
            (the default) allows all of the interpreter that is installed.

    Returns:
        A report that prints as a table, measured in the interpreter (extra `micro`) in a process of its own.

    Raises:
        TypeError: If it is neither a model nor a path nor bytes, or `board` is no string.
        ValueError: If a model cannot be converted, a file is damaged or not a TFLite file, or there is no such board
            or firmware; or (also an ImportError) if tflite-micro is not installed.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> micro_support(model).missing
        ()
    """
    if _is_file(model_or_source):
        return support_of_file(model_or_source, board=board, firmware=firmware)
    require_interpreter()
    from tfprune.export.keras_side.convert import convert
    from tfprune.export.keras_side.prepare import recurrent_layers

    content, plain = _dense_int8(model_or_source)
    report = support_of_file(content, board=board, firmware=firmware)
    unrolled = tuple(layer.name for layer in recurrent_layers(plain))
    if not unrolled:
        return report
    loops = support_of_file(convert(plain, batch=1), board=board, firmware=firmware)
    return replace(report, unrolled=unrolled, as_float=loops)


def _dense_int8(model: keras.Model) -> tuple[bytes, keras.Model]:
    """Convert a model as a dense int8 file with a batch of 1, on random numbers, which change ranges and no sizes.

    Returns:
        The file, and the model without wrappers that it was made from.

    Raises:
        ValueError: If it cannot be converted.
    """
    from tfprune.export.keras_side.convert import convert
    from tfprune.export.keras_side.prepare import signature

    plain = _plain(model)
    _randomize_constant_weights(plain)
    inputs = signature(plain)
    samples = [inputs.pack(inputs.random(_RANDOM_SAMPLES, model=plain))]
    content = convert(plain, quantize="int8", calibration=samples, io_dtype="int8", batch=1)
    return ModelFile.open(content).after(_widen_ranges).content, plain


def _randomize_constant_weights(model: keras.Model) -> None:
    """Randomize weights of equal entries, as biases are before training: the converter omits biases of 0."""
    import keras

    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype:
            values = keras.ops.convert_to_numpy(weight)
            if values.size and (values == values.flat[0]).all():
                weight.assign(values + draw.uniform(*_RANDOM_OFFSETS, values.shape).astype(values.dtype))


def _widen_ranges(model: schema.ModelT) -> bool:
    """Widen near-zero ranges of activations, as untrained models have them."""
    for tensor in model.subgraphs[0].tensors:
        scale = getattr(tensor.quantization, "scale", None)  # None for floats
        if scale is not None and np.size(scale) == 1 and model.buffers[tensor.buffer].data is None:
            tensor.quantization.scale = np.maximum(scale, _MIN_ACTIVATION_SCALE).astype(np.float32)
    return True


# Whether zeros make a model faster, asked of a Keras model or of a file.


def sparse_inference(model_or_source: keras.Model | Source) -> SparseInferenceReport:
    """Say which layers XNNPACK, the runtime's library for float models, runs with sparse kernels, and why not others.

    These kernels skip zeros of 1x1 convolutions in networks for images, and make them several times faster on ARM and
    in WebAssembly, not in a native program on x86. All operators from the first convolution to the global pool have
    to fit. If one does not, all of them run dense as they are, and the report predicts what `optimize="latency"`
    makes of them: it writes other convolutions as sparse 1x1 ones where that is estimated to be faster.

    Args:
        model_or_source: A built Keras model, wrapped or plain, trained or not, which is converted as float32 and
            taken to be exported with sparse weights; or a .tflite file: a path, or its content.

    Returns:
        A report that prints as a table. Of a model without zeros it says what its structure allows (`eligible`), how
        many zeros it takes, and, for other convolutions than 1x1, the speed-up by fractions of zeros (`rewriting`).

    Raises:
        TypeError: If it is neither a model nor a path nor bytes.
        ValueError: If a model cannot be converted, or a file is damaged or not a TFLite file; or (also
            an ImportError) if ai-edge-litert is not installed.

    Example:
        >>> print(sparse_inference("digits.tflite"))
        can run sparse   NO
        ---------------  ---...
        runs sparse now  NO
        zeros            0.0% (more than 66.7% needed)
        because          it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels
        ...

    Reference:
        E. Elsen, M. Dukhan, T. Gale, K. Simonyan, "Fast Sparse ConvNets", CVPR 2020.
    """
    if _is_file(model_or_source):
        file = ModelFile.open(model_or_source)
        return _with_rewriting(file.inference, file)
    return _of_model(model_or_source)


def _of_model(model: keras.Model) -> SparseInferenceReport:
    from tfprune.export.keras_side.convert import convert

    plain = _plain(model)
    file, layers = ModelFile.open(convert(plain)), _layers(plain)
    return _with_rewriting(describe(file.after(spell_out_padding).analyses, layers=layers), file, layers=layers)


def _with_rewriting(
    report: SparseInferenceReport, file: ModelFile, *, layers: Layers = ({}, {})
) -> SparseInferenceReport:
    """Add what becomes of the convolutions of a file whose 1x1 convolutions cannot run sparse as they are."""
    if report.eligible:
        return report
    return replace(report, rewriting=plan_convolutions(with_dense_weights(file), layers=layers))


def _layers(model: keras.Model) -> Layers:
    from tfprune.models.anatomy import walk

    parts = [(layer, path) for path, layer in walk(model) if path]
    kernels = {layer.name: path for layer, path in parts if any(len(weight.shape) > 1 for weight in layer.weights)}
    return kernels, {layer.name: path for layer, path in parts}


# The cost of a Keras model on an Arm Ethos-U NPU, as an int8 file: for budgets.

_log = logging.getLogger(__name__)
_COUNTS = ("cycles", "sram", "weight_bytes", "storage")


@dataclass(frozen=True)
class Vela:
    """The cost of models on an NPU; made by `vela`.

    Attributes:
        accelerator: The NPU.
        counts: What a call returns.
        system: The clock and the memories that are assumed; None for the compiler's own choice.
        memory: What lies in which of them; None for the compiler's own choice.

    Example:
        >>> vela("ethos-u85-256", counts="weight_bytes").counts
        'weight_bytes'
    """

    accelerator: str
    counts: str = "cycles"
    system: str | None = None
    memory: str | None = None

    def __call__(self, model: keras.Model) -> float:
        """Measure the cost of a plain or wrapped model as a dense int8 file."""
        report = self.report(model)
        if report.on_cpu:
            _log.info("%s are left to the processor, and not counted: %s", len(report.on_cpu), report.on_cpu)
        return float(getattr(report, self.counts))

    def report(self, model_or_source: keras.Model | Source) -> VelaReport:
        """Say what a model costs, which is converted as a dense int8 file, or a file: a path, or its content.

        Raises:
            TypeError: If it is neither a model nor a path nor bytes.
            ValueError: If a model cannot be converted, a file cannot be read or holds nothing for the NPU, or the
                compiler refuses it.
        """
        content = model_or_source if _is_file(model_or_source) else _dense_int8(model_or_source)[0]
        return compile_file(content, self.accelerator, system=self.system, memory=self.memory)


def vela(accelerator: str, *, counts: str = "cycles", system: str | None = None, memory: str | None = None) -> Vela:
    """Measure models on an Arm Ethos-U NPU by its compiler's estimate, for budgets.

    A call converts a model as a dense int8 file and compiles it with Vela, in a process of its own. The compiler
    packs the weights itself, so zeros cost fewer bytes. Use it as the `measure` of a budget:
    `budget(latency=0.5, measure=vela("ethos-u55-128"))` halves the cycles, and an int is a number of them.
    `vela(...).report(model)` says all that is counted, of a model or a file. As the `target` of `compress` it lets a
    search minimize or limit the cycles.

    Args:
        accelerator: `"ethos-u55-"` and 32, 64, 128 or 256, for so many multiplications in a cycle; `"ethos-u65-"` and
            256 or 512; `"ethos-u85-"` and 128, 256, 512, 1024 or 2048.
        counts: What a call returns, and a budget limits: `"cycles"` (the default) of one inference, or the bytes of
            `"sram"`, `"weight_bytes"` or `"storage"`, as in `VelaReport`.
        system: The clock and the memories, by a name of the compiler's configuration, such as
            `"Ethos_U55_Deep_Embedded"`. None (the default) takes what the compiler does.
        memory: What lies in which memory, such as `"Sram_Only"`; None (the default) takes what the compiler does.

    Returns:
        A function of a model. Needs the extra `vela`.

    Raises:
        TypeError: If an argument is not a string.
        ValueError: If there is no such NPU or count; or (also an ImportError) if ethos-u-vela is not installed.

    Example:
        >>> tfprune.budget(latency=0.5, measure=vela("ethos-u55-128")).limits
        (('latency', 0.5),)
    """
    check_accelerator(accelerator)
    check_choice(counts, "counts", choices=_COUNTS)
    for name, value in (("system", system), ("memory", memory)):
        if value is not None and not isinstance(value, str):
            raise ArgumentTypeError(name, f"a name in `{name}`, or None", repr(value))
    return Vela(accelerator, counts, system, memory)
