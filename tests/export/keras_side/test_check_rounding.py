"""int8 files that rounding explains pass, and others do not. The truth is the fault that was put in, if any."""

import keras
import numpy as np
import pytest
from tiers import first

import tfprune
from tfprune.export import Runner, to_tflite
from tfprune.export.file import schema
from tfprune.export.file.document import add_values, load_objects, operator_name, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import convert_prepared

layers = keras.layers
CONVERT = "tfprune.export.keras_side.to_tflite.convert_prepared"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 8, 8, 3)).astype("float32")
STEPS = (
    r"a constant of \w+ '.*' is up to \d+\.\d steps of its scale from the model's in column \d+; rounding leaves 1"
)


def build():
    keras.utils.set_random_seed(0)
    hidden = [layers.Conv2D(8, 3, activation="relu"), layers.DepthwiseConv2D(3, activation="relu")]
    return keras.Sequential([keras.Input((8, 8, 3)), *hidden, layers.Flatten(), layers.Dense(4)])


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def content(model, tmp_path_factory, converting_here):
    path = tmp_path_factory.mktemp("honest") / "m.tflite"
    with converting_here():
        report = to_tflite(model, path, quantize="int8", calibration=X, optimize="dense")
    assert report.tolerance == 0.35
    assert "calibration data only: pass other samples as check_on" in str(report)
    return path.read_bytes()


def let_int8_be(file, monkeypatch):
    """Let the converter give an int8 file that is wrong; the float file beside it is right."""

    def convert(*arguments, **settings):
        return ModelFile(save_objects(file)) if "form" in settings else convert_prepared(*arguments, **settings)

    monkeypatch.setattr(CONVERT, convert)


def export(model, path, monkeypatch, file, **options):
    let_int8_be(file, monkeypatch)
    return to_tflite(model, path, quantize="int8", calibration=X, optimize="dense", **options)


def kernels(file):
    graph = file.subgraphs[0]
    weights = [operator.inputs[1] for operator in graph.operators if len(operator.inputs) == 3]
    return [graph.tensors[index] for index in weights]


def scaled(factor):
    def change(file, tensor):
        tensor.quantization.scale = tensor.quantization.scale * np.float32(factor)

    return change


def negated(file, tensor):
    """Negate the largest weight of a kernel."""
    integers = file.buffers[tensor.buffer].data.view(np.int8).astype(np.int32)
    along = [1] * len(tensor.shape)
    along[tensor.quantization.quantizedDimension] = -1
    real = integers.reshape(tensor.shape) * tensor.quantization.scale.reshape(along)
    integers[np.abs(real).argmax()] *= -1
    tensor.buffer = add_values(file, integers.clip(-127, 127).astype(np.int8))


@pytest.mark.parametrize("place", first(0, 1, 2))
@pytest.mark.parametrize("change", first(scaled(1.2), scaled(0.8), negated), ids=["1.2", "0.8", "negated"])
def test_a_kernel_that_is_not_the_models_is_refused(model, content, tmp_path, monkeypatch, change, place):
    file = load_objects(content)
    change(file, kernels(file)[place])
    with pytest.raises(ValueError, match=STEPS):
        export(model, tmp_path / "m.tflite", monkeypatch, file)
    assert not [*tmp_path.iterdir()]


def test_the_number_of_before_stays_available(model, content, tmp_path, monkeypatch):
    file = load_objects(content)
    negated(file, kernels(file)[0])
    report = export(model, tmp_path / "m.tflite", monkeypatch, file, tolerance=0.35)
    assert report.tolerance == 0.35 > report.max_abs_diff / np.abs(model(X)).max()


def test_an_operator_that_is_not_the_models_is_refused(model, content, tmp_path, monkeypatch):
    file = load_objects(content)
    (operator,) = (each for each in file.subgraphs[0].operators if operator_name(file, each) == "FULLY_CONNECTED")
    operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    with pytest.raises(ValueError, match=r"the output of FULLY_CONNECTED '.*' is up to \d+\.\d steps from what its"):
        export(model, tmp_path / "m.tflite", monkeypatch, file)


def test_a_float_file_that_is_not_the_models_is_refused(model, tmp_path, monkeypatch):
    """What changes before the conversion changes both files alike."""
    other = build()
    other.layers[0].kernel.assign(1.2 * other.layers[0].kernel)

    def convert(_, inputs, **options):
        return convert_prepared(other, inputs, **options)

    monkeypatch.setattr(CONVERT, convert)
    with pytest.raises(ValueError, match="Received: a float file that does not: output .* differs by up to"):
        to_tflite(model, tmp_path / "m.tflite", quantize="int8", calibration=X)


@pytest.mark.programs
def test_small_outputs_beside_large_ones_are_judged_by_their_own_column(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(2)])
    model.layers[0].kernel.assign(model.layers[0].kernel * [1000, 1])
    x = RNG.normal(size=(20, 8)).astype("float32")
    options = {"quantize": "int8", "calibration": x, "optimize": "dense"}
    to_tflite(model, tmp_path / "m.tflite", **options)
    file = load_objects((tmp_path / "m.tflite").read_bytes())
    (kernel,) = kernels(file)
    values = file.buffers[kernel.buffer].data.view(np.int8).reshape(2, 8)
    kernel.buffer = add_values(file, values * np.int8([[1], [-1]]))
    let_int8_be(file, monkeypatch)
    to_tflite(model, tmp_path / "n.tflite", **options, tolerance=0.35)
    with pytest.raises(ValueError, match="in column 1; rounding"):
        to_tflite(model, tmp_path / "n.tflite", **options)


@pytest.mark.programs
@pytest.mark.parametrize(("depth", "passes"), first((5, True), (8, False)))
def test_rounding_may_grow_until_it_hides_what_the_model_does(tmp_path, depth, passes):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(32, 32)).astype("float32")
    wild = keras.initializers.RandomNormal  # each layer makes small differences larger
    hidden = [layers.Dense(32, "tanh", kernel_initializer=wild(stddev=1.0)) for _ in range(depth)]
    model = keras.Sequential([keras.Input((32,)), *hidden, layers.Dense(4)])
    options = {"quantize": "int8", "calibration": x, "optimize": "dense"}
    with pytest.raises(ValueError, match=r"differs by up to .* allowed: 0\.35 of"):
        to_tflite(model, tmp_path / "m.tflite", **options, tolerance=0.35)
    if not passes:
        with pytest.raises(ValueError, match=r"differs by up to .* allowed: 0\.35 of"):
            to_tflite(model, tmp_path / "m.tflite", **options)
        return
    report = to_tflite(model, tmp_path / "m.tflite", **options)
    difference = np.abs(Runner(tmp_path / "m.tflite").predict(x) - model(x)).max()
    assert 0.35 < difference / np.abs(model(x)).max() <= report.tolerance


@pytest.mark.programs
def test_a_model_that_was_trained_to_round_is_compared_as_well(model, tmp_path, monkeypatch):
    trained = tfprune.quantize_aware(model)
    trained.compile("sgd", "mse")
    trained.fit(X, np.zeros((len(X), 4)), verbose=0)
    options = {"quantize": "int8", "check_on": X, "optimize": "dense"}
    to_tflite(trained, tmp_path / "m.tflite", **options)
    file = load_objects((tmp_path / "m.tflite").read_bytes())
    negated(file, kernels(file)[-1])
    let_int8_be(file, monkeypatch)
    with pytest.raises(ValueError, match=STEPS):
        to_tflite(trained, tmp_path / "n.tflite", **options)


@pytest.mark.parametrize(
    ("calibration", "check_on"),
    first((X * 255, X), (X / 255, X), (X, X * 255)),
    ids=["steps too large", "inputs clipped", "samples of another scale"],
)
def test_samples_of_two_scales_are_refused(model, tmp_path, converting_here, calibration, check_on):
    with converting_here(), pytest.raises(ValueError, match=r"differs by up to .*calibration data scaled like"):
        to_tflite(model, tmp_path / "m.tflite", quantize="int8", calibration=calibration, check_on=check_on)
    assert not (tmp_path / "m.tflite").exists()
