"""`tfprune prune`: zeros in a saved Keras model, at once or while it trains."""

from __future__ import annotations

import argparse
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_saved_model

# Options that stand for arguments of the library with other names.
ARGUMENTS = {"validation_data": "--validation"}


def add_prune(commands: Any) -> None:
    text = (
        "Put zeros in place of the least important weights of a saved Keras model: at once, with the weights that "
        "are left solved for by least squares, or gradually while it trains, with --epochs."
    )
    examples = """
tfprune prune model.keras sparse.keras --sparsity 0.8 --data x.npy
tfprune prune model.keras sparse.keras --sparsity 0.9 --data x.npy,y.npy --epochs 10 --validation xv.npy,yv.npy
tfprune export sparse.keras model.tflite
"""
    parser = add_command(commands, "prune", run=_prune, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_saved_model(parser)
    parser.add_argument("--sparsity", type=float, required=True, help="the fraction of zeros, such as 0.9")
    parser.add_argument(
        "--epochs", type=int, default=0, metavar="N", help="train so long, zeros growing on the way (default: 0)"
    )
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="of training (default: the model's own)")
    parser.add_argument(
        "--pattern", default="unstructured", help="unstructured, or N:M such as 2:4, which some hardware needs"
    )
    parser.add_argument("--criterion", default="magnitude", help="what makes a weight important (default: magnitude)")
    parser.add_argument(
        "--allocation",
        help="how zeros are split over layers: uniform, erk, global or lamp (default: lamp, for N:M uniform)",
    )


def _prune(options: argparse.Namespace) -> Any:
    from tfprune.export.keras_side.loading import load_keras

    load_keras()
    from tfprune.export.command_line.saved_models.prune_file import prune_file

    return prune_file(options)
