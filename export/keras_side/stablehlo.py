"""Keras models to .tflite bytes without TensorFlow: JAX traces them, and LiteRT's own converter takes the trace.

On the JAX backend this process traces the model. On other backends it travels as Keras saves it, and the child that
converts it loads and traces it on JAX. The converter runs in a child in any case: on some models it crashes. A child
that only converts imports no Keras, which takes seconds: what needs it here is imported where it is used.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import itertools
import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.export.device.processes import OUTPUT, read_job, run_job, write_job
from tfprune.export.device.verify import run_in_child
from tfprune.export.file import schema
from tfprune.export.file.document import (
    CONVERTER,
    QUANTIZED,
    NamedTensors,
    add_operator,
    add_tensor,
    inputs_of,
    operator_code,
    operator_name,
    put_in_order,
    put_metadata,
    save_objects,
    unpack_objects,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import keep_order
from tfprune.export.rewriting.shapes import open_sizes
from tfprune.export.rewriting.weights import operators_to_skip, quantized_by_recipe
from tfprune.report import install

if TYPE_CHECKING:
    import keras

    from tfprune.export.keras_side.prepare import ModelInput, Signature

_Function = Callable[..., dict[str, Any]]  # of arrays, by name
_Inputs = Mapping[str, tuple[tuple[int, ...], str]]  # the shape and the type of each

# The converter, whose names are private: probed here, and nowhere else.

_PACKAGE = "litert_converter.mlir"
_NAME = "litert-converter"
_WANTED = f"{_NAME}>=0.5,<0.6"
_OTHER = (
    f"Use TensorFlow's converter instead: {install('train')}, and TFPRUNE_CONVERTER=tensorflow in the environment"
)


_PROBED = (
    "ConvertToTFLConfig.qdq_conversion_mode",
    "export_flatbuffer_to_bytes",
    "merge_modules",
    "prepare_mlir_context",
    "run_convert_to_tfl_passes",
    "set_signature",
)


class _NoConverterError(ValueError):
    """There is no converter that this module knows, whatever the model."""


def _check_installed() -> None:
    """Refuse an environment without the converter or JAX, before any work is done.

    Raises:
        ValueError: Naming what is missing, and the path that works.
    """
    for package in (_PACKAGE.partition(".")[0], "jax"):
        if not importlib.util.find_spec(package):
            raise _missing(f"no package {package}")


def _converter() -> tuple[Any, Any, Any]:
    """Return the modules of the converter: its intermediate representation, its passes, and itself.

    Raises:
        ValueError: If it is not installed, or of a version that has other names.
    """
    try:
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir._mlir_libs import converter_api_ext as api

        attrgetter(*_PROBED)(api)
        attrgetter("MLIRError", "Operation.create", "WalkResult")(ir)
    except (ImportError, AttributeError) as error:
        raise _missing(f"{_version()}: {error}") from error
    return ir, passmanager, api


def _missing(found: str) -> ValueError:
    return _NoConverterError(
        f"Expected {_WANTED} and JAX, which convert models without TensorFlow. Received: {found}. Run "
        f"{install('jax')}; wheels of {_NAME} are for Linux on x86-64 and for macOS on ARM. {_OTHER}."
    )


def _version() -> str:
    try:
        return f"version {importlib.metadata.version(_NAME)}"
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _converter_name() -> str:
    """Return the name of the converter, and its version."""
    return f"{_NAME} {importlib.metadata.version(_NAME)}"


# What the child does.

_JOB = "job"
_TRACE = "{}.mlirbc"  # of a signature, by its number
_SIGNATURES = "signatures"  # the name of each, and those of its inputs and outputs
_CONVERTED = "model.tflite"
_SIGNATURE = "serving_default"  # as the other converter names it


def _convert_job(folder: Path) -> None:
    """Convert the traces in the folder of a job, or the copy of a model there, and write the file beside it.

    Raises:
        ValueError: If the converter is missing or refuses the model, or the copy cannot be loaded or traced.
    """
    ir, passmanager, api = _converter()
    settings, _ = read_job(folder, _JOB)
    if not (folder / _TRACE.format(0)).exists():
        _trace_copy(settings, folder)
    signatures = read_job(folder, _SIGNATURES)[0]["signatures"]
    context = ir.Context()
    api.prepare_mlir_context(context)
    try:
        with context:
            modules = []
            for number, names in enumerate(signatures):
                module = ir.Module.parse((folder / _TRACE.format(number)).read_bytes(), context)
                passmanager.PassManager.parse("builtin.module(stablehlo-deserialize)").run(module.operation)
                _flatten_constants(ir, module)
                _place_ranges(ir, module)
                api.set_signature(module.operation, *names)
                modules.append(module)
            module = modules[0] if len(modules) == 1 else api.merge_modules(modules)
            config = api.ConvertToTFLConfig()
            config.model_origin_framework = "JAX"
            config.unsafe_fuse_dynamic_shaped_broadcast = True
            api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
            if settings["integers"]:  # of operators that are fused by now
                _repeat_ranges(ir, module)
                config.qdq_conversion_mode = "STATIC"
                api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
            content = api.export_flatbuffer_to_bytes(module.operation)
    except (ir.MLIRError, RuntimeError) as error:
        raise ValueError(f"the converter says: {error}") from error
    (folder / _CONVERTED).write_bytes(content)


def _operations(ir: Any, module: Any, name: str) -> list[Any]:
    """Return the operations of a module with a name, in order, so that they may be changed."""
    found: list[Any] = []

    def collect(operation: Any) -> Any:
        if operation.name == name:
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(collect)
    return found


def _flatten_constants(ir: Any, module: Any) -> None:
    """Give constants of the channels of a series one dimension: only such ones are fused with its convolution."""
    for operation in _operations(ir, module, "stablehlo.broadcast_in_dim"):
        values, shape = operation.operands[0], operation.result.type.shape
        if len(shape) != 3 or values.type.shape != [1, 1, shape[2]] or not _is_constant(values):
            continue
        with ir.InsertionPoint(operation), operation.location:
            flat = ir.RankedTensorType.get([shape[2]], values.type.element_type)
            reshape = ir.Operation.create("stablehlo.reshape", results=[flat], operands=[values])
        operation.operands[0] = reshape.result
        operation.attributes["broadcast_dimensions"] = ir.DenseI64ArrayAttr.get([2])


def _is_constant(value: Any) -> bool:
    """Return whether a value depends on constants only."""
    owner = value.owner
    operands = getattr(owner, "operands", None)  # an argument of a function belongs to a block, which has none
    return operands is not None and all(map(_is_constant, operands))


def _place_ranges(ir: Any, module: Any) -> None:
    """Turn the places that a trace marks into operators that round to 8-bit integers, and back to floats."""
    for operation in _operations(ir, module, "stablehlo.composite"):
        if operation.attributes["name"].value != _RANGE:
            continue
        attributes, tensor = operation.attributes["composite_attributes"], operation.operands[0]
        scale, zero = (np.array(attributes[name]).item() for name in ("scale", "zero_point"))
        if _is_constant(tensor):
            operation.result.replace_all_uses_with(_rounded_constant(ir, operation, scale, zero))
            operation.erase()
            continue
        kind = ir.Type.parse(f"!quant.uniform<i8:f32, {scale!r}:{zero}>")
        with ir.InsertionPoint(operation), operation.location:
            integers = ir.RankedTensorType.get(tensor.type.shape, kind)
            rounded = ir.Operation.create("stablehlo.uniform_quantize", results=[integers], operands=[tensor])
            again = ir.Operation.create(
                "stablehlo.uniform_dequantize", results=[tensor.type], operands=[rounded.result]
            )
        operation.result.replace_all_uses_with(again.result)
        operation.erase()


def _rounded_constant(ir: Any, operation: Any, scale: float, zero: int) -> Any:
    """Return what rounds a constant in floats: the converter takes operators of integers away from constants."""
    tensor = operation.operands[0]

    def create(name: str, operands: list[Any], *, kind: Any = tensor.type, **how: Any) -> Any:
        return ir.Operation.create(f"stablehlo.{name}", results=[kind], operands=operands, attributes=how).result

    def filled(value: float) -> Any:
        values = ir.DenseElementsAttr.get(np.array(value, np.float32))
        return create("constant", [], kind=ir.RankedTensorType.get([], values.type.element_type), value=values)

    def spread(value: float) -> Any:
        return create("broadcast_in_dim", [filled(value)], broadcast_dimensions=ir.DenseI64ArrayAttr.get([]))

    with ir.InsertionPoint(operation), operation.location:
        steps = create("round_nearest_even", [create("divide", [tensor, spread(scale)])])
        kept = create("clamp", [filled(_LOWEST - zero), steps, filled(_LOWEST + _STEPS - zero)])
        return create("multiply", [kept, spread(scale)])


def _repeat_ranges(ir: Any, module: Any) -> None:
    """Round in front of a reshape as behind it: it follows the convolution of a series, which needs a range."""
    for operation in reversed(_operations(ir, module, "tfl.quantize")):
        reshape = operation.operands[0].owner
        if getattr(reshape, "name", "") != "tfl.reshape":
            continue
        tensor = reshape.operands[0]
        if getattr(tensor.owner, "name", "") in ("", "tfl.dequantize"):  # an input, or rounded already
            continue
        with ir.InsertionPoint(reshape), reshape.location:
            kind = ir.RankedTensorType(operation.result.type).element_type
            integers = ir.RankedTensorType.get(tensor.type.shape, kind)
            how = {"qtype": ir.TypeAttr.get(integers)}
            rounded = ir.Operation.create("tfl.quantize", results=[integers], operands=[tensor], attributes=how)
            again = ir.Operation.create("tfl.dequantize", results=[tensor.type], operands=[rounded.result])
        reshape.operands[0] = again.result


def _trace_copy(settings: dict[str, Any], folder: Path) -> None:
    """Trace the model that a parent on another backend could not trace."""
    from tfprune.export.keras_side.prepare import ModelInput, Signature, read_copy

    inputs = [ModelInput(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in settings["inputs"]]
    model = read_copy(folder, settings["things"])
    _write_trace(model, folder, inputs=Signature(tuple(inputs), settings["form"]), marked=settings["marked"])


# Tracing.

_MOST_STEPS = 512  # of a loop, which becomes as many copies of its operators


def _write_trace(model: keras.Model, folder: Path, *, inputs: Signature, marked: bool) -> None:
    """Write what a model computes as StableHLO, and the names of its outputs.

    Args:
        model: A model on the JAX backend. It is left as it is.
        folder: The folder of the job.
        inputs: The inputs of the model.
        marked: Whether its layers are traced with numbers for names, and its outputs negated.

    Raises:
        ValueError: If JAX cannot trace it.
    """
    import jax
    import jax.export
    import keras

    from tfprune.export.keras_side.prepare import longest, marked_layers, recurrent_layers, unrolled

    trained, others = ([variable.value for variable in each] for each in _variables(model))
    names: list[str] = []

    def call(*arrays: Any) -> list[Any]:
        x = inputs.pack(dict(zip(inputs.names, arrays, strict=True)))
        outputs, _ = model.stateless_call(trained, others, x, training=False)
        names[:] = _output_names(outputs)
        if marked:
            outputs = keras.tree.map_structure(keras.ops.negative, outputs)
        return [outputs[name] for name in names] if isinstance(outputs, dict) else keras.tree.flatten(outputs)

    with ExitStack() as stack:
        if recurrent_layers(model):
            stack.enter_context(unrolled(model))
        if marked:
            stack.enter_context(marked_layers(model))
        failures = []
        for specs in _specs(inputs, most=longest(model)):
            try:
                has_symbols = any(jax.export.is_symbolic_dim(size) for spec in specs for size in spec.shape)
                with _known_functions(fuses=not has_symbols), _marked_ranges(fuses=not has_symbols):
                    exported = jax.export.export(jax.jit(call, keep_unused=True), platforms=["cpu"])(*specs)
                break
            except (TypeError, ValueError, NotImplementedError, jax.errors.InconclusiveDimensionOperation) as error:
                failures.append(error)
        else:
            raise ValueError(
                f"Expected a model that JAX traces. Received: {model.name!r}: {_said(failures[-1])}. {_OTHER}."
            ) from failures[-1]
    (folder / _TRACE.format(0)).write_bytes(exported.mlir_module_serialized)
    write_job(folder, _SIGNATURES, settings={"signatures": [[_SIGNATURE, inputs.names, names]]})


def _write_functions(functions: Mapping[str, _Function], inputs: Mapping[str, _Inputs], folder: Path) -> None:
    """Write what functions compute as StableHLO, and the names of their inputs and outputs."""
    import jax
    import jax.export

    signatures: list[list[Any]] = []

    def traced(function: _Function, names: Sequence[str], outputs: list[str]) -> Callable[..., list[Any]]:
        def call(*arrays: Any) -> list[Any]:
            results = function(**dict(zip(names, arrays, strict=True)))
            outputs[:] = sorted(results)
            return [results[name] for name in outputs]

        return call

    for number, (key, function) in enumerate(functions.items()):
        outputs: list[str] = []
        names = [*inputs[key]]
        specs = [jax.ShapeDtypeStruct(*inputs[key][name]) for name in names]
        with _known_functions(fuses=True):
            call = jax.jit(traced(function, names, outputs), keep_unused=True)
            exported = jax.export.export(call, platforms=["cpu"])(*specs)
        (folder / _TRACE.format(number)).write_bytes(exported.mlir_module_serialized)
        signatures.append([key, names, outputs])
    write_job(folder, _SIGNATURES, settings={"signatures": signatures})


_MOST_AXES = 8  # of a tensor in LiteRT
_TRACING = threading.RLock()  # functions are those of the process: one thread at a time replaces them


@contextmanager
def _known_functions(*, fuses: bool) -> Iterator[None]:
    """Let functions that models call be traced in the form that the converter has operators for.

    Other threads get the functions as they are, and wait if they trace, too.

    Args:
        fuses: Whether composites are traced, which have no form with symbols for sizes.
    """
    import jax
    import keras

    known: list[tuple[Any, str, Callable[..., Any]]] = [
        (jax.numpy, "take", _take_inside),
        (jax.lax, "top_k", _top_k),
        (jax.numpy, "sort", _sorted),
        (jax.numpy, "argsort", _sorting_indices),
        (jax.lax, "dynamic_slice", _cut_at),
        (jax.lax, "cond", _known_branch),
        (jax.lax, "fori_loop", _unrolled_steps),
        (jax.numpy, "tile", _tile_axes),
        (keras.ops, "fft", _fft),
        (keras.ops, "fft2", _fft2),
    ]
    known += [(jax.nn, "gelu", _gelu_as_one)] if fuses else []
    with _TRACING:
        before = [getattr(module, name) for module, name, _ in known]
        try:
            for (module, name, function), original in zip(known, before, strict=True):
                setattr(module, name, _in_this_thread(function, original))
            yield
        finally:
            for (module, name, _), original in zip(known, before, strict=True):
                setattr(module, name, original)


def _in_this_thread(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is another one in this thread only."""
    own = threading.get_ident()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != own:
            return original(*args, **kwargs)
        return function(original, *args, **kwargs)

    return call


def _tile_axes(tile: Callable[..., Any], array: Any, repeats: Any) -> Any:
    """Repeat one axis after the other where all at once would take more axes than LiteRT has: two for each."""
    import jax

    counts = [repeats] if isinstance(repeats, int) else [*repeats]
    is_small = 2 * max(array.ndim, len(counts)) <= _MOST_AXES
    if is_small or not all(isinstance(count, int) and count for count in counts):
        return tile(array, repeats)
    array = jax.numpy.reshape(array, (1,) * (len(counts) - array.ndim) + array.shape)
    for axis, count in enumerate(counts, start=array.ndim - len(counts)):
        array = jax.numpy.concatenate([array] * count, axis=axis) if count > 1 else array
    return array


def _gelu_as_one(gelu: Callable[..., Any], x: Any, approximate: bool = True) -> Any:
    import jax

    def decomposed(x: Any, *, approximate: str) -> Any:
        return gelu(x, approximate=approximate == "tanh")

    return jax.lax.composite(decomposed, "aten.gelu.default")(x, approximate="tanh" if approximate else "none")


def _take_inside(take: Callable[..., Any], a: Any, indices: Any, axis: int | None = None, **others: Any) -> Any:
    """Look up entries without those outside of the table: NaN in JAX, and an error of LiteRT's operator."""
    if axis is None or any(value is not None for value in others.values()):
        return take(a, indices, axis=axis, **others)
    if a.dtype == bool:  # which the converter's operators do not take
        return _take_inside(take, a.astype("int32"), indices, axis).astype(bool)
    place = (slice(None),) * (axis % a.ndim)
    return a.at[(*place, indices)].get(mode="promise_in_bounds")


def _cut_at(cut: Callable[..., Any], operand: Any, start_indices: Any, slice_sizes: Any, **others: Any) -> Any:
    """Cut a slice whose start is known without an operator that computes it."""
    if others or not isinstance(start_indices, list | tuple) or not all(map(_is_start, start_indices)):
        return cut(operand, start_indices, slice_sizes, **others)
    pairs = zip(map(int, start_indices), slice_sizes, strict=True)
    return operand[tuple(slice(start, start + size) for start, size in pairs)]


def _known_branch(
    cond: Callable[..., Any], pred: Any, true_fun: Any, false_fun: Any, *operands: Any, **others: Any
) -> Any:
    """Trace one branch only where the condition is known, as it is of sizes: the other one may not fit them."""
    import jax

    if others or isinstance(pred, jax.core.Tracer):
        return cond(pred, true_fun, false_fun, *operands, **others)
    return (true_fun if pred else false_fun)(*operands)


def _unrolled_steps(
    loop: Callable[..., Any], lower: Any, upper: Any, body_fun: Any, init_val: Any, **others: Any
) -> Any:
    """Trace each step of a loop of known length: the converter has no form for most loops."""
    if others or not (_is_start(lower) and _is_start(upper)) or upper - lower > _MOST_STEPS:
        return loop(lower, upper, body_fun, init_val, **others)
    for step in range(lower, upper):
        init_val = body_fun(step, init_val)
    return init_val


def _top_k(top_k: Callable[..., Any], operand: Any, k: int, **others: Any) -> Any:
    """Use both results: of values alone, the converter would make a sort, which no interpreter has a kernel for."""
    values, indices = top_k(operand, k, **others)
    return [values + (0 * indices).astype(values.dtype), indices]


def _sorted(sort: Callable[..., Any], a: Any, axis: int | None = -1, **others: Any) -> Any:
    """Sort by the operator for the largest values, the only one that TFLite has."""
    largest = _largest_negated(a, axis, others)
    return sort(a, axis=axis, **others) if largest is None else _negated(largest[0])


def _sorting_indices(argsort: Callable[..., Any], a: Any, axis: int | None = -1, **others: Any) -> Any:
    largest = _largest_negated(a, axis, {**others, "stable": None})  # of equal values, the first one comes first
    return argsort(a, axis=axis, **others) if largest is None else largest[1]


def _largest_negated(a: Any, axis: int | None, others: dict[str, Any]) -> Any:
    """Return all values of the last axis, negated, largest first, and their indices; None if more is asked."""
    import jax

    is_last = axis is not None and axis % a.ndim == a.ndim - 1 and isinstance(a.shape[-1], int)
    if not is_last or any(others.values()) or a.dtype.kind not in "fi":
        return None
    return jax.lax.top_k(_negated(a), a.shape[-1])


def _negated(values: Any) -> Any:
    return -values if values.dtype.kind == "f" else ~values


def _fft(fft: Callable[..., Any], x: Any) -> Any:
    """Transform real and imaginary parts by two matrices, because TFLite has no complex operators for that."""
    import jax.numpy as jnp

    real, imaginary = map(jnp.asarray, x)
    size = real.shape[-1]
    if not isinstance(size, int):
        return fft(x)
    angles = np.outer(range(size), range(size)) % size * (2 * np.pi / size)
    cosines, sines = np.cos(angles).astype(real.dtype), np.sin(angles).astype(real.dtype)
    return real @ cosines + imaginary @ sines, imaginary @ cosines - real @ sines


def _fft2(fft2: Callable[..., Any], x: Any) -> Any:
    import jax.numpy as jnp

    def swapped(pair: Any) -> Any:
        return tuple(jnp.swapaxes(part, -1, -2) for part in pair)

    if not all(isinstance(size, int) for size in x[0].shape[-2:]):
        return fft2(x)
    return swapped(_fft(fft2, swapped(_fft(fft2, x))))


# Ranges of a model of `quantize_aware`. The converter rounds where a trace marks them. It rounds weights and
# constants by itself, to the same integers as the wrappers of the model.

_RANGE = "tfprune.range"  # the name of the composite that marks a range
_STEPS, _LOWEST = 255, -128  # of 8-bit integers


@contextmanager
def _marked_ranges(*, fuses: bool) -> Iterator[None]:
    """Let wrappers with known ranges mark them in a trace instead of rounding."""
    import jax

    from tfprune.quantizing.quantized import marks_range

    numbers = itertools.count()  # tensors are compared by name, and a layer that is opened marks many

    def mark(tensor: Any, bounds: Any) -> Any:
        if not all(isinstance(bound, float | int) for bound in bounds):  # of constants
            return tensor
        if not fuses:
            raise NotImplementedError("ranges have no form with symbols for sizes")
        low, high = map(np.float32, bounds)
        scale = (float(high) - float(low)) / _STEPS
        zero = _LOWEST + int(np.floor(-low / np.float32(scale) + np.float32(0.5)))
        kept = {"scale": np.array([scale], np.float64), "zero_point": np.array([zero], np.int64)}
        with jax.named_scope(f"range_{next(numbers)}"):
            return jax.lax.composite(lambda values, **_: values, _RANGE)(tensor, **kept)

    token = marks_range.set(mark)
    try:
        yield
    finally:
        marks_range.reset(token)


def _is_start(value: Any) -> bool:
    return isinstance(value, int | np.integer) and int(value) >= 0


def _variables(model: keras.Model) -> tuple[list[Any], list[Any]]:
    return model.trainable_variables, model.non_trainable_variables


def _output_names(outputs: Any) -> list[str]:
    if isinstance(outputs, dict):
        return sorted(outputs)
    count = len(outputs) if isinstance(outputs, list | tuple) else 1
    return [f"output_{place}" for place in range(count)]


def _specs(inputs: Signature, *, most: int | None) -> Iterator[list[Any]]:
    """Yield the shapes to trace with: with a symbol for each open length, and then one for those of all inputs.

    Args:
        inputs: The inputs.
        most: The longest that a length may be; None for any.
    """
    import jax
    import jax.export

    def shapes(name: Any) -> list[Any]:
        rows = [
            [name(entry.name, axis) if size is None else str(size) for axis, size in enumerate(entry.shape)]
            for entry in inputs.inputs
        ]
        symbols = {size for row in rows for size in row[1:] if not size.isdigit()}
        limits = [f"{symbol} <= {most}" for symbol in sorted(symbols) if most is not None]
        scope = jax.export.SymbolicScope(limits)
        texts = (f"({', '.join(row)},)" for row in rows)
        pairs = zip(inputs.inputs, (jax.export.symbolic_shape(text, scope=scope) for text in texts), strict=True)
        return [jax.ShapeDtypeStruct(shape, entry.dtype) for entry, shape in pairs]

    places = {entry.name: place for place, entry in enumerate(inputs.inputs)}
    yield shapes(lambda name, axis: f"n{places[name]}_{axis}" if axis else "b")
    if any(None in entry.shape[1:] for entry in inputs.inputs):
        yield shapes(lambda _, axis: f"n{axis}" if axis else "b")


def _said(error: BaseException) -> str:
    """Return the first lines of what an error says: Keras puts the layer in front of what happened in it."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]).rstrip(".")


# Open sizes: that of the batch, and lengths.
#
# With symbols for sizes, the converter writes operators that compute sizes around most layers. With numbers it writes
# none: a model is traced with numbers that occur nowhere else, and multiples of them in the file are made open.

_RARE = 1009  # a prime; the first primes from here on that divide no size of the model stand for open sizes
_TRIED = 2  # samples, of other lengths
_MOST_OFF = 0.01  # of the largest output


def _rare_sizes(model: keras.Model, inputs: Signature) -> list[int]:
    """Return a prime for each dimension of the inputs, none of which divides a size of a weight or an input.

    Those of lengths are not longer than the model takes; they are left out where there are none.
    """
    from tfprune.export.keras_side.prepare import longest

    shapes = [variable.shape for variable in model.variables] + [entry.shape for entry in inputs.inputs]
    sizes = {size for shape in shapes for size in shape if size}
    rank, most = max(len(entry.shape) for entry in inputs.inputs), longest(model)
    batch, *lengths = itertools.islice(_primes(itertools.count(_RARE), sizes), rank)
    if most is not None and most < lengths[-1]:
        lengths = [*itertools.islice(_primes(range(min(most, _RARE - 1), 2, -1), sizes), rank - 1)]
    return [batch, *lengths]


def _primes(numbers: Iterable[int], sizes: set[int]) -> Iterator[int]:
    for number in numbers:
        is_prime = all(number % factor for factor in range(2, math.isqrt(number) + 1))
        if is_prime and all(size % number for size in sizes):
            yield number


# Names of tensors: those of layers, each once, as readers of the file and LiteRT Quantizer expect them.

_TRACED = b"jit(call)/"  # the function that is traced, in front of the names of layers


def _name_tensors(model: schema.ModelT) -> None:
    for graph in model.subgraphs:
        used: set[bytes] = set()
        for index, tensor in enumerate(graph.tensors):
            name = (tensor.name or b"").replace(_TRACED, b"")
            while not name or name in used:
                name += b"/%d" % index
            used.add(name)
            tensor.name = name


# What the converter gets wrong.

_STABLEHLO = "STABLEHLO_"  # begins the names of operators that it leaves as they were traced
_WITH_KERNELS = (
    *("ADD", "AND", "CASE", "COMPOSITE", "GATHER", "MAXIMUM", "MINIMUM", "MULTIPLY", "PAD", "REDUCE_WINDOW"),
    *("RNG_BIT_GENERATOR", "SCATTER", "SHIFT_LEFT"),
)


def _check_kernels(model: schema.ModelT, name: str) -> None:
    """Refuse a file with operators that no interpreter has kernels for; graphs inside of operators are not run."""
    kinds = {operator_name(model, operator) for operator in model.subgraphs[0].operators or ()}
    missing = {kind for kind in kinds if kind.startswith(_STABLEHLO)} - {_STABLEHLO + each for each in _WITH_KERNELS}
    if missing:
        raise _refusal(name, f"operators without a kernel in LiteRT: {', '.join(sorted(missing))}")


def _pad_transposed_convolutions(model: schema.ModelT) -> None:
    """Set the padding of transposed convolutions that the converter gives outputs of another size than they have."""
    for number, graph in enumerate(model.subgraphs):
        view = NamedTensors(model, number)
        for operator in graph.operators:
            sizes = view.constant(int(operator.inputs[0])) if view.kind(operator) == "TRANSPOSE_CONV" else None
            if sizes is None:
                continue
            kernel, image = (graph.tensors[operator.inputs[place]].shape[1:3] for place in (1, 2))
            strides = np.array([operator.builtinOptions.strideH, operator.builtinOptions.strideW])
            if ((image - 1) * strides + kernel != sizes[1:3]).any() and (-(-sizes[1:3] // strides) == image).all():
                operator.builtinOptions.padding = schema.Padding.SAME


def _look_up_rows(model: schema.ModelT) -> None:
    """Turn GATHER_ND along one dimension into GATHER, which may take tables of few bits."""
    for number, graph in enumerate(model.subgraphs):
        view = NamedTensors(model, number)
        for operator in graph.operators:
            if view.kind(operator) != "GATHER_ND":
                continue
            table, indices = inputs_of(operator)
            reshape, shape = view.maker.get(indices), graph.tensors[indices].shape.tolist()
            ids = inputs_of(reshape)[0] if reshape is not None and view.kind(reshape) == "RESHAPE" else -1
            if shape[-1] == 1 and ids >= 0 and graph.tensors[ids].shape.tolist() == shape[:-1]:
                operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.GATHER)
                operator.inputs = np.array([table, ids], np.int32)
                operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
                operator.builtinOptions = schema.GatherOptionsT(axis=0)
        used = {index for operator in graph.operators for index in inputs_of(operator)} | {*graph.outputs.tolist()}
        graph.operators = [each for each in graph.operators if used & {*each.outputs.tolist()}]


# Inputs and outputs of a file of integers: the converter leaves out the operators at its borders.

_BORDERS = {"inputs": "QUANTIZE", "outputs": "DEQUANTIZE"}


def _add_borders(model: schema.ModelT) -> bool:
    """Put operators between the integers of a file and inputs and outputs of floats; return whether it has any."""
    found = [
        (graph, border, place, index)
        for graph in model.subgraphs
        for border in _BORDERS
        for place, index in enumerate(getattr(graph, border).tolist())
        if graph.tensors[index].type == schema.TensorType.INT8 and graph.tensors[index].quantization is not None
    ]
    for graph, border, place, index in found:
        indices = getattr(graph, border).copy()
        indices[place] = _add_border(model, graph, index, kind=_BORDERS[border])
        setattr(graph, border, indices)
    return bool(found)


def _add_border(model: schema.ModelT, graph: schema.SubGraphT, index: int, *, kind: str) -> int:
    integers = graph.tensors[index]
    floats = add_tensor(graph, integers, type=schema.TensorType.FLOAT32, quantization=None, buffer=0)
    is_input = kind == "QUANTIZE"
    integers.name = QUANTIZED if is_input else integers.name + b"/int8"
    source, target = (floats, index) if is_input else (index, floats)
    add_operator(model, graph, name=kind, inputs=[source], outputs=[target])
    for signature in model.signatureDefs or ():
        for entry in signature.inputs if is_input else signature.outputs:
            if entry.tensorIndex == index and model.subgraphs[signature.subgraphIndex] is graph:
                entry.tensorIndex = floats
    return floats


# The call in the parent.

_log = logging.getLogger(__name__)
_TIMEOUT = 3600.0  # seconds
_ENVIRONMENT = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}


def convert_by_jax(
    model: keras.Model, inputs: Signature, *, form: Any, samples: Sequence[Mapping[str, np.ndarray]]
) -> bytes:
    """Convert a model by LiteRT's converter.

    A batch that the model leaves open stays open where the operators allow it, and is 1 elsewhere.

    Args:
        model: A model without wrappers for pruning, on any backend.
        inputs: Its inputs, with the batch that the file takes.
        form: The number format, a `Quantization`.
        samples: Calibration data, as `edge_quantized` takes them; empty for a model with ranges of its own.

    Raises:
        ValueError: As `quantized_by_recipe` does; or if another process cannot import a custom class that it needs,
            JAX cannot trace the model, or the converter refuses it or crashes on it.
    """
    from tfprune.export.keras_side.prepare import holds_ranges

    _check_installed()
    has_ranges = form.scheme == "int8" and holds_ranges(model)
    file = _best_file(model, inputs, integers=has_ranges)
    if not has_ranges:
        ordered = ModelFile.open(keep_order(file.content, inputs.names))
        floats = _operators_in_float(model, inputs, ordered, skip=form.skip) if form.skip else ()
        return quantized_by_recipe(form, ordered, samples=samples, other=_OTHER, floats=floats)
    file = file if form.io_dtype == "int8" else file.after(_add_borders)
    return keep_order(file.content, inputs.names)


def convert_functions(functions: Mapping[str, _Function], inputs: Mapping[str, _Inputs], *, name: str) -> bytes:
    """Convert functions of arrays to a float32 file with a signature for each.

    Args:
        functions: On the JAX backend, by signature: from arrays by name to arrays by name.
        inputs: The shape and the type of each array, by signature.
        name: What is converted, for messages.

    Raises:
        ValueError: If JAX cannot trace a function, or the converter refuses it or crashes on it.
    """
    _check_installed()
    with TemporaryFolder() as folder_name:
        folder = Path(folder_name)
        try:
            _write_functions(functions, inputs, folder)
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"Expected a model that JAX traces. Received: {name!r}: {_said(error)}. {_OTHER}."
            ) from error
        write_job(folder, _JOB, settings={"integers": False})
        model = _run_converter(folder, name, package=_PACKAGE)
    _look_up_rows(model)
    _name_tensors(model)
    return save_objects(model)


def _operators_in_float(model: keras.Model, inputs: Signature, file: ModelFile, *, skip: Sequence[str]) -> set[str]:
    """Return the names of the operators of a float file that stay in float."""
    from tfprune.export.keras_side.prepare import marked_layers

    def marked() -> tuple[bytes, Sequence[str]]:
        content = _best_file(model, inputs, integers=False, marked=True).content
        with marked_layers(model) as paths:
            return content, paths

    return operators_to_skip(skip, content=file.content, marked=marked)


def _best_file(model: keras.Model, inputs: Signature, *, integers: bool, marked: bool = False) -> ModelFile:
    """Return a file of the best way to trace a model.

    Args:
        model: The model.
        inputs: Its inputs.
        integers: Whether the file computes in integers where the model has ranges.
        marked: Whether its layers have numbers for names, and its outputs are negated.

    Raises:
        ValueError: If another process cannot import a custom class that it needs, JAX cannot trace the model, or the
            converter refuses it or crashes on it.
    """
    _check_recurrent(model, inputs)
    *ways, last = _ways(model, inputs)
    for way, numbers in ways:
        try:
            file = _convert(model, way, numbers, integers=integers, marked=marked)
            if not _has_open_length(inputs) or marked or _runs(file, model, inputs):
                return file
            _log.info("a file of %r traced for %s does not give its outputs", model.name, way.inputs)
        except _NoConverterError:
            raise
        except ValueError as error:
            _log.info("%r is not traced for %s: %s", model.name, way.inputs, error)
    try:
        return _convert(model, last[0], integers=integers, marked=marked)
    except ValueError as error:
        if not _has_open_length(inputs):
            raise
        raise ValueError(f"{error} Or fix the lengths in `keras.Input(shape)`.") from error


def _ways(model: keras.Model, inputs: Signature) -> Iterator[tuple[Signature, list[int]]]:
    """Yield inputs to trace with, best first, and the numbers in them that stand for open sizes.

    The last one has no numbers, and a batch of 1.
    """
    primes = _rare_sizes(model, inputs)
    if _has_open_length(inputs) and len(primes) == max(len(entry.shape) for entry in inputs.inputs):
        yield _with_sizes(inputs, primes), primes
    if inputs.batch is None:
        yield _with_sizes(inputs, primes[:1]), primes[:1]
        yield inputs, []
    yield _with_sizes(inputs, [1]), []


def _has_open_length(inputs: Signature) -> bool:
    return any(None in entry.shape[1:] for entry in inputs.inputs)


def _with_sizes(inputs: Signature, sizes: Sequence[int]) -> Signature:
    """Give the first open dimensions sizes, which are the same in all inputs."""

    def shape(entry: ModelInput) -> tuple[int | None, ...]:
        fixed = [fixed if size is None else size for size, fixed in zip(entry.shape, sizes, strict=False)]
        return (*fixed, *entry.shape[len(fixed) :])

    return replace(inputs, inputs=tuple(replace(entry, shape=shape(entry)) for entry in inputs.inputs))


def _runs(file: ModelFile, model: keras.Model, inputs: Signature) -> bool:
    """Return whether a file gives the outputs of its model, up to much more than rounding, for other lengths."""
    import keras

    data = inputs.random(inputs.batch or _TRIED, model=model)
    ordered = ModelFile(keep_order(file.after(_add_borders).content, inputs.names))
    run = run_in_child(ordered, data, timeout=_TIMEOUT)
    if run.reason:
        _log.info("%r: %s", model.name, run.reason)
        return False
    outputs = model(inputs.pack(data), training=False)
    outputs = [outputs[name] for name in _output_names(outputs)] if isinstance(outputs, dict) else outputs
    wanted = [keras.ops.convert_to_numpy(keras.ops.cast(each, "float32")) for each in keras.tree.flatten(outputs)]
    pairs = zip(run.outputs.values(), wanted, strict=True)
    return all(found.shape == other.shape and _is_near(found, other) for found, other in pairs)


def _is_near(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(found - wanted).max(initial=0) <= _MOST_OFF * np.abs(wanted).max(initial=0))


def _check_recurrent(model: keras.Model, inputs: Signature) -> None:
    """Refuse loops that cannot be unrolled, and states that a file would have to keep."""
    from tfprune.export.keras_side.prepare import recurrent_layers

    layers = recurrent_layers(model)
    entry = next((entry for entry in inputs.inputs if None in entry.shape[1:]), None)
    if layers and entry is not None:
        raise ValueError(
            f"Expected inputs of fixed length for LiteRT's converter, with which recurrent layers are unrolled. "
            f"Received: {entry.name!r} of shape {entry.shape}. Build the model with the length in "
            f"`keras.Input(shape)`. {_OTHER}."
        )
    stateful = next((layer.name for layer in layers if layer.stateful), None)
    if stateful is not None:
        raise ValueError(
            f"Expected a model without states for LiteRT's converter. Received: {model.name!r}, whose layer "
            f"{stateful!r} keeps its states. {_OTHER}."
        )


def _convert(
    model: keras.Model, inputs: Signature, numbers: Sequence[int] = (), *, integers: bool, marked: bool
) -> ModelFile:
    import keras

    from tfprune.export.keras_side.prepare import has_half_weights, in_float32, states_at_start, write_copy
    from tfprune.models.anatomy import as_numpy

    with TemporaryFolder() as name:
        folder = Path(name)
        settings, things = {**asdict(inputs), "marked": marked}, []
        is_traced = keras.backend.backend() == "jax" and not has_half_weights(model)
        with in_float32(model), states_at_start(model):
            if is_traced:
                _write_trace(model, folder, inputs=inputs, marked=marked)
            else:
                things = write_copy(model, folder)
        write_job(folder, _JOB, settings={**settings, "things": things, "integers": integers})
        package = _PACKAGE if is_traced else "keras"
        model_objects = _run_converter(folder, model.name, package=package)
        _check_kernels(model_objects, model.name)
        _pad_transposed_convolutions(model_objects)
        _look_up_rows(model_objects)
        tables = [as_numpy(weight) for weight in model.weights if len(weight.shape) == 2] if len(numbers) > 1 else []
        open_sizes(model_objects, numbers=numbers, tables=tables)
        _name_tensors(model_objects)
        put_in_order(model_objects)  # without constants that stand for the open sizes
        return ModelFile.open(save_objects(model_objects))


def _run_converter(folder: Path, name: str, *, package: str) -> schema.ModelT:
    completed = run_job(_convert_job, folder, timeout=_TIMEOUT, environment=_ENVIRONMENT, package=package)
    if not completed.ok:
        output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        raise _failure(completed.reason, output, name)
    model = unpack_objects((folder / _CONVERTED).read_bytes())
    put_metadata(model, {CONVERTER: _converter_name().encode()})
    return model


def _failure(reason: str, output: str, name: str) -> ValueError:
    """Return an error that says what stopped the converter, and which path may work."""
    if reason.startswith(f"Expected {_WANTED}"):  # said by the child itself
        return _NoConverterError(f"{reason}.")
    if reason.startswith("Expected "):
        return ValueError(f"{reason}.")
    missing = sorted({*re.findall(r"failed to legalize operation '(\w+\.\w+)'", output)})
    lists = re.findall(r"(?:Flex|Custom|Select) ops: (.+)", output)
    missing += sorted({each.strip() for names in lists for each in names.split(",")})
    if missing:
        reason = f"operators without a builtin form in TFLite: {', '.join(missing)}"
    elif reason.startswith(("killed by", "did not finish")):
        reason = f"its process {'was ' if reason.startswith('killed') else ''}{reason}"
    return _refusal(name, reason)


def _refusal(name: str, reason: str) -> ValueError:
    return ValueError(f"Expected LiteRT's converter to accept {name!r}. Received: {reason}. {_OTHER}.")
