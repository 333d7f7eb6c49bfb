"""The World English Bible as tokens, split by book."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import sentencepiece

from sample_apps.growth.networks import WINDOW
from sample_apps.language_model import texts

TEST = ("Joshua", "Proverbs", "Acts", "I Corinthians")  # as in the study
PIECES = 1000
EVERY = 4  # windows of the books of the test: one is measured


class Books(NamedTuple):
    """Numbers of pieces: of the books to train on, one after the other, and windows of books that are held out.

    A window has one piece more than the model reads: the last one is only predicted.
    """

    train: np.ndarray
    test: np.ndarray
    pieces: int


def read(sections: list[texts.Section], *, pieces: int = PIECES) -> Books:
    """Cut sections of books into pieces, which are learned from the books to train on.

    Args:
        sections: The text, with the names of the books as documents.
        pieces: How many different pieces there are.
    """
    train, test = ([one.text for one in sections if (one.document in TEST) == is_test] for is_test in (False, True))
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(train),
        model_writer=file,
        vocab_size=pieces,
        model_type="bpe",
        max_sentence_length=100_000,
        character_coverage=1.0,
        minloglevel=2,
    )
    cutter = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    numbers = [np.concatenate(cutter.encode(part)) for part in (train, test)]
    return Books(numbers[0], windows(numbers[1])[::EVERY], pieces)


def windows(numbers: np.ndarray) -> np.ndarray:
    """Return a text in windows that follow each other, of shape (windows, WINDOW + 1)."""
    starts = np.arange(0, len(numbers) - WINDOW, WINDOW)
    return numbers[starts[:, None] + np.arange(WINDOW + 1)].astype("int32")


def shuffled(numbers: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Draw windows to train on: all that follow each other in a random order, then again from another position."""
    random, drawn = np.random.default_rng(seed), []
    while sum(map(len, drawn)) < count:
        drawn.append(random.permutation(windows(numbers[random.integers(WINDOW) :])))
    return np.concatenate(drawn)[:count]


def made_up() -> list[texts.Section]:
    """Return text of few words that often come in one order, the first documents under the names of books."""
    found = list(texts.made_up())
    names = dict(zip(dict.fromkeys(section.document for section in found), TEST, strict=False))
    return [one._replace(document=names.get(one.document, one.document)) for one in found]
