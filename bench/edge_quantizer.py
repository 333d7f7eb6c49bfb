"""Recipes of LiteRT Quantizer beside the number formats of tfprune, on a pruned network of the digits.

edge_quantizer.py PYTHON, where PYTHON is the path of one that has litert-quantizer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

import tfprune
from tfprune.export import EdgeQuantizer, evaluate, pack, to_tflite

UNITS, SPARSITY, EPOCHS = (512, 256), 0.9, 20


def trained() -> tuple[keras.Model, Any, Any]:
    """Return a pruned network, and its training and test data."""
    keras.utils.set_random_seed(0)
    x, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    x = x.astype("float32") / 16
    train, test = (x[:1200], y[:1200]), (x[1200:], y[1200:])
    hidden = [keras.layers.Dense(units, "relu") for units in UNITS]
    model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, "softmax")])
    model = tfprune.wrap(model)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    schedule = tfprune.schedules.Polynomial(SPARSITY, end=0.7)
    model.fit(*train, epochs=EPOCHS, verbose=0, callbacks=[tfprune.PruningCallback(schedule, every=100)])
    return tfprune.strip(model), train, test


def recipe(algorithm: str, granularity: str, *, bits: int = 4) -> list[dict[str, Any]]:
    """Return a recipe for fully connected layers with float activations."""
    weight = {"num_bits": bits, "symmetric": True, "granularity": granularity, "dtype": "INT"}
    config = {"weight_tensor_config": weight, "compute_precision": "INTEGER", "explicit_dequantize": False}
    return [{"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": algorithm, "op_config": config}]


def main(python: str) -> None:
    model, (x, _), test = trained()
    rows: dict[str, Any] = {"float32": None, "dynamic": "dynamic", "int4": "int4"}
    names = ("dynamic_wi8_afp32", "dynamic_wi4_afp32", "dynamic_wi4b32_afp32", "dynamic_wi4c_hr_afp32")
    rows |= {name: EdgeQuantizer(name, python=python) for name in names}
    for algorithm in ("GPTQ", "OCTAV"):
        rows[f"{algorithm}, blocks of 32"] = EdgeQuantizer(recipe(algorithm, "BLOCKWISE_32"), python=python)
    print(f"{'format':24}{'bytes':>10}{'packed':>10}{'accuracy':>10}{'difference':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for name, quantize in rows.items():
            path = Path(folder, "model.tflite")
            try:
                report = to_tflite(model, path, quantize=quantize, calibration=x[:100], verbose=0)
            except ValueError as error:
                print(f"{name:24}{error}", flush=True)
                continue
            packed = len(pack(path))
            accuracy = evaluate(path, test).metrics["accuracy"]
            difference = report.max_abs_diff / report.scale
            print(f"{name:24}{report.bytes:10,}{packed:10,}{accuracy:10.4f}{difference:12.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
