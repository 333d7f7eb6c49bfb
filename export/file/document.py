"""A file taken apart into plain objects, edited, and put together again in one order; its metadata."""

from __future__ import annotations

import copy
import functools
import math
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.base.folders import most_unpacked
from tfprune.export.file import schema
from tfprune.export.file.reader import (
    DAMAGE_ERRORS,
    IDENTIFIER,
    MAX_READS_PER_BYTE,
    Model,
    check_structure,
    read,
)
from tfprune.export.file.report import append_archive, reason_of, trailing_archive
from tfprune.export.file.sparse_tensors import FlatbufferTable, TensorValues

# Write equal parts of a file once: in the format, several tensors and operators may point at the same bytes.
#
# The converter writes them anew each time. In an unrolled recurrent network hundreds of operators have the same
# options, and their tensors the same shapes and scales.

ALIGNMENT = 16  # bytes: what the format asks of the values of tensors
_MAX_LEFT_OUT_RATIO = (
    4  # bytes left out for each byte written, at most: a reader has to tell a file from one that goes on for ever
)


def _sharing_builder(size: int) -> Any:
    """Return a builder of the flatbuffers package that writes equal parts once, with memory for so many bytes."""
    import flatbuffers

    class SharingBuilder(_Sharing, flatbuffers.Builder):
        pass

    return SharingBuilder(min(size, flatbuffers.Builder.MAX_BUFFER_SIZE))


def _with_shared_parts(model: schema.ModelT) -> schema.ModelT:
    """Return a copy of a model whose equal parts such a builder writes once; it can only be packed."""
    graphs = [
        _changed(
            graph,
            tensors=[_sharing(tensor, "quantization") for tensor in graph.tensors or ()],
            operators=[_sharing(operator, "builtinOptions") for operator in graph.operators or ()],
        )
        for graph in model.subgraphs or ()
    ]
    return _changed(model, subgraphs=graphs, buffers=[_Buffer(buffer) for buffer in model.buffers or ()])


class _Sharing:
    """A builder that remembers where it wrote each part."""

    def __init__(self, size: int) -> None:
        super().__init__(size)  # type: ignore[call-arg]
        self._places: dict[Hashable, int] = {}  # by content
        self._left_out = 0  # bytes that a reader finds where others have found them

    def once(self, part: Any, write: Callable[[], int]) -> int:
        """Return where an equal part is; write this one if there is none yet."""
        key, left_out = _content(part), self._left_out + _size_of(part)
        if key in self._places and left_out <= _MAX_LEFT_OUT_RATIO * self.Offset():  # type: ignore[attr-defined]
            self._left_out = left_out
        else:
            self._places[key] = write()
        return self._places[key]

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 (the name that the packer calls)
        write = super().CreateNumpyVector  # type: ignore[misc]
        return write(x) if x.dtype.itemsize == 1 else self.once(x, lambda: write(x))  # bytes may have to be aligned


class _Shared:
    """A part that is written once if there are several equal ones."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name that the packer calls)
        return builder.once(self._part, lambda: self._part.Pack(builder))


class _Buffer:
    """A buffer whose values begin where the format wants them, which the schema module does not see to."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name that the packer calls)
        if self._buffer.data is None:
            return _Shared(self._buffer).Pack(builder)
        builder.Prep(ALIGNMENT, len(self._buffer.data))
        return self._buffer.Pack(builder)


def _size_of(part: Any) -> int:
    """Return the bytes of all arrays and texts in a part."""
    if isinstance(part, np.ndarray):
        return part.nbytes
    if isinstance(part, (bytes, str, int, float)) or part is None:
        return len(part) if isinstance(part, (bytes, str)) else 0
    return sum(map(_size_of, part if isinstance(part, list) else vars(part).values()))


def _sharing(holder: Any, name: str) -> Any:
    part = getattr(holder, name)
    return holder if part is None else _changed(holder, **{name: _Shared(part)})


def _changed(part: Any, **changes: Any) -> Any:
    copied = type(part)()
    vars(copied).update(vars(part), **changes)
    return copied


def _content(part: Any) -> Hashable:
    """Turn the content of a part into a key of a dict."""
    if isinstance(part, np.ndarray):
        return part.dtype.str, part.tobytes()
    if isinstance(part, list):
        return tuple(_content(entry) for entry in part)
    if hasattr(part, "__dict__"):
        return type(part).__name__, *(_content(value) for _, value in sorted(vars(part).items()))
    return part


# Take a .tflite file apart into plain objects, and put them together again.

_CONTROL_DEPENDENCIES = b"model_control_dependencies"  # metadata that name operators by their indices


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

    Values behind the flatbuffer are taken into it: files above 2 GB have them there, and those of LiteRT Quantizer.

    Raises:
        ValueError: If parts together are longer than the file, or it keeps values in other files.
    """
    model = _unpacked(data)
    outside = [buffer for buffer in model.buffers or () if buffer.offset > 1]
    with _whole(data):
        if sum(buffer.size for buffer in outside) > len(data):  # they share bytes: a bomb, once they are taken inside
            raise ValueError("its values together are longer than it is.")
        for buffer in outside:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    if _keeps_values_outside(model):
        raise ValueError(
            "Expected a TFLite file with all values in it. Received: one that keeps options of operators, or values, "
            "elsewhere. Convert the network again."
        )
    model.archive = trailing_archive(data)
    return model


def signatures_of(data: bytes) -> dict[str, int]:
    """Return the number of the graph that each signature of a plain file starts at, by its name.

    Raises:
        ValueError: If the file is damaged; or (also an ImportError) if ai-edge-litert is not installed.
    """
    read_root = schema.Model.GetRootAs  # here, where a missing package is not taken for damage
    with _whole(data):
        model = read_root(data, 0)
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
    is_behind = any(buffer.offset > 1 for buffer in _unpacked(data).buffers or ())
    return save_objects(unpack_objects(data)) if is_behind else data


def numbers_operators(model: schema.ModelT) -> bool:
    """Return True if a file names operators by their indices, which would be wrong once some come or go."""
    return any(entry.name == _CONTROL_DEPENDENCIES for entry in model.metadata or ())


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

    try:
        sizes = [len(buffer.data) + ALIGNMENT for buffer in model.buffers or () if buffer.data is not None]
        builder = _sharing_builder(sum(sizes) + 2**16)  # each doubling of its memory would copy the whole
        builder.Finish(_with_shared_parts(model).Pack(builder), IDENTIFIER)
    except (*DAMAGE_ERRORS, AttributeError, BuilderSizeError) as error:
        raise ValueError(
            f"Expected a model that makes a TFLite file. Received: one that does not ({reason_of(error)})."
        ) from error
    return append_archive(bytes(memoryview(builder.Bytes)[builder.Head() :]), getattr(model, "archive", b""))


def copy_objects(model: schema.ModelT) -> schema.ModelT:
    """Return a copy of a model to change, which shares the values of its buffers until they are replaced."""
    return copy.deepcopy(model, {id(buffer.data): buffer.data for buffer in model.buffers or ()})


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


def sorted_operators(operators: Sequence[schema.OperatorT]) -> list[schema.OperatorT]:
    """Return operators such that each comes behind those that make what it takes."""
    makers = {index: number for number, each in enumerate(operators) for index in indices_of(each.outputs)}
    ordered: dict[int, schema.OperatorT] = {}
    for number in range(len(operators)):
        ahead = [number]
        while ahead:
            sources = {makers[index] for index in inputs_of(operators[ahead[-1]]) if index in makers}
            missing = sources - ordered.keys()
            if missing:
                ahead += sorted(missing, reverse=True)
            else:
                last = ahead.pop()
                ordered.setdefault(last, operators[last])
    return list(ordered.values())


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
    return any(operator.largeCustomOptionsOffset > 1 for operator in operators) or bool(model.externalBuffers)


def _check_parts(model: Any, most: int) -> None:
    """Unpack part after part, and stop when they are longer than a file of this size can hold without tricks.

    Parts may point at the same bytes, and texts are copied: unpacked all at once, a small file could fill the memory.
    """
    left = most
    for kind, part in _parts(model):
        left -= _size_of(kind.InitFromObj(part))
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


# One order of operators, tensors and buffers for files of the same model that the converter wrote in several.

HASHED = "CONVERSION_METADATA"  # of TensorFlow, with its version; holds a hash of the file as the converter wrote it
QUANTIZED = b"tfl.quantize"  # what the converter calls quantized inputs, with a number from the second on
_QUANTIZED_NAMES = re.compile(QUANTIZED + rb"\d*")


def put_in_order(model: schema.ModelT) -> None:
    """Order the parts of a model by where they are first used, and leave out unused parts.

    First the operators that quantize inputs, as the inputs stand, then the others as they are; first the tensors that
    no operator makes, then the others as they are made.
    """
    for graph in model.subgraphs:
        graph.operators = graph.operators or []
        _order_operators(model, graph)
        _order_tensors(model, graph)
    model.metadataBuffer = None  # deprecated, and its numbers would be wrong
    model.metadata = model.metadata or []
    _order_codes(model)
    _order_buffers(model)


def drop_hash(model: schema.ModelT) -> None:
    """Leave out the converter's hash of its file, which depends on the order that the converter chose."""
    model.metadata = [entry for entry in model.metadata or () if entry.name != HASHED.encode()]


def graphs_of_signatures(model: schema.ModelT) -> dict[str, int]:
    """Return the number of the graph that each signature starts at, by the signature's name."""
    signatures = model.signatureDefs or ()
    return {(each.signatureKey or b"").decode(errors="replace"): int(each.subgraphIndex) for each in signatures}


def starting_at(content: bytes, signature: str) -> bytes:
    """Return a plain file as it runs from a signature on: with this signature alone, and its graph as the first one.

    Args:
        content: The plain file.
        signature: The name of one of its signatures; with an empty one the file starts as it does anyway.
    """
    if not signature:
        return content
    model = load_objects(content)
    own = (model.signatureDefs or ())[[*graphs_of_signatures(model)].index(signature)]
    if own.subgraphIndex:
        model.metadata = model.metadataBuffer = None  # they describe the graph that was the first one
    model.subgraphs = [model.subgraphs[own.subgraphIndex], *model.subgraphs[1:]]  # no graph calls the first one
    own.subgraphIndex, model.signatureDefs = 0, [own]
    return save_objects(model)


def indices_of(tensors: object) -> list[int]:
    """Return the indices of an operator's tensors, without the -1 of optional tensors that are left out."""
    return [index for index in _numbers(tensors).tolist() if index >= 0]


def _order_operators(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    inputs = {index: number for number, index in enumerate(indices_of(graph.inputs))}

    def rank(operator: schema.OperatorT) -> int:
        quantizes = builtin_code(model.operatorCodes[operator.opcodeIndex]) == schema.BuiltinOperator.QUANTIZE
        return inputs.get(int(operator.inputs[0]), len(inputs)) if quantizes else len(inputs)

    graph.operators = sorted(graph.operators, key=rank)


def _order_tensors(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    operators, tensors = graph.operators, graph.tensors
    computed = [index for operator in operators for index in indices_of(operator.outputs)]
    lists = [graph.outputs, *(part.inputs for part in [graph, *operators])]
    lists += [operator.intermediates for operator in operators]
    signatures = [each for each in model.signatureDefs or () if model.subgraphs[each.subgraphIndex] is graph]
    entries = [entry for each in signatures for entry in (*(each.inputs or ()), *(each.outputs or ()))]
    lists.append([entry.tensorIndex for entry in entries])
    others = {index for indices in lists for index in indices_of(indices)}.difference(computed)
    blocks = [block for index in sorted(others) if (block := _blocks(tensors[index])) is not None]
    others.update(block.scales for block in blocks)
    order = sorted(others) + computed
    moved = np.full(len(tensors) + 1, -1, np.int32)  # the last entry stands for -1, no tensor
    moved[order] = np.arange(len(order))
    for part in [graph, *operators]:
        part.inputs, part.outputs = moved[_numbers(part.inputs)], moved[_numbers(part.outputs)]
    for operator in operators:
        if operator.intermediates is not None:
            operator.intermediates = moved[_numbers(operator.intermediates)]
    for entry in entries:
        entry.tensorIndex = int(moved[entry.tensorIndex])
    for block in {id(block): block for block in blocks}.values():
        block.scales = int(moved[block.scales])
    graph.tensors = [tensors[index] for index in order]
    numbered = [tensor for tensor in graph.tensors if _QUANTIZED_NAMES.fullmatch(tensor.name or b"")]
    for number, tensor in enumerate(numbered):
        tensor.name = QUANTIZED + (b"%d" % number if number else b"")


def _blocks(tensor: schema.TensorT) -> schema.BlockwiseQuantizationT | None:
    """Return how a tensor's blocks are scaled, which names another tensor; None if it has none."""
    quantization = tensor.quantization
    kind = schema.QuantizationDetails.BlockwiseQuantization
    return quantization.details if quantization is not None and quantization.detailsType == kind else None


def _order_codes(model: schema.ModelT) -> None:
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    indices = [*dict.fromkeys(operator.opcodeIndex for operator in operators)]
    for operator in operators:
        operator.opcodeIndex = indices.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in indices]


def _order_buffers(model: schema.ModelT) -> None:
    users = [tensor for graph in model.subgraphs for tensor in graph.tensors] + model.metadata
    indices = [*dict.fromkeys([0, *(user.buffer for user in users)])]  # the first buffer is empty by convention
    moved = {old: new for new, old in enumerate(indices)}
    for user in users:
        user.buffer = moved[user.buffer]
    model.buffers = [model.buffers[index] for index in indices]


def _numbers(tensors: object) -> np.ndarray:
    return np.zeros(0, np.int32) if tensors is None else np.asarray(tensors, np.int32)


# Look up the tensors of a file by name: their values, the grids of their integers, and their operators.

_INTEGERS = ("int4", "int8", "int16", "int32", "int64")
_CONSTANTS = (*_INTEGERS, "float16", "float32", "bool")


@dataclass(frozen=True)
class Grid:
    """The integers of a tensor: one step, or one for each index along an axis.

    Attributes:
        scale: The step between two integers, as a real number.
        zero: The integer that means 0.
        most: The largest integer.
    """

    scale: np.ndarray
    zero: np.ndarray
    most: int

    def real(self, integers: np.ndarray) -> np.ndarray:
        """Return the real numbers that integers mean."""
        return ((integers - self.zero) * self.scale).astype(np.float32)

    def position(self, real: np.ndarray) -> np.ndarray:
        """Return where real numbers lie among the integers, before rounding."""
        return real.astype(np.float64) / self.scale + self.zero

    def inside(self, position: np.ndarray) -> np.ndarray:
        """Return positions with those beyond the smallest and the largest integer moved there."""
        return np.clip(position, -self.most - 1, self.most)


class NamedTensors:
    """A graph of a file, whose tensors are found by name, and the operator that makes each of them.

    Args:
        model: The file.
        number: The number of the graph.

    Attributes:
        model: The file as objects, which may be changed and saved.
        graph: The graph.
        tensors: The tensors of this graph.
        maker: The operator that makes a tensor, by the index of the tensor.
        known: The indices of the tensors with a name that no other tensor has.
    """

    def __init__(self, model: schema.ModelT, number: int = 0) -> None:
        self.model = model
        self.graph = model.subgraphs[number]
        self.graph.operators = self.graph.operators or []
        self.tensors = self.graph.tensors
        self.maker = {index: operator for operator in self.graph.operators for index in indices_of(operator.outputs)}
        names = Counter(map(self.name, range(len(self.tensors))))
        self.known = {index for index in range(len(self.tensors)) if names[self.name(index)] == 1}

    def name(self, index: int) -> str:
        """Return the name of a tensor."""
        return (self.tensors[index].name or b"").decode(errors="replace")

    def kind(self, operator: schema.OperatorT) -> str:
        """Return the name of an operator's kind, such as `CONV_2D`."""
        return operator_name(self.model, operator)

    def title(self, operator: schema.OperatorT) -> str:
        """Return the kind of an operator and the name of its output, for messages."""
        return f"{self.kind(operator)} {self.name(int(operator.outputs[0]))!r}"

    def dtype(self, index: int) -> str:
        """Return the type of a tensor's values, such as `int8`."""
        kind = self.tensors[index].type
        return next(name for name, number in vars(schema.TensorType).items() if number == kind).lower()

    def grid(self, index: int) -> Grid | None:
        """Return the grid of a tensor of integers that mean real numbers."""
        tensor, dtype = self.tensors[index], self.dtype(index)
        scales = None if tensor.quantization is None else tensor.quantization.scale
        if dtype not in _INTEGERS or scales is None or not len(scales):
            return None
        points = tensor.quantization.zeroPoint
        parts = [np.asarray(part, np.float64) for part in (scales, np.zeros(1) if points is None else points)]
        if len(scales) > 1:
            along = [1] * len(tensor.shape)
            along[tensor.quantization.quantizedDimension] = -1
            parts = [part.reshape(along) for part in parts]
        return Grid(parts[0], parts[1], 2 ** (int(dtype.removeprefix("int")) - 1) - 1)

    def constant(self, index: int) -> np.ndarray | None:
        """Return the values of a constant that is held as it is; integers of 4 bits as int8."""
        tensor, dtype = self.tensors[index], self.dtype(index)
        data = self.model.buffers[tensor.buffer].data
        if dtype not in _CONSTANTS or data is None or not len(data) or tensor.sparsity is not None:
            return None
        shape = () if tensor.shape is None else tuple(tensor.shape)
        values = np.zeros(math.prod(shape), "int8" if dtype == "int4" else dtype)
        for places, numbers in TensorValues(np.asarray(data), dtype, shape).pieces():
            values[places] = numbers
        return values.reshape(shape)


# Named bytes in a .tflite file that interpreters ignore: its metadata.

REDUCED_PRECISION = "reduced_precision_support"  # asks for half precision where a processor has it

CONVERTER = "tfprune_converter"  # the name and version of the converter, if it is not TensorFlow's
TOKENIZER = "tfprune_tokenizer"  # the name of a tokenizer's content in a language model's file


def with_metadata(data: bytes, entries: Mapping[str, bytes]) -> bytes:
    """Return a plain .tflite file with more metadata; entries of the same names are replaced.

    Raises:
        ValueError: If the bytes are not a whole TFLite file, or the file would be larger than 2 GB; or (also an
            ImportError) if ai-edge-litert is not installed.
    """
    model = load_objects(data)
    put_metadata(model, entries)
    return save_objects(model)


def put_metadata(model: schema.ModelT, entries: Mapping[str, bytes]) -> None:
    """Add metadata to a file that was taken apart; entries of the same names are replaced."""
    old = [entry for entry in model.metadata or () if (entry.name or b"").decode("utf-8", "replace") in entries]
    model.metadata = [entry for entry in model.metadata or () if entry not in old]
    buffers_in_use = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or ()}
    buffers_in_use |= {0, *(entry.buffer for entry in model.metadata)}
    free = sorted({entry.buffer for entry in old} - buffers_in_use)
    for name, content in entries.items():
        if not free:
            model.buffers.append(schema.BufferT())
        place = free.pop() if free else len(model.buffers) - 1
        model.buffers[place] = schema.BufferT(data=np.frombuffer(content, np.uint8))
        model.metadata.append(schema.MetadataT(name=name.encode(), buffer=place))


def read_metadata(data: bytes | memoryview) -> dict[str, bytes]:
    """Return the metadata by name of a plain .tflite file that was checked when it was opened.

    Raises:
        ValueError: If the bytes are not a whole TFLite file; or (also an ImportError) if ai-edge-litert is not
            installed.
    """
    read_root = schema.Model.GetRootAs  # here, where a missing package is not taken for damage
    try:
        model = read_root(data, 0)
        entries = [model.Metadata(index) for index in range(model.MetadataLength())]
        places = {entry.Name() or b"": entry.Buffer() for entry in entries}
        # Each buffer once: many entries may share a large one.
        contents = {
            place: np.asarray(model.Buffers(place).DataAsNumpy(), np.uint8).tobytes() for place in {*places.values()}
        }
    except DAMAGE_ERRORS as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes with damaged metadata "
            f"({reason_of(error)}). Copy the file again."
        ) from error
    return {name.decode("utf-8", "replace"): contents[place] for name, place in places.items()}


# Read and write TFLite Metadata, the flatbuffer that names a file's labels and how its inputs are normalized.
#
# Source: metadata_schema.fbs of MediaPipe Tasks, version 1.5.0.

ENTRY = "TFLITE_METADATA"  # its name among the metadata of a file
_IDENTIFIER = b"M001"
LATEST, FIRST = b"1.5.0", b"1.0.0"  # versions of the format
AXIS_LABELS = 2  # the type of an associated file that names the entries of an output's last axis
GRAYSCALE, RGB = 2, 1
_TABLE_BYTES = 8  # that a table takes at least, with the offset that leads to it
_MAX_READS_PER_BYTE = 2  # texts may be shared; parts that point at each other could go on for ever

# The fields of each table, in the order of their slots. A union takes two: first the number of its type.
_TABLES = {
    "ModelMetadata": "name:string description:string version:string subgraph_metadata:[SubGraphMetadata] "
    "author:string license:string associated_files:[AssociatedFile] min_parser_version:string",
    "SubGraphMetadata": "name:string description:string input_tensor_metadata:[TensorMetadata] "
    "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] input_process_units:[ProcessUnit] "
    "output_process_units:[ProcessUnit] input_tensor_groups:[TensorGroup] output_tensor_groups:[TensorGroup] "
    "custom_metadata:[CustomMetadata]",
    "TensorMetadata": "name:string description:string dimension_names:[string] content:Content "
    "process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]",
    "AssociatedFile": "name:string description:string type:byte locale:string version:string",
    "TensorGroup": "name:string tensor_names:[string]",
    "CustomMetadata": "name:string data:[ubyte]",
    "Stats": "max:[float] min:[float]",
    "Content": "content_properties:ContentProperties range:ValueRange",
    "ValueRange": "min:int max:int",
    "FeatureProperties": "",
    "ImageProperties": "color_space:byte default_size:ImageSize",
    "ImageSize": "width:uint height:uint",
    "BoundingBoxProperties": "index:[uint] type:byte coordinate_type:byte",
    "AudioProperties": "sample_rate:uint channels:uint",
    "ProcessUnit": "options:ProcessUnitOptions",
    "NormalizationOptions": "mean:[float] std:[float]",
    "ScoreCalibrationOptions": "score_transformation:byte default_score:float",
    "ScoreThresholdingOptions": "global_score_threshold:float",
    "BertTokenizerOptions": "vocab_file:[AssociatedFile]",
    "SentencePieceTokenizerOptions": "sentencePiece_model:[AssociatedFile] vocab_file:[AssociatedFile]",
    "RegexTokenizerOptions": "delim_regex_pattern:string vocab_file:[AssociatedFile]",
}
_UNIONS = {
    "ContentProperties": ("FeatureProperties", "ImageProperties", "BoundingBoxProperties", "AudioProperties"),
    "ProcessUnitOptions": (
        *("NormalizationOptions", "ScoreCalibrationOptions", "ScoreThresholdingOptions"),
        *("BertTokenizerOptions", "SentencePieceTokenizerOptions", "RegexTokenizerOptions"),
    ),
}
_NUMBERS = {"byte": "<i1", "ubyte": "<u1", "int": "<i4", "uint": "<u4", "float": "<f4"}
_CUSTOM_ALIGNMENT = 16  # bytes, of the data in CustomMetadata


@dataclass
class MetadataTable:
    """A table of the format.

    Attributes:
        kind: Its name in the format, such as `TensorMetadata`.
        fields: The fields that it has, by name: bytes for a text, a number, an array of numbers, a table, or a list
            of texts or tables.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def tables(self, name: str) -> list[MetadataTable]:
        """Return the tables in a field, which is a list or is missing; the list can be added to."""
        return self.fields.setdefault(name, [])

    def within(self) -> Iterator[MetadataTable]:
        """Yield this table and all tables in it."""
        yield self
        for value in self.fields.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, MetadataTable):
                    yield from part.within()


def read_model_metadata(content: bytes) -> MetadataTable:
    """Read TFLite Metadata.

    Args:
        content: The bytes of a file's metadata entry `TFLITE_METADATA`.

    Returns:
        The table `ModelMetadata`.

    Raises:
        ValueError: If they are damaged, or have parts that version 1.5.0 of the format lacks.
    """
    reader = _Reader(content)
    try:
        if content[4:8] != _IDENTIFIER:
            raise ValueError(f"they begin with {content[:8]!r}")
        return reader.table(reader.offset(0), "ModelMetadata")
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"Expected TFLite Metadata of at most version {LATEST.decode()} of the format. Received: "
            f"{len(content):,} bytes that are damaged or newer ({reason_of(error)}). Write the metadata anew with "
            "the program that made the file."
        ) from error


class _Reader:
    """Walks the flatbuffer. Nothing is copied before its length is compared with what is left to be read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MAX_READS_PER_BYTE * len(content)

    def table(self, start: int, kind: str) -> MetadataTable:
        self._count(_TABLE_BYTES)
        slots = start - self._number("<i", start)
        places = [entry and start + entry for entry in self._entries(slots)]
        table = MetadataTable(kind)
        for name, type_name in _fields(kind):
            place = places.pop(0) if places else 0
            if type_name in _UNIONS:
                number = self._number("<B", place) if place else 0
                place, type_name = (places.pop(0) if places else 0), _member(type_name, number)
            if place and type_name:
                table.fields[name] = self._value(place, type_name)
        if any(places):
            raise ValueError(f"{kind} has a field without a name")
        return table

    def offset(self, place: int) -> int:
        """Return where the part lies that an offset leads to."""
        return place + self._number("<I", place)

    def _entries(self, slots: int) -> tuple[int, ...]:
        size = self._number("<H", slots) // 2 - 2
        self._count(0)
        if slots < 0 or size < 0:
            raise ValueError("a table begins outside of them")
        return struct.unpack_from(f"<{size}H", self._content, slots + 4)

    def _value(self, place: int, type_name: str) -> Any:
        if type_name in _NUMBERS:
            return self._array(place, _NUMBERS[type_name], 1)[0].item()
        start = self.offset(place)
        if type_name == "string":
            return self._array(start + 4, "<u1", self._number("<I", start)).tobytes()
        if not type_name.startswith("["):
            return self.table(start, type_name)
        length, part = self._number("<I", start), type_name[1:-1]
        if part in _NUMBERS:
            return self._array(start + 4, _NUMBERS[part], length).copy()
        self._count(4 * length)
        return [self._value(start + 4 + 4 * index, part) for index in range(length)]

    def _array(self, start: int, dtype: str, length: int) -> np.ndarray:
        self._count(np.dtype(dtype).itemsize * length)
        return np.frombuffer(self._content, dtype, length, self._inside(start))

    def _number(self, layout: str, place: int) -> int:
        return struct.unpack_from(layout, self._content, self._inside(place))[0]

    def _inside(self, place: int) -> int:
        if place < 0:
            raise ValueError("a part begins before them")
        return place

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("their parts together are longer than they are")


def _fields(kind: str) -> list[list[str]]:
    return [text.split(":") for text in _TABLES[kind].split()]


def _member(union: str, number: int) -> str:
    """Return the type that a union has by its number; an empty text where it has none."""
    if number > len(_UNIONS[union]):
        raise ValueError(f"{union} has no type {number}")
    return _UNIONS[union][number - 1] if number else ""


def write_model_metadata(table: MetadataTable) -> bytes:
    """Return a table `ModelMetadata` as the bytes that `read_model_metadata` reads; equal tables give equal bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, table), _IDENTIFIER)
    return bytes(builder.Output())


def _write_table(builder: Any, table: MetadataTable) -> int:
    """Write a table behind all its parts, and return where it is."""
    parts: list[tuple[str, Any]] = []  # what each slot gets: the name of the builder's method, and the value
    for name, type_name in _fields(table.kind):
        value = table.fields.get(name)
        if type_name in _UNIONS:
            number = 0 if value is None else _UNIONS[type_name].index(value.kind) + 1
            parts.append(("PrependUint8Slot", number))
        if type_name in _NUMBERS:
            width = {"byte": "Int8", "int": "Int32", "uint": "Uint32", "float": "Float32"}[type_name]
            parts.append((f"Prepend{width}Slot", value or 0))
        else:
            parts.append(("PrependUOffsetTRelativeSlot", 0 if value is None else _write_part(builder, value)))
    builder.StartObject(len(parts))
    for slot, (method, value) in enumerate(parts):
        getattr(builder, method)(slot, value, 0)
    return builder.EndObject()


def _write_part(builder: Any, value: Any) -> int:
    if isinstance(value, bytes):
        return builder.CreateString(value)
    if isinstance(value, MetadataTable):
        return _write_table(builder, value)
    if isinstance(value, list):
        offsets = [_write_part(builder, part) for part in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    if value.dtype.itemsize > 1:
        return builder.CreateNumpyVector(value)
    builder.StartVector(1, len(value), _CUSTOM_ALIGNMENT)
    for byte in reversed(value.tobytes()):
        builder.PrependByte(byte)
    return builder.EndVector()


# Read a `.litertlm` file of `to_generator`: its model, with the tokenizer in the model's metadata.
#
# Source: https://github.com/google-ai-edge/LiteRT-LM, schema/core/litertlm_header_schema.fbs.

LITERTLM = b"LITERTLM"
_HEADER_END, _HEADER = 24, 32  # where the end of the header stands, and its begin
_MODEL, _SENTENCEPIECE, _JSON = 3, 4, 6  # types of sections
_SIZE_BYTES = 8  # of a tokenizer.json: its size stands before it, and bounds what zlib may give


def read_litertlm(data: bytes) -> bytes:
    """Return the .tflite file in a `.litertlm` file.

    Raises:
        ValueError: If it is damaged, or has several models, as files of other programs may.
    """
    try:
        sections = _sections(data)
        models, texts, packed = (sections.get(kind, []) for kind in (_MODEL, _SENTENCEPIECE, _JSON))
        if len(models) != 1 or len(texts) + len(packed) > 1:  # before any is copied: all may be the whole file
            raise ValueError(
                f"Expected a .litertlm file with one model and one tokenizer, as to_generator writes it. Received: "
                f"one with {len(models)} and {len(texts) + len(packed)}."
            )
        tokenizers = [*map(bytes, texts), *map(_unpacked_section, packed)]
    except (IndexError, struct.error, zlib.error) as error:
        raise ValueError(f"Expected a whole .litertlm file. Received: a damaged one ({error}).") from error
    model = bytes(models[0])
    return with_metadata(model, {TOKENIZER: tokenizers[0]}) if tokenizers else model


def _sections(data: bytes) -> dict[int, list[memoryview]]:
    """Return the contents of a file by type."""
    (end,) = struct.unpack_from("<Q", data, _HEADER_END)
    listed = FlatbufferTable.root(data[_HEADER:end]).table(1)
    sections: dict[int, list[memoryview]] = {}
    for section in listed.tables(0) if listed else ():
        first, last = section.number(1, "<Q"), section.number(2, "<Q")
        if not _HEADER <= first <= last <= len(data):
            raise ValueError("Expected a whole .litertlm file. Received: one that is cut short.")
        sections.setdefault(section.number(3, "<B"), []).append(memoryview(data)[first:last])
    return sections


def _unpacked_section(section: memoryview) -> bytes:
    (size,) = struct.unpack_from("<Q", section)
    if size > (most := most_unpacked(len(section))):
        raise ValueError(f"Expected a tokenizer of at most {most:,} bytes. Received: one of {size:,}, as it says.")
    content = zlib.decompressobj().decompress(section[_SIZE_BYTES:], size + 1)
    if len(content) != size:
        raise ValueError(f"Expected a tokenizer of {size:,} bytes. Received: another number of them.")
    return content
