"""Padding written out in the file: the same outputs, and what XNNPACK wants to see."""

from __future__ import annotations

import numpy as np
import pytest
from after import after as file_after
from file_graphs import VALID, FileGraph

from tfprune.export.device.runner import Runner
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.rewriting import shapes as shapes_module


def spell_out_padding(data):
    return file_after(data, shapes_module.spell_out_padding)


def network(size, batch=None, kernel=3):
    """A strided convolution and a strided depthwise one, 1x1 convolutions with 90 % zeros, a pool."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((size, size, 3), batch_size=batch),
            layers.Conv2D(8, 3, 2, "same", activation="relu"),
            layers.Conv2D(16, 1, activation="relu"),
            layers.DepthwiseConv2D(kernel, 2, "same", activation="relu"),
            layers.Conv2D(16, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    data = np.random.default_rng(2)
    for layer in (model.layers[1], model.layers[3]):
        weight, bias = layer.get_weights()
        layer.set_weights([weight * (data.random(weight.shape) > 0.9), bias])
    return model


def convert(model, **options):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in options.items():
        setattr(converter, name, value)
    return converter.convert()


@pytest.fixture(scope="module")
def odd():
    return convert(network(13, kernel=5))  # maps of 13, 7 and 4


def test_outputs_stay_the_same_for_any_batch(odd):
    image = np.random.default_rng(3).normal(size=(3, 13, 13, 3)).astype(np.float32)
    before, after = Runner(odd).predict(image), Runner(spell_out_padding(odd)).predict(image)
    np.testing.assert_array_equal(after, before)


def test_a_network_on_odd_maps_becomes_one_that_can_run_sparse(odd):
    assert not any(group.whole for group in ModelFile(odd).analyses[0].groups)
    groups = ModelFile(spell_out_padding(odd)).analyses[0].groups
    assert [group.whole and group.taken for group in groups] == [True]


def test_each_strided_convolution_gets_its_own_zeros(odd):
    before, after = read(odd), read(spell_out_padding(odd))
    assert after.ops == before.ops | {"PAD": 2}
    shapes = [tensor.shape for tensor in after.subgraphs[0].tensors if tensor.name.endswith("/padded")]
    assert shapes == [(1, 15, 15, 3), (1, 11, 11, 16)]
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


def test_a_second_time_changes_nothing(odd):
    once = spell_out_padding(odd)
    assert spell_out_padding(once) == once
    assert spell_out_padding(odd) == once


def test_uneven_padding_stays_as_it_is():
    even = convert(network(16))
    assert spell_out_padding(even) is even


def test_integers_stay_as_they_are():
    import tensorflow as tf

    data = np.random.default_rng(4)
    integer = convert(
        network(13, batch=1),
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([data.normal(size=(1, 13, 13, 3)).astype(np.float32)] for _ in range(4)),
    )
    assert "PAD" not in read(spell_out_padding(integer)).ops


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="Expected"):
        spell_out_padding(b"nonsense")


def test_a_number_that_scales_a_gate_keeps_no_group_from_being_taken():
    """MobileNetV3 multiplies its gates by a sixth, as a number without dimensions."""
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    x = graph.convolution(graph.convolution(graph.pad(graph.input, sides=1), 16, stride=2, padding=VALID), 16, size=1)
    pixel = graph.convolution(graph.convolution(graph.mean(x, keeps=True), 8, size=1), 16, size=1)
    gate = graph.binary("MUL", pixel, graph.constant(np.float32(1 / 6)))
    x = graph.convolution(graph.binary("MUL", x, gate), 16, size=1, zeros=0.9)
    content = graph.content(graph.dense(graph.mean(x), 4))
    after = file_after(content, shapes_module.spell_out_numbers)
    assert not ModelFile.open(content).inference.eligible and ModelFile.open(after).inference.eligible
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(Runner(content).predict(image), Runner(after).predict(image))
