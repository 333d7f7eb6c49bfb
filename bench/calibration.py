"""One pass of statistics over a transformer, against a forward pass over the same tokens, and its memory."""

from __future__ import annotations

import sys
import time

import keras
import numpy as np
from common import Row, at_most, interleaved, median_ratio, peak_during

from tfprune.compact.linear_map import moments_of, sites_of
from tfprune.models.graph import flatten, trace_to_run
from tfprune.models.training import Batches

layers = keras.layers
# The proportions of Gemma 3 270M: a ninth of its 18 blocks and of its 262144 words.
WIDTH, HIDDEN, BLOCKS, WORDS, LENGTH = 640, 2048, 2, 29127, 128


def language_model() -> keras.Model:
    ids = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(ids)
    for block in range(BLOCKS):
        x = x + layers.GroupQueryAttention(256, 4, 1, name=f"attention_{block}")(x, x)
        x = x + layers.Dense(WIDTH, name=f"back_{block}")(layers.Dense(HIDDEN, "gelu")(x) * layers.Dense(HIDDEN)(x))
    return keras.Model(ids, layers.Dense(WORDS, name="words")(x))


def rows() -> list[Row]:
    """Return the time of a pass over all readers of hidden units, and how its memory grows with the data."""
    model = language_model()
    sites = [site for site, _ in sites_of(*[trace_to_run(flatten(model))] * 2)[0] if site.name.startswith("back")]
    x = np.random.default_rng(0).integers(0, WORDS, (32, LENGTH))

    def statistics(texts: np.ndarray) -> None:
        moments_of(sites, Batches(texts, model, batch_size=8))

    def forward() -> None:
        model.predict(x, batch_size=8, verbose=0)

    forward()
    statistics(x[:8])
    times = interleaved({"statistics": lambda: statistics(x), "forward": forward}, rounds=3, clock=time.process_time)
    text = f"statistics of {BLOCKS} layers of {HIDDEN} units over {x.size} tokens, processor time against predict"
    few, many = (peak_during(lambda part=part: statistics(part))[1] for part in (x, np.tile(x, (4, 1))))
    return [
        at_most(text, median_ratio(times["statistics"], times["forward"]), 1.5),
        at_most("memory of the pass, four times the tokens against once", many / max(few, 1), 1.5),
    ]


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
