"""Two runs on one folder: the second is refused, by the name of the first, and a killed one holds nothing."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tfprune.base import folders
from tfprune.base.folders import RunFolder

HOLDER = """
    import sys
    from tfprune.base.folders import RunFolder

    with RunFolder(sys.argv[1], settings={}, arrays=[]):
        print("held", flush=True)
        sys.stdin.read()
"""
RACER = """
    import sys, time
    import numpy as np
    from tfprune.base.folders import RunFolder

    number, start = int(sys.argv[2]), float(sys.argv[3])
    time.sleep(max(0, start - time.time()))
    with RunFolder(sys.argv[1], settings={}, arrays=[]) as folder:
        for step in range(25):
            folder.remember(str(step), lambda: {"a": np.full(200_000, number), "b": np.full(200_000, number)})
"""


def opened(path) -> RunFolder:
    return RunFolder(path, settings={}, arrays=[])


def child(program: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_folder_in_use_is_refused_by_the_name_of_its_holder(tmp_path):
    with child(HOLDER, tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"in use by process {holder.pid} on .*, since 20") as error:
            opened(tmp_path)
        assert re.search(r"Wait until that run has ended, or choose another folder\.$", str(error.value))
        holder.send_signal(signal.SIGKILL)
    with opened(tmp_path):
        pass


def test_a_second_run_in_this_process_is_refused_until_the_first_ends(tmp_path):
    with opened(tmp_path), pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="of the same run"):
        RunFolder(tmp_path, settings={"other": 1}, arrays=[])
    with opened(tmp_path):
        pass


@pytest.mark.programs
def test_of_two_processes_at_once_one_is_refused_and_no_file_is_mixed(tmp_path):
    import time

    start = time.time() + 1.5
    racers = [child(RACER, tmp_path, number, start) for number in (1, 2)]
    errors = [racer.communicate(timeout=60)[1] for racer in racers]
    assert sorted(racer.returncode for racer in racers) == [0, 1]
    winner = [racer.returncode for racer in racers].index(0)
    # The other one may have come after the lock was taken and before its holder had written its number.
    assert re.search(rf"in use by (process {racers[winner].pid} on|another process\.)", errors[1 - winner])
    for step in range(25):
        with np.load(tmp_path / f"{step}.npz") as arrays:
            assert all((arrays[name] == winner + 1).all() for name in ("a", "b"))


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: done.append(sorted(path.name for path in tmp_path.glob("1*")))
    )
    with opened(tmp_path) as folder:
        done.clear()
        folder.remember("1", lambda: {"a": np.zeros(3)})
    assert done == [[], ["1.npz"]]  # the file, then the folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.npz", "run.lock", "run.npz"]


def test_what_a_full_disk_leaves_is_an_error_with_the_name_and_no_part(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as folder, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"Cannot write '.*1\.npz': No space left on device\. Free some space"):
            folder.remember("1", lambda: {"a": np.zeros(3)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.lock", "run.npz"]


def test_what_a_killed_run_left_unfinished_goes_and_other_files_stay(tmp_path):
    for name in (".tfprune-0123", "mine.partial"):
        (tmp_path / name).write_bytes(b"half")
    with opened(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.partial", "run.lock", "run.npz"]


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders, "_try_lock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked: No locks available. Make sure that no other process"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(ValueError, match="Expected a folder to write in. Received: folder=.*: Is a directory"):
        opened(tmp_path)


def test_a_file_for_other_processes_goes_with_its_block_or_with_the_next_run(tmp_path):
    with RunFolder(tmp_path, settings={}, arrays=[]) as folder:
        with folder.temporary_file(b"content") as file:
            assert (file.parent, file.read_bytes(), file.is_absolute()) == (tmp_path, b"content", True)
        assert not file.exists()
        file.write_bytes(b"of a run that was killed")
    with RunFolder(tmp_path, settings={}, arrays=[]):
        assert not file.exists()


def test_a_full_disk_leaves_no_part_of_a_file_for_other_processes(tmp_path, monkeypatch):
    def full(path, content):
        path.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunFolder(tmp_path, settings={}, arrays=[]) as folder:
        before = {*tmp_path.iterdir()}
        monkeypatch.setattr(Path, "write_bytes", full)
        with (
            pytest.raises(ValueError, match="No space left on device. Free some space"),
            folder.temporary_file(b"content"),
        ):
            pass
        assert {*tmp_path.iterdir()} == before
