"""Samples: whatever they come in, the converter observes and the check compares the same arrays."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from tiers import first

from tfprune.base.spec import ArgumentError, ArgumentWarning
from tfprune.export.device.runner import Runner
from tfprune.export.keras_side.convert import _MOST_SAMPLES, _split, labeled_arrays, read_calibration, read_check_on
from tfprune.export.keras_side.prepare import ModelInput, Signature, signature
from tfprune.export.keras_side.to_tflite import to_tflite

ONE = Signature((ModelInput("x", (None, 4), "float32"),), "array")
TWO = Signature((ModelInput("b", (None, 2), "float32"), ModelInput("a", (None, None), "int32")), "list")
NAMED = Signature(TWO.inputs, "dict")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype("float32")
LABELS = np.arange(40)
LEFT, RIGHT = RNG.normal(size=(40, 3)).astype("float32"), RNG.normal(size=(40, 2)).astype("float32")


class Sequence(keras.utils.PyDataset):
    """Batches of 16 samples, labels included."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(16 * index, 16 * index + 16)
        return keras.tree.map_structure(lambda array: array[part], (self.x, LABELS))


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(16)


ONE_INPUT = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "array and labels": lambda: (X, LABELS),
    "array, labels and weights": lambda: (X, LABELS, np.ones(40)),
    "dict": lambda: {"vector": X},
    "list of batches": lambda: [X[:32], X[32:]],
    "iterator": lambda: iter([X[:7], X[7:]]),
    "batches with labels": lambda: [(X[:7], LABELS[:7]), (X[7:], LABELS[7:])],
    "batches as PyTorch's loaders give them": lambda: [[X[:7], LABELS[:7]], [X[7:], LABELS[7:]]],
    "batches by name": lambda: [{"vector": X[:7]}, {"vector": X[7:]}],
    "data set": lambda: dataset(X),
    "data set with labels": lambda: dataset(X, LABELS),
    "data set by name": lambda: dataset({"vector": X}, LABELS),
    "PyDataset": lambda: Sequence(X),
}
TWO_INPUTS = {
    "list": lambda: [LEFT, RIGHT],
    "tuple": lambda: (LEFT, RIGHT),
    "dict": lambda: {"right": RIGHT, "left": LEFT},
    "list and labels": lambda: ([LEFT, RIGHT], LABELS),
    "list of batches": lambda: [[LEFT[:9], RIGHT[:9]], [LEFT[9:], RIGHT[9:]]],
    "batches with labels": lambda: [((LEFT[:9], RIGHT[:9]), LABELS[:9]), ((LEFT[9:], RIGHT[9:]), LABELS[9:])],
    "data set": lambda: dataset(LEFT, RIGHT),
    "data set with labels": lambda: dataset((LEFT, RIGHT), LABELS),
    "data set by name": lambda: dataset({"left": LEFT, "right": RIGHT}, LABELS),
    "PyDataset": lambda: Sequence([LEFT, RIGHT]),
}


def one_input():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,), name="vector"), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])


def two_inputs():
    keras.utils.set_random_seed(2)
    inputs = [keras.Input((3,), name="left"), keras.Input((2,), name="right")]
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(inputs)))


@pytest.fixture(scope="module")
def by_arrays(tmp_path_factory, converting_here):
    """Each model, what it predicts, and its int8 file as arrays give it."""
    made = {}
    with converting_here():
        for build, x in ((one_input, X), (two_inputs, [LEFT, RIGHT])):
            path = tmp_path_factory.mktemp("arrays") / "file"
            model = build()
            to_tflite(model, path, quantize="int8", calibration=x, check_on=x)
            made[build] = model, model.predict(x, verbose=0), path.read_bytes()
    return made


FORMS = [pytest.param(one_input, make, id=f"one input: {kind}") for kind, make in ONE_INPUT.items()]
FORMS += [pytest.param(two_inputs, make, id=f"two inputs: {kind}") for kind, make in TWO_INPUTS.items()]


EXPORTED = [form for form in FORMS if form.id.endswith((": iterator", ": PyDataset", ": data set by name", ": dict"))]


@pytest.mark.parametrize(("build", "make"), first(*EXPORTED))
def test_every_form_of_the_data_gives_the_file_that_arrays_give(by_arrays, tmp_path, build, make):
    model, expected, content = by_arrays[build]
    report = to_tflite(model, tmp_path / "file", quantize="int8", calibration=make(), check_on=make())
    assert (tmp_path / "file").read_bytes() == content
    outputs = Runner(content).predict(X if build is one_input else [LEFT, RIGHT])
    assert report.max_abs_diff == pytest.approx(np.abs(outputs - expected).max(), abs=1e-6)  # compared on all samples
    assert report.max_abs_diff < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("build", "make"), FORMS)
def test_every_form_of_the_data_is_read_as_the_arrays_it_holds(build, make):
    inputs = signature(build())
    wanted = {"vector": X} if build is one_input else {"left": LEFT, "right": RIGHT}
    calibration = read_calibration(make(), inputs)
    for arrays in (
        read_check_on(make(), inputs),
        {name: np.concatenate([batch[name] for batch in calibration]) for name in wanted},
    ):
        assert arrays.keys() == wanted.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, wanted[name])


def test_calibration_is_split_into_single_samples_in_order():
    samples = _split(read_calibration([X[:2], X[2:5]], ONE))
    pairs = _split(read_calibration([X[:2], X[2:5]], ONE), rows=2)
    np.testing.assert_array_equal(np.concatenate([pair["x"] for pair in pairs]), X[[0, 1, 2, 3, 4, 4]])
    assert [sample["x"].shape for sample in samples] == [(1, 4)] * 5
    np.testing.assert_array_equal(np.concatenate([sample["x"] for sample in samples]), X[:5])


def test_calibration_is_read_no_further_than_needed():
    def endless():
        while True:
            yield many[:300]

    many = RNG.normal(size=(900, 4))
    repeated = tf.data.Dataset.from_tensor_slices(many[:300]).batch(64).repeat()
    for data in (endless(), repeated, many):
        assert len(_split(read_calibration(data, ONE))) == _MOST_SAMPLES


def test_data_without_an_end_are_refused_where_all_are_compared():
    repeated = tf.data.Dataset.from_tensor_slices(X).batch(8).repeat()
    with pytest.raises(ValueError, match=r"Expected `check_on` to end\. .* such as check_on\.take\(100\)"):
        read_check_on(repeated, ONE)


def test_batches_of_different_lengths_are_refused_where_they_are_joined():
    batches = [[X[:3, :2], np.ones((3, length), int)] for length in (5, 7)]
    assert [batch["a"].shape for batch in read_calibration(batches, TWO)] == [(3, 5), (3, 7)]
    with pytest.raises(ValueError, match=r"one shape for input 'a' in `check_on`\. Received: \(5,\), \(7,\)\. Pad"):
        read_check_on(batches, TWO)


@pytest.mark.parametrize(("read", "argument"), [(read_calibration, "calibration"), (read_check_on, "check_on")])
@pytest.mark.parametrize(
    ("wanted", "data", "message"),
    [
        (ONE, X[0], r"shape \(samples, 4\) for input 'x' in batch 0 of `{}`\. Received: shape \(4,\)"),
        (ONE, [X, X[:, :2]], r"shape \(samples, 4\) for input 'x' in batch 1 of `{}`\. Received: shape \(40, 2\)"),
        (ONE, X[:0], "Expected `{}` with at least one sample. Received: none. Is an iterator used up?"),
        (ONE, [], "Expected `{}` with at least one sample. Received: none"),
        (ONE, iter(()), "Expected `{}` with at least one sample. Received: none"),
        (ONE, [X, X + np.inf], "Expected finite numbers for input 'x' in batch 1 of `{}`. Received: NaN, infinity"),
        (ONE, (X, LABELS[:8]), r"the arrays of `{}` to have the same number of samples. Received: \[8, 40\]"),
        (ONE, [(X, LABELS, LABELS, LABELS)], r"\(x, y, sample weights\) in `{}`. Received: 4 parts"),
        (
            ONE,
            ([X, X], LABELS),
            "Expected one array in batch 0 of `{}`. Received: 2 arrays. The model takes 'x' alone",
        ),
        (ONE, {"y": X}, r"Expected the inputs \['x'\] in batch 0 of `{}`. Received: \['y'\]"),
        (TWO, X, r"list of 2 arrays or a dict by name in batch 0 of `{}`. Received: a single array. .*\['b', 'a'\]"),
        (TWO, [X, X, X], "list of 2 arrays or a dict by name in batch 0 of `{}`. Received: 3 arrays"),
        (NAMED, {"a": LABELS[:, None]}, r"Expected the inputs \['b', 'a'\] in batch 0 of `{}`. Received: \['a'\]"),
        (TWO, [X[:, :2], X], "Expected integers for input 'a' of type int32 in batch 0 of `{}`"),
    ],
)
def test_data_that_do_not_fit_are_refused(read, argument, wanted, data, message):
    with pytest.raises(ValueError, match=message.replace("{}", argument)):
        read(data, wanted)


@pytest.mark.parametrize(("read", "argument"), [(read_calibration, "calibration"), (read_check_on, "check_on")])
@pytest.mark.parametrize("data", [3, "images.npy", b"images"])
def test_what_holds_no_batches_is_refused(read, argument, data):
    with pytest.raises(
        TypeError, match=f"Expected `{argument}` to be a tuple .* object of type {type(data).__name__}"
    ):
        read(data, ONE)


@pytest.mark.parametrize(("read", "argument"), [(read_calibration, "calibration"), (read_check_on, "check_on")])
def test_numbers_in_a_list_are_refused_by_that_name(read, argument):
    with pytest.raises(TypeError, match=f"arrays in `{argument}`. Received: numbers in a list .* as one NumPy array"):
        read(X[:24].tolist(), ONE)


BATCHES = [(X[start : start + 16], LABELS[start : start + 16]) for start in (0, 16, 32)]


@pytest.mark.parametrize("data", [(X, LABELS), dataset(X, LABELS), Sequence(X), BATCHES, iter(BATCHES)])
def test_labeled_data_of_each_kind_become_the_same_arrays(data):
    x, y = labeled_arrays(data, inputs=1, argument="train_data")
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, LABELS)


def test_labeled_data_of_several_inputs_are_joined_for_each():
    batch = ({"a": np.ones((2, 3)), "b": np.zeros((2, 1))}, np.zeros(2))
    x, y = labeled_arrays([batch, batch], inputs=2, argument="train_data")
    assert {name: array.shape for name, array in x.items()} == {"a": (4, 3), "b": (4, 1)}
    assert y.shape == (4,)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (dataset(X, LABELS).repeat(), ValueError, "`train_data` to end"),
        (dataset(X), ValueError, "labels in `train_data`. Received: samples only"),
        ([(X, LABELS, LABELS)], ValueError, "Received: sample weights"),
        ([(X, LABELS), (LEFT, LABELS)], ValueError, "one shape in `train_data`"),
        ([], ValueError, "at least one sample"),
        (X, TypeError, "`train_data` to be a tuple"),
        ((X.tolist(), LABELS.tolist()), TypeError, "arrays in `train_data`. Received: numbers in a list"),
        ("x.npy", TypeError, "`train_data` to be a tuple"),
    ],
)
def test_labeled_data_that_cannot_be_read_are_refused(data, error, words):
    with pytest.raises(error, match=words):
        labeled_arrays(data, inputs=1, argument="train_data")


@pytest.mark.parametrize(
    "constant", [np.zeros((200, 4)), np.repeat(X[:1], 200, axis=0), np.zeros((1, 4)), [X[:1], X[:1]]]
)
def test_calibration_that_moves_no_range_is_refused(constant):
    with refused(ArgumentError, "calibration"):
        read_calibration(constant, ONE)


@pytest.mark.parametrize("few", [X[:2], X[:1]])
def test_one_sample_of_several_numbers_calibrates(few):
    assert read_calibration(few, ONE)


def test_an_input_that_stays_the_same_while_others_vary_is_named():
    inputs = Signature((ModelInput("b", (None, 3), "float32"), ModelInput("state", (None, 2), "float32")), "list")
    with pytest.warns(ArgumentWarning, match="the same values of 'state' in all 40 samples"):
        assert read_calibration([LEFT, np.zeros_like(RIGHT)], inputs)


@pytest.mark.parametrize("argument", ["calibration", "check_on"])
def test_samples_with_the_same_outputs_are_no_evidence(argument, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    data = {"calibration": X, argument: np.concatenate([X, -X])[:, :1] * np.float32([1, 0, 0, 0])}
    model.layers[0].set_weights([np.eye(4, 3, k=-1, dtype="float32"), np.ones(3, "float32")])
    with refused(ArgumentError, argument):
        to_tflite(model, tmp_path / "m.tflite", quantize="int8", **data)
    assert not [*tmp_path.iterdir()]


def make_batches():
    yield X


@pytest.mark.parametrize("argument", ["calibration", "check_on"])
def test_a_function_that_makes_data_is_to_be_called(argument):
    read = read_calibration if argument == "calibration" else read_check_on
    with pytest.raises(TypeError, match=r"type function. Call it: make_batches\(\)\."):
        read(make_batches, ONE)
    read(make_batches(), ONE)
