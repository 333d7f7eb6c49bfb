"""`tfprune bench`: how fast a file is here."""

from __future__ import annotations

import argparse
from typing import Any

from tfprune.export.commands.base import add_command, add_file, add_model_file
from tfprune.export.loading import load_arrays


def add_to(commands: Any) -> None:
    text = "Measure latency and peak memory of a .tflite file on this machine, in a process of its own."
    examples = "tfprune bench model.tflite --runs 200 --threads 4"
    parser = add_command(commands, "bench", run=_bench, text=text, extra="device", examples=examples)
    add_model_file(parser)
    add_file(parser, "--inputs", metavar="FILE", help="samples of one run: .npy, or .npz with one array per input")
    parser.add_argument("--runs", type=int, default=50, help="timed runs (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=5, help="runs before them (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="samples drawn for a run (default: %(default)s)")


def _bench(options: argparse.Namespace) -> Any:
    from tfprune.export.running.benchmark import benchmark

    counts = {name: getattr(options, name) for name in ("runs", "warmup", "threads", "batch")}
    return benchmark(options.model, inputs=load_arrays(options.inputs) if options.inputs else None, **counts)
