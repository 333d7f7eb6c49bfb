"""Read a model file, packed or not."""

from __future__ import annotations

import os
from pathlib import Path

from tfprune.export.file.files.codec import GZIP, XZ, decode, head_of
from tfprune.export.file.files.source import Source, read_source, source_name
from tfprune.export.file.files.unpack import MAGIC
from tfprune.export.file.report import reason_of
from tfprune.export.file.tflite.check_operators import check_operators
from tfprune.export.file.tflite.check_sparse import check_sparse
from tfprune.export.file.tflite.check_structure import IDENTIFIER, check_structure


def read_model(source: Source) -> bytes:
    """Return the plain .tflite bytes of a file or of bytes, packed or not.

    Args:
        source: A path, or the content of such a file.

    Returns:
        The unpacked flatbuffer.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If the file cannot be read, is empty, damaged, or is not a TFLite file.
    """
    name = source_name(source)
    raw = read_source(source)
    if not raw:
        raise ValueError(f"Expected a TFLite file. Received: {name}, which is empty. Export the model again.")
    try:
        head = head_of(raw)  # all of it may be much
        data = decode(raw) if len(head) < 8 or head[4:] == IDENTIFIER else head
    except ValueError as error:
        raise ValueError(f"Cannot unpack {name}. {reason_of(error)}.") from error
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite file (bytes 4 to 8 are {IDENTIFIER!r}), plain, gzip, xz or packed. "
            f"Received: {name}, whose content begins with {data[:8]!r}."
        )
    try:
        check_structure(data)
        check_sparse(data)
        check_operators(data)
    except ValueError as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {name}, which is damaged or cut short ({reason_of(error)}). "
            "Copy the file again."
        ) from error
    return data


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes whether a file is a TFLite file, plain or packed; one that cannot be read is none."""
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(8)
    except (OSError, ValueError):  # ValueError: a path with a zero byte
        return False
    return head[4:] == IDENTIFIER or head.startswith((GZIP, XZ, MAGIC))
