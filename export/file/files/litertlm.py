"""Read a `.litertlm` file of `to_generator`: its model, with the tokenizer in the model's metadata.

Source: https://github.com/google-ai-edge/LiteRT-LM, schema/core/litertlm_header_schema.fbs.
"""

from __future__ import annotations

import struct
import zlib

from tfprune.export.file.files.metadata import TOKENIZER, with_metadata
from tfprune.export.file.tflite.flatbuffer_table import FlatbufferTable

LITERTLM = b"LITERTLM"
_HEADER_END, _HEADER = 24, 32  # where the end of the header stands, and its begin
_MODEL, _SENTENCEPIECE, _JSON = 3, 4, 6  # types of sections
_SIZE_BYTES, _MOST_BYTES = 8, 2**28  # of a tokenizer.json: its size stands before it, and bounds what zlib may give


def read_litertlm(data: bytes) -> bytes:
    """Return the .tflite file in a `.litertlm` file.

    Raises:
        ValueError: If it is damaged, or has several models, as files of other programs may.
    """
    try:
        sections = _sections(data)
        tokenizers = [*sections.get(_SENTENCEPIECE, ()), *map(_unpacked, sections.get(_JSON, ()))]
    except (IndexError, struct.error, zlib.error) as error:
        raise ValueError(f"Expected a whole .litertlm file. Received: a damaged one ({error}).") from error
    models = sections.get(_MODEL, [])
    if len(models) != 1 or len(tokenizers) > 1:
        raise ValueError(
            f"Expected a .litertlm file with one model and one tokenizer, as to_generator writes it. Received: one "
            f"with {len(models)} and {len(tokenizers)}."
        )
    return with_metadata(models[0], {TOKENIZER: tokenizers[0]}) if tokenizers else models[0]


def _sections(data: bytes) -> dict[int, list[bytes]]:
    """Return the contents of a file by type."""
    (end,) = struct.unpack_from("<Q", data, _HEADER_END)
    listed = FlatbufferTable.root(data[_HEADER:end]).table(1)
    sections: dict[int, list[bytes]] = {}
    for section in listed.tables(0) if listed else ():
        first, last = section.number(1, "<Q"), section.number(2, "<Q")
        if not _HEADER <= first <= last <= len(data):
            raise ValueError("Expected a whole .litertlm file. Received: one that is cut short.")
        sections.setdefault(section.number(3, "<B"), []).append(data[first:last])
    return sections


def _unpacked(section: bytes) -> bytes:
    (size,) = struct.unpack_from("<Q", section)
    content = zlib.decompressobj().decompress(section[_SIZE_BYTES:], min(size, _MOST_BYTES) + 1)
    if len(content) != size:
        raise ValueError(f"Expected a tokenizer of {size:,} bytes. Received: another number of them.")
    return content
