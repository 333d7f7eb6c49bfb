"""Side by side in one process: tfmot on tf_keras and tfprune on Keras 3, the same weights, the same masks."""

from __future__ import annotations

import inspect
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiers import first

import tfprune
from tfprune import tfmot as dropin
from tfprune.schedules import Constant, Polynomial

SPARSITIES = [0.0, 0.1, 0.333, 0.5, 0.75, 0.9, 0.99]
SHAPES = {"dense": (13, 8), "conv1d": (3, 5, 4), "conv2d": (3, 3, 4, 5), "conv2d_transpose": (3, 3, 5, 4)}
MAKERS = {
    "dense": lambda library: (library.layers.Dense(8), (None, 13)),
    "conv1d": lambda library: (library.layers.Conv1D(4, 3), (None, 9, 5)),
    "conv2d": lambda library: (library.layers.Conv2D(5, 3), (None, 9, 9, 4)),
    "conv2d_transpose": lambda library: (library.layers.Conv2DTranspose(5, 3), (None, 9, 9, 4)),
}


@pytest.fixture(scope="module")
def tfmot():
    """Import tfmot, which turns the process to Keras 2, and turn what it changed back."""
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    pytest.importorskip("tf_keras", reason="tf_keras is not installed: pip install tfprune[tfmot]")
    try:
        import tensorflow_model_optimization
    except ImportError as error:
        pytest.skip(f"tensorflow-model-optimization is not installed or does not load: {error}")
    yield tensorflow_model_optimization
    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)


def weights(kind: str) -> np.ndarray:
    """Return weights without ties."""
    size = int(np.prod(SHAPES[kind]))
    values = np.random.default_rng(size).permutation(np.arange(1, size + 1)).astype("float32") / size
    signs = np.random.default_rng(0).choice([-1, 1], size=size)
    return (values * signs).reshape(SHAPES[kind])


def their_mask(tfmot, kind: str, sparsity: float) -> np.ndarray:
    layer, shape = MAKERS[kind](sys.modules["tf_keras"])
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 0, frequency=1)
    wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
    wrapper.build(shape)
    layer.kernel.assign(weights(kind))
    wrapper.pruning_step.assign(0)
    wrapper.pruning_obj.conditional_mask_update()
    ((_, mask, _),) = wrapper.pruning_vars
    return mask.numpy()


def our_mask(kind: str, sparsity: float) -> np.ndarray:
    layer, shape = MAKERS[kind](keras)
    layer.build(shape)
    layer.kernel.assign(weights(kind))
    pruned = tfprune.wrap(layer)
    tfprune.update_masks(pruned, sparsity)
    return pruned.masks["kernel"].numpy()


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("kind", MAKERS)
def test_masks_are_equal_entry_by_entry(tfmot, kind, sparsity):
    theirs, ours = their_mask(tfmot, kind, sparsity), our_mask(kind, sparsity)
    size = ours.size
    kept = max(int(np.rint(size * (1 - sparsity))), 1)
    assert np.count_nonzero(theirs) == kept
    if size - round(sparsity * size) != kept:  # a half rounds to the even number: of zeros here, of survivors there
        pytest.fail(f"choose a sparsity whose counts do not end on a half: {sparsity} of {size}")
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_polynomial_schedules_are_equal(tfmot, power):
    theirs = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.9, 100, 1100, power=power, frequency=50)
    ours = Polynomial(0.9, begin=100, end=1100, initial=0.2, power=power)
    for step in range(100, 1101, 50):
        is_due, sparsity = theirs(tf.constant(step, tf.int64))
        assert bool(is_due)
        assert ours(step) == pytest.approx(float(sparsity), abs=1e-6)
        assert ours.last_update(step - 1, step, 50) == step
    for step in (99, 125, 1099):
        assert not bool(theirs(tf.constant(step, tf.int64))[0])
        assert ours.last_update(step - 1, step, 50) is None


def test_constant_schedules_are_equal(tfmot):
    theirs, ours = tfmot.sparsity.keras.ConstantSparsity(0.6, 10, 40, frequency=10), Constant(0.6, begin=10, end=40)
    for step in range(1, 60):
        is_due, sparsity = theirs(tf.constant(step, tf.int64))
        due = ours.last_update(step - 1, step, 10)
        assert bool(is_due) == (due == step)
        if bool(is_due):
            assert ours(step) == pytest.approx(float(sparsity))


def test_stripped_weights_are_equal(tfmot):
    kernel = weights("dense")
    tf_keras = sys.modules["tf_keras"]
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.75, 0, frequency=1)
    theirs = tf_keras.Sequential([tf_keras.layers.Dense(8, input_shape=(13,))])
    theirs.layers[0].kernel.assign(kernel)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(theirs, pruning_schedule=schedule)
    wrapper = pruned.layers[0]
    wrapper.pruning_step.assign(0)
    wrapper.pruning_obj.conditional_mask_update()
    wrapper.pruning_obj.weight_mask_op()
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    ours = keras.Sequential([keras.Input((13,)), layers.Dense(8)])
    ours.layers[0].kernel.assign(kernel)
    ours = tfprune.wrap(ours)
    tfprune.update_masks(ours, 0.75)
    np.testing.assert_array_equal(tfprune.strip(ours).layers[0].kernel, stripped.layers[0].kernel.numpy())


# From here on through the drop-in names: the same calls on both sides.


def test_every_public_name_is_there(tfmot):
    pruning = {name for name, thing in vars(tfmot.sparsity.keras).items() if callable(thing)}
    steps = ("model", "annotate_layer", "annotate_model", "apply", "scope")
    quantization = {f"quantize_{step}" for step in steps}
    clustering = {"CentroidInitialization", "cluster_scope", "cluster_weights", "strip_clustering"}
    for names, part in ((quantization, tfmot.quantization.keras), (clustering, tfmot.clustering.keras)):
        assert all(callable(getattr(part, name)) for name in names)
    experimental = {f"Default8Bit{kept}QuantizeScheme" for kept in ("", "PrunePreserve", "ClusterPreserve")}
    experimental |= {"strip_clustering_cqat"}
    assert set(dropin.__all__) == pruning | quantization | clustering | experimental


@pytest.mark.parametrize(
    "name", ["PolynomialDecay", "ConstantSparsity", "PruningSummaries", "UpdatePruningStep", "strip_pruning"]
)
def test_arguments_have_the_same_names_order_and_defaults(tfmot, name):
    theirs, ours = (
        {one: each.default for one, each in inspect.signature(getattr(names, name)).parameters.items()}
        for names in (tfmot.sparsity.keras, dropin)
    )
    if name == "PruningSummaries":  # without a folder it says which argument is missing, and an example of one
        assert (theirs.pop("log_dir"), ours.pop("log_dir")) == (inspect.Parameter.empty, "")
        with pytest.raises(ValueError, match="Pass a path, for example"):
            dropin.PruningSummaries()
    assert list(ours.items()) == list(theirs.items())


LAYERS = {
    "dense": (lambda library: library.layers.Dense(8), (None, 13)),
    "embedding": (lambda library: library.layers.Embedding(11, 6), (None, 5)),
    "conv1d": (lambda library: library.layers.Conv1D(4, 3), (None, 9, 5)),
    "conv2d": (lambda library: library.layers.Conv2D(5, 3), (None, 9, 9, 4)),
    "conv3d": (lambda library: library.layers.Conv3D(5, 2), (None, 4, 4, 4, 3)),
    "conv2d_transpose": (lambda library: library.layers.Conv2DTranspose(5, 3), (None, 9, 9, 4)),
    "conv3d_transpose": (lambda library: library.layers.Conv3DTranspose(5, 2), (None, 4, 4, 4, 3)),
    "separable_conv1d": (lambda library: library.layers.SeparableConv1D(5, 3), (None, 9, 4)),
    "separable_conv2d": (lambda library: library.layers.SeparableConv2D(5, 3), (None, 9, 9, 4)),
    "lstm": (lambda library: library.layers.LSTM(5), (None, 6, 3)),
    "gru": (lambda library: library.layers.GRU(5), (None, 6, 3)),
    "simple_rnn": (lambda library: library.layers.SimpleRNN(5), (None, 6, 3)),
    "attention": (lambda library: attention(library), None),
}


def attention(library):
    layer = library.layers.MultiHeadAttention(2, 3)
    layer(np.ones((1, 4, 6), "float32"), np.ones((1, 4, 6), "float32"))
    return layer


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return weights of which no two have the same magnitude, nor two blocks the same mean."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def at_once(names, sparsity: float):
    return names.ConstantSparsity(sparsity, 0, frequency=1)


class Side:
    """A layer wrapped by one of the two, with the same weights and the same calls."""

    def __init__(self, names, kind, **arguments):
        self.is_ours = names is dropin
        make, shape = LAYERS[kind] if isinstance(kind, str) else kind
        arguments.setdefault("pruning_schedule", names.ConstantSparsity(0.5, 0, frequency=1))
        self.wrapper = names.prune_low_magnitude(
            make(keras if self.is_ours else sys.modules["tf_keras"]), **arguments
        )
        if self.is_ours:
            self.wrapper.build(shape)
            self.wrapper.optimizer = keras.optimizers.SGD()
            self.callback = names.UpdatePruningStep()
            self.callback.set_model(self.wrapper)
            self.callback.on_train_begin()
        else:
            self.wrapper.build(shape)
        for seed, weight in enumerate(self.weights()):
            weight.assign(values(tuple(weight.shape), seed))

    def weights(self):
        if self.is_ours:
            return [kernel.variable for kernel in self.wrapper.kernels.values()]
        return [weight for weight, _, _ in self.wrapper.pruning_vars]

    def masks_at(self, step: int) -> list[np.ndarray]:
        """Go to a batch, and do what is due there."""
        if self.is_ours:
            self.wrapper.optimizer.iterations.assign(step - 1)
            self.callback.on_train_batch_begin(batch=step - 1)
            return [mask.numpy() for mask in self.wrapper.masks.values()]
        self.wrapper.pruning_step.assign(step)
        self.wrapper.pruning_obj.conditional_mask_update()
        self.wrapper.pruning_obj.weight_mask_op()
        return [mask.numpy() for _, mask, _ in self.wrapper.pruning_vars]


def both(tfmot, kind, **arguments) -> tuple[Side, Side]:
    def of(names):
        return Side(names, kind, **{key: make(names) if callable(make) else make for key, make in arguments.items()})

    return of(tfmot.sparsity.keras), of(dropin)


def assert_equal_masks(theirs: list[np.ndarray], ours: list[np.ndarray]) -> None:
    assert len(theirs) == len(ours)
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_masks_of_every_kind_of_layer_are_equal_all_along_a_schedule(tfmot, kind):
    theirs, ours = both(
        tfmot, kind, pruning_schedule=lambda names: names.PolynomialDecay(0.213, 0.913, 2, 22, power=1, frequency=5)
    )
    seen = set()
    for step in (1, 2, 3, 6, 7, 12, 17, 21, 22, 23, 27):
        masks = theirs.masks_at(step)
        assert_equal_masks(masks, ours.masks_at(step))
        seen.add(sum(int(mask.sum()) for mask in masks))
    assert len(seen) == 6  # dense, then five updates


@pytest.mark.parametrize("sparsity", [0.05, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 0.95])
def test_as_many_survive_where_their_number_is_a_half(tfmot, sparsity):
    theirs, ours = [], []
    for size in (1, 2, 3, 5, 6, 10, 15, 25, 30, 35, 50, 70):
        kept = tf.math.maximum(tf.math.round(tf.cast(size, tf.float32) * (1 - tf.constant(sparsity))), 1)
        theirs.append(int(kept))
        wrapper = dropin.prune_low_magnitude(layers.Dense(1))
        wrapper.build((None, size))
        (share,) = wrapper.shares(sparsity).values()
        ours.append(size - round(share * size))
    assert ours == theirs


@pytest.mark.parametrize(("inputs", "units"), [(3, 5), (5, 9), (7, 3)])
def test_the_masks_of_an_odd_number_of_weights_are_equal_at_a_half(tfmot, inputs, units):
    theirs, ours = both(tfmot, (lambda library: library.layers.Dense(units), (None, inputs)))
    assert_equal_masks(theirs.masks_at(1), ours.masks_at(1))


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 3), (3, 2), (6, 6)])
@pytest.mark.parametrize("kind", ["dense", "embedding"])
def test_blocks_that_divide_the_weight_are_equal(tfmot, kind, block, pooling):
    make = {
        "dense": (lambda library: library.layers.Dense(24), (None, 12)),
        "embedding": (lambda library: library.layers.Embedding(12, 24), (None, 5)),
    }[kind]
    theirs, ours = both(tfmot, make, block_size=block, block_pooling_type=pooling)
    assert_equal_masks(theirs.masks_at(1), ours.masks_at(1))


@pytest.mark.parametrize("groups", [(2, 4), (1, 4), (3, 4), (1, 2), (5, 8)])
@pytest.mark.parametrize("kind", ["dense", "conv2d", "embedding"])
def test_groups_of_m_zeros_in_n_are_equal(tfmot, kind, groups):
    theirs, ours = both(tfmot, kind, sparsity_m_by_n=groups)
    assert_equal_masks(theirs.masks_at(1), ours.masks_at(1))


def models(tfmot, schedule, learning_rate: float):
    """Build the same small model twice, pruned, compiled, with a recorder of its masks after every batch."""
    for names, library in ((tfmot.sparsity.keras, sys.modules["tf_keras"]), (dropin, keras)):
        inputs = library.layers.Input((6,)) if library is keras else library.Input((6,))
        hidden = library.layers.Dense(8, activation="relu", name="hidden")(inputs)
        model = library.Model(inputs, library.layers.Dense(4, name="out")(hidden))
        for seed, weight in enumerate(model.trainable_variables):
            weight.assign(values(tuple(weight.shape), seed))
        model = names.prune_low_magnitude(model, pruning_schedule=schedule(names))
        model.compile(library.optimizers.SGD(learning_rate), "mse")
        yield names, library, model


def masks_in_fit(names, library, model) -> list[list[np.ndarray]]:
    class Record(library.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            wrappers = [layer for layer in self.model.layers if hasattr(layer, "pruning_schedule")]
            if names is dropin:
                found = [mask.numpy() for layer in wrappers for mask in layer.masks.values()]
            else:
                found = [mask.numpy() for layer in wrappers for _, mask, _ in layer.pruning_vars]
            masks.append(found)

    masks: list[list[np.ndarray]] = []
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    y = np.tanh(x[:, :4] * 2)
    callbacks = [names.UpdatePruningStep(), Record()]
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return masks


def test_masks_are_equal_after_every_batch_of_a_fit(tfmot):
    sides = models(tfmot, lambda names: names.PolynomialDecay(0.1, 0.8, 2, 18, frequency=4), learning_rate=0.0)
    theirs, ours = (masks_in_fit(*side) for side in sides)
    assert len(theirs) == len(ours) == 20
    for one, other in zip(theirs, ours, strict=True):
        assert_equal_masks(one, other)
    assert np.mean(ours[-1][0] == 0) == pytest.approx(0.8, abs=0.02)


def test_weights_are_equal_after_training_between_two_updates(tfmot):
    sides = list(models(tfmot, lambda names: names.ConstantSparsity(0.6, 4), learning_rate=0.05))
    theirs, ours = (masks_in_fit(*side) for side in sides)
    assert_equal_masks(theirs[-1], ours[-1])  # chosen by weights that both trained for three batches
    stripped = [names.strip_pruning(model) for names, _, model in sides]
    for name in ("hidden", "out"):
        one, other = (model.get_layer(name).kernel.numpy() for model in stripped)
        np.testing.assert_allclose(other, one, atol=2e-6)
        assert np.mean(other == 0) == pytest.approx(0.6, abs=0.02)


class Steps:
    """A schedule as people write one for tfmot, for either base class."""

    def __init__(self, names):
        class Staircase(names.PruningSchedule):
            def __call__(self, step):
                is_due = self._should_prune_in_step(step, 2, 20, 3)
                return is_due, tf.minimum(tf.cast(step, tf.float32) / 20.0, 0.7)

            def get_config(self):
                return {"class_name": "Staircase", "config": {}}

        self.schedule = Staircase()


def test_a_schedule_written_for_tfmot_works_unchanged(tfmot):
    theirs, ours = both(tfmot, "dense", pruning_schedule=lambda names: Steps(names).schedule)
    for step in range(1, 23):
        assert_equal_masks(theirs.masks_at(step), ours.masks_at(step))


# Where tfmot has a bug, each test shows it, so that it fails on the day that it is gone, and what happens here.


def test_the_end_is_reached_where_the_frequency_misses_it(tfmot):
    def decay(names):
        return names.PolynomialDecay(0.0, 0.8, 0, 25, power=1, frequency=10)

    theirs, ours = both(tfmot, "dense", pruning_schedule=decay)
    for step in range(1, 31):
        left, right = theirs.masks_at(step), ours.masks_at(step)
    assert np.mean(left[0] == 0) == pytest.approx(0.64, abs=0.01)
    assert np.mean(right[0] == 0) == pytest.approx(0.8, abs=0.01)


def test_a_schedule_that_begins_at_0_prunes_before_the_first_batch(tfmot):
    theirs, ours = both(tfmot, "dense", pruning_schedule=lambda names: names.ConstantSparsity(0.5, 0))
    assert theirs.masks_at(1)[0].all()
    assert np.mean(ours.masks_at(1)[0]) == 0.5


def test_blocks_stand_where_they_were_ranked(tfmot):
    """Of a weight whose large row lies in the first row of blocks, here those blocks stay, there others do."""
    make = (lambda library: library.layers.Dense(10), (None, 10))
    theirs, ours = both(tfmot, make, block_size=(4, 4), pruning_schedule=lambda names: at_once(names, 2 / 3))
    large = np.full((10, 10), 0.01, "float32")
    large[3] = 1.0
    for side in (theirs, ours):
        side.weights()[0].assign(large)
    assert not theirs.masks_at(1)[0][3].any()
    np.testing.assert_array_equal(np.flatnonzero(ours.masks_at(1)[0].any(axis=1)), [0, 1, 2, 3])


@pytest.mark.parametrize(("inputs", "units", "block"), [(8, 4, (8, 1)), (8, 1, (4, 1))])
def test_blocks_may_span_a_dimension(tfmot, inputs, units, block):
    make = (lambda library: library.layers.Dense(units), (None, inputs))
    theirs, ours = (
        lambda names=names: Side(names, make, block_size=block) for names in (tfmot.sparsity.keras, dropin)
    )
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        theirs().masks_at(1)
    assert np.mean(ours().masks_at(1)[0]) == 0.5


def test_of_equal_weights_only_as_many_stay_as_were_asked_for(tfmot):
    theirs, ours = both(tfmot, "dense")
    for side in (theirs, ours):
        side.weights()[0].assign(np.full((13, 8), 0.3))
    assert theirs.masks_at(1)[0].all()
    assert np.sum(ours.masks_at(1)[0]) == 52


def test_groups_are_saved_and_follow_the_schedule(tfmot):
    schedule = {"pruning_schedule": lambda names: names.PolynomialDecay(0.0, 0.5, 0, 8, power=1, frequency=4)}
    theirs, ours = both(tfmot, "embedding", sparsity_m_by_n=(2, 4), **schedule)
    assert "sparsity_m_by_n" not in theirs.wrapper.get_config()
    copy = type(ours.wrapper).from_config(ours.wrapper.get_config())
    assert copy.pattern == ours.wrapper.pattern == tfprune.patterns.NM(2, 4)
    np.testing.assert_array_equal(theirs.masks_at(1)[0], theirs.masks_at(8)[0])
    half, whole = ours.masks_at(4)[0].mean(), ours.masks_at(8)[0].mean()
    assert 1 > half > whole


def test_a_pruned_weight_keeps_its_value_until_it_comes_back(tfmot):
    theirs, ours = both(tfmot, "dense", pruning_schedule=lambda names: Falling(names).schedule)
    for side in (theirs, ours):
        side.masks_at(1)
    before = ours.wrapper.latent("kernel")
    np.testing.assert_array_equal(before, values((13, 8), 0))
    after = [side.masks_at(2)[0] * side.weights()[0].numpy() for side in (theirs, ours)]
    assert np.count_nonzero(after[0]) == 26
    assert np.count_nonzero(after[1]) == 78


class Falling:
    """A schedule that lets weights come back."""

    def __init__(self, names):
        class Fall(names.PruningSchedule):
            def __call__(self, step):
                return True, tf.where(tf.equal(step, 1), 0.75, 0.25)

            def get_config(self):
                return {}

        self.schedule = Fall()


MIDDLES = {
    "nothing": lambda L, x: x,
    "activation": lambda L, x: L.Activation("sigmoid")(x),
    "tanh": lambda L, x: L.Activation("tanh")(x),
    "layer normalization": lambda L, x: L.LayerNormalization()(x),
    "batch normalization of rows": lambda L, x: L.BatchNormalization(axis=1)(x),
    "max pooling": lambda L, x: L.MaxPooling2D(2)(x),
    "gate": lambda L, x: L.Multiply()([x, L.GlobalAveragePooling2D(keepdims=True)(x)]),
    "sum of tensors": lambda L, x: x + L.ReLU()(x) * 2.0,
    "difference of tensors": lambda L, x: x - 0.5,
    "quotient of tensors": lambda L, x: x / 2.0,
    "3x3": lambda L, x: L.Conv2D(8, 3, padding="same")(x),
    "strided": lambda L, x: L.Conv2D(8, 1, strides=2)(x),
    "grouped": lambda L, x: L.Conv2D(8, 1, groups=2)(x),
    "bilinear": lambda L, x: L.UpSampling2D(interpolation="bilinear")(x),
    "nearest": lambda L, x: L.UpSampling2D()(x),
    "depthwise 5x5": lambda L, x: L.DepthwiseConv2D(5, padding="same")(x),
    "depthwise 5x5, padded": lambda L, x: L.DepthwiseConv2D(5, strides=2)(L.ZeroPadding2D(2)(x)),
    "depthwise 5x5, padded by 1": lambda L, x: L.DepthwiseConv2D(5)(L.ZeroPadding2D(1)(x)),
    "depthwise 3x3, padded": lambda L, x: L.DepthwiseConv2D(3, strides=2)(L.ZeroPadding2D(1)(x)),
    "depthwise 3x3, strided": lambda L, x: L.DepthwiseConv2D(3, strides=2, padding="same")(x),
    "depthwise 3x3, dilated": lambda L, x: L.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x),
    "depthwise 3x3, doubled": lambda L, x: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x),
    "depthwise 7x7": lambda L, x: L.DepthwiseConv2D(7, padding="same")(x),
}


def mobile(library, middle: str = "nothing", *, padding=1, strides: int = 2, pooling: str = "GlobalAveragePooling2D"):
    inputs = library.Input((16, 16, 3))
    L = library.layers
    x = L.Conv2D(4, 3, strides=strides, name="stem")(L.ZeroPadding2D(padding)(inputs))
    x = L.ReLU(6.0)(L.BatchNormalization()(x))
    x = L.Conv2D(8, 1, name="expand")(x)
    x = MIDDLES[middle](L, x)
    x = L.DepthwiseConv2D(3, padding="same")(x)
    x = L.Add()([x, L.Conv2D(x.shape[-1], 1, name="project")(x)])
    return library.Model(inputs, L.Dense(3)(getattr(L, pooling)()(x)))


def chain(library, *, first: int = 1):
    L = library.layers
    stack = [L.ZeroPadding2D(first), L.Conv2D(4, 3, strides=2), L.Conv2D(8, 1, name="expand"), L.ReLU()]
    return library.Sequential([library.Input((16, 16, 3)), *stack, L.GlobalAveragePooling2D(), L.Dense(2)])


def verdict(names, model) -> list[str] | None:
    policy = names.PruneForLatencyOnXNNPack()
    try:
        policy.ensure_model_supports_pruning(model)
    except ValueError:
        return None
    return [layer.name for layer in model.layers if policy.allow_pruning(layer)]


def verdicts(tfmot, make) -> tuple[list[str] | None, list[str] | None]:
    sides = ((tfmot.sparsity.keras, sys.modules["tf_keras"]), (dropin, keras))
    theirs, ours = (verdict(names, make(library)) for names, library in sides)
    return theirs, ours


@pytest.mark.parametrize("middle", first(*MIDDLES, count=8))
def test_the_policy_for_xnnpack_says_the_same_of_what_stands_in_the_middle(tfmot, middle):
    theirs, ours = verdicts(tfmot, lambda library: mobile(library, middle))
    assert ours == theirs
    if middle == "nothing":
        assert ours == ["expand", "project"]


@pytest.mark.parametrize(
    "form",
    [{"padding": 0}, {"padding": ((0, 1), (0, 1))}, {"strides": 1}, {"pooling": "GlobalMaxPooling2D"}],
    ids=str,
)
def test_the_policy_for_xnnpack_says_the_same_of_both_ends(tfmot, form):
    assert verdicts(tfmot, lambda library: mobile(library, **form)) == (None, None)


@pytest.mark.parametrize(("first", "expected"), [(1, ["expand"]), (2, None)])
def test_the_policy_for_xnnpack_says_the_same_of_sequential_models(tfmot, first, expected):
    assert verdicts(tfmot, lambda library: chain(library, first=first)) == (expected, expected)


def test_clustered_weights_are_equal_entry_by_entry(tfmot):
    weight = np.random.default_rng(0).normal(size=(30, 40)).astype("float32")

    def clustered(library, home) -> np.ndarray:
        model = library.Sequential([library.Input((30,)), library.layers.Dense(40, use_bias=False)])
        model.layers[0].kernel.assign(weight)
        start = home.CentroidInitialization.LINEAR
        model = home.cluster_weights(model, number_of_clusters=7, cluster_centroids_init=start)
        return home.strip_clustering(model).get_weights()[0]

    theirs = clustered(sys.modules["tf_keras"], tfmot.clustering.keras)
    assert len(np.unique(theirs)) == 7
    np.testing.assert_allclose(clustered(keras, dropin.clustering.keras), theirs, atol=1e-6)
