"""Files that say that they are small, and unpack to much: each entrance refuses them in little memory.

Memory is what Python and NumPy ask for, above the file.
"""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tracemalloc
import wave
import zipfile
import zlib

import flatbuffers
import numpy as np
import pytest
from file_graphs import FileGraph
from mutations import lying_archive
from tiers import in_test_ci

from tfprune.base.folders import RunFolder
from tfprune.export import add_metadata, inspect
from tfprune.export.device.processes import read_job, write_job
from tfprune.export.file.container import pack, read_model
from tfprune.export.file.document import read_litertlm, read_metadata, save_objects, with_metadata
from tfprune.export.file.report import TensorInfo, append_archive, trailing_archive
from tfprune.export.keras_side.loading import load_arrays, load_model
from tfprune.export.pruning.samples import read_folder
from tfprune.models.tasks import DataReference, unpack_model

MOST = 64_000_000  # bytes
METHODS = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA, "deflate": zipfile.ZIP_DEFLATED}


def array_start(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    """Return a file that TFLite Metadata give labels, without the archive that holds them."""
    graph = FileGraph(0, shape=(1, 8))
    graph.content(graph.dense(graph.input, 4))
    path = tmp_path_factory.mktemp("labeled") / "model.tflite"
    add_metadata(save_objects(graph.model), path, class_names=["a", "b", "c", "d"])
    data = path.read_bytes()
    assert inspect(data).labels
    return data[: len(data) - len(trailing_archive(data))]


def refused(call, size: int) -> str:
    """Return why a call refuses a file of this size, which takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the sentence is returned)
            call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - size < MOST
    assert str(caught.value).endswith(".") and "Expected" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", ["deflate", "bzip2", in_test_ci("lzma")])
def test_labels_behind_a_model(labeled, method, tmp_path):
    data = append_archive(labeled, lying_archive("labels.txt", b"a\nb\nc\nd\n", METHODS[method], says=8))
    assert len(data) < 500_000
    tracemalloc.start()
    report = inspect(data)
    assert tracemalloc.get_traced_memory()[1] - len(data) < MOST
    tracemalloc.stop()
    reason = "Bad CRC-32" if method == "deflate" else "packed by another way than deflate"
    assert reason in report.metadata_problem and report.labels == {}
    assert reason in refused(lambda: add_metadata(data, tmp_path / "new.tflite", class_names=[*"efgh"]), len(data))
    assert list(tmp_path.iterdir()) == []


def test_labels_that_are_too_many(labeled):
    """A line takes far more memory than its one byte."""
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", b"\n" * 20_000_000)
    data = append_archive(labeled, deflated.getvalue())
    tracemalloc.start()
    report = inspect(data)
    assert tracemalloc.get_traced_memory()[1] < MOST
    tracemalloc.stop()
    assert "take more than 1,048,576 bytes" in report.metadata_problem


def steps(path):
    """Return a call that reads the arrays of a step of a long run."""
    folder = path.parent / "run"
    with RunFolder(folder, settings={}, arrays=[]):
        pass
    path.rename(folder / "step.npz")
    with RunFolder(folder, settings={}, arrays=[]) as run:
        return lambda: run.remember("step", dict)


def answer(path):
    """Return a call that reads what a child, or a board, has answered."""
    write_job(path.parent, "result", arrays={"a": np.zeros(3)})
    path.replace(path.parent / "result.npz")
    return lambda: read_job(path.parent, "result")


ENTRANCES = {
    "steps of a run": steps,
    "answer of a board": answer,
    "samples": lambda path: lambda: load_arrays(str(path)),
    "data of a worker": lambda path: DataReference.of(path).load,
}
NUMBERS, MANY = array_start((200,)), array_start((72 << 20,))
LIES = {
    "bzip2": lambda: lying_archive("x.npy", NUMBERS, zipfile.ZIP_BZIP2, says=len(NUMBERS) + 200),
    "lzma": lambda: lying_archive("x.npy", NUMBERS, zipfile.ZIP_LZMA, says=len(NUMBERS) + 200),
    "deflate": lambda: lying_archive("x.npy", NUMBERS, zipfile.ZIP_DEFLATED, says=len(NUMBERS) + 200),
    "bomb": lambda: lying_archive("x.npy", MANY, zipfile.ZIP_DEFLATED, says=len(MANY) + (72 << 20)),  # which is true
    "stored": lambda: stored_lie(array_start((2**31,))),
}


def stored_lie(content: bytes) -> bytes:
    """Return an archive of one array, which is shorter than it and the directory say."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", content)
    data = bytearray(stream.getvalue())
    for place in (data.find(b"PK\x03\x04") + 22, data.rfind(b"PK\x01\x02") + 24):
        struct.pack_into("<I", data, place, 2**31 + 128)
    return bytes(data)


@pytest.mark.parametrize("lie", [in_test_ci(lie) if lie == "lzma" else lie for lie in LIES])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_archives_of_arrays(entrance, lie, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(LIES[lie]())
    size = path.stat().st_size
    refused(ENTRANCES[entrance](path), size)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (array_start((2**31,)), "promises more than it holds"),
        (array_start((2**20, 2**20), "<f8"), "promises more than it holds"),
        (array_start((-4, -1)), "negative length"),
        (array_start((4,), "|O"), "Python objects"),
    ],
)
def test_an_array_whose_header_lies(start, words, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(start + bytes(64))
    assert words in refused(lambda: load_arrays(str(path)), path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("config.json", "deflate"),
        ("model.weights.h5", "deflate"),
        in_test_ci(("metadata.json", "bzip2")),
        in_test_ci(("config.json", "lzma")),
    ],
)
def test_a_saved_model(name, method, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(lying_archive(name, b"{}", METHODS[method], says=2))
    refused(lambda: load_model(str(path)), path.stat().st_size)


def test_a_model_for_workers():
    content = lying_archive("x.npy", NUMBERS, zipfile.ZIP_BZIP2, says=len(NUMBERS) + 200)
    with pytest.raises(ValueError, match="another way than deflate"):
        unpack_model(content)


@pytest.mark.parametrize("packed", ["gzip", in_test_ci("xz"), "tfz"])
def test_packed_models(packed):
    """Those that are models may unpack to as much as `pack` and SECURITY.md allow."""
    if packed == "tfz":
        data = bytearray(pack(labeled_bytes()))
        struct.pack_into("<Q", data, 4, 2**31)  # what it says that it unpacks to
    else:
        data = gzip.compress(bytes(72 << 20), 1) if packed == "gzip" else lzma.compress(bytes(72 << 20), preset=0)
    refused(lambda: read_model(bytes(data)), len(data))


def labeled_bytes() -> bytes:
    graph = FileGraph(0, shape=(1, 8))
    graph.content(graph.dense(graph.input, 4))
    return save_objects(graph.model)


def litertlm(sections) -> bytes:
    """Return a file of LiteRT-LM with a header that lists sections: begin, end and type of each."""
    builder = flatbuffers.Builder(0)
    tables = []
    for first, last, kind in sections:
        builder.StartObject(4)
        builder.PrependUint64Slot(1, first, 0)
        builder.PrependUint64Slot(2, last, 0)
        builder.PrependUint8Slot(3, kind, 0)
        tables.append(builder.EndObject())
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    listed = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, listed, 0)
    inner = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, inner, 0)
    builder.Finish(builder.EndObject())
    header = bytes(builder.Output())
    return (b"LITERTLM" + bytes(16) + struct.pack("<Q", 32 + len(header)) + header).ljust(2**14, b"\0")


@pytest.mark.parametrize(("says", "words"), [(100 << 20, "one of 104,857,600, as it says"), (100, "another number")])
def test_a_language_model_whose_tokenizer_lies(says, words):
    model, packed = labeled_bytes(), struct.pack("<Q", says) + zlib.compress(bytes(100 << 20), 1)
    start = 2**14 + len(model)
    data = litertlm([(2**14, start, 3), (start, start + len(packed), 6)]) + model + packed
    assert words in refused(lambda: read_litertlm(data), len(data))


def test_a_language_model_whose_sections_are_all_of_it():
    size = 2**14 + (1 << 20)
    data = litertlm([(32, size, 3)] * 300) + bytes(1 << 20)
    assert "one with 300 and 0" in refused(lambda: read_litertlm(data), len(data))


def test_metadata_that_share_one_buffer():
    model = with_metadata(labeled_bytes(), {"entry": bytes(1 << 20)})
    from tfprune.export.file.document import load_objects

    objects = load_objects(model)
    (entry,) = objects.metadata
    schema = type(entry)
    objects.metadata = [schema(name=b"%d" % number, buffer=entry.buffer) for number in range(500)]
    data = save_objects(objects)
    tracemalloc.start()
    found = read_metadata(data)
    assert tracemalloc.get_traced_memory()[1] < MOST
    tracemalloc.stop()
    assert len(found) == 500 and {len(content) for content in found.values()} == {1 << 20}


def test_pictures_and_sounds(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("L", (6_000, 6_000)).save(tmp_path / "a.png", compress_level=1)
    inputs = [TensorInfo("x", (None, 8, 8, 3), "float32")]
    call = lambda: read_folder(tmp_path, inputs, limits=(0, 1), most=4)  # noqa: E731
    assert "it would take 144,000,000 bytes" in refused(call, (tmp_path / "a.png").stat().st_size)
    (tmp_path / "a.png").unlink()
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(8))
    data = bytearray((tmp_path / "a.wav").read_bytes())
    for place in (4, 40):
        struct.pack_into("<I", data, place, 2**32 - 2)  # its bytes, as it says
    (tmp_path / "a.wav").write_bytes(data)
    tracemalloc.start()
    samples = read_folder(tmp_path, [TensorInfo("x", (None, 4), "float32")], limits=(-1, 1), most=4)
    assert tracemalloc.get_traced_memory()[1] < MOST
    tracemalloc.stop()
    assert samples.shape == (1, 4)
