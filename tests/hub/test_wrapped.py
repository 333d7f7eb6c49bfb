"""Backbones and tasks of KerasHub under masks: they stay what they are, and the zeros go back into their class."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first

import tfprune
from tfprune.schedules import Constant

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")


def outputs(model: keras.Model, inputs) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(model(inputs))]


@pytest.mark.programs
@pytest.mark.parametrize("name", first("GPT2CausalLM", "BertTextClassifier", "GemmaCausalLM", "MixtralCausalLM"))
def test_a_task_is_wrapped_fitted_on_texts_saved_and_stripped(name, tmp_path):
    keras.utils.set_random_seed(0)
    task = hub_models.TASKS[name]()
    wrapped = tfprune.wrap(task)
    assert isinstance(wrapped, type(task))
    assert wrapped.preprocessor is task.preprocessor
    writes = hasattr(task, "generate")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped.compile(optimizer="adam", loss=loss, **({"sampler": "greedy"} if writes else {}))
    labels = {} if writes else {"y": np.array([0, 1, 0])}
    pruning = tfprune.PruningCallback(Constant(0.5))
    wrapped.fit(hub_models.TEXTS, **labels, batch_size=2, epochs=2, verbose=0, callbacks=[pruning])
    report = tfprune.sparsity_report(wrapped)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    wrapped.save(tmp_path / "wrapped.keras")
    stripped, loaded = tfprune.strip(wrapped), keras.models.load_model(tmp_path / "wrapped.keras")
    assert type(stripped) is type(task)
    stripped.save_to_preset(tmp_path / "preset")
    preset = type(task).from_preset(str(tmp_path / "preset"))
    inputs = hub_models.inputs_for(task)
    for one in (stripped, loaded, preset):
        np.testing.assert_array_equal(outputs(one, inputs), outputs(wrapped, inputs))
    assert tfprune.sparsity_report(loaded).nnz == report.nnz == tfprune.sparsity_report(stripped).nnz
    if writes:
        texts = wrapped.generate(hub_models.TEXTS, max_length=12)
        for task in (loaded, preset):
            task.compile(sampler="greedy", run_eagerly=True)  # which takes less time than compiling
        for task in (stripped, loaded, preset):
            assert task.generate(hub_models.TEXTS, max_length=12) == texts


@pytest.mark.parametrize("name", first("MixtralBackbone", "GptOssBackbone", "QwenMoeBackbone", "RWKV7Backbone"))
def test_hardly_a_weight_of_experts_and_mixers_is_left_out(name):
    model = hub_models.BACKBONES[name]()
    matrices = [weight for weight in model.weights if len(weight.shape) >= 2 and "bias" not in weight.name]
    size = tfprune.sparsity_report(tfprune.wrap(model)).size
    assert size >= 0.99 * sum(np.prod(weight.shape) for weight in matrices)


def test_lora_comes_before_wrap_or_after_strip():
    model = hub_models.BACKBONES["BertBackbone"]()
    inputs = hub_models.inputs_for(model)
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    with pytest.raises(ValueError, match="Strip first"):
        wrapped.enable_lora(2)
    with pytest.raises(ValueError, match="Strip first"):
        wrapped.quantize("int8")
    stripped = tfprune.strip(wrapped)
    stripped.enable_lora(2)
    for before, after in zip(outputs(wrapped, inputs), outputs(stripped, inputs), strict=True):
        np.testing.assert_array_equal(before, after)
    again = tfprune.wrap(stripped)
    assert len(again.trainable_weights) == len(stripped.trainable_weights)
    assert any("factors of LoRA" in skipped.reason for skipped in tfprune.sparsity_report(again).skipped)
    for before, after in zip(outputs(wrapped, inputs), outputs(tfprune.strip(again), inputs), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_task_is_wrapped_in_place_without_a_second_copy_of_its_weights():
    task = hub_models.TASKS["GPT2CausalLM"]()
    weights, inputs = {id(weight) for weight in task.weights}, hub_models.inputs_for(task)
    before = outputs(task, inputs)
    assert tfprune.wrap(task, in_place=True, latent="zero") is task
    assert weights <= {id(weight) for weight in task.weights}
    np.testing.assert_array_equal(outputs(task, inputs), before)
    tfprune.update_masks(task, 0.5)
    np.testing.assert_array_equal(outputs(tfprune.strip(task), inputs), outputs(task, inputs))


@pytest.mark.programs
def test_layers_of_a_backbone_whose_configuration_fails_are_copied_by_their_attributes(tmp_path):
    llama = hub_models.BACKBONES["LlamaBackbone"]()
    model = keras.Model(llama.input, llama.token_embedding(llama.output, reverse=True))
    inputs = hub_models.inputs_for(llama)
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(outputs(wrapped, inputs)[0], outputs(model, inputs)[0])
    tfprune.update_masks(wrapped, 0.5)
    assert tfprune.sparsity_report(wrapped).sparsity == pytest.approx(0.5, abs=0.01)
    assert tfprune.sparsity_report(model).sparsity < 0.01
    stripped = tfprune.strip(wrapped)
    np.testing.assert_array_equal(outputs(stripped, inputs)[0], outputs(wrapped, inputs)[0])
    wrapped.save_weights(tmp_path / "some.weights.h5")
    again = tfprune.wrap(model)
    again.load_weights(tmp_path / "some.weights.h5")
    np.testing.assert_array_equal(outputs(again, inputs)[0], outputs(wrapped, inputs)[0])
