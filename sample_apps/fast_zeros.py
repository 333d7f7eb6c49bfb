"""Zeros that save time: a ResNet and a U-Net, dense, with zeros, with fewer channels, and in int8.

    python sample_apps/fast_zeros.py --seeds 3      # an hour and a half on two cores
    python sample_apps/fast_zeros.py --smoke        # a minute, on made-up images

docs/gallery/fast_zeros.md reports the results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

import numpy as np

from sample_apps.concepts import clothes
from sample_apps.data import fashion_mnist
from sample_apps.data.fashion_mnist import Data
from sample_apps.data.lines import Line, gathered, read
from sample_apps.sparse_twins import networks, report, runs, scenes
from tfprune.export import web

PAGE = Path(__file__).with_name("fast_zeros_page")
NETWORKS = ("resnet", "unet")


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        print("--smoke: made-up images instead of Fashion-MNIST; the accuracy means nothing")
    chosen = tasks(options)
    wanted = {
        (seed, name): partial(runs.run, chosen[name], seed, options.output)
        for seed in range(options.seeds)
        for name in options.networks
    }
    path = options.output / "results.jsonl"
    lines = gathered(path, wanted, resume=options.resume, key=lambda line: (line["seed"], line["network"]))
    lines.sort(key=lambda line: NETWORKS.index(line["network"]))
    found = options.output / "times.jsonl"  # of bench/trained_zeros.py
    times = read(found) if options.resume and found.exists() else []
    (options.output / "table.md").write_text(report.text(lines, times), encoding="utf-8")
    if times:
        report.draw(lines, times, options.output / "accuracy.png")
    print(f"\n{report.text(lines, times)}\nFiles: {options.output}")
    if "unet" in chosen:
        write_page(options.output, lines, chosen["unet"].data[2])


def tasks(options: argparse.Namespace) -> dict[str, runs.Task]:
    """Return what is trained: a ResNet on single pieces of clothing, a U-Net on scenes of them."""
    data = clothes.synthetic() if options.smoke else fashion_mnist.load(options.samples)
    zeros, flops = ((0.9,), (0.5,)) if options.smoke else ((0.8, 0.9), (0.5, 0.3))
    width, epochs, counts = (16, (1, 1), (64, 16)) if options.smoke else (64, (3, 3), (1200, 300))
    pieces = runs.Task("resnet", networks.resnet, width, 10, data, epochs, accuracy, zeros, flops)
    in_scenes: Data = scenes.of(data, counts)
    epochs = epochs if options.smoke else (8, 6)
    kinds = len(scenes.KINDS)
    found = runs.Task("unet", networks.unet, width // 2, kinds, in_scenes, epochs, scenes.mean_iou, (0.9,), ())
    return {task.name: task for task in (pieces, found) if task.name in options.networks}


def write_page(output: Path, lines: list[Line], x: np.ndarray) -> None:
    """Write a page where the U-Net with zeros runs beside the dense one, on a strip of scenes of the test."""
    files = {
        line["way"]: output / line["file"]
        for line in lines
        if line["network"] == "unet" and line["seed"] == 0 and line["form"] == "float32"
    }
    folder = output / "page"
    web([files[runs.DENSE], *(path for way, path in files.items() if way != runs.DENSE)], folder, samples=x[:4])
    for source in PAGE.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    strip = np.rint(255 * np.concatenate(x[:8], axis=1)[..., 0]).astype(int)
    side, width = strip.shape
    content = {"side": side, "width": width, "kinds": scenes.KINDS, "pixels": strip.ravel().tolist()}
    (folder / "scenes.json").write_text(json.dumps(content), encoding="utf-8")
    print(f"Open the page: cd {folder}; npm install; python3 -m http.server; http://localhost:8000/segment.html")


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(scores.argmax(axis=1) == labels))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a ResNet and a U-Net, and compare files with zeros, with fewer channels, and in int8."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up images")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--samples", type=int, default=8_000, help="images to train on (default: %(default)s)")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="which networks (default: both)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("fast-zeros-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
