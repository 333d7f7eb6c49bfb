"""Gemma 3 270M with the tokens of two corpora alone: tokens, bytes, scores, text, and the file's time of a token.

nice python bench/vocabulary.py [FOLDER]   # of the files, which are kept; without, none are written

The corpora are the World English Bible and the PostgreSQL manual, with the Jargon File as other text; they and the
weights come from packages, as for sample_apps/prune_language_model.py. Times are those of a busy machine: only the
ratio counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras_hub
import numpy as np

import tfprune
from sample_apps.data.cache import CACHE
from sample_apps.language_model import measures, subjects, texts, writers
from tfprune.export import to_generator
from tfprune.report import table

CORPORA, OTHER = ("bible", "documentation"), "jargon"
READ = 512  # texts of each corpus that are decoded again
SCORED = 64  # tokens of each text on which scores are compared
LENGTH = 512


def sections(name: str) -> list[str]:
    """Return all texts of a corpus."""
    return [section.text for part in texts.load(name) for section in part]


def decoded(tokenizer: Any, passages: list[str]) -> int:
    """Return how many texts come back as they were."""
    return sum(str(tokenizer.detokenize(tokenizer(text))) == text for text in passages)


def apart(dense: Any, small: Any, report: Any, windows: np.ndarray) -> float:
    """Return the largest difference of the scores of remaining tokens."""
    new = np.full(report.tokens[0], -1)
    new[report.kept] = np.arange(len(report.kept))
    largest = 0.0
    for window in windows:
        scores = [
            np.asarray(model(measures.inputs(ids[None]), training=False))
            for model, ids in ((dense, window), (small, new[window]))
        ]
        largest = max(largest, float(np.abs(scores[0][..., report.kept] - scores[1]).max()))
    return largest


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    subject = subjects.load("gemma", None, CACHE)
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer=subject.tokenizer, sequence_length=LENGTH)
    dense = keras_hub.models.Gemma3CausalLM(backbone=subject.model, preprocessor=preprocessor)
    passages = [text for name in CORPORA for text in sections(name)]
    files = {"dense": dense}
    for characters in ("all", "seen"):
        small, report = tfprune.transformers.trim_vocabulary(
            dense, passages, characters=characters, check_on=sections(OTHER)
        )
        gone = (report.tokens[0] - report.tokens[1]) * dense.backbone.hidden_dim * 4
        windows = np.concatenate([subject.evaluation[name][:2, :SCORED] for name in CORPORA])
        scores = apart(dense, small, report, windows)
        print(f"characters={characters!r}\n{report}")
        print(f"bytes as planned: {report.bytes[0] - gone:,}, {report.bytes[0] - gone == report.bytes[1]}")
        print(f"largest difference of a score on {len(windows)} windows of {SCORED} tokens: {scores}")
        print(f"texts that come back: {decoded(report.tokenizer, passages[:: len(passages) // READ])} of", end=" ")
        print(len(passages[:: len(passages) // READ]), flush=True)
        files[characters] = small
    if folder:
        export(files, folder)


def export(models: dict[str, Any], folder: Path) -> None:
    """Write the int8 files, and compare their bytes and the time of a token."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.tflite" for name in models}
    prompts = ["In the beginning was the Word", "The database server writes a log"]
    for name, model in models.items():
        if not paths[name].exists():
            report = to_generator(
                model, paths[name], length=LENGTH, prefill=(64,), quantize="int8", check_on=prompts, verbose=0
            )
            print(f"{name}\n{report}", flush=True)
    rows = [
        [name, f"{path.stat().st_size:,}", f"{writers.time_of_a_token(paths['dense'], path):.2f}"]
        for name, path in paths.items()
    ]
    print(table(["int8 file", "bytes", "time of a token"], rows))


if __name__ == "__main__":
    main()
