"""Recurrent layers with states and masks: the smaller model against the given one with zeros in its own weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from recurrent import CASES, MASKS, UNITS, network
from tiers import first, in_test_all

import tfprune
from tfprune import Pruned, plan_shrink, shrink, wrap, zero_channels

layers = keras.layers


def masked_cases():
    """Pair all cases with all masks; only `make test-all` runs more than every fifth case, with the masks in turn."""
    for place, case in enumerate(CASES):
        for turn, mask in enumerate(MASKS):
            yield (*case, mask) if place % 5 == 0 and turn == place // 5 % len(MASKS) else in_test_all((*case, mask))


@pytest.mark.parametrize(("kind", "states", "is_bidirectional", "mask"), masked_cases())
def test_units_go_with_the_states_they_start_from(kind, states, mask, is_bidirectional):
    model, data = network(kind, states=states, mask=mask, is_bidirectional=is_bidirectional)
    plan = plan_shrink(model, 0.5)
    units = "forward_recurrent" if is_bidirectional else "recurrent"
    assert {row.group: (row.channels, row.kept) for row in plan.rows} == {
        "before": (6, 3),
        units if states == "none" else "state_0": (UNITS, UNITS // 2),
        "out": (2, 2),
    }
    wrapped = wrap(model, pattern="channel")
    assert isinstance(wrapped.get_layer("both" if is_bidirectional else "recurrent"), Pruned)
    smaller, masked = shrink(model, plan), zero_channels(model, plan)
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    for layer in masked.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    expected = np.asarray(model(data))
    np.testing.assert_allclose(smaller(data), expected, atol=1e-5)
    np.testing.assert_allclose(masked(data), expected, atol=1e-5)


def test_states_that_are_an_input_of_the_model_keep_their_units():
    series, state = keras.Input((5, 3)), keras.Input((UNITS,))
    x = layers.GRU(UNITS, name="gru")(layers.Dense(6, name="before")(series), initial_state=state)
    plan = plan_shrink(keras.Model([series, state], layers.Dense(2, name="out")(x)), 0.5)
    assert {row.group: row.kept for row in plan.rows} == {"before": 3, "gru": UNITS, "out": 2}


@pytest.mark.parametrize("mask_zero", first(True, False))
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_decoder_that_starts_from_an_encoders_states_is_pruned_with_it(kind, mask_zero):
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    make = getattr(layers, kind)
    source_vectors, target_vectors = (
        layers.Embedding(9, 4, mask_zero=mask_zero)(tokens) for tokens in (source, target)
    )
    _, *states = make(UNITS, return_state=True, name="encoder")(source_vectors)
    states = states if kind == "LSTM" else states[0]  # a GRU takes a tensor, too
    x = make(UNITS, return_sequences=True, name="decoder")(target_vectors, initial_state=states)
    model = keras.Model([source, target], layers.Dense(9, name="words")(x))
    wrapped = wrap(model, pattern="channel")
    tfprune.update_masks(wrapped, 0.5)
    stripped = tfprune.strip(wrapped)
    plan = plan_shrink(stripped)  # of what masks left, as an export for latency asks for it
    assert {row.group: row.kept for row in plan.rows}["encoder"] == UNITS // 2
    data = [np.array([[1, 2, 0], [3, 4, 5]]), np.array([[6, 7], [8, 0]])]
    np.testing.assert_allclose(shrink(stripped, plan)(data), wrapped(data), atol=1e-6)


@pytest.mark.slow
def test_a_translator_shrinks_and_is_pruned_to_a_budget():
    keras.utils.set_random_seed(1)
    source, target = keras.Input((6,), dtype="int32"), keras.Input((5,), dtype="int32")
    embedded = layers.Embedding(11, 8, mask_zero=True, name="source")(source)
    encoded, forward, backward = layers.Bidirectional(
        layers.GRU(6, return_sequences=True, return_state=True, name="encoder"), name="both"
    )(embedded)
    start = layers.Dense(12, activation="tanh", name="bridge")(layers.Concatenate()([forward, backward]))
    x = layers.Embedding(9, 8, mask_zero=True, name="target")(target)
    x = layers.GRU(12, return_sequences=True, name="decoder")(x, initial_state=start)
    seen = layers.MultiHeadAttention(2, 4, name="attention")(x, encoded)
    model = keras.Model([source, target], layers.Dense(9, name="words")(layers.Concatenate()([x, seen])))
    plan = plan_shrink(model, 0.5)
    kept = {row.group: (row.channels, row.kept) for row in plan.rows}
    assert kept["bridge"] == (12, 6) and kept["forward_encoder"] == (6, 3) and kept["attention/heads"] == (2, 1)
    generator = np.random.default_rng(1)
    data = [generator.integers(0, 11, (16, 6)), generator.integers(0, 9, (16, 5))]
    np.testing.assert_allclose(shrink(model, plan)(data), zero_channels(model, plan)(data), atol=1e-5)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    settings = {"fine_tuning": tfprune.FineTuning(rounds=1), "epochs": 0, "verbose": 0}
    _, report = tfprune.prune_to(model, tfprune.budget(flops=0.5), (data, data[1]), **settings)
    assert report.rounds[0].plan.flops_kept <= plan.flops / 2
