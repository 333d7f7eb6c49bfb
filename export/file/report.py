"""Reports of files, model cards, and the archive of labels behind a .tflite file."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import quote

from tfprune.base.folders import most_unpacked, open_archive, read_entry, reading
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.report import Report, Skipped, printable, shortened

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
    known = [metric for metric in _HUB_METRICS if metric in {metric for _, metric, _ in results}]
    lines += ["metrics:", *(f"- {metric}" for metric in known)] if known else []
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
