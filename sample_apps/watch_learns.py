"""Let a watch learn its wearer: train and prune on some people, and train further on the watch of a new one.

    pip download --no-deps seglearn==1.2.5 --dest wrist-data      # the data: 11 MB, BSD license
    python sample_apps/watch_learns.py --seeds 3                  # minutes; --smoke: seconds, on made-up motion
    python sample_apps/watch_learns_device.py learns-output/all-0.tfz learns-output/person-8.npz

A Conv1D with 90 % zeros is trained on people 1 to 7 with Keras, and exported with `to_trainer`. On the watch of each
other person, a process with NumPy and LiteRT alone trains it on the first half of each recording and tests it on the
second half. The accuracy on the data of all others shows what is forgotten. The last state of person 8 is exported as
a file of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the data module when run as a file

import keras
import numpy as np

from sample_apps import wrist_exercises
from sample_apps.data import wrist
from sample_apps.data.lines import Line, gathered
from sample_apps.federated.people import split
from tfprune.export import Runner, Trainer, load_trained, to_tflite, to_trainer

PARTS: dict[str, tuple[str, str | list[str]]] = {  # name of a file: in words, and `trains`
    "all": ("all entries under the masks", "all"),
    "half": ("two convolutions and the last layer", ["conv_2", "conv_3", "exercise"]),
    "third": ("the last convolution and the last layer", ["conv_3", "exercise"]),
    "last": ("the last layer", "last"),
    "biases": ("biases", "biases"),
}
GROUPS = {"own": "wearer", "known": "people trained on", "new": "other new people"}
SPARSITY = 0.9


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    watch = wrist.synthetic() if options.smoke else wrist.read(options.data)
    if options.smoke:
        print("--smoke: two epochs on made-up motion instead of recordings; the accuracy means nothing")
    for person in options.new:
        write_recordings(watch, person, options)
    runs = {seed: partial(one_seed, seed, watch, options) for seed in range(options.seeds)}
    path = options.output / "watch_learns.jsonl"
    lines = gathered(path, runs, resume=options.resume, key=lambda line: line["seed"])
    text = table(lines)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nFiles: {options.output}")


def one_seed(seed: int, watch: wrist.Watch, options: argparse.Namespace) -> Iterator[Line]:
    """Train a network with Keras, export a file for each part, and let each new person's watch train it."""
    known = wrist_exercises.windows(watch, options.known)
    epochs = 2 if options.smoke else options.epochs
    model = wrist_exercises.train(
        wrist_exercises.conv, known, classes=len(watch.names), epochs=epochs, sparsity=SPARSITY, seed=seed
    )
    for part in ("all", "last") if options.smoke else PARTS:
        path = options.output / f"{part}-{seed}.tfz"
        report = to_trainer(
            model,
            path,
            trains=PARTS[part][1],
            loss="sparse_categorical_crossentropy",
            optimizer="adam",
            check_on=known,
            compress="packed",
        )
        print(f"{report}\n", flush=True)
        sizes = {"trained": report.trained, "entries": report.entries, "bytes": report.bytes}
        for person, rate in itertools.product(options.new, options.rates):
            line = learned(path, person, rate=rate, seed=seed, options=options)
            before, after = line["before"]["own"], line["after"]["own"]
            print(f"seed {seed}, person {person}, {part}, {rate:g}: {before:.1%} -> {after:.1%}", flush=True)
            yield {"seed": seed, "person": person, "part": part, "rate": rate, **sizes, **line}

    bring_back(model, options.output / f"all-{seed}.tfz", options.new[0], options=options)


def bring_back(model: keras.Model, file: Path, person: int, *, options: argparse.Namespace) -> None:
    """Set what a watch learned in the Keras model, export it for this person, and run that file."""
    trainer = Trainer(file)
    trainer.load(state_of(file, person))
    load_trained(model, trainer)
    with np.load(options.output / f"person-{person}.npz") as arrays:
        x, y = arrays["own_x"], arrays["own_y"]
    path = file.with_name(f"{file.stem}-person-{person}.tfz")
    report = to_tflite(model, path, compress="packed", check_on=x[:100])
    accuracy = float(np.mean(Runner(path).predict(x).argmax(axis=1) == y))
    print(f"{path.name} for person {person}: {accuracy:.1%} through Runner, {report.bytes:,} bytes\n", flush=True)


def state_of(file: Path, person: int) -> Path:
    return file.with_name(f"{file.stem}-person-{person}.npz")


def learned(path: Path, person: int, *, rate: float, seed: int, options: argparse.Namespace) -> Line:
    """Train in a process that has neither Keras nor TensorFlow."""
    program, state = Path(__file__).with_name("watch_learns_device.py"), state_of(path, person)
    epochs = 1 if options.smoke else options.device_epochs
    command = [program, path, options.output / f"person-{person}.npz", "--epochs", epochs, "--learning-rate", rate]
    command += ["--seed", seed, "--state", state, "--json"]
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    line = json.loads(result.stdout)
    if loaded := line.pop("loaded"):
        raise SystemExit(f"Expected a process with NumPy and LiteRT alone. Received: one that loaded {loaded}.")
    rounded = {
        when: {name: round(value, 4) for name, value in line.pop(when).items()} for when in ("before", "after")
    }
    return line | rounded | {"state_bytes": state.stat().st_size}


def write_recordings(watch: wrist.Watch, person: int, options: argparse.Namespace) -> None:
    """Write the windows of a new person, and those of others to see what is forgotten: plain numbers, no pickle."""
    own = split(watch, person)
    others = {
        "known": wrist_exercises.windows(watch, options.known),
        "new": wrist_exercises.windows(watch, [each for each in options.new if each != person]),
    }
    arrays = {"x": own.x, "y": own.y, "own_x": own.test_x, "own_y": own.test_y}
    arrays |= {f"{name}_{part}": each for name, pair in others.items() for part, each in zip("xy", pair, strict=True)}
    np.savez(options.output / f"person-{person}.npz", **arrays)


def table(lines: Sequence[Line]) -> str:
    """Return a table in Markdown: means over people, with standard deviations over seeds."""
    head = ["trained", "entries", "learning rate", *GROUPS.values(), "file, bytes", "state, bytes"]
    rows = [head, ["---"] * len(head), ["nothing", "", "", *accuracies(lines, "before"), "", ""]]
    for part, rate in dict.fromkeys((line["part"], line["rate"]) for line in lines):
        runs = [line for line in lines if (line["part"], line["rate"]) == (part, rate)]
        sizes = [f"{np.mean([line[name] for line in runs]):,.0f}" for name in ("trained", "bytes", "state_bytes")]
        rows.append([PARTS[part][0], sizes[0], f"{rate:g}", *accuracies(runs, "after"), *sizes[1:]])
    steps = {line["person"]: line["steps"] for line in lines}
    listed = ", ".join(f"{count} (person {person})" for person, count in steps.items())
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\nOf {lines[0]['entries']:,} entries. Steps of 16 windows: {listed}.\n"


def accuracies(lines: Sequence[Line], when: str) -> Iterator[str]:
    for group in GROUPS:
        seeds = sorted({line["seed"] for line in lines})
        means = [100 * np.mean([line[when][group] for line in lines if line["seed"] == seed]) for seed in seeds]
        yield f"{np.mean(means):.1f} %" + (f" ± {np.std(means, ddof=1):.1f}" if len(means) > 1 else "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a network on some people, and let the watch of each new person train it further.",
        epilog="The data: pip download --no-deps seglearn==1.2.5 --dest wrist-data",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds, on made-up motion")
    parser.add_argument("--data", type=Path, default=Path("wrist-data"), metavar="DIR", help="folder of the wheel")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue with the seeds that the results do not hold")
    people = {"type": int, "nargs": "+", "metavar": "PERSON"}
    parser.add_argument("--known", default=[*range(1, 8)], help="people to train on with Keras (1 to 7)", **people)
    parser.add_argument("--new", default=[8, 9, 10], help="people whose watches learn (8 to 10)", **people)
    parser.add_argument("--epochs", type=int, default=20, help="epochs with Keras (default: %(default)s)")
    parser.add_argument("--device-epochs", type=int, default=12, help="epochs on the watch (default: %(default)s)")
    rates = {"type": float, "nargs": "+", "metavar": "RATE", "default": [0.001, 0.01]}
    parser.add_argument("--rates", help="learning rates on the watch (0.001 and 0.01)", **rates)
    parser.add_argument(
        "--output", type=Path, default=Path("learns-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
