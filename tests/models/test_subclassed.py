"""Subclassed models: wrapped by a copy of their class or in place, trained, saved, loaded and stripped."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfprune
from tfprune.schedules import Constant

PACKAGE = "tests.subclassed"


@keras.saving.register_keras_serializable(PACKAGE)
class Encoder(keras.Model):
    """Hold a layer and a seed, and take an argument."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, "tanh")
        self.dropout = layers.Dropout(0.3, seed=1)

    def call(self, inputs, training=None):
        return self.dropout(self.dense(inputs), training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(PACKAGE)
class Residual(layers.Layer):
    """A layer with sublayers and without `build`: it gets its weights when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5)
        self.normalization = layers.BatchNormalization()

    def call(self, inputs, training=None):
        return inputs + self.normalization(self.dense(inputs), training=training)


@keras.saving.register_keras_serializable(PACKAGE)
class Everything(keras.Model):
    """Nested models, lists, dicts, one layer under two names, a weight, a metric and a seed of its own."""

    def __init__(self, width=5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.encoder = Encoder(width, name="encoder")
        self.blocks = [Residual(), {"out": layers.Dense(3, name="out"), "answer": 42}]
        self.backbone = keras.Sequential([keras.Input((5,)), layers.Dense(5)])
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.batches = keras.metrics.Sum(name="batches")
        self.generator = keras.random.SeedGenerator(3)
        self.again = self.encoder

    def call(self, inputs, training=None):
        hidden = self.blocks[0](self.encoder(inputs["a"], training=training))
        hidden = self.backbone(hidden) + self.again(inputs["b"])
        return {"y": self.blocks[1]["out"](hidden) * self.scale}

    def answer(self):
        return self.blocks[1]["answer"]

    def get_config(self):
        return {"name": self.name, "width": self.width}


@keras.saving.register_keras_serializable(PACKAGE)
class Builds(keras.Model):
    """Create layers in `build`, and build those of `__init__` there."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second = layers.Dense(input_shape[-1])
        self.second.build((input_shape[0], 6))
        self.offset = self.add_weight(name="offset", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs):
        return self.second(self.first(inputs)) + self.offset


class Autoencoder(keras.Model):
    """Take models, have no configuration and no `call`, and train by a step of its own."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.loss_tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.loss_tracker]

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(data - self.decoder(self.encoder(data, training=True), training=True)))
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
        )
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


class NoArguments(keras.Model):
    """What a first subclassed model looks like: Keras itself cannot build it from its configuration."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(8, "relu")
        self.out = layers.Dense(1)

    def call(self, inputs):
        return self.out(self.hidden(inputs))


@keras.saving.register_keras_serializable(PACKAGE)
class AroundGraph(keras.Model):
    """A Functional subclass, with arguments of its own in its configuration, as backbones have."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((5,))
        super().__init__(inputs, layers.Dense(units, name="inside")(inputs), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def everything() -> tuple[keras.Model, dict, dict]:
    x, y = {"a": random(32, 5), "b": random(32, 5, seed=1)}, {"y": random(32, 3, seed=2)}
    model = Everything(5, name="all")
    model(x)
    model.scale.assign(1.5)
    return model, x, y


def prune(model: keras.Model, x, y, sparsity: float = 0.6) -> None:
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[tfprune.PruningCallback(Constant(sparsity))])


def test_a_wrapped_copy_has_the_class_the_names_and_the_outputs_of_the_model():
    model, x, _ = everything()
    before = model(x)["y"]
    wrapped = tfprune.wrap(model)
    assert isinstance(wrapped, Everything)
    assert wrapped is not model
    assert wrapped.answer() == 42
    assert [layer.name for layer in wrapped.layers] == [layer.name for layer in model.layers]
    assert isinstance(wrapped.encoder, Encoder)
    assert wrapped.again is wrapped.encoder
    assert isinstance(wrapped.encoder.dense, tfprune.Pruned)
    assert not isinstance(model.encoder.dense, tfprune.Pruned)
    np.testing.assert_array_equal(wrapped(x)["y"], before)
    plain = [row.path for row in tfprune.sparsity_report(model).rows]
    assert [row.path for row in tfprune.sparsity_report(wrapped).rows] == plain
    assert len(plain) == 4


@pytest.mark.programs
def test_a_wrapped_copy_trains_as_the_model_does():
    model, x, y = everything()
    wrapped = tfprune.wrap(model)
    for candidate in (model, wrapped):
        keras.utils.set_random_seed(0)
        candidate.compile("adam", "mse")
        candidate.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_array_equal(wrapped(x)["y"], model(x)["y"])


@pytest.mark.programs
def test_it_is_pruned_saved_loaded_and_goes_on_training(tmp_path):
    model, x, y = everything()
    wrapped = tfprune.wrap(model)
    prune(wrapped, x, y)
    report = tfprune.sparsity_report(wrapped)
    assert report.nnz == sum(row.size - round(0.6 * row.size) for row in report.rows)
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert isinstance(loaded, Everything)
    np.testing.assert_array_equal(loaded(x)["y"], wrapped(x)["y"])
    assert tfprune.sparsity_report(loaded) == report
    for candidate in (wrapped, loaded):
        keras.utils.set_random_seed(1)
        candidate.fit(x, y, epochs=1, shuffle=False, verbose=0)
    assert tfprune.sparsity_report(loaded) == report
    tfprune.update_masks(loaded, 0.8)
    assert tfprune.sparsity_report(loaded).sparsity > report.sparsity


def test_the_stripped_copy_is_of_the_very_class_and_loads_by_itself(tmp_path):
    model, x, y = everything()
    wrapped = tfprune.wrap(model)
    prune(wrapped, x, y)
    stripped = tfprune.strip(wrapped)
    assert type(stripped) is Everything
    assert type(stripped.encoder) is Encoder
    assert not any("Pruned" in type(layer).__name__ for layer in stripped._flatten_layers())
    np.testing.assert_array_equal(stripped(x)["y"], wrapped(x)["y"])
    assert tfprune.sparsity_report(stripped).nnz == tfprune.sparsity_report(wrapped).nnz
    stripped.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(loaded(x)["y"], wrapped(x)["y"])


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


def test_layers_created_in_build_are_wrapped(tmp_path):
    model = Builds()
    x, y = random(16, 4), random(16, 4, seed=1)
    before = model(x)
    model.offset.assign(np.ones(4))
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), before + 1)
    prune(wrapped, x, y, 0.5)
    wrapped.save(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "wrapped.keras")(x), wrapped(x))
    stripped = tfprune.strip(wrapped)
    np.testing.assert_array_equal(stripped(x), wrapped(x))
    stripped.save(tmp_path / "plain.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "plain.keras")(x), wrapped(x))


def test_a_subclassed_model_inside_a_functional_one_is_wrapped(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(Encoder(6, name="encoder")(inputs)))
    x, y = random(16, 5), random(16, 2, seed=1)
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), model(x))
    assert isinstance(wrapped.get_layer("encoder"), Encoder)
    prune(wrapped, x, y)
    assert tfprune.sparsity_report(wrapped).nnz == 12 + 5
    wrapped.save(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "wrapped.keras")(x), wrapped(x))
    stripped = tfprune.strip(wrapped)
    assert type(stripped.get_layer("encoder")) is Encoder
    np.testing.assert_array_equal(stripped(x), wrapped(x))
    stripped.save(tmp_path / "plain.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "plain.keras")(x), wrapped(x))


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


def autoencoder() -> Autoencoder:
    encoder = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)], name="encoder")
    decoder = keras.Sequential([keras.Input((3,)), layers.Dense(6)], name="decoder")
    return Autoencoder(encoder, decoder)


def test_a_model_without_a_configuration_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"have a configuration.*in_place=True"):
        tfprune.wrap(autoencoder())


def test_a_model_without_a_configuration_is_wrapped_in_place_and_trains_by_its_own_step():
    model, x = autoencoder(), random(32, 6)
    before = model.decoder(model.encoder(x))
    assert tfprune.wrap(model, in_place=True) is model
    assert type(model) is Autoencoder
    np.testing.assert_array_equal(model.decoder(model.encoder(x)), before)
    model.compile("adam")
    pruning = tfprune.PruningCallback(Constant(0.5))
    first, last = (model.fit(x, epochs=5, verbose=0, callbacks=[pruning]).history["loss"][at] for at in (0, -1))
    assert last < first
    assert tfprune.sparsity_report(model).sparsity == 0.5
    stripped = tfprune.strip(model)
    assert type(stripped) is Autoencoder
    np.testing.assert_array_equal(stripped.decoder(stripped.encoder(x)), model.decoder(model.encoder(x)))
    assert tfprune.sparsity_report(stripped).sparsity == 0.5
    with pytest.raises(ValueError, match="has none"):
        tfprune.update_masks(stripped, 0.5)


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


@pytest.mark.programs
def test_a_model_with_a_configuration_wrapped_in_place_is_saved_with_its_wrappers(tmp_path):
    model, x, y = everything()
    before = model(x)["y"]
    tfprune.wrap(model, in_place=True)
    np.testing.assert_array_equal(model(x)["y"], before)
    prune(model, x, y)
    model.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(loaded(x)["y"], model(x)["y"])
    stripped = tfprune.strip(model)
    assert type(stripped) is Everything
    np.testing.assert_array_equal(stripped(x)["y"], model(x)["y"])


@pytest.mark.programs
def test_new_layers_are_wrapped_beside_those_that_are_pruned_already():
    model, x, y = everything()
    once = tfprune.wrap(model, filters="out/")
    prune(once, x, y, 0.8)
    twice = tfprune.wrap(once)
    assert isinstance(twice, Everything)
    np.testing.assert_array_equal(twice(x)["y"], once(x)["y"])
    rows = {row.path: row.nnz for row in tfprune.sparsity_report(twice).rows}
    assert len(rows) == 4
    assert rows["out/kernel"] == 3
    np.testing.assert_array_equal(tfprune.strip(twice)(x)["y"], once(x)["y"])


def test_filters_and_allocation_find_layers_by_the_path_through_nested_models():
    model, _, _ = everything()
    wrapped = tfprune.wrap(model, filters="^encoder/|^out/")
    report = tfprune.update_masks(wrapped, 0.0, allocation={"^encoder/": 0.6})
    name = model.encoder.dense.name
    assert {row.path: row.nnz for row in report.rows} == {f"encoder/{name}/kernel": 10, "out/kernel": 15}
    assert {skipped.layer for skipped in report.skipped} >= {model.blocks[0].name}


def test_weights_tied_by_an_attribute_stay_tied_and_masked():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Tied(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.embedding = layers.Embedding(12, 4, name="embedding")

        def call(self, inputs):
            return self.embedding(inputs) @ ops.transpose(self.embedding.embeddings)

        def get_config(self):
            return {"name": self.name}

    model, x, y = Tied(), np.arange(24).reshape(8, 3) % 12, random(8, 3, 12)
    before = model(x)
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), before)
    prune(wrapped, x, y, 0.5)
    kernel = wrapped.embedding.layer.embeddings.numpy()
    np.testing.assert_array_equal(kernel != 0, wrapped.embedding.masks["embeddings"].numpy() != 0)
    np.testing.assert_allclose(wrapped(x), kernel[x] @ kernel.T, atol=1e-6)
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), wrapped(x))


def test_functions_over_the_model_itself_call_the_wrapped_layers():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Bound(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(4, name="dense")
            self.steps = (lambda inputs: self.dense(inputs), self.shift)

        def shift(self, inputs):
            return self.dense(inputs) + 1

        def call(self, inputs):
            return self.steps[0](inputs) + self.steps[1](inputs)

        def get_config(self):
            return {"name": self.name}

    model, x = Bound(), random(8, 4)
    before = model(x)
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), before)
    prune(wrapped, x, before, 0.5)
    kernel, bias = wrapped.dense.layer.kernel.numpy(), wrapped.dense.layer.bias.numpy()
    assert np.count_nonzero(kernel) == 8
    np.testing.assert_allclose(wrapped(x), 2 * (x @ kernel + bias) + 1, atol=1e-5)
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), wrapped(x))


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


@keras.saving.register_keras_serializable(PACKAGE)
class Composed(keras.Model):
    """Take a model, and take its own configuration apart to build it."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.encoder(inputs))

    def get_config(self):
        return {"encoder": keras.saving.serialize_keras_object(self.encoder), "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("encoder")), **config)


def test_a_from_config_that_takes_its_argument_apart_is_called_again_and_again(tmp_path):
    model, x = Composed(keras.Sequential([keras.Input((5,)), layers.Dense(4, name="inner")])), random(4, 5)
    model(x)
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), wrapped(x))
    wrapped.save(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "wrapped.keras")(x), wrapped(x))


@keras.saving.register_keras_serializable(PACKAGE)
class FeedForward(layers.Layer):
    """Build layers in `build`, so that a copy is built, and its layers numbered, before it is wrapped."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(8), layers.Dense(5)

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], 8))

    def call(self, inputs):
        return self.down(self.up(inputs))


def test_layers_inside_keep_their_names_in_copies_that_are_built_at_once(tmp_path):
    model, x = (
        keras.Sequential([keras.Input((5,)), FeedForward(name="feed"), FeedForward(name="forward")]),
        random(4, 5),
    )
    paths = [row.path for row in tfprune.sparsity_report(model).rows]
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), model(x))
    assert [row.path for row in tfprune.sparsity_report(wrapped).rows] == paths
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert [row.path for row in tfprune.sparsity_report(loaded).rows] == paths


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
