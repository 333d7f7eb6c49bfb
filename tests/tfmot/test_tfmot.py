"""tfprune.tfmot: the names of tensorflow-model-optimization, and what they do on Keras 3."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from tiers import first

import tfprune
from tfprune import patterns, tfmot
from tfprune.tfmot.prune import MaxBlock, PruneLowMagnitude

sparsity = tfmot.sparsity.keras
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")


def plain() -> keras.Model:
    stack = [keras.Input((8,)), layers.Dense(8, name="first"), layers.ReLU(), layers.Dense(4, name="last")]
    return keras.Sequential(stack)


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)  # few batches: compiling would take longer
    return model


def fit(model: keras.Model, *callbacks, epochs: int = 1) -> keras.callbacks.History:
    """Train for 8 batches an epoch."""
    callbacks = callbacks or (tfmot.UpdatePruningStep(),)
    return model.fit(X, Y, batch_size=4, epochs=epochs, callbacks=list(callbacks), verbose=0)


def zeros(model: keras.Model, name: str = "first") -> int:
    return int(np.sum(model.get_layer(name).layer.kernel.numpy() == 0))


class Zeros(keras.callbacks.Callback):
    """Remember how many entries of a kernel are zero after each batch."""

    def __init__(self, name: str = "first"):
        super().__init__()
        self.name, self.found = name, []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(zeros(self.model, self.name))


# Names and arguments


IMPORTS = """
from tfprune.tfmot.sparsity.keras import prune_low_magnitude, UpdatePruningStep
import tfprune.tfmot.sparsity.keras as by_its_path
from tfprune.tfmot.sparsity import keras as by_its_name
from tfprune import tfmot
assert by_its_path is by_its_name is tfmot.sparsity.keras
assert prune_low_magnitude is tfmot.prune_low_magnitude
"""


@pytest.mark.programs
def test_the_modules_of_tfmot_are_found_by_their_paths():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", IMPORTS]  # a fresh process: no module is there yet
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_one_changed_import_is_enough():
    assert tfmot.sparsity.keras.prune_low_magnitude is tfmot.prune_low_magnitude
    assert tfprune.tfmot is tfmot
    missing = [name for name in tfmot.__all__ if not hasattr(tfmot.sparsity.keras, name)]
    assert missing == []


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ({}, patterns.Unstructured()),
        ({"block_size": (4, 1)}, patterns.Block(1, 4)),
        ({"block_size": [2, 4], "block_pooling_type": "MAX"}, MaxBlock(4, 2)),
        ({"sparsity_m_by_n": (1, 4)}, patterns.NM(3, 4)),
    ],
)
def test_blocks_count_inputs_first_and_groups_count_zeros(arguments, pattern):
    assert sparsity.prune_low_magnitude(plain(), **arguments).get_layer("first").pattern == pattern


def test_the_largest_entry_ranks_a_block_where_asked_for():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(1, use_bias=False, name="first")])
    model.layers[0].kernel.assign([[0], [9], [0], [0], [3], [3], [3], [3]])
    for pooling, kept in (("AVG", [4, 5, 6, 7]), ("MAX", [0, 1, 2, 3])):
        pruned = compiled(sparsity.prune_low_magnitude(model, block_size=(4, 1), block_pooling_type=pooling))
        callback = tfmot.UpdatePruningStep()
        callback.set_model(pruned)
        callback.on_train_begin()
        callback.on_train_batch_begin(0)
        np.testing.assert_array_equal(np.flatnonzero(pruned.get_layer("first").masks["kernel"]), kept)


def test_the_largest_entry_of_short_blocks_counts_too():
    scores = np.arange(1.0, 16.0).reshape(3, 5)
    kept = MaxBlock(2, 3)(scores, 0.5)
    truth = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(kept, truth)


WRONG = [
    ({"block_size": (4,)}, ValueError, "Expected two integers. Received: block_size"),
    ({"block_size": (4, 0)}, ValueError, "block_size"),
    ({"block_pooling_type": "avg"}, ValueError, "'AVG' or 'MAX'"),
    ({"sparsity_m_by_n": (4, 4)}, ValueError, "m zeros in every n"),
    ({"sparsity_m_by_n": (2, 4), "block_size": (2, 1)}, ValueError, "no blocks beside them"),
    ({"pruning_schedule": 0.5}, TypeError, "PruningSchedule"),
    ({"pruning_schedule": tfprune.schedules.Constant(0.5)}, TypeError, "PruningSchedule"),
    ({"prunning_schedule": None}, ValueError, "prunning_schedule"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        sparsity.prune_low_magnitude(plain(), **arguments)


# Schedules


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tfmot.PolynomialDecay(0.0, 1.0, 0, 10), ValueError, "final_sparsity"),
        (lambda: tfmot.PolynomialDecay(-0.1, 0.5, 0, 10), ValueError, "initial_sparsity"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 10, 9), ValueError, "begin_step=10, end_step=9"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 0, -1), ValueError, "end_step"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 0, 10, power=0), ValueError, "power"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 0, 10, frequency=0), ValueError, "frequency"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 0, 10.5), TypeError, "end_step"),
        (lambda: tfmot.ConstantSparsity(0.5, -1), ValueError, "begin_step"),
        (lambda: tfmot.ConstantSparsity(0.5, 0, -2), ValueError, "end_step"),
        (lambda: tfmot.ConstantSparsity(50, 0), ValueError, "For 50 % pass 0.5"),
    ],
)
def test_schedules_refuse_by_the_name_the_user_wrote(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_steps_may_come_out_of_numpy():
    steps = np.ceil(100 / 8) * 2
    assert tfmot.PolynomialDecay(0.0, 0.5, np.int32(0), steps).end_step == 26


def test_due_steps_are_those_of_the_window_and_its_end():
    def due(schedule):
        return [step for step in range(1, 60) if schedule(step)[0]]

    assert due(tfmot.ConstantSparsity(0.5, 10, 40, frequency=10)) == [10, 20, 30, 40]
    assert due(tfmot.PolynomialDecay(0.0, 0.5, 3, 25, frequency=10)) == [3, 13, 23, 25]
    assert due(tfmot.ConstantSparsity(0.5, 50, frequency=4)) == [50, 54, 58]
    assert due(tfmot.PolynomialDecay(0.0, 0.5, 7, 7)) == [7]


def test_begin_and_end_may_be_one():
    assert tfmot.PolynomialDecay(0.0, 0.5, 7, 7)(7) == (True, 0.5)


# What is wrapped


def test_a_model_is_copied_with_its_weights_and_left_as_it_was():
    model = plain()
    pruned = sparsity.prune_low_magnitude(model)
    assert [type(layer).__name__ for layer in pruned.layers] == ["PruneLowMagnitude", "ReLU", "PruneLowMagnitude"]
    assert not any(isinstance(layer, PruneLowMagnitude) for layer in model.layers)
    np.testing.assert_array_equal(pruned(X), model(X))


def test_layers_that_cannot_be_pruned_are_left_out_and_reported():
    stack = [keras.Input((8,)), layers.Dense(8, name="first"), layers.LayerNormalization(name="norm")]
    pruned = sparsity.prune_low_magnitude(keras.Sequential(stack))
    report = tfprune.sparsity_report(pruned)
    assert [row.layer for row in report.rows] == ["first"]
    assert [one.layer for one in report.skipped] == ["norm"]


def test_a_weight_too_small_for_the_groups_is_left_out_of_a_model_but_refused_by_name():
    small = keras.Sequential([keras.Input((2,)), layers.Dense(8, name="tiny"), layers.Dense(4, name="large")])
    pruned = sparsity.prune_low_magnitude(small, sparsity_m_by_n=(2, 4))
    assert [type(layer).__name__ for layer in pruned.layers] == ["Dense", "PruneLowMagnitude"]
    with pytest.raises(ValueError, match="tiny/kernel cannot take the pattern"):
        sparsity.prune_low_magnitude(small.get_layer("tiny"), sparsity_m_by_n=(2, 4))


def test_a_layer_is_wrapped_as_it_is():
    dense = layers.Dense(4)
    wrapper = sparsity.prune_low_magnitude(dense, name="other", dtype="float32")
    assert wrapper.layer is dense
    assert wrapper.name == "other"


def test_a_list_of_layers_gives_a_list():
    first, pruned = layers.Dense(4), sparsity.prune_low_magnitude(layers.Dense(2))
    wrapped = sparsity.prune_low_magnitude([keras.layers.InputLayer((8,)), first, layers.Flatten(), pruned])
    assert [type(one).__name__ for one in wrapped] == ["InputLayer", *["PruneLowMagnitude"] * 3]
    assert wrapped[1].layer is first
    assert wrapped[3] is pruned
    report = tfprune.sparsity_report(keras.Sequential(wrapped))
    assert [row.size for row in report.rows] == [32, 8]


def test_a_layer_of_keras_without_weights_to_prune_may_be_wrapped_to_no_effect(tmp_path):
    norm = sparsity.prune_low_magnitude(layers.BatchNormalization(name="norm"))
    depthwise = sparsity.prune_low_magnitude(layers.DepthwiseConv2D(3, name="depthwise"))
    model = compiled(keras.Sequential([keras.Input((5, 5, 2)), depthwise, norm, layers.Flatten(), layers.Dense(4)]))
    model.fit(np.ones((8, 5, 5, 2)), np.ones((8, 4)), callbacks=[tfmot.UpdatePruningStep()], verbose=0)
    assert np.asarray(norm.layer.moving_mean).any()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(np.ones((1, 5, 5, 2))), model(np.ones((1, 5, 5, 2))))
    assert type(sparsity.strip_pruning(model).layers[1]) is layers.BatchNormalization


class Unknown(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(name="matrix", shape=(shape[-1], 4))

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.matrix)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def test_an_unknown_layer_is_left_out_of_a_model_but_refused_by_name():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), Unknown(name="mine")])
    pruned = sparsity.prune_low_magnitude(model)
    assert type(pruned.get_layer("mine")) is Unknown
    assert "register_prunable" in next(one.reason for one in tfprune.sparsity_report(pruned).skipped)
    with pytest.raises(ValueError, match=r"'mine' \(Unknown\) that can be pruned"):
        sparsity.prune_low_magnitude(model.get_layer("mine"))


def test_nothing_to_prune_is_an_error():
    with pytest.raises(ValueError, match="weights that can be pruned"):
        sparsity.prune_low_magnitude(keras.Sequential([keras.Input((8,)), layers.ReLU()]))


@pytest.mark.parametrize("thing", ["dense", None, np.ones(3), object()])
def test_other_things_are_refused_by_the_error_of_tfmot(thing):
    with pytest.raises(ValueError, match="Keras model, layer or list of layers"):
        sparsity.prune_low_magnitude(thing)


def test_a_pruned_layer_is_returned_as_it_is_if_it_is_pruned_in_the_same_way():
    schedule = tfmot.PolynomialDecay(0.0, 0.5, 0, 10)
    pruned = sparsity.prune_low_magnitude(layers.Dense(4, name="first"), schedule, block_size=(2, 1))
    again = sparsity.prune_low_magnitude(pruned, tfmot.PolynomialDecay(0.0, 0.5, 0, 10), block_size=(2, 1))
    assert again is pruned
    new, old = tfmot.ConstantSparsity(0.5, 0), "PolynomialDecay(initial_sparsity=0.0, final_sparsity=0.5"
    for other, difference in (
        ({"pruning_schedule": schedule}, "with pattern=Block(rows=1, cols=2) instead of Unstructured()."),
        ({"block_size": (2, 1)}, f"with pruning_schedule={old}"),
        ({"pruning_schedule": new}, f"instead of {new!r} and pattern=Block(rows=1, cols=2) instead of Unstr"),
    ):
        with pytest.raises(ValueError, match=f"layer 'first', which is wrapped already, .*{re.escape(difference)}"):
            sparsity.prune_low_magnitude(pruned, **other)
    with pytest.raises(TypeError, match="Expected a PruningSchedule"):
        sparsity.prune_low_magnitude(pruned, 0.5)


def test_pruned_layers_are_left_alone_in_a_model():
    pruned = sparsity.prune_low_magnitude(plain())
    other = tfmot.ConstantSparsity(0.9, 5)
    longer = keras.Sequential([keras.Input((8,)), *pruned.layers, layers.Dense(3, name="new")])
    again = sparsity.prune_low_magnitude(longer, other)  # for the new layers: no warning
    schedules = [layer.pruning_schedule for layer in again.layers if isinstance(layer, PruneLowMagnitude)]
    assert schedules == [tfmot.ConstantSparsity(0.5, 0)] * 2 + [other]


@pytest.mark.parametrize(
    ("asked", "difference"),
    [
        ({}, None),
        ({"pruning_schedule": tfmot.ConstantSparsity(0.5, 3)}, None),
        ({"block_size": (1, 2)}, None),
        (
            {"pruning_schedule": tfmot.ConstantSparsity(0.7, 0)},
            r"begin_step=3, .* instead of .*target_sparsity=0\.7, ",
        ),
        ({"pruning_schedule": tfmot.ConstantSparsity(0.5, 0)}, "begin_step=3, .* instead of .*begin_step=0, "),
        ({"sparsity_m_by_n": (2, 4)}, r"'first' has pattern=Block\(rows=2, cols=1\) instead of NM\(n=2, m=4\)\. To "),
    ],
)
def test_another_schedule_or_pattern_than_that_in_place_is_warned_of(recwarn, asked, difference):
    pruned = sparsity.prune_low_magnitude(plain(), tfmot.ConstantSparsity(0.5, 3), block_size=(1, 2))
    again = sparsity.prune_low_magnitude(pruned, **asked)
    parts = [part for part in pruned.layers if isinstance(part, PruneLowMagnitude)]
    assert sparsity.prune_low_magnitude(parts, **asked) == parts
    assert [part.pattern for part in again.layers if isinstance(part, PruneLowMagnitude)] == [
        patterns.Block(2, 1)
    ] * 2
    messages = [str(one.message) for one in recwarn if one.category is UserWarning]
    assert len(messages) == (0 if difference is None else 2)
    assert all(
        re.search(difference, message) and message.endswith("pass strip_pruning(model).") for message in messages
    )
    assert all(one.filename == __file__ for one in recwarn if one.category is UserWarning)


def test_a_sequential_model_may_be_built_by_its_first_batch_another_one_not():
    stack = [layers.Flatten(), layers.Dense(8, name="first"), layers.BatchNormalization(), layers.Dense(4)]
    model = compiled(sparsity.prune_low_magnitude(keras.Sequential(stack)))
    assert [type(layer).__name__ for layer in model.layers[1:3]] == ["PruneLowMagnitude", "BatchNormalization"]
    fit(model)
    assert [row.sparsity for row in tfprune.sparsity_report(model).rows] == [0.5, 0.5]
    with pytest.raises(ValueError, match="built model"):
        sparsity.prune_low_magnitude(Tower())


# Layers that say themselves what to prune


@keras.saving.register_keras_serializable(package="tests")
class WithBias(layers.Dense, tfmot.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.bias]


@keras.saving.register_keras_serializable(package="tests")
class Pair(layers.Layer):
    """Two layers, of which the second one only is pruned; it has the method, but not the base class."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(8, name="one"), layers.Dense(8, name="two")

    def build(self, shape):
        self.one.build(shape)
        self.two.build((*shape[:-1], 8))

    def call(self, inputs):
        return self.two(self.one(inputs))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 8)

    def get_prunable_weights(self):
        return [self.two.kernel]


@pytest.mark.parametrize("whole", first(True, False))
def test_a_layer_says_which_weights_are_pruned(whole, tmp_path):
    stack = [WithBias(4, name="bias", bias_initializer="normal"), Pair(name="pair")]
    if not whole:
        stack = [sparsity.prune_low_magnitude(layer) for layer in stack]
    model = keras.Sequential([keras.Input((8,)), *stack, layers.Dense(4)])
    model = compiled(sparsity.prune_low_magnitude(model) if whole else model)
    fit(model)
    rows = {row.path: row.nnz for row in tfprune.sparsity_report(model).rows}
    rows.pop(next((path for path in rows if path.startswith("dense")), None), None)
    assert rows == {"bias/kernel": 16, "bias/bias": 2, "pair/two/kernel": 32}
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.get_layer("bias").masks["bias"], model.get_layer("bias").masks["bias"])
    stripped = sparsity.strip_pruning(loaded)
    np.testing.assert_allclose(stripped(X), model(X), atol=1e-6)
    assert np.sum(np.asarray(stripped.get_layer("bias").bias) == 0) == 2


def test_the_core_knows_them_too():
    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), WithBias(4, name="bias"), layers.Dense(4)]))
    assert list(model.get_layer("bias").masks) == ["kernel", "bias"]


# Training


def test_masks_follow_each_layers_own_schedule():
    first = sparsity.prune_low_magnitude(
        layers.Dense(8, name="first"), tfmot.PolynomialDecay(0.0, 0.75, 2, 8, power=1, frequency=3)
    )
    last = sparsity.prune_low_magnitude(layers.Dense(4, name="last"), tfmot.ConstantSparsity(0.25, 4, 4))
    model = compiled(keras.Sequential([keras.Input((8,)), first, last]))
    records = Zeros("first"), Zeros("last")
    fit(model, tfmot.UpdatePruningStep(), *records)
    assert records[0].found == [0, 0, 0, 0, 24, 24, 24, 48]
    assert records[1].found == [0, 0, 0, 8, 8, 8, 8, 8]


@pytest.mark.parametrize("is_first", [True, False])
def test_the_order_of_callbacks_does_not_matter(is_first):
    model, record = compiled(sparsity.prune_low_magnitude(plain())), Zeros()
    update = tfmot.UpdatePruningStep()
    fit(model, *([update, record] if is_first else [record, update]))
    assert record.found == [32] * 8


def test_a_second_fit_goes_on_where_the_first_ended():
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 0, 16, power=1, frequency=4)
    once, twice = (compiled(sparsity.prune_low_magnitude(plain(), schedule)) for _ in range(2))
    records = Zeros(), Zeros()
    fit(once, tfmot.UpdatePruningStep(), records[0], epochs=2)
    with pytest.warns(UserWarning, match=r"Training ended before the pruning schedules.*first \(batch 8 of 16\)"):
        fit(twice, tfmot.UpdatePruningStep(), records[1])
    fit(twice, tfmot.UpdatePruningStep(), records[1])
    assert records[0].found == records[1].found
    assert records[0].found[3::4] == [12, 24, 36, 48]


def test_a_new_optimizer_goes_on_from_the_last_update(tmp_path):
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 0, 16, power=1, frequency=4)
    model = compiled(sparsity.prune_low_magnitude(plain(), schedule))
    with pytest.warns(UserWarning, match="final sparsity is not reached"):
        fit(model)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = compiled(sparsity.prune_low_magnitude(plain(), schedule))
    fresh.load_weights(tmp_path / "model.weights.h5")
    record = Zeros()
    fit(fresh, tfmot.UpdatePruningStep(), record)
    assert record.found == [24, 24, 24, 36, 36, 36, 36, 48]


def test_a_trained_layer_beside_a_new_one_goes_on_while_the_new_one_begins():
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 0, 16, power=1, frequency=4)
    first, last = (
        sparsity.prune_low_magnitude(layers.Dense(size, name=name), schedule)
        for size, name in ((8, "first"), (4, "last"))
    )
    trained = compiled(keras.Sequential([keras.Input((8,)), first, layers.Dense(4)]))
    fit(trained)
    both = compiled(keras.Sequential([keras.Input((8,)), first, last]))
    records = Zeros("first"), Zeros("last")
    fit(both, tfmot.UpdatePruningStep(), *records)
    assert records[0].found == [24, 24, 24, 36, 36, 36, 36, 48]  # from batch 8 on
    assert records[1].found == [0, 0, 0, 6, 6, 6, 6, 12]


def test_several_batches_in_one_call_miss_no_update():
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 2, 5, frequency=1)
    model = sparsity.prune_low_magnitude(plain(), schedule)
    model.compile("sgd", "mse", steps_per_execution=4)
    fit(model, epochs=2)
    assert zeros(model) == 48


def test_fit_has_the_sparsity_in_its_history():
    history = fit(compiled(sparsity.prune_low_magnitude(plain())), epochs=2)
    assert history.history["sparsity"] == [0.5, 0.5]


def test_groups_reach_their_zeros_whatever_the_schedules_sparsity_is():
    schedule = tfmot.PolynomialDecay(0.0, 0.9, 0, 8, power=1, frequency=2)
    model, record = compiled(sparsity.prune_low_magnitude(plain(), schedule, sparsity_m_by_n=(2, 4))), Zeros()
    fit(model, tfmot.UpdatePruningStep(), record)
    assert record.found == [0, 8, 8, 16, 16, 24, 24, 32]
    groups = sparsity.strip_pruning(model).get_layer("first").kernel.numpy().T.reshape(8, 2, 4)
    assert ((groups != 0).sum(axis=2) == 2).all()


def test_a_frozen_layer_is_left_alone():
    model = sparsity.prune_low_magnitude(plain())
    model.get_layer("first").trainable = False
    fit(compiled(model))
    assert (zeros(model), zeros(model, "last")) == (0, 16)


def test_training_without_schedules_or_optimizer_is_refused():
    callback = tfmot.UpdatePruningStep()
    callback.set_model(sparsity.prune_low_magnitude(plain()))
    with pytest.raises(ValueError, match=r"Set model.optimizer = optimizer"):
        callback.on_train_begin()
    with pytest.raises(ValueError, match="which tfprune.wrap made"):
        fit(compiled(tfprune.wrap(plain())))


def test_the_callback_of_the_core_takes_these_layers_too():
    model = compiled(sparsity.prune_low_magnitude(plain()))
    fit(model, tfprune.PruningCallback(tfprune.schedules.Constant(0.75)))
    assert zeros(model) == 48


class Tower(keras.Model):
    """A model whose own code calls its layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stack = [layers.Dense(8, "relu", name="first"), layers.Dense(4, name="last")]

    def call(self, inputs):
        for layer in self.stack:
            inputs = layer(inputs)
        return inputs


def test_a_subclassed_model_is_pruned_too():
    tower = Tower()
    tower(X)
    pruned = compiled(sparsity.prune_low_magnitude(tower))
    np.testing.assert_allclose(pruned(X), tower(X), atol=1e-6)
    fit(pruned)
    assert [row.nnz for row in tfprune.sparsity_report(pruned).rows] == [32, 16]
    stripped = sparsity.strip_pruning(pruned)
    assert type(stripped) is Tower
    np.testing.assert_allclose(stripped(X), pruned(X), atol=1e-6)


# Files


@keras.saving.register_keras_serializable(package="tests")
class Staircase(tfmot.PruningSchedule):
    """A schedule written for tfmot, whose `get_config` names the class."""

    def __init__(self, height):
        self.height = height

    def __call__(self, step):
        return step % 2 == 0, self.height

    def get_config(self):
        return {"class_name": type(self).__name__, "config": {"height": self.height}}


@pytest.mark.parametrize(
    "schedule",
    first(
        tfmot.PolynomialDecay(0.1, 0.75, 1, 16, power=2, frequency=3), tfmot.ConstantSparsity(0.5, 0), Staircase(0.25)
    ),
)
def test_a_file_keeps_schedule_masks_and_step(schedule, tmp_path):
    model = compiled(sparsity.prune_low_magnitude(plain(), schedule))
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    with sparsity.prune_scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    first = loaded.get_layer("first")
    assert first.pruning_schedule.get_config() == schedule.get_config()
    assert int(first.pruning_step) == int(model.get_layer("first").pruning_step) > 0
    np.testing.assert_array_equal(first.masks["kernel"], model.get_layer("first").masks["kernel"])
    np.testing.assert_array_equal(loaded(X), model(X))


@pytest.mark.programs
def test_a_file_loads_in_another_process_without_the_scope(tmp_path):
    model = sparsity.prune_low_magnitude(plain(), block_size=(2, 1), block_pooling_type="MAX")
    model.save(tmp_path / "model.keras")
    code = "import keras, tfprune; print(keras.models.load_model('model.keras').get_layer('first').pruning_schedule)"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == repr(tfmot.ConstantSparsity(0.5, 0)), done.stderr[-500:]


def test_an_h5_file_keeps_them_too(tmp_path):
    model = sparsity.prune_low_magnitude(plain())
    model.save(tmp_path / "model.h5")
    with sparsity.prune_scope():
        loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    np.testing.assert_array_equal(loaded(X), model(X))


def test_strip_pruning_gives_the_plain_model_with_zeros():
    model = compiled(sparsity.prune_low_magnitude(plain()))
    fit(model)
    stripped = sparsity.strip_pruning(model)
    assert [type(layer).__name__ for layer in stripped.layers] == ["Dense", "ReLU", "Dense"]
    assert tfprune.sparsity_report(stripped).sparsity == 0.5
    np.testing.assert_array_equal(stripped(X), model(X))


# Policies


def mobile(middle) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, name="stem")(layers.ZeroPadding2D(1)(inputs))
    x = middle(layers.Conv2D(8, 1, name="expand")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def test_the_policy_for_xnnpack_prunes_1x1_convolutions_only():
    pruned = sparsity.prune_low_magnitude(mobile(layers.ReLU()), pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    assert [layer.name for layer in pruned.layers if isinstance(layer, PruneLowMagnitude)] == ["expand"]
    tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(pruned)


def test_the_policy_for_xnnpack_names_the_layer_at_fault():
    with pytest.raises(ValueError, match="'fault' of type MaxPooling2D"):
        sparsity.prune_low_magnitude(
            mobile(layers.MaxPooling2D(name="fault")), pruning_policy=tfmot.PruneForLatencyOnXNNPack()
        )
    with pytest.raises(ValueError, match=r"ZeroPadding2D\(1\)"):
        sparsity.prune_low_magnitude(plain(), pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    with pytest.raises(ValueError, match="built Sequential or Functional"):
        tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(keras.Sequential([layers.Dense(3)]))


def test_a_policy_of_the_users_own_chooses_layers():
    class DenseOfFour(tfmot.PruningPolicy):
        def allow_pruning(self, layer):
            return isinstance(layer, layers.Dense) and layer.units == 4

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) > 3:
                raise ValueError("too deep")

    pruned = sparsity.prune_low_magnitude(plain(), pruning_policy=DenseOfFour())
    assert [layer.name for layer in pruned.layers if isinstance(layer, PruneLowMagnitude)] == ["last"]
    with pytest.raises(ValueError, match="too deep"):
        sparsity.prune_low_magnitude(
            keras.Sequential([keras.Input((8,)), *[layers.Dense(4) for _ in range(4)]]), pruning_policy=DenseOfFour()
        )
