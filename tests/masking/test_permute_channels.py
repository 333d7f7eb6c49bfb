"""Reordered channels: the same outputs, other places in all weights that hold them, and more kept by the masks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune import permute_channels
from tfprune.masking.permute_channels import _moved_along
from tfprune.patterns import NM, Block

layers = keras.layers
TWO_OF_FOUR = NM(2, 4)


def uneven(model, seed=0):
    """Give the inputs of each kernel other sizes, as training does."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if weight.name == "kernel":
            values = values * np.exp(generator.normal(size=(values.shape[-2], 1)))
        weight.assign(values + 0.1 * generator.random(values.shape).astype("float32"))
    return model


def residual():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    for number in range(2):
        hidden = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(24, 1, name=f"expand_{number}")(x)))
        hidden = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise_{number}")(hidden)
        x = layers.Add()([x, layers.Conv2D(8, 1, name=f"project_{number}")(hidden)])
    return uneven(keras.Model(image, layers.Dense(5, name="class")(layers.GlobalAveragePooling2D()(x))))


def flattened():
    keras.utils.set_random_seed(1)
    stack = [layers.Conv2D(12, 3, name="first"), layers.ReLU(), layers.Flatten(), layers.Dense(16, name="hidden")]
    return uneven(keras.Sequential([keras.Input((6, 6, 3)), *stack, layers.Dense(3, name="last")]))


def recurrent():
    keras.utils.set_random_seed(2)
    series = keras.Input((5, 6))
    states = layers.GRU(12, name="gru")(layers.LSTM(8, return_sequences=True, name="lstm")(series))
    both = layers.Concatenate()([states, layers.Dense(10, name="beside")(states)])
    return uneven(keras.Model(series, layers.Dense(3, name="out")(both)))


def attention():
    keras.utils.set_random_seed(3)
    series = keras.Input((5, 8))
    x = layers.Add()([series, layers.MultiHeadAttention(2, 4, name="attention")(series, series)])
    hidden = layers.Dense(16, activation="gelu", name="hidden")(layers.LayerNormalization()(x))
    return uneven(keras.Model(series, layers.Add()([x, layers.Dense(8, name="back")(hidden)])))


def outputs(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


def inputs_of(model, rows=64):
    return np.random.default_rng(0).normal(size=(rows, *model.input_shape[1:])).astype("float32")


def kept(model, path):
    """Return the part of a kernel's magnitude in the two largest of each four neighboring inputs, by NumPy alone."""
    layer, _, name = path.partition("/")
    weights = model.get_layer(layer).weights
    weight = next(weight for weight in weights if f"/{weight.path}".endswith(f"/{name}"))
    values = np.abs(keras.ops.convert_to_numpy(weight))
    matrix = np.moveaxis(values, -2, -1).reshape(-1, values.shape[-2])
    fours = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 4))).reshape(-1, 4)
    return np.sort(fours, axis=1)[:, 2:].sum() / values.sum()


@pytest.mark.parametrize("build", [residual, flattened, recurrent, attention])
def test_the_same_outputs_with_more_kept(build):
    model = build()
    before, x = [values.copy() for values in model.get_weights()], inputs_of(model)
    reordered, report = permute_channels(model, TWO_OF_FOUR)
    for weight, weight_now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, weight_now)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(reordered, x), expected, atol=2e-6 * np.abs(expected).max())
    for old, new in zip(before, reordered.get_weights(), strict=True):
        np.testing.assert_array_equal(np.sort(old, axis=None), np.sort(new, axis=None))
    assert any(row.moved for row in report.rows) and report.difference < 1e-5
    for row in report.rows:
        assert row.before == pytest.approx(kept(model, row.path), rel=1e-5)
        assert row.after == pytest.approx(kept(reordered, row.path), rel=1e-5)
    assert sum(row.after for row in report.rows) > sum(row.before for row in report.rows)
    assert "kept after" in str(report) and "outputs are the same" in str(report)


def test_inputs_and_outputs_of_the_model_keep_their_order():
    model = residual()
    reordered, report = permute_channels(model, TWO_OF_FOUR, filters=["expand", "project", "class"])
    assert [row.path for row in report.rows] == [
        *(f"{kind}_{number}/kernel" for number in range(2) for kind in ("expand", "project")),
        "class/kernel",
    ]
    bias = model.get_layer("class").bias
    np.testing.assert_array_equal(bias, reordered.get_layer("class").bias)
    _, report = permute_channels(flattened(), NM(1, 2))
    assert [(skipped.layer, "of the model" in skipped.reason) for skipped in report.skipped] == [
        ("first/kernel", True)
    ]


def test_masks_of_a_wrapped_model_keep_more():
    model = residual()
    wrapped = tfprune.wrap(model, pattern=TWO_OF_FOUR)
    reordered, report = permute_channels(wrapped, TWO_OF_FOUR)
    assert isinstance(reordered.get_layer("expand_0"), tfprune.Pruned)
    left = []
    for each in (wrapped, reordered):
        tfprune.update_masks(each, 0.5)
        masked = tfprune.strip(each)
        left.append(sum(np.abs(w).sum() for w in masked.get_weights() if w.ndim == 4 and w.shape[0] == 1))
    assert left[1] > left[0] and all(row.after >= row.before - 0.05 for row in report.rows)


def test_scores_of_a_criterion_on_data():
    model = flattened()
    x = inputs_of(model) * np.array([5, 1, 0.2], "float32")
    reordered, report = permute_channels(model, TWO_OF_FOUR, criterion="wanda", data=x, filters="last")
    assert [row.path for row in report.rows] == ["last/kernel"]
    hidden = keras.Model(model.inputs, model.get_layer("hidden").output)
    norms = np.sqrt(np.square(outputs(hidden, x)).sum(axis=0))
    scores = np.abs(keras.ops.convert_to_numpy(model.get_layer("last").kernel)) * norms[:, np.newaxis]
    expected = np.sort(scores.T.reshape(3, -1, 4), axis=2)[..., 2:].sum() / scores.sum()
    assert report.rows[0].before == pytest.approx(expected, rel=1e-4) and report.rows[0].after > expected
    pruned, _ = tfprune.prune_weights(reordered, x, 0.5, pattern=TWO_OF_FOUR, criterion="wanda")
    assert np.mean(keras.ops.convert_to_numpy(pruned.get_layer("last").kernel) == 0) == 0.5


def test_further_indices_of_a_bundle_move_alike():
    along, moved = np.array([3, 1, 2, 1, 3, 2]), np.array([0, 2, 3, 1])
    np.testing.assert_array_equal(along[_moved_along(along, moved)], moved[along])


@keras.saving.register_keras_serializable(package="permuting")
class Ramp(layers.Layer):
    """Scales each channel by its place, which its rule does not tell."""

    def call(self, x):
        return x * keras.ops.arange(1, x.shape[-1] + 1, dtype="float32")


def test_a_model_whose_outputs_depend_on_the_order():
    tfprune.register_shrinkable(Ramp, lambda flow, call: flow.inputs(call))
    stack = [layers.Dense(16, name="first"), Ramp(), layers.Dense(4, name="second")]
    model = uneven(keras.Sequential([keras.Input((8,)), *stack]))
    with pytest.raises(ValueError, match="outputs do not depend on the order of its channels"):
        permute_channels(model, TWO_OF_FOUR)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"pattern": Block(1, 4)}, r"`pattern` to be patterns.NM\(n, m\)"),
        ({"filters": "hiden"}, "`filters` to match"),
        ({"filters": "depthwise"}, "match depthwise_0/kernel"),
        ({"criterion": "wanda"}, "Expected data"),
    ],
)
def test_arguments_that_cannot_be(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        permute_channels(residual(), **{"pattern": TWO_OF_FOUR, **arguments})
