"""One run for each selection method: `prune_few_shot`, export, evaluate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import tfprune
from sample_apps.few_shot.judging import ALL_SHOTS, QUERIES, SEED, by_prototypes
from sample_apps.few_shot.networks import SHOTS, WAYS, build
from tfprune.allocation import LayerThreshold
from tfprune.criteria import DACIS, Random
from tfprune.export import Runner, to_tflite

KEEP = (0.6, 0.22)  # of the dense model's parameters, after each pruning
STAGES = ("first pruning", "trained", "second pruning", "fine-tuned")
FINE_TUNING = 0.5  # learning rate after the second pruning, as a fraction
EVIDENCE, STAGE_TESTS = 20, 100  # episodes that channels are scored on, and at most in the middle of a run
DENSE, SMALL, BY_TASK = "dense", "small from the start", "DACIS, the task decides"
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
    """How a network is meta-trained."""

    name: str
    how: Any
    rate: float
    methods: tuple[str, ...]


EQUAL = ("DACIS, equal widths", "magnitude", "random")
PROTOTYPES = Learner("ProtoNet", tfprune.few_shot.Prototypes(), 1e-3, (DENSE, "DACIS", *EQUAL, BY_TASK, SMALL))
MAML = Learner(
    "MAML", tfprune.few_shot.MAML(learning_rate=0.1, steps=3, test_steps=5), 2e-3, (DENSE, "DACIS", *EQUAL[1:])
)


def run(learner: Learner, plan: Plan, data: Any, *, seed: int, methods: list[str]) -> Iterator[Record]:
    """Yield the results of some methods, which start from one network that is trained for a while."""
    first = tfprune.few_shot.FewShotStage(None, plan.episodes[0], learner.rate)
    start, began = trained(learner, plan, data, network(learner, plan.width, seed), [first], seed=seed)
    for method in methods:
        started = time.perf_counter()
        model, report = method_of(learner, plan, data, start=start, seed=seed, method=method)
        stages: dict[str, float] = {"before": began.accuracy}
        if method not in (DENSE, SMALL):
            values = [value for row in report.stages for value in (row.removed, row.trained)]
            stages |= dict(zip(STAGES, values, strict=True))
        record = {"learner": learner.name, "method": method, "seed": seed, "episodes": list(plan.episodes)}
        record |= {"tests": plan.tests, "parameters": embedding_parameters(learner, model), "stages": stages}
        record |= {"stability": report.stability, "complexity": [row.complexity for row in report.stages]}
        record["widths"] = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        record |= judged(learner, model, report, data[1], plan, name=f"{learner.name}-{method}-{seed}")
        yield record | {"seconds": time.perf_counter() - started}


def method_of(
    learner: Learner, plan: Plan, data: Any, *, start: keras.Model, seed: int, method: str
) -> tuple[keras.Model, tfprune.few_shot.FewShotReport]:
    """Prune to each size in turn and train after it; dense networks only train."""
    targets: list[Any] = [None, None]
    if method == BY_TASK:
        targets = [LayerThreshold(), LayerThreshold()]
    elif method not in (DENSE, SMALL):
        base = LayerThreshold() if method == "DACIS" else "uniform"
        targets = [tfprune.budget(parameters=keep, allocation=base) for keep in KEEP]
    rates = (learner.rate, FINE_TUNING * learner.rate)
    stages = [tfprune.few_shot.FewShotStage(*each) for each in zip(targets, plan.episodes[1:], rates, strict=True)]
    if method == SMALL:
        start = network(learner, small_width(start), seed)
        stages = [tfprune.few_shot.FewShotStage(None, plan.episodes[0], learner.rate), *stages]
    criterion: Any = {"magnitude": "magnitude", "random": Random(seed)}.get(method, DACIS(meta=0.1))
    return trained(learner, plan, data, start, stages, seed=seed, criterion=criterion)


def trained(
    learner: Learner,
    plan: Plan,
    data: Any,
    model: keras.Model,
    stages: list[tfprune.few_shot.FewShotStage],
    *,
    seed: int,
    **how: Any,
) -> tuple[keras.Model, tfprune.few_shot.FewShotReport]:
    """Carry out stages on the training characters, judged on the others."""
    shape = {"ways": WAYS, "shots": SHOTS}
    tasks = tfprune.few_shot.Episodes(data[0].x, data[0].y, **shape, queries=10, episodes=EVIDENCE, seed=seed)
    episodes = min(plan.tests, STAGE_TESTS)
    tests = tfprune.few_shot.Episodes(data[1].x, data[1].y, **shape, queries=QUERIES, episodes=episodes, seed=SEED)
    return tfprune.few_shot.prune_few_shot(
        model, tasks, stages=stages, learner=learner.how, validation_data=tests, verbose=0, **how
    )


def network(learner: Learner, width: int, seed: int) -> keras.Model:
    return build(width=width, seed=seed, has_classifier=learner.name == "MAML")


def small_width(model: keras.Model) -> int:
    """Return the largest width whose network has no more parameters than the pruned ones."""
    limit = KEEP[-1] * model.count_params()
    return max(width for width in range(1, 65) if build(width=width, seed=0).count_params() <= limit)


def embedding_parameters(learner: Learner, model: keras.Model) -> int:
    """Return how many parameters a device needs."""
    return model.count_params() - (model.layers[-1].count_params() if learner.name == "MAML" else 0)


def judged(
    learner: Learner,
    model: keras.Model,
    report: tfprune.few_shot.FewShotReport,
    glyphs: Any,
    plan: Plan,
    *,
    name: str,
) -> Record:
    """Return accuracies; those of ProtoNet are of the exported file, because the file is what ships."""
    if learner.name == "MAML":
        return {"accuracy": {str(SHOTS): report.accuracy}}
    path = plan.output / f"{name.replace(', ', '-').replace(' ', '-')}.tflite"
    written = to_tflite(model, path, check_on=glyphs.x[:100])
    embeddings = Runner(path).predict(glyphs.x)
    shots = {
        str(number): by_prototypes(embeddings, glyphs.y, shots=number, episodes=plan.tests) for number in ALL_SHOTS
    }
    return {"accuracy": shots, "bytes": written.bytes, "file": path.name}
