"""Pruned: any Keras layer, its weights read through masks; Clustered, whose weights have few values.

Pruned is the one class that touches Keras' forward pass.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune import patterns
from tfprune.base.arrays import CACHED_VALUES
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, resolve
from tfprune.criteria import CRITERIA, Criterion, UnitScores
from tfprune.models.anatomy import (
    Anatomy,
    Kernel,
    as_numpy,
    kernels,
    placeholder,
    quantized_already,
    recurrent_states,
    rename,
    to_matrix,
    unbuilt,
    walk,
    with_signature_of,
)
from tfprune.models.by_attributes import UNGUARDED
from tfprune.models.in_place import lock
from tfprune.models.twin import TransparentWrapper, config_of
from tfprune.patterns import PATTERNS, Pattern, pattern_of_sizes

# What training may do to a weight under a mask: nothing moves an entry that the mask hides.


def _mask_gradient(weight: Any, mask: Any) -> Any:
    """Return the weight unchanged, with a gradient that is zero wherever the mask is."""

    @ops.custom_gradient
    def identity(value: Any) -> tuple[Any, Callable]:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            received = args[0] if upstream is None else upstream
            return _masked(received, mask)

        return ops.copy(value), gradient

    return identity(ops.copy(weight))  # a tensor: what reads a variable inside cannot have a custom gradient


def _masked(gradient: Any, mask: Any) -> Any:
    """Return the gradient under a mask; of an embedding only the rows that were looked up, as TensorFlow does."""
    if hasattr(gradient, "dense_shape"):
        rows = _masked(gradient.values, ops.take(mask, gradient.indices, axis=0))
        return type(gradient)(rows, gradient.indices, gradient.dense_shape)
    return ops.where(mask, gradient, ops.zeros((), gradient.dtype))


# Their gradient is zero wherever the weight is; another regularizer may move entries that the mask hides.
_ENTRY_BY_ENTRY = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


_MASK = "tfprune_mask"  # where a weight keeps its mask, for other wrappers around layers that hold it, too


def _guard(weight: keras.Variable, mask: keras.Variable) -> None:
    """Mask what Keras does to a weight outside the layer's forward pass: its regularizer and its constraint."""
    setattr(weight, _MASK, mask)
    regularizer, constraint = weight.regularizer, weight.constraint
    setattr(weight, UNGUARDED, (regularizer, constraint))
    if regularizer is not None and not isinstance(regularizer, _ENTRY_BY_ENTRY):
        weight.regularizer = lambda value: regularizer(_mask_gradient(value, mask.value))
    if constraint is not None:  # applied after each step, where a backend may not let it read the mask
        weight.constraint = lambda value: ops.where(ops.equal(value, 0), value, constraint(value))


@ops.custom_gradient
def _pass_gradient(weight: Any, value: Any) -> tuple[Any, Callable]:
    """Return the value; the weight that it replaces gets its gradient."""

    def gradient(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
        received = args[0] if upstream is None else upstream
        return received, ops.zeros_like(received)

    return ops.copy(value), gradient


class _Scope(keras.StatelessScope):
    """A scope that remembers which variables a layer assigns to, and in which weights among them train as outside."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.updated: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Take what a layer assigns to a variable."""
        variable, value = update
        self.updated[id(variable)] = variable
        before = self.get_current_value(variable)
        if variable.trainable and before is not None:
            value = _pass_gradient(before, ops.stop_gradient(value))
        super().add_update((variable, value))

    def add_loss(self, loss: Any) -> None:
        """Take a loss; a loss that an outer scope collects stays the loss of the layer that made it."""
        super().add_loss(loss) if self.original_scope is None else self.original_scope.add_loss(loss)


# Weights under masks: a mask is set, the values that it hides are kept, come back with a later one, and are saved.
#
# Between mask updates a weight itself holds zeros where its mask is 0; what the zeros replaced, the latent values,
# is set aside in a variable of its own, or forgotten if no memory is to be spent on it.

LATENT = ("keep", "zero")


class MaskedWeights(TransparentWrapper):
    """A wrapper whose layer has weights under masks; `pattern` says which masks files may hold."""

    def __init__(self, layer: keras.layers.Layer, *, latent: str, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        check_choice(latent, "latent", choices=LATENT)
        self.latent_values = latent
        self.kernels: dict[str, Kernel] = {}
        self.masks: dict[str, keras.Variable] = {}
        self._latents: dict[str, keras.Variable] = {}
        self._revealed: set[str] = set()

    def add_masks(self, kernels: Mapping[str, Kernel]) -> None:
        """Put weights under masks of ones."""
        self.kernels = dict(kernels)
        for name, kernel in self.kernels.items():
            with _laid_out_as(kernel.variable):
                self._add_mask(name, kernel.variable)
            _guard(kernel.variable, self.masks[name])

    def _add_mask(self, name: str, variable: keras.Variable) -> None:
        flat_name, like = name.replace("/", "_"), {"shape": variable.shape, "trainable": False}
        self.masks[name] = self.add_weight(name=f"{flat_name}_mask", dtype="bool", initializer="ones", **like)
        if self.latent_values == "keep":
            with _on_host():
                latent = self.add_weight(
                    name=f"{flat_name}_latent", dtype=variable.dtype, initializer="zeros", **like
                )
            self._latents[name] = latent

    def trained(self) -> list[str]:
        """Return the names of the weights whose masks may change: a layer, or parts of it, may be frozen."""
        trained = {id(variable) for variable in self.trainable_variables}
        return [name for name, kernel in self.kernels.items() if id(kernel.variable) in trained]

    def latent(self, name: str) -> np.ndarray:
        """Return a weight's values with those that its mask hides, zeros if none are kept, in its own shape."""
        return as_numpy(self._with_latent(name))

    def _with_latent(self, name: str) -> Any:
        value = ops.convert_to_tensor(self.kernels[name].variable)
        if name not in self._latents:
            return value
        # A non-zero entry under a zero of the mask was assigned from outside, and is then the newer value.
        return ops.where(ops.cast(value, "bool"), value, self._latents[name].value)

    def reveal(self, name: str) -> np.ndarray:
        """Store the values that `latent` returns in place of the latent values, until `set_mask` or `conceal`."""
        return as_numpy(self._reveal(name))

    def _reveal(self, name: str) -> keras.Variable:
        # The weight itself is read once and stays as it is: TensorFlow copies an embedding with sparse gradients
        # whenever it is read or assigned.
        if name not in self._latents:
            return self.kernels[name].variable
        if name not in self._revealed:
            with _on_host():
                self._latents[name].assign(self._with_latent(name))
            self._revealed.add(name)
        return self._latents[name]

    def conceal(self, name: str) -> None:
        """Undo `reveal`, if it was called."""
        if name in self._revealed:
            self._set_aside(name, self.masks[name].value)

    def forget(self, name: str) -> None:
        """Discard the values that a weight's mask hides: entries that a later mask shows start at 0."""
        values = self._reveal(name)
        with _on_host() if name in self._latents else nullcontext():
            values.assign(ops.where(self.masks[name].value, values.value, 0.0))

    def _set_aside(self, name: str, keep: Any) -> None:
        """Leave those of the revealed values that a mask hides in the latent variable."""
        latent = self._latents[name]
        with _on_host():
            latent.assign(ops.where(keep, 0.0, latent.value))
        self._revealed.discard(name)

    def set_mask(self, name: str, mask: np.ndarray, *, slots: Iterable[keras.Variable] = ()) -> None:
        """Apply a mask: store the values that it hides, if any are kept, and restore those that it no longer hides.

        Args:
            name: The weight's name, as in `masks`.
            mask: 0/1 or booleans, of the weight's shape.
            slots: Optimizer variables of the weight's shape, whose masked entries become 0.

        Raises:
            ValueError: For an unknown name, or a mask of another shape or with other values.
        """
        if name not in self.masks:
            raise ArgumentError("name", f"a weight among {', '.join(self.masks)}", repr(name))
        shape = tuple(self.masks[name].shape)
        if mask.shape != shape or not (mask.dtype == bool or np.isin(mask, (0, 1)).all()):
            raise ValueError(
                f"Expected a mask of zeros and ones of shape {shape} for {self.name}/{name}. Received: shape "
                f"{mask.shape}, dtype {mask.dtype}."
            )
        keep = ops.convert_to_tensor(mask, dtype="bool")
        variable, revealed = self.kernels[name].variable, self._reveal(name)
        variable.assign(ops.where(keep, revealed.value, 0.0))
        if revealed is not variable:
            self._set_aside(name, keep)
        self.masks[name].assign(keep)
        for slot in slots:
            slot.assign(ops.where(keep, slot.value, 0.0))

    def saved_variables(self) -> dict[str, keras.Variable]:
        """Return the variables that files hold of the wrapper, masks first, by the same names in every copy."""
        names = {path: f"{index}_{path.rpartition('/')[2]}" for index, path in enumerate(self.masks)}
        saved = {f"{names[path]}_mask": mask for path, mask in self.masks.items()}
        return saved | {f"{names[path]}_latent": latent for path, latent in self._latents.items()}

    def save_own_variables(self, store: dict[str, Any]) -> None:
        """Save masks and latent values by name, so that no other layer's weights are taken for them."""
        for name, variable in self.saved_variables().items():
            store[name] = variable

    def load_own_variables(self, store: dict[str, Any]) -> None:
        """Load masks and latent values.

        Raises:
            ValueError: If the file has none for these weights, latent values where none are kept or none where they
                are, or a mask that the pattern does not allow.
        """
        own = self.saved_variables()
        _check_saved(self, store, own)
        for name, variable in own.items():
            variable.assign(store[name])


def count_kept(variable: keras.Variable, mask: keras.Variable | None = None) -> int:
    """Return how many entries of a weight are not zero, nor hidden by a mask."""
    values = as_numpy(variable).reshape(-1)
    shown = None if mask is None else as_numpy(mask).reshape(-1)
    count = 0
    for start in range(0, values.size, CACHED_VALUES):
        is_kept = values[start : start + CACHED_VALUES] != 0
        if shown is not None:
            is_kept &= shown[start : start + CACHED_VALUES]
        count += int(np.count_nonzero(is_kept))
    return count


def _on_host() -> AbstractContextManager:
    """Create variables that only mask updates read in the host's memory, where the backend moves values by itself."""
    return keras.device("cpu:0") if keras.config.backend() == "tensorflow" else nullcontext()


def _laid_out_as(variable: keras.Variable) -> AbstractContextManager:
    """Create variables in the layout of another: a LayoutMap names kernels by paths, which masks do not have."""
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.ModelParallel):
        return nullcontext()  # every variable is whole on every device
    layouts = keras.distribution.LayoutMap(distribution.device_mesh)
    layouts[".*"] = distribution.get_variable_layout(variable)
    batch = distribution.batch_dim_name
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name=batch).scope()


def _check_saved(layer: Any, store: Mapping[str, Any], own: Mapping[str, keras.Variable]) -> None:
    """Refuse a file that has no masks for the weights of a wrapper, or masks that its pattern does not allow."""
    difference = set(own) ^ set(store.keys())
    if difference and all(name.endswith("_latent") for name in difference):
        other = "zero" if layer.latent_values == "keep" else "keep"
        raise ValueError(
            f"Expected a file of layer {layer.name!r} with latent={layer.latent_values!r}. Received: one that was "
            f"saved with latent={other!r}. Wrap the model as it was: tfprune.wrap(model, latent={other!r})."
        )
    if difference:
        raise ValueError(
            f"Expected the masks of layer {layer.name!r}: {', '.join(own) or 'none, as it is not built'}. "
            f"Received a file with {', '.join(store.keys()) or 'nothing'} in their place. Load weights of a "
            f"model that is not wrapped before you wrap it: model.load_weights(path), then tfprune.wrap(model)."
        )
    for (name, mask), stored in zip(layer.masks.items(), own, strict=False):
        values = np.asarray(store[stored])
        if values.shape == mask.shape and not layer.pattern.allows(to_matrix(values, layer.kernels[name])):
            raise ValueError(
                f"Expected a mask of {layer.name}/{name} with zeros as in {layer.pattern!r}. Received a file whose "
                f"mask has them elsewhere. Wrap with the pattern that the file was trained with."
            )


# Pruned: any Keras layer, its weights read through masks. The one class that touches Keras' forward pass.
#
# Between mask updates a weight itself holds zeros where its mask is 0 (`MaskedWeights`), so the optimizer, weight
# decay, checkpoints and averages of weights all see the sparse values. In training only the gradient is masked;
# masking the weight as well would cost a pass over the memory in every step and change nothing. Masks are booleans,
# to select by: a product would have to turn them into floats first, a second pass.

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
        pattern: In which shape zeros may lie: `"unstructured"` or a `Pattern`, such as `patterns.Block(1, 4)`, in
            short `"1x4"`.
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
        self.pattern = resolve(pattern, PATTERNS, Pattern, "pattern", other=pattern_of_sizes)
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
        """Return True if weights to prune are missing that the layer's first call may build."""
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
        return self._read(variable, training) if hasattr(variable, _MASK) else variable.value

    def _read(self, variable: keras.Variable, training: bool | None) -> Any:
        # The value that the mask has now: a gradient is computed after the scope that may hold another value.
        weight, mask = ops.convert_to_tensor(variable), getattr(variable, _MASK).value
        if training:
            return _mask_gradient(weight, mask)
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
        with _Scope(state_mapping=mapping, collect_losses=True) as scope:
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
    """Return True if a layer or model is a wrapper with masks or has one inside."""
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
        raise ArgumentTypeError("layer", "a Keras layer", f"{layer!r} of type {type(layer).__name__}")
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


# Few values for each weight, shared by its entries and trained; zeros stay zeros.

_SEARCH_STEPS = 50  # of k-means at most
_BINS = 512


def _share(weight: Any, centroids: Any) -> Any:
    """Return a weight whose non-zero entries have the value of the nearest centroid.

    A centroid gets the sum of the gradients of its entries (Han et al. 2016, arXiv 1510.00149, section 3); an entry
    gets its own, so that it can move to another centroid.

    Args:
        weight: A tensor.
        centroids: A vector of values.
    """
    ordered = ops.take(centroids, ops.argsort(centroids))
    borders = (ordered[1:] + ordered[:-1]) / 2
    entries = ops.stop_gradient(ops.reshape(weight, (-1,)))
    nearest = ops.searchsorted(ops.stop_gradient(borders), entries)
    values = ops.reshape(ops.take(ordered, nearest), weight.shape)
    moving = values + (weight - ops.stop_gradient(weight))
    return ops.where(ops.equal(weight, 0), ops.zeros_like(weight), moving)


def _starting_centroids(weight: np.ndarray, count: int, *, start: str = "k-means") -> np.ndarray:
    """Return values for the entries of a weight to share; those that it has, if they are few enough.

    Args:
        weight: A weight; its zeros are left out.
        count: How many.
        start: A name among `_STARTS`.

    Example:
        >>> _starting_centroids(np.array([0.0, 1.0, 1.1, -2.0]), 2).tolist()
        [-2.0, 1.05]
    """
    entries = np.sort(weight[weight != 0].astype(np.float64), axis=None)
    if not len(entries):
        return np.linspace(-1, 1, count)
    values = np.unique(entries)
    if len(values) <= count:
        return np.pad(values, (0, count - len(values)), mode="edge")
    return _STARTS[start](entries, count)


def _k_means(entries: np.ndarray, count: int) -> np.ndarray:
    """Return values that leave little squared error: k-means in one dimension.

    It starts from values as dense as the cube root of the density of the entries, which is best where there are
    many (Panter and Dite 1951).
    """
    sums = np.concatenate([[0.0], np.cumsum(entries)])
    density, edges = np.histogram(entries, bins=_BINS)
    mass = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    centroids = np.interp((np.arange(count) + 0.5) / count * mass[-1], mass, edges)
    for _ in range(_SEARCH_STEPS):
        borders = np.searchsorted(entries, (centroids[1:] + centroids[:-1]) / 2)
        ends = np.concatenate([[0], borders, [len(entries)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centroids)
        if np.allclose(moved, centroids, rtol=0, atol=1e-12):
            break
        centroids = np.sort(moved)
    return centroids


def _linear(entries: np.ndarray, count: int) -> np.ndarray:
    return np.linspace(entries[0], entries[-1], count)


def _density(entries: np.ndarray, count: int) -> np.ndarray:
    return np.quantile(entries, (np.arange(count) + 0.5) / count)


def _random(entries: np.ndarray, count: int) -> np.ndarray:
    return ops.convert_to_numpy(keras.random.uniform((count,), float(entries[0]), float(entries[-1])))


# Where values start, from the sorted entries that are not zero and how many values there are to be.
_STARTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "k-means": _k_means,
    "linear": _linear,  # evenly from the smallest to the largest
    "density": _density,  # as many entries around each
    "random": _random,  # anywhere between the smallest and the largest
}


# Clustered: a wrapper whose layer reads weights of few values, which its entries share.


@keras.saving.register_keras_serializable(package="tfprune")
class Clustered(Pruned):
    """Wrap a layer so that the entries of each of its weights share a few trained values; zeros stay zeros.

    Args:
        layer: The layer. It is used as it is, not copied.
        levels: How many values the entries of each weight share, 0 among them; None leaves each its own.
        start: Where the values start: a name among `levels.STARTS`.
        weights: Names of the weights under masks, as in `Pruned`; none by default.
        **kwargs: Arguments of `Pruned`.

    Example:
        >>> layer = Clustered(keras.layers.Dense(3), levels=4)
        >>> layer.build((None, 5))
        >>> layer.centroids["kernel"].shape[0]
        3
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        levels: int | None = None,
        start: str = "k-means",
        weights: Sequence[str] | None = (),
        **kwargs: Any,
    ) -> None:
        self.levels, self.start = levels, start
        super().__init__(layer, weights=weights, **kwargs)
        self._inner_kernels: dict[int, Kernel] | None = None
        self.centroids: dict[str, keras.Variable] = {}
        if layer.built:
            self._add_centroids()

    @classmethod
    def of(cls, layer: keras.layers.Layer, **arguments: Any) -> Clustered:
        """Return such a wrapper around a layer, or in the place of its wrapper, whose masks and values it gets."""
        if not isinstance(layer, Pruned):
            return cls(layer, **arguments)
        shared = {"levels": layer.levels, "start": layer.start} if shares_values(layer) else {}
        return cls(layer.layer, **{**layer.pruning(), **arguments, **shared})

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self._add_centroids()

    def _add_centroids(self) -> None:
        if self.levels is None or self.centroids:
            return
        for kernel in self.inner_kernels.values():
            name = f"{kernel.path.replace('/', '_')}_centroids"
            self.centroids[kernel.path] = self.add_weight(
                name=name, shape=(self.levels - 1,), dtype=kernel.variable.dtype, initializer="zeros"
            )
        self.place_centroids()

    def place_centroids(self) -> None:
        """Put the values that the entries of a weight share where they fit it best."""
        for kernel in self.inner_kernels.values():
            if kernel.path in self.centroids:
                variable = self.centroids[kernel.path]
                values = _starting_centroids(as_numpy(kernel.variable), variable.shape[0], start=self.start)
                variable.assign(values)

    @property
    def inner_kernels(self) -> dict[int, Kernel]:
        """The kernels of the layer, under masks or not, by the id of the variable."""
        if not self.layer.built:
            return {}
        if self._inner_kernels is None:
            self._inner_kernels = {id(kernel.variable): kernel for kernel in kernels(self.layer)}
        return self._inner_kernels

    @property
    def prunes(self) -> bool:
        """Whether weights are under masks, or will be once the layer is built."""
        return self.weight_names != ()

    def choose_kernels(self) -> dict[str, Kernel]:
        """Return the kernels under masks by name; there may be none."""
        return super().choose_kernels() if self.prunes else {}

    def settled(self) -> Iterator[tuple[keras.Variable, Any]]:
        """Yield each weight that has another value without the wrapper, and that value; 8 bits are not part of it."""
        masked = {id(variable): (variable, value) for variable, value in super().settled()}
        for kernel in self.inner_kernels.values():
            if kernel.path in self.centroids:
                _, value = masked.get(id(kernel.variable), (None, ops.convert_to_tensor(kernel.variable)))
                masked[id(kernel.variable)] = kernel.variable, self._shared(value, kernel)
        yield from masked.values()

    def _value(self, variable: keras.Variable, training: bool | None) -> Any:
        value = super()._value(variable, training)
        kernel = self.inner_kernels.get(id(variable))
        return value if kernel is None or kernel.path not in self.centroids else self._shared(value, kernel)

    def _shared(self, weight: Any, kernel: Kernel) -> Any:
        # A tensor: what a backend calls the value of a variable may be a variable.
        return _share(ops.copy(weight), ops.convert_to_tensor(self.centroids[kernel.path]))

    def around(self, layer: keras.layers.Layer, **arguments: Any) -> Pruned:
        """Return such a wrapper, with other arguments where some are given, around a layer."""
        return super().around(layer, **{**self._own(), **arguments})

    def _own(self) -> dict[str, Any]:
        return {"levels": self.levels, "start": self.start}

    def settings(self) -> dict[str, Any]:
        """Return the arguments besides the layer, as a configuration holds them."""
        return {**super().settings(), **self._own()}

    def saved_variables(self) -> dict[str, keras.Variable]:
        """Return the variables that files hold besides the layer's: masks, latent values and shared values."""
        shared = {f"{name.replace('/', '_')}_centroids": variable for name, variable in self.centroids.items()}
        return super().saved_variables() | shared


def shares_values(layer: keras.layers.Layer) -> bool:
    """Return True if the entries of a layer's weights share values."""
    return isinstance(layer, Clustered) and layer.levels is not None


def place_centroids(copy: keras.Model, *, like: keras.Model) -> None:
    """Let the values that entries share start anew in a copy, where the layers of the model copied had none."""
    paths = {path for path, layer in Anatomy.of(like).leaves if shares_values(layer)}
    for path, layer in Anatomy.of(copy).leaves:
        if isinstance(layer, Clustered) and path not in paths:
            layer.place_centroids()
