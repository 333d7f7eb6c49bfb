"""The reader of packed files in JavaScript, on Node: megabytes of a MobileNet for each second of the processor."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least

import tfprune
from tfprune.export import pack, unpack

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
ROUNDS = 7  # the first of them compile the reader
LEAST = 10.0  # MB of the .tflite file


def packed_mobilenet(folder: Path, quantize: str | None) -> bytes:
    """Return a MobileNet with 90 % zeros, packed in its dense form."""
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(keras.applications.MobileNet(input_shape=(224, 224, 3), weights=None))
    tfprune.update_masks(model, 0.9)
    path = folder / "mobilenet.tflite"
    images = np.random.default_rng(0).random((8, 224, 224, 3), np.float32)
    tfprune.export.to_tflite(
        model, path, quantize=quantize, calibration=images if quantize == "int8" else None, sparse=False
    )
    return pack(path)


def rows() -> Iterator[Row]:
    from javascript import read_in_javascript

    for quantize in (None, "dynamic"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            packed = packed_mobilenet(folder, quantize)
            for number in range(ROUNDS):
                (folder / f"{number}.tfz").write_bytes(packed)
            start = time.process_time()
            content = unpack(packed)
            python = len(content) / 1e6 / (time.process_time() - start)
            read = [*read_in_javascript(folder).values()]
            assert {row["digest"] for row in read} == {sha256(content).hexdigest()}
            speeds = [len(content) / 1e6 / row["seconds"] for row in read]
            what = f"MobileNet, {quantize or 'float32'}, {len(packed):,} -> {len(content):,} bytes: tfz.mjs on Node"
            yield at_least(what, statistics.median(speeds), LEAST, unit=" MB/s", digits=1)
            yield Row("the same: the first call, unpack in Python", f"{speeds[0]:.0f}, {python:.0f} MB/s", "", True)


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
