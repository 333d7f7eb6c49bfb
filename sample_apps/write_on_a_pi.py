"""Let Gemma 3 270M write on a device: dense, with fewer units or blocks, in float32, int8 and int4.

    python sample_apps/write_on_a_pi.py            # an hour on two cores, 16 GB of memory
    python sample_apps/write_on_a_pi.py --smoke    # a minute, on random weights and made-up text

Each file is compared with Keras before it is written. Its perplexity on three texts, the time of a token and a
paragraph that it wrote go into the output folder. docs/gallery/prune_language_model.md reports the results.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

import keras

from sample_apps.data.cache import CACHE
from sample_apps.language_model import report, subjects, writers
from sample_apps.study import results
from sample_apps.study.training import machine

LENGTH, WRITTEN = {True: 256, False: 512}, {True: 8, False: 80}  # tokens that a file keeps, and writes; for --smoke


def main() -> None:
    options = parse()
    if options.smoke:
        print("--smoke: random weights and made-up text; the figures mean nothing")
    try:
        subject = subjects.TinyWriter() if options.smoke else subjects.load("gemma", options.preset, options.cache)
        rows = list(measured(subject, options))
    except (FileNotFoundError, ConnectionError) as error:  # a text or weights that are not available
        raise SystemExit(str(error)) from error
    text = writers.text(rows)
    (options.output / "writers.md").write_text(text, encoding="utf-8")
    print(f"{text}\nWritten: {options.output / 'writers.md'}")


def measured(subject: subjects.Gemma, options: argparse.Namespace) -> Iterator[writers.Row]:
    """Yield the result of each file, from the disk where it is there."""
    path = options.output / "writers.jsonl"
    for cut in writers.CUTS:
        known = {row["form"]: row for row in results.read(path) if cut.items() <= row.items()}
        backbone = writers.smaller(subject, cut) if known.keys() < writers.FORMS.keys() else subject.model
        for form in writers.FORMS:
            if form not in known:
                known[form] = {**cut, "form": form, **write(subject, backbone, cut, form, options)}
                results.append(path, known[form])
            yield known[form]


def write(
    subject: subjects.Gemma, backbone: keras.Model, cut: writers.Row, form: str, options: argparse.Namespace
) -> writers.Row:
    """Write a file, and return its figures."""
    options.output.mkdir(parents=True, exist_ok=True)
    path, dense = options.output / name_of(cut, form), options.output / name_of(writers.CUTS[0], form)
    try:
        written = writers.export(subject, backbone, path, quantize=writers.FORMS[form], length=LENGTH[options.smoke])
    except ValueError as error:  # of a file that writes something else than the model
        print(f"{report.removed(cut)} removed, {form}: {error}", flush=True)
        return {"refused": str(error), "machine": machine()}
    print(f"{report.removed(cut)} removed\n{written}", flush=True)
    return {
        "bytes": written.bytes,
        "equal": written.equal,
        "written": written.written,
        **writers.measure(subject, path, max_tokens=WRITTEN[options.smoke]),
        "time": writers.time_of_a_token(dense, path),
        "machine": machine(),
    }


def name_of(cut: writers.Row, form: str) -> str:
    part = f"{cut['removed'] * 100:.0f}_{cut['of']}_less" if cut["removed"] else "dense"
    return f"gemma_{part}_{form}.tflite"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export Gemma 3 270M as files that write, and measure them.")
    parser.add_argument("--preset", help="its weights, such as gemma3_270m (default: from packages)")
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
        default=Path("writer-output"),
        metavar="DIR",
        help="folder for files and results, which are continued if there are some (default: %(default)s)",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program on a tiny random Gemma")
    return parser.parse_args()


if __name__ == "__main__":
    main()
