"""The accuracy of a file, against counting by hand."""

import keras
import numpy as np
import pytest

import tfprune.export
from tfprune.export.device.verify import _classification_accuracy

OUTPUTS = {"out": np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])}


def test_the_largest_output_is_the_class():
    assert _classification_accuracy(OUTPUTS, np.array([1, 0, 1, 1])) == 0.75


@pytest.mark.parametrize(
    "labels", [np.array([[1], [0], [1], [1]]), np.eye(2)[[1, 0, 1, 1]], np.array([1.0, 0, 1, 1])]
)
def test_labels_may_stand_in_a_column_or_in_one_hot_rows(labels):
    assert _classification_accuracy(OUTPUTS, labels) == 0.75


def test_one_output_is_the_probability_of_class_1():
    assert _classification_accuracy({"out": OUTPUTS["out"][:, 1:]}, np.array([1, 0, 1, 1])) == 0.75


@pytest.mark.parametrize(
    ("outputs", "labels", "text"),
    [
        (OUTPUTS, [0, 1], r"labels of shape \(2,\)"),
        (OUTPUTS, 3, r"labels of shape \(\)"),
        ({**OUTPUTS, "other": np.zeros(4)}, [0, 1, 0, 1], "other"),
        (OUTPUTS, [0, 1, 2, 0], "labels from 0 to 2 for an output with the classes 0 to 1"),
        (OUTPUTS, [0.5, 1, 0, 0], "not whole numbers"),
        (OUTPUTS, [0.0, 1, np.nan, 0], "not whole numbers"),
        (OUTPUTS, np.array([0, 1, 0, 1], complex), "labels of type complex128"),
    ],
)
def test_outputs_and_labels_that_tell_no_classes_are_refused(outputs, labels, text):
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
