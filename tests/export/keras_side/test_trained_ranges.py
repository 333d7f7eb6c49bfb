"""Files of models that were trained quantization-aware, against what Keras computes, in the interpreter."""

from __future__ import annotations

import functools
from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers
from tiers import first

import tfprune
from tfprune.export import Quantization, Runner, to_tflite
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert
from tfprune.export.keras_side.prepare import with_known_ranges
from tfprune.export.keras_side.to_tflite import _float_operators

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, size=(64, 8, 8, 2)).astype("float32")
SERIES = RNG.normal(size=(64, 4, 4)).astype("float32")
TOKENS = RNG.integers(0, 20, size=(64, 3)).astype("int32")


def normalized(tensor, layer, activation=None):
    tensor = layers.BatchNormalization(momentum=0.8)(layer(tensor))
    return tensor if activation is None else activation(tensor)


def images() -> keras.Model:
    inputs = keras.Input((8, 8, 2))
    first = normalized(layers.ZeroPadding2D(1)(inputs), layers.Conv2D(8, 3, use_bias=False), layers.ReLU())
    hidden = normalized(first, layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), layers.LeakyReLU())
    hidden = normalized(hidden, layers.Conv2D(8, 1, activation="linear"))
    hidden = layers.ReLU(6.0)(layers.Add()([first, hidden]))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(hidden))
    hidden = layers.Multiply()([hidden, gate]) + layers.Conv2D(8, 3, padding="same", activation="silu")(hidden)
    pooled = layers.AveragePooling2D(3, 1, "same")(first)
    hidden = layers.MaxPooling2D()(layers.Concatenate()([pooled, hidden]))
    hidden = layers.Conv2DTranspose(6, 2, strides=2, activation="tanh")(layers.UpSampling2D()(hidden))
    hidden = normalized(layers.GlobalMaxPooling2D()(hidden), layers.Dense(12, use_bias=False), layers.ReLU())
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dropout(0.1)(hidden)))


def series() -> keras.Model:
    inputs = keras.Input((4, 4))
    hidden = normalized(inputs, layers.Conv1D(8, 3, padding="causal", use_bias=False), layers.ReLU())
    hidden = layers.LSTM(6)(layers.Conv1D(8, 3, padding="same", activation="relu")(hidden))
    return keras.Model(inputs, [layers.Dense(3, name="scores")(hidden), layers.Dense(1, name="size")(hidden)])


def tokens() -> keras.Model:
    inputs = keras.Input((3,), dtype="int32")
    return keras.Model(inputs, layers.Dense(3, activation="sigmoid")(layers.GRU(6)(layers.Embedding(20, 8)(inputs))))


def two_operators() -> keras.Model:
    inputs = keras.Input((8, 8, 2))
    hidden = layers.Normalization(mean=[0.1, -0.2], variance=[0.5, 2.0])(layers.Rescaling(2.0, 0.1)(inputs))
    hidden = normalized(hidden, layers.SeparableConv2D(8, 3, use_bias=False), layers.ReLU())
    hidden = layers.Concatenate()([hidden, layers.SeparableConv2D(4, 3, padding="same", activation="tanh")(hidden)])
    hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(hidden))
    hidden = normalized(hidden, layers.Conv2D(8, 3), layers.Activation("hard_silu"))
    hidden = layers.BatchNormalization(momentum=0.8)(layers.GlobalAveragePooling2D()(hidden))
    return keras.Model(inputs, layers.Dense(3)(hidden))


def branches() -> keras.Model:
    inputs = keras.Input((8, 8, 2))
    parts = [layers.Conv2D(6, size, padding="same", activation="relu")(inputs) for size in (1, 3)]
    narrow = layers.Activation("relu")(layers.BatchNormalization(momentum=0.8)(layers.Conv2D(2, 1)(inputs)))
    return keras.Model(inputs, layers.Concatenate()([*parts, narrow]))


CASES = {
    "branches": (branches, IMAGES),
    "two_operators": (two_operators, IMAGES),
    "images": (images, IMAGES),
    "series": (series, SERIES),
    "tokens": (tokens, TOKENS),
}


SPARSE = ("branches", "tokens")  # whose sparse forms are tried, too


@functools.cache
def trained(case: str) -> tuple[keras.Model, np.ndarray]:
    """Build a pruned network whose ranges have seen the data; one is trained, too."""
    build, data = CASES[case]
    keras.utils.set_random_seed(0)
    model = tfprune.quantize_aware(tfprune.wrap(build()))
    tfprune.update_masks(model, 0.6)
    if case == "branches":
        model.compile("adam", "mse", run_eagerly=True)
        model.fit(data, np.ones((len(data), *model.output.shape[1:])) / 3, epochs=2, verbose=0)
    for batch in (data[:32], data[32:]) * 2:
        model(batch, training=True)
    return model, data


def as_list(outputs) -> list[np.ndarray]:
    return outputs if isinstance(outputs, list) else [outputs]


def last_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [model.get_layer(name) for name in model.output_names]


@pytest.mark.parametrize("case", first(*CASES))
def test_the_file_computes_in_integers_what_keras_computes(case, tmp_path):
    model, data = trained(case)
    path = tmp_path / "model.tflite"
    optimize = "size" if case in SPARSE else "dense"
    report = to_tflite(model, path, quantize="int8", check_on=data, optimize=optimize)
    graph = read(path.read_bytes())
    assert not _float_operators(graph)
    expected = as_list(model.predict(data, verbose=0))
    outputs = as_list(Runner(path).predict(data))
    close = []
    for layer, keras_output, file_output in zip(last_layers(model), expected, outputs, strict=True):
        bounds = layer.known_ranges().get("output", (0, 255 / 256))  # of a softmax or sigmoid
        step = (bounds[1] - bounds[0]) / 255
        close.append((np.abs(keras_output - file_output) <= 2.01 * step).ravel())
    assert np.mean(np.concatenate(close)) >= 0.99
    sparsity = tfprune.sparsity_report(model)
    assert 0 < report.nnz <= sparsity.total_nnz  # small weights are rounded to 0, too
    zeros = sum(weight.size - weight.nnz for weight in graph.weights if weight.dtype == "int8")
    assert zeros >= sparsity.total_size - sparsity.total_nnz


@pytest.mark.programs
def test_levels_and_an_int8_input(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.Conv2D(16, 3, name="c"), layers.Flatten(), layers.Dense(4)]
    )
    model = tfprune.quantize_aware(model, levels=8)
    model(IMAGES, training=True)
    path = tmp_path / "model.tflite"
    to_tflite(model, path, quantize=Quantization("int8", io_dtype="int8"), check_on=IMAGES)
    graph = read(path.read_bytes())
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == "int8" and "QUANTIZE" not in graph.ops
    dense = next(weight for weight in graph.weights if len(weight.shape) == 2)
    assert len(np.unique(dense.values.raw)) <= 8


@pytest.mark.programs
def test_other_kinds_of_files_hold_the_float_model(tmp_path):
    model, data = trained("series")
    to_tflite(model, tmp_path / "model.tflite", check_on=data)
    expected = as_list(tfprune.strip(model).predict(data, verbose=0))
    for one, other in zip(expected, as_list(Runner(tmp_path / "model.tflite").predict(data)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_other_integers_take_the_weights_and_calibrate_anew(tmp_path):
    model = small(layers.Conv2D(8, 3, activation="relu"))
    model(IMAGES, training=True)
    expected = tfprune.strip(model).predict(IMAGES, verbose=0)
    for kind, allowed in (("int16x8", 0.01), ("int4", 0.2)):
        with pytest.raises(ValueError, match=r"calibration=x\[:100\]; the ranges .* are those of int8\."):
            to_tflite(model, tmp_path / kind, quantize=kind)
        to_tflite(model, tmp_path / kind, quantize=kind, calibration=IMAGES)
        assert np.abs(Runner(tmp_path / kind).predict(IMAGES) - expected).max() < allowed * np.abs(expected).max()


PATCHES = RNG.normal(size=(128, 8, 16)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
def tanh_gelu(tensor):
    return keras.activations.gelu(tensor, approximate=True)


def branch(hidden, mask, part) -> keras.KerasTensor:
    return {
        "attention": lambda: layers.MultiHeadAttention(2, 8)(hidden, hidden),
        "causal": lambda: layers.MultiHeadAttention(2, 8)(hidden, hidden, use_causal_mask=True),
        "masked": lambda: layers.MultiHeadAttention(2, 8, name="masked")(hidden, hidden, attention_mask=mask),
        "dropped": lambda: layers.MultiHeadAttention(2, 8, dropout=0.1)(hidden, hidden, attention_mask=mask),
        "grouped": lambda: layers.GroupQueryAttention(8, 4, 2)(hidden, hidden),
        "norm": lambda: layers.LayerNormalization(epsilon=1e-6)(hidden),
        "rms": lambda: layers.RMSNormalization()(hidden),
        "group": lambda: layers.GroupNormalization(4)(hidden),
        "gelu": lambda: layers.Dense(8, activation="gelu")(hidden),
        "gelu layer": lambda: layers.Activation(tanh_gelu)(layers.Dense(8)(hidden)),
        "heads": lambda: layers.EinsumDense("abc,dec->abde", (None, 2, 4), bias_axes="de", activation="relu")(hidden),
        "sum": lambda: layers.Add()([hidden, *(layers.Dense(16)(hidden) for _ in range(3))]),
        "average": lambda: layers.Average()([hidden, layers.Dense(16)(hidden)]),
        "dot": lambda: layers.Dot(axes=(2, 2))([hidden, layers.Dense(16)(hidden)]),
    }[part]()


PARTS = ("attention", "causal", "masked", "dropped", "grouped", "norm", "rms", "group", "gelu", "gelu layer")
PARTS += ("heads", "sum", "average", "dot")


def with_other_weights(model: keras.Model) -> keras.Model:
    """Return a model whose biases and scales are not those of the start, which fold into nothing."""
    for weight in model.weights:
        if weight.path.endswith(("gamma", "beta", "bias")):
            weight.assign(RNG.uniform(0.5, 1.5, weight.shape) * (1 if weight.path.endswith("gamma") else 0.3))
    return model


@pytest.mark.programs
def test_parts_of_transformers_round_where_their_operators_do(tmp_path):
    keras.utils.set_random_seed(0)
    inputs, mask = keras.Input((8, 16)), keras.Input((1, 8), dtype="bool")
    hidden = layers.Dense(16)(inputs)
    model = keras.Model([inputs, mask], [branch(hidden, mask, part) for part in PARTS])
    model = tfprune.quantize_aware(with_other_weights(model))
    data = [PATCHES, RNG.random((128, 1, 8)) < 0.7]
    data[1][..., 0] = True  # a row of which all is masked says nothing
    model(data, training=True)
    assert model.get_layer("masked").known_ranges()["dotproductattention/logits"][0] > -50  # the mask puts -1e9 in
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(with_known_ranges(model), quantize="int8"))
    operators = Counter(operator.name for operator in read(path.read_bytes()).subgraphs[0].operators)
    assert operators["GELU"] == 2 and operators["SOFTMAX"] == 5
    outputs = model.predict(data, verbose=0), as_list(Runner(path).predict(data))
    for part, layer, expected, found in zip(PARTS, last_layers(model), *outputs, strict=True):
        low, high = list(layer.known_ranges().values())[-1]
        share = np.mean(np.abs(expected - found) <= 1.01 * (high - low) / 255)
        assert share >= 0.995, (part, share)


def vit_block() -> keras.Model:
    inputs = keras.Input((8, 16))
    hidden = layers.Dense(16, name="patches")(inputs)
    normal = layers.LayerNormalization(epsilon=1e-6)(hidden)
    hidden = layers.Add()([hidden, layers.MultiHeadAttention(2, 8, dropout=0.1, name="attention")(normal, normal)])
    normal = layers.LayerNormalization(epsilon=1e-6)(hidden)
    units = layers.Dense(32, activation="gelu", name="units")(normal)
    return keras.Model(inputs, layers.Add()([hidden, layers.Dense(16)(units)]))


@pytest.mark.programs
def test_a_block_of_a_vision_transformer_trained_saved_and_exported(tmp_path):
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(vit_block())
    tfprune.update_masks(model, 0.5)
    model = tfprune.quantize_aware(model)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(PATCHES, np.roll(PATCHES, 1, axis=1), epochs=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(PATCHES, verbose=0)
    np.testing.assert_array_equal(loaded.predict(PATCHES, verbose=0), expected)
    path = tmp_path / "model.tflite"
    refused(loaded, path, r"compute in float: .*layer_normalization.*: a normalization", check_on=PATCHES)
    to_tflite(loaded, path, quantize=Quantization("int8", allow_float=True), check_on=PATCHES)
    low, high = loaded.layers[-1].known_ranges()["output"]
    apart = np.abs(Runner(path).predict(PATCHES) - expected) / ((high - low) / 255)
    assert np.mean(apart <= 1.01) >= 0.995
    stripped = tfprune.strip(loaded)
    kernels = [stripped.get_layer(name) for name in ("patches", "units")]
    assert {type(layer) for layer in stripped.layers} == {type(layer) for layer in vit_block().layers}
    for kernel in (kernels[0].kernel, kernels[1].kernel, stripped.get_layer("attention").query_dense.kernel):
        assert np.mean(np.asarray(kernel) == 0) == pytest.approx(0.5, abs=0.01)


SIZES = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}


def classifier(name: str = "Bert", **sizes: int) -> tuple[keras.Model, dict[str, np.ndarray], np.ndarray]:
    """Return a small classifier of KerasHub, texts with padding, and labels that depend on their words."""
    models = pytest.importorskip("keras_hub").models
    keras.utils.set_random_seed(0)
    backbone = getattr(models, f"{name}Backbone")(**SIZES, **sizes, max_sequence_length=8)
    task = getattr(models, f"{name}TextClassifier")(backbone, num_classes=4)
    inputs = {name: keras.Input((8,), None, tensor.dtype, name=name) for name, tensor in task.input.items()}
    model = keras.Model(inputs, task(inputs))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("kernel"):  # so that some scores matter
            weight.assign(generator.normal(size=weight.shape) / 4)
    kept = np.arange(8) < generator.integers(2, 9, (128, 1))
    ids = np.where(kept, generator.integers(1, 20, kept.shape), 0).astype("int32")
    x = {"token_ids": ids, "padding_mask": kept.astype("int32"), "segment_ids": ids * 0}
    x = {name: x[name] for name in inputs}
    return model, x, ids.max(-1) % 4


def rounded_to(kernel: np.ndarray, *, inputs: int) -> np.ndarray:
    """Return the integers of a kernel, the outputs first."""
    rows = kernel.reshape(inputs, -1).T
    return np.round(rows / (np.abs(rows).max(axis=1, keepdims=True) / 127))


@pytest.mark.programs
def test_a_classifier_under_masks_is_trained_and_its_file_has_its_zeros_and_outputs(tmp_path):
    model, x, y = classifier()
    model = tfprune.wrap(model)
    tfprune.update_masks(model, 0.6)
    masked = {path: np.asarray(value) == 0 for path, value in kernels_of(tfprune.strip(model)).items()}
    model = tfprune.quantize_aware(model)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=3, verbose=0)
    path = tmp_path / "model.tflite"
    to_tflite(model, path, quantize=Quantization("int8", allow_float=True), check_on=x, batch=1)

    trained = kernels_of(tfprune.strip(model))
    of_file = [weight.values.raw for weight in read(path.read_bytes()).weights if weight.dtype == "int8"]
    assert len(trained) == 6
    for name, kernel in trained.items():
        np.testing.assert_array_equal(kernel == 0, masked[name], err_msg=name)
        integers = rounded_to(kernel, inputs=16 if "output_dense" not in name else 24)
        assert np.mean(masked[name]) == pytest.approx(0.6, abs=0.01) and len(np.unique(integers)) > 50
        same = [raw for raw in of_file if raw.size == integers.size]
        assert any(np.array_equal(raw.reshape(integers.shape) == 0, integers == 0) for raw in same), name

    expected = model.predict(x, verbose=0)
    outputs = Runner(path).predict(x)
    low, high = tfprune.quantization_report(model).rows[-1].ranges["output"]
    apart = np.abs(outputs - expected) / ((high - low) / 255)
    assert np.mean(apart <= 1.01) >= 0.995
    assert np.mean(apart < 0.5) > 0.8  # most are the same
    assert np.mean(outputs.argmax(-1) == expected.argmax(-1)) >= 0.98


def test_rows_of_a_table_that_training_moves_out_of_their_range_end_there_in_the_file_as_well(tmp_path):
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    table = layers.Embedding(20, 8)
    model = keras.Model(ids, layers.Dense(4)(layers.Flatten()(table(ids))))
    rows = np.linspace(-1.28, 1.27, 160).reshape(20, 8)  # 0 is in the middle of their integers
    table.embeddings.assign(rows)
    model = tfprune.quantize_aware(model)
    model(TOKENS, training=True)
    model.layers[1].layer.embeddings.assign(1.2 * rows)
    path = tmp_path / "model.tflite"
    to_tflite(model, path, quantize="int8", check_on=TOKENS)
    low, high = model.layers[-1].known_ranges()["output"]
    apart = np.abs(Runner(path).predict(TOKENS) - model.predict(TOKENS, verbose=0)) / ((high - low) / 255)
    assert apart.max() <= 1.01


@pytest.mark.programs
def test_a_classifier_of_any_length_is_exported_where_the_model_around_it_fixes_the_length(tmp_path):
    model, x, y = classifier("DebertaV3", bucket_size=4)
    model = tfprune.quantize_aware(model)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, verbose=0)
    path = tmp_path / "model.tflite"
    to_tflite(model, path, quantize=Quantization("int8", allow_float=True), check_on=x, batch=1)
    low, high = tfprune.quantization_report(model).rows[-1].ranges["output"]
    expected = model.predict(x, verbose=0)  # dropout, which drops while the model trains, does nothing here
    apart = np.abs(Runner(path).predict(x) - expected) / ((high - low) / 255)
    assert np.mean(apart <= 1.01) >= 0.995


def kernels_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        weight.path: np.asarray(weight)
        for weight in model.weights
        if weight.path.endswith("kernel") and "transformer_layer" in weight.path
    }


def small(*parts: keras.layers.Layer) -> keras.Model:
    return tfprune.quantize_aware(keras.Sequential([keras.Input((8, 8, 2)), *parts, layers.Conv2D(2, 3)]))


def refused(model: keras.Model, path, match: str, **arguments) -> None:
    with pytest.raises(ValueError, match=match):
        to_tflite(model, path, quantize="int8", **arguments)
    assert not path.exists()


def test_what_is_refused(tmp_path):
    path = tmp_path / "model.tflite"
    model = small()
    refused(model, path, "ranges that have seen data")
    model(IMAGES, training=True)
    refused(model, path, "no `calibration`", calibration=IMAGES)
    model.layers[0].ranges["output"].assign([0, np.nan])
    refused(model, path, "numbers in the range 'output' of 'conv2d")
    with pytest.raises(ValueError, match="`allow_float`"):
        to_tflite(tfprune.strip(model), path, quantize=Quantization(None, allow_float=True))


@pytest.mark.programs
def test_operators_in_float_are_named_and_allowed_only_when_asked_for(tmp_path):
    path = tmp_path / "model.tflite"
    model = small(layers.Conv2D(4, 3, activation="elu", name="elu"))
    model(IMAGES, training=True)
    refused(model, path, r"compute in float: .*elu: its activation is none of")
    to_tflite(model, path, quantize=Quantization("int8", allow_float=True), check_on=IMAGES)
    np.testing.assert_allclose(Runner(path).predict(IMAGES), model.predict(IMAGES, verbose=0), atol=0.05)


@pytest.fixture(scope="module")
def hard_swish():
    """A trained network in which a clip at 6 follows a sum: the file joins the two, its float file does not."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(4, 3)(x)
    y = keras.layers.Multiply()([y, keras.layers.ReLU(6.0)(y + 3.0) * (1 / 6)])
    aware = tfprune.quantize_aware(keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(y))))
    aware.compile("sgd", "mse")
    images = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    aware.fit(images, np.zeros((16, 3)), verbose=0)
    return aware, images


def test_an_activation_that_the_file_joins_to_a_sum_is_what_the_model_computes(hard_swish, tmp_path):
    aware, images = hard_swish
    form = Quantization("int8", allow_float=True)
    report = to_tflite(aware, tmp_path / "a.tflite", quantize=form, check_on=images, optimize="dense")
    assert report.max_abs_diff < 0.02 * report.scale  # two steps of 8 bits


@pytest.mark.programs
def test_equal_activations_of_one_tensor_are_rounded_once_as_the_file_does(tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 2))
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, use_bias=False)(x))
    ends = [layers.Conv2D(3, 1)(layers.ReLU()(y)) for _ in range(2)]
    aware = tfprune.quantize_aware(keras.Model(x, layers.Concatenate()(ends)))
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    for _ in range(50):
        aware(images, training=True)
    report = tfprune.quantization_report(aware)
    assert "norm" not in [row.layer for row in report.rows]
    to_tflite(aware, tmp_path / "a.tflite", quantize="int8", check_on=images, optimize="dense")
    assert read((tmp_path / "a.tflite").read_bytes()).ops["CONV_2D"] == 3
    found, expected = Runner(tmp_path / "a.tflite").predict(images), aware.predict(images, verbose=0)
    low, high = report.rows[-1].ranges["output"]
    assert np.mean(np.abs(found - expected) < 0.1 * (high - low) / 255) > 0.98  # equal, but where a half is rounded


def test_a_refused_file_of_a_trained_model_names_its_operators(hard_swish, tmp_path):
    aware, images = hard_swish
    options = {"quantize": Quantization("int8", allow_float=True), "check_on": images, "tolerance": 0}
    with pytest.raises(
        ValueError, match=r"moves the outputs most, as a fraction of the outputs: \w+ '.*/.*quantize_aware gets them"
    ):
        to_tflite(aware, tmp_path / "a.tflite", **options)
