"""`tfprune prune`: zeros in a saved Keras model, at once or while it trains, or in a .tflite file."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_file, add_saved_model
from tfprune.export.file.files.codec import METHODS
from tfprune.export.file.files.model_file import is_model_file
from tfprune.patterns import NM

OF_FILES = ("samples", "compress")
OF_MODELS = ("data", "validation", "epochs", "learning_rate", "allocation", "imports")

# Options that stand for arguments of the library with other names.
ARGUMENTS = {"validation_data": "--validation"}


def add_prune(commands: Any) -> None:
    text = (
        "Set the least important weights of a saved Keras model to zero: in one step, which fits the remaining "
        "weights by least squares, or gradually in training, with --epochs. With --samples, prune any .tflite file "
        "without labels and training code."
    )
    examples = """
tfprune prune model.keras sparse.keras --sparsity 0.8 --data x.npy
tfprune prune model.keras sparse.keras --sparsity 0.9 --data x.npy,y.npy --epochs 10 --validation xv.npy,yv.npy
tfprune export sparse.keras model.tflite
tfprune prune model.tflite sparse.tflite --sparsity 0.6 --samples x.npy
"""
    parser = add_command(commands, "prune", run=_prune, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_saved_model(parser, optional=("path", "data"))
    text = (
        "for a .tflite file: a few hundred samples without labels, .npy, or .npz with one array per input; or "
        "random, which costs accuracy"
    )
    add_file(parser, "--samples", metavar="FILE", help=text)
    parser.add_argument("--compress", choices=METHODS, help="for a .tflite file: compression of the new one")
    parser.add_argument("--sparsity", type=float, required=True, help="fraction of zeros, such as 0.9")
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
    parser.add_argument("--criterion", default="magnitude", help="measure of importance (default: magnitude)")
    parser.add_argument(
        "--allocation",
        help="split of the zeros over the layers: uniform, erk, global or lamp (default: lamp; for N:M uniform)",
    )


def _prune(options: argparse.Namespace) -> Any:
    if is_model_file(options.source):
        return _prune_tflite(options)
    _refuse(options, OF_FILES, "a .tflite file")
    for name, value in (("PATH", options.path), ("--data", options.data)):
        if value is None:
            raise ValueError(f"Expected {name} for a Keras model. Received: none. See `tfprune prune --help`.")
    from tfprune.export.keras_side.loading import load_keras

    load_keras()
    from tfprune.export.command_line.saved_models.prune_file import prune_file

    return prune_file(options)


def _prune_tflite(options: argparse.Namespace) -> Any:
    from tfprune.export.keras_side.loading import load_arrays
    from tfprune.export.pruning.prune_tflite import prune_tflite
    from tfprune.export.pruning.samples import RANDOM

    _refuse(options, OF_MODELS, "a Keras model")
    if options.samples is None:
        raise ValueError(
            "Expected --samples FILE for a .tflite file: some hundred inputs, without labels. Received: none. If "
            "there are none at all, --samples random draws numbers, which costs accuracy."
        )
    suffix = ".pruned.tfz" if options.compress else ".pruned.tflite"
    path = options.path or str(Path(options.source).with_suffix(suffix))
    samples = RANDOM if options.samples == RANDOM else load_arrays(options.samples)
    pattern: Any = options.pattern
    group = re.fullmatch(r"(\d+):(\d+)", pattern)
    if group:
        pattern = NM(int(group[1]), int(group[2]))
    return prune_tflite(
        options.source, path, samples, sparsity=options.sparsity, pattern=pattern, compress=options.compress
    )


def _refuse(options: argparse.Namespace, names: tuple[str, ...], of: str) -> None:
    """Refuse options that are for another kind of file."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if given:
        raise ValueError(f"Expected {' and '.join(given)} with {of} only. Received: {options.source!r}.")
