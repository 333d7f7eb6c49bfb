"""What users of tensorflow-model-optimization run into, one short test each, in the order of its best-known traps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfprune
from tfprune import patterns
from tfprune.schedules import Constant, Polynomial

pytestmark = pytest.mark.programs

X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")


def model(**kwargs) -> keras.Model:
    stack = [keras.Input((8,)), layers.Dense(8, name="first"), layers.Dense(4, name="last")]
    wrapped = tfprune.wrap(keras.Sequential(stack), **kwargs)
    wrapped.compile(keras.optimizers.Adam(0.01), "mse")
    return wrapped


def fit(wrapped: keras.Model, *callbacks, epochs: int = 1) -> None:
    wrapped.fit(X, Y, batch_size=4, epochs=epochs, callbacks=list(callbacks), verbose=0)


def kernel(wrapped: keras.Model, name: str = "first") -> np.ndarray:
    return wrapped.get_layer(name).layer.kernel.numpy()


@pytest.mark.parametrize(("begin", "end"), [(0, 7), (3, 3), (1, 8)])
def test_01_the_final_sparsity_is_reached_when_the_frequency_does_not_divide_the_window(begin, end):
    wrapped = model()
    fit(wrapped, tfprune.PruningCallback(Polynomial(0.75, begin=begin, end=end), every=4))
    assert tfprune.sparsity_report(wrapped).sparsity == 0.75
    assert np.isfinite(kernel(wrapped)).all()


def test_02_a_fit_shorter_than_the_frequency_prunes():
    wrapped = model()
    fit(wrapped, tfprune.PruningCallback(Polynomial(0.75, end=8), every=1000))
    assert tfprune.sparsity_report(wrapped).sparsity == 0.75


class SparseAfterEveryBatch(keras.callbacks.Callback):
    """Remember how many entries of the first kernel are zero after each batch and at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(int(np.sum(kernel(self.model) == 0)))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(int(np.sum(kernel(self.model) == 0)))


def test_03_weights_are_sparse_after_every_batch():
    record = SparseAfterEveryBatch()
    fit(model(), tfprune.PruningCallback(Constant(0.5), every=3), record, epochs=2)
    assert record.batches == [32] * 16


def test_04_predict_and_evaluate_write_no_weight():
    wrapped = model()
    fit(wrapped, tfprune.PruningCallback(Constant(0.5)))
    wrapped.get_layer("first").layer.kernel.assign(np.ones((8, 8)))  # also what a mask hides: masking it would show
    before = wrapped.get_weights()
    wrapped.predict(X, verbose=0), wrapped.evaluate(X, Y, verbose=0)
    for one, other in zip(before, wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_05_frozen_layers_are_not_pruned():
    wrapped = model()
    wrapped.get_layer("first").trainable = False
    wrapped.compile("sgd", "mse")
    before = kernel(wrapped).copy()
    fit(wrapped, tfprune.PruningCallback(Constant(0.5)))
    np.testing.assert_array_equal(kernel(wrapped), before)
    assert np.sum(kernel(wrapped, "last") == 0) == 16


def test_06_a_shared_layer_counts_one_step_a_batch():
    dense, inputs = layers.Dense(8, name="first"), keras.Input((8,))
    wrapped = tfprune.wrap(keras.Model(inputs, layers.Dense(4)(dense(dense(inputs)))))
    wrapped.compile("sgd", "mse")
    record = SparseAfterEveryBatch()
    fit(wrapped, tfprune.PruningCallback(Constant(0.5, begin=6)), record)
    assert record.batches == [0] * 5 + [32] * 3


def test_07_groups_of_n_in_m_follow_the_schedule_and_survive_a_file(tmp_path):
    wrapped, record = model(pattern=patterns.NM(2, 4)), SparseAfterEveryBatch()
    fit(wrapped, tfprune.PruningCallback(Polynomial(0.5, end=8, power=1), every=2), record)
    assert record.batches == [0, 8, 8, 16, 16, 24, 24, 32]
    wrapped.save(tmp_path / "groups.keras")
    loaded = keras.models.load_model(tmp_path / "groups.keras")
    assert loaded.get_layer("first").pattern == patterns.NM(2, 4)
    groups = tfprune.strip(loaded).get_layer("first").kernel.numpy().T.reshape(8, 2, 4)
    assert ((groups != 0).sum(axis=2) == 2).all()


def test_08_blocks_lie_where_they_were_ranked_when_the_size_does_not_divide():
    stack = [keras.Input((10,)), layers.Dense(7, use_bias=False, name="dense")]
    plain = keras.Sequential(stack)
    values = np.full((10, 7), 0.01, "float32")
    values[4:8, 3:6] = 1.0  # one whole block of 3 outputs by 4 inputs, the grid starting at 0
    values[8:, 6:] = 1.0  # and the short one in the corner
    plain.layers[0].kernel.assign(values)
    wrapped = tfprune.wrap(plain, pattern=patterns.Block(3, 4))
    tfprune.update_masks(wrapped, 7 / 9)  # leaves 2 of 3 x 3 blocks
    np.testing.assert_array_equal(kernel(wrapped, "dense") != 0, values == 1.0)


@pytest.mark.parametrize(
    ("units", "pattern"), [(4, patterns.Block(4, 1)), (4, patterns.Block(1, 8)), (1, patterns.Block(1, 4))]
)
def test_09_blocks_may_span_a_dimension_and_one_output_is_enough(units, pattern):
    wrapped = tfprune.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(units, name="dense")]), pattern=pattern)
    tfprune.update_masks(wrapped, 0.5)
    assert np.sum(kernel(wrapped, "dense") == 0) == units * 4


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_10_a_constant_tensor_is_pruned_to_the_exact_count(value):
    wrapped = model()
    wrapped.get_layer("first").layer.kernel.assign(np.full((8, 8), value))
    tfprune.update_masks(wrapped, 0.75)
    assert np.sum(wrapped.get_layer("first").masks["kernel"].numpy()) == 16


def test_11_the_mask_of_an_embedding_reaches_the_lstm():
    stack = [keras.Input((5,), dtype="int32"), layers.Embedding(7, 4, mask_zero=True), layers.LSTM(3)]
    plain = keras.Sequential(stack)
    tokens = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0]])
    truth = plain(tokens).numpy()
    assert np.abs(truth - plain(np.where(tokens == 0, 1, tokens)).numpy()).max() > 1e-4
    np.testing.assert_array_equal(tfprune.wrap(plain)(tokens), truth)


@pytest.mark.parametrize("position", [0, 1])
def test_12_callbacks_listed_before_see_sparse_weights_too(position, tmp_path):
    record, callback = SparseAfterEveryBatch(), tfprune.PruningCallback(Constant(0.5))
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True)
    wrapped = model()
    fit(wrapped, *[[record, checkpoint, callback], [callback, record, checkpoint]][position], epochs=2)
    assert record.epochs == [32, 32]
    fresh = model()
    fresh.load_weights(tmp_path / "best.weights.h5")
    assert np.sum(tfprune.strip(fresh).get_layer("first").kernel.numpy() == 0) == 32


def test_13_a_pruned_layer_beside_a_new_one_trains_with_its_own_masks():
    base = tfprune.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(8, name="first")]))
    tfprune.update_masks(base, 0.75)
    old = base.get_layer("first").masks["kernel"].numpy()
    head = tfprune.Pruned(layers.Dense(4, name="last"))
    both = keras.Model(base.inputs, head(base.outputs[0]))
    both.compile("adam", "mse")
    fit(both, tfprune.PruningCallback(Constant(0.5), allocation={"first": None}))
    np.testing.assert_array_equal(both.get_layer("first").masks["kernel"], old)
    assert np.sum(kernel(both) == 0) == 48 and np.sum(kernel(both, "last") == 0) == 16


@pytest.mark.parametrize("recurrent", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_14_recurrent_layers_are_saved(recurrent, tmp_path):
    wrapped = tfprune.wrap(keras.Sequential([keras.Input((4, 3)), recurrent(5, name="first")]))
    tfprune.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "recurrent.keras")
    loaded = keras.models.load_model(tmp_path / "recurrent.keras")
    for name, mask in wrapped.get_layer("first").masks.items():
        np.testing.assert_array_equal(loaded.get_layer("first").masks[name], mask)
    assert set(wrapped.get_layer("first").masks) == {"kernel", "recurrent_kernel"}


def mobile_block() -> keras.Model:
    """Build what MobileNetV3 is made of: depthwise convolution, squeeze and excite, hard swish, a residual."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(8, 1, use_bias=False, name="expand")(x)
    x = layers.Activation("hard_swish")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    gate = layers.Conv2D(8, 1, name="excite")(gate)
    x = layers.Multiply()([x, layers.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)])
    x = layers.Add()([inputs, layers.Conv2D(4, 1, name="project")(x)])
    return keras.Model(inputs, x, name="mobile")


def test_15_a_model_with_layers_that_cannot_be_pruned_is_pruned_whole_and_says_which():
    plain = mobile_block()
    wrapped = tfprune.wrap(plain)
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(wrapped(image), plain(image), atol=1e-6)
    report = tfprune.update_masks(wrapped, 0.5)
    assert [row.layer for row in report.rows] == ["expand", "squeeze", "excite", "project"]
    assert report.sparsity == 0.5
    assert {entry.layer for entry in report.skipped} == {
        "depthwise",
        next(layer.name for layer in plain.layers if "normalization" in layer.name),
    }
    np.testing.assert_array_equal(tfprune.strip(wrapped)(image), wrapped(image))


def test_16_subclasses_of_layers_are_pruned():
    class Loud(layers.Dense):
        def call(self, inputs):
            return 10 * super().call(inputs)

    wrapped = tfprune.wrap(keras.Sequential([keras.Input((8,)), Loud(8, name="first")]))
    assert tfprune.update_masks(wrapped, 0.5).nnz == 32
    np.testing.assert_allclose(wrapped(X), 10 * X @ kernel(wrapped), rtol=1e-4, atol=1e-5)
    assert type(tfprune.strip(wrapped).layers[0]) is Loud


def test_17_strip_applies_the_mask_after_a_loop_of_ones_own():
    wrapped, optimizer = model(), keras.optimizers.Adam(0.01)
    tfprune.update_masks(wrapped, 0.5, optimizer=optimizer)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((wrapped(X, training=True) - Y) ** 2)
        variables = wrapped.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    stripped = tfprune.strip(wrapped)
    assert tfprune.sparsity_report(stripped).sparsity == 0.5
    np.testing.assert_array_equal(stripped(X), wrapped(X))


def test_18_layers_inside_custom_layers_lists_and_subclassed_models_are_found():
    class Tower(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.stack = [layers.Dense(8, name=f"dense_{index}") for index in range(2)]
            self.named = {"conv": layers.Conv1D(4, 1, name="conv")}

        def build(self, shape):
            for layer in self.stack:
                layer.build(shape)
            self.named["conv"].build((None, 1, 8))

        def call(self, inputs):
            for layer in self.stack:
                inputs = layer(inputs)
            return self.named["conv"](inputs[:, None])[:, 0]

        def compute_output_shape(self, shape):
            return (shape[0], 4)

    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.tower = Tower(name="tower")

        def call(self, inputs):
            return self.tower(inputs)

    own = Own()
    own(X)
    paths = ["tower/dense_0/kernel", "tower/dense_1/kernel", "tower/conv/kernel"]
    for plain in (keras.Sequential([keras.Input((8,)), Tower(name="tower")]), own):
        report = tfprune.update_masks(tfprune.wrap(plain), 0.5)
        assert {row.path: row.sparsity for row in report.rows} == dict.fromkeys(paths, 0.5)


def test_masks_take_a_quarter_of_the_weights_memory():
    pruned = model().get_layer("first")
    mask, weight = pruned.masks["kernel"], pruned.layer.kernel
    assert 4 * np.asarray(mask).nbytes == np.asarray(weight).nbytes
