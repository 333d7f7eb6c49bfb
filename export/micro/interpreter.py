"""Run files in the interpreter for microcontrollers, in a process of its own: it ends when in doubt."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.processes.child_process import run_job
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.io_tensor import IOTensor
from tfprune.export.device.running.verify import Run
from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite.schema import MissingPackage

PACKAGE = "tflite_micro"
MAX_ARENA_BYTES = 2**28  # bytes of an arena that no microcontroller has; what is not touched takes no memory
TIMEOUT = 600.0  # seconds for all files of one call, unless it says otherwise
ARENA_ALIGNMENT = 16  # bytes: parts of an arena begin at multiples
TOTAL = "Arena allocation total "
REPEATING_LINES = ("Failed to", "Node ", "Additional ")  # lines that repeat what an earlier one says


@dataclass(frozen=True)
class MicroRun:
    """How a file ran.

    Attributes:
        reason: Why it did not; empty if it did.
        arena: The smallest arena in which it runs, in bytes.
        raw: Its outputs for all samples, one array for each, in the types of the file.
        outputs: The same, as float32 where the file holds real numbers as integers.
    """

    reason: str
    arena: int = 0
    raw: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)

    def equals(self, other: MicroRun) -> bool:
        """Tell whether both gave the same outputs, bit for bit."""
        pairs = zip(self.raw, other.raw, strict=True)
        return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def require_interpreter() -> None:
    """Refuse to go on without the interpreter.

    Raises:
        MissingPackage: If tflite-micro is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingPackage(
            "Expected tflite-micro, the interpreter that microcontrollers run. Received: it is not installed. "
            'Run pip install "tfprune[micro]".'
        )


def runtime_name() -> str:
    """Return the name and version of the interpreter, which is installed."""
    return f"tflite-micro {importlib.metadata.version('tflite-micro')}"


def run_by_name(file: ModelFile, inputs: Mapping[str, np.ndarray], *, timeout: float) -> Run:
    """Run a file as `verify.run_in_child` does, by the names of its inputs and outputs, but here.

    Raises:
        MissingPackage: If tflite-micro is not installed.
    """
    (run,) = run_files([file], [inputs[info.name] for info in file.graph.inputs], timeout=timeout)
    names = [info.name for info in file.graph.outputs] if not run.reason else []
    return Run(dict(zip(names, run.outputs, strict=True)), runtime_name(), run.reason)


def run_files(
    files: Sequence[Source | ModelFile], inputs: Sequence[np.ndarray], *, timeout: float = TIMEOUT
) -> list[MicroRun]:
    """Run files on the same samples.

    Args:
        files: Paths, contents of files, or files that are open.
        inputs: An array for each input, in the order of the graph: of the input's shape, or with any number of
            samples along its first dimension if the file takes one.
        timeout: Seconds for all of them.

    Returns:
        How each ran. One that takes the process down has that as its reason.

    Raises:
        MissingPackage: If tflite-micro is not installed.
    """
    require_interpreter()
    opened, runs = [*map(ModelFile.open, files)], list[MicroRun]()
    while len(runs) < len(opened):
        runs += _run(opened[len(runs) :], inputs, timeout)
    return runs


def _run(files: Sequence[ModelFile], inputs: Sequence[np.ndarray], timeout: float) -> list[MicroRun]:
    """Run files until one takes the process down."""
    with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
        folder = Path(name)
        arrays = {str(index): array for index, array in enumerate(inputs)}
        counts = [len(file.graph.subgraphs[0].outputs) for file in files]
        write_job(folder, "job", settings={"outputs": counts}, arrays=arrays)
        for index, file in enumerate(files):
            (folder / f"{index}.tflite").write_bytes(file.content)
        completed = run_job(_run_job, folder, timeout=timeout)
        runs: list[MicroRun] = []
        for index in range(len(files)):
            if not (folder / f"{index}.json").exists():
                said = _last_words(folder / f"{index}.said")
                return [*runs, MicroRun(f"the interpreter {_ended(completed.reason)}{said and f': {said}'}")]
            settings, arrays = read_job(folder, str(index))
            count = len(arrays) // 2
            values = [*arrays.values()]
            runs.append(MicroRun(settings["reason"], settings["arena"], values[:count], values[count:]))
        return runs


def _ended(reason: str) -> str:
    return f"was {reason}" if reason.startswith("killed") else f"stopped: {reason}"


def _run_job(folder: Path) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # that of forks, in whose way a thread could stand
    settings, arrays = read_job(folder, "job")
    for index, count in enumerate(settings["outputs"]):
        data, said = (folder / f"{index}.tflite").read_bytes(), folder / f"{index}.said"
        try:
            arena, raw, outputs = load_and_run(data, [*arrays.values()], outputs=count, said=said)
        except (RuntimeError, ValueError) as error:
            reason = _last_words(said) or " ".join(str(error).split())
            write_job(folder, str(index), settings={"reason": reason.rstrip("."), "arena": 0})
            continue
        both = {
            f"{kind}{place}": array
            for kind, arrays in (("r", raw), ("o", outputs))
            for place, array in enumerate(arrays)
        }
        write_job(folder, str(index), settings={"reason": "", "arena": arena}, arrays=both)


def load_and_run(
    data: bytes, inputs: Sequence[np.ndarray], *, outputs: int, said: Path
) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
    """Run a file here, where it may take the process down.

    Args:
        data: The file.
        inputs: As `run_files` takes them.
        outputs: How many it has.
        said: A file that gets what native code says.

    Returns:
        The smallest arena, and the outputs in it, raw and as real numbers.

    Raises:
        RuntimeError: If the interpreter refuses the file.
        ValueError: If the inputs do not fit.
    """
    with _said_to(said):
        interpreter = _load(data, MAX_ARENA_BYTES)
        interpreter.print_allocations()
    total = int(said.read_text(errors="replace").rpartition(TOTAL)[2].split()[0])
    with _said_to(said):
        arena = _smallest(total, lambda size: _loads(data, size))
        interpreter = _load(data, arena)
        ends = [
            IOTensor.of(str(place), {**interpreter.get_input_details(place), "index": place})
            for place in range(len(inputs))
        ]
        samples = [end.encode(array) for end, array in zip(ends, inputs, strict=True)]
        results = [_invoke(interpreter, row, outputs) for row in _rows(ends, samples)]
    raw = [np.concatenate(parts) if parts[0].ndim else parts[0] for parts in zip(*results, strict=True)]
    details = [interpreter.get_output_details(place) for place in range(len(raw))]
    ends = [IOTensor.of(str(place), {**detail, "index": place}) for place, detail in enumerate(details)]
    return arena, raw, [end.decode(array) for end, array in zip(ends, raw, strict=True)]


def _smallest(total: int, loads: Callable[[int], bool]) -> int:
    """Return the fewest bytes that do: what was counted, or what it takes while memory is laid out."""
    low = high = -(-total // ARENA_ALIGNMENT)
    while not loads(high * ARENA_ALIGNMENT):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if loads(middle * ARENA_ALIGNMENT) else (middle + 1, high)
    return high * ARENA_ALIGNMENT


def _load(data: bytes, arena: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(data, arena_size=arena)


def _loads(data: bytes, arena: int) -> bool:
    """Tell whether a file loads in so many bytes; operators may crash in too few, so a fork of this process tries."""
    child = os.fork()
    if not child:
        os.close(2)  # what it says is no news
        try:
            _load(data, arena)
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _rows(ends: Sequence[IOTensor], samples: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    if all(array.shape == end.info.shape for end, array in zip(ends, samples, strict=True)):
        yield [*samples]
        return
    for end, array in zip(ends, samples, strict=True):
        if end.batch != 1 or not end.takes(array) or len(array) != len(samples[0]):
            raise ValueError(f"an input takes the shape {end.info.shape}, and samples have {array.shape}")
    for row in range(len(samples[0])):
        yield [array[row : row + 1] for array in samples]


def _invoke(interpreter: Any, row: Sequence[np.ndarray], outputs: int) -> list[np.ndarray]:
    for place, array in enumerate(row):
        interpreter.set_input(array, place)
    interpreter.invoke()
    # Asked for more outputs than there are, it may crash.
    return [interpreter.get_output(place) for place in range(outputs)]


@contextmanager
def _said_to(path: Path) -> Iterator[None]:
    """Keep what native code writes to stderr."""
    before = os.dup(2)
    with path.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def _last_words(path: Path) -> str:
    """Return the first line that says what went wrong."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    telling = [line for line in lines if line.strip() and not line.startswith(("[", *REPEATING_LINES))]
    return telling[0].strip().rstrip(".") if telling else ""
