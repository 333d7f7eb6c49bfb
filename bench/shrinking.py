"""Shrinking against its bars: random graphs, the families of keras.applications, and the time to plan ResNet50."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from common import Row, at_most

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from flops import multiplications
from graphs import RandomGraph, small_vit

import tfprune

SEEDS, KINDS, SPARSITY = 75, ("vectors", "images", "sequences"), 0.5
FAMILIES = {
    **dict.fromkeys(["MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0"], 32),
    **dict.fromkeys(["EfficientNetV2B0", "ResNet50", "ResNet50V2", "DenseNet121", "VGG16"], 32),
    "Xception": 71,
    "InceptionV3": 75,
}


def enlivened(model: keras.Model) -> keras.Model:
    """Give biases, scales and statistics values that a lost one would show."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(np.abs(weight + generator.normal(0, 0.2, weight.shape)) + 0.1)
    return model


def difference(model: keras.Model, plan: tfprune.ShrinkPlan) -> tuple[keras.Model, float]:
    """Return the smaller model, and how far it is from the masked one, as a part of the largest output."""
    smaller, masked = tfprune.shrink(model, plan), tfprune.zero_channels(model, plan)
    data = np.random.default_rng(2).normal(size=(3, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(masked(data, training=False))
    worst = np.abs(np.asarray(smaller(data, training=False)) - expected).max() / np.abs(expected).max()
    return smaller, float(worst)


def graphs() -> Iterator[Row]:
    worst, wrong, refused = 0.0, 0, 0
    for kind in KINDS:
        for seed in range(SEEDS):
            model = getattr(RandomGraph(seed), kind)()
            try:
                plan = tfprune.plan_shrink(model, SPARSITY, allocation=("uniform", "global", "lamp")[seed % 3])
            except ValueError as error:  # a few let nothing go: a layer norm on all that there is
                refused += "these have to stay" in str(error)
                continue
            smaller, far = difference(model, plan)
            worst, wrong = max(worst, far), wrong + (smaller.count_params() != plan.parameters_kept)
    name = f"{SEEDS * len(KINDS) - refused} random graphs, shrunk against masked"
    yield Row(name, f"{worst:.0e}", "<= 1e-05", worst <= 1e-5)
    yield at_most("of these with other parameters than planned", wrong, 0, unit="", digits=0)


def families() -> Iterator[Row]:
    makers: dict[str, Callable[[], keras.Model]] = {"small ViT": small_vit}
    for name, side in FAMILIES.items():
        make = getattr(keras.applications, name)
        settings = {"weights": None, "input_shape": (side, side, 3), "classes": 10, "classifier_activation": None}
        makers[name] = lambda make=make, settings=settings: make(**settings)
    for name, make in makers.items():
        model = enlivened(make())
        plan = tfprune.plan_shrink(model, SPARSITY)
        smaller, far = difference(model, plan)
        # The profiler does not count einsum, of which attention is made.
        flops = multiplications(smaller) if name in FAMILIES else tfprune.plan_shrink(smaller, 0.0).flops
        exact = (plan.parameters_kept, plan.flops_kept) == (smaller.count_params(), flops)
        sizes = (
            f"{plan.parameters_kept / plan.parameters:.0%} of parameters, {plan.flops_kept / plan.flops:.0%} of FLOPs"
        )
        what = f"{name}: {sizes}, {'as planned' if exact else 'NOT AS PLANNED'}"
        yield Row(what, f"{far:.0e}", "<= 1e-05", far <= 1e-5 and exact)
        keras.backend.clear_session()


def planning() -> Row:
    model = keras.applications.ResNet50(weights=None)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        tfprune.plan_shrink(model, SPARSITY)
        seconds.append(time.perf_counter() - start)
    return at_most("plan of ResNet50, the slowest of three", max(seconds), 5, unit=" s", digits=1)


if __name__ == "__main__":
    for row in [planning(), *graphs(), *families()]:
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
