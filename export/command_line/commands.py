"""Commands that make files of models: export, prune, shrink, compress and micro."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfprune.base.folders import TemporaryFolder
from tfprune.base.limit import Limit
from tfprune.export.command_line.options import (
    add_certificate,
    add_command,
    add_device,
    add_file,
    add_file_samples,
    add_firmware,
    add_imports,
    add_model_file,
    add_recipe,
    add_saved_model,
    add_target,
    device_of,
    file_samples,
    recipe_of,
    refuse_options,
    target_of,
)
from tfprune.export.file.container import (
    METHODS,
    check_destination,
    check_not_read,
    conversion,
    is_model_file,
    read_model,
    write_atomically,
)
from tfprune.export.file.report import FileReport, folder_hash, with_origin
from tfprune.export.keras_side.loading import check_exists, load_arrays, load_keras, load_model
from tfprune.export.micro.reports import ACCELERATORS
from tfprune.report import Report

# `--certificate`: how a file was made, written beside it.

# Options that name files and folders which a command reads.
INPUTS = (
    *("source", "samples", "data", "validation", "train", "test", "groups"),
    *("check_on", "evaluate_on", "calibration", "recipe", "labels"),
)


def certify(options: argparse.Namespace, words: Sequence[str]) -> Callable[[Any], None]:
    """Hash what a command reads, before it runs; return a function of its report that writes the certificate.

    Args:
        options: The options of the command.
        words: The command line, after `tfprune`.

    Raises:
        ValueError: If the command writes no file that has a certificate, or the certificate cannot be written.
    """
    if "data" in options and options.source.endswith((".keras", ".h5")):
        raise ValueError(
            f"Expected a .tflite file with --certificate. Received: {options.source!r}: a saved Keras model holds "
            "the time when it was saved. Leave the option out, and export the new model with it."
        )
    inputs = {piece: folder_hash(Path(piece)) for piece in _input_files(options)}
    check_destination(options.certificate)
    check_not_read(options.certificate, *inputs)
    check_not_read(options.certificate, getattr(options, "path", None))

    def write(report: Any) -> None:
        if isinstance(report, FileReport):
            command = [word for word in _without(words, "--certificate") if word != "--json"]
            dataclasses.replace(report.certificate(), command=command, inputs=inputs).save(options.certificate)

    return write


def _input_files(options: argparse.Namespace) -> Iterator[str]:
    """Yield the files and folders that the options name, each of which is there."""
    for name in INPUTS:
        for piece in (getattr(options, name, None) or "").split(","):
            if piece and Path(piece).exists():
                yield piece


def _without(words: Sequence[str], option: str) -> Iterator[str]:
    """Yield the words of a command line without an option and its value."""
    values = iter(words)
    for word in values:
        if word == option:
            next(values, None)
        elif not word.startswith(f"{option}="):
            yield word


# `tfprune export`: a saved Keras model, or a .tflite file, into a smaller file.

_MAX_DROP = 0.01

_EXPORT_LIMITS = ("max_drop", "max_relative_drop", "max_drop_per_class", "metric")  # on --evaluate-on

# Options that stand for arguments of the library with other names.
_EXPORT_ARGUMENTS = {"scheme": "--quantize", "class_names": "--labels", "y": "--evaluate-on"}


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
    parser.set_defaults(arguments=_EXPORT_ARGUMENTS)
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
    _add_form(parser)
    parser.add_argument(
        "--compress", choices=["gzip", "xz", "packed"], help="compress the file; Runner reads it directly"
    )
    parser.add_argument("--card", action="store_true", help="also write a model card in Markdown, PATH.md")
    add_certificate(parser)
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
        help=f"largest drop of --metric on --evaluate-on (default: {_MAX_DROP}, if there is no --max-relative-drop)",
    )
    text = "largest drop as a fraction of the metric: 0.05 lets an error grow by 5 percent (default: no limit)"
    parser.add_argument("--max-relative-drop", type=float, metavar="DROP", help=text)
    parser.add_argument("--metric", metavar="NAME", help="metric of --max-drop, such as mae (default: accuracy)")
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
    from tfprune.export.file.container import SUFFIXES, check_suffix
    from tfprune.export.rewriting.share_weights import add_metadata

    if options.target == "micro":
        raise ValueError("Expected no --labels, --mean or --std with --target micro. Received: one of them.")
    check_not_read(options.path, options.labels)
    path = check_destination(options.path)
    check_suffix(path, options.compress)
    if options.compress != SUFFIXES.get(path.suffix.lower()):
        raise ValueError(f"Expected a path whose suffix says how it is compressed. Received: {options.path!r}.")
    names = _names(options.labels) if options.labels else None
    with TemporaryFolder(beside=path.parent) as folder:
        report = _exported(options, str(Path(folder, path.name)))
        add_metadata(report.path, path, class_names=names, mean=options.mean, std=options.std)
    sizes = {"bytes": path.stat().st_size, "tflite_bytes": len(read_model(path))}
    return with_origin(dataclasses.replace(report, path=options.path, **sizes), report)


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
    from tfprune.export.keras_side.convert import Quantization
    from tfprune.export.keras_side.to_tflite import to_tflite

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
            max_drop=_export_limit(options),
        )


def _recipe(options: argparse.Namespace) -> Any:
    recipe = recipe_of(options)
    for name in ("quantize", "levels", "io_dtype"):
        if recipe is not None and getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"Expected no {option} with --recipe, which is the number format. Received: both.")
    return recipe


def _export_limit(options: argparse.Namespace) -> Limit | None:
    if options.evaluate_on is None:
        for name in _EXPORT_LIMITS:
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"Expected --evaluate-on X,Y with {option}. Received: no --evaluate-on.")
        return None
    samples, _, labels = options.evaluate_on.partition(",")
    if not labels:
        raise ValueError(f"Expected --evaluate-on X,Y, samples and labels. Received: {options.evaluate_on!r}.")
    has_no_bound = options.max_drop is None and options.max_relative_drop is None
    return Limit(
        _MAX_DROP if has_no_bound else options.max_drop,
        options.metric,
        data=(load_arrays(samples), load_arrays(labels)),
        max_relative_drop=options.max_relative_drop,
        max_drop_per_class=options.max_drop_per_class,
    )


def _rewrite(options: argparse.Namespace, path: str, check_on: Any) -> Any:
    from tfprune.export.rewriting.rewrite import rewrite

    number_format = ("quantize", "recipe", "recipe_python", "levels", "io_dtype", "calibration")
    for name in (*number_format, "evaluate_on", *_EXPORT_LIMITS):
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


def _add_form(parser: argparse.ArgumentParser, *, of: str = "") -> None:
    parser.add_argument(
        "--optimize",
        choices=["size", "latency", "dense", "sparse"],
        default="size",
        help=f"{of}form: the smallest, the fastest, the dense or the smallest sparse one (default: %(default)s)",
    )
    text = "samples that the file takes at once, such as 1 for LiteRT.js (default: any number where the model does)"
    parser.add_argument("--batch", type=int, metavar="N", help=of + text)


# `tfprune prune`: zeros in a saved Keras model, at once or while it trains, or in a .tflite file.

_PRUNE_OF_FILES = (
    *("samples", "range", "compress", "optimize", "batch"),
    *("max_bytes", "max_error", "max_drop", "metric"),
)
_PRUNE_OF_MODELS = (
    *("data", "epochs", "learning_rate", "allocation", "criterion", "imports"),
    *("batch_size", "seed"),
)

# Options that stand for arguments of the library with other names.
_PRUNE_ARGUMENTS = {"validation_data": "--validation", "y": "--validation"}


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
tfprune prune model.tflite fast.tflite --sparsity 0.9 --samples x.npy --optimize latency --batch 1
tfprune prune model.tflite sparse.tflite --max-drop 0.01 --samples x.npy --validation xv.npy,yv.npy
"""
    parser = add_command(commands, "prune", run=_prune, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=_PRUNE_ARGUMENTS, command=functools.partial(_prune, parser))
    add_saved_model(parser, optional=("path", "data"), default_suffix=".pruned.tflite")
    add_file_samples(parser)
    add_certificate(parser)
    parser.add_argument("--compress", choices=METHODS, help="for a .tflite file: compression of the new one")
    _add_form(parser, of="for a .tflite file: ")
    _add_prune_goal(parser)
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
        "--pattern",
        default="unstructured",
        metavar="PATTERN",
        help="unstructured, N:M such as 2:4, or blocks such as 1x4, for hardware that needs it",
    )
    text = (
        "measure of importance, such as magnitude or wanda, and without --epochs also alps, sparsegpt and ria "
        "(default: magnitude with --epochs, else alps)"
    )
    parser.add_argument("--criterion", help=text)
    text = (
        "split of the zeros over the layers: uniform, erk, global, lamp or flops, for alps, sparsegpt and ria also "
        "owl or alpha_pruning, and for the first two error or outputs (default: lamp, for alps and sparsegpt error, "
        "for ria and N:M uniform)"
    )
    parser.add_argument("--allocation", help=text)


def _add_prune_goal(parser: argparse.ArgumentParser) -> None:
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
    if _is_file(parser, options, of_models=_PRUNE_OF_MODELS, of_files=_PRUNE_OF_FILES):
        return _prune_tflite(options)
    load_keras()
    from tfprune.export.command_line.saved_models import prune_file

    return prune_file(options)


def _is_file(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    *,
    of_models: Collection[str],
    of_files: Collection[str],
) -> bool:
    """Return whether the source is a .tflite file, which is not written over; otherwise it is a saved Keras model.

    Raises:
        ValueError: If it is neither, has options for the other kind, or is a Keras model without those that it needs.
    """
    if is_model_file(options.source):
        refuse_options(parser, options, names=of_models, of="a Keras model")
        if options.path is not None:
            check_not_read(options.path, options.source, options.samples, *(options.validation or "").split(","))
        return True
    expected = "a .tflite file, or a model saved by Keras as .keras or .h5"
    check_exists(options.source, expected)
    advice = conversion(options.source)
    if advice or Path(options.source).is_dir():
        received = f"{options.source!r}{'' if advice else ', which is a folder'}"
        raise ValueError(f"Expected {expected}. Received: {received}.{advice}")
    refuse_options(parser, options, names=of_files, of="a .tflite file")
    for name, value in (("PATH", options.path), ("--data", options.data)):
        if value is None:
            raise ValueError(f"Expected {name} for a Keras model. Received: none. See `{parser.prog} --help`.")
    return False


def _prune_tflite(options: argparse.Namespace) -> Any:
    from tfprune.export.pruning.prune import prune_tflite

    suffix = ".pruned.tfz" if options.compress else ".pruned.tflite"
    path = options.path or str(Path(options.source).with_suffix(suffix))
    return prune_tflite(
        options.source,
        path,
        file_samples(options),
        sparsity=options.sparsity,
        max_bytes=options.max_bytes,
        max_error=options.max_error,
        max_drop=_prune_limit(options),
        pattern=options.pattern,
        optimize=options.optimize,
        compress=options.compress,
        batch=options.batch,
    )


def _prune_limit(options: argparse.Namespace) -> Limit | None:
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
    return Limit(options.max_drop, options.metric, data=(load_arrays(samples), load_arrays(labels)))


# `tfprune shrink`: a saved Keras model or a .tflite file with fewer channels.

_SHRINK_OF_FILES = ("samples", "range", "compress", "max_error", "target", "arena", "flash")
_SHRINK_OF_MODELS = (
    *("data", "validation", "rounds", "epochs", "criterion", "imports"),
    *("batch_size", "seed"),
)

# Options that stand for arguments of the library with other names.
_SHRINK_ARGUMENTS = {name: f"--budget {name}" for name in ("flops", "parameters", "bytes", "latency")}


def add_shrink(commands: Any) -> None:
    text = (
        "Remove the least important channels of a saved Keras model or a .tflite file, which makes it smaller and "
        "faster. The remaining weights are fitted by least squares; with labels, a model is shrunk in rounds and "
        "trained after each. A .tflite file needs --samples, but no labels and no training code."
    )
    examples = """
tfprune shrink model.keras small.keras --budget flops=0.5 --data x.npy
tfprune shrink model.keras small.keras --budget bytes=100000 --data x.npy,y.npy --rounds 3 --epochs 2
tfprune shrink model.keras small.keras --budget latency=0.5 --data x.npy,y.npy --validation xv.npy,yv.npy
tfprune shrink model.tflite small.tflite --budget flops=0.5 --samples x.npy
tfprune shrink model.tflite small.tflite --max-error 0.1 --samples photos --range -1 1
tfprune shrink wake_word.tflite small.tflite --budget flops=0.5 --samples stream.npy --target micro
tfprune shrink model.tflite small.tflite --samples x.npy --target micro --arena 60000
"""
    parser = add_command(commands, "shrink", run=_shrink, text=text, extra="train", examples=examples)
    parser.set_defaults(arguments=_SHRINK_ARGUMENTS, command=functools.partial(_shrink, parser))
    add_saved_model(parser, optional=("path", "data"), default_suffix=".small.tflite")
    add_file_samples(parser)
    add_certificate(parser)
    parser.add_argument("--compress", choices=METHODS, help="for a .tflite file: compression of the new one")
    add_target(parser, others=("web",))
    goal = parser.add_mutually_exclusive_group()
    text = "for a .tflite file: largest error of an output, as a fraction of its standard deviation, such as 0.1"
    goal.add_argument("--max-error", type=float, metavar="ERROR", help=text)
    goal.add_argument(
        "--budget",
        metavar="WHAT=LIMIT",
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


def _shrink(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Any:
    if options.budget is None and options.max_error is None and options.arena is None:
        parser.error("one of the arguments --budget --max-error --arena is required")
    if _is_file(parser, options, of_models=_SHRINK_OF_MODELS, of_files=_SHRINK_OF_FILES):
        return _shrink_tflite(options)
    load_keras()
    from tfprune.export.command_line.saved_models import shrink_file

    return shrink_file(options)


def _shrink_tflite(options: argparse.Namespace) -> Any:
    from tfprune.export.pruning.shrink import shrink_tflite

    suffix = ".small.tfz" if options.compress else ".small.tflite"
    path = options.path or str(Path(options.source).with_suffix(suffix))
    return shrink_tflite(
        options.source,
        path,
        file_samples(options),
        **_limits(options),
        round_to=options.round_to,
        compress=options.compress,
        target=target_of(options),
    )


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    """Return the limit of a .tflite file, which can have one."""
    if options.budget is None:
        return {"max_error": options.max_error}
    name, _, value = options.budget[0].partition("=")
    try:
        if len(options.budget) == 1 and name == "flops":
            return {"flops": float(value) if "." in value else int(value)}
        if len(options.budget) == 1 and name == "bytes":
            return {"max_bytes": int(value)}
    except ValueError:
        pass
    raise ValueError(
        "Expected flops=LIMIT for a .tflite file, where LIMIT is a fraction such as 0.5 or an amount, or "
        f"bytes=AMOUNT. Received: {' '.join(map(repr, options.budget))}."
    )


# `tfprune compress`: the smallest or fastest file of a saved Keras model that loses at most so much.

# Options that stand for arguments of the library with other names.
_COMPRESS_ARGUMENTS = {
    "data": "--train",
    "y": "--validation",
    "validation_data": "--validation",
    "test_data": "--test",
    "time": "--minutes",
}


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
    parser.set_defaults(arguments=_COMPRESS_ARGUMENTS)
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
    add_certificate(parser)
    _add_compress_goal(parser)
    add_target(parser, others=ACCELERATORS)
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit of the whole search (default: 30)")
    parser.add_argument("--trials", type=int, metavar="N", help="largest number of trials (default: no limit)")
    text = "training steps of a short trial, so that another search makes the same files (default: by the time)"
    parser.add_argument("--steps", type=int, metavar="N", help=text)
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


def _add_compress_goal(parser: argparse.ArgumentParser) -> None:
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
    text = (
        "metric that files are compared by: accuracy, mae, mse, or one of the compiled model (default: the accuracy "
        "or first metric that it was compiled with, else accuracy)"
    )
    parser.add_argument("--metric", metavar="NAME", help=text)
    text = "whether a larger or a smaller metric is better (default: that of the metric, where it is one of Keras)"
    parser.add_argument("--mode", choices=["max", "min"], help=text)
    text = "name of the output that the metric measures (default: the only one)"
    parser.add_argument("--output", metavar="NAME", help=text)
    text = "search for the smallest or the fastest file, on an NPU the one with the fewest cycles (default: size)"
    parser.add_argument("--optimize", choices=["size", "latency"], default="size", help=text)


def _compress(options: argparse.Namespace) -> Any:
    load_keras()
    from tfprune.export.command_line.saved_models import compress_file

    target, recipe = target_of(options), recipe_of(options)
    with device_of(options) as device:
        return compress_file(options, target=target, on=device, recipe=recipe)


# `tfprune micro`: whether a microcontroller runs a file, and the file as C++ source or as a component for firmware.


def add_micro(commands: Any) -> None:
    text = (
        "Run a .tflite file in the interpreter for microcontrollers, and list unsupported operators, the flash and "
        "RAM that the file needs, and the boards that have as much. --for asks whether ESPHome, ESP-IDF or Arduino "
        "run it, and --component writes it as they take it. --c-array writes it as C++ source."
    )
    examples = """
tfprune micro model.tflite --board pico
tfprune micro model.tflite --c-array model.cc
tfprune micro model.tflite --for arduino --component model.zip
tfprune micro wake_word.tflite --for esphome --component wake_word --manifest wake_word.json
"""
    parser = add_command(commands, "micro", run=_micro, text=text, extra="micro", examples=examples)
    add_model_file(parser)
    parser.set_defaults(arguments={"firmware": "--for"})
    text = "a board to compare with, such as pico or nano33, or its memory in bytes: flash=1048576,ram=262144"
    parser.add_argument("--board", metavar="NAME", help=text)
    add_firmware(parser, text="the firmware that runs the file")
    text = "folder to write for --for esphome or esp-tflite-micro, or zip file for arduino, with a self test"
    add_file(parser, "--component", metavar="PATH", help=text)
    text = "JSON file with wake_word, author, trained_languages and micro.probability_cutoff, for --for esphome"
    add_file(parser, "--manifest", metavar="FILE", help=text)
    text = "samples for the self test, .npy, or .npz with one array per input (default: random numbers)"
    add_file(parser, "--check-on", metavar="FILE", help=text)
    text = "path of the C++ source, such as model.cc; the header model.h is written next to it"
    add_file(parser, "--c-array", metavar="FILE", help=text)


@dataclass(frozen=True)
class _Both(Report):
    """Two reports in one."""

    support: Any
    c_array: Any = None
    component: Any = None

    @property
    def passed(self) -> bool:
        return self.support.passed

    def __str__(self) -> str:
        return "\n\n".join(str(part) for part in (self.support, self.c_array, self.component) if part is not None)


def _micro(options: argparse.Namespace) -> Any:
    from tfprune.export.micro.micro import component
    from tfprune.export.micro.reports import c_array, support_of_file

    if options.component is None:
        for name in ("manifest", "check_on"):
            if getattr(options, name) is not None:
                raise ValueError(f"Expected --component PATH with --{name.replace('_', '-')}. Received: none.")
    elif options.firmware is None:
        raise ValueError("Expected --for esphome, esp-tflite-micro or arduino with --component. Received: none.")
    support = support_of_file(options.model, board=options.board, firmware=options.firmware)
    runs = support.runs and (support.firmware is None or support.firmware.fits)
    written, folder = None, None
    if runs and options.c_array is not None:
        written = c_array(options.model, options.c_array, arena=support.wide_arena)
    if runs and options.component is not None:
        folder = component(
            options.model,
            options.component,
            check_on=None if options.check_on is None else _arrays(options.check_on),
            firmware=options.firmware,
            manifest=options.manifest,
        )
    return support if written is None and folder is None else _Both(support, written, folder)


def _arrays(path: str) -> Any:
    from tfprune.export.keras_side.loading import load_arrays

    return load_arrays(path)
