"""Narrow the residual stream of a language model: remove the same dimensions from all layers that use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import check_count
from tfprune.compact.smaller import NoClass, Resized, build_with_arguments, check_class, dicts_in
from tfprune.models.anatomy import as_numpy, paired, rename, sublayers, train_alike, walk, weight_bytes
from tfprune.models.graph import Graph, functional, hooked_calls, trace_to_run
from tfprune.models.tracing import (
    FAILURES,
    ROUNDED,
    Tolerance,
    as_arrays,
    describe,
    first_run,
    numbers_for,
    same_outputs,
)
from tfprune.models.training import Batches, check_token_ids, token_masks, without_padding
from tfprune.models.twin import class_config
from tfprune.report import Report, table

# Report of `narrow`: the width, the size, and how much of the residual stream remains.


@dataclass(frozen=True)
class NarrowReport(Report):
    """A model with a narrower residual stream.

    Attributes:
        hidden_dim: The width of the stream, before and after.
        parameters: The parameters of the model, before and after.
        bytes: The bytes of its weights, before and after.
        energy: The part of the squares of the stream that is in the remaining dimensions, on average over the norms
            and the samples.
        kept: The remaining hidden dimensions, as the whole model numbers them.
        importance: How large each dimension of the whole model is in the outputs of all norms.

    Example:
        >>> print(NarrowReport((16, 12), (5000, 3600), (20000, 14400), 0.83))
        model       before   after
        ----------  ------  ------
        hidden_dim      16      12
        parameters   5,000   3,600
        bytes       20,000  14,400
        <BLANKLINE>
        The remaining dimensions have 83 % of the squares of the residual stream.
    """

    JSON_NAMES = ("hidden_dim", "parameters", "bytes", "energy")

    hidden_dim: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    energy: float
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False, compare=False)
    importance: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def __str__(self) -> str:
        rows = [
            [name, *(f"{value:,}" for value in pair)]
            for name, pair in (
                ("hidden_dim", self.hidden_dim),
                ("parameters", self.parameters),
                ("bytes", self.bytes),
            )
        ]
        share = f"The remaining dimensions have {self.energy:.0%} of the squares of the residual stream."
        return f"{table(['model', 'before', 'after'], rows)}\n\n{share.replace('%', ' %')}"


# The residual stream of a model of KerasHub: which axes of which weights have its width, and the narrower model.

_ARGUMENT = "hidden_dim"  # by which classes of KerasHub call the width of the stream
_HEAD_SIZES = {"head_dim": "num_query_heads", "key_value_dim": "num_heads"}  # and the heads that it is derived from


@dataclass(frozen=True, eq=False)
class _Stream:
    """The residual stream of a model.

    Attributes:
        width: Its hidden dimensions.
        axes: For each variable of the model, the axes along which it has these.
        tables: The indices of the variables that embed tokens.
        tied: Whether such a table makes the scores of the tokens, too.
    """

    width: int
    axes: tuple[tuple[int, ...], ...]
    tables: tuple[int, ...]
    tied: bool

    def kept(self, values: Sequence[np.ndarray], dimensions: np.ndarray) -> list[np.ndarray]:
        """Return the entries of all variables for some dimensions."""
        entries = []
        for array, axes in zip(values, self.axes, strict=True):
            for axis in axes:
                array = array.take(dimensions, axis=axis)
            entries.append(array)
        return entries


def width_of(model: keras.Model) -> int:
    """Return the width of a model's residual stream.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If its class does not count one width, or it has masks or is quantized.
    """
    is_class = check_class(model).is_functional_subclass
    widths = [part[_ARGUMENT] for part in _dicts_with_width(class_config(model))] if is_class else []
    if len(widths) != 1:
        counted = f"several: {widths}" if widths else "none"
        raise ValueError(
            f"Expected a backbone or task of KerasHub with one {_ARGUMENT}, such as Gemma3CausalLM or Qwen3Backbone. "
            f"Received: {model.name!r} of class {type(model).__name__} with {counted}. Remove hidden units, heads or "
            f"blocks: tfprune.plan_transformer."
        )
    return widths[0]


def _build_narrower(model: keras.Model, width: int) -> tuple[keras.Model, _Stream]:
    """Build a model of the same class with a narrower stream; weights are not copied.

    Args:
        model: A model that `width_of` accepts.
        width: The hidden dimensions of the new model.

    Raises:
        ValueError: If its class makes other weights smaller, too, or none.
    """
    config = deepcopy(class_config(model))
    arguments = _dicts_with_width(config)[0]
    whole = arguments[_ARGUMENT]
    for name, heads in _HEAD_SIZES.items():
        if name in arguments and arguments[name] is None and arguments.get(heads):
            arguments[name] = whole // arguments[heads]
    arguments[_ARGUMENT] = width
    try:
        if any(isinstance(layer, Resized) for _, layer in walk(model)):
            raise NoClass("some of its layers have other sizes than its arguments say")
        narrower = build_with_arguments(model, config)
        axes = tuple(
            _axes_of(variable.path, tuple(variable.shape), tuple(other.shape), (whole, width))
            for variable, other in zip(model.variables, narrower.variables, strict=True)
        )
    except (NoClass, ValueError) as error:
        raise ValueError(
            f"Expected a class in which {_ARGUMENT} sets the width of the residual stream alone, such as those of "
            f"Gemma 3, Qwen3 and Mistral. Received: {model.name!r} of class {type(model).__name__}: {error}. Narrow "
            f"a model before you remove channels from it; in other classes, remove hidden units, heads or blocks: "
            f"tfprune.plan_transformer."
        ) from None
    tables = [layer for _, layer in walk(model) if isinstance(layer, keras.layers.Embedding)]
    inside = {id(layer.embeddings) for layer in tables}
    return narrower, _Stream(
        whole,
        axes,
        tuple(index for index, variable in enumerate(model.variables) if id(variable) in inside and axes[index]),
        any(getattr(layer, "tie_weights", False) for layer in tables),
    )


def _dicts_with_width(config: Any) -> list[dict[str, Any]]:
    return [part for part in dicts_in(config) if type(part.get(_ARGUMENT)) is int]


def _axes_of(
    path: str, shape: tuple[int, ...], narrower: tuple[int, ...], widths: tuple[int, int]
) -> tuple[int, ...]:
    """Return the axes along which a weight follows the width of the stream.

    Raises:
        ValueError: If another axis changes with it, as where the size of a head is the width by the heads.
    """
    differing = [axis for axis, sizes in enumerate(zip(shape, narrower, strict=True)) if sizes[0] != sizes[1]]
    if any((shape[axis], narrower[axis]) != widths for axis in differing):
        raise ValueError(f"its weight {path} of shape {shape} would have the shape {narrower}")
    return tuple(differing)


# The norms on a residual stream: how they scale, and what data make of each hidden dimension in them.

_PROBES = 3  # vectors on which a norm is read
_ROUNDING = 0.05  # of a norm in 16-bit floats


@dataclass(frozen=True, eq=False)
class _StreamNorm:
    """A norm that divides by the root mean square of a stream, and multiplies.

    Attributes:
        layer: The layer.
        index: Its scale among the variables of the model.
        offset: The number that its code adds to the scale: 1 in models of Gemma's kind, else 0.
    """

    layer: keras.layers.Layer
    index: int
    offset: int

    def scaled(self, scale: np.ndarray, factor: float) -> np.ndarray:
        """Return the scale with which the outputs are `factor` times as large."""
        return (scale + self.offset) * factor - self.offset


@dataclass(eq=False)
class _NormStatistics:
    """Statistics of the calls of a norm, dimension by dimension.

    Attributes:
        vectors: How many vectors were seen.
        outputs: The sum of the sizes of its outputs.
        squares: The sum of the squares of its inputs, each as a fraction of the mean square of its vector.
    """

    vectors: int = 0
    outputs: Any = 0.0
    squares: Any = 0.0

    def add(self, inputs: Any, outputs: Any, masks: Sequence[np.ndarray]) -> None:
        inputs, outputs = (_vectors(tensor, masks) for tensor in (inputs, outputs))
        square = np.square(inputs)
        self.vectors += len(square)
        self.outputs = self.outputs + np.abs(outputs).sum(axis=0)
        self.squares = self.squares + (square / np.maximum(square.mean(axis=1, keepdims=True), 1e-30)).sum(axis=0)


@dataclass(eq=False)
class _ObservedNorms:
    """The statistics of norms, in the order in which a model calls them first.

    Set `masks` before each batch to where its texts have tokens; padding is left out.
    """

    by_layer: dict[int, _NormStatistics] = field(default_factory=dict)
    masks: Sequence[np.ndarray] = ()

    def importance(self) -> np.ndarray:
        """Return how large each dimension is in the outputs of all norms, on average over vectors."""
        return np.sum([each.outputs / each.vectors for each in self.by_layer.values()], axis=0)

    def energy(self, norm: _StreamNorm, dimensions: np.ndarray) -> float:
        """Return the part of the squares of a norm's inputs that is in some dimensions."""
        squares = self.by_layer[id(norm.layer)].squares
        return float(squares[dimensions].sum() / squares.sum())


@contextmanager
def _observed(norms: Sequence[_StreamNorm]) -> Iterator[_ObservedNorms]:
    """Observe all calls of norms within the context."""
    statistics = _ObservedNorms()

    def add(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        statistics.by_layer.setdefault(id(layer), _NormStatistics()).add(inputs, outputs, statistics.masks)

    with hooked_calls([norm.layer for norm in norms], add):
        yield statistics


def _stream_norms(model: keras.Model, stream: _Stream) -> list[_StreamNorm]:
    """Return the norms on the stream of a model.

    Raises:
        ValueError: If it has none, or others than those that divide by the root mean square.
    """
    numbers = {id(variable): index for index, variable in enumerate(model.variables)}
    norms = []
    for path, layer in walk(model):
        own = [numbers[id(variable)] for variable in layer.variables] if not sublayers(layer) else []
        if not own or any(len(model.variables[index].shape) != 1 or not stream.axes[index] for index in own):
            continue
        offset = _offset(layer, stream.width) if len(own) == 1 else None
        if offset is None:
            raise _refuse_norms(model, f"{path} of class {type(layer).__name__}")
        norms.append(_StreamNorm(layer, own[0], offset))
    if not norms:
        raise _refuse_norms(model, "none")
    return norms


def _refuse_norms(model: keras.Model, received: str) -> ValueError:
    return ValueError(
        f"Expected norms that divide by the root mean square, as those of Gemma, Qwen3 and Mistral do. Received: "
        f"{received} in {model.name!r}. Remove hidden units, heads or blocks of this model: tfprune.plan_transformer."
    )


def _offset(layer: keras.layers.Layer, width: int) -> int | None:
    """Return what a norm adds to its scale; None for a layer that computes something else."""
    inputs = np.random.default_rng(0).normal(size=(_PROBES, width)) + 1.0  # so that a mean that is subtracted shows
    outputs = _vectors(layer(keras.ops.convert_to_tensor(inputs, dtype=layer.compute_dtype)))
    factors = outputs / (inputs / np.sqrt(np.square(inputs).mean(axis=1, keepdims=True)))
    scale = as_numpy(layer.variables[0]).astype(np.float32)
    for offset in (0, 1):
        if np.allclose(factors, scale + offset, rtol=_ROUNDING, atol=_ROUNDING / 5):
            return offset
    return None


def _vectors(tensor: Any, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
    array = without_padding(np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))), masks)
    return array.reshape(-1, array.shape[-1])


# Whether a narrower class computes the sums of the whole one, tried on random weights that are 0 where it is cut.

_COARSE = Tolerance(of_largest=0.05)  # of 16-bit floats


@dataclass(frozen=True, eq=False)
class _Cut:
    """The dimensions of a residual stream that remain.

    Attributes:
        stream: The whole stream.
        norms: The norms on it, in the order in which they are called.
        dimensions: The hidden dimensions that remain.
        energies: The part of the squares of each norm's inputs that is in them, on average.
    """

    stream: _Stream
    norms: tuple[_StreamNorm, ...]
    dimensions: np.ndarray
    energies: tuple[float, ...]

    def values(self, values: Sequence[np.ndarray], *, factor: float = 1.0) -> list[np.ndarray]:
        """Return the values of the variables of the narrower model.

        Args:
            values: Those of the whole model.
            factor: How many times as large embeddings have to be, as the code of the class scales them by the width.
        """
        entries = self.stream.kept(values, self.dimensions)
        ratio = self.stream.width / len(self.dimensions)
        for norm, energy in zip(self.norms, self.energies, strict=True):  # the mean square is of fewer dimensions
            entries[norm.index] = norm.scaled(entries[norm.index], np.sqrt(ratio * energy))
        for index in self.stream.tables:
            entries[index] = entries[index] * factor
        if self.stream.tied:  # the same table makes the scores
            last = self.norms[-1]
            entries[last.index] = last.scaled(entries[last.index], 1 / factor)
        return entries


def _embedding_factor(
    model: keras.Model,
    narrower: keras.Model,
    *,
    stream: _Stream,
    norms: Sequence[_StreamNorm],
    dimensions: np.ndarray,
) -> float:
    """Return how many times as large the embeddings of the narrower model have to be.

    Args:
        model: The whole model.
        narrower: One of its class with a narrower stream, which gets random weights.
        stream: The stream of the whole model.
        norms: The norms on it, in the order in which they are called.
        dimensions: The hidden dimensions that remain.

    Raises:
        ValueError: If the two compute something else, with weights that are 0 in all other dimensions.
    """
    whole = build_with_arguments(model, deepcopy(class_config(model)))
    values = _random_values(whole, stream, norms=norms, dimensions=dimensions)
    _assign_all(whole, values)
    run = first_run(whole)
    if run is None:
        raise _refuse_sums(model, "does not run on a few tokens")
    inputs = numbers_for(whole.input, length=run[0])
    expected = _run(whole, inputs, at=norms[0].index)
    cut = _Cut(stream, tuple(norms), dimensions, (1.0,) * len(norms))
    by_width = float(np.sqrt(stream.width / len(dimensions)))
    try:
        _assign_all(narrower, cut.values(values))
        ratio = np.median(expected[0][..., dimensions] / _run(narrower, inputs, at=norms[0].index)[0])
        factor = min(1.0, by_width, key=lambda candidate: abs(float(ratio) / candidate - 1))
        _assign_all(narrower, cut.values(values, factor=factor))
        outputs = as_arrays(narrower(inputs, training=False))
    except FAILURES as error:  # code of the class, which may count on another width
        raise _refuse_sums(model, f"does not run with another width: {describe(error)}") from None
    hidden_by = factor if stream.tied else 1.0
    wanted = [
        array[..., dimensions] / hidden_by if array.shape != other.shape else array
        for array, other in zip(expected[1], outputs, strict=True)
    ]
    is_precise = {whole.compute_dtype, *(weight.dtype for weight in whole.weights)} <= {"float32", "float64"}
    if not same_outputs(outputs, wanted, tolerance=ROUNDED if is_precise else _COARSE):
        raise _refuse_sums(model, "uses the width in some other way")
    return factor


def _refuse_sums(model: keras.Model, reason: str) -> ValueError:
    return ValueError(
        f"Expected a class that computes the same with a narrower stream where all other dimensions are 0. Received: "
        f"{model.name!r} of class {type(model).__name__}, whose code {reason}. Remove hidden units, heads or blocks: "
        f"tfprune.plan_transformer."
    )


def _assign_all(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Set all variables of a model."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def _run(model: keras.Model, inputs: Any, *, at: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the first input of the layer that has a variable, and the outputs of the model."""
    variable, seen = model.variables[at], []
    holder = [layer for _, layer in walk(model) if any(each is variable for each in layer.variables)][-1]
    with hooked_calls([holder], lambda layer, tensor, _: seen.append(as_arrays(tensor)[0])):
        outputs = as_arrays(model(inputs, training=False))
    return seen[0], outputs


def _random_values(
    model: keras.Model, stream: _Stream, *, norms: Sequence[_StreamNorm], dimensions: np.ndarray
) -> list[np.ndarray]:
    """Return random values of all variables, 0 in the other dimensions of the stream; attention is not even."""
    generator = np.random.default_rng(0)
    offsets = {norm.index: norm.offset for norm in norms}
    others = np.setdiff1d(np.arange(stream.width), dimensions)
    values = []
    for index, variable in enumerate(model.variables):
        array = as_numpy(variable)
        if keras.backend.is_float_dtype(variable.dtype):
            size = 1.0 if index in stream.tables else 0.1 if array.ndim < 2 else stream.width**-0.5
            array = size * generator.normal(size=array.shape) + (1 - offsets[index] if index in offsets else 0)
        for axis in stream.axes[index]:
            array[(slice(None),) * axis + (others,)] = 0
        values.append(array)
    return values


# Narrow the residual stream of a language model.


def narrow(
    model: keras.Model, samples: Any, *, hidden_dim: int, batch_size: int = 8, verbose: int | str = "auto"
) -> tuple[keras.Model, NarrowReport]:
    """Remove hidden dimensions from a language model: the least important ones, the same in all of its layers.

    Use it to make all layers of a model smaller and faster, and train the model afterwards: until then, its loss is
    much higher. Embeddings, all kernels that read or write the residual stream, and the scores become smaller; units
    and heads keep their number and size. A dimension is important if it is large in the outputs of the norms on the
    stream. Each norm is scaled so that its outputs stay as large as they were on the samples.

    Args:
        model: A backbone or task of KerasHub whose norms divide by the root mean square and whose heads have a size
            of their own: Gemma, Gemma 3, Gemma 4, GPT-OSS, Mistral, Qwen3, T5 and others, without masks. It is left
            unchanged.
        samples: Token ids and the other inputs of the model, in the forms that `reconstruct` accepts.
        hidden_dim: The number of hidden dimensions that remain, from 1 to one less than the model has.
        batch_size: Samples in a batch, at least 1. Default 8.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A model of the same class, uncompiled; and a report with the remaining dimensions. If the table of tokens is
        tied and the class multiplies embeddings by the root of the width, as Gemma does, a backbone's outputs are
        smaller by a constant and its table is larger by it, so that the scores of tokens agree.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the class of the model has no `hidden_dim`, or it sets the size of heads or other sizes, too.
        ValueError: If the norms subtract the mean, or the model is wrapped or quantized.
        ValueError: If `samples` are empty, do not fit the model, or have token ids beyond its vocabulary.
        ValueError: If `hidden_dim` is out of range.

    Example:
        >>> from keras_hub.models import Qwen3Backbone
        >>> sizes = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
        >>> model = Qwen3Backbone(vocabulary_size=10, hidden_dim=16, intermediate_dim=24, **sizes)
        >>> texts = {"token_ids": np.ones((2, 6), int), "padding_mask": np.ones((2, 6), int)}
        >>> narrower, report = narrow(model, texts, hidden_dim=12)
        >>> narrower.hidden_dim, report.parameters, len(report.kept)
        (12, (1752, 1316), 12)

    Reference:
        Muralidharan et al., 2024, "Compact language models via pruning and knowledge distillation" (Minitron),
        arXiv:2407.14679, section 2.2 (embedding channels).
    """
    width = width_of(model)
    hidden_dim = check_count(hidden_dim, "hidden_dim", least=1, most=width - 1)
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    narrower, stream = _build_narrower(model, hidden_dim)
    norms = _stream_norms(model, stream)
    batches = Batches(samples, model, batch_size=batch_size, argument="samples")
    graph = trace_to_run(functional(model))
    check_token_ids(graph, batches)
    statistics = _observe(model, norms, batches, graph=graph, verbose=verbose)
    norms = [norm for layer in statistics.by_layer for norm in norms if id(norm.layer) == layer]
    importance = statistics.importance()
    dimensions = np.sort(np.argsort(-importance, kind="stable")[:hidden_dim])
    factor = _embedding_factor(model, narrower, stream=stream, norms=norms, dimensions=dimensions)
    cut = _Cut(stream, tuple(norms), dimensions, tuple(statistics.energy(norm, dimensions) for norm in norms))
    rename(narrower, [layer.name for _, layer in walk(model)])
    train_alike(paired(model, narrower))
    _assign_all(narrower, cut.values([as_numpy(variable) for variable in model.variables], factor=factor))
    return narrower, NarrowReport(
        (width, hidden_dim),
        (model.count_params(), narrower.count_params()),
        (weight_bytes(model), weight_bytes(narrower)),
        float(np.mean(cut.energies)),
        dimensions,
        importance,
    )


def _observe(
    model: keras.Model, norms: list[_StreamNorm], batches: Batches, *, graph: Graph, verbose: int | str
) -> _ObservedNorms:
    with _observed(norms) as statistics, Progress(sum(1 for _ in batches), verbose=verbose, unit="batch") as progress:
        for inputs, _ in batches:
            statistics.masks = list(token_masks(graph, inputs).values())
            model(keras.tree.pack_sequence_as(model.input, inputs), training=False)
            progress.add()
    return statistics
