"""Files for the web: a fixed batch, the fastest kernels, and no dense 8-bit weights that compute in float32."""

import keras
import numpy as np
import pytest
from export_table import convert

import tfprune
from tfprune.export.device.runner import Runner
from tfprune.export.file.reader import read
from tfprune.export.keras_side.to_tflite import to_tflite
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.rewrite import read_target, rewrite

layers = keras.layers
X = np.random.default_rng(0).normal(size=(6, 64)).astype("float32")
REST = {"optimize": "size", "compress": None, "batch": None}


def dense_network(sparsity):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(64)])
    wrapped = tfprune.wrap(model)
    if sparsity:
        tfprune.update_masks(wrapped, sparsity)
    return tfprune.strip(wrapped)


@pytest.fixture(scope="module")
def images():
    """A network that sparse kernels run once it is made ready for them."""
    keras.utils.set_random_seed(0)
    stack = [
        layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2D(64, 1, activation="relu"),
        layers.Conv2D(64, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ]
    wrapped = tfprune.wrap(keras.Sequential([keras.Input((16, 16, 3)), *stack]))
    tfprune.update_masks(wrapped, 0.9)
    return tfprune.strip(wrapped)


@pytest.mark.programs
@pytest.mark.parametrize("quantize", [None, "dynamic"])
def test_the_web_gets_the_form_for_sparse_kernels(images, quantize, tmp_path):
    paths = {compress: tmp_path / f"web.{compress}" for compress in (None, "packed")}
    for compress, path in paths.items():
        report = to_tflite(images, path, target="web", quantize=quantize, compress=compress)
        assert report.sparse_inference.active
        assert ("dynamic" in [row.name for row in report.candidates]) is False
    x = np.random.default_rng(0).random((3, 16, 16, 3), "float32")
    runners = [Runner(path) for path in paths.values()]
    assert [runner.inputs[0].shape for runner in runners] == [(1, 16, 16, 3)] * 2
    np.testing.assert_array_equal(*(runner.predict(x) for runner in runners))


@pytest.mark.parametrize("source", ["model", "file"])
def test_dense_eight_bit_weights_that_compute_in_float32_are_refused_for_the_web(source, tmp_path):
    model, path = dense_network(0), tmp_path / "web.tflite"
    with pytest.raises(
        ValueError, match=r"zeros enough for a sparse form. Received: target='web'.*'float16', 'int8'"
    ):
        if source == "model":
            to_tflite(model, path, quantize="dynamic", target="web")
        else:
            rewrite(convert(model, "dynamic"), path, target="web")
    assert not list(tmp_path.iterdir())


def test_sparse_eight_bit_weights_compute_in_float32_for_the_web(tmp_path):
    content = convert(dense_network(0.9), "dynamic")
    report = rewrite(content, tmp_path / "web.tflite", target="web", check_on=X)
    assert [row.name for row in report.candidates] == ["batch of 1, sparse"]
    assert {"DENSIFY", "DEQUANTIZE"} <= {*report.ops}
    assert read((tmp_path / "web.tflite").read_bytes()).inputs[0].shape == (1, 64)


def test_the_batch_of_a_model_comes_into_all_forms_of_its_file(tmp_path):
    report = to_tflite(dense_network(0.9), tmp_path / "two.tflite", batch=2, check_on=X)
    assert len(report.candidates) > 1
    assert Runner(tmp_path / "two.tflite").inputs[0].shape == (2, 64)


@pytest.mark.programs
@pytest.mark.parametrize("batch", [1, 4])
def test_integers_are_calibrated_and_checked_with_the_batch(batch, tmp_path):
    report = to_tflite(dense_network(0.9), tmp_path / "m", batch=batch, quantize="int8", calibration=X, check_on=X)
    assert Runner(tmp_path / "m").inputs[0].shape == (batch, 64)
    assert report.max_abs_diff <= 0.35 * report.scale


@pytest.mark.programs
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_loops_have_the_batch_too(quantize, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 16)), layers.LSTM(8)])
    x = X.reshape(-1, 4, 16)
    calibration = None if quantize is None else x
    to_tflite(model, tmp_path / "m", batch=3, quantize=quantize, calibration=calibration, check_on=x)
    assert Runner(tmp_path / "m").inputs[0].shape == (3, 4, 16)


def test_the_batch_of_the_keras_model_is_not_changed(tmp_path):
    model = keras.Sequential([keras.Input((8,), batch_size=1), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Expected batch=1 or None with .* has this batch. Received: batch=2"):
        to_tflite(model, tmp_path / "m.tflite", batch=2)


@pytest.mark.programs
def test_a_file_with_another_fixed_batch_stays_as_it_is_for_the_web(tmp_path):
    content = convert(dense_network(0))
    rewrite(content, tmp_path / "two.tflite", batch=2)
    rewrite(tmp_path / "two.tflite", tmp_path / "web.tflite", target="web")
    assert Runner(tmp_path / "web.tflite").inputs[0].shape == (2, 64)
    with pytest.raises(ValueError, match=r"or has a batch of 1. Received: batch=1, and a file with .* 2x64"):
        rewrite(tmp_path / "two.tflite", tmp_path / "web.tflite", batch=1)


def test_targets_have_their_batch():
    assert read_target(None, **REST).fixed_batch is None
    assert read_target("web", **REST).fixed_batch == 1
    assert read_target("web", **{**REST, "batch": 3}).fixed_batch == 3
    assert read_target("web", **REST).optimize == "latency"
    pytest.importorskip("tflite_micro")
    assert read_target(Micro(), **{**REST, "batch": 1}).fixed_batch == 1
    with pytest.raises(ValueError, match="Expected batch=1 or None with target='micro'. Received: batch=2"):
        read_target("micro", **{**REST, "batch": 2})


@pytest.mark.parametrize("optimize", ["dense", "sparse"])
def test_forms_that_the_web_does_not_choose_are_refused(optimize):
    with pytest.raises(ValueError, match=f"'latency' with target='web'.*Received: optimize='{optimize}'.*batch=1"):
        read_target("web", **{**REST, "optimize": optimize})
