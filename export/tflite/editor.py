"""Take a .tflite file apart into plain objects, and put them together again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfprune.export.tflite import schema
from tfprune.export.tflite.check_structure import IDENTIFIER, check_structure
from tfprune.export.tflite.reader import VISITS, WRONG, read

ALIGNMENT = 16  # bytes: what the format asks of the values of tensors
CONTROL_DEPENDENCIES = b"model_control_dependencies"  # metadata that name operators by their places


def load(data: bytes) -> schema.ModelT:
    """Unpack a plain .tflite file into objects that can be changed.

    Args:
        data: The plain file, not packed. Arrays of the result are views of it.

    Returns:
        The model, as the schema module of ai-edge-litert describes it.

    Raises:
        ValueError: If the bytes are no TFLite file, a damaged one, or one that keeps values outside its
            flatbuffer; or (also an ImportError) if ai-edge-litert is not installed.
    """
    read(data)
    try:
        check_structure(data)
        packed = schema.Model.GetRootAs(data, 0)
        _check_parts(packed, VISITS * len(data))
        model = schema.ModelT.InitFromObj(packed)
    except WRONG as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes that are damaged or cut short ({error}). "
            "Copy the file again."
        ) from error
    if _keeps_values_outside(model):
        raise ValueError(
            "Expected a TFLite file with all values in its flatbuffer. Received: one that keeps some behind it or in "
            "other files. Leave it as it is."
        )
    return model


def numbers_operators(model: schema.ModelT) -> bool:
    """Tell whether a file names operators by their places, which would be wrong once some come or go."""
    return any(entry.name == CONTROL_DEPENDENCIES for entry in model.metadata or ())


def save(model: schema.ModelT) -> bytes:
    """Pack a model into a plain .tflite file; the same model gives the same bytes.

    Args:
        model: What `load` returns, changed or not. It is left as it is.

    Returns:
        The file's bytes.

    Raises:
        ValueError: If it does not fit into 2 GB, or a part cannot be packed.
    """
    import flatbuffers
    from flatbuffers.builder import BuilderSizeError

    builder = flatbuffers.Builder(1024)
    plain = model.buffers
    model.buffers = [_Aligned(buffer) for buffer in plain or ()]
    try:
        builder.Finish(model.Pack(builder), IDENTIFIER)
    except (*WRONG, AttributeError, BuilderSizeError) as error:
        raise ValueError(
            f"Expected a model that makes a TFLite file. Received: one that does not ({error})."
        ) from error
    finally:
        model.buffers = plain
    return bytes(builder.Output())


def add_values(model: schema.ModelT, values: np.ndarray) -> int:
    """Append a buffer that holds these values, and return its place."""
    raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(schema.BufferT(data=raw))
    return len(model.buffers) - 1


def operator_code(model: schema.ModelT, builtin: int) -> int:
    """Return the place of a builtin operator in the model's list, where it is added if it is not there yet."""
    for place, code in enumerate(model.operatorCodes):
        if builtin_code(code) == builtin:
            return place
    code = schema.OperatorCodeT(deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def builtin_code(code: schema.OperatorCodeT) -> int:
    """Return an operator's number; files from before 2020 have it in another field."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


class _Aligned:
    """A buffer whose values begin where the format wants them, which the schema module does not see to."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name that the packer calls)
        if self._buffer.data is not None:
            builder.Prep(ALIGNMENT, len(self._buffer.data))
        return self._buffer.Pack(builder)


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
    for kind, part in _parts(schema, model):
        left -= _size(kind.InitFromObj(part))
        if left < 0:
            raise ValueError("its parts together are longer than it is.")


def _parts(schema: Any, model: Any) -> Iterator[tuple[Any, Any]]:
    yield from _each(schema.OperatorCodeT, model.OperatorCodes, model.OperatorCodesLength())
    yield from _each(schema.MetadataT, model.Metadata, model.MetadataLength())
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        yield from _each(schema.TensorT, graph.Tensors, graph.TensorsLength())
        yield from _each(schema.OperatorT, graph.Operators, graph.OperatorsLength())
    for signature in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        yield from _each(schema.TensorMapT, signature.Inputs, signature.InputsLength())
        yield from _each(schema.TensorMapT, signature.Outputs, signature.OutputsLength())


def _each(kind: Any, get: Any, length: int) -> Iterator[tuple[Any, Any]]:
    for place in range(length):
        yield kind, get(place)


def _size(part: Any) -> int:
    """Return the bytes of all arrays and texts in a part."""
    if isinstance(part, np.ndarray):
        return part.nbytes
    if isinstance(part, (bytes, str, int, float)) or part is None:
        return len(part) if isinstance(part, (bytes, str)) else 0
    return sum(map(_size, part if isinstance(part, list) else vars(part).values()))
