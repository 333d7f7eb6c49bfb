"""A small trained model, data for it, and a search for its best file, here or in a process of its own."""

import functools
import sys
from contextlib import contextmanager
from unittest.mock import patch

import keras
import numpy as np

import tfprune.export.compressing.next_recipe as choice
import tfprune.export.compressing.search as searching
from tfprune.export import compress


@contextmanager
def short():
    """Let trials train for as few steps as there may be, and every second one twice as long."""
    with (
        patch.object(searching, "SHARE", 1e9),
        patch.object(searching, "EXPORTS", 0.0),
        patch.object(choice, "LONGER", 2),
    ):
        yield


@functools.cache
def made():
    """Return a trained model, and data for training, for judging and for a test."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(900, 12)).astype("float32")
    y = (x[:, :6].sum(axis=1) + x[:, 6] * x[:, 7] > 0).astype(int)
    keras.utils.set_random_seed(0)
    # Named, as files hold the names, and Keras counts on through all the tests of a process.
    shapes = {"first": (24, "relu"), "second": (24, "relu"), "last": (2, "softmax")}
    layers = [keras.layers.Dense(*shape, name=name) for name, shape in shapes.items()]
    model = keras.Sequential([keras.Input((12,), name="sample"), *layers], name="small")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:600], y[:600], epochs=15, verbose=0)
    return model, (x[:600], y[:600]), (x[600:800], y[600:800]), (x[800:], y[800:])


def search(folder, **changes):
    """Search in a folder, which gets the files."""
    model, train, validation, test = made()
    settings = {"time": 600, "max_drop": 0.06, "test_data": test, "verbose": 0, **changes}
    with short():
        return compress(model, train, validation, folder=folder, **settings)


if __name__ == "__main__":
    search(sys.argv[1], trials=int(sys.argv[2]), jobs=int(sys.argv[3]))
