"""`tfprune generate`: let a language model's file continue a text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_model_file
from tfprune.report import Report

STDERR = 2  # its number in the process


@dataclass(frozen=True)
class _WrittenText(Report):
    """A prompt and its continuation; as a table it is empty, because the continuation was printed already."""

    prompt: str
    text: str

    def __str__(self) -> str:
        return ""


def add_generate(commands: Any) -> None:
    text = "Continue a text with a .tflite file of tfprune.export.to_generator, and print it as it is written."
    examples = """
tfprune generate writer.tflite "The quick brown fox"
tfprune generate writer.tflite "Once upon a time" --max-tokens 100 --temperature 0.8 --top-p 0.9 --seed 1
"""
    parser = add_command(commands, "generate", run=_generate, text=text, extra="generate", examples=examples)
    add_model_file(parser)
    parser.add_argument("prompt", metavar="TEXT", help="the text to continue")
    text = "tokens to write at most (default: until the text ends or does not fit any more)"
    parser.add_argument("--max-tokens", type=int, metavar="N", help=text)
    text = "0 takes the likeliest token; above 0, tokens are drawn (default: %(default)s)"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=text)
    parser.add_argument("--top-k", type=int, metavar="N", help="draw among so many of the likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among tokens of this probability together")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="where to end; may be repeated")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the draws (default: another each time)")
    parser.add_argument("--threads", type=int, default=4, help="threads of the interpreter (default: %(default)s)")


def _generate(options: argparse.Namespace) -> Any:
    from tfprune.export.device.generating.generator import Generator

    with _quiet_libraries():
        pieces = Generator(options.model, threads=options.threads).stream(
            options.prompt,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            stop=options.stop,
            seed=options.seed,
        )
        text = "".join(_shown(pieces, is_shown=not options.json))
        del pieces  # the runtime also logs when it ends
    return _WrittenText(options.prompt, text)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Drop what native code logs: LiteRT writes a page when it loads a file, and has no setting for that."""
    sys.stderr.flush()
    saved = os.dup(STDERR)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (not a path on every system)
        os.dup2(nowhere.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(saved, STDERR)
        os.close(saved)


def _shown(pieces: Any, *, is_shown: bool) -> Iterator[str]:
    for piece in pieces:
        if is_shown:
            sys.stdout.write(piece)
            sys.stdout.flush()
        yield piece
