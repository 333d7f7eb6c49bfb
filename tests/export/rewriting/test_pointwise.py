"""8-bit fully connected layers as 1x1 convolutions. The truth is the file before, with XNNPACK and without."""

from contextlib import suppress

import numpy as np
import pytest
from after import after
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfprune.export.device.runner import Runner
from tfprune.export.file.document import add_constant, add_operator, add_tensor, load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.rewriting.sparsify import merge_constants, sparsify

KINDS = OpResolverType.BUILTIN, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
WIDTH = 64


class Net:
    """A file of integers, built operator by operator; what it computes is random."""

    def __init__(self, *shape, rows=None):
        self.graph = schema.SubGraphT(tensors=[], operators=[], name=b"main")
        self.model = schema.ModelT(version=3, operatorCodes=[], subgraphs=[self.graph], buffers=[schema.BufferT()])
        self.random = np.random.default_rng(7)
        self.rows = rows
        self.input = self.tensor(shape)
        self.graph.inputs = np.array([self.input], np.int32)

    def tensor(self, shape, *, scale=0.05, kind=schema.TensorType.INT8):
        """Add a tensor that is computed, with an open batch unless `rows` was given."""
        quantization = schema.QuantizationParametersT(
            scale=np.float32([scale]), zeroPoint=np.array([3], np.int64), quantizedDimension=0
        )
        lengths = np.array([self.rows or 1, *shape], np.int32)
        signature = None if self.rows else np.array([-1, *shape], np.int32)
        name = b"t%d" % len(self.graph.tensors)
        tensor = schema.TensorT(name=name, shape=lengths, shapeSignature=signature, type=kind, buffer=0)
        return add_tensor(self.graph, tensor, quantization=quantization)

    def constant(self, values, *, scales=(), zero=0):
        index = add_constant(self.model, self.graph, name=b"c%d" % len(self.graph.tensors), values=np.asarray(values))
        if len(scales):
            self.graph.tensors[index].quantization = schema.QuantizationParametersT(
                scale=np.float32(scales), zeroPoint=np.full(len(scales), zero, np.int64), quantizedDimension=0
            )
        return index

    def weight(self, outputs, *, inputs=WIDTH, channels=True):
        values = self.random.integers(-127, 128, (outputs, inputs), np.int8)
        values[self.random.random(values.shape) < 0.9] = 0
        return self.constant(values, scales=self.random.uniform(0.005, 0.03, outputs if channels else 1))

    def dense(self, source, weight, shape, *, bias=True, activation=0, keep=False, shuffled=0):
        kernel = self.graph.tensors[weight]
        scales = kernel.quantization.scale * np.float32(0.05)
        biases = self.random.integers(-900, 900, kernel.shape[0], np.int32)
        inputs = [source, weight, self.constant(biases, scales=scales) if bias else -1]
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=activation, keepNumDims=keep)
        options.weightsFormat = shuffled
        return self.operator("FULLY_CONNECTED", inputs, [self.tensor(shape)], options, version=5)[0]

    def operator(self, name, inputs, outputs, options=None, *, version=2):
        add_operator(self.model, self.graph, name=name, inputs=inputs, outputs=outputs, options=options)
        code = self.model.operatorCodes[self.graph.operators[-1].opcodeIndex]
        code.version = max(code.version, version)
        return outputs

    def reshape(self, source, shape, *, rows=-1, scale=0.05):
        lengths = self.constant(np.int32([rows, *shape]))
        target = self.tensor(shape, scale=scale)
        return self.operator("RESHAPE", [source, lengths], [target], schema.ReshapeOptionsT(), version=1)[0]

    def save(self, *outputs):
        self.graph.outputs = np.array(outputs, np.int32)
        return save_objects(self.model)


def outputs(data, inputs, kind):
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=kind)
    (detail,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(detail["index"], inputs.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(detail["index"], inputs)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def rewritten(data, *, batches=(1, 3, 2), rows=None):
    """Make a file sparse, and prove that it gives the same integers; return its operators."""
    result = sparsify(data, forms=("csr", "pointwise"))
    shape = read(data).inputs[0].shape
    for count in [rows] if rows else batches:
        inputs = np.random.default_rng(count).integers(-128, 128, (count, *shape[1:]), np.int8)
        for kind in KINDS:
            found, expected = outputs(result.data, inputs, kind), outputs(data, inputs, kind)
            for one, other in zip(found, expected, strict=True):
                assert len(np.unique(other)) > 5
                np.testing.assert_array_equal(one, other)
    _check_order(result.data)
    return result, read(result.data).ops


def _check_order(data):
    for graph in read(data).subgraphs:
        known = {index for index, tensor in enumerate(graph.tensors) if tensor.constant} | {*graph.inputs}
        for operator in graph.operators:
            assert {*operator.inputs} - {-1} <= known, operator
            known |= {*operator.outputs}


@pytest.mark.parametrize("channels", [True, False], ids=["scale per channel", "one scale"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("activation", [0, 1, 3], ids=["linear", "relu", "relu6"])
def test_a_layer_gives_the_same_integers(channels, bias, activation):
    net = Net(WIDTH)
    weight = net.weight(100, channels=channels)
    result, ops = rewritten(net.save(net.dense(net.input, weight, (100,), bias=bias, activation=activation)))
    assert [row.form for row in result.rows] == ["pointwise"]
    assert ops == {"CONV_2D": 1, "DENSIFY": 1, "RESHAPE": 2}
    assert result.bytes < 0.7 * result.bytes_before  # the rest are scales


@pytest.mark.parametrize("rows", [None, 4], ids=["open batch", "batch of 4"])
@pytest.mark.parametrize("keep", [True, False])
def test_more_than_two_dimensions_and_the_batch_stay(keep, rows):
    net = Net(5, WIDTH, rows=rows)
    target = (5, 80) if keep else (80,)
    layer = net.dense(net.input, net.weight(80), target, keep=keep)
    if not keep:  # all rows of the image are rows of the matrix
        net.graph.tensors[layer].shape[0] *= 5
    result, ops = rewritten(net.save(layer), rows=rows)
    assert ops["CONV_2D"] == 1
    assert Runner(result.data).outputs == Runner(net.save(layer)).outputs


def test_between_two_layers_nothing_is_reshaped():
    net = Net(WIDTH)
    first = net.dense(net.input, net.weight(96), (96,), activation=1)
    flat = net.reshape(net.reshape(first, (4, 24)), (96,))
    second = net.dense(flat, net.weight(70, inputs=96), (70,))
    curved = net.operator("TANH", [second], [net.tensor((70,), scale=1 / 128)])[0]
    net.graph.tensors[curved].quantization.zeroPoint[0] = 0
    third = net.dense(curved, net.weight(40, inputs=70), (40,))
    _, ops = rewritten(net.save(third))
    assert ops == {"CONV_2D": 3, "DENSIFY": 3, "RESHAPE": 2, "TANH": 1}


def test_the_gates_of_an_unrolled_cell_work_on_images():
    net = Net(WIDTH, rows=1)
    both = net.dense(net.input, net.weight(128), (128,))
    axis = net.constant(np.int32(1))
    halves = net.operator("SPLIT", [axis, both], [net.tensor((64,)) for _ in "ab"], schema.SplitOptionsT(numSplits=2))
    flat = net.reshape(both, (), rows=128)
    net.graph.tensors[flat].shape = np.array([128], np.int32)
    begin, end = net.constant(np.int32([0, 64])), net.constant(np.int32([0, 128]))
    options = schema.StridedSliceOptionsT(beginMask=1, endMask=1)
    cut = net.operator(
        "STRIDED_SLICE", [both, begin, end, net.constant(np.int32([1, 1]))], [net.tensor((64,))], options
    )
    whole = net.operator("ADD", [both, flat], [net.tensor((128,), scale=0.1)], schema.AddOptionsT())
    gate = net.operator("MUL", [halves[0], *cut], [net.tensor((64,), scale=0.2)], schema.MulOptionsT())
    spread = net.constant(net.random.integers(-9, 9, (1, 64), np.int8), scales=[0.1])
    moved = net.operator("ADD", [*gate, spread], [net.tensor((64,))], schema.AddOptionsT())
    last = net.dense(*moved, net.weight(50), (50,))
    _, ops = rewritten(net.save(last, *whole, halves[1]), batches=[1])
    assert ops["RESHAPE"] == 4  # of the input, and of the three outputs
    assert ops["CONV_2D"] == 2


def test_what_would_spread_over_rows_keeps_its_shape():
    """(2, 64) + (2, 1, 64) is (2, 2, 64), though both have the same entries."""
    net = Net(WIDTH, rows=2)
    layer = net.dense(net.input, net.weight(64), (64,))
    apart = net.reshape(layer, (1, 64), rows=2)
    total = net.operator("ADD", [layer, apart], [net.tensor((2, 64))], schema.AddOptionsT())
    _, ops = rewritten(net.save(*total), rows=2)
    assert ops["RESHAPE"] == 3


def test_a_reshape_with_another_scale_stays():
    net = Net(WIDTH)
    other = net.reshape(net.input, (WIDTH,), scale=0.1)
    _, ops = rewritten(net.save(net.dense(other, net.weight(100), (100,))))
    assert ops["RESHAPE"] == 3


def shuffled(net, weight):
    return net.dense(net.input, weight, (100,), shuffled=1)


def open_twice(net, weight):
    layer = net.dense(net.input, weight, (1, 100), keep=True)
    net.graph.tensors[layer].shapeSignature = np.array([-1, -1, 100], np.int32)
    return layer


def taken_by_another(net, weight):
    layer = net.dense(net.input, weight, (100,))
    net.operator("GATHER", [weight, net.constant(np.int32([1]))], [net.tensor((WIDTH,))], schema.GatherOptionsT())
    return layer


@pytest.mark.parametrize(
    ("build", "reason"),
    [(shuffled, "shuffled"), (open_twice, "more than one dimension"), (taken_by_another, "no unpacked weights")],
)
def test_a_layer_that_a_convolution_cannot_replace_stays(build, reason):
    net = Net(WIDTH)
    data = net.save(build(net, net.weight(100)))
    result = sparsify(data)
    assert result.data == data
    assert reason in result.rows[0].reason
    assert read(result.data).ops["FULLY_CONNECTED"] == 1


def test_without_the_form_layers_stay_as_they_are():
    net = Net(WIDTH)
    data = net.save(net.dense(net.input, net.weight(100), (100,)))
    result = sparsify(data, forms=("csr", "block"))
    assert result.data == data
    assert result.rows[0].reason.startswith("FULLY_CONNECTED takes no unpacked weights")


def test_the_steps_of_an_unrolled_network_take_one_weight():
    net = Net(WIDTH)
    weight = net.weight(64)
    tensor, layer = net.graph.tensors[weight], net.input
    for _ in range(6):
        copy = add_tensor(net.graph, tensor, name=b"copy%d" % len(net.graph.tensors))
        layer = net.dense(layer, copy, (64,), bias=False)
    data = net.save(layer)
    merged = after(data, merge_constants)
    assert len([tensor for tensor in read(merged).subgraphs[0].tensors if tensor.weight]) == 1
    assert after(merged, merge_constants) == merged
    result, ops = rewritten(data)
    assert ops == {"CONV_2D": 6, "DENSIFY": 1, "RESHAPE": 2}
    assert result.bytes < len(merged)


def test_weights_with_other_scales_are_not_merged():
    net = Net(WIDTH)
    first = net.weight(64)
    second = add_tensor(net.graph, net.graph.tensors[first], name=b"other")
    quantization = net.graph.tensors[first].quantization
    net.graph.tensors[second].quantization = schema.QuantizationParametersT(
        scale=quantization.scale * np.float32(2), zeroPoint=quantization.zeroPoint
    )
    data = net.save(net.dense(net.dense(net.input, first, (64,)), second, (64,)))
    assert after(data, merge_constants) == data
    rewritten(data)


def test_the_rewritten_file_is_the_same_every_time_and_the_model_loads_again():
    net = Net(WIDTH)
    data = net.save(net.dense(net.input, net.weight(100), (100,)))
    first = sparsify(data).data
    assert sparsify(data).data == first
    assert sparsify(first).data == first
    assert save_objects(load_objects(first)) == first


def test_flipped_bytes_give_a_file_or_a_value_error():
    net = Net(WIDTH)
    layer = net.dense(net.input, net.weight(100), (100,), bias=False)
    moved = net.operator("MUL", [layer, layer], [net.tensor((100,))], schema.MulOptionsT())
    content = np.frombuffer(net.save(net.dense(*moved, net.weight(50, inputs=100), (50,))), np.uint8)
    random = np.random.default_rng(1)
    for _ in range(80):
        damaged = content.copy()
        damaged[random.integers(0, len(content), 3)] = random.choice([0, 1, 2, 4, 70, 255], 3)
        with suppress(ValueError):
            read(sparsify(damaged.tobytes()).data)
