"""Run files with the interpreter that is installed: python integers_child.py FOLDER FILE ..."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = ("ai_edge_litert", "tflite_runtime", "tflite_micro")  # where there are several, as here, the first
ARENA = 2**22


def predict(path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    """Return the first output for all rows, one after the other."""
    package = next(name for name in RUNTIMES if importlib.util.find_spec(name))
    if package == "tflite_micro":
        return _micro(path, inputs)
    interpreter = importlib.import_module(f"{package}.interpreter").Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    input_details, output_detail = interpreter.get_input_details(), interpreter.get_output_details()[0]
    rows = []
    for row in range(len(inputs[0])):
        for detail, array in zip(input_details, inputs, strict=True):
            interpreter.set_tensor(detail["index"], array[row : row + 1])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(output_detail["index"]))
    return np.concatenate(rows)


def _micro(path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(path.read_bytes(), arena_size=ARENA)
    rows = []
    for row in range(len(inputs[0])):
        for index, array in enumerate(inputs):
            interpreter.set_input(array[row : row + 1], index)
        interpreter.invoke()
        rows.append(interpreter.get_output(0))
    return np.concatenate(rows)


def tell(folder: Path, name: str) -> dict[str, Any]:
    with np.load((folder / name).with_suffix(".npz"), allow_pickle=False) as stored:
        inputs = [stored[key] for key in sorted(stored.files) if key.startswith("input")]
        expected = stored["output"]
    try:
        outputs = predict(folder / name, inputs)
    except (RuntimeError, ValueError) as error:
        return {"file": name, "refused": " ".join(str(error).split())[-200:]}
    return {"file": name, "difference": float(np.abs(outputs - expected).max() / np.abs(expected).max())}


if __name__ == "__main__":
    for each in sys.argv[2:]:
        sys.stdout.write(json.dumps(tell(Path(sys.argv[1]), each)) + "\n")
        sys.stdout.flush()
