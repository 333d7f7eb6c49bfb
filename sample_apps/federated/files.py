"""A file for each watch, and its accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tfprune
from sample_apps.federated.clients import trainer
from sample_apps.federated.people import people
from tfprune.export import Runner, to_tflite
from tfprune.federated import Update


def export(folder: Path, *, source: str, seed: int, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Export the model of each person that a run has left in a folder; yield a line for each.

    Args:
        folder: Where the updates of the last round lie.
        source: The folder of the recordings; empty for made-up motion.
        seed: The seed of the run.
        limit: How many files to write; None for all.
    """
    watch = trainer(seed)
    for number, person in list(enumerate(people(source), start=1))[:limit]:
        stored = folder / f"person-{number}.update"
        if not stored.exists():
            continue
        update = Update.decode(stored.read_bytes(), like=watch.initial)
        watch.model.set_masks(update.masks)
        watch.model.set_weights(update.weights)
        path = folder / f"person-{number}.tfz"
        # The file runs and is compared with Keras before it is written; dense, because the packed zeros cost little.
        plain = tfprune.strip(watch.model.model)
        report = to_tflite(plain, path, optimize="dense", compress="packed", check_on=person.test_x[:50])
        right = Runner(path).predict(person.test_x).argmax(axis=1) == person.test_y
        yield {"person": number, "file": path.name, "bytes": report.bytes, "accuracy": float(np.mean(right))}
