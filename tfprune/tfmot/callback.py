"""The callback of tensorflow-model-optimization: each layer on its own schedule."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from tfprune.allocation import Weight
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import check_optimizer, updates_of
from tfprune.masking.training.update_masks import set_masks
from tfprune.masking.wrapping.pruned_layers import masked_sparsity, pruned_layers, waits_for_data, wrappers
from tfprune.tfmot.schedules import PruningSchedule
from tfprune.tfmot.wrapper import PruneLowMagnitude


class UpdatePruningStep(keras.callbacks.Callback):
    """Update the masks of layers that `prune_low_magnitude` wrapped, each on its own schedule.

    Steps are optimizer updates; the first batch is step 1, and masks are updated before the batch. A schedule that
    begins at step 0 begins with the first batch. With a new optimizer, each layer continues from its last mask
    update. If the first batch builds the model, its mask update is done at the end of that batch.

    In your own training loop, call `set_model(model)` with a model that has an `optimizer`, then `on_train_begin()`,
    and `on_train_batch_begin(batch)` before each batch. In `fit`, the sparsity is added to the logs.

    Example:
        >>> from tfprune.tfmot import prune_low_magnitude
        >>> model = prune_low_magnitude(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse")
        >>> x = keras.ops.ones((32, 8))
        >>> history = model.fit(x, x[:, :1], callbacks=[UpdatePruningStep()], verbose=0)
        >>> history.history["sparsity"]
        [0.5]
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._layers: dict[str, PruneLowMagnitude] = {}
        self._offsets: dict[str, int] = {}
        self._sparsity: float | None = None
        for _, layer in wrappers(self.model):
            layer.is_managed = True
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                f"Expected a model with an optimizer, whose updates are counted. Received: {self.model.name!r}, "
                f"which has none. Set model.optimizer = optimizer first, or compile the model."
            )
        check_optimizer(optimizer)
        self._seen = updates_of(optimizer)
        self._is_waiting = waits_for_data(self.model)
        if not self._is_waiting:
            self._start()

    def _start(self) -> None:
        """Find the layers, and the step from which each continues."""
        self._is_waiting = False
        if not wrappers(self.model):
            warnings.warn(
                f"Nothing will be pruned: model {self.model.name!r} has no pruned layers. Train the model that "
                f"prune_low_magnitude(model) returns.",
                stacklevel=2,
            )
            return
        layers = pruned_layers(self.model)
        self._layers = {path: layer for path, layer in layers if isinstance(layer, PruneLowMagnitude)}
        if not self._layers:
            raise ValueError(
                f"Expected layers with a schedule. Received: {self.model.name!r}, which tfprune.wrap made. Use "
                f"tfprune.PruningCallback(schedule), or prune_low_magnitude instead of wrap."
            )
        # The last mask update may belong to a batch that is not counted yet; further off, the optimizer is a new one.
        ahead = {path: int(as_numpy(layer.pruning_step)) - self._seen for path, layer in self._layers.items()}
        self._offsets = {path: steps if steps > 1 else 0 for path, steps in ahead.items()}

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the masks that are due before the next optimizer update."""
        if not self._is_waiting or not waits_for_data(self.model):
            self._update(updates_of(self.model.optimizer) + 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Do the mask update of the first batch if this batch has built the model."""
        if self._is_waiting:
            self._update(updates_of(self.model.optimizer))

    def _update(self, step: int) -> None:
        if self._is_waiting:
            self._start()
        seen, self._seen = self._seen, step
        shares: dict[str, float] = {}
        is_last = False
        for path, layer in self._layers.items():
            first, now = seen + self._offsets[path], step + self._offsets[path]
            due = _last_due(layer.pruning_schedule, first or -1, now)
            if due is not None:
                is_last |= due == getattr(layer.pruning_schedule, "end_step", None)
                sparsity = float(layer.pruning_schedule(due)[1])
                layer.pruning_step.assign(now)
                shares.update({f"{path}/{name}": share for name, share in layer.shares(sparsity).items()})
        if shares:
            split = functools.partial(_split, shares)
            set_masks(self.model, 0.0, allocation=split, regrow=not is_last)
            self._sparsity = masked_sparsity(self.model)

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
                f"reached: {', '.join(early)}. Train longer, or let the schedules end earlier.",
                stacklevel=2,
            )


def _last_due(schedule: PruningSchedule, previous: int, step: int) -> int | None:
    """Return the last step in (previous, step] at which masks are due, None if there is none."""
    return next((number for number in range(step, previous, -1) if bool(schedule(number)[0])), None)


def _split(shares: dict[str, float], weights: Sequence[Weight], sparsity: float) -> list[float | None]:
    return [shares.get(weight.path) for weight in weights]
