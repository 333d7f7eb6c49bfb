"""Reconstruction: the accuracy that it brings back after pruning, against its bars."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least, at_most
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from graphs import RandomGraph

import tfprune
from tfprune.solving.surgery import _greedy_obs

layers = keras.layers
SPARSITY, CALIBRATION = 0.3, 512


def problem(seed: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return ten inputs that depend on each other, and weights."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 5)) @ generator.normal(size=(5, 10)) + 0.3 * generator.normal(size=(rows, 10))
    return x, generator.normal(size=(4, 10))


def left(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> float:
    return float(np.sum((x[:, kept] @ np.linalg.lstsq(x[:, kept], y, rcond=None)[0] - y) ** 2))


def choice(problems: int) -> list[Row]:
    """Greedy choices against the best of all, and under permutations."""
    ratios, same = [], 0
    for seed in range(problems):
        x, weights = problem(seed)
        mask = _greedy_obs(x.T @ x, weights, keep=5)
        y = x @ weights.T
        best = min(left(x, y, np.array(some)) for some in itertools.combinations(range(10), 5))
        ratios.append(left(x, y, np.flatnonzero(mask)) / best)
        order = np.random.default_rng(seed).permutation(10)
        permuted = _greedy_obs((x.T @ x)[np.ix_(order, order)], weights[:, order], keep=5)
        same += bool((permuted == mask[order]).all())
    text = (
        f"greedy OBS, 5 of 10 channels, error against the best choice, median of {problems} (worst {max(ratios):.2f})"
    )
    return [
        at_most(text, statistics.median(ratios), 1.05),
        at_least("greedy OBS: the same channels kept under a permutation", 100 * same / problems, 100, unit=" %"),
    ]


def pruned_forms(model: keras.Model) -> Iterator[keras.Model]:
    """Yield a model with masks, and where channels can go one without these."""
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, SPARSITY)
    yield wrapped
    try:
        plan = tfprune.plan_shrink(model, SPARSITY)
    except ValueError:
        return
    yield tfprune.zero_channels(model, plan)


def random_graphs(count: int) -> Row:
    """Count layers whose error has grown, over random graphs."""
    rows = []
    for seed in range(count):
        model = getattr(RandomGraph(seed), ("images", "sequences", "vectors")[seed % 3])()
        x = np.random.default_rng(seed).normal(size=(32, *model.inputs[0].shape[1:]))
        for pruned, mode in itertools.product(pruned_forms(model), ("sequential", "parallel")):
            rows += tfprune.reconstruct(pruned, model, x, reconstruction=mode)[1].rows
    worse = sum(row.after > row.before for row in rows)
    return at_most(
        f"layers with a larger error after, of {len(rows)} in {count} random graphs", worse, 0, unit="", digits=0
    )


def duplicate() -> Row:
    """Drop one of two channels that are the same."""
    keras.utils.set_random_seed(0)
    hidden = layers.Conv2D(8, 3, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((8, 8, 3)), hidden, layers.Conv2D(4, 3, name="out")])
    kernel, bias = hidden.get_weights()
    kernel[..., 5] = kernel[..., 2]
    hidden.set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    ranks = tfprune.rank_channels(model, x)
    plan = tfprune.plan_shrink(model, 1 / 8, criterion=ranks, filters="hidden")
    better, _ = tfprune.reconstruct(tfprune.zero_channels(model, plan), model, x)
    smaller = tfprune.shrink(better, plan)
    difference = float(np.abs(smaller.predict(x, verbose=0) - model.predict(x, verbose=0)).max())
    channels = smaller.get_layer("hidden").filters
    return at_most(
        f"one of two equal channels dropped ({channels} left): change of the output",
        difference,
        1e-6,
        unit="",
        digits=8,
    )


def chain(seed: int) -> keras.Model:
    """Six layers that each let some directions through a hundred times less than others."""
    generator = np.random.default_rng(seed)
    hidden = [layers.Dense(32, activation="relu") for _ in range(5)]
    model = keras.Sequential([keras.Input((32,)), *hidden, layers.Dense(32)])
    for layer in model.layers:
        left, right = (np.linalg.qr(generator.normal(size=(32, 32)))[0] for _ in range(2))
        layer.kernel.assign(1.5 * left * np.geomspace(1, 1e-2, 32) @ right)
    return model


def modes(seeds: int) -> Row:
    """Compare both modes on data that they have not seen."""
    ratios = []
    for seed in range(seeds):
        model = chain(seed)
        x, held = np.random.default_rng(seed).normal(size=(2, 1000, 32)).astype("float32")
        zeroed = tfprune.zero_channels(model, tfprune.plan_shrink(model, SPARSITY))
        expected = model.predict(held, verbose=0)
        errors = [
            float(
                np.mean(
                    (
                        tfprune.reconstruct(zeroed, model, x, reconstruction=mode)[0].predict(held, verbose=0)
                        - expected
                    )
                    ** 2
                )
            )
            for mode in ("sequential", "parallel")
        ]
        ratios.append(errors[0] / errors[1])
    median = statistics.median(ratios)
    text = f"chain of 6 layers, {seeds} seeds: held-out error, sequential / one-shot, worst (median {median:.2f})"
    return at_most(text, max(ratios), 1)


def digits(seed: int, rank: str) -> tuple[float, float, float]:
    """Return the accuracy in percent of a CNN, dense, pruned, and pruned and reconstructed, without fine-tuning."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    x, held_x, y, held_y = train_test_split(images, labels, test_size=0.3, random_state=seed, stratify=labels)
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(x, y, batch_size=64, epochs=20, verbose=0)
    few = x[:CALIBRATION]
    criterion = tfprune.rank_channels(model, few) if rank == "greedy OBS" else rank
    plan = tfprune.plan_shrink(model, SPARSITY, criterion=criterion)
    zeroed = tfprune.zero_channels(model, plan)
    better, _ = tfprune.reconstruct(zeroed, model, few)
    return tuple(
        100 * float(np.mean(version.predict(held_x, verbose=0).argmax(axis=1) == held_y))
        for version in (model, tfprune.shrink(zeroed, plan), tfprune.shrink(better, plan))
    )


def recovered(seeds: int, rank: str) -> Row:
    """Say how much of the accuracy lost comes back."""
    dense, pruned, better = np.mean([digits(seed, rank) for seed in range(seeds)], axis=0)
    text = (
        f"digits CNN, {seeds} seeds, 30 % of channels by {rank}: accuracy recovered "
        f"({dense:.1f} dense, {pruned:.1f} pruned, {better:.1f} reconstructed)"
    )
    return at_least(text, (better - pruned) / (dense - pruned), 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    rows = [*choice(150), duplicate(), random_graphs(30), modes(2 * seeds)]
    rows += [recovered(seeds, rank) for rank in ("magnitude", "random", "greedy OBS")]
    for row in rows:
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
