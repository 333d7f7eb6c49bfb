"""Train on four virtual CPU devices under JAX; `tests/backends/test_distribution.py` runs it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel, list_devices

import tfprune
from tfprune.schedules import Polynomial

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8)).astype("float32")
Y = RNG.normal(size=(48, 2)).astype("float32")
HIDDEN, OUT = (8, 12), (12, 2)  # shapes of the kernels


def make(**arguments) -> keras.Model:
    keras.utils.set_random_seed(1)
    stack = [layers.Dense(12, "tanh", name="hidden"), layers.Dense(2, name="out")]
    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), *stack]), **arguments)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


class Record(keras.callbacks.Callback):
    """Keep the masks of every step."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def on_train_batch_end(self, batch, logs=None):
        layers = [self.model.get_layer(name) for name in ("hidden", "out")]
        self.masks.append([np.array(layer.masks["kernel"]) for layer in layers])


def fit(model: keras.Model) -> list[list[np.ndarray]]:
    record = Record()
    pruning = tfprune.PruningCallback(Polynomial(0.75, begin=1, end=17), every=4)
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[pruning, record])
    return record.masks


def parallel(mesh: tuple[int, int]) -> ModelParallel:
    devices = DeviceMesh(mesh, ("batch", "model"), list_devices())
    layouts = LayoutMap(devices)
    layouts[".*hidden/kernel"] = (None, "model")
    layouts[".*out/kernel"] = ("model", None)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch")


def check_layout(model: keras.Model, name: str, part: tuple[int, ...]) -> None:
    """Each device holds the same part of a kernel, of its mask, and of its latent values."""
    layer = model.get_layer(name)
    beside = [each for each in layer.variables if each.path.endswith(("kernel_mask", "kernel_latent"))]
    assert len(beside) == (2 if layer.latent_values == "keep" else 1)
    for variable in [layer.layer.kernel, *beside]:
        shards = variable.value.addressable_shards
        assert len(shards) == 4 and {shard.data.shape for shard in shards} == {part}, (variable.path, shards)


def train(distribution, parts: dict[str, tuple[int, ...]], **arguments) -> None:
    alone = make(**arguments)
    expected = fit(alone)
    with distribution.scope():
        model = make(**arguments)
        received = fit(model)
        for name, part in parts.items():
            check_layout(model, name, part)
        assert len(received) == len(expected) == 24
        for here, there in zip(received, expected, strict=True):
            for mask, other in zip(here, there, strict=True):
                np.testing.assert_array_equal(mask, other)
        assert [row.sparsity for row in tfprune.sparsity_report(model).rows] == [0.75, 0.75]
        for one, other in zip(model.weights, alone.weights, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)
        save_and_strip(model, parts)


def save_and_strip(model: keras.Model, parts: dict[str, tuple[int, ...]]) -> None:
    outputs = model.predict(X, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        loaded = keras.models.load_model(Path(folder) / "model.keras")
    for name, part in parts.items():
        check_layout(loaded, name, part)
        np.testing.assert_array_equal(loaded.get_layer(name).masks["kernel"], model.get_layer(name).masks["kernel"])
    np.testing.assert_allclose(loaded.predict(X, verbose=0), outputs, atol=1e-6)
    np.testing.assert_allclose(tfprune.strip(model).predict(X, verbose=0), outputs, atol=1e-6)


if __name__ == "__main__":
    assert len(list_devices()) == 4
    whole = {"hidden": HIDDEN, "out": OUT}
    runs = {
        "data": lambda: train(DataParallel(devices=list_devices()), whole),
        "model": lambda: train(parallel((1, 4)), {"hidden": (8, 3), "out": (3, 2)}),
        "both": lambda: train(parallel((2, 2)), {"hidden": (8, 6), "out": (6, 2)}),
        "zero": lambda: train(parallel((2, 2)), {"hidden": (8, 6), "out": (6, 2)}, latent="zero"),
    }
    for name, run in runs.items():
        run()
        sys.stdout.write(f"passed: {name}\n")
