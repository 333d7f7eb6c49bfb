"""Metrics of a file. The truth is what Keras' own metrics say, and what `model.evaluate` prints."""

import keras
import numpy as np
import pytest
from refusals import refused

from tfprune.base.spec import ArgumentTypeError
from tfprune.export import Runner, damage, evaluate, to_tflite
from tfprune.export.device.verify import (
    _BETTER,
    _check_metrics,
    measure,
    metric_mode,
    metric_name,
    samples_and_answers,
)
from tfprune.export.keras_side.convert import labeled_arrays
from tfprune.models.training import Batch, arguments_of, classes_of

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(300, 12)).round(1)  # with ties
CLASSES = RNG.integers(0, 12, 300)
CHANCES = RNG.random((300, 1))
BINARY = RNG.integers(0, 2, 300)


@pytest.mark.parametrize(
    ("name", "y_true", "y_pred"),
    [
        ("accuracy", CLASSES, SCORES),
        ("accuracy", CLASSES[:, None], SCORES),
        ("accuracy", np.eye(12)[CLASSES], SCORES),
        ("accuracy", BINARY, CHANCES),
        ("accuracy", RNG.integers(0, 4, (5, 6, 7)), RNG.random((5, 6, 7, 4))),
        ("accuracy", BINARY[:, None].astype("float32"), CHANCES),
        ("accuracy", np.eye(12)[CLASSES] * 0.9 + 0.1 / 12, SCORES),
        ("accuracy", RNG.integers(0, 2, (300, 5)), RNG.random((300, 5))),
        ("accuracy", RNG.integers(0, 2, (5, 6, 7, 1)), RNG.random((5, 6, 7, 1))),
        ("binary_accuracy", RNG.integers(0, 2, (300, 5)), RNG.random((300, 5))),
        ("binary_accuracy", BINARY[:, None], CHANCES),
        ("categorical_accuracy", np.eye(12)[CLASSES], SCORES),
        ("sparse_categorical_accuracy", CLASSES, SCORES),
        ("top_k_categorical_accuracy", np.eye(12)[CLASSES], SCORES),
        ("sparse_top_k_categorical_accuracy", CLASSES, SCORES),
        ("mae", BINARY, CHANCES),
        ("mse", BINARY[:, None], CHANCES),
        ("mean_squared_error", SCORES, SCORES + CHANCES),
    ],
)
def test_a_metric_is_what_keras_says(name, y_true, y_pred):
    model = keras.Sequential([keras.Input(y_pred.shape[1:]), keras.layers.Identity()])
    model.compile(loss=lambda y, out: keras.ops.sum(out), metrics=[name], run_eagerly=True)
    expected = model.evaluate(y_pred, y_true, batch_size=len(y_true), verbose=0, return_dict=True)[name]
    assert measure({"out": y_pred}, y_true, metrics=name) == {name: pytest.approx(expected, abs=1e-6)}


def test_it_is_known_of_each_metric_of_keras_which_values_are_better():
    general = {"Metric", "Mean", "Sum", "MeanMetricWrapper"}
    classes = {name for name, thing in vars(keras.metrics).items() if isinstance(thing, type)}
    assert {name for names in _BETTER.values() for name in names if name[0].isupper()} == classes - general
    assert [metric_mode(name) for name in ("mae", "accuracy", "mean_squared_error")] == ["min", "max", "min"]
    assert metric_mode(keras.metrics.RootMeanSquaredError()) == "min"

    class Mine(keras.metrics.AUC):
        pass

    assert metric_mode(Mine()) == "max" == metric_mode(len, "max")
    for metric, mode, text in [(len, None, "Expected `mode` with the metric 'len'"), ("mae", "max", "mode='min'")]:
        with pytest.raises(ValueError, match=text):
            metric_mode(metric, mode)


def test_functions_are_metrics_of_all_samples():
    from sklearn.metrics import f1_score

    labels = {"out": np.eye(12)[CLASSES]}
    assert measure(labels, CLASSES, metrics=lambda y, out: f1_score(y, out.argmax(axis=1), average="macro")) == {
        "<lambda>": 1.0
    }
    by_keras = measure({"out": CHANCES}, BINARY[:, None], metrics=keras.metrics.mean_absolute_error)
    by_name = measure({"out": CHANCES}, BINARY[:, None], metrics="mae")
    assert by_keras == {"mean_absolute_error": pytest.approx(by_name["mae"], abs=1e-6)}


def test_a_metric_keeps_its_name_however_often_it_was_made():
    names = [metric_name(keras.metrics.AUC()) for _ in range(3)]
    named = keras.metrics.AUC(name="auc_5_points")
    assert (names, metric_name(named)) == (["auc"] * 3, "auc_5_points")
    assert metric_name(keras.metrics.TopKCategoricalAccuracy(name="top_5")) == "top_5"


def test_a_metric_of_several_numbers_is_refused():
    metric = keras.metrics.F1Score()
    with pytest.raises(ValueError, match=r"one number. Received: 'f1_score' of shape \(12,\). .*average='macro'"):
        measure({"out": SCORES}, np.eye(12)[CLASSES], metrics=metric)


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (CLASSES[:5], "as many rows as `x`, 300. Received: 5"),
        (CLASSES + 1, "labels from 1 to 12 for an output with the classes 0 to 11"),
        (RNG.random((300, 3)), r"shape, \(300, 12\)\. Received: an array of shape \(300, 3\)"),
    ],
)
def test_answers_that_do_not_fit_are_refused(y, text):
    with pytest.raises(ValueError, match=text):
        measure({"out": SCORES}, y, metrics="accuracy")


@pytest.mark.parametrize("names", [np.array(["cat"] * 300), np.array(["cat"] * 300, dtype=object)])
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("y", lambda names: measure({"out": SCORES}, names, metrics="accuracy")),
        ("y", lambda names: measure({"out": SCORES}, names, metrics="mae")),
        ("data", lambda names: damage(SCORES, SCORES, (None, names))),
        ("data", lambda names: labeled_arrays((SCORES, names), inputs=1, argument="data")),
        ("data", lambda names: arguments_of((SCORES, names))),
        ("data", lambda names: classes_of(Batch(SCORES, names))),
    ],
)
def test_names_of_classes_are_refused_and_numbers_asked_for(names, argument, call):
    with refused(ArgumentTypeError, argument):
        call(names)


def test_metrics_that_are_none_are_refused():
    with pytest.raises(ValueError, match="`metrics` to be .*, or a metric of Keras. Received: metrics='precision'"):
        _check_metrics(["accuracy", "precision"])
    with pytest.raises(TypeError, match="update_state"):
        _check_metrics(keras.metrics.AUC)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A compiled model of two outputs, its file, and data for it."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="x")
    outputs = {"kind": keras.layers.Dense(4, name="kind")(x), "size": keras.layers.Dense(1, name="size")(x)}
    model = keras.Model(x, outputs)
    path = tmp_path_factory.mktemp("two") / "two.tflite"
    to_tflite(model, path)
    data = RNG.normal(size=(70, 6)).astype("float32"), {"kind": RNG.integers(0, 4, 70), "size": RNG.normal(size=70)}
    metrics = {"kind": ["accuracy"], "size": ["mae", "mse"]}
    loss = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
    model.compile(loss=loss, metrics=metrics)
    return model, path, data, metrics


def test_a_file_gives_what_evaluate_prints(two):
    model, path, (x, y), metrics = two
    printed = model.evaluate(x, y, verbose=0, return_dict=True)
    values = evaluate(path, (x, y), metrics=metrics).metrics
    assert values == {name: pytest.approx(printed[name], abs=1e-5) for name in values}
    assert set(values) == {"kind_accuracy", "size_mae", "size_mse"}
    in_order = [y[info.name] for info in Runner(path).outputs]
    assert evaluate(path, (x, in_order), metrics=metrics).metrics == values


def test_an_output_of_numbers_is_named_among_several(two):
    with pytest.raises(ValueError, match="metrics='mae', or name another output than 'size'"):
        evaluate(two[1], two[2])


def test_batches_are_joined_and_metrics_of_keras_are_taken(two):
    _, path, (x, y), _ = two
    cuts = [slice(start, start + 30) for start in (0, 30, 60)]
    batches = [(x[cut], {name: part[cut] for name, part in y.items()}) for cut in cuts]
    precise = keras.metrics.SparseCategoricalAccuracy(name="hits")
    report = evaluate(path, batches, metrics={"kind": [precise, "accuracy"]})
    assert report.samples == 70
    assert report.metrics["kind_hits"] == pytest.approx(report.metrics["kind_accuracy"])
    again = evaluate(path, batches, metrics={"kind": precise})  # which starts anew
    assert again.metrics == {"kind_hits": report.metrics["kind_hits"]}
    assert str(report).splitlines()[0].split()[0] == "kind_hits"
    assert report.as_dict()["metrics"] == report.metrics


@pytest.mark.parametrize("data", [np.zeros((3, 6)), [np.zeros((3, 6))], {"x": 1}, 5, []])
def test_samples_without_answers_are_refused(two, data):
    with pytest.raises(TypeError, match=r"Expected `data` to be a tuple \(x, y\)"):
        evaluate(two[1], data)


def test_a_file_that_does_not_run_and_other_names_are_refused(two):
    y = {"kind": [0] * 3, "size": [0] * 3}
    with pytest.raises(ValueError, match="Expected a file that runs on the samples"):
        evaluate(two[1], (np.zeros((3, 5)), y))
    with pytest.raises(ValueError, match=r"Expected `metrics` by the names of the outputs, \['kind', 'size'\]"):
        evaluate(two[1], (np.zeros((3, 6)), y), metrics={"other": "mae"})


def test_data_that_are_not_a_tuple_are_refused_with_the_right_form():
    with pytest.raises(TypeError, match=r"`data` to be a tuple .* Received: a list of 2. Pass \(x, y\)"):
        samples_and_answers([SCORES, CLASSES], argument="data")
