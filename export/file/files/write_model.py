"""Write a model file array by array: the values go from where they are to the disk, without a copy of all of them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import save_objects
from tfprune.export.file.tflite.flatbuffer_table import FlatbufferTable
from tfprune.export.file.tflite.shared_parts import ALIGNMENT

LARGEST_FILE = 2**31  # bytes, which offsets in a flatbuffer can count
BUFFERS, DATA = 4, 0  # the numbers of the fields in the format
LENGTH = 4  # bytes of the number in front of the values


def write_model(model: schema.ModelT, path: Path) -> None:
    """Write a .tflite file. The values behind its tables are read, and written, one array after another.

    Args:
        model: What `load_objects` returns, changed or not. The data of its buffers may be anything that NumPy reads
            as an array and that has `nbytes`.
        path: Where the file goes.

    Raises:
        ValueError: If it does not fit into 2 GB, or a part cannot be packed.
    """
    buffers = enumerate(model.buffers)
    contents = {number: buffer.data for number, buffer in buffers if buffer.data is not None and buffer.data.nbytes}
    tables = bytearray(save_objects(_emptied(model, contents)))
    holders = FlatbufferTable.root(bytes(tables)).tables(BUFFERS)
    starts, end = {}, len(tables)
    for number, values in contents.items():
        starts[number] = -(-(end + LENGTH) // ALIGNMENT) * ALIGNMENT
        end = starts[number] + values.nbytes
        field = holders[number].position(DATA)
        struct.pack_into("<I", tables, field, min(starts[number] - LENGTH - field, LARGEST_FILE))
    if end >= LARGEST_FILE:
        raise ValueError(
            f"Expected a model that makes a TFLite file of less than 2 GB. Received: one of {end / 1e9:.2f} GB."
        )
    with path.open("wb") as stream:
        stream.write(tables)
        for number, values in contents.items():
            stream.write(bytes(starts[number] - LENGTH - stream.tell()))
            stream.write(struct.pack("<I", values.nbytes))
            np.ascontiguousarray(values).tofile(stream)


def _emptied(model: schema.ModelT, contents: Mapping[int, Any]) -> schema.ModelT:
    """Return a copy of a model without the values of buffers, but with the fields that say where they are."""
    emptied = schema.ModelT()
    vars(emptied).update(vars(model))
    empty = schema.BufferT(data=np.zeros(0, np.uint8))
    emptied.buffers = [empty if number in contents else buffer for number, buffer in enumerate(model.buffers)]
    return emptied
