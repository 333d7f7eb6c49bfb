"""Run a trial: apply a recipe to the model, export the result, and measure the files."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.base.run_folder import NamedArrays
from tfprune.compact.fine_tuning.distillation import Distillation
from tfprune.export.compressing.trials.block_order import BlockOrder, block_order_of
from tfprune.export.compressing.trials.file_evaluator import FileEvaluator
from tfprune.export.compressing.trials.recipe import PATTERNS, PRUNING_END, Recipe, training_recipe
from tfprune.export.compressing.trials.trial import MeasuredFile, Trial
from tfprune.export.keras_side.loading import load_model
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.compiled import compile_like, create_variables
from tfprune.keras_models.tasks.references import DataReference
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.quantizing.quantize_aware import quantization_plan

_log = logging.getLogger(__name__)
WARM_UP_STEPS, TIMED_STEPS = 5, 20
ADVICE = "Compile it with what Keras can save, and search again"


class LateError(Exception):
    """There is no time left for the rest of a trial."""


class Deadline(keras.callbacks.Callback):
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


class StepTimer(Deadline):
    """Time training steps after the first ones, until the time is over."""

    def on_train_begin(self, logs: Any = None) -> None:
        self._times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._times.append(time.monotonic())

    @property
    def seconds_per_step(self) -> float:
        """Seconds of a step."""
        return (self._times[-1] - self._times[WARM_UP_STEPS - 1]) / (len(self._times) - WARM_UP_STEPS)


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
            WARM_UP_STEPS, samples=self.samples, batch_size=self.batch_size, distillation=self.distillation
        )
        rounds = -(-(WARM_UP_STEPS + TIMED_STEPS) // recipe.steps)
        timer = StepTimer(time.monotonic() + seconds)
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
                model = self.apply_recipe(recipe, Deadline(began + seconds), start)
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
        compile_like(model, self.model, advice=ADVICE, optimizer=optimizer)
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
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        path = Path(folder, "model.keras")
        model.save(path, include_optimizer=False)
        return np.frombuffer(path.read_bytes(), np.uint8)


def _loaded(content: np.ndarray) -> keras.Model:
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(content.tobytes())
        return load_model(str(path))
