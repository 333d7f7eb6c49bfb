"""The gate of `tfprune check`: planted regressions of each kind in 20 seeds, an unchanged file, and false alarms.

`python bench/gate.py --smoke` runs two seeds. Each seed trains a small classifier and writes its policy with
`--init`; every file is then checked with all of the policy's rules, the latency in turns included.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import Row, at_least, at_most, interleaved, median_ratio

from tfprune.export import CheckReport, Runner, check, to_tflite
from tfprune.export.comparing.gate import first_policy
from tfprune.export.file import schema
from tfprune.export.file.document import add_values
from tfprune.export.file.model_file import ModelFile

SEEDS, CLASSES, FEATURES, PER_CLASS = 20, 5, 20, 400
HARM, LARGER, FACTOR = 0.06, 0.02, 1.5
LAYERS, SLOWER_LAYERS, WIDTH = 10, 13, 512  # 1.3 times as many layers of one size
MOST_RATIO, TRUE_RATIO = 1.1, 1.3


@dataclass
class Trained:
    """A classifier of one seed: its file, test data, and policy."""

    model: keras.Model
    file: ModelFile
    x: np.ndarray
    y: np.ndarray
    policy: Path

    def check(self, file: ModelFile) -> CheckReport:
        return check(file.content, self.policy, baseline=self.file.content, data=(self.x, self.y), verbose=0)


def classifier(hidden: str) -> keras.Model:
    parts = [keras.layers.Dense(64, hidden), keras.layers.Dense(CLASSES, "softmax")]
    return keras.Sequential([keras.Input((FEATURES,)), *parts])


def exported(model: keras.Model, folder: Path) -> ModelFile:
    path = folder / "model.tflite"
    to_tflite(model, path)
    return ModelFile.open(path.read_bytes())


def trained(seed: int, folder: Path) -> Trained:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(CLASSES, FEATURES)) * 0.8

    def drawn(each: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(CLASSES), each)
        return (centers[y] + random.normal(size=(len(y), FEATURES))).astype(np.float32), y

    keras.utils.set_random_seed(seed)
    model = classifier("relu")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*drawn(1000), epochs=4, verbose=0)
    file, (x, y) = exported(model, folder), drawn(PER_CLASS)
    path = folder / "policy.toml"
    path.write_text(first_policy(file.content, baseline=file.content, data=(x, y)))
    return Trained(model, file, x, y, path)


def harmed(case: Trained, seed: int, folder: Path) -> ModelFile:
    """Lower the classifier's bias of one class until that class has lost 6 points."""
    name, layer = seed % CLASSES, case.model.layers[-1]
    kernel, bias = layer.get_weights()
    inside = case.x[case.y == name]
    scores = keras.Model(case.model.inputs, case.model.layers[-2].output).predict(inside, verbose=0) @ kernel + bias
    others = np.delete(scores, name, axis=1).max(axis=1)
    margins = np.sort((scores[:, name] - others)[scores[:, name] > others])
    count = round(HARM * len(inside))
    shift = bias.copy()
    shift[name] -= (margins[count - 1] + margins[count]) / 2  # exactly so many samples change sides
    layer.set_weights([kernel, shift])
    file = exported(case.model, folder)
    layer.set_weights([kernel, bias])
    return file


def larger(case: Trained, seed: int, folder: Path) -> ModelFile:
    with case.file.edit() as edit:
        buffer = add_values(edit.model, np.ones(round(LARGER * len(case.file.content)), np.int8))
        edit.model.metadata = [*(edit.model.metadata or []), schema.MetadataT(name=b"notes", buffer=buffer)]
    return edit.file


def foreign_operator(case: Trained, seed: int, folder: Path) -> ModelFile:
    other = classifier("tanh")
    other.set_weights(case.model.get_weights())
    return exported(other, folder)


def one_weight(case: Trained, seed: int, folder: Path) -> ModelFile:
    """Multiply one entry of a kernel, drawn at random, by 1.5."""
    random = np.random.default_rng(seed)
    layer = case.model.layers[seed % 2]
    weights = layer.get_weights()
    changed = weights[0].copy()
    changed[tuple(random.integers(0, changed.shape))] *= FACTOR
    layer.set_weights([changed, weights[1]])
    file = exported(case.model, folder)
    layer.set_weights(weights)
    return file


PLANTS: dict[str, tuple[Callable[[Trained, int, Path], ModelFile], str]] = {
    "one class harmed by 6 points": (harmed, "max_drop_per_class"),
    "2 % larger": (larger, "max_bytes"),
    "an operator outside of the list": (foreign_operator, "operators"),
    "one weight multiplied by 1.5": (one_weight, "max_output_difference"),
}


def is_caught(report: CheckReport, rule: str) -> bool:
    """Tell whether that rule is broken, and not only unclear."""
    return report.exit_code == 1 and next(row for row in report.rows if row.rule == rule).verdict == "fails"


def classified(seeds: int) -> tuple[dict[str, int], int]:
    """Return how many planted regressions of each kind are caught, and how many unchanged files pass."""
    caught, passed = dict.fromkeys(PLANTS, 0), 0
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            case = trained(seed, folder)
            for text, (plant, rule) in PLANTS.items():
                report = case.check(plant(case, seed, folder))
                caught[text] += is_caught(report, rule)
                if not is_caught(report, rule):
                    print(f"seed {seed}, {text}:\n{report}")
            report = case.check(case.file)
            passed += report.passed
            if not report.passed:
                print(f"seed {seed}, unchanged:\n{report}")
    return caught, passed


def stacked(layers: int, seed: int, folder: Path) -> bytes:
    keras.utils.set_random_seed(seed)
    parts = [keras.layers.Dense(WIDTH, "relu", name=f"dense_{index}") for index in range(layers)]
    return exported(keras.Sequential([keras.Input((WIDTH,)), *parts]), folder).content


def true_ratio(slow: bytes, fast: bytes) -> float:
    """Return the ratio of processor times, measured apart from the gate."""
    x = np.ones((1, WIDTH), np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for name, content in (("slow", slow), ("fast", fast)):
        runner = Runner(content)
        runs[name] = lambda runner=runner: [runner.predict(x) for _ in range(20)]
    interleaved(runs, rounds=3)
    seconds = interleaved(runs, rounds=41, clock=time.process_time)
    return median_ratio(seconds["slow"], seconds["fast"])


def latencies(seeds: int) -> tuple[int, int, int, list[float]]:
    """Return the slower files caught, the false alarms, the runs that could not tell, and the true ratios."""
    caught = alarms = unclear = 0
    ratios = []
    policy = {"max_latency_ratio": MOST_RATIO}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as name:
            fast, slow = (stacked(layers, seed, Path(name)) for layers in (LAYERS, SLOWER_LAYERS))
        ratios.append(true_ratio(slow, fast))
        report = check(slow, policy, baseline=fast, verbose=0)
        caught += report.exit_code == 1
        same = check(fast, policy, baseline=fast, verbose=0)
        alarms += same.exit_code == 1
        unclear += same.exit_code == 2
        print(
            f"seed {seed}: true {ratios[-1]:.3f}, {report.rows[0].measured_text}; same {same.rows[0].measured_text}"
        )
    return caught, alarms, unclear, ratios


def rows(*, seeds: int = SEEDS) -> list[Row]:
    caught, passed = classified(seeds)
    slower, alarms, unclear, ratios = latencies(seeds)
    measured = [
        at_least(f"caught of {seeds}: {text}", count, seeds, unit="", digits=0) for text, count in caught.items()
    ]
    return [
        *measured,
        at_least(f"unchanged files that pass, of {seeds}", passed, round(0.95 * seeds), unit="", digits=0),
        at_least(
            f"caught of {seeds}: {TRUE_RATIO}x slower (measured apart: {min(ratios):.2f} to {max(ratios):.2f})",
            *(slower, seeds),
            unit="",
            digits=0,
        ),
        at_most(f"false alarms at ratio {MOST_RATIO}, of {seeds}", alarms, seeds // 20, unit="", digits=0),
        at_most(f"nothing changed and no answer, of {seeds}", unclear, seeds // 20, unit="", digits=0),
    ]


if __name__ == "__main__":
    for row in rows(seeds=2 if "--smoke" in sys.argv else SEEDS):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
