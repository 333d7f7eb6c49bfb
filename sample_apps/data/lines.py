"""Results as lines of JSON: what was found is on disk before the next run begins, and a stopped program goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gathered(
    path: Path,
    runs: Mapping[Hashable, Callable[[], Iterable[Line]]],
    *,
    resume: bool,
    key: Callable[[Line], Hashable],
) -> list[Line]:
    """Do each run and write its lines; with `resume` those only whose lines the file does not hold.

    Args:
        path: The file.
        runs: What to do, by a key.
        resume: Whether the lines of the file count.
        key: Tells the key of the run that a line is from.
    """
    lines = read(path) if resume and path.exists() else []
    known = {key(line) for line in lines}
    with path.open("a" if lines else "w", encoding="utf-8") as results:
        for name, run in runs.items():
            if name not in known:
                found = list(run())
                results.writelines(json.dumps(line) + "\n" for line in found)
                results.flush()
                lines += found
    return lines
