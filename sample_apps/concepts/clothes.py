"""Ten kinds of clothing: the attributes of their images, and the requirements of a product."""

from __future__ import annotations

import numpy as np

from sample_apps.data.fashion_mnist import Data, pixels

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
# What is true of all images of a class.
ATTRIBUTES = {
    "footwear": ("sandal", "sneaker", "ankle boot"),
    "closed heel": ("sneaker", "ankle boot"),
    "sleeves": ("T-shirt", "pullover", "dress", "coat", "shirt"),
    "upper body": ("T-shirt", "pullover", "dress", "coat", "shirt"),
    "covers legs": ("trouser", "dress"),
    "carried": ("bag",),
}
REQUIREMENTS = {
    "R1: tell footwear from everything else": ["footwear"],
    "R2: tell sandals, sneakers and boots apart": ["sandal", "sneaker", "ankle boot"],
    "R3: say whether the heel is closed": ["closed heel"],
}
REQUIRED = [CLASSES.index(name) for name in ATTRIBUTES["footwear"]]


def concepts(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return 0 or 1 for each image: its class, what is true of its class, and what can be measured in the image."""
    named = {name: y == number for number, name in enumerate(CLASSES) if number in REQUIRED}
    of_class = {name: np.isin(y, [CLASSES.index(each) for each in among]) for name, among in ATTRIBUTES.items()}
    return named | of_class | {"wide": wide(x), "dark": dark(x)}


def wide(x: np.ndarray) -> np.ndarray:
    """Tell whether the thing in each image is wider than high."""
    there = x[..., 0] > 0.1
    height, width = (there.any(axis=axis).sum(axis=1) for axis in (2, 1))
    return width > height


def dark(x: np.ndarray) -> np.ndarray:
    """Tell whether the thing in each image is dark: the mean of its pixels is low."""
    there = x[..., 0] > 0.1
    return (x[..., 0] * there).sum(axis=(1, 2)) < 0.5 * there.sum(axis=(1, 2))


def accuracies(scores: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the accuracy on images of required classes and of the others, and that of each attribute.

    An attribute is right where the class that was predicted has it if the true class does; images with it and
    images without it count half each.
    """
    predicted = scores.argmax(axis=1)
    required = np.isin(y, REQUIRED)
    found = {"required": np.mean((predicted == y)[required]), "others": np.mean((predicted == y)[~required])}
    for name, among in ATTRIBUTES.items():
        told, true = (np.isin(each, [CLASSES.index(one) for one in among]) for each in (predicted, y))
        found[name] = (np.mean(told[true]) + np.mean(~told[~true])) / 2
    return {name: round(float(value), 4) for name, value in found.items()}


def synthetic() -> Data:
    """Make images that are easy to tell apart: each class lights up rows of its own, on a thing of some width."""
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 2000)
    images = np.zeros((2000, 28, 28))
    for image, label in zip(images, y, strict=True):
        width = random.integers(8, 28)
        image[4:24, :width] = random.uniform(60, 255) * random.uniform(0.6, 1, (20, width))
        image[4 + 2 * label, :width] = 255
    return pixels(images[:1500]), y[:1500], pixels(images[1500:]), y[1500:]
