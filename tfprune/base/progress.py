"""Progress bars, for every call that may take more than a few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tfprune.base.spec import check_choice, check_count

SECONDS_BEFORE_A_BAR = 3.0
BAR_WIDTH = 20  # characters, of a bar without Keras


def check_verbose(verbose: Any) -> None:
    """Refuse a wrong `verbose`.

    Raises:
        TypeError: If it is neither a string nor an integer.
        ValueError: If it is another one than "auto", 0, 1 and 2.
    """
    if isinstance(verbose, str):
        check_choice(verbose, "verbose", choices=("auto",), others="0, 1 or 2")
    else:
        check_count(verbose, "verbose", least=0, most=2)


class Progress:
    """Keras' progress bar over the units of a call, or a plain one without Keras.

    It is a context, which ends the line of the bar whatever happens.

    With "auto", the bar appears after three seconds, and only in a terminal or a notebook, unless Keras is set to log
    instead. So a log file holds no bar, and a quick example prints none.

    Args:
        total: The number of units; fewer may come.
        verbose: "auto", or as in Keras: 0 for nothing, 1 for a bar, 2 for one line at the end.
        unit: The name of a unit.
        shown: The names of the values that are shown beside the bar.

    Example:
        >>> with Progress(2, verbose=2, unit="layer") as progress:
        ...     progress.add()
        ...     progress.add()  # doctest: +ELLIPSIS
        2/2 - 0s - ...s/layer
    """

    def __init__(self, total: int, *, verbose: int | str, unit: str, shown: Sequence[str] = ()) -> None:
        is_auto = verbose == "auto"
        self._total, self._done = total, 0
        self._values: Mapping[str, float] = {}
        self._due = time.monotonic() + (SECONDS_BEFORE_A_BAR if is_auto else 0)
        self._has_open_line = False
        self._bar: Any = None
        if total and (_is_watched() if is_auto else verbose):
            kind, keras = 1 if is_auto else int(verbose), sys.modules.get("keras")
            if keras:
                self._bar = keras.utils.Progbar(total, verbose=kind, stateful_metrics=shown, unit_name=unit)
            else:
                self._bar = _PlainBar(total, kind, unit)

    @property
    def is_shown(self) -> bool:
        """Whether there is a bar to move."""
        return self._bar is not None

    def __enter__(self) -> Progress:
        return self

    def add(self, count: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Count units as done, and show values as they are after them."""
        self._values = values or self._values
        if self._done < self._total:
            self._done = min(self._done + count, self._total)
            self._draw()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None:
            self.add(self._total)
        elif self._has_open_line:
            self._draw(is_last=True)

    def _draw(self, *, is_last: bool | None = None) -> None:
        if self._bar is not None and time.monotonic() >= self._due:
            values = [(name, _Count(each) if isinstance(each, int) else each) for name, each in self._values.items()]
            self._bar.update(self._done, values, finalize=is_last)
            self._has_open_line = self._bar.verbose == 1 and self._done < self._total and not is_last


class _Count(float):
    """A number that Keras' bar shows as an integer; it divides each by 1, and shows it with four decimals."""

    def __truediv__(self, other: float) -> float:
        return self if other == 1 else float(self) / other

    def __format__(self, spec: str) -> str:
        return f"{int(self):,}"


class _PlainBar:
    """The bar of a program that has not loaded Keras, as on a device."""

    def __init__(self, total: int, verbose: int, unit: str) -> None:
        self.verbose = verbose
        self._total, self._unit, self._began = total, unit, time.monotonic()

    def update(self, done: int, values: Sequence[tuple[str, float]], *, finalize: bool | None = None) -> None:
        is_last = finalize or done >= self._total
        if self.verbose == 1 or is_last:
            full = BAR_WIDTH * done // self._total
            bar = f" [{'=' * full}{'.' * (BAR_WIDTH - full)}]" if self.verbose == 1 else ""
            line = f"{done}/{self._total}{bar} {time.monotonic() - self._began:.0f}s ({self._unit}s)"
            sys.stdout.write(("\r" if self.verbose == 1 else "") + line + ("\n" if is_last else ""))
            sys.stdout.flush()


def _is_watched() -> bool:
    """Tell whether somebody sees what is drawn: a notebook, or a terminal."""
    stream, keras = sys.stdout, sys.modules.get("keras")  # None in a program without a console, or without Keras
    if stream is None or getattr(stream, "closed", False):
        return False
    if keras and not keras.config.is_interactive_logging_enabled():
        return False
    return getattr(stream, "isatty", bool)() or type(stream).__module__.startswith("ipykernel.")
