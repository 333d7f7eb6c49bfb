"""What a page of the site runs, and what it says that this prints."""

from __future__ import annotations

import re

BLOCK = re.compile(r"```(python|text|sh)\n(.*?)```", re.DOTALL)


def words(printed):
    """Return the lines of a text without numbers, which Keras puts at the end of names too, and what they shape."""
    lines = [re.sub(r"[-\d.,e+_\s]+", "", line) for line in printed.splitlines()]
    return [line for line in lines if line]


def printed_and_shown(page, run):
    """Yield the words of what `run(kind, content)` returns for code or commands, and of the block that shows them."""
    printed = ""
    for kind, content in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "text":
            yield words(printed), words(content)
        else:
            printed = run(kind, content)
