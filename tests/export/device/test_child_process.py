"""Child processes: what goes in comes out, and every way to end is told."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.device.processes import read_job, run_job, write_job

CHILD = """
    import os, signal, sys, time
    from tfprune.export.device.processes import read_job, write_job

    def work(folder):
        settings, arrays = read_job(folder, "job")
        match settings["end"]:
            case "signal":
                os.kill(os.getpid(), settings["number"])
            case "refuse":
                raise ValueError("two lines,\\nboth told")
            case "break":
                raise KeyError("not expected")
            case "exit":
                sys.exit(7)
            case "sleep":
                (folder / "pid").write_text(str(os.getpid()))
                time.sleep(60)
        print("said", os.environ["TF_CPP_MIN_LOG_LEVEL"])
        write_job(folder, "result", settings=settings, arrays=arrays)
"""


@pytest.fixture(params=[None, "numpy"], ids=["new", "forked"])
def package(request):
    """None: a new Python; otherwise a fork of one that has imported this."""
    return request.param


@pytest.fixture
def run(tmp_path, monkeypatch, package):
    """Return a function that runs a module which only the parent's sys.path leads to."""
    modules, folder = tmp_path / "modules", tmp_path / "job"
    modules.mkdir()
    folder.mkdir()
    (modules / "tfprune_test_child.py").write_text(textwrap.dedent(CHILD))
    monkeypatch.syspath_prepend(str(modules))

    def run_child(timeout=60, arrays=None, **settings):
        write_job(folder, "job", settings=settings, arrays=arrays)
        return run_job("tfprune_test_child:work", folder, timeout=timeout, package=package), folder

    return run_child


def test_settings_and_arrays_travel_both_ways(run):
    arrays = {"a/b:0": np.arange(6).reshape(2, 3), "file": np.array(1.5), "": np.zeros((0, 2), np.int8)}
    completed, folder = run(end="well", arrays=arrays, shape=[None, 3])
    assert (completed.ok, completed.reason) == (True, "")
    assert completed.output.split() == ["said", "3"]
    settings, returned = read_job(folder, "result")
    assert settings == {"end": "well", "shape": [None, 3]}
    assert list(returned) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(returned[name], array)
        assert returned[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"end": "signal", "number": 11}, "killed by SIGSEGV"),
        ({"end": "signal", "number": 9}, "killed by SIGKILL (out of memory?)"),
        ({"end": "refuse"}, "two lines,\nboth told"),
        ({"end": "break"}, "KeyError: 'not expected'"),
        ({"end": "exit"}, "ended with exit code 7"),
        ({"end": "sleep", "timeout": 1}, "did not finish in 1 s"),
    ],
)
def test_every_end_is_told(run, settings, reason):
    completed, _ = run(**settings)
    assert (completed.ok, completed.reason) == (False, reason)


PARENT = """
    import sys
    from tfprune.export.device.processes import run_job
    sys.path.insert(0, sys.argv[1])
    run_job("tfprune_test_child:work", sys.argv[2], timeout=60, package=sys.argv[3] or None)
"""


def test_a_child_whose_parent_is_killed_removes_the_folder_and_ends(run, tmp_path, package):
    folder = tmp_path / "job"
    write_job(folder, "job", settings={"end": "sleep"})
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "modules"), str(folder), package or ""]
    with subprocess.Popen(command) as parent:
        wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
        child = int((folder / "pid").read_text())
        os.kill(child, 0)  # it is there
        parent.kill()
    wait_until(lambda: not folder.exists())
    wait_until(lambda: not is_running(child))


SLOW = """
    import os, sys, time
    from pathlib import Path
    Path(__file__).with_name("pid").write_text(str(os.getpid()))
    time.sleep(60)
"""


def test_a_child_whose_parent_is_killed_while_it_imports_ends_soon(tmp_path, package):
    """Packages may take half a minute to import: neither a new process nor one that forks outlives its parent."""
    (tmp_path / "tfprune_test_child.py").write_text("" if package else textwrap.dedent(SLOW))
    (tmp_path / "tfprune_test_slow.py").write_text(textwrap.dedent(SLOW))
    (tmp_path / "job").mkdir()
    name = package and "tfprune_test_slow"
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path), str(tmp_path / "job"), name or ""]
    with subprocess.Popen(command) as parent:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        child = int((tmp_path / "pid").read_text())
        assert is_running(child)
        parent.kill()
    wait_until(lambda: not is_running(child), seconds=5)


def wait_until(happened, seconds=50):
    end = time.monotonic() + seconds  # less than the child sleeps
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(process):
    """A process that has ended, and that nobody has waited for yet, still has a number."""
    status = Path(f"/proc/{process}/stat")
    if sys.platform == "linux":
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_module_that_is_not_there_is_told(tmp_path, package):
    completed = run_job("no_such_module_anywhere:work", tmp_path, timeout=60, package=package)
    assert not completed.ok
    assert "No module named 'no_such_module_anywhere'" in completed.reason


def test_objects_do_not_travel(tmp_path):
    with pytest.raises(TypeError, match="Expected numbers. Received: 'words' with dtype object"):
        write_job(tmp_path, "job", arrays={"words": np.array([{}, None])})


@given(st.dictionaries(st.text(max_size=5), st.lists(st.floats(width=32), max_size=4), max_size=4))
def test_any_names_and_numbers_come_back(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("job")
    write_job(folder, "job", arrays={name: np.array(value, np.float32) for name, value in values.items()})
    _, arrays = read_job(folder, "job")
    assert list(arrays) == list(values)
    for name, value in values.items():
        np.testing.assert_array_equal(arrays[name], np.array(value, np.float32))


def test_a_bar_moves_each_second_until_the_time_is_over(tmp_path, monkeypatch):
    (tmp_path / "tfprune_test_sleeps.py").write_text("import time\ndef work(folder):\n    time.sleep(60)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seconds = []
    completed = run_job(
        "tfprune_test_sleeps:work", tmp_path, timeout=2.5, each_second=lambda: seconds.append(time.monotonic())
    )
    assert completed.reason == "did not finish in 2.5 s"
    assert len(seconds) == 2 and 0.9 < seconds[1] - seconds[0] < 2
