"""Operations and layers that count, name or order channels: what is shrunk equals what is masked."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from channel_graphs import BySize, RunningSum
from graphs import RandomGraph

import tfprune

layers, ops = keras.layers, keras.ops
WIDTH = 8
ORDER = [7, 2, 5, 0, 1, 6, 3, 4]
SCALES = np.linspace(-1, 2, WIDTH)


def shrunk(operation, *, width: int = WIDTH, sparsity: float = 0.45):
    """Return the plan of an operation between two layers, after comparing what is shrunk with what is masked."""
    x = keras.Input((6, 3))
    hidden = layers.Dense(width, activation="tanh", name="hidden")(x)
    y = layers.Flatten()(layers.Dense(4, name="reader")(operation(hidden)))
    model = RandomGraph(3).trained(keras.Model(x, layers.Dense(2, name="out")(y)))
    plan = tfprune.plan_shrink(model, sparsity)
    smaller, masked = tfprune.shrink(model, plan), tfprune.zero_channels(model, plan)
    data = np.random.default_rng(0).normal(size=(5, 6, 3)).astype("float32")
    expected = np.asarray(masked(data))
    np.testing.assert_allclose(smaller(data), expected, atol=1e-5 * max(1, np.abs(expected).max()))
    assert smaller.count_params() == plan.parameters_kept
    return plan


def kept(plan) -> int:
    return next(row.kept for row in plan.rows if row.group == "hidden")


FOLLOWED = {
    "roll": lambda x: ops.roll(x, 3, axis=-1),
    "roll back": lambda x: ops.roll(x, -11, axis=2),
    "roll of two axes": lambda x: ops.roll(x, (2, 3), axis=(1, -1)),
    "take in another order": lambda x: ops.take(x, ORDER, axis=-1),
    "take some": lambda x: ops.take(x, np.array([1, -1, 1, 4, 0, 2, 3, 5]), axis=2),
    "take twice": lambda x: ops.take(ops.roll(ops.take(x, ORDER, axis=-1), 2, axis=-1), ORDER[:5] + [6], axis=-1),
    "squeeze all": lambda x: ops.squeeze(ops.expand_dims(x, 1)),
    "a roll in groups": lambda x: ops.reshape(ops.roll(ops.reshape(x, (-1, 6, 4, 2)), 1, axis=2), (-1, 6, WIDTH)),
    "stack": lambda x: ops.max(ops.stack([x, ops.roll(x, 3, axis=1)], axis=2), axis=2),
    "a constant in front": lambda x: layers.Concatenate()([ops.zeros_like(x), x]),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_are_followed(name):
    assert kept(shrunk(FOLLOWED[name])) < WIDTH


@pytest.mark.parametrize(("groups", "remaining"), [(1, 1), (4, 2)])
def test_what_a_norm_treats_together_is_removed_together(groups, remaining):
    assert kept(shrunk(layers.GroupNormalization(groups), sparsity=0.5)) == remaining  # of as many units


def test_a_smaller_graph_with_other_arguments_is_saved(tmp_path):
    x = keras.Input((6,))
    y = ops.squeeze(ops.expand_dims(ops.roll(ops.take(layers.Dense(WIDTH)(x), ORDER, axis=-1), 3, axis=-1), 1))
    model = RandomGraph(1).trained(keras.Model(x, layers.Dense(2)(y)))
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, 0.6))
    smaller.save(tmp_path / "smaller.keras")
    data = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "smaller.keras")(data), smaller(data))


def test_a_layer_is_followed_where_another_call_of_it_takes_no_channels():
    x = keras.Input((WIDTH,))
    running = RunningSum()
    y = layers.Dense(WIDTH, name="hidden")(running(x))
    columns = running(layers.Reshape((WIDTH, 1))(y))  # along another axis than that of the channels
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(columns)))
    assert tfprune.plan_shrink(model, 0.5).rows[0].kept < WIDTH


LEFT_ALONE = {
    "a roll of all axes": lambda x: ops.roll(x, 3),
    "take from all axes": lambda x: x * ops.take(x, [0], axis=None),
    "constants": lambda x: x + SCALES,
    "limits": lambda x: ops.clip(x, (-np.abs(SCALES)).tolist(), np.abs(SCALES).tolist()),
    "repeats": lambda x: ops.repeat(x, [1, 2, 1, 2, 1, 1, 1, 1], axis=-1),
    "take one": lambda x: x * ops.take(x, 3, axis=-1)[..., None],
    "indices": lambda x: ops.mean(layers.Embedding(9, 5)(ops.cast(4 + 4 * x, "int32")), axis=-2),
    "a norm over channels on another axis": lambda x: ops.swapaxes(
        layers.GroupNormalization(2)(ops.swapaxes(x, 1, 2)), 1, 2
    ),
    "a mask": lambda x: layers.GRU(3, return_sequences=True)(layers.Masking()(ops.relu(x))),
    "a mask of a softmax": lambda x: layers.Softmax(axis=1)(
        layers.Dense(WIDTH)(ops.mean(x, axis=1, keepdims=True)) + ops.zeros_like(x[..., :1]), mask=x > 0
    ),
    "a root": lambda x: BySize()(x),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_cannot_be_followed_keeps_its_channels_and_the_plan_says_why(name):
    plan = shrunk(LEFT_ALONE[name])
    assert kept(plan) == WIDTH
    assert any(skipped.layer == "hidden" for skipped in plan.skipped)


@pytest.mark.parametrize("name", ["activation", "recurrent_activation"])
def test_units_that_are_normalized_together_stay(name):
    plan = shrunk(lambda x: layers.LSTM(WIDTH, **{name: "softmax"}, return_sequences=True, name="cell")(x))
    rows = {row.group: row.kept for row in plan.rows}
    assert rows["cell"] == WIDTH and rows["hidden"] < WIDTH


def test_one_of_two_channels_goes_only_where_the_other_is_treated_alone():
    assert kept(shrunk(RunningSum(), width=2)) == 2
    assert kept(shrunk(ops.erf, width=2)) == 1


def check_that_unequal_parts_shrink(model):
    """Of layers 'one' and 'two', the first loses more channels."""
    model.get_layer("one").kernel.assign(0.01 * model.get_layer("one").kernel)
    plan = tfprune.plan_shrink(model, 0.5, allocation="global")
    data = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    smaller = tfprune.shrink(model, plan)(data)
    np.testing.assert_allclose(smaller, tfprune.zero_channels(model, plan)(data), atol=1e-5)


def test_what_is_called_twice_counts_the_channels_of_both_calls():
    """A reshape without weights, on layers that lose different numbers of channels."""
    x = keras.Input((6,))
    columns, flat = layers.Reshape((12, 1)), layers.Flatten()
    first, second = (layers.Dense(12, name=name)(x) for name in ("one", "two"))
    y = layers.Concatenate()([flat(columns(first)), flat(columns(second))])
    model = RandomGraph(1).trained(keras.Model(x, layers.Dense(2)(y)))
    check_that_unequal_parts_shrink(model)


def test_a_roll_in_a_model_that_is_called_twice():
    x = keras.Input((6,))
    given = keras.Input((WIDTH,))
    inner = keras.Model(given, ops.roll(given, 3, axis=-1))
    first, second = (layers.Dense(WIDTH, name=name)(x) for name in ("one", "two"))
    y = layers.Dense(5)(layers.Concatenate()([inner(first), inner(second)]))
    model = RandomGraph(2).trained(keras.Model(x, layers.Dense(2)(y)))
    check_that_unequal_parts_shrink(model)


def test_a_layer_that_is_joined_with_others_keeps_a_channel():
    x = keras.Input((6,))
    narrow, wide = layers.Dense(2, name="narrow"), layers.Dense(6)
    y = layers.Concatenate()([narrow(x), wide(x)]) + layers.Dense(8)(x)
    model = RandomGraph(1).trained(keras.Model(x, layers.Dense(2)(ops.tanh(y))))
    narrow.kernel.assign(0.001 * narrow.kernel)
    plan = tfprune.plan_shrink(model, 0.75)
    smaller = tfprune.shrink(model, plan)
    assert plan.rows[0].kept == 2
    assert smaller.get_layer("narrow").units == 1
    data = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(smaller(data), tfprune.zero_channels(model, plan)(data), atol=1e-5)
