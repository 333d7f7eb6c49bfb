"""Channels and heads pruned in training: what is wrapped, what is masked, and that it shrinks to the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from graphs import RandomGraph, residual, small_vit, subclassed
from tiers import first

import tfprune
from tfprune import Pruned, PruningCallback, plan_shrink, shrink, update_masks, wrap
from tfprune.patterns import Channel, Head
from tfprune.schedules import Polynomial

layers = keras.layers


def wrapped_layers(model):
    return {layer.name: layer.pattern for layer in model.layers if isinstance(layer, Pruned)}


def mask(model, layer, weight="kernel"):
    return np.array(model.get_layer(layer).masks[weight]).astype(bool)


def test_every_layer_that_makes_or_reads_channels_is_wrapped():
    makes, reads = Channel(), Channel(makes=False)
    assert wrapped_layers(wrap(residual(), pattern="channel")) == {
        "stem": makes,
        "expand": makes,
        "project": makes,
        "out": reads,
    }
    assert wrapped_layers(wrap(residual(), pattern="channel", filters="expand")) == {
        "expand": makes,
        "project": reads,
    }


def test_masks_of_makers_and_readers_agree():
    model = wrap(residual(), pattern="channel")
    stem = np.array(model.get_layer("stem").latent("kernel"))
    project = np.array(model.get_layer("project").latent("kernel"))
    update_masks(model, 0.5)
    means = (np.abs(stem).sum((0, 1, 2)) + np.abs(project).sum((0, 1, 2))) / (27 + 16)
    kept = means >= np.sort(means)[4]
    inner = mask(model, "expand").any((0, 1, 2))
    assert kept.sum() == 4 and inner.sum() == 8
    assert np.array_equal(mask(model, "stem"), np.broadcast_to(kept, (3, 3, 3, 8)))
    assert np.array_equal(mask(model, "expand")[0, 0], np.outer(kept, inner))
    assert np.array_equal(mask(model, "project")[0, 0], np.outer(inner, kept))
    assert np.array_equal(mask(model, "out"), np.outer(kept, np.ones(4)))


def test_a_kernel_that_makes_only_channels_that_stay_is_not_wrapped_and_the_others_lose_theirs():
    x = keras.Input((5,))
    free, held = layers.Dense(4, name="free")(x), layers.Dense(4, name="held")(x)
    both = layers.Add()([layers.Concatenate()([free, held]), layers.Dense(8, name="beside")(x)])
    model = wrap(keras.Model(x, [layers.Dense(2, name="out")(both), held]), pattern="channel")
    assert set(wrapped_layers(model)) == {"free", "beside", "out"}
    update_masks(model, 0.25)
    assert mask(model, "beside").any(0).sum() == 6 and mask(model, "beside").any(0)[4:].all()
    assert mask(model, "free").any(0).sum() == 2


@pytest.mark.programs
def test_channels_pruned_in_training_shrink_to_the_same_outputs(tmp_path):
    keras.utils.set_random_seed(1)
    model = wrap(residual(), pattern="channel")
    model.compile(keras.optimizers.Adam(0.01, weight_decay=0.01), "mse")
    data = np.random.default_rng(1).normal(size=(64, 8, 8, 3)).astype("float32")
    callback = PruningCallback(Polynomial(0.75, end=0.9), every=3)
    history = model.fit(data, data[:, 0, :4, 0], batch_size=4, epochs=2, callbacks=[callback], verbose=0)
    assert history.history["sparsity"][0] < history.history["sparsity"][1]
    plan = plan_shrink(model)
    assert [(row.group, row.kept) for row in plan.rows] == [("stem", 2), ("expand", 4), ("out", 4)]
    smaller = shrink(model, plan)
    np.testing.assert_allclose(smaller(data), model(data), atol=1e-5)

    model.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(loaded(data), model(data))
    assert wrapped_layers(loaded) == wrapped_layers(model)
    update_masks(loaded, 0.875)  # the loaded model goes on
    assert [row.kept for row in plan_shrink(loaded).rows] == [1, 2, 4]


@pytest.mark.parametrize("kind", ["vectors", "images", "sequences"])
@pytest.mark.parametrize("seed", first(*range(4)))
def test_random_graphs_shrink_to_what_their_masks_compute(kind, seed):
    model = wrap(getattr(RandomGraph(seed), kind)(), pattern="channel")
    update_masks(model, 0.4)
    smaller = shrink(model, plan_shrink(model))
    data = np.random.default_rng(1).normal(size=(3, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(model(data))
    np.testing.assert_allclose(smaller(data), expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.programs
def test_heads_and_hidden_units_of_a_transformer():
    heads = wrap(small_vit(), pattern="head")
    assert wrapped_layers(heads) == {"attention_0": Head(), "attention_1": Head()}
    both = wrap(heads, pattern="channel", filters="wide")
    assert wrapped_layers(both)["wide_0"] == Channel()
    update_masks(both, allocation={"attention": 0.75, "wide": 0.5}, sparsity=0.0)
    kept = {row.group: row.kept for row in plan_shrink(both).rows}
    assert kept == {
        "patches": 16,
        "attention_0/heads": 1,
        "wide_0": 16,
        "attention_1/heads": 1,
        "wide_1": 16,
        "out": 5,
    }
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(shrink(both, plan_shrink(both))(images), both(images), atol=1e-5)


def test_the_heads_that_go_are_those_of_least_weight():
    model = wrap(small_vit(blocks=1), pattern="head")
    attention = model.get_layer("attention_0")
    scale = np.array([3.0, 1, 4, 2]).reshape(1, 4, 1)
    for name in ("query/kernel", "key/kernel", "value/kernel"):
        attention.kernels[name].variable.assign(np.ones((16, 4, 4)) * scale)
    update_masks(model, 0.5)
    assert mask(model, "attention_0", "query/kernel").any((0, 2)).tolist() == [True, False, True, False]
    assert mask(model, "attention_0", "attention_output/kernel").any((1, 2)).tolist() == [True, False, True, False]


def test_a_group_left_out_keeps_its_masks():
    model = wrap(residual(), pattern="channel")
    update_masks(model, 0.5)
    before = mask(model, "stem")
    update_masks(model, 0.75, allocation={"stem": None})
    assert np.array_equal(mask(model, "stem"), before)
    assert mask(model, "expand").any((0, 1, 2)).sum() == 4


def test_channels_come_back_when_they_rank_higher():
    model = wrap(residual(), pattern="channel", filters="expand")
    update_masks(model, 0.5)
    assert mask(model, "expand").any((0, 1, 2)).sum() == 8
    update_masks(model, 0.0)
    assert mask(model, "expand").all() and mask(model, "project").all()


def test_the_number_kept_is_a_multiple():
    model = wrap(residual(), pattern=Channel(round_to=4))
    update_masks(model, 0.6)  # 3.2 of 8 and 6.4 of 16 would stay
    assert [row.kept for row in plan_shrink(model).rows] == [4, 8, 4]
    assert wrapped_layers(model)["out"] == Channel(makes=False, round_to=4)


def test_a_frozen_layer_keeps_its_channels():
    model = wrap(residual(), pattern="channel")
    model.get_layer("project").trainable = False
    with pytest.raises(ValueError, match=r"Received a model where none can go: .*project/kernel is frozen"):
        update_masks(model, 0.5)
    model = wrap(residual(), pattern="channel")
    model.get_layer("stem").trainable = False
    update_masks(model, 0.5)
    assert mask(model, "stem").all() and not mask(model, "project").all()


def test_patterns_of_weights_and_of_channels_in_one_model():
    model = wrap(wrap(residual(), pattern="channel", filters="expand"), filters=["stem", "out"])
    report = update_masks(model, 0.5)
    assert mask(model, "stem").mean() == 0.5 and mask(model, "out").mean() == 0.5
    assert mask(model, "expand").any((0, 1, 2)).sum() == 8
    assert report.sparsity == 0.5


def test_of_a_layer_by_itself_whole_outputs_are_masked():
    layer = Pruned(layers.Dense(4), pattern="channel")
    layer(np.ones((1, 3), "float32"))
    layer.kernels["kernel"].variable.assign(np.ones((3, 4)) * [3, 1, 4, 2])
    update_masks(layer, 0.5)
    assert np.array(layer.masks["kernel"]).tolist() == [[1, 0, 1, 0]] * 3


def test_an_error_leaves_the_masks_as_they_were():
    model = wrap(residual(), pattern="channel")
    update_masks(model, 0.25)
    before = {layer: mask(model, layer) for layer in wrapped_layers(model)}
    stem = model.get_layer("stem").kernels["kernel"].variable
    stem.assign(stem * np.nan)
    with pytest.raises(ValueError, match="Expected finite values in stem/kernel"):
        update_masks(model, 0.5)
    assert all(np.array_equal(mask(model, layer), before[layer]) for layer in before)


def test_what_cannot_be_wrapped_by_channels_is_refused():
    with pytest.raises(ValueError, match="and these have to stay: out: an output of the model"):
        wrap(residual(), pattern="channel", filters="out")
    with pytest.raises(ValueError, match=r"Expected heads that can be removed. .* none are made by a kernel"):
        wrap(residual(), pattern="head")
    with pytest.raises(ValueError, match="stem: stem is wrapped already"):
        wrap(wrap(residual(), filters="stem"), pattern="channel", filters="stem")

    with pytest.raises(ValueError, match="have to stay: .*: an output of the model"):
        wrap(subclassed(), pattern="channel")


def test_a_file_of_other_masks_is_refused(tmp_path):
    free, channels = wrap(residual()), wrap(residual(), pattern="channel")
    update_masks(free, 0.5)
    for name in ("stem", "expand", "project", "out"):  # the same layers are wrapped in both
        assert isinstance(free.get_layer(name), Pruned) and isinstance(channels.get_layer(name), Pruned)
    free.save_weights(tmp_path / "free.weights.h5")
    with pytest.raises(ValueError, match="Wrap with the pattern that the file was trained with"):
        channels.load_weights(tmp_path / "free.weights.h5")


def test_a_shrunk_model_is_wrapped_again():
    model = wrap(residual(), pattern="channel")
    update_masks(model, 0.5)
    again = wrap(shrink(model, plan_shrink(model)))
    update_masks(again, 0.5)
    assert tfprune.sparsity_report(again).sparsity == 0.5
