"""The pruning names of tensorflow-model-optimization (tfmot), for Keras 3: change one import and go on.

    from tfprune import tfmot
    model = tfmot.sparsity.keras.prune_low_magnitude(model)

`tfprune.tfmot` itself is what `tfmot.sparsity.keras` is.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from tfprune.allocation import Weight
from tfprune.masks import check_optimizer, pruned_layers, update_masks
from tfprune.patterns import Pattern
from tfprune.prunable import PrunableLayer, as_numpy, kernels
from tfprune.slots import updates_of
from tfprune.stripping import copy_with, strip
from tfprune.summaries import PruningSummaries
from tfprune.tfmot_policy import PruneForLatencyOnXNNPack, PruningPolicy
from tfprune.tfmot_schedules import ConstantSparsity, PolynomialDecay, PruningSchedule
from tfprune.tfmot_wrapper import PruneLowMagnitude, pattern_of
from tfprune.wrapper import Pruned, holds_pruned

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]

sparsity = types.SimpleNamespace(keras=sys.modules[__name__])  # tfmot.sparsity.keras.prune_low_magnitude


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = ConstantSparsity(0.5, 0),  # noqa: B008  (a frozen value)
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wrap a model, a layer or a list of layers so that small weights become zero while it trains.

    Args:
        to_prune: A built model, of which an uncompiled copy is returned, or a layer or a list of layers, which are
            wrapped as they are. Of a model, what cannot be pruned or is pruned already is left as it is.
        pruning_schedule: How sparse before which batch, and how often masks are updated.
        block_size: Inputs and outputs of the blocks that zeros come in.
        block_pooling_type: What ranks a block, the mean (`"AVG"`) or the largest (`"MAX"`) of its magnitudes.
        pruning_policy: Which layers of a model to prune; None takes all.
        sparsity_m_by_n: m zeros in every n consecutive inputs; the schedule says when, and in how many of the groups.
        **kwargs: Arguments of the wrapper, for a single layer only.

    Returns:
        The wrapped copy, layer or list. A wrapper has its layer's name.

    Raises:
        ValueError: For a model that cannot be copied, is refused by the policy or has nothing to prune, a layer that
            cannot be pruned or is pruned already, or arguments that exclude each other.
        TypeError: For an argument of the wrong type.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> schedule = PolynomialDecay(0.0, 0.75, begin_step=0, end_step=200)
        >>> prune_low_magnitude(model, pruning_schedule=schedule).get_layer("hidden").pruning_schedule == schedule
        True
    """
    pattern = pattern_of(block_size, block_pooling_type, sparsity_m_by_n)

    def wrapped(layer: keras.layers.Layer, **arguments: Any) -> PruneLowMagnitude:
        return PruneLowMagnitude(layer, pattern=pattern, pruning_schedule=pruning_schedule, **arguments)

    def wrapped_if_chosen(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        names = _names_to_prune(layer, pattern)
        if not names or (pruning_policy is not None and not pruning_policy.allow_pruning(layer)):
            return None
        return wrapped(layer, weights=names)

    if isinstance(to_prune, keras.layers.Layer) and not isinstance(to_prune, keras.Model):
        return wrapped(to_prune, **kwargs)
    if kwargs:
        raise ValueError(f"Expected other arguments with a single layer only. Received: {', '.join(kwargs)}")
    if isinstance(to_prune, (list, tuple)):
        return [one if isinstance(one, (Pruned, keras.layers.InputLayer)) else wrapped(one) for one in to_prune]
    if not isinstance(to_prune, keras.Model):
        raise TypeError(f"Expected a Keras model, layer or list of layers. Received: {type(to_prune).__name__}")
    if pruning_policy is not None:
        pruning_policy.ensure_model_supports_pruning(to_prune)
    copy = copy_with(to_prune, wrapped_if_chosen)
    _check_pruned(copy)
    return copy


def _names_to_prune(layer: keras.layers.Layer, pattern: Pattern) -> list[str]:
    """Return the weights of a model's layer that are pruned unasked."""
    if holds_pruned(layer):
        return []
    return [one.path for one in kernels(layer) if one.mixes_inputs and not pattern.refusal(one.matrix_shape)]


def _check_pruned(model: keras.Model) -> None:
    if not holds_pruned(model):
        raise ValueError(
            f"Expected a model with weights that can be pruned. Received: {model.name!r}, of which the policy, the "
            f"pattern and the kinds of its layers leave none. Choose others, or name the weights of your layers with "
            f"tfprune.register_prunable"
        )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Return a plain, uncompiled copy of a model without wrappers, the pruned entries zero.

    Args:
        model: A model that `prune_low_magnitude` returned, or that has layers which it wrapped.

    Raises:
        ValueError, TypeError: As `tfprune.strip` does.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> type(strip_pruning(prune_low_magnitude(model)).layers[0]).__name__
        'Dense'
    """
    return strip(model)


def prune_scope() -> Any:
    """Return a scope to load pruned models in; once this module is imported, they load outside of it too."""
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


class UpdatePruningStep(keras.callbacks.Callback):
    """Update the masks of layers that `prune_low_magnitude` wrapped, each on its own schedule.

    The batch `step` counts optimizer updates, the first is 1, and masks are updated before it. A step 0 of a schedule
    is done with the first batch. With a new optimizer, each layer goes on from its last mask update.

    In a loop of your own, call `set_model(model)` on a model that has an `optimizer`, `on_train_begin()`, and before
    each batch `on_train_batch_begin(batch)`. `fit` gets the sparsity reached in its logs.

    Example:
        >>> model = prune_low_magnitude(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse")
        >>> x = keras.ops.ones((32, 8))
        >>> history = model.fit(x, x[:, :1], callbacks=[UpdatePruningStep()], verbose=0)
        >>> history.history["sparsity"]
        [0.5]
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        every = pruned_layers(self.model)
        self._layers = {path: layer for path, layer in every if isinstance(layer, PruneLowMagnitude)}
        if not self._layers:
            raise ValueError(
                f"Expected layers with a schedule. Received: {self.model.name!r}, which tfprune.wrap made. Use "
                f"tfprune.PruningCallback(schedule), or prune_low_magnitude instead of wrap"
            )
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                f"Expected a model with an optimizer, whose updates are counted. Received: {self.model.name!r}, "
                f"which has none. Set model.optimizer = optimizer first, or compile the model"
            )
        check_optimizer(optimizer)
        count = self._seen = updates_of(optimizer)
        # The last mask update may belong to a batch that is not counted yet; further off, the optimizer is a new one.
        ahead = {path: int(as_numpy(layer.pruning_step)) - count for path, layer in self._layers.items()}
        self._offsets = {path: steps if steps > 1 else 0 for path, steps in ahead.items()}
        self._sparsity: float | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the masks that are due before the next optimizer update."""
        seen, self._seen = self._seen, updates_of(self.model.optimizer) + 1
        shares: dict[str, float] = {}
        for path, layer in self._layers.items():
            first, step = seen + self._offsets[path], self._seen + self._offsets[path]
            sparsity = _due(layer.pruning_schedule, first or -1, step)
            if sparsity is not None:
                layer.pruning_step.assign(step)
                shares.update({f"{path}/{name}": share for name, share in layer.shares(sparsity).items()})
        if shares:
            self._sparsity = update_masks(self.model, 0.0, allocation=lambda *known: _split(shares, *known)).sparsity

    def on_epoch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the sparsity into the logs; the first argument has the name it has in tfmot."""
        if logs is not None and self._sparsity is not None:
            logs["sparsity"] = self._sparsity

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        steps = {path: self._seen + offset for path, offset in self._offsets.items()}
        ends = {path: getattr(layer.pruning_schedule, "end_step", -1) for path, layer in self._layers.items()}
        early = [f"{path} (batch {steps[path]} of {end})" for path, end in ends.items() if end > steps[path]]
        if early:
            warnings.warn(
                f"Training ended before the pruning schedules of these layers did, and their final sparsity is not "
                f"reached: {', '.join(early)}. Train longer, or let the schedules end earlier",
                stacklevel=2,
            )


def _due(schedule: PruningSchedule, previous: int, step: int) -> float | None:
    """Return the sparsity of the last step in (previous, step] at which masks are due, None if there is none."""
    due = (one for one in range(step, previous, -1) if bool(schedule(one)[0]))
    last = next(due, None)
    return None if last is None else float(schedule(last)[1])


def _split(shares: dict[str, float], weights: Sequence[Weight], sparsity: float) -> list[float | None]:
    return [shares.get(weight.path) for weight in weights]
