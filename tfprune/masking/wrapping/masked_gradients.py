"""What training may do to a weight under a mask: nothing moves an entry that the mask hides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfprune.keras_models.copying.by_attributes import UNGUARDED


def mask_gradient(weight: Any, mask: Any) -> Any:
    """Return the weight unchanged, with a gradient that is zero wherever the mask is."""

    @ops.custom_gradient
    def identity(value: Any) -> tuple[Any, Callable]:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            received = args[0] if upstream is None else upstream
            return _masked(received, mask)

        return ops.copy(value), gradient

    return identity(ops.copy(weight))  # a tensor: what reads a variable inside cannot have a custom gradient


def _masked(gradient: Any, mask: Any) -> Any:
    """Return the gradient under a mask; of an embedding only the rows that were looked up, as TensorFlow does."""
    if hasattr(gradient, "dense_shape"):
        rows = _masked(gradient.values, ops.take(mask, gradient.indices, axis=0))
        return type(gradient)(rows, gradient.indices, gradient.dense_shape)
    return ops.where(mask, gradient, ops.zeros((), gradient.dtype))


# Their gradient is zero wherever the weight is; another regularizer may move entries that the mask hides.
_ENTRY_BY_ENTRY = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


MASK = "tfprune_mask"  # where a weight keeps its mask, for other wrappers around layers that hold it, too


def guard(weight: keras.Variable, mask: keras.Variable) -> None:
    """Mask what Keras does to a weight outside the layer's forward pass: its regularizer and its constraint."""
    setattr(weight, MASK, mask)
    regularizer, constraint = weight.regularizer, weight.constraint
    setattr(weight, UNGUARDED, (regularizer, constraint))
    if regularizer is not None and not isinstance(regularizer, _ENTRY_BY_ENTRY):
        weight.regularizer = lambda value: regularizer(mask_gradient(value, mask.value))
    if constraint is not None:  # applied after each step, where a backend may not let it read the mask
        weight.constraint = lambda value: ops.where(ops.equal(value, 0), value, constraint(value))


@ops.custom_gradient
def _pass_gradient(weight: Any, value: Any) -> tuple[Any, Callable]:
    """Return the value; the weight that it replaces gets its gradient."""

    def gradient(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
        received = args[0] if upstream is None else upstream
        return received, ops.zeros_like(received)

    return ops.copy(value), gradient


class Scope(keras.StatelessScope):
    """A scope that remembers which variables a layer assigns to, and in which weights among them train as outside."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.updated: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Take what a layer assigns to a variable."""
        variable, value = update
        self.updated[id(variable)] = variable
        before = self.get_current_value(variable)
        if variable.trainable and before is not None:
            value = _pass_gradient(before, ops.stop_gradient(value))
        super().add_update((variable, value))

    def add_loss(self, loss: Any) -> None:
        """Take a loss; a loss that an outer scope collects stays the loss of the layer that made it."""
        super().add_loss(loss) if self.original_scope is None else self.original_scope.add_loss(loss)
