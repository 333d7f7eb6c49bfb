"""Few-shot learning of characters: prune, meta-train, prune to 22 % of the parameters, fine-tune, export.

    python sample_apps/few_shot_glyphs.py --seeds 3                           # ProtoNet: a quarter of an hour
    python sample_apps/few_shot_glyphs.py --learner MAML --seeds 3 --resume   # the same network under MAML
    python sample_apps/few_shot_glyphs.py --smoke                             # a minute, on made-up shapes

It draws characters in the fonts of a folder. The scripts and the fonts of the test are not in the training data.
Channels are chosen by DACIS, by magnitude and at random. few_shot_device.py is the program for a Raspberry Pi.
docs/papers/few_shot.md reports the results.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

import numpy as np

from sample_apps.few_shot import glyphs, report, runs
from sample_apps.few_shot.judging import QUERIES
from sample_apps.study import results
from sample_apps.study.training import machine

LEARNERS = {learner.name: learner for learner in (runs.PROTOTYPES, runs.MAML)}
EPISODES = {"ProtoNet": (300, 400, 400), "MAML": (40, 40, 24)}
TESTS = {"ProtoNet": 600, "MAML": 50}  # an episode of MAML trains a model


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "few_shot.jsonl"
    known = results.read(path)
    if known and not options.resume:
        raise SystemExit(
            f"Expected no results yet. Received: {len(known)} in {path}. Pass --resume to continue, or another "
            f"--output."
        )
    data = read(options)
    print(f"{len(data[0].characters)} characters to train on, {len(data[1].characters)} of other scripts to test on")
    write_pictures(data[1], options.output / "pictures.npz")
    glyphs.write_sheet(data[1], options.output / "characters.png")
    learner = LEARNERS[options.learner]
    plan = runs.Plan(tuple(options.episodes), options.tests, options.width, options.output)
    for seed in range(options.seeds):
        done = {row["method"] for row in known if (row["learner"], row["seed"]) == (learner.name, seed)}
        methods = learner.methods[: 2 if options.smoke else None]
        left = [method for method in methods if method not in done and method in (options.only or methods)]
        for record in runs.run(learner, plan, data, seed=seed, methods=left) if left else ():
            results.append(path, record | {"machine": machine()})
            shown = ", ".join(f"{shots}-shot {value:.1%}" for shots, value in record["accuracy"].items())
            print(f"{learner.name}, seed {seed}, {record['method']}: {shown}, {record['parameters']:,} parameters")
    records = results.read(path)
    print("\n" + report.text(records))
    print("Written: " + ", ".join(map(str, [path, *report.write(records, options.output)])))


def read(options: argparse.Namespace) -> tuple[glyphs.Glyphs, glyphs.Glyphs]:
    if options.smoke:
        print("--smoke: made-up shapes and a few episodes; the accuracy means nothing")
        options.episodes, options.tests, options.width = (6, 6, 6), 20, 20
        return glyphs.made_up()
    options.episodes = options.episodes or EPISODES[options.learner]
    options.tests = options.tests or TESTS[options.learner]
    return glyphs.read_glyphs(options.fonts, options.output / "glyphs.npz")


def write_pictures(test: glyphs.Glyphs, path: Path) -> None:
    """Write files for the device: five pictures of each of five classes to learn from, and others to classify."""
    chosen = np.random.default_rng(0).choice(len(test.characters), 5, replace=False)
    rows = [np.flatnonzero(test.y == label)[: 5 + QUERIES] for label in chosen]
    learn, recognize = (np.concatenate([part[cut] for part in rows]) for cut in (slice(5), slice(5, None)))
    names = np.array([test.characters[label] for label in chosen])
    labels = {"learn_labels": np.repeat(np.arange(5), 5), "labels": np.repeat(np.arange(5), QUERIES)}
    np.savez_compressed(path, learn=test.x[learn], recognize=test.x[recognize], names=names, **labels)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prune a few-shot model of characters during meta-training.")
    parser.add_argument(
        "--learner", choices=list(LEARNERS), default="ProtoNet", help="how to meta-train (default: %(default)s)"
    )
    parser.add_argument(
        "--fonts", type=Path, default=Path("/usr/share/fonts"), metavar="DIR", help="fonts (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="WAY", help="selection methods to run (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--width", type=int, default=32, help="channels of the dense network (default: %(default)s)")
    parser.add_argument(
        "--episodes",
        type=int,
        nargs=3,
        metavar="N",
        help="episodes before the first pruning, between both, and after the second (default: as on the page)",
    )
    parser.add_argument("--tests", type=int, help="test episodes (default: 600, and 50 for MAML)")
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up shapes")
    parser.add_argument(
        "--output", type=Path, default=Path("few-shot-output"), metavar="DIR", help="folder (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
