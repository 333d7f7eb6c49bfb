"""The device side of the demo: run in a process of its own, it makes sure that TensorFlow cannot help."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tfprune.export.device.processes.child_process import run_as_child
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.runner import Runner


def _run_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    runners = [Runner(path) for path in settings["files"]]
    accuracies = [float(np.mean(runner.predict(arrays["x"]).argmax(axis=1) == arrays["y"])) for runner in runners]
    write_job(folder, "result", settings={"accuracies": accuracies, "runtime": runners[0].runtime})


if __name__ == "__main__":
    # An entry of None makes any later import of the name fail.
    sys.modules["tensorflow"] = sys.modules["keras"] = None  # type: ignore[assignment]
    run_as_child(_run_job)
