"""Zeros and integers chosen together, against a slow loop; files get exactly these integers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfprune import Rounding, prune_weights
from tfprune.export.file.document import load_objects
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import convert
from tfprune.patterns import NM, Unstructured
from tfprune.solving.least_squares import GramMoments, Grid, grid_of
from tfprune.solving.zeros import ZeroSolver, _sparse_gpt, relative_error

layers = keras.layers


def problem(seed, inputs=32, outputs=6):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(300, 8)) @ generator.normal(size=(8, inputs))
    moments = GramMoments(inputs, outputs)
    weights = generator.normal(size=(outputs, inputs))
    moments.add_inputs(x + 0.3 * generator.normal(size=x.shape))
    return moments.aimed_at(weights), weights


def slow_joint(gram, weights, steps, largest, anchors, step, count):
    """Remove or round column by column with the inverse of what is ahead, and hand both errors on."""
    left, mask, integers = weights.copy(), np.ones(weights.shape, bool), np.zeros(weights.shape)
    for column in range(weights.shape[1]):
        if column % step == 0:
            some = range(column, min(column + step, weights.shape[1]))
            costs = [left[:, one] ** 2 / np.linalg.inv(gram[one:, one:])[0, 0] for one in some]
            costs = np.where(anchors[:, some], 1e9, np.stack(costs, axis=1))
            for row, place in count(costs):
                mask[row, column + place] = False
        for row in range(len(weights)):
            value = round(left[row, column] / steps[row, column])
            value = max(-largest, min(largest, value))
            if anchors[row, column]:
                value = largest if left[row, column] > 0 else -largest
            integers[row, column] = value if mask[row, column] else 0
        ahead = np.linalg.inv(gram[column:, column:])
        error = left[:, column] - integers[:, column] * steps[:, column]
        left[:, column:] -= np.outer(error / ahead[0, 0], ahead[0])
    return integers


def lowest_half(costs):
    order = np.argsort(costs, axis=None, kind="stable")[: costs.size // 2]
    return list(zip(*np.unravel_index(order, costs.shape), strict=True))


def two_of_four(costs):
    return [(row, place) for row, some in enumerate(costs) for place in np.argsort(some)[:2]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rounding", [Rounding(8), Rounding(4), Rounding(4, block=32)], ids=str)
@pytest.mark.parametrize(
    ("pattern", "step", "count"), [(Unstructured(), 32, lowest_half), (NM(2, 4), 4, two_of_four)], ids=["half", "2:4"]
)
def test_both_errors_are_handed_on_as_in_the_slow_loop(seed, rounding, pattern, step, count):
    moments, weights = problem(seed)
    grid = grid_of(weights, rounding)
    _, left = _sparse_gpt(moments, weights, inputs=32, pattern=pattern, sparsity=0.5, ridge=0, grid=grid)
    steps = np.broadcast_to(grid.steps, weights.shape)
    largest = 2 ** (rounding.bits - 1) - 1
    expected = slow_joint(moments.gram, weights, steps, largest, grid.anchors, step, count)
    np.testing.assert_allclose(left / steps, expected, atol=1e-7)
    assert np.mean(left == 0) >= 0.5 and (np.abs(expected).max(axis=1) == largest).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_the_outputs_change_less_than_with_one_after_the_other(bits):
    errors = np.zeros(2)
    for seed in range(4):
        moments, weights = problem(seed, inputs=64)
        solver = ZeroSolver(weights[np.newaxis], inputs=64)
        masked = solver.masking([moments], weights[np.newaxis], pattern=Unstructured())
        pruned = masked(0.5)
        grid = grid_of(pruned[0], Rounding(bits))
        errors += [relative_error([moments], each) for each in (masked(0.5, [grid]), [grid.nearest(pruned[0])])]
    assert errors[0] < (0.8 if bits == 4 else 1.01) * errors[1]  # 8 bits hardly add to the error of the zeros


def test_a_grid_has_the_scales_of_a_file():
    weights = np.random.default_rng(0).normal(size=(3, 64)) * 0.02
    weights[1, :32] = 0
    grid = grid_of(weights, Rounding(4, block=32))
    rounded = grid.nearest(weights)
    integers = rounded / np.where(np.isfinite(grid.steps), grid.steps, 1)
    assert np.abs(integers).reshape(-1, 32).max(axis=1).tolist() == [7, 7, 0, 7, 7, 7]
    np.testing.assert_array_equal(integers, np.rint(integers))
    steps = np.unique(grid.steps[np.isfinite(grid.steps)])
    np.testing.assert_array_equal(steps, steps.astype(np.float16))
    np.testing.assert_array_equal(grid.nearest(rounded), rounded)
    odd = grid_of(weights[:, :40], Rounding(4, block=32))
    assert odd.largest == 127 and np.unique(odd.steps[0]).size == 1


def test_a_grid_without_ends_clips_nothing():
    np.testing.assert_array_equal(Grid(np.array([[0.5]])).nearest(np.array([[300.2, -0.3]])), [[300.0, -0.5]])


def network():
    keras.utils.set_random_seed(0)
    stack = [
        layers.Conv2D(8, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(beta_initializer="ones", gamma_initializer="random_normal"),
        layers.ReLU(),
        layers.Conv2D(12, 3, activation="relu", name="next"),
        layers.Flatten(),
        layers.Dense(32, activation="relu", name="hidden"),
        layers.Dense(5, name="class"),
    ]
    return keras.Sequential([keras.Input((8, 8, 2)), *stack])


def stored(content):
    """Return the integers of each kernel of a file, outputs first, and its scales."""
    model, found = load_objects(content), []
    for tensor in read(content).weights:
        if tensor.dtype in ("int8", "int4") and len(tensor.shape) > 1:
            raw = next(one for one in model.subgraphs[0].tensors if one.name.decode() == tensor.name)
            values = tensor.values.raw.view(np.int8).astype(int)
            if tensor.dtype == "int4":
                halves = np.stack([values & 15, values >> 4 & 15], axis=-1).ravel()[: tensor.size]
                values = (halves ^ 8) - 8
            found.append((values.reshape(tensor.shape[0], -1), raw.quantization.scale))
    return found


@pytest.mark.programs
@pytest.mark.parametrize(("scheme", "bits"), [("int8", 8), ("dynamic", 8), ("int4", 4)])
def test_a_file_has_exactly_the_chosen_integers(scheme, bits):
    model, x = network(), np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")
    settings = {"criterion": "sparsegpt", "allocation": "uniform"}
    sparse, report = prune_weights(model, x, 0.5, rounding=Rounding(bits), **settings)
    assert len(report.rows) == 4
    settings = {} if scheme == "dynamic" else {"calibration": [x]}
    files = stored(convert(sparse, quantize=scheme, **settings))
    kernels = [weight for layer in sparse.layers for weight in layer.weights if weight.name == "kernel"]
    assert len(kernels) == 4 and len(files) == (1 if scheme == "dynamic" else 4)
    for kernel in kernels:
        if scheme == "dynamic" and np.prod(kernel.shape) < 1024:  # which the converter leaves in float
            continue
        rows = np.moveaxis(keras.ops.convert_to_numpy(kernel), -1, 0)
        rows = rows.reshape(len(rows), -1)
        steps = np.abs(rows).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(rows / steps, np.rint(rows / steps), atol=1e-4)
        integers, signs = np.rint(rows / steps), np.ones((len(rows), 1))
        if kernel is kernels[0]:  # into which the file multiplies its normalization, whose scales may be negative
            signs = np.sign(keras.ops.convert_to_numpy(sparse.layers[1].gamma))[:, np.newaxis]
        same = [scales for found, scales in files if np.array_equal(found, signs * integers)]
        assert len(same) == 1
        if kernel is not kernels[0]:
            np.testing.assert_allclose(same[0], steps[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"rounding": 4}, TypeError, r"tfprune.Rounding\(8\)"),
        ({"rounding": Rounding(4)}, ValueError, "Received: criterion='alps'.* Pass criterion='sparsegpt'"),
        ({"rounding": Rounding(4), "criterion": "wanda"}, ValueError, "criterion='sparsegpt' with `rounding`"),
    ],
)
def test_arguments_that_cannot_be(arguments, error, reason):
    with pytest.raises(error, match=reason):
        prune_weights(network(), np.ones((4, 8, 8, 2), "float32"), **arguments)
    with pytest.raises(ValueError, match="block"):
        Rounding(8, block=32)
    with pytest.raises(ValueError, match="bits"):
        Rounding(3)
