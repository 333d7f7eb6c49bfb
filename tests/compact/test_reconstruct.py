"""Reconstruction, layer by layer, against what the models themselves return."""

from __future__ import annotations

import weakref

import keras
import numpy as np
import pytest
from graphs import RandomGraph
from tiers import first

import tfprune
from tfprune.compact.linear_map import moments_of, sites_of
from tfprune.models.graph import flatten, trace
from tfprune.models.training import Batches
from tfprune.report import Skipped

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def trained(model, seed=0):
    """Give all weights values as training leaves them."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        values = generator.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1]) or 1)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


def convolutions(**options):
    """A net whose activations are layers, so that each layer returns what its kernel gives."""
    return trained(
        keras.Sequential(
            [
                keras.Input((9, 8, 2)),
                layers.Conv2D(8, 3, padding="same", name="first", **options),
                layers.ReLU(),
                layers.Conv2D(8, (3, 2), strides=2, padding="same", name="strided", **options),
                layers.ReLU(),
                layers.Conv2D(6, 2, padding="valid", dilation_rate=2, name="dilated", **options),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(5, name="dense", **options),
            ]
        )
    )


def values(model):
    return [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]


def outputs(model, name, x):
    inner = keras.Model(model.inputs[0], model.get_layer(name).output)
    return keras.ops.convert_to_numpy(inner(x)).astype(float)


def part_lost(found, expected, live):
    found, expected = found[..., live], expected[..., live]
    return np.sum((found - expected) ** 2) / np.sum(expected**2)


def error(model, reference, x):
    expected = keras.ops.convert_to_numpy(reference(x))
    return float(np.sum((keras.ops.convert_to_numpy(model(x)) - expected) ** 2) / np.sum(expected**2))


def naive_patches(x, size, strides, padding, rate):
    """Collect what each position of a kernel sees, pixel by pixel."""
    spans = [(taps - 1) * rate + 1 for taps in size]
    counts = [
        -(-length // step) if padding == "same" else (length - span) // step + 1
        for length, step, span in zip(x.shape[1:3], strides, spans, strict=True)
    ]
    missing = [
        max((count - 1) * step + span - length, 0) if padding == "same" else 0
        for count, step, span, length in zip(counts, strides, spans, x.shape[1:3], strict=True)
    ]
    rows = []
    for image in x:
        for top in range(counts[0]):
            for left in range(counts[1]):
                row = []
                for down in range(size[0]):
                    for right in range(size[1]):
                        i = top * strides[0] + down * rate - missing[0] // 2
                        j = left * strides[1] + right * rate - missing[1] // 2
                        inside = 0 <= i < image.shape[0] and 0 <= j < image.shape[1]
                        row += list(image[i, j]) if inside else [0.0] * image.shape[2]
                rows.append([*row, 1.0])
    return np.array(rows)


@pytest.mark.parametrize(
    ("size", "strides", "padding", "rate"),
    [
        ((3, 2), (1, 1), "same", 1),
        ((3, 3), (2, 3), "same", 1),
        ((2, 3), (2, 1), "valid", 1),
        ((2, 2), (1, 1), "same", 2),
    ],
)
def test_moments_are_those_of_patches_collected_one_by_one(size, strides, padding, rate):
    conv = layers.Conv2D(4, size, strides=strides, padding=padding, dilation_rate=rate)
    model = trained(keras.Sequential([keras.Input((7, 6, 3)), conv]))
    graph, x = trace(flatten(model)), normal(7, 7, 6, 3)
    ((site, _),), _ = sites_of(graph, graph)
    ((moments,),) = moments_of([site], Batches(x, model, batch_size=3))
    rows = naive_patches(x, size, strides, padding, rate)
    y = keras.ops.convert_to_numpy(model(x)).reshape(len(rows), -1)
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.gram, rows.T @ rows, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(moments.cross, y.T @ rows, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_report_says_what_the_models_show(use_bias):
    """For each layer: with its old weights, and with its new ones, after layers that are solved for."""
    model, x = convolutions(use_bias=use_bias), normal(40, 9, 8, 2)
    zeroed = tfprune.zero_channels(model, tfprune.plan_shrink(model, 0.4))
    better, report = tfprune.reconstruct(zeroed, model, x, batch_size=16)
    assert [row.layer for row in report.rows] == ["first", "strided", "dilated", "dense"]
    assert not report.skipped
    for row in report.rows:
        layer, old = better.get_layer(row.layer), zeroed.get_layer(row.layer).get_weights()
        live = old[0].reshape(-1, old[0].shape[-1]).any(axis=0)
        new, expected = layer.get_weights(), outputs(model, row.layer, x)
        after = part_lost(outputs(better, row.layer, x), expected, live)
        layer.set_weights(old)
        before = part_lost(outputs(better, row.layer, x), expected, live)
        layer.set_weights(new)
        assert row.before == pytest.approx(before, rel=1e-3, abs=1e-10)
        assert row.after == pytest.approx(after, rel=1e-3, abs=1e-10)
        assert row.after <= row.before
    assert error(better, model, x) < 0.5 * error(zeroed, model, x)


@pytest.mark.parametrize("seed", first(0, 1, 2))
@pytest.mark.parametrize("kind", ["images", "sequences", "vectors"])
def test_no_layer_of_any_graph_gets_worse(kind, seed):
    model = getattr(RandomGraph(seed), kind)()
    x = normal(24, *model.inputs[0].shape[1:], seed=seed)
    plan = tfprune.plan_shrink(model, 0.4)
    zeroed = tfprune.zero_channels(model, plan)
    for mode in ("sequential", "parallel"):
        better, report = tfprune.reconstruct(zeroed, model, x, reconstruction=mode)
        assert report.rows and all(row.after <= row.before for row in report.rows)
        _assert_zeros_stay(zeroed, better)
    smaller = keras.ops.convert_to_numpy(tfprune.shrink(better, plan)(x))
    expected = keras.ops.convert_to_numpy(better(x))
    np.testing.assert_allclose(smaller, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=1e-4)


def _assert_zeros_stay(before, after):
    for one, other in zip(before.weights, after.weights, strict=True):
        if one.name == "kernel":
            assert not values_of(other)[values_of(one) == 0].any()


def values_of(variable):
    return keras.ops.convert_to_numpy(variable)


def test_the_models_given_are_left_as_they_are():
    model, x = convolutions(), normal(16, 9, 8, 2)
    zeroed = tfprune.zero_channels(model, tfprune.plan_shrink(model, 0.4))
    before = values(model), values(zeroed), [layer.name for layer in zeroed.layers]
    better, _ = tfprune.reconstruct(zeroed, model, x)
    for one, other in zip([*before[0], *before[1]], [*values(model), *values(zeroed)], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [layer.name for layer in zeroed.layers] == before[2] == [layer.name for layer in better.layers]
    assert error(better, model, x) < error(zeroed, model, x)


def chain(seed):
    """Six layers whose inputs are nearly dependent on each other, so that errors grow from layer to layer."""
    generator = np.random.default_rng(seed)
    hidden = [layers.Dense(24, activation="relu") for _ in range(5)]
    model = keras.Sequential([keras.Input((24,)), *hidden, layers.Dense(24)])
    for layer in model.layers:
        left, _ = np.linalg.qr(generator.normal(size=(24, 24)))
        right, _ = np.linalg.qr(generator.normal(size=(24, 24)))
        layer.kernel.assign(1.5 * left * np.geomspace(1, 1e-2, 24) @ right)
    return model


@pytest.mark.programs
def test_sequential_beats_one_shot_on_data_it_has_not_seen():
    ratios = []
    for seed in range(4):
        model = chain(seed)
        x, held = normal(400, 24, seed=seed), normal(400, 24, seed=100 + seed)
        zeroed = tfprune.zero_channels(model, tfprune.plan_shrink(model, 0.3))
        sequential, parallel = (
            tfprune.reconstruct(zeroed, model, x, reconstruction=mode)[0] for mode in ("sequential", "parallel")
        )
        assert error(parallel, model, held) < error(zeroed, model, held)
        ratios.append(error(sequential, model, held) / error(parallel, model, held))
    assert max(ratios) < 1


def test_a_bias_takes_over_a_channel_that_is_constant():
    model = trained(keras.Sequential([keras.Input((5,)), layers.Dense(4, activation="relu"), layers.Dense(3)]))
    hidden = model.layers[0]
    kernel, bias = hidden.get_weights()
    kernel[:, 1], bias[1] = 0, 2.5
    hidden.set_weights([kernel, bias])
    pruned = keras.models.clone_model(model)
    pruned.set_weights([*model.get_weights()])
    last = pruned.layers[1]
    last.kernel.assign(values_of(last.kernel) * [[1], [0], [1], [1]])
    x = normal(50, 5)
    assert error(pruned, model, x) > 0.01
    assert error(tfprune.reconstruct(pruned, model, x)[0], model, x) < 1e-10


def test_masks_without_structure():
    model, x = convolutions(), normal(60, 9, 8, 2)
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.6)
    plain = tfprune.strip(wrapped)
    better, report = tfprune.reconstruct(plain, model, x)
    assert all(row.after <= row.before for row in report.rows)
    assert tfprune.sparsity_report(better).nnz == tfprune.sparsity_report(plain).nnz
    _assert_zeros_stay(plain, better)
    left = error(better, model, x)
    assert left < error(plain, model, x)
    still, _ = tfprune.reconstruct(wrapped, model, x)
    assert isinstance(still.get_layer("dense"), tfprune.Pruned)
    assert error(still, model, x) == pytest.approx(left, rel=1e-4)
    for name, mask in wrapped.get_layer("dense").masks.items():
        np.testing.assert_array_equal(values_of(still.get_layer("dense").masks[name]), values_of(mask))
    assert tfprune.update_masks(still, 0.7).sparsity == pytest.approx(0.7, abs=0.01)


def test_the_projection_of_heads():
    series = keras.Input((6, 8))
    attended = layers.MultiHeadAttention(4, 3, name="attention")(series, series)
    model = trained(keras.Model(series, layers.Dense(2)(attended)))
    x = normal(80, 6, 8)
    plan = tfprune.plan_shrink(model, 0.25)
    zeroed = tfprune.zero_channels(model, plan)
    better, report = tfprune.reconstruct(zeroed, model, x)
    assert [row.layer for row in report.rows[:4]] == ["attention"] * 4
    (row,) = [row for row in report.rows if row.weight == "attention_output/kernel"]
    assert row.after < 0.9 * row.before
    np.testing.assert_allclose(values_of(tfprune.shrink(better, plan)(x)), values_of(better(x)), atol=1e-5)


def test_nested_shared_and_several_inputs():
    one, other = keras.Input((6,), name="one"), keras.Input((4,), name="other")
    shared = layers.Dense(6, activation="relu", name="shared")
    inner = keras.Input((6,))
    nested = keras.Model(inner, layers.Dense(5, name="inside")(inner), name="nested")
    joined = layers.Concatenate()([nested(shared(shared(one))), layers.Dense(5, name="beside")(other)])
    model = trained(keras.Model({"one": one, "other": other}, layers.Dense(3, name="last")(joined)))
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    x = {"one": normal(50, 6), "other": normal(50, 4, seed=1)}
    better, report = tfprune.reconstruct(wrapped, model, x)
    assert {row.layer for row in report.rows} == {"shared", "inside", "beside", "last"}
    assert better.get_layer("nested").get_layer("inside").name == "inside"
    assert error(better, model, x) < error(wrapped, model, x)


def test_layers_without_known_inputs_and_frozen_ones_are_named():
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.LSTM(4, name="lstm"),
            layers.Dense(3, name="still"),
            layers.Dense(2, name="last"),
        ]
    )
    model.get_layer("still").trainable = False
    zeroed = tfprune.zero_channels(trained(model), tfprune.plan_shrink(model, 0.4))
    _, report = tfprune.reconstruct(zeroed, model, normal(20, 5, 3))
    assert [(entry.layer, entry.reason, entry.kind) for entry in report.skipped] == [
        ("lstm", "what the kernels of LSTM multiply is not known", Skipped.NO_RULE),
        ("still", "frozen (trainable=False)", Skipped.FROZEN),
    ]
    assert "frozen" in str(report) and "error before" in str(report)
    assert report.as_dict()["rows"][0]["layer"] == "last"


class Counted:
    """Batches that know how many of them are held at once."""

    def __init__(self, count):
        self.count, self.alive, self.most = count, 0, 0

    def __iter__(self):
        for seed in range(self.count):
            batch = normal(8, 6, seed=seed)
            self.alive += 1
            weakref.finalize(batch, self._dropped)
            self.most = max(self.most, self.alive)
            yield batch, np.zeros(8)

    def _dropped(self):
        self.alive -= 1


def test_data_sets_are_read_batch_by_batch():
    model = trained(keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2)]))
    zeroed = tfprune.zero_channels(model, tfprune.plan_shrink(model, 0.5))
    data = Counted(30)
    better, _ = tfprune.reconstruct(zeroed, model, data)
    assert data.most <= 3
    whole = np.concatenate([batch for batch, _ in Counted(30)])
    other, _ = tfprune.reconstruct(zeroed, model, (whole, np.zeros(240)), batch_size=100)
    for one, two in zip(values(better), values(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


class Gathered(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, place):
        return normal(8, 9, 8, 2, seed=place), np.zeros(8)


def test_a_data_set_of_keras():
    model = convolutions()
    _, report = tfprune.reconstruct(model, model, Gathered())
    assert max(row.before for row in report.rows) < 1e-10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros((0, 9, 8, 2)), "with at least one sample. Received: none"),
        ([], "with at least one sample. Received: none"),
        (normal(4, 9, 8, 3), r"of shape \(None, 9, 8, 2\).*Received: \(4, 9, 8, 3\)"),
        (normal(4, 9), r"Received: \(4, 9\)"),
        (([normal(4, 9, 8, 2), normal(4, 9, 8, 2)],), r"Received: \(4, 9, 8, 2\), \(4, 9, 8, 2\)"),
        (np.full((4, 9, 8, 2), np.nan), "Received: NaN or infinity"),
    ],
)
def test_data_that_do_not_fit(data, reason):
    model = convolutions()
    with pytest.raises(ValueError, match=reason):
        tfprune.reconstruct(model, model, data)


@pytest.mark.parametrize("data", [iter([normal(4, 9, 8, 2)]), None, 3, "x"])
def test_data_of_the_wrong_type(data):
    model = convolutions()
    with pytest.raises(TypeError, match="read more than once|Expected `samples` to be a tuple"):
        tfprune.reconstruct(model, model, data)


def test_models_that_do_not_fit():
    model, x = convolutions(), normal(4, 9, 8, 2)
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, 0.4))
    with pytest.raises(ValueError, match="where these differ: first, strided, dilated, dense. Shrink after"):
        tfprune.reconstruct(smaller, model, x)
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tfprune.reconstruct(model, layers.Dense(2), x)
    with pytest.raises(ValueError, match="built Sequential or Functional"):
        tfprune.reconstruct(model, keras.Sequential([layers.Dense(2)]), x)
    recurrent = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, name="lstm")])
    with pytest.raises(ValueError, match="Expected layers to solve for.*lstm: what the kernels"):
        tfprune.reconstruct(recurrent, recurrent, normal(4, 5, 3))


def test_weights_that_are_not_finite():
    model = convolutions()
    kernel = values_of(model.get_layer("dilated").kernel).copy()
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("dilated").kernel.assign(kernel)
    with pytest.raises(ValueError, match="NaN or infinity in dilated/kernel"):
        tfprune.reconstruct(model, model, normal(4, 9, 8, 2))


@pytest.mark.parametrize(
    ("option", "error"),
    [
        *(
            ({"reconstruction": "both"}, ValueError),
            ({"reconstruction": None}, TypeError),
        ),
        *(({"batch_size": 0}, ValueError), ({"ridge": -1}, ValueError), ({"ridge": True}, TypeError)),
    ],
    ids=str,
)
def test_options_that_there_are_not(option, error):
    model = convolutions()
    with pytest.raises(error, match=f"Expected `{next(iter(option))}` to be"):
        tfprune.reconstruct(model, model, normal(4, 9, 8, 2), **option)
