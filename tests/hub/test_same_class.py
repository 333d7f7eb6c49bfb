"""Smaller models of the same class, family by family: equal to the masked ones, saved, loaded, writing the same."""

from __future__ import annotations

import functools
import warnings

import keras
import numpy as np
import pytest
from hub_cuts import EVEN, UNEVEN, assert_equal, trained
from tiers import first, in_test_all, in_test_ci

import tfprune
import tfprune.export

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")


@pytest.mark.parametrize(
    "name, settings",
    first(
        *[(name, UNEVEN) for name in ("Bert", "DistilBert", "Roberta", "ViT", "DeiT", "DINOV2", "Whisper")],
        ("Bert", EVEN),
    ),
    ids=lambda value: value if isinstance(value, str) else "even" if value is EVEN else "uneven",
)
def test_a_backbone_stays_its_class_and_equals_the_masked_one(name, settings, tmp_path):
    model = trained(hub_models.BACKBONES[f"{name}Backbone"])
    plan = tfprune.plan_shrink(model, **settings)
    assert_stays_its_class(model, plan, tmp_path)


def assert_stays_its_class(model, plan, folder):
    """Check the smaller model against the masked one, saved and loaded, too, and return both."""
    smaller, masked = tfprune.shrink(model, plan, into="class"), tfprune.zero_channels(model, plan)
    inputs = hub_models.inputs_for(model)
    assert isinstance(smaller, type(model))
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    assert_equal(smaller, masked, inputs)
    smaller.save(folder / "smaller.keras")
    loaded = keras.models.load_model(folder / "smaller.keras")
    assert isinstance(loaded, type(model))
    assert_equal(loaded, smaller, inputs)
    return smaller, masked


@pytest.mark.slow
def test_t5_keeps_heads_whose_bias_is_a_weight_of_its_first_layers():
    model = trained(hub_models.BACKBONES["T5Backbone"])
    plan = tfprune.plan_shrink(model, 0.5)
    lost = {row.group: (row.channels, row.kept) for row in plan.rows if row.kept < row.channels}
    sides = ("encoder", "decoder")
    assert lost == {f"transformer_{side}_layer_1_input_projector": (24, 12) for side in sides}
    reasons = " ".join(skipped.reason for skipped in plan.skipped)
    assert "its code cannot be traced: All operation outputs must be tensors" in reasons
    assert "(in t5_transformer_layer.py, line" in reasons
    smaller = tfprune.shrink(model, plan, into="class")
    assert isinstance(smaller, type(model))
    assert_equal(smaller, tfprune.zero_channels(model, plan), hub_models.inputs_for(model))


SOFT_CAPS = {"attention_logit_soft_cap": 50.0, "final_logit_soft_cap": 30.0, "query_head_dim_normalize": False}
GEMMA_2 = {**SOFT_CAPS, "use_post_ffw_norm": True, "use_post_attention_norm": True}
GEMMA_2 |= {"use_sliding_window_attention": True, "sliding_window_size": 4}


def writer(family: str) -> keras.Model:
    """Return a tiny causal language model that takes token ids."""
    if family == "Gemma2":
        backbone = functools.partial(keras_hub.models.GemmaBackbone, **hub_models.GROUPED, head_dim=4, **GEMMA_2)
    else:
        backbone = hub_models.BACKBONES[f"{family.replace('Qwen2', 'Qwen')}Backbone"]
    task = getattr(keras_hub.models, f"{family.replace('Gemma2', 'Gemma')}CausalLM")
    return trained(lambda: task(backbone=backbone(), preprocessor=None))


@pytest.mark.slow  # the tests of tasks write, too
@pytest.mark.parametrize(
    "family", ["Mistral", "OPT", "Llama", "Llama3", "GPT2", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Phi3"]
)
def test_a_writer_stays_its_class_and_writes_what_the_masked_one_writes(family, tmp_path):
    model = writer(family)
    plan = tfprune.plan_shrink(model, **UNEVEN)
    smaller, masked = assert_stays_its_class(model, plan, tmp_path)
    assert type(smaller) is type(model)
    prompts = np.array([[5, 9, 7, 0], [8, 3, 30, 21]], "int32")
    inputs = {"token_ids": np.pad(prompts, ((0, 0), (0, 8))), "padding_mask": np.pad(prompts > 0, ((0, 0), (0, 8)))}
    masked.compile(sampler="greedy", run_eagerly=True)
    smaller.compile(sampler="greedy")
    texts = [task.generate(dict(inputs), stop_token_ids=None)["token_ids"] for task in (masked, smaller)]
    assert np.count_nonzero(texts[0]) > np.count_nonzero(prompts)
    np.testing.assert_array_equal(*map(np.asarray, texts))


@pytest.mark.parametrize(
    "name, settings",
    first(
        pytest.param("Gemma3CausalLM", UNEVEN, id="Gemma3CausalLM-uneven"),
        pytest.param("GPT2CausalLM", EVEN, id="GPT2CausalLM-even"),
        pytest.param("Gemma3CausalLM", EVEN, id="Gemma3CausalLM-even"),
        pytest.param("MixtralCausalLM", UNEVEN, id="MixtralCausalLM-uneven"),
    ),
)
@pytest.mark.programs
def test_a_task_of_texts_writes_what_the_masked_one_writes(name, settings, tmp_path):
    model = trained(hub_models.TASKS[name])
    model.compile(sampler="greedy")  # which the copies keep
    plan = tfprune.plan_shrink(model, **settings)
    smaller, masked = assert_stays_its_class(model, plan, tmp_path)
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    for task in (masked, loaded):
        task.compile(sampler="greedy", run_eagerly=True)  # which takes less time than compiling
    texts = [task.generate(hub_models.TEXTS, max_length=14) for task in (masked, smaller, loaded)]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.programs
@pytest.mark.parametrize(
    ("name", "settings"), first(("LlamaCausalLM", UNEVEN), ("Gemma3CausalLM", EVEN)), ids=["uneven", "even"]
)
def test_queries_that_share_their_only_key_go_one_by_one(name, settings):
    model = trained(functools.partial(hub_models.TASKS[name], num_key_value_heads=1))
    plan = tfprune.plan_shrink(model, **settings)
    heads = [row.kept for row in plan.rows if row.kind == "heads"]
    assert heads == ([2, 2] if settings is EVEN else [4, 2])
    model.compile(sampler="greedy")
    masked, smaller = tfprune.zero_channels(model, plan), tfprune.shrink(model, plan, into="class")
    assert isinstance(smaller, type(model))
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    assert_equal(smaller, masked, hub_models.inputs_for(model))
    masked.compile(sampler="greedy", run_eagerly=True)  # which takes less time than compiling
    texts = [task.generate(hub_models.TEXTS, max_length=12) for task in (smaller, masked)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_smaller_task_is_wrapped_stripped_and_shrunk_again():
    model = trained(hub_models.TASKS["GPT2CausalLM"])
    inputs = hub_models.inputs_for(model)
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, **UNEVEN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = tfprune.wrap(smaller)
    assert isinstance(wrapped, type(model))
    assert_equal(wrapped, smaller, inputs)
    tfprune.update_masks(wrapped, 0.5)
    stripped = tfprune.strip(wrapped)
    assert_equal(stripped, wrapped, inputs)
    plan = tfprune.plan_shrink(stripped, 0.5)
    smallest, masked = tfprune.shrink(stripped, plan, into="class"), tfprune.zero_channels(stripped, plan)
    assert smallest.count_params() < smaller.count_params()
    for task in (smallest, masked):
        task.compile(sampler="greedy", run_eagerly=True)
    assert_equal(smallest, masked, inputs)
    assert smallest.generate(hub_models.TEXTS, max_length=14) == masked.generate(hub_models.TEXTS, max_length=14)


def test_layers_of_the_graph_itself_get_smaller_too():
    model = trained(hub_models.BACKBONES["ResNetBackbone"])
    plan = tfprune.plan_shrink(model, 0.5)
    smaller = tfprune.shrink(model, plan, into="class")
    assert isinstance(smaller, type(model))
    assert_equal(smaller, tfprune.zero_channels(model, plan), hub_models.inputs_for(model))


@pytest.mark.parametrize("is_exported", [in_test_ci(False), in_test_all(True)], ids=["compared", "exported"])
def test_inputs_of_fixed_sizes_give_a_graph_that_is_exported(is_exported, tmp_path):
    backbone = trained(hub_models.BACKBONES["Gemma3Backbone"])
    inputs = {x.name: keras.Input((8,), batch_size=1, dtype="int32", name=x.name) for x in backbone.inputs}
    model = keras.Model(inputs, backbone(inputs))
    plan = tfprune.plan_shrink(model, **UNEVEN)
    smaller = tfprune.shrink(model, plan)
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    numbers = {name: np.ones((1, 8), "int32") for name in inputs}
    assert_equal(smaller, tfprune.zero_channels(model, plan), numbers)
    if is_exported:
        tfprune.export.to_tflite(smaller, tmp_path / "smaller.tflite")
        assert (tmp_path / "smaller.tflite").stat().st_size > 4 * plan.parameters_kept
