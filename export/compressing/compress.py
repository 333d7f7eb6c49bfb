"""Compress: search for the smallest or fastest file of a trained model within the limits of the user."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import keras
import numpy as np

from tfprune.base.folders import NamedArrays, RunFolder
from tfprune.base.limit import GroupLimits, Limit, as_limit, check_can_lose, largest_drop, read_groups
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import (
    ArgumentError,
    ArgumentTypeError,
    check_choice,
    check_count,
    check_drop,
    check_number,
    is_accuracy,
)
from tfprune.compact.trainer import Distillation, check_distillation, distilled
from tfprune.export.compressing.evaluate import (
    FileEvaluator,
    FileMetric,
    TrialRunner,
    baseline_outputs,
    batch_for,
    calibration_of,
    devices_for,
)
from tfprune.export.compressing.policy import DROP_NOISE, Goal, SearchLoop, SearchSettings, pareto_front
from tfprune.export.compressing.report import UNITS, CompressReport, write_front
from tfprune.export.compressing.trials import FORMATS, PATTERNS
from tfprune.export.device.processes import Device
from tfprune.export.device.remote import check_devices
from tfprune.export.file.report import certified
from tfprune.export.keras_side.ask import Vela, micro_support
from tfprune.export.keras_side.convert import count_inputs, labeled_arrays
from tfprune.export.micro.micro import Micro, read_micro
from tfprune.export.rewriting.weights import EdgeQuantizer
from tfprune.masking.strip import plain_copy
from tfprune.models.anatomy import Anatomy, weight_values
from tfprune.models.tasks import DataReference, check_executor
from tfprune.models.training import check_compiled

# Search: how `compress` searches, apart from its goal and its time.

_DEFAULT_FORMATS = ("float32", "int8")
_BOUNDS = ("max_bytes", "max_latency_ms", "max_cycles")  # what a file may cost


@dataclass(frozen=True)
class Search:
    """How `compress` searches: what a file may cost, the number of trials, how many run at once, and how they train.

    Pass it as `search=` to `compress`. The goal and the time of the search are arguments of `compress` itself.

    Args:
        pattern: The shape of the zeros: `"unstructured"` (the default), `"2:4"` for two zeros in each four inputs, or
            blocks of four, along the inputs with `"1x4"` and along the outputs with `"4x1"`, for a runtime that is
            fast with them.
        distillation: How the original model teaches the smaller ones in all trials, such as
            `tfprune.Distillation(temperature=4)`, for a classifier that is a Sequential or Functional model; without
            features, as trials remove channels. None (the default) trains on the labels alone.
        trials: The largest number of recipes to try, at least 1. None (the default) sets no limit.
        jobs: The number of trials that run at once, at least 1. None (the default) is 1: trials run in this process,
            one after the other, and the same search tries the same recipes. With more, each trial runs in a process
            that has the data, loads the model and uses its share of the processors. Not with `optimize="latency"`,
            except for an NPU: trials that run at once would disturb the timing.
        batch_size: Samples in a batch of training, at least 1. Default 32.
        seed: Seeds training and the choice of recipes, at least 0. Default 0.
        executor: A `concurrent.futures.Executor` that runs the trials, such as that of a Dask client, for workers on
            other machines. It needs `jobs`, as no executor tells how many workers it has. None (the default) uses
            this machine. You start and end it. Not with `optimize="latency"`, except for an NPU.
        formats: The number formats that each trial exports: of `"float32"`, `"float16"`, `"dynamic"`, `"int8"`,
            `"int16x8"`, `"int4"` and `"mixed"`, and an `EdgeQuantizer`, each once. Default `("float32", "int8")`.
            `"mixed"` needs these two: where int8 loses too much against float32, one more file keeps the operators in
            float that `quantization_error` chooses, in at most 1.2 times the bytes. Trials that train
            quantization-aware make int8 files only. Not for microcontrollers and NPUs, whose files are int8.
        max_bytes: The largest size of a file, in bytes. None (the default) sets no bound, as of the last two. A
            microcontroller has its budgets in its target, a `Micro`.
        steps: Training steps of a short trial, at least 1. None (the default) trains as many as fit into a part of
            the time, by a measured step. With `steps` and `trials`, and time enough for them, another run of the
            search makes the same files.
        max_latency_ms: The longest inference of a file, in milliseconds. Not with `jobs` or an executor.
        max_cycles: The most cycles of a file, for an NPU as the target.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If an argument is out of range, an executor comes without `jobs`, or features with distillation.

    Example:
        >>> Search(trials=20, jobs=2)
        Search(pattern='unstructured', distillation=None, trials=20, jobs=2, ..., formats=('float32', 'int8'), ...)
    """

    pattern: str = "unstructured"
    distillation: Distillation | None = None
    trials: int | None = None
    jobs: int | None = None
    batch_size: int = 32
    seed: int = 0
    executor: Executor | None = None
    formats: Sequence[str | EdgeQuantizer] = _DEFAULT_FORMATS
    max_bytes: int | None = field(default=None, kw_only=True)
    steps: int | None = field(default=None, kw_only=True)
    max_latency_ms: float | None = field(default=None, kw_only=True)
    max_cycles: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("trials", "max_bytes", "max_cycles", "steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, least=1)
        if self.max_latency_ms is not None:
            check_number(self.max_latency_ms, "max_latency_ms", above=0)
        check_count(self.batch_size, "batch_size", least=1)
        check_count(self.seed, "seed", least=0)
        check_choice(self.pattern, "pattern", choices=PATTERNS)
        check_executor(self.executor, jobs=self.jobs)
        if self.distillation is not None and check_distillation(self.distillation, "distillation").pairs:
            raise ArgumentError(
                "distillation",
                "a Distillation without features, as a layer that loses channels cannot be compared",
                repr(self.distillation),
                advice="Leave the features out.",
            )
        self._check_formats()

    @property
    def bounds(self) -> dict[str, float]:
        """The largest size, latency and cycles of a file that are set, by the names of the arguments."""
        return {name: getattr(self, name) for name in _BOUNDS if getattr(self, name) is not None}

    def _check_formats(self) -> None:
        if isinstance(self.formats, str) or not isinstance(self.formats, Sequence):
            raise ArgumentTypeError("formats", "`formats` to be a list of names", repr(self.formats))
        for each in self.formats:
            if not isinstance(each, EdgeQuantizer):
                check_choice(each, "formats", choices=FORMATS, others="or an EdgeQuantizer")
        names = [each.name if isinstance(each, EdgeQuantizer) else each for each in self.formats]
        if not names or len({*names}) < len(names):
            raise ArgumentError("formats", "`formats` to name some formats, each once", repr(self.formats))
        if "mixed" in names and not {"float32", "int8"} <= {*names}:
            raise ArgumentError(
                "formats",
                "'float32' and 'int8' in `formats` with 'mixed', which is made of both",
                repr(self.formats),
                advice="Add them.",
            )
        order = [*FORMATS, *names]
        ordered = sorted(zip(names, self.formats, strict=True), key=lambda pair: order.index(pair[0]))
        object.__setattr__(self, "formats", tuple(each for _, each in ordered))


# What the files of a search may lose, as the user gave it, and what the original model has.


@dataclass(frozen=True, eq=False)
class _SearchLimit:
    """A limit of a search, and its metric.

    Attributes:
        limit: The limit.
        metric: What files are judged by.
    """

    limit: Limit
    metric: FileMetric

    @classmethod
    def of(cls, max_drop: Any, model: keras.Model) -> _SearchLimit:
        """Read the argument of `compress`.

        Raises:
            ValueError: If it bounds nothing, allows any drop, has data, or its metric is not known.
        """
        limit = as_limit(max_drop)
        if limit.data is not None:
            raise ArgumentError(
                "max_drop",
                "a Limit without `data`: files are measured on `validation_data`",
                repr(limit),
                advice="Leave `data` out.",
            )
        if not limit.bounds_metric:
            raise ArgumentError(
                "max_drop",
                "a number in `max_drop`, or a Limit with a number: the search needs a bound",
                repr(max_drop),
                advice="Pass 0.01, for example.",
            )
        metric = FileMetric.of(limit, model)
        check_drop(limit.max_drop, "max_drop", metric=metric.metric)
        return cls(limit, metric)

    def settings(self) -> dict[str, Any]:
        """Return what tells this limit from another one, as values of JSON."""
        metric = {name: value for name, value in self.metric.settings().items() if value is not None}
        if isinstance(metric["metric"], str):
            del metric["mode"]  # it follows from the name
        return {**self.limit.drops, **metric}

    def arrays(self, y: Any) -> Iterator[np.ndarray]:
        """Yield the groups of samples, given the labels."""
        for group in read_groups(self.limit.groups, len(keras.tree.flatten(y)[0])):
            yield group.inside

    def baseline(self, model: keras.Model, data: tuple[Any, Any]) -> NamedArrays:
        """Return the metric of the original model, and its outputs if the loss of each class or group is limited.

        Raises:
            ValueError: If the labels do not fit, or a relative limit is one of 0.
        """
        x, y = data
        outputs = baseline_outputs(model, x)
        GroupLimits.of(self.limit, outputs, y)  # refused before anything is stored
        score = self.metric.score(outputs, y)
        check_can_lose(self.limit, {self.metric.name: score})
        return {"score": np.array(score), **({"outputs": [*outputs.values()][0]} if self.limit.bounds_groups else {})}

    def read_baseline(self, arrays: NamedArrays, *, y: Any) -> tuple[float, GroupLimits | None]:
        """Return the metric of the original model, and the limits of classes and groups, from what was stored."""
        score = check_number(float(arrays["score"]), "score")
        return score, GroupLimits.of(self.limit, arrays.get("outputs"), y)

    def goal(self, by: str, baseline: float, target: Micro | Vela | None, *, samples: int, search: Search) -> Goal:
        """Return the goal of the search, given the original model's metric and the number of validation samples.

        The latency of an NPU is its cycles.
        """
        is_share = is_accuracy(self.metric.name)
        noise = DROP_NOISE if is_share else DROP_NOISE * abs(baseline)
        sample = 1 / samples if is_share else 0.0
        board = {"arena_bytes": target.arena, "bytes": target.flash} if isinstance(target, Micro) else {}
        by = "cycles" if isinstance(target, Vela) and by == "latency_ms" else by
        sizes = {**board, **{name.removeprefix("max_"): size for name, size in search.bounds.items()}}
        budgets = {name: size for name, size in sizes.items() if size is not None}
        return Goal(by, largest_drop(self.limit, baseline) or 0.0, budgets, noise=noise, sample=sample)


# Search for the smallest or fastest file of a trained model that loses at most what the user allows.

_TARGETS = "or a Micro, or an NPU of tfprune.export.vela"
_MEASURES = {"size": "bytes", "latency": "latency_ms"}


@certified
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

    Each trial starts from the model of an earlier one and keeps its weights ("Efficient Multi-objective Neural
    Architecture Search via Lamarckian Evolution", arXiv 1804.09081). By turns, a short trial removes at most half of
    the remaining model (multiply-adds times weights), and one that is four times as long trains the model whose file
    is expected to improve the best files most. Training adds up over the search, and the folder stores the models. If
    Keras cannot save and load the model, each trial starts from the original one.

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
            inference, or the fewest cycles of an NPU. Files for `"latency"` take one sample at a time where that
            makes zeros of 3x3 convolutions fast: on ARM (`on`), not on x86 with AVX.
        target: The runtime that the files are for: None (the default) for phones and computers, or `"micro"` for a
            microcontroller. A `Micro` sets budgets of RAM and flash. Files are then int8, as
            `to_tflite(target="micro")` writes them, the smallest flash is searched for, and accuracy is measured with
            the interpreter for microcontrollers. Needs the extra `micro`. An NPU, such as `vela("ethos-u55-128")`, is
            for `optimize="latency"` or a limit of cycles: files are then dense int8, and its compiler, in a process
            for each file, estimates the cycles of one inference. Needs the extra `vela`.
        max_drop: The most accuracy that a file may lose on the validation data, at least 0. Default 0.01. If a model
            of one output was compiled with metrics, it is that of the first accuracy among them, else of the first
            one; an error needs a `tfprune.Limit`, because a number alone does not say in which unit. A
            `tfprune.Limit` bounds another metric: by a name that `evaluate` knows or that the model was compiled
            with, a metric of Keras, or a function of labels and outputs. Of an error, it is how much the error may
            grow. With `max_drop_per_class` or `max_drop_per_group` it also bounds the accuracy that each class or
            group loses. It has no `data`.
        search: A `Search` with the number of trials, jobs, the batch size, the seed, the executor that runs trials,
            and the most bytes, milliseconds or cycles of a file; None (the default) is `Search()`.
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
    limit = _SearchLimit.of(max_drop, model)
    check_number(time, "time", above=0)
    check_choice(optimize, "optimize", choices=_MEASURES)
    search = _read_search(search, model)
    check_devices(on)
    target = _read_target(target, optimize=optimize, on=on)
    _check_search(search, optimize=optimize, target=target)
    read = partial(labeled_arrays, inputs=count_inputs(model))
    reference, data = _read_data(read, data, "data")
    validation_reference, validation_data = _read_data(read, validation_data, "validation_data")
    test_data = None if test_data is None else _read_data(read, test_data, "test_data")[1]
    if isinstance(target, Micro):
        _check_support(model)
    settings = limit.settings() | _settings_of(search, target) | ({} if on is None else {"on": repr(on)})
    settings["target"] = "micro" if isinstance(target, Micro) else optimize
    arrays = [*weight_values(model), *keras.tree.flatten([data, validation_data]), *limit.arrays(validation_data[1])]
    with RunFolder(Path(folder, "trials"), settings=settings, arrays=arrays) as stored:
        baseline, limits = stored.remember(
            "baseline",
            partial(limit.baseline, model, validation_data),
            partial(limit.read_baseline, y=validation_data[1]),
        )
        samples = len(keras.tree.flatten(validation_data[1])[0])
        goal = limit.goal(_MEASURES[optimize], baseline, target, samples=samples, search=search)
        evaluator = FileEvaluator(
            calibration=calibration_of(data[0]),
            validation=validation_data,
            metric=limit.metric,
            baseline=baseline,
            optimize=optimize,
            micro=target if isinstance(target, Micro) else None,
            on=devices_for(model, on),
            limits=limits,
            times_all=search.max_latency_ms is not None,
            number_formats=tuple(search.formats),
            mixed_from=goal.drop_of(SearchSettings().quantize_aware_from),
            reference=validation_reference,
            npu=target if isinstance(target, Vela) else None,
            batch=batch_for(model, on) if optimize == "latency" and target is None else None,
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
            steps=search.steps,
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
    settings |= search.bounds | ({} if target is None else vars(target))
    settings |= {} if search.pattern == "unstructured" else {"pattern": search.pattern}
    settings |= {} if search.steps is None else {"steps": search.steps}
    settings |= {} if search.distillation is None else {"distillation": repr(search.distillation)}
    formats = [each if isinstance(each, str) else {"recipe": each.recipe} for each in search.formats]
    return settings | ({} if search.formats == _DEFAULT_FORMATS else {"formats": formats})


def _check_formats(search: Search, target: Micro | Vela | None) -> None:
    if target is not None and search.formats != _DEFAULT_FORMATS:
        raise ArgumentError(
            "formats",
            "no `formats` and no recipe for a microcontroller or an NPU, whose files are int8",
            repr(search.formats),
            advice="Leave them out.",
        )


def _check_search(search: Search, *, optimize: str, target: Micro | Vela | None) -> None:
    """Refuse formats and bounds that the target does not have, and what does not go with timing.

    Raises:
        ValueError: If there is such a thing.
    """
    _check_formats(search, target)
    if isinstance(target, Vela):
        _check_npu(search, target, optimize=optimize)
        return
    if search.max_cycles is not None:
        raise ArgumentError(
            "max_cycles",
            "an NPU as `target` with `max_cycles`, as its compiler estimates them",
            repr(search.max_cycles),
            advice="Pass target=vela('ethos-u55-128'), for example.",
            beside={"target": target},
        )
    if target is not None and search.bounds:
        raise ArgumentError(
            next(iter(search.bounds)),
            "the budgets of a microcontroller in its target",
            advice="Pass target=Micro(flash=..., arena=...).",
            beside=search.bounds,
        )
    timing = "optimize='latency'" if optimize == "latency" else "`max_latency_ms`"
    is_timed = optimize == "latency" or search.max_latency_ms is not None
    if is_timed and ((search.jobs or 1) > 1 or search.executor is not None):
        raise ArgumentError(
            "jobs",
            f"jobs=1 with {timing}, and no executor: files are timed on one machine, one after the other",
            repr(search.jobs),
            advice="Leave `jobs` and `executor` out.",
            beside={} if search.executor is None else {"executor": search.executor},
        )


def _check_npu(search: Search, target: Vela, *, optimize: str) -> None:
    """Refuse bounds and goals other than those of cycles: files are not timed, and their zeros are stored.

    Raises:
        ValueError: If there is one.
    """
    if target.counts != "cycles":
        raise ArgumentError(
            "target",
            "counts='cycles' in the NPU of `target`, which a search counts",
            repr(target),
            advice="Leave `counts` out.",
        )
    if search.max_latency_ms is not None:
        raise ArgumentError(
            "max_latency_ms",
            "no `max_latency_ms` with an NPU as `target`, whose files are not timed",
            repr(search.max_latency_ms),
            advice="Pass `max_cycles`.",
        )
    if optimize != "latency" and search.max_cycles is None:
        raise ArgumentError(
            "optimize",
            "optimize='latency' with an NPU as `target`, for the fewest cycles, or `max_cycles`",
            repr(optimize),
            advice="Pass optimize='latency', or a limit, such as max_cycles=50000.",
            beside={"max_cycles": None},
        )


def _read_search(search: Any, model: keras.Model) -> Search:
    search = Search() if search is None else search
    if not isinstance(search, Search):
        raise ArgumentTypeError(
            "search", "`search` to be a tfprune.export.Search, or None", f"{search!r} of type {type(search).__name__}"
        )
    if search.distillation is not None:  # refused here, before each trial fails
        distilled(plain_copy(Anatomy.of(model)), model, search.distillation)
    return search


def _read_target(target: Any, *, optimize: str, on: Any) -> Micro | Vela | None:
    target_spec = target if isinstance(target, Vela) else read_micro(target, objects=_TARGETS, optimize=optimize)
    if target_spec is not None and on is not None:
        raise ArgumentError(
            "on", "`on` without `target`, whose files are not timed", repr(on), advice="Leave one out."
        )
    return target_spec


def _check_support(model: keras.Model) -> None:
    support = micro_support(model)
    if not support.runs:
        raise ValueError(
            f"Expected a model that the interpreter for microcontrollers runs. Received: {model.name!r}: "
            f"{support.reason}. Replace the layers or functions that need it, and train the model again."
        )
