"""Activations of 16 bits in some layers of an int8 file, beside floats in these layers, by LiteRT Quantizer.

    python bench/sixteen_bits.py PYTHON [FOLDER]

PYTHON is the path of one that has litert-quantizer. The network and the layers are those of the first seed of
mixed_precision.py. With a folder, the trained network is kept there, and read by the next call.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import fashion
import tensorflow as tf
from mixed_precision import MOST_BYTES, SAMPLES, trained
from quantized import small_images

from tfprune.export import EdgeQuantizer, Quantization, benchmark, evaluate, quantization_error, to_tflite

RUNS = 300
FLOATS = {"operation": "*", "algorithm_key": "no_quantize"}


def activations(bits: int) -> dict[str, Any]:
    """Return a rule for 8-bit weights and activations of so many bits, for any operator that allows them."""
    weight = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}
    activation = {"num_bits": bits, "symmetric": bits == 16, "granularity": "TENSORWISE", "dtype": "INT"}
    config = {"weight_tensor_config": weight, "activation_tensor_config": activation}
    config |= {"compute_precision": "INTEGER", "explicit_dequantize": False}
    return {"operation": "*", "algorithm_key": "min_max_uniform_quantize", "op_config": config}


def main(python: str, folder: Path) -> None:
    x, y, test_x, test_y = small_images()
    tf.config.threading.set_intra_op_parallelism_threads(1)  # as in mixed_precision.py
    folder.mkdir(parents=True, exist_ok=True)
    model = trained(folder, x, y, seed=0)

    def measure(name: str, quantize: Any) -> Path:
        path = folder / f"{name}.tflite"
        calibration = None if quantize is None else x[:SAMPLES]
        report = to_tflite(model, path, quantize=quantize, calibration=calibration, tolerance=10.0, verbose=0)
        accuracy = 100 * evaluate(path, (test_x, test_y)).metrics["accuracy"]
        latency = benchmark(path, runs=RUNS, verbose=0).min_ms  # of a shared machine, the least disturbed run
        print(f"{name:32}{report.tflite_bytes:10,}{accuracy:10.2f}{latency:10.3f}", flush=True)
        return path

    def by_recipe(*rules: dict[str, Any]) -> EdgeQuantizer:
        return EdgeQuantizer(rules, python=python)

    print(f"{'format':32}{'bytes':>10}{'accuracy':>10}{'ms':>10}")
    errors = quantization_error(measure("float32", None), measure("int8", "int8"), x[:SAMPLES])
    names = [row.name for row in errors.to_skip(max_bytes=int(MOST_BYTES * errors.bytes))]
    regex = f"^({'|'.join(re.escape(name) for name in names)});$"
    everywhere = {bits: {"regex": ".*", **activations(bits)} for bits in (8, 16)}
    measure("int8, some float", Quantization("int8", skip=names))
    measure("recipe int8", by_recipe(everywhere[8]))
    measure("recipe int8, some float", by_recipe(everywhere[8], {"regex": regex, **FLOATS}))
    measure("recipe int8, some 16 bits", by_recipe(everywhere[8], {"regex": regex, **activations(16)}))
    measure("recipe 16 bits", by_recipe(everywhere[16]))
    print(f"{len(names)} of {len(errors.rows)} operators are in float or have 16 bits")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        if fashion.is_there():
            main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else temporary))
