"""Models with a narrower residual stream: equal where the other dimensions are 0, the weights kept, and refusals."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first, in_test_ci

import tfprune

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")
hub_writers = pytest.importorskip("hub_writers")

WIDTH, KEPT = 16, np.array([0, 1, 2, 4, 5, 7, 8, 9, 11, 13, 14, 15])
FAMILIES = [*first("Gemma3", "Qwen3", "Mistral", "GptOss"), *map(in_test_ci, ["Gemma", "Gemma4", "Qwen3Moe", "T5"])]


def spread(model: keras.Model, *, zeros: bool) -> keras.Model:
    """Give a model random weights so large that attention is not even; 0 in all dimensions but KEPT if wanted."""
    generator = np.random.default_rng(3)
    others = np.setdiff1d(np.arange(WIDTH), KEPT)
    for variable in model.weights:
        array = generator.normal(size=variable.shape)
        for axis in [axis for axis, size in enumerate(array.shape) if zeros and size == WIDTH]:
            array[(slice(None),) * axis + (others,)] = 0
        variable.assign(array)
    return model


def test_no_other_axis_has_the_size_of_the_width():
    sizes = hub_models.BACKBONES["Gemma3Backbone"]().get_config()
    assert sizes["hidden_dim"] == WIDTH
    assert WIDTH not in (sizes["intermediate_dim"], sizes["vocabulary_size"], sizes["head_dim"])


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_the_whole_model_if_the_other_dimensions_are_zero(family):
    model = spread(hub_models.BACKBONES[f"{family}Backbone"](), zeros=True)
    inputs = hub_models.inputs_for(model)
    narrower, report = tfprune.transformers.narrow(model, inputs, hidden_dim=len(KEPT))
    assert type(narrower) is type(model)
    assert narrower.hidden_dim == len(KEPT)
    np.testing.assert_array_equal(report.kept, KEPT)
    assert report.energy == pytest.approx(1)
    whole, outputs = model(inputs, training=False), narrower(inputs, training=False)
    # Gemma multiplies embeddings by the root of the width; its table, which makes the scores, is larger for that.
    table = getattr(model.get_layer("token_embedding"), "tie_weights", False)
    factor = (WIDTH / len(KEPT)) ** 0.5 if family.startswith("Gemma") and table else 1
    for before, after in zip(keras.tree.flatten(whole), keras.tree.flatten(outputs), strict=True):
        expected = np.asarray(before)[..., KEPT]
        np.testing.assert_allclose(np.asarray(after) * factor, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("family", [*first("Gemma3"), in_test_ci("Qwen3")])  # tables tied and not, scaled and not
def test_scores_are_those_of_the_whole_task_if_the_other_dimensions_are_zero(family):
    model = spread(hub_writers.with_tokenizer(family), zeros=True)
    inputs = hub_models.inputs_for(model)
    narrower, _ = tfprune.transformers.narrow(model, inputs, hidden_dim=len(KEPT))
    expected = np.asarray(model(inputs, training=False))
    found = np.asarray(narrower(inputs, training=False))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert narrower.preprocessor is not None
    assert narrower.backbone.hidden_dim == len(KEPT)


def tokens(inputs):
    """Return the token ids that are not padding."""
    return inputs["token_ids"][inputs["padding_mask"] == 1]


def test_weights_are_those_of_the_most_important_dimensions_and_norms_are_scaled():
    model = spread(hub_models.BACKBONES["Qwen3Backbone"](), zeros=False)
    before = [np.asarray(weight) for weight in model.weights]
    inputs = hub_models.inputs_for(model)
    narrower, report = tfprune.transformers.narrow(model, inputs, hidden_dim=len(KEPT))
    kept = report.kept
    assert sorted(np.argsort(-report.importance)[: len(KEPT)]) == [*kept]
    ours, whole = ({weight.path: np.asarray(weight) for weight in each.weights} for each in (narrower, model))
    for path, values in ours.items():
        if values.ndim > 1 or "attention/" in path:  # kernels, tables, and norms of heads
            expected = whole[path]
            for axis in [axis for axis, size in enumerate(expected.shape) if size == WIDTH]:
                expected = expected.take(kept, axis=axis)
            np.testing.assert_array_equal(values, expected, err_msg=path)
    squares = np.square(whole["token_embedding/embeddings"][tokens(inputs)].astype(float))
    means = squares[:, kept].mean(axis=1) / squares.mean(axis=1)
    path = "transformer_layer_0/self_attention_layernorm/scale"
    np.testing.assert_allclose(ours[path], whole[path][kept] * np.sqrt(means.mean()), rtol=1e-5)
    for weight, values in zip(model.weights, before, strict=True):  # untouched
        np.testing.assert_array_equal(np.asarray(weight), values)


def test_importance_is_the_mean_size_of_the_outputs_of_all_norms():
    model = spread(hub_models.BACKBONES["Gemma3Backbone"](num_layers=1), zeros=False)
    for weight in model.get_layer("decoder_block_0").weights:
        weight.assign(0 * weight)  # the block adds nothing, so that each norm reads the embeddings
    inputs = hub_models.inputs_for(model, batch=5)
    _, report = tfprune.transformers.narrow(model, inputs, hidden_dim=4, batch_size=2)
    table, last = (
        np.asarray(model.get_layer(name).weights[0]) for name in ("token_embedding", "final_normalization")
    )
    stream = table[tokens(inputs)]
    normal = np.abs(stream / np.sqrt(np.square(stream).mean(axis=1, keepdims=True))).mean(axis=0)
    np.testing.assert_allclose(report.importance, normal * (2 + np.abs(1 + last)), rtol=1e-4)


def test_a_narrow_writer_is_saved_loaded_and_writes(tmp_path):
    model = hub_writers.with_tokenizer("Gemma3")
    narrower, _ = tfprune.transformers.narrow(model, hub_models.inputs_for(model), hidden_dim=12)
    inputs = hub_models.inputs_for(model)
    expected = np.asarray(narrower(inputs, training=False))
    narrower.save(tmp_path / "narrow.keras")
    loaded = keras.saving.load_model(tmp_path / "narrow.keras")
    np.testing.assert_array_equal(np.asarray(loaded(inputs, training=False)), expected)
    narrower.backbone.save_to_preset(str(tmp_path / "preset"))
    backbone = type(model.backbone).from_preset(str(tmp_path / "preset"))
    assert backbone.hidden_dim == 12
    narrower.compile(sampler="greedy", run_eagerly=True)
    assert narrower.generate("the", max_length=8).startswith("the")


@pytest.mark.slow
def test_a_narrow_writer_is_exported(tmp_path):
    model = hub_writers.with_tokenizer("Gemma3")
    narrower, _ = tfprune.transformers.narrow(model, hub_models.inputs_for(model), hidden_dim=12)
    file = tmp_path / "writer.tflite"
    written = tfprune.export.to_generator(narrower, file, length=24, prefill=(8,), check_on=["the fox"], max_tokens=8)
    assert written.equal == written.written


def test_weights_of_16_bits_are_narrowed():
    model = hub_models.BACKBONES["Gemma3Backbone"](dtype="bfloat16")
    narrower, report = tfprune.transformers.narrow(model, hub_models.inputs_for(model), hidden_dim=12)
    assert {weight.dtype for weight in narrower.weights} == {"bfloat16"}
    assert report.bytes == (2 * model.count_params(), 2 * narrower.count_params())


@pytest.mark.programs
def test_units_and_heads_are_removed_after_narrowing_not_before():
    from hub_cuts import UNEVEN

    model = spread(hub_models.BACKBONES["Qwen3Backbone"](), zeros=False)
    inputs = hub_models.inputs_for(model)
    narrower, _ = tfprune.transformers.narrow(model, inputs, hidden_dim=12)
    smaller = tfprune.shrink(narrower, tfprune.plan_shrink(narrower, 0.5), into="class")
    assert smaller.hidden_dim == 12
    assert smaller.count_params() < narrower.count_params()
    uneven = tfprune.shrink(model, tfprune.plan_shrink(model, **UNEVEN), into="class")
    with pytest.raises(ValueError, match="Narrow a model before you remove channels"):
        tfprune.transformers.narrow(uneven, inputs, hidden_dim=12)


gemma = hub_models.BACKBONES["GemmaBackbone"]


@pytest.mark.parametrize(
    "make, hidden_dim, error, text",
    [
        (lambda: "model", 12, TypeError, "model"),
        (lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), 4, ValueError, "with none"),
        (hub_models.BACKBONES["BertBackbone"], 12, ValueError, r"width of the residual stream alone.*query/kernel"),
        (hub_models.BACKBONES["ESMBackbone"], 12, ValueError, r"root mean square.*LayerNormalization"),
        (hub_models.BACKBONES["RoformerV2Backbone"], 12, ValueError, "does not run with another width"),
        (lambda: tfprune.wrap(gemma()), 12, ValueError, "which is wrapped. Strip it first"),
        (gemma, 16, ValueError, r"an integer from 1 to 15.*hidden_dim=16"),
        (gemma, 0, ValueError, "hidden_dim=0"),
        (gemma, 0.5, TypeError, "hidden_dim"),
    ],
)
def test_refusals(make, hidden_dim, error, text):
    ids = np.ones((2, 6), "int32")
    with pytest.raises(error, match=text):
        tfprune.transformers.narrow(make(), {"token_ids": ids, "padding_mask": ids}, hidden_dim=hidden_dim)


@pytest.mark.programs
def test_a_class_that_uses_the_width_elsewhere_is_refused():  # it scales embeddings of images by another number
    model = hub_models.BACKBONES["PaliGemmaBackbone"]()
    with pytest.raises(ValueError, match="uses the width in some other way"):
        tfprune.transformers.narrow(model, hub_models.inputs_for(model), hidden_dim=12)


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        tfprune.transformers.narrow(
            gemma(), {"token_ids": np.ones((0, 6)), "padding_mask": np.ones((0, 6))}, hidden_dim=12
        )
    ids = np.full((2, 6), 1000)
    with pytest.raises(ValueError, match=r"token ids from 0 to \d+ in `samples`. Received: token_ids with 1000"):
        tfprune.transformers.narrow(gemma(), {"token_ids": ids, "padding_mask": np.ones_like(ids)}, hidden_dim=12)
