"""Prunable weights: which ones a layer offers, and how each is seen as outputs by inputs."""

from __future__ import annotations

import re
import types

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfprune.models.anatomy import (
    Kernel,
    as_numpy,
    from_matrix,
    is_registered,
    kernels,
    register_prunable,
    to_matrix,
    walk,
)

IMAGE, SERIES, VOLUME = (None, 8, 8, 4), (None, 8, 4), (None, 6, 6, 6, 2)


def built(layer: layers.Layer, shape: tuple[int | None, ...]) -> layers.Layer:
    layer.build(shape)
    return layer


def offered(layer: layers.Layer) -> dict[str, str]:
    return {kernel.path: kernel.axes for kernel in kernels(layer)}


# Layer, input shape, and each weight's matrix by index arithmetic, [output][position][input] or [output][input].
# What a loop variable runs over is read off Keras' documentation of the kernel's shape.
CASES = {
    "Dense": (
        lambda: layers.Dense(3),
        (None, 5),
        {"kernel": lambda k: [[k[i, o] for i in range(5)] for o in range(3)]},
    ),
    "Dense(1)": (lambda: layers.Dense(1), (None, 5), {"kernel": lambda k: [[k[i, 0] for i in range(5)]]}),
    "Embedding": (
        lambda: layers.Embedding(7, 3),
        (None, 5),
        {"embeddings": lambda k: [[k[i, o] for i in range(7)] for o in range(3)]},
    ),
    # Looking up: a row per token. Turning back: the tokens are the outputs.
    "ReversibleEmbedding": (
        lambda: layers.ReversibleEmbedding(7, 3, tie_weights=False),
        (None, 5),
        {
            "embeddings": lambda k: [[k[i, o] for i in range(7)] for o in range(3)],
            "reverse_embeddings": lambda k: [[k[i, o] for i in range(3)] for o in range(7)],
        },
    ),
    "Conv1D": (
        lambda: layers.Conv1D(3, 2),
        SERIES,
        {"kernel": lambda k: [[[k[x, i, o] for i in range(4)] for x in range(2)] for o in range(3)]},
    ),
    "Conv2D": (
        lambda: layers.Conv2D(5, (3, 2)),
        IMAGE,
        {"kernel": lambda k: [[[k[p // 2, p % 2, i, o] for i in range(4)] for p in range(6)] for o in range(5)]},
    ),
    "Conv2D in groups": (
        lambda: layers.Conv2D(6, 3, groups=2),
        IMAGE,
        {"kernel": lambda k: [[[k[p // 3, p % 3, i, o] for i in range(2)] for p in range(9)] for o in range(6)]},
    ),
    "Conv2D, channels first": (
        lambda: layers.Conv2D(5, (3, 2), data_format="channels_first"),
        (None, 4, 8, 8),
        {"kernel": lambda k: [[[k[p // 2, p % 2, i, o] for i in range(4)] for p in range(6)] for o in range(5)]},
    ),
    "Conv3D": (
        lambda: layers.Conv3D(3, (2, 3, 4)),
        VOLUME,
        {
            "kernel": lambda k: [
                [[k[p // 12, p // 4 % 3, p % 4, i, o] for i in range(2)] for p in range(24)] for o in range(3)
            ]
        },
    ),
    "Conv1DTranspose": (
        lambda: layers.Conv1DTranspose(3, 2),
        SERIES,
        {"kernel": lambda k: [[[k[x, o, i] for i in range(4)] for x in range(2)] for o in range(3)]},
    ),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(5, (3, 2)),
        IMAGE,
        {"kernel": lambda k: [[[k[p // 2, p % 2, o, i] for i in range(4)] for p in range(6)] for o in range(5)]},
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(3, (2, 3, 4)),
        VOLUME,
        {
            "kernel": lambda k: [
                [[k[p // 12, p // 4 % 3, p % 4, o, i] for i in range(2)] for p in range(24)] for o in range(3)
            ]
        },
    ),
    # A channel and its multiplier are the output; a position of it has one input.
    "DepthwiseConv1D": (
        lambda: layers.DepthwiseConv1D(3, depth_multiplier=2),
        SERIES,
        {"kernel": lambda k: [[[k[x, o // 2, o % 2]] for x in range(3)] for o in range(8)]},
    ),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D((3, 2), depth_multiplier=2),
        IMAGE,
        {"kernel": lambda k: [[[k[p // 2, p % 2, o // 2, o % 2]] for p in range(6)] for o in range(8)]},
    ),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(5, 3, depth_multiplier=2),
        SERIES,
        {
            "depthwise_kernel": lambda k: [[[k[x, o // 2, o % 2]] for x in range(3)] for o in range(8)],
            "pointwise_kernel": lambda k: [[[k[0, i, o] for i in range(8)]] for o in range(5)],
        },
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(5, (3, 2)),
        IMAGE,
        {
            "depthwise_kernel": lambda k: [[[k[p // 2, p % 2, o, 0]] for p in range(6)] for o in range(4)],
            "pointwise_kernel": lambda k: [[[k[0, 0, i, o] for i in range(4)]] for o in range(5)],
        },
    ),
    # Two heads of three: output 3 * head + place.
    "EinsumDense, heads out": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        SERIES,
        {"kernel": lambda k: [[k[i, o // 3, o % 3] for i in range(4)] for o in range(6)]},
    ),
    "EinsumDense, heads in": (
        lambda: layers.EinsumDense("abcd,cde->abe", (None, 3)),
        (None, 6, 2, 4),
        {"kernel": lambda k: [[k[i // 4, i % 4, o] for i in range(8)] for o in range(3)]},
    ),
    "EinsumDense, kernel turned": (
        lambda: layers.EinsumDense("...x,yx->...y", 3),
        (None, 5),
        {"kernel": lambda k: [[k[o, i] for i in range(5)] for o in range(3)]},
    ),
    # The letter b is kept in the output: each of the 8 places has outputs of its own.
    "EinsumDense, a kernel per place": (
        lambda: layers.EinsumDense("abc,bcd->abd", (8, 3)),
        SERIES,
        {"kernel": lambda k: [[k[o // 3, i, o % 3] for i in range(4)] for o in range(24)]},
    ),
}


def recurrent(layer_class: type[layers.Layer], gates: int, shape: tuple[int | None, ...]) -> tuple:
    """Three units, whose gates lie one after the other along the outputs."""
    outputs = 3 * gates
    return (
        lambda: layer_class(3),
        shape,
        {
            "kernel": lambda k: [[k[i, o] for i in range(4)] for o in range(outputs)],
            "recurrent_kernel": lambda k: [[k[i, o] for i in range(3)] for o in range(outputs)],
        },
    )


for name, gates in (("SimpleRNN", 1), ("LSTM", 4), ("GRU", 3)):
    CASES[name] = recurrent(getattr(layers, name), gates, SERIES)
    CASES[f"{name}Cell"] = recurrent(getattr(layers, f"{name}Cell"), gates, (None, 4))


def convolutional(rank: int) -> tuple:
    """Two filters with four gates each, and two kernel positions along every dimension."""

    def matrix(inputs):
        return lambda k: [
            [[k[(*np.unravel_index(p, (2,) * rank), i, o)] for i in range(inputs)] for p in range(2**rank)]
            for o in range(8)
        ]

    shape = (None, 3, *[4] * rank, 5)
    return (
        lambda: getattr(layers, f"ConvLSTM{rank}D")(2, 2),
        shape,
        {"kernel": matrix(5), "recurrent_kernel": matrix(2)},
    )


for rank in (1, 2, 3):
    CASES[f"ConvLSTM{rank}D"] = convolutional(rank)


@pytest.mark.parametrize("case", CASES)
def test_matrix_view_by_index_arithmetic(case):
    make, shape, expected = CASES[case]
    all_kernels = kernels(built(make(), shape))
    assert [kernel.path for kernel in all_kernels] == list(expected)
    for kernel in all_kernels:
        array = np.arange(np.prod(kernel.variable.shape)).reshape(kernel.variable.shape)
        matrix = np.array(expected[kernel.path](array))
        np.testing.assert_array_equal(to_matrix(array, kernel), matrix)
        assert kernel.matrix_shape == matrix.shape
        np.testing.assert_array_equal(from_matrix(matrix, kernel), array)


def test_every_registered_layer_has_a_case():
    from tfprune.models.anatomy import _REGISTRY

    in_keras = {cls.__name__ for cls in _REGISTRY if getattr(layers, cls.__name__, None) is cls}
    assert in_keras == {re.match(r"\w+", case)[0] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_what_mixes_inputs(case):
    make, shape, _ = CASES[case]
    for kernel in kernels(built(make(), shape)):
        assert kernel.mixes_inputs == ("depthwise" not in kernel.path and not case.startswith("Depthwise"))


AXES = st.lists(st.sampled_from("oicphw"), min_size=1, max_size=6).map("".join)


@given(AXES, st.data())
def test_matrix_view_round_trip(axes, data):
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * len(axes)))
    kernel = Kernel("kernel", types.SimpleNamespace(shape=shape), axes)
    array = np.arange(np.prod(shape)).reshape(shape)
    matrix = to_matrix(array, kernel)
    assert matrix.shape == kernel.matrix_shape
    assert matrix.ndim == (3 if set(axes) - set("oic") else 2)
    np.testing.assert_array_equal(from_matrix(matrix, kernel), array)
    # A row of the matrix is one output: along it no output axis moves.
    places = np.stack(np.unravel_index(matrix, shape), axis=-1)
    for axis, letter in enumerate(axes):
        moves = {"o": 0, "c": 0, "i": -1}.get(letter, 1)
        others = [dimension for dimension in range(matrix.ndim) if dimension != moves % matrix.ndim]
        assert (np.ptp(places[..., axis], axis=tuple(others)) == 0).all()


def test_matrix_view_of_a_dense_kernel_is_no_copy():
    kernel = kernels(built(layers.Dense(3), (None, 5)))[0]
    array = np.zeros((5, 3), dtype=np.float32)
    assert np.shares_memory(to_matrix(array, kernel), array)


def test_as_numpy_keeps_value_and_type():
    for dtype in ("float32", "bfloat16"):
        variable = keras.Variable([[1.0, -2.0]], dtype=dtype)
        assert as_numpy(variable).dtype == dtype
        np.testing.assert_array_equal(as_numpy(variable).astype("float32"), [[1, -2]])


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (
            lambda: layers.Bidirectional(layers.LSTM(2, name="lstm")),
            SERIES,
            {
                "forward_lstm/kernel": "io",
                "forward_lstm/recurrent_kernel": "io",
                "backward_lstm/kernel": "io",
                "backward_lstm/recurrent_kernel": "io",
            },
        ),
        (lambda: layers.TimeDistributed(layers.Conv1D(2, 2, name="conv")), (None, 3, 8, 4), {"conv/kernel": "wio"}),
        (lambda: layers.BatchNormalization(), IMAGE, {}),
        (lambda: layers.LayerNormalization(), IMAGE, {}),
        (lambda: layers.PReLU(), IMAGE, {}),
        (lambda: layers.ReLU(), IMAGE, {}),
    ],
)
def test_layers_that_hold_others_and_layers_without_kernels(make, shape, expected):
    assert offered(built(make(), shape)) == expected


def test_attention():
    layer = layers.MultiHeadAttention(2, 3)
    layer(np.zeros((1, 5, 4)), np.zeros((1, 6, 4)))
    assert offered(layer) == {
        "query/kernel": "ioo",
        "key/kernel": "ioo",
        "value/kernel": "ioo",
        "attention_output/kernel": "iio",
    }


def test_an_unbuilt_layer_offers_nothing():
    assert kernels(layers.Dense(3)) == []


def test_quantized_kernels_are_left_alone():
    layer = built(layers.Dense(4), (None, 8))
    layer.quantize("int8")
    assert kernels(layer) == []


class Gated(layers.Layer):
    """An unregistered layer with weights of its own and a sublayer."""

    def build(self, input_shape):
        width = input_shape[-1]
        self.kernel = self.add_weight(name="kernel", shape=(2, width, 5))
        self.gate = self.add_weight(name="gate", shape=(width, 5))
        self.inner = layers.Dense(5, name="inner")
        self.inner.build(input_shape)


class Vector(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1],))


def test_unknown_layers_offer_their_own_kernel():
    layer = built(Gated(name="gated"), (None, 3))
    assert offered(layer) == {"kernel": "pio", "inner/kernel": "io"}
    assert not is_registered(layer)
    assert kernels(layer)[0].matrix_shape == (5, 2, 3)


def test_a_kernel_of_one_dimension_is_no_matrix():
    assert kernels(built(Vector(), (None, 3))) == []


class Doubled(layers.Dense):
    """A subclass that adds layers with kernels of other ranks."""

    def build(self, input_shape):
        super().build(input_shape)
        self.second = layers.Dense(2, name="second")
        self.second.build(input_shape)
        self.conv = layers.Conv1D(2, 2, name="conv")
        self.conv.build(SERIES)


def test_a_subclass_is_pruned_as_its_base_and_its_sublayers_as_themselves():
    layer = built(Doubled(3), (None, 5))
    assert is_registered(layer)
    assert offered(layer) == {"kernel": "io", "second/kernel": "io", "conv/kernel": "wio"}
    places = {kernel.path: kernel.variable for kernel in kernels(layer)}
    assert places["kernel"] is layer.kernel
    assert places["second/kernel"] is layer.second.kernel


class Basis(layers.Layer):
    def __init__(self, *, turned=False, **kwargs):
        super().__init__(**kwargs)
        self.turned = turned

    def build(self, input_shape):
        shape = (4, input_shape[-1])
        self.basis = self.add_weight(name="basis", shape=shape[::-1] if self.turned else shape)
        self.kernel = self.add_weight(name="kernel", shape=(3, 3))


class SubBasis(Basis):
    pass


class OwnRuleBasis(Basis):
    pass


def test_register_names_exactly_what_is_pruned():
    assert offered(built(Basis(), (None, 5))) == {"kernel": "io"}
    register_prunable(Basis, basis="oi")
    assert offered(built(Basis(), (None, 5))) == {"basis": "oi"}
    assert offered(built(SubBasis(), (None, 5))) == {"basis": "oi"}
    register_prunable(OwnRuleBasis, kernel="oi", basis="io")
    assert offered(built(OwnRuleBasis(), (None, 5))) == {"basis": "io", "kernel": "oi"}
    register_prunable(Basis, basis=lambda layer: "io" if layer.turned else "oi")
    assert offered(built(Basis(turned=True), (None, 5))) == {"basis": "io"}
    for turned in (True, False):
        assert kernels(built(SubBasis(turned=turned), (None, 5)))[0].matrix_shape == (4, 5)


class Wrong(Basis):
    pass


@pytest.mark.parametrize(
    ("axes", "received"),
    [("hwio", "'hwio'"), (lambda layer: "o", "'o'"), (lambda layer: None, "None")],
    ids=["text", "function that gives a text", "function that gives None"],
)
def test_axes_that_do_not_fit_are_refused(axes, received):
    register_prunable(Wrong, basis=axes)
    message = (
        "Expected one axis letter per dimension of wrong/basis of shape (4, 5). Received: "
        f"basis={received} registered for Wrong"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        kernels(built(Wrong(name="wrong"), (None, 5)))


@pytest.mark.parametrize(
    ("layer_class", "axes", "error", "message"),
    [
        (int, {"kernel": "io"}, TypeError, "subclass of keras.layers.Layer. Received: layer_class=<class 'int'>"),
        ("Dense", {"kernel": "io"}, TypeError, "layer_class='Dense' of type str. Pass the class itself, such as"),
        (Vector, {}, ValueError, 'such as register_prunable(Vector, kernel="io"). Received none'),
        (Vector, {"kernel": 3}, TypeError, "as text, such as 'hwio', or a function. Received: kernel=3"),
        (
            Vector,
            {"kernel": "hwi"},
            ValueError,
            "an output axis `o` among the letters. Received: kernel='hwi'. Write one",
        ),
        (Vector, {"kernel": ""}, ValueError, "Received: kernel=''"),
    ],
)
def test_register_refuses(layer_class, axes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        register_prunable(layer_class, **axes)
    assert not is_registered(Vector())


class Nest(layers.Layer):
    """Layers as attributes, in lists, in dicts, in lists of dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = layers.Dense(2, name="one")
        self.many = [layers.Dense(2, name="two"), (layers.Dense(2, name="three"),)]
        self.named = {"a": layers.Dense(2, name="four"), "b": [layers.Dense(2, name="five")]}
        self.again = self.one

    def build(self, input_shape):
        for _, layer in walk(self):
            if layer is not self:
                layer.build(input_shape)


def test_layers_are_found_wherever_they_are_held_and_once():
    layer = built(Nest(), (None, 3))
    assert offered(layer) == {f"{name}/kernel": "io" for name in ("one", "two", "three", "four", "five")}


def test_walk_of_a_nested_model():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="dense")], name="inner")
    inputs = keras.Input((3,), name="inputs")
    shared = layers.Dense(3, name="shared")
    model = keras.Model(inputs, shared(shared(inner(inputs))), name="outer")
    assert [path for path, _ in walk(model)] == ["", "inputs", "inner", "inner/dense", "shared"]
    assert offered(model) == {"inner/dense/kernel": "io", "shared/kernel": "io"}
    assert [path for path, _ in walk(model, stop=keras.Sequential)] == ["", "inputs", "inner", "shared"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(3, name="first"), layers.Dense(3, name="second")]

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


def test_a_subclassed_model():
    model = Subclassed()
    model(np.zeros((1, 3)))
    assert offered(model) == {"first/kernel": "io", "second/kernel": "io"}


class Clash(layers.Layer):
    def build(self, input_shape):
        self.parts = [layers.Dense(2, name="same"), layers.Dense(2, name="same")]
        for part in self.parts:
            part.build(input_shape)


def test_two_weights_of_one_path_are_refused():
    message = "Expected layers to have different names. Received two weights called same/kernel"
    with pytest.raises(ValueError, match=message):
        kernels(built(Clash(), (None, 3)))


def test_a_parent_that_is_held_by_its_child_is_entered_once():
    parent = built(Nest(name="parent"), (None, 3))
    child = layers.Dense(2, name="child")
    child.build((None, 3))
    object.__setattr__(child, "owner", parent)
    assert [path for path, _ in walk(child)][:3] == ["", "parent", "parent/one"]
    object.__setattr__(parent.one, "owner", parent)
    assert len(kernels(parent)) == 5


def test_get_prunable_weights_has_to_return_weights_of_the_layer():
    class Wrong(layers.Dense):
        def get_prunable_weights(self):
            return [self.kernel * 1]

    layer = Wrong(3, name="wrong")
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"get_prunable_weights to return weights of layer 'wrong' \(Wrong\)"):
        kernels(layer)
