"""A wrapper around one layer: gradients, shapes, files and types, compared with its unwrapped twin.

That its outputs are those of a multiplied kernel is the claim of the battery in `test_layers.py`.
"""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiers import first, in_test_all, in_test_ci

import tfprune
from tfprune import criteria, patterns
from tfprune.masking.pruned import Pruned
from tfprune.models import anatomy as prunable

SEED = 7
IMAGE, VOLUME, SERIES, TOKENS = (2, 6, 6, 4), (2, 4, 4, 4, 2), (2, 6, 4), (2, 5)

# Name -> (how the layer is made, shapes of its inputs). Shapes of two entries without channels are token ids.
CASES = {
    "dense": (
        lambda: layers.Dense(5, activation="tanh", kernel_regularizer="l2", activity_regularizer="l1"),
        [(3, 6)],
    ),
    "dense_rank3": (lambda: layers.Dense(3, use_bias=False, bias_regularizer="l2"), [SERIES]),
    "dense_single": (lambda: layers.Dense(1), [(3, 6)]),
    "einsum_split": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), [SERIES]),
    "einsum_join": (lambda: layers.EinsumDense("abcd,cde->abe", (None, 3), kernel_regularizer="l1"), [(2, 3, 2, 4)]),
    "einsum_batch": (lambda: layers.EinsumDense("abc,bcd->abd", (6, 3)), [SERIES]),
    "einsum_ellipsis": (lambda: layers.EinsumDense("...x,xy->...y", 3), [SERIES]),
    "conv1d": (lambda: layers.Conv1D(3, 3, padding="causal", dilation_rate=2), [SERIES]),
    "conv2d": (lambda: layers.Conv2D(4, 3, strides=2, padding="same", kernel_regularizer="l2"), [IMAGE]),
    "conv2d_groups": (lambda: layers.Conv2D(4, 3, groups=2, dilation_rate=2), [IMAGE]),
    "conv3d": (lambda: layers.Conv3D(3, 2, activity_regularizer="l2"), [VOLUME]),
    "conv1d_transpose": (lambda: layers.Conv1DTranspose(3, 3, strides=2), [SERIES]),
    "conv2d_transpose": (lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same"), [IMAGE]),
    "conv3d_transpose": (lambda: layers.Conv3DTranspose(2, 2), [VOLUME]),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), [SERIES]),
    "depthwise2d": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, depthwise_regularizer="l2"), [IMAGE]),
    "separable1d": (lambda: layers.SeparableConv1D(3, 3, depth_multiplier=2), [SERIES]),
    "separable2d": (lambda: layers.SeparableConv2D(3, 3, pointwise_regularizer="l1"), [IMAGE]),
    "embedding": (lambda: layers.Embedding(9, 4, mask_zero=True, embeddings_regularizer="l2"), [TOKENS]),
    "simple_rnn": (lambda: layers.SimpleRNN(3, recurrent_regularizer="l2"), [SERIES]),
    "lstm": (lambda: layers.LSTM(3, return_sequences=True, dropout=0.5, recurrent_dropout=0.5, seed=SEED), [SERIES]),
    "lstm_state": (lambda: layers.LSTM(3, return_state=True, go_backwards=True), [SERIES]),
    "lstm_unrolled": (lambda: layers.LSTM(2, unroll=True), [SERIES]),
    "gru": (lambda: layers.GRU(3, dropout=0.5, seed=SEED), [SERIES]),
    "gru_before": (
        lambda: layers.GRU(3, reset_after=False, kernel_regularizer="l1", return_sequences=True),
        [SERIES],
    ),
    "rnn_of_cells": (
        lambda: layers.RNN([layers.LSTMCell(3, name="low"), layers.GRUCell(2, name="high")], return_sequences=True),
        [SERIES],
    ),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="both")), [SERIES]),
    "bidirectional_two": (
        lambda: layers.Bidirectional(layers.GRU(2, name="to"), backward_layer=_backwards()),
        [SERIES],
    ),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Conv2D(2, 2, name="conv")), [(2, 3, 4, 4, 2)]),
    "attention": (lambda: layers.MultiHeadAttention(2, 3, dropout=0.5, seed=SEED), [SERIES, (2, 5, 4)]),
    "grouped_attention": (lambda: layers.GroupQueryAttention(3, 4, 2), [SERIES, (2, 5, 4)]),
}
# Half a second each; the others have kernels of the same kinds.
LONG = {"conv2d_groups", "conv3d", "lstm_state", "gru_before", "rnn_of_cells", "bidirectional_two"}
ALIKE = {"dense_rank3", "dense_single", "einsum_join", "einsum_batch", "conv1d_transpose", "conv3d_transpose"}
ALIKE |= {"depthwise1d", "separable1d", "lstm_unrolled"}
DEEPER = ("lstm", "bidirectional", "attention")
COMPOSITES = ("time_distributed", "bidirectional", "bidirectional_two", "rnn_of_cells")
SHAPED = sorted(set(CASES) - {"einsum_ellipsis"})


def tier(case: str):
    return in_test_ci(case) if case in LONG else in_test_all(case) if case in ALIKE else case


def _backwards() -> keras.layers.Layer:
    return layers.SimpleRNN(4, go_backwards=True, name="fro")


def data(case: str, seed: int = 0) -> list[np.ndarray]:
    """Return inputs for a layer, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    if case == "embedding":
        return [np.array([[1, 2, 8, 0, 0], [3, 3, 5, 7, 0]])]
    return [rng.normal(size=shape).astype("float32") for shape in CASES[case][1]]


def built(case: str) -> keras.layers.Layer:
    """Return a layer with random weights, biases included, the same ones every time."""
    layer = CASES[case][0]()
    layer.build(*[x.shape for x in data(case)]) if "attention" in case else layer(*data(case))
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(scale=0.5, size=variable.shape))
    for variable in layer.non_trainable_variables:  # states of random generators
        variable.assign(np.array([SEED, 0]))
    return layer


def wrapped(layer: keras.layers.Layer, **kwargs) -> Pruned:
    """Return a built wrapper that prunes every kernel the layer offers, depthwise ones too."""
    pruned = Pruned(layer, weights=[kernel.path for kernel in prunable.kernels(layer)], **kwargs)
    pruned.build()
    return pruned


def half(shape: tuple[int, ...], seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


def pair(case: str) -> tuple[Pruned, keras.layers.Layer, list[np.ndarray]]:
    """Return a layer under random masks, its twin with the kernels multiplied by them, and the masks."""
    pruned, twin, masks = wrapped(built(case)), built(case), []
    for name, kernel in zip(pruned.masks, prunable.kernels(twin), strict=True):
        masks.append(half(kernel.variable.shape))
        pruned.set_mask(name, masks[-1])
        kernel.variable.assign(kernel.variable.numpy() * masks[-1])
    return pruned, twin, masks


def flat(outputs) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def assert_same(values, expected, *, atol: float = 1e-6) -> None:
    values, expected = flat(values), flat(expected)
    assert len(values) == len(expected)
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


def _call(layer, case, training):
    return layer(*data(case), **({"training": training} if _takes_training(layer) else {}))


def _takes_training(layer) -> bool:
    return "recurrent" in str(type(layer)) or "rnn" in str(type(layer)) or "attention" in str(type(layer))


@pytest.mark.parametrize("case", map(tier, CASES))
def test_gradients_are_zero_under_zeros_and_the_twins_elsewhere(case):
    pruned, twin, masks = pair(case)

    def gradients(layer, call):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(call())
            loss = sum(tf.reduce_sum(tf.cast(output, "float32") ** 2) for output in outputs) + sum(layer.losses)
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, layer.trainable_variables)]

    expected = gradients(twin, lambda: _call(twin, case, True))
    seeds = [variable.numpy() for variable in pruned.layer.non_trainable_variables]
    eager = gradients(pruned, lambda: pruned(*data(case), training=True))
    for variable, seed in zip(pruned.layer.non_trainable_variables, seeds, strict=True):
        variable.assign(seed)
    graph = tf.function(lambda: gradients(pruned, lambda: pruned(*data(case), training=True)))()
    hidden = {id(kernel.variable): ~mask for kernel, mask in zip(pruned.kernels.values(), masks, strict=True)}
    assert len(hidden) == len(masks) > 0
    for variable, truth, *received in zip(twin.trainable_variables, expected, eager, graph, strict=True):
        position = [id(other) for other in twin.trainable_variables].index(id(variable))
        zeros = hidden.get(id(pruned.trainable_variables[position]))
        for gradient in received:
            if zeros is not None:
                assert np.count_nonzero(gradient.numpy()[zeros]) == 0
                truth = np.where(zeros, 0, truth)
            np.testing.assert_allclose(gradient, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", SHAPED)
def test_shapes_and_masks_of_outputs_are_the_layers(case):
    pruned, layer = wrapped(built(case)), built(case)
    inputs = [keras.Input(shape=x.shape[1:], batch_size=2, dtype=x.dtype.name) for x in data(case)]
    expected, received = keras.tree.flatten(layer(*inputs)), keras.tree.flatten(pruned(*inputs))
    assert [(tensor.shape, tensor.dtype) for tensor in received] == [
        (tensor.shape, tensor.dtype) for tensor in expected
    ]
    shapes = [x.shape for x in data(case)]
    assert pruned.compute_output_shape(*shapes) == layer.compute_output_shape(*shapes)
    assert pruned.supports_masking == layer.supports_masking


@pytest.mark.parametrize("suffix", first(".keras", ".weights.h5"))
@pytest.mark.parametrize("case", SHAPED)
def test_files_keep_masks_latents_and_arguments(case, suffix, tmp_path):
    def make(seed):
        pruned = wrapped(built(case), criterion=criteria.Random(seed=5), pattern=patterns.Unstructured())
        for name, mask in pruned.masks.items():
            pruned.set_mask(name, half(mask.shape, seed=seed))
        inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype.name) for x in data(case)]
        return keras.Model(inputs, pruned(*inputs))

    model, path = make(3), tmp_path / f"model{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    if suffix == ".keras":
        loaded = keras.models.load_model(path)
    else:
        loaded = make(4)
        loaded.load_weights(path)
    before, after = model.layers[-1], loaded.layers[-1]
    for value, loaded_value in zip(
        before.weights, after.weights, strict=True
    ):  # Keras restores no state of a generator
        np.testing.assert_array_equal(value, loaded_value)
    assert len(before.weights) == len(before.layer.weights) + 2 * len(before.masks)
    assert any(np.count_nonzero(variable) for variable in after._latents.values())
    assert (after.criterion, after.pattern) == (criteria.Random(seed=5), patterns.Unstructured())
    assert after.weight_names == tuple(after.masks)
    if suffix == ".keras" and case not in COMPOSITES:  # whose parts remember how they were built
        assert after.layer.get_config() == before.layer.get_config()
    assert_same(loaded(data(case)), model(data(case)), atol=0)


def test_files_of_earlier_versions_hold_masks_as_bytes():
    saved, loaded, mask = wrapped(_built_dense(None)), wrapped(_built_dense(None)), half((6, 4))
    saved.set_mask("kernel", mask)
    store = {}
    saved.save_own_variables(store)
    assert len(store) == 2
    masks_as_bytes = {
        name: np.array(array).astype("uint8" if "mask" in name else "f") for name, array in store.items()
    }
    loaded.load_own_variables(masks_as_bytes)
    np.testing.assert_array_equal(loaded.masks["kernel"], mask)
    np.testing.assert_array_equal(loaded._latents["kernel"], saved._latents["kernel"])


def test_config_round_trips_every_argument():
    layer = layers.Dense(8, name="hidden")
    arguments = {
        "criterion": criteria.Random(seed=3),
        "pattern": patterns.Block(2, 4),
        "weights": ("kernel",),
        "name": "other",
        "trainable": False,
        "dtype": "mixed_bfloat16",
    }
    pruned = Pruned(layer, **arguments)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pruned))
    assert (copy.criterion, copy.pattern, copy.weight_names) == (
        criteria.Random(seed=3),
        patterns.Block(2, 4),
        ("kernel",),
    )
    assert (copy.name, copy.trainable, copy.dtype_policy.name) == ("other", False, "mixed_bfloat16")
    assert copy.get_config() == pruned.get_config()
    assert copy.layer.get_config() == layer.get_config()
    again = Pruned.from_config(pruned.get_config())
    assert again.get_config() == pruned.get_config()


def test_name_policy_and_trainable_are_the_layers_unless_given():
    layer = layers.Dense(3, name="head", dtype="mixed_float16", trainable=False)
    pruned = Pruned(layer)
    assert (pruned.name, pruned.variable_dtype, pruned.trainable) == ("head", "float32", False)
    assert pruned(np.ones((1, 2))).dtype == "float16"
    pruned.trainable = True
    assert layer.trainable


@pytest.mark.parametrize("policy", first("mixed_float16", "mixed_bfloat16", "float16", "float64"))
@pytest.mark.parametrize("case", ["dense", "conv2d", "embedding", "gru", *map(in_test_all, DEEPER)])
def test_dtype_policies_run_and_equal_the_twin(case, policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        pruned, twin, masks = pair(case)
        for training in (False, True):
            assert_same(
                keras.tree.map_structure(
                    lambda x: keras.ops.cast(x, "float32"), pruned(*data(case), training=training)
                ),
                keras.tree.map_structure(lambda x: keras.ops.cast(x, "float32"), _call(twin, case, training)),
                atol=0,
            )
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(keras.tree.flatten(pruned(*data(case), training=True))[0], "float32"))
        kernel = next(iter(pruned.kernels.values())).variable
        gradient = tf.convert_to_tensor(tape.gradient(loss, kernel.value))
        assert gradient.dtype == kernel.dtype
        assert np.count_nonzero(np.asarray(tf.cast(gradient, "float32"))[~masks[0]]) == 0
    finally:
        keras.config.set_dtype_policy(previous)


def test_a_float32_part_of_a_half_precision_composite_keeps_its_precision():
    def make():
        inner = layers.Dense(4, dtype="float32", kernel_initializer=keras.initializers.RandomNormal(seed=1))
        return layers.TimeDistributed(inner, dtype="mixed_float16")

    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    layer, twin = make(), make()
    layer(x)
    np.testing.assert_array_equal(wrapped(layer)(x, training=True), twin(x))


def test_keras_masks_pass_through():
    tokens = data("embedding")[0]
    embedding, lstm = built("embedding"), layers.LSTM(3, return_sequences=True)
    expected = lstm(embedding(tokens))
    pruned_embedding, pruned_lstm = wrapped(embedding), wrapped(lstm)
    outputs = pruned_lstm(pruned_embedding(tokens))
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(outputs._keras_mask, tokens != 0)
    np.testing.assert_array_equal(pruned_embedding.compute_mask(tokens, None), tokens != 0)
    by_hand = pruned_lstm(np.asarray(pruned_embedding(tokens)), mask=tokens != 0)
    np.testing.assert_array_equal(by_hand, expected)


def test_attention_takes_masks_and_returns_scores():
    pruned, twin, _ = pair("attention")
    query, value = data("attention")
    mask = np.random.default_rng(0).random((2, 6, 5)) < 0.7
    arguments = {"key": value[:, ::-1], "attention_mask": mask, "return_attention_scores": True}
    assert_same(pruned(query, value, **arguments), twin(query, value, **arguments))
    assert_same(pruned(query, value, use_causal_mask=True), twin(query, value, use_causal_mask=True))


def test_a_recurrent_layer_takes_its_initial_state():
    pruned, twin, _ = pair("lstm_state")
    x = data("lstm_state")[0]
    state = [np.full((2, 3), 0.5, "float32"), np.full((2, 3), -0.5, "float32")]
    assert_same(pruned(x, initial_state=state), twin(x, initial_state=state))
    inputs = [keras.Input((6, 4)), keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, pruned(inputs[0], initial_state=inputs[1:]))
    assert_same(model([x, *state]), twin(x, initial_state=state))


def test_a_stateful_layer_carries_its_state():
    def make():
        layer = layers.GRU(3, stateful=True, kernel_initializer="ones", recurrent_initializer="ones")
        layer.build((2, 6, 4))
        return layer

    twin, pruned, x = make(), wrapped(make()), data("gru")[0]
    first = twin(x)
    np.testing.assert_array_equal(pruned(x), first)
    second = twin(x)
    np.testing.assert_array_equal(pruned(x), second)
    assert np.abs(second - first).max() > 1e-3
    pruned.layer.reset_state()
    np.testing.assert_array_equal(pruned(x), first)


class Block(keras.layers.Layer):
    """Dense, batch normalization and dropout: three kinds of state in one layer."""

    def build(self, input_shape):
        self.dense = layers.Dense(4, name="dense")
        self.norm = layers.BatchNormalization(name="norm", momentum=0.5)
        self.dropout = layers.Dropout(0.5, seed=SEED)
        self.dense.build(input_shape)
        self.norm.build((*input_shape[:-1], 4))

    def call(self, inputs, training=False):
        outputs = self.norm(self.dense(inputs), training=training)
        self.add_loss(keras.ops.mean(outputs**2))
        return self.dropout(outputs, training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_and_seeds_inside_are_updated(compiled):
    x = data("dense")[0]
    twin, inner = Block(), Block()
    twin.build(x.shape), inner.build(x.shape)
    inner.dense.kernel.assign(twin.dense.kernel)
    pruned = wrapped(inner)
    start = [variable.numpy() for variable in inner.non_trainable_variables]
    call = tf.function(lambda: pruned(x, training=True)) if compiled else lambda: pruned(x, training=True)
    for _ in range(3):
        assert_same(call(), twin(x, training=True))
    assert_same(inner.variables, twin.variables)
    changed = [np.any(a != b) for a, b in zip(start, inner.non_trainable_variables, strict=True)]
    assert len(changed) == 3 and all(changed)  # moving mean, moving variance, seed
    before = [variable.numpy() for variable in pruned.variables]
    np.testing.assert_allclose(pruned(x), twin(x), rtol=1e-5)
    assert_same(pruned.losses, twin.losses)
    assert_same(pruned.variables, before, atol=0)


def test_training_reaches_a_layer_from_the_outermost_call():
    pruned = wrapped(built("lstm"))
    x = data("lstm")[0]
    inference = pruned(x, training=False)
    assert np.abs(pruned(x, training=True) - inference).max() > 1e-3
    np.testing.assert_array_equal(pruned(x), inference)
    model = keras.Sequential([keras.Input((6, 4)), pruned])
    assert np.abs(model(x, training=True) - inference).max() > 1e-3
    np.testing.assert_array_equal(model(x), inference)


def test_gradients_are_zero_when_not_training_too():
    pruned, _, masks = pair("dense")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pruned(*data("dense")))
    gradient = tape.gradient(loss, pruned.layer.kernel.value).numpy()
    assert np.count_nonzero(gradient[~masks[0]]) == 0 and np.count_nonzero(gradient) > 0


@pytest.mark.parametrize("regularizer", [keras.regularizers.OrthogonalRegularizer(0.1), lambda w: (1 - w[0, 0]) ** 2])
def test_a_regulariser_moves_no_masked_entry(regularizer):
    pruned = wrapped(_built_dense(regularizer))
    mask = half((6, 4))
    mask[0, 0], mask[1] = False, True
    pruned.set_mask("kernel", mask)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pruned(np.zeros((1, 6), "float32"), training=True)) + sum(pruned.losses)
    gradient = tf.convert_to_tensor(tape.gradient(loss, pruned.layer.kernel.value)).numpy()
    assert np.count_nonzero(gradient[~mask]) == 0


def _built_dense(regularizer) -> keras.layers.Layer:
    layer = layers.Dense(4, kernel_regularizer=regularizer)
    layer.build((None, 6))
    return layer


def test_masks_are_a_quarter_of_the_weights_and_have_their_shape():
    pruned = wrapped(built("conv2d"))
    assert {name: (tuple(mask.shape), mask.dtype) for name, mask in pruned.masks.items()} == {
        "kernel": ((3, 3, 4, 4), "bool")
    }
    assert not any(mask.trainable for mask in pruned.masks.values())
    assert len(pruned.trainable_variables) == 2


def test_set_mask_keeps_what_it_hides_and_brings_it_back():
    pruned = wrapped(_built_dense(None))
    original, mask = pruned.layer.kernel.numpy(), half((6, 4))
    pruned.set_mask("kernel", mask)
    np.testing.assert_array_equal(pruned.layer.kernel, original * mask)
    np.testing.assert_array_equal(pruned.latent("kernel"), original)
    np.testing.assert_array_equal(pruned.masks["kernel"], mask)
    other = half((6, 4), seed=9)
    pruned.set_mask("kernel", other.astype("uint8"))
    np.testing.assert_array_equal(pruned.layer.kernel, original * other)
    pruned.set_mask("kernel", np.ones((6, 4)))
    np.testing.assert_array_equal(pruned.layer.kernel, original)


def test_set_mask_zeroes_masked_slots_only():
    pruned, mask = wrapped(_built_dense(None)), half((6, 4))
    slot = keras.Variable(np.ones((6, 4)))
    pruned.set_mask("kernel", mask, slots=[slot])
    np.testing.assert_array_equal(slot, mask.astype("float32"))


def test_a_value_assigned_from_outside_wins_over_the_latent():
    pruned, mask = wrapped(_built_dense(None)), half((6, 4))
    pruned.set_mask("kernel", mask)
    newer = np.arange(1, 25, dtype="float32").reshape(6, 4)
    pruned.layer.kernel.assign(newer)
    np.testing.assert_array_equal(pruned.latent("kernel"), newer)
    pruned.set_mask("kernel", mask)
    np.testing.assert_array_equal(pruned.layer.kernel, newer * mask)
    np.testing.assert_array_equal(pruned.latent("kernel"), newer)


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("bias", np.ones((6, 4)), "Expected a weight among kernel. Received: name='bias'"),
        ("kernel", np.ones((4, 6)), "of shape (6, 4)"),
        ("kernel", np.full((6, 4), 0.5), "zeros and ones"),
        ("kernel", np.full((6, 4), np.nan), "zeros and ones"),
    ],
)
def test_set_mask_refuses_what_is_no_mask(name, mask, message):
    pruned = wrapped(_built_dense(None))
    with pytest.raises(ValueError, match=re.escape(message)):
        pruned.set_mask(name, mask)
    assert pruned.masks["kernel"].numpy().all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Pruned("dense"), TypeError, "Expected a Keras layer. Received: layer='dense'"),
        (lambda: Pruned(keras.Sequential(name="net")), ValueError, "tfprune.wrap takes models"),
        (lambda: Pruned(Pruned(layers.Dense(1, name="one"))), ValueError, "layer 'one', which is wrapped already"),
        (lambda: wrapped(built("dense"), criterion="size"), ValueError, "Received: criterion='size'"),
        (lambda: wrapped(built("dense"), pattern=criteria.Random()), TypeError, "an instance of Pattern"),
        (lambda: wrapped(built("dense"), pattern=patterns.NM), TypeError, "Did you mean NM()?"),
        (lambda: Pruned(built("dense"), weights=["bias"]), ValueError, "Received: bias; the layer offers kernel"),
        (lambda: Pruned(built("dense"), weights=[]), ValueError, "Received: none; the layer offers kernel"),
        (lambda: Pruned(built("depthwise2d")), ValueError, "the layer offers kernel"),
        (lambda: wrapped(built("dense"), pattern=patterns.NM(6, 8)), ValueError, "/kernel cannot take the pattern"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_layer_without_kernels_is_refused_with_the_way_out():
    norm = layers.BatchNormalization()
    norm.build((None, 4))
    with pytest.raises(ValueError, match=r"register_prunable\(BatchNormalization"):
        Pruned(norm)


@pytest.mark.parametrize("case", ["dense", "conv2d", "embedding", "lstm", "bidirectional", "attention"])
def test_an_unbuilt_layer_is_built_by_its_first_call(case):
    pruned, twin = Pruned(CASES[case][0]()), built(case)
    pruned(*data(case))
    assert pruned.masks.keys() == {k.path for k in prunable.kernels(pruned.layer)}
    for variable, value in zip(pruned.layer.variables, twin.variables, strict=True):
        variable.assign(value)
    assert_same(pruned(*data(case)), twin(*data(case)))


class Shift(keras.layers.Layer):
    """A user's layer with two inputs, nothing but `call` and `build`."""

    def build(self, x_shape, shift_shape):
        self.kernel = self.add_weight(name="kernel", shape=(x_shape[-1], shift_shape[-1]))

    def call(self, x, shift):
        return keras.ops.matmul(x, self.kernel) + shift


def test_a_layer_of_two_inputs_is_built_by_its_first_call():
    pruned = Pruned(Shift())
    x, shift = np.ones((2, 3), "float32"), np.ones((2, 4), "float32")
    np.testing.assert_allclose(pruned(x, shift), x @ pruned.layer.kernel.numpy() + 1, rtol=1e-6)
    inputs = [keras.Input((3,)), keras.Input((4,))]
    assert Pruned(Shift())(inputs[0], shift=inputs[1]).shape == (None, 4)


def test_a_subclass_of_a_registered_layer_with_parts_of_its_own_is_pruned():
    class Gated(layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.gate = layers.Conv1D(2, 1, name="gate")
            self.gate.build((None, None, 3))

    layer = Gated(4)
    layer.build((None, 6))
    assert {kernel.path: kernel.axes for kernel in prunable.kernels(layer)} == {"kernel": "io", "gate/kernel": "wio"}


def test_attributes_of_the_layer_are_found_on_the_wrapper():
    layer = tfprune.wrap(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, strides=2)])).layers[0]
    assert (layer.filters, layer.kernel_size, layer.strides) == (4, (3, 3), (2, 2))
    for name in ("no_such_thing", "_private"):
        with pytest.raises(AttributeError, match=name):
            getattr(layer, name)


def test_a_weight_read_by_its_attribute_is_masked_and_so_is_its_gradient():
    layer = Pruned(layers.Embedding(6, 4))
    layer(np.array([0]))
    tfprune.update_masks(layer, 0.5)
    mask = layer.masks["embeddings"].numpy()
    with tf.GradientTape() as tape:
        weight = layer.embeddings
        loss = keras.ops.sum(weight * 3.0)
    np.testing.assert_array_equal(weight.numpy() != 0, mask.astype(bool))
    np.testing.assert_array_equal(tape.gradient(loss, layer.layer.embeddings.value), 3.0 * mask)


def test_a_method_of_the_layer_reads_masked_weights_and_keeps_what_it_assigns():
    class Codec(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3, use_bias=False, name="dense")

        def build(self, input_shape):
            self.dense.build(input_shape)
            self.count = self.add_weight(name="count", shape=(), initializer="zeros", trainable=False)

        def call(self, inputs):
            return self.encode(inputs)

        def encode(self, inputs):
            self.count.assign(self.count + 1)
            return self.dense(inputs)

    layer = Pruned(Codec())
    x = np.ones((2, 4), "float32")
    layer(x)
    tfprune.update_masks(layer, 0.5)
    layer.layer.dense.kernel.assign(np.ones((4, 3)))  # values under the mask, which a masked read does not see
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer.encode(x))
    gradient = tape.gradient(loss, layer.layer.dense.kernel.value)
    np.testing.assert_array_equal(gradient, 2.0 * layer.masks["dense/kernel"].numpy())
    assert float(layer.count) == 2


def test_a_stateful_layer_is_reset_through_its_wrapper():
    layer = Pruned(layers.LSTM(3, stateful=True))
    x = np.ones((2, 4, 5), "float32")
    first = layer(x)
    assert not np.array_equal(layer(x), first)
    layer.reset_state()
    np.testing.assert_array_equal(layer(x), first)


def test_a_layer_called_by_keywords_is_pruned_and_saved(tmp_path):
    inputs = keras.Input((5, 4))
    attended = layers.MultiHeadAttention(2, 3)(query=inputs, value=inputs, key=inputs)
    model = keras.Model(inputs, attended)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), model(x))
    tfprune.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), wrapped(x))


def test_a_layer_with_a_wrapper_inside_is_refused():
    with pytest.raises(ValueError, match="has a wrapper inside. Use the wrapper that there is"):
        Pruned(layers.TimeDistributed(Pruned(layers.Dense(3))))
