"""FineTuning: how `prune_to` reconstructs and trains the smaller models, in one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.base.spec import check_choice, check_count
from tfprune.compact.fine_tuning.distillation import Distillation, check_distillation
from tfprune.compact.reconstruction.reconstruct import RECONSTRUCTIONS


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How many rounds `prune_to` takes, and how it reconstructs and trains the model in each.

    Pass it as `fine_tuning=` where `epochs` is not enough. Without it, `prune_to` takes the defaults below.

    Args:
        rounds: The number of rounds, at least 1. With more rounds, each removes fewer channels. Default 3; a plan is
            carried out in one round.
        every: Training steps in each round, at least 1, in place of `epochs`. None (the default) trains for `epochs`.
        optimizer: An optimizer, such as `keras.optimizers.SGD(schedule)`, or its name; each round starts with a fresh
            copy. None (the default) takes the optimizer that the model was compiled with; if it has a learning-rate
            schedule, a tenth of the schedule's largest rate replaces it.
        callbacks: Keras callbacks for the training of each round. Epochs are counted over all rounds. The callbacks
            see the metrics of `validation_data`, if there are any. Default ().
        distillation: How the original model teaches the smaller ones, such as `tfprune.Distillation(temperature=4)`.
            None (the default) trains on the labels alone.
        reconstruction: `"sequential"` (the default) or `"parallel"`, as in `reconstruct`; parallel is faster for deep
            models.
        max_samples: How many samples of `data` reconstruction and criteria use, at least 1, rounded up to whole
            batches. Default 512.
        batch_size: Samples in a batch if the data are arrays, at least 1. None (the default) takes 32. A dataset is
            already batched.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, or `reconstruction` is another string.

    Example:
        >>> FineTuning(rounds=5, batch_size=64).max_samples
        512
    """

    rounds: int = 3
    every: int | None = None
    optimizer: str | keras.optimizers.Optimizer | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    distillation: Distillation | None = None
    reconstruction: str = "sequential"
    max_samples: int = 512
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "max_samples"):
            check_count(getattr(self, name), name, least=1)
        for name in ("every", "batch_size"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, least=1)
        if self.optimizer is not None and not isinstance(self.optimizer, (str, keras.optimizers.Optimizer)):
            raise TypeError(
                f"Expected `optimizer` to be a Keras optimizer or its name. Received: optimizer={self.optimizer!r}. "
                f"Pass a learning-rate schedule inside of an optimizer: keras.optimizers.Adam(schedule)."
            )
        object.__setattr__(self, "callbacks", check_callbacks(self.callbacks))
        if self.distillation is not None:
            check_distillation(self.distillation, "distillation")
        check_choice(self.reconstruction, "reconstruction", choices=RECONSTRUCTIONS)


def check_callbacks(callbacks: Any) -> tuple[keras.callbacks.Callback, ...]:
    """Return callbacks as a tuple.

    Raises:
        TypeError: If they are not a list of Keras callbacks.
    """
    is_list = isinstance(callbacks, (list, tuple))
    if not is_list or not all(isinstance(each, keras.callbacks.Callback) for each in callbacks):
        raise TypeError(
            f"Expected `callbacks` to be a list of Keras callbacks. Received: callbacks={callbacks!r:.100}."
        )
    return tuple(callbacks)
