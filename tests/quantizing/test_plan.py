"""Which layers round where, against what the converter does with such graphs (test_trained_ranges)."""

from __future__ import annotations

import keras
import pytest
from keras import layers

import tfprune
from tfprune.models.anatomy import Anatomy
from tfprune.quantizing.quantize_aware import quantization_plan
from tfprune.report import Skipped


def stack(*parts: keras.layers.Layer, shape=(8, 8, 2)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *parts])


def places(model: keras.Model, **arguments) -> dict[str, tuple[str, ...]]:
    return dict(quantization_plan(Anatomy.of(model), **arguments).ranges)


def conv(name: str, **arguments) -> keras.layers.Layer:
    return layers.Conv2D(3, 3, name=name, **arguments)


def test_convolution_normalization_and_activation_are_one():
    model = stack(conv("c"), layers.BatchNormalization(name="n"), layers.ReLU(6.0, name="r"), conv("d"))
    assert places(model) == {"c": ("input_0",), "r": ("output",), "d": ("output",)}


def test_an_activation_within_the_layer():
    model = stack(conv("relu", activation="relu"), conv("silu", activation="silu"), conv("last", activation="tanh"))
    expected = {"relu": ("input_0", "output"), "silu": ("activation", "output"), "last": ("activation",)}
    assert places(model) == expected


def test_layers_that_move_numbers_keep_the_range():
    model = stack(
        layers.ZeroPadding2D(), conv("c"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(2, name="d")
    )
    assert places(model) == {"c": ("input_0", "output"), "d": ("output",)}


def test_what_is_read_twice_is_not_continued():
    inputs = keras.Input((8, 8, 3))
    hidden = conv("c", padding="same")(inputs)
    outputs = layers.Add(name="sum")([hidden, layers.ReLU(name="r")(hidden)])
    model = keras.Model(inputs, layers.ReLU(name="last")(outputs))
    assert places(model) == {"c": ("input_0", "output"), "r": ("output",), "last": ("output",)}


def test_what_only_a_concatenation_takes_is_rounded_there():
    inputs = keras.Input((8, 8, 3))
    hidden = [conv(name, activation="relu", padding="same")(inputs) for name in ("a", "b")]
    joined = layers.Concatenate(name="joined")([*hidden, layers.ReLU(name="r")(hidden[1])])
    expected = {"a": ("input_0",), "b": ("input_0", "output"), "joined": ("output",)}
    assert places(keras.Model(inputs, joined)) == expected
    in_float = {"a": ("input_0", "output"), "b": ("input_0", "output"), "r": ("output",)}
    assert places(keras.Model(inputs, joined), skip="joined") == in_float


def test_dense_takes_the_normalization_behind_it():
    model = stack(layers.Dense(4, name="d"), layers.BatchNormalization(name="n"), layers.Dense(2), shape=(5,))
    assert places(model)["d"] == ("input_0",) and places(model)["n"] == ("output",)


def test_normalization_that_is_not_behind_a_kernel_is_a_product_and_a_sum():
    model = stack(layers.BatchNormalization(name="n"), layers.ReLU(name="r"), conv("c"))
    assert places(model) == {"n": ("input_0", "scaled"), "r": ("output",), "c": ("output",)}
    model = stack(layers.Rescaling(2.0, 1.0, name="n"), layers.SeparableConv2D(4, 3, name="c"))
    assert places(model) == {"n": ("input_0", "scaled", "output"), "c": ("depthwise", "output")}


def test_the_result_of_an_operation_is_rounded_where_it_is_read():
    inputs = keras.Input((8, 8, 2))
    hidden = conv("c", padding="same")(inputs)
    model = keras.Model(inputs, conv("d")(hidden + conv("e", padding="same")(inputs)))
    assert places(model)["d"] == ("input_0", "output")


def test_integers_are_not_rounded():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(9, 4, name="e"),
            layers.LSTM(3, name="l"),
            layers.Dense(2),
        ]
    )
    assert places(model)["e"] == ("output",) and "carry" in places(model)["l"] and "output" not in places(model)["l"]


def test_nested_models_and_a_layer_called_twice():
    shared = conv("shared", padding="same")
    part = keras.Sequential([keras.Input((8, 8, 3)), shared], name="part")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, part(part(inputs)))
    assert places(model) == {"part/shared": ("input_0", "output")}


REFUSED = {
    "axis": (layers.BatchNormalization(axis=1), "another axis than the last one"),
    "inverse": (layers.Normalization(mean=0, variance=1, invert=True), "invert=True"),
    "activation": (layers.Conv2D(3, 3, activation="elu"), "none of linear, relu"),
    "average": (layers.UpSampling2D(interpolation="bilinear"), "no rule for UpSampling2D"),
    "relu": (layers.ReLU(max_value=2.0), "none of linear, relu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_layer_without_a_rule_says_why(case):
    layer, reason = REFUSED[case]
    plan = quantization_plan(Anatomy.of(stack(conv("c"), layer, conv("d"))))
    assert [entry.layer for entry in plan.skipped] == [layer.name]
    assert reason in plan.skipped[0].reason and plan.skipped[0].kind == Skipped.NO_RULE
    assert plan.ranges["d"] == ("input_0", "output")


RECURRENT = {
    "open": ((None, 4), layers.LSTM(3), "number of steps is open"),
    "dropout": ((5, 4), layers.GRU(3, recurrent_dropout=0.5), "recurrent_dropout"),
    "activation": ((5, 4), layers.LSTM(3, activation="relu"), "activation='tanh'"),
    "reset": ((5, 4), layers.GRU(3, reset_after=False), "reset_after=True"),
    "state": ((5, 4), layers.LSTM(3, return_state=True), "returns its state"),
}


@pytest.mark.parametrize("case", RECURRENT)
def test_a_recurrent_layer_without_a_rule_says_why(case):
    shape, layer, reason = RECURRENT[case]
    inputs = keras.Input(shape)
    outputs = layer(inputs)
    model = keras.Model(inputs, layers.Dense(2)(outputs[0] if isinstance(outputs, (list, tuple)) else outputs))
    (skipped,) = quantization_plan(Anatomy.of(model)).skipped
    assert reason in skipped.reason


def test_layers_that_are_left_out():
    model = stack(conv("c"), layers.ReLU(name="r"), conv("d"), layers.Flatten(), layers.Dense(2, name="e"))
    assert set(places(model, skip="^e$")) == {"c", "r", "d"}
    assert set(places(model, filters="c/")) & {"c", "d", "e"} == {"c"}
    report = quantization_plan(Anatomy.of(model), filters="c/")
    assert {entry.layer for entry in report.skipped} == {"d", "e"}
    assert all(entry.kind == Skipped.FILTERED for entry in report.skipped)
    assert tfprune.quantize_aware(model, skip=["^d$", "^e$"]).get_layer("d").__class__ is layers.Conv2D
