"""Files with sparse weights. The truth is what the dense file gives in another process, and the values themselves."""

import io
import zipfile
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from export_table import KINDS, convert, prune
from flipped import FLIPS, flipped
from hypothesis import given
from hypothesis import strategies as st
from tiers import in_test_ci

from tfprune.export.device.runner import Runner
from tfprune.export.device.verify import verify
from tfprune.export.file.document import load_objects, operator_code, save_objects
from tfprune.export.file.reader import read
from tfprune.export.rewriting.sparsify import _SPARSE_OVERHEAD_BYTES, _lower_versions, sparsify


@pytest.fixture(scope="session")
def made(exports):
    """Return a function that gives the inputs of a network and its file in a format."""
    return lambda name, kind: (exports(name, kind).inputs, exports(name, kind).data)


@pytest.fixture(scope="session")
def dense(made):
    """Return data for a file of two dense layers, the first with zeros in fours, and the file."""
    return made("blocks", "float32")


def outputs(data, inputs):
    outputs = Runner(data).predict(inputs)
    return outputs if isinstance(outputs, list) else [outputs]


def agree(sparse, dense, inputs, tolerance):
    """Run a file in a process of its own, and compare it with another."""
    report = verify(sparse, samples=inputs, expected=outputs(dense, inputs), tolerance=tolerance)
    assert report.passed, report
    return True


def widened(data):
    """Turn the 8-bit weights of operators that compute in float32 into float32 ones: the truth of dynamic files."""
    model, graphs = load_objects(data), read(data).subgraphs
    for graph, packed in zip(graphs, model.subgraphs, strict=True):
        for operator in graph.operators:
            if operator.name not in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
                continue
            activation, place = operator.inputs[:2]
            weight = packed.tensors[place]
            if graph.tensors[activation].dtype != "float32" or weight.type != schema.TensorType.INT8:
                continue
            quantization = weight.quantization
            values = model.buffers[weight.buffer].data.view(np.int8).reshape(weight.shape)
            along = [1] * values.ndim
            along[quantization.quantizedDimension] = -1
            scale = quantization.scale if len(quantization.scale) == 1 else quantization.scale.reshape(along)
            real = (values * scale).astype(np.float32)
            model.buffers.append(schema.BufferT(data=real.ravel().view(np.uint8)))
            weight.buffer, weight.type, weight.quantization = len(model.buffers) - 1, schema.TensorType.FLOAT32, None
    return save_objects(model)


# The 8-bit words have nothing that may be sparse: an embedding whose zero is another number, and dense layers.
CASES = [("image", kind) for kind in KINDS] + [("words", "float32"), ("words", "dynamic"), ("steps", "float32")]


OF_KERNELS = [in_test_ci(case) if case[1] == "float16" else case for case in CASES if case[1] != "dynamic"]


@pytest.mark.parametrize(("name", "kind"), OF_KERNELS)
def test_outputs_are_those_of_the_dense_file(made, name, kind):
    inputs, data = made(name, kind)
    result = sparsify(data)
    assert "csr" in {row.form for row in result.rows}
    assert agree(result.data, data, inputs, 0 if kind == "int8" else 1e-6)


@pytest.mark.parametrize("name", ["image", "words", "steps"])
def test_eight_bit_weights_of_float_operators_mean_what_they_say(made, name):
    inputs, data = made(name, "dynamic")
    result = sparsify(data)
    assert result.bytes < 0.75 * len(data)
    assert agree(result.data, widened(data), inputs, 1e-6)


def test_a_graph_of_eight_bit_weights_becomes_float_altogether(made):
    _, data = made("image", "dynamic")
    graph = read(sparsify(data).data).subgraphs[0]
    weights = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    kinds = [graph.tensors[step.inputs[1]].dtype for step in graph.operators if step.name in weights]
    assert len(kinds) >= 5
    assert set(kinds) == {"float32"}


def fully_connected(data):
    """Return the versions that a file asks for, and the types of the weights."""
    model, kind = load_objects(data), schema.BuiltinOperator.FULLY_CONNECTED
    places = [place for place, code in enumerate(model.operatorCodes) if code.builtinCode == kind]
    weights = {
        graph.tensors[operator.inputs[1]].type
        for graph in model.subgraphs
        for operator in graph.operators
        if operator.opcodeIndex in places
    }
    return [model.operatorCodes[place].version for place in places], weights


def test_a_file_whose_weights_became_float_runs_on_interpreters_that_know_no_newer_operator(made):
    """tflite-runtime 2.14 has FULLY_CONNECTED up to version 10; 12 is for 8-bit weights with several scales."""
    _, data = made("words", "dynamic")
    assert fully_connected(data) == ([12], {schema.TensorType.INT8})
    assert fully_connected(sparsify(data).data) == ([10], {schema.TensorType.FLOAT32})
    dense = load_objects(data)
    _lower_versions(dense)
    assert fully_connected(save_objects(dense)) == fully_connected(data)


def test_an_eight_bit_weight_that_is_an_output_keeps_its_type(made):
    _, data = made("image", "dynamic")
    for graph in read(sparsify(changed(data, an_output)).data).subgraphs:
        assert [graph.tensors[place].dtype for place in graph.outputs] == ["float32", "int8"]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_twice_changes_nothing_and_the_same_file_gives_the_same_bytes(made, name, kind):
    _, data = made(name, kind)
    first = sparsify(data)
    assert sparsify(data).data == first.data
    again = sparsify(first.data)
    assert again.data == first.data
    assert not {row.form for row in again.rows} - {"dense"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_comes_back_where_no_delegate_unpacks_it(made, kind):
    inputs, data = made("image", kind)
    result = sparsify(data)
    model, graph = load_objects(result.data), read(result.data).subgraphs[0]
    kernels = {tensor.name: tensor for tensor in load_objects(data).subgraphs[0].tensors}
    interpreter = Interpreter(
        model_content=result.data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs[:1])
    interpreter.invoke()
    unpacked = [step for step in graph.operators if step.name == "DENSIFY"]
    assert len(unpacked) >= 4
    dense = load_objects(data)
    for step in unpacked:
        sparse, place = model.subgraphs[0].tensors[step.inputs[0]], step.outputs[0]
        kernel = kernels[sparse.name]
        values = dense.buffers[kernel.buffer].data.view(graph.tensors[place].dtype)
        np.testing.assert_array_equal(interpreter.get_tensor(place).ravel(), values)
    with_delegate = outputs(data, inputs[:1])[0]
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, with_delegate, atol=np.abs(with_delegate).max() * 0.05)


def test_another_batch_after_the_first_gives_right_outputs(made):
    inputs, data = made("words", "float32")
    dense, sparse = Runner(data), Runner(sparsify(data).data)
    for rows in (3, 1, 2):
        for found, expected in zip(sparse.predict(inputs[:rows]), dense.predict(inputs[:rows]), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_blocks_go_to_their_kernel_as_they_are(dense):
    inputs, data = dense
    result = sparsify(data)
    assert {row.shape: row.form for row in result.rows} == {(128, 256): "block", (20, 128): "dense"}
    assert read(result.data).ops == {"FULLY_CONNECTED": 2}
    assert agree(result.data, data, inputs, 1e-6)
    unpacked = sparsify(data, forms=("csr",))
    assert {row.form for row in unpacked.rows} == {"csr", "dense"}
    assert read(unpacked.data).ops == {"DENSIFY": 1, "FULLY_CONNECTED": 2}
    assert agree(unpacked.data, data, inputs, 1e-6)


def test_what_is_not_smaller_sparse_or_has_few_zeros_stays_dense(dense):
    _, data = dense
    full = next(row for row in sparsify(data).rows if row.shape == (20, 128))
    assert (full.form, full.bytes, full.dense_bytes) == ("dense", 20 * 128 * 4, 20 * 128 * 4)
    assert full.reason.startswith("sparse it takes")
    result = sparsify(data, min_sparsity=0.95)
    assert result.data == data
    assert {row.reason for row in result.rows} == {"it has fewer zeros than min_sparsity=0.95"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_shrinks_by_what_the_rows_say(made, kind):
    _, data = made("image", kind)
    result = sparsify(data)
    stored = [row for row in result.rows if row.form != "dense"]
    saved = sum(row.dense_bytes - row.bytes for row in stored)
    operators = len(save_objects(load_objects(data))) - saved - len(result.data)
    assert result.bytes == len(result.data) < result.bytes_before == len(data)
    assert -_SPARSE_OVERHEAD_BYTES * 2 * len(result.rows) < operators < 200
    table = str(result)
    assert f"{len(data):,}" in table
    assert all(row.name in table for row in result.rows)
    assert result.as_dict()["rows"][0]["form"] == result.rows[0].form


def test_the_stock_converter_s_sparse_tensors_are_left_as_they_are():
    import keras
    import tensorflow as tf

    model = prune(keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)]))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    data = converter.convert()
    assert any(tensor.sparse for tensor in read(data).subgraphs[0].tensors)
    assert sparsify(data).data == data


# Files that others wrote


def changed(data, change):
    """Return a file after `change(model, first graph, its kernel with zeros)`."""
    model = load_objects(data)
    graph = model.subgraphs[0]
    kernel = max(range(len(graph.tensors)), key=lambda place: int(np.prod(graph.tensors[place].shape)))
    change(model, graph, kernel)
    return save_objects(model)


def an_output(model, graph, kernel):
    graph.outputs = np.array([*graph.outputs, kernel], np.int32)


def held_by_another(model, graph, kernel):
    values = graph.tensors[kernel]
    graph.tensors.append(schema.TensorT(shape=values.shape[::-1], buffer=values.buffer, name=b"other"))


def held_by_metadata(model, graph, kernel):
    model.metadata = [*(model.metadata or []), schema.MetadataT(name=b"mine", buffer=graph.tensors[kernel].buffer)]


def numbered(model, graph, kernel):
    model.metadata = [*(model.metadata or []), schema.MetadataT(name=b"model_control_dependencies", buffer=0)]


def unknown(model, graph, kernel):
    code = schema.OperatorCodeT(builtinCode=32, deprecatedBuiltinCode=32, customCode=b"MyOp", version=1)
    model.operatorCodes.append(code)
    place = len(model.operatorCodes) - 1
    inputs, found = np.array([kernel], np.int32), np.array([len(graph.tensors)], np.int32)
    graph.tensors.append(schema.TensorT(shape=np.array([1], np.int32), name=b"out"))
    graph.operators.append(schema.OperatorT(opcodeIndex=place, inputs=inputs, outputs=found))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (an_output, "it is an input or output of its graph"),
        (held_by_another, "it shares its values with a tensor that stays dense"),
        (held_by_metadata, "it shares its values with a tensor that stays dense"),
        (numbered, "the file names its operators by number"),
        (unknown, "MyOp may need a constant there"),
    ],
)
def test_values_that_something_else_needs_stay_dense(dense, change, reason):
    data = changed(dense[1], change)
    result = sparsify(data)
    assert result.data == data
    assert next(row for row in result.rows if row.shape == (128, 256)).reason == reason


def test_zeros_that_are_stored_as_other_numbers_stay_dense(made):
    _, data = made("image", "int8")

    def shift(model, graph, _):
        for tensor in graph.tensors:
            if tensor.quantization is not None and tensor.quantization.zeroPoint is not None:
                tensor.quantization.zeroPoint = tensor.quantization.zeroPoint + 1

    rows = sparsify(changed(data, shift)).rows
    assert Counter(row.form for row in rows) == {"dense": len(rows)}
    assert "its zeros are not stored as 0" in {row.reason for row in rows}


def test_tensors_with_the_same_values_share_them_still(dense):
    """The first layer twice, as another tensor with the same buffer."""
    inputs, data = dense

    def twice(model, graph, kernel):
        first = graph.tensors[kernel]
        graph.tensors.append(schema.TensorT(shape=first.shape, buffer=first.buffer, name=b"again"))
        added = schema.TensorT(shape=np.array([1, 128], np.int32), shapeSignature=np.array([-1, 128], np.int32))
        graph.tensors.append(added)
        step = next(step for step in graph.operators if kernel in step.inputs)
        again, output = np.array(step.inputs), np.array([len(graph.tensors) - 1], np.int32)
        again[1] = len(graph.tensors) - 2
        copy = schema.OperatorT(step.opcodeIndex, again, output, step.builtinOptionsType, step.builtinOptions)
        graph.operators.append(copy)
        graph.outputs = np.array([*graph.outputs, *output], np.int32)
        model.signatureDefs = None

    double = changed(data, twice)
    for forms in (("csr",), ("block",)):
        result = sparsify(double, forms=forms)
        single = sparsify(data, forms=forms)
        row = next(row for row in single.rows if row.form != "dense")
        places = row.bytes - 4 * round((1 - row.sparsity) * 128 * 256)
        assert len(result.data) < len(single.data) + places + 2 * _SPARSE_OVERHEAD_BYTES + 700  # and the copy
        assert [other.bytes for other in result.rows if other.form != "dense"] == [row.bytes + places]
        assert agree(result.data, double, inputs, 1e-6)


def test_signatures_metadata_and_names_survive(made):
    _, data = made("words", "float32")

    def described(model, graph, _):
        model.buffers.append(schema.BufferT(data=np.frombuffer(b"some notes", np.uint8)))
        model.metadata = [*model.metadata, schema.MetadataT(name=b"notes", buffer=len(model.buffers) - 1)]
        model.description = b"mine"

    data = changed(data, described)
    before, after = load_objects(data), load_objects(sparsify(data).data)
    assert after.description == b"mine"
    contents = {entry.name: bytes(after.buffers[entry.buffer].data) for entry in after.metadata}
    assert contents == {entry.name: bytes(before.buffers[entry.buffer].data) for entry in before.metadata}
    assert contents[b"notes"] == b"some notes"
    old, new = Runner(data), Runner(save_objects(after))
    assert (old.inputs, old.outputs) == (new.inputs, new.outputs)
    names = {tensor.name for tensor in read(data).subgraphs[0].tensors}
    assert names <= {tensor.name for tensor in read(save_objects(after)).subgraphs[0].tensors}


def test_variables_keep_their_state():
    """A sum over calls, in a resource that another graph initializes, times a kernel with zeros."""
    import tensorflow as tf

    random = np.random.default_rng(2)
    kernel = (random.normal(size=(64, 64)) * (random.random((64, 64)) > 0.9)).astype(np.float32)

    class Counting(tf.Module):
        def __init__(self):
            super().__init__()
            self.sum = tf.Variable(tf.zeros((1, 64)))

        @tf.function(input_signature=[tf.TensorSpec((1, 64))])
        def call(self, x):
            self.sum.assign_add(x)
            return tf.matmul(self.sum, kernel)

    counting = Counting()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([counting.call.get_concrete_function()], counting)
    converter.experimental_enable_resource_variables = True
    result = sparsify(converter.convert())
    assert {row.shape: row.form for row in result.rows} == {(64, 64): "csr", (1, 64): "dense"}
    assert {"CALL_ONCE", "VAR_HANDLE", "DENSIFY"} <= {*read(result.data).ops}
    runner = Runner(result.data)
    inputs = random.normal(size=(3, 1, 64)).astype(np.float32)
    for sum_, x in zip(np.cumsum(inputs, axis=0), inputs, strict=True):
        np.testing.assert_allclose(runner.predict(x), sum_ @ kernel, rtol=1e-5, atol=1e-5)


def test_operators_without_inputs_are_left_alone(dense):
    def handle(model, graph, kernel):
        place = operator_code(model, schema.BuiltinOperator.VAR_HANDLE)
        graph.tensors.append(schema.TensorT(type=schema.TensorType.RESOURCE, name=b"handle"))
        graph.operators.insert(0, schema.OperatorT(place, outputs=np.array([len(graph.tensors) - 1], np.int32)))

    result = sparsify(changed(dense[1], handle), forms=("csr",))
    names = [step.name for step in read(result.data).subgraphs[0].operators]
    assert names == ["VAR_HANDLE", "DENSIFY", "FULLY_CONNECTED", "FULLY_CONNECTED"]


def test_labels_behind_a_file_stay_there(dense):
    stream = io.BytesIO(dense[1])
    with zipfile.ZipFile(stream, mode="a") as archive:  # as TFLite's metadata tools do
        archive.writestr("labels.txt", "cat\ndog\n")
    moved = sparsify(stream.getvalue()).data
    assert moved.startswith(sparsify(dense[1]).data)
    with zipfile.ZipFile(io.BytesIO(moved)) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"
    assert agree(moved, dense[1], dense[0], 1e-6)


def test_operators_stay_in_an_order_that_runs(made):
    for name, kind in CASES:
        for graph in read(sparsify(made(name, kind)[1]).data).subgraphs:
            ready = {place for place, tensor in enumerate(graph.tensors) if tensor.constant} | {*graph.inputs, -1}
            for step in graph.operators:
                assert {*step.inputs} <= ready
                assert not {*step.outputs} & ready
                ready |= {*step.outputs}


def test_no_weight_is_sparse_where_xnnpack_would_fail_on_arm():
    """A 1x1 convolution after the pool, counted with kernels that XNNPACK takes: ARM refuses to load the file."""
    import keras
    from keras import layers

    image = keras.Input((16, 16, 3), batch_size=1)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(layers.ZeroPadding2D(1)(image))
    x = layers.Conv2D(64, 1, activation="relu")(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    data = convert(prune(keras.Model(image, layers.Reshape((64,))(layers.Conv2D(64, 1)(pooled)))))
    result = sparsify(data)
    assert result.data == data
    assert any("XNNPACK fails on ARM" in row.reason for row in result.rows)
    safe = convert(prune(keras.Model(image, layers.Dense(64)(layers.Flatten()(pooled)))))
    assert "csr" in {row.form for row in sparsify(safe).rows}


# Bad input


@pytest.mark.parametrize("forms", [(), ("coo",), ("csr", "coo")])
def test_unknown_forms_are_refused(dense, forms):
    with pytest.raises(ValueError, match=r"Expected `forms` to name one or more of \['csr', 'block', 'pointwise'\]"):
        sparsify(dense[1], forms=forms)


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_least_sparsity_out_of_range_is_refused(dense, least):
    error = ValueError if isinstance(least, float) else TypeError
    with pytest.raises(error, match="Expected `min_sparsity` to be a number from 0 to 1"):
        sparsify(dense[1], min_sparsity=least)


def test_what_is_no_whole_tflite_file_is_refused(dense):
    for data in (b"", b"TFL3" * 9, dense[1][:1000], dense[1][: len(dense[1]) // 2]):
        with pytest.raises(ValueError, match="Expected a"):
            sparsify(data)


@given(flips=FLIPS, name=st.sampled_from(["dense", "int8", "tokens"]))
def test_flipped_bits_give_a_file_or_a_value_error(cases, flips, name):
    data = flipped(cases[name].data, flips)
    with suppress(ValueError):
        read(sparsify(data).data)
