"""Anatomy: the kind of a model, its layers by path, and the same of nested models. Read once and passed on."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import ArgumentTypeError

# The layers that a model or layer holds, and the values of their variables.


def as_numpy(variable: keras.Variable) -> np.ndarray:
    """Return a variable's value, with one copy at most; do not write to it."""
    return np.asarray(keras.ops.stop_gradient(keras.ops.convert_to_tensor(variable)))


def weight_values(model: keras.Model) -> Iterator[np.ndarray]:
    """Yield the values of all weights of a model."""
    return map(as_numpy, model.weights)


def weight_bytes(model: keras.Model) -> int:
    """Return the bytes of all weights of a model."""
    widths = {dtype: as_numpy(keras.ops.zeros(1, dtype)).itemsize for dtype in {each.dtype for each in model.weights}}
    return sum(int(np.prod(weight.shape)) * widths[weight.dtype] for weight in model.weights)


def is_of_keras(layer: keras.layers.Layer) -> bool:
    """Return True if a layer's class is one of Keras' own, or one of this library's around it."""
    return type(layer).__module__.partition(".")[0] in ("keras", "tfprune")


def join_path(path: str, inner: str) -> str:
    """Return the path of what is below a path; that of a model itself is empty."""
    return "/".join(filter(None, (path, inner)))


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a layer holds: a model's own list, else its attributes, lists and dicts included."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    layers: list[keras.layers.Layer] = []
    _collect_layers(attributes(layer).values(), layers)
    return layers


def attributes(layer: keras.layers.Layer) -> Mapping[str, Any]:
    """Return the attributes of a layer, by name."""
    if not hasattr(layer, "named_children"):
        return vars(layer)
    # A module of PyTorch keeps the layers in it apart.
    children = {name: child for name, child in layer.named_children() if isinstance(child, keras.layers.Layer)}
    return {**vars(layer), **children}


def quantized_already(root: keras.layers.Layer) -> str:
    """Say which layer `keras.Model.quantize` has quantized, and what to do; return an empty string if it has none."""
    for path, layer in walk(root):
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            return (
                f"keras.Model.quantize has quantized {path or layer.name!r} to {mode} already. Take the model from "
                f"before that call."
            )
    return ""


def _collect_layers(values: Iterable[Any], layers: list[keras.layers.Layer]) -> None:
    for value in values:
        if isinstance(value, (dict, list, tuple)):
            if value:  # Keras keeps many empty lists
                _collect_layers(value.values() if isinstance(value, dict) else value, layers)
        elif isinstance(value, keras.layers.Layer):
            layers.append(value)


def walk(
    root: keras.layers.Layer, *, stop: type[keras.layers.Layer] | tuple[type[keras.layers.Layer], ...] = ()
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield every layer below `root`, itself first, with its path; a layer used twice comes once.

    Args:
        root: A model or a layer.
        stop: Layers of this class are yielded, but not entered.
    """
    seen: set[int] = set()

    def visit(path: str, layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        if isinstance(layer, stop):
            return
        for child in sublayers(layer):
            yield from visit(join_path(path, child.name), child)

    yield from visit("", root)


def paired(source: keras.layers.Layer, target: keras.layers.Layer) -> list[tuple[Any, Any]]:
    """Return every layer below a root, itself first, with its counterpart in a copy."""
    return [(layer, counterpart) for (_, layer), (_, counterpart) in zip(walk(source), walk(target), strict=False)]


def rename(root: keras.layers.Layer, names: Iterable[str]) -> None:
    """Give the layers of `walk(root)` other names, those of the layer that it is a copy of."""
    for (_, layer), name in zip(list(walk(root)), names, strict=False):
        layer.name = name


# What a model is: its kind, and the layers and models that it is made of. It is read once and handed on.

UNCONFIGURED = (NotImplementedError, AttributeError, TypeError, KeyError)  # of a `get_config` that was never run


def check_keras(value: Any, kind: type[keras.layers.Layer] = keras.Model, *, argument: str = "model") -> None:
    """Refuse what is not a Keras model; with `keras.layers.Layer` as the kind, what is not even a layer.

    Raises:
        TypeError: Saying what to do with a path, or with a layer.
    """
    if isinstance(value, kind):
        return
    advice = ""
    if isinstance(value, (str, os.PathLike)):
        advice = "Load it first: keras.models.load_model(path)."
    elif isinstance(value, keras.layers.Layer):
        advice = "A layer becomes a model with keras.Sequential([keras.Input(shape), layer])."
    expected = f"a Keras {'model' if kind is keras.Model else 'model or layer'}"
    raise ArgumentTypeError(argument, expected, f"{value!r:.100} of type {type(value).__name__}", advice=advice)


class Kind(Enum):
    """How a model is put together, and so how it is copied."""

    GRAPH = "Sequential or Functional, built from a list of layers"
    CODE = "subclassed: its own code creates its layers and calls them"
    FUNCTIONAL_SUBCLASS = "calls nothing but its graph, and its class can be built anew"
    PLAIN_SUBCLASS = "the same, but its class adds nothing to a Functional model"
    LAYER = "a layer, or a Functional subclass whose `call` does more than call its graph: copied as one"

    @property
    def has_graph(self) -> bool:
        """Whether such a model calls a graph of layers, and nothing besides."""
        return self in (Kind.GRAPH, Kind.FUNCTIONAL_SUBCLASS, Kind.PLAIN_SUBCLASS)

    @property
    def is_functional_subclass(self) -> bool:
        """Whether such a model has a class around its graph."""
        return self in (Kind.FUNCTIONAL_SUBCLASS, Kind.PLAIN_SUBCLASS)

    @property
    def is_spelled_out(self) -> bool:
        """Whether the layers of such a model stand in the configuration of a graph that it is part of."""
        return self in (Kind.GRAPH, Kind.PLAIN_SUBCLASS)


def kind_of(layer: Any) -> Kind:
    """Return how a model or layer is put together."""
    if not isinstance(layer, keras.Model):
        return Kind.LAYER
    if isinstance(layer, keras.Sequential) or _is_configured_by_layers(layer):
        return Kind.GRAPH
    if not hasattr(layer, "inputs"):
        return Kind.CODE
    model_class: Any = type(layer)
    if model_class.call is not functional_class().call:
        return Kind.LAYER
    return Kind.FUNCTIONAL_SUBCLASS if _is_worth_keeping(model_class) else Kind.PLAIN_SUBCLASS


@functools.cache
def functional_class() -> Any:
    """Return the class of Functional models, which Keras does not export."""
    inputs = keras.Input((1,))
    return type(keras.Model(inputs, inputs))


def _is_configured_by_layers(model: Any) -> bool:
    """Return True if the configuration of a model lists its layers."""
    if hasattr(type(model), "copied_class"):  # a copy of a class, which has a configuration of another kind
        return False
    if type(model).__module__.startswith("keras."):  # known without a configuration, which takes a while to write
        return hasattr(model, "operations")
    try:
        return {"layers", "input_layers"} <= model.get_config().keys()
    except UNCONFIGURED:  # a subclassed model that cannot tell its arguments, or layers that cannot
        return isinstance(model, functional_class()) and _takes_inputs_and_outputs(type(model))


def _takes_inputs_and_outputs(model_class: Any) -> bool:
    """Return True if a class takes the arguments of a Functional model, so that Keras writes its layers down."""
    own, of_keras = (inspect.getfullargspec(each.__init__).args for each in (model_class, functional_class()))
    return own == of_keras and model_class.get_config is functional_class().get_config


@functools.cache
def _is_worth_keeping(model_class: Any) -> bool:
    """Return True if a Functional subclass can be built from its arguments, and has members of its own."""
    own = set(model_class.__mro__) - set(functional_class().__mro__)
    members = {name: member for each in own for name, member in vars(each).items()}
    return "get_config" in members and any(
        callable(member) or hasattr(member, "__get__")
        for name, member in members.items()
        if not name.startswith("__") and name not in ("get_config", "from_config")
    )


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What a model is, as it was when it was read: one whose layers are replaced in place has to be read again.

    Attributes:
        model: The model, or a layer.
        kind: How it is put together.
        parts: The anatomies of the layers that it holds; of a model, in the order of `model.layers`.
    """

    model: Any
    kind: Kind
    parts: tuple[Anatomy, ...] = ()

    @classmethod
    def of(cls, model: Any, *, accepts: type[keras.layers.Layer] = keras.Model, argument: str = "model") -> Anatomy:
        """Read a model.

        Args:
            model: What the user passed.
            accepts: `keras.layers.Layer` takes layers, too.
            argument: The name it was passed under, for the message.

        Raises:
            TypeError: If it is not a Keras model.
        """
        check_keras(model, accepts, argument=argument)
        return _read(model, {}, set())

    @cached_property
    def graph(self) -> keras.Model | None:
        """A Sequential or Functional model over the same layers; None of a model that has no graph."""
        if self.kind is Kind.GRAPH:
            return self.model
        if not self.kind.has_graph:
            return None
        model = self.model
        return keras.Model(model.input, model.output, name=model.name, trainable=model.trainable)

    @cached_property
    def every(self) -> list[tuple[str, Any]]:
        """Every layer, those inside of layers too, itself first, with their paths, each once: see `layers.walk`."""
        return [(path, part.model) for path, part in self.nodes]

    @cached_property
    def nodes(self) -> list[tuple[str, Anatomy]]:
        """What `every` holds, as anatomies."""
        return list(self._visit(lambda part: True, inner=True))

    @cached_property
    def leaves(self) -> list[tuple[str, Any]]:
        """The layers that the model and all models in it are made of, with their paths, each once."""
        return [(path, leaf.model) for path, leaf in self.ends(lambda part: part.kind is not Kind.LAYER)]

    @cached_property
    def configured(self) -> list[tuple[str, Anatomy]]:
        """What a graph is built anew from, with paths: models that their own class or code builds stay whole."""
        return list(self.ends(lambda part: part is self or part.kind.is_spelled_out))

    def ends(self, is_entered: Callable[[Anatomy], bool]) -> Iterator[tuple[str, Anatomy]]:
        """Yield the parts that are not entered, at any depth, with their paths; a shared one comes once."""
        return self._visit(is_entered, inner=False)

    def _visit(self, is_entered: Callable[[Anatomy], bool], *, inner: bool) -> Iterator[tuple[str, Anatomy]]:
        """Yield the parts that are not entered, and with `inner` the others too, before what is in them."""

        def visit(path: str, part: Anatomy) -> Iterator[tuple[str, Anatomy]]:
            if id(part) in seen:
                return
            seen.add(id(part))
            is_end = not is_entered(part)
            if is_end or inner:
                yield path, part
            for child in () if is_end else part.parts:
                yield from visit(join_path(path, child.model.name), child)

        seen: set[int] = set()
        yield from visit("", self)

    def part(self, layer: Any) -> Anatomy:
        """Return the anatomy of a layer of the model, or of one that the model holds and Keras does not list."""
        return self._by_layer.get(id(layer)) or _read(layer, {}, set())

    @cached_property
    def _by_layer(self) -> dict[int, Anatomy]:
        return {id(part.model): part for part in self.parts}


def _read(layer: Any, anatomies: dict[int, Anatomy], around: set[int]) -> Anatomy:
    """Read a layer that is not among `anatomies`; a layer `around` it, as its owner, is not read again."""
    if id(layer) not in anatomies:
        inside = around | {id(layer)}
        children = [child for child in sublayers(layer) if id(child) not in inside] if _holds_layers(layer) else []
        parts = tuple(_read(child, anatomies, inside) for child in children)
        anatomies[id(layer)] = Anatomy(layer, kind_of(layer), parts)
    return anatomies[id(layer)]


def _holds_layers(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Layer)  # an operation does not


def check_model(anatomy: Anatomy) -> None:
    """Refuse a model that cannot be copied with its weights: unbuilt, or empty, for example.

    Raises:
        ValueError: Saying what is wrong with it, and what to do.
    """
    check_layers(anatomy)
    model, is_code = anatomy.model, anatomy.kind is Kind.CODE
    is_built = any(layer.weights for _, layer in anatomy.leaves) if is_code else model.built
    if not is_built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose weights do not exist yet. Start it with "
            f"keras.Input(shape), call model.build(input_shape), or call the model on a batch first."
        )


def check_layers(anatomy: Anatomy) -> None:
    """Refuse a model whose layers cannot be copied; it need not be built.

    Raises:
        ValueError: If it has no layers, one is held twice, or its class calls the graph that it is built around.
    """
    model = anatomy.model
    if anatomy.kind is Kind.LAYER:
        raise ValueError(
            f"Expected a Sequential, Functional or subclassed model. Received: {model.name!r} of class "
            f"{type(model).__name__}, a Functional subclass whose `call` does more than call its graph. Pass "
            f"that graph, keras.Model(model.inputs, model.outputs)."
        )
    if not anatomy.parts:
        raise ValueError(f"Expected a model with layers. Received: {model.name!r}, which is empty.")
    _check_held_once(anatomy)


def _check_held_once(anatomy: Anatomy) -> None:
    """Refuse a layer that would get two copies: one held in two of those that are copied one by one."""
    owners: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}
    for copied, holder, part in _held(anatomy):
        if isinstance(part, keras.layers.InputLayer):  # which every graph has of its own
            continue
        owner, other = owners.setdefault(id(part), (copied, holder))
        if owner is not copied:
            raise ValueError(
                f"Expected each layer to be held by one model or layer. Received: {part.name!r}, which both "
                f"{other.name!r} and {holder.name!r} hold: their copies would not share it. Hold it in one of "
                f"them, and pass the other its outputs or weights when it is called."
            )


def _held(anatomy: Anatomy) -> Iterator[tuple[keras.layers.Layer, ...]]:
    """Yield each layer in a model, after the model or layer that is copied as a whole, and the holder in it."""
    model = anatomy.model
    if anatomy.kind in (Kind.FUNCTIONAL_SUBCLASS, Kind.LAYER):
        yield from ((model, holder.model, part.model) for _, holder in anatomy.nodes for part in holder.parts)
        return
    yield from ((model, model, child.model) for child in anatomy.parts)
    for child in anatomy.parts:
        yield from _held(child)


# What a wrapper has to know of how Keras calls the layer inside: arguments, states, parts not built yet.


def with_signature_of(layer: keras.layers.Layer, call: Callable) -> Callable:
    """Give a function the signature of the layer's `call`, `training` added: Keras reads argument names off it."""
    parameters = dict(inspect.signature(layer.call).parameters)
    if "training" not in parameters:
        training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = {**parameters, "training": training}

    @functools.wraps(call)
    def like_it(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    ordered = sorted(parameters.values(), key=lambda parameter: parameter.kind)
    like_it.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    return like_it


def recurrent_states(layer: keras.layers.Layer) -> Iterator[keras.Variable]:
    """Yield the states that stateful recurrent layers carry from batch to batch; Keras leaves them untracked."""
    for _, part in walk(layer):
        if getattr(part, "stateful", False):
            yield from (state for state in keras.tree.flatten(part.states) if isinstance(state, keras.Variable))


def unbuilt(layer: keras.layers.Layer) -> list[str]:
    """Return the paths of the parts of a layer that have not been built."""
    return [path or layer.name for path, part in walk(layer) if not part.built]


def placeholder(value: Any) -> Any:
    """Return a placeholder for an array or tensor; let anything else through."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return value
    return keras.KerasTensor(value.shape, dtype=keras.backend.standardize_dtype(value.dtype))
