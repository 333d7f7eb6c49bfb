"""Read saved Keras models and samples for the command line, by their names, or by the hashes of a certificate."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import (
    LONGEST_REASON,
    UNREADABLE,
    meant_file,
    most_unpacked,
    open_archive,
    parse_json,
    read_data,
    read_entry,
)
from tfprune.export.file.report import array_hash, folder_hash, model_hash
from tfprune.report import shortened

# Bytes that a model may take while it is loaded: what its configuration asks for is made before its weights are read.
_MEMORY_PER_FILE_BYTE, _SPARE_MEMORY = 64, 2**30
_STATUS = Path("/proc/self/status")

_KNOWN_PACKAGES = ("keras", "keras_hub", "keras_cv", "keras_nlp")  # which Keras imports by itself
# Where Keras looks for functions.
_FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "optimizers", "regularizers")


class _UnknownClassError(ValueError):
    """A model was saved with classes that Keras does not find, or cannot build; the message says what to do."""


@contextmanager
def _reading(path: str, expected: str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one error that names it."""
    check_exists(path, expected)
    try:
        if Path(path).is_dir():
            raise IsADirectoryError("a folder")
        yield
    except _UnknownClassError:
        raise
    except _with_tensorflow(UNREADABLE, "OpError") as error:
        raise ValueError(f"Expected {expected}. Received: {path!r}: {_reason(error)}. {advice}.") from error


def check_exists(path: str, expected: str) -> None:
    """Refuse a path where nothing is, and ask about a similar name beside it."""
    if not Path(path).exists():
        raise ValueError(f"Expected {expected}. Received: {path!r}, which does not exist.{meant_file(path)}")


def _with_tensorflow(errors: tuple[type[Exception], ...], name: str) -> tuple[type[Exception], ...]:
    """Add an error of TensorFlow, if that is the backend."""
    return (*errors, getattr(sys.modules["tensorflow"].errors, name)) if "tensorflow" in sys.modules else errors


@contextmanager
def _bounded_memory(path: str) -> Iterator[None]:
    """Let a file take memory in proportion to its size, on Linux: a layer of it may claim billions of units."""
    if not _STATUS.exists():
        yield
        return
    import resource

    match = re.search(r"VmData:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    assert match is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = 1024 * int(match[1]) + _SPARE_MEMORY + _MEMORY_PER_FILE_BYTE * Path(path).stat().st_size
    limits = [limit for limit in (soft, hard, allowed) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    except _with_tensorflow((MemoryError,), "ResourceExhaustedError") as error:
        raise MemoryError("its layers ask for more memory than a file of its size explains") from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _reason(error: BaseException) -> str:
    """Return what an error says, in one line of bounded length: Keras' errors may show a whole configuration."""
    return shortened(" ".join(str(error).split()).removesuffix(".") or type(error).__name__, LONGEST_REASON)


def choose_backend() -> None:
    """Let Keras run on JAX if nothing names a backend and no other one is installed; its default is TensorFlow."""
    if [name for name in ("tensorflow", "torch", "jax") if importlib.util.find_spec(name)] == ["jax"]:
        os.environ.setdefault("KERAS_BACKEND", "jax")


def load_keras() -> Any:
    """Import Keras without TensorFlow's start-up messages, which its C++ part writes to file descriptor 2.

    A user who sets TF_CPP_MIN_LOG_LEVEL below 3 sees them.
    """
    choose_backend()
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
            os.dup2(nowhere.fileno(), 2)
        try:
            import keras

            import tfprune.models.in_place
            import tfprune.tfmot.prune  # noqa: F401  (Keras has to know what is saved before it loads it)

            keras.ops.zeros(1)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return keras


def load_model(path: str, *, compiled: bool = False, imports: Sequence[str] = ()) -> Any:
    """Load a model in Keras' safe mode, which runs no code from the file.

    Args:
        path: The file.
        compiled: Whether loss, metrics and optimizer are wanted, too.
        imports: The modules, found from the current folder, that define classes and functions of the model.

    Raises:
        ValueError: If the file is missing, damaged, or not what Keras saves; or if it needs code that Keras does not
            know or, such as that of a Lambda layer, does not run.
    """
    expected = "a model saved by Keras as .keras or .h5"
    check_exists(path, expected)  # before Keras is imported, which takes many seconds
    if Path(path).is_file() and not path.endswith((".keras", ".h5", ".hdf5")):
        raise ValueError(f"Expected {expected}. Received: {path!r}. Save the model with model.save('x.keras').")
    keras = load_keras()
    for module in imports:
        _register(imported_module(module))
    advice = (
        "Copy the file again, or save the model anew with model.save('x.keras'). A model with classes of its own "
        "needs --import MODULE; one with other code is exported in Python: tfprune.export.to_tflite(model, path)"
    )
    with _reading(path, expected, advice), warnings.catch_warnings():
        # Of a model that was compiled and never trained; its optimizer starts anew.
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        if path.endswith(".keras"):
            if not zipfile.is_zipfile(path):  # Keras would say that there is no such file
                raise zipfile.BadZipFile("empty, cut short, or not an archive")
            _check_classes(path)
        try:
            with _bounded_memory(path):
                return keras.saving.load_model(path, compile=compiled, safe_mode=True)
        except TypeError as error:
            _check_arguments(path, error)
            raise


def imported_module(module: str) -> Any:
    """Import a module that the user has named, as `python -m` finds it."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        is_path = module.endswith(".py") or os.sep in module
        advice = "Write its name, such as layers for layers.py" if is_path else "Run this in the folder where it lies"
        raise ValueError(f"Expected a module with --import. Received: {module!r}: {error}. {advice}.") from error


def _register(module: Any) -> None:
    """Let Keras find the classes and functions that a module defines, though they are not registered."""
    keras = load_keras()
    package = module.__name__.partition(".")[0]
    for thing in vars(module).values():
        is_custom = inspect.isfunction(thing) or (inspect.isclass(thing) and hasattr(thing, "get_config"))
        if is_custom and thing.__module__.partition(".")[0] == package:
            keras.saving.get_custom_objects().setdefault(keras.saving.get_registered_name(thing), thing)


def _check_classes(path: str) -> None:
    """Refuse a .keras file with classes and functions that Keras does not know.

    Raises:
        UnknownClassError: Naming them, and their modules.
    """
    most = most_unpacked(Path(path).stat().st_size)
    with Path(path).open("rb") as stream, open_archive(stream, most=most) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                read_entry(archive, entry)  # Keras would unpack all of it, whatever its size is said to be
        todo = [parse_json(read_entry(archive, archive.getinfo("config.json")))]
    unknown: dict[str, str] = {}
    while todo:
        entry = todo.pop()
        name = _unknown_name(entry) if isinstance(entry, dict) else ""
        if name:
            unknown[name] = str(entry.get("module"))
        todo += entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []
    if unknown:
        modules = sorted(set(unknown.values()) - {"__main__", "None", "builtins"})  # Keras leaves out the other ones
        advice = "Add " + " ".join(f"--import {module}" for module in modules)
        if not modules:
            advice = "Put them into a module, such as mine.py, and add --import mine"
        raise _UnknownClassError(
            f"Expected a model of classes and functions that Keras knows. Received: {path!r}, which was saved with "
            f"{', '.join(sorted(unknown))}. {advice}."
        )


def _unknown_name(entry: dict[str, Any]) -> str:
    """Return the name of a class or function in a configuration that Keras does not know; empty for anything else."""
    keras, is_function = load_keras(), entry.get("class_name") == "function"
    name = entry.get("config" if is_function else "registered_name")
    package = str(entry.get("module")).partition(".")[0]
    if "class_name" not in entry or not isinstance(name, str) or package in _KNOWN_PACKAGES:
        return ""
    is_of_keras = package == "builtins" and any(hasattr(getattr(keras, place), name) for place in _FUNCTIONS)
    is_known = is_of_keras or keras.saving.get_registered_object(name) is not None
    return "" if is_known else name.rpartition(">")[2]


def _check_arguments(path: str, error: BaseException) -> None:
    """Say what a class said of its arguments, which Keras' own message hides among the whole configuration.

    Raises:
        UnknownClassError: If an error comes from there.
    """
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    if cause is not error:
        raise _UnknownClassError(
            f"Expected a model that Keras can build from its configuration. Received: {path!r}: {_reason(cause)}. "
            f"Let `__init__` take **kwargs and pass them to super().__init__(**kwargs), and return its arguments in "
            f"`get_config`; then build the model, load its weights with model.load_weights, and save it anew."
        ) from error


def load_arrays(path: str, *, mmap_mode: Any = None) -> Any:
    """Return the array of a .npy file, or those of a .npz file as a dict; each has its samples along the first axis.

    Args:
        path: The file.
        mmap_mode: With `"r"`, only entries of a .npy file that are used are read from the disk.

    Raises:
        ValueError: If the file is missing or damaged, or holds something else.
    """
    inputs = path.partition(",")[0]
    if inputs != path and not Path(path).exists():
        raise ValueError(f"Expected one file of inputs only, without labels. Received: {path!r}. Pass {inputs}.")
    advice = "Save samples with numpy.save, or one array per input with numpy.savez"
    with _reading(path, "a .npy or .npz file of samples along the first axis", advice):
        content = read_data(path, mmap_mode=mmap_mode)
        arrays = {"its array": content} if isinstance(content, np.ndarray) else content
        for name, array in arrays.items():
            if not np.ndim(array):
                raise TypeError(f"{name} is a single value")
        return content


def load_groups(path: str | None) -> dict[str, np.ndarray] | None:
    """Return groups of samples by name: the arrays of a .npz file, or that of a .npy file by the name of the file."""
    if path is None:
        return None
    arrays = load_arrays(path)
    return arrays if isinstance(arrays, dict) else {Path(path).stem: arrays}


# Values of a certificate, which is not trusted: plain ones, files by their hashes, and objects of listed classes.

# Values that an argument may have, by the module that offers them.
_CLASSES = {
    **dict.fromkeys(("Limit", "Distillation"), "tfprune"),
    **dict.fromkeys(("Unstructured", "Block", "NM"), "tfprune.patterns"),
    **dict.fromkeys(("Quantization", "EdgeQuantizer", "Micro", "Vela", "Search"), "tfprune.export"),
}
_KERAS_MODULES = {"keras": ("optimizers", "losses", "metrics"), "keras_hub": ("tokenizers",)}
_HASH_SHOWN = 12  # characters of a SHA-256 in a message


def absent(name: str, sha256: str) -> str:
    """Return the words for a file that was not found by its hash."""
    return f"no file with the SHA-256 {sha256[:_HASH_SHOWN]}... of {name!r}: pass --from with its folder"


@dataclass(frozen=True)
class _ModelHash:
    """A Keras model of a certificate, which is loaded when all else is there."""

    name: str
    sha256: str


class Supplies:
    """The values that a certificate describes, found by their hashes.

    Args:
        files: The files of the user in which they are looked for.
        problems: Where it is noted what is missing, in words.
        options: `imports`, the modules that may be imported, and `recipe_python`, the program that may run.
    """

    def __init__(self, files: Iterable[Path], problems: list[str], *, options: Any) -> None:
        self._options, self._problems = options, problems
        self._files = [*files]

    def value(self, text: Any) -> Any:
        """Return a value as the writer takes it, models as their hashes."""
        if isinstance(text, list):
            return [self.value(inner) for inner in text]
        if not isinstance(text, dict):
            return text
        kind = next(iter(text))
        return getattr(self, f"_{kind.replace(' ', '_')}")(text)

    def with_models(self, value: Any) -> Any:
        """Return a value whose models are loaded."""
        if isinstance(value, _ModelHash):
            return self._loaded(value)
        return value

    def _miss(self, text: str) -> None:
        self._problems.append(text)

    def _not_recorded(self, text: Mapping[str, Any]) -> None:
        self._miss(f"a value that no certificate holds: {text['not recorded']}")

    def _tuple(self, text: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(map(self.value, text["tuple"]))

    def _dict(self, text: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.value(inner) for name, inner in text["dict"].items()}

    def _model(self, text: Mapping[str, Any]) -> _ModelHash:
        return _ModelHash(str(text.get("name")), text["model"])

    def _array(self, text: Mapping[str, Any]) -> Any:
        for path in self._files:
            if path.suffix in (".npy", ".npz"):
                content = load_arrays(str(path))
                for array in content.values() if isinstance(content, dict) else [content]:
                    if array_hash(array) == text["array"]:
                        return array
        shape = f"{text.get('dtype')} of shape {text.get('shape')}"
        return self._miss(f"no .npy or .npz file with the array {text['array'][:_HASH_SHOWN]}... ({shape})")

    def _file(self, text: Mapping[str, Any]) -> Any:
        for path in self._files:
            if folder_hash(path) == text["file"]:
                return path.read_bytes() if text.get("content") else path
        return self._miss(absent(str(text.get("name") or "the source"), text["file"]))

    def _code(self, text: Mapping[str, Any]) -> Any:
        module, _, name = text["code"].partition(":")
        if module not in self._options.imports:
            return self._miss(f"no --import {module}")  # with another hash it was refused before
        value = getattr(imported_module(module), name, None)
        return value if value is not None else self._miss(f"no {name!r} at the top of module {module}")

    def _class(self, text: Mapping[str, Any]) -> Any:
        name, values = text["class"], {field: self.value(inner) for field, inner in text["values"].items()}
        if name not in _CLASSES:
            return self._miss(f"a value of class {name!r}")
        if name == "EdgeQuantizer" and values.get("python") is not None:
            values["python"] = self._options.recipe_python
            if values["python"] is None:
                return self._miss("no --recipe-python, a program that the certificate names")
        if self._problems:
            return None
        return getattr(importlib.import_module(_CLASSES[name]), name)(**values)

    def _keras(self, text: Mapping[str, Any]) -> Any:
        name, config = text["keras"], text.get("config")
        if "class_name" in json.dumps(config) or not isinstance(config, dict):
            return self._miss(f"{name}, which holds other objects")
        load_keras()
        for room in _KERAS_MODULES.get(str(text.get("of")), ()):
            kind: Any = getattr(importlib.import_module(f"{text['of']}.{room}"), name, None)
            if callable(getattr(kind, "from_config", None)):
                return kind.from_config(config)
        return self._miss(f"{name}, which is not a class of Keras")

    def _loaded(self, model: _ModelHash) -> Any:
        reasons = []
        for path in self._files:
            if path.suffix in (".keras", ".h5"):
                try:
                    loaded = load_model(str(path), compiled=True, imports=self._options.imports)
                except ValueError as error:  # of another model, as long as one is right
                    reasons.append(str(error).removesuffix("."))
                    continue
                if model_hash(loaded) == model.sha256:
                    return loaded
        reasons = reasons or ["save it with model.save, and pass --from with its folder"]
        return self._miss(
            f"no .keras file with the model {model.name!r}, {model.sha256[:_HASH_SHOWN]}...: {reasons[0]}"
        )
