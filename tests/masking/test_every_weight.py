"""Every weight is masked or named; one that several layers hold is masked once; what replaces weights is refused."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops
from tiers import first

import tfprune
from tfprune.schedules import Constant

PACKAGE = "tests.every_weight"


@pytest.fixture(autouse=True)
def uncollected(monkeypatch):
    """Keras collects garbage after each weight that `quantize` replaces, a third of a second beside other tests."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@keras.saving.register_keras_serializable(PACKAGE)
class Experts(layers.Layer):
    """Every expert of every input, weighted by a router, as mixtures of experts compute them."""

    def build(self, shape):
        self.up_proj = self.add_weight(name="up_proj", shape=(3, shape[-1], 8))
        self.up_bias = self.add_weight(name="up_proj_bias", shape=(3, 8))
        self.down = self.add_weight(name="expert_output_dense", shape=(3, 8, shape[-1]))
        self.router = layers.Dense(3, "softmax", name="router")
        self.router.build(shape)
        self.filter = self.add_weight(name="conv1d_kernel", shape=(shape[-1], 2))
        self.table = self.add_weight(name="table", shape=(4, 5))

    def call(self, inputs):
        hidden = ops.relu(ops.einsum("bi,eio->beo", inputs, self.up_proj) + self.up_bias)
        outputs = ops.einsum("bei,eio->beo", hidden, self.down)
        return ops.einsum("beo,be->bo", outputs, self.router(inputs))


def test_kernels_of_experts_are_masked_and_what_is_not_is_named_with_its_size():
    model = keras.Sequential([keras.Input((4,)), Experts(name="experts")])
    wrapped = tfprune.wrap(model)
    report = tfprune.update_masks(wrapped, 0.5)
    shapes = {row.path: row.shape for row in report.rows}
    assert shapes == {
        "experts/up_proj": (3, 4, 8),
        "experts/expert_output_dense": (3, 8, 4),
        "experts/router/kernel": (4, 3),
    }
    (skipped,) = tfprune.sparsity_report(wrapped).skipped
    assert skipped.layer == "experts"
    assert "conv1d_kernel, table of 28 parameters" in skipped.reason
    layer, x = tfprune.strip(wrapped).get_layer("experts"), np.ones((2, 4), "float32")
    up, bias, down, filters, table, kernel, offset = layer.get_weights()
    assert [np.mean(weight == 0) for weight in (up, down, filters)] == [0.5, 0.5, 0]
    gates = np.exp(x @ kernel + offset)
    gates /= gates.sum(-1, keepdims=True)
    each = np.stack([np.maximum(x @ up[expert] + bias[expert], 0) @ down[expert] for expert in range(3)], axis=1)
    np.testing.assert_allclose(wrapped(x), np.einsum("beo,be->bo", each, gates), rtol=1e-5)


def test_a_pattern_ranks_the_inputs_of_each_output_of_each_expert():
    model = keras.Sequential([keras.Input((4,)), Experts(name="experts")])
    wrapped = tfprune.wrap(model, pattern=tfprune.patterns.NM(2, 4), filters="up_proj")
    tfprune.update_masks(wrapped, 0.5)
    (mask,) = wrapped.get_layer("experts").masks.values()
    np.testing.assert_array_equal(np.sum(mask, axis=1), np.full((3, 8), 2))


@keras.saving.register_keras_serializable(PACKAGE)
class Encoder(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return ops.tanh(self.dense(inputs))


@keras.saving.register_keras_serializable(PACKAGE)
class Decoder(layers.Layer):
    """Hold a layer of the encoder, and one of its own."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.out = encoder, layers.Dense(4, name="out")

    def build(self, shape):
        self.out.build(shape)

    def call(self, inputs):
        return self.out(self.encoder(inputs))


@keras.saving.register_keras_serializable(PACKAGE)
class Shares(keras.Model):
    """A Functional subclass in which one layer stands, and is held by another."""

    def __init__(self, **kwargs):
        inputs, encoder = keras.Input((4,)), Encoder(name="encoder")
        encoder.build((None, 4))
        super().__init__(inputs, encoder(Decoder(encoder, name="decoder")(inputs)), **kwargs)

    def sizes(self):
        return [weight.shape for weight in self.weights]

    def get_config(self):
        return {"name": self.name}


def test_a_weight_that_two_layers_hold_is_masked_once_and_trains_sparse_in_both(tmp_path):
    model, x = Shares(), np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    wrapped = tfprune.wrap(model)
    paths = {row.path for row in tfprune.sparsity_report(wrapped).rows}
    assert paths == {"encoder/dense/kernel", "decoder/out/kernel"}
    tfprune.update_masks(wrapped, 0.5)
    wrapped.compile(keras.optimizers.SGD(0.1), "mse")
    wrapped.fit(x, x, epochs=2, verbose=0)
    kernel = wrapped.get_layer("encoder").layer.dense.kernel
    assert np.count_nonzero(kernel) == 8
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), wrapped(x))
    wrapped.save(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "wrapped.keras")(x), wrapped(x))


def test_weights_of_the_model_itself_and_beside_a_wrapper_inside_are_named():
    class Own(keras.Model):
        def build(self, shape):
            self.table = self.add_weight(name="table", shape=(shape[-1], 5))
            self.mixer = self.add_weight(name="mixer_kernel", shape=(5, 2))

        def call(self, inputs):
            return inputs @ self.table @ self.mixer

    class Outer(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.free = tfprune.Pruned(layers.Dense(4, name="inner")), layers.Dense(4, name="free")

        def build(self, shape):
            self.inner.build(shape)
            self.free.build(shape)
            self.own = self.add_weight(name="own", shape=(4, 4))

        def call(self, inputs):
            return self.free(inputs) + self.inner(inputs) @ self.own

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Own(name="model")(Outer(name="outer")(inputs)))
    report = tfprune.sparsity_report(model)
    assert [row.path for row in report.rows] == ["outer/inner/kernel"]
    assert [(skipped.layer, skipped.reason.partition(":")[0]) for skipped in report.skipped] == [
        ("outer", "free/kernel left out by `filters` or by the pattern"),
        ("outer", "no rule for Outer, own of 16 parameters"),
        ("model", "table, mixer_kernel of 30 parameters"),
    ]


def dense_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, name="a"), layers.Dense(4, name="b")])


X = np.random.default_rng(1).normal(size=(16, 6)).astype("float32")


@pytest.mark.programs
def test_quantize_is_refused_until_the_model_is_stripped(tmp_path):
    wrapped = tfprune.wrap(dense_model())
    tfprune.update_masks(wrapped, 0.5)
    before = wrapped(X)
    wrapped.save(tmp_path / "wrapped.keras")
    for candidate in (wrapped, keras.models.load_model(tmp_path / "wrapped.keras")):
        with pytest.raises(ValueError, match=r"`quantize`.*'a'.*Strip first: tfprune.strip\(model\).quantize"):
            candidate.quantize("int8")
        np.testing.assert_array_equal(candidate(X), before)
    stripped = tfprune.strip(wrapped)
    stripped.quantize("int8")
    assert np.mean(np.asarray(stripped.get_layer("a").get_weights()[0]) == 0) >= 0.5
    np.testing.assert_allclose(stripped(X), before, atol=0.1)


def test_a_kernel_that_is_quantized_is_named_as_such():
    inputs = keras.Input((6,))
    first = layers.EinsumDense("bi,iho->bho", (2, 4), name="a")  # whose scales have four axes
    model = keras.Model(inputs, layers.Dense(4, name="b")(first(inputs)))
    model.quantize("int8", filters="^a$")
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    (skipped,) = tfprune.sparsity_report(wrapped).skipped
    assert (skipped.layer, skipped.reason.partition(",")[0]) == ("a", "kernel of 48 parameters: quantized")
    np.testing.assert_array_equal(tfprune.strip(wrapped)(X), wrapped(X))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("filters", first(None, "a", lambda layer: layer.name == "a"))
def test_wrap_says_that_keras_has_quantized_the_model_already(mode, filters):
    model = dense_model()
    model.quantize(mode)
    said = rf"keras\.Model\.quantize has quantized 'a' to {mode} already\. Take the model from before that call\."
    with pytest.raises(ValueError, match=said) as caught:
        tfprune.wrap(model, filters=filters)
    assert "register_prunable" not in str(caught.value)
    with pytest.raises(ValueError, match=said.replace("'a'", "'b'")):
        tfprune.wrap(model.get_layer("b"))


def test_a_filter_for_a_bias_blames_no_other_layer_that_is_quantized():
    model = dense_model()
    model.quantize("int8", filters="^a$")
    with pytest.raises(ValueError, match=r"It is found in b/bias: biases and"):
        tfprune.wrap(model, filters="b/bias")
    with pytest.raises(
        ValueError, match=r"It is found in a/kernel: keras\.Model\.quantize has quantized 'a' to int8"
    ):
        tfprune.wrap(model, filters="a/kernel")


def test_nothing_is_quantized_before_the_refusal_whatever_comes_first():
    wrapped = tfprune.wrap(dense_model(), filters="b")
    inner = keras.Sequential([keras.Input((6,)), wrapped], name="inner")
    for candidate in (wrapped, tfprune.wrap(keras.Model(inner.inputs, inner(inner.inputs[0])), filters="b")):
        for filters in (None, "a", lambda layer: layer.name == "b"):
            with pytest.raises(ValueError, match=r"model '.*', where weights of '.*b' are under masks.*Strip first"):
                candidate.quantize("int8", filters=filters)
        assert [weight.dtype for weight in candidate.trainable_weights] == ["float32"] * 4


@keras.saving.register_keras_serializable(PACKAGE)
class Backbone(keras.Model):
    """Freeze all layers before one is given factors, as backbones of KerasHub do."""

    def __init__(self, **kwargs):
        inputs = keras.Input((6,))
        super().__init__(inputs, layers.Dense(4, name="b")(layers.Dense(8, name="a")(inputs)), **kwargs)

    def enable_lora(self, rank):
        for layer in self.layers:
            layer.trainable = False
            layer.trainable = layer.name == "b"
        self.get_layer("b").enable_lora(rank)

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable(PACKAGE)
class ByCode(keras.Model):
    """Call its layers itself, and do the same."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = layers.Dense(8, name="a"), layers.Dense(4, name="b")

    def call(self, inputs):
        return self.b(self.a(inputs))

    def enable_lora(self, rank):
        self.a.trainable = False
        self.b.enable_lora(rank)


@pytest.mark.parametrize("kind", [Backbone, ByCode])
@pytest.mark.parametrize("in_place", [False, True])
def test_nothing_is_frozen_before_lora_is_refused_and_nothing_is_refused_after_strip(kind, in_place, tmp_path):
    model = kind()
    model(X)
    wrapped = tfprune.wrap(model, filters="b", in_place=in_place)
    tfprune.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "wrapped.keras")
    for candidate in (wrapped, keras.models.load_model(tmp_path / "wrapped.keras")):
        for call, argument in ((candidate.enable_lora, 2), (candidate.quantize, "int8")):
            with pytest.raises(ValueError, match="where weights of 'b' are under masks.*Strip first"):
                call(argument)
        assert len(candidate.trainable_weights) == 4
        stripped = tfprune.strip(candidate)
        np.testing.assert_array_equal(stripped(X), candidate(X))
        stripped.enable_lora(2)
        assert any(weight.name == "lora_kernel_a" for weight in stripped.trainable_weights)


def test_lora_is_refused_on_masked_weights_and_works_after_strip():
    wrapped = tfprune.wrap(dense_model())
    tfprune.update_masks(wrapped, 0.5)
    with pytest.raises(ValueError, match=r"`enable_lora`.*Strip first"):
        wrapped.get_layer("a").enable_lora(2)
    stripped = tfprune.strip(wrapped)
    stripped.get_layer("a").enable_lora(2)
    np.testing.assert_array_equal(stripped(X), wrapped(X))
    stripped.compile("adam", "mse")
    stripped.fit(X, np.ones((16, 4)), verbose=0)
    assert np.count_nonzero(stripped.get_layer("a").get_weights()[0]) == 24  # of the kernel, which LoRA froze
    (skipped,) = tfprune.sparsity_report(stripped).skipped
    assert skipped.layer == "a"
    assert "lora_kernel_a, lora_kernel_b of 28 parameters: factors of LoRA" in skipped.reason


def test_lora_inside_of_a_layer_keeps_its_scale_and_what_it_froze():
    x = keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(4, 2, name="attention")
    model = keras.Model(x, keras.layers.Dense(3, name="out")(attention(x, x)))
    query, key = attention.query_dense, attention.key_dense
    query.enable_lora(2, lora_alpha=6)
    query.lora_kernel_b.assign(np.ones((2, 2)))
    key.trainable = False
    batch = np.random.default_rng(0).normal(size=(2, 5, 8))
    wrapped = tfprune.wrap(model)
    for copy in (wrapped, tfprune.strip(wrapped)):
        np.testing.assert_allclose(copy(batch), model(batch), atol=1e-6)
        assert len(copy.trainable_weights) == len(model.trainable_weights)


def test_a_layer_with_lora_is_wrapped_with_its_factors_and_both_are_named():
    model = dense_model()
    model.get_layer("a").enable_lora(2)
    model.get_layer("a").lora_kernel_b.assign(np.ones((2, 8)))
    before = model(X)
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(X), before)
    wrapped.compile("adam", "mse")
    wrapped.fit(X, np.ones((16, 4)), verbose=0, callbacks=[tfprune.PruningCallback(Constant(0.5))])
    report = tfprune.sparsity_report(wrapped)
    assert {row.path: row.sparsity for row in report.rows} == {"a/kernel": 0.0, "b/kernel": 0.5}
    reasons = [skipped.reason for skipped in report.skipped if skipped.layer == "a"]
    assert [reason.startswith("frozen (trainable=False)") for reason in reasons] == [True, False]
    assert "factors of LoRA" in reasons[1]
    stripped = tfprune.strip(wrapped)
    np.testing.assert_array_equal(stripped(X), wrapped(X))
    assert stripped.get_layer("a").lora_enabled
