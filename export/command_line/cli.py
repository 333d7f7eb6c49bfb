"""The command line: read a command, run it, print its report and return the exit code."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from tfprune.export.command_line.commands import add_compress, add_export, add_micro, add_prune, add_shrink, certify
from tfprune.export.command_line.file_commands import (
    add_bench,
    add_check,
    add_compare,
    add_demo,
    add_generate,
    add_inspect,
    add_reproduce,
    add_train,
    add_verify,
    add_web,
)
from tfprune.export.command_line.options import add_completion, printed
from tfprune.export.file.report import reason_of
from tfprune.report import printable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything loads TensorFlow, which is noisy


_COMMANDS = (
    add_demo,
    add_compress,
    add_prune,
    add_shrink,
    add_export,
    add_inspect,
    add_verify,
    add_compare,
    add_check,
    add_bench,
    add_train,
    add_generate,
    add_micro,
    add_web,
)
_EPILOG = """\
`tfprune COMMAND --help` explains a command, with examples.

exit codes:
  0  done, and what was checked is right
  1  a check failed: a file does not run on the samples, or differs from what it was compared with;
     `compare` found a loss above a limit; `check` found a broken rule; `reproduce` made another file;
     or a search had no time to try anything
  2  it could not be done: a missing file, a wrong shape, an unknown option, a rule of `check` that
     could not be measured, something that `reproduce` needs and does not have

TensorFlow's start-up messages are hidden. TF_CPP_MIN_LOG_LEVEL=0 tfprune COMMAND ... shows them.
"""

_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*)' \(choose from (.*)\)")
_NUMBER = re.compile(r"argument (.+?): invalid (float|int) value: '(.*)'")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")


class _Parser(argparse.ArgumentParser):
    """A parser that says what it expected, and which command or value a misspelled one is close to."""

    def error(self, message: str) -> NoReturn:
        match = _CHOICE.fullmatch(message)
        if match:
            argument, word, choices = match[1], match[2], re.findall(r"[\w:-]+", match[3])
            message = f"Expected {argument} to be one of {', '.join(choices)}. Received: {word}."
            message += _meant(word, choices)
        match = _NUMBER.fullmatch(message)
        if match:
            kind = {"float": "a number", "int": "a whole number"}[match[2]]
            percent = _PERCENT.fullmatch(match[3]) if match[2] == "float" else None
            meant = f" Did you mean {float(percent[1]) / 100:g}?" if percent else ""
            message = f"Expected {match[1]} to be {kind}. Received: {match[3]}.{meant}"
        super().error(message)


class _Command(_Parser):
    """The parser of one command, which refuses unknown options before missing ones."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options = [*re.findall(r"--[a-z][\w-]*", self.format_usage()), "--help"]
        for word in args or ():
            name = word.partition("=")[0]
            if re.match("--[a-z]", name) and not any(option.startswith(name) for option in options):
                self.error(f"Expected one of the options above. Received: {name}.{_meant(name, options)}")
        return super().parse_known_args(args, namespace)


def _meant(word: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.lower(), choices, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 1 if a check failed, or 2 if it could not be done."""
    parser = _parser()
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    if "command" not in options:
        parser.print_help(sys.stderr)
        return 2
    try:
        with _orderly_end(), _warnings_in_lines(options):
            write = certify(options, words) if getattr(options, "certificate", None) else None
            report = options.command(options)
            if write is not None:
                write(report)
    except (TypeError, ValueError) as error:
        return _fail(printed(error, options))
    except OSError as error:
        return _fail(f"{error.filename!r}: {reason_of(error)}." if error.filename else f"{reason_of(error)}.")
    except ImportError as error:
        return _fail(f"{reason_of(error)}. {options.needs}")
    except KeyboardInterrupt:
        print("tfprune: stopped", file=sys.stderr)
        return 130
    try:
        print(json.dumps(report.as_dict(), indent=2) if options.json else str(report), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        if not isinstance(error, BrokenPipeError):  # a reader may have enough, such as `head`
            return _fail(f"Cannot print the report: {reason_of(error)}. Free some space, or print it elsewhere.")
    return getattr(report, "exit_code", 0 if getattr(report, "passed", True) else 1)


def _fail(message: str) -> int:
    """Print an error in one line, and return its exit code."""
    print(f"tfprune: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


@contextmanager
def _warnings_in_lines(options: argparse.Namespace) -> Iterator[None]:
    """Print warnings as errors are printed, without the line of this program that they came through."""
    show = warnings.showwarning

    def show_in_line(message: str | Warning, category: type[Warning], *where: Any, **settings: Any) -> None:
        if not issubclass(category, UserWarning):
            show(message, category, *where, **settings)
            return
        text = printable(" ".join(printed(message, options).split()))
        print(f"tfprune: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show_in_line
        yield


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Turn SIGTERM into an exit, so that child processes end and temporary folders are removed."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    import tfprune

    parser = _Parser(
        prog="tfprune",
        description="Make Keras models, and .tflite files of any framework, smaller and faster, and check them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tfprune {tfprune.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Command)
    for add_command in _COMMANDS:
        add_command(commands)
    add_reproduce(commands, parser)
    add_completion(commands, parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
