"""Prune by the F-statistic: a dense network on digits and a CNN on Fashion-MNIST, 80 to 95 % of the parameters.

    python sample_apps/f_statistic.py --seeds 5      # twenty minutes on one core
    python sample_apps/f_statistic.py --smoke        # a minute, on made-up clothing

Connections or whole channels are removed by F times the weight, by ranks of both, by magnitude, and at random.
docs/papers/few_shot.md reports the results.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

import tensorflow as tf

from sample_apps.data.lines import Line, gathered
from sample_apps.screening import report, runs
from sample_apps.screening.networks import Network, networks

KEY = ("seed", "network", "kind", "criterion")


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    # One thread: sums are then added up in the same order, whatever else runs.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if options.smoke:
        print("--smoke: an epoch each, and made-up clothing; the accuracy means nothing")
        options.sparsity = [0.9]
    chosen = networks(samples=options.samples, smoke=options.smoke)
    wanted: dict[tuple, Callable[[], Iterable[Line]]] = {}
    ways = [(runs.DENSE, ""), *((kind, criterion) for kind in runs.UNIT for criterion in runs.CRITERIA)]
    for seed in range(options.seeds):
        for name, network in chosen.items():
            for way in ways:
                key = (seed, name, *way)
                wanted[key] = partial(run, network, dict(zip(KEY, key, strict=True)), options.sparsity)
    path = options.output / "results.jsonl"
    lines = gathered(path, wanted, resume=options.resume, key=lambda line: tuple(line[name] for name in KEY))
    (options.output / "table.md").write_text(report.text(lines), encoding="utf-8")
    report.draw(lines, options.output / "accuracy.png")
    print(f"\n{report.text(lines)}\nFiles: {options.output}")


def run(network: Network, settings: Line, sparsities: list[float]) -> Iterable[Line]:
    """Yield a line for each sparsity."""
    gc.collect()  # models refer to themselves, and hundreds of them fill the memory
    if settings["kind"] == runs.DENSE:
        found = runs.dense(network, settings["seed"], sparsities)
    else:
        how = {name: settings[name] for name in ("kind", "criterion")}
        found = runs.pruned(network, settings["seed"], sparsities, **how)
    for line in found:
        shown = " ".join(str(settings[name]) for name in KEY)
        print(f"{shown}, {line['sparsity']:.0%}: {line['accuracy']:.2%}", flush=True)
        yield settings | line


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prune by the F-statistic, by magnitude and at random, connections or channels, and fine-tune."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up clothing")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument(
        "--samples", type=int, default=10_000, help="images of clothing to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        nargs="+",
        default=[0.8, 0.9, 0.95],
        metavar="S",
        help="fractions of the parameters to remove, one after the other (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("f-statistic-output"), metavar="DIR", help="folder for the results"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
