"""What became of a recipe, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.compressing.measured import Tried
from tfprune.export.compressing.recipe import Recipe
from tfprune.run_folder import Arrays


@dataclass(frozen=True)
class Trial:
    """What became of a recipe.

    Attributes:
        recipe: The recipe; None for the model as it was.
        tried: The files that it made.
        seconds: How long it took.
        training: How long it trained.
        reason: Why it made no file.
    """

    recipe: Recipe | None
    tried: tuple[Tried, ...]
    seconds: float
    training: float
    reason: str = ""

    @property
    def name(self) -> str:
        """What was done, in a few letters."""
        return self.recipe.name if self.recipe else "dense"

    def stored(self, contents: Sequence[np.ndarray]) -> Arrays:
        """Return it, and the bytes of its files, as arrays."""
        recipe = None if self.recipe is None else vars(self.recipe)
        fields = {**vars(self), "tried": [one.as_dict() for one in self.tried], "recipe": recipe}
        files = {f"file_{index}": content for index, content in enumerate(contents)}
        return {"trial": np.array(json.dumps(fields)), **files}


def read_trial(arrays: Arrays) -> Trial:
    """Return a trial that was stored."""
    fields = json.loads(str(arrays["trial"]))
    tried = tuple(Tried(**{**one, "recipe": _recipe(one["recipe"])}) for one in fields["tried"])
    return Trial(**{**fields, "tried": tried, "recipe": _recipe(fields["recipe"])})


def _recipe(fields: dict[str, Any] | None) -> Recipe | None:
    return None if fields is None else Recipe(**fields)
