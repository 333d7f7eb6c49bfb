"""Backbones and tasks of KerasHub with other numbers of blocks, of the same class where its arguments can say so."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hub_cuts import arrays, assert_equal, assert_origins, trained
from tiers import first

import tfprune

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")


def backbone(name, **settings):
    make = hub_models.BACKBONES[f"{name}Backbone"]
    return trained(lambda: make(**settings))


@pytest.mark.programs
@pytest.mark.parametrize("name", first("Llama", "Mixtral", "GPT2"))
def test_a_backbone_grows_as_its_class_with_copies_that_hand_on_what_they_read(name, tmp_path):
    model = backbone(name)
    x = hub_models.inputs_for(model)
    grown, report = tfprune.growth.grow_depth(model, 2, zero_output=True, samples=(x,))
    assert type(grown) is type(model)
    assert (report.into, report.order, grown.num_layers) == ("class", (0, 0, 1, 1), 4)
    assert (
        max(np.abs(one - other).max() for one, other in zip(arrays(grown(x)), arrays(model(x)), strict=True)) <= 1e-6
    )
    words = " ".join(report.rows[1].zeroed)
    assert "attention" in words
    assert not any(part in words for part in ("query", "key", "value", "gate_dense"))
    grown.save(tmp_path / "grown.keras")
    assert_equal(keras.models.load_model(tmp_path / "grown.keras"), grown, x)
    back, _ = tfprune.transformers.drop_blocks(grown, report.copies)
    assert type(back) is type(model)
    assert all(np.array_equal(*pair) for pair in zip(back.get_weights(), model.get_weights(), strict=True))


def test_bert_normalizes_after_the_sum_and_cannot_be_zeroed():
    with pytest.raises(ValueError, match="as a normalization after the sum does"):
        tfprune.growth.grow_depth(backbone("Bert"), zero_output=True)


@pytest.mark.programs
def test_a_wrapped_backbone_keeps_its_class_masks_and_latent_values(tmp_path):
    model = tfprune.wrap(backbone("Llama"))
    tfprune.update_masks(model, 0.5)
    x = hub_models.inputs_for(model)
    grown, report = tfprune.growth.grow_depth(model, 2, order="stack")
    nnz = [
        sum(row.nnz for row in tfprune.sparsity_report(one).rows if "layer_" in row.layer) for one in (model, grown)
    ]
    assert nnz[1] == 2 * nnz[0] == sum(row.nnz for row in report.rows)
    for place, block in enumerate(report.order):
        ours, theirs = (
            one.get_layer(f"transformer_layer_{index}") for one, index in ((grown, place), (model, block))
        )
        assert list(ours.masks) == list(theirs.masks)
        for name in ours.masks:
            np.testing.assert_array_equal(ours.masks[name], theirs.masks[name])
            np.testing.assert_array_equal(ours.latent(name), theirs.latent(name))
    plain = tfprune.strip(grown)
    assert type(plain).__name__ == "LlamaBackbone"
    assert_equal(plain, grown, x)
    grown.save(tmp_path / "grown.keras")
    assert_equal(keras.models.load_model(tmp_path / "grown.keras"), grown, x)


@pytest.mark.programs
@pytest.mark.parametrize("name", first("Mixtral", "QwenMoe", "Qwen3Moe"))
def test_masks_of_experts_follow_every_copy(name, tmp_path):
    """Inside of these blocks are layers that Keras names by numbers of its own."""
    model = tfprune.wrap(backbone(name))
    tfprune.update_masks(model, 0.5)
    x = hub_models.inputs_for(model)
    grown, report = tfprune.growth.grow_depth(model, 2)
    smaller, dropped = tfprune.transformers.drop_blocks(model, [0])
    for made, its_report in ((grown, report), (smaller, dropped)):
        assert_origins(model, made, its_report.origins)
        assert its_report.into == "class"
        for place, block in enumerate(its_report.order):
            ours, theirs = (
                one.get_layer(f"transformer_layer_{index}") for one, index in ((made, place), (model, block))
            )
            assert any("expert" in mask for mask in ours.masks)
            for mask, other in zip(ours.masks, theirs.masks, strict=True):
                np.testing.assert_array_equal(ours.masks[mask], theirs.masks[other])
                np.testing.assert_array_equal(ours.latent(mask), theirs.latent(other))
        assert_equal(tfprune.strip(made), made, x)
    grown.save(tmp_path / "grown.keras")
    assert_equal(keras.models.load_model(tmp_path / "grown.keras"), grown, x)


@pytest.mark.programs
@pytest.mark.parametrize("name", ["MixtralCausalLM", "Gemma3CausalLM"])  # the second calls its backbone by keyword
def test_a_task_keeps_its_preprocessor_and_writes(name):
    model = hub_models.TASKS[name]()
    smaller, report = tfprune.transformers.drop_blocks(model, [0])
    assert (type(smaller), report.into, smaller.backbone.num_layers) == (type(model), "class", 1)
    assert smaller.preprocessor is not None
    ours, theirs = (one.backbone.transformer_layers[at] for one, at in ((smaller, 0), (model, 1)))
    assert all(np.array_equal(*pair) for pair in zip(ours.get_weights(), theirs.get_weights(), strict=True))
    assert smaller.generate(hub_models.TEXTS[0], max_length=12)


@pytest.mark.programs
def test_blocks_of_a_task_are_ranked_by_its_loss():
    model = hub_models.TASKS["MixtralCausalLM"]()
    x, y, _ = model.preprocessor(hub_models.TEXTS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ranking = tfprune.transformers.rank_blocks(model, (x, y), loss=loss)
    assert ranking.loss == pytest.approx(float(loss(y, model(x))), rel=1e-4)
    for row in ranking.rows:
        smaller, _ = tfprune.transformers.drop_blocks(model, [row.block])
        assert row.loss == pytest.approx(float(loss(y, smaller(x))), rel=1e-4)


@pytest.mark.programs
def test_the_window_of_a_block_goes_with_it_and_into_the_file(tmp_path):
    model = backbone("Gemma3", num_layers=7, use_sliding_window_attention=True, sliding_window_size=4)
    smaller, report = tfprune.transformers.drop_blocks(model, [1, 4])
    assert report.into == "class" and isinstance(smaller, type(model))
    windows = [block.use_sliding_window_attention for block in model.transformer_layers]
    assert windows == [True] * 5 + [False, True]  # of a Gemma 3, each sixth block reads the whole text
    assert [block.use_sliding_window_attention for block in smaller.transformer_layers] == [True] * 3 + [False, True]
    ids = np.random.default_rng(0).integers(0, model.vocabulary_size, (2, 12))
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    stream = model.token_embedding(ids) * model.hidden_dim**0.5
    for index in report.order:
        stream = model.transformer_layers[index](stream, padding_mask=x["padding_mask"])
    np.testing.assert_allclose(smaller(x), model.layer_norm(stream), atol=1e-5)
    smaller.save(tmp_path / "smaller.keras")
    assert_equal(keras.models.load_model(tmp_path / "smaller.keras"), smaller, x)
    with pytest.raises(ValueError, match=r"blocks of other settings \(.*use_sliding_window_attention\) than its"):
        smaller.save_to_preset(tmp_path)


@pytest.mark.programs
def test_factors_of_lora_go_with_their_blocks():
    model = backbone("Llama")
    model.enable_lora(2)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.1)
    smaller, report = tfprune.transformers.drop_blocks(model, [0])
    assert type(smaller) is type(model)
    ours, theirs = smaller.transformer_layers[0], model.transformer_layers[1]
    assert any("lora" in weight.name for weight in ours.weights)
    assert all(np.array_equal(*pair) for pair in zip(ours.get_weights(), theirs.get_weights(), strict=True))


@pytest.mark.slow
def test_windows_in_every_other_block_stay_with_their_blocks():
    model = backbone("GptOss")
    smaller, report = tfprune.transformers.drop_blocks(model, [0])
    assert report.into == "class" and isinstance(smaller, type(model))
    windows, fewer = (
        [vars(block)["sliding_window"] for block in writer.transformer_layers] for writer in (model, smaller)
    )
    assert fewer == windows[1:]


@pytest.mark.slow
def test_one_side_of_an_encoder_and_decoder_is_named():
    model = backbone("Bart")
    with pytest.raises(ValueError, match="several groups of blocks repeat"):
        tfprune.transformers.drop_blocks(model, [0])
    smaller, report = tfprune.transformers.drop_blocks(model, [0], blocks=r"decoder_layer_(\d+)")
    assert (report.into, len(report.rows)) == ("graph", 1)
    assert report.rows[0].layer == "transformer_decoder_layer_0"
    named = [layer.name for layer in smaller.layers if "encoder_layer_" in layer.name]
    assert [name for name in named if "_encoder_" in name] == [f"transformer_encoder_layer_{i}" for i in range(2)]


@pytest.mark.programs
def test_the_blocks_inside_of_one_layer_are_found():
    model = backbone("ViT")
    grown, report = tfprune.growth.grow_depth(model, 2, zero_output=True)
    assert (type(grown), report.into, report.is_function_preserving) == (type(model), "class", True)
    assert_equal(grown, model, hub_models.inputs_for(model))
