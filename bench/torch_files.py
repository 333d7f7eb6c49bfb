"""Prune and shrink the networks that `torch_trained.py` wrote, without training, on 512 images without labels.

    python bench/torch_files.py build/torch_trained

It needs the images of Debian's package dataset-fashion-mnist. The accuracy is that on all 10,000 test images; the
samples are of the training set. About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fashion
import numpy as np
from common import Row, at_most

from tfprune.export import Runner, prune_tflite, shrink_tflite

SAMPLES, FIRST_SAMPLE = 512, 10_000  # a network's own calibration took the first images
ZEROS, FLOPS = 0.7, 0.5
BARS = {"zeros": 1.0, "channels": 2.0}
NETWORKS = ("resnet", "vit")


def accuracy(file: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that a file classifies rightly, in %."""
    return 100 * float((Runner(file, threads=2).predict(images).argmax(axis=1) == labels).mean())


def measure(folder: Path, only: str | None) -> Iterator[Row]:
    (train, _), (images, labels) = fashion.read("train"), fashion.read("t10k")
    for file in sorted(folder.glob(f"{only or ''}*.tflite")):
        has_colors_first = "litert" in file.name  # PyTorch's order of dimensions
        tested, samples = (
            np.moveaxis(x, -1, 1) if has_colors_first else x
            for x in (images, train[FIRST_SAMPLE : FIRST_SAMPLE + SAMPLES])
        )
        dense = accuracy(file, tested, labels)
        for what, bar in BARS.items():
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch, "changed.tflite")
                if what == "zeros":
                    report = prune_tflite(file, path, samples, sparsity=ZEROS, optimize="dense")
                    text = f"{report.sparsity:.0%} zeros"
                else:
                    report = shrink_tflite(file, path, samples, flops=FLOPS)
                    text = f"{report.flops_kept / report.flops:.0%} of the FLOPs"
                seconds = time.perf_counter() - start
                lost = dense - accuracy(path, tested, labels)
            text = f"{file.stem} of {dense:.2f} %, {text} ({seconds:.0f} s)"
            yield at_most(text, lost, bar, unit=" points", digits=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", metavar="NAME", help="files whose name begins so, such as vit or resnet_litert")
    options = parser.parse_args()
    for row in measure(options.folder, options.only):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
