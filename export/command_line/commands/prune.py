"""`tfprune prune`: zeros in a saved Keras model, at once or while it trains, or in a .tflite file."""

from __future__ import annotations

import argparse
import functools
import re
from pathlib import Path
from typing import Any

from tfprune.base.limit import Limit
from tfprune.export.command_line.commands.base import (
    add_command,
    add_saved_model,
    refuse_options,
)
from tfprune.export.command_line.commands.file_samples import add_file_samples, file_samples
from tfprune.export.file.files.codec import METHODS
from tfprune.export.file.files.model_file import is_model_file
from tfprune.patterns import NM

OF_FILES = ("samples", "range", "compress", "max_bytes", "max_error", "max_drop", "metric")
OF_MODELS = (
    *("data", "epochs", "learning_rate", "allocation", "criterion", "imports"),
    *("batch_size", "seed"),
)

# Options that stand for arguments of the library with other names.
ARGUMENTS = {"validation_data": "--validation"}


def add_prune(commands: Any) -> None:
    text = (
        "Set the least important weights of a saved Keras model or a .tflite file to zero. A model is pruned in one "
        "step, which updates the remaining weights, or gradually in training, with --epochs. A .tflite file needs "
        "--samples, but no labels and no training code."
    )
    examples = """
tfprune prune model.keras sparse.keras --sparsity 0.8 --data x.npy
tfprune prune model.keras sparse.keras --sparsity 0.9 --data x.npy,y.npy --epochs 10 --validation xv.npy,yv.npy
tfprune export sparse.keras model.tflite
tfprune prune model.tflite sparse.tflite --sparsity 0.6 --samples x.npy
tfprune prune model.tflite sparse.tflite --sparsity 0.6 --samples photos --range -1 1
tfprune prune model.tflite sparse.tflite --max-drop 0.01 --samples x.npy --validation xv.npy,yv.npy
"""
    parser = add_command(commands, "prune", run=_prune, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS, command=functools.partial(_prune, parser))
    add_saved_model(parser, optional=("path", "data"))
    add_file_samples(parser)
    parser.add_argument("--compress", choices=METHODS, help="for a .tflite file: compression of the new one")
    _add_goal(parser)
    parser.add_argument(
        "--epochs",
        type=int,
        default=0,
        metavar="N",
        help="epochs of training, in which the sparsity grows (default: 0)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="learning rate of the training (default: that of the model)",
    )
    parser.add_argument(
        "--pattern", default="unstructured", help="unstructured, or N:M such as 2:4, for hardware that needs it"
    )
    text = (
        "measure of importance, such as magnitude or wanda, and without --epochs also alps, sparsegpt and ria "
        "(default: magnitude with --epochs, else alps)"
    )
    parser.add_argument("--criterion", help=text)
    text = (
        "split of the zeros over the layers: uniform, erk, global or lamp, for alps, sparsegpt and ria also owl or "
        "alpha_pruning, and for the first two error or outputs (default: lamp, for alps and sparsegpt error, for "
        "ria and N:M uniform)"
    )
    parser.add_argument("--allocation", help=text)


def _add_goal(parser: argparse.ArgumentParser) -> None:
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--sparsity", type=float, metavar="FRACTION", help="fraction of zeros, such as 0.9")
    text = "for a .tflite file: largest size of the new one, with as few zeros as possible"
    goal.add_argument("--max-bytes", type=int, metavar="BYTES", help=text)
    text = "for a .tflite file: largest error of an output, as a fraction of its standard deviation, such as 0.1"
    goal.add_argument("--max-error", type=float, metavar="ERROR", help=text)
    text = "for a .tflite file: largest drop of the metric on the data of --validation, such as 0.01"
    goal.add_argument("--max-drop", type=float, metavar="DROP", help=text)
    parser.add_argument("--metric", help="metric of --max-drop, such as mae (default: accuracy)")


def _prune(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Any:
    if is_model_file(options.source):
        refuse_options(parser, options, names=OF_MODELS, of="a Keras model")
        return _prune_tflite(options)
    refuse_options(parser, options, names=OF_FILES, of="a .tflite file")
    for name, value in (("PATH", options.path), ("--data", options.data)):
        if value is None:
            raise ValueError(f"Expected {name} for a Keras model. Received: none. See `tfprune prune --help`.")
    from tfprune.export.keras_side.loading import load_keras

    load_keras()
    from tfprune.export.command_line.saved_models.prune_file import prune_file

    return prune_file(options)


def _prune_tflite(options: argparse.Namespace) -> Any:
    from tfprune.export.pruning.prune_tflite import prune_tflite

    suffix = ".pruned.tfz" if options.compress else ".pruned.tflite"
    path = options.path or str(Path(options.source).with_suffix(suffix))
    pattern: Any = options.pattern
    group = re.fullmatch(r"(\d+):(\d+)", pattern)
    if group:
        pattern = NM(int(group[1]), int(group[2]))
    return prune_tflite(
        options.source,
        path,
        file_samples(options),
        sparsity=options.sparsity,
        max_bytes=options.max_bytes,
        max_error=options.max_error,
        max_drop=_limit(options),
        pattern=pattern,
        compress=options.compress,
    )


def _limit(options: argparse.Namespace) -> Limit | None:
    if options.max_drop is None:
        for name in ("validation", "metric"):
            if getattr(options, name) is not None:
                raise ValueError(f"Expected --max-drop with --{name} for a .tflite file. Received: no --max-drop.")
        return None
    samples, _, labels = (options.validation or "").partition(",")
    if not labels:
        raise ValueError(
            f"Expected --validation X,Y with --max-drop: samples and labels. Received: {options.validation!r}."
        )
    from tfprune.export.keras_side.loading import load_arrays

    return Limit(options.max_drop, options.metric, data=(load_arrays(samples), load_arrays(labels)))
