"""Remove channels from finished wake words for ESP32, streaming int8 files with ring buffers, on real speech.

    python bench/wake_words.py                       # the four files of pymicro-wakeword, half of the FLOPs removed
    python bench/wake_words.py --flops 0.4 okay_nabu

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
import io
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from common import Row, at_least, at_most
from foreign_files import PACKAGES, members_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the recordings

from sample_apps.spoken import recordings
from sample_apps.spoken.log_mel import RATE, resampled
from tfprune.export import shrink_tflite
from tfprune.export.device.runner import find_interpreter

WORDS = ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")
CHUNK = RATE // 100  # samples in each call of the front end
VOICES = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = (*(f"f{n}" for n in range(1, 6)), *(f"m{n}" for n in range(1, 8)))
RATES = (120, 145, 170)  # words per minute
CALIBRATION = 4000  # runs of the file that channels are ranked on
REMOVED, FLASH, RAM = 0.5, 0.6, 0.7


@dataclass(frozen=True)
class WakeWord:
    """A finished file, with the threshold and the window that its manifest names."""

    name: str
    content: bytes
    cutoff: float
    window: int

    def detections(self, content: bytes, features: np.ndarray) -> int:
        """Return how often the mean of the last scores rises above the threshold."""
        scores = run(content, features)
        means = np.convolve(scores, np.ones(self.window) / self.window, "valid")
        above = means > self.cutoff
        return int(np.count_nonzero(above[1:] & ~above[:-1]) + above[0])


def wake_words(names: Sequence[str]) -> Iterator[WakeWord]:
    found = dict(members_of(PACKAGES, (".tflite", ".json")))
    for name in names:
        path = f"pymicro_wakeword/models/{name}"
        if f"{path}.tflite" not in found:
            raise SystemExit(f"Expected pymicro-wakeword's wheel in {PACKAGES}. Received: none. See --help")
        manifest = json.loads(found[f"{path}.json"])["micro"]
        cutoff, window = manifest["probability_cutoff"], manifest["sliding_window_size"]
        yield WakeWord(name, found[f"{path}.tflite"], cutoff, window)


def run(content: bytes, features: np.ndarray) -> np.ndarray:
    """Return the score of each run of a file over features that follow each other, from its first values on."""
    interpreter = find_interpreter()[0](model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = entry["quantization"]
    x = np.clip(np.round(features / scale + zero), -128, 127).astype(np.int8)
    scores = np.empty(len(x), np.float32)
    for index, row in enumerate(x):
        interpreter.set_tensor(entry["index"], row[np.newaxis])
        interpreter.invoke()
        scores[index] = interpreter.get_tensor(result["index"]).item()
    return scores * result["quantization"][0]


def features_of(sound: np.ndarray, *, stride: int) -> np.ndarray:
    """Return the features of a sound in [-1, 1] at RATE, of shape (runs, stride, 40), as the chip makes them."""
    from pymicro_features import MicroFrontend

    frontend = MicroFrontend()
    raw = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    frames, place = [], 0
    while place + 2 * CHUNK <= len(raw):
        part = frontend.process_samples(raw[place : place + 2 * CHUNK])
        place += 2 * part.samples_read
        if part.features:
            frames.append(part.features)
    rows = np.array(frames, np.float32)[: len(frames) // stride * stride]
    return rows.reshape(-1, stride, rows.shape[-1])


def spoken(word: str, voice: str, rate: int) -> np.ndarray:
    """Return a second of silence, a word by espeak-ng, and another second."""
    import soundfile

    command = ["espeak-ng", "-v", voice, "-s", str(rate), "--stdout", word.replace("_", " ")]
    sound, own = soundfile.read(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout))
    quiet = np.random.default_rng(0).normal(scale=1e-3, size=RATE)
    return np.concatenate([quiet, resampled(sound, own) * 0.5, quiet])


def speech() -> tuple[np.ndarray, np.ndarray]:
    """Return real speech to choose channels on, and to count false alarms on: of other objects."""
    import soundfile

    found = recordings.paths(recordings.DEBIAN)
    tested = recordings.held_out({recordings.object_of(path) for own in found.values() for path in own})
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, path in enumerate(itertools.chain(*itertools.zip_longest(*found.values()))):
        if path is not None:
            is_first = recordings.object_of(path) in tested and number % 4 == 0
            parts[not is_first].append(resampled(*soundfile.read(path)).astype(np.float32))
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def measure(words: Sequence[WakeWord], flops: float) -> Iterator[Row]:
    first, second = speech()
    pool = ThreadPool(2)
    for word in words:
        kinds = [*itertools.product(VOICES, VARIANTS, RATES)]
        takes = pool.map(lambda kind, name=word.name: spoken(name, f"{kind[0]}+{kind[1]}", kind[2]), kinds)
        shape = partial(features_of, stride=stride_of(word.content))
        said = [shape(take) for take in takes]
        chosen, judged = said[::2], said[1::2]
        others = shape(first)
        room = max(CALIBRATION - sum(map(len, chosen)), len(others) // 8)
        samples = np.concatenate([others[:room], *chosen])  # the words last, as every eighth from the end is held out
        yield from compare(word, samples, judged, shape(second), flops=flops)


def arena(content: bytes) -> int:
    """Return the bytes of RAM that a file takes in the interpreter for microcontrollers on 32 bits."""
    program = Path(str(resources.files("mcufit.wasm")), "run_benchmark.mjs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        said = subprocess.run(["node", program, path], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"Total \|\s*(\d+)", said)[1])


def stride_of(content: bytes) -> int:
    interpreter = find_interpreter()[0](model_content=content)
    return int(interpreter.get_input_details()[0]["shape"][1])


def compare(
    word: WakeWord, samples: np.ndarray, judged: Sequence[np.ndarray], others: np.ndarray, *, flops: float
) -> Iterator[Row]:
    """Shrink a file, and yield what it costs and what it hears, before and after."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.tflite")
        report = shrink_tflite(word.content, path, samples, flops=flops, verbose=0)
        small = path.read_bytes()
    name = word.name
    yield at_least(f"{name}: FLOPs removed", 1 - report.flops_kept / report.flops, REMOVED, unit="", digits=3)
    difference = report.file.max_abs_diff
    yield at_most(f"{name}: from the file with zeros in place of the channels", float(difference or 0), 0, unit="")
    yield at_most(f"{name}: bytes, {len(small):,} / {len(word.content):,}", len(small) / len(word.content), FLASH)
    after, before = map(arena, (small, word.content))
    yield at_most(f"{name}: RAM on 32 bits, {after:,} / {before:,}", after / before, RAM)
    for which, content in (("before", word.content), ("after", small)):
        heard = sum(word.detections(content, take) > 0 for take in judged) / len(judged)
        alarms = word.detections(content, others)
        hours = others.shape[0] * others.shape[1] * CHUNK / RATE / 3600
        text = f"{heard:.3f} of {len(judged)} words heard, {alarms} false alarms in {hours:.1f} hours"
        yield Row(f"{name}: {which}", text, "printed", holds=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=WORDS, help="of the files")
    parser.add_argument("--flops", type=float, default=1 - REMOVED, help="of the file's (default: %(default)s)")
    options = parser.parse_args()
    for row in measure([*wake_words(options.names)], options.flops):
        print(f"{row.what}\t{row.measured}\t{row.bar}\t{'yes' if row.holds else 'NO'}", flush=True)


if __name__ == "__main__":
    main()
