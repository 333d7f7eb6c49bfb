"""Anatomy: the kind of a model, its layers by path, and the weights of a layer that can be pruned.

A model is read once, with `Anatomy.of`, and the anatomy is handed on. Each prunable weight is seen as a matrix of
outputs by inputs, with one letter for each axis (`kernels`).
"""

from __future__ import annotations

import abc
import functools
import inspect
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import CHANNEL, INPUT, OUTPUT, matrix_axes, parse_equation
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_regex
from tfprune.patterns import Pattern

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
    """The structure of a model when it was read: a model whose layers are replaced in place has to be read again.

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
        """The layers in `every`, as anatomies."""
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


# Which weights of which layers can be pruned, and which axes they have.

_Axes = str | Callable[[keras.layers.Layer], str]


def _einsum_axes(layer: keras.layers.EinsumDense) -> str:
    return parse_equation(layer.equation).axes


_RECURRENT: dict[str, _Axes] = {"kernel": "io", "recurrent_kernel": "io"}


_REGISTRY: dict[type, dict[str, _Axes]] = {
    keras.layers.Dense: {"kernel": "io"},
    keras.layers.EinsumDense: {"kernel": _einsum_axes},
    keras.layers.Embedding: {"embeddings": "io"},
    keras.layers.ReversibleEmbedding: {"embeddings": "io", "reverse_embeddings": "io"},
    keras.layers.Conv1D: {"kernel": "wio"},
    keras.layers.Conv2D: {"kernel": "hwio"},
    keras.layers.Conv3D: {"kernel": "dhwio"},
    keras.layers.Conv1DTranspose: {"kernel": "woi"},
    keras.layers.Conv2DTranspose: {"kernel": "hwoi"},
    keras.layers.Conv3DTranspose: {"kernel": "dhwoi"},
    keras.layers.DepthwiseConv1D: {"kernel": "wco"},
    keras.layers.DepthwiseConv2D: {"kernel": "hwco"},
    keras.layers.SeparableConv1D: {"depthwise_kernel": "wco", "pointwise_kernel": "wio"},
    keras.layers.SeparableConv2D: {"depthwise_kernel": "hwco", "pointwise_kernel": "hwio"},
    keras.layers.SimpleRNN: _RECURRENT,
    keras.layers.SimpleRNNCell: _RECURRENT,
    keras.layers.LSTM: _RECURRENT,
    keras.layers.LSTMCell: _RECURRENT,
    keras.layers.GRU: _RECURRENT,
    keras.layers.GRUCell: _RECURRENT,
    keras.layers.ConvLSTM1D: {"kernel": "wio", "recurrent_kernel": "wio"},
    keras.layers.ConvLSTM2D: {"kernel": "hwio", "recurrent_kernel": "hwio"},
    keras.layers.ConvLSTM3D: {"kernel": "dhwio", "recurrent_kernel": "dhwio"},
}


# Layers of other packages, by package and class, whose weights have names that do not say what they are.
_BY_NAME: dict[tuple[str, str], dict[str, _Axes]] = {
    ("keras_hub", "RWKV7TimeMix"): {f"{part}{half}": "io" for part in "wavg" for half in "12"},
}


def register_prunable(layer_class: type[keras.layers.Layer], **axes: _Axes) -> None:
    """Register the weights of a layer class that can be pruned.

    Use it for a layer of your own whose weights have other names than `kernel`, `dense` or `proj`.

    Args:
        layer_class: A subclass of `keras.layers.Layer`. The axes also serve its subclasses.
        **axes: For each weight, by the name it was given in `add_weight`, one letter per dimension: `o` output,
            `i` input, `c` a channel that is both, any other letter a kernel position. For weights
            whose shape depends on the layer's arguments, pass a function that takes the layer and returns the
            letters. Only the weights named here are pruned. Without this call, weights whose names end in
            `kernel`, `dense` or `proj` are pruned, with inputs and outputs along their last two axes.

    Raises:
        TypeError: If `layer_class` is not a layer class, or an axis is neither text nor a function.
        ValueError: If no weight is named, or axes have no output.

    Example:
        >>> class Projection(keras.layers.Layer):
        ...     def build(self, input_shape):
        ...         self.basis = self.add_weight(name="basis", shape=(8, input_shape[-1]))
        ...     def call(self, inputs):
        ...         return keras.ops.matmul(inputs, keras.ops.transpose(self.basis))
        >>> register_prunable(Projection, basis="oi")
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise ArgumentTypeError(
            "layer_class",
            "a subclass of keras.layers.Layer",
            f"{layer_class!r} of type {type(layer_class).__name__}",
            advice='Pass the class itself, such as register_prunable(MyLayer, kernel="io").',
        )
    if not axes:
        raise ValueError(
            f"Expected the axes of at least one weight, such as "
            f'register_prunable({layer_class.__name__}, kernel="io"). Received none.'
        )
    for name, letters in axes.items():
        if not isinstance(letters, str) and not callable(letters):
            raise ArgumentTypeError(name, "axes as text, such as 'hwio', or a function", repr(letters))
        if isinstance(letters, str) and not set(letters) & {OUTPUT, CHANNEL}:
            raise ArgumentError(
                name,
                "an output axis `o` among the letters",
                repr(letters),
                advice=(
                    "Write one letter per dimension, such as 'hwio': `o` output, `i` input, `c` both, any "
                    "other a kernel position."
                ),
            )
    _REGISTRY[layer_class] = dict(axes)


def _axes_rule(layer: keras.layers.Layer) -> dict[str, _Axes] | None:
    """Return the entry of the closest registered class."""
    for cls in type(layer).__mro__:
        rule = _REGISTRY.get(cls) or _BY_NAME.get((cls.__module__.partition(".")[0], cls.__name__))
        if rule is not None:
            return rule
    return None


def is_registered(layer: keras.layers.Layer) -> bool:
    """Return whether the layer's class, or one that it derives from, is registered."""
    return _axes_rule(layer) is not None


# Which weights of a layer can be pruned, and how each is seen as a matrix of outputs by inputs.
#
# The axes of a weight are written as one letter per dimension, as in `axes`: `hwio` is the kernel of a 2D
# convolution.


@dataclass(frozen=True, eq=False)
class Kernel:
    """A weight that can be pruned.

    Attributes:
        path: Its path below the layer it was looked for in: `kernel`, or `block_1/conv/kernel` in a model.
        variable: The Keras variable; None of a layer that is not built.
        axes: One letter per dimension.
    """

    path: str
    variable: keras.Variable
    axes: str

    @property
    def mixes_inputs(self) -> bool:
        """Whether it has an input axis. One without (depthwise) is small and is pruned only when asked for."""
        return INPUT in self.axes

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix view: (outputs, inputs), or (outputs, positions, inputs)."""
        groups = matrix_axes(self.axes)
        sizes = [math.prod(self.variable.shape[axis] for axis in group) for group in groups]
        return tuple(sizes) if groups[1] else (sizes[0], sizes[2])

    def takes(self, pattern: Pattern) -> bool:
        """Return True if it can take a pattern; as long as it has no shape, nothing speaks against it."""
        return self.variable is None or not pattern.refusal(self.matrix_shape)


def uses(layer: keras.layers.Layer, kernel: Kernel) -> int | None:
    """Return how many times each entry of a layer's kernel is multiplied for one sample; None if it is not known."""
    shape = (layer.get_build_config() or {}).get("input_shape")
    is_recurrent, is_matrix = isinstance(layer, keras.layers.RNN), kernel.axes == INPUT + OUTPUT
    if shape is None or not (is_matrix or (hasattr(layer, "kernel_size") and not is_recurrent)):
        return None
    if not is_matrix and not hasattr(layer, "output_padding"):  # only a transposed convolution reads each pixel once
        shape = layer.compute_output_shape(shape)
    is_first = getattr(layer, "data_format", None) == "channels_first"
    positions = shape[2:] if is_first else shape[1:-1]
    return None if None in positions else math.prod(positions)


class PrunableLayer(abc.ABC):
    """A layer that says itself which of its weights are pruned: any whose class has the method, as with tfmot.

    Weights have inputs and outputs along their last two axes; a vector, such as a bias, counts as one row of inputs.

    Example:
        >>> class Scaled(keras.layers.Dense, PrunableLayer):
        ...     def get_prunable_weights(self):
        ...         return [self.kernel, self.bias]
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Return the weights to prune, once the layer is built."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return hasattr(other, "get_prunable_weights") if cls is PrunableLayer else NotImplemented


def to_matrix(array: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return the matrix view of an array of the kernel's shape, without a copy where NumPy can."""
    return array.transpose([axis for group in matrix_axes(kernel.axes) for axis in group]).reshape(
        kernel.matrix_shape
    )


def from_matrix(matrix: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Undo `to_matrix`."""
    order = [axis for group in matrix_axes(kernel.axes) for axis in group]
    shape = [kernel.variable.shape[axis] for axis in order]
    return matrix.reshape(shape).transpose(np.argsort(order))


def _own_kernels(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.Variable, str]]:
    """Yield name, variable and axes of what this layer itself offers, its sublayers aside."""
    if isinstance(layer, PrunableLayer):
        yield from _asked_for(layer)
        return
    rule = _axes_rule(layer)
    inner = {id(variable) for child in sublayers(layer) for variable in child.weights}
    own = {id(variable) for variable in layer.weights} - inner
    own_names = {variable.name for variable in layer.weights if id(variable) in own}
    for variable in layer.weights:
        is_own, rank = id(variable) in own, len(variable.shape)
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        if rule is None:
            if is_own and rank >= 2 and _is_named_kernel(layer, variable):
                yield variable.name, variable, "p" * (rank - 2) + "io"
        # A recurrent layer's weights are its cell's; of a layer that has its own, a sublayer's are the sublayer's.
        elif variable.name in rule and (is_own or variable.name not in own_names):
            letters = rule[variable.name]
            axes = letters if isinstance(letters, str) else letters(layer)
            _check_rank(layer, variable, axes)
            yield variable.name, variable, axes


# The last word of what layers without a rule call their kernels: of experts (expert, input, output), for example.
_KERNELS = ("kernel", "dense", "proj")


def _is_named_kernel(layer: keras.layers.Layer, variable: keras.Variable) -> bool:
    """Return True if the name of a weight says that inputs are multiplied by it, along its last two axes."""
    *words, last = variable.name.split("_")
    if not words or is_of_keras(layer):
        return variable.name == "kernel"
    is_filter = any(word.startswith(("conv", "depthwise")) for word in words)  # whose axes the name does not tell
    return last in _KERNELS and not is_filter


def _asked_for(layer: Any) -> Iterator[tuple[str, keras.Variable, str]]:
    if not layer.built:
        return
    weights = (
        (path, weight) for path, part in walk(layer) for weight in part.weights
    )  # the innermost layer comes last
    names = {id(weight): join_path(path, weight.name) for path, weight in weights}
    for variable in layer.get_prunable_weights():
        if id(variable) not in names:
            raise ValueError(
                f"Expected get_prunable_weights to return weights of layer {layer.name!r} ({type(layer).__name__}). "
                f"Received: an object of type {type(variable).__name__} that is none of its weights."
            )
        name, rank = names[id(variable)], len(variable.shape)
        letters = (_axes_rule(layer) or {}).get(name)
        axes = letters(layer) if callable(letters) else letters
        yield name, variable, axes or ("p" * (rank - 2) + "io" if rank > 1 else "i")


def _check_rank(layer: keras.layers.Layer, variable: keras.Variable, axes: str) -> None:
    if not isinstance(axes, str) or len(axes) != len(variable.shape):
        raise ValueError(
            f"Expected one axis letter per dimension of {variable.path} of shape {tuple(variable.shape)}. Received: "
            f"{variable.name}={axes!r} registered for {type(layer).__name__}."
        )


def matrices(root: keras.layers.Layer) -> list[tuple[str, keras.Variable]]:
    """Return every weight of a layer that has rows and columns, biases aside, with its path below it.

    Of integers only what was quantized is a weight, without its scales; others are numbers of positions, for example.
    """
    matrices_by_id: dict[int, tuple[str, keras.Variable]] = {}
    for path, part in walk(root):
        is_quantized = getattr(part, "quantization_mode", None) is not None
        aside = ("bias", "scale", "zero") if is_quantized else ("bias",)
        for weight in part.weights:
            matrices_by_id.pop(id(weight), None)  # the innermost layer comes last, and says what it is
            is_number = is_quantized or keras.backend.is_float_dtype(weight.dtype)
            if len(weight.shape) >= 2 and is_number and weight.name.split("_")[-1] not in aside:
                matrices_by_id[id(weight)] = (join_path(path, weight.name), weight)
    return list(matrices_by_id.values())


def expected_kernels(layer: keras.layers.Layer) -> list[Kernel]:
    """Return the kernels that a layer which is not built will have, as far as its class is registered.

    Their shapes, and so their variables, do not exist yet: `variable` is None.
    """
    rule = _axes_rule(layer)
    if rule is None:
        inside = ((part, kernel) for part in sublayers(layer) for kernel in expected_kernels(part))
        return [Kernel(f"{part.name}/{kernel.path}", None, kernel.axes) for part, kernel in inside]
    axes = {name: letters if isinstance(letters, str) else letters(layer) for name, letters in rule.items()}
    return [Kernel(name, None, letters) for name, letters in axes.items()]


def kernels(root: keras.layers.Layer) -> list[Kernel]:
    """Return every prunable weight of a layer or model, each once, with its path below it.

    Raises:
        ValueError: If two weights have the same path, or registered axes do not fit a weight.
    """
    by_variable: dict[int, Kernel] = {}
    for path, layer in walk(root, stop=PrunableLayer):
        for name, variable, axes in _own_kernels(layer):
            full_name = join_path(path, name)
            by_variable.setdefault(id(variable), Kernel(full_name, variable, axes))
    counts = Counter(kernel.path for kernel in by_variable.values())
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"Expected layers to have different names. Received two weights called {', '.join(twice)} in "
            f"{root.name!r}. Give each layer a name of its own."
        )
    return list(by_variable.values())


# LoRA beside a kernel: two factors, whose product is added to it.


@dataclass(frozen=True, eq=False)
class Factor:
    """One of two factors.

    Attributes:
        kernel: The weight that their product is added to.
        is_first: Whether it has the axes of the kernel without the last one; the other has that one alone.
    """

    kernel: keras.Variable
    is_first: bool

    def axes(self, of_kernel: Sequence[Any]) -> tuple[Any, ...]:
        """Choose from one entry for each axis of the kernel those of its own axes; None stands for the rank.

        Example:
            >>> [Factor(None, is_first).axes("hwio") for is_first in (True, False)]
            [('h', 'w', 'i', None), (None, 'o')]
        """
        return (*of_kernel[:-1], None) if self.is_first else (None, of_kernel[-1])


def factors(root: keras.layers.Layer) -> dict[int, Factor]:
    """Return the factors in a layer, by their ids."""
    by_id = {}
    for _, layer in walk(root):
        own = {weight.name: weight for weight in layer.weights}  # the innermost layer comes last
        for name, weight in own.items():
            match = re.fullmatch(r"lora_(\w+)_([ab])", name)
            if match and match[1] in own:
                by_id[id(weight)] = Factor(own[match[1]], is_first=match[2] == "a")
    return by_id


def train_alike(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Freeze in a built copy of a layer what is frozen in the layer, and give it the same factors, also inside.

    The configuration of a layer says nothing of those inside, and not every class keeps the scale of its factors.

    Args:
        pairs: What `paired` returns of the layer and its copy.
    """
    for layer, counterpart in pairs:
        if counterpart.trainable != layer.trainable:  # sets those inside, too, which come later
            counterpart.trainable = layer.trainable
    for layer, counterpart in pairs:
        if getattr(layer, "lora_enabled", False):
            if not counterpart.lora_enabled:  # freezes the kernel, so it comes last; a layer with masks refuses it
                type(counterpart).enable_lora(counterpart, layer.lora_rank)
            counterpart.lora_alpha = layer.lora_alpha


# `filters`: the weights of a model that a function treats.

Filters = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


def selector(
    filters: Filters, pattern: Pattern, paths: list[str], *, others: Iterable[tuple[str, keras.layers.Layer]]
) -> Callable[[str, keras.layers.Layer, Kernel], bool]:
    """Turn `filters` into a function of path, layer and kernel.

    Args:
        filters: What the user passed.
        pattern: The pattern that is wanted.
        paths: The paths of the weights that can be pruned.
        others: The paths of other weights, and their layers, for the message.

    Raises:
        TypeError: If `filters` is neither None, nor regular expressions, nor a function.
        ValueError: If an expression is none, or matches no path.
    """
    if filters is None:  # of a whole model, what cannot take the pattern is left out instead of refused
        return lambda path, layer, kernel: kernel.mixes_inputs and kernel.takes(pattern)
    if callable(filters) and not isinstance(filters, (type, keras.layers.Layer)):
        return lambda path, layer, kernel: bool(filters(layer))
    expressions = [filters] if isinstance(filters, str) else filters
    if not isinstance(expressions, Sequence) or not all(isinstance(each, str) for each in expressions):
        raise ArgumentTypeError(
            "filters",
            "`filters` to be None, a regular expression, several, or a function of a layer",
            f"{filters!r} of type {type(filters).__name__}",
            advice="To choose by class, pass filters=lambda layer: isinstance(layer, keras.layers.Dense).",
        )
    compiled = [check_regex(expression, "filters") for expression in expressions]
    for regex in compiled:
        if not any(regex.search(path) for path in paths):
            elsewhere = (f"It is found in {path}: {_reason(layer)}" for path, layer in others if regex.search(path))
            raise ArgumentError(
                "filters",
                "`filters` to match a weight that can be pruned",
                found=f"{regex.pattern!r}, which is found in none of {', '.join(paths) or 'no weights at all'}",
                advice=next(elsewhere, ""),
            )
    return lambda path, layer, kernel: any(regex.search(path) for regex in compiled)


def _reason(layer: keras.layers.Layer) -> str:
    """Say why a weight of a layer cannot be pruned."""
    return quantized_already(layer) or (
        "biases and the weights of normalization are never pruned, and those of a layer of your own once "
        "tfprune.register_prunable names them."
    )
