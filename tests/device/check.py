"""The device half of tfprune on files that were made elsewhere: python check.py FOLDER MODEL.

Runs where neither Keras nor TensorFlow is installed, and prints one line of JSON for each file.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export import Runner, benchmark, inspect, verify

LEAST_SPARSITY = 0.5  # of a file whose kernels are 90 % zeros: biases, tables and normalizations have none
UNKNOWN = "Didn't find op"  # what an interpreter says that is older than a file's operators


def check(path: Path, samples: Path, tolerance: float) -> dict[str, Any]:
    """Compare a file's outputs with Keras'; say why when they differ or there are none."""
    inputs, expected = _arrays(samples, "input"), _arrays(samples, "output")
    try:
        runner = Runner(path)
    except ValueError as error:
        return {"refused" if UNKNOWN in str(error) else "wrong": str(error)}
    outputs = runner.predict(inputs)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    difference = max(_difference(*pair) for pair in zip(outputs, expected, strict=True))
    result = {"difference": difference, "runtime": runner.runtime}
    if not difference <= tolerance:
        return result | {"wrong": f"differs from Keras by {difference:.2g}, allowed {tolerance:g}"}
    if importlib.util.find_spec("ai_edge_litert") and inspect(path).sparsity < LEAST_SPARSITY:
        return result | {"wrong": f"{inspect(path).sparsity:.0%} zeros: too few"}
    return result


def check_apart(path: Path, samples: Path, tolerance: float) -> dict[str, Any]:
    """Do what takes a process each: verify and time a file."""
    inputs, expected = _arrays(samples, "input"), _arrays(samples, "output")
    verified = verify(path, inputs=inputs, expected=expected, tolerance=tolerance)
    if not verified.passed:
        return {"wrong": f"verify: {verified.reason}"}
    return {"milliseconds": benchmark(path, runs=10, warmup=2).median_ms}


def _difference(output: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(output - expected).max() / np.abs(expected).max())


def _arrays(path: Path, kind: str) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return [archive[f"{kind}_{place}"] for place in range(sum(name.startswith(kind) for name in archive))]


if __name__ == "__main__":
    for name in ("keras", "tensorflow", "tf_keras"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed here, so this check proves nothing"
    folder, model = Path(sys.argv[1]), sys.argv[2]
    for place, row in enumerate(json.loads((folder / "files.json").read_text(encoding="utf-8"))[model]):
        print(json.dumps({"file": row["file"], "begun": True}), flush=True)  # names the file that a crash is due to
        place_of = {"path": folder / row["file"], "samples": folder / row["samples"], "tolerance": row["tolerance"]}
        result = check(**place_of)
        if place == 0 and not result.keys() & {"wrong", "refused"}:
            result |= check_apart(**place_of)  # one for each model: emulated, a process takes seconds to begin
        print(json.dumps({"file": row["file"], **result}), flush=True)
