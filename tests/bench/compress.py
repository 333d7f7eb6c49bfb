"""What `compress` finds for a network on Fashion-MNIST in half an hour, against the recipe of fashion_cnn.py.

compress.py cnn [MINUTES [FOLDER [JOBS]]], or compress.py mobilenet ...; a folder keeps the search and page.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import fashion
import keras
from common import Row, at_least, at_most

import tfprune
from tfprune.export import CompressReport, Search, compress, evaluate, to_tflite

sys.path.insert(0, str(Path(__file__).parents[2]))
from sample_apps import fashion_cnn
from sample_apps.four_ways.networks import mobilenet

EPOCHS, BATCH = 10, 128
HELD_OUT = 5000  # of the training images, to judge by
SMALLER, FILES, LATE = 20.0, 5, 1.1
NETWORKS = {"cnn": fashion_cnn.build, "mobilenet": lambda: mobilenet((28, 28, 1), 16)}


def measure(name: str, minutes: float, folder: Path, jobs: int) -> list[Row]:
    x, y = fashion.read("train")
    test = fashion.read("t10k")
    train, validation = (x[:-HELD_OUT], y[:-HELD_OUT]), (x[-HELD_OUT:], y[-HELD_OUT:])
    model = trained(name, train, folder / "model.keras")
    began = time.monotonic()
    search = Search(jobs=jobs, batch_size=BATCH)
    settings = {"time": 60 * minutes, "search": search, "test_data": test, "verbose": 0}
    report = compress(model, train, validation, folder=folder, max_drop=0.01, **settings)
    took = time.monotonic() - began
    sys.stderr.write(f"{report}\n")
    smallest = report.dense.bytes / report.best.bytes
    lost = max(one.drop for one in report.front)
    return [
        at_least(f"compress {name}: files on the front", len(report.front), FILES, unit="", digits=0),
        at_least(f"compress {name}: dense float32 / smallest .tflite file", smallest, SMALLER),
        at_most(f"compress {name}: the most that one loses on validation data", lost, 0.01, unit="", digits=4),
        at_most(f"compress {name}: seconds / those allowed", took / 60 / minutes, LATE),
        against_by_hand(name, report, train, test, folder / "by_hand.tflite"),
    ]


def trained(name: str, data: tuple, path: Path) -> keras.Model:
    """Return the network as fashion_cnn.py trains it, or as it was trained before a search that goes on."""
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    fit(model, data)
    model.save(path)
    return model


def fit(model: keras.Model, data: tuple, *callbacks: keras.callbacks.Callback) -> None:
    rate = keras.optimizers.schedules.CosineDecay(0.002, EPOCHS * -(-len(data[0]) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, batch_size=BATCH, epochs=EPOCHS, callbacks=[*callbacks], verbose=0)


def against_by_hand(name: str, report: CompressReport, train: tuple, test: tuple, path: Path) -> Row:
    """Compare the smallest file that is as good on test data as the int8 file of fashion_cnn.py's recipe with it."""
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(NETWORKS[name]())
    schedule = tfprune.schedules.Polynomial(0.9, begin=0.1, end=0.6)
    fit(model, train, tfprune.PruningCallback(schedule, every=50, allocation="erk"))
    to_tflite(model, path, quantize="int8", calibration=train[0][:100], tolerance=1)
    score = evaluate(path, test).metrics["accuracy"]
    as_good = [one.bytes for one in report.front if one.test_score >= score] or [report.dense.bytes]
    what = f"compress {name}: as good on test data ({score:.2%}) as by hand, bytes / its {path.stat().st_size:,}"
    return at_most(what, min(as_good) / path.stat().st_size, 1.0)


def main() -> None:
    name, minutes = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(sys.argv[3] if len(sys.argv) > 3 else passing)
        folder.mkdir(parents=True, exist_ok=True)
        jobs = int(sys.argv[4]) if len(sys.argv) > 4 else 1
        rows = measure(name, minutes, folder, jobs) if fashion.is_there() else []
    for row in rows:
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")


if __name__ == "__main__":
    main()
