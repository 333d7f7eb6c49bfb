"""How long a Keras model takes, once it is a TFLite file."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.export.device.processes.device import Device
from tfprune.export.device.running.benchmark import benchmark
from tfprune.export.keras_side.converting.convert import convert
from tfprune.export.keras_side.converting.quantization import Quantization, as_quantization
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.strip import plain_copy


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
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> latency(model, runs=5) > 0
        True
    """
    form = as_quantization(quantize)
    plain = plain_copy(Anatomy.of(model))
    content = convert(
        plain, quantize=form.scheme, calibration=calibration, io_dtype=form.io_dtype, skip=form.skip or ()
    )
    return 1000 * benchmark(content, runs=runs, threads=threads, on=on).median_ms
