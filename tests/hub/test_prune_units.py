"""Putri on backbones of KerasHub, on texts of a length that no graph was traced with."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first

import tfprune

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")


def texts(model, count=20, length=9):
    ids = np.random.default_rng(0).integers(1, hub_models.VOCABULARY, (count, length))
    every = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    return {tensor.name: every[tensor.name] for tensor in model.inputs}


@pytest.mark.parametrize("name", first("BertBackbone", "GPT2Backbone", "Gemma3Backbone"))
def test_half_of_the_units_and_a_head_go(name):
    keras.utils.set_random_seed(0)
    model = hub_models.BACKBONES[name]()
    x = texts(model)
    masked, report = tfprune.prune_units(
        model, x, sparsity={"units": 0.5, "heads": 0.25}, batch_size=4, holdout=0, verbose=0
    )
    units = [row for row in report.rows if row.kind == "channels"]
    heads = [row for row in report.rows if row.kind == "heads"]
    assert [(row.channels, row.kept) for row in units] == [(24, 12), (24, 12)]
    assert sum(row.channels - row.kept for row in heads) == round(0.25 * sum(row.channels for row in heads))
    assert all(row.error.after <= row.error.before for row in report.rows)
    assert report.plan.parameters_kept < report.plan.parameters
    zeros = sum(int((np.asarray(weight) == 0).sum()) for weight in masked.weights if len(weight.shape) > 1)
    assert zeros >= 0.9 * (report.plan.parameters - report.plan.parameters_kept)
    assert all(np.isfinite(np.asarray(one)).all() for one in keras.tree.flatten(masked(x)))


@pytest.mark.programs
def test_attention_of_one_key_has_no_hidden_units():
    sizes = {"num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 1, "hidden_dim": 16, "head_dim": 4}
    model = keras_hub.models.Gemma3Backbone(hub_models.VOCABULARY, None, intermediate_dim=24, **sizes)
    parts = {"units": 0.5, "heads": 0.25}
    _, report = tfprune.prune_units(model, texts(model), sparsity=parts, batch_size=4, verbose=0)
    assert [(row.channels, row.kept) for row in report.rows if row.kind == "channels"] == [(24, 12), (24, 12)]
    assert sum(row.channels - row.kept for row in report.rows if row.kind == "heads") == 2  # queries, one by one
    # Of two blocks 12 units in three kernels, and of both together two heads of 4 in two kernels, all of width 16.
    assert report.plan.parameters - report.plan.parameters_kept == 16 * (2 * 12 * 3 + 2 * 4 * 2)


def test_ids_beyond_the_vocabulary():
    model = hub_models.BACKBONES["GPT2Backbone"]()
    x = texts(model)
    x["token_ids"] = x["token_ids"] + hub_models.VOCABULARY
    with pytest.raises(ValueError, match=f"token ids from 0 to {hub_models.VOCABULARY - 1}"):
        tfprune.prune_units(model, x, verbose=0)


@pytest.mark.programs
@pytest.mark.parametrize("method", first("sparsegpt", "wanda"))
@pytest.mark.parametrize("name", first("GPT2Backbone", "Gemma3Backbone"))
def test_two_of_four_weights_of_blocks(name, method):
    keras.utils.set_random_seed(0)
    model = hub_models.BACKBONES[name]()
    sparse, report = tfprune.prune_weights(
        model, texts(model), pattern=tfprune.patterns.NM(2, 4), criterion=method, batch_size=10
    )
    assert type(sparse) is type(model)
    assert len(report.rows) >= 2 * 6 and all(row.after <= row.before for row in report.rows)
    zeros = [np.mean(np.asarray(weight) == 0) for weight in sparse.weights if weight.path.endswith("kernel")]
    assert np.allclose(zeros, 0.5)


@pytest.mark.programs
@pytest.mark.parametrize("shape", first("Gemma 3, 1 key", "Llama, 4 keys", "Qwen 3, 2 keys"))
def test_nearly_all_of_the_blocks_go_and_the_class_stays(shape, tmp_path):
    from hub_extreme import backbone, texts

    model, x = backbone(shape, blocks=3), texts(count=8)
    masked, report = tfprune.prune_units(model, x, sparsity=0.95, judge="perplexity", reconstruction=None, verbose=0)
    assert report.total.is_met and 0 in {row.kept for row in report.rows if row.kind == "heads"}
    smaller = tfprune.shrink(masked, report.plan, into="class")
    assert isinstance(smaller, type(model))
    assert model.count_params() - smaller.count_params() == report.total.removed
    expected = np.asarray(masked(x))
    np.testing.assert_allclose(np.asarray(smaller(x)), expected, atol=1e-5)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_allclose(np.asarray(loaded(x)), expected, atol=1e-5)


@pytest.mark.slow
def test_a_writer_without_an_attention_writes_what_the_masked_one_writes():
    from hub_extreme import backbone, texts

    model = keras_hub.models.LlamaCausalLM(backbone=backbone("Llama, 2 keys", blocks=2), preprocessor=None)
    x = texts(count=4)
    masked, report = tfprune.prune_units(
        model, x, sparsity={"units": 0.5, "heads": 0.5}, judge="perplexity", reconstruction=None, verbose=0
    )
    smaller = tfprune.shrink(masked, report.plan, into="class")
    prompts = {name: array[:2].copy() for name, array in x.items()}
    prompts["padding_mask"][:, 4:] = 0
    masked.compile(sampler="greedy", run_eagerly=True)
    smaller.compile(sampler="greedy", run_eagerly=True)
    written = [task.generate(dict(prompts), stop_token_ids=None)["token_ids"] for task in (masked, smaller)]
    np.testing.assert_array_equal(*map(np.asarray, written))


@pytest.mark.programs
def test_a_graph_of_fixed_sizes_loses_an_attention():
    from hub_extreme import backbone, texts

    model, x = backbone("Gemma 3, 1 key", blocks=2), texts(count=4)
    inputs = {name: keras.Input(batch_shape=array.shape, dtype="int32", name=name) for name, array in x.items()}
    fixed = keras.Model(inputs, model(inputs))
    masked, report = tfprune.prune_units(
        fixed, x, sparsity={"units": 0.5, "heads": 0.5}, reconstruction=None, verbose=0
    )
    smaller = tfprune.shrink(masked, report.plan, into="graph")
    np.testing.assert_allclose(np.asarray(smaller(x)), np.asarray(masked(x)), atol=1e-5)
    names = [layer.name for layer in smaller.layers]
    assert sum(name.endswith("attention_output") for name in names) == 1
    assert sum(name.endswith("post_attention_norm") for name in names) == 1
