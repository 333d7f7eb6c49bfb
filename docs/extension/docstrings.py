"""Docstrings are plain text with code in backticks: what reStructuredText alone would read as markup is escaped."""

from __future__ import annotations

import re
from typing import Any

MARKUP = re.compile(r"``?[^`]+``?|[|*]")


def escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape `|` and `*` in place, except in code and examples."""
    in_example = False
    for index, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if not in_example:
            lines[index] = MARKUP.sub(lambda found: f"\\{found[0]}" if len(found[0]) == 1 else found[0], line)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", escape, priority=1)  # before napoleon, which writes markup of its own
    return {"parallel_read_safe": True}
