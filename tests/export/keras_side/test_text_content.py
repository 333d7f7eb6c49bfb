"""Tokenizers of byte pairs as those of Llama 3 and Qwen: a device gives KerasHub's ids, special tokens included."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tfprune.export.device.writer_file import Tokenizer
from tfprune.export.keras_side.language_model import text_content

models = pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)").models
tokenizers = pytest.importorskip("tokenizers")

TRAINED = ["The quick brown fox, 12 times! They'll do it in 2024.\n\n  And a\tdog", "Grüße aus Zürich: 3.5 €, DON'T"]
SPACES = ["12345 x\u00a0y", " a  b   c ", "a\n\nb\n\n\n c \n\nd\t\te\n\tf\t\n", "fox\n\n ", "a \tb\r\nc", ""]
TEXTS = [*TRAINED, *SPACES, "user\nsystem\n", "no<|im_start|>", "<|eot_id|><|eot_id|>"]
SPECIAL = {
    "Llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "Qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "SmolLM3": ["<|begin_of_text|>", "<|end_of_text|>", "<think>", "</think>", "<|im_start|>", "<|im_end|>"],
}


@pytest.fixture(scope="module")
def pairs():
    """Return a vocabulary of all bytes and of pairs, and the pairs."""
    levels = tokenizers.pre_tokenizers.ByteLevel
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = levels(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=levels.alphabet(), show_progress=False, min_frequency=1
    )
    trained.train_from_iterator(TRAINED, trainer)
    content = json.loads(trained.to_str())["model"]
    return content["vocab"], [" ".join(pair) for pair in content["merges"]]


def hub_tokenizer(family, pairs, **settings):
    """Return a tokenizer of KerasHub, whose special tokens come last, as in those of real models."""
    vocabulary, merges = pairs
    special = {token: len(vocabulary) + number for number, token in enumerate(SPECIAL[family])}
    return getattr(models, f"{family}Tokenizer")(vocabulary=vocabulary | special, merges=merges, **settings)


def content_of(tokenizer, family):
    preprocessor = getattr(models, f"{family}CausalLMPreprocessor")(tokenizer)
    return text_content(SimpleNamespace(preprocessor=preprocessor, name="writer"))


@pytest.mark.parametrize(
    ("family", "start", "stop"),
    [
        ("Llama3", ["<|begin_of_text|>"], ["<|end_of_text|>", "<|eot_id|>"]),
        ("Qwen3", [], ["<|im_end|>"]),
        ("SmolLM3", [], ["<|end_of_text|>", "<|im_end|>"]),
    ],
)
def test_special_tokens_stay_whole(family, start, stop, pairs):
    hub = hub_tokenizer(family, pairs, unsplittable_tokens=SPECIAL[family])
    form, content = content_of(hub, family)
    assert [[hub.id_to_token(number) for number in ids] for ids in (form.start, form.stop)] == [start, stop]
    assert set(form.turns) == {"system", "user", "model"}
    device = Tokenizer(form, content)
    turns = [f"{before}a fox{after}" for before, after in form.turns.values()]
    for text in (*TEXTS, *turns, "".join(turns)):
        ids = device.encode(text)[len(form.start) :]
        assert ids == np.asarray(hub(text)).tolist(), text
        assert device.decode(ids) == text
    special = {hub.token_to_id(token) for token in SPECIAL[family]}
    assert len(special & {*device.encode("".join(turns))}) == {"Llama3": 4}.get(family, 2)


def test_without_whole_tokens_there_are_no_turns(pairs):
    hub = hub_tokenizer("Qwen3", pairs)  # which keeps those that it knows by name, and spells out `<|im_start|>`
    assert len(hub("<|im_start|>")) > 1 and len(hub("<|im_end|>")) == 1
    form, content = content_of(hub, "Qwen3")
    assert content and form.turns == {} and form.stop == [hub.token_to_id("<|im_end|>")]
