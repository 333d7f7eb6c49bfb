"""The accuracy of a file, against counting by hand."""

import keras
import numpy as np
import pytest

import tfprune.export
from tfprune.export.device.verify import _check_labels, _classification_accuracy

OUTPUTS = {"out": np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])}


def test_the_largest_output_is_the_class():
    assert _classification_accuracy(OUTPUTS, np.array([1, 0, 1, 1])) == 0.75


@pytest.mark.parametrize("labels", [np.array([[1], [0]]), [1, 0]])
def test_labels_may_stand_in_a_column_or_a_list(labels):
    assert _check_labels(labels).tolist() == [1, 0]


@pytest.mark.parametrize(("labels", "text"), [(np.eye(2), "argmax"), ([0.5, 1.0], "float64"), (3, r"shape \(\)")])
def test_what_is_no_class_is_refused(labels, text):
    with pytest.raises(ValueError, match=text):
        _check_labels(labels)


@pytest.mark.parametrize(
    ("outputs", "labels", "text"),
    [
        (OUTPUTS, [0, 1], r"\(2, classes\)"),
        ({**OUTPUTS, "other": np.zeros(4)}, [0, 1, 0, 1], "other"),
        ({"out": np.zeros((4, 1))}, [0, 0, 0, 0], r"\(4, 1\)"),
        (OUTPUTS, [0, 1, 2, 0], "from 0 to 1, .* from 0 to 2"),
    ],
)
def test_outputs_that_tell_no_classes_are_refused(outputs, labels, text):
    with pytest.raises(ValueError, match=text):
        _classification_accuracy(outputs, np.array(labels))


def test_verify_counts(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    tfprune.export.to_tflite(model, tmp_path / "model.tflite")
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    labels = np.asarray(model(x)).argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 3
    report = tfprune.export.verify(tmp_path / "model.tflite", samples=x, labels=labels)
    assert (report.passed, report.accuracy) == (True, 0.8)
    assert "80.00%" in str(report)
    with pytest.raises(ValueError, match="samples=None"):
        tfprune.export.verify(tmp_path / "model.tflite", labels=labels)
