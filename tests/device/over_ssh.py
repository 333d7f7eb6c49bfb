"""An emulated Raspberry Pi behind a real sshd: `tfprune bench --on` and `verify --on`, as with a board on the desk.

python over_ssh.py FOLDER [FILE ...]: builds the Pi's Python in the folder once, needs Debian's openssh-server, and
times more files there, such as those that a search has found.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything loads TensorFlow, which is noisy
sys.path += [str(Path(__file__).parents[1] / "helpers")]

import keras
import numpy as np
import root
from loopback import Loopback, missing
from rich.console import Console

import tfprune.export
from tfprune.export.command_line import cli


def main() -> int:
    console = Console(width=120)
    reason = missing() or root.obstacle()
    if reason:
        console.print(f"skipped: {reason}")
        return 0
    emulated = root.build(Path(sys.argv[1]).resolve() / "aarch64")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nTMPDIR={folder}/tmp exec {emulated} "$@"\n')
        python.chmod(0o755)
        inputs, server = _files(folder), Loopback(folder)
        device = ["--on", server.address, "--python", str(python), "--ssh", " ".join(server.options())]
        compared = ["--against", str(folder / "net.keras"), "--samples", str(inputs)]
        timed = [str(folder / "net.tflite"), *sys.argv[2:]]
        codes = [cli.main(["bench", path, *device, "--runs", "20"]) for path in timed]
        codes.append(cli.main(["verify", timed[0], *device, *compared]))
        server.close()
        left = [path.name for path in (folder / "tmp").iterdir()]
    console.print(f"left on the device: {', '.join(left) or 'nothing'}")
    return int(any(codes) or bool(left))


def _files(folder: Path) -> Path:
    """Write a network, its sparse file and samples; return the path of these."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [layers.Conv2D(16, 3, activation="relu"), layers.Conv2D(32, 3, strides=2, activation="relu")]
    net = keras.Sequential([keras.Input((24, 24, 1)), *stack, layers.GlobalAveragePooling2D(), layers.Dense(10)])
    pruned = tfprune.wrap(net)
    tfprune.update_masks(pruned, 0.9)
    tfprune.strip(pruned).save(folder / "net.keras")
    tfprune.export.to_tflite(pruned, folder / "net.tflite")
    samples = np.random.default_rng(0).normal(size=(8, 24, 24, 1)).astype("float32")
    np.save(folder / "samples.npy", samples)
    return folder / "samples.npy"


if __name__ == "__main__":
    sys.exit(main())
