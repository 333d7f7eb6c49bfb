"""`tfprune generate`: let a language model's file continue a text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_file
from tfprune.report import Report

STDERR = 2  # its number in the process


@dataclass(frozen=True)
class _WrittenText(Report):
    """A prompt and its continuation; as a table it is empty, because the continuation was printed already."""

    prompt: str
    text: str

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True)
class _Conversation(_WrittenText):
    """A conversation; empty as a table, too."""

    turns: tuple[_WrittenText, ...]


def add_generate(commands: Any) -> None:
    text = (
        "Continue a text with a .tflite or .litertlm file of tfprune.export.to_generator, and print it as it is "
        "written. --chat holds a conversation instead: each line of the standard input is a turn."
    )
    examples = """
tfprune generate writer.tflite "The quick brown fox"
tfprune generate writer.tflite "Once upon a time" --max-tokens 100 --temperature 0.8 --top-p 0.9 --seed 1
tfprune generate writer.tflite --chat --max-tokens 100
"""
    parser = add_command(commands, "generate", run=_generate, text=text, extra="generate", examples=examples)
    text = "a .tflite or .litertlm file; a .tflite file may be packed, or compressed with gzip or xz"
    add_file(parser, "model", metavar="MODEL", help=text)
    text = "the text to continue; with --chat instructions for the whole conversation (default: none)"
    parser.add_argument("prompt", metavar="TEXT", nargs="?", help=text)
    text = "answer each line of the standard input; for models that were trained on conversations"
    parser.add_argument("--chat", action="store_true", help=text)
    text = "tokens to write at most (default: until the text ends or does not fit any more)"
    parser.add_argument("--max-tokens", type=int, metavar="N", help=text)
    text = "0 takes the likeliest token; above 0, tokens are drawn (default: %(default)s)"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=text)
    parser.add_argument("--top-k", type=int, metavar="N", help="draw among so many of the likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among tokens of this probability together")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="where to end; may be repeated")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the draws (default: another each time)")
    parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="threads of the interpreter (default: %(default)s)"
    )


def _generate(options: argparse.Namespace) -> Any:
    from tfprune.export.device.generating.generator import Generator

    if options.prompt is None and not options.chat:
        raise ValueError("Expected a text to continue, or --chat. Received: neither.")
    if options.chat and options.stop:
        raise ValueError("Expected --chat without --stop, as turns end by themselves. Received: both.")
    names = ("max_tokens", "temperature", "top_k", "top_p", "seed")
    settings = {name: getattr(options, name) for name in names}
    with _quiet_libraries():
        generator = Generator(options.model, threads=options.threads)
        if options.chat:
            talk = generator.chat(instructions=options.prompt or "")
            return _conversation(talk, options, settings)
        pieces = generator.stream(options.prompt, stop=options.stop, **settings)
        return _written(options.prompt, pieces, options)


def _conversation(talk: Any, options: argparse.Namespace, settings: Mapping[str, Any]) -> _Conversation:
    """Answer each line until the input ends, and skip empty ones."""
    lines = (line.rstrip("\n") for line in sys.stdin)
    turns = [_written(line, talk.stream(line, **settings), options) for line in lines if line]
    return _Conversation(options.prompt or "", "".join(turn.text for turn in turns), tuple(turns))


def _written(prompt: str, pieces: Iterator[str], options: argparse.Namespace) -> _WrittenText:
    """Print the pieces of a text, and return it."""
    texts = []
    for piece in pieces:
        texts.append(piece)
        if not options.json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if options.chat and not options.json:
        sys.stdout.write("\n")
    return _WrittenText(prompt, "".join(texts))


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
