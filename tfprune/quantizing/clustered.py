"""Clustered: a wrapper whose layer reads weights of few values, which its entries share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.quantizing.levels import share, starting_centroids


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
                values = starting_centroids(as_numpy(kernel.variable), variable.shape[0], start=self.start)
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
        return share(ops.copy(weight), ops.convert_to_tensor(self.centroids[kernel.path]))

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
    """Tell whether the entries of a layer's weights share values."""
    return isinstance(layer, Clustered) and layer.levels is not None


def place_centroids(copy: keras.Model, *, like: keras.Model) -> None:
    """Let the values that entries share start anew in a copy, where the layers of the model copied had none."""
    paths = {path for path, layer in Anatomy.of(like).leaves if shares_values(layer)}
    for path, layer in Anatomy.of(copy).leaves:
        if isinstance(layer, Clustered) and path not in paths:
            layer.place_centroids()
