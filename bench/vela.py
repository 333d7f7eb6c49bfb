"""MLPerf Tiny's networks on Arm's Ethos-U: what channels, zeros, groups and few values save there, by its compiler.

Each row has the cycles, the SRAM and the bytes of weights as fractions of the dense int8 file's. The last rows meet a
budget of cycles. With the word `search`, two searches of `compress` instead: for the fewest cycles, and for the
smallest file within a limit of cycles.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import keras
from common import Row, at_most
from micro import NETWORKS, pruned, samples_of, settled
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

import tfprune
from tfprune.export import CompressReport, Search, VelaReport, compress, vela
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.share_weights import share_weights

ACCELERATORS = ("ethos-u55-128", "ethos-u85-256")
BUDGET, WITHIN = 0.5, 0.05
MAX_DROP, TRIALS, QUARTER = 0.02, 5, 0.25
COUNTS = ("cycles", "sram", "weight_bytes")


def measure() -> list[Row]:
    rows = []
    for name, build in NETWORKS.items():
        model = settled(build())
        forms = forms_of(model)
        for accelerator in ACCELERATORS:
            reports = {form: vela(accelerator).report(content) for form, content in forms.items()}
            dense = reports.pop("dense")
            rows += [Row(f"{name}, {accelerator}, dense: cycles, SRAM, weight bytes", _amounts(dense), "", True)]
            rows += [
                Row(f"{name}, {form}: of these", _ratios(report, dense), "", True) for form, report in reports.items()
            ]
        rows.append(within_budget(name, model))
    return rows


def forms_of(model: keras.Model) -> dict[str, bytes]:
    """Return int8 files of a network as it is, and smaller in four ways."""
    networks = {
        "dense": model,
        "50 % of the channels": settled(tfprune.shrink(model, tfprune.plan_shrink(model, 0.5))),
        "90 % zeros": pruned(model),
        "2 of 4": pruned(model, 0.5, tfprune.patterns.NM(2, 4)),
    }
    files = {}
    for form, network in networks.items():
        samples = samples_of(network)
        files[form] = convert(network, quantize="int8", calibration=samples, io_dtype="int8", batch=1)
    return files | {"16 values": share_weights(files["dense"], levels=17)}  # beside 0


def within_budget(name: str, model: keras.Model) -> Row:
    cost = vela(ACCELERATORS[0])
    plan = tfprune.plan_shrink(model, tfprune.budget(latency=BUDGET, measure=cost))
    used = cost(tfprune.shrink(model, plan)) / (BUDGET * cost(model))
    what = f"{name}, {ACCELERATORS[0]}: cycles used of a budget of half"
    return Row(what, f"{used:.3f}", f"{1 - WITHIN:g} to 1", 1 - WITHIN <= used <= 1)


def searched() -> list[Row]:
    """Search for a small network of digits, for the fewest cycles, and for the smallest file within a quarter."""
    x, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    data, validation_data = (x[:1500], y[:1500]), (x[1500:], y[1500:])
    layers = keras.layers
    keras.utils.set_random_seed(0)
    convolutions = [layers.Conv2D(32, 3, activation="relu"), layers.Conv2D(64, 3, activation="relu")]
    head = [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *convolutions, *head])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, epochs=10, verbose=0)
    npu = vela(ACCELERATORS[0])
    most = int(QUARTER * npu(model))
    with tempfile.TemporaryDirectory() as folder:
        searches = {
            "fewest cycles": ("latency", None),
            f"smallest file of at most {most:,} cycles": ("size", most),
        }
        reports = {}
        for name, (optimize, max_cycles) in searches.items():
            search = Search(trials=TRIALS, max_cycles=max_cycles)
            settings = {"optimize": optimize, "max_drop": MAX_DROP, "target": npu, "search": search, "verbose": 0}
            reports[name] = compress(model, data, validation_data, folder=Path(folder, name), **settings)
            sys.stderr.write(f"{reports[name]}\n")
    return [row for name, report in reports.items() for row in _found(name, report)]


def _found(name: str, report: CompressReport) -> list[Row]:
    best, dense = report.best, report.dense
    what = f"digits, {report.target}, {name}, {report.trials} recipes"
    return [
        Row(f"{what}: bytes, cycles, drop", f"{best.bytes:,}, {best.cycles:,}, {best.drop:+.4f}", "", True),
        Row(f"{what}: bytes, cycles of the dense file", f"{dense.bytes:,}, {dense.cycles:,}", "", True),
        at_most(f"{what}: cycles / dense", best.cycles / dense.cycles, QUARTER),
    ]


def _amounts(report: VelaReport) -> str:
    return ", ".join(f"{getattr(report, count):,}" for count in COUNTS)


def _ratios(report: VelaReport, dense: VelaReport) -> str:
    return ", ".join(f"{getattr(report, count) / getattr(dense, count):.2f}" for count in COUNTS)


if __name__ == "__main__":
    for row in searched() if "search" in sys.argv else measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
