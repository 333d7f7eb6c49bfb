"""Change JSON, bytes and archives of arrays, so that they say nonsense: whole ones, and damaged ones."""

from __future__ import annotations

import copy
import functools
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

NUMBERS = (0, 1, -1, 3, 2**31, 10**15, 2**63, 2**70, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"))
OTHERS = (None, True, "", "..", "../../x", "/", "x\x1b[2J\n\u202e", "x" * 5000, [], {}, [[]], [1, 2], {"a": 1})
DEPTH = 5000


def changed_json(value: Any, random: Random) -> bytes:
    """Return JSON in which one or two places have another value, or none."""
    value = copy.deepcopy([value])
    for _ in range(random.randint(1, 2)):
        holder, key = random.choice([*places(value)])
        kind = random.random()
        if kind < 0.15 and holder is not value:
            del holder[key]
        elif kind < 0.3:
            other, place = random.choice([*places(value)])
            holder[key] = copy.deepcopy(other[place])
        elif kind < 0.35 and isinstance(holder, dict):
            holder[random.choice(OTHERS[2:7])] = holder.pop(key)
        elif isinstance(holder[key], (int, float)) and kind < 0.8:
            holder[key] = random.choice(NUMBERS)
        else:
            holder[key] = copy.deepcopy(random.choice(NUMBERS + OTHERS))  # which the next change may change
        if not value:
            return b""
    text = json.dumps(value[0])
    if random.random() < 0.03:
        text = "[" * DEPTH + text + "]" * random.choice([0, DEPTH])
    return text.encode()


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container and index in JSON."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in list(entries):
        yield value, key
        yield from places(entry)


def changed_bytes(content: bytes, random: Random) -> bytes:
    """Change some bytes, put some in, or cut the end off."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(changed) + 1)
        changed[place : place + random.choice([0, 1, 1, 1, 4])] = random.choice(
            [b"\0", b"\xff", random.randbytes(1), random.choice(NUMBERS[:6]).to_bytes(8, "little", signed=True)]
        )
    return bytes(changed[: random.randrange(len(changed) + 1)] if random.random() < 0.2 else changed)


def changed_archive(arrays: dict[str, np.ndarray], random: Random) -> bytes:
    """Return an archive of arrays, in which one array is another one, or its header lies, or which is damaged."""
    arrays = dict(arrays)
    name = random.choice([*arrays, "other"])
    kind = random.choice(["array", "array", "text", "header", "bomb", "name", "bytes", "many"])
    texts = [key for key, array in arrays.items() if array.dtype.kind == "U" and array.ndim == 0]
    if kind == "text" and texts:
        name = random.choice(texts)
        arrays[name] = np.array(changed_json(json.loads(str(arrays[name])), random).decode())
    elif kind in ("array", "text"):
        arrays[name] = random.choice(other_arrays())
    elif kind == "name" and name in arrays:
        arrays[random.choice(["", "..", "../../x", "x\n", "array_9"])] = arrays.pop(name)
    parts = {f"{key}.npy": _written(array) for key, array in arrays.items()}
    entry = random.choice([*parts] or ["array_0.npy"])
    if kind == "header":
        parts[entry] = _lie(parts.get(entry, b""), random)
    if kind == "bomb":
        parts[entry] = _written(np.zeros(random.choice([10**5, 10**6]), np.uint8))
    if kind == "many":
        parts |= {f"array_{index}.npy": _written(np.zeros(1)) for index in range(50)}
    method = zipfile.ZIP_DEFLATED if kind == "bomb" or random.random() < 0.1 else zipfile.ZIP_STORED
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method, compresslevel=1) as archive:
        for key, content in parts.items():
            archive.writestr(key, content)
    content = written.getvalue()
    return changed_bytes(content, random) if kind == "bytes" else content


def other_arrays() -> list[np.ndarray]:
    """Return arrays of which nobody has thought."""
    return [
        *(np.zeros(0), np.array(np.nan), np.array([1.0, -1.0]), np.array([np.inf, np.nan]), np.zeros((2, 0, 3))),
        *(np.array("text"), np.array(["a", "b"]), np.array(b"x"), np.zeros(3, np.complex64), np.array(True)),
        *(
            np.zeros(2, "M8[s]"),
            np.zeros(2, [("a", "f4")]),
            np.array(10**18),
            np.zeros(4, ">f8"),
            np.zeros(5, np.int8),
        ),
    ]


def _written(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def _lie(content: bytes, random: Random) -> bytes:
    """Return an array whose header is not that of its values."""
    shape = random.choice(["(10**9,)", "(1000000000,)", "(-1,)", "(-4, -1)", "()", "(2,", "9" * 50, "(1,)*3"])
    dtype = random.choice(
        ["'<f4'", "'|O'", "'<U0'", "'<U999999999'", "[('a', '|O')]", "'x'", "3", "('<f4', (1000000,))"]
    )
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"
    text = random.choice([text, text, "(" * 3000, "-" * 9000 + "1", "{", "[" * 90, " if\n  x\n y"])
    header = text.encode().ljust(random.choice([118, 118, 9000])) + b"\n"
    version = random.choice([b"\x01\0", b"\x01\0", b"\x02\0", b"\x03\0", b"\x09\0"])
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header + content[128:]


def lying_archive(name: str, start: bytes, method: int, *, says: int) -> bytes:
    """Return an archive of 72 MiB of zeros after a start, whose directory and checksum say another size."""
    content = bytearray(_large_archive(name, start, method))
    checksum = zlib.crc32((start + bytes(min(says, 2**20)))[:says])
    for place in (content.find(b"PK\x03\x04") + 14, content.rfind(b"PK\x01\x02") + 16):
        struct.pack_into("<I", content, place, checksum)
        struct.pack_into("<I", content, place + 8, says)
    return bytes(content)


@functools.cache
def _large_archive(name: str, start: bytes, method: int) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method, compresslevel=1) as archive, archive.open(name, "w") as entry:
        entry.write(start)
        for _ in range(72):
            entry.write(bytes(2**20))
    return written.getvalue()
