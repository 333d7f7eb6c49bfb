"""Packing of files. The truth is the bytes that went in, and a decoder written here in plain loops."""

import base64
import lzma
import struct
import zlib
from hashlib import sha256

import numpy as np
import pytest
from flipped import FLIPS, flipped
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from other_readers import OTHER_READERS
from plain_streams import join_plainly
from scipy.stats import entropy
from tiers import first

from tfprune.base.arrays import _DICTIONARY_BYTES, _LZMA
from tfprune.export import Runner, inspect, pack, unpack
from tfprune.export.file.container import (
    _MAX_EXPANSION,
    _MAX_PIECE_BYTES,
    _MAX_SINGLE_STREAM_BYTES,
    encode,
    read_model,
)
from tfprune.export.rewriting.sparsify import sparsify

NAMES = ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"]
KINDS = [(width, kind) for kind in ("plain", "steps", "runs", "mask") for width in (1, 2, 4)] + [
    (4, "scaled"),
    (4, "folded"),
    (1, "rows"),
    (4, "near"),
]
MORE = {
    "plain": 0,
    "steps": 0,
    "folded": 0,
    "scaled": -4,
    "runs": 1,
    "mask": 1,
    "rows": 7,
    "near": -3,
}  # streams besides one for each byte of an entry
LZMA2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**22}]


def file_of(*vectors, shapes=()):
    """Return a model that holds these vectors as buffers, and a tensor of each shape for those after the first."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    model.buffers, graph = [], schema.SubGraphT()
    model.subgraphs = [graph] if shapes else None
    graph.tensors = [schema.TensorT() for _ in shapes]
    for place, (tensor, shape) in enumerate(zip(graph.tensors, shapes, strict=True)):
        tensor.buffer, tensor.shape = place + 1, shape
    for vector in vectors:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(vector, np.uint8)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_weight_of_nearly_all_zeros_is_no_bomb_and_one_of_nothing_else_is_not_packed(monkeypatch):
    monkeypatch.setattr("tfprune.export.file.container._ALWAYS_ALLOWED_BYTES", 0)  # spares tests of 64 MiB
    random = np.random.default_rng(0)
    pruned = file_of(np.where(random.random(2**19) < 0.001, random.normal(size=2**19), 0).astype(np.float32))
    assert _MAX_EXPANSION / 2 < len(pruned) / len(pack(pruned)) < _MAX_EXPANSION
    assert unpack(pack(pruned)) == pruned
    empty = file_of(bytes(2**22))
    with pytest.raises(ValueError, match="not nearly all zeros. Received: 4,194,3.*1,000 for each .* Leave them"):
        pack(empty)
    with pytest.raises(ValueError, match="not nearly all zeros"):
        encode(empty, "xz")


@pytest.fixture(scope="session")
def unpacked_plainly():
    def decode(data):
        """Read a packed file as its description says, entry by entry."""
        decoders = [
            bytes,
            lambda packed: zlib.decompress(packed, -15),
            lambda packed: lzma.decompress(packed, lzma.FORMAT_RAW, filters=LZMA2),
        ]
        magic, version, size, checksum, count, coder, length = struct.unpack_from("<3sBQIIBI", data)
        assert (magic, version) in ((b"TFZ", 2), (b"TFZ", 4))
        table, at = decoders[coder](data[25 : 25 + length]), 25 + length
        pieces = [struct.unpack_from("<IIBQ", table, 17 * place) for place in range(count)]
        streams = []
        for coder, length in struct.iter_unpack("<BI", table[17 * count :]):
            streams.append(decoders[coder](data[at : at + length]))
            at += length
        assert at == len(data)
        rest, *streams = streams
        contents = []
        for _, piece, form, detail in pieces:
            width, kind = KINDS[form]
            own = [streams.pop(0) for _ in range(width + MORE[kind])]
            if kind in ("scaled", "near"):
                factor = np.uint32(detail >> 32).view(np.float32)
                product = np.frombuffer(contents[detail % 2**32], np.float32) * factor
                steps = [int(step) for step in np.frombuffer(b"".join(own) or bytes(len(product)), np.int8)]
                contents.append(
                    struct.pack(
                        f"<{len(steps)}i",
                        *(bits + step for bits, step in zip(product.view(np.int32).tolist(), steps, strict=True)),
                    )
                )
            else:
                contents.append(join_plainly(own, width, kind, piece // width, detail))
        whole = b""
        for (start, *_), content in sorted(zip(pieces, contents, strict=True)):
            gap = start - len(whole)
            whole, rest = whole + rest[:gap] + content, rest[gap:]
        whole += rest
        assert (len(whole), zlib.crc32(whole)) == (size, checksum)
        return whole

    return decode


@pytest.mark.parametrize("name", NAMES)
def test_exports_come_back_bit_for_bit_and_plain_loops_agree(unpacked_plainly, cases, name):
    data = cases[name].data
    packed = pack(data)
    assert unpack(packed) == unpacked_plainly(packed) == data
    assert packed == pack(bytearray(data)) == encode(data, "packed"), "the same bytes give the same bytes"
    assert len(packed) < len(encode(data, "gzip"))


@pytest.fixture(scope="module")
def formats():
    """Return a pruned layer in each number format, dense and sparse, and a recurrent layer, by name."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(3)
    pruned = keras.Sequential([keras.Input((64,), batch_size=1), keras.layers.Dense(96), keras.layers.Dense(8)])
    kernel = pruned.layers[0].kernel.numpy()
    pruned.layers[0].kernel.assign(np.where(np.abs(kernel) > np.quantile(np.abs(kernel), 0.9), kernel, 0))
    recurrent = keras.Sequential([keras.Input((5, 8), batch_size=1), keras.layers.LSTM(24)])

    def convert(model, *, optimizations=(), types=()):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations, converter.target_spec.supported_types = [*optimizations], [*types]
        return converter.convert()

    smaller = [tf.lite.Optimize.DEFAULT]
    files = {
        "float32": convert(pruned),
        "float16": convert(pruned, optimizations=smaller, types=[tf.float16]),
        "dynamic": convert(pruned, optimizations=smaller),
        "recurrent": convert(recurrent),
    }
    return files | {f"{name}, sparse": sparsify(files[name]).data for name in ("float32", "float16")}


def test_every_format_comes_back_and_is_smaller_than_under_xz(unpacked_plainly, formats):
    assert formats["float32, sparse"] != formats["float32"]
    for name, data in formats.items():
        packed = pack(data)
        assert unpack(packed) == unpacked_plainly(packed) == data, name
        assert len(packed) < len(encode(data, "xz")), name


def assert_smaller_than_both(data):
    packed = pack(data)
    assert unpack(packed) == data
    assert len(packed) <= min(len(encode(data, "gzip")), len(encode(data, "xz"))) + 64
    return packed


@pytest.mark.parametrize("name", NAMES)
def test_no_export_is_larger_than_under_gzip_or_xz(cases, name):
    assert_smaller_than_both(cases[name].data)
    assert_smaller_than_both(sparsify(cases[name].data).data)


def test_no_format_is_larger_than_under_gzip_or_xz(formats):
    for data in formats.values():
        assert_smaller_than_both(data)


def structured():
    """Yield weights in which xz finds more than a coder of single bytes, by name."""
    random = np.random.default_rng(0)
    angles = 2 * np.pi * np.arange(256)[:, None] * np.arange(129) / 256
    rows = random.normal(size=(16, 256))
    yield "Fourier transform", np.cos(angles)
    yield "Fourier transform in a window", np.hanning(256)[:, None] * np.cos(angles)
    yield "positions", np.sin(np.arange(256)[:, None] / 10000 ** (np.arange(64) / 64))
    yield "few rows", rows[random.integers(0, 16, 256)]
    yield "few values", rows[0, :64][random.integers(0, 64, (128, 128))]
    yield "small integers", random.integers(-8, 8, (128, 256))
    yield "bands", np.lib.stride_tricks.sliding_window_view(random.normal(size=511), 256)
    yield "blocks", np.kron(rows, np.ones((8, 2)))
    yield "the same block again and again", np.kron(np.eye(16), random.normal(size=(16, 16)))
    yield "zeros of both signs", random.normal(size=(128, 256)) * (random.random((128, 256)) < 0.1)
    yield "ramp", np.linspace(0, 1, 2**15)
    yield "noise", random.normal(size=(128, 256))


STRUCTURED = dict(structured())


@pytest.mark.parametrize("read", OTHER_READERS)
def test_other_readers_agree(read, cases, formats, tmp_path):
    files = {name: case.data for name, case in cases.items()} | formats
    files |= {name: file_of(values.astype(np.float32).tobytes()) for name, values in STRUCTURED.items()}
    for name, data in files.items():
        (tmp_path / f"{name}.tfz").write_bytes(pack(data))
    expected = {f"{name}.tfz": sha256(data).hexdigest() for name, data in files.items()}
    assert {name: row.get("digest", row) for name, row in read(tmp_path).items()} == expected


@pytest.mark.parametrize("name", first(*STRUCTURED, count=4))
def test_weights_with_structure_are_no_larger_than_under_gzip_or_xz(unpacked_plainly, name):
    data = file_of(STRUCTURED[name].astype(np.float32).tobytes())
    assert unpacked_plainly(assert_smaller_than_both(data)) == data


def test_far_repeats_raise_the_version_and_nothing_else_does(monkeypatch):
    noise, other = (np.random.default_rng(seed).bytes(2**16) for seed in (5, 6))
    data = file_of(noise, other, noise)
    assert assert_smaller_than_both(data)[3] == 2
    monkeypatch.setitem(_DICTIONARY_BYTES, _LZMA, 2**16)
    assert assert_smaller_than_both(data)[3] == 3


@settings(max_examples=60, deadline=None)
@given(
    vectors=st.lists(
        arrays.arrays(
            st.sampled_from(["<f4", "<f2", "i1", "<i4", "<u2", "<i8"]),
            st.integers(0, 700),
            fill=st.just(0),
        ).map(np.ndarray.tobytes),
        max_size=4,
    )
)
def test_arrays_of_any_kind_come_back(unpacked_plainly, vectors):
    data = file_of(*vectors)
    packed = pack(data)
    assert unpack(packed) == unpacked_plainly(packed) == data
    assert len(packed) <= len(data) + 30


def pruned(zeros, size=30_000):
    random = np.random.default_rng(1)
    return np.where(random.uniform(size=size) < zeros, 0, random.normal(0, 30, size))


@pytest.mark.parametrize("zero", [0, 128])  # older files hold weights as unsigned numbers around a zero point
@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.99])
def test_pruned_integers_come_near_their_entropy(zero, zeros):
    weights = (pruned(zeros).round().clip(-127, 127) + zero).astype("i2").astype("u1")
    _, counts = np.unique(weights, return_counts=True)
    bound = weights.size * entropy(counts, base=2) / 8
    assert bound < len(pack(file_of(weights.tobytes()))) <= 1.03 * bound + 200


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.99])
def test_pruned_floats_take_less_than_positions_at_their_entropy_and_values_as_they_are(dtype, zeros):
    weights = pruned(zeros).astype(dtype)
    bound = weights.size * entropy([zeros, 1 - zeros], base=2) / 8 + np.count_nonzero(weights) * weights.itemsize
    assert len(pack(file_of(weights.tobytes()))) <= bound + 100


def test_groups_of_two_in_four_need_no_more_than_their_choices():
    """Six ways to choose two of four take log2(6) bits, which single entries do not show."""
    random = np.random.default_rng(2)
    scores = random.uniform(size=(8000, 4))
    mask = scores >= np.sort(scores, axis=1)[:, 2:3]
    weights = np.where(mask, random.integers(1, 100, mask.shape), 0).astype(np.int8)
    bound = len(weights) * (np.log2(6) + 2 * np.log2(99)) / 8
    assert len(pack(file_of(weights.tobytes()))) < 1.03 * bound + 300


def test_positions_in_rising_order_are_packed_as_steps():
    """Columns of a sparse matrix, row by row, take no more than the zeros between them would."""
    random = np.random.default_rng(3)
    mask = random.uniform(size=(100, 1000)) > 0.9
    columns = np.concatenate([np.flatnonzero(row) for row in mask]).astype("<u2")
    bound = mask.size * entropy([0.1, 0.9], base=2) / 8
    assert len(pack(file_of(columns.tobytes()))) < 1.2 * bound


def test_scales_of_biases_are_not_stored_beside_those_of_weights(unpacked_plainly):
    weight = np.random.default_rng(4).uniform(1e-3, 1e-2, 3000).astype("<f4")
    bias = weight * np.float32(0.0235)
    one, both = (len(pack(file_of(*vectors))) for vectors in ([weight.tobytes()], [bias.tobytes(), weight.tobytes()]))
    assert both - one < 60
    data = file_of(bias.tobytes(), weight.tobytes())
    assert unpack(pack(data)) == unpacked_plainly(pack(data)) == data


# What pack wrote when its version was 1: a mask, floats, the same halved, and integers.
FIRST_VERSION = (
    b"R7P3>SOx$900000Rs3j11ONa40y_Wz0N?<605bppA^<XFbrldSMqw2LUy$5dF51rMCZm*#eZ0T|HL`mpF2!TY><3=W`lz~5XiLbU^iTi*1;McqL"
    b"{Jm}!2P^2KQLl_=s{pEyx_{ZB9x#EbtpiLXLrPR{!9#d6%Yngv<U1iTf<riELUdWUpVf}fWrA?1{CO2p+n%;@B(9Cq&)xtW1s^70Arv7003j4"
    b"0{{SHpb!86W1tWK0CQ*vFfdS%00I#nIN)Hz0$7=`0RXdSpbP*21;IfIfG`XMz)jLkVx(0Hil7hh;{U(r3~fg}Mx;U^wB+XHL8M!(GKK9_=%{1D"
    b">k4aj_jeJFum1(X0TRF<2m`QFCi4H!N{f~yW>E60ZXe=pW<;oR)1S5(@TRodR}Fx4vJU$Coqm1"
)


def test_files_of_the_first_version_stay_readable():
    random = np.random.default_rng(0)
    weights = np.where(random.uniform(size=600) < 0.9, 0, random.integers(-9, 9, 600)).astype("i1")
    scales = np.float32(1.5) * np.arange(1, 65, dtype="<f4")
    halves = scales * np.float32(0.5)
    packed = base64.b85decode(FIRST_VERSION)
    assert packed[3] == 1
    content = [vector.tobytes() for vector in (weights, scales, halves, np.arange(100, dtype="<i4"))]
    assert unpack(packed) == file_of(*content)


@pytest.mark.programs
def test_rows_of_other_sizes_and_signs_take_less_than_one_table_for_all(unpacked_plainly):
    """Each row is scaled by its largest entry, so what is a small one differs from row to row."""
    random = np.random.default_rng(8)
    rows = np.where(random.uniform(size=(512, 512)) < 0.9, 0, random.normal(size=(512, 512)) + 3)
    rows = rows * random.uniform(5, 20, (512, 1)) * random.choice([-1, 1], rows.shape)
    weights = rows.round().clip(-127, 127).astype(np.int8)
    with_shape, without = (file_of(b"", weights.tobytes(), shapes=shapes) for shapes in ([weights.shape], []))
    values = weights[weights != 0]
    _, counts = np.unique(values, return_counts=True)
    one_table = weights.size * entropy([0.9, 0.1], base=2) / 8 + len(values) * entropy(counts, base=2) / 8
    assert len(pack(with_shape)) < 0.98 * one_table < len(pack(without))
    assert unpack(pack(with_shape)) == unpacked_plainly(pack(with_shape)) == with_shape


def test_small_integers_of_both_signs_take_little_more_than_their_bits():
    biases = np.random.default_rng(9).integers(-256, 256, 4000).astype("<i4")
    assert 4000 * 9 / 8 < len(pack(file_of(biases.tobytes()))) < 4000 * 10 / 8


def test_long_vectors_are_cut_into_pieces():
    weights = np.random.default_rng(5).integers(0, 256, _MAX_PIECE_BYTES + 300, np.uint8).tobytes() + bytes(
        _MAX_PIECE_BYTES
    )
    data = file_of(weights)
    packed = pack(data)
    assert unpack(packed) == data
    assert len(packed) < _MAX_PIECE_BYTES + 2000


@pytest.mark.parametrize("size", [0, 1, 255, 256, 3000, _MAX_SINGLE_STREAM_BYTES])
def test_what_cannot_be_packed_grows_by_the_header_and_next_to_nothing(size):
    noise = np.random.default_rng(6).integers(0, 256, (size // 300 + 1, 300), np.uint8)
    data = file_of(*(row.tobytes() for row in noise), noise.tobytes())
    assert unpack(pack(data)) == data
    assert len(pack(data)) <= len(data) + 30
    garbage = file_of(b"") + np.random.default_rng(7).bytes(size)
    assert unpack(pack(garbage)) == garbage, "what follows the flatbuffer is kept, too"
    assert len(pack(garbage)) <= len(garbage) + 30


def test_what_is_no_model_is_refused(cases):
    for data in (b"", b"TFL3", b"PK\x03\x04 a zip", pack(cases["dense"].data)):
        with pytest.raises(ValueError, match="Expected a plain TFLite file.*bytes that begin with"):
            pack(data)
    with pytest.raises(ValueError, match=r"whole TFLite file.*cut short \(a part .*Copy the file again"):
        pack(cases["dense"].data[:-100])
    with pytest.raises(ValueError, match="Received: 'model.tflite', which does not exist"):
        pack("model.tflite")


@given(flips=FLIPS, name=st.sampled_from(NAMES))
def test_damaged_files_are_refused_or_come_back_as_they_are(cases, flips, name):
    data = flipped(cases[name].data, flips)
    try:
        packed = pack(data)
    except ValueError:
        return
    assert unpack(packed) == data


def test_parts_that_share_parts_without_end_are_refused_at_once(endless):
    with pytest.raises(ValueError, match="used without end"):
        pack(endless)


@pytest.mark.parametrize("name", NAMES)
def test_packed_files_are_read_like_plain_ones(cases, name, tmp_path):
    case = cases[name]
    path = tmp_path / "model.tfz"
    path.write_bytes(pack(case.data))
    assert read_model(path) == read_model(path.read_bytes()) == case.data
    plain, packed = Runner(case.path).predict(case.inputs), Runner(path).predict(case.inputs)
    pairs = zip(plain.values(), packed.values(), strict=True) if isinstance(plain, dict) else [(plain, packed)]
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert inspect(path).file_bytes == path.stat().st_size
