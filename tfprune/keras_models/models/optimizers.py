"""The variables that an optimizer keeps for each weight: momentum, second moments, averages."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import keras


def optimizers_of(model: keras.layers.Layer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that a model holds, `model.optimizer` first; one with steps of its own may have more."""
    first = getattr(model, "optimizer", None)
    others = [value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)]
    return ([] if first is None else [first]) + [optimizer for optimizer in others if optimizer is not first]


def inner_optimizers(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that move weights: itself, or those inside that it hands weights to."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return inner_optimizers(inner) if inner is not None else getattr(optimizer, "optimizers", None) or [optimizer]


def updates_of(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many updates an optimizer has made, also where a variable is on many devices."""
    return int(keras.ops.cast(optimizer.iterations, "int32"))  # one tensor, also of a variable on several devices


def max_updates_per_call(model: keras.Model) -> float:
    """Return how many updates there are at most between two calls of a callback at the end of a batch.

    Keras' own training makes at most one a batch; a step of the model's own may make any number.
    """
    for name in ("train_step", "make_train_function"):
        if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name):
            return math.inf
    return model.steps_per_execution


def slots_by_variable(
    optimizer: keras.optimizers.Optimizer | None, variables: Sequence[keras.Variable]
) -> dict[int, list[keras.Variable]]:
    """Return the optimizer variables that move a weight and have its shape, by the weight's `id`: see `owned_slots`.

    Left out are the sums of squared gradients that Adagrad and Ftrl start above zero: a step is divided by them, so
    they move no weight, and at zero Ftrl would divide by zero.
    """
    owned = owned_slots(optimizer, variables)
    return {
        id(variable): [
            slot
            for slot in owned[id(variable)]
            if slot.shape == variable.shape and slot.name != f"{variable.path.replace('/', '_')}_accumulator"
        ]
        for variable in variables
    }


def owned_slots(
    optimizer: keras.optimizers.Optimizer | None, variables: Sequence[keras.Variable]
) -> dict[int, list[keras.Variable]]:
    """Return the optimizer variables that belong to a weight, in the order of their making, by the weight's `id`.

    Keras names a slot after its weight (`adam/dense_kernel_momentum`). Weights of equal paths have equal slot
    names, and come in the same order.

    Args:
        optimizer: Built or not; None has no slots.
        variables: All trainable variables of the model, in the model's order.

    Raises:
        ValueError: If the optimizer trains some of the weights of one path only: nothing tells which.
    """
    slots_by_id: dict[int, list[keras.Variable]] = {id(variable): [] for variable in variables}
    if optimizer is None:
        return slots_by_id
    owners: dict[str, list[keras.Variable]] = defaultdict(list)
    for variable in variables:
        owners[variable.path.replace("/", "_") + "_"].append(variable)
    longest_first = sorted(owners, key=len, reverse=True)
    times_seen: dict[str, int] = defaultdict(int)
    owners_of_slot: dict[str, list[keras.Variable]] = {}
    for slot in optimizer.variables:
        prefix = next((prefix for prefix in longest_first if slot.name.startswith(prefix)), None)
        if prefix is None:
            continue
        candidates = owners[prefix]
        owner = candidates[times_seen[slot.name] % len(candidates)]
        times_seen[slot.name] += 1
        slots_by_id[id(owner)].append(slot)
        owners_of_slot[slot.name] = candidates
    for name, candidates in owners_of_slot.items():
        if times_seen[name] % len(candidates):
            raise ValueError(
                f"Expected weights with paths of their own, because an optimizer names its slots by them. Received: "
                f"{len(candidates)} weights {candidates[0].path!r}, of which {optimizer.name!r} trains "
                f"{times_seen[name]}. Name their layers differently: keras.layers.Dense(..., name=...)."
            )
    return slots_by_id


# By name, as not every version of Keras has them.
_UNFIT = {
    "Muon": "mixes the entries of a weight and so moves masked ones",
    "ScheduleFreeAdamW": "keeps a copy of each weight that would pull entries which come back to zero",
}


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Refuse an optimizer that moves a weight whose gradient and slots are zero, or needs a slot that is not.

    Raises:
        TypeError: If it is not an optimizer.
        ValueError: For Muon, which orthogonalizes each weight as a whole, and ScheduleFreeAdamW, which keeps a second
            copy of it.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"Expected Keras optimizers, one or a list, or None. Received: optimizer={optimizer!r} of type "
            f"{type(optimizer).__name__}."
        )
    for part in inner_optimizers(optimizer):
        reason = next((_UNFIT[kind.__name__] for kind in type(part).__mro__ if kind.__name__ in _UNFIT), None)
        if reason:
            raise ValueError(
                f"Expected an optimizer that works entry by entry, as SGD, Adam and most others do. Received: "
                f"{type(part).__name__}, which {reason}. Train with Adam or SGD while pruning."
            )
