"""German to English: the sentences of the Ding dictionary, and an LSTM that translates with attention."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import sacrebleu
import sentencepiece

from sample_apps.study.language import crossentropy

PRUNED = None  # both embeddings, LSTMs, the layer after attention and the softmax layer
LOSS = crossentropy  # Keras leaves out the positions of PAD, which the embedding masks
DICTIONARY = Path("/usr/share/trans/de-en")
LENGTH = 24  # pieces of a sentence and its end at most; longer ones, a sixth, are left out
PAD, BEGIN, END = 0, 1, 2
REMARK = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|<[^>]*>")
SENTENCE = re.compile(r"\w+\W+\w+\W+\w+.*[.!?]$")
layers = keras.layers
Pairs = list[tuple[str, str]]


class Data(NamedTuple):
    """Sentences as numbers of pieces, padded with zeros to LENGTH: the inputs of `fit`, and those to translate.

    `x` holds the German sentence, and the English one shifted by one, from BEGIN on; `y` the English one, up to END.
    """

    x: tuple[np.ndarray, np.ndarray]
    y: np.ndarray
    test_x: np.ndarray
    references: list[str]
    pieces: sentencepiece.SentencePieceProcessor


def load(*, seed: int, smoke: bool) -> Data:
    train, test = split(made_up() if smoke else dictionary())
    pieces = learn_pieces(train, 60 if smoke else 2000)
    source, target = (pieces.encode([pair[side] for pair in train]) for side in (0, 1))
    short = [pair for pair in zip(source, target, strict=True) if max(map(len, pair)) < LENGTH]
    x, shifted, y = (padded(part) for part in zip(*[(de, [BEGIN, *en], [*en, END]) for de, en in short], strict=True))
    test = [pair for pair in test if len(pieces.encode(pair[0])) < LENGTH]
    return Data((x, shifted), y, padded(pieces.encode([de for de, _ in test])), [en for _, en in test], pieces)


def padded(sentences: list[list[int]]) -> np.ndarray:
    result = np.zeros((len(sentences), LENGTH), "int32")
    for row, sentence in zip(result, sentences, strict=True):
        row[: len(sentence)] = sentence
    return result


def split(entries: list[Pairs]) -> tuple[Pairs, Pairs]:
    """Hold out every twentieth entry with its whole family of sentences, but no sentence that is also trained on."""
    train = [pair for place, pairs in enumerate(entries) if place % 20 for pair in pairs]
    known = {sentence for pair in train for sentence in pair}
    return train, [pair for pairs in entries[::20] for pair in pairs if known.isdisjoint(pair)]


def dictionary() -> list[Pairs]:
    """Return the pairs of whole sentences of each dictionary line that has some, remarks in brackets left out."""
    if not DICTIONARY.exists():
        raise FileNotFoundError(
            f"Expected the Ding dictionary in {DICTIONARY}. Received: no such file. To install it: apt-get install "
            f"trans-de-en."
        )
    entries = []
    for line in DICTIONARY.read_text(encoding="utf-8").splitlines():
        german, _, english = line.partition(" :: ")
        sides = [[plain(part) for part in side.split(" | ")] for side in (german, english)]
        if line.startswith("#") or len(sides[0]) != len(sides[1]):
            continue
        pairs = dict.fromkeys(pair for pair in zip(*sides, strict=True) if all(map(SENTENCE.match, pair)))
        entries += [list(pairs)] if pairs else []
    return entries


def plain(text: str) -> str:
    """Return the first of several wordings, without remarks."""
    return " ".join(REMARK.sub(" ", text).partition(";")[0].split())


def made_up() -> list[Pairs]:
    """Make sentences whose translation has other words in the same order."""
    random = np.random.default_rng(0)
    sentences = random.integers(0, 20, (400, 4))
    return [
        [(" ".join(f"d{word}" for word in row) + ".", " ".join(f"e{word}" for word in row) + ".")]
        for row in sentences
    ]


def learn_pieces(pairs: Pairs, size: int) -> sentencepiece.SentencePieceProcessor:
    """Learn pieces of words, common to both languages, from the sentences to train on."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(sentence for pair in pairs for sentence in pair),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        pad_id=PAD,
        bos_id=BEGIN,
        eos_id=END,
        unk_id=3,
        num_threads=1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def build(data: Data, *, width: int, dropout: float) -> keras.Model:
    """Read with a bidirectional LSTM; write with another, from its last state and with attention to its outputs."""
    words = data.pieces.vocab_size()
    german = keras.Input((LENGTH,), dtype="int32", name="german")
    english = keras.Input((LENGTH,), dtype="int32", name="english")
    read = layers.Embedding(words, width, mask_zero=True, name="german_embedding")(german)
    read = layers.Dropout(dropout)(read)
    reader = layers.LSTM(width // 2, return_sequences=True, return_state=True)
    read, *states = layers.Bidirectional(reader, name="encoder")(read)
    begin = [layers.Concatenate()(states[index::2]) for index in (0, 1)]  # forwards and backwards, outputs and cells
    written = layers.Embedding(words, width, mask_zero=True, name="english_embedding")(english)
    written = layers.Dropout(dropout)(written)
    written = layers.LSTM(width, return_sequences=True, name="decoder")(written, initial_state=begin)
    found = layers.Attention(use_scale=True, name="attention")([written, read])
    joined = layers.Concatenate()([written, found])
    joined = layers.Dropout(dropout)(layers.Dense(width, activation="tanh", name="combine")(joined))
    return keras.Model([german, english], layers.Dense(words, name="softmax")(joined))


def score(model: keras.Model, data: Data) -> float:
    """Return the BLEU of the translations of the test sentences."""
    translations = data.pieces.decode([line.tolist() for line in translate(model, data.test_x)])
    return float(sacrebleu.corpus_bleu(translations, [data.references]).score)


def translate(model: keras.Model, german: np.ndarray) -> list[np.ndarray]:
    """Take the likeliest piece at each position; return the pieces before the first END."""
    english = np.full((len(german), LENGTH + 1), PAD, "int32")
    english[:, 0] = BEGIN
    for place in range(LENGTH):
        logits = model.predict((german, english[:, :LENGTH]), batch_size=256, verbose=0)
        english[:, place + 1] = logits[:, place].argmax(axis=-1)
    lines = english[:, 1:]
    ends = np.where((lines == END).any(axis=1), (lines == END).argmax(axis=1), LENGTH)
    return [line[:end] for line, end in zip(lines, ends, strict=True)]
