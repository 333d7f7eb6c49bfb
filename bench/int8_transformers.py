"""Int8 files of text classifiers of KerasHub, trained on real text: accuracy lost, and weights in float.

    python bench/int8_transformers.py [NAME ...]

Tiny classifiers tell books of the World English Bible from their verses. Needs KerasHub, and the Debian packages
sword-text-web and libsword-utils. Each model is exported in one call, with `Quantization("int8", skip="auto")`.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from common import Row, at_most
from keras_hub import models

import tfprune
from tfprune.export import Quantization, Runner, to_tflite
from tfprune.export.file.model_file import ModelFile

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_apps" / "language_model"))
import texts  # noqa: E402

BOOKS = ("Genesis", "Psalms", "Proverbs", "Isaiah", "Matthew", "Romans")
LENGTH, VOCABULARY, EPOCHS, CALIBRATION = 32, 2000, 6, 200
WORDS_APART = 24  # words of a sample; the rest of it is padding
POINTS, IN_FLOAT = 1.0, 0.1
SIZES = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 128}
OPTIONS = {"num_classes": len(BOOKS)}

CLASSIFIERS: dict[str, Callable[[], keras.Model]] = {
    "Bert": lambda: models.BertTextClassifier(models.BertBackbone(**SIZES, max_sequence_length=LENGTH), **OPTIONS),
    "DistilBert": lambda: models.DistilBertTextClassifier(
        models.DistilBertBackbone(**SIZES, max_sequence_length=LENGTH), **OPTIONS
    ),
    "Roberta": lambda: models.RobertaTextClassifier(
        models.RobertaBackbone(**SIZES, max_sequence_length=LENGTH), hidden_dim=64, **OPTIONS
    ),
    "Albert": lambda: models.AlbertTextClassifier(
        models.AlbertBackbone(**SIZES, embedding_dim=32, max_sequence_length=LENGTH), **OPTIONS
    ),
    "DebertaV3": lambda: models.DebertaV3TextClassifier(
        models.DebertaV3Backbone(**SIZES, max_sequence_length=LENGTH, bucket_size=16), hidden_dim=64, **OPTIONS
    ),
}


def samples() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return parts of chapters as ids and masks, the number of the book of each, and which are for tests."""
    chapters = [section for section in texts.bible() if section.document in BOOKS]
    split = [re.findall(r"[a-z']+", section.text.lower()) for section in chapters]
    common = Counter(word for words in split for word in words).most_common(VOCABULARY - 3)
    numbers = {word: number for number, (word, _) in enumerate(common, start=3)}
    generator, ids, labels, tests = np.random.default_rng(0), [], [], []
    for place, (section, words) in enumerate(zip(chapters, split, strict=True)):
        for start in range(0, len(words) - WORDS_APART, WORDS_APART):
            count = generator.integers(WORDS_APART // 2, LENGTH - 1)
            row = [1, *(numbers.get(word, 2) for word in words[start : start + count])]
            ids.append(row + [0] * (LENGTH - len(row)))
            labels.append(BOOKS.index(section.document))
            tests.append(place % 5 == 0)  # whole chapters
    tokens = np.array(ids, np.int32)
    masks = (tokens > 0).astype(np.int32)
    x = {"token_ids": tokens, "padding_mask": masks, "segment_ids": np.zeros_like(tokens)}
    return x, np.array(labels), np.array(tests)


def trained(name: str, x: dict[str, np.ndarray], y: np.ndarray) -> keras.Model:
    """Return a classifier on inputs of a fixed length, as DeBERTa needs them."""
    keras.utils.set_random_seed(0)
    model = CLASSIFIERS[name]()
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input((LENGTH,), None, tensor.dtype, name=tensor.name), model.input
    )
    model = keras.Model(inputs, model(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit({key: x[key] for key in inputs}, y, batch_size=64, epochs=EPOCHS, verbose=0)
    return model


def share_in_float(path: Path) -> float:
    """Return the share of a file's weights that are floats."""
    sizes: Counter[bool] = Counter()
    for weight in ModelFile.open(path).graph.weights:
        sizes[weight.dtype.startswith("float")] += weight.size
    return sizes[True] / sizes.total()


def measure(names: list[str]) -> None:
    x, y, is_test = samples()
    for name in names or CLASSIFIERS:
        model = trained(name, {key: array[~is_test] for key, array in x.items()}, y[~is_test])
        train, test = ({key: x[key][part] for key in model.input} for part in (~is_test, is_test))
        calibration = {key: array[:: len(array) // CALIBRATION] for key, array in train.items()}
        right = np.mean(model.predict(test, verbose=0).argmax(-1) == y[is_test])
        limit = tfprune.Limit(POINTS / 100, data=(calibration, y[~is_test][:: len(y[~is_test]) // CALIBRATION]))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            form = Quantization("int8", skip="auto")
            report = to_tflite(model, path, quantize=form, calibration=calibration, max_drop=limit, batch=1)
            accuracy = np.mean(Runner(path).predict(test).argmax(-1) == y[is_test])
            share = share_in_float(path)
        text = f"{100 * right:.2f} % in float, {len(report.in_float)} operators in float"
        what = f"{name}, {report.tflite_bytes:,} bytes, {text}"
        show(at_most(f"{what}: points lost", 100 * float(right - accuracy), POINTS, unit="", digits=2))
        show(at_most(f"{name}: share of weights in float", share, IN_FLOAT, unit=""))


def show(row: Row) -> None:
    sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    measure(sys.argv[1:])
