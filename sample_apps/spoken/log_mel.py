"""Sound as a picture: the logarithm of the energy in bands that widen as they do for an ear (log-mel), in NumPy."""

from __future__ import annotations

import functools

import numpy as np

RATE = 16_000  # samples per second
WINDOW, STEP, FOURIER = 400, 320, 512  # samples that a frame sees, from one frame to the next, and of the transform
BANDS, FRAMES = 10, 49  # of a clip, which is a second: as in MLPerf Tiny
SECOND = RATE // STEP  # frames
SILENCE = 1e-6  # energy that counts as none


def resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    """Return sound at RATE samples per second: what is above half of that goes."""
    count = round(len(sound) * RATE / rate)
    return np.fft.irfft(np.fft.rfft(sound)[: count // 2 + 1], n=count) * (count / len(sound))


def frames(sound: np.ndarray) -> np.ndarray:
    """Return the log-mel frames of sound at RATE, of shape (frames, BANDS)."""
    if len(sound) < WINDOW:
        return np.empty((0, BANDS), np.float32)
    parts = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STEP] * np.hanning(WINDOW)
    energy = np.square(np.abs(np.fft.rfft(parts, n=FOURIER)))
    return np.log(energy @ filters() + SILENCE).astype(np.float32)


@functools.cache
def filters() -> np.ndarray:
    """Return triangles over the frequencies, of shape (FOURIER / 2 + 1, BANDS), spaced evenly in mel."""
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.fft.rfftfreq(FOURIER, 1 / RATE)[:, np.newaxis]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.minimum(rising, falling).clip(0)


def clips(track: np.ndarray, hop: int = SECOND) -> np.ndarray:
    """Cut frames into clips of a second, of shape (clips, FRAMES, BANDS, 1).

    Each band of a clip has a mean of 0, so that how loud the voice is, and which frequencies the microphone takes
    well, count less.

    Args:
        track: Frames, of shape (frames, BANDS).
        hop: Frames from one clip to the next.
    """
    cut = np.lib.stride_tricks.sliding_window_view(track, FRAMES, axis=0)[::hop].transpose(0, 2, 1)
    cut = cut.astype(np.float32)
    return (cut - cut.mean(axis=1, keepdims=True))[..., np.newaxis]
