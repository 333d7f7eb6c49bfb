"""The fuzzer itself: a native crash of the runner fails its target."""

import os
import signal
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "fuzz/run.py"


@pytest.fixture
def fuzzer(tmp_path, monkeypatch):
    spec = spec_from_file_location("fuzzer", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "CRASHES", tmp_path / "crashes")
    return module


def test_a_crash_of_the_interpreter_is_kept(fuzzer, cases, monkeypatch):
    fuzzer.CRASHES.mkdir()
    fuzzer.run_in_child(lambda plain: os.kill(os.getpid(), signal.SIGKILL), cases["dense"].data)
    assert len([*fuzzer.CRASHES.iterdir()]) == 1


@pytest.mark.parametrize(("target", "may_crash"), [("runner", False), ("interpreter", True)])
def test_a_new_crash_fails_the_runner(fuzzer, monkeypatch, capsys, target, may_crash):
    class Ended:
        returncode = 0

    monkeypatch.setattr(fuzzer.subprocess, "run", lambda *_, **__: Ended)
    assert fuzzer.passes(target, ["--runs=1"], seed=1)

    def crash(*_, **__):
        (fuzzer.CRASHES / "SIGSEGV-1").write_bytes(b"")
        return Ended

    monkeypatch.setattr(fuzzer.subprocess, "run", crash)
    assert fuzzer.passes(target, ["--runs=1"], seed=1) == may_crash
    assert "crashes of the native code" in capsys.readouterr().out
