"""Weight sharing: fewer distinct values in each weight, so that a packed file is smaller; and names of classes."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number
from tfprune.export.file import schema
from tfprune.export.file.container import SUFFIXES, Source, check_destination, check_suffix, encode, write_atomically
from tfprune.export.file.document import (
    AXIS_LABELS,
    ENTRY,
    FIRST,
    GRAYSCALE,
    LATEST,
    RGB,
    MetadataTable,
    add_values,
    builtin_code,
    inputs_of,
    put_metadata,
    read_model_metadata,
    save_objects,
    write_model_metadata,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model
from tfprune.export.file.report import TensorInfo, make_archive, read_archive, shape_text

# Weight sharing: fewer distinct values in each weight, so that a packed file is smaller. Zeros stay zeros.

_MAX_LEVELS = 256  # distinct int8 values
_DEFAULT_LEVELS = 32


def share_weights(source: Source, *, levels: int = _DEFAULT_LEVELS) -> bytes:
    """Reduce the values of each 8-bit weight to a few, chosen for the least squared error.

    Use it before `pack`: the file keeps its form and size, any runtime runs it as before, and the packed file is
    smaller. Check the accuracy afterwards.

    Args:
        source: A path, or the bytes of a .tflite file with 8-bit weights (`quantize="int8"` or `"dynamic"`), dense or
            sparse.
        levels: The number of distinct values in each weight, 0 included, 2 to 256. Default 32. A weight without
            zeros has one value less.

    Returns:
        The bytes of the changed file, which is not packed.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or `levels` is not an integer.
        ValueError: If the file cannot be read, is not a whole TFLite file, has no weights of 8 bits, or `levels` is
            out of range; or (also an ImportError) if ai-edge-litert is not installed.

    Reference:
        Han, S., Mao, H. and Dally, W. J. Deep Compression. ICLR 2016. arXiv:1510.00149, section 3.

    Example:
        >>> pack = tfprune.export.pack
        >>> len(pack(share_weights("digits_int8.tflite", levels=16))) < len(pack("digits_int8.tflite"))
        True
    """
    check_levels(levels)
    with ModelFile.open(source).edit() as edit:
        share_values(edit.model, levels=levels)
    return edit.file.content


def share_values(model: schema.ModelT, *, levels: int) -> bool:
    """Share the values of the 8-bit weights of an open file, as `share_weights` does; return True.

    Raises:
        ValueError: If it has no weights of 8 bits.
    """
    indices = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or () if _is_weight(tensor)}
    buffers = [model.buffers[index] for index in sorted(indices)]
    filled = [buffer for buffer in buffers if buffer.data is not None and len(buffer.data)]
    if not filled:
        raise ValueError(
            "Expected a file with 8-bit weights. Received: one without. Export it with quantize='int8' or 'dynamic'."
        )
    for buffer in filled:
        buffer.data = _share(buffer.data.view(np.int8), levels).view(np.uint8)
    return True


def check_levels(levels: Any) -> None:
    """Refuse a number of distinct values, 0 included, that weights of 8 bits cannot have.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is not from 2 to 256.
    """
    check_count(levels, "levels", least=2, most=_MAX_LEVELS)


def _share(values: np.ndarray, levels: int) -> np.ndarray:
    """Replace each non-zero value by one of a few.

    Args:
        values: int8.
        levels: The number of distinct values to keep at most, 0 included.

    Returns:
        int8, of the same shape.

    Example:
        >>> _share(np.int8([0, 10, 11, 12, -50, 0]), 3).tolist()
        [0, 11, 11, 11, -50, 0]
    """
    distinct, counts = np.unique(values[values != 0], return_counts=True)
    groups = levels - 1  # beside 0
    if len(distinct) <= groups:
        return values
    table = np.zeros(256, np.int8)
    bounds = _bounds(distinct.astype(float), counts, groups)
    for start, end in zip(bounds, bounds[1:], strict=False):
        group = slice(start, end)
        table[distinct[group].view(np.uint8)] = np.rint(np.average(distinct[group], weights=counts[group]))
    return table[values.view(np.uint8)]


def _bounds(values: np.ndarray, counts: np.ndarray, groups: int) -> list[int]:
    """Cut sorted values into groups of the least squared error: k-means in one dimension, exact."""
    sums = [np.concatenate([[0], np.cumsum(counts * values**power)]) for power in (0, 1, 2)]
    start, end = np.triu_indices(len(values) + 1, 1)
    count, total, squares = (of_power[end] - of_power[start] for of_power in sums)
    errors = np.full((len(values) + 1,) * 2, np.inf)  # of each group, by where it starts and ends
    errors[start, end] = squares - total**2 / count
    least, starts = errors[0], []
    for _ in range(groups - 1):
        extended = least[:, None] + errors
        starts.append(extended.argmin(axis=0))
        least = extended.min(axis=0)
    bounds = [len(values)]
    for before in reversed(starts):
        bounds.append(int(before[bounds[-1]]))
    return [0, *reversed(bounds)]


def _is_weight(tensor: Any) -> bool:
    if tensor.type != schema.TensorType.INT8 or tensor.isVariable or tensor.shape is None or len(tensor.shape) < 2:
        return False
    if tensor.sparsity is not None:
        return True  # what is not stored is 0, and its scales stand where DENSIFY unpacks it
    zeros = tensor.quantization.zeroPoint if tensor.quantization is not None else None
    return zeros is not None and not np.any(zeros)


# Weights of few values, as integers of few values: one grid for all channels of a weight.
#
# The converter scales each channel by its largest entry, so that a value that channels share becomes another
# integer in each of them. Here the channels of such a weight get the integers that the weight has as a whole, and
# scales that make the same products of them.

LARGEST_INTEGER = 127
# Operators whose second input is a weight: the places of what it is applied to, and of the bias.
_PLACES = {"FULLY_CONNECTED": (0, 2), "CONV_2D": (0, 2), "DEPTHWISE_CONV_2D": (0, 2), "TRANSPOSE_CONV": (2, 3)}
_MAX_ROUNDING = 0.501  # of an integer: what rounding may leave
_SCALE_TOLERANCE = 1e-6  # relative: what float32 may make of one scale


def share_grids(model: schema.ModelT, *, kernels: Sequence[np.ndarray]) -> bool:
    """Give the weights with these integers, a row for each output channel, one grid for all of their channels."""
    for graph in model.subgraphs:
        _Sharing(model, graph, kernels).apply()
    return True


class _Sharing:
    """Changes one graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT, kernels: Sequence[np.ndarray]) -> None:
        self._model, self._graph, self._kernels = model, graph, kernels
        places = {getattr(schema.BuiltinOperator, name): of_name for name, of_name in _PLACES.items()}
        self._takers: dict[int, set[tuple[int, int]]] = defaultdict(set)  # by the weight: what it is for, and biases
        others: set[int] = set()
        for operator in graph.operators or ():
            inputs = [*inputs_of(operator), -1]  # the bias may be missing
            code = builtin_code(model.operatorCodes[operator.opcodeIndex])
            if code in places:
                source, bias = places[code]
                self._takers[inputs[1]].add((inputs[source], inputs[bias]))
            others |= {*inputs} - ({inputs[1]} if code in places else set())
        self._weights = [index for index in self._takers if index not in others and self._is_weight(index)]

    def _is_weight(self, index: int) -> bool:
        """Return True if a tensor holds 8-bit values, with a scale for each channel."""
        tensor = self._graph.tensors[index]
        scales = None if tensor.quantization is None else tensor.quantization.scale
        filled = self._model.buffers[tensor.buffer].data
        is_filled = filled is not None and len(filled) > 0 and tensor.sparsity is None
        return is_filled and tensor.type == schema.TensorType.INT8 and scales is not None and len(scales) > 1

    def apply(self) -> None:
        """Put each weight that is one of those wanted on one grid."""
        for index in self._weights:
            tensor = self._graph.tensors[index]
            values = self._model.buffers[tensor.buffer].data.view(np.int8).reshape(tensor.shape)
            channels = np.moveaxis(values, tensor.quantization.quantizedDimension, 0)
            rows = channels.reshape(len(channels), -1).astype(np.int64)
            whole = next(
                (signed for kernel in self._kernels if _is_same(rows, signed := _signed_as(kernel, rows))), None
            )
            if whole is not None:
                self._share(index, whole.astype(np.int8).reshape(channels.shape))

    def _share(self, index: int, channels: np.ndarray) -> None:
        tensor = self._graph.tensors[index]
        values = np.moveaxis(channels, 0, tensor.quantization.quantizedDimension)
        tensor.buffer = add_values(self._model, values)
        most = np.abs(channels.reshape(len(channels), -1).astype(np.int64)).max(axis=1)
        steps = np.where(most > 0, most, LARGEST_INTEGER) / LARGEST_INTEGER  # how many new ones an old step is
        tensor.quantization.scale = _even(tensor.quantization.scale / steps)
        for source, bias in self._takers[index]:
            if bias >= 0:
                scale = self._graph.tensors[source].quantization.scale[0] * tensor.quantization.scale
                self._scale_bias(self._graph.tensors[bias], steps, scale)

    def _scale_bias(self, bias: schema.TensorT, steps: np.ndarray, scale: np.ndarray) -> None:
        values = self._model.buffers[bias.buffer].data.view(np.int32)
        bias.buffer = add_values(self._model, np.rint(values * steps).astype(np.int32))
        bias.quantization.scale = scale


def _signed_as(whole: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Turn the sign of rows that have another one in a file, as those before a negative factor have."""
    if whole.shape != rows.shape:
        return whole
    return np.where((rows * whole).sum(axis=1, keepdims=True) < 0, -whole, whole)


def _is_same(rows: np.ndarray, whole: np.ndarray) -> bool:
    """Return True if rows are those of a weight, each scaled to its largest entry."""
    if rows.shape != whole.shape:
        return False
    most = np.maximum(np.abs(whole).max(axis=1, keepdims=True), 1)
    return bool((np.abs(whole * (LARGEST_INTEGER / most) - rows) <= _MAX_ROUNDING).all())


def _even(scales: np.ndarray) -> np.ndarray:
    """Return scales of float32, one number for all where they differ by rounding only."""
    first = scales[0]
    return np.where(np.abs(scales - first).max() <= _SCALE_TOLERANCE * first, first, scales).astype(np.float32)


# Name the classes of a file, and how its input is normalized, for apps: as TFLite Metadata, and labels behind it.

_ANEW = "Write the metadata anew with the program that made the file."
_LABELS = "labels.txt"
_DESCRIPTION = b"Names of the classes, one a line"
_CHANNELS = (1, 3)  # of an image
_IMAGE_TYPES = ("float32", "uint8", "int8")
_NORMALIZED_TYPES = (*_IMAGE_TYPES, "float16", "int16")
_PIXELS = np.array([0, 255], np.float32)  # the smallest and the largest value of a pixel
_Numbers = float | Sequence[float]
_PROBABILITIES = ("SOFTMAX", "LOGISTIC")  # operators whose outputs are from 0 to 1


def add_metadata(
    source: Source,
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    output: str | int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> None:
    """Write a file anew with the names of its classes, and with the normalization of its input.

    Use it for a file that MediaPipe Tasks or Android Studio should read: they take labels and normalization from
    TFLite Metadata. Weights and operators stay as they are, and so do other metadata and files behind the model. An
    input of four dimensions with 1 or 3 channels is described as an image.

    Args:
        source: A path, or the bytes of a .tflite file, plain or packed.
        path: The file to write. It is packed where the path ends in .tfz, and compressed where it ends in .gz or
            .xz.
        class_names: The name of each entry along the last axis of the output, in order. They are written as
            labels.txt and replace older labels. Default None: labels stay as they are.
        output: The output that `class_names` are about: its name or index. Default None: the only output.
        mean: What is subtracted from an input, such as a pixel from 0 to 255: a number, or one for each channel. Pass
            `std`, too. Default None: the normalization stays as it is.
        std: What the difference is divided by: a positive number, or one for each channel.

    Raises:
        TypeError: If `source` is neither a path nor bytes, `path` is not a path, or a name or number has another
            type.
        ValueError: If the file cannot be read or written, or its metadata or the archive behind it are damaged; there
            is nothing to write; there are more or fewer names than classes, or one is empty, has a line break or is
            not text that UTF-8 can hold; `output` is not an output, or is missing where there are several; `mean` and
            `std` do not fit the channels, are not finite, or `std` is not positive; or (also an ImportError) if
            ai-edge-litert is not installed.

    Example:
        >>> add_metadata("digits.tflite", "labeled.tflite", class_names=[str(digit) for digit in range(10)])
        >>> tfprune.export.inspect("labeled.tflite").labels["output_0"][:3]
        ('0', '1', '2')

    Reference:
        metadata_schema.fbs, version 1.5.0, of MediaPipe Tasks (tables ModelMetadata and NormalizationOptions).
    """
    if class_names is None and mean is None and std is None:
        raise ArgumentError(
            "class_names", "`class_names`, or `mean` and `std`", found="none of them", advice="Pass what to write."
        )
    destination = check_destination(path)
    method = SUFFIXES.get(destination.suffix.lower())
    check_suffix(destination, method)
    file = ModelFile.open(source)
    graph, model = file.graph, file.objects()
    root = _metadata_of(file.metadata.get(ENTRY), graph)
    (subgraph,) = root.tables("subgraph_metadata")
    if class_names is not None:
        place = _output_index(graph.outputs, output)
        labels = _label_file(class_names, graph.outputs[place])
        position = graph.subgraphs[0].outputs.index(graph.output_tensors[place])
        model.archive = make_archive(_replace_labels(root, position, labels, read_archive(model.archive)))
        _add_range(subgraph.tables("output_tensor_metadata")[position], graph, position)
    elif output is not None:
        raise ArgumentError("output", "`class_names` with `output`", repr(output), advice="Leave it out.")
    if mean is not None or std is not None:
        _normalize(subgraph.tables("input_tensor_metadata"), graph.inputs, mean, std)
    put_metadata(model, {ENTRY: write_model_metadata(root)})
    content = save_objects(model)
    write_atomically(destination, encode(content, method), holds=content)


def _metadata_of(content: bytes | None, graph: Model) -> MetadataTable:
    """Return the metadata that a file has, or new ones, with an entry for each input and output of the file."""
    root = MetadataTable("ModelMetadata") if content is None else read_model_metadata(content)
    # What the newest part of older metadata needs is not known where they do not say it.
    root.fields.setdefault("min_parser_version", FIRST if content is None else LATEST)
    subgraphs = root.tables("subgraph_metadata")
    if not subgraphs:
        subgraphs.append(MetadataTable("SubGraphMetadata"))
    sides = {
        "input_tensor_metadata": (graph.inputs, graph.input_tensors, graph.subgraphs[0].inputs),
        "output_tensor_metadata": (graph.outputs, graph.output_tensors, graph.subgraphs[0].outputs),
    }
    for name, (infos, indices, listed) in sides.items():
        entries = subgraphs[0].tables(name)
        if not entries:
            entries += [MetadataTable("TensorMetadata") for _ in listed]
        if len(subgraphs) > 1 or len(entries) != len(listed):
            raise ValueError(
                f"Expected TFLite Metadata of one graph with an entry for each of its {len(listed)} tensors in "
                f"{name}. Received: {len(subgraphs)} graphs, and {len(entries)} entries for the first. {_ANEW}"
            )
        for info, index in zip(infos, indices, strict=True):
            _describe(entries[listed.index(index)], info, image=name.startswith("input") and _is_image(info))
    return root


def _describe(entry: MetadataTable, info: TensorInfo, *, image: bool) -> None:
    """Name a tensor, and say what it contains, where its metadata do not."""
    entry.fields.setdefault("name", info.name.encode())
    properties = MetadataTable("ImageProperties" if image else "FeatureProperties")
    if image:
        height, width, channels = info.shape[1:]
        properties.fields["color_space"] = RGB if channels == 3 else GRAYSCALE
        if height and width:
            size = MetadataTable("ImageSize", {"width": width, "height": height})
            properties.fields["default_size"] = size
    entry.fields.setdefault("content", MetadataTable("Content", {"content_properties": properties}))


def _is_image(info: TensorInfo) -> bool:
    return len(info.shape) == 4 and info.shape[-1] in _CHANNELS and info.dtype in _IMAGE_TYPES


def _output_index(infos: Sequence[TensorInfo], output: str | int | None) -> int:
    """Return the index of the chosen output, or of the only one."""
    names = [info.name for info in infos]
    if output is None and len(names) == 1:
        return 0
    if isinstance(output, str) and output in names:
        return names.index(output)
    if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(names):
        return output
    raise ArgumentError(
        "output", f"`output` to choose one of the outputs {names}", repr(output), advice="Pass a name or an index."
    )


def _label_file(class_names: Any, info: TensorInfo) -> bytes:
    """Return the names one a line, as readers split them, once they fit the output."""
    is_list = isinstance(class_names, Sequence) and not isinstance(class_names, (str, bytes))
    if not is_list or not all(isinstance(name, str) for name in class_names):
        raise ArgumentTypeError("class_names", "`class_names` to be a list of strings", repr(class_names))
    classes = info.shape[-1] if info.shape else None
    if len(class_names) != classes:
        raise ArgumentError(
            "class_names",
            f"`class_names` to name the {classes or 'unknown number of'} entries along the last axis of the "
            f"output {info.name!r} of shape {shape_text(info.shape)}",
            found=f"{len(class_names)} names",
            advice="Pass one for each entry, in order.",
        )
    for index, name in enumerate(class_names):
        is_utf8 = name.encode(errors="replace").decode() == name
        if name.splitlines() != [name] or "\0" in name or not is_utf8:
            raise ArgumentError(
                "class_names",
                "`class_names` to be texts of one line that UTF-8 can hold",
                found=f"{name!r} at index {index}",
                advice="Rename the class.",
            )
    return "".join(f"{name}\n" for name in class_names).encode()


def _replace_labels(root: MetadataTable, position: int, labels: bytes, files: dict[str, bytes]) -> dict[str, bytes]:
    """Give an output labels in place of those that it has, and return the files that the archive then holds."""
    entry = root.tables("subgraph_metadata")[0].tables("output_tensor_metadata")[position]
    old = [each for each in entry.tables("associated_files") if each.fields.get("type") == AXIS_LABELS]
    entry.fields["associated_files"] = [each for each in entry.tables("associated_files") if each not in old]
    names = {_name(table) for table in root.within() if table.kind == "AssociatedFile"}
    name = _LABELS if _LABELS not in names else f"labels_{position}.txt"
    if name in names:
        raise ValueError(
            f"Expected metadata that name {name!r} for this output only. Received: they name it for something else, "
            f"too. {_ANEW}"
        )
    fields = {"name": name.encode(), "description": _DESCRIPTION, "type": AXIS_LABELS}
    entry.tables("associated_files").append(MetadataTable("AssociatedFile", fields))
    stale = {_name(each) for each in old} - names
    return {key: content for key, content in files.items() if key not in stale} | {name: labels}


def _name(table: MetadataTable) -> str:
    return table.fields.get("name", b"").decode("utf-8", "replace")


def _add_range(entry: MetadataTable, graph: Model, position: int) -> None:
    """Say that an output is from 0 to 1 where the operator that makes it says so."""
    main = graph.subgraphs[0]
    index = main.outputs[position]
    makers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    while index in makers and makers[index].name == "DEQUANTIZE":
        index = makers.pop(index).inputs[0]
    is_float = main.tensors[main.outputs[position]].dtype == "float32"
    if is_float and index in makers and makers[index].name in _PROBABILITIES:
        limits = {"max": np.ones(1, np.float32), "min": np.zeros(1, np.float32)}
        entry.fields.setdefault("stats", MetadataTable("Stats", limits))


def _normalize(
    entries: list[MetadataTable], inputs: Sequence[TensorInfo], mean: _Numbers | None, std: _Numbers | None
) -> None:
    """Give the only input its normalization in place of the one that it has, and the range that follows."""
    if len(inputs) != 1 or inputs[0].dtype not in _NORMALIZED_TYPES:
        raise ValueError(
            f"Expected a file with one input, of {', '.join(_NORMALIZED_TYPES)}, for `mean` and `std`. Received: the "
            f"inputs {', '.join(map(str, inputs)) or 'none'}. Leave both out."
        )
    if mean is None or std is None:
        raise ArgumentError("mean", "both `mean` and `std`", repr(mean), advice="Pass 0 or 1.", beside={"std": std})
    (entry,), (info,) = entries, inputs
    channels = info.shape[-1] if info.shape else None
    means, stds = _per_channel(mean, "mean", channels), _per_channel(std, "std", channels)
    means, stds = (array.copy() for array in np.broadcast_arrays(means, stds))
    units = [unit for unit in entry.tables("process_units") if _options_kind(unit) != "NormalizationOptions"]
    options = MetadataTable("NormalizationOptions", {"mean": means, "std": stds})
    entry.fields["process_units"] = [MetadataTable("ProcessUnit", {"options": options}), *units]
    entry.fields.pop("stats", None)  # of the older normalization
    if _is_image(info) and info.dtype != "int8":
        low, high = _PIXELS[:, None] if info.dtype == "uint8" else (_PIXELS[:, None] - means) / stds
        entry.fields["stats"] = MetadataTable(
            "Stats", {"max": high.astype(np.float32), "min": low.astype(np.float32)}
        )


def _options_kind(unit: MetadataTable) -> str:
    return unit.fields["options"].kind if "options" in unit.fields else ""


def _per_channel(value: _Numbers, argument: str, channels: int | None) -> np.ndarray:
    """Return one number, or one for each channel."""
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    values = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else [listed]
    above = 0 if argument == "std" else -math.inf
    checked = np.array([check_number(each, argument, above=above) for each in values], np.float64)
    with np.errstate(over="ignore"):
        numbers = checked.astype(np.float32)
    if not np.isfinite(numbers).all() or argument == "std" and not (numbers > 0).all():
        raise ArgumentError(argument, f"`{argument}` to fit into float32", repr(value))
    if len(numbers) not in (1, channels):
        raise ArgumentError(
            argument,
            f"one number in `{argument}`, or one for each of the {channels or 'unknown number of'} channels",
            repr(value),
            advice="Pass one for each channel, in the order of the input's last axis.",
        )
    return numbers
