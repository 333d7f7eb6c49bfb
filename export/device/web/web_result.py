"""What a page of `web` has measured in a browser, read from the JSON that somebody copied there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from tfprune.base.untrusted import LARGEST_JSON, parse_json, read_fields, reading
from tfprune.export.file.report import number_text, yes_or_no
from tfprune.report import Report, shortened, table

MOST_ROWS, LONGEST_NAME, LONGEST_TEXT = 100, 60, 200
KIND, VERSION = "tfprune web", 1


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


@dataclass(frozen=True)
class WebResult(Report):
    """What a page has measured.

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
                shortened(row.name, LONGEST_NAME),
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
        rows = [[name, shortened(value, LONGEST_TEXT)] for name, value in facts]
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
        if (result.kind, result.version) != (KIND, VERSION):
            raise ValueError(f"its kind and version are not {KIND!r} and {VERSION}")
        if max(len(result.files), len(result.errors)) > MOST_ROWS:
            raise ValueError(f"more than {MOST_ROWS} files or errors")
        if not all(isinstance(text, str) for text in result.errors):
            raise ValueError("an error is not a text")
        return replace(result, files=[read_fields(WebResultRow, fields) for fields in result.files])
