"""What a file lost is how much worse its metric is, whatever the metric, and it is the same in a worker."""

import json

import keras
import numpy as np
import pytest
from refusals import refused
from sklearn.metrics import f1_score, roc_auc_score

from tfprune.base.limit import Limit
from tfprune.base.spec import ArgumentError
from tfprune.export.compressing.evaluate import FileMetric

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 2, 2500)  # more than one batch of a metric
SCORES = np.clip(LABELS + DRAW.normal(0, 0.7, 2500), 0, 1).astype("float32")[:, None]


def compiled(*metrics):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[*metrics])
    return model


def mean_bias(y_true, y_pred):
    return np.abs(np.mean(y_pred[:, 0] - y_true))


class Halved(keras.metrics.MeanAbsoluteError):
    """A metric that a worker can import."""

    def result(self):
        return super().result() / 2


@pytest.mark.parametrize(("metric", "expected"), [("accuracy", 0.1), ("mae", -0.1)])
def test_a_drop_is_what_is_worse(metric, expected):
    found = FileMetric.of(Limit(0.1, metric=metric), compiled())
    assert found.drop(0.8, 0.9) == pytest.approx(expected)


def test_a_metric_that_is_not_finite_is_refused():
    """Its file would be within any limit, as a comparison with NaN is never true."""
    with pytest.raises(ValueError, match="Expected a finite mse of the file. Received: nan. Check its weights"):
        FileMetric("mse", "min").score({"output": np.full((2, 1), np.nan)}, np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("limit", "model", "expected"),
    [
        (Limit(0.1, metric=keras.metrics.AUC(num_thresholds=5000)), compiled(), roc_auc_score(LABELS, SCORES[:, 0])),
        (
            Limit(0.1, metric="auc"),
            compiled(keras.metrics.AUC(5000, name="auc")),
            roc_auc_score(LABELS, SCORES[:, 0]),
        ),
        (Limit(0.1, metric=mean_bias, mode="min"), compiled(), abs(np.mean(SCORES[:, 0]) - np.mean(LABELS))),
        (Limit(0.1, metric="mae"), compiled(), np.mean(np.abs(SCORES[:, 0] - LABELS))),
        (Limit(0.1, metric=Halved()), compiled("mae"), np.mean(np.abs(SCORES[:, 0] - LABELS)) / 2),
        (
            Limit(0.1, metric=keras.metrics.F1Score(average="macro", threshold=0.5)),
            compiled(),
            f1_score(LABELS, SCORES[:, 0] > 0.5),
        ),
    ],
)
def test_any_metric_gives_the_same_number_again_and_in_a_worker(limit, model, expected):
    y = LABELS[:, None].astype("float32") if "F1" in type(limit.metric).__name__ else LABELS
    metric = FileMetric.of(limit, model)
    sent = FileMetric.read(json.loads(json.dumps(metric.to_send())))
    for each in (metric, metric, sent):
        assert each.score({"output": SCORES}, y) == pytest.approx(expected, abs=1e-4)
    assert (sent.name, sent.mode, sent.output) == (metric.name, metric.mode, metric.output)
    assert metric.drop(0.5, 0.25) == (0.25 if metric.mode == "min" else -0.25)


def test_the_settings_of_a_metric_tell_it_from_another_but_not_from_itself():
    first, same, other = (FileMetric(keras.metrics.AUC(curve=curve)).settings() for curve in ("ROC", "ROC", "PR"))
    assert first == same != other
    assert FileMetric("mae", "min", "head").settings() == {"metric": "mae", "mode": "min", "output": "head"}


def test_metrics_that_workers_cannot_import_are_refused():
    class Local(keras.metrics.AUC):
        pass

    for metric in (lambda y, out: 0.0, Local()):
        with pytest.raises(ValueError, match="Expected a metric .* that workers can import. .* Leave out `jobs`"):
            FileMetric(metric).to_send()
    gone = {"metric": {"path": "no_such_module:metric"}, "mode": "max", "output": None}
    with pytest.raises(ValueError, match="Expected workers that can import the metric. .* 'no_such_module:metric'"):
        FileMetric.read(gone)


def test_what_is_not_known_of_a_metric_is_asked_for():
    with pytest.raises(ValueError, match="or 'auc', or a metric|, 'auc', or a metric of Keras. Received: metric='f'"):
        FileMetric.of(Limit(0.1, metric="f"), compiled("mae", keras.metrics.AUC(name="auc")))
    with pytest.raises(ValueError, match="Expected `mode` with the metric 'mean_bias'"):
        FileMetric.of(Limit(0.1, metric=mean_bias), compiled())
    with pytest.raises(ValueError, match="Expected mode='max' for 'auc'"):
        FileMetric.of(Limit(0.1, metric=keras.metrics.AUC(name="auc"), mode="min"), compiled())


@pytest.mark.parametrize(
    ("metrics", "limit", "expected"),
    [
        ((), Limit(0.1), "accuracy"),
        (("mae", "accuracy"), Limit(0.1), "accuracy"),
        ((keras.metrics.BinaryAccuracy(threshold=0.0),), Limit(0.1), "binary_accuracy"),
        ((keras.metrics.AUC(name="auc"), "mae"), Limit(0.1), "auc"),
        ((mean_bias, "mse"), Limit(max_relative_drop=0.1), "mse"),
        ((mean_bias,), Limit(max_relative_drop=0.1), "accuracy"),
        (("mae",), Limit(0.1, metric="accuracy"), "accuracy"),
        (("mae",), Limit(), "mae"),
    ],
)
def test_without_a_name_the_metric_is_one_that_the_model_was_compiled_with(metrics, limit, expected):
    assert FileMetric.of(limit, compiled(*metrics)).name == expected


def test_a_number_alone_does_not_limit_an_error_whose_unit_nobody_named():
    with refused(ArgumentError, "max_drop"):
        FileMetric.of(Limit(0.01), compiled("mae"))


TWO = {"kind": np.eye(3)[[0, 1, 2, 2]], "size": np.array([[1.0], [2.0], [3.0], [5.0]])}
ANSWERS = {"kind": np.array([0, 1, 2, 1]), "size": np.array([1.0, 2.0, 3.0, 4.0])}


def test_one_of_several_outputs_is_named_or_a_function_takes_all():
    assert FileMetric("accuracy", "max", "kind").score(TWO, ANSWERS) == 0.75
    assert FileMetric("mae", "min", "size").score(TWO, ANSWERS) == 0.25
    assert FileMetric("mae", "min", "size").score(TWO, [*ANSWERS.values()]) == 0.25
    assert FileMetric("mae", "min", "size").name == "size_mae"

    def both(y, outputs):
        right = outputs["kind"].argmax(axis=1) == y["kind"]
        return np.mean(right) - np.mean(np.abs(outputs["size"][:, 0] - y["size"]))

    assert FileMetric(both).score(TWO, ANSWERS) == 0.5
    with pytest.raises(ValueError, match=r"none of 'kind', 'size'. Pass output='kind' in a tfprune.Limit"):
        FileMetric().score(TWO, ANSWERS)
    with pytest.raises(ValueError, match="by the names of the outputs, \\['kind', 'size'\\]. Received: \\['head'\\]"):
        FileMetric("mae", "min", "head").score(TWO, ANSWERS)
