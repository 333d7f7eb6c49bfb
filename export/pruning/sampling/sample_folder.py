"""Read a folder of images or WAV files as samples for the input of a file."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfprune.export.file.report import TensorInfo, shape_text
from tfprune.export.file.tflite.schema import MissingPackage

IMAGES, SOUNDS = (".png", ".jpg", ".jpeg", ".bmp"), (".wav",)
BYTE = 255.0  # the largest value of a pixel; the smallest is 0
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of an image with so many channels, as Pillow names them


def read_folder(
    folder: Path, inputs: Sequence[TensorInfo], *, limits: Sequence[float] | None, most: int
) -> np.ndarray:
    """Return the images or sounds of a folder, sorted by name, in the shape of the one input of a file.

    Images are resized; of sounds the channels are averaged, and the start is taken, or zeros are added.

    Args:
        folder: The folder. Files with other suffixes are left out.
        inputs: The inputs of the file.
        limits: The numbers that the darkest and the brightest pixel, or the lowest and the highest amplitude, become.
        most: How many files are read at most: evenly over the sorted names.

    Raises:
        ValueError: If the file has several inputs, the folder has no or both kinds of files, a file is damaged, or
            `limits` are missing.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (*IMAGES, *SOUNDS))
    suffixes = {path.suffix.lower() for path in paths}
    is_sound = suffixes <= {*SOUNDS}
    if not paths or not (is_sound or suffixes <= {*IMAGES}):
        text = ", ".join(sorted(suffixes)) or f"{folder}, which has none"
        raise ValueError(f"Expected a folder of images ({', '.join(IMAGES)}) or of sounds (.wav). Received: {text}.")
    if len(inputs) != 1:
        names = ", ".join(repr(info.name) for info in inputs)
        raise ValueError(f"Expected a .npz file for a file with several inputs: {names}. Received: a folder.")
    if limits is None or not limits[0] < limits[1]:
        raise ValueError(
            "Expected --range LOW HIGH with a folder: the numbers that black and white, or the least and largest "
            f"amplitude, become, such as 0 1, -1 1 or 0 255, as in training. Received: {limits or 'none'}."
        )
    some = [paths[index] for index in evenly_spaced(len(paths), most)]
    low, high = limits
    shape = inputs[0].shape[1:]
    read = _sound if is_sound else _image
    return np.stack([low + read(path, shape) * np.float32(high - low) for path in some]).astype(np.float32)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Return the indices of at most some of `count` entries, from the first to the last one."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def _image(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return an image with numbers from 0 to 1."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackage(
            "Expected Pillow, which reads images. Received: it is not installed. Run pip install pillow."
        ) from error
    is_first = len(shape) == 3 and shape[0] in MODES and shape[2] not in MODES
    height, width, channels = (shape[1], shape[2], shape[0]) if is_first else (*shape, None, None, None)[:3]
    if not height or not width or channels not in MODES or len(shape) != 3:
        raise ValueError(
            f"Expected a file whose input is images of a fixed size. Received: {shape_text((None, *shape))}. Save "
            "the samples with numpy.save."
        )
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(MODES[channels]).resize((width, height), Image.Resampling.BILINEAR))
    except OSError as error:
        raise ValueError(f"Expected an image. Received: {str(path)!r}: {error}.") from error
    values = pixels.reshape(height, width, channels).astype(np.float32) / np.float32(BYTE)
    return np.moveaxis(values, 2, 0) if is_first else values


def _sound(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a sound with amplitudes from 0, the lowest, to 1."""
    sizes = [length for length in shape if length != 1]
    if len(sizes) != 1 or sizes[0] is None:
        raise ValueError(
            f"Expected a file whose input is sound of a fixed length. Received: {shape_text((None, *shape))}. Save "
            "the samples with numpy.save."
        )
    try:
        with wave.open(str(path)) as sound:
            width, channels = sound.getsampwidth(), sound.getnchannels()
            content = sound.readframes(sound.getnframes())
    except (EOFError, wave.Error) as error:
        raise ValueError(f"Expected a WAV file. Received: {str(path)!r}: {error}.") from error
    if width != 2:
        raise ValueError(f"Expected WAV files of 16 bits. Received: {str(path)!r} of {8 * width} bits.")
    frames = np.frombuffer(content, "<i2").reshape(-1, channels).mean(axis=1)[: sizes[0]]
    values = np.zeros(sizes[0], np.float32)
    values[: len(frames)] = frames
    return (values.reshape([length or 1 for length in shape]) + 2**15) / np.float32(2**16 - 1)
