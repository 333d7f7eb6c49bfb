"""Any model as a flat graph: symbolic calls, layers with code that are looked into, and probes with numbers.

A block of a transformer, or a layer of the user's, calls other layers. Called on symbolic tensors, its code turns
into calls of the layers inside and of `keras.ops`. So there is no rule for a kind of block, only rules for layers
and operations. A layer with weights and no layers inside stays whole; on numbers it can be seen whether it treats
each channel by itself.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.models.anatomy import Anatomy, Kind, is_of_keras, sublayers, walk
from tfprune.models.graph import Graph, flatten, retrace, trace_to_run
from tfprune.models.in_place import classes_changed, derive

# Why the code of a layer could not be run on symbolic tensors, and in which line.

# What code raises that asks a symbolic tensor for its value, its open shape or its truth; and what numbers of a shape
# that a layer does not take raise in the backend.
FAILURES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    *((sys.modules["tensorflow"].errors.OpError,) if keras.config.backend() == "tensorflow" else ()),
)

_OURS = tuple(f"{folder}{os.sep}" for folder in (Path(keras.__file__).parent, Path(__file__).parents[1]))
_LONGEST = 160
_COLORS = re.compile(r"\x1b\[\d+m")


def describe(error: BaseException) -> str:
    """Describe an error in one sentence, with the last line of code that is neither Keras' nor ours."""
    text = _COLORS.sub("", str(error)).strip()
    text = re.sub(r"^Exception encountered when calling [^\n]*\n+", "", text)
    message = text.partition("\n")[0]
    if len(message) > _LONGEST:  # as many sentences as there is room for
        message = message[:_LONGEST].rpartition(". ")[0] or message[:_LONGEST]
    message = message.rstrip(". ")
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_OURS)
    ]
    locations = [(name, line) for name, line in frames if linecache.getline(name, line).strip()]
    if not locations:
        return message
    name, line = locations[-1]
    return f"{message} (in {Path(name).name}, line {line}: {linecache.getline(name, line).strip()[:80]})"


# Small inputs to look at a model with: symbolic ones of fixed shapes, and numbers.

BATCH, LENGTH = 2, 8  # where a model leaves a size open
_LENGTHS = (LENGTH, 4, 2048)  # of short texts, of a model for shorter ones, of sound


def fixed_shape(shape: Sequence[int | None], *, length: int = LENGTH) -> tuple[int, ...]:
    """Return a shape in which no size is open.

    Example:
        >>> fixed_shape((None, None, 3))
        (2, 8, 3)
    """
    sizes = [BATCH if axis == 0 else length for axis in range(len(shape))]
    return tuple(sample_size if size is None else size for size, sample_size in zip(shape, sizes, strict=True))


def first_run(model: keras.Model) -> tuple[int, Any] | None:
    """Run a model on the first length that it takes; return the length and the outputs, None if it takes none."""
    runs = ((length, run_on_numbers(model, length)) for length in _LENGTHS)
    return next(((length, outputs) for length, outputs in runs if outputs is not None), None)


def run_on_numbers(model: keras.Model, length: int) -> Any:
    """Return the outputs of a model on numbers of a length; None where it does not run on them."""
    try:
        return model(numbers_for(model.input, length=length), training=False)
    except FAILURES:
        return None


def usable_length(model: keras.Model) -> int | None:
    """Return the first length on which a model runs; None if there is none."""
    run = first_run(model)
    return None if run is None else run[0]


def _fixed_inputs(model: keras.Model, *, length: int = LENGTH) -> Any:
    """Return symbolic inputs of fixed shapes, in the structure of the model's own."""

    def like(tensor: keras.KerasTensor) -> keras.KerasTensor:
        shape = fixed_shape(tensor.shape, length=length)
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)

    return keras.tree.map_structure(like, model.input)


def numbers_for(structure: Any, *, length: int = LENGTH, seed: int = 0) -> Any:
    """Return numbers in place of symbolic tensors; whole ones are 0 or 1, as indices and masks may be."""
    generator = np.random.default_rng(seed)

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        shape = fixed_shape(leaf.shape, length=length)
        dtype = keras.backend.standardize_dtype(leaf.dtype)
        if keras.backend.is_float_dtype(dtype):
            return keras.ops.cast(generator.normal(size=shape), dtype)
        return keras.ops.cast(generator.random(shape) < 0.8, dtype)

    return keras.tree.map_structure(value, structure)


# Any model as a flat graph: a subclassed one by a symbolic call, which `open_layers` then looks into.


def call_graph(anatomy: Anatomy) -> keras.Model:
    """Return a Functional model without plain models nested in it, over the layers of a model.

    Args:
        anatomy: Of a model that `check_followable` accepts.

    Raises:
        ValueError: If it cannot be called on symbolic tensors.
    """
    return flatten(anatomy.model) if anatomy.kind.has_graph else _called(anatomy.model)


def check_followable(anatomy: Anatomy) -> None:
    """Refuse a model whose calls cannot be seen.

    Raises:
        ValueError: If it is not built, or does something besides calling the graph that it is built around.
    """
    model, is_code = anatomy.model, anatomy.kind is Kind.CODE
    if (anatomy.kind.has_graph and model.built) or (is_code and _shapes(model) is not None):
        return
    raise ValueError(
        f"Expected a built Sequential or Functional model, or one whose code can be traced. Received: "
        f"{model.name!r} of class {type(model).__name__}, whose layers cannot be followed. Build it as "
        f"keras.Model(inputs, outputs)."
        + (" Or call it on a batch first, if it is a subclassed one." if is_code else "")
    )


def _shapes(model: keras.Model) -> Any:
    """Return the shapes that a subclassed model was built with; None if it was not."""
    config = model.get_build_config() if model.built else None
    return (config or {}).get("input_shape") or (config or {}).get("shapes_dict")


def _called(model: keras.Model) -> keras.Model:
    """Return a graph of one call of a subclassed model, on whichever numbers it takes."""
    for inputs in _candidates(_shapes(model)):
        try:
            return keras.Model(inputs, model(inputs), name=f"call_of_{model.name}")
        except FAILURES as error:
            reason = describe(error)
    raise ValueError(
        f"Expected a model that can be called on symbolic tensors. Received: {model.name!r} of class "
        f"{type(model).__name__}, whose layers cannot be followed: {reason}. Build it as keras.Model(inputs, "
        f"outputs)."
    )


def _candidates(shapes: Any) -> Iterator[Any]:
    """Yield symbolic inputs of the shapes, of floats and of integers, with open sizes and without."""
    for is_fixed in (False, True):
        for dtype in ("float32", "int32"):

            def like(shape: tuple[int | None, ...], is_fixed: bool = is_fixed, dtype: str = dtype) -> Any:
                return keras.Input(batch_shape=fixed_shape(shape) if is_fixed else (None, *shape[1:]), dtype=dtype)

            yield keras.tree.map_shape_structure(like, shapes)


# Whether two models, layers or functions return the same, and how far apart their outputs are.


@dataclass(frozen=True)
class Tolerance:
    """How far apart two outputs may be and still count as the same.

    Attributes:
        relative: Fraction of the expected entry.
        of_largest: Fraction of the largest entry of the expected array.
        absolute: Difference that is allowed everywhere.
        nan_is_same: Whether NaN equals NaN.
    """

    relative: float = 0.0
    of_largest: float = 0.0
    absolute: float = 0.0
    nan_is_same: bool = False


EXACT = Tolerance()
ROUNDED = Tolerance(relative=1e-3, of_largest=1e-4)  # the same sums in another order, through many layers


def as_arrays(outputs: Any) -> list[np.ndarray]:
    """Return the tensors in a structure as arrays of float32."""
    leaves = keras.tree.flatten(outputs)
    return [np.asarray(keras.ops.convert_to_numpy(leaf)).astype(np.float32, copy=False) for leaf in leaves]


def same_outputs(outputs: Any, expected: Any, *, tolerance: Tolerance = ROUNDED) -> bool:
    """Return True if two structures of tensors have the same number of tensors, their shapes, and their values.

    Example:
        >>> same_outputs([keras.ops.ones(2)], [keras.ops.ones(2) * 1.0001])
        True
        >>> same_outputs([keras.ops.ones(2)], [keras.ops.ones(3)])
        False
    """
    arrays, others = as_arrays(outputs), as_arrays(expected)
    return len(arrays) == len(others) and all(
        _is_close(array, other, tolerance) for array, other in zip(arrays, others, strict=True)
    )


def _is_close(array: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> bool:
    if array.shape != expected.shape:
        return False
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    atol = tolerance.absolute + tolerance.of_largest * largest
    return np.allclose(array, expected, rtol=tolerance.relative, atol=atol, equal_nan=tolerance.nan_is_same)


class LargestDifference:
    """The largest difference of any output over several batches, as a fraction of the largest expected entry.

    Example:
        >>> difference = LargestDifference()
        >>> difference.add([keras.ops.ones(2)], [keras.ops.full((2,), 2.0)])
        >>> difference.fraction
        0.5
    """

    def __init__(self) -> None:
        self._largest = self._apart = 0.0

    def add(self, outputs: Any, expected: Any) -> None:
        """Take the outputs of one batch, and what they are compared with."""
        for array, other in zip(as_arrays(outputs), as_arrays(expected), strict=True):
            self._largest = max(self._largest, float(np.abs(other).max(initial=0)))
            self._apart = max(self._apart, float(np.abs(array - other).max(initial=0)))

    @property
    def fraction(self) -> float:
        """The difference; it is absolute where only zeros are expected."""
        return self._apart / self._largest if self._largest else self._apart


def difference_in_words(difference: float | None, *, is_same: bool | None, samples: int) -> str:
    """Return a sentence on the outputs of two models; without a difference they were not compared.

    Example:
        >>> difference_in_words(0.5, is_same=False, samples=64)
        'The outputs differ by up to 5.0e-01 on 64 samples.'
    """
    if difference is None:
        return "The outputs were not compared: pass samples."
    measured = f"{difference:.1e} on {f'{samples} samples' if samples else 'random numbers'}"
    return f"The outputs {f'are the same (difference {measured})' if is_same else f'differ by up to {measured}'}."


# Whether a layer, an operation or a function treats each channel by itself, seen on numbers.

_DRAWS = 4
_TOLERANCE = Tolerance(relative=1e-4, absolute=1e-5, nan_is_same=True)


def is_channelwise(function: Callable, arguments: Any, *, axes: Mapping[int, int]) -> bool:
    """Return True if a function returns for some of the channels alone what it returns for them among all.

    Such a function needs no rule: channels go through it, and it works without those that are removed.

    Args:
        function: A layer, an operation or a function.
        arguments: Its arguments and keyword arguments, symbolic tensors in place of numbers.
        axes: The axis of the channels in each tensor that has them, by the id of the tensor. They have the same axis
            in what is returned.

    Example:
        >>> x = keras.KerasTensor((2, 6))
        >>> [is_channelwise(f, ((x,), {}), axes={id(x): 1}) for f in (keras.ops.relu, keras.ops.softmax)]
        [True, False]
    """
    tensors = [leaf for leaf in keras.tree.flatten(arguments) if isinstance(leaf, keras.KerasTensor)]
    (axis,), (size,) = {axes[id(x)] for x in tensors if id(x) in axes}, _sizes(tensors, axes)
    flat = [id(leaf) in axes for leaf in keras.tree.flatten(arguments)]
    normal = numbers_for(arguments)
    try:
        for numbers in (normal, keras.tree.map_structure(_positive, normal)):  # roots and logarithms take the latter
            whole = _numbers_of(function, numbers)
            for some in _subsets(size):
                leaves = [
                    keras.ops.take(leaf, some, axis=axis) if is_taken else leaf
                    for leaf, is_taken in zip(keras.tree.flatten(numbers), flat, strict=True)
                ]
                part = _numbers_of(function, keras.tree.pack_sequence_as(numbers, leaves))
                expected = [np.take(array, some, axis=axis) for array in whole]
                if not same_outputs(part, expected, tolerance=_TOLERANCE):
                    return False
    except FAILURES:
        return False
    return True


def _subsets(size: int) -> Iterator[np.ndarray]:
    """Yield indices of channels: large random parts and what they leave, so that no channel is in all of them."""
    generator = np.random.default_rng(0)
    for _ in range(_DRAWS if size > 1 else 0):
        order = generator.permutation(size)
        count = generator.integers((size + 1) // 2, size)
        yield from (np.sort(order[:count]), np.sort(order[count:]))


def _positive(value: Any) -> Any:
    is_tensor = keras.ops.is_tensor(value) and keras.backend.is_float_dtype(value.dtype)
    return keras.ops.abs(value) if is_tensor else value


def _sizes(tensors: list[Any], axes: Mapping[int, int]) -> set[int]:
    return {int(x.shape[axes[id(x)]]) for x in tensors if id(x) in axes}


def _numbers_of(function: Callable, numbers: Any) -> list[np.ndarray]:
    args, kwargs = numbers
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(function(*args, **kwargs))]


# Let layers run their code at once where they are called, instead of being recorded as one step of a graph.


class _TraceFailures(list):
    """The layers whose code failed, the innermost first, each with the error."""

    def add(self, layer: keras.layers.Layer, error: BaseException) -> None:
        if not any(other is error for _, other in self):
            self.append((layer, error))


@contextmanager
def _inline_calls(layers: Iterable[keras.layers.Layer], failed: _TraceFailures) -> Iterator[None]:
    """Call the code of some layers directly within the context.

    Args:
        layers: The layers.
        failed: Gets the innermost layer whose code raises, with the error, which goes on.
    """
    with classes_changed(layers, lambda kind: _running(kind, failed)):
        yield


def _running(kind: Any, failed: _TraceFailures) -> Any:
    """Return a subclass whose instances run their code when they are called: Python looks a call up in the class."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(_dense, (args, kwargs))
        try:
            return self.call(*args, **kwargs)
        except FAILURES as error:
            failed.add(self, error)
            raise

    return derive(kind, __call__=run)


def _dense(value: Any) -> Any:
    """Return a tensor that is not sparse: a product with a constant is so symbolically, and norms do not take it."""
    is_sparse = isinstance(value, keras.KerasTensor) and value.sparse
    return keras.ops.convert_to_tensor(value, sparse=False) if is_sparse else value


# Open the layers of a graph that call other layers, by tracing their code.

_ROUNDING_TOLERANCE = replace(ROUNDED, nan_is_same=True)  # a call of a layer may do more than its code says
_IsKnown = Callable[[Any], bool]


@dataclass(frozen=True, eq=False)
class TracedGraph:
    """A graph in which layers were opened.

    Attributes:
        model: The graph of what is inside of them. It shares the layers of the model that was opened.
        is_open_shaped: Whether it takes the shapes that the model takes; otherwise no size is open in it.
        closed: Why a layer was left whole, by the id of the layer.
    """

    model: keras.Model
    is_open_shaped: bool
    closed: dict[int, str]


def open_layers(flat: keras.Model, is_known: _IsKnown) -> TracedGraph:
    """Return a graph of the layers inside of layers, however deep; it shares them, and gives them names of paths.

    Args:
        flat: A Functional model without plain models nested in it. Its inner layers are renamed.
        is_known: Returns True if a layer stays whole because its kind is known.
    """
    candidates = list(_openable(flat, is_known))
    if not candidates:
        return TracedGraph(flat, True, {})
    run = first_run(flat)
    if run is None:
        return TracedGraph(flat, True, dict.fromkeys(map(id, candidates), "the model does not run on small numbers"))
    length, expected = run
    _name_by_paths(flat, candidates)
    traced = _traced(flat, candidates, inputs=None)
    outputs = run_on_numbers(traced.model, length)  # None where code wrote open sizes into operations
    if traced.closed or outputs is None:
        fixed = _traced(flat, candidates, inputs=_fixed_inputs(flat, length=length))
        if len(fixed.closed) < len(traced.closed) or outputs is None:
            traced, outputs = fixed, run_on_numbers(fixed.model, length)
    if outputs is None or not same_outputs(outputs, expected, tolerance=_ROUNDING_TOLERANCE):
        return TracedGraph(
            flat, True, dict.fromkeys(map(id, candidates), "it returns something else than its code says")
        )
    return traced


def _openable(flat: keras.Model, is_known: _IsKnown) -> Iterator[keras.layers.Layer]:
    """Yield the layers that may be opened, outer ones first: weights of their own would turn into constants."""

    def visit(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
        inner = sublayers(layer)
        if id(layer) in seen or is_of_keras(layer) or is_known(layer) or not inner or own_weights(layer):
            return
        seen.add(id(layer))
        yield layer
        for part in inner:
            yield from visit(part)

    seen: set[int] = set()
    for layer in flat.layers:
        yield from visit(layer)


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights of a layer that none of the layers inside holds."""
    inner = {id(weight) for part in sublayers(layer) for weight in part.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def _name_by_paths(flat: keras.Model, candidates: Iterable[keras.layers.Layer]) -> None:
    """Give the layers inside unique names, those of the layers around them in front."""
    names = {operation.name for operation in flat.operations}
    openable = {id(layer) for layer in candidates}
    named = {id(layer) for layer in flat.layers}
    for layer in [layer for layer in flat.layers if id(layer) in openable]:
        for path, part in list(walk(layer)):
            if id(part) not in named:
                named.add(id(part))
                name = f"{layer.name}_{path.replace('/', '_')}"
                while name in names:
                    name += "_"
                part.name = name
                names.add(name)
    for name in names:  # so that Keras numbers the operations that are traced from there on
        match = re.fullmatch(r"(.+)_(\d+)", name)
        while match and keras.backend.get_uid(match[1]) <= int(match[2]):
            pass


def _traced(flat: keras.Model, candidates: list[keras.layers.Layer], *, inputs: Any) -> TracedGraph:
    """Trace the graph with as many of the layers opened as can be."""
    closed: dict[int, str] = {}
    while True:
        failed = _TraceFailures()
        open_ones = [layer for layer in candidates if id(layer) not in closed]
        if not open_ones:
            return TracedGraph(flat, True, closed)
        try:
            with _inline_calls(open_ones, failed):
                traced = retrace(flat, _call, inputs=inputs)
            traced = flatten(traced)
            _number_operations(traced)
            return TracedGraph(traced, inputs is None, closed)
        except FAILURES as error:
            if not failed:  # what was recorded makes no graph: tensors of another trace, for example
                return TracedGraph(flat, True, closed | dict.fromkeys(map(id, open_ones), describe(error)))
            layer, reason = failed[0]
            closed[id(layer)] = describe(reason)


def _number_operations(traced: keras.Model) -> None:
    """Give operations names that are the same each time the same model is traced."""
    for index, operation in enumerate(traced.operations):
        if not isinstance(operation, keras.layers.Layer):
            operation.name = f"{type(operation).__name__.lower()}_of_call_{index}"


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return layer(*args, **kwargs)


# One call of a layer, opened: what its code calls, on the tensors of that call.


@dataclass(frozen=True, eq=False)
class OpenedCall:
    """The calls that the code of a layer makes.

    Attributes:
        graph: These calls, from the tensors among the arguments of the layer to those that it returns.
        names: By the id of a layer or operation inside: the path of a layer below the opened one, and the name and
            number of an operation.
        returned: What the layer returns, with symbolic tensors.
        is_constant: Whether the calls hold no tensors of the context in which they were traced.
    """

    graph: Graph
    names: dict[int, str]
    returned: Any
    is_constant: bool

    def run(self, tensors: Sequence[Any], call: Callable[..., Any]) -> Any:
        """Make the calls on other tensors.

        Args:
            tensors: The tensors among the arguments, in order, the masks of Keras among them.
            call: Called with the name, the layer or operation, and its arguments.
        """
        values = {id(place): tensor for place, tensor in zip(self.graph.model.inputs, tensors, strict=True)}

        def known(leaf: Any) -> Any:
            return values.get(id(leaf), leaf)

        for each in self.graph.calls:
            args, kwargs = keras.tree.map_structure(known, (each.args, each.kwargs))
            outputs = call(self.names[id(each.layer)], each.layer, *args, **kwargs)
            values |= zip(map(id, each.outputs), keras.tree.flatten(outputs), strict=True)
        returned = {id(old): values[id(new)] for old, new in zip(*self._ends(), strict=True)}
        return keras.tree.map_structure(lambda leaf: returned.get(id(leaf), leaf), self.returned)

    def _ends(self) -> tuple[list[Any], list[Any]]:
        leaves = [leaf for leaf in keras.tree.flatten(self.returned) if isinstance(leaf, keras.KerasTensor)]
        return leaves, self.graph.outputs


def open_call(layer: keras.layers.Layer, arguments: tuple[Any, Any], *, opens: _IsKnown) -> OpenedCall:
    """Run the code of a layer on symbolic tensors of the shapes of its arguments, and of the layers that it calls.

    Args:
        layer: A built layer without weights besides those of the layers inside.
        arguments: Its arguments, and those by name: tensors, symbolic tensors and others.
        opens: Returns True if the code of a layer inside is run, too.

    Raises:
        FAILURES: What its code raises on symbolic tensors.
    """
    inputs: list[keras.KerasTensor] = []

    def symbolic(leaf: Any) -> Any:
        if not is_tensor(leaf):
            return leaf
        inputs.append(keras.Input(batch_shape=leaf.shape, dtype=keras.backend.standardize_dtype(leaf.dtype)))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(symbolic, arguments)
    inner = [part for _, part in walk(layer) if part is not layer and opens(part)]
    with _inline_calls(inner, _TraceFailures()), _stateless_specs(part for _, part in walk(layer)):
        returned = type(layer).call(layer, *args, **kwargs)  # not what may replace it for the time being
        outputs = [leaf for leaf in keras.tree.flatten(returned) if isinstance(leaf, keras.KerasTensor)]
        graph = trace_to_run(keras.Model(inputs, outputs))
    leaves = [leaf for call in graph.calls for leaf in keras.tree.flatten((call.args, call.kwargs))]
    held = [leaf for leaf in [*leaves, *keras.tree.flatten(returned)] if keras.ops.is_tensor(leaf)]
    return OpenedCall(graph, _names_inside(layer, graph), returned, not held)


class _Stateless(keras.Operation):
    """A call of a layer that takes the values of its variables as arguments."""

    def __init__(self, layer: keras.layers.Layer):
        super().__init__()
        self._layer = layer

    def call(self, states: Any, args: Any, kwargs: Any) -> Any:
        return self._layer.stateless_call(*states, *args, **kwargs)[0]

    def spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return symbolic tensors for the outputs, as `compute_output_spec` of the layer does."""
        variables = self._layer.trainable_variables, self._layer.non_trainable_variables
        states = [[keras.KerasTensor(each.shape, each.dtype) for each in some] for some in variables]
        return self.compute_output_spec(states, args, kwargs)


@contextmanager
def _stateless_specs(layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """Let layers whose shapes only their code knows find them without their variables' values within the context.

    While `fit` runs on JAX, Keras takes these values out of the variables.
    """
    kind = keras.layers.Layer
    layers = layers if keras.config.backend() == "jax" else ()
    by_code = [
        layer
        for layer in layers
        if type(layer).compute_output_shape is kind.compute_output_shape
        and type(layer).compute_output_spec is kind.compute_output_spec
    ]
    try:
        for layer in by_code:
            vars(layer)["compute_output_spec"] = _Stateless(layer).spec  # past Keras, which locks a built layer
        yield
    finally:
        for layer in by_code:
            del vars(layer)["compute_output_spec"]


def is_tensor(leaf: Any) -> bool:
    """Return True for a tensor, symbolic or not."""
    return isinstance(leaf, keras.KerasTensor) or keras.ops.is_tensor(leaf)


def _names_inside(layer: keras.layers.Layer, graph: Graph) -> dict[int, str]:
    names = inner_names(layer)
    operations = [call.layer for call in graph.calls if id(call.layer) not in names]
    return names | _numbered((type(each).__name__.lower(), each) for each in operations)


def inner_names(layer: keras.layers.Layer) -> dict[int, str]:
    """Return names of the layers inside of a layer, by their ids: paths, which are the same in each copy of it."""
    named = ((path.split("/"), part) for path, part in walk(layer))
    return _numbered(("/".join(_NUMBER.sub("", step) for step in steps), part) for steps, part in named)


def _numbered(named: Iterable[tuple[str, Any]]) -> dict[int, str]:
    names: dict[int, str] = {}
    taken: Counter[str] = Counter()
    for name, part in named:
        if id(part) not in names:
            names[id(part)] = f"{name}_{taken[name]}" if taken[name] else name
            taken[name] += 1
    return names


_NUMBER = re.compile(r"_\d+$")  # Keras numbers layers in each copy anew
