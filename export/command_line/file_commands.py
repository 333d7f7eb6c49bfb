"""Commands for files that exist: inspect, verify, compare, check, reproduce, bench, train and web; and the demo."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import io
import json
import math
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tfprune.base.folders import TemporaryFolder
from tfprune.export.command_line.commands import INPUTS
from tfprune.export.command_line.options import (
    add_command,
    add_device,
    add_file,
    add_imports,
    add_model_file,
    device_of,
    refuse_options,
)
from tfprune.export.comparing.damage import CORRUPTIONS
from tfprune.export.file.container import check_destination, check_not_read, is_model_file, write_atomically
from tfprune.export.file.report import (
    Certificate,
    folder_hash,
    hashed,
    read_certificate,
    version_differences,
)
from tfprune.export.keras_side.loading import (
    Supplies,
    absent,
    load_arrays,
    load_groups,
    load_keras,
    load_model,
)
from tfprune.report import Report, table

# `tfprune inspect`: what a file holds.


def add_inspect(commands: Any) -> None:
    text = "List the inputs, outputs, operators and weights of a .tflite file, with their zeros and the bytes saved."
    examples = "tfprune inspect model.tflite\ntfprune inspect model.tfz --html page.html"
    parser = add_command(commands, "inspect", run=_inspect, text=text, extra="device", examples=examples)
    add_model_file(parser)
    add_file(parser, "--html", metavar="PAGE", help="also write an HTML page with pictures of the zeros")


def _inspect(options: argparse.Namespace) -> Any:
    from tfprune.export.file.inspect import inspect, page

    if options.html:
        from tfprune.export.keras_side.ask import sparse_inference  # of a file it imports no Keras

        check_not_read(options.html, options.model)
        content = page(options.model, inference=sparse_inference(options.model))
        write_atomically(options.html, content.encode())
    return inspect(options.model)


# `tfprune verify`: run a file, here or on a device, and compare it with a Keras model or another file.

_ROWS, _SECONDS = 4, 120  # of random samples, and of a run
# Options that stand for arguments of the library with other names.
_VERIFY_ARGUMENTS = {"expected": "--against"}


def add_verify(commands: Any) -> None:
    text = (
        "Run a .tflite file in a separate process, here or with --on on a board or a phone. --against compares it "
        "with the Keras model or with another file, and --labels reports its accuracy."
    )
    examples = """
tfprune verify model.tflite
tfprune verify model.tflite --against model.keras --samples samples.npy
tfprune verify sparse.tfz --against dense.tflite
tfprune verify model.tflite --samples samples.npy --labels labels.npy
tfprune verify model.tflite --samples samples.npy --labels labels.npy --on pi@raspberrypi
"""
    parser = add_command(commands, "verify", run=_verify, text=text, extra="device", examples=examples)
    parser.set_defaults(arguments=_VERIFY_ARGUMENTS)
    add_model_file(parser)
    add_file(
        parser, "--against", metavar="MODEL", help="a .tflite file or a saved Keras model with the expected outputs"
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
    from tfprune.export.device.verify import verify

    against_file = bool(options.against) and is_model_file(options.against)
    if options.against and not (options.samples or against_file):
        raise ValueError(
            "Expected samples to compare with a Keras model on. Received: --against without --samples FILE."
        )
    inputs, expected = load_arrays(options.samples) if options.samples else None, None
    if against_file:
        inputs, expected = _run(options.against, inputs)
    elif options.against:
        expected = _predict(load_model(options.against, imports=options.imports), inputs)
    labels = load_arrays(options.labels) if options.labels else None
    # A bar of progress is no part of the report.
    with contextlib.redirect_stdout(sys.stderr), device_of(options) as device:
        return verify(options.model, inputs, expected, labels=labels, tolerance=options.tolerance, on=device)


def _run(path: str, inputs: Any) -> tuple[Any, list[Any]]:
    """Return the inputs of a file, random numbers if there are none, and what it returns for them."""
    from tfprune.export.device.runner import random_inputs
    from tfprune.export.device.verify import run_in_child
    from tfprune.export.file.model_file import ModelFile

    file = ModelFile.open(path)
    if inputs is None and len(file.signatures) < 2:
        inputs = random_inputs(file.graph.inputs, file.graph.outputs, rows=_ROWS)
    run = run_in_child(file, inputs, timeout=_SECONDS)
    if run.reason:
        raise ValueError(f"Expected a file that runs with --against. Received: {path!r}: {run.reason}.")
    return inputs, list(run.outputs.values())


def _predict(model: Any, inputs: Any) -> Any:
    import tfprune
    from tfprune.export.keras_side.prepare import signature

    plain = tfprune.strip(model)
    signature(plain).arrays(inputs, "--samples")  # Keras' own message would not name them
    return plain.predict(inputs, verbose=0)


# `tfprune compare`: what a smaller model lost, for each class, group and sample.

_NO_LIMIT = "No limit was set: with --max-drop the exit code is 1 if more is lost."
_KERAS_FILES, _ARRAY_FILES = (".keras", ".h5"), (".npy", ".npz")


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
        return replace(report, notes=(*report.notes, _NO_LIMIT))
    return report


def _side(path: str, options: argparse.Namespace) -> Any:
    """Return a file as its path, a Keras model loaded, and recorded outputs as arrays."""
    suffix = Path(path).suffix.lower()
    if suffix in _ARRAY_FILES:
        return load_arrays(path)
    return load_model(path, imports=options.imports) if suffix in _KERAS_FILES else path


# `tfprune check`: the gate, a policy that a file has to keep.

_CHECK_ARGUMENTS = {"web_result": "--web", "y": "--data"}


@dataclass(frozen=True)
class _PolicyFile(Report):
    """A policy that was written."""

    path: str

    def __str__(self) -> str:
        return f"Wrote {self.path}. Edit it, and run: tfprune check FILE --policy {shlex.quote(self.path)}"


def add_check(commands: Any) -> None:
    text = (
        "Check a .tflite file against a policy: its size, memory and speed, and the accuracy of each class. It is a "
        "gate for pull requests. The exit code is 1 if a rule is broken, and 2 if one could not be measured."
    )
    examples = """
tfprune check model.tflite --init policy.toml
tfprune check model.tflite --policy policy.toml
tfprune check model.tflite --policy policy.toml --baseline main.tflite --data x.npy,y.npy --markdown check.md
"""
    told = "print the report as JSON instead of a table, or write it into FILE"
    parser = add_command(commands, "check", run=_check, text=text, extra="device", examples=examples, json=told)
    parser.set_defaults(arguments=_CHECK_ARGUMENTS)
    add_model_file(parser)
    goal: Any = parser.add_mutually_exclusive_group(required=True)
    add_file(goal, "--policy", metavar="FILE", help="the policy, in TOML")
    add_file(goal, "--init", metavar="FILE", help="write a policy that the file keeps as it is, to be edited")
    add_file(parser, "--baseline", metavar="MODEL", help="the file before the change, to compare with")
    text = "samples and labels, for accuracy and outputs: .npy, or .npz with one array per input"
    parser.add_argument("--data", metavar="X[,Y]", help=text)
    text = "groups of samples: a .npy file, named after the group, or .npz with one array per group"
    add_file(parser, "--groups", metavar="FILE", help=text)
    parser.add_argument("--output", metavar="NAME", help="output whose accuracy is compared, if there are several")
    text = "result of a page of `tfprune web`, as evidence that the file runs in a browser"
    add_file(parser, "--web", metavar="RESULT", help=text)
    add_file(parser, "--markdown", metavar="FILE", help="also write the report in Markdown, for a pull request")
    add_file(parser, "--junit", metavar="FILE", help="also write the report as JUnit XML")


def _check(options: argparse.Namespace) -> Any:
    from tfprune.export.comparing.gate import check, first_policy

    pages = {"markdown": options.markdown, "junit": options.junit}
    pages |= {"as_dict": options.json} if isinstance(options.json, str) else {}
    data = _read_sides(options)
    written = [path for path in pages.values() if path]
    if len({os.path.realpath(path) for path in written}) < len(written):
        raise ValueError(f"Expected a file for each report. Received: {', '.join(written)}.")
    for path in filter(None, (*written, options.init)):
        check_destination(path)
        check_not_read(path, options.model, options.policy, options.baseline, options.groups, options.web)
        check_not_read(path, *(options.data or "").split(","))
    groups = load_groups(options.groups)
    if options.init:
        _check_new(options.init)
        content = first_policy(options.model, baseline=options.baseline, data=data, groups=groups)
        write_atomically(options.init, content.encode())
        return _PolicyFile(options.init)
    with contextlib.redirect_stdout(sys.stderr):  # a bar of progress is no part of the report
        report = check(
            options.model,
            options.policy,
            baseline=options.baseline,
            data=data,
            groups=groups,
            output=options.output,
            web_result=options.web,
        )
    for form, path in pages.items():
        if path:
            content = getattr(report, form)()
            write_atomically(path, (content if form != "as_dict" else json.dumps(content, indent=2)).encode())
    options.json = options.json is True  # else it is written
    return report


def _read_sides(options: argparse.Namespace) -> Any:
    """Return samples, or samples and labels; None for none."""
    files = options.data.split(",") if options.data else []
    if len(files) > 2:
        raise ValueError(f"Expected --data X or --data X,Y. Received: {options.data!r}.")
    arrays = [load_arrays(file) for file in files]
    return tuple(arrays) if len(arrays) == 2 else arrays[0] if arrays else None


def _check_new(path: str) -> None:
    if Path(path).exists():
        raise ValueError(
            f"Expected a new file with --init. Received: {path!r}, which exists. Remove it, or choose another name: "
            "a policy that was edited is not overwritten."
        )


# `tfprune reproduce`: a file made again from its certificate.
#
# A certificate is not trusted. Its recipe is a call of a function that is listed here, on plain values and on inputs
# that have the hash in the certificate. Modules of the user and other programs run only if the user names them here
# as well, and modules only if their hash is equal, too.

_WRITERS = {
    *("to_tflite", "prune_tflite", "shrink_tflite", "rewrite", "compress"),
    *("to_generator", "to_embedder", "to_trainer"),
}
_WRITING_COMMANDS = ("export", "prune", "shrink", "compress")


@dataclass(frozen=True)
class _Reproduced(Report):
    """A file that was made again from its certificate, and whether its bytes are equal."""

    file: str
    equal: bool
    sha256: str
    expected: str
    bytes: int
    expected_bytes: int
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        rows = [["bytes", f"{self.bytes:,}"], ["sha256", self.sha256]]
        if not self.equal:
            rows += [["expected bytes", f"{self.expected_bytes:,}"], ["expected sha256", self.expected]]
        rows += [["note", note] for note in self.notes]
        return table([self.file, "EQUAL" if self.equal else "DIFFERENT"], rows, left=2)


def add_reproduce(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command; `whole` is the parser of the whole command line, which reads that of a certificate."""
    text = (
        "Make a .tflite or .litertlm file again from its certificate, and compare the bytes. Inputs that are missing "
        "or have changed, and packages of another version, are listed before any work starts. The exit code is 0 for "
        "equal bytes, 1 for different ones, and 2 if the file could not be made again."
    )
    examples = """
tfprune reproduce model.json
tfprune reproduce model.json --from data --from model.keras --output again.tflite
tfprune reproduce model.json --file model.tflite --import my_layers
"""
    parser = add_command(commands, "reproduce", run=_reproduce, text=text, extra="train", examples=examples)
    parser.set_defaults(whole=whole)
    text = "a certificate, written with --certificate or by the report's `certificate`"
    add_file(parser, "document", metavar="CERTIFICATE", help=text)
    text = (
        "file, or folder of files, in which models and arrays are found by their hash; may be repeated (default: the "
        "folder of the certificate)"
    )
    add_file(parser, "--from", dest="places", metavar="PATH", action="append", default=[], help=text)
    add_file(parser, "--file", metavar="FILE", help="the file that the certificate is of, which is compared first")
    add_file(parser, "--output", metavar="FILE", help="also write the file that was made again")
    text = "go on with other versions of packages, and list them in the report"
    parser.add_argument("--any-versions", action="store_true", help=text)
    text = "Python that has LiteRT Quantizer, for a certificate that names one; it runs only if it is named here"
    add_file(parser, "--recipe-python", metavar="PATH", help=text)
    add_imports(parser)


def _reproduce(options: argparse.Namespace) -> Any:
    certificate = read_certificate(options.document)
    if options.file is not None and hashed(Path(options.file).read_bytes())["sha256"] != certificate.file["sha256"]:
        raise ValueError(
            f"Expected the file that {options.document!r} is the certificate of, {certificate.file['name']!r}. "
            f"Received: {options.file!r}, which is another one."
        )
    if options.output is not None:
        check_destination(options.output)
        check_not_read(options.output, options.document, options.file, *options.places, *certificate.inputs)
    notes = _check_versions(certificate, options)
    _check_code(certificate, options)
    recipe = _command_recipe if certificate.command else _call_recipe
    with TemporaryFolder() as folder, contextlib.redirect_stdout(sys.stderr):
        path = Path(folder, certificate.file["name"])
        recipe(certificate, options, path)()
        content = path.read_bytes() if path.is_file() else b""
    if options.output is not None and content:
        write_atomically(options.output, content)
    now, expected = hashed(content), certificate.file
    if not content:
        notes.append("no file of this name was made")
    return _Reproduced(
        file=expected["name"],
        equal=now["sha256"] == expected["sha256"],
        sha256=now["sha256"],
        expected=expected["sha256"],
        bytes=now["bytes"],
        expected_bytes=expected["bytes"],
        notes=(*notes, *certificate.notes),
    )


def _refuse(problems: Sequence[str], certificate: Certificate) -> None:
    """Refuse to work if something is missing, and name all of it."""
    if problems:
        raise ValueError(
            f"Expected all that {certificate.file['name']!r} was made of. Received: {'; '.join(problems)}."
        )


def _check_versions(certificate: Certificate, options: argparse.Namespace) -> list[str]:
    """Refuse other versions of packages, and return notes about Python's."""
    differences = version_differences(certificate)
    notes = [text for name, text in differences.items() if name == "python" or options.any_versions]
    machine = certificate.machine.get("machine")
    if machine != platform.machine():
        notes.append(f"machine {machine}, and here it is {platform.machine()}: other processors may round otherwise")
    others = [text for name, text in differences.items() if name != "python" and not options.any_versions]
    if others:
        raise ValueError(
            f"Expected the packages of {options.document!r}. Received: {'; '.join(others)}. Install those versions, "
            "or pass --any-versions to compare all the same."
        )
    return notes


def _check_code(certificate: Certificate, options: argparse.Namespace) -> None:
    """Refuse code that the user did not name, or that is not the code of the certificate."""
    problems = [
        f"--import {name}, which is not in the certificate" for name in {*options.imports} - {*certificate.code}
    ]
    for name, sha256 in certificate.code.items():
        if name not in options.imports:
            problems.append(
                f"no --import {name}, a module that the certificate names; it runs code, so look at it first"
            )
        elif _module_hash(name) != sha256 or not sha256:
            problems.append(f"module {name}, which is not found here, or has changed")
    _refuse(sorted(problems), certificate)


def _module_hash(name: str) -> str:
    """Return the SHA-256 of a module's file, as Python would find it, without running it; empty if there is none."""
    for folder in (str(Path.cwd()), *sys.path):
        path = Path(folder, *name.split("."))
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return folder_hash(file)
    return ""


def _places(options: argparse.Namespace) -> Iterator[Path]:
    """Yield the files in which inputs are looked for."""
    for place in map(Path, options.places or [Path(options.document).parent]):
        yield from sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]


def _command_recipe(certificate: Certificate, options: argparse.Namespace, path: Path) -> Callable[[], Any]:
    """Return a function that runs the command line of a certificate, with inputs of the same hashes."""
    words = certificate.command
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            command = options.whole.parse_args(words if words[0] in _WRITING_COMMANDS else ["unknown"])
    except SystemExit as error:
        raise ValueError(
            f"Expected a command line that writes a file in {options.document!r}. Received: tfprune "
            f"{shlex.join(words)}."
        ) from error
    problems = []
    for name in ("on", "python", "ssh"):
        if getattr(command, name, None) is not None:
            problems.append(
                f"--{name}, a device that a search measured on, as another run would not measure the same"
            )
    if getattr(command, "recipe_python", None) is not None:
        command.recipe_python = options.recipe_python
        if options.recipe_python is None:
            problems.append("no --recipe-python, a program that the certificate names; it is run only if you name it")
    inputs = {name: _input_path(name, sha256, options) for name, sha256 in certificate.inputs.items()}
    problems += [absent(name, certificate.inputs[name]) for name, place in inputs.items() if place is None]
    _refuse(problems, certificate)
    for name, value in vars(command).items():
        if name in INPUTS and isinstance(value, str):
            setattr(command, name, ",".join(str(inputs.get(piece, piece)) for piece in value.split(",")))
    command.path, command.folder = str(path), str(path.parent)
    command.imports, command.certificate, command.card = options.imports, None, False
    return partial(command.command, command)


def _input_path(name: str, sha256: str, options: argparse.Namespace) -> Path | None:
    """Return where an input is that a command line named, by its hash; None if it is nowhere."""
    places = [Path(place) for place in (*options.places, Path(options.document).parent)]
    choices = [Path(name), *places, *(place / Path(name).name for place in places)]
    return next((path for path in choices if path.exists() and folder_hash(path) == sha256), None)


def _call_recipe(certificate: Certificate, options: argparse.Namespace, path: Path) -> Callable[[], Any]:
    """Return a function that calls the writer of a certificate, with arguments of the same hashes."""
    from tfprune import export

    problems = (
        [] if certificate.function in _WRITERS else [f"function {certificate.function!r}, which writes no file"]
    )
    supplies = Supplies(_places(options), problems, options=options)
    arguments = {name: supplies.value(value) for name, value in certificate.arguments.items()}
    _refuse(problems, certificate)
    arguments = {name: supplies.with_models(value) for name, value in arguments.items()}
    _refuse(problems, certificate)
    place = {"folder": path.parent} if certificate.function == "compress" else {"path": path}
    write: Callable[..., Any] = getattr(export, certificate.function)
    return partial(write, **{**arguments, **place, "verbose": 0})


# `tfprune bench`: how fast a file is here, on a device or in a browser; of a language model, tokens per second.

_OF_MODELS = (
    "against",
    *("model", "samples", "runs", "warmup", "threads", "batch_size", "processes", "cool_down"),
    *("on", "python", "ssh"),
)


def add_bench(commands: Any) -> None:
    text = (
        "Measure the latency and peak memory of a .tflite file in a separate process, here or with --on on a board "
        "or a phone. For a language model's file of tfprune.export.to_generator, a run is one token of text, and the "
        "report has the tokens per second of prompts, too. --web prints what a page of `tfprune web` measured."
    )
    examples = """
tfprune bench model.tflite --runs 200 --threads 4
tfprune bench small.tflite --against model.tflite
tfprune bench writer.tflite --runs 100
tfprune bench model.tflite --on pi@raspberrypi --python env/bin/python
tfprune bench --web result.json
"""
    parser = add_command(commands, "bench", run=_bench, text=text, extra="device", examples=examples)
    parser.set_defaults(command=partial(_bench, parser))
    add_model_file(parser, nargs="?")
    add_file(
        parser, "--against", metavar="MODEL", help="another file: it is measured first, and the report compares both"
    )
    text = "JSON file with the results of a page of `tfprune web`, instead of a model"
    add_file(parser, "--web", metavar="RESULT", help=text)
    add_file(
        parser,
        "--samples",
        metavar="FILE",
        help="samples of each run: .npy, or .npz with one array per input (default: random numbers)",
    )
    parser.add_argument(
        "--runs", type=int, default=50, metavar="N", help="number of timed runs (default: %(default)s)"
    )
    text = "number of runs before timing starts (default: %(default)s)"
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help=text)
    text = "threads of the interpreter (default: %(default)s)"
    parser.add_argument("--threads", type=int, default=1, metavar="N", help=text)
    text = "random samples in each run (default: %(default)s)"
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help=text)
    text = "number of processes that repeat this (default: 1 here, 3 with --on)"
    parser.add_argument("--processes", type=int, metavar="N", help=text)
    text = "pause between two processes (default: %(default)s)"
    parser.add_argument("--cool-down", type=float, default=1.0, metavar="SECONDS", help=text)
    add_device(parser)


def _bench(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Any:
    if options.web is not None:
        refuse_options(parser, options, names=_OF_MODELS, of="a MODEL", source="web")
        from tfprune.export.device.web import read_web_result

        return read_web_result(options.web)
    if options.model is None:
        raise ValueError("Expected a MODEL, or --web RESULT. Received: neither. See `tfprune bench --help`.")
    from tfprune.export.device.benchmark import benchmark

    inputs = load_arrays(options.samples) if options.samples else None
    # A bar of progress is no part of the report.
    with contextlib.redirect_stdout(sys.stderr), device_of(options) as device:
        reports = [
            benchmark(
                model,
                samples=inputs,
                runs=options.runs,
                warmup=options.warmup,
                threads=options.threads,
                batch_size=options.batch_size,
                processes=options.processes,
                cool_down=options.cool_down,
                on=device,
            )
            for model in (options.against, options.model)
            if model is not None
        ]
    return reports[0] if len(reports) == 1 else _TwoFiles(*reports)


@dataclass(frozen=True)
class _TwoFiles(Report):
    """The times of two files, measured one after the other."""

    against: Any
    model: Any

    def __str__(self) -> str:
        rows = [
            [text, f"{report.median_ms:.3f} ms", f"{report.p90_ms:.3f} ms", f"{report.file_bytes:,}"]
            for text, report in (("against", self.against), ("model", self.model))
        ]
        ratio = self.against.median_ms / self.model.median_ms
        both = table(["file", "median", "90 %", "bytes"], rows)
        return f"{self.model}\n\n{both}\nThe model is {ratio:.2f} times as fast."


# `tfprune generate`: let a language model's file continue a text.

_STDERR = 2  # its number in the process


@dataclass(frozen=True)
class _WrittenText(Report):
    """A prompt and its continuation; as a table it is empty, because the continuation was printed already."""

    prompt: str
    text: str

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True)
class _Conversation(_WrittenText):
    """A conversation; empty as a table, too."""

    turns: tuple[_WrittenText, ...]


def add_generate(commands: Any) -> None:
    text = (
        "Continue a text with a .tflite or .litertlm file of tfprune.export.to_generator, and print it as it is "
        "written. --chat holds a conversation instead: each line of the standard input is a turn."
    )
    examples = """
tfprune generate writer.tflite "The quick brown fox"
tfprune generate writer.tflite "Once upon a time" --max-tokens 100 --temperature 0.8 --top-p 0.9 --seed 1
tfprune generate writer.tflite --chat --max-tokens 100
"""
    parser = add_command(commands, "generate", run=_generate, text=text, extra="generate", examples=examples)
    text = "a .tflite or .litertlm file; a .tflite file may be packed, or compressed with gzip or xz"
    add_file(parser, "model", metavar="MODEL", help=text)
    text = "the text to continue; with --chat instructions for the whole conversation (default: none)"
    parser.add_argument("prompt", metavar="TEXT", nargs="?", help=text)
    text = "answer each line of the standard input; for models that were trained on conversations"
    parser.add_argument("--chat", action="store_true", help=text)
    text = "tokens to write at most (default: until the text ends or does not fit any more)"
    parser.add_argument("--max-tokens", type=int, metavar="N", help=text)
    text = "0 takes the likeliest token; above 0, tokens are drawn (default: %(default)s)"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=text)
    parser.add_argument("--top-k", type=int, metavar="N", help="draw among so many of the likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among tokens of this probability together")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="where to end; may be repeated")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the draws (default: another each time)")
    parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="threads of the interpreter (default: %(default)s)"
    )


def _generate(options: argparse.Namespace) -> Any:
    from tfprune.export.device.generator import Generator

    if options.prompt is None and not options.chat:
        raise ValueError("Expected a text to continue, or --chat. Received: neither.")
    if options.chat and options.stop:
        raise ValueError("Expected --chat without --stop, as turns end by themselves. Received: both.")
    names = ("max_tokens", "temperature", "top_k", "top_p", "seed")
    settings = {name: getattr(options, name) for name in names}

    def write() -> _WrittenText:
        generator = Generator(options.model, threads=options.threads)
        if options.chat:
            talk = generator.chat(instructions=options.prompt or "")
            return _conversation(talk, options, settings)
        pieces = generator.stream(options.prompt, stop=options.stop, **settings)
        return _written(options.prompt, pieces, options)

    with _quiet_libraries():
        return write()


def _conversation(talk: Any, options: argparse.Namespace, settings: Mapping[str, Any]) -> _Conversation:
    """Answer each line until the input ends, and skip empty ones."""
    lines = (line.rstrip("\n") for line in sys.stdin)
    turns = [_written(line, talk.stream(line, **settings), options) for line in lines if line]
    return _Conversation(options.prompt or "", "".join(turn.text for turn in turns), tuple(turns))


def _written(prompt: str, pieces: Iterator[str], options: argparse.Namespace) -> _WrittenText:
    """Print the pieces of a text, and return it."""
    texts = []
    for piece in pieces:
        texts.append(piece)
        if not options.json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if options.chat and not options.json:
        sys.stdout.write("\n")
    return _WrittenText(prompt, "".join(texts))


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Drop what native code logs: LiteRT writes a page when it loads a file, and has no setting for that.

    It also writes lines when the file is closed, and when the process ends.
    """
    atexit.register(_drop_native_errors)
    saved, python = os.dup(_STDERR), sys.stderr
    _drop_native_errors()
    try:
        yield
    finally:
        traceback.clear_frames(sys.exc_info()[2])  # those of an error hold the file, which is closed here
        if sys.stderr is not python:
            sys.stderr.close()
        sys.stderr = python
        os.dup2(saved, _STDERR)
        os.close(saved)


def _drop_native_errors() -> None:
    """Let native code write its errors nowhere, and Python where it did before."""
    sys.stderr.flush()
    encoding = sys.stderr.encoding
    if sys.stderr is sys.__stderr__:  # not replaced by another program
        sys.stderr = os.fdopen(os.dup(_STDERR), "w", buffering=1, encoding=encoding, errors="backslashreplace")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (not a path on every system)
        os.dup2(nowhere.fileno(), _STDERR)


# `tfprune web`: a folder that runs files in a browser.


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
    parser.set_defaults(arguments={"target": "--tasks"})
    text = "a .tflite file with a fixed batch, plain or packed; the first is the reference of the speed"
    add_file(parser, "files", metavar="MODEL", nargs="+", help=text)
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder to write: new, empty, or one that this command wrote"
    )
    text = "samples that the page runs: .npy, or .npz with one array per input (default: random numbers)"
    add_file(parser, "--samples", metavar="FILE", help=text)
    text = "run image classifiers with MediaPipe Tasks; --samples are then pictures, bytes from 0 to 255"
    parser.add_argument("--tasks", action="store_true", help=text)


def _web(options: argparse.Namespace) -> Any:
    from tfprune.export.device.web import web

    samples = load_arrays(options.samples) if options.samples else None
    target = "mediapipe" if options.tasks else "litert"
    return web(options.files, options.folder, samples=samples, target=target)


# `tfprune train`: a file that goes on learning.


def add_train(commands: Any) -> None:
    text = (
        "Train a file of tfprune.export.to_trainer further, with NumPy and LiteRT alone, and keep what it learned in "
        "a file of its own. If that exists, training continues from there."
    )
    examples = """
tfprune train watch.tfz --data x.npy,y.npy
tfprune train watch.tfz --data x.npy,y.npy --validation xv.npy,yv.npy --epochs 5 --state ada.npz
tfprune train watch.tfz --data x.npy,y.npy --time 60 --export mine.tfz
"""
    parser = add_command(commands, "train", run=_train, text=text, extra="device", examples=examples)
    add_file(parser, "model", metavar="FILE", help="a file of to_trainer, plain or packed")
    parser.add_argument("--data", metavar="X,Y", required=True, help="samples and labels: .npy, or .npz for x")
    parser.add_argument("--validation", metavar="X,Y", help="samples and labels that are evaluated after each epoch")
    text = "what it learned: read if it exists, written after each epoch (default: FILE with the suffix .state.npz)"
    add_file(parser, "--state", metavar="FILE", help=text)
    text = "also write a file for inference, which Runner reads; its suffix says how it is compressed (.tfz: packed)"
    add_file(parser, "--export", metavar="FILE", help=text)
    parser.add_argument("--epochs", type=int, default=1, help="how often all samples are seen (default: 1)")
    text = "learning rate of the optimizer (default: as exported)"
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help=text)
    parser.add_argument("--time", type=float, help="seconds after which training stops (default: no limit)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: 1)")


def _train(options: argparse.Namespace) -> Any:
    from tfprune.export.file.container import SUFFIXES
    from tfprune.export.rewriting.trainer import Trainer

    state = Path(options.state or Path(options.model).with_suffix(".state.npz"))
    for path in (str(state), *([options.export] if options.export else [])):
        check_destination(path)
        check_not_read(path, options.model, *options.data.split(","))
    x, y = _labeled(options.data, "--data")
    validation = _labeled(options.validation, "--validation") if options.validation else None
    trainer = Trainer(options.model, threads=options.threads)
    if state.exists():
        trainer.load(state)

    def save_epoch(trainer: Trainer, step: int, loss: float) -> None:
        if step % math.ceil(len(y) / trainer.task.batch) == 0:
            trainer.save(state)

    with contextlib.redirect_stdout(sys.stderr):
        report = trainer.fit(
            x,
            y,
            epochs=options.epochs,
            validation_data=validation,
            learning_rate=options.learning_rate,
            callback=save_epoch,
            time=options.time,
        )
        trainer.save(state)
        if options.export:
            compress = SUFFIXES.get(Path(options.export).suffix.lower())
            trainer.to_tflite(options.export, check_on=x, compress=compress)
    return report


def _labeled(paths: str, option: str) -> tuple[Any, Any]:
    x, comma, y = paths.rpartition(",")
    if not comma:
        raise ValueError(f"Expected {option} X,Y, samples and labels. Received: {paths!r}. Add the file of labels.")
    return load_arrays(x), load_arrays(y)


# `tfprune demo`: the whole way on a small network.


def add_demo(commands: Any) -> None:
    text = (
        "Prune a small CNN to 90 %, export it, run it without TensorFlow, and search for the best file, in about "
        "two minutes."
    )
    examples = "tfprune demo --output demo-output"
    parser = add_command(commands, "demo", run=_demo, text=text, extra="demo", examples=examples)
    parser.add_argument(
        "--output",
        default="demo-output",
        metavar="DIR",
        help="folder for the models and the picture (default: demo-output)",
    )


def _demo(options: argparse.Namespace) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=os.fdopen(os.dup(2), "w"))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def tell(what: str, done: float) -> None:
            if not console.is_terminal and what != progress.tasks[0].description:  # a log shows no bar
                console.print(what)
            progress.update(task, description=what, completed=done)

        tell("loading TensorFlow", 0.0)
        load_keras()
        from tfprune.export.command_line.demo import run_demo

        return run_demo(options.output, tell=tell)
