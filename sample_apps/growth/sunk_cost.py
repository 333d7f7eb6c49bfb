"""How long must a base be trained before growth is better? The same extra compute, from bases of five stages.

    python -m sample_apps.growth.sunk_cost --seeds 3 --resume    # some ten minutes of a core a seed, restartable
    python -m sample_apps.growth.sunk_cost --smoke               # a minute, on made-up text

A base trains for 1/4, 1/2, 1, 2 and 4 times the compute F_c of `tfprune.growth.growth_compute`. Each stage is then
grown to twice the blocks, interposed or stacked, or trained on as it is, for as much extra compute; and a model of
the larger size trains from scratch for that compute. Each run is one line of JSON. docs/papers/growth.md reports the
results.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[2]))  # finds the modules of the app when run as a file

import keras

import tfprune
from sample_apps.growth import books, compute, networks, sunk_cost_report, training
from sample_apps.growth.sunk_cost_report import BASE, COSINES, NONE, ON, SCRATCH, Record
from sample_apps.language_model import texts
from sample_apps.study import results
from sample_apps.study.training import machine

SMALL = networks.Size(blocks=3, experts=4, top_k=2, width=24, hidden=24, heads=2)
PIECES = 500
STAGES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of F_c


Start = tuple[keras.Model, keras.optimizers.Optimizer | None]  # a model, and the state that its training starts with


def deeper(base: keras.Model, seed: int, *, order: str) -> Start:
    return tfprune.growth.grow_depth(base, 2, order=order, blocks=networks.BLOCKS)[0], None


def deeper_with_moments(base: keras.Model, seed: int) -> Start:
    grown, report = tfprune.growth.grow_depth(base, 2, blocks=networks.BLOCKS)
    return grown, tfprune.growth.carry_optimizer(base, grown, origins=report.origins)


def wider(base: keras.Model, seed: int, *, noise: float = 0.01, random: str | None = None) -> Start:
    return tfprune.experts.grow(base, 2, noise=noise, random=random, seed=seed)[0], None


def as_it_is(base: keras.Model, seed: int) -> Start:
    return base, None


Way = Callable[[keras.Model, int], Start]
EVERYWHERE: dict[str, Way] = {
    "interposed": functools.partial(deeper, order="interpose"),
    "stacked": functools.partial(deeper, order="stack"),
    ON: as_it_is,
}
AT_ONE: dict[str, Way] = {  # from the base of F_c
    "experts, noise": wider,
    "experts, no noise": functools.partial(wider, noise=0.0),
    "experts, random router": functools.partial(wider, random="router"),
    "experts, random copies": functools.partial(wider, random="experts"),
    "interposed, moments carried": deeper_with_moments,
}


@dataclass(frozen=True)
class Plan:
    """The size of the base, its stages and the compute of all runs.

    Attributes:
        small: Size of the base.
        unit: F_c in operations.
        extra: The compute after growth, in units.
        stages: The compute of the bases, in units, in ascending order.
        rates: Peak learning rates: of models that start anew, and of others.
        folder: Where bases are kept.
    """

    small: networks.Size
    unit: float
    extra: float
    stages: tuple[float, ...]
    rates: tuple[float, float]
    folder: Path

    def path(self, stage: float, seed: int) -> Path:
        return self.folder / f"base-{stage:g}-{seed}.keras"


def runs_of(plan: Plan) -> Iterator[tuple[str, float]]:
    """Yield the way and the base's stage of each run: all bases, then the ways, those of the last base first."""
    yield SCRATCH, NONE
    yield from ((BASE, stage) for stage in plan.stages)
    yield from ((way, stage) for stage in reversed(plan.stages) for way in EVERYWHERE)
    yield COSINES, 1.0
    yield from ((way, 1.0) for way in AT_ONE)


def run(way: str, stage: float, plan: Plan, text: books.Books, *, seed: int) -> Record:
    """Train in one way from a base, and return what came out."""
    started = time.perf_counter()
    if way == COSINES:
        return cosines(stage, plan, text, seed=seed)
    before = max((other for other in plan.stages if other < stage), default=NONE)
    source = before if way == BASE else stage
    model, optimizer = start(way, source, plan, text, seed=seed)
    units = stage - before if way == BASE else plan.extra
    is_new = source == NONE
    curve = training.train(
        model,
        text,
        flops=units * plan.unit,
        rate=plan.rates[not is_new],
        seed=1000 * seed + (500 if way != BASE else round(8 * stage)),
        spent=source * plan.unit,
        optimizer=optimizer,
        path=plan.path(stage, seed) if way == BASE else None,
    )
    return {
        "way": way,
        "base": stage,
        "seed": seed,
        "perplexity": curve[-1][1],
        "curve": curve,
        "unit": plan.unit,
        "extra": plan.extra,
        "parameters": model.count_params(),
        "flops_of_a_piece": compute.training_flops(model),
        "norms": [row.norm for row in tfprune.growth.norm_profile(model, blocks=networks.BLOCKS).rows],
        "seconds": time.perf_counter() - started,
        "machine": machine(),
    }


def start(way: str, stage: float, plan: Plan, text: books.Books, *, seed: int) -> Start:
    """Return the model that a way trains: a new one, or what it makes of the base of a stage."""
    if stage == NONE:
        size = plan.small if way == BASE else replace(plan.small, blocks=2 * plan.small.blocks)
        return networks.build(size, text.pieces, seed=seed), None
    base = keras.models.load_model(plan.path(stage, seed))
    return (EVERYWHERE | AT_ONE | {BASE: as_it_is})[way](base, seed)


def cosines(stage: float, plan: Plan, text: books.Books, *, seed: int) -> Record:
    """Train a deeper and a wider model for an eighth of the extra compute, and compare their first moments.

    The base has the moments from the end of its training. The wider model is trained on the same data, and in
    another order.
    """
    base = keras.models.load_model(plan.path(stage, seed))
    depth, depth_report = tfprune.growth.grow_depth(base, 2, blocks=networks.BLOCKS)
    flops, rate = plan.extra * plan.unit / 8, plan.rates[1]
    training.train(depth, text, flops=flops, rate=rate, seed=1000 * seed + 500)
    pairs = {}
    for order, words in ((501, ", other data"), (500, "")):
        width, width_report = tfprune.experts.grow(base, 2, seed=seed)
        training.train(width, text, flops=flops, rate=rate, seed=1000 * seed + order)
        trained = {
            "depth": (training.last_trained_like(depth), depth_report.origins),
            "width": (training.last_trained_like(width), width_report.origins),
        }
        rows = tfprune.growth.moment_cosines(base, trained).rows
        pairs |= {f"{row.first} and {row.second}{words if row.first == 'depth' else ''}": row.cosine for row in rows}
    return {"way": COSINES, "base": stage, "seed": seed, "cosines": pairs, "machine": machine()}


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "sunk_cost.jsonl"
    known = results.read(path)
    if known and not options.resume:
        raise SystemExit(
            f"Expected no results yet. Received: {len(known)} in {path}. Pass --resume to continue, or another "
            f"--output."
        )
    text, plan = prepared(options)
    done = {(record["seed"], record["way"], record["base"]) for record in known}
    for seed in range(options.seeds):
        for way, stage in runs_of(plan):
            if (seed, way, stage) not in done:
                record = run(way, stage, plan, text, seed=seed)
                results.append(path, record)
                print(f"seed {seed}, {way} {stage:g}: {record.get('perplexity') or record['cosines']}", flush=True)
    table = sunk_cost_report.text(results.read(path))
    (options.output / "sunk_cost.md").write_text(table, encoding="utf-8")
    print(f"\n{table}")


def prepared(options: argparse.Namespace) -> tuple[books.Books, Plan]:
    """Return the text, and the plan of all runs."""
    if options.smoke:
        print("--smoke: made-up text and a few steps; the perplexity means nothing")
        small = networks.Size(blocks=2, experts=2, top_k=1, width=8, hidden=8, heads=2)
        return books.read(books.made_up(), pieces=40), Plan(small, 1e7, 1, (0.5, 1.0), (0.01, 0.01), options.output)
    try:
        sections = list(texts.bible())
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    text = books.read(sections, pieces=PIECES)
    unit = tfprune.growth.growth_compute(networks.build(SMALL, text.pieces, seed=0)).operations
    return text, Plan(SMALL, unit, options.extra, STAGES, tuple(options.rates), options.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Grow a language model from bases of five stages.")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--extra", type=float, default=1.0, metavar="F_c", help="compute after growth, in F_c (default: %(default)s)"
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs=2,
        default=(8e-3, 4e-3),
        metavar="RATE",
        help="peak learning rates: of new models, and of others (default: 0.008 0.004)",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up text")
    parser.add_argument(
        "--output", type=Path, default=Path("growth-output"), metavar="DIR", help="folder (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
