"""Write the zeros that `padding="same"` adds into the file, where XNNPACK has to know them to run a network sparse.

The converter turns `ZeroPadding2D` and `padding="valid"` into `padding="same"` wherever both are the same, which they
are with stride 2 on maps of odd size. XNNPACK adds such zeros while it runs, so its sparse kernels do not take them.
"""

from __future__ import annotations

import copy

import numpy as np

from tfprune.export.tflite import schema
from tfprune.export.tflite.editor import add_values, load, numbers_operators, operator_code, save


def spell_out_padding(data: bytes) -> bytes:
    """Give strided float32 convolutions that pad evenly a PAD operator and no padding of their own.

    The outputs stay the same, bit for bit. XNNPACK joins the two again, so it costs no time there.

    Args:
        data: A plain .tflite file.

    Returns:
        The file; the bytes given where there is nothing to change.

    Raises:
        ValueError: If the bytes are no TFLite file, or a damaged one; or (also an ImportError) if ai-edge-litert is
            not installed.
    """
    model = load(data)
    if numbers_operators(model):
        return data
    graph = model.subgraphs[0]
    operators: list[schema.OperatorT] = []
    for operator in graph.operators or ():
        amount = _even_padding(graph, operator)
        if amount:
            operators.append(_pad(model, graph, operator, amount))
        operators.append(operator)
    if len(operators) == len(graph.operators or ()):
        return data
    graph.operators = operators
    return save(model)


def _even_padding(graph: schema.SubGraphT, operator: schema.OperatorT) -> int:
    """Return the zeros on each side of the image; 0 where the sides differ, or another kind of operator is met."""
    options, inputs = operator.builtinOptions, operator.inputs
    convolution = isinstance(options, (schema.Conv2DOptionsT, schema.DepthwiseConv2DOptionsT))
    if not convolution or inputs is None or len(inputs) < 2 or min(inputs[:2]) < 0:
        return 0
    image, kernel = (graph.tensors[place] for place in inputs[:2])
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


def _pad(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT, amount: int) -> schema.OperatorT:
    image = graph.tensors[operator.inputs[0]]
    around = np.array([[0, 0], [amount, amount], [amount, amount], [0, 0]], np.int32)
    amounts = schema.TensorT(
        name=image.name + b"/padding", shape=[4, 2], type=schema.TensorType.INT32, buffer=add_values(model, around)
    )
    padded = copy.copy(image)
    padded.name, padded.buffer = image.name + b"/padded", 0
    padded.shape = (np.asarray(image.shape) + around.sum(1)).astype(np.int32)  # the type that the packer writes
    if image.shapeSignature is not None:
        free = np.asarray(image.shapeSignature)
        padded.shapeSignature = np.where(free < 0, free, padded.shape).astype(np.int32)
    first = len(graph.tensors)
    graph.tensors += [amounts, padded]
    pad = schema.OperatorT(
        opcodeIndex=operator_code(model, schema.BuiltinOperator.PAD),
        inputs=[operator.inputs[0], first],
        outputs=[first + 1],
        builtinOptionsType=schema.BuiltinOptions.PadOptions,
        builtinOptions=schema.PadOptionsT(),
    )
    operator.inputs = [first + 1, *operator.inputs[1:]]
    operator.builtinOptions.padding = schema.Padding.VALID
    return pad
