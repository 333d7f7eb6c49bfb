"""Every way to run a step gives one sequence of masks; callbacks that save, swap or restore weights agree with it.

`test_pruning_callback_*.py` have the callback's own behavior; here it runs in the other loops, beside the other
callbacks.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiers import first, in_test_ci

import tfprune
from tfprune.schedules import Polynomial

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 10)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")
DUE = (3, 7, 11, 15, 17)  # in steps, for the schedule below


def make(optimizer=None, **arguments) -> keras.Model:
    keras.utils.set_random_seed(1)
    stack = [layers.Dense(10, "tanh", name="hidden"), layers.BatchNormalization(), layers.Dense(2, name="out")]
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), *stack]))
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse", **arguments)
    return model


def pruning() -> tfprune.PruningCallback:
    return tfprune.PruningCallback(Polynomial(0.8, begin=3, end=17), every=4)


def fit(model: keras.Model, *callbacks, **arguments) -> keras.callbacks.History:
    """Train ten batches an epoch, always the same ones."""
    arguments = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, callbacks=list(callbacks), **arguments)


def masks_of(model: keras.Model) -> list[np.ndarray]:
    return [model.get_layer(name).masks["kernel"].numpy() for name in ("hidden", "out")]


def assert_consistent(model: keras.Model, zeros: int | None = None) -> None:
    """Check that weights are zero exactly where masks are, in the model and once it is stripped."""
    stripped = tfprune.strip(model)
    for name, mask in zip(("hidden", "out"), masks_of(model), strict=True):
        for kernel in (model.get_layer(name).layer.kernel, stripped.get_layer(name).kernel):
            np.testing.assert_array_equal(kernel.numpy() != 0, mask == 1)
    if zeros is not None:
        assert np.count_nonzero(masks_of(model)[0] == 0) == zeros


def zeros_at(step: int) -> int:
    """Return how many of the hundred entries of `hidden` are masked after a step, from 3 on."""
    last = max(due for due in DUE if due <= step)
    return round(80 - 80 * (1 - (last - 3) / 14) ** 3)


class Record(keras.callbacks.Callback):
    """Keep the masks after every batch, by step."""

    def __init__(self):
        super().__init__()
        self.masks = {}

    def on_train_batch_end(self, batch, logs=None):
        self.masks[int(self.model.optimizer.iterations)] = masks_of(self.model)


def sequence(model: keras.Model, **arguments) -> dict[int, list[np.ndarray]]:
    record = Record()
    fit(model, pruning(), record, **arguments)
    return record.masks


@functools.cache
def eager() -> dict[int, list[np.ndarray]]:
    """The masks of the plainest run: eagerly, one step at a time."""
    masks = sequence(make(run_eagerly=True))
    counts = [int(np.count_nonzero(masks[step][0] == 0)) for step in range(1, 21)]
    truth = {step: round(80 - 80 * (1 - (step - 3) / 14) ** 3) for step in DUE}
    assert counts == [
        truth[max(due for due in (0, *DUE) if due <= step)] if step >= 3 else 0 for step in range(1, 21)
    ]
    return masks


def assert_masks(masks: dict[int, list[np.ndarray]], expected: dict[int, list[np.ndarray]]) -> None:
    for step, some in masks.items():
        for value, expected_value in zip(some, expected[step], strict=True):
            np.testing.assert_array_equal(value, expected_value, err_msg=f"step {step}")


@pytest.mark.parametrize("arguments", first({}, {"jit_compile": True}, {"jit_compile": False}))
def test_compiled_steps_give_the_masks_of_eager_ones(arguments):
    masks = sequence(make(**arguments))
    assert sorted(masks) == list(range(1, 21))
    assert_masks(masks, eager())


@pytest.mark.programs
def test_executions_that_end_where_masks_are_due_give_the_masks_of_single_steps():
    records = Record(), Record()
    for record, how in zip(records, ({"run_eagerly": True}, {"steps_per_execution": 4}), strict=True):
        x, y = np.tile(X, (2, 1)), np.tile(Y, (2, 1))  # one epoch of twenty batches
        callback = tfprune.PruningCallback(Polynomial(0.8, begin=4, end=16), every=4)
        make(**how).fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[callback, record])
    assert sorted(records[1].masks) == list(range(4, 21, 4))
    assert_masks(records[1].masks, records[0].masks)
    assert_consistent(records[1].model, zeros=80)


def test_long_executions_do_what_was_due_inside_them_and_end_exactly():
    masks = sequence(model := make(steps_per_execution=7))
    for step, (hidden, _) in masks.items():
        assert np.count_nonzero(hidden == 0) == zeros_at(step)
    assert_consistent(model, zeros=80)


@pytest.mark.programs
@pytest.mark.parametrize("arguments", first({"steps_per_execution": 7}, {"jit_compile": True}, {}))
def test_two_runs_with_one_seed_are_bit_identical(arguments):
    runs = []
    for _ in range(2):
        model = make(keras.optimizers.Adam(), **arguments)
        fit(model, pruning(), shuffle=True)
        runs.append([variable.numpy() for variable in [*model.variables, *model.optimizer.variables]])
    for values, others in zip(*runs, strict=True):
        np.testing.assert_array_equal(values, others)


@pytest.mark.programs
@pytest.mark.parametrize("step", first(10, 4, 12))
def test_a_file_from_within_the_window_gives_the_rest_of_the_sequence(step, tmp_path):
    model = make(jit_compile=True)
    batches = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 40, 4)] * 2

    def train(model, batches):
        masks = {}
        for x, y in batches:
            model.train_on_batch(x, y)
            now = int(model.optimizer.iterations)
            if now in DUE:
                tfprune.update_masks(model, Polynomial(0.8, begin=3, end=17)(now), regrow=now < 17)
            masks[now] = masks_of(model)
        return masks

    masks = train(model, batches[:step])
    model.save(tmp_path / "model.keras")
    masks |= train(keras.models.load_model(tmp_path / "model.keras"), batches[step:])
    assert sorted(masks) == list(range(1, 21))
    assert_masks(masks, eager())


def test_a_gradient_tape_in_a_tf_function_gives_the_masks_of_fit():
    model, optimizer = make(), keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for now in range(1, 21):
        start = (now - 1) % 10 * 4
        step(tf.constant(X[start : start + 4]), tf.constant(Y[start : start + 4]))
        if now in DUE:
            sparsity = Polynomial(0.8, begin=3, end=17)(now)
            tfprune.update_masks(model, sparsity, optimizer=optimizer, regrow=now < 17)
        assert_masks({now: masks_of(model)}, eager())
    assert_consistent(model, zeros=80)


def test_two_optimizers_in_a_loop_forget_what_is_masked():
    model, parts = make(), [keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1, momentum=0.9)]
    for optimizer, name in zip(parts, ("hidden", "out"), strict=True):
        optimizer.build(model.get_layer(name).trainable_variables)
        variables = model.get_layer(name).trainable_variables
        optimizer.apply([keras.ops.ones(variable.shape) for variable in variables], variables)
    tfprune.update_masks(model, 0.8, optimizer=parts)
    slots = [slot for optimizer in parts for slot in optimizer.variables if "kernel" in slot.path]
    assert len(slots) == 3  # two of Adam, one of SGD
    for slot in slots:
        layer = model.get_layer("hidden" if slot.shape == (10, 10) else "out")
        np.testing.assert_array_equal(slot.numpy() != 0, layer.masks["kernel"].numpy())
    for wrong, error, message in (
        ([], ValueError, r"the optimizers that train the model. Received: optimizer=\[\]"),
        ([parts[0], "adam"], TypeError, "Keras optimizers, one or a list, or None. Received: optimizer='adam'"),
    ):
        with pytest.raises(error, match=message):
            tfprune.update_masks(model, 0.9, optimizer=wrong)


def test_an_optimizer_of_some_weights_of_one_path_is_refused():
    parts = [keras.Sequential([keras.Input((6,)), layers.Dense(6, name="one")], name=name) for name in "ab"]
    inputs = keras.Input((6,))
    model = tfprune.wrap(keras.Model(inputs, parts[1](parts[0](inputs))))
    both, second = keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.SGD(0.1, momentum=0.9, name="second")
    both.build(model.trainable_variables)
    second.build(model.get_layer("b").trainable_variables)
    with pytest.raises(ValueError, match="2 weights 'one/kernel', of which 'second' trains 1. Name their layers"):
        tfprune.update_masks(model, 0.5, optimizer=[both, second])
    assert tfprune.sparsity_report(model).sparsity == 0
    assert tfprune.update_masks(model, 0.5, optimizer=both).sparsity == 0.5


@pytest.mark.parametrize("policy", first("mixed_float16", "mixed_bfloat16"))
@pytest.mark.parametrize("arguments", [{"run_eagerly": True}, in_test_ci({"steps_per_execution": 5})])
def test_mixed_precision_keeps_weights_slots_and_masks_together(policy, arguments):
    keras.config.set_dtype_policy(policy)
    try:
        model = make(**arguments)
        fit(model, pruning())
    finally:
        keras.config.set_dtype_policy("float32")
    assert_consistent(model, zeros=80)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert (optimizer is model.optimizer) == (policy == "mixed_bfloat16")
    (slot,) = [v.numpy() for v in optimizer.variables if "hidden_kernel" in v.path]
    assert np.count_nonzero(slot[masks_of(model)[0] == 0]) == 0 < np.count_nonzero(slot)


def test_steps_that_loss_scaling_skips_count_as_keras_counts_them():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**15)
    model, record = make(scaled), Record()
    x = X.copy()
    x[4:12] = np.inf  # the gradients of two batches overflow, so that no update is made
    with pytest.warns(UserWarning, match="Training ended at step 16, before"):  # of twenty, four are skipped
        model.fit(x, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[pruning(), record])
    assert np.isfinite(model.get_layer("hidden").layer.kernel.numpy()).all()
    assert int(model.optimizer.iterations) == max(record.masks)
    assert_consistent(model, zeros=np.count_nonzero(masks_of(model)[0] == 0))


def test_accumulated_gradients_of_masked_entries_are_dropped_and_steps_are_updates():
    model, record = make(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)), Record()
    fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=3, end=10), every=4), record)
    assert sorted(record.masks) == list(range(11))  # twenty batches
    counts = [int(np.count_nonzero(record.masks[step][0] == 0)) for step in range(11)]
    truth = {step: round(80 - 80 * (1 - (step - 3) / 7) ** 3) for step in (3, 7, 10)}
    assert counts == [0, 0, 0, *[truth[3]] * 4, *[truth[7]] * 3, truth[10]]
    assert_consistent(model, zeros=80)


@pytest.mark.programs
def test_weight_decay_and_averages_overwritten_into_the_weights_keep_zeros():
    average = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3}
    model = make(keras.optimizers.AdamW(0.01, weight_decay=0.1, **average))
    fit(model, pruning())
    assert_consistent(model, zeros=80)


class Cost(keras.callbacks.Callback):
    """A metric that is best after the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.seen = getattr(self, "seen", {})
        self.seen[epoch] = [variable.numpy() for variable in self.model.weights]
        logs["cost"] = abs(epoch - 1)


@pytest.mark.parametrize("is_first", first(True, False))
def test_the_best_weights_come_back_with_their_own_masks(is_first):
    cost = Cost()
    stopping = keras.callbacks.EarlyStopping("cost", patience=2, mode="min", restore_best_weights=True)
    slow = tfprune.PruningCallback(Polynomial(0.8, begin=3, end=40), every=4)
    model = make()
    fit(model, cost, *([stopping, slow] if is_first else [slow, stopping]), epochs=6)
    assert max(cost.seen) == 3
    for weight, best in zip(model.weights, cost.seen[1], strict=True):
        np.testing.assert_array_equal(weight, best)
    zeros = round(80 - 80 * (1 - (19 - 3) / 37) ** 3)  # of the last update before step 20
    assert_consistent(model, zeros=zeros)


@pytest.mark.programs
@pytest.mark.parametrize("is_first", first(True, False))
def test_all_of_keras_callbacks_together_keep_masks_and_weights_together(is_first, tmp_path):
    others = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1),
        keras.callbacks.TensorBoard(tmp_path / "logs", histogram_freq=1),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    ]
    model = make(keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.5))
    fit(model, *([*others, pruning()] if is_first else [pruning(), *others]), epochs=3)
    assert_consistent(model, zeros=80)
    assert_consistent(keras.models.load_model(tmp_path / "best.keras"))
    last = make()
    last.load_weights(tmp_path / "last.weights.h5")
    assert_consistent(last, zeros=80)
