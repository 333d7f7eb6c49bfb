"""Run trials here, one after the other, or several at once on an executor."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Protocol

import numpy as np

from tfprune.base.limit import GroupLimits
from tfprune.base.run_folder import NamedArrays, RunFolder
from tfprune.base.untrusted import parse_json
from tfprune.export.compressing.trials.file_evaluator import FileEvaluator, calibration_of
from tfprune.export.compressing.trials.file_metric import FileMetric
from tfprune.export.compressing.trials.recipe import Recipe
from tfprune.export.compressing.trials.trial import Trial
from tfprune.export.compressing.trials.trial_runner import LateError, TrialRunner
from tfprune.export.keras_side.converting.calibration_data import count_inputs, labeled_arrays
from tfprune.export.keras_side.converting.vela import vela
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer
from tfprune.keras_models.tasks.packed_model import PackedModel, pack_model, unpack_model
from tfprune.keras_models.tasks.references import read_referred, referred
from tfprune.keras_models.tasks.task_pool import LATE, Task, TaskPool, task_pool

KEPT = "All trials before are kept: call `compress` again with the same arguments to continue."


class Workers(Protocol):
    """Runs trials."""

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        """Start a trial, which may train for this many seconds, from the model of the recipe before it."""

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        """Return the recipe of the next trial that ends, and the arrays of `TrialRunner.run`; None if it was late.

        Args:
            seconds: How long to wait; a trial that has not ended then is late.
        """


@contextmanager
def workers_of(
    runner: TrialRunner, folder: RunFolder, *, jobs: int, executor: Executor | None, seconds: float
) -> Iterator[Workers]:
    """Yield workers for up to `jobs` trials at once.

    Args:
        runner: Runs trials in this process.
        folder: The folder of the search.
        jobs: How many trials run at once.
        executor: Where they run. None is this process, or for more than one trial processes that end with the block.
        seconds: How long workers may take to load the model.

    Raises:
        ValueError: If the model cannot be sent to workers, or a worker cannot run trials.
        TypeError: If the data cannot be sent.
    """
    if jobs == 1 and executor is None:
        yield _InThisProcess(runner)
        return
    with (
        folder.temporary_file(pack_runner(runner)) as file,
        task_pool(file, unpack_runner, jobs=jobs, executor=executor, seconds=seconds, advice=KEPT) as pool,
    ):
        yield _OnExecutor(pool)


class _InThisProcess:
    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        self._next = (recipe, seconds, model)

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        recipe, seconds, model = self._next
        try:
            return recipe, self._runner.run(recipe, seconds, model)
        except LateError:
            return recipe, None


class _OnExecutor:
    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._recipes: dict[Task, Recipe] = {}

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        arguments = {"recipe": json.dumps(recipe.as_dict()), "start": model}
        task = Task(run_trial, arguments, time.monotonic() + seconds)
        self._recipes[self._pool.submit(task)] = recipe

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        result = self._pool.next_result(seconds)
        recipe = self._recipes.pop(result.task)
        if not result.failure or result.failure == LATE:
            return recipe, result.value
        reason = f"Expected a worker that ends the trial. Received, {result.failure}."
        return recipe, Trial(recipe, (), 0.0, 0.0, reason).stored([])


def pack_runner(runner: TrialRunner) -> bytes:
    """Return the model, the data or where they are, and the settings of a runner as bytes, without the device.

    Raises:
        TypeError: If the data hold Python objects.
        ValueError: If Keras cannot save the model, or workers cannot import the metric or the function of the data.
    """
    evaluator = runner.evaluator
    data = {"train": (runner.train_data, runner.reference), "valid": (evaluator.validation, evaluator.reference)}
    arrays = {
        **{name: [] if reference else [*each] for name, (each, reference) in data.items()},
        "limits": {} if evaluator.limits is None else vars(evaluator.limits),
    }
    settings = {
        **{name: referred(reference, each) for name, (each, reference) in data.items() if reference},
        "metric": evaluator.metric.to_send(),
        "baseline": evaluator.baseline,
        "optimize": evaluator.optimize,
        "micro": None if evaluator.micro is None else asdict(evaluator.micro),
        "npu": None if evaluator.npu is None else asdict(evaluator.npu),
        "number_formats": [each if isinstance(each, str) else vars(each) for each in evaluator.number_formats],
        "mixed_from": evaluator.mixed_from,
        "batch_size": runner.batch_size,
    }
    return pack_model(PackedModel(runner.model, arrays, settings))


def unpack_runner(content: bytes) -> TrialRunner:
    """Return the runner of which `pack_runner` made these bytes in another process.

    Raises:
        ValueError: If the model cannot be loaded here, the metric cannot be imported, the data cannot be read here or
            are others, or the compiler for the NPU is not installed.
    """
    model, arrays, settings = unpack_model(content)
    read = partial(labeled_arrays, inputs=count_inputs(model))
    x, y = arrays["train"] or read_referred(settings["train"], partial(read, argument="data"))
    validation = arrays["valid"] or read_referred(settings["valid"], partial(read, argument="validation_data"))
    evaluator = FileEvaluator(
        calibration=calibration_of(x),
        validation=tuple(validation),
        metric=FileMetric.read(settings["metric"]),
        baseline=settings["baseline"],
        optimize=settings["optimize"],
        limits=GroupLimits(**arrays["limits"]) if arrays["limits"] else None,
        micro=None if settings["micro"] is None else Micro(**settings["micro"]),
        npu=None if settings["npu"] is None else vela(**settings["npu"]),
        number_formats=tuple(
            each if isinstance(each, str) else EdgeQuantizer(**each) for each in settings["number_formats"]
        ),
        mixed_from=settings["mixed_from"],
    )
    return TrialRunner(model, (x, y), evaluator, settings["batch_size"])


def run_trial(runner: TrialRunner, *, recipe: str, start: np.ndarray | None, seconds: float) -> NamedArrays | None:
    """Run the trial of a recipe, given as JSON, from the model of the recipe before it; return None if it is late."""
    try:
        return runner.run(Recipe.read(parse_json(recipe.encode())), seconds, start)
    except LateError:
        return None
