"""Perplexity of Gemma 3 270M with zeros that were set without training, by criterion, allocation and sparsity.

python bench/one_shot_language.py --sparsity 0.7 --only "SparseGPT, uniform" "ALPS, uniform" --windows 8
python bench/one_shot_language.py --part "decoder_block_[01]/"   # errors of some kernels alone, in minutes

Texts and weights are those of sample_apps/prune_language_model.py: half of the calibration windows is from the Bible,
half from documentation, and documents that are measured are not calibrated on. A row that stands in the results file
is not measured again. Seconds are processor time. "with int4" rounds while it prunes, and "then int4" rounds the
pruned kernels to the nearest value; both store as many bits. The errors of the latter are those before the rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # so that processor times do not count threads that wait
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from common import processor_seconds

import tfprune
from sample_apps.data.cache import CACHE
from sample_apps.language_model import measures, subjects
from tfprune.models.anatomy import from_matrix, kernels, to_matrix
from tfprune.solving.least_squares import grid_of

MEASURED = 2  # windows of each text
INT4 = tfprune.Rounding(4, block=32)  # the 4-bit weights of to_generator
WAYS = {
    "SparseGPT, uniform": {"criterion": "sparsegpt", "allocation": "uniform"},
    "ALPS, uniform": {"criterion": "alps", "allocation": "uniform"},
    "SparseGPT, OWL": {"criterion": "sparsegpt", "allocation": "owl"},
    "SparseGPT, AlphaPruning": {"criterion": "sparsegpt", "allocation": "alpha_pruning"},
    "SparseGPT, error": {"criterion": "sparsegpt", "allocation": "error"},
    "SparseGPT, outputs": {"criterion": "sparsegpt", "allocation": "outputs"},
    "ALPS, error": {"criterion": "alps", "allocation": "error"},
    "ALPS, outputs": {"criterion": "alps", "allocation": "outputs"},
    "ALPS, OWL": {"criterion": "alps", "allocation": "owl"},
    "Wanda, uniform": {"criterion": "wanda", "allocation": "uniform"},
    "RIA, uniform": {"criterion": "ria", "allocation": "uniform"},
    "SparseGPT, uniform, with int4": {"criterion": "sparsegpt", "allocation": "uniform", "rounding": INT4},
    "SparseGPT, uniform, then int4": {"criterion": "sparsegpt", "allocation": "uniform"},
}
THEN = ", then int4"  # the end of the name of a way that rounds afterwards, to the same grids


def calibration(gemma: Any, windows: int) -> dict[str, np.ndarray]:
    gemma.calibrate = windows
    return gemma.calibration({"calibration": "both"})


def perplexities(gemma: Any, model: keras.Model) -> dict[str, float]:
    return {
        name: measures.perplexity(model, tokens[:MEASURED], gemma.embedding)
        for name, tokens in gemma.evaluation.items()
    }


def row(gemma: Any, way: str, sparsity: float, options: argparse.Namespace) -> dict[str, Any]:
    """Prune and measure, or measure the model as it is for a sparsity of 0."""
    model, seconds, errors = gemma.model, 0.0, [0.0]
    if sparsity:
        start = processor_seconds()
        model, report = tfprune.prune_weights(
            gemma.model,
            calibration(gemma, options.windows),
            sparsity,
            **WAYS[way],
            filters=options.part or "decoder_block",
            targets="own",
            ridge=options.ridge,
            batch_size=2,
            verbose=0,
        )
        seconds = processor_seconds() - start
        errors = [layer.after for layer in report.rows]
        if way.endswith(THEN):
            round_kernels(model, [f"{layer.layer}/{layer.weight}" for layer in report.rows], INT4)
    settings = {"way": way, "sparsity": sparsity, "windows": options.windows, "ridge": options.ridge}
    measured = {} if options.part else perplexities(gemma, model)
    return {**settings, "error": float(np.mean(errors)), "perplexity": measured, "seconds": round(seconds)}


def round_kernels(model: keras.Model, paths: list[str], rounding: tfprune.Rounding) -> None:
    """Round kernels to the nearest values of their grids; the paths are those of a report."""
    for kernel in kernels(model):
        if kernel.path in paths:
            matrix = to_matrix(keras.ops.convert_to_numpy(kernel.variable), kernel)
            rows = matrix.reshape(len(matrix), -1)
            kernel.variable.assign(from_matrix(grid_of(rows, rounding).nearest(rows).reshape(matrix.shape), kernel))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table with the geometric mean of each row as a fraction of that of uniform SparseGPT."""
    means = {(each["sparsity"], each["way"]): _mean(each) for each in rows}
    seconds = {(each["sparsity"], each["way"]): each["seconds"] for each in rows}
    names = [*rows[0]["perplexity"], "of SparseGPT"] if rows[0]["perplexity"] else []
    columns = ["zeros", "way", "error of a kernel", *names, "seconds, of SparseGPT"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for each in rows:
        first = (each["sparsity"], "SparseGPT, uniform")
        of_first = f"{_mean(each) / means[first]:.2f}" if means.get(first) else "-"
        error = f"{each.get('error', 0):.2%}"
        longer = f"{each['seconds'] / seconds[first]:.2f}" if seconds.get(first) else "-"
        figures = [f"{value:.1f}" for value in each["perplexity"].values()]
        figures = [*figures, of_first] if figures else []
        lines.append("| " + " | ".join([f"{each['sparsity']:.0%}", each["way"], error, *figures, longer]) + " |")
    return "\n".join(lines)


def _mean(each: dict[str, Any]) -> float:
    return float(np.exp(np.mean(np.log([*each["perplexity"].values()])))) if each["perplexity"] else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.5, 0.6, 0.7])
    parser.add_argument("--only", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--windows", type=int, default=8, help="calibration windows of 512 tokens")
    parser.add_argument("--part", help="regular expression of the kernels to prune, without perplexity")
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument("--results", type=Path, default=Path("build/one_shot_language.jsonl"))
    options = parser.parse_args()
    options.results.parent.mkdir(exist_ok=True)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    gemma = subjects.load("gemma", None, CACHE)
    dense = [] if options.part else [("dense", 0.0)]
    wanted = [*dense, *((way, sparsity) for sparsity in options.sparsity for way in options.only)]
    for way, sparsity in wanted:
        if any((each["way"], each["sparsity"]) == (way, sparsity) for each in rows):
            continue
        start = time.perf_counter()
        rows.append(row(gemma, way, sparsity, options))
        with options.results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.write(f"{json.dumps(rows[-1])} after {time.perf_counter() - start:.0f} s\n")
        sys.stdout.flush()
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
