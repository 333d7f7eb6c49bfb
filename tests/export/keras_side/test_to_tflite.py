"""Export: a file that was run is written, or nothing is."""

import gzip
import lzma
import os

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from styles import COPIED, Neither
from tiers import first

import tfprune
from tfprune.export.device.runner import Runner
from tfprune.export.device.verify import TOLERANCES
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import INTEGERS, Quantization, convert_prepared
from tfprune.export.keras_side.to_tflite import to_tflite
from tfprune.export.rewriting import rewrite

layers = keras.layers
CONVERT = "tfprune.export.keras_side.to_tflite.convert_prepared"
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(20, 8, 8, 3)).astype("float32")
TOKENS = RNG.integers(0, 12, (16, 5))


def build_cnn():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(16, 3, name="separable"),
            layers.Flatten(),
            layers.Dense(4, name="dense"),
        ]
    )


@pytest.fixture(scope="module")
def pruned():
    model = tfprune.wrap(build_cnn())
    tfprune.update_masks(model, 0.75)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def packed(pruned, folder):
    """A pruned network in xz: its file and its report."""
    path = folder / "cnn.any-suffix"
    return path, to_tflite(pruned, path, compress="xz", check_on=IMAGES)


@pytest.fixture(scope="module")
def content(packed):
    return lzma.decompress(packed[0].read_bytes())


@pytest.fixture
def delivers(monkeypatch, content):
    """Let the converter give the file of the pruned network, whatever number format it is asked for."""

    def convert(*arguments, **settings):  # without a format it is the float file beside an int8 one
        return ModelFile(content) if "form" in settings else convert_prepared(*arguments, **settings)

    monkeypatch.setattr(CONVERT, convert)


def constants(content):
    """Every tensor that the interpreter has values for before it ran."""
    interpreter = Interpreter(model_content=content)
    values = []
    for detail in interpreter.get_tensor_details():
        try:
            values.append(interpreter.get_tensor(detail["index"]))
        except ValueError:
            continue
    return values


def test_the_written_file_gives_what_the_pruned_model_gives(pruned, packed):
    expected = pruned.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(Runner(packed[0]).predict(IMAGES), expected, atol=1e-5)


def test_zeros_of_the_masks_are_zeros_of_the_file(pruned, content):
    stored = constants(content)
    masks = {name: np.asarray(pruned.get_layer(name).masks["kernel"]) for name in ("conv", "dense")}
    masks["separable"] = np.asarray(pruned.get_layer("separable").masks["pointwise_kernel"])
    for mask in masks.values():
        as_stored = np.moveaxis(mask, -1, 0)  # TFLite puts outputs first
        same = [array for array in stored if array.shape == as_stored.shape]
        assert any(np.array_equal(array != 0, as_stored) for array in same)


def test_the_report_tells_what_is_on_disk(pruned, packed, content):
    path, report = packed
    plain = tfprune.strip(pruned)
    separable = plain.get_layer("separable")
    kernels = [plain.get_layer("conv").kernel, separable.depthwise_kernel, separable.pointwise_kernel]
    kernels = [np.asarray(kernel) for kernel in [*kernels, plain.get_layer("dense").kernel]]
    assert report.path == str(path)
    assert (report.bytes, report.tflite_bytes) == (path.stat().st_size, len(content))
    assert report.nnz == sum(np.count_nonzero(kernel) for kernel in kernels)
    assert report.size == sum(kernel.size for kernel in kernels)
    assert report.sparsity == 1 - report.nnz / report.size
    assert 0 <= report.max_abs_diff < 1e-5
    assert report.ops["CONV_2D"] == 2
    assert report.ops["DEPTHWISE_CONV_2D"] == 1
    (taken,) = [row for row in report.candidates if not row.reason]
    assert (taken.bytes, taken.packed_bytes, taken.verified) == (len(content), report.bytes, True)
    assert report.candidates[0].name == "float32"
    assert all(row.packed_bytes >= report.bytes for row in report.candidates)


def test_the_same_model_gives_the_same_bytes_in_gzip(pruned, content, folder):
    to_tflite(pruned, folder / "again.gz", compress="gzip")
    assert gzip.decompress((folder / "again.gz").read_bytes()) == content
    np.testing.assert_array_equal(Runner(folder / "again.gz").predict(IMAGES), Runner(content).predict(IMAGES))


def test_dicts_go_in_and_come_out_by_name(folder):
    keras.utils.set_random_seed(2)
    left, right = keras.Input((6,), name="zeta"), keras.Input((6,), name="alpha")
    hidden = layers.Add()([layers.Dense(6)(left), layers.Dense(6, activation="relu")(right)])
    outputs = {"small": layers.Dense(2)(hidden), "large": layers.Dense(5)(hidden)}
    model = keras.Model({"zeta": left, "alpha": right}, outputs)
    to_tflite(model, folder / "dicts")
    data = {name: RNG.normal(size=(9, 6)).astype("float32") for name in ("alpha", "zeta")}
    expected, found = model.predict(data, verbose=0), Runner(folder / "dicts").predict(data)
    assert found.keys() == {"small", "large"}
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5)


@pytest.mark.programs
def test_a_pruned_recurrent_network_keeps_its_zeros_inside_the_loops(folder):
    keras.utils.set_random_seed(3)
    stack = [layers.Embedding(12, 6), layers.Bidirectional(layers.LSTM(5)), layers.Dense(3)]
    model = tfprune.wrap(keras.Sequential([keras.Input((5,), dtype="int32", name="tokens"), *stack]))
    tfprune.update_masks(model, 0.5)
    report = to_tflite(model, folder / "recurrent")  # random tokens are drawn below 12
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    assert report.ops["WHILE"] == 2
    np.testing.assert_allclose(
        Runner(folder / "recurrent").predict(TOKENS), model.predict(TOKENS, verbose=0), atol=1e-5
    )


def test_integers_are_checked_on_the_first_calibration_batch(pruned, folder, monkeypatch):
    seen = []
    run = rewrite.run_in_child
    monkeypatch.setattr(rewrite, "run_in_child", lambda *args, **kw: seen.append(args[1]) or run(*args, **kw))
    batches = (batch for batch in (IMAGES[:12], IMAGES[12:]))  # a generator is read once
    report = to_tflite(pruned, folder / "int8", quantize=Quantization("int8", io_dtype="int8"), calibration=batches)
    np.testing.assert_array_equal(seen[0]["image"], IMAGES[:12])
    expected = pruned.predict(IMAGES, verbose=0)
    difference = np.abs(Runner(folder / "int8").predict(IMAGES) - expected).max()
    assert difference < 0.05 * np.abs(expected).max()
    assert report.candidates[0].name == "int8"


def test_a_file_with_wrong_outputs_is_not_written(delivers, folder):
    target = folder / "guarded"
    target.write_bytes(b"the old one")
    before = sorted(folder.iterdir())
    other = build_cnn()
    other.set_weights([RNG.permutation(weight.reshape(-1)).reshape(weight.shape) for weight in other.get_weights()])
    for kind in TOLERANCES:  # even the widest tolerance tells shuffled weights
        calibration = [IMAGES] if kind in INTEGERS else None
        with pytest.raises(
            ValueError, match=r"gives the model's outputs\. Received: output .* differs by up to .*allowed"
        ):
            options = {"calibration": calibration, "check_on": IMAGES, "tolerance": TOLERANCES[kind]}
            to_tflite(other, target, quantize=kind, **options)
    assert target.read_bytes() == b"the old one"
    assert sorted(folder.iterdir()) == before


def test_a_file_that_lost_zeros_is_not_written(delivers, folder):
    sparser = tfprune.wrap(build_cnn())
    tfprune.update_masks(sparser, 0.9)
    with pytest.raises(ValueError, match="keep the zeros of the kernels. Received: kernel '.*' has .* zeros in"):
        to_tflite(sparser, folder / "lost")
    assert not (folder / "lost").exists()


def test_a_model_that_cannot_be_converted_leaves_nothing(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("its process was killed by SIGSEGV")

    monkeypatch.setattr(CONVERT, refuse)
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="killed by SIGSEGV"):
        to_tflite(build_cnn(), folder / "crashed")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"quantize": "int9"},
            r"'dynamic', 'int8', 'int16x8', 'int4', or a Quantization\. Received: quantize='int9'",
        ),
        ({"compress": "zip"}, r"None, 'gzip', 'xz' or 'packed'\. Received: compress='zip'\. Did you mean 'gzip'\?"),
        ({"quantize": "int8"}, "Expected `calibration` with quantize='int8'"),
        (
            {"calibration": [IMAGES[0]]},
            r"batch 0 of `calibration`\. Received: shape \(8, 8, 3\)\. The first dimension",
        ),
        ({"calibration": IMAGES * np.nan}, "finite numbers for input 'image' in batch 0 of `calibration`"),
        ({"check_on": IMAGES[:0]}, r"Expected `check_on` with at least one sample"),
        ({"check_on": [IMAGES, IMAGES[:, 1:]]}, r"batch 1 of `check_on`\. Received: shape \(20, 7, 8, 3\)\.$"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_the_work(monkeypatch, tmp_path, options, message):
    monkeypatch.setattr(CONVERT, lambda *args, **kwargs: pytest.fail("converted all the same"))
    with pytest.raises(ValueError, match=message):
        to_tflite(build_cnn(), tmp_path / "file", **options)
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"Received: model='model.keras' of type str\. Load it first: keras\.models\."
    ):
        to_tflite("model.keras", tmp_path / "file")
    with pytest.raises(ValueError, match="Expected a built model"):
        to_tflite(keras.Sequential([layers.Dense(2)]), tmp_path / "file")


def test_a_target_that_cannot_be_written_is_refused_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(CONVERT, lambda *args, **kwargs: pytest.fail("converted all the same"))
    with pytest.raises(ValueError, match="it is a folder"):
        to_tflite(build_cnn(), tmp_path)
    with pytest.raises(ValueError, match=r"the folder .*missing' does not exist"):
        to_tflite(build_cnn(), tmp_path / "missing" / "file")
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    with pytest.raises(ValueError, match="no permission to write"):
        to_tflite(build_cnn(), tmp_path / "file")


def test_a_tolerance_of_ones_own_replaces_the_default(tmp_path):
    keras.utils.set_random_seed(0)
    # Below 1,024 entries the converter leaves a weight in float32, which may differ by nothing.
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(128)])
    x = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")
    with pytest.raises(ValueError, match="allow more with `tolerance`"):
        to_tflite(model, tmp_path / "model.tflite", quantize="dynamic", check_on=x, tolerance=1e-9)
    assert not (tmp_path / "model.tflite").exists()
    report = to_tflite(model, tmp_path / "model.tflite", quantize="dynamic", check_on=x, tolerance=0.5)
    assert report.tolerance == 0.5
    with pytest.raises(ValueError, match="`tolerance` to be a number of at least 0. Received: tolerance=-1"):
        to_tflite(model, tmp_path / "model.tflite", tolerance=-1)


def test_weights_share_as_many_levels_as_asked(folder):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    to_tflite(model, folder / "shared", quantize=Quantization("dynamic", levels=4), tolerance=1.0)
    (kernel,) = [array for array in constants((folder / "shared").read_bytes()) if array.ndim == 2]
    assert (kernel.dtype, kernel.shape) == (np.int8, (64, 64))
    assert len({*kernel.ravel().tolist()}) == 4, "0 is one of them"


def pointwise_net():
    """A strided convolution to 16 channels, a 1x1 one with 90 % zeros that reads them, a pool."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    maps = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    maps = layers.Conv2D(128, 1, activation="relu", name="pointwise")(maps)
    model = tfprune.wrap(keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps))), filters="kernel")
    tfprune.update_masks(model, 0.9)
    return model


def test_for_latency_the_mirrored_form_is_written_where_it_reaches_sparse_kernels(folder):
    model = pointwise_net()
    samples = RNG.normal(size=(4, 16, 16, 3)).astype("float32")
    report = to_tflite(model, folder / "fast", optimize="latency", check_on=samples)
    (taken,) = [row.name for row in report.candidates if not row.reason]
    assert taken == "float32, sparse-ready, sparse"
    assert report.sparse_inference.active
    assert report.sparse_inference.hazards == ()
    np.testing.assert_allclose(Runner(folder / "fast").predict(samples), model.predict(samples, verbose=0), atol=1e-5)


def test_for_latency_channels_that_no_kernel_reads_are_left_out(folder):
    model = tfprune.strip(pointwise_net())
    kernel = model.get_layer("pointwise").kernel
    kernel.assign(np.where(np.isin(np.arange(16), (0, 4, 5))[:, None], 0, kernel))
    samples = RNG.normal(size=(4, 16, 16, 3)).astype("float32")
    to_tflite(model, folder / "narrow", optimize="latency", check_on=samples)
    shapes = {weight.shape for weight in read((folder / "narrow").read_bytes()).weights}
    read_by_dense = int(np.any(model.layers[-1].kernel.numpy() != 0, axis=1).sum())
    assert shapes == {(13, 3, 3, 3), (read_by_dense, 1, 1, 13), (3, read_by_dense)}
    np.testing.assert_allclose(
        Runner(folder / "narrow").predict(samples), model.predict(samples, verbose=0), atol=1e-5
    )
    assert tuple(kernel.shape) == (1, 1, 16, 128)


def test_a_model_without_a_zero_in_its_masks_is_exported_with_one_warning_at_the_call(folder):
    with pytest.warns(UserWarning, match="none of their masks holds a zero") as caught:
        to_tflite(tfprune.wrap(build_cnn()), folder / "forgotten", optimize="latency", check_on=IMAGES)
    assert [warning.filename for warning in caught if "masks" in str(warning.message)] == [__file__]


@pytest.mark.parametrize("style", [*first(*COPIED), Neither])
def test_every_style_of_subclassed_model_is_exported_once_it_is_stripped(style, folder):
    model, x = style(), np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    model(x)
    wrapped = tfprune.wrap(model, in_place=style is Neither)
    wrapped.compile("sgd", "mse")
    schedule = tfprune.schedules.Constant(0.5)
    wrapped.fit(x, x, verbose=0, callbacks=[tfprune.PruningCallback(schedule)])
    inputs = keras.Input((4,))
    report = to_tflite(keras.Model(inputs, tfprune.strip(wrapped)(inputs)), folder / "style.tflite", check_on=x)
    assert (report.nnz, report.size) == (8, 16)
    np.testing.assert_allclose(Runner(folder / "style.tflite").predict(x), wrapped(x), atol=1e-5)
