"""What a teacher is worth on scikit-learn's digits: accuracy with and without one, over the same seeds; no bar."""

from __future__ import annotations

import sys

import numpy as np
from common import Row

SEEDS, EPOCHS = range(5), 12
KINDS = ("rounds to 10 % of the FLOPs", "95 % zeros in fit")


def measure() -> list[Row]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype("float32"), labels
    data, held_out = (x[:1200], y[:1200]), (x[1200:], y[1200:])
    accuracies = np.array([_accuracies(seed, data, held_out) for seed in SEEDS])  # seeds, kinds, without and with
    rows = [Row("digits, the dense net", _text(accuracies[:, 0, 0]), "-", True)]
    for index, kind in enumerate(KINDS, 1):
        alone, taught = accuracies[:, index].T
        gain = f"{_text(taught)}, {100 * np.mean(taught - alone):+.1f} points"
        rows += [Row(f"digits, {kind}, alone", _text(alone), "-", True)]
        rows += [Row(f"digits, {kind}, with the dense net as teacher", gain, "-", True)]
    return rows


def _text(values: np.ndarray) -> str:
    return f"{np.mean(values):.1%} ± {np.std(values, ddof=1):.1%}"


def _accuracies(seed: int, data: tuple, held_out: tuple) -> list[list[float]]:
    """Return pairs of accuracies: of the dense net (twice), and of each kind without and with a teacher."""
    import keras

    import tfprune

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [layers.Dense(64, activation="relu"), layers.Dense(48, activation="relu"), layers.Dense(10)]
    dense = _trained(keras, keras.Sequential([keras.Input((64,)), *stack]), data)
    rounds, zeros = [], []
    for teacher in (None, tfprune.Distillation()):
        keras.utils.set_random_seed(seed)
        how = tfprune.FineTuning(rounds=3, distillation=teacher)
        target = tfprune.budget(flops=0.1)
        smaller, _ = tfprune.prune_to(dense, target, data, epochs=EPOCHS // 3, fine_tuning=how, verbose=0)
        rounds.append(_accuracy(smaller, held_out))
        keras.utils.set_random_seed(seed)
        student = tfprune.wrap(dense)
        schedule = tfprune.schedules.Polynomial(0.95, end=0.6)
        callback = tfprune.PruningCallback(schedule, every=20)
        _trained(keras, tfprune.distilled(student, dense) if teacher else student, data, callbacks=[callback])
        zeros.append(_accuracy(student, held_out))
    accuracy = _accuracy(dense, held_out)
    return [[accuracy, accuracy], rounds, zeros]


def _accuracy(model, held_out: tuple) -> float:
    x, y = held_out
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def _trained(keras, model, data: tuple, callbacks: list | None = None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(*data, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return model


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
