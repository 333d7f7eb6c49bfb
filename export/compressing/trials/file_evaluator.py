"""Export models, run the files on validation data, and measure them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.limit import GroupLimits
from tfprune.base.warn_user import warn_user
from tfprune.export.compressing.trials.file_metric import FileMetric
from tfprune.export.compressing.trials.recipe import Recipe, recipe_code
from tfprune.export.compressing.trials.trial import MeasuredFile
from tfprune.export.device.processes.device import Device
from tfprune.export.device.remote.device_pool import DevicePool
from tfprune.export.device.running.benchmark import benchmark
from tfprune.export.device.running.quantization_error import quantization_error
from tfprune.export.file.files.codec import encode
from tfprune.export.keras_side.converting.accuracy_drop import file_outputs
from tfprune.export.keras_side.converting.convert import convert
from tfprune.export.keras_side.converting.quantization import INTEGERS, Quantization
from tfprune.export.keras_side.converting.to_tflite import to_tflite
from tfprune.export.keras_side.converting.vela import Vela
from tfprune.export.micro.micro import Micro, OverBudgetError
from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.tasks.references import DataReference
from tfprune.masking.wrapping.strip import plain_copy

CALIBRATION_SAMPLES = 100
INT8_TOLERANCE = 10.0  # wide, as the accuracy of the file is measured
TIMED_RUNS = 50
INTEGERS_ONLY = Quantization("int8", io_dtype="int8")
MIXED_BYTES = 1.2  # times those of the int8 file: the most of a mixed one

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
        number_formats: The number formats of files, of `FORMATS`, and recipes of AI Edge Quantizer.
        mixed_from: The drop that int8 alone has to add before a mixed file is made.
        reference: Where workers read the samples and labels; None sends them.
        npu: The NPU that files are for, whose compiler counts their cycles; None for other devices.
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
            errors = quantization_error(reference, integers, self.calibration)
        except ValueError as error:
            _log.info("no mixed file is made: %s", error)
            return []
        return [row.name for row in errors.to_skip(max_bytes=int(MIXED_BYTES * errors.bytes))]

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
        with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
            path = Path(folder, "model.tflite")
            try:
                report = export(model, path, calibration=calibration, verbose=0)
            except OverBudgetError:  # its distance from the budgets tells the search what to try next
                export = partial(export, target="micro")
                report = export(model, path, calibration=calibration, verbose=0)
            content = path.read_bytes()
        settings = "".join(f", {name}={value!r}" for name, value in export.keywords.items() if value is not None)
        settings += "" if calibration is None else f", calibration=x[:{CALIBRATION_SAMPLES}]"
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
            export = partial(export, quantize=INTEGERS_ONLY, target=self.micro)
        elif self.npu is not None:
            export = partial(export, quantize=INTEGERS_ONLY, optimize="dense", batch=1)
        else:
            export = partial(export, quantize=quantize, optimize=self.optimize)
        return partial(export, tolerance=INT8_TOLERANCE) if quantize else partial(export)

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
        return [benchmark(content, runs=TIMED_RUNS, on=self.on, verbose=0).median_ms for content in contents]


def calibration_of(x: Any) -> Any:
    """Return the training samples that int8 files are calibrated on."""
    return keras.tree.map_structure(lambda array: array[:CALIBRATION_SAMPLES], x)


def baseline_outputs(model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    """Return the outputs of a model itself, in float32."""
    return file_outputs(_dense_file(model), x)


def devices_for(model: keras.Model, on: Device | Sequence[Device] | None) -> Device | DevicePool | None:
    """Return the device for timing, or a pool of several, which compare with the dense file of a model."""
    return DevicePool(on, _dense_file(model), runs=TIMED_RUNS) if isinstance(on, Sequence) else on


def _dense_file(model: keras.Model) -> bytes:
    return convert(plain_copy(Anatomy.of(model)))
