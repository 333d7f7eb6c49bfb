"""Processor time of calls that copy a model, against one copy of it by Keras, and how many models they build."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from common import Row, at_most

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from model_counts import counted_models

import tfprune

ROUNDS = 5


def bert(blocks: int) -> keras.Model:
    sizes = {"num_heads": 4, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 16}
    return keras_hub.models.BertBackbone(vocabulary_size=100, num_layers=blocks, **sizes)


def small_cnn() -> keras.Model:
    layers = keras.layers
    stack = [layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(), layers.Conv2D(16, 3, strides=2)]
    stack += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(), layers.Flatten()]
    return keras.Sequential([keras.Input((16, 16, 3)), *stack, layers.Dense(32, activation="relu"), layers.Dense(10)])


def rebuilt(model: keras.Model) -> keras.Model:
    return type(model).from_config(model.get_config())


def tokens(model: keras.Model, samples: int) -> dict[str, np.ndarray]:
    words = np.random.default_rng(0).integers(1, 100, (samples, 16))
    return {"token_ids": words, "segment_ids": 0 * words, "padding_mask": 1 + 0 * words}


def costs(
    model: keras.Model, copy: Callable[[Any], Any], calls: dict[str, Callable]
) -> Iterator[tuple[str, float, int]]:
    """Time each call against a copy, in turn; yield the median of the ratios, and the models that it builds."""
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    models: dict[str, int] = {}
    for number in range(-1, ROUNDS):  # the first one only warms up
        start = time.process_time()
        copy(model)
        unit = time.process_time() - start
        for name, call in calls.items():
            plan = tfprune.plan_shrink(model, 0.5)  # anew, as what is done once belongs to the plan
            start = time.process_time()
            with counted_models() as counted:
                call(model, plan)
            if number >= 0:
                ratios[name].append((time.process_time() - start) / unit)
            models[name] = counted.models
    for name in calls:
        yield name, statistics.median(ratios[name]), models[name]


CALLS: dict[str, Callable] = {
    "wrap": lambda model, plan: tfprune.wrap(model),
    "plan_shrink": lambda model, plan: tfprune.plan_shrink(model, 0.5),
    "shrink": lambda model, plan: tfprune.shrink(model, plan),
}
BARS = {
    "12-layer Bert": (2.0, 3.5, 4.5),
    "small CNN": (2.0, 2.5, 3.0),
}


def measure() -> Iterator[Row]:
    for name, model, copy in (
        ("12-layer Bert", bert(12), rebuilt),
        ("small CNN", small_cnn(), keras.models.clone_model),
    ):
        for (call, ratio, models), bar in zip(costs(model, copy, CALLS), BARS[name], strict=True):
            yield at_most(f"{call} of a {name} / one copy; it builds {models} models", ratio, bar, digits=1)
    toy = bert(4)
    prune = {"putri": lambda model, plan: tfprune.prune_units(model, tokens(model, 32), 0.3, verbose=0)}
    for call, ratio, models in costs(toy, rebuilt, prune):
        what = f"{call} of 4 blocks of Bert on 32 samples / one copy; it builds {models} models"
        yield Row(what, f"{ratio:.1f}x", "", True)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
