"""Export every layer of Keras in six models, and random graphs: what is written must give what Keras gives.

`python tests/fuzz/converters.py`, with TFPRUNE_CONVERTER for the converter, and names of layers or `graphs` for some.
Files are judged here, on other inputs, batches and lengths than the export tries. Prints what became of each and why;
returns 1 if a file is wrong. About a fifth of the graphs are not models on JAX.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TFPRUNE_CONVERTER", "litert")
os.environ.setdefault("KERAS_BACKEND", "jax")
# Compiling takes most of the time, and nothing runs often.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
sys.path.append(str(Path(__file__).parents[1] / "helpers"))

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from channel_graphs import KINDS, ChannelGraph
from layer_cases import CASES, build, names

import tfprune.export

RIGHT = 1e-4  # of the largest output
BATCHES, LENGTHS = (1, 3), (5, 9, 40)
VOCABULARY, BATCH_OF_GRAPHS = 9, 3


class OpenGraph(ChannelGraph):
    """Has an open batch or one of 1, as files may have."""

    def pick(self, *choices: Any) -> Any:
        is_batch = len(choices) == 2 and choices[0] is None and choices[1] is BATCH_OF_GRAPHS
        return super().pick(*((None, 1) if is_batch else choices))


def made(case: str) -> keras.Model:
    """Return the model of a case, such as `Conv2D/3` or `graph/17`."""
    name, _, number = case.partition("/")
    if name != "graph":
        return build(name, int(number))
    generator = np.random.default_rng(int(number))
    kinds = generator.choice(KINDS, size=generator.integers(1, 5)).tolist()
    return OpenGraph(int(number)).build(kinds)


def outcome(case: str) -> dict[str, str]:
    """Export one model; return what became of it, and why."""
    try:
        model = made(case)
        model.predict(next(inputs(model)), verbose=0)
    except Exception as error:  # noqa: BLE001 (whatever Keras cannot compute is no case)
        return {"case": case, "is": "not a model", "why": _line(error)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        try:
            tfprune.export.to_tflite(model, path, optimize="dense")
        except ValueError as error:
            return {"case": case, "is": "refused", "why": _line(error)}
        except Exception as error:  # noqa: BLE001 (each is a finding)
            return {"case": case, "is": "broken", "why": f"{type(error).__name__}: {_line(error)}"}
        worst = max(_difference(path, model, data) for data in inputs(model))
    return {"case": case, "is": "right" if worst <= RIGHT else "wrong", "why": f"{worst:.1e}"}


def inputs(model: keras.Model) -> Iterator[list[np.ndarray]]:
    """Yield inputs of a model: several batches and lengths where these are open."""
    generator = np.random.default_rng(7)
    has_lengths = any(None in tensor.shape[1:] for tensor in model.inputs)
    for batch in BATCHES if model.inputs[0].shape[0] is None else BATCHES[:1] * 2:
        for length in LENGTHS if has_lengths else LENGTHS[:1]:
            shapes = [(batch, *(size or length for size in tensor.shape[1:])) for tensor in model.inputs]
            yield [
                generator.integers(0, VOCABULARY, shape).astype(tensor.dtype)
                if "int" in tensor.dtype
                else generator.normal(size=shape).astype(tensor.dtype)
                for shape, tensor in zip(shapes, model.inputs, strict=True)
            ]


def _difference(path: Path, model: keras.Model, data: list[np.ndarray]) -> float:
    """Return the largest difference of the file's outputs, relative to the largest output of Keras."""
    interpreter = Interpreter(str(path))
    details = interpreter.get_input_details()
    takes = [(detail["shape_signature"], array.shape) for detail, array in zip(details, data, strict=True)]
    if any(size not in (-1, given) for sizes, shape in takes for size, given in zip(sizes, shape, strict=True)):
        return 0.0  # a batch or length that the file says it does not take
    for detail, array in zip(details, data, strict=True):
        if tuple(detail["shape"]) != array.shape:
            interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
    interpreter.allocate_tensors()
    for detail, array in zip(details, data, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    found = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    wanted = keras.tree.flatten(model.predict(data if len(data) > 1 else data[0], verbose=0))
    if [each.shape for each in found] != [each.shape for each in wanted]:
        return float("inf")
    pairs = zip(found, wanted, strict=True)
    return max(_apart(first.astype("float64"), second.astype("float64")) for first, second in pairs)


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    if not np.array_equal(np.isnan(found), np.isnan(wanted)):
        return float("inf")
    largest = float(np.nanmax(np.abs(wanted), initial=0)) or 1.0
    return float(np.nanmax(np.abs(found - wanted), initial=0)) / largest


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


def rows(cases: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each case; a process that crashes on one goes on in another after it."""
    while cases:
        command = [sys.executable, __file__, "--cases", *cases]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"case": '):
                    yield json.loads(line)
                    cases = cases[1:]
        if cases:
            yield {"case": cases[0], "is": "broken", "why": f"the process ended with {process.returncode}"}
            cases = cases[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*")
    parser.add_argument("--graphs", type=int, default=260, help="how many random graphs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first graph (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", help="for the processes that this one starts")
    options = parser.parse_args()
    if options.cases:
        for case in options.cases:
            print(json.dumps(outcome(case)), flush=True)
            keras.backend.clear_session()
        return 0
    wanted = options.layers or [*names(), "graphs"]
    cases = [f"{name}/{number}" for name in wanted if name != "graphs" for number in range(CASES)]
    if "graphs" in wanted:
        cases += [f"graph/{seed}" for seed in range(options.seed, options.seed + options.graphs)]
    counts: Counter[str] = Counter()
    for row in rows(cases):
        counts[row["is"]] += 1
        print(f"{row['case']}\t{row['is']}\t{row['why']}", flush=True)
    print(f"{os.environ['TFPRUNE_CONVERTER']}: {counts.total()} models, {dict(counts)}")
    return int(bool(counts["wrong"] or counts["broken"]))


if __name__ == "__main__":
    sys.exit(main())
