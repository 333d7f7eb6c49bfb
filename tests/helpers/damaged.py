"""Damaged answers of a board, job files and folders of a search, for what reads them.

`tests/fuzz/untrusted.py` runs many. A finding is another exception than ValueError, a message that is long or names
no file, more than `MEMORY` on top of what the libraries take, more than `SECONDS` for one case, and anything that
changes outside of the folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import signal
import tempfile
import traceback
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from boards import DONE, HELLO, board_that_says
from mutations import NUMBERS, OTHERS, changed_archive, changed_bytes, changed_json, lying_archive

from tfprune.export import benchmark, verify
from tfprune.export.device.processes import read_job, write_job
from tfprune.export.device.remote import _MARK
from tfprune.export.file.report import read_archive
from tfprune.models.tasks import DataReference


def array_of(length: int) -> bytes:
    """Return the header of a .npy file of so many bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (length,)})
    return stream.getvalue()


FILE = Path(__file__).parents[1] / "saved" / "packed.tfz"
MEMORY = 2**29  # bytes
SECONDS = 10
LONGEST = 3000  # characters of a message
LARGEST = 64_000_000  # bytes that an archive may take above its own, and above those that it holds as they are
SIZES = (0, 8, 128, 328, 10**6, 2**26, (72 << 20) + 128, 2**31, 2**32 - 1)  # that an entry may say that it has
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
LIES = [(start, method) for start in (array_of(200), array_of(72 << 20), b"zero\none\n") for method in METHODS]


def fuzz(target: str, cases: range) -> tuple[list[str], Counter[str]]:
    """Run cases; return what was found, and how many ended how."""
    findings: list[str] = []
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, TARGETS[target](Path(name)) as work:
        for number in cases:
            before = peak_bytes()
            try:
                with limited(SECONDS):
                    ends[work(Random(number))] += 1
            except Exception:  # noqa: BLE001 (each is a finding)
                findings.append(f"case {number}: {traceback.format_exc()}")
            if peak_bytes() - before > MEMORY:
                findings.append(f"case {number} took {(peak_bytes() - before) >> 20:,} MiB")
    return findings, ends


def peak_bytes() -> int:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise AssertionError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_message(error: ValueError, *named: object) -> str:
    """Refuse a message that is too long, or names none of some things; return how the case ended."""
    text = str(error)
    assert text.startswith(("Expected ", "Cannot write ")), text[:LONGEST]
    assert len(text) <= LONGEST, f"{len(text):,} characters: {text[:LONGEST]}"
    assert not named or any(str(name) in text for name in named), text
    return "refused"


@contextlib.contextmanager
def messages(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that lets a board answer nonsense to `verify` and `benchmark`."""
    data = FILE.read_bytes()
    write_job(folder, "loaded", settings={"runtime": "interpreter 1.0"})
    measured = {"runtime": "interpreter 1.0", "machine": "board", "peak_memory": 2**20}
    measured |= {"governor": "ondemand", "temperature": 40.0}
    for name, settings, array in (("benchmark", measured, np.ones(5)), ("verify", {}, np.ones((5, 3), np.float32))):
        (folder / name).mkdir()
        write_job(folder / name, "result", settings=settings, arrays={"milliseconds": array})

    def work(random: Random) -> str:
        is_timed = random.random() < 0.5
        results = folder / ("benchmark" if is_timed else "verify")
        words = conversation(random, {**files_of(folder, "loaded"), **files_of(results, "result")})
        with board_that_says(words, folder) as remote:
            try:
                if is_timed:
                    benchmark(data, runs=5, processes=1, on=remote)
                else:
                    labels = random.choice([None, np.zeros(5, int)])
                    verify(data, samples=np.ones((5, 3)), labels=labels, on=remote)
            except ValueError as error:
                is_open = remote._link is not None and remote._link.is_open
                assert not (is_open and "came from" in str(error)), "the link is open"
                return check_message(error)
        return "accepted"

    yield work


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    return {f"{name}.{suffix}": (folder / f"{name}.{suffix}").read_bytes() for suffix in ("json", "npz")}


def conversation(random: Random, files: dict[str, bytes]) -> bytes:
    """Return all that a board says: a banner, the mark, a first message, and an answer with something wrong in it."""
    kind = random.choice(
        ["hello", "header", "header", "sizes", "settings", "arrays", "arrays", "names", "bytes", "banner"]
    )
    if kind == "settings":
        name = random.choice(["loaded.json", "result.json"])
        files[name] = changed_json(json.loads(files[name]), random)
    if kind == "arrays":
        with np.load(io.BytesIO(files["result.npz"])) as stored:
            files["result.npz"] = changed_archive(dict(stored), random)
    if kind == "names":
        files[random.choice([*OTHERS[2:7], "job.json", "model.tflite"])] = files.pop(random.choice([*files]))
    hello: Any = [HELLO, []]
    answer: Any = [DONE, [[name, len(each)] for name, each in files.items()]]
    texts = [json.dumps(hello).encode(), json.dumps(answer).encode()]
    if kind == "hello":
        texts[0] = changed_json(hello, random)
    if kind == "header":
        texts[1] = changed_json([answer[0]], random)[:-1] + b", " + json.dumps(answer[1]).encode() + b"]"
    if kind == "sizes":
        texts[1] = changed_json(answer, random)
    sizes = [len(text) if random.random() < 0.98 else random.choice([0, 2**20, 2**63]) for text in texts]
    framed = [size.to_bytes(8, "big") + text for size, text in zip(sizes, texts, strict=True)]
    banner = random.randbytes(random.choice([10, 10**6, 2 * 10**6])) if kind == "banner" else b""
    said = b"".join([banner, _MARK, *framed, *files.values()])
    return changed_bytes(said, random) if kind == "bytes" else said


@contextlib.contextmanager
def jobs(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that reads damaged files of a job."""
    arrays = {"a/b:0": np.arange(6.0).reshape(2, 3), "": np.zeros((0, 2), np.int8), "text": np.array("text")}
    settings = {"form": "list", "sizes": [1, None, 2.5], "inputs": [{"name": "a", "shape": [None, 3]}]}
    write_job(folder, "whole", settings=settings, arrays=arrays)
    whole = files_of(folder, "whole")

    def work(random: Random) -> str:
        files = {name: folder / f"job.{name}" for name in ("json", "npz")}
        for name, path in files.items():
            remove(path)
            path.write_bytes(whole[f"whole.{name}"])
        damage(files[random.choice([*files])], random, elsewhere=folder / "whole.npz")
        try:
            read_job(folder, "job")
        except ValueError as error:
            return check_message(error, *files.values())
        return "accepted"

    yield work


@contextlib.contextmanager
def folders(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that goes on with a search in a damaged folder."""
    from stub_trials import StubRunner, stub_search  # with Keras, which the other targets do not need

    settings = {"trials": 6, "test_data": None}
    outside = folder / "outside.txt"
    outside.write_text("not of the search")
    stub_search(folder / "whole", **settings)

    def work(random: Random) -> str:
        searched = folder / "searched"
        shutil.rmtree(searched, ignore_errors=True)
        shutil.copytree(folder / "whole", searched)
        files = sorted(path for path in searched.rglob("*") if path.is_file())
        for path in random.sample(files, random.choice([1, 1, 2])):
            damage(path, random, outside)
        (searched / "mine.tflite").write_text("of the user")
        try:
            stub_search(searched, **{**settings, "trials": random.choice([6, 6, 8])}, runner=StubRunner())
            end = "accepted"
        except ValueError as error:
            end = check_message(error)
        assert sorted(path.name for path in folder.iterdir()) == ["outside.txt", "searched", "whole"]
        assert outside.read_text() == "not of the search"
        assert (searched / "mine.tflite").exists()
        return end

    yield work


@contextlib.contextmanager
def archives(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that reads archives that say that they are smaller or larger than they are."""
    from tfprune.export.keras_side.loading import load_arrays

    path = folder / "x.npz"
    write_job(folder, "job", arrays={"x": np.zeros(3)})
    entrances: list[Callable[[], Any]] = [
        lambda: load_arrays(str(path)),
        DataReference(path).load,
        lambda: read_job(folder, "job"),
        lambda: read_archive(path.read_bytes()),
    ]

    def work(random: Random) -> str:
        content = bytearray(lying_archive("array_0.npy", *random.choice(LIES), says=random.choice(SIZES)))
        for _ in range(random.choice([0, 1, 1, 3])):  # in the headers of the entry and of the directory
            place = random.choice([random.randrange(60), len(content) - 1 - random.randrange(100)])
            size = random.choice([1, 2, 4])
            content[place : place + size] = random.choice(NUMBERS[:6]).to_bytes(8, "little", signed=True)[:size]
        for file in (path, folder / "job.npz"):
            file.write_bytes(content)
        tracemalloc.start()
        try:
            random.choice(entrances)()
            end = "accepted"
        except ValueError as error:
            end = check_message(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 2 * len(content) + LARGEST, f"{peak:,} bytes for {len(content):,}"
        return end

    yield work


def damage(path: Path, random: Random, elsewhere: Path) -> None:
    """Damage a file: its JSON, arrays or bytes; or put a folder, a link or nothing in its place."""
    kind = random.choice(["content", "content", "content", "bytes", "folder", "link", "nothing"])
    content = path.read_bytes() if path.exists() else b""
    if kind == "content" and path.suffix == ".npz":
        with contextlib.suppress(Exception), np.load(io.BytesIO(content)) as stored:  # it may be damaged already
            path.write_bytes(changed_archive(dict(stored), random))
    elif kind == "content" and path.suffix == ".json":
        with contextlib.suppress(ValueError):
            path.write_bytes(changed_json(json.loads(content), random))
    elif kind in ("content", "bytes"):
        path.write_bytes(changed_bytes(content, random))
    else:
        remove(path)
        if kind == "folder":
            path.mkdir()
        if kind == "link":
            path.symlink_to(random.choice([elsewhere, Path(".."), path, elsewhere.with_name("nowhere")]))


def remove(path: Path) -> None:
    """Remove what stands at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


TARGETS = {"messages": messages, "jobs": jobs, "folders": folders, "archives": archives}
