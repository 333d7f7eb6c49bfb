"""Record what layers take and return while a model is called, and keep the call from changing the model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import ops

from tfprune.keras_models.models.calls import recurrent_states
from tfprune.keras_models.models.layers import walk

OnCall = Callable[[keras.layers.Layer, Any, Any], None]

# These call their parts step by step, in a loop whose tensors cannot be read outside the loop.
LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)


def holders(model: keras.layers.Layer) -> dict[int, tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return, by the id of each variable of a model, the layer to hook and the innermost layer that holds it."""
    hooked = {id(weight): layer for _, layer in walk(model, stop=LOOPS) for weight in layer.weights}
    innermost = {id(weight): layer for _, layer in walk(model) for weight in layer.weights}
    return {key: (layer, innermost[key]) for key, layer in hooked.items()}


@contextmanager
def hooked_calls(layers: Iterable[keras.layers.Layer], on_call: OnCall) -> Iterator[None]:
    """Pass the first argument and the outputs of every call of some layers to `on_call` within the context."""
    with ExitStack() as undo:
        for layer in {id(layer): layer for layer in layers}.values():
            undo.callback(_put_back, layer, vars(layer).get("call"))
            layer.call = _with_hook(layer, on_call)
        yield


def _with_hook(layer: keras.layers.Layer, on_call: OnCall) -> Callable:
    call = layer.call

    @functools.wraps(call)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        on_call(layer, args[0] if args else next(iter(kwargs.values()), None), outputs)
        return outputs

    return hooked


def _put_back(layer: keras.layers.Layer, call: Callable | None) -> None:
    if call is None:
        del layer.call
    else:
        layer.call = call


def read_only_scope(
    model: keras.layers.Layer,
    open_masks: Iterable[keras.Variable] = (),
    *,
    values: Mapping[int, Any] | None = None,
) -> keras.StatelessScope:
    """Return a scope in which a model can be called without changing it.

    Args:
        model: The model.
        open_masks: Masks that are all ones within the scope.
        values: The values of some variables within the scope, by the id of the variable.
    """
    ones, replaced = {id(mask) for mask in open_masks}, values or {}
    variables = [*model.variables, *recurrent_states(model)]

    def value(variable: keras.Variable) -> Any:
        if id(variable) in ones:
            return ops.ones_like(variable.value)
        return replaced.get(id(variable), variable.value)

    mapping = [(variable, value(variable)) for variable in variables]
    return keras.StatelessScope(state_mapping=mapping, collect_losses=True)
