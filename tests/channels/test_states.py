"""Layers that keep a state from call to call: it loses the channels that its input loses."""

import keras
import numpy as np
import pytest

import tfprune
from sample_apps.wake import network


@pytest.fixture
def windows():
    keras.utils.set_random_seed(0)
    return network.network(12)


def one_by_one(model, frames):
    return [float(model(step[np.newaxis])[0, 0]) for step in frames.reshape(-1, network.STRIDE, network.BANDS)]


@pytest.mark.programs
def test_a_shrunk_stream_is_the_stream_of_the_shrunk_network(windows):
    frames = np.random.default_rng(0).uniform(0, 26, (180, network.BANDS)).astype("float32")
    stream = network.streaming(windows)
    small = tfprune.shrink(stream, tfprune.plan_shrink(stream, 0.5))
    states = [layer.state.shape[1:] for layer in small.layers if isinstance(layer, network.Ring)]
    assert states == [
        (2, 1, 40),
        *((kernel - 1, 1, width) for kernel, width in zip((5, 9, 13, 21), (3, 6, 6, 6), strict=True)),
        (4, 1, 6),
    ]
    other = network.streaming(tfprune.shrink(windows, tfprune.plan_shrink(windows, 0.5)))
    assert one_by_one(small, frames) == one_by_one(other, frames)


def test_what_a_state_holds_goes_with_its_channels(windows):
    stream = network.streaming(windows)
    for layer in stream.layers:
        if isinstance(layer, network.Ring):
            layer.state.assign(np.random.default_rng(0).random(layer.state.shape))
    plan = tfprune.plan_shrink(stream, 0.5)
    before = {layer.name: layer.state.numpy() for layer in stream.layers if isinstance(layer, network.Ring)}
    small = tfprune.shrink(stream, plan)
    for layer in (each for each in small.layers if isinstance(each, network.Ring)):
        small_state, state = layer.state.numpy(), before[layer.name]
        columns = [
            next(c for c in range(state.shape[-1]) if np.array_equal(state[..., c], small_state[..., k]))
            for k in range(small_state.shape[-1])
        ]
        assert columns == sorted(columns)


def test_a_stream_gives_the_scores_of_its_windows(windows):
    frames = np.random.default_rng(0).uniform(0, 26, (180, network.BANDS)).astype("float32")
    stream = one_by_one(network.streaming(windows), frames)
    late = network.scores_of(
        windows, frames[1:]
    )  # the first convolution keeps two frames ahead of each step of three
    assert np.allclose(stream[-len(late) :], late, atol=1e-6)
