"""Take a .tflite file apart into plain objects, and put them together again."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfprune.export.file.report import reason_of
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.check_structure import IDENTIFIER, check_structure
from tfprune.export.file.tflite.model import Model
from tfprune.export.file.tflite.reader import DAMAGE_ERRORS, MAX_READS_PER_BYTE, read
from tfprune.export.file.tflite.shared_parts import sharing_builder, size_of, with_shared_parts
from tfprune.export.file.trailing_archive import append_archive, trailing_archive

CONTROL_DEPENDENCIES = b"model_control_dependencies"  # metadata that name operators by their indices


def load_objects(data: bytes) -> schema.ModelT:
    """Unpack a plain .tflite file into objects that can be changed.

    Args:
        data: The plain file, not packed. Arrays of the result are views of it.

    Returns:
        The model, as the schema module of ai-edge-litert describes it, and as `archive` the files that stand behind
        the flatbuffer, such as labels.

    Raises:
        ValueError: If the bytes are not a TFLite file, are damaged, or keep values outside the flatbuffer; or (also
            an ImportError) if ai-edge-litert is not installed.
    """
    return load_with_graph(data)[1]


def load_with_graph(data: bytes) -> tuple[Model, schema.ModelT]:
    """Unpack a plain .tflite file as `load_objects` does, and return what the reader says of it as well.

    Raises:
        ValueError: As `load_objects` does.
    """
    graph = _read_whole(data)
    return graph, unpack_objects(data)


def unpack_objects(data: bytes) -> schema.ModelT:
    """Unpack a plain file that was read and checked as `load_objects` does.

    Raises:
        ValueError: If parts together are longer than the file, or it keeps values outside of the flatbuffer.
    """
    model = _unpacked(data)
    if _keeps_values_outside(model):
        raise ValueError(
            "Expected a TFLite file with all values in its flatbuffer. Received: one that keeps some behind it or in "
            "other files. Leave it as it is."
        )
    model.archive = trailing_archive(data)
    return model


def signatures_of(data: bytes) -> dict[str, int]:
    """Return the number of the graph that each signature of a plain file starts at, by its name.

    Raises:
        ValueError: If the file is damaged; or (also an ImportError) if ai-edge-litert is not installed.
    """
    schema.require_schema()
    with _whole(data):
        model = schema.Model.GetRootAs(data, 0)
        signatures = [model.SignatureDefs(index) for index in range(model.SignatureDefsLength())]
        return {(each.SignatureKey() or b"").decode(errors="replace"): each.SubgraphIndex() for each in signatures}


def _read_whole(data: bytes) -> Model:
    graph = read(data)
    with _whole(data):
        check_structure(data)
    return graph


def _unpacked(data: bytes) -> schema.ModelT:
    with _whole(data):
        packed = schema.Model.GetRootAs(data, 0)
        _check_parts(packed, MAX_READS_PER_BYTE * len(data))
        return schema.ModelT.InitFromObj(packed)


@contextmanager
def _whole(data: bytes) -> Iterator[None]:
    """Turn what reading nonsense raises into one error."""
    try:
        yield
    except DAMAGE_ERRORS as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes that are damaged or cut short "
            f"({reason_of(error)}). Copy the file again."
        ) from error


def with_values_inside(data: bytes) -> bytes:
    """Return a file with all values in its flatbuffer; other programs put those of large files behind it.

    Raises:
        ValueError: As `load_objects` does, or if the new file does not fit into 2 GB.
    """
    _read_whole(data)
    model = _unpacked(data)
    outside = [buffer for buffer in model.buffers or () if buffer.offset > 1]
    for buffer in outside:
        buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return save_objects(model) if outside else data


def numbers_operators(model: schema.ModelT) -> bool:
    """Tell whether a file names operators by their indices, which would be wrong once some come or go."""
    return any(entry.name == CONTROL_DEPENDENCIES for entry in model.metadata or ())


def save_objects(model: schema.ModelT) -> bytes:
    """Pack a model into a plain .tflite file, equal parts once; the same model gives the same bytes.

    The files that stood behind the one that `load_objects` read stand behind the new one.

    Args:
        model: What `load_objects` returns, changed or not. It is left as it is.

    Returns:
        The file's bytes.

    Raises:
        ValueError: If it does not fit into 2 GB, or a part cannot be packed.
    """
    from flatbuffers.builder import BuilderSizeError

    builder = sharing_builder()
    try:
        builder.Finish(with_shared_parts(model).Pack(builder), IDENTIFIER)
    except (*DAMAGE_ERRORS, AttributeError, BuilderSizeError) as error:
        raise ValueError(
            f"Expected a model that makes a TFLite file. Received: one that does not ({reason_of(error)})."
        ) from error
    return append_archive(bytes(builder.Output()), getattr(model, "archive", b""))


def add_tensor(graph: schema.SubGraphT, tensor: schema.TensorT, **changes: Any) -> int:
    """Append a tensor like another one.

    Args:
        graph: The graph that gets it.
        tensor: The tensor to copy. It is left as it is.
        changes: What differs in the copy, by the names of the format's fields.

    Returns:
        The index of the new tensor in the graph.
    """
    added = copy.copy(tensor)
    for name, value in changes.items():
        setattr(added, name, value)
    graph.tensors.append(added)
    return len(graph.tensors) - 1


def add_constant(model: schema.ModelT, graph: schema.SubGraphT, *, name: bytes, values: np.ndarray) -> int:
    """Append a tensor with values of its own.

    Args:
        model: The model that gets the values.
        graph: The graph of it that gets the tensor.
        name: The name of the tensor.
        values: An array of float32, int32 or int8.

    Returns:
        The index of the tensor in the graph.
    """
    shape, kind = np.array(values.shape, np.int32), getattr(schema.TensorType, values.dtype.name.upper())
    return add_tensor(graph, schema.TensorT(name=name, shape=shape, type=kind, buffer=add_values(model, values)))


def add_values(model: schema.ModelT, values: np.ndarray) -> int:
    """Append a buffer that holds these values, and return its index."""
    raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(schema.BufferT(data=raw))
    return len(model.buffers) - 1


def add_operator(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    *,
    name: str,
    inputs: Sequence[int],
    outputs: Sequence[int],
    options: Any = None,
) -> None:
    """Put a builtin operator in front of the first that takes what it makes, or at the end if none does.

    Args:
        model: The model, whose list of operator codes gets the operator's if it lacks it.
        graph: The graph of it that gets the operator.
        name: The operator, such as `"PAD"`.
        inputs: The indices of the tensors that it takes.
        outputs: The indices of the tensors that it makes.
        options: Its options, an object such as `schema.PadOptionsT()`; None for an operator without any.
    """
    operator = schema.OperatorT(opcodeIndex=operator_code(model, getattr(schema.BuiltinOperator, name)))
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    if options is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
    graph.operators = graph.operators or []
    takers = (index for index, taker in enumerate(graph.operators) if {*outputs} & {*inputs_of(taker)})
    graph.operators.insert(next(takers, len(graph.operators)), operator)


def operator_code(model: schema.ModelT, builtin: int) -> int:
    """Return the index of a builtin operator in the model's list, where it is added if it is not there yet."""
    for index, code in enumerate(model.operatorCodes):
        if builtin_code(code) == builtin:
            return index
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin))
    return len(model.operatorCodes) - 1


def inputs_of(operator: schema.OperatorT) -> list[int]:
    """Return the tensors that an operator takes; an operator without inputs may have no list of them."""
    return [] if operator.inputs is None else list(map(int, operator.inputs))


def builtin_code(code: schema.OperatorCodeT) -> int:
    """Return an operator's number; files from before 2020 have it in another field."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return the name of an operator, such as `CONV_2D`, or that of a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    if builtin_code(code) == schema.BuiltinOperator.CUSTOM:
        return (code.customCode or b"").decode()
    return _builtin_names().get(builtin_code(code), "")


@functools.cache
def _builtin_names() -> dict[int, str]:
    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def _keeps_values_outside(model: schema.ModelT) -> bool:
    operators = [operator for graph in model.subgraphs for operator in graph.operators or ()]
    return (
        any(buffer.offset > 1 for buffer in model.buffers or ())
        or any(operator.largeCustomOptionsOffset > 1 for operator in operators)
        or bool(model.externalBuffers)
    )


def _check_parts(model: Any, most: int) -> None:
    """Unpack part after part, and stop when they are longer than a file of this size can hold without tricks.

    Parts may point at the same bytes, and texts are copied: unpacked all at once, a small file could fill the memory.
    """
    left = most
    for kind, part in _parts(model):
        left -= size_of(kind.InitFromObj(part))
        if left < 0:
            raise ValueError("its parts together are longer than it is.")


def _parts(model: Any) -> Iterator[tuple[Any, Any]]:
    yield from _each(schema.OperatorCodeT, model.OperatorCodes, model.OperatorCodesLength())
    yield from _each(schema.MetadataT, model.Metadata, model.MetadataLength())
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        yield from _each(schema.TensorT, graph.Tensors, graph.TensorsLength())
        yield from _each(schema.OperatorT, graph.Operators, graph.OperatorsLength())
    for signature in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        yield from _each(schema.TensorMapT, signature.Inputs, signature.InputsLength())
        yield from _each(schema.TensorMapT, signature.Outputs, signature.OutputsLength())


def _each(kind: Any, get: Any, length: int) -> Iterator[tuple[Any, Any]]:
    for index in range(length):
        yield kind, get(index)
