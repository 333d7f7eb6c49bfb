"""Commands and the arguments that several of them share, samples of files, and completion of shells."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfprune.base.spec import ArgumentMessage, check_count
from tfprune.report import Report, install

# Add commands to the command line, and the arguments that several of them share.

# The completion of a file name in each shell, as the package shtab spells it.
_FILES = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "tcsh": "f",
    "fish": "(__fish_complete_path (commandline -ct))",
    "powershell": "_shtab_powershell_compgen_files",
}


# Attributes of the options that are no options of the command line, or have another name there.
_NOT_OPTIONS = {"command", "needs", "arguments", "whole", "model", "source", "path", "shell"}


def add_command(
    commands: Any, name: str, *, run: Callable, text: str, extra: str, examples: str, json: str = ""
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    Args:
        commands: The sub-commands of argparse.
        name: The name of the command.
        run: Called with the options; returns a report.
        text: The description; its first sentence stands in the list of commands.
        extra: The extra of the package that it needs.
        examples: Command lines, one in a line.
        json: What `--json FILE` writes, for a command that takes a file there; empty for one that prints JSON.
    """
    parser = commands.add_parser(
        name,
        help=text.partition(". ")[0].removesuffix(".").replace("%", "%%") + ".",  # argparse fills it in with %
        description=textwrap.fill(text, 88),
        epilog="examples:\n" + textwrap.indent(examples.strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json:
        add_file(parser, "--json", metavar="FILE", nargs="?", const=True, help=json)
    else:
        parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    needs = f"This command needs: {install(extra)}"
    parser.set_defaults(command=run, needs=needs, arguments={})
    return parser


# A call in Python keeps the names of its arguments, except a Limit, whose arguments are options.
_CALL = re.compile(r"[\w.]+\((?:[^()]|\([^()]*\))*\)")
_LIMIT = re.compile(r"(\w+)=tfprune\.Limit\(([^()]*)\)")


def printed(message: str | Exception, options: argparse.Namespace) -> str:
    """Return the text of an error or warning, with the options of the command in place of arguments in Python.

    Seconds become minutes.

    Example:
        >>> from tfprune.base.spec import ArgumentError
        >>> error = ArgumentError("tolerance", "`time` with `tolerance`", "2.0", beside={"time": None})
        >>> printed(error, argparse.Namespace(tolerance=2.0, arguments={"time": "--minutes"}))
        'Expected --minutes with --tolerance. Received: --tolerance 2.0, no --minutes.'
    """
    names = {name: f"--{name.replace('_', '-')}" for name in vars(options) if name not in _NOT_OPTIONS}
    names |= options.arguments
    argument = message.argument if isinstance(message, ArgumentMessage) else None
    if argument and argument.startswith("--"):  # checked by the command itself
        names[argument] = argument
    any_name = "|".join(map(re.escape, names))
    spelled = re.compile(rf"`({any_name})`|(?<![\w.`'\"/-])({any_name})=")

    def words(text: str) -> str:
        text = text.replace(" in a tfprune.Limit", "")  # options stand alone
        text = _LIMIT.sub(_limit_as_arguments, text)
        calls = [match.span() for match in _CALL.finditer(text)]
        for match in reversed([*spelled.finditer(text)]):
            start, rest = match.start(), text[match.end() :]
            if match[1]:
                text = f"{text[:start]}{names[match[1]]}{rest}"
            elif not any(first < start < last for first, last in calls):
                text = f"{text[:start]}{_option(names[match[2]], rest)}"
        return text

    return message.sentence(words) if isinstance(message, ArgumentMessage) else words(str(message))


def _limit_as_arguments(match: re.Match[str]) -> str:
    """Return `max_drop=0.01 metric='mae'` for `max_drop=tfprune.Limit(0.01, metric='mae')`."""
    arguments = match[2].split(", ")
    first = [] if "=" in arguments[0] else [f"{match[1]}={arguments.pop(0)}"]
    return " ".join([*first, *arguments])


def _option(option: str, text: str) -> str:
    """Return an option and the text from its value on, as both are typed."""
    if text.startswith("None"):
        return f"no {option}{text.removeprefix('None')}"
    for word, typed in (("True", "yes"), ("False", "no")):
        text = typed + text.removeprefix(word) if text.startswith(word) else text
    if text.startswith("'"):
        value, _, others = text[1:].partition("'")
        text = value + others
    if option == "--minutes":  # the library counts seconds
        seconds = text[: len(text) - len(text.lstrip(".0123456789"))].rstrip(".")
        text = f"{float(seconds) / 60:.4g}{text.removeprefix(seconds)}" if seconds else text
    return f"{option}={text}" if " " in option else f"{option} {text}"  # --budget flops=0.5


def add_file(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add an argument that is a file, which a shell can complete."""
    parser.add_argument(name, **settings).complete = _FILES  # type: ignore[attr-defined]


def add_model_file(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Add the .tflite file that a command reads."""
    text = "a .tflite file, plain, packed, or compressed with gzip or xz"
    add_file(parser, "model", metavar="MODEL", help=text, **settings)


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Add the option for a model with classes of its own."""
    text = "module that defines custom classes or functions of the model, imported from this folder; may be repeated"
    parser.add_argument("--import", dest="imports", metavar="MODULE", action="append", default=[], help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options of the device on which a file runs."""
    text = "device to run the file on: USER@HOST for ssh, or adb:SERIAL for a phone"
    parser.add_argument("--on", metavar="DEVICE", help=text)
    text = "Python on the device, with NumPy and LiteRT (default: python3)"
    parser.add_argument("--python", metavar="PATH", help=text)
    parser.add_argument("--ssh", metavar="ARGUMENTS", help="additional ssh arguments, such as '-p 2222'")


@contextlib.contextmanager
def device_of(options: argparse.Namespace) -> Iterator[Any]:
    """Yield the device that the options name, None for this machine.

    Raises:
        ValueError: If there is an option of a device, but no device.
    """
    if options.on is None:
        for name in ("python", "ssh"):
            if getattr(options, name) is not None:
                raise ValueError(f"Expected --on DEVICE with --{name}. Received: none.")
        yield None
        return
    from tfprune.export.device.remote import Remote

    python = "python3" if options.python is None else options.python
    with Remote(options.on, python=python, options=shlex.split(options.ssh or "")) as remote:
        yield remote


def add_certificate(parser: argparse.ArgumentParser) -> None:
    """Add the option that writes a certificate beside a file."""
    text = "also write a certificate in JSON, with which `tfprune reproduce` makes the .tflite file again"
    add_file(parser, "--certificate", metavar="FILE", help=text)


def add_target(parser: argparse.ArgumentParser, *, others: tuple[str, ...] = ()) -> None:
    """Add the options of the runtime that a file is for: microcontrollers, or others such as `web` and NPUs."""
    web = ", web for LiteRT.js in a browser" if "web" in others else ""
    npus: dict[str, list[str]] = defaultdict(list)
    for family, _, size in (name.rpartition("-") for name in others if name != "web"):
        npus[family].append(size)
    npu = ", or an NPU: " + ", ".join(f"{family}-{'/'.join(sizes)}" for family, sizes in npus.items()) if npus else ""
    text = f"micro for TensorFlow Lite for Microcontrollers{web}{npu} (default: phones and computers)"
    parser.add_argument("--target", choices=["micro", *others], metavar="TARGET" if npus else None, help=text)
    text = "largest RAM of the microcontroller (needs --target micro)"
    parser.add_argument("--arena", type=int, metavar="BYTES", help=text)
    text = "largest size of the file in flash (needs --target micro)"
    parser.add_argument("--flash", type=int, metavar="BYTES", help=text)
    add_firmware(parser, text="the firmware that is to run the file (needs --target micro)")


def add_firmware(parser: argparse.ArgumentParser, *, text: str) -> None:
    """Add the option that names a firmware."""
    parser.add_argument("--for", dest="firmware", choices=["esphome", "esp-tflite-micro", "arduino"], help=text)


def target_of(options: argparse.Namespace) -> Any:
    """Return the target that the options name, None for phones and computers.

    Raises:
        ValueError: If there is a budget, but no target, or it is out of range.
    """
    if options.target != "micro":
        for name, option in (("arena", "--arena"), ("flash", "--flash"), ("firmware", "--for")):
            if getattr(options, name) is not None:
                received = f"--target {options.target}" if options.target else "no --target"
                raise ValueError(f"Expected --target micro with {option}. Received: {received}.")
        return options.target
    from tfprune.export.micro.micro import Micro

    return Micro(arena=options.arena, flash=options.flash, firmware=options.firmware)


def add_recipe(parser: argparse.ArgumentParser, *, text: str) -> None:
    """Add the options of a recipe of LiteRT Quantizer; the text says what becomes of it."""
    text = f"recipe of LiteRT Quantizer, by its name or as a JSON file, {text}"
    add_file(parser, "--recipe", metavar="RECIPE", help=text)
    text = "Python that has LiteRT Quantizer (default: the one that runs now)"
    add_file(parser, "--recipe-python", metavar="PATH", help=text)


def recipe_of(options: argparse.Namespace) -> Any:
    """Return the recipe that the options name, None without one.

    Raises:
        ValueError: If there is a Python, but no recipe, or the recipe cannot be read.
    """
    if options.recipe is None:
        if options.recipe_python is not None:
            raise ValueError("Expected --recipe with --recipe-python. Received: no --recipe.")
        return None
    from tfprune.base.folders import parse_json, reading
    from tfprune.export.rewriting.weights import EdgeQuantizer

    if not options.recipe.lower().endswith(".json"):
        return EdgeQuantizer(options.recipe, python=options.recipe_python)
    expected = "a recipe of LiteRT Quantizer in JSON with --recipe"
    with reading(options.recipe, expected=expected, advice='It is a list of rules, with "regex" and "operation"'):
        rules = parse_json(Path(options.recipe).read_bytes())
        try:
            return EdgeQuantizer(rules, python=options.recipe_python)
        except TypeError as error:
            raise ValueError(f"Expected a list of dicts. Received: {type(rules).__name__}") from error


def add_saved_model(
    parser: argparse.ArgumentParser, *, optional: Collection[str] = (), default_suffix: str = ""
) -> None:
    """Add the arguments of the commands that change a saved Keras model; some may be optional for a .tflite file.

    Args:
        parser: The parser of a command.
        optional: The names of those that are.
        default_suffix: The suffix of the new file if no path is given, where that is possible.
    """
    other = ", or a .tflite file" if optional else ""
    add_file(parser, "source", metavar="SOURCE", help=f"a trained model, saved by model.save('x.keras'){other}")
    count = {"nargs": "?"} if "path" in optional else {}
    text = "path of the new model, such as small.keras"
    text += (
        f" (default for a .tflite file: SOURCE with the suffix {default_suffix}, or .tfz)" if default_suffix else ""
    )
    add_file(parser, "path", metavar="PATH", help=text, **count)
    parser.add_argument(
        "--data",
        metavar="X[,Y]",
        required="data" not in optional,
        help="training samples, and labels if there are some: .npy, or .npz with one array per input or output",
    )
    parser.add_argument("--validation", metavar="X,Y", help="samples and labels to evaluate both models on")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="samples in a batch (default: 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument(
        "--max-samples",
        type=int,
        default=512,
        metavar="N",
        help="largest number of samples for criteria and least squares (default: 512)",
    )
    add_imports(parser)


def refuse_options(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    *,
    names: Collection[str],
    of: str,
    source: str = "source",
) -> None:
    """Refuse options that are for another kind of file than the one that the option `source` names."""
    foreign = [name for name in names if getattr(options, name) != parser.get_default(name)]
    if foreign:
        text = " and ".join(f"--{'import' if name == 'imports' else name.replace('_', '-')}" for name in foreign)
        advice = (
            "Pass --samples FILE instead"
            if "data" in foreign
            else f"Leave {'them' if len(foreign) > 1 else 'it'} out"
        )
        raise ValueError(f"Expected {text} with {of} only. Received: {getattr(options, source)!r}. {advice}.")


# The samples of a .tflite file that `prune` and `shrink` get: arrays, a folder, or drawn numbers.


def add_file_samples(parser: argparse.ArgumentParser) -> None:
    text = (
        "for a .tflite file: a few hundred samples without labels, .npy, or .npz with one array per input, named "
        "signature/input for several signatures; a folder of images or WAV files; or random, which "
        "costs accuracy"
    )
    add_file(parser, "--samples", metavar="FILE", help=text)
    text = (
        "for a folder of samples: the numbers that black and white, or the lowest and highest amplitude, become "
        "(default: by the normalization in the file's metadata)"
    )
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)


def file_samples(options: argparse.Namespace) -> Any:
    """Return the samples for a .tflite file, and write to stderr which were read, and how.

    Raises:
        ValueError: If there are none, or the options do not fit.
    """
    from tfprune.export.pruning.samples import LEAST_SAMPLES, RANDOM

    if options.samples is None:
        raise ValueError(
            "Expected --samples FILE for a .tflite file: a few hundred inputs, without labels. Received: none. If "
            "there are none at all, --samples random draws numbers, which costs accuracy."
        )
    most = check_count(options.max_samples, "--max-samples", least=LEAST_SAMPLES)
    if options.samples != RANDOM and Path(options.samples).is_dir():
        return _of_folder(options, most)
    from tfprune.export.keras_side.loading import check_exists, load_arrays

    if options.range is not None:
        expected = "a folder of samples with --range"
        check_exists(options.samples, expected)
        raise ValueError(f"Expected {expected}. Received: {options.samples!r}.")
    if options.samples == RANDOM:
        return RANDOM
    from tfprune.export.file.model_file import ModelFile

    file = ModelFile.open(options.source)
    samples = _by_signature(load_arrays(options.samples, mmap_mode="r"), file.signatures)
    nested = isinstance(samples, Mapping) and any(isinstance(own, Mapping) for own in samples.values())
    each = {name: _some(own, most, file.content) for name, own in (samples if nested else {"": samples}).items()}
    return each if nested else each[""]


def _of_folder(options: argparse.Namespace, most: int) -> Any:
    from tfprune.export.file.model_file import ModelFile
    from tfprune.export.file.report import shape_text
    from tfprune.export.pruning.samples import folder_limits, read_folder

    file = ModelFile.open(options.source)
    limits = options.range or folder_limits(file)
    samples = read_folder(Path(options.samples), file.graph.inputs, limits=limits, most=most)
    text = f"{len(samples)} files of {options.samples} as samples of {shape_text(samples.shape[1:])}"
    low, mean, high = samples.min(), samples.mean(), samples.max()
    sys.stderr.write(f"Read {text}: numbers from {low:.4g} to {high:.4g}, mean {mean:.4g}.\n")
    return samples


def _by_signature(arrays: Any, signatures: Collection[str]) -> Any:
    """Return arrays whose names are `signature/input` by signature, and others as they are."""
    parts = [name.partition("/") for name in arrays] if isinstance(arrays, Mapping) else []
    if not parts or not {signature for signature, _, _ in parts} <= {*signatures}:
        return arrays
    nested: dict[str, dict[str, Any]] = {}
    for signature, slash, name in parts:
        nested.setdefault(signature, {})[name] = arrays[signature + slash + name]
    return {signature: own.get("", own) for signature, own in nested.items()}


def _some(samples: Any, most: int, content: bytes) -> Any:
    """Return some samples of arrays, and say so if these are not all: evenly spaced, or the last ones of a stream."""
    from tfprune.export.pruning.pieces import has_variables
    from tfprune.export.pruning.samples import evenly_spaced

    arrays = samples if isinstance(samples, Mapping) else {"": samples}
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) > 1 or max(sizes) <= most:
        return samples  # different numbers of samples are refused with the names of the inputs
    (size,) = sizes
    is_stream = has_variables(content)
    rows: Any = slice(size - most, size) if is_stream else evenly_spaced(size, most)
    how = "the last ones" if is_stream else "evenly spaced"
    sys.stderr.write(f"Read {most} of {size} samples, {how}. --max-samples takes more.\n")
    selection = {name: array[rows] for name, array in arrays.items()}
    return selection if isinstance(samples, Mapping) else selection[""]


# `tfprune completion`: a script with which a shell completes commands and options.


@dataclass(frozen=True)
class Script(Report):
    """The script for a shell; prints as it is."""

    shell: str
    script: str

    def __str__(self) -> str:
        return self.script


def add_completion(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command; `whole` is the parser of the whole command line, which the script describes."""
    text = "Print a script that lets a shell complete the commands and options of tfprune."
    examples = """
tfprune completion bash > ~/.local/share/bash-completion/completions/tfprune
tfprune completion zsh > ~/.zfunc/_tfprune    # with `fpath+=~/.zfunc` before compinit in .zshrc
tfprune completion fish > ~/.config/fish/completions/tfprune.fish
"""
    parser = add_command(commands, "completion", run=_completion, text=text, extra="completion", examples=examples)
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh", "fish", "powershell"], help="the shell")
    parser.set_defaults(whole=whole)


def _completion(options: argparse.Namespace) -> Script:
    import shtab

    return Script(options.shell, shtab.complete(options.whole, options.shell))
