"""Reconstruction and ranking of KerasHub's backbones, which are classes around graphs of blocks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first

import tfprune
from tfprune.masking.strip import flat_copy
from tfprune.models.anatomy import Anatomy

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")

NAMES = first("BertBackbone", "GPT2Backbone", "Gemma3Backbone")


def texts(model, count=24, length=10):
    ids = np.random.default_rng(0).integers(1, hub_models.VOCABULARY, (count, length))
    ones = np.ones_like(ids)
    every = {"token_ids": ids, "padding_mask": ones, "segment_ids": 0 * ones}
    return {tensor.name: every[tensor.name] for tensor in model.inputs}


def outputs(model, x):
    return [keras.ops.convert_to_numpy(one).astype(float) for one in keras.tree.flatten(model(x))]


def without_units(model, part):
    """Remove units of feed-forward networks by zeros, as the dependency graph says."""
    copy = hub_models.BACKBONES[type(model).__name__]()
    copy.set_weights(model.get_weights())
    found = flat_copy(Anatomy.of(copy))
    network = found.network
    keep = network.all_kept()
    for group in network.groups:
        free = group.bundles[group.free]
        if group.kind == "channels" and free.size:
            keep[free[: int(part * free.size)]] = False
    for weight, variable in network.variables(found.model):
        target = found.sources[id(variable)].variable
        target.assign(keras.ops.convert_to_numpy(target) * weight.mask(keep))
    return copy


@pytest.mark.programs
@pytest.mark.parametrize("targets", first("own", "dense"))
@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_solved_kernel_by_kernel(name, targets):
    model = hub_models.randomized(name)
    pruned, x = without_units(model, 0.4), texts(model)
    before = pruned.get_weights()
    better, report = tfprune.reconstruct(pruned, model, x, targets=targets, batch_size=8)
    assert all(row.after <= row.before for row in report.rows)
    solved = [row for row in report.rows if row.after < 0.95 * row.before]
    assert len({row.layer for row in solved}) >= 2
    errors = [
        sum(np.sum((a - b) ** 2) for a, b in zip(outputs(one, x), outputs(model, x), strict=True))
        for one in (better, pruned)
    ]
    assert errors[0] < errors[1]
    for one, other in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_units_are_ranked_on_texts_of_any_length(name):
    model = hub_models.randomized(name)
    ranks = tfprune.rank_channels(model, texts(model, count=6, length=12)).scores
    assert len(ranks) == 2
    assert all(np.isfinite(scores).all() and len(set(scores)) > 10 for scores in ranks.values())


@pytest.mark.programs
def test_layers_that_keras_numbers_anew_in_a_copy_find_their_partners():
    """A block of DeepLab makes models in its code; and where nobody says that it is not in training, it trains."""
    keras.utils.set_random_seed(0)
    model = hub_models.BACKBONES["DeepLabV3Backbone"]()
    images, before = hub_models.inputs_for(model), model.get_weights()
    plan = tfprune.plan_shrink(model, 0.5)
    masked, smaller = tfprune.zero_channels(model, plan), tfprune.shrink(model, plan)
    expected = np.asarray(masked(images, training=False))
    np.testing.assert_allclose(np.asarray(smaller(images, training=False)), expected, atol=1e-5)
    better, report = tfprune.reconstruct(masked, model, hub_models.inputs_for(model, batch=4, seed=1), batch_size=2)
    solved = {f"{row.layer}/{row.weight}".split("/")[-2]: row for row in report.rows}
    assert {"aspp_conv_1", "aspp_conv_2", "conv_projection"} <= solved.keys()
    assert all(solved[name].after < 0.1 * solved[name].before for name in ("aspp_conv_1", "aspp_conv_2"))
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
