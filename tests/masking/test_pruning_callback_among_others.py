"""The callback among Keras' own callbacks, in evaluation, and beside the unwrapped twin of a model."""

from __future__ import annotations

import csv

import keras
import numpy as np
import pytest
import tiers
from callback_runs import Record, X, Y, assert_equal, fit, make, plain, sparsities
from keras import layers
from refusals import refused

import tfprune
from tfprune.base.spec import ArgumentError
from tfprune.schedules import Constant, Polynomial


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


def test_a_second_pruning_callback_is_refused_before_training():
    model = make()
    with refused(ArgumentError, "callbacks"):
        fit(model, *(tfprune.PruningCallback(Polynomial(end, end=20)) for end in (0.9, 0.3)))
    assert int(model.optimizer.iterations) == 0


class Crash(keras.callbacks.Callback):
    """Fail at a step, as a lost machine does."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 14:
            raise KeyboardInterrupt


@pytest.mark.programs
@pytest.mark.parametrize("first", tiers.first("backup", "pruning"))
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


ORDERS = tiers.first("checkpoint_first", "pruning_first")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("save_freq", ["epoch", tiers.in_test_ci(4)])
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


@pytest.mark.programs
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("on_epoch", tiers.first(False, True))
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


@pytest.mark.parametrize("optimizer", ["sgd", tiers.in_test_ci("adam")])
def test_training_at_sparsity_zero_is_training_the_twin(optimizer):
    twin, model = plain(), tfprune.wrap(plain())
    results = []
    for candidate in (twin, model):
        candidate.compile(optimizer, "mse")
        callbacks = [tfprune.PruningCallback(Constant(0.0), every=1)] if candidate is model else []
        keras.utils.set_random_seed(2)
        results.append(fit(candidate, *callbacks, epochs=2)["loss"])
    assert results[0] == results[1]
    assert_equal([v.numpy() for v in tfprune.strip(model).weights], [v.numpy() for v in twin.weights])


@pytest.mark.programs
def test_embeddings_and_recurrent_layers_train_as_their_twins_do():
    def build():
        keras.utils.set_random_seed(1)
        stack = [keras.Input((5,)), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3), layers.Dense(2)]
        return keras.Sequential(stack)

    tokens = np.random.default_rng(0).integers(0, 9, size=(40, 5))
    twin, model = build(), tfprune.wrap(build())
    for candidate in (twin, model):
        candidate.compile("adam", "mse")
        candidate.fit(tokens, Y, batch_size=4, shuffle=False, verbose=0)
    for weight, twin_weight in zip(tfprune.strip(model).weights, twin.weights, strict=True):
        np.testing.assert_allclose(weight, twin_weight, atol=1e-6)
