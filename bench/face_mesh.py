"""Prune MediaPipe's face mesh without its training code, on crops of photographs; compare it on another photograph.

It needs three packages in build/packages, in which it looks for the file and the photographs:

    pip download --no-deps -d build/packages mediapipe==0.10.21 scikit-image==0.22.0
    pip download --no-deps --no-binary :all: -d build/packages face-recognition==1.3.0
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import Row, at_most
from foreign_files import PACKAGES, members_of
from PIL import Image

from tfprune.export import prune_tflite

FILE = "face_landmark.tflite"
# Photographs with center and size of a crop around the face, in pixels. The last one is held out.
PHOTOGRAPHS = {
    "astronaut.png": (222, 112, 170),
    "obama.jpg": (493, 220, 360),
    "obama2.jpg": (360, 408, 540),
    "obama3.jpg": (762, 428, 480),
    "biden.jpg": (573, 308, 480),
}
CROPS, HELD_CROPS = 64, 36  # of each photograph
BARS = {0.5: 0.05, 0.7: 0.15}
SIZE = 192


def crops(image: Image.Image, place: Sequence[float], count: int, *, seed: int) -> np.ndarray:
    """Return crops around a face: moved, resized, turned, mirrored, brighter or darker, as a tracker sees it."""
    random = np.random.default_rng(seed)
    x, y, size = place
    images = []
    for _ in range(count):
        half = size * random.uniform(0.8, 1.25) / 2
        center = np.array([x, y]) + random.normal(size=2) * 0.07 * size
        turned = image.rotate(random.normal() * 15, resample=Image.Resampling.BILINEAR, center=tuple(center))
        box = (*(center - half).round(), *(center + half).round())
        pixels = np.asarray(turned.crop(tuple(map(int, box))).resize((SIZE, SIZE)), np.float32) / 255
        pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
        images.append(np.clip(pixels * random.uniform(0.6, 1.3), 0, 1))
    return np.stack(images)


def measure(folder: Path = PACKAGES) -> Iterator[Row]:
    photographs = {Path(name).name: content for name, content in members_of(folder, (".png", ".jpg"))}
    content = next((content for name, content in members_of(folder, (".tflite",)) if Path(name).name == FILE), None)
    if content is None or not PHOTOGRAPHS.keys() <= photographs.keys():
        sys.stderr.write(f"{folder}: no packages, see the first lines of this file\n")
        return
    images = {name: Image.open(io.BytesIO(photographs[name])).convert("RGB") for name in PHOTOGRAPHS}
    *fitted, held = PHOTOGRAPHS
    parts = [crops(images[name], PHOTOGRAPHS[name], CROPS, seed=seed) for seed, name in enumerate(fitted)]
    seen = np.random.default_rng(0).permutation(np.concatenate(parts))
    other = crops(images[held], PHOTOGRAPHS[held], HELD_CROPS, seed=len(fitted))
    for what, samples in {"another person": np.concatenate([seen, other]), "other crops": seen}.items():
        for sparsity, bar in BARS.items():
            with tempfile.TemporaryDirectory() as target:
                report = prune_tflite(content, Path(target, "sparse.tflite"), samples, sparsity=sparsity)
            error = report.errors[0].error or 0.0
            text = f"face mesh, {sparsity:.0%} zeros, {what}: error of the points, of their variation"
            yield at_most(text, error, bar, unit="")


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
