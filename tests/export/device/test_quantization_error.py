"""The error of each layer of an int8 file. The truth is what NumPy computes from the model's own layers."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.export import quantization_error, to_tflite
from tfprune.export.device.runner import Runner
from tfprune.export.file.document import NamedTensors, load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert

X = np.random.default_rng(0).normal(size=(50, 12)).astype("float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, its float file, and its int8 file that was calibrated on what it is run on."""
    keras.utils.set_random_seed(0)
    widths = [keras.layers.Dense(24, activation="relu", name=f"layer_{index}") for index in range(3)]
    model = keras.Sequential([keras.Input((12,)), *widths, keras.layers.Dense(4, name="head")])
    folder = tmp_path_factory.mktemp("error")
    to_tflite(model, folder / "float")
    to_tflite(model, folder / "int8", quantize="int8", calibration=X)
    return model, (folder / "float").read_bytes(), (folder / "int8").read_bytes()


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


def test_each_layer_has_a_row_with_the_error_so_far(files):
    model, reference, quantized = files
    report = quantization_error(reference, quantized, samples=X)
    assert report.samples == 50
    assert [row.operator for row in report.rows] == ["FULLY_CONNECTED"] * 4
    assert all(f"layer_{index}" in row.layer for index, row in enumerate(report.rows[:3]))
    assert [row.before for row in report.rows] == [0, *(row.error for row in report.rows[:-1])]
    right, outputs = model.predict(X, verbose=0), Runner(quantized).predict(X)
    assert report.rows[-1].error == pytest.approx(rms(outputs - right) / rms(right), rel=0.1)
    assert 0.2 < report.rows[0].steps < 0.8  # rounding of what it takes, and of what it gives
    assert all(row.clipped == 0 for row in report.rows)


@pytest.mark.programs
def test_channels_of_one_size_have_a_smaller_error():
    keras.utils.set_random_seed(1)
    stack = [keras.layers.Conv2D(8, 1, activation="relu"), keras.layers.DepthwiseConv2D(2, activation="relu")]
    model = keras.Sequential([keras.Input((3, 2, 2)), *stack, keras.layers.Flatten(), keras.layers.Dense(4)])
    sizes = 100 ** np.linspace(-1, 1, 8, dtype="float32")
    first, second = model.layers[:2]
    first.kernel.assign(first.kernel * sizes)
    second.kernel.assign(second.kernel / sizes[:, None])
    images, errors = X.reshape(-1, 3, 2, 2), []
    for each in (model, tfprune.equalize(model)):
        contents = convert(each), convert(each, quantize="int8", calibration=images)
        errors.append(quantization_error(*contents, samples=images).rows[-1].error)
    assert errors[1] < 0.05 < errors[0] / 3


def test_the_layer_that_is_wrong_is_the_worst(files):
    _, reference, quantized = files
    file = load_objects(quantized)
    graph = read(quantized).subgraphs[0]
    third = [operator for operator in graph.operators if operator.name == "FULLY_CONNECTED"][2]
    output = file.subgraphs[0].tensors[third.outputs[0]].quantization
    output.scale = output.scale / 2  # the values of the layer seem half as large, and are clipped
    report = quantization_error(reference, save_objects(file), samples=X)
    assert "layer_2" in report.worst.layer
    assert report.worst.clipped > 0.005
    assert report.worst.error > 3 * report.worst.before
    assert f"the error grows most at {report.worst.layer}" in str(report)


def test_the_effect_of_a_layer_is_that_of_its_rounding_alone_on_the_outputs():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(5, "relu", name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(3, name="last")(hidden))
    data = np.random.default_rng(1).normal(size=(40, 6)).astype("float32")
    integers = convert(model, quantize="int8", calibration=data)
    row = quantization_error(convert(model), integers, samples=data).rows[0]
    file = NamedTensors(load_objects(integers))
    scale = next(file.grid(index).scale.item() for index in file.maker if file.name(index) == row.name)
    hidden = keras.Model(x, hidden).predict(data[:4], verbose=0)
    rounded = np.clip(np.rint(hidden / scale), 0, 255) * scale  # a range from 0 up
    right, moved = (np.asarray(model.get_layer("last")(values.astype("float32"))) for values in (hidden, rounded))
    assert row.effect == pytest.approx(np.sqrt(np.square(moved - right).sum() / np.square(right).sum()), rel=1e-3)


def test_a_mask_of_attention_is_not_the_worst_error():
    keras.utils.set_random_seed(0)
    x, kept = keras.Input((4, 6), name="x"), keras.Input((4,), dtype="int32", name="kept")
    mask = keras.layers.Lambda(lambda kept: keras.ops.equal(kept, 1)[:, None])(kept)
    y = keras.layers.MultiHeadAttention(1, 6)(x, x, attention_mask=mask)
    model = keras.Model([x, kept], keras.layers.Dense(2)(y))
    generator = np.random.default_rng(0)
    data = {"x": generator.normal(size=(40, 4, 6)).astype("float32"), "kept": np.ones((40, 4), "int32")}
    data["kept"][::2, 3] = 0
    masked = [row for row in quantization_error(model, None, data).rows if row.operator in ("SELECT_V2", "ADD")]
    assert masked and all(row.error < 0.1 and row.clipped < 0.01 for row in masked)


def test_it_prints_draws_and_turns_into_json(files, tmp_path):
    _, reference, quantized = files
    report = quantization_error(reference, quantized, samples=[X[:5]])
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "layer",
        "operator",
        "output",
        "error",
        "input",
        "error",
        "steps",
        "clipped",
        "effect",
    ]
    assert lines[-3].split()[-3:] == ["-", "-", "-"]  # the output is float32
    report.plot(tmp_path / "error.png")
    assert (tmp_path / "error.png").stat().st_size > 1000
    assert report.as_dict()["rows"][0]["operator"] == "FULLY_CONNECTED"


def test_files_of_two_models_and_other_inputs_are_refused(files, tmp_path):
    _, reference, quantized = files
    other = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4, name="another")])
    to_tflite(other, tmp_path / "other")
    with pytest.raises(ValueError, match="Expected two files that run on `samples`"):
        quantization_error(reference, quantized, samples=X[:, :3])
    model = load_objects((tmp_path / "other").read_bytes())
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b"its own " + tensor.name
    with pytest.raises(ValueError, match="Expected two files of the same model"):
        quantization_error(save_objects(model), quantized, samples=X)
