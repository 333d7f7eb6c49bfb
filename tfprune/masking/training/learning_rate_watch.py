"""Watch the learning rate of a fit, and warn once where the sparsity rises while the rate is low."""

from __future__ import annotations

import warnings

import keras

from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import inner_optimizers

_TOO_LOW = 0.0999  # of the peak: a network hardly recovers below a tenth, which float32 rates may miss by a bit
_READ_EVERY = 100  # steps; evaluating a LearningRateSchedule can take as long as a small training step


class LearningRateWatch:
    """The learning rate's peak in a fit, the largest of several; warns once when sparsity rises far below it."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.optimizer = optimizer
        self.peak = 0.0
        self.next_reading = 0
        self.has_warned = False

    def watch(self, step: int, *, sparsity: float, is_raised: bool) -> None:
        """Read the rate after a batch if it is time to, or if the sparsity was raised."""
        if not (is_raised or step >= self.next_reading):
            return
        self.next_reading = step + _READ_EVERY
        if self.has_warned:
            return
        rate = max(float(as_numpy(part.learning_rate)) for part in inner_optimizers(self.optimizer))
        self.peak = max(self.peak, rate)
        if is_raised and rate < _TOO_LOW * self.peak:
            self.has_warned = True
            warnings.warn(
                f"The sparsity rose to {sparsity:.4f} at step {step}, where the learning rate is {rate:.3g}, less "
                f"than a tenth of its peak in this fit, {self.peak:.3g}: too low to recover from pruning. End the "
                f"schedule earlier, or lower the learning rate later.",
                stacklevel=2,
            )
