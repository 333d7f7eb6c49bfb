"""How a search scales with its workers, by simulation: trials sleep, and all else is what it always is.

Printed: executors.py [SECONDS OF A TRIAL]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

from common import Row, at_least
from stub_trials import StubRunner

from tfprune.base.folders import RunFolder, parse_json
from tfprune.export.compressing import evaluate
from tfprune.export.compressing.policy import Goal, SearchLoop
from tfprune.export.compressing.trials import Recipe
from tfprune.models.tasks import _DONE, _Answer

WORKERS = (1, 2, 4, 8, 16, 32, 64)
TRIAL_SECONDS = 8.0  # real trials of a small network take 10 to 20
LENGTH = 3  # trials of each worker
SLOWER = 8


class SleepingExecutor(ThreadPoolExecutor):
    """Stands for a cluster: a trial takes its time, and no processor; the worker of `slow` takes longer."""

    def __init__(self, count: int, seconds: float, *, slow: int = 0) -> None:
        super().__init__(count)
        self._runner, self._seconds = StubRunner(), seconds
        self._paces = [float(SLOWER)] * slow + [1.0] * (count - slow)

    def submit(self, function: Any, /, *args: Any, **call: Any) -> Future:
        return super().submit(self._sleep, call)

    def _sleep(self, call: dict[str, Any]) -> _Answer:
        if call["work"] is None:
            return _DONE, None
        recipe = Recipe.read(parse_json(call["arguments"]["recipe"].encode()))
        pace = self._paces.pop()
        time.sleep(self._seconds * pace)
        self._paces.append(pace)
        return _DONE, self._runner.run(recipe, 1e9, call["arguments"]["start"])


def trials_per_hour(count: int, seconds: float, *, slow: int = 0, length: int = LENGTH) -> float:
    """Search with this many workers, and return how many trials end in an hour while all of them are busy."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SleepingExecutor(count, seconds, slow=slow) as executor,
        patch.object(evaluate, "_pack_runner", lambda runner: b""),
        RunFolder(folder, settings={}, arrays=[]) as stored,
    ):
        search = SearchLoop(StubRunner(), stored, Goal("bytes", 0.01), 0, 1e6, jobs=count, executor=executor).run()
        next(search)  # the original model
        began = time.perf_counter()
        trials = sum(1 for _ in islice(search, length * count))
        passed = time.perf_counter() - began
        search.close()
    return 3600 * trials / passed


def measure(seconds: float) -> Iterator[Row]:
    trials_per_hour(1, 0.0, length=8)  # imports what is slow to import
    first = trials_per_hour(1, seconds)
    for count in WORKERS:
        rate = first if count == 1 else trials_per_hour(count, seconds)
        what = f"trials of {seconds:g} s an hour, {count} workers against one: {rate:,.0f}"
        yield at_least(what, rate / first, 15) if count == 16 else Row(what, f"{rate / first:.2f}x", "-", True)
    rate = trials_per_hour(16, seconds, slow=1, length=2 * SLOWER)
    what = f"the same, one of 16 workers {SLOWER} times slower: {rate:,.0f}"
    yield at_least(what, rate / first, 15 / 16 * (15 + 1 / SLOWER), digits=1)


if __name__ == "__main__":
    for row in measure(float(sys.argv[1]) if len(sys.argv) > 1 else TRIAL_SECONDS):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
