"""GrowingPenalty: shrink the channels that a plan removes while the model trains, before they are cut."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.spec import check_number
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan, flat_copy_for
from tfprune.keras_models.models.layers import as_numpy


class GrowingPenalty(keras.callbacks.Callback):
    """Pull the channels that a plan removes toward zero, with a growing L2 penalty, while `model.fit` runs.

    Use it between `plan_shrink` and `shrink`, where a cut at once costs accuracy that training does not win back: the
    other channels take over little by little. After the fit, `shrink` with the same plan changes the outputs hardly
    at all.

    After step t, all entries of kernels that make or read a removed channel are multiplied by 1 - c * t. This is
    weight decay apart from the optimizer: for SGD it equals an L2 penalty in the loss whose factor grows steadily.
    c follows from `remaining` and the number of steps. With `steps_per_execution`, the factors of all steps of an
    execution are applied after it. Frozen weights are not changed. Let the learning rate fall toward the end of the
    fit: Adam moves even an entry with a small gradient by as much as the rate.

    Args:
        plan: The plan of `plan_shrink` for the model that is trained.
        remaining: The fraction of each entry that is left at the end of the fit if the loss does not pull at it, in
            (0, 1). Default 1e-6: the loss does.

    Raises:
        TypeError: If `plan` is not a plan, or `remaining` not a number.
        ValueError: If `remaining` is out of range, or the plan removes no channels.
        ValueError: When training begins, if the plan was made for another model, the number of steps is unknown, or
            there are too few of them.

    Example:
        >>> from tfprune import plan_shrink, shrink
        >>> stack = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(1, name="out")]
        >>> model = keras.Sequential([keras.Input((4,)), *stack])
        >>> model.compile("sgd", "mse")
        >>> plan = plan_shrink(model, 0.5)
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> fitted = model.fit(x, x[:, :1], epochs=20, callbacks=[GrowingPenalty(plan)], verbose=0)
        >>> bool(np.allclose(model.predict(x, verbose=0), shrink(model, plan).predict(x, verbose=0), atol=1e-4))
        True

    Reference:
        Wang et al., 2021, "Neural Pruning via Growing Regularization", arXiv:2012.09243, section 3.2 (GReg-1). The
        paper adds the penalty to the loss.
    """

    def __init__(self, plan: ShrinkPlan, *, remaining: float = 1e-6) -> None:
        super().__init__()
        if not isinstance(plan, ShrinkPlan):
            raise TypeError(
                f"Expected a plan. Received: plan={plan!r} of type {type(plan).__name__}. Make one with "
                f"tfprune.plan_shrink(model, 0.5)."
            )
        if plan.keep.all():
            raise ValueError("Expected a plan that removes channels. Received: one that keeps all. Plan a sparsity.")
        self.remaining = check_number(remaining, "remaining", above=0, below=1)
        self.plan = plan

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        batches = self.params.get("steps")
        if batches is None:
            raise ValueError(
                "Expected the number of steps per epoch to be known, because the penalty grows up to the last one. "
                "Received: unknown. Pass steps_per_epoch to fit."
            )
        self._steps = batches * self.params["epochs"]
        self._growth = _growth(self._steps, self.remaining)
        self._removed = list(_removed(self.plan, self.model))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin = self._step = epoch * self.params["steps"]  # a resumed fit goes on where it stopped

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before, self._step = self._step, self._begin + min(batch + 1, self.params["steps"])
        _ = self.model  # on JAX, reading it brings the weights up to date
        steps = np.arange(before, self._step) + 1  # several with steps_per_execution
        factor = float(np.prod(1 - self._growth * steps))
        for variable, removed in self._removed:
            variable.assign(ops.where(removed, variable.value * factor, variable.value))


def _growth(steps: int, remaining: float) -> float:
    """Return g for which the product of 1 - g * t over all steps t is what shall remain."""

    def logarithm(growth: float) -> float:
        return float(np.log1p(-growth * np.arange(1, steps + 1)).sum())

    low, high = 0.0, 1 / steps * (1 - 1e-12)
    if logarithm(high) > math.log(remaining):
        raise ValueError(
            f"Expected enough steps to shrink channels to {remaining:g} of their size. Received: {steps} steps in "
            f"this fit. Train longer, or pass a larger `remaining`."
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if logarithm(middle) > math.log(remaining) else (low, middle)
    return high


def _removed(plan: ShrinkPlan, model: keras.Model) -> Any:
    """Yield each trained weight of a model with entries that make or read a removed channel, and which they are."""
    copy = flat_copy_for(dataclasses.replace(plan, planned_copy=None), model)  # a kept copy knows no sources
    trained = {id(variable) for variable in model.trainable_variables}
    for weight, variable in plan.network.variables(copy.model):
        mask = weight.mask(plan.keep)
        source = copy.sources.get(id(variable))
        if source is None or mask.all() or id(source.variable) not in trained:
            continue
        if tuple(source.variable.shape) == tuple(as_numpy(variable).shape):
            yield source.variable, ops.convert_to_tensor(~mask)
