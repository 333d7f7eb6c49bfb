"""What pruning broke: prune a trained network to several sparsities, and compare classes, groups and samples.

python sample_apps/what_pruning_broke.py fashion --seeds 3  # a quarter of an hour on two cores
python sample_apps/what_pruning_broke.py watch --seeds 3    # pip download --no-deps seglearn==1.2.5 --dest wrist-data
python sample_apps/what_pruning_broke.py spoken --seeds 3   # apt-get install tuxpaint-stamps-default
python sample_apps/what_pruning_broke.py fashion --smoke    # a minute, on made-up data
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, it finds the data, too

import keras
import numpy as np

import tfprune
from sample_apps import fashion_cnn, wrist_exercises
from sample_apps.data import fashion_mnist, wrist
from sample_apps.data.cache import CACHE
from sample_apps.data.lines import Line, gathered
from sample_apps.spoken import recordings, runs
from sample_apps.spoken.network import ds_cnn
from tfprune.export import DamageReport, damage

FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
WEIGHTED = (0.95, 0.98)  # trained a second time, with weights for the harmed groups
WEIGHT = 3.0  # of a sample of a class that was harmed
TRAINED, CHOSEN_ON = 20_000, 10_000  # images of Fashion-MNIST
BATCH = 64


@dataclass(frozen=True)
class Task:
    """Samples and classes to train on, to choose weights on, and to test on; and how the network is made."""

    train: tuple[np.ndarray, np.ndarray]
    chosen_on: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    names: list[str]
    build: Callable[[], keras.Model]
    epochs: int
    fine_tuning: int
    groups: dict[str, np.ndarray] = field(default_factory=dict)  # of the test samples
    sparsities: tuple[float, ...] = SPARSITIES


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    task = TASKS[options.data](options)
    sparsities = (0.5, 0.98) if options.smoke else task.sparsities
    wanted = {seed: partial(one_seed, seed, task, sparsities, options) for seed in range(options.seeds)}
    path = options.output / f"what_pruning_broke_{options.data}.jsonl"
    lines = gathered(path, wanted, resume=options.resume, key=lambda line: line["seed"])
    text = table(lines)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nFiles: {options.output}")


def one_seed(seed: int, task: Task, sparsities: tuple[float, ...], options: argparse.Namespace) -> Iterator[Line]:
    """Train a dense network, and go on from it once for each sparsity."""
    keras.utils.set_random_seed(seed)
    dense = task.build()
    fit(dense, task, epochs=1 if options.smoke else task.epochs)
    weights = dense.get_weights()
    outputs = [dense.predict(x, batch_size=256, verbose=0) for x, _ in (task.test, task.chosen_on)]
    for sparsity in sparsities:
        pruned = prune(task, weights, sparsity, seed=seed)
        report = damage(outputs[0], pruned, task.test, groups=task.groups, class_names=task.names)
        report.save_html(options.output / f"{options.data}-{sparsity:g}.html")
        yield line_of(report, seed, sparsity, "plain")
        if sparsity in WEIGHTED:
            found = damage(outputs[1], pruned, task.chosen_on, class_names=task.names)
            harmed = [row.value for row in found.rows if row.harmed]
            sample_weight = np.where(np.isin(np.array(task.names)[task.train[1]], harmed), WEIGHT, 1.0)
            again = prune(task, weights, sparsity, seed=seed, sample_weight=sample_weight)
            report = damage(outputs[0], again, task.test, groups=task.groups, class_names=task.names)
            yield line_of(report, seed, sparsity, "weighted") | {"weighted": harmed}


def line_of(report: DamageReport, seed: int, sparsity: float, way: str) -> Line:
    print(f"seed {seed}, {sparsity:.0%}, {way}\n{report}\n", flush=True)
    return {
        "seed": seed,
        "sparsity": sparsity,
        "way": way,
        "before": report.before.as_dict(),
        "after": report.after.as_dict(),
        "lost": report.lost,
        "gained": report.gained,
        "samples": report.samples,
        "drops": {row.name: row.drop for row in report.rows},
        "harmed": list(report.harmed),
    }


def prune(
    task: Task, weights: list[np.ndarray], sparsity: float, *, seed: int, sample_weight: np.ndarray | None = None
) -> keras.Model:
    """Prune the dense network while it is trained further."""
    keras.utils.set_random_seed(seed)
    dense = task.build()
    dense.set_weights(weights)
    model = tfprune.wrap(dense)
    schedule = tfprune.schedules.Polynomial(sparsity, end=0.7)
    callback = tfprune.PruningCallback(schedule, every=20, allocation="erk")
    fit(model, task, epochs=task.fine_tuning, callbacks=[callback], sample_weight=sample_weight)
    return tfprune.strip(model)


def fit(
    model: keras.Model,
    task: Task,
    *,
    epochs: int,
    callbacks: list[keras.callbacks.Callback] | None = None,
    sample_weight: np.ndarray | None = None,
) -> None:
    x, y = task.train
    rate = keras.optimizers.schedules.CosineDecay(0.002, epochs * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=callbacks, sample_weight=sample_weight, verbose=0)


def table(lines: list[Line]) -> str:
    """Return a table in Markdown: means and standard deviations over the seeds."""
    head = ["sparsity", "training", "accuracy", "drop", "lost", "gained", "worst group: drop", "harmed (in seeds)"]
    rows = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for sparsity, way in sorted({(line["sparsity"], line["way"]) for line in lines}):
        own = [line for line in lines if (line["sparsity"], line["way"]) == (sparsity, way)]
        drops = {name: [line["drops"].get(name, 0.0) for line in own] for name in own[0]["drops"]}
        worst = max(drops, key=lambda name: float(np.mean(drops[name])))
        harmed = Counter(name for line in own for name in line["harmed"]).most_common()
        accuracy = [line["after"]["score"] for line in own]
        lost = [line["before"]["score"] - line["after"]["score"] for line in own]
        cells = [
            f"{sparsity:.0%}",
            way,
            percent(accuracy),
            percent(lost),
            f"{np.mean([line['lost'] for line in own]):,.0f}",
            f"{np.mean([line['gained'] for line in own]):,.0f}",
            f"{worst}: {percent(drops[worst])}",
            ", ".join(f"{name} ({count})" for name, count in harmed) or "none",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    dense = {line["seed"]: line["before"]["score"] for line in lines}
    return "\n".join(rows) + f"\n\nDense: {percent([*dense.values()])} on {lines[0]['samples']:,} test samples.\n"


def percent(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread} %"


def fashion(options: argparse.Namespace) -> Task:
    x, y, *test = fashion_cnn.synthetic() if options.smoke else fashion_mnist.load(TRAINED + CHOSEN_ON)
    cut = min(TRAINED, len(x) // 2)
    parts = [(x[:cut], y[:cut]), (x[cut:], y[cut:]), (test[0], test[1])]
    return Task(*parts, FASHION, fashion_cnn.build, epochs=4, fine_tuning=2)


def watch(options: argparse.Namespace) -> Task:
    """People 8 to 10 are tested; weights are chosen on people 6 and 7."""
    data = wrist.synthetic() if options.smoke else wrist.read(options.folder)
    cuts = {person: wrist_exercises.windows(data, [person]) for person in range(1, 11)}

    def joined(people: range) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([cuts[person][0] for person in people]), np.concatenate([cuts[p][1] for p in people])

    train, tested = joined(range(1, 6)), range(8, 11)
    persons = np.repeat(list(tested), [len(cuts[person][1]) for person in tested])
    names = [str(name) for name in data.names]

    def build() -> keras.Model:
        scale = keras.layers.Normalization(name="scale")
        scale.adapt(train[0])
        layers = [keras.Input(train[0].shape[1:]), scale, *wrist_exercises.conv(len(names))]
        return keras.Sequential(layers)

    groups = {"person": persons}
    return Task(train, joined(range(6, 8)), joined(tested), names, build, epochs=20, fine_tuning=10, groups=groups)


def spoken(options: argparse.Namespace) -> Task:
    """The languages are the classes; every second clip is used, and every fifth of them chooses weights."""
    speech = recordings.synthetic() if options.smoke else recordings.load(options.cache)
    x, y = runs.labeled(speech.train, hop=2 * runs.SECOND)
    fifth = np.arange(len(x)) % 5 == 0
    names = list(recordings.LANGUAGES.values())
    test = runs.labeled(speech.test, hop=runs.SECOND)
    build = partial(ds_cnn, len(names), 16 if options.smoke else 64)
    parts = [(x[~fifth], y[~fifth]), (x[fifth], y[fifth]), test]
    return Task(*parts, names, build, epochs=5, fine_tuning=3, sparsities=(0.8, 0.9))  # a small network


TASKS: dict[str, Callable[[argparse.Namespace], Task]] = {"fashion": fashion, "watch": watch, "spoken": spoken}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prune a network to several sparsities, and say what each broke.")
    parser.add_argument("data", choices=TASKS, help="clothing, motion of a watch, or spoken languages")
    parser.add_argument("--smoke", action="store_true", help="run for a minute on made-up data, to try it")
    parser.add_argument("--seeds", type=int, default=1, help="how often to repeat it all (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with the seeds that the results do not hold")
    parser.add_argument("--folder", type=Path, default=Path("wrist-data"), help="where the data of the watch lie")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="where frames are kept")
    parser.add_argument(
        "--output", type=Path, default=Path("broke-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
