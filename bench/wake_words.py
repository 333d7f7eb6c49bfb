"""Remove channels from finished wake words for ESP32, streaming int8 files with ring buffers, on real speech.

    python bench/wake_words.py                       # the four files of pymicro-wakeword, half of the FLOPs removed
    python bench/wake_words.py --flops 0.4 okay_nabu
    python bench/wake_words.py --arena 0.7           # until the file takes so much of its RAM, too

Once:

    apt-get install tuxpaint-stamps-default espeak-ng
    pip install soundfile pymicro-features mcufit    # and Node, for the interpreter on 32 bits
    pip download --no-deps -d build/packages pymicro-wakeword==2.5.0

False alarms are counted on recordings of ten languages, 200 minutes of real speech that holds none of the words. The
words themselves are spoken by espeak-ng, in many voices: recall tells how a file changed, and nothing about people.
Channels are chosen on one part of the voices and of the speech, and judged on the other. RAM is what the interpreter
for microcontrollers counts in WebAssembly, which has pointers of 32 bits, as chips do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, at_least, at_most
from foreign_files import PACKAGES, members_of
from tflite_micro import runtime

sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the recordings

from sample_apps.spoken.log_mel import RATE
from sample_apps.wake.sound import (
    CHUNK,
    between_silence,
    crossings,
    features_of,
    scores_of,
    speech,
    spoken,
    strides,
)
from tfprune.export import Micro, micro_support, rewrite, shrink_tflite
from tfprune.export.device.runner import find_interpreter

WORDS = ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")
VOICES = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = (*(f"f{n}" for n in range(1, 6)), *(f"m{n}" for n in range(1, 8)))
RATES = (120, 145, 170)  # words per minute
CALIBRATION = 4000  # runs of the file that channels are ranked on
CHECKED = 500  # runs on which the file for ESPHome has to be equal
REMOVED, FLASH, RAM = 0.5, 0.6, 0.7
ESPHOME = Micro(firmware="esphome")


@dataclass(frozen=True)
class WakeWord:
    """A finished file, with the threshold and the window that its manifest names."""

    name: str
    content: bytes
    cutoff: float
    window: int

    def detections(self, scores: np.ndarray) -> int:
        """Return how often the mean of the last scores rises above the threshold."""
        return crossings(scores, self.cutoff, self.window)


def wake_words(names: Sequence[str]) -> Iterator[WakeWord]:
    found = dict(members_of(PACKAGES, (".tflite", ".json")))
    for name in names:
        path = f"pymicro_wakeword/models/{name}"
        if f"{path}.tflite" not in found:
            raise SystemExit(f"Expected pymicro-wakeword's wheel in {PACKAGES}. Received: none. See --help")
        manifest = json.loads(found[f"{path}.json"])["micro"]
        cutoff, window = manifest["probability_cutoff"], manifest["sliding_window_size"]
        yield WakeWord(name, found[f"{path}.tflite"], cutoff, window)


def measure(words: Sequence[WakeWord], flops: float, arena: float | None) -> Iterator[Row]:
    first, second = speech(5)
    pool = ThreadPool(2)
    for word in words:
        kinds = [*itertools.product(VOICES, VARIANTS, RATES)]
        text, stride = word.name.replace("_", " "), stride_of(word.content)
        takes = pool.map(lambda kind, text=text: spoken(text, f"{kind[0]}+{kind[1]}", kind[2]), kinds)
        voices = [strides(features_of(between_silence(take)), stride) for take in takes]
        chosen, judged = voices[::2], voices[1::2]
        others = strides(features_of(first), stride)
        room = max(CALIBRATION - sum(map(len, chosen)), len(others) // 8)
        samples = np.concatenate([others[:room], *chosen])  # the words last, as every eighth from the end is held out
        yield from compare(word, samples, judged, strides(features_of(second), stride), flops=flops, arena=arena)


def stride_of(content: bytes) -> int:
    interpreter = find_interpreter()[0](model_content=content)
    return int(interpreter.get_input_details()[0]["shape"][1])


def for_esphome(content: bytes, samples: np.ndarray) -> bytes:
    """Return a file as it is for ESPHome, with the same outputs, which are compared on samples."""
    with tempfile.TemporaryDirectory() as folder:
        rewrite(content, path := Path(folder, "file.tflite"), target=ESPHOME, check_on=samples[:CHECKED], verbose=0)
        return path.read_bytes()


def sizes(name: str, content: bytes, word: WakeWord, *, limits: tuple[float, float]) -> Iterator[Row]:
    """Yield flash and RAM of a file, against those of the finished one."""
    yield at_most(
        f"{name}: bytes, {len(content):,} / {len(word.content):,}", len(content) / len(word.content), limits[0]
    )
    after, before = (micro_support(each).arena for each in (content, word.content))
    yield at_most(f"{name}: RAM on 32 bits, {after:,} / {before:,}", after / before, limits[1])


def small_file(word: WakeWord, samples: np.ndarray, *, flops: float, arena: float | None) -> tuple[Any, bytes]:
    """Remove channels: return the report, and the file as it is for LiteRT, or for ESPHome with a limit of RAM."""
    target = None
    if arena is not None:
        target = replace(ESPHOME, arena=int(arena * micro_support(word.content).arena))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.tflite")
        report = shrink_tflite(word.content, path, samples, flops=flops, target=target, verbose=0)
        return report, path.read_bytes()


def compare(
    word: WakeWord,
    samples: np.ndarray,
    judged: Sequence[np.ndarray],
    others: np.ndarray,
    *,
    flops: float,
    arena: float | None,
) -> Iterator[Row]:
    """Shrink a file, and yield what it costs and what it hears, before and after."""
    name = word.name
    yield from sizes(f"{name}, same outputs", for_esphome(word.content, samples), word, limits=(1, 1))
    report, small = small_file(word, samples, flops=flops, arena=arena)
    yield at_least(f"{name}: FLOPs removed", 1 - report.flops_kept / report.flops, REMOVED, unit="", digits=3)
    difference = report.file.max_abs_diff
    yield at_most(f"{name}: from the file with zeros in place of the channels", float(difference or 0), 0, unit="")
    yield from sizes(name, for_esphome(small, samples) if arena is None else small, word, limits=(FLASH, RAM))
    ways = ("before", word.content, scores_of), ("after", small, scores_of if arena is None else scores_on_chip)
    for which, content, score in ways:
        heard = sum(word.detections(score(content, take)) > 0 for take in judged) / len(judged)
        alarms = word.detections(score(content, others))
        hours = others.shape[0] * others.shape[1] * CHUNK / RATE / 3600
        text = f"{heard:.3f} of {len(judged)} words heard, {alarms} false alarms in {hours:.1f} hours"
        yield Row(f"{name}: {which}", text, "printed", holds=True)


def scores_on_chip(content: bytes, steps: np.ndarray) -> np.ndarray:
    """Return what `scores_of` does, from the interpreter for microcontrollers, which needs no first values."""
    interpreter = runtime.Interpreter.from_bytes(content)
    grid = interpreter.get_input_details(0)["quantization_parameters"]
    scale = interpreter.get_output_details(0)["quantization_parameters"]["scales"][0]
    integers = np.clip(np.round(steps / grid["scales"][0] + grid["zero_points"][0]), -128, 127).astype(np.int8)
    scores = np.empty(len(steps), np.float32)
    for place, row in enumerate(integers):
        interpreter.set_input(row[np.newaxis], 0)
        interpreter.invoke()
        scores[place] = interpreter.get_output(0).item()
    return scores * scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=WORDS, help="of the files")
    parser.add_argument("--flops", type=float, default=1 - REMOVED, help="of the file's (default: %(default)s)")
    parser.add_argument("--arena", type=float, help="RAM of the small file, as a fraction (default: any)")
    options = parser.parse_args()
    for row in measure([*wake_words(options.names)], options.flops, options.arena):
        print(f"{row.what}\t{row.measured}\t{row.bar}\t{'yes' if row.holds else 'NO'}", flush=True)


if __name__ == "__main__":
    main()
