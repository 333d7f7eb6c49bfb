"""`tfprune inspect`: what a file holds."""

from __future__ import annotations

import argparse
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_file, add_model_file
from tfprune.export.file.files.destination import check_not_read


def add_inspect(commands: Any) -> None:
    text = "List the inputs, outputs, operators and weights of a .tflite file, with their zeros and the bytes saved."
    examples = "tfprune inspect model.tflite\ntfprune inspect model.tfz --html page.html"
    parser = add_command(commands, "inspect", run=_inspect, text=text, extra="device", examples=examples)
    add_model_file(parser)
    add_file(parser, "--html", metavar="PAGE", help="also write an HTML page with pictures of the zeros")


def _inspect(options: argparse.Namespace) -> Any:
    from tfprune.export.file.files.destination import write_atomically
    from tfprune.export.file.inspecting.inspect import inspect
    from tfprune.export.file.inspecting.page import page
    from tfprune.export.file.model_file import ModelFile

    if options.html:
        check_not_read(options.html, options.model)
        content = page(options.model, inference=ModelFile.open(options.model).inference)
        write_atomically(options.html, content.encode())
    return inspect(options.model)
