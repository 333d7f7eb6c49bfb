"""Files pruned on 256 samples beside gradual training of the same network, the ResNet of anyfile.py, by sparsity.

Training sees 40,000 labeled images; an epoch takes four minutes on two cores. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cifar
import numpy as np
from anyfile import BATCH, FIRST_SAMPLE, FOLDER, SAMPLES, TESTED, TRAINED, accuracy, file_of
from common import Row, processor_seconds

from tfprune.export import prune_tflite

Labeled = tuple[np.ndarray, np.ndarray]
RATE = 1e-3  # of Adam, which falls to 0 along a cosine


def in_training(sparsity: float, epochs: int, *, train: Labeled, test: Labeled) -> float:
    """Return the accuracy after gradual pruning, in percent."""
    import keras

    import tfprune

    keras.utils.set_random_seed(0)
    pruned = tfprune.wrap(keras.saving.load_model(FOLDER / "cifar0.keras"))
    rate = keras.optimizers.schedules.CosineDecay(RATE, TRAINED // BATCH * epochs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    schedule = tfprune.schedules.Polynomial(sparsity, end=0.7)
    images, labels = (part[:TRAINED] for part in train)
    callback = tfprune.PruningCallback(schedule, every=20)
    pruned.fit(images, labels, batch_size=BATCH, epochs=epochs, callbacks=[callback], verbose=0)
    return 100 * pruned.evaluate(test[0][:TESTED], test[1][:TESTED], verbose=0)[1]


def measure(sparsities: Sequence[float], epochs: Sequence[int]) -> Iterator[Row]:
    train, test = cifar.read("train"), cifar.read("test")
    samples, file = train[0][FIRST_SAMPLE : FIRST_SAMPLE + SAMPLES], file_of(0, "float32")
    yield Row("dense", f"{accuracy(file, test):.2f} %", "-", holds=True)
    for sparsity in sparsities:
        with tempfile.TemporaryDirectory() as folder:
            path, start = Path(folder, "sparse.tflite"), processor_seconds()
            prune_tflite(file, path, samples, sparsity=sparsity, optimize="dense")
            seconds = processor_seconds() - start
            text = f"{accuracy(path, test):.2f} %, {seconds:.0f} s"
        yield Row(f"{sparsity:.0%} zeros, {SAMPLES} samples without labels", text, "-", holds=True)
        for count in epochs:
            start = processor_seconds()
            text = f"{in_training(sparsity, count, train=train, test=test):.2f} %"
            text += f", {processor_seconds() - start:.0f} s"
            yield Row(f"{sparsity:.0%} zeros, {count} epochs of training", text, "-", holds=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9])
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    if cifar.is_there():
        for row in measure(options.sparsity, options.epochs):
            sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes"]) + "\n")
            sys.stdout.flush()
