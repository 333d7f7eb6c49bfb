"""A process that is ready: jobs share what it imported and nothing else."""

import os
import subprocess
import sys
import threading

import pytest

from tfprune.export.device.processes import run_job

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes wait for jobs on Linux only")
CHILD = """
import os, numpy

def work(folder):
    print(os.getpid(), os.getppid(), os.getcwd(), os.environ.get("TF_OF_A_TEST"), os.environ.get("OF_A_TEST"))
    print(folder)
    numpy.of_a_test = getattr(numpy, "of_a_test", 0) + 1
    assert numpy.of_a_test == 1
"""


@pytest.fixture
def say(tmp_path, monkeypatch):
    """Return a function that runs a job and returns the words that it wrote."""
    (tmp_path / "tfprune_test_words.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(folder="job"):
        (tmp_path / folder).mkdir(exist_ok=True)
        completed = run_job("tfprune_test_words:work", tmp_path / folder, timeout=60, package="numpy")
        assert completed.ok, completed.output
        return completed.output.split()

    return run


def test_jobs_have_the_parent_in_common_and_nothing_that_they_change(say):
    first, second = say(), say()
    assert first[0] != second[0]
    assert first[1] == second[1] != str(os.getpid())


def test_a_job_sees_the_variables_and_the_folder_of_its_day(say, monkeypatch, tmp_path):
    say()
    monkeypatch.setenv("OF_A_TEST", "here")
    monkeypatch.chdir(tmp_path)
    words = say()
    assert words[2:5] == [str(tmp_path), "None", "here"]
    assert words[5:] == [str(tmp_path / "job")]


def test_what_a_package_reads_when_it_is_imported_needs_a_new_process(say, monkeypatch):
    before = say()
    monkeypatch.setenv("TF_OF_A_TEST", "new")
    after = say()
    assert after[1] != before[1]
    assert after[3] == "new"


def test_a_second_thread_does_not_wait(say, tmp_path):
    (tmp_path / "busy").mkdir()
    (tmp_path / "tfprune_test_sleeper.py").write_text(
        "import time\ndef work(folder):\n    (folder / 'begun').touch()\n"
        "    while not (folder / 'go').exists(): time.sleep(0.01)"
    )
    arguments = ("tfprune_test_sleeper:work", tmp_path / "busy")
    sleeper = threading.Thread(target=run_job, args=arguments, kwargs={"timeout": 60, "package": "numpy"})
    sleeper.start()
    while not (tmp_path / "busy" / "begun").exists():
        assert sleeper.is_alive()
    words = say()
    (tmp_path / "busy" / "go").touch()
    sleeper.join()
    assert words[1] == str(os.getpid())  # a Python of its own


def test_processes_of_two_packages_wait_side_by_side(say, tmp_path):
    first = say()
    assert run_job("tfprune_test_words:work", tmp_path / "job", timeout=60, package="json").ok
    assert say()[1] == first[1]


def test_a_bar_is_moved_once_in_each_second(tmp_path, monkeypatch):
    (tmp_path / "tfprune_test_waiter.py").write_text("import time\ndef work(folder):\n    time.sleep(2.5)")
    monkeypatch.syspath_prepend(str(tmp_path))
    ticks = []
    completed = run_job(
        "tfprune_test_waiter:work", tmp_path, timeout=60, package="numpy", each_second=lambda: ticks.append(None)
    )
    assert completed.ok and 2 <= len(ticks) <= 3, "the package may take a second to import"


def test_a_package_that_is_not_there_is_the_job_s_to_tell(tmp_path):
    completed = run_job("no_such_module:work", tmp_path, timeout=60, package="no_such_package_anywhere")
    assert "No module named 'no_such_module'" in completed.reason


def test_nobody_to_ask_is_the_end():
    ends, lifeline = os.pipe()
    command = [sys.executable, "-m", "tfprune.export.device.processes", "--fork", "json", str(ends)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, pass_fds=(ends,), timeout=60).returncode == 0
    os.close(ends)
    os.close(lifeline)


def test_a_process_that_was_killed_is_replaced(say):
    before = say()
    os.kill(int(before[1]), 9)
    after = say()
    again = say()
    assert before[1] != after[1]
    assert again[1] not in (before[1], str(os.getpid()))
