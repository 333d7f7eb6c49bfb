"""Distillation: how a dense model teaches a pruned one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfprune.base.spec import check_number


@dataclass(frozen=True)
class Distillation:
    """Train with the loss (1 - weight) * loss on the labels + weight * (outputs + features).

    Pass it to `distilled`, or to `prune_to` in `FineTuning(distillation=...)`. The term of the outputs is T^2 times
    the Kullback-Leibler divergence between the classes of teacher and student, both softened by the temperature T.
    The term of a feature is the mean squared difference between the outputs of a layer in both models, divided by
    their mean square in the teacher. Regularization losses are not weighted.

    Args:
        temperature: T, above 0: with a larger one, the student learns more about the wrong classes. None leaves the
            outputs out, for models that are not classifiers. Default 3.
        weight: The weight of the teacher in the loss, in (0, 1]. Default 0.5.
        features: Names of layers whose outputs are compared, or a dict from the student's layers to the teacher's.
            Layers with different numbers of channels cannot be compared. Default ().

    Raises:
        TypeError: If `temperature` or `weight` is not a number, or a name is not a string.
        ValueError: If a number is out of range, or there is neither a temperature nor a feature.

    Example:
        >>> Distillation(temperature=4, features=["last"])
        Distillation(temperature=4.0, weight=0.5, features=(('last', 'last'),))

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    temperature: float | None = 3.0
    weight: float = 0.5
    features: Iterable[str] | Mapping[str, str] = ()

    def __post_init__(self) -> None:
        if self.temperature is not None:
            object.__setattr__(self, "temperature", float(check_number(self.temperature, "temperature", above=0)))
        object.__setattr__(self, "weight", float(check_number(self.weight, "weight", above=0, most=1)))
        object.__setattr__(self, "features", _pairs(self.features))
        if self.temperature is None and not self.features:
            raise ValueError(
                "Expected a temperature or features to compare. Received: temperature=None and no features. Leave "
                "the temperature out, or name layers: features=['last']."
            )

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The layers of the features: of the student, and of the teacher."""
        return self.features  # type: ignore[return-value]


def check_distillation(value: Any, name: str) -> Distillation:
    """Return a Distillation.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, Distillation):
        raise TypeError(
            f"Expected `{name}` to be a tfprune.Distillation. Received: {name}={value!r}. Pass "
            f"tfprune.Distillation(temperature=4)."
        )
    return value


def _pairs(features: Any) -> tuple[tuple[str, str], ...]:
    """Return the names of layers, those of the student with those of the teacher."""
    is_listed = isinstance(features, Iterable) and not isinstance(features, (str, bytes))
    listed = list(features.items() if isinstance(features, Mapping) else features) if is_listed else [features]
    pairs = tuple((entry, entry) if isinstance(entry, str) else tuple(entry) for entry in listed if _is_entry(entry))
    if not is_listed or len(pairs) < len(listed):
        raise TypeError(
            f"Expected `features` to be a list of names of layers, or a dict of such names. Received: "
            f"features={features!r}."
        )
    return pairs


def _is_entry(entry: object) -> bool:
    is_pair = isinstance(entry, (tuple, list)) and len(entry) == 2 and all(isinstance(name, str) for name in entry)
    return isinstance(entry, str) or is_pair
