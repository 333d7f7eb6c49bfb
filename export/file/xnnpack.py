"""Predict which operators of a file run on XNNPACK's sparse kernels, and what prevents the others.

XNNPACK uses its sparse kernels for whole groups of operators or not at all. Steps are operators as XNNPACK sees
them, roles say what each step is to a group, and groups say how many zeros they need. Start at `analyze`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import REDUCED_PRECISION, indices_of, inputs_of, operator_name
from tfprune.export.file.reader import Model, Operator, Subgraph, Tensor
from tfprune.export.file.report import fraction_of_zeros, yes_or_no
from tfprune.report import Report, table

# A graph as XNNPACK computes it: weights unpacked beforehand, zero padding joined to the convolution behind it.

_Padding = tuple[int, int, int, int]  # top, bottom, left, right
_UNPACKERS = ("DENSIFY", "DEQUANTIZE")
_PADDED_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_NO_PADDING = (0, 0, 0, 0)


@dataclass(frozen=True)
class _Step:
    """One operator.

    Attributes:
        kind: Its name, such as `CONV_2D`.
        name: The name of its first output.
        inputs: Indices of its tensors, in order; -1 for one left out.
        outputs: Places of what it computes.
        options: The operator's options, as the schema module describes them; None when it has none.
        is_delegated: Whether XNNPACK takes it.
        padding: Zeros around the image, of a convolution. None where they depend on the image's size.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    is_delegated: bool
    padding: _Padding | None = None

    def option(self, name: str, default: int = 0) -> int:
        """Return an option, or the default where the file does not have it."""
        return getattr(self.options, name, default)


@dataclass(frozen=True)
class _Steps:
    """One graph of a file.

    Attributes:
        tensors: Its tensors.
        origin: For each constant tensor, also one that is unpacked while loading, the index of its values.
        steps: The operators that compute something, in order.
        outputs: Indices of the graph's outputs.
    """

    tensors: tuple[Tensor, ...]
    origin: dict[int, int]
    steps: tuple[_Step, ...]
    outputs: tuple[int, ...]
    _model: schema.ModelT = field(repr=False)
    _number: int = 0

    def running(self, step: _Step) -> list[int]:
        """Return the inputs of a step that are computed, or given, while the model runs."""
        return [index for index in step.inputs if index >= 0 and index not in self.origin]

    def values(self, index: int) -> Tensor | None:
        """Return the tensor in the file that holds the values of a constant; None for a tensor that is computed."""
        return self.tensors[self.origin[index]] if index in self.origin else None

    def is_batched(self, index: int) -> bool:
        """Return True if a tensor may hold more than one row."""
        tensor = self._model.subgraphs[self._number].tensors[index]
        lengths = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        return len(lengths) > 0 and lengths[0] != 1

    def integers(self, index: int) -> np.ndarray:
        """Return a constant of whole numbers in its shape; an empty array where there is none."""
        return _integers(self._model, self.tensors, index)


def _steps_of(whole: Model, model: schema.ModelT) -> tuple[_Steps, ...]:
    """Return the steps of the graphs of a file, the main one first; the file as it was read, and its objects."""
    return tuple(_steps(graph, model, number) for number, graph in enumerate(whole.subgraphs))


def _steps(graph: Subgraph, model: schema.ModelT, number: int) -> _Steps:
    origin = _origins(graph)
    objects = model.subgraphs[number]
    taken = [is_delegated(operator, model=model, graph=objects) for operator in objects.operators or ()]
    options = [operator.builtinOptions for operator in objects.operators or ()]
    steps = [
        _step(graph, operator, options[index], is_delegated=taken[index])
        for index, operator in enumerate(graph.operators)
        if not (operator.name in _UNPACKERS and set(operator.outputs) <= origin.keys())
    ]
    joined = _join_padding(steps, graph, origin, model)
    return _Steps(graph.tensors, origin, tuple(joined), graph.outputs, model, number)


def _origins(graph: Subgraph) -> dict[int, int]:
    origin = {index: index for index, tensor in enumerate(graph.tensors) if tensor.constant}
    for operator in graph.operators:
        if operator.name in _UNPACKERS and len(operator.inputs) == 1 and operator.inputs[0] in origin:
            origin |= dict.fromkeys(operator.outputs, origin[operator.inputs[0]])
    return origin


def _step(graph: Subgraph, operator: Operator, options: Any, *, is_delegated: bool) -> _Step:
    name = graph.tensors[operator.outputs[0]].name if operator.outputs else ""
    step = _Step(operator.name, name, operator.inputs, operator.outputs, options, is_delegated)
    if operator.name not in _PADDED_OPERATORS or len(operator.inputs) < 2 or operator.inputs[1] < 0:
        return step
    shape = graph.tensors[operator.inputs[1]].shape
    return replace(step, padding=_padding(step, shape[1:3]))


def _padding(step: _Step, kernel: tuple[int, ...]) -> _Padding | None:
    if step.option("padding") == schema.Padding.VALID:
        return _NO_PADDING
    if len(kernel) != 2 or (step.option("strideH", 1), step.option("strideW", 1)) != (1, 1):
        return None  # XNNPACK works such padding out when it runs, too late for the choice of kernels
    dilations = step.option("dilationHFactor", 1), step.option("dilationWFactor", 1)
    height, width = ((size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True))
    return height // 2, height - height // 2, width // 2, width - width // 2


def _join_padding(steps: list[_Step], graph: Subgraph, origin: dict[int, int], model: schema.ModelT) -> list[_Step]:
    """Give each convolution the zeros that an operator of its own adds before it, as XNNPACK does."""
    uses = Counter(index for step in steps for index in step.inputs)
    uses.update(graph.outputs)
    zeros = {}
    for step in steps:
        if step.kind == "PAD" and len(step.inputs) == 2 and len(step.outputs) == 1 and uses[step.outputs[0]] == 1:
            amounts = _integers(model, graph.tensors, step.inputs[1])
            if amounts.shape == (4, 2) and amounts.min() >= 0 and not amounts[[0, 3]].any():
                zeros[step.outputs[0]] = step, amounts[1:3].ravel()
    joined: list[_Step] = []
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


# Which operators XNNPACK can run with channels first, the layout of its sparse kernels, and why not the others.
#
# The rules are those of XNNPACK in ai-edge-litert 2.3, checked by running nets on an ARM processor.

UNARY = {  # with one input
    *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "NEG"),
    *("RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH"),
}
# What the XNNPACK delegate of every runtime takes: others cut the file into parts that XNNPACK sees one by one.
_DELEGATED = {
    *("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU", "SOFTMAX"),
    *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR"),
    *("PAD", "SLICE", "CONCATENATION", "RESHAPE", "DEPTH_TO_SPACE", "MEAN", "SUM", "DENSIFY", "DEQUANTIZE"),
    *UNARY,
}
_MOST_JOINED = 5  # by a CONCATENATION
_FLOAT_PAIRS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL"}
_READY = "tfprune.export.make_sparse_ready(model) rewrites it"


def is_delegated(operator: schema.OperatorT, *, model: schema.ModelT, graph: schema.SubGraphT) -> bool:
    """Tell whether XNNPACK takes an operator; if not, the file is cut there.

    Tried on ai-edge-litert 2.3, by the number of parts that it makes of a file.

    Args:
        model: The file as objects.
        graph: The graph of the operator.
        operator: The operator.
    """
    kind, options, inputs = operator_name(model, operator), operator.builtinOptions, inputs_of(operator)
    whole = {schema.TensorType.INT32, schema.TensorType.INT64, schema.TensorType.BOOL}
    types = {graph.tensors[index].type for index in indices_of(operator.outputs)}
    if kind not in _DELEGATED or not runs_fused(operator) or types & whole:
        return False
    if isinstance(options, schema.Pool2DOptionsT):  # strides beyond the window skip pixels
        return options.strideH <= options.filterHeight and options.strideW <= options.filterWidth
    if kind == "CONCATENATION":
        return 2 <= len(inputs) <= _MOST_JOINED
    return kind != "SOFTMAX" or getattr(options, "beta", 1.0) == 1.0


def runs_fused(operator: schema.OperatorT) -> bool:
    """Tell whether XNNPACK runs the activation that is fused to an operator, or there is none."""
    kinds = schema.ActivationFunctionType
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", kinds.NONE)
    return fused in (kinds.NONE, kinds.RELU, kinds.RELU_N1_TO_1, kinds.RELU6)


@dataclass(frozen=True)
class _Role:
    """The abilities of an operator in a group that runs with channels first.

    Attributes:
        inside: It takes and gives channels first.
        enters: It begins a group: it takes channels last and gives channels first.
        leaves: It ends a group: it takes channels first and gives channels last.
        reason: Why it can do none of these; else empty.
    """

    inside: bool = False
    enters: bool = False
    leaves: bool = False
    reason: str = ""


_INSIDE = _Role(inside=True)


def _role(graph: _Steps, step: _Step) -> _Role:
    """Say what a step can do."""
    if not step.inputs or not step.outputs or min(step.outputs) < 0:
        return _no("it computes nothing")
    inputs = step.inputs[: 2 if step.kind in _FLOAT_PAIRS else 1]
    types = {graph.tensors[index].dtype for index in (*inputs, *step.outputs[:1]) if index >= 0}
    if types - {"float32"}:
        return _no(f"it computes with {', '.join(sorted(types))}; sparse kernels compute in float32")
    if step.kind in UNARY:
        return _unary(graph, step)
    if step.kind == "DEPTH_TO_SPACE":
        return _Role(leaves=True)
    rule = _RULES.get(step.kind)
    if rule is None or len(step.inputs) < 2:
        return _no(f"{step.kind} has no form with channels first")
    return rule(graph, step)


def _pointwise(graph: _Steps, step: _Step) -> Tensor | None:
    """Return the weight of a step whose zeros XNNPACK counts: a 1x1 convolution or a fully connected layer."""
    if step.kind not in ("CONV_2D", "FULLY_CONNECTED") or len(step.inputs) < 2:
        return None
    weight = graph.values(step.inputs[1])
    return None if weight is None or set(weight.shape[1:-1]) - {1} else weight


def _averages(graph: _Steps, step: _Step) -> bool:
    """Return True if a step reduces exactly the height and the width of an image."""
    axes = graph.integers(step.inputs[1]).ravel() % 4
    return step.kind in ("MEAN", "SUM") and sorted(axes.tolist()) == [1, 2]


def _no(reason: str) -> _Role:
    return _Role(reason=reason)


def _rank(graph: _Steps, index: int) -> int:
    return len(graph.tensors[index].shape) if index >= 0 else -1


def _unary(graph: _Steps, step: _Step) -> _Role:
    rank = _rank(graph, step.inputs[0])
    return _INSIDE if rank == 4 else _no(f"it works on {rank} dimensions instead of 4")


def _convolution(graph: _Steps, step: _Step) -> _Role:
    reason = _kernel_reason(graph, step, uneven="it has groups")
    if reason:
        return _no(reason)
    _, height, width, channels = graph.tensors[step.inputs[1]].shape
    strides = _strides(step)
    if (height, width) == (1, 1):
        if strides != (1, 1) or step.padding != (0, 0, 0, 0):
            return _no(f"a 1x1 convolution needs stride 1 and no padding; its strides are {strides}")
        return _INSIDE
    if (height, width, *strides, channels) != (3, 3, 2, 2, 3):
        return _no(
            "only 1x1 convolutions are sparse, and only a 3x3 convolution with stride 2 on 3 channels can come "
            f"before them; it is {height}x{width} with strides {strides} on {channels} channels (optimize='latency' "
            "with batch=1 writes it as sparse 1x1 convolutions, where that is faster)"
        )
    return _Role(enters=True) if step.padding == (1, 1, 1, 1) else _no(_padding_reason(step, 1))


def _depthwise(graph: _Steps, step: _Step) -> _Role:
    reason = _kernel_reason(graph, step, uneven="its depth multiplier is not 1")
    if reason:
        return _no(reason)
    _, height, width, _ = graph.tensors[step.inputs[1]].shape
    strides = _strides(step)
    if (height, width) not in ((3, 3), (5, 5)) or strides not in ((1, 1), (2, 2)):
        return _no(
            "a depthwise convolution needs a kernel of 3x3 or 5x5 and stride 1 or 2; "
            f"it is {height}x{width} with strides {strides}"
        )
    wanted = height // 2
    return _INSIDE if step.padding == (wanted,) * 4 else _no(_padding_reason(step, wanted))


def _kernel_reason(graph: _Steps, step: _Step, *, uneven: str) -> str:
    """Say what keeps any kernel from being taken; `uneven` where it has other channels than the image."""
    weight = graph.values(step.inputs[1])
    if weight is None or len(weight.shape) != 4 or _rank(graph, step.inputs[0]) != 4:
        return "its kernel is not a constant, or its image has not 4 dimensions"
    if weight.shape[-1] != graph.tensors[step.inputs[0]].shape[-1]:
        return uneven
    return "it is dilated" if _dilated(step) else ""


def _padding_reason(step: _Step, wanted: int) -> str:
    need = f"XNNPACK needs {wanted} on each side, as ZeroPadding2D({wanted}) and padding='valid'"
    if step.padding is None:
        return f"padding='same' with strides; {need}: {_READY}"
    top, bottom, left, right = step.padding
    # One zero less on one side: what TensorFlow pads on an even size, which mirroring makes up for.
    uneven = (top + bottom, left + right) == (2 * wanted - 1, 2 * wanted - 1)
    text = f"it pads {top}, {bottom}, {left}, {right} (top, bottom, left, right); {need}"
    return f"{text}: {_READY}" if uneven else text


def _strides(step: _Step) -> tuple[int, int]:
    return step.option("strideH", 1), step.option("strideW", 1)


def _dilated(step: _Step) -> bool:
    return (step.option("dilationHFactor", 1), step.option("dilationWFactor", 1)) != (1, 1)


def _binary(graph: _Steps, step: _Step) -> _Role:
    ranks = [_rank(graph, index) for index in step.inputs[:2]]
    constant = [index in graph.origin for index in step.inputs[:2]]
    lengths = [length for length in graph.tensors[step.inputs[0]].shape if length != 1]
    if ranks != [4, 4]:
        hint = ": write the constant with the shape (1, 1, 1, 1)" if any(constant) else ""
        return _no(f"it joins tensors of {ranks[0]} and {ranks[1]} dimensions; both need 4{hint}")
    # XNNPACK looks at the first operand for both: so a constant behind a whole image is not taken.
    if any(constant) and len(lengths) > 1:
        return _no(
            "it joins an image and a constant; only an image that is pooled to 1x1 may be joined with a constant"
        )
    return _INSIDE


def _clamp(graph: _Steps, step: _Step) -> _Role:
    for image, limit in (step.inputs[:2], step.inputs[1::-1]):
        single = limit in graph.origin and math.prod(graph.tensors[limit].shape) == 1
        if single and image not in graph.origin and _rank(graph, image) == 4:
            return _INSIDE
    return _no(f"{step.kind} needs an image and one number")


def _reduction(graph: _Steps, step: _Step) -> _Role:
    rank = _rank(graph, step.inputs[0])
    return _Role(inside=True, leaves=True) if rank == 4 else _no(f"it reduces {rank} dimensions instead of 4")


def _fully_connected(graph: _Steps, step: _Step) -> _Role:
    if graph.values(step.inputs[1]) is None:
        return _no("its weight is not a constant")
    # Without this option the image is made a vector first, which ends the group.
    on_images = _rank(graph, step.inputs[0]) == 4 and step.option("keepNumDims")
    return _INSIDE if on_images else _no("only 1x1 convolutions, and Dense layers on images, are sparse")


def _resize(graph: _Steps, step: _Step) -> _Role:
    shape = graph.tensors[step.inputs[0]].shape
    return _INSIDE if len(shape) == 4 and min(shape[1:3], default=0) > 1 else _no("it enlarges a single pixel")


_RULES: dict[str, Callable[[_Steps, _Step], _Role]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "ADD": _binary,
    "MUL": _binary,
    "MAXIMUM": _clamp,
    "MINIMUM": _clamp,
    "MEAN": _reduction,
    "SUM": _reduction,
    "RESIZE_BILINEAR": _resize,
}


# Which operators of a file XNNPACK runs with its sparse kernels, why not the others, and when that goes wrong.
#
# XNNPACK has sparse kernels for 1x1 convolutions with channels first. While it loads a file that holds a sparse
# weight, it looks for groups that begin with the first convolution of a network for images and end in a mean over the
# image. One is taken when more than two thirds of its 1x1 kernels are zero; on x86 processors with AVX none ever is.
# XNNPACK does not check how a group ends: one that is left in another way than by a mean is taken too, and then
# gives wrong outputs, or the file does not load. `Analysis.hazards` lists these.

_CHANNELS_LAST_REASON = "it works with channels last"
_KEEPDIMS_REASON = (
    "after a mean with keepdims=True XNNPACK gets the shape wrong, unless two or more 1x1 convolutions follow"
)
_VECTOR_OPERATORS = {"RESHAPE", "FULLY_CONNECTED"}  # they count the entries of a pooled image, whatever its shape
_BATCH_REASON = "in a batch it is right for the first row only: build the model with keras.Input(..., batch_size=1)"
_MIXED_REASON = (
    "LiteRT.js 2.5 gives wrong outputs with a sparse float16 kernel and a float32 bias: store both as float16"
)
SPARSE_THRESHOLD = 2 / 3  # fraction of zeros in the 1x1 kernels of a group; more is needed


@dataclass(frozen=True)
class _Group:
    """Operators that XNNPACK can only move to channels first together.

    Attributes:
        members: Their numbers in `Analysis.steps`.
        obstacles: What keeps it from being taken: numbers of steps, and why.
        leaks: What makes it wrong if it is taken: numbers of steps, and why.
        size: Entries of its 1x1 kernels.
        zeros: Those that are zero.
    """

    members: tuple[int, ...]
    obstacles: tuple[tuple[int, str], ...]
    leaks: tuple[tuple[int, str], ...]
    size: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in its 1x1 kernels."""
        return fraction_of_zeros(self.size - self.zeros, self.size)

    @property
    def whole(self) -> bool:
        """True when it can run sparse, given enough zeros."""
        return self.size > 0 and not self.obstacles and not self.leaks

    def renumbered(self, numbers: Sequence[int]) -> _Group:
        """Return the group of a part of a graph with the numbers that steps have in the graph."""
        reasons = [tuple((numbers[step], why) for step, why in each) for each in (self.obstacles, self.leaks)]
        return replace(
            self, members=tuple(numbers[step] for step in self.members), obstacles=reasons[0], leaks=reasons[1]
        )

    @property
    def taken(self) -> bool:
        """True when XNNPACK takes it in a file that holds a sparse weight, right or wrong."""
        return not self.obstacles and 3 * self.zeros > 2 * self.size


@dataclass(frozen=True)
class Analysis:
    """The kernels that XNNPACK chooses on ARM for one graph of a file.

    Attributes:
        graph: The operators.
        roles: What each can do.
        groups: The groups they form.
        sparse: True when the graph holds a sparse weight, without which XNNPACK looks for no groups.
    """

    graph: _Steps
    roles: tuple[_Role, ...]
    groups: tuple[_Group, ...]
    sparse: bool

    @property
    def steps(self) -> tuple[_Step, ...]:
        """The operators, in order."""
        return self.graph.steps

    @property
    def hazards(self) -> tuple[str, ...]:
        """Why outputs are wrong on ARM or in browsers once a weight is sparse; empty when they are right."""
        return tuple(
            f"{self.steps[number].name} ({self.steps[number].kind}): {text}" for number, text in self.dangers
        )

    @property
    def dangers(self) -> tuple[tuple[int, str], ...]:
        """The same with the numbers of the steps: leaks, gates on more rows than one, and mixed precision."""
        sparse_groups = [group for group in self.groups if group.taken]
        leaks = [leak for group in sparse_groups for leak in group.leaks]
        gates = [
            (number, _BATCH_REASON)
            for group in sparse_groups
            for number in group.members
            if self._is_batched_gate(number)
        ]
        members = [number for group in sparse_groups for number in group.members]
        mixed = [(number, _MIXED_REASON) for number in members if self._is_mixed(number)]
        return (*leaks, *gates, *mixed)

    def _is_mixed(self, number: int) -> bool:
        """Return True if a step has a sparse float16 kernel, and a bias that is stored otherwise."""
        step = self.steps[number]
        if step.kind not in _PADDED_OPERATORS or len(step.inputs) < 3:
            return False
        kernel, bias = map(self.graph.values, step.inputs[1:3])
        is_half = kernel is not None and kernel.sparse and kernel.dtype == "float16"
        return is_half and bias is not None and bias.dtype != "float16"

    def _is_batched_gate(self, number: int) -> bool:
        """Return True if a step joins maps of different sizes in a batch, of which the second row comes out wrong."""
        step = self.steps[number]
        shapes = {self.graph.tensors[index].shape for index in self.graph.running(step)}
        return step.kind in ("MUL", "ADD") and len(shapes) > 1 and self.graph.is_batched(step.outputs[0])


def analyze(whole: Model, model: schema.ModelT) -> tuple[Analysis, ...]:
    """Find the groups of operators that XNNPACK runs sparse, or would (`ModelFile.analyses`).

    Args:
        whole: The file as it was read.
        model: Its objects, which are only read.

    Returns:
        For each of its graphs the operators, what each can do, and the groups. The main graph comes first; others
        are where further signatures start, or bodies of loops.
    """
    return tuple(_analysis(graph) for graph in _steps_of(whole, model))


def _analysis(graph: _Steps) -> Analysis:
    roles = tuple(_role(graph, step) for step in graph.steps)
    groups: list[_Group] = []
    for numbers in delegated_parts([(step.is_delegated, step.inputs, step.outputs) for step in graph.steps]):
        steps = tuple(graph.steps[number] for number in numbers)
        outputs = _cuts(graph, numbers)
        part = replace(graph, steps=steps, outputs=(*graph.outputs, *outputs))
        grouping = _Grouping(part, tuple(roles[number] for number in numbers), outputs)
        groups += (group.renumbered(numbers) for group in grouping.groups())
    return Analysis(graph, roles, tuple(groups), any(graph.tensors[index].sparse for index in graph.origin.values()))


def delegated_parts(steps: Sequence[tuple[bool, Sequence[int], Sequence[int]]]) -> list[list[int]]:
    """Return the numbers of the steps that XNNPACK sees at once, for each of its parts of a graph.

    The runtime hands over all steps that are ready, then runs those itself that XNNPACK does not take, in turns.

    Args:
        steps: For each, in an order in which they can run: whether XNNPACK takes it, its inputs, and its outputs.
    """
    makers = {index: number for number, (_, _, outputs) in enumerate(steps) for index in outputs}
    parts, left, done = list[list[int]](), list(range(len(steps))), set[int]()
    is_turn_of_xnnpack = bool(steps) and steps[0][0]
    while left:
        taken = []
        for number in left:
            is_mine, inputs, _ = steps[number]
            is_ready = all(makers.get(index, number) in done or index not in makers for index in inputs)
            if is_ready and is_mine == is_turn_of_xnnpack:
                taken.append(number)
                done.add(number)
        left = [number for number in left if number not in done]
        parts += [taken] if is_turn_of_xnnpack and taken else []
        is_turn_of_xnnpack = not is_turn_of_xnnpack
    return parts


def _cuts(graph: _Steps, numbers: Sequence[int]) -> dict[int, str]:
    """Return the tensors that steps of a part make and steps of other parts take, and what separates them."""
    inside = set(numbers)
    made = {index for number in numbers for index in graph.steps[number].outputs}
    cuts, others = dict[int, str](), dict[str, None]()
    for number, step in enumerate(graph.steps):
        if not step.is_delegated:
            others[step.kind] = None
        if number not in inside:
            for index in made.intersection(step.inputs):
                kinds = ", ".join(others if step.is_delegated else [step.kind])
                cuts.setdefault(
                    index, f"its output is taken by or behind {kinds}, which XNNPACK does not run as it is"
                )
    return cuts


class _Grouping:
    """Joins steps as XNNPACK does, in the same order, because the order matters to what it takes.

    Args:
        graph: The steps that XNNPACK sees at once.
        roles: What each of them can do.
        cuts: Outputs that steps of other parts take, and why they leave.
    """

    def __init__(self, graph: _Steps, roles: tuple[_Role, ...], cuts: Mapping[int, str]) -> None:
        self._graph, self._roles, self._cuts = graph, roles, cuts
        self._inputs = [graph.running(step) for step in graph.steps]
        self._producer = {index: number for number, step in enumerate(graph.steps) for index in step.outputs}
        self._consumers: dict[int, list[int]] = defaultdict(list)
        for number, indices in enumerate(self._inputs):
            for index in indices:
                self._consumers[index].append(number)
        self._outputs = set(graph.outputs)
        self._leader = list(range(len(graph.steps)))
        self._spoiled: dict[int, tuple[int, str]] = {}  # by step: what gives it channels last, and why

    def groups(self) -> tuple[_Group, ...]:
        numbers = range(len(self._roles))
        changed = self._join([number for number in numbers if self._roles[number].leaves])
        sought = changed  # without an end there is no search at all
        while changed:
            changed = self._join([number for number in numbers if self._takes(number)])
        members = defaultdict(list)
        for number in numbers:
            if self._takes(number) or self._roles[number].enters:
                members[self._root(number)].append(number)
        return tuple(self._group(group, sought) for group in members.values())

    def _takes(self, number: int) -> bool:
        return self._roles[number].inside or self._roles[number].leaves

    def _gives(self, number: int) -> bool:
        return self._roles[number].inside or self._roles[number].enters

    def _root(self, number: int) -> int:
        while self._leader[number] != number:
            self._leader[number] = number = self._leader[self._leader[number]]
        return number

    def _join(self, numbers: list[int]) -> bool:
        changed = False
        for number in numbers:
            if number in self._spoiled:
                continue
            for index in self._inputs[number]:
                cause = self._cause(number, index)
                if cause is not None:
                    self._spoiled[number] = cause
                else:
                    changed |= self._unite(self._producer[index], number)
        return changed

    def _cause(self, number: int, index: int) -> tuple[int, str] | None:
        """Say why an input of a step cannot come with channels first; None when it can."""
        producer = self._producer.get(index)
        if producer is None:
            return number, "it takes an input of the model; a 3x3 convolution with stride 2 has to begin"
        if not self._gives(producer):
            return producer, self._roles[producer].reason or _CHANNELS_LAST_REASON
        return self._spoiled.get(producer)

    def _unite(self, producer: int, number: int) -> bool:
        first, last = sorted((self._root(producer), self._root(number)))
        self._leader[first] = last
        return first != last

    def _group(self, members: list[int], sought: bool) -> _Group:
        weights = [_pointwise(self._graph, self._graph.steps[number]) for number in members]
        constants = [weight for weight in weights if weight is not None]
        size = sum(weight.size for weight in constants)
        obstacles = self._obstacles(members)
        if not sought:
            obstacles.append((members[-1], "no mean over the image follows"))
        leaks = [leak for number in members for leak in self._leaks(number)]
        zeros = size - sum(weight.nnz or 0 for weight in constants)
        return _Group(tuple(members), tuple(dict.fromkeys(obstacles)), tuple(dict.fromkeys(leaks)), size, zeros)

    def _obstacles(self, members: list[int]) -> list[tuple[int, str]]:
        reasons = [self._spoiled[number] for number in members if number in self._spoiled]
        shared = dict.fromkeys(index for number in members if self._takes(number) for index in self._inputs[number])
        for index in shared:
            outside = [consumer for consumer in self._consumers[index] if not self._takes(consumer)]
            reasons += [(consumer, self._roles[consumer].reason or _CHANNELS_LAST_REASON) for consumer in outside]
            if index in self._outputs:
                reason = self._cuts.get(index, "its output is an output of the model as well")
                reasons.append((self._producer.get(index, members[0]), reason))
        return reasons

    def _leaks(self, number: int) -> list[tuple[int, str]]:
        """Say why the output of a step has the wrong order or shape if its group is taken."""
        step = self._graph.steps[number]
        producers = [self._producer.get(index) for index in self._inputs[number]]
        after_mean = any(producer is not None and self._keeps_mean(producer) for producer in producers)
        consumers = [consumer for index in step.outputs for consumer in self._consumers[index]]
        final = any(index in self._outputs for index in step.outputs)
        goes_on = bool(consumers) and not final and all(map(self._takes, consumers))
        if after_mean and not (goes_on and _pointwise(self._graph, step) is not None):
            return [(number, _KEEPDIMS_REASON + (f": {_READY}" if step.kind == "CONV_2D" else ""))]
        if not self._takes(number):
            return []
        if self._roles[number].leaves and not self._roles[number].inside:
            return []
        if self._roles[number].leaves:
            return self._mean_leaks(number, consumers, final)
        shape = self._graph.tensors[step.outputs[0]].shape
        if goes_on or (len(shape) == 4 and shape[1:3] == (1, 1)):
            return []
        left = [consumer for consumer in consumers if not self._takes(consumer)]
        reasons = [(consumer, self._roles[consumer].reason or _CHANNELS_LAST_REASON) for consumer in left]
        cut = next((self._cuts[index] for index in step.outputs if index in self._cuts), "")
        return reasons or [(number, cut or "its output leaves the model as an image")]

    def _mean_leaks(self, number: int, consumers: list[int], final: bool) -> list[tuple[int, str]]:
        step = self._graph.steps[number]
        if not _averages(self._graph, step):
            return [(number, "it does not reduce exactly the height and the width")]
        kinds = {self._graph.steps[consumer].kind for consumer in consumers if not self._takes(consumer)}
        if self._keeps_mean(number) and (final or kinds - _VECTOR_OPERATORS):
            return [(number, "XNNPACK gets the shape of a mean with keepdims=True wrong; leave keepdims out")]
        return []

    def _keeps_mean(self, number: int) -> bool:
        step = self._graph.steps[number]
        return step.kind in ("MEAN", "SUM") and len(self._graph.tensors[step.outputs[0]].shape) == 4


# Whether zeros make a model faster: what XNNPACK runs with its sparse kernels, and why not the rest.

RUNTIME = (
    "XNNPACK in ai-edge-litert 2.3 on ARM, and in LiteRT.js 2.5 (WebAssembly) on every processor; native on x86 "
    "processors with AVX it always runs dense"
)
Layers = tuple[Mapping[str, str], Mapping[str, str]]  # paths by name: of layers with kernels, and of all
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_WEIGHTED = (*_CONVOLUTIONS, "FULLY_CONNECTED")
LEAST_GAIN = 1.1  # for which convolutions are rewritten, by the estimate, which is off by a few tenths
_WHERE = "on ARM and in browsers, by an estimate"
_DENSE_FILE = "the file holds no sparse weight, without which XNNPACK looks for no zeros: export with sparse weights"
_HALF_PRECISION = (
    f"the metadata `{REDUCED_PRECISION}` asks for half precision, for which LiteRT 2.2 and 2.3 have no sparse "
    "kernels on ARMv8.2 and later, and LiteRT 2.1 gives NaN: `rewrite` leaves the entry out"
)


@dataclass(frozen=True)
class OperatorRow(Report):
    """An operator with weights, or one that keeps such an operator from running sparse.

    Attributes:
        name: The path of the Keras layer, if it is known, or the name of the operator's output in the file.
        kind: The operator, such as `CONV_2D`.
        sparsity: The fraction of zeros in the kernel; None for an operator without a kernel.
        sparse: Whether the operator belongs to a group that can run sparse.
        reason: Why it does not; empty if it does.
    """

    name: str
    kind: str
    sparsity: float | None
    sparse: bool
    reason: str = ""


@dataclass(frozen=True)
class RewritingReport(Report):
    """What `optimize="latency"` makes of the convolutions of a file: sparse 1x1 ones between shifts of whole maps.

    Times are estimates for ARM and WebAssembly, off by a few tenths.

    Attributes:
        pays: Whether such a file is written: if `gain` is at least 1.1.
        gain: The estimated time of the dense file, divided by that of the best rewritten one; 1 without one.
        gains: The gain if this fraction of each convolution were zeros, from 0.5 to 0.95.
        reasons: What to change first, one sentence each, such as an open batch.
        rows: The convolutions, and other operators that stay dense between them, each with its reason.

    Example:
        >>> import keras
        >>> network = keras.Sequential([keras.Input((32, 32, 3), batch_size=1)])
        >>> for channels in (64, 64, 64):
        ...     network.add(keras.layers.Conv2D(channels, 3, padding="same", activation="relu"))
        >>> rewriting = tfprune.export.sparse_inference(network).rewriting
        >>> rewriting.pays, rewriting.gains[0.9] > 1.1
        (False, True)
    """

    pays: bool
    gain: float
    gains: dict[float, float]
    reasons: tuple[str, ...]
    rows: tuple[OperatorRow, ...]

    @property
    def pays_from(self) -> float | None:
        """The first fraction of `gains` at which it pays; None if there is none."""
        return next((zeros for zeros, gain in self.gains.items() if gain >= LEAST_GAIN), None)

    @property
    def verdict(self) -> str:
        """What it gains, or why it is not written, in one sentence."""
        rows = [row for row in self.rows if row.kind in _CONVOLUTIONS]
        if self.pays:
            count = sum(row.sparse for row in rows)
            return f"about {self.gain:.1f} times as fast {_WHERE}: {count} of {len(rows)} convolutions run sparse"
        if self.gains:
            now = f"{self.gain:.2f} times as fast as the dense file by the estimate, below {LEAST_GAIN}"
            start = self.pays_from
            return f"{now}, even with 95% zeros" if start is None else f"{now}; it pays from about {start:.0%} zeros"
        row = next((row for row in self.rows if row.kind not in _CONVOLUTIONS), rows[0])
        return f"{row.name} ({row.kind}): {row.reason}"

    def __str__(self) -> str:
        first, *others = self.facts()
        return f"{table(first, others, left=2)}\n\n{_operator_table(self.rows)}"

    def facts(self) -> list[list[str]]:
        """Rows of a table: whether it is written, what to change, and the gain by zeros."""
        written = ["rewritten by optimize=latency", f"{yes_or_no(self.pays)}: {self.verdict}"]
        gains = ", ".join(f"{zeros:.0%}: {gain:.1f}" for zeros, gain in self.gains.items() if gain != 1)
        changes = [["change", reason] for reason in self.reasons]
        return [written, *changes, *[["times as fast by zeros", gains]] * bool(gains)]


@dataclass(frozen=True)
class SparseInferenceReport(Report):
    """Whether sparse kernels can run a model, and whether they do as it stands.

    Attributes:
        eligible: Whether the structure of the model lets XNNPACK run its 1x1 convolutions sparse, however many zeros
            they hold now.
        active: Whether they also hold enough zeros and, in a file, are stored sparse.
        sparsity: The fraction of zeros in all kernels that can run sparse.
        needed: The fraction of zeros that `sparsity` has to exceed.
        reasons: Why the model does not run sparse, one sentence for each cause.
        hazards: Why the outputs are wrong on ARM or in browsers with a sparse weight; empty if they are right.
            Hazards are reported for all graphs of a file, the rest for the main graph, which `Runner` runs.
        rows: The operators.
        runtime: The runtime and the processors that the answer holds for.
        rewriting: What `optimize="latency"` makes of the convolutions, as `sparse_inference` estimates it; None for a
            file without convolutions, and for an eligible one, which needs no rewriting.

    Example:
        >>> report = tfprune.export.sparse_inference("digits.tflite")
        >>> report.eligible, report.reasons
        (False, ('it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels',))
    """

    eligible: bool
    active: bool
    sparsity: float
    needed: float
    reasons: tuple[str, ...]
    hazards: tuple[str, ...]
    rows: tuple[OperatorRow, ...]
    runtime: str
    rewriting: RewritingReport | None = None

    def __str__(self) -> str:
        facts = [["runs sparse now", yes_or_no(self.active)]]
        facts += [["zeros", f"{self.sparsity:.1%} (more than {self.needed:.1%} needed)"]]
        if self.rewriting is None or not self.rewriting.pays:
            facts += [["because", reason] for reason in self.reasons]
        facts += [["WRONG OUTPUTS", hazard] for hazard in self.hazards]
        rows = self.rows
        if self.rewriting is not None:
            facts += self.rewriting.facts()
            rows = self.rewriting.rows
        facts += [["holds for", self.runtime]]
        return f"{table(['can run sparse', yes_or_no(self.eligible)], facts, left=2)}\n\n{_operator_table(rows)}"


def _operator_table(rows: Sequence[OperatorRow]) -> str:
    """Return operators as a table, one a line."""
    cells = [
        [
            row.name,
            row.kind,
            "-" if row.sparsity is None else f"{row.sparsity:.1%}",
            yes_or_no(row.sparse),
            row.reason,
        ]
        for row in rows
    ]
    return table(["layer", "operator", "zeros", "sparse", "reason"], cells, left=5)


def inference_of(analyses: Sequence[Analysis], *, half: bool) -> SparseInferenceReport:
    """Describe how XNNPACK runs a file (`ModelFile.inference`).

    Args:
        analyses: What XNNPACK makes of its graphs.
        half: Whether its metadata ask for half precision.
    """
    missing = [_DENSE_FILE] if not analyses[0].sparse else [_HALF_PRECISION] * half
    return describe(analyses, layers=({}, {}), missing=tuple(missing))


def describe(analyses: Sequence[Analysis], *, layers: Layers, missing: tuple[str, ...] = ()) -> SparseInferenceReport:
    """Put an analysis into words.

    Args:
        analyses: What XNNPACK makes of the graphs of the file.
        layers: Paths of the Keras layers with kernels, and of all, by name; empty where they are not known.
        missing: What else the file lacks, in sentences.
    """
    analysis, names = analyses[0], _names(analyses[0], layers)
    ready = [group for group in analysis.groups if group.whole]
    leaking = [leak for group in analysis.groups if group.size and not group.obstacles for leak in group.leaks]
    size, zeros = sum(group.size for group in ready), sum(group.zeros for group in ready)
    eligible = bool(ready) and not leaking
    is_used = eligible and any(group.taken for group in ready)
    reasons = [] if eligible else _causes(analysis, names)
    if eligible and not is_used:
        reasons.append(f"more than {SPARSE_THRESHOLD:.1%} of the 1x1 kernels have to be zero; {zeros / size:.1%} are")
    return SparseInferenceReport(
        eligible=eligible,
        active=is_used and not missing,
        sparsity=zeros / size if size else 0.0,
        needed=SPARSE_THRESHOLD,
        reasons=(*reasons, *(missing if eligible else ())),
        hazards=tuple(_sentence(each, _names(each, layers), danger) for each in analyses for danger in each.dangers),
        rows=_rows(analysis, names),
        runtime=RUNTIME,
    )


def rewriting_report(
    analysis: Analysis, *, layers: Layers, dense: Mapping[int, str], gain: float, gains: dict[float, float]
) -> RewritingReport:
    """Put a plan for the convolutions of a file into words.

    Args:
        analysis: What XNNPACK makes of the file as it is.
        layers: As in `describe`.
        dense: Why operators stay dense, by the tensors that they make.
        gain: The estimated gain of the plan.
        gains: The same by fractions of zeros.
    """
    names, rows = _names(analysis, layers), []
    for name, step in zip(names, analysis.steps, strict=True):
        reason = dense.get(step.outputs[0], "") if step.outputs else ""
        if reason or step.kind in _CONVOLUTIONS:
            rows.append(OperatorRow(name, step.kind, _sparsity(analysis, step), not reason, reason))
    return RewritingReport(gain >= LEAST_GAIN, gain, gains, (), tuple(rows))


def _causes(analysis: Analysis, names: list[str]) -> list[str]:
    """List the causes to remove, each once, in the order of the operators."""
    causes = {cause for group in analysis.groups if group.size for cause in (*group.obstacles, *group.leaks)}
    if not causes:
        return ["it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels"]
    return [_sentence(analysis, names, cause) for cause in sorted(causes)]


def _sentence(analysis: Analysis, names: list[str], cause: tuple[int, str]) -> str:
    number, reason = cause
    return f"{names[number]} ({analysis.steps[number].kind}): {reason}"


def _rows(analysis: Analysis, names: list[str]) -> tuple[OperatorRow, ...]:
    group_of = {number: group for group in analysis.groups for number in group.members}
    causes = {number: reason for group in analysis.groups for number, reason in (*group.leaks, *group.obstacles)}
    rows = []
    for number, step in enumerate(analysis.steps):
        if step.kind not in _WEIGHTED and number not in causes:
            continue
        group = group_of.get(number)
        sparse = group is not None and group.whole
        reason = causes.get(number) or analysis.roles[number].reason or _because(analysis, names, group)
        rows.append(
            OperatorRow(names[number], step.kind, _sparsity(analysis, step), sparse, "" if sparse else reason)
        )
    return tuple(rows)


def _because(analysis: Analysis, names: list[str], group: _Group | None) -> str:
    causes = [] if group is None else [*group.obstacles, *group.leaks]
    return _sentence(analysis, names, causes[0]) if causes else "no 1x1 convolution follows that could be sparse"


def _sparsity(analysis: Analysis, step: _Step) -> float | None:
    weight = analysis.graph.values(step.inputs[1]) if len(step.inputs) > 1 and step.kind in _WEIGHTED else None
    return None if weight is None or weight.nnz is None or not weight.size else 1 - weight.nnz / weight.size


def _names(analysis: Analysis, layers: Layers) -> list[str]:
    return [_name(analysis, step, layers) for step in analysis.steps]


def _name(analysis: Analysis, step: _Step, layers: Layers) -> str:
    """Return the path of the layer that an operator comes from; the converter writes it into names of tensors."""
    tensors = [*step.outputs, *(index for index in step.inputs if index in analysis.graph.origin)]
    texts = [analysis.graph.tensors[index].name for index in tensors]
    parts = [part for text in texts for part in reversed(re.split("[/;]", text))]
    kernels, every = layers
    for names in (kernels, every) if step.kind in _WEIGHTED else (every,):
        for part in parts:
            # An exported model is traced a second time, which numbers its layers.
            layer = names.get(part) or names.get(re.sub(r"_\d+$", "", part))
            if layer:
                return layer
    named = [text.partition(";")[0] for text in texts if "/" in text]
    return named[0] if named and not every else step.name
