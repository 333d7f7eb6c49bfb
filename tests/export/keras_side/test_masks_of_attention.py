"""Masks of attention in 8-bit files: the scores beside a constant that only means "never" keep their resolution."""

import re

import keras
import numpy as np
import pytest
from tiers import in_test_ci

from tfprune.export import Quantization, Runner, quantization_error, to_tflite
from tfprune.export.device.quantization_error import QuantizationErrorReport, QuantizationErrorRow
from tfprune.export.file import schema
from tfprune.export.file.document import NamedTensors, add_constant, add_operator, inputs_of
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.rewrite import fewest_in_float
from tfprune.export.rewriting.weights import clamp_masks

layers = keras.layers
SCORES = (-3.0, 5.0)
LENGTH, WIDTH = 6, 8


def masked(kind, constant, *, is_shared=False):
    """Return a float file of scores that are masked before a softmax."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]

    def tensor(name, type_name="FLOAT32"):
        shape = np.array([1, 4], np.int32)
        graph.tensors.append(
            schema.TensorT(name=name, shape=shape, type=getattr(schema.TensorType, type_name), buffer=0)
        )
        return len(graph.tensors) - 1

    given, mask, out, probabilities = tensor(b"scores"), tensor(b"mask", "BOOL"), tensor(b"masked"), tensor(b"out")
    never = add_constant(model, graph, name=b"never", values=np.asarray(constant, np.float32))
    inputs = [mask, given, never] if kind == "SELECT_V2" else [given, never]
    add_operator(model, graph, name=kind, inputs=inputs, outputs=[out])
    add_operator(model, graph, name="SOFTMAX", inputs=[out], outputs=[probabilities])
    graph.inputs = np.array([given, mask], np.int32)
    graph.outputs = np.array([probabilities, *([out] if is_shared else [])], np.int32)
    return model


def clamped(model):
    changed = clamp_masks(model, {"scores": SCORES})
    file = NamedTensors(model)
    return changed, file.constant(inputs_of(file.graph.operators[0])[-1])


@pytest.mark.parametrize("lowest", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_a_selected_mask_comes_below_the_lowest_score(lowest):
    changed, constant = clamped(masked("SELECT_V2", lowest))
    assert changed == {"masked": (-13, 5)}
    assert constant == -13


def test_an_added_mask_moves_every_score_below_the_lowest_and_keeps_the_bias_beside_it():
    changed, constant = clamped(masked("ADD", [[0, 0.5, -1e9, -1e9]]))
    assert changed == {"masked": (-13, 5.5)}
    np.testing.assert_array_equal(constant, [[0, 0.5, -18, -18]])
    assert SCORES[1] + constant.min() <= SCORES[0] - 10


def test_a_product_that_is_added_is_made_anew_for_each_softmax_with_a_smaller_constant():
    model = masked("ADD", [[0.0, -3.0, 2.0, 1.0]])
    graph = model.subgraphs[0]
    shape = np.array([1, 4], np.int32)
    for name in (b"kept", b"product"):
        graph.tensors.append(schema.TensorT(name=name, shape=shape, type=schema.TensorType.FLOAT32, buffer=0))
    kept, product = len(graph.tensors) - 2, len(graph.tensors) - 1
    add, softmax = graph.operators
    add.inputs = np.array([0, product], np.int32)
    lowest = add_constant(model, graph, name=b"lowest", values=np.float32([-1e9]))
    add_operator(model, graph, name="MUL", inputs=[kept, lowest], outputs=[product])
    ranges = {"scores": SCORES, "kept": (0, 1), "product": (-1e9, 0)}
    changed = clamp_masks(model, ranges)
    file = NamedTensors(model)
    new = inputs_of(add)[1]
    assert [file.kind(each) for each in graph.operators] == ["MUL", "ADD", "SOFTMAX"]
    assert changed == {"masked": (-13, 5), file.name(new): (-18, 0)}
    assert file.constant(inputs_of(file.maker[new])[1]) == -18


def test_two_softmaxes_that_share_a_mask_get_constants_of_two_names():
    model = masked("SELECT_V2", -1e9)
    graph = model.subgraphs[0]
    for name in (b"masked_2", b"out_2"):
        graph.tensors.append(
            schema.TensorT(name=name, shape=np.array([1, 4], np.int32), type=schema.TensorType.FLOAT32, buffer=0)
        )
    second, out = len(graph.tensors) - 2, len(graph.tensors) - 1
    add_operator(model, graph, name="SELECT_V2", inputs=inputs_of(graph.operators[0]), outputs=[second])
    add_operator(model, graph, name="SOFTMAX", inputs=[second], outputs=[out])
    clamp_masks(model, {"scores": SCORES})
    names = [tensor.name for tensor in graph.tensors]
    assert sum(b"/clamped" in name for name in names) == 2 and len(names) == len({*names})


@pytest.mark.parametrize(
    ("kind", "constant", "options"),
    [
        ("SELECT_V2", -12.0, {}),  # among what scores may be
        ("ADD", [[0.0, -3.0, 2.0, 1.0]], {}),  # a bias
        ("SELECT_V2", -1e9, {"is_shared": True}),  # somebody reads it
    ],
)
def test_other_constants_stay(kind, constant, options):
    changed, after = clamped(masked(kind, constant, **options))
    assert changed == {}
    np.testing.assert_array_equal(after, np.asarray(constant, np.float32))


@pytest.fixture(scope="module")
def attention():
    """A network of sharp attention over tokens, of which some are padding."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(20, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.5))(ids)
    kept = layers.Lambda(lambda ids: keras.ops.not_equal(ids, 0)[:, None])(ids)
    y = layers.MultiHeadAttention(1, WIDTH, name="attention")(x, x, attention_mask=kept)
    return keras.Model(ids, layers.Dense(3)(y))


def tokens(count=40):
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 20, (count, LENGTH))
    return np.where(np.arange(LENGTH) < generator.integers(2, LENGTH + 1, (count, 1)), ids, 0).astype("int32")


def test_an_int8_file_attends_as_the_model_does(attention, tmp_path):
    x = tokens()
    to_tflite(attention, tmp_path / "a.tflite", quantize="int8", calibration=x, tolerance=10)
    right = attention.predict(x, verbose=0)
    off = np.abs(Runner(tmp_path / "a.tflite").predict(x) - right).max()
    assert off < 0.05 * np.abs(right).max()  # it was more than half of it


@pytest.mark.parametrize("form", [in_test_ci("(1 - mask) * -1e9"), "(mask - 1) * 1e9"])
def test_a_mask_that_is_computed_leaves_the_scores_their_resolution(form):
    keras.utils.set_random_seed(0)
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(20, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.5))(ids)
    forms = {"(1 - mask) * -1e9": lambda mask: (1 - mask) * -1e9, "(mask - 1) * 1e9": lambda mask: (mask - 1) * 1e9}
    kept = keras.ops.cast(keras.ops.not_equal(ids, 0), "float32")
    mask = forms[form](kept)[:, None, :]
    query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))) + mask
    model = keras.Model(ids, layers.Dense(3)(keras.ops.matmul(layers.Softmax()(scores), value)))
    right = model.predict(tokens(), verbose=0)
    off = np.abs(Runner(convert(model, quantize="int8", calibration=tokens())).predict(tokens()) - right).max()
    assert off < 0.1 * np.abs(right).max()  # it was more than half of it


def test_a_mask_whose_operator_stays_in_float_passes_the_check(attention, tmp_path):
    x, float_file = tokens(), tmp_path / "float.tflite"
    to_tflite(attention, float_file)
    file = NamedTensors(ModelFile.open(float_file).objects())
    makers = [
        each for each in file.graph.operators if file.kind(each) in ("SELECT_V2", "MUL", "BATCH_MATMUL", "SOFTMAX")
    ]
    names = [re.escape(file.name(int(each.outputs[0]))) for each in makers]
    to_tflite(attention, tmp_path / "a.tflite", quantize=Quantization("int8", skip=names), calibration=x)
    right = attention.predict(x, verbose=0)
    assert np.abs(Runner(tmp_path / "a.tflite").predict(x) - right).max() < 0.05 * np.abs(right).max()


def test_a_mask_that_is_read_elsewhere_stays_and_is_reported():
    x = keras.Input((4, 6), name="x")
    kept = keras.Input((4, 6), name="kept")
    scores = layers.Lambda(lambda pair: keras.ops.where(pair[1] > 0, pair[0], -1e9))([x, kept])
    model = keras.Model([x, kept], [layers.Softmax()(scores), layers.Rescaling(2.0)(scores)])
    generator = np.random.default_rng(0)
    data = {"x": generator.normal(size=(20, 4, 6)), "kept": generator.integers(0, 2, (20, 4, 6))}
    data = {name: array.astype("float32") for name, array in data.items()}
    with pytest.warns(UserWarning, match="masks of attention"):
        convert(model, quantize="int8", calibration=data)


def test_a_float_file_keeps_its_masks(attention, tmp_path):
    to_tflite(attention, tmp_path / "a.tflite")
    file = NamedTensors(ModelFile.open(tmp_path / "a.tflite").objects())
    lowest = [
        file.constant(index).min()
        for index in range(len(file.tensors))
        if file.dtype(index) == "float32" and file.constant(index) is not None
    ]
    assert min(lowest) < -1e8


# An export that finds the operators that 8 bits break.


@pytest.fixture(scope="module")
def broken():
    """A network that 8 bits break at one place: a small difference of two large numbers."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    sides = [layers.Dense(16, activation="tanh", name=name)(x) for name in ("first", "second")]
    wide = [layers.Rescaling(1.0, offset=1000.0, name=f"wide_{side.name}")(side) for side in sides]
    y = layers.Subtract(name="between")(wide)
    return keras.Model(x, layers.Dense(3, name="last")(y))


DATA = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")


def test_a_refused_int8_file_names_its_operators_and_the_way_out(broken, tmp_path):
    with pytest.raises(ValueError, match=r"moves the outputs most.*wide_.*skip='auto'"):
        to_tflite(broken, tmp_path / "a.tflite", quantize="int8", calibration=DATA)
    assert not (tmp_path / "a.tflite").exists()


def test_an_export_keeps_the_fewest_operators_in_float(broken, tmp_path):
    path = tmp_path / "a.tflite"
    report = to_tflite(broken, path, quantize=Quantization("int8", skip="auto"), calibration=DATA)
    right = broken.predict(DATA, verbose=0)
    assert np.abs(Runner(path).predict(DATA) - right).max() <= report.tolerance * np.abs(right).max()
    assert 0 < len(report.in_float) < 8
    assert min(report.in_float_ms) > 0 and "ms with all operators in integers" in str(report)
    kernels = [tensor for tensor in ModelFile.open(path).graph.subgraphs[0].tensors if tensor.size == 8 * 16]
    assert [kernel.dtype for kernel in kernels] == ["int8", "int8"]  # the error is not in the weights
    assert all(name in str(report) for name in report.in_float)


@pytest.fixture(scope="module")
def outliers():
    """Tokens of which the first has entries a thousand times as large as the others: one scale holds both badly."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    table = layers.Embedding(64, 32, name="table")
    x = layers.Dense(64, name="wide")(table(ids))
    x = layers.LayerNormalization(name="norm")(layers.Dense(32, name="narrow")(x))
    model = keras.Model(ids, layers.Dense(4, name="last")(layers.Flatten()(x)))
    rows = np.random.default_rng(0).normal(size=(64, 32))
    rows[0, :3] *= 1000
    table.embeddings.assign(rows)
    x = np.random.default_rng(1).integers(1, 64, (60, LENGTH)).astype("int32")
    x[:, 0] = 0
    return model, x


@pytest.mark.programs
def test_operators_in_float_keep_weights_of_8_bits_and_the_batch_stays_open(outliers, tmp_path):
    model, x = outliers
    path = tmp_path / "a.tflite"
    form = Quantization("int8", skip="auto")
    report = to_tflite(model, path, quantize=form, calibration=x, tolerance=0.05)
    file = ModelFile.open(path)
    assert len(report.in_float) > 2
    assert {tensor.dtype for tensor in file.graph.weights if tensor.size >= 1024} == {"int8"}
    assert "EMBEDDING_LOOKUP" in report.ops  # with a scale for each row
    right = model.predict(x, verbose=0)
    for count in (1, 7):
        off = np.abs(Runner(path).predict(x[:count]) - right[:count]).max()
        assert off <= 0.05 * np.abs(right).max()


@pytest.mark.programs
def test_weights_of_operators_in_float_are_floats_for_a_batch_in_browsers(outliers, tmp_path):
    model, x = outliers
    form = Quantization("int8", skip="auto")
    to_tflite(model, tmp_path / "a.tflite", quantize=form, calibration=x, tolerance=0.05, target="web")
    weights = ModelFile.open(tmp_path / "a.tflite").graph.weights
    assert "float32" in {tensor.dtype for tensor in weights if tensor.size >= 1024}


def test_a_limit_that_no_file_meets_is_refused_with_figures_at_once(broken, tmp_path):
    form = Quantization("int8", skip="auto")
    words = r"with \d+ of \d+ operators in float: .*differs by up to .*moves the outputs most"
    with pytest.raises(ValueError, match=words):
        to_tflite(broken, tmp_path / "a.tflite", quantize=form, calibration=DATA, tolerance=1e-9)


def test_a_search_goes_back_where_operators_that_are_left_have_no_integers():
    rows = tuple(
        QuantizationErrorRow(f"at_{n}", "ADD", error=0, before=0, steps=1, clipped=0, effect=1 / (n + 1))
        for n in range(40)
    )
    tries = []

    def convert(names):
        tries.append(len(names))
        if len(names) > 30:
            return None, "nothing is left"
        return ModelFile(b""), "" if len(names) >= 7 else "too far off"

    chosen, _ = fewest_in_float(QuantizationErrorReport(rows, 1, ""), convert=convert)
    assert [row.name for row in chosen] == [f"at_{n}" for n in range(7)]
    assert tries[0] == 39 and len(tries) < 12


def test_a_file_that_passes_keeps_all_in_integers(attention, tmp_path):
    form = Quantization("int8", skip="auto")
    report = to_tflite(attention, tmp_path / "a.tflite", quantize=form, calibration=tokens())
    assert report.in_float == {}


def test_the_errors_of_a_refused_file_come_from_the_model(broken):
    report = quantization_error(broken, None, DATA)
    assert "between" in report.worst.name
    with pytest.raises(ValueError, match="Expected an 8-bit file"):
        quantization_error("float.tflite", None, DATA)
