"""The mirror rewrite: the same outputs, and symmetric padding wherever that is possible."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from tiers import in_test_all, in_test_ci

import tfprune
from tfprune.export import make_sparse_ready, to_tflite
from tfprune.export.keras_side.ask import sparse_inference
from tfprune.export.keras_side.sparse_ready import _plan_mirroring, _same_padding, _Window
from tfprune.models.graph import flatten, trace

CLOSE = 1e-5  # of the largest output


def randomize(model):
    """Give a model weights that tell left from right, and statistics that are not those of a new layer."""
    data = np.random.default_rng(5)
    for variable in model.weights:
        shape = variable.shape
        if len(shape) > 1:
            inputs = np.prod(shape[:-1]) if shape[-1] != 1 or len(shape) != 4 else np.prod(shape[:-2])
            variable.assign(data.normal(size=shape) * np.sqrt(2 / inputs))
        else:
            variable.assign(data.uniform(0.5, 1.5, size=shape))
    return model


def sample(model, rows=2):
    data = np.random.default_rng(6)
    return [data.normal(size=(rows, *entry.shape[1:])).astype("float32") for entry in model.inputs]


def outputs(model, data):
    data = data if len(data) > 1 else data[0]
    return [np.asarray(output) for output in keras.tree.flatten(model(data, training=False))]


def difference(model, other, data=None):
    """Return the largest difference between two models' outputs, relative to the largest output."""
    data = sample(model) if data is None else data
    pairs = list(zip(outputs(model, data), outputs(other, data), strict=True))
    assert all(one.shape == two.shape for one, two in pairs)
    return max(np.abs(one - two).max() / max(np.abs(one).max(), 1e-3) for one, two in pairs)


def flips(model):
    return [operation for operation in model.operations if type(operation).__name__ == "Flip"]


def small(*middle, size=(8, 8), strides=2, top=True):
    """Return a model with a strided convolution first, other layers then, and a pool and a classifier at the end."""
    image = keras.Input((*size, 3), name="image")
    x = layers.Conv2D(4, 3, strides=strides, padding="same", name="stem")(image)
    for layer in middle:
        x = layer(x)
    if top:
        x = layers.Dense(3, name="top")(layers.GlobalAveragePooling2D(name="pool")(x))
    return randomize(keras.Model(image, x, name="small"))


# One axis


def seen(window):
    """Return what each window sees of the entries 1, 2, ..., zero in the padding: NumPy slices, no formula."""
    before, after = window.padding
    row = np.pad(np.arange(1, window.size + 1), (max(before, 0), max(after, 0)))
    row = row[max(-before, 0) : len(row) - max(-after, 0)]
    starts = range(0, len(row) - window.kernel + 1, window.stride)
    return [list(row[start : start + window.kernel]) for start in starts]


@st.composite
def windows(draw):
    size, kernel, stride = draw(st.integers(3, 20)), draw(st.integers(1, 7)), draw(st.integers(1, 4))
    padding = draw(st.tuples(st.integers(-1, 4), st.integers(-1, 4)))
    return _Window(
        size, kernel, stride, padding if draw(st.booleans()) else _same_padding(size, kernel=kernel, stride=stride)
    )


@given(windows())
def test_mirrored_windows_see_the_mirrored_entries_in_reverse_order(window):
    forwards = seen(window)
    if not forwards:
        return
    flipped = [[window.size + 1 - entry if entry else 0 for entry in part] for part in seen(window.mirrored())]
    assert [part[::-1] for part in flipped[::-1]] == forwards


@given(windows())
def test_centered_padding_gives_the_same_windows_and_is_found_whenever_it_does(window):
    if not seen(window):
        return
    half = (window.kernel - 1) // 2
    same = seen(window) == seen(_Window(window.size, window.kernel, window.stride, (half, half)))
    assert seen(window.centered()) == seen(window)
    assert window.is_centered <= same
    if window.padding[0] >= 0 and same and window.padding[0] == half:
        assert window.is_centered


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [
        (8, 3, 2, 0, 1),
        (7, 3, 2, 1, 1),
        (8, 5, 2, 1, 2),
        (7, 5, 2, 2, 2),
        (8, 3, 1, 1, 1),
        (8, 2, 2, 0, 0),
        (9, 2, 1, 0, 1),
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, before, after):
    assert _same_padding(size, kernel=kernel, stride=stride) == (before, after)


# Whole models


def network(draw):
    """Return a random network: strides, sizes, paddings, branches and everything that stops mirroring."""
    size = draw(st.tuples(st.integers(9, 14), st.integers(9, 14)))
    image = keras.Input((*size, 3))
    x = layers.Conv2D(3, draw(st.sampled_from([2, 3])), draw(st.sampled_from([1, 2])), padding="same")(image)
    for _ in range(draw(st.integers(1, 5))):
        x = draw(st.sampled_from(BLOCKS))(draw, x)
    head = draw(st.sampled_from(["pool", "flatten", "map", "both"]))
    ends = {
        "pool": lambda: layers.GlobalAveragePooling2D()(x),
        "flatten": lambda: layers.Dense(2)(layers.Flatten()(x)),
        "map": lambda: x,
        "both": lambda: [layers.Conv2D(2, 1)(x), layers.GlobalMaxPooling2D()(x)],
    }
    return randomize(keras.Model(image, ends[head]()))


def _convolution(draw, x):
    kind = draw(st.sampled_from([layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D]))
    arguments = {
        "strides": draw(st.sampled_from([1, 2, 2])),
        "padding": draw(st.sampled_from(["same", "same", "valid"])),
    }
    kernel = draw(st.sampled_from([1, 2, 3, 3, 5]))
    if arguments["strides"] == 1 and draw(st.booleans()):
        arguments["dilation_rate"] = 2
    if kernel > min(x.shape[1:3]) or arguments.get("dilation_rate", 1) * (kernel - 1) >= min(x.shape[1:3]):
        arguments["padding"] = "same"
    if kind is not layers.DepthwiseConv2D:
        arguments["filters"] = draw(st.integers(2, 4))
    return kind(kernel_size=kernel, **arguments)(x)


def _padded(draw, x):
    if min(x.shape[1:3]) < 3:
        return x
    padding = draw(st.sampled_from([((0, 1), (0, 1)), ((1, 1), (1, 1)), ((1, 0), (0, 2))]))
    padded = layers.ZeroPadding2D(padding)(x)
    y = layers.DepthwiseConv2D(3, strides=2)(padded)
    if draw(st.booleans()):  # the padding is there for another layer too
        y = layers.Concatenate()([y, layers.Conv2D(2, 3, strides=2)(padded)])
    return y


def _pooled(draw, x):
    kind = draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))
    if min(x.shape[1:3]) < 3:
        return x
    return kind(draw(st.sampled_from([2, 3])), 2, padding=draw(st.sampled_from(["same", "valid"])))(x)


def _residual(draw, x):
    y = layers.BatchNormalization()(layers.Conv2D(x.shape[-1], 3, padding="same")(x))
    return draw(st.sampled_from([layers.Add(), layers.Multiply(), layers.Concatenate()]))([x, layers.ReLU()(y)])


def _two_strides(draw, x):
    ways = [
        layers.Conv2D(3, kernel, strides=2, padding="same")(x) for kernel in (3, draw(st.sampled_from([1, 2, 5])))
    ]
    return ways[0] + ways[1] * 0.5


def _gate(draw, x):
    y = layers.GlobalAveragePooling2D(keepdims=draw(st.booleans()))(x)
    if len(y.shape) == 2 and draw(st.booleans()):
        y = layers.Dense(2, activation="relu")(y)
        y = layers.Reshape((1, 1, x.shape[-1]))(layers.Dense(x.shape[-1], activation="hard_sigmoid")(y))
    else:
        y = layers.Conv2D(x.shape[-1], 1)(y if len(y.shape) == 4 else layers.Reshape((1, 1, x.shape[-1]))(y))
        y = keras.ops.relu6(y + 3.0) * (1.0 / 6.0)
    return layers.Multiply()([x, y])


def _other(draw, x):
    if min(x.shape[1:3]) < 4:
        return x
    return draw(
        st.sampled_from(
            [
                layers.Cropping2D(((1, 0), (0, 2))),
                layers.UpSampling2D(2),
                layers.UpSampling2D(2, interpolation="bilinear"),
                layers.Conv2DTranspose(2, 3, strides=2, padding="same"),
                layers.PReLU(),
                layers.PReLU(shared_axes=[1]),
                layers.LayerNormalization(axis=(1, 2, 3)),
                layers.Resizing(5, 7),
                layers.Permute((2, 1, 3)),
            ]
        )
    )(x)


BLOCKS = [_convolution, _convolution, _padded, _pooled, _residual, _two_strides, _gate, _other]


@pytest.mark.programs
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_random_networks_give_the_same_outputs(data):
    model = network(data.draw)
    before = [np.copy(weight) for weight in model.get_weights()]
    ready = make_sparse_ready(model)
    assert difference(model, ready) < CLOSE
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    names = {layer.name for layer in model.layers}
    assert names <= {layer.name for layer in ready.layers}


def test_strided_convolutions_get_symmetric_padding_and_the_image_is_mirrored_once():
    model = small(layers.BatchNormalization(), layers.DepthwiseConv2D(5, strides=2, padding="same", name="wide"))
    ready = make_sparse_ready(model)
    assert ready.get_layer("stem_pad").padding == ((1, 1), (1, 1)) and ready.get_layer("stem").padding == "valid"
    assert ready.get_layer("wide_pad").padding == ((2, 2), (2, 2)) and ready.get_layer("wide").padding == "valid"
    np.testing.assert_array_equal(
        ready.get_layer("stem").kernel, np.asarray(model.get_layer("stem").kernel)[::-1, ::-1]
    )
    # One for each axis: tflite-runtime 2.14 takes the first of several in one operator, and says nothing.
    assert [list(flip.axis) for flip in flips(ready)] == [[1], [2]] and flips(ready) == ready.operations[1:3]
    assert difference(model, ready) < CLOSE
    assert _effect_of_mirroring(model) > 0.01


def _effect_of_mirroring(model):
    """Return how much the outputs change when the image alone is mirrored: what the comparison would notice."""
    data = sample(model)
    one, two = outputs(model, data)[0], outputs(model, [data[0][:, ::-1, ::-1]])[0]
    return np.abs(one - two).max() / np.abs(one).max()


def test_odd_sizes_need_no_mirroring_but_padding_in_numbers():
    ready = make_sparse_ready(model := small(size=(9, 7)))
    assert ready.get_layer("stem_pad").padding == ((1, 1), (1, 1)) and not flips(ready)
    assert difference(model, ready) < CLOSE


def test_rows_and_columns_are_decided_apart():
    ready = make_sparse_ready(model := small(size=(8, 7)))
    assert [list(flip.axis) for flip in flips(ready)] == [[1]]
    np.testing.assert_array_equal(ready.get_layer("stem").kernel, np.asarray(model.get_layer("stem").kernel)[::-1])
    assert difference(model, ready) < CLOSE


def test_a_model_that_is_symmetric_already_comes_back_as_an_equal_copy():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, name="stem")(layers.ZeroPadding2D(1, name="pad")(image))
    model = randomize(keras.Model(image, layers.GlobalAveragePooling2D()(x)))
    ready = make_sparse_ready(model)
    assert ready.get_config() == {**model.get_config(), "name": ready.name} and ready is not model
    assert difference(model, ready) == 0


def test_keras_applications_own_padding_layers_are_made_symmetric():
    image = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(image)
    x = layers.DepthwiseConv2D(3, strides=2, name="conv")(x)
    model = randomize(keras.Model(image, layers.GlobalAveragePooling2D()(x)))
    ready = make_sparse_ready(model)
    assert ready.get_layer("pad").padding == ((1, 1), (1, 1)) and len(ready.layers) == len(model.layers)
    assert difference(model, ready) < CLOSE


def slope(x):
    """Multiply each row by its number: what an activation of one's own may do."""
    return x * keras.ops.reshape(keras.ops.arange(4.0), (1, 4, 1, 1))


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPooling2D(3, 2, padding="same"),
        layers.AveragePooling2D(3, 2, padding="same"),
        layers.Conv2DTranspose(2, 3, strides=2, padding="same"),
        layers.PReLU(),
        layers.Activation(slope),
        layers.Conv2D(4, 1, activation=slope),
        layers.Reshape((8, 2, 4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_do_not_work_on_mirrored_maps_get_them_as_they_were(layer):
    ready = make_sparse_ready(model := small(layer))
    assert len(flips(ready)) == 4
    assert difference(model, ready) < CLOSE


def test_outputs_that_are_maps_and_what_is_flattened_are_turned_back():
    ready = make_sparse_ready(model := small(layers.Conv2D(2, 3, padding="same"), top=False))
    assert len(flips(ready)) == 4 and difference(model, ready) < CLOSE
    ready = make_sparse_ready(model := small(layers.Flatten(), layers.Dense(3), top=False))
    assert len(flips(ready)) == 4 and difference(model, ready) < CLOSE


def test_the_plan_prints_what_changes_only():
    lines = str(
        _plan_mirroring(trace(flatten(tfprune.strip(small(layers.ReLU(), layers.Conv2D(4, 1, name="next"))))))
    ).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["stem", "next"]
    assert "rows and columns" in lines[2] and lines[2].endswith("1+1 1+1")


# Nested, shared and several


def test_nested_models_are_taken_in_with_their_names_and_their_way_of_training():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, 2, padding="same", name="stem")], name="inner"
    )
    image = keras.Input((8, 8, 3))
    base = keras.Model(image, layers.BatchNormalization(name="norm")(inner(image)), name="base")
    outer = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(base(layers.Rescaling(2.0)(outer), training=False))
    model = randomize(keras.Model(outer, layers.Dense(3, name="norm")(x)))
    ready = make_sparse_ready(model)
    assert {"stem", "norm", "base_norm"} <= {layer.name for layer in ready.layers}
    assert difference(model, ready) < CLOSE
    data = sample(model)[0]
    np.testing.assert_allclose(ready(data, training=True), model(data, training=True), rtol=1e-4)


def test_a_shared_backbone_stays_shared():
    image = keras.Input((8, 8, 3))
    base = keras.Model(image, layers.Conv2D(4, 3, 2, padding="same", name="stem")(image), name="base")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    pool = layers.GlobalAveragePooling2D()
    model = randomize(keras.Model([left, right], layers.Subtract()([pool(base(left)), pool(base(right))])))
    ready = make_sparse_ready(model)
    assert ready.count_params() == model.count_params() and len(flips(ready)) == 4
    assert difference(model, ready) < CLOSE


def shared_on(*sizes, stride):
    conv, pool = layers.DepthwiseConv2D(3, stride, padding="same", name="both"), layers.GlobalAveragePooling2D()
    images = [keras.Input((size, size, 3)) for size in sizes]
    return randomize(keras.Model(images, [pool(conv(image)) for image in images]))


def test_a_layer_shared_by_odd_and_even_sizes_is_mirrored_for_both():
    ready = make_sparse_ready(model := shared_on(7, 8, stride=2))
    assert len(flips(ready)) == 4 and difference(model, ready) < CLOSE


def test_inputs_keep_names_order_and_structure():
    inputs = {"b": keras.Input((8, 8, 3), name="b"), "a": keras.Input((4,), name="a")}
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, 2, padding="same")(inputs["b"]))
    model = randomize(keras.Model(inputs, {"scores": x + inputs["a"], "other": x}))
    ready = make_sparse_ready(model)
    data = {"b": np.ones((1, 8, 8, 3), "float32"), "a": np.ones((1, 4), "float32")}
    one, two = model(data), ready(data)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)


# What follows the pool


def test_a_classifier_of_convolutions_becomes_dense_layers():
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(4, 3, name="stem")(image))
    x = layers.Activation("hard_swish")(layers.Conv2D(6, 1, name="wide")(x))
    x = layers.Conv2D(5, 1, padding="same", name="scores")(layers.Dropout(0.2)(x))
    model = randomize(keras.Model(image, layers.Activation("softmax")(layers.Reshape((5,), name="flat")(x))))
    ready = make_sparse_ready(model)
    assert type(ready.get_layer("scores")) is type(ready.get_layer("wide")) is layers.Dense
    assert ready.get_layer("flat").output.shape == (None, 5) and ready.count_params() == model.count_params()
    assert difference(model, ready) < CLOSE


@pytest.mark.parametrize("written", ["dense", "normalized", "convolution"])
def test_a_gate_becomes_convolutions_on_maps(written):
    image = keras.Input((8, 8, 3))
    maps = layers.Conv2D(6, 3, name="stem")(image)
    x = layers.GlobalAveragePooling2D(name="squeeze")(maps)
    if written != "convolution":
        x = layers.Dense(2, activation="relu", name="in")(x)
        x = layers.BatchNormalization(name="norm")(x) if written == "normalized" else x
        x = layers.Dense(6, activation="hard_sigmoid", name="excite")(x)
        x = layers.Reshape((1, 1, 6), name="shape")(x)
    else:
        x = layers.Conv2D(6, 1, activation="hard_sigmoid", name="excite")(layers.Reshape((1, 1, 6), name="shape")(x))
    x = layers.GlobalAveragePooling2D()(layers.Multiply(name="scale")([maps, x]))
    model = randomize(keras.Model(image, layers.Dense(2, name="top")(x)))
    ready = make_sparse_ready(model)
    assert ready.get_layer("squeeze").keepdims and type(ready.get_layer("excite")) is layers.Conv2D
    assert type(ready.get_layer("shape")) is layers.Identity and type(ready.get_layer("top")) is layers.Dense
    assert difference(model, ready) < CLOSE


def test_names_that_a_loaded_model_brings_along_are_kept_apart_from_new_ones():
    image = keras.Input((8, 8, 3), name="image")
    maps = layers.Conv2D(4, 3, 2, padding="same", name="flip")(image)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="add")(maps)
    x = layers.Conv2D(4, 1, activation="hard_sigmoid", name="relu6_1")(x)
    x = layers.GlobalAveragePooling2D(name="add_1")(layers.Multiply(name="multiply")([maps, x]))
    model = randomize(keras.Model(image, x))
    keras.backend.clear_session()  # numbers start again, as in another process
    ready = make_sparse_ready(model)
    assert {layer.name for layer in model.layers} <= {layer.name for layer in ready.layers}
    assert difference(model, ready) < CLOSE


# Real networks


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("MobileNet", (32, 32)),
        in_test_ci(("MobileNetV2", (65, 64))),
        *map(in_test_all, [("MobileNet", (64, 96)), ("MobileNetV2", (64, 64)), ("MobileNetV3Small", (64, 64))]),
    ],
)
def test_mobile_nets_give_the_same_outputs_with_symmetric_padding(family, size):
    arguments = {} if "V3" in family else {"alpha": 0.35}
    build = getattr(keras.applications, family)
    model = build(input_shape=(*size, 3), weights=None, classes=10, classifier_activation=None, **arguments)
    ready = make_sparse_ready(randomize(model))
    assert difference(model, ready) < CLOSE
    for call in trace(ready).calls:
        if getattr(call.layer, "strides", None) == (2, 2):
            half = (call.layer.kernel_size[0] - 1) // 2
            padding = next(layer for layer in ready.layers if layer.output is call.layer.input).padding
            assert call.layer.padding == "valid" and padding == ((half, half), (half, half))
    assert not [layer for layer in ready.layers if isinstance(layer, layers.Flatten | layers.Reshape)]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "alpha"), [("MobileNet", 0.25), ("MobileNetV2", 0.35)])
def test_mobile_nets_can_run_sparse_once_they_are_ready(family, alpha):
    build = getattr(keras.applications, family)
    model = build(input_shape=(64, 64, 3), alpha=alpha, weights=None, classes=10)
    assert not sparse_inference(model).eligible
    report = sparse_inference(make_sparse_ready(model))
    assert report.eligible, report.reasons


def efficient(activation, *, gated):
    """Return blocks as EfficientNet has them, and as its Lite form: no gates, no swish, nothing before the stem."""
    image = x = keras.Input((32, 32, 3), batch_size=1)
    if gated:
        x = layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.2, 0.3, 0.4])(layers.Rescaling(1 / 255)(x))
    x = layers.Conv2D(8, 3, 2, use_bias=False)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    for kernel, strides, width in ((3, 1, 8), (5, 2, 12)):
        y = layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x)
        y = layers.Activation(activation)(layers.BatchNormalization()(y))
        if strides == 2:
            y = layers.ZeroPadding2D(((1, 2), (1, 2)))(y)
        y = layers.DepthwiseConv2D(kernel, strides, "valid" if strides == 2 else "same", use_bias=False)(y)
        y = layers.Activation(activation)(layers.BatchNormalization()(y))
        if gated:
            gate = layers.Reshape((1, 1, y.shape[-1]))(layers.GlobalAveragePooling2D()(y))
            gate = layers.Conv2D(y.shape[-1], 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="swish")(gate))
            y = layers.Multiply()([y, gate])
        y = layers.BatchNormalization()(layers.Conv2D(width, 1, use_bias=False)(y))
        x = layers.Add()([layers.Dropout(0.2)(y), x]) if y.shape == x.shape else y
    return randomize(keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.parametrize(
    ("activation", "gated"),
    [
        pytest.param("swish", True, id="EfficientNet", marks=pytest.mark.programs),
        pytest.param("relu6", False, id="Lite", marks=pytest.mark.slow),
    ],
)
def test_efficient_nets_become_eligible_and_give_the_same_outputs(activation, gated):
    model = efficient(activation, gated=gated)
    wrapped = tfprune.wrap(model, filters="conv2d.*kernel")
    tfprune.update_masks(wrapped, 0.9)
    plain = tfprune.strip(wrapped)
    ready = make_sparse_ready(plain)
    assert difference(plain, ready, sample(plain, rows=1)) < CLOSE
    assert not sparse_inference(plain).eligible
    after = sparse_inference(ready)
    assert (after.eligible, after.active, after.hazards) == (True, True, ())


@pytest.mark.programs
def test_a_net_with_everything_that_stops_the_sparse_kernels_becomes_eligible():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="hard_swish")(layers.Rescaling(2.0)(image))
    x = layers.Conv2D(8, 1, activation="hard_swish")(x)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(5, strides=2, padding="same")(x))
    gate = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="hard_sigmoid")(gate))
    x = layers.Conv2D(16, 1, activation="relu")(layers.Multiply()([x, gate]))
    x = layers.Conv2D(5, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = randomize(keras.Model(image, layers.Softmax()(layers.Reshape((5,))(x))))
    assert not sparse_inference(model).eligible
    assert sparse_inference(make_sparse_ready(model)).eligible


def test_the_model_is_saved_and_loaded_where_tfprune_is_not_installed(tmp_path):
    ready = make_sparse_ready(small(layers.ReLU()))
    ready.save(tmp_path / "ready.keras")
    assert b"tfprune" not in zipfile.ZipFile(tmp_path / "ready.keras").read("config.json")  # which names all classes
    loaded = keras.models.load_model(tmp_path / "ready.keras")
    np.testing.assert_allclose(outputs(loaded, sample(ready))[0], outputs(ready, sample(ready))[0], rtol=1e-6)


def test_a_wrapped_model_comes_back_with_its_zeros_and_exports(tmp_path):
    model = small(layers.ReLU(), layers.Conv2D(16, 1, name="wide"), layers.ReLU())
    wrapped = tfprune.wrap(model, filters="wide")
    tfprune.update_masks(wrapped, 0.75)
    ready = make_sparse_ready(wrapped)
    assert difference(tfprune.strip(wrapped), ready) < CLOSE
    assert np.count_nonzero(ready.get_layer("wide").kernel) == 16
    report = to_tflite(ready, tmp_path / "ready.tflite")
    assert report.nnz < report.size and report.max_abs_diff < 1e-4
    assert {"PAD", "CONV_2D", "MEAN", "FULLY_CONNECTED"} <= report.ops.keys()


# Refusals


class Coded(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(2, 3)

    def call(self, inputs):
        return self.conv(inputs)


def coded():
    model = Coded(name="coded")
    model(np.zeros((1, 4, 4, 3), "float32"))
    return model


def first_channels():
    image = keras.Input((3, 8, 8))
    return keras.Model(image, layers.Conv2D(2, 3, data_format="channels_first", name="first")(image))


def unknown_size():
    image = keras.Input((None, None, 3))
    return keras.Model(image, layers.Conv2D(2, 3, strides=2, padding="same", name="stem")(image))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (coded, "Sequential or Functional.*'coded' of class Coded"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="plain"), "'plain', which has none"),
        (first_channels, "channels last.*'first'"),
        (unknown_size, "fixed size.*'stem'"),
        (lambda: shared_on(9, 10, stride=3), "same padding each time.*'both'"),
        (lambda: keras.Sequential([layers.Conv2D(2, 3)]), "built model"),
    ],
)
def test_what_cannot_be_rewritten_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        make_sparse_ready(build())


def test_anything_but_a_model_is_refused():
    with pytest.raises(TypeError, match="Keras model"):
        make_sparse_ready("model.keras")
    with pytest.raises(TypeError, match="Keras model"):
        make_sparse_ready(layers.Dense(2))
