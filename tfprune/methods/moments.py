"""Optimizers: their state follows the weights into a model that was grown or made smaller, and is compared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import ArgumentTypeError
from tfprune.models.anatomy import as_numpy, check_keras
from tfprune.models.by_attributes import Origin, Origins
from tfprune.models.training import owned_slots
from tfprune.report import Report, table

# Carry the state of an optimizer over to a model that was grown or made smaller.


def carry_optimizer(model: keras.Model, new: keras.Model, *, origins: Origins) -> keras.optimizers.Optimizer:
    """Return an optimizer for a grown or smaller model, with the state of the optimizer of the model it comes from.

    Use it to train on without a new warm-up. The moments of a weight, and whatever else the optimizer keeps for it,
    take the way of the weight itself: a copy gets those of its original, and a merged expert their mean. Step count
    and learning rate are carried, too.

    Args:
        model: The model before, compiled and trained. It is left unchanged.
        new: What `grow_depth`, `drop_blocks`, `experts.grow`, `experts.merge` or `experts.drop` returned for it.
        origins: `report.origins` of the same call. For two calls in turn, compile the model in between with the
            optimizer that this function returns for it, and call it again.

    Returns:
        An optimizer of the same class and settings, for `new.compile(optimizer, ...)`. Weights that come from none,
        or from one that was frozen, start anew.

    Raises:
        TypeError: If one of both is not a Keras model, or `origins` are not those of a report.
        ValueError: If the model has no optimizer that has trained, or the origins are those of other models.
        ValueError: If the optimizer keeps values of other shapes than its weights, as Adafactor does.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(2)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x = keras.random.normal((32, 4), seed=0)
        >>> history = model.fit(x, x[:, :1], verbose=0)
        >>> grown, report = tfprune.growth.grow_depth(model)
        >>> grown.compile(carry_optimizer(model, grown, origins=report.origins), "mse")
        >>> int(grown.optimizer.iterations)
        1
    """
    for value, argument in ((model, "model"), (new, "new")):
        check_keras(value, keras.Model, argument=argument)
    _check_origins(origins, model=model, new=new)
    optimizer = _trained_optimizer(model)
    carried = type(optimizer).from_config(optimizer.get_config())
    carried.build(new.trainable_variables)
    slots, new_slots = (
        owned_slots(optimizer, model.trainable_variables),
        owned_slots(carried, new.trainable_variables),
    )
    rest, new_rest = _rest(optimizer, slots), _rest(carried, new_slots)
    _check_shapes(optimizer, [variable.shape for variable in rest], [variable.shape for variable in new_rest])
    for variable, other in zip(rest, new_rest, strict=True):
        other.assign(variable)
    weights = model.weights
    for weight, origin in zip(new.weights, origins, strict=True):
        own = slots.get(id(weights[origin.weight])) if origin else None
        if not origin or not own or id(weight) not in new_slots:  # it has no origin, or one of both is frozen
            continue
        values = [origin.follow(as_numpy(slot)) for slot in own]
        _check_shapes(optimizer, [value.shape for value in values], [slot.shape for slot in new_slots[id(weight)]])
        for slot, value in zip(new_slots[id(weight)], values, strict=True):
            slot.assign(value)
    return carried


def _trained_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer of a model.

    Raises:
        ValueError: If it has none, or one that has not begun to train.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        reason = "which has no optimizer" if optimizer is None else "whose optimizer has no state yet"
        raise ValueError(
            f"Expected a model that was compiled and trained. Received: {model.name!r}, {reason}. Pass the model "
            f"that was trained, or load it with keras.models.load_model(..., compile=True)."
        )
    return optimizer


def _check_origins(origins: Any, *, model: keras.Model, new: keras.Model) -> None:
    """Refuse what are not the origins of the weights of one model in another.

    Raises:
        TypeError: If they are not origins.
        ValueError: If their number or the shapes do not fit.
    """
    if not isinstance(origins, tuple) or not all(isinstance(each, Origin | None) for each in origins):
        raise ArgumentTypeError(
            "origins",
            "`origins` of a report, such as tfprune.growth.grow_depth(model)[1].origins",
            found=f"a value of type {type(origins).__name__}",
        )
    weights, new_weights = model.weights, new.weights
    fits = len(origins) == len(new_weights) and all(
        each is None or (each.weight < len(weights) and _fits(each, weights[each.weight].shape, weight.shape))
        for each, weight in zip(origins, new_weights, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Expected the origins of the weights of {new.name!r} in {model.name!r}. Received: those of "
            f"{len(origins)} weights, where they have {len(new_weights)} and {len(weights)}, or weights of other "
            f"shapes. Pass the report of the call that made this model of that one."
        )


def _fits(origin: Origin, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    expected = list(old)
    if origin.groups:
        expected[origin.axis] = len(origin.groups)
    return expected == list(new)


def _rest(optimizer: keras.optimizers.Optimizer, slots: dict[int, list[keras.Variable]]) -> list[keras.Variable]:
    """Return the variables of an optimizer that belong to no weight: the step count, the learning rate."""
    owned = {id(slot) for owner in slots.values() for slot in owner}
    return [variable for variable in optimizer.variables if id(variable) not in owned]


def _check_shapes(optimizer: keras.optimizers.Optimizer, shapes: Sequence[Any], new_shapes: Sequence[Any]) -> None:
    if list(map(tuple, shapes)) != list(map(tuple, new_shapes)):
        raise ValueError(
            f"Expected an optimizer whose values have the shapes of its weights, as those of Adam and SGD have. "
            f"Received: {type(optimizer).__name__}, which keeps others. Compile the new model with a new optimizer."
        )


# Compare the directions in which a model and models that were made of it are trained.


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
        raise ArgumentTypeError(
            "grown",
            "`grown` to map names to models and origins, such as {'depth': (deeper, report.origins)}",
            found=f"a value of type {type(grown).__name__}",
        )
    whole = tuple(map(Origin, range(len(model.weights))))
    moments = {"base": _moments(model, model, whole)}
    for name, (other, origins) in grown.items():
        check_keras(other, keras.Model, argument=f"grown[{name!r}]")
        _check_origins(origins, model=model, new=other)
        moments[name] = _moments(model, other, origins)
    return MomentCosines(
        tuple(MomentCosine(a, b, _cosine(moments[a], moments[b])) for a, b in itertools.combinations(moments, 2))
    )


def _moments(model: keras.Model, other: keras.Model, origins: Origins) -> dict[int, np.ndarray]:
    """Return the first moments of a model, added up by the weight of `model` that they come from, by its index."""
    totals: dict[int, np.ndarray] = {}
    optimizer, weights = _trained_optimizer(other), model.weights
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
