"""The best files of a search, written beside a report and a page about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfprune.export.compressing.compress_page import compress_page
from tfprune.export.compressing.compress_report import CompressReport
from tfprune.export.compressing.front import front
from tfprune.export.compressing.measured import Tried, score_of
from tfprune.export.compressing.search import Search
from tfprune.export.files.target import write_atomically
from tfprune.export.processes.device import Device
from tfprune.export.running.benchmark import benchmark

RUNS = 50  # of a file that is timed


def write_front(
    search: Search,
    folder: Path,
    *,
    target: str,
    timed: Callable[[bytes], float],
    test_data: tuple[Any, Any] | None,
) -> CompressReport:
    """Write the best files of a search, and what was found out, in place of what an earlier call wrote.

    Args:
        search: A search that has ended.
        folder: Where the files, `report.json` and `report.html` go.
        target: `"size"` or `"latency"`.
        timed: Gives the milliseconds that a file takes.
        test_data: Samples and labels that nothing depends on.
    """
    stale = _files(folder / "report.json")
    tried = [one for trial in search.done for one in trial.tried]
    best = front(tried, max_drop=search.max_drop, by=search.by)
    written = tuple(
        _write(search, one, folder / f"{number:02}_{one.name}.tflite", timed, test_data)
        for number, one in enumerate(best, 1)
    )
    for name in stale - {one.file for one in written}:
        (folder / name).unlink(missing_ok=True)
    report = CompressReport(
        folder=str(folder),
        metric=search.judge.metric,
        max_drop=search.max_drop,
        target=target,
        dense=search.done[0].tried[0],
        front=written,
        trials=len(search.done) - 1,
        failed=tuple(f"{trial.name}: {trial.reason}" for trial in search.done if trial.reason),
        tried=tuple(tried),
        seconds=sum(trial.seconds for trial in search.done),
    )
    write_atomically(folder / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    write_atomically(folder / "report.html", compress_page(report).encode())
    return report


def _write(
    search: Search,
    one: Tried,
    path: Path,
    timed: Callable[[bytes], float],
    test_data: tuple[Any, Any] | None,
) -> Tried:
    content = next(search.content(trial, one) for trial in search.done if one in trial.tried)
    write_atomically(path, content)
    return replace(
        one,
        file=path.name,
        latency_ms=timed(content) if one.latency_ms is None else one.latency_ms,
        test_score=None if test_data is None else score_of(content, test_data, metric=search.judge.metric),
    )


def _files(report: Path) -> set[str]:
    """Return the files of an earlier report."""
    if not report.exists():
        return set()
    return {Path(one["file"]).name for one in json.loads(report.read_text(encoding="utf-8"))["front"]}


def milliseconds(content: bytes, *, on: Device | None) -> float:
    """Return how long a file takes on a device; None is this machine."""
    return benchmark(content, runs=RUNS, on=on).median_ms
