"""The World English Bible, word by word, split by book, and stacked LSTMs of three sizes."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

PRUNED = None  # embedding, LSTMs and softmax layer: every layer with a kernel, as in the paper
TEST_BOOKS = ("Joshua", "Proverbs", "Acts", "I Corinthians")  # a fourteenth of the words
LEAST = 3  # times that a word is seen in the books to train on; the others are one unknown word
WINDOW = 35
VERSE = re.compile(r"\$\$\$(.+) (\d+):(\d+)$")
WORD = re.compile(r"[a-z]+(?:’[a-z]+)*|[^\sa-z]")
NO_TEXT = re.compile(r"<note.*?</note>|<title.*?</title>|<[^>]*>")
layers = keras.layers


class Data(NamedTuple):
    """Words by number, 0 for the unknown one: windows of shape (windows, WINDOW), and the word that follows each."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    words: int


def load(*, seed: int, smoke: bool) -> Data:
    books = made_up() if smoke else bible()
    train = [word for name, words in books.items() if name not in TEST_BOOKS for word in words]
    test = [word for name in TEST_BOOKS for word in books[name]]
    numbers = {word: 1 + rank for rank, (word, count) in enumerate(Counter(train).most_common()) if count >= LEAST}
    return Data(*windows(train, numbers), *windows(test, numbers), len(numbers) + 1)


def windows(words: list[str], numbers: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    known = np.array([numbers.get(word, 0) for word in words], "int32")
    count = (len(known) - 1) // WINDOW
    return known[: count * WINDOW].reshape(count, WINDOW), known[1 : count * WINDOW + 1].reshape(count, WINDOW)


def bible() -> dict[str, list[str]]:
    """Return the words and punctuation marks of each book, notes and titles left out."""
    command = ["mod2imp", "engWEB2015eb"]
    try:
        text = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError(
            f"Expected the World English Bible from `{' '.join(command)}`. Received: {error}. To install it: "
            f"apt-get install sword-text-web libsword-utils."
        ) from error
    books: dict[str, list[str]] = {}
    book = None
    for line in text.splitlines():
        if line.startswith("$$$"):
            found = VERSE.match(line)
            book = found[1] if found and found[3] != "0" else None  # verse 0 is the heading of a chapter
        elif book:
            books.setdefault(book, []).extend(WORD.findall(NO_TEXT.sub(" ", line).lower()))
    return books


def made_up() -> dict[str, list[str]]:
    """Make books of few words that often come in one order."""
    random = np.random.default_rng(0)
    words = np.cumsum(random.choice([1, 1, 1, 2], 4000)) % 30
    parts = np.split(words, 5)
    return {
        name: [f"word{number}" for number in part] for name, part in zip((*TEST_BOOKS, "Ruth"), parts, strict=True)
    }


@tf.function(jit_compile=True)  # Keras' loss takes three times as long, half of the training
def crossentropy(words: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_logsumexp(logits, axis=-1) - tf.gather(logits, tf.cast(words, "int32"), batch_dims=2)


LOSS = crossentropy


def build(data: Data, *, width: int, dropout: float) -> keras.Model:
    """Make a model that begins with each word as likely as it is frequent, so that training is about their order."""
    model = keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            layers.Embedding(data.words, width, name="embedding"),
            layers.Dropout(dropout),
            layers.LSTM(width, return_sequences=True, name="lstm_1"),
            layers.Dropout(dropout),
            layers.LSTM(width, return_sequences=True, name="lstm_2"),
            layers.Dropout(dropout),
            layers.Dense(data.words, name="softmax"),
        ]
    )
    counts = 1 + np.bincount(data.y.ravel(), minlength=data.words)  # no word gets probability 0
    model.get_layer("softmax").bias.assign(np.log(counts / counts.sum()))
    return model


def score(model: keras.Model, data: Data) -> float:
    """Return the perplexity on the test books."""
    model.compile(loss=LOSS)
    return float(np.exp(model.evaluate(data.test_x, data.test_y, batch_size=64, verbose=0)))
