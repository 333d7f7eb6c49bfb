"""Ten watches learn seven exercises together under personal masks, and no recording leaves its watch.

    pip install '.[federated,plot]'
    pip download --no-deps seglearn==1.2.5 --dest wrist-data      # the data: 11 MB, BSD license
    python sample_apps/federated_watch.py --seeds 3 --in-process  # half an hour on two cores; without it, on Ray
    python sample_apps/federated_watch.py --smoke                 # a minute, on made-up motion

Ten people are ten clients of Flower's simulation. Dense FedAvg, a common mask, personal masks, LotteryFL, FedMask,
PruneFL, HeteroFL and training alone are compared, on the second half of each recording. The accuracy
for a new watch is measured as well. docs/papers/federated_pruning.md reports the results.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

from sample_apps.data import wrist
from sample_apps.federated import files, newcomers, report, ways
from sample_apps.study import results
from sample_apps.study.training import machine
from tfprune.report import table


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "federated_watch.jsonl"
    lines = results.read(path)
    if lines and not options.resume:
        sys.exit(f"Expected no results yet. Received: {len(lines)} in {path}. Pass --resume, or another --output.")
    plan, there = plan_of(options), {(line["way"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        missing = [way for way in ways.WAYS if not {(name, seed) for name in ways.names(way)} <= there]
        for line in ways.run(plan, missing, seed=seed):
            results.append(path, line | {"machine": machine()})
            print(f"seed {seed}, {line['way']}: {report.mean(line):.1%}, {line['bytes']:,} bytes", flush=True)
    left_out = options.output / "newcomers.jsonl"
    there = {(line["seed"], line["person"], line["way"]) for line in results.read(left_out)}
    people = range(min(options.newcomers, plan.clients))
    for seed, person, way in itertools.product(range(options.newcomer_seeds), people, newcomers.WAYS):
        if (seed, person + 1, way) not in there:
            for line in newcomers.run(plan, way, seed=seed, person=person):
                results.append(left_out, line | {"machine": machine()})
                print(f"without person {person + 1}, {way}, {line['returned']}: {line['at_once']:.1%}", flush=True)
    lines = results.read(path)
    print("\n" + report.text(lines, results.read(left_out)))
    written = report.write(lines, results.read(left_out), folder=options.output)
    folder = ways.folder_of(plan, "personal masks", seed=0)
    rows = list(files.export(folder, source=plan.source, seed=0, limit=2 if options.smoke else None))
    cells = [[row["person"], row["file"], f"{row['bytes']:,}", f"{row['accuracy']:.1%}"] for row in rows]
    print(table(["person", "file", "bytes", "accuracy"], cells, left=2))
    print(f"\nWritten: {', '.join(map(str, [path, *written]))}, and the files in {folder}")


def plan_of(options: argparse.Namespace) -> ways.Plan:
    source, clients = str(options.data.absolute()), 10
    if options.smoke:
        print("--smoke: two clients, two rounds, made-up motion; the accuracy means nothing")
        source, clients, options.rounds, options.epochs, options.first_epochs = "", 2, 2, 1, 1
        options.newcomers = 1
    else:
        wrist.read(options.data)  # raises an error about missing data before the start
    folder, with_ray = options.output.absolute(), not options.in_process
    epochs = options.rounds, options.epochs, options.first_epochs
    return ways.Plan(source, folder, clients, *epochs, options.sparsity, with_ray)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a model for each of ten people by federated averaging under personal masks.",
        epilog="The data: pip download --no-deps seglearn==1.2.5 --dest wrist-data",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up motion")
    parser.add_argument("--data", type=Path, default=Path("wrist-data"), metavar="DIR", help="folder of the wheel")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--newcomer-seeds", type=int, default=1, help="how often to leave out each person (default: %(default)s)"
    )
    parser.add_argument(
        "--newcomers", type=int, default=10, help="number of people to leave out (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument(
        "--in-process", action="store_true", help="run the clients in this process, faster: the same numbers"
    )
    parser.add_argument("--rounds", type=int, default=25, help="rounds of each training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a client in a round (default: %(default)s)")
    parser.add_argument(
        "--first-epochs", type=int, default=10, help="epochs before a client chooses its mask (default: %(default)s)"
    )
    parser.add_argument("--sparsity", type=float, default=0.8, help="zeros of the masks (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("federated-output"), metavar="DIR", help="folder (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
