"""Two true searches, here and in processes of their own: files are as accurate as the report says."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_search
from small_search import made, search

from tfprune.base.folders import read_arrays
from tfprune.export import EdgeQuantizer, Runner
from tfprune.export.compressing.trials import read_trial
from tfprune.export.file.reader import read
from tfprune.export.rewriting.weights import _lost_zeros

pytestmark = pytest.mark.slow

TRIALS = 4  # the second and third start from the one before, and the last one trains longer


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    return search(folder, trials=TRIALS), folder


def test_files_get_right_what_the_report_says(found):
    report, folder = found
    _, _, (x, y), (test_x, test_y) = made()
    assert report.trials == TRIALS
    assert not report.failed
    assert len(report.front) >= 2
    for file in report.front:
        runner = Runner(folder / file.file)
        assert np.mean(runner.predict(x).argmax(axis=1) == y) == pytest.approx(file.score)
        assert np.mean(runner.predict(test_x).argmax(axis=1) == test_y) == pytest.approx(file.test_score)
        assert file.drop == pytest.approx(report.dense.score - file.score)
        assert file.drop <= report.max_drop
        assert file.latency_ms > 0
        assert (folder / file.file).stat().st_size == file.bytes
    assert report.best.bytes < report.dense.bytes
    assert len({file.name for file in report.tried}) == len(report.tried)
    assert len({file.recipe.rounds for file in report.tried if file.recipe}) == 2


def test_the_program_of_a_file_makes_the_same_file(found, tmp_path, monkeypatch):
    report, folder = found
    model, (x, y), _, _ = made()
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    assert max(len(file.recipe.chain) for file in report.front if file.recipe) == 2
    for file in report.front:
        exec(file.code.replace("x, y = ...", "pass"), {"x": x, "y": y})
        assert Path("model.tflite").read_bytes() == (folder / file.file).read_bytes(), file.code


@pytest.mark.skipif("EDGE_QUANTIZER_PYTHON" not in os.environ, reason="EDGE_QUANTIZER_PYTHON names no Python")
def test_files_of_a_recipe_of_edge_quantizer_are_reported_and_keep_the_zeros(tmp_path):
    """Of each trial, the file by the recipe has a zero in each entry where the float file of the trial has one."""
    form = EdgeQuantizer("dynamic_wi4_afp32", python=os.environ["EDGE_QUANTIZER_PYTHON"])
    report = search(tmp_path, trials=2, formats=["float32", form])
    assert not report.failed
    assert report.best.quantize == form.name
    assert all(form.name in text for text in (str(report), (tmp_path / "report.html").read_text()))
    sparsities = []
    for path in sorted((tmp_path / "trials").glob("trial-*.npz")):
        arrays = read_arrays(path)
        assert [file.quantize for file in read_trial(arrays).tried] == [None, form.name]
        exact, four_bits = (read(arrays[f"file_{index}"].tobytes()) for index in range(2))
        assert {weight.dtype for weight in four_bits.weights} == {"int4"}
        assert not _lost_zeros(exact, four_bits)
        entries, nonzero = (sum(getattr(weight, name) for weight in exact.weights) for name in ("size", "nnz"))
        sparsities.append(1 - nonzero / entries)
    assert len(sparsities) == report.trials == 2 and min(sparsities) > 0.2


SECONDS = 60  # within which processes end; a busy machine takes longer than the usual moment


def descendants(of):
    """Return the processes that a process has started, and those that these have."""
    found = [int(pid) for task in Path(f"/proc/{of}/task").glob("*/children") for pid in task.read_text().split()]
    return [*found, *(pid for child in found for pid in descendants(child))]


def are_gone(processes):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}/exe").exists() for pid in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_a_search_that_was_killed_leaves_nobody_behind_and_goes_on(tmp_path):
    """With two trials at once; the search is ended when the first of nine is done."""
    child = subprocess.Popen([sys.executable, small_search.__file__, str(tmp_path), "9", "2"])
    while child.poll() is None and not (tmp_path / "trials" / "trial-00000.npz").exists():
        time.sleep(0.01)
    processes = descendants(child.pid)
    child.kill()
    child.wait()
    assert len(processes) >= 2
    assert are_gone(processes)

    before = set(descendants("self"))
    kept = len([*(tmp_path / "trials").glob("trial-*.npz")])
    report = search(tmp_path, trials=kept + 1, jobs=2)
    assert report.trials == kept + 1
    assert len({file.name for file in report.tried}) == len(report.tried)
    _, _, (x, y), _ = made()
    for file in report.front:
        assert np.mean(Runner(tmp_path / file.file).predict(x).argmax(axis=1) == y) == pytest.approx(file.score)
    left = set(descendants("self")) - before
    assert not [pid for pid in left if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
