"""`tfprune verify`: run a file, here or on a device, and compare it with a Keras model."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from tfprune.export.command_line.commands.base import (
    add_command,
    add_device,
    add_file,
    add_imports,
    add_model_file,
    device_of,
)
from tfprune.export.keras_side.loading import load_arrays, load_model

# Options that stand for arguments of the library with other names.
ARGUMENTS = {"expected": "--against", "samples": "--inputs"}


def add_verify(commands: Any) -> None:
    text = (
        "Load and run a .tflite file in a process of its own, on this machine or with --on on a board or a phone; "
        "with --against, compare it with the Keras model; with --labels, count how often it is right."
    )
    examples = """
tfprune verify model.tflite
tfprune verify model.tflite --against model.keras --inputs samples.npy
tfprune verify model.tflite --inputs samples.npy --labels labels.npy
tfprune verify model.tflite --inputs samples.npy --labels labels.npy --on pi@raspberrypi
"""
    parser = add_command(commands, "verify", run=_verify, text=text, extra="device", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_model_file(parser)
    add_file(parser, "--against", metavar="KERAS_MODEL", help="a saved Keras model that gives the right outputs")
    add_file(parser, "--inputs", metavar="FILE", help="samples to run: .npy, or .npz with one array per input")
    add_file(parser, "--labels", metavar="FILE", help="the number of the class of each sample: .npy")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference, as a fraction of the largest right output (default: %(default)g; int8: 0.1 or so)",
    )
    add_imports(parser)
    add_device(parser)


def _verify(options: argparse.Namespace) -> Any:
    from tfprune.export.device.running.verify import verify

    inputs = load_arrays(options.inputs) if options.inputs else None
    expected = None
    if options.against:
        expected = _predict(load_model(options.against, imports=options.imports), inputs)
    labels = load_arrays(options.labels) if options.labels else None
    # A bar of progress is no part of the report.
    with contextlib.redirect_stdout(sys.stderr), device_of(options) as device:
        return verify(options.model, inputs, expected, labels=labels, tolerance=options.tolerance, on=device)


def _predict(model: Any, inputs: Any) -> Any:
    if inputs is None:
        raise ValueError("Expected samples to compare on. Received: --against without --inputs FILE.")
    import tfprune
    from tfprune.export.keras_side.preparing.signature import signature

    plain = tfprune.strip(model)
    signature(plain).arrays(inputs, "--inputs")  # Keras' own message would not name them
    return plain.predict(inputs, verbose=0)
