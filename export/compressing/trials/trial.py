"""A trial of a search and the files that it made, and how both are stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfprune.base.limit import GroupDrop
from tfprune.base.run_folder import NamedArrays
from tfprune.base.spec import check_count, check_number
from tfprune.base.untrusted import parse_json, read_fields
from tfprune.export.compressing.trials.recipe import Recipe
from tfprune.export.rewriting.weights.edge_quantizer import RECIPE_NAME
from tfprune.report import Report

FORMATS = ("float32", "float16", "dynamic", "int8", "int16x8", "int4", "mixed")  # in which files are made


@dataclass(frozen=True)
class MeasuredFile(Report):
    """A file that was made and measured.

    Attributes:
        recipe: How its model was made; None for the original model.
        quantize: The number format, of `FORMATS`, or the name of a recipe; None for float32.
        bytes: The size of the .tflite file, which any interpreter loads.
        packed_bytes: Its size when packed, as `Runner` reads it.
        score: The metric on the validation data, of the file.
        drop: How much worse that is than the model's own; negative if it is better.
        latency_ms: Milliseconds of one inference; None if it was not measured.
        arena_bytes: The RAM that it takes on a microcontroller; None for other targets.
        cycles: The cycles of one inference on an NPU, as its compiler estimates them; None for other targets.
        code: A program that makes the file.
        file: Its name in the folder, if it is one of the best; else empty.
        test_score: The metric on the test data, of the file; None without them.
        worst_group: The class or group that exceeds its limit most, or is nearest to it, on the validation data; None
            without such limits.
    """

    recipe: Recipe | None
    quantize: str | None
    bytes: int
    packed_bytes: int
    score: float
    drop: float
    latency_ms: float | None = None
    arena_bytes: int | None = None
    cycles: int | None = None
    code: str = ""
    file: str = ""
    test_score: float | None = None
    worst_group: GroupDrop | None = None

    @property
    def name(self) -> str:
        """The recipe and the number format in a few letters."""
        return f"{self.recipe.name if self.recipe else 'dense'}_{self.quantize or 'float32'}"


@dataclass(frozen=True)
class Trial:
    """The result of a recipe.

    Attributes:
        recipe: The recipe; None for the original model.
        tried: The files that it made.
        seconds: How long it took.
        training: How long it trained, in seconds.
        reason: Why it made no file.
        ended: How long the search had lasted then, in all calls, in seconds.
        is_kept: Whether its model is stored, so that another recipe can start from it.
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
        """The recipe in a few letters."""
        return self.recipe.name if self.recipe else "dense"

    @property
    def stored_as(self) -> Recipe | None:
        """The recipe whose stored model another recipe starts from; None for the original model."""
        return self.recipe if self.is_kept or self.recipe is None else self.recipe.after

    def stored(self, contents: Sequence[np.ndarray]) -> NamedArrays:
        """Return the trial, and the bytes of its files, as arrays."""
        recipe = None if self.recipe is None else self.recipe.as_dict()
        fields = {**vars(self), "tried": [file.as_dict() for file in self.tried], "recipe": recipe}
        files = {f"file_{index}": content for index, content in enumerate(contents)}
        return {"trial": np.array(json.dumps(fields)), **files}


def read_trial(arrays: NamedArrays) -> Trial:
    """Read a trial from what `Trial.stored` returned.

    Raises:
        ValueError: If it is something else.
    """
    fields, ended = parse_json(str(arrays["trial"]).encode()), check_number(float(arrays.get("ended", 0.0)), "ended")
    trial = read_fields(Trial, fields, recipe=None, tried=(), ended=ended, is_kept="model" in arrays)
    recipe = _recipe(fields.get("recipe"))
    tried = tuple(_read_file(file, recipe) for file in fields.get("tried", ()))
    for name in [f"file_{index}" for index in range(len(tried))] + ["model"] * trial.is_kept:
        if arrays[name].dtype != np.uint8 or arrays[name].ndim != 1:
            raise ValueError(f"Expected {name!r} to be bytes. Received: {arrays[name].dtype} {arrays[name].shape}.")
    return replace(trial, recipe=recipe, tried=tried)


def _recipe(fields: Any) -> Recipe | None:
    return None if fields is None else Recipe.read(fields)


def _read_file(fields: Any, recipe: Recipe | None) -> MeasuredFile:
    group = fields.get("worst_group") if isinstance(fields, dict) else None
    worst_group = None if group is None else read_fields(GroupDrop, group)
    file = read_fields(MeasuredFile, fields, recipe=recipe, worst_group=worst_group)
    if _recipe(fields.get("recipe")) != recipe:
        raise ValueError("Expected files of the trial's recipe. Received: one of another.")
    if file.quantize is not None and not RECIPE_NAME.fullmatch(file.quantize):  # it becomes a part of the file's name
        raise ValueError(f"Expected the name of a number format. Received: quantize={file.quantize!r}.")
    for name in ("bytes", "packed_bytes"):
        check_count(getattr(file, name), name, least=1)
    for name in ("latency_ms", "arena_bytes", "cycles"):
        if getattr(file, name) is not None:
            check_number(getattr(file, name), name, above=0)
    return file
