"""Prune a keyword spotter's file without training: MLPerf Tiny's DS-CNN, which tells ten spoken languages apart.

The recordings: apt-get install tuxpaint-stamps-default. The first run trains the network, two minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from anyfile import FOLDER, SAMPLES
from common import Row, processor_seconds

sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the sample apps

from sample_apps.data.cache import CACHE
from sample_apps.spoken import recordings
from sample_apps.spoken.log_mel import SECOND
from sample_apps.spoken.runs import labeled
from tfprune.export import Runner, pack, prune_tflite, shrink_tflite

EPOCHS, WIDTH = 5, 64
Clips = tuple[np.ndarray, np.ndarray]


def file_of(kind: str, train: Clips) -> Path:
    """Return the trained network as a file; train and convert it if it is not there."""
    path = FOLDER / f"spotter_{kind}.tflite"
    if path.exists():
        return path
    import keras

    from sample_apps.spoken import runs
    from sample_apps.spoken.network import ds_cnn
    from tfprune.export import to_tflite

    FOLDER.mkdir(parents=True, exist_ok=True)
    saved = FOLDER / "spotter.keras"
    if not saved.exists():
        keras.utils.set_random_seed(0)
        model = ds_cnn(len(recordings.LANGUAGES), WIDTH)
        runs.train(model, train, rate=2e-3, epochs=EPOCHS)
        model.save(saved)
    to_tflite(
        keras.saving.load_model(saved),
        path,
        quantize=None if kind == "float32" else kind,
        calibration=None if kind == "float32" else train[0][:500],
        optimize="dense",
    )
    return path


def accuracy(source: Path, test: Clips) -> float:
    return 100 * float((Runner(source).predict(test[0]).argmax(axis=1) == test[1]).mean())


def measure() -> Iterator[Row]:
    speech = recordings.load(CACHE)
    clips, test = labeled(speech.train, hop=SECOND), labeled(speech.test, hop=SECOND)
    order = np.random.default_rng(0).permutation(len(clips[0]))
    samples, train = clips[0][order[:SAMPLES]], tuple(part[order[SAMPLES:]] for part in clips)
    for kind in ("float32", "int8"):
        file = file_of(kind, train)
        dense = len(pack(file.read_bytes()))
        yield Row(f"{kind}, dense", f"{accuracy(file, test):.2f} %, {dense:,} bytes packed", "-", holds=True)
        changes = [(prune_tflite, {"sparsity": zeros, "optimize": "dense"}) for zeros in (0.5, 0.6, 0.7, 0.8)]
        changes += [(shrink_tflite, {"flops": flops}) for flops in (0.75, 0.5)]
        for change, goal in changes:
            with tempfile.TemporaryDirectory() as folder:
                path, start = Path(folder, "small.tflite"), processor_seconds()
                change(file, path, samples, **goal)
                seconds = processor_seconds() - start
                text = f"{accuracy(path, test):.2f} %, {len(pack(path.read_bytes())):,} bytes packed, {seconds:.0f} s"
            yield Row(f"{kind}, {change.__name__} {[*goal.values()][0]:.0%}", text, "-", holds=True)


if __name__ == "__main__" and recordings.DEBIAN.is_dir():
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes"]) + "\n")
        sys.stdout.flush()
