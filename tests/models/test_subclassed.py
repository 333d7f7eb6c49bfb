"""Subclassed models: what `wrap` does with their layers, and what it refuses; test_kinds.py has each kind of them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers, ops
from kinds import EVERYTHING, AroundGraph, Encoder, NoArguments, autoencoder, everything, random

import tfprune
from tfprune.schedules import Constant

PACKAGE = "tests.subclassed"


def prune(model: keras.Model, x, y, sparsity: float = 0.6) -> None:
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[tfprune.PruningCallback(Constant(sparsity))])


@pytest.mark.programs
def test_a_wrapped_copy_trains_as_the_model_does():
    model, x, y = everything(), EVERYTHING, {"y": random(8, 3, seed=2)}
    wrapped = tfprune.wrap(model)
    for candidate in (model, wrapped):
        keras.utils.set_random_seed(0)
        candidate.compile("adam", "mse")
        candidate.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_array_equal(wrapped(x)["y"], model(x)["y"])


@pytest.mark.programs
def test_a_stripped_file_loads_where_tfprune_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import keras
            @keras.saving.register_keras_serializable("mine")
            class Mine(keras.Model):
                def __init__(self, units=3, **kwargs):
                    super().__init__(**kwargs)
                    self.units, self.parts = units, [keras.layers.Dense(8), keras.layers.Dense(units)]
                def call(self, inputs):
                    return self.parts[1](self.parts[0](inputs))
                def get_config(self):
                    return {**super().get_config(), "units": self.units}
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test
    model = importlib.import_module("mine").Mine(2)
    model(np.ones((1, 4)))
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "wrapped.keras")
    tfprune.strip(wrapped).save(tmp_path / "plain.keras")
    np.save(tmp_path / "y.npy", wrapped(np.ones((1, 4))))
    load = """
        import sys, keras, numpy as np, mine
        assert "tfprune" not in sys.modules
        model = keras.models.load_model("plain.keras")
        np.testing.assert_array_equal(model(np.ones((1, 4))), np.load("y.npy"))
        import tfprune
        wrapped = keras.models.load_model("wrapped.keras")
        assert isinstance(wrapped, mine.Mine)
        assert tfprune.sparsity_report(wrapped).sparsity == 0.5
        np.testing.assert_array_equal(wrapped(np.ones((1, 4))), np.load("y.npy"))
    """
    command = [sys.executable, "-c", textwrap.dedent(load)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_keras_exports_the_copies_once_they_were_called(tmp_path):
    model, x = Encoder(4), random(2, 5)
    model(x)
    wrapped = tfprune.wrap(model)
    for name, copy in (("wrapped", wrapped), ("stripped", tfprune.strip(wrapped))):
        copy(x)
        copy.export(tmp_path / name, verbose=False)
        assert (tmp_path / name / "saved_model.pb").is_file()


def test_a_class_around_a_graph_is_wrapped_inside_another_model():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(AroundGraph(7, name="backbone")(inputs)))
    wrapped = tfprune.wrap(model)
    x = random(4, 5)
    np.testing.assert_array_equal(wrapped(x), model(x))
    assert [row.path for row in tfprune.sparsity_report(wrapped).rows] == ["backbone/inside/kernel", "head/kernel"]
    tfprune.update_masks(wrapped, 0.5)
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), wrapped(x))


def test_a_class_around_a_graph_comes_back_as_the_functional_model_that_it_is(recwarn):
    model = AroundGraph(7)
    with pytest.warns(UserWarning, match=r"plain Functional model, not of class AroundGraph. To take the zeros back"):
        wrapped = tfprune.wrap(model)
    assert type(wrapped) is keras.Model(model.input, model.output).__class__
    x = random(4, 5)
    np.testing.assert_array_equal(wrapped(x), model(x))
    tfprune.update_masks(wrapped, 0.5)
    recwarn.clear()
    model.set_weights(tfprune.strip(wrapped).get_weights())  # as the warning says
    np.testing.assert_array_equal(model(x), wrapped(x))
    assert not recwarn.list
    stripped = tfprune.strip(model)
    np.testing.assert_array_equal(stripped(x), model(x))


def test_a_functional_subclass_whose_call_does_more_is_refused():
    class Twice(AroundGraph):
        def call(self, inputs):
            return 2 * super().call(inputs)

    with pytest.raises(ValueError, match=r"`call` does more than call its graph. Pass that graph, keras.Model\("):
        tfprune.wrap(Twice(7))


def test_a_model_without_a_configuration_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"have a configuration.*in_place=True"):
        tfprune.wrap(autoencoder())


class Twins(keras.Model):
    """A model of two layers of one name."""

    def __init__(self):
        super().__init__()
        self.one, self.other = layers.Dense(4, name="same"), layers.Dense(4, name="same")

    def call(self, x):
        return self.other(self.one(x))


class HeldInASet(keras.Model):
    """A model whose layers can be found, but not replaced."""

    def __init__(self):
        super().__init__()
        self.parts = {layers.Dense(4)}

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Around(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, kernel_constraint="max_norm", kernel_regularizer="orthogonal_regularizer")
        self.rest = HeldInASet()

    def call(self, x):
        return self.rest(self.first(x))


@pytest.mark.parametrize("in_place", [False, True])
def test_two_weights_of_one_path_are_refused_before_anything_is_wrapped(in_place):
    model = Twins()
    model(random(2, 4))
    with pytest.raises(ValueError, match="two weights called same/kernel"):
        tfprune.wrap(model, in_place=in_place)
    assert type(model.one) is layers.Dense


def test_a_model_that_cannot_be_wrapped_in_place_is_left_as_it_was():
    model = Around()
    model(random(2, 4))
    kernel = model.first.kernel
    constraint, regularizer = kernel.constraint, kernel.regularizer
    with pytest.raises(ValueError, match="Hold them in one of these"):
        tfprune.wrap(model, in_place=True)
    assert (kernel.constraint, kernel.regularizer) == (constraint, regularizer)
    with pytest.raises(ValueError, match="cannot take the pattern"):  # found out at the last layer
        tfprune.wrap(autoencoder(), in_place=True, pattern=tfprune.patterns.NM(7, 8), filters=".")


def test_a_trained_and_compiled_model_is_wrapped_in_place():
    model, x, y = NoArguments(), random(32, 4), random(32, 1, seed=1)
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0)
    before = model.predict(x, verbose=0)
    with pytest.raises(ValueError, match="in_place=True"):
        tfprune.wrap(model)
    tfprune.wrap(model, in_place=True)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    prune(model, x, y, 0.75)
    assert tfprune.sparsity_report(model).nnz == 8 + 2
    np.testing.assert_array_equal(tfprune.strip(model)(x), model(x))
    names = [weight.path for weight in model.trainable_weights]
    assert len(names) == 4


def test_weights_of_a_model_wrapped_in_place_are_saved_and_loaded(tmp_path):
    x, y = random(32, 4), random(32, 1, seed=1)
    models = []
    for _ in range(2):
        model = NoArguments()
        model(x)
        models.append(tfprune.wrap(model, in_place=True))
    prune(models[0], x, y, 0.5)
    models[0].save_weights(tmp_path / "some.weights.h5")
    models[1].load_weights(tmp_path / "some.weights.h5")
    np.testing.assert_array_equal(models[1](x), models[0](x))
    assert tfprune.sparsity_report(models[1]).nnz == 16 + 4


def test_filters_and_allocation_find_layers_by_the_path_through_nested_models():
    model = everything()
    wrapped = tfprune.wrap(model, filters="^encoder/|^out/")
    report = tfprune.update_masks(wrapped, 0.0, allocation={"^encoder/": 0.6})
    name = model.encoder.dense.name
    assert {row.path: row.nnz for row in report.rows} == {f"encoder/{name}/kernel": 10, "out/kernel": 15}
    assert {skipped.layer for skipped in report.skipped} >= {model.blocks[0].name}


def test_a_layer_that_two_models_hold_is_refused_and_named():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Shares(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.encoder = Encoder(4, name="encoder")
            self.tied = self.encoder.dense

        def call(self, inputs):
            return self.encoder(inputs) + self.tied(inputs)

        def get_config(self):
            return {"name": self.name}

    model = Shares(name="shares")
    model(random(2, 4))
    for in_place in (False, True):
        with pytest.raises(ValueError, match="which both '(shares|encoder)' and '(shares|encoder)' hold"):
            tfprune.wrap(model, in_place=in_place)
    assert type(model.tied) is layers.Dense


def test_the_stripped_copy_of_a_model_without_a_configuration_has_variables_of_its_own():
    class Scaled(NoArguments):
        def __init__(self):
            super().__init__()
            self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

        def call(self, inputs):
            return super().call(inputs) * self.scale

    model, x = Scaled(), random(8, 4)
    model(x)
    model.scale.assign(2.0)
    stripped = tfprune.strip(tfprune.wrap(model, in_place=True))
    before = model(x)
    np.testing.assert_array_equal(stripped(x), before)
    assert len(stripped.trainable_variables) == 5
    stripped.scale.assign(3.0)
    np.testing.assert_array_equal(model(x), before)
    np.testing.assert_allclose(stripped(x), before * 1.5, rtol=1e-6)


def test_an_unbuilt_model_is_refused_and_says_to_call_it():
    with pytest.raises(ValueError, match="call the model on a batch first"):
        tfprune.wrap(Encoder())


def test_a_layer_that_was_never_called_is_reported():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Spare(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.used, self.spare = layers.Dense(3, name="used"), layers.Dense(3, name="spare")

        def call(self, inputs):
            return self.used(inputs)

        def get_config(self):
            return {"name": self.name}

    model = Spare()
    model(random(2, 4))
    report = tfprune.sparsity_report(tfprune.wrap(model))
    assert [row.path for row in report.rows] == ["used/kernel"]
    assert [(skipped.layer, "not built" in skipped.reason) for skipped in report.skipped] == [("spare", True)]


def test_code_that_creates_wrappers_cannot_be_stripped_and_says_what_to_do():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Wrapping(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = tfprune.Pruned(layers.Dense(3))

        def call(self, inputs):
            return self.dense(inputs)

        def get_config(self):
            return {"name": self.name}

    model = Wrapping()
    model(random(2, 3))
    tfprune.update_masks(model, 0.5)
    with pytest.raises(ValueError, match=r"code of Wrapping to create plain layers.*tfprune.wrap\(model\)"):
        tfprune.strip(model)


def test_a_configuration_that_gives_other_layers_is_refused():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Forgetful(keras.Model):
        def __init__(self, depth=1, **kwargs):
            super().__init__(**kwargs)
            self.stack = [layers.Dense(3) for _ in range(depth)]

        def call(self, inputs):
            for layer in self.stack:
                inputs = layer(inputs)
            return inputs

        def get_config(self):
            return {"name": self.name}

    model = Forgetful(2)
    model(random(2, 3))
    with pytest.raises(ValueError, match=r"hold the same layers.*these differ: stack.1"):
        tfprune.wrap(model)


def test_a_kernel_of_the_model_itself_is_reported_as_left_alone():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Bare(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3)

        def build(self, input_shape):
            self.dense.build(input_shape)
            self.kernel = self.add_weight(name="kernel", shape=(3, 2))

        def call(self, inputs):
            return self.dense(inputs) @ self.kernel

        def get_config(self):
            return {"name": self.name}

    model = Bare(name="bare")
    model(random(2, 4))
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(random(2, 4)), model(random(2, 4)))
    report = tfprune.sparsity_report(wrapped)
    assert [row.path for row in report.rows] == [f"{model.dense.name}/kernel"]
    assert [(skipped.layer, "the model itself" in skipped.reason) for skipped in report.skipped] == [("bare", True)]


class Adversaries(keras.Model):
    """Train two models in turn, each with its optimizer; the one of `compile` stays unused."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def compile(self, first_optimizer, second_optimizer):
        super().compile()
        self.first_optimizer, self.second_optimizer = first_optimizer, second_optimizer

    def train_step(self, data):
        import tensorflow as tf

        losses = {}
        for name in ("first", "second"):
            part, optimizer = getattr(self, name), getattr(self, f"{name}_optimizer")
            with tf.GradientTape() as tape:
                losses[name] = ops.mean(ops.square(part(data, training=True) - 1.0))
            variables = part.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(losses[name], variables), variables, strict=True))
        return losses


def test_a_model_with_two_optimizers_is_pruned_on_schedule_and_stays_sparse():
    first, second = (keras.Sequential([keras.Input((6,)), layers.Dense(6)], name=name) for name in ("one", "two"))
    model, x = tfprune.wrap(Adversaries(first, second), in_place=True), random(32, 6)
    model.compile(keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9))
    model.fit(x, batch_size=4, verbose=0)
    tfprune.update_masks(model, 0.5)
    model.fit(x, batch_size=4, verbose=0)
    kernels = [part.layers[0].layer.kernel.numpy() for part in (model.first, model.second)]
    assert [np.count_nonzero(kernel) for kernel in kernels] == [18, 18]
    schedule = tfprune.schedules.Polynomial(0.75, begin=16, initial=0.5, end=24)
    model.fit(x, batch_size=4, verbose=0, callbacks=[tfprune.PruningCallback(schedule, every=2)])
    assert tfprune.sparsity_report(model).sparsity == 0.75


def test_adapted_vocabularies_lambdas_and_masking_are_kept():
    factor = 3.0

    @keras.saving.register_keras_serializable(PACKAGE)
    class Reads(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.supports_masking = True
            self.lookup = layers.StringLookup(vocabulary=["a", "b"])
            self.embedding = layers.Embedding(4, 6, mask_zero=True)
            self.times = layers.Lambda(lambda value: value * factor)
            self.lstm = layers.LSTM(3)

        def call(self, inputs):
            return self.lstm(self.times(self.embedding(self.lookup(inputs))))

        def get_config(self):
            return {"name": self.name}

    import tensorflow as tf

    model, x = Reads(), tf.constant([["a", "b"], ["b", "c"]])
    model.lookup.set_vocabulary(["b", "c"])
    before = model(x)
    wrapped = tfprune.wrap(model)
    assert wrapped.supports_masking
    np.testing.assert_array_equal(wrapped(x), before)
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), before)


def test_layers_in_a_set_are_refused_and_a_namedtuple_stays_one():
    from collections import namedtuple

    Pair = namedtuple("Pair", "left right")

    @keras.saving.register_keras_serializable(PACKAGE)
    class Pairs(keras.Model):
        def __init__(self, kind="tuple", **kwargs):
            super().__init__(**kwargs)
            self.kind, parts = kind, (layers.Dense(3, name="left"), layers.Dense(3, name="right"))
            self.pair = set(parts) if kind == "set" else Pair(*parts)

        def call(self, inputs):
            return sum(layer(inputs) for layer in self.pair)

        def get_config(self):
            return {"name": self.name, "kind": self.kind}

    model, x = Pairs("tuple"), random(2, 3)
    model(x)
    wrapped = tfprune.wrap(model)
    assert isinstance(wrapped.pair.left, tfprune.Pruned)
    np.testing.assert_array_equal(wrapped(x), model(x))
    model = Pairs("set")
    model(x)
    with pytest.raises(ValueError, match="in attributes, or in lists, tuples and dicts"):
        tfprune.wrap(model)
