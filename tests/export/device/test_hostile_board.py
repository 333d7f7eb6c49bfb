"""A board that answers nonsense: one error in one line, little memory, and a closed connection."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from random import Random

import damaged
import numpy as np
import pytest
from boards import DONE, HELLO, Board, board_that_says, said

from tfprune.export import benchmark, verify
from tfprune.export.command_line import cli
from tfprune.export.device import remote as remotes
from tfprune.export.device.processes import write_job

FILE = Path(__file__).parents[2] / "saved" / "packed.tfz"
HELLO_MESSAGE = said((HELLO, {}))
HUGE = 10**15


def framed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "big") + text


def answer(header, sizes) -> bytes:
    """Return an answer with these sizes, and nothing after it."""
    return HELLO_MESSAGE + framed(json.dumps([header, sizes]).encode())


def bomb() -> bytes:
    """Return an archive of few bytes, whose array has 7 GB."""
    header, block = io.BytesIO(), b"\0" * (1 << 20)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (7 << 30,)})
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("array_0.npy", header.getvalue() + 16 * block)
    content = bytearray(written.getvalue())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # its size, which is not that of the content
        start = content.index(signature) + place
        content[start : start + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    return bytes(content)


def results(name: str, settings: dict, arrays: dict, folder: Path) -> dict[str, bytes]:
    write_job(folder, name, settings=settings, arrays=arrays)
    return {path.name: path.read_bytes() for path in folder.glob(f"{name}.*")}


BAD = {
    "a size of 10^15": (answer(DONE, [["result.npz", HUGE]]), "1,000,000,000,000,000"),
    "a negative size": (answer(DONE, [["result.npz", -1]]), "which is another text"),
    "sizes that add up": (answer(DONE, [[str(index), 1 << 29] for index in range(9)]), "at most 536,870,912 bytes"),
    "a name twice": (answer(DONE, [["result.npz", 3], ["result.npz", 3]]), "which is another text"),
    "a header of 2^62 bytes": (HELLO_MESSAGE + (1 << 62).to_bytes(8, "big"), "a header of 4,611,686"),
    "an answer without ok": (answer({"reason": "", "output": ""}, []), "none named 'ok'"),
    "an answer with another ok": (answer({**DONE, "ok": "yes"}, []), "'ok' to be of type bool"),
    "nested JSON": (HELLO_MESSAGE + framed(b"[" * 100_000), "JSON"),
    "an integer as answer": (HELLO_MESSAGE + framed(b"5"), "b'5', which is another text"),
    "an integer as hello": (said() + framed(b"5"), "b'5', which is another text"),
    "a number as header": (said() + framed(b"[5, []]"), "which is another text"),
    "no results": (answer(DONE, []), "results of a job that ended well"),
    "a banner of 3 MB": (said((HELLO, {}), banner=b"\n\x00tfprune-devic" * 200_000), "1,048,576 bytes of other text"),
}


@pytest.mark.parametrize("name", BAD)
def test_nonsense_is_one_error_and_the_connection_is_closed(name, tmp_path, monkeypatch):
    monkeypatch.setattr(remotes, "_END_SECONDS", 300)  # as long as the others, so that each wait is too long
    content, words = BAD[name]
    remote = board_that_says(content, tmp_path)
    tracemalloc.start()
    with damaged.limited(8, 50), pytest.raises(ValueError, match="It came from 'pi@board'") as caught:
        verify(FILE, on=remote)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert remote._link is None or not remote._link.is_open
    assert peak < 50e6


@pytest.mark.parametrize("job", [verify, benchmark])
def test_a_result_that_unpacks_to_gigabytes_is_refused(job, tmp_path):
    (tmp_path / "job").mkdir()
    files = results("result", {}, {"output": np.ones(3)}, tmp_path / "job")
    remote = board_that_says(said((HELLO, {}), (DONE, {**files, "result.npz": bomb()})), tmp_path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"result.npz': it would take .*It came from"):
        job(FILE, on=remote)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert not remote._link.is_open


@pytest.mark.parametrize(
    ("settings", "arrays", "words"),
    [
        ({"runtime": 3}, {"milliseconds": np.ones(2)}, "'runtime' to be of type str"),
        ({"peak_memory": "much"}, {"milliseconds": np.ones(2)}, "'peak_memory' to be of type int or NoneType"),
        ({"temperature": 10**400}, {"milliseconds": np.ones(2)}, "'temperature' to be a number of 64 bits"),
        ({}, {}, "milliseconds of each run"),
        ({}, {"milliseconds": np.zeros(2)}, "milliseconds of each run, above 0"),
        ({}, {"milliseconds": np.array("fast")}, "milliseconds of each run"),
        ({}, {"milliseconds": np.array([1.0, np.nan])}, "milliseconds of each run"),
    ],
)
def test_measurements_that_are_none_are_refused(settings, arrays, words, tmp_path):
    (tmp_path / "job").mkdir()
    whole = {"runtime": "an interpreter", "machine": "board", "peak_memory": 1, "governor": None, "temperature": None}
    files = results("result", whole | settings, arrays, tmp_path / "job")
    with pytest.raises(ValueError, match=words):
        benchmark(FILE, processes=1, on=board_that_says(said((HELLO, {}), (DONE, files)), tmp_path))


def test_outputs_that_are_texts_are_refused(tmp_path):
    (tmp_path / "job").mkdir()
    files = results("result", {}, {"output": np.array("text")}, tmp_path / "job")
    with pytest.raises(ValueError, match="outputs that are numbers. Received: 'output' of type <U4"):
        verify(FILE, on=board_that_says(said((HELLO, {}), (DONE, files)), tmp_path))


def test_names_that_no_job_leaves_are_not_written(tmp_path):
    (tmp_path / "job").mkdir()
    files = results("result", {}, {"output": np.ones(3)}, tmp_path / "job")
    words = said((HELLO, {}), (DONE, {**files, "../evil": b"x", "model.tflite": b"y"}))
    assert verify(FILE, on=board_that_says(words, tmp_path)).passed
    assert {path.name for path in tmp_path.rglob("*")} == {"job", "words", "result.json", "result.npz"}


def test_the_command_line_prints_one_line_and_exits_with_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "words").write_bytes(BAD["an answer without ok"][0])
    monkeypatch.setattr(remotes, "_transport", lambda *_: Board(tmp_path / "words"))
    assert cli.main(["bench", str(FILE), "--on", "pi@board"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("tfprune: Expected the fields of a Completed. Received: none named 'ok'.")


def test_a_long_reason_is_shortened(tmp_path):
    words = said((HELLO, {}), ({"ok": False, "reason": "x" * 500_000, "output": ""}, {}))
    assert len(verify(FILE, on=board_that_says(words, tmp_path)).reason) == 1000


@pytest.mark.programs
def test_made_up_answers_raise_nothing_else(tmp_path):
    findings, ends = damaged.fuzz("messages", range(300))
    assert not findings
    assert ends["refused"] > 100
    with damaged.messages(tmp_path) as work:
        assert work(Random(0)) in ("accepted", "refused")
