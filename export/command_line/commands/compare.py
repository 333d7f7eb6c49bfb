"""`tfprune compare`: what a smaller model lost, for each class, group and sample."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_file, add_imports
from tfprune.export.comparing.corruptions import CORRUPTIONS
from tfprune.export.file.files.destination import check_destination, check_not_read
from tfprune.export.keras_side.loading import load_arrays, load_groups, load_model

NO_LIMIT = "No limit was set: with --max-drop the exit code is 1 if more is lost."
KERAS_FILES, ARRAY_FILES = (".keras", ".h5"), (".npy", ".npz")


def add_compare(commands: Any) -> None:
    text = (
        "Compare a model before and after pruning or quantization: the accuracy that each class and group lost, with "
        "confidence intervals and tests, and the samples that flipped. The exit code is 1 if a limit is exceeded."
    )
    examples = """
tfprune compare before.tflite after.tflite --data x.npy,y.npy
tfprune compare before.keras after.tflite --data x.npy,y.npy --groups speaker.npy --max-drop-per-group 0.05
tfprune compare before.npy after.npy --data x.npy,y.npy --html page.html
"""
    parser = add_command(commands, "compare", run=_compare, text=text, extra="device", examples=examples)
    for name in ("before", "after"):
        text = "a .tflite file, a saved Keras model, or recorded outputs in a .npy file"
        add_file(parser, name, metavar=name.upper(), help=text)
    parser.add_argument(
        "--data",
        metavar="X[,Y]",
        required=True,
        help="samples and labels: .npy, or .npz with one array per input; without labels, agreement is measured",
    )
    text = "groups of samples: a .npy file, named after the group, or .npz with one array per group"
    add_file(parser, "--groups", metavar="FILE", help=text)
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="DROP",
        help="largest drop of the accuracy, such as 0.01 (default: no limit)",
    )
    parser.add_argument(
        "--max-drop-per-group",
        type=float,
        metavar="DROP",
        help="largest drop in each class and group, such as 0.05 (default: no limit)",
    )
    parser.add_argument(
        "--corruptions",
        metavar="NAME,...",
        help=f"also compare both on corrupted samples: {', '.join(CORRUPTIONS)}",
    )
    parser.add_argument("--output", metavar="NAME", help="output to compare, if the model has several")
    parser.add_argument(
        "--task", choices=["classification", "regression", "language"], help="kind of the outputs (default: inferred)"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="level of the intervals (default: %(default)g)"
    )
    add_file(parser, "--html", metavar="PAGE", help="also write an HTML page with pictures of the flipped samples")
    add_imports(parser)


def _compare(options: argparse.Namespace) -> Any:
    from tfprune.export.comparing.damage import damage

    files = options.data.split(",")
    if len(files) > 2:
        raise ValueError(f"Expected --data X or --data X,Y. Received: {options.data!r}.")
    if options.html:
        check_destination(options.html)
        check_not_read(options.html, options.before, options.after, options.groups, *files)
    arrays = [load_arrays(file) for file in files]
    report = damage(
        _side(options.before, options),
        _side(options.after, options),
        (arrays[0], arrays[1] if len(arrays) > 1 else None),
        groups=load_groups(options.groups),
        task=options.task,
        output=options.output,
        confidence=options.confidence,
        max_drop=options.max_drop,
        max_drop_per_group=options.max_drop_per_group,
        corruptions=options.corruptions.split(",") if options.corruptions else None,
    )
    if options.html:
        report.save_html(options.html)
    if options.max_drop is None and options.max_drop_per_group is None:
        return replace(report, notes=(*report.notes, NO_LIMIT))
    return report


def _side(path: str, options: argparse.Namespace) -> Any:
    """Return a file as its path, a Keras model loaded, and recorded outputs as arrays."""
    suffix = Path(path).suffix.lower()
    if suffix in ARRAY_FILES:
        return load_arrays(path)
    return load_model(path, imports=options.imports) if suffix in KERAS_FILES else path
