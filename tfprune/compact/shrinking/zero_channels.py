"""Set the channels that a plan removes to zero, in a model of the same size."""

from __future__ import annotations

import keras

from tfprune.compact.shrinking.shrink_plan import ShrinkPlan, flat_copy_for
from tfprune.masking.wrapping.strip import strip


def zero_channels(model: keras.Model, plan: ShrinkPlan) -> keras.Model:
    """Copy a model, with zeros in the kernel entries that make or read a channel that a plan removes.

    Use it before `reconstruct`, which solves for the remaining weights, or to evaluate a plan. The copy has the size
    of the model; `shrink` builds the smaller one.

    Args:
        model: The model that the plan was made for, wrapped or not. It is left unchanged.
        plan: The plan of `plan_shrink` for this model.

    Returns:
        An uncompiled Functional model without nested models, or a model of the same kind if layers that call others
        lose channels.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> masked = zero_channels(model, plan_shrink(model, 0.5))
        >>> int(keras.ops.count_nonzero(masked.get_layer("out").kernel))
        6
    """
    copy = flat_copy_for(plan, model)
    copy.write_zeros(plan.network, plan.keep)
    return copy.hand_out() if copy.is_opened else strip(copy.model)
