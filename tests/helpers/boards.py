"""A board that says what it is told to say, whatever it is asked."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tfprune.export import Remote
from tfprune.export.device.remote import _MARK, _Message, _send

HELLO = {"python": "3.11", "numpy": "2.0", "board": "board"}
DONE = {"ok": True, "reason": "", "output": ""}


class Board:
    """Stands for the way to a device, of which everything that it will ever say is in a file."""

    address = "pi@board"

    def __init__(self, words: Path) -> None:
        self._words = words

    def command(self, words: list[str]) -> list[str]:
        return ["cat", str(self._words)]


def board_that_says(content: bytes, folder: Path) -> Remote:
    """Return a device that says this."""
    words = folder / "words"
    words.write_bytes(content)
    remote = Remote(Board.address)
    remote._way = Board(words)
    return remote


def said(*messages: tuple[Any, dict[str, bytes]], banner: bytes = b"") -> bytes:
    """Return what a board says: a banner, the mark, and messages."""
    stream = io.BytesIO()
    stream.write(banner + _MARK)
    for header, contents in messages:
        _send(stream, _Message(header, contents))
    return stream.getvalue()
