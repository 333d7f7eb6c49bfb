"""Training that is sparse from the first step, on Fashion-MNIST: RigL and SET against other ways to the same size.

A small CNN and a small LSTM, which reads an image row by row, are trained for a few epochs with each way at each
sparsity. The masks are split by ERK. Beside the accuracy stands the cost of training in multiply-adds, relative to
dense training, as RigL's paper counts it: a backward pass takes twice as many as a forward pass, and zeros none.
TensorFlow itself computes with the zeros, so the wall clock does not show this cost.

    python bench/sparse_training.py --choose   # writes sparse_training.json
    python bench/sparse_training.py            # prints the table
    python bench/sparse_training.py --networks CNN --sparsities 0.95 --ways AC/DC SNIP GraSP SynFlow
    python bench/sparse_training.py --networks CNN --ways "static, scaled" "RigL, scaled"
    python bench/sparse_training.py --networks CNN --ways "RigL, even"  # no unit has the largest gradients

`--choose` takes settings by the accuracy on 10,000 training images that are held back, with one seed: optimizer and
learning rate of a network by its dense model, the interval and the replaced fraction of each way at 95 % sparsity.
The table has other seeds, and is the only one that looks at the test images. Both train on 30,000 images. AC/DC and
masks that are chosen once before training have no interval and no fraction, so nothing is chosen for them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fashion
import keras
import numpy as np
import tensorflow as tf
from common import Row
from sparse_networks import NETWORKS, EvenGradients, Watch, multiply_adds

import tfprune
from tfprune.schedules import Alternating, Constant, Polynomial

SPARSITIES, SEEDS, EPOCHS, BATCH, IMAGES = (0.9, 0.95, 0.98), (11, 12, 13), 4, 128, 30_000
DENSE, SMALL, GRADUAL, SET, RIGL = "dense", "small dense", "gradual pruning", "SET", "RigL"
STATIC = "static sparse (random ERK masks)"
WAYS = (SMALL, GRADUAL, STATIC, SET, RIGL)  # by default
ACDC, SNIP, GRASP, SYNFLOW = "AC/DC", "SNIP", "GraSP", "SynFlow"
SCALED = {"static, scaled": STATIC, "RigL, scaled": RIGL}  # ways that start from scaled weights
EVEN = "RigL, even"  # gradients are divided by their size in the same output, then in the same input
AS_ANOTHER = {**SCALED, EVEN: RIGL}  # ways with the settings and the masks of another one
CHOSEN_ONCE = (SNIP, GRASP, SYNFLOW)  # masks by a criterion before the first step
OTHER_WAYS = (ACDC, *CHOSEN_ONCE, *AS_ANOTHER)
CHOSEN = Path(__file__).with_suffix(".json")
CHOICE_SEED, CHOICE_SPARSITY, VALIDATION = 1, 0.95, 10_000
RATES = {"sgd": (0.05, 0.15), "adam": (0.001, 0.004)}
INTERVALS, FRACTIONS = (25, 50), (0.3, 0.5)


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
        optimizer: "sgd", with momentum 0.9, or "adam".
        rate: The learning rate of the first half of the epochs. It is halved in each later one.
        every: Steps between mask updates.
        fraction: The fraction of the kept entries that RigL and SET replace at first.
    """

    optimizer: str
    rate: float
    every: int = INTERVALS[0]
    fraction: float = FRACTIONS[0]

    def make(self) -> keras.optimizers.Optimizer:
        if self.optimizer == "adam":
            return keras.optimizers.Adam(self.rate)
        return keras.optimizers.SGD(self.rate, momentum=0.9)


@dataclass(frozen=True)
class Job:
    network: str
    way: str
    sparsity: float
    seed: int
    settings: Settings

    @property
    def moves(self) -> str:
        """The way that says how the masks change."""
        return AS_ANOTHER.get(self.way, self.way)

    def callbacks(self, model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[keras.callbacks.Callback]:
        every, fraction = self.settings.every, self.settings.fraction
        if self.way in (DENSE, SMALL, *CHOSEN_ONCE):
            return []
        if self.way == ACDC:
            return [tfprune.PruningCallback(Alternating(self.sparsity), allocation="erk")]
        if self.way == GRADUAL:
            return [tfprune.PruningCallback(Polynomial(self.sparsity, end=0.75), every=every, allocation="erk")]
        by, share = {STATIC: ("random", 0.0), SET: ("random", fraction), RIGL: ("gradient", fraction)}[self.moves]
        grow = tfprune.Grow(by, fraction=share, seed=self.seed)
        batches = FreshBatches(x, y, self.seed) if self.moves == RIGL else None
        data = EvenGradients(model, batches) if self.way == EVEN else batches
        schedule = Constant(self.sparsity)
        return [tfprune.PruningCallback(schedule, every=every, allocation="erk", grow=grow, data=data)]


class FreshBatches:
    """One batch of the training data, another one each time that it is read."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        self.x, self.y, self.random = x, y, np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = self.random.choice(len(self.x), BATCH, replace=False)
        yield self.x[rows], self.y[rows]


def choose_masks(model: keras.Model, job: Job, data: tuple) -> None:
    """Set the masks before the fit: random ones with scaled weights, or those of a criterion over all layers."""
    if job.way in SCALED:  # the masks that the callback would draw
        start = tfprune.Grow("random", fraction=1.0, seed=job.seed)
        tfprune.update_masks(model, job.sparsity, allocation="erk", grow=start)
        tfprune.research.scale_initial_weights(model)
        return
    settings = {"allocation": "global", "regrow": False}
    if job.way == SYNFLOW:
        for step in range(1, 101):
            tfprune.update_masks(model, 1 - (1 - job.sparsity) ** (step / 100), **settings)
        return
    batch = next(iter(FreshBatches(*data, job.seed)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    flat = {GRASP: lambda y, logits: loss(y, logits / 200)}.get(job.way)
    tfprune.update_masks(model, job.sparsity, data=batch, loss=flat, **settings)


def run(job: Job, data: tuple, judged: tuple) -> dict[str, Any]:
    """Train once; return accuracy on other images in percent, cost relative to dense training, counts and leaks."""
    network, settings, (x, y) = NETWORKS[job.network], job.settings, data
    keras.utils.set_random_seed(job.seed)
    model = network.small(job.sparsity) if job.way == SMALL else network.dense()
    size, macs, watch = sum(layer.count_params() for layer in model.layers), multiply_adds(network.dense()), Watch()
    is_sparse = job.way not in (DENSE, SMALL)
    if is_sparse:
        criterion = job.way.lower() if job.way in CHOSEN_ONCE else "magnitude"
        model = tfprune.wrap(model, criterion=criterion, latent="zero" if job.way == ACDC else "keep")
    callbacks = [*job.callbacks(model, x, y), *([watch] if is_sparse else [])]
    model.compile(settings.make(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if job.way in (*CHOSEN_ONCE, *SCALED):
        choose_masks(model, job, data)
    keras.utils.set_random_seed(job.seed)  # the same batches for each way
    falling = keras.callbacks.LearningRateScheduler(lambda epoch: settings.rate * 0.5 ** max(epoch - EPOCHS // 2, 0))
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[falling, *callbacks])
    classes = model.predict(judged[0], verbose=0, batch_size=1000).argmax(axis=1)
    forward = watch.cost / (EPOCHS * -(-len(x) // BATCH)) if is_sparse else multiply_adds(model)
    cost = 3 * forward
    if job.moves == RIGL:  # one backward pass of `every` + 1 is dense
        cost = (3 * forward * settings.every + 2 * forward + macs) / (settings.every + 1)
    accuracy = 100 * float(np.mean(classes == judged[1]))
    counts = {"counts": sorted(watch.counts)[:3], "leaks": watch.leaks, "parameters": size}
    return {**dataclasses.asdict(job), "accuracy": accuracy, "cost": cost / (3 * macs), **counts}


class Runs:
    """Runs on the same images, each made once: those in the file `kept` are not repeated."""

    def __init__(self, data: tuple, judged: tuple, kept: Path | None) -> None:
        self.data, self.judged, self.kept = data, judged, kept
        lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
        self.found = {self._key(line): line for line in map(json.loads, lines)}

    @staticmethod
    def _key(line: dict[str, Any]) -> str:
        return json.dumps([line[field.name] for field in dataclasses.fields(Job)])

    def __call__(self, job: Job) -> dict[str, Any]:
        key = self._key(dataclasses.asdict(job))
        if key not in self.found:
            self.found[key] = run(job, self.data, self.judged)
            keras.backend.clear_session()
            if self.kept:
                with self.kept.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(self.found[key]) + "\n")
        return self.found[key]


def _choose(runs: Runs, network: str) -> dict[str, Any]:
    """Return the settings of each way with the highest accuracy."""

    def best(way: str, candidates: list[Settings]) -> Settings:
        jobs = [Job(network, way, CHOICE_SPARSITY, CHOICE_SEED, settings) for settings in candidates]
        return max(jobs, key=lambda job: runs(job)["accuracy"]).settings

    dense = best(DENSE, [Settings(name, rate) for name, rates in RATES.items() for rate in rates])
    choice = dict.fromkeys((DENSE, SMALL, STATIC), dense)
    for way in (GRADUAL, SET, RIGL):
        pairs = [(every, share) for every in INTERVALS for share in (FRACTIONS[:1] if way == GRADUAL else FRACTIONS)]
        choice[way] = best(way, [dataclasses.replace(dense, every=every, fraction=share) for every, share in pairs])
    return {way: dataclasses.asdict(settings) for way, settings in choice.items()}


def choose(kept: Path | None) -> None:
    """Write the settings of each network and way, chosen on images that are held back from training."""
    x, y = fashion.read("train")
    runs = Runs((x[:IMAGES], y[:IMAGES]), (x[-VALIDATION:], y[-VALIDATION:]), kept)
    choices = {network: _choose(runs, network) for network in NETWORKS}
    CHOSEN.write_text(json.dumps(choices, indent=2) + "\n", encoding="utf-8")


def measure(
    *,
    networks: Sequence[str],
    sparsities: Sequence[float],
    seeds: Sequence[int],
    ways: Sequence[str] = WAYS,
    kept: Path | None = None,
) -> list[Row]:
    settings = json.loads(CHOSEN.read_text(encoding="utf-8"))

    def chosen(network: str, way: str) -> Settings:
        return Settings(**settings[network].get(AS_ANOTHER.get(way, way), settings[network][DENSE]))

    jobs = [
        Job(network, way, sparsity, seed, chosen(network, way))
        for seed in seeds
        for network in networks
        for sparsity in sparsities
        for way in ([DENSE] if sparsity == SPARSITIES[0] and ways == WAYS else []) + [*ways]
    ]
    x, y = fashion.read("train")
    runs = Runs((x[:IMAGES], y[:IMAGES]), fashion.read("t10k"), kept)
    results = [runs(job) for job in jobs]
    return [row for network in networks for row in _rows(network, results)] + list(_exact(results))


def _rows(network: str, found: list[dict[str, Any]]) -> Iterator[Row]:
    def of(way: str, sparsity: float, key: str) -> np.ndarray:
        wanted = {"network": network, "way": way, "sparsity": sparsity}
        return np.array([line[key] for line in found if wanted.items() <= line.items()])

    def deviation(values: np.ndarray) -> float:
        return float(values.std(ddof=1)) if len(values) > 1 else float("inf")

    for sparsity in SPARSITIES:
        static = of(STATIC, sparsity, "accuracy")
        for way in (DENSE, *WAYS, *OTHER_WAYS):
            accuracy = of(way, sparsity, "accuracy")
            if not len(accuracy):
                continue
            what = DENSE if way == DENSE else f"{way} at {sparsity:.0%}"
            cost = of(way, sparsity, "cost").mean()
            measured = f"{accuracy.mean():.2f} ± {deviation(accuracy):.2f} %, multiply-adds of training x{cost:.3f}"
            is_compared = way == RIGL and len(static) > 0
            above = is_compared and accuracy.mean() - max(deviation(accuracy), deviation(static)) >= static.mean()
            bar = "a deviation above static sparse" if is_compared else ""
            what = f"{network}, {what}: accuracy after {EPOCHS} epochs, {len(accuracy)} seeds"
            yield Row(what, measured, bar, not is_compared or bool(above))


def _exact(found: list[dict[str, Any]]) -> Iterator[Row]:
    wrong, rounding = 0, 4  # the number of kernels, each with a share of its own
    for line in found:
        network = NETWORKS[line["network"]]
        entries = network.size(network.widths)
        if line["way"] in (STATIC, SET, RIGL, *AS_ANOTHER):
            counts = line["counts"]
            wrong += len(counts) != 1 or abs(counts[0] - (1 - line["sparsity"]) * entries) > rounding
    yield Row(
        "fits with a step where the number of kept entries is not that of the allocation", f"{wrong}", "0", wrong == 0
    )
    leaks = sum(line["leaks"] for line in found)
    yield Row("values and slots under masks that are not 0, in every 50th step", f"{leaks}", "0", leaks == 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help=f"choose the settings and write {CHOSEN.name}")
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=NETWORKS)
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES, choices=SPARSITIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=[*WAYS, *OTHER_WAYS])
    parser.add_argument("--kept", type=Path, help="a file of finished runs, which the next call does not repeat")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if not fashion.is_there():
        sys.exit()
    if arguments.choose:
        sys.exit(choose(arguments.kept))
    wanted = {"networks": arguments.networks, "sparsities": arguments.sparsities, "seeds": arguments.seeds}
    for row in measure(**wanted, ways=arguments.ways, kept=arguments.kept):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
