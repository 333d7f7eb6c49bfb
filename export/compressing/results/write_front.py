"""Write the best files of a search, a report and a page about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from tfprune.export.compressing.goal import Goal, pareto_front
from tfprune.export.compressing.results.compress_page import compress_page
from tfprune.export.compressing.results.compress_report import CompressReport
from tfprune.export.compressing.search_loop import SearchLoop
from tfprune.export.compressing.trials.file_evaluator import FileEvaluator
from tfprune.export.compressing.trials.trial import MeasuredFile
from tfprune.export.file.files.destination import write_atomically

UNITS = {"bytes": "bytes", "arena_bytes": "bytes of arena", "latency_ms": "ms", "cycles": "cycles"}
CLOSEST = 3  # files that are named if none is within the limits


def write_front(
    loop: SearchLoop,
    folder: Path,
    *,
    test_data: tuple[Any, Any] | None,
    limits: Mapping[str, float] | None = None,
) -> CompressReport:
    """Write the best files of a search, their model cards and the report, and remove the files of an earlier call.

    Args:
        loop: A search that has ended.
        folder: Where the files, `report.json` and `report.html` go.
        test_data: Samples and labels on which the best files are measured besides.
        limits: The largest drop of each class and group, by name.

    Raises:
        ValueError: If no file is within the limits, or something in the folder is a link to another place.
    """
    files = [file for trial in loop.trials for file in trial.tried]
    front = pareto_front(files, loop.goal)
    if not front:
        raise ValueError(_refusal(files, loop))
    written = _write(loop, front, folder, test_data)
    for path in _written_before({file.name for file in files}, folder):
        if path.name not in {file.file for file in written}:
            path.unlink(missing_ok=True)
            _card_of(path).unlink(missing_ok=True)
    measured = dict(zip(map(id, front), written, strict=True))  # the same numbers wherever a file is listed
    tried = tuple(measured.get(id(file), file) for file in files)
    evaluator = loop.runner.evaluator
    report = CompressReport(
        folder=str(folder),
        metric=evaluator.metric.name,
        max_drop=loop.goal.max_drop,
        optimize=evaluator.optimize,
        target=_target(evaluator),
        dense=tried[0],
        front=written,
        trials=len(loop.trials) - 1,
        failed=tuple(f"{trial.name}: {trial.reason}" for trial in loop.trials if trial.reason),
        tried=tried,
        seconds=loop.elapsed(),
        model=loop.runner.model.name,
        limits=limits or {},
        refused=_refused(files, loop),
        mode=evaluator.metric.mode,
        budgets=loop.goal.budgets,
        samples=len(keras.tree.flatten(evaluator.validation)[0]),
    )
    for file in written:
        _write_here(_card_of(folder / file.file), report.card(file).encode())
    _write_here(folder / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    _write_here(folder / "report.html", compress_page(report).encode())
    return report


def _refused(files: Sequence[MeasuredFile], loop: SearchLoop) -> tuple[MeasuredFile, ...]:
    """Return the files of the front of averages that lose too much of a class or group, the smallest first."""
    goal = loop.goal
    alone = {id(file): replace(file, worst_group=None) for file in files}
    front = pareto_front(alone.values(), goal)
    refused = [file for file in files if alone[id(file)] in front and goal.excess(file)]
    return tuple(sorted(refused, key=goal.size))


def _write(
    loop: SearchLoop, front: Sequence[MeasuredFile], folder: Path, test_data: tuple[Any, Any] | None
) -> tuple[MeasuredFile, ...]:
    """Write the files of the front, and return what is known of them then."""
    evaluator, written = loop.runner.evaluator, []
    for number, (file, latency) in enumerate(zip(front, _latencies(loop, front), strict=True), 1):
        content, name = _content(loop, file), f"{number:02}_{file.name}.tflite"
        _write_here(folder / name, content)
        test_score = None if test_data is None else evaluator.score(content, test_data)
        written.append(replace(file, file=name, latency_ms=latency, test_score=test_score))
    return tuple(written)


def _latencies(loop: SearchLoop, files: Sequence[MeasuredFile]) -> list[float | None]:
    """Return the latency of each file, and measure it where no trial has; None for a target."""
    evaluator = loop.runner.evaluator
    untimed = [file for file in files if file.latency_ms is None and _target(evaluator) is None]
    times = iter(evaluator.milliseconds([_content(loop, file) for file in untimed]) if untimed else [])
    return [next(times) if file in untimed else file.latency_ms for file in files]


def _target(evaluator: FileEvaluator) -> str | None:
    """Return the name of the target; None for phones and computers."""
    if evaluator.npu is not None:
        return evaluator.npu.accelerator
    return None if evaluator.micro is None else "micro"


def _content(loop: SearchLoop, file: MeasuredFile) -> bytes:
    return next(loop.content(trial, file) for trial in loop.trials if file in trial.tried)


def _card_of(path: Path) -> Path:
    """Return where the model card of a file is written."""
    return path.with_name(f"{path.name}.md")


def _refusal(files: Sequence[MeasuredFile], loop: SearchLoop) -> str:
    """Say that no file is within the limits, and what the closest ones miss."""
    goal, metric = loop.goal, loop.runner.evaluator.metric.name
    limits = [f"max_drop={goal.max_drop:g} of {metric!r}"]
    limits += [f"at most {_number(limit)} {UNITS[name]}" for name, limit in goal.budgets.items()]
    closest = sorted(files, key=goal.excess)[:CLOSEST]
    return (
        f"Expected a file for {' and '.join(limits)}. Received: {len(files)} files, none of which fits. The closest: "
        f"{'; '.join(f'{file.name} {_missed(file, goal)}' for file in closest)}. All trials are kept: search longer, "
        f"or allow more in another folder."
    )


def _missed(file: MeasuredFile, goal: Goal) -> str:
    """Return what a file has more of than it may have."""
    missed = [f"loses {file.drop:.4g}"] if file.drop > goal.max_drop else []
    group = file.worst_group
    missed += [str(group)] if group is not None and group.excess > 0 else []
    sizes = {name: getattr(file, name) or 0 for name in goal.budgets}
    missed += [f"has {_number(size)} {UNITS[name]}" for name, size in sizes.items() if size > goal.budgets[name]]
    return ", ".join(missed)


def _number(size: float) -> str:
    return f"{size:,}" if isinstance(size, int) else f"{size:,.4g}"


def _written_before(names: set[str], folder: Path) -> list[Path]:
    """Return the files in the folder that this search may have written: a number, and the name of a file it made."""
    numbered = ((path, *path.stem.partition("_")) for path in folder.glob("*.tflite"))
    return [path for path, number, _, name in numbered if path.is_file() and number.isdecimal() and name in names]


def _write_here(path: Path, content: bytes) -> None:
    """Write a file into the folder, and not where a link in its place points to."""
    if path.is_symlink():
        raise ValueError(
            f"Expected a file, or none, in the folder of the search. Received: {str(path)!r}, a link to another "
            f"place. Remove it, and search again: all trials are kept."
        )
    write_atomically(path, content)
