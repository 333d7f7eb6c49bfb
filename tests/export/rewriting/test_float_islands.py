"""Float islands among 8-bit operators. The truth is NumPy, and what the interpreter says of both files."""

from __future__ import annotations

import numpy as np
import pytest
from after import after as file_after
from ai_edge_litert import schema_py_generated as schema

from tfprune.export.device.runner import Runner
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.rewriting import sparsify

KINDS, TYPES = schema.BuiltinOperator, schema.TensorType
SCALE = 0.25
VALUES = np.arange(-40, 40, dtype=np.int8).reshape(2, 40)[:, :8]


def join_islands(data):
    return file_after(data, sparsify.join_islands)


class Model:
    """A graph of 8-bit and float tensors, put together operator by operator."""

    def __init__(self, kind="SPLIT"):
        self.kind = kind
        self.model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()], metadata=[])
        self.graph = schema.SubGraphT(tensors=[], operators=[], inputs=[0], outputs=[])
        self.model.subgraphs = [self.graph]
        self.axis = self.tensor((), TYPES.INT32, values=np.int32(1))
        self.graph.inputs = [self.tensor((2, 8), TYPES.INT8)]

    def tensor(self, shape, kind, scale=SCALE, values=None):
        data = None if values is None else np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(schema.BufferT(data=data))
        tensor = schema.TensorT(
            shape=list(shape), type=kind, buffer=len(self.model.buffers) - 1, name=b"t%d" % len(self.graph.tensors)
        )
        if kind == TYPES.INT8:
            tensor.quantization = schema.QuantizationParametersT(scale=[scale], zeroPoint=[3])
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add(self, name, inputs, outputs, options=None):
        code = schema.OperatorCodeT(builtinCode=getattr(KINDS, name), version=2)
        code.deprecatedBuiltinCode = code.builtinCode
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT(opcodeIndex=len(self.model.operatorCodes) - 1, inputs=inputs, outputs=outputs)
        if options is not None:
            kind = type(options).__name__[:-1]
            operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.graph.operators.append(operator)
        return outputs[0]

    def move(self, source, kind):
        """Split a tensor, or take it apart, into several of a type."""
        if self.kind == "UNPACK":
            results = [self.tensor((2,), kind) for _ in range(8)]
            self.add("UNPACK", [source], results, schema.UnpackOptionsT(num=8, axis=1))
        elif self.kind == "SPLIT_V":
            results = [self.tensor((2, width), kind) for width in (1, 5, 2)]
            sizes = self.tensor((3,), TYPES.INT32, values=np.array([1, 5, 2], np.int32))
            self.add("SPLIT_V", [source, sizes, self.axis], results, schema.SplitVOptionsT(numSplits=3))
        else:
            results = [self.tensor((2, 2), kind) for _ in range(4)]
            self.add("SPLIT", [self.axis, source], results, schema.SplitOptionsT(numSplits=4))
        self.model.operatorCodes[-1].version = 1 if kind == TYPES.FLOAT32 else 2
        return results

    def island(self, scale=SCALE, order=(2, 0)):
        """Move values by way of float32; give those results back that are asked for, in this order."""
        self.floating = self.add("DEQUANTIZE", self.graph.inputs, [self.tensor((2, 8), TYPES.FLOAT32)])
        self.moved = self.move(self.floating, TYPES.FLOAT32)
        return {place: self.rounded(self.moved[place], scale) for place in order}

    def rounded(self, source, scale=SCALE):
        return self.add("QUANTIZE", [source], [self.tensor(self.graph.tensors[source].shape, TYPES.INT8, scale)])

    def bytes(self, *outputs):
        """Return the file; each output goes through an operator of its own."""
        self.graph.outputs = [
            self.add("DEQUANTIZE", [place], [self.tensor(self.graph.tensors[place].shape, TYPES.FLOAT32)])
            for place in outputs
        ]
        return save_objects(self.model)


def joined(kind="SPLIT"):
    """Return the file in which the values stay integers, written anew."""
    graph = Model(kind)
    moved = graph.move(graph.graph.inputs[0], TYPES.INT8)
    return join_islands(graph.bytes(moved[0], moved[2]))


def kinds(data):
    return [operator.name for operator in read(data).subgraphs[0].operators]


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_outputs_stay_the_same_bit_for_bit(kind):
    graph = Model(kind)
    results = graph.island()
    before = graph.bytes(results[0], results[2])
    after = join_islands(before)
    assert kinds(before) == ["DEQUANTIZE", kind, "QUANTIZE", "QUANTIZE", "DEQUANTIZE", "DEQUANTIZE"]
    assert kinds(after) == [kind, "DEQUANTIZE", "DEQUANTIZE"]
    real = (VALUES.astype(np.float32) - 3) * SCALE
    wanted = {
        "SPLIT": [real[:, :2], real[:, 4:6]],
        "SPLIT_V": [real[:, :1], real[:, 6:]],
        "UNPACK": [real[:, 0], real[:, 2]],
    }
    for data in (before, after):
        for output, expected in zip(Runner(data).predict(real), wanted[kind], strict=True):
            np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_files_with_and_without_an_island_become_the_same_bytes(kind):
    files = []
    for order in ((2, 0), (0, 2)):
        graph = Model(kind)
        graph.model.metadata.append(schema.MetadataT(name=b"CONVERSION_METADATA", buffer=1))
        results = graph.island(order=order)
        files.append(renamed(join_islands(graph.bytes(results[0], results[2]))))
    assert files[0] == files[1] == renamed(joined(kind))


def renamed(data):
    """Return the file with its tensors named by their places; those here are named as they were made."""
    model = load_objects(data)
    for place, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = b"%d" % place
    return save_objects(model)


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_an_input_is_quantized_before_it_is_split(kind):
    """Written after the split, before it, and before it in another order of operators: it is the same file."""
    files = []
    for early in (None, True, False):
        graph = Model(kind)
        floating = graph.graph.tensors[graph.graph.inputs[0]]
        floating.type, floating.quantization = TYPES.FLOAT32, None
        other = graph.tensor((2, 8), TYPES.FLOAT32)
        graph.graph.inputs = [*graph.graph.inputs, other]
        small = graph.rounded(other) if early is False else None
        if early is None:
            moved = graph.move(graph.graph.inputs[0], TYPES.FLOAT32)
            moved = [graph.rounded(moved[0]), moved[1], graph.rounded(moved[2])]
        else:
            moved = graph.move(graph.rounded(graph.graph.inputs[0]), TYPES.INT8)
        small = graph.rounded(other) if small is None else small
        files.append(graph.bytes(moved[0], moved[2], small))
    values = (VALUES.astype(np.float32) - 3) * SCALE
    wanted = Runner(files[0]).predict([values, values])
    joined = [join_islands(data) for data in files]
    assert kinds(joined[0]) == ["QUANTIZE", "QUANTIZE", kind, "DEQUANTIZE", "DEQUANTIZE", "DEQUANTIZE"]
    assert len({*map(renamed, joined)}) == 1
    for output, expected in zip(Runner(joined[0]).predict([values, values]), wanted, strict=True):
        np.testing.assert_array_equal(output, expected)


def test_integers_that_are_rounded_again_stay_as_they_are():
    graph = Model()
    moved = graph.move(graph.graph.inputs[0], TYPES.INT8)
    assert kinds(join_islands(graph.bytes(graph.rounded(moved[0], 2 * SCALE)))) == ["SPLIT", "QUANTIZE", "DEQUANTIZE"]


def test_constants_among_the_outputs_stay():
    graph = Model()
    constant = graph.tensor((2,), TYPES.FLOAT32, values=np.array([1, 2], np.float32))
    results = graph.island()
    graph.bytes(*results.values())
    graph.graph.outputs = [*graph.graph.outputs, constant]
    *_, output = Runner(join_islands(save_objects(graph.model))).predict(VALUES)
    np.testing.assert_array_equal(output, [1, 2])


def test_a_file_that_numbers_its_operators_stays_as_it_is():
    graph = Model()
    graph.model.metadata.append(schema.MetadataT(name=b"model_control_dependencies", buffer=1))
    data = graph.bytes(*graph.island().values())
    assert join_islands(data) is data


def test_a_second_time_changes_nothing():
    once = joined()
    assert join_islands(once) == once


def test_an_island_that_rounds_to_another_scale_stays():
    graph = Model()
    results = graph.island(scale=2 * SCALE)
    data = join_islands(graph.bytes(*results.values()))
    assert kinds(data).count("QUANTIZE") == 2


def test_an_island_that_rounds_around_another_zero_stays():
    graph = Model()
    results = graph.island()
    graph.graph.tensors[results[2]].quantization.zeroPoint = [4]
    assert kinds(join_islands(graph.bytes(*results.values()))).count("QUANTIZE") == 2


@pytest.mark.parametrize("floating", [True, False])
def test_an_island_with_an_output_of_the_model_stays(floating):
    graph = Model()
    results = graph.island()
    graph.bytes(results[0])
    graph.graph.outputs = [*graph.graph.outputs, graph.moved[2] if floating else results[2]]
    assert kinds(join_islands(save_objects(graph.model))).count("QUANTIZE") == 2


def test_quantized_inputs_are_numbered_as_the_inputs_stand():
    graph = Model()
    graph.graph.inputs = [graph.tensor((2, 8), TYPES.FLOAT32) for _ in range(3)]
    small = {number: graph.rounded(graph.graph.inputs[number]) for number in (2, 0, 1)}
    for number, place in enumerate(small.values()):
        graph.graph.tensors[place].name = b"tfl.quantize" + (b"%d" % number if number else b"")
    joined = load_objects(join_islands(graph.bytes(*small.values()))).subgraphs[0]
    names = [joined.tensors[operator.outputs[0]].name for operator in joined.operators[:3]]
    assert names == [b"tfl.quantize", b"tfl.quantize1", b"tfl.quantize2"]
    assert [operator.inputs[0] for operator in joined.operators[:3]] == joined.inputs.tolist()


def test_an_island_whose_float_results_are_taken_stays():
    graph = Model()
    results = graph.island()
    graph.add("TANH", [graph.moved[1]], [graph.tensor((2, 2), TYPES.FLOAT32)])
    assert kinds(join_islands(graph.bytes(*results.values()))).count("QUANTIZE") == 2


def test_a_float_tensor_that_others_take_is_made_all_the_same():
    graph = Model()
    results = graph.island()
    other = graph.add("TANH", [graph.floating], [graph.tensor((2, 8), TYPES.FLOAT32)])
    graph.bytes(*results.values())
    graph.graph.outputs = [*graph.graph.outputs, other]
    before = save_objects(graph.model)
    after = join_islands(before)
    assert kinds(after) == ["DEQUANTIZE", "SPLIT", "TANH", "DEQUANTIZE", "DEQUANTIZE"]
    for output, expected in zip(Runner(after).predict(VALUES), Runner(before).predict(VALUES), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_one_island_behind_another_is_joined_too():
    graph = Model()
    results = graph.island()
    floating = graph.add("DEQUANTIZE", [results[2]], [graph.tensor((2, 2), TYPES.FLOAT32)])
    parts = [graph.tensor((2, 1), TYPES.FLOAT32) for _ in range(2)]
    graph.add("SPLIT", [graph.axis, floating], parts, schema.SplitOptionsT(numSplits=2))
    before = graph.bytes(results[0], graph.rounded(parts[1]))
    after = join_islands(before)
    assert kinds(after) == ["SPLIT", "SPLIT", "DEQUANTIZE", "DEQUANTIZE"]
    for output, expected in zip(Runner(after).predict(VALUES), Runner(before).predict(VALUES), strict=True):
        np.testing.assert_array_equal(output, expected)


def test_names_of_a_signature_stay_with_their_tensors():
    graph = Model()
    results = graph.island()
    graph.bytes(*results.values())
    one, two = graph.graph.outputs
    signature = schema.SignatureDefT(signatureKey=b"serving_default", subgraphIndex=0)
    signature.inputs = [schema.TensorMapT(name=b"x", tensorIndex=graph.graph.inputs[0])]
    signature.outputs = [schema.TensorMapT(name=b"a", tensorIndex=two), schema.TensorMapT(name=b"b", tensorIndex=one)]
    graph.model.signatureDefs = [signature]
    before = save_objects(graph.model)
    after = Runner(join_islands(before)).predict({"x": VALUES})
    for name, expected in Runner(before).predict({"x": VALUES}).items():
        np.testing.assert_array_equal(after[name], expected)


def test_a_graph_without_operators_stays_one():
    graph = Model()
    graph.graph.outputs = graph.graph.inputs
    assert kinds(join_islands(save_objects(graph.model))) == []
