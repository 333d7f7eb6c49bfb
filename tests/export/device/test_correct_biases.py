"""Biases of int8 files, corrected. The truth is the mean of each channel that Keras gives."""

import keras
import numpy as np
import pytest

from tfprune.export import correct_biases, quantization_error, to_tflite
from tfprune.export.device.runner import Runner
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read

X = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, its float file, and its int8 file."""
    keras.utils.set_random_seed(0)
    options = {"bias_initializer": "random_uniform"}
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, activation="relu", **options),
            keras.layers.DepthwiseConv2D(3, **options),
            keras.layers.Flatten(),
            keras.layers.Dense(5, **options),
        ]
    )
    folder = tmp_path_factory.mktemp("biases")
    to_tflite(model, folder / "float")
    to_tflite(model, folder / "int8", quantize="int8", calibration=X)
    return model, (folder / "float").read_bytes(), (folder / "int8").read_bytes()


def means_off(model, data):
    return np.abs(Runner(data).predict(X).mean(axis=0) - model.predict(X, verbose=0).mean(axis=0)).max()


def moved(data, amount):
    """Move the biases of all layers, as rounding does on a larger scale."""
    model, graph = load_objects(data), read(data).subgraphs[0]
    for operator in graph.operators:
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            buffer = model.buffers[graph.tensors[operator.inputs[2]].buffer]
            buffer.data = (np.asarray(buffer.data).view("<i4") + amount).view(np.uint8)
    return save_objects(model)


def test_means_and_outputs_come_back(files):
    model, reference, quantized = files
    wrong = moved(quantized, 600)
    corrected = correct_biases(reference, wrong, samples=X)
    assert means_off(model, wrong) > 20 * means_off(model, corrected)
    errors = [quantization_error(reference, data, samples=X).rows[-1].error for data in (quantized, wrong, corrected)]
    assert errors[1] > 3 * errors[2]
    assert errors[2] < 1.6 * errors[0]


def test_only_biases_change(files):
    _, reference, quantized = files
    corrected = correct_biases(reference, quantized, samples=X)
    before, after = (read(data).subgraphs[0] for data in (quantized, corrected))
    assert [operator.name for operator in before.operators] == [operator.name for operator in after.operators]
    assert len(corrected) == len(quantized)
    old, new = load_objects(quantized), load_objects(corrected)
    changed = 0
    for old_tensor, new_tensor in zip(old.subgraphs[0].tensors, new.subgraphs[0].tensors, strict=True):
        same = np.array_equal(old.buffers[old_tensor.buffer].data, new.buffers[new_tensor.buffer].data)
        changed += not same
        assert same or old_tensor.type == 2  # int32
    assert changed
    assert correct_biases(reference, quantized, samples=X) == corrected


def test_files_without_such_layers_are_refused(files):
    _, reference, quantized = files
    with pytest.raises(ValueError, match="two without an 8-bit layer in common"):
        correct_biases(reference, reference, samples=X)
    with pytest.raises(ValueError, match="Expected two files that run on `samples`"):
        correct_biases(reference, quantized, samples=X[:, :4])


@pytest.mark.programs
def test_layers_without_a_bias_stay_as_they_are(tmp_path):
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4, use_bias=False)])
    x = np.random.default_rng(1).normal(size=(20, 12)).astype("float32")
    to_tflite(model, tmp_path / "float")
    to_tflite(model, tmp_path / "int8", quantize="int8", calibration=x)
    corrected = correct_biases(tmp_path / "float", tmp_path / "int8", samples=x)
    np.testing.assert_array_equal(Runner(corrected).predict(x), Runner(tmp_path / "int8").predict(x))
