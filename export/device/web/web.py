"""Write a page that runs files in a browser, checks them, and measures their speed there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from tfprune.base.spec import check_number
from tfprune.export.device.running.format_tolerance import format_tolerance
from tfprune.export.device.web.page_folder import check_folder, write_folder
from tfprune.export.device.web.recorded_runs import RecordedRuns, record_runs
from tfprune.export.device.web.web_report import WebFile, WebReport
from tfprune.export.file.files.codec import GZIP, XZ
from tfprune.export.file.files.litertlm import LITERTLM
from tfprune.export.file.files.model_file import read_model
from tfprune.export.file.files.source import read_source
from tfprune.export.file.report import TensorInfo, open_batch, shape_text
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.model import Model
from tfprune.export.file.tflite.reader import read

LITERT_JS = "2.5.3"  # the version of @litertjs/core that the page was tested with
MOST_FILES = 8  # the browser holds all of them at the same time
TYPES = ("float32", "int32")  # of inputs and outputs that the page takes, of those that LiteRT.js takes
# Its operators are the built-in ones of TFLite, and of others those that TFLite registers with them.
CUSTOM_OPERATORS = {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"}
# The difference allowed between LiteRT here and in the browser, as a fraction of the largest output. Files that
# compute with floats were seen to differ by 4e-6, dynamic ones by 0.02: relaxed SIMD rounds in its own way.
FLOAT_TOLERANCE, INTEGER_TOLERANCE = 1e-4, 0.05


def web(
    files: str | os.PathLike[str] | Sequence[str] | Sequence[os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    samples: Any = None,
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
        timeout: Seconds for the runs of one file on this machine. Default 120.

    Returns:
        A report of what was written.

    Raises:
        TypeError: If a path is not one, or `samples` are not numbers.
        ValueError: If a file is missing, damaged, or compressed with gzip or xz.
        ValueError: If LiteRT.js cannot run a file: because of an open batch, several signatures, an operator, or the
            type of an input or output.
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
    paths = _paths(files)
    destination = check_folder(folder)
    contents = {path.name: _content(path) for path in paths}
    models = {path.name: _checked_model(path) for path in paths}
    _check_same_inputs(models)
    recorded = {path.name: record_runs(path, models[path.name], samples=samples, timeout=timeout) for path in paths}
    samples_file = _SamplesFile()
    entries = [_entry(name, models[name], recorded[name], samples_file) for name in contents]
    write_folder(
        destination,
        {
            **_page(),
            "manifest.json": _json({"runtime": f"@litertjs/core {LITERT_JS}", "files": entries}),
            "samples.bin": bytes(samples_file.content),
            **{f"models/{name}": content for name, content in contents.items()},
        },
        package=_package(),
    )
    rows = tuple(
        WebFile(name, len(contents[name]), len(recorded[name].runs), _tolerance(models[name])) for name in contents
    )
    return WebReport(str(destination), rows, recorded[paths[0].name].runtime, f"@litertjs/core {LITERT_JS}")


def _paths(files: Any) -> list[Path]:
    items = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(items, Sequence) or not all(isinstance(path, str | os.PathLike) for path in items):
        raise TypeError(f"Expected the path of a file, or a list of paths. Received: files={files!r}.")
    if not 1 <= len(items) <= MOST_FILES:
        raise ValueError(f"Expected 1 to {MOST_FILES} files. Received: {len(items)}.")
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
    data = read_model(path)
    model = read(data)
    name = repr(str(path))
    if opened := open_batch((*model.inputs, *model.outputs)):
        raise ValueError(
            f"Expected a file with fixed shapes, which LiteRT.js needs. Received: {name}, where the shape of "
            f"{opened[0]!r} is open. Fix it with to_tflite(..., batch=1), or rewrite(..., batch=1)."
        )
    signatures = schema.Model.GetRootAs(data, 0).SignatureDefsLength()
    if signatures > 1:
        raise ValueError(
            f"Expected a file with one signature. Received: {name}, which has {signatures}. "
            "Export each function of the model as a file."
        )
    for info in (*model.inputs, *model.outputs):
        if info.dtype not in TYPES:
            raise ValueError(
                f"Expected inputs and outputs of type {' or '.join(TYPES)}. Received: {name}, where {info.name!r} "
                f"is {info.dtype}. Export the model with such inputs and outputs, such as io_dtype='float32'."
            )
    builtin = {key for key in vars(schema.BuiltinOperator) if key.isupper()}
    if lacking := sorted(set(model.ops) - builtin - CUSTOM_OPERATORS):
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
    return FLOAT_TOLERANCE if format_tolerance(model) < 0.1 else INTEGER_TOLERANCE


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


def _entry(name: str, model: Model, recorded: RecordedRuns, samples_file: _SamplesFile) -> dict[str, Any]:
    """Return what the page needs to know of a file."""
    return {
        "name": name,
        "path": f"models/{name}",
        "tolerance": _tolerance(model),
        "inputs": [info.as_dict() for info in model.inputs],
        "outputs": [info.as_dict() for info in model.outputs],
        "runs": [
            {side: [samples_file.add(array) for array in arrays] for side, arrays in run.items()}
            for run in recorded.runs
        ],
    }


def _page() -> dict[str, bytes]:
    """Return the files of the page that are the same in each folder."""
    page = resources("tfprune.export.device.web") / "page"
    reader = resources("tfprune.export.file") / "readers" / "tfz.mjs"
    # Some web servers do not know .mjs as a script, and browsers refuse it then.
    return {**{file.name: file.read_bytes() for file in page.iterdir()}, "tfz.js": reader.read_bytes()}


def _package() -> dict[str, Any]:
    return {
        "name": "models-in-the-browser",
        "private": True,
        "description": "Written by tfprune: see README.md",
        "license": "Apache-2.0",
        "dependencies": {"@litertjs/core": LITERT_JS},
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
