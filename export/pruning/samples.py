"""Samples for a file: checked, read from a folder or drawn; the range that an input expects; errors of outputs."""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfprune.base.folders import most_unpacked
from tfprune.base.limit import are_probabilities
from tfprune.base.spec import ArgumentError, ArgumentTypeError, call_it
from tfprune.export.device.runner import IOTensor, arrays_of, random_inputs, warn_of_bytes
from tfprune.export.file import schema
from tfprune.export.file.document import ENTRY, indices_of, operator_name, read_model_metadata
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model
from tfprune.export.file.report import TensorInfo, number_text, shape_text
from tfprune.export.file.schema import MissingPackage
from tfprune.export.pruning.pieces import type_name
from tfprune.report import Report

# The range of the numbers that an input of a file expects: from its quantization, its metadata, or its type.

_MAX_CLIPPED = 0.5  # the part of the entries that may lie outside the range of a quantized input
_FAR, _SMALL = (
    0.05,
    0.1,
)  # the parts outside of a range, and of a range that is used, from which on the user is warned
_SLACK = 0.01  # of a range: resized images and sounds overshoot a little
_BYTE = 255.0  # the largest value of a pixel, which metadata normalize


@dataclass(frozen=True)
class _InputRange:
    """A range of real numbers.

    Attributes:
        low: The lowest.
        high: The highest.
        origin: Where it is from.
        step: The distance of two neighbors; 0 without one.
        is_clipped: Whether numbers outside of it are clipped.
    """

    low: float
    high: float
    origin: str
    step: float = 0.0
    is_clipped: bool = False


def input_range(model: schema.ModelT, tensor: IOTensor) -> _InputRange | None:
    """Return the range that an input expects; None if the file does not give any.

    Args:
        model: The objects of the file.
        tensor: One of its inputs.
    """
    quantized = _behind_quantize(model, tensor)
    limits = np.iinfo(quantized.dtype) if quantized.dtype.kind in "iu" else None
    if quantized.scale and limits is not None:
        low, high = ((limit - quantized.zero_point) * quantized.scale for limit in (limits.min, limits.max))
        return _InputRange(low, high, "its quantization", step=quantized.scale, is_clipped=True)
    if tensor.dtype.kind == "f":
        return _from_metadata(model, tensor.index)
    if limits is not None and limits.bits == 8:
        return _InputRange(limits.min, limits.max, f"its type {tensor.dtype.name}", step=1.0)
    return None


def _behind_quantize(model: schema.ModelT, tensor: IOTensor) -> IOTensor:
    """Return an input as an operator QUANTIZE behind it sees it; the input itself where there is none."""
    graph = model.subgraphs[0]
    for operator in graph.operators or ():
        if operator_name(model, operator) == "QUANTIZE" and operator.inputs[0] == tensor.index and not tensor.scale:
            quantized = graph.tensors[operator.outputs[0]]
            scales, kind = quantized.quantization, np.dtype(type_name(quantized.type).lower())
            return replace(tensor, dtype=kind, scale=float(scales.scale[0]), zero_point=int(scales.zeroPoint[0]))
    return tensor


def _from_metadata(model: schema.ModelT, index: int) -> _InputRange | None:
    contents = [model.buffers[entry.buffer].data for entry in model.metadata or () if entry.name == ENTRY.encode()]
    place = [*map(int, model.subgraphs[0].inputs)].index(index)
    try:
        for content in contents:
            limits = _limits(np.asarray(content, np.uint8).tobytes(), place)
            if limits is not None:
                return _InputRange(float(limits[0].min()), float(limits[1].max()), "the file's metadata")
    except (IndexError, ValueError):  # damaged: the interpreter does not read them either
        pass
    return None


def folder_limits(file: ModelFile) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what black and white become in the first input, for each channel or for all, if the metadata say it."""
    content = file.metadata.get(ENTRY)
    try:
        return None if content is None else _limits(content, 0)
    except (IndexError, ValueError):
        return None


def _limits(content: bytes, place: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the limits of an input by the metadata: of its values, or of bytes after the normalization."""
    fields = read_model_metadata(content).tables("subgraph_metadata")[0].tables("input_tensor_metadata")[place].fields
    if "stats" in fields:
        low, high = (np.asarray(fields["stats"].fields.get(name, ())) for name in ("min", "max"))
        if _are_limits(low, high):
            return low, high
    for unit in fields.get("process_units", ()):
        options = unit.fields.get("options")
        if options is None or options.kind != "NormalizationOptions":
            continue
        mean, deviation = (np.asarray(options.fields.get(name, ())) for name in ("mean", "std"))
        if len(mean) and len(mean) == len(deviation) and (deviation > 0).all():
            low, high = -mean / deviation, (_BYTE - mean) / deviation
            if _are_limits(low, high):
                return low, high
    return None


def _are_limits(low: np.ndarray, high: np.ndarray) -> bool:
    return bool(len(low) and len(low) == len(high) and np.isfinite([low, high]).all() and (low < high).all())


def spread_over(numbers: np.ndarray, expected: _InputRange | None) -> np.ndarray:
    """Spread random numbers from [0, 1) over a range."""
    if expected is None:
        return numbers
    spread = (expected.low + numbers * (expected.high - expected.low)).astype(np.float32)
    return spread if expected.is_clipped or not expected.step else np.rint(spread)


def drawn_text(name: str, expected: _InputRange | None) -> str:
    """Say from which range random numbers for an input were drawn."""
    if expected is None:
        return (
            f"input {name!r} was drawn from 0 to 1: neither its quantization nor the file's metadata give its range."
        )
    return f"input {name!r} was drawn from {expected.low:.4g} to {expected.high:.4g}, by {expected.origin}."


def check_range(numbers: np.ndarray, expected: _InputRange, *, name: str) -> list[str]:
    """Return a warning if the samples of an input lie far off its range.

    Raises:
        ValueError: If most of them would be clipped.
    """
    low, high, span = expected.low, expected.high, expected.high - expected.low
    slack = max(expected.step, _SLACK * span)
    outside = float(np.mean((numbers < low - slack) | (numbers > high + slack)))
    received = f"numbers from {numbers.min():.4g} to {numbers.max():.4g}"
    if expected.is_clipped and outside > _MAX_CLIPPED:
        raise ValueError(
            f"Expected numbers between {low:.4g} and {high:.4g} for input {name!r}: real numbers, which "
            f"are quantized on the way in. Received: {received}, of which {outside:.0%} would be clipped. Scale them "
            "as for training"
        )
    text = f"input {name!r} expects {low:.4g} to {high:.4g}, by {expected.origin}; the samples have {received}"
    if outside > _FAR:
        return [f"{text}, {outside:.0%} of them outside. Check the preprocessing."]
    if numbers.max() - numbers.min() < _SMALL * span:
        return [f"{text}, a small part of that. Check the preprocessing."]
    return []


_BRIGHT, _FEW = 127.0, 16  # what the brightest pixels of pictures exceed; samples that are looked at
_MOVES, _HAVE_WEIGHTS = ("TRANSPOSE", "RESHAPE", "PAD"), ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def check_pixels(numbers: np.ndarray, tensor: IOTensor, *, model: schema.ModelT) -> list[str]:
    """Return a warning if floats look like pictures of 0 to 255, and reach the first weights as they are."""
    if numbers.dtype.kind != "f" or numbers.ndim != 4:
        return []
    few = numbers[:: max(1, len(numbers) // _FEW)]
    if not _BRIGHT < few.max() <= _BYTE or few.min() < 0:
        return []
    kind, index = "", tensor.index
    for operator in model.subgraphs[0].operators or ():  # in the order of their runs
        if index in indices_of(operator.inputs):
            kind = operator_name(model, operator)
            if kind not in _MOVES:
                break
            index = indices_of(operator.outputs)[0]
    if kind not in _HAVE_WEIGHTS:
        return []
    return [
        f"input {tensor.info.name!r} gets numbers from {few.min():.4g} to {few.max():.4g}, as pixels are, and the "
        "file does not scale them. If the network was trained on scaled ones, such as 0 to 1, scale the samples, too."
    ]


# Read a folder of images or WAV files as samples for the input of a file.

_IMAGES, _SOUNDS = (".png", ".jpg", ".jpeg", ".bmp"), (".wav",)
_PIXEL_BYTES = 4  # that Pillow keeps of each color image
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of an image with so many channels, as Pillow names them


def read_folder(folder: Path, inputs: Sequence[TensorInfo], *, limits: Sequence[Any] | None, most: int) -> np.ndarray:
    """Return the images or sounds of a folder, sorted by name, in the shape of the one input of a file.

    Images are resized; of sounds the channels are averaged, and the start is taken, or zeros are added.

    Args:
        folder: The folder. Files with other suffixes are left out.
        inputs: The inputs of the file.
        limits: The numbers that the darkest and the brightest pixel, or the lowest and the highest amplitude, become:
            two numbers, or an array for each with a number for each channel.
        most: How many files are read at most: evenly over the sorted names.

    Raises:
        ValueError: If the file has several inputs, the folder has no or both kinds of files, a file is damaged, or
            `limits` are missing.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (*_IMAGES, *_SOUNDS))
    suffixes = {path.suffix.lower() for path in paths}
    is_sound = suffixes <= {*_SOUNDS}
    if not paths or not (is_sound or suffixes <= {*_IMAGES}):
        text = ", ".join(sorted(suffixes)) or f"{folder}, which has none"
        raise ValueError(f"Expected a folder of images ({', '.join(_IMAGES)}) or of sounds (.wav). Received: {text}.")
    if len(inputs) != 1:
        names = ", ".join(repr(info.name) for info in inputs)
        raise ValueError(f"Expected a .npz file for a file with several inputs: {names}. Received: a folder.")
    if limits is None or not np.all(np.less(*limits)):
        raise ValueError(
            "Expected --range LOW HIGH with a folder: the numbers that black and white, or the least and largest "
            f"amplitude, become, such as 0 1, -1 1 or 0 255, as in training. Received: {limits or 'none'}, and the "
            "file's metadata do not say it."
        )
    some = [paths[index] for index in evenly_spaced(len(paths), most)]
    shape = inputs[0].shape[1:]
    low, high = (_by_channel(limit, shape) for limit in limits)
    read = _sound if is_sound else _image
    return np.stack([low + read(path, shape) * (high - low) for path in some]).astype(np.float32)


def _by_channel(limit: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a limit in a form that an input of a shape broadcasts with."""
    limits = np.asarray(limit, np.float32)
    if limits.size == 1:
        return limits.reshape(())
    if len(shape) == 3 and limits.size == shape[2]:
        return limits
    if len(shape) == 3 and limits.size == shape[0]:  # channels first
        return limits.reshape(-1, 1, 1)
    raise ValueError(
        f"Expected a normalization for one channel, or for each of those of the input {shape_text((None, *shape))}. "
        f"Received: metadata with {limits.size}. Pass --range LOW HIGH."
    )


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
    is_first = len(shape) == 3 and shape[0] in _MODES and shape[2] not in _MODES
    height, width, channels = (shape[1], shape[2], shape[0]) if is_first else (*shape, None, None, None)[:3]
    if not height or not width or channels not in _MODES or len(shape) != 3:
        raise ValueError(
            f"Expected a file whose input is images of a fixed size. Received: {shape_text((None, *shape))}. Save "
            "the samples with numpy.save."
        )
    try:
        with Image.open(path) as image:
            _check_picture(path, image.size)
            pixels = np.asarray(image.convert(_MODES[channels]).resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected an image. Received: {str(path)!r}: {error}.") from error
    values = pixels.reshape(height, width, channels).astype(np.float32) / np.float32(_BYTE)
    return np.moveaxis(values, 2, 0) if is_first else values


def _check_picture(path: Path, size: tuple[int, int]) -> None:
    """Refuse an image that takes far more memory than its file explains, before it is unpacked."""
    unpacked, most = math.prod(size) * _PIXEL_BYTES, most_unpacked(path.stat().st_size)
    if unpacked > most:
        raise ValueError(f"it would take {unpacked:,} bytes, and at most {most:,} are read from a file of its size")


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
            most = path.stat().st_size // (width * channels)  # memory is taken for what the header says
            content = sound.readframes(min(sound.getnframes(), most))
    except (EOFError, wave.Error) as error:
        raise ValueError(f"Expected a WAV file. Received: {str(path)!r}: {error}.") from error
    if width != 2:
        raise ValueError(f"Expected WAV files of 16 bits. Received: {str(path)!r} of {8 * width} bits.")
    frames = np.frombuffer(content, "<i2").reshape(-1, channels).mean(axis=1)[: sizes[0]]
    values = np.zeros(sizes[0], np.float32)
    values[: len(frames)] = frames
    return (values.reshape([length or 1 for length in shape]) + 2**15) / np.float32(2**16 - 1)


# The samples that a file is pruned on: checked, drawn if asked for by name, and split.

RANDOM, _RANDOM_ROWS = "random", 64
LEAST_SAMPLES, _MAX_HELD = 3, 64  # two to prune on, which differ, and one to hold out
_HELD_PART = 8  # every eighth sample is held out
_FEW = 64

_WARN_RANDOM = (
    "the samples are random numbers, not data: the accuracy may drop by 4 to 16 points more than with data, and the "
    "errors above say little. Pass samples as the file will see them."
)


class GraphSamples(NamedTuple):
    """The samples of one graph of a file.

    Attributes:
        signature: The signature that starts at the graph; empty for the first graph of the file.
        arrays: An array for each of its inputs.
        held: How many of them, at the end, are held out.
        is_random: Whether they were drawn.
    """

    signature: str
    arrays: list[np.ndarray]
    held: int
    is_random: bool

    @property
    def fitted(self) -> int:
        """The number of samples that are not held out."""
        return min(len(array) for array in self.arrays if array.ndim) - self.held


def samples_of_graphs(samples: Any, file: ModelFile) -> list[GraphSamples]:
    """Return the samples of the first graph of a file, or those of some of its signatures.

    Args:
        samples: What `prune_tflite` takes.
        file: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or name a signature that the file does not have.
    """
    graphs = []
    for name, own in _by_signature(samples, file).items():
        try:
            graphs.append(_checked(own, file.starting_at(name).graph)._replace(signature=name))
        except (TypeError, ValueError) as error:
            if not name:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"For signature {name!r}: {error}") from error
    return graphs


def first_graph(samples: Any, file: ModelFile) -> GraphSamples:
    """Return the samples of the first graph of a file, given as they are, or under a signature that starts there.

    Args:
        samples: What `shrink_tflite` takes.
        file: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or are those of another graph.
    """
    given, graphs = _by_signature(samples, file), file.signatures
    if others := [name for name in given if name and graphs[name]]:
        firsts = ", ".join(repr(name) for name, graph in graphs.items() if not graph) or "without a signature"
        raise ArgumentError(
            "samples",
            f"samples for the first graph ({firsts}), in which channels are removed",
            found=f"samples for {', '.join(map(repr, others))}",
            advice="`prune_tflite` takes samples for several signatures.",
        )
    (own,) = given.values()
    return _checked(own, file.graph)


def _checked(samples: Any, model: Model) -> GraphSamples:
    arrays = check_samples(samples, model)
    held = _held_out(arrays, model)
    if held > 1 and not isinstance(samples, str):
        _refuse_same([array[-held:] for array in arrays if array.ndim], held)
    return GraphSamples("", arrays, held, isinstance(samples, str))


def _refuse_same(arrays: Sequence[np.ndarray], held: int) -> None:
    """Refuse held-out samples that are all the same, on which any two files may agree.

    Raises:
        ValueError: If they are.
    """
    if all((array == array[:1]).all() for array in arrays):
        raise ArgumentError(
            "samples",
            f"`samples` of which the last {held}, held out, differ from each other",
            found="the same sample again and again",
            advice="Shuffle them, or put samples of another origin at the end.",
        )


def _by_signature(samples: Any, file: ModelFile) -> Mapping[str, Any]:
    """Return samples by signature; those of the first graph have an empty name."""
    names = [info.name for info in file.graph.inputs]
    if not isinstance(samples, Mapping) or {*samples} == {*names}:
        return {"": samples}
    graphs = file.signatures
    unknown = [name for name in samples if name not in graphs]
    if not samples or (unknown and len(graphs) < 2):
        return {"": samples}
    if unknown:
        raise ValueError(
            f"Expected samples by signature, of which the file has {', '.join(map(repr, graphs))}, or by the inputs "
            f"of its first graph: {', '.join(map(repr, names))}. Received: names {[*samples]}."
        )
    if len({graphs[name] for name in samples}) < len(samples):
        raise ValueError(
            f"Expected signatures that start at different graphs. Received: {', '.join(map(repr, samples))}, some of "
            "which are the same graph under two names. Pass the samples of this graph once."
        )
    return samples


def check_samples(samples: Any, model: Model) -> list[np.ndarray]:
    """Return an array for each input of a file.

    Args:
        samples: What `prune_tflite` takes.
        model: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or are the same for all samples.
    """
    if samples is None:
        raise ArgumentTypeError(
            "samples",
            "samples as the file will see them, a few hundred, without labels",
            "None",
            advice="If there are none at all, samples='random' draws numbers, which costs accuracy.",
        )
    if call_it(samples):
        found = f"a {type(samples).__name__}"
        raise ArgumentTypeError("samples", "arrays in `samples`", found=found, advice=call_it(samples))
    _check_batch(model)
    if isinstance(samples, str):
        return _random(samples, model)
    arrays = arrays_of(samples, names=[info.name for info in model.inputs])
    for info, array in zip(model.inputs, arrays, strict=True):
        _check_array(info, array)
    rows = {len(array) for array in arrays if array.ndim}
    if len(rows) != 1 or min(rows) < LEAST_SAMPLES:
        raise ValueError(
            f"Expected at least {LEAST_SAMPLES} samples, the same number for each input. Received: "
            f"{', '.join(shape_text(array.shape) for array in arrays)}."
        )
    if all((array == array[:1]).all() for array in arrays):
        raise ValueError(
            "Expected samples that differ from each other. Received: samples that are all the same. Pass data as the "
            "file will see them."
        )
    return arrays


def _held_out(arrays: Sequence[np.ndarray], model: Model) -> int:
    """Return how many samples at the end are held out: whole batches where the file has a fixed one."""
    rows = min(len(array) for array in arrays if array.ndim)
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    held = min(max(rows // _HELD_PART // batch, 1) * batch, _MAX_HELD * batch)
    if rows - held < batch:
        raise ValueError(
            f"Expected samples for two runs of the file at least, which takes {batch} at once. Received: {rows}."
        )
    return held


def warnings_of(samples: Sequence[GraphSamples], others: Sequence[str]) -> tuple[str, ...]:
    """Return what makes the result less reliable, and the warnings of the process that ran the file."""
    warnings = [_WARN_RANDOM] if any(each.is_random for each in samples) else []
    few = [each.fitted for each in samples if each.fitted < _FEW and not each.is_random]
    text = [f"{count} samples are few: with 256 the outputs stay closer." for count in few]
    return *warnings, *others, *dict.fromkeys(text)


def _random(name: str, model: Model) -> list[np.ndarray]:
    if name != RANDOM:
        raise ArgumentError("samples", "samples as arrays, or samples='random'", repr(name))
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    infos = [TensorInfo(info.name, (None, *info.shape[1:]), info.dtype) for info in model.inputs]
    return random_inputs(infos, model.outputs, rows=_RANDOM_ROWS * batch)


def _check_batch(model: Model) -> None:
    if len({info.shape[0] for info in model.inputs if info.shape} - {None}) > 1:
        shapes = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in model.inputs)
        raise ValueError(
            "Expected inputs that take the same number of samples in a run. Received: inputs whose first dimensions "
            f"differ: {shapes}. If another signature of the file takes one sample in a run, as `decode` of language "
            "models does, pass samples for that: weights that signatures share are pruned once."
        )


def _check_array(info: TensorInfo, array: np.ndarray) -> None:
    wanted = info.shape
    fits = array.ndim == len(wanted) and all(
        length in (None, given) for length, given in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not fits or not array.size:
        shape = shape_text((None, *wanted[1:]))
        advice = _transposition(wanted, array.shape) if array.size else ""
        raise ValueError(
            f"Expected samples of shape {shape} for input {info.name!r}. Received: {shape_text(array.shape)}.{advice}"
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Expected numbers for input {info.name!r}. Received: values of type {array.dtype}.")
    if info.dtype.startswith("float"):
        warn_of_bytes(array, info.name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite numbers for input {info.name!r}. Received: NaN or infinity.")


def _transposition(wanted: Sequence[int | None], shape: Sequence[int]) -> str:
    """Return how the channels of images come to the other end, after a space; empty if that does not help."""
    if len(wanted) == len(shape) == 4:
        for axes in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if all(wanted[place] in (None, shape[axis]) for place, axis in enumerate(axes) if place):
                return f" Move the channels: samples.transpose{axes}."
    return ""


# Outputs that samples hardly change, which show nothing.

_BLOCK = 2**20  # numbers that are in double precision at the same time
_HARDLY = 0.03  # of the size of an output: samples without preprocessing reach 0.002 to 0.03, right ones 0.1 to 1
_MANY = 16  # samples that are all of the same class


def constant_outputs(dense: Mapping[str, np.ndarray], *, samples: int) -> list[str]:
    """Return a warning for each output that hardly varies over the samples."""
    warnings = []
    for name, values in dense.items():
        size = float(np.sqrt(sum(np.square(block).sum() for block in blocks_of(values)) / max(values.size, 1)))
        part = deviation(values) / size if size else 0.0
        text = ""
        if values.ndim and len(values) == samples > 1 and part < _HARDLY:
            text = f"hardly changes: its standard deviation over the samples is {part:.1%} of its size"
        elif samples >= _MANY and are_rows(values, rows=samples) and len({*values.argmax(axis=1).tolist()}) == 1:
            text = "has its largest entry at the same index for all samples"
        if text:
            warnings.append(f"output {name!r} of the dense file {text}. Check the preprocessing.")
    return warnings


def refuse_same_outputs(dense: Mapping[str, np.ndarray], *, rows: int, held: int) -> None:
    """Refuse held-out samples that give the same outputs, although others do not: they show no error."""
    outputs = [values for values in dense.values() if values.ndim and len(values) == rows]
    is_same = [bool((values[-held:] == values[-1:]).all()) for values in outputs]
    if held > 1 and outputs and all(is_same) and any((values != values[:1]).any() for values in outputs):
        raise ValueError(
            f"Expected held-out samples, the last {held}, that change the outputs. Received: the same outputs for "
            "all of them. Shuffle the samples"
        )


def are_rows(values: np.ndarray, *, rows: int) -> bool:
    """Return True if an output has a row of several numbers for each sample."""
    return values.ndim == 2 and values.shape[1] > 1 and len(values) == rows


def deviation(values: np.ndarray) -> float:
    """Return the standard deviation over the samples: the root of the mean variance of the entries."""
    if not values.ndim:
        return 0.0
    return float(np.sqrt(sum(block.var(axis=0).sum() for block in blocks_of(values)) / max(values[0].size, 1)))


def blocks_of(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some entries of all samples at a time, in double precision."""
    flat = values.reshape(len(values) if values.ndim else 1, -1)
    step = max(1, _BLOCK // max(len(flat), 1))
    for start in range(0, flat.shape[1], step):
        yield flat[:, start : start + step].astype(np.float64)


# How far the outputs of a changed file are from the old ones.


@dataclass(frozen=True)
class OutputError(Report):
    """How far an output of the pruned file is from the dense file's, on samples that were held out.

    Attributes:
        name: The name of the output.
        error: The root of the mean squared difference, as a fraction of the output's standard deviation over the
            samples; None if the output is the same for all of them.
        agreement: The fraction of samples whose largest entry is the same one; of boxes of objects, the fraction of
            boxes of both files that have a partner in the other one: of the same class, with at least half of their
            union in common. None if the output is neither a row of scores of classes nor boxes: the means of numbers
            such as landmarks are far apart, compared with how much each varies from sample to sample.
        signature: The signature that returns the output, where samples are by signature; otherwise empty.
    """

    name: str
    error: float | None
    agreement: float | None
    signature: str = ""

    @property
    def row(self) -> list[str]:
        """Its row in a table."""
        name = f"{self.signature}: {self.name}" if self.signature else self.name
        return [name, number_text(self.error), "-" if self.agreement is None else f"{self.agreement:.1%}"]


def compare_outputs(
    dense: Mapping[str, np.ndarray], pruned: Mapping[str, np.ndarray], *, held: int
) -> list[OutputError]:
    """Compare the outputs of two files on the last samples.

    Args:
        dense: The outputs of the dense file for all samples, by which their variation is measured.
        pruned: Those of the pruned file for the last ones.
        held: How many these are.
    """
    rows, matched = [], dict[str | None, float | None]()
    boxes = find_detections(dense)
    if boxes is not None:
        found = boxes.layout.read(pruned)
        matched = {**dict.fromkeys(boxes.layout), boxes.layout.corners: matched_boxes(boxes.last(held), found)}
        dense, pruned = boxes.outputs, found.outputs
    for name, values in dense.items():
        outputs = np.atleast_1d(pruned[name])
        right = np.atleast_1d(values)[-len(outputs) :]
        spread = deviation(values)
        pairs = zip(blocks_of(outputs), blocks_of(right), strict=True)
        error = float(np.sqrt(sum(np.square(ours - theirs).sum() for ours, theirs in pairs) / outputs.size))
        has_classes = are_rows(right, rows=held) and _has_classes(values)
        agreement = float((outputs.argmax(axis=1) == right.argmax(axis=1)).mean()) if has_classes else None
        agreement = matched.get(name, agreement)
        rows.append(OutputError(name, error / spread if spread > 0 else None, agreement))
    return rows


# Of variances: landmarks of faces, eyes and hands reach 8 to 26, logits of classifiers 0.01 to 0.05, of samples of
# nearly one class 2 to 7. Coordinates of poses have 0.5 to 1.5, so that they pass for scores.
_APART = 3.0


def _has_classes(values: np.ndarray) -> bool:
    """Return True if rows are scores of classes, and not numbers such as landmarks.

    Scores that are not probabilities vary from sample to sample about as much as from class to class; coordinates
    stay near their places.
    """
    real = values.astype(np.float64)
    return are_probabilities(real) or bool(_APART * real.var(axis=0).mean() >= real.mean(axis=0).var())


# Boxes of objects, in files whose post-processing is inside.

_POST_PROCESSED = 4  # outputs of TFLite_Detection_PostProcess: boxes, classes, scores, count
_BOX, _ROW = 4, 6  # numbers of a box, and of a box with its score and class
_LEAST_SCORE, _LEAST_OVERLAP = 0.25, 0.5


class _Layout(NamedTuple):
    """Which outputs hold boxes: the same one all of it, or one each."""

    corners: str
    scores: str
    classes: str
    counts: str | None

    def read(self, outputs: Mapping[str, np.ndarray]) -> Detections:
        """Return the boxes of outputs."""
        corners, scores, classes = (outputs[name] for name in self[:3])
        if self.counts is None:
            return Detections(self, outputs, corners[..., :_BOX], scores[..., _BOX], classes[..., _BOX + 1])
        is_there = np.arange(scores.shape[1]) < outputs[self.counts].reshape(-1, 1)
        real = [
            np.where(is_there[..., None], corners, 0),
            np.where(is_there, scores, 0),
            np.where(is_there, classes, 0),
        ]
        return Detections(self, {**outputs, **dict(zip(self[:3], real, strict=True))}, *real)


class Detections(NamedTuple):
    """Boxes that a file found.

    Attributes:
        layout: The outputs that hold them.
        outputs: All outputs, with zeros behind the last box of a sample: other memory is left there.
        boxes: Two corners of each box: samples x boxes x 4.
        scores: How sure each is, from 0 to 1: samples x boxes.
        classes: Numbers of their classes: samples x boxes.
    """

    layout: _Layout
    outputs: Mapping[str, np.ndarray]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def last(self, count: int) -> Detections:
        """Return those of the last samples."""
        return self._replace(**{name: getattr(self, name)[-count:] for name in ("boxes", "scores", "classes")})


def find_detections(outputs: Mapping[str, np.ndarray]) -> Detections | None:
    """Return the boxes among the outputs of a file; None if they are not recognized.

    Recognized are rows of two corners, a score and a class, as YOLO has them; and the outputs of
    TFLite_Detection_PostProcess: corners, classes, scores and how many there are.
    """
    for layout in _layouts(outputs):
        found = layout.read(outputs)
        descends = layout.counts is None or bool((np.diff(found.scores, axis=1) <= 0).all())
        if descends and _are_scores(found.scores) and _are_numbers(found.classes) and _are_boxes(found.boxes):
            return found
    return None


def _layouts(outputs: Mapping[str, np.ndarray]) -> Iterator[_Layout]:
    """Yield what outputs of these shapes can be."""
    for name, values in outputs.items():
        if values.ndim == 3 and values.shape[2] == _ROW:
            yield _Layout(name, name, name, None)
    corners = [name for name, values in outputs.items() if values.ndim == 3 and values.shape[2] == _BOX]
    if len(outputs) == _POST_PROCESSED and len(corners) == 1:
        samples, boxes, _ = outputs[corners[0]].shape
        rows = [name for name, values in outputs.items() if values.shape == (samples, boxes)]
        counts = [name for name in outputs if name not in (*corners, *rows)]
        if len(rows) == 2 and outputs[counts[0]].size == samples:
            yield from (_Layout(*corners, *pair, *counts) for pair in (rows, rows[::-1]))


def _are_boxes(corners: np.ndarray) -> bool:
    return bool((corners[..., :2] <= corners[..., 2:]).all())


def _are_scores(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all() and (values % 1 != 0).any())


def _are_numbers(values: np.ndarray) -> bool:
    return bool((values % 1 == 0).all() and (values >= 0).all())


def matched_boxes(ours: Detections, theirs: Detections) -> float | None:
    """Return the fraction of the boxes of both that have a partner in the other; None if there are no boxes.

    Boxes are taken from the surest one on, and each gets the box of the same class with the largest overlap that has
    no partner yet. Those with a score below 0.25 do not count.
    """
    partners = boxes = 0
    for first, second in zip(_by_sample(ours), _by_sample(theirs), strict=True):
        boxes += len(first.scores) + len(second.scores)
        overlaps = np.where(first.classes[:, None] == second.classes, _overlaps(first.boxes, second.boxes), 0)
        for row in overlaps:
            if row.size and row.max() >= _LEAST_OVERLAP:
                partners += 2
                overlaps[:, row.argmax()] = 0
    return partners / boxes if boxes else None


def _by_sample(detections: Detections) -> Iterator[Detections]:
    """Yield the boxes of each sample that are sure enough, the surest first."""
    for boxes, scores, classes in zip(detections.boxes, detections.scores, detections.classes, strict=True):
        order = np.argsort(-scores, kind="stable")[: int((scores >= _LEAST_SCORE).sum())]
        yield detections._replace(boxes=boxes[order], scores=scores[order], classes=classes[order])


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection of each pair of boxes, as a fraction of their union."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common, dtype=np.float64), where=union > 0)
