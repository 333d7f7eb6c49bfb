"""The callback inside `fit`: exact at every end, silent at inference, and at home among other callbacks."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfprune
from tfprune.schedules import Constant, Polynomial, Schedule

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 10)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")


def plain(seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(10, activation="tanh", name="hidden"),
            layers.Dropout(0.2, seed=3),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="out"),
        ]
    )


def make(optimizer="adam", **compile_arguments) -> keras.Model:
    if optimizer == "adam" and not compile_arguments:
        return POOL.take()
    model = tfprune.wrap(plain())
    model.compile(optimizer, "mse", **compile_arguments)
    return model


class Pool:
    """Hand out models that earlier tests have trained, every variable as it was at first: tracing takes most time."""

    def __init__(self):
        self.models, self.taken = [], 0

    def take(self) -> keras.Model:
        if self.taken == len(self.models):
            self.models.append(self._new())
        model, optimizer, variables, values = self.models[self.taken]
        self.taken += 1
        keras.utils.set_random_seed(1)  # as `plain` does
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        model.stop_training = False
        return model

    def _new(self) -> tuple:
        model = tfprune.wrap(plain())
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        variables = [*model.variables, *model.optimizer.variables]
        return model, model.optimizer, variables, [variable.numpy() for variable in variables]

    def give_back(self) -> None:
        """Keep what tests have not compiled again."""
        self.models = [one for one in self.models if one[0].optimizer is one[1]]
        self.taken = 0


POOL = Pool()


@pytest.fixture(autouse=True)
def pool():
    yield
    POOL.give_back()


def fit(model: keras.Model, *callbacks, epochs: int = 1, **arguments) -> dict[str, list[float]]:
    """Train 10 updates an epoch, always on the same batches."""
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def masks_of(model: keras.Model) -> list[np.ndarray]:
    return [model.get_layer(name).masks["kernel"].numpy() for name in ("hidden", "out")]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def sparsities(model: keras.Model) -> list[float]:
    return [row.sparsity for row in tfprune.sparsity_report(model).rows]


class Record(keras.callbacks.Callback):
    """Count the zeros of the first mask after every batch."""

    def __init__(self):
        super().__init__()
        self.zeros = []

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(int(np.sum(self.model.get_layer("hidden").masks["kernel"].numpy() == 0)))


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


def test_sparsity_is_in_history_and_in_what_later_callbacks_log(tmp_path):
    class Seen(keras.callbacks.Callback):
        values: list[float] = []

        def on_train_batch_end(self, batch, logs=None):
            self.values.append(logs["sparsity"])

    first, later = (keras.callbacks.CSVLogger(tmp_path / name) for name in ("first.csv", "later.csv"))
    callback = tfprune.PruningCallback(Polynomial(0.5, end=20), every=5)
    history = fit(make(), first, callback, later, Seen(), epochs=2, validation_data=(X, Y))
    with (tmp_path / "later.csv").open() as file:
        rows = [float(row["sparsity"]) for row in csv.DictReader(file)]
    assert rows == pytest.approx(history["sparsity"])
    assert history["sparsity"][1] == 0.5 and 0.3 < history["sparsity"][0] < 0.5
    assert Seen.values[9::10] == history["sparsity"] and Seen.values[0] == 0
    assert set(history) == {"loss", "val_loss", "sparsity"}


@pytest.mark.parametrize("arguments", [{"steps_per_execution": 7}, {"jit_compile": True}, {"run_eagerly": True}])
def test_other_ways_to_run_a_step_end_exactly(arguments):
    model = make(**arguments)
    fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=1, end=9), every=2))
    assert sparsities(model) == [0.8, 0.8]
    kernel = model.get_layer("hidden").layer.kernel.numpy()
    assert np.count_nonzero(kernel) == 20 and np.isfinite(kernel).all()


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


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
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
    [(1, None, 0, 23, 7), (3, None, 5, 19, 1), (1, 3, 2, 21, 100), (3, 3, 0, 23, 7), (3, None, 2, 21, 100)],
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
    read, count = [], tfprune.training.pruning_callback.updates_of

    def noted(optimizer):
        read.append(count(optimizer))
        return read[-1]

    monkeypatch.setattr(tfprune.training.pruning_callback, "updates_of", noted)
    many = np.repeat(X, 25, 0)
    callback = tfprune.PruningCallback(Polynomial(0.8, begin=50, end=170, initial=0.1), every=60)
    make().fit(many, many[:, :2], batch_size=4, epochs=1, verbose=0, callbacks=[callback])
    # The start, the first step of the epoch, masks at 50, 110, 170, the learning rate a hundred steps after, the end.
    assert read == [0, 1, 50, 110, 170, 250]


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


@pytest.mark.parametrize(("stop", "end"), [(1, 9), (5, 9), (9, 9), (4, 0.9)])
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
    for one, other in zip(whole.weights, part.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert sparsities(part) == [0.8, 0.8]


class Stop(keras.callbacks.Callback):
    """Stop after some epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


class Crash(keras.callbacks.Callback):
    """Fail at a step, as a lost machine does."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 14:
            raise KeyboardInterrupt


@pytest.mark.parametrize("first", ["backup", "pruning"])
def test_a_backup_is_restored_and_ends_exactly(first, tmp_path):
    def callbacks():
        pair = [
            keras.callbacks.BackupAndRestore(tmp_path, save_freq=3),
            tfprune.PruningCallback(Polynomial(0.8, end=20), every=4),
        ]
        return pair if first == "backup" else pair[::-1]

    # Models of their own: Keras keeps the epoch to start from in the model.
    with pytest.raises(KeyboardInterrupt):
        fit(make(keras.optimizers.Adam()), *callbacks(), Crash(), epochs=2)
    model, record = make(keras.optimizers.Adam()), Record()
    fit(model, *callbacks(), record, epochs=2)
    assert record.zeros[0] > 60 and sparsities(model) == [0.8, 0.8]


def test_ending_early_warns_with_numbers():
    model = make()
    with pytest.warns(
        UserWarning, match=r"Training ended at step 10, before the pruning schedule did at step 50"
    ) as caught:
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=50), every=5))
    assert f"the sparsity is {tfprune.sparsity_report(model).sparsity:.4f} instead of 0.8000" in str(
        caught[0].message
    )


def test_a_window_that_has_passed_warns_with_numbers():
    model = make()
    fit(model)
    with pytest.warns(
        UserWarning, match=r"ended at step 5, and training starts at step 10 .* stays at 0.0000 instead of 0.80"
    ):
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=5)))


def test_no_warning_when_all_is_reached():
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=10), every=3))
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=10), every=3))


def test_a_weight_that_is_zero_by_chance_was_not_pruned():
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), layers.Dense(2000), layers.Dense(2)]))
    kernel = model.layers[0].layer.kernel
    kernel.assign(np.where(np.arange(20_000).reshape(10, 2000) == 7, 0, kernel))
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=2, end=10), every=3))


LATE = {"epochs": 10, "batch_size": 10}  # 4 updates an epoch, 40 in all
TOO_LOW = "less than a tenth of its peak"


def by_epoch(rates):
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[min(epoch, len(rates) - 1)])


def warned(model, *callbacks) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        fit(model, *callbacks, **LATE)
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


@pytest.mark.parametrize(
    ("rates", "schedule", "step"),
    [
        ([1e-2] * 5 + [9e-4], Polynomial(0.8, begin=8, end=30), 24),  # the first update after the drop, at step 20
        ([1e-1] * 5 + [1e-2], Polynomial(0.8, begin=8, end=30), None),  # a tenth is not below a tenth
        ([1e-2] * 5 + [1e-4], Polynomial(0.8, begin=8, end=18), None),  # pruned before
        ([1e-2] * 5 + [1e-4], Constant(0.8, begin=4), None),  # updated for ever, but nothing more is pruned
        ([1e-2] * 5 + [1e-4], Constant(0.8, begin=32), 32),
        ([1e-5, 1e-4, 1e-3, 1e-2], Polynomial(0.8, end=30), None),  # a warm-up
        ([1e-4, 1e-2, 1e-2, 1e-4], Polynomial(0.8, end=14, power=1), 14),  # the peak is not at the start
        ([1e-5], Polynomial(0.8, end=30), None),  # fine-tuning, after `compile` with another rate
        ([0.0], Polynomial(0.8, end=30), None),
    ],
)
def test_pruning_under_a_low_learning_rate_warns_once(rates, schedule, step):
    # First in the list, so that `compile`'s rate still stands when an epoch begins.
    messages = warned(make(), tfprune.PruningCallback(schedule, every=4), by_epoch(rates))
    assert len(messages) == (step is not None)
    if step is not None:
        assert TOO_LOW in messages[0] and f"at step {step}, where" in messages[0]


class Reached(keras.callbacks.Callback):
    """Note sparsity and learning rate after each step."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def on_train_batch_end(self, batch, logs=None):
        self.rows[int(self.model.optimizer.iterations)] = logs["sparsity"], float(self.model.optimizer.learning_rate)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_warning_has_the_numbers_of_a_learning_rate_schedule(scaled):
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.PolynomialDecay(0.05, 40, 0.0))
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    reached = Reached()
    (message,) = warned(make(optimizer), tfprune.PruningCallback(Polynomial(0.8, end=40, power=1), every=5), reached)
    sparsity, rate = reached.rows[40]  # at 35 the rate is 0.00625
    assert f"The sparsity rose to {sparsity:.4f} at step 40" in message and rate < 0.005
    assert f"rate is {rate:.3g}, less than a tenth of its peak in this fit, 0.0488" in message


def test_a_rate_lowered_on_a_plateau_warns():
    plateau = keras.callbacks.ReduceLROnPlateau("flat", factor=0.01, patience=3, mode="min")

    class Flat(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["flat"] = 1.0

    messages = warned(make(), Flat(), plateau, tfprune.PruningCallback(Polynomial(0.8, end=30), every=4))
    assert len(messages) == 1 and "at step 20, where the learning rate is 1e-05" in messages[0]


def test_what_is_warned_of_costs_twenty_points():
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]

    def accuracy_and_warnings(late_rate):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(256, "relu"), layers.Dense(128, "relu")]
        model = tfprune.wrap(keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, "softmax")]))
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([300], [0.1, late_rate])
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        pruning = tfprune.PruningCallback(Polynomial(0.98, begin=310, end=440), every=10)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model.fit(x[:1280], y[:1280], batch_size=64, epochs=23, verbose=0, callbacks=[pruning])
        messages = [str(warning.message) for warning in caught if TOO_LOW in str(warning.message)]
        return model.evaluate(x[1280:], y[1280:], verbose=0)[1], messages

    high, silent = accuracy_and_warnings(0.1)
    low, messages = accuracy_and_warnings(0.001)
    assert high - low > 0.2
    assert silent == [] and len(messages) == 1 and "at step 320, where the learning rate is 0.001" in messages[0]


SPLITS = ["uniform", "erk", "global", "lamp", {"mid": 0.999}]


@pytest.mark.parametrize(
    ("pattern", "sparsity", "allocation"),
    [
        *itertools.product(["unstructured", tfprune.patterns.Block(2, 2)], [0.999], SPLITS),
        (tfprune.patterns.NM(1, 2), 0.5, "uniform"),  # the most it takes
    ],
)
def test_no_sparsity_empties_a_layer(pattern, sparsity, allocation):
    stack = [keras.Input((2,)), layers.Dense(1, name="hidden"), layers.Dense(3, name="mid"), layers.Dense(2)]
    model = tfprune.wrap(keras.Sequential(stack), pattern=pattern)
    tfprune.update_masks(model, sparsity, allocation=allocation)
    rows = tfprune.sparsity_report(model).rows
    assert len(rows) >= 2 and all(row.nnz >= 1 for row in rows)


def test_each_fit_has_a_peak_of_its_own():
    model = make()
    high = tfprune.PruningCallback(Polynomial(0.4, end=40), every=4)
    low = tfprune.PruningCallback(Polynomial(0.8, begin=40, end=70, initial=0.4), every=4)
    assert warned(model, by_epoch([1e-2]), high) == warned(model, by_epoch([1e-4]), low) == []


def test_the_learning_rate_is_read_rarely():
    read = []

    class Noted(keras.optimizers.SGD):
        @property
        def learning_rate(self):
            with contextlib.suppress(AttributeError):  # while the training step is traced, no step has a value
                read.append(int(self.iterations))
            return super().learning_rate

    model, many = make(Noted()), np.repeat(X, 25, 0)
    callback = tfprune.PruningCallback(Polynomial(0.8, begin=50, end=150), every=50)
    model.fit(many, many[:, :2], batch_size=4, epochs=2, verbose=0, callbacks=[callback])  # 250 updates an epoch
    # The first step of an epoch, whenever sparsity rises, and a hundred steps after the last reading.
    assert read == [1, 100, 150, 250, 251, 351, 451]


@pytest.mark.parametrize(
    ("schedule", "step"), [(Polynomial(0.8, end=40), 0), (Polynomial(0.8, begin=8, end=40), 8), (Constant(0.6), 0)]
)
def test_a_schedule_below_the_models_sparsity_warns_that_weights_come_back(schedule, step):
    model = make()
    fit(model, tfprune.PruningCallback(Constant(0.7)))
    model.compile("adam", "mse")  # counts steps from 0
    reached = Reached()
    messages = warned(model, tfprune.PruningCallback(schedule, every=4), reached)
    assert len(messages) == 1
    assert f"0.7000 before this fit, {schedule(step):.4f} at step {step}" in messages[0]
    assert "Constant(0.7)" in messages[0] and "initial=0.7)" in messages[0]
    assert sparsities(model) == [schedule.target] * 2  # it warns, and does what it was told


@pytest.mark.parametrize("schedule", [Constant(0.7), Polynomial(0.9, end=40, initial=0.7)])
def test_what_the_warning_advises_keeps_the_sparsity(schedule):
    model = make()
    fit(model, tfprune.PruningCallback(Constant(0.7)))
    model.compile("adam", "mse")
    reached = Reached()
    assert warned(model, tfprune.PruningCallback(schedule, every=4), reached) == []
    assert min(sparsity for sparsity, _ in reached.rows.values()) == pytest.approx(0.7)


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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tfprune.PruningCallback(0.5), TypeError, "schedule=0.5 of type float"),
        (lambda: tfprune.PruningCallback(Polynomial), TypeError, "Expected a schedule"),
        (lambda: tfprune.PruningCallback(NoWindow()), TypeError, "a NoWindow without begin and end"),
        (lambda: tfprune.PruningCallback(Constant(0.5), allocation={"a": NoWindow()}), TypeError, "allocation['a']"),
        (lambda: tfprune.PruningCallback(Constant(0.5), every=0), ValueError, "every=0"),
        (lambda: tfprune.PruningCallback(Constant(0.5), every=1.5), TypeError, "every=1.5"),
        (lambda: tfprune.PruningCallback(Constant(0.5), allocation="even"), ValueError, "allocation='even'"),
        (lambda: tfprune.PruningCallback(Constant(0.5), allocation={"a": 1.5}), ValueError, "allocation['a']"),
        (
            lambda: fit(_compiled(plain()), tfprune.PruningCallback(Constant(0.5))),
            ValueError,
            "has none. Use the model",
        ),
        (lambda: fit(make(), tfprune.PruningCallback(Constant(0.5), allocation={"x": 0.1})), ValueError, "'x'"),
        (
            lambda: fit(make(_several_with_muon()), tfprune.PruningCallback(Constant(0.5))),
            ValueError,
            "Received: Muon",
        ),
        (lambda: fit(make("muon"), tfprune.PruningCallback(Constant(0.5))), ValueError, "Received: Muon"),
        (
            lambda: fit(make(), tfprune.PruningCallback(Polynomial(0.5, begin=8, end=0.5))),
            ValueError,
            "begin=8, end=5",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def _several_with_muon() -> keras.optimizers.Optimizer:
    inner = keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01))
    inner["hidden/.*"] = keras.optimizers.Muon(0.1)
    return keras.optimizers.MultiOptimizer(inner)


class NoWindow(Schedule):
    def sparsity_at(self, step):
        return 0.5


@dataclasses.dataclass(frozen=True)
class TooMuch(Schedule):
    begin: int = 0
    end: int = 10

    def sparsity_at(self, step):
        return 0.1 if step < 5 else 1.5


@pytest.mark.parametrize(
    ("schedule", "allocation", "message"),
    [
        (Polynomial(0.8, begin=6, end=8), {"none": 0.3}, "'none', which matches none of hidden/kernel, out/kernel"),
        (Polynomial(0.8, begin=6, end=8), {"none": Constant(0.3, begin=7)}, "'none', which matches none"),
        (TooMuch(), "uniform", "schedule.target=1.5"),
        (Polynomial(0.8, end=8), "uniform", "hidden/kernel cannot be pruned as far as Polynomial(final=0.8"),
        (Polynomial(0.4, end=8), {"out": Polynomial(0.9, end=8)}, "at most 1 - n/m = 0.5 for NM(n=2, m=4)"),
    ],
)
def test_what_a_schedule_comes_to_later_is_refused_before_the_first_step(schedule, allocation, message):
    model = tfprune.wrap(plain(), pattern=tfprune.patterns.NM(2, 4))
    model.compile("sgd", "mse", run_eagerly=True)
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, tfprune.PruningCallback(schedule, every=2, allocation=allocation))
    assert_equal(before, [variable.numpy() for variable in model.weights])


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


def _compiled(model: keras.Model) -> keras.Model:
    model.compile("sgd", "mse")
    return model


ORDERS = ["checkpoint_first", "pruning_first"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("save_freq", ["epoch", 4])
def test_checkpoints_are_sparse(order, save_freq, tmp_path):
    path = tmp_path / "{epoch}.keras"
    pair = [
        keras.callbacks.ModelCheckpoint(path, save_freq=save_freq),
        tfprune.PruningCallback(Polynomial(0.8, end=20), every=3),
    ]
    fit(make(), *(pair if order == "checkpoint_first" else pair[::-1]), epochs=3)
    loaded = keras.models.load_model(tmp_path / "3.keras")
    plain_model = tfprune.strip(loaded)
    for name in ("hidden", "out"):
        kernel = plain_model.get_layer(name).kernel.numpy()
        assert np.sum(kernel == 0) == round(0.8 * kernel.size)
        np.testing.assert_array_equal(loaded.get_layer(name).layer.kernel.numpy() == 0, kernel == 0)


@pytest.mark.parametrize("order", ORDERS)
def test_restored_weights_are_sparse(order):
    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["cost"] = abs(epoch - 2)

    pair = [
        keras.callbacks.EarlyStopping("cost", patience=1, mode="min", restore_best_weights=True),
        tfprune.PruningCallback(Polynomial(0.8, end=20), every=3),
    ]
    model = make()
    history = fit(model, Worse(), *(pair if order == "checkpoint_first" else pair[::-1]), epochs=6)
    assert len(history["cost"]) == 4
    assert sparsities(tfprune.strip(model)) == [0.8, 0.8] == sparsities(model)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("on_epoch", [False, True])
def test_averaged_weights_are_sparse(order, on_epoch):
    pair = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch),
        tfprune.PruningCallback(Polynomial(0.8, end=20), every=3),
    ]
    model = make(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5))
    fit(model, *(pair if order == "checkpoint_first" else pair[::-1]), epochs=3)
    kernel = model.get_layer("hidden").layer.kernel.numpy()
    assert np.sum(kernel == 0) == 80
    assert sparsities(tfprune.strip(model)) == [0.8, 0.8]


def test_predict_and_evaluate_write_nothing():
    model = make()
    fit(model, tfprune.PruningCallback(Constant(0.5)))
    hidden = model.get_layer("hidden")
    hidden.layer.kernel.assign(1 + hidden.layer.kernel)  # also what a mask hides, so that masking it would show
    metrics = {id(variable) for variable in model.metrics_variables}
    states = [variable for variable in model.variables if id(variable) not in metrics]
    before = [variable.numpy() for variable in states]
    model.predict(X, verbose=0)
    model.evaluate(X, Y, verbose=0)
    assert len(before) >= 12
    assert_equal(before, [variable.numpy() for variable in states])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_at_sparsity_zero_is_training_the_twin(optimizer):
    twin, model = plain(), tfprune.wrap(plain())
    results = []
    for one in (twin, model):
        one.compile(optimizer, "mse")
        callbacks = [tfprune.PruningCallback(Constant(0.0), every=1)] if one is model else []
        keras.utils.set_random_seed(2)
        results.append(fit(one, *callbacks, epochs=2)["loss"])
    assert results[0] == results[1]
    assert_equal([v.numpy() for v in tfprune.strip(model).weights], [v.numpy() for v in twin.weights])


def test_embeddings_and_recurrent_layers_train_as_their_twins_do():
    def build():
        keras.utils.set_random_seed(1)
        stack = [keras.Input((5,)), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3), layers.Dense(2)]
        return keras.Sequential(stack)

    tokens = np.random.default_rng(0).integers(0, 9, size=(40, 5))
    twin, model = build(), tfprune.wrap(build())
    for one in (twin, model):
        one.compile("adam", "mse")
        one.fit(tokens, Y, batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(tfprune.strip(model).weights, twin.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


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
