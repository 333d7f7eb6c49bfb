"""What the benchmarks share: a row with its bar, and fits timed in turn."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured figure beside the bar it is held to."""

    what: str
    measured: str
    bar: str
    holds: bool


def at_most(what: str, value: float, bar: float, *, unit: str = "x", digits: int = 3) -> Row:
    return Row(what, f"{value:.{digits}f}{unit}", f"<= {bar:g}{unit}", round(value, digits) <= bar)


def at_least(what: str, value: float, bar: float, *, unit: str = "x", digits: int = 2) -> Row:
    return Row(what, f"{value:.{digits}f}{unit}", f">= {bar:g}{unit}", round(value, digits) >= bar)


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time each function once per round, in turn, so that a slow spell of the machine meets all of them.

    Work on one thread may be timed by `time.process_time`, which does not count what other processes do.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Return the median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it has run."""
    return sum(os.times()[:4])


def _resident() -> int:
    """Return the bytes of memory this process occupies."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def peak_during(work: Callable[[], object]) -> tuple[float, int]:
    """Run `work`; return its seconds and the most memory it added."""
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return seconds, max(peak[0] - before, 0)
