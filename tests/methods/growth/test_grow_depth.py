"""Deeper models: the order of the blocks, zeroed copies, masks, and the way back."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from residual_blocks import BLOCK, X, by_hand, layers, residual
from small_transformer import texts, transformer
from tiers import first

import tfprune
from tfprune.methods.growth.change import _growth_order


@pytest.mark.parametrize(
    ("settings", "expected"),
    [  # METHODS C3, counted from 1 there
        ({"order": "interpose"}, [1, 1, 2, 2, 3, 3]),
        ({"order": "interpose", "keep_last": 1}, [1, 1, 2, 2, 3]),
        ({"order": "interpose", "keep_first": 1}, [1, 2, 2, 3, 3]),
        ({"order": "stack"}, [1, 2, 3, 1, 2, 3]),
        ({"order": "stack", "keep_first": 1}, [1, 2, 3, 2, 3]),
        ({"order": "stack", "keep_last": 1}, [1, 2, 1, 2, 3]),
    ],
)
def test_the_order_of_the_blocks(settings, expected):
    assert [block + 1 for block in _growth_order(3, 2, **settings)] == expected
    model = residual()
    grown, report = tfprune.growth.grow_depth(model, 2, **settings)
    assert [block + 1 for block in report.order] == expected
    np.testing.assert_allclose(grown(X), by_hand(model, report.order, X), rtol=1e-4)


def test_three_of_each():
    assert _growth_order(2, 3, order="interpose") == [0, 0, 0, 1, 1, 1]
    assert _growth_order(2, 3, order="stack") == [0, 1, 0, 1, 0, 1]


def test_the_tail_of_a_stack_as_in_the_code_of_the_source():
    """Its first pass leaves out `ignore_last` blocks, each later one `ignore_first`: pass by pass, by hand."""
    expected = [0, 1, 2] + [1, 2, 3] + [1, 2, 3]
    assert _growth_order(4, 3, order="stack_tail", keep_first=1, keep_last=1) == expected
    assert _growth_order(4, 3, order="stack", keep_first=1, keep_last=1) == [0, 1, 2, 1, 2, 1, 2, 3]
    for kept in ({}, {"keep_first": 1}, {"keep_last": 2}):
        assert _growth_order(4, 2, order="stack_tail", **kept) == _growth_order(4, 2, order="stack", **kept)


@pytest.mark.parametrize("order", ["interpose", "stack"])
def test_zeroed_copies_hand_on_what_they_read_and_learn(order):
    model = residual()
    grown, report = tfprune.growth.grow_depth(model, 2, order=order, zero_output=True, samples=X)
    assert np.abs(np.asarray(grown(X)) - np.asarray(model(X))).max() <= 1e-6
    assert report.difference == 0
    assert report.is_function_preserving
    assert [row.zeroed for row in report.rows if row.is_copy] == [
        (f"block_{place}_out/kernel", f"block_{place}_out/bias") for place in report.copies
    ]
    gradients = gradients_of(grown, X)
    for place in report.copies:
        assert np.abs(gradients[f"block_{place}_out/kernel"]).max() > 1e-3
        assert np.abs(grown.get_layer(f"block_{place}_hidden").kernel).max() > 0


def gradients_of(model, x):
    """Return the gradient of the mean square of the outputs, by the path of each kernel."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.square(model(x)))
    kernels = {f"{layer.name}/kernel": layer.kernel for layer in model.layers if hasattr(layer, "kernel")}
    found = tape.gradient(loss, [kernel.value for kernel in kernels.values()])
    return dict(zip(kernels, map(np.asarray, found), strict=True))


@pytest.mark.programs
def test_zeroed_copies_of_attention_and_feed_forward_networks():
    model, x = transformer(2), texts(4)
    grown, report = tfprune.growth.grow_depth(model, 3, zero_output=True, samples=x)
    assert np.abs(np.asarray(grown(x)) - np.asarray(model(x))).max() <= 1e-6
    assert report.copies == (1, 2, 4, 5)
    zeroed = {path.partition("/")[0].rstrip("_0123456789") for path in report.rows[1].zeroed}
    assert zeroed == {"attention", "back"}
    assert {path.rsplit("/", 2)[-2] for path in report.rows[1].zeroed} == {"attention_output", "back_1"}


def test_a_block_that_changes_what_it_reads_cannot_be_zeroed():
    x = inputs = keras.Input((4,))
    for index in range(2):
        added = layers.Add()([x, layers.Dense(4, name=f"block_{index}_a")(x)])
        x = layers.LayerNormalization(name=f"block_{index}_norm")(added)
    with pytest.raises(ValueError, match="block 0 of .* begins with 'block_0_a' and changes what it reads"):
        tfprune.growth.grow_depth(keras.Model(inputs, x), zero_output=True)


def test_where_normalizations_follow_the_kernels_their_weights_are_zeroed():
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((6, 6, 4))
    for index in range(2):
        y = layers.Conv2D(4, 3, padding="same", name=f"block_{index}_conv")(x)
        y = layers.BatchNormalization(name=f"block_{index}_norm")(y)
        x = layers.ReLU(name=f"block_{index}_out")(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 4)).astype("float32")
    for variable in model.weights:
        variable.assign(variable + 0.1)
    grown, report = tfprune.growth.grow_depth(model, blocks=BLOCK, zero_output=True, samples=images)
    assert np.abs(np.asarray(grown(images)) - np.asarray(model(images))).max() <= 1e-6
    assert report.rows[1].zeroed == ("block_1_norm/gamma", "block_1_norm/beta")
    assert np.abs(grown.get_layer("block_1_conv").kernel).max() > 0


@pytest.mark.parametrize("latent", ["keep", "zero"])
def test_masks_and_latent_values_follow_every_copy(latent):
    model = tfprune.wrap(residual(), latent=latent)
    tfprune.update_masks(model, 0.75)
    grown, report = tfprune.growth.grow_depth(model, 2)
    for place, block in enumerate(report.order):
        for part in ("hidden", "out"):
            ours, theirs = grown.get_layer(f"block_{place}_{part}"), model.get_layer(f"block_{block}_{part}")
            np.testing.assert_array_equal(ours.masks["kernel"], theirs.masks["kernel"])
            np.testing.assert_array_equal(ours.latent("kernel"), theirs.latent("kernel"))
            np.testing.assert_array_equal(ours.layer.kernel, theirs.layer.kernel)
    in_blocks = [report.nnz for report in blocks_of(model)]
    assert sum(row.nnz for row in report.rows) == 2 * sum(in_blocks)
    assert sum(row.nnz for row in blocks_of(grown)) == 2 * sum(in_blocks)


def blocks_of(model):
    return [row for row in tfprune.sparsity_report(model).rows if row.layer.startswith("block")]


@pytest.mark.programs
def test_zeros_stay_zeros_while_the_grown_model_trains():
    model = tfprune.wrap(residual())
    tfprune.update_masks(model, 0.75)
    grown, _ = tfprune.growth.grow_depth(model, 2, zero_output=True)
    hidden = {row.layer: row.nnz for row in blocks_of(grown) if "hidden" in row.layer}
    grown.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    grown.fit(X, X[:, :2], epochs=2, verbose=0)
    assert {row.layer: row.nnz for row in blocks_of(grown) if "hidden" in row.layer} == hidden
    zeroed = [row for row in blocks_of(grown) if row.layer in ("block_1_out", "block_3_out")]
    assert all(0 < row.nnz <= row.size // 4 for row in zeroed)  # it learned, and under its mask only


@pytest.mark.parametrize("order", ["interpose", "stack"])
@pytest.mark.parametrize("wrapped", first(True, False))
def test_grow_then_drop_is_the_identity_bit_for_bit(order, wrapped):
    model = residual()
    if wrapped:
        model = tfprune.wrap(model)
        tfprune.update_masks(model, 0.5)
    grown, report = tfprune.growth.grow_depth(model, 2, order=order, keep_first=1)
    back, _ = tfprune.transformers.drop_blocks(grown, report.copies, blocks=BLOCK)
    assert [layer.name for layer in back.layers if layer.weights] == [
        layer.name for layer in model.layers if layer.weights
    ]
    assert all(np.array_equal(*pair) for pair in zip(back.get_weights(), model.get_weights(), strict=True))
    np.testing.assert_array_equal(back(X), model(X))


def test_blocks_of_mixed_precision_read_what_the_input_and_other_blocks_hand_on():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = residual()
        grown, report = tfprune.growth.grow_depth(model, zero_output=True, samples=X)
        smaller, last = tfprune.transformers.drop_blocks(model, [0], samples=X)
    finally:
        keras.config.set_dtype_policy(policy)
    assert (report.difference, report.into, last.order) == (0, "graph", (1, 2))
    assert grown.get_layer("block_1_out").compute_dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(smaller(X), "float32"), by_hand(model, [1, 2], X), rtol=0.1, atol=0.1)


def test_the_model_is_left_as_it_was():
    model = residual()
    model.compile("sgd", "mse")
    names, weights = [layer.name for layer in model.layers], model.get_weights()
    grown, _ = tfprune.growth.grow_depth(model, 2, zero_output=True)
    assert [layer.name for layer in model.layers] == names
    assert all(itertools.starmap(np.array_equal, zip(weights, model.get_weights(), strict=True)))
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in grown.variables}
    model.fit(X, X[:, :2], verbose=0)


def test_a_frozen_layer_stays_frozen_in_its_copies():
    model = residual()
    model.get_layer("block_1_hidden").trainable = False
    grown, _ = tfprune.growth.grow_depth(model)
    frozen = [layer.name for layer in grown.layers if not layer.trainable]
    assert frozen == ["block_2_hidden", "block_3_hidden"]


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"repeats": 1}, ValueError, "`repeats` to be an integer of at least 2"),
        ({"repeats": 2.0}, TypeError, "`repeats` to be an integer"),
        ({"order": "stacked"}, ValueError, "Did you mean 'stack'"),
        ({"keep_first": 2, "keep_last": 1}, ValueError, "keep_first=2, keep_last=1 for the 3 blocks"),
        ({"keep_first": -1}, ValueError, "`keep_first`"),
        ({"zero_output": "yes"}, ValueError, "`zero_output`"),
        ({"blocks": r"layer_(\d+)"}, ValueError, "it finds none of the layers"),
    ],
)
def test_wrong_arguments_are_refused(settings, kind, text):
    with pytest.raises(kind, match=text):
        tfprune.growth.grow_depth(residual(), **settings)
