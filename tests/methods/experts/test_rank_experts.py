"""The importance of experts against the formula in NumPy, and what is dropped by it."""

from __future__ import annotations

import numpy as np
import pytest

import tfprune

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")
from hub_cuts import trained  # noqa: E402


def mixtral():
    return trained(hub_models.BACKBONES["MixtralBackbone"])


def by_formula(block, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return REAP and frequency of each expert of Mixtral: gates of the top 2, renormalized, times norms."""
    weights = {weight.path.split("/")[-1]: np.asarray(weight, np.float64) for weight in block.expert_bank.weights}
    router = next(np.asarray(weight, np.float64) for weight in block.weights if "gate_dense/kernel" in weight.path)
    norms, counts, tokens = np.zeros(4), np.zeros(4), x.reshape(-1, x.shape[-1]).astype(np.float64)
    for token in tokens:
        scores = np.exp(token @ router - (token @ router).max())
        scores /= scores.sum()
        top = np.argsort(-scores)[:2]
        for expert in top:
            gate = token @ weights["expert_feedforward_gate_dense"][expert]
            hidden = gate / (1 + np.exp(-gate)) * (token @ weights["expert_feedforward_intermediate_dense"][expert])
            output = hidden @ weights["expert_feedforward_output_dense"][expert]
            norms[expert] += scores[expert] / scores[top].sum() * np.linalg.norm(output)
            counts[expert] += 1
    return norms / np.maximum(counts, 1), counts / len(tokens)


def test_reap_and_frequency_are_those_of_the_formula():
    from tfprune.methods.experts.experts import _moe_layers
    from tfprune.models.graph import hooked_calls

    model, seen = mixtral(), {}
    inputs = hub_models.inputs_for(model, batch=4)
    ranking = tfprune.experts.rank(model, inputs, batch_size=3)
    layers = _moe_layers(model)
    with hooked_calls([layer.layer for layer in layers], lambda layer, x, _: seen.update({id(layer): np.asarray(x)})):
        model(inputs)
    for layer in layers:
        reap, frequency = by_formula(layer.layer, seen[id(layer.layer)][inputs["padding_mask"] == 1])
        rows = [row for row in ranking.rows if row.layer == layer.path]
        np.testing.assert_allclose([row.reap for row in rows], reap, rtol=1e-4)
        np.testing.assert_allclose([row.frequency for row in rows], frequency)
        assert ranking.lowest(2)[layer.path] == tuple(sorted(np.argsort(reap)[:2].tolist()))


def test_other_experts_are_dropped_from_each_layer():
    model = mixtral()
    first, second = tfprune.experts.rank(model, hub_models.inputs_for(model)).lowest(2)
    smaller, report = tfprune.experts.drop(model, {first: (0, 1), second: (1, 3)})
    assert (smaller.num_experts, report.rows[0].experts) == (2, (4, 2))
    kept = {first: [2, 3], second: [0, 2]}
    for weight, whole in zip(smaller.weights, model.weights, strict=True):
        if "/experts/" in whole.path:
            path = next(path for path in kept if path.split("/")[0] in whole.path)
            np.testing.assert_array_equal(weight, np.asarray(whole)[kept[path]])


def test_experts_of_another_model_and_other_numbers_are_refused():
    model = mixtral()
    ranking = tfprune.experts.rank(model, hub_models.inputs_for(model), criterion="frequency")
    first, second = ranking.lowest(1)
    with pytest.raises(ValueError, match=r"drop from each of .*Received: 'other'\. Rank the experts of"):
        tfprune.experts.drop(model, {"other": (0,)})
    with pytest.raises(ValueError, match="the same number of experts in all layers .* Keep 3 in each"):
        tfprune.experts.drop(model, {first: (0,), second: (0, 1)})
    with pytest.raises(ValueError, match="count"):
        ranking.lowest(4)
    with pytest.raises(ValueError, match="top_k"):
        tfprune.experts.drop(model, ranking.lowest(2), top_k=3)
    inputs = {name: np.full_like(array, 1000) for name, array in hub_models.inputs_for(model).items()}
    with pytest.raises(ValueError, match=r"token ids from 0 to \d+ in `samples`. Received: token_ids with 1000"):
        tfprune.experts.rank(model, inputs)
