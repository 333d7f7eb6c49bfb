"""Keras models to files for microcontrollers."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.export import inspect, to_tflite
from tfprune.export.micro import interpreter


@pytest.mark.programs
def test_a_pruned_model_becomes_a_file_for_microcontrollers(network, tmp_path):
    path = tmp_path / "micro.tflite"
    masked = tfprune.wrap(network.model)
    tfprune.update_masks(masked, 0.9)
    report = to_tflite(masked, path, quantize="int8", calibration=network.samples, target="micro")
    assert report.micro.flash == path.stat().st_size == report.bytes
    assert sum(row.bytes for row in report.micro.rows) < 0.32 * sum(row.dense_bytes for row in report.micro.rows)
    assert report.runtime.startswith("tflite-micro")
    assert inspect(path).sparsity == pytest.approx(0.9, abs=0.01)
    assert inspect(path).inputs[0].shape == (1, 10, 10, 3)
    assert "AddDecode" in str(report)
    assert "fits on: zero" in str(report)


@pytest.mark.programs
def test_a_file_that_differs_from_keras_is_not_written(network, tmp_path):
    settings = {"quantize": "int8", "calibration": network.samples, "target": "micro"}
    with pytest.raises(ValueError, match="gives the model's outputs"):
        to_tflite(network.model, tmp_path / "micro.tflite", **settings, tolerance=0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.programs
def test_labels_are_measured_on_the_file_that_is_written(network, tmp_path, monkeypatch):
    labels = network.model.predict(network.samples, verbose=0).argmax(axis=1)
    limit, measured, run = tfprune.Limit(0.3, data=(network.samples, labels)), [], interpreter.run_files

    def watched(files, *rest, **settings):
        measured.extend(file.content for file in files)
        return run(files, *rest, **settings)

    monkeypatch.setattr(interpreter, "run_files", watched)
    report = to_tflite(network.model, tmp_path / "micro.tflite", target="micro", max_drop=limit)
    assert report.lost[0].file == report.lost[0].before == 1.0
    assert measured == [(tmp_path / "micro.tflite").read_bytes()]


@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int4"])
def test_numbers_that_the_interpreter_does_not_mix_are_refused(network, tmp_path, quantize):
    settings = {"calibration": network.samples, "target": "micro"}
    with pytest.raises(ValueError, match="or None with target='micro'"):
        to_tflite(network.model, tmp_path / "micro.tflite", quantize=quantize, **settings)


def test_operators_that_are_missing_are_named(network, tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation="gelu")])
    model.add(keras.layers.Lambda(lambda x: keras.ops.tile(x, (1, 3))))
    with pytest.raises(ValueError, match="Received: .*TILE"):
        to_tflite(model, tmp_path / "micro.tflite", target="micro", check_on=np.zeros((2, 8), np.float32))
    assert not list(tmp_path.iterdir())
