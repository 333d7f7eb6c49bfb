"""Files of a trained model, each run on the samples that judge it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.export.compressing.recipe import Recipe, recipe_code
from tfprune.export.device.running.metrics import is_error
from tfprune.export.file.files.codec import encode
from tfprune.export.keras_side.converting.accuracy_drop import file_metrics
from tfprune.export.keras_side.converting.to_tflite import to_tflite
from tfprune.export.micro.micro import Micro, OverBudgetError
from tfprune.report import Report

CALIBRATION = 100  # samples
TOLERANCE = 10.0  # of int8 outputs: what counts is what the file gets right, which is measured


@dataclass(frozen=True)
class MeasuredFile(Report):
    """A file that was made and measured.

    Attributes:
        recipe: What was done to the model; None for the model as it was.
        quantize: `"int8"`, or None for float32.
        bytes: The size of the .tflite file, which any interpreter loads.
        packed_bytes: Its size when packed, which `Runner` and `tfprune unpack` read.
        score: The metric on the validation data, of the file.
        drop: How much worse that is than the model's own; negative if it is better.
        latency_ms: Milliseconds of one inference; None if it was not measured.
        arena_bytes: The RAM that it takes on a microcontroller; None for other targets.
        code: A program that makes the file.
        file: Its name in the folder, if it is one of the best; else empty.
        test_score: The metric on the test data, of the file; None without them.
    """

    recipe: Recipe | None
    quantize: str | None
    bytes: int
    packed_bytes: int
    score: float
    drop: float
    latency_ms: float | None = None
    arena_bytes: int | None = None
    code: str = ""
    file: str = ""
    test_score: float | None = None

    @property
    def name(self) -> str:
        """What was done, in a few letters."""
        return f"{self.recipe.name if self.recipe else 'dense'}_{self.quantize or 'float32'}"


@dataclass(frozen=True)
class FileEvaluator:
    """How files are made and measured: the same way for all of a search.

    Attributes:
        calibration: Samples for int8 files of models without ranges.
        validation: Samples and labels.
        metric: The name of a metric, as `evaluate` takes it.
        baseline: Its value for the model that is compressed, in float32.
        target: `"size"`, `"latency"`, or `"micro"`: then files run as on a microcontroller.
        budgets: What a file may take there.
        timed: Gives the milliseconds that a file takes; None times nothing.
    """

    calibration: Any
    validation: tuple[Any, Any]
    metric: str
    baseline: float
    target: str
    budgets: Micro
    timed: Callable[[bytes], float] | None

    def formats(self, recipe: Recipe | None) -> tuple[str | None, ...]:
        """Return the number formats of files that are worth a try."""
        only_integers = self.target == "micro" or (recipe is not None and recipe.quantize_aware)
        return ("int8",) if only_integers else (None, "int8")

    def measured(
        self, model: keras.Model, recipe: Recipe | None, *, quantize: str | None, batch_size: int
    ) -> tuple[MeasuredFile, np.ndarray]:
        """Export a model, run the file, and return what it is like, and its bytes.

        Raises:
            ValueError: If there is no such file of this model.
        """
        trained = recipe is not None and recipe.quantize_aware
        calibration = None if quantize is None or trained else self.calibration
        with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
            path = Path(folder, "model.tflite")
            settings = {"quantize": quantize, **self._settings} | ({"tolerance": TOLERANCE} if quantize else {})
            try:
                report = to_tflite(model, path, calibration=calibration, verbose=0, **settings)
            except OverBudgetError:  # how far it is from the budgets tells what to try next
                settings |= dict.fromkeys(vars(self.budgets))
                report = to_tflite(model, path, calibration=calibration, verbose=0, **settings)
            content = path.read_bytes()
        score = self.score(content, self.validation)
        made = "".join(f", {name}={value!r}" for name, value in settings.items() if value is not None)
        made += "" if calibration is None else f", calibration=x[:{CALIBRATION}]"
        found = MeasuredFile(
            recipe=recipe,
            quantize=quantize,
            bytes=report.tflite_bytes,
            packed_bytes=len(encode(content, "packed")),
            score=score,
            drop=self.drop(score),
            latency_ms=None if self.timed is None else self.timed(content),
            arena_bytes=None if report.micro is None else report.micro.arena,
            code=recipe_code(recipe, made, batch_size=batch_size),
        )
        return found, np.frombuffer(content, np.uint8)

    @property
    def _settings(self) -> dict[str, Any]:
        """Return more arguments of `to_tflite`."""
        if self.target != "micro":
            return {"optimize": self.target}
        return {"target": "micro", "io_dtype": "int8", **vars(self.budgets)}

    def score(self, content: bytes, data: tuple[Any, Any]) -> float:
        """Run a file on samples where it is meant to run, and return how good its output is."""
        return score_of(content, data, metric=self.metric, target="micro" if self.target == "micro" else None)

    def drop(self, score: float) -> float:
        """Return how much worse a file is than the model."""
        return (score - self.baseline) if is_error(self.metric) else (self.baseline - score)


def calibration_of(x: Any) -> Any:
    """Return the samples of training data on which int8 files are calibrated."""
    return keras.tree.map_structure(lambda array: array[:CALIBRATION], x)


def score_of(content: bytes, data: tuple[Any, Any], *, metric: str, target: str | None = None) -> float:
    """Run a file on samples, and return how good its output is.

    Raises:
        ValueError: If it does not run on them, it has several outputs, or labels do not fit.
    """
    micro = Micro() if target == "micro" else None
    found = file_metrics(content, data, metric=metric, micro=micro)
    if len(found) > 1:
        raise ValueError(f"Expected a model with one output. Received: {len(found)} of them: {', '.join(found)}.")
    return next(iter(found.values()))
