"""`tfprune export`: a saved Keras model, or a .tflite file, into a smaller file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from tfprune.base.limit import Limit
from tfprune.export.command_line.commands.base import (
    add_command,
    add_file,
    add_imports,
    add_recipe,
    add_target,
    recipe_of,
    target_of,
)
from tfprune.export.file.files.destination import check_destination, check_not_read, write_atomically
from tfprune.export.file.files.model_file import is_model_file, read_model
from tfprune.export.keras_side.loading import load_arrays, load_model

MAX_DROP = 0.01

# Options that stand for arguments of the library with other names.
ARGUMENTS = {"scheme": "--quantize", "class_names": "--labels"}


def add_export(commands: Any) -> None:
    text = (
        "Convert a saved Keras model, wrapped or not, to a .tflite file, or rewrite a .tflite file. The file stores "
        "zeros sparsely where that saves bytes, and is checked before it is written."
    )
    examples = """
tfprune export model.keras model.tflite --check-on samples.npy
tfprune export model.keras model.tfz --quantize int8 --calibration samples.npy --compress packed
tfprune export model.keras model.tflite --recipe dynamic_wi4b32_afp32 --recipe-python edge/bin/python
tfprune export model.tflite smaller.tflite
tfprune export model.tflite web.tflite --target web
tfprune export model.keras model.tflite --labels labels.txt --mean 127.5 --std 127.5
tfprune export model.keras model.tflite --quantize int8 --calibration samples.npy --target micro --arena 60000
"""
    parser = add_command(commands, "export", run=_export, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_file(parser, "source", metavar="SOURCE", help="a model saved by model.save('x.keras'), or a .tflite file")
    add_file(parser, "path", metavar="PATH", help="path of the new file, used exactly as given")
    kinds = ["float16", "dynamic", "int8", "int16x8", "int4"]
    parser.add_argument("--quantize", choices=kinds, help="number format (default: float32)")
    add_recipe(parser, text="in place of --quantize")
    text = "distinct values of an 8-bit weight, 0 included, 2 to 256 (default: all)"
    parser.add_argument("--levels", type=int, metavar="N", help=text)
    parser.add_argument(
        "--io-dtype",
        choices=["float32", "int8", "int16"],
        help="type of the inputs and outputs of an integer file (default: float32)",
    )
    text = "samples for --quantize int8, int16x8 and int4, and for recipes: .npy, or .npz with one array per input"
    add_file(parser, "--calibration", metavar="FILE", help=text)
    parser.add_argument(
        "--optimize",
        choices=["size", "latency", "dense", "sparse"],
        default="size",
        help="form: the smallest, the fastest, the dense or the smallest sparse one (default: %(default)s)",
    )
    text = "samples that the file takes at once, such as 1 for LiteRT.js (default: any number where the model does)"
    parser.add_argument("--batch", type=int, metavar="N", help=text)
    parser.add_argument(
        "--compress", choices=["gzip", "xz", "packed"], help="compress the file; Runner reads it directly"
    )
    parser.add_argument("--card", action="store_true", help="also write a model card in Markdown, PATH.md")
    add_imports(parser)
    _add_metadata_options(parser)
    _add_checks(parser)
    add_target(parser, others=("web",))


def _add_metadata_options(parser: argparse.ArgumentParser) -> None:
    text = "names of the classes, one a line, which MediaPipe Tasks and Android Studio read from the file"
    add_file(parser, "--labels", metavar="FILE", help=text)
    text = "apps compute (pixel - MEAN) / STD from pixels of 0 to 255: a number, or one for each channel, as 1,2,3"
    parser.add_argument("--mean", type=_numbers, metavar="MEAN", help=text)
    parser.add_argument("--std", type=_numbers, metavar="STD", help="see --mean")


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _add_checks(parser: argparse.ArgumentParser) -> None:
    add_file(parser, "--check-on", metavar="FILE", help="samples on which the file is compared with the model")
    parser.add_argument("--evaluate-on", metavar="X,Y", help="samples and labels, .npy, for --max-drop")
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="DROP",
        help=f"largest drop of accuracy on --evaluate-on (default: {MAX_DROP})",
    )
    text = "largest drop of accuracy in each class on --evaluate-on (default: no limit)"
    parser.add_argument("--max-drop-per-class", type=float, metavar="DROP", help=text)
    parser.add_argument(
        "--tolerance", type=float, help="largest difference, as a fraction of the model's largest output"
    )


def _export(options: argparse.Namespace) -> Any:
    card = f"{options.path}.md"
    if options.card:
        check_not_read(card, options.source)
        check_destination(card)
    is_described = any(each is not None for each in (options.labels, options.mean, options.std))
    report = _described(options) if is_described else _exported(options, options.path)
    if options.card:
        write_atomically(card, report.card().encode())
    return report


def _described(options: argparse.Namespace) -> Any:
    """Export into a folder beside the file, so that no file is written which its labels do not fit."""
    from tfprune.export.file.files.codec import SUFFIXES, check_suffix
    from tfprune.export.rewriting.add_metadata import add_metadata

    if options.target == "micro":
        raise ValueError("Expected no --labels, --mean or --std with --target micro. Received: one of them.")
    check_not_read(options.path, options.labels)
    path = check_destination(options.path)
    check_suffix(path, options.compress)
    if options.compress != SUFFIXES.get(path.suffix.lower()):
        raise ValueError(f"Expected a path whose suffix says how it is compressed. Received: {options.path!r}.")
    names = _names(options.labels) if options.labels else None
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tfprune-") as folder:
        report = _exported(options, str(Path(folder, path.name)))
        add_metadata(report.path, path, class_names=names, mean=options.mean, std=options.std)
    sizes = {"bytes": path.stat().st_size, "tflite_bytes": len(read_model(path))}
    return dataclasses.replace(report, path=options.path, **sizes)


def _names(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a zero byte
        raise ValueError(f"Expected a text file in UTF-8 with --labels. Received: {path!r}: {error}.") from error


def _exported(options: argparse.Namespace, path: str) -> Any:
    sources = (options.recipe, options.calibration, options.check_on, *(options.evaluate_on or "").split(","))
    check_not_read(options.path, *sources)
    check_on = load_arrays(options.check_on) if options.check_on else None
    if is_model_file(options.source):
        return _rewrite(options, path, check_on)
    check_not_read(options.path, options.source)
    recipe = _recipe(options)
    if options.quantize in ("int8", "int16x8", "int4") and not options.calibration:
        raise ValueError(
            f"Expected samples with --quantize {options.quantize}. Received: no --calibration FILE. Save about 100 "
            "samples of real data with numpy.save."
        )
    model = load_model(options.source, imports=options.imports)
    from tfprune.export.keras_side.converting.quantization import Quantization
    from tfprune.export.keras_side.converting.to_tflite import to_tflite

    form = Quantization(options.quantize, options.levels, io_dtype=options.io_dtype or "float32")

    with contextlib.redirect_stdout(sys.stderr):  # a bar of progress is no part of the report
        return to_tflite(
            model,
            path,
            quantize=form if recipe is None else recipe,
            calibration=options.calibration and load_arrays(options.calibration),
            check_on=check_on,
            tolerance=options.tolerance,
            optimize=options.optimize,
            compress=options.compress,
            target=target_of(options),
            batch=options.batch,
            max_drop=_limit(options),
        )


def _recipe(options: argparse.Namespace) -> Any:
    recipe = recipe_of(options)
    for name in ("quantize", "levels", "io_dtype"):
        if recipe is not None and getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"Expected no {option} with --recipe, which is the number format. Received: both.")
    return recipe


def _limit(options: argparse.Namespace) -> Limit | None:
    if options.evaluate_on is None:
        for name in ("max_drop", "max_drop_per_class"):
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"Expected --evaluate-on X,Y with {option}. Received: no --evaluate-on.")
        return None
    samples, _, labels = options.evaluate_on.partition(",")
    if not labels:
        raise ValueError(f"Expected --evaluate-on X,Y, samples and labels. Received: {options.evaluate_on!r}.")
    max_drop = MAX_DROP if options.max_drop is None else options.max_drop
    data = (load_arrays(samples), load_arrays(labels))
    return Limit(max_drop, data=data, max_drop_per_class=options.max_drop_per_class)


def _rewrite(options: argparse.Namespace, path: str, check_on: Any) -> Any:
    from tfprune.export.rewriting.rewrite import rewrite

    number_format = ("quantize", "recipe", "recipe_python", "levels", "io_dtype", "calibration")
    for name in (*number_format, "evaluate_on", "max_drop", "max_drop_per_class"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"Expected a saved Keras model with --{name.replace('_', '-')}. Received: {options.source!r}, whose "
                "number format is fixed. Leave the option out, or export the Keras model."
            )
    with contextlib.redirect_stdout(sys.stderr):
        return rewrite(
            options.source,
            path,
            check_on=check_on,
            tolerance=options.tolerance,
            optimize=options.optimize,
            compress=options.compress,
            target=target_of(options),
            batch=options.batch,
        )
