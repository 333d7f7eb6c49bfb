"""Rank a weight where it is, or in the host's memory, as mask updates do: which is faster, on what device.

KERAS_BACKEND chooses between TensorFlow, JAX and PyTorch; the weight lies where the backend puts it by itself.
"""

from __future__ import annotations

import statistics
import sys

import keras
import numpy as np
from common import Row, interleaved, median_ratio
from keras import ops

from tfprune.base.arrays import keep_largest
from tfprune.models.anatomy import as_numpy


def in_host_memory(weight: keras.Variable, count: int) -> object:
    return ops.convert_to_tensor(keep_largest(np.abs(as_numpy(weight)), count))


def where_it_is(weight: keras.Variable, count: int) -> object:
    """Return the same mask, by a sort: the earlier ones of equal entries stay."""
    scores = ops.reshape(ops.abs(weight), -1)
    threshold = ops.sort(scores)[-count]
    above, equal = scores > threshold, scores == threshold
    missing = count - ops.sum(ops.cast(above, "int32"))
    mask = ops.logical_or(above, ops.logical_and(equal, ops.cumsum(ops.cast(equal, "int32")) <= missing))
    return ops.reshape(mask, weight.shape)


def measure(rows: int, columns: int) -> Row:
    weight = keras.Variable(keras.random.normal((rows, columns), seed=0))
    count = rows * columns // 10
    runs = {
        "host": lambda: as_numpy(in_host_memory(weight, count)),
        "device": lambda: as_numpy(where_it_is(weight, count)),  # read, so that all of it is done
    }
    assert (runs["host"]() == runs["device"]()).all()
    seconds = interleaved(runs, rounds=5)
    host, device = (1000 * statistics.median(seconds[name]) for name in runs)
    where = f"{keras.backend.backend()} on {', '.join(keras.distribution.list_devices())}"
    text = f"ranking {weight.shape} by {where}: host ({host:.0f} ms) / where the weight is ({device:.0f} ms)"
    ratio = median_ratio(seconds["host"], seconds["device"])
    return Row(text, f"{ratio:.2f}x", "", True)  # no bar: it tells which of both is to be taken where


if __name__ == "__main__":
    for row in (measure(1024, 1024), measure(4096, 4096)):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
