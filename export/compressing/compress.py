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
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.export.compressing.compress_report import CompressReport
from tfprune.export.compressing.file_evaluator import FileEvaluator, baseline_score, calibration_of
from tfprune.export.compressing.search import Search
from tfprune.export.compressing.search_settings import Goal, SearchSettings
from tfprune.export.compressing.trial_runner import TrialRunner
from tfprune.export.compressing.write_front import write_front
from tfprune.export.device.processes.device import Device, runner_on
from tfprune.export.device.running.metrics import check_metrics
from tfprune.export.keras_side.converting.calibration_data import labeled_arrays
from tfprune.export.keras_side.converting.micro_support import micro_support
from tfprune.export.micro.micro import Micro, read_micro
from tfprune.keras_models.models.compiled import check_compiled
from tfprune.keras_models.models.layers import weight_values

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
    """Search for the smallest or fastest file that loses at most `max_drop` of accuracy, and write the best files.

    Use it when you want the settings chosen for you: which channels to remove, how many weights become zero and in
    which pattern, whether to train quantization-aware, and for how long. Each trial makes a smaller model, exports a
    float32 and an int8 file of it, and runs both on the validation data.

    Optuna draws the settings. Every second trial trains four times as long: by turns the recipe that promises the
    smallest file within `max_drop`, and the one that promises to fill most of the gaps between the best files.

    A trial starts from the model of an earlier one that may keep to `max_drop` after longer training, and removes at
    most half of it (multiply-adds times weights). So training adds up over the search, and the folder stores these
    models. If Keras cannot save and load the model, each trial starts from the original one.

    A search that was stopped continues when you call it again with the same arguments. `time` is that of all calls,
    and may be more than before.

    Args:
        model: A trained, compiled model with one output. It is left unchanged.
        train_data: A tuple (x, y) of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or any iterable of
            batches (x, y), which is read once and held in memory.
        validation_data: The same. Files are measured and chosen on it; nothing is trained on it.
        folder: Where trials are stored, and where the files, `report.json` and `report.html` go.
        max_drop: The most that a file may lose of `metric` on the validation data, at least 0. Default 0.01.
        metric: A name, as `evaluate` takes it. Default `"accuracy"`.
        target: `"size"` (the default) for the fewest bytes of a .tflite file, `"latency"` for the shortest inference,
            `"micro"` for the least flash of a microcontroller. Its files are int8, as `to_tflite(target="micro")`
            writes them, and their accuracy is measured with its interpreter. Needs the extra `micro`.
        arena: With `target="micro"`: the bytes of RAM that a file may use.
        flash: With `target="micro"`: the bytes of flash that a file may use.
        on: The device on which files are timed, such as `Remote("pi@raspberrypi")`; None (the default) is this
            machine. Not with `target="micro"`, whose files are not timed.
        time: Seconds that the search may take, above 0. Default half an hour.
        trials: The most recipes to try, at least 1; None (the default) sets no limit.
        jobs: How many trials run at once, each in a process of its own that holds the data, loads the model, and uses
            its share of the processors. Default 1: in this process, one after the other, with the same recipes each
            time. Not with `target="latency"`, where trials at once would disturb the timing.
        batch_size: Samples in a batch in training, at least 1. Default 32.
        test_data: The same as `validation_data`. The best files are measured on it too; it plays no part in the
            choice.
        seed: Seeds training and the choice of recipes, at least 0. Default 0.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end.

    Returns:
        The files that no other file beats in both size and accuracy, and all other files that were measured.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If an argument is out of range, data hold no labels or no samples, the model is not compiled or
            cannot be exported, a microcontroller lacks one of its operators, no file is within `max_drop` and the
            budgets, the folder belongs to another search or is in use by one, or Optuna is not installed.

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
    with RunFolder(Path(folder, "trials"), settings=settings, arrays=arrays) as stored:
        baseline = stored.remember(
            "baseline",
            lambda: {"score": np.array(baseline_score(model, validation_data, metric=metric))},
            lambda arrays: check_number(float(arrays["score"]), "score"),
        )
        evaluator = FileEvaluator(
            calibration=calibration_of(train_data[0]),
            validation=validation_data,
            metric=metric,
            baseline=baseline,
            target=target,
            budgets=budgets,
            on=on,
        )
        search = Search(
            TrialRunner(model, train_data, evaluator, batch_size),
            stored,
            SearchSettings(Goal(TARGETS[target], max_drop, budgets)),
            seed=seed,
            seconds=time,
            jobs=jobs,
            max_trials=trials or math.inf,
        )
        with Progress(int(time), verbose=verbose, unit="second") as progress:
            for before, after in pairwise(chain([0.0], (trial.ended for trial in search.run()))):
                progress.add(int(after) - int(before))
        return write_front(search, Path(folder), test_data=test_data)


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
    """Return the budgets of a file, and refuse arguments that do not go together."""
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
