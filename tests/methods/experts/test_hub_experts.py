"""Mixtures of experts of KerasHub keep their class."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from hub_cuts import arrays, assert_equal, assert_origins, trained
from tiers import first

import tfprune

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")


@pytest.mark.parametrize("name", first("Mixtral", "QwenMoe", "Qwen3Moe"))
def test_a_backbone_with_twice_the_experts_computes_the_same(name, tmp_path):
    model = trained(hub_models.BACKBONES[f"{name}Backbone"])
    x = hub_models.inputs_for(model)
    grown, report = tfprune.experts.grow(model, 2, noise=0, samples=(x,))
    assert type(grown) is type(model)
    assert (grown.num_experts, grown.top_k, report.is_function_preserving) == (8, 4, True)
    assert_origins(model, grown, report.origins)
    sizes = {weight.path: math.prod(weight.shape) for weight in model.weights}
    of_experts = sum(size for path, size in sizes.items() if "/experts/" in path)
    assert 0 < of_experts < sum(sizes.values())
    assert tfprune.growth.growth_compute(model).active_parameters == sum(sizes.values()) - of_experts // 2
    ours, theirs = arrays(grown(x)), arrays(model(x))
    assert max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)) <= 1e-5
    grown.save(tmp_path / "grown.keras")
    assert_equal(keras.models.load_model(tmp_path / "grown.keras"), grown, x)
    back, _ = tfprune.experts.drop(grown, report.copies, top_k=2)
    assert all(np.array_equal(*pair) for pair in zip(back.get_weights(), model.get_weights(), strict=True))


def test_a_wrapped_backbone_keeps_its_masks():
    model = tfprune.wrap(trained(hub_models.BACKBONES["MixtralBackbone"]))
    tfprune.update_masks(model, 0.5)
    x = hub_models.inputs_for(model)
    grown, report = tfprune.experts.grow(model, 2, noise=0.01)
    assert all(row.nnz[1] == 2 * row.nnz[0] for row in report.rows)
    rows = {(row.layer, row.weight): row.nnz for row in tfprune.sparsity_report(model).rows}
    for row in tfprune.sparsity_report(grown).rows:
        is_of_experts = "moe" in row.weight or "moe" in row.layer
        assert row.nnz == rows[row.layer, row.weight] * (2 if is_of_experts else 1)
    plain = tfprune.strip(grown)
    assert type(plain).__name__ == "MixtralBackbone"
    assert_equal(plain, grown, x)


@pytest.mark.programs
def test_a_task_keeps_its_preprocessor_and_writes():
    model = hub_models.TASKS["MixtralCausalLM"]()
    smaller, report = tfprune.experts.drop(model, [0, 3])
    assert (type(smaller), report.rows[0].experts) == (type(model), (4, 2))
    assert smaller.generate(hub_models.TEXTS[0], max_length=12)


def test_a_router_that_cannot_be_found_is_named():
    model = hub_models.BACKBONES["MixtralBackbone"]()
    block = model.transformer_layers[0]._sparse_moe_block
    block._sparse_feedforward_gate_dense.name = "other"
    with pytest.raises(ValueError, match="Expected a router and experts in .*: no router among its weights"):
        tfprune.experts.grow(model)
