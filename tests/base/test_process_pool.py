"""A pool of processes: they do not run the main program again, know their share, end with it, and are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from tfprune.base.output import _THREADS, ProcessPool

PROGRAM = """
import os, sys, time
from tfprune.base.output import ProcessPool
print("begun", flush=True)
pool = ProcessPool(2, environment={})
pids = [pool.submit(os.getpid) for _ in range(2)]
print(*(pid.result() for pid in pids), flush=True)
time.sleep(float(sys.argv[1]))
pool.submit(time.sleep, 600)
pool.shutdown()
print("ended", flush=True)
"""


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not Path(f"/proc/{pid}/exe").exists():
            return True
        time.sleep(0.02)
    return False


def test_processes_have_a_share_of_the_processors_and_are_replaced_when_they_die():
    with ProcessPool(2, environment={"MINE": "1"}) as pool:
        assert not pool.submit(eval, "'keras' in __import__('sys').modules").result()  # it reads them when imported
        values = [pool.submit(os.getenv, name).result() for name in (*_THREADS, "MINE", "TF_CPP_MIN_LOG_LEVEL")]
        assert values == [str(max(1, os.cpu_count() // 2))] * 3 + ["1", "3"]
        died = pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL)
        assert isinstance(died.exception(), BrokenProcessPool)
        assert str(died.exception()) == "its process was killed by SIGKILL (out of memory?)"
        assert isinstance(pool.submit(os.stat, "nowhere").exception(), FileNotFoundError)
        assert pool.submit(os.getenv, "MINE").result() == "1"
        assert "its process ended with exit code 3" in str(pool.submit(os._exit, 3).exception())
        assert "cannot pickle" in str(pool.submit(print, threading.Lock()).exception())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_script_without_a_guard_runs_once_and_leaves_nobody_behind(is_killed, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "program.py", "600" if is_killed else "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "begun\n"
        pids = [int(pid) for pid in program.stdout.readline().split()]
        assert len(set(pids)) == 2
        if is_killed:
            program.kill()
        assert program.stdout.read() == ("" if is_killed else "ended\n")
    assert all(map(is_gone, pids))
