"""Measure every bar in a process of its own, and print one table: `make bench`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

COMMANDS = [
    ["imports.py"],
    ["opened.py"],
    ["house.py"],
    ["masks.py"],
    ["on_device.py"],
    ["evidence.py"],
    ["steps.py", "cnn"],
    ["steps.py", "lstm"],
    ["steps.py", "mlp"],
    ["steps.py", "mlp", "--jit"],
    ["steps.py", "embedding"],
    ["wrapping.py"],
    ["copies.py"],
    ["latent_memory.py"],
    ["shrinking.py"],
    ["digits.py"],
    ["federated.py"],
    ["last_update.py"],
    ["sparse_training.py"],
    ["learned_allocation.py"],
    ["flops_allocation.py"],
    ["device_training.py"],
    ["taught.py"],
    ["reconstruction.py"],
    ["anyfile.py"],
    ["file_cost.py"],
    ["anyfile_channels.py"],
    ["anyfile_spotter.py"],
    ["landmarks.py"],
    ["foreign_files.py"],
    ["wake_words.py"],
    ["ranking.py"],
    ["putri.py"],
    ["concepts.py"],
    ["calibration.py"],
    ["damage.py"],
    ["gate.py"],
    ["reproduce.py"],
    ["recurrent_export.py"],
    ["second_export.py"],
    ["converters.py"],
    ["extras.py"],
    ["sizes.py"],
    ["packed.py"],
    ["readers.py"],
    ["web.py"],
    ["sparse_convolutions.py"],
    ["sparse_convolutions.py", "resnet18", "--sizes"],
    ["sparse_convolutions.py", "resnet18", "--memory"],
    ["sparse_convolutions.py", "resnet18", "--int8"],
    ["sharing.py"],
    ["sparse_files.py"],
    ["eight_bit.py"],
    ["int8_check.py"],
    ["micro.py"],
    ["micro_grid.py"],
    ["micro_split.py"],
    ["vela.py"],
    ["vela.py", "search"],
    ["quantized.py"],
    ["tfmot_quantized.py"],
    ["equalized.py"],
    ["mixed_precision.py"],
    ["compress.py", "cnn"],
    ["compress.py", "mobilenet"],
    ["executors.py"],
    ["search_time.py"],
    ["device.py"],
    ["kernels.py"],
    ["mediapipe_labels.py"],
    ["remote.py"],
    ["generator.py"],
]


def main() -> int:
    wanted = sys.argv[1:]
    folder, console = Path(__file__).parent, Console(width=150)
    table = Table("what", "measured", "bar", "holds")
    failed = False
    for script, *arguments in COMMANDS:
        if wanted and script.removesuffix(".py") not in wanted:
            continue
        console.print(f"running {script} {' '.join(arguments)}", style="dim")
        command = [sys.executable, str(folder / script), *arguments]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            console.print(done.stderr[-2000:], style="red")
            failed = True
        for line in done.stdout.splitlines():
            if line.count("\t") == 3:
                failed |= line.endswith("\tNO")
                table.add_row(*line.split("\t"))
    console.print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
