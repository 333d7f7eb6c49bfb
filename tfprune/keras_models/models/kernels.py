"""Which weights of a layer can be pruned, and how each is seen as a matrix of outputs by inputs.

The axes of a weight are written as one letter per dimension, as in `axes`: `hwio` is the kernel of a 2D convolution.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import INPUT, matrix_axes
from tfprune.keras_models.models.layers import is_of_keras, join_path, sublayers, walk
from tfprune.keras_models.models.register_prunable import axes_rule
from tfprune.patterns import Pattern


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
        """Tell whether it can take a pattern; as long as it has no shape, nothing speaks against it."""
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
    rule = axes_rule(layer)
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
    """Tell whether the name of a weight says that inputs are multiplied by it, along its last two axes."""
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
        letters = (axes_rule(layer) or {}).get(name)
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
    rule = axes_rule(layer)
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
