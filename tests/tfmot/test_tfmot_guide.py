"""What tfmot's users learn to do, from wrapping to the file on the device, with one import changed."""

from __future__ import annotations

import gzip
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune.export
from tfprune import tfmot

pytestmark = pytest.mark.programs  # tests of the parts that it calls stay in `make test`

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 20)).astype("float32")
Y = (X @ RANDOM.normal(size=(20, 10))).argmax(axis=1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def base_model() -> keras.Model:
    layers = [
        keras.Input((20,)),
        keras.layers.Dense(40, "relu", name="hidden"),
        keras.layers.Dense(10, name="logits"),
    ]
    return keras.Sequential(layers)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    model = base_model()
    model.compile(keras.optimizers.Adam(0.01), LOSS)
    model.fit(X, Y, batch_size=32, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("pretrained") / "base.weights.h5"
    model.save_weights(path)
    return path


def fit(model: keras.Model, *callbacks, epochs: int = 2) -> keras.Model:
    """Fine-tune for 6 batches an epoch."""
    model.compile("adam", LOSS, metrics=["accuracy"])
    every = [tfmot.sparsity.keras.UpdatePruningStep(), *callbacks]
    model.fit(X, Y, batch_size=16, epochs=epochs, callbacks=every, verbose=0)
    return model


def share_of_zeros(model: keras.Model, name: str) -> float:
    return float(np.mean(model.get_layer(name).kernel.numpy() == 0))


def test_a_pretrained_model_is_pruned_whole(pretrained):
    model = base_model()
    model.load_weights(pretrained)
    before = model.get_layer("hidden").kernel.numpy()
    steps = np.ceil(len(X) / 16).astype(np.int32) * 2
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.5, final_sparsity=0.8, begin_step=0, end_step=steps, frequency=5
    )
    pruned = fit(tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule))
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    for name in ("hidden", "logits"):
        assert share_of_zeros(stripped, name) == pytest.approx(0.8)
    lost = np.abs(before)[stripped.get_layer("hidden").kernel.numpy() == 0]
    kept = np.abs(before)[stripped.get_layer("hidden").kernel.numpy() != 0]
    assert lost.mean() < kept.mean() / 2  # the small ones went


def test_some_layers_are_pruned_by_name_or_by_class(pretrained):
    model = base_model()
    model.load_weights(pretrained)

    def wrapped(layer):
        return tfmot.sparsity.keras.prune_low_magnitude(layer) if layer.name == "hidden" else layer

    pruned = keras.models.clone_model(model, clone_function=wrapped)
    np.testing.assert_allclose(pruned(X), model(X), atol=1e-6)
    stripped = tfmot.sparsity.keras.strip_pruning(fit(pruned, epochs=1))
    assert share_of_zeros(stripped, "hidden") == 0.5
    assert share_of_zeros(stripped, "logits") == 0


def test_layers_are_wrapped_where_a_model_is_written():
    prune = tfmot.sparsity.keras.prune_low_magnitude
    inputs = keras.Input((20,))
    hidden = prune(keras.layers.Dense(40, name="hidden"))(inputs)
    functional = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.ReLU()(hidden)))
    sequential = keras.Sequential([prune(keras.layers.Dense(10, name="hidden"), input_shape=(20,))])
    for model in (functional, sequential):
        stripped = tfmot.sparsity.keras.strip_pruning(fit(model, epochs=1))
        assert share_of_zeros(stripped, "hidden") == 0.5


class Biased(keras.layers.Dense, tfmot.sparsity.keras.PrunableLayer):
    """Prunes its bias too, which is seldom a good idea."""

    def get_prunable_weights(self):
        return [self.kernel, self.bias]


def test_a_layer_of_ones_own_says_what_is_pruned():
    layer = Biased(10, name="biased", bias_initializer="random_normal")
    model = fit(keras.Sequential([keras.Input((20,)), tfmot.sparsity.keras.prune_low_magnitude(layer)]), epochs=1)
    stripped = tfmot.sparsity.keras.strip_pruning(model)
    assert share_of_zeros(stripped, "biased") == 0.5
    assert np.mean(stripped.get_layer("biased").bias.numpy() == 0) == 0.5


def test_tensorboard_shows_the_sparsity(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    summaries = tfmot.sparsity.keras.PruningSummaries(log_dir=str(tmp_path))
    fit(tfmot.sparsity.keras.prune_low_magnitude(base_model()), summaries)
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("epoch_sparsity/hidden/kernel")]
    assert values == [0.5, 0.5]


def test_a_loop_of_ones_own_drives_the_callbacks(tmp_path):
    pytest.importorskip("tensorboard")
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, begin_step=2, end_step=10, frequency=3)
    model = tfmot.sparsity.keras.prune_low_magnitude(base_model(), pruning_schedule=schedule)
    optimizer = keras.optimizers.Adam()
    model.optimizer = optimizer
    step_callback = tfmot.sparsity.keras.UpdatePruningStep()
    step_callback.set_model(model)
    log_callback = tfmot.sparsity.keras.PruningSummaries(log_dir=str(tmp_path))
    log_callback.set_model(model)
    found = []
    step_callback.on_train_begin()
    for _ in range(2):
        log_callback.on_epoch_begin(epoch=-1)
        for start in range(0, 96, 16):
            step_callback.on_train_batch_begin(batch=-1)
            with tf.GradientTape() as tape:
                loss = LOSS(Y[start : start + 16], model(X[start : start + 16], training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            found.append(int(np.sum(model.get_layer("hidden").layer.kernel.numpy() == 0)))
        step_callback.on_epoch_end(batch=-1)
    assert len(set(found)) == 4  # at 2, where it is 0, then at 5, 8, and at 10, the end
    assert found == sorted(found)
    assert found[9] == found[11] == 600
    assert share_of_zeros(tfmot.sparsity.keras.strip_pruning(model), "hidden") == 0.75


def test_checkpoints_are_sparse_and_training_goes_on_from_them(tmp_path):
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=12, frequency=3)
    model = tfmot.sparsity.keras.prune_low_magnitude(base_model(), pruning_schedule=schedule)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, checkpoint)
    with tfmot.sparsity.keras.prune_scope():
        halfway = keras.models.load_model(tmp_path / "1.keras")
    kernel = halfway.get_layer("hidden").layer.kernel.numpy()
    sparsity = 0.75 - 0.75 * (1 - 6 / 12) ** 3
    assert np.sum(kernel == 0) == round(sparsity * 800)
    halfway.fit(X, Y, batch_size=16, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()], verbose=0)
    assert share_of_zeros(tfmot.sparsity.keras.strip_pruning(halfway), "hidden") == 0.75


def gzipped(path: Path) -> int:
    return len(gzip.compress(path.read_bytes()))


def test_a_stripped_model_is_small_when_compressed_and_runs_as_tflite(tmp_path):
    dense = base_model()
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.9, begin_step=0, frequency=4)
    pruned = fit(tfmot.sparsity.keras.prune_low_magnitude(dense, pruning_schedule=schedule), epochs=1)
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    for name, model in (("dense", dense), ("stripped", stripped)):
        model.save_weights(tmp_path / f"{name}.weights.h5")
    assert gzipped(tmp_path / "stripped.weights.h5") < gzipped(tmp_path / "dense.weights.h5") / 1.7
    tfprune.export.to_tflite(stripped, tmp_path / "stripped.tflite.gz", compress="gzip", check_on=X[:8])
    outputs = tfprune.export.Runner(tmp_path / "stripped.tflite.gz").predict(X)
    np.testing.assert_allclose(outputs, pruned.predict(X, verbose=0), atol=1e-5)


@pytest.mark.parametrize("zeros", [(2, 4), (1, 4)])
def test_two_of_four_are_zero_in_the_stripped_model(zeros):
    pruned = tfmot.sparsity.keras.prune_low_magnitude(base_model(), sparsity_m_by_n=zeros)
    stripped = tfmot.sparsity.keras.strip_pruning(fit(pruned, epochs=1))
    kernel = stripped.get_layer("hidden").kernel.numpy()
    groups = kernel.T.reshape(40, 5, 4)  # of the inputs of each output
    assert ((groups == 0).sum(axis=2) == zeros[0]).all()
