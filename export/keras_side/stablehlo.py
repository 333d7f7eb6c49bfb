"""Keras models to .tflite bytes without TensorFlow: JAX traces them, and LiteRT's own converter takes the trace.

On the JAX backend this process traces the model. On other backends it travels as Keras saves it, and the child that
converts it loads and traces it on JAX. The converter runs in a child in any case: on some models it crashes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.spec import ArgumentError
from tfprune.export.device.processes import OUTPUT, read_job, run_job, write_job
from tfprune.export.device.verify import run_in_child
from tfprune.export.file import schema
from tfprune.export.file.document import (
    NamedTensors,
    add_constant,
    add_operator,
    add_tensor,
    add_values,
    inputs_of,
    operator_code,
    operator_name,
    save_objects,
    sorted_operators,
    unpack_objects,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import keep_order
from tfprune.export.rewriting.weights import EdgeQuantizer, edge_quantized
from tfprune.report import install

if TYPE_CHECKING:
    import keras

    from tfprune.export.keras_side.prepare import ModelInput, Signature

# The converter, whose names are private: probed here, and nowhere else.

_PACKAGE = "litert_converter.mlir"
_WANTED = "litert-converter>=0.5,<0.6"
_OTHER = (
    f"Use TensorFlow's converter instead: {install('train')}, and TFPRUNE_CONVERTER=tensorflow in the environment"
)


def _converter() -> tuple[Any, Any, Any]:
    """Return the modules of the converter: its intermediate representation, its passes, and itself.

    Raises:
        ValueError: If it is not installed, or of a version that has other names.
    """
    try:
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir._mlir_libs import converter_api_ext as api

        names = (
            api.ConvertToTFLConfig,
            api.export_flatbuffer_to_bytes,
            api.prepare_mlir_context,
            api.run_convert_to_tfl_passes,
            api.set_signature,
            ir.MLIRError,
        )
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Expected {_WANTED}, which converts models without TensorFlow. Received: {_version()}: {error}. Run "
            f"{install('jax')}; its wheels are for Linux on x86-64 and for macOS on ARM. {_OTHER}."
        ) from error
    assert names
    if not importlib.util.find_spec("jax"):
        raise ValueError(f"Expected JAX, which traces models. Received: none. Run {install('jax')}. {_OTHER}.")
    return ir, passmanager, api


def _version() -> str:
    try:
        return f"version {importlib.metadata.version('litert-converter')}"
    except importlib.metadata.PackageNotFoundError:
        return "none"


# What the child does.

_JOB = "job"
_TRACE = "model.mlirbc"
_OUTPUTS = "outputs"
_CONVERTED = "model.tflite"
_SIGNATURE = "serving_default"  # as the other converter names it


def _convert_job(folder: Path) -> None:
    """Convert the trace in the folder of a job, or the copy of a model there, and write the file beside it.

    Raises:
        ValueError: If the converter is missing or refuses the model, or the copy cannot be loaded or traced.
    """
    ir, passmanager, api = _converter()
    settings, _ = read_job(folder, _JOB)
    if not (folder / _TRACE).exists():
        _trace_copy(settings, folder)
    names, _ = read_job(folder, _OUTPUTS)
    context = ir.Context()
    api.prepare_mlir_context(context)
    try:
        with context:
            module = ir.Module.parse((folder / _TRACE).read_bytes(), context)
            passmanager.PassManager.parse("builtin.module(stablehlo-deserialize)").run(module.operation)
            inputs = [entry["name"] for entry in settings["inputs"]]
            api.set_signature(module.operation, _SIGNATURE, inputs, names["outputs"])
            config = api.ConvertToTFLConfig()
            config.model_origin_framework = "JAX"
            config.unsafe_fuse_dynamic_shaped_broadcast = True
            api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
            content = api.export_flatbuffer_to_bytes(module.operation)
    except (ir.MLIRError, RuntimeError) as error:
        raise ValueError(f"the converter says: {error}") from error
    (folder / _CONVERTED).write_bytes(content)


def _trace_copy(settings: dict[str, Any], folder: Path) -> None:
    """Trace the model that a parent on another backend could not trace."""
    from tfprune.export.keras_side.prepare import ModelInput, Signature, read_copy

    inputs = [ModelInput(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in settings["inputs"]]
    model = read_copy(folder, settings["things"])
    _write_trace(model, folder, inputs=Signature(tuple(inputs), settings["form"]))


# Tracing.

_MOST_STEPS = 512  # of a loop, which becomes as many copies of its operators


def _write_trace(model: keras.Model, folder: Path, *, inputs: Signature) -> None:
    """Write what a model computes as StableHLO, and the names of its outputs.

    Args:
        model: A model on the JAX backend. It is left as it is.
        folder: The folder of the job.
        inputs: The inputs of the model.

    Raises:
        ValueError: If JAX cannot trace it.
    """
    import jax
    import jax.export
    import keras

    from tfprune.export.keras_side.prepare import longest, recurrent_layers, unrolled

    trained, others = ([variable.value for variable in each] for each in _variables(model))
    names: list[str] = []

    def call(*arrays: Any) -> list[Any]:
        x = inputs.pack(dict(zip(inputs.names, arrays, strict=True)))
        outputs, _ = model.stateless_call(trained, others, x, training=False)
        names[:] = _output_names(outputs)
        return [outputs[name] for name in names] if isinstance(outputs, dict) else keras.tree.flatten(outputs)

    with ExitStack() as stack:
        if recurrent_layers(model):
            stack.enter_context(unrolled(model))
        failures = []
        for specs in _specs(inputs, most=longest(model)):
            try:
                has_symbols = any(jax.export.is_symbolic_dim(size) for spec in specs for size in spec.shape)
                with _known_functions(fuses=not has_symbols):
                    exported = jax.export.export(jax.jit(call), platforms=["cpu"])(*specs)
                break
            except (TypeError, ValueError, NotImplementedError, jax.errors.InconclusiveDimensionOperation) as error:
                failures.append(error)
        else:
            raise ValueError(
                f"Expected a model that JAX traces. Received: {model.name!r}: {_said(failures[-1])}. {_OTHER}."
            ) from failures[-1]
    (folder / _TRACE).write_bytes(exported.mlir_module_serialized)
    write_job(folder, _OUTPUTS, settings={"outputs": names})


@contextmanager
def _known_functions(*, fuses: bool) -> Iterator[None]:
    """Let functions that models call be traced in the form that the converter has operators for.

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
        (keras.ops, "fft", _fft),
        (keras.ops, "fft2", _fft2),
    ]
    known += [(jax.nn, "gelu", _gelu_as_one)] if fuses else []
    before = [getattr(module, name) for module, name, _ in known]
    try:
        for (module, name, function), original in zip(known, before, strict=True):
            setattr(module, name, functools.partial(function, original))
        yield
    finally:
        for (module, name, _), original in zip(known, before, strict=True):
            setattr(module, name, original)


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
_BROADCASTING = ("ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SELECT_V2", "SUB")
# Operators that take sizes, and the places of these among the inputs; in the first ones, an open size may be -1.
_MAY_BE_OPEN = {"RESHAPE": 1, "SLICE": 2}
_SIZES = {**_MAY_BE_OPEN, "BROADCAST_TO": 1, "FILL": 0, "STRIDED_SLICE": 2, "TILE": 1, "TRANSPOSE_CONV": 0}


_BROADCASTS_SINCE = 2  # the first version of BROADCAST_TO
_INT32 = schema.TensorType.INT32
_INTEGERS = (np.int32, np.int64)  # of lists of sizes: BROADCAST_TO takes both


class _ClosedError(ValueError):
    """An operator whose sizes cannot be left open."""


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


def _open_sizes(model: schema.ModelT, *, numbers: Sequence[int], tables: Sequence[np.ndarray]) -> None:
    """Leave sizes of a file open that was traced with rare numbers for them.

    Args:
        model: An open file of the converter, which is changed.
        numbers: The numbers.
        tables: The weights of which a part may be in the file, as embeddings of positions are.

    Raises:
        ValueError: If an operator needs one of the numbers.
    """
    for part in range(len(model.subgraphs) if numbers else 0):
        _Opening(NamedTensors(model, part), numbers, tables).apply()


def _begins_with(table: np.ndarray, values: np.ndarray) -> bool:
    return table.shape[1:] == values.shape[1:] and np.array_equal(table[: len(values)], values)


@dataclass(frozen=True)
class _Opening:
    """Opens sizes of one graph."""

    view: NamedTensors
    numbers: Sequence[int]
    tables: Sequence[np.ndarray]

    def apply(self) -> None:
        """Open them in constants first, and then in what operators make."""
        for operator in [*self.view.graph.operators]:
            for place, index in enumerate(inputs_of(operator)):
                values = self.view.constant(index) if index >= 0 else None
                if values is not None:
                    self._open(operator, place, values)
        for index, tensor in enumerate(self.view.tensors):
            if tensor.shape is not None and self.view.constant(index) is None:
                sizes = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
                open_sizes = np.where(self._depends(sizes), -1, sizes).astype(np.int32)
                tensor.shapeSignature = open_sizes if (open_sizes < 0).any() else None
                tensor.shape = self._at_one(tensor.shape)
        self.view.graph.operators = sorted_operators(self.view.graph.operators)

    def _depends(self, sizes: Any, *numbers: int) -> np.ndarray:
        sizes = np.asarray(sizes)
        return np.any([sizes % number == 0 for number in numbers or self.numbers], axis=0) & (sizes > 0)

    def _at_one(self, sizes: Any) -> np.ndarray:
        """Return sizes as they are where the open ones are 1."""
        for number in self.numbers:
            sizes = np.where((sizes % number == 0) & (sizes > 0), sizes // number, sizes)
        return sizes.astype(np.int32)

    def _open(self, operator: schema.OperatorT, place: int, values: np.ndarray) -> None:
        """Let a constant input of an operator fit any size."""
        name = self.view.kind(operator)
        if name not in _BROADCASTING and values.dtype in _INTEGERS and self._depends(values).any():
            self._open_sizes_of(operator, name, place, values)
        if self._depends(values.shape).any():
            self._open_shape_of(operator, name, place, values)

    def _open_shape_of(self, operator: schema.OperatorT, name: str, place: int, values: np.ndarray) -> None:
        """Hold what is the same for each index of an open size once, and take positions from their whole table."""
        closed, broadcasts = _ClosedError(f"{name} with a constant of shape {[*values.shape]}"), name in _BROADCASTING
        rest = values
        for axis in np.flatnonzero(self._depends(values.shape)):
            first = rest.take([0], axis=axis)
            rest = first if values.shape[axis] in self.numbers and (rest == first).all() else rest
        if not self._depends(rest.shape).any():
            if broadcasts:
                self._replace(operator, place, rest)
            else:
                inputs = [self._constant(rest), self._computed(np.array(values.shape))]
                self._make(operator, place, "BROADCAST_TO", inputs=inputs, shape=values.shape)
            return
        while len(rest.shape) > 1 and rest.shape[0] == 1:  # broadcast all the same
            rest = rest[0]
        table = next((table for table in self.tables if _begins_with(table, rest)), None)
        if not broadcasts or table is None or self._depends(rest.shape[1:]).any():
            raise closed
        sizes, begin = self._computed(np.array(rest.shape)), self._constant(np.zeros(rest.ndim, np.int32))
        self._make(operator, place, "SLICE", inputs=[self._constant(table), begin, sizes], shape=rest.shape)

    def _make(
        self, operator: schema.OperatorT, place: int, name: str, *, inputs: list[int], shape: tuple[int, ...]
    ) -> None:
        """Let another operator make what an operator takes as a constant now."""
        part = add_tensor(self.view.graph, self.view.tensors[operator.inputs[place]], buffer=0)
        self.view.tensors[part].shape = np.array(shape, np.int32)
        operator.inputs = operator.inputs.copy()
        operator.inputs[place] = part
        options = schema.SliceOptionsT() if name == "SLICE" else schema.BroadcastToOptionsT()
        add_operator(self.view.model, self.view.graph, name=name, inputs=inputs, outputs=[part], options=options)
        if name == "BROADCAST_TO":
            code = self.view.model.operatorCodes[operator_code(self.view.model, schema.BuiltinOperator.BROADCAST_TO)]
            code.version = max(code.version, _BROADCASTS_SINCE)

    def _open_sizes_of(self, operator: schema.OperatorT, name: str, place: int, sizes: np.ndarray) -> None:
        if _SIZES.get(name) != place:
            raise _ClosedError(f"{name} with sizes {sizes.tolist()}")
        is_open = self._depends(sizes)
        if name in _MAY_BE_OPEN and is_open.sum() == 1:
            self._replace(operator, place, np.where(is_open, -1, sizes).astype(np.int32))
        else:
            operator.inputs = operator.inputs.copy()
            operator.inputs[place] = self._computed(sizes)
        if name == "RESHAPE" and operator.builtinOptions is not None:
            operator.builtinOptions.newShape = np.where(is_open, -1, sizes).astype(np.int32)

    def _computed(self, sizes: np.ndarray) -> int:
        """Return a tensor of sizes that operators compute from the shapes of inputs of the graph."""
        rest, total = sizes, None
        for number in self.numbers:
            counts = np.where(self._depends(rest, number), rest // number, 0).astype(np.int32)
            if counts.any():
                rest = np.where(counts > 0, 0, rest)
                part = self._operator("MUL", [self._size(number), self._constant(counts)], len(sizes))
                total = part if total is None else self._operator("ADD", [total, part], len(sizes))
        assert total is not None
        return self._operator("ADD", [total, self._constant(rest.astype(np.int32))], len(sizes))

    def _size(self, number: int) -> int:
        """Return a tensor of the size that a number stands for, which an input of the graph has."""
        for index in self.view.graph.inputs:
            shape = self.view.tensors[index].shape
            if number in shape:
                sizes = self._operator("SHAPE", [index], len(shape), schema.ShapeOptionsT(outType=_INT32))
                place = self._constant(np.array([shape.tolist().index(number)], np.int32))
                one = self._constant(np.ones(1, np.int32))
                return self._operator("SLICE", [sizes, place, one], 1)
        raise _ClosedError(f"an input of the size {number}")

    def _constant(self, values: np.ndarray) -> int:
        return add_constant(self.view.model, self.view.graph, name=b"sizes", values=values)

    def _operator(self, name: str, inputs: list[int], length: int, options: Any = None) -> int:
        """Add an operator that makes a list of sizes, and return its output."""
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.shape = b"sizes", _INT32, np.array([length], np.int32)
        self.view.tensors.append(tensor)
        output = len(self.view.tensors) - 1
        add_operator(self.view.model, self.view.graph, name=name, inputs=inputs, outputs=[output], options=options)
        return output

    def _replace(self, operator: schema.OperatorT, place: int, values: np.ndarray) -> None:
        tensor = self.view.tensors[operator.inputs[place]]
        buffer = add_values(self.view.model, np.ascontiguousarray(values))
        operator.inputs = operator.inputs.copy()
        operator.inputs[place] = add_tensor(
            self.view.graph, tensor, shape=np.array(values.shape, np.int32), buffer=buffer
        )


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
        raise ValueError(_refusal(name, f"operators without a kernel in LiteRT: {', '.join(sorted(missing))}"))


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


# Other number formats than float32: recipes of LiteRT Quantizer.


def _integers(bits: int, *, symmetric: bool, granularity: str) -> dict[str, Any]:
    return {"num_bits": bits, "symmetric": symmetric, "granularity": granularity, "dtype": "INT"}


def _rule(*, operation: str = "*", algorithm: str = "min_max_uniform_quantize", **tensors: Any) -> dict[str, Any]:
    how = {
        "explicit_dequantize": False,
        "skip_checks": False,
        "min_weight_elements": 0,
        "compute_precision": "INTEGER",
    }
    return {"regex": ".*", "operation": operation, "algorithm_key": algorithm, "op_config": {**how, **tensors}}


_HALF = {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "FLOAT"}
_EIGHT_BITS = _integers(8, symmetric=True, granularity="CHANNELWISE")
_OF_8_BITS = _integers(8, symmetric=False, granularity="TENSORWISE")
_OF_16_BITS = _integers(16, symmetric=True, granularity="TENSORWISE")
_INT8 = _rule(activation_tensor_config=_OF_8_BITS, weight_tensor_config=_EIGHT_BITS)
_RULES = {
    "float16": _rule(
        algorithm="float_casting", weight_tensor_config=_HALF, compute_precision="FLOAT", explicit_dequantize=True
    ),
    "dynamic": _rule(weight_tensor_config=_EIGHT_BITS),
    "int8": _INT8,
    "int4": _INT8,  # its weights get fewer bits later
    "int16x8": _rule(activation_tensor_config=_OF_16_BITS, weight_tensor_config=_EIGHT_BITS),
}
_BORDERS_IN_FLOAT = [_rule(operation=each, algorithm="no_quantize") for each in ("INPUT", "OUTPUT")]


def check_recipe(form: Any, *, has_ranges: bool) -> None:
    """Refuse a number format that has no recipe.

    Args:
        form: A `Quantization`.
        has_ranges: Whether the model has ranges of its own, from `quantize_aware`.

    Raises:
        ValueError: If there is none.
    """
    for asked, what in (
        (form.scheme is not None and has_ranges, "a model of tfprune.quantize_aware"),
        (form.skip, f"skip={form.skip!r}"),
    ):
        if asked:
            raise ArgumentError(
                "quantize",
                "a number format that can be made without TensorFlow",
                f"{form.scheme!r} with {what}, which TensorFlow's converter alone takes",
                advice=f"{_OTHER}.",
            )


def quantized_by_recipe(form: Any, file: ModelFile, *, samples: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """Return a float file in another number format.

    Args:
        form: The format, a `Quantization`; float32 returns the file as it is.
        file: The file.
        samples: Calibration data, as `edge_quantized` takes them.

    Raises:
        ValueError: As `edge_quantized` does.
    """
    if form.scheme is None:
        return file.content
    if not importlib.util.find_spec("litert_quantizer"):
        raise ArgumentError(
            "quantize",
            f"the package litert-quantizer, which makes quantize={form.scheme!r} without TensorFlow",
            "not installed",
            advice=f"Run {install('jax')}. {_OTHER}.",
        )
    has_borders = form.io_dtype == "float32" and "activation_tensor_config" in _RULES[form.scheme]["op_config"]
    recipe = [_RULES[form.scheme], *(_BORDERS_IN_FLOAT if has_borders else [])]
    return edge_quantized(EdgeQuantizer(recipe), file, samples=samples).content


# The call in the parent.

_log = logging.getLogger(__name__)
_TIMEOUT = 3600.0  # seconds
_ENVIRONMENT = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}


def convert_by_jax(model: keras.Model, inputs: Signature) -> ModelFile:
    """Convert a model to a float32 file.

    A batch that the model leaves open stays open where the operators allow it, and is 1 elsewhere.

    Args:
        model: A model without wrappers, on any backend.
        inputs: Its inputs, with the batch that the file takes.

    Raises:
        ValueError: If another process cannot import a custom class that it needs, JAX cannot trace the model, or the
            converter refuses it or crashes on it.
    """
    _check_recurrent(model, inputs)
    *ways, last = _ways(model, inputs)
    for way, numbers in ways:
        try:
            file = _convert(model, way, numbers)
            if not _has_open_length(inputs) or _runs(file, model, inputs):
                return file
            _log.info("a file of %r traced for %s does not give its outputs", model.name, way.inputs)
        except ValueError as error:
            _log.info("%r is not traced for %s: %s", model.name, way.inputs, error)
    try:
        return _convert(model, last[0])
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
    run = run_in_child(ModelFile(keep_order(file.content, inputs.names)), data, timeout=_TIMEOUT)
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


def _convert(model: keras.Model, inputs: Signature, numbers: Sequence[int] = ()) -> ModelFile:
    import keras

    from tfprune.export.keras_side.prepare import has_half_weights, in_float32, states_at_start, write_copy
    from tfprune.models.anatomy import as_numpy

    with TemporaryFolder() as name:
        folder = Path(name)
        things: list[list[str]] = []
        is_traced = keras.backend.backend() == "jax" and not has_half_weights(model)
        with in_float32(model), states_at_start(model):
            if is_traced:
                _write_trace(model, folder, inputs=inputs)
            else:
                things = write_copy(model, folder)
        write_job(folder, _JOB, settings={"things": things, **asdict(inputs)})
        package = _PACKAGE if is_traced else "keras"
        completed = run_job(_convert_job, folder, timeout=_TIMEOUT, environment=_ENVIRONMENT, package=package)
        if not completed.ok:
            output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
            raise ValueError(_failure(completed.reason, output, model.name))
        model_objects = unpack_objects((folder / _CONVERTED).read_bytes())
        _check_kernels(model_objects, model.name)
        _pad_transposed_convolutions(model_objects)
        tables = [as_numpy(weight) for weight in model.weights if len(weight.shape) == 2] if len(numbers) > 1 else []
        _open_sizes(model_objects, numbers=numbers, tables=tables)
        _name_tensors(model_objects)
        return ModelFile.open(save_objects(model_objects))


def _failure(reason: str, output: str, name: str) -> str:
    """Say what stopped the converter, and which path may work."""
    if reason.startswith("Expected "):  # said by the child itself
        return f"{reason}."
    missing = sorted({*re.findall(r"failed to legalize operation '(\w+\.\w+)'", output)})
    lists = re.findall(r"(?:Flex|Custom|Select) ops: (.+)", output)
    missing += sorted({each.strip() for names in lists for each in names.split(",")})
    if missing:
        reason = f"operators without a builtin form in TFLite: {', '.join(missing)}"
    elif reason.startswith(("killed by", "did not finish")):
        reason = f"its process {'was ' if reason.startswith('killed') else ''}{reason}"
    return _refusal(name, reason)


def _refusal(name: str, reason: str) -> str:
    return f"Expected LiteRT's converter to accept {name!r}. Received: {reason}. {_OTHER}."
