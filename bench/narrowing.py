"""Fewer hidden dimensions in a small language model of Gemma's class: which ones, and how the norms are scaled.

python bench/narrowing.py build/joint_rounding --seeds 1   # trains the models of joint_rounding.py if not there

A quarter of the hidden dimensions goes: those that are smallest in the outputs of the norms on 128 windows
(`tfprune.transformers.narrow`), the last ones, or random ones (three draws). "Scales unchanged" leaves the scales of
the norms as they are, as in Minitron. With --steps, the first model is trained on for some steps, on the text alone
or with the whole model as its teacher, at several rates. The perplexity is that of a byte of Luke; "chosen by" is
that of other books that were not trained on.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from joint_rounding import BATCH, CALIBRATED, MEASURED, inputs, perplexity, trained, windows

import tfprune
from sample_apps.language_model import texts
from tfprune.compact.narrow import _assign_all, _build_narrower, _Cut, _embedding_factor, _observed, _stream_norms
from tfprune.models.anatomy import as_numpy

KEPT, DRAWS, RATES = 0.75, 3, (1e-3, 3e-3)


class NarrowModels:
    """The narrower models of one model, by any choice of dimensions."""

    def __init__(self, model: keras.Model, samples: np.ndarray) -> None:
        self.model, self.width = model, round(KEPT * model.hidden_dim)
        _, self.stream = _build_narrower(model, self.width)
        norms = _stream_norms(model, self.stream)
        with _observed(norms) as self.statistics:
            for batch in samples.reshape(-1, BATCH, samples.shape[1]):
                model(inputs(batch), training=False)
        self.norms = tuple(norm for layer in self.statistics.by_layer for norm in norms if id(norm.layer) == layer)

    def model_with(self, dimensions: np.ndarray, *, energies: float | None = None) -> keras.Model:
        """Return the model with some dimensions; with equal energies if they are given."""
        narrower, stream = _build_narrower(self.model, self.width)
        dimensions = np.sort(dimensions)
        factor = _embedding_factor(self.model, narrower, stream=stream, norms=self.norms, dimensions=dimensions)
        by_norm = tuple(self.statistics.energy(norm, dimensions) for norm in self.norms)
        cut = _Cut(stream, self.norms, dimensions, by_norm if energies is None else (energies,) * len(by_norm))
        _assign_all(narrower, cut.values([as_numpy(variable) for variable in self.model.variables], factor=factor))
        return narrower


def with_scores(backbone: keras.Model) -> keras.Model:
    return keras.Model(backbone.input, backbone.get_layer("token_embedding")(backbone.output, reverse=True))


def train(backbone: keras.Model, tokens: np.ndarray, rate: float, teacher: keras.Model | None) -> None:
    """Train a backbone for one pass over some windows."""
    model = with_scores(backbone)
    if teacher is not None:
        model = tfprune.distilled(model, with_scores(teacher), tfprune.Distillation(temperature=1))
    schedule = keras.optimizers.schedules.CosineDecay(rate, len(tokens) // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss)
    model.fit(inputs(tokens[:, :-1]), tokens[:, 1:], batch_size=BATCH, verbose=0)


def show(*cells: object) -> None:
    sys.stdout.write("\t".join(map(str, cells)) + "\n")
    sys.stdout.flush()


def measure(folder: Path, seeds: int, steps: int) -> None:
    text = texts.load("bible")
    test, choice = windows(text.evaluation, MEASURED, 0), windows(text.choice, MEASURED, 0)
    for seed in range(seeds):
        model = trained(seed, folder / f"{seed}.weights.h5", text.calibration)
        samples = windows(text.calibration, CALIBRATED, 1000 + seed)[:, :-1]
        show(seed, "dense", f"{perplexity(model, test):.3f}")
        width = round(KEPT * model.hidden_dim)
        smaller, report = tfprune.transformers.narrow(model, inputs(samples), hidden_dim=width, batch_size=BATCH)
        narrowing, draws = NarrowModels(model, samples), np.random.default_rng(seed)
        show(report)
        show(seed, "important", f"{perplexity(smaller, test):.3f}")
        unscaled = narrowing.model_with(report.kept, energies=KEPT)
        show(seed, "important, scales unchanged", f"{perplexity(unscaled, test):.3f}")
        show(seed, "the first", f"{perplexity(narrowing.model_with(np.arange(width)), test):.3f}")
        for _ in range(DRAWS):
            random_model = narrowing.model_with(draws.permutation(model.hidden_dim)[:width])
            show(seed, "random", f"{perplexity(random_model, test):.3f}")
        values = smaller.get_weights()
        for (way, teacher), rate in itertools.product(
            {"text": None, "teacher": model}.items(), RATES if steps else ()
        ):
            smaller.set_weights(values)
            train(smaller, windows(text.calibration, steps * BATCH, 2000 + seed), rate, teacher)
            by = f"chosen by {perplexity(smaller, choice):.3f}"
            show(seed, f"{steps} steps, {way}, rate {rate}", by, f"{perplexity(smaller, test):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where trained models are kept")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="of training after the cut")
    options = parser.parse_args()
    measure(options.folder, options.seeds, options.steps)
