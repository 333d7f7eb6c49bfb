"""Operators that do not fit their tensors. The truth for splits is the interpreter without XNNPACK."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from file_graphs import FileGraph

from tfprune.export.device.runner import Runner
from tfprune.export.file.container import read_model
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import check_operators

KINDS = {
    "SPLIT": (schema.SplitOptionsT, "numSplits", ("axis", "x")),
    "SPLIT_V": (schema.SplitVOptionsT, "numSplits", ("x", "sizes", "axis")),
    "UNPACK": (schema.UnpackOptionsT, "num", ("x",)),
}
SIZES = {"axis": [1], "sizes": [1, 1, 1, 1]}


def places(*numbers):
    return np.array(numbers, np.int32)


def parted(kind, told, outputs):
    """Return a file that takes a row of four numbers apart."""
    options, count, names = KINDS[kind]
    code = getattr(schema.BuiltinOperator, kind)
    buffers, tensors = [schema.BufferT()], []
    for name in names:
        if name == "x":
            tensors.append(schema.TensorT(name=b"x", shape=places(1, 4), type=schema.TensorType.FLOAT32, buffer=0))
            continue
        buffers.append(schema.BufferT(data=places(*SIZES[name]).view(np.uint8)))
        shape = places(4) if name == "sizes" else places()
        integers = schema.TensorType.INT32
        tensors.append(schema.TensorT(name=name.encode(), shape=shape, type=integers, buffer=len(buffers) - 1))
    shape = places(1) if kind == "UNPACK" else places(1, 1)
    for number in range(outputs):
        tensors.append(schema.TensorT(name=b"%d" % number, shape=shape, type=schema.TensorType.FLOAT32, buffer=0))
    taken = options(**{count: told}, **({"axis": 1} if kind == "UNPACK" else {}))
    ends = places(*range(len(names), len(names) + outputs))
    numbered = getattr(schema.BuiltinOptions, options.__name__.removesuffix("T"))
    step = schema.OperatorT(0, places(*range(len(names))), ends, numbered, taken)
    graph = schema.SubGraphT(tensors=tensors, inputs=places(names.index("x")), outputs=ends, operators=[step])
    codes = [schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=1)]
    return save_objects(schema.ModelT(version=3, operatorCodes=codes, subgraphs=[graph], buffers=buffers))


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_right_passes(kind):
    pieces = Runner(parted(kind, 4, 4)).predict(np.array([[1, 2, 3, 4]], np.float32))
    assert [piece.item() for piece in pieces] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("told", "outputs"), [(1, 4), (0, 4), (-1, 4), (5, 4), (4, 3), (4, 5), (4, 0)])
def test_another_number_is_refused_as_the_interpreter_does_without_xnnpack(kind, told, outputs):
    data = parted(kind, told, outputs)
    plain = Interpreter(
        model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    with pytest.raises(RuntimeError):
        plain.allocate_tensors()
    for reader in (check_operators, read_model, Runner):
        with pytest.raises(ValueError, match=f"{kind} with {outputs} outputs says that it has {told}"):
            reader(data)


@pytest.mark.parametrize("told", [1, 3, 0, -1, 2**27])
def test_another_number_of_inputs_is_refused(told):
    """The interpreter for microcontrollers crashes on some of them."""
    data = packing(told)
    with pytest.raises(RuntimeError):
        Interpreter(model_content=data).allocate_tensors()
    with pytest.raises(ValueError, match=f"PACK with 2 inputs says that it has {told}"):
        Runner(data)
    assert Runner(packing(2)).predict(np.array([[-1, 2]], np.float32)).tolist() == [[[1, 2]], [[-1, 2]]]


def packing(count):
    graph = FileGraph(0, shape=(1, 2))
    rows = [graph.unary("ABS", graph.input), graph.input]
    return graph.content(graph.operator("PACK", rows, (2, 1, 2), kind="PackOptions", valuesCount=count))


def test_options_of_another_kind_are_no_answer():
    """The interpreter reads none then."""
    data = bytearray(parted("SPLIT", 4, 4))
    table = schema.Model.GetRootAs(data, 0).Subgraphs(0).Operators(0)._tab
    data[table.Pos + table.Offset(10)] = schema.BuiltinOptions.ReshapeOptions
    with pytest.raises(ValueError, match="SPLIT with 4 outputs says that it has 0"):
        check_operators(bytes(data))


def changed(data, change):
    model = load_objects(data)
    change(model, model.subgraphs[0])
    return save_objects(model)


def lack_first(model, graph):
    graph.operators[0].inputs = places(-1, *graph.operators[0].inputs[1:])


def lack_second(model, graph):
    graph.operators[0].inputs = places(graph.operators[0].inputs[0], -1, *graph.operators[0].inputs[2:])


def write_over_a_constant(model, graph):
    graph.operators[0].outputs = places(graph.operators[0].inputs[1])


def write_over_an_input(model, graph):
    graph.operators[0].outputs = places(graph.inputs[0])


def write_twice(model, graph):
    graph.operators[-1].outputs = places(graph.operators[0].outputs[0])


def unpack_to_another_shape(model, graph):
    graph.tensors[step_of(model, graph, "DENSIFY").outputs[0]].shape = places(32, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lack_first, "lacks an input that it needs"),
        (lack_second, "lacks an input that it needs"),
        (write_over_a_constant, "writes over tensor"),
        (write_over_an_input, "writes over tensor"),
        (write_twice, "writes over tensor"),
    ],
)
def test_what_an_interpreter_takes_for_granted_is_looked_at(cases, change, message):
    data = changed(cases["dense"].data, change)
    for reader in (check_operators, read_model, Runner):
        with pytest.raises(ValueError, match=message):
            reader(data)


def test_a_sparse_tensor_is_unpacked_into_its_own_shape(sparse):
    with pytest.raises(ValueError, match=r"DENSIFY makes a tensor of shape \[32, 0\] from one of"):
        Runner(changed(sparse, unpack_to_another_shape))


def lack_output(model, graph):
    graph.operators[0].outputs = places(-1)


def lack_input(model, graph):
    graph.inputs = places(*graph.inputs[1:], -1)


def give_too_much(model, graph):
    graph.outputs = places(len(graph.tensors))


def give_what_none_makes(model, graph):
    graph.operators = graph.operators[:-1]


def lack_graphs(model, graph):
    model.subgraphs = []


def lose_buffer_of_metadata(model, graph):
    model.metadata = [schema.MetadataT(name=b"x", buffer=len(model.buffers))]


def lose_graph_of_signature(model, graph):
    model.signatureDefs = [schema.SignatureDefT(signatureKey=b"x", inputs=[], outputs=[], subgraphIndex=1)]


def quantized(model):
    return next(one for one in model.subgraphs[0].tensors if one.type == schema.TensorType.INT8)


def move_zero(model, graph):
    quantized(model).quantization.zeroPoint = np.array([-129], np.int64)


def lose_scale(model, graph):
    quantized(model).quantization.scale = np.array([1e-40], np.float32)


def make_scale_zero(model, graph):
    quantized(model).quantization.scale = np.array([0], np.float32)


def have_no_scale(model, graph):
    graph.tensors[step_of(model, graph, "CONV_2D").outputs[0]].quantization = None


def give_real_numbers(model, graph):
    graph.tensors[step_of(model, graph, "CONV_2D").outputs[0]].type = schema.TensorType.FLOAT32


def put_scales_far_apart(model, graph):
    graph.tensors[step_of(model, graph, "FULLY_CONNECTED").outputs[0]].quantization.scale = np.array(
        [1e-9], np.float32
    )


def lose_inputs(model, graph):
    graph.operators[0].inputs = places()


def list_two_inputs_of_four(model, graph):
    step = step_of(model, graph, "CONV_2D")
    model.operatorCodes[step.opcodeIndex] = schema.OperatorCodeT(45, None, 1, schema.BuiltinOperator.STRIDED_SLICE)


def compare_different_types(model, graph):
    step = step_of(model, graph, "MEAN")
    model.operatorCodes[step.opcodeIndex] = schema.OperatorCodeT(0, None, 1, schema.BuiltinOperator.ADD)


def have_no_entries(model, graph):
    graph.tensors[step_of(model, graph, "MEAN").inputs[1]].shape = places(0)


def lose_outputs(model, graph):
    graph.operators[0].outputs = places()


def lack_last_input(model, graph):
    step = step_of(model, graph, "MEAN")
    step.inputs = places(*step.inputs[:-1], -1)


def stand_still(model, graph):
    step_of(model, graph, "CONV_2D").builtinOptions.strideW = 0


def grow(model, graph):
    graph.tensors[step_of(model, graph, "CONV_2D").outputs[0]].shape = places(2**15, 2**15, 1, 4)


def step_of(model, graph, name):
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    wanted = getattr(schema.BuiltinOperator, name)
    return next(step for step in graph.operators if codes[step.opcodeIndex] == wanted)


def make_scale_infinite(model, graph):
    quantized(model).quantization.scale = np.array([np.inf], np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lack_output, "lacks its output"),
        (lack_graphs, "holds no graph"),
        (lose_graph_of_signature, "starts at a graph that it does not have"),
        (lose_buffer_of_metadata, "metadata are in a buffer that it does not have"),
        (give_what_none_makes, "that no operator makes"),
        (lack_input, "a tensor that it has not"),
        (give_too_much, "a tensor that it has not"),
        (move_zero, "zero point outside -128 to 127"),
        (lose_scale, "not a number above zero"),
        (make_scale_infinite, "not a number above zero"),
        (make_scale_zero, "not a number above zero"),
        (have_no_scale, "computes with integers that have no scale"),
        (give_real_numbers, "makes real numbers from integers"),
        (put_scales_far_apart, "too far from each other"),
        (list_two_inputs_of_four, "lacks an input that it needs"),
        (compare_different_types, "takes numbers of different types"),
        (have_no_entries, r"a constant of shape \[0\] has values"),
        (lose_inputs, "lacks an input that it needs"),
        (lose_outputs, "lacks its output"),
        (lack_last_input, "lacks an input that it needs"),
        (stand_still, "has strides of 0"),
        (grow, "takes more than 536,870,912 bytes"),
    ],
)
def test_what_crashed_an_interpreter_is_refused(cases, change, message):
    with pytest.raises(ValueError, match=message):
        check_operators(changed(cases["int8"].data, change))


def test_sound_files_pass(cases, sparse):
    for data in [sparse, *(case.data for case in cases.values())]:
        check_operators(data)
