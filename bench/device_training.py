"""Training on a device: files of `to_trainer` against Keras on TensorFlow.

    python bench/device_training.py                  # losses of 100 steps, memory, time and bytes; 20 minutes
    python bench/device_training.py losses           # losses alone, 25 pairs of network and optimizer
    python bench/device_training.py costs            # memory of a process, time of a step, bytes of a file
    python bench/device_training.py emulated         # ten steps on an emulated Cortex-A72 against those here
    python bench/device_training.py federated        # 4 rounds of 3 clients, alone and over Flower, against Keras

Weights and data are random; 90 % of the entries of kernels are zero. A loss may differ by 1e-5 of itself, or, where
rounding decides, from that of Keras in float64 by twice as much as Keras does in float32. A MobileNet is trained on
Fashion-MNIST first.
Times are processor time of one thread, in turns with Keras in another process; memory is that of the whole process.
Clients of `federated` are processes that never import Keras; with Flower, so is the server.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the data module

import federated_devices as devices
import keras
import numpy as np
from common import Row, at_most
from keras import layers
from rich.console import Console
from sklearn.datasets import load_digits

import tfprune
from sample_apps.data import fashion_mnist
from tfprune.export import Trainer, to_tflite, to_trainer
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.keras_side import to_trainer as module
from tfprune.export.rewriting.trainer import CHECK, RESULT, run_steps
from tfprune.federated import MaskedModel, MaskedTrainer, Update, masked_average, merge_masks

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
            model = built(resnet8_with_trained_norms, "SGD")
            yield from _against_float64("resnet8 with trained norms", model, None, Path(folder))


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
        yield from _against_float64(f"mobilenet of accuracy {accuracy:.2f}, norms {norms}", model, data, folder)


def _against_float64(name: str, model: keras.Model, data: Any, folder: Path) -> Iterator[Row]:
    """Compare the file and Keras with Keras in float64: once an activation crosses a kink, both go their own ways."""
    file, by_keras, exact = _three_ways(model, data, folder)
    for count in (1, 10, STEPS):
        both = [float(np.abs(each - exact)[:count].max()) for each in (file, by_keras)]
        what = f"{name}, SGD: losses of {count} steps against Keras in float64, where Keras is off by {both[1]:.1e}"
        yield at_most(what, both[0], max(1e-5, 2 * both[1]), unit="", digits=8)


def _three_ways(model: keras.Model, data: Any, folder: Path) -> list[np.ndarray]:
    """Return the losses of the same steps by the file, by Keras, and by Keras in float64."""
    runs: list[np.ndarray] = []

    def compare(content: bytes, arrays: dict, expected: dict, home: Path) -> tuple[str, float, None, None]:
        (home / f"{CHECK}.tflite").write_bytes(content)
        write_job(home, CHECK, arrays=arrays)
        assert run_job(run_steps, home, timeout=3600).ok
        runs.extend([read_job(home, RESULT)[1]["losses"], expected["losses"], expected["exact_losses"]])
        return "", 0.0, None, None

    with mock.patch.object(module, "_compare", compare):
        to_trainer(model, folder / "three_ways.tflite", batch_size=BATCH, check_on=data)
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


FEDERATED, KERAS = "federated", "Keras"
PYPROJECT = """
[project]
name = "devices"
version = "1.0.0"
description = "Clients without Keras"
license = "Apache-2.0"
dependencies = ["flwr>=1.42"]

[tool.flwr.app]
publisher = "tfprune"

[tool.flwr.app.components]
serverapp = "app:server_app"
clientapp = "app:client_app"
"""
APP = """
from federated_devices import flower_app

apps = flower_app()
client_app = apps[0]
server_app = apps[1]
"""
Rounds = list[list[np.ndarray]]
Measured = list[list[dict[str, Any]]]


def federated(names: Sequence[str]) -> Iterator[Row]:
    """Train on digits by clients without Keras, alone and over Flower, and compare each with clients on Keras."""
    for name in [name for name in names if name in STEP]:
        with tempfile.TemporaryDirectory() as folder:
            home, data = Path(folder), _digits(flat=name == "mlp")
            np.savez(home / "data.npz", **data)
            keras.utils.set_random_seed(0)
            wrapped = tfprune.wrap(NETWORKS[name]())
            wrapped.compile(OPTIMIZERS["Adam"](), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            to_trainer(wrapped, home / "client.tfz", batch_size=BATCH, max_density=1.0, compress="packed")
            model, trainer = MaskedModel(wrapped), MaskedTrainer(Trainer(home / "client.tfz"))
            start = model.weights
            expected, measured, masks = _clients_on_keras(model, data)
            union = merge_masks(masks, votes=1)
            memory = _child("keras", name, home)["memory"]
            returned = _returned(expected[-1], union)
            right = _accuracy(model, returned, data)
            yield from _compared(f"{name}, alone", *_clients_alone(home, start), expected, measured, memory)
            rounds, found, _ = _clients_on_flower(home)
            yield from _compared(f"{name}, Flower", [rounds], found, [returned], measured, memory)
            trainer.set_weights(rounds)
            own = trainer.trainer.evaluate(data["test_x"], data["test_y"])["accuracy"]
            what = f"{name}, Flower: accuracy of the model that the server returns / by {KERAS} {right:.4f}"
            yield Row(what, f"{own:.4f}", "equal", own == right)
            *_, received = _clients_on_flower(home, dies=[1, 2])
            what = f"{name}, Flower: answers by rounds, where a client is killed in a step of round 2"
            yield Row(what, f"{received}", "[3, 2, ..., 3]", [*received[:2], received[-1]] == [3, 2, 3])


def _digits(*, flat: bool) -> dict[str, np.ndarray]:
    """Return a third of the digits for each client, and others to test on."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, *((64,) if flat else (8, 8, 1)))
    order = np.random.default_rng(0).permutation(len(x))
    found = {"test_x": x[order[:450]], "test_y": y[order[:450]]}
    for number in range(devices.CLIENTS):
        rows = order[450:][number :: devices.CLIENTS]
        found |= {f"x_{number}": x[rows], f"y_{number}": y[rows]}
    return found


def _returned(server: Sequence[np.ndarray], masks: Sequence[Any]) -> list[np.ndarray]:
    """Return the server's model as `MaskedFedAvg` returns it: kernels under the union of the masks."""
    pairs = zip(server, masks, strict=True)
    return [array if mask is None or array.ndim < 2 else np.where(mask, array, 0) for array, mask in pairs]


def _accuracy(model: MaskedModel, weights: Sequence[np.ndarray], data: dict[str, np.ndarray]) -> float:
    model.set_masks([None] * len(weights))
    model.set_weights(weights)
    outputs = model.model.predict(data["test_x"], verbose=0)
    return float(np.mean(outputs.argmax(axis=1) == data["test_y"]))


def _clients_on_keras(model: MaskedModel, data: dict[str, np.ndarray]) -> tuple[Rounds, Measured, list[Any]]:
    """Return the server's arrays and the accuracies of the clients after each round, and the masks at the end."""
    server, masks, rounds, measured = model.weights, [None] * devices.CLIENTS, [], []
    optimizer = model.model.optimizer
    optimizer.build(model.model.trainable_variables)
    first = [variable.numpy() for variable in optimizer.variables]
    for turn in range(1, devices.ROUNDS + 1):
        updates, found = [], []
        for number in range(devices.CLIENTS):
            model.set_masks(masks[number] or [None] * len(server))
            model.set_weights(server)
            for variable, value in zip(optimizer.variables, first, strict=True):
                variable.assign(value)
            x, y = data[f"x_{number}"], data[f"y_{number}"]
            random = np.random.default_rng(devices.seed_of(number, turn))  # the order of Trainer.fit
            for _ in range(devices.EPOCHS):
                order = random.permutation(len(x))
                for rows in np.split(order, range(BATCH, len(order), BATCH)):
                    model.model.train_on_batch(x[rows], y[rows])
            if turn == 1:
                model.set_masks(devices.masks_of(model.weights))
            outputs = model.model.predict(data["test_x"], verbose=0)
            found.append({"accuracy": float(np.mean(outputs.argmax(axis=1) == data["test_y"]))})
            updates.append(model.weights)
            masks[number] = model.masks
        sizes = [len(data[f"y_{number}"]) for number in range(devices.CLIENTS)]
        server = masked_average(updates, masks, client_weights=sizes, server=server)
        rounds.append(server)
        measured.append(found)
    return rounds, measured, masks


def _environment(home: Path, *, dies: Sequence[int] = ()) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {
        "FEDERATED_DIES": json.dumps(dies),
        "FEDERATED_HOME": str(home),
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(paths), "PATH": programs}


def _clients_alone(home: Path, server: list[np.ndarray]) -> tuple[Rounds, Measured]:
    """Train by processes that read updates and write them, and an average of arrays."""
    program, own = [sys.executable, str(ROOT / "bench/federated_devices.py")], _environment(home)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": own}
    clients = [subprocess.Popen([*program, str(number)], **pipes) for number in range(devices.CLIENTS)]
    masks: list[Any] = [None] * devices.CLIENTS
    rounds, measured = [], []
    for turn in range(1, devices.ROUNDS + 1):
        for client, known in zip(clients, masks, strict=True):
            client.stdin.write(Update(server, known, turn).encode(known_masks=known).hex() + "\n")
            client.stdin.flush()
        answers = [json.loads(client.stdout.readline()) for client in clients]
        data = [bytes.fromhex(answer["data"]) for answer in answers]
        pairs = zip(data, masks, strict=True)
        updates = [Update.decode(each, like=server, known_masks=known) for each, known in pairs]
        masks = [update.masks for update in updates]
        sizes = [answer["num-examples"] for answer in answers]
        server = masked_average([update.weights for update in updates], masks, client_weights=sizes, server=server)
        rounds.append(server)
        measured.append([{**answer, "up": len(each)} for answer, each in zip(answers, data, strict=True)])
    for client in clients:
        client.stdin.close()
        assert client.wait(60) == 0
    return rounds, measured


def _clients_on_flower(home: Path, *, dies: Sequence[int] = ()) -> tuple[list[np.ndarray], Measured, list[int]]:
    """Train over Flower, with a SuperLink, three SuperNodes, and a process for each answer and for the server.

    Args:
        home: The folder with the file of the trainer and the data.
        dies: A client, and the round in which its process ends in a step.

    Returns:
        The arrays that the server returns, what the clients measured, and how many answers each round had.
    """
    (home / "app").mkdir(exist_ok=True)
    (home / "flower.json").unlink(missing_ok=True)
    (home / "app/pyproject.toml").write_text(PYPROJECT)
    (home / "app/app.py").write_text(APP)
    ports, own, programs = _free_ports(1 + devices.CLIENTS), _environment(home, dies=dies), []
    (home / "flwr").mkdir(exist_ok=True)
    address = f"127.0.0.1:{ports[0]}"
    (home / "flwr/config.toml").write_text(f'[superlink.here]\naddress = "{address}"\ninsecure = true\n')
    link = ["flower-superlink", "--insecure", "--port", str(ports[0]), "--disable-runtime-dependency-installation"]
    node = ["flower-supernode", "--insecure", "--superlink", address]
    nodes = [[*node, "--port", str(port), f"--node-config=partition-id={n}"] for n, port in enumerate(ports[1:])]
    try:
        for command, port in zip((link, *nodes), ports, strict=True):
            with (home / "flower.log").open("a") as log:
                programs.append(subprocess.Popen(command, env=own, stdout=log, stderr=log))
            _wait(functools.partial(_listens, port), seconds=60)
        subprocess.run(["flwr", "run", str(home / "app"), "here"], check=True, env=own, stdout=subprocess.DEVNULL)
        _wait((home / "flower.json").exists, seconds=300)
    finally:
        for program in programs:
            program.terminate()
    found = json.loads((home / "flower.json").read_text())
    arrays = np.load(home / "flower.npz")
    up = [row["up"] / row["received"] for row in found["traffic"]["rows"]]
    measured = [[{**each, "up": size} for each in one] for one, size in zip(found["rounds"], up, strict=True)]
    received = [row["received"] for row in found["traffic"]["rows"]]
    return [arrays[name] for name in arrays.files], measured, received


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as each:
        return each.connect_ex(("127.0.0.1", port)) == 0


def _wait(is_done: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            raise TimeoutError(f"not done after {seconds:g} s")
        time.sleep(0.2)


def _compared(
    what: str, rounds: Rounds, measured: Measured, expected: Rounds, others: Measured, memory: float
) -> Iterator[Row]:
    """Compare arrays of the server, and the clients' accuracies, bytes and memory."""
    pairs = zip(rounds, expected, strict=True)
    error = max(float(np.abs(one - other).max()) for own, them in pairs for one, other in zip(own, them, strict=True))
    yield at_most(f"{what}: the server's weights against clients on {KERAS}", error, 1e-6, unit="", digits=8)
    own, them = ([[each["accuracy"] for each in one] for one in found] for found in (measured, others))
    texts = ["; ".join(" ".join(f"{value:.3f}" for value in one) for one in each) for each in (own, them)]
    difference = float(np.abs(np.array(own) - np.array(them)).max())
    yield Row(
        f"{what}: accuracies of the clients, by rounds: {texts[0]} / by {KERAS}: {texts[1]}",
        f"{difference:.1e}",
        "equal",
        difference < 1e-12,
    )
    up = [float(np.mean([each["up"] for each in one])) for one in measured]
    dense = sum(array.nbytes for array in rounds[0])
    sizes = ", ".join(f"{value:,.0f}" for value in up)
    yield at_most(f"{what}: bytes up of a client by rounds: {sizes} / {dense:,} as arrays", up[-1] / dense, 0.2)
    most = max(each["memory"] for one in measured for each in one)
    text = f"{what}: {most:.0f} MB of a client / {memory:.0f} MB of training on {KERAS}"
    if "Flower" in what:
        yield Row(f"{text}, without Flower", f"{most / memory:.3f}x", "none", holds=True)
    else:
        yield at_most(text, most / memory, MEMORY)


def by_keras(name: str) -> None:
    """Print the seconds of a step and the memory of a process that trains by Keras."""
    import resource

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
    parser.add_argument("what", nargs="?", choices=("losses", "costs", "emulated", FEDERATED))
    parser.add_argument("--networks", nargs="+", choices=(*NETWORKS, MOBILENET), default=(*NETWORKS, MOBILENET))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        by_keras(options.child)
        return
    for measure in (losses, costs, emulated, federated):
        if options.what in (None, measure.__name__):
            for row in measure(options.networks):
                print("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]), flush=True)


if __name__ == "__main__":
    main()
