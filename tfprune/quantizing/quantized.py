"""Quantized: a wrapper whose layer computes as an 8-bit operator does, in floats."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import ops

from tfprune.keras_models.models.anatomy import Anatomy, check_keras
from tfprune.keras_models.models.kernels import Kernel
from tfprune.keras_models.models.layers import as_numpy
from tfprune.quantizing.cells import STEPS, Round, fixed
from tfprune.quantizing.clustered import Clustered
from tfprune.quantizing.fake_quantize import FLAT, fake_quantize, fake_quantize_weight, fake_quantize_whole
from tfprune.quantizing.rules import FIXED, activation_of
from tfprune.quantizing.two_operators import WAYS

DECAY = 0.99  # of the moving average of a range


@keras.saving.register_keras_serializable(package="tfprune")
class Quantized(Clustered):
    """Wrap a layer so that it rounds where the operator of an 8-bit file does: weights and activations.

    Weights are read through their masks, if they have some, and then rounded to the integers -127 to 127 times a
    scale. Activations are rounded to 256 values over a range that is a moving average of what each batch of training
    holds; inference reads it and never changes it. `tfprune.quantize_aware` makes these wrappers.

    Args:
        layer: The layer. It is used as it is, not copied.
        ranges: The names of the tensors that get a range: `input_0` and so on, `activation`, `output`, and those
            within a recurrent layer.
        learns_ranges: Whether training moves the ranges.
        known: Ranges that are fixed for good, low and high by name, as in the copy that is exported.
        **kwargs: Arguments of `Pruned`, of which `weights` names none by default, and `levels`: how many values the
            entries of each weight share, 0 among them; None leaves each its own.

    Example:
        >>> layer = Quantized(keras.layers.Dense(3), ranges=["input_0", "output"])
        >>> layer(keras.ops.ones((1, 4))).shape
        TensorShape([1, 3])
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        ranges: Sequence[str] = (),
        learns_ranges: bool = True,
        known: Mapping[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.range_names, self.learns_ranges = tuple(ranges), learns_ranges
        self.known = None if known is None else {name: tuple(bounds) for name, bounds in known.items()}
        super().__init__(layer, **kwargs)
        self.ranges = {
            name: self.add_weight(
                name=f"{name}_range", shape=(2,), dtype="float32", initializer="zeros", trainable=False,
                aggregation="mean",
            )
            for name in (self.range_names if self.known is None else ())
        }  # fmt: skip

    def _own(self) -> dict[str, Any]:
        own = {"ranges": self.range_names, "learns_ranges": self.learns_ranges, "known": self.known}
        return {**super()._own(), **own}

    def _read_inside(self) -> list[keras.Variable]:
        return [*super()._read_inside(), *self.ranges.values()]

    def _value(self, variable: keras.Variable, training: bool | None) -> Any:
        value = super()._value(variable, training)
        kernel = self.inner_kernels.get(id(variable))
        if kernel is None or self.known is not None:  # of the copy that is exported, the weights are rounded
            return value
        return self.on_grid(ops.copy(value), kernel)  # a tensor: what a backend calls a value may be a variable

    def on_grid(self, weight: Any, kernel: Kernel) -> Any:
        """Return the values of a kernel on the grid of its integers; one for all channels if they share values."""
        if isinstance(self.layer, keras.layers.Embedding):  # whose rows are rounded as its output
            return weight
        return fake_quantize_weight(weight, kernel.axes) if self.levels is None else fake_quantize_whole(weight)

    def rounded(self, name: str, tensor: Any, *, training: bool | None) -> Any:
        """Return a tensor on the grid of its range; training moves the range first."""
        if self.known is not None:
            return fake_quantize(tensor, self.known[name])
        variable = self.ranges[name]
        bounds = ops.convert_to_tensor(variable)
        if training and self.learns_ranges:
            bounds = _moved(bounds, ops.stop_gradient(tensor))
            variable.assign(bounds)
            return fake_quantize(tensor, bounds)
        # Before it has seen data, it computes as the layer does.
        return ops.where(bounds[1] > bounds[0], fake_quantize(tensor, bounds), tensor)

    def known_ranges(self) -> dict[str, tuple[float, float]]:
        """Return the ranges as they are now.

        Raises:
            ValueError: If one has seen no data, or holds no number.
        """
        ranges = {name: tuple(as_numpy(variable).tolist()) for name, variable in self.ranges.items()}
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(
                    f"Expected numbers in the range {name!r} of {self.name!r}. Received: {low} to {high}: a batch "
                    f"held such numbers. Train from an earlier checkpoint, with a lower learning rate."
                )
            if low >= high:
                raise ValueError(
                    f"Expected ranges that have seen data. Received: {name!r} of {self.name!r}, which has seen none. "
                    f"Train the model that tfprune.quantize_aware returned with fit first."
                )
        # Any range holds a tensor of zeros, and one of this width suits the biases behind it.
        return {name: (low, high if high - low > 2 * FLAT else 1.0) for name, (low, high) in ranges.items()}

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        compute = functools.partial(self._compute, functools.partial(self.rounded, training=training))
        return self._through_masks(compute, training, *args, **kwargs)

    def _compute(self, rounded: Round, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [
            rounded(name, tensor) if (name := f"input_{index}") in self.range_names else tensor
            for index, tensor in enumerate(keras.tree.flatten(inputs))
        ]
        with replaced(self.layer, self._replacements(rounded)):
            outputs = self.layer(keras.tree.pack_sequence_as(inputs, tensors), *args, **kwargs)
        activation = activation_of(self.layer)
        if "activation" in self.range_names:
            outputs = rounded("activation", outputs)
        if self.is_split:
            outputs = activated(activation, outputs)
        elif activation in FIXED and "output" not in self.range_names and not self.is_recurrent:
            outputs = fake_quantize(outputs, FIXED[activation])
        return rounded("output", outputs) if "output" in self.range_names else outputs

    @property
    def is_recurrent(self) -> bool:
        """Whether the layer calls a cell, step by step."""
        return isinstance(self.layer, keras.layers.RNN)

    @property
    def is_split(self) -> bool:
        """Whether the activation is more than the end of the layer's operator."""
        return "activation" in self.range_names or activation_of(self.layer) == "silu"

    def _replacements(self, rounded: Round) -> dict[str, Any]:
        """Return the attributes to replace while the layer is called."""
        if self.is_recurrent:
            cell = self.layer.cell
            step = functools.partial(STEPS[type(cell)], cell=cell, rounded=rounded)
            return {"unroll": True, "use_cudnn": False, "cell": {"call": step}}
        replacements: dict[str, Any] = {"activation": keras.activations.linear} if self.is_split else {}
        if {"scaled", "depthwise"} & {*self.range_names}:
            replacements["call"] = functools.partial(WAYS[type(self.layer)], layer=self.layer, rounded=rounded)
        return replacements

    def saved_variables(self) -> dict[str, keras.Variable]:
        """Return the variables that files hold besides the layer's: masks, latent and shared values, and ranges."""
        return super().saved_variables() | {f"{name}_range": variable for name, variable in self.ranges.items()}


def activated(name: str | None, tensor: Any) -> Any:
    """Apply an activation as its operators do."""
    if name in FIXED:
        return fixed(name, tensor)
    if name == "silu":  # a sigmoid and a product
        return tensor * fixed("sigmoid", tensor)
    return getattr(keras.activations, str(name))(tensor)


def _moved(bounds: Any, tensor: Any) -> Any:
    """Return a range after one more batch: the first one's, and then a moving average; 0 lies in it."""
    values = ops.cast(tensor, "float32")
    low, high = ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)
    batch = ops.stack([low, ops.maximum(high, low + FLAT)])
    moved = ops.where(high > low, DECAY * bounds + (1 - DECAY) * batch, bounds)
    return ops.where(bounds[1] - bounds[0] > 2 * FLAT, moved, batch)  # zeros alone say nothing of a range


@contextmanager
def replaced(layer: keras.layers.Layer, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Give a layer other attributes for the time being, a dict to one inside of it."""
    with ExitStack() as stack:
        for name, value in attributes.items():
            if isinstance(value, Mapping):
                stack.enter_context(replaced(getattr(layer, name), value))
            else:
                stack.callback(_put_back(layer, name))
                setattr(layer, name, value)
        yield


def _put_back(layer: keras.layers.Layer, name: str) -> Callable[[], None]:
    if name in vars(layer):
        return functools.partial(setattr, layer, name, getattr(layer, name))
    return functools.partial(delattr, layer, name)


def quantized_layers(model: keras.Model) -> dict[str, Quantized]:
    """Return the wrappers of a model that round, by their paths.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If there are none.
    """
    check_keras(model)
    layers = {path: layer for path, layer in Anatomy.of(model).leaves if isinstance(layer, Quantized)}
    if not layers:
        raise ValueError(
            f"Expected a model that tfprune.quantize_aware returned. Received: {model.name!r}, no layer of which is "
            f"quantized."
        )
    return layers
