"""One budget over vocabulary, blocks, units and heads against one kind alone, at equal bytes, on held-out text.

python bench/one_budget.py minilm 0.7 0.5        # fractions of the bytes; some 15 processor minutes each
python bench/one_budget.py minilm 0.75 --keep-vocabulary
python bench/one_budget.py gemma 0.5 0.3

The plan is made on passages of the World English Bible and the PostgreSQL manual, and the vocabulary keeps the tokens
of their calibration parts. Where one kind alone cannot meet the budget, rows follow of each kind together with the
vocabulary; weights and texts come from packages, as for sample_apps/prune_language_model.py. Nothing
is trained. MiniLM: the mean cosine to the dense model's sentence vectors on held-out sentences, higher is better.
Gemma: the cross-entropy per character of held-out windows, lower is better, so that models with other tokens compare.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np

import tfprune
from sample_apps.data.cache import CACHE
from sample_apps.language_model import measures, subjects, texts
from tfprune.methods.one_shot.plan_transformer import _MixedCuts
from tfprune.models.anatomy import weight_bytes
from tfprune.models.training import Batches
from tfprune.report import table

DOMAINS = ("documentation", "bible")
PASSAGES, SENTENCES = 32, 100  # of each kind of text
WINDOWS, TOKENS = 8, 128  # of Gemma, of each kind of text to plan on
HELD_OUT = 16  # windows of each kind


class Sentences:
    """MiniLM: sentence vectors against those of the dense model."""

    judge = "distance"

    def __init__(self, subject: Any) -> None:
        self.model, self.tokenizer = subject.model, subject.tokenizer
        passages = [section.text for name in DOMAINS for section in texts.load(name).calibration[:PASSAGES]]
        self.samples = measures.encode(passages, self.tokenizer)
        self.held_out = [
            text for name in DOMAINS for text in measures.sentences(texts.load(name).evaluation, SENTENCES)
        ]
        self.dense = self._vectors(self.model, self.tokenizer)

    def _vectors(self, model: keras.Model, tokenizer: Any) -> np.ndarray:
        return measures.embedder(model).predict(measures.encode(self.held_out, tokenizer), verbose=0)

    def held_out_figure(self, model: keras.Model, tokenizer: Any) -> float:
        return measures.cosine(self._vectors(model, tokenizer or self.tokenizer), self.dense)


class Windows:
    """Gemma: the surprise at held-out text."""

    judge = "perplexity"

    def __init__(self, subject: Any) -> None:
        self.model, self.tokenizer = subject.model, subject.tokenizer
        calibration = [subject.read(name).calibration for name in DOMAINS]
        rows = [measures.windows(sections, self.tokenizer, WINDOWS, length=TOKENS) for sections in calibration]
        self.samples = measures.inputs(np.concatenate(rows))
        self.read = [subject.read(name).evaluation for name in DOMAINS]

    def held_out_figure(self, model: keras.Model, tokenizer: Any) -> float:
        """Return the mean cross-entropy per character."""
        own, embedding = tokenizer or self.tokenizer, model.get_layer("token_embedding")
        total = characters = 0.0
        for sections in self.read:
            for row in measures.windows(sections, own, HELD_OUT, length=TOKENS):
                scores = embedding(model(measures.inputs(row[None]), training=False)[0, :-1], reverse=True)
                losses = keras.ops.sparse_categorical_crossentropy(row[1:], scores, from_logits=True)
                total += float(keras.ops.sum(losses))
                characters += len(str(own.detokenize(row[1:])))
        return total / characters


def row(name: str, loss: float, model: keras.Model, figure: float) -> list[str]:
    cells = [name, f"{weight_bytes(model):,}", f"{loss:.4f}", f"{figure:.4f}"]
    print(*cells, sep="  ", file=sys.stderr)  # the others may take an hour
    return cells


def with_vocabulary(subject: Any, kind: str, settings: dict[str, Any]) -> list[str]:
    """Return the row of the model without tokens and parts of one other kind."""
    name = f"vocabulary and {kind}"
    try:
        plan = tfprune.plan_transformer(subject.model, subject.samples, parts=["vocabulary", kind], **settings)
    except ValueError as error:
        return [name, "cannot meet it" if "budget" in str(error) else str(error), "", ""]
    model, tokenizer = plan.build()
    return row(name, plan.steps[-1].loss, model, subject.held_out_figure(model, tokenizer))


def rows(subject: Any, fraction: float, settings: dict[str, Any]) -> list[list[str]]:
    """Plan for a budget, and measure the model of the plan and that of each kind alone."""
    budget = tfprune.budget(bytes=fraction)
    plan = tfprune.plan_transformer(subject.model, subject.samples, budget=budget, **settings)
    print(plan, flush=True)
    rows = [row("the whole model", plan.loss, subject.model, subject.held_out_figure(subject.model, None))]
    model, tokenizer = plan.build()
    rows.append(row("the plan", plan.steps[-1].loss, model, subject.held_out_figure(model, tokenizer)))
    batches = list(Batches(subject.samples, subject.model, batch_size=8))
    cuts = _MixedCuts(subject.model, batches, criterion="activation", **settings)
    for each in plan.alone:
        if each.loss is None:
            rows.append([f"{each.part} alone", "cannot meet it", "", ""])
            continue
        model = cuts.build(each.levels)
        tokenizer = cuts.trimmed[1].tokenizer if each.part == "vocabulary" else None
        rows.append(row(f"{each.part} alone", each.loss, model, subject.held_out_figure(model, tokenizer)))
    if settings["texts"] and all(each.loss is None for each in plan.alone):
        others = [each.part for each in plan.alone if each.part != "vocabulary"]
        rows += [with_vocabulary(subject, kind, {"budget": budget, **settings}) for kind in others]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=("minilm", "gemma"))
    parser.add_argument("fractions", type=float, nargs="+", help="of the bytes")
    parser.add_argument("--keep-vocabulary", action="store_true")
    options = parser.parse_args()
    subject = {"minilm": Sentences, "gemma": Windows}[options.model](subjects.load(options.model, None, CACHE))
    passages = [section.text for domain in DOMAINS for section in texts.load(domain).calibration]
    settings = {
        "texts": None if options.keep_vocabulary else passages,
        "tokenizer": subject.tokenizer,
        "judge": subject.judge,
    }
    for fraction in options.fractions:
        title = f"{options.model} at {fraction:g} of the bytes"
        print(table([title, "bytes", "calibration loss", "held out"], rows(subject, fraction, settings)), flush=True)


if __name__ == "__main__":
    main()
