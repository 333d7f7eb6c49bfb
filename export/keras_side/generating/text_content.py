"""The tokenizer of a KerasHub model in a form that a device reads, and the ids that begin and end its texts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfprune.export.device.generating.text_form import JSON, SENTENCEPIECE, TextForm, Tokenizer
from tfprune.export.file.report import reason_of

_log = logging.getLogger(__name__)

PROBES = ("The quick brown fox, 12 times!", "Grüße aus Zürich: 3.5 €", "a\n\nb \n\n  c\t\td  ", "it's 12345", "")

# How the conversations are written that models were trained on, by the token that ends a turn.
MARK = re.compile(r"<[^<>]+>")
TURNS = {
    "<end_of_turn>": {  # Gemma, which writes instructions of the system into the first turn of the user
        "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
        "model": ("<start_of_turn>model\n", "<end_of_turn>\n"),
    },
    "<|eot_id|>": {  # Llama 3
        "system": ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        "user": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        "model": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    },
    "<|im_end|>": {  # Qwen, SmolLM
        "system": ("<|im_start|>system\n", "<|im_end|>\n"),
        "user": ("<|im_start|>user\n", "<|im_end|>\n"),
        "model": ("<|im_start|>assistant\n", "<|im_end|>\n"),
    },
}


def text_content(model: Any) -> tuple[TextForm, bytes]:
    """Return what a file says about its text, and its tokenizer's content.

    A tokenizer whose ids differ from those of KerasHub on a few texts is left out, and so is one of an unknown kind.
    """
    preprocessor = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        return TextForm("", [], []), b""
    start = [_id(tokenizer, "start_token_id")] if getattr(preprocessor, "add_start_token", False) else []
    ends = [_id(tokenizer, "end_token_id"), _id(tokenizer, "end_token2_id")]
    turn_ends = {token: number for token in TURNS if (number := _known(tokenizer, token)) is not None}
    ends += turn_ends.values()
    begin, stop = ([*dict.fromkeys(number for number in ids if number is not None)] for ids in (start, ends))
    turns = next((TURNS[token] for token in turn_ends if _keeps_whole(tokenizer, TURNS[token])), {})
    form = TextForm("", begin, stop, {role: [*texts] for role, texts in turns.items()})
    kind, content = _content(tokenizer)
    with_tokenizer = replace(form, tokenizer=kind)
    if kind and not _equal(Tokenizer(with_tokenizer, content), tokenizer, form):
        _log.warning("the tokenizer of %r is left out: a device would give other ids than KerasHub does", model.name)
        return form, b""
    return with_tokenizer, content


def encoder_content(tokenizer: Any) -> tuple[TextForm, bytes]:
    """Return what a file says about the texts of an encoder, and the content of its tokenizer of word pieces.

    Raises:
        ValueError: If it is another tokenizer, or a device would give other ids than KerasHub does.
    """
    ends = [_id(tokenizer, name) for name in ("cls_token_id", "sep_token_id")]
    if not isinstance(getattr(tokenizer, "vocabulary", None), list) or None in ends or not tokenizer.split:
        raise ValueError(
            f"Expected a tokenizer of word pieces, such as BertTokenizer. Received: {type(tokenizer).__name__}. "
            f"Export the encoder with to_tflite, and give it token ids."
        )
    form, content = TextForm(JSON, ends[:1], ends[1:]), _word_pieces(tokenizer)
    if not _equal(Tokenizer(form, content), tokenizer, form):
        raise ValueError(
            "Expected a tokenizer whose ids are the same on a device. Received: one that gives others there, for "
            "example for texts with accents. Export the encoder with to_tflite, and give it token ids."
        )
    return form, content


def keras_ids(model: Any, text: str) -> list[int]:
    """Return the ids of a text as KerasHub gives them, those that begin it included."""
    preprocessor = model.preprocessor
    ids = [*np.asarray(preprocessor.tokenizer(text)).tolist()]
    return [preprocessor.tokenizer.start_token_id, *ids] if getattr(preprocessor, "add_start_token", False) else ids


def _id(tokenizer: Any, name: str) -> int | None:
    number = getattr(tokenizer, name, None)
    return None if number is None else int(number)


def _known(tokenizer: Any, token: str) -> int | None:
    """Return the id of a token; None if the vocabulary lacks it."""
    try:
        number = int(tokenizer.token_to_id(token))
        return number if tokenizer.id_to_token(number) == token else None
    except (KeyError, TypeError, ValueError):
        return None


def _keeps_whole(tokenizer: Any, turns: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether each mark of turns is one token: a tokenizer may know it, and spell it out all the same."""
    marks = {mark for texts in turns.values() for text in texts for mark in MARK.findall(text)}
    return all(_known(tokenizer, mark) in np.asarray(tokenizer(mark)).tolist() for mark in marks)


def _content(tokenizer: Any) -> tuple[str, bytes]:
    proto = getattr(tokenizer, "proto", None)
    if isinstance(proto, bytes) and proto:
        return SENTENCEPIECE, proto
    if getattr(tokenizer, "merges", None) and isinstance(getattr(tokenizer, "vocabulary", None), dict):
        return JSON, _byte_pairs(tokenizer)
    return "", b""


def _byte_pairs(tokenizer: Any) -> bytes:
    """Return a tokenizer of byte pairs as the package tokenizers reads it."""
    vocabulary = {token: int(number) for token, number in tokenizer.vocabulary.items()}
    whole = [token for token in getattr(tokenizer, "unsplittable_tokens", None) or () if token in vocabulary]
    added = [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in whole
    ]  # fmt: skip
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    # KerasHub 0.32 merges pairs across words, spaces and digits, except for the tokenizers that say how to split.
    pattern = getattr(tokenizer, "split_pattern", None)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_only] if pattern else [bytes_only]},
        "post_processor": None,
        "decoder": bytes_only,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [str(pair).split(" ") for pair in tokenizer.merges],
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _word_pieces(tokenizer: Any) -> bytes:
    """Return a tokenizer of word pieces as the package tokenizers reads it."""
    prefix = tokenizer.suffix_indicator
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": tokenizer.split_on_cjk,
        "strip_accents": tokenizer.strip_accents,
        "lowercase": tokenizer.lowercase,
    }
    # KerasHub folds the case, which the other does to all letters but these.
    folded = [
        {"type": "Replace", "pattern": {"String": letter}, "content": "ss"}
        for letter in ("ß", "ẞ")
        if tokenizer.lowercase
    ]
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [*folded, normalizer]},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": prefix, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": tokenizer.oov_token,
            "continuing_subword_prefix": prefix,
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokenizer.vocabulary)},
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _equal(tokenizer: Tokenizer, keras_tokenizer: Any, form: TextForm) -> bool:
    """Tell whether a device would give the ids that KerasHub gives, on texts that the vocabulary can write."""
    texts = [*PROBES]
    for text in texts:
        try:
            expected = [*form.start, *np.asarray(keras_tokenizer(text)).tolist()]
        except (KeyError, ValueError) as error:
            _log.info("%r is not compared: %s", text, reason_of(error))
            continue
        if tokenizer.encode(text) != expected:
            _log.info("the ids of %r differ: %s and %s", text, tokenizer.encode(text), expected)
            return False
    return True
