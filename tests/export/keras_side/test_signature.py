"""Inputs of Keras models: read from the model, and arrays checked against them."""

import keras
import numpy as np
import pytest

from tfprune.export.keras_side.prepare import ModelInput, Signature, _smallest_vocabulary, signature

ONE = Signature((ModelInput("x", (None, 4), "float32"),), "array")
TWO = Signature((ModelInput("b", (None, 2), "float32"), ModelInput("a", (None, None), "int32")), "list")
X = np.arange(12).reshape(3, 4)


class Positions(keras.layers.Layer):
    """A table of positions, as KerasHub's PositionEmbedding: longer inputs do not fit it."""

    def __init__(self, sequence_length):
        super().__init__()
        self.sequence_length = sequence_length

    def build(self, shape):
        self.table = self.add_weight(shape=(self.sequence_length, shape[-1]))

    def call(self, inputs):
        return inputs + self.table[: keras.ops.shape(inputs)[1]]


def model_of(**inputs):
    tensors = {name: keras.Input(shape, name=name) for name, shape in inputs.items()}
    joined = keras.layers.Concatenate()(list(tensors.values()))
    return tensors, keras.layers.Dense(2)(joined)


def test_a_sequential_model_takes_one_array():
    model = keras.Sequential([keras.Input((6,), dtype="int32", name="tokens"), keras.layers.Embedding(9, 2)])
    assert signature(model) == Signature((ModelInput("tokens", (None, 6), "int32"),), "array")


def test_a_list_keeps_the_order_given():
    tensors, outputs = model_of(zeta=(3,), alpha=(4,))
    inputs = signature(keras.Model(list(tensors.values()), outputs))
    assert (inputs.names, inputs.form) == (["zeta", "alpha"], "list")
    assert inputs.pack({"alpha": 1, "zeta": 2}) == [2, 1]


def test_a_dict_is_read_by_its_keys():
    tensors, outputs = model_of(zeta=(3,), alpha=(4,))
    inputs = signature(keras.Model(tensors, outputs))
    assert inputs.form == "dict"
    assert {entry.name: entry.shape for entry in inputs.inputs} == {"zeta": (None, 3), "alpha": (None, 4)}
    assert inputs.pack({"alpha": 1, "zeta": 2}) == {"alpha": 1, "zeta": 2}


def test_what_is_no_built_model_is_refused():
    with pytest.raises(
        TypeError, match=r"Expected a Keras model\. Received: model=<Dense .*A layer becomes a model with"
    ):
        signature(keras.layers.Dense(2))
    with pytest.raises(ValueError, match=r"Received: 'late', whose input shape is unknown.*keras\.Input\(shape\)"):
        signature(keras.Sequential([keras.layers.Dense(2)], name="late"))


def test_a_layer_in_float64_is_named():
    layers = [keras.Input((6,)), keras.layers.Dense(4, dtype="float64", name="double"), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="whose layer 'double' computes in float64, for which TFLite has no"):
        signature(keras.Sequential(layers))


def test_a_subclassed_model_is_refused_with_the_way_out():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    mine = Mine()
    mine(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match=r"Expected a Sequential or Functional model\. Received: .* of class Mine"):
        signature(mine)
    inputs = keras.Input((3,), name="x")
    assert signature(keras.Model(inputs, mine(inputs))).names == ["x"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"name": "a b", "shape": (3,)}, "letters, digits, dots, hyphens and underscores .* Received: 'a b'"),
        ({"name": "s", "shape": (3,), "dtype": "string"}, "Expected inputs of numbers .* Received: 's' of strings"),
        ({"name": "x", "batch_shape": (4, 3)}, r"Expected a batch of None or 1 .* Received: 4\."),
    ],
)
def test_inputs_that_a_file_cannot_have_are_refused(inputs, message):
    tensor = keras.Input(**inputs)
    with pytest.raises(ValueError, match=message):
        signature(keras.Model(tensor, keras.layers.Identity()(tensor)))


def test_nested_inputs_and_outputs_are_refused():
    tensors, outputs = model_of(a=(3,), b=(4,))
    with pytest.raises(ValueError, match=r"flat dict as the input .* Received: a list at 1"):
        signature(keras.Model([tensors["a"], [tensors["b"]]], outputs))
    with pytest.raises(ValueError, match=r"flat dict as the output .* Received: a list at 0"):
        signature(keras.Model(tensors, [[outputs], outputs]))


def test_arrays_come_back_by_name_in_the_type_of_the_input():
    arrays = ONE.arrays(X, "check_on")
    assert arrays["x"].dtype == np.float32
    np.testing.assert_array_equal(arrays["x"], X)
    assert list(ONE.arrays([X], "check_on")) == list(ONE.arrays({"x": X}, "check_on")) == ["x"]
    first, second = np.ones((3, 2)), np.zeros((3, 5), "int64")
    for batch in ([first, second], (first, second), {"a": second, "b": first}):
        arrays = TWO.arrays(batch, "check_on")
        assert (arrays["b"].shape, arrays["a"].shape, arrays["a"].dtype) == ((3, 2), (3, 5), np.int32)


@pytest.mark.parametrize(
    ("wanted", "batch", "message"),
    [
        (ONE, X[0], r"shape \(samples, 4\) for input 'x' in check_on\. Received: shape \(4,\)\. The first dimension"),
        (ONE, X[0, 0], r"Received: shape \(\)\. The first dimension counts the samples, at least 1\.$"),
        (ONE, X[:, :3], r"shape \(samples, 4\) for input 'x' in check_on\. Received: shape \(3, 3\)\.$"),
        (ONE, X[:0], r"Received: shape \(0, 4\).*at least 1"),
        (ONE, (X, X[:, 0]), "Expected one array in check_on. Received: 2 arrays. The model takes 'x' alone"),
        (ONE, X.astype(str), "Expected numbers for input 'x' .* Received: dtype <U"),
        (ONE, X * np.nan, "Expected finite numbers for input 'x'"),
        (ONE, X + 1e300, "Expected finite numbers .* more than float32 holds"),
        (ONE, {"y": X}, r"Expected the inputs \['x'\] in check_on\. Received: \['y'\]"),
        (TWO, X, r"Expected a list of 2 arrays or a dict by name .* Received: a single array\. .*\['b', 'a'\]"),
        (TWO, [X[:, :2]], "Received: 1 arrays"),
        (TWO, [X[:, :2], X / 2], "Expected integers for input 'a' of type int32 .* Received: dtype float64"),
        (TWO, [X[:, :2], X + 2**40], "Expected values that int32 holds for input 'a'"),
        (TWO, [X[:2, :2], X], r"as many samples for every input in check_on\. Received: \{'b': 2, 'a': 3\}"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(wanted, batch, message):
    with pytest.raises(ValueError, match=message):
        wanted.arrays(batch, "check_on")


def test_random_inputs_are_the_same_every_time_and_within_the_vocabulary():
    model = keras.Sequential([keras.Input((), dtype="int32"), keras.layers.Embedding(3, 2)])
    samples = TWO.random(200, model=model)
    assert samples["b"].shape == (200, 2)
    assert samples["b"].dtype == np.float32
    assert set(np.unique(samples["a"])) == {0, 1, 2}
    np.testing.assert_array_equal(samples["b"], TWO.random(200, model=model)["b"])


@pytest.mark.parametrize(("positions", "length"), [(12, 12), (500, 32)])
def test_random_inputs_are_not_longer_than_the_positions_of_a_model(positions, length):
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(9, 4)(inputs)
    model = keras.Model(inputs, Positions(positions)(embedded))
    of_model = signature(model)
    (samples,) = of_model.random(8, model=model).values()
    assert samples.shape == (8, length)
    assert model(samples).shape == (8, length, 4)


def test_the_smallest_embedding_bounds_the_tokens():
    inputs = keras.Input((4,), dtype="int32")
    inner = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(5, 2)])
    outputs = keras.layers.Add()([keras.layers.Embedding(9, 2)(inputs), inner(inputs)])
    assert _smallest_vocabulary(keras.Model(inputs, outputs)) == 5
    assert _smallest_vocabulary(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])) == 2


def test_a_batch_of_layers_that_keep_states_gets_advice_that_keras_allows():
    def build(batch):
        stack = [
            keras.layers.Bidirectional(keras.layers.LSTM(3, stateful=True), name="memory"),
            keras.layers.Dense(1),
        ]
        return keras.Sequential([keras.Input((5, 2), batch_size=batch), *stack])

    model = build(4)
    with pytest.raises(ValueError, match=r"Received: 4\. Build .*batch_size=1\)`, because 'memory.*' keeps states"):
        signature(model)
    other = build(1)
    other.set_weights(model.get_weights())
    assert signature(other).batch == 1
