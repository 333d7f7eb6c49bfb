"""Command line of the study: `run` trains, `report` draws tables and figures from the results."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sample_apps.study import grid, results

OUTPUT = Path("study-output")


def main() -> None:
    options = parse()
    try:
        options.action(options)
    except ModuleNotFoundError as error:
        raise SystemExit(f"Expected the package {error.name}. To install it: pip install {error.name}.") from error
    except (FileNotFoundError, ValueError) as error:  # data that are missing here, or on a worker
        raise SystemExit(str(error)) from error


def run(options: argparse.Namespace) -> None:
    if options.address and options.backend == "processes":
        raise SystemExit(
            f"Expected --backend dask or ray with --address. Received: --address {options.address} and processes "
            f"here."
        )
    todo = grid.expand(options.study, grid.read_config(options.study), seeds=options.seeds, smoke=options.smoke)
    if options.replicas > 1:
        todo = [{**settings, "replicas": options.replicas} for settings in todo]
    path = options.output / f"{options.study}.jsonl"
    known = results.read(path)
    if known and not options.resume:
        raise SystemExit(
            f"Expected no results yet. Received: {len(known)} in {path}. Pass --resume to continue from them, or "
            f"another --output."
        )
    left = [settings for settings in todo if results.of(known, settings) is None]
    done = len(todo) - len(left)
    print(f"{options.study}: {len(left)} trainings to do, {done} done before, {options.jobs} at a time")
    if options.smoke:
        print("--smoke: for seconds, on made-up data; the figures mean nothing")
    if left:
        train(left, path, options)
    print(f"Results: {path}")


def train(left: list[grid.Settings], path: Path, options: argparse.Namespace) -> None:
    from sample_apps.study import runner  # loads TensorFlow

    ended = runner.run(left, path, jobs=options.jobs, backend=options.backend, address=options.address)
    for count, result in enumerate(ended, start=1):
        print(
            f"{count}/{len(left)}  {result['series']}, {result['size']}, {result['sparsity']:.1%} sparse, "
            f"seed {result['seed']}: "
            f"{result['quality']:.2f}  ({result['nnz']:,} non-zeros, {result['seconds']:.0f} s)",
            flush=True,
        )


def report(options: argparse.Namespace) -> None:
    from sample_apps.study.report import write

    for study in options.studies or grid.STUDIES:
        path = options.output / f"{study}.jsonl"
        if path.exists():
            print("Written: " + ", ".join(str(file) for file in write(study, path, smoke=options.smoke)))
        elif options.studies:
            raise SystemExit(
                f"Expected results in {path}. Received: no such file. Run: python -m sample_apps.study "
                f"run {study} --output {options.output}"
            )
    if not any((options.output / f"{study}.jsonl").exists() for study in grid.STUDIES):
        raise SystemExit(
            f"Expected results in --output {options.output}. Received: none. Run: python -m sample_apps.study run "
            f"digits --output {options.output}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sample_apps.study", description=__doc__)
    actions = parser.add_subparsers(required=True)
    command = actions.add_parser("run", help="train, and append a line of results after each training")
    command.add_argument("study", choices=grid.STUDIES)
    command.add_argument("--seeds", type=positive, default=1, help="number of seeds (default: %(default)s)")
    command.add_argument("--resume", action="store_true", help="continue from the existing results")
    command.add_argument(
        "--jobs",
        type=positive,
        default=os.cpu_count(),
        help="trainings at a time; on a cluster, its number of workers (default: the cores here)",
    )
    command.add_argument(
        "--backend",
        choices=("processes", "dask", "ray"),
        default="processes",
        help="where they run (default: %(default)s here)",
    )
    command.add_argument("--address", help="address of a Dask scheduler or Ray cluster; the default starts one here")
    command.add_argument(
        "--replicas", type=positive, default=1, help="devices that share each training (default: %(default)s)"
    )
    command.set_defaults(action=run)
    command = actions.add_parser("report", help="draw tables and figures from the results")
    command.add_argument("studies", nargs="*", metavar="study", help=f"{', '.join(grid.STUDIES)}; default: all")
    command.set_defaults(action=report)
    for command in actions.choices.values():
        command.add_argument("--output", type=Path, default=OUTPUT, help="folder of results (default: %(default)s)")
        command.add_argument(
            "--smoke", action="store_true", help="run for seconds on made-up data, to see that it works"
        )
    return parser.parse_args()


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, received {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
