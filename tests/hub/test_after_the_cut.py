"""What becomes of a smaller model of KerasHub: LoRA from before and after the cut, integers, files and presets."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from hub_cuts import EVEN, UNEVEN, arrays, assert_equal, trained
from tiers import first

import tfprune

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")

UNITS = {"sparsity": 0.5, "filters": "feedforward_intermediate"}


def smaller_of(model: keras.Model, **settings) -> keras.Model:
    return tfprune.shrink(model, tfprune.plan_shrink(model, **settings), into="class")


@pytest.mark.programs
@pytest.mark.parametrize("name, settings", first(("BertBackbone", UNEVEN), ("Gemma3Backbone", EVEN)))
def test_lora_is_cut_with_its_kernels_and_comes_back_after_the_cut(name, settings, tmp_path):
    model, generator = trained(hub_models.BACKBONES[name]), np.random.default_rng(0)
    lost = [row for row in tfprune.plan_shrink(model, **settings).rows if row.kept < row.channels]
    assert {row.kind for row in lost} == {"channels", "heads"}
    settings = {"sparsity": 0.5, "criterion": {row.group: generator.random(row.channels) for row in lost}}
    cut_before = smaller_of(model, **settings)
    model.enable_lora(2)
    for weight in model.weights:
        if weight.name.startswith("lora_"):
            weight.assign(generator.normal(size=weight.shape))
    model.save(tmp_path / "dense.keras")
    merged = keras.models.load_model(tmp_path / "dense.keras")  # Keras adds the factors to the kernels that it saves
    smaller, inputs = smaller_of(model, **settings), hub_models.inputs_for(model)
    assert_equal(smaller, smaller_of(merged, **settings), inputs)
    trained_names = [[weight.name for weight in one.trainable_weights] for one in (smaller, model)]
    assert trained_names[0] == trained_names[1]
    smaller.save_lora_weights(tmp_path / "factors.lora.h5")
    cut_before.load_lora_weights(tmp_path / "factors.lora.h5")
    assert_equal(cut_before, smaller, inputs)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    assert_equal(loaded, smaller, inputs)
    assert len(loaded.trainable_weights) == len(merged.weights)
    loaded.enable_lora(2)
    assert_equal(loaded, smaller, inputs)  # their second factors begin with zeros


@pytest.mark.programs
def test_integers_are_saved_and_loaded(tmp_path):
    smaller = smaller_of(trained(hub_models.BACKBONES["GPT2Backbone"]), **UNEVEN)
    inputs = hub_models.inputs_for(smaller)
    (before,) = arrays(smaller(inputs))
    smaller.quantize("int8")
    (after,) = arrays(smaller(inputs))
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    smaller.save(tmp_path / "integers.keras")
    loaded = keras.models.load_model(tmp_path / "integers.keras")
    for model in (smaller, loaded):  # the embedding, and six kernels in each of two blocks
        assert sum(weight.dtype == "int8" for weight in model.weights) == 13
    assert_equal(loaded, smaller, inputs)


@pytest.mark.programs
@pytest.mark.parametrize(
    "name, settings", first(("MistralBackbone", EVEN), ("BertTextClassifier", UNITS), ("Gemma3CausalLM", EVEN))
)
def test_a_preset_holds_what_the_arguments_of_a_class_say(name, settings, tmp_path):
    model = trained((hub_models.BACKBONES | hub_models.TASKS)[name])
    smaller = smaller_of(model, **settings)
    assert smaller.count_params() < model.count_params()
    smaller.save_to_preset(str(tmp_path))
    loaded = type(model).from_preset(str(tmp_path))
    assert type(loaded) is type(smaller) is type(model)
    assert_equal(loaded, smaller, hub_models.inputs_for(model))
    if hasattr(model, "generate"):
        for task in (loaded, smaller):
            task.compile(sampler="greedy", run_eagerly=True)
        assert loaded.generate(hub_models.TEXTS) == smaller.generate(hub_models.TEXTS)


@pytest.mark.parametrize("name", first("BertBackbone", "GPT2CausalLM"))
def test_a_preset_of_blocks_that_keep_different_numbers_is_refused(name, tmp_path):
    smaller = smaller_of(trained((hub_models.BACKBONES | hub_models.TASKS)[name]), **UNEVEN)
    with pytest.raises(ValueError, match=r"its arguments describe.*Received: a (Bert|GPT2)Backbone.*save\('model"):
        smaller.save_to_preset(str(tmp_path))


@pytest.mark.programs
def test_the_refusal_names_what_differs_by_block_for_a_task_too(tmp_path):
    smaller = smaller_of(trained(hub_models.TASKS["GPT2CausalLM"]), **UNEVEN)
    layer = r"transformer_layer_{}/self_attention/query has \(16, {}, 4\)"
    blocks = f"{layer.format(0, 4)} and .*{layer.format(1, 2)}"
    for write in (smaller.export_to_transformers, smaller.save_to_preset):
        with pytest.raises(ValueError, match=rf"{blocks}; .*uniform=True\)"):
            write(str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()


@pytest.mark.programs
def test_heads_whose_size_kerashub_derives_are_not_exported_with_a_wrong_one(tmp_path):
    backbone = trained(hub_models.BACKBONES["MistralBackbone"])
    wrong = r"a MistralBackbone with 2 heads of 4 channels, for which KerasHub writes a head_dim of 8\. Remove units"
    for model in (backbone, keras_hub.models.MistralCausalLM(backbone=backbone)):
        with pytest.raises(ValueError, match=wrong):
            smaller_of(model, **EVEN).export_to_transformers(str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()


UNEQUAL = {"sparsity": 0.5, "allocation": {"_0_": 0.25, "": 0.5}}  # a block loses less than the other


@pytest.mark.programs
@pytest.mark.parametrize("name", first("MistralBackbone", "GemmaBackbone", "Gemma3CausalLM"))
def test_uniform_keeps_the_best_channels_of_each_block_and_a_preset(name, tmp_path):
    model = trained((hub_models.BACKBONES | hub_models.TASKS)[name])
    plan, reference = tfprune.plan_shrink(model, **UNEQUAL), smaller_of(model, sparsity=0.25)
    smaller = tfprune.shrink(model, plan, into="class", uniform=True)
    assert type(smaller) is type(model)
    assert plan.parameters_kept < smaller.count_params() == reference.count_params()
    assert_equal(smaller, reference, hub_models.inputs_for(model))  # where all blocks lose what one of them lost
    smaller.save_to_preset(str(tmp_path))
    assert_equal(type(model).from_preset(str(tmp_path)), smaller, hub_models.inputs_for(model))


@pytest.mark.programs
def test_uniform_blocks_that_the_arguments_do_not_count_are_refused():
    model = trained(hub_models.BACKBONES["GPT2Backbone"])
    plan = tfprune.plan_shrink(model, **UNEQUAL)
    with pytest.raises(ValueError, match=r"arguments of GPT2Backbone can describe.*GPT2Backbone makes.*as units"):
        tfprune.shrink(model, plan, uniform=True)


@pytest.mark.programs
@pytest.mark.parametrize("name, filters", [("Gemma3", None), ("Mistral", "feedforward"), ("GPT2", "feedforward")])
def test_the_configuration_of_an_export_counts_what_uniform_blocks_have(name, filters, tmp_path):
    pytest.importorskip("safetensors", reason="KerasHub's export needs the package safetensors")
    model = trained(hub_models.BACKBONES[f"{name}Backbone"])
    plan = tfprune.plan_shrink(model, **UNEQUAL, filters=filters)
    tfprune.shrink(model, plan, into="class", uniform=True).export_to_transformers(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    content = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    shapes = {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}

    def made(suffix: str, axis: int) -> list[int]:
        return [shape[axis] for key, shape in shapes.items() if key.endswith(f"{suffix}.weight")]

    units = 18  # of 24
    if name == "GPT2":
        assert [config["n_inner"]] * 2 == made("c_fc", 1) == [units] * 2
        return
    heads = [config[f"num_{part}_heads"] * config["head_dim"] for part in ("attention", "key_value")]
    assert [config["intermediate_size"]] * 2 == made("gate_proj", 0) == [units] * 2
    assert [[size] * 2 for size in heads] == [made("q_proj", 0), made("k_proj", 0)]


@pytest.mark.programs
@pytest.mark.parametrize("name", first("Mistral", "GPT2"))
def test_an_export_to_transformers_of_blocks_that_keep_different_numbers_is_refused(name, tmp_path):
    smaller = smaller_of(trained(hub_models.BACKBONES[f"{name}Backbone"]), **UNEVEN)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    task = getattr(keras_hub.models, f"{name}CausalLM")(backbone=loaded, preprocessor=None)
    refusal = rf"the configuration of a Transformers model holds.*Received: a {name}Backbone in which"
    others = rf"Export to Transformers format not implemented for {name}BackboneOfUnequalBlocks"  # KerasHub's own
    for model, text in ((smaller, refusal), (loaded, refusal), (task, others)):
        with pytest.raises(ValueError, match=text):
            model.export_to_transformers(str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()
