"""Time of a run of files on an emulated Cortex-A72 (Raspberry Pi 4), and how their outputs differ from those here.

python bench/emulated_files.py FOLDER FIRST OTHER...   # FOLDER: where the emulator is kept, as build

Times are the emulator's, in processor time of one thread, files in turn. They do not predict those of the board:
QEMU computes floats by software, and so makes integers look faster than they are there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import interleaved

ROUNDS, ROWS = 9, 16
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/device"))


def emulated(folder: Path, files: list[str]) -> None:
    """Run the files here, then `timed` on the emulated processor."""
    import root

    if root.obstacle():
        raise SystemExit(root.obstacle())
    python, site = root.build(folder.resolve() / "aarch64"), folder / "aarch64-tfprune"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", f"--target={site}"]
    subprocess.run([*pip, str(Path(__file__).parents[1])], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site.resolve()), str(Path(__file__).parent)])}
    with tempfile.TemporaryDirectory() as name:
        for number, file in enumerate(files):
            np.save(Path(name, f"{number}.npy"), outputs(file))
        command = [str(python), str(Path(__file__).resolve()), "--timed", name, *files]
        subprocess.run(command, env=environment, check=True)


def timed(folder: str, *files: str) -> None:
    """Print the time of each file, and its largest difference from the outputs in the folder."""
    from tfprune.export import Runner

    runners = [Runner(file) for file in files]
    sample = random_inputs(files[0])[:1]
    runs = {file: lambda runner=runner: runner.predict(sample) for file, runner in zip(files, runners, strict=True)}
    seconds = interleaved(runs, rounds=ROUNDS, clock=time.process_time)
    print("| file | ms, emulated | times the first | largest difference |\n|---|---|---|---|")
    first = statistics.median(seconds[files[0]])
    for number, file in enumerate(files):
        own = statistics.median(seconds[file])
        difference = np.abs(outputs(file) - np.load(Path(folder, f"{number}.npy"))).max()
        print(f"| {Path(file).name} | {1e3 * own:.1f} | {own / first:.2f} | {difference:.1e} |", flush=True)


def outputs(file: str) -> np.ndarray:
    from tfprune.export import Runner

    return Runner(file).predict(random_inputs(file))


def random_inputs(file: str) -> np.ndarray:
    from tfprune.export import Runner

    shape = Runner(file).inputs[0].shape
    return np.random.default_rng(0).random((ROWS, *shape[1:]), dtype=np.float32)


if __name__ == "__main__":
    if sys.argv[1] == "--timed":
        timed(*sys.argv[2:])
    else:
        emulated(Path(sys.argv[1]), sys.argv[2:])
