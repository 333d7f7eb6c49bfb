"""Compare the directions in which a model and models that were made of it are trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.keras_models.copying.origins import Origin, Origins
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import owned_slots
from tfprune.methods.moments.carry_optimizer import check_origins, trained_optimizer
from tfprune.report import Report, table


@dataclass(frozen=True)
class MomentCosine(Report):
    """The cosine between the first moments of two models.

    Attributes:
        first: The name of one model.
        second: The name of the other one.
        cosine: The cosine, in [-1, 1]; 0 if one of them has moments of zero only.
    """

    first: str
    second: str
    cosine: float


@dataclass(frozen=True)
class MomentCosines(Report):
    """The cosines between the first moments of a model and of models that were made of it.

    Attributes:
        rows: A row for each pair of models; the model itself is `"base"`.

    Example:
        >>> print(MomentCosines((MomentCosine("depth", "width", 0.0312),)))
        first  second  cosine
        -----  ------  ------
        depth  width   0.0312
    """

    rows: tuple[MomentCosine, ...]

    def __str__(self) -> str:
        lines = [[row.first, row.second, f"{row.cosine:.4f}"] for row in self.rows]
        return table(["first", "second", "cosine"], lines, left=2)


def moment_cosines(model: keras.Model, grown: Mapping[str, tuple[keras.Model, Origins]]) -> MomentCosines:
    """Measure the cosines between the first moments of a model and of models that were made of it.

    Use it to see whether two ways to grow train the weights that they share in the same direction. The moments of all
    copies of a weight are added up, as the gradients of a weight with several readers are.

    Args:
        model: The model before, compiled and trained.
        grown: The models that were made of it, compiled and trained, by a name: a tuple of the model and
            `report.origins` of the call that made it.

    Returns:
        A row for each pair.

    Raises:
        TypeError: If one of them is not a Keras model, or `grown` does not map names to models and origins.
        ValueError: If a model has no optimizer that has trained, one without momentum, or the origins do not fit.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(2)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x = keras.random.normal((32, 4), seed=0)
        >>> history = model.fit(x, x[:, :1], verbose=0)
        >>> grown = {}
        >>> for order in ("interpose", "stack"):
        ...     deeper, report = tfprune.growth.grow_depth(model, order=order)
        ...     deeper.compile(tfprune.growth.carry_optimizer(model, deeper, origins=report.origins), "mse")
        ...     grown[order] = deeper, report.origins
        >>> row = moment_cosines(model, grown).rows[2]
        >>> row.first, row.second, round(row.cosine, 4)
        ('interpose', 'stack', 1.0)

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (below 0.04 while grown models train).
    """
    check_keras(model, keras.Model, argument="model")
    if not isinstance(grown, Mapping) or not all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in grown.values()
    ):
        raise TypeError(
            f"Expected `grown` to map names to models and origins, such as {{'depth': (deeper, report.origins)}}. "
            f"Received: a value of type {type(grown).__name__}."
        )
    whole = tuple(map(Origin, range(len(model.weights))))
    moments = {"base": _moments(model, model, whole)}
    for name, (other, origins) in grown.items():
        check_keras(other, keras.Model, argument=f"grown[{name!r}]")
        check_origins(origins, model=model, new=other)
        moments[name] = _moments(model, other, origins)
    return MomentCosines(
        tuple(MomentCosine(a, b, _cosine(moments[a], moments[b])) for a, b in itertools.combinations(moments, 2))
    )


def _moments(model: keras.Model, other: keras.Model, origins: Origins) -> dict[int, np.ndarray]:
    """Return the first moments of a model, added up by the weight of `model` that they come from, by its index."""
    totals: dict[int, np.ndarray] = {}
    optimizer, weights = trained_optimizer(other), model.weights
    slots = owned_slots(optimizer, other.trainable_variables)
    if not any(map(_first_moments, slots.values())):
        raise ValueError(
            f"Expected an optimizer with first moments, such as Adam, or SGD with momentum. Received: "
            f"{type(optimizer).__name__} of {other.name!r}."
        )
    for weight, origin in zip(other.weights, origins, strict=True):
        if origin is None:
            continue
        for moment in _first_moments(slots.get(id(weight), [])):
            total = totals.setdefault(origin.weight, np.zeros(weights[origin.weight].shape))
            origin.add_back(as_numpy(moment).astype(np.float64), total)
    return totals


def _first_moments(slots: Sequence[keras.Variable]) -> list[keras.Variable]:
    return [slot for slot in slots if slot.name.endswith("_momentum")]


def _cosine(first: Mapping[int, np.ndarray], second: Mapping[int, np.ndarray]) -> float:
    """Return the cosine over the weights that both train."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return 0.0
    first_vector, second_vector = (
        np.concatenate([moments[key].ravel() for key in shared]) for moments in (first, second)
    )
    norms = np.linalg.norm(first_vector) * np.linalg.norm(second_vector)
    return float(first_vector @ second_vector / norms) if norms else 0.0
