"""Write the best files of a search, a report and a page about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfprune.export.compressing.compress_page import compress_page
from tfprune.export.compressing.compress_report import CompressReport
from tfprune.export.compressing.pareto_front import pareto_front
from tfprune.export.compressing.search import Search
from tfprune.export.compressing.trial import MeasuredFile
from tfprune.export.file.files.destination import write_atomically


def write_front(search: Search, folder: Path, *, test_data: tuple[Any, Any] | None) -> CompressReport:
    """Write the best files of a search and the report, and remove the files of an earlier call.

    Args:
        search: A search that has ended.
        folder: Where the files, `report.json` and `report.html` go.
        test_data: Samples and labels on which the best files are measured besides.

    Raises:
        ValueError: If no file is within the limits.
    """
    stale = _files(folder / "report.json")
    files = [file for trial in search.trials for file in trial.tried]
    front = pareto_front(files, search.settings.goal)
    if not front:
        raise ValueError(_refusal(files, search))
    written = tuple(
        _write(search, file, folder / f"{number:02}_{file.name}.tflite", test_data)
        for number, file in enumerate(front, 1)
    )
    for name in stale - {file.file for file in written}:
        (folder / name).unlink(missing_ok=True)
    evaluator = search.runner.evaluator
    report = CompressReport(
        folder=str(folder),
        metric=evaluator.metric,
        max_drop=search.settings.goal.max_drop,
        target=evaluator.target,
        dense=search.trials[0].tried[0],
        front=written,
        trials=len(search.trials) - 1,
        failed=tuple(f"{trial.name}: {trial.reason}" for trial in search.trials if trial.reason),
        tried=tuple(files),
        seconds=search.trials[-1].ended,
    )
    write_atomically(folder / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    write_atomically(folder / "report.html", compress_page(report).encode())
    return report


def _write(search: Search, file: MeasuredFile, path: Path, test_data: tuple[Any, Any] | None) -> MeasuredFile:
    content = next(search.content(trial, file) for trial in search.trials if file in trial.tried)
    write_atomically(path, content)
    evaluator, latency = search.runner.evaluator, file.latency_ms
    return replace(
        file,
        file=path.name,
        latency_ms=evaluator.milliseconds(content) if latency is None and evaluator.target != "micro" else latency,
        test_score=None if test_data is None else evaluator.score(content, test_data),
    )


def _refusal(files: Sequence[MeasuredFile], search: Search) -> str:
    goal = search.settings.goal
    nearest = min(files, key=goal.excess)
    budgets = [f"{name}={size:,}" for name, size in vars(goal.budgets).items() if size]
    arena = "" if nearest.arena_bytes is None else f", with {nearest.arena_bytes:,} bytes of arena"
    return (
        f"Expected a file for {', '.join([f'max_drop={goal.max_drop:g}', *budgets])}. Received: {len(files)} "
        f"files, none of which fits. The nearest, {nearest.name}, loses {nearest.drop:.4f} of "
        f"{search.runner.evaluator.metric!r} and has {nearest.bytes:,} bytes{arena}. All trials are kept: search "
        f"longer, or allow more in another folder."
    )


def _files(report: Path) -> set[str]:
    """Return the names of the files of an earlier report."""
    if not report.exists():
        return set()
    return {Path(file["file"]).name for file in json.loads(report.read_text(encoding="utf-8"))["front"]}
