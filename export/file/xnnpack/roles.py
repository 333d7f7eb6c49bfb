"""Which operators XNNPACK can run with channels first, the layout of its sparse kernels, and why not the others.

The rules are those of XNNPACK in ai-edge-litert 2.3, checked by running nets on an ARM processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tfprune.export.file.tflite.reader import Tensor
from tfprune.export.file.xnnpack.steps import Step, Steps

UNARY = {  # with one input
    *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "NEG"),
    *("RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH"),
}
FLOAT_PAIRS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL"}
READY = "tfprune.export.make_sparse_ready(model) rewrites it"


@dataclass(frozen=True)
class Role:
    """What an operator can do in a group that runs with channels first.

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


INSIDE = Role(inside=True)


def role(graph: Steps, step: Step) -> Role:
    """Say what a step can do."""
    if not step.inputs or not step.outputs or min(step.outputs) < 0:
        return _no("it computes nothing")
    inputs = step.inputs[: 2 if step.kind in FLOAT_PAIRS else 1]
    types = {graph.tensors[index].dtype for index in (*inputs, *step.outputs[:1]) if index >= 0}
    if types - {"float32"}:
        return _no(f"it computes with {', '.join(sorted(types))}; sparse kernels compute in float32")
    if step.kind in UNARY:
        return _unary(graph, step)
    if step.kind == "DEPTH_TO_SPACE":
        return Role(leaves=True)
    rule = RULES.get(step.kind)
    if rule is None or len(step.inputs) < 2:
        return _no(f"{step.kind} has no form with channels first")
    return rule(graph, step)


def pointwise(graph: Steps, step: Step) -> Tensor | None:
    """Return the weight of a step whose zeros XNNPACK counts: a 1x1 convolution or a fully connected layer."""
    if step.kind not in ("CONV_2D", "FULLY_CONNECTED") or len(step.inputs) < 2:
        return None
    weight = graph.values(step.inputs[1])
    return None if weight is None or set(weight.shape[1:-1]) - {1} else weight


def averages(graph: Steps, step: Step) -> bool:
    """Tell whether a step reduces exactly the height and the width of an image."""
    axes = graph.integers(step.inputs[1]).ravel() % 4
    return step.kind in ("MEAN", "SUM") and sorted(axes.tolist()) == [1, 2]


def _no(reason: str) -> Role:
    return Role(reason=reason)


def _rank(graph: Steps, index: int) -> int:
    return len(graph.tensors[index].shape) if index >= 0 else -1


def _unary(graph: Steps, step: Step) -> Role:
    rank = _rank(graph, step.inputs[0])
    return INSIDE if rank == 4 else _no(f"it works on {rank} dimensions instead of 4")


def _convolution(graph: Steps, step: Step) -> Role:
    reason = _kernel_reason(graph, step, uneven="it has groups")
    if reason:
        return _no(reason)
    _, height, width, channels = graph.tensors[step.inputs[1]].shape
    strides = _strides(step)
    if (height, width) == (1, 1):
        if strides != (1, 1) or step.padding != (0, 0, 0, 0):
            return _no(f"a 1x1 convolution needs stride 1 and no padding; its strides are {strides}")
        return INSIDE
    if (height, width, *strides, channels) != (3, 3, 2, 2, 3):
        return _no(
            "only 1x1 convolutions are sparse, and only a 3x3 convolution with stride 2 on 3 channels can come "
            f"before them; it is {height}x{width} with strides {strides} on {channels} channels"
        )
    return Role(enters=True) if step.padding == (1, 1, 1, 1) else _no(_padding_reason(step, 1))


def _depthwise(graph: Steps, step: Step) -> Role:
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
    return INSIDE if step.padding == (wanted,) * 4 else _no(_padding_reason(step, wanted))


def _kernel_reason(graph: Steps, step: Step, *, uneven: str) -> str:
    """Say what keeps any kernel from being taken; `uneven` where it has other channels than the image."""
    weight = graph.values(step.inputs[1])
    if weight is None or len(weight.shape) != 4 or _rank(graph, step.inputs[0]) != 4:
        return "its kernel is not a constant, or its image has not 4 dimensions"
    if weight.shape[-1] != graph.tensors[step.inputs[0]].shape[-1]:
        return uneven
    return "it is dilated" if _dilated(step) else ""


def _padding_reason(step: Step, wanted: int) -> str:
    need = f"XNNPACK needs {wanted} on each side, as ZeroPadding2D({wanted}) and padding='valid'"
    if step.padding is None:
        return f"padding='same' with strides; {need}: {READY}"
    top, bottom, left, right = step.padding
    # One zero less on one side: what TensorFlow pads on an even size, which mirroring makes up for.
    uneven = (top + bottom, left + right) == (2 * wanted - 1, 2 * wanted - 1)
    text = f"it pads {top}, {bottom}, {left}, {right} (top, bottom, left, right); {need}"
    return f"{text}: {READY}" if uneven else text


def _strides(step: Step) -> tuple[int, int]:
    return step.option("strideH", 1), step.option("strideW", 1)


def _dilated(step: Step) -> bool:
    return (step.option("dilationHFactor", 1), step.option("dilationWFactor", 1)) != (1, 1)


def _binary(graph: Steps, step: Step) -> Role:
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
    return INSIDE


def _clamp(graph: Steps, step: Step) -> Role:
    for image, limit in (step.inputs[:2], step.inputs[1::-1]):
        single = limit in graph.origin and math.prod(graph.tensors[limit].shape) == 1
        if single and image not in graph.origin and _rank(graph, image) == 4:
            return INSIDE
    return _no(f"{step.kind} needs an image and one number")


def _reduction(graph: Steps, step: Step) -> Role:
    rank = _rank(graph, step.inputs[0])
    return Role(inside=True, leaves=True) if rank == 4 else _no(f"it reduces {rank} dimensions instead of 4")


def _fully_connected(graph: Steps, step: Step) -> Role:
    if graph.values(step.inputs[1]) is None:
        return _no("its weight is not a constant")
    # Without this option the image is made a vector first, which ends the group.
    on_images = _rank(graph, step.inputs[0]) == 4 and step.option("keepNumDims")
    return INSIDE if on_images else _no("only 1x1 convolutions, and Dense layers on images, are sparse")


def _resize(graph: Steps, step: Step) -> Role:
    shape = graph.tensors[step.inputs[0]].shape
    return INSIDE if len(shape) == 4 and min(shape[1:3], default=0) > 1 else _no("it enlarges a single pixel")


RULES: dict[str, Callable[[Steps, Step], Role]] = {
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
