"""Remote: jobs over a real sshd on loopback, behind which a Python has NumPy and LiteRT and no tfprune."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from loopback import Loopback, device_python, missing

import tfprune
import tfprune.export
from tfprune.export import Remote, benchmark, verify
from tfprune.export.command_line import cli
from tfprune.export.device import remote as remote_module
from tfprune.export.device.remote import DevicePool

pytestmark = [pytest.mark.programs, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Loopback(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def remote(server, tmp_path_factory):
    """Return a device that is connected once for many tests."""
    folder = tmp_path_factory.mktemp("shared") / "board"
    python = device_python(folder, first="echo Welcome to this board")  # which must not get between messages
    with Remote(server.address, python=str(python), options=server.options()) as remote:
        yield remote
    assert left_on(folder) == []


@pytest.fixture
def board(tmp_path):
    """Return the folder of a device to look at after a test."""
    device_python(tmp_path / "board")
    return tmp_path / "board"


def left_on(board: Path, besides: int = 0) -> list[str]:
    """Return what lies on the device, and what runs there besides a process, once it had time to tidy up."""
    end = time.monotonic() + 10
    while True:
        files = [path.name for path in (board / "tmp").iterdir()]
        processes = subprocess.run(["pgrep", "-f", str(board)], capture_output=True, text=True, check=False).stdout
        running = [process for process in processes.split() if int(process) != besides]
        if not (files or running) or time.monotonic() > end:
            return [*files, *running]
        time.sleep(0.05)


def test_a_file_is_timed_there(cases, remote):
    report = benchmark(cases["int8"].path, runs=5, warmup=1, on=remote, cool_down=0.01)
    assert len(report.medians_ms) == 3 and report.median_ms == sorted(report.medians_ms)[1] > 0
    assert report.runtime.startswith("ai-edge-litert ") and report.file_bytes == len(cases["int8"].data)
    assert report.machine == tfprune.export.benchmark(cases["int8"].path, runs=1, warmup=0).machine


def test_files_are_timed_on_two_boards_at_once(cases, remote, server, board):
    with Remote(server.address, python=str(board / "python"), options=server.options()) as other:
        pool = DevicePool([remote, other], cases["dense"].data, runs=3)
        first, *_, last = pool.milliseconds([cases[name].data for name in ("int8", "dense", "dense", "int8")])
        assert first > 0 < last
        assert other._link is not None and other._link.is_open, "the second board has worked, too"
    assert left_on(board) == []


def test_a_file_is_checked_there(cases, remote, refused):
    case = cases["dense"]
    right = verify(case.path, samples=case.inputs, expected=case.expected, on=remote)
    assert right.passed and right.runtime.startswith("ai-edge-litert ")
    wrong = verify(case.path, samples=case.inputs, expected=case.expected + 1, on=remote)
    assert not wrong.passed and "differs by up to 1" in wrong.reason
    assert "cannot load" in verify(refused, on=remote).reason
    with pytest.raises(ValueError, match="whose run failed: .*cannot load"):
        benchmark(refused, on=remote)


def test_a_run_that_takes_too_long_is_stopped_there(cases, remote):
    assert verify(cases["dense"].path, timeout=0.01, on=remote).reason == "did not finish in 0.01 s"
    assert verify(cases["dense"].path, on=remote).passed, "and the connection goes on"


def test_it_measures_a_keras_model_for_a_budget(cases, remote, monkeypatch):
    from tfprune.export.keras_side import ask, convert

    seen = []
    monkeypatch.setattr(ask, "_plain", lambda model: model)
    monkeypatch.setattr(convert, "convert", lambda model, **settings: seen.append(model) or cases["dense"].data)
    limit = tfprune.budget(latency=0.5, measure=remote)
    assert limit.measure("a model") > 0 and seen == ["a model"]


def test_it_goes_into_other_processes_as_an_address(remote):
    again = pickle.loads(pickle.dumps(remote))  # noqa: S301
    assert repr(again) == repr(remote) and again._link is None


def test_the_device_needs_nothing_but_the_archive_and_it_is_the_same_each_time(board):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tfprune.export.device.remote as agent; "
        "from tfprune.export.device import benchmark, verify; print(agent.__file__)"
    )
    path = board / "device.zip"
    path.write_bytes(remote_module._payload().content)
    done = subprocess.run([board / "python", "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith(str(path))
    remote_module._payload.cache_clear()
    assert remote_module._payload().content == path.read_bytes()


def test_a_connection_that_is_lost_leaves_nothing(cases, server, board):
    with Remote(server.address, python=str(board / "python"), options=server.options()) as remote:
        verify(cases["dense"].path, on=remote)
        timer = threading.Timer(1.0, lambda: os.kill(remote._link._process.pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(ValueError, match="an answer of .*@127.0.0.1'. Received: a connection that was lost"):
            benchmark(cases["int8"].path, runs=10**7, on=remote)
        assert left_on(board) == []
        assert verify(cases["dense"].path, on=remote).passed, "the next job connects again"
    assert left_on(board) == []


def test_a_program_that_is_killed_leaves_nothing(cases, server, board, tmp_path):
    code = (
        "import sys, json; from tfprune.export import Remote, benchmark\n"
        "file, address, python, options = sys.argv[1:]\n"
        "benchmark(file, runs=10**7, on=Remote(address, python=python, options=json.loads(options)))"
    )
    arguments = [str(cases["int8"].path), server.address, str(board / "python"), json.dumps(server.options())]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", code, *arguments], env=env) as child:
        while not list((board / "tmp").rglob("model.tflite")):
            assert child.poll() is None
            time.sleep(0.05)
        child.kill()
    assert left_on(board) == []


def test_a_network_that_is_cut_without_a_word_leaves_nothing(cases, server, board, monkeypatch):
    monkeypatch.setattr(remote_module, "_SILENCE_SECONDS", 1.0)
    with Remote(server.address, python=str(board / "python"), options=server.options()) as remote:
        verify(cases["dense"].path, on=remote)
        client = remote._link._process
        time.sleep(1.2)
        assert list((board / "tmp").iterdir()), "signs of life keep it"
        os.kill(client.pid, signal.SIGSTOP)
        try:
            assert left_on(board, besides=client.pid) == []
        finally:
            os.kill(client.pid, signal.SIGCONT)


def test_a_device_that_says_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_module, "_START_SECONDS", 0.7)
    script = device_python(tmp_path / "made", first="sleep 60")
    with pytest.raises(ValueError, match="nothing within the time for a connection"):
        Remote(server.address, python=str(script), options=server.options()).run_job("x", tmp_path, timeout=1)


def test_what_arrives_damaged_is_not_run(server, board, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_module, "_payload", lambda: remote_module._Payload(b"changed", "0" * 64))
    with pytest.raises(ValueError, match="a connection that changes what is sent"):
        Remote(server.address, python=str(board / "python"), options=server.options()).run_job(
            "x", tmp_path, timeout=1
        )
    assert left_on(board) == []


def refusal(server, **changes) -> str:
    arguments = {"address": server.address, "python": "python3", "options": server.options(), **changes}
    with pytest.raises(ValueError, match="^Expected a device that answers at") as caught:
        Remote(arguments.pop("address"), **arguments).run_job("x", server.folder, timeout=1)
    return str(caught.value)


def test_hosts_that_cannot_be_reached_say_what_to_do(server, tmp_path):
    assert re.search(
        "none of the keys here, and would ask for a password.*ssh-copy-id .*@127.0.0.1",
        refusal(server, options=server.options("other_key")),
    )
    closed = [*server.options()]
    closed[closed.index("-p") + 1] = "1"
    assert "no ssh server answers" in refusal(server, options=closed)
    assert "a name that no network knows" in refusal(server, address="pi@board.invalid")
    try:
        server.know("other_key")
        assert "whose key is another one than before" in refusal(server)
        server.know(None)
        assert "whose key is not known here. Connect once with ssh" in refusal(server)
    finally:
        server.know("host_key")


def test_devices_that_lack_something_say_what(server, tmp_path, cases):
    assert "no Python by the name 'env/bin/python'. Install one there" in refusal(server, python="env/bin/python")
    (tmp_path / "file").write_text("no program")
    assert "no Python by the name" in refusal(server, python=str(tmp_path / "file"))
    bare = device_python(tmp_path / "bare", packages=())
    assert re.search(
        "a Python without NumPy. Run there: .*bare/python -m pip install numpy", refusal(server, python=str(bare))
    )
    numpy_only = device_python(tmp_path / "numpy", packages=("numpy", "numpy.libs"))
    with Remote(server.address, python=str(numpy_only), options=server.options()) as remote:
        reason = verify(cases["dense"].path, on=remote).reason
        assert "ai-edge-litert" in reason and "pip install" in reason
    assert left_on(tmp_path / "bare") == left_on(tmp_path / "numpy") == []


def test_the_command_line_runs_files_there(cases, server, board, capsys):
    device = ["--on", server.address, "--python", str(board / "python"), "--ssh", " ".join(server.options())]
    settings = ["--runs", "3", "--processes", "2", "--cool-down", "0", "--json"]
    assert cli.main(["bench", str(cases["dense"].path), *device, *settings]) == 0
    assert len(json.loads(capsys.readouterr().out)["medians_ms"]) == 2
    assert cli.main(["verify", str(cases["dense"].path), *device]) == 0
    assert re.match("verified +yes", capsys.readouterr().out)
    assert cli.main(["bench", str(cases["dense"].path), "--on=-oProxyCommand=x"]) == 2
    assert "Expected an address" in capsys.readouterr().err
    assert cli.main(["verify", str(cases["dense"].path), "--python", "python3"]) == 2
    assert "Expected --on DEVICE with --python" in capsys.readouterr().err
    assert left_on(board) == []
