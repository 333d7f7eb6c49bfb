"""Subclassed models: wrapped by a copy of their class or in place, trained, saved, loaded and stripped."""

from __future__ import annotations

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
    """A class around a graph, with arguments of its own in its configuration, as backbones have."""

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


def test_a_wrapped_copy_trains_as_the_model_does():
    model, x, y = everything()
    wrapped = tfprune.wrap(model)
    for one in (model, wrapped):
        keras.utils.set_random_seed(0)
        one.compile("adam", "mse")
        one.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_array_equal(wrapped(x)["y"], model(x)["y"])


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
    for one in (wrapped, loaded):
        keras.utils.set_random_seed(1)
        one.fit(x, y, epochs=1, shuffle=False, verbose=0)
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


def test_a_stripped_file_loads_where_tfprune_is_not_imported(tmp_path):
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
    make = """
        import keras, numpy as np, mine, tfprune
        model = mine.Mine(2)
        model(np.ones((1, 4)))
        wrapped = tfprune.wrap(model)
        tfprune.update_masks(wrapped, 0.5)
        wrapped.save("wrapped.keras")
        tfprune.strip(wrapped).save("plain.keras")
        np.save("y.npy", wrapped(np.ones((1, 4))))
    """
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
    for code in (make, load):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]


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


def test_a_class_around_a_graph_by_itself_is_refused_with_the_way_out():
    model = AroundGraph(7)
    with pytest.raises(ValueError, match=r"built around a graph. Pass that graph, keras.Model\(model.inputs"):
        tfprune.wrap(model)
    tfprune.wrap(keras.Model(model.inputs, model.outputs))


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


@pytest.mark.parametrize("model", [keras.Sequential([keras.Input((3,)), layers.Dense(2)]), layers.Dense(2)])
def test_in_place_is_for_subclassed_models(model):
    with pytest.raises(ValueError, match=r"subclassed model with `in_place=True`. Received: (Sequential|Dense)"):
        tfprune.wrap(model, in_place=True)


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
    assert [(one.layer, "not built" in one.reason) for one in report.skipped] == [("spare", True)]


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
    assert [(one.layer, "the model itself" in one.reason) for one in report.skipped] == [("bare", True)]
