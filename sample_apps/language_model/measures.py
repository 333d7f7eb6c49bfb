"""Measures of a model: perplexity, and the similarity of its sentence embeddings to the dense model's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from sample_apps.language_model.texts import Section

WINDOW = 512  # tokens, the first of which begins the text
BATCH = 2  # windows at a time
LENGTH = 48  # tokens of a sentence or passage
CHUNK = 128  # positions whose logits are in memory at a time: a position has 262,144 of them


class Pairs(NamedTuple):
    """Titles of sections, and the text of each."""

    titles: list[str]
    passages: list[str]


def windows(sections: Iterable[Section], tokenizer: keras.Layer, count: int, *, length: int = WINDOW) -> np.ndarray:
    """Return the first windows of the sections one after the other, of shape (count, length).

    Raises:
        ValueError: If there are fewer.
    """
    tokens: list[int] = []
    for section in sections:
        tokens += np.asarray(tokenizer(section.text + "\n")).tolist()
        if len(tokens) >= count * (length - 1):
            break
    else:
        raise ValueError(f"Expected text of {count * (length - 1)} tokens. Received: {len(tokens)}.")
    following = np.reshape(tokens[: count * (length - 1)], (count, length - 1))
    return np.pad(following, ((0, 0), (1, 0)), constant_values=tokenizer.start_token_id).astype("int32")


def perplexity(model: keras.Model, tokens: np.ndarray, embedding: keras.Layer) -> float:
    """Return e to the mean surprise of each token after the first, given all before it in its window."""
    losses = []
    for batch in tokens.reshape(-1, BATCH, WINDOW):
        hidden = model(inputs(batch), training=False)
        for start in range(0, WINDOW - 1, CHUNK):
            stop = min(start + CHUNK, WINDOW - 1)
            logits = embedding(hidden[:, start:stop], reverse=True)
            wanted = batch[:, start + 1 : stop + 1]
            losses.append(keras.ops.sparse_categorical_crossentropy(wanted, logits, from_logits=True))
    return float(np.exp(np.concatenate([keras.ops.convert_to_numpy(loss) for loss in losses], axis=1).mean()))


def inputs(tokens: np.ndarray) -> dict[str, np.ndarray]:
    return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}


def sentences(sections: Sequence[Section], count: int) -> list[str]:
    """Draw sentences of a moderate length, the same ones each time."""
    found = [
        sentence
        for section in sections
        for sentence in section.text.replace("\n", " ").split(". ")
        if 40 <= len(sentence) <= 200
    ]
    return random.Random(0).sample(found, count)


def pairs(sections: Sequence[Section], count: int) -> Pairs:
    """Draw sections whose title says what they are about: two words at least, and no other has it."""
    titles = [section.title for section in sections]
    found = [section for section in sections if len(section.title.split()) > 1 and titles.count(section.title) == 1]
    drawn = random.Random(0).sample(found, min(count, len(found)))
    return Pairs([section.title for section in drawn], [section.text for section in drawn])


def encode(texts: Sequence[str], tokenizer: keras.Layer) -> dict[str, np.ndarray]:
    """Return the inputs of a BERT: the first tokens of each text, between its two marks, padded to LENGTH."""
    tokens = np.full((len(texts), LENGTH), tokenizer.pad_token_id, "int32")
    for row, text in zip(tokens, texts, strict=True):
        pieces = np.asarray(tokenizer(text))[: LENGTH - 2]
        row[: len(pieces) + 2] = [tokenizer.cls_token_id, *pieces, tokenizer.sep_token_id]
    return {
        "token_ids": tokens,
        "segment_ids": np.zeros_like(tokens),
        "padding_mask": (tokens != tokenizer.pad_token_id).astype("int32"),
    }


def embedder(backbone: keras.Model) -> keras.Model:
    """Return a model from tokens to one vector of length 1 for each text: the mean over its tokens."""
    given = {name: keras.Input((LENGTH,), dtype="int32", name=name) for name in backbone.input}
    hidden = backbone(given, training=False)["sequence_output"]  # without dropout where it is trained
    mean = keras.layers.GlobalAveragePooling1D(name="mean")(hidden, mask=given["padding_mask"])
    return keras.Model(given, keras.layers.UnitNormalization(name="embedding")(mean), name="embedder")


def cosine(embeddings: np.ndarray, dense: np.ndarray) -> float:
    """Return the mean cosine between two embeddings of each sentence; both are of length 1."""
    return float(np.mean(np.sum(embeddings * dense, axis=1)))


def recall(titles: np.ndarray, passages: np.ndarray) -> float:
    """Return for how many titles the nearest passage is their own."""
    return float(np.mean(np.argmax(titles @ passages.T, axis=1) == np.arange(len(titles))))
