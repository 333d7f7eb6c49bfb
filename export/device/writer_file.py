"""A language model's file, opened: its signatures, its tokenizer, and the fastest runtime that works here."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfprune.base.folders import UNREADABLE, TemporaryFolder, parse_json, read_fields, sync
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.runner import board_name, find_interpreter
from tfprune.export.file import schema
from tfprune.export.file.container import is_packed, map_model, read_model, read_source
from tfprune.export.file.document import LITERTLM, TOKENIZER, read_litertlm
from tfprune.export.file.report import reason_of
from tfprune.export.file.schema import MissingPackage
from tfprune.report import install

# Call the signatures of a language model's file, with its caches of keys and values from call to call.

_PREFILL, _DECODE = re.compile(r"prefill_([1-9]\d*)"), "decode"
_TOKENS, _POSITIONS, _LOGITS, _CACHE = "tokens", "input_pos", "logits", "kv_cache_"
_UNLOADABLE = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)  # what runtimes raise for other files


class _LoadedFile(Protocol):
    """A language model's file, loaded by a runtime, with its caches.

    Attributes:
        runtime: The runtime, with its version.
        signatures: The names of the signatures.
        caches: The shapes of the caches by name.
        vocabulary: How many tokens there are.
    """

    runtime: str
    signatures: list[str]
    caches: dict[str, tuple[int, ...]]
    vocabulary: int

    def call(self, signature: str, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Fill in the caches, and return the scores of the next token, if the signature gives some."""

    def clear(self) -> None:
        """Write zeros into the caches: numbers that are not finite would come through the mask of later texts."""


class Signatures:
    """The signatures of one file, whose caches hold one text at a time: the one that was begun last.

    Args:
        file: The file.

    Attributes:
        runtime: The runtime, with its version.
        length: How many positions the caches have.
        vocabulary: How many tokens there are.
        counts: How many tokens of a prompt one call takes, in order.
    """

    def __init__(self, file: _LoadedFile) -> None:
        self._file, self.runtime, self.vocabulary = file, file.runtime, file.vocabulary
        self.length = min((shape[2] for shape in file.caches.values()), default=0)
        self.counts = sorted(int(match[1]) for name in file.signatures if (match := _PREFILL.fullmatch(name)))
        self._lock = threading.RLock()  # a handler of a signal may begin a text in the middle of a call
        self._tokens: list[int] = []  # of the text that was begun last: not the text, which holds this object

    def begin(self, ids: Sequence[int] = ()) -> CachedText:
        """Begin a text, after which those that were begun before cannot go on.

        Args:
            ids: The tokens that will be read. Those that the caches hold already, as the beginning of another text,
                need not be read again.

        Returns:
            The text, with the tokens that the caches hold of it.
        """
        with self._lock:
            pairs = zip(self._tokens, ids, strict=False)
            self._tokens = [now for _, now in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
            return CachedText(self, self._tokens)

    def call(self, text: CachedText, name: str, part: Sequence[int], count: int) -> np.ndarray | None:
        """Put tokens behind those that the caches hold of a text.

        Args:
            text: The text.
            name: The signature.
            part: The tokens.
            count: How many tokens the signature takes.

        Returns:
            The scores of the next token, if the signature gives some.

        Raises:
            ValueError: If another text was begun since, or a score is NaN or infinite.
        """
        tokens = np.zeros((1, count), np.int32)  # what padding writes is overwritten before it is attended to
        tokens[0, : len(part)] = part
        with self._lock:
            if text.tokens is not self._tokens:
                raise ValueError(
                    "Expected one text at a time. Received: a text that goes on after another one was begun and took "
                    "its place in the caches. Finish one before you begin the next, or load the file once for each."
                )
            start = len(text.tokens)
            scores = self._file.call(name, tokens, np.arange(start, start + count, dtype=np.int32))
            text.tokens += part  # after the call, so that an interrupted one counts for nothing
            if scores is not None and not np.isfinite(scores.max()):
                self._tokens = []
                self._file.clear()
                raise ValueError(
                    f"Expected scores that are numbers. Received: {scores.max()} after {start + 1:,} tokens. The "
                    f"weights are damaged, or too large for the number format: export the model again."
                )
        return scores


class CachedText:
    """A text in the caches of a file; `Signatures.begin` makes it.

    Args:
        signatures: Of the file.
        tokens: Those of the text that the caches hold.

    Attributes:
        tokens: Those of the text that the caches hold.
    """

    def __init__(self, signatures: Signatures, tokens: list[int]) -> None:
        self._signatures, self.tokens = signatures, tokens

    def prefill(self, tokens: Sequence[int]) -> None:
        """Put tokens into the caches; all of them have to fit.

        Raises:
            ValueError: If another text was begun since.
        """
        signatures, waiting = self._signatures, [*tokens]
        while waiting:
            fitting = [count for count in signatures.counts if len(self.tokens) + count <= signatures.length]
            enough = [count for count in fitting if count >= len(waiting)]
            count = min(enough) if enough else max(fitting, default=1)
            signatures.call(self, f"prefill_{count}" if fitting else _DECODE, waiting[:count], count)
            waiting = waiting[count:]

    def decode(self, token: int) -> np.ndarray:
        """Put one token into the caches, and return the scores of the next, (vocabulary,).

        Raises:
            ValueError: If another text was begun since, or a score is NaN or infinite.
        """
        scores = self._signatures.call(self, _DECODE, [token], 1)
        assert scores is not None
        return scores


def signature_names(data: bytes | memoryview) -> list[str]:
    """Return the names of the signatures of a plain file that is whole."""
    try:
        schema.require_schema()
    except schema.MissingPackage:  # as with tflite-runtime, which can tell them as well, with a copy of the file
        interpreter, _ = find_interpreter()
        return [*interpreter(model_content=bytes(data)).get_signature_list()]
    model = schema.Model.GetRootAs(data, 0)
    keys = [model.SignatureDefs(index).SignatureKey() or b"" for index in range(model.SignatureDefsLength())]
    return [key.decode("utf-8", "replace") for key in keys]


def _of_language_model(names: Sequence[str]) -> list[str]:
    """Return the names of the signatures that a language model's file has.

    Raises:
        ValueError: If `decode` is not among them.
    """
    if _DECODE not in names:
        raise ValueError(f"its signatures are {sorted(names)}")
    return [name for name in names if name == _DECODE or _PREFILL.fullmatch(name)]


def _not_a_writer(path: str, error: Exception) -> ValueError:
    """Return the error for a file that cannot be loaded as a language model."""
    return ValueError(
        f"Expected a file of tfprune.export.to_generator, with the signatures `decode` and `prefill_N`. Received: "
        f"{path!r}, where they cannot be loaded ({str(error)[:200]}). Export the model again."
    )


def is_language_model(names: Sequence[str]) -> bool:
    """Tell by the names of its signatures whether a file is a language model with caches."""
    return _DECODE in names and any(map(_PREFILL.fullmatch, names))


# A language model's file in LiteRT's CompiledModel, which fills in the caches where they lie.

_PACKAGE, _MODULE = "ai_edge_litert", "compiled_model"


class _CompiledFile:
    """A file in CompiledModel: one buffer for each cache, which is input and output of all signatures.

    It may end the process, on processors that its library was not built for: `prepare` tries it in another one.

    Args:
        path: A plain .tflite file.
        threads: Threads of the runtime.
        weights: Where the weights lie as XNNPACK orders them, or are written; empty for nowhere.

    Raises:
        ImportError: If it is not installed.
        ValueError: If the file has not the signatures of a language model, or cannot be loaded.
    """

    def __init__(self, path: str, *, threads: int, weights: str) -> None:
        litert = importlib.import_module(f"{_PACKAGE}.{_MODULE}")
        self.runtime = _compiled_runtime()
        cpu = litert.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weights)
        try:
            self._model = litert.CompiledModel.from_file(path, options=litert.Options(cpu_options=cpu))
            self.signatures = _of_language_model([*self._model.get_signature_list()])
            details = self._model.get_input_tensor_details(_DECODE)
            self.caches = {
                name: tuple(map(int, detail["shape"])) for name, detail in details.items() if name.startswith(_CACHE)
            }
            self.vocabulary = int(self._model.get_output_tensor_details(_DECODE)[_LOGITS]["shape"][-1])
            self._caches = {name: self._input(_DECODE, name) for name in self.caches}
            self._inputs = {
                signature: {name: self._input(signature, name) for name in (_TOKENS, _POSITIONS)}
                for signature in self.signatures
            }
            self._logits = self._model.create_output_buffer_by_name(_DECODE, _LOGITS)
        except _UNLOADABLE as error:
            raise _not_a_writer(path, error) from error
        self.clear()

    def call(self, signature: str, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Fill in the caches, and return the scores of the next token, if the signature gives some."""
        own = self._inputs[signature]
        own[_TOKENS].write(tokens)
        own[_POSITIONS].write(positions)
        gives_scores = signature == _DECODE
        outputs = {**self._caches, _LOGITS: self._logits} if gives_scores else self._caches
        self._model.run_by_name(signature, {**self._caches, **own}, outputs)
        return self._logits.read(self.vocabulary, np.float32) if gives_scores else None

    def clear(self) -> None:
        """Write zeros into the caches."""
        for name, shape in self.caches.items():
            self._caches[name].write(np.zeros(shape, np.float32))

    def _input(self, signature: str, name: str) -> Any:
        return self._model.create_input_buffer_by_name(signature, name)


def _has_compiled_model() -> bool:
    """Return True if CompiledModel is installed, without loading it."""
    return all(importlib.util.find_spec(name) is not None for name in (_PACKAGE, f"{_PACKAGE}.{_MODULE}"))


def _compiled_runtime() -> str:
    """Return its name and version."""
    return f"ai-edge-litert {importlib.import_module(_PACKAGE).__version__}, in place"


# A language model's file in an interpreter, which copies the caches in and out of each call.


class InterpretedFile:
    """A file in an interpreter: runs wherever one is installed.

    Args:
        path: A plain .tflite file.
        threads: Threads of the interpreter.

    Raises:
        ValueError: If the file has not the signatures of a language model, or cannot be loaded.
    """

    _caches: dict[str, np.ndarray]

    def __init__(self, path: str, *, threads: int) -> None:
        interpreter, self.runtime = find_interpreter()
        try:
            self._interpreter = interpreter(model_path=path, num_threads=threads)
            self.signatures = _of_language_model([*self._interpreter.get_signature_list()])
            self._runners = {name: self._interpreter.get_signature_runner(name) for name in self.signatures}
            details = self._runners[_DECODE].get_input_details()
            self.vocabulary = int(self._runners[_DECODE].get_output_details()[_LOGITS]["shape"][-1])
        except _UNLOADABLE as error:
            raise _not_a_writer(path, error) from error
        self.caches = {
            name: tuple(map(int, detail["shape"])) for name, detail in details.items() if name.startswith(_CACHE)
        }
        self.clear()

    def call(self, signature: str, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Fill in the caches, and return the scores of the next token, if the signature gives some."""
        outputs = self._runners[signature](**{_TOKENS: tokens, _POSITIONS: positions}, **self._caches)
        self._caches = {name: outputs[name] for name in self.caches}
        return outputs[_LOGITS].reshape(-1) if _LOGITS in outputs else None

    def clear(self) -> None:
        """Write zeros into the caches."""
        self._caches = {name: np.zeros(shape, np.float32) for name, shape in self.caches.items()}


# Try CompiledModel on a file in another process, keep the weights as it orders them, and remember how that ended.

_SUFFIX = ".cache"  # of the folder beside a file, after the file's whole name
_MODEL, _WEIGHTS, _RECORD, _JOB = "model.tflite", "weights", "record.json", "job"
_TIMEOUT = 600.0  # seconds: a large file on a slow card
_PROBES, _PROBE_BYTES = 512, 4096  # of a file's content, which tell two files apart
_PART_BYTES = 2**20  # that are read at once
_CRASHES = tuple(f"killed by SIG{name}" for name in ("ABRT", "BUS", "FPE", "ILL", "SEGV"))  # the processor decides

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Record:
    """How the attempt ended.

    Attributes:
        key: The file, the runtime and the processor that it holds for.
        reason: Why the interpreter has to run the file; empty if CompiledModel does.
        checksums: Of the files beside the record, by name.
    """

    key: str
    reason: str
    checksums: dict


class PreparedFile:
    """A file, plain or packed, in the fastest runtime that runs it here.

    What was prepared for it lies in a folder beside it, for the next process. Where none can be written, or the disk
    is full, the folder is a temporary one, which lives as long as this object.

    Args:
        path: The file.
        threads: Threads of the runtime.

    Attributes:
        data: The plain content, mapped into memory.
        loaded: The file in its runtime.

    Raises:
        ValueError: If the file cannot be read, is not a language model's, or can be unpacked nowhere.
    """

    data: memoryview
    loaded: _LoadedFile

    def __init__(self, path: str | os.PathLike[str], *, threads: int) -> None:
        self._path, self._threads = Path(path), threads
        self._packed = is_packed(path)
        self._folder = Path(f"{os.fspath(path)}{_SUFFIX}")
        self._temporary: TemporaryFolder | None = None
        if not self._packed:
            self.data = _mapped(self._path)
        if not _has_compiled_model() and not self._packed:
            self.loaded = InterpretedFile(os.fspath(path), threads=threads)
            return
        key = _key(self._path)
        record = _read_record(self._folder, key) or self._prepare(key)
        plain = self._folder / _MODEL if self._packed else self._path
        if self._packed:
            self.data = _mapped(plain)
        if record.reason:
            _log.info("%s runs in the interpreter: %s", self._path, record.reason)
            self.loaded = InterpretedFile(str(plain), threads=threads)
        else:
            self.loaded = _CompiledFile(str(plain), threads=threads, weights=str(self._folder / _WEIGHTS))

    def _prepare(self, key: str) -> _Record:
        """Fill a new folder, and put it in the place of an earlier one; or else a temporary one."""
        unpacked = _unpacked(self._path) if self._packed else b""
        if self._packed:
            _check_signatures(unpacked, str(self._path))
        try:
            with TemporaryFolder(beside=self._path.parent) as name:
                record = self._fill(Path(name), unpacked, key)
                return self._put_in_place(Path(name), record)
        except (OSError, ValueError) as error:
            _log.info("nothing is kept beside %s: %s", self._path, reason_of(error))
        try:
            self._temporary = TemporaryFolder()
            self._folder = Path(self._temporary.name)
            return self._fill(self._folder, unpacked, key)
        except (OSError, ValueError) as error:
            if self._temporary is not None:
                self._temporary.cleanup()
            if not self._packed:  # the interpreter needs no other file
                return _Record(key, reason_of(error), {})
            raise ValueError(
                f"Expected room to unpack {str(self._path)!r}, beside it or in {tempfile.gettempdir()!r}. "
                f"Received: {reason_of(error)}. Free some space, or name a folder with space in the variable TMPDIR."
            ) from error

    def _fill(self, folder: Path, unpacked: bytes, key: str) -> _Record:
        """Write what a folder holds. The record is the last: all that it names is on the disk by then."""
        plain = self._path
        if self._packed:
            plain = folder / _MODEL
            plain.write_bytes(unpacked)
        reason = _attempt(folder, plain, threads=self._threads)
        record = _Record(key, reason, _checksums(folder))
        for name in record.checksums:
            sync(folder / name)
        (folder / _RECORD).write_text(json.dumps(asdict(record)), encoding="utf-8")
        sync(folder / _RECORD)
        sync(folder)
        return record

    def _put_in_place(self, new: Path, record: _Record) -> _Record:
        other = _read_record(self._folder, record.key)
        if other is not None:  # another process was faster
            return other
        shutil.rmtree(self._folder, ignore_errors=True)  # a process that uses it keeps what it has mapped
        new.replace(self._folder)
        sync(self._folder.parent)
        return record


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
        _of_language_model(signature_names(data))
    except ValueError as error:
        raise _not_a_writer(name, error) from error


def _attempt(folder: Path, plain: Path, *, threads: int) -> str:
    """Load a file in CompiledModel in another process, and call it; return why that failed, or nothing."""
    if not _has_compiled_model():
        return "CompiledModel is not installed"
    settings = {"path": str(plain.absolute()), "threads": threads}
    reasons = []
    for weights in (str((folder / _WEIGHTS).absolute()), ""):
        write_job(folder, _JOB, settings={**settings, "weights": weights})
        reasons.append(run_job(_run_attempt, folder, timeout=_TIMEOUT).reason)
        if reasons[0]:
            (folder / _WEIGHTS).unlink(missing_ok=True)  # what was written of them
        if not reasons[0].startswith(_CRASHES):
            return reasons[0]
    # It ends the process on a full disk, too: that is no matter of the processor.
    return reasons[0] if reasons[1] else f"the ordered weights cannot be written ({reasons[0]})"


def _run_attempt(folder: Path) -> None:
    settings, _ = read_job(folder, _JOB)
    file = _CompiledFile(**settings)
    signatures = Signatures(file)
    signatures.begin().prefill([0])
    signatures.begin().decode(0)


def _read_record(folder: Path, key: str) -> _Record | None:
    """Return the record of a folder if it holds for the key, and the files beside it are whole."""
    try:
        record = read_fields(_Record, parse_json((folder / _RECORD).read_bytes()))
        is_final = not record.reason or record.reason.startswith(_CRASHES)
        is_whole = record.key == key and is_final and record.checksums == _checksums(folder)
    except (OSError, ValueError):
        return None
    return record if is_whole else None


def _checksums(folder: Path) -> dict[str, int]:
    """Return the checksums of the files that the runtime maps from a folder; they find damage, and no forgery."""
    sums = {}
    for path in (folder / _MODEL, folder / _WEIGHTS):
        if path.exists():
            sums[path.name] = 0
            with path.open("rb") as stream:
                while part := stream.read(_PART_BYTES):
                    sums[path.name] = zlib.crc32(part, sums[path.name])
    return sums


def _key(path: Path) -> str:
    """Return a hash of a file, the runtime and the processor. Of a large file, parts of the content are read."""
    status, runtime = path.stat(), _compiled_runtime() if _has_compiled_model() else ""
    digest = sha256(repr((status.st_size, status.st_mtime_ns, runtime, board_name())).encode())
    with path.open("rb") as stream:
        for start in range(0, status.st_size, max(_PROBE_BYTES, status.st_size // _PROBES)):
            stream.seek(start)
            digest.update(stream.read(_PROBE_BYTES))
    return digest.hexdigest()


# What a language model's file says about its text: its tokenizer, and the ids that begin and end a text.

_FORM = "tfprune_text_form"  # its name in the metadata of a file, beside the tokenizer's content
SENTENCEPIECE, JSON = "sentencepiece", "tokenizers"  # the kinds of tokenizers, and the packages that read them
UNFINISHED = "\ufffd"  # a character of which only some bytes are written
_OF_TOKENIZERS = ("Exception", "PanicException")  # what it raises; the second, of Rust, cannot be imported


@dataclass(frozen=True)
class TextForm:
    """How texts and token ids belong together.

    Attributes:
        tokenizer: The kind of the tokenizer, empty if the file has none.
        start: The ids that begin a text.
        stop: The ids that end one.
        turns: The texts before and after each turn of a conversation, by role: "system", "user" and "model". Empty
            if the tokenizer knows none.
    """

    tokenizer: str
    start: list
    stop: list
    turns: dict = field(default_factory=dict)

    def as_metadata(self, content: bytes) -> dict[str, bytes]:
        """Return the metadata of a file; `content` is the tokenizer's, empty to leave it out."""
        return {_FORM: json.dumps(asdict(self)).encode()} | ({TOKENIZER: content} if content else {})


class Tokenizer:
    """Turns texts into token ids and back.

    Args:
        form: What a file says about its text.
        content: The tokenizer's content: a model of SentencePiece, or a tokenizer.json.

    Raises:
        ValueError: If the package that reads it is not installed (also an ImportError), or it cannot be read.
    """

    def __init__(self, form: TextForm, content: bytes) -> None:
        self._form = form
        if form.tokenizer not in (SENTENCEPIECE, JSON):
            raise ValueError(
                f"Expected a tokenizer of the kinds {SENTENCEPIECE!r} or {JSON!r}. Received: {form.tokenizer!r:.40}. "
                "Install a newer tfprune."
            )
        self._reading = _Reading(form.tokenizer)
        with self._reading:
            self._coder = _coder(form.tokenizer, content)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, those that begin it included.

        Raises:
            ValueError: If the text has a half of a character, or the tokenizer is damaged.
        """
        check_whole_text(text)
        with self._reading:
            if self._form.tokenizer == SENTENCEPIECE:
                return [*self._form.start, *self._coder.EncodeAsIds(text)]
            return [*self._form.start, *self._coder.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; those beyond the tokenizer, which pad a vocabulary, have none.

        Raises:
            ValueError: If the tokenizer is damaged.
        """
        with self._reading:
            if self._form.tokenizer == SENTENCEPIECE:
                return self._coder.DecodeIds([int(number) for number in ids if number < len(self._coder)])
            return self._coder.decode([*map(int, ids)], skip_special_tokens=False)


class _Reading:
    """A context that turns what the package of a tokenizer raises for damaged content into one error.

    Args:
        kind: The kind of the tokenizer.

    Raises:
        ValueError: In place of that.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None or isinstance(error, MissingPackage):
            return
        if issubclass(kind, UNREADABLE) or kind.__name__ in _OF_TOKENIZERS:
            raise ValueError(
                f"Expected a tokenizer of the kind {self._kind!r} in the file. Received: content that cannot be used "
                f"as one ({' '.join(str(error).split())[:100]}). Export the model again."
            ) from error


def check_whole_text(text: str) -> None:
    """Refuse a text with a half of a character, which no encoding can hold.

    Raises:
        ValueError: If it has one.
    """
    if not _is_whole(text):
        raise ValueError(
            f"Expected a text of whole characters. Received: {text!r:.80}, where a surrogate such as '\\ud83d' has "
            f"lost the other half of its character. Decode the bytes again, with errors='replace'."
        )


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text_form(metadata: dict[str, bytes]) -> tuple[TextForm, Tokenizer | None]:
    """Return what the metadata of a file say about its text.

    Raises:
        ValueError: If they are damaged, or the package that reads the tokenizer is not installed.
    """
    if _FORM not in metadata:
        return TextForm("", [], []), None
    form = read_fields(TextForm, parse_json(metadata[_FORM]))
    wrong = [name for name in ("start", "stop") if not all(map(_is_id, getattr(form, name)))]
    wrong += [f"turns[{role!r:.40}]" for role, turn in form.turns.items() if not _is_turn(turn)]
    if wrong:
        raise ValueError(
            f"Expected token ids, and the texts before and after each turn, in what the file says about its text. "
            f"Received: something else as {wrong[0]}. Export the model again."
        )
    return form, Tokenizer(form, metadata[TOKENIZER]) if form.tokenizer and TOKENIZER in metadata else None


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_turn(value: Any) -> bool:
    """Return True for a list of the texts before and after a turn."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and _is_whole(v) for v in value)


def _coder(kind: str, content: bytes) -> Any:
    coder: Any
    try:
        if kind == SENTENCEPIECE:
            import sentencepiece

            coder = sentencepiece.SentencePieceProcessor()
            coder.LoadFromSerializedProto(content)
        else:
            import tokenizers

            coder = tokenizers.Tokenizer.from_str(content.decode())
            coder.no_truncation()  # all ids of a text and no others, whatever the content says
            coder.no_padding()
    except ImportError as error:
        raise MissingPackage(
            f"Expected the package {kind}, which reads the tokenizer in the file. Received: it is not installed. Run "
            f"{install('generate')}, or give token ids in place of text."
        ) from error
    return coder
