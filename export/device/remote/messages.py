"""Messages between this machine and a device: a header in JSON, and contents by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from tfprune.base.untrusted import LARGEST_INTEGER, parse_json

MARK = b"\n\x00tfprune-device\x00\n"  # what a shell prints when it starts comes before it
LARGEST_HEADER = 1 << 20
LARGEST_BANNER = 1 << 20  # bytes before the mark
LARGEST_ANSWER = 1 << 29  # bytes of the files that a job leaves
# The files that a job leaves; no other name is taken, whatever a device says.
RESULTS = ("loaded.json", "loaded.npz", "result.json", "result.npz")


class Message(NamedTuple):
    """What one side says: plain values, and contents of files."""

    header: dict[str, Any]
    contents: Mapping[str, bytes | bytearray]


def send(stream: BinaryIO, message: Message) -> None:
    """Write a message."""
    sizes = [[name, len(content)] for name, content in message.contents.items()]
    text = json.dumps([message.header, sizes]).encode()
    stream.write(len(text).to_bytes(8, "big") + text)
    for content in message.contents.values():
        stream.write(content)
    stream.flush()


def receive(stream: BinaryIO, *, most: int = 0) -> Message | None:
    """Read a message; None if the stream has ended before it was whole.

    Args:
        stream: Where it comes from.
        most: The bytes that its contents may have in all.

    Raises:
        ValueError: If what comes is not a message, or a larger one.
    """
    length = int.from_bytes(_exactly(stream, 8) or b"", "big")
    if length > LARGEST_HEADER:
        raise ValueError(f"Expected a message. Received: a header of {length:,} bytes.")
    text = _exactly(stream, length) if length else None
    if text is None:
        return None
    header, sizes = _parts(text)
    if sum(sizes.values()) > most:
        raise ValueError(f"Expected at most {most:,} bytes in a message. Received: {sum(sizes.values()):,}.")
    contents = {}
    for name, size in sizes.items():
        content = _exactly(stream, size)
        if content is None:
            return None
        contents[name] = content
    return Message(header, contents)


def _parts(text: bytes | bytearray) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the two parts of a header: what it says, and the sizes of the contents by name."""
    match parse_json(text):
        case [dict(header), list(entries)] if all(_is_entry(entry) for entry in entries):
            sizes: dict[str, int] = dict(entries)
            if len(sizes) == len(entries):
                return header, sizes
    raise ValueError(f"Expected a message. Received: {bytes(text[:40])!r}, which is another text.")


def _is_entry(entry: Any) -> bool:
    return type(entry) is list and [type(part) for part in entry] == [str, int] and 0 <= entry[1] < LARGEST_INTEGER


def skip_to_mark(stream: BinaryIO) -> bool:
    """Read past the mark; return False if the stream ends without it.

    Raises:
        ValueError: If it is too far away.
    """
    _, own_line = MARK.split(b"\n", 1)  # it begins with the end of a line
    remaining = LARGEST_BANNER
    while remaining:
        line = stream.readline(remaining)
        if not line or line == own_line:
            return bool(line)
        remaining -= len(line)
    raise ValueError(
        f"Expected a message. Received: {LARGEST_BANNER:,} bytes of other text first. Let the shell there print less "
        f"when it starts."
    )


def _exactly(stream: BinaryIO, size: int) -> bytearray | None:
    content = bytearray()
    while len(content) < size:
        part = stream.read(min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return content
