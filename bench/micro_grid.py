"""MLPerf Tiny's networks x patterns x float32 and int8 for microcontrollers: files run, and equal the dense ones.

The interpreter is asked here once more, without tfprune: for each file in the arena that its report says, and for the
dense file. A row is a network in a format, with flash and arena of each pattern as fractions of the dense file's.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from common import Row
from micro import NETWORKS, pruned, samples_of, settled
from tflite_micro.python.tflite_micro import runtime

import tfprune
from tfprune.export import rewrite
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.share_weights import share_weights

SAMPLES, LEVELS = 10, 16  # LEVELS: values beside 0
FORMATS = {"float32": {}, "int8": {"quantize": "int8", "io_dtype": "int8"}}
PATTERNS = {
    "90 % zeros": (0.9, "unstructured"),
    "channels": (0.5, "channel"),
    "2 of 4": (0.5, tfprune.patterns.NM(2, 4)),
}


def measure() -> list[Row]:
    rows = []
    for name, build in NETWORKS.items():
        for kind in FORMATS:
            cells = [cell(network, data) for network, data in files(build, kind)]
            what = f"{name}, {kind}: flash and arena of {', '.join([*PATTERNS, f'{LEVELS} values'])}"
            rows.append(Row(what, "; ".join(text for text, _ in cells), "equal", all(equal for _, equal in cells)))
    return rows


def files(build: Callable[[], keras.Model], kind: str) -> Iterator[tuple[keras.Model, bytes]]:
    """Yield the networks with each pattern and their dense files, and the network whose weights hold few values."""
    keras.utils.set_random_seed(0)
    model = settled(build())
    for sparsity, pattern in PATTERNS.values():
        network = pruned(model, sparsity, pattern)
        yield network, dense(network, kind)
    share = functools.partial(share_weights, levels=LEVELS + 1) if kind == "int8" else share_floats
    yield model, share(dense(model, kind))


def dense(network: keras.Model, kind: str) -> bytes:
    calibration = samples_of(network) if kind == "int8" else None
    return convert(network, calibration=calibration, batch=1, **FORMATS[kind])


def share_floats(data: bytes) -> bytes:
    """Round the weights of a float32 file to few values each, as clustering makes them."""
    model = load_objects(data)
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        if tensor.type == schema.TensorType.FLOAT32 and np.size(tensor.shape) > 1 and buffer.data is not None:
            values = np.asarray(buffer.data).view("<f4")
            step = (values.max() - values.min()) / (LEVELS - 1)
            buffer.data = (np.round((values - values.min()) / step) * step + values.min()).astype("<f4").view("u1")
    return save_objects(model)


def cell(network: keras.Model, data: bytes) -> tuple[str, bool]:
    """Return what a file takes of the dense one's flash and arena, and whether both give the same."""
    samples = samples_of(network)[:SAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        report = rewrite(data, path, target="micro", check_on=samples).micro
        assert report is not None
        sparse_outputs, dense_outputs = (
            run(path.read_bytes(), samples, report.arena),
            run(data, samples, report.dense_arena),
        )
    return (
        f"{report.flash / report.dense_flash:.2f} {report.arena / report.dense_arena:.2f}",
        sparse_outputs == dense_outputs,
    )


def run(data: bytes, samples: np.ndarray, arena: int) -> list[bytes]:
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=arena)
    details = interpreter.get_input_details(0)
    if details["dtype"] == np.int8:
        scale, zero = (
            details["quantization_parameters"]["scales"][0],
            details["quantization_parameters"]["zero_points"][0],
        )
        samples = np.clip(np.round(samples / scale) + zero, -128, 127).astype(np.int8)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).tobytes())
    return outputs


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
