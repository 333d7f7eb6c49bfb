"""Low rank against zeros and channels in networks of dense layers: accuracy at about equal bytes of an int8 file.

python bench/low_rank.py [FOLDER] [--networks mlp] [--epochs 3]   # a folder keeps the trained CNN

An MLP on Fashion-MNIST, and the CNN of sample_apps/fashion_cnn.py, most of whose weights are in one dense layer. Low
rank replaces kernels of n x m by the best product of n x r and r x m (the singular value decomposition). Of kernels
with zeros, r (n + m) / 2 weights stay: in a sparse file each costs two bytes. All are trained for the same steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import compress as trained_networks
import fashion
import keras
import numpy as np

import tfprune
from tfprune.export import to_tflite
from tfprune.report import table

BATCH, RATE = 128, 1e-3
LARGE = 8192  # weights: smaller kernels stay as they are
PARTS = (0.2, 0.06)  # of the weights of these kernels
Data = tuple[np.ndarray, np.ndarray]


def mlp() -> keras.Model:
    hidden = [keras.layers.Dense(units, "relu", name=f"hidden_{units}") for units in (256, 128)]
    last = keras.layers.Dense(10, "softmax", name="class")
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), *hidden, last])


def trained(model: keras.Model, data: Data, epochs: int, *callbacks: Any) -> keras.Model:
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(data[0]) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=BATCH, epochs=epochs, callbacks=[*callbacks], verbose=0)
    return model


def large(model: keras.Model) -> list[keras.layers.Dense]:
    dense = (layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    return [layer for layer in dense if layer.kernel.shape[0] * layer.units >= LARGE]


def low_rank(model: keras.Model, part: float, data: Data, epochs: int) -> keras.Model:
    layers, values = [keras.Input(model.input_shape[1:])], []
    for layer in model.layers:
        if layer in large(model):
            kernel, bias = layer.get_weights()
            rank = max(1, round(part * kernel.size / sum(kernel.shape)))
            left, scale, right = np.linalg.svd(kernel, full_matrices=False)
            root = np.sqrt(scale[:rank])
            layers += [keras.layers.Dense(rank, use_bias=False), keras.layers.Dense(layer.units, layer.activation)]
            values += [left[:, :rank] * root, root[:, None] * right[:rank], bias]
        else:
            layers.append(type(layer).from_config(layer.get_config()))
            values += layer.get_weights()
    factored = keras.Sequential(layers)
    factored.set_weights(values)
    return trained(factored, data, epochs)


def zeros(model: keras.Model, part: float, data: Data, epochs: int) -> keras.Model:
    wrapped = tfprune.wrap(model, filters=[layer.name for layer in large(model)])
    schedule = tfprune.schedules.Polynomial(1 - part / 2, end=0.6)
    pruning = tfprune.PruningCallback(schedule, every=20, allocation="lamp")
    return tfprune.strip(trained(wrapped, data, epochs, pruning))


def channels(model: keras.Model, part: float, data: Data, epochs: int) -> keras.Model:
    weights = sum(layer.kernel.shape[0] * layer.units for layer in large(model))
    left = 1 - (1 - part) * weights / model.count_params()
    plan = tfprune.plan_shrink(model, tfprune.budget(parameters=left), verbose=0)
    return trained(tfprune.shrink(model, plan), data, epochs)


WAYS = {"low rank": low_rank, "zeros": zeros, "channels": channels}


def measure(model: keras.Model, data: Data) -> str:
    x, y = fashion.read("t10k")
    right = float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        to_tflite(model, path, quantize="int8", calibration=data[0][:100], tolerance=10, verbose=0)
        return f"{100 * right:.2f} ({path.stat().st_size / 1024:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the trained CNN")
    parser.add_argument("--networks", nargs="+", choices=("mlp", "cnn"), default=["mlp", "cnn"])
    parser.add_argument("--epochs", type=int, default=1, help="of training after each cut")
    options = parser.parse_args()
    if not fashion.is_there():
        return
    x, y = fashion.read("train")
    data, rows = (x[: -trained_networks.HELD_OUT], y[: -trained_networks.HELD_OUT]), []
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        keras.utils.set_random_seed(0)
        for name in options.networks:
            path = folder / "0.keras"
            model = trained(mlp(), data, 5) if name == "mlp" else trained_networks.trained(name, 0, data, path)
            rows.append([name, "dense", measure(model, data), *[""] * (len(PARTS) - 1)])
            for way, make in WAYS.items():
                keras.utils.set_random_seed(0)
                rows.append(["", way, *(measure(make(model, part, data, options.epochs), data) for part in PARTS)])
                sys.stderr.write(f"{rows[-1]}\n")
    shown = table(["network", "way", *(f"{part:.0%} of the weights" for part in PARTS)], rows, left=2)
    sys.stdout.write(f"{shown}\n\nPercent of the test images (KiB of the int8 file)\n")


if __name__ == "__main__":
    main()
