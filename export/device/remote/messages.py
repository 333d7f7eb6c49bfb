"""Messages between this machine and a device: a header in JSON, and contents by name."""

from __future__ import annotations

import json
from typing import Any, BinaryIO, NamedTuple

MARK = b"\n\x00tfprune-device\x00\n"  # what a shell prints when it starts comes before it
LARGEST_HEADER = 1 << 20
# The files that a job leaves; no other name is taken, whatever a device says.
RESULTS = ("loaded.json", "loaded.npz", "result.json", "result.npz")


class Message(NamedTuple):
    """What one side says: plain values, and contents of files."""

    header: dict[str, Any]
    contents: dict[str, bytes]


def send(stream: BinaryIO, message: Message) -> None:
    """Write a message."""
    sizes = [[name, len(content)] for name, content in message.contents.items()]
    text = json.dumps([message.header, sizes]).encode()
    stream.write(len(text).to_bytes(8, "big") + text)
    for content in message.contents.values():
        stream.write(content)
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """Read a message; None if the stream has ended before it was whole.

    Raises:
        ValueError: If what comes is not a message.
    """
    length = int.from_bytes(_exactly(stream, 8) or b"", "big")
    if length > LARGEST_HEADER:
        raise ValueError(f"Expected a message. Received: a header of {length:,} bytes.")
    text = _exactly(stream, length) if length else None
    if text is None:
        return None
    try:
        header, sizes = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Expected a message. Received: {text[:40]!r}, which is not JSON.") from error
    contents = {}
    for name, size in sizes:
        content = _exactly(stream, int(size))
        if content is None:
            return None
        contents[str(name)] = content
    return Message(header, contents)


def skip_to_mark(stream: BinaryIO, most: int = LARGEST_HEADER) -> bool:
    """Read past the mark; return False if the stream ends, or goes on, without it."""
    seen = b""
    while not seen.endswith(MARK):
        byte = stream.read(1)
        if not byte or len(seen) > most:
            return False
        seen += byte
    return True


def _exactly(stream: BinaryIO, size: int) -> bytes | None:
    parts, left = [], size
    while left:
        part = stream.read(min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
