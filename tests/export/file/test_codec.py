"""Packing, reading and writing of model files. The truth is the standard library's own gzip and lzma."""

import gzip
import lzma
import os
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export.file.container import (
    _decode,
    check_destination,
    check_not_read,
    check_suffix,
    encode,
    is_model_file,
    read_model,
    write_atomically,
)
from tfprune.export.file.document import save_objects
from tfprune.export.rewriting.rewrite import rewrite

ONE_GRAPH = save_objects(schema.ModelT(version=3, subgraphs=[schema.SubGraphT()]))
MODEL = ONE_GRAPH + bytes(range(200))
GENERAL = (None, "gzip", "xz")  # for bytes of any kind
METHODS = (*GENERAL, "packed")
PACKED = {method: encode(MODEL, method) for method in METHODS}


@settings(max_examples=60)
@given(data=st.binary(max_size=400), method=st.sampled_from(GENERAL))
def test_what_was_packed_comes_back(data, method):
    if method is None and data.startswith((b"\x1f\x8b", b"\xfd7zXZ\x00", b"TFZ")):
        return  # plain bytes that look packed are taken for packed: a model never begins like this
    assert _decode(encode(data, method)) == data


@settings(max_examples=20)  # xz at its strongest setting takes 100 MB and 10 ms
@given(data=st.binary(max_size=400))
def test_the_standard_library_reads_what_was_packed(data):
    assert gzip.decompress(encode(data, "gzip")) == data
    assert lzma.decompress(encode(data, "xz"), format=lzma.FORMAT_XZ) == data
    assert _decode(gzip.compress(data)) == data
    assert _decode(lzma.compress(data)) == data


def test_packed_bytes_depend_on_nothing_but_the_content():
    packed = encode(MODEL, "gzip")
    assert packed == encode(MODEL, "gzip")
    assert packed[4:8] == bytes(4), "gzip's time stamp"
    assert encode(MODEL, "xz") == encode(MODEL, "xz")


def test_packing_is_at_its_strongest():
    text = " ".join(str(number * number) for number in range(3000)).encode()
    assert len(encode(text, "gzip")) <= len(gzip.compress(text, 9))
    assert len(encode(text, "xz")) == len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert encode(text, None) == text


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'xz' or 'packed'. Received: compress='zip'"):
        encode(MODEL, "zip")


@pytest.mark.parametrize("method", ["gzip", "xz"])
def test_a_bomb_stops_at_the_limit(method):
    bomb = encode(bytes(100_000), method)
    assert len(bomb) < 1000
    assert _decode(bomb, limit=100_000) == bytes(100_000)
    with pytest.raises(ValueError, match="at most 99,999 bytes. Received: data that hold more"):
        _decode(bomb, limit=99_999)


CAPPED = """
import resource, sys
from pathlib import Path
from tfprune.export.file.container import read_model
status = Path("/proc/self/status").read_text().splitlines()
size = int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 200 * 2**20,) * 2)
for path in sys.argv[1:]:
    try:
        read_model(path)
    except ValueError as error:
        print(error)
"""


@pytest.mark.programs
@pytest.mark.skipif(sys.platform != "linux", reason="memory is capped through /proc and RLIMIT_AS")
def test_bombs_stay_within_200_megabytes(tmp_path):
    """Zeros in much fewer bytes: half a gigabyte of no model, 96 MiB behind a model, half a gigabyte declared."""
    packer = lzma.LZMACompressor(preset=0)
    zeros = b"".join([*(packer.compress(bytes(2**22)) for _ in range(128)), packer.flush()])
    packer = lzma.LZMACompressor(preset=0)
    begun = b"".join([packer.compress(MODEL), *(packer.compress(bytes(2**22)) for _ in range(24)), packer.flush()])
    packed = bytearray(encode(MODEL, "packed"))
    packed[4:12] = struct.pack("<Q", 2**29)
    words = ["begins with b'\\x00", "at most 1,000 for each", "at most 67,"]
    (tmp_path / "zeros").write_bytes(zeros)
    (tmp_path / "begun").write_bytes(begun)
    (tmp_path / "packed").write_bytes(packed)
    command = [sys.executable, "-c", CAPPED, *(tmp_path / name for name in ("zeros", "begun", "packed"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for line, word in zip(done.stdout.splitlines(), words, strict=True):
        assert word in line


def test_plain_bytes_have_the_same_limit():
    with pytest.raises(ValueError, match="at most 3 bytes. Received: 4"):
        _decode(b"1234", limit=3)


@pytest.mark.parametrize("method", METHODS[1:])
def test_every_truncation_of_a_packed_file_is_noticed(method):
    packed = encode(MODEL, method)
    for length in range(8, len(packed)):
        with pytest.raises(ValueError, match="cut short|damaged"):
            _decode(packed[:length])


@pytest.mark.parametrize("method", METHODS[1:])
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(method, position, bit):
    packed = bytearray(PACKED[method])
    packed[position % len(packed)] ^= 1 << bit
    try:
        unpacked = _decode(bytes(packed))
    except ValueError:
        return
    # Bits of gzip's header (its time stamp, say) mean nothing; without its first bytes the file is plain.
    assert unpacked in (MODEL, bytes(packed))


def test_what_follows_the_end_is_noticed():
    with pytest.raises(ValueError, match="go on after their end"):
        _decode(encode(MODEL, "xz") + b"more")
    assert _decode(encode(MODEL, "gzip") + bytes(512)) == MODEL, "padding with zeros is harmless"


def test_a_header_cannot_ask_for_gigabytes_of_memory():
    huge = lzma.compress(MODEL, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}])
    with pytest.raises(ValueError, match="[Mm]emory usage limit"):
        _decode(huge)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("suffix", [".tflite", ".gz", ".xz", ""])
def test_the_content_decides_not_the_suffix(tmp_path, method, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(encode(MODEL, method))
    assert read_model(path) == read_model(str(path)) == read_model(path.read_bytes()) == MODEL
    assert read_model(memoryview(path.read_bytes())) == MODEL


@pytest.mark.parametrize("method", METHODS)
def test_the_first_bytes_tell_a_model_file(tmp_path, method):
    path = tmp_path / "model"
    path.write_bytes(encode(MODEL, method))
    assert is_model_file(path)
    path.write_bytes(b"PK\x03\x04 a zip")
    assert not is_model_file(path)
    assert not is_model_file(tmp_path)
    assert not is_model_file("a\0b")


def test_what_is_no_model_is_refused_by_name(tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=r"model\.tflite', which does not exist"):
        read_model(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.tflite', which is empty"):
        read_model(path)
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ValueError, match=r"bytes 4 to 8 are b'TFL3'.*model\.tflite', whose content begins with b'PK"):
        read_model(path)
    saved = tmp_path / "model.keras"
    saved.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(
        ValueError, match=r"Export a Keras model first: tfprune export .*model\.keras model\.tflite\.$"
    ):
        read_model(saved)
    path.write_bytes(MODEL[:6])
    with pytest.raises(ValueError, match="Expected a TFLite file"):
        read_model(path)
    path.write_bytes(MODEL[:10])
    with pytest.raises(ValueError, match=r"model\.tflite', which is damaged or cut short \(a part .*Copy the file"):
        read_model(path)
    path.write_bytes(encode(MODEL, "xz")[:-9])
    with pytest.raises(ValueError, match=r"Cannot unpack '.*model\.tflite'.*cut short"):
        read_model(path)
    with pytest.raises(ValueError, match=f"Cannot read '{tmp_path}'"):
        read_model(tmp_path)
    with pytest.raises(ValueError, match=r"Cannot read 'a\\x00b': embedded null byte"):
        read_model("a\0b")
    with pytest.raises(ValueError, match="a file of 3 bytes"):
        read_model(b"abc")
    with pytest.raises(TypeError, match="path of a TFLite file.*type int"):
        read_model(3)


def test_a_file_is_written_and_replaced_whole(tmp_path):
    path = tmp_path / "model.bin"
    write_atomically(path, b"old")
    write_atomically(str(path), b"new content")
    assert path.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [path]
    usual = tmp_path / "usual"
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "model.bin"
    path.touch()
    path.chmod(mode)
    write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"Cannot write '.*model\.bin': No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_do_not_unpack_to_what_was_checked_are_not_written(tmp_path, method):
    path = tmp_path / "model.bin"
    write_atomically(path, PACKED[method], holds=MODEL)
    assert read_model(path) == MODEL
    other = encode(MODEL[:-1] + b"\0", method)
    for wrong in (other, PACKED[method][:-1], PACKED[method] + b"\1", b""):
        with pytest.raises(
            ValueError, match=r"unpacks to the [\d,]+ bytes that were checked\. Received: '.*model\.bin'"
        ):
            write_atomically(path, wrong, holds=MODEL)
    assert path.read_bytes() == PACKED[method]
    assert list(tmp_path.iterdir()) == [path]


def test_targets_that_cannot_be_written_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"it is a folder. Add a file name"):
        write_atomically(tmp_path, b"")
    with pytest.raises(ValueError, match=r"missing' does not exist. Create it first"):
        write_atomically(tmp_path / "missing" / "model.tflite", b"")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="does not exist"):
        write_atomically(tmp_path / "file" / "model.tflite", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert check_destination(str(tmp_path / "model.tflite")) == Path(tmp_path, "model.tflite")
    with pytest.raises(TypeError, match=r"path of the file to write. Received: an object of type list.$"):
        check_destination([tmp_path])


def test_links_are_kept_and_what_they_point_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/model.tflite")
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "link", content)
        assert (tmp_path / "there" / "model.tflite").read_bytes() == content
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["model.tflite"]
    (tmp_path / "lost").symlink_to("missing/model.tflite")
    with pytest.raises(ValueError, match=r"missing' does not exist"):
        write_atomically(tmp_path / "lost", b"")


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "loop", "null"):
        with pytest.raises(ValueError, match=rf"{name}': it exists and is not a regular file. Choose another path"):
            write_atomically(tmp_path / name, b"")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "loop").is_symlink()
    with pytest.raises(ValueError, match=r"a\\x00b': embedded null byte"):
        write_atomically(f"{tmp_path}/a\0b", b"")


def test_a_target_under_another_name_is_known(tmp_path):
    path = tmp_path / "model"
    check_not_read(str(path), str(path), None)  # neither is there
    path.touch()
    (tmp_path / "link").symlink_to("model")
    check_not_read(str(path), str(tmp_path / "other"), None, "a\0b")
    for name in ("model", "link", "../" + tmp_path.name + "/model"):
        with pytest.raises(ValueError, match="Expected a path to write that is not read as well. Received: "):
            check_not_read(str(tmp_path / name), None, str(path))


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the user who runs the tests may write anywhere
    with pytest.raises(ValueError, match="no permission to write in the folder"):
        check_destination(tmp_path / "model.tflite")


def test_gzip_members_of_other_tools_are_read():
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    assert _decode(packer.compress(MODEL) + packer.flush()) == MODEL


KILLS = """
import os, signal, sys, time
from pathlib import Path
from tfprune.export.file.container import write_atomically

target, contents = Path(sys.argv[1]), [letter * 5_000_000 for letter in (b"a", b"b")]
for delay in map(float, sys.argv[2:]):
    reader, writer = os.pipe()
    child = os.fork()
    while child == 0:
        for content in contents:
            write_atomically(target, content)
            os.write(writer, b".")
    os.read(reader, 1)  # it is at work
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(target.read_bytes() in contents)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killing_a_process_while_it_writes_leaves_a_whole_file(tmp_path):
    delays = np.random.default_rng(0).uniform(0, 0.05, 15)
    command = [sys.executable, "-c", KILLS, tmp_path / "model.tflite", *map(str, delays)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["True"] * 15


@pytest.mark.parametrize(
    ("path", "method", "text"),
    [
        (
            "x.tfz",
            None,
            r"Expected compress='packed' with a path that ends in \.tfz\. .* Let the path end in \.tflite, or",
        ),
        (
            "x.tflite",
            "packed",
            r"compress=None with a path that ends in \.tflite\. .* end in \.tfz, or pass compress=None",
        ),
        ("x.tflite.xz", "gzip", r"Received: compress='gzip', path='x\.tflite\.xz'\. Let the path end in \.gz"),
    ],
)
def test_a_suffix_that_promises_something_else_is_refused_before_any_work(path, method, text):
    with pytest.raises(ValueError, match=text):
        rewrite("missing.tflite", path, compress=method)


@pytest.mark.parametrize("name", ["big.keras", "big.H5", "big.weights.h5", "x.npy", "x.npz"])
def test_a_trained_model_or_data_is_not_overwritten(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"trained")
    with pytest.raises(ValueError, match=r"has the suffix of (a )?(Keras|NumPy) \w+\. Let the path end in \.tfz\."):
        rewrite("missing.tflite", path, compress="packed")
    assert path.read_bytes() == b"trained"


def test_any_other_suffix_takes_any_content():
    for method, suffix in [*zip(METHODS, (".tflite", ".GZ", ".xz", ".tfz"), strict=True), ("packed", ".bin")]:
        check_suffix(Path(f"model{suffix}"), method)
