"""What a Keras model costs on an NPU, as a measure for budgets; bench/vela.py meets some."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune.export import vela
from tfprune.export.keras_side.convert import convert

pytest.importorskip("ethosu", reason="ethos-u-vela is not installed (extra `vela`)")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(96, "relu"), keras.layers.Dense(32)])


def test_a_model_costs_what_its_dense_int8_file_does(model):
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.9)
    cost = vela("ethos-u55-128", counts="weight_bytes")
    report = cost.report(wrapped)
    assert report.weights == 64 * 96 + 96 * 32 and report.weight_bytes < 0.5 * report.weights
    assert cost(model) > 2 * report.weight_bytes


def test_operators_for_the_processor_are_listed(model):
    samples = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
    report = vela("ethos-u55-128").report(convert(model, quantize="int8", calibration=samples, batch=1))
    assert report.on_cpu == {"DEQUANTIZE": 1, "QUANTIZE": 1} and "1 DEQUANTIZE, 1 QUANTIZE" in str(report)


def test_another_thing_than_a_model_is_refused():
    with pytest.raises(TypeError, match="Expected a Keras model, or a path"):
        vela("ethos-u55-128").report(3)
