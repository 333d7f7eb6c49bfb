"""`tfprune shrink`: a saved Keras model or a .tflite file with fewer channels."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from tfprune.export.command_line.commands.base import (
    add_command,
    add_saved_model,
    refuse_options,
)
from tfprune.export.command_line.commands.file_samples import add_file_samples, file_samples
from tfprune.export.file.files.codec import METHODS
from tfprune.export.file.files.model_file import is_model_file

OF_FILES = ("samples", "range", "compress", "max_error")
OF_MODELS = (
    *("data", "validation", "rounds", "epochs", "criterion", "imports"),
    *("batch_size", "seed"),
)

# Options that stand for arguments of the library with other names.
ARGUMENTS = {name: f"--budget {name}" for name in ("flops", "parameters", "bytes", "latency")}


def add_shrink(commands: Any) -> None:
    text = (
        "Remove the least important channels of a saved Keras model or a .tflite file, which makes it smaller and "
        "faster. The remaining weights are fitted by least squares; with labels, a model is shrunk in rounds and "
        "trained after each. A .tflite file needs --samples, but no labels and no training code."
    )
    examples = """
tfprune shrink model.keras small.keras --budget flops=0.5 --data x.npy
tfprune shrink model.keras small.keras --budget bytes=100000 --data x.npy,y.npy --rounds 3 --epochs 2
tfprune shrink model.keras small.keras --budget latency=0.5 --data x.npy,y.npy --validation xv.npy,yv.npy
tfprune shrink model.tflite small.tflite --budget flops=0.5 --samples x.npy
tfprune shrink model.tflite small.tflite --max-error 0.1 --samples photos --range -1 1
"""
    parser = add_command(commands, "shrink", run=_shrink, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS, command=functools.partial(_shrink, parser))
    add_saved_model(parser, optional=("path", "data"))
    add_file_samples(parser)
    parser.add_argument("--compress", choices=METHODS, help="for a .tflite file: compression of the new one")
    goal = parser.add_mutually_exclusive_group(required=True)
    text = "for a .tflite file: largest error of an output, as a fraction of its standard deviation, such as 0.1"
    goal.add_argument("--max-error", type=float, metavar="ERROR", help=text)
    goal.add_argument(
        "--budget",
        metavar="WHAT=LIMIT",
        action="append",
        help="limit for flops, parameters, bytes or latency (in microseconds, as a float32 .tflite file on this "
        "machine): flops=0.5 for half of the present value, bytes=100000 for an amount; may be repeated",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="number of rounds (default: 3)")
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs of training in each round (default: 1)")
    parser.add_argument(
        "--round-to", type=int, default=1, metavar="N", help="keep a multiple of this number of channels (default: 1)"
    )
    parser.add_argument("--criterion", default="magnitude", help="measure of importance (default: magnitude)")


def _shrink(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Any:
    if is_model_file(options.source):
        refuse_options(parser, options, names=OF_MODELS, of="a Keras model")
        return _shrink_tflite(options)
    refuse_options(parser, options, names=OF_FILES, of="a .tflite file")
    for name, value in (("PATH", options.path), ("--data", options.data)):
        if value is None:
            raise ValueError(f"Expected {name} for a Keras model. Received: none. See `tfprune shrink --help`.")
    from tfprune.export.keras_side.loading import load_keras

    load_keras()
    from tfprune.export.command_line.saved_models.shrink_file import shrink_file

    return shrink_file(options)


def _shrink_tflite(options: argparse.Namespace) -> Any:
    from tfprune.export.pruning.shrinking.shrink_tflite import shrink_tflite

    suffix = ".small.tfz" if options.compress else ".small.tflite"
    path = options.path or str(Path(options.source).with_suffix(suffix))
    return shrink_tflite(
        options.source,
        path,
        file_samples(options),
        **_limits(options),
        round_to=options.round_to,
        compress=options.compress,
    )


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    """Return the limit of a .tflite file, which can have one."""
    if options.budget is None:
        return {"max_error": options.max_error}
    name, _, value = options.budget[0].partition("=")
    try:
        if len(options.budget) == 1 and name == "flops":
            return {"flops": float(value) if "." in value else int(value)}
        if len(options.budget) == 1 and name == "bytes":
            return {"max_bytes": int(value)}
    except ValueError:
        pass
    raise ValueError(
        "Expected --budget flops=LIMIT for a .tflite file, where LIMIT is a fraction such as 0.5 or an amount, or "
        f"--budget bytes=AMOUNT. Received: {' '.join(map(repr, options.budget))}."
    )
