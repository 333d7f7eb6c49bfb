"""Quantization-aware training: a model that rounds as its 8-bit file will, its ranges, and equalized channels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.base.spec import ArgumentError, check_count, check_regex
from tfprune.masking.pruned import place_centroids
from tfprune.masking.strip import copy_with, plain_copy
from tfprune.models.anatomy import (
    Anatomy,
    Filters,
    Kind,
    as_numpy,
    check_model,
    join_path,
    kernels,
    kind_of,
    quantized_already,
    selector,
    walk,
)
from tfprune.models.graph import Call, Graph, check_graph, flatten, is_plain, trace
from tfprune.models.tracing import FAILURES, describe, open_call
from tfprune.patterns import Unstructured
from tfprune.quantizing import quantized
from tfprune.quantizing.quantized import (
    FIXED,
    FUSED,
    KERNELS,
    LOGITS,
    SEPARATE,
    Quantized,
    RoundingRule,
    activation_of,
    opens,
    quantized_layers,
    rule_of,
)
from tfprune.report import Report, Skipped, skipped_table, table

# Why a layer stays in float, and what to do about it.

_INSTEAD: dict[type, str] = {
    layers.SeparableConv1D: "write it as DepthwiseConv1D and Conv1D(filters, 1)",
    layers.Bidirectional: "call the two layers one by one, go_backwards=True the second, and concatenate them",
}


def _refusal(call: Call) -> str | None:
    """Return why a layer or operation cannot be computed in 8 bits, None if it can."""
    layer = call.layer
    rule = rule_of(layer)
    if rule is None:
        classes = [cls for cls in _INSTEAD if type(layer) is cls]
        advice = f": {_INSTEAD[classes[0]]}" if classes else ""
        return f"no rule for {type(layer).__name__}{advice}"
    if isinstance(layer, layers.Normalization) and layer.invert:
        return "it takes a normalization back (invert=True)"
    if isinstance(layer, layers.BatchNormalization) and layer.axis not in (-1, len(layer.input.shape) - 1):
        return "it normalizes another axis than the last one"
    if isinstance(layer, (layers.LSTM, layers.GRU)):
        return _recurrent(layer)
    activation = activation_of(layer)
    if activation is None:
        offered = ", ".join((*FUSED, *SEPARATE))
        return f"its activation is none of {offered}; use one of them, or put it into a layer of its own"
    if activation == "softmax" and not _is_along_last(layer, len(call.inputs[0].shape)):
        return "its softmax is along another axis than the last one"
    if type(layer).__name__ == "TrueDivide" and len(call.inputs) > 1:
        return "the file has no operator of integers that divides by numbers that change"
    return None


def _is_along_last(layer: Any, rank: int) -> bool:
    axis = getattr(layer, "axis", -1)
    return (axis if isinstance(axis, int) else axis[0]) in (-1, rank - 1)


def _recurrent(layer: Any) -> str | None:
    cell = layer.cell
    if cell.activation is not keras.activations.tanh or cell.recurrent_activation is not keras.activations.sigmoid:
        return "only activation='tanh' with recurrent_activation='sigmoid' is known in recurrent layers"
    if cell.recurrent_dropout:
        return "recurrent_dropout is not known; use dropout=, or a Dropout layer"
    if layer.stateful or layer.return_state:
        return "it keeps or returns its state; the file has none between two calls"
    if isinstance(layer, layers.GRU) and not cell.reset_after:
        return "only reset_after=True is known"
    shape = layer.input.shape if layer.built else ()
    return (
        "its number of steps is open; fix it in keras.Input(shape), so that it can be unrolled"
        if None in shape[1:]
        else None
    )


# Which layers of a model round where, so that each operator of the file is one that computes in 8 bits.

_ROUNDING = (quantized.MIXES, quantized.LOOKS_UP, quantized.CONSTANT, quantized.OPENS)  # round without ranges, too
_LEFT_OUT = "left out by `filters` or `skip`"


@dataclass(frozen=True)
class _QuantizationPlan:
    """Which layers are quantized, and which are not.

    Attributes:
        ranges: By the path of each layer that is quantized, the names of the tensors that it rounds to a range of
            their own: `input_0` and so on for its inputs, `activation` before its activation, `output`, and those
            inside that its rule names; of a layer that is opened, those of the layers and operations inside, with
            their path in front.
        in_float: By the path of a layer that is opened, the names of the layers inside that stay in float.
        skipped: The layers and operations that stay in float, with the reason.
    """

    ranges: Mapping[str, tuple[str, ...]]
    in_float: Mapping[str, tuple[str, ...]]
    skipped: tuple[Skipped, ...]


def _plan_quantization(
    graph: Graph, paths: Mapping[int, str], *, is_left: Callable[[str], bool]
) -> _QuantizationPlan:
    """Follow the tensors of a flat graph, and give a range to each that an operator of the file returns.

    Args:
        graph: The calls of a model without wrappers and nested models.
        paths: The path of each layer, by its id.
        is_left: Tells by the path of a layer whether it is to stay in float.
    """
    planner = _Planner(graph, paths, is_left)
    for call in graph.calls:
        planner.visit(call)
    return planner.plan()


class _Planner:
    """Follows a graph of calls, those of a model or, with `is_inside`, those of a layer that is opened."""

    def __init__(
        self, graph: Graph, paths: Mapping[int, str], is_left: Callable[[str], bool], *, is_inside: bool = False
    ) -> None:
        self.graph, self.paths, self.is_left, self.is_inside = graph, paths, is_left, is_inside
        self.skipped: dict[str, Skipped] = {}
        self.places: dict[int, list[str]] = {}
        self.in_float: dict[int, list[str]] = {}  # of layers that are opened
        self.rounding: set[int] = set()  # layers that round without a range, their weights for example
        # Tensors without a range; those that a layer takes are rounded before it is opened.
        self.float: set[int] = set() if is_inside else {id(tensor) for tensor in graph.model.inputs}
        self.folded: set[int] = set()  # calls that belong to the operator before them
        self.left: set[int] = set()  # normalizations that belong to an operator in float
        calls: dict[int, int] = {}
        for call in graph.calls:
            calls[id(call.layer)] = calls.get(id(call.layer), 0) + 1
        self.once = {layer for layer, count in calls.items() if count == 1}

    def visit(self, call: Call) -> None:
        rule = self._rule(call)
        if rule is None:
            self.float |= {id(tensor) for tensor in call.outputs}
        elif rule.kind == quantized.KEEPS:
            if any(id(tensor) in self.float for tensor in _floats(call)) or not _floats(call):
                self.float |= {id(tensor) for tensor in call.outputs}
        elif rule.kind == quantized.OPENS:
            self._open(call)
        else:
            self._place(call, rule)

    def _path(self, layer: Any) -> str:
        return self.paths.get(id(layer), layer.name)

    def _rule(self, call: Call) -> RoundingRule | None:
        """Return the rule of a call, None with a note of the reason if it stays in float."""
        layer = call.layer
        path, rule = self._path(layer), rule_of(layer)
        if path in self.skipped and not (rule and rule.kind == quantized.ISLAND):
            return None
        is_layer = isinstance(layer, keras.layers.Layer)
        left = is_layer and (self.is_left(path) or id(call) in self.left)
        if left:
            self._leave(call)
            self._skip(path, _LEFT_OUT, Skipped.FILTERED)
            return None
        if not (is_layer or self.is_inside or (rule and rule.kind == quantized.KEEPS)):
            kind = type(layer).__name__
            self._skip(path, f"an operation, {kind}: its result is rounded where a layer reads it")
            return None
        reason = _refusal(call)
        if reason is not None:
            self._leave(call)
            self._skip(path, reason)
            return None
        if rule is not None and rule.kind == quantized.ISLAND:
            self._skip(path, "a normalization: it computes in float, from rounded numbers to a rounded result")
        is_alone = rule is not None and rule.kind == quantized.NORMALIZES and id(call) not in self.folded
        return quantized.ALONE if is_alone else rule

    def _skip(self, path: str, reason: str, kind: str = Skipped.NO_RULE) -> None:
        self.skipped[path] = Skipped(path, reason, kind)

    def _open(self, call: Call) -> None:
        """Give ranges to the tensors inside of a layer, and to those that it takes."""
        layer, path = call.layer, self._path(call.layer)
        try:
            opened = open_call(layer, (call.args, call.kwargs), opens=opens)
        except FAILURES as error:
            self._skip(path, f"its code cannot be followed: {describe(error)}")
            self.float |= {id(tensor) for tensor in call.outputs}
            return
        names = self.places.setdefault(id(layer), [])
        self._take_inputs(call, names)
        inner = _Planner(opened.graph, opened.names, lambda name: self.is_left(join_path(path, name)), is_inside=True)
        for each in opened.graph.calls:
            inner.visit(each)
        plan = inner.plan()
        for name, places in plan.ranges.items():
            for place in places:
                _add(names, join_path(name, place))
        inside = {join_path(path, entry.layer): entry for entry in plan.skipped}
        self.skipped |= {name: dataclasses.replace(entry, layer=name) for name, entry in inside.items()}
        left = [*inner.left_layers(), *(f"{name}/{each}" for name, some in plan.in_float.items() for each in some)]
        self.in_float[id(layer)] = left
        ends = zip(call.outputs, opened.graph.outputs, strict=True)
        self.float |= {id(outer) for outer, end in ends if id(end) in inner.float}

    def left_layers(self) -> list[str]:
        """Return the paths of the layers that stay in float."""
        rounding = {self.paths[layer] for layer in (*self.places, *self.rounding)}
        calls = [call.layer for call in self.graph.calls if isinstance(call.layer, keras.layers.Layer)]
        paths = dict.fromkeys(map(self._path, calls))
        return [path for path in paths if path in self.skipped and path not in rounding]

    def _take_inputs(self, call: Call, names: list[str]) -> None:
        for index, tensor in enumerate(_floats(call)):
            if id(tensor) in self.float:
                _add(names, f"input_{index}")

    def _leave(self, call: Call) -> None:
        """Let a normalization stay with the kernel that the converter folds it into."""
        if isinstance(call.layer, quantized.FOLDING) and activation_of(call.layer) == "linear":
            followers = [(taker, rule_of(taker.layer)) for taker in self.graph.consumers(call)]
            self.left |= {id(taker) for taker, rule in followers if rule and rule.kind == quantized.NORMALIZES}

    def _place(self, call: Call, rule: RoundingRule) -> None:
        names = self.places.setdefault(id(call.layer), [])
        if rule.kind != quantized.ISLAND or self._follows_operation(call):
            self._take_inputs(call, names)
        if rule.kind in _ROUNDING or activation_of(call.layer) in FIXED:
            self.rounding.add(id(call.layer))
        if rule.kind == quantized.CONSTANT:
            return
        is_under_mask = isinstance(call.layer, layers.Softmax) and len(call.inputs) > 1
        sums = range(1, len(call.inputs) - 1) if isinstance(call.layer, layers.Add) else ()
        for name in (*rule.within, *(f"sum_{number}" for number in sums), *([LOGITS] if is_under_mask else [])):
            _add(names, name)
        if self._is_continued(call, rule):
            return
        if rule.inside:
            for name in rule.inside:
                _add(names, name)
            return
        activation = activation_of(call.layer)
        if activation not in FUSED and rule.kind != quantized.ACTIVATES:
            _add(names, "activation")
        if activation not in FIXED and not self._is_joined(call):
            _add(names, LOGITS if self._is_before_softmax(call) else "output")

    def _follows_operation(self, call: Call) -> bool:
        """Return True if an operation of the model makes an input of the layer, which is then rounded here."""
        makers = [self.graph.producer(tensor) for tensor in call.inputs]
        return any(maker is not None and not isinstance(maker.layer, keras.layers.Layer) for maker in makers)

    def _is_before_softmax(self, call: Call) -> bool:
        """Return True if only the softmax of an attention takes the output."""
        following = self.graph.consumers(call) if self.is_inside and not self.graph.is_output(call) else []
        return bool(following) and all(activation_of(taker.layer) == "softmax" for taker in following)

    def _is_joined(self, call: Call) -> bool:
        """Return True if only a concatenation takes the output: the file rounds it to the range of that, and once.

        So does a softmax under a mask.
        """
        following = self.graph.consumers(call)
        if len(following) != 1 or self.graph.is_output(call) or activation_of(call.layer) not in FUSED:
            return False
        (taker,) = following
        path = self.paths.get(id(taker.layer), "")
        is_alone = {id(call.layer), id(taker.layer)} <= self.once and not self.is_left(path)
        is_under_mask = isinstance(taker.layer, layers.Softmax) and len(taker.inputs) > 1
        joins = isinstance(taker.layer, keras.layers.Concatenate) or is_under_mask
        return is_alone and joins and _refusal(taker) is None

    def _is_continued(self, call: Call, rule: RoundingRule) -> bool:
        """Return True if the operator goes on with the next call, or with equal activations, and note these calls."""
        following = self.graph.consumers(call)
        calls = {id(each.layer) for each in (call, *following)}
        if not following or self.graph.is_output(call) or not calls <= self.once:
            return False
        if rule.inside or rule.kind not in (quantized.MIXES, quantized.NORMALIZES, quantized.MERGES):
            return False
        (taker, *others) = following
        path, next_rule = self.paths.get(id(taker.layer), ""), rule_of(taker.layer)
        if next_rule is None or self.is_left(path) or activation_of(call.layer) != "linear":
            return False
        folds = next_rule.kind == quantized.NORMALIZES and isinstance(call.layer, quantized.FOLDING)
        applies = next_rule.kind == quantized.ACTIVATES and activation_of(taker.layer) in FUSED
        is_continued = (applies and self._is_one(following)) if others else (folds or applies)
        if is_continued:
            self.folded |= {id(each) for each in following}
        return is_continued

    def _is_one(self, following: Sequence[Call]) -> bool:
        """Return True if the converter makes one of several activations that take the same tensor."""
        alike = {(activation_of(taker.layer), rule_of(taker.layer)) for taker in following}
        return len(alike) == 1 and not any(
            self.is_left(self.paths.get(id(taker.layer), "")) or self._is_joined(taker) for taker in following
        )

    def plan(self) -> _QuantizationPlan:
        ranges = {
            self.paths[layer]: tuple(names) for layer, names in self.places.items() if names or layer in self.rounding
        }
        in_float = {self.paths[layer]: tuple(names) for layer, names in self.in_float.items() if names}
        return _QuantizationPlan(ranges, in_float, tuple(self.skipped.values()))


def _floats(call: Call) -> list[keras.KerasTensor]:
    return [tensor for tensor in call.inputs if keras.backend.is_float_dtype(tensor.dtype)]


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


# A model that rounds as its 8-bit file will, while it trains.


def quantize_aware(
    model: keras.Model,
    *,
    filters: Filters = None,
    skip: str | Sequence[str] | None = None,
    levels: int | None = None,
) -> keras.Model:
    """Return an uncompiled copy that computes like its 8-bit file, for quantization-aware training (QAT).

    Use it if an int8 file must have the accuracy that `evaluate` reports. Train the copy with `fit`, often for a few
    epochs with a low learning rate, and write it with `tfprune.export.to_tflite(model, path, quantize="int8")`, which
    then needs no calibration. `tfprune.strip` returns the plain float model.

    Weights are rounded to the integers -127 to 127 times a scale for each output channel, and the activations of each
    operator of the file to 256 values in a range. A convolution or Dense layer, the batch normalization after it, and
    a ReLU after that are one operator. The range of an activation is that of the first batch, and then a moving
    average; inference does not change it. Layers that cannot be computed in 8 bits stay in float;
    `quantization_report` lists them with the reason.

    You can prune before or after: `wrap` accepts the copy, and the copy of a wrapped model has its masks. Zeros stay
    zeros.

    Args:
        model: A built Sequential or Functional model, wrapped for pruning or plain. It is left unchanged.
        filters: The layers with weights to quantize, by their weights, as in `wrap`. None (the default) takes all.
        skip: Layers that stay in float: a regular expression, or several, searched in the path of a layer. None (the
            default) skips none.
        levels: The number of distinct values of each of these weights, 0 counted, 2 to 256: packed files become
            smaller. The values start evenly between the smallest and the largest entry, and are trained (Han et al.
            2016, arXiv 1510.00149). None (the default) shares no values. Weights that already share values keep them.

    Returns:
        The copy. Layers keep their names.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, is already quantized, or has no layer that can be
            quantized; if `filters` or `skip` match nothing, or `levels` is out of range.

    References:
        Jacob et al. 2018, arXiv 1712.05877; Krishnamoorthi 2018, arXiv 1806.08342.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> quantize_aware(model).get_layer("hidden").range_names
        ('input_0', 'output')
    """
    if levels is not None:
        check_count(levels, "levels", least=2, most=256)
    anatomy = Anatomy.of(model)
    plan = quantization_plan(anatomy, filters=filters, skip=skip)
    if not plan.ranges:
        reasons = "; ".join(f"{entry.layer}: {entry.reason}" for entry in plan.skipped)
        raise ValueError(f"Expected layers that can be quantized in {model.name!r}. Received none. {reasons}.")

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if path not in plan.ranges:
            return None
        inside = plan.in_float.get(path, ())
        return Quantized.of(layer, ranges=plan.ranges[path], in_float=inside, levels=levels, start="linear")

    copy = copy_with(anatomy, replace)
    place_centroids(copy, like=model)
    return copy


def quantization_plan(
    anatomy: Anatomy, *, filters: Filters = None, skip: str | Sequence[str] | None = None
) -> _QuantizationPlan:
    """Return which layers `quantize_aware` quantizes.

    Raises:
        ValueError: As `quantize_aware` does.
    """
    _check(anatomy)
    return _plan_of_plain(plain_copy(anatomy), filters=filters, skip=skip)


def _plan_of_plain(
    plain: keras.Model, *, filters: Filters = None, skip: str | Sequence[str] | None = None
) -> _QuantizationPlan:
    """Return the plan for a model without wrappers, whose layers may get other names."""
    anatomy = Anatomy.of(plain)
    paths = {id(layer): path for path, layer in anatomy.leaves}
    is_left = _left(anatomy, filters, skip)
    return _plan_quantization(trace(flatten(plain, opens=_is_followed)), paths, is_left=is_left)


def _is_followed(part: Any) -> bool:
    """Return True for a model whose calls are those of its graph, of whatever class."""
    return is_plain(part) or kind_of(part) in (Kind.FUNCTIONAL_SUBCLASS, Kind.PLAIN_SUBCLASS)


def _check(anatomy: Anatomy) -> None:
    model = anatomy.model
    for path, layer in walk(model, stop=Quantized):
        if isinstance(layer, Quantized):
            raise ValueError(
                f"Expected a model that is not quantized yet. Received: {model.name!r}, where {path} is. Go on with "
                f"it, or start anew from tfprune.strip(model)."
            )
    quantized = quantized_already(model)
    if quantized:
        raise ValueError(f"Expected a model with weights of floats. Received: {model.name!r}. {quantized}")
    own = [part for _, part in walk(model) if isinstance(part, keras.Model) and not _is_followed(part)]
    if own and (kind_of(own[0]) is not Kind.GRAPH or own[0].built):
        raise ValueError(
            f"Expected a Sequential or Functional model, whose calls show where operators round. Received: "
            f"{own[0].name!r} of class {type(own[0]).__name__}, which has code of its own. Build it as "
            f"keras.Model(inputs, outputs), or export it with quantize='int8' and calibration."
        )
    check_model(anatomy)


def _left(anatomy: Anatomy, filters: Filters, skip: str | Sequence[str] | None) -> Callable[[str], bool]:
    """Return a function that tells by the path of a layer whether it is to stay in float."""
    layers = dict(anatomy.leaves)
    offered = [(path, kernel) for path, layer in layers.items() for kernel in kernels(layer)]
    in_float: set[str] = set()
    if filters is not None:
        is_chosen = selector(
            filters, Unstructured(), [f"{path}/{kernel.path}" for path, kernel in offered], others=()
        )
        wanted = {path for path, kernel in offered if is_chosen(f"{path}/{kernel.path}", layers[path], kernel)}
        in_float |= {path for path, _ in offered} - wanted
    for each in [] if skip is None else [skip] if isinstance(skip, str) else skip:
        regex = check_regex(each, "skip")
        matching = {path for path in layers if regex.search(path)}
        if not matching:
            raise ArgumentError(
                "skip", "`skip` to match a layer", found=f"{each!r}, which is found in none of {', '.join(layers)}"
            )
        in_float |= matching
    return in_float.__contains__


# Ranges that stay as they are for the rest of the training.


def freeze_ranges(model: keras.Model) -> None:
    """Keep the ranges of a quantized model as they are: training goes on without moving them.

    Weights settle better in the last epochs on a grid that does not move (Krishnamoorthi 2018, arXiv 1806.08342).
    Compile the model again afterwards, as after a change of `trainable`. To let a range move again, set
    `layer.learns_ranges = True`.

    Args:
        model: A model that `quantize_aware` returned, trained for at least a batch. It is changed.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If no layer of it is quantized, or a range has seen no data.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> from tfprune import quantize_aware
        >>> model = quantize_aware(model)
        >>> outputs = model(keras.ops.ones((2, 8)), training=True)  # as `fit` does
        >>> freeze_ranges(model)
        >>> model.get_layer("hidden").learns_ranges
        False
    """
    layers = quantized_layers(model).values()
    for layer in layers:
        layer.known_ranges()  # refuses one without data, before anything is changed
    for layer in layers:
        layer.learns_ranges = False


# Which layers of a model compute in 8 bits, with which ranges, and which do not.


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
    plan = _plan_of_plain(plain_copy(Anatomy.of(model)))
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


# Cross-layer equalization: scale the channels between two layers without changing the outputs.

_log = logging.getLogger(__name__)
_SCALES = ("linear", "relu", "leaky_relu")  # f(s x) = s f(x) for s > 0
_PASSES = (  # the same for each channel, whatever its size
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D, layers.Cropping2D, layers.UpSampling2D),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.Identity, layers.Flatten),
)
_SWEEPS, _CLOSE = 100, 1e-3  # until no channel moves by more than this factor
_DEAD = 1e-6  # of the largest channel's weights: such a channel has no size to go by


def equalize(model: keras.Model) -> keras.Model:
    """Scale channels so that their weights have the same range in both layers around them, with the same outputs.

    Use it before int8 quantization if `tfprune.export.quantization_error` shows channels of very different ranges; it
    helps little otherwise. It needs no data and no training. An int8 tensor has 256 values for all its channels, so a
    channel with small activations is represented by few of them. If the largest weight of a channel of a convolution
    or Dense layer is r1, and r2 in the layer that reads it, the channel is divided by s = sqrt(r1 / r2) in the first,
    biases included, and multiplied by s in the second (equation 11). A batch normalization between them absorbs the
    division. Zeros stay zeros, and layers keep their names.

    Args:
        model: A built Sequential or Functional model, wrapped or plain. It is left unchanged. Layers before a ReLU6
            are skipped: it clips all channels at the same value.

    Returns:
        An uncompiled plain copy. Skipped layers and the reasons are logged.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not a graph, or no two layers can be equalized.

    Reference:
        Nagel, M., van Baalen, M., Blankevoort, T. and Welling, M. Data-Free Quantization Through Weight Equalization
        and Bias Correction. ICCV 2019. arXiv:1906.04721, section 4.1.

    Example:
        >>> stack = [keras.layers.Dense(3, activation="relu", name="first"), keras.layers.Dense(2, name="second")]
        >>> model = equalize(keras.Sequential([keras.Input((4,)), *stack]))
        >>> first, second = (np.asarray(model.get_layer(name).kernel) for name in ("first", "second"))
        >>> bool(np.allclose(np.abs(first).max(axis=0), np.abs(second).max(axis=1), rtol=1e-3))
        True
    """
    check_graph(model)
    copy = plain_copy(Anatomy.of(model))
    pairs, reasons = _pairs(trace(flatten(copy)))
    for name, reason in reasons.items():
        _log.info("%s is not equalized: %s", name, reason)
    if not pairs:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no convolution or Dense layer"
        raise ValueError(
            f"Expected layers in {model.name!r} whose channels another layer reads alone. Received none. {listed}."
        )
    _equalize(pairs)
    _log.info("equalized the channels between %s pairs of layers in %r", len(pairs), model.name)
    return copy


@dataclass
class _Pair:
    """Two layers with channels between them that nothing else reads."""

    first: keras.layers.Layer
    norm: keras.layers.BatchNormalization | None
    second: keras.layers.Layer


def _pairs(graph: Graph) -> tuple[list[_Pair], dict[str, str]]:
    """Return the pairs of a graph, and why other layers are in none as the first."""
    calls: dict[int, int] = {}
    for call in graph.calls:
        calls[id(call.layer)] = calls.get(id(call.layer), 0) + 1
    pairs, reasons = [], {}
    for call in graph.calls:
        if type(call.layer) in KERNELS:
            pair = _pair(graph, call, calls)
            if isinstance(pair, str):
                reasons[call.layer.name] = pair
            else:
                pairs.append(pair)
    return pairs, reasons


def _pair(graph: Graph, call: Call, calls: dict[int, int]) -> _Pair | str:
    """Return the pair that begins with a layer, or why there is none."""
    norm, current = None, call
    while True:
        layer = current.layer
        if calls[id(layer)] > 1:
            return f"{layer.name} is called more than once"
        if activation_of(layer) not in _SCALES:
            return f"{layer.name} does not scale with what it gets"
        if getattr(layer, "data_format", None) == "channels_first":
            return f"{layer.name} has its channels first"
        following = graph.consumers(current)
        if len(following) != 1 or graph.is_output(current):
            return f"what {layer.name} returns is read in more than one place"
        (taker,) = following
        if type(taker.layer) is layers.BatchNormalization:
            if current is not call or not taker.layer.scale or activation_of(call.layer) != "linear":
                return f"{taker.layer.name} has no scale of its own, or does not stand right behind"
            norm = taker.layer
        elif type(taker.layer) in KERNELS:
            return _ended(call.layer, norm, taker.layer, calls)
        elif not isinstance(taker.layer, (*_PASSES, layers.Activation, layers.ReLU, layers.LeakyReLU)):
            return f"{type(taker.layer).__name__} stands behind it"
        current = taker


def _ended(
    first: keras.layers.Layer,
    norm: keras.layers.BatchNormalization | None,
    second: keras.layers.Layer,
    calls: dict[int, int],
) -> _Pair | str:
    if calls[id(second)] > 1:
        return f"{second.name} is called more than once"
    if getattr(second, "groups", 1) > 1 or getattr(second, "data_format", None) == "channels_first":
        return f"{second.name} has groups, or its channels first"
    return _Pair(first, norm, second)


def _equalize(pairs: list[_Pair]) -> None:
    involved = {id(layer): layer for pair in pairs for layer in (pair.first, pair.norm, pair.second) if layer}
    weights = {id(variable): as_numpy(variable) for layer in involved.values() for variable in layer.weights}
    for _ in range(_SWEEPS):
        if max(_scale(pair, weights) for pair in pairs) < _CLOSE:  # a layer in two pairs moves in both
            break
    for layer in involved.values():
        for variable in layer.trainable_variables + layer.non_trainable_variables:
            variable.assign(weights[id(variable)])


def _scale(pair: _Pair, weights: dict[int, np.ndarray]) -> float:
    """Apply equation 11 to a pair; return the logarithm of the largest factor."""
    first, second = id(pair.first.kernel), id(pair.second.kernel)
    outputs = weights[first].reshape(-1, _width(pair.first))
    # Positions that a Flatten put beside each other, and those of the kernel, come before the channels.
    inputs = weights[second].reshape(-1, outputs.shape[1], weights[second].shape[-1])
    sizes = np.abs(outputs).max(axis=0), np.abs(inputs).max(axis=(0, 2))
    factor = np.ones(outputs.shape[1], outputs.dtype)
    if pair.norm is not None:
        gamma, variance = weights[id(pair.norm.gamma)], weights[id(pair.norm.moving_variance)]
        sizes = sizes[0] * np.abs(gamma) / np.sqrt(variance + pair.norm.epsilon), sizes[1]
    alive = (sizes[0] > _DEAD * sizes[0].max()) & (sizes[1] > _DEAD * sizes[1].max())
    factor[alive] = np.sqrt(sizes[0][alive] / sizes[1][alive])
    for variable in _divided(pair):
        shape = weights[id(variable)].shape
        weights[id(variable)] = (weights[id(variable)].reshape(-1, len(factor)) / factor).reshape(shape)
    weights[second] = (inputs * factor[:, None]).reshape(weights[second].shape)
    return float(np.abs(np.log(factor)).max())


def _width(layer: keras.layers.Layer) -> int:
    shape = layer.kernel.shape
    return shape[-1] * shape[-2] if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)) else shape[-1]


def _divided(pair: _Pair) -> list[keras.Variable]:
    if pair.norm is not None:
        return [pair.norm.gamma, *([pair.norm.beta] if pair.norm.center else [])]
    return [pair.first.kernel, *([pair.first.bias] if pair.first.use_bias else [])]
