"""Putri on small transformers of plain layers, against NumPy and against the model that it was given."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from small_transformer import HIDDEN, TOKENS, WIDTH, numpy, texts, transformer
from tiers import first

import tfprune
from tfprune import prune_units
from tfprune.solving.dependency_graph import _unread, is_cut_off

layers = keras.layers
shared = functools.cache(transformer)  # for what is refused


def inner(model, name, x):
    """Return what a layer takes, one row for each token."""
    taken = keras.Model(model.inputs, model.get_layer(name).input)
    found = numpy(taken(x))
    return found.reshape(-1, found.shape[-1])


def test_each_network_is_cut_and_solved_on_the_outputs_of_those_before_it():
    """Independently: the units of largest norm stay, and the rest is least squares on them and a constant."""
    model, x = transformer(), texts()
    before = [values.copy() for values in model.get_weights()]
    masked, report = prune_units(model, x, sparsity={"units": 0.5}, ridge=1e-9, holdout=0, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [(row.group, row.channels, row.kept) for row in report.rows] == [
        ("hidden_0", HIDDEN, 12),
        ("hidden_1", HIDDEN, 12),
    ]
    for block in range(2):
        hidden, back = model.get_layer(f"hidden_{block}"), model.get_layer(f"back_{block}")
        taken = inner(masked, f"hidden_{block}", x)  # after the blocks before it were cut and solved
        units = np.maximum(taken @ numpy(hidden.kernel) + numpy(hidden.bias), 0)
        kept = np.sort(np.argsort(np.linalg.norm(units, axis=0))[12:])
        kernel = numpy(masked.get_layer(f"back_{block}").kernel)
        np.testing.assert_array_equal(np.flatnonzero(kernel.any(axis=1)), kept)
        wanted = units @ numpy(back.kernel) + numpy(back.bias)
        seen = np.column_stack([units[:, kept], np.ones(len(units))])
        solved = np.linalg.lstsq(seen, wanted, rcond=None)[0]
        np.testing.assert_allclose(kernel[kept], solved[:-1], atol=2e-4)
        np.testing.assert_allclose(numpy(masked.get_layer(f"back_{block}").bias), solved[-1], atol=2e-4)
        row = report.rows[block].error
        left = np.sum((seen @ solved - wanted) ** 2) / np.sum(wanted**2)
        alone = np.sum((seen[:, :-1] @ numpy(back.kernel)[kept] + numpy(back.bias) - wanted) ** 2)
        assert row.after == pytest.approx(left, rel=1e-3)
        assert row.before == pytest.approx(alone / np.sum(wanted**2), rel=1e-3)
    smaller = tfprune.shrink(masked, report.plan)
    np.testing.assert_allclose(numpy(smaller(x)), numpy(masked(x)), atol=1e-4)
    assert smaller.get_layer("hidden_1").units == 12


@pytest.mark.programs
def test_a_budget_is_met_within_one_unit_and_the_model_saves(tmp_path):
    model, x = transformer(blocks=3), texts()
    masked, report = prune_units(model, x, sparsity=0.4, batch_size=10, verbose=0)
    unit, head = 2 * WIDTH + 1, 3 * (2 * WIDTH + 2) + 2 * WIDTH
    blocks = 3 * (HIDDEN * unit + 4 * head)
    gone = report.plan.parameters - report.plan.parameters_kept
    assert abs(gone - 0.4 * blocks) <= 3 * unit
    heads = [row for row in report.rows if row.kind == "heads"]
    removed, _ = tfprune.transformers.transformer_budget(
        0.4, block_count=3, attention=4 * head, feed_forward=HIDDEN * unit, width=HIDDEN
    )
    assert removed >= 1 and sum(row.channels - row.kept for row in heads) == 4 * removed
    assert min(row.kept for row in heads) >= 1
    smaller = tfprune.shrink(masked, report.plan)
    assert model.count_params() - smaller.count_params() == gone
    np.testing.assert_allclose(numpy(smaller(x)), numpy(masked(x)), atol=1e-4)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_allclose(numpy(loaded(x)), numpy(smaller(x)), atol=1e-6)
    assert "error without reconstruction" in str(report)


def test_of_grouped_queries_a_whole_group_goes():
    model = transformer(attention=lambda block: layers.GroupQueryAttention(2, 4, 2, name=f"attention_{block}"))
    x = texts()
    masked, report = prune_units(model, x, sparsity={"heads": 0.5}, holdout=0, verbose=0)
    assert [(row.group, row.kept) for row in report.rows if row.kind == "heads"] == [
        ("attention_0/heads", 1),
        ("attention_1/heads", 1),
    ]
    smaller = tfprune.shrink(masked, report.plan)
    layer = smaller.get_layer("attention_0")
    assert (layer.num_query_heads, layer.num_key_value_heads) == (2, 1)
    np.testing.assert_allclose(numpy(smaller(x)), numpy(masked(x)), atol=1e-4)


def test_heads_go_without_which_the_model_changes_least():
    """One head of all: the one found by trying each by hand."""
    model, x = transformer(), texts(count=8)
    _, report = prune_units(model, x, sparsity={"heads": 1 / 8}, holdout=0, reconstruction=None, verbose=0)
    expected, distances = numpy(model(x)), {}
    for name in ("attention_0", "attention_1"):
        for head in range(4):
            copy = keras.models.clone_model(model)
            copy.set_weights(model.get_weights())
            (kernel,) = [one for one in copy.get_layer(name).weights if one.path.endswith("attention_output/kernel")]
            values = numpy(kernel)
            values[head] = 0
            kernel.assign(values)
            distances[f"{name}/heads", head] = np.mean((numpy(copy(x)) - expected) ** 2)
    name, head = min(distances, key=distances.get)
    (group,) = [group for group in report.plan.network.groups if group.name == name]
    assert np.flatnonzero(~report.plan.keep[group.bundles]).tolist() == [head]
    assert {row.group: row.kept for row in report.rows if row.kind == "heads"}[name] == 3


def test_heads_by_a_loss():
    model, x = transformer(), texts(count=8)
    y = np.random.default_rng(1).integers(0, 3, (8, 6))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    _, report = prune_units(model, (x, y), sparsity={"heads": 0.25}, judge=loss, holdout=0, verbose=0)
    assert sum(row.channels - row.kept for row in report.rows if row.kind == "heads") == 2
    with pytest.raises(ValueError, match="with labels"):
        prune_units(model, x, sparsity={"heads": 0.25}, judge=loss, holdout=0, verbose=0)


def test_a_unit_that_is_constant_is_taken_over_by_the_bias():
    model, x = transformer(blocks=1), texts()
    hidden, back = model.get_layer("hidden_0"), model.get_layer("back_0")
    kernel, bias = hidden.get_weights()
    kernel[:, 5], bias[5] = 0, 1e-3  # constant, and of the smallest norm, but of large weights
    hidden.set_weights([kernel, bias])
    kernel = back.get_weights()[0]
    kernel[5] = 1e4
    back.set_weights([kernel, back.get_weights()[1]])
    masked, report = prune_units(model, x, sparsity={"units": 1 / HIDDEN}, ridge=1e-9, holdout=0, verbose=0)
    assert report.rows[0].kept == HIDDEN - 1
    np.testing.assert_allclose(numpy(masked(x)), numpy(model(x)), atol=1e-3)
    without, _ = prune_units(model, x, sparsity={"units": 1 / HIDDEN}, reconstruction=None, holdout=0, verbose=0)
    assert np.abs(numpy(without(x)) - numpy(model(x))).max() > 1


@pytest.mark.parametrize("criterion", first("putri", "activation", "wanda", "obs", "greedy"))
def test_an_update_is_never_worse_on_the_calibration_data(criterion):
    model, x = transformer(), texts()
    for update, targets in [("sequential", "own"), ("sequential", "dense"), ("parallel", "own"), (None, "own")]:
        settings = {"criterion": criterion, "reconstruction": update, "targets": targets, "holdout": 0, "verbose": 0}
        masked, report = prune_units(model, x, sparsity={"units": 0.5}, **settings)
        assert all(row.error.after <= row.error.before for row in report.rows)
        assert all(row.is_updated == (update is not None) for row in report.rows)
        assert np.isfinite(numpy(masked(x))).all()


def test_parallel_looks_at_the_dense_model_only():
    model, x = transformer(), texts()
    masked, _ = prune_units(
        model, x, sparsity={"units": 0.5}, reconstruction="parallel", ridge=1e-9, holdout=0, verbose=0, batch_size=7
    )
    units = inner(model, "back_1", x)
    kept = np.flatnonzero(numpy(masked.get_layer("back_1").kernel).any(axis=1))
    np.testing.assert_array_equal(kept, np.sort(np.argsort(np.linalg.norm(units, axis=0))[12:]))
    seen = np.column_stack([units[:, kept], np.ones(len(units))])
    back = model.get_layer("back_1")
    solved = np.linalg.lstsq(seen, units @ numpy(back.kernel) + numpy(back.bias), rcond=None)[0]
    np.testing.assert_allclose(numpy(masked.get_layer("back_1").kernel)[kept], solved[:-1], atol=2e-4)


def test_an_update_that_is_worse_on_texts_kept_apart_is_not_kept():
    model, kept = transformer(blocks=1), set()
    for seed in range(8):
        batches = [texts(8, seed=seed), texts(1, length=3 + 4 * seed, seed=100 + seed)]  # the first one is kept apart
        _, report = prune_units(model, batches, sparsity={"units": 0.8}, ridge=1e-9, holdout=0.5, verbose=0)
        (row,) = report.rows
        assert row.is_updated == (row.error.held_after <= row.error.held_before)
        assert row.is_updated or row.error.after == row.error.before
        kept.add(row.is_updated)
    assert kept == {True, False}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sparsity": {"layers": 0.5}}, "'units', 'heads' or both"),
        ({"sparsity": {}}, "'units', 'heads' or both"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"criterion": "best"}, "criterion"),
        ({"reconstruction": "all"}, "reconstruction"),
        ({"reconstruction": {"units": None}}, "one for 'units' and one for 'heads'"),
        ({"reconstruction": {"units": None, "heads": "all"}}, "reconstruction"),
        ({"judge": "perplexity"}, "can make logits of 30 tokens"),
        ({"judge": "best"}, "best"),
        ({"targets": "other"}, "targets"),
        ({"holdout": 0.7}, "holdout"),
    ],
)
def test_settings_that_cannot_be(settings, reason):
    model = shared()
    before = [values.copy() for values in model.get_weights()]
    with pytest.raises(ValueError, match=reason):
        prune_units(model, texts(), verbose=0, **settings)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (texts() + TOKENS, rf"token ids from 0 to {TOKENS - 1} in `samples`. Received: ids with"),
        (texts() - 5, "Received: ids with -"),
        (np.zeros((4, 0), "int32"), "texts with tokens"),
        (np.zeros((0, 6), "int32"), "at least one sample"),
    ],
)
def test_texts_that_cannot_be(data, reason):
    with pytest.raises(ValueError, match=reason):
        prune_units(shared(), data, verbose=0)


def test_models_without_units():
    series = keras.Input((5, 6))
    model = keras.Model(series, layers.MultiHeadAttention(2, 3, name="attention")(series, series))
    with pytest.raises(ValueError, match="hidden units that can be removed"):
        prune_units(model, np.zeros((4, 5, 6)), verbose=0)


def test_one_batch_is_enough_where_nothing_is_solved_for():
    x = keras.random.normal((16, 8), seed=0)
    hidden = keras.layers.Dense(12, "relu", name="hidden")
    model = keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(3)])
    _, report = prune_units(model, x, reconstruction=None, batch_size=16, verbose=0)
    assert [(row.group, row.kept) for row in report.rows] == [("hidden", 6)]


def test_whole_branches_go(tmp_path):
    model, x = transformer(), texts()
    masked, report = prune_units(model, x, sparsity={"units": 0.99, "heads": 0.9}, ridge=1e-9, holdout=0, verbose=0)
    assert [row.kept for row in report.rows][:2] == [0, 0]
    assert {row.kept for row in report.rows if row.kind == "heads"} == {0, 1}
    for block in range(2):
        back = masked.get_layer(f"back_{block}")
        assert not numpy(back.kernel).any()
    row = report.rows[0].error
    assert row.before == pytest.approx(1) and row.after < 1
    smaller = tfprune.shrink(masked, report.plan)
    np.testing.assert_allclose(numpy(smaller(x)), numpy(masked(x)), atol=1e-5)
    assert not {"hidden_0", "back_0", "hidden_1", "back_1"} & {layer.name for layer in smaller.layers}
    assert sum("attention" in layer.name for layer in smaller.layers) == 1
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_allclose(numpy(loaded(x)), numpy(smaller(x)), atol=1e-6)


def test_the_bias_of_a_branch_that_is_gone_takes_over_its_mean():
    model, x = transformer(blocks=1), texts()
    settings = {"sparsity": {"units": 0.99}, "ridge": 1e-9, "holdout": 0, "verbose": 0}
    hidden, back = model.get_layer("hidden_0"), model.get_layer("back_0")
    units = np.maximum(inner(model, "hidden_0", x) @ numpy(hidden.kernel) + numpy(hidden.bias), 0)
    mean = (units @ numpy(back.kernel) + numpy(back.bias)).mean(axis=0)
    updated, _ = prune_units(model, x, **settings)
    np.testing.assert_allclose(numpy(updated.get_layer("back_0").bias), mean, atol=1e-5)
    left, report = prune_units(model, x, reconstruction=None, **settings)
    np.testing.assert_array_equal(numpy(left.get_layer("back_0").bias), numpy(back.bias))
    assert report.rows[0].error.after == report.rows[0].error.before == pytest.approx(1)


@pytest.mark.parametrize("sparsity", first(0.5, 0.9, 0.95))
def test_a_sparsity_is_met_or_the_report_says_why_not(sparsity):
    model, x = transformer(blocks=3), texts()
    masked, report = prune_units(model, x, sparsity=sparsity, reconstruction=None, verbose=0)
    total = report.total
    removed = report.plan.parameters - report.plan.parameters_kept
    assert (total.removed, total.asked) == (removed, round(sparsity * total.parameters))
    blocks = sum(layer.count_params() for layer in model.layers if layer.name.startswith(("hidden", "atten")))
    blocks += sum(model.get_layer(f"back_{block}").kernel.shape.num_elements() for block in range(3))
    assert total.parameters == blocks - 3 * WIDTH  # but for the biases that the ends of branches keep
    assert total.is_met == (abs(removed - total.asked) <= 0.01 * total.asked)
    assert ("The reasons" in str(report)) != total.is_met
    np.testing.assert_allclose(numpy(tfprune.shrink(masked, report.plan)(x)), numpy(masked(x)), atol=1e-5)


def test_keys_that_all_queries_share_count_and_go():
    """By hand: of an attention of width 8, four queries of 2 entries go, with one key and value."""
    model = transformer(attention=lambda block: layers.GroupQueryAttention(2, 4, 1, name=f"attention_{block}"))
    x = texts(count=8)
    masked, report = prune_units(model, x, sparsity={"heads": 0.5}, reconstruction=None, verbose=0)
    assert sorted(row.kept for row in report.rows if row.kind == "heads") == [0, 4]
    weights = 2 * WIDTH * 8 + 8 + 2 * (WIDTH * 2 + 2)  # queries and back, then key and value, with their biases
    assert model.count_params() - tfprune.shrink(masked, report.plan).count_params() == weights + WIDTH
    assert abs(report.total.removed - weights) <= 4  # biases of the key and value, which are in no kernel
    heads = [row for row in report.plan.rows if row.kind == "heads"]
    assert sorted(row.parameters_kept for row in heads)[0] == 0
    np.testing.assert_allclose(numpy(tfprune.shrink(masked, report.plan)(x)), numpy(masked(x)), atol=1e-5)


def test_what_the_model_has_no_way_around_keeps_a_unit():
    x = keras.random.normal((16, 8), seed=0)
    layers_ = [keras.Input((8,)), layers.Dense(12, "relu", name="hidden"), layers.Dense(3, name="out")]
    _, report = prune_units(keras.Sequential(layers_), x, sparsity=0.99, reconstruction=None, verbose=0)
    assert report.rows[0].kept == 1
    assert "one unit or head is kept in hidden, as the model has no way around them" in str(report)


def test_an_update_for_hidden_units_alone():
    """The paper's: heads go, and the weights that read the others stay as they are."""
    model, x = transformer(), texts()
    update = {"units": "sequential", "heads": None}
    masked, report = prune_units(
        model, x, sparsity={"units": 0.5, "heads": 0.5}, reconstruction=update, holdout=0, verbose=0
    )
    assert {row.kind: row.is_updated for row in report.rows} == {"channels": True, "heads": False}
    for name in ("attention_0", "attention_1"):
        kernels = [
            next(numpy(weight) for weight in one.get_layer(name).weights if "output/kernel" in weight.path)
            for one in (model, masked)
        ]
        np.testing.assert_array_equal(kernels[1], np.where(kernels[1] == 0, 0, kernels[0]))


def test_heads_by_perplexity():
    """Independently: the head without which the logits of the next tokens are worst in NumPy last."""
    model, x = transformer(), texts(count=8)
    logits = keras.Model(model.input, layers.Dense(TOKENS, name="logits")(model.get_layer("out").input))
    _, report = prune_units(logits, x, sparsity={"heads": 1 / 8}, judge="perplexity", holdout=0, verbose=0)
    losses = {}
    for name in ("attention_0", "attention_1"):
        (kernel,) = [one for one in logits.get_layer(name).weights if one.path.endswith("attention_output/kernel")]
        whole = numpy(kernel)
        for head in range(4):
            kernel.assign(np.where(np.arange(4)[:, None, None] == head, 0, whole))
            values = numpy(logits(x))[:, :-1]
            log_sum = np.log(np.exp(values).sum(axis=-1))
            losses[name, head] = np.mean(log_sum - np.take_along_axis(values, x[:, 1:, None], axis=-1)[..., 0])
        kernel.assign(whole)
    name, head = min(losses, key=losses.get)
    (group,) = [group for group in report.plan.network.groups if group.name == f"{name}/heads"]
    assert np.flatnonzero(~report.plan.keep[group.bundles]).tolist() == [head]


def test_an_example_of_what_is_no_longer_read():
    """A layer that is called twice leads into what comes before others, and is found all the same."""
    takers = {"x": {"a", "b", "add"}, "a": {"twice"}, "twice": {"out"}, "b": {"norm"}, "norm": {"twice"}}
    takers |= {"out": {"add"}, "add": {""}}
    assert _unread(takers, ends={"out"}) == {"a", "b", "norm", "twice"}
    assert _unread(takers, ends=()) == frozenset()
    assert not is_cut_off(takers, ends={"out"}) and is_cut_off({**takers, "x": {"a"}}, ends={"out"})
