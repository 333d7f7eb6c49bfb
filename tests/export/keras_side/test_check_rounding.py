"""Files that rounding explains pass, and others do not. The truth is the fault that was put in, if any."""

import functools

import keras
import numpy as np
import pytest
from faults import FAULTS, scaled
from faults import layers as layers_of
from tiers import first, in_test_all, in_test_ci

import tfprune
from tfprune.export import Runner, to_tflite
from tfprune.export.file import container
from tfprune.export.file.document import load_objects, operator_name, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import INTEGERS, convert_prepared

layers = keras.layers
CONVERT = "tfprune.export.keras_side.to_tflite.convert_prepared"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 8, 8, 3)).astype("float32")
STEPS = (
    r"a constant of \w+ '.*' is up to \d+\.\d steps of its scale from the model's in column \d+; rounding leaves 1"
)
# For each format a fault that leaves the outputs within its tolerance.
SMALL = {
    "float16": "a channel's scale x1.1",
    "dynamic": "scale x1.1",
    "int8": "bias zeroed",
    "int16x8": "largest weight negated",
    "int4": "a channel zeroed",
}
# bench/planted_faults.py plants all of them in trained networks, as `make test-all` does here.
QUICK = ("dynamic", "int8", "int4")
PLANTED = [(form, SMALL[form]) if form in QUICK else in_test_ci((form, SMALL[form])) for form in SMALL]
PLANTED += [in_test_ci(("int8", fault)) for fault in FAULTS if fault != SMALL["int8"]]
PLANTED += [
    in_test_all((form, fault)) for form in SMALL if form != "int8" for fault in FAULTS if fault != SMALL[form]
]
REFUSED = r"a constant of \w+ '.*' is up to|' ends with the activation NONE|the output of \w+ '.*' is up to"


def build():
    keras.utils.set_random_seed(0)
    hidden = [layers.Conv2D(8, 3, activation="relu"), layers.DepthwiseConv2D(3, activation="relu")]
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), *hidden, layers.Flatten(), layers.Dense(16, "relu"), layers.Dense(4)]
    )
    for layer in model.layers:
        for bias in layer.weights[1:]:
            bias.assign(0.1 * np.random.default_rng(0).normal(size=bias.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def export(model, tmp_path_factory, converting_here):
    """Return a function that exports in a format; the converter works once for each, and its file may be replaced."""
    path = tmp_path_factory.mktemp("checked") / "m.bin"
    given = {}

    def convert(*arguments, form=None, beside=None, **settings):
        key = form or beside, form is None
        if key not in given:
            others = {"beside": beside} if form is None else {"form": form}
            given[key] = convert_prepared(*arguments, **others, **settings)
        return given[key]

    def export_as(form, file=None, **options):
        def replaced(*arguments, **settings):
            content = convert(*arguments, **settings)
            return ModelFile(save_objects(file)) if file and "form" in settings else content

        path.unlink(missing_ok=True)
        calibration = X if form in INTEGERS else None
        with converting_here(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(CONVERT, replaced)
            report = to_tflite(
                model, path, quantize=form, calibration=calibration, optimize="dense", verbose=0, **options
            )
        return path.read_bytes(), report

    return export_as


@pytest.fixture(scope="module")
def honest(export):
    """Return a function that opens the right file of a format."""
    return functools.cache(lambda form: export(form)[0])


def let_int8_be(file, monkeypatch):
    """Let the converter give an int8 file that is wrong; the float file beside it is right."""

    def convert(*arguments, **settings):
        return ModelFile(save_objects(file)) if "form" in settings else convert_prepared(*arguments, **settings)

    monkeypatch.setattr(CONVERT, convert)


@pytest.mark.parametrize(("form", "fault"), PLANTED)
def test_a_planted_fault_is_refused_in_each_format(export, honest, form, fault):
    file = load_objects(honest(form))
    assert any(FAULTS[fault](layer, np.random.default_rng(0)) for layer in layers_of(file))
    with pytest.raises(ValueError, match=REFUSED):
        export(form, file)


@pytest.mark.parametrize("compress", [None, "packed"])
def test_a_fault_planted_while_a_checked_file_is_packed_is_refused(export, monkeypatch, compress):
    encode = container._encode

    def wrong(content, method):
        file = load_objects(content)
        scaled(1.1)(next(layers_of(file)), None)
        return encode(save_objects(file), method)

    monkeypatch.setattr(container, "_encode", wrong)
    with pytest.raises(ValueError, match=r"Expected a file that unpacks to the [\d,]+ bytes that were checked"):
        export("int8", compress=compress)


def test_a_report_of_integers_shows_the_root_mean_square_of_the_difference(model, export, honest):
    report = export("int8")[1]
    difference = Runner(honest("int8")).predict(X) - np.asarray(model(X))
    assert report.rms_diff == pytest.approx(np.sqrt(np.square(difference, dtype=np.float64).mean()), rel=1e-4)
    assert f"root mean square  {report.rms_diff:.3g}"[:20] in str(report)


@pytest.mark.parametrize("place", first(0, 1, 2))
@pytest.mark.parametrize("change", first(scaled(1.2), scaled(0.8)), ids=["1.2", "0.8"])
def test_a_kernel_that_is_not_the_models_is_named_and_nothing_is_written(export, honest, change, place):
    file = load_objects(honest("int8"))
    change([*layers_of(file)][place], None)
    with pytest.raises(ValueError, match=STEPS):
        export("int8", file)


def test_the_number_of_before_stays_available(model, export, honest):
    file = load_objects(honest("int8"))
    FAULTS["largest weight negated"](next(layers_of(file)), None)
    report = export("int8", file, tolerance=0.35)[1]
    assert report.tolerance == 0.35 > report.max_abs_diff / np.abs(model(X)).max()


def test_an_operator_that_is_not_the_models_is_refused(export, honest):
    """The scale of what a layer makes is another one than that in which the next one has its bias."""
    file = load_objects(honest("int8"))
    (operator, _) = (each for each in file.subgraphs[0].operators if operator_name(file, each) == "FULLY_CONNECTED")
    tensor = file.subgraphs[0].tensors[operator.outputs[0]]
    tensor.quantization.scale = tensor.quantization.scale * np.float32(1.2)
    with pytest.raises(ValueError, match=r"the output of FULLY_CONNECTED '.*' is up to \d+\.\d steps from what its"):
        export("int8", file)


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
    (layer,) = layers_of(file)
    layer.put_rows(layer.rows * np.int8([[1], [-1]]))
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
    FAULTS["largest weight negated"]([*layers_of(file)][-1], None)
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
