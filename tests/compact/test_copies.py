"""How many copies of a model a call makes, and that plans use the weights of that moment."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from dataclasses import replace

import keras
import numpy as np
import pytest
from graphs import small_vit
from model_counts import counted_copies

import tfprune
from tfprune import plan_shrink, prune_to, shrink, zero_channels
from tfprune.masking.strip import flat_copy
from tfprune.models.anatomy import Anatomy

layers = keras.layers


def small_model():
    stack = [keras.Input((6,)), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(3, name="out")]
    return keras.Sequential(stack)


def data_for(model, rows=5):
    return np.random.default_rng(0).normal(size=(rows, *model.input_shape[1:])).astype("float32")


def test_a_plan_and_the_smaller_model_take_one_copy_each():
    model = small_vit()
    with counted_copies() as planned:
        plan = plan_shrink(model, 0.5)
    with counted_copies() as shrunk:
        shrink(model, plan)
    assert (planned.copies, shrunk.copies) == (1, 0)
    assert planned.models <= 4 and shrunk.models <= 3


@pytest.mark.programs
def test_a_round_copies_the_model_for_its_plan_and_as_the_reference_and_builds_the_smaller_one():
    model = small_model()
    model.compile("sgd", "mse")
    x = np.ones((32, 6), "float32")
    counts = []
    for rounds in (1, 2):
        with counted_copies() as counted:
            tuning = tfprune.FineTuning(rounds=rounds)
            prune_to(model, tfprune.budget(flops=0.6), (x, x[:, :3]), fine_tuning=tuning, verbose=0)
        counts.append(counted.copies)
    assert counts[1] - counts[0] == 2  # with the smaller model, three are made


@pytest.mark.parametrize("make", [small_model, small_vit])
def test_weights_are_those_that_the_model_has_when_it_shrinks(make):
    model = make()
    plan = plan_shrink(model, 0.5)
    before = shrink(model, plan)
    for weight in model.weights:
        weight.assign(weight * 2 + 0.1)
    x = data_for(model)
    after, expected = shrink(model, plan), shrink(model, replace(plan, planned_copy=None))
    np.testing.assert_allclose(after(x), expected(x), rtol=1e-6)
    np.testing.assert_allclose(after(x), zero_channels(model, plan)(x), rtol=1e-4, atol=1e-4)
    assert not np.allclose(after(x), before(x))


def test_zeros_leave_nothing_in_what_the_plan_keeps():
    model = small_model()
    plan = plan_shrink(model, 0.5)
    first, masked = shrink(model, plan), zero_channels(model, plan)
    masked.get_layer("out").kernel.assign(masked.get_layer("out").kernel * 0)
    for one, other in zip(first.get_weights(), shrink(model, plan).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_that_come_later_are_applied():
    wrapped = tfprune.wrap(small_model())
    plan = plan_shrink(wrapped, 0.5)
    tfprune.update_masks(wrapped, 0.6)
    smaller = shrink(wrapped, plan)
    expected = shrink(tfprune.strip(wrapped), plan)
    for one, other in zip(smaller.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.count_nonzero(smaller.get_layer("hidden").kernel) < smaller.get_layer("hidden").kernel.numpy().size


def test_another_model_of_the_same_architecture_gives_its_own_weights():
    model, other = small_model(), small_model()
    plan = plan_shrink(model, 0.5)
    x = data_for(model)
    np.testing.assert_allclose(shrink(other, plan)(x), zero_channels(other, plan)(x), atol=1e-6)


def test_a_model_that_was_changed_after_the_plan_is_read_again():
    model = small_model()
    plan = plan_shrink(model, 0.5)
    model.get_layer("hidden").activation = keras.activations.tanh
    assert shrink(model, plan).get_layer("hidden").activation is keras.activations.tanh


def test_smaller_models_share_no_weight_with_each_other_or_the_plan():
    model = small_model()
    plan = plan_shrink(model, 0.5)
    first = shrink(model, plan)
    kept = first.get_weights()
    first.compile("sgd", "mse")
    first.fit(data_for(model), np.ones((5, 3)), verbose=0)
    second = shrink(model, plan)
    assert not {id(weight) for weight in first.weights} & {id(weight) for weight in second.weights}
    for one, other in zip(kept, second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_plan_is_pickled_printed_and_copied_without_the_copy_of_the_model():
    model = small_model()
    plan = plan_shrink(model, 0.5)
    read = pickle.loads(pickle.dumps(plan))
    assert str(read) == str(plan) and read.as_dict() == plan.as_dict()
    assert "planned_copy" not in repr(plan) and read.planned_copy is None and copy.deepcopy(plan).planned_copy is None
    assert [w.shape for w in shrink(model, read).weights] == [w.shape for w in shrink(model, plan).weights]


def test_a_plan_does_not_keep_its_model_alive():
    model = small_model()
    plan, reference = plan_shrink(model, 0.5), weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None and plan.rows


@pytest.mark.programs
def test_the_report_of_a_run_keeps_no_models():
    model = small_model()
    model.compile("sgd", "mse")
    x = np.ones((32, 6), "float32")
    _, report = prune_to(model, tfprune.budget(flops=0.6), (x, x[:, :3]), verbose=0)
    assert all(each.plan.planned_copy is None for each in report.rounds)


def test_a_flat_copy_hands_out_its_layers_with_the_names_they_had():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense"), inner])
    copied = flat_copy(Anatomy.of(model))
    assert {layer.name for layer in copied.model.layers if layer.weights} == {"dense", "inner_dense"}
    assert [layer.name for layer in copied.hand_out().get_layer("inner").layers] == ["dense"]
