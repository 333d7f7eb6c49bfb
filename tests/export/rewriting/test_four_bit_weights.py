"""4-bit weights, against Keras with the same weights, and what runs and does not run with them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from after import after
from keras import layers

from tfprune.export import Runner, inspect, pack, unpack
from tfprune.export.file.document import load_objects
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.sparsify import merge_constants
from tfprune.export.rewriting.weights import _to_four_bits, four_bit_weights, packed

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, size=(32, 8, 8, 2)).astype("float32")


def whole(content: bytes) -> dict[str, np.ndarray]:
    """Return the 4-bit weights as real numbers, by the name of the layer."""
    model, found = load_objects(content), {}
    for tensor in read(content).weights:
        if tensor.dtype == "int4":
            raw = next(one for one in model.subgraphs[0].tensors if one.name.decode() == tensor.name)
            halves = np.stack([tensor.values.raw & 15, tensor.values.raw >> 4], axis=-1).ravel()[: tensor.size]
            values = ((halves ^ 8).astype(int) - 8).reshape(tensor.shape)
            along = [1] * values.ndim
            along[raw.quantization.quantizedDimension] = -1
            found[tensor.name.split("/")[1].partition("_1")[0]] = values * raw.quantization.scale.reshape(along)
    return found


@pytest.fixture(scope="module")
def network() -> tuple[keras.Model, bytes, bytes]:
    """Return a network, its file with 8-bit weights and that with 4-bit weights; half of the weights are zeros."""
    keras.utils.set_random_seed(1)
    stack = [
        layers.Conv2D(6, 3, activation="relu", name="conv"),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise"),
        layers.Conv2DTranspose(4, 2, strides=2, name="transposed"),
        layers.Flatten(),
        layers.Dense(5, name="dense"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 2)), *stack])
    for weight in model.trainable_weights:
        values = (
            RNG.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1])) * (RNG.random(weight.shape) < 0.5)
        )
        weight.assign(values if "bias" not in weight.path else RNG.normal(size=weight.shape) / 4)
    content = convert(model, quantize="int8", calibration=[IMAGES])
    return model, content, after(content, merge_constants, four_bit_weights)


def test_the_file_computes_what_keras_computes_with_these_weights(network):
    model, before, after = network
    values = whole(after)
    assert values.keys() == {"conv", "depthwise", "dense"}  # no runtime takes a transposed one
    rounded = keras.models.clone_model(model)
    rounded.set_weights(model.get_weights())
    rounded.get_layer("conv").kernel.assign(values["conv"].transpose(1, 2, 3, 0))
    rounded.get_layer("depthwise").kernel.assign(values["depthwise"].reshape(3, 3, 6, 2))
    rounded.get_layer("dense").kernel.assign(values["dense"].reshape(5, -1).T)
    expected = rounded.predict(IMAGES, verbose=0)
    errors = [np.square(Runner(content).predict(IMAGES) - expected).mean() for content in (after, before)]
    assert errors[0] < min(0.01 * np.square(expected).mean(), errors[1])


def test_zeros_stay_zeros_and_tools_read_the_file(network):
    model, before, after = network
    for name, values in whole(after).items():
        kernel = np.asarray(model.get_layer(name).kernel)
        assert np.count_nonzero(values) <= np.count_nonzero(kernel)
        size = np.mean((np.sort(values.ravel()) - np.sort(kernel.ravel())) ** 2) / np.mean(kernel**2)
        assert size < 0.01
    assert inspect(after).sparsity >= inspect(before).sparsity
    assert len(after) < len(before) and unpack(pack(after)) == after


def test_a_scale_leaves_the_least_error():
    values = np.append(RNG.normal(scale=8, size=500), 100).astype(np.int8)[None]
    integers, steps = _to_four_bits(values, 0)
    error = np.square(integers * steps - values).sum()
    assert error < np.square(np.rint(values / (100 / 7)) * (100 / 7) - values).sum() and np.abs(integers).max() == 7
    assert packed(np.int8([[-7, 7], [0, -1]])).tolist() == [0x79, 0xF0]


def test_a_file_without_such_weights_is_refused(cases):
    with pytest.raises(ValueError, match="Received: a file without. Export it with quantize='int8'"):
        after(cases["dense"].data, four_bit_weights)
