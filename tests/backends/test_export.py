"""Export on the other backends of Keras, by both converters: the file gives what `model.predict` gives here."""

from __future__ import annotations

import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import layer_cases
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.export import Quantization, Runner, inspect, sparse_inference, to_tflite
from tfprune.export.file.reader import read

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.skipif(BACKEND == "tensorflow", reason="tests/export is of TensorFlow"),
    pytest.mark.usefixtures("converter"),
]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(20, 8, 8, 3)).astype("float32")
TOKENS = RNG.integers(0, 9, size=(12, 5)).astype("int32")


def traces_here():
    """Return whether the model is traced in this process, so that no other has to load it."""
    return BACKEND == "jax" and os.environ["TFPRUNE_CONVERTER"] == "litert"


def cnn(**settings):
    keras.utils.set_random_seed(1)
    stack = [
        layers.Conv2D(8, 3, padding="same", strides=2, name="conv", **settings),
        layers.BatchNormalization(moving_mean_initializer="normal", **settings),
        layers.ReLU(**settings),
        layers.SeparableConv2D(8, 3, **settings),
        layers.Flatten(**settings),
        layers.Dense(4, name="out", **settings),
    ]
    return keras.Sequential([keras.Input((8, 8, 3), name="image"), *stack])


def pruned(model):
    model = tfprune.wrap(model)
    tfprune.update_masks(model, 0.5)
    return model


def difference(path, model, inputs):
    """Return the largest difference relative to the largest Keras output."""
    expected = model.predict(inputs, verbose=0)
    return np.abs(Runner(path).predict(inputs) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("quantize", "tolerance"), [(None, 1e-5), ("float16", 2e-3), ("dynamic", 0.03), ("int8", 0.05)]
)
def test_every_kind_of_file_gives_what_keras_gives(tmp_path, quantize, tolerance):
    model = pruned(cnn())
    report = to_tflite(model, tmp_path / "file", quantize=quantize, calibration=IMAGES, check_on=IMAGES)
    assert difference(tmp_path / "file", model, IMAGES) < tolerance
    assert report.nnz == tfprune.sparsity_report(model).total_nnz  # had a zero been lost, nothing would be written
    assert sys.modules["tensorflow"] is None


@pytest.mark.parametrize(("scheme", "io_dtype"), [("int8", "float32"), ("int4", "int8")])
def test_layers_and_operators_that_are_skipped_stay_in_float(tmp_path, scheme, io_dtype):
    model = pruned(cnn())

    def operators(skip):
        form = Quantization(scheme, skip=skip, io_dtype=io_dtype)
        to_tflite(model, tmp_path / "file", quantize=form, calibration=IMAGES, optimize="dense")
        graph = read((tmp_path / "file").read_bytes()).subgraphs[0]
        kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        outputs = [(each.name, graph.tensors[each.outputs[0]]) for each in graph.operators if each.name in kinds]
        assert len(outputs) >= 3
        return {tensor.name: name for name, tensor in outputs if tensor.dtype == "float32"}

    in_float = operators("^separable")
    assert sorted(in_float.values()) == ["CONV_2D", "DEPTHWISE_CONV_2D"]
    assert operators(next(name for name, kind in in_float.items() if kind == "CONV_2D")).keys() < in_float.keys()
    for skip, words in (("conv_7", "'conv_7', which is found in no path"), (".", "which matches all of them")):
        with pytest.raises(ValueError, match=words):
            operators(skip)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = pruned(cnn())
    for name in "ab":
        to_tflite(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("quantize", "tolerance"), [(None, 1e-5), ("int8", 0.35)])
def test_recurrent_layers_are_exported(tmp_path, quantize, tolerance):
    keras.utils.set_random_seed(2)
    stack = [layers.Embedding(9, 8), layers.Bidirectional(layers.LSTM(6)), layers.Dense(3)]
    model = pruned(keras.Sequential([keras.Input((5,), dtype="int32", name="tokens"), *stack]))
    to_tflite(model, tmp_path / "file", quantize=quantize, calibration=TOKENS, check_on=TOKENS)
    assert difference(tmp_path / "file", model, TOKENS) < tolerance


def test_inputs_and_outputs_keep_their_names(tmp_path):
    keras.utils.set_random_seed(3)
    left, right = keras.Input((6,), name="zeta"), keras.Input((6,), name="alpha")
    hidden = layers.Add()(
        [layers.Dense(6)(left), layers.MultiHeadAttention(2, 3)(right[:, None], left[:, None])[:, 0]]
    )
    outputs = {"small": layers.Dense(2)(hidden), "large": layers.Dense(5)(hidden)}
    model = keras.Model({"zeta": left, "alpha": right}, outputs)
    data = {name: RNG.normal(size=(9, 6)).astype("float32") for name in ("alpha", "zeta")}
    to_tflite(model, tmp_path / "file", check_on=data)
    expected, found = model.predict(data, verbose=0), Runner(tmp_path / "file").predict(data)
    assert found.keys() == {"small", "large"}
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5)


@pytest.mark.parametrize(("half", "tolerance"), [("float16", 0.01), ("bfloat16", 0.1)])
def test_mixed_precision_becomes_float32(tmp_path, half, tolerance):
    model, twin = pruned(cnn(dtype=f"mixed_{half}")), cnn()
    report = to_tflite(model, tmp_path / "file", check_on=IMAGES)
    assert report.tolerance == tolerance
    twin.set_weights([keras.ops.convert_to_numpy(weight) for weight in tfprune.strip(model).weights])
    assert difference(tmp_path / "file", twin, IMAGES) < 1e-5
    assert model.get_layer("out").layer.compute_dtype == half


def test_data_of_the_backend_are_read(tmp_path):
    model = pruned(cnn())
    data = keras.ops.convert_to_tensor(IMAGES)
    if BACKEND == "torch":
        from torch.utils.data import DataLoader, TensorDataset

        data = DataLoader(TensorDataset(data, keras.ops.arange(20)), batch_size=8)
    to_tflite(model, tmp_path / "loaded", quantize="int8", calibration=data, check_on=data)
    to_tflite(model, tmp_path / "arrays", quantize="int8", calibration=IMAGES, check_on=IMAGES)
    assert (tmp_path / "loaded").read_bytes() == (tmp_path / "arrays").read_bytes()


def test_a_form_for_sparse_kernels_is_found(tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    maps = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    maps = layers.Conv2D(128, 1, activation="relu", name="pointwise")(maps)
    model = tfprune.wrap(keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps))), filters="kernel")
    tfprune.update_masks(model, 0.9)
    assert not sparse_inference(model).eligible
    assert sparse_inference(tfprune.export.make_sparse_ready(model)).eligible
    samples = RNG.normal(size=(4, 16, 16, 3)).astype("float32")
    report = to_tflite(model, tmp_path / "fast", optimize="latency", check_on=samples)
    assert report.sparse_inference.active
    assert difference(tmp_path / "fast", model, samples) < 1e-5


MODULE = """
import keras

@keras.saving.register_keras_serializable(package="mine")
class Scaled(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="normal")

    def call(self, inputs):
        return inputs * self.scale

@keras.saving.register_keras_serializable(package="mine")
class Transformed(keras.layers.Layer):
    def call(self, inputs):
        real, imaginary = keras.ops.fft2((inputs, 0.5 * inputs))
        first = keras.ops.cond(keras.ops.shape(inputs)[1] > 9, lambda: inputs[:, 9], lambda: inputs[:, 0])
        total = keras.ops.fori_loop(0, 4, lambda step, total: total * 0.5 + real[:, step], first)
        total = keras.ops.sort(total) + keras.ops.top_k(total, 1)[0]
        total = total + keras.ops.cast(keras.ops.argsort(inputs[:, 2]), "float32")
        is_large = keras.ops.take(total > 0, [1, 0], axis=1)
        return keras.ops.where(is_large[:, :1], total, imaginary[:, 1])
"""


def test_classes_of_a_module_are_exported(tmp_path, monkeypatch):
    (tmp_path / "module_of_the_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    module = importlib.import_module("module_of_the_user")
    model = keras.Sequential([keras.Input((8, 8, 3)), module.Scaled(), layers.Flatten(), layers.Dense(3)])
    to_tflite(pruned(model), tmp_path / "file", check_on=IMAGES)


def test_transforms_loops_sorting_and_branches_of_known_sizes_are_exported(tmp_path, monkeypatch, converter):
    if converter == "tensorflow":
        pytest.skip("TensorFlow's converter has no operator for transforms")
    (tmp_path / "module_with_transforms.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    module = importlib.import_module("module_with_transforms")
    model = keras.Sequential([keras.Input((6, 8)), module.Transformed(), layers.Dense(3)])
    to_tflite(model, tmp_path / "file")
    assert difference(tmp_path / "file", model, RNG.normal(size=(3, 6, 8)).astype("float32")) < 1e-5


def test_what_the_child_cannot_import_is_refused(tmp_path):
    class Doubled(layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = keras.Sequential([keras.Input((4,)), Doubled(), layers.Dense(3)])
    for name, module in (("test.<locals>.Doubled", __name__), ("Doubled", "__main__"), ("Doubled", "nowhere")):
        Doubled.__qualname__, Doubled.__module__ = name, module
        if traces_here():
            assert to_tflite(model, tmp_path / "file").max_abs_diff < 1e-5
            continue
        with pytest.raises(
            ValueError, match=rf"Received: {module}\.{name}\. Define it in a module .* with KERAS_BACKEND"
        ):
            to_tflite(model, tmp_path / "file")
    assert traces_here() or not list(tmp_path.iterdir())


def test_what_the_converter_cannot_take_is_said(tmp_path, converter):
    if converter == "litert":
        with pytest.raises(
            ValueError, match=r"operators without a kernel in LiteRT: STABLEHLO_CONVOLUTION\. Use Tens"
        ):
            to_tflite(layer_cases.build("Conv3DTranspose", 0), tmp_path / "file")
    series = keras.Sequential([keras.Input((None, 3), name="series"), layers.GRU(4)])
    with pytest.raises(ValueError, match=r"^Expected inputs of fixed length .* 'series' of shape \(None, None, 3\)"):
        to_tflite(series, tmp_path / "file", quantize="int8", calibration=np.arange(30.0).reshape(2, 5, 3))


def test_the_report_says_what_converted_the_file_unless_it_was_tensorflow(tmp_path, converter):
    report = to_tflite(cnn(), tmp_path / "file")
    assert report.converter.partition(" ")[0] == {"tensorflow": "", "litert": "litert-converter"}[converter]
    assert inspect(tmp_path / "file").converter == report.converter
    assert (report.converter in report.card()) and ("converted by" in str(report)) == bool(report.converter)


def series(length):
    keras.utils.set_random_seed(4)
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    hidden = layers.Embedding(9, 16)(tokens)
    hidden = layers.Conv1D(16, 3, padding="same")(hidden) + layers.MultiHeadAttention(2, 8)(hidden, hidden)
    hidden = layers.Dense(16, "gelu")(layers.LayerNormalization()(hidden))
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(hidden)))


def test_open_batches_and_lengths_stay_open(tmp_path):
    model = series(None)
    to_tflite(model, tmp_path / "file", check_on=TOKENS)
    for rows, length in ((1, 5), (3, 9)):
        tokens = RNG.integers(0, 9, size=(rows, length)).astype("int32")
        assert difference(tmp_path / "file", model, tokens) < 1e-5


@pytest.mark.parametrize("length", [5, None])
def test_integers_of_ids_keep_open_batches_and_lengths(tmp_path, length):
    model = series(length)
    to_tflite(model, tmp_path / "file", quantize="int8", calibration=TOKENS)
    for tokens in (TOKENS[:1], TOKENS, *([] if length else [TOKENS[:2, :3]])):
        assert difference(tmp_path / "file", model, tokens) < 0.1


def test_states_are_refused_with_the_other_path(tmp_path, converter):
    inputs = keras.Input((5, 3), batch_size=1)
    model = keras.Model(inputs, layers.LSTM(4, stateful=True, name="memory")(inputs))
    if converter == "litert":
        with pytest.raises(ValueError, match=r"without states .* 'memory' keeps .* TFPRUNE_CONVERTER=tensorflow"):
            to_tflite(model, tmp_path / "file")


def halves_and_ones(x):
    return x * keras.ops.concatenate([keras.ops.zeros_like(x[:, :1]) + 0.5, keras.ops.ones_like(x[:, 1:])], axis=1)


def where_a_constant_says(x):
    mask = keras.ops.concatenate([keras.ops.ones_like(x[:, :1], dtype="bool"), x[:, 1:] > 0], axis=1)
    return keras.ops.where(mask, x, -1.0)


@pytest.mark.parametrize("function", [halves_and_ones, where_a_constant_says])
def test_constants_of_an_open_batch_fit_any_batch_and_are_stored_for_one_row(tmp_path, function):
    x = keras.Input((3, 4))
    model = keras.Model(x, function(x))
    assert to_tflite(model, tmp_path / "file").bytes < 4_000
    for rows in (1, 3):
        assert difference(tmp_path / "file", model, RNG.normal(size=(rows, 3, 4)).astype("float32")) < 1e-5


def test_kernels_that_are_equal_may_be_one_in_the_file(tmp_path):
    vector = keras.Input((6,))
    twins = [layers.Dense(6, use_bias=False, kernel_initializer=keras.initializers.HeNormal(1)) for _ in range(2)]
    constant = keras.ops.matmul(vector, np.full((6, 6), 0.3, np.float32))  # has the size of a kernel, and no zeros
    model = pruned(keras.Model(vector, layers.Concatenate()([*(twin(vector) for twin in twins), constant])))
    data = RNG.normal(size=(4, 6)).astype("float32")
    to_tflite(model, tmp_path / "file", check_on=data)
    assert difference(tmp_path / "file", model, data) < 1e-5


def test_tables_of_which_constant_rows_are_taken_are_not_missed(tmp_path):
    series = keras.Input((3, 4))
    positions = layers.Embedding(10, 4, name="positions")
    model = pruned(keras.Model(series, layers.Dense(4)(series) + positions(keras.ops.arange(3))))
    data = RNG.normal(size=(4, 3, 4)).astype("float32")
    to_tflite(model, tmp_path / "file", check_on=data)
    assert difference(tmp_path / "file", model, data) < 1e-5


def test_tensors_of_five_axes_are_repeated(tmp_path):
    boxes = keras.Input((2, 1, 3, 1))
    model = keras.Model(boxes, keras.ops.tile(layers.Dense(3)(boxes), (1, 2, 3, 1, 2)))
    data = RNG.normal(size=(4, 2, 1, 3, 1)).astype("float32")
    to_tflite(model, tmp_path / "file", check_on=data)
    assert difference(tmp_path / "file", model, data) < 1e-5


def test_a_file_has_no_operators_that_compute_sizes_or_approximate_gelu(tmp_path, converter):
    ops = to_tflite(series(5), tmp_path / "file", check_on=TOKENS).ops
    assert converter == "tensorflow" or (ops["GELU"] == 1 and not {"SHAPE", "PACK", "EXP"} & ops.keys())


@pytest.mark.parametrize(
    ("size", "strides", "padding"), [(3, 2, "same"), (4, 2, "same"), (2, 2, "valid"), (5, 3, "valid")]
)
def test_transposed_convolutions_keep_their_sizes(tmp_path, size, strides, padding):
    keras.utils.set_random_seed(5)
    stack = [layers.Conv2DTranspose(4, size, strides=strides, padding=padding), layers.Conv2D(2, 1)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    to_tflite(model, tmp_path / "file", check_on=IMAGES)
    assert difference(tmp_path / "file", model, IMAGES) < 1e-5


@pytest.mark.parametrize("case", ["Conv2DTranspose/0", "UpSampling2D/0"])
def test_single_layers_are_right_for_other_batches(tmp_path, converter, case):
    if converter == "tensorflow":
        pytest.skip("the program tests/fuzz/converters.py exports every layer by both converters")
    name, _, number = case.partition("/")
    model = layer_cases.build(name, int(number))
    to_tflite(model, tmp_path / "file", optimize="dense")
    for rows in (1, 3):
        data = RNG.normal(size=(rows, *(size or 9 for size in model.input_shape[1:]))).astype("float32")
        assert difference(tmp_path / "file", model, data) < 1e-5


@pytest.mark.skipif(BACKEND != "jax", reason="models are traced in this process on JAX alone")
def test_other_threads_keep_the_functions_of_jax(converter):
    if converter == "tensorflow":
        return
    import jax

    from tfprune.export.keras_side.stablehlo import _known_functions

    def beyond():
        return float(jax.numpy.take(jax.numpy.arange(3.0), 7, axis=0))  # NaN, if it is as it was

    before = jax.numpy.take
    with _known_functions(fuses=True), ThreadPoolExecutor(1) as pool:
        assert np.isnan(pool.submit(beyond).result()) and not np.isnan(beyond())
    assert jax.numpy.take is before


def test_another_converter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TFPRUNE_CONVERTER", "onnx")
    with pytest.raises(ValueError, match=r"^Expected 'tensorflow' or 'litert' in .* Received: .*'onnx'"):
        to_tflite(cnn(), tmp_path / "file")
