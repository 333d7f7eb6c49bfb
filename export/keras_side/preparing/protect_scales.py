"""Keep the scales of norms out of the 8-bit weights behind them.

The converter multiplies the weights of a FULLY_CONNECTED by a scale in front of it. In float32 that saves an
operator. In 8 bits it may lose what the scale is for: to make channels of different ranges alike. One step for all
channels then rounds the small ones to nothing.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")  # what the converter makes FULLY_CONNECTED of
SCALE, SHIFT = "Mul", "AddV2"  # what it folds into the weights, and into the bias
PASSED = ("Cast", "Identity", "Reshape", "StopGradient")  # what may stand between a scale and the product
FUNCTIONS: dict[str, Callable[..., Any]] = {  # of which layers compute their scales and weights
    **dict.fromkeys(PASSED, lambda values, *_: values),
    SHIFT: np.add,
    "Exp": np.exp,
    "Maximum": np.maximum,
    SCALE: np.multiply,
    "Neg": np.negative,
    "RealDiv": np.divide,
    "Reciprocal": np.reciprocal,
    "Reshape": np.reshape,
    "Rsqrt": lambda values: 1 / np.sqrt(values),
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Sub": np.subtract,
    "Transpose": np.transpose,
}
REACH = 3.0  # of the outputs of a norm: three standard deviations
MOST_ROUNDING = 3.0  # how many times as large a fold may make the rounding errors


def protect_scales(folder: Path, *, least: int) -> None:
    """Change a SavedModel so that the converter folds no scale that would make rounding errors much larger.

    It folds constants of one dimension only. A second dimension, of length 1, keeps a scale where it is.

    Args:
        folder: The SavedModel.
        least: The number of entries from which a weight gets 8 bits.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    variables = _Variables(folder / "variables" / "variables")
    changed = False
    for graph in saved.meta_graphs:
        bound = {name: entry.bound_inputs for name, entry in graph.object_graph_def.concrete_functions.items()}
        for function in graph.graph_def.library.function:
            captured = bound.get(function.signature.name, ())
            with np.errstate(all="ignore"):  # a scale may be 0
                changed |= _Function(function, captured, variables).protect(least)
    if changed:
        file.write_bytes(saved.SerializeToString(deterministic=True))
        (folder / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was


class _Variables:
    """The variables of a SavedModel, by their indices among its objects; read from its checkpoint when needed."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._reader: Any = None
        self._keys: dict[int, str] = {}

    def value(self, index: int) -> np.ndarray | None:
        """Return the values of a variable; None if the object is not one."""
        if self._reader is None:
            self._open()
        return self._reader.get_tensor(self._keys[index]) if index in self._keys else None

    def _open(self) -> None:
        import tensorflow as tf
        from tensorflow.core.protobuf import trackable_object_graph_pb2 as objects

        self._reader = tf.train.load_checkpoint(str(self._prefix))
        content = self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        for index, node in enumerate(objects.TrackableObjectGraph.FromString(content).nodes):
            self._keys.update((index, attribute.checkpoint_key) for attribute in node.attributes)


@dataclass(frozen=True)
class _Constant:
    """A constant input of an operator that scales or shifts channels."""

    operator: Any
    place: int
    values: np.ndarray


class _Function:
    """One function of a SavedModel."""

    def __init__(self, function: Any, captured: Sequence[int], variables: _Variables) -> None:
        self._function, self._variables = function, variables
        self._nodes = {node.name: node for node in function.node_def}
        arguments = [argument.name for argument in function.signature.input_arg]
        first = len(arguments) - len(captured)
        self._captured = dict(zip(arguments[first:], captured, strict=True))
        self._takers: dict[str, set[str]] = defaultdict(set)  # of the outputs of a node
        for node in function.node_def:
            for name in node.input:
                self._takers[_node_name(name)].add(node.name)
        self._computed = self._reached_from(arguments[:first])

    def _reached_from(self, arguments: Sequence[str]) -> set[str]:
        """Return the names of the nodes that depend on inputs of the function."""
        reached, waiting = set(arguments), [*arguments]
        while waiting:
            new = self._takers[waiting.pop()] - reached
            reached |= new
            waiting += new
        return reached

    def protect(self, least: int) -> bool:
        """Give the constants that must not be folded a second dimension; tell whether there are some."""
        constants_by_name = {}
        for product in [node for node in self._function.node_def if node.op in PRODUCTS]:
            for source, weight in itertools.permutations(product.input, 2):
                constants = [*self._constants_before(source, folds_shifts=self._has_bias(product))]
                if _rounding(constants) > MOST_ROUNDING and self._size(weight) >= least:
                    constants_by_name.update({each.operator.name: each for each in constants if each.values.any()})
        for constant in constants_by_name.values():
            self._add_dimension(constant.operator, constant.place)
        return bool(constants_by_name)

    def _has_bias(self, product: Any) -> bool:
        """Tell whether a product adds a bias: the converter then folds shifts before it, too."""
        takers = [self._nodes[name] for name in self._takers[product.name] if name in self._nodes]
        biases = [self._value(taker.input[1]) for taker in takers if taker.op == "BiasAdd"]
        return any(bias is not None and bias.any() for bias in biases)

    def _constants_before(self, source: str, *, folds_shifts: bool) -> Iterator[_Constant]:
        """Yield the scales and shifts of the channels that a product takes, the last first."""
        size = 1
        while (node := self._nodes.get(_node_name(source))) is not None:
            inputs = enumerate(node.input[:2]) if node.op in (SCALE, SHIFT) else ()
            values = [(place, self._value(name)) for place, name in inputs]
            constants = [
                _Constant(node, place, each) for place, each in values if each is not None and each.ndim <= 1
            ]
            if len(constants) == 1:
                constant = constants[0]
                size = max(size, constant.values.size)
                stays = node.op == SHIFT and constant.values.any() and not folds_shifts  # zeros are taken out
                if stays or constant.values.size not in (1, size):
                    return
                yield constant
                source = node.input[1 - constant.place]
            elif node.op in PASSED:
                source = node.input[0]
            else:
                return

    def _size(self, name: str) -> int:
        values = self._value(name)
        return 0 if values is None else values.size

    def _value(self, name: str) -> np.ndarray | None:
        """Return the values of a tensor that depends on weights only; None if it does not, or they are not known."""
        import tensorflow as tf

        node = self._nodes.get(_node_name(name))
        if node is None or node.name in self._computed:
            return None
        if node.op == "Const":
            return tf.make_ndarray(node.attr["value"].tensor)
        if node.op == "ReadVariableOp" and node.input[0] in self._captured:
            return self._variables.value(self._captured[node.input[0]])
        if node.op not in FUNCTIONS:
            return None
        values = [self._value(input_name) for input_name in node.input if not input_name.startswith("^")]
        return None if any(value is None for value in values) else np.asarray(FUNCTIONS[node.op](*values))

    def _add_dimension(self, node: Any, place: int) -> None:
        import tensorflow as tf

        shape = self._function.node_def.add(name=f"{node.name}/two_dimensions/shape", op="Const")
        shape.attr["dtype"].type = tf.int32.as_datatype_enum
        shape.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([1, -1], tf.int32))
        reshape = self._function.node_def.add(name=f"{node.name}/two_dimensions", op="Reshape")
        reshape.input.extend([node.input[place], f"{shape.name}:output:0"])
        reshape.attr["T"].CopyFrom(node.attr["T"])
        reshape.attr["Tshape"].type = tf.int32.as_datatype_enum
        node.input[place] = f"{reshape.name}:output:0"


def _node_name(name: str) -> str:
    """Return the name of the node that makes a tensor, or that runs before another."""
    return name.partition(":")[0].removeprefix("^")


def _rounding(constants: Sequence[_Constant]) -> float:
    """Estimate how many times as large folding makes rounding errors, if the constants make channels of one range.

    The error of rounding inputs grows with their range and with all weights, that of rounding weights with the
    largest of them and with all inputs.
    """
    scale, shift = np.ones(1), np.zeros(1)
    for constant in constants:
        if constant.operator.op == SCALE:
            scale = scale * constant.values
        else:
            shift = shift + scale * constant.values
    ends = np.append(((-REACH - shift) / scale, (REACH - shift) / scale), 0)  # of the inputs
    by_inputs = (ends.max() - ends.min()) / (2 * REACH) * _rms(scale)
    by_weights = np.abs(scale).max() * _rms(np.sqrt(1 + shift**2) / scale)
    return _rms(np.array([by_inputs, by_weights]))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
