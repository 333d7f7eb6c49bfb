"""Weights to gather evidence of, and the facts that are requested of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import input_axes, output_axes
from tfprune.criteria.base import Criterion
from tfprune.criteria.facts import Fact
from tfprune.keras_models.models.kernels import Kernel
from tfprune.keras_models.models.layer_hooks import holders


@dataclass(frozen=True, eq=False)
class Subject:
    """A weight to gather evidence of.

    Attributes:
        path: Its path in the model.
        kernel: The weight, which holds its masked values while evidence is gathered.
        criterion: The criterion, which names the facts that it needs.
        latent: A function that returns the latent values of the weight.
        mask: Its mask, or None for a weight that has none.
        origin: The weight of the user's model that this one was copied from; None if it is that weight itself.
    """

    path: str
    kernel: Kernel
    criterion: Criterion
    latent: Callable[[], np.ndarray]
    mask: keras.Variable | None = None
    origin: keras.Variable | None = None


@dataclass(frozen=True, eq=False)
class FactRequest:
    """A fact to gather of a weight.

    Attributes:
        subject: The weight.
        fact: The fact.
        hooked: The layer whose calls are recorded.
        holder: The innermost layer that holds the weight.
    """

    subject: Subject
    fact: Fact
    hooked: keras.layers.Layer
    holder: keras.layers.Layer

    @property
    def key(self) -> str:
        """The name of the request, which no other one has."""
        return f"{self.subject.path} {self.fact.name}"

    @property
    def axes(self) -> list[int]:
        """The axes of the weight along which the fact has values."""
        letters = self.subject.kernel.axes
        if self.fact.per == "entry":
            return list(range(len(letters)))
        return output_axes(letters) if self.fact.per == "output" else input_axes(letters)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the fact: that of the weight, or (outputs,) or (inputs,)."""
        sizes = self.subject.kernel.variable.shape
        return tuple(sizes) if self.fact.per == "entry" else (math.prod(sizes[axis] for axis in self.axes),)

    def checked(self, value: Any, shape: tuple[int | None, ...]) -> Any:
        """Check the shape of a recorded fact, and return it.

        Args:
            value: The returned value.
            shape: The first axes that it has to have; None is any size.

        Raises:
            ValueError: If it has another shape.
        """
        received = tuple(getattr(value, "shape", ()))
        if len(received) < len(shape) or any(a not in (None, b) for a, b in zip(shape, received, strict=False)):
            raise ValueError(
                f"Expected `reduce` of the fact {self.fact.name!r} to return an array of shape {shape} for "
                f"{self.subject.path}, one value per {self.fact.per}. Received: shape {received}."
            )
        return value


def requests_of(model: keras.layers.Layer, subjects: Sequence[Subject], *, of_data: bool) -> list[FactRequest]:
    """Return the facts that the criteria of some weights need.

    Args:
        model: The model that holds the weights.
        subjects: The weights.
        of_data: Whether to return the facts that are gathered from data, or those that are read from the model.
    """
    needed = [(subject, fact) for subject in subjects for fact in subject.criterion.needed_facts()]
    pairs = [(subject, fact) for subject, fact in needed if fact.needs_data is of_data]
    held = holders(model) if pairs else {}
    return [FactRequest(subject, fact, *held[id(subject.kernel.variable)]) for subject, fact in pairs]
