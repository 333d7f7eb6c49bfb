"""Callbacks that look at the clock: how long a step takes, and when to stop."""

from __future__ import annotations

import time
from typing import Any

import keras

WARM_UP, TIMED = 5, 20  # steps


class LateError(Exception):
    """There is no time for another trial, or for the end of this one."""


class Deadline(keras.callbacks.Callback):
    """Gives training up when the time is over.

    Args:
        end: The time, as `time.monotonic` gives it.
    """

    def __init__(self, end: float) -> None:
        super().__init__()
        self._end = end

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() > self._end:
            raise LateError


class StepWatch(keras.callbacks.Callback):
    """Times steps after the first ones."""

    def on_train_begin(self, logs: Any = None) -> None:
        self._times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._times.append(time.monotonic())

    @property
    def pace(self) -> float:
        """Seconds of a step."""
        return (self._times[-1] - self._times[WARM_UP - 1]) / (len(self._times) - WARM_UP)
