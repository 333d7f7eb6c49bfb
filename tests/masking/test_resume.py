"""Runs that were killed and go on: each later step has the masks and weights of the run that was not killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tiers import first

import tfprune

SCRIPT = Path(__file__).parents[1] / "helpers/resume_run.py"
_SPEC = importlib.util.spec_from_file_location("resume_run", SCRIPT)
run = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(run)

# Masks are due at 2, 6, 10, 14 and 18; an epoch has ten steps. 18 steps are 0.6 of the fit.
KILLED_AT = (6, 10, 13, 18)


class Record(keras.callbacks.Callback):
    """Keep every weight, mask and slot by step."""

    def __init__(self):
        super().__init__()
        self.states = {}

    def on_train_batch_end(self, batch, logs=None):
        masks = [layer.masks["kernel"].numpy() for layer in map(self.model.get_layer, ("hidden", "out"))]
        metrics = {id(variable) for variable in self.model.metrics_variables}
        values = [v.numpy() for v in self.model.variables if id(v) not in metrics]
        slots = [v.numpy() for v in self.model.optimizer.variables]
        self.states[int(self.model.optimizer.iterations)] = (masks, [*values, *slots])


@pytest.fixture(scope="module")
def whole():
    record = Record()
    run.fit(run.make(), run.pruning(end=18), record)
    assert sorted(record.states) == list(range(1, 31))
    assert [int((record.states[step][0][0] == 0).sum()) for step in (1, 2, 5, 17, 18, 30)] == [0, 0, 0, 79, 80, 80]
    return record.states


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return what lay on the disk by the step that a run was killed at: at the last, and as copied at the others."""
    folder = tmp_path_factory.mktemp("killed")
    for step in KILLED_AT:
        (folder / str(step)).mkdir()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, SCRIPT, folder, *map(str, KILLED_AT)]
    assert subprocess.run(command, env=env, timeout=300, check=False).returncode == -signal.SIGKILL
    # The copy of the last step is what the kill left.
    for name in ("epoch", "steps"):
        kept = {path.relative_to(folder / name) for path in (folder / name).rglob("*")}
        assert kept == {path.relative_to(folder / "18" / name) for path in (folder / "18" / name).rglob("*")}
    return {step: folder / str(step) for step in KILLED_AT}


def assert_same_from(states, whole, first: int) -> None:
    """Compare every step that both runs have."""
    assert min(states) == first and max(states) >= 30
    for step in range(first, 31):
        for value, expected in zip(states[step][0], whole[step][0], strict=True):
            np.testing.assert_array_equal(value, expected, err_msg=f"masks at step {step}")
        for value, expected in zip(states[step][1], whole[step][1], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=f"step {step}")


@pytest.mark.programs
@pytest.mark.parametrize("file", first("before.keras", "after.keras"))
@pytest.mark.parametrize("step", KILLED_AT)
def test_a_file_of_any_step_goes_on(file, step, killed, whole):
    model, record = keras.models.load_model(killed[step] / file), Record()
    assert int(model.optimizer.iterations) == step
    run.fit(model, run.pruning(end=18), record, initial_epoch=step // run.BATCHES)
    assert_same_from(record.states, whole, step + 1)


@pytest.mark.programs
@pytest.mark.parametrize("end", [18, 0.6])
@pytest.mark.parametrize("step", first(*reversed(KILLED_AT)))
def test_a_backup_of_an_epoch_goes_on_in_steps_and_in_fractions(step, end, killed, whole, tmp_path):
    backup, record = tmp_path / "backup", Record()
    if (killed[step] / "epoch").exists():
        shutil.copytree(killed[step] / "epoch", backup)
    run.fit(run.make(), keras.callbacks.BackupAndRestore(backup), run.pruning(end=end), record)
    assert_same_from(record.states, whole, (step - 1) // 10 * 10 + 1 if step != 10 else 1)
    assert max(record.states) == 30


@pytest.mark.programs
@pytest.mark.parametrize("before", first("backup", "pruning"))
@pytest.mark.parametrize("step", first(13, 6, 18))
def test_a_backup_within_an_epoch_goes_on_in_steps(step, before, killed, whole, tmp_path):
    shutil.copytree(killed[step] / "steps", tmp_path / "backup")
    record = Record()
    pair = [keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3), run.pruning(end=18)]
    run.fit(run.make(), *(pair if before == "backup" else pair[::-1]), record)
    assert_same_from(record.states, whole, step // 3 * 3 + 1)


@pytest.mark.programs
def test_a_backup_within_an_epoch_moves_fractions_by_the_steps_that_are_repeated(killed, tmp_path):
    shutil.copytree(killed[13] / "steps", tmp_path / "backup")
    model, record = run.make(), Record()
    run.fit(model, keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3), run.pruning(end=0.6), record)
    zeros = {step: int((masks[0] == 0).sum()) for step, (masks, _) in record.states.items()}
    assert sorted(zeros) == list(range(13, 33))  # from step 12, of which the epoch's 2 are repeated
    assert zeros[14] == round(80 - 80 * (6 / 18) ** 3) != round(80 - 80 * (4 / 16) ** 3)  # ends at 20, not 18
    assert tfprune.sparsity_report(model).sparsity == 0.8
