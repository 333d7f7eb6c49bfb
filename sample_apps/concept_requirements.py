"""Fashion-MNIST: a product needs footwear only; keep the units that its concepts need, and say why each stays.

python sample_apps/concept_requirements.py --seeds 3      # a quarter of an hour on two cores
python sample_apps/concept_requirements.py --smoke        # a minute, on made-up images
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy

import keras
import numpy as np

import tfprune
from tfprune import criteria
from tfprune.export import Runner, benchmark, to_tflite

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
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
STAGES = ("removed", "reconstructed", "trained")  # of `prune_to`
TITLES = ("right after the removal", "reconstructed", "fine-tuned")
BATCH = 128
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images and labels to train on, then to test on
Line = dict[str, Any]


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    data = synthetic() if options.smoke else fashion_mnist(options.samples)
    if options.smoke:
        print("--smoke: made-up images instead of Fashion-MNIST; the accuracy means nothing")
        options.units, options.mined, options.epochs, options.fine_tuning = 64, 800, 2, 1
        options.precision, options.recall = 0.6, 0.2
    path = options.output / "results.jsonl"
    lines = read(path) if options.resume and path.exists() else []
    with path.open("a" if lines else "w", encoding="utf-8") as results:
        for seed in sorted(set(range(options.seeds)) - {line["seed"] for line in lines}):
            found = list(one_seed(seed, data, options))
            results.writelines(json.dumps(line) + "\n" for line in found)
            results.flush()
            lines += found
    (options.output / "table.md").write_text(text(lines), encoding="utf-8")
    draw(lines, options.output / "accuracy.png")
    print(f"\n{text(lines)}\nFiles: {options.output}")


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def one_seed(seed: int, data: Data, options: argparse.Namespace) -> Iterator[Line]:
    """Train a model, then make it smaller in five ways that leave the same number of units in each layer."""
    x, y, _, _ = data
    model = train(build(seed, options.units), data, epochs=options.epochs)
    yield {"seed": seed, "way": "dense", **measured(model, data, options.output / "dense.tflite")}

    part = slice(options.mined)
    rules = tfprune.concept_rules(model, x[part], concepts(x[part], y[part]), layers=["dense_1", "dense_2"])
    limits = {"min_precision": options.precision, "min_recall": options.recall}
    plan, trace = tfprune.plan_concepts(model, rules, require=REQUIREMENTS, **limits)
    if seed == 0:
        print(f"\n{rules}\n\n{trace}\n\n{plan}\n")
        trace.html(options.output / "trace.html")
    footwear = np.isin(data[3], REQUIRED)
    judged = {"validation_data": (data[2][footwear], data[3][footwear]), "metric": "accuracy", "verbose": 0}
    judged["reconstruction"] = "parallel" if options.smoke else "sequential"
    ways = {"concepts": plan, **others(model, plan, data, options.mined)}
    for way, smaller in list(ways.items())[: 2 if options.smoke else None]:
        assert smaller.parameters_kept == plan.parameters_kept
        fine_tuned, report = tfprune.prune_to(model, smaller, (x, y), epochs=options.fine_tuning, **judged)
        stages = {stage: round(getattr(report.rounds[0], stage), 4) for stage in STAGES}
        found = measured(fine_tuned, data, options.output / f"{way.replace(', ', '-')}.tflite")
        print(f"seed {seed}, {way}: {stages}, {found['bytes']:,} bytes", flush=True)
        yield {"seed": seed, "way": way, "stages": stages, **found}


def others(model: keras.Model, plan: tfprune.ShrinkPlan, data: Data, count: int) -> dict[str, tfprune.ShrinkPlan]:
    """Plan to keep as many units of each layer, chosen by other criteria."""
    x, y = data[0][:count], data[1][:count]
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
    """Export a model, then measure the file and not the model, because the file is what ships."""
    report = to_tflite(model, path, check_on=data[2][:200])
    plan = tfprune.plan_shrink(model, 0.0)
    return {
        "accuracy": accuracies(Runner(path).predict(data[2]), data[3]),
        "bytes": report.bytes,
        "flops": plan.flops,
        "parameters": plan.parameters,
        "latency_ms": benchmark(path, runs=300).median_ms,
    }


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


def text(lines: Sequence[Line]) -> str:
    """Return the tables of the results: the ways side by side, and the attributes before and after."""
    ways = list(dict.fromkeys(line["way"] for line in lines))
    header = ["way", *TITLES, "other classes", "bytes", "FLOPs", "latency, ms"]
    rows = []
    for way in ways:
        own = [line for line in lines if line["way"] == way]
        stages = [[line["stages"][stage] for line in own if "stages" in line] for stage in STAGES[:-1]]
        accuracy = [*stages, *([line["accuracy"][name] for line in own] for name in ("required", "others"))]
        sizes = [f"{np.mean([line[name] for line in own]):,.0f}" for name in ("bytes", "flops")]
        latency = f"{np.mean([line['latency_ms'] for line in own]):.3f}"
        rows.append([way, *map(spread, accuracy), *sizes, latency])
    dense, kept = ([line for line in lines if line["way"] == way] for way in ("dense", "concepts"))
    attributes = [
        [name, *(spread([line["accuracy"][name] for line in own]) for own in (dense, kept))] for name in ATTRIBUTES
    ]
    return f"{markdown(header, rows)}\n\n{markdown(['attribute', 'dense', 'concepts'], attributes)}\n"


def spread(values: Sequence[float]) -> str:
    """Write a mean in percent with its standard deviation."""
    if not values:
        return "-"
    return f"{np.mean(values):.1%}".replace("%", " %") + (
        f" ± {100 * np.std(values, ddof=1):.1f}" if values[1:] else ""
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw the accuracy on required classes, each seed as a dot, right after the removal and after training."""
    import matplotlib

    matplotlib.use("Agg")  # a file only: no window, and no display needed
    from matplotlib import pyplot

    ways = [way for way in dict.fromkeys(line["way"] for line in lines) if way != "dense"]
    dense = np.mean([line["accuracy"]["required"] for line in lines if line["way"] == "dense"])
    figure, panels = pyplot.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
    for panel, stage, title in zip(panels, STAGES, TITLES, strict=True):
        for height, way in enumerate(ways):
            values = [100 * line["stages"][stage] for line in lines if line["way"] == way]
            color = "#1f6f8b" if way == "concepts" else "#8a94a0"
            panel.plot(values, [height] * len(values), "o", color=color, alpha=0.7)
        panel.axvline(100 * dense, color="black", linewidth=1, linestyle=":")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("accuracy on footwear, %")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(ways)), ways)
    panels[0].invert_yaxis()
    panels[0].text(100 * dense, len(ways) - 1, "dense ", ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def fashion_mnist(count: int) -> Data:
    """Read the files of the Debian package if it is installed; otherwise let Keras download them."""
    if DEBIAN.is_dir():
        x, y = idx("train-images-idx3"), idx("train-labels-idx1")
        test_x, test_y = idx("t10k-images-idx3"), idx("t10k-labels-idx1")
    else:
        print(f"Downloading Fashion-MNIST. Without a network: apt-get install dataset-fashion-mnist, for {DEBIAN}")
        (x, y), (test_x, test_y) = keras.datasets.fashion_mnist.load_data()
    return pixels(x[:count]), y[:count], pixels(test_x), test_y


def idx(name: str) -> np.ndarray:
    """Read a file in MNIST's format: the fourth byte counts the dimensions, whose sizes follow, then come bytes."""
    content = gzip.decompress((DEBIAN / f"{name}-ubyte.gz").read_bytes())
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def pixels(images: np.ndarray) -> np.ndarray:
    return (images[..., np.newaxis] / 255).astype("float32")


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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Keep of a network what a product for footwear needs, chosen by concept rules, and compare it "
        "with other choices of as many units."
    )
    parser.add_argument(
        "--smoke", action="store_true", help="run for seconds on made-up images, to see that it works"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how often to repeat it all (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with the seeds that the results do not hold")
    parser.add_argument("--samples", type=int, default=20_000, help="images to train on (default: %(default)s)")
    parser.add_argument("--mined", type=int, default=6000, help="images to mine rules from (default: %(default)s)")
    parser.add_argument("--units", type=int, default=1024, help="units of a dense layer (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the first training (default: %(default)s)")
    parser.add_argument("--fine-tuning", type=int, default=2, help="epochs after the removal (default: %(default)s)")
    parser.add_argument("--precision", type=float, default=0.95, help="of rules, at least (default: %(default)s)")
    parser.add_argument("--recall", type=float, default=0.8, help="of rules together (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("concept-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
