"""The device half of tfprune on files that were made elsewhere: python check.py FOLDER MODEL FIRST.

Runs where neither Keras nor TensorFlow is installed, and prints one line of JSON for each of the model's files from
the one of number FIRST on.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export import Runner, Trainer, benchmark, inspect, verify
from tfprune.export.command_line.cli import main
from tfprune.export.file.container import read_model

LEAST_SPARSITY = 0.5  # of a file whose kernels are 90 % zeros: biases, tables and normalizations have none
UNKNOWN = "Didn't find op"  # what an interpreter says that is older than a file's operators


def check_row(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do with a file what its row in files.json asks for."""
    if "same" in row:
        return check_same(folder / row["file"], folder / row["same"])
    if "learns" in row:
        return check_learning(folder / row["file"], folder / row["samples"], row["tolerance"])
    place_of = {"path": folder / row["file"], "samples": folder / row["samples"], "tolerance": row["tolerance"]}
    result = check(**place_of)
    if row["apart"] and not result.keys() & {"wrong", "refused"}:
        result |= check_not_read(**place_of)
    return result


def check(path: Path, samples: Path, tolerance: float) -> dict[str, Any]:
    """Compare a file's outputs with Keras'; say why when they differ or there are none."""
    inputs, expected = _arrays(samples, "input"), _arrays(samples, "output")
    try:
        runner = Runner(path)
        outputs = _predict(runner, inputs)
        alone = _predict(runner, [array[:1] for array in inputs])  # other shapes, for which kernels are set up anew
    except ValueError as error:
        return {"refused" if UNKNOWN in str(error) else "wrong": str(error)}
    if [output.shape for output in outputs] != [output.shape for output in expected]:
        return {"wrong": f"outputs of the shapes {[output.shape for output in outputs]}"}
    pairs = [*zip(outputs, expected, strict=True), *zip(alone, expected, strict=True)]
    difference = float(np.max([_difference(*pair) for pair in pairs]))  # NumPy's, which keeps a NaN
    result = {"difference": difference, "runtime": runner.runtime}
    if not difference <= tolerance:
        return result | {"wrong": f"differs from Keras by {difference:.2g}, allowed {tolerance:g}"}
    if importlib.util.find_spec("ai_edge_litert") and inspect(path).sparsity < LEAST_SPARSITY:
        return result | {"wrong": f"{inspect(path).sparsity:.0%} zeros: too few"}
    return result


def check_same(path: Path, plain: Path) -> dict[str, Any]:
    """Unpack a file, which has to give the one that was run."""
    try:
        return {"same": plain.name} if read_model(path) == plain.read_bytes() else {"wrong": "not what was packed"}
    except ValueError as error:
        return {"wrong": str(error)}


def check_not_read(path: Path, samples: Path, tolerance: float) -> dict[str, Any]:
    """Do what takes a process each: verify and time a file."""
    inputs, expected = _arrays(samples, "input"), _arrays(samples, "output")
    verified = verify(path, samples=inputs, expected=expected, tolerance=tolerance)
    if not verified.passed:
        return {"wrong": f"verify: {verified.reason}"}
    return {"milliseconds": benchmark(path, runs=10, warmup=2).median_ms}


def check_learning(path: Path, samples: Path, tolerance: float) -> dict[str, Any]:
    """Train a file by the command, as its users do, and compare what it then answers with what Keras learned."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        return {"refused": "files are trained with ai-edge-litert alone"}
    [x], [y], [expected] = (_arrays(samples, kind) for kind in ("input", "label", "output"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        data, state = f"{folder / 'x.npy'},{folder / 'y.npy'}", str(folder / "state.npz")
        code = main(["train", str(path), "--data", data, "--state", state])
        if code:
            return {"wrong": f"tfprune train ended with {code}"}
        trainer = Trainer(path)
        before = _difference(trainer.predict(x), expected)
        trainer.load(state)
    difference = _difference(trainer.predict(x), expected)
    result = {"difference": difference, "runtime": trainer.runtime}
    if not difference <= tolerance < before:
        return result | {"wrong": f"differs from Keras by {difference:.2g}, before training by {before:.2g}"}
    zeros = 1 - np.mean([mask.mean() for mask in trainer.masks.values()])
    return result if zeros > LEAST_SPARSITY else result | {"wrong": f"{zeros:.0%} zeros: too few"}


def _predict(runner: Runner, inputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs = runner.predict(inputs)
    return outputs if isinstance(outputs, list) else [outputs]


def _difference(output: np.ndarray, expected: np.ndarray) -> float:
    """Compare the rows that the output has, all or the first; the largest of all rows is the measure."""
    return float(np.abs(output - expected[: len(output)]).max() / np.abs(expected).max())


def _arrays(path: Path, kind: str) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return [archive[f"{kind}_{place}"] for place in range(sum(name.startswith(kind) for name in archive))]


if __name__ == "__main__":
    for name in ("keras", "tensorflow", "tf_keras"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed here, so this check proves nothing"
    folder, model, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for row in json.loads((folder / "files.json").read_text(encoding="utf-8"))[model][first:]:
        print(json.dumps({"file": row["file"], "begun": True}), flush=True)  # names the file that a crash is due to
        print(json.dumps({"file": row["file"], **check_row(row, folder)}), flush=True)
