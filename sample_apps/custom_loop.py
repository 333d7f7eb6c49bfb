"""A custom training loop: GradientTape, and masks that are updated on a schedule.

    python sample_apps/custom_loop.py              # half a minute
    python sample_apps/custom_loop.py --smoke      # seconds

Then `fit` trains the same model on the same batches with a PruningCallback, to show that both give the same masks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfprune
from tfprune.report import table

EVERY = 20  # steps between two updates of the masks
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def main() -> None:
    options = parse()
    epochs = 2 if options.smoke else options.epochs
    if options.smoke:
        print("--smoke: two epochs, too few for a good accuracy")
    x, test_x, y, test_y = digits()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)  # not shuffled: `fit` has to see the same ones
    steps = epochs * len(batches)
    # A callback knows the length of `fit`. A custom loop has to pass it, for schedules given as fractions.
    schedule = tfprune.schedules.Polynomial(options.sparsity, begin=0.1, end=0.7).resolve(steps)

    by_hand = tfprune.wrap(build(options.seed))
    lines = []
    for step, loss in train(by_hand, sgd(steps), batches, schedule, epochs=epochs):
        report = tfprune.sparsity_report(by_hand)
        right = accuracy(by_hand, test_x, test_y)
        lines.append([f"{step}", f"{report.sparsity:.2%}", f"{report.nnz:,}", f"{loss:.3f}", f"{right:.1%}"])
    print(table(["step", "sparsity", "non-zeros", "loss", "test accuracy"], lines, left=0))

    by_fit, dense = tfprune.wrap(build(options.seed)), build(options.seed)
    fit(by_fit, sgd(steps), batches, epochs, [tfprune.PruningCallback(schedule, every=EVERY)])
    fit(dense, sgd(steps), batches, epochs, [])
    print(f"\nThe same by fit and a PruningCallback: {accuracy(by_fit, test_x, test_y):.1%}, ", end="")
    print(f"without pruning: {accuracy(dense, test_x, test_y):.1%}\n")
    sys.exit(0 if compare(tfprune.strip(by_hand), tfprune.strip(by_fit)) else 1)


def train(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    batches: tf.data.Dataset,
    schedule: tfprune.schedules.Schedule,
    *,
    epochs: int,
) -> Iterator[tuple[int, float]]:
    """Train and prune by hand; yield the step and the loss after each epoch."""

    @tf.function
    def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    for _ in range(epochs):
        for x, y in batches:
            previous = int(optimizer.iterations)  # the optimizer's count, which is restored with it
            loss = train_step(x, y)
            step = int(optimizer.iterations)
            due = schedule.last_update(previous, step, EVERY)
            if due is not None:
                # The optimizer's momentum of masked entries is reset, too: it would still move them. In the last
                # update no entry comes back: it would cost accuracy until it is trained.
                tfprune.update_masks(model, schedule(due), optimizer=optimizer, regrow=due < schedule.end)
        yield step, float(loss)


def fit(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    batches: tf.data.Dataset,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    # Without XLA, as `train_step`: it rounds differently, and so could rank near ties differently.
    model.compile(optimizer, LOSS, jit_compile=False)
    model.fit(batches, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)


def compare(model: keras.Model, reference: keras.Model) -> bool:
    """Compare the kernels of two trained models in a table; return True if all masks are the same."""
    lines, same = [], True
    for layer, twin in zip(model.layers, reference.layers, strict=True):
        a, b = (keras.ops.convert_to_numpy(kernel) for kernel in (layer.kernel, twin.kernel))
        alike = int(np.sum((a == 0) == (b == 0)))
        same = same and alike == a.size
        lines.append([layer.name, f"{a.size:,}", f"{alike:,}", f"{np.abs(a - b).max():.1e}"])
    print(table(["kernel of", "entries", "equal mask entries", "largest difference"], lines))
    print(f"Masks of both trainings: {'the same' if same else 'DIFFERENT'}")
    return same


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def build(seed: int) -> keras.Model:
    """Make the model; a seed determines its initial weights."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(256, activation="relu", name="hidden_1"),
            layers.Dense(128, activation="relu", name="hidden_2"),
            layers.Dense(10, name="digit"),
        ]
    )


def sgd(steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, steps), momentum=0.9)


def digits() -> list[np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return train_test_split((x / 16).astype("float32"), y, test_size=0.25, random_state=0, stratify=y)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prune in a hand-written training loop, and compare the masks with those of fit and a callback."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program, with two epochs")
    parser.add_argument("--sparsity", type=float, default=0.95, help="fraction of zeros (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
