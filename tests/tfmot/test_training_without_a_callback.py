"""What tfmot's users forget or leave open: the callback, the wrappers, the shape of the inputs."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiers import first

import tfprune
from tfprune import tfmot

sparsity = tfmot.sparsity.keras
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
COMPILED = [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 4}]


def built() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), layers.Dense(8, name="first"), layers.Dense(4, name="last")])


def fit(model: keras.Model, *callbacks, epochs: int = 1, **compile_arguments) -> keras.Model:
    """Train for 8 batches an epoch."""
    model.compile("sgd", "mse", **compile_arguments)
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, callbacks=list(callbacks), verbose=0)
    return model


# The callback


@pytest.mark.parametrize("arguments", COMPILED)
def test_a_forgotten_callback_is_an_error_before_anything_is_trained(arguments):
    model = sparsity.prune_low_magnitude(built())
    before = model.get_layer("first").layer.kernel.numpy()
    with pytest.raises(ValueError, match=r"prunes layer 'first' while it trains.*UpdatePruningStep\(\)") as error:
        fit(model, **arguments)
    assert "Pass callbacks=[UpdatePruningStep()] to fit" in str(error.value)
    np.testing.assert_array_equal(model.get_layer("first").layer.kernel, before)


def test_the_same_model_trains_once_the_callback_is_passed():
    model = sparsity.prune_low_magnitude(built())
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        fit(model)
    fit(model, tfmot.UpdatePruningStep())
    assert tfprune.sparsity_report(model).sparsity == 0.5


def test_what_is_not_training_needs_no_callback(tmp_path):
    model = sparsity.prune_low_magnitude(built())
    model.compile("sgd", "mse")
    model.predict(X, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model(X), model(X, training=False)
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").predict(X, verbose=0)
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        model(X, training=True)
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        model.train_on_batch(X, Y)


def test_a_second_training_may_go_without_as_with_tfmot(tmp_path):
    model = fit(sparsity.prune_low_magnitude(built()), tfmot.UpdatePruningStep())
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = fit(keras.models.load_model(tmp_path / "model.keras"))
    for one in (model, loaded):
        assert tfprune.sparsity_report(one).sparsity == 0.5
        assert np.mean(one.get_layer("first").layer.kernel.numpy() == 0) == 0.5


def test_loops_that_set_masks_themselves_need_no_callback():
    model = sparsity.prune_low_magnitude(built())
    tfprune.update_masks(model, 0.25)
    optimizer = keras.optimizers.SGD()
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(model(X, training=True) - Y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    assert np.mean(model.get_layer("first").layer.kernel.numpy() == 0) == 0.25


@pytest.mark.parametrize("model", [built, lambda: keras.Sequential([layers.Dense(4)])], ids=["built", "unbuilt"])
def test_a_model_without_wrappers_trains_with_a_warning(model):
    with pytest.warns(UserWarning, match="has no pruned layers. Train the model that prune_low_magnitude") as caught:
        fit(model(), tfmot.UpdatePruningStep(), epochs=2)
    assert len([warning for warning in caught if "no pruned layers" in str(warning.message)]) == 1


# Layers that the first batch builds


class Tower(keras.Model):
    """A model whose own code creates its layers, wrapped."""

    def __init__(self, wrap):
        super().__init__()
        self.stack = [wrap(layers.Dense(8, name="first")), wrap(layers.Dense(4, name="last"))]

    def call(self, inputs):
        for layer in self.stack:
            inputs = layer(inputs)
        return inputs


def stacked(wrap) -> keras.Model:
    return keras.Sequential([wrap(layers.Dense(8, name="first")), wrap(layers.Dense(4, name="last"))])


class Zeros(keras.callbacks.Callback):
    """Remember how many entries of the first kernel are zero after each batch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(int(np.sum(self.model.layers[0].layer.kernel.numpy() == 0)))


SCHEDULE = tfmot.PolynomialDecay(0.25, 0.75, 0, 6, power=1, frequency=3)
ZEROS = [16, 16, 32, 32, 32, 48, 48, 48]  # at 1, where 0 is made good, 3 and 6


@pytest.mark.parametrize("make", [stacked, Tower])
@pytest.mark.parametrize("arguments", first(*COMPILED[:3]))
def test_the_first_batch_builds_the_wrappers_and_masks_follow_the_schedule(make, arguments):
    model, record = make(lambda layer: sparsity.prune_low_magnitude(layer, SCHEDULE)), Zeros()
    fit(model, tfmot.UpdatePruningStep(), record, **arguments)
    assert record.found == ZEROS
    assert [int(layer.pruning_step) for layer in model.layers] == [6, 6]


@pytest.mark.parametrize("make", [stacked, Tower])
@pytest.mark.parametrize("end", [6, 0.75])
def test_the_callback_of_the_core_waits_too(make, end):
    model, record = make(tfprune.Pruned), Zeros()
    schedule = tfprune.schedules.Polynomial(0.75, initial=0.25, power=1, end=end)
    fit(model, tfprune.PruningCallback(schedule, every=3), record, epochs=1)
    assert record.found == ZEROS


def test_several_batches_in_the_call_that_builds_miss_no_update():
    model = stacked(lambda layer: sparsity.prune_low_magnitude(layer, SCHEDULE))
    fit(model, tfmot.UpdatePruningStep(), epochs=2, steps_per_execution=4)
    assert tfprune.sparsity_report(model).sparsity == 0.75


@pytest.mark.programs
def test_a_built_and_an_unbuilt_run_end_alike():
    models = []
    for inputs in ([], [keras.Input((8,))]):
        keras.utils.set_random_seed(0)
        schedule = tfmot.ConstantSparsity(0.5, 4)
        stack = [sparsity.prune_low_magnitude(layers.Dense(size), schedule) for size in (8, 4)]
        models.append(fit(keras.Sequential([*inputs, *stack]), tfmot.UpdatePruningStep()))
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_the_patterns_cannot_reach_is_refused_after_the_batch_that_builds():
    model = stacked(lambda layer: tfprune.Pruned(layer, pattern=tfprune.patterns.NM(2, 4)))
    with pytest.raises(ValueError, match=r"first/kernel cannot be pruned as far as Polynomial\(final=0.8"):
        fit(model, tfprune.PruningCallback(tfprune.schedules.Polynomial(0.8, end=8)))


def test_a_wrapper_that_training_never_calls_is_refused_by_name():
    model = Tower(tfprune.Pruned)
    model.spare = tfprune.Pruned(layers.Dense(2, name="spare"))
    with pytest.raises(ValueError, match="Expected built layers. Received: spare"):
        fit(model, tfprune.PruningCallback(tfprune.schedules.Constant(0.5)))


def test_a_loop_of_ones_own_builds_the_model_with_its_first_batch():
    model, optimizer = stacked(lambda layer: sparsity.prune_low_magnitude(layer, SCHEDULE)), keras.optimizers.SGD()
    model.optimizer = optimizer
    callback, found = tfmot.UpdatePruningStep(), []
    callback.set_model(model)
    callback.on_train_begin()
    for batch in range(8):
        callback.on_train_batch_begin(batch)
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(model(X, training=True) - Y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        found.append(int(np.sum(model.layers[0].layer.kernel.numpy() == 0)))
    assert found == [0, *ZEROS[1:]]  # such a loop says when a batch begins, not when it ends


def test_tensorboard_waits_for_the_first_batch(tmp_path):
    pytest.importorskip("tensorboard")
    model = stacked(sparsity.prune_low_magnitude)
    fit(model, tfmot.UpdatePruningStep(), sparsity.PruningSummaries(log_dir=str(tmp_path)))
    assert tfprune.sparsity_report(model).sparsity == 0.5


@pytest.mark.programs
def test_the_shape_of_tfmots_guide_trains():
    half = {"pruning_schedule": tfmot.ConstantSparsity(0.5, begin_step=0, frequency=100)}
    two_of_four = {"sparsity_m_by_n": (2, 4)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 warns of input_shape, and then does not look inside of a wrapper
        stack = [
            sparsity.prune_low_magnitude(layers.Conv2D(4, 3, input_shape=(8, 8, 1), name="half"), **half),
            layers.MaxPooling2D((2, 2), (2, 2), padding="same"),
            sparsity.prune_low_magnitude(layers.Conv2D(8, 3, padding="same", name="groups"), **two_of_four),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            sparsity.prune_low_magnitude(layers.Dense(16, "relu", name="dense_groups"), **two_of_four),
            layers.Dense(10),
        ]
    model = keras.Sequential(stack)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    images, labels = np.ones((8, 8, 8, 1), "float32"), np.zeros(8)
    model.fit(images, labels, batch_size=4, epochs=2, callbacks=[tfmot.UpdatePruningStep()], verbose=0)
    stripped = sparsity.strip_pruning(model)
    assert np.mean(stripped.get_layer("half").kernel.numpy() == 0) == 0.5
    for name, kernel in (("groups", (3, 3, 4, 8)), ("dense_groups", (72, 16))):
        weight = stripped.get_layer(name).kernel.numpy()
        assert weight.shape == kernel
        groups = np.moveaxis(weight, -2, -1).reshape(-1, 4)  # of the inputs of each output
        assert ((groups == 0).sum(axis=1) == 2).all()
