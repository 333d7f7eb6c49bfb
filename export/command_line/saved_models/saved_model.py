"""Measure the model that a command made and the original one, and write it whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras

from tfprune.export.command_line.saved_models.job import Job
from tfprune.export.file.files.destination import write_atomically
from tfprune.keras_models.models.compiled import compile_like
from tfprune.report import Report, table

ADVICE = "Prune it in Python, where you can compile it again"


@dataclass(frozen=True)
class Metric(Report):
    """A loss or metric of the original model, and of the written one."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class SavedModel(Report):
    """The result of a command on a saved model: the report of the change, metrics before and after, and the file."""

    done: Report
    measured_on: str
    metrics: tuple[Metric, ...]
    path: str
    bytes: int

    def __str__(self) -> str:
        rows = [[metric.name, f"{metric.before:.4f}", f"{metric.after:.4f}"] for metric in self.metrics]
        measured = [table([f"on {self.measured_on}", "before", "after"], rows)] if rows else []
        written = f"Written: {self.path}, {self.bytes:,} bytes. For the device:\n"
        return "\n\n".join([str(self.done), *measured, f"{written}tfprune export {self.path} model.tflite"])


def save(job: Job, model: keras.Model, *, path: str, done: Report) -> SavedModel:
    """Write a model whole or not at all, and report its metrics and those of the original one."""
    if job.model.compiled and not model.compiled:
        compile_like(model, job.model, advice=ADVICE)
        model.optimizer.build(model.trainable_variables)  # else Keras warns when it loads the file
    before, after = job.measure(job.model), job.measure(model)
    metrics = tuple(Metric(name, before[name], value) for name, value in after.items())
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        content = saved.read_bytes()
    write_atomically(path, content)
    measured_on = "the validation data" if job.validation else "the training data"
    return SavedModel(done, measured_on, metrics, path, len(content))
