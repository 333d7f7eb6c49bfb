"""What a file holds. The truth is Keras' own weights, and files built by hand."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flipped import FLIPS, flipped
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.device.runner import Runner
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read

TYPES = schema.TensorType


def build(*tensors, operators=()):
    """Pack a file of one graph; each tensor is a dict of `TensorT` fields, `data` being its raw bytes."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.name, graph.inputs, graph.outputs, graph.tensors, graph.operators = b"main", [], [], [], []
    for fields in tensors:
        tensor = schema.TensorT()
        data = fields.pop("data", None)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            fields["buffer"] = len(model.buffers)
            model.buffers.append(buffer)
        for name, value in fields.items():
            setattr(tensor, name, value)
        graph.tensors.append(tensor)
    model.operatorCodes = []
    for number, custom in operators:
        code = schema.OperatorCodeT()
        code.builtinCode, code.customCode = number, custom
        code.deprecatedBuiltinCode = min(number, 127)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs, operator.outputs = [0, -1], [0]
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def quantization(*zero_points, axis=0):
    parameters = schema.QuantizationParametersT()
    parameters.scale = [0.5] * len(zero_points)
    parameters.zeroPoint = list(zero_points)
    parameters.quantizedDimension = axis
    return parameters


def sparsity(rows=10, order=(0, 1), kind=schema.SparseIndexVector.Uint8Vector):
    """Three stored entries of a matrix: one in the first row, two in the last."""
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = list(order)
    dense, sparse = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    dense.format, dense.denseSize = schema.DimensionType.DENSE, rows
    sparse.format = schema.DimensionType.SPARSE_CSR
    sparse.arraySegmentsType, sparse.arraySegments = kind, schema.Uint8VectorT()
    sparse.arraySegments.values = [0] + [1] * 9 + [3]
    sparse.arrayIndicesType, sparse.arrayIndices = schema.SparseIndexVector.Int32Vector, schema.Int32VectorT()
    sparse.arrayIndices.values = [7, 2, 5]
    parameters.dimMetadata = [dense, sparse]
    return parameters


def only_tensor(data):
    return read(data).subgraphs[0].tensors[0]


@pytest.mark.parametrize("name", ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"])
def test_weights_are_those_of_keras(cases, name):
    graph = read(cases[name].data)
    assert sorted(weight.size for weight in graph.weights) == sorted(kernel.size for kernel in cases[name].kernels)
    for weight in graph.weights:
        assert weight.bytes == weight.size * np.dtype(weight.dtype).itemsize
        assert weight.size == np.prod(weight.shape)


def test_zeros_are_those_of_keras(cases):
    counts = {weight.size: weight.nnz for weight in read(cases["dense"].data).weights}
    assert counts == {128: 64, 64: 32}
    assert counts == {kernel.size: np.count_nonzero(kernel) for kernel in cases["dense"].kernels}


def test_int8_weights_hold_the_zeros_that_the_interpreter_sees(cases):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=cases["int8"].data)
    interpreter.allocate_tensors()
    graph = read(cases["int8"].data)
    places = {tensor.name: place for place, tensor in enumerate(graph.subgraphs[0].tensors)}
    for weight in graph.weights:
        assert weight.dtype == "int8"
        assert weight.nnz == np.count_nonzero(interpreter.get_tensor(places[weight.name]))


@pytest.mark.parametrize("name", ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"])
def test_inputs_and_outputs_are_those_of_the_runner(cases, name):
    graph, runner = read(cases[name].data), Runner(cases[name].path)
    assert graph.inputs == runner.inputs
    assert graph.outputs == runner.outputs


def test_operators_are_named_and_counted(cases):
    graph = read(cases["dense"].data)
    assert graph.ops == {"FULLY_CONNECTED": 2}
    first, second = graph.subgraphs[0].operators
    assert set(first.outputs) <= set(second.inputs)
    ops = read(cases["int8_float_io"].data).ops
    assert ops["QUANTIZE"] == ops["DEQUANTIZE"] == ops["CONV_2D"] == 1


def test_custom_unknown_and_new_operators_have_names():
    codes = [(32, b"MyOp"), (32, None), (5000, None), (schema.BuiltinOperator.GELU, None)]
    data = build({"shape": [1], "name": b"x"}, operators=codes)
    assert read(data).ops == {"BUILTIN_5000": 1, "CUSTOM": 1, "GELU": 1, "MyOp": 1}
    assert read(data).subgraphs[0].operators[0].inputs == (0, -1)


def test_zero_is_the_zero_point():
    values = np.array([[3, 0, 3], [1, 3, 3]], np.int8)
    fields = {"shape": [2, 3], "type": TYPES.INT8, "name": b"w", "data": values.tobytes()}
    tensor = only_tensor(build({**fields, "quantization": quantization(3)}))
    assert (tensor.size, tensor.nnz, tensor.dtype, tensor.bytes, tensor.weight) == (6, 2, "int8", 6, True)
    assert only_tensor(build({**fields, "quantization": quantization(0, 3)})).nnz == 2 + 1
    assert only_tensor(build({**fields, "quantization": quantization(3, 0, 1, axis=1)})).nnz == 1 + 1 + 2
    assert only_tensor(build(fields)).nnz == 5


def test_zero_points_that_do_not_fit_are_refused():
    fields = {"shape": [2, 3], "type": TYPES.INT8, "name": b"w", "data": bytes(6)}
    with pytest.raises(ValueError, match="3 zero points do not fit"):
        read(build({**fields, "quantization": quantization(3, 0, 1, axis=0)}))


@pytest.mark.parametrize(
    ("dtype", "data", "nnz"),
    [
        (TYPES.FLOAT32, np.array([0, -0.0, 1, np.nan, 1e-40], "<f4").tobytes(), 3),
        (TYPES.FLOAT16, np.array([0, 2, -0.0, 3, 0], "<f2").tobytes(), 2),
        (TYPES.BFLOAT16, np.array([0, 0x8000, 0x3F80, 1, 0], "<u2").tobytes(), 2),
        (TYPES.INT4, bytes([0xF0, 0x00, 0x07]), 2),
        (TYPES.INT64, np.array([0, 1, 0, 0, 0], "<i8").tobytes(), 1),
        (TYPES.BOOL, bytes([0, 1, 1, 0, 0]), 2),
    ],
)
def test_entries_of_each_type_are_counted(dtype, data, nnz):
    tensor = only_tensor(build({"shape": [5], "type": dtype, "name": b"w", "data": data}))
    assert (tensor.size, tensor.nnz, tensor.bytes) == (5, nnz, len(data))


def test_int4_zero_points_are_signed():
    fields = {"shape": [2], "type": TYPES.INT4, "name": b"w", "data": bytes([0x0F])}
    assert only_tensor(build({**fields, "quantization": quantization(-1)})).nnz == 1


def test_strings_and_sparse_tensors_are_told_apart():
    text = only_tensor(build({"shape": [2, 1], "type": TYPES.STRING, "name": b"s", "data": b"some text"}))
    assert (text.constant, text.nnz, text.weight) == (True, None, False)
    stored = np.array([1, 0, 2], "<f4").tobytes()
    tensor = only_tensor(build({"shape": [10, 10], "name": b"w", "data": stored, "sparsity": sparsity()}))
    assert (tensor.sparse, tensor.size, tensor.nnz, tensor.bytes) == (True, 100, 2, 12)
    assert tensor.values.index_bytes == 11 + 3 * 4
    ((places, values),) = tensor.values.pieces()
    assert (places.tolist(), values.tolist()) == ([7, 95], [1, 2])


def test_sparse_tensors_whose_dimensions_lie_are_refused():
    fields = {"shape": [10, 10], "name": b"w", "data": bytes(12)}
    for change in ({"rows": 9}, {"order": [0]}, {"order": [0, 0]}, {"kind": 0}):
        with pytest.raises(ValueError, match="of a sparse tensor"):
            read(build({**fields, "sparsity": sparsity(**change)}))
    with pytest.raises(ValueError, match="of a sparse tensor"):
        read(build({**fields, "sparsity": schema.SparsityParametersT()}))


def test_shared_values_are_one_weight():
    values = {"shape": [2, 2], "name": b"w", "data": np.ones(4, "<f4").tobytes()}
    graph = read(build(values, {"shape": [4, 1], "name": b"again", "buffer": 1}))
    assert [tensor.nnz for tensor in graph.subgraphs[0].tensors] == [4, 4]
    assert len(graph.weights) == 1


def test_a_wrong_number_of_bytes_is_refused():
    with pytest.raises(ValueError, match="float32 tensor of 3 entries has 8 bytes"):
        read(build({"shape": [3], "name": b"w", "data": bytes(8)}))


def test_foreign_bytes_are_refused():
    for data in (b"", b"TFL3", b"PK\x03\x04TFL", bytes(100)):
        with pytest.raises(ValueError, match="Expected a TFLite file"):
            read(data)
    with pytest.raises(ValueError, match="damaged or cut short"):
        read(b"\x08\x00\x00\x00TFL3")


def test_another_version_of_the_format_is_refused(cases):
    model = load_objects(cases["dense"].data)
    model.version = 99
    with pytest.raises(ValueError, match="version is 99, not 3"):
        read(save_objects(model))


def test_parts_that_share_parts_without_end_are_refused_at_once(endless):
    with pytest.raises(ValueError, match="its parts together are longer than it is"):
        read(endless)


def test_a_length_that_lies_is_refused(cases):
    data = bytearray(cases["dense"].data)
    model = schema.Model.GetRootAs(data, 0)
    vector = model._tab.Vector(model._tab.Offset(8)) - 4  # where the number of graphs is written
    assert data[vector] == 1
    data[vector : vector + 4] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="its parts together are longer than it is"):
        read(bytes(data))


def test_every_truncation_is_noticed(cases):
    data = cases["two"].data
    for length in range(8, len(data) - 64, 3):  # the last bytes may be nothing but padding
        with pytest.raises(ValueError, match="cut short"):
            read(data[:length])


@given(flips=FLIPS, name=st.sampled_from(["dense", "int8", "tokens"]))
def test_flipped_bits_are_read_or_refused(cases, flips, name):
    data = flipped(cases[name].data, flips)
    try:
        graph = read(data)
    except ValueError:
        return
    assert all(tensor.bytes <= len(data) for part in graph.subgraphs for tensor in part.tensors)
