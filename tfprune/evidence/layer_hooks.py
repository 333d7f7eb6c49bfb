"""Listen to what layers are given and return while a model is called, and let nothing be written by the call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import ops

from tfprune.models.calls import recurrent_states
from tfprune.models.layers import walk

Hear = Callable[[keras.layers.Layer, Any, Any], None]

# They call their parts step by step, in a loop whose tensors cannot be read outside of it.
_LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)


def holders(model: keras.layers.Layer) -> dict[int, tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return, by the id of each variable of a model, the layer to listen to and the innermost layer that holds it."""
    hooked = {id(one): layer for _, layer in walk(model, stop=_LOOPS) for one in layer.weights}
    innermost = {id(one): layer for _, layer in walk(model) for one in layer.weights}
    return {name: (layer, innermost[name]) for name, layer in hooked.items()}


@contextmanager
def hooked_calls(layers: Iterable[keras.layers.Layer], hear: Hear) -> Iterator[None]:
    """Hand the first argument and the outputs of every call of some layers to `hear`, while the context lasts."""
    with ExitStack() as undo:
        for layer in {id(layer): layer for layer in layers}.values():
            undo.callback(_put_back, layer, vars(layer).get("call"))
            layer.call = _with_hook(layer, hear)
        yield


def _with_hook(layer: keras.layers.Layer, hear: Hear) -> Callable:
    call = layer.call

    @functools.wraps(call)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        hear(layer, args[0] if args else next(iter(kwargs.values()), None), outputs)
        return outputs

    return hooked


def _put_back(layer: keras.layers.Layer, call: Callable | None) -> None:
    if call is None:
        del layer.call
    else:
        layer.call = call


def read_only_scope(model: keras.layers.Layer, opened: Iterable[keras.Variable] = ()) -> keras.StatelessScope:
    """Return a scope in which a model may be called and nothing of it is written; in it some masks are all ones."""
    ones = {id(mask) for mask in opened}
    variables = [*model.variables, *recurrent_states(model)]
    mapping = [(one, ops.ones_like(one.value) if id(one) in ones else one.value) for one in variables]
    return keras.StatelessScope(state_mapping=mapping, collect_losses=True)
