"""One battery for every layer: wrapped it trains as its unwrapped twin, pruned it is its twin with zeros."""

from __future__ import annotations

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from tiers import first, in_test_all

import tfprune
from tfprune.masking.pruned import Pruned
from tfprune.models.anatomy import kernels, walk

TOKENS, VECTOR, SERIES, IMAGE, VOLUME = "tokens", (6,), (6, 4), (5, 5, 4), (4, 4, 4, 2)
FILMS = {rank: (3, *[4] * rank, 2) for rank in (1, 2, 3)}
DROP = {"dropout": 0.3, "seed": 5}


class Seen(layers.Layer):
    """Shows the Keras mask that arrives: steps that it hides become 7."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        if mask is None:
            return inputs
        return ops.where(ops.reshape(mask, (*mask.shape, *[1] * (len(inputs.shape) - 2))), inputs, 7.0)

    def compute_output_shape(self, shape):
        return shape


class Parts(layers.Layer):
    """A user's layer: a kernel of its own, and layers in an attribute, a list and a dict, built when called."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(units, name="first")
        self.stack = [layers.Dense(units, name="second"), [layers.Dense(units, name="third")]]
        self.named = {"a": {"b": layers.Conv1D(units, 2, padding="same", name="fourth")}}
        self.dropout = layers.Dropout(0.3, seed=5)
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units), regularizer="l2")

    def call(self, inputs, training=False):
        x = self.norm(self.first(ops.tanh(ops.matmul(inputs, self.kernel))), training=training)
        x = self.dropout(self.stack[1][0](self.stack[0](x)), training=training)
        self.add_loss(ops.mean(x**2))
        return self.named["a"]["b"](x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Basis(layers.Layer):
    """A user's layer that has to be registered, with two inputs by keyword, one of them a dict."""

    def build(self, inputs_shape, context_shape):
        self.basis = self.add_weight(name="basis", shape=(3, inputs_shape[-1]), initializer="glorot_uniform")

    def call(self, inputs, *, context, scale=1.0):
        return scale * ops.matmul(inputs, ops.transpose(self.basis)) + ops.mean(
            context["more"], axis=-1, keepdims=True
        )

    def compute_output_shape(self, inputs_shape, context_shape):
        return (*inputs_shape[:-1], 3)


tfprune.register_prunable(Basis, basis="oi")


class MyConv(layers.Conv2D):
    """A subclass of a registered layer that changes its call."""

    def call(self, inputs):
        return 2 * super().call(inputs)


@keras.saving.register_keras_serializable(package="tests")  # Bidirectional asks for it
class MyLSTM(layers.LSTM):
    """A subclass of a recurrent layer."""


class MyBidirectional(layers.Bidirectional):
    """A subclass of a layer that holds others."""


class MyCell(layers.Layer):
    """A user's cell."""

    state_size = output_size = 3

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3))
        self.mix = layers.Dense(3, name="mix")
        self.mix.build((None, 3))

    def call(self, inputs, states):
        output = ops.tanh(ops.matmul(inputs, self.kernel) + self.mix(states[0]))
        return output, [output]


def lstm(**kwargs):
    return layers.LSTM(3, name="lstm", **kwargs)


def backwards():
    return layers.GRU(3, go_backwards=True, name="back")


def cells():
    return [layers.LSTMCell(3, name="low", **DROP), layers.GRUCell(2, name="high"), MyCell(name="mine")]


def with_state(layer, x, state):
    return layer(x, initial_state=[state, state])


def twice(layer, x, other):
    return [layer(layer(x)), layer(other)]


def tied(layer, tokens):
    return layer(layer(tokens), reverse=True)


def with_context(layer, x, more):
    return layer(x, context={"more": more}, scale=0.5)


def masked(layer, x):
    return layer(layers.Masking()(x))


def embedded(layer, tokens):
    return layer(layers.Embedding(9, 4, mask_zero=True, name="tokens")(tokens))


def attending(layer, tokens, other):
    return layer(layers.Embedding(9, 4, mask_zero=True)(tokens), other, use_causal_mask=True)


# Name -> (how the layer is made, shapes of its inputs, how it is called if not with its inputs in order).
ROWS = {
    "Dense": (lambda: layers.Dense(4, "tanh", kernel_regularizer="l2", activity_regularizer="l1"), [VECTOR]),
    "Dense, regularized": (lambda: layers.Dense(4, kernel_regularizer=keras.regularizers.L1L2(0.1, 0.1)), [SERIES]),
    "Dense, regularized in a graph": (
        lambda: layers.Dense(4, kernel_regularizer=keras.regularizers.L1L2(0.1, 0.1)),
        [SERIES],
    ),
    "Dense, orthogonal": (lambda: layers.Dense(4, kernel_regularizer="orthogonal_regularizer"), [VECTOR]),
    "Dense, normed": (lambda: layers.Dense(4, kernel_constraint="max_norm"), [VECTOR]),
    "Dense, not negative": (lambda: layers.Dense(4, kernel_constraint="non_neg"), [VECTOR]),
    "Dense, called three times": (lambda: layers.Dense(6), [VECTOR, VECTOR], twice),
    "Dense, one unit and no bias": (lambda: layers.Dense(1, use_bias=False), [SERIES]),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (6, 2, 3), bias_axes="de"), [SERIES]),
    "EinsumDense, joining": (
        lambda: layers.EinsumDense("abcd,cde->abe", (6, 3), kernel_regularizer="l1"),
        [(6, 2, 4)],
    ),
    "EinsumDense, in batches": (lambda: layers.EinsumDense("abc,bcd->abd", (6, 3)), [SERIES]),
    "Embedding": (lambda: layers.Embedding(9, 4, mask_zero=True, embeddings_regularizer="l2"), [TOKENS]),
    "ReversibleEmbedding": (lambda: layers.ReversibleEmbedding(9, 4), [TOKENS], tied),
    "ReversibleEmbedding, untied": (lambda: layers.ReversibleEmbedding(9, 4, tie_weights=False), [TOKENS], tied),
    "Conv1D": (
        lambda: layers.Conv1D(3, 3, padding="causal", dilation_rate=2, kernel_constraint="unit_norm"),
        [SERIES],
    ),
    "Conv2D": (lambda: layers.Conv2D(4, 3, strides=2, padding="same", kernel_regularizer="l2"), [IMAGE]),
    "Conv2D, grouped": (lambda: layers.Conv2D(4, 3, groups=2, dilation_rate=2), [IMAGE]),
    "Conv3D": (lambda: layers.Conv3D(3, 2, activity_regularizer="l2"), [VOLUME]),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 3, strides=2), [SERIES]),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same"), [IMAGE]),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(2, 2), [VOLUME]),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), [SERIES]),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3, depthwise_constraint="max_norm"), [IMAGE]),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(3, 3, depth_multiplier=2), [SERIES]),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(3, 3, depthwise_regularizer="l2"), [IMAGE]),
    "SeparableConv2D, regularized": (lambda: layers.SeparableConv2D(3, 3, pointwise_regularizer="l1"), [IMAGE]),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, recurrent_regularizer="l2"), [SERIES]),
    "SimpleRNN, unrolled": (lambda: layers.SimpleRNN(3, recurrent_regularizer="l2", unroll=True), [SERIES]),
    "LSTM, unrolled": (lambda: lstm(unroll=True), [SERIES]),
    "LSTM": (lambda: lstm(recurrent_dropout=0.3, **DROP), [SERIES]),
    "LSTM, regularized": (lambda: lstm(kernel_regularizer="l2"), [SERIES]),
    "LSTM, regularized in a graph": (lambda: lstm(kernel_regularizer="l2"), [SERIES]),
    "LSTM, given a state": (lambda: lstm(return_state=True, go_backwards=True), [SERIES, (3,)], with_state),
    "LSTM, masked": (lambda: lstm(return_sequences=True), [TOKENS], embedded),
    "LSTM, backwards": (lambda: lstm(go_backwards=True, return_sequences=True), [SERIES], masked),
    "GRU": (lambda: layers.GRU(3, kernel_constraint="max_norm", reset_after=False), [SERIES], masked),
    "GRU, stateful": (lambda: layers.GRU(3, stateful=True, name="gru"), [SERIES]),
    "RNN": (lambda: layers.RNN(layers.SimpleRNNCell(3, name="cell"), return_state=True), [SERIES]),
    "RNN of cells": (lambda: layers.RNN(cells(), return_sequences=True), [SERIES]),
    "StackedRNNCells": (lambda: layers.RNN(layers.StackedRNNCells(cells(), name="stack")), [TOKENS], embedded),
    "LSTMCell": (lambda: layers.LSTMCell(3), [(4,), (3,)], lambda cell, x, s: cell(x, [s, s])),
    "GRUCell": (lambda: layers.GRUCell(3), [(4,), (3,)], lambda cell, x, s: cell(x, s)),
    "SimpleRNNCell": (lambda: layers.SimpleRNNCell(3), [(4,), (3,)], lambda cell, x, s: cell(x, s)),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 2, return_sequences=True, **DROP), [FILMS[1]]),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 2, kernel_regularizer="l2"), [FILMS[2]]),
    "ConvLSTM3D": (lambda: layers.ConvLSTM3D(2, 2), [FILMS[3]]),
    "Bidirectional": (lambda: layers.Bidirectional(lstm(), merge_mode="sum"), [TOKENS], embedded),
    "Bidirectional of two": (lambda: layers.Bidirectional(lstm(), backward_layer=backwards()), [SERIES], masked),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(3, name="dense")), [SERIES], masked),
    "TimeDistributed over a convolution": (lambda: layers.TimeDistributed(layers.Conv2D(2, 2)), [(3, 4, 4, 2)]),
    "TimeDistributed over a layer of layers": (lambda: layers.TimeDistributed(lstm()), [(2, 6, 4)]),
    "MultiHeadAttention": (lambda: layers.MultiHeadAttention(2, 3, **DROP), [TOKENS, SERIES], attending),
    "GroupQueryAttention": (lambda: layers.GroupQueryAttention(3, 4, 2, **DROP), [SERIES, (5, 4)]),
    "SpectralNormalization": (lambda: layers.SpectralNormalization(layers.Conv2D(3, 2, name="conv")), [IMAGE]),
    "user's layer of layers": (lambda: Parts(), [SERIES]),
    "user's layer, registered": (lambda: Basis(), [SERIES, SERIES], with_context),
    "user's convolution": (lambda: MyConv(3, 2, kernel_initializer="he_normal"), [IMAGE]),
    "user's LSTM": (lambda: MyLSTM(3), [SERIES]),
    "user's Bidirectional": (lambda: MyBidirectional(MyLSTM(2, name="lstm")), [SERIES]),
}
STATEFUL = ("GRU, stateful",)
GRAPH = (
    "Dense",
    "Dense, regularized in a graph",
    "Conv2D, grouped",
    "LSTM",
    "LSTM, regularized in a graph",
    "GRU, stateful",
    "SpectralNormalization",
)
# A regularizer reads the weight besides the layer: the same gradients may then be added in another order.
ANOTHER_ORDER = (
    "Dense, orthogonal",
    "Dense, regularized in a graph",
    "LSTM, regularized",
    "SimpleRNN",
    "SimpleRNN, unrolled",
    "ConvLSTM2D",
)


def batch(row: str, seed: int = 0) -> list[np.ndarray]:
    """Return four samples for a layer; of sequences, the last steps of some are empty."""
    rng = np.random.default_rng(seed)
    inputs = []
    for shape in ROWS[row][1]:
        if shape == TOKENS:
            inputs.append(rng.integers(1, 9, (4, 6)) * (np.arange(6) < [[6], [3], [4], [2]]))
        else:
            inputs.append(rng.normal(size=(4, *shape)).astype("float32"))
    if masked in ROWS[row]:
        inputs[0][1:, 4:] = 0
    return inputs


def model_of(row: str, seed: int = 3) -> keras.Model:
    make, _, *call = ROWS[row]
    inputs = [
        keras.Input(batch_shape=(2, *x.shape[1:]), dtype=x.dtype.name)
        if row in STATEFUL
        else keras.Input(x.shape[1:], dtype=x.dtype.name)
        for x in batch(row)
    ]
    keras.utils.set_random_seed(seed)
    outputs = call[0](make(), *inputs) if call else make()(*inputs)
    return keras.Model(inputs, [Seen()(output) for output in keras.tree.flatten(outputs)])


def compiled(model: keras.Model, **kwargs) -> keras.Model:
    optimizer = keras.optimizers.Adam(0.05, global_clipnorm=1.0)
    model.compile(optimizer, ["mse"] * len(model.outputs), **{"run_eagerly": True, **kwargs})
    return model


def train(model: keras.Model, row: str, epochs: int = 1) -> list[float]:
    rng = np.random.default_rng(1)
    x, samples = batch(row), 4
    y = [rng.normal(size=(samples, *output.shape[1:])).astype("float32") for output in model.outputs]
    return model.fit(x, y, batch_size=2, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def call(model: keras.Model, row: str, **kwargs) -> list[np.ndarray]:
    """Return the outputs of a model and what its regularizers add to the loss."""
    for _, layer in walk(model):
        if getattr(layer, "stateful", False):
            layer.reset_state()
    outputs = keras.tree.flatten(model([x[:2] for x in batch(row)], **kwargs))
    return [*map(np.asarray, outputs), *(np.asarray(ops.cast(loss, "float32")) for loss in model.losses)]


def inner(layer: layers.Layer) -> layers.Layer:
    return layer.layer if isinstance(layer, Pruned) else layer


def values(model: keras.Model) -> list[np.ndarray]:
    """Return all variables of the layers, seeds included, those of wrappers aside."""
    return [np.array(variable) for layer in model.layers for variable in inner(layer).variables]


def kernels_of(model: keras.Model) -> list[tuple[np.ndarray, keras.Variable]]:
    """Return the mask and the variable of every pruned weight."""
    pruned = [layer for layer in model.layers if isinstance(layer, Pruned)]
    return [
        (np.array(layer.masks[name]), kernel.variable) for layer in pruned for name, kernel in layer.kernels.items()
    ]


def assert_same(received, expected, *, atol=0.0) -> None:
    for value, expected_value in zip(received, expected, strict=True):
        assert value.dtype == expected_value.dtype
        np.testing.assert_allclose(value, expected_value, rtol=0, atol=atol)


# Each kind of layer once; `make test-all` takes all rows. test_pruned.py has the others, too.
QUICK = {
    "Dense",
    "EinsumDense",
    "Embedding",
    "Conv2D",
    "DepthwiseConv2D",
    "RNN",
}
QUICK |= {"LSTM, given a state", "TimeDistributed", "MultiHeadAttention", "user's layer of layers"}


@pytest.fixture(scope="module", params=[row if row in QUICK else in_test_all(row) for row in ROWS])
def pair(request):
    """A model, its wrapped copy, and what both said and held before, in training, and under half-sparse masks."""
    row = request.param
    plain = model_of(row)
    wrapped = tfprune.wrap(plain, filters=".")
    seen = {"row": row, "plain": plain, "wrapped": wrapped}
    for way in (False, True):
        seen[way] = [call(model, row, training=way) for model in (wrapped, plain)]
    mode = {"run_eagerly": row not in GRAPH, "jit_compile": False}
    seen["losses"] = [train(compiled(model, **mode), row, epochs=2) for model in (wrapped, plain)]
    seen["trained"] = [values(model) for model in (wrapped, plain)]
    seen["report"] = tfprune.update_masks(wrapped, 0.5)
    for (mask, _), (_, variable) in zip(kernels_of(wrapped), all_kernels(plain), strict=True):
        variable.assign(variable * mask)
    seen["half"] = [call(model, row, training=way) for way in (False, True) for model in (wrapped, plain)]
    return seen


def all_kernels(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    return [(kernel.path, kernel.variable) for kernel in kernels(model)]


def test_full_masks_change_no_output_no_mask_and_no_type(pair):
    for way in (False, True):
        assert_same(*pair[way], atol=1e-6)


def test_training_at_sparsity_zero_is_the_twins_bit_by_bit(pair):
    tolerance = 1e-6 if pair["row"] in ANOTHER_ORDER else 0.0
    np.testing.assert_allclose(*pair["losses"], rtol=tolerance, atol=0)
    assert_same(*pair["trained"], atol=tolerance)


def test_every_kernel_of_the_row_is_pruned_to_half(pair):
    assert pair["report"].total_size == pair["report"].size > 0
    for row in pair["report"].rows:
        assert row.size - row.nnz == round(row.size / 2)
    assert [layer.name for layer in pair["wrapped"].layers] == [layer.name for layer in pair["plain"].layers]


def test_half_sparse_it_is_the_twin_with_multiplied_kernels(pair):
    wrapped, plain = pair["half"][::2], pair["half"][1::2]
    for value, expected_value in zip(wrapped, plain, strict=True):
        assert_same(value, expected_value, atol=1e-6)


def test_training_keeps_masked_entries_exactly_zero(pair):
    wrapped = pair["wrapped"]
    before = [np.array(variable) for _, variable in kernels_of(wrapped)]
    train(wrapped, pair["row"])
    for (mask, variable), start in zip(kernels_of(wrapped), before, strict=True):
        assert np.count_nonzero(np.array(variable)[mask == 0]) == 0
        assert np.any(np.array(variable) != start)


def test_a_file_keeps_masks_and_a_stripped_model_its_outputs(pair, tmp_path):
    row, wrapped = pair["row"], pair["wrapped"]
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras", custom_objects=CUSTOM)
    stripped = tfprune.strip(wrapped)
    expected = call(wrapped, row)
    assert_same(call(loaded, row), expected)
    assert_same(call(stripped, row), expected)
    for (mask, kernel), (other_mask, other_kernel) in zip(kernels_of(wrapped), kernels_of(loaded), strict=True):
        np.testing.assert_array_equal(mask, other_mask)
        np.testing.assert_array_equal(kernel, other_kernel)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in pair["plain"].layers]
    for (mask, _), (_, variable) in zip(kernels_of(wrapped), all_kernels(stripped), strict=True):
        assert np.count_nonzero(np.array(variable)[mask == 0]) == 0


CUSTOM = {
    layer_class.__name__: layer_class for layer_class in (Seen, Parts, Basis, MyConv, MyLSTM, MyBidirectional, MyCell)
}


def test_the_rows_show_keras_masks_where_there_are_some():
    for row in ("LSTM, masked", "TimeDistributed", "MultiHeadAttention"):
        hidden = call(model_of(row), row)[0] == 7
        assert hidden.any() and not hidden.all()


# Weights of rank two or more that no mask is for.
SKIPPED = {
    "PReLU": (lambda: layers.PReLU(), IMAGE),  # slopes
    "LayerNormalization": (lambda: layers.LayerNormalization(axis=[1, 2]), IMAGE),  # scales
    "RMSNormalization": (lambda: layers.RMSNormalization(axis=[1, 2]), IMAGE),
    "Normalization": (lambda: layers.Normalization(axis=(1, 2)), IMAGE),  # statistics
    "STFTSpectrogram": (
        lambda: layers.STFTSpectrogram(frame_length=4, frame_step=2, fft_length=4),
        (8,),
    ),  # constants
}
# No weights, or vectors only, or what only the caller knows (Lambda, Wrapper and those of other frameworks).
NAMES = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout Attention
    AugMix AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization
    CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping2D
    Cropping3D CutMix Discretization Dot Dropout ELU Equalization Flatten FlaxLayer GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization HashedCrossing Hashing Identity InputLayer
    IntegerLookup JaxLayer Lambda Layer LeakyReLU Masking MaxNumBoundingBoxes MaxPooling1D MaxPooling2D
    MaxPooling3D Maximum MelSpectrogram Minimum MixUp Multiply Permute Pipeline RandAugment RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
    RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization
    RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D
    StringLookup Subtract TFSMLayer TextVectorization TorchModuleWrapper UnitNormalization UpSampling1D
    UpSampling2D UpSampling3D Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
WITHOUT_KERNELS = NAMES.split()


def layer_classes() -> dict[str, type[layers.Layer]]:
    """Return the layers of the installed Keras under every name it offers, one name for each."""
    classes = {name: value for name, value in vars(layers).items() if inspect.isclass(value)}
    return {name: value for name, value in classes.items() if issubclass(value, layers.Layer)}


def test_every_layer_of_keras_is_a_row_or_has_a_reason_not_to_be():
    decided = {re.match(r"\w+", row)[0] for row in ROWS} | set(SKIPPED) | set(WITHOUT_KERNELS)
    classes = layer_classes()
    decided = {classes[name] for name in decided if name in classes}
    assert {layer_class.__name__ for layer_class in classes.values() if layer_class not in decided} == set()


def test_layers_said_to_have_no_kernel_have_none():
    checked = set()
    for name in layer_classes().keys() & set(WITHOUT_KERNELS):
        try:
            layer = getattr(layers, name)()
            layer.build((2, 4, 4, 32))
        except (ValueError, TypeError, ImportError, AttributeError, IndexError):
            continue  # it takes arguments or other inputs: such layers move or look up values
        assert all(len(weight.shape) < 2 for weight in layer.weights), name
        checked.add(name)
    assert {"BatchNormalization", "GroupNormalization", "Softmax", "MaxPooling2D"} <= checked


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_no_kernel_is_skipped_with_a_reason(name):
    make, shape = SKIPPED[name]
    layer = make()
    layer.build((2, *shape))
    assert any(len(weight.shape) > 1 for weight in layer.weights)
    assert kernels(layer) == []
    (skipped,) = tfprune.sparsity_report(layer).skipped
    assert skipped.layer == layer.name and name in skipped.reason
    with pytest.raises(ValueError, match="the layer offers none"):
        Pruned(layer)


@pytest.mark.parametrize("policy", first("mixed_bfloat16", "float16", "float64"))
@pytest.mark.parametrize(
    "row",
    [
        *("ReversibleEmbedding, untied", "Conv2DTranspose", "SeparableConv2D", "ConvLSTM1D", "RNN of cells"),
        *("GroupQueryAttention", "TimeDistributed", "SpectralNormalization", "user's layer of layers"),
    ],
)
def test_dtype_policies_are_those_of_the_twin(row, policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        plain = model_of(row)
        wrapped = tfprune.wrap(plain, filters=".")
        for training in (False, True):
            assert_same(call(wrapped, row, training=training), call(plain, row, training=training))
        assert [variable.dtype for variable in wrapped.trainable_variables] == [
            variable.dtype for variable in plain.trainable_variables
        ]
    finally:
        keras.config.set_dtype_policy(previous)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("row", ["Dense", "Bidirectional", "SpectralNormalization", "user's layer of layers"])
def test_a_frozen_layer_stays_as_it_is(row, when):
    plain = model_of(row)
    (name,) = [layer.name for layer in plain.layers if kernels(layer) and "tokens" not in layer.name]
    if when == "before":
        plain.get_layer(name).trainable = False
    wrapped = tfprune.wrap(plain, filters=name)
    wrapped.get_layer(name).trainable = False
    assert wrapped.get_layer(name).trainable_variables == []
    tfprune.update_masks(wrapped, 0.5)
    before = [np.array(weight) for weight in wrapped.get_layer(name).layer.weights]
    assert all(mask.all() for mask, _ in kernels_of(wrapped))
    call(wrapped, row, training=False)
    assert_same([np.array(weight) for weight in wrapped.get_layer(name).layer.weights], before)


class Lift(keras.constraints.Constraint):
    """Moves zeros too, as no constraint of Keras does."""

    def __call__(self, w):
        return w + 0.25


@pytest.mark.parametrize(
    "constraint", first(Lift(), "max_norm", "non_neg", "unit_norm", keras.constraints.MinMaxNorm(0.5), count=2)
)
def test_a_constraint_lifts_no_masked_entry(constraint):
    def make():
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input(VECTOR), layers.Dense(4, kernel_constraint=constraint, name="dense")])

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, *VECTOR)).astype("float32"), rng.normal(size=(8, 4)).astype("float32")
    model, twin = tfprune.wrap(make()), make()
    for candidate in (model, twin):
        candidate.compile(keras.optimizers.SGD(0.1, momentum=0.9, clipvalue=0.5), "mse")
        candidate.fit(x, y, verbose=0)
    assert_same(values(model), values(twin))
    tfprune.update_masks(model, 0.5)
    model.fit(x, y, epochs=3, verbose=0)
    mask, kernel = kernels_of(model)[0]
    kernel = np.array(kernel)
    assert np.count_nonzero(kernel[mask == 0]) == 0 and np.count_nonzero(kernel[mask == 1]) > 0
    if constraint == "max_norm":
        assert np.linalg.norm(kernel, axis=0).max() <= 2 + 1e-6
    if constraint == "non_neg":
        assert kernel.min() >= 0
    assert np.isfinite(model.get_layer("dense").latent("kernel")).all()


def test_the_gradient_of_an_embedding_stays_sparse():
    pruned = Pruned(layers.Embedding(50, 4))
    pruned.build((None, 3))
    mask = np.random.default_rng(0).random((50, 4)) < 0.5
    pruned.set_mask("embeddings", mask)
    tokens = np.array([[1, 7, 7]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pruned(tokens, training=True))
    gradient = tape.gradient(loss, pruned.layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices) and gradient.values.shape == (3, 4)
    expected = np.zeros((50, 4), "float32")
    np.add.at(expected, tokens[0], mask[tokens[0]].astype("float32"))
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient), expected)


def test_parts_that_are_built_by_the_first_call_are_pruned_too():
    x = np.ones((2, *SERIES), "float32")
    names = {"kernel", "first/kernel", "second/kernel", "third/kernel", "fourth/kernel"}
    half_built = Parts()
    half_built.build((None, *SERIES))
    pruned = Pruned(half_built)
    pruned(x)
    assert pruned.masks.keys() == names
    only_first = Pruned(Parts(), weights=["first/kernel"])
    with pytest.raises(ValueError, match="Received: first/kernel.*Not built yet: .*first, .*call the layer on data"):
        only_first.build((None, *SERIES))


class Late(layers.Layer):
    """Makes its kernel in the call, which Keras refuses."""

    def call(self, inputs):
        self.kernel = self.add_weight(name="kernel", shape=(inputs.shape[-1], 3))
        return ops.matmul(inputs, self.kernel)


def test_a_layer_that_makes_weights_in_its_call_is_refused_as_keras_does():
    x = np.ones((2, 4), "float32")
    for layer in (Late(), Pruned(Late())):
        with pytest.raises(ValueError, match="All state must be created in the `__init__\\(\\)` method"):
            layer(x)


class Typo(layers.Layer):
    def build(self, shape):
        self.basis = self.add_weight(name="basis", shape=(shape[-1], 3))

    def call(self, inputs):
        return ops.matmul(inputs, self.basis)


tfprune.register_prunable(Typo, bases="io")


def test_a_rule_for_a_weight_that_does_not_exist_is_refused_by_name_and_reported_in_a_model():
    model = keras.Sequential([keras.Input((4,)), Typo(name="typo"), layers.Dense(2, name="dense")])
    before = [np.array(variable) for variable in model.variables]
    with pytest.raises(ValueError, match="the layer offers none"):
        Pruned(model.get_layer("typo"))
    with pytest.raises(ValueError, match="'typo/bases', which is found in none of dense/kernel"):
        tfprune.wrap(model, filters="typo/bases")
    reasons = {row.layer: row.reason for row in tfprune.sparsity_report(tfprune.wrap(model)).skipped}
    assert reasons["typo"] == "the rule for Typo names no weight that it has"
    assert_same([np.array(variable) for variable in model.variables], before)


class Twins(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(4, name="same"), {"other": layers.Dense(4, name="same")}]

    def call(self, inputs):
        return self.parts[1]["other"](self.parts[0](inputs))


def test_parts_of_one_name_are_refused_and_nothing_is_touched():
    model = keras.Sequential([keras.Input((4,)), Twins(name="twins")])
    before = [np.array(variable) for variable in model.variables]
    with pytest.raises(
        ValueError, match="two weights called twins/same/kernel in 'sequential.*Give each layer a name"
    ):
        tfprune.wrap(model)
    with pytest.raises(
        ValueError, match="two weights called same/kernel in 'twins'. Give each layer a name of its own"
    ):
        Pruned(model.get_layer("twins"))
    assert_same([np.array(variable) for variable in model.variables], before)
