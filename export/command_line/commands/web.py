"""`tfprune web`: a folder that runs files in a browser."""

from __future__ import annotations

import argparse
from typing import Any

from tfprune.export.command_line.commands.base import add_command, add_file
from tfprune.export.keras_side.loading import load_arrays


def add_web(commands: Any) -> None:
    text = (
        "Write a folder that runs .tflite files in a browser with LiteRT.js, compares their outputs with those on "
        "this machine, and measures their speed relative to the first. Run `npm install` there, and serve it."
    )
    examples = """
tfprune web model.tflite page
tfprune web dense.tflite sparse.tfz page --samples x_test.npy
tfprune bench --web result.json
"""
    parser = add_command(commands, "web", run=_web, text=text, extra="device", examples=examples)
    text = "a .tflite file with a fixed batch, plain or packed; the first is the reference of the speed"
    add_file(parser, "files", metavar="MODEL", nargs="+", help=text)
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder to write: new, empty, or one that this command wrote"
    )
    text = "samples that the page runs: .npy, or .npz with one array per input (default: random numbers)"
    add_file(parser, "--samples", metavar="FILE", help=text)


def _web(options: argparse.Namespace) -> Any:
    from tfprune.export.device.web.web import web

    samples = load_arrays(options.samples) if options.samples else None
    return web(options.files, options.folder, samples=samples)
