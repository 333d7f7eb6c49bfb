"""Trials of transformers: heads and hidden units are channels, and blocks are dropped whole."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from small_search import evaluator, made
from small_transformer import HIDDEN, TOKENS, WIDTH, texts

from tfprune import sparsity_report
from tfprune.export.compressing.evaluate import TrialRunner
from tfprune.export.compressing.trials import Recipe, read_trial
from tfprune.masking.strip import strip

layers = keras.layers
HALF = Recipe(0.5, 0.5, "unstructured", False, 40, 2, 1, 1e-3, 3)


def classifier(blocks=3):
    """Return a compiled model that tells classes of texts, and texts with their classes."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(TOKENS, WIDTH, name="embedding")(ids)
    for block in range(blocks):
        normal = layers.LayerNormalization(name=f"norm_{block}")(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 2, name=f"attention_{block}")(normal, normal)])
        normal = layers.LayerNormalization(name=f"second_{block}")(x)
        hidden = layers.Dense(HIDDEN, "relu", name=f"hidden_{block}")(normal)
        x = layers.Add()([x, layers.Dense(WIDTH, name=f"back_{block}")(hidden)])
    model = keras.Model(ids, layers.Dense(3, "softmax", name="classes")(layers.Flatten(name="flat")(x)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, (texts(), texts()[:, 0] % 3)


def runner(model, data):
    return TrialRunner(model, data, replace(evaluator(), calibration=data[0], validation=data, baseline=0.5), 20)


def test_a_cut_of_multiply_adds_removes_heads_and_hidden_units():
    trials = runner(*classifier(blocks=1))
    assert trials.can_shrink and not trials.can_quantize_aware
    smaller = strip(trials.apply_recipe(HALF, keras.callbacks.Callback()))
    assert smaller.get_layer("attention_0").num_heads == 2, "of 4"
    assert smaller.get_layer("hidden_0").units == pytest.approx(HIDDEN / 2, abs=1)
    assert smaller.get_layer("back_0").units == WIDTH
    assert sparsity_report(smaller).sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.programs
@pytest.mark.filterwarnings("ignore:No weight of:UserWarning")
def test_blocks_are_dropped_by_their_number_in_the_original_model():
    model, data = classifier()
    trials = runner(model, data)
    order = trials.block_order
    assert sorted(order.order) == [0, 1, 2] and order.stay_alike
    assert 0.25 < order.share < 1 / 3, "embeddings and outputs take a small part"
    recipe = replace(HALF, flops=1.0, sparsity=0.0, learning_rate=0.0, dropped=(1,), depth=0.7)
    smaller = strip(trials.apply_recipe(recipe, keras.callbacks.Callback()))
    x = model.get_layer("embedding")(data[0])
    for block in (0, 2):
        parts = [model.get_layer(f"{name}_{block}") for name in ("norm", "attention", "second", "hidden", "back")]
        normal = parts[0](x)
        x = x + parts[1](normal, normal)
        x = x + parts[4](parts[3](parts[2](x)))
    expected = model.get_layer("classes")(model.get_layer("flat")(x))
    assert np.allclose(smaller(data[0]), expected, atol=1e-6)


def test_a_model_without_attention_or_blocks_drops_none():
    small = runner(made()[0], made()[1])
    assert small.block_order is None and small.can_quantize_aware
    assert runner(*classifier(blocks=1)).block_order is None


@pytest.mark.slow
def test_the_program_of_a_recipe_that_drops_blocks_makes_the_same_files(tmp_path, monkeypatch):
    model, data = classifier()
    trials = runner(model, data)
    first = replace(HALF, flops=1.0, dropped=(1,), depth=0.7)
    second = replace(HALF, dropped=(1, 2), depth=0.4, after=first)
    begun = trials.run(first, 600.0)
    arrays = trials.run(second, 600.0, begun["model"])
    assert [read_trial(each).name for each in (begun, arrays)] == [
        "flops70_without1blocks_zeros50_2steps",
        "flops20_without2blocks_zeros50_4steps",
    ]
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    for index, file in enumerate(read_trial(arrays).tried):
        exec(file.code.replace("x, y = ...", "pass"), dict(zip("xy", data, strict=True)))
        assert Path("model.tflite").read_bytes() == arrays[f"file_{index}"].tobytes(), file.code


@pytest.mark.slow
def test_a_smaller_transformer_makes_files_and_starts_the_next_trial():
    model, data = classifier()
    trials = runner(model, data)
    dense = read_trial(trials.run(None, 600.0))
    made = trials.run(HALF, 600.0)
    again = trials.run(replace(HALF, sparsity=0.75, after=HALF), 600.0, made["model"])
    ended = [read_trial(each) for each in (made, again)]
    assert [trial.reason for trial in ended] == ["", ""]
    assert [[file.quantize for file in trial.tried] for trial in (dense, *ended)] == 3 * [[None, "int8"]]


@pytest.mark.programs
def test_a_classifier_of_kerashub_loses_heads_and_hidden_units():
    models = pytest.importorskip("keras_hub", reason="keras-hub is not installed").models
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 64}
    backbone = models.BertBackbone(vocabulary_size=30, **sizes)
    model = models.BertTextClassifier(backbone, num_classes=3, activation="softmax", preprocessor=None)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ids = texts()
    x = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    data = x, ids[:, 0] % 3
    trials = runner(model, data)
    smaller = strip(trials.apply_recipe(HALF, keras.callbacks.Callback()))
    shapes = [tuple(weight.shape) for weight in smaller.weights]
    assert (16, 4, 4) not in shapes and shapes.count((16, 2, 4)) == 2 * 3, "heads of queries, keys and values"
    assert not any(32 in shape for shape in shapes), "hidden units"
