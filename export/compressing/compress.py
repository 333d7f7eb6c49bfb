"""Search for the smallest or fastest file of a trained model that loses at most what the user allows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import keras

from tfprune.base.limit import Limit
from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import check_choice, check_number
from tfprune.compact.fine_tuning.distilled import distilled
from tfprune.export.compressing.goal import pareto_front
from tfprune.export.compressing.results.compress_report import CompressReport
from tfprune.export.compressing.results.write_front import UNITS, write_front
from tfprune.export.compressing.search import DEFAULT_FORMATS, Search
from tfprune.export.compressing.search_limit import SearchLimit
from tfprune.export.compressing.search_loop import SearchLoop
from tfprune.export.compressing.search_policy import SearchSettings
from tfprune.export.compressing.trials.file_evaluator import (
    FileEvaluator,
    calibration_of,
    devices_for,
)
from tfprune.export.compressing.trials.trial_runner import TrialRunner
from tfprune.export.device.processes.device import Device
from tfprune.export.device.remote.device_pool import check_devices
from tfprune.export.keras_side.converting.calibration_data import count_inputs, labeled_arrays
from tfprune.export.keras_side.converting.micro_support import micro_support
from tfprune.export.keras_side.converting.vela import Vela
from tfprune.export.micro.micro import Micro, read_micro
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.compiled import check_compiled
from tfprune.keras_models.models.layers import weight_values
from tfprune.keras_models.tasks.references import DataReference
from tfprune.masking.wrapping.strip import plain_copy

TARGETS = "or a Micro, or an NPU of tfprune.export.vela"
MEASURES = {"size": "bytes", "latency": "latency_ms"}


def compress(
    model: keras.Model,
    data: Any,
    validation_data: Any,
    *,
    test_data: Any = None,
    optimize: str = "size",
    target: str | Micro | Vela | None = None,
    max_drop: float | Limit = 0.01,
    search: Search | None = None,
    on: Device | Sequence[Device] | None = None,
    time: float = 1800.0,
    folder: str | os.PathLike[str],
    verbose: int | str = "auto",
) -> CompressReport:
    """Search for the smallest or fastest file that loses at most `max_drop` of accuracy, and write the best files.

    Use it when you want the settings chosen for you: which channels or blocks to remove, how many weights become
    zero and in which pattern, whether to train quantization-aware, and for how long. Each trial makes a smaller
    model, exports a float32 and an int8 file of it, and runs both on the validation data.

    Each trial starts from the model of an earlier one and inherits its weights ("Efficient Multi-objective Neural
    Architecture Search via Lamarckian Evolution", arXiv 1804.09081). By turns, a short trial removes at most half of
    what is left (multiply-adds times weights), and one that is four times as long trains the model that promises most
    for the best files. So training adds up over the search, and the folder stores the models. If Keras cannot save
    and load the model, each trial starts from the original one.

    A search that was stopped continues when you call it again with the same arguments. `time` is that of all calls,
    and may be more than before.

    Args:
        model: A trained, compiled model. It is left unchanged. With several outputs, name the one to measure in a
            `tfprune.Limit`.
        data: The training data: a tuple (x, y) of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or any
            iterable of batches (x, y), which is read once and kept in memory. Workers get them, unless it is the path
            of an .npz file with the arrays `x` and `y`, or a function without arguments that returns them in one of
            these forms: then each worker reads them itself, once.
        validation_data: Labeled data in the same forms. Files are measured and chosen on it; nothing is trained on
            it.
        test_data: Labeled data in the same forms, or None. The best files are measured on it too; it plays no part in
            the choice, and no worker needs it.
        optimize: `"size"` (the default) for the fewest bytes of a .tflite file, `"latency"` for the shortest
            inference, or the fewest cycles of an NPU.
        target: The runtime that the files are for: None (the default) for phones and computers, or `"micro"` for a
            microcontroller. A `Micro` sets budgets of RAM and flash. Files are then int8, as
            `to_tflite(target="micro")` writes them, the smallest flash is searched for, and accuracy is measured with
            the interpreter for microcontrollers. Needs the extra `micro`. An NPU, such as `vela("ethos-u55-128")`, is
            for `optimize="latency"` or a limit of cycles: files are then dense int8, and its compiler, in a process
            for each file, estimates the cycles of one inference. Needs the extra `vela`.
        max_drop: The most accuracy that a file may lose on the validation data, at least 0. Default 0.01. A
            `tfprune.Limit` bounds another metric: by a name that `evaluate` knows or that the model was compiled
            with, a metric of Keras, or a function of labels and outputs. Of an error, it is how much the error may
            grow. With `max_drop_per_class` or `max_drop_per_group` it also bounds the accuracy that each class or
            group loses, with `max_bytes`, `max_latency_ms` or `max_cycles` the size, the time or the cycles of each
            file. It has no `data`.
        search: A `Search` with the number of trials, jobs, the batch size, the seed, and the executor that runs
            trials; None (the default) is `Search()`.
        on: The device on which files are timed, such as `Remote("pi@raspberrypi")`, or a list of boards of one kind,
            which time files at once. Each file is then compared with the dense file on the same board: its latency is
            their ratio, times the latency of the dense file on the first board. None (the default) is this machine.
            Not with a `target`, whose files are not timed.
        time: Seconds that the search may take, above 0. Default half an hour.
        folder: The folder of the trials, the files, `report.json` and `report.html`.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar over `time`, with the size or latency of the best file
            so far and the number of recipes tried, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook.

    Returns:
        The files that no other file beats in both size and accuracy, and all other files that were measured.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If an argument is out of range, data hold no labels or no samples, the model is not compiled or
            cannot be exported, a microcontroller lacks one of its operators, an NPU runs none of them, no file is
            within `max_drop` and the budgets, the folder belongs to another search or is in use by one, or a worker
            cannot load the model, or has other versions of packages.
        ValueError: If there is distillation, and the model is not a classifier or not a graph of layers.

    Example:
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss, metrics=["accuracy"])
        >>> data = (images, model.predict(images, verbose=0).argmax(axis=1))
        >>> report = tfprune.export.compress(model, data, data, folder="search", search=Search(trials=1))
        >>> all(tried.drop <= 0.01 for tried in report.front)
        True
    """
    began = monotonic()
    check_compiled(model)
    check_verbose(verbose)
    limit = SearchLimit.of(max_drop, model)
    check_number(time, "time", above=0)
    check_choice(optimize, "optimize", choices=MEASURES)
    search = _read_search(search, model)
    check_devices(on)
    target = _read_target(target, optimize=optimize, on=on)
    _check_formats(search, target)
    limit.check_goes_with(search, optimize=optimize, target=target)
    read = partial(labeled_arrays, inputs=count_inputs(model))
    reference, data = _read_data(read, data, "data")
    validation_reference, validation_data = _read_data(read, validation_data, "validation_data")
    test_data = None if test_data is None else _read_data(read, test_data, "test_data")[1]
    if isinstance(target, Micro):
        _check_support(model)
    settings = limit.settings() | _settings_of(search, target) | ({} if on is None else {"on": repr(on)})
    settings["target"] = "micro" if isinstance(target, Micro) else optimize
    arrays = [*weight_values(model), *keras.tree.flatten([data, validation_data])]
    arrays += limit.arrays(validation_data[1])
    with RunFolder(Path(folder, "trials"), settings=settings, arrays=arrays) as stored:
        baseline, limits = stored.remember(
            "baseline",
            partial(limit.baseline, model, validation_data),
            partial(limit.read_baseline, y=validation_data[1]),
        )
        samples = len(keras.tree.flatten(validation_data[1])[0])
        goal = limit.goal(MEASURES[optimize], baseline, target, samples=samples)
        evaluator = FileEvaluator(
            calibration=calibration_of(data[0]),
            validation=validation_data,
            metric=limit.metric,
            baseline=baseline,
            optimize=optimize,
            micro=target if isinstance(target, Micro) else None,
            on=devices_for(model, on),
            limits=limits,
            times_all=limit.limit.max_latency_ms is not None,
            number_formats=tuple(search.formats),
            mixed_from=goal.drop_of(SearchSettings().quantize_aware_from),
            reference=validation_reference,
            npu=target if isinstance(target, Vela) else None,
        )
        runner = TrialRunner(model, data, evaluator, search.batch_size, reference, search.distillation)
        loop = SearchLoop(
            runner,
            stored,
            goal,
            seed=search.seed,
            seconds=time,
            jobs=search.jobs or 1,
            executor=search.executor,
            pattern=search.pattern,
            max_trials=search.trials or math.inf,
            seconds_before=monotonic() - began,
        )
        _run(loop, seconds=time, verbose=verbose)
        bounds = {name: drop for name, drop in limit.limit.drops.items() if name.startswith("max_drop_per_")}
        return write_front(loop, Path(folder), test_data=test_data, limits=bounds)


def _read_data(read: Callable[..., Any], data: Any, argument: str) -> tuple[DataReference | None, tuple[Any, Any]]:
    """Return where workers read data, None if they are sent, and their arrays."""
    reference = DataReference.of(data, argument=argument)
    return reference, read(data if reference is None else reference.load(), argument=argument)


def _run(loop: SearchLoop, *, seconds: float, verbose: int | str) -> None:
    """Run all trials, with a bar over the seconds: the best file, the recipes, and about how many there will be."""
    best, counts, done = f"best {UNITS[loop.goal.by]}", ("recipes", "of about"), 0
    with Progress(int(seconds), verbose=verbose, unit="second", shown=[best, *counts]) as progress:
        for trial in loop.run():
            front = pareto_front((file for each in loop.trials for file in each.tried), loop.goal)
            sizes = {best: loop.goal.size(front[0])} if front else {}
            numbers = dict(zip(counts, (len(loop.trials) - 1, loop.expected_trials()), strict=True))
            progress.add(int(trial.ended) - done, {**sizes, **numbers})
            done = int(trial.ended)


def _settings_of(search: Search, target: Micro | Vela | None) -> dict[str, Any]:
    """Return the settings that a search shares with one that it continues; folders of before have no others."""
    settings: dict[str, Any] = {"batch_size": search.batch_size, "seed": search.seed}
    settings |= {} if target is None else vars(target)
    settings |= {} if search.pattern == "unstructured" else {"pattern": search.pattern}
    settings |= {} if search.distillation is None else {"distillation": repr(search.distillation)}
    formats = [each if isinstance(each, str) else {"recipe": each.recipe} for each in search.formats]
    return settings | ({} if search.formats == DEFAULT_FORMATS else {"formats": formats})


def _check_formats(search: Search, target: Micro | Vela | None) -> None:
    if target is not None and search.formats != DEFAULT_FORMATS:
        raise ValueError(
            f"Expected no `formats` and no recipe for a microcontroller or an NPU, whose files are int8. Received: "
            f"formats={search.formats!r}. Leave them out."
        )


def _read_search(search: Any, model: keras.Model) -> Search:
    search = Search() if search is None else search
    if not isinstance(search, Search):
        raise TypeError(
            f"Expected `search` to be a tfprune.export.Search, or None. Received: search={search!r} of type "
            f"{type(search).__name__}."
        )
    if search.distillation is not None:  # refused here, before each trial fails
        distilled(plain_copy(Anatomy.of(model)), model, search.distillation)
    return search


def _read_target(target: Any, *, optimize: str, on: Any) -> Micro | Vela | None:
    target_spec = target if isinstance(target, Vela) else read_micro(target, objects=TARGETS, optimize=optimize)
    if target_spec is not None and on is not None:
        raise ValueError(
            f"Expected `on` without `target`, whose files are not timed. Received: on={on!r}. Leave one out."
        )
    return target_spec


def _check_support(model: keras.Model) -> None:
    support = micro_support(model)
    if not support.runs:
        raise ValueError(
            f"Expected a model that the interpreter for microcontrollers runs. Received: {model.name!r}: "
            f"{support.reason}. Replace the layers or functions that need it, and train the model again."
        )
