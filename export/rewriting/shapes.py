"""Other shapes for the tensors of a file, with the same outputs: batches, padding, 1x1 convolutions, open sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.spec import ArgumentError, check_count
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.runner import interpreter_module, plain_interpreter
from tfprune.export.file import schema
from tfprune.export.file.document import (
    NamedTensors,
    add_constant,
    add_operator,
    add_tensor,
    add_values,
    indices_of,
    inputs_of,
    numbers_operators,
    operator_code,
    operator_name,
    sorted_operators,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import TensorInfo, open_batch, shape_text

# Write the zeros that `padding="same"` adds into the file, where XNNPACK has to know them to run a network sparse.
#
# The converter turns `ZeroPadding2D` and `padding="valid"` into `padding="same"` wherever both are the same, which
# they are with stride 2 on maps of odd size. XNNPACK adds such zeros while it runs, so its sparse kernels do not
# take them.


def spell_out_padding(model: schema.ModelT) -> bool:
    """Give strided float32 convolutions that pad evenly a PAD operator and no padding of their own.

    The outputs stay the same, bit for bit. XNNPACK joins the two again, so it costs no time there.

    Args:
        model: An open file.

    Returns:
        Whether there was something to change.
    """
    graph = model.subgraphs[0]
    amounts = [(operator, _even_padding(graph, operator)) for operator in graph.operators or ()]
    for operator, amount in amounts:
        if amount:
            _pad(model, graph, operator, amount)
    return any(amount for _, amount in amounts)


def spell_out_numbers(model: schema.ModelT) -> bool:
    """Give numbers that are added to a pooled image, or multiply it, four dimensions.

    The outputs stay the same, bit for bit. XNNPACK's groups take no other constants.

    Args:
        model: An open file.

    Returns:
        Whether there was something to change.
    """
    graph, changed = model.subgraphs[0], False
    for operator in graph.operators or ():
        inputs = inputs_of(operator)
        if not isinstance(operator.builtinOptions, schema.AddOptionsT | schema.MulOptionsT):
            continue
        shapes = [tuple(map(int, graph.tensors[index].shape)) for index in inputs]
        for number, index in enumerate(inputs):
            data, other = model.buffers[graph.tensors[index].buffer].data, shapes[1 - number]
            is_number = data is not None and len(data) and len(shapes[number]) < 4 and np.prod(shapes[number]) == 1
            if is_number and len(other) == 4 and other[1:3] == (1, 1):
                inputs[number] = add_tensor(graph, graph.tensors[index], shape=np.ones(4, np.int32))
                changed = True
        operator.inputs = np.array(inputs, np.int32)
    return changed


def _even_padding(graph: schema.SubGraphT, operator: schema.OperatorT) -> int:
    """Return the zeros on each side of the image; 0 where the sides differ, or the operator is of another kind."""
    options, inputs = operator.builtinOptions, operator.inputs
    convolution = isinstance(options, (schema.Conv2DOptionsT, schema.DepthwiseConv2DOptionsT))
    if not convolution or inputs is None or len(inputs) < 2 or min(inputs[:2]) < 0:
        return 0
    image, kernel = (graph.tensors[index] for index in inputs[:2])
    if image.type != schema.TensorType.FLOAT32 or np.size(image.shape) != 4 or np.size(kernel.shape) != 4:
        return 0
    signature = image.shape if image.shapeSignature is None else image.shapeSignature
    free = len(signature) != 4 or min(signature[1:3]) < 0
    strides = options.strideH, options.strideW
    if options.padding != schema.Padding.SAME or free or min(strides) < 2:
        return 0
    dilations = options.dilationHFactor, options.dilationWFactor
    totals = {
        _total(int(size), int(window), stride, dilation)
        for size, window, stride, dilation in zip(
            image.shape[1:3], kernel.shape[1:3], strides, dilations, strict=True
        )
    }
    total = totals.pop()
    return 0 if totals or total % 2 else total // 2


def _total(size: int, window: int, stride: int, dilation: int) -> int:
    steps = -(-size // stride)
    return max((steps - 1) * stride + (window - 1) * dilation + 1 - size, 0)


def _pad(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT, amount: int) -> None:
    image = graph.tensors[operator.inputs[0]]
    around = np.array([[0, 0], [amount, amount], [amount, amount], [0, 0]], np.int32)
    shape = (np.asarray(image.shape) + around.sum(1)).astype(np.int32)  # the type that the packer writes
    signature = image.shapeSignature
    if signature is not None:
        signature = np.where(np.asarray(signature) < 0, signature, shape).astype(np.int32)
    amounts = add_constant(model, graph, name=image.name + b"/padding", values=around)
    padded = add_tensor(graph, image, name=image.name + b"/padded", shape=shape, shapeSignature=signature, buffer=0)
    unpadded, *others = operator.inputs
    operator.inputs = np.array([padded, *others], np.int32)
    operator.builtinOptions.padding = schema.Padding.VALID
    add_operator(model, graph, name="PAD", inputs=[unpadded, amounts], outputs=[padded], options=schema.PadOptionsT())


# Tensors of a graph as images of one pixel, [rows, 1, 1, channels], and operators that work on such images.
#
# Operators on each entry alone, or on the last dimension, need no RESHAPE between 1x1 convolutions: the gates of an
# unrolled LSTM or GRU, for example.

_DISPENSABLE = {"RESHAPE", "SHAPE", "STRIDED_SLICE", "PACK"}  # once nothing takes what they make
_ELEMENTWISE = {
    *("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "QUANTIZE", "LOGISTIC", "TANH"),
    *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "HARD_SWISH"),
}


class _OnePixelImages:
    """Adds images, and the operators between them and the tensors that have the same entries.

    Args:
        model: The model, which gets operators.
        graph: The graph of it that is changed. Its tensors keep their indices.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self.model, self.graph = model, graph
        self._border = {*indices_of(graph.inputs), *indices_of(graph.outputs)}
        reshapes = [operator for operator in graph.operators or () if self.kind(operator) == "RESHAPE"]
        ends = [(int(operator.inputs[0]), int(operator.outputs[0])) for operator in reshapes]
        self._before = {after: before for before, after in ends if self._mean_the_same(before, after)}
        self._images: dict[tuple[int, int], int] = {}  # by the tensor with the same entries, and channels
        self._constants: dict[tuple[int, ...], int] = {}
        self._reshapes: list[tuple[int, int, list[int]]] = []  # from, to, and the shape: operators that are to come

    def kind(self, operator: schema.OperatorT) -> str:
        """Return the name of an operator, such as `CONV_2D`."""
        return operator_name(self.model, operator)

    def origin(self, index: int) -> int:
        """Return the tensor that a tensor was reshaped from; the tensor itself if it was not."""
        while index in self._before:
            index = self._before[index]
        return index

    def channels(self, index: int) -> int:
        """Return the channels of an image of one pixel; 0 for any other tensor."""
        sizes, lengths = _shape_of(self.graph.tensors[index]), lengths_of(self.graph.tensors[index])
        return sizes[3] if len(sizes) == 4 and [*sizes[1:3], *lengths[1:3]] == [1] * 4 else 0

    def image_of(self, index: int, channels: int) -> int:
        """Return the image with the entries of a tensor; add what makes it if there is none yet."""
        index = self.origin(index)
        if self.channels(index) == channels:
            return index
        if (index, channels) not in self._images:
            image = self._images[index, channels] = self._add(index, channels)
            self._reshape(index, image, [-1, 1, 1, channels])
        return self._images[index, channels]

    def image_for(self, target: int, channels: int) -> int:
        """Add an image for an operator to make in place of a tensor, which becomes what RESHAPE makes of it."""
        image = self._add(target, channels)
        lengths = lengths_of(self.graph.tensors[target])
        self._reshape(image, target, lengths if -1 in lengths else [-1, *lengths[1:]])
        return image

    def move_name(self, target: int, image: int) -> None:
        """Give an image the name of the tensor that it stands for, which needs it no more inside of the graph."""
        self.graph.tensors[image].name = self.graph.tensors[target].name
        if target not in self._border:
            self.graph.tensors[target].name = b""

    def constant(self, numbers: Sequence[int], shape: Sequence[int] = (-1,)) -> int:
        """Return a constant of whole numbers; equal ones are one tensor."""
        key = (len(shape), *numbers)
        if key not in self._constants:
            values = np.array(numbers, np.int32).reshape(shape)
            self._constants[key] = add_constant(self.model, self.graph, name=b"", values=values)
        return self._constants[key]

    def finish(self) -> None:
        """Add the operators that reshape, and take out those whose outputs nothing takes any more."""
        used_tensors = {index for operator in self.graph.operators for index in inputs_of(operator)} | self._border
        for source, target, lengths in reversed(self._reshapes):
            if target in used_tensors:
                used_tensors.add(source)
                inputs, options = (
                    [source, self.constant(lengths)],
                    schema.ReshapeOptionsT(newShape=np.array(lengths, np.int32)),
                )
                add_operator(self.model, self.graph, name="RESHAPE", inputs=inputs, outputs=[target], options=options)
        drop_unread(self.graph, where=lambda operator: self.kind(operator) in _DISPENSABLE)

    def _mean_the_same(self, *indices: int) -> bool:
        tensors = [self.graph.tensors[index] for index in indices]
        return len({scales_of(tensor) for tensor in tensors}) == 1

    def _add(self, index: int, channels: int) -> int:
        """Add an image without a name: there are hundreds of them in an unrolled network."""
        tensor = self.graph.tensors[index]
        shape = np.array([max(math.prod(_shape_of(tensor)) // channels, 1), 1, 1, channels], np.int32)
        signature = None if -1 not in lengths_of(tensor) else np.array([-1, *shape[1:]], np.int32)
        return add_tensor(self.graph, tensor, name=b"", shape=shape, shapeSignature=signature, buffer=0)

    def _reshape(self, source: int, target: int, lengths: list[int]) -> None:
        self._before[target] = source
        self._reshapes.append((source, target, lengths))


def drop_unread(graph: schema.SubGraphT, *, where: Callable[[schema.OperatorT], bool] = lambda _: True) -> None:
    """Remove the operators whose outputs nothing takes, and those that only they needed.

    Args:
        graph: The graph, which is changed.
        where: Says of an operator whether it may go.
    """
    reads = Counter(index for operator in graph.operators for index in inputs_of(operator))
    reads.update(indices_of(graph.outputs))
    operators = []
    for operator in reversed(graph.operators):
        if where(operator) and not any(reads[index] for index in indices_of(operator.outputs)):
            reads.subtract(inputs_of(operator))
        else:
            operators.append(operator)
    graph.operators = operators[::-1]


def scales_of(tensor: schema.TensorT) -> Hashable:
    """Turn type and scales of a tensor into a key of a dict."""
    quantization = tensor.quantization
    fields = ("scale", "zeroPoint", "quantizedDimension") if quantization is not None else ()
    return tensor.type, *(np.asarray(getattr(quantization, name)).tobytes() for name in fields)


def _shape_of(tensor: schema.TensorT) -> list[int]:
    """Return the lengths of a tensor's dimensions; an open one is 1. A single number may have no shape at all."""
    return [] if tensor.shape is None else list(map(int, tensor.shape))


def lengths_of(tensor: schema.TensorT) -> list[int]:
    """Return the lengths of a tensor's dimensions, -1 for an open one."""
    return _shape_of(tensor) if tensor.shapeSignature is None else list(map(int, tensor.shapeSignature))


def _keep_images(images: _OnePixelImages, operator: schema.OperatorT) -> None:
    """Let an operator take images, and give some, if all that it computes with was reshaped from such images."""
    kind = images.kind(operator)
    if kind in _ELEMENTWISE:
        _elementwise(images, operator)
    elif kind == "SPLIT" and _is_last_axis(images, operator):
        _split(images, operator)
    elif kind == "STRIDED_SLICE":
        _slice(images, operator)


def _elementwise(images: _OnePixelImages, operator: schema.OperatorT) -> None:
    tensors, inputs = images.graph.tensors, inputs_of(operator)
    origins = {index: images.origin(index) for index in inputs if not _is_spread(images, index)}
    shapes = {tuple(_shape_of(tensors[origin])) for origin in origins.values()}
    channels = {_channels(images, index) for index in origins}
    if len(channels) != 1 or 0 in channels or len(shapes) > 1:
        return
    target, lengths = (
        _shape_of(tensors[operator.outputs[0]]),
        {tuple(lengths_of(tensors[index])) for index in origins},
    )
    is_open = len(lengths) > 1 and -1 in {length for each in lengths for length in each}
    # Two rows of one dimension and two of another would give four.
    if is_open or math.prod(target) != math.prod(shapes.pop()) or target[-1:] != [*channels]:
        return
    operator.inputs = np.array([origins.get(index, index) for index in inputs], np.int32)
    operator.outputs = np.array([images.image_for(int(operator.outputs[0]), channels.pop())], np.int32)


def _split(images: _OnePixelImages, operator: schema.OperatorT) -> None:
    source = inputs_of(operator)[1]
    if not _channels(images, source):
        return
    axis = images.constant([3], shape=())
    operator.inputs = np.array([axis, images.origin(source)], np.int32)
    targets = [(int(index), _shape_of(images.graph.tensors[index])) for index in operator.outputs]
    operator.outputs = np.array([images.image_for(index, shape[-1]) for index, shape in targets], np.int32)


def _slice(images: _OnePixelImages, operator: schema.OperatorT) -> None:
    """Cut channels out of an image, where all rows are taken."""
    source, *limits = inputs_of(operator)
    values = [_numbers(images, index) for index in limits]
    options = operator.builtinOptions
    if not isinstance(options, schema.StridedSliceOptionsT):
        return
    others = [options.ellipsisMask, options.newAxisMask, options.shrinkAxisMask, getattr(options, "offset", False)]
    masks = options.beginMask, options.endMask
    takes_all_rows = [mask & 1 for mask in masks] == [1, 1] and [len(value) for value in values] == [2, 2, 2]
    if any(others) or not takes_all_rows or values[2] != [1, 1] or not _channels(images, source):
        return
    target = int(operator.outputs[0])
    begin, end, strides = ([rest] * 3 + [value[1]] for rest, value in zip((0, 0, 1), values, strict=True))
    cut = [images.constant(numbers) for numbers in (begin, end, strides)]
    operator.inputs = np.array([images.origin(source), *cut], np.int32)
    channels = _shape_of(images.graph.tensors[target])[-1]
    operator.outputs = np.array([images.image_for(target, channels)], np.int32)
    begin_mask, end_mask = (0b111 | (mask & 0b10) << 2 for mask in masks)
    operator.builtinOptions = schema.StridedSliceOptionsT(beginMask=begin_mask, endMask=end_mask)


def _channels(images: _OnePixelImages, index: int) -> int:
    """Return the length of a tensor's last dimension if it was reshaped from an image with as many channels, or 0."""
    channels = images.channels(images.origin(index))
    return channels if _shape_of(images.graph.tensors[index])[-1:] == [channels] else 0


def _is_spread(images: _OnePixelImages, index: int) -> bool:
    """Return True if a tensor is a constant that has at most one dimension, the last: it fits any image."""
    shape = _shape_of(images.graph.tensors[index])
    return _is_constant_image(images, index) and len(shape) <= 4 and {*shape[:-1]} <= {1}


def _is_constant_image(images: _OnePixelImages, index: int) -> bool:
    data = images.model.buffers[images.graph.tensors[index].buffer].data
    return data is not None and len(data) > 0


def _is_last_axis(images: _OnePixelImages, operator: schema.OperatorT) -> bool:
    axis, source = inputs_of(operator)
    rank = len(_shape_of(images.graph.tensors[source]))
    return _numbers(images, axis) in ([-1], [rank - 1])


def _numbers(images: _OnePixelImages, index: int) -> list[int]:
    """Return a constant of whole numbers; an empty list if it is not known before the model runs."""
    tensor = images.graph.tensors[index]
    if not _is_constant_image(images, index) or tensor.type != schema.TensorType.INT32:
        return []
    return np.asarray(images.model.buffers[tensor.buffer].data, np.uint8).view("<i4").tolist()


# Fix the batch of a .tflite file: the shapes of its tensors, and the numbers that it computes from shapes only.
#
# LiteRT.js cannot resize an input. Nor can it bind an output whose shape is computed while the model runs, as by
# the RESHAPE at the end of Keras' MobileNet: it then returns zeros without an error. So shapes become constants.

_MODEL, _FIXED = "model.tflite", "fixed.tflite"
_TIMEOUT = 600.0  # seconds for two runs of the file
_MOST_NUMBERS = 4096  # in a constant that is computed from shapes
_SOURCES = {"SHAPE", "RANK"}
# Operators of shapes: they draw no random numbers and keep no state.
_OF_SHAPES = {
    *("STRIDED_SLICE", "SLICE", "PACK", "UNPACK", "CONCATENATION", "GATHER", "GATHER_ND", "SPLIT", "REVERSE_V2"),
    *("CAST", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "TILE", "FILL", "BROADCAST_TO", "BROADCAST_ARGS"),
    *("ADD", "SUB", "MUL", "DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM", "NEG", "ABS", "RANGE"),
    *("REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "SUM", "SELECT", "SELECT_V2", "PAD", "PADV2"),
    *("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"),
    *("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"),
}
_ADVICE = "Convert the model again with this batch."

_Tensors = dict[tuple[int, int], np.ndarray]  # by the number of the graph, and where in it


def check_batch(file: ModelFile, batch: int) -> None:
    """Refuse a file that takes another number of samples at once.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is below 1; or naming the inputs.
    """
    check_count(batch, "batch", least=1)
    for _, infos in _starts(file):
        wrong = [info for info in infos if info.shape and info.shape[0] != batch]
        if wrong and not open_batch(infos):
            named = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in wrong)
            raise ArgumentError(
                "batch",
                f"a file that leaves its batch open, or has a batch of {batch}",
                f"{batch}, and a file with the inputs {named}",
                advice=_ADVICE,
            )


def fix_batch(file: ModelFile, batch: int) -> ModelFile:
    """Fix the batch of all signatures that leave it open.

    The file runs twice on inputs of this batch, in a process of its own. Every tensor gets the shape that it has
    there, and numbers that depend on shapes only become constants.

    Args:
        file: The file.
        batch: The number of samples that the new file takes at once.

    Returns:
        The next file; the one given where no batch is open.

    Raises:
        ValueError: If another dimension is open, the file does not run with this batch, or a shape depends on the
            values of the inputs.
    """
    infos = [info for _, each in _starts(file) for info in each]
    if not open_batch(infos):
        return file
    others = [info for info in infos if None in info.shape[1:]]
    if others:
        named = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in others)
        raise ValueError(
            f"Expected a file whose batch alone is open. Received: a file with the inputs {named}. Convert the model "
            "again with fixed lengths."
        )
    with TemporaryFolder() as folder:
        Path(folder, _MODEL).write_bytes(file.content)
        write_job(folder, "job", settings={"batch": batch})
        completed = run_job(_run_job, folder, timeout=_TIMEOUT, package=interpreter_module())
        if not completed.ok:
            raise ArgumentError(
                "batch",
                "a file whose batch can be fixed",
                f"{batch}, with which this happens: {completed.reason}",
                advice=_ADVICE,
            )
        return ModelFile(Path(folder, _FIXED).read_bytes())


def _starts(file: ModelFile) -> Iterator[tuple[int, tuple[TensorInfo, ...]]]:
    """Yield the graphs that the file or a signature starts at, and their inputs."""
    yield 0, file.graph.inputs
    for signature, number in file.signatures.items():
        if number:
            yield number, file.starting_at(signature).graph.inputs


def _with_batch(file: ModelFile, batch: int) -> ModelFile:
    model = file.objects()
    if numbers_operators(model):
        raise ValueError("its metadata name operators by number, which would change.")
    tensors_of_runs = _tensors_of_runs(file, batch)
    for number, graph in enumerate(model.subgraphs):
        tensors = {index: array for (which, index), array in tensors_of_runs.items() if which == number}
        _fold(model, graph, tensors)
        _fix_shapes(model, graph, tensors)
    return file.saved(model)


def _tensors_of_runs(file: ModelFile, batch: int) -> _Tensors:
    """Return the tensors of two runs of each signature, of zeros and of random numbers, whose shapes are alike."""
    numbers = {number: signature for signature, number in file.signatures.items()}
    tensors: _Tensors = {}
    for first in sorted({0, *numbers}):
        start = file.starting_at(numbers[first]) if first else file
        of_zeros, of_random = (_run(start, batch, draw=draw) for draw in (np.zeros, _random))
        for number, index in sorted(of_zeros.keys() | of_random.keys()):
            before, array = (run.get((number, index)) for run in (of_zeros, of_random))
            if before is None or array is None or before.shape != array.shape:
                name = start.graph.subgraphs[number].tensors[index].name
                raise ValueError(f"the shape of {name!r} depends on the values of the inputs.")
            tensors[number or first, index] = array
    return tensors


def _run(file: ModelFile, batch: int, *, draw: Callable[[Any, Any], np.ndarray]) -> _Tensors:
    """Run a file from its first graph on; return its tensors, large ones as views of one number."""
    interpreter = plain_interpreter(file.content, experimental_preserve_all_tensors=True)
    for detail in interpreter.get_input_details():
        lengths = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
        shape = [batch if length < 0 else int(length) for length in lengths]
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], draw(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    tensors: _Tensors = {}
    for number, graph in enumerate(file.graph.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            array = None if tensor.constant else _tensor(interpreter, index, number)
            if array is not None:
                is_small = array.size <= _MOST_NUMBERS
                tensors[number, index] = array if is_small else np.broadcast_to(array.dtype.type(), array.shape)
    return tensors


def _tensor(interpreter: Any, index: int, number: int) -> np.ndarray | None:
    try:
        return interpreter.get_tensor(index, number)
    except ValueError:  # a graph that did not run, or an output that nothing reads
        return None


def _random(shape: Any, dtype: Any) -> np.ndarray:
    generator = np.random.default_rng(0)
    floats = np.dtype(dtype).kind == "f"
    return (generator.random(shape) if floats else generator.integers(0, 2, shape)).astype(dtype)


def _fold(model: schema.ModelT, graph: schema.SubGraphT, tensors: dict[int, np.ndarray]) -> None:
    """Turn what operators compute from shapes only into constants, and take out these operators."""
    border, results, operators = {*indices_of(graph.inputs), *indices_of(graph.outputs)}, set[int](), []
    constants = {index for index, tensor in enumerate(graph.tensors) if _is_constant(model, tensor)}
    for operator in graph.operators or ():
        kind = operator_name(model, operator)
        inputs, outputs = {*indices_of(operator.inputs)}, {*indices_of(operator.outputs)}
        of_shapes = kind in _OF_SHAPES and inputs & results and inputs <= constants
        fits = all(index in tensors and tensors[index].size <= _MOST_NUMBERS for index in outputs)
        if not (kind in _SOURCES or of_shapes) or outputs & border or not fits:
            operators.append(operator)
            continue
        for index in outputs:
            graph.tensors[index].buffer = add_values(model, tensors[index])
        results |= outputs
        constants |= outputs
    graph.operators = operators


def _fix_shapes(model: schema.ModelT, graph: schema.SubGraphT, tensors: dict[int, np.ndarray]) -> None:
    read_ones = {index for operator in graph.operators for index in indices_of(operator.inputs)}
    read_ones.update(indices_of(graph.outputs))
    for index, tensor in enumerate(graph.tensors):
        if index in tensors and _shape_of(tensor) != [*tensors[index].shape]:
            tensor.shape = np.array(tensors[index].shape, np.int32)
        elif index not in tensors and index in read_ones and -1 in lengths_of(tensor):
            raise ValueError(f"no run shows the shape of {(tensor.name or b'').decode()!r}.")
        tensor.shapeSignature = None


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0 and not tensor.isVariable


def _check_outputs(file: ModelFile) -> None:
    """Refuse an output whose shape is not known before the file runs."""
    for signature, number in ({"": 0} | file.signatures).items():
        interpreter = plain_interpreter(file.starting_at(signature if number else "").content)
        interpreter.allocate_tensors()
        for detail in interpreter.get_output_details():
            if _tensor(interpreter, detail["index"], 0) is None:
                raise ValueError(f"the output {detail['name']!r} gets its shape while the model runs.")


def _run_job(folder: Path) -> None:
    file = _with_batch(ModelFile.open(folder / _MODEL), read_job(folder, "job")[0]["batch"])
    _check_outputs(file)
    (folder / _FIXED).write_bytes(file.content)


# Compute 8-bit fully connected layers as 1x1 convolutions, whose weights XNNPACK takes sparse.
#
# RESHAPE to [rows, 1, 1, inputs], CONV_2D, RESHAPE back: the same sums, rounded in the same way.

_INTEGERS_SINCE = 3  # the version of CONV_2D that takes 8-bit values


def pointwise_refusal(model: schema.ModelT, graph: schema.SubGraphT, *, weight: int) -> str:
    """Say why the fully connected layers of a weight cannot be convolutions; empty if they can."""
    images = _OnePixelImages(model, graph)
    layers = [operator for operator in graph.operators if _is_layer(images, operator, weight)]
    return next(filter(None, (_refusal(images, layer) for layer in layers)), "")


def make_pointwise(model: schema.ModelT, graph: schema.SubGraphT, *, weights: Collection[int]) -> None:
    """Turn the fully connected layers of some weights into convolutions, in place.

    Args:
        model: The model, which gets the operators.
        graph: The graph of it that is changed. Its tensors keep their indices.
        weights: Tensors that `pointwise_refusal` has nothing against.
    """
    images = _OnePixelImages(model, graph)
    for weight in weights:
        values = graph.tensors[weight]
        values.shape = np.array([values.shape[0], 1, 1, values.shape[1]], np.int32)
    biases: dict[int, int] = {}  # by weight
    for operator in [*graph.operators]:
        if any(_is_layer(images, operator, weight) for weight in weights):
            _add_bias(images, operator, biases)
            _rewrite(images, operator)
        else:
            _keep_images(images, operator)
    images.finish()


def _is_layer(images: _OnePixelImages, operator: schema.OperatorT, weight: int) -> bool:
    return images.kind(operator) == "FULLY_CONNECTED" and inputs_of(operator)[1:2] == [weight]


def _refusal(images: _OnePixelImages, layer: schema.OperatorT) -> str:
    tensors = images.graph.tensors
    source, weight, *bias = (tensors[index] for index in inputs_of(layer) if index >= 0)
    target, origin = tensors[layer.outputs[0]], tensors[images.origin(inputs_of(layer)[0])]
    integers = [tensor.type == schema.TensorType.INT8 for tensor in (source, target, origin)]
    scaled = [tensor.quantization is not None and np.size(tensor.quantization.scale) for tensor in (source, weight)]
    if not all(integers + scaled) or any(tensor.type != schema.TensorType.INT32 for tensor in bias):
        return "its operators do not compute in int8"
    if getattr(layer.builtinOptions, "weightsFormat", 0) or len(layer.outputs) > 1:
        return "its values are shuffled"
    if not _shape_of(target) or sum(length < 0 for length in lengths_of(target)) > 1:
        return "more than one dimension of what its operator gives is open"
    if math.prod(_shape_of(origin)) % _shape_of(weight)[1]:
        return "the shape of what its operator takes is not known"
    return ""


def _add_bias(images: _OnePixelImages, layer: schema.OperatorT, biases: dict[int, int]) -> None:
    """Give a layer without a bias one of zeros, without which no kernel takes an 8-bit convolution.

    All steps of an unrolled network get the same: zeros are zeros at any scale.
    """
    source, weight, *bias = inputs_of(layer)
    if bias and bias[0] >= 0:
        return
    if weight not in biases:
        kernel, scale = images.graph.tensors[weight], images.graph.tensors[source].quantization.scale[0]
        zeros, name = np.zeros(kernel.shape[0], np.int32), (kernel.name or b"") + b"/bias"
        biases[weight] = add_constant(images.model, images.graph, name=name, values=zeros)
        scales = (scale * kernel.quantization.scale).astype(np.float32)
        quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=np.zeros(len(scales), np.int64))
        images.graph.tensors[biases[weight]].quantization = quantization
    layer.inputs = np.array([source, weight, biases[weight]], np.int32)


def _rewrite(images: _OnePixelImages, layer: schema.OperatorT) -> None:
    source, weight, bias = inputs_of(layer)
    outputs, _, _, inputs = images.graph.tensors[weight].shape.tolist()
    layer.inputs = np.array([images.image_of(source, inputs), weight, bias], np.int32)
    image = images.image_for(int(layer.outputs[0]), outputs)
    images.move_name(int(layer.outputs[0]), image)
    layer.outputs = np.array([image], np.int32)
    layer.opcodeIndex = operator_code(images.model, schema.BuiltinOperator.CONV_2D)
    code = images.model.operatorCodes[layer.opcodeIndex]
    code.version = max(code.version, _INTEGERS_SINCE)
    layer.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    layer.builtinOptions = schema.Conv2DOptionsT(
        padding=schema.Padding.VALID,
        strideH=1,
        strideW=1,
        fusedActivationFunction=getattr(layer.builtinOptions, "fusedActivationFunction", 0),
    )


# Leave sizes open in a file that was traced with rare numbers for them.

_BROADCASTING = ("ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SELECT_V2", "SUB")
# Operators that take sizes, and the places of these among the inputs; in the first ones, an open size may be -1.
_MAY_BE_OPEN = {"RESHAPE": 1, "SLICE": 2}
_SIZES = {**_MAY_BE_OPEN, "BROADCAST_TO": 1, "FILL": 0, "STRIDED_SLICE": 2, "TILE": 1, "TRANSPOSE_CONV": 0}


_BROADCASTS_SINCE = 2  # the first version of BROADCAST_TO
_INTEGERS = (np.int32, np.int64)  # of lists of sizes: BROADCAST_TO takes both


class _ClosedError(ValueError):
    """An operator whose sizes cannot be left open."""


def open_sizes(model: schema.ModelT, *, numbers: Sequence[int], tables: Sequence[np.ndarray]) -> None:
    """Leave sizes of a file open that was traced with rare numbers for them.

    Args:
        model: An open file of the converter, which is changed.
        numbers: The numbers.
        tables: The weights of which a part may be in the file, as embeddings of positions are.

    Raises:
        ValueError: If an operator needs one of the numbers.
    """
    for part in range(len(model.subgraphs) if numbers else 0):
        _Opening(NamedTensors(model, part), numbers, tables).apply()


def _begins_with(table: np.ndarray, values: np.ndarray) -> bool:
    return table.shape[1:] == values.shape[1:] and np.array_equal(table[: len(values)], values)


@dataclass(frozen=True)
class _Opening:
    """Opens sizes of one graph."""

    view: NamedTensors
    numbers: Sequence[int]
    tables: Sequence[np.ndarray]

    def apply(self) -> None:
        """Open them in constants first, and then in what operators make."""
        for operator in [*self.view.graph.operators]:
            for place, index in enumerate(inputs_of(operator)):
                values = self.view.constant(index) if index >= 0 else None
                if values is not None:
                    self._open(operator, place, values)
        for index, tensor in enumerate(self.view.tensors):
            if tensor.shape is not None and self.view.constant(index) is None:
                sizes = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
                open_sizes = np.where(self._depends(sizes), -1, sizes).astype(np.int32)
                tensor.shapeSignature = open_sizes if (open_sizes < 0).any() else None
                tensor.shape = self._at_one(tensor.shape)
        self.view.graph.operators = sorted_operators(self.view.graph.operators)

    def _depends(self, sizes: Any, *numbers: int) -> np.ndarray:
        sizes = np.asarray(sizes)
        return np.any([sizes % number == 0 for number in numbers or self.numbers], axis=0) & (sizes > 0)

    def _at_one(self, sizes: Any) -> np.ndarray:
        """Return sizes as they are where the open ones are 1."""
        for number in self.numbers:
            sizes = np.where((sizes % number == 0) & (sizes > 0), sizes // number, sizes)
        return sizes.astype(np.int32)

    def _open(self, operator: schema.OperatorT, place: int, values: np.ndarray) -> None:
        """Let a constant input of an operator fit any size."""
        name = self.view.kind(operator)
        if name not in _BROADCASTING and values.dtype in _INTEGERS and self._depends(values).any():
            self._open_sizes_of(operator, name, place, values)
        if self._depends(values.shape).any():
            self._open_shape_of(operator, name, place, values)

    def _open_shape_of(self, operator: schema.OperatorT, name: str, place: int, values: np.ndarray) -> None:
        """Hold what is the same for each index of an open size once, and take positions from their whole table."""
        closed, broadcasts = _ClosedError(f"{name} with a constant of shape {[*values.shape]}"), name in _BROADCASTING
        rest = values
        for axis in np.flatnonzero(self._depends(values.shape)):
            first = rest.take([0], axis=axis)
            rest = first if values.shape[axis] in self.numbers and (rest == first).all() else rest
        if not self._depends(rest.shape).any():
            if broadcasts:
                self._replace(operator, place, rest)
            else:
                inputs = [self._constant(rest), self._computed(np.array(values.shape))]
                self._make(operator, place, "BROADCAST_TO", inputs=inputs, shape=values.shape)
            return
        while len(rest.shape) > 1 and rest.shape[0] == 1:  # broadcast all the same
            rest = rest[0]
        table = next((table for table in self.tables if _begins_with(table, rest)), None)
        if not broadcasts or table is None or self._depends(rest.shape[1:]).any():
            raise closed
        sizes, begin = self._computed(np.array(rest.shape)), self._constant(np.zeros(rest.ndim, np.int32))
        self._make(operator, place, "SLICE", inputs=[self._constant(table), begin, sizes], shape=rest.shape)

    def _make(
        self, operator: schema.OperatorT, place: int, name: str, *, inputs: list[int], shape: tuple[int, ...]
    ) -> None:
        """Let another operator make what an operator takes as a constant now."""
        part = add_tensor(self.view.graph, self.view.tensors[operator.inputs[place]], buffer=0)
        self.view.tensors[part].shape = np.array(shape, np.int32)
        operator.inputs = operator.inputs.copy()
        operator.inputs[place] = part
        options = schema.SliceOptionsT() if name == "SLICE" else schema.BroadcastToOptionsT()
        add_operator(self.view.model, self.view.graph, name=name, inputs=inputs, outputs=[part], options=options)
        if name == "BROADCAST_TO":
            code = self.view.model.operatorCodes[operator_code(self.view.model, schema.BuiltinOperator.BROADCAST_TO)]
            code.version = max(code.version, _BROADCASTS_SINCE)

    def _open_sizes_of(self, operator: schema.OperatorT, name: str, place: int, sizes: np.ndarray) -> None:
        if _SIZES.get(name) != place:
            raise _ClosedError(f"{name} with sizes {sizes.tolist()}")
        is_open = self._depends(sizes)
        if name in _MAY_BE_OPEN and is_open.sum() == 1:
            self._replace(operator, place, np.where(is_open, -1, sizes).astype(np.int32))
        else:
            operator.inputs = operator.inputs.copy()
            operator.inputs[place] = self._computed(sizes)
        if name == "RESHAPE" and operator.builtinOptions is not None:
            operator.builtinOptions.newShape = np.where(is_open, -1, sizes).astype(np.int32)

    def _computed(self, sizes: np.ndarray) -> int:
        """Return a tensor of sizes that operators compute from the shapes of inputs of the graph."""
        rest, total = sizes, None
        for number in self.numbers:
            counts = np.where(self._depends(rest, number), rest // number, 0).astype(np.int32)
            if counts.any():
                rest = np.where(counts > 0, 0, rest)
                part = self._operator("MUL", [self._size(number), self._constant(counts)], len(sizes))
                total = part if total is None else self._operator("ADD", [total, part], len(sizes))
        assert total is not None
        return self._operator("ADD", [total, self._constant(rest.astype(np.int32))], len(sizes))

    def _size(self, number: int) -> int:
        """Return a tensor of the size that a number stands for, which an input of the graph has."""
        for index in self.view.graph.inputs:
            shape = self.view.tensors[index].shape
            if number in shape:
                sizes = self._operator(
                    "SHAPE", [index], len(shape), schema.ShapeOptionsT(outType=schema.TensorType.INT32)
                )
                place = self._constant(np.array([shape.tolist().index(number)], np.int32))
                one = self._constant(np.ones(1, np.int32))
                return self._operator("SLICE", [sizes, place, one], 1)
        raise _ClosedError(f"an input of the size {number}")

    def _constant(self, values: np.ndarray) -> int:
        return add_constant(self.view.model, self.view.graph, name=b"sizes", values=values)

    def _operator(self, name: str, inputs: list[int], length: int, options: Any = None) -> int:
        """Add an operator that makes a list of sizes, and return its output."""
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.shape = b"sizes", schema.TensorType.INT32, np.array([length], np.int32)
        self.view.tensors.append(tensor)
        output = len(self.view.tensors) - 1
        add_operator(self.view.model, self.view.graph, name=name, inputs=inputs, outputs=[output], options=options)
        return output

    def _replace(self, operator: schema.OperatorT, place: int, values: np.ndarray) -> None:
        tensor = self.view.tensors[operator.inputs[place]]
        buffer = add_values(self.view.model, np.ascontiguousarray(values))
        operator.inputs = operator.inputs.copy()
        operator.inputs[place] = add_tensor(
            self.view.graph, tensor, shape=np.array(values.shape, np.int32), buffer=buffer
        )
