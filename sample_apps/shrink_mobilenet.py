"""Fashion-MNIST: a network like MobileNetV2, dense, and with channels pruned in training until half its FLOPs remain.

python sample_apps/shrink_mobilenet.py              # about ten minutes on two cores
python sample_apps/shrink_mobilenet.py --distill    # once more, with the dense model as teacher
python sample_apps/shrink_mobilenet.py --smoke      # seconds, on made-up images
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the data module when run as a file

import keras
import numpy as np

import tfprune
from sample_apps.data import fashion_mnist
from sample_apps.data.fashion_mnist import Data, pixels
from tfprune.export import Runner, benchmark, to_tflite
from tfprune.report import table

BATCH = 128
# Expansion, channels and stride of each block, as MobileNetV2 has them, for images of 28 px.
BLOCKS = [(1, 64, 1), (3, 96, 2), (3, 96, 1), (3, 192, 2)]


@dataclass(frozen=True)
class Measured:
    """The measurements of one exported file; accuracy in [0, 1], latency of one image in milliseconds."""

    accuracy: float
    flops: int
    parameters: int
    bytes: int
    latency: float


def main() -> None:
    options = parse()
    data, epochs = (synthetic(), 2) if options.smoke else (fashion_mnist.load(), options.epochs)
    options.output.mkdir(parents=True, exist_ok=True)
    teachers = {"shrunk": False, "shrunk, distilled": True} if options.distill else {"shrunk": False}
    measured: dict[str, list[Measured]] = {name: [] for name in ("dense", *teachers)}
    for seed in range(options.seeds):
        dense = train(build(seed), data, epochs=epochs, callbacks=[])
        measured["dense"].append(measure(dense, options.output / "dense.tflite", data))

        for name, is_taught in teachers.items():
            settings = {"epochs": epochs, "flops": options.flops, "teacher": dense if is_taught else None}
            plan, shrunk = train_and_shrink(build(seed), data, **settings)
            measured[name].append(measure(shrunk, options.output / f"{name.replace(', ', '_')}.tflite", data))
    print(f"\n{plan}\n")
    plan.plot(options.output / "channels.png")
    print(table(["file", "accuracy", "FLOPs", "parameters", "bytes", "latency, ms"], list(rows(measured))))
    ratios = {name: ratio(measured, name) for name in ("flops", "latency")}
    print(f"\nShrunk, against dense: {ratios['flops']:.2f} times fewer FLOPs, {ratios['latency']:.2f} times faster.")
    note = "Means over the seeds, accuracy with its standard deviation. " if options.seeds > 1 else ""
    print(f"{note}Accuracy on {len(data[2]):,} test images, through Runner.\nFiles: {options.output}")


def train_and_shrink(
    model: keras.Model, data: Data, *, epochs: int, flops: float, teacher: keras.Model | None = None
) -> tuple[tfprune.ShrinkPlan, keras.Model]:
    """Prune channels while the model trains, with the labels and a teacher, then remove them."""
    wrapped = tfprune.wrap(model, pattern=tfprune.patterns.Channel(round_to=8))  # kernels like multiples of 8
    # The first steps show which channels matter, the last ones recover the lost accuracy. With a budget, the
    # schedule only determines how fast the model approaches it.
    schedule = tfprune.schedules.Polynomial(0.5, begin=0.1, end=0.6)
    callback = tfprune.PruningCallback(schedule, every=50, budget=tfprune.budget(flops=flops))
    training = tfprune.distilled(wrapped, teacher) if teacher else wrapped
    train(training, data, epochs=epochs, callbacks=[callback])
    plan = tfprune.plan_shrink(wrapped)
    return plan, tfprune.shrink(wrapped, plan)


def train(model: keras.Model, data: Data, *, epochs: int, callbacks: list[keras.callbacks.Callback]) -> keras.Model:
    """Train on the same batches with the same settings, with or without pruning."""
    x, y, _, _ = data
    rate = keras.optimizers.schedules.CosineDecay(0.003, epochs * -(-len(x) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=callbacks, verbose=2)
    return model


def build(seed: int) -> keras.Model:
    """Return the untrained network: the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    x = conv(image, 32, 3, strides=2, name="stem")
    for number, (expansion, channels, strides) in enumerate(BLOCKS):
        y = x if expansion == 1 else conv(x, expansion * x.shape[-1], 1, name=f"expand_{number}")
        y = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False, name=f"depthwise_{number}")(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False, name=f"project_{number}")(y))
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    x = layers.GlobalAveragePooling2D()(conv(x, 256, 1, name="last"))
    return keras.Model(image, layers.Dense(10, name="class")(x))


def conv(x: keras.KerasTensor, filters: int, size: int, *, name: str, strides: int = 1) -> keras.KerasTensor:
    layers = keras.layers
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def measure(model: keras.Model, path: Path, data: Data) -> Measured:
    """Export a model, and measure the exported file."""
    _, _, test_x, test_y = data
    report = to_tflite(model, path, check_on=test_x[:200])
    accuracy = float(np.mean(Runner(path).predict(test_x).argmax(axis=1) == test_y))
    latency = benchmark(path, runs=500, warmup=50).median_ms
    return Measured(accuracy, tfprune.plan_shrink(model).flops, model.count_params(), report.bytes, latency)


def rows(measured: dict[str, list[Measured]]) -> Iterator[list[str]]:
    for name, seeds in measured.items():
        values = np.array([astuple(measurement) for measurement in seeds])
        accuracy, flops, parameters, size, latency = values.mean(axis=0)
        spread = f" ± {values[:, 0].std(ddof=1):.1%}" if len(seeds) > 1 else ""
        yield [
            name,
            f"{accuracy:.1%}{spread}",
            f"{flops:,.0f}",
            f"{parameters:,.0f}",
            f"{size:,.0f}",
            f"{latency:.3f}",
        ]


def ratio(measured: dict[str, list[Measured]], name: str) -> float:
    """Return how many times smaller a measure of the shrunk model is, on average over the seeds."""
    pairs = zip(measured["dense"], measured["shrunk"], strict=True)
    return float(np.mean([getattr(dense, name) / getattr(shrunk, name) for dense, shrunk in pairs]))


def synthetic() -> Data:
    """Make images that are easy to classify: each class lights up different rows."""
    print("--smoke: two epochs on made-up images instead of Fashion-MNIST; the accuracy means nothing")
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 1000)
    images = random.uniform(0, 128, (1000, 28, 28))
    images[np.arange(1000), 4 + 2 * y] += 127
    return pixels(images[:800]), y[:800], pixels(images[800:]), y[800:]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small MobileNetV2 on Fashion-MNIST, dense and with channels removed during training."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds, on made-up images")
    parser.add_argument(
        "--flops", type=float, default=0.48, help="fraction of the FLOPs to keep (default: %(default)s)"
    )
    parser.add_argument("--distill", action="store_true", help="shrink once more, with the dense model as teacher")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("mobilenet-output"), metavar="DIR", help="folder for files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
