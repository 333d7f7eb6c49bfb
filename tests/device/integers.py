"""Files of integers in four runtimes, compared with LiteRT: python integers.py FOLDER [RUNTIME ...].

A file for each kind of layer in each format, and networks that were trained quantization-aware for a step. The
runtimes are LiteRT itself, the same on an emulated Raspberry Pi 4, tflite-runtime 2.14 and TFLite Micro.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import root
from rich.console import Console
from rich.table import Table
from run import MissingError, _pip, _venv

HERE = Path(__file__).parent
FORMATS = ("int8", "int16x8", "int4")
NETWORKS = ("cnn", "separable", "lstm")  # deeper ones that are not trained are chaotic: a rounding changes all
ROWS = 32


def layer_cases() -> dict[str, Callable[[], Any]]:
    """Return a small network for each kind of layer, by its name."""
    from keras import layers

    maps, line = (8, 8, 4), (16,)
    return {
        "Conv2D": lambda: _of(layers.Conv2D(6, 3, padding="same", activation="relu"), maps),
        "Conv2D, dilated": lambda: _of(layers.Conv2D(6, 3, padding="same", dilation_rate=2), maps),
        "DepthwiseConv2D": lambda: _of(layers.DepthwiseConv2D(3, padding="same"), maps),
        "Conv2DTranspose": lambda: _of(layers.Conv2DTranspose(6, 3, strides=2, padding="same"), maps),
        "Dense": lambda: _of(layers.Dense(5), line),
        "LSTM, unrolled": lambda: _of(layers.LSTM(6), (4, 5)),
        "GRU, unrolled": lambda: _of(layers.GRU(6), (4, 5)),
        "BatchNormalization": lambda: _of(layers.BatchNormalization(), maps),
        "Add": lambda: _of(layers.Add(), maps, 2),
        "Multiply": lambda: _of(layers.Multiply(), maps, 2),
        "Maximum": lambda: _of(layers.Maximum(), maps, 2),
        "Concatenate": lambda: _of(layers.Concatenate(), maps, 2),
        "AveragePooling2D": lambda: _of(layers.AveragePooling2D(2), maps),
        "MaxPooling2D": lambda: _of(layers.MaxPooling2D(), maps),
        "GlobalAveragePooling2D": lambda: _of(layers.GlobalAveragePooling2D(), maps),
        "GlobalMaxPooling2D": lambda: _of(layers.GlobalMaxPooling2D(), maps),
        "ZeroPadding2D": lambda: _of(layers.ZeroPadding2D(), maps),
        "UpSampling2D": lambda: _of(layers.UpSampling2D(), maps),
        "UpSampling2D, bilinear": lambda: _of(layers.UpSampling2D(interpolation="bilinear"), maps),
        "Permute": lambda: _of(layers.Permute((2, 1, 3)), maps),
        "ReLU": lambda: _of(layers.ReLU(), maps),
        "ReLU6": lambda: _of(layers.ReLU(6.0), maps),
        "LeakyReLU": lambda: _of(layers.LeakyReLU(), maps),
        "sigmoid": lambda: _of(layers.Activation("sigmoid"), maps),
        "tanh": lambda: _of(layers.Activation("tanh"), maps),
        "softmax": lambda: _of(layers.Softmax(), line),
        "silu": lambda: _of(layers.Activation("silu"), maps),
        "hard_silu": lambda: _of(layers.Activation("hard_silu"), maps),
        "gelu": lambda: _of(layers.Activation("gelu"), maps),
        "elu": lambda: _of(layers.Activation("elu"), maps),
    }


def _of(layer: Any, shape: tuple[int, ...], count: int = 1) -> Any:
    import keras

    inputs = [keras.Input(shape, batch_size=1) for _ in range(count)]
    return keras.Model(inputs, layer(inputs if count > 1 else inputs[0]))


def make(folder: Path) -> list[dict[str, str]]:
    """Write all files; return a row for each, with the reason where there is none."""
    import keras
    import numpy as np

    rows, draw = [], np.random.default_rng(0)
    for kind, build in layer_cases().items():
        keras.utils.set_random_seed(0)
        model = build()
        data = [draw.normal(size=(ROWS, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
        has_kernel = any(len(weight.shape) > 1 for weight in model.weights)
        rows += [_write(folder, kind, form, model, data) for form in FORMATS if form != "int4" or has_kernel]
    return rows + [_write_trained(folder, name) for name in NETWORKS]


def _write(folder: Path, kind: str, form: str, model: Any, data: list[Any]) -> dict[str, str]:
    from tfprune.export.keras_side.convert import convert

    row = {"kind": kind, "format": form, "file": f"{kind.replace(', ', '_')}_{form}.tflite"}
    if (folder / row["file"]).with_suffix(".npz").exists():  # from a run that was stopped
        return row
    try:
        content = convert(model, quantize=form, calibration=[data])
    except ValueError as error:
        return row | {"refused": str(error).partition("Received: ")[2]}
    return row | _stored(folder / row["file"], content, data)


def _write_trained(folder: Path, name: str) -> dict[str, str]:
    from models import network

    import tfprune

    net = network(name)
    model = tfprune.quantize_aware(net.model)
    data = list(net.samples.values())
    model.compile("sgd", "mse", run_eagerly=True)
    model.optimizer.learning_rate = 0.0  # learns the ranges
    model.fit(data[0], net.outputs()[0], verbose=0)
    row = {"kind": f"{name}, trained", "format": "int8", "file": f"{name}_trained.tflite"}
    path = folder / row["file"]
    tfprune.export.to_tflite(model, path, quantize="int8", check_on=data[0], optimize="dense", tolerance=10)
    return row | _stored(path, path.read_bytes(), data)


def _stored(path: Path, content: bytes, data: list[Any]) -> dict[str, str]:
    """Write a file with a batch of one, data, and what LiteRT gives."""
    import numpy as np

    from tfprune.export import Runner
    from tfprune.export.file.document import load_objects, save_objects

    model = load_objects(content)
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = None  # TFLite Micro has fixed batches
    path.write_bytes(save_objects(model))
    outputs = Runner(path).predict([array[:4] for array in data])
    outputs = outputs if isinstance(outputs, list) else [outputs]
    inputs = {f"input_{index}": array[:4] for index, array in enumerate(data)}
    np.savez(path.with_suffix(".npz"), output=outputs[0], **inputs)
    return {}


def pythons(home: Path) -> dict[str, Callable[[], Path]]:
    """Return what sets each runtime up, and gives its Python."""

    def emulated() -> Path:
        if root.obstacle():
            raise MissingError(root.obstacle())
        return root.build(home / "aarch64")

    def old() -> Path:
        python = _venv(home / "old", sys.executable if sys.version_info[:2] == (3, 11) else "python3.11")
        _pip(python, "tflite-runtime==2.14.0", "numpy<2")
        return python

    def micro() -> Path:
        python = _venv(home / "micro", sys.executable if sys.version_info[:2] == (3, 11) else "python3.11")
        _pip(python, "tflite-micro", "numpy", "pyyaml")
        return python

    return {
        "LiteRT": lambda: Path(sys.executable),
        "emulated": emulated,
        "tflite-runtime": old,
        "tflite-micro": micro,
    }


def run(python: Path, folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Run files in one process, and in a new one those after a file that ended it."""
    by_file: dict[str, dict[str, Any]] = {}
    while len(by_file) < len(names):
        rest = names[len(by_file) :]
        command = [str(python), str(HERE / "integers_child.py"), str(folder), *rest]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        by_file |= {row["file"]: row for row in results}
        if len(results) < len(rest):
            by_file[rest[len(results)]] = {"refused": f"its process ended with {done.returncode}"}
    return by_file


def main() -> int:
    folder, console = Path(sys.argv[1]).resolve(), Console(width=150)
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "rows.json"
    if not listed.exists():
        listed.write_text(json.dumps(make(folder)), encoding="utf-8")
    rows = json.loads(listed.read_text(encoding="utf-8"))
    offered, by_runtime = pythons(folder.parent), {}
    for name in sys.argv[2:] or offered:
        try:
            by_runtime[name] = run(offered[name](), folder, [row["file"] for row in rows if "refused" not in row])
        except MissingError as reason:
            console.print(f"skipped: {name} ({reason})")
    table = Table("layer", "format", *by_runtime, title="largest difference from LiteRT, of the largest output")
    for row in rows:
        cells = ["no file" if "refused" in row else _cell(by_runtime[name][row["file"]]) for name in by_runtime]
        table.add_row(row["kind"], row["format"], *cells)
    console.print(table)
    for row in rows:
        for name, result in [("", row), *((name, by_runtime[name].get(row["file"], {})) for name in by_runtime)]:
            if "refused" in result:
                console.print(
                    f"{row['kind']}, {row['format']}, {name or 'no file'}: {result['refused']}", soft_wrap=True
                )
    return 0


def _cell(result: dict[str, Any]) -> str:
    return "refused" if "refused" in result else f"{result['difference']:.1e}" if result["difference"] else "same"


if __name__ == "__main__":
    sys.exit(main())
