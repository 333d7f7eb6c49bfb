"""Fashion-MNIST: train a small CNN without pruning and with 90 % zeros, export both, and compare the files.

python sample_apps/fashion_cnn.py              # a few minutes on two cores
python sample_apps/fashion_cnn.py --smoke      # seconds, on made-up images
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


@dataclass(frozen=True)
class Measured:
    """The measurements of one exported file; accuracy in [0, 1], latency of one image in milliseconds."""

    accuracy: float
    nonzeros: int
    plain_bytes: int
    xz_bytes: int
    latency: float


def main() -> None:
    options = parse()
    if options.smoke:
        print("--smoke: two epochs on made-up images instead of Fashion-MNIST; the accuracy means nothing")
    data = synthetic() if options.smoke else fashion_mnist.load()
    epochs, formats = (2, ("int8",)) if options.smoke else (options.epochs, (None, "int8"))
    options.output.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Measured]] = {}
    for seed in range(options.seeds):
        for name in ("dense", "pruned"):
            print(f"training: {name}, seed {seed}", flush=True)
            model = train(name, data, epochs=epochs, sparsity=options.sparsity, seed=seed)
            for quantize in formats:
                path = options.output / f"{name}-{quantize or 'float32'}.tflite.xz"
                measured = measure(model, path, quantize, data)
                print(f"{path.name}: accuracy {measured.accuracy:.1%}, {measured.xz_bytes:,} bytes", flush=True)
                files.setdefault(f"{name}, {quantize or 'float32'}", []).append(measured)
    print()
    print(table(["file", "accuracy", "non-zeros", "bytes", "bytes, xz", "latency, ms"], rows(files)))
    note = "Means over the seeds, accuracy with its standard deviation. " if options.seeds > 1 else ""
    print(f"\n{note}Accuracy on {len(data[2]):,} test images, through Runner.\nFiles: {options.output}")


def train(name: str, data: Data, *, epochs: int, sparsity: float, seed: int) -> keras.Model:
    """Train from the same initial weights on the same batches, with or without pruning."""
    keras.utils.set_random_seed(seed)
    model, callbacks = build(), []
    if name == "pruned":
        model = tfprune.wrap(model)
        # The first steps show which weights matter, the last ones recover the lost accuracy.
        schedule = tfprune.schedules.Polynomial(sparsity, begin=0.1, end=0.6)
        # Not "uniform": it would keep only 29 of the 288 weights of the first layer.
        callbacks = [tfprune.PruningCallback(schedule, every=50, allocation="erk")]
    x, y, _, _ = data
    rate = keras.optimizers.schedules.CosineDecay(0.002, epochs * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=callbacks, verbose=2)
    return tfprune.strip(model) if name == "pruned" else model


def build() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name="conv_2"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="class"),
        ]
    )


def measure(model: keras.Model, path: Path, quantize: str | None, data: Data) -> Measured:
    """Export a model, and measure the exported file."""
    x, _, test_x, test_y = data
    calibration = [x[:100]] if quantize else None
    report = to_tflite(model, path, quantize=quantize, calibration=calibration, compress="xz", check_on=test_x[:500])
    accuracy = float(np.mean(Runner(path).predict(test_x).argmax(axis=1) == test_y))
    return Measured(accuracy, report.nnz, report.tflite_bytes, report.bytes, benchmark(path, runs=300).median_ms)


def rows(files: dict[str, list[Measured]]) -> Iterator[list[str]]:
    for name, seeds in files.items():
        values = np.array([astuple(measured) for measured in seeds])
        accuracy, nonzeros, plain, packed, latency = values.mean(axis=0)
        spread = f" ± {values[:, 0].std(ddof=1):.1%}" if len(seeds) > 1 else ""
        yield [name, f"{accuracy:.1%}{spread}", *(f"{n:,.0f}" for n in (nonzeros, plain, packed)), f"{latency:.3f}"]


def synthetic() -> Data:
    """Make images that are easy to classify: each class lights up different rows."""
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 2000)
    images = random.uniform(0, 128, (2000, 28, 28))
    images[np.arange(2000), 4 + 2 * y] += 127
    return pixels(images[:1500]), y[:1500], pixels(images[1500:]), y[1500:]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a CNN on Fashion-MNIST, dense and pruned with the same settings, and compare their files."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds, on made-up images")
    parser.add_argument("--sparsity", type=fraction, default=0.9, help="fraction of zeros (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("fashion-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


def fraction(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected the fraction of zeros, at least 0 and below 1, and not {text}")
    return float(text)


if __name__ == "__main__":
    main()
