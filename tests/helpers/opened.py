"""Which files of the library open while a call runs, and how often it reads a model or a file."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import keras
import numpy as np

import tfprune
from tfprune import export

HALVES = {Path(tfprune.__file__).parent: "tfprune", Path(export.__file__).parent: "export"}
# What counts as a read: functions by the file that defines them.
READS = {
    "parses": ("export/file/reader.py", "read"),
    "checks": ("export/file/reader.py", "check_structure"),
    "anatomies": ("tfprune/models/anatomy.py", "of"),
}


class Opened(NamedTuple):
    """What one call opened: files of the library in which a function ran, and its reads by `READS`."""

    files: tuple[str, ...]
    reads: dict[str, int]


def opened_by(call: Callable[[], Any]) -> Opened:
    """Run a call, and then once more while its functions are counted: imports and caches do not count."""
    call()
    counts: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            counts[frame.f_code.co_filename, frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    ours = Counter({(_within(path), name): number for (path, name), number in counts.items() if _within(path)})
    reads = {kind: ours[place] for kind, place in READS.items()}
    return Opened(tuple(sorted({path for path, _ in ours})), reads)


def _within(path: str) -> str:
    """Return the path of a file below the halves of the library; empty for other files."""
    for folder, name in HALVES.items():
        if path.startswith(f"{folder}/"):
            return f"{name}/{Path(path).relative_to(folder).as_posix()}"
    return ""


def calls(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield public calls by name, on a network of four layers; each is to run before the next one is taken."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    random = np.random.default_rng(0)
    x, y = random.random((64, 16, 16, 1), np.float32), random.integers(0, 10, 64)
    wrapped, path = tfprune.wrap(model), folder / "dense.tflite"
    tfprune.update_masks(wrapped, 0.6)
    yield "wrap", lambda: tfprune.wrap(model)
    yield "wrap_channel", lambda: tfprune.wrap(model, pattern="channel")
    yield "update_masks", lambda: tfprune.update_masks(wrapped, 0.6)
    yield "strip", lambda: tfprune.strip(wrapped)
    yield "plan_shrink", lambda: tfprune.plan_shrink(model, 0.5)
    plan = tfprune.plan_shrink(model, 0.5)
    yield "shrink", lambda: tfprune.shrink(model, plan)
    yield "quantize_aware", lambda: tfprune.quantize_aware(model)
    schedule = tfprune.schedules.Polynomial(0.6, end=4)
    wrapped.compile("adam", "sparse_categorical_crossentropy")
    yield "fit", lambda: wrapped.fit(x, y, verbose=0, callbacks=[tfprune.PruningCallback(schedule, every=1)])
    yield "to_tflite", lambda: export.to_tflite(wrapped, path, verbose=0)
    int8 = {"quantize": "int8", "calibration": x}
    yield "to_tflite_int8", lambda: export.to_tflite(wrapped, folder / "int8.tflite", verbose=0, **int8)
    packed = {"optimize": "latency", "compress": "packed"}
    yield "to_tflite_latency_packed", lambda: export.to_tflite(wrapped, folder / "fast.tfz", verbose=0, **packed)
    expected = np.asarray(tfprune.strip(wrapped)(x[:4]))
    yield "runner", lambda: export.Runner(path).predict(x[:4])
    yield "verify", lambda: export.verify(path, x[:4], expected)
    yield "inspect", lambda: str(export.inspect(path))
    yield "sparsify", lambda: export.sparsify(path)
    pruned = {"sparsity": 0.95, "verbose": 0}
    yield "prune_tflite", lambda: export.prune_tflite(path, folder / "pruned.tflite", x[:32], **pruned)


def measured() -> dict[str, dict[str, int]]:
    """Return files and reads of all calls by name, as `tests/house/opened.toml` holds them."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: opened_by(call) for name, call in calls(Path(folder))}
    return {name: {"files": len(row.files), **row.reads} for name, row in rows.items()}
