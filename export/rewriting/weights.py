"""Weights of a file in fewer bits: four bits, blocks of eight, or a recipe of LiteRT Quantizer."""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_regex
from tfprune.export.device.processes import run_program, write_job
from tfprune.export.device.quantization_error import MOVES, QuantizationErrorRow
from tfprune.export.device.runner import ranges_of
from tfprune.export.file import schema
from tfprune.export.file.document import (
    NamedTensors,
    add_constant,
    add_operator,
    add_tensor,
    add_values,
    builtin_code,
    drop_hash,
    indices_of,
    inputs_of,
    operator_code,
    operator_name,
    put_in_order,
    save_objects,
    unpack_objects,
    with_values_inside,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model, Operator, Subgraph, Tensor, read
from tfprune.export.rewriting import edge_quantizer_child as child
from tfprune.export.rewriting.shapes import fix_batch, lengths_of, make_pointwise, pointwise_refusal
from tfprune.report import install

# Four bits for each weight of an 8-bit file, where every runtime takes them: in convolutions.
#
# Fully connected layers become 1x1 convolutions first: as they are, tflite-runtime 2.14 and TFLite Micro refuse
# them with 4-bit weights. Activations keep their 8 bits.

_LARGEST_INT4 = 7  # the integers go from -7 to 7, so that each channel needs a scale only
_SCALE_FACTORS = np.linspace(
    0.5, 1, 26
)  # of the scale that clips nothing: with a smaller one, the error may be smaller
_FOUR_BITS_SINCE = 7  # the version of both convolutions that takes 4-bit weights
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_WEIGHT, _BIAS = 1, 2  # the places among the inputs of both convolutions, and of FULLY_CONNECTED


def four_bit_weights(model: schema.ModelT) -> bool:
    """Round the weights of 8-bit convolutions and fully connected layers to 4 bits; zeros stay zeros.

    Each output channel gets the scale that leaves the least squared error. Other weights keep their 8 bits: those of
    transposed convolutions and of embeddings, for example, which no runtime takes in 4.

    Args:
        model: An open file with 8-bit weights and activations, whose equal constants were merged.

    Returns:
        True: the file changed.

    Raises:
        ValueError: If no weight of it can have 4 bits.
    """
    changed = 0
    for graph in model.subgraphs:
        _make_convolutions(model, graph)
        for weight, layers in _weights(model, graph, _CONVOLUTIONS):
            _narrow(model, graph, weight=weight, layers=layers)
            changed += 1
    if not changed:
        raise ValueError(
            "Expected 8-bit convolutions or fully connected layers with constant weights, which may have 4 bits. "
            "Received: a file without. Export it with quantize='int8'."
        )
    return True


def _make_convolutions(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    constants = [weight for weight, _ in _weights(model, graph, ("FULLY_CONNECTED",))]
    make_pointwise(
        model, graph, weights=[each for each in constants if not pointwise_refusal(model, graph, weight=each)]
    )


def _weights(
    model: schema.ModelT, graph: schema.SubGraphT, kinds: tuple[str, ...]
) -> list[tuple[int, list[schema.OperatorT]]]:
    """Return constants of 8 bits that operators of these kinds alone take, as weights of 8-bit activations."""
    codes = {getattr(schema.BuiltinOperator, kind) for kind in kinds}
    takers: dict[int, list[tuple[schema.OperatorT, int]]] = defaultdict(list)
    for operator in graph.operators:
        for place, tensor in enumerate(inputs_of(operator)):
            takers[tensor].append((operator, place))
    weights = []
    for tensor, uses in takers.items():
        fits = all(
            place == _WEIGHT
            and builtin_code(model.operatorCodes[operator.opcodeIndex]) in codes
            and graph.tensors[inputs_of(operator)[0]].type == schema.TensorType.INT8
            for operator, place in uses
        )
        if fits and _is_constant(model, graph.tensors[tensor]):
            weights.append((tensor, [operator for operator, _ in uses]))
    return weights


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    is_filled = model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data) > 0
    return is_filled and tensor.type == schema.TensorType.INT8 and tensor.sparsity is None


def _narrow(model: schema.ModelT, graph: schema.SubGraphT, *, weight: int, layers: list[schema.OperatorT]) -> None:
    """Give a weight 4 bits and other scales, and the biases of its layers those that follow from them."""
    tensor = graph.tensors[weight]
    old = tensor.quantization
    values = np.asarray(model.buffers[tensor.buffer].data).view(np.int8).reshape(tensor.shape)
    axis = old.quantizedDimension if len(old.scale) > 1 else None
    narrow, steps = _to_four_bits(values, axis)
    tensor.type, tensor.buffer = schema.TensorType.INT4, add_values(model, packed(narrow))
    tensor.quantization = _scaled(old, steps)
    moved: dict[int, int] = {}
    for layer in layers:
        inputs = inputs_of(layer)
        if len(inputs) > _BIAS and inputs[_BIAS] >= 0:
            bias = inputs[_BIAS]
            moved[bias] = moved[bias] if bias in moved else _moved_bias(model, graph, bias=bias, steps=steps)
            inputs[_BIAS] = moved[bias]
            layer.inputs = np.array(inputs, np.int32)
        code = model.operatorCodes[layer.opcodeIndex]
        code.version = max(code.version, _FOUR_BITS_SINCE)


def _moved_bias(model: schema.ModelT, graph: schema.SubGraphT, *, bias: int, steps: np.ndarray) -> int:
    """Return a copy of a bias in the units of the new scales: another weight may have the bias, too."""
    tensor = graph.tensors[bias]
    values = np.asarray(model.buffers[tensor.buffer].data).view("<i4")
    buffer = add_values(model, np.rint(values / steps).astype("<i4"))
    return add_tensor(graph, tensor, buffer=buffer, quantization=_scaled(tensor.quantization, steps))


def _scaled(old: schema.QuantizationParametersT, steps: np.ndarray) -> schema.QuantizationParametersT:
    new = copy.copy(old)
    new.scale = (old.scale * steps).astype(np.float32)
    return new


def _to_four_bits(values: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return integers from -7 to 7, and how many of the old steps each of them is worth, by channel.

    Args:
        values: int8.
        axis: The dimension of the channels, None if all share a scale.

    Example:
        >>> integers, steps = _to_four_bits(np.int8([[14, -28, 0, 98], [0, 0, 0, 0]]), 0)
        >>> integers.tolist(), steps.tolist()
        ([[1, -2, 0, 7], [0, 0, 0, 0]], [14.0, 1.0])
    """
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) if axis is not None else values.reshape(1, -1)
    rows = rows.astype(np.float32)
    widest = np.abs(rows).max(axis=1) / _LARGEST_INT4
    best, error = np.ones(len(rows)), np.full(len(rows), np.inf)
    for factor in _SCALE_FACTORS[::-1]:
        steps = np.where(widest > 0, widest * factor, 1.0)
        left = np.square(_rounded(rows, steps) * steps[:, None] - rows).sum(axis=1)
        best, error = np.where(left < error, steps, best), np.minimum(left, error)
    along = [1] * values.ndim
    along[axis or 0] = len(best)
    return _rounded(values, best.reshape(along)).astype(np.int8), best


def _rounded(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    steps = steps[:, None] if values.ndim > steps.ndim else steps
    return np.clip(np.rint(values / steps), -_LARGEST_INT4, _LARGEST_INT4)


def packed(values: np.ndarray) -> np.ndarray:
    """Put two integers of 4 bits into each byte, the first into its lower half.

    Example:
        >>> packed(np.int8([1, -1, 7])).tolist()
        [241, 7]
    """
    halves = np.append(values.ravel(), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 15
    return halves[::2] | halves[1::2] << 4


# Eight or four bits for the weights of a float file: of fully connected layers, and of tables.
#
# Eight bits have a scale for each row, and four a scale for each 32 weights of a row. Activations stay floats: a
# fully connected layer rounds its inputs to 8 bits by their own range, each time. GATHER knows one scale for a
# whole table, EMBEDDING_LOOKUP one for each row, as FULLY_CONNECTED does. So a table that is also the kernel of the
# scores, as the vocabulary of a language model, stays one tensor.

_LARGEST_INT8 = 127  # of 8 bits: the integers go from -127 to 127, so that each row needs a scale only
_BLOCK = 32  # weights of 4 bits that share a scale, the fewest that XNNPACK takes
_CHUNK = 2**16  # blocks that are rounded at a time
_LEAST_ENTRIES = 1024  # of a weight, as in the converter: smaller ones gain nothing
_PLACES = {"FULLY_CONNECTED": 1, "GATHER": 0}  # of the weight among the inputs
_VERSIONS = {"FULLY_CONNECTED": 12, "EMBEDDING_LOOKUP": 4}  # that take a scale for each row beside float activations


@dataclass(frozen=True)
class _Use:
    """An operator that takes a weight."""

    graph: schema.SubGraphT
    operator: schema.OperatorT
    kind: str
    place: int


def narrow_weights(model: schema.ModelT, *, bits: int) -> bool:
    """Round the weights of fully connected layers, and of tables, to 8 or 4 bits, and return True; zeros stay zeros.

    A weight that another operator takes as well stays as it is, and so does a small one.

    Args:
        model: A file that computes in float32, with any number of graphs. It is changed. Its weights may be arrays
            of floats as well as of bytes.
        bits: 8 or 4. Rows whose length is not a multiple of 32 get 8 bits in any case.
    """
    for buffer, uses in _uses(model).items():
        if all(_fits(use) for use in uses):
            _narrow_buffer(model, buffer, uses=uses, bits=bits)
    for code in model.operatorCodes:
        name = next((name for name in _VERSIONS if code.builtinCode == getattr(schema.BuiltinOperator, name)), None)
        code.version = max(code.version, _VERSIONS.get(name or "", 1))
    drop_hash(model)
    put_in_order(model)
    return True


def takes_eight_bits(row: QuantizationErrorRow) -> bool:
    """Return whether an operator in float may keep weights of 8 bits."""
    return row.operator in _PLACES and row.added_bytes >= 3 * _LEAST_ENTRIES


def _uses(model: schema.ModelT) -> dict[int, list[_Use]]:
    """Return the operators of all graphs that take a large constant of two dimensions, by its buffer."""
    uses = defaultdict(list)
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            for place, index in enumerate(inputs_of(operator)):
                tensor = graph.tensors[index] if index >= 0 else None
                if tensor is not None and _is_large(model, tensor):
                    uses[tensor.buffer].append(_Use(graph, operator, operator_name(model, operator), place))
    return uses


def _is_large(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    values = model.buffers[tensor.buffer].data
    is_matrix = tensor.shape is not None and len(tensor.shape) == 2 and tensor.type == schema.TensorType.FLOAT32
    return is_matrix and tensor.sparsity is None and values is not None and values.nbytes >= 4 * _LEAST_ENTRIES


def _fits(use: _Use) -> bool:
    if _PLACES.get(use.kind) != use.place:
        return False
    if use.kind == "FULLY_CONNECTED":
        return use.graph.tensors[use.operator.inputs[0]].type == schema.TensorType.FLOAT32
    options, ids = use.operator.builtinOptions, use.graph.tensors[use.operator.inputs[1]]
    is_of_rows = options is None or (options.axis, options.batchDims) == (0, 0)
    return is_of_rows and ids.type == schema.TensorType.INT32 and lengths_of(ids).count(-1) < 2


def _narrow_buffer(model: schema.ModelT, buffer: int, *, uses: list[_Use], bits: int) -> None:
    first = uses[0].graph.tensors[uses[0].operator.inputs[uses[0].place]]
    rows = np.asarray(model.buffers[buffer].data).view("<f4").reshape(first.shape)
    narrow = _FourBits(model, rows) if bits == 4 and rows.shape[1] % _BLOCK == 0 else _EightBits(model, rows)
    narrowed: dict[tuple[int, int], int] = {}  # the tensor of a graph that an operator takes now
    for use in uses:
        old = int(use.operator.inputs[use.place])
        key = id(use.graph), old
        if key not in narrowed:
            narrowed[key] = add_tensor(
                use.graph,
                use.graph.tensors[old],
                buffer=narrow.integers,
                type=narrow.type,
                quantization=narrow.quantization(use.graph),
            )
        if use.kind == "GATHER":
            _look_up(model, use, narrowed[key])
        else:
            use.operator.inputs = use.operator.inputs.copy()
            use.operator.inputs[use.place] = narrowed[key]
            use.operator.builtinOptions.asymmetricQuantizeInputs = True


class _EightBits:
    """The integers of a weight, and its scales: one for each row."""

    def __init__(self, model: schema.ModelT, rows: np.ndarray) -> None:
        self.type = schema.TensorType.INT8
        parts = np.array_split(rows, -(-rows.size // (_CHUNK * _BLOCK)))
        largest = np.concatenate([np.abs(part).max(axis=1) for part in parts])
        self._scales = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(_LARGEST_INT8)
        scales = np.array_split(self._scales[:, None], len(parts))
        integers = [np.rint(part / each).astype(np.int8) for part, each in zip(parts, scales, strict=True)]
        self.integers = add_values(model, np.concatenate(integers))

    def quantization(self, _: schema.SubGraphT) -> schema.QuantizationParametersT:
        return schema.QuantizationParametersT(scale=self._scales, zeroPoint=np.zeros(len(self._scales), np.int64))


class _FourBits:
    """The integers of a weight, and its scales: one for each block of a row, in a tensor of each graph."""

    def __init__(self, model: schema.ModelT, rows: np.ndarray) -> None:
        self.type = schema.TensorType.INT4
        blocks = rows.reshape(-1, _BLOCK)
        parts = [_rounded_blocks(blocks[start : start + _CHUNK]) for start in range(0, len(blocks), _CHUNK)]
        self.integers = add_values(model, np.concatenate([packed(integers) for integers, _ in parts]))
        self._shape = np.array([len(rows), rows.shape[1] // _BLOCK], np.int32)
        self._scales = add_values(model, np.concatenate([scales for _, scales in parts]))

    def quantization(self, graph: schema.SubGraphT) -> schema.QuantizationParametersT:
        scales = schema.TensorT()
        scales.name, scales.shape, scales.buffer = b"scales", self._shape, self._scales
        scales.type = schema.TensorType.FLOAT16
        graph.tensors.append(scales)
        details = schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints, details.blockSize = len(graph.tensors) - 1, -1, _BLOCK
        kind = schema.QuantizationDetails.BlockwiseQuantization
        return schema.QuantizationParametersT(detailsType=kind, details=details)


def _rounded_blocks(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers from -7 to 7, and the scale of each block: a float16 of 8 bits, as XNNPACK reads it."""
    _, steps = _to_four_bits(blocks, 0)
    bits = steps.astype(np.float32).view(np.uint32)
    scales = ((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float16)
    scales[scales == 0] = 1  # of weights too small for a float16, which become 0
    integers = np.rint(blocks / scales.astype(np.float32)[:, None])
    return np.clip(integers, -_LARGEST_INT4, _LARGEST_INT4).astype(np.int8), scales


def _look_up(model: schema.ModelT, use: _Use, table: int) -> None:
    """Turn GATHER into EMBEDDING_LOOKUP, which takes a list of ids and returns a matrix."""
    graph, operator = use.graph, use.operator
    ids, output = int(operator.inputs[1]), int(operator.outputs[0])
    sizes, width = lengths_of(graph.tensors[ids]), int(graph.tensors[table].shape[1])
    is_open, count = -1 in sizes, int(np.prod(graph.tensors[ids].shape))
    flat = add_tensor(graph, graph.tensors[ids], shape=np.array([count], np.int32))
    rows = add_tensor(graph, graph.tensors[output], shape=np.array([count, width], np.int32))
    for index in (flat, rows):
        shape = graph.tensors[index].shape
        graph.tensors[index].shapeSignature = np.array([-1, *shape[1:]], np.int32) if is_open else None
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.EMBEDDING_LOOKUP)
    operator.inputs, operator.outputs = np.array([flat, table], np.int32), np.array([rows], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = 0, None
    for source, target, lengths in ((ids, flat, lengths_of(graph.tensors[flat])), (rows, output, [*sizes, width])):
        shape = np.array(lengths, np.int32)
        inputs = [source, add_constant(model, graph, name=b"shape", values=shape)]
        options = schema.ReshapeOptionsT(newShape=shape)
        add_operator(model, graph, name="RESHAPE", inputs=inputs, outputs=[target], options=options)


# EdgeQuantizer: a recipe of LiteRT Quantizer, which another Python applies to a float file.

_TIMEOUT = 3600.0  # seconds; GPTQ on a large network takes minutes
RECIPE_NAME = re.compile(r"\w{1,100}")
_BITS = {"INT8": 8, "INT4": 4, "INT2": 2}  # of weights in blocks, by their types in the format
_UNREAD = "Tensor data is null"  # says the interpreter of a tensor whose size is known while it runs only
_INSTALL = (
    "Make an environment for it: python -m venv edge; edge/bin/pip install litert-quantizer, and give "
    "edge/bin/python as its Python"
)


@dataclass(frozen=True)
class EdgeQuantizer:
    """A recipe of LiteRT Quantizer, which was AI Edge Quantizer up to version 0.10, as the number format of a file.

    Pass it as `quantize=` to `to_tflite`, or in `Search(formats=...)` to `compress`, for formats that tfprune does
    not have, such as 4-bit weights with a scale for each block. The package runs in a process of its own, and may be
    installed in another environment. The file that comes back is refused if a zero of a weight is not a zero there,
    or if its outputs differ too much.

    Args:
        recipe: The name of a recipe of the package, such as `"dynamic_wi4b32_afp32"`, or a recipe as its JSON files
            hold it: a list of dicts with `"regex"`, `"operation"`, `"algorithm_key"` and `"op_config"`.
        python: The path of the Python that has the package, such as `"edge/bin/python"`. None (the default) is the
            one that runs now.

    Raises:
        TypeError: If `recipe` is neither a name nor a list of dicts, or `python` is not a string.
        ValueError: If `recipe` is not the name of a recipe, is empty, or is not JSON.

    Example:
        >>> EdgeQuantizer("dynamic_wi4b32_afp32", python="edge/bin/python").name
        'dynamic_wi4b32_afp32'
    """

    recipe: str | Sequence[Mapping[str, Any]]
    python: str | None = None

    # What other number formats may have.
    scheme: ClassVar[str] = "recipe"
    levels: ClassVar[None] = None
    skip: ClassVar[None] = None
    allow_float: ClassVar[bool] = False

    def __post_init__(self) -> None:
        is_list = isinstance(self.recipe, Sequence) and all(isinstance(entry, Mapping) for entry in self.recipe)
        if not (isinstance(self.recipe, str) or is_list):
            raise ArgumentTypeError(
                "recipe",
                "`recipe` to be a name, or a list of dicts",
                f"{self.recipe!r} of type {type(self.recipe).__name__}",
                advice="Read a recipe in a file with json.load.",
            )
        if not isinstance(self.python, str | None):
            raise ArgumentTypeError("python", "`python` to be the path of a Python", repr(self.python))
        if not self.recipe or (isinstance(self.recipe, str) and not RECIPE_NAME.fullmatch(self.recipe)):
            raise ArgumentError(
                "recipe",
                "the name of a recipe, such as 'dynamic_wi4_afp32', or a list of dicts",
                repr(self.recipe),
                advice="Read a recipe in a file with json.load.",
            )
        try:
            json.dumps(self.recipe)
        except TypeError as error:
            raise ValueError(f"Expected a recipe of values that JSON has. Received: {error}. Change them.") from error

    @property
    def name(self) -> str:
        """The name of the recipe, or `recipe`."""
        return self.recipe if isinstance(self.recipe, str) else self.scheme


class _RefusedError(ValueError):
    """LiteRT Quantizer does not take a file."""


class _UnreadError(_RefusedError):
    """LiteRT Quantizer cannot read tensors whose sizes are known while a file runs only."""


def edge_quantized(
    form: EdgeQuantizer,
    file: ModelFile,
    *,
    samples: Sequence[Mapping[str, np.ndarray]],
    clamps: bool = False,
) -> ModelFile:
    """Quantize a float file.

    Args:
        form: The recipe, and the Python that has the package.
        file: The file.
        samples: Calibration data, a dict of arrays by input for each run; empty for a recipe without need of it.
        clamps: Whether masks of attention are brought near the scores (`clamp_masks`).

    Returns:
        The new file, in which each zero of a weight is a zero.

    Raises:
        ValueError: If the Python or the package is missing, the recipe is refused or changes no weight, or zeros
            are lost.
    """
    signature = next(iter(file.signatures), "")
    clamps = clamps and _may_hold_masks(file.objects())
    settings = {"recipe": form.recipe, "samples": len(samples), "signature": signature, "stops": clamps}
    arrays = {f"{row}/{name}": array for row, sample in enumerate(samples) for name, array in sample.items()}
    with TemporaryFolder() as folder:
        Path(folder, child.FLOAT).write_bytes(file.content)
        write_job(folder, child.JOB, settings=settings, arrays=arrays)
        try:
            result = _run_recipe(form, Path(folder))
        except _UnreadError:  # which tensors the package cannot read, the interpreter alone knows
            if any(None in info.shape[1:] for info in file.graph.inputs):
                raise
            rows = len(next(iter(samples[0].values())))
            Path(folder, child.FIXED).write_bytes(fix_batch(file, rows).content)
            result = _run_recipe(form, Path(folder))
        if clamps:
            _clamp_in(Path(folder), file)
            write_job(folder, child.JOB, settings={**settings, "stops": False}, arrays=arrays)
            result = _run_recipe(form, Path(folder))
    quantized = ModelFile(with_values_inside(result)).after(_make_scales_positive, _leave_sizes_open)
    _check(form, file.graph, quantized.graph)
    return quantized


def _clamp_in(folder: Path, file: ModelFile) -> None:
    """Clamp the masks in the float file of a folder by the ranges that were found there."""
    model, path = file.objects(), folder / child.RANGES
    ranges = json.loads(path.read_text(encoding="utf-8"))
    ranges |= clamp_masks(model, ranges)
    path.write_text(json.dumps(ranges), encoding="utf-8")
    (folder / child.FLOAT).write_bytes(save_objects(model))


def _run_recipe(form: EdgeQuantizer, folder: Path) -> bytes:
    python = form.python or sys.executable
    command = [python, "-I", child.__file__, str(folder)]  # without the packages of this environment
    try:
        completed = run_program(command, folder, timeout=_TIMEOUT)
    except OSError as error:
        raise ValueError(
            f"Expected a Python that has LiteRT Quantizer. Received: {python!r}: {error.strerror}. {_INSTALL}."
        ) from error
    if completed.ok:
        path = Path(folder, child.QUANTIZED)
        return path.read_bytes() if path.exists() else b""  # it has stopped after the ranges
    reason = completed.reason.strip().rstrip(".")
    if reason.startswith("Expected"):
        raise ValueError(f"{reason}. Nothing was written.")
    if _UNREAD in reason:
        raise _UnreadError(
            "Expected a file of fixed lengths for this recipe, which looks at samples. Received: a file whose "
            "lengths are open, so that LiteRT Quantizer cannot read its tensors. Nothing was written. Fix the "
            "lengths: export keras.Model(x, model(x)), where x = keras.Input(shape) has them."
        )
    if "No module named" in reason:
        raise ValueError(f"Expected a Python that has LiteRT Quantizer. Received: {python!r}: {reason}. {_INSTALL}.")
    raise _RefusedError(
        f"Expected a recipe that LiteRT Quantizer takes for this model. Received: {form.name!r}: "
        f"{reason}. Nothing was written."
    )


def _check(form: EdgeQuantizer, before: Model, after: Model) -> None:
    """Refuse a file with the weights as they were, or without all of their zeros."""
    if {weight.dtype for weight in after.weights} <= {weight.dtype for weight in before.weights}:
        raise ValueError(
            f"Expected a recipe that quantizes a weight of the model. Received: {form.name!r}, which leaves all "
            f"in floats: the package has no kernel for such weights. Nothing was written. Try another granularity."
        )
    if lost := _lost_zeros(before, after):
        raise ValueError(
            f"Expected a recipe that keeps the zeros of the weights. Received: {form.name!r}: {'; '.join(lost)}. "
            f"Nothing was written. Algorithms that rotate weights lose zeros, and GPTQ may: take "
            f"'min_max_uniform_quantize', 'OCTAV' or 'OSCAR' as the algorithm."
        )


def _lost_zeros(before: Model, after: Model) -> list[str]:
    """Find weights whose zeros are not zeros in another file, entry by entry.

    Args:
        before: A file.
        after: Another one, with weights of the same names.

    Returns:
        One sentence for each weight that lost zeros; empty if none did.
    """
    named = {tensor.name: tensor for part in after.subgraphs for tensor in part.tensors if tensor.weight}
    problems = []
    for weight in before.weights:
        zeros = weight.size - (weight.nnz or 0)
        other = named.get(weight.name)
        if not zeros:
            continue
        if other is None or other.size != weight.size:
            problems.append(f"weight {weight.name!r} with {zeros:,} zeros is not there")
        elif count := int(np.count_nonzero(_marks(other) & ~_marks(weight))):
            problems.append(f"weight {weight.name!r} has {zeros:,} zeros, of which {count:,} are lost")
    return problems


def _marks(weight: Tensor) -> np.ndarray:
    """Tell for each entry of a weight whether it is not zero."""
    marks = np.zeros(weight.size, bool)
    for positions, _ in weight.values.pieces() if weight.values is not None else ():
        marks[positions] = True
    return marks


def _leave_sizes_open(model: schema.ModelT) -> bool:
    """Give what comes out of a conversion the open sizes of what it converts: the package does not."""
    closed = [
        (graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]])
        for graph in model.subgraphs
        for operator in graph.operators or ()
        if operator_name(model, operator) in ("QUANTIZE", "DEQUANTIZE")
    ]
    closed = [pair for pair in closed if sum(tensor.shapeSignature is None for tensor in pair) == 1]
    for source, target in closed:
        open_sizes = source.shapeSignature if target.shapeSignature is None else target.shapeSignature
        source.shapeSignature = target.shapeSignature = open_sizes
    return bool(closed)


def _make_scales_positive(model: schema.ModelT) -> bool:
    """Give blocks of zeros the scale 1: the package gives them 0, which XNNPACK does not take.

    Their integers become 0; the package has divided by the scale.
    """
    kind = schema.QuantizationDetails.BlockwiseQuantization
    widths = {getattr(schema.TensorType, name, None): bits for name, bits in _BITS.items()}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is None or tensor.quantization.detailsType != kind or tensor.type not in widths:
                continue
            details = tensor.quantization.details
            buffer, scales = (model.buffers[each] for each in (tensor.buffer, graph.tensors[details.scales].buffer))
            values = np.asarray(scales.data).view("<f2").copy()
            empty = ~(values > 0)
            integers = np.asarray(buffer.data).reshape(-1, details.blockSize * widths[tensor.type] // 8).copy()
            integers[empty], values[empty] = 0, 1
            buffer.data, scales.data = integers.ravel(), values.view(np.uint8)
    return True


# Mixed precision: which operators of a file of 8-bit integers stay in float.
#
# A user names layers. Scopes of layers with one name get numbers: the scope `conv_1` may be that of a layer `conv` or
# of a layer `conv_1`. A second file, whose layers have numbers for names, shows which operators belong to which.

LAYER_MARK = "tfprunelayer"  # begins the name of a layer with a number; a scope may have another number behind it
_NUMBER = re.compile(rf"(?:^|[/;]){LAYER_MARK}(\d+)(?=_|/|;|$)")
_LAST = "NEG"  # makes the outputs of the marked model, whose own operators so keep their names
_SHOWN = 3  # names in a message


def operators_to_skip(
    skip: Sequence[str], *, content: bytes, marked: Callable[[], tuple[bytes, Sequence[str]]]
) -> set[str]:
    """Return the names of the operators that stay in float.

    Args:
        skip: Regular expressions for paths of layers, or names of operators.
        content: A float file, or one that is calibrated.
        marked: Returns a float file of the same model, whose layers have numbers for names and whose outputs are
            negated, and the paths of the layers by these numbers; called if `skip` has others than operators.

    Raises:
        ValueError: If one of `skip` matches nothing.
    """
    graph = read(content).subgraphs[0]
    names = {*skip} & {_name(graph, operator) for operator in graph.operators}
    if others := [each for each in skip if each not in names]:
        other_content, paths = marked()
        layers_of = _layers_of_operators(content, other_content)
        names |= {name for each in others for name in _operators(each, paths, layers_of)}
    return names | _moves_between(graph, names)


def nothing_left(skip: Sequence[str] | None) -> ValueError:
    """Return an error that says that no operator of integers is left."""
    return ValueError(
        f"Expected `skip` to leave operators for integers. Received: skip={tuple(skip or ())!r}, which matches all "
        f"of them. Use quantize=None for a file of floats"
    )


def _layers_of_operators(content: bytes, marked: bytes) -> dict[str, set[int]]:
    """Return the numbers of the layers that each operator computes a part of, by the name of its first output."""
    graph, other = (read(each).subgraphs[0] for each in (content, marked))
    own, same = ({index: each for each in part.operators for index in each.outputs} for part in (graph, other))
    ends = [same[index].inputs[0] if same[index].name == _LAST else index for index in other.outputs if index in same]
    layers_of: dict[str, set[int]] = {_name(graph, operator): set() for operator in graph.operators}
    pairs, seen = [*zip(graph.outputs, ends, strict=False)], set()
    for index, end in pairs:  # the order of operators depends on names: both are followed from their outputs
        kinds = [each[key].name for each, key in ((own, index), (same, end)) if key in each]
        if index not in seen and len(kinds) == 2 and kinds[0] == kinds[1]:
            seen.add(index)
            layers_of[_name(graph, own[index])] = {*map(int, _NUMBER.findall(_name(other, same[end])))}
            pairs += zip(own[index].inputs, same[end].inputs, strict=False)
    return layers_of


def _moves_between(graph: Subgraph, names: set[str]) -> set[str]:
    """Return the names of operators that only move values, from operators in float to others in float."""
    takers: dict[int, list[Operator]] = defaultdict(list)
    for operator in graph.operators:
        for index in operator.inputs:
            takers[index].append(operator)
    reached = {index for operator in graph.operators for index in operator.outputs if _name(graph, operator) in names}
    moves = []
    for operator in graph.operators:
        if operator.name in MOVES and reached & {*operator.inputs}:
            reached |= {*operator.outputs}
            moves.append(operator)
    names_of_moves: set[str] = set()
    for operator in reversed(moves):
        after = {_name(graph, taker) for index in operator.outputs for taker in takers[index]}
        names_of_moves |= {_name(graph, operator)} if after <= names | names_of_moves else set()
    return names_of_moves


def _name(graph: Subgraph, operator: Operator) -> str:
    return graph.tensors[operator.outputs[0]].name


def _operators(each: str, paths: Sequence[str], layers_of: dict[str, set[int]]) -> list[str]:
    """Return the names of the operators that one of `skip` selects by the paths of layers."""
    regex = check_regex(each, "skip")
    numbers = {number for number, path in enumerate(paths) if regex.search(path)}
    if not numbers:
        close = difflib.get_close_matches(each, [*paths, *layers_of], n=_SHOWN, cutoff=0)
        raise ArgumentError(
            "skip",
            "`skip` to match a layer, or to be the name of an operator",
            found=f"{each!r}, which is found in no path of a layer",
            advice=f"The closest names are {', '.join(map(repr, close))}",
        )
    names = [name for name, layers in layers_of.items() if layers & numbers]
    if not names:
        matching = ", ".join(paths[number] for number in sorted(numbers))
        close = difflib.get_close_matches(each, [*layers_of], n=_SHOWN, cutoff=0)
        raise ArgumentError(
            "skip",
            "`skip` to match layers with operators in the file",
            found=f"{each!r}, which matches {matching}: the converter has merged them into other operators",
            advice=f"Name the layer before, or an operator: the closest are {', '.join(map(repr, close))}",
        )
    return names


# Masks of attention: constants that only mean "never" in what a softmax takes.
#
# Such a constant, as -1e9, shares one range with the scores, so that all scores become one integer of 8 bits. Here it
# comes as near to the scores as a softmax allows: below the lowest one by `_NEVER`. It gets a tensor of its own at
# each operator, so that other uses of it keep the old values.

_NEVER = 10.0  # below a score: a probability becomes exp(-10) of another, a hundredth of the step of 8 bits
_AROUND = ("BROADCAST_TO", "EXPAND_DIMS", "RESHAPE", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE")  # move values
_SELECTS = ("SELECT", "SELECT_V2")
Range = tuple[float, float]


def _may_hold_masks(model: schema.ModelT) -> bool:
    """Return whether something may be masked before a softmax."""
    kinds = {operator_name(model, operator) for operator in model.subgraphs[0].operators or ()}
    return "SOFTMAX" in kinds and bool(kinds & {*_SELECTS, "ADD"})


def clamp_masks(model: schema.ModelT, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Bring the masks of attention in a float file near the scores, before 8 bits are made of it.

    A mask is a constant that is selected, or added as it is or times what is at least 0, such as
    `(1 - mask) * -1e9`, and nothing but a softmax reads the result. Others stay as they are.

    Args:
        model: The float file, which is changed.
        ranges: The lowest and the highest value of each tensor on calibration data, by name.

    Returns:
        The new ranges of the tensors between a mask and its softmax, by name; empty if there is no such mask.
    """
    masks = _Masks(NamedTensors(model), ranges)
    for operator in masks.file.graph.operators:
        if masks.file.kind(operator) == "SOFTMAX":
            masks.scores(inputs_of(operator)[0])
    masks.drop_unused()
    return masks.changed


def clamp_calibrated(content: bytes, samples: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """Return a calibrated float file with its masks of attention near the scores.

    Where tensors share memory, its ranges are of both, as of scores and masks: then the samples give the right ones.
    """
    model = unpack_objects(bytes(content))
    known = {
        tensor.name.decode(): (float(tensor.quantization.min[0]), float(tensor.quantization.max[0]))
        for tensor in model.subgraphs[0].tensors
        if tensor.quantization is not None
        and tensor.quantization.min is not None
        and len(tensor.quantization.min) == 1
    }
    changed = clamp_masks(model, known)
    if not changed and _may_hold_masks(model):
        ranges = ranges_of(content, samples)
        if changed := clamp_masks(model, ranges):
            changed = {name: ranges[name] for name in known.keys() & ranges.keys()} | changed
    for tensor in model.subgraphs[0].tensors if changed else ():
        if tensor.name.decode() in changed:
            low, high = (np.array([bound], np.float32) for bound in changed[tensor.name.decode()])
            tensor.quantization = schema.QuantizationParametersT(min=low, max=high)
    return save_objects(model) if changed else content


@dataclass(frozen=True)
class _Scores:
    """The range of the scores in a tensor, without what means "never", and whether something does."""

    low: float
    high: float
    is_masked: bool = False


class _Masks:
    """Finds and changes the masks of a graph.

    Attributes:
        changed: The new ranges, by the names of the tensors.
    """

    def __init__(self, file: NamedTensors, ranges: Mapping[str, Range]) -> None:
        self.file, self._ranges = file, ranges
        self.changed: dict[str, Range] = {}
        self._uses = self._count_uses()
        self._replaced: list[schema.OperatorT] = []

    def _count_uses(self) -> Counter[int]:
        parts = [*map(inputs_of, self.file.graph.operators), indices_of(self.file.graph.outputs)]
        return Counter(index for part in parts for index in part)

    def drop_unused(self) -> None:
        """Leave out the operators that were replaced, where nothing else reads what they make."""
        for operator in reversed(self._replaced):
            if not self._count_uses()[int(operator.outputs[0])]:
                self.file.graph.operators = [each for each in self.file.graph.operators if each is not operator]

    def scores(self, index: int) -> _Scores | None:
        """Return the scores in a tensor that a softmax reads, and change the masks in it; None if not known."""
        maker, scores = self.file.maker.get(index), None
        if maker is not None and self._uses[index] == 1:  # nothing else reads what is masked
            kind = self.file.kind(maker)
            if kind in _AROUND:
                scores = self.scores(inputs_of(maker)[0])
            elif kind in _SELECTS:
                scores = self._selected(maker)
            elif kind == "ADD":
                scores = self._added(maker)
        if scores is not None and scores.is_masked:
            self.changed[self.file.name(index)] = scores.low - _NEVER, scores.high
            return scores
        low, high = self._ranges.get(self.file.name(index), (np.nan, np.nan))
        return _Scores(low, high) if np.isfinite((low, high)).all() else None

    def _beside(
        self, operator: schema.OperatorT, places: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray, _Scores]]:
        """Yield the place and the values of a constant at one of two places, and the scores at the other."""
        inputs = inputs_of(operator)
        for place, other in (places, places[::-1]):
            values = self.file.constant(inputs[place])
            if values is not None and (scores := self.scores(inputs[other])) is not None:
                yield place, values, scores

    def _selected(self, operator: schema.OperatorT) -> _Scores | None:
        """Return the scores that are selected, or else a constant that is lower than all of them."""
        for place, values, scores in self._beside(operator, (1, 2)):
            if values.max() < scores.low - _NEVER:
                self._replace(operator, place, np.full_like(values, scores.low - _NEVER))
                return _Scores(scores.low, scores.high, is_masked=True)
        return None

    def _added(self, operator: schema.OperatorT) -> _Scores | None:
        """Return the sums of scores and what a constant has beside its lowest entries, which mean "never"."""
        for place, values, scores in self._beside(operator, (0, 1)):
            is_never = values <= values.min() / 2
            bias = np.where(is_never, 0, values)
            low, high = scores.low + float(bias.min()), scores.high + float(bias.max())
            least = low - _NEVER - scores.high
            if values.min() / 2 < least:
                self._replace(operator, place, np.where(is_never, np.float32(least), values))
                return _Scores(low, high, is_masked=True)
        return self._added_product(operator)

    def _added_product(self, operator: schema.OperatorT) -> _Scores | None:
        """Return the scores to which a constant times 0 or 1 is added; a product nearer to them is then added."""
        inputs = inputs_of(operator)
        for place, other in ((0, 1), (1, 0)):
            lowest = self._lowest(inputs[place])
            scores = self.scores(inputs[other]) if lowest < 0 else None
            if scores is not None and lowest / 2 < (least := scores.low - _NEVER - scores.high):
                inputs[place] = self._product(inputs[place], factor=least / lowest, least=least)
                operator.inputs = np.array(inputs, np.int32)
                return _Scores(scores.low, scores.high, is_masked=True)
        return None

    def _lowest(self, index: int) -> float:
        """Return the lowest value of a product with a constant that is 0 at most; 0 for all other tensors."""
        maker = self.file.maker.get(index)
        if maker is not None and self.file.kind(maker) in _AROUND:
            return self._lowest(inputs_of(maker)[0])
        is_product = maker is not None and self.file.kind(maker) == "MUL"
        low, high = self._ranges.get(self.file.name(index), (0.0, 0.0))
        return low if abs(high) < 1e-30 and is_product and self._constant_of(maker) is not None else 0.0

    def _constant_of(self, operator: schema.OperatorT) -> int | None:
        constants = (
            place for place, index in enumerate(inputs_of(operator)) if self.file.constant(index) is not None
        )
        return next(constants, None)

    def _product(self, index: int, *, factor: float, least: float) -> int:
        """Return a new tensor, made as one is but for its constant, which is multiplied by a factor."""
        graph, maker, operator = self.file.graph, self.file.maker[index], copy.copy(self.file.maker[index])
        name = self.file.name(index) + f"/clamped_{len(graph.tensors)}"
        if self.file.kind(maker) in _AROUND:
            operator.inputs = np.array(inputs_of(maker), np.int32)
            operator.inputs[0] = self._product(int(operator.inputs[0]), factor=factor, least=least)
        else:
            place = self._constant_of(maker)
            constant = None if place is None else self.file.constant(inputs_of(maker)[place])
            assert place is not None and constant is not None  # as `_lowest` asked
            self._replace(operator, place, constant * np.float32(factor))
        made = add_tensor(graph, self.file.tensors[index], name=name.encode(), buffer=0)
        operator.outputs = np.array([made], np.int32)
        graph.operators.insert(next(i for i, each in enumerate(graph.operators) if each is maker) + 1, operator)
        self.file.maker[made], self.changed[name] = operator, (least, 0.0)
        self._replaced.append(maker)
        return made

    def _replace(self, operator: schema.OperatorT, place: int, values: np.ndarray) -> None:
        inputs = np.array(inputs_of(operator), np.int32)
        name = self.file.tensors[inputs[place]].name + f"/clamped_{len(self.file.tensors)}".encode()
        inputs[place] = add_constant(self.file.model, self.file.graph, name=name, values=values)
        operator.inputs = inputs


# Formats of tfprune as recipes of LiteRT Quantizer: of a float file that was converted without TensorFlow.


def _integers(bits: int, *, symmetric: bool, granularity: str) -> dict[str, Any]:
    return {"num_bits": bits, "symmetric": symmetric, "granularity": granularity, "dtype": "INT"}


def _rule(
    regex: str = ".*", *, operation: str = "*", algorithm: str = "min_max_uniform_quantize", **tensors: Any
) -> dict[str, Any]:
    how = {
        "explicit_dequantize": False,
        "skip_checks": False,
        "min_weight_elements": 0,
        "compute_precision": "INTEGER",
    }
    return {"regex": regex, "operation": operation, "algorithm_key": algorithm, "op_config": {**how, **tensors}}


_HALF = {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "FLOAT"}
_EIGHT_BITS = _integers(8, symmetric=True, granularity="CHANNELWISE")
_OF_8_BITS = _integers(8, symmetric=False, granularity="TENSORWISE")
_OF_16_BITS = _integers(16, symmetric=True, granularity="TENSORWISE")
_INT8 = _rule(activation_tensor_config=_OF_8_BITS, weight_tensor_config=_EIGHT_BITS)
_RULES = {
    "float16": _rule(
        algorithm="float_casting", weight_tensor_config=_HALF, compute_precision="FLOAT", explicit_dequantize=True
    ),
    "dynamic": _rule(weight_tensor_config=_EIGHT_BITS),
    "int8": _INT8,
    "int4": _INT8,  # its weights get fewer bits later
    "int16x8": _rule(activation_tensor_config=_OF_16_BITS, weight_tensor_config=_EIGHT_BITS),
}
_CLAMPED = ("int8", "int4", "int16x8")  # formats in which masks share a range with scores
_IN_FLOAT = "no_quantize"
_BORDERS_IN_FLOAT = [_rule(operation=each, algorithm=_IN_FLOAT) for each in ("INPUT", "OUTPUT")]


def quantized_by_recipe(
    form: Any,
    file: ModelFile,
    *,
    samples: Sequence[Mapping[str, np.ndarray]],
    other: str,
    floats: Collection[str] = (),
) -> bytes:
    """Return a float file in another number format.

    Args:
        form: The format, a `Quantization`; float32 returns the file as it is.
        file: The file.
        samples: Calibration data, as `edge_quantized` takes them.
        other: What to do without the package, for its message.
        floats: The names of the operators that stay in float.

    Raises:
        ValueError: If LiteRT Quantizer is not installed, or as `edge_quantized` raises it.
    """
    if form.scheme is None:
        return file.content
    if not importlib.util.find_spec("litert_quantizer"):
        raise ArgumentError(
            "quantize",
            f"the package litert-quantizer, which makes quantize={form.scheme!r} without TensorFlow",
            "not installed",
            advice=f"Run {install('jax')}. {other}.",
        )
    has_borders = form.io_dtype == "float32" and "activation_tensor_config" in _RULES[form.scheme]["op_config"]
    graph = file.graph.subgraphs[0]
    if floats and all(each.name in MOVES or _name(graph, each) in floats for each in graph.operators):
        raise nothing_left(form.skip)
    kept = [_rule(f"^({'|'.join(map(re.escape, sorted(floats)))});", algorithm=_IN_FLOAT)] if floats else []
    recipe = [_RULES[form.scheme], *kept, *(_BORDERS_IN_FLOAT if has_borders else [])]
    try:
        return edge_quantized(EdgeQuantizer(recipe), file, samples=samples, clamps=form.scheme in _CLAMPED).content
    except _RefusedError as error:
        raise ValueError(f"{error} {other}.") from error
