"""keras.distribution: devices train one set of masks, in a process of their own, as devices are set up once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SCRIPT = Path(__file__).parents[1] / "helpers/jax_distribution_run.py"


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="`make test-backends` runs it where JAX is the backend")
def test_four_devices_hold_the_masks_and_weights_of_a_run_on_one():
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:-1] == [f"passed: {name}" for name in ("data", "model", "both", "zero")]
