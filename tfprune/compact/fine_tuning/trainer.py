"""Trains the smaller models of a run, each by the same arguments and with an optimizer of its own."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress
from tfprune.base.spec import check_count
from tfprune.compact.fine_tuning.distilled import distilled
from tfprune.compact.fine_tuning.fine_tuning import FineTuning
from tfprune.compact.fine_tuning.metric_guard import ADVICE
from tfprune.keras_models.models.compiled import compile_like, create_variables
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import inner_optimizers

BATCH_SIZE = 32  # that of `fit`
FINE_TUNING_RATE = 0.1  # of the largest rate of a schedule: at its peak, a trained model would be trained anew


class Trainer:
    """How models are compiled and trained.

    Args:
        model: The first model, compiled, which teaches.
        arguments: Those of `fit`.
        epochs: Epochs of a training.
        fine_tuning: The other settings of a training. Without an optimizer, that of the first model, with a rate for
            fine-tuning in place of a learning-rate schedule.

    Raises:
        TypeError: If `epochs` is not an integer.
        ValueError: If `epochs` is negative, or the optimizer is not known.
    """

    def __init__(
        self,
        model: keras.Model,
        arguments: dict[str, Any],
        *,
        epochs: int,
        fine_tuning: FineTuning,
    ) -> None:
        self._model, self._arguments, self._callbacks = model, arguments, fine_tuning.callbacks
        self.every, self.distill = fine_tuning.every, fine_tuning.distillation
        self.epochs = check_count(epochs, "epochs", least=0)
        optimizer = fine_tuning.optimizer
        self.optimizer = _at_constant_rate(model.optimizer) if optimizer is None else _settings_of(optimizer)

    def compiled(self, smaller: keras.Model) -> keras.Model:
        """Return a model to train: the smaller one itself, or one over its layers that a teacher teaches.

        Its optimizer has its variables.
        """
        training = smaller if self.distill is None else distilled(smaller, self._model, self.distill)
        changes = {"optimizer": keras.optimizers.deserialize(self.optimizer)} if self.optimizer else {}
        compile_like(training, self._model, advice=ADVICE, **changes)
        if training is not smaller:
            compile_like(smaller, self._model, advice=ADVICE, optimizer=training.optimizer)
        data = self._arguments["x"], self._arguments.get("y")
        if self.epochs and all(isinstance(array, np.ndarray) for array in keras.tree.flatten(data)):
            create_variables(training, data, batch_size=self._arguments.get("batch_size") or BATCH_SIZE)
        else:
            training.optimizer.build(training.trainable_variables)
        return training

    def settings(self) -> dict[str, Any]:
        """Return the settings that a training depends on, besides callbacks and data."""
        batch = self._arguments.get("batch_size")
        trained = {"epochs": self.epochs, "every": self.every, "batch_size": batch, "optimizer": self.optimizer}
        return {**trained, "distill": repr(self.distill)}

    def steps(self) -> int:
        """Return about how many steps a training has, for a bar."""
        return self.every or self.epochs * (_steps_per_epoch(self._arguments) or 1)

    def fit(self, training: keras.Model, number: int, progress: Progress) -> None:
        """Train in the round of this number, from 1; epochs are counted over all rounds."""
        epochs = self.every or self.epochs  # at least one step an epoch
        own: list[keras.callbacks.Callback] = [] if self.every is None else [_StopAfter(self.every)]
        own += [_Ticks(progress, by_epoch=_steps_per_epoch(self._arguments) is None)] if progress.is_shown else []
        training.fit(
            **self._arguments,
            initial_epoch=(number - 1) * epochs,
            epochs=number * epochs,
            callbacks=[*self._callbacks, *own],
            verbose=0,
        )


class _StopAfter(keras.callbacks.Callback):
    """End a training after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        self.model.stop_training = self.model.stop_training or self._done >= self._steps


class _Ticks(keras.callbacks.Callback):
    """Move a bar as training goes on."""

    def __init__(self, progress: Progress, *, by_epoch: bool) -> None:
        super().__init__()
        self._progress, self._by_epoch = progress, by_epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._by_epoch:
            self._progress.add()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._by_epoch:
            self._progress.add()


def _settings_of(optimizer: str | keras.optimizers.Optimizer) -> dict[str, Any]:
    settings = keras.optimizers.serialize(keras.optimizers.get(optimizer))
    if isinstance(optimizer, str):  # Keras counts the optimizers that it made in their names: a run could not go on
        settings["config"]["name"] = re.sub(r"_\d+$", "", settings["config"]["name"])
    return settings


def _at_constant_rate(optimizer: keras.optimizers.Optimizer) -> dict[str, Any] | None:
    """Return the settings of an optimizer with constant rates in place of its schedules; None if it has none."""
    settings = [part.get_config() for part in inner_optimizers(optimizer)]
    has_schedule = any(_is_schedule(each.get("learning_rate")) for each in settings)
    return _with_constant_rates(keras.optimizers.serialize(optimizer)) if has_schedule else None


def _with_constant_rates(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_with_constant_rates(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        name: _fine_tuning_rate(value)
        if name == "learning_rate" and _is_schedule(value)
        else _with_constant_rates(value)
        for name, value in settings.items()
    }


def _is_schedule(rate: Any) -> bool:
    """Tell whether a setting is a schedule, rather than a number or a function of no argument."""
    return isinstance(rate, dict) and rate.get("class_name") not in ("function", "__lambda__")


def _fine_tuning_rate(schedule: dict[str, Any]) -> float:
    """Return the part of a schedule's largest rate that fine-tuning takes."""
    try:
        rate_at = keras.optimizers.schedules.deserialize(schedule)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a model compiled with a learning-rate schedule that Keras can save and load. Received: "
            f"{schedule.get('class_name')!r}. Pass FineTuning(optimizer=...), or register the schedule with "
            f"keras.saving.register_keras_serializable."
        ) from error
    return FINE_TUNING_RATE * max(float(as_numpy(rate_at(step))) for step in (0, *(2**power for power in range(21))))


def _steps_per_epoch(arguments: dict[str, Any]) -> int | None:
    """Return the number of batches in an epoch; None if the data do not tell."""
    data = arguments["x"]
    if "y" in arguments:
        rows = len(keras.tree.flatten(data)[0])
        return -(-rows // (arguments.get("batch_size") or 32))
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    count = int(data.cardinality()) if hasattr(data, "cardinality") else len(data) if hasattr(data, "__len__") else -1
    return count if count > 0 else None
