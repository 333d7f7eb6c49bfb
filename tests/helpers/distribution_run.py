"""Train on two virtual CPU devices and check what the replicas hold; `test_distribution.py` runs it."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfprune
from tfprune.schedules import Polynomial

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 10)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")


def make() -> keras.Model:
    keras.utils.set_random_seed(1)
    stack = [layers.Dense(10, "tanh", name="hidden"), layers.Dense(2, name="out")]
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), *stack]))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


class Record(keras.callbacks.Callback):
    """Keep the masks of every step, as each replica holds them."""

    def __init__(self, strategy):
        super().__init__()
        self.strategy, self.masks = strategy, []

    def on_train_batch_end(self, batch, logs=None):
        self.masks.append([copies(self.strategy, mask) for mask in masks_of(self.model)])


def masks_of(model) -> list[keras.Variable]:
    return [model.get_layer(name).masks["kernel"] for name in ("hidden", "out")]


def copies(strategy, variable: keras.Variable) -> list[np.ndarray]:
    """Return the values of a variable on every replica."""
    return [part.numpy() for part in strategy.experimental_local_results(variable.value)]


def fit(model, *callbacks) -> None:
    pruning = tfprune.PruningCallback(Polynomial(0.8, begin=1, end=17), every=4)
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[pruning, *callbacks])


def fit_on_two_replicas(strategy) -> None:
    with strategy.scope():
        model = make()
    record = Record(strategy)
    fit(model, record)
    alone, single = make(), Record(tf.distribute.get_strategy())
    fit(alone, single)
    assert len(record.masks) == len(single.masks) == 20
    for here, there in zip(record.masks, single.masks, strict=True):
        for mask, expected in zip(here, there, strict=True):
            assert len(mask) == 2 and len(expected) == 1
            for replica in mask:
                np.testing.assert_array_equal(replica, expected[0])
    for one, other in zip(model.weights, alone.weights, strict=True):
        for replica in copies(strategy, one):
            np.testing.assert_allclose(replica, copies(strategy, other)[0], atol=1e-5)
    assert [row.sparsity for row in tfprune.sparsity_report(model).rows] == [0.8, 0.8]
    for slot in model.optimizer.variables:
        if "hidden_kernel" in slot.path:
            for replica, mask in zip(copies(strategy, slot), record.masks[-1][0], strict=True):
                assert np.count_nonzero(replica[mask == 0]) == 0 < np.count_nonzero(replica)
    stripped = tfprune.strip(model)
    np.testing.assert_allclose(stripped.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


def update_inside_and_outside_the_scope(strategy) -> None:
    with strategy.scope():
        inside, outside = make(), make()
        tfprune.update_masks(inside, 0.6)
    tfprune.update_masks(outside, 0.6)
    for one, other in zip(masks_of(inside), masks_of(outside), strict=True):
        first, second = copies(strategy, one)
        np.testing.assert_array_equal(first, second)
        for replica in copies(strategy, other):
            np.testing.assert_array_equal(replica, first)
        assert np.count_nonzero(first == 0) == round(0.6 * first.size)


def loop_of_ones_own(strategy) -> None:
    with strategy.scope():
        model, optimizer = make(), keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return loss

        return strategy.reduce("MEAN", strategy.run(replica, args=(x, y)), axis=None)

    for count in range(6):
        step(tf.constant(X), tf.constant(Y))
        if count in (1, 3):
            tfprune.update_masks(model, 0.2 * count, optimizer=optimizer)
    layer = model.get_layer("hidden")
    masks, kernels = copies(strategy, layer.masks["kernel"]), copies(strategy, layer.layer.kernel)
    assert len(masks) == 2 and np.count_nonzero(masks[0] == 0) == 60
    for mask, kernel in zip(masks, kernels, strict=True):
        np.testing.assert_array_equal(mask, masks[0])
        np.testing.assert_array_equal(kernel, kernels[0])
        assert np.count_nonzero(kernel[mask == 0]) == 0 < np.count_nonzero(kernel)


def latent_values_stay_on_the_host(_) -> None:
    alone = make()
    fit(alone)
    with tf.device("CPU:1"):  # in the place of an accelerator
        model = make()
        fit(model)
    for layer in (model.get_layer("hidden"), model.get_layer("out")):
        of_wrapper = layer.saved_variables()
        devices = {name: variable.value.device[-5:] for name, variable in of_wrapper.items()}
        assert devices == {"0_kernel_mask": "CPU:1", "0_kernel_latent": "CPU:0"}, devices
        assert layer.layer.kernel.value.device.endswith("CPU:1")
        assert np.count_nonzero(of_wrapper["0_kernel_latent"]) > 0
    for one, other in zip(model.weights, alone.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert mirrored.num_replicas_in_sync == 2
    for check in (
        fit_on_two_replicas,
        update_inside_and_outside_the_scope,
        loop_of_ones_own,
        latent_values_stay_on_the_host,
    ):
        check(mirrored)
        print("passed:", check.__name__)
