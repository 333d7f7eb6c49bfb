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
ARGUMENTS = {"expected": "--against"}


def add_verify(commands: Any) -> None:
    text = (
        "Run a .tflite file in a separate process, here or with --on on a board or a phone. --against compares it "
        "with the Keras model, and --labels reports its accuracy."
    )
    examples = """
tfprune verify model.tflite
tfprune verify model.tflite --against model.keras --samples samples.npy
tfprune verify model.tflite --samples samples.npy --labels labels.npy
tfprune verify model.tflite --samples samples.npy --labels labels.npy --on pi@raspberrypi
"""
    parser = add_command(commands, "verify", run=_verify, text=text, extra="device", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_model_file(parser)
    add_file(
        parser, "--against", metavar="KERAS_MODEL", help="a saved Keras model whose outputs are the expected ones"
    )
    add_file(
        parser,
        "--samples",
        metavar="FILE",
        help="samples to run: .npy, or .npz with one array per input (default: random numbers)",
    )
    add_file(parser, "--labels", metavar="FILE", help="class number of each sample: .npy")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference, a fraction of the largest expected output (default: by the file's number format)",
    )
    add_imports(parser)
    add_device(parser)


def _verify(options: argparse.Namespace) -> Any:
    from tfprune.export.device.running.verify import verify

    inputs = load_arrays(options.samples) if options.samples else None
    expected = None
    if options.against:
        expected = _predict(load_model(options.against, imports=options.imports), inputs)
    labels = load_arrays(options.labels) if options.labels else None
    # A bar of progress is no part of the report.
    with contextlib.redirect_stdout(sys.stderr), device_of(options) as device:
        return verify(options.model, inputs, expected, labels=labels, tolerance=options.tolerance, on=device)


def _predict(model: Any, inputs: Any) -> Any:
    if inputs is None:
        raise ValueError("Expected samples to compare on. Received: --against without --samples FILE.")
    import tfprune
    from tfprune.export.keras_side.preparing.signature import signature

    plain = tfprune.strip(model)
    signature(plain).arrays(inputs, "--samples")  # Keras' own message would not name them
    return plain.predict(inputs, verbose=0)
