"""Pruned: any Keras layer, its weights read through masks. The one class that touches Keras' forward pass.

Between mask updates a weight itself holds zeros where its mask is 0 (`masked_weights`), so the optimizer, weight
decay, checkpoints and averages of weights all see the sparse values. In training only the gradient is masked; masking
the weight as well would cost a pass over the memory in every step and change nothing. Masks are booleans, to select
by: a product would have to turn them into floats first, a second pass.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from tfprune import patterns
from tfprune.base.spec import resolve
from tfprune.criteria import CRITERIA, Criterion, UnitScores
from tfprune.keras_models.copying.in_place import lock
from tfprune.keras_models.copying.twin import config_of
from tfprune.keras_models.models.calls import placeholder, recurrent_states, unbuilt, with_signature_of
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.keras_models.models.layers import quantized_already, rename, walk
from tfprune.masking.wrapping.masked_gradients import MASK, Scope, mask_gradient
from tfprune.masking.wrapping.masked_weights import MaskedWeights
from tfprune.patterns import PATTERNS, Pattern

for _spec in (*CRITERIA.values(), UnitScores, *PATTERNS.values(), patterns.Block, patterns.NM):
    keras.saving.register_keras_serializable(package="tfprune")(_spec)


@keras.saving.register_keras_serializable(package="tfprune")
class Pruned(MaskedWeights):
    """Wrap a layer so that its weights are pruned by masks.

    The wrapper has the layer's name, and forward pass and gradient see weight * mask. All masks are ones at first;
    `PruningCallback` and `tfprune.update_masks` change them. Attributes and methods of the layer are found on the
    wrapper, and see masked weights too; to set an attribute, set it on `wrapper.layer`.

    Args:
        layer: The layer, built or not. It is used as it is, not copied.
        weights: Names of the weights to prune, as in `masks`; None takes every kernel that mixes inputs, which
            leaves out depthwise ones.
        criterion: How important an entry is: a name among `criteria.CRITERIA`, or a `Criterion`.
        pattern: In which shape zeros may lie: `"unstructured"` or a `Pattern`, such as `patterns.Block(1, 4)`.
        latent: What becomes of the values that a mask hides: `"keep"` or `"zero"`, as in `tfprune.wrap`.
        **kwargs: Arguments of `keras.layers.Layer`. By default name, variable dtype and `trainable` are the layer's;
            it casts inputs and weights to its compute dtype itself.

    Raises:
        TypeError: If `layer` is not a layer.
        ValueError: If it is a model or wrapped already, has no such weight, or a weight cannot take the pattern.

    Example:
        >>> layer = Pruned(keras.layers.Dense(3))
        >>> layer(keras.ops.ones((1, 4))).shape
        TensorShape([1, 3])
        >>> layer.masks["kernel"].shape
        TensorShape([4, 3])
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        weights: Sequence[str] | None = None,
        criterion: str | Criterion = "magnitude",
        pattern: str | Pattern = "unstructured",
        latent: str = "keep",
        **kwargs: Any,
    ) -> None:
        _check_layer(layer)
        self.call = with_signature_of(layer, self.call)  # type: ignore[method-assign]
        # Without a compute dtype of its own the wrapper hands full precision on, for each part to cast as it needs.
        defaults = {"name": layer.name, "dtype": layer.variable_dtype, "trainable": layer.trainable}
        super().__init__(layer, latent=latent, **{**defaults, **kwargs})
        self.autocast = False
        self.criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
        self.pattern = resolve(pattern, PATTERNS, Pattern, "pattern")
        self.weight_names = None if weights is None else tuple(weights)
        self.is_managed = False  # whether a callback or a loop sets the masks; `PruneLowMagnitude` trains only then
        self._has_masks = False
        self._names: list[str] | None = None  # of the layers inside, where they were given by a configuration
        if layer.built and not self._waits():
            self.choose_kernels()  # refuses what the layer cannot do, at once

    @property
    def prunes(self) -> bool:
        """Whether it is there for masks; a kind of wrapper may be there for something else."""
        return True

    def _waits(self) -> bool:
        """Tell whether weights to prune are missing that the layer's first call may build."""
        if not unbuilt(self.layer):
            return False
        offered = {kernel.path for kernel in kernels(self.layer)}
        return not offered or not offered.issuperset(self.weight_names or ())

    def choose_kernels(self) -> dict[str, Kernel]:
        """Return the kernels to prune by name; a ValueError says what cannot be."""
        if self._names is not None:
            rename(self.layer, self._names)
        return _kernels_to_prune(self.layer, self.weight_names, pattern=self.pattern)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._has_masks:
            self.built = False  # Keras sets it when it revives a layer, though parts may still be missing
        # By a symbolic call: Keras hands `build` the shape of one input only, and parts may be built in the call.
        if not self.built and unbuilt(self.layer):
            placeholders = keras.tree.map_structure(placeholder, (args, kwargs))
            self.layer(*placeholders[0], **placeholders[1])
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
        self._add_masks()

    def build_from_config(self, config: dict[str, Any]) -> None:
        if not self.layer.built:
            self.layer.build_from_config(config)
        if not self._waits():
            self.build()

    def _add_masks(self) -> None:
        self.add_masks(self.choose_kernels())
        self.weight_names = tuple(self.kernels)  # so that a file tells which weights it has masks for
        self._has_masks = True
        lock(self.layer)

    def _read_inside(self) -> list[keras.Variable]:
        """Return the variables that are read while the layer is called."""
        return [*self.layer.variables, *recurrent_states(self.layer)]

    def _value(self, variable: keras.Variable, training: bool | None) -> Any:
        """Return the value of a variable as the layer reads it."""
        return self._read(variable, training) if hasattr(variable, MASK) else variable.value

    def _read(self, variable: keras.Variable, training: bool | None) -> Any:
        # The value that the mask has now: a gradient is computed after the scope that may hold another value.
        weight, mask = ops.convert_to_tensor(variable), getattr(variable, MASK).value
        if training:
            return mask_gradient(weight, mask)
        return ops.where(mask, weight, ops.zeros((), weight.dtype))

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        return self._through_masks(self.layer, training, *args, **kwargs)

    def settled(self) -> Iterator[tuple[keras.Variable, Any]]:
        """Yield each weight that has another value without the wrapper, and that value."""
        for name, kernel in self.kernels.items():
            mask = ops.cast(self.masks[name], kernel.variable.dtype)
            yield kernel.variable, ops.multiply(kernel.variable, mask)

    def pruning(self) -> dict[str, Any]:
        """Return the arguments that say how it is pruned."""
        own = {"criterion": self.criterion, "pattern": self.pattern, "weights": self.weight_names}
        return {**own, "latent": self.latent_values}

    def around(self, layer: keras.layers.Layer, **arguments: Any) -> Pruned:
        """Return such a wrapper, with other arguments where some are given, around a layer."""
        return type(self)(layer, **{**self.pruning(), **arguments})

    def _through_masks(self, function: Callable, training: bool | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, or a method of it, where it reads its weights through the masks."""
        # Every variable enters the scope: where the trainer runs in one, a nested scope would read stale values.
        mapping = [(variable, self._value(variable, training)) for variable in self._read_inside()]
        with Scope(state_mapping=mapping, collect_losses=True) as scope:
            outputs = function(*args, **kwargs)
        for variable in scope.updated.values():
            variable.assign(scope.get_current_value(variable))
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def __getattr__(self, name: str) -> Any:
        """Look an attribute up in the layer: a pruned weight comes masked, and a method reads it so."""
        try:
            return super().__getattr__(name)  # PyTorch's modules keep their layers there
        except AttributeError:
            if name == "layer" or name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None
        is_property = isinstance(inspect.getattr_static(type(self.layer), name, None), property)
        read = functools.partial(self._through_masks, getattr, True) if is_property else getattr
        value = read(self.layer, name)
        if any(kernel.variable is value for kernel in self.kernels.values()):
            return self._value(value, training=True)
        return functools.partial(self._through_masks, value, True) if inspect.ismethod(value) else value

    def settings(self) -> dict[str, Any]:
        """Return the arguments besides the layer, as a configuration holds them."""
        return {name: keras.saving.serialize_keras_object(value) for name, value in self.pruning().items()}

    def get_config(self) -> dict[str, Any]:
        names = [part.name for _, part in walk(self.layer)]  # Keras numbers them anew in each copy
        return {**super().get_config(), "layer": config_of(self.layer), "names": names, **self.settings()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Pruned:
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("layer", "criterion", "pattern", "dtype")
        }
        names = config.get("names")
        if names and not unbuilt(parts["layer"]):
            rename(parts["layer"], names)
        pruned = cls(**{**{name: value for name, value in config.items() if name != "names"}, **parts})
        pruned._names = names
        return pruned


def holds_pruned(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer or model is a wrapper with masks or has one inside."""
    return any(isinstance(part, Pruned) and part.prunes for _, part in walk(layer, stop=Pruned))


def check_without_masks(model: keras.Model) -> None:
    """Refuse a model with masks.

    Raises:
        ValueError: If it is wrapped.
    """
    if holds_pruned(model):
        raise ValueError(
            f"Expected a model without masks. Received: {model.name!r}, which is wrapped. Strip it first."
        )


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(f"Expected a Keras layer. Received: layer={layer!r} of type {type(layer).__name__}.")
    if isinstance(layer, keras.Model):
        raise ValueError(f"Expected a layer. Received: the model {layer.name!r}; tfprune.wrap takes models.")
    if any(isinstance(part, Pruned) for _, part in walk(layer)):
        raise ValueError(
            f"Expected a layer that is not pruned yet. Received: layer {layer.name!r}, which is wrapped already or "
            f"has a wrapper inside. Use the wrapper that there is, or wrap the plain layer, `wrapper.layer`."
        )


def _kernels_to_prune(
    layer: keras.layers.Layer, names: Sequence[str] | None, *, pattern: Pattern
) -> dict[str, Kernel]:
    """Return the kernels of a layer to prune, by name.

    Args:
        layer: A built layer.
        names: Names of its weights; None takes every kernel that mixes inputs.
        pattern: What each of them has to take.

    Raises:
        ValueError: If there are none, the layer has no such weight, or one cannot take the pattern.
    """
    offered = {kernel.path: kernel for kernel in kernels(layer)}
    if names is None:
        names = [name for name, kernel in offered.items() if kernel.mixes_inputs]
    unknown = [name for name in names if name not in offered]
    if unknown or not names:
        missing = ", ".join(unbuilt(layer))
        raise ValueError(
            f"Expected weights of layer {layer.name!r} ({type(layer).__name__}) that can be pruned. "
            f"Received: {', '.join(unknown) or 'none'}; the layer offers {', '.join(offered) or 'none'}. "
            + (f"Not built yet: {missing}; call the layer on data first. " if missing else "")
            + (
                quantized_already(layer)
                or f"tfprune.register_prunable({type(layer).__name__}, ...) names the weights of a custom layer."
            )
        )
    kernels_by_name = {name: offered[name] for name in names}
    for name, kernel in kernels_by_name.items():
        refusal = pattern.refusal(kernel.matrix_shape)
        if refusal:
            raise ValueError(f"Weight {layer.name}/{name} cannot take the pattern: {refusal}.")
    return kernels_by_name
