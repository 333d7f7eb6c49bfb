"""A wake word for ESP32: a streaming network that loses half of its FLOPs, and what it then still hears.

    apt-get install tuxpaint-stamps-default espeak-ng flite
    pip install soundfile pymicro-features mcufit          # and Node, for the RAM on 32 bits
    python sample_apps/wake_word.py --seeds 3              # half an hour on two cores
    python sample_apps/wake_word.py --smoke                # a minute, on made-up sound

The words are spoken by synthesizers, as those that microWakeWord trains on, and tested on voices that the training
has not heard; what they are told from is recorded speech of people.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

import keras
import numpy as np

import tfprune
from sample_apps.data.cache import CACHE
from sample_apps.spoken.log_mel import RATE
from sample_apps.wake.network import STRIDE, batches, export, network
from sample_apps.wake.sound import CHUNK, crossings, cutoff_of, means, scores_of, strides
from sample_apps.wake.words import Words, load, synthetic
from tfprune.export import Micro, micro_support, rewrite

WINDOW = 5  # runs whose mean score counts, as ESPHome takes it
BATCH, RANGES = 128, 3000  # windows of a step of training, and steps of a stream that set the ranges of a file


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        print("--smoke: made-up sound instead of words; what is heard means nothing")
        options.width, options.steps, options.fine_tuning = 16, 60, 30
    words = synthetic() if options.smoke else load(options.word, options.cache)
    lines = [line for seed in range(options.seeds) for line in one_seed(seed, words, options)]
    results = "".join(f"{json.dumps(line)}\n" for line in lines)
    (options.output / "results.jsonl").write_text(results, encoding="utf-8")
    (options.output / "table.md").write_text(text(lines), encoding="utf-8")
    print(f"\n{text(lines)}\nFiles: {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a streaming wake word, remove channels until a part of its FLOPs remains, train it "
        "further, and compare both as int8 files for microcontrollers.",
        epilog="What it needs: apt-get install tuxpaint-stamps-default espeak-ng flite; pip install soundfile "
        "pymicro-features",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up sound")
    parser.add_argument("--word", default="hey jarvis", help="the word (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--width", type=int, default=60, help="channels of each layer (default: %(default)s)")
    parser.add_argument("--flops", type=float, default=0.5, help="of the FLOPs that remain (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of the training (default: %(default)s)")
    parser.add_argument("--fine-tuning", type=int, default=3000, help="steps of it (default: %(default)s)")
    parser.add_argument(
        "--alarms", type=int, default=2, help="false alarms that set the cutoff (default: %(default)s)"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for features (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("wake-output"), help="folder (default: %(default)s)")
    return parser.parse_args()


def one_seed(seed: int, words: Words, options: argparse.Namespace) -> list[dict[str, Any]]:
    keras.utils.set_random_seed(seed)
    whole = network(options.width)
    train(whole, words, options.steps, seed=seed, rate=2e-3)
    plan = tfprune.plan_shrink(whole, tfprune.budget(flops=options.flops), verbose=0)
    small = tfprune.shrink(whole, plan)
    train(small, words, options.fine_tuning, seed=seed + 1000, rate=1e-3)
    lines = []
    for name, model in (("whole", whole), ("small", small)):
        path = options.output / f"{name}-{seed}.tflite"
        export(model, ranges(words), path)
        target = path.with_suffix(".esphome.tflite")
        rewrite(path, target, target=Micro(firmware="esphome"), check_on=strides(words.others[:600], STRIDE))
        lines.append(
            {
                "network": name,
                "seed": seed,
                "parameters": model.count_params(),
                **recall_of(path, words, options),
                **sizes_of(target),
            }
        )
        print(lines[-1], flush=True)
    return lines


def train(model: keras.Model, words: Words, steps: int, *, seed: int, rate: float) -> None:
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), "binary_crossentropy")
    data = batches(words.positive, words.negative, BATCH, seed)
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)


def ranges(words: Words) -> np.ndarray:
    """Return steps of a stream that has words and other speech, and the smallest and the largest feature."""
    stream = np.concatenate([*words.tested[::10], words.others])[: RANGES * STRIDE].copy()
    stream[0, :2] = 0, 26
    return strides(stream, STRIDE)


def recall_of(path: Path, words: Words, options: argparse.Namespace) -> dict[str, Any]:
    """Return the share of words that a file hears at the cutoff with so many false alarms."""
    content = path.read_bytes()
    others = scores_of(content, strides(words.others, STRIDE))
    cutoff = cutoff_of(others, options.alarms, WINDOW)
    takes = [scores_of(content, strides(take, STRIDE)) for take in words.tested]
    recall = np.mean([means(take, WINDOW).max() > cutoff for take in takes])
    return {
        "recall": round(float(recall), 4),
        "alarms": crossings(others, cutoff, WINDOW),
        "cutoff": round(cutoff, 3),
        "words": len(words.tested),
        "hours": round(len(words.others) * CHUNK / RATE / 3600, 1),
    }


def sizes_of(path: Path) -> dict[str, int]:
    """Return the flash and the RAM that a file takes."""
    report = micro_support(path)
    return {"bytes": report.flash, "arena": report.arena or 0}


def text(lines: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table in Markdown."""
    words, hours = lines[0]["words"], lines[0]["hours"]
    rows = [
        f"| network | parameters | heard of {words} words | false alarms in {hours} hours | bytes | bytes of RAM |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("whole", "small"):
        own = [line for line in lines if line["network"] == name]
        recalls = [line["recall"] for line in own]
        cells = [f"{np.mean([line[key] for line in own]):,.0f}" for key in ("parameters", "alarms", "bytes", "arena")]
        shares = f"{np.mean(recalls):.1%} ({', '.join(f'{each:.1%}' for each in recalls)})"
        rows.append(f"| {name} | {cells[0]} | {shares} | {cells[1]} | {cells[2]} | {cells[3]} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
