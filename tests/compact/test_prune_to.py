"""prune_to: rounds that end within the budget, each judged as the model was compiled."""

from __future__ import annotations

import json
import re

import keras
import numpy as np
import pytest
from refusals import REFUSAL, refusals, refused
from sklearn.datasets import load_digits
from tiers import first

import tfprune
from tfprune import FineTuning, Limit, budget, prune_to
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.compact.trainer import MetricGuard

layers = keras.layers
GOOD = np.ones((4, 64), "float32"), np.ones(4)


class Unlabelled(keras.utils.PyDataset):
    """A dataset of one batch, as it is."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    num_batches = 1

    def __getitem__(self, index):
        return self.batch


class Batched(Unlabelled):
    """A dataset of several batches."""

    @property
    def num_batches(self):
        return len(self.batch)

    def __getitem__(self, index):
        return self.batch[index]


@pytest.fixture(scope="module")
def data():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels


@pytest.fixture(scope="module")
def model(data):
    keras.utils.set_random_seed(1)
    stack = [
        keras.Input((64,)),
        layers.Dense(64, activation="relu", name="first"),
        layers.Dense(48, activation="relu"),
    ]
    trained = keras.Sequential([*stack, layers.Dense(10, name="class")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    trained.fit(data[0][:1200], data[1][:1200], epochs=8, verbose=0)
    return trained


@pytest.fixture(scope="module")
def pruned(model, data):
    x, y = data
    judged = {"validation_data": (x[1200:], y[1200:]), "max_drop": Limit(metric="accuracy")}
    return prune_to(model, budget(flops=0.25), (x[:1200], y[:1200]), **judged, verbose=0)


@pytest.mark.programs
def test_the_budget_is_approached_by_equal_steps(model, pruned):
    smaller, report = pruned
    total = 2 * (64 * 64 + 64 * 48 + 48 * 10)
    flops = [one.plan.flops_kept for one in report.rounds]
    for kept, part in zip(flops, (0.75, 0.5, 0.25), strict=True):
        assert 0.9 * part * total < kept <= part * total
    assert flops[-1] == tfprune.plan_shrink(smaller, 0.0).flops
    assert [one.plan.parameters for one in report.rounds[1:]] == [
        one.plan.parameters_kept for one in report.rounds[:-1]
    ]


@pytest.mark.programs
def test_the_figures_are_those_of_evaluate(model, pruned, data):
    smaller, report = pruned
    x, y = (part[1200:] for part in data)
    assert report.before == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])
    after = np.mean(smaller.predict(x, verbose=0).argmax(axis=1) == y)
    assert report.rounds[-1].value == pytest.approx(after)
    assert after > report.before - 0.03


def test_without_validation_data_all_of_the_first_samples_are_judged(model, data):
    x, y = data[0][:1000], data[1][:1000]
    smaller, report = prune_to(
        model, budget(flops=0.5), (x, y), epochs=0, fine_tuning=FineTuning(rounds=1), verbose=0
    )
    assert report.before == pytest.approx(model.evaluate(x[:512], y[:512], verbose=0)[0], rel=1e-5)
    assert report.rounds[0].trained == pytest.approx(smaller.evaluate(x[:512], y[:512], verbose=0)[0], rel=1e-5)


@pytest.mark.programs
def test_reconstruction_wins_back_what_removal_lost(pruned):
    _, report = pruned
    last = report.rounds[-1]
    assert last.reconstructed - last.removed > 0.5 * (report.rounds[-2].trained - last.removed) > 0


@pytest.mark.programs
def test_the_smaller_model_is_compiled_and_the_first_untouched(model, pruned):
    smaller, _ = pruned
    assert smaller.compiled and isinstance(smaller.optimizer, keras.optimizers.Adam)
    assert float(smaller.optimizer.learning_rate) == pytest.approx(0.003)
    assert model.get_layer("first").units == 64 and int(model.optimizer.iterations) == 8 * 38


@pytest.mark.programs
def test_the_report_is_a_table_and_plain_data(pruned):
    _, report = pruned
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["round", "FLOPs", "parameters"]
    assert [line.split()[0].rstrip(",") for line in lines[2:]] == ["before", "1", "2", "3"]
    read = json.loads(json.dumps(report.as_dict()))
    assert read["rounds"][2]["trained"] == report.rounds[2].trained


def test_criteria_that_need_data_see_the_first_samples(model, data):
    how = FineTuning(rounds=1, max_samples=100, reconstruction="parallel")
    settings = {"criterion": "wanda", "epochs": 0, "fine_tuning": how, "verbose": 0}
    smaller, report = prune_to(model, budget(parameters=0.6), data, **settings)
    assert smaller.count_params() == report.rounds[0].plan.parameters_kept <= 0.6 * model.count_params()
    assert report.metric == "loss" and report.rounds[0].trained == pytest.approx(
        report.rounds[0].reconstructed, rel=1e-4
    )


def test_a_progress_bar_shows_the_metric(model, data, capsys):
    prune_to(model, budget(flops=0.8), data, epochs=0, fine_tuning=FineTuning(rounds=1, max_samples=64), verbose=1)
    printed = capsys.readouterr().out
    assert "3/3" in printed and "loss" in printed and "FLOPs" in printed


@pytest.mark.parametrize(
    ("kind", "argument", "change"),
    [
        (ArgumentTypeError, "budget", {"budget": 0.5}),
        (ArgumentTypeError, "budget", {"budget": np.ones((4, 64))}),
        (ArgumentTypeError, "budget", {"budget": (1, 24)}),
        (ArgumentError, "budget", {"budget": budget(flops=101)}),
        (ArgumentTypeError, "data", {"data": np.ones((4, 64))}),
        (ArgumentError, "data", {"data": (np.ones((0, 64)), np.ones(0))}),
        (ArgumentError, "data", {"data": (np.ones((4, 64), "float32"),)}),
        (ArgumentError, "data", {"data": Unlabelled(np.ones((4, 64), "float32"))}),
        (ArgumentError, "validation_data", {"validation_data": (np.ones((0, 64)), np.ones(0))}),
        (ArgumentTypeError, "validation_data", {"validation_data": np.ones((4, 64))}),
        (ArgumentError, "validation_data", {"validation_data": Unlabelled(np.ones((4, 64)))}),
        (ArgumentError, "validation_data", {"max_drop": 0.1}),
        (ArgumentError, "max_drop", {"max_drop": -0.1, "validation_data": GOOD}),
        (ArgumentError, "mode", {"max_drop": Limit(1, metric="auc"), "validation_data": GOOD}),
        (ArgumentError, "max_drop", {"max_drop": Limit(0.1, metric=len, mode="max"), "validation_data": GOOD}),
        (ArgumentError, "max_drop", {"max_drop": Limit(0.1, data=GOOD)}),
        (ArgumentError, "validation_data", {"max_drop": Limit(max_drop_per_class=0.1)}),
        (
            ArgumentError,
            "max_drop",
            {"max_drop": Limit(max_drop_per_class=0.1), "validation_data": (GOOD[0], GOOD[1] / 2)},
        ),
        (
            ArgumentError,
            "groups",
            {
                "max_drop": Limit(max_drop_per_group=0.1, groups={"room": [1, 2, 3]}),
                "validation_data": (GOOD[0], GOOD[1].astype(int)),
            },
        ),
        (ArgumentTypeError, "max_drop", {"max_drop": "little"}),
        (ArgumentError, "batch_size", {"data": Unlabelled(GOOD), "fine_tuning": FineTuning(batch_size=8)}),
        (ArgumentTypeError, "fine_tuning", {"fine_tuning": {"rounds": 5}}),
        (ArgumentError, "data", {"data": (np.ones((4, 63), "float32"), np.ones(4))}),
        (ArgumentError, "data", {"data": (np.full((4, 64), np.nan), np.ones(4))}),
        (ArgumentError, "metric", {"max_drop": Limit(metric="acc")}),
        (ArgumentError, "criterion", {"criterion": "loud"}),
        (ArgumentError, "model", {"model": keras.Sequential([keras.Input((3,)), layers.Dense(2)])}),
        (ArgumentTypeError, "model", {"model": layers.Dense(2)}),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(model, data, kind, argument, change):
    given = {"model": model, "budget": budget(flops=0.5), "data": data, "verbose": 0, **change}
    before = model.get_weights()
    with refused(kind, argument):
        prune_to(given.pop("model"), given.pop("budget"), given.pop("data"), **given)
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    REFUSAL,
    refusals(
        {"rounds": [0], "max_samples": [0], "every": [0], "batch_size": [0], "reconstruction": ["magic"]},
        {"optimizer": [0.1], "callbacks": [keras.callbacks.History()], "distillation": [4.0]},
    ),
)
def test_fine_tuning_refuses_settings_that_there_are_not(kind, argument, changes):
    with refused(kind, argument):
        FineTuning(**changes)


def test_a_plan_is_carried_out_in_one_round(model, data):
    x, y = data
    plan = tfprune.plan_shrink(model, 0.5, criterion="l2")
    how = {"fine_tuning": FineTuning(max_samples=128), "max_drop": Limit(metric="accuracy"), "verbose": 0}
    smaller, report = prune_to(model, plan, (x[:1200], y[:1200]), **how)
    assert [one.plan for one in report.rounds] == [plan]
    assert smaller.count_params() == plan.parameters_kept
    assert report.rounds[0].trained > report.rounds[0].removed


def test_a_plan_leaves_no_choice_and_fits_its_model(model, data):
    plan = tfprune.plan_shrink(model, 0.5)
    with pytest.raises(ValueError, match=r"no other choice of channels with a plan.*filters='first', round_to=4"):
        prune_to(model, plan, data, filters="first", round_to=4)
    other = keras.Sequential([keras.Input((64,)), layers.Dense(8, name="first"), layers.Dense(10)])
    other.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Expected the model that the plan was made for"):
        prune_to(other, plan, data)


class Steps(keras.callbacks.Callback):
    """Record what each training was like."""

    def __init__(self):
        super().__init__()
        self.rates, self.sizes, self.epochs, self.seen = [], [], [], set()

    def on_train_begin(self, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))
        self.sizes.append(0)

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.sizes[-1] += 1

    def on_epoch_end(self, epoch, logs=None):
        self.seen |= set(logs)


def test_training_is_as_it_is_told(model, data):
    x, y = (part[:320] for part in data)
    steps = Steps()
    schedule = keras.optimizers.schedules.CosineDecay(0.25, 10)
    smaller, _ = prune_to(
        model,
        budget(flops=0.5),
        (x, y),
        epochs=3,
        fine_tuning=FineTuning(rounds=2, batch_size=80, optimizer=keras.optimizers.SGD(schedule), callbacks=[steps]),
        validation_data=(x[:64], y[:64]),
        verbose=0,
    )
    assert steps.sizes == [12, 12] and steps.rates == [0.25, 0.25] and steps.epochs == [0, 1, 2, 3, 4, 5]
    assert {"val_loss", "val_accuracy"} <= steps.seen and isinstance(smaller.optimizer, keras.optimizers.SGD)


@pytest.mark.programs
@pytest.mark.parametrize(("every", "expected"), first((3, [3, 3]), (13, [13, 13])))
def test_rounds_of_some_steps(model, data, every, expected):
    x, y = (part[:320] for part in data)
    steps = Steps()
    how = FineTuning(rounds=2, every=every, callbacks=[steps], max_samples=64)
    prune_to(model, budget(flops=0.5), (x, y), fine_tuning=how, verbose=0)
    assert steps.sizes == expected


@pytest.fixture(scope="module")
def stopped(model, data):
    """Return what comes of the same rounds without a limit, and with one."""
    x, y = data
    settings = {"validation_data": (x[1200:], y[1200:]), "epochs": 0, "verbose": 0}
    limits = [Limit(max_drop, metric="accuracy") for max_drop in (None, 0.05)]
    (_, whole), stopped = (
        prune_to(model, budget(flops=0.05), (x[:1200], y[:1200]), max_drop=limit, **settings) for limit in limits
    )
    return whole, *stopped


@pytest.mark.programs
def test_it_stops_before_a_round_that_costs_more(stopped, data):
    whole, small, report = stopped
    drops = [whole.before - one.trained for one in whole.rounds]
    assert drops[-1] > 0.05 > max(drops[0], 0)  # the case is one that stops
    kept = next(index for index, drop in enumerate(drops) if drop > 0.05)
    assert [one.trained for one in report.rounds] == [one.trained for one in whole.rounds[:kept]]
    assert report.refused.trained == whole.rounds[kept].trained
    assert small.count_params() == report.rounds[-1].plan.parameters_kept
    assert f"{kept + 1}, refused" in str(report) and report.as_dict()["refused"]["trained"] == report.refused.trained
    assert small.evaluate(data[0][1200:], data[1][1200:], verbose=0)[1] >= report.before - 0.05


def test_nothing_within_the_drop_says_what_was_nearest(model, data):
    x, y = data
    once = FineTuning(rounds=1)
    settings = {"validation_data": (x[1200:], y[1200:]), "epochs": 0, "verbose": 0, "fine_tuning": once}
    with pytest.raises(ValueError, match=r"at most max_drop=0.001. Received: a loss of .* Take more rounds than 1"):
        prune_to(model, budget(flops=0.05), (x[:1200], y[:1200]), max_drop=0.001, **settings)
    before = model.evaluate(x[1200:], y[1200:], verbose=0, return_dict=True)["loss"]
    with pytest.raises(ValueError, match=f"at most max_drop={0.01 * before:g}. Received"):
        prune_to(model, budget(flops=0.05), (x[:1200], y[:1200]), max_drop=Limit(max_relative_drop=0.01), **settings)


def test_a_loss_that_is_not_a_number_is_no_small_drop(model, data):
    guard = MetricGuard(model, {"x": data[0][:8], "y": data[1][:8]}, limit=Limit(9.0))
    assert guard.allows(guard.before) and guard.allows(guard.before - 20) and not guard.allows(guard.before + 9.1)
    assert not guard.allows(float("nan"))


@pytest.fixture
def rare():
    """Return a network with one small unit for a class of 0.9 % of the samples, these samples, and a room of each."""
    model = keras.Sequential([keras.Input((10,)), layers.Dense(10, "relu"), layers.Dense(10)])
    size = np.diag([*[1.0] * 9, 0.1])
    model.set_weights([size, np.zeros(10), np.linalg.inv(size), np.zeros(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    y = np.repeat(np.arange(10), [151, *[105] * 8, 9])
    return model, (np.eye(10, dtype="float32")[y], y), np.where(y == 9, "attic", "hall")


@pytest.mark.programs
@pytest.mark.parametrize("name", first("class", "group"))
def test_a_round_that_loses_a_rare_class_is_refused_where_each_class_is_bounded(rare, name):
    model, data, rooms = rare
    settings = {"validation_data": data, "epochs": 0, "verbose": 0}
    settings["fine_tuning"] = FineTuning(rounds=1)
    common = tuple(array[:-9] for array in data)  # reconstruction does not see the rare class
    goal = budget(parameters=0.95)
    smaller, report = prune_to(model, goal, common, max_drop=Limit(0.01, metric="accuracy"), **settings)
    assert smaller.count_params() == 9 * (10 + 1) + 10 * (9 + 1)
    assert report.before - report.rounds[0].value == pytest.approx(9 / 1000)
    bounds = {f"max_drop_per_{name}": 0.5} | ({"groups": {"room": rooms}} if name == "group" else {})
    limit = Limit(0.01, metric="accuracy", **bounds)
    with pytest.raises(
        ValueError, match=r"limit of each class and group. Received: class 9 lost 100\.0% \(9 samples"
    ):
        prune_to(model, budget(parameters=0.95), data, max_drop=limit, **settings)
    batched = [(data[0][i::4], data[1][i::4]) for i in range(4)]
    loose = Limit(0.01, metric="accuracy", max_drop_per_class=1.0)
    settings["validation_data"] = Batched(batched)
    _, report = prune_to(model, goal, common, max_drop=loose, **settings)
    assert (report.rounds[0].worst_group.name, report.rounds[0].worst_group.drop) == ("class 9", 1.0)
    assert "Round 1: class 9 lost 100.0%" in str(report)


@pytest.mark.programs
def test_the_first_model_teaches(model, data):
    x, y = data[0][:320], np.zeros(320, int)  # labels that teach nothing: what is right comes from the teacher
    judged = {"validation_data": (data[0][1200:], data[1][1200:]), "max_drop": Limit(metric="accuracy")}
    settings = {"epochs": 4, "verbose": 0, **judged}
    _, alone = prune_to(model, budget(flops=0.5), (x, y), fine_tuning=FineTuning(rounds=1), **settings)
    how = FineTuning(rounds=1, distillation=tfprune.Distillation(temperature=2, weight=1.0))
    taught, report = prune_to(model, budget(flops=0.5), (x, y), fine_tuning=how, **settings)
    accuracy = taught.evaluate(*judged["validation_data"], verbose=0)[1]
    assert alone.rounds[-1].trained < 0.5 < 0.85 < accuracy == pytest.approx(report.rounds[-1].value)
    assert type(taught).__module__.startswith("keras.")
    assert taught.compiled and int(taught.optimizer.iterations) == 40


@pytest.mark.programs
def test_the_report_is_drawn(stopped, tmp_path):
    stopped[-1].plot(tmp_path / "rounds.svg")
    assert (tmp_path / "rounds.svg").read_text().count("<path") > 20
    with pytest.raises(ValueError, match="Expected"):
        stopped[-1].plot(tmp_path / "none" / "rounds.svg")


@pytest.mark.programs
def test_a_bar_moves_with_the_steps(model, data, capsys):
    x, y = (part[:320] for part in data)
    how = FineTuning(rounds=2, max_samples=64)
    prune_to(model, budget(flops=0.8), (x, y), epochs=2, fine_tuning=how, verbose=1)
    printed = capsys.readouterr().out
    shown = [int(done) for done in re.findall(r"(\d+)/46", printed)]  # 2 rounds of 3 stages and 20 steps
    assert shown[-1] == 46 and len(set(shown)) > 4


class Worsen(keras.callbacks.Callback):
    """Ruin the model at the end of each training but the first, and note the rates."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_end(self, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))
        if len(self.rates) > 1:
            kernel = self.model.get_layer("class").kernel
            kernel.assign(-kernel)


@pytest.mark.programs
@pytest.mark.parametrize("distill", first(None, tfprune.Distillation()))
def test_a_round_that_training_makes_worse_ends_with_the_reconstructed_weights(model, data, distill, tmp_path):
    keras.utils.set_random_seed(0)  # a run with a folder draws its seed, and how training ends depends on it
    data = tuple(part[:320] for part in data)

    def run():
        how = FineTuning(rounds=2, max_samples=320, distillation=distill, callbacks=[Worsen()])
        return prune_to(model, budget(flops=0.2), data, fine_tuning=how, folder=tmp_path, verbose=0)

    smaller, report = run()
    better, worse = report.rounds
    assert (better.stage, worse.stage) == ("trained", "reconstructed")
    assert worse.trained > 1 > worse.reconstructed == worse.value and better.value == better.trained
    assert smaller.evaluate(*data, verbose=0)[0] == pytest.approx(worse.reconstructed, rel=1e-5)
    assert int(smaller.optimizer.iterations) == 0  # what it remembers is of weights that are gone
    assert [line.split("  ")[0] for line in str(report).splitlines()[3:]] == ["1", "2, reconstructed"]
    assert report.as_dict()["rounds"][1]["stage"] == "reconstructed"
    again, repeated = run()
    assert str(repeated) == str(report) and repeated.rounds[1].stage == "reconstructed"
    for one, other in zip(again.get_weights(), smaller.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whether_training_made_another_metric_worse_needs_a_mode(model, data):
    judged = {"x": data[0][:8], "y": data[1][:8]}
    limits = [Limit(metric="accuracy", mode=mode) for mode in (None, "max", "min")]
    guards = [MetricGuard(model, judged, limit=limit) for limit in limits]
    assert [guard.is_worse(0.4, than=0.5) for guard in guards] == [True, True, False]
    assert all(guard.is_worse(float("nan"), than=0.5) and not guard.is_worse(0.5, than=0.5) for guard in guards)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("compiled", "rate"),
    first(
        (keras.optimizers.schedules.CosineDecay(0.0, 1000, warmup_target=0.04, warmup_steps=64), 0.004),
        (keras.optimizers.schedules.ExponentialDecay(0.02, 50, 0.5), 0.002),
        (0.003, 0.003),  # a number is taken as it is
    ),
)
def test_rounds_have_a_rate_for_fine_tuning_in_place_of_a_schedule(model, data, compiled, rate):
    other = keras.models.clone_model(model)
    other.compile(keras.optimizers.SGD(compiled, momentum=0.9), model.loss, metrics=["accuracy"])
    steps = Steps()
    x, y = (part[:320] for part in data)
    how = FineTuning(rounds=2, max_samples=64, callbacks=[steps])
    smaller, _ = prune_to(other, budget(flops=0.5), (x, y), fine_tuning=how, verbose=0)
    assert steps.rates == pytest.approx([rate, rate]) and float(smaller.optimizer.learning_rate) == pytest.approx(
        rate
    )
    assert smaller.optimizer.momentum == 0.9
