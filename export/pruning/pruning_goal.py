"""The goal of pruning a file: a sparsity, or a limit to search for the sparsity by, and the pattern of the zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tfprune.base.limit import Limit
from tfprune.base.spec import check_count, check_number, check_sparsity, resolve
from tfprune.export.device.running.evaluate import labeled_limit, limit_mode
from tfprune.patterns import NM, PATTERNS, Block, Pattern, Unstructured

MAX_PERCENT = 95
TRIES = MAX_PERCENT.bit_length()  # steps of a search
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class PruningGoal:
    """A goal with one of its limits.

    Attributes:
        sparsity: The fraction of zeros.
        max_bytes: The largest size of the file.
        max_error: The largest error of an output.
        max_drop: The largest loss of a metric on labeled data.
        max_relative_drop: The largest loss as a fraction of the metric before.
        metric: The name of the metric, or a dict with that of one output; empty without `max_drop`.
        mode: `"max"` if a larger value of the metric is better, `"min"` if a smaller one is.
        x: The samples of the labeled data.
        y: Their labels.
    """

    sparsity: float | None
    max_bytes: int | None
    max_error: float | None
    max_drop: float | None = None
    max_relative_drop: float | None = None
    metric: str | dict[str, str] = ""
    mode: str = ""
    x: Any = None
    y: Any = None

    def settings(self) -> dict[str, Any]:
        """Return the limits as JSON can hold them."""
        names = ("sparsity", "max_bytes", "max_error", "max_drop", "max_relative_drop", "metric", "mode")
        return {name: getattr(self, name) for name in names}


def checked_pattern(pattern: str | Pattern) -> Pattern:
    """Return a pattern that weights of files can have.

    Raises:
        TypeError: If it is neither a pattern nor a string.
        ValueError: If it is one that they cannot have.
    """
    resolved = resolve(pattern, PATTERNS, Pattern, "pattern")
    if not isinstance(resolved, (Unstructured, NM, Block)):
        raise ValueError(
            f"Expected `pattern` to be 'unstructured', patterns.NM(n, m) or patterns.Block(rows, cols). Received: "
            f"pattern={pattern!r}. Channels of a file cannot be removed yet."
        )
    return resolved


def checked_goal(pattern: Pattern, **limits: Any) -> PruningGoal:
    """Return the goal that arguments of `prune_tflite` give.

    Args:
        pattern: The pattern of the zeros.
        limits: `sparsity`, `max_bytes`, `max_error` and `max_drop`, all but one of them None.

    Raises:
        TypeError: If a limit has another type.
        ValueError: If not one limit is given, it is out of range, or the pattern has one sparsity only.
    """
    received = {name: value for name, value in limits.items() if value is not None}
    if len(received) != 1:
        text = ", ".join(f"{name}={value!r}" for name, value in received.items()) or "none of them"
        raise ValueError(f"Expected one of `sparsity`, `max_bytes`, `max_error` and `max_drop`. Received: {text}.")
    sparsity, max_bytes, max_error = (limits[name] for name in ("sparsity", "max_bytes", "max_error"))
    if sparsity is not None:
        sparsity = check_sparsity(sparsity, "sparsity")
        pattern.check(sparsity)
    elif isinstance(pattern, NM):
        raise ValueError(f"Expected `sparsity` with pattern={pattern!r}. Received: `{[*received][0]}`.")
    if max_bytes is not None:
        max_bytes = check_count(max_bytes, "max_bytes", least=1)
    if max_error is not None:
        max_error = check_number(max_error, "max_error", above=0)
    return PruningGoal(sparsity, max_bytes, max_error, *_drop(limits["max_drop"]))


def _drop(limit: Limit | None) -> tuple:
    """Return the largest losses of a metric, its name and mode, and the labeled data."""
    if limit is None:
        return ()
    metric, x, y = labeled_limit(limit)
    if not isinstance(limit.metric, str | None):
        raise TypeError(
            f"Expected the name of a metric in the Limit: another process measures it, which has no Keras. Received: "
            f"max_drop={limit!r}. Pass metric='accuracy' or another name that `evaluate` takes."
        )
    _refuse_limit_per_class(limit)
    if not limit.bounds_metric:
        raise ValueError(
            f"Expected a Limit with a number. Received: max_drop={limit!r}. Pass tfprune.Limit(0.01, data=(x, y))."
        )
    return limit.max_drop, limit.max_relative_drop, metric, limit_mode(limit), x, y


def _refuse_limit_per_class(limit: Limit) -> None:
    """Refuse a limit of each class or group where only the average is measured.

    Raises:
        ValueError: If it has one.
    """
    if limit.bounds_groups:
        raise ValueError(
            f"Expected a Limit without `max_drop_per_class` and `max_drop_per_group`, which are not checked here. "
            f"Received: max_drop={limit!r}. Compare the result with `tfprune.export.damage`."
        )


def search(make: Callable[[int], Made], fits: Callable[[Made], bool], *, limit: str, toward: int) -> Made:
    """Bisect for the largest percentage whose file fits, or for the smallest.

    Args:
        make: A function from a percentage, 1 to 95, to a file.
        fits: A function that tells whether a file keeps to the limit.
        limit: What the limit is, for errors.
        toward: 1 for the largest percentage, -1 for the smallest.

    Raises:
        ValueError: If no file fits.
    """
    low, high, best = 0, MAX_PERCENT + 1, None
    while high - low > 1:
        middle = (low + high) // 2
        candidate = make(middle)
        is_fit = fits(candidate)
        best = candidate if is_fit else best
        low, high = (middle, high) if is_fit == (toward == 1) else (low, middle)
    if best is None:
        raise ValueError(
            f"Expected a limit that a file keeps to from which 1 to {MAX_PERCENT} % were removed. Received: {limit}, "
            "which none does. Allow more"
        )
    return best
