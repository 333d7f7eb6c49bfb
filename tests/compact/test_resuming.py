"""prune_to with a folder: a run that was killed at any moment ends as the one that was not."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from tiers import first

import tfprune

SCRIPT = Path(__file__).parents[1] / "helpers/prune_to_run.py"
_SPEC = importlib.util.spec_from_file_location("prune_to_run", SCRIPT)
program = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(program)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, report = program.run(folder)
    return folder, model, report


def assert_same(found, expected) -> None:
    (model, report), (_, other, expected_report) = found, expected
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    for one, two in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-5, atol=1e-6)
    for one, two in zip(report.rounds, expected_report.rounds, strict=True):
        np.testing.assert_array_equal(one.plan.keep, two.plan.keep)
        assert (one.removed, one.trained) == pytest.approx((two.removed, two.trained), rel=1e-5)
    assert str(report) == str(expected_report)


@pytest.mark.slow
def test_a_run_that_is_killed_at_a_random_moment_ends_the_same(whole, tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    folder, seconds = tmp_path / "state", random.uniform(0, 1.5)
    with subprocess.Popen([sys.executable, SCRIPT, folder], env=env) as child:
        while child.poll() is None and not (folder / "seed.npz").exists():
            time.sleep(0.01)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    left = sorted(path.name for path in folder.iterdir())
    assert_same(program.run(folder), whole)
    assert not list(folder.glob("*.partial")), f"killed after {seconds} s, which left {left}"


@pytest.mark.parametrize("done", first(1, 3))
@pytest.mark.programs
def test_rounds_that_are_done_are_read_and_the_others_carried_out(whole, tmp_path, monkeypatch, done):
    from tfprune.compact import prune_to

    shutil.copytree(whole[0], tmp_path / "state")
    for number in range(done + 1, 4):
        (tmp_path / f"state/round_{number}.npz").unlink()
    counted, work = [], prune_to.reconstruct_in_place
    monkeypatch.setattr(
        prune_to, "reconstruct_in_place", lambda *args, **kwargs: counted.append(1) or work(*args, **kwargs)
    )
    assert_same(program.run(tmp_path / "state"), whole)
    assert len(counted) == 3 - done


@pytest.mark.programs
@pytest.mark.parametrize("changes", [{"rounds": 2}, {"epochs": 1}, {"optimizer": "sgd"}, {"distillation": None}])
def test_the_folder_of_another_run_is_refused(whole, changes):
    with pytest.raises(ValueError, match="Expected `folder` to be empty or of the same run"):
        program.run(whole[0], **changes)


def test_an_optimizer_by_its_name_is_the_same_in_every_call_and_a_damaged_file_is_named(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    data, found = (np.ones((8, 4), "float32"), np.ones((8, 2), "float32")), []
    settings = {"fine_tuning": tfprune.FineTuning(rounds=1, optimizer="adam"), "folder": tmp_path, "verbose": 0}
    for _ in range(2):
        smaller, _ = tfprune.prune_to(model, tfprune.budget(parameters=0.5), data, **settings)
        found.append(smaller.get_weights())
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    (tmp_path / "round_1.npz").write_bytes(b"no file")
    with pytest.raises(ValueError, match=r"round_1.npz.*Delete it"):
        tfprune.prune_to(model, tfprune.budget(parameters=0.5), data, **settings)
