"""What a teacher is worth in a search: recipes with and without it, each trained for the same steps; no bar.

python bench/search_teacher.py [FOLDER] [--seeds 0 1]   # a folder keeps the trained networks

The network is that of sample_apps/fashion_cnn.py, trained for ten epochs on 55,000 images of Fashion-MNIST. Each
recipe trains it for one epoch. Accuracies are those of the Keras model on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import compress as trained_networks
import fashion
import keras
import numpy as np

import tfprune
from tfprune.export.compressing.evaluate import TrialRunner
from tfprune.export.compressing.trials import training_recipe
from tfprune.report import table

BATCH, RATE = 128, 1e-3
RECIPES = {
    "95 % zeros": {"sparsity": 0.95},
    "a quarter of the multiply-adds, 75 % zeros": {"flops": 0.25, "sparsity": 0.75},
}
TEACHERS = (None, tfprune.Distillation(), tfprune.Distillation(temperature=1, weight=1))


def accuracies(seed: int, folder: Path) -> list[float]:
    """Return the accuracy of the network, and then of each recipe with each teacher."""
    x, y = fashion.read("train")
    data = x[: -trained_networks.HELD_OUT], y[: -trained_networks.HELD_OUT]
    model = trained_networks.trained("cnn", seed, data, folder / f"{seed}.keras")
    runner = TrialRunner(model, data, None, BATCH)  # type: ignore[arg-type]  # no file is made
    results = [accuracy(model)]
    for changes in RECIPES.values():
        for teacher in TEACHERS:
            steps = -(-len(data[0]) // BATCH)
            recipe = training_recipe(
                steps, samples=len(data[0]), batch_size=BATCH, learning_rate=RATE, seed=seed, distillation=teacher
            )
            smaller = runner.apply_recipe(replace(recipe, **changes), keras.callbacks.Callback())
            results.append(accuracy(smaller))
            sys.stderr.write(f"seed {seed}, {changes}, {teacher}: {results[-1]:.2f}\n")
    return results


def accuracy(model: keras.Model) -> float:
    x, y = fashion.read("t10k")
    return 100 * float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the trained networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    if not fashion.is_there():
        return
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        results = np.array([accuracies(seed, folder) for seed in options.seeds])
    rows = [["dense", *map(text, results[:, :1].T), *[""] * (len(TEACHERS) - 1)]]
    for name, part in zip(RECIPES, np.split(results[:, 1:], len(RECIPES), axis=1), strict=True):
        rows.append([name, *map(text, part.T)])
    header = ["recipe", "labels alone", "Distillation()", "the teacher alone, at temperature 1"]
    sys.stdout.write(f"{table(header, rows)}\n\nPercent of the test images, means of {len(results)} seeds\n")


def text(values: np.ndarray) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
