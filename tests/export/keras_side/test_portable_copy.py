"""Copies for another process: what is loaded computes what was saved, and knows the user's classes."""

import importlib
import sys

import keras
import numpy as np
import pytest

from tfprune.export.keras_side.prepare import read_copy, write_copy

layers = keras.layers
X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
MODULE = """
import keras

class Scaled(keras.layers.Layer):
    class Uniform(keras.initializers.RandomUniform):
        pass

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer=self.Uniform(0.5, 2.0))

    def call(self, inputs):
        return inputs * self.scale

def halved(x):
    return x / 2
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    (tmp_path / "module_of_the_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("module_of_the_user")
    sys.modules.pop("module_of_the_user", None)


def sequential(*stack):
    return keras.Sequential([keras.Input((4,), name="x"), *stack])


def test_classes_and_functions_of_a_module_are_imported(users_module, tmp_path):
    module = users_module
    model = sequential(module.Scaled(), layers.Dense(3, activation=module.halved), layers.Lambda(module.halved))
    things = write_copy(model, tmp_path)
    assert sorted(things) == [[module.__name__, "Scaled"], [module.__name__, "halved"]]
    np.testing.assert_array_equal(read_copy(tmp_path, things)(X), model(X))
    (tmp_path / "module_of_the_user.py").unlink()
    del sys.modules[module.__name__]
    importlib.invalidate_caches()
    with pytest.raises(
        ValueError, match=r"another process can import: .* Received: module_of_the_user\.Scaled\. Def"
    ):
        read_copy(tmp_path, things)


class Doubled(layers.Layer):
    """A layer of this module."""

    def call(self, inputs):
        return 2 * inputs


def test_what_only_this_program_knows_is_refused_before_anything_is_saved(monkeypatch, tmp_path):
    class Local(Doubled):
        pass

    def local(x):
        return x

    stacks = [
        ([Local()], r"<locals>\.Local"),
        ([layers.Dense(2, activation=local)], r"<locals>\.local"),
        ([layers.Lambda(lambda x: x + 1)], "<lambda>"),
        ([layers.TimeDistributed(Local())], r"<locals>\.Local"),
    ]
    monkeypatch.setattr(Doubled, "__module__", "__main__")
    stacks.append(([Doubled()], r"__main__\.Doubled"))
    for stack, name in stacks:
        model = sequential(layers.Reshape((2, 2)), *stack)
        with pytest.raises(
            ValueError, match=rf"Received: \S*{name}\. Define it in a module .*KERAS_BACKEND=tensorflow"
        ):
            write_copy(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_of_keras_need_no_import(tmp_path):
    model = sequential(layers.Dense(6, "relu"), layers.Dropout(0.5), layers.Dense(2, kernel_regularizer="l2"))
    assert write_copy(model, tmp_path) == []
    np.testing.assert_array_equal(read_copy(tmp_path, [])(X), model(X))
