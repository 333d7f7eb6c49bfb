"""Search for the smallest or fastest file of a trained model that loses at most what the user allows."""

from __future__ import annotations

import math
import os
from functools import partial
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import Arrays, RunFolder
from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.export.compressing.compress_report import CompressReport
from tfprune.export.compressing.measured_file import FileEvaluator, calibration_of, score_of
from tfprune.export.compressing.pareto_front import Limits
from tfprune.export.compressing.search import Search
from tfprune.export.compressing.trial import TrialRunner
from tfprune.export.compressing.write_front import milliseconds, write_front
from tfprune.export.device.processes.device import Device, runner_on
from tfprune.export.device.running.metrics import check_metrics
from tfprune.export.keras_side.converting.calibration_data import labeled_arrays
from tfprune.export.keras_side.converting.convert import convert
from tfprune.export.keras_side.converting.micro_support import micro_support
from tfprune.export.micro.micro import Micro, read_micro
from tfprune.keras_models.models.compiled import check_compiled
from tfprune.keras_models.models.layers import weight_values
from tfprune.masking.wrapping.strip import plain_copy

TARGETS = {"size": "bytes", "latency": "latency_ms", "micro": "bytes"}


def compress(
    model: keras.Model,
    train_data: Any,
    validation_data: Any,
    *,
    folder: str | os.PathLike[str],
    max_drop: float = 0.01,
    metric: str = "accuracy",
    target: str = "size",
    arena: int | None = None,
    flash: int | None = None,
    on: Device | None = None,
    time: float = 1800.0,
    trials: int | None = None,
    jobs: int = 1,
    batch_size: int = 32,
    test_data: Any = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> CompressReport:
    """Try recipes until the time is up, and write the best files.

    A recipe says how many channels go, how many weights become zero and in which pattern, whether the model then
    trains quantization-aware, and how long it trains. Each makes a smaller model, of which a float32 and an int8 file
    are exported and run on the validation data. Optuna draws recipes; every other trial trains one four times as
    long: by turns the one that promises the smallest file within `max_drop`, and the one that promises to fill most
    of the gaps between the best files, which lose less.

    A trial goes on with what an earlier one made, if that may keep to `max_drop` after longer training, and leaves at
    least half of that (multiply-adds times weights). So training adds up; the folder keeps these models. A model that
    Keras cannot save and load again is what every trial begins with.

    A search that was stopped goes on when it is called again with the same arguments: `time` is that of all calls,
    and may be more than before.

    Args:
        model: A trained, compiled model with one output. It is left unchanged.
        train_data: A tuple (x, y) of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or any iterable of
            batches (x, y), which is read once and held in memory.
        validation_data: The same, by which files are judged, and on which nothing is trained.
        folder: Where trials are kept, and where the files, `report.json` and `report.html` go.
        max_drop: What a file may lose of `metric` on the validation data, at least 0. Default 0.01.
        metric: A name, as `evaluate` takes it. Default `"accuracy"`.
        target: `"size"` (the default) for the fewest bytes of a .tflite file, `"latency"` for the shortest inference,
            `"micro"` for the least flash of a microcontroller. Its files are int8, as `to_tflite(target="micro")`
            writes them, and their accuracy is what its interpreter gives. Needs the extra `micro`.
        arena: With `target="micro"`: the bytes of RAM that the board has for a file.
        flash: With `target="micro"`: the bytes of flash that it has for one.
        on: The device on which files are timed, such as `Remote("pi@raspberrypi")`; None (the default) is this
            machine. Not with `target="micro"`, whose files are not timed.
        time: Seconds that the search may take, above 0. Default half an hour.
        trials: The most recipes that are tried, at least 1; None (the default) sets no limit.
        jobs: How many trials run at once, each in a process of its own that holds the data and loads the model, and
            on its share of the processors. Default 1: here, one after the other, and the same ones each time. Not
            with `target="latency"`, where they would disturb each other.
        batch_size: Samples in a batch when the model trains, at least 1. Default 32.
        test_data: The same, on which the best files are measured besides. It decides nothing.
        seed: Of all that is drawn, at least 0.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end.

    Returns:
        The files that no other beats, and what became of the rest.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If an argument is out of range, data hold no labels or no samples, the model is not compiled or
            cannot be exported, a microcontroller lacks one of its operators, no file that was found is within
            `max_drop` and the budgets, the folder is one of another search, or Optuna is not installed.

    Example:
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss, metrics=["accuracy"])
        >>> data = (images, model.predict(images, verbose=0).argmax(axis=1))
        >>> report = tfprune.export.compress(model, data, data, folder="search", trials=1)
        >>> all(tried.drop <= 0.01 for tried in report.front)
        True
    """
    if find_spec("optuna") is None:
        raise ValueError("Expected Optuna, which draws recipes. Received: none. Run pip install 'tfprune[search]'.")
    check_compiled(model)
    check_verbose(verbose)
    check_metrics(metric)
    check_number(max_drop, "max_drop", least=0)
    check_number(time, "time", above=0)
    check_choice(target, "target", choices=TARGETS)
    _check_counts(batch_size=batch_size, seed=seed, trials=trials, jobs=jobs, target=target)
    runner_on(on)
    budgets = _budgets(target, arena=arena, flash=flash, on=on)
    read = partial(labeled_arrays, inputs=len(getattr(model, "inputs", None) or [model]))
    train_data = read(train_data, argument="train_data")
    validation_data = read(validation_data, argument="validation_data")
    test_data = None if test_data is None else read(test_data, argument="test_data")
    if target == "micro":
        _check_support(model)
    settings = {"max_drop": max_drop, "metric": metric, "target": target, "batch_size": batch_size, "seed": seed}
    settings |= ({} if on is None else {"on": repr(on)}) | (vars(budgets) if target == "micro" else {})
    arrays = [*weight_values(model), *keras.tree.flatten([train_data, validation_data])]
    kept = RunFolder(Path(folder, "trials"), settings=settings, arrays=arrays)
    baseline = kept.remember("baseline", lambda: _baseline(model, validation_data, metric))
    timed = None if target == "micro" else partial(milliseconds, on=on)
    evaluator = FileEvaluator(
        calibration=calibration_of(train_data[0]),
        validation=validation_data,
        metric=metric,
        baseline=float(baseline["score"]),
        target=target,
        budgets=budgets,
        timed=timed if target == "latency" else None,
    )
    runner = TrialRunner(model, train_data, evaluator, batch_size)
    search = Search(
        runner, kept, TARGETS[target], Limits(max_drop, budgets), seed, time, jobs=jobs, most=trials or math.inf
    )
    with Progress(int(time), verbose=verbose, unit="second") as progress:
        for before, after in pairwise(chain([0.0], (trial.ended for trial in search.trials()))):
            progress.add(int(after) - int(before))
    return write_front(search, Path(folder), timed=timed, test_data=test_data)


def _check_counts(*, batch_size: int, seed: int, trials: int | None, jobs: int, target: str) -> None:
    check_count(batch_size, "batch_size", least=1)
    check_count(seed, "seed", least=0)
    if trials is not None:
        check_count(trials, "trials", least=1)
    if check_count(jobs, "jobs", least=1) > 1 and target == "latency":
        raise ValueError(
            f"Expected jobs=1 with target='latency': trials at once would slow each other down while they are timed. "
            f"Received: jobs={jobs}. Leave it out."
        )


def _budgets(target: str, *, arena: int | None, flash: int | None, on: Device | None) -> Micro:
    """Return what a file may take, and refuse arguments that do not go together."""
    if target == "micro" and on is not None:
        raise ValueError(
            f"Expected `on` with another target than 'micro', whose files are not timed. Received: on={on!r}."
        )
    kind = "micro" if target == "micro" else None
    return read_micro(kind, arena=arena, flash=flash, sparse="auto", optimize="size", compress=None) or Micro()


def _check_support(model: keras.Model) -> None:
    support = micro_support(model)
    if not support.runs:
        raise ValueError(
            f"Expected a model that the interpreter for microcontrollers runs. Received: {model.name!r}: "
            f"{support.reason}. Replace the layers or functions that need it, and train the model again."
        )


def _baseline(model: keras.Model, data: tuple[Any, Any], metric: str) -> Arrays:
    return {"score": np.array(score_of(convert(plain_copy(model)), data, metric=metric))}
