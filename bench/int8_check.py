"""What the check of int8 files catches in the networks of `make grid`: other scales of kernels, negated weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Row

from tfprune.export.device import quantization_error
from tfprune.export.device.processes import Completed
from tfprune.export.device.quantization_error import explain_rounding
from tfprune.export.file.document import add_values, inputs_of, load_objects, operator_name, save_objects
from tfprune.export.keras_side import convert as conversion
from tfprune.export.keras_side.convert import Quantization, convert, convert_prepared
from tfprune.export.keras_side.prepare import signature

TRIALS, CAUGHT = 100, 95
KERNELS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "GATHER": 0}


def _scaled(factor: float) -> Callable[[Any, Any], None]:
    def change(file: Any, tensor: Any) -> None:
        tensor.quantization.scale = tensor.quantization.scale * np.float32(factor)

    return change


def _negated(file: Any, tensor: Any) -> None:
    integers = file.buffers[tensor.buffer].data.view(np.int8).astype(np.int32).reshape(tensor.shape)
    scale, along = tensor.quantization.scale, [1] * integers.ndim
    along[tensor.quantization.quantizedDimension] = len(scale)
    largest = np.abs(integers * scale.reshape(along)).argmax()
    integers.flat[largest] *= -1
    tensor.buffer = add_values(file, integers.clip(-127, 127).astype(np.int8))


CHANGES = {"scale x 1.2": _scaled(1.2), "scale x 0.8": _scaled(0.8), "largest weight negated": _negated}


def _kernels(content: bytes) -> list[int]:
    """Return the kernels and tables of a file that hold something else than zeros."""
    file = load_objects(content)
    graph = file.subgraphs[0]
    places = [(KERNELS.get(operator_name(file, each), -1), inputs_of(each)) for each in graph.operators]
    constants = {inputs[place] for place, inputs in places if place >= 0}
    data = {index: file.buffers[graph.tensors[index].buffer].data for index in constants}
    return sorted(index for index in constants if data[index] is not None and np.any(data[index]))


def _explain_here(module: str, folder: str, *, timeout: float) -> Completed:
    quantization_error._round_job(Path(folder))
    return Completed(ok=True, reason="", output="")


def measure() -> list[Row]:
    sys.path.append(str(Path(__file__).parents[1] / "tests/device"))
    from make_files import _convert_here
    from models import MODELS, network

    conversion.run_job, quantization_error.run_job = _convert_here, _explain_here
    files = {}
    for name in MODELS:
        model = network(name)
        exact = convert_prepared(model.model, signature(model.model), beside=Quantization("int8")).content
        files[name] = exact, convert(model.model, quantize="int8", calibration=[model.samples]), model.samples
    faults = [explain_rounding(exact, content, inputs=data).fault for exact, content, data in files.values()]
    passed = faults.count("")
    rows = [Row("honest int8 files that pass", f"{passed} of {len(files)}", f"{len(files)}", passed == len(files))]
    rng = np.random.default_rng(0)
    for what, change in CHANGES.items():
        caught = 0
        for _ in range(TRIALS):
            exact, content, data = files[str(rng.choice([*files]))]
            file = load_objects(content)
            change(file, file.subgraphs[0].tensors[rng.choice(_kernels(content))])
            caught += bool(explain_rounding(exact, save_objects(file), inputs=data).fault)
        rows.append(Row(f"int8 kernels caught, {what}", f"{caught} of {TRIALS}", f">= {CAUGHT}", caught >= CAUGHT))
    return rows


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
