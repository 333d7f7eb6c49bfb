"""`tfprune micro`: whether a microcontroller runs a file, and the file as C++ source."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_file, add_model_file
from tfprune.report import Report


def add_micro(commands: Any) -> None:
    text = (
        "Run a .tflite file in the interpreter for microcontrollers, and list unsupported operators, the flash and "
        "RAM that the file needs, and the boards that have as much. --c-array writes it as C++ source."
    )
    examples = """
tfprune micro model.tflite --board pico
tfprune micro model.tflite --c-array model.cc
"""
    parser = add_command(commands, "micro", run=_micro, text=text, extra="micro", examples=examples)
    add_model_file(parser)
    parser.add_argument("--board", metavar="NAME", help="a board to compare with, such as pico or nano33")
    text = "path of the C++ source, such as model.cc; the header model.h is written next to it"
    add_file(parser, "--c-array", metavar="FILE", help=text)


@dataclass(frozen=True)
class _Both(Report):
    """Two reports in one."""

    support: Any
    c_array: Any

    @property
    def passed(self) -> bool:
        return self.support.passed

    def __str__(self) -> str:
        return f"{self.support}\n\n{self.c_array}"


def _micro(options: argparse.Namespace) -> Any:
    from tfprune.export.micro.c_array import c_array
    from tfprune.export.micro.micro_support_report import support_of_file

    support = support_of_file(options.model, board=options.board)
    if options.c_array is None or not support.runs:
        return support
    return _Both(support, c_array(options.model, options.c_array, arena=support.arena))
