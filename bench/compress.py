"""What `compress` finds for a network on Fashion-MNIST in half an hour, against the recipe of fashion_cnn.py.

compress.py cnn [MINUTES [FOLDER]] [--jobs 1] [--seeds 0 1 2], or compress.py mobilenet ...; a folder keeps the
searches and their pages, and neither a search nor a file made by hand that stands in it is made again. A seed is that
of the network's training and of the search.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import fashion
import keras
import numpy as np
from common import Row, at_least, at_most

import tfprune
from tfprune.export import CompressReport, Search, compress, evaluate, to_tflite

sys.path.insert(0, str(Path(__file__).parents[1]))
from sample_apps import fashion_cnn
from sample_apps.four_ways.networks import mobilenet

EPOCHS, BATCH = 10, 128
HELD_OUT = 5000  # of the training images, to judge by
SMALLER, SPREAD, FILES, LATE = {"cnn": 57.0, "mobilenet": 15.0}, 1.5, 5, 1.05
MAX_DROP = 0.01
NETWORKS = {"cnn": fashion_cnn.build, "mobilenet": lambda: mobilenet((28, 28, 1), 16)}


def measure(name: str, seed: int, options: argparse.Namespace, folder: Path) -> tuple[float, list[Row]]:
    """Search once; return how many times smaller the smallest file is, and the rows of the search."""
    x, y = fashion.read("train")
    test = fashion.read("t10k")
    train, validation = (x[:-HELD_OUT], y[:-HELD_OUT]), (x[-HELD_OUT:], y[-HELD_OUT:])
    folder.mkdir(parents=True, exist_ok=True)
    model = trained(name, seed, train, folder / "model.keras")
    began = time.monotonic()
    search = Search(jobs=options.jobs, batch_size=BATCH, seed=seed)
    settings = {"time": 60 * options.minutes, "search": search, "test_data": test, "verbose": 0}
    report = compress(model, train, validation, folder=folder, max_drop=MAX_DROP, **settings)
    took = time.monotonic() - began
    sys.stderr.write(f"{report}\n")
    smallest = report.dense.bytes / report.best.bytes
    drop = max(file.drop for file in report.front)
    head = f"compress {name}, seed {seed}"
    return smallest, [
        at_least(f"{head}: files on the front", len(report.front), FILES, unit="", digits=0),
        at_least(f"{head}: dense float32 / smallest .tflite file", smallest, SMALLER[name]),
        at_least(f"{head}: hypervolume of bytes and drop, in nats", hypervolume(report), 0.0, unit=""),
        at_most(f"{head}: the most that one loses on validation data", drop, MAX_DROP, unit="", digits=4),
        at_most(f"{head}: seconds / those allowed", took / 60 / options.minutes, LATE),
        against_by_hand(f"{head}:", name, seed, report, train, test, folder / "by_hand.tflite"),
    ]


def hypervolume(report: CompressReport) -> float:
    """Return the mean, over drops from 0 to the limit, of log(dense bytes / bytes of the smallest file)."""
    sizes = [
        min([file.bytes for file in report.front if file.drop <= drop] or [report.dense.bytes])
        for drop in np.linspace(0, MAX_DROP, 101)
    ]
    return statistics.mean(math.log(report.dense.bytes / size) for size in sizes)


def trained(name: str, seed: int, data: tuple, path: Path) -> keras.Model:
    """Return the network as fashion_cnn.py trains it, or as it was trained before a search that goes on."""
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = NETWORKS[name]()
    fit(model, data)
    model.save(path)
    return model


def fit(model: keras.Model, data: tuple, *callbacks: keras.callbacks.Callback) -> None:
    rate = keras.optimizers.schedules.CosineDecay(0.002, EPOCHS * -(-len(data[0]) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, batch_size=BATCH, epochs=EPOCHS, callbacks=[*callbacks], verbose=0)


def against_by_hand(
    head: str, name: str, seed: int, report: CompressReport, train: tuple, test: tuple, path: Path
) -> Row:
    """Compare the smallest file that is as good on test data as the int8 file of fashion_cnn.py's recipe with it."""
    if not path.exists():
        keras.utils.set_random_seed(seed)
        model = tfprune.wrap(NETWORKS[name]())
        schedule = tfprune.schedules.Polynomial(0.9, begin=0.1, end=0.6)
        fit(model, train, tfprune.PruningCallback(schedule, every=50, allocation="erk"))
        to_tflite(model, path, quantize="int8", calibration=train[0][:100], tolerance=1)
    score = evaluate(path, test).metrics["accuracy"]
    as_good = [file.bytes for file in report.front if file.test_score >= score] or [report.dense.bytes]
    what = f"{head} as good on test data ({score:.2%}) as by hand, bytes / its {path.stat().st_size:,}"
    return at_most(what, min(as_good) / path.stat().st_size, 1.0)


def all_seeds(options: argparse.Namespace, folder: Path) -> list[Row]:
    searches = [measure(options.network, seed, options, folder / str(seed)) for seed in options.seeds]
    smaller = [times for times, _ in searches]
    head = f"compress {options.network}, {len(smaller)} seeds:"
    return [
        *(row for _, rows in searches for row in rows),
        at_least(f"{head} median of dense / smallest", statistics.median(smaller), SMALLER[options.network]),
        at_most(f"{head} spread of the smallest bytes", max(smaller) / min(smaller), SPREAD),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("minutes", nargs="?", type=float, default=30.0)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as passing:
        rows = all_seeds(options, options.folder or Path(passing)) if fashion.is_there() else []
    for row in rows:
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")


if __name__ == "__main__":
    main()
