"""What DECODE unpacks: written and read here, and compared with what the interpreter makes of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export.file import schema
from tfprune.export.file.document import save_objects
from tfprune.export.file.inspect import inspect
from tfprune.export.file.reader import read
from tfprune.export.file.sparse_tensors import DecodeConstants, decode_weight, encode_pruned, encode_table
from tfprune.export.micro.interpreter import run_files

NO_ZEROS = np.zeros(1, np.int64)


def test_a_pruned_weight_is_a_mask_and_the_values_left():
    """By hand: bits from the highest on, a header of 16 bytes, and the values in order."""
    encoded = encode_pruned(np.array([[0, 5, 0, 0], [-3, 0, 0, 0], [0, 0, 7, 0]], np.int8))
    assert encoded.bits.tolist() == [0b01001000, 0b00100000]
    assert encoded.ancillary.tolist() == [2, 1, 0, 0, 1, *[0] * 11, 5, 253, 7]


def test_a_table_is_an_index_for_each_entry_and_the_values_once():
    encoded = encode_table(np.array([4, 9, 4, -1, 9], np.int8))
    # Values in the order of their bits: 4, 9, -1; the indices 0, 1, 0, 2, 1 take two bits each.
    assert encoded.bits.tolist() == [0b00010010, 0b01000000]
    assert encoded.ancillary.tolist() == [0, 1, 0, 0, 1, 0xF2, 0, *[0] * 9, 4, 9, 255]


def test_minus_zero_is_kept():
    encoded = encode_pruned(np.array([0.0, -0.0, 1.5], np.float32))
    assert encoded.bits.tolist() == [0b01100000]
    assert encoded.bytes == 1 + 16 + 8


def test_too_many_values_have_no_table():
    assert encode_table(np.arange(128, dtype=np.int16)).bits.nbytes == 112
    assert encode_table(np.arange(129, dtype=np.int16)) is None


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
@pytest.mark.parametrize("values", [1, 2, 3, 5, 16, 17, 100])
def test_both_forms_come_back(dtype, values):
    random = np.random.default_rng(values)
    weight = random.integers(-50, 50, values).astype(dtype)[random.integers(0, values, (7, 9))]
    for encoded in (encode_pruned(weight), encode_table(weight)):
        entries, _ = decode_weight(encoded.bits, encoded.ancillary, dtype=dtype, shape=(7, 9), zeros=NO_ZEROS)
        assert entries.reshape(7, 9).tobytes() == weight.tobytes()


def decoding_file(encoded: DecodeConstants, weight: np.ndarray, *, scales: int, axis: int = 0) -> bytes:
    """Return a file that adds what DECODE makes to its input: int8, with scales of 1."""
    one = np.ones(1, np.float32)
    point = schema.QuantizationParametersT(scale=one, zeroPoint=np.zeros(1, np.int64))
    each = schema.QuantizationParametersT(
        scale=np.ones(scales, np.float32), zeroPoint=np.zeros(scales, np.int64), quantizedDimension=axis
    )
    shape = np.array(weight.shape, np.int32)
    small, whole = schema.TensorType.UINT8, schema.TensorType.INT8
    tensors = [
        schema.TensorT(name=b"x", shape=shape, type=whole, buffer=0, quantization=point),
        schema.TensorT(shape=np.array(encoded.bits.shape, np.int32), type=small, buffer=1),
        schema.TensorT(shape=np.array(encoded.ancillary.shape, np.int32), type=small, buffer=2),
        schema.TensorT(name=b"weight", shape=shape, type=whole, buffer=0, quantization=each),
        schema.TensorT(name=b"y", shape=shape, type=whole, buffer=0, quantization=point),
    ]
    custom, add = schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.ADD
    codes = [
        schema.OperatorCodeT(deprecatedBuiltinCode=custom, builtinCode=custom, customCode=b"TFLM_DECODE", version=1),
        schema.OperatorCodeT(deprecatedBuiltinCode=add, builtinCode=add, version=2),
    ]
    steps = [(0, [1, 2], [3], 0, None), (1, [0, 3], [4], schema.BuiltinOptions.AddOptions, schema.AddOptionsT())]
    operators = [
        schema.OperatorT(
            opcodeIndex=code,
            inputs=np.array(inputs, np.int32),
            outputs=np.array(outputs, np.int32),
            builtinOptionsType=kind,
            builtinOptions=options,
        )
        for code, inputs, outputs, kind, options in steps
    ]
    graph = schema.SubGraphT(
        tensors=tensors, inputs=np.array([0], np.int32), outputs=np.array([4], np.int32), operators=operators
    )
    buffers = [schema.BufferT(), schema.BufferT(data=encoded.bits), schema.BufferT(data=encoded.ancillary)]
    return save_objects(schema.ModelT(version=3, operatorCodes=codes, subgraphs=[graph], buffers=buffers))


def tables(weight: np.ndarray, axis: int) -> DecodeConstants:
    """Store a table for each index along an axis, as TensorFlow's own tool does."""
    rows = np.moveaxis(weight, axis, 0)
    tables = [np.unique(row, return_inverse=True) for row in rows]
    step = max(len(values) for values, _ in tables)
    width = max(1, (step - 1).bit_length())
    indices = np.moveaxis(np.stack([np.reshape(row, rows.shape[1:]) for _, row in tables]), 0, axis)
    bits = np.unpackbits(indices.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - width :]
    table = np.concatenate([np.pad(values, (0, step - len(values))) for values, _ in tables]).view(np.uint8)
    header = np.array([0, 1, 0, 0, 1, axis << 4 | width, step, *[0] * 9], np.uint8)
    return DecodeConstants("table", np.packbits(bits), np.concatenate([header, table]))


@pytest.mark.programs
def test_the_interpreter_unpacks_the_same():
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    random = np.random.default_rng(1)
    files, weights = [], []
    for scales, axis in ((1, 0), (6, 0), (8, 1)):
        for count in (2, 7, 16, 100):
            weight = random.integers(-100, 100, count).astype(np.int8)[random.integers(0, count, (6, 8))]
            weight[random.random((6, 8)) < 0.5] = 0
            forms = [encode_pruned(weight), encode_table(weight)]
            forms += [tables(weight, axis)] if scales > 1 else []
            files += [decoding_file(form, weight, scales=scales, axis=axis) for form in forms]
            weights += [weight] * len(forms)
    for file, weight, run in zip(files, weights, run_files(files, [np.zeros((6, 8), np.int8)]), strict=True):
        assert run.reason == ""
        assert np.array_equal(run.raw[0], weight)
        (found,) = read(file).weights
        assert np.array_equal(found.values.raw.view(np.int8).reshape(6, 8), weight)


def test_inspect_shows_it_as_a_weight():
    weight = np.zeros((8, 16), np.int8)
    weight[2, 3:7] = [1, -2, 3, 4]
    row, *rest = inspect(decoding_file(encode_pruned(weight), weight, scales=1)).rows
    assert not rest
    assert (row.name, row.nnz, row.size, row.sparse) == ("weight", 4, 128, True)
    assert (row.codings[-1].value_bytes, row.codings[-1].index_bytes) == (4, 16 + 16)


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, 0), (4, 0), (4, 2), (0, 0)],
    ids=["version of the header", "no version", "version of the values", "a table instead"],
)
def test_a_header_that_lies_is_refused(place, value):
    weight = np.diag(np.arange(1, 9)).astype(np.int8)
    encoded = encode_pruned(weight)
    lies = encoded.ancillary.copy()
    lies[place] = value
    with pytest.raises(ValueError, match="damaged"):
        read(decoding_file(DecodeConstants("pruned", encoded.bits, lies), weight, scales=1))


def test_a_mask_that_does_not_fit_the_values_is_refused():
    weight = np.diag(np.arange(1, 9)).astype(np.int8)
    encoded = encode_pruned(weight)
    for bits, ancillary in (
        (encoded.bits, encoded.ancillary[:-1]),
        (encoded.bits[:-1], encoded.ancillary),
        (encoded.bits | 1, encoded.ancillary),
    ):
        with pytest.raises(ValueError, match="damaged"):
            read(decoding_file(DecodeConstants("pruned", bits, ancillary), weight, scales=1))


def test_what_only_applications_read_is_no_weight():
    weight = np.diag(np.arange(1, 9)).astype(np.int8)
    encoded = encode_pruned(weight)
    custom = encoded.ancillary.copy()
    custom[0] = 200
    assert read(decoding_file(DecodeConstants("pruned", encoded.bits, custom), weight, scales=1)).weights == ()


@settings(max_examples=200, deadline=None)
@given(
    bits=st.binary(max_size=40), ancillary=st.binary(max_size=60), kind=st.sampled_from([None, 0, 2]), data=st.data()
)
def test_anything_is_read_or_refused(bits, ancillary, kind, data):
    head = (
        bytes([kind, 1, 0, 0, 1, data.draw(st.integers(0, 255)), data.draw(st.integers(0, 255))])
        if kind is not None
        else b""
    )
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from(["int8", "int16", "float32", "uint8", "bool"]))
    parts = [np.frombuffer(part, np.uint8) for part in (bits, head + ancillary[len(head) :])]
    try:
        decoded = decode_weight(*parts, dtype=dtype, shape=shape, zeros=NO_ZEROS)
    except ValueError:
        return
    assert decoded is None or decoded[0].size == np.prod(shape, dtype=int)
