"""Sound for a wake word: features as ESPHome computes them, words by speech synthesizers, and recorded speech."""

from __future__ import annotations

import io
import itertools
import subprocess
from collections.abc import Sequence

import numpy as np

from sample_apps.spoken import recordings
from sample_apps.spoken.log_mel import RATE, resampled
from tfprune.export.device.runner import find_interpreter

BANDS, CHUNK = 40, RATE // 100  # features of a frame, and the samples from one frame to the next


def features_of(sound: np.ndarray) -> np.ndarray:
    """Return the features of sound in [-1, 1] at RATE, as a chip has them: of shape (frames, BANDS), from 0 to 26."""
    from pymicro_features import MicroFrontend

    frontend = MicroFrontend()
    raw = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    frames, place = [], 0
    while place + 2 * CHUNK <= len(raw):
        part = frontend.process_samples(raw[place : place + 2 * CHUNK])
        place += 2 * part.samples_read
        if part.features:
            frames.append(part.features)
    return np.array(frames, np.float32).reshape(-1, BANDS)


def strides(frames: np.ndarray, stride: int) -> np.ndarray:
    """Return frames as a file takes them, of shape (runs, stride, BANDS)."""
    return frames[: len(frames) // stride * stride].reshape(-1, stride, BANDS)


def spoken(words: str, voice: str, rate: int, pitch: int = 50) -> np.ndarray:
    """Return what espeak-ng says at so many words per minute, at RATE; `flite:` begins the voices of flite."""
    import soundfile

    if voice.startswith("flite:"):
        stretch = 150 / rate
        command = ["flite", "-voice", voice.removeprefix("flite:"), "--setf", f"duration_stretch={stretch:.2f}"]
        command += ["-t", words, "-o", "/dev/stdout"]
    else:
        command = ["espeak-ng", "-v", voice, "-s", str(rate), "-p", str(pitch), "--stdout", words]
    sound, own = soundfile.read(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout))
    return resampled(sound, own) * 0.5


def between_silence(sound: np.ndarray) -> np.ndarray:
    """Return a second of next to nothing, a sound, and another second."""
    quiet = np.random.default_rng(0).normal(scale=1e-3, size=RATE)
    return np.concatenate([quiet, sound, quiet])


def speech(every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return recorded speech in ten languages, of one in so many objects and of all the others."""
    import soundfile

    paths = recordings.paths(recordings.DEBIAN)
    names = sorted({recordings.object_of(path) for own in paths.values() for path in own})
    first = set(names[::every])
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for path in itertools.chain(*itertools.zip_longest(*paths.values())):
        if path is not None:
            sound = resampled(*soundfile.read(path)).astype(np.float32)
            parts[recordings.object_of(path) not in first].append(sound)
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def scores_of(content: bytes, steps: np.ndarray) -> np.ndarray:
    """Return the score of an int8 file for each of the runs that follow each other, from its first values on."""
    interpreter = find_interpreter()[0](model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = entry["quantization"]
    integers = np.clip(np.round(steps / scale + zero), -128, 127).astype(np.int8)
    scores = np.empty(len(steps), np.float32)
    for place, row in enumerate(integers):
        interpreter.set_tensor(entry["index"], row[np.newaxis])
        interpreter.invoke()
        scores[place] = interpreter.get_tensor(result["index"]).item()
    return scores * result["quantization"][0]


def crossings(scores: np.ndarray, cutoff: float, window: int) -> int:
    """Return how often the mean of the last scores rises above a cutoff."""
    above = means(scores, window) > cutoff
    return int(np.count_nonzero(above[1:] & ~above[:-1]) + above[0])


def means(scores: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each run's score and those before it, for all runs that have so many before them."""
    return np.convolve(scores, np.ones(window) / window, "valid")


def cutoff_of(scores: np.ndarray, most: int, window: int) -> float:
    """Return the smallest cutoff, of a thousand, that at most so many crossings reach."""
    steps: Sequence[float] = np.linspace(0, 1, 1001).tolist()
    return next(cutoff for cutoff in steps if crossings(scores, cutoff, window) <= most)
