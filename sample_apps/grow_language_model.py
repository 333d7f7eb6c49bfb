"""Grow a language model with a mixture of experts, compare with training from scratch, and prune it back.

    python sample_apps/grow_language_model.py --seeds 2    # about an hour on two shared cores
    python sample_apps/grow_language_model.py --smoke      # a minute, on made-up text

A base of three blocks and four experts trains on the World English Bible. It gets twice the blocks and twice the
experts, and is trained further with the same compute. So is a new model of that size. Perplexity is
measured on held-out books. docs/papers/growth.md reports the results.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

from sample_apps.growth import books, networks, report, runs
from sample_apps.language_model import texts
from sample_apps.study import results
from sample_apps.study.training import machine

SMALL = networks.Size(blocks=3, experts=4, top_k=2, width=96, hidden=96, heads=4)


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "growth.jsonl"
    known = results.read(path)
    if known and not options.resume:
        raise SystemExit(
            f"Expected no results yet. Received: {len(known)} in {path}. Pass --resume to continue, or another "
            f"--output."
        )
    text, plan = prepared(options)
    print(f"{len(text.train):,} pieces to train on, {text.test.size:,} of other books to test on", flush=True)
    done = {(record["seed"], record["way"]) for record in known}
    ways = [way for way in runs.WAYS if not (options.smoke and way in (runs.STACKED, runs.ON, runs.SPARSE))]
    for seed in range(options.seeds):
        for way in ways:
            if (seed, way) not in done:
                record = runs.run(way, plan, text, seed=seed)
                results.append(path, record | {"machine": machine()})
                print(f"seed {seed}, {way}: {record['perplexity']:.2f} ({record['seconds']:.0f} s)", flush=True)
    records = results.read(path)
    print("\n" + report.text(records))
    print("Written: " + ", ".join(map(str, [path, *report.write(records, options.output)])))


def prepared(options: argparse.Namespace) -> tuple[books.Books, runs.Plan]:
    """Return the text, and the plan of all trainings."""
    if options.smoke:
        print("--smoke: made-up text and a few steps; the perplexity means nothing")
        small = networks.Size(blocks=1, experts=2, top_k=1, width=8, hidden=8, heads=2)
        flops = 1e7
        return books.read(books.made_up(), pieces=40), runs.Plan(
            small, (flops, flops, flops), (0.01, 0.01), options.output
        )
    try:
        sections = list(texts.bible())
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    compute = tuple(part * options.compute * 1e12 for part in (1, 1, 0.25))
    return books.read(sections), runs.Plan(SMALL, compute, tuple(options.rates), options.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Grow a language model, and compare other uses of the same compute.")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--compute",
        type=float,
        default=1.4,
        metavar="TFLOP",
        help="of the base's training, and of each training after growth (default: %(default)s)",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs=2,
        default=(2e-3, 1e-3),
        metavar="RATE",
        help="peak learning rates: of new models, and of others (default: 0.002 0.001)",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up text")
    parser.add_argument(
        "--output", type=Path, default=Path("growth-output"), metavar="DIR", help="folder (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
