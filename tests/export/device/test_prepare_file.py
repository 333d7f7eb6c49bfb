"""Files in CompiledModel: tried in another process, remembered, and run by the interpreter where that fails."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from tfprune.export import Generator, pack
from tfprune.export.device import writer_file
from tfprune.export.device.processes import Completed
from tfprune.export.device.writer_file import PreparedFile

PROMPT = [3, 5, 7]


@pytest.fixture
def copied(writer, tmp_path):
    """Return a copy of the file with the folder that another generator has prepared."""
    Generator(writer, threads=1)
    for path in (writer, writer.with_name(writer.name + ".cache")):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, tmp_path / path.name)
    return tmp_path / writer.name


@pytest.fixture
def attempts(monkeypatch):
    """Let each attempt crash, and count them."""
    reasons = []

    def crash(module, folder, *, timeout):
        reasons.append(folder)
        return Completed(ok=False, reason="killed by SIGABRT", output="")

    monkeypatch.setattr(writer_file, "run_job", crash)
    return reasons


def test_what_was_prepared_is_used_again(copied, attempts):
    generator = Generator(copied, threads=1)
    assert generator.runtime.endswith("in place") and not attempts
    assert [path.name for path in sorted(copied.parent.iterdir())] == [copied.name, f"{copied.name}.cache"]


def test_a_crash_is_remembered_and_the_interpreter_writes_the_same(copied, attempts):
    expected = Generator(copied, threads=1).generate(PROMPT, max_tokens=6)
    shutil.rmtree(f"{copied}.cache")
    for _ in range(2):
        generator = Generator(copied, threads=1)
        assert "in place" not in generator.runtime
        assert generator.generate(PROMPT, max_tokens=6) == expected
    assert len(attempts) == 2, "one keeps the weights on the disk, which may be full"


CHANGES = ["other content", "other time", "weights cut short", "record cut short", "weights lost", "weights damaged"]


@pytest.mark.parametrize("change", CHANGES)
def test_files_and_folders_that_changed_are_prepared_again(copied, attempts, change):
    folder, status = copied.with_name(copied.name + ".cache"), copied.stat()
    if change == "other content":
        data = copied.read_bytes()
        copied.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(copied, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "other time":
        os.utime(copied, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        part = folder / (writer_file._WEIGHTS if change.startswith("weights") else writer_file._RECORD)
        content = part.read_bytes()
        middle = len(content) // 2
        damaged = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        # Zeros are what a disk keeps of a file that was not written before the power went.
        part.write_bytes({"lost": bytes(len(content)), "damaged": damaged}.get(change.split()[1], content[:-1]))
    PreparedFile(copied, threads=1)
    assert attempts


@pytest.mark.parametrize("reasons", [["killed by SIGKILL (out of memory?)"], ["killed by SIGABRT", ""]])
def test_an_attempt_without_memory_or_room_is_repeated(copied, monkeypatch, reasons):
    shutil.rmtree(f"{copied}.cache")
    ends = (Completed(ok=not reason, reason=reason, output="") for reason in reasons)  # the second keeps no weights
    monkeypatch.setattr(writer_file, "run_job", lambda *_, **__: next(ends))
    assert "in place" not in Generator(copied, threads=1).runtime
    monkeypatch.undo()
    assert Generator(copied, threads=1).runtime.endswith("in place")


def test_an_interrupted_start_leaves_nothing_behind(copied, monkeypatch):
    shutil.rmtree(f"{copied}.cache")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer_file, "run_job", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Generator(copied, threads=1)
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_a_folder_that_cannot_be_written(copied, attempts, monkeypatch):
    shutil.rmtree(f"{copied}.cache")

    def folder(*, beside=None):
        if beside is not None:
            raise ValueError("Expected room. Received: Permission denied.")
        return _Folder(copied.parent / "other")

    monkeypatch.setattr(writer_file, "TemporaryFolder", folder)
    assert len(Generator(copied, threads=1).generate(PROMPT, max_tokens=3)) == 3
    assert [path.name for path in sorted(copied.parent.iterdir())] == ["other", copied.name]


class _Folder:
    def __init__(self, path):
        path.mkdir()
        self.name = str(path)


def test_all_that_a_record_names_is_on_the_disk_before_it(copied, monkeypatch):
    shutil.rmtree(f"{copied}.cache")
    synced, fsync = [], os.fsync

    def recorded(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, (path.parent / writer_file._RECORD).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    assert Generator(copied, threads=1).runtime.endswith("in place")
    assert synced[:2] == [(writer_file._WEIGHTS, False), (writer_file._RECORD, True)]
    assert synced[2][0].startswith(".tfprune-") and synced[3][0] == copied.parent.name


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_a_full_disk_leaves_nothing_behind(copied, monkeypatch, kind):
    shutil.rmtree(f"{copied}.cache")
    path, temporary = copied, copied.parent / "temporary"
    if kind == "packed":
        path = copied.with_name("writer.tfz")
        path.write_bytes(pack(copied.read_bytes()))
    temporary.mkdir()
    monkeypatch.setattr(writer_file.tempfile, "tempdir", str(temporary))
    before = {each.name for each in copied.parent.iterdir()}
    with _full_disk():
        if kind == "packed":
            with pytest.raises(ValueError, match=r"room to unpack '.*writer.tfz'.* Free some space"):
                Generator(path, threads=1)
        else:
            assert "in place" not in Generator(path, threads=1).runtime
    assert {each.name for each in copied.parent.iterdir()} - {f"{path.name}.cache"} == before
    assert not [*temporary.iterdir()]
    assert Generator(path, threads=1).runtime.endswith("in place"), "the disk is not full any more"


@contextmanager
def _full_disk():
    """Let no file become longer than a job's: the system refuses the rest, here and in children."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.programs
def test_packed_files(copied):
    expected = Generator(copied, threads=1).generate("the fox", max_tokens=6)
    packed = copied.with_name("writer.tfz")
    packed.write_bytes(pack(copied.read_bytes()))
    model = packed.with_name("writer.tfz.cache") / writer_file._MODEL
    for _ in range(3):
        generator = Generator(packed, threads=1)
        assert generator.runtime.endswith("in place")
        assert generator.generate("the fox", max_tokens=6) == expected
        assert model.read_bytes() == copied.read_bytes()
        model.write_bytes(bytes(model.stat().st_size))  # the next start writes it again
