"""all-MiniLM-L6-v2 as an int8 file, quantized after training: how near its vectors are to the float model's.

    python bench/int8_retrieval.py [--preset PRESET]

As in sample_apps/prune_language_model.py, titles of the PostgreSQL manual look for their passages; recall@1 is the
share that finds its own. The file is calibrated on sentences of other pages and of the Bible; skip="auto" chooses the
operators in float by the cosine on further sentences. Needs KerasHub and the Debian packages postgresql-doc,
sword-text-web and libsword-utils; the weights come from a package that is downloaded once, unless a preset is given.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import keras_hub
import numpy as np
from common import Row, at_least, at_most

import tfprune
from sample_apps.data.cache import CACHE
from sample_apps.language_model import measures, texts, weights
from tfprune.export import ExportReport, Quantization, Runner, benchmark, to_tflite
from tfprune.export.file.model_file import ModelFile

CALIBRATION, PAIRS, SENTENCES = 256, 500, 200
COSINE, POINTS = 0.995, 0.5
Inputs = dict[str, np.ndarray]
MOST_LOST = 0.004  # of the cosine, where operators are chosen: a little less than the bar leaves
UNCHECKED = 100.0  # a tolerance: what a file is worth is measured here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="a preset of KerasHub, instead of the package")
    options = parser.parse_args()
    source = options.preset or str(weights.preset("minilm", CACHE))
    tokenizer = keras_hub.models.BertTokenizer.from_preset(source)
    model = measures.embedder(keras_hub.models.BertBackbone.from_preset(source))
    calibration, choice, *tests = (measures.encode(each, tokenizer) for each in data())
    expected = [model.predict(each, verbose=0) for each in tests]
    recall = measures.recall(*expected[:2])
    sys.stdout.write(f"float: recall@1 {100 * recall:.1f} %\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        described("float", to_tflite(model, path, check_on=first(calibration)), path)
        metric = keras.metrics.CosineSimilarity(name="cosine")
        limit = tfprune.Limit(MOST_LOST, data=(choice, model.predict(choice, verbose=0)), metric=metric)
        auto = {"quantize": Quantization("int8", skip="auto"), "max_drop": limit}
        for name, options in {"int8": {"quantize": "int8"}, "int8, skip='auto'": auto}.items():
            arguments = {"calibration": calibration, "check_on": first(calibration), "tolerance": UNCHECKED}
            start = time.perf_counter()
            report = to_tflite(model, path, **options, **arguments)
            sys.stdout.write(f"{name}: to_tflite took {time.perf_counter() - start:.0f} s\n")
            described(name, report, path)
            found = [unit(Runner(path).predict(each)) for each in tests]
            for text, *vectors in zip(("titles", "passages", "sentences of Luke"), found, expected, strict=True):
                what = f"{name}: mean cosine to float, {text}"
                show(at_least(what, measures.cosine(*vectors), COSINE, unit="", digits=4))
            lost = 100 * (recall - measures.recall(*found[:2]))
            show(at_most(f"{name}: points of recall@1 lost", lost, POINTS, unit="", digits=2))


def data() -> Iterator[Sequence[str]]:
    """Yield what to calibrate on and to choose by, then titles with their passages, and sentences of Luke."""
    manual, bible = texts.load("documentation"), texts.load("bible")
    yield [text for each in (manual, bible) for text in measures.sentences(each.calibration, CALIBRATION // 2)]
    yield [text for each in (manual, bible) for text in measures.sentences(each.choice, CALIBRATION // 2)]
    yield from measures.pairs(manual.evaluation, PAIRS)
    yield measures.sentences(bible.evaluation, SENTENCES)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divide by the lengths, which 8 bits do not give exactly."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def first(samples: Inputs) -> Inputs:
    return {name: array[:: CALIBRATION // 16] for name, array in samples.items()}


def described(name: str, report: ExportReport, path: Path) -> None:
    milliseconds = benchmark(path, runs=50).min_ms
    sizes = {tensor.dtype: 0 for tensor in ModelFile.open(path).graph.weights}
    for tensor in ModelFile.open(path).graph.weights:
        sizes[tensor.dtype] += tensor.size
    floats = sizes.get("float32", 0) / sum(sizes.values())
    stays = f", {len(report.in_float)} operators and {floats:.1%} of the weights in float" if report.in_float else ""
    sys.stdout.write(f"{name}: {report.tflite_bytes:,} bytes, {milliseconds:.1f} ms{stays}\n")
    sys.stdout.flush()


def show(row: Row) -> None:
    sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
