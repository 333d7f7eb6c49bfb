"""The format of TFLite Metadata. The truth is a file of TFLite Support's writer, and the classes of the schema."""

import base64
import struct

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export.file.document import (
    _NUMBERS,
    _TABLES,
    _UNIONS,
    MetadataTable,
    read_model_metadata,
    write_model_metadata,
)

# Written by image_classifier.MetadataWriter of tflite-support 0.4.4 for a classifier of RGB images and ten labels.
OF_TFLITE_SUPPORT = base64.b64decode("""
HAAAAE0wMDEUABQAEAAMAAAACAAAAAAAAAAEABQAAAAQAAAAGAAAABwCAABsAgAABQAAADEuMC4wAAAAAQAAABAAAAAMAAwAAAAAAAgABAAMAAAACAAA
ABABAAABAAAAGAAAAAAAEgAYABQAEAAAAAwAAAAIAAQAEgAAABQAAAB4AAAAkAAAAKAAAADMAAAAAQAAABAAAAAAAAoAEAAMAAgABwAKAAAAAAAAAggA
AAA8AAAAMwAAAExhYmVscyBmb3IgY2F0ZWdvcmllcyB0aGF0IHRoZSBtb2RlbCBjYW4gcmVjb2duaXplLgAFAAAAbC50eHQAAAAo////CAAAAAwAAAAB
AAAAAAAAAAEAAAAAAIA/WP///wwAAAAAAAABBAAEAAQAAAApAAAAUHJvYmFiaWxpdGllcyBvZiB0aGUgbGFiZWxzIHJlc3BlY3RpdmVseS4AAAALAAAA
cHJvYmFiaWxpdHkAAQAAABQAAAAQABgAFAAQAAAADAAIAAQAEAAAABQAAAAsAAAAcAAAAIQAAACkAAAAyP///wgAAAAMAAAAAQAAAAAAgL8BAAAAAACA
PwEAAAAMAAAACAAMAAsABAAIAAAAEAAAAAAAAAEIAAwACAAEAAgAAAAIAAAADAAAAAEAAAAAAP9CAQAAAAAA/0IIAAoACQAEAAgAAAAMAAAAAAIGAAgA
BwAGAAAAAAAAAR0AAABJbnB1dCBpbWFnZSB0byBiZSBjbGFzc2lmaWVkLgAAAAUAAABpbWFnZQAAAE8AAABJZGVudGlmeSB0aGUgbW9zdCBwcm9taW5l
bnQgb2JqZWN0IGluIHRoZSBpbWFnZSBmcm9tIGEga25vd24gc2V0IG9mIGNhdGVnb3JpZXMuAA8AAABJbWFnZUNsYXNzaWZpZXIA
""")


def plain(value):
    """Return tables as dicts, for comparisons."""
    if isinstance(value, MetadataTable):
        return {"kind": value.kind} | {name: plain(part) for name, part in value.fields.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(part) for part in value] if isinstance(value, list) else value


EXPECTED = {
    "kind": "ModelMetadata",
    "name": b"ImageClassifier",
    "description": b"Identify the most prominent object in the image from a known set of categories.",
    "min_parser_version": b"1.0.0",
    "subgraph_metadata": [
        {
            "kind": "SubGraphMetadata",
            "input_tensor_metadata": [
                {
                    "kind": "TensorMetadata",
                    "name": b"image",
                    "description": b"Input image to be classified.",
                    "content": {
                        "kind": "Content",
                        "content_properties": {"kind": "ImageProperties", "color_space": 1},
                    },
                    "process_units": [
                        {
                            "kind": "ProcessUnit",
                            "options": {"kind": "NormalizationOptions", "mean": [127.5], "std": [127.5]},
                        }
                    ],
                    "stats": {"kind": "Stats", "max": [1.0], "min": [-1.0]},
                }
            ],
            "output_tensor_metadata": [
                {
                    "kind": "TensorMetadata",
                    "name": b"probability",
                    "description": b"Probabilities of the labels respectively.",
                    "content": {"kind": "Content", "content_properties": {"kind": "FeatureProperties"}},
                    "stats": {"kind": "Stats", "max": [1.0], "min": [0.0]},
                    "associated_files": [
                        {
                            "kind": "AssociatedFile",
                            "name": b"l.txt",
                            "description": b"Labels for categories that the model can recognize.",
                            "type": 2,
                        }
                    ],
                }
            ],
        }
    ],
}


def test_metadata_of_tflite_support_are_read():
    assert plain(read_model_metadata(OF_TFLITE_SUPPORT)) == EXPECTED


def values(type_name):
    if type_name == "string":
        return st.binary(max_size=12)
    if type_name == "float":
        return st.floats(width=32, allow_nan=False).filter(bool)
    if type_name in _NUMBERS:
        limits = np.iinfo(_NUMBERS[type_name])
        return st.integers(int(limits.min), int(limits.max)).filter(bool)  # 0 is what a missing field means
    if type_name in _UNIONS:
        return st.sampled_from(_UNIONS[type_name]).flatmap(tables)
    if not type_name.startswith("["):
        return tables(type_name)
    part = type_name[1:-1]
    if part in _NUMBERS:
        entries = st.lists(values(part), max_size=3)
        return entries.map(lambda numbers: np.array(numbers, _NUMBERS[part]))
    return st.lists(values(part), max_size=2)


def tables(kind):
    fields = [text.split(":") for text in _TABLES[kind].split()]
    optional = {name: st.deferred(lambda type_name=type_name: values(type_name)) for name, type_name in fields}
    return st.fixed_dictionaries({}, optional=optional).map(lambda found: MetadataTable(kind, found))


ROOTS = tables("ModelMetadata")


@settings(max_examples=60, deadline=None)
@given(root=ROOTS)
def test_every_field_is_written_and_read_again(root):
    content = write_model_metadata(root)
    assert plain(read_model_metadata(content)) == plain(root)
    assert write_model_metadata(read_model_metadata(content)) == content


@settings(max_examples=30, deadline=None)
@given(root=ROOTS)
def test_the_classes_of_the_schema_read_the_same(root):
    reason = "mediapipe, which has the classes of the schema, is not installed"
    schema = pytest.importorskip("mediapipe.tasks.metadata.metadata_schema_py_generated", reason=reason)
    unpacked = schema.ModelMetadataT.InitFromPackedBuf(write_model_metadata(root), 0)
    _compare(root, unpacked)


def _compare(table, unpacked):
    for name, value in table.fields.items():
        attributes = {key.lower(): attribute for key, attribute in vars(unpacked).items()}
        attribute = attributes[name.replace("_", "").lower()]
        for ours, theirs in zip(
            *((each if isinstance(each, list) else [each]) for each in (value, attribute)), strict=True
        ):
            if isinstance(ours, MetadataTable):
                assert type(theirs).__name__ == f"{ours.kind}T"
                _compare(ours, theirs)
            else:
                np.testing.assert_array_equal(np.asarray([] if theirs is None else theirs), np.asarray(ours))


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, len(OF_TFLITE_SUPPORT)),
    flips=st.lists(st.integers(0, 8 * len(OF_TFLITE_SUPPORT) - 1), max_size=4),
)
def test_damage_is_refused_or_harmless(cut, flips):
    damaged = bytearray(OF_TFLITE_SUPPORT)
    for flip in flips:
        damaged[flip // 8] ^= 1 << flip % 8
    try:
        write_model_metadata(read_model_metadata(bytes(damaged[:cut] if not flips else damaged)))
    except ValueError as error:
        assert "TFLite Metadata" in str(error)
    else:
        assert cut >= len(OF_TFLITE_SUPPORT) - 1 or flips  # the last byte is the zero behind a text


@pytest.mark.parametrize("content", [b"", b"describes labels.txt", b"\xff" * 40, struct.pack("<I4s", 8, b"M001")])
def test_other_bytes_are_refused(content):
    with pytest.raises(ValueError, match="Expected TFLite Metadata"):
        read_model_metadata(content)


def test_fields_and_types_of_newer_versions_are_refused():
    content = write_model_metadata(MetadataTable("ModelMetadata", {"name": b"x"}))
    root = struct.unpack_from("<I", content)[0]
    slots = root - struct.unpack_from("<i", content, root)[0]
    fields = struct.unpack_from("<H", content, slots)[0]
    # A longer list of slots behind all else, with a ninth field where the first is.
    longer = struct.pack("<HH", 4 + 2 * 9, 8) + content[slots + 4 : slots + fields]
    longer += bytes(2 * 8 - (fields - 4)) + struct.pack("<H", 4)
    moved = bytearray(content) + longer
    struct.pack_into("<i", moved, root, root - len(content))
    with pytest.raises(ValueError, match="ModelMetadata has a field without a name"):
        read_model_metadata(bytes(moved))


def test_parts_that_are_used_again_and_again_are_refused():
    builder = flatbuffers.Builder()

    def table(slot, part, *, count=300):
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(part)
        entries = builder.EndVector()
        builder.StartObject(8)
        builder.PrependUOffsetTRelativeSlot(slot, entries, 0)
        return builder.EndObject()

    builder.StartObject(2)
    unit = builder.EndObject()
    builder.Finish(table(3, table(2, table(4, unit))), b"M001")  # 27 million units in 4 kB
    with pytest.raises(ValueError, match="their parts together are longer than they are"):
        read_model_metadata(bytes(builder.Output()))
