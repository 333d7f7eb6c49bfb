"""`tfprune compress`: the smallest or fastest file of a saved Keras model that loses at most so much."""

from __future__ import annotations

import argparse
from typing import Any

from tfprune.export.command_line.commands.base import (
    add_command,
    add_device,
    add_file,
    add_imports,
    add_recipe,
    add_target,
    device_of,
    recipe_of,
    target_of,
)
from tfprune.export.micro.vela_report import ACCELERATORS

# Options that stand for arguments of the library with other names.
ARGUMENTS = {"data": "--train", "validation_data": "--validation", "test_data": "--test", "time": "--minutes"}


def add_compress(commands: Any) -> None:
    text = (
        "Search for the smallest or fastest .tflite file of a saved Keras model within a given drop of accuracy. "
        "Each trial removes channels, prunes weights or quantizes, trains, exports a file, and measures it. Run the "
        "same command again to continue a search that was stopped."
    )
    examples = """
tfprune compress model.keras --train x.npy,y.npy --max-drop 0.01
tfprune compress model.keras --train x.npy,y.npy --validation xv.npy,yv.npy --optimize latency --minutes 60
tfprune compress model.keras --train x.npy,y.npy --validation xv.npy,yv.npy --max-drop-per-class 0.05
tfprune compress model.keras --train x.npy,y.npy --metric mae --max-relative-drop 0.05 --max-bytes 200000
tfprune compress model.keras --train x.npy,y.npy --target micro --arena 60000
tfprune compress model.keras --train x.npy,y.npy --target ethos-u55-128 --max-cycles 50000
"""
    parser = add_command(commands, "compress", run=_compress, text=text, extra="search", examples=examples)
    parser.set_defaults(arguments=ARGUMENTS)
    add_file(parser, "source", metavar="SOURCE", help="a trained, compiled model, saved by model.save('x.keras')")
    parser.add_argument(
        "--train",
        metavar="X,Y",
        required=True,
        help="training samples and labels: .npy, or .npz with one array per input or output",
    )
    parser.add_argument(
        "--validation",
        metavar="X,Y",
        help="samples and labels that files are chosen on (default: a tenth of --train, held out)",
    )
    parser.add_argument(
        "--test", metavar="X,Y", help="samples and labels on which the best files are measured at the end"
    )
    _add_goal(parser)
    add_target(parser, others=ACCELERATORS)
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit of the whole search (default: 30)")
    parser.add_argument("--trials", type=int, metavar="N", help="largest number of trials (default: no limit)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel trials (default: 1)")
    parser.add_argument(
        "--folder", default="compressed", help="folder for trials, files and the report (default: compressed)"
    )
    add_imports(parser)
    add_device(parser)
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="batch size in training (default: 32)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    text = (
        "number formats of the files: float32, float16, dynamic, int8, int16x8, int4, mixed (default: float32 int8)"
    )
    parser.add_argument("--formats", nargs="+", metavar="FORMAT", default=["float32", "int8"], help=text)
    add_recipe(parser, text="as one more of the --formats")


def _add_goal(parser: argparse.ArgumentParser) -> None:
    text = "largest drop of the metric (default: 0.01, one point of accuracy, if there is no --max-relative-drop)"
    parser.add_argument("--max-drop", type=float, metavar="DROP", help=text)
    text = "largest drop as a fraction of the metric: 0.05 lets an error grow by 5 percent (default: no limit)"
    parser.add_argument("--max-relative-drop", type=float, metavar="FRACTION", help=text)
    text = "largest drop of accuracy in each class, such as 0.05 (default: no limit)"
    parser.add_argument("--max-drop-per-class", type=float, metavar="DROP", help=text)
    text = "largest drop of accuracy in each class and each group of --groups (default: no limit)"
    parser.add_argument("--max-drop-per-group", type=float, metavar="DROP", help=text)
    text = (
        "groups of the samples in --validation: a .npy file, named after the group, or .npz with one array per group"
    )
    add_file(parser, "--groups", metavar="FILE", help=text)
    text = "largest size of a file (default: no limit)"
    parser.add_argument("--max-bytes", type=int, metavar="BYTES", help=text)
    text = "longest inference of a file in milliseconds (default: no limit)"
    parser.add_argument("--max-latency-ms", type=float, metavar="MS", help=text)
    text = "most cycles of one inference (needs an NPU as --target; default: no limit)"
    parser.add_argument("--max-cycles", type=int, metavar="CYCLES", help=text)
    text = "metric that files are compared by: accuracy, mae, mse, or one of the compiled model (default: accuracy)"
    parser.add_argument("--metric", metavar="NAME", help=text)
    text = "whether a larger or a smaller metric is better (default: that of the metric, where it is one of Keras)"
    parser.add_argument("--mode", choices=["max", "min"], help=text)
    text = "name of the output that the metric measures (default: the only one)"
    parser.add_argument("--output", metavar="NAME", help=text)
    text = "search for the smallest or the fastest file, on an NPU the one with the fewest cycles (default: size)"
    parser.add_argument("--optimize", choices=["size", "latency"], default="size", help=text)


def _compress(options: argparse.Namespace) -> Any:
    from tfprune.export.keras_side.loading import load_keras

    load_keras()
    from tfprune.export.command_line.saved_models.compress_file import compress_file

    target, recipe = target_of(options), recipe_of(options)
    with device_of(options) as device:
        return compress_file(options, target=target, on=device, recipe=recipe)
