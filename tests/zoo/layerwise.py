"""An int8 file against the Keras model that it was made of, layer by layer: each starts from what the file has there.

A deep network that was not trained is chaotic: what is rounded the other way somewhere grows from layer to layer, and
the outputs at its end say little. So every layer of the Keras model gets the file's own values, as real numbers, and
has to return what the file has behind it. A tensor of the file is known by its range and its size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfprune.export.file.reader import Operator, read
from tfprune.models.graph import Call, Graph, flatten, trace_to_run
from tfprune.quantizing.quantized import KEEPS, Quantized, rule_of

STEPS, SAME = 2, 1e-6  # steps of the output's scale; how much scales of one range differ, relatively


@dataclass(frozen=True)
class Compared:
    """A layer, and the share of its outputs that are within STEPS of the file's."""

    layer: str
    share: float


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of a file as real numbers, what its integers mean, and what the file makes of it for all that read it.

    Before a branch to a concatenation, the converter may round a tensor once more, to the range of that, for all.
    """

    values: np.ndarray
    scale: float
    zero_point: int
    read_as: Held | None = None

    def fits(self, size: int, scale: float, zero_point: float) -> bool:
        is_near = abs(self.scale / scale - 1) < SAME and abs(self.zero_point - zero_point) < 1
        return is_near and self.values.size == size


def compare(model: keras.Model, path: Path, images: np.ndarray) -> tuple[list[Compared], list[str]]:
    """Return the layers that were compared, and the names of those whose outputs the file lacks.

    What only a concatenation takes is rounded there, to the range of all: it is compared with the concatenation.
    """
    held, graph = tensors(path, images), trace_to_run(flatten(model))
    values: dict[int, Any] = {id(graph.model.inputs[0]): keras.ops.convert_to_tensor(images)}
    sources: dict[int, Held] = {}  # of which a value is
    compared, missing = [], []

    def given(leaf: Any) -> Any:
        return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    for call in graph.calls:
        args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
        returned = call.layer(*args, **kwargs)
        values.update(zip(map(id, call.outputs), keras.tree.flatten(returned), strict=True))
        meaning = _meaning(call, sources)
        if meaning is None:
            continue
        output, name = id(call.outputs[0]), call.layer.name
        expected = keras.ops.convert_to_numpy(returned)
        found = _closest(held, expected, *meaning)
        if found is not None:
            apart = np.abs(expected - found.values) / found.scale
            compared.append(Compared(name, float(np.mean(apart < STEPS + 0.5))))
            taken = found.read_as or found
            values[output], sources[output] = keras.ops.reshape(taken.values, expected.shape), taken
        elif isinstance(call.layer, Quantized) and not _is_joined(graph, call):
            missing.append(name)
    return compared, missing


def tensors(path: Path, images: np.ndarray) -> list[Held]:
    """Run a file with the interpreter's plain kernels; return all its tensors of 8 bits."""
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=kernels, experimental_preserve_all_tensors=True
    )
    (source,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    found: dict[int, Held] = {}
    for detail in interpreter.get_tensor_details():
        quantization = detail["quantization_parameters"]
        if detail["dtype"] is np.int8 and len(quantization["scales"]) == 1 and len(detail["shape"]):
            scale, zero = float(quantization["scales"][0]), int(quantization["zero_points"][0])
            integers = interpreter.get_tensor(detail["index"]).astype(np.float32)
            found[detail["index"]] = Held((integers - zero) * np.float32(scale), scale, zero)
    again = _rounded_again(path.read_bytes())
    return [replace(tensor, read_as=found.get(again.get(index, -1))) for index, tensor in found.items()]


def _rounded_again(content: bytes) -> dict[int, int]:
    """Return what becomes of the tensors that only one operator reads, which rounds them."""
    graph = read(content).subgraphs[0]
    readers: dict[int, list[Operator]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    return {
        index: takers[0].outputs[0]
        for index, takers in readers.items()
        if [taker.name for taker in takers] == ["QUANTIZE"] and index not in graph.outputs
    }


def _meaning(call: Call, sources: dict[int, Held]) -> tuple[float, float] | None:
    """Return scale and zero point of a call's output, None if it has none of its own in the file."""
    if isinstance(call.layer, Quantized):
        if "output" not in call.layer.range_names:
            return None
        low, high = call.layer.known_ranges()["output"]
        return (high - low) / 255, -128 - low / (high - low) * 255
    rule = rule_of(call.layer)
    if rule is None or rule.kind != KEEPS or id(call.inputs[0]) not in sources:
        return None
    source = sources[id(call.inputs[0])]
    return source.scale, source.zero_point


def _closest(held: list[Held], expected: np.ndarray, scale: float, zero_point: float) -> Held | None:
    """Return the tensor of that size and meaning; of several the one that is closest."""
    alike = [tensor for tensor in held if tensor.fits(expected.size, scale, zero_point)]
    shaped = [replace(tensor, values=tensor.values.reshape(expected.shape)) for tensor in alike]
    return min(shaped, key=lambda tensor: float(np.abs(tensor.values - expected).mean()), default=None)


def _is_joined(graph: Graph, call: Call) -> bool:
    """Tell whether concatenations only take a call's output."""
    takers = [getattr(taker.layer, "layer", taker.layer) for taker in graph.consumers(call)]
    return bool(takers) and all(isinstance(layer, keras.layers.Concatenate) for layer in takers)
