"""PruningCallback: raise the sparsity on a schedule while `model.fit` runs."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tfprune.allocation import Allocation
from tfprune.base.spec import check_count
from tfprune.keras_models.models.optimizers import check_optimizer, max_updates_per_call, optimizers_of, updates_of
from tfprune.masking.training.check_before_training import (
    NOTICEABLE,
    check_before_training,
    check_rules,
    check_schedule,
    frozen_weights,
)
from tfprune.masking.training.end_of_fit import callbacks_of_fit, ended_early, restored_weights, sparse_too_late
from tfprune.masking.training.grow import Grow, check_grow, grow_at, uses_data
from tfprune.masking.training.learning_rate_watch import LearningRateWatch
from tfprune.masking.training.sparsity_or_budget import MeetsBudget, check_training_budget
from tfprune.masking.training.start_of_fit import came_back, ended_before, schedule_slips, steps_of_fit
from tfprune.masking.training.update_masks import gatherer_of, set_masks
from tfprune.masking.wrapping.pruned_layers import hidden_share, masked_sparsity, waits_for_data, wrappers
from tfprune.schedules import Schedule

_log = logging.getLogger(__name__)


class PruningCallback(keras.callbacks.Callback):
    """Update the masks of a wrapped model during `fit`, on a schedule.

    Pass it to `fit` with a wrapped model. Steps are optimizer updates, counted by `model.optimizer.iterations` (of
    several optimizers, by the one with the most updates), so a resumed or second `fit` continues the count. Masks are
    updated at the schedule's begin, every `every` steps after it, and at its end, where the final sparsity is reached
    exactly. The last update only removes entries, because entries that come back cost accuracy until they are
    trained. The sparsity is in `logs` as `sparsity`, and so in `History`, the progress bar and the callbacks listed
    after this one. If the first batch builds the model, masks are checked and set after it.

    It warns, with the numbers, if the schedule is only a jump, because `every` is too large for its steps or `end` is
    the int 1; if training ends before the schedule does; if the first update brings pruned weights
    back, because the model was sparser than the schedule; if the sparsity rises while the learning rate is below a
    tenth of its peak in this fit, which costs accuracy that training cannot recover (once per fit); if frozen layers
    get no zeros, at the start and at the end; and, after all other callbacks, if one of them brought back or saved as
    the best the weights of an epoch with fewer zeros. Where `EarlyStopping` restores weights, give it
    `start_from_epoch`.

    Args:
        schedule: The sparsity at each step, for example `schedules.Polynomial(0.9, end=5000)`. Give steps as ints, or
            fractions of this fit (its `epochs` times its steps per epoch) as floats.
        every: Steps between mask updates, at least 1. Default 100.
        budget: For channels and heads: what the model may cost when the schedule reaches its final sparsity, such as
            `tfprune.budget(flops=0.5)`. It then decides how much is removed, and the schedule only when. None (the
            default) removes what the schedule says.
        allocation: How the sparsity is split over the weights: `"uniform"` (the default, as in Zhu and Gupta's
            paper), `"erk"`, `"global"`, `"lamp"` (the default of the command line: it keeps more of small layers), a
            function, or a dict. Its keys are regular expressions, searched in the weights' paths. Its values are the
            final sparsity of these weights, which follows the schedule's progress, a schedule of their own, or None,
            which leaves them as they are.
        grow: What replaces the lowest entries at each update, for training that is sparse from the first step:
            `"gradient"` (RigL) adds those with the largest gradient on `data`, `"random"` (SET) any; a `tfprune.Grow`
            says how many, and until when. At step 0 the masks are then drawn at random, unless the model has zeros
            already. None (the default) replaces nothing.
        data: The data for criteria that need evidence, and for `grow="gradient"`, read at each mask update: a tuple
            (x, y) of arrays, a dataset, or a list of batches. A part of the training data is enough.
        loss: The loss for gradients; None takes the loss that the model was compiled with.

    Raises:
        TypeError: If `schedule` is not a schedule.
        TypeError: If `data` is an iterator, which can be read only once.
        ValueError: When training begins, if the model has no pruned layers, or one of their patterns cannot reach the
            final sparsity.
        ValueError: When training begins, if a rule of `allocation` matches no weight, or a fraction is used where the
            number of steps is unknown.
        ValueError: When training begins, if data is needed and missing, or nothing uses the data.
        ValueError: If `grow` comes with a budget, or, when training begins, a pattern cannot grow.

    Example:
        >>> from tfprune import schedules, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse")
        >>> callback = PruningCallback(schedules.Polynomial(0.5, end=0.75), every=2)
        >>> x = keras.ops.ones((32, 8))
        >>> history = model.fit(x, x[:, :1], batch_size=4, callbacks=[callback], verbose=0)
        >>> history.history["sparsity"]
        [0.5]

    Reference:
        Zhu & Gupta, 2017, "To prune, or not to prune", arXiv:1710.01878.
    """

    _rate: LearningRateWatch

    def __init__(
        self,
        schedule: Schedule,
        *,
        every: int = 100,
        budget: MeetsBudget | None = None,
        allocation: str | Mapping[str, float | Schedule | None] | Allocation = "uniform",
        grow: str | Grow | None = None,
        data: Any = None,
        loss: Any = None,
    ) -> None:
        super().__init__()
        check_training_budget(budget, allocation)
        self.grow = check_grow(grow, beside="" if budget is None else f"budget={budget!r}")
        check_rules(allocation)
        self.schedule = check_schedule(schedule, "schedule")
        self.every = check_count(every, "every", least=1)
        self.budget, self.allocation = budget, allocation
        if isinstance(data, Iterator):
            raise TypeError(
                f"Expected `data` that can be read again at each mask update, such as arrays, a dataset or a list "
                f"of batches. Received: an iterator of type {type(data).__name__}."
            )
        self.data, self.loss = data, loss
        self.last_update: tuple[int, Grow | None] | None = None  # the step, and what was replaced
        self._started = False
        self._after_all = keras.callbacks.LambdaCallback(on_train_end=self._warn_at_end)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        for optimizer in optimizers_of(self.model):
            check_optimizer(optimizer)
        for _, layer in wrappers(self.model):
            layer.is_managed = True
        self._started = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._last_epoch = epoch
        if self._started:
            self._rate.next_reading = 0  # callbacks change the rate between epochs
            self._slack = 0.0
            return
        self._epoch, self._first = epoch, self._step()
        if not waits_for_data(self.model):
            self._start()

    def _start(self) -> None:
        """Turn fractions into steps, and do what is due at the step that training starts from."""
        self._gatherer = gatherer_of(self.model, self.data, loss=self.loss, grow=self.grow)
        self._grow = self._resolved(self.grow)
        self._schedule = self._in_steps(self.schedule)
        self._allocation = self.allocation
        if isinstance(self.allocation, Mapping):
            self._allocation = {
                pattern: self._in_steps(value) if isinstance(value, Schedule) else value
                for pattern, value in self.allocation.items()
            }
        check_before_training(self.model, schedule=self._schedule, allocation=self._allocation)
        self._frozen = frozen_weights(self.model, schedule=self._schedule, allocation=self._allocation)
        if self._frozen:
            warnings.warn(self._frozen.at_start(), stacklevel=2)
        self._started = True
        # An interrupted run may have stopped between the optimizer's update and the masks that were due.
        self._previous = self._first - 1
        self._sparsity = self._sparsity_now()
        start = "pruning %r from step %d on, at a sparsity of %.4f, by %r"
        _log.info(start, self.model.name, self._first, self._sparsity, self._schedule)
        self._rate = LearningRateWatch(optimizers_of(self.model)[-1])
        self._most_updates = max_updates_per_call(self.model)
        self._slack = 0.0
        self._has_updated = False
        self._update(self._first)
        end = self._schedule.end
        if end is not None and self._first > end and self._sparsity < self._schedule.target:
            message = ended_before(self._first, end=end, sparsity=self._sparsity, target=self._schedule.target)
            warnings.warn(message, stacklevel=2)

    def _sparsity_now(self) -> float:
        return hidden_share(self.model) if self.grow else masked_sparsity(self.model)

    def _in_steps(self, schedule: Schedule) -> Schedule:
        """Resolve fractions of this fit, and warn if the schedule is a jump."""
        resolved = self._resolved(schedule)
        for message in schedule_slips(schedule, resolved, every=self.every, first=self._first):
            warnings.warn(message, stacklevel=2)
        return resolved

    def _resolved(self, timed: Any) -> Any:
        """Resolve fractions of this fit, the epochs before its first one included."""
        accumulated = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        return steps_of_fit(timed, self.params, first=self._first, epoch=self._epoch, accumulated=accumulated)

    def _step(self) -> int:
        # A model with steps of its own may hold several optimizers, `model.optimizer` unused.
        return max(map(updates_of, optimizers_of(self.model)))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._started:  # the first batch has built the model
            self._start()
        # Reading the optimizer's count shows beside a small training step: not before something may be due.
        self._slack -= self._most_updates
        if self._slack <= 0:
            step, before = self._step(), self._sparsity
            self._update(step)
            self._rate.watch(step, sparsity=self._sparsity, is_raised=self._sparsity > before)
            self._slack = self._next_due(step) - step
        if logs is not None:
            logs["sparsity"] = self._sparsity

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and self._started:
            logs["sparsity"] = self._sparsity

    def _update(self, step: int) -> None:
        previous, self._previous = self._previous, step
        due = self._schedule.last_update(previous, step, self.every)
        sparsity: float | MeetsBudget = 0.0 if due is None else self._schedule(due)
        allocation: Any = self._allocation
        if self.budget is not None and due is not None:
            sparsity = self.budget.at(self._progress(due))
        if isinstance(allocation, Mapping):
            allocation = self._rules(allocation, due, previous, step)
        if due is not None or (isinstance(allocation, Mapping) and any(v is not None for v in allocation.values())):
            before = self._sparsity
            is_last = self._is_last(previous, step)
            grow = self._grow and grow_at(step, self._grow, model=self.model, is_last=is_last)
            data = self._gatherer if uses_data(self.model, grow) else None
            set_masks(self.model, sparsity, allocation=allocation, data=data, regrow=not is_last, grow=grow)
            self._sparsity, self.last_update = self._sparsity_now(), (step, grow)
            _log.debug("step %d: sparsity %.4f", step, self._sparsity)
            if self._sparsity < before - NOTICEABLE and not self._has_updated:
                message = came_back(step, before=before, sparsity=self._sparsity)
                warnings.warn(message, stacklevel=2)
            self._has_updated = True

    def _schedules(self) -> list[Schedule]:
        own = self._allocation.values() if isinstance(self._allocation, Mapping) else ()
        return [self._schedule, *(value for value in own if isinstance(value, Schedule))]

    def _is_last(self, previous: int, step: int) -> bool:
        """Tell whether a schedule has its last mask update in (previous, step]."""
        return any(
            schedule.end is not None and schedule.last_update(previous, step, self.every) == schedule.end
            for schedule in self._schedules()
        )

    def _next_due(self, step: int) -> int:
        """Return the first step after this one at which masks are due, or the learning rate is to be read."""
        points = [schedule.next_update(step, self.every) for schedule in self._schedules()]
        return min([self._rate.next_reading, *(point for point in points if point is not None)])

    def _rules(
        self, allocation: Mapping[str, Any], due: int | None, previous: int, step: int
    ) -> dict[str, float | None]:
        """Return the sparsity of each pattern at this step, None where nothing is due."""
        rules: dict[str, float | None] = {}
        for pattern, value in allocation.items():
            if isinstance(value, Schedule):
                own = value.last_update(previous, step, self.every)
                rules[pattern] = None if own is None else value(own)
            else:
                rules[pattern] = None if due is None or value is None else value * self._progress(due)
        if due is None:
            rules.setdefault("", None)  # matches every path that no pattern before it does
        return rules

    def _progress(self, step: int) -> float:
        target = self._schedule.target
        return min(self._schedule(step) / target, 1.0) if target else 1.0

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._callbacks = callbacks_of_fit(self)
        if not self._callbacks:
            self._warn_at_end()
        elif self._after_all not in self._callbacks:
            self._callbacks.append(self._after_all)  # those listed later may bring other weights back

    def _warn_at_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._started:
            return
        end, step, sparsity, reached = self._schedule.end, self._step(), self._sparsity_now(), self._sparsity
        messages = []
        if self._frozen and (end is None or step >= end or step == self._first):  # none trainable: no steps
            messages.append(self._frozen.at_end(sparsity))
        elif end is not None and step < end:
            messages.append(ended_early(step, end=end, sparsity=sparsity, target=self._schedule.target))
        epoch, callbacks, self._callbacks = self._final_epoch(step), self._callbacks, []
        if sparsity < reached - NOTICEABLE:
            messages.append(restored_weights(callbacks, sparsity=sparsity, reached=reached, epoch=epoch))
        messages += sparse_too_late(callbacks, reached=reached, epoch=epoch)
        for message in messages:
            warnings.warn(message, stacklevel=2)

    def _final_epoch(self, step: int) -> int:
        """Return the first epoch, from 0, at whose end all schedules have ended."""
        end = max(schedule.begin if schedule.end is None else schedule.end for schedule in self._schedules())
        per_epoch = (step - self._first) / (self._last_epoch + 1 - self._epoch)
        return self._epoch + max(math.ceil((end - self._first) / max(per_epoch, 1)) - 1, 0)
