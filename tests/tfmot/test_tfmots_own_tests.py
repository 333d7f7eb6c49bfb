"""What tfmot's own tests ask of its names, asked anew: steps, checkpoints of weights, policies and nested models."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune import tfmot
from tfprune.tfmot.prune import PruneLowMagnitude

pytestmark = pytest.mark.programs

sparsity = tfmot.sparsity.keras
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")


def plain() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), layers.Dense(8, name="first"), layers.Dense(4, name="last")])


def fit(model: keras.Model, *callbacks, epochs: int = 1, **compile_arguments) -> keras.Model:
    """Train for 8 batches an epoch."""
    model.compile(keras.optimizers.Adam(0.01), "mse", **compile_arguments)
    every = [tfmot.UpdatePruningStep(), *callbacks]
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, callbacks=every, verbose=0)
    return model


def wrapped_in(model: keras.Model) -> list[str]:
    """Return the paths of the wrappers, also in nested models."""
    return [row.layer for row in tfprune.sparsity_report(model).rows]


# Steps


class Steps(keras.callbacks.Callback):
    """Note after each batch the updates of the optimizer and the step of the last mask update."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.get_layer("first").pruning_step)
        self.found.append((int(self.model.optimizer.iterations), step))


@pytest.mark.parametrize("eager", [True, False])
def test_a_batch_is_a_step_and_the_layer_keeps_that_of_its_last_update(eager):
    record = Steps()
    schedule = tfmot.ConstantSparsity(0.5, 2, 14, frequency=3)
    fit(sparsity.prune_low_magnitude(plain(), schedule), record, epochs=2, run_eagerly=eager)
    last = [0, 2, 2, 2, 5, 5, 5, 8, 8, 8, 11, 11, 11, 14, 14, 14]
    assert record.found == list(zip(range(1, 17), last, strict=True))


# Checkpoints of weights


def test_a_checkpoint_of_weights_goes_on_where_it_was_written(tmp_path):
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 0, 16, power=1, frequency=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ends before the schedule does
        path = tmp_path / "{epoch}.weights.h5"
        saved = fit(
            sparsity.prune_low_magnitude(plain(), schedule),
            keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
        )
    fresh = sparsity.prune_low_magnitude(plain(), schedule)
    fresh.load_weights(tmp_path / "1.weights.h5")
    np.testing.assert_array_equal(fresh(X), saved(X))
    for name in ("first", "last"):
        np.testing.assert_array_equal(fresh.get_layer(name).masks["kernel"], saved.get_layer(name).masks["kernel"])
        assert int(fresh.get_layer(name).pruning_step) == 8
    fit(fresh)
    assert tfprune.sparsity_report(sparsity.strip_pruning(fresh)).sparsity == 0.75


def test_the_best_weights_come_back_sparse(tmp_path):
    path = tmp_path / "best.weights.h5"
    best = keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True, save_weights_only=True)
    fit(sparsity.prune_low_magnitude(plain()), best, epochs=3)
    fresh = sparsity.prune_low_magnitude(plain())
    fresh.load_weights(path)
    assert np.mean(fresh.get_layer("first").layer.kernel.numpy() == 0) == 0.5


def test_weights_of_a_plain_model_are_loaded_before_it_is_pruned(tmp_path):
    source = plain()
    source.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="Load weights of a model that is not wrapped before you wrap it"):
        sparsity.prune_low_magnitude(plain()).load_weights(tmp_path / "plain.weights.h5")
    model = plain()
    model.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(sparsity.prune_low_magnitude(model)(X), source(X))


# Models in models


def nested(kind: str) -> keras.Model:
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="a"), layers.ReLU()], name="inner")
    if kind == "functional":
        inner = keras.Model(inner.inputs[0], inner.outputs[0], name="inner")
    deeper = keras.Sequential([keras.Input((8,)), inner, layers.Dense(8, name="b")], name="deeper")
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(4, name="c")(deeper(inputs)))


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_models_in_models_are_pruned_trained_saved_and_stripped(kind, tmp_path):
    model = nested(kind)
    pruned = sparsity.prune_low_magnitude(model)
    assert wrapped_in(pruned) == ["deeper/inner/a", "deeper/b", "c"]
    np.testing.assert_allclose(pruned(X), model(X), atol=1e-6)
    fit(pruned)
    pruned.save(tmp_path / "model.keras")
    stripped = sparsity.strip_pruning(keras.models.load_model(tmp_path / "model.keras"))
    np.testing.assert_allclose(stripped(X), pruned(X), atol=1e-6)
    assert tfprune.sparsity_report(stripped).sparsity == 0.5
    assert [type(layer).__name__ for layer in stripped.get_layer("deeper").layers][-1] == "Dense"


def test_a_policy_chooses_in_nested_models_too():
    class Named(tfmot.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "a"

        def ensure_model_supports_pruning(self, model):
            pass

    pruned = sparsity.prune_low_magnitude(nested("functional"), pruning_policy=Named())
    assert wrapped_in(pruned) == ["deeper/inner/a"]


def test_a_pruned_model_is_pruned_again_to_no_effect():
    pruned = fit(sparsity.prune_low_magnitude(plain()))
    with pytest.warns(UserWarning, match="'first' has pruning_schedule=.*=0.5, .* instead of .*=0.9, "):
        again = sparsity.prune_low_magnitude(pruned, tfmot.ConstantSparsity(0.9, 0))
    assert wrapped_in(again) == ["first", "last"]
    assert again.get_layer("first").pruning_schedule == tfmot.ConstantSparsity(0.5, 0)
    np.testing.assert_array_equal(again(X), pruned(X))
    np.testing.assert_array_equal(again.get_layer("first").masks["kernel"], pruned.get_layer("first").masks["kernel"])


# The policy for XNNPACK


def mobile(*middle, top: tuple = ()) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, name="stem")(layers.ZeroPadding2D(1)(inputs))
    for layer in (*middle, layers.GlobalAveragePooling2D(), *top):
        x = layer(x)
    return keras.Model(inputs, x)


def pointwise(*others) -> list:
    return [layers.Conv2D(8, 1, name="pointwise"), *others]


def functional(*stack) -> keras.Model:
    inputs = x = keras.Input((4, 4, 4))
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name="block")


@pytest.mark.parametrize("nest", [lambda *stack: keras.Sequential(stack, name="block"), functional])
def test_the_policy_follows_nested_models(nest):
    policy = tfmot.PruneForLatencyOnXNNPack()
    pruned = sparsity.prune_low_magnitude(mobile(nest(*pointwise(layers.ReLU()))), pruning_policy=policy)
    assert wrapped_in(pruned) == ["block/pointwise"]
    policy.ensure_model_supports_pruning(pruned)
    for inside, after in (([layers.MaxPooling2D(name="pool")], []), ([], [layers.MaxPooling2D(name="pool")])):
        with pytest.raises(ValueError, match="'pool' of type MaxPooling2D"):
            sparsity.prune_low_magnitude(mobile(nest(*pointwise(*inside)), *after), pruning_policy=policy)


def test_stem_and_pool_may_stand_in_nested_models():
    stem = keras.Sequential([keras.Input((8, 8, 3)), layers.ZeroPadding2D(1), layers.Conv2D(4, 3, strides=2)])
    head = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(2)])
    model = keras.Sequential([keras.Input((8, 8, 3)), stem, *pointwise(), head])
    pruned = sparsity.prune_low_magnitude(model, pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    assert wrapped_in(pruned) == ["pointwise"]


def test_a_model_of_which_the_policy_leaves_nothing_comes_back_plain_with_a_warning():
    model = mobile(layers.ReLU())
    with pytest.warns(
        UserWarning, match="PruneForLatencyOnXNNPack and the pattern leave none of its layers"
    ) as caught:
        copy = sparsity.prune_low_magnitude(model, pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    assert caught[0].filename == __file__
    assert not any(isinstance(layer, PruneLowMagnitude) for layer in copy.layers)
    images = np.ones((1, 8, 8, 3), "float32")
    np.testing.assert_array_equal(copy(images), model(images))


DEPTHWISE = layers.DepthwiseConv2D
SUPPORTED = [
    [layers.ReLU(6.0)],
    [layers.LeakyReLU()],
    [layers.ELU()],
    [layers.Dropout(0.1)],
    [layers.BatchNormalization()],
    [layers.Activation("sigmoid")],
    [layers.UpSampling2D(interpolation="bilinear")],
    [DEPTHWISE(3, padding="same")],
    [DEPTHWISE(5, padding="same")],
    [layers.ZeroPadding2D(1), DEPTHWISE(3, strides=2)],
    [layers.ZeroPadding2D(2), DEPTHWISE(5)],
    [layers.Conv2D(4, 1)],
]
NOT_SUPPORTED = [
    [layers.Activation("tanh", name="fault")],
    [layers.UpSampling2D(name="fault")],
    [DEPTHWISE(3, padding="same", strides=2, name="fault")],
    [DEPTHWISE(3, name="fault")],
    [layers.ZeroPadding2D(2), DEPTHWISE(3, name="fault")],
    [DEPTHWISE(3, padding="same", depth_multiplier=2, name="fault")],
    [DEPTHWISE(3, padding="same", dilation_rate=2, name="fault")],
    [DEPTHWISE((1, 3), padding="same", name="fault")],
    [layers.Conv2D(4, 1, strides=2, name="fault")],
    [layers.Conv2D(4, 1, groups=2, name="fault")],
    [layers.Conv2D(4, 3, padding="same", name="fault")],
    [layers.LayerNormalization(name="fault")],
]


@pytest.mark.parametrize("middle", SUPPORTED, ids=lambda stack: stack[-1].name)
def test_the_policy_takes_what_xnnpack_runs(middle):
    tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(mobile(*middle, top=[layers.Dense(2)]))


@pytest.mark.parametrize("middle", NOT_SUPPORTED, ids=range(len(NOT_SUPPORTED)))
def test_the_policy_names_what_it_does_not_run(middle):
    with pytest.raises(ValueError, match=f"'fault' of type {type(middle[-1]).__name__}"):
        tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(mobile(*middle))


def test_branches_are_followed_and_sums_are_taken():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(1)(inputs))
    x = layers.Multiply()([x + layers.Conv2D(4, 1, name="left")(x), layers.Conv2D(4, 1, name="right")(x)])
    outputs = [layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), layers.GlobalAveragePooling2D()(layers.ReLU()(x))]
    policy = tfmot.PruneForLatencyOnXNNPack()
    pruned = sparsity.prune_low_magnitude(keras.Model(inputs, outputs), pruning_policy=policy)
    assert wrapped_in(pruned) == ["left", "right"]
    with pytest.raises(ValueError, match="every output"):
        policy.ensure_model_supports_pruning(keras.Model(inputs, [outputs[0], x]))


@pytest.mark.parametrize("thing", [None, "model", layers.Dense(3)])
def test_what_is_not_a_model_is_refused_by_the_policy(thing):
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(thing)
