"""Criteria before training, and Fisher: against formulas in NumPy on a small network, whose gradients are by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 4)).astype("float32"), RNG.normal(size=(6, 2)).astype("float32")
FIRST, SECOND = RNG.normal(size=(4, 3)).astype("float32"), RNG.normal(size=(3, 2)).astype("float32")


def network(criterion: str, activation: str | None = None) -> keras.Model:
    hidden = layers.Dense(3, "relu", use_bias=False, name="hidden")
    out = layers.Dense(2, activation, use_bias=False, name="out")
    model = tfprune.wrap(keras.Sequential([keras.Input((4,)), hidden, out]), criterion=criterion)
    model.set_weights([FIRST, *model.get_weights()[1:]])
    for name, kernel in (("hidden", FIRST), ("out", SECOND)):
        model.get_layer(name).layer.kernel.assign(kernel)
    model.compile("sgd", "mse")
    return model


def gradients(
    x: np.ndarray, y: np.ndarray, first: np.ndarray = FIRST, second: np.ndarray = SECOND
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of the mean squared error, by the chain rule."""
    x, y = x.astype(float), y.astype(float)
    before = x @ first
    hidden = np.maximum(before, 0)
    error = 2 * (hidden @ second - y) / y.size
    return x.T @ (error @ second.T * (before > 0)), hidden.T @ error


def hessian_gradients() -> tuple[np.ndarray, ...]:
    """Return the Hessian of the loss of all data times its gradient, by the difference of two gradients."""
    step, along = 1e-6, gradients(X, Y)
    ahead = gradients(X, Y, FIRST + step * along[0], SECOND + step * along[1])
    behind = gradients(X, Y, FIRST - step * along[0], SECOND - step * along[1])
    return tuple((upper - lower) / (2 * step) for upper, lower in zip(ahead, behind, strict=True))


def flows() -> tuple[np.ndarray, np.ndarray]:
    """Return the synaptic flow of each entry, by summing over paths."""
    first, second = np.abs(FIRST).astype(float), np.abs(SECOND).astype(float)
    return first * second.sum(axis=1), second * first.sum(axis=0)[:, None]


def kept(model: keras.Model) -> list[np.ndarray]:
    return [model.get_layer(name).masks["kernel"].numpy() for name in ("hidden", "out")]


def largest(scores: tuple[np.ndarray, np.ndarray], count: int) -> list[np.ndarray]:
    """Return the masks of the largest scores of both weights together."""
    threshold = np.sort(np.concatenate([each.ravel() for each in scores]))[-count]
    return [each >= threshold for each in scores]


def test_snip_is_weight_times_gradient_of_all_data():
    model = network("snip")
    tfprune.update_masks(model, 0.5, allocation="global", data=(X, Y))
    scores = tuple(np.abs(each * gradient) for each, gradient in zip((FIRST, SECOND), gradients(X, Y), strict=True))
    for mask, expected in zip(kept(model), largest(scores, 9), strict=True):
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("data", [(X, Y), [(X[row : row + 2], Y[row : row + 2]) for row in (0, 2, 4)]])
def test_grasp_is_weight_times_the_hessian_times_the_gradient_of_all_data(data):
    facts = {}

    class Look(tfprune.research.GraSP):
        def __call__(self, evidence):
            facts[evidence.path] = super().__call__(evidence)
            return facts[evidence.path]

    model = network(Look())
    before = [variable.numpy() for variable in model.variables]
    tfprune.update_masks(model, 0.0, data=data)
    for scores, weight, product in zip(facts.values(), (FIRST, SECOND), hessian_gradients(), strict=True):
        np.testing.assert_allclose(scores, weight * product, rtol=1e-4, atol=1e-6)
    for old, after in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, after.numpy())


def test_grasp_removes_what_lowers_the_norm_of_the_gradient():
    """Of 18 entries the 9 with the largest -w Hg are removed: the largest w Hg remain."""
    model = network("grasp")
    tfprune.update_masks(model, 0.5, allocation="global", data=(X, Y))
    scores = tuple(weight * product for weight, product in zip((FIRST, SECOND), hessian_gradients(), strict=True))
    for mask, expected in zip(kept(model), largest(scores, 9), strict=True):
        np.testing.assert_array_equal(mask, expected)


def recurrent() -> keras.Model:
    stack = [layers.Embedding(7, 4), layers.Conv1D(3, 2), layers.LSTM(3), layers.Dense(2)]
    return keras.Sequential([keras.Input((5,), dtype="int32"), *stack])


def test_grasp_in_embeddings_convolutions_and_loops_agrees_with_differences_of_gradients():
    keras.utils.set_random_seed(0)
    x, y = RNG.integers(0, 7, (4, 5)), RNG.normal(size=(4, 2)).astype("float32")
    facts = {}

    class Look(tfprune.research.GraSP):
        needs = ("gradient", "hessian_gradient")

        def __call__(self, evidence):
            facts[evidence.path] = dict(evidence.facts)
            return super().__call__(evidence)

    model = tfprune.wrap(recurrent(), criterion=Look())
    model.compile("sgd", "mse")
    gatherer = tfprune.Gatherer(model, (x, y))  # which traces the gradients once
    tfprune.update_masks(model, 0.0, data=gatherer)
    at, step = dict(facts), 0.1
    weights = dict(_kernels(model))
    moved = []
    for sign in (1, -1):
        start = {path: weight.numpy() for path, weight in weights.items()}
        for path, weight in weights.items():
            weight.assign(start[path] + sign * step * at[path]["gradient"])
        tfprune.update_masks(model, 0.0, data=gatherer)
        moved.append({path: facts[path]["gradient"] for path in at})
        for path, weight in weights.items():
            weight.assign(start[path])
    for path, values in at.items():
        expected = (moved[0][path] - moved[1][path]) / (2 * step)
        np.testing.assert_allclose(values["hessian_gradient"], expected, atol=1e-3 * np.abs(expected).max())


def _kernels(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    pruned = [layer for layer in model.layers if isinstance(layer, tfprune.Pruned)]
    return [(f"{each.name}/{name}", each.kernels[name].variable) for each in pruned for name in each.kernels]


def test_fisher_squares_the_gradient_of_each_batch():
    model = network("fisher")
    batches = [(X[row : row + 1], Y[row : row + 1]) for row in range(6)]
    tfprune.update_masks(model, 0.5, allocation="global", data=batches)
    pairs = [gradients(*batch) for batch in batches]
    scores = tuple(
        each.astype(float) ** 2 * np.mean([pair[index] ** 2 for pair in pairs], axis=0)
        for index, each in enumerate((FIRST, SECOND))
    )
    for mask, expected in zip(kept(model), largest(scores, 9), strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_the_synaptic_flow_is_the_sum_over_paths_and_equal_in_all_layers():
    facts = {}

    class Look(tfprune.research.SynFlow):
        def __call__(self, evidence):
            facts[evidence.path] = super().__call__(evidence)
            return facts[evidence.path]

    model = network(Look())
    before = [variable.numpy() for variable in model.variables]
    tfprune.update_masks(model, 0.0)
    for flow, expected in zip(facts.values(), flows(), strict=True):
        np.testing.assert_allclose(flow, expected, rtol=1e-5)
    assert [flow.sum() for flow in facts.values()] == pytest.approx([flows()[0].sum()] * 2, rel=1e-5)
    for old, after in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, after.numpy())


def test_synflow_empties_no_layer():
    model = network("synflow")
    for step in range(1, 9):
        tfprune.update_masks(model, 1 - 0.12 ** (step / 8), allocation="global", regrow=False)
    hidden, out = kept(model)
    assert hidden.sum() + out.sum() == 2
    assert hidden.any() and out.any()
    assert (hidden.astype(int) @ out.astype(int)).any()  # a path is left


def test_synflow_refuses_softmax_and_frozen_layers():
    with pytest.raises(ValueError, match="whatever the weights are, as after softmax"):
        tfprune.update_masks(network("synflow", "softmax"), 0.5)
