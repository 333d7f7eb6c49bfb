"""Run files in a browser: write a folder that any web server shows, and read what its page measured.

The page is in `page/`: `worker.js` runs the models with LiteRT.js, or `tasks.js` in its place with MediaPipe Tasks;
`calls.js` is what both share. `runtime.js` makes their calls promises, and `page.js` checks and measures. npm brings
the runtimes; nothing of them is in this package.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import LARGEST_JSON, parse_json, read_fields, reading, unfinished
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_number
from tfprune.export.device.runner import arrays_of, batch_inputs, random_inputs
from tfprune.export.device.verify import format_tolerance, run_in_child
from tfprune.export.file import schema
from tfprune.export.file.container import GZIP, XZ, read_source
from tfprune.export.file.document import LITERTLM
from tfprune.export.file.inspect import inspect
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model
from tfprune.export.file.report import TensorInfo, number_text, open_batch, reason_of, shape_text, yes_or_no
from tfprune.report import Report, shortened, table

# The folder of a page: written whole or not at all, and never over files of somebody else.

_PACKAGE = "package.json"
_MARK = "tfprune"  # a key of package.json, which npm leaves alone
_MODELS = "models"


def _check_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path if the page can be written there, before any work is done for it.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it is a file, a folder with files of somebody else, or its parent is missing or not writable.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(
            f"Expected the path of the folder to write. Received: an object of type {type(folder).__name__}."
        )
    name = repr(os.fspath(folder))
    try:
        real = Path(os.path.realpath(folder))
        exists = os.path.lexists(real)
        is_foreign = exists and not (real.is_dir() and (_is_ours(real) or not any(real.iterdir())))
        has_parent = real.parent.is_dir()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot write {name}: {reason_of(error)}. Choose another folder.") from error
    if is_foreign:
        raise ValueError(
            f"Expected a new or empty folder, or one that `web` has written. Received: {name}, which is not. "
            "Choose another folder."
        )
    if not has_parent:
        raise ValueError(f"Cannot write {name}: the folder {str(real.parent)!r} does not exist. Create it first.")
    if not os.access(real if exists else real.parent, os.W_OK | os.X_OK):
        raise ValueError(f"Cannot write {name}: no permission. Choose another folder or change its permissions.")
    return Path(folder)


def _is_ours(folder: Path) -> bool:
    path = folder / _PACKAGE
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:
        return False
    try:
        package = parse_json(path.read_bytes())
    except ValueError:
        return False
    return isinstance(package, dict) and isinstance(package.get(_MARK), dict) and "web" in package[_MARK]


def _write_folder(folder: Path, files: Mapping[str, bytes], *, package: Mapping[str, Any]) -> None:
    """Write the files of a page, all of them or none.

    They are written beside the others first. A new folder then gets its name in one step; in an old one each file is
    replaced, and its models are removed that are not among the new ones. Other files stay.

    Args:
        folder: What `_check_folder` returned.
        files: Contents by name; those in `models/` are the models.
        package: The content of package.json, to which the mark of such folders is added.

    Raises:
        ValueError: If the folder cannot be written.
    """
    real = Path(os.path.realpath(folder))
    marked = json.dumps({**package, _MARK: {"web": 1}}, indent=2).encode()
    inside = real.is_dir()
    try:
        with unfinished(real / "page" if inside else real) as staged:
            for name, content in {**files, _PACKAGE: marked}.items():
                path = staged / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if inside:
                _replace(real, staged)
            else:
                staged.rename(real)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(folder)!r}: {reason_of(error)}. Choose another folder or free some space."
        ) from error


def _replace(folder: Path, staged: Path) -> None:
    """Move new files to their places in an existing folder, with the mark first, so that a second try may go on."""
    (staged / _PACKAGE).replace(folder / _PACKAGE)
    if (folder / _MODELS).exists():
        (folder / _MODELS).rename(staged / "old")
    for path in staged.iterdir():
        if path.name != "old":
            path.replace(folder / path.name)


# Samples, and what LiteRT gives for them on this machine: what a page compares the browser with.

_MOST_RUNS = 4
_MOST_BYTES = 2**24  # of the inputs and outputs of all runs of a file


@dataclass(frozen=True)
class _RecordedRuns:
    """The samples that a file was run on, and its outputs.

    Attributes:
        inputs: What the page passes to the file.
        runs: For each run the arrays of `inputs` and `outputs`, in the file's order.
        runtime: The interpreter and its version.
    """

    inputs: tuple[TensorInfo, ...]
    runs: tuple[dict[str, list[np.ndarray]], ...]
    runtime: str


def _record_runs(path: Path, model: Model, *, samples: Any, timeout: float) -> _RecordedRuns:
    """Run a file with fixed shapes on samples, in a process of its own.

    Args:
        path: The file.
        model: What it holds.
        samples: The samples, batch first; None draws random numbers.
        timeout: Seconds after which the process is stopped.

    Raises:
        TypeError: If the samples are not numbers.
        ValueError: If samples do not fit the file, a run is too large for a page, or the file does not run on them.
    """
    name = repr(str(path))
    arrays = _arrays(model, samples, runs=_most_runs(model, name), name=name)
    run = run_in_child(path, arrays, timeout=timeout)
    if run.reason:
        raise ValueError(f"Expected a file that runs on the samples. Received: {name}: {run.reason}.")
    outputs = [run.outputs[info.name] for info in model.outputs]
    for info, output in zip(model.outputs, outputs, strict=True):
        if not np.isfinite(output).all():
            raise ValueError(
                f"Expected finite outputs, to compare those of the browser with. Received: {name}, whose output "
                f"{info.name!r} has values that are not finite. Pass samples of the kind that the model is for."
            )
    sides = {"inputs": (model.inputs, arrays), "outputs": (model.outputs, outputs)}
    parts = {
        side: [array.astype(info.dtype).reshape(-1, _size(info)) for info, array in zip(*values, strict=True)]
        for side, values in sides.items()
    }
    count = len(parts["inputs"][0])
    runs = tuple({side: [part[number] for part in parts[side]] for side in parts} for number in range(count))
    return _RecordedRuns(tuple(model.inputs), runs, run.runtime)


def _record_pictures(path: Path, model: Model, *, samples: Any, timeout: float) -> _RecordedRuns:
    """Run a classifier on pictures that are normalized as its metadata say, for a page that does so itself.

    Args:
        path: The file.
        model: What it holds.
        samples: Bytes of shape (pictures, height, width, 3); None draws random ones.
        timeout: Seconds after which the process is stopped.

    Raises:
        TypeError: If the samples are not bytes.
        ValueError: If the file does not classify pictures or lacks a normalization, or the pictures do not fit it.
    """
    mean, deviation = _normalization(path, model)
    (info,) = model.inputs
    shape = (_MOST_RUNS, *(length or 1 for length in info.shape[1:]))  # no length is open
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8) if samples is None else np.asarray(samples)
    if pictures.dtype != np.uint8:
        raise ArgumentTypeError("samples", "pictures of type uint8, from 0 to 255", f"{pictures.dtype}")
    if pictures.ndim != 4 or pictures.shape[1:] != shape[1:] or not len(pictures):
        expected = f"pictures of shape (pictures, {', '.join(map(str, shape[1:]))})"
        raise ArgumentError("samples", expected, found=str(pictures.shape), advice="Resize the pictures.")
    pictures = pictures[:_MOST_RUNS]
    recorded = _record_runs(path, model, samples=((pictures - mean) / deviation).astype(np.float32), timeout=timeout)
    runs = [{**run, "inputs": [pixels.ravel()]} for run, pixels in zip(recorded.runs, pictures, strict=False)]
    return replace(recorded, inputs=(replace(info, dtype="uint8"),), runs=tuple(runs))


def _normalization(path: Path, model: Model) -> tuple[np.float32, np.float32]:
    """Return mean and deviation of a classifier's pixels by its metadata.

    Raises:
        ValueError: If it does not classify pictures, or its metadata lack a normalization that MediaPipe takes.
    """
    kinds = [(info.shape, info.dtype) for info in (*model.inputs, *model.outputs)]
    ranks = [(len(shape), dtype) for shape, dtype in kinds]
    if ranks != [(4, "float32"), (2, "float32")] or kinds[0][0][::3] != (1, 3) or kinds[1][0][0] != 1:
        both = f"{_inputs_text(model.inputs)} to {_inputs_text(model.outputs)}"
        raise ValueError(
            "Expected an image classifier for MediaPipe: one float32 input 1 x height x width x 3, and one float32 "
            f"output 1 x classes. Received: {str(path)!r}, which goes from {both}. Use target='litert'."
        )
    numbers = inspect(path).normalization.get(model.inputs[0].name, ((), ()))
    if [len({*each}) for each in numbers] != [1, 1]:
        received = f"with a mean of {numbers[0]} and a deviation of {numbers[1]}" if numbers[0] else "without one"
        raise ValueError(
            "Expected a file with a normalization of its pixels, equal for each color, which MediaPipe needs. "
            f"Received: {str(path)!r} {received}. Write one with add_metadata(source, path, mean=..., std=...)."
        )
    mean, deviation = (np.float32(each[0]) for each in numbers)
    return mean, deviation


def _size(info: TensorInfo) -> int:
    return math.prod(length or 1 for length in info.shape)


def _most_runs(model: Model, name: str) -> int:
    """Return how many runs fit into a page; a file without a batch is run once."""
    infos = (*model.inputs, *model.outputs)
    size = sum(_size(info) * np.dtype(info.dtype).itemsize for info in infos)
    if size > _MOST_BYTES:
        raise ValueError(
            f"Expected inputs and outputs of at most {_MOST_BYTES:,} bytes. Received: {name} with {size:,}. "
            "Use a file with a smaller batch."
        )
    has_batch = all(batch_inputs(model.inputs, model.outputs))
    return min(_MOST_RUNS, _MOST_BYTES // max(1, size)) if has_batch else 1


def _arrays(model: Model, samples: Any, *, runs: int, name: str) -> list[np.ndarray]:
    """Return an array for each input, with the rows of some whole runs."""
    has_batch = all(batch_inputs(model.inputs, model.outputs))
    batch = (model.inputs[0].shape[0] if has_batch else 1) or 1
    if samples is None:
        return random_inputs(model.inputs, model.outputs, rows=runs * batch)
    arrays = arrays_of(samples, names=[info.name for info in model.inputs])
    if not has_batch:
        return arrays
    whole = min(len(array) if array.ndim else 0 for array in arrays) // batch
    if not whole:
        wanted = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in model.inputs)
        raise ValueError(f"Expected samples for at least one run of {name}: {wanted}. Received: fewer.")
    return [array[: batch * min(whole, runs)] for array in arrays]


# Report of a folder that runs files in a browser.


@dataclass(frozen=True)
class WebFile(Report):
    """A file in the folder.

    Attributes:
        name: Its name.
        bytes: Its size, which a browser downloads.
        runs: How many runs the page compares with those on this machine.
        tolerance: The difference allowed, relative to the largest output.
    """

    name: str
    bytes: int
    runs: int
    tolerance: float


@dataclass(frozen=True)
class WebReport(Report):
    """Report of `web`: the written folder, and how to open it.

    Attributes:
        folder: The folder.
        files: A row for each file; the first is the reference of the speed.
        runtime: The interpreter that gave the expected outputs, and its version.
        browser_runtime: What runs the files in the browser; npm brings it.

    Example:
        >>> report = tfprune.export.web("digits_web.tflite", "page")
        >>> [(file.name, file.runs) for file in report.files]
        [('digits_web.tflite', 4)]
    """

    folder: str
    files: tuple[WebFile, ...]
    runtime: str
    browser_runtime: str

    def __str__(self) -> str:
        rows = [[row.name, f"{row.bytes:,}", row.runs, f"{row.tolerance:g}"] for row in self.files]
        steps = [
            f"Compared with {self.runtime}. To open the page, which runs {self.browser_runtime}:",
            f"cd {shlex.quote(self.folder)} && npm install && python3 -m http.server",
            "then open http://localhost:8000",
        ]
        return table(["model", "bytes", "runs", "tolerance"], rows) + "\n\n" + "\n".join(steps)


# Write a page that runs files in a browser, checks them, and measures their speed there.


@dataclass(frozen=True)
class _Runtime:
    """What runs the files in the browser.

    Attributes:
        name: Its name on the page.
        package: Its package of npm.
        version: The version that the page was tested with.
        worker: The script of the page that calls it.
    """

    name: str
    package: str
    version: str
    worker: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


_RUNTIMES = {
    "litert": _Runtime("LiteRT.js", "@litertjs/core", "2.5.3", "worker.js"),
    "mediapipe": _Runtime("MediaPipe Tasks", "@mediapipe/tasks-vision", "1.1.0", "tasks.js"),
}
_MOST_FILES = 8  # the browser holds all of them at the same time
_TYPES = ("float32", "int32")  # of inputs and outputs that the page takes, of those that LiteRT.js takes
# Its operators are the built-in ones of TFLite, and of others those that TFLite registers with them.
_CUSTOM_OPERATORS = {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"}
# The difference allowed between LiteRT here and in the browser, as a fraction of the largest output. Files that
# compute with floats were seen to differ by 4e-6, dynamic ones by 0.02: relaxed SIMD rounds in its own way.
_FLOAT_TOLERANCE, _INTEGER_TOLERANCE = 1e-4, 0.05


def web(
    files: str | os.PathLike[str] | Sequence[str] | Sequence[os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    samples: Any = None,
    target: str = "litert",
    timeout: float = 120,
) -> WebReport:
    """Write a folder whose page runs files in a browser with LiteRT.js, checks their outputs, and times them.

    Use it to test and time a file on phones and computers that have nothing installed. Run `npm install` in the
    folder, which brings LiteRT.js, and serve it, such as with `python3 -m http.server`. The page compares the outputs
    with those of LiteRT on this machine, loads nothing from another host, and gives its result as JSON, which
    `tfprune bench --web result.json` prints.

    Args:
        files: The path of a file, or up to 8 paths: .tflite files, plain or packed (`.tfz`), with a fixed batch. With
            several, the page gives the speed of each relative to the first: put the dense file first.
        folder: The folder to write: a new or empty one, or one that `web` has written, where other files, such as
            those of npm, are kept.
        samples: The samples that the page runs, in the forms that `Runner.predict` takes; it gets at most the first
            four batches. None (the default) draws random numbers.
        target: `"litert"` (the default) is LiteRT.js. `"mediapipe"` is the image classifier of MediaPipe Tasks: each
            file takes a picture with the normalization in its metadata and returns a score for each class, and the
            samples are pictures, bytes from 0 to 255 of shape (pictures, height, width, 3), before they are
            normalized.
        timeout: Seconds for the runs of one file on this machine. Default 120.

    Returns:
        A report of what was written.

    Raises:
        TypeError: If a path is not one, or `samples` are not numbers.
        ValueError: If a file is missing, damaged, or compressed with gzip or xz, or `target` is another one.
        ValueError: If LiteRT.js cannot run a file: because of an open batch, several signatures, an operator, or the
            type of an input or output; or MediaPipe cannot, as it is not an image
            classifier or lacks a normalization.
        ValueError: If the files have different inputs or the same name, or `samples` do not fit them.
        ValueError: If the folder is not one of `web` and not empty, or cannot be written. Nothing is written then.

    Example:
        >>> print(tfprune.export.web("digits_web.tflite", "page", samples=images))
        model               bytes  runs  tolerance
        -----------------  ------  ----  ---------
        digits_web.tflite  ...     4     0.0001
        <BLANKLINE>
        Compared with ai-edge-litert ... To open the page, which runs @litertjs/core 2.5.3:
        cd page && npm install && python3 -m http.server
        then open http://localhost:8000
    """
    check_number(timeout, "timeout", above=0)
    check_choice(target, "target", choices=_RUNTIMES)
    browser = _RUNTIMES[target]
    paths = _paths(files)
    destination = _check_folder(folder)
    contents = {path.name: _content(path) for path in paths}
    models = {path.name: _checked_model(path) for path in paths}
    _check_same_inputs(models)
    record = _record_pictures if target == "mediapipe" else _record_runs
    recorded = {path.name: record(path, models[path.name], samples=samples, timeout=timeout) for path in paths}
    samples_file = _SamplesFile()
    entries = [
        {**_entry(name, models[name], recorded[name], samples_file), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    ]
    _write_folder(
        destination,
        {
            **_page(browser),
            "manifest.json": _json(
                {"runtime": str(browser), "name": browser.name, "package": browser.package, "files": entries}
            ),
            "samples.bin": bytes(samples_file.content),
            **{f"models/{name}": content for name, content in contents.items()},
        },
        package=_package(browser),
    )
    rows = tuple(
        WebFile(name, len(contents[name]), len(recorded[name].runs), _tolerance(models[name])) for name in contents
    )
    return WebReport(str(destination), rows, recorded[paths[0].name].runtime, str(browser))


def _paths(files: Any) -> list[Path]:
    items = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(items, Sequence) or not all(isinstance(path, str | os.PathLike) for path in items):
        raise ArgumentTypeError("files", "the path of a file, or a list of paths", repr(files))
    if not 1 <= len(items) <= _MOST_FILES:
        raise ValueError(f"Expected 1 to {_MOST_FILES} files. Received: {len(items)}.")
    paths = [Path(path) for path in items]
    names = [path.name.casefold() for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"Expected files with different names. Received: two named {path.name!r}. Rename one.")
        if not path.name.isprintable():
            raise ValueError(
                f"Expected names of files that can be printed. Received: {path.name!r}. Rename the file."
            )
    return paths


def _content(path: Path) -> bytes:
    content = read_source(path)
    if content.startswith((GZIP, XZ, LITERTLM)):
        raise ValueError(
            f"Expected a .tflite file, plain or packed. Received: {str(path)!r}, which is compressed in another way. "
            "Unpack it first; web servers compress files themselves."
        )
    return content


def _checked_model(path: Path) -> Model:
    """Return what a file holds, if LiteRT.js can run it."""
    file = ModelFile.open(path)
    model = file.graph
    name = repr(str(path))
    if opened := open_batch((*model.inputs, *model.outputs)):
        raise ValueError(
            f"Expected a file with fixed shapes, which LiteRT.js needs. Received: {name}, where the shape of "
            f"{opened[0]!r} is open. Fix it with batch=1 in to_tflite or rewrite, or with `tfprune export ... "
            "--batch 1`."
        )
    if len(file.signatures) > 1:
        raise ValueError(
            f"Expected a file with one signature. Received: {name}, which has {len(file.signatures)}. "
            "Export each function of the model as a file."
        )
    for info in (*model.inputs, *model.outputs):
        if info.dtype not in _TYPES:
            raise ValueError(
                f"Expected inputs and outputs of type {' or '.join(_TYPES)}. Received: {name}, where {info.name!r} "
                f"is {info.dtype}. Export the model with such inputs and outputs, such as io_dtype='float32'."
            )
    builtin = {key for key in vars(schema.BuiltinOperator) if key.isupper()}
    if lacking := sorted(set(model.ops) - builtin - _CUSTOM_OPERATORS):
        raise ValueError(
            f"Expected a file with operators that LiteRT.js has. Received: {name} with {lacking[0]!r}. "
            "Use a form of the network without it."
        )
    return model


def _check_same_inputs(models: dict[str, Model]) -> None:
    first, *others = models
    wanted = _inputs_text(models[first].inputs)
    for other in others:
        if (text := _inputs_text(models[other].inputs)) != wanted:
            raise ValueError(
                f"Expected files with the same inputs. Received: {first!r} with {wanted} and {other!r} with {text}. "
                "Write a folder for each."
            )


def _inputs_text(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in infos)


def _tolerance(model: Model) -> float:
    return _FLOAT_TOLERANCE if format_tolerance(model) < 0.1 else _INTEGER_TOLERANCE


class _SamplesFile:
    """Arrays one after the other, each at a multiple of 4 bytes; equal ones once."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._starts: dict[bytes, int] = {}

    def add(self, array: Any) -> int:
        content = array.tobytes()
        if content not in self._starts:
            self._starts[content] = len(self.content)
            self.content += content + bytes(-len(content) % 4)
        return self._starts[content]


def _entry(name: str, model: Model, recorded: _RecordedRuns, samples_file: _SamplesFile) -> dict[str, Any]:
    """Return what the page needs to know of a file."""
    return {
        "name": name,
        "path": f"models/{name}",
        "tolerance": _tolerance(model),
        "inputs": [info.as_dict() for info in recorded.inputs],
        "outputs": [info.as_dict() for info in model.outputs],
        "runs": [
            {side: [samples_file.add(array) for array in arrays] for side, arrays in run.items()}
            for run in recorded.runs
        ],
    }


def _page(runtime: _Runtime) -> dict[str, bytes]:
    """Return the files of the page that are the same in each folder with this runtime."""
    page = resources("tfprune.export.device") / "page"
    reader = resources("tfprune.export.file") / "readers" / "tfz.mjs"
    # Some web servers do not know .mjs as a script, and browsers refuse it then.
    files = {file.name: file.read_bytes() for file in page.iterdir()}
    workers = {each.worker: files.pop(each.worker) for each in _RUNTIMES.values()}
    return {**files, "worker.js": workers[runtime.worker], "tfz.js": reader.read_bytes()}


def _package(runtime: _Runtime) -> dict[str, Any]:
    return {
        "name": "models-in-the-browser",
        "private": True,
        "description": "Written by tfprune: see README.md",
        "license": "Apache-2.0",
        "dependencies": {runtime.package: runtime.version},
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


# What a page of `web` has measured in a browser, read from the JSON that somebody copied there.

_MOST_ROWS, _LONGEST_NAME, _LONGEST_TEXT = 100, 60, 200
_KIND, _VERSION = "tfprune web", 1


@dataclass(frozen=True)
class WebResultRow(Report):
    """A file in the browser.

    Attributes:
        name: The name of the file.
        passed: Whether its outputs were as on the machine that wrote the page.
        tolerance: The difference allowed, relative to the largest output.
        reason: Why it failed; empty if it passed.
        difference: The largest difference, relative to the largest output; None if it did not run.
        wire_bytes: The bytes that the browser received.
        bytes: The size of the unpacked file.
        fetch_ms: Milliseconds of the download.
        unpack_ms: Milliseconds to unpack it.
        compile_ms: Milliseconds to load and compile it.
        median_ms: Median of one run; None if nothing was measured, as in the next three.
        p10_ms: The 10th percentile.
        p90_ms: The 90th percentile.
        times_faster: Median of the time of the first file divided by that of this one, run in turns.
        sha256: The hash of the file as the browser received it; empty in results of older pages.
    """

    name: str
    passed: bool
    tolerance: float
    reason: str = ""
    difference: float | None = None
    wire_bytes: int | None = None
    bytes: int | None = None
    fetch_ms: float | None = None
    unpack_ms: float | None = None
    compile_ms: float | None = None
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    times_faster: float | None = None
    sha256: str = ""


@dataclass(frozen=True)
class WebResult(Report):
    """The measurements of a page.

    Attributes:
        kind: Says that the JSON is of such a page.
        version: Version of the JSON.
        rounds: How often the files took turns; 0 if their speed was not measured.
        files: A row for each file.
        errors: What the browser reported as errors.
        runtime: LiteRT.js and its build.
        start_ms: Milliseconds in which it started.
        browser: What the browser calls itself.
        cores: The number of cores that the browser tells; None if it does not.
    """

    kind: str
    version: int
    rounds: int
    files: list
    errors: list
    runtime: str = "not started"
    start_ms: float | None = None
    browser: str = "unknown"
    cores: int | None = None

    @property
    def passed(self) -> bool:
        """Whether all files passed, and the browser reported no error."""
        return all(row.passed for row in self.files) and not self.errors

    def __str__(self) -> str:
        header = ["model", "bytes", "compile, ms", "one run, ms", "times faster", "difference", "passed"]
        cells = [
            [
                shortened(row.name, _LONGEST_NAME),
                "-" if row.wire_bytes is None else f"{row.wire_bytes:,}",
                *map(number_text, (row.compile_ms, row.median_ms, row.times_faster, row.difference)),
                yes_or_no(row.passed),
            ]
            for row in self.files
        ]
        facts = [
            ["runtime", self.runtime],
            ["started in", f"{number_text(self.start_ms)} ms"],
            ["browser", self.browser],
            ["cores", "unknown" if self.cores is None else str(self.cores)],
            ["rounds", str(self.rounds)],
            *(["failed", f"{row.name}: {row.reason}"] for row in self.files if not row.passed),
            *(["error", text] for text in self.errors),
        ]
        rows = [[name, shortened(value, _LONGEST_TEXT)] for name, value in facts]
        return table(header, cells) + "\n\n" + table(rows[0], rows[1:], left=2)


def read_web_result(path: str | os.PathLike[str]) -> WebResult:
    """Read the JSON of a page.

    Raises:
        ValueError: If the file cannot be read, or is not the JSON of a page.
    """
    expected, advice = "the JSON of a page of `tfprune web`", "Copy or download it from the page again"
    with reading(path, expected=expected, advice=advice):
        with Path(path).open("rb") as stream:
            content = parse_json(stream.read(LARGEST_JSON + 1))
        result = read_fields(WebResult, content)
        if (result.kind, result.version) != (_KIND, _VERSION):
            raise ValueError(f"its kind and version are not {_KIND!r} and {_VERSION}")
        if max(len(result.files), len(result.errors)) > _MOST_ROWS:
            raise ValueError(f"more than {_MOST_ROWS} files or errors")
        if not all(isinstance(text, str) for text in result.errors):
            raise ValueError("an error is not a text")
        return replace(result, files=[read_fields(WebResultRow, fields) for fields in result.files])
