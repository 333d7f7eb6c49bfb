"""The readers of packed files in JavaScript and C: megabytes of a MobileNet in a second of the processor."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least, at_most

import tfprune
from tfprune.export import pack, unpack

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
ROUNDS = 7  # the first of them compile the reader
LEAST = {"tfz.mjs on Node": 10.0, "tfz.h": 20.0}  # MB of the .tflite file
MOST_MEMORY, MOST_CODE = 4.0, 12.0  # MiB beside input and output; KB at -Os


def packed_mobilenet(folder: Path, quantize: str | None) -> bytes:
    """Return a MobileNet with 90 % zeros, packed in its dense form."""
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(keras.applications.MobileNet(input_shape=(224, 224, 3), weights=None))
    tfprune.update_masks(model, 0.9)
    path = folder / "mobilenet.tflite"
    images = np.random.default_rng(0).random((8, 224, 224, 3), np.float32)
    tfprune.export.to_tflite(
        model, path, quantize=quantize, calibration=images if quantize == "int8" else None, optimize="dense"
    )
    return pack(path)


def rows() -> Iterator[Row]:
    from other_readers import read_in_c, read_in_javascript

    for quantize in (None, "dynamic"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            packed = packed_mobilenet(folder, quantize)
            for number in range(ROUNDS):
                (folder / f"{number}.tfz").write_bytes(packed)
            start = time.process_time()
            content = unpack(packed)
            python = len(content) / 1e6 / (time.process_time() - start)
            file = f"MobileNet, {quantize or 'float32'}, {len(packed):,} -> {len(content):,} bytes"
            yield Row(f"{file}: unpack in Python", f"{python:.0f} MB/s", "", True)
            for (reader, least), results_of in zip(LEAST.items(), (read_in_javascript, read_in_c), strict=True):
                results = [*results_of(folder).values()]
                assert {row["digest"] for row in results} == {sha256(content).hexdigest()}
                speeds = [len(content) / 1e6 / row["seconds"] for row in results]
                yield at_least(f"{file}: {reader}", statistics.median(speeds), least, unit=" MB/s", digits=1)
            memory = max(row["memory"] for row in results) / 2**20
            yield at_most(f"{file}: memory beside input and output, tfz.h", memory, MOST_MEMORY, unit=" MiB")
    yield at_most("code of tfz.h, cc -Os", code_of_c() / 1000, MOST_CODE, unit=" KB")


def code_of_c() -> int:
    """Return the bytes of code and constants of the compiled reader."""
    from other_readers import READERS

    with tempfile.TemporaryDirectory() as name:
        source, compiled = Path(name, "tfz.c"), Path(name, "tfz.o")
        source.write_text('#define TFZ_IMPLEMENTATION\n#include "tfz.h"\n')
        subprocess.run(["cc", "-std=c99", "-Os", "-c", f"-I{READERS}", source, "-o", compiled], check=True)
        printed = subprocess.run(["size", compiled], check=True, capture_output=True, text=True).stdout
    return int(printed.splitlines()[1].split()[0])


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
