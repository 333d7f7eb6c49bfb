"""What goes together in a network, against tables made by hand; FLOPs against TensorFlow's profiler."""

from __future__ import annotations

import functools
import re
import sys

import keras
import numpy as np
import pytest
from flops import multiplications
from graphs import RandomGraph, residual, subclassed
from tiers import first

import tfprune
from tfprune import budget, plan_shrink
from tfprune.report import Skipped

layers = keras.layers


def table(model, sparsity=0.5, **settings):
    return {row.group: (row.kind, row.channels, row.kept) for row in plan_shrink(model, sparsity, **settings).rows}


def members(model, sparsity=0.5, **settings):
    return {row.group: row.members for row in plan_shrink(model, sparsity, **settings).rows}


def test_an_addition_ties_both_branches_and_a_depthwise_layer_passes_its_channels():
    assert table(residual()) == {
        "stem": ("channels", 8, 4),
        "expand": ("channels", 16, 8),
        "out": ("channels", 4, 4),
    }
    assert members(residual()) == {
        "stem": ("stem", "expand", "project", "out"),
        "expand": ("expand", "norm", "depthwise", "project"),
        "out": ("out",),
    }


def test_a_concatenation_maps_slices():
    x = keras.Input((4,))
    one, other = layers.Dense(3, name="one")(x), layers.Dense(5, name="other")(x)
    both = layers.Concatenate()([one, other])
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Add()([both, layers.Dense(8, name="third")(x)])))
    assert table(model) == {"one": ("channels", 8, 4), "out": ("channels", 2, 2)}
    plain = keras.Model(x, layers.Dense(2, name="out")(both))
    assert table(plain) == {"one": ("channels", 3, 1), "other": ("channels", 5, 3), "out": ("channels", 2, 2)}


def test_a_squeeze_and_excite_gate_follows_what_it_multiplies():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(image)
    gate = layers.Reshape((1, 1, 6))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(6, 1, activation="sigmoid", name="up")(layers.Conv2D(2, 1, name="down")(gate))
    model = keras.Model(image, layers.Dense(2, name="out")(layers.Flatten()(layers.Multiply()([x, gate]))))
    assert table(model) == {"conv": ("channels", 6, 3), "down": ("channels", 2, 1), "out": ("channels", 2, 2)}
    assert members(model)["conv"] == ("conv", "down", "up", "out")


def test_a_group_of_a_convolution_goes_as_a_whole():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, name="conv")(image)
    x = layers.Conv2D(8, 3, groups=4, name="grouped")(x)
    model = keras.Model(image, layers.Dense(2, name="out")(layers.GlobalMaxPooling2D()(x)))
    assert table(model)["conv"] == ("channels", 4, 2)  # bundles of three inputs and two outputs
    shrunk = tfprune.shrink(model, plan_shrink(model, 0.5))
    assert shrunk.get_layer("grouped").groups == 2
    assert shrunk.get_layer("grouped").kernel.shape == (3, 3, 3, 4)


def test_units_of_recurrent_layers_go_with_their_states():
    series = keras.Input((6, 4))
    x, *states = layers.LSTM(10, return_sequences=True, return_state=True, name="encoder")(series)
    x = layers.LSTM(10, return_sequences=True, name="decoder")(x, initial_state=states)
    model = keras.Model(series, layers.Dense(3, name="out")(layers.GRU(7, name="last")(x)))
    assert table(model) == {
        "encoder": ("channels", 10, 5),  # the state that a cell starts from is added to what it makes
        "last": ("channels", 7, 3),
        "out": ("channels", 3, 3),
    }


def test_heads_are_groups_of_their_own():
    tokens = keras.Input((6, 8))
    x = layers.MultiHeadAttention(4, 2, name="attention")(tokens, tokens)
    x = layers.GroupQueryAttention(2, 6, 3, name="grouped")(x, x)
    model = keras.Model(tokens, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(x)))
    found = {(row.group, row.kind): (row.channels, row.kept) for row in plan_shrink(model, 0.5).rows}
    assert found["attention/heads", "heads"] == (4, 2)
    assert found["grouped/heads", "heads"] == (3, 1)  # of two query heads each: 3 - round(1.5)


def test_a_layer_called_twice_ties_what_it_takes_to_what_it_gives():
    x = keras.Input((5,))
    first, shared = layers.Dense(6, name="first"), layers.Dense(6, name="shared")
    model = keras.Model(x, layers.Dense(2, name="out")(shared(shared(first(x)))))
    assert table(model) == {"first": ("channels", 6, 3), "out": ("channels", 2, 2)}


def test_a_nested_model_is_followed_inside():
    inner = keras.Input((6,))
    part = keras.Model(inner, layers.Dense(4, name="last")(layers.Dense(8, name="hidden")(inner)), name="part")
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(2, name="out")(part(layers.Dense(6, name="hidden")(x))))
    assert {name: row[1:] for name, row in table(model).items()} == {
        "hidden": (6, 3),
        "part_hidden": (8, 4),
        "last": (4, 2),
        "out": (2, 2),
    }


def test_what_has_to_stay_is_listed_with_the_reason():
    class Mixing(layers.Layer):
        def call(self, inputs):
            return keras.ops.flip(inputs, axis=-1)

    x = keras.Input((5,))
    hidden = Mixing(name="mixing")(layers.Dense(6, name="hidden")(layers.Dense(8, name="first")(x)))
    scores = layers.Dense(4, activation="softmax", name="scores")(hidden)
    model = keras.Model(x, layers.Dense(2, name="out")(scores))
    plan = plan_shrink(model, 0.5)
    assert {row.group: row.kept for row in plan.rows} == {"first": 4, "hidden": 6, "scores": 4, "out": 2}
    assert {entry.layer: entry.reason for entry in plan.skipped} == {
        "hidden": "mixing: no rule for Mixing: add one with tfprune.register_shrinkable",
        "scores": "scores: its activation softmax may look at several channels at once",
        "out": "an output of the model",
    }
    assert {entry.kind for entry in plan.skipped} == {Skipped.HELD}
    free = keras.Sequential([keras.Input((5,)), *(layers.Dense(4, name=name) for name in ("one", "two", "out"))])
    left = plan_shrink(free, 0.5, filters="one").skipped
    assert {entry.layer: entry.kind for entry in left} == {"two": Skipped.FILTERED, "out": Skipped.HELD}


def test_layers_without_a_rule_are_named_though_no_channels_lead_into_them():
    class Sorted(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(name="table", shape=(shape[-1], 6))

        def call(self, inputs):
            return keras.ops.sort(inputs @ self.table, axis=-1)

    x = keras.Input((4,))
    stack = [Sorted(name="sorted"), layers.Dense(8, name="hidden"), layers.Dense(2, name="out")]
    model = keras.Model(x, functools.reduce(lambda tensor, layer: layer(tensor), stack, x))
    plan = plan_shrink(model, 0.5)
    assert {row.group: row.kept for row in plan.rows} == {"hidden": 4, "out": 2}
    assert {entry.layer: entry.reason for entry in plan.skipped} == {
        "sorted": "no rule for Sorted: add one with tfprune.register_shrinkable",
        "out": "an output of the model",
    }
    alone = keras.Model(x, Sorted(name="last")(Sorted(name="first")(x)))
    with pytest.raises(ValueError, match="have to stay: first: no rule for Sorted: .*; last: no rule for Sorted"):
        plan_shrink(alone, 0.5)


def test_filters_for_an_attention_mean_its_heads_where_its_outputs_are_added():
    tokens = keras.Input((6, 8))
    attended = layers.MultiHeadAttention(4, 2, name="attention_0")(tokens, tokens)
    hidden = layers.Dense(16, name="up")(layers.Add()([tokens, attended]))
    model = keras.Model(tokens, layers.Dense(2, name="out")(hidden))
    plan = plan_shrink(model, 0.5, filters="attention_")
    kept = {row.group: (row.channels, row.kept) for row in plan.rows}
    assert kept["attention_0/heads"] == (4, 2) and kept["up"] == (16, 16)
    wrapped = tfprune.wrap(model, pattern="head", filters="attention_")
    tfprune.update_masks(wrapped, 0.5)
    query = np.asarray(wrapped.get_layer("attention_0").masks["query/kernel"])
    assert query.any(axis=(0, 2)).sum() == 2


def test_the_channels_that_go_are_those_of_least_weight_in_all_that_make_them():
    model = residual(4)
    model.get_layer("stem").kernel.assign(np.ones((3, 3, 3, 4)) * [3, 1, 2, 5])  # 27 entries a channel
    model.get_layer("project").kernel.assign(np.ones((1, 1, 8, 4)) * [1, 9, 1, 1])  # 8 entries
    plan = plan_shrink(model, 0.5, filters="stem")
    # Means: (27 * 3 + 8) / 35 = 2.54, (27 + 72) / 35 = 2.83, (54 + 8) / 35 = 1.77, (135 + 8) / 35 = 4.09.
    group = next(group for group in plan.network.groups if group.name == "stem")
    assert plan.keep[group.bundles].tolist() == [False, True, False, True]


@pytest.mark.parametrize(("sparsity", "round_to", "kept"), [(0.5, 1, 12), (0.5, 8, 16), (0.9, 8, 8), (0.0, 8, 24)])
def test_the_number_kept_is_rounded_up(sparsity, round_to, kept):
    layers_ = [keras.Input((8,)), layers.Dense(24, name="hidden"), layers.Dense(2, name="out")]
    assert table(keras.Sequential(layers_), sparsity, round_to=round_to)["hidden"] == ("channels", 24, kept)


def test_allocations_are_those_of_weights():
    by_name = table(residual(), 0.5, allocation={"^stem": 0.25, "expand": None})
    assert {name: kept for name, (_, _, kept) in by_name.items()} == {"stem": 6, "expand": 16, "out": 4}
    model = residual()
    model.get_layer("expand").kernel.assign(model.get_layer("expand").kernel * 100)
    assert table(model, 0.25, allocation="global") == {
        "stem": ("channels", 8, 2),  # six of the 24, and all of them here
        "expand": ("channels", 16, 16),
        "out": ("channels", 4, 4),
    }


def test_filters_choose_groups_by_the_kernels_that_make_them():
    assert {name: kept for name, (_, _, kept) in table(residual(), filters="project/kernel").items()} == {
        "stem": 4,
        "expand": 16,
        "out": 4,
    }
    with pytest.raises(ValueError, match="Received: filters='out', and these have to stay: out: an output"):
        plan_shrink(residual(), 0.5, filters="out")
    with pytest.raises(ValueError, match=r"'nothing', which is found in none of stem/kernel, expand/kernel"):
        plan_shrink(residual(), 0.5, filters="nothing")


def test_a_plan_without_a_sparsity_removes_what_nothing_reads():
    model = residual()
    kernel = np.array(model.get_layer("project").kernel)
    kernel[:, :, [1, 5, 7]] = 0
    model.get_layer("project").kernel.assign(kernel)
    plan = plan_shrink(model)
    assert {row.group: row.kept for row in plan.rows} == {"stem": 8, "expand": 13, "out": 4}
    model.get_layer("project").kernel.assign(0 * kernel)
    with pytest.raises(ValueError, match="at least one channel of 'expand' that a kernel reads. Received: none"):
        plan_shrink(model)


def test_the_table_names_groups_sizes_and_what_was_left_alone():
    text = str(plan_shrink(residual(), 0.5))
    assert [line.split()[0] for line in text.splitlines() if line.strip()] == [
        *("group", "---------", "stem", "expand", "out", "the"),
        *("skipped", "-------", "out"),
    ]
    assert "stem, expand, project and 1 more" in text


def test_a_plan_is_plain_data():
    import json

    plan = plan_shrink(residual(), 0.5)
    read = json.loads(json.dumps(plan.as_dict()))
    assert read["rows"][0]["group"] == "stem" and read["rows"][0]["kept"] == 4
    assert plan.allocation() == {"^stem$": 0.5, "^expand$": 0.5, "": 0.0}


def test_a_picture_of_the_channels_kept(tmp_path):
    plan = plan_shrink(residual(), 0.5)
    plan.plot(tmp_path / "channels.png")
    assert (tmp_path / "channels.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="Expected a file that can be written. Received: .*No such file"):
        plan.plot(tmp_path / "missing" / "channels.png")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ValueError, match=re.escape('Run pip install "tfprune[plot]" (from a checkout: pip install ".[plot]").')
    ):
        plan_shrink(residual(), 0.5).plot(tmp_path / "channels.png")


@pytest.mark.parametrize(
    "make", first(residual, lambda: keras.applications.MobileNetV2((64, 64, 3), 0.35, weights=None))
)
def test_flops_and_parameters_are_those_of_the_models(make):
    model = make()
    plan = plan_shrink(model, 0.4)
    shrunk = tfprune.shrink(model, plan)
    assert (plan.parameters, plan.parameters_kept) == (model.count_params(), shrunk.count_params())
    assert (plan.flops, plan.flops_kept) == (multiplications(model), multiplications(shrunk))


def test_the_model_is_left_untouched():
    model = RandomGraph(3).images()
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    plan_shrink(model, 0.5)
    assert [layer.name for layer in model.layers] == names
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "text"),
    [
        (
            (keras.layers.Dense(3),),
            {},
            TypeError,
            "Expected a Keras model. Received: model=<Dense .* of type Dense. A layer",
        ),
        ((residual(), 50), {}, ValueError, r"Expected `sparsity` to be a number in \[0, 1\).*For 50 % pass 0.5"),
        ((residual(), "half"), {}, TypeError, "Expected `sparsity` to be a number"),
        ((residual(), 0.5), {"round_to": 0}, ValueError, "`round_to` to be an integer of at least 1"),
        ((residual(),), {"round_to": 8}, ValueError, "Expected a sparsity, a budget or .* with `round_to`: without"),
        (
            (residual(),),
            {"allocation": {"stem": 0.5}},
            ValueError,
            "`allocation`: .* allocation={'stem': 0.5}. Pass it",
        ),
        (
            (residual(),),
            {"criterion": {"stem": np.ones(8)}, "filters": "stem"},
            ValueError,
            "with `criterion` and `filters`.*or leave them out",
        ),
        ((residual(), 0.5), {"criterion": "loud"}, ValueError, "criterion='loud'"),
        ((residual(), 0.5), {"allocation": "fair"}, ValueError, "allocation='fair'"),
        ((residual(), 0.5), {"allocation": budget(flops=0.5)}, TypeError, "in place of the sparsity"),
        ((keras.Sequential([layers.Dense(3)]),), {}, ValueError, "built"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, settings, error, text):
    with pytest.raises(error, match=text):
        plan_shrink(*arguments, **settings)


def test_a_subclassed_model_that_was_never_called_is_refused():
    with pytest.raises(ValueError, match="of class Subclassed, whose layers cannot be followed. Build it as"):
        plan_shrink(type(subclassed())(), 0.5)


def test_a_diverged_model_is_refused():
    model = residual()
    model.get_layer("expand").kernel.assign(model.get_layer("expand").kernel * np.nan)
    with pytest.raises(ValueError, match="Expected finite values in expand/kernel"):
        plan_shrink(model, 0.5)
