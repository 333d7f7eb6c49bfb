"""Which weights of a layer can be pruned, and how each is seen as a matrix of outputs by inputs.

The axes of a weight are written with one letter per dimension: `o` for outputs, `i` for inputs, `c` for channels
that are both (a depthwise kernel), any other letter for a kernel position. `hwio` is a convolution's kernel.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

Axes = str | Callable[[keras.layers.Layer], str]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A weight that can be pruned.

    Attributes:
        path: Its place below the layer it was looked for in: `kernel`, or `block_1/conv/kernel` in a model.
        variable: The Keras variable.
        axes: One letter per dimension.
    """

    path: str
    variable: keras.Variable
    axes: str

    @property
    def mixes_inputs(self) -> bool:
        """Whether it has an input axis. One without (depthwise) is small and is pruned only when asked for."""
        return "i" in self.axes

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix view: (outputs, inputs), or (outputs, positions, inputs)."""
        groups = _groups(self.axes)
        sizes = [math.prod(self.variable.shape[axis] for axis in group) for group in groups]
        return tuple(sizes) if groups[1] else (sizes[0], sizes[2])


class PrunableLayer(abc.ABC):
    """A layer that says itself which of its weights are pruned: any whose class has the method, as with tfmot.

    Weights have inputs and outputs along their last two axes; a vector, such as a bias, counts as one row of inputs.
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Return the weights to prune, once the layer is built."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return hasattr(other, "get_prunable_weights") if cls is PrunableLayer else NotImplemented


def as_numpy(variable: keras.Variable) -> np.ndarray:
    """Return a variable's value, with one copy at most; do not write to it."""
    return np.asarray(keras.ops.stop_gradient(keras.ops.convert_to_tensor(variable)))


def _groups(axes: str) -> tuple[list[int], list[int], list[int]]:
    """Return the dimensions that are outputs, kernel positions and inputs."""
    outputs = [axis for axis, letter in enumerate(axes) if letter in "oc"]
    inputs = [axis for axis, letter in enumerate(axes) if letter == "i"]
    positions = [axis for axis in range(len(axes)) if axis not in outputs + inputs]
    return outputs, positions, inputs


def to_matrix(array: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return the matrix view of an array of the kernel's shape, without a copy where NumPy can."""
    return array.transpose([axis for group in _groups(kernel.axes) for axis in group]).reshape(kernel.matrix_shape)


def from_matrix(matrix: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Undo `to_matrix`."""
    order = [axis for group in _groups(kernel.axes) for axis in group]
    shape = [kernel.variable.shape[axis] for axis in order]
    return matrix.reshape(shape).transpose(np.argsort(order))


def _einsum_axes(layer: keras.layers.EinsumDense) -> str:
    """Read the axes off the equation: what the kernel shares with the input and the output lacks is an input."""
    inputs, rest = layer.equation.replace("...", "").split(",")
    kernel, outputs = rest.split("->")
    return "".join("i" if letter in inputs and letter not in outputs else "o" for letter in kernel)


_RECURRENT: dict[str, Axes] = {"kernel": "io", "recurrent_kernel": "io"}

_REGISTRY: dict[type, dict[str, Axes]] = {
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


def register_prunable(layer_class: type[keras.layers.Layer], **axes: Axes) -> None:
    """Say which weights of a layer class, and of its subclasses, can be pruned.

    Args:
        layer_class: A subclass of `keras.layers.Layer`.
        **axes: For each weight, by the name it was given in `add_weight`, one letter per dimension: `o` output,
            `i` input, `c` a channel that is both, any other letter a kernel position. A function from the layer
            to such letters serves weights whose form depends on the layer's arguments. Only the weights named
            here are pruned.

    Raises:
        TypeError: If `layer_class` is no layer class, or an axis is neither text nor a function.
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
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}")
    if not axes:
        raise ValueError(
            f"Expected the axes of at least one weight, such as "
            f'register_prunable({layer_class.__name__}, kernel="io"). Received none'
        )
    for name, letters in axes.items():
        if not isinstance(letters, str) and not callable(letters):
            raise TypeError(f"Expected axes as text, such as 'hwio', or a function. Received: {name}={letters!r}")
        if isinstance(letters, str) and not set(letters) & {"o", "c"}:
            raise ValueError(f"Expected an output axis `o` among the letters. Received: {name}={letters!r}")
    _REGISTRY[layer_class] = dict(axes)


def _rule(layer: keras.layers.Layer) -> dict[str, Axes] | None:
    """Return the entry of the closest registered class."""
    return next((_REGISTRY[cls] for cls in type(layer).__mro__ if cls in _REGISTRY), None)


def is_registered(layer: keras.layers.Layer) -> bool:
    """Tell whether the layer's class, or one it derives from, says which of its weights can be pruned."""
    return _rule(layer) is not None


def _own_kernels(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.Variable, str]]:
    """Yield name, variable and axes of what this layer itself offers, its sublayers aside."""
    if isinstance(layer, PrunableLayer):
        yield from _asked_for(layer)
        return
    rule = _rule(layer)
    inner = {id(variable) for child in sublayers(layer) for variable in child.weights}
    own = {id(variable) for variable in layer.weights} - inner
    own_names = {variable.name for variable in layer.weights if id(variable) in own}
    for variable in layer.weights:
        is_own, rank = id(variable) in own, len(variable.shape)
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        if rule is None:
            if is_own and variable.name == "kernel" and rank >= 2:
                yield "kernel", variable, "p" * (rank - 2) + "io"
        # A recurrent layer's weights are its cell's; of a layer that has its own, a sublayer's are the sublayer's.
        elif variable.name in rule and (is_own or variable.name not in own_names):
            letters = rule[variable.name]
            axes = letters if isinstance(letters, str) else letters(layer)
            _check_rank(layer, variable, axes)
            yield variable.name, variable, axes


def _asked_for(layer: Any) -> Iterator[tuple[str, keras.Variable, str]]:
    if not layer.built:
        return
    places = ((path, one) for path, part in walk(layer) for one in part.weights)  # the innermost layer comes last
    names = {id(one): f"{path}/{one.name}" if path else one.name for path, one in places}
    for variable in layer.get_prunable_weights():
        if id(variable) not in names:
            raise ValueError(
                f"Expected get_prunable_weights to return weights of layer {layer.name!r} ({type(layer).__name__}). "
                f"Received: an object of type {type(variable).__name__} that is none of its weights"
            )
        name, rank = names[id(variable)], len(variable.shape)
        letters = (_rule(layer) or {}).get(name)
        known = letters(layer) if callable(letters) else letters
        yield name, variable, known or ("p" * (rank - 2) + "io" if rank > 1 else "i")


def _check_rank(layer: keras.layers.Layer, variable: keras.Variable, axes: str) -> None:
    if not isinstance(axes, str) or len(axes) != len(variable.shape):
        raise ValueError(
            f"Expected one axis letter per dimension of {variable.path} of shape {tuple(variable.shape)}. Received: "
            f"{variable.name}={axes!r} registered for {type(layer).__name__}"
        )


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a layer holds: a model's own list, else its attributes, lists and dicts included."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    return list(_layers_in(attributes(layer).values()))


def attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return what a layer holds, by name."""
    held = dict(vars(layer))
    if hasattr(layer, "named_children"):  # as a module of PyTorch, which keeps the layers in it apart
        held |= {name: child for name, child in layer.named_children() if isinstance(child, keras.layers.Layer)}
    return held


def _layers_in(values: Iterable[Any]) -> Iterator[keras.layers.Layer]:
    for value in values:
        if isinstance(value, keras.layers.Layer):
            yield value
        elif isinstance(value, dict):
            yield from _layers_in(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _layers_in(value)


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
            yield from visit(f"{path}/{child.name}" if path else child.name, child)

    yield from visit("", root)


def rename(root: keras.layers.Layer, names: Iterable[str]) -> None:
    """Give the layers of `walk(root)` other names, those of the layer that it is a copy of."""
    for (_, layer), name in zip(list(walk(root)), names, strict=False):
        layer.name = name


def kernels(root: keras.layers.Layer) -> list[Kernel]:
    """Return every prunable weight of a layer or model, each once, with its path below it.

    Raises:
        ValueError: If two weights have the same path, or registered axes do not fit a weight.
    """
    found: dict[int, Kernel] = {}
    for path, layer in walk(root, stop=PrunableLayer):
        for name, variable, axes in _own_kernels(layer):
            place = f"{path}/{name}" if path else name
            found.setdefault(id(variable), Kernel(place, variable, axes))
    counts = Counter(kernel.path for kernel in found.values())
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"Expected layers to have different names. Received two weights called {', '.join(twice)} in "
            f"{root.name!r}. Give each layer a name of its own"
        )
    return list(found.values())
