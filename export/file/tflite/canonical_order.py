"""One order of operators, tensors and buffers for files of the same model that the converter wrote in several."""

from __future__ import annotations

import re

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import builtin_code, load_objects, save_objects

HASHED = b"CONVERSION_METADATA"  # holds a hash of the file as the converter wrote it
QUANTIZED = b"tfl.quantize"  # what the converter calls quantized inputs, with a number from the second on
QUANTIZED_NAMES = re.compile(QUANTIZED + rb"\d*")


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
    model.metadata = [entry for entry in model.metadata or () if entry.name != HASHED]


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
    numbered = [tensor for tensor in graph.tensors if QUANTIZED_NAMES.fullmatch(tensor.name or b"")]
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
