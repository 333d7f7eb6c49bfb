"""Kernels: which weights of a layer can be pruned, each as a matrix of outputs by inputs, and which a user chose."""

from __future__ import annotations

import abc
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import CHANNEL, INPUT, OUTPUT, matrix_axes, parse_equation
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_regex
from tfprune.models.anatomy import is_of_keras, join_path, quantized_already, sublayers, walk
from tfprune.patterns import Pattern

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


# What `filters` means: which weights of a model are meant.

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
