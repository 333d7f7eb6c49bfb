"""One run: train a network, then make it smaller in five ways that keep the same number of units in each layer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

import tfprune
from sample_apps.concepts.clothes import REQUIRED, REQUIREMENTS, accuracies, concepts
from sample_apps.data.fashion_mnist import Data
from sample_apps.data.lines import Line
from tfprune import criteria
from tfprune.export import Runner, benchmark, to_tflite

STAGES = ("removed", "reconstructed", "trained")  # of `prune_to`
BATCH = 128


def one_seed(seed: int, data: Data, options: argparse.Namespace) -> Iterator[Line]:
    """Train a model, then make it smaller in five ways that leave the same number of units in each layer."""
    (x, y), (fresh, fresh_y) = split(data, options.mined)  # rules are mined from images that the model has not seen
    data = (x, y, *data[2:])
    model = train(build(seed, options.units), data, epochs=options.epochs)
    dense = measured(model, data, options.output / "dense.tflite")
    yield {"seed": seed, "way": "dense", **dense}

    rules = tfprune.concepts.concept_rules(model, fresh, concepts(fresh, fresh_y), layers=["dense_1", "dense_2"])
    limits = {"min_precision": options.precision, "min_recall": options.recall}
    footwear = np.isin(data[3], REQUIRED)
    judged = {"validation_data": (data[2][footwear], data[3][footwear]), "verbose": 0}
    judged["max_drop"] = tfprune.Limit(metric="accuracy")  # without a number it is only measured
    judged["fine_tuning"] = tfprune.FineTuning(reconstruction="parallel" if options.smoke else "sequential")

    def made(way: str, smaller: tfprune.ShrinkPlan) -> Line:
        fine_tuned, report = tfprune.prune_to(model, smaller, (x, y), epochs=options.fine_tuning, **judged)
        stages = {stage: round(getattr(report.rounds[0], stage), 4) for stage in STAGES}
        path = options.output / f"{way.replace(', ', '-')}.tflite"
        line = {"seed": seed, "way": way, "stages": stages, **measured(fine_tuned, data, path)}
        line["fresh"] = accuracies(Runner(path).predict(fresh), fresh_y)
        print(f"seed {seed}, {way}: {stages}, {line['bytes']:,} bytes", flush=True)
        return line

    dense["fresh"] = accuracies(Runner(options.output / "dense.tflite").predict(fresh), fresh_y)
    for keep in options.keep:  # until the file meets the requirements, judged by images that no weight was trained on
        plan, trace = tfprune.concepts.plan_concepts(model, rules, require=REQUIREMENTS, min_units=keep, **limits)
        line = made("concepts", plan)
        broken = [*unmet(line, dense)]
        print(
            f"seed {seed}, at least {keep} units: {'; '.join(broken) or 'the file meets the requirements'}",
            flush=True,
        )
        if not broken:
            break
    if seed == 0:
        print(f"\n{rules}\n\n{trace}\n\n{plan}\n")
        trace.html(options.output / "trace.html")
    is_met = all(each.is_met for each in trace.evidence)
    yield {**line, "keep": keep, "unmet": broken, "is_met": is_met, "evidence": [e.as_dict() for e in trace.evidence]}
    ways = others(model, plan, (fresh, fresh_y))
    for way, smaller in list(ways.items())[: 1 if options.smoke else None]:
        assert smaller.parameters_kept == plan.parameters_kept
        yield made(way, smaller)


def split(data: Data, count: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the images and labels to train on, and the last ones, for rules."""
    x, y, _, _ = data
    return (x[:-count], y[:-count]), (x[-count:], y[-count:])


def unmet(line: Line, dense: Line) -> Iterator[str]:
    """Yield what the file of a smaller model lacks: size, latency, or the accuracy of what is required."""
    if line["bytes"] > 0.1 * dense["bytes"]:
        yield f"{line['bytes']:,} bytes are more than a tenth"
    if line["latency_ms"] > dense["latency_ms"]:
        yield "it is slower"
    for name in ("required", "footwear", "closed heel"):
        if line["fresh"][name] < dense["fresh"][name] - 0.01:
            yield f"{name}: {line['fresh'][name]:.1%} of {dense['fresh'][name]:.1%}"


def others(
    model: keras.Model, plan: tfprune.ShrinkPlan, data: tuple[np.ndarray, np.ndarray]
) -> dict[str, tfprune.ShrinkPlan]:
    """Plan to keep as many units of each layer, chosen by other criteria."""
    x, y = data
    needed = np.where(np.isin(y, REQUIRED), y, 0)  # what a criterion may know of the requirements, too
    ways = {
        "magnitude": ("magnitude", None),
        "F-statistic": (criteria.FStatistic("output"), (x, y)),
        "F-statistic, required": (criteria.FStatistic("output"), (x, needed)),
        "random": (criteria.Random(1), None),
    }
    return {
        name: tfprune.plan_shrink(model, 0.5, criterion=criterion, allocation=plan.allocation(), data=seen)
        for name, (criterion, seen) in ways.items()
    }


def build(seed: int, units: int) -> keras.Model:
    """Return a small network in the shape of VGG: most weights are in two dense layers."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [keras.Input((28, 28, 1), name="image")]
    for number, channels in enumerate((32, 64, 64), 1):
        stack.append(layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv_{number}"))
        stack.append(layers.MaxPooling2D())
    stack += [layers.Flatten()]
    stack += [layers.Dense(units, activation="relu", name=f"dense_{number}") for number in (1, 2)]
    return keras.Sequential([*stack, layers.Dense(10, name="class")])


def train(model: keras.Model, data: Data, *, epochs: int) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    model.fit(data[0], data[1], batch_size=BATCH, epochs=epochs, verbose=2)
    return model


def measured(model: keras.Model, data: Data, path: Path) -> Line:
    """Export a model, and measure the exported file."""
    report = to_tflite(model, path, check_on=data[2][:200])
    plan = tfprune.plan_shrink(model, 0.0)
    return {
        "accuracy": accuracies(Runner(path).predict(data[2]), data[3]),
        "bytes": report.bytes,
        "flops": plan.flops,
        "parameters": plan.parameters,
        "latency_ms": benchmark(path, runs=300).median_ms,
    }
