"""From a pruned Keras model to a compressed file that was run before it was written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.export.calibration import read_batches
from tfprune.export.codec import check_method, check_target, encode, write_atomically
from tfprune.export.convert import check_options, convert
from tfprune.export.flatbuffer import Graph, read
from tfprune.export.report import Candidate, ExportReport, VerifyReport
from tfprune.export.signature import Signature, signature, smallest_vocabulary
from tfprune.export.verification import check_tolerance, missing_zeros, verify
from tfprune.report import SparsityReport

# Relative to the largest Keras output. Right files were seen to differ by 2e-6, 2e-3, 0.02 and 0.26 at most (the last
# an untrained LSTM on integers, 0.03 without recurrent layers), files with shuffled weights by 0.7 at least.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.35}
ROWS = 32  # of one call of the model, which bounds memory
TIMEOUT = 600.0  # seconds for the check in the other process
SAMPLES = 8  # drawn for the check when no data is given


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    calibration: Any = None,
    io_dtype: str = "float32",
    compress: str | None = None,
    check_on: Any = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Strip, convert, check and write a model; only a file that gave Keras' outputs in another process is written.

    The file passes if max|file - Keras| <= tolerance * max|Keras| for every output, and if it holds at least the
    zeros that the kernels hold.

    Args:
        model: A built Sequential or Functional model, wrapped for pruning or plain. It is left untouched.
        path: Where the file goes, exactly as given.
        quantize: None (float32), `"float16"` (weights), `"dynamic"` (8-bit weights) or `"int8"` (8-bit weights and
            activations; needs `calibration`).
        calibration: An iterable of batches of real data, each an array, or a list or dict of arrays for several
            inputs: `[x[:32], x[32:64]]`. About 100 samples; more than 500 are not read.
        io_dtype: `"float32"`, or with `quantize="int8"` also `"int8"`.
        compress: None, `"gzip"` or `"xz"`; `Runner` reads each.
        check_on: Data on which the file is compared with Keras: an array, or a list or dict of arrays for several
            inputs, any number of samples. None takes the first calibration batch, or random numbers.
        tolerance: The largest difference allowed, as a fraction of the largest Keras output, at least 0. None takes
            1e-4 (float32), 1e-2 (float16), 0.1 (dynamic) or 0.35 (int8). Scores of a softmax may move more where two
            classes are close: judge such a file by its accuracy, and allow what it needs.

    Returns:
        What was written and how it was checked.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If an argument does not fit, the target cannot be written, the converter fails, or the file does
            not pass. What was at `path` before is then untouched.

    Example:
        >>> report = to_tflite(model, "model.tflite.xz", quantize="float16", compress="xz")  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    target = check_target(path)
    check_method(compress)
    check_options(quantize=quantize, calibration=calibration, io_dtype=io_dtype)
    allowed = TOLERANCES[quantize] if tolerance is None else check_tolerance(tolerance)
    signature(model)
    plain = tfprune.strip(model)
    inputs = signature(plain)
    batches = None if calibration is None else read_batches(calibration, inputs)
    data = _check_data(plain, inputs, check_on, batches)
    content = convert(plain, quantize=quantize, calibration=batches, io_dtype=io_dtype)
    graph, sparsity = read(content), tfprune.sparsity_report(plain)
    _check_zeros(graph, sparsity)
    verified = _check_outputs(content, data, _predict(plain, inputs, data), allowed)
    packed = encode(content, compress)
    write_atomically(target, packed)
    return ExportReport(
        path=str(target),
        bytes=len(packed),
        tflite_bytes=len(content),
        nnz=sparsity.nnz,
        size=sparsity.size,
        sparsity=sparsity.sparsity,
        max_abs_diff=verified.max_abs_diff,
        tolerance=verified.tolerance,
        ops=graph.ops,
        candidates=(Candidate(quantize or "float32", len(content), len(packed), verified=True),),
        runtime=verified.runtime,
    )


def _check_data(
    model: keras.Model, inputs: Signature, check_on: Any, batches: list[dict[str, np.ndarray]] | None
) -> dict[str, np.ndarray]:
    if check_on is not None:
        return inputs.arrays(check_on, "check_on")
    if batches:
        return batches[0]
    return inputs.random(SAMPLES, below=smallest_vocabulary(model))


def _predict(model: keras.Model, inputs: Signature, data: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return what Keras predicts, in the order of the file's outputs."""
    rows = len(next(iter(data.values())))
    step = inputs.batch or ROWS
    chunks = []
    for start in range(0, rows, step):
        part = inputs.pack({name: array[start : start + step] for name, array in data.items()})
        # Called directly: `predict` would trace a function for every export, and warn about it.
        chunks.append(_outputs(model(part, training=False)))
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def _outputs(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, Mapping):
        outputs = [outputs[name] for name in sorted(outputs)]
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def _check_zeros(graph: Graph, sparsity: SparsityReport) -> None:
    kernels = [(row.path, row.size, row.size - row.nnz) for row in sparsity.rows]
    problems = missing_zeros(graph, kernels)
    if problems:
        raise ValueError(
            f"Expected the converted file to keep the zeros of the kernels. Received: {'; '.join(problems)}. "
            "Nothing was written. Try another value of `quantize`."
        )


def _check_outputs(
    content: bytes, data: Mapping[str, np.ndarray], expected: list[np.ndarray], tolerance: float
) -> VerifyReport:
    verified = verify(content, inputs=data, expected=expected, tolerance=tolerance, timeout=TIMEOUT)
    if not verified.passed:
        raise ValueError(
            f"Expected the converted file to give Keras' outputs. Received: {verified.reason}. Nothing was written. "
            "Try another value of `quantize`, for 'int8' more calibration data that looks like `check_on`, or "
            "allow more with `tolerance` if the file is accurate enough for you."
        )
    return verified
