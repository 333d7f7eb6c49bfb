"""What a wake word learns from and is tested on: words of synthesizers among recorded speech."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from sample_apps.spoken.log_mel import RATE
from sample_apps.spoken.recordings import DEBIAN
from sample_apps.wake.network import FRAMES
from sample_apps.wake.sound import BANDS, CHUNK, features_of, speech, spoken

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
LEARNED = (
    *(f"m{n}" for n in (1, 2, 3, 4, 5, 8)),
    "f1",
    "f2",
    "f3",
    "adam",
    "Andy",
    "Annie",
    "Denis",
    "Diogo",
    "linda",
    "Michael",
)
TESTED = ("m6", "m7", "f4", "f5", "Alicia", "john", "Mario", "steph")  # voices that no word of the training has
FLITE = ("awb", "kal16", "rms", "slt")  # of another program, for the test alone
RATES, PITCHES = (110, 130, 150, 175), (30, 50, 70)
OTHERS = (
    "what time is it",
    "turn on the light in the kitchen",
    "hey",
    "jar of honey",
    "hey there how are you",
    "charge this",
    "a jealous neighbor",
    "travis is here",
    "service is closed",
    "hey siri",
    "okay",
    "good morning everybody",
    "play some music",
    "they jarred the door",
    "harvest",
)  # by the same voices: a network that hears the voice instead of the word would be wrong here
LATE = (0, 24)  # frames that a window ends after the word, at least and at most
TAKES = 3  # windows of each spoken word
QUIET = int(1.5 * RATE)


@dataclass(frozen=True)
class Words:
    """Features of what is heard.

    Attributes:
        positive: Windows that end with the word, to learn from.
        negative: Frames of anything else, to learn from.
        tested: Takes of the word by other voices, each after and before other sound, of frames each.
        others: Frames of speech about other objects, to count false alarms on.
    """

    positive: np.ndarray
    negative: np.ndarray
    tested: list[np.ndarray]
    others: np.ndarray


def load(word: str, cache: Path) -> Words:
    """Let the synthesizers speak and read the recordings, the first time in minutes, and then from a file."""
    path = cache / f"wake-{word.replace(' ', '_')}-1.npz"
    if not path.exists():
        if not DEBIAN.is_dir():
            sys.exit(
                f"Expected recordings in {DEBIAN}. Received: no such folder. Get them with: "
                "apt-get install tuxpaint-stamps-default espeak-ng flite. To try the program without them: --smoke"
            )
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, **_made(word))
    with np.load(path, allow_pickle=False) as stored:
        lengths = np.cumsum(stored["lengths"])[:-1]
        parts = [stored[name].astype(np.float32) for name in ("positive", "negative", "tested", "others")]
    return Words(parts[0], parts[1], np.split(parts[2], lengths), parts[3])


def synthetic(seed: int = 0) -> Words:
    """Return made-up features, among which the word is a rising tone."""
    random = np.random.default_rng(seed)

    def noise(frames: int) -> np.ndarray:
        return random.uniform(0, 8, (frames, BANDS)).astype(np.float32)

    def word() -> np.ndarray:
        frames = noise(FRAMES)
        frames[np.arange(60, 140), np.arange(80) // 2] += 16
        return frames

    tested = [np.concatenate([noise(FRAMES), word(), noise(90)]) for _ in range(20)]
    return Words(np.stack([word() for _ in range(100)]), noise(3000), tested, noise(3000))


def _made(word: str) -> dict[str, np.ndarray]:
    """Return the arrays of `Words`, with takes joined, at half precision: features have two digits."""
    random = np.random.default_rng(0)
    second, first = speech(2)
    with ThreadPool(2) as pool:
        kinds = [*itertools.product(ACCENTS, LEARNED, RATES, PITCHES)]
        words = pool.map(lambda kind: spoken(word, f"{kind[0]}+{kind[1]}", *kind[2:]), kinds)
        draws = [
            (OTHERS[random.integers(len(OTHERS))], kinds[random.integers(len(kinds))]) for _ in range(len(kinds))
        ]
        phrases = pool.map(lambda draw: spoken(draw[0], f"{draw[1][0]}+{draw[1][1]}", *draw[1][2:]), draws)
        voices = [
            *(f"{accent}+{voice}" for accent in ACCENTS for voice in TESTED),
            *(f"flite:{each}" for each in FLITE),
        ]
        tests = pool.map(lambda kind: spoken(word, *kind), [*itertools.product(voices, RATES, PITCHES)])
    positive = [window for sound in words for window in _windows_of(sound, first, random)]
    others = np.concatenate([_among(sound, first, random) for sound in phrases])
    tested = [features_of(_among(sound, second, random)) for sound in tests]
    arrays = {
        "positive": np.stack(positive),
        "negative": np.concatenate([features_of(first), features_of(others)]),
        "tested": np.concatenate(tested),
        "others": features_of(second),
    }
    lengths = np.array([len(take) for take in tested])
    return {**{name: array.astype(np.float16) for name, array in arrays.items()}, "lengths": lengths}


def _among(sound: np.ndarray, speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a sound of any loudness between two stretches of silence, over speech that is softer, or noise."""
    loud = 10 ** random.uniform(-1, 0)
    whole = np.concatenate([np.zeros(QUIET), sound * loud, np.zeros(QUIET)])
    if random.random() < 0.5:
        start = random.integers(len(speech) - len(whole))
        behind = speech[start : start + len(whole)] * random.uniform(0, 0.25)
    else:
        behind = random.normal(scale=10 ** random.uniform(-4, -2), size=len(whole))
    return whole + behind * loud


def _windows_of(sound: np.ndarray, speech: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Return windows that end a little after a word."""
    frames = features_of(_among(sound, speech, random))
    end = (QUIET + len(np.trim_zeros(sound))) // CHUNK
    ends = [end + random.integers(*LATE) for _ in range(TAKES)]
    return [frames[stop - FRAMES : stop] for stop in ends if FRAMES <= stop <= len(frames)]
