"""Files and speed of the dense model and of the best row of each size."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from sample_apps.language_model import measures, report
from tfprune.export import Runner, benchmark, to_tflite

Result = dict[str, Any]
PROMPT = 64  # tokens that are read before others are written
FORMS = {"float32": {}, "dynamic int8": {"quantize": "dynamic", "tolerance": 0.2}}
COLUMNS = {
    "gemma": {
        "MB": lambda result: f"{result['bytes'] / 1e6:,.1f}",
        "tokens read per second": lambda result: f"{result['read']:,.0f}",
        "tokens generated per second": lambda result: f"{result['written']:.1f}",
    },
    "minilm": {
        "file": lambda result: result["form"],
        "MB": lambda result: f"{result['bytes'] / 1e6:,.1f}",
        "ms": lambda result: f"{result['milliseconds']:.1f}",
        "largest difference from Keras": lambda result: f"{result['difference']:.1e}",
        "cosine, documentation": lambda result: f"{result['cosine']:.3f}",
    },
}


def of_gemma(model: keras.Model, tokens: np.ndarray) -> Iterator[Result]:
    """Yield the speed of a backbone in Keras: its blocks read two windows, `generate` adds to a prompt."""
    prompt = {
        name: np.pad(given[:1, :PROMPT], ((0, 0), (0, PROMPT))) for name, given in measures.inputs(tokens).items()
    }
    task = keras_hub.models.Gemma3CausalLM(backbone=model, preprocessor=None)
    task.compile(sampler="greedy")
    write = (
        task.make_generate_function()
    )  # what `generate` calls: KerasHub 0.32's fails on tokens without a tokenizer
    windows = measures.inputs(tokens[:2])
    read = _seconds(lambda: keras.ops.convert_to_numpy(model(windows, training=False)), repeats=5)
    written = _seconds(lambda: np.asarray(write(prompt, stop_token_ids=None)["token_ids"]), repeats=3)
    yield {
        "form": "Keras",
        "bytes": 4 * model.count_params(),
        "read": tokens[:2].size / read,
        "written": PROMPT / written,
    }


def of_minilm(model: keras.Model, texts: dict[str, np.ndarray], dense: np.ndarray) -> Iterator[Result]:
    """Yield a model's files, each checked against Keras when it is written, and timed on one sentence at a time."""
    embedder = measures.embedder(model)
    expected = embedder.predict(texts, verbose=0)
    first = {name: given[:1] for name, given in texts.items()}
    for form, settings in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            written = to_tflite(
                embedder, path, check_on={name: given[:32] for name, given in texts.items()}, **settings
            )
            found = Runner(path).predict(texts)
            yield {
                "form": form,
                "bytes": written.bytes,
                "milliseconds": benchmark(path, samples=first, runs=200).median_ms,
                "difference": float(np.abs(found - expected).max()),
                "cosine": measures.cosine(found, dense),
            }


def text(model: str, results: Sequence[Result]) -> str:
    columns = COLUMNS[model]
    rows = [[*report.settings_of(result), *(form(result) for form in columns.values())] for result in results]
    return report.table([*report.HEADERS, *columns], rows) + f"\n\n{report.machines(results)}.\n"


def _seconds(run: Callable[[], Any], *, repeats: int) -> float:
    """Return the median of some runs, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))
