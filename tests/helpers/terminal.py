"""A terminal that shows what a user sees of progress bars."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from unittest import mock

from tfprune.base import output


class Terminal(io.StringIO):
    """Something to print on that somebody watches."""

    def isatty(self) -> bool:
        return True

    def seen(self) -> list[str]:
        """Return the lines as they are in the end: without colors, and without what was drawn over."""
        return lines_of(self.getvalue())


def lines_of(printed: str) -> list[str]:
    text = re.sub(r"\x1b\[\d+m", "", printed)
    assert not text or text.endswith("\n"), "the last line is broken off"
    return [line.rpartition("\r")[2].rstrip() for line in text.split("\n")[:-1]]


@contextlib.contextmanager
def terminal(*, seconds: float = 0.0) -> Iterator[Terminal]:
    """Print on a terminal, where a bar appears after some seconds."""
    with (
        contextlib.redirect_stdout(Terminal()) as shown,
        mock.patch.object(output, "_SECONDS_BEFORE_A_BAR", seconds),
    ):
        yield shown
