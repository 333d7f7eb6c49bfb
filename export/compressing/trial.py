"""What becomes of a recipe, and how that is kept."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.run_folder import Arrays
from tfprune.export.compressing.apply_recipe import apply_recipe
from tfprune.export.compressing.measured_file import FileEvaluator, MeasuredFile
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.timing_callbacks import Deadline
from tfprune.export.keras_side.loading import load_model
from tfprune.masking.wrapping.strip import plain_copy

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What became of a recipe.

    Attributes:
        recipe: The recipe; None for the model as it was.
        tried: The files that it made.
        seconds: How long it took.
        training: How long it trained.
        reason: Why it made no file.
        ended: How long the search had lasted then, in all calls.
        is_kept: Whether its model is kept, so that another recipe can go on with it.
    """

    recipe: Recipe | None
    tried: tuple[MeasuredFile, ...]
    seconds: float
    training: float
    reason: str = ""
    ended: float = 0.0
    is_kept: bool = False

    @property
    def name(self) -> str:
        """What was done, in a few letters."""
        return self.recipe.name if self.recipe else "dense"

    def stored(self, contents: Sequence[np.ndarray]) -> Arrays:
        """Return it, and the bytes of its files, as arrays."""
        recipe = None if self.recipe is None else self.recipe.as_dict()
        fields = {**vars(self), "tried": [one.as_dict() for one in self.tried], "recipe": recipe}
        files = {f"file_{index}": content for index, content in enumerate(contents)}
        return {"trial": np.array(json.dumps(fields)), **files}


@dataclass(frozen=True)
class TrialRunner:
    """Makes trials of one model.

    Attributes:
        model: The model to compress.
        train_data: Samples and labels.
        evaluator: Makes and measures files.
        batch_size: Samples in a batch.
    """

    model: keras.Model
    train_data: tuple[Any, Any]
    evaluator: FileEvaluator
    batch_size: int

    @cached_property
    def can_load(self) -> bool:
        """Whether Keras can save such models, and load them again."""
        try:
            _loaded(_saved(self.model))
        except (ValueError, TypeError, NotImplementedError) as error:
            _log.info("each trial begins with the model as it was: %s", error)
            return False
        return True

    def run(self, recipe: Recipe | None, seconds: float, start: np.ndarray | None = None) -> Arrays:
        """Do what a recipe says, export what comes out, and measure it.

        Args:
            recipe: What to do; None takes the model as it is.
            seconds: How long it may train.
            start: The model that the recipe before it made, as it was returned; None if there is none.

        Returns:
            What `read_trial` reads, the files, and the model, if it can be loaded.

        Raises:
            LateError: If it trained for longer.
            ValueError: If the model makes no file as it is.
        """
        began, model, training, reason = time.monotonic(), self.model, 0.0, ""
        tried, contents, saved = [], [], {}
        try:
            if recipe is not None:
                model = self.apply(recipe, Deadline(began + seconds), start)
                training = time.monotonic() - began
                saved = {"model": _saved(plain_copy(model))} if self.can_load else {}
            for quantize in self.evaluator.formats(recipe):
                one, content = self.evaluator.measured(model, recipe, quantize=quantize, batch_size=self.batch_size)
                tried.append(one)
                contents.append(content)
        except ValueError as error:
            if recipe is None:
                raise
            reason = str(error)
        found = Trial(recipe, tuple(tried), time.monotonic() - began, training, reason)
        _log.info("%s: %s", found.name, reason or ", ".join(f"{one.bytes:,} bytes, {one.score:.4f}" for one in tried))
        return {**found.stored(contents), **saved}

    def apply(
        self, recipe: Recipe, callback: keras.callbacks.Callback, start: np.ndarray | None = None
    ) -> keras.Model:
        """Return the model that a recipe makes."""
        return apply_recipe(
            recipe,
            self.model,
            train_data=self.train_data,
            batch_size=self.batch_size,
            callbacks=[callback],
            start=None if start is None else _loaded(start),
        )


def read_trial(arrays: Arrays) -> Trial:
    """Return a trial that was stored."""
    fields = json.loads(str(arrays["trial"]))
    tried = tuple(MeasuredFile(**{**one, "recipe": _recipe(one["recipe"])}) for one in fields["tried"])
    known = {"tried": tried, "recipe": _recipe(fields["recipe"]), "is_kept": "model" in arrays}
    return Trial(**{**fields, **known, "ended": float(arrays.get("ended", 0.0))})


def _recipe(fields: dict[str, Any] | None) -> Recipe | None:
    return None if fields is None else Recipe.read(fields)


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
