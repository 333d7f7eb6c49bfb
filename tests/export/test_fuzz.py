"""The fuzzer itself: a native crash of the interpreter fails its target, unless Runner's checks are not about it."""

import os
import signal
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from tfprune.export.editing import load, save

SCRIPT = Path(__file__).parents[1] / "fuzz/run.py"


@pytest.fixture
def fuzzer(tmp_path, monkeypatch):
    spec = spec_from_file_location("fuzzer", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "CRASHES", tmp_path / "crashes")
    return module


def lacking_an_input(data):
    model = load(data)
    operator = model.subgraphs[0].operators[0]
    operator.inputs = np.array([-1, *operator.inputs[1:]], np.int32)
    return save(model)


@pytest.mark.parametrize(("change", "kept"), [(bytes, 1), (lacking_an_input, 0)])
def test_a_crash_is_kept_unless_the_file_is_beyond_the_checks(fuzzer, cases, monkeypatch, change, kept):
    fuzzer.CRASHES.mkdir()
    monkeypatch.setattr(fuzzer, "run", lambda plain: os.kill(os.getpid(), signal.SIGKILL))
    fuzzer.run_in_child(change(cases["dense"].data))
    assert len([*fuzzer.CRASHES.iterdir()]) == kept


def test_a_new_crash_fails_its_target(fuzzer, monkeypatch, capsys):
    class Ended:
        returncode = 0

    monkeypatch.setattr(fuzzer.subprocess, "run", lambda *_, **__: Ended)
    assert fuzzer.passes("runner", runs=1, seed=1)

    def crash(*_, **__):
        (fuzzer.CRASHES / "SIGSEGV-1").write_bytes(b"")
        return Ended

    monkeypatch.setattr(fuzzer.subprocess, "run", crash)
    assert not fuzzer.passes("runner", runs=1, seed=1)
    assert "CRASHES of the interpreter" in capsys.readouterr().out


def test_sound_files_are_not_beyond_the_checks(fuzzer, cases, sparse):
    assert not any(fuzzer.is_beyond(data) for data in [sparse, *(case.data for case in cases.values())])
