"""Four bits for each weight of an 8-bit file, where every runtime takes them: in convolutions.

Fully connected layers become 1x1 convolutions first: as they are, tflite-runtime 2.14 and TFLite Micro refuse them
with 4-bit weights. Activations keep their 8 bits.
"""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import (
    add_tensor,
    add_values,
    builtin_code,
    inputs_of,
)
from tfprune.export.rewriting.shapes.pointwise import make_pointwise, pointwise_refusal

LARGEST_INTEGER = 7  # the integers go from -7 to 7, so that each channel needs a scale only
SCALE_FACTORS = np.linspace(
    0.5, 1, 26
)  # of the scale that clips nothing: with a smaller one, the error may be smaller
FOUR_BITS_SINCE = 7  # the version of both convolutions that takes 4-bit weights
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
WEIGHT, BIAS = 1, 2  # the places among the inputs of both convolutions, and of FULLY_CONNECTED


def four_bit_weights(model: schema.ModelT) -> bool:
    """Round the weights of 8-bit convolutions and fully connected layers to 4 bits; zeros stay zeros.

    Each output channel gets the scale that leaves the least squared error. Other weights keep their 8 bits: those of
    transposed convolutions and of embeddings, for example, which no runtime takes in 4.

    Args:
        model: An open file with 8-bit weights and activations, whose equal constants were merged.

    Returns:
        True: the file changed.

    Raises:
        ValueError: If no weight of it can have 4 bits.
    """
    changed = 0
    for graph in model.subgraphs:
        _make_convolutions(model, graph)
        for weight, layers in _weights(model, graph, CONVOLUTIONS):
            _narrow(model, graph, weight=weight, layers=layers)
            changed += 1
    if not changed:
        raise ValueError(
            "Expected 8-bit convolutions or fully connected layers with constant weights, which may have 4 bits. "
            "Received: a file without. Export it with quantize='int8'."
        )
    return True


def _make_convolutions(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    constants = [weight for weight, _ in _weights(model, graph, ("FULLY_CONNECTED",))]
    make_pointwise(
        model, graph, weights=[each for each in constants if not pointwise_refusal(model, graph, weight=each)]
    )


def _weights(
    model: schema.ModelT, graph: schema.SubGraphT, kinds: tuple[str, ...]
) -> list[tuple[int, list[schema.OperatorT]]]:
    """Return constants of 8 bits that operators of these kinds alone take, as weights of 8-bit activations."""
    codes = {getattr(schema.BuiltinOperator, kind) for kind in kinds}
    takers: dict[int, list[tuple[schema.OperatorT, int]]] = defaultdict(list)
    for operator in graph.operators:
        for place, tensor in enumerate(inputs_of(operator)):
            takers[tensor].append((operator, place))
    weights = []
    for tensor, uses in takers.items():
        fits = all(
            place == WEIGHT
            and builtin_code(model.operatorCodes[operator.opcodeIndex]) in codes
            and graph.tensors[inputs_of(operator)[0]].type == schema.TensorType.INT8
            for operator, place in uses
        )
        if fits and _is_constant(model, graph.tensors[tensor]):
            weights.append((tensor, [operator for operator, _ in uses]))
    return weights


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    is_filled = model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data) > 0
    return is_filled and tensor.type == schema.TensorType.INT8 and tensor.sparsity is None


def _narrow(model: schema.ModelT, graph: schema.SubGraphT, *, weight: int, layers: list[schema.OperatorT]) -> None:
    """Give a weight 4 bits and other scales, and the biases of its layers those that follow from them."""
    tensor = graph.tensors[weight]
    old = tensor.quantization
    values = np.asarray(model.buffers[tensor.buffer].data).view(np.int8).reshape(tensor.shape)
    axis = old.quantizedDimension if len(old.scale) > 1 else None
    narrow, steps = to_four_bits(values, axis)
    tensor.type, tensor.buffer = schema.TensorType.INT4, add_values(model, packed(narrow))
    tensor.quantization = _scaled(old, steps)
    moved: dict[int, int] = {}
    for layer in layers:
        inputs = inputs_of(layer)
        if len(inputs) > BIAS and inputs[BIAS] >= 0:
            bias = inputs[BIAS]
            moved[bias] = moved[bias] if bias in moved else _moved_bias(model, graph, bias=bias, steps=steps)
            inputs[BIAS] = moved[bias]
            layer.inputs = np.array(inputs, np.int32)
        code = model.operatorCodes[layer.opcodeIndex]
        code.version = max(code.version, FOUR_BITS_SINCE)


def _moved_bias(model: schema.ModelT, graph: schema.SubGraphT, *, bias: int, steps: np.ndarray) -> int:
    """Return a copy of a bias in the units of the new scales: another weight may have the bias, too."""
    tensor = graph.tensors[bias]
    values = np.asarray(model.buffers[tensor.buffer].data).view("<i4")
    buffer = add_values(model, np.rint(values / steps).astype("<i4"))
    return add_tensor(graph, tensor, buffer=buffer, quantization=_scaled(tensor.quantization, steps))


def _scaled(old: schema.QuantizationParametersT, steps: np.ndarray) -> schema.QuantizationParametersT:
    new = copy.copy(old)
    new.scale = (old.scale * steps).astype(np.float32)
    return new


def to_four_bits(values: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return integers from -7 to 7, and how many of the old steps each of them is worth, by channel.

    Args:
        values: int8.
        axis: The dimension of the channels, None if all share a scale.

    Example:
        >>> integers, steps = to_four_bits(np.int8([[14, -28, 0, 98], [0, 0, 0, 0]]), 0)
        >>> integers.tolist(), steps.tolist()
        ([[1, -2, 0, 7], [0, 0, 0, 0]], [14.0, 1.0])
    """
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) if axis is not None else values.reshape(1, -1)
    rows = rows.astype(np.float32)
    widest = np.abs(rows).max(axis=1) / LARGEST_INTEGER
    best, error = np.ones(len(rows)), np.full(len(rows), np.inf)
    for factor in SCALE_FACTORS[::-1]:
        steps = np.where(widest > 0, widest * factor, 1.0)
        left = np.square(_rounded(rows, steps) * steps[:, None] - rows).sum(axis=1)
        best, error = np.where(left < error, steps, best), np.minimum(left, error)
    along = [1] * values.ndim
    along[axis or 0] = len(best)
    return _rounded(values, best.reshape(along)).astype(np.int8), best


def _rounded(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    steps = steps[:, None] if values.ndim > steps.ndim else steps
    return np.clip(np.rint(values / steps), -LARGEST_INTEGER, LARGEST_INTEGER)


def packed(values: np.ndarray) -> np.ndarray:
    """Put two integers of 4 bits into each byte, the first into its lower half.

    Example:
        >>> packed(np.int8([1, -1, 7])).tolist()
        [241, 7]
    """
    halves = np.append(values.ravel(), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 15
    return halves[::2] | halves[1::2] << 4
