"""Reports of files, model cards, certificates, and the archive of labels behind a .tflite file."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import io
import json
import math
import os
import platform
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar
from urllib.parse import quote

import numpy as np

from tfprune.base.folders import most_unpacked, open_archive, parse_json, read_entry, read_fields, reading, save_file
from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec
from tfprune.report import Report, Skipped, printable, shortened, table

# Reports of files: what several of them share.

OPEN_BATCH = "any number of samples at once; for a browser, fix it: rewrite(..., batch=1)"


@dataclass(frozen=True)
class TensorInfo(Report):
    """An input or output of a file.

    Attributes:
        name: The name in the signature, or the name of the tensor in a file without signatures.
        shape: The shape, with None for a free dimension.
        dtype: The type in the file, such as `float32` or `int8`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {shape_text(self.shape)} {self.dtype}"


def open_batch(inputs: Iterable[TensorInfo]) -> tuple[str, ...]:
    """Return the names of the inputs with a free dimension, which is nearly always the batch.

    LiteRT.js cannot resize an input: it refuses such a file, or returns zeros without an error.
    """
    return tuple(info.name for info in inputs if None in info.shape)


def fraction_of_zeros(nnz: int, size: int) -> float:
    """Return 1 - nnz / size, or 0 if there are no entries."""
    return 1 - nnz / size if size else 0.0


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape as text, such as `?x28x28x1`, with a question mark for a free dimension."""
    return "x".join("?" if length is None else str(length) for length in shape) or "scalar"


_MODULES = re.compile(r"(?:\w+\.){2,}(?=\w)")  # of a class in a path of PyTorch
_TITLE_WIDTH, _PATH_WIDTH = 48, 64


def layer_title(name: str) -> str:
    """Return the name of a layer of a file as tables show it: short, and of PyTorch's paths the end.

    Example:
        >>> layer_title("torch.nn.modules.container.Sequential_head/torch.nn.modules.linear.Linear_2;1")
        'Sequential_head/Linear_2'
    """
    if not _MODULES.search(name):
        return shortened(name, _TITLE_WIDTH)
    joined, _, more = name.partition(" and ")  # of several layers
    path = _MODULES.sub("", next(filter(None, joined.split(";")), joined))
    if len(path) > _PATH_WIDTH:
        path = f"\u2026/{path[-_PATH_WIDTH:].partition('/')[2] or path[-_PATH_WIDTH:]}"
    return f"{path} and {more}" if more else path


def titled(skipped: Iterable[Skipped]) -> list[Skipped]:
    """Return skipped layers with their names as tables show them."""
    return [replace(entry, layer=layer_title(entry.layer)) for entry in skipped]


def reason_of(error: Exception) -> str:
    """Return why something failed, to stand inside a sentence: the system's words for a file, and no final period."""
    return (getattr(error, "strerror", None) or str(error)).removesuffix(".")


def number_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def yes_or_no(value: bool) -> str:
    return "yes" if value else "NO"


# Model cards in Markdown: what is known about a file, for the people who get it.

_TAGS = ("tflite", "litert", "tfprune")
_HUB_METRICS = ("accuracy", "mae", "mse")  # names that the Hugging Face Hub knows
_SPLITS = ("validation", "test")  # names of parts of data sets there
_HUB_NAMES = {"license": "apache-2.0", "task": "image-classification"}
_HUB_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_MARKS = re.compile(r"([\\`*_{}\[\]<>#!|~&$@:^])|(?<=www)(\.)")  # what Markdown, HTML, or a link could start with


class HubEntry(NamedTuple):
    """What only the user knows of a model, for the front matter of its card; an empty text is left out.

    Attributes:
        license: An identifier of the Hub, such as `apache-2.0`.
        base_model: The id of a model on the Hub.
        task: The Hub's name of the task, such as `image-classification`.
        dataset: The name of the data on which the file was measured.
        pictures: Paths of pictures beside the card, relative to it.
    """

    license: str = ""
    base_model: str = ""
    task: str = ""
    dataset: str = ""
    pictures: Sequence[str] = ()

    def checked(self) -> HubEntry:
        """Return the entry, or refuse what the Hub would not read.

        Raises:
            TypeError: If one is not a string.
            ValueError: If the license or the task is not written as the Hub writes them, the base model is not an id,
                or a picture is not beside the card.
        """
        is_one = isinstance(self.pictures, str) or not isinstance(self.pictures, Sequence)
        pictures: tuple[Any, ...] = (self.pictures,) if is_one else tuple(self.pictures)
        named = [*zip(self._fields, self[:-1], strict=False), *(("pictures", name) for name in pictures)]
        for argument, value in named:
            if not isinstance(value, str):
                received = f"{value!r} of type {type(value).__name__}"
                raise ArgumentTypeError(argument, f"`{argument}` as text", received)
        for argument, like in _HUB_NAMES.items():
            value = getattr(self, argument)
            if not re.fullmatch(r"([a-z0-9][a-z0-9.+-]*)?", value):
                expected = f"`{argument}` as the Hub writes it, in small letters, such as {like!r}"
                raise ArgumentError(argument, expected, repr(value), advice="Leave it out if unsure.")
        if self.base_model and not _is_hub_id(self.base_model):
            expected = "`base_model` as the id of a model on the Hub, such as 'google/gemma-3-270m'"
            raise ArgumentError("base_model", expected, repr(self.base_model), advice="Copy the id from its page.")
        for name in pictures:
            if not name.isprintable() or not {"..", ""}.isdisjoint(re.split(r"[/\\:]", name)):
                advice = "Write the picture beside the card."
                expected = "`pictures` as paths from the card's folder on"
                raise ArgumentError("pictures", expected, repr(name), advice=advice)
        return self._replace(pictures=pictures)


def _is_hub_id(text: str) -> bool:
    """Tell whether a text is a name, or an owner and a name, of the signs that the Hub allows."""
    return bool(re.fullmatch(rf"({_HUB_WORD}/)?{_HUB_WORD}(?<!\.git)", text)) and not re.search(r"--|\.\.", text)


def model_card(
    title: str,
    sections: Iterable[tuple[str, Sequence[Sequence[str]]]],
    *,
    results: Iterable[tuple[str, str, float]] = (),
    tags: Iterable[str] = (),
    code: str = "",
    entry: HubEntry | None = None,
) -> str:
    """Return a model card: the front matter that the Hugging Face Hub reads, and one table in each section.

    Args:
        title: The name of the file.
        sections: The heading of each section, and the rows of its table, the first of which is its header. Sections
            without further rows are left out. All texts are escaped.
        results: The part of the data, the metric and the value of each measurement of the file. Only finite values
            are in the front matter, and `metrics` there lists only names that the Hub knows.
        tags: More tags for the front matter, words of the library.
        code: A program that makes the file; empty if it is not known.
        entry: What only the user knows.

    Example:
        >>> print(model_card("a_b", [("Size", [["", ""], ["bytes", "1,200"]])]), end="")
        ---
        library_name: litert
        tags:
        - tflite
        - litert
        - tfprune
        ---
        <BLANKLINE>
        # a\\_b
        <BLANKLINE>
        A TFLite file, made with tfprune.
        <BLANKLINE>
        ## Size
        <BLANKLINE>
        |  |  |
        |---|---|
        | bytes | 1,200 |
    """
    entry = (entry or HubEntry()).checked()
    lines = ["---", *_front_matter(title, [*results], tags, entry), "---"]
    lines += ["", f"# {_escaped(title)}", "", "A TFLite file, made with tfprune."]
    for heading, rows in sections:
        if len(rows) > 1:
            cells = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
            lines += ["", f"## {heading}", "", cells[0], f"|{'---|' * len(rows[0])}", *cells[1:]]
    if entry.pictures:
        lines += ["", "## Pictures"]
        lines += [part for name in entry.pictures for part in ("", f"![{_escaped(name)}]({quote(name)})")]
    if code:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
        lines += ["", "## Program", "", f"{fence}python", code.rstrip(), fence]
    return "\n".join(lines) + "\n"


def _front_matter(
    title: str, results: Sequence[tuple[str, str, float]], tags: Iterable[str], entry: HubEntry
) -> list[str]:
    """Return the lines of YAML between the marks of a card's head."""
    lines = [f"library_name: {'tfprune' if title.lower().endswith('.tfz') else 'litert'}"]  # which reads the file
    lines += [f"license: {_yaml(entry.license)}"] * bool(entry.license)
    lines += [f"base_model: {_yaml(entry.base_model)}"] * bool(entry.base_model)
    lines += [f"pipeline_tag: {_yaml(entry.task)}"] * bool(entry.task)
    lines += ["tags:", *(f"- {tag}" for tag in (*_TAGS, *tags))]
    results = [result for result in results if math.isfinite(result[2])]
    names = [metric for metric in _HUB_METRICS if metric in {metric for _, metric, _ in results}]
    lines += ["metrics:", *(f"- {name}" for name in names)] if names else []
    if not results:
        return lines
    lines += ["model-index:", f"- name: {_yaml(title)}", "  results:"]
    for split, metric, value in results:
        lines += ["  - task:", f"      type: {_yaml(entry.task or 'other')}"]
        lines += ["    dataset:", f"      name: {_yaml(entry.dataset or f'{split} data')}"]
        lines += [f"      type: {_yaml(entry.dataset or 'unknown')}"]  # which the Hub requires, as it does the task
        lines += [f"      split: {split}"] * (split in _SPLITS)
        lines += ["    metrics:", f"    - type: {_yaml(metric)}", f"      value: {_yaml_number(value)}"]
    return lines


def _yaml(text: str) -> str:
    """Return a text as YAML: JSON's strings of printable characters are strings there, too.

    Example:
        >>> print(_yaml('a: "b" #c'))
        "a: \\"b\\" #c"
    """
    return json.dumps(printable(text), ensure_ascii=False)


def _yaml_number(value: float) -> str:
    """Return a number as YAML, where one without a point is not a float: 1.0e-05.

    Example:
        >>> _yaml_number(1e-5), _yaml_number(0.97)
        ('1.0e-05', '0.97')
    """
    text = repr(float(value))
    return text if "." in text else text.replace("e", ".0e")


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line: names in files and models come from anywhere.

    Example:
        >>> print(_escaped("conv_1|<b> http://x"))
        conv\\_1\\|\\<b\\> http\\://x
    """
    return _MARKS.sub(lambda match: "\\" + match[0], printable(text))


# Certificates: the call that made a file, what it was made of, and how it was checked.
#
# A call is described before it runs, because models and arrays may change afterwards, and in values of JSON: plain
# values stand as they are, and everything else as a dict of one kind, such as {"array": ...} with its hash.

CERTIFICATE = 1  # the version of the format
_FORMAT = "tfprune certificate"
# Packages by the names of their modules: those that are loaded can change a file, and some run in other processes.
_PACKAGES = {
    "tensorflow": "tensorflow",
    "keras": "keras",
    "keras_hub": "keras-hub",
    "jax": "jax",
    "torch": "torch",
    "tflite_micro": "tflite-micro",
    "litert_converter": "litert-converter",
    "litert_lm_builder": "litert-lm-builder",
    "ethosu": "ethos-u-vela",
}
_ALWAYS = ("numpy", "flatbuffers", "ai-edge-litert", "tflite-runtime")
_LIBRARIES = ("keras", "keras_hub", "keras_cv", "keras_nlp", "tensorflow", "tfprune", "builtins")
_SOURCES = ("source", "data", "validation_data", "test_data")  # arguments in which a text is a path
_OUTPUTS, _SILENT = ("path", "folder"), ("verbose",)
_MOST_INLINE = 2**16  # characters of lists and texts that stand in a certificate as they are
_within = contextvars.ContextVar("_within", default=False)  # a writer that another one calls is a part of its call
_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned", bound="FileReport")


@dataclass(frozen=True)
class Certificate(Report):
    """How a file can be made again, byte for byte, and how it was checked: `certificate` of a report returns one.

    `tfprune reproduce` runs the recipe again and compares the bytes. All fields are values of JSON.

    Attributes:
        file: The name of the file, its SHA-256 and its number of bytes.
        function: The function that wrote it, a name of `tfprune.export`.
        arguments: The arguments that were not the default, by name. Arrays, models and files stand by their SHA-256.
        command: The words of the command line after `tfprune`; empty for a call in Python.
        inputs: The SHA-256 of each file and folder that the command line names.
        code: The SHA-256 of each module of the user that the model or an argument comes from, by its name.
        seeds: The seeds among the arguments, by name.
        versions: The versions of the packages that took part, and of Python.
        machine: The system and the processor's family, and the backend of Keras.
        checks: What the report says of the file: the runtimes that ran it, differences of outputs, and sizes; with
            `damage` what each class lost, and with `latency` what a run took, and where.
        notes: What may keep the file from being made again.
    """

    file: dict
    function: str
    arguments: dict
    versions: dict
    machine: dict
    command: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)
    code: dict = field(default_factory=dict)
    seeds: dict = field(default_factory=dict)
    checks: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    @property
    def text(self) -> str:
        """The certificate in JSON, as `read_certificate` reads it."""
        return json.dumps({"format": _FORMAT, "version": CERTIFICATE, **self.as_dict()}, indent=2) + "\n"

    @property
    def call(self) -> str:
        """The call in Python, with words in place of what stands in no certificate."""
        words = [f"{name}={_words(value)}" for name, value in self.arguments.items()]
        return f"tfprune.export.{self.function}({', '.join(words)})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as a file in JSON, whole or not at all."""
        save_file(path, self.text.encode())

    def __str__(self) -> str:
        rows = [["sha256", str(self.file["sha256"])], ["bytes", f"{self.file['bytes']:,}"]]
        rows.append(["made by", " ".join(["tfprune", *self.command]) if self.command else self.call])
        rows += [["version", f"{name} {number}"] for name, number in self.versions.items()]
        rows += [["note", note] for note in self.notes]
        return table(["certificate", str(self.file["name"])], rows, left=2)


def read_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate without trusting it.

    Raises:
        ValueError: If it is not a certificate, or one of a newer format.
    """
    with reading(path, expected="a certificate of tfprune", advice="Write it with --certificate FILE.json"):
        content = parse_json(Path(path).read_bytes())
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError("it is not one")
        version = content.pop("version", None)
        if type(version) is not int or not 1 <= version <= CERTIFICATE:
            newer = type(version) is int and version > CERTIFICATE
            why = f"newer than {CERTIFICATE}, which this tfprune reads; update it" if newer else "an unknown one"
            raise ValueError(f"its format has version {version!r}, {why}")
        certificate = read_fields(Certificate, content)
        name, sha256, size = (certificate.file.get(key) for key in ("name", "sha256", "bytes"))
        if not (_is_value(certificate.function) and _is_value({"dict": certificate.arguments})):
            raise ValueError("its call holds what is not a value of a certificate")
        texts = [name, sha256, *certificate.command, *certificate.inputs.values(), *certificate.code.values()]
        texts += [*certificate.versions.values(), *certificate.machine.values(), *certificate.notes]
        if type(size) is not int or not all(isinstance(text, str) for text in texts):
            raise ValueError("a field of it has another type")
        if not name or PurePath(name).name != name or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
            raise ValueError("its file has no name or no SHA-256")
        return certificate


# What stands behind the name of a kind, which comes first in a dict.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("array", "file", "model", "code", "keras", "class", "not recorded"), str),
    "tuple": list,
    "dict": dict,
}


def _is_value(value: Any) -> bool:
    """Return whether a value is one that `_described` returns."""
    if isinstance(value, list):
        return all(map(_is_value, value))
    if not isinstance(value, dict):
        return True
    kind = next(iter(value), "")
    if not isinstance(value.get(kind), _KINDS.get(kind, ())):
        return False
    if kind == "class":
        return isinstance(value.get("values"), dict) and all(map(_is_value, value["values"].values()))
    inner = value[kind].values() if kind == "dict" else value[kind] if kind == "tuple" else ()
    return all(map(_is_value, inner))


class FileReport(Report):
    """Base of the reports of functions that write a model file: it remembers the call, if `certified` ran it."""

    _origin: ClassVar[Any] = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that were written."""
        written: Any = getattr(self, "file", self)
        return (written.path,)

    def facts(self, path: str) -> dict[str, Any]:
        """Return what is known about one of the files, as values of JSON."""
        return self.as_dict()

    def certificate(
        self, *, damage: Report | None = None, latency: Report | None = None, path: str | None = None
    ) -> Certificate:
        """Return a certificate: how the file can be made again, byte for byte, and how it was checked.

        Save it beside the file with `certificate().save(path)`. `tfprune reproduce` makes the file again.

        Args:
            damage: What `tfprune.export.damage` found: what each class lost, with its interval. None leaves it out.
            latency: What `tfprune.export.benchmark` measured. None leaves it out.
            path: One of `paths`. None (the default) takes the first.

        Raises:
            ValueError: If no writer returned this report, or it did not write `path`.

        Example:
            >>> report = tfprune.export.to_tflite(model, "digits.tflite", check_on=images)
            >>> certificate = report.certificate()
            >>> certificate.function, len(certificate.file["sha256"])
            ('to_tflite', 64)
        """
        path = self.paths[0] if path is None else path
        origin = self._origin
        if origin is None or path not in origin["files"]:
            raise ValueError(
                f"Expected a report as its writer returned it, and one of its files. Received: {path!r}. Call the "
                "writer again."
            )
        facts = self.facts(path)
        facts.pop("path", None)
        facts |= {name: part.as_dict() for name, part in (("damage", damage), ("latency", latency)) if part}
        return Certificate(file=origin["files"][path], checks=facts, **origin["call"])


def certified(write: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
    """Let the report of a writer remember the call, so that it has a certificate."""
    signature = inspect.signature(write)

    @functools.wraps(write)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Returned:
        try:
            arguments = {} if _within.get() else signature.bind(*args, **kwargs).arguments
        except TypeError:  # the function itself says what is wrong
            arguments = {}
        if not arguments:
            return write(*args, **kwargs)
        token = _within.set(True)
        try:
            call = _call(write.__name__, arguments, signature)
            report = write(*args, **kwargs)
            with_origin(report, call)
            return report
        finally:
            _within.reset(token)

    return run


def with_origin(report: _Returned, origin: Mapping[str, Any] | FileReport) -> _Returned:
    """Let a report remember a call, that of another report for example, and hash its files."""
    call = origin._origin["call"] if isinstance(origin, FileReport) else origin
    files = {path: {"name": PurePath(path).name, **hashed(Path(path).read_bytes())} for path in report.paths}
    object.__setattr__(report, "_origin", {"call": call, "files": files})
    return report


def hashed(content: bytes) -> dict[str, Any]:
    """Return the SHA-256 of a file's content, and its size."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def array_hash(array: np.ndarray) -> str:
    """Return the SHA-256 of an array: of its type and shape, and then of its entries in order."""
    result = hashlib.sha256(f"{array.dtype.name}{list(array.shape)}".encode())
    result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return result.hexdigest()


def model_hash(model: Any) -> str:
    """Return the SHA-256 of a Keras model: of its configuration, without names of variables, and its weights.

    A model that was saved and loaded again has the same one: times in its file do not count.
    """
    try:
        config = json.loads(model.to_json())
        for name in ("compile_config", "build_config"):
            config.pop(name, None)
    except (NotImplementedError, TypeError, ValueError):  # of a class that has no configuration
        config = {"class_name": type(model).__name__}
    result = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for weight in model.weights:
        result.update(array_hash(np.asarray(weight)).encode())
    return result.hexdigest()


def folder_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of the names of its files and their contents."""
    if path.is_file():
        return hashed(path.read_bytes())["sha256"]
    rows = [f"{file.relative_to(path).as_posix()} {folder_hash(file)}" for file in path.rglob("*") if file.is_file()]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library, and of the packages that may change a file."""
    numbers = {"python": platform.python_version(), "tfprune": sys.modules["tfprune"].__version__}
    for name in (*_ALWAYS, *(package for module, package in _PACKAGES.items() if module in sys.modules)):
        number = version_of(name)
        if number:
            numbers[name] = number
    return numbers


def version_differences(certificate: Certificate) -> dict[str, str]:
    """Return the packages whose version here is another one than that of a certificate, in words, and Python."""
    here = {**versions(), **{name: version_of(name) for name in (*_ALWAYS, *_PACKAGES.values())}}
    return {
        name: f"{name} {number}, and here it is {here.get(name) or 'not installed'}"
        for name, number in certificate.versions.items()
        if here.get(name) != number
    }


def version_of(package: str) -> str:
    """Return the version of a package that is installed; empty for another one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _call(function: str, arguments: Mapping[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    """Return the fields of a certificate that a call has."""
    code: dict[str, str] = {}
    texts = {}
    for name, value in arguments.items():
        default = signature.parameters[name].default
        if name not in (*_OUTPUTS, *_SILENT) and not (value is default or _equal_plain(value, default)):
            is_path = name in _SOURCES and isinstance(value, str)
            texts[name] = _described(Path(value) if is_path else value, code)
    keras = sys.modules.get("keras")
    backend = {"backend": keras.backend.backend()} if keras is not None else {}
    machine = {"system": platform.system(), "machine": platform.machine(), **backend}
    seeds = dict(_seeds(texts))
    call = {"function": function, "arguments": texts, "versions": versions(), "machine": machine}
    return {**call, "code": code, "seeds": seeds, "notes": _notes(function, texts)}


def _equal_plain(value: Any, default: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return (
        type(value) is type(default)
        and all(isinstance(each, (str, int, float)) for each in parts)
        and value == default
    )


def _seeds(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items() if isinstance(value, dict) else ():
        if name == "seed" and isinstance(inner, int):
            yield f"{path}{name}", inner
        yield from _seeds(inner, f"{path}{name}.")


def _notes(function: str, arguments: Mapping[str, Any]) -> list[str]:
    if function != "compress":
        return []
    notes, value = [], arguments.get("search")
    search = value.get("values", {}) if isinstance(value, dict) else {}  # the writer refuses all others
    if "steps" not in search:
        notes.append(
            "the search trained as many steps as fit into its time: with Search(steps=...) it does not measure"
        )
    if "trials" not in search:
        notes.append("the search ended when its time was over: with Search(trials=...) it ends after as many recipes")
    if arguments.get("optimize") == "latency" and "target" not in arguments:
        notes.append("files were chosen by their measured latency, which another run may measure otherwise")
    if search.get("jobs", 1) > 1 or "executor" in search:
        notes.append("trials ran at once: which comes first is not fixed")
    return notes


def _described(value: Any, code: dict[str, str]) -> Any:
    """Return a value as JSON has it; modules of the user's that it comes from are added to `code`."""
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, np.generic):
        return _described(value.item(), code)
    if isinstance(value, (bytes, bytearray, memoryview, os.PathLike)):
        return _described_file(value)
    if hasattr(value, "weights") and hasattr(value, "layers"):
        _add_classes(value, code)
        return {"model": model_hash(value), "name": value.name}
    if hasattr(value, "__array__") and hasattr(value, "shape"):
        return _described_array(value)
    if isinstance(value, (tuple, list, Mapping)):
        return _described_items(value, code)
    if isinstance(value, Spec) or (dataclasses.is_dataclass(value) and type(value).__module__.startswith("tfprune.")):
        return {"class": type(value).__name__, "values": _described_fields(value, code)}
    if inspect.isfunction(value) or inspect.isclass(value):
        _add_code(value.__module__, code)
        return {"code": f"{_module_name(value.__module__)}:{value.__qualname__}"}
    return _described_object(value)


def _described_fields(value: Any, code: dict[str, str]) -> dict[str, Any]:
    """Return the fields of a dataclass that are not the default."""
    fields = [each for each in dataclasses.fields(value) if each.init]
    values = {each.name: getattr(value, each.name) for each in fields}
    defaults = {each.name: each.default for each in fields}
    return {
        name: _described(inner, code)
        for name, inner in values.items()
        if not (inner is defaults[name] or _equal_plain(inner, defaults[name]))
    }


def _described_file(value: Any) -> dict[str, Any]:
    if not isinstance(value, os.PathLike):
        return {"file": hashed(bytes(value))["sha256"], "name": "", "content": True}
    path = Path(value)
    sha256 = folder_hash(path) if path.is_file() else ""  # the writer refuses what is not there
    return {"file": sha256, "name": path.name}


def _described_array(value: Any) -> dict[str, Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return {"not recorded": type(value).__name__}
    if array.dtype.hasobject:
        return {"not recorded": f"an array of {array.dtype}"}
    return {"array": array_hash(array), "shape": [*array.shape], "dtype": array.dtype.name}


def _described_items(value: Any, code: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            return {"not recorded": "a dict whose keys are not texts"}
        return {"dict": {name: _described(inner, code) for name, inner in value.items()}}
    items = [_described(inner, code) for inner in value]
    if len(json.dumps(items)) > _MOST_INLINE:
        return {"not recorded": f"a {type(value).__name__} of {len(items):,} values; pass an array"}
    return {"tuple": items} if isinstance(value, tuple) else items


def _described_object(value: Any) -> dict[str, Any]:
    """Return an object that Keras can save, such as an optimizer, by its class and configuration."""
    kind = type(value)
    try:
        config = json.loads(json.dumps(value.get_config()))
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return {"not recorded": kind.__name__}
    return {"keras": kind.__name__, "of": kind.__module__.partition(".")[0], "config": config}


def _add_classes(model: Any, code: dict[str, str]) -> None:
    """Add the modules of classes that a model is made of."""
    _add_code(type(model).__module__, code)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            _add_classes(layer, code)
        else:
            _add_code(type(layer).__module__, code)


def _add_code(module: str, code: dict[str, str]) -> None:
    if module.partition(".")[0] not in _LIBRARIES:
        file = getattr(sys.modules.get(module), "__file__", None)
        code[_module_name(module)] = folder_hash(Path(file)) if file and Path(file).is_file() else ""


def _module_name(module: str) -> str:
    """Return the name by which a module can be imported, that of its file for a program."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).stem if module == "__main__" and file else module


def _words(value: Any) -> str:
    """Return a value of a certificate as Python writes it, as far as it does."""
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    kind = next(iter(value), "")
    if kind == "dict":
        return f"{{{', '.join(f'{name!r}: {_words(each)}' for name, each in value[kind].items())}}}"
    if kind == "tuple":
        return f"({', '.join(map(_words, value[kind]))})"
    if kind == "class":
        inner = ", ".join(f"{name}={_words(each)}" for name, each in value["values"].items())
        return f"{value['class']}({inner})"
    return f"<{kind} {str(value[kind])[:12]}>"


# Files behind a .tflite: TFLite's metadata tools append labels and vocabularies as a zip archive.

_END, _ENTRY, _LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
_END_RECORD_BYTES = 22  # bytes of the archive's last record, before its comment
_MAX_COMMENT_BYTES = 2**16 - 1  # the longest comment behind it
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of a file in an archive: the same content gives the same bytes


def trailing_archive(data: bytes) -> bytes:
    """Return the archive that stands behind a file, with offsets from the archive's own start.

    Args:
        data: The file, whole.

    Returns:
        The archive; no bytes where there is none.
    """
    try:
        start, offsets = _archive(data)
    except (struct.error, ValueError):
        return b""
    return _shifted(data[start:], [position - start for position in offsets], by=-start)


def append_archive(content: bytes, archive: bytes) -> bytes:
    """Append to a file an archive of `trailing_archive`, whose offsets then count from the file's start."""
    if not archive:
        return content
    _, offsets = _archive(archive)
    return content + _shifted(archive, offsets, by=len(content))


def read_archive(archive: bytes) -> dict[str, bytes]:
    """Return the files in an archive of `trailing_archive`, by name.

    Raises:
        ValueError: If it is damaged, names a file twice, holds more than 32 MiB and 100 times its size, or is packed
            by another way than deflate, which the tools of TFLite do not use.
    """
    if not archive:
        return {}
    with (
        reading("labels", expected="a whole archive behind the model", advice="Copy the file again"),
        open_archive(io.BytesIO(archive), most=most_unpacked(len(archive))) as files,
    ):
        entries = files.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it names a file twice")
        return {entry.filename: read_entry(files, entry) for entry in entries}


def make_archive(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files as they are, which readers on devices need: they map them into memory."""
    if not files:
        return b""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _FIRST_DAY), content)
    return stream.getvalue()


def _shifted(archive: bytes, positions: list[int], *, by: int) -> bytes:
    """Move the offsets that stand at these positions of an archive."""
    moved = bytearray(archive)
    for position in positions:
        (offset,) = struct.unpack_from("<I", moved, position)
        struct.pack_into("<I", moved, position, offset + by)
    return bytes(moved)


def _archive(data: bytes) -> tuple[int, list[int]]:
    """Return where the archive begins, and where it says where something is."""
    end = data.rfind(_END, max(0, len(data) - _END_RECORD_BYTES - _MAX_COMMENT_BYTES))
    count, size, directory = struct.unpack_from("<HII", data, end + 10)
    if end < 0 or directory + size != end or not count:
        raise ValueError("no archive that counts from the file's start.")
    entries = [*_entries(data, directory, count)]
    starts = [struct.unpack_from("<I", data, position + 42)[0] for position in entries]
    if any(start > directory or data[start : start + 4] != _LOCAL for start in starts):
        raise ValueError("an entry that is not where it should be.")
    return min(starts), [position + 42 for position in entries] + [end + 16]


def _entries(data: bytes, position: int, count: int) -> Iterator[int]:
    for _ in range(count):
        if data[position : position + 4] != _ENTRY:
            raise ValueError("fewer entries than it says.")
        yield position
        position += 46 + sum(struct.unpack_from("<HHH", data, position + 28))
