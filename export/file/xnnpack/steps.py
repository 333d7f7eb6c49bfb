"""A graph as XNNPACK computes it: weights unpacked beforehand, zero padding joined to the convolution behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.model import Model, Operator, Subgraph, Tensor

Padding = tuple[int, int, int, int]  # top, bottom, left, right
UNPACKERS = ("DENSIFY", "DEQUANTIZE")
PADDED_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D")
NO_PADDING = (0, 0, 0, 0)


@dataclass(frozen=True)
class Step:
    """One operator.

    Attributes:
        kind: Its name, such as `CONV_2D`.
        name: The name of its first output.
        inputs: Indices of its tensors, in order; -1 for one left out.
        outputs: Places of what it computes.
        options: The operator's options, as the schema module describes them; None when it has none.
        padding: Zeros around the image, of a convolution. None where they depend on the image's size.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    padding: Padding | None = None

    def option(self, name: str, default: int = 0) -> int:
        """Return an option, or the default where the file does not have it."""
        return getattr(self.options, name, default)


@dataclass(frozen=True)
class Steps:
    """One graph of a file.

    Attributes:
        tensors: Its tensors.
        origin: For each constant tensor, also one that is unpacked while loading, the index of its values.
        steps: The operators that compute something, in order.
        outputs: Indices of the graph's outputs.
    """

    tensors: tuple[Tensor, ...]
    origin: dict[int, int]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    _model: schema.ModelT = field(repr=False)
    _number: int = 0

    def running(self, step: Step) -> list[int]:
        """Return the inputs of a step that are computed, or given, while the model runs."""
        return [index for index in step.inputs if index >= 0 and index not in self.origin]

    def values(self, index: int) -> Tensor | None:
        """Return the tensor in the file that holds the values of a constant; None for a tensor that is computed."""
        return self.tensors[self.origin[index]] if index in self.origin else None

    def is_batched(self, index: int) -> bool:
        """Tell whether a tensor may hold more than one row."""
        tensor = self._model.subgraphs[self._number].tensors[index]
        lengths = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        return len(lengths) > 0 and lengths[0] != 1

    def integers(self, index: int) -> np.ndarray:
        """Return a constant of whole numbers in its shape; an empty array where there is none."""
        return _integers(self._model, self.tensors, index)


def steps_of(whole: Model, model: schema.ModelT) -> tuple[Steps, ...]:
    """Return the steps of the graphs of a file, the main one first; the file as it was read, and its objects."""
    return tuple(_steps(graph, model, number) for number, graph in enumerate(whole.subgraphs))


def _steps(graph: Subgraph, model: schema.ModelT, number: int) -> Steps:
    origin = _origins(graph)
    options = [operator.builtinOptions for operator in model.subgraphs[number].operators or ()]
    steps = [
        _step(graph, operator, options[index])
        for index, operator in enumerate(graph.operators)
        if not (operator.name in UNPACKERS and set(operator.outputs) <= origin.keys())
    ]
    joined = _join_padding(steps, graph, origin, model)
    return Steps(graph.tensors, origin, tuple(joined), graph.outputs, model, number)


def _origins(graph: Subgraph) -> dict[int, int]:
    origin = {index: index for index, tensor in enumerate(graph.tensors) if tensor.constant}
    for operator in graph.operators:
        if operator.name in UNPACKERS and len(operator.inputs) == 1 and operator.inputs[0] in origin:
            origin |= dict.fromkeys(operator.outputs, origin[operator.inputs[0]])
    return origin


def _step(graph: Subgraph, operator: Operator, options: Any) -> Step:
    name = graph.tensors[operator.outputs[0]].name if operator.outputs else ""
    step = Step(operator.name, name, operator.inputs, operator.outputs, options)
    if operator.name not in PADDED_OPERATORS or len(operator.inputs) < 2 or operator.inputs[1] < 0:
        return step
    shape = graph.tensors[operator.inputs[1]].shape
    return replace(step, padding=_padding(step, shape[1:3]))


def _padding(step: Step, kernel: tuple[int, ...]) -> Padding | None:
    if step.option("padding") == schema.Padding.VALID:
        return NO_PADDING
    if len(kernel) != 2 or (step.option("strideH", 1), step.option("strideW", 1)) != (1, 1):
        return None  # XNNPACK works such padding out when it runs, too late for the choice of kernels
    dilations = step.option("dilationHFactor", 1), step.option("dilationWFactor", 1)
    height, width = ((size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True))
    return height // 2, height - height // 2, width // 2, width - width // 2


def _join_padding(steps: list[Step], graph: Subgraph, origin: dict[int, int], model: schema.ModelT) -> list[Step]:
    """Give each convolution the zeros that an operator of its own adds before it, as XNNPACK does."""
    uses = Counter(index for step in steps for index in step.inputs)
    uses.update(graph.outputs)
    zeros = {}
    for step in steps:
        if step.kind == "PAD" and len(step.inputs) == 2 and len(step.outputs) == 1 and uses[step.outputs[0]] == 1:
            amounts = _integers(model, graph.tensors, step.inputs[1])
            if amounts.shape == (4, 2) and amounts.min() >= 0 and not amounts[[0, 3]].any():
                zeros[step.outputs[0]] = step, amounts[1:3].ravel()
    joined: list[Step] = []
    gone: set[int] = set()
    for step in steps:
        if step.padding is not None and step.inputs[0] in zeros:
            pad, amounts = zeros[step.inputs[0]]
            total = tuple(int(a + b) for a, b in zip(step.padding, amounts, strict=True))
            step = replace(step, inputs=(pad.inputs[0], *step.inputs[1:]), padding=total)  # type: ignore[arg-type]
            gone.add(id(pad))
        joined.append(step)
    return [step for step in joined if id(step) not in gone]


def _integers(model: schema.ModelT, tensors: tuple[Tensor, ...], index: int) -> np.ndarray:
    tensor = tensors[index] if index >= 0 else None
    if tensor is None or not tensor.constant or tensor.sparse or tensor.dtype not in ("int32", "int64"):
        return np.empty(0, np.int64)
    values = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    return values.view(np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape).astype(np.int64)
