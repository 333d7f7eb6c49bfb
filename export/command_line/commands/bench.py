"""`tfprune bench`: how fast a file is here, on a device or in a browser; of a language model, tokens per second."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from typing import Any

from tfprune.export.command_line.commands.base import (
    add_command,
    add_device,
    add_file,
    add_model_file,
    device_of,
    refuse_options,
)
from tfprune.export.keras_side.loading import load_arrays

OF_MODELS = (
    *("model", "samples", "runs", "warmup", "threads", "batch_size", "processes", "cool_down"),
    *("on", "python", "ssh"),
)


def add_bench(commands: Any) -> None:
    text = (
        "Measure the latency and peak memory of a .tflite file in a separate process, here or with --on on a board "
        "or a phone. For a language model's file of tfprune.export.to_generator, a run is one token of text, and the "
        "report has the tokens per second of prompts, too. --web prints what a page of `tfprune web` measured."
    )
    examples = """
tfprune bench model.tflite --runs 200 --threads 4
tfprune bench writer.tflite --runs 100
tfprune bench model.tflite --on pi@raspberrypi --python env/bin/python
tfprune bench --web result.json
"""
    parser = add_command(commands, "bench", run=_bench, text=text, extra="device", examples=examples)
    parser.set_defaults(command=partial(_bench, parser))
    add_model_file(parser, nargs="?")
    text = "JSON file with the results of a page of `tfprune web`, instead of a model"
    add_file(parser, "--web", metavar="RESULT", help=text)
    add_file(
        parser,
        "--samples",
        metavar="FILE",
        help="samples of each run: .npy, or .npz with one array per input (default: random numbers)",
    )
    parser.add_argument(
        "--runs", type=int, default=50, metavar="N", help="number of timed runs (default: %(default)s)"
    )
    text = "number of runs before timing starts (default: %(default)s)"
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help=text)
    text = "threads of the interpreter (default: %(default)s)"
    parser.add_argument("--threads", type=int, default=1, metavar="N", help=text)
    text = "random samples in each run (default: %(default)s)"
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help=text)
    text = "number of processes that repeat this (default: 1 here, 3 with --on)"
    parser.add_argument("--processes", type=int, metavar="N", help=text)
    text = "pause between two processes (default: %(default)s)"
    parser.add_argument("--cool-down", type=float, default=1.0, metavar="SECONDS", help=text)
    add_device(parser)


def _bench(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Any:
    if options.web is not None:
        refuse_options(parser, options, names=OF_MODELS, of="a MODEL", source="web")
        from tfprune.export.device.web.web_result import read_web_result

        return read_web_result(options.web)
    if options.model is None:
        raise ValueError("Expected a MODEL, or --web RESULT. Received: neither. See `tfprune bench --help`.")
    from tfprune.export.device.running.benchmark import benchmark

    inputs = load_arrays(options.samples) if options.samples else None
    # A bar of progress is no part of the report.
    with contextlib.redirect_stdout(sys.stderr), device_of(options) as device:
        return benchmark(
            options.model,
            samples=inputs,
            runs=options.runs,
            warmup=options.warmup,
            threads=options.threads,
            batch_size=options.batch_size,
            processes=options.processes,
            cool_down=options.cool_down,
            on=device,
        )
