"""Seven shoulder exercises of ten people, as a smartwatch saw them: six axes of motion at 50 Hz."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WHEEL = "seglearn-1.2.5-py3-none-any.whl"
SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
RATE, WINDOW, STEP = 50, 128, 64  # samples per second, per window, and from one window to the next
Windows = tuple[np.ndarray, np.ndarray]  # motion of shape (windows, WINDOW, axes), and exercises by number


@dataclass(frozen=True)
class Watch:
    """Recordings of shape (samples, axes), and the exercise (by number) and the person of each."""

    motion: list[np.ndarray]
    exercise: np.ndarray
    person: np.ndarray
    names: list[str]


def cut(motion: np.ndarray) -> np.ndarray:
    """Cut a recording into windows that overlap by half, of shape (windows, WINDOW, axes)."""
    windows = np.lib.stride_tricks.sliding_window_view(motion, WINDOW, axis=0)[::STEP]
    return windows.transpose(0, 2, 1).astype("float32")


def read(folder: Path) -> Watch:
    """Read the recordings out of the wheel of seglearn, which need not be installed."""
    wheel = folder / WHEEL
    command = f"pip download --no-deps seglearn==1.2.5 --dest {folder}"
    if not wheel.is_file():
        sys.exit(f"Expected the data in {wheel}. Received: no such file. Get it with: {command}")
    content = wheel.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        sys.exit(f"Expected {wheel} with SHA-256 {SHA256}. Received: {digest}. Delete it, then run: {command}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        stored = archive.read("seglearn/data/watch_dataset.npy")
    # This is a pickle, which may run code when it is loaded. It is loaded because the hash says that it is the one
    # file that was looked through and holds lists and arrays only; never do so with a file that you do not know.
    data = np.load(io.BytesIO(stored), allow_pickle=True).item()
    return Watch(data["X"], data["y"], data["subject"], data["y_labels"])


def synthetic() -> Watch:
    """Make motion that is easy to tell apart: each exercise has a rhythm of its own."""
    random = np.random.default_rng(0)
    pairs = [(person, exercise) for person in range(1, 11) for exercise in range(7)]
    seconds = np.arange(12 * RATE)[:, np.newaxis] / RATE
    motion = [
        np.sin(2 * np.pi * (0.4 + 0.3 * exercise) * seconds + random.uniform(0, 6, 6)) + random.normal(0, 0.3, (1, 6))
        for _, exercise in pairs
    ]
    person, exercise = np.array(pairs).T
    return Watch(motion, exercise, person, [f"exercise {number}" for number in range(7)])
