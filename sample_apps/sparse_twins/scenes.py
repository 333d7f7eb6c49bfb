"""Scenes: pieces of clothing that lie on each other between bars and stains, and what each pixel shows."""

from __future__ import annotations

import numpy as np

from sample_apps.data.fashion_mnist import Data

SIDE, PIECES, BARS = 64, 4, 6
KINDS = ("background", "top", "trousers", "dress", "shoe", "bag")
KIND_OF = np.array([1, 2, 1, 3, 1, 4, 1, 4, 5, 4])  # of the ten classes of Fashion-MNIST
VISIBLE = 0.08  # gray values above belong to a piece; what surrounds it is black


def scenes(images: np.ndarray, labels: np.ndarray, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scenes [count, 64, 64, 1] in [0, 1], and the kind of each pixel [count, 64, 64], 0 to 5."""
    random = np.random.default_rng(seed)
    made = [scene(images, labels, random) for _ in range(count)]
    return np.stack([x for x, _ in made]).astype(np.float32), np.stack([y for _, y in made])


def scene(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    canvas, kinds = background(random), np.zeros((SIDE, SIDE), np.int32)
    for chosen in random.integers(0, len(images), PIECES):
        piece = images[chosen, :, ::-1] if random.random() < 0.5 else images[chosen]
        top, left = random.integers(-6, SIDE - len(piece) + 7, 2)
        rows, columns = (slice(max(at, 0), min(at + len(piece), SIDE)) for at in (top, left))
        seen = piece[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, 0]
        is_piece = seen > VISIBLE
        canvas[rows, columns][is_piece] = seen[is_piece]
        kinds[rows, columns][is_piece] = KIND_OF[labels[chosen]]
    return canvas[..., np.newaxis], kinds


def background(random: np.random.Generator) -> np.ndarray:
    """Return stains of all shades, and bars across them."""
    stains = np.kron(random.random((SIDE // 8, SIDE // 8)), np.ones((8, 8)))
    canvas = 0.6 * stains + 0.1 * random.random((SIDE, SIDE))
    for _ in range(BARS):
        start, width, shade = random.integers(0, SIDE), random.integers(2, 7), random.random()
        (canvas if random.random() < 0.5 else canvas.T)[start : start + width] = shade
    return canvas


def of(data: Data, counts: tuple[int, int]) -> Data:
    """Return scenes to train on and to test on, made from different images."""
    x, y, test_x, test_y = data
    return *scenes(x, y, counts[0], seed=0), *scenes(test_x, test_y, counts[1], seed=1)


def mean_iou(scores: np.ndarray, kinds: np.ndarray) -> float:
    """Return the intersection over union, averaged over the kinds; 1 is perfect."""
    found = scores.argmax(axis=-1)
    both = [
        (np.sum((found == kind) & (kinds == kind)), np.sum((found == kind) | (kinds == kind))) for kind in range(6)
    ]
    return float(np.mean([inside / union for inside, union in both if union]))
