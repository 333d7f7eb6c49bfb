"""To TFLite: convert a pruned Keras model, run and compare each form of the file, and only then write one."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.base.limit import GroupLimits, Limit, check_can_lose, largest_drop, one_class_warning
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_number, is_accuracy, warn_user
from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.quantization_error import explain_rounding
from tfprune.export.device.runner import arrays_of
from tfprune.export.device.verify import (
    DATA,
    EVALUATE_TIMEOUT,
    NAMES,
    TOLERANCES,
    Run,
    compare_run,
    format_tolerance,
    labeled_limit,
    limit_mode,
    measure,
    metric_name,
    run_in_child,
    usual_mode,
)
from tfprune.export.file.container import (
    Source,
    check_destination,
    check_method,
    check_suffix,
    encode,
)
from tfprune.export.file.model_file import ModelFile, Pass
from tfprune.export.file.reader import Model
from tfprune.export.file.report import certified
from tfprune.export.file.sparse_tensors import WEIGHTS
from tfprune.export.file.xnnpack import SPARSE_THRESHOLD
from tfprune.export.keras_side.convert import (
    INTEGERS,
    Quantization,
    as_quantization,
    check_calibration,
    choose_check_on,
    convert_prepared,
    convert_with_floats,
    errors_beside,
    predict,
    read_calibration,
    read_check_on,
)
from tfprune.export.keras_side.prepare import (
    Signature,
    StrippedModel,
    converters,
    half_types,
    holds_ranges,
    recurrent_layers,
    signature,
    strip_for_export,
    with_known_ranges,
    without_ranges,
    without_rounding,
)
from tfprune.export.keras_side.sparse_ready import become_sparse_ready
from tfprune.export.micro.interpreter import run_by_name
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.rewrite import (
    TIMEOUT,
    AccuracyDrop,
    Check,
    ExportReport,
    FileForm,
    Speed,
    Target,
    accuracy_drops,
    candidate_files,
    choose,
    choose_micro,
    operators_in_float,
    read_target,
    worst_operators,
    write_choice,
)
from tfprune.export.rewriting.share_weights import LARGEST_INTEGER, share_grids, share_values
from tfprune.export.rewriting.weights import EdgeQuantizer
from tfprune.masking.pruned import shares_values
from tfprune.masking.strip import warn_if_dense
from tfprune.models.anatomy import Anatomy, Kernel, as_numpy, kernels, to_matrix

# Checks of a file fresh from the converter: its zeros, its integers, and that it differs by rounding only.

_MORE_DATA = "Try another value of `quantize`, more calibration data"  # for a file that loses too much
_FLOATS = ("float16", "float32", "float64")
_BORDERS = ("QUANTIZE", "DEQUANTIZE")  # turn floats into integers, and back
_ROUNDED_AGAIN = 2  # other kernels round in other places: how much further outputs may then be from the model's
_SAME = 1e-6  # of the largest output: what float32 may round
_MOST_MOVED = 0.5  # of the largest output: rounding that moves outputs further leaves nothing of what the model does


@dataclass(frozen=True)
class _KernelZeros:
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


def _repeated(model: keras.Model) -> set[str]:
    """Return the paths of kernels that equal others: a converter may store them once."""
    keys = {each.path: (tuple(each.variable.shape), as_numpy(each.variable).tobytes()) for each in kernels(model)}
    firsts: dict[Any, str] = {}
    return {path for path, key in keys.items() if firsts.setdefault(key, path) != path}


def _check_converted(
    graph: Model,
    kernels: list[_KernelZeros],
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
    problems = _missing_zeros(graph, zeros)
    if problems:
        absent = _kernels_of_constants(*called_on) | _repeated(called_on[0])
        problems = _missing_zeros(graph, [row for row in zeros if row[0] not in absent])
    if problems:
        raise ArgumentError(
            "quantize",
            "the converted file to keep the zeros of the kernels",
            found="; ".join(problems),
            advice="Nothing was written. Try another value of `quantize`.",
        )
    if trained is not None and not allow_float:
        _check_integers(graph, trained)
    if trained is None and allow_float:
        raise ArgumentError(
            "allow_float",
            "`allow_float` with quantize='int8' and a model of tfprune.quantize_aware",
            "True with another",
            advice="Leave it out.",
        )


def _check_rounding(
    file: ModelFile,
    plain: keras.Model,
    *,
    form: Quantization | EdgeQuantizer,
    inputs: Signature,
    batch: int | None,
    data: Mapping[str, np.ndarray],
    check: Check,
) -> Check:
    """Refuse a file that differs from its model by more than rounding explains, weight by weight.

    The float file of the model has to give its outputs; each constant of the other file, and each operator of
    integers, is then compared with those of the float file, in steps of the other file's scales (`explain_rounding`).

    Args:
        file: The file.
        plain: The model that it was made from.
        form: The number format. A float32 file has its outputs compared only, and so has that of a recipe, whose
            scales may be those of blocks.
        inputs: The inputs of the model.
        batch: The batch that the file takes; None leaves it open where the model does.
        data: Samples by the names of the inputs.
        check: The model's outputs for them, and how far those of the file may be from them.

    Returns:
        The check, with a wider tolerance where rounding alone moves the outputs of an int8 file further than that,
        but by less than half of the largest output.

    Raises:
        ValueError: Naming the constant or operator.
    """
    if form.scheme is None or isinstance(form, EdgeQuantizer):
        return check
    precision = max(_FLOAT_BESIDE, _default(None, plain))
    reference = convert_prepared(plain, inputs, batch=batch, beside=form, beside_file=file)
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
    if not (report.passed and rounding.is_whole and form.scheme == "int8"):
        return check
    first = [output[: len(result)] for output, result in zip(check.expected, rounding.outputs.values(), strict=True)]
    moved = compare_run(Run(rounding.outputs, ""), first, tolerance=check.tolerance)
    if moved.max_abs_diff is None or moved.scale is None or moved.max_abs_diff > _MOST_MOVED * moved.scale:
        return check
    return replace(check, tolerance=max(check.tolerance, _ROUNDED_AGAIN * moved.max_abs_diff / moved.scale))


class _Reads(keras.StatelessScope):
    """Record which variables are read within the scope."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read.add(id(variable))
        return super().get_current_value(variable)


def _kernels_read(plain: keras.Model, data: Any) -> list[_KernelZeros]:
    """Count the zeros of the kernels that a plain model reads when it is called: no other comes into its file.

    An output embedding of a language model, for example, may be called from outside of its graph only.

    Args:
        plain: A model without wrappers.
        data: What it is called on.
    """
    with _Reads() as scope:
        _call(plain, data)
    offered = list(kernels(plain))
    kernels_read = [kernel for kernel in offered if id(kernel.variable) in scope.read]
    if len(kernels_read) < len(offered) and keras.backend.backend() == "tensorflow":
        captured = _captured(plain, data)  # by a tf.function, whose code does not run again
        kernel_ids = {id(kernel) for kernel in kernels_read}
        kernels_read = [
            kernel for kernel in offered if id(kernel) in kernel_ids or id(kernel.variable.handle) in captured
        ]
    values = {kernel.path: as_numpy(kernel.variable) for kernel in kernels_read}
    return [_KernelZeros(path, array.size, int(np.count_nonzero(array))) for path, array in values.items()]


def _call(plain: keras.Model, data: Any) -> None:
    call = partial(plain, training=False)
    if keras.backend.backend() == "jax":  # which would compile each operation by itself
        import jax

        call = partial(jax.eval_shape, call)
    call(data)


def _captured(plain: keras.Model, data: Any) -> set[int]:
    """Find the ids of the handles of variables in the graph that TensorFlow traces."""
    import tensorflow as tf

    traced = tf.function(lambda: plain(data, training=False)).get_concrete_function()
    return {id(handle) for handle in traced.captured_inputs}


# What the converter computes itself where it meets constants only, and what passes a kernel on as it is.
_PRODUCTS = ("MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "GatherV2")
_PASSING = ("ReadVariableOp", "Identity", "Cast", "Reshape", "Transpose", "ExpandDims")


def _kernels_of_constants(plain: keras.Model, data: Any) -> set[str]:
    """Find the kernels that multiply constants only, or are looked up at constant indices: they are not in the file.

    Args:
        plain: A model without wrappers. On other backends than TensorFlow, any table of embeddings may be one.
        data: What it is called on.
    """
    if keras.backend.backend() != "tensorflow":
        return {kernel.path for kernel in kernels(plain) if kernel.path.endswith("/embeddings")}
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


def _missing_zeros(graph: Model, kernels: Iterable[tuple[str, int, int]]) -> list[str]:
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
    counts = _float_operators(graph)
    if not counts:
        return
    names = ", ".join(f"{count} {name}" for name, count in counts.items())
    skipped = tfprune.quantization_report(model).skipped
    reasons = "".join(f" {entry.layer}: {entry.reason}." for entry in skipped)
    raise ValueError(
        f"Expected 8-bit operators only. Received operators that compute in float: {names}.{reasons} Change these "
        f"layers, or allow it with allow_float=True; nothing was written."
    )


def _float_operators(graph: Model) -> dict[str, int]:
    """Count the operators that return floats, by name, except those at the borders of the integers."""
    return dict(
        Counter(
            operator.name
            for part in graph.subgraphs
            for operator in part.operators
            if operator.name not in _BORDERS
            and any(part.tensors[index].dtype in _FLOATS for index in operator.outputs if index >= 0)
        )
    )


# Compare the accuracy of a file with that of its Keras model, on labeled samples.


@dataclass(frozen=True)
class _LabeledSamples:
    """Samples by the names of the inputs, their labels, and what a file may lose on them."""

    x: dict[str, np.ndarray]
    y: Any
    metric: Any
    limit: Limit


def compiled_metrics(model: keras.Model) -> dict[str, Any]:
    """Return the metrics that a model was compiled with, by name: a name that `evaluate` knows as it is.

    Those of the user's own, which Keras cannot load again, are left out.
    """
    config = model.get_compile_config() or {}
    metrics = {}
    for entry in _entries([config.get(key) for key in ("metrics", "weighted_metrics")]):
        try:
            metric = entry if isinstance(entry, str) else keras.saving.deserialize_keras_object(entry)
            name = entry if isinstance(entry, str) else metric_name(metric)
            metrics[name] = keras.metrics.get(metric) if isinstance(metric, str) and name not in NAMES else metric
        except (TypeError, ValueError) as error:
            _log.info("a compiled metric of %r is left out: %s", model.name, error)
    return metrics


def _entries(config: Any) -> Iterator[Any]:
    """Yield the metrics of a configuration, one after the other: names, and dicts of what Keras can load."""
    if isinstance(config, Mapping) and "class_name" not in config:
        config = [*config.values()]
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from _entries(part)
    elif config is not None:
        yield config


def with_metric(limit: Limit, model: keras.Model) -> Limit:
    """Return a limit that names its metric: without one, the metric that a model of one output was compiled with.

    An accuracy goes first, and a metric of which nobody says whether larger is better is left out.

    Raises:
        ValueError: If it is an error, and the limit a number, whose unit would then be the error's.
    """
    if limit.metric is not None or len(getattr(model, "outputs", None) or [model]) > 1:
        return limit
    metrics = compiled_metrics(model)
    known = [name for name, metric in metrics.items() if limit.mode or usual_mode(metric)]
    name = next((name for name in known if is_accuracy(name)), known[0] if known else None)
    if name is None:
        return limit
    if limit.max_drop is not None and (usual_mode(metrics[name]) or limit.mode) == "min":
        raise ArgumentError(
            "max_drop",
            f"the metric of `max_drop` by name: the model was compiled with {name!r}, an error in a unit of its own",
            f"{limit.max_drop:g}",
            advice=(
                f"Name it, as metric={name!r} in a tfprune.Limit, or allow a fraction of it, such as "
                f"max_relative_drop=0.05."
            ),
        )
    return replace(limit, metric=metrics[name])


def _read_max_drop(max_drop: Any, inputs: Signature, model: keras.Model) -> _LabeledSamples | None:
    """Read a limit and its labeled data, before any work is done; None measures nothing.

    Raises:
        TypeError: If it is not a limit, or its data holds no samples with labels.
        ValueError: If it has no data, its samples do not fit the inputs, or there is no such metric.
    """
    if max_drop is None:
        return None
    if isinstance(max_drop, Limit):
        max_drop = with_metric(max_drop, model)
    metric, x, y = labeled_limit(max_drop)
    return _LabeledSamples(read_check_on(x, inputs, argument=DATA), y, metric, max_drop)


def _refuse_constant(expected: Sequence[np.ndarray], data: Mapping[str, np.ndarray], *, argument: str) -> None:
    """Refuse samples that give the same outputs: a file that returns a constant would pass on them.

    Args:
        expected: The outputs of the model.
        data: The samples, by the names of the inputs.
        argument: What the user calls them.

    Raises:
        ValueError: If all samples, of several, have the same outputs up to rounding.
    """
    rows = max(len(array) for array in data.values() if array.ndim)
    varying = [
        output
        for output in expected
        if not (output.ndim and np.isfinite(output).all())  # the check names what is not finite
        or np.ptp(output, axis=0).max(initial=0) > _SAME * np.abs(output).max(initial=0)
    ]
    if rows > 1 and not varying:
        raise ArgumentError(
            argument,
            f"samples in `{argument}` that change the outputs of the model",
            found=f"{rows} samples, all with the same outputs",
            advice=(
                "Check the preprocessing. If it is right, pass samples of several classes as `check_on`: those of "
                "one class say nothing about the others."
            ),
        )


def _scored(model: keras.Model, data: _LabeledSamples | None, *, inputs: Signature) -> list[np.ndarray]:
    """Return the outputs of a model for labeled samples, which its file is measured against; none without them.

    Raises:
        ValueError: If the labels do not fit the only output, so that nothing is converted first.
    """
    if data is None:
        return []
    outputs = predict(model, data.x, inputs=inputs, argument=DATA)
    if len(outputs) == 1 and data.limit.output is None and not isinstance(data.y, Mapping):  # the file has the names
        before = measure({"": outputs[0]}, data.y, metrics=data.metric)
        check_can_lose(data.limit, before)
        if warning := one_class_warning(data.limit, before, labels=data.y):
            warn_user(warning)
    return outputs


def _accuracy_drop(
    file: ModelFile,
    data: _LabeledSamples | None,
    *,
    expected: Sequence[np.ndarray],
    micro: Micro | None = None,
) -> tuple[AccuracyDrop, ...]:
    """Measure a file and the model it was made from, and refuse it if it lost too much.

    Args:
        file: The file.
        data: What `_read_max_drop` returned; None measures nothing.
        expected: The model's outputs for them, in the order of the file's.
        micro: The microcontroller that the file is for; None for a file that any interpreter runs.

    Returns:
        What was lost, for each output.

    Raises:
        ValueError: If an output lost more than is allowed, the file does not run on the samples, or answers do not
            fit the outputs.
    """
    if data is None:
        return ()
    run = _run_file(micro)(file, data.x, timeout=EVALUATE_TIMEOUT)
    if run.reason:
        raise ArgumentError(
            "max_drop", "a file that runs on the data of `max_drop`", found=run.reason, advice="Nothing was written."
        )
    outputs = dict(zip(run.outputs, expected, strict=True))
    before, after = (measure(each, data.y, metrics=data.metric) for each in (outputs, run.outputs))
    check_can_lose(data.limit, before)
    lost = accuracy_drops(before, after, mode=limit_mode(data.limit))
    for output in lost:
        most = largest_drop(data.limit, output.before)
        if most is not None and not output.drop <= most:
            found = (
                f"a file with {output.file:.4f}, where the Keras model has {output.before:.4f}: it loses "
                f"{output.drop:.4f}"
            )
            raise ArgumentError(
                "max_drop",
                f"a file that loses at most max_drop={most:g} of {output.metric!r} on the data of the Limit",
                found=found,
                advice=f"Nothing was written. {_MORE_DATA}, or allow more with `max_drop`.",
            )
    _check_groups(outputs, run.outputs, data)
    return lost


def _check_groups(outputs: dict[str, np.ndarray], of_file: dict[str, np.ndarray], data: _LabeledSamples) -> None:
    """Refuse a file that lost too much of a class or group.

    Raises:
        ValueError: If it did, or the labels are not classes of one output.
    """
    limits = GroupLimits.of(data.limit, outputs, data.y)
    worst = None if limits is None else limits.worst(of_file)
    if worst is not None and worst.excess > 0:
        raise ArgumentError(
            "max_drop",
            "a file that keeps the limit of each class and group on the data of the Limit",
            found=str(worst),
            advice=f"Nothing was written. {_MORE_DATA} of this group, or allow more.",
        )


def file_outputs(source: Source | ModelFile, x: Any, *, micro: Micro | None = None) -> dict[str, np.ndarray]:
    """Run a file on samples, where it is meant to run.

    Args:
        source: A path, the content of a file, or a file that is open.
        x: The samples, as `evaluate` takes them.
        micro: The microcontroller that the file is for; None for a file that any interpreter runs.

    Returns:
        The outputs by name.

    Raises:
        ValueError: If the file does not run on the samples.
    """
    file = ModelFile.open(source)
    names = [info.name for info in file.graph.inputs]
    run = _run_file(micro)(file, dict(zip(names, arrays_of(x, names=names), strict=True)), timeout=EVALUATE_TIMEOUT)
    if run.reason:
        raise ValueError(f"Expected a file that runs on the samples. Received: one that does not: {run.reason}.")
    return run.outputs


def _run_file(micro: Micro | None) -> Callable[..., Run]:
    return run_in_child if micro is None else run_by_name


# Weights of few values, as integers of few values: one grid for all channels of a weight.


def _share_grids(file: ModelFile, plain: keras.Model, *, of: keras.Model | None) -> ModelFile:
    """Give the weights that share values integers that do.

    Args:
        file: The file of `plain`.
        plain: The copy whose weights lie on their grids.
        of: The model that was trained, which knows which weights share values; None if there is no such model.

    Returns:
        The next file; the one given where no weight shares values. Products of integers and scales stay what they
        were; biases are rounded anew, far below a step of the output.
    """
    paths = {path for path, layer in Anatomy.of(of).leaves if shares_values(layer)} if of is not None else set()
    layers = [layer for path, layer in Anatomy.of(plain).leaves if path in paths]
    kernels = [_integers(kernel) for layer in layers for kernel in layer.inner_kernels.values()]
    return file.after(partial(share_grids, kernels=kernels)) if kernels else file


def _integers(kernel: Kernel) -> np.ndarray:
    """Return the integers of a weight on one grid, a row for each output channel."""
    matrix = to_matrix(as_numpy(kernel.variable), kernel).astype(np.float64)
    matrix = matrix.reshape(len(matrix), -1)
    return np.rint(matrix * (LARGEST_INTEGER / max(np.abs(matrix).max(), np.finfo(np.float32).tiny)))


# What a file has to hold for skip="auto", and what to say where it does not.


def _why_not(
    file: ModelFile,
    *,
    data: Mapping[str, np.ndarray],
    check: Check,
    labeled: _LabeledSamples | None,
    scored: Sequence[np.ndarray],
) -> str:
    """Return why a file does not give the model's outputs, or loses more than a limit allows; empty if it is good."""
    report = compare_run(run_in_child(file, data, timeout=TIMEOUT), check.expected, tolerance=check.tolerance)
    try:
        _accuracy_drop(file, labeled if report.passed else None, expected=scored)
    except ArgumentError as error:
        return str(error)
    return report.reason


@contextmanager
def _naming_operators(
    form: Quantization | EdgeQuantizer,
    trained: keras.Model | None,
    *,
    convert: Callable[..., ModelFile],
    file: ModelFile,
    samples: Mapping[str, np.ndarray],
) -> Iterator[None]:
    """Name the operators that add most to the error of a file of integers that is refused, and what to do."""
    try:
        yield
    except ValueError as error:
        if isinstance(form, EdgeQuantizer) or form.scheme != "int8" or form.skip:
            raise
        try:
            rows = errors_beside(convert, form, file=file, samples=samples).rows
        except ValueError:
            raise error from None
        advice = _KEEPING if trained is None else _KEEPING_TRAINED
        raise ValueError(f"{error} {worst_operators(rows)} {advice}") from error


# From a pruned Keras model to a compressed file that was run before it was written.

_log = logging.getLogger(__name__)

# Of models that compute in half precision, whose outputs are less exact than those of the file.
_HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 0.1}
# Of the float file beside another one: rounding in float32 moves the outputs of an untrained deep network by 1e-4.
_FLOAT_BESIDE = 1e-3
_ADVICE = (
    "Try another value of `quantize`, for 'int8' calibration data scaled like `check_on`, or allow more "
    "with `tolerance` if the file is accurate enough for you."
)
_OTHER_CONVERTER = "Or export it with TensorFlow's converter: TFPRUNE_CONVERTER=tensorflow in the environment."
_KEEPING = "quantize=Quantization('int8', skip='auto') keeps the fewest operators in float that are needed."
_KEEPING_TRAINED = "Their layers stay in float if quantize_aware gets them as `skip`; or train longer."
_FLOAT_BYTES = 4  # of a weight
_PROGRESS_STEPS = 4  # that take time: Keras' outputs, the conversion, the forms, their checks


@certified
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
            `EdgeQuantizer` is a recipe of LiteRT Quantizer, such as 4-bit weights with a scale for each block.
        calibration: About 100 samples of real data: an array, a list or dict of arrays for several inputs, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, or any iterable of batches. Labels in a tuple (x, y) are
            ignored, and only the first 500 samples are read, which have to differ from each other.
        check_on: Samples on which the file is compared with Keras, any number of them, in the same forms as
            `calibration`. None (the default) uses the first calibration batch (32 samples of an array), or random
            numbers without calibration data.
        tolerance: The largest difference allowed, as a fraction of the largest Keras output, at least 0. None (the
            default) allows 1e-4 for float32, 1e-2 for float16, 0.1 for dynamic and int16x8, 0.35 for int8 and 0.5 for
            int4; at least 1e-2 or 0.1 if layers of the model compute in float16 or bfloat16, whose outputs are less
            exact than those of the file. None also compares each weight with that of the float file, as far as the
            format allows, and each operator of integers: they may differ by a few steps of the file's scales, and
            the outputs of an int8 file by the effect of such rounding. Scores of a softmax may move further where two
            classes are close: judge such a file by its accuracy (`max_drop`), and raise the tolerance if needed.
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
            Keras model are both measured on this data, with `metric` by a name that `tfprune.export.evaluate` knows,
            by default the accuracy or first metric that a model of one output was compiled with, else
            `"accuracy"`; the report has both values, and a file that loses more is refused. With
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
        ValueError: If an argument does not fit, the file cannot be written, the converter fails, no form passes (for
            int8, the error names the operators that lose most), or the file loses more than `max_drop` allows. A file
            that was at `path` before is then untouched.

    Example:
        >>> report = to_tflite(model, "model.tflite.xz", quantize="float16", compress="xz", check_on=images)
        >>> print(report)
        exported          model.tflite.xz
        ----------------  ---...
        bytes             4,...
        unpacked bytes    6,...
        all kernels       1,480 of 14,800 entries non-zero (90.0% zeros)
        difference        ... (limit: ... = 0.01 x the largest output)
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
    labeled = _read_max_drop(max_drop, inputs, model)
    with Progress(_PROGRESS_STEPS, verbose=verbose, unit="step") as progress:
        expected = predict(stripped.model, data, inputs=inputs, argument="check_on")
        is_evidence = allowed is None and labeled is None  # else the user judges by other means
        if is_evidence and form.scheme in INTEGERS and (batches or check_on is not None):
            _refuse_constant(expected, data, argument="calibration" if check_on is None else "check_on")
        scored = _scored(stripped.model, labeled, inputs=inputs)
        plain = stripped.without_unread()
        kernels = _kernels_read(plain, first)
        progress.add()
        convert = partial(convert_prepared, plain, inputs, batches=batches or (), batch=fixed)
        goal = Check(expected, _default(form.scheme, plain) if allowed is None else allowed, "")
        fits = partial(_why_not, data=data, check=goal, labeled=labeled, scored=scored)
        form, converted, whole = convert_with_floats(form, convert, why_not=fits, samples=data, narrows=not target)
        file = _share_grids(converted, plain, of=trained)
        advice = f"{_ADVICE} {_OTHER_CONVERTER}" if converted.converter else _ADVICE
        check = Check(expected, _default(form.scheme, plain, file) if allowed is None else allowed, advice)
        prove = partial(_check_rounding, form=form, inputs=inputs, batch=fixed, data=data, check=check)
        check = prove(file, plain) if allowed is None else check
        file = file.after(*_passes(form))
        called_on = plain, first
        _check_converted(file.graph, kernels, called_on=called_on, trained=trained, allow_float=form.allow_float)
        progress.add()
        if wanted.micro is not None:
            samples = [data[name] for name in inputs.names]
            choice = choose_micro(file, inputs=samples, micro=wanted.micro, check=check)
        else:
            forms = candidate_files(file, name=_name(form), optimize=wanted.optimize)
            if tries_latency and plain is not model and _may_run_sparse(kernels, form.scheme):
                forms += _sparse_ready(plain, inputs, form, fixed, prove=prove if allowed is None else None)
            forms = wanted.forms(forms, source=f"{model.name!r} with quantize={form.scheme!r}")
            progress.add()
            with _naming_operators(form, trained, convert=convert, file=converted, samples=data):
                choice = choose(forms, inputs=data, optimize=wanted.optimize, compress=compress, check=check)
        lost = _accuracy_drop(choice.form.file, labeled, expected=scored, micro=wanted.micro)
    report = write_choice(destination, choice, source=model.name, weights=kernels, lost=lost)
    report = replace(report, uses_calibration=check_on is None and bool(batches), converter=converted.converter)
    report = _with_floats_named(report, choice.form.file, form=form, whole=whole)
    return _beside_loops(report, plain, inputs, form=form, compress=compress, batch=fixed)


def _with_floats_named(
    report: ExportReport, file: ModelFile, *, form: Quantization | EdgeQuantizer, whole: ModelFile | None
) -> ExportReport:
    """Say in a report which operators of a file of integers compute in float, and what they cost in time."""
    if form.scheme in INTEGERS:
        report = replace(report, in_float=operators_in_float(file))
    if whole is None or report.micro is not None:
        return report
    times = [benchmark(each.content).min_ms for each in (file, whole)]
    return replace(report, in_float_ms=(times[0], times[1]))


def _beside_loops(
    report: ExportReport,
    plain: keras.Model,
    inputs: Signature,
    *,
    form: Quantization | EdgeQuantizer,
    compress: str | None,
    batch: int | None,
) -> ExportReport:
    """Say in a report that recurrent layers were unrolled, and how large files are that keep their loops.

    The other files are made only if they may be smaller than that of integers.
    """
    unrolled = recurrent_layers(plain) if form.scheme in INTEGERS else []
    if not unrolled:
        return report
    other_bytes: dict[str, int] = {}
    if report.tflite_bytes > _FLOAT_BYTES * report.nnz and "tensorflow" in converters():  # which has loops
        for scheme in (None,) if report.micro else (None, "dynamic"):
            file = convert_prepared(plain, inputs, form=Quantization(scheme), batch=batch)
            packed = (encode(form.file.content, compress) for form in candidate_files(file, name="", optimize="size"))
            other_bytes[scheme or "float32"] = min(map(len, packed))
    return replace(report, unrolled=tuple(layer.name for layer in unrolled), other_bytes=other_bytes)


def _default(scheme: str | None, plain: keras.Model, file: ModelFile | None = None) -> float:
    """Return the difference allowed: by the number format, or that of the weights in a file of a recipe."""
    if file is not None and scheme == EdgeQuantizer.scheme:
        of_format = format_tolerance(file.graph)
    else:
        of_format = TOLERANCES[scheme]
    return max([of_format, *(_HALF_TOLERANCES[half] for half in half_types(plain))])


def _check_form(form: Quantization | EdgeQuantizer, *, trained: keras.Model | None, micro: Micro | None) -> None:
    if trained is not None and form.skip:
        raise ArgumentError(
            "skip",
            "a Quantization without `skip` for a model of tfprune.quantize_aware",
            repr(form.skip),
            advice="Pass `skip` to quantize_aware, and allow_float=True here.",
        )
    if micro is not None and form.scheme not in (None, "int8", "int16x8"):
        raise ArgumentError(
            "quantize",
            "quantize='int8', 'int16x8' or None with target='micro'",
            repr(form.scheme),
            advice="The interpreter for microcontrollers has no kernels for it.",
        )


def _passes(form: Quantization | EdgeQuantizer) -> list[Pass]:
    """Return what becomes of a file whose rounding was checked."""
    return [] if form.levels is None else [partial(share_values, levels=form.levels)]


def _name(form: Quantization | EdgeQuantizer) -> str:
    return form.name if isinstance(form, EdgeQuantizer) else form.scheme or "float32"


def _may_run_sparse(kernels: list[_KernelZeros], scheme: str | None) -> bool:
    """Return True if sparse kernels for whole maps, which take floats only, find zeros enough in a kernel."""
    return scheme not in (*INTEGERS, EdgeQuantizer.scheme) and any(row.sparsity > SPARSE_THRESHOLD for row in kernels)


def _batch(wanted: Target, inputs: Signature, model: keras.Model) -> int | None:
    """Return the batch of the file; None leaves it open where the model does."""
    if inputs.batch is not None and wanted.batch not in (None, inputs.batch):
        raise ArgumentError(
            "batch",
            f"batch={inputs.batch} or None with {model.name!r}, whose input {inputs.names[0]!r} has this batch",
            str(wanted.batch),
            advice="Build the model on keras.Input(shape), which leaves it open.",
        )
    return wanted.fixed_batch


def _sparse_ready(
    plain: keras.Model,
    inputs: Signature,
    form: Quantization | EdgeQuantizer,
    batch: int | None,
    *,
    prove: Callable[[ModelFile, keras.Model], Check] | None,
) -> list[FileForm]:
    """Convert an equal model that sparse kernels run, and compare its weights; `plain` becomes it and is used up."""
    try:
        ready = become_sparse_ready(plain)
    except ValueError as error:  # which `sparse_inference` of the file says as well
        _log.info("%r has no form for sparse kernels: %s", plain.name, error)
        return []
    file = convert_prepared(ready, inputs, form=Quantization(form.scheme), batch=batch)
    if prove is not None:
        prove(file, ready)
    file = file.after(*_passes(form))
    forms = candidate_files(file, name=f"{form.scheme or 'float32'}, sparse-ready", optimize="latency")
    return [candidate for candidate in forms if candidate.speed is Speed.SPARSE]
