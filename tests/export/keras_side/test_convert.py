"""Conversion: what the written bytes give in an interpreter is what Keras gives."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export_table import run_resized

from tfprune.export.device.processes import OUTPUT, Completed
from tfprune.export.device.runner import Runner
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert

layers = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(24, 8, 8, 3)).astype("float32")
TOKENS = RNG.integers(0, 20, (16, 5)).astype("int32")


class Doubled(layers.Layer):
    """A layer that no other process knows."""

    def call(self, inputs):
        return 2 * inputs


def difference(content, model, inputs):
    """Largest difference relative to the largest Keras output."""
    expected = model.predict(inputs, verbose=0)
    return np.abs(Runner(content).predict(inputs) - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def cnn():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(16, 3, padding="same", strides=2),
            layers.BatchNormalization(beta_initializer="normal", moving_mean_initializer="normal"),
            layers.Lambda(lambda x: x + 1),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.SeparableConv2D(32, 2),
            Doubled(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(5),
        ]
    )


@pytest.fixture(scope="module")
def files(cnn, converting_here):
    """The same network in every kind, the first by a process that does not know the custom layer."""
    calibration = [IMAGES[:16], IMAGES[16:]]
    kinds = {None: convert(cnn)}
    with converting_here():
        kinds |= {kind: convert(cnn, quantize=kind) for kind in ("float16", "dynamic")}
        integers = {"int8": "int8", "int16x8": "int16", "int4": "int8"}
        return kinds | {
            kind: convert(cnn, quantize=kind, calibration=calibration, io_dtype=io_dtype)
            for kind, io_dtype in integers.items()
        }


@pytest.fixture(scope="module")
def recurrent():
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32", name="tokens"),
            layers.Embedding(20, 8, embeddings_initializer="normal"),
            layers.Bidirectional(layers.LSTM(6, return_sequences=True)),
            keras.Sequential([layers.GRU(8)]),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(None, 1e-5), ("float16", 2e-3), ("dynamic", 0.03), ("int8", 0.05), ("int16x8", 0.01), ("int4", 0.2)],
)
def test_every_kind_gives_what_keras_gives(files, cnn, kind, tolerance):
    assert difference(files[kind], cnn, IMAGES) < tolerance


def test_every_kind_holds_its_weights_in_its_own_type(files):
    types = {}
    for kind, content in files.items():
        details = Interpreter(model_content=content).get_tensor_details()
        shapes = (64, 32), (64, 1, 1, 32)
        types[kind] = {detail["dtype"].__name__ for detail in details if tuple(detail["shape"]) in shapes}
    types["int4"] = {weight.dtype for weight in read(files["int4"]).weights}  # NumPy has no such type
    half = {"float16", "float32"}  # what is stored, and what it is widened to when the file is loaded
    assert types == {
        None: {"float32"},
        "float16": half,
        "dynamic": {"int8"},
        "int8": {"int8"},
        "int16x8": {"int8"},
        "int4": {"int4"},
    }
    assert len(files["int4"]) < len(files["int8"]) < len(files["float16"]) < len(files[None])


def test_io_dtype_decides_the_borders_of_the_file(files):
    for kind, dtype in [("dynamic", np.float32), ("int8", np.int8), ("int16x8", np.int16), ("int4", np.int8)]:
        interpreter = Interpreter(model_content=files[kind])
        details = interpreter.get_input_details() + interpreter.get_output_details()
        assert [detail["dtype"] for detail in details] == [dtype, dtype]


def test_a_process_of_its_own_writes_the_same_bytes_each_time():
    """Across processes, where the seeds of hashes and the addresses differ; an int8 file is calibrated as well."""
    keras.utils.set_random_seed(4)
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    first, second = (convert(model, quantize="int8", calibration=[IMAGES[:4]]) for _ in range(2))
    assert first == second


def test_a_network_without_loops_takes_any_batch(files):
    assert list(Interpreter(model_content=files[None]).get_input_details()[0]["shape_signature"]) == [-1, 8, 8, 3]


def test_inputs_and_outputs_keep_names_and_order(converting_here):
    keras.utils.set_random_seed(3)
    inputs = [keras.Input((4,), name=name) for name in ("zeta", "alpha", "mid")]
    outputs = [layers.Dense(2 + place)(inputs[place % 3]) for place in range(11)]
    model = keras.Model(inputs, outputs)
    content = convert(model)
    with converting_here():
        assert content == convert(model)
    arrays = [RNG.normal(size=(3, 4)).astype("float32") for _ in inputs]
    expected = model.predict(arrays, verbose=0)
    for outputs, wanted in zip(run_resized(content, arrays), expected, strict=True):
        np.testing.assert_allclose(outputs, wanted, atol=1e-5)
    interpreter = Interpreter(model_content=content)
    assert set(interpreter.get_signature_list()["serving_default"]["inputs"]) == {"zeta", "alpha", "mid"}
    by_name = Runner(content).predict(dict(zip(("zeta", "alpha", "mid"), arrays, strict=True)))
    np.testing.assert_allclose(by_name["output_10"], expected[10], atol=1e-5)


@pytest.mark.programs
def test_recurrent_layers_run_as_loops_one_sample_at_a_time(recurrent, capfd):
    content = convert(recurrent)
    assert capfd.readouterr() == ("", "")  # neither the converter nor Keras writes to the terminal
    assert difference(content, recurrent, TOKENS) < 1e-5
    assert list(Interpreter(model_content=content).get_input_details()[0]["shape"]) == [1, 5]


@pytest.mark.programs
def test_recurrent_layers_are_unrolled_for_integers_and_only_in_the_file(recurrent, converting_here):
    with converting_here():
        content = convert(recurrent, quantize="int8", calibration=[TOKENS], io_dtype="int8")
    assert difference(content, recurrent, TOKENS) < 0.2
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_input_details()[0]["dtype"] == np.int32  # tokens are no quantized numbers
    assert interpreter.get_output_details()[0]["dtype"] == np.int8
    assert not recurrent.layers[1].forward_layer.unroll
    graph = read(content).subgraphs[0]  # the converter itself leaves the first split in float, in two files of five
    splits = [operator for operator in graph.operators if operator.name == "SPLIT"]
    assert {graph.tensors[operator.inputs[1]].dtype for operator in splits} == {"int8"}


def test_steps_with_activations_of_16_bits_have_biases_of_their_own(converting_here):
    keras.utils.set_random_seed(2)
    layer = layers.GRU(8, bias_initializer=keras.initializers.RandomNormal(stddev=0.5))
    model = keras.Sequential([keras.Input((4, 3), name="series"), layer])
    data = RNG.normal(size=(32, 4, 3)).astype("float32")
    with converting_here():
        content = convert(model, quantize="int16x8", calibration=[data])
    assert difference(content, model, data) < 0.005  # 0.1 with the converter's biases


def test_what_has_no_form_with_activations_of_16_bits_is_named(recurrent, cnn, monkeypatch):
    said = "RuntimeError: Quantization to 16x8-bit not yet supported for op: 'HARD_SWISH'."
    child = "tfprune.export.keras_side.convert.run_job"

    def refuse(module, folder, **settings):
        (folder / OUTPUT).touch()
        return Completed(ok=False, reason=said, output="")

    monkeypatch.setattr(child, refuse)
    with pytest.raises(ValueError, match=r"Received: HARD_SWISH, which .* or use quantize='int8'\."):
        convert(cnn, quantize="int16x8", calibration=[IMAGES])
    with pytest.raises(ValueError, match=r"Received: integers for \['tokens'\], which .* skip='auto'"):
        convert(recurrent, quantize="int16x8", calibration=[TOKENS])


def test_recurrent_layers_of_open_length_are_refused_for_integers():
    model = keras.Sequential([keras.Input((None, 3), name="series"), layers.GRU(4)])
    with pytest.raises(ValueError, match=r"inputs of fixed length .* 'series' of shape \(None, None, 3\).*'dynamic'"):
        convert(model, quantize="int8", calibration=[RNG.normal(size=(2, 5, 3))])


def test_a_crash_of_the_converter_is_told(monkeypatch):
    # Left rolled up, a recurrent layer makes the integer converter crash: a real crash, not a simulated one.
    monkeypatch.setattr("tfprune.export.keras_side.prepare.unrolled", lambda model: nullcontext())
    model = keras.Sequential([keras.Input((4, 3)), layers.GRU(4)], name="series")
    with pytest.raises(ValueError, match="'series' with quantize='int8'. Received: its process was killed by SIG"):
        convert(model, quantize="int8", calibration=[RNG.normal(size=(4, 4, 3))])


def test_operators_that_tflite_lacks_are_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.erfinv(inputs), name="odd")
    with pytest.raises(ValueError, match=r"accept 'odd' .* without a builtin form in TFLite: Erfinv\. Replace"):
        convert(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"quantize": "int9"},
            r"'dynamic', 'int8', 'int16x8' or 'int4'\. Received: scheme='int9'\. Did you mean 'int",
        ),
        ({"io_dtype": "uint8"}, r"'float32', 'int8' or 'int16'\. Received: io_dtype='uint8'\. Did you mean 'int8'\?"),
        ({"io_dtype": "int16", "quantize": "int4"}, "io_dtype='float32' or 'int8' with scheme='int4'"),
        (
            {"io_dtype": "int8", "quantize": "dynamic"},
            "io_dtype='float32' with scheme='dynamic'",
        ),
        ({"quantize": "int8"}, r"Expected `calibration` with quantize='int8'.*calibration=x\[:100\]"),
        ({"quantize": "int8", "calibration": []}, "Expected `calibration` with at least one sample"),
        (
            {"quantize": "int8", "calibration": [IMAGES[:, 1:]]},
            r"batch 0 of `calibration`\. Received: shape \(24, 7, 8, 3\)",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_work(monkeypatch, cnn, options, message):
    child = "tfprune.export.keras_side.convert.run_job"
    monkeypatch.setattr(child, lambda *args, **kwargs: pytest.fail("converted all the same"))
    with pytest.raises(ValueError, match=message):
        convert(cnn, **options)


def test_a_model_that_keras_has_quantized_is_refused_as_such():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16, name="head")])
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"not quantized yet\. Received: .* quantized 'head' to int8 already"):
        convert(model)


def test_a_sample_that_leaves_a_layer_without_a_range_is_named():
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    y = keras.layers.Activation("exponential", name="grow")(keras.layers.Dense(8, name="first")(x))
    share = keras.layers.Lambda(lambda y: y / (1 + keras.ops.sum(y, -1, keepdims=True)), name="share")(y)
    model = keras.Model(x, keras.layers.Dense(2, name="last")(share))
    data = np.random.default_rng(0).normal(size=(80, 8)).astype("float32")
    data[57] *= 1e4  # in the second batch
    with pytest.raises(ValueError, match="Received: sample 57, for which 'grow' gives NaN or infinity"):
        convert(model, quantize="int8", calibration=data)
