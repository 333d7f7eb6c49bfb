"""The settings of each row of the tables: what to remove, and how to reconstruct the remaining weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfprune

Row = dict[str, Any]
EPOCHS, RATE = 2, 2e-4  # of training after the cut
BATCH = {"minilm": 32, "gemma": 2}  # texts at a time
UNITS = {"minilm": "feedforward_intermediate_dense", "gemma": "ffw_gating"}  # what makes the hidden units of a block
UPDATES = {
    "none": {"reconstruction": None},
    "parallel": {"reconstruction": "parallel"},
    "sequential": {"reconstruction": "sequential"},
    "to dense": {"reconstruction": "sequential", "targets": "dense"},
    "sequential, then trained": {"reconstruction": "sequential"},
}
SIZES, EXTREME = (0.25, 0.5), (0.75, 0.9, 0.95)
DISTILLED = ", then distilled"  # after an update: the smaller model is trained, as recovery.py does it
DROPPED = "blocks dropped"  # in place of a score: whole blocks go, those of most similar input and output
# For each model and what is counted, hidden units or the parameters of whole blocks: scores, each with updates, what
# is calibrated on, and how much is removed.
TABLES: list[tuple[str, str, dict[str, tuple[str, ...]], tuple[str, ...], tuple[float, ...]]] = [
    (
        "minilm",
        "units",
        {
            "activation": ("none", "parallel", "sequential"),
            "greedy": ("none", "parallel", "sequential", "to dense"),
        },
        ("documentation", "both"),
        SIZES,
    ),
    (
        "gemma",
        "units",
        {
            "activation": ("none", "parallel", "sequential", "to dense"),
            "wanda": ("none", "sequential"),
            "obs": ("none", "sequential"),
            "greedy": ("none", "sequential"),
            "putri": ("none", "sequential"),
        },
        ("both",),
        SIZES,
    ),
    ("gemma", "blocks", {"activation": tuple(UPDATES)}, ("both",), SIZES),
    (
        "minilm",
        "blocks",
        {
            "activation": ("none", "sequential", "sequential" + DISTILLED),
            DROPPED: ("none", "none" + DISTILLED),
        },
        ("both",),
        (0.5, 0.75),
    ),
    ("minilm", "blocks", {"activation": ("none", "sequential"), DROPPED: ("none",)}, ("both",), EXTREME[1:]),
    ("gemma", "blocks", {"activation": ("none", "sequential"), DROPPED: ("none",)}, ("both",), EXTREME),
]


def rows(model: str) -> list[Row]:
    """Return the settings of each row of a model's table, in its order; the first one is the dense model."""
    found = [_row(0.0, "-", "-", "-", "-")]
    for name, counted, scores, calibrations, sizes in TABLES:
        if name != model:
            continue
        for removed in sizes:
            if counted == "units":
                found.append(_row(removed, counted, "magnitude", "none", "-"))
            found += [
                _row(removed, counted, score, update, calibration)
                for score, updates in scores.items()
                for update in updates
                for calibration in calibrations
            ]
    return [{"model": model, **row} for row in found]


def _row(removed: float, counted: str, score: str, update: str, calibration: str) -> Row:
    return {"removed": removed, "of": counted, "score": score, "update": update, "calibration": calibration}


def cut(dense: keras.Model, row: Row, calibration: Callable[[Row], dict[str, np.ndarray]]) -> keras.Model:
    """Return a smaller model of the same class: hidden units are removed, the same number from each block.

    Of the parameters of whole blocks, heads go too, or the blocks themselves.
    """
    if row["score"] == DROPPED:
        return without_blocks(dense, calibration(row), row["removed"])
    if row["score"] == "magnitude":
        plan = tfprune.plan_shrink(dense, row["removed"], filters=UNITS[row["model"]])
        return tfprune.shrink(dense, plan, into="class")
    texts = calibration(row)
    masked, report = tfprune.prune_units(
        dense,
        texts,
        sparsity=row["removed"] if row["of"] == "blocks" else {"units": row["removed"]},
        criterion=row["score"],
        batch_size=BATCH[row["model"]],
        verbose=0,
        **UPDATES[row["update"].removesuffix(DISTILLED)],
    )
    smaller = tfprune.shrink(masked, report.plan, into="class")
    return trained(smaller, dense, texts) if "trained" in row["update"] else smaller


def without_blocks(dense: keras.Model, texts: dict[str, np.ndarray], removed: float) -> keras.Model:
    """Drop the blocks whose outputs are most like their inputs, as many as come nearest to a part of them all."""
    ranking = tfprune.transformers.rank_blocks(dense, texts, criterion="similarity", verbose=0)
    count = min(round(removed * len(ranking.order)), len(ranking.order) - 1)
    return tfprune.transformers.drop_blocks(dense, ranking.order[:count])[0]


def trained(smaller: keras.Model, dense: keras.Model, texts: dict[str, np.ndarray]) -> keras.Model:
    """Train the blocks of a smaller language model to return what the dense one returns for the texts.

    What is compared is the output of the last block, so that no logits are needed; the embedding stays as it is.
    """
    smaller.get_layer("token_embedding").trainable = False
    steps = math.ceil(len(texts["token_ids"]) / BATCH["gemma"]) * EPOCHS
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=RATE, warmup_steps=steps // 10)
    smaller.compile(optimizer=keras.optimizers.Adam(rate, clipnorm=1.0), loss="mse")
    targets = dense.predict(texts, batch_size=BATCH["gemma"], verbose=0)
    smaller.fit(texts, targets, batch_size=BATCH["gemma"], epochs=EPOCHS, verbose=0)
    return smaller
