"""One page about a .tflite file, to look at in a browser: sizes, where the zeros are, operators."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfprune.base.html import bar, document, facts, image, key, name_text, rows_table, section, swatch, text
from tfprune.export.file.files.source import Source, read_source
from tfprune.export.file.inspecting.codings import TITLES, Coding
from tfprune.export.file.inspecting.heatmap import density, matrix_shape, png
from tfprune.export.file.inspecting.inspect import report_of
from tfprune.export.file.inspecting.model_report import ModelReport, TensorRow
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import shape_text
from tfprune.export.file.tflite.model import Tensor

if TYPE_CHECKING:
    from tfprune.export.file.xnnpack.sparse_inference_report import OperatorRow, SparseInferenceReport

# A file may hold any number of anything; a page has to open on a phone.
MAX_PICTURES = 120  # largest weights, which get a picture
MAX_LISTED = 400  # weights, operators, inputs and outputs named at most
INITIALLY_OPEN = 2  # weights unfolded at first
MAX_REASON_CHARACTERS = 600  # characters of a reason

NOTES = {
    "dense": "Every entry, zeros included.",
    "mask": "One bit for each entry says whether it is zero; then the non-zero values.",
    "offsets": "Row by row the non-zero values, each with the number of zeros before it in 3 to 8 bits, the smallest "
    "in sum. Where a run of zeros is longer, a zero is stored as a value. The beginnings of rows are counted too.",
    "csr": "Row by row the non-zero values, each with its index in the row, in the narrowest integers that a TFLite "
    "file has for it. The beginnings of rows are counted too.",
    "entropy": "What no coder can beat that codes each run of zeros and each value by itself. Floats hardly repeat: "
    "their values are counted as they are, and only the positions are at their bound.",
    "file": "What the weight takes in this file before the whole is compressed.",
    "best": "Each weight in the smallest of the first four.",
}


def page(source: Source, *, inference: SparseInferenceReport | None = None) -> str:
    """Describe a file as one HTML page that needs nothing besides itself.

    Args:
        source: A path, or the content of such a file, plain or packed.
        inference: What `sparse_inference` says of the file; None leaves that section out.

    Returns:
        The page. It loads nothing and runs no code, and what the file says is text to it.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If `inspect` refuses the file.

    Example:
        >>> content = page("digits.tflite")
        >>> content[:15]
        '<!doctype html>'
    """
    file = ModelFile.open(source)
    report = report_of(file, file_bytes=len(read_source(source)))
    weights = file.graph.weights
    title = Path(source).name if isinstance(source, (str, os.PathLike)) else "model.tflite"
    parts = [
        _facts(report),
        section("What the file is made of", _parts(report)),
        section("All weights, stored in other ways", _sums(report.codings)),
        section("Weights", _weights(report.rows, weights)),
        section("Sparse kernels", _inference(inference)) if inference else "",
        section("Inputs, outputs, operators", _graph(report)),
        section("What the sizes mean", _notes()),
    ]
    return document(title, parts, kicker="TFLite file", footer="Made by tfprune inspect. A kB is 1,000 bytes.")


def _facts(report: ModelReport) -> str:
    packed = report.file_bytes != report.unpacked_bytes
    rows = [
        ("File", size_text(report.file_bytes), f"{size_text(report.unpacked_bytes)} unpacked" if packed else "plain"),
        ("Weights", f"{report.size:,}", f"{report.nnz:,} not zero"),
        ("Zeros", f"{report.sparsity:.1%}", "of all entries"),
    ]
    if report.rows:
        bound = next(coding for coding in report.codings if coding.name == "entropy")
        rows.append(("Entropy bound", size_text(bound.bytes), "for the weights"))
    return facts(rows)


def _parts(report: ModelReport) -> str:
    parts = [
        ("v", "Weights", report.weight_bytes),
        ("p", "Biases and other constants", report.constant_bytes),
        ("d", "Operators, names, scales", report.other_bytes),
    ]
    whole = max(1, sum(count for *_, count in parts))
    rows = [[swatch(kind) + name, size_text(count), f"{count / whole:.1%}"] for kind, name, count in parts]
    return bar([(kind, count / whole) for kind, _, count in parts]) + rows_table(["Part", "Bytes", "Share"], rows)


def _sums(codings: Sequence[Coding]) -> str:
    if not codings:
        return "<p>The file holds no weights.</p>"
    return key([("v", "values"), ("p", "positions")]) + _coding_table(codings)


def _coding_table(codings: Sequence[Coding]) -> str:
    longest = max(1, *(coding.bytes for coding in codings))
    dense = max(1, codings[0].bytes)
    smallest = min(coding.bytes for coding in codings if coding.name != "entropy")
    lines = []
    for coding in codings:
        parts = bar([("v", coding.value_bytes / longest), ("p", coding.index_bytes / longest)])
        kind = "best" if coding.bytes == smallest and coding.name != "entropy" else "other"
        lines.append(
            f'<tr class="{kind}"><th scope="row">{_coding_title(coding)}{parts}</th>'
            f'<td class="wide">{size_text(coding.value_bytes)}</td>'
            f'<td class="wide">{size_text(coding.index_bytes)}</td>'
            f"<td>{size_text(coding.bytes)}</td><td>{coding.bytes / dense:.1%}</td></tr>"
        )
    titles = {"Coding": "", "Values": "wide", "Positions": "wide", "Bytes": "", "Of dense": ""}
    header = "".join(f'<th scope="col" class="{kind}">{title}</th>' for title, kind in titles.items())
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _coding_title(coding: Coding) -> str:
    more = [f"{coding.bits} bits"] if coding.bits else []
    more += [f"{coding.padding:,} zeros stored"] if coding.padding else []
    return _capital(TITLES[coding.name]) + (f' <span class="soft">{", ".join(more)}</span>' if more else "")


def _weights(rows: Sequence[TensorRow], weights: Sequence[Tensor]) -> str:
    pairs = sorted(zip(rows, weights, strict=True), key=lambda pair: -pair[0].bytes)
    if not pairs:
        return "<p>None: no constant tensor of rank 2 or more holds numbers.</p>"
    shades = image(png(np.linspace(0, 1, 32)[None]), "from clear to solid", size=(1, 32))
    legend = key(
        [("v", "non-zero values"), ("p", "positions"), ("d", "zeros")],
        f"<span>pictures: 0 %{shades}100 % of a cell is not zero</span>",
    )
    listed = []
    for index, (row, weight) in enumerate(pairs[:MAX_LISTED]):
        picture = _picture(row, weight) if index < MAX_PICTURES else ""
        state = " open" if index < INITIALLY_OPEN else ""
        listed.append(_weight(row, pairs[0][0].bytes, picture=picture, state=state))
    left = pairs[MAX_LISTED:]
    together = size_text(sum(row.bytes for row, _ in left))
    rest = f"<p>And {len(left):,} smaller ones, which take {together} together.</p>" if left else ""
    return legend + "\n".join(listed) + rest


def _weight(row: TensorRow, largest: int, *, picture: str, state: str) -> str:
    file = row.codings[-1]
    values = row.bytes * row.nnz / max(1, row.size)
    parts = (
        [("v", file.value_bytes), ("p", file.index_bytes)]
        if row.sparse
        else [("v", values), ("d", row.bytes - values)]
    )
    return (
        f"<details{state}><summary>{name_text(row.name)}"
        f'<span class="size">{size_text(row.bytes)}</span>'
        f'<span class="what">{shape(row.shape)} {text(row.type_text)}</span>'
        f'<span class="part">{row.sparsity:.1%} zeros</span>'
        f"{bar([(kind, count / max(1, largest)) for kind, count in parts])}</summary>"
        f'<div class="weight"><div>{picture}</div><div>{_coding_table(row.codings)}</div></div></details>'
    )


def _picture(row: TensorRow, weight: Tensor) -> str:
    if weight.values is None or not row.size:
        return ""
    grid = density(weight.values)
    rows, columns = matrix_shape(row.shape)
    size = f"{rows:,} rows, {columns:,} columns"
    alt = f"Where the non-zero entries of {text(row.name)} lie: {row.nnz:,} of {row.size:,}, in {size}"
    picture = image(png(grid), alt, size=grid.shape)
    empty = int(np.count_nonzero(~grid.any(axis=1)))
    note = f"; {empty} lines of cells are all zero" if empty else ""
    cells = f"{grid.shape[0]} &times; {grid.shape[1]} cells"
    return f"<figure>{picture}<figcaption>{size}, drawn in {cells}{note}</figcaption></figure>"


def _inference(inference: SparseInferenceReport) -> str:
    verdict = "Runs sparse." if inference.active else "Can run sparse, but does not yet."
    zeros = (
        f"{inference.sparsity:.1%} of the kernels that count are zero; more than {inference.needed:.1%} are needed."
    )
    if not inference.eligible:
        verdict, zeros = "Runs dense.", ""
    reasons = [f"Wrong outputs on ARM: {hazard}" for hazard in inference.hazards] + [*inference.reasons]
    items = [f"<li>{text(reason, MAX_REASON_CHARACTERS)}</li>" for reason in reasons[:MAX_LISTED]]
    rows = rows_table(["Layer", "Zeros", "Sparse"], map(_operator, inference.rows[:MAX_LISTED]))
    return (
        f"<p><strong>{verdict}</strong> {zeros} This holds for {text(inference.runtime, MAX_REASON_CHARACTERS)}.</p>"
        f"<ul>{''.join(items)}</ul><details><summary>"
        f'<span class="name">operators one by one</span><span class="size">{len(inference.rows):,}</span></summary>'
        f"{rows}{_more(len(inference.rows))}</details>"
    )


def _operator(row: OperatorRow) -> list[str]:
    why = f": {text(row.reason, MAX_REASON_CHARACTERS)}" if row.reason else ""
    zeros = "" if row.sparsity is None else f"{row.sparsity:.1%}"
    name = f'{name_text(row.name)}<span class="why">{text(row.kind)}{why}</span>'
    return [name, zeros, '<span class="yes">yes</span>' if row.sparse else '<span class="no">no</span>']


def _graph(report: ModelReport) -> str:
    ends = [(info, kind) for kind, infos in (("input", report.inputs), ("output", report.outputs)) for info in infos]
    rows = [[name_text(info.name), kind, shape(info.shape), text(info.dtype)] for info, kind in ends[:MAX_LISTED]]
    counts = [[name_text(name), f"{count:,}"] for name, count in [*report.ops.items()][:MAX_LISTED]]
    return (
        rows_table(["Name", "Kind", "Shape", "Type"], rows)
        + _more(len(ends))
        + rows_table(["Operator", "Count"], counts)
        + _more(len(report.ops))
    )


def _more(count: int) -> str:
    return f"<p>And {count - MAX_LISTED:,} more.</p>" if count > MAX_LISTED else ""


def _notes() -> str:
    pairs = [f"<dt>{_capital(TITLES[name])}</dt><dd>{note}</dd>" for name, note in NOTES.items()]
    return f'<dl class="notes">{"".join(pairs)}</dl>'


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def shape(lengths: tuple[int | None, ...]) -> str:
    """Write a shape with signs of multiplication."""
    return escape(shape_text(lengths).replace("x", "\u00d7"))


def size_text(count: float) -> str:
    """Write a number of bytes in three digits.

    Example:
        >>> size_text(4_214_272), size_text(999.6), size_text(96)
        ('4.21 MB', '1.00 kB', '96 B')
    """
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 999.5 * 1000 ** (power - 1):
            scaled = count / 1000**power
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{count:.0f} B"
