"""Recognize exercises from a wrist's motion, sample by sample: the program for a Raspberry Pi.

    python wrist_device.py wrist-output/conv-pruned-dynamic.tflite.xz wrist-output/recording.npz

It needs NumPy and LiteRT (`pip install "tfprune[device]"`), neither TensorFlow nor Keras. Both files are made by
`wrist_exercises.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfprune.export import Runner
from tfprune.report import table


def main() -> None:
    options = parse()
    if not Path(options.recording).is_file():
        sys.exit(
            f"Expected a recording. Received: {options.recording}, which is not a file. Make one with "
            f"wrist_exercises.py."
        )
    with np.load(options.recording, allow_pickle=False) as archive:
        recording = {name: archive[name] for name in archive.files}
    runner = Runner(options.model, threads=options.threads)
    names, truth, rate = recording["names"], recording["exercise"], float(recording["rate"])
    window = runner.inputs[0].shape[1]
    print(f"{options.model} on {runner.runtime}: windows of {window} samples at {rate:g} Hz\n")

    lines, right, times = [], [], []
    for end, values in windows(samples(recording["motion"]), window, options.step):
        start = time.perf_counter()
        scores = runner.predict(values[np.newaxis])[0]
        times.append(1000 * (time.perf_counter() - start))
        found, actual = scores.argmax(), truth[end - 1]
        right.append(found == actual)
        lines.append([f"{end / rate:.1f}", names[found], f"{scores[found]:.0%}", names[actual], f"{times[-1]:.3f}"])
    print(table(["second", "recognized", "score", "performed", "ms"], lines, left=0))
    median, slowest = np.percentile(times, [50, 100])
    print(f"\nRight: {sum(right)} of {len(right)} windows, those that span two exercises included.")
    due = 1000 * options.step / rate
    print(f"Time: {median:.3f} ms per window, {slowest:.3f} ms at most; a new window comes every {due:.0f} ms.")


def samples(motion: np.ndarray) -> Iterator[np.ndarray]:
    """Yield one sample after the other; on a real device, read them from the sensor here."""
    yield from motion


def windows(stream: Iterator[np.ndarray], size: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the last `size` samples each time `step` new ones have come, with the number of samples so far."""
    recent: deque[np.ndarray] = deque(maxlen=size)
    for count, sample in enumerate(stream, start=1):
        recent.append(sample)
        if len(recent) == size and (count - size) % step == 0:
            yield count, np.array(recent)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Read a recording sample by sample, and say which exercise the last seconds show.",
        epilog="wrist_exercises.py makes the model and the recording.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .tflite file, plain or compressed")
    parser.add_argument("recording", metavar="RECORDING", help="a .npz file with motion, exercise, names and rate")
    parser.add_argument(
        "--step", type=int, default=64, metavar="N", help="samples between two windows (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
