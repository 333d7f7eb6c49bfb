"""Named bytes in a .tflite file that interpreters ignore: its metadata."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfprune.export.file.report import reason_of
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import load_objects, save_objects
from tfprune.export.file.tflite.reader import DAMAGE_ERRORS

REDUCED_PRECISION = "reduced_precision_support"  # asks for half precision where a processor has it

TOKENIZER = "tfprune_tokenizer"  # the name of a tokenizer's content in a language model's file


def with_metadata(data: bytes, entries: Mapping[str, bytes]) -> bytes:
    """Return a plain .tflite file with more metadata; entries of the same names are replaced.

    Raises:
        ValueError: If the bytes are not a whole TFLite file, or the file would be larger than 2 GB; or (also an
            ImportError) if ai-edge-litert is not installed.
    """
    model = load_objects(data)
    put_metadata(model, entries)
    return save_objects(model)


def put_metadata(model: schema.ModelT, entries: Mapping[str, bytes]) -> None:
    """Add metadata to a file that was taken apart; entries of the same names are replaced."""
    old = [entry for entry in model.metadata or () if (entry.name or b"").decode("utf-8", "replace") in entries]
    model.metadata = [entry for entry in model.metadata or () if entry not in old]
    buffers_in_use = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or ()}
    buffers_in_use |= {0, *(entry.buffer for entry in model.metadata)}
    free = sorted({entry.buffer for entry in old} - buffers_in_use)
    for name, content in entries.items():
        if not free:
            model.buffers.append(schema.BufferT())
        place = free.pop() if free else len(model.buffers) - 1
        model.buffers[place] = schema.BufferT(data=np.frombuffer(content, np.uint8))
        model.metadata.append(schema.MetadataT(name=name.encode(), buffer=place))


def read_metadata(data: bytes | memoryview) -> dict[str, bytes]:
    """Return the metadata by name of a plain .tflite file that was checked when it was opened.

    Raises:
        ValueError: If the bytes are not a whole TFLite file; or (also an ImportError) if ai-edge-litert is not
            installed.
    """
    schema.require_schema()
    try:
        model = schema.Model.GetRootAs(data, 0)
        entries = [model.Metadata(index) for index in range(model.MetadataLength())]
        contents = {entry.Name() or b"": model.Buffers(entry.Buffer()).DataAsNumpy() for entry in entries}
    except DAMAGE_ERRORS as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes with damaged metadata "
            f"({reason_of(error)}). Copy the file again."
        ) from error
    return {
        name.decode("utf-8", "replace"): np.asarray(content, np.uint8).tobytes() for name, content in contents.items()
    }
