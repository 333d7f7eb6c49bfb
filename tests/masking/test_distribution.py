"""tf.distribute: replicas train one set of masks, in a process of their own, as devices are set up once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers/distribution_run.py"


@pytest.mark.programs
def test_two_replicas_hold_the_masks_and_weights_of_a_run_on_one_device():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("passed:") == 4
