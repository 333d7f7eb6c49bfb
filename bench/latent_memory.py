"""Bytes beside the weights of a wrapped model, with latent values and without: small, or the size of Gemma 3 270M.

It counts the variables. `python bench/latent_memory.py gemma` measures what the process holds beside a model of
Gemma's size that is wrapped in place, which takes some minutes.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from common import Row, at_most

import tfprune

BARS = {"keep": 5.3, "zero": 1.3}  # bytes beside each float32 weight of the model
WIDTH, DEPTH = 1024, 10
STATUS = Path("/proc/self/status")


def measure() -> list[Row]:
    model = keras.Sequential([keras.Input((WIDTH,)), *(keras.layers.Dense(WIDTH) for _ in range(DEPTH))])
    rows = []
    for latent, bar in BARS.items():
        wrapped = tfprune.wrap(model, latent=latent)
        tfprune.update_masks(wrapped, 0.5)
        beside = (_bytes(wrapped) - _bytes(model)) / model.count_params()
        rows.append(at_most(f"bytes beside each float32 weight, latent={latent!r}", beside, bar, unit=""))
    return rows


def measure_gemma(latent: str) -> Row:
    """Wrap a Gemma 3 of 270M random weights in place; compare what the process holds before and afterwards."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import keras_hub

    from sample_apps.language_model.weights import GEMMA

    model = keras_hub.models.Gemma3Backbone(**GEMMA)
    count, before = model.count_params(), _resident()
    wrapped = tfprune.wrap(model, in_place=True, latent=latent)
    tfprune.update_masks(wrapped, 0.5)
    beside = (_resident() - before) / count
    what = f"bytes of the process beside each of {count:,} weights, latent={latent!r}"
    return at_most(what, beside, BARS[latent], unit="")


def _bytes(model: keras.Model) -> int:
    return sum(np.asarray(variable).nbytes for variable in model.variables)


def _resident() -> int:
    gc.collect()
    return 1024 * int(STATUS.read_text().partition("VmRSS:")[2].split()[0])


def show(row: Row) -> None:
    sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["gemma"]:
        for latent in BARS:
            subprocess.run([sys.executable, __file__, "gemma", latent], check=True)
    elif sys.argv[1:]:
        show(measure_gemma(sys.argv[2]))
    else:
        for row in measure():
            show(row)
