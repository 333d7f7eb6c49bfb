"""The directive `command-help`: what `tfprune COMMAND --help` prints, taken from the parser itself."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from tfprune.export.command_line import cli


def help_of(command: str) -> str:
    """Return what the command prints with --help, in lines of at most 88 characters."""
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "88"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([*command.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return printed.getvalue()


class CommandHelp(Directive):
    """Print the help of the command that is named; without a name, that of `tfprune` itself."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = help_of(" ".join(self.arguments))
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
