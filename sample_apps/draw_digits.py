"""Digits drawn in the browser: train a small CNN, prune it, and write a page where the pruned file reads drawings.

python sample_apps/draw_digits.py              # about a minute
python sample_apps/draw_digits.py --smoke      # seconds, and a poor reader

Then, in the folder of the page: npm install; python3 -m http.server; open http://localhost:8000/draw.html
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfprune
from tfprune.export import Runner, to_tflite, web
from tfprune.report import table

BATCH, EPOCHS, COPIES, SPARSITY = 32, 5, 8, 0.9
PAGE = Path(__file__).with_name("draw_digits_page")
NAMES = ("dense.tfz", "pruned.tfz")


def main() -> None:
    options = parse()
    train_x, test_x, train_y, test_y = load()
    epochs = 1 if options.smoke else EPOCHS
    train_x, train_y = varied(train_x), np.tile(train_y, COPIES)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in NAMES:
        print(f"training: {name.removesuffix('.tfz')}, {epochs} epochs", flush=True)
        keras.utils.set_random_seed(0)
        model = train(train_x, train_y, epochs=epochs, sparsity=SPARSITY if name == "pruned.tfz" else 0.0)
        path = options.output / name
        report = to_tflite(model, path, batch=1, compress="packed", check_on=test_x[:100])
        accuracy = float(np.mean(Runner(path).predict(test_x).argmax(axis=1) == test_y))
        rows.append([name, f"{accuracy:.1%}", f"{report.nnz:,}", f"{report.tflite_bytes:,}", f"{report.bytes:,}"])
    folder = options.output / "page"
    web([options.output / name for name in NAMES], folder, samples=test_x[:4])
    add_drawing(folder, test_x, test_y)
    print()
    print(table(["file", "accuracy", "non-zeros", "bytes as .tflite", "bytes"], rows))
    print(f"\nAccuracy on {len(test_x)} digits that were not used for training, through Runner.")
    print(f"Open the page: cd {folder}; npm install; python3 -m http.server; http://localhost:8000/draw.html")


def load() -> list[np.ndarray]:
    """Return digits that people wrote, of 8 x 8 pixels from 0 to 1, three quarters of them for training."""
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype(np.float32)
    return train_test_split(images, digits.target, test_size=0.25, random_state=0, stratify=digits.target)


def varied(images: np.ndarray) -> np.ndarray:
    """Return some copies of the digits, turned a little, and wider or narrower: people draw in many ways."""
    vary = keras.Sequential(
        [
            keras.layers.RandomRotation(0.03, fill_mode="constant", seed=0),
            keras.layers.RandomZoom((0, 0.1), (-0.15, 0.3), fill_mode="constant", seed=1),
        ]
    )
    return np.concatenate([keras.ops.convert_to_numpy(vary(images, training=True)) for _ in range(COPIES)])


def train(x: np.ndarray, y: np.ndarray, *, epochs: int, sparsity: float) -> keras.Model:
    """Train the CNN; with a sparsity, its zeros grow in number from the first tenth of the training to two thirds."""
    model, callbacks = build(), []
    if sparsity:
        model = tfprune.wrap(model)
        schedule = tfprune.schedules.Polynomial(sparsity, begin=0.1, end=0.66)
        callbacks = [tfprune.PruningCallback(schedule, every=50)]
    rate = keras.optimizers.schedules.CosineDecay(0.003, epochs * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=callbacks, verbose=0)
    return tfprune.strip(model) if sparsity else model


def build() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def add_drawing(folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Add to a folder of `web` the page where one draws, and a held-out sample of each digit."""
    for source in PAGE.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    samples = [np.rint(x[np.flatnonzero(y == digit)[0]].ravel() * 16).astype(int).tolist() for digit in range(10)]
    (folder / "samples.json").write_text(json.dumps(samples))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prune a reader of digits, and write a page that reads drawings with it."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds")
    parser.add_argument(
        "--output", type=Path, default=Path("draw-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
