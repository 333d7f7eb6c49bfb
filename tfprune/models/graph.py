"""A graph model without nested models, as the list of its calls; its branches; and hooks around calls of layers."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
from keras import ops

from tfprune.models.anatomy import Kind, check_keras, functional_class, kind_of, recurrent_states, walk

# A graph model without nested models, as the list of its calls.

_INSERTED = ("flip", "add", "multiply", "relu6")  # what rewriting puts in besides layers


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation.

    Attributes:
        layer: What is called.
        args: Its positional arguments.
        kwargs: Its arguments by name.
        outputs: The tensors it returns.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]

    @property
    def name(self) -> str:
        """The name of the layer or operation."""
        return self.layer.name

    @property
    def holder(self) -> int:
        """The object that all calls of the layer have in common."""
        return id(self.layer)

    @cached_property
    def inputs(self) -> list[keras.KerasTensor]:
        """The tensors among its arguments, in order."""
        return [leaf for leaf in keras.tree.flatten((self.args, self.kwargs)) if isinstance(leaf, keras.KerasTensor)]


class Graph:
    """A model as the calls it makes, in an order in which they can be made."""

    def __init__(self, model: keras.Model, calls: list[Call]) -> None:
        self.model, self.calls = model, calls
        self._producers = {id(tensor): call for call in calls for tensor in call.outputs}
        self._consumers: dict[int, list[Call]] = {}
        for call in calls:
            for tensor in call.inputs:
                self._consumers.setdefault(id(tensor), []).append(call)
        self.outputs: list[keras.KerasTensor] = model.outputs
        self._outputs = {id(tensor) for tensor in model.outputs}

    @staticmethod
    def shape(tensor: Any) -> tuple[int | None, ...]:
        """Return the shape of a tensor or an array; None for a size that is open."""
        return tuple(tensor.shape)

    @staticmethod
    def is_constant(tensor: Any) -> bool:
        """Return True if a value is an array, not a tensor of the graph."""
        return not isinstance(tensor, keras.KerasTensor)

    def producer(self, tensor: keras.KerasTensor) -> Call | None:
        """Return the call that a tensor comes from, None for an input of the model."""
        return self._producers.get(id(tensor))

    def consumers(self, call: Call) -> list[Call]:
        """Return the calls that take an output of a call."""
        return [taker for tensor in call.outputs for taker in self._consumers.get(id(tensor), ())]

    def takers(self) -> dict[str, frozenset[str]]:
        """Return what takes the outputs of each input, layer and operation, by name.

        The outputs of the model are taken by "".
        """
        names = {id(tensor): tensor.name for tensor in self.model.inputs}
        takers: dict[str, set[str]] = {name: set() for name in names.values()}
        for call in self.calls:
            for tensor in call.inputs:
                takers[names[id(tensor)]].add(call.name)
            takers.setdefault(call.name, set())
            names |= {id(tensor): call.name for tensor in call.outputs}
        for tensor in self.outputs:
            takers[names[id(tensor)]].add("")
        return {name: frozenset(some) for name, some in takers.items()}

    def is_output(self, call: Call) -> bool:
        """Return True if the model returns an output of a call."""
        return any(id(tensor) in self._outputs for tensor in call.outputs)


def grouped(calls: list[Call], links: Iterable[tuple[Call, Call]]) -> list[list[Call]]:
    """Split calls into groups, so that those linked, and all calls of one layer, are together."""
    group = {id(call): [call] for call in calls}
    first: dict[int, Call] = {}
    same_layer = [(first.setdefault(id(call.layer), call), call) for call in calls]
    for first_call, second_call in (*same_layer, *links):
        larger, smaller = group[id(first_call)], group[id(second_call)]
        if larger is not smaller:
            larger += smaller
            group.update({id(call): larger for call in smaller})
    return list({id(members): members for members in group.values()}.values())


def unused_name(name: str, names: set[str]) -> str:
    """Return a name that no layer has yet, and put it with those taken."""
    while name in names:
        name += "_"
    names.add(name)
    return name


def retrace(model: keras.Model, call: Callable, *, inputs: Any = None) -> keras.Model:
    """Call the layers of a model again, each by `call(layer, *args, **kwargs)`; layers are shared.

    Args:
        model: A graph model.
        call: Calls a layer or operation.
        inputs: Symbolic tensors in the structure of the model's inputs; None makes new ones of the same shapes.
    """
    with _exact_shapes(model):
        return _clone(model, call, inputs=inputs)


@contextmanager
def _exact_shapes(model: keras.Model) -> Iterator[None]:
    """Let each EinsumDense find its output shape by its code within the context: it remembers open sizes."""
    remembering = [
        layer
        for _, layer in walk(model)
        if isinstance(layer, keras.layers.EinsumDense) and "compute_output_spec" not in vars(layer)
    ]
    try:
        for layer in remembering:
            by_code = functools.partial(keras.Operation.compute_output_spec, layer)
            vars(layer)["compute_output_spec"] = by_code  # past Keras, which locks a built layer
        yield
    finally:
        for layer in remembering:
            del vars(layer)["compute_output_spec"]


def trace(model: keras.Model) -> Graph:
    """Return the calls of a flat model, which `retrace` makes in the same order."""
    with _exact_shapes(model):
        return trace_to_run(model)


def trace_to_run(model: keras.Model) -> Graph:
    """Return the calls of a flat model to make them on data: open shapes are what the layers say they are."""
    calls: list[Call] = []

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        calls.append(Call(layer, args, kwargs, keras.tree.flatten(outputs)))
        return outputs

    return Graph(_clone(model, record, inputs=None), calls)


def _clone(model: keras.Model, call: Callable, *, inputs: Any) -> keras.Model:
    return keras.models.clone_model(
        model, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call
    )


def flatten(model: keras.Model, *, opens: Callable[[Any], bool] | None = None) -> keras.Model:
    """Return a Functional model over the layers of a graph model and of the models nested in it.

    A layer whose name is taken gets the name of its model in front. Models whose class has a `call` of its own
    stay whole.

    Args:
        model: A graph model.
        opens: Returns True if the layers of a model take its place; None opens those that `is_plain`.
    """
    opens = opens or is_plain
    names: set[str] = set()
    for owner, operation in _operations(model, opens):
        while operation.name in names:
            operation.name = f"{owner.name}_{operation.name}"
        names.add(operation.name)
    _number_after(names)
    flat = functional(model)
    while any(map(opens, flat.layers)):
        flat = retrace(flat, functools.partial(_call_inline, opens))
    return flat


def _number_after(names: set[str]) -> None:
    """Let Keras number operations that are put in after those there are: their names cannot be chosen."""
    for prefix in _INSERTED:
        numbers = [int(match[1]) for name in names if (match := re.fullmatch(rf"{prefix}_(\d+)", name))]
        while keras.backend.get_uid(prefix) <= max(numbers, default=0):
            pass


def is_plain(layer: Any) -> bool:
    """Return True if it is a Sequential or Functional model that does nothing but call its layers."""
    if kind_of(layer) is not Kind.GRAPH or not layer.built:
        return False
    return isinstance(layer, keras.Sequential) or type(layer).call is functional_class().call


def check_graph(model: Any) -> None:
    """Refuse a model of which not every call is known.

    Raises:
        TypeError: If it is not a model.
        ValueError: If it is not built, or not a graph.
    """
    check_keras(model)
    if not is_plain(model):
        raise ValueError(
            f"Expected a built Sequential or Functional model. Received: {model.name!r} of class "
            f"{type(model).__name__}, whose layers cannot be followed. Build it as keras.Model(inputs, outputs)."
        )


def functional(model: keras.Model) -> keras.Model:
    """Return a model as one that is nothing but a graph."""
    if isinstance(model, keras.Sequential):  # whose `input` is what it was called on
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def _operations(model: keras.Model, opens: Callable[[Any], bool]) -> Iterator[tuple[keras.Model, Any]]:
    """Yield what the flat model will consist of, with the model that holds it; the outermost first."""
    models, seen = [model], {id(model)}
    for owner in models:
        for operation in functional(owner).operations:
            if id(operation) in seen or (owner is not model and isinstance(operation, keras.layers.InputLayer)):
                continue
            seen.add(id(operation))
            if opens(operation):
                models.append(operation)
            else:
                yield owner, operation


def _call_inline(opens: Callable[[Any], bool], layer: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a layer, or what a nested model is made of, in training as the model is."""
    if not opens(layer):
        return layer(*args, **kwargs)

    def call(inner: Any, *inner_args: Any, **inner_kwargs: Any) -> Any:
        if "training" in inspect.signature(inner.call).parameters and kwargs.get("training") is not None:
            inner_kwargs = {"training": kwargs["training"], **inner_kwargs}
        return inner(*inner_args, **inner_kwargs)

    inner = retrace(functional(layer), call)
    return keras.Function(inner.inputs, inner.outputs).call(keras.tree.flatten(args or kwargs["inputs"]))


# Record what layers take and return while a model is called, and keep the call from changing the model.

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
