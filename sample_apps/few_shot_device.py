"""Learn new characters from five pictures of each, and recognize others: the program for a Raspberry Pi.

    python few_shot_device.py few-shot-output/ProtoNet-DACIS-0.tflite few-shot-output/pictures.npz

It needs NumPy and LiteRT (`pip install "tfprune[device]"`), neither TensorFlow nor Keras. The model turns a picture
into an embedding; a class is the mean of its embeddings. `few_shot_glyphs.py` makes both files.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from tfprune.export import Runner
from tfprune.report import table


def main() -> None:
    options = parse()
    if not Path(options.pictures).is_file():
        sys.exit(
            f"Expected pictures. Received: {options.pictures}, which is not a file. Make one with few_shot_glyphs.py."
        )
    with np.load(options.pictures, allow_pickle=False) as archive:
        pictures = {name: archive[name] for name in archive.files}
    runner = Runner(options.model, threads=options.threads)
    names, labels = pictures["names"], pictures["labels"]

    start = time.perf_counter()
    classes = learn(runner.predict(pictures["learn"]), pictures["learn_labels"])
    seconds = time.perf_counter() - start
    print(f"{options.model} on {runner.runtime}")
    print(f"Learned {len(names)} classes from {len(pictures['learn'])} pictures in {1000 * seconds:.1f} ms.\n")

    found, times = [], []
    for picture in pictures["recognize"]:
        start = time.perf_counter()
        found.append(recognize(runner.predict(picture[np.newaxis])[0], classes))
        times.append(1000 * (time.perf_counter() - start))
    right = np.array(found) == labels
    lines = [
        [name, f"{right[labels == index].sum()} of {(labels == index).sum()}"] for index, name in enumerate(names)
    ]
    print(table(["class", "recognized"], lines))
    print(f"\nRight: {right.sum()} of {right.size} pictures. Time: {np.median(times):.3f} ms per picture.")


def learn(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean embedding of each class."""
    return np.stack([embeddings[labels == label].mean(axis=0) for label in np.unique(labels)])


def recognize(embedding: np.ndarray, classes: np.ndarray) -> int:
    """Return the number of the class whose mean is nearest."""
    return int(np.square(classes - embedding).sum(axis=1).argmin())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Learn classes from five pictures of each, and recognize other pictures.",
        epilog="few_shot_glyphs.py makes the model and the pictures.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .tflite file, plain or compressed")
    parser.add_argument("pictures", metavar="PICTURES", help="a .npz file: pictures to learn and to recognize, names")
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
