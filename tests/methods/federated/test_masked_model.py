"""Weights and masks of Keras models in the order of the stripped model, against the layers themselves."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest

import tfprune
from tfprune.federated import HeteroFL, MaskedModel, leading_channels

L = keras.layers


def network(prefix="", pattern="unstructured"):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 3), name=f"{prefix}in")
    y = L.BatchNormalization(name=f"{prefix}first")(x)
    y = L.Conv1D(6, 3, name=f"{prefix}conv")(y)
    y = L.BatchNormalization(name=f"{prefix}norm")(y)
    y = L.GlobalAveragePooling1D()(L.ReLU()(y))
    y = L.Dense(4, "relu", name=f"{prefix}hidden")(y)
    return tfprune.wrap(keras.Model(x, L.Dense(2, name=f"{prefix}out")(y)), pattern=pattern)


# first: gamma beta mean variance, conv: kernel bias, norm: gamma beta mean variance, hidden, out: kernel bias each
CONV, MEAN, VARIANCE = 4, 8, 9


def test_weights_are_those_of_the_stripped_model():
    model = network()
    tfprune.update_masks(model, 0.7)
    masked, stripped = MaskedModel(model), tfprune.strip(model)
    for one, other in zip(masked.weights, stripped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for mask, variable in zip(masked.masks, masked.variables, strict=True):
        kernel = variable.path.endswith("kernel")
        assert mask is None or kernel or "moving" in variable.path
        if kernel:
            np.testing.assert_array_equal(mask, keras.ops.convert_to_numpy(variable) != 0)


def test_the_order_does_not_depend_on_names():
    masks = [mask_of(network(prefix)) for prefix in ("", "z_", "A")]
    for one, two, three in zip(*masks, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def mask_of(model):
    tfprune.update_masks(model, 0.7)
    return [np.ones(1) if mask is None else mask for mask in MaskedModel(model).masks]


def test_what_was_read_can_be_set_elsewhere():
    source, target = network(), network()
    tfprune.update_masks(source, 0.6)
    x = np.random.default_rng(0).normal(size=(5, 8, 3)).astype("float32")
    source(x, training=True)
    one, other = MaskedModel(source), MaskedModel(target)
    other.set_masks(one.masks)
    other.set_weights(one.weights)
    np.testing.assert_array_equal(source(x), target(x))
    other.set_weights([np.ones_like(array) for array in other.weights])  # what masks hide stays zero
    np.testing.assert_array_equal(other.weights[CONV], one.masks[CONV])
    other.set_masks([None] * len(other.weights))
    assert all(mask is None for mask in other.masks)


def test_statistics_belong_to_those_who_own_the_channel():
    masked = MaskedModel(network())
    assert [mask is None for mask in masked.masks] == [True] * 14
    masks = masked.masks
    masks[CONV] = np.ones((3, 3, 6), bool)
    masks[CONV][..., 2] = False  # all that makes channel 2
    masks[CONV][:2, :, 4] = False
    masked.set_masks(masks)
    owned = [True, True, False, True, True, True]
    for index, mask in enumerate(masked.masks):
        if index in (MEAN, VARIANCE):
            np.testing.assert_array_equal(mask, owned)
        elif index != CONV:
            assert mask is None


def test_statistics_of_a_model_that_cannot_be_followed_belong_to_all(caplog):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = L.Dense(3), L.BatchNormalization()

        def call(self, x):
            return self.norm(self.dense(x)) if float(keras.ops.max(x)) > 0 else x

        def get_config(self):
            return {}

    model = Own()
    model(np.ones((2, 3)))
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.9)
    with caplog.at_level(logging.INFO, "tfprune"):
        masks = MaskedModel(wrapped).masks
    assert [mask is None for mask in masks] == [False, True, True, True, True, True]
    assert "statistics are taken for those of all channels" in caplog.text


def test_slots_of_hidden_entries_are_cleared():
    model = network()
    model.compile("adam", "mse")
    model.fit(np.random.default_rng(0).normal(size=(8, 8, 3)), np.ones((8, 2)), verbose=0)
    masked = MaskedModel(model)
    masks = masked.masks
    masks[CONV] = np.arange(54).reshape(3, 3, 6) % 2 == 0
    masked.set_masks(masks)
    (slot,) = [slot for slot in model.optimizer.variables if slot.path.endswith("conv_kernel_momentum")]
    values = keras.ops.convert_to_numpy(slot)
    assert not values[~masks[CONV]].any() and values[masks[CONV]].any()


def test_hetero_fl_keeps_the_leading_channels_by_hand():
    model = network()
    masks = HeteroFL(0.5).masks(model)
    conv, hidden, out = np.zeros((3, 3, 6), bool), np.zeros((6, 4), bool), np.zeros((4, 2), bool)
    conv[..., :3], hidden[:3, :2], out[:2] = True, True, True
    three, two = np.arange(6) < 3, np.arange(4) < 2
    wanted = [None] * 4 + [conv, three, three, three, three, three, hidden, two, out, None]
    for one, other in zip(masks, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    masked = MaskedModel(model)
    masked.set_masks(masks)
    for one, other, array in zip(masked.masks, wanted, masked.weights, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one is None or array.shape == one.shape
    assert not masked.weights[11][2:].any()  # the bias of hidden
    assert all(mask is None for mask in HeteroFL(1.0).masks(network()))
    assert HeteroFL(0.01).masks(network())[CONV].sum() == 9  # one channel at least


def test_the_earlier_name_gives_the_same_masks():
    model = network()
    for one, other in zip(leading_channels(model, 0.4), HeteroFL(0.4).masks(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_clients_nest():
    small, large = (HeteroFL(rate).masks(network()) for rate in (0.4, 0.8))
    for one, other in zip(small, large, strict=True):
        assert other is None or not (one & ~other).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MaskedModel(keras.Sequential([L.Dense(2)])), ValueError, "pruned layers"),
        (lambda: MaskedModel("model"), TypeError, "model"),
        (lambda: MaskedModel(network()).set_weights([]), ValueError, "`weights` to hold 14 entries"),
        (
            lambda: MaskedModel(network()).set_masks([np.ones(4)] + [None] * 13),
            ValueError,
            r"shape \(3,\) at index 0",
        ),
        (lambda: HeteroFL(0), ValueError, "`model_rate` to be a number in"),
        (lambda: HeteroFL("half"), TypeError, "`model_rate`"),
        (lambda: HeteroFL(0.5).masks("model"), TypeError, "model"),
        (
            lambda: MaskedModel(network(pattern=tfprune.patterns.Block(3, 1))).set_masks(
                [None] * 4 + [np.arange(54).reshape(3, 3, 6) > 1] + [None] * 9
            ),
            ValueError,
            r"mask of conv/kernel with zeros as in Block",
        ),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_masks_that_are_refused_change_nothing():
    model = network()
    tfprune.update_masks(model, 0.5)
    masked = MaskedModel(model)
    before, masks = masked.weights, masked.masks
    bad = [*masks[:CONV], np.zeros((3, 3, 6)), *masks[CONV + 1 : -1], np.ones(7)]
    with pytest.raises(ValueError, match="index 13"):
        masked.set_masks(bad)
    for one, other in zip(masked.weights, before, strict=True):
        np.testing.assert_array_equal(one, other)
