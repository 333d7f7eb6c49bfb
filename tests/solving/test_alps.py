"""ALPS against a slow version of its two algorithms, and against exact least squares on its mask."""

import numpy as np
import pytest

from tfprune.patterns import NM, Unstructured
from tfprune.solving import zeros as module
from tfprune.solving.least_squares import GramMoments, solve
from tfprune.solving.zeros import _alps, _sparse_gpt


def problem(seed, inputs=24, outputs=8, rows=300, bias=False):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 8)) @ random.normal(size=(8, inputs)) * np.exp(random.normal(size=inputs))
    x += 0.3 * random.normal(size=x.shape)
    x = np.concatenate([x, np.ones((rows, 1))], axis=1) if bias else x
    weights = random.normal(size=(outputs, x.shape[1]))
    moments = GramMoments(x.shape[1], outputs)
    moments.add_inputs(x)
    return moments.aimed_at(weights), weights


def slow_mask(gram, weights, *, count, ridge):
    """Follow the paper: W = (H + rho I)^-1 (H W0 - V + rho D), D = the largest of W + V / rho, V += rho (W - D)."""
    damped = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    scale = np.diag(np.diag(damped) ** -0.5)
    h, target = scale @ damped @ scale, weights @ np.linalg.inv(scale)

    def largest(values):
        threshold = np.sort(np.abs(values), axis=None)[-count]
        return np.where(np.abs(values) >= threshold, values, 0)

    rho, d, v, has_moved = 0.1, largest(target), np.zeros_like(target), False
    before = d != 0
    for step in range(1, 301):
        w = (target @ h - v + rho * d) @ np.linalg.inv(h + rho * np.eye(len(h)))
        d = largest(w + v / rho)
        v = v + rho * (w - d)
        if step % 3:
            continue
        changed = np.sum((d != 0) != before) / count
        before = d != 0
        has_moved = has_moved or changed > 0.005
        if has_moved and (changed == 0 or (step >= 30 and changed < 3e-4)):
            break
        if has_moved:
            rho *= 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1
        else:
            rho, d, v = rho / 5, largest(target), np.zeros_like(target)
            before = d != 0
    return d != 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_the_mask_is_that_of_the_slow_version(seed, sparsity):
    moments, weights = problem(seed)
    mask, _ = _alps(moments, weights, inputs=24, pattern=Unstructured(), sparsity=sparsity, ridge=0.01)
    count = weights.size - round(sparsity * weights.size)
    np.testing.assert_array_equal(mask, slow_mask(moments.gram, weights, count=count, ridge=0.01))


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_least_squares_on_the_mask(seed, monkeypatch):
    monkeypatch.setattr(module, "_GRADIENT_STEPS", 60)
    moments, weights = problem(seed)
    mask, updated = _alps(moments, weights, inputs=24, pattern=Unstructured(), sparsity=0.6, ridge=0.01)
    damped = moments.gram + 0.01 * np.trace(moments.gram) / 24 * np.eye(24)
    for row, own, values in zip(mask, weights, updated, strict=True):
        expected = np.linalg.solve(damped[np.ix_(row, row)], (damped @ own)[row])
        np.testing.assert_allclose(values[row], expected, atol=1e-6)
        assert (values[~row] == 0).all()


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
def test_outputs_change_less_than_by_columns_and_little_more_than_least_squares_allows(sparsity):
    moments, weights = problem(5, inputs=48)
    settings = {"inputs": 48, "pattern": Unstructured(), "sparsity": sparsity, "ridge": 1e-4}
    mask, updated = _alps(moments, weights, **settings)
    by_columns = _sparse_gpt(moments, weights, **settings)[1]
    exact = solve(moments, weights * mask, free=mask, ridge=1e-4)
    errors = [moments.errors(values).sum() for values in (exact, updated, by_columns)]
    assert errors[0] <= errors[1] < 1.5 * errors[0] and errors[1] < 0.6 * errors[2]


def test_biases_stay_and_groups_of_inputs_have_their_zeros():
    moments, weights = problem(1, bias=True)
    mask, updated = _alps(moments, weights, inputs=24, pattern=NM(2, 4), sparsity=0.5, ridge=0.01, positions=2)
    assert mask[:, 24].all() and (updated[:, 24] != 0).all()
    assert (mask[:, :24].reshape(8, 6, 4).sum(axis=2) == 2).all()


def test_single_precision_is_as_good(monkeypatch):
    moments, weights = problem(2, inputs=60, outputs=40)
    settings = {"inputs": 60, "pattern": Unstructured(), "sparsity": 0.7, "ridge": 0.01}
    double = moments.errors(_alps(moments, weights, **settings)[1]).sum()
    monkeypatch.setattr(module, "_EXACT", 0)
    assert moments.errors(_alps(moments, weights, **settings)[1]).sum() == pytest.approx(double, rel=0.03)


def test_dead_inputs_lose_their_weights_and_no_ridge_is_needed():
    moments, weights = problem(3)
    for array in (moments.gram, moments.gram.T, moments.cross.T):
        array[[2, 9]] = 0
    mask, updated = _alps(moments, weights, inputs=24, pattern=Unstructured(), sparsity=0.5, ridge=0)
    assert np.isfinite(updated).all() and not mask[:, [2, 9]].any()


def test_moments_that_are_not_finite():
    moments, weights = problem(0)
    moments.gram[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite moments"):
        _alps(moments, weights, inputs=24, pattern=Unstructured(), sparsity=0.5, ridge=0.1)


@pytest.mark.parametrize("sparsity", [0.0, 0.08, 0.7])
def test_nothing_is_lost_where_the_weights_have_the_zeros_already(sparsity):
    moments, weights = problem(3, inputs=520, outputs=8, rows=1000)
    zeros = np.random.default_rng(0).permutation(weights.size)[: round(sparsity * weights.size)]
    np.put(weights, zeros, 0)
    moments = moments.aimed_at(weights)
    mask, updated = _alps(moments, weights, inputs=520, pattern=Unstructured(), sparsity=sparsity, ridge=0.1)
    assert np.count_nonzero(~mask) == len(zeros)
    assert moments.errors(updated).sum() < 1e-5 * moments.energy.sum() / moments.count
