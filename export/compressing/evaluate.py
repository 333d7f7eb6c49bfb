"""Run a trial: apply a recipe, export the model, measure the files, here or on workers."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

import tfprune
from tfprune.base.folders import NamedArrays, RunFolder, TemporaryFolder, parse_json
from tfprune.base.limit import GroupLimits, Limit
from tfprune.base.spec import ArgumentError, warn_user
from tfprune.compact.trainer import Distillation
from tfprune.export.compressing.trials import (
    PATTERNS,
    PRUNING_END,
    BlockOrder,
    MeasuredFile,
    Recipe,
    Trial,
    block_order_of,
    recipe_code,
    training_recipe,
)
from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.processes import Device
from tfprune.export.device.quantization_error import errors_of_files
from tfprune.export.device.remote import DevicePool
from tfprune.export.device.runner import X86, has_avx
from tfprune.export.device.verify import NAMES, measure, metric_mode, metric_name, metric_of
from tfprune.export.file.container import encode
from tfprune.export.keras_side.ask import Vela, vela
from tfprune.export.keras_side.convert import INTEGERS, Quantization, convert, count_inputs, labeled_arrays
from tfprune.export.keras_side.loading import load_model
from tfprune.export.keras_side.prepare import signature
from tfprune.export.keras_side.to_tflite import compiled_metrics, file_outputs, to_tflite, with_metric
from tfprune.export.micro.micro import Micro, OverBudgetError
from tfprune.export.rewriting.weights import EdgeQuantizer
from tfprune.masking.strip import plain_copy
from tfprune.models.anatomy import Anatomy
from tfprune.models.tasks import (
    LATE,
    WITHOUT_WORKERS,
    DataReference,
    PackedModel,
    Task,
    TaskPool,
    import_path,
    imported,
    pack_model,
    read_referred,
    referred,
    task_pool,
    unpack_model,
)
from tfprune.models.training import compile_like, create_variables
from tfprune.quantizing.quantize_aware import quantization_plan

# The metric by which the files of a search are chosen: which one, of which output, and how it travels to workers.


@dataclass(frozen=True, eq=False)
class FileMetric:
    """A metric of the outputs of a file.

    Attributes:
        metric: A name that `evaluate` knows, a metric of Keras, or a function of labels and outputs.
        mode: `"max"` if a larger value is better, `"min"` if a smaller one is.
        output: The name of the output that is measured; None for the only one.
    """

    metric: Any = "accuracy"
    mode: str = "max"
    output: str | None = None

    @classmethod
    def of(cls, limit: Limit, model: keras.Model) -> FileMetric:
        """Return the metric of a limit: one by name, one of a compiled model by its name, or the one it has.

        A limit without a metric has that of the compiled model, as `with_metric` says.

        Raises:
            ValueError: If there is no metric of this name, or `mode` is wrong or needed.
        """
        limit = with_metric(limit, model)
        metric = limit.metric
        if isinstance(metric, str) and metric not in NAMES:
            compiled = compiled_metrics(model)
            if metric not in compiled:
                others = "".join(f", {name!r}" for name in compiled if name not in NAMES)
                raise ArgumentError(
                    "metric",
                    f"`metric` to be {', '.join(map(repr, NAMES))}{others}, or a metric of Keras",
                    repr(metric),
                    advice="Compile the model with the metric, or pass the metric itself.",
                )
            return cls(compiled[metric], metric_mode(compiled[metric], limit.mode), limit.output)
        metric = metric_of(limit)
        return cls(metric, metric_mode(metric, limit.mode), limit.output)

    @property
    def name(self) -> str:
        """The name of the metric, behind that of the output if one was named."""
        return metric_name(self.metric) if self.output is None else f"{self.output}_{metric_name(self.metric)}"

    def score(self, outputs: Mapping[str, np.ndarray], y: Any) -> float:
        """Return the metric of the outputs of a file.

        A function gets all outputs by name if there are several, and no output was named.

        Raises:
            ValueError: If it has several outputs and none was named, labels do not fit, or the metric is NaN.
        """
        if self.output is None and len(outputs) > 1:
            if not callable(self.metric) or hasattr(self.metric, "update_state"):
                raise ArgumentError(
                    "output",
                    "the name of an output to measure, of a model with several",
                    found=f"none of {', '.join(map(repr, outputs))}",
                    advice=(
                        f"Pass output={next(iter(outputs))!r} in a tfprune.Limit, or a function of all labels and "
                        f"outputs as the metric."
                    ),
                )
            score = float(np.mean(np.asarray(self.metric(y, dict(outputs)))))
        else:
            metrics = self.metric if self.output is None else {self.output: self.metric}
            score = next(iter(measure(outputs, y, metrics=metrics).values()))
        if not math.isfinite(score):
            raise ValueError(
                f"Expected a finite {self.name} of the file. Received: {score}. Check its weights and the samples."
            )
        return score

    def drop(self, score: float, baseline: float) -> float:
        """Return how much worse a score is than the baseline; negative if it is better."""
        return baseline - score if self.mode == "max" else score - baseline

    def settings(self) -> dict[str, Any]:
        """Return the metric as values of JSON: its name, or where its class or function is, and its arguments.

        Raises:
            ValueError: If its arguments are not values of JSON.
        """
        entry: Any = self.metric
        if not isinstance(entry, str):
            entry = {"path": f"{self._definition.__module__}:{self._definition.__qualname__}"}
            if hasattr(self.metric, "get_config"):
                config = self.metric.get_config()
                entry["config"] = {key: value for key, value in config.items() if key != "name"}
        try:
            json.dumps(entry)
        except TypeError as error:
            raise ValueError(
                f"Expected a metric whose `get_config` returns values of JSON. Received: {self.name!r}, where "
                f"{str(error)[:200]}. Return numbers, strings, lists and dicts from it."
            ) from error
        return {"metric": entry, "mode": self.mode, "output": self.output}

    def to_send(self) -> dict[str, Any]:
        """Return the settings, from which `read` makes the same metric in another process.

        Raises:
            ValueError: If another process cannot import it.
        """
        settings = self.settings()
        entry = settings["metric"]
        if isinstance(entry, str):
            return settings
        import_path(self._definition, expected=f"a metric {self.name!r}")
        if self._definition is not self.metric and "config" not in entry:
            raise ValueError(
                f"Expected a metric with `get_config`, which workers make again. Received: {self.name!r} without it. "
                f"Add `get_config` and `from_config`, as metrics of Keras have them. {WITHOUT_WORKERS}"
            )
        return settings

    @property
    def _definition(self) -> Any:
        """The function, or the class of the metric."""
        return self.metric if hasattr(self.metric, "__qualname__") else type(self.metric)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> FileMetric:
        """Make the metric of which `to_send` returned these settings.

        Raises:
            ValueError: If it cannot be imported here.
        """
        entry = settings["metric"]
        if isinstance(entry, str):
            return cls(entry, settings["mode"], settings["output"])
        definition = imported(entry["path"], expected="the metric")
        metric = definition.from_config(entry["config"]) if "config" in entry else definition
        return cls(metric, settings["mode"], settings["output"])


# Export models, run the files on validation data, and measure them.

_CALIBRATION_SAMPLES = 100
_INT8_TOLERANCE = 10.0  # wide, as the accuracy of the file is measured
_TIMED_RUNS = 50
_INTEGERS_ONLY = Quantization("int8", io_dtype="int8")
_MIXED_BYTES = 1.2  # times those of the int8 file: the most of a mixed one

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileEvaluator:
    """How files are made and measured: the same way throughout a search.

    Attributes:
        calibration: Calibration data for int8 files of models without ranges.
        validation: Samples and labels.
        metric: What files are judged by.
        baseline: Its value for the original model, in float32.
        optimize: `"size"` or `"latency"`.
        micro: The microcontroller that files are for, and on whose interpreter they run; None for other devices.
        on: The device or devices on which files are timed; None is this machine.
        limits: The largest loss of each class and group; None for none.
        times_all: Whether files are timed also where their size is searched for.
        number_formats: The number formats of files, of `FORMATS`, and recipes of LiteRT Quantizer.
        mixed_from: The drop that int8 alone has to add before a mixed file is made.
        reference: Where workers read the samples and labels; None sends them.
        npu: The NPU that files are for, whose compiler counts their cycles; None for other devices.
        batch: The batch of files, which sparse kernels for 3x3 convolutions need to be 1; None leaves it open.
    """

    calibration: Any
    validation: tuple[Any, Any]
    metric: FileMetric
    baseline: float
    optimize: str
    micro: Micro | None = None
    on: Device | DevicePool | None = None
    limits: GroupLimits | None = None
    times_all: bool = False
    number_formats: tuple[str | EdgeQuantizer, ...] = ("float32", "int8")
    mixed_from: float = 0.0
    reference: DataReference | None = None
    npu: Vela | None = None
    batch: int | None = None

    def formats(self, recipe: Recipe | None) -> tuple[str | EdgeQuantizer | None, ...]:
        """Return the number formats to export a recipe's model in, but for a mixed one."""
        if self.micro is not None or self.npu is not None or (recipe is not None and recipe.quantize_aware):
            return ("int8",)
        return tuple(None if each == "float32" else each for each in self.number_formats if each != "mixed")

    def operators_in_float(self, files: Sequence[tuple[MeasuredFile, np.ndarray]]) -> list[str]:
        """Return the names of the operators of a mixed file; none if there is no need for one.

        Args:
            files: The files of a trial, and their bytes.
        """
        by_format = {file.quantize: (file, content.tobytes()) for file, content in files}
        if "mixed" not in self.number_formats or not {None, "int8"} <= by_format.keys():
            return []
        (exact, reference), (int8, integers) = by_format[None], by_format["int8"]
        if int8.drop - exact.drop <= self.mixed_from:
            return []
        try:
            errors = errors_of_files(reference, integers, samples=self.calibration)
        except ValueError as error:
            _log.info("no mixed file is made: %s", error)
            return []
        return [row.name for row in errors.to_skip(max_bytes=int(_MIXED_BYTES * errors.bytes))]

    def measure(
        self,
        model: keras.Model,
        recipe: Recipe | None,
        *,
        quantize: str | EdgeQuantizer | None,
        batch_size: int,
        skip: Sequence[str] | None = None,
    ) -> tuple[MeasuredFile, np.ndarray]:
        """Export a model and run the file.

        Args:
            model: The model.
            recipe: How it was made; None for the original model.
            quantize: The number format, of `FORMATS`, or a recipe; None for float32.
            batch_size: Samples in a batch, for the program that makes the file.
            skip: The operators of a mixed file that stay in float.

        Returns:
            The measured file, and its bytes.

        Raises:
            ValueError: If the model cannot be exported so.
        """
        has_ranges = recipe is not None and recipe.quantize_aware
        is_recipe = isinstance(quantize, EdgeQuantizer)
        is_calibrated = is_recipe or (quantize in (*INTEGERS, "mixed") and not has_ranges)
        calibration = self.calibration if is_calibrated else None
        export = self._export(Quantization("int8", skip=skip) if quantize == "mixed" else quantize)
        with TemporaryFolder() as folder:
            path = Path(folder, "model.tflite")
            try:
                report = export(model, path, calibration=calibration, verbose=0)
            except OverBudgetError:  # its distance from the budgets tells the search what to try next
                export = partial(export, target="micro")
                report = export(model, path, calibration=calibration, verbose=0)
            content = path.read_bytes()
        settings = "".join(f", {name}={value!r}" for name, value in export.keywords.items() if value is not None)
        settings += "" if calibration is None else f", calibration=x[:{_CALIBRATION_SAMPLES}]"
        x, y = self.validation
        outputs = file_outputs(content, x, micro=self.micro)
        score = self.metric.score(outputs, y)
        file = MeasuredFile(
            recipe=recipe,
            quantize=quantize.name if isinstance(quantize, EdgeQuantizer) else quantize,
            bytes=report.tflite_bytes,
            packed_bytes=len(encode(content, "packed")),
            score=score,
            drop=self.metric.drop(score, self.baseline),
            arena_bytes=None if report.micro is None else report.micro.arena,
            cycles=self._cycles(content, is_original=recipe is None),
            code=recipe_code(recipe, settings, batch_size=batch_size),
            worst_group=None if self.limits is None else self.limits.worst(outputs),
        )
        return file, np.frombuffer(content, np.uint8)

    def _export(self, quantize: str | Quantization | EdgeQuantizer | None) -> partial:
        """Return `to_tflite` with the arguments that the program of a file shows."""
        export: Callable = to_tflite
        if self.micro is not None:
            export = partial(export, quantize=_INTEGERS_ONLY, target=self.micro)
        elif self.npu is not None:
            export = partial(export, quantize=_INTEGERS_ONLY, optimize="dense", batch=1)
        else:
            export = partial(export, quantize=quantize, optimize=self.optimize, batch=self.batch)
        return partial(export, tolerance=_INT8_TOLERANCE) if quantize else partial(export)

    def _cycles(self, content: bytes, *, is_original: bool) -> int | None:
        """Count the cycles of a file on the NPU, and warn about operators of the original model without cycles."""
        if self.npu is None:
            return None
        report = self.npu.report(content)
        if report.on_cpu and is_original:
            warn_user(
                f"Expected a model whose operators all run on {report.accelerator}. Received: one whose operators "
                f"{', '.join(report.on_cpu)} run on the processor. Their time is not among the cycles."
            )
        return report.cycles

    def score(self, content: bytes, data: tuple[Any, Any]) -> float:
        """Run a file on samples, with the interpreter that it is made for, and return the metric."""
        x, y = data
        return self.metric.score(file_outputs(content, x, micro=self.micro), y)

    def timed(self, files: list[MeasuredFile], contents: Sequence[np.ndarray]) -> list[MeasuredFile]:
        """Return files with their latency if that is searched for, or limited; their bytes are `contents`."""
        if self.npu is not None or (self.optimize != "latency" and not self.times_all):
            return files
        times = self.milliseconds([content.tobytes() for content in contents])
        return [replace(file, latency_ms=each) for file, each in zip(files, times, strict=True)]

    def milliseconds(self, contents: Sequence[bytes]) -> list[float]:
        """Time one inference of each file on the device; on several devices at once, if there are several."""
        if isinstance(self.on, DevicePool):
            return self.on.milliseconds(contents)
        return [benchmark(content, runs=_TIMED_RUNS, on=self.on, verbose=0).median_ms for content in contents]


def calibration_of(x: Any) -> Any:
    """Return the training samples that int8 files are calibrated on."""
    return keras.tree.map_structure(lambda array: array[:_CALIBRATION_SAMPLES], x)


def baseline_outputs(model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    """Return the outputs of a model itself, in float32."""
    return file_outputs(_dense_file(model), x)


def devices_for(model: keras.Model, on: Device | Sequence[Device] | None) -> Device | DevicePool | None:
    """Return the device for timing, or a pool of several, which compare with the dense file of a model."""
    return DevicePool(on, _dense_file(model), runs=_TIMED_RUNS) if isinstance(on, Sequence) else on


def batch_for(model: keras.Model, on: Device | Sequence[Device] | None) -> int | None:
    """Return the batch of the fastest files of a model on a device: 1 where sparse kernels take 3x3 convolutions.

    x86 processors with AVX have none, and run such a file slower than a dense one. None also for a model with a batch
    of its own, or without convolutions of images.
    """
    if signature(model).batch is not None or all(len(weight.shape) != 4 for weight in model.weights):
        return None
    first = on[0] if isinstance(on, Sequence) else on
    if first is None:
        return None if has_avx() else 1
    machine = benchmark(_dense_file(model), runs=1, warmup=0, processes=1, on=first, verbose=0).machine
    return None if machine.partition(",")[0].lower() in X86 else 1


def _dense_file(model: keras.Model) -> bytes:
    return convert(plain_copy(Anatomy.of(model)))


# Run a trial: apply a recipe to the model, export the result, and measure the files.

_WARM_UP_STEPS, _TIMED_STEPS = 5, 20
_ADVICE = "Compile it with what Keras can save, and search again"


class LateError(Exception):
    """There is no time left for the rest of a trial."""


class _Deadline(keras.callbacks.Callback):
    """Stop training when the time is over.

    Args:
        end: The time, as `time.monotonic` gives it.

    Raises:
        LateError: If a step ends later.
    """

    def __init__(self, end: float) -> None:
        super().__init__()
        self._end = end

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() > self._end:
            raise LateError


class _StepTimer(_Deadline):
    """Time training steps after the first ones, until the time is over."""

    def on_train_begin(self, logs: Any = None) -> None:
        self._times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._times.append(time.monotonic())

    @property
    def seconds_per_step(self) -> float:
        """Seconds of a step."""
        return (self._times[-1] - self._times[_WARM_UP_STEPS - 1]) / (len(self._times) - _WARM_UP_STEPS)


@dataclass(frozen=True)
class TrialRunner:
    """Runs trials of one model.

    Attributes:
        model: The trained, compiled model to compress.
        train_data: Samples and labels.
        evaluator: Makes and measures files.
        batch_size: Samples in a batch.
        reference: Where workers read the data; None sends them.
        distillation: How the model teaches smaller ones; None if it does not.
    """

    model: keras.Model
    train_data: tuple[Any, Any]
    evaluator: FileEvaluator
    batch_size: int
    reference: DataReference | None = None
    distillation: Distillation | None = None

    @property
    def samples(self) -> int:
        """The number of training samples."""
        return len(keras.tree.flatten(self.train_data)[0])

    @cached_property
    def learning_rate(self) -> float:
        """The learning rate that the model was compiled with."""
        config = keras.saving.deserialize_keras_object(self.model.get_compile_config())
        return float(keras.ops.convert_to_numpy(keras.optimizers.get(config["optimizer"]).learning_rate))

    @cached_property
    def can_shrink(self) -> bool:
        """Whether channels of the model can be removed."""
        try:
            tfprune.plan_shrink(self.model, tfprune.budget(flops=0.9), verbose=0)
        except ValueError as error:
            _log.info("no channels are removed: %s", error)
            return False
        return True

    @cached_property
    def block_order(self) -> BlockOrder | None:
        """The blocks that recipes may drop; None if the model is no transformer, or has no blocks that repeat."""
        return block_order_of(self.model, self.train_data)

    @cached_property
    def can_quantize_aware(self) -> bool:
        """Whether each layer of the model can train for int8, so that a file of integers comes of it."""
        try:
            skipped = quantization_plan(Anatomy.of(self.model)).skipped
        except ValueError as error:
            _log.info("nothing trains for int8: %s", error)
            return False
        return not skipped

    @cached_property
    def can_load(self) -> bool:
        """Whether Keras can save such models, and load them again."""
        try:
            _loaded(_saved(self.model))
        except (ValueError, TypeError, NotImplementedError) as error:
            _log.info("each trial begins with the original model: %s", error)
            return False
        return True

    def seconds_per_step(self, seconds: float) -> float:
        """Time a training step of a model under masks.

        Args:
            seconds: How long this may take.

        Raises:
            LateError: If it takes longer.
        """
        recipe = training_recipe(
            _WARM_UP_STEPS, samples=self.samples, batch_size=self.batch_size, distillation=self.distillation
        )
        rounds = -(-(_WARM_UP_STEPS + _TIMED_STEPS) // recipe.steps)
        timer = _StepTimer(time.monotonic() + seconds)
        self.apply_recipe(replace(recipe, sparsity=0.5, rounds=rounds), timer)
        return timer.seconds_per_step

    def run(self, recipe: Recipe | None, seconds: float, start: np.ndarray | None = None) -> NamedArrays:
        """Apply a recipe, export the resulting model, and measure its files.

        Args:
            recipe: The recipe; None takes the original model.
            seconds: How long it may train.
            start: The model of the recipe before it, as this method returned it; None if there is none.

        Returns:
            The arrays that `read_trial` reads, the files, and the model, if it can be loaded.

        Raises:
            LateError: If it trained for longer.
            ValueError: If the original model makes no file.
        """
        began, model, training, reason = time.monotonic(), self.model, 0.0, ""
        files: list[MeasuredFile] = []
        contents, saved = [], {}
        try:
            if recipe is not None:
                model = self.apply_recipe(recipe, _Deadline(began + seconds), start)
                training = time.monotonic() - began
                saved = {"model": _saved(plain_copy(Anatomy.of(model)))} if self.can_load else {}
            for file, content in self._files(model, recipe):
                files.append(file)
                contents.append(content)
        except ValueError as error:
            if recipe is None:
                raise
            reason = str(error)
        try:
            files = self.evaluator.timed(files, contents)
        except ValueError as error:
            if recipe is None:
                raise
            files, contents, reason = [], [], str(error)
        trial = Trial(recipe, tuple(files), time.monotonic() - began, training, reason)
        sizes = ", ".join(f"{file.bytes:,} bytes, {file.score:.4f}" for file in files)
        _log.info("%s: %s", trial.name, reason or sizes)
        return {**trial.stored(contents), **saved}

    def _files(self, model: keras.Model, recipe: Recipe | None) -> Iterator[tuple[MeasuredFile, np.ndarray]]:
        """Yield the files of a model and their bytes: in each format, and a mixed one where int8 loses much."""
        evaluator, results = self.evaluator, []
        for quantize in evaluator.formats(recipe):
            results.append(evaluator.measure(model, recipe, quantize=quantize, batch_size=self.batch_size))
            yield results[-1]
        skip = evaluator.operators_in_float(results)
        if skip:
            yield evaluator.measure(model, recipe, quantize="mixed", batch_size=self.batch_size, skip=skip)

    def apply_recipe(
        self, recipe: Recipe, callback: keras.callbacks.Callback, start: np.ndarray | None = None
    ) -> keras.Model:
        """Make the smaller model of a recipe; the original one stays unchanged.

        Args:
            recipe: The recipe.
            callback: A callback of Keras for all training.
            start: The model of the recipe before it, without wrappers; None starts from the original model.

        Returns:
            The model, with its wrappers.

        Raises:
            ValueError: If nothing can be removed, or there is too little to remove.
        """
        smaller = self.model if start is None else _loaded(start)
        keras.utils.set_random_seed(recipe.seed)
        if recipe.drop:
            smaller, _ = tfprune.transformers.drop_blocks(smaller, recipe.drop, verbose=0)
        if recipe.cut < 1:
            plan = tfprune.plan_shrink(smaller, tfprune.budget(flops=recipe.cut), verbose=0)
            smaller = tfprune.shrink(smaller, plan)
        smaller = (
            tfprune.wrap(smaller, pattern=PATTERNS[recipe.pattern]) if recipe.sparsity else tfprune.strip(smaller)
        )
        callbacks = [callback, *_pruning(recipe)]
        self._train(smaller, recipe, recipe.rounds, recipe.learning_rate, callbacks)
        if recipe.quantize_aware:
            smaller = tfprune.quantize_aware(smaller)
            self._train(smaller, recipe, recipe.extra_rounds, recipe.learning_rate / 10, [callback])
        return smaller

    def _train(
        self, model: keras.Model, recipe: Recipe, rounds: int, rate: float, callbacks: list[keras.callbacks.Callback]
    ) -> None:
        decay = keras.optimizers.schedules.CosineDecay(rate, rounds * recipe.steps)
        optimizer = self.model.optimizer
        optimizer = type(optimizer).from_config({**optimizer.get_config(), "learning_rate": decay})
        if recipe.distillation is not None:
            model = tfprune.distilled(model, self.model, recipe.distillation)
        compile_like(model, self.model, advice=_ADVICE, optimizer=optimizer)
        x, y = keras.tree.map_structure(lambda array: array[: recipe.samples], self.train_data)
        create_variables(model, (x, y), batch_size=self.batch_size)
        model.fit(
            x,
            y,
            batch_size=self.batch_size,
            steps_per_epoch=recipe.steps,
            epochs=rounds,
            callbacks=callbacks,
            verbose=0,
        )


def _pruning(recipe: Recipe) -> list[keras.callbacks.Callback]:
    if not recipe.sparsity:
        return []
    schedule = tfprune.schedules.Polynomial(recipe.sparsity, initial=recipe.initial, end=PRUNING_END)
    return [tfprune.PruningCallback(schedule, every=recipe.every, allocation=recipe.allocation)]


def _saved(model: keras.Model) -> np.ndarray:
    with TemporaryFolder() as folder:
        path = Path(folder, "model.keras")
        model.save(path, include_optimizer=False)
        return np.frombuffer(path.read_bytes(), np.uint8)


def _loaded(content: np.ndarray) -> keras.Model:
    with TemporaryFolder() as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(content.tobytes())
        return load_model(str(path))


# Run trials here, one after the other, or several at once on an executor.

_KEPT = "All trials before are kept: call `compress` again with the same arguments to continue."


class _Workers(Protocol):
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
) -> Iterator[_Workers]:
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
        folder.temporary_file(_pack_runner(runner)) as file,
        task_pool(file, _unpack_runner, jobs=jobs, executor=executor, seconds=seconds, advice=_KEPT) as pool,
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
        task = Task(_run_trial, arguments, time.monotonic() + seconds)
        self._recipes[self._pool.submit(task)] = recipe

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        result = self._pool.next_result(seconds)
        recipe = self._recipes.pop(result.task)
        if not result.failure or result.failure == LATE:
            return recipe, result.value
        reason = f"Expected a worker that ends the trial. Received, {result.failure}."
        return recipe, Trial(recipe, (), 0.0, 0.0, reason).stored([])


def _pack_runner(runner: TrialRunner) -> bytes:
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
        "batch": evaluator.batch,
        "number_formats": [each if isinstance(each, str) else vars(each) for each in evaluator.number_formats],
        "mixed_from": evaluator.mixed_from,
        "batch_size": runner.batch_size,
    }
    return pack_model(PackedModel(runner.model, arrays, settings))


def _unpack_runner(content: bytes) -> TrialRunner:
    """Return the runner of which `_pack_runner` made these bytes in another process.

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
        batch=settings["batch"],
    )
    return TrialRunner(model, (x, y), evaluator, settings["batch_size"])


def _run_trial(runner: TrialRunner, *, recipe: str, start: np.ndarray | None, seconds: float) -> NamedArrays | None:
    """Run the trial of a recipe, given as JSON, from the model of the recipe before it; return None if it is late."""
    try:
        return runner.run(Recipe.read(parse_json(recipe.encode())), seconds, start)
    except LateError:
        return None
