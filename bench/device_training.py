"""Training on a device: files of `to_trainer` against Keras on TensorFlow.

    python bench/device_training.py                  # losses of 100 steps, memory, time and bytes; 20 minutes
    python bench/device_training.py losses           # losses alone, 25 pairs of network and optimizer
    python bench/device_training.py costs            # memory of a process, time of a step, bytes of a file
    python bench/device_training.py emulated         # ten steps on an emulated Cortex-A72 against those here

Weights and data are random; 90 % of the entries of kernels are zero. A loss may differ by 1e-5 of itself, or, where
rounding decides, from that of Keras in float64 by twice as much as Keras does in float32. A MobileNet is trained on
Fashion-MNIST first.
Times are processor time of one thread, in turns with Keras in another process; memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the data module

import keras
import numpy as np
from common import Row, at_most
from keras import layers
from rich.console import Console

from sample_apps.data import fashion_mnist
from tfprune.export import to_tflite, to_trainer
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.trainer import CHECK, RESULT, run_steps
from tfprune.export.keras_side import to_trainer as module

ROOT = Path(__file__).parents[1]
STEPS, BATCH, ZEROS = 100, 16, 0.9
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "SGD": lambda: keras.optimizers.SGD(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "Nesterov": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "Adam": lambda: keras.optimizers.Adam(0.001),
    "AdamW": lambda: keras.optimizers.AdamW(0.001, weight_decay=0.01),
}


def mlp() -> keras.Model:
    return keras.Sequential([keras.Input((64,)), *(layers.Dense(n, "relu") for n in (300, 100)), layers.Dense(10)])


def cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(32, "relu"),
            layers.Dense(10),
        ]
    )


def conv1d() -> keras.Model:
    convolutions = (layers.Conv1D(n, 5, 2, padding="same", activation="relu") for n in (32, 64, 64))
    return keras.Sequential([keras.Input((128, 6)), *convolutions, layers.GlobalAveragePooling1D(), layers.Dense(10)])


def transformer() -> keras.Model:
    x = keras.Input((16,), dtype="int32")
    y = layers.Embedding(50, 32)(x)
    for _ in range(2):
        y = layers.LayerNormalization()(layers.Add()([y, layers.MultiHeadAttention(2, 16)(y, y)]))
        y = layers.LayerNormalization()(layers.Add()([y, layers.Dense(32)(layers.Dense(64, "gelu")(y))]))
    return keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling1D()(y)))


def resnet8() -> keras.Model:
    return _resnet8(trains_norms=False)


def resnet8_with_trained_norms() -> keras.Model:
    return _resnet8(trains_norms=True)


def _resnet8(*, trains_norms: bool) -> keras.Model:
    def normed(x, channels: int, stride: int = 1, size: int = 3):
        x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(trainable=trains_norms)(x)

    image = keras.Input((16, 16, 3))
    x = layers.ReLU()(normed(image, 16))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        y = normed(layers.ReLU()(normed(x, channels, stride)), channels)
        x = layers.ReLU()(layers.Add()([y, x if stride == 1 else normed(x, channels, stride, 1)]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def mobilenet(*, trains_norms: bool) -> keras.Model:
    """Build MobileNetV1 0.25 for 32 px, without dropout."""
    model = keras.applications.MobileNet(
        (32, 32, 3), 0.25, weights=None, classes=10, classifier_activation=None, dropout=0
    )
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum, layer.trainable = 0.9, trains_norms
    return model


MOBILENET = "mobilenet"  # trained first, for its losses alone
NETWORKS = {each.__name__: each for each in (mlp, cnn, conv1d, transformer, resnet8)}


def built(build: Callable[[], keras.Model], optimizer: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    model, random = build(), np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            keep = random.random(weight.shape) > ZEROS
            weight.assign(weight.numpy() * keep / np.sqrt(1 - ZEROS))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[optimizer](), loss)
    return model


def losses(names: Sequence[str]) -> Iterator[Row]:
    module._STEPS = STEPS
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if name == MOBILENET:
                yield from _trained_mobilenet(Path(folder))
                continue
            for optimizer in OPTIMIZERS:
                yield _losses(name, NETWORKS[name], optimizer, Path(folder))
        if "resnet8" in names:
            yield _losses("resnet8_with_trained_norms", resnet8_with_trained_norms, "SGD", Path(folder))


def _losses(name: str, build: Callable[[], keras.Model], optimizer: str, folder: Path) -> Row:
    what = f"{name}, {optimizer}: losses of {STEPS} steps against Keras"
    try:
        report = to_trainer(built(build, optimizer), folder / "file.tflite", batch_size=BATCH)
    except ValueError as error:
        return Row(what, str(error), "<= 1e-5", holds=False)
    if report.exact_difference is None:
        return at_most(what, report.difference, 1e-5, unit="", digits=8)
    what = f"{what} in float64, from which Keras differs by {report.rounding:.1e}"
    return at_most(what, report.exact_difference, max(1e-5, 2 * report.rounding), unit="", digits=8)


def _trained_mobilenet(folder: Path) -> Iterator[Row]:
    """Train a MobileNet on Fashion-MNIST, and compare the file and Keras with Keras in float64."""
    x, y, test_x, test_y = fashion_mnist.load(20_000)
    x, test_x = (np.pad(each, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=-1) * 2 - 1 for each in (x, test_x))
    keras.utils.set_random_seed(0)
    trained, loss = mobilenet(trains_norms=True), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
    trained.fit(x, y, batch_size=64, epochs=4, verbose=0)
    accuracy = trained.evaluate(test_x, test_y, batch_size=500, verbose=0)[1]
    data = test_x[: STEPS * BATCH], test_y[: STEPS * BATCH].astype(np.int32)
    for norms in ("frozen", "trained"):
        model = mobilenet(trains_norms=norms == "trained")
        model.set_weights(trained.get_weights())
        model.compile(keras.optimizers.SGD(1e-4), loss)
        file, by_keras, exact = _three_ways(model, data, folder)
        for count in (1, 10, STEPS):
            both = [float(np.abs(each - exact)[:count].max()) for each in (file, by_keras)]
            what = f"mobilenet of accuracy {accuracy:.2f}, norms {norms}, SGD: losses of {count} steps"
            what = f"{what} against Keras in float64, from which Keras differs by {both[1]:.1e}"
            yield at_most(what, both[0], max(1e-5, 2 * both[1]), unit="", digits=8)


def _three_ways(model: keras.Model, data: tuple[np.ndarray, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Return the losses of the same steps by the file, by Keras, and by Keras in float64."""
    runs: list[np.ndarray] = []

    def compare(content: bytes, arrays: dict, expected: dict, home: Path) -> tuple[str, float, None, None]:
        (home / f"{CHECK}.tflite").write_bytes(content)
        write_job(home, CHECK, arrays=arrays)
        assert run_job(run_steps, home, timeout=3600).ok
        runs.extend([read_job(home, RESULT)[1]["losses"], expected["losses"], expected["exact_losses"]])
        return "", 0.0, None, None

    with mock.patch.object(module, "_compare", compare):
        to_trainer(model, folder / "mobilenet.tflite", batch_size=BATCH, check_on=data)
    return runs


STEP = {"mlp": 0.5, "cnn": 2.0}  # of Keras' processor time
MEMORY, BYTES = 1 / 8, 1.6


def costs(names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        if name not in STEP:
            continue
        with tempfile.TemporaryDirectory() as folder:
            home, model = Path(folder), built(NETWORKS[name], "Adam")
            to_trainer(model, home / "file.tfz", batch_size=BATCH, compress="packed")
            to_tflite(model, home / "plain.tfz", compress="packed")
            sizes = [(home / each).stat().st_size for each in ("file.tfz", "plain.tfz")]
            yield at_most(
                f"{name}: {sizes[0]:,} bytes of the file, packed / {sizes[1]:,} of inference",
                sizes[0] / sizes[1],
                BYTES,
            )
            runs = [[_child(way, name, home) for way in ("device", "keras")] for _ in range(3)]
            ratio = statistics.median(one["seconds"] / other["seconds"] for one, other in runs)
            one, other = runs[0]
            what = f"{name}: {1e3 * one['seconds']:.2f} ms a step / {1e3 * other['seconds']:.2f} by Keras"
            yield at_most(what, ratio, STEP[name], digits=2)
            what = f"{name}: {one['memory']:.0f} MB of the process / {other['memory']:.0f} of Keras"
            yield at_most(what, one["memory"] / other["memory"], MEMORY)


def _child(way: str, name: str, home: Path) -> dict[str, float]:
    command = ["-c", DEVICE, str(home)] if way == "device" else [__file__, "--child", name]
    result = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


DEVICE = """
import json, sys, time
import numpy as np
from tfprune.export import Trainer
trainer = Trainer(sys.argv[1] + "/file.tfz")
shape = trainer._call["infer"].get_input_details()[trainer.task.inputs[0]]["shape"][1:]
random = np.random.default_rng(0)
arrays = trainer._samples(random.random((16, *shape), np.float32), random.integers(0, 10, 16))
order = np.arange(16)
for _ in range(20):
    trainer._step(arrays, order, None)
start = time.process_time()
for _ in range(200):
    trainer._step(arrays, order, None)
seconds = (time.process_time() - start) / 200
assert not {"keras", "tensorflow"} & set(sys.modules)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"seconds": seconds, "memory": int(status["VmHWM"].split()[0]) / 1024}))
"""


TEN_STEPS = """
import json, sys
import numpy as np
from tfprune.export import Trainer
trainer = Trainer(sys.argv[1] + "/file.tfz")
data = np.load(sys.argv[1] + "/data.npz")
arrays = {trainer.task.inputs[0]: data["x"], "labels": data["labels"]}
order = np.arange(160).reshape(10, 16)
losses = [trainer._step(arrays, rows, None) for rows in order]
values = np.concatenate([value.ravel() for value in trainer.weights.values()])
print(json.dumps({"losses": losses, "weights": values.tolist()}))
"""


def emulated(names: Sequence[str]) -> Iterator[Row]:
    """Train ten steps here and on an emulated Cortex-A72, from the same file."""
    sys.path.insert(0, str(ROOT / "tests/device"))
    from run import devices

    console = Console(stderr=True)
    runtime = devices(["emulated"], ROOT / "build", console).get("emulated")
    if runtime is None:
        return
    for name in (each for each in names if each in NETWORKS):
        with tempfile.TemporaryDirectory() as folder:
            model, random = built(NETWORKS[name], "Adam"), np.random.default_rng(0)
            to_trainer(model, Path(folder) / "file.tfz", batch_size=BATCH, compress="packed")
            entry = model.inputs[0]
            shape = (160, *entry.shape[1:])
            x = random.integers(0, 50, shape) if "int" in entry.dtype else random.random(shape)
            y = random.integers(0, 10, 160).astype(np.int32)
            np.savez(Path(folder) / "data.npz", x=x.astype(entry.dtype), labels=y)
            runs = []
            for python, environment in ((sys.executable, {}), (str(runtime.python), runtime.environment)):
                command = [python, "-c", TEN_STEPS, folder]
                own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
                result = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
                runs.append(json.loads(result.stdout.splitlines()[-1]))
            for what, limit in (("losses", 1e-6), ("weights", 1e-6)):
                one, other = (np.array(run[what]) for run in runs)
                text = f"{name}: {what} of ten steps on an emulated Cortex-A72 / here"
                yield at_most(text, float(np.abs(one - other).max()), limit, unit="", digits=8)


def by_keras(name: str) -> None:
    """Print the seconds of a step and the memory of a process that trains by Keras."""
    import resource
    import time

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model, random = built(NETWORKS[name], "Adam"), np.random.default_rng(0)
    x, y = random.random((BATCH, *model.inputs[0].shape[1:]), np.float32), random.integers(0, 10, BATCH)
    for _ in range(20):
        model.train_on_batch(x, y)
    start = time.process_time()
    for _ in range(200):
        model.train_on_batch(x, y)
    seconds = (time.process_time() - start) / 200
    print(json.dumps({"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("losses", "costs", "emulated"))
    parser.add_argument("--networks", nargs="+", choices=(*NETWORKS, MOBILENET), default=(*NETWORKS, MOBILENET))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        by_keras(options.child)
        return
    for measure in (losses, costs, emulated):
        if options.what in (None, measure.__name__):
            for row in measure(options.networks):
                print("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]), flush=True)


if __name__ == "__main__":
    main()
