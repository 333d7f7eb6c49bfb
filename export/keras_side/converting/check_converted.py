"""Checks of a file fresh from the converter: its zeros, its integers, and that it differs by rounding only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.export.device.running.rounding import explain_rounding
from tfprune.export.device.running.verify import Run, compare_run, run_in_child
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite.model import Model
from tfprune.export.file.tflite.tensor_values import WEIGHTS
from tfprune.export.keras_side.converting.calibration_data import predict
from tfprune.export.keras_side.converting.convert import convert_prepared
from tfprune.export.keras_side.preparing.signature import Signature
from tfprune.export.keras_side.preparing.trained_ranges import holds_ranges, without_ranges, without_rounding
from tfprune.export.rewriting.forms import TIMEOUT, Check
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layers import as_numpy

FLOATS = ("float16", "float32", "float64")
BORDERS = ("QUANTIZE", "DEQUANTIZE")  # turn floats into integers, and back
ROUNDED_AGAIN = 2  # other kernels round in other places: how much further outputs may then be from the model's
MOST_MOVED = 0.5  # of the largest output: rounding that moves outputs further leaves nothing of what the model does


@dataclass(frozen=True)
class KernelZeros:
    """The number of zeros in a kernel of a plain model.

    Attributes:
        path: Its path in the model.
        size: The number of entries.
        nnz: The number of those that are not zero.
    """

    path: str
    size: int
    nnz: int

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return 1 - self.nnz / self.size if self.size else 0.0


def check_converted(
    graph: Model,
    kernels: list[KernelZeros],
    *,
    called_on: tuple[keras.Model, Any],
    trained: keras.Model | None,
    allow_float: bool,
) -> None:
    """Refuse a file without all zeros of the kernels, or, of a quantized model, with operators that compute in float.

    Args:
        graph: The file.
        kernels: The kernels that the model reads.
        called_on: This model, without wrappers, and data that it takes.
        trained: The model of `quantize_aware`; None for another.
        allow_float: Whether its operators may compute in float.

    Raises:
        ValueError: Naming the kernels, or the operators and the layers that were left in float.
    """
    zeros = [(row.path, row.size, row.size - row.nnz) for row in kernels]
    problems = missing_zeros(graph, zeros)
    if problems:
        absent = kernels_of_constants(*called_on)
        problems = missing_zeros(graph, [row for row in zeros if row[0] not in absent])
    if problems:
        raise ValueError(
            f"Expected the converted file to keep the zeros of the kernels. Received: {'; '.join(problems)}. "
            "Nothing was written. Try another value of `quantize`."
        )
    if trained is not None and not allow_float:
        _check_integers(graph, trained)
    if trained is None and allow_float:
        raise ValueError(
            "Expected `allow_float` with quantize='int8' and a model of tfprune.quantize_aware. Received: "
            "allow_float=True with another. Leave it out."
        )


def check_rounding(
    file: ModelFile,
    plain: keras.Model,
    *,
    inputs: Signature,
    batch: int | None,
    data: Mapping[str, np.ndarray],
    check: Check,
    precision: float,
) -> Check:
    """Refuse an int8 file that differs from its model by more than rounding explains, weight by weight.

    The float file of the model has to give its outputs; each constant and each operator of the int8 file is then
    compared with those of the float file, in steps of the int8 file's own scales (`explain_rounding`).

    Args:
        file: The int8 file.
        plain: The model that it was made from.
        inputs: The inputs of the model.
        batch: The batch that the file takes; None leaves it open where the model does.
        data: Samples by the names of the inputs.
        check: The model's outputs for them, and how far those of the file may be from them.
        precision: How far those of a float file may be.

    Returns:
        The check, with a wider tolerance where rounding alone moves the outputs further than that, but by less than
        half of the largest output.

    Raises:
        ValueError: Naming the constant or operator.
    """
    reference = convert_prepared(plain, inputs, batch=batch, unroll=True)
    unrounded, expected, has_ranges = reference, check.expected, holds_ranges(plain)
    if has_ranges:  # where numbers are rounded the other way somewhere, such files differ as much as int8 ones
        unrounded = reference.after(without_rounding)
        expected = predict(without_ranges(plain), data, inputs=inputs, argument="check_on")
    report = compare_run(run_in_child(unrounded, data, timeout=TIMEOUT), expected, tolerance=precision)
    if not (report.passed or has_ranges):
        raise ValueError(check.refusal(f"a float file that does not: {report.reason}"))
    rounding = explain_rounding(reference.content, file.content, inputs=data)
    if rounding.fault:
        raise ValueError(check.refusal(rounding.fault))
    if not (report.passed and rounding.is_whole):
        return check
    first = [output[: len(result)] for output, result in zip(check.expected, rounding.outputs.values(), strict=True)]
    moved = compare_run(Run(rounding.outputs, ""), first, tolerance=check.tolerance)
    if moved.max_abs_diff is None or moved.scale is None or moved.max_abs_diff > MOST_MOVED * moved.scale:
        return check
    return replace(check, tolerance=max(check.tolerance, ROUNDED_AGAIN * moved.max_abs_diff / moved.scale))


class _Reads(keras.StatelessScope):
    """Record which variables are read within the scope."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read.add(id(variable))
        return super().get_current_value(variable)


def kernels_read(plain: keras.Model, data: Any) -> list[KernelZeros]:
    """Count the zeros of the kernels that a plain model reads when it is called: no other comes into its file.

    An output embedding of a language model, for example, may be called from outside of its graph only.

    Args:
        plain: A model without wrappers.
        data: What it is called on.
    """
    with _Reads() as scope:
        plain(data, training=False)
    offered = list(kernels(plain))
    kernels_read = [kernel for kernel in offered if id(kernel.variable) in scope.read]
    if len(kernels_read) < len(offered) and keras.backend.backend() == "tensorflow":
        captured = _captured(plain, data)  # by a tf.function, whose code does not run again
        kernel_ids = {id(kernel) for kernel in kernels_read}
        kernels_read = [
            kernel for kernel in offered if id(kernel) in kernel_ids or id(kernel.variable.handle) in captured
        ]
    values = {kernel.path: as_numpy(kernel.variable) for kernel in kernels_read}
    return [KernelZeros(path, array.size, int(np.count_nonzero(array))) for path, array in values.items()]


def _captured(plain: keras.Model, data: Any) -> set[int]:
    """Find the ids of the handles of variables in the graph that TensorFlow traces."""
    import tensorflow as tf

    traced = tf.function(lambda: plain(data, training=False)).get_concrete_function()
    return {id(handle) for handle in traced.captured_inputs}


# What the converter computes itself where it meets constants only, and what passes a kernel on as it is.
_PRODUCTS = ("MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "GatherV2")
_PASSING = ("ReadVariableOp", "Identity", "Cast", "Reshape", "Transpose", "ExpandDims")


def kernels_of_constants(plain: keras.Model, data: Any) -> set[str]:
    """Find the kernels that multiply constants only, or are looked up at constant indices: they are not in the file.

    Args:
        plain: A model without wrappers, on TensorFlow; no kernels are found on other backends.
        data: What it is called on.
    """
    if keras.backend.backend() != "tensorflow":
        return set()
    import tensorflow as tf

    specs = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), data)
    graph = tf.function(lambda inputs: plain(inputs, training=False)).get_concrete_function(specs).graph
    handles = {id(outer): inner for outer, inner in graph.captures}
    varying = {tensor.name for tensor in graph.inputs} - {inner.name for inner in handles.values()}
    for operation in graph.get_operations():
        if any(tensor.name in varying for tensor in operation.inputs):
            varying.update(tensor.name for tensor in operation.outputs)
    inner = [(kernel.path, handles.get(id(kernel.variable.handle))) for kernel in kernels(plain)]
    return {path for path, handle in inner if handle is not None and _meets_constants_only(handle, varying)}


def _meets_constants_only(handle: Any, varying: set[str]) -> bool:
    is_multiplied, todo = False, [handle]
    while todo:
        for operation in todo.pop().consumers():
            is_product = operation.type in _PRODUCTS
            varies = any(tensor.name in varying for tensor in operation.inputs)
            if varies or not (is_product or operation.type in _PASSING):
                return False
            is_multiplied |= is_product
            todo += [] if is_product else operation.outputs
    return is_multiplied


def missing_zeros(graph: Model, kernels: Iterable[tuple[str, int, int]]) -> list[str]:
    """Find kernels of Keras whose zeros are not zeros in the file.

    The converter renames and transposes weights, so they are matched by their number of entries: among those
    of one size, the kernel with the most zeros needs a weight with at least as many, and so on downwards.
    Kernels without zeros need no match.

    Args:
        graph: The file, as `tflite.reader.read` describes it.
        kernels: Name, number of entries and number of zeros of each.

    Returns:
        One sentence for each kernel that lost zeros; empty if none did.
    """
    counts_by_size = defaultdict(list)
    for subgraph in graph.subgraphs:
        for tensor in subgraph.tensors:
            if tensor.nnz is not None and tensor.dtype in WEIGHTS:
                counts_by_size[tensor.size].append(tensor.size - tensor.nnz)
    zeros_by_size = defaultdict(list)
    for name, size, zeros in kernels:
        if zeros:
            zeros_by_size[size].append((zeros, name))
    problems = []
    for size, entries in zeros_by_size.items():
        if len(entries) > len(counts_by_size[size]):  # equal kernels are merged by the converter
            entries = list(dict(entries).items())
        counts = sorted(counts_by_size[size], reverse=True)
        counts += [-1] * (len(entries) - len(counts))
        pairs = zip(sorted(entries, reverse=True), counts, strict=False)
        problems += [_lost(name, size, zeros, count) for (zeros, name), count in pairs if count < zeros]
    return problems


def _lost(name: str, size: int, zeros: int, count: int) -> str:
    have = "none" if count < 0 else f"one with {count:,} zeros"
    return f"kernel {name!r} has {zeros:,} zeros in {size:,} entries; the file has {have} of that size to match"


def _check_integers(graph: Model, model: keras.Model) -> None:
    counts = float_operators(graph)
    if not counts:
        return
    names = ", ".join(f"{count} {name}" for name, count in counts.items())
    skipped = tfprune.quantization_report(model).skipped
    reasons = "".join(f" {entry.layer}: {entry.reason}." for entry in skipped)
    raise ValueError(
        f"Expected 8-bit operators only. Received operators that compute in float: {names}.{reasons} Change these "
        f"layers, or allow it with allow_float=True; nothing was written."
    )


def float_operators(graph: Model) -> dict[str, int]:
    """Count the operators that return floats, by name, except those at the borders of the integers."""
    return dict(
        Counter(
            operator.name
            for part in graph.subgraphs
            for operator in part.operators
            if operator.name not in BORDERS
            and any(part.tensors[index].dtype in FLOATS for index in operator.outputs if index >= 0)
        )
    )
