"""Freeze a file: what its variables hold becomes constants, and what follows a layer becomes a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfprune.export.device.runner import plain_interpreter
from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_constant,
    add_values,
    indices_of,
    inputs_of,
    operator_code,
    operator_name,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.rewriting.shapes import drop_unread

# What is computed without inputs: the interpreter computes it once, and it becomes constants.

_SIGNATURE = b"serving_default"  # as converters name it
_GRAPHS = ("WHILE", "IF", "CALL", "STABLEHLO_COMPOSITE")  # operators that run other graphs


def frozen(
    file: ModelFile, signature: str, *, prepare: Callable[[Any], object], names: Mapping[str, str]
) -> ModelFile:
    """Return a file of one signature in which variables are constants.

    Args:
        file: A file with variables.
        signature: The name of the signature that is kept.
        prepare: Called with an interpreter of the file, in which it sets the variables.
        names: What constants are called that are computed from a variable, by the name of the variable.

    Returns:
        The file. It computes the same from its inputs, in fewer operators.

    Raises:
        ValueError: If the signature runs other graphs, as loops do.
    """
    model = file.objects()
    definition = next(each for each in model.signatureDefs if each.signatureKey == signature.encode())
    graph = model.subgraphs[definition.subgraphIndex]
    ahead, others = _apart(model, graph)
    loops = sorted({operator_name(model, operator) for operator in others} & {*_GRAPHS})
    if loops:
        raise ValueError(f"Expected a signature without loops. Received: {signature!r} with {', '.join(loops)}.")
    computed = {index for operator in ahead for index in indices_of(operator.outputs)}
    reads = {index for operator in others for index in inputs_of(operator)} | {*indices_of(graph.outputs)}
    values = _computed(file, signature, sorted(computed & reads), prepare)
    origins = _origins(model, ahead)
    for index, array in values.items():
        tensor = graph.tensors[index]
        tensor.buffer, tensor.shape, tensor.shapeSignature = add_values(model, array), _shape(array.shape), None
        tensor.name = next((names[each].encode() for each in origins[index] if each in names), tensor.name)
    graph.operators, model.subgraphs = others, [graph]
    definition.subgraphIndex, definition.signatureKey, model.signatureDefs = 0, _SIGNATURE, [definition]
    model.metadata = model.metadataBuffer = None  # they describe the file with variables
    for entry in (*definition.inputs, *definition.outputs):
        graph.tensors[entry.tensorIndex].name = entry.name
    return file.saved(model).after(_fold)


def _apart(model: schema.ModelT, graph: schema.SubGraphT) -> tuple[list[Any], list[Any]]:
    """Return the operators that need no input of the graph, and the others."""
    needs, ahead, others = {*indices_of(graph.inputs)}, [], []
    for operator in graph.operators:
        if needs & {*inputs_of(operator)}:
            needs.update(indices_of(operator.outputs))
            others.append(operator)
        else:
            ahead.append(operator)
    return ahead, others


def _computed(
    file: ModelFile, signature: str, indices: Iterable[int], prepare: Callable[[Any], object]
) -> dict[int, np.ndarray]:
    """Return tensors that a signature computes without inputs, by their indices."""
    model = file.objects()
    definition = next(each for each in model.signatureDefs if each.signatureKey == signature.encode())
    graph = model.subgraphs[definition.subgraphIndex]
    graph.operators, _ = _apart(model, graph)
    graph.inputs, graph.outputs = np.empty(0, np.int32), np.array([*indices], np.int32)
    definition.inputs, definition.outputs = (
        [],
        [schema.TensorMapT(name=b"%d" % index, tensorIndex=index) for index in indices],
    )
    interpreter = plain_interpreter(file.saved(model).content)
    prepare(interpreter)
    return {int(name): np.array(array) for name, array in interpreter.get_signature_runner(signature)().items()}


def _origins(model: schema.ModelT, operators: Iterable[Any]) -> dict[int, tuple[str, ...]]:
    """Return the names of the variables that each tensor is computed from, in the order in which they are read."""
    origins: dict[int, tuple[str, ...]] = {}
    for operator in operators:
        names = [name for index in inputs_of(operator) for name in origins.get(index, ())]
        if operator_name(model, operator) == "VAR_HANDLE":
            names.append((operator.builtinOptions.sharedName or b"").decode())
        origins.update(dict.fromkeys(indices_of(operator.outputs), tuple(dict.fromkeys(names))))
    return origins


def _shape(sizes: Iterable[int]) -> np.ndarray:
    return np.array([*sizes], np.int32)


# What follows a layer becomes a part of it.

_LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # the axis of the filter that makes channels
_NUMBERS = {"MUL", "ADD", "SUB"}


def _fold(model: schema.ModelT) -> bool:
    """Write products with constants as layers, and what is done with each channel after a layer into the layer.

    Products of a matrix become FULLY_CONNECTED. Constants that are added to the channels of a convolution or a dense
    layer, or multiply them, as batch normalization does, become a part of its bias and its filter, and an activation
    a part of its options. Zeros of filters stay zeros. A RESHAPE to sizes of which one is computed gets them as a
    constant, so that XNNPACK knows all shapes.

    Args:
        model: An open file.

    Returns:
        Whether there was something to change.
    """
    return sum(_Folding(model, graph)() for graph in model.subgraphs) > 0


class _Folding:
    """Folds the operators of one graph.

    Args:
        model: The model.
        graph: The graph, which is changed.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model, self._graph = model, graph
        self._operators = graph.operators or []
        self._readers: dict[int, list[Any]] = {}
        for operator in self._operators:
            for index in inputs_of(operator):
                self._readers.setdefault(index, []).append(operator)
        self._makers = {index: each for each in self._operators for index in indices_of(each.outputs)}
        self._transposed: dict[int, int] = {}  # matrices of several products, by their tensors
        self._gone: set[int] = set()  # operators that are a part of others now, by id

    def __call__(self) -> bool:
        """Fold all operators, and leave out those that nothing reads any more."""
        changed = [self._as_layer(each) or self._known_sizes(each) for each in self._operators]
        for operator in self._operators:
            if self._kind(operator) in _LAYERS and id(operator) not in self._gone:
                while self._take_in(operator):
                    changed.append(True)
        if any(changed):
            self._graph.operators = [each for each in self._operators if id(each) not in self._gone]
            drop_unread(self._graph)
        return any(changed)

    def _kind(self, operator: Any) -> str:
        return operator_name(self._model, operator)

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(map(int, shape))

    def _values(self, index: int) -> np.ndarray | None:
        """Return a constant of float32 that is stored as it is; None for all other tensors."""
        tensor = self._graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if data is None or not len(data) or tensor.type != schema.TensorType.FLOAT32 or tensor.sparsity is not None:
            return None
        return np.asarray(data, np.uint8).view("<f4").reshape(self._shape(index))

    def _replace(self, index: int, values: np.ndarray) -> int:
        """Add a constant in place of another one, whose name it has."""
        name = self._graph.tensors[index].name
        return add_constant(self._model, self._graph, name=name, values=np.asarray(values, np.float32))

    def _as_layer(self, operator: Any) -> bool:
        """Turn the product with a constant matrix into FULLY_CONNECTED."""
        if self._kind(operator) != "BATCH_MATMUL" or operator.builtinOptions.adjX:
            return False
        source, index = inputs_of(operator)
        matrix = self._values(index)
        if matrix is None or matrix.ndim != 2:
            return False
        if not operator.builtinOptions.adjY:
            if index not in self._transposed:
                self._transposed[index] = self._replace(index, matrix.T)
            index = self._transposed[index]
        operator.opcodeIndex = operator_code(self._model, schema.BuiltinOperator.FULLY_CONNECTED)
        operator.inputs = _shape([source, index, -1])
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT(keepNumDims=len(self._shape(source)) > 2)
        return True

    def _known_sizes(self, operator: Any) -> bool:
        """Give a RESHAPE its sizes where one of them is computed: a constant may leave out one."""
        if self._kind(operator) != "RESHAPE" or len(inputs_of(operator)) < 2:
            return False
        maker = self._makers.get(inputs_of(operator)[1])
        if maker is None or self._kind(maker) != "PACK":
            return False
        parts = [self._model.buffers[self._graph.tensors[index].buffer].data for index in inputs_of(maker)]
        sizes = [-1 if data is None or not len(data) else int(np.asarray(data).view("<i4")[0]) for data in parts]
        if sizes.count(-1) != 1:
            return False
        constant = add_constant(self._model, self._graph, name=b"", values=_shape(sizes))
        operator.inputs = _shape([inputs_of(operator)[0], constant])
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT(newShape=_shape(sizes))
        return True

    def _take_in(self, layer: Any) -> bool:
        """Make what follows a layer a part of it, if it can be; a RESHAPE of the output may stand between."""
        if layer.builtinOptions.fusedActivationFunction != schema.ActivationFunctionType.NONE:
            return False
        last = layer
        reader = self._only_reader(layer)
        while reader is not None and self._kind(reader) == "RESHAPE":
            last, reader = reader, self._only_reader(reader)
        if reader is None:
            return False
        kind = self._kind(reader)
        activation = getattr(schema.ActivationFunctionType, kind, None)
        if kind in _NUMBERS:
            if not self._fold_numbers(layer, reader, output=int(last.outputs[0])):
                return False
            activation = reader.builtinOptions.fusedActivationFunction
        elif activation is None or kind == "TANH":  # which has no fused kernel
            return False
        layer.builtinOptions.fusedActivationFunction = activation
        last.outputs = reader.outputs
        self._gone.add(id(reader))
        return True

    def _only_reader(self, operator: Any) -> Any:
        """Return the one operator that takes an output, if that is no output of the graph."""
        output = int(operator.outputs[0])
        readers = self._readers.get(output, [])
        return readers[0] if len(readers) == 1 and output not in indices_of(self._graph.outputs) else None

    def _fold_numbers(self, layer: Any, reader: Any, *, output: int) -> bool:
        """Fold a product, sum or difference with a constant for each channel into the filter and the bias."""
        kind, inputs = self._kind(reader), inputs_of(reader)
        filters, bias = int(layer.inputs[1]), int(layer.inputs[2]) if len(layer.inputs) > 2 else -1
        weights, axis = self._values(filters), _LAYERS[self._kind(layer)]
        numbers = self._values(inputs[1] if inputs[0] == output else inputs[0])
        first = np.zeros((), np.float32) if bias < 0 else self._values(bias)
        if weights is None or numbers is None or first is None or (kind == "SUB" and inputs[0] != output):
            return False
        channels = weights.shape[axis]
        if numbers.size != 1 and not self._are_channels(numbers, channels, output):
            return False
        numbers, first = (np.broadcast_to(each.reshape(-1), (channels,)) for each in (numbers, first))
        if kind == "MUL":
            spread = numbers.reshape([-1 if n == axis else 1 for n in range(weights.ndim)])
            filters = self._replace(filters, weights * spread)
        added = {"MUL": first * numbers, "ADD": first + numbers, "SUB": first - numbers}[kind]
        constant = add_constant(self._model, self._graph, name=b"", values=added.astype(np.float32))
        layer.inputs = _shape([int(layer.inputs[0]), filters, constant])
        return True

    def _are_channels(self, numbers: np.ndarray, channels: int, output: int) -> bool:
        """Tell whether numbers fall on channels in order: heads have them on two axes."""
        sizes = [*numbers.shape]
        while sizes and sizes[0] == 1:
            sizes.pop(0)
        return numbers.size == channels and [*self._shape(output)[-len(sizes) :]] == sizes
