"""Which layers of a model compute in 8 bits, with which ranges, and which do not."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.quantizing.quantize_aware import plan_of_plain
from tfprune.quantizing.quantized import Quantized, quantized_layers
from tfprune.report import Report, Skipped, skipped_table, table


def quantization_report(model: keras.Model) -> QuantizationReport:
    """Return which layers are quantized, with the ranges of their activations, and which are not, with the reason.

    Args:
        model: A model that `quantize_aware` returned.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If no layer of it is quantized.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> from tfprune import quantize_aware
        >>> report = quantization_report(quantize_aware(model))
        >>> report.rows[0].layer, report.rows[0].weights, report.rows[0].ranges
        ('hidden', ('kernel',), {'input_0': None, 'output': None})
    """
    quantized = quantized_layers(model)
    plan = plan_of_plain(plain_copy(Anatomy.of(model)))
    explained = {entry.layer for entry in plan.skipped}
    in_float = [path for path in plan.ranges if path not in quantized]
    left_out = [
        Skipped(path, "left out by `filters` or `skip`", Skipped.FILTERED)
        for path in in_float
        if path not in explained
    ]
    return QuantizationReport(tuple(_row(*each) for each in quantized.items()), (*plan.skipped, *left_out))


def _row(path: str, layer: Quantized) -> QuantizedRow:
    weights = tuple(kernel.path for kernel in layer.inner_kernels.values())
    ranges = {name: as_numpy(variable) for name, variable in layer.ranges.items()}
    seen = {name: (float(low), float(high)) if low < high else None for name, (low, high) in ranges.items()}
    levels = layer.levels if weights else None
    return QuantizedRow(path, type(layer.layer).__name__, weights, levels, seen)


@dataclass(frozen=True)
class QuantizedRow(Report):
    """How a layer is quantized.

    Attributes:
        layer: The path of the layer.
        kind: The name of its class.
        weights: The names of its weights that are rounded.
        levels: How many values the entries of a weight share; None if each has its own.
        ranges: Low and high by the name of the tensor; None for one that has not seen data.
    """

    layer: str
    kind: str
    weights: tuple[str, ...]
    levels: int | None
    ranges: dict[str, tuple[float, float] | None]


@dataclass(frozen=True)
class QuantizationReport(Report):
    """The layers of a model that compute in 8 bits, and those that do not.

    Attributes:
        rows: A row for each layer that rounds, in the order of the model.
        skipped: The layers and operations that stay in float, with the reason. Layers that only move numbers, and
            normalization that is folded into a kernel, are in neither.

    Example:
        >>> from tfprune import quantize_aware
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> print(quantization_report(quantize_aware(model)))
        layer   kind   weights  levels  ranges
        ------  -----  -------  ------  ---------------------------------------
        hidden  Dense  kernel   -       input_0 no data yet, output no data yet
    """

    rows: tuple[QuantizedRow, ...]
    skipped: tuple[Skipped, ...]

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            ranges = [f"{name} {_text(bounds)}" for name, bounds in row.ranges.items()]
            lines.append(
                [row.layer, row.kind, ", ".join(row.weights) or "-", row.levels or "-", ", ".join(ranges) or "-"]
            )
        return table(["layer", "kind", "weights", "levels", "ranges"], lines, left=5) + skipped_table(self.skipped)


def _text(bounds: tuple[float, float] | None) -> str:
    return "no data yet" if bounds is None else f"{bounds[0]:.3g} to {bounds[1]:.3g}"
