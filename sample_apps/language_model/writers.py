"""Files of a language model that write on a device: how they are made, what they write, and how fast."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub

from sample_apps.language_model import cuts, report, subjects
from tfprune.export import Generator, GeneratorReport, benchmark, to_generator

Row = dict[str, Any]
PROMPT = "It is a truth universally acknowledged, that"  # to be continued; no text of the calibration has it
TOKENS = 128  # of each text, by which files are compared; the first begins the text
PAIRS = 7  # of runs that take turns
TURN = 30  # tokens that are written in one of them
# What is removed, without training: the best row of each size on docs/gallery/prune_language_model.md.
CUTS = [
    {"removed": 0.0},
    {"removed": 0.25, "of": "units", "score": "activation", "update": "sequential", "calibration": "both"},
    {"removed": 0.5, "of": "units", "score": "activation", "update": "parallel", "calibration": "both"},
    {"removed": 0.25, "of": "blocks", "score": "activation", "update": "sequential", "calibration": "both"},
]
FORMS = {"float32": None, "int8": "int8", "int4": "int4"}


def smaller(subject: subjects.Gemma, cut: Row) -> keras.Model:
    """Return the model with a part removed."""
    row = {"model": "gemma", **cut}
    return cuts.cut(subject.model, row, subject.calibration) if cut["removed"] else subject.model


def export(
    subject: subjects.Gemma, backbone: keras.Model, path: Path, *, quantize: str | None, length: int
) -> GeneratorReport:
    """Write a file, which is compared with Keras on the beginning of each text."""
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer=subject.tokenizer, sequence_length=length)
    writer = keras_hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=preprocessor)
    texts = [tokens[:32].tolist() for tokens in beginnings(subject).values()]
    return to_generator(writer, path, length=length, prefill=(64,), quantize=quantize, check_on=texts)


def beginnings(subject: subjects.Gemma) -> dict[str, Any]:
    """Return the first tokens of each test text."""
    return {name: windows[0, :TOKENS] for name, windows in subject.evaluation.items()}


def measure(subject: subjects.Gemma, path: Path, *, max_tokens: int) -> dict[str, Any]:
    """Return a file's perplexity on each text, and what it writes after the prompt."""
    generator = Generator(path, threads=2)
    return {
        "perplexity": {name: generator.perplexity(tokens.tolist()) for name, tokens in beginnings(subject).items()},
        "text": PROMPT + generator.generate(PROMPT, max_tokens=max_tokens),
    }


def time_of_a_token(dense: Path, path: Path) -> float:
    """Return the time of a token, as a multiple of a dense file's: the median of pairs that take turns."""
    if dense == path:
        return 1.0
    pairs = [[benchmark(file, runs=TURN).median_ms for file in (dense, path)] for _ in range(PAIRS)]
    return statistics.median(theirs / ours for ours, theirs in pairs)


def text(results: Sequence[Row]) -> str:
    """Return the results as a table of Markdown, and what each file wrote."""
    rows = [row for row in results if "refused" not in row]
    written = [f"**{report.removed(row)}, {row['form']}**\n\n> {' '.join(row['text'].split())}" for row in rows]
    return "\n\n".join([_table(results), f"{report.machines(results)}.", *written]) + "\n"


def _table(results: Sequence[Row]) -> str:
    header = ["removed", "form", "MB", "equal tokens", "Bible", "documentation", "Jargon File", "time of a token"]
    return report.table(header, [[report.removed(result), result["form"], *_figures(result)] for result in results])


def _figures(result: Row) -> list[str]:
    if "refused" in result:
        return ["refused", "", "", "", "", ""]
    return [
        f"{result['bytes'] / 1e6:,.0f}",
        f"{result['equal']} of {result['written']}",
        *(f"{result['perplexity'][name]:,.1f}" for name in ("bible", "documentation", "jargon")),
        f"{result['time']:.2f}",
    ]
