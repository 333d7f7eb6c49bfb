"""The refusal of a rule."""

from __future__ import annotations


class NoRule(ValueError):  # noqa: N818
    """Raise it in a rule of `register_shrinkable` where channels cannot be followed through a call.

    The channels that the call takes then stay, and the plan lists the message as the reason.

    Example:
        >>> import keras
        >>> import tfprune
        >>> class Shuffle(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return keras.random.shuffle(inputs, axis=-1)
        >>> def shuffle(flow, call):
        ...     raise tfprune.NoRule("it shuffles channels")
        >>> tfprune.register_shrinkable(Shuffle, shuffle)
        >>> stack = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), Shuffle(name="shuffle")]
        >>> plan = tfprune.plan_shrink(keras.Sequential([*stack, keras.layers.Dense(6), keras.layers.Dense(2)]), 0.5)
        >>> plan.skipped[0].layer, plan.skipped[0].reason
        ('hidden', 'shuffle: it shuffles channels')
    """
