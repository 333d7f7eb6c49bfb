"""The recipe of tfmot's guide on Fashion-MNIST: how early the schedule should end, and what its last update may do.

A small CNN is trained, then pruned in two epochs from 50 % to the final sparsity. With one seed all start from the
same weights and see the same batches in the same order. Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fashion
import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from common import Row

import tfprune
import tfprune.tfmot as dropin

TRAINED, EPOCHS, BATCH, INITIAL = 54_000, 2, 128, 0.5  # as in tfmot's guide, which validates on the other 6,000
STEPS = -(-EPOCHS * TRAINED // BATCH)
PEER, SAME = "tfmot, end_step = the last step", "tfprune.tfmot, the same"


class Regrowing(dropin.PruningSchedule):
    """A schedule without an end that the callback knows: its last update lets entries come back as all others do."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self, step: Any) -> tuple[Any, Any]:
        return dropin.PolynomialDecay(**self.arguments)(step)

    def get_config(self) -> dict[str, Any]:
        return self.arguments


def _model(api: Any) -> Any:
    first = keras.Input((28, 28, 1)) if api is keras else api.layers.InputLayer(input_shape=(28, 28, 1))
    layers = [api.layers.Conv2D(12, 3, activation="relu"), api.layers.MaxPooling2D(), api.layers.Flatten()]
    return api.Sequential([first, *layers, api.layers.Dense(10)])


def _compiled(model: Any, api: Any) -> Any:
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=api.optimizers.Adam(), loss=loss)
    return model


def _dense(seed: int, folder: Path | None, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the weights to start from, read from a folder if they are there."""
    path = None if folder is None else folder / f"dense-{seed}.npz"
    if path is not None and path.exists():
        with np.load(path) as stored:
            return [stored[name] for name in stored.files]
    keras.utils.set_random_seed(seed)
    model = _compiled(_model(keras), keras)
    model.fit(x, y, epochs=4, verbose=0)
    if path is not None:
        np.savez(path, *model.get_weights())
    return model.get_weights()


def _tfmot(names: Any, api: Any, weights: list, data: tuple, *, final: float, end: int, regrow: bool = False) -> Any:
    model = _model(api)
    model.set_weights(weights)
    make = Regrowing if regrow else names.PolynomialDecay
    schedule = make(initial_sparsity=INITIAL, final_sparsity=final, begin_step=0, end_step=end)
    pruned = _compiled(names.prune_low_magnitude(model, pruning_schedule=schedule), api)
    pruned.fit(*data, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[names.UpdatePruningStep()])
    return names.strip_pruning(pruned)


def _own(weights: list, data: tuple, *, final: float, end: float) -> keras.Model:
    model = _model(keras)
    model.set_weights(weights)
    pruned = _compiled(tfprune.wrap(model), keras)
    schedule = tfprune.schedules.Polynomial(final, initial=INITIAL, end=end)
    pruning = tfprune.PruningCallback(schedule, every=100)  # the default of tfmot
    pruned.fit(*data, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[pruning])
    return tfprune.strip(pruned)


def _runs() -> dict[str, Callable[..., Any]]:
    ours = functools.partial(_tfmot, dropin, keras)
    return {
        PEER: functools.partial(_tfmot, tfmot.sparsity.keras, tf_keras, end=STEPS),
        SAME: functools.partial(ours, end=STEPS),
        "tfprune.tfmot, entries come back in the last update too": functools.partial(ours, end=STEPS, regrow=True),
        "tfprune.tfmot, end_step 100 steps earlier": functools.partial(ours, end=STEPS - 100),
        "PruningCallback, end=1.0": functools.partial(_own, end=1.0),
        "PruningCallback, end=0.9": functools.partial(_own, end=0.9),
        "PruningCallback, end=0.75": functools.partial(_own, end=0.75),
        "PruningCallback, end=0.5": functools.partial(_own, end=0.5),
    }


def _accuracies(seed: int, final: float, folder: Path | None) -> list[float]:
    """Return the accuracy of each run in percent."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    (x, y), (held_x, held_y) = fashion.read("train"), fashion.read("t10k")
    x, y = x[:TRAINED], y[:TRAINED]
    weights = _dense(seed, folder, x, y)
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(TRAINED) for _ in range(EPOCHS)])
    accuracies = []
    for run in _runs().values():
        model = run(weights, (x[order], y[order]), final=final)
        accuracies.append(100 * float(np.mean(model.predict(held_x, verbose=0).argmax(axis=1) == held_y)))
    return accuracies


def measure(*, seeds: int, final: float, folder: Path | None = None) -> list[Row]:
    if not fashion.is_there():
        return []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, max_tasks_per_child=1) as pool:
        accuracies = list(pool.map(_accuracies, range(seeds), [final] * seeds, [folder] * seeds))
    columns = dict(zip(_runs(), np.transpose(accuracies), strict=True))
    rows = []
    for name, column in columns.items():
        paired = column - columns[PEER]
        error = float(paired.std(ddof=1) / np.sqrt(seeds))
        difference = "" if name == PEER else f", {paired.mean():+.2f} ± {error:.2f} (worst {paired.min():+.2f})"
        bar = "not below tfmot by more than a standard error" if name == SAME else ""
        holds = name != SAME or paired.mean() >= -error
        what = f"{name}: accuracy at {final:.0%}, difference, {seeds} seeds"
        rows.append(Row(what, f"{column.mean():.2f} %{difference}", bar, bool(holds)))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--folder", type=Path, help="where the trained dense weights are kept for the next call")
    arguments = parser.parse_args()
    for row in measure(seeds=arguments.seeds, final=arguments.sparsity, folder=arguments.folder):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
