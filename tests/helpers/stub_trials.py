"""Searches without any training: trials of a made-up model whose files follow simple laws, on a clock of their own.

A step loses more the less remains, longer training wins most of it back, and int8 costs a little. The same recipe
makes the same files each time, so a search can be compared with another one, and with an earlier version.
As a program it searches with slow trials, to be killed: stub_trials.py FOLDER TRIALS SECONDS
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import keras
import numpy as np

import tfprune.export.compressing.compress as compressing
import tfprune.export.compressing.compress as search_limit
import tfprune.export.compressing.policy as searching
from tfprune.export.compressing.compress import Search
from tfprune.export.compressing.evaluate import FileMetric, LateError
from tfprune.export.compressing.report import CompressReport
from tfprune.export.compressing.trials import Recipe

TRIALS = 12  # of the search that tests share
SCORE = 0.9  # of the original model
SAMPLES = 500  # of the validation data: scores are multiples of 1 / 500
WEIGHTS = 50_000
TIMED_STEPS = 25  # that a search times; the clock does not move for them


def noise(*values: Any) -> float:
    """Return a number in [-1, 1] that depends on these values alone."""
    return zlib.crc32(repr(values).encode()) / 2**31 - 1


@functools.cache
def lost(recipe: Recipe | None) -> float:
    """Return what a float32 file of a recipe loses, before it is measured on samples."""
    if recipe is None:
        return 0.0
    before = recipe.after
    flops, weights = (before.flops, 1 - before.sparsity) if before else (1.0, 1.0)
    removed = 1.6 * math.log(flops / recipe.flops) + max(0.0, math.log(weights / (1 - recipe.sparsity)))
    step = 0.006 * removed * (recipe.flops * (1 - recipe.sparsity)) ** -0.3
    step *= (1.0, 1.15)[recipe.pattern != "unstructured"] * (1 + 0.1 * abs(math.log(recipe.learning_rate / 2e-3)))
    kept = 1.0 if recipe.rounds == 1 else 0.25 + 0.1 * noise(recipe.remaining)
    return max(-0.002, lost(before) + step * kept + 0.001 * noise(recipe.remaining, recipe.rounds, recipe.seed))


def files(recipe: Recipe | None, *, formats: tuple[str | None, ...] = (None, "int8")) -> list[dict[str, Any]]:
    """Return what is measured of the files of a recipe, under the names that a stored trial has."""
    flops, weights = (recipe.flops, 1 - recipe.sparsity) if recipe else (1.0, 1.0)
    is_trained = recipe is not None and recipe.quantize_aware
    made = []
    for quantize in ("int8",) if is_trained else formats:
        rounded = 0.0 if quantize in (None, "float16") or is_trained else 0.002
        drop = round((lost(recipe) + rounded) * SAMPLES) / SAMPLES
        size = int(1500 + WEIGHTS * flops * weights * (1 if quantize else 4))
        made.append(
            {
                "recipe": recipe.as_dict() if recipe else None,
                "quantize": quantize,
                "bytes": size,
                "packed_bytes": int(0.6 * size),
                "score": SCORE - drop,
                "drop": drop,
                "latency_ms": (0.5 if quantize else 1.0) * (0.02 + flops),
                "arena_bytes": int(1000 + 8000 * flops),
                "cycles": int(500 + 90_000 * flops),
                "code": f"# {recipe.name if recipe else 'dense'}",
            }
        )
    return made


@dataclass
class Clock:
    """Stands for the module `time` in a search; trials move it."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


class StubEvaluator:
    """Reads from the bytes of a made-up file what was measured of it; on other data it is 0.01 worse."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)
        self.scored: list[Any] = []

    def score(self, content: bytes, data: Any) -> float:
        self.scored.append(data)
        return json.loads(content)["score"] - 0.01

    def milliseconds(self, contents: list[bytes]) -> list[float]:
        return [2 * json.loads(content)["latency_ms"] for content in contents]


@dataclass
class StubRunner:
    """Runs trials of the made-up model. The attributes say what is true of it, and what it was asked for."""

    clock: Clock = field(default_factory=Clock)
    formats: tuple[str | None, ...] = (None, "int8")
    can_shrink: bool = True
    is_kept: bool = True
    fails: Callable[[Recipe | None], bool] = lambda recipe: False
    step_seconds: float = 0.01
    file_seconds: float = 2.0
    slept: float = 0.0  # seconds of each trial on the clock of the world
    samples: int = 1280
    batch_size: int = 32
    learning_rate: float = 1e-3
    evaluator: Any = field(default_factory=lambda: SimpleNamespace(optimize=None, micro=None))
    train_data: Any = None
    distillation: Any = None
    block_order: Any = None
    can_quantize_aware: bool = True
    model: Any = field(default_factory=lambda: SimpleNamespace(name="stub"))
    ran: list[Recipe | None] = field(default_factory=list)
    starts: list[np.ndarray | None] = field(default_factory=list)

    def seconds_per_step(self, seconds: float) -> float:
        if TIMED_STEPS * self.step_seconds > seconds:
            self.clock.now += max(0.0, seconds)
            raise LateError
        return self.step_seconds

    def run(self, recipe: Recipe | None, seconds: float, start: np.ndarray | None = None) -> dict[str, np.ndarray]:
        time.sleep(self.slept)
        training = recipe.all_steps * self.step_seconds if recipe else 0.0
        if training > seconds:
            self.clock.now += seconds
            self.ran.append(recipe)
            raise LateError
        self.clock.now += training + self.file_seconds
        self.ran.append(recipe)
        self.starts.append(start)
        made = [] if self.fails(recipe) else files(recipe, formats=self.formats)
        npu = getattr(self.evaluator, "npu", None)
        made = [{**file, "cycles": file["cycles"] if npu else None} for file in made]
        if self.evaluator.optimize == "size" or npu:
            made = [{**file, "latency_ms": None} for file in made]
        if self.evaluator.optimize and self.evaluator.micro is None:
            made = [{**file, "arena_bytes": None} for file in made]
        if getattr(self.evaluator, "limits", None) is not None:
            made = [{**file, "worst_group": worst_group(file)} for file in made]
        fields = {
            "recipe": recipe.as_dict() if recipe else None,
            "tried": made,
            "seconds": training + self.file_seconds,
            "training": training,
            "reason": "" if made else "Expected a file. Received: none.",
        }
        contents = {f"file_{index}": content_of(recipe, file["quantize"]) for index, file in enumerate(made)}
        model = {"model": model_of(recipe)} if made and recipe and self.is_kept else {}
        return {"trial": np.array(json.dumps(fields)), **contents, **model}


def worst_group(file: dict[str, Any]) -> dict[str, Any]:
    """Return what a file loses of a rare class: twenty times as much as on average."""
    drop = 20 * file["drop"]
    return {"name": "class 1", "samples": 25, "drop": drop, "low": drop - 0.1, "high": drop + 0.1, "limit": 0.1}


def content_of(recipe: Recipe | None, quantize: str | None) -> np.ndarray:
    """Return the bytes of a made-up file."""
    (file,) = files(recipe, formats=(quantize,))
    return np.frombuffer(json.dumps(file).encode(), np.uint8)


def model_of(recipe: Recipe) -> np.ndarray:
    """Return the bytes of a made-up model."""
    return np.frombuffer(repr(recipe).encode(), np.uint8)


class StubWorkers:
    """Runs trials at once, which end in another order than they began."""

    def __init__(self, runner: StubRunner) -> None:
        self._runner, self._running, self._ended = runner, [], 0

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        self._running.append((recipe, seconds, model))

    def wait(self, seconds: float) -> tuple[Recipe, dict[str, np.ndarray]]:
        self._ended += 1
        recipe, seconds, model = self._running.pop(self._ended % 3 % len(self._running))
        return recipe, self._runner.run(recipe, seconds, model)


@functools.cache
def small_model() -> keras.Model:
    """Return a compiled model, which no stub looks at."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


DATA = (np.arange(3840, dtype="float32").reshape(1280, 3), np.arange(1280) % 2)


@contextmanager
def stubbed(runner: StubRunner | None = None) -> Iterator[StubRunner]:
    """Let `compress` search with made-up trials, on a clock that only they move."""
    runner = runner or StubRunner()

    def started(
        model: keras.Model, train_data: Any, evaluator: StubEvaluator, batch_size: int, _: Any, distillation: Any
    ) -> StubRunner:
        runner.train_data, runner.evaluator, runner.batch_size = train_data, evaluator, batch_size
        runner.distillation = distillation
        return runner

    with (
        patch.object(compressing, "TrialRunner", started),
        patch.object(compressing, "FileEvaluator", StubEvaluator),
        patch.object(search_limit, "baseline_outputs", lambda _, x: {"output": np.eye(2)[np.arange(len(x)) % 2]}),
        patch.object(FileMetric, "score", lambda *_: SCORE),
        patch.object(searching, "time", runner.clock),
    ):
        yield runner


def stub_search(folder: Any, *, runner: StubRunner | None = None, **changes: Any) -> CompressReport:
    """Search in a folder, which gets made-up files."""
    settings = {"time": 1e6, "max_drop": 0.01, "test_data": DATA, "verbose": 0, **changes}
    searched = {name: settings.pop(name) for name in vars(Search()) if name in settings}
    search = Search(**{"trials": 12, **searched})
    with stubbed(runner):
        return compressing.compress(small_model(), DATA, DATA, folder=folder, search=search, **settings)


if __name__ == "__main__":
    stub_search(sys.argv[1], trials=int(sys.argv[2]), runner=StubRunner(slept=float(sys.argv[3])))
