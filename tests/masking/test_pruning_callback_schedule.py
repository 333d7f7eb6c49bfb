"""The callback inside `fit`: each step counted once, exact at every end."""

from __future__ import annotations

import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from callback_runs import Record, X, Y, assert_equal, fit, make, masks_of, plain, sparsities
from keras import layers
from tiers import first

import tfprune
from tfprune.masking.callback import _default_every
from tfprune.schedules import Constant, Polynomial


def test_masks_follow_the_schedule_step_by_step():
    schedule, record = Polynomial(0.8, begin=3, end=17, initial=0.2), Record()
    fit(make(), tfprune.PruningCallback(schedule, every=4), record, epochs=2)
    truth, current = [], 0
    for step in range(1, 21):
        if step in (3, 7, 11, 15, 17):
            remaining = 1 - (step - 3) / 14
            current = round(100 * (0.8 - 0.6 * remaining**3))
        truth.append(current)
    assert record.zeros == truth


@pytest.mark.parametrize(
    ("schedule", "apart"),
    [
        (Polynomial(0.9, end=20), 1),
        (Polynomial(0.9, begin=100, end=430), 3),
        (Polynomial(0.9, end=5000), 50),
        (Constant(0.9, end=10**6), 100),
        (Constant(0.9), 100),  # which never ends
    ],
)
def test_by_default_a_schedule_has_about_a_hundred_updates(schedule, apart):
    callback = tfprune.PruningCallback(schedule)
    assert callback.every is None
    assert _default_every(schedule) == apart


def test_the_default_follows_the_length_of_each_schedule():
    schedule, record = Polynomial(0.8, end=1.0), Record()
    own = Constant(0.25, begin=8)
    model = make()
    fit(model, tfprune.PruningCallback(schedule, allocation={"out": own}), record, epochs=2)
    assert record.zeros == [round(100 * 0.8 * (1 - (1 - step / 20) ** 3)) for step in range(1, 21)]
    assert sparsities(model) == [0.8, 0.25]


@pytest.mark.parametrize(
    ("schedule", "every"),
    [
        (Polynomial(0.77, end=10), 3),
        (Polynomial(0.77, begin=2, end=9), 100),
        (Polynomial(0.77, begin=5, end=5), 4),
        (Polynomial(0.77, begin=0, end=0), 1),
        (Polynomial(0.77, end=1.0), 7),
        (Polynomial(0.77, begin=0.25, end=0.75), 100),
        (Constant(0.77), 100),
        (Constant(0.77, begin=10), 100),
        (Constant(0.77, begin=1, end=2), 1),
    ],
)
def test_the_final_sparsity_is_exact(schedule, every):
    model = make()
    history = fit(model, tfprune.PruningCallback(schedule, every=every))
    assert sparsities(model) == [pytest.approx(0.77), pytest.approx(round(0.77 * 20) / 20)]
    assert history["sparsity"] == [pytest.approx((77 + round(0.77 * 20)) / 120)]


@pytest.mark.parametrize("arguments", first({"steps_per_execution": 7}, {"jit_compile": True}, {"run_eagerly": True}))
def test_other_ways_to_run_a_step_end_exactly(arguments):
    model = make(**arguments)
    fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=1, end=9), every=2))
    assert sparsities(model) == [0.8, 0.8]
    kernel = model.get_layer("hidden").layer.kernel.numpy()
    assert np.count_nonzero(kernel) == 20 and np.isfinite(kernel).all()


@pytest.mark.programs
def test_eager_and_compiled_runs_agree():
    models = [make(run_eagerly=eager) for eager in (True, False)]
    for model in models:
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=8), every=2))
    assert_equal(masks_of(models[0]), masks_of(models[1]))


def test_a_second_fit_goes_on_counting():
    model, once = make(), make()
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(model, tfprune.PruningCallback(Polynomial(0.8, end=20), every=3))
    fit(once, tfprune.PruningCallback(Polynomial(0.8, end=20), every=3), epochs=2)
    assert sparsities(model) == sparsities(once) == [0.8, 0.8]
    assert_equal(masks_of(model), masks_of(once))


@pytest.mark.parametrize("policy", first("mixed_float16", "float32"))
def test_mixed_precision_prunes_too(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = make(keras.optimizers.Adam())  # a model of its own
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=8), every=2), epochs=2)
        assert model.get_layer("hidden").layer.compute_dtype == policy.removeprefix("mixed_")
    finally:
        keras.config.set_dtype_policy("float32")
    assert sparsities(model) == [0.8, 0.8]
    assert np.isfinite(model.get_layer("hidden").layer.kernel.numpy()).all()


def test_steps_are_updates_when_gradients_are_accumulated():
    model, record = make(keras.optimizers.Adam(gradient_accumulation_steps=2)), Record()
    fit(model, tfprune.PruningCallback(Polynomial(0.5, begin=2, end=1.0), every=1), record, epochs=1)
    assert record.zeros[:3] == [0, 0, 0] and record.zeros[-1] == 50
    assert record.zeros.index(next(z for z in record.zeros if z)) >= 4


class Trace(keras.callbacks.Callback):
    """Note the step and the zeros of the first mask after every call."""

    def __init__(self):
        super().__init__()
        self.steps, self.zeros = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(int(self.model.optimizer.iterations))
        self.zeros.append(int(np.sum(self.model.get_layer("hidden").masks["kernel"].numpy() == 0)))


def due_zeros(schedule: Polynomial, every: int, steps: list[int]) -> list[int]:
    """Work out the zeros of a kernel of 100 entries after each of the steps, from the grid itself."""
    grid = [*range(schedule.begin, schedule.end, every), schedule.end]
    passed = [max((point for point in grid if point <= step), default=None) for step in steps]
    return [0 if point is None else round(100 * schedule(point)) for point in passed]


@pytest.mark.parametrize(
    ("bundled", "accumulated", "begin", "end", "every"),
    first(
        (1, None, 0, 23, 7), (3, 3, 0, 23, 7), (3, None, 5, 19, 1), (1, 3, 2, 21, 100), (3, None, 2, 21, 100), count=2
    ),
)
def test_masks_change_at_the_call_that_reaches_a_point(bundled, accumulated, begin, end, every):
    schedule, trace = Polynomial(0.8, begin=begin, end=end, initial=0.1), Trace()
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=accumulated)
    callback = tfprune.PruningCallback(schedule, every=every)
    fit(make(optimizer, steps_per_execution=bundled), callback, trace, epochs=3 * (accumulated or 1))
    assert trace.steps[-1] == 30 and trace.zeros == due_zeros(schedule, every, trace.steps)


@keras.saving.register_keras_serializable(package="test_callback")
class Several(keras.Sequential):
    """Make one update with most batches, and four with every fifth."""

    def train_step(self, data):
        x, y = data
        for _ in range(4 if self.rounds % 5 == 0 else 1):
            with tf.GradientTape() as tape:
                loss = keras.ops.mean(keras.ops.square(self(x, training=True) - y))
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
            )
        self.rounds += 1
        return {"loss": loss}


def test_a_training_step_may_make_any_number_of_updates():
    schedule, trace = Polynomial(0.8, end=27), Trace()
    model = Several(tfprune.wrap(plain()).layers)
    model.rounds = 1
    model.compile("sgd", run_eagerly=True)
    fit(model, tfprune.PruningCallback(schedule, every=6), trace, epochs=2)
    assert {1, 4} <= set(np.diff(trace.steps)) and trace.steps[-1] == 32
    assert trace.zeros == due_zeros(schedule, 6, trace.steps)


def test_steps_are_counted_only_when_something_may_be_due(monkeypatch):
    counts, count = [], tfprune.masking.callback.updates_of

    def noted(optimizer):
        counts.append(count(optimizer))
        return counts[-1]

    monkeypatch.setattr(tfprune.masking.callback, "updates_of", noted)
    many = np.repeat(X, 25, 0)
    callback = tfprune.PruningCallback(Polynomial(0.8, begin=50, end=170, initial=0.1), every=60)
    make().fit(many, many[:, :2], batch_size=4, epochs=1, verbose=0, callbacks=[callback])
    # The start, the first step of the epoch, masks at 50, 110, 170, the learning rate a hundred steps after, the end.
    assert counts == [0, 1, 50, 110, 170, 250]


def test_a_shared_layer_counts_one_step_a_batch():
    dense, inputs = layers.Dense(10, name="hidden"), keras.Input((10,))
    model = tfprune.wrap(keras.Model(inputs, layers.Dense(2, name="out")(dense(dense(inputs)))))
    model.compile("sgd", "mse")
    record = Record()
    fit(model, tfprune.PruningCallback(Constant(0.5, begin=5)), record)
    assert record.zeros == [0] * 4 + [50] * 6


def generator():
    while True:
        yield X[:4], Y[:4]


def test_a_fraction_needs_to_know_the_steps():
    model, callback = make(), tfprune.PruningCallback(Polynomial(0.5, end=0.5))
    with pytest.raises(ValueError, match=r"Pass steps_per_epoch to fit, or give begin and end as ints"):
        model.fit(_finite(), callbacks=[callback], verbose=0)
    model.fit(generator(), steps_per_epoch=6, epochs=2, callbacks=[callback], verbose=0)
    assert sparsities(model) == [0.5, 0.5]


def _finite():
    yield X[:4], Y[:4]


def save_and_load(model, path):
    model.save(path)
    return keras.models.load_model(path)


@pytest.mark.parametrize(("stop", "end"), first((5, 9), (1, 9), (9, 9), (4, 0.9)))
def test_a_resumed_run_is_the_uninterrupted_one(stop, end, tmp_path):
    def run(model, first, last):
        callback = tfprune.PruningCallback(Polynomial(0.8, begin=1, end=end), every=3)
        model.fit(X, Y, batch_size=40, initial_epoch=first, epochs=last, callbacks=[callback], verbose=0)

    def model_without_dropout():
        keras.utils.set_random_seed(1)
        stack = [keras.Input((10,)), layers.Dense(10, name="hidden"), layers.Dense(2, name="out")]
        model = tfprune.wrap(keras.Sequential(stack))
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
        return model

    whole, part = model_without_dropout(), model_without_dropout()
    run(whole, 0, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(end, float):  # cut off, not shortened: the fractions are of ten epochs
            part.fit(
                X,
                Y,
                batch_size=40,
                epochs=10,
                verbose=0,
                callbacks=[tfprune.PruningCallback(Polynomial(0.8, begin=1, end=end), every=3), Stop(stop)],
            )
        else:
            run(part, 0, stop)
        part = save_and_load(part, tmp_path / "part.keras")
        run(part, stop, 10)
    assert_equal(masks_of(whole), masks_of(part))
    for weight, part_weight in zip(whole.weights, part.weights, strict=True):
        np.testing.assert_allclose(weight, part_weight, atol=1e-6)
    assert sparsities(part) == [0.8, 0.8]


class Stop(keras.callbacks.Callback):
    """Stop after some epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def test_a_dict_follows_the_progress_and_its_own_schedules():
    model, record = make(), Record()
    rules = {"hidden": 0.4, "out": Constant(0.9, begin=7)}
    fit(model, tfprune.PruningCallback(Polynomial(0.8, end=8, power=1), every=4, allocation=rules), record)
    assert record.zeros[3] == round(100 * 0.4 * 0.5) and record.zeros[-1] == 40
    assert sparsities(model) == [pytest.approx(0.4), pytest.approx(0.9)]


def test_none_leaves_a_weight_as_it_is():
    model = make()
    fit(model, tfprune.PruningCallback(Polynomial(0.8, end=8), allocation={"hidden": None}))
    assert sparsities(model) == [0.0, pytest.approx(0.8)]


def test_own_schedules_reach_their_end_after_the_overall_one():
    model = make()
    rules = {"out": Polynomial(0.9, begin=0.5, end=1.0)}
    fit(model, tfprune.PruningCallback(Polynomial(0.5, end=4), every=3, allocation=rules), epochs=2)
    assert sparsities(model) == [pytest.approx(0.5), pytest.approx(0.9)]


def test_rules_may_name_a_layer_that_is_frozen_until_later():
    model = make("sgd")
    model.get_layer("out").trainable = False
    fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=50, end=60), allocation={"out": 0.5}))


def test_several_optimizers_in_one_prune_as_one_does():
    inner = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1, momentum=0.9))
    inner["out/.*"] = keras.optimizers.Adam(0.01)
    model = make(keras.optimizers.MultiOptimizer(inner))
    fit(model, tfprune.PruningCallback(Polynomial(0.8, end=6), every=2), epochs=2)
    assert sparsities(model) == [0.8, 0.8]
    masked = model.get_layer("hidden").masks["kernel"].numpy() == 0
    slots = [slot for slot in model.optimizer.variables if slot.shape == masked.shape]
    assert slots
    for variable in [model.get_layer("hidden").layer.kernel, *slots]:
        assert np.count_nonzero(variable.numpy()[masked]) == 0


def test_a_schedule_of_its_own_for_all_other_weights_is_followed():
    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8, name="b")]))
    model.compile("sgd", "mse")
    allocation = {"^a/": 0.25, "": Polynomial(0.75, end=6)}
    callback = tfprune.PruningCallback(Constant(0.25, end=0), every=1, allocation=allocation)
    model.fit(np.ones((8, 8)), np.ones((8, 8)), batch_size=1, verbose=0, callbacks=[callback])
    rows = tfprune.sparsity_report(model).rows
    assert {row.path: row.sparsity for row in rows} == {
        "a/kernel": 0.25,
        "b/kernel": 0.75,
    }


def test_a_falling_schedule_never_asks_a_weight_for_more_than_its_own_sparsity():
    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8, name="b")]))
    model.compile("sgd", "mse")
    schedule = Polynomial(0.5, initial=0.75, end=6)
    callback = tfprune.PruningCallback(schedule, every=1, allocation={"^a/": 0.625})
    model.fit(np.ones((8, 8)), np.ones((8, 8)), batch_size=1, verbose=0, callbacks=[callback])
    rows = tfprune.sparsity_report(model).rows
    assert {row.path: row.sparsity for row in rows} == {
        "a/kernel": 0.625,
        "b/kernel": 0.5,
    }


class ShrinkAndRecord(keras.callbacks.Callback):
    """Shrink the weights that are kept, so that masked ones rank above them; remember the mask after each batch."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.get_layer("hidden")
        self.masks.append(layer.masks["kernel"].numpy())
        kernel = layer.kernels["kernel"].variable
        kernel.assign(np.random.default_rng(batch).uniform(0.01, 1, kernel.shape) * kernel.numpy())

    def came_back(self) -> list[bool]:
        return [bool((now & ~before).any()) for before, now in itertools.pairwise(self.masks)]


@pytest.mark.parametrize("end", [8, 10])
@pytest.mark.parametrize("names", first("own", "tfmot"))
def test_entries_come_back_before_the_end_and_not_at_it(names, end):
    """At step 8 masks are due anyway, at step 10 they are because the schedule ends."""
    record = ShrinkAndRecord()
    if names == "own":
        model = make()
        callbacks = [tfprune.PruningCallback(Polynomial(0.8, initial=0.7, end=end), every=4), record]
    else:
        schedule = tfprune.tfmot.PolynomialDecay(0.7, 0.8, 0, end, frequency=4)
        model = tfprune.tfmot.prune_low_magnitude(plain(), pruning_schedule=schedule)
        model.compile("adam", "mse")
        callbacks = [tfprune.tfmot.UpdatePruningStep(), record]
    fit(model, *callbacks)
    assert [step for step, is_back in enumerate(record.came_back(), 2) if is_back] == ([4] if end == 8 else [4, 8])
    assert sparsities(model)[0] == 0.8


def test_a_schedule_of_some_weights_has_an_end_of_its_own():
    record = ShrinkAndRecord()
    own = {"hidden": Polynomial(0.8, initial=0.7, end=8), "": None}
    fit(make(), tfprune.PruningCallback(Constant(0.5), every=4, allocation=own), record)
    assert [step for step, is_back in enumerate(record.came_back(), 2) if is_back] == [4]
