"""`tfprune completion`: a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from tfprune.export.command_line.commands.base import add_command
from tfprune.report import Report


@dataclass(frozen=True)
class Script(Report):
    """The script for a shell; prints as it is."""

    shell: str
    script: str

    def __str__(self) -> str:
        return self.script


def add_completion(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command; `whole` is the parser of the whole command line, which the script describes."""
    text = "Print a script that lets a shell complete the commands and options of tfprune."
    examples = """
tfprune completion bash > ~/.local/share/bash-completion/completions/tfprune
tfprune completion zsh > ~/.zfunc/_tfprune    # with `fpath+=~/.zfunc` before compinit in .zshrc
tfprune completion fish > ~/.config/fish/completions/tfprune.fish
"""
    parser = add_command(commands, "completion", run=_completion, text=text, extra="completion", examples=examples)
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh", "fish", "powershell"], help="the shell")
    parser.set_defaults(whole=whole)


def _completion(options: argparse.Namespace) -> Script:
    import shtab

    return Script(options.shell, shtab.complete(options.whole, options.shell))
