"""What a comparison finds: a planted loss in each seed, nothing where nothing was planted, and the time it takes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from common import Row, at_least, at_most, interleaved, median_ratio, processor_seconds
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss

from tfprune.base.limit import GroupLimits, Limit
from tfprune.export import DamageReport, damage, evaluate, to_tflite
from tfprune.export.compressing.policy import Goal, pareto_front
from tfprune.export.compressing.trials import MeasuredFile

SEEDS, RUNS, SAMPLES = 20, 200, 10_000
CLASSES, RARE, RARE_SHARE = 10, 9, 0.02
OWN, SECOND = 4.0, 2.0  # how far the features of a class lie from the others, in standard deviations
ROUNDS = 5
SLOWER = 1.2


Planted = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def planted_data(seed: int, *, samples: int = SAMPLES) -> Planted:
    """Return samples, labels, and a linear classifier before and after it lost the feature of a rare class.

    A second, weaker feature still finds that class in most samples, so that the average falls by less than a point.
    """
    random = np.random.default_rng(seed)
    shares = np.full(CLASSES, (1 - RARE_SHARE) / (CLASSES - 1))
    shares[RARE] = RARE_SHARE
    labels = random.choice(CLASSES, samples, p=shares)
    x = random.normal(size=(samples, CLASSES + 1))
    x[np.arange(samples), labels] += OWN
    x[labels == RARE, CLASSES] += SECOND
    before = np.eye(CLASSES + 1, CLASSES) + random.normal(0, 0.05, (CLASSES + 1, CLASSES))
    before[CLASSES, RARE] = 1
    after = np.where(np.abs(before) < 0.03, 0, before)
    after[RARE] = 0
    return x, labels, before, after


def planted(seed: int, *, samples: int = SAMPLES) -> DamageReport:
    """Compare the planted classifier before and after, with groups drawn at random besides."""
    x, labels, before, after = planted_data(seed, samples=samples)
    groups = {"room": np.random.default_rng(seed).integers(0, 10, samples)}
    return damage(x @ before, x @ after, (None, labels), groups=groups)


def listed(seed: int, limit: Limit, *, samples: int = SAMPLES) -> bool:
    """Tell whether the search lists the planted file, smaller than the first one, under a limit."""
    x, labels, before, after = planted_data(seed, samples=samples)
    limits = GroupLimits.of(limit, x @ before, labels)
    files = []
    for size, weights in ((1000, before), (900, after)):
        score = float(np.mean((x @ weights).argmax(axis=1) == labels))
        worst = None if limits is None else limits.worst(x @ weights)
        drop = files[0].score - score if files else 0.0
        files.append(MeasuredFile(None, None, size, size, score, drop, worst_group=worst))
    return files[1] in pareto_front(files, Goal("bytes", limit.max_drop or 0.0))


def accepted(seed: int, limit: Limit, *, samples: int = 2_000) -> bool:
    """Tell whether `prune_to` accepts a round that removes the unit of the rare class, under a limit.

    The unit has small weights in its layer, so that it is removed first, and reconstruction never sees the class.
    """
    import keras

    import tfprune

    keras.utils.set_random_seed(seed)
    x, labels, before, _ = planted_data(seed, samples=samples)
    mask = (labels != RARE) | (np.arange(samples) % 3 == 0)  # all of the class is lost, which is less than a point
    x, labels = x[mask], labels[mask]
    sizes = np.where(np.arange(CLASSES) == RARE, 0.01, 1.0)
    layers = [keras.layers.Dense(CLASSES), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((CLASSES + 1,)), *layers])
    model.set_weights([before * sizes, np.zeros(CLASSES), np.diag(1 / sizes), np.zeros(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    common = labels != RARE
    try:
        tfprune.prune_to(
            model,
            tfprune.budget(parameters=0.95),
            (x[common], labels[common]),
            validation_data=(x, labels),
            epochs=0,
            fine_tuning=tfprune.FineTuning(rounds=1),
            max_drop=limit,
            verbose=0,
        )
    except ValueError:
        return False
    return True


def not_planted(seed: int, noise: float, *, samples: int = SAMPLES) -> DamageReport:
    """Compare a classifier with the same under noise that is alike for all classes, with groups drawn at random."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, samples)
    scores = random.normal(size=(samples, CLASSES)) + 2.5 * np.eye(CLASSES)[labels]
    groups = {"room": random.integers(0, 10, samples), "person": random.integers(0, 30, samples)}
    return damage(scores, scores + random.normal(0, noise, scores.shape), (None, labels), groups=groups)


def measure() -> Iterator[Row]:
    reports = [planted(seed) for seed in range(SEEDS)]
    first = sum(report.rows[0].name == f"class {RARE}" and report.rows[0].harmed for report in reports)
    yield at_least(f"planted: found first, of {SEEDS} seeds", first, SEEDS, unit="", digits=0)
    drop, loss = max(report.drop for report in reports), min(report.rows[0].drop for report in reports)
    yield at_most("planted: largest drop of the average", 100 * drop, 1, unit=" points", digits=2)
    yield Row("planted: smallest drop of the class", f"{100 * loss:.0f} points", "", True)
    average, promise = Limit(0.01, metric="accuracy"), Limit(0.01, metric="accuracy", max_drop_per_class=0.1)
    for what, tells in (("listed by the search", listed), ("accepted by prune_to", accepted)):
        without, within = (sum(tells(seed, limit) for seed in range(SEEDS)) for limit in (average, promise))
        yield at_least(f"planted: {what} with a limit of the average, of {SEEDS}", without, SEEDS, unit="", digits=0)
        yield at_most(f"planted: {what} with a limit of each class, of {SEEDS}", within, 0, unit="", digits=0)
    for noise in (0.2, 1.0):
        nulls = [not_planted(seed, noise) for seed in range(RUNS)]
        share, mean = np.mean([bool(report.harmed) for report in nulls]), np.mean([report.drop for report in nulls])
        what = f"not planted: runs of {RUNS} that report a group, average drop {100 * mean:.1f} points"
        yield at_most(what, 100 * float(share), 5, unit=" %", digits=1)
    yield _figures()
    yield _time()


def _figures() -> Row:
    """Compare figures of one report with those of SciPy and scikit-learn."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, SAMPLES)
    before, after = (softmax(random.normal(size=(SAMPLES, CLASSES)) + 2 * np.eye(CLASSES)[labels], 1) for _ in "12")
    report = damage(before, after, (None, labels))
    lost, gained = report.lost, report.gained
    differences = np.repeat([1, -1, 0], [lost + 1, gained + 1, SAMPLES - lost - gained])
    scale = differences.std() / np.sqrt(SAMPLES + 2)
    pairs = [
        (report.before.score, accuracy_score(labels, before.argmax(1))),
        (report.after.brier, brier_score_loss(labels, after)),
        (report.p_value, stats.binomtest(lost, lost + gained).pvalue),
        ((report.low, report.high), stats.norm.interval(0.95, loc=differences.mean(), scale=scale)),
        (
            sorted(row.adjusted_p for row in report.rows),
            sorted(stats.false_discovery_control([row.p_value for row in report.rows])),
        ),
    ]
    largest = max(float(np.abs(np.subtract(*pair)).max()) for pair in pairs)
    return Row("largest difference from SciPy and scikit-learn", f"{largest:.1e}", "<= 1e-9", largest <= 1e-9)


def _time() -> Row:
    import keras

    layers = [keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    random = np.random.default_rng(0)
    data = random.random((SAMPLES, 28, 28, 1), np.float32), random.integers(0, CLASSES, SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.tflite"), Path(folder, "after.tflite")
        to_tflite(model, before)
        to_tflite(model, after, quantize="dynamic", tolerance=1.0)
        runs = {
            "damage": lambda: damage(before, after, data, groups={"room": data[1] % 3}),
            "evaluate": lambda: (evaluate(before, data), evaluate(after, data)),
        }
        seconds = interleaved(runs, rounds=ROUNDS, clock=processor_seconds)
    what = f"{SAMPLES:,} samples, two files: damage / evaluate of both, processor time"
    return at_most(what, median_ratio(seconds["damage"], seconds["evaluate"]), SLOWER, digits=2)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
