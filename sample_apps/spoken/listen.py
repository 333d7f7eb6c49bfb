"""The program for the device: log-mel frames in, languages out, with NumPy and tflite-micro only.

python -m sample_apps.spoken.listen spoken-output/spoken.tflite spoken-output/recording.npz
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sample_apps.spoken.log_mel import SECOND, clips

ARENA = 64 * 1024  # bytes of RAM
HOP = SECOND // 4  # frames from one look at the last second to the next
VOTES = 8  # looks that have a vote


def scores(content: bytes, frames: np.ndarray, *, hop: int = HOP, arena: int = ARENA) -> np.ndarray:
    """Return what a file makes of each second of frames, of shape (looks, languages)."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    source, result = interpreter.get_input_details(0), interpreter.get_output_details(0)
    found = []
    for clip in clips(frames, hop):
        interpreter.set_input(stored(clip[np.newaxis], source), 0)
        interpreter.invoke()
        found.append(real(interpreter.get_output(0), result)[0])
    return np.array(found)


def stored(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Write numbers as the file wants them, in integers of a scale if it has one."""
    dtype, scale, zero = described(detail)
    if scale is None:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values / scale + zero).clip(limits.min, limits.max).astype(dtype)


def real(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    _, scale, zero = described(detail)
    return values if scale is None else (values.astype(np.float32) - zero) * scale


def described(detail: dict[str, Any]) -> tuple[np.dtype, float | None, int]:
    quantization, dtype = detail["quantization_parameters"], np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return dtype, None, 0
    return dtype, float(quantization["scales"][0]), int(quantization["zero_points"][0])


def smoothed(votes: np.ndarray, count: int = VOTES) -> np.ndarray:
    """Return the mean of the last votes at each look."""
    sums = np.cumsum(np.concatenate([np.zeros_like(votes[:1]), votes]), axis=0)
    ends = np.arange(1, len(votes) + 1)
    starts = (ends - count).clip(0)
    return (sums[ends] - sums[starts]) / (ends - starts)[:, np.newaxis]


def apart(path: Path, frames: np.ndarray, *, hop: int = HOP, arena: int = ARENA) -> np.ndarray:
    """Return `scores` of a file, from a process of its own: the interpreter ends a process that it does not like."""
    with tempfile.TemporaryDirectory() as folder:
        recording, result = Path(folder, "recording.npz"), Path(folder, "scores.npy")
        np.savez(recording, frames=frames, names=np.array([], "U1"))
        options = ["--hop", str(hop), "--arena", str(arena), "--scores", str(result)]
        command = [sys.executable, "-m", "sample_apps.spoken.listen", str(path.resolve()), str(recording), *options]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
        return np.load(result)


def main() -> None:
    options = parse()
    with np.load(options.recording, allow_pickle=False) as stored_recording:
        frames, names = stored_recording["frames"], stored_recording["names"]
    votes = scores(options.file.read_bytes(), frames, hop=options.hop, arena=options.arena)
    if options.scores:
        np.save(options.scores, votes)
        return
    said = smoothed(votes, options.votes).argmax(axis=1)
    for look in np.flatnonzero(np.diff(said, prepend=-1)):
        print(f"{(look * options.hop) / SECOND + 1:7.2f} s  {names[said[look]]}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Listen to a recording, as a device does: each quarter of a second, look at the last second, and "
        "say which language it is by the last votes, whenever that changes."
    )
    parser.add_argument("file", type=Path, help="the file for microcontrollers")
    parser.add_argument("recording", type=Path, help="log-mel frames, as spoken_language.py writes them (.npz)")
    parser.add_argument("--arena", type=int, default=ARENA, help="bytes of RAM (default: %(default)s)")
    parser.add_argument("--hop", type=int, default=HOP, help="frames of 20 ms between looks (default: %(default)s)")
    parser.add_argument("--votes", type=int, default=VOTES, help="looks that have a vote (default: %(default)s)")
    parser.add_argument("--scores", type=Path, help="where to write all scores, and print nothing (.npy)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
