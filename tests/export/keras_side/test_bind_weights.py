"""Weights that files get after the conversion: arrangements against NumPy, and products against einsum."""

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.export import Runner
from tfprune.export.file import schema
from tfprune.export.file.container import write_model
from tfprune.export.file.reader import read
from tfprune.export.keras_side.language_model import _ArrangedWeight, bind_weights


def stored(values):
    return _ArrangedWeight("weight", values.shape, values)


@pytest.mark.parametrize("seed", range(20))
def test_arranged_as_numpy_does(seed):
    random = np.random.default_rng(seed)
    values = expected = random.normal(size=(2, 3, 4)).astype(np.float32)
    weight = stored(values)
    for _ in range(6):
        if random.random() < 0.5:
            axes = tuple(random.permutation(expected.ndim).tolist())
            weight, expected = weight.transposed(axes), expected.transpose(axes)
        else:
            shape = ((2, 3, 4), (6, 4), (4, 6), (24,), (1, 24))[random.integers(5)]
            weight, expected = weight.reshaped(shape), expected.reshape(shape)
        assert weight.shape == expected.shape and weight.nbytes == values.nbytes
        np.testing.assert_array_equal(np.asarray(weight), expected)


def test_what_cancels_out_is_the_weight_itself():
    weight = stored(np.zeros((2, 3, 4), np.float32))
    turned = weight.transposed((1, 2, 0))
    assert turned != weight and turned.transposed((2, 0, 1)) == weight
    assert weight.reshaped((6, 4)).reshaped((2, 3, 4)) == weight
    assert turned.reshaped((12, 2)).reshaped((3, 4, 2)) == turned
    assert np.shares_memory(np.asarray(turned), weight.values)


def signed(file, *, inputs):
    """Give a file a signature."""
    file.graph.inputs = np.array([*inputs.values()], np.int32)
    entries = [schema.TensorMapT(name=name.encode(), tensorIndex=index) for name, index in inputs.items()]
    outputs = [schema.TensorMapT(name=b"y", tensorIndex=int(file.graph.outputs[0]))]
    signature = schema.SignatureDefT(signatureKey=b"serving_default", inputs=entries, outputs=outputs)
    signature.subgraphIndex = 0
    file.model.signatureDefs = [signature]


def product(file, x, weight, shape, **options):
    return file.operator("BATCH_MATMUL", [x, weight], shape, kind="BatchMatMulOptions", **options)


def transposed(file, weight, shape, *axes):
    return file.operator("TRANSPOSE", [weight, file.integers(*axes)], shape, kind="TransposeOptions")


def bound(file, weights, path):
    bind_weights(file.model, weights)
    write_model(file.model, path)
    return path.read_bytes()


@pytest.mark.parametrize("activation", [0, 1])
def test_a_product_with_heads_and_a_bias(activation, tmp_path):
    """As EinsumDense("btd,ndh->btnh") is converted: a kernel turned and flattened, a bias behind a reshape."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 5, 4)).astype(np.float32)
    kernel, bias = (random.normal(size=shape).astype(np.float32) for shape in ((2, 4, 3), (2, 3)))
    file = FileGraph(0, shape=x.shape)
    inputs = {"x": file.input, "kernel": file._tensor(kernel.shape), "bias": file._tensor(bias.shape)}
    turned = transposed(file, inputs["kernel"], (4, 2, 3), 1, 0, 2)
    flat = product(file, file.input, file.reshape(turned, 4, 6), (1, 5, 6))
    heads = file.reshape(flat, 1, 5, 2, 3)
    options = {"kind": "AddOptions", "fusedActivationFunction": activation}
    file.content(file.operator("ADD", [heads, inputs["bias"]], (1, 5, 2, 3), **options))
    signed(file, inputs=inputs)
    data = bound(file, {"kernel": kernel, "bias": bias}, tmp_path / "model.tflite")
    assert read(data).ops == {"FULLY_CONNECTED": 1, "RESHAPE": 1}
    assert [each.name for each in read(data).inputs] == ["x"]
    expected = np.einsum("btd,ndh->btnh", x, kernel) + bias
    expected = np.maximum(expected, 0) if activation else expected
    np.testing.assert_allclose(Runner(data).predict(x), expected, rtol=1e-5, atol=1e-6)


def test_a_table_for_looking_up_and_for_scores_is_one(tmp_path):
    random = np.random.default_rng(0)
    table, ids = random.normal(size=(9, 4)).astype(np.float32), np.array([[3, 8]], np.int32)
    file = FileGraph(0, shape=ids.shape)
    file.graph.tensors[file.input].type = schema.TensorType.INT32
    inputs = {"x": file.input, "table": file._tensor(table.shape)}
    rows = file.operator("GATHER", [inputs["table"], file.input], (1, 2, 4), kind="GatherOptions")
    file.content(product(file, rows, transposed(file, inputs["table"], (4, 9), 1, 0), (1, 2, 9)))
    signed(file, inputs=inputs)
    data = bound(file, {"table": table}, tmp_path / "model.tflite")
    assert len(read(data).weights) == 1 and read(data).ops == {"GATHER": 1, "FULLY_CONNECTED": 1}
    np.testing.assert_allclose(Runner(data).predict(ids), table[ids] @ table.T, rtol=1e-5, atol=1e-6)


def test_experts_stay_a_product_of_batches_and_a_shared_sum_stays_a_sum(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 4)).astype(np.float32)
    experts, matrix = (random.normal(size=shape).astype(np.float32) for shape in ((2, 4, 3), (3, 4)))
    bias = random.normal(size=(4,)).astype(np.float32)
    file = FileGraph(0, shape=x.shape)
    inputs = {"x": file.input, "experts": file._tensor(experts.shape), "matrix": file._tensor(matrix.shape)}
    first = product(file, file.input, inputs["experts"], (2, 5, 3))
    second = product(file, first, inputs["matrix"], (2, 5, 4))
    shifted = file.binary("ADD", second, file.constant(bias))
    file.content(file.binary("MUL", second, shifted))
    signed(file, inputs=inputs)
    data = bound(file, {"experts": experts, "matrix": matrix}, tmp_path / "model.tflite")
    assert read(data).ops == {"BATCH_MATMUL": 1, "FULLY_CONNECTED": 1, "ADD": 1, "MUL": 1}
    products = x @ experts @ matrix
    np.testing.assert_allclose(Runner(data).predict(x), products * (products + bias), rtol=1e-5, atol=1e-5)
