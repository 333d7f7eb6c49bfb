"""The device side of the demo: run in a process of its own, it makes sure that TensorFlow cannot help."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.runner import Runner


def run_on_device(folder: Path) -> None:
    """Run the files of the job on its samples, where any import of Keras or TensorFlow fails."""
    sys.modules["tensorflow"] = sys.modules["keras"] = None  # type: ignore[assignment]
    settings, arrays = read_job(folder, "job")
    runners = [Runner(path) for path in settings["files"]]
    accuracies = [float(np.mean(runner.predict(arrays["x"]).argmax(axis=1) == arrays["y"])) for runner in runners]
    write_job(folder, "result", settings={"accuracies": accuracies, "runtime": runners[0].runtime})
