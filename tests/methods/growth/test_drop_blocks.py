"""Models with fewer blocks, against the layers called by hand; masks stay with their blocks."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from residual_blocks import BLOCK, X, by_hand, layers, residual
from small_transformer import texts, transformer
from tiers import first

import tfprune

shared = functools.cache(residual)  # for what is refused


@pytest.mark.parametrize(("drop", "left"), [([1], [0, 2]), ([0], [1, 2]), ([2], [0, 1]), ((0, 2), [1])])
@pytest.mark.parametrize("pattern", first(None, BLOCK))
def test_the_blocks_that_are_left_run_one_after_the_other(drop, left, pattern):
    model = residual()
    before = model.get_weights()
    smaller, report = tfprune.transformers.drop_blocks(model, drop, blocks=pattern)
    np.testing.assert_allclose(smaller(X), by_hand(model, left, X), rtol=1e-5, atol=1e-5)
    assert report.order == tuple(left)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    named = [layer.name for layer in smaller.layers if "hidden" in layer.name]
    assert named == [f"block_{place}_hidden" for place in range(len(left))]


def test_masks_and_latent_values_stay_with_their_blocks():
    model = tfprune.wrap(residual())
    tfprune.update_masks(model, 0.5)
    smaller, _ = tfprune.transformers.drop_blocks(model, [1])
    for place, block in enumerate([0, 2]):
        ours, theirs = smaller.get_layer(f"block_{place}_out"), model.get_layer(f"block_{block}_out")
        np.testing.assert_array_equal(ours.masks["kernel"], theirs.masks["kernel"])
        np.testing.assert_array_equal(ours.latent("kernel"), theirs.latent("kernel"))
        assert ours.layer.name == ours.name
    np.testing.assert_allclose(tfprune.strip(smaller)(X), smaller(X), rtol=1e-6)


def test_the_smaller_model_is_saved_and_trains(tmp_path):
    smaller, _ = tfprune.transformers.drop_blocks(tfprune.wrap(residual()), [0])
    smaller.save(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "smaller.keras")(X), smaller(X))
    smaller.compile("sgd", "mse")
    smaller.fit(X, X[:, :2], verbose=0)


def test_blocks_with_attention_and_open_lengths_are_dropped():
    model = transformer(3)
    smaller, report = tfprune.transformers.drop_blocks(model, [0, 2])
    assert (report.into, len(report.rows), report.blocks) == ("graph", 1, 3)
    assert smaller(texts(2, length=5)).shape == (2, 5, 3)
    assert report.parameters[0] == model.count_params()
    assert report.parameters[1] == smaller.count_params()


def test_the_report_is_measured_on_the_data_that_are_given():
    _, report = tfprune.transformers.drop_blocks(residual(), [1], samples=(X, X[:, :2]))
    model = residual()
    whole, left = by_hand(model, [0, 1, 2], X), by_hand(model, [0, 2], X)
    assert report.samples == 16
    assert report.difference == pytest.approx(np.abs(whole - left).max() / np.abs(whole).max(), rel=1e-4)
    assert report.is_function_preserving is False
    assert report.as_dict()["order"] == [0, 2]
    assert "3 to 2 blocks, 238 to 162 parameters, a Functional model. The outputs differ" in str(report)


def test_a_block_that_adds_nothing_is_missed_by_nobody():
    model = residual()
    for variable in model.get_layer("block_1_out").weights:
        variable.assign(np.zeros(variable.shape))
    smaller, report = tfprune.transformers.drop_blocks(model, [1], samples=X)
    assert report.is_function_preserving
    assert report.difference == 0
    np.testing.assert_array_equal(smaller(X), model(X))


def test_outputs_of_blocks_that_are_gone_are_those_before_them():
    x = inputs = keras.Input((4,))
    outputs = []
    for index in range(3):
        x = layers.Dense(4, "relu", name=f"block_{index}_a")(x)
        outputs.append(x)
    model = keras.Model(inputs, {"all": outputs})
    smaller, _ = tfprune.transformers.drop_blocks(model, [1], blocks=BLOCK)
    first, second, last = smaller(X)["all"]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(last, model.layers[3](first), rtol=1e-6)


def test_a_layer_that_all_blocks_share_stays_one():
    shared = layers.Dense(4, "relu", name="shared")
    x = inputs = keras.Input((4,))
    for _ in range(3):
        x = layers.LayerNormalization()(shared(x))
    smaller, report = tfprune.transformers.drop_blocks(keras.Model(inputs, x), [1])
    assert [layer.name for layer in smaller.layers if isinstance(layer, layers.Dense)] == ["shared"]
    assert report.order == (0, 2)


@pytest.mark.parametrize(
    ("drop", "kind", "text"),
    [
        (
            [3],
            ValueError,
            r"among 0 to 2, and at least one other block. Received: block 3 of .*block_0_hidden, block_1_hidden",
        ),
        ([0, 1, 2], ValueError, "Received: all 3 of"),
        ([-1], ValueError, "Expected `drop` to be an integer of at least 0"),
        ([], ValueError, "to name some blocks"),
        ([1, 1], ValueError, "each once"),
        (["1"], TypeError, "Expected `drop` to be an integer"),
        (1, TypeError, "numbers of blocks"),
        ("12", TypeError, "numbers of blocks"),
    ],
)
def test_wrong_blocks_are_refused(drop, kind, text):
    with pytest.raises(kind, match=text):
        tfprune.transformers.drop_blocks(shared(), drop)


def test_data_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="with inputs of shape"):
        tfprune.transformers.drop_blocks(shared(), [0], samples=X[:, :3])
    with pytest.raises(TypeError, match="read more than once"):
        tfprune.transformers.drop_blocks(shared(), [0], samples=iter([X]))


def brute_force(model, count, y):
    """Return the blocks that go one by one and the losses after them, with the layers called by hand."""
    kept, found = list(range(5)), []
    for _ in range(count):
        losses = [
            (np.square(by_hand(model, [other for other in kept if other != block], X) - y).mean(), block)
            for block in kept
        ]
        least, block = min(losses)
        kept.remove(block)
        found.append((block, least))
    return kept, found


def test_blocks_that_go_one_by_one_are_those_of_a_loop_over_smaller_models():
    model = residual(5, bias=0)
    y = by_hand(model, range(5), X) + 0.1
    kept, found = brute_force(model, 3, y)
    smaller, report = tfprune.transformers.drop_blocks(
        model, count=3, data=(X, y), loss="mse", batch_size=5, verbose=0
    )
    assert [step.block for step in report.steps] == [block for block, _ in found]
    np.testing.assert_allclose([step.loss for step in report.steps], [loss for _, loss in found], rtol=1e-4)
    assert report.loss == pytest.approx(0.01, rel=1e-3)
    assert report.order == tuple(kept)
    np.testing.assert_allclose(smaller(X), by_hand(model, kept, X), rtol=1e-4, atol=1e-4)
    once = tfprune.transformers.rank_blocks(model, (X, y), loss="mse", verbose=0).order
    assert list(once[:3]) != [block for block, _ in found]  # so that this test tells the two apart
    assert "dropped  first layer" in str(report)
    assert report.as_dict()["steps"][0]["block"] == found[0][0]


def test_the_loss_is_that_of_the_compiled_model():
    model = residual()
    model.compile("sgd", "mae")
    _, report = tfprune.transformers.drop_blocks(model, count=1, data=(X, by_hand(model, [0, 1, 2], X) + 0.1))
    assert report.loss == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({}, ValueError, "either `drop`.* or `count`.*Received: neither"),
        ({"drop": [0], "count": 1}, ValueError, r"Received: drop=\[0\], count=1"),
        ({"drop": [0], "data": (X, X[:, :2])}, ValueError, "Expected `count` with `data` and `loss`"),
        ({"count": 1, "loss": "mse"}, ValueError, "Expected `data` with `count`"),
        ({"count": 1, "data": (X, X[:, :2])}, ValueError, "one output and a loss"),
        ({"count": 1, "data": X, "loss": "mse"}, ValueError, "with targets"),
        ({"count": 3, "data": (X, X[:, :2]), "loss": "mse"}, ValueError, "Expected `count` to be .* 1 to 2"),
        ({"count": 0, "data": (X, X[:, :2]), "loss": "mse"}, ValueError, "Expected `count` to be"),
        ({"count": 1.0, "data": (X, X[:, :2]), "loss": "mse"}, TypeError, "Expected `count` to be an integer"),
        ({"count": 1, "data": (X[:0], X[:0, :2]), "loss": "mse"}, ValueError, "at least one sample"),
    ],
)
def test_what_cannot_choose_blocks_is_refused(arguments, kind, text):
    model = residual()
    with pytest.raises(kind, match=text):
        tfprune.transformers.drop_blocks(model, **arguments)


def test_a_model_without_blocks_is_refused():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="blocks"):
        tfprune.transformers.drop_blocks(keras.Model(x, layers.Dense(2)(x)), count=1, data=(X, X[:, :2]), loss="mse")
