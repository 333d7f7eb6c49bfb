"""Try CompiledModel on a file in another process, keep the weights as it orders them, and remember how that ended."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from tfprune.base.untrusted import parse_json, read_fields
from tfprune.export.device import board
from tfprune.export.device.generating.compiled_file import CompiledFile, compiled_runtime, has_compiled_model
from tfprune.export.device.generating.interpreted_file import InterpretedFile
from tfprune.export.device.generating.signatures import (
    LoadedFile,
    Signatures,
    not_a_writer,
    of_language_model,
    signature_names,
)
from tfprune.export.device.processes.child_process import run_job
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.file.files.litertlm import LITERTLM, read_litertlm
from tfprune.export.file.files.model_file import is_packed, map_model, read_model
from tfprune.export.file.files.source import read_source
from tfprune.export.file.report import reason_of

SUFFIX = ".cache"  # of the folder beside a file, after the file's whole name
MODEL, WEIGHTS, RECORD, JOB = "model.tflite", "weights", "record.json", "job"
TIMEOUT = 600.0  # seconds: a large file on a slow card
PROBES, PROBE_BYTES = 512, 4096  # of a file's content, which tell two files apart
CRASHES = tuple(f"killed by SIG{name}" for name in ("ABRT", "BUS", "FPE", "ILL", "SEGV"))  # the processor decides

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Record:
    """How the attempt ended.

    Attributes:
        key: The file, the runtime and the processor that it holds for.
        reason: Why the interpreter has to run the file; empty if CompiledModel does.
        weights: The bytes of the ordered weights.
    """

    key: str
    reason: str
    weights: int


class PreparedFile:
    """A file, plain or packed, in the fastest runtime that runs it here.

    What was prepared for it lies in a folder beside it, for the next process. Where none can be written, the
    folder is a temporary one, which lives as long as this object.

    Args:
        path: The file.
        threads: Threads of the runtime.

    Attributes:
        data: The plain content, mapped into memory.
        loaded: The file in its runtime.

    Raises:
        ValueError: If the file cannot be read, or is not a language model's.
    """

    data: memoryview
    loaded: LoadedFile

    def __init__(self, path: str | os.PathLike[str], *, threads: int) -> None:
        self._path, self._threads = Path(path), threads
        self._packed = is_packed(path)
        self._folder = Path(f"{os.fspath(path)}{SUFFIX}")
        self._temporary: tempfile.TemporaryDirectory | None = None
        if not self._packed:
            self.data = _mapped(self._path)
        if not has_compiled_model() and not self._packed:
            self.loaded = InterpretedFile(os.fspath(path), threads=threads)
            return
        key = _key(self._path)
        record = _read_record(self._folder, key) or self._prepare(key)
        plain = self._folder / MODEL if self._packed else self._path
        if self._packed:
            self.data = _mapped(plain)
        if record.reason:
            _log.info("%s runs in the interpreter: %s", self._path, record.reason)
            self.loaded = InterpretedFile(str(plain), threads=threads)
        else:
            self.loaded = CompiledFile(str(plain), threads=threads, weights=str(self._folder / WEIGHTS))

    def _prepare(self, key: str) -> _Record:
        """Fill a new folder, and put it in the place of an earlier one."""
        unpacked = _unpacked(self._path) if self._packed else b""
        if self._packed:
            _check_signatures(unpacked, str(self._path))
        new = self._new_folder()
        if self._packed:
            (new / MODEL).write_bytes(unpacked)
        plain = new / MODEL if self._packed else self._path
        reason = _attempt(new, plain, threads=self._threads)
        weights = new / WEIGHTS
        record = _Record(key, reason, weights.stat().st_size if weights.exists() else 0)
        (new / RECORD).write_text(json.dumps(asdict(record)), encoding="utf-8")
        if self._temporary is not None:
            self._folder = new
            return record
        shutil.rmtree(self._folder, ignore_errors=True)  # a process that uses it keeps what it has mapped
        try:
            new.replace(self._folder)
        except OSError as error:  # another process was faster, or uses it on a system that forbids to replace it
            _log.info("%s stays as it is: %s", self._folder, reason_of(error))
            if _read_record(self._folder, key) is None:
                self._folder = new
            else:
                shutil.rmtree(new, ignore_errors=True)
        return record

    def _new_folder(self) -> Path:
        try:
            return Path(tempfile.mkdtemp(prefix=f".{self._path.name}-", dir=self._path.parent))
        except OSError as error:
            _log.info("nothing is kept beside %s: %s", self._path, reason_of(error))
            self._temporary = tempfile.TemporaryDirectory(prefix="tfprune-")
            return Path(self._temporary.name)


def _unpacked(path: Path) -> bytes:
    content = read_source(path)
    return read_model(read_litertlm(content) if content.startswith(LITERTLM) else content)


def _mapped(path: Path) -> memoryview:
    """Map a file that is whole, and a language model's: others would crash the other process."""
    data = map_model(path)
    _check_signatures(data, str(path))
    return data


def _check_signatures(data: bytes | memoryview, name: str) -> None:
    try:
        of_language_model(signature_names(data))
    except ValueError as error:
        raise not_a_writer(name, error) from error


def _attempt(folder: Path, plain: Path, *, threads: int) -> str:
    """Load a file in CompiledModel in another process, and call it; return why that failed, or nothing."""
    if not has_compiled_model():
        return "CompiledModel is not installed"
    write_job(folder, JOB, settings={"path": str(plain.absolute()), "threads": threads})
    completed = run_job(_run_attempt, folder, timeout=TIMEOUT)
    return completed.reason


def _run_attempt(folder: Path) -> None:
    settings, _ = read_job(folder, JOB)
    file = CompiledFile(settings["path"], threads=settings["threads"], weights=str(folder / WEIGHTS))
    signatures = Signatures(file)
    signatures.prefill([0])
    signatures.position = 0
    if not np.isfinite(signatures.decode(0)).all():
        raise ValueError("Expected scores that are numbers.")


def _read_record(folder: Path, key: str) -> _Record | None:
    """Return the record of a folder if it holds for the key, and its weights are whole."""
    try:
        record = read_fields(_Record, parse_json((folder / RECORD).read_bytes()))
        weights = (folder / WEIGHTS).stat().st_size if record.weights else 0
    except (OSError, ValueError):
        return None
    is_final = not record.reason or record.reason.startswith(CRASHES)
    return record if record.key == key and record.weights == weights and is_final else None


def _key(path: Path) -> str:
    """Return a hash of a file, the runtime and the processor. Of a large file, parts of the content are read."""
    status, runtime = path.stat(), compiled_runtime() if has_compiled_model() else ""
    digest = sha256(repr((status.st_size, status.st_mtime_ns, runtime, board.name())).encode())
    with path.open("rb") as stream:
        for start in range(0, status.st_size, max(PROBE_BYTES, status.st_size // PROBES)):
            stream.seek(start)
            digest.update(stream.read(PROBE_BYTES))
    return digest.hexdigest()
