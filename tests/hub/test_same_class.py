"""Smaller models of the same class: equal to the masked ones, saved and loaded, and writing the same text."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import tfprune
import tfprune.export

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")

EVEN = {"sparsity": 0.5}
# Blocks that keep different numbers: all heads and half of the units of the first, half of the heads of the second.
UNEVEN = {"sparsity": 0.25, "allocation": {"0.*heads": 0.0, "1.*heads": 0.5, "0_": 0.5, "": 0.0}}


def trained(make) -> keras.Model:
    """Return a model whose weights are none of them zero or one, as those of norms are at first."""
    keras.utils.set_random_seed(0)
    model = make()
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * keras.random.normal(variable.shape, dtype=variable.dtype))
    return model


def arrays(outputs) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def assert_equal(model: keras.Model, reference: keras.Model, inputs) -> None:
    for ours, theirs in zip(arrays(model(inputs)), arrays(reference(inputs)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("settings", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", ["BertBackbone", "GPT2Backbone", "Gemma3Backbone", "WhisperBackbone"])
def test_the_smaller_model_is_of_the_same_class_and_equals_the_masked_one(name, settings, tmp_path):
    model = trained(hub_models.BACKBONES[name])
    inputs = hub_models.inputs_for(model)
    plan = tfprune.plan_shrink(model, **settings)
    smaller = tfprune.shrink(model, plan, into="class")
    assert isinstance(smaller, type(model))
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    assert_equal(smaller, tfprune.zero_channels(model, plan), inputs)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    assert isinstance(loaded, type(model))
    assert_equal(loaded, smaller, inputs)


@pytest.mark.parametrize("settings", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", ["GPT2CausalLM", "Gemma3CausalLM", "LlamaCausalLM", "MixtralCausalLM"])
def test_the_smaller_task_writes_what_the_masked_one_writes(name, settings):
    model = trained(hub_models.TASKS[name])
    plan = tfprune.plan_shrink(model, **settings)
    model.compile(sampler="greedy")
    masked, smaller = tfprune.zero_channels(model, plan), tfprune.shrink(model, plan, into="class")
    assert smaller.count_params() < model.count_params()
    texts = []
    for task in (masked, smaller):
        texts.append([task.generate(prompt, max_length=14) for prompt in hub_models.TEXTS])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("name", "settings"), [("Gemma3CausalLM", EVEN), ("LlamaCausalLM", UNEVEN)], ids=["even", "uneven"]
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
    texts = [task.generate(hub_models.TEXTS, max_length=12) for task in (smaller, masked)]
    assert texts[0] == texts[1]


def test_a_smaller_model_takes_lora_and_integers():
    model = trained(hub_models.BACKBONES["Gemma3Backbone"])
    inputs = hub_models.inputs_for(model)
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, **UNEVEN), into="class")
    before = arrays(smaller(inputs))[0]
    smaller.enable_lora(2)
    np.testing.assert_allclose(arrays(smaller(inputs))[0], before, atol=1e-5)  # its second factor begins with zeros
    assert len(smaller.trainable_variables) > 0
    quantized = tfprune.shrink(model, tfprune.plan_shrink(model, **UNEVEN), into="class")
    quantized.quantize("int8")
    assert np.abs(arrays(quantized(inputs))[0] - before).max() < 0.1 * np.abs(before).max()


def test_a_smaller_model_is_wrapped_stripped_and_shrunk_again():
    model = trained(hub_models.BACKBONES["GPT2Backbone"])
    inputs = hub_models.inputs_for(model)
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, **UNEVEN))
    wrapped = tfprune.wrap(smaller)
    assert_equal(wrapped, smaller, inputs)
    tfprune.update_masks(wrapped, 0.5)
    assert_equal(tfprune.strip(wrapped), wrapped, inputs)
    plan = tfprune.plan_shrink(smaller, 0.5)
    assert_equal(tfprune.shrink(smaller, plan), tfprune.zero_channels(smaller, plan), inputs)


def test_layers_of_the_graph_itself_get_smaller_too():
    model = trained(hub_models.BACKBONES["ResNetBackbone"])
    plan = tfprune.plan_shrink(model, 0.5)
    smaller = tfprune.shrink(model, plan, into="class")
    assert isinstance(smaller, type(model))
    assert_equal(smaller, tfprune.zero_channels(model, plan), hub_models.inputs_for(model))


def test_inputs_of_fixed_sizes_give_a_graph_that_is_exported(tmp_path):
    backbone = trained(hub_models.BACKBONES["Gemma3Backbone"])
    inputs = {x.name: keras.Input((8,), batch_size=1, dtype="int32", name=x.name) for x in backbone.inputs}
    model = keras.Model(inputs, backbone(inputs))
    plan = tfprune.plan_shrink(model, **UNEVEN)
    smaller = tfprune.shrink(model, plan)
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    numbers = {name: np.ones((1, 8), "int32") for name in inputs}
    assert_equal(smaller, tfprune.zero_channels(model, plan), numbers)
    tfprune.export.to_tflite(smaller, tmp_path / "smaller.tflite")
    assert (tmp_path / "smaller.tflite").stat().st_size > 4 * plan.parameters_kept
