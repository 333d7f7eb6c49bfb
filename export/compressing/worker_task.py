"""A trial as a task that any executor can send: a function of bytes, texts and numbers, which runs in a worker.

Model and data are packed once. A worker reads them from the folder of the search if it sees that, or else asks for
them and gets them with a task; it keeps them for the tasks that follow.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.base.limit import GroupLimits
from tfprune.base.run_folder import NamedArrays
from tfprune.base.untrusted import LONGEST_REASON, UNREADABLE, parse_json
from tfprune.export.compressing.file_evaluator import FileEvaluator, calibration_of
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.trial_runner import LateError, TrialRunner
from tfprune.export.micro.micro import Micro
from tfprune.report import shortened

DONE, LATE, NO_DATA, REFUSED = "done", "late", "no data", "refused"  # what a task may answer
Answer = tuple[str, NamedArrays | str]

_runners: dict[str, TrialRunner] = {}  # in a worker: the latest one, by the hash of what it was packed into
_busy = threading.Lock()


def pack_runner(runner: TrialRunner) -> bytes:
    """Return the model, the data and the settings of a runner as bytes, without the device.

    Raises:
        TypeError: If the data hold Python objects.
        ValueError: If Keras cannot save the model.
    """
    arrays: list[np.ndarray] = []

    def number(array: Any) -> int:
        arrays.append(np.asarray(array))
        return len(arrays) - 1

    evaluator = runner.evaluator
    settings = {
        "data": keras.tree.map_structure(number, [*runner.train_data, *evaluator.validation]),
        "metric": evaluator.metric,
        "baseline": evaluator.baseline,
        "optimize": evaluator.optimize,
        "limits": None if evaluator.limits is None else keras.tree.map_structure(number, vars(evaluator.limits)),
        "micro": None if evaluator.micro is None else asdict(evaluator.micro),
        "batch_size": runner.batch_size,
    }
    if objects := [array.dtype for array in arrays if array.dtype.hasobject]:
        raise TypeError(
            f"Expected data that can be sent to workers. Received: an array with dtype {objects[0]}, which holds "
            f"Python objects. Turn it into numbers, or search with jobs=1 and without an executor."
        )
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        path = Path(folder, "model.keras")
        try:
            runner.model.save(path)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ValueError(
                f"Expected a model that Keras can save, so that workers can load it. Received: {runner.model.name!r}:"
                f" {str(error).removesuffix('.')}. Search with jobs=1 and without an executor."
            ) from error
        model = np.frombuffer(path.read_bytes(), np.uint8)
    stored: dict[str, Any] = {str(index): array for index, array in enumerate(arrays)}
    stream = io.BytesIO()
    np.savez(stream, **stored, model=model, settings=np.array(json.dumps(settings)))
    return stream.getvalue()


def unpack_runner(content: bytes) -> TrialRunner:
    """Return the runner of which `pack_runner` made these bytes in another process.

    Raises:
        ValueError: If Keras cannot load the model here.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = dict(stored)
    settings = parse_json(str(arrays["settings"]).encode())
    limits = settings["limits"]
    x, y, *validation = keras.tree.map_structure(lambda number: arrays[str(number)], settings["data"])
    evaluator = FileEvaluator(
        calibration=calibration_of(x),
        validation=tuple(validation),
        metric=settings["metric"],
        baseline=settings["baseline"],
        optimize=settings["optimize"],
        limits=None if limits is None else GroupLimits(**{name: arrays[str(limits[name])] for name in limits}),
        micro=None if settings["micro"] is None else Micro(**settings["micro"]),
    )
    advice = (
        "Its classes have to stand in modules that workers can import, not in the main program or a notebook. Move "
        "them into a module that is installed there, or search with jobs=1 and without an executor"
    )
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(arrays["model"].tobytes())
        try:
            model = keras.saving.load_model(path)
        except UNREADABLE as error:
            reason = shortened(" ".join(str(error).split()).removesuffix("."), LONGEST_REASON)
            raise ValueError(
                f"Expected workers that can load the model. Received, on {platform.node()}: {reason}. {advice}."
            ) from error
    return TrialRunner(model, (x, y), evaluator, settings["batch_size"])


def versions() -> dict[str, str]:
    """Return what has to be the same in all processes of a search."""
    backend = keras.config.backend()
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "tfprune": tfprune.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "backend": f"{backend} {getattr(sys.modules.get(backend), '__version__', '')}",
    }


def run_task(
    key: str,
    file: str,
    *,
    call: int,
    content: bytes | None,
    expected: str,
    recipe: str,
    seconds: float,
    start: np.ndarray | None,
) -> Answer:
    """Run a trial in this process, which is a worker.

    Args:
        key: The hash of the packed model and data.
        file: Where they lie, if this machine shares the folder of the search.
        call: The number of the call: Dask would answer the same call from memory.
        content: They themselves, after this worker has asked for them; else None.
        expected: The versions of the process that searches, in JSON.
        recipe: The recipe in JSON; an empty one only loads the model.
        seconds: How long the trial may train, from now.
        start: The model of the recipe before it, or None.

    Returns:
        What came of it, and the arrays of the trial, or the reason for refusing it.
    """
    began = time.monotonic()
    if not _busy.acquire(blocking=False):
        return REFUSED, (
            "Expected one trial at a time in a process. Received: another one on a second thread. Give each worker "
            "one thread, or pass jobs=1."
        )
    try:
        if other := _differences(json.loads(expected)):
            return REFUSED, (
                f"Expected workers with the packages of the process that searches. Received: {other} on "
                f"{platform.node()}. Install the same versions there."
            )
        try:
            runner = _runner(key, file, content)
        except ValueError as error:
            return REFUSED, str(error)
        if runner is None:
            return NO_DATA, ""
        if not recipe:
            return DONE, {}
        return DONE, runner.run(Recipe.read(parse_json(recipe.encode())), seconds - (time.monotonic() - began), start)
    except LateError:
        return LATE, ""
    finally:
        _busy.release()


def _differences(expected: Mapping[str, str]) -> str:
    own = versions()
    differ = [name for name in expected if own.get(name) != expected[name]]
    return ", ".join(f"{name} {own.get(name)} instead of {expected[name]}" for name in differ)


def _runner(key: str, file: str, content: bytes | None) -> TrialRunner | None:
    """Return the runner that was packed, from memory, the task or the file; None if this worker has to ask for it."""
    if key in _runners:
        return _runners[key]
    if content is None:
        with suppress(OSError):
            content = Path(file).read_bytes()
    if content is None or hashlib.sha256(content).hexdigest() != key:
        return None
    _runners.clear()
    _runners[key] = unpack_runner(content)
    return _runners[key]
