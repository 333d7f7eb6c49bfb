"""What TensorBoard shows is what the model has, read back from the event files."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from tiers import first, in_test_all, in_test_ci

import tfprune
from tfprune.schedules import Constant, Polynomial

tf = pytest.importorskip("tensorflow", reason="TensorBoard's files are written by TensorFlow")
pytest.importorskip("tensorboard", reason="TensorFlow writes them through the package tensorboard")

X = np.random.default_rng(0).normal(size=(40, 10)).astype("float32")
TAGS = ["sparsity", "sparsity/block/hidden/kernel", "sparsity/out/kernel"]


def make(wrap=tfprune.wrap) -> keras.Model:
    keras.utils.set_random_seed(1)
    block = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, name="hidden")], name="block")
    model = wrap(keras.Sequential([keras.Input((10,)), block, keras.layers.Dense(2, name="out")]))
    model.compile("adam", "mse")
    return model


def fit(model: keras.Model, *callbacks, **arguments) -> dict[str, list[float]]:
    """Train 10 updates an epoch."""
    arguments = {"batch_size": 4, "epochs": 3, "verbose": 0, **arguments}
    return model.fit(X, X[:, :2], callbacks=list(callbacks), **arguments).history


def scalars(folder: Path, prefix: str) -> dict[str, dict[int, float]]:
    """Return the values by tag, without its prefix, and step, read record by record."""
    scalars: dict[str, dict[int, float]] = {}
    for path in sorted((folder / "train").glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.tag.startswith(prefix) and value.HasField("tensor") and value.tensor.dtype == 1:
                    number = float(tf.make_ndarray(value.tensor))
                    scalars.setdefault(value.tag.removeprefix(prefix), {})[event.step] = number
    return scalars


class Truth(keras.callbacks.Callback):
    """Note the sparsities of the report: of the masks a batch is trained with, and of those an epoch ends with."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def now(self) -> list[float]:
        report = tfprune.sparsity_report(self.model)
        return [report.sparsity, *(row.sparsity for row in report.rows)]

    def on_train_batch_begin(self, batch, logs=None):
        self.batches.append(self.now())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.now())


def pruning() -> tfprune.PruningCallback:
    return tfprune.PruningCallback(Polynomial(0.8, end=25), every=4, allocation="erk")


@pytest.mark.parametrize("order", first("before", "after"))
def test_each_epoch_has_the_sparsity_it_ends_with(order, tmp_path):
    truth, summaries = Truth(), tfprune.PruningSummaries(tmp_path)
    pair = [summaries, pruning()] if order == "before" else [pruning(), summaries]
    history = fit(make(), *pair, truth, validation_data=(X, X[:, :2]))
    written = scalars(tmp_path, "epoch_")
    for index, tag in enumerate(TAGS):
        assert written[tag] == pytest.approx({epoch: row[index] for epoch, row in enumerate(truth.epochs)})
    assert 0 < truth.epochs[0][0] < truth.epochs[-1][0]
    assert set(history) == {"loss", "val_loss", "sparsity"}  # what is written goes to no other callback
    assert list(written["loss"].values()) == pytest.approx(history["loss"])
    assert scalars(tmp_path, "batch_") == {}


@pytest.mark.parametrize("order", first("before", "after"))
@pytest.mark.parametrize(("frequency", "between"), [("batch", 1), in_test_ci((7, 7)), in_test_all((1, 1))])
def test_each_batch_has_the_sparsity_it_was_trained_with(order, frequency, between, tmp_path):
    truth, summaries = Truth(), tfprune.PruningSummaries(tmp_path, update_freq=frequency)
    pair = [summaries, pruning()] if order == "before" else [pruning(), summaries]
    fit(make(), *pair, truth)
    written = scalars(tmp_path, "batch_")
    expected = {step: row for step, row in enumerate(truth.batches, start=1) if step % between == 0}
    for index, tag in enumerate(TAGS):
        assert written[tag] == pytest.approx({step: row[index] for step, row in expected.items()})
    assert set(written["loss"]) == set(expected)


def test_it_reports_without_a_pruning_callback_and_in_a_second_fit(tmp_path):
    model = make()
    tfprune.update_masks(model, 0.5)
    summaries = tfprune.PruningSummaries(tmp_path, update_freq=5)
    for _ in range(2):
        fit(model, summaries, epochs=1)
    assert scalars(tmp_path, "epoch_")["sparsity"] == {0: 0.5}
    assert scalars(tmp_path, "batch_")["sparsity"] == {5: 0.5, 10: 0.5}


def test_other_arguments_go_to_tensorboard(tmp_path):
    fit(make(), tfprune.PruningSummaries(tmp_path, write_steps_per_second=True), epochs=1)
    assert "steps_per_second" in scalars(tmp_path, "epoch_")


@pytest.mark.parametrize("class_", [tfprune.PruningSummaries, tfprune.tfmot.PruningSummaries])
@pytest.mark.parametrize("arguments", [{}, {"log_dir": None}, {"log_dir": ""}, {"update_freq": "batch"}], ids=str)
def test_without_a_folder_the_error_says_what_to_pass(class_, arguments):
    message = r"Expected `log_dir`, the folder of the event files. Received: log_dir=.*for example log_dir='logs'\.$"
    with pytest.raises(ValueError, match=message):
        class_(**arguments)


def test_a_folder_of_another_type_is_refused():
    with pytest.raises(TypeError, match="Expected `log_dir` to be a path. Received: log_dir=3 of type int"):
        tfprune.PruningSummaries(3)


def test_a_model_without_pruned_layers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has none. Use the model that tfprune.wrap"):
        fit(make(wrap=lambda model: model), tfprune.PruningSummaries(tmp_path))


@pytest.mark.parametrize(
    ("frequency", "error"), [("step", ValueError), (0, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_wrong_frequency_is_refused(frequency, error, tmp_path):
    with pytest.raises(error, match=re.escape(f"update_freq={frequency!r}")):
        tfprune.PruningSummaries(tmp_path, update_freq=frequency)


def test_constant_sparsity_is_written_under_steps_per_execution(tmp_path):
    model = make()
    model.compile("adam", "mse", steps_per_execution=5)
    fit(model, tfprune.PruningCallback(Constant(0.6)), tfprune.PruningSummaries(tmp_path, update_freq="batch"))
    assert scalars(tmp_path, "batch_")["sparsity"] == pytest.approx(dict.fromkeys(range(1, 7), 0.6))


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape('Run pip install "tfprune[tensorboard]"')):
        tfprune.PruningSummaries(tmp_path)
