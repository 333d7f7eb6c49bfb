"""The schedules of tfmot under its names: a step gives a pair, whether masks are due and the sparsity."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

from tfprune.base.spec import Spec, check_count, check_sparsity
from tfprune.schedules import Constant, Polynomial


class PruningSchedule(Spec):
    """Base class of the schedules that travel with a pruned layer. Derive your own from it.

    A schedule of your own defines `__call__` and `get_config`. Register it with Keras, so that it can be saved. It
    may return scalars of TensorFlow, as schedules written for tfmot do.

    Example:
        >>> import keras
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class Half(PruningSchedule):
        ...     def __call__(self, step):
        ...         return step >= 100, 0.5
        ...
        ...     def get_config(self):
        ...         return {}
        >>> Half()(100)
        (True, 0.5)
    """

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether masks are due before the batch `step` (the first is 1), and the sparsity in [0, 1)."""
        raise NotImplementedError

    @property
    def target(self) -> float | None:
        """The final sparsity of the schedule, None if it is not known."""
        return None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Build the schedule from its arguments, or from tfmot's form of them, which names the class too."""
        return cls(**config.get("config", config))

    def _should_prune_in_step(self, step: Any, begin_step: int, end_step: int, frequency: int) -> bool:
        """Tell whether masks are due; schedules written for tfmot call this by its name there."""
        window = Constant(0.0, begin=begin_step, end=None if end_step < 0 else end_step)
        return window.last_update(int(step) - 1, int(step), frequency) is not None


def check_pruning_schedule(value: Any) -> None:
    """Refuse everything but a `PruningSchedule`.

    Raises:
        TypeError: If it is not a `PruningSchedule`.
    """
    if not isinstance(value, PruningSchedule):
        raise TypeError(
            f"Expected a PruningSchedule, such as PolynomialDecay(0.0, 0.8, 0, 1000). Received: "
            f"pruning_schedule={value!r} of type {type(value).__name__}."
        )


def _steps(value: Any, argument: str, *, least: int) -> int:
    """Return a number of steps as an int; floats without a fraction are taken, as `np.ceil` gives them."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and float(value).is_integer():
        value = int(float(value))
    return check_count(value, argument, least=least)


def _check_order(begin_step: int, end_step: int) -> None:
    if end_step < begin_step:
        raise ValueError(
            f"Expected `end_step` at or after `begin_step`. Received: begin_step={begin_step}, end_step={end_step}."
        )


@dataclass(frozen=True)
class PolynomialDecay(PruningSchedule):
    """Raise the sparsity fast at first, then more and more slowly, until `final_sparsity` is reached exactly.

    Args:
        initial_sparsity: Sparsity at the begin, the fraction of zeros in [0, 1).
        final_sparsity: Sparsity at the end, in [0, 1).
        begin_step: Batch of the first pruning, at least 0; the first batch is 1.
        end_step: Batch of the last pruning, at or after `begin_step`; it need not be a multiple of `frequency`.
        power: Exponent, greater than 0; 1 is a straight line.
        frequency: Batches between mask updates, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PolynomialDecay(0.0, 0.875, begin_step=0, end_step=1000)
        >>> schedule(500), schedule(501)[0], schedule(1000)
        ((True, 0.765625), False, (True, 0.875))

    Reference:
        Zhu & Gupta, 2017, "To prune, or not to prune", arXiv:1710.01878, equation 1.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    def __post_init__(self) -> None:
        self._hold(
            initial_sparsity=check_sparsity(self.initial_sparsity, "initial_sparsity"),
            final_sparsity=check_sparsity(self.final_sparsity, "final_sparsity"),
            begin_step=_steps(self.begin_step, "begin_step", least=0),
            end_step=_steps(self.end_step, "end_step", least=0),
            frequency=_steps(self.frequency, "frequency", least=1),
        )
        _check_order(self.begin_step, self.end_step)
        self._hold(power=self._curve.power)

    @property
    def _curve(self) -> Polynomial:
        return Polynomial(
            self.final_sparsity,
            initial=self.initial_sparsity,
            power=self.power,
            begin=self.begin_step,
            end=self.end_step,
        )

    @property
    def target(self) -> float:
        return self.final_sparsity

    def __call__(self, step: Any) -> tuple[bool, float]:
        is_due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return is_due, self._curve(int(step))


@dataclass(frozen=True)
class ConstantSparsity(PruningSchedule):
    """Hold one sparsity.

    Args:
        target_sparsity: The fraction of zeros, in [0, 1).
        begin_step: Batch of the first pruning, at least 0; the first batch is 1.
        end_step: Batch of the last mask update; -1 for no end.
        frequency: Batches between mask updates, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> ConstantSparsity(0.5, begin_step=100)(200)
        (True, 0.5)
    """

    target_sparsity: float
    begin_step: int
    end_step: int = -1
    frequency: int = 100

    def __post_init__(self) -> None:
        self._hold(
            target_sparsity=check_sparsity(self.target_sparsity, "target_sparsity"),
            begin_step=_steps(self.begin_step, "begin_step", least=0),
            end_step=_steps(self.end_step, "end_step", least=-1),
            frequency=_steps(self.frequency, "frequency", least=1),
        )
        if self.end_step != -1:
            _check_order(self.begin_step, self.end_step)

    @property
    def target(self) -> float:
        return self.target_sparsity

    def __call__(self, step: Any) -> tuple[bool, float]:
        is_due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return is_due, self.target_sparsity
