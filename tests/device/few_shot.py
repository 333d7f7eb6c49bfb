"""Run the device half of the few-shot app on the emulated Raspberry Pi: python few_shot.py FOLDER.

FOLDER is what sample_apps/few_shot_glyphs.py wrote. Times come from an emulator, so only their ratios are meaningful.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import root
from rich.console import Console
from rich.table import Table
from run import Device, devices

HERE = Path(__file__).parent
APP = HERE.parents[1] / "sample_apps" / "few_shot_device.py"
ROUNDS = 5  # in turns, so that what else the machine does slows all files alike


def run(device: Device, model: Path) -> tuple[str, float]:
    """Return what the app printed, and its milliseconds per picture."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | device.environment
    command = [str(device.python), str(APP), str(model), str(model.parent / "pictures.npz")]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return printed, float(re.search(r"Time: ([\d.]+) ms", printed).group(1))


def main() -> None:
    folder, console = Path(sys.argv[1]).resolve(), Console(width=120)
    device = devices(["emulated"], HERE.parents[1] / "build", console)["emulated"]
    models = [folder / f"ProtoNet-{name}-0.tflite" for name in ("dense", "DACIS", "DACIS-equal-widths", "magnitude")]
    times: dict[Path, list[float]] = {model: [] for model in models}
    for _ in range(ROUNDS):
        for model in models:
            printed, milliseconds = run(device, model)
            times[model].append(milliseconds)
    console.print(printed)
    table = Table("file", "bytes", "ms per picture", "against dense")
    dense = np.median(times[models[0]])
    for model in models:
        median = np.median(times[model])
        table.add_row(model.name, f"{model.stat().st_size:,}", f"{median:.3f}", f"{dense / median:.2f} times as fast")
    console.print(table)


if __name__ == "__main__":
    sys.exit(root.obstacle() or main())
