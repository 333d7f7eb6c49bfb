"""Units of work that a child process counts in a file of its folder, and the bar that its parent draws of them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from tfprune.base.progress import Progress

COUNT = "progress.txt"


class ChildProgress:
    """Counts units of work in a child process.

    Args:
        folder: The folder of the job.
        rounds: How often the child works on all of its units.
    """

    def __init__(self, folder: Path, *, rounds: int = 1) -> None:
        self._path, self._rounds = folder / COUNT, rounds
        self._done = self._total = 0

    def expect(self, units: int) -> None:
        """Set the number of units of one round."""
        self._total = self._rounds * units

    def add(self) -> None:
        """Count a unit as done."""
        self._done += 1
        unfinished = self._path.with_suffix(".partial")
        unfinished.write_text(f"{self._done} {self._total}", encoding="utf-8")
        unfinished.replace(self._path)  # whole: the parent may read it at any time


class ChildBar:
    """A context with the bar of a child, drawn in its parent.

    Args:
        folder: The folder of the job.
        verbose: As `Progress` takes it.
        unit: The name of a unit.
    """

    def __init__(self, folder: str | os.PathLike[str], *, verbose: int | str, unit: str) -> None:
        self._path, self._verbose, self._unit = Path(folder, COUNT), verbose, unit
        self._bar: Progress | None = None
        self._seen = 0

    def look(self) -> None:
        """Draw how far the child is."""
        if not self._path.exists():
            return
        done, total = map(int, self._path.read_text(encoding="utf-8").split())
        if self._bar is None:
            self._bar = Progress(total, verbose=self._verbose, unit=self._unit)
        self._bar.add(done - self._seen)
        self._seen = done

    def __enter__(self) -> ChildBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.look()
        if self._bar is not None:
            self._bar.__exit__(kind, error, at)
