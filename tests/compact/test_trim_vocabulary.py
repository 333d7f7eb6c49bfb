"""Models with a trimmed vocabulary: the same scores for the tokens that remain, the same text, and refusals."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first, in_test_ci

import tfprune
import tfprune.export
from tfprune.export.file.reader import read

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")
hub_writers = pytest.importorskip("hub_writers")

TEXT = "the fox runs to a dog"


def scores(model, ids) -> np.ndarray:
    ids = np.asarray([ids])
    return np.asarray(model({"token_ids": ids, "padding_mask": np.ones_like(ids)}, training=False))


@pytest.mark.parametrize("family", [*first("Gemma3", "Qwen3"), *map(in_test_ci, ["Llama", "GPT2"])])
def test_scores_of_the_remaining_tokens_are_equal_bit_for_bit(family):  # tables tied and not, pieces and byte pairs
    model = hub_writers.with_tokenizer(family)
    weights = [np.asarray(weight) for weight in model.weights]
    smaller, report = tfprune.transformers.trim_vocabulary(model, [TEXT], check_on=hub_models.TEXTS)
    kept, count = report.kept, report.tokens[1]
    assert type(smaller) is type(model)
    assert count == len(kept) == smaller.backbone.vocabulary_size == smaller.output.shape[-1] < report.tokens[0] == 50
    new = np.random.default_rng(0).integers(0, count, 12)
    np.testing.assert_array_equal(scores(smaller, new), scores(model, kept[new])[..., kept])
    assert report.difference == 0
    tables = [weight for weight in model.weights if report.tokens[0] in weight.shape]
    rows = sum(weight.shape[0] + weight.shape[1] - report.tokens[0] for weight in tables)
    assert report.bytes[0] - report.bytes[1] == 4 * rows * (report.tokens[0] - count)
    assert report.parameters == (model.count_params(), smaller.count_params())
    for before, weight in zip(weights, model.weights, strict=True):  # untouched
        np.testing.assert_array_equal(before, weight)


def test_a_task_has_the_smaller_tokenizer_and_writes_with_it(tmp_path):
    model = hub_writers.writer_task("Gemma3CausalLM")
    smaller, report = tfprune.transformers.trim_vocabulary(model, [TEXT], keep=["▁br", 12])
    tokenizer = smaller.preprocessor.tokenizer
    assert tokenizer is report.tokenizer is not model.preprocessor.tokenizer
    assert tokenizer.vocabulary_size() == report.tokens[1]
    assert 12 in report.kept
    assert {"▁br", "br", "ree"} <= set(tokenizer.get_vocabulary())
    assert [*report.kept[np.asarray(tokenizer(TEXT))]] == [*np.asarray(model.preprocessor.tokenizer(TEXT))]
    assert tokenizer.detokenize(tokenizer(TEXT)) == TEXT
    smaller.save_to_preset(str(tmp_path / "preset"))
    loaded = type(model).from_preset(str(tmp_path / "preset"))
    assert loaded.preprocessor.tokenizer.proto == tokenizer.proto
    np.testing.assert_array_equal(scores(loaded, [2, 5, 7]), scores(smaller, [2, 5, 7]))


def test_an_encoder_of_word_pieces_takes_its_tokenizer():
    tokenizer, model = hub_models.bert_tokenizer(), hub_models.BACKBONES["BertBackbone"]()
    smaller, report = tfprune.transformers.trim_vocabulary(
        model, [TEXT, "a fox !"], tokenizer=tokenizer, keep=["quick"], check_on=["the brown fox"]
    )
    words = {"the", "fox", "runs", "to", "a", "dog", "quick"}
    assert set(report.tokenizer.get_vocabulary()) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} | words
    assert [row.unknown for row in report.rows] == [(1, 1), (0, 1)]  # "!" at first, and "brown" is new
    assert [row.tokens for row in report.rows] == [(9, 9), (3, 3)]
    assert report.difference == 0
    assert smaller.get_layer("token_embedding").embeddings.shape[0] == report.tokens[1] == 12


def test_a_text_longer_than_the_model_takes_is_compared_on_what_it_takes():
    tokenizer = hub_models.bert_tokenizer()
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12, "max_sequence_length": 10}
    model = keras_hub.models.BertBackbone(vocabulary_size=len(tokenizer.get_vocabulary()), **sizes)
    _, report = tfprune.transformers.trim_vocabulary(model, ["the fox " * 8], tokenizer=tokenizer)
    assert report.difference == 0


def test_token_ids_choose_as_their_text_does_and_padding_rows_go():
    model = hub_writers.with_tokenizer("GPT2")
    tokenizer, backbone = model.preprocessor.tokenizer, hub_models.BACKBONES["GPT2Backbone"](vocabulary_size=64)
    ids = np.asarray(tokenizer(TEXT)).tolist()
    smaller, report = tfprune.transformers.trim_vocabulary(backbone, [ids], tokenizer=tokenizer)
    _, of_text = tfprune.transformers.trim_vocabulary(backbone, [TEXT], tokenizer=tokenizer)
    assert report.rows[0].characters == 0
    np.testing.assert_array_equal(report.kept, of_text.kept)
    assert report.tokens == (64, len(report.kept))
    assert "tokens per character" in str(report)


@pytest.mark.programs
def test_blocks_that_keep_different_numbers_are_trimmed_too():
    from hub_cuts import UNEVEN, trained

    model = trained(hub_models.BACKBONES["GPT2Backbone"])
    uneven = tfprune.shrink(model, tfprune.plan_shrink(model, **UNEVEN), into="class")
    smaller, report = tfprune.transformers.trim_vocabulary(uneven, [TEXT], tokenizer=hub_models.gpt2_tokenizer())
    assert report.difference == 0
    assert smaller.count_params() == uneven.count_params() - 16 * (report.tokens[0] - report.tokens[1])


@pytest.mark.programs
def test_the_file_that_writes_has_the_smaller_tokenizer(tmp_path):
    model = hub_writers.writer_task("Gemma3CausalLM")
    smaller, report = tfprune.transformers.trim_vocabulary(model, hub_models.TEXTS[:1])
    file = tmp_path / "writer.tflite"
    written = tfprune.export.to_generator(smaller, file, length=24, prefill=(8,), check_on=[TEXT], max_tokens=8)
    assert written.equal == written.written
    generator = tfprune.export.Generator(file)
    smaller.compile(sampler="greedy", run_eagerly=True)
    prompt = "the quick"
    keras_text = smaller.generate(prompt, max_length=12)
    assert (prompt + generator.generate(prompt, max_tokens=16)).startswith(keras_text)
    lengths = {length for weight in read(file.read_bytes()).weights for length in weight.shape}
    assert report.tokens[1] in lengths and report.tokens[0] not in lengths


BERT = {"tokenizer": hub_models.bert_tokenizer()}


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"texts": "a fox"}, TypeError, r"a list of texts\. Received: a text"),
        ({"texts": []}, ValueError, r"at least one text with a token in `texts`"),
        ({"texts": [[99]]}, ValueError, r"ids from 0 to 18\. Received in `texts`: \[99\]"),
        ({"keep": ["zebra"]}, ValueError, r"tokens of the tokenizer in `keep`.*'zebra'"),
        ({"characters": "seen"}, ValueError, r"characters='all' with BertTokenizer, which has no tokens of bytes"),
        ({"characters": "some"}, ValueError, "characters"),
        ({"tokenizer": None}, ValueError, r"Expected one tokenizer.*Received: none"),
    ],
)
def test_refusals(change, error, text):
    arguments = {"texts": ["a fox"], **BERT, **change}
    with pytest.raises(error, match=text):
        tfprune.transformers.trim_vocabulary(
            hub_models.BACKBONES["BertBackbone"](), arguments.pop("texts"), **arguments
        )


def test_models_without_a_vocabulary_or_with_masks_are_refused():
    layers = [keras.Input((8,)), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match=r"one vocabulary_size, such as Gemma3CausalLM.*Sequential with none"):
        tfprune.transformers.trim_vocabulary(keras.Sequential(layers), ["a fox"], **BERT)
    with pytest.raises(TypeError):
        tfprune.transformers.trim_vocabulary("model", ["a fox"], **BERT)
    wrapped = tfprune.wrap(hub_models.BACKBONES["BertBackbone"]())
    with pytest.raises(ValueError, match="which is wrapped. Strip it first"):
        tfprune.transformers.trim_vocabulary(wrapped, ["a fox"], **BERT)
