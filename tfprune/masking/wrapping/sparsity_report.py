"""Count the zeros of a model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import keras

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.kernels import kernels, matrices
from tfprune.keras_models.models.layers import sublayers
from tfprune.keras_models.models.register_prunable import is_registered
from tfprune.masking.wrapping.masked_weights import count_kept
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.report import Report, Skipped, skipped_table, table


def sparsity_report(model: keras.layers.Layer) -> SparsityReport:
    """Count the zeros of a model, per weight and overall.

    It takes a wrapped model, which need not be trained, a stripped one or any other.

    Args:
        model: A Keras model or layer. If it holds `Pruned` layers, their weights are counted, with the masks applied;
            otherwise every kernel that can be pruned.

    Returns:
        A row per counted weight, the layers that were skipped, and the totals.

    Raises:
        TypeError: If `model` is not a Keras model or layer.

    Example:
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, name="out")])
        >>> sparsity_report(model).size
        100
    """
    anatomy = Anatomy.of(model, accepts=keras.layers.Layer)
    wrapped = [(path, layer) for path, layer in anatomy.every if isinstance(layer, Pruned)]
    masked = {
        id(kernel.variable): _row(path or layer.name, name, kernel.variable, layer.masks[name])
        for path, layer in wrapped
        for name, kernel in layer.kernels.items()
    }
    offered = kernels(model)
    inside = {
        id(kernel.variable): (path or layer.name, kernel.path)
        for path, layer in wrapped
        for kernel in kernels(layer.layer)
    }
    every = {
        id(kernel.variable): _row(*inside.get(id(kernel.variable), _split(kernel.path, model)), kernel.variable)
        for kernel in offered
        if id(kernel.variable) not in masked
    }
    rows = tuple((masked or every).values())
    every |= masked
    return SparsityReport(
        rows=rows,
        skipped=tuple(_skipped(anatomy, masked=masked.keys() | _latents(wrapped))),
        total_nnz=sum(row.nnz for row in every.values()),
        total_size=sum(row.size for row in every.values()),
        has_masks=bool(masked),
    )


def _split(path: str, root: keras.layers.Layer) -> tuple[str, str]:
    layer, _, weight = path.rpartition("/")
    return layer or root.name, weight


def _row(layer: str, weight: str, variable: keras.Variable, mask: keras.Variable | None = None) -> WeightRow:
    shape = tuple(variable.shape)
    return WeightRow(layer, weight, shape, math.prod(shape), count_kept(variable, mask))


def _latents(wrapped: list[tuple[str, Pruned]]) -> set[int]:
    """Return the ids of what wrappers keep beside the weights of their layers."""
    pruning = [layer for _, layer in wrapped if layer.prunes]
    return {id(weight) for layer in pruning for weight in layer.weights} - {
        id(weight) for layer in pruning for weight in layer.layer.weights
    }


def _skipped(anatomy: Anatomy, *, masked: Collection[int]) -> list[Skipped]:
    """List the layers that hold weights which are not pruned, with the reason."""
    rows, model = [], anatomy.model
    for path, layer in anatomy.leaves:
        if not isinstance(layer, Pruned) and not layer.built and is_registered(layer):
            reason = "not built: the model has not called it yet"
            rows.append(Skipped(path or layer.name, reason, Skipped.UNBUILT))
        elif layer.weights:
            rows += [Skipped(path or layer.name, *reasons) for reasons in _reasons(layer, masked)]
    in_layers = {id(variable) for _, layer in anatomy.leaves for variable in layer.variables}
    of_models: dict[str, dict[str, keras.Variable]] = defaultdict(dict)
    for path, weight in matrices(model):
        if id(weight) not in in_layers:
            owner, _, name = path.rpartition("/")
            of_models[owner or model.name][name] = weight
    for owner, weights in of_models.items():
        reason = f"{_sizes(weights)}: held by the model itself; move them into a layer"
        rows.append(Skipped(owner, reason, Skipped.NO_RULE))
    return rows


def _reasons(layer: keras.layers.Layer, masked: Collection[int]) -> Iterator[tuple[str, str]]:
    """Yield why weights of a layer are left as they are, in words and as a kind.

    Args:
        layer: A layer, or a wrapper.
        masked: The ids of all weights under masks, and of what is kept beside them; empty in a plain model, whose
            kernels are all counted.
    """
    if isinstance(layer, Pruned):
        frozen = [name for name in layer.kernels if name not in layer.trained()]
        if frozen:
            yield f"frozen (trainable=False), so the masks never change: {', '.join(frozen)}", Skipped.FROZEN
        layer = layer.layer
    offered = {id(kernel.variable): kernel.path for kernel in kernels(layer)}
    left = [path for variable, path in offered.items() if variable not in masked]
    if masked and left:
        yield f"{', '.join(left)} left out by `filters` or by the pattern", Skipped.FILTERED
    others = {
        path: weight for path, weight in matrices(layer) if id(weight) not in offered and id(weight) not in masked
    }
    factors = {path: weight for path, weight in others.items() if weight.name.startswith("lora_")}
    if factors:
        yield f"{_sizes(factors)}: factors of LoRA, which are added to the kernel and fill its zeros", Skipped.NO_RULE
    integers = {path: weight for path, weight in others.items() if not keras.backend.is_float_dtype(weight.dtype)}
    if integers:
        yield f"{_sizes(integers)}: quantized, which leaves no place for masks; prune first", Skipped.NO_RULE
    rest = {path: weight for path, weight in others.items() if path not in {**factors, **integers}}
    name = type(layer).__name__
    if rest and is_registered(layer):
        names = f"leaves out {_sizes(rest)}" if offered else "names no weight that it has"
        yield f"the rule for {name} {names}", Skipped.NO_RULE
    elif rest:
        which = f", {_sizes(rest)}" if sublayers(layer) else ""
        yield f"no rule for {name}{which}: tfprune.register_prunable names the weights to prune", Skipped.NO_RULE
    elif not others and not offered:
        yield f"{name} has only biases, scales or statistics", Skipped.NO_KERNEL


def _sizes(weights: dict[str, keras.Variable]) -> str:
    count = sum(math.prod(weight.shape) for weight in weights.values())
    return f"{', '.join(weights)} of {count:,} parameters"


@dataclass(frozen=True)
class WeightRow(Report):
    """The number of zeros in a weight that can be pruned.

    Attributes:
        layer: The path of the layer in the model, names joined by slashes (`block_1/conv`).
        weight: The name of the weight in its layer (`kernel`).
        shape: The shape of the weight, in Keras' order.
        size: The number of entries.
        nnz: The number of non-zero entries, with the mask applied.
    """

    JSON_NAMES = ("layer", "weight", "shape", "size", "nnz", "sparsity")

    layer: str
    weight: str
    shape: tuple[int, ...]
    size: int
    nnz: int

    @property
    def path(self) -> str:
        """The path of the weight, which `filters` and the keys of `allocation` are matched with."""
        return f"{self.layer}/{self.weight}"

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, in [0, 1]."""
        return 1 - self.nnz / self.size


@dataclass(frozen=True)
class SparsityReport(Report):
    """The zeros per weight and overall. Biases and the weights of normalization are never counted.

    Attributes:
        rows: One row per counted weight: the wrapped ones, or in a plain model every registered kernel.
        skipped: The layers that have weights which are not pruned, each with the reason. It names every weight with
            rows and columns that is not pruned, depthwise kernels and position embeddings too; biases never.
        total_nnz: The number of non-zero entries in all kernels of the model, the skipped ones included.
        total_size: The number of entries in all kernels of the model, the skipped ones included.
        has_masks: Whether the model is wrapped; the default is True.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> report = sparsity_report(model)
        >>> report.rows[0].layer, report.sparsity
        ('hidden', 0.0)
    """

    JSON_NAMES = ("sparsity", "nnz", "size", "total_sparsity", "total_nnz", "total_size", "rows", "skipped")

    rows: tuple[WeightRow, ...]
    skipped: tuple[Skipped, ...]
    total_nnz: int
    total_size: int
    has_masks: bool = True

    @property
    def nnz(self) -> int:
        """The number of non-zero entries in the counted weights."""
        return sum(row.nnz for row in self.rows)

    @property
    def size(self) -> int:
        """The number of entries in the counted weights."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self) -> float:
        """The fraction of zeros in the counted weights, in [0, 1]; 0 if there are none."""
        return 1 - self.nnz / self.size if self.size else 0.0

    @property
    def total_sparsity(self) -> float:
        """The fraction of zeros in all kernels of the model, in [0, 1]; 0 if there are none."""
        return 1 - self.total_nnz / self.total_size if self.total_size else 0.0

    def __str__(self) -> str:
        lines = [
            [row.path, "x".join(map(str, row.shape)), f"{row.size:,}", f"{row.nnz:,}", f"{row.sparsity:.1%}"]
            for row in self.rows
        ]
        if self.total_size != self.size:
            lines.append(["pruned weights", "", f"{self.size:,}", f"{self.nnz:,}", f"{self.sparsity:.1%}"])
        overall = f"{self.total_sparsity:.1%}"
        lines.append(["all kernels", "", f"{self.total_size:,}", f"{self.total_nnz:,}", overall])
        counts = table(["weight", "shape", "entries", "non-zero", "sparsity"], lines, left=2)
        is_plain = not self.has_masks and 0 < self.nnz == self.size
        advice = "\n\nThe model is not wrapped: tfprune.wrap returns the model to prune." if is_plain else ""
        return counts + skipped_table(self.skipped) + advice
