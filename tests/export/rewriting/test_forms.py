"""Forms of a file: each is run in its own process, and the best of those that are right is taken."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.export.device.runner import Runner
from tfprune.export.file.container import encode
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.rewrite import Check, FileForm, candidate_files, choose, write_choice

WIDTH = 1024  # the smallest at which the stock converter's sparse file was seen to crash


@pytest.fixture(scope="module")
def network():
    """Two layers whose zeros come in blocks of 16 inputs, on which the stock converter's sparse mode fails."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(WIDTH, activation="relu"), keras.layers.Dense(WIDTH)]
    model = tfprune.wrap(keras.Sequential([keras.Input((WIDTH,)), *layers]), pattern=tfprune.patterns.Block(1, 16))
    tfprune.update_masks(model, 0.9)
    return tfprune.strip(model)


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).random((4, WIDTH), dtype="float32")


@pytest.fixture(scope="module")
def expected(network, inputs):
    return network.predict(inputs, verbose=0)


@pytest.fixture(scope="module")
def dense(network):
    return convert(network)


@pytest.fixture(scope="module")
def crashing(network, tmp_path_factory):
    """What the stock converter writes with its experimental sparsity: a file that takes the interpreter down."""
    folder = str(tmp_path_factory.mktemp("stock"))
    network.export(folder, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return converter.convert()


def take(candidates, inputs, expected, *, tolerance=1e-4, optimize="size", compress=None):
    check = Check(expected, tolerance, "Try this.")
    return choose(candidates, inputs=inputs, check=check, optimize=optimize, compress=compress)


@pytest.mark.programs
def test_a_form_that_crashes_is_listed_with_the_reason_and_another_is_taken(dense, crashing, inputs, expected):
    choice = take([FileForm("stock", ModelFile(crashing)), FileForm("dense", ModelFile(dense))], inputs, expected)
    stock, taken = choice.candidates
    assert not stock.verified
    # Its kernel reads beyond the weights: most often a crash, and other numbers where that memory is readable.
    assert re.match(r"killed by SIGSEGV|output .* differs by up to", stock.reason)
    assert (taken.verified, taken.reason) == (True, "")
    assert choice.packed == choice.form.file.content == dense
    assert len(crashing) < len(dense)  # size alone would have taken it


def test_only_wrong_forms_are_refused_with_the_reason_and_what_to_try(dense, inputs, expected):
    with pytest.raises(ValueError, match=r"differs by up to .*Nothing was written\. Try this\."):
        take([FileForm("dense", ModelFile(dense))], inputs, expected + 1)


@pytest.mark.programs
def test_the_smallest_form_as_written_is_taken(dense, inputs, expected):
    candidates = candidate_files(ModelFile(dense), name="float32", optimize="size")
    for compress in (None, "gzip"):
        choice = take(candidates, inputs, expected, compress=compress)
        sizes = {form.name: len(encode(form.file.content, compress)) for form in candidates}
        assert len(choice.packed) == min(sizes.values())
        assert {row.name: row.packed_bytes for row in choice.candidates} == sizes
        assert sorted(row.reason == "" for row in choice.candidates) == [False] * (len(sizes) - 1) + [True]


def test_for_latency_the_form_with_kernels_for_its_blocks_is_taken(dense, inputs, expected, tmp_path):
    candidates = candidate_files(ModelFile(dense), name="float32", optimize="size")
    choice = take(candidates, inputs, expected, optimize="latency")
    assert choice.form.name == "float32, sparse in blocks"
    np.testing.assert_allclose(Runner(choice.packed).predict(inputs), expected, atol=1e-5)
    (slower,) = [row for row in choice.candidates if row.name == "float32"]
    assert slower.reason.startswith("reaches dense kernels; the chosen file reaches kernels for blocks (")
    report = write_choice(
        tmp_path / "net.tflite", choice, source="net.tflite", weights=ModelFile(dense).graph.weights
    )
    assert (tmp_path / "net.tflite").read_bytes() == choice.packed
    assert "kernels for blocks (TFLite's own kernels in ai-edge-litert 2.3, on any processor)" in str(report)


def test_forms_differ_and_are_the_same_each_time(dense):
    files = candidate_files(ModelFile(dense), name="float32", optimize="size")
    assert [form.name for form in files] == ["float32", "float32, sparse", "float32, sparse in blocks"]
    assert len({form.file.content for form in files}) == 3
    assert files == candidate_files(ModelFile(dense), name="float32", optimize="size")
    assert candidate_files(ModelFile(dense), name="float32", optimize="dense") == files[:1]
    assert candidate_files(ModelFile(dense), name="float32", optimize="sparse") == files[1:]


def test_a_file_without_zeros_has_no_sparse_form():
    keras.utils.set_random_seed(0)
    content = convert(keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)]))
    assert [form.name for form in candidate_files(ModelFile(content), name="float32", optimize="size")] == ["float32"]
    with pytest.raises(ValueError, match=r"optimize='sparse'. Received: none\. Prune the model first"):
        candidate_files(ModelFile(content), name="float32", optimize="sparse")


@pytest.fixture(scope="module")
def integers():
    """An int8 file of layers with zeros, and inputs for it."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(96, activation="sigmoid", bias_initializer="random_uniform"),
    ]
    model = tfprune.wrap(keras.Sequential([keras.Input((128,)), *layers]))
    tfprune.update_masks(model, 0.9)
    samples = np.random.default_rng(0).random((8, 128), dtype="float32")
    return convert(tfprune.strip(model), quantize="int8", calibration=samples), samples


def test_eight_bit_layers_become_sparse_as_convolutions_that_give_the_same(integers):
    content, samples = integers
    for optimize in ("size", "sparse"):
        files = candidate_files(ModelFile(content), name="int8", optimize=optimize)
        choice = take(files, samples, Runner(content).predict(samples), tolerance=0)
        assert choice.form.name == "int8, sparse as 1x1 convolutions"
        assert len(choice.packed) < 0.5 * len(content)
        np.testing.assert_array_equal(Runner(choice.packed).predict(samples), Runner(content).predict(samples))


def test_a_form_that_is_nearly_its_twin_is_not_taken(integers):
    content, samples = integers
    expected = Runner(content).predict(samples)
    model = load_objects(content)
    (bias,) = (tensor for tensor in model.subgraphs[0].tensors if tensor.type == 2 and tensor.shape.tolist() == [96])
    model.buffers[bias.buffer].data = (model.buffers[bias.buffer].data.view("<i4") + 200).view(np.uint8)
    other = FileForm("moved", ModelFile(save_objects(model)), bitwise_reference=ModelFile(content))
    choice = take([other, FileForm("int8", ModelFile(content))], samples, expected, tolerance=0.5)
    assert choice.form.name == "int8"
    assert re.match("it should give the same as fully connected layers: .* differs", choice.candidates[0].reason)
