"""`tfprune shrink`: a saved Keras model with fewer channels."""

from __future__ import annotations

import argparse
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_saved_model

# Options that stand for arguments of the library with other names.
ARGUMENTS = {name: f"--budget {name}" for name in ("flops", "parameters", "bytes", "latency")}


def add_shrink(commands: Any) -> None:
    text = (
        "Remove the least important channels of a saved Keras model, which makes it smaller and faster, and fit "
        "the remaining weights by least squares. With labels, do so in rounds and train after each."
    )
    examples = """
tfprune shrink model.keras small.keras --budget flops=0.5 --data x.npy
tfprune shrink model.keras small.keras --budget bytes=100000 --data x.npy,y.npy --rounds 3 --epochs 2
tfprune shrink model.keras small.keras --budget latency=0.5 --data x.npy,y.npy --validation xv.npy,yv.npy
"""
    parser = add_command(commands, "shrink", run=_shrink, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_saved_model(parser)
    parser.add_argument(
        "--budget",
        metavar="WHAT=LIMIT",
        required=True,
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


def _shrink(options: argparse.Namespace) -> Any:
    from tfprune.export.keras_side.loading import load_keras

    load_keras()
    from tfprune.export.command_line.saved_models.shrink_file import shrink_file

    return shrink_file(options)
