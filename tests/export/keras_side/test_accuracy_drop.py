"""Files that lose accuracy. The truth is what `model.evaluate` and counting by hand say."""

import warnings

import keras
import numpy as np
import pytest

import tfprune
from tfprune import Limit
from tfprune.base.spec import ArgumentWarning
from tfprune.export.device.runner import Runner
from tfprune.export.keras_side.to_tflite import to_tflite

CONVERT = "tfprune.export.keras_side.to_tflite.convert_prepared"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 8)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(3, bias_initializer="random_uniform")
    model = tfprune.wrap(keras.Sequential([keras.Input((8,), name="x"), dense]))
    tfprune.update_masks(model, 0.5)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def labels(model):
    """The model's own answers, one in ten of them changed."""
    classes = model.predict(X, verbose=0).argmax(axis=1)
    classes[:20] = (classes[:20] + 1) % 3
    return classes


@pytest.fixture
def moves(monkeypatch, model):
    """Make the converter give a file whose first class wins more often."""
    from tfprune.export.keras_side.convert import convert_prepared

    def moved(*args, **kwargs):
        before = convert_prepared(*args, **kwargs)
        file = before.objects()
        graph = file.subgraphs[0]
        (bias,) = (index for index in graph.operators[0].inputs[2:] if index >= 0)
        values = file.buffers[graph.tensors[bias].buffer].data.view("<f4")
        file.buffers[graph.tensors[bias].buffer].data = (values + np.float32([1, 0, 0])).view(np.uint8)
        return before.saved(file)

    monkeypatch.setattr(CONVERT, moved)


def test_the_report_has_both_values(model, labels, tmp_path):
    report = to_tflite(model, tmp_path / "m.tflite", max_drop=Limit(0.01, data=(X, labels)))
    (lost,) = report.lost
    assert (lost.metric, lost.before, lost.file, lost.drop) == ("accuracy", 0.9, 0.9, 0)
    assert lost.before == pytest.approx(model.evaluate(X, labels, verbose=0, return_dict=True)["accuracy"])
    assert "accuracy        0.9000 (Keras: 0.9000)" in str(report)
    assert report.as_dict()["lost"][0]["before"] == 0.9
    named = Limit(0.01, data=(X, {Runner(tmp_path / "m.tflite").outputs[0].name: labels}))
    assert to_tflite(model, tmp_path / "m.tflite", max_drop=named).lost == report.lost


def test_labels_that_have_nothing_to_do_with_the_samples_are_warned_of(model, labels, tmp_path):
    with pytest.warns(ArgumentWarning, match="keeps the limit. Check that the labels are those of these samples"):
        to_tflite(model, tmp_path / "m.tflite", max_drop=Limit(0.01, data=(X, np.roll(labels, 77))))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ArgumentWarning)
        to_tflite(model, tmp_path / "m.tflite", max_drop=Limit(0.01, data=(X, labels)))


def test_a_file_that_loses_too_much_is_not_written(model, labels, tmp_path, moves):
    target = tmp_path / "m.tflite"
    target.write_bytes(b"the old one")
    with pytest.raises(ValueError, match=r"at most max_drop=0\.01 of 'accuracy' .*Keras .* 0\.9000: it loses 0\."):
        to_tflite(model, target, max_drop=Limit(0.01, data=(X, labels)), tolerance=10)
    assert target.read_bytes() == b"the old one"
    report = to_tflite(model, target, max_drop=Limit(metric="accuracy", data=(X, labels)), tolerance=10)
    right = np.mean(Runner(target).predict(X).argmax(axis=1) == labels)
    assert report.lost[0].drop == pytest.approx(0.9 - right)
    assert right < 0.85


@pytest.mark.programs
def test_a_file_that_loses_a_class_is_not_written(model, labels, tmp_path, moves):
    target = tmp_path / "m.tflite"
    limit = Limit(metric="accuracy", data=(X, labels), max_drop_per_class=0.05)
    with pytest.raises(ValueError, match=r"class [12] lost .*at most 5\.0% allowed\. Nothing was written"):
        to_tflite(model, target, max_drop=limit, tolerance=10)
    assert not target.exists()
    to_tflite(model, target, max_drop=Limit(data=(X, labels), max_drop_per_class=0.9), tolerance=10)
    classes, before = Runner(target).predict(X).argmax(axis=1), model.predict(X, verbose=0).argmax(axis=1)
    drops = [np.mean(before[labels == c] == c) - np.mean(classes[labels == c] == c) for c in range(3)]
    assert max(drops) > 0.05  # counted by hand


def test_a_limit_of_each_class_needs_classes(model, tmp_path):
    y = model.predict(X, verbose=0)
    with pytest.raises(ValueError, match="one output with scores of classes"):
        to_tflite(model, tmp_path / "m", max_drop=Limit(metric="mae", data=(X, y), max_drop_per_class=0.1))


def test_an_error_that_grows_is_a_loss_as_well(model, tmp_path, moves):
    y = model.predict(X, verbose=0)
    with pytest.raises(ValueError, match=r"max_drop=0\.1 of 'mae' .*a file with 0\.33.*has 0\.0000: it loses 0\.33"):
        to_tflite(model, tmp_path / "m", max_drop=Limit(0.1, metric="mae", data=(X, y)), tolerance=10)
    metric = keras.metrics.MeanAbsoluteError()
    limit = Limit(metric=metric, data=(X, y + 0.001), max_relative_drop=10)
    with pytest.raises(ValueError, match=r"max_drop=0\.01 of 'mean_absolute_error' .*has 0\.0010: it loses 0\.3"):
        to_tflite(model, tmp_path / "m", max_drop=limit, tolerance=10)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_drop": Limit(0.01, data=X)}, TypeError, r"`max_drop.data` to be a tuple \(x, y\)"),
        ({"max_drop": Limit(0.01, data=(X[:, :5], np.zeros(200)))}, ValueError, "`max_drop.data`"),
        ({"max_drop": Limit(0.01, metric="precision", data=(X, X))}, ValueError, "Received: metric='precision'"),
        ({"max_drop": Limit(0.01, mode="min", data=(X, X))}, ValueError, "Expected mode='max' for 'accuracy'"),
        ({"max_drop": Limit(0.01)}, ValueError, r"Expected labeled data in the Limit.*Add data=\(x, y\)"),
        (
            {"max_drop": 0.01},
            TypeError,
            r"Received: max_drop=0.01. Pass max_drop=tfprune.Limit\(0.01, data=\(x, y\)\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(monkeypatch, model, tmp_path, options, error, message):
    monkeypatch.setattr(CONVERT, lambda *args, **kwargs: pytest.fail("converted all the same"))
    with pytest.raises(error, match=message):
        to_tflite(model, tmp_path / "m", **options)
