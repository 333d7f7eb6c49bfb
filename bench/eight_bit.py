"""Int8 files of networks of fully connected layers: with their zeros, and without, as 1x1 convolutions.

The networks are those of the grid, as small as they are there, and wider. Both files have to give the same outputs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Row, at_most, interleaved, median_ratio

sys.path.append(str(Path(__file__).parents[1] / "tests/device"))

from models import network

from tfprune.export import Runner, rewrite, to_tflite

# How many times as wide as in the grid. There, most bytes are names, scales and operators: those have no bar.
WIDTHS = {"mlp": 8, "cnn": 16, "lstm": 8, "gru": 8, "attention": 8}
SMALLER, SLOWER = 0.4, 1.1
CALLS, ROUNDS = 20, 41


def measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or WIDTHS:
            for width in (1, WIDTHS[name]):
                rows += _net(name, width, Path(folder))
    return rows


def _net(name: str, width: int, folder: Path) -> list[Row]:
    model, dense, sparse = network(name, width=width), folder / "dense.tflite", folder / "sparse.tflite"
    what = f"int8 {name}, {width} x as wide, 90 % zeros"
    data = {"calibration": [model.samples], "check_on": model.samples}
    before = to_tflite(model.model, dense, quantize="int8", optimize="dense", **data).bytes
    after = rewrite(dense, sparse, optimize="sparse", check_on=model.samples).bytes
    runners = {"dense": Runner(dense), "sparse": Runner(sparse)}
    outputs = [_outputs(runner, model.samples) for runner in runners.values()]
    equal = all(np.array_equal(first, second) for first, second in zip(*outputs, strict=True))
    one_sample = {name: array[:1] for name, array in model.samples.items()}
    runs = {
        name: lambda runner=runner: [runner.predict(one_sample) for _ in range(CALLS)]
        for name, runner in runners.items()
    }
    seconds = interleaved(runs, rounds=ROUNDS)
    size = f"{what}: {after:,} / {before:,} bytes"
    ratio = after / before
    return [
        at_most(size, ratio, SMALLER, digits=2) if width > 1 else Row(size, f"{ratio:.2f}x", "", True),
        Row(f"{what}: outputs", "the same" if equal else "DIFFERENT", "the same", equal),
        at_most(
            f"{what}: latency, sparse / dense", median_ratio(seconds["sparse"], seconds["dense"]), SLOWER, digits=2
        ),
    ]


def _outputs(runner: Runner, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    outputs = runner.predict(inputs)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
