"""One run for each way to choose channels: prune, meta-train, prune, fine-tune, export, judge."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import tfprune
from sample_apps.few_shot import judging, pruning, training
from sample_apps.few_shot.networks import SHOTS, WAYS, Distances, build, embedding_of, query_loss
from tfprune.export import Runner, to_tflite

KEEP = (0.6, 0.22)  # of the dense model's parameters, after each pruning
FINE_TUNING = 0.5  # learning rate after the second pruning, as a fraction
DENSE, SMALL = "dense", "small from the start"
Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How long to train and test; `episodes` before the first pruning, after it, and after the second."""

    episodes: tuple[int, int, int]
    tests: int
    width: int
    output: Path


@dataclass(frozen=True)
class Learner:
    """How a network is meta-trained, and judged by its accuracy with five shots."""

    name: str
    head: Callable[[], keras.layers.Layer]
    train: Callable[..., keras.Model]
    rate: float


PROTOTYPES = Learner("ProtoNet", lambda: Distances(WAYS, SHOTS, name="distances"), training.train_prototypes, 1e-3)
MAML = Learner("MAML", lambda: keras.layers.Dense(WAYS, name="class"), training.train_maml, 2e-3)
METHODS = {"ProtoNet": (DENSE, *pruning.METHODS, SMALL), "MAML": (DENSE, "DACIS", "magnitude", "random")}


def run(learner: Learner, plan: Plan, data: Any, *, seed: int, methods: list[str]) -> Iterator[Record]:
    """Yield the results of some methods, which start from one network that is trained for a while."""
    start = build(learner.head(), width=plan.width, seed=seed)
    first, second, third = plan.episodes
    tasks = functools.partial(training.episodes, data[0])
    learner.train(start, tasks(count=first, seed=10 * seed), rate=learner.rate)
    before = five_shots(learner, start, data[1], plan)
    for method in methods:
        began = time.perf_counter()
        stages: dict[str, float] = {"before": before}
        if method == DENSE:
            model = keras.models.clone_model(start)
            model.set_weights(start.get_weights())
            learner.train(model, tasks(count=second, seed=10 * seed + 1), rate=learner.rate)
            learner.train(model, tasks(count=third, seed=10 * seed + 2), rate=FINE_TUNING * learner.rate)
        elif method == SMALL:
            model = build(learner.head(), width=small_width(learner, start.count_params()), seed=seed)
            learner.train(model, tasks(count=first, seed=10 * seed), rate=learner.rate)
            learner.train(model, tasks(count=second, seed=10 * seed + 1), rate=learner.rate)
            learner.train(model, tasks(count=third, seed=10 * seed + 2), rate=FINE_TUNING * learner.rate)
        else:
            model = prune_and_train(learner, plan, data, start=start, seed=seed, method=method, stages=stages)
        record = {"learner": learner.name, "method": method, "seed": seed, "episodes": list(plan.episodes)}
        record |= {"tests": plan.tests, "parameters": embedding_of(model).count_params(), "stages": stages}
        record["widths"] = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        record |= judged(learner, model, data[1], plan, name=f"{learner.name}-{method}-{seed}")
        yield record | {"seconds": time.perf_counter() - began}


def prune_and_train(
    learner: Learner, plan: Plan, data: Any, *, start: keras.Model, seed: int, method: str, stages: dict[str, float]
) -> keras.Model:
    """Prune to each size in turn and train after it; note the accuracy before and after each training."""
    tasks, dense, model = functools.partial(training.episodes, data[0]), start.count_params(), start
    evidence, meta = tasks(count=20, seed=10 * seed + 5), None
    for number, keep in enumerate(KEEP):
        settings = {"method": method, "tasks": evidence, "loss": query_loss, "seed": seed}
        model = pruning.pruned(model, int(keep * dense), **settings, is_trained=number > 0)
        stages[f"pruned to {keep:.0%}"] = five_shots(learner, model, data[1], plan)
        meta = tfprune.MetaGradients(model)
        rate = learner.rate * (FINE_TUNING if number else 1)
        count = plan.episodes[number + 1]
        learner.train(model, tasks(count=count, seed=10 * seed + 1 + number), rate=rate, meta=meta)
        stages[f"trained at {keep:.0%}"] = five_shots(learner, model, data[1], plan)
    return model


def small_width(learner: Learner, parameters: int) -> int:
    """Return the largest width whose network has no more parameters than the pruned ones."""
    fits = [
        width
        for width in range(1, 65)
        if build(learner.head(), width=width, seed=0).count_params() <= KEEP[-1] * parameters
    ]
    return max(fits)


def five_shots(learner: Learner, model: keras.Model, glyphs: Any, plan: Plan) -> float:
    """Return the accuracy in the middle of a run, on fewer episodes where these take long."""
    if learner.name == "MAML":
        return judging.by_adaptation(model, glyphs, episodes=min(plan.tests, 20))
    embeddings = embedding_of(model).predict(glyphs.x, batch_size=256, verbose=0)
    return judging.by_prototypes(embeddings, glyphs.y, shots=SHOTS, episodes=plan.tests)


def judged(learner: Learner, model: keras.Model, glyphs: Any, plan: Plan, *, name: str) -> Record:
    """Return accuracies; those of ProtoNet are of the exported file, because the file is what ships."""
    if learner.name == "MAML":
        return {"accuracy": {str(SHOTS): judging.by_adaptation(model, glyphs, episodes=plan.tests)}}
    path = plan.output / f"{name.replace(', ', '-').replace(' ', '-')}.tflite"
    embedding = embedding_of(model)
    report = to_tflite(embedding, path, check_on=glyphs.x[:100])
    embeddings = Runner(path).predict(glyphs.x)
    shots = {
        str(number): judging.by_prototypes(embeddings, glyphs.y, shots=number, episodes=plan.tests)
        for number in judging.ALL_SHOTS
    }
    return {"accuracy": shots, "bytes": report.bytes, "file": path.name}
