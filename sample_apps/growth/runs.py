"""One run for each use of the same compute: grow, train from scratch, train further, or grow and prune back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

import tfprune
from sample_apps.growth import compute, networks, training
from sample_apps.growth.books import Books, shuffled

INTERPOSED, STACKED, ANEW = "grown, interposed", "grown, stacked", "from scratch"
ON, BACK, SPARSE = "base, trained further", "grown, then pruned back", "half zeros, then grown"
WAYS = ("base", INTERPOSED, STACKED, ANEW, ON, BACK, SPARSE)
TIMES = 2  # as many blocks, and as many experts
Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The sizes of the models, the compute of each training, and the folder of the models.

    Attributes:
        small: Size of the base.
        compute: Operations for the base, after growth, and after pruning back.
        rates: Peak learning rates: of new models, and of models that were trained before.
        folder: The folder where models are saved.
    """

    small: networks.Size
    compute: tuple[float, float, float]
    rates: tuple[float, float]
    folder: Path

    @property
    def large(self) -> networks.Size:
        return replace(
            self.small,
            blocks=TIMES * self.small.blocks,
            experts=TIMES * self.small.experts,
            top_k=TIMES * self.small.top_k,
        )

    def path(self, name: str, seed: int) -> Path:
        return self.folder / f"{name}-{seed}.keras"


def run(way: str, plan: Plan, books: Books, *, seed: int) -> Record:
    """Train in one of WAYS, and return the result; the base comes first, and INTERPOSED before BACK."""
    started = time.perf_counter()
    first, extra, last = plan.compute
    model, before = start(way, plan, books, seed=seed)
    flops = {"base": first, ON: extra + last, BACK: last}.get(way, extra)
    spent = {"base": 0.0, ANEW: 0.0, BACK: first + extra}.get(way, first)
    rate = plan.rates[way not in ("base", ANEW)]
    curve = training.train(model, books, flops=flops, rate=rate, seed=1000 * seed + WAYS.index(way), spent=spent)
    if way in ("base", INTERPOSED):
        model.save(plan.path("base" if way == "base" else "grown", seed))
    report = tfprune.sparsity_report(model)
    return {
        "way": way,
        "seed": seed,
        "perplexity": curve[-1][1],
        "curve": curve,
        "parameters": tfprune.strip(model).count_params() if way == SPARSE else model.count_params(),
        "zeros": [before, report.sparsity if before else 0.0],
        "is_new": way in ("base", ANEW),
        "flops": curve[-1][0],
        "flops_of_a_piece": compute.training_flops(model),
        "flops_of_a_piece_as_run": compute.training_flops(model, all_experts=True),
        "seconds": time.perf_counter() - started,
    }


def start(way: str, plan: Plan, books: Books, *, seed: int) -> tuple[keras.Model, float]:
    """Return the model that a way trains, and the fraction of zeros before it grew."""
    if way in ("base", ANEW):
        return networks.build(plan.small if way == "base" else plan.large, books.pieces, seed=seed), 0.0
    if way == BACK:
        return pruned_back(keras.models.load_model(plan.path("grown", seed), compile=False), plan.small, books), 0.0
    base, sparsity = keras.models.load_model(plan.path("base", seed), compile=False), 0.0
    if way == SPARSE:
        base = tfprune.wrap(base)
        sparsity = tfprune.update_masks(base, 0.5).sparsity
    if way == ON:
        return base, sparsity
    return grown(base, order="stack" if way == STACKED else "interpose", seed=seed), sparsity


def grown(base: keras.Model, *, order: str, seed: int) -> keras.Model:
    """Return a model with twice the experts, twice as many of them selected, and twice the blocks."""
    wider, _ = tfprune.experts.grow(base, TIMES, seed=seed)
    return tfprune.growth.grow_depth(wider, TIMES, order=order, blocks=networks.BLOCKS)[0]


def pruned_back(model: keras.Model, size: networks.Size, books: Books) -> keras.Model:
    """Return a smaller model: the least important blocks are removed one by one, and experts are merged."""
    drawn = shuffled(books.train, 64, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(size.blocks * (TIMES - 1)):
        ranking = tfprune.transformers.rank_blocks(
            model, (drawn[:, :-1], drawn[:, 1:]), loss=loss, blocks=networks.BLOCKS
        )
        model, _ = tfprune.transformers.drop_blocks(model, ranking.order[:1], blocks=networks.BLOCKS)
    copies = [[expert + size.experts * copy for copy in range(TIMES)] for expert in range(size.experts)]
    return tfprune.experts.merge(model, copies, top_k=size.top_k)[0]
