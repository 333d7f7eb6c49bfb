"""`tfprune demo`: the whole way on a small network."""

from __future__ import annotations

import argparse
import os
from typing import Any

from tfprune.export.command_line.commands.base import add_command
from tfprune.export.keras_side.loading import load_keras


def add_demo(commands: Any) -> None:
    text = (
        "Prune a small CNN to 90 %, export it, run it without TensorFlow, and search for the best file, in about "
        "two minutes."
    )
    examples = "tfprune demo --output demo-output"
    parser = add_command(commands, "demo", run=_demo, text=text, extra="demo", examples=examples)
    parser.add_argument(
        "--output",
        default="demo-output",
        metavar="DIR",
        help="folder for the models and the picture (default: demo-output)",
    )


def _demo(options: argparse.Namespace) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=os.fdopen(os.dup(2), "w"))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def tell(what: str, done: float) -> None:
            if not console.is_terminal and what != progress.tasks[0].description:  # a log shows no bar
                console.print(what)
            progress.update(task, description=what, completed=done)

        tell("loading TensorFlow", 0.0)
        load_keras()
        from tfprune.export.command_line.demo import run_demo

        return run_demo(options.output, tell=tell)
