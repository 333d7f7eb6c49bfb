"""What the callback warns of, with numbers, and what it refuses before the first step."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest
from callback_runs import X, assert_equal, fit, make, plain, sparsities
from keras import layers
from tiers import first, in_test_ci

import tfprune
from tfprune.schedules import Constant, Polynomial, Schedule


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
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=10), every=2))
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=10)))


def test_a_weight_that_is_zero_by_chance_was_not_pruned():
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), layers.Dense(2000), layers.Dense(2)]))
    kernel = model.layers[0].layer.kernel
    kernel.assign(np.where(np.arange(20_000).reshape(10, 2000) == 7, 0, kernel))
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=2, end=10), every=1))


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
    first(
        ([1e-2] * 5 + [9e-4], Polynomial(0.8, begin=8, end=30), 22),  # the first update after the drop, at step 20
        in_test_ci(([1e-1] * 5 + [1e-2], Polynomial(0.8, begin=8, end=30), None)),  # a tenth is not below a tenth
        ([1e-2] * 5 + [1e-4], Polynomial(0.8, begin=8, end=18), None),  # pruned before
        ([1e-2] * 5 + [1e-4], Constant(0.8, begin=4), None),  # updated for ever, but nothing more is pruned
        ([1e-2] * 5 + [1e-4], Constant(0.8, begin=32), 32),
        ([1e-5, 1e-4, 1e-3, 1e-2], Polynomial(0.8, end=30), None),  # a warm-up
        ([1e-4, 1e-2, 1e-2, 1e-4], Polynomial(0.8, end=14, power=1), 14),  # the peak is not at the start
        ([1e-5], Polynomial(0.8, end=30), None),  # fine-tuning, after `compile` with another rate
        ([0.0], Polynomial(0.8, end=30), None),
        count=2,
    ),
)
def test_pruning_under_a_low_learning_rate_warns_once(rates, schedule, step):
    # First in the list, so that `compile`'s rate still stands when an epoch begins.
    messages = warned(make(), tfprune.PruningCallback(schedule, every=2), by_epoch(rates))
    assert len(messages) == (step is not None)
    if step is not None:
        assert TOO_LOW in messages[0] and f"at step {step}, where" in messages[0]


@pytest.mark.parametrize(
    ("schedule", "every", "message"),
    first(
        (
            Polynomial(0.8, end=22),
            100,
            "every=100 raises .* only 1 update of this schedule of 22 steps, from 0 to 0.8",
        ),
        in_test_ci((Polynomial(0.8, end=22), 5, None)),
        (Polynomial(0.8, end=40), 10, "only 4 updates of .* by up to 0.4625 in one. .*, leave out `every`: .* is 1"),
        (Polynomial(0.8, end=0.5), 100, "only 1 update of this schedule of 20 steps, .*, leave out `every`"),
        (Polynomial(0.8, end=0.5), None, None),
        (Polynomial(0.8, end=1), 100, "ends after the first step: end=1 is one step. .* pass end=1.0."),
        (Constant(0.8, end=1), 1, "ends after the first step: end=1 is one step. .* pass end=1.0."),
        (Polynomial(0.8, end=1.0), 8, None),
        (Constant(0.8, begin=4, end=30), 100, None),  # no rise to spread
        (Constant(0.8), 100, None),
        count=2,
    ),
)
def test_a_schedule_that_is_a_jump_warns_with_what_to_pass(schedule, every, message):
    messages = warned(make(), tfprune.PruningCallback(schedule, every=every))
    assert len(messages) == (message is not None)
    if message is not None:
        assert re.search(message, messages[0])


def test_calls_of_many_steps_that_leave_few_updates_warn():
    (message,) = warned(make(steps_per_execution=20), tfprune.PruningCallback(Polynomial(0.8, end=1.0)))
    assert "A call of 20 steps (steps_per_execution) raises the sparsity in only 2 updates" in message
    assert message.endswith("compile the model with steps_per_execution=1.")


class Reached(keras.callbacks.Callback):
    """Note sparsity and learning rate after each step."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def on_train_batch_end(self, batch, logs=None):
        self.rows[int(self.model.optimizer.iterations)] = logs["sparsity"], float(self.model.optimizer.learning_rate)


@pytest.mark.parametrize("scaled", first(False, True))
def test_the_warning_has_the_numbers_of_a_learning_rate_schedule(scaled):
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.PolynomialDecay(0.05, 40, 0.0))
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    reached = Reached()
    (message,) = warned(make(optimizer), tfprune.PruningCallback(Polynomial(0.8, end=40, power=1), every=5), reached)
    sparsity, rate = reached.rows[40]  # at 35 the rate is 0.00625
    assert f"The sparsity rose to {sparsity:.4f} at step 40" in message and rate < 0.005
    assert f"rate is {rate:.3g}, less than a tenth of its peak in this fit, 0.0488" in message


@pytest.mark.programs
def test_a_rate_lowered_on_a_plateau_warns():
    plateau = keras.callbacks.ReduceLROnPlateau("flat", factor=0.01, patience=3, mode="min")

    class Flat(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["flat"] = 1.0

    messages = warned(make(), Flat(), plateau, tfprune.PruningCallback(Polynomial(0.8, end=30), every=4))
    assert len(messages) == 1 and "at step 20, where the learning rate is 1e-05" in messages[0]


@pytest.mark.slow
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


@pytest.mark.programs
def test_each_fit_has_a_peak_of_its_own():
    model = make()
    high = tfprune.PruningCallback(Polynomial(0.4, end=40), every=4)
    low = tfprune.PruningCallback(Polynomial(0.8, begin=40, end=70, initial=0.4), every=4)
    assert warned(model, by_epoch([1e-2]), high) == warned(model, by_epoch([1e-4]), low) == []


@pytest.mark.programs
def test_the_learning_rate_is_read_rarely():
    steps = []

    class Noted(keras.optimizers.SGD):
        @property
        def learning_rate(self):
            with contextlib.suppress(AttributeError):  # while the training step is traced, no step has a value
                steps.append(int(self.iterations))
            return super().learning_rate

    model, many = make(Noted()), np.repeat(X, 25, 0)
    callback = tfprune.PruningCallback(Polynomial(0.8, begin=50, end=150), every=50)
    model.fit(many, many[:, :2], batch_size=4, epochs=2, verbose=0, callbacks=[callback])  # 250 updates an epoch
    # The first step of an epoch, whenever sparsity rises, and a hundred steps after the last reading.
    assert steps == [1, 100, 150, 250, 251, 351, 451]


@pytest.mark.parametrize(
    ("schedule", "step"),
    first((Polynomial(0.8, begin=8, end=40), 8), (Polynomial(0.8, end=40), 0), (Constant(0.6), 0)),
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


@pytest.mark.programs
@pytest.mark.parametrize("schedule", first(Constant(0.7), Polynomial(0.9, end=40, initial=0.7)))
def test_what_the_warning_advises_keeps_the_sparsity(schedule):
    model = make()
    fit(model, tfprune.PruningCallback(Constant(0.7)))
    model.compile("adam", "mse")
    reached = Reached()
    assert warned(model, tfprune.PruningCallback(schedule, every=4), reached) == []
    assert min(sparsity for sparsity, _ in reached.rows.values()) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tfprune.PruningCallback(0.5), TypeError, "schedule=0.5 of type float"),
        (lambda: tfprune.PruningCallback(Polynomial), TypeError, "of type type. Did you mean Polynomial(...)?"),
        (
            lambda: tfprune.PruningCallback(tfprune.tfmot.PolynomialDecay(0.0, 0.5, 0, 10)),
            TypeError,
            "of type PolynomialDecay. Pass UpdatePruningStep() instead",
        ),
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


def _compiled(model: keras.Model) -> keras.Model:
    model.compile("sgd", "mse")
    return model
