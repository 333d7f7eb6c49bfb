"""PruningCallback: raise the sparsity on a schedule while `model.fit` runs; its checks, and what training costs."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Allocation, Weight, allocate, check_allocation
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_sparsity
from tfprune.masking.grow import GRADIENT, Grow, check_grow, grow_at, uses_data
from tfprune.masking.pruned import Pruned, count_kept
from tfprune.masking.strip import hidden_share, masked_sparsity, pruned_layers, waits_for_data, wrappers
from tfprune.masking.update_masks import MeetsBudget, check_training_budget, coupled_groups, gatherer_of, set_masks
from tfprune.models.anatomy import Kernel, as_numpy, kind_of, uses
from tfprune.models.graph import functional, retrace
from tfprune.models.training import check_optimizer, inner_optimizers, max_updates_per_call, optimizers_of, updates_of
from tfprune.patterns import Pattern
from tfprune.schedules import Schedule

# Refuse before training starts what a mask update would refuse in the middle of it, and find frozen weights.

_WITHOUT_SCORES = ("uniform", "erk")  # other allocations split by scores, which training changes
_NOTICEABLE = 1e-4  # fraction of zeros; among millions of random weights some are zero by chance


def _check_before_training(model: keras.layers.Layer, *, schedule: Schedule, allocation: Any) -> None:
    """Refuse a schedule whose end the patterns of a model cannot reach, and rules that match none of its weights.

    Args:
        model: A model with `Pruned` layers; frozen layers count, because they may be trained later.
        schedule: The schedule, in steps.
        allocation: As in `PruningCallback`, with the steps of its schedules as ints.

    Raises:
        ValueError: If a pattern cannot reach the sparsity of its weight, or a rule matches no weight.
    """
    target = check_sparsity(schedule.target, "schedule.target")
    if not isinstance(allocation, Mapping) and allocation not in (*_WITHOUT_SCORES, "flops"):
        return
    weights, patterns = _weights(model)
    if allocation == "flops":
        allocate(weights, target, allocation)  # refuses weights whose multiplications are not known
        return
    for weight, share in zip(weights, allocate(weights, target, _at_the_end(allocation)), strict=True):
        try:
            if share is not None and weight.path in patterns:
                patterns[weight.path].check(share)
        except ValueError as error:
            raise ValueError(f"{weight.path} cannot be pruned as far as {schedule!r} asks. {error}") from error


def _check_schedule(value: Any, argument: str) -> Schedule:
    """Return `value`, a schedule that has a window.

    Raises:
        TypeError: If it is not a schedule, or lacks `begin` or `end`.
    """
    if not isinstance(value, Schedule):
        advice = ""
        if isinstance(value, type) and issubclass(value, Schedule):
            advice = f"Did you mean {value.__name__}(...)?"
        elif hasattr(value, "_should_prune_in_step"):  # which each schedule of tfmot inherits
            advice = "Pass UpdatePruningStep() instead, if prune_low_magnitude wrapped the layers with a schedule."
        expected = "a schedule, such as tfprune.schedules.Polynomial(0.9, end=1000)"
        raise ArgumentTypeError(argument, expected, f"{value!r} of type {type(value).__name__}", advice=advice)
    missing = [name for name in ("begin", "end") if not hasattr(value, name)]
    if missing:
        raise ArgumentTypeError(
            argument,
            "a schedule with the fields `begin` and `end`",
            found=f"{argument}, a {type(value).__name__} without {' and '.join(missing)}",
            advice="Make the class a frozen dataclass that has them.",
        )
    return value


def _check_rules(allocation: Any) -> None:
    """Refuse everything but an allocation whose rules are sparsities, schedules or None.

    Raises:
        TypeError, ValueError: If it is not an allocation, or a rule is something else.
    """
    check_allocation(allocation)
    for pattern, value in allocation.items() if isinstance(allocation, Mapping) else ():
        if isinstance(value, Schedule):
            _check_schedule(value, f"allocation[{pattern!r}]")
        elif value is not None:
            check_sparsity(value, f"allocation[{pattern!r}]")


def _at_the_end(allocation: Any) -> Any:
    """Return an allocation with the targets of its schedules in their place."""
    if not isinstance(allocation, Mapping):
        return allocation
    return {path: rule.target if isinstance(rule, Schedule) else rule for path, rule in allocation.items()}


@dataclass(frozen=True)
class _FrozenWeights:
    """Weights under masks that a fit cannot prune, because they are frozen.

    Attributes:
        paths: Those that have fewer zeros than the schedule ends with.
        count: How many weights are under masks, these included.
        reach: The sparsity that the model can reach, in [0, 1); None where channels go together.
        target: The sparsity that it would end with if nothing were frozen; None likewise.
    """

    paths: tuple[str, ...]
    count: int
    reach: float | None
    target: float | None

    def at_start(self) -> str:
        """Return the warning before training."""
        reach = "Their channels stay" if self.reach is None else f"This fit can reach a sparsity of {self.reach:.4f}"
        instead = "" if self.target is None else f" instead of {self.target:.4f}"
        return (
            f"Frozen layers get no zeros: {self._listed()}. {reach}{instead}. To prune them, set trainable=True on "
            f"their layers and compile again; or leave them out by `filters` of tfprune.wrap."
        )

    def at_end(self, sparsity: float) -> str:
        """Return the warning after training, with the sparsity that the model has then."""
        instead = "" if self.target is None else f" instead of {self.target:.4f}"
        return (
            f"Training ended at a sparsity of {sparsity:.4f}{instead}, because frozen layers got no zeros: "
            f"{self._listed()}."
        )

    def _listed(self) -> str:
        listed = ", ".join(self.paths[:5]) + (", ..." if len(self.paths) > 5 else "")
        return f"{listed} ({len(self.paths)} of {self.count} weights under masks)"


def _frozen_weights(model: keras.layers.Layer, *, schedule: Schedule, allocation: Any) -> _FrozenWeights | None:
    """Return the frozen weights that a schedule would give more zeros; None if there are none.

    Args:
        model: As in `_check_before_training`, as are the others.
        schedule: The schedule.
        allocation: The allocation.
    """
    layers = wrappers(model)
    kernels = {f"{path}/{name}": (layer, name) for path, layer in layers for name in layer.kernels}
    frozen = {path for path, (layer, name) in kernels.items() if name not in layer.trained()}
    if not frozen:
        return None
    weights = [
        Weight(path, tuple(layer.kernels[name].variable.shape), functools.partial(_no_scores, layer, name))
        for path, (layer, name) in kernels.items()
    ]
    rules = _at_the_end(allocation) if isinstance(allocation, Mapping) else "uniform"
    shares = allocate(weights, schedule.target, rules)
    before = [
        1 - count_kept(layer.kernels[name].variable, layer.masks[name]) / weight.size
        for weight, (layer, name) in zip(weights, kernels.values(), strict=True)
    ]
    rows = [
        (weight, zeros, zeros if share is None else share)
        for weight, zeros, share in zip(weights, before, shares, strict=True)
    ]
    short = tuple(w.path for w, zeros, share in rows if w.path in frozen and zeros < share - _NOTICEABLE)
    if not short:
        return None
    if any(layer.pattern.kind for _, layer in layers):
        return _FrozenWeights(short, len(weights), None, None)
    size = sum(weight.size for weight in weights)
    reach = sum(w.size * (zeros if w.path in frozen else share) for w, zeros, share in rows) / size
    return _FrozenWeights(short, len(weights), reach, sum(w.size * share for w, _, share in rows) / size)


def _weights(model: keras.layers.Layer) -> tuple[list[Weight], dict[str, Pattern]]:
    """Return the weights that a sparsity is split over, and the pattern of each that has its own."""
    layers = pruned_layers(model)
    together = coupled_groups(model, layers=[layer for _, layer in layers], scores=_no_scores)
    coupled = together.layers if together else set()
    alone = {
        f"{path}/{name}": (layer, kernel)
        for path, layer in layers
        if layer not in coupled
        for name, kernel in layer.kernels.items()
    }
    weights = [
        Weight(
            path,
            tuple(kernel.variable.shape),
            functools.partial(np.zeros, kernel.matrix_shape),
            functools.partial(uses, layer.layer, kernel),
        )
        for path, (layer, kernel) in alone.items()
    ]
    patterns = {path: layer.pattern for path, (layer, _) in alone.items()}
    return weights + (together.weights() if together else []), patterns


def _no_scores(layer: Pruned, name: str) -> np.ndarray:
    return np.zeros(layer.kernels[name].matrix_shape)


# The start of a fit: its steps, and what it warns of.

_FEWEST_RISES = 5  # with fewer, the usual cubic schedule removes more than half of all in one update
_DEFAULT_UPDATES = 100
_FURTHEST_APART = 100  # steps between updates by default, as in tfmot


def _default_every(schedule: Schedule) -> int:
    """Return the default number of steps between the mask updates of a schedule, whose window is in steps."""
    if schedule.end is None:
        return _FURTHEST_APART
    return min(max(round((schedule.end - schedule.begin) / _DEFAULT_UPDATES), 1), _FURTHEST_APART)


def _steps_of_fit(timed: Any, params: Mapping[str, Any], *, first: int, epoch: int, accumulated: int) -> Any:
    """Return a schedule, or another value with `resolve`, with its fractions of a fit turned into steps.

    Args:
        timed: The value, with `begin` or `end`.
        params: What Keras tells a callback of the fit.
        first: The step at which training starts.
        epoch: The epoch at which training starts.
        accumulated: The number of batches per optimizer update.

    Raises:
        ValueError: If there are fractions, and the number of steps per epoch is unknown.
    """
    if not any(isinstance(getattr(timed, name, None), float) for name in ("begin", "end")):
        return timed
    batches = params.get("steps")
    if batches is None:
        raise ValueError(
            f"Expected the number of steps per epoch to be known, because {timed!r} has fractions of the fit. "
            f"Pass steps_per_epoch to fit, or give begin and end as ints."
        )
    return timed.resolve(params["epochs"] * batches // accumulated, first=first - epoch * batches // accumulated)


def _schedule_slips(
    schedule: Schedule, resolved: Schedule, *, every: int, first: int, per_call: float
) -> Iterator[str]:
    """Yield a warning for each thing that makes a schedule prune at once where it should prune gradually.

    Args:
        schedule: The schedule of the user.
        resolved: The same in steps.
        every: Steps between mask updates.
        first: The step at which training starts.
        per_call: The most steps between two calls of the callback; infinite if it is unknown.
    """
    begin, end = resolved.begin, resolved.end
    if end is None or first >= end:
        return
    if schedule.end == 1 and not isinstance(schedule.end, float):
        yield "The pruning schedule ends after the first step: end=1 is one step. For the whole fit pass end=1.0."
    apart = max(every, int(per_call) if math.isfinite(per_call) else 1)
    steps, initial, final = int(end - begin), resolved(int(begin)), resolved.target
    rises = math.ceil(steps / apart)
    if rises >= _FEWEST_RISES or steps < _FEWEST_RISES or final - initial <= _NOTICEABLE:
        return
    points = [*range(int(begin), int(end), apart), int(end)]
    largest = max(resolved(later) - resolved(earlier) for earlier, later in itertools.pairwise(points))
    cause = f"every={every}"
    advice = f"leave out `every`: its default for this schedule is {_default_every(resolved)}"
    if apart > every:
        cause = f"A call of {apart} steps (steps_per_execution)"
        advice = f"compile the model with steps_per_execution={max(steps // _DEFAULT_UPDATES, 1)}"
    yield (
        f"{cause} raises the sparsity in only {rises} update{'s' if rises > 1 else ''} of this schedule of {steps} "
        f"steps, from {initial:.4g} to {final:.4g}, by up to {largest:.4g} in one. To raise it gradually, {advice}."
    )


def _ended_before(first: int, *, end: float, sparsity: float, target: float) -> str:
    """Return the warning that the schedule had ended before training started."""
    return (
        f"The pruning schedule ended at step {end}, and training starts at step {first} (counted by "
        f"model.optimizer.iterations): the sparsity stays at {sparsity:.4f} instead of {target:.4f}. Begin the "
        f"schedule at step {first} or later."
    )


def _came_back(step: int, *, before: float, sparsity: float) -> str:
    """Return the warning that the first mask update brought pruned weights back."""
    return (
        f"The model was sparser than the schedule says, and pruned weights came back: {before:.4f} before this fit, "
        f"{sparsity:.4f} at step {step}. Steps are counted by model.optimizer.iterations, which starts at 0 again "
        f"when the model is compiled. To keep the sparsity pass Constant({before:.4g}), to go on from it "
        f"Polynomial(..., initial={before:.4g})."
    )


# The end of a fit: what it warns of, and which of the other callbacks brought back weights of an earlier epoch.

_NOT_THE_USERS = ("keras", "tfprune")


def _callbacks_of_fit(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """Return the list of callbacks that Keras is going through; empty if Keras did not call this one.

    Keras tells a callback nothing about the others, so they are looked up in the calls that led here. What is
    appended to the list at the end of training is called after all others.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and any(each is callback for each in caller.callbacks):
            return caller.callbacks
        frame = frame.f_back
    return []


def _ended_early(
    callbacks: Sequence[keras.callbacks.Callback], *, step: int, end: float, of_fit: Any, lost: str, epoch: int
) -> str:
    """Return the warning that training ended before the schedule did.

    Args:
        callbacks: All callbacks of the fit.
        step: The step at which training ended.
        end: The step at which the schedule ends.
        of_fit: The same as the user gave it: a step, or a fraction of the fit.
        lost: The sparsity, and the one that the schedule ends with, in words.
        epoch: The first epoch with the final sparsity, from 0.
    """
    stopping = [each for each in callbacks if isinstance(each, keras.callbacks.EarlyStopping) and each.stopped_epoch]
    earlier = f"end the schedule at step {step} or earlier"
    if isinstance(of_fit, float):
        earlier = f"end the schedule at a smaller fraction of the fit than end={of_fit:g}"
    if stopping:
        name = type(stopping[0]).__name__
        cause, advice = f"{name} ended training", f"Pass start_from_epoch={epoch} to {name}, or {earlier}"
    else:
        cause, advice = "Training ended", f"Train until step {end}, or {earlier}"
    return f"{cause} at step {step}, before the pruning schedule did at step {end}: {lost}. {advice}."


def _restored_weights(
    callbacks: Sequence[keras.callbacks.Callback], *, sparsity: float, reached: float, epoch: int
) -> str:
    """Return the warning that a callback brought back weights with fewer zeros.

    Args:
        callbacks: All callbacks of the fit.
        sparsity: The sparsity after it, counted.
        reached: The sparsity that the last mask update left.
        epoch: The first epoch with the final sparsity, from 0.
    """
    return (
        f"{_who_restored(callbacks)}: the sparsity is {sparsity:.4f} instead of {reached:.4f}, which training had "
        f"reached. To keep only epochs with the final sparsity, pass start_from_epoch={epoch} to EarlyStopping; "
        f"other callbacks should ignore the epochs before."
    )


def _who_restored(callbacks: Sequence[keras.callbacks.Callback]) -> str:
    stopping = [
        each
        for each in callbacks
        if isinstance(each, keras.callbacks.EarlyStopping) and each.restore_best_weights and each.best_weights
    ]
    if stopping:
        return " and ".join(
            f"{type(each).__name__} brought back the weights of epoch {each.best_epoch + 1}" for each in stopping
        )
    names = [type(each).__name__ for each in callbacks if type(each).__module__.split(".")[0] not in _NOT_THE_USERS]
    return f"{' or '.join(names) or 'Another callback'} brought back weights of an earlier epoch"


def _sparse_too_late(callbacks: Sequence[keras.callbacks.Callback], *, reached: float, epoch: int) -> list[str]:
    """Return a warning for each best checkpoint of an epoch with fewer zeros than training has reached.

    Args:
        callbacks: All callbacks of the fit.
        reached: The sparsity that the last mask update left.
        epoch: The first epoch with the final sparsity, from 0.
    """
    notes = []
    history = next((each for each in callbacks if isinstance(each, keras.callbacks.History)), None)
    for each in callbacks:
        if not (history and isinstance(each, keras.callbacks.ModelCheckpoint) and each.save_best_only):
            continue
        rows = zip(
            history.epoch, history.history.get(each.monitor, []), history.history.get("sparsity", []), strict=False
        )
        best = next(((number, sparsity) for number, value, sparsity in rows if value == each.best), None)
        if best and best[1] < reached - _NOTICEABLE:
            notes.append(
                f"The best checkpoint, {each.filepath!r}, is of epoch {best[0] + 1} and has a sparsity of "
                f"{best[1]:.4f} instead of {reached:.4f}, which training reached. To keep only epochs with the final "
                f"sparsity, derive a class from {type(each).__name__} whose on_epoch_end does nothing if epoch < "
                f"{epoch}."
            )
    return notes


# Watch the learning rate of a fit, and warn once where the sparsity rises while the rate is low.

_TOO_LOW = 0.0999  # of the peak: a network hardly recovers below a tenth, which float32 rates may miss by a bit
_READ_EVERY = 100  # steps; evaluating a LearningRateSchedule can take as long as a small training step


class _LearningRateWatch:
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


# PruningCallback: raise the sparsity on a schedule while `model.fit` runs.

_log = logging.getLogger(__name__)


class PruningCallback(keras.callbacks.Callback):
    """Update the masks of a wrapped model during `fit`, on a schedule.

    Pass it to `fit` with a wrapped model. Steps are optimizer updates, counted by `model.optimizer.iterations` (of
    several optimizers, by the one with the most updates), so a resumed or second `fit` continues the count. Masks are
    updated at the schedule's begin, every `every` steps after it, and at its end, where the final sparsity is reached
    exactly. The last update only removes entries, because entries that come back cost accuracy until they are
    trained. The sparsity is in `logs` as `sparsity`, and so in `History`, the progress bar and the callbacks listed
    after this one. If the first batch builds the model, masks are checked and set after it.

    It warns, with the numbers, if the schedule is only a jump, because `every` or the model's `steps_per_execution`
    is too large for its steps or `end` is the int 1; if training ends before the schedule does; if the first update
    brings pruned weights back, because the model was sparser than the schedule; if the sparsity rises while the
    learning rate is below a tenth of its peak in this fit, which costs accuracy that training cannot recover (once
    per fit); if frozen layers get no zeros, at the start and at the end; and, after all other callbacks, if one of
    them brought back or saved as the best the weights of an epoch with fewer zeros. Where `EarlyStopping` restores
    weights, give it `start_from_epoch`.

    Args:
        schedule: The sparsity at each step, for example `schedules.Polynomial(0.9, end=5000)`. Give steps as ints, or
            fractions of this fit (its `epochs` times its steps per epoch) as floats.
        every: Steps between mask updates, at least 1. None (the default) takes a hundredth of the schedule's length,
            but at most 100 steps, so that a schedule of any length raises the sparsity gradually.
        budget: For channels and heads: what the model may cost when the schedule reaches its final sparsity, such as
            `tfprune.budget(flops=0.5)`. It then decides how much is removed, and the schedule only when. None (the
            default) removes what the schedule says.
        allocation: How the sparsity is split over the weights: `"uniform"` (the default, as in Zhu and Gupta's
            paper), `"erk"`, `"global"`, `"lamp"` (the default of the command line: it keeps more of small layers),
            `"flops"` (the sparsity is of the multiplications: zeros where they save the most time), a function, or
            a dict. Its keys are regular expressions, searched in the weights' paths. Its values are the
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
        ValueError: When training begins, if `fit` has another `PruningCallback`.

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

    _rate: _LearningRateWatch

    def __init__(
        self,
        schedule: Schedule,
        *,
        every: int | None = None,
        budget: MeetsBudget | None = None,
        allocation: str | Mapping[str, float | Schedule | None] | Allocation = "uniform",
        grow: str | Grow | None = None,
        data: Any = None,
        loss: Any = None,
    ) -> None:
        super().__init__()
        check_training_budget(budget, allocation)
        self.grow = check_grow(grow, beside="" if budget is None else f"budget={budget!r}")
        _check_rules(allocation)
        self.schedule = _check_schedule(schedule, "schedule")
        self.every = None if every is None else check_count(every, "every", least=1)
        self.budget, self.allocation = budget, allocation
        if isinstance(data, Iterator):
            raise ArgumentTypeError(
                "data",
                "`data` that can be read again at each mask update, such as arrays, a dataset or a list of batches",
                found=f"an iterator of type {type(data).__name__}",
            )
        self.data, self.loss = data, loss
        self.last_update: tuple[int, Grow | None] | None = None  # the step, and what was replaced
        self._started = False
        self._after_all = keras.callbacks.LambdaCallback(on_train_end=self._warn_at_end)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        several = [each for each in _callbacks_of_fit(self) if isinstance(each, PruningCallback)]
        if len(several) > 1:
            raise ArgumentError(
                "callbacks",
                "one PruningCallback in `callbacks`: each sets all masks, so the last one alone would count",
                found=f"{len(several)}, with {' and '.join(repr(each.schedule) for each in several)}",
                advice="Give weights schedules of their own by the `allocation` of one callback.",
            )
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
        self._most_updates = max_updates_per_call(self.model)
        self._grow = self._resolved(self.grow)
        self._schedule = self._in_steps(self.schedule)
        self._allocation = self.allocation
        if isinstance(self.allocation, Mapping):
            self._allocation = {
                pattern: self._in_steps(value) if isinstance(value, Schedule) else value
                for pattern, value in self.allocation.items()
            }
        _check_before_training(self.model, schedule=self._schedule, allocation=self._allocation)
        self._frozen = _frozen_weights(self.model, schedule=self._schedule, allocation=self._allocation)
        if self._frozen:
            warnings.warn(self._frozen.at_start(), stacklevel=2)
        self._started = True
        # An interrupted run may have stopped between the optimizer's update and the masks that were due.
        self._previous = self._first - 1
        self._sparsity = self._sparsity_now()
        start = "pruning %r from step %d on, at a sparsity of %.4f, by %r"
        _log.info(start, self.model.name, self._first, self._sparsity, self._schedule)
        self._rate = _LearningRateWatch(optimizers_of(self.model)[-1])
        self._slack = 0.0
        self._has_updated = False
        self._update(self._first)
        end = self._schedule.end
        if end is not None and self._first > end and self._sparsity < self._schedule.target:
            message = _ended_before(self._first, end=end, sparsity=self._sparsity, target=self._schedule.target)
            warnings.warn(message, stacklevel=2)

    def _sparsity_now(self) -> float:
        return hidden_share(self.model) if self.grow else masked_sparsity(self.model)

    def _in_steps(self, schedule: Schedule) -> Schedule:
        """Resolve fractions of this fit, and warn if the schedule is a jump."""
        resolved = self._resolved(schedule)
        per_call = self._most_updates / self._accumulated()
        every = self._every(resolved)
        for message in _schedule_slips(schedule, resolved, every=every, first=self._first, per_call=per_call):
            warnings.warn(message, stacklevel=2)
        return resolved

    def _every(self, schedule: Schedule) -> int:
        return _default_every(schedule) if self.every is None else self.every

    def _resolved(self, timed: Any) -> Any:
        """Resolve fractions of this fit, the epochs before its first one included."""
        accumulated = self._accumulated()
        return _steps_of_fit(timed, self.params, first=self._first, epoch=self._epoch, accumulated=accumulated)

    def _accumulated(self) -> int:
        return getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1

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
        due = self._schedule.last_update(previous, step, self._every(self._schedule))
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
            if self._sparsity < before - _NOTICEABLE and not self._has_updated:
                message = _came_back(step, before=before, sparsity=self._sparsity)
                warnings.warn(message, stacklevel=2)
            self._has_updated = True

    def _schedules(self) -> list[Schedule]:
        own = self._allocation.values() if isinstance(self._allocation, Mapping) else ()
        return [self._schedule, *(value for value in own if isinstance(value, Schedule))]

    def _is_last(self, previous: int, step: int) -> bool:
        """Return True if a schedule has its last mask update in (previous, step]."""
        return any(
            schedule.end is not None and schedule.last_update(previous, step, self._every(schedule)) == schedule.end
            for schedule in self._schedules()
        )

    def _next_due(self, step: int) -> int:
        """Return the first step after this one at which masks are due, or the learning rate is to be read."""
        points = [schedule.next_update(step, self._every(schedule)) for schedule in self._schedules()]
        return min([self._rate.next_reading, *(point for point in points if point is not None)])

    def _rules(
        self, allocation: Mapping[str, Any], due: int | None, previous: int, step: int
    ) -> dict[str, float | None]:
        """Return the sparsity of each pattern at this step, None where nothing is due."""
        rules: dict[str, float | None] = {}
        for pattern, value in allocation.items():
            if isinstance(value, Schedule):
                own = value.last_update(previous, step, self._every(value))
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
        self._callbacks = _callbacks_of_fit(self)
        if not self._callbacks:
            self._warn_at_end()
        elif self._after_all not in self._callbacks:
            self._callbacks.append(self._after_all)  # those listed later may bring other weights back

    def _warn_at_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._started:
            return
        end, step, sparsity, reached = self._schedule.end, self._step(), self._sparsity_now(), self._sparsity
        epoch, callbacks, self._callbacks = self._final_epoch(step), self._callbacks, []
        messages = []
        if self._frozen and (end is None or step >= end or step == self._first):  # none trainable: no steps
            messages.append(self._frozen.at_end(sparsity))
        elif end is not None and step < end:
            lost = f"the sparsity is {sparsity:.4f} instead of {self._schedule.target:.4f}"
            of_fit = self.schedule.end
            messages.append(_ended_early(callbacks, step=step, end=end, of_fit=of_fit, lost=lost, epoch=epoch))
        if sparsity < reached - _NOTICEABLE:
            messages.append(_restored_weights(callbacks, sparsity=sparsity, reached=reached, epoch=epoch))
        messages += _sparse_too_late(callbacks, reached=reached, epoch=epoch)
        for message in messages:
            warnings.warn(message, stacklevel=2)

    def _final_epoch(self, step: int) -> int:
        """Return the first epoch, from 0, at whose end all schedules have ended."""
        end = max(schedule.begin if schedule.end is None else schedule.end for schedule in self._schedules())
        per_epoch = (step - self._first) / (self._last_epoch + 1 - self._epoch)
        return self._epoch + max(math.ceil((end - self._first) / max(per_epoch, 1)) - 1, 0)


# TrainingCost: the multiply-adds of training so far, compared with dense training.

_Shape = tuple[Any, ...]  # None where a size is open
_Calls = dict[int, list[tuple[list[_Shape], list[_Shape]]]]  # by the id of a layer: shapes of inputs and outputs

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


class TrainingCost(keras.callbacks.Callback):
    """Report the multiply-adds of training so far, as a fraction of those of dense training, while `model.fit` runs.

    Use it to compare ways to train sparse models. The fraction is in `logs` as `training_cost` at the end of each
    epoch, and so in `History`. It is the cost in a runtime whose kernels skip zeros; Keras computes with them.

    A step counts as one forward pass and a backward pass of twice its size, in which zeros cost nothing, over the
    weights under masks. A mask update that adds entries by gradient counts as one more step, in which the gradients
    of the weights are dense: pass one batch as `data`.

    Args:
        pruning: The `PruningCallback` of the same fit. List it before this callback.

    Raises:
        TypeError: If `pruning` is not a `PruningCallback`.
        ValueError: When training begins, if the multiply-adds of a weight are not known: the shapes are not, the
            layer has several kernels and is not recurrent, or it is a convolution and recurrent.

    Example:
        >>> from tfprune import schedules, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(10)]))
        >>> model.compile("sgd", "mse")
        >>> pruning = PruningCallback(schedules.Constant(0.75), grow="random", every=2)
        >>> x = keras.ops.ones((32, 8))
        >>> model.fit(x, x[:, :1], callbacks=[pruning, TrainingCost(pruning)], verbose=0).history["training_cost"]
        [0.25]

    Reference:
        Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, appendix H.
    """

    def __init__(self, pruning: PruningCallback) -> None:
        super().__init__()
        if not isinstance(pruning, PruningCallback):
            raise ArgumentTypeError(
                "pruning", "the PruningCallback of the same fit", f"{pruning!r} of type {type(pruning).__name__}"
            )
        self.pruning = pruning

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._uses: dict[str, int] | None = None  # the first batch may build the model
        self._counted: Any = None
        self._dense = self._forward = 0  # nothing is counted yet
        self._spent = self._dense_spent = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._first = batch
        self._read_masks()

    def _read_masks(self) -> None:
        """Count what a step costs with the masks of now, and the update that made them."""
        update = self.pruning.last_update
        if self._uses is not None and update == self._counted:
            return
        is_counted, self._uses = self._uses is not None, self._uses or _uses_by_path(self.model)
        dense, sparse = _multiply_adds(self.model, self._uses)
        grow = update and update[1]
        if is_counted and grow and grow.by == GRADIENT and grow.fraction:
            self._spent += 2 * self._forward + dense  # the masks before the update
        self._counted, self._dense, self._forward = update, dense, sparse

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = min(batch + 1, self.params.get("steps") or math.inf) - self._first  # of one execution
        self._spent += 3 * self._forward * steps
        self._dense_spent += 3 * self._dense * steps
        self._read_masks()  # after the last batch, no other one would

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["training_cost"] = self._spent / self._dense_spent


def _multiply_adds(model: keras.Model, uses: dict[str, int]) -> tuple[int, int]:
    """Return the multiply-adds of one sample's forward pass of the weights under masks: dense, and without zeros."""
    dense = sparse = 0
    for path, layer in pruned_layers(model):
        for name, kernel in layer.kernels.items():
            dense += math.prod(kernel.variable.shape) * uses[f"{path}/{name}"]
            sparse += count_kept(layer.masks[name]) * uses[f"{path}/{name}"]
    return dense, sparse


def _uses_by_path(model: keras.Model) -> dict[str, int]:
    """Return how often an entry of each weight under a mask is multiplied for one sample, by the weight's path.

    Raises:
        ValueError: If it is not known.
    """
    calls, uses = _calls(model), {}
    for path, layer in pruned_layers(model):
        for name, kernel in layer.kernels.items():
            counts = [_uses(layer, kernel, *shapes) for shapes in calls[id(layer)]]
            if not counts or None in counts:
                raise ValueError(
                    f"Expected weights whose multiply-adds are known. Received: {path}/{name}, of "
                    f"{type(layer.layer).__name__}. Leave out TrainingCost, or leave out the weight with `filters`."
                )
            uses[f"{path}/{name}"] = sum(filter(None, counts))
    return uses


def _calls(model: keras.Model) -> _Calls:
    """Return the shapes in each call of a layer, also in nested models, without the axis of samples."""
    calls: _Calls = defaultdict(list)

    def shapes(structure: Any) -> list[_Shape]:
        tensors = [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]
        return [tuple(tensor.shape[1:]) for tensor in tensors]

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if kind_of(layer).has_graph:
            inputs = [keras.Input(batch_shape=each.shape, dtype=each.dtype) for each in keras.tree.flatten(args)]
            inner = functional(layer)
            retrace(inner, record, inputs=keras.tree.pack_sequence_as(inner.input, inputs))
        else:
            calls[id(layer)].append((shapes((args, kwargs)), shapes(outputs)))
        return outputs

    if kind_of(model).has_graph:
        retrace(functional(model), record)
    return calls


def _uses(layer: Pruned, kernel: Kernel, inputs: list[_Shape], outputs: list[_Shape]) -> int | None:
    """Return how often an entry of a weight is multiplied for one sample in a call, None if it is not known."""
    inner = layer.layer
    if isinstance(inner, keras.layers.Embedding):
        return 0
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    if isinstance(inner, (keras.layers.RNN, keras.layers.Bidirectional)):
        return inputs[0][0] if len(kernel.variable.shape) == 2 else None
    in_steps = isinstance(inner, keras.layers.TimeDistributed)
    if in_steps and isinstance(inner.layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        return None
    if None in (*inputs[0], *outputs[0]) or len(layer.kernels) > 1 or not kernel.mixes_inputs:
        return None
    if isinstance(inner.layer if in_steps else inner, _TRANSPOSED):
        return math.prod(inputs[0]) // kernel.matrix_shape[-1]
    return math.prod(outputs[0]) // kernel.matrix_shape[0]
