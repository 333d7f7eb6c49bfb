"""Int8 files of text classifiers of KerasHub, trained on real text: accuracy lost, and weights in float.

    python bench/int8_transformers.py [NAME ...]

Tiny classifiers tell books of the World English Bible from their verses. Needs KerasHub, and the Debian packages
sword-text-web and libsword-utils. Each model is exported in one call, with `Quantization("int8", skip="auto")`, and
then trained with `quantize_aware`: the file of that is compared with Keras, on verses of chapters held out.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least, at_most
from keras_hub import models

import tfprune
from tfprune.export import Quantization, Runner, to_tflite
from tfprune.export.file.model_file import ModelFile

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_apps" / "language_model"))
import texts  # noqa: E402

BOOKS = ("Genesis", "Psalms", "Proverbs", "Isaiah", "Matthew", "Romans")
LENGTH, VOCABULARY, EPOCHS, CALIBRATION = 32, 2000, 6, 200
WORDS_APART = 24  # words of a sample; the rest of it is padding
POINTS, IN_FLOAT, WITHIN_A_STEP = 1.0, 0.1, 0.995
APART = 0.1  # points: a sample of the tests, or none
STEPS, ROUNDING = 255, 0.01  # between the lowest and the highest of an int8 output; of a step, for float32
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


@dataclass(frozen=True)
class Split:
    """Samples to train or to test with, and their books."""

    x: dict[str, np.ndarray]
    y: np.ndarray

    def accuracy(self, outputs: np.ndarray) -> float:
        return float(np.mean(outputs.argmax(-1) == self.y))

    def some(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        step = len(self.y) // CALIBRATION
        return {key: array[::step] for key, array in self.x.items()}, self.y[::step]


def measure(names: list[str]) -> None:
    x, y, is_test = samples()
    for name in names or CLASSIFIERS:
        model = trained(name, {key: array[~is_test] for key, array in x.items()}, y[~is_test])
        train, test = (Split({key: x[key][part] for key in model.input}, y[part]) for part in (~is_test, is_test))
        measure_calibrated(name, model, train, test)
        measure_trained(name, model, train, test)


def measure_calibrated(name: str, model: keras.Model, train: Split, test: Split) -> None:
    right = test.accuracy(model.predict(test.x, verbose=0))
    calibration, labels = train.some()
    limit = tfprune.Limit(POINTS / 100, data=(calibration, labels))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        form = Quantization("int8", skip="auto")
        report = to_tflite(model, path, quantize=form, calibration=calibration, max_drop=limit, batch=1)
        accuracy = test.accuracy(Runner(path).predict(test.x))
        share = share_in_float(path)
    text = f"{100 * right:.2f} % in float, {len(report.in_float)} operators in float"
    what = f"{name}, {report.tflite_bytes:,} bytes, {text}"
    show(at_most(f"{what}: points lost", 100 * (right - accuracy), POINTS, unit="", digits=2))
    show(at_most(f"{name}: share of weights in float", share, IN_FLOAT, unit=""))


def measure_trained(name: str, model: keras.Model, train: Split, test: Split) -> None:
    """Train a classifier for 8 bits, and compare its file with Keras."""
    aware = tfprune.quantize_aware(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(keras.optimizers.Adam(1e-4), loss)
    aware.fit(train.x, train.y, batch_size=64, epochs=1, verbose=0)
    expected = aware.predict(test.x, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        form = Quantization("int8", allow_float=True)
        to_tflite(aware, path, quantize=form, check_on=train.some()[0], batch=1)
        outputs = Runner(path).predict(test.x)
    bounds = tfprune.quantization_report(aware).rows[-1].ranges["output"]
    assert bounds is not None
    step = (bounds[1] - bounds[0]) / STEPS
    keras_right, file_right = (100 * test.accuracy(each) for each in (expected, outputs))
    what = f"{name}, trained for 8 bits, {keras_right:.2f} % in Keras, {file_right:.2f} % in the file"
    show(at_most(f"{what}: points apart", abs(keras_right - file_right), APART, unit="", digits=2))
    share = float(np.mean(np.abs(outputs - expected) <= (1 + ROUNDING) * step))
    show(at_least(f"{name}: share of outputs within one step of Keras", share, WITHIN_A_STEP, unit="", digits=4))


def show(row: Row) -> None:
    sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    measure(sys.argv[1:])
