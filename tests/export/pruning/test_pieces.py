"""Pieces of a file give what the whole file gives, and operators are the matrices that they are read as."""

import numpy as np
import pytest
from tiers import first

from tfprune.export.device.runner import Runner
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, operator_code
from tfprune.export.pruning.layers import _linear_operators
from tfprune.export.pruning.pieces import LiveTensors, PieceRunner, Pieces, StoredWeight, read_bias


def every(count):
    return np.arange(count)


@pytest.mark.parametrize(
    "name, kind",
    first(("image", "int8"), ("words", "float32"), ("image", "float32"), ("image", "float16"), count=2),
)
def test_pieces_give_what_the_whole_file_gives(exports, tmp_path, name, kind):
    export = exports(name, kind)
    pieces = Pieces(load_objects(export.data))
    (index,) = pieces.inputs
    runs = [{index: sample[None]} for sample in np.asarray(export.inputs)]
    live = LiveTensors(pieces, runs, folder=tmp_path)
    whole = PieceRunner(pieces.cut(0, len(pieces.steps)))
    for step in range(len(pieces.steps) + 1):
        live.advance(step)
    for number, run in enumerate(runs):
        expected = whole.run(run)
        assert set(expected) == set(pieces.outputs)
        for output in pieces.outputs:
            np.testing.assert_array_equal(live.get(number, output), expected[output])


def test_tensors_beyond_the_limit_lie_in_files_until_they_are_not_needed(exports, tmp_path, monkeypatch):
    monkeypatch.setattr("tfprune.export.pruning.pieces._BYTES_IN_MEMORY", 5000)
    export = exports("image", "float32")
    pieces = Pieces(load_objects(export.data))
    live = LiveTensors(pieces, [{pieces.inputs[0]: sample[None]} for sample in export.inputs], folder=tmp_path)
    assert list(tmp_path.iterdir())
    live.advance(len(pieces.steps))
    expected = Runner(export.data).predict(export.inputs)
    outputs = [live.get(run, pieces.outputs[0])[0] for run in range(len(live))]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["image", "unpruned", "blocks"])
def test_rows_times_the_matrix_are_the_outputs_of_the_operator(exports, tmp_path, name):
    export = exports(name, "float32")
    pieces = Pieces(load_objects(export.data))
    operators, _ = _linear_operators(pieces)
    assert operators
    live = LiveTensors(pieces, [{pieces.inputs[0]: np.asarray(export.inputs)[:1]}], folder=tmp_path)
    for operator in operators:
        step = pieces.steps[operator.step]
        if step.builtinOptions is not None and hasattr(step.builtinOptions, "fusedActivationFunction"):
            step.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
    for operator in operators:
        live.advance(operator.step)
        step, tensor = pieces.steps[operator.step], pieces.graph.tensors[operator.weight]
        weight = StoredWeight.of(tensor).read(pieces.model.buffers[tensor.buffer])
        bias = 0.0
        if operator.bias_place >= 0:
            bias = read_bias(pieces.model, pieces.graph.tensors[step.inputs[operator.bias_place]])
        matrices = operator.to_matrix(weight)
        np.testing.assert_array_equal(operator.from_matrix(matrices, weight.shape), weight)
        rows = operator.rows(live.get(0, operator.activation), every)
        gates = np.concatenate([x @ matrix.T for x, matrix in zip(rows, matrices, strict=True)], axis=1) + bias
        live.advance(operator.step + 1)
        expected = live.get(0, int(step.outputs[0]))
        np.testing.assert_allclose(gates.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_transposed", [True, False])
def test_a_product_with_a_constant_matrix(exports, is_transposed):
    export = exports("blocks", "float32")
    model = load_objects(export.data)
    graph = model.subgraphs[0]
    layer = next(each for each in graph.operators if len(each.inputs) < 3 or each.inputs[2] < 0)
    tensor = graph.tensors[layer.inputs[1]]
    if not is_transposed:
        values = np.asarray(model.buffers[tensor.buffer].data).view("<f4").reshape(tensor.shape)
        model.buffers[tensor.buffer].data = np.ascontiguousarray(values.T).reshape(-1).view(np.uint8)
        tensor.shape = tensor.shape[::-1].copy()
    layer.opcodeIndex = operator_code(model, schema.BuiltinOperator.BATCH_MATMUL)
    layer.inputs = layer.inputs[:2]
    layer.builtinOptions = schema.BatchMatMulOptionsT()
    layer.builtinOptions.adjY = is_transposed
    layer.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
    pieces = Pieces(model)
    (operator,) = [each for each in _linear_operators(pieces)[0] if each.kind == "BATCH_MATMUL"]
    piece = pieces.cut(operator.step, operator.step + 1)
    x = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
    (made,) = PieceRunner(piece).run({operator.activation: x}).values()
    weight = StoredWeight.of(tensor).read(model.buffers[tensor.buffer])
    np.testing.assert_allclose(
        operator.rows(x, every)[0] @ operator.to_matrix(weight)[0].T, made, rtol=1e-4, atol=1e-4
    )
