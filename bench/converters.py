"""Files of LiteRT's own converter beside those of TensorFlow's: speed, operators, accuracy and bytes of int8, time.

    python bench/converters.py [latency | int8 | time] [NAME ...]
    python bench/converters.py nightly [FOLDER]

Needs TensorFlow and the extra `jax` in one environment, and Fashion-MNIST for `int8`; `latency` of transformers needs
KerasHub. Files are compared in pairs, made of one model with the same weights on the JAX backend; for `time`, each
converter has a program of its own on its own backend, as users call it. Where TensorFlow is installed, Keras imports
it in the first call also on JAX: JAX_PYTHON in the environment names the Python of an environment without it.
`nightly` makes environments with the nightly builds of TensorFlow and LiteRT, and exports in each; it is not part of
a call without arguments.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import Row, at_most, interleaved, median_ratio

BACKENDS = {"tensorflow": "tensorflow", "litert": "jax"}  # by converter
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")
import keras  # noqa: E402

from tfprune.export import Runner, to_tflite  # noqa: E402

layers = keras.layers
FAMILIES = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50", "DenseNet121", "NASNetMobile")
SIDE, CLASSES = 96, 10
SLOWER = 1.05
PAIRS, SECONDS = 60, 0.01  # pairs in turns, and what a turn takes at least
TIMES, SHARE, README_SECONDS = 3, 1 / 3, 1.5
TRAINED, EPOCHS, CALIBRATION = 12_000, 3, 200
POINTS, BYTES = 0.3, 0.02


# Speed.


def family(name: str) -> keras.Model:
    return getattr(keras.applications, name)(weights=None, input_shape=(SIDE, SIDE, 3), classes=CLASSES)


def _hub(name: str, **arguments: Any) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        import keras_hub

        return getattr(keras_hub.models, f"{name}Backbone")(**arguments)

    return build


_TEXT = {"vocabulary_size": 1000, "num_layers": 4, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 512}
TRANSFORMERS = {
    "Bert": _hub("Bert", **_TEXT, max_sequence_length=64),
    "DistilBert": _hub("DistilBert", **_TEXT, max_sequence_length=64),
    "ViT": _hub("ViT", image_shape=(64, 64, 3), patch_size=8, num_layers=4, num_heads=4, hidden_dim=128, mlp_dim=512),
    "GPT2": _hub("GPT2", **_TEXT, max_sequence_length=64),
}


def of_fixed_length(model: keras.Model, *, length: int = 64) -> keras.Model:
    """Return the model on inputs of this length, where its own are open."""
    given = keras.tree.map_structure(
        lambda tensor: keras.Input(
            [size or length for size in tensor.shape[1:]], None, tensor.dtype, name=tensor.name
        ),
        model.input,
    )
    return keras.Model(given, model(given))


def latency(names: list[str]) -> list[Row]:
    """Compare operators and processor time of the files, one thread, in turns."""
    has_hub = importlib.util.find_spec("keras_hub") is not None
    rows = []
    for name in names or [*FAMILIES, *(TRANSFORMERS if has_hub else ())]:
        keras.utils.set_random_seed(1)
        model = TRANSFORMERS[name]() if name in TRANSFORMERS else family(name)
        model = of_fixed_length(model) if name in TRANSFORMERS else model
        with tempfile.TemporaryDirectory() as folder:
            paths = {converter: Path(folder, converter) for converter in BACKENDS}
            reports = {converter: exported(model, path, converter) for converter, path in paths.items()}
            counts = {converter: sum(report.ops.values()) for converter, report in reports.items()}
            seconds = interleaved(turns(paths), rounds=PAIRS, clock=time.process_time)
        ratio = median_ratio(seconds["litert"], seconds["tensorflow"])
        operators = f"operators {counts['litert']} / {counts['tensorflow']}"
        what = f"{name}: time of LiteRT's file / TensorFlow's ({operators})"
        rows.append(at_most(what, ratio, SLOWER))
        show(rows[-1])
    return rows


def exported(model: keras.Model, path: Path, converter: str, **options: Any) -> Any:
    os.environ["TFPRUNE_CONVERTER"] = converter
    return to_tflite(model, path, optimize="dense", **options)


def turns(paths: dict[str, Path]) -> dict[str, Callable[[], None]]:
    """Return a turn of each file: the same number of runs of one sample, on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = {name: Interpreter(str(path), num_threads=1) for name, path in paths.items()}
    for interpreter in interpreters.values():
        interpreter.allocate_tensors()
        generator = np.random.default_rng(0)
        for detail in interpreter.get_input_details():
            values = generator.uniform(0, 2, detail["shape"])
            interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        interpreter.invoke()
    start = time.process_time()
    interpreter.invoke()
    runs = max(1, round(SECONDS / max(time.process_time() - start, 1e-6)))

    def turn(interpreter: Any) -> None:
        for _ in range(runs):
            interpreter.invoke()

    return {name: partial(turn, interpreter) for name, interpreter in interpreters.items()}


# Accuracy and bytes of 8-bit files of trained networks.


def cnn() -> list[Any]:
    return [
        *(layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(32, 3, activation="relu")),
        *(layers.MaxPooling2D(), layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10, "softmax")),
    ]


def depthwise() -> list[Any]:
    stack: list[Any] = [layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)]
    for filters, strides in ((24, 1), (32, 2), (32, 1), (64, 2)):
        stack += [layers.BatchNormalization(), layers.ReLU(6.0)]
        stack += [layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)]
        stack += [layers.BatchNormalization(), layers.ReLU(6.0), layers.Conv2D(filters, 1, use_bias=False)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10, "softmax")]
    return [*stack, layers.BatchNormalization(), layers.ReLU(6.0), *head]


def mlp() -> list[Any]:
    return [layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(64, "gelu"), layers.Dense(10, "softmax")]


NETWORKS = {"CNN": cnn, "depthwise": depthwise, "MLP": mlp}


def int8(names: list[str]) -> list[Row]:
    """Train small networks on Fashion-MNIST, and compare their 8-bit files on the test images."""
    import fashion

    if not fashion.is_there():
        return []
    (x, y), (test_x, test_y) = fashion.read("train"), fashion.read("t10k")
    rows = []
    for name in names or NETWORKS:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input(x.shape[1:]), *NETWORKS[name]()])
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x[:TRAINED], y[:TRAINED], batch_size=64, epochs=EPOCHS, verbose=0)
        scores, sizes = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for converter in BACKENDS:
                path, samples = Path(folder, f"{converter}.tflite"), x[:CALIBRATION]
                exported(model, path, converter, quantize="int8", calibration=samples, check_on=test_x[:100])
                predicted = Runner(path).predict(test_x).argmax(-1)
                scores[converter] = 100 * float(np.mean(predicted == test_y))
                sizes[converter] = path.stat().st_size
        texts = ", ".join(f"{each} {scores[each]:.2f} %, {sizes[each]:,} bytes" for each in BACKENDS)
        lost = scores["tensorflow"] - scores["litert"]
        rows.append(at_most(f"{name}, int8: points lost ({texts})", lost, POINTS, unit="", digits=2))
        apart = sizes["litert"] / sizes["tensorflow"] - 1
        rows.append(at_most(f"{name}, int8: bytes more than TensorFlow's", apart, BYTES, unit="", digits=3))
        for row in rows[-2:]:
            show(row)
    return rows


# Time of the whole call.


def digits() -> keras.Model:
    """Return the model of the README."""
    import tfprune

    stack = [keras.Input((64,)), layers.Dense(128, "relu"), layers.Dense(10)]
    model = tfprune.wrap(keras.Sequential(stack))
    tfprune.update_masks(model, 0.9)
    return model


CALLS = {"README": digits, "MobileNetV2": lambda: family("MobileNetV2")}


def call(name: str, converter: str) -> None:
    """Export a model some times, and print the seconds that each call takes."""
    os.environ["TFPRUNE_CONVERTER"] = converter
    model = CALLS[name]()
    options = {"compress": "packed"} if name == "README" else {}
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(TIMES):
            start = time.perf_counter()
            to_tflite(model, Path(folder, "model.tflite" if not options else "model.tfz"), **options)
            seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


def times(names: list[str]) -> list[Row]:
    """Compare the first and later calls of programs; the clock is right on a quiet machine only."""
    rows = []
    for name in names or CALLS:
        seconds = {}
        for converter, backend in BACKENDS.items():
            environment = {**os.environ, "KERAS_BACKEND": backend, "TFPRUNE_CONVERTER": converter}
            python = os.environ.get("JAX_PYTHON", sys.executable) if backend == "jax" else sys.executable
            command = [python, __file__, "call", name, converter]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            seconds[converter] = json.loads(done.stdout.splitlines()[-1])
        first = {converter: each[0] for converter, each in seconds.items()}
        later = {converter: median(each[1:]) for converter, each in seconds.items()}
        for which, each in (("first", first), ("later", later)):
            what = f"{name}, {which} to_tflite: {each['litert']:.2f} s / {each['tensorflow']:.2f} s"
            if name == "README":
                rows.append(at_most(what, each["litert"], README_SECONDS, unit=" s"))
            else:
                rows.append(at_most(what, each["litert"] / each["tensorflow"], SHARE, digits=2))
            show(rows[-1])
    return rows


# Tomorrow's packages.

NIGHTLY = {"train": ["keras-nightly", "tf-nightly", "ai-edge-litert-nightly"]}
NIGHTLY["jax"] = ["keras-nightly", "jax", "ai-edge-litert-nightly", "litert-converter", "litert-quantizer"]


def nightly(folders: list[str]) -> list[Row]:
    """Export a network with the newest builds of each package, in environments that this makes in a folder."""
    rows, root = [], Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as temporary:
        for (extra, packages), (converter, backend) in zip(NIGHTLY.items(), BACKENDS.items(), strict=True):
            python = Path(folders[0] if folders else temporary, extra, "bin", "python")
            commands = [[sys.executable, "-m", "venv", str(python.parents[1])]] if not python.exists() else []
            commands.append(
                [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "--pre", "numpy", *packages]
            )
            commands.append([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(root)])
            environment = {**os.environ, "KERAS_BACKEND": backend, "TFPRUNE_CONVERTER": converter}
            commands.append([str(python), __file__, "call", "README", converter])
            for command in commands:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    break
            if done.returncode and "install" in command:  # PyPI does not have each of them for each Python
                print(f"skipped: {converter}: {done.stderr.strip()[-200:]}", file=sys.stderr)
                continue
            said = done.stderr.strip().rpartition("\n")[2][:200] if done.returncode else "exports and compares"
            rows.append(Row(f"{', '.join(packages)}: README's model", said, "exports", not done.returncode))
            show(rows[-1])
    return rows


def show(row: Row) -> None:
    sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
    sys.stdout.flush()


MEASURED = {"latency": latency, "int8": int8, "time": times}
OTHERS = {"nightly": nightly}


def main() -> None:
    which, *names = sys.argv[1:] or [""]
    missing = [package for package in ("tensorflow", "litert_converter") if not importlib.util.find_spec(package)]
    if missing and which not in ("call", "nightly"):
        print(f"skipped: no {' and no '.join(missing)} in this environment (extras train and jax)", file=sys.stderr)
        return
    if which == "call":
        call(*names)
        return
    if which == "latency":  # compiling for Keras takes most of the time, and nothing of it is measured
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    for measure in [{**MEASURED, **OTHERS}[which]] if which else MEASURED.values():
        measure(names)


if __name__ == "__main__":
    main()
