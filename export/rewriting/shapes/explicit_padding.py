"""Write the zeros that `padding="same"` adds into the file, where XNNPACK has to know them to run a network sparse.

The converter turns `ZeroPadding2D` and `padding="valid"` into `padding="same"` wherever both are the same, which they
are with stride 2 on maps of odd size. XNNPACK adds such zeros while it runs, so its sparse kernels do not take them.
"""

from __future__ import annotations

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import (
    add_constant,
    add_operator,
    add_tensor,
)


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
