"""Metadata of files: named bytes that interpreters ignore, TFLite Metadata, and files of LiteRT-LM."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import DAMAGE_ERRORS, FlatbufferTable
from tfprune.export.file.report import reason_of

# Named bytes in a .tflite file that interpreters ignore: its metadata.

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
    read_root = schema.Model.GetRootAs  # here, where a missing package is not taken for damage
    try:
        model = read_root(data, 0)
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


# Read and write TFLite Metadata, the flatbuffer that names a file's labels and how its inputs are normalized.
#
# Source: metadata_schema.fbs of MediaPipe Tasks, version 1.5.0.

ENTRY = "TFLITE_METADATA"  # its name among the metadata of a file
_IDENTIFIER = b"M001"
LATEST, FIRST = b"1.5.0", b"1.0.0"  # versions of the format
AXIS_LABELS = 2  # the type of an associated file that names the entries of an output's last axis
GRAYSCALE, RGB = 2, 1
_TABLE_BYTES = 8  # that a table takes at least, with the offset that leads to it
_MAX_READS_PER_BYTE = 2  # texts may be shared; parts that point at each other could go on for ever

# The fields of each table, in the order of their slots. A union takes two: first the number of its type.
_TABLES = {
    "ModelMetadata": "name:string description:string version:string subgraph_metadata:[SubGraphMetadata] "
    "author:string license:string associated_files:[AssociatedFile] min_parser_version:string",
    "SubGraphMetadata": "name:string description:string input_tensor_metadata:[TensorMetadata] "
    "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] input_process_units:[ProcessUnit] "
    "output_process_units:[ProcessUnit] input_tensor_groups:[TensorGroup] output_tensor_groups:[TensorGroup] "
    "custom_metadata:[CustomMetadata]",
    "TensorMetadata": "name:string description:string dimension_names:[string] content:Content "
    "process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]",
    "AssociatedFile": "name:string description:string type:byte locale:string version:string",
    "TensorGroup": "name:string tensor_names:[string]",
    "CustomMetadata": "name:string data:[ubyte]",
    "Stats": "max:[float] min:[float]",
    "Content": "content_properties:ContentProperties range:ValueRange",
    "ValueRange": "min:int max:int",
    "FeatureProperties": "",
    "ImageProperties": "color_space:byte default_size:ImageSize",
    "ImageSize": "width:uint height:uint",
    "BoundingBoxProperties": "index:[uint] type:byte coordinate_type:byte",
    "AudioProperties": "sample_rate:uint channels:uint",
    "ProcessUnit": "options:ProcessUnitOptions",
    "NormalizationOptions": "mean:[float] std:[float]",
    "ScoreCalibrationOptions": "score_transformation:byte default_score:float",
    "ScoreThresholdingOptions": "global_score_threshold:float",
    "BertTokenizerOptions": "vocab_file:[AssociatedFile]",
    "SentencePieceTokenizerOptions": "sentencePiece_model:[AssociatedFile] vocab_file:[AssociatedFile]",
    "RegexTokenizerOptions": "delim_regex_pattern:string vocab_file:[AssociatedFile]",
}
_UNIONS = {
    "ContentProperties": ("FeatureProperties", "ImageProperties", "BoundingBoxProperties", "AudioProperties"),
    "ProcessUnitOptions": (
        *("NormalizationOptions", "ScoreCalibrationOptions", "ScoreThresholdingOptions"),
        *("BertTokenizerOptions", "SentencePieceTokenizerOptions", "RegexTokenizerOptions"),
    ),
}
_NUMBERS = {"byte": "<i1", "ubyte": "<u1", "int": "<i4", "uint": "<u4", "float": "<f4"}
_CUSTOM_ALIGNMENT = 16  # bytes, of the data in CustomMetadata


@dataclass
class MetadataTable:
    """A table of the format.

    Attributes:
        kind: Its name in the format, such as `TensorMetadata`.
        fields: The fields that it has, by name: bytes for a text, a number, an array of numbers, a table, or a list
            of texts or tables.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def tables(self, name: str) -> list[MetadataTable]:
        """Return the tables in a field, which is a list or is missing; the list can be added to."""
        return self.fields.setdefault(name, [])

    def within(self) -> Iterator[MetadataTable]:
        """Yield this table and all tables in it."""
        yield self
        for value in self.fields.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, MetadataTable):
                    yield from part.within()


def read_model_metadata(content: bytes) -> MetadataTable:
    """Read TFLite Metadata.

    Args:
        content: The bytes of a file's metadata entry `TFLITE_METADATA`.

    Returns:
        The table `ModelMetadata`.

    Raises:
        ValueError: If they are damaged, or have parts that version 1.5.0 of the format lacks.
    """
    reader = _Reader(content)
    try:
        if content[4:8] != _IDENTIFIER:
            raise ValueError(f"they begin with {content[:8]!r}")
        return reader.table(reader.offset(0), "ModelMetadata")
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"Expected TFLite Metadata of at most version {LATEST.decode()} of the format. Received: "
            f"{len(content):,} bytes that are damaged or newer ({reason_of(error)}). Write the metadata anew with "
            "the program that made the file."
        ) from error


class _Reader:
    """Walks the flatbuffer. Nothing is copied before its length is compared with what is left to be read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MAX_READS_PER_BYTE * len(content)

    def table(self, start: int, kind: str) -> MetadataTable:
        self._count(_TABLE_BYTES)
        slots = start - self._number("<i", start)
        places = [entry and start + entry for entry in self._entries(slots)]
        table = MetadataTable(kind)
        for name, type_name in _fields(kind):
            place = places.pop(0) if places else 0
            if type_name in _UNIONS:
                number = self._number("<B", place) if place else 0
                place, type_name = (places.pop(0) if places else 0), _member(type_name, number)
            if place and type_name:
                table.fields[name] = self._value(place, type_name)
        if any(places):
            raise ValueError(f"{kind} has a field without a name")
        return table

    def offset(self, place: int) -> int:
        """Return where the part lies that an offset leads to."""
        return place + self._number("<I", place)

    def _entries(self, slots: int) -> tuple[int, ...]:
        size = self._number("<H", slots) // 2 - 2
        self._count(0)
        if slots < 0 or size < 0:
            raise ValueError("a table begins outside of them")
        return struct.unpack_from(f"<{size}H", self._content, slots + 4)

    def _value(self, place: int, type_name: str) -> Any:
        if type_name in _NUMBERS:
            return self._array(place, _NUMBERS[type_name], 1)[0].item()
        start = self.offset(place)
        if type_name == "string":
            return self._array(start + 4, "<u1", self._number("<I", start)).tobytes()
        if not type_name.startswith("["):
            return self.table(start, type_name)
        length, part = self._number("<I", start), type_name[1:-1]
        if part in _NUMBERS:
            return self._array(start + 4, _NUMBERS[part], length).copy()
        self._count(4 * length)
        return [self._value(start + 4 + 4 * index, part) for index in range(length)]

    def _array(self, start: int, dtype: str, length: int) -> np.ndarray:
        self._count(np.dtype(dtype).itemsize * length)
        return np.frombuffer(self._content, dtype, length, self._inside(start))

    def _number(self, layout: str, place: int) -> int:
        return struct.unpack_from(layout, self._content, self._inside(place))[0]

    def _inside(self, place: int) -> int:
        if place < 0:
            raise ValueError("a part begins before them")
        return place

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("their parts together are longer than they are")


def _fields(kind: str) -> list[list[str]]:
    return [text.split(":") for text in _TABLES[kind].split()]


def _member(union: str, number: int) -> str:
    """Return the type that a union has by its number; an empty text where it has none."""
    if number > len(_UNIONS[union]):
        raise ValueError(f"{union} has no type {number}")
    return _UNIONS[union][number - 1] if number else ""


def write_model_metadata(table: MetadataTable) -> bytes:
    """Return a table `ModelMetadata` as the bytes that `read_model_metadata` reads; equal tables give equal bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, table), _IDENTIFIER)
    return bytes(builder.Output())


def _write_table(builder: Any, table: MetadataTable) -> int:
    """Write a table behind all its parts, and return where it is."""
    parts: list[tuple[str, Any]] = []  # what each slot gets: the name of the builder's method, and the value
    for name, type_name in _fields(table.kind):
        value = table.fields.get(name)
        if type_name in _UNIONS:
            number = 0 if value is None else _UNIONS[type_name].index(value.kind) + 1
            parts.append(("PrependUint8Slot", number))
        if type_name in _NUMBERS:
            width = {"byte": "Int8", "int": "Int32", "uint": "Uint32", "float": "Float32"}[type_name]
            parts.append((f"Prepend{width}Slot", value or 0))
        else:
            parts.append(("PrependUOffsetTRelativeSlot", 0 if value is None else _write_part(builder, value)))
    builder.StartObject(len(parts))
    for slot, (method, value) in enumerate(parts):
        getattr(builder, method)(slot, value, 0)
    return builder.EndObject()


def _write_part(builder: Any, value: Any) -> int:
    if isinstance(value, bytes):
        return builder.CreateString(value)
    if isinstance(value, MetadataTable):
        return _write_table(builder, value)
    if isinstance(value, list):
        offsets = [_write_part(builder, part) for part in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    if value.dtype.itemsize > 1:
        return builder.CreateNumpyVector(value)
    builder.StartVector(1, len(value), _CUSTOM_ALIGNMENT)
    for byte in reversed(value.tobytes()):
        builder.PrependByte(byte)
    return builder.EndVector()


# Read a `.litertlm` file of `to_generator`: its model, with the tokenizer in the model's metadata.
#
# Source: https://github.com/google-ai-edge/LiteRT-LM, schema/core/litertlm_header_schema.fbs.

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
