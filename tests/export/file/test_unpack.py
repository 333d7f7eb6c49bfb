"""Reading of packed files. The truth is a container written here by hand, byte by byte; nothing in it is trusted."""

import lzma
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.file.container import unpack

WORDS = np.random.default_rng(5).choice(4, 300, p=[0.7, 0.1, 0.1, 0.1]).astype("<u4").tobytes()
STORED, DEFLATE, LZMA = range(3)
PLAIN_1, STEPS_4, RUNS_1, SCALED, FOLDED_4, ROWS, NEAR = 0, 5, 6, 12, 13, 14, 15


def deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def raw_lzma(data):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**22}]
    return lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def container(whole, pieces=(), streams=(), *, version=1, size=None, count=None, checksum=None, end=b""):
    """Write a file: `pieces` are (start, size, form, detail), `streams` (coder, packed bytes), the rest first."""
    table = b"".join(struct.pack("<IIBQ", *piece) for piece in pieces)
    table += b"".join(struct.pack("<BI", coder, len(packed)) for coder, packed in streams)
    header = struct.pack(
        "<3sBQIIBI",
        b"TFZ",
        version,
        len(whole) if size is None else size,
        zlib.crc32(whole) if checksum is None else checksum,
        len(pieces) if count is None else count,
        STORED,
        len(table),
    )
    return header + table + b"".join(packed for _, packed in streams) + end


def planes(entries):
    return [entries[place::4] for place in range(4)]


SCALES = np.random.default_rng(5).uniform(1, 2, 64).astype("<f4")
HALF = int(np.float32(0.5).view(np.uint32)) << 32
FILE = b"head" + WORDS + b"gap" + (SCALES / 2).tobytes() + SCALES.tobytes() + b"tail"
DIFFERENCES = np.diff(np.frombuffer(WORDS, "<u4"), prepend=np.uint32(0)).tobytes()
PIECES = [(4, 1200, STEPS_4, 0), (1463, 256, PLAIN_1, 0), (1207, 256, SCALED, HALF + 1)]
STREAMS = [
    (LZMA, raw_lzma(b"headgaptail")),
    *((DEFLATE, deflate(plane)) for plane in planes(DIFFERENCES)),
    (STORED, SCALES.tobytes()),
]
GOOD = container(FILE, PIECES, STREAMS)


def test_a_container_written_by_hand_is_read():
    assert unpack(GOOD) == FILE
    assert unpack(bytearray(GOOD)) == unpack(memoryview(GOOD)) == FILE
    assert unpack(container(b"abc", streams=[(STORED, b"abc")])) == b"abc"


def test_what_is_no_packed_file_is_refused():
    for data in (b"", b"TF", b"PK\x03\x04", bytes(100)):
        with pytest.raises(ValueError, match="Expected a packed file, which begins with b'TFZ'"):
            unpack(data)
    with pytest.raises(ValueError, match="Received: 'model.tfz', which does not exist"):
        unpack("model.tfz")
    with pytest.raises(ValueError, match="`max_bytes` to be an integer of at least 1"):
        unpack(GOOD, max_bytes=0)


def test_a_newer_version_is_refused_and_says_what_to_do():
    with pytest.raises(ValueError, match="version 4 at most. Received: version 5. Install the newest"):
        unpack(container(FILE, PIECES, STREAMS, version=5))


def test_every_version_is_read_and_so_are_rows_and_folded_entries():
    assert all(unpack(container(FILE, PIECES, STREAMS, version=version)) == FILE for version in (1, 2, 3, 4))
    signed = np.arange(-64, 64, dtype="<i4")
    folded = np.where(signed < 0, -2 * signed - 1, 2 * signed).astype("<u4").tobytes()
    rows = np.zeros((32, 8), np.uint8)
    rows[:, 3], classes = np.arange(32), np.arange(32) % 6
    pieces = [(0, 512, FOLDED_4, 0), (512, 256, ROWS, 8 * 2**32)]
    streams = [b"", *planes(folded), bytes([3] + 31 * [7]), bytes(classes.tolist())]
    streams += [rows[classes == one, 3].tobytes() for one in range(6)]
    whole = signed.tobytes() + rows.tobytes()
    assert unpack(container(whole, pieces, [(STORED, stream) for stream in streams], version=2)) == whole


def test_a_piece_may_lie_near_the_product_of_another():
    steps = np.random.default_rng(6).integers(-128, 128, 64).astype(np.int8)
    beside = ((SCALES / 2).view("<i4") + steps).tobytes()
    whole = SCALES.tobytes() + beside
    pieces = [(0, 256, PLAIN_1, 0), (256, 256, NEAR, HALF)]
    streams = [(STORED, b""), (STORED, SCALES.tobytes()), (STORED, steps.tobytes())]
    assert unpack(container(whole, pieces, streams)) == whole
    with pytest.raises(ValueError, match="too few steps, or too many"):
        unpack(container(whole, pieces, [*streams[:2], (STORED, bytes(63))]))


def test_every_truncation_is_noticed():
    for length in range(len(GOOD)):
        with pytest.raises(ValueError, match="Expected a (whole )?packed file"):
            unpack(GOOD[:length])


def test_every_flipped_bit_is_noticed_or_harmless():
    harmless = 0
    for place in range(len(GOOD)):
        for bit in range(8):
            damaged = bytearray(GOOD)
            damaged[place] ^= 1 << bit
            try:
                assert unpack(damaged) == FILE
                harmless += 1
            except ValueError as error:
                assert str(error).startswith("Expected a ")
    # The detail of two pieces that need none, and the last bits of streams that do not end with a byte.
    assert harmless < 2 * 64 + 8 * len(STREAMS)


def replaced(place, piece):
    return [*PIECES[:place], piece, *PIECES[place + 1 :]]


LIES = {
    "declares 1,099,511,627,776 bytes": container(FILE, PIECES, STREAMS, size=2**40),
    "declares 4,294,967,295 pieces": container(FILE, PIECES, STREAMS, count=2**32 - 1),
    "goes on after its end": container(FILE, PIECES, STREAMS, end=b"more"),
    "content is not what was packed": container(FILE, PIECES, STREAMS, checksum=1),
    "too few streams, or too many": container(FILE, PIECES, STREAMS[:-1]),
    "a form that does not exist": container(FILE, replaced(1, (1463, 256, 16, 0)), STREAMS),
    "fewer than 256 bytes": container(FILE, replaced(1, (1463, 255, PLAIN_1, 0)), STREAMS),
    "more than 1,048,576": container(FILE, replaced(1, (1463, 2**20 + 1, PLAIN_1, 0)), STREAMS),
    "pieces are longer than it is": container(FILE, replaced(0, (4, 1700, STEPS_4, 0)), STREAMS),
    "pieces overlap": container(FILE, replaced(1, (1462, 256, PLAIN_1, 0)), STREAMS),
    "goes beyond the end": container(FILE, replaced(0, (200, 1200, STEPS_4, 0)), STREAMS),
    "from one that does not fit": container(FILE, replaced(2, (1207, 256, SCALED, HALF + 2)), STREAMS),
    "not a whole number of entries": container(FILE + b"!", replaced(0, (4, 1201, STEPS_4, 0)), STREAMS),
    "holds more than its": container(FILE, PIECES, [*STREAMS[:-1], (DEFLATE, deflate(bytes(10**6)))]),
    "coder 7": container(FILE, PIECES, [(7, STREAMS[0][1]), *STREAMS[1:]]),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie):
    with pytest.raises(ValueError, match=f"Expected a whole packed file.*{lie}"):
        unpack(LIES[lie])


def test_pieces_that_cost_nothing_are_bounded_by_the_size_of_the_file():
    """Pieces without content, whose streams are empty: each takes time, and a packed table of them no bytes."""

    def empty_pieces(count, packed_table):
        pieces = [(256 * number, 256, RUNS_1, 0) for number in range(count)]
        data = container(bytes(256 * count), pieces, [(STORED, b"")] * (2 * count + 1))
        if not packed_table:
            return data
        table = raw_lzma(data[struct.calcsize("<3sBQIIBI") :])
        return data[: struct.calcsize("<3sBQII")] + struct.pack("<BI", LZMA, len(table)) + table

    assert unpack(empty_pieces(4_000, packed_table=True)) == bytes(256 * 4_000)
    assert unpack(empty_pieces(6_000, packed_table=False)) == bytes(256 * 6_000)
    small = empty_pieces(20_000, packed_table=True)
    most = 4096 + len(small) // 16
    with pytest.raises(ValueError, match=f"20,000 pieces; a file of its size has at most {most:,}"):
        unpack(small)


def test_the_caller_can_set_a_lower_limit():
    assert unpack(GOOD, max_bytes=len(FILE)) == FILE
    with pytest.raises(ValueError, match="at most 100 are unpacked"):
        unpack(GOOD, max_bytes=100)


@given(data=st.binary(max_size=200))
def test_random_bytes_behind_the_magic_raise_nothing_but_value_errors(data):
    with pytest.raises(ValueError, match="Expected a (whole )?packed file"):
        unpack(b"TFZ\x02" + data)


DETAILS = st.integers(0, 3) | st.just(2**34)  # a place, a common entry, rows of four


@given(
    pieces=st.lists(
        st.tuples(
            st.integers(0, 900),
            st.sampled_from([256, 260, 300, 512]),
            st.integers(0, 15),
            st.integers(0, 3) | st.just(2**34),
        ),
        max_size=3,
    ),
    streams=st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=600)), min_size=1, max_size=9),
    size=st.integers(0, 2000),
)
def test_containers_of_nonsense_raise_nothing_but_value_errors(pieces, streams, size):
    try:
        whole = unpack(container(b"", pieces, streams, size=size, checksum=0))
    except ValueError:
        return
    assert len(whole) == size
    assert zlib.crc32(whole) == 0


CAPPED = """
import resource, sys
from pathlib import Path
import numpy as np
from tfprune.export.file.container import unpack
status = Path("/proc/self/status").read_text().splitlines()
size = int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 80 * 2**20,) * 2)
random, refused = np.random.default_rng(0), 0
folder = Path(sys.argv[1])
good, whole = (folder / "good").read_bytes(), (folder / "whole").read_bytes()
lies = [path.read_bytes() for path in folder.glob("lie*")]
for _ in range(2000):
    damaged = bytearray(good)
    for place in random.integers(0, len(good), random.integers(1, 5)):
        damaged[place] = random.integers(256)
    lies.append(bytes(damaged))
for data in lies:
    try:
        assert unpack(data) == whole
    except ValueError:
        refused += 1
print(refused)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is capped through /proc and RLIMIT_AS")
def test_lies_and_bombs_stay_within_80_megabytes(tmp_path):
    """Streams of zeros past their size, as content and as a table, and thousands of damaged files."""
    zeros = raw_lzma(bytes(2**27))
    bombs = [
        container(FILE, PIECES, [(LZMA, zeros), *STREAMS[1:]]),
        container(FILE, PIECES, [*STREAMS[:-1], (LZMA, zeros)]),
        struct.pack("<3sBQIIBI", b"TFZ", 1, 2000, 0, 3, LZMA, len(zeros)) + zeros,
    ]
    for index, data in enumerate([*LIES.values(), *bombs]):
        (tmp_path / f"lie{index}").write_bytes(data)
    (tmp_path / "good").write_bytes(GOOD)
    (tmp_path / "whole").write_bytes(FILE)
    command = [sys.executable, "-c", CAPPED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > len(LIES) + len(bombs) + 1900
