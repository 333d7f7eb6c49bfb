"""Weights in files and lists: what belongs to a wrapped model comes back whole, and nothing else is taken for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from tiers import first

import tfprune
from tfprune import patterns

PATTERNS = {
    "unstructured": patterns.Unstructured(),
    "groups": patterns.NM(2, 4),
    "blocks": patterns.Block(1, 3),
}


def plain(seed: int = 1, use_bias: bool = True) -> keras.Model:
    keras.utils.set_random_seed(seed)
    stack = [layers.Dense(7, name="hidden", use_bias=use_bias), layers.Dense(5, name="out", use_bias=use_bias)]
    return keras.Sequential([keras.Input((10,)), *stack])


def wrapped(seed: int = 1, sparsity: float = 0.0, **arguments) -> keras.Model:
    model = tfprune.wrap(plain(seed), **arguments)
    tfprune.update_masks(model, sparsity)
    return model


def values(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def assert_equal(values, expected):
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("sparsity", first(0.2, 0.0, 0.5))
def test_a_weights_file_brings_masks_and_hidden_values_back(name, sparsity, tmp_path):
    model, other = wrapped(1, sparsity, pattern=PATTERNS[name]), wrapped(2, pattern=PATTERNS[name])
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    assert_equal(values(model), values(other))
    np.testing.assert_array_equal(other.get_layer("out").latent("kernel"), plain(1).get_layer("out").kernel)


def test_lists_of_weights_hold_masks_and_hidden_values():
    model, other = wrapped(1, 0.5), wrapped(2)
    other.set_weights(model.get_weights())
    assert_equal(values(model), values(other))
    tfprune.update_masks(other, 0)
    np.testing.assert_array_equal(other.get_layer("hidden").layer.kernel, plain(1).get_layer("hidden").kernel)


def test_a_list_of_plain_weights_is_refused_and_changes_nothing():
    model = wrapped(2, 0.5)
    before = values(model)
    with pytest.raises(ValueError, match="length 4"):
        model.set_weights(plain().get_weights())
    assert_equal(before, values(model))


@pytest.mark.parametrize("use_bias", [True, False])
def test_plain_weights_are_refused_with_the_way_that_works(use_bias, tmp_path):
    source, path = plain(1, use_bias), tmp_path / "plain.weights.h5"
    source.save_weights(path)
    with pytest.raises(ValueError, match=r"the masks of layer 'hidden': .*before you wrap it: model.load_weights"):
        tfprune.wrap(plain(2, use_bias)).load_weights(path)
    model = plain(2, use_bias)
    model.load_weights(path)
    np.testing.assert_array_equal(tfprune.wrap(model).get_layer("out").layer.kernel, source.get_layer("out").kernel)


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_plain_model_takes_the_weights_of_a_stripped_one_only(use_bias, tmp_path):
    model = tfprune.wrap(plain(1, use_bias))
    tfprune.update_masks(model, 0.5)
    model.save_weights(tmp_path / "wrapped.weights.h5")
    with pytest.raises(ValueError, match="could not be loaded"):
        plain(2, use_bias).load_weights(tmp_path / "wrapped.weights.h5")
    tfprune.strip(model).save_weights(tmp_path / "stripped.weights.h5")
    target = plain(2, use_bias)
    target.load_weights(tmp_path / "stripped.weights.h5")
    assert np.count_nonzero(target.get_layer("hidden").kernel) == 35


@pytest.mark.parametrize(
    ("trained", "loaded"),
    [("unstructured", "groups"), ("unstructured", "blocks"), ("groups", "blocks"), ("blocks", "groups")],
)
def test_a_mask_of_another_pattern_is_refused(trained, loaded, tmp_path):
    wrapped(1, 0.5, pattern=PATTERNS[trained]).save_weights(tmp_path / "a.weights.h5")
    other = wrapped(2, pattern=PATTERNS[loaded])
    with pytest.raises(ValueError, match=r"Expected a mask of hidden/kernel with zeros as in (NM|Block)\("):
        other.load_weights(tmp_path / "a.weights.h5")


def test_a_dense_start_serves_every_pattern(tmp_path):
    wrapped(1).save_weights(tmp_path / "a.weights.h5")
    for pattern in PATTERNS.values():
        model = wrapped(2, pattern=pattern)
        model.load_weights(tmp_path / "a.weights.h5")
        np.testing.assert_array_equal(model.get_layer("out").layer.kernel, plain(1).get_layer("out").kernel)


def test_masks_of_other_weights_are_refused_by_name(tmp_path):
    def lstm(*weights):
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input((5, 4)), tfprune.Pruned(layers.LSTM(3, name="rnn"), weights=weights)])

    lstm("kernel").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"recurrent_kernel_mask.*a file with 0_kernel_latent, 0_kernel_mask in"):
        lstm("kernel", "recurrent_kernel").load_weights(tmp_path / "a.weights.h5")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_hidden_values_keep_their_precision_in_a_file(dtype, tmp_path):
    def model(seed):
        keras.utils.set_random_seed(seed)
        return tfprune.wrap(keras.Sequential([keras.Input((10,)), layers.Dense(7, name="hidden", dtype=dtype)]))

    first, second = model(1), model(2)
    tfprune.update_masks(first, 0.5)
    first.save_weights(tmp_path / "a.weights.h5")
    second.load_weights(tmp_path / "a.weights.h5")
    assert_equal(values(first), values(second))


SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=3)


@given(shape=SHAPES, sparsity=st.floats(0, 0.5), seed=st.integers(0, 99), name=st.sampled_from(sorted(PATTERNS)))
def test_a_pattern_allows_every_mask_that_it_makes(shape, sparsity, seed, name):
    scores = np.random.default_rng(seed).normal(size=shape)
    assert PATTERNS[name].allows(PATTERNS[name](scores, sparsity))


@pytest.mark.parametrize(
    ("pattern", "mask", "allowed"),
    [
        (patterns.NM(2, 4), [1, 1, 0, 0, 1, 1, 1, 1, 1, 0], True),
        (patterns.NM(2, 4), [1, 1, 1, 0, 1, 1, 1, 1, 1, 0], False),
        (patterns.NM(1, 4), [1, 0, 0, 0, 0, 0, 0, 0, 1, 1], True),
        (patterns.NM(1, 4), [1, 0, 0, 0, 0, 1, 0, 1, 1, 1], False),
        (patterns.Block(1, 4), [1, 1, 1, 1, 0, 0, 0, 0, 1, 1], True),
        (patterns.Block(1, 4), [1, 1, 1, 1, 0, 0, 0, 0, 1, 0], False),
        (patterns.Unstructured(), [1, 0, 1, 0, 0, 1, 1, 1, 1, 0], True),
    ],
)
def test_masks_by_hand(pattern, mask, allowed):
    for dtype in ("uint8", "bool"):
        assert pattern.allows(np.array([mask], dtype)) is allowed
