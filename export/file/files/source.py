"""Sources: a file by its path, or its bytes."""

from __future__ import annotations

import os
from pathlib import Path

from tfprune.export.file.report import reason_of

Source = str | os.PathLike[str] | bytes | bytearray | memoryview


def source_name(source: Source) -> str:
    """Return how errors call a source: its path, or the number of its bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"a file of {len(source):,} bytes"
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fspath(source))
    raise TypeError(
        "Expected the path of a TFLite file, or its content as bytes. "
        f"Received: {source!r} of type {type(source).__name__}."
    )


def read_source(source: Source) -> bytes:
    """Return the bytes of a source as they are, still packed.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If the file does not exist or cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    name = source_name(source)
    try:
        return Path(source).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"Expected a TFLite file. Received: {name}, which does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot read {name}: {reason_of(error)}. Check the path and its permissions.") from error
