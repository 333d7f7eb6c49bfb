"""Which weights of a .tflite file may be stored sparse: those whose operators take what DENSIFY unpacks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tfprune.export.file.tflite.model import Model, Operator, Subgraph, Tensor

Users = dict[int, list[tuple[Operator, int]]]  # operators and their slots, by the tensor that they take

# Where an operator has its weight, and where the activations that tell in which type it computes.
WEIGHT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "BATCH_MATMUL": 1,
    "GATHER": 0,
    "EMBEDDING_LOOKUP": 1,
}
ACTIVATION = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 2, "BATCH_MATMUL": 0}
# XNNPACK unpacks what stands before DEQUANTIZE for its own operators only: others would read memory never written.
CHAINED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
INTEGER = "FULLY_CONNECTED takes no unpacked weights where it computes in int8"
TYPES = ("float32", "float16", "int8")  # those that DENSIFY unpacks


@dataclass(frozen=True)
class WeightUse:
    """A constant tensor of rank 2 or more in one graph, and what its operators allow.

    Attributes:
        tensor: Its index in the graph.
        hybrid: True when its operators compute in float32 with its 8-bit values.
        native: True when all its operators have a kernel for blocks.
        pointwise: True when its operators have to become 1x1 convolutions first.
        reason: Why it has to stay dense; empty when it may be sparse.
    """

    tensor: int
    hybrid: bool
    native: bool
    pointwise: bool
    reason: str


def weight_uses(graph: Subgraph) -> list[WeightUse]:
    """Find the weights of a graph, and say of each whether it may be sparse.

    Args:
        graph: A graph as `reader.read` describes it.

    Returns:
        One entry for each constant tensor of rank 2 or more that holds real numbers and is not sparse already.
    """
    users: Users = defaultdict(list)
    for operator in graph.operators:
        for slot, tensor in enumerate(operator.inputs):
            users[tensor].append((operator, slot))
    return [
        _weight_use(graph, number, users)
        for number, tensor in enumerate(graph.tensors)
        if tensor.weight and not tensor.sparse
    ]


def has_hybrid_layers(model: Model) -> bool:
    """Tell whether layers compute in float32 with 8-bit weights as they are, as converters write them."""
    return any(
        operator.name in CHAINED and _is_hybrid(graph, graph.tensors[operator.inputs[1]], operator)
        for graph in model.subgraphs
        for operator in graph.operators
    )


def _weight_use(graph: Subgraph, number: int, users: Users) -> WeightUse:
    tensor = graph.tensors[number]
    direct = [end for end in users[number] if end[0].name != "DEQUANTIZE"]
    unpacked = [index for operator, _ in users[number] if operator.name == "DEQUANTIZE" for index in operator.outputs]
    chained = [user for index in unpacked for user in users[index]]
    kinds, border = {operator.name for operator, _ in users[number]}, {*graph.inputs, *graph.outputs}
    mixed = {_is_hybrid(graph, tensor, operator) for operator, _ in users[number]}
    hybrid = mixed == {True}
    connected = kinds == {"FULLY_CONNECTED"} and len(tensor.shape) == 2
    native, pointwise = connected and tensor.dtype == "float32", connected and tensor.dtype == "int8" and not hybrid
    if tensor.dtype not in TYPES:
        reason = f"DENSIFY does not unpack {tensor.dtype}"
    elif {number, *unpacked} & border:
        reason = "it is an input or output of its graph"
    elif not direct + chained:
        reason = "no operator computes with it"
    elif len(mixed) > 1:
        reason = "operators use it in two ways"
    else:
        reason = _refusal(direct + chained) or _chain(chained + direct * hybrid)
        reason = reason or ("" if hybrid or pointwise or tensor.dtype != "int8" else _integer(direct))
    return WeightUse(number, hybrid and kinds <= CHAINED and number not in border, native, pointwise, reason)


def _refusal(ends: list[tuple[Operator, int]]) -> str:
    bad = [operator.name for operator, slot in ends if WEIGHT.get(operator.name) != slot]
    return f"{bad[0]} may need a constant there" if bad else ""


def _chain(ends: list[tuple[Operator, int]]) -> str:
    bad = [operator.name for operator, _ in ends if operator.name not in CHAINED]
    return f"{bad[0]} cannot follow DENSIFY and DEQUANTIZE" if bad else ""


def _integer(ends: list[tuple[Operator, int]]) -> str:
    # XNNPACK refuses to load such a file, on every machine.
    if any(operator.name == "FULLY_CONNECTED" for operator, _ in ends):
        return INTEGER
    return ""


def _is_hybrid(graph: Subgraph, tensor: Tensor, operator: Operator) -> bool:
    """Tell whether an operator computes in float32 with the 8-bit values of a tensor."""
    slot = ACTIVATION.get(operator.name, 0)
    if tensor.dtype != "int8" or operator.name not in ACTIVATION or slot >= len(operator.inputs):
        return False
    return graph.tensors[operator.inputs[slot]].dtype == "float32"
