"""The samples of a .tflite file that `prune` and `shrink` get: arrays, a folder, or drawn numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfprune.base.spec import check_count
from tfprune.export.command_line.commands.base import add_file


def add_file_samples(parser: argparse.ArgumentParser) -> None:
    text = (
        "for a .tflite file: a few hundred samples without labels, .npy, or .npz with one array per input, named "
        "signature/input for several signatures; a folder of images or WAV files, with --range; or random, which "
        "costs accuracy"
    )
    add_file(parser, "--samples", metavar="FILE", help=text)
    text = "for a folder of samples: the numbers that black and white, or the lowest and highest amplitude, become"
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)


def file_samples(options: argparse.Namespace) -> Any:
    """Return the samples for a .tflite file, and write to stderr which were read, and how.

    Raises:
        ValueError: If there are none, or the options do not fit.
    """
    from tfprune.export.pruning.sampling.samples import LEAST_SAMPLES, RANDOM

    if options.samples is None:
        raise ValueError(
            "Expected --samples FILE for a .tflite file: a few hundred inputs, without labels. Received: none. If "
            "there are none at all, --samples random draws numbers, which costs accuracy."
        )
    most = check_count(options.max_samples, "--max-samples", least=LEAST_SAMPLES)
    if options.samples != RANDOM and Path(options.samples).is_dir():
        return _of_folder(options, most)
    if options.range is not None:
        raise ValueError(f"Expected a folder of samples with --range. Received: {options.samples!r}.")
    if options.samples == RANDOM:
        return RANDOM
    from tfprune.export.file.files.model_file import read_model
    from tfprune.export.keras_side.loading import load_arrays

    content = read_model(options.source)
    samples = _by_signature(load_arrays(options.samples, mmap_mode="r"), content)
    nested = isinstance(samples, Mapping) and any(isinstance(own, Mapping) for own in samples.values())
    each = {name: _some(own, most, content) for name, own in (samples if nested else {"": samples}).items()}
    return each if nested else each[""]


def _of_folder(options: argparse.Namespace, most: int) -> Any:
    from tfprune.export.file.files.model_file import read_model
    from tfprune.export.file.report import shape_text
    from tfprune.export.file.tflite.reader import read
    from tfprune.export.pruning.sampling.sample_folder import read_folder

    inputs = read(read_model(options.source)).inputs
    samples = read_folder(Path(options.samples), inputs, limits=options.range, most=most)
    text = f"{len(samples)} files of {options.samples} as samples of {shape_text(samples.shape[1:])}"
    low, mean, high = samples.min(), samples.mean(), samples.max()
    sys.stderr.write(f"Read {text}: numbers from {low:.4g} to {high:.4g}, mean {mean:.4g}.\n")
    return samples


def _by_signature(arrays: Any, content: bytes) -> Any:
    """Return arrays whose names are `signature/input` by signature, and others as they are."""
    from tfprune.export.device.generating.signatures import signature_names

    parts = [name.partition("/") for name in arrays] if isinstance(arrays, Mapping) else []
    if not parts or not {signature for signature, _, _ in parts} <= {*signature_names(content)}:
        return arrays
    nested: dict[str, dict[str, Any]] = {}
    for signature, slash, name in parts:
        nested.setdefault(signature, {})[name] = arrays[signature + slash + name]
    return {signature: own.get("", own) for signature, own in nested.items()}


def _some(samples: Any, most: int, content: bytes) -> Any:
    """Return some samples of arrays, and say so if these are not all: evenly spaced, or the last ones of a stream."""
    from tfprune.export.pruning.layers.variables import has_variables
    from tfprune.export.pruning.sampling.sample_folder import evenly_spaced

    arrays = samples if isinstance(samples, Mapping) else {"": samples}
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) > 1 or max(sizes) <= most:
        return samples  # different numbers of samples are refused with the names of the inputs
    (size,) = sizes
    is_stream = has_variables(content)
    rows: Any = slice(size - most, size) if is_stream else evenly_spaced(size, most)
    how = "the last ones" if is_stream else "evenly spaced"
    sys.stderr.write(f"Read {most} of {size} samples, {how}. --max-samples takes more.\n")
    selection = {name: array[rows] for name, array in arrays.items()}
    return selection if isinstance(samples, Mapping) else selection[""]
