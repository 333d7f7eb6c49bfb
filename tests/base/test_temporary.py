"""Temporary folders of processes that end in any way. The truth is what lies in the folder for temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tfprune.base import folders
from tfprune.base.folders import HELD, TemporaryFolder, full_disk, unfinished

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
START = """
import os, signal, sys, time
from pathlib import Path
from tfprune.base.folders import TemporaryFolder, unfinished
def work():
    with TemporaryFolder() as folder, unfinished(Path(sys.argv[1], "model")) as file:
        Path(folder, "model").write_text("a model")
        file.write_text("a part of it")
        {then}
"""
WAIT = "print(folder, flush=True); time.sleep(60)"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return an empty folder for temporary files, in which this process has not looked yet."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    folders._remove_abandoned.cache_clear()
    return place


def started(place: Path, then: str = WAIT, last: str = "work()") -> tuple[subprocess.Popen, Path]:
    """Return a process within its temporary folder, and the folder."""
    program = START.format(then=then) + last
    process = subprocess.Popen([sys.executable, "-c", program, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@posix
def test_sigterm_removes_what_a_process_was_writing(temporary, tmp_path):
    process, folder = started(tmp_path)
    assert folder.exists() and len(list(tmp_path.glob(".tfprune-*"))) == 1
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    assert list(temporary.iterdir()) == [] and list(tmp_path.glob(".tfprune-*")) == []


@posix
def test_a_killed_process_leaves_a_folder_which_the_next_one_removes(temporary, tmp_path):
    killed, left = started(tmp_path)
    running, used = started(tmp_path)
    killed.kill()
    killed.wait(30)
    others = temporary / "tfprune-other"
    (others / "notes").mkdir(parents=True)
    foreign = temporary / "tfprune-link"
    foreign.symlink_to(tmp_path)
    assert left.exists()
    with TemporaryFolder():  # at once: its process may just have begun
        assert left.exists()
    age(left, used)
    folders._remove_abandoned.cache_clear()
    with TemporaryFolder() as own:
        assert {path.name for path in temporary.iterdir()} == {Path(own).name, used.name, others.name, foreign.name}
    running.terminate()
    running.wait(30)


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path / HELD, (time.time() - 60,) * 2)


@posix
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make another user's folder"
)
def test_folders_of_other_users_stay(temporary, tmp_path):
    process, left = started(tmp_path)
    process.kill()
    process.wait(30)
    age(left)
    os.chown(left, 1234, 1234)
    with TemporaryFolder():
        assert left.exists()


@posix
def test_a_program_that_handles_sigterm_itself_goes_on_to_do_so(temporary, tmp_path):
    last = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); work()"
    process, _ = started(tmp_path, last=last)
    process.terminate()
    assert process.wait(30) == 7
    assert list(temporary.iterdir()) == []


@posix
def test_a_fork_that_is_terminated_removes_nothing_of_its_parent(temporary, tmp_path):
    then = """
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(1)
        time.sleep(0.3)  # Python forgets a signal that comes while it forks
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
        print(Path(folder, "model").read_text() + file.read_text(), flush=True)
    """
    process, said = started(tmp_path, then=then.strip())
    assert (process.wait(30), str(said)) == (0, "a modela part of it")
    assert list(temporary.iterdir()) == []


@posix
def test_sigterm_is_left_alone_outside_of_the_blocks(temporary, tmp_path):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with TemporaryFolder() as folder, unfinished(tmp_path / "model"):
        assert signal.getsignal(signal.SIGTERM) is folders._end
        assert Path(folder, HELD).exists()
    spool = TemporaryFolder()
    assert signal.getsignal(signal.SIGTERM) is folders._end
    spool.cleanup()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert folders._live == {} and list(temporary.iterdir()) == []


def test_the_next_folder_is_named_where_there_is_no_room(temporary, tmp_path):
    with pytest.raises(ValueError, match=r"room for temporary files in '.*nowhere'. Received: No such file.*TMPDIR"):
        TemporaryFolder(beside=tmp_path / "nowhere")
    words = r"room for temporary files in '.*temporary'. Received: No space left on"
    with pytest.raises(ValueError, match=words), TemporaryFolder():
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), TemporaryFolder():
        raise KeyError("something else")
    assert full_disk("41 requested and 17 written") == "No space left on device"
    assert full_disk("Expected a file.") == ""
