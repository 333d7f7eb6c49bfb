"""Spoken languages: the recordings of Tux Paint's stamps in ten languages, as log-mel frames.

Each stamp shows an object, and volunteers recorded its description. A language has few voices, each with a microphone
of its own, and the same ones in the test: what tells languages apart here may be a voice.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sample_apps.spoken.log_mel import RATE, frames, resampled

DEBIAN = Path("/usr/share/tuxpaint/stamps")
LANGUAGES = {
    "be": "Belarusian",
    "bg": "Bulgarian",
    "ca": "Catalan",
    "da": "Danish",
    "el": "Greek",
    "es": "Spanish",
    "fr": "French",
    "nn": "Norwegian",
    "ro": "Romanian",
    "ru": "Russian",
}
TESTED = 5  # one in so many objects


@dataclass(frozen=True)
class Speech:
    """Log-mel frames of each language, one recording after the other: of some objects, and of others to test on."""

    train: list[np.ndarray]
    test: list[np.ndarray]


def load(cache: Path) -> Speech:
    """Read the recordings of the Debian package, the first time in a minute, and then from a file in a folder."""
    path = cache / "spoken-language-1.npz"
    if not path.exists():
        if not DEBIAN.is_dir():
            sys.exit(
                f"Expected recordings in {DEBIAN}. Received: no such folder. Get them with: "
                "apt-get install tuxpaint-stamps-default. To try the program without them: --smoke"
            )
        tracks = {f"{part}_{name}": track for part, name, track in _tracks(DEBIAN)}
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, **tracks)
    with np.load(path, allow_pickle=False) as stored:
        return Speech(*([stored[f"{part}_{name}"] for name in LANGUAGES] for part in ("train", "test")))


def _tracks(folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    found = paths(folder)
    tested = held_out({object_of(path) for own in found.values() for path in own})
    for name, own in found.items():
        for part in ("train", "test"):
            sounds = [_sound(path) for path in own if (object_of(path) in tested) == (part == "test")]
            # Half precision is plenty for logarithms.
            yield part, name, np.concatenate([frames(sound) for sound in sounds]).astype(np.float16)


def paths(folder: Path) -> dict[str, list[Path]]:
    """Return the recordings of each language; of equal ones, which some similar stamps share, only the first."""
    found, seen = defaultdict(list), set()
    for path in sorted(folder.rglob("*_desc_*.ogg")):
        name, digest = path.stem.rpartition("_")[2], hashlib.sha256(path.read_bytes()).digest()
        if name in LANGUAGES and digest not in seen:
            found[name].append(path)
            seen.add(digest)
    return {name: found[name] for name in LANGUAGES}


def object_of(path: Path) -> str:
    """Return what a stamp shows: `lion` for lion_desc_fr.ogg and for lion-2_desc_ca.ogg in any folder."""
    return re.sub(r"[-_ ]*\d*$", "", path.name.partition("_desc_")[0].lower())


def held_out(objects: set[str]) -> set[str]:
    """Draw the objects to test on, which are the same for all languages."""
    order = np.random.default_rng(0).permutation(sorted(objects))
    return set(order[: len(order) // TESTED].tolist())


def _sound(path: Path) -> np.ndarray:
    import soundfile

    sound, rate = soundfile.read(path)
    return resampled(sound, rate)


def synthetic() -> Speech:
    """Make sound that is easy to tell apart: each language hums at a pitch of its own."""
    random = np.random.default_rng(0)

    def hum(pitch: float, seconds: int) -> np.ndarray:
        time = np.arange(seconds * RATE) / RATE
        swell = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * time + random.uniform(0, 6))
        return frames(swell * np.sin(2 * np.pi * pitch * time) + random.normal(0, 0.05, len(time)))

    pitches = 200 * 1.4 ** np.arange(len(LANGUAGES))
    return Speech(*([hum(pitch, seconds) for pitch in pitches] for seconds in (12, 12)))
