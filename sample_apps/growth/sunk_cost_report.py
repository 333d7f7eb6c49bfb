"""Write the tables of the sunk-cost runs from the results on disk."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from sample_apps.growth.report import spread

BASE, SCRATCH, ON, COSINES, NONE = "base", "from scratch", "trained further", "cosines", 0.0
Record = dict[str, Any]


def text(records: Sequence[Record]) -> str:
    """Return tables of the ways by the base's stage, and from the base of F_c, and what they were measured with."""
    angles = [record["cosines"] for record in records if record["way"] == COSINES]
    records = [record for record in records if record["way"] != COSINES]
    stages = sorted({record["base"] for record in records} - {NONE})
    everywhere = [way for way in _ways(records) if any(_of(records, way, stage) for stage in stages if stage != 1)]
    ways = [way for way in everywhere if way != SCRATCH]
    lines = [
        ["base trained for", *(f"{stage:g} F_c" for stage in stages)],
        *([way, *(_cell(_of(records, way, stage)) for stage in stages)] for way in ways),
        *(
            [f"{way}, before training", *(_cell(_of(records, way, stage), before=True) for stage in stages)]
            for way in ways
            if way not in (BASE, ON)
        ),
    ]
    at_one = [way for way in _ways(records) if way not in (*everywhere, SCRATCH)]
    others = [["grown from 1 F_c", "after growth", "after training"]] + [
        [way, _cell(_of(records, way, 1.0), before=True), _cell(_of(records, way, 1.0))] for way in at_one
    ]
    anew = _of(records, SCRATCH, NONE)
    first = records[0]
    facts = (
        f"Perplexity, as mean and standard deviation over the seeds ({_seeds(records)}). From scratch, "
        f"{anew[0]['parameters']:,} parameters: {_cell(anew)}. F_c is {first['unit'] / 1e12:.2f} TFLOP, the extra "
        f"compute {first['extra']:g} F_c. {'; '.join(sorted({record['machine'] for record in records}))}."
    )
    tables = [_markdown(lines), *([_markdown(others)] if at_one else [])]
    notes = [textwrap.fill(note, 100) for note in (facts, *_cosines(angles))]
    return "\n\n".join([*tables, *notes]) + "\n"


def _cosines(angles: Sequence[dict[str, float]]) -> list[str]:
    """Return a sentence on the cosines of first moments; none without a measurement."""
    means = {pair: np.mean([each[pair] for each in angles]) for pair in (angles[0] if angles else ())}
    pairs = ", ".join(f"{pair} {mean:.3f}" for pair, mean in means.items())
    return (
        [f"Cosines of first moments after 1/8 of the extra compute ({len(angles)} seeds): {pairs}."] if pairs else []
    )


def _ways(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["way"] for record in records))


def _of(records: Sequence[Record], way: str, stage: float) -> list[Record]:
    return [record for record in records if (record["way"], record["base"]) == (way, stage)]


def _cell(rows: Sequence[Record], *, before: bool = False) -> str:
    """Return the perplexity of runs, or that before their training, with their number if there are several."""
    return spread([row["curve"][0][1] if before else row["perplexity"] for row in rows]) if rows else "-"


def _seeds(records: Sequence[Record]) -> str:
    """Return how many seeds there are, and which of the cells have fewer."""
    seeds = {record["seed"] for record in records}
    cells = {(record["way"], record["base"]) for record in records}
    fewer = {cell: len(_of(records, *cell)) for cell in sorted(cells) if len(_of(records, *cell)) < len(seeds)}
    short = "".join(f"; {way} {stage:g} F_c: {count}" for (way, stage), count in fewer.items())
    return f"{len(seeds)}{short}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))
