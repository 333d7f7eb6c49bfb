"""Weights under masks: a mask is set, the values that it hides are kept, come back with a later one, and are saved.

Between mask updates a weight itself holds zeros where its mask is 0; what the zeros replaced, the latent values, is
set aside in a variable of its own, or forgotten if no memory is to be spent on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.spec import check_choice
from tfprune.base.top_k import CACHED_VALUES
from tfprune.keras_models.copying.twin import TransparentWrapper
from tfprune.keras_models.models.kernels import Kernel, to_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.masked_gradients import guard

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
            guard(kernel.variable, self.masks[name])

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
            raise ValueError(f"Expected a weight among {', '.join(self.masks)}. Received: name={name!r}.")
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
