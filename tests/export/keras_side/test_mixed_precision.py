"""Mixed precision: which operators of an int8 file stay in float, by the kernels and types in the file."""

import keras
import numpy as np
import pytest
from tiers import in_test_all, in_test_ci

import tfprune
from tfprune.export import Quantization, Runner, quantization_error, to_tflite
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert
from tfprune.models.anatomy import Anatomy

layers = keras.layers
IMAGES = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
BORDERS = ("QUANTIZE", "DEQUANTIZE")
OUTPUT = "StatefulPartitionedCall_1:0"  # the converter's name for the last operator


@pytest.fixture(scope="module")
def model():
    """A network in which the scope of a layer has the name of another layer: `conv` has the scope `conv_1`."""
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((6, 6, 8)), layers.Conv2D(8, 1, name="conv"), layers.ReLU()], name="inner")
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(8, 3, name="conv")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Activation("swish", name="swish")(y)
    y = layers.Conv2D(8, 3, padding="same", name="conv_1")(y)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(inner(y))
    y = layers.GlobalAveragePooling2D(name="pooling")(y)
    return keras.Model(x, layers.Dense(4, activation="softmax", name="scores")(y), name="mixed")


def mixed(model, skip, quantize="int8", **options):
    skip = [skip] if isinstance(skip, str) else skip
    return convert(model, quantize=quantize, calibration=IMAGES[:4], skip=skip, **options)


def floats(content):
    """Return the kernels of floats by their number of entries, and the kinds of the operators that return floats."""
    graph = read(content).subgraphs[0]
    kernels = [graph.tensors[operator.inputs[1]] for operator in graph.operators if operator.name in KERNELS]
    kinds = [
        operator.name
        for operator in graph.operators
        if operator.name not in BORDERS and graph.tensors[operator.outputs[0]].dtype == "float32"
    ]
    values = {each.size: each.values.raw.view(np.float32) for each in kernels if each.dtype == "float32"}
    return values, kinds


@pytest.mark.parametrize(
    ("skip", "paths", "kinds"),
    [
        in_test_ci(("^conv_1$", ["conv_1"], ["CONV_2D"])),  # not `conv`, whose scope is `conv_1`
        (["inner/", "scores"], ["inner/conv", "scores"], ["CONV_2D", "FULLY_CONNECTED", "SOFTMAX"]),
        in_test_all(("conv$", ["conv", "inner/conv"], ["CONV_2D", "CONV_2D"])),
        in_test_ci(("^swish$", [], ["LOGISTIC", "MUL"])),
        in_test_all((OUTPUT, [], ["SOFTMAX"])),
    ],
)
def test_the_layers_that_are_named_keep_their_kernels(model, skip, paths, kinds):
    before = [path for path, _ in Anatomy.of(model).leaves]
    in_float, computed = floats(mixed(model, skip))
    named = {path: np.asarray(layer.kernel) for path, layer in Anatomy.of(model).leaves if path in paths}
    assert computed == kinds
    assert in_float.keys() == {kernel.size for kernel in named.values()}
    assert [path for path, _ in Anatomy.of(model).leaves] == before
    for kernel in named.values():  # the batch normalization divides by the root of 1.001
        np.testing.assert_allclose(np.sort(in_float[kernel.size]), np.sort(kernel.ravel()), rtol=1e-3)


@pytest.mark.parametrize(
    ("skip", "words"),
    [
        ("conv_7", r"'conv_7', which is found in no path of a layer. The closest names are 'conv_1', 'conv'"),
        in_test_ci(("norm", "matches norm: the converter has merged them into other operators")),
        in_test_ci((".", "Received: skip=\\('.',\\), which matches all of them. Use quantize=None")),
        in_test_ci(("(", "`skip` to be regular expressions. Received: '\\('")),
    ],
)
def test_a_name_that_selects_nothing_is_refused_with_the_closest(skip, words):
    x = keras.Input((8, 8, 3))
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(2, 3, name="conv")(x))
    small = keras.Model(x, layers.Conv2D(2, 3, name="conv_1")(layers.ReLU(name="relu")(y)))
    with pytest.raises(ValueError, match=words):
        mixed(small, skip)


@pytest.mark.parametrize(("scheme", "io_dtype"), [in_test_ci(("int8", "int8")), ("int4", "float32")])
def test_inputs_of_integers_and_weights_of_four_bits_go_with_it(model, scheme, io_dtype):
    content = mixed(model, ["^depthwise", "pooling"], quantize=scheme, io_dtype=io_dtype)
    graph = read(content)
    assert {info.dtype for info in (*graph.inputs, *graph.outputs)} == {io_dtype}
    assert floats(content)[1] == ["DEPTHWISE_CONV_2D", "MEAN"]
    assert ("int4" in {tensor.dtype for tensor in graph.weights}) == (scheme == "int4")
    assert np.abs(Runner(content).predict(IMAGES) - model.predict(IMAGES, verbose=0)).max() < 0.05


@pytest.mark.programs
def test_a_pruned_model_is_written_checked_and_keeps_its_zeros(model, tmp_path):
    pruned = tfprune.wrap(model)
    tfprune.update_masks(pruned, 0.75)
    form = Quantization("int8", skip="inner/")
    report = to_tflite(pruned, tmp_path / "mixed.tflite", quantize=form, calibration=IMAGES)
    in_float, _ = floats((tmp_path / "mixed.tflite").read_bytes())
    assert list(in_float) == [64] and np.count_nonzero(in_float[64]) == 16
    assert [*report.in_float.values()] == [3 * 64]
    assert report.max_abs_diff <= report.tolerance * report.scale


@pytest.mark.parametrize(
    ("skip", "kinds", "count"),
    [
        in_test_ci(("feedforward_output_dense", {"FULLY_CONNECTED"}, 2)),
        ("transformer_layer_1/feedforward", {"FULLY_CONNECTED", "MEAN", "RSQRT", "GELU"}, 2),
    ],
)
def test_layers_inside_the_blocks_of_keras_hub_are_found_by_their_names(skip, kinds, count):
    keras_hub = pytest.importorskip("keras_hub")
    options = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 6}
    backbone = keras_hub.models.BertBackbone(vocabulary_size=20, **options)
    classifier = keras_hub.models.BertTextClassifier(backbone, num_classes=2)
    ids = np.random.default_rng(0).integers(1, 20, (10, 6)).astype("int32")
    data = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    content = convert(classifier, quantize="int8", calibration=data, skip=[skip])
    graph = read(content).subgraphs[0]
    outputs = [(each.name, graph.tensors[each.outputs[0]]) for each in graph.operators if each.name in kinds]
    in_float = [(kind, tensor.name) for kind, tensor in outputs if tensor.dtype == "float32"]
    assert [kind for kind, _ in in_float].count("FULLY_CONNECTED") == count
    assert {kind for kind, _ in in_float} == kinds
    assert all(skip.rpartition("/")[0] in name and "feedforward" in name for _, name in in_float)


def test_quantization_aware_models_name_such_layers_themselves(tmp_path):
    aware = tfprune.quantize_aware(keras.Sequential([keras.Input((8,)), layers.Dense(4)]))
    with pytest.raises(ValueError, match="Pass `skip` to quantize_aware, and allow_float=True here"):
        to_tflite(aware, tmp_path / "other.tflite", quantize=Quantization("int8", skip="dense"))


@pytest.mark.programs
def test_the_interpreter_for_microcontrollers_runs_a_mixed_file(model, tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    form = Quantization("int8", skip="depthwise")
    to_tflite(model, tmp_path / "micro.tflite", quantize=form, calibration=IMAGES, target="micro")  # runs it there
    assert floats((tmp_path / "micro.tflite").read_bytes())[1] == ["DEPTHWISE_CONV_2D"]


def test_operators_that_move_values_between_floats_stay_in_float():
    x = keras.Input((8, 8, 3))
    y = layers.Flatten()(layers.Conv2D(2, 3, name="conv")(x))
    content = mixed(keras.Model(x, layers.Dense(4, name="last")(layers.Dense(8, name="dense")(y))), ["conv", "dense"])
    assert floats(content)[1] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert [operator.name for operator in read(content).subgraphs[0].operators].count("QUANTIZE") == 1


@pytest.fixture(scope="module")
def wide():
    """A network whose second layer has channels of sizes from 1 to 1,000, which one scale of 8 bits cannot hold."""
    keras.utils.set_random_seed(3)
    widths = {"first": 32, "wide": 16, "next": 8, "last": 4}
    stack = [layers.Dense(width, "relu", name=name) for name, width in widths.items()]
    model = keras.Sequential([keras.Input((12,)), *stack])
    sizes = 1000 ** np.linspace(0, 1, 16, dtype="float32")
    model.get_layer("wide").kernel.assign(model.get_layer("wide").kernel * sizes)
    model.get_layer("next").kernel.assign(model.get_layer("next").kernel / sizes[:, None])
    return model, np.random.default_rng(0).normal(size=(64, 12)).astype("float32")


def test_the_report_of_errors_chooses_what_wins_most_back(wide):
    model, data = wide
    reference, integers = convert(model), convert(model, quantize="int8", calibration=data)
    report = quantization_error(reference, integers, data)
    rows = report.to_skip(max_bytes=report.bytes + 3 * 16 * (32 + 8) + 300)
    assert report.bytes == len(integers)
    assert {name for row in rows for name in ("first", "wide", "next") if f"/{name}_" in row.name} == {"wide", "next"}
    assert {3 * 16 * 8, 3 * 32 * 16} <= {row.added_bytes for row in rows}  # weights of 8 bits become floats
    better = convert(model, quantize="int8", calibration=data, skip=[row.name for row in rows])
    right = model.predict(data, verbose=0)
    errors = [np.abs(Runner(content).predict(data) - right).mean() for content in (integers, better)]
    assert errors[1] < errors[0] / 5
    assert report.to_skip(max_bytes=report.bytes) == ()
    with pytest.raises(ValueError, match="Expected `max_bytes` to be an integer of at least"):
        report.to_skip(max_bytes=report.bytes - 1)
