"""A scan tells what pruning each weight really costs, and leaves no trace in the model."""

from __future__ import annotations

import json
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers
from pickling_executor import PicklingExecutor
from refusals import REFUSAL, refusals, refused

import tfprune
from tfprune.masking.sensitivity import SensitivityReport, SensitivityRow
from tfprune.patterns import NM
from tfprune.report import Skipped
from tfprune.schedules import Constant, Polynomial

LEVELS = (0.5, 0.75, 0.9)
WEIGHTS = ["wide/kernel", "narrow/kernel", "digit/kernel"]


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))  # the last ones are by other people
    x, y = (x[order] / 16).astype("float32"), y[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


@pytest.fixture(scope="module")
def trained(digits):
    """Return a plain model whose first kernel has learned to do with a quarter of its entries."""
    keras.utils.set_random_seed(0)
    stack = [
        keras.Input((64,)),
        layers.Dense(48, "relu", name="wide"),
        layers.Dense(16, "relu", name="narrow"),
        layers.Dense(10, "softmax", name="digit"),
    ]
    model = tfprune.wrap(keras.Sequential(stack))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rules = {"wide": 0.75, "": None}
    pruning = tfprune.PruningCallback(Polynomial(0.75, end=0.6), every=20, allocation=rules)
    model.fit(*digits[0], epochs=12, verbose=0, callbacks=[pruning])
    return compiled(tfprune.strip(model))


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def by_hand(model: keras.Model, name: str, sparsity: float, data) -> tuple[float, float]:
    """Return accuracy and loss with the smallest entries of one kernel zeroed, all in NumPy."""
    x, y = data
    for layer in model.layers:
        kernel, bias = (np.array(weight, dtype=np.float64) for weight in layer.get_weights())
        if layer.name == name:
            order = np.argsort(-np.abs(kernel), axis=None, kind="stable")
            kernel.ravel()[order[kernel.size - round(sparsity * kernel.size) :]] = 0
        x = x @ kernel + bias
        x = np.exp(x) / np.exp(x).sum(1, keepdims=True) if layer.name == "digit" else np.maximum(x, 0)
    return float(np.mean(x.argmax(1) == y)), float(-np.log(x[np.arange(len(y)), y]).mean())


def state(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in [*model.weights, *model.optimizer.variables]]


def assert_unchanged(before: list[np.ndarray], model: keras.Model) -> None:
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.programs
def test_the_numbers_are_those_of_weights_zeroed_by_hand(trained, digits):
    before = state(trained)
    report = tfprune.sensitivity(trained, digits[1], LEVELS)
    assert report.baseline == pytest.approx(by_hand(trained, "", 0, digits[1])[0], abs=1e-6) and report.baseline > 0.9
    assert [(row.path, row.sparsity) for row in report.rows] == [
        (path, level) for path in WEIGHTS for level in LEVELS
    ]
    for row in report.rows:
        accuracy, _ = by_hand(trained, row.path.partition("/")[0], row.sparsity, digits[1])
        assert row.value == pytest.approx(accuracy, abs=1e-6)
        assert row.drop == pytest.approx(report.baseline - accuracy, abs=1e-6)
    assert_unchanged(before, trained)


def test_a_worker_measures_the_same():
    (model, data), executor = regression(), PicklingExecutor()
    here = tfprune.sensitivity(model, data, (0.25, 0.75), metric="loss")
    assert tfprune.sensitivity(model, data, (0.25, 0.75), metric="loss", jobs=1, executor=executor) == here
    assert len(executor.sizes) == 1 + 4, "the worker opens the state, then does a task for each row"


@pytest.mark.programs
def test_a_worker_reads_data_that_are_referred_to(tmp_path):
    model, data = regression()
    np.savez(tmp_path / "valid.npz", **dict(zip("xy", data, strict=True)))
    here = tfprune.sensitivity(model, data, (0.25, 0.75), metric="loss")
    assert tfprune.sensitivity(model, tmp_path / "valid.npz", (0.25, 0.75), metric="loss") == here
    sizes = {}
    for name, each in {"sent": data, "file": tmp_path / "valid.npz", "function": regression_data}.items():
        executor = PicklingExecutor(is_far=True)
        assert here == tfprune.sensitivity(model, each, (0.25, 0.75), metric="loss", jobs=1, executor=executor)
        sizes[name] = max(executor.sizes)
    assert max(sizes["file"], sizes["function"]) < sizes["sent"] - data[0].nbytes
    with pytest.raises(ValueError, match="Expected a function in `data` that workers can import"):
        tfprune.sensitivity(model, lambda: data, metric="loss", jobs=1, executor=executor)


@pytest.mark.programs
def test_workers_measure_the_same_of_a_wrapped_model(pruned, digits):
    before = state(pruned)
    here = tfprune.sensitivity(pruned, digits[1], (0.5, 0.999))
    assert tfprune.sensitivity(pruned, digits[1], (0.5, 0.999), jobs=2, executor=PicklingExecutor()) == here
    assert_unchanged(before, pruned)


@pytest.mark.programs
def test_processes_measure_the_same(trained, digits):
    assert tfprune.sensitivity(trained, digits[1], LEVELS, jobs=2) == tfprune.sensitivity(trained, digits[1], LEVELS)


@keras.saving.register_keras_serializable("test_scan")
class Own(layers.Dense):
    """A layer that another process cannot import."""


def test_what_cannot_be_sent_is_refused(monkeypatch):
    workers = {"jobs": 2, "executor": PicklingExecutor()}
    model, data = regression()
    with pytest.raises(TypeError, match=r"tuple of arrays, \(x, y\), with jobs .*type Batches, .*Leave out `jobs`"):
        tfprune.sensitivity(model, Batches(data), metric="loss", **workers)
    with pytest.raises(ValueError, match="Expected `jobs` beside `executor`"):
        tfprune.sensitivity(model, data, metric="loss", executor=workers["executor"])
    monkeypatch.setattr(model, "save", lambda path: keras.saving.save_model(model, "model.unknown"))
    with pytest.raises(ValueError, match=r"model that Keras can save, .*Leave out `jobs` and `executor`."):
        tfprune.sensitivity(model, data, metric="loss", **workers)


@pytest.mark.programs
def test_a_class_that_workers_cannot_import_is_refused(monkeypatch):
    monkeypatch.setattr(Own, "__module__", "__main__")
    model = keras.Sequential([keras.Input((8,)), Own(3)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="workers that can load the model. .*classes have to stand in modules"):
        tfprune.sensitivity(model, (np.ones((8, 8)), np.ones((8, 3))), metric="loss", jobs=2)


@pytest.mark.programs
def test_what_is_redundant_costs_nothing_and_what_is_not_does(trained, digits):
    drops = {(row.path, row.sparsity): row.drop for row in tfprune.sensitivity(trained, digits[1], LEVELS).rows}
    assert drops["wide/kernel", 0.5] == drops["wide/kernel", 0.75] == 0
    assert drops["wide/kernel", 0.9] > 0.02 < drops["narrow/kernel", 0.75]


@pytest.mark.programs
def test_a_rise_of_the_loss_is_a_drop(trained, digits):
    report = tfprune.sensitivity(trained, digits[1], [0.9], metric="loss")
    for row in report.rows:
        _, loss = by_hand(trained, row.path.partition("/")[0], 0.9, digits[1])
        assert row.value == pytest.approx(loss, rel=1e-4)
        assert row.drop == row.value - report.baseline > 0
    down = tfprune.sensitivity(trained, digits[1], [0.9], metric="loss", mode="max")
    assert [row.drop for row in down.rows] == [-row.drop for row in report.rows]


class Batches(keras.utils.PyDataset):
    """Hand out batches; fail at one of them, counted over all epochs."""

    def __init__(self, data, fails_at=None):
        super().__init__()
        self.data, self.fails_at, self.count = data, fails_at, 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.fails_at:
            raise KeyError("lost")
        return tuple(part[index * 100 : index * 100 + 100] for part in self.data)


@pytest.mark.programs
def test_every_form_of_data_gives_the_same_numbers(trained, digits):
    tf = pytest.importorskip("tensorflow")
    x, y = digits[1]
    rows = tfprune.sensitivity(trained, (x, y), [0.9]).rows
    for data in (tf.data.Dataset.from_tensor_slices((x, y)).batch(64), Batches((x, y)), (x, y, np.ones(len(y)))):
        others = tfprune.sensitivity(trained, data, [0.9]).rows
        assert [row.value for row in others] == pytest.approx([row.value for row in rows], abs=1e-6)


@pytest.fixture
def pruned(trained, digits):
    """Return a wrapped model in the middle of its pruning, with latent values and momentum."""
    model = compiled(tfprune.wrap(trained))
    with pytest.warns(UserWarning, match="Training ended"):
        model.fit(*digits[0], verbose=0, callbacks=[tfprune.PruningCallback(Polynomial(0.8, end=60), every=5)])
    return model


@pytest.mark.programs
def test_of_a_wrapped_model_each_weight_is_ranked_by_what_it_hides_and_put_back(pruned, digits):
    before = state(pruned)
    report = tfprune.sensitivity(pruned, digits[1], [0.9, 0.1])
    assert_unchanged(before, pruned)
    assert report.baseline == pytest.approx(pruned.evaluate(*digits[1], verbose=0, return_dict=True)["accuracy"])
    masks = {path: pruned.get_layer(path[:-7]).masks["kernel"] for path in WEIGHTS}
    for row in report.rows:
        twin = tfprune.strip(pruned)
        hidden = pruned.get_layer(row.path[:-7]).latent("kernel")
        order = np.argsort(-np.abs(hidden), axis=None, kind="stable")
        hidden = hidden.copy()
        hidden.ravel()[order[hidden.size - round(row.sparsity * hidden.size) :]] = 0
        twin.get_layer(row.path[:-7]).kernel.assign(hidden)
        assert row.value == pytest.approx(by_hand(twin, "", 0, digits[1])[0], abs=1e-6)
    assert all(np.mean(np.array(mask)) < 0.6 for mask in masks.values())


def test_a_scan_that_fails_puts_the_weights_back(pruned, digits):
    before = state(pruned)
    with pytest.raises(Exception, match="lost"):
        tfprune.sensitivity(pruned, Batches(digits[1], fails_at=6 * 3 + 2), LEVELS)
    assert_unchanged(before, pruned)


@pytest.mark.programs
def test_a_suggestion_keeps_each_drop_as_scanned(trained, digits):
    report = tfprune.sensitivity(trained, digits[1], LEVELS)
    suggested = report.suggest(max_drop=0.03)
    assert list(suggested) == ["^wide/kernel$", "^narrow/kernel$", "^digit/kernel$"]
    assert suggested["^wide/kernel$"] >= 0.75
    drops = {(row.path, row.sparsity): row.drop for row in report.rows}
    for path in WEIGHTS:
        level = suggested[f"^{path}$"]
        larger = [drops[path, other] for other in LEVELS if other > (level or 0)]
        assert all(drop > 0.03 for drop in larger)
        if level is not None:
            model = compiled(tfprune.wrap(trained))
            tfprune.update_masks(model, 0.0, allocation={f"^{path}$": level, "": None})
            accuracy = model.evaluate(*digits[1], verbose=0, return_dict=True)["accuracy"]
            assert report.baseline - accuracy == pytest.approx(drops[path, level], abs=1e-6)


def test_a_suggestion_is_an_allocation(trained, digits):
    suggested = tfprune.sensitivity(trained, digits[1], LEVELS).suggest(0.03)
    for prune in (
        lambda model: tfprune.update_masks(model, 0.9, allocation=suggested),
        lambda model: model.fit(
            *digits[0], verbose=0, callbacks=[tfprune.PruningCallback(Constant(0.9), allocation=suggested)]
        ),
    ):
        model = compiled(tfprune.wrap(trained))
        unpruned = {row.path: row.sparsity for row in tfprune.sparsity_report(model).rows}
        prune(model)
        reached = {row.path: row.sparsity for row in tfprune.sparsity_report(model).rows}
        for path in WEIGHTS:
            level = suggested[f"^{path}$"]
            assert reached[path] == pytest.approx(unpruned[path] if level is None else level, abs=0.01)


def regression(wrap=lambda model: model, units: int = 8, **arguments) -> tuple[keras.Model, tuple]:
    keras.utils.set_random_seed(0)
    stack = [keras.Input((8,)), layers.Dense(units, name="a.b"), layers.Dense(3, name="a-b")]
    model = wrap(keras.Sequential(stack))
    model.compile(**{"loss": "mse", "metrics": ["mae"], **arguments})
    x = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
    return model, (x, x[:, :3])


def regression_data():
    """Return the data of `regression`, as a worker may read them."""
    return regression()[1]


@pytest.mark.programs
def test_what_a_pattern_cannot_reach_is_skipped_and_reported():
    model, data = regression(lambda model: tfprune.wrap(model, pattern=NM(2, 4)))
    model.get_layer("a-b").trainable = False
    report = tfprune.sensitivity(model, data, (0.75, 0.5), metric="loss")
    assert [(row.path, row.sparsity) for row in report.rows] == [("a.b/kernel", 0.5)]
    frozen, unreachable = sorted(report.skipped, key=lambda entry: entry.layer)
    assert (
        unreachable.layer == "a.b/kernel" and "at 0.75: " in unreachable.reason and "0.5 for NM" in unreachable.reason
    )
    assert frozen.layer == "a-b/kernel" and "frozen" in frozen.reason
    assert (unreachable.kind, frozen.kind) == (Skipped.UNREACHABLE, Skipped.FROZEN)
    assert report.suggest(100.0) == {r"^a\.b/kernel$": 0.5}
    with pytest.raises(ValueError, match="Expected a weight that can be pruned to one of"):
        tfprune.sensitivity(model, data, (0.75,), metric="loss")


def test_nothing_is_traced_again():
    calls = []

    @keras.saving.register_keras_serializable("test_scan")
    class Traced(layers.Layer):
        def call(self, inputs):
            calls.append(inputs.shape)
            return inputs

    stack = [keras.Input((8,)), layers.Dense(8, name="hidden"), Traced(), layers.Dense(3, name="out")]
    model = tfprune.wrap(keras.Sequential(stack))
    model.compile(loss="mse")
    x = np.ones((64, 8), "float32")
    model.evaluate(x, x[:, :3], verbose=0)
    calls.clear()
    assert len(tfprune.sensitivity(model, (x, x[:, :3]), LEVELS, metric="loss").rows) == 6
    assert calls == []


def test_the_report_prints_as_a_table_and_turns_into_json(trained, digits):
    report = tfprune.sensitivity(trained, digits[1], (0.995, 0.5))
    lines = str(report).splitlines()
    assert lines[0] == f"accuracy: {report.baseline:.4f} unpruned; with only one weight pruned, by its sparsity:"
    assert lines[2].split() == ["weight", "0.5", "0.995"]
    assert lines[4].split() == ["wide/kernel", *(f"{row.value:.4f}" for row in report.rows[:2])]
    assert len(lines) == 7
    loaded = json.loads(json.dumps(report.as_dict()))
    assert loaded["rows"][1] == {
        "path": "wide/kernel",
        "sparsity": 0.995,
        "value": report.rows[1].value,
        "drop": report.rows[1].drop,
    }
    assert loaded["baseline"] == report.baseline and loaded["metric"] == "accuracy" and loaded["skipped"] == []


@pytest.fixture(scope="module")
def report():
    rows = tuple(
        SensitivityRow(f"layer_{index}/kernel", level, 0.9 - level / 9, level / 9)
        for index in range(25)
        for level in LEVELS
    )
    return SensitivityReport("accuracy", 0.9, rows)


def test_the_plot_is_an_image_of_a_line_per_weight(report, tmp_path):
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    report.plot(tmp_path / "scan.png")
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")
    report.plot(str(tmp_path / "scan.svg"))
    picture = (tmp_path / "scan.svg").read_text()
    assert all(f"<!-- layer_{index}/kernel -->" in picture for index in range(25)) and "<!-- accuracy -->" in picture
    with pytest.raises(ValueError, match="No such file"):
        report.plot(tmp_path / "missing" / "scan.png")


def test_without_matplotlib_the_error_says_what_to_install(report, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=re.escape('Run pip install "tfprune[plot]"')):
        report.plot(tmp_path / "scan.png")


@pytest.mark.parametrize(
    REFUSAL,
    refusals(
        {"sparsities": [()], "metric": ["accuracy"], "data": [(np.ones(3),)], "mode": ["down"]},
        {
            "sparsities": [0.5],
            "mode": [1],
            "metric": [max],
            "data": [np.ones((3, 8)), iter([1])],
            "model": ["mlp"],
        },
        together=[("sparsities[1]", {"sparsities": (0.5, 90)}), ("mode", {"metric": "mae"})],
    ),
)
def test_what_cannot_be_scanned_is_refused(kind, argument, changes):
    model, data = regression()
    arguments = {"model": model, "data": data, "sparsities": (0.5,), "metric": "loss", **changes}
    with refused(kind, argument):
        tfprune.sensitivity(**arguments)


def test_a_metric_with_a_mode_is_scanned():
    model, data = regression()
    report = tfprune.sensitivity(model, data, (0.5,), metric="mae", mode="min")
    assert [row.drop for row in report.rows] == [row.value - report.baseline for row in report.rows]


def test_a_loss_that_keras_cannot_load_is_refused_with_a_way_out():
    def own(y, prediction):
        return keras.ops.mean(keras.ops.square(y - prediction))

    model, data = regression(loss=own)
    with pytest.raises(ValueError, match="Pass a model that you wrapped and compiled yourself"):
        tfprune.sensitivity(model, data, (0.5,), metric="loss")
    model, data = regression(tfprune.wrap, loss=own)
    assert len(tfprune.sensitivity(model, data, (0.5,), metric="loss").rows) == 2


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1 %", True])
def test_a_wrong_drop_is_refused(report, value):
    error = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(error, match=f"`max_drop` to be a number of at least 0. Received: max_drop={value!r}"):
        report.suggest(value)


def test_a_layer_made_frozen_is_skipped_though_its_parts_are_not_marked():
    class Block(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(4, name="dense")

        def build(self, input_shape):
            self.dense.build(input_shape)

        def call(self, inputs):
            return self.dense(inputs)

    model = keras.Sequential([keras.Input((4,)), Block(name="block", trainable=False), layers.Dense(1, name="out")])
    model.compile("sgd", "mse")
    report = tfprune.sensitivity(model, (np.ones((8, 4)), np.ones((8, 1))), (0.5,), metric="loss")
    assert {row.path for row in report.rows} == {"out/kernel"}
    assert [entry.layer for entry in report.skipped] == ["block/dense/kernel"]


def test_a_model_with_a_compile_of_its_own_is_refused_with_the_way_out():
    @keras.saving.register_keras_serializable("tests.scan")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def compile(self, optimizer, loss_fn):
            super().compile(optimizer, loss=loss_fn)

        def get_config(self):
            return {"name": self.name}

    model = Own()
    model(np.ones((2, 3)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"own `compile` it cannot.*wrapped and compiled yourself"):
        tfprune.sensitivity(model, (np.ones((2, 3)), np.ones((2, 1))), (0.5,), metric="loss")
