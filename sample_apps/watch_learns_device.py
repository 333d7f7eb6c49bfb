"""Let a watch learn how its wearer moves: the program for the watch, or for a Raspberry Pi.

    python watch_learns_device.py learns-output/all-0.tfz learns-output/person-8.npz

It needs NumPy and LiteRT (`pip install "tfprune[device]"`), neither TensorFlow nor Keras. Both files are made by
`watch_learns.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from tfprune.export import Trainer
from tfprune.report import table

GROUPS = {
    "own": "the wearer, recordings that were not trained on",
    "known": "the people that the file was trained on",
    "new": "other new people",
}


def main() -> None:
    options = parse()
    if not Path(options.recordings).is_file():
        sys.exit(
            f"Expected recordings. Received: {options.recordings}, which is not a file. Make them with "
            f"watch_learns.py."
        )
    with np.load(options.recordings, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    trainer = Trainer(options.model, threads=options.threads)
    before = accuracies(trainer, arrays)
    report = trainer.fit(
        arrays["x"], arrays["y"], epochs=options.epochs, learning_rate=options.learning_rate, seed=options.seed
    )
    after = accuracies(trainer, arrays)
    if options.state:
        trainer.save(options.state)
    if options.json:
        loaded = sorted({"keras", "tensorflow"} & set(sys.modules))
        print(json.dumps({"steps": report.steps, "before": before, "after": after, "loaded": loaded}))
        return
    rows = [[GROUPS[name], f"{before[name]:.3f}", f"{after[name]:.3f}"] for name in before]
    print(f"{options.model} on {trainer.runtime}: {report.steps} steps in {report.seconds:.1f} s.")
    print(f"Mean loss of the first and the last epoch: {report.losses[0]:.6f}, {report.losses[-1]:.6f}.\n")
    print(table(["accuracy", "before", "after"], rows))
    if options.state:
        print(f"\nWritten: {options.state}, {Path(options.state).stat().st_size:,} bytes.")


def accuracies(trainer: Trainer, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the accuracy on the data of each group of people."""
    return {name: trainer.evaluate(arrays[f"{name}_x"], arrays[f"{name}_y"])["accuracy"] for name in GROUPS}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a file further on the recordings of one person, and say what it learned and forgot.",
        epilog="watch_learns.py makes the model and the recordings.",
    )
    parser.add_argument("model", metavar="MODEL", help="a file of to_trainer, plain or compressed")
    parser.add_argument("recordings", metavar="RECORDINGS", help="a .npz file: windows to train and to test on")
    parser.add_argument("--epochs", type=int, default=12, help="how often windows are seen (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="learning rate (default: the file's)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the order of the windows (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: %(default)s)")
    parser.add_argument("--state", metavar="FILE", help="where what was learned is written (default: nowhere)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, for other programs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
