"""Drop or repeat blocks: a model in a new order, of the same class where its arguments allow it, and the report."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_choice, check_count, check_numbers
from tfprune.compact.smaller import Exchange, NoClass, Resized, build_with_arguments, dicts_in, resize
from tfprune.masking.strip import sparsity_report
from tfprune.methods.growth.blocks import Blocks, find_blocks, mean_loss, one_by_one
from tfprune.models.anatomy import (
    Anatomy,
    Kind,
    as_numpy,
    check_keras,
    join_path,
    kernels,
    kind_of,
    paired,
    rename,
    train_alike,
    walk,
)
from tfprune.models.by_attributes import MadeOf, Origins, read_origins
from tfprune.models.graph import Call, holders, hooked_calls, unused_name
from tfprune.models.in_place import wrap_alike
from tfprune.models.tracing import (
    EXACT,
    LargestDifference,
    Tolerance,
    difference_in_words,
    numbers_for,
    own_weights,
    same_outputs,
    usable_length,
)
from tfprune.models.training import Batches, check_token_ids, loss_of
from tfprune.models.twin import (
    build_from_class_config,
    class_config,
    copy_of,
    copy_variables,
    keep_what_is_beside,
    layer_inside,
    revive,
)
from tfprune.report import Report, table

# A model with the blocks of another one in another order, and how it is made as a Functional model.


@dataclass(frozen=True, eq=False)
class ReorderedModel:
    """A model with the blocks of another one, in another order.

    Attributes:
        model: The model.
        source: The blocks that it was made of.
        order: Their numbers, one after the other.
        layers: The new layer for each layer, by its id and the index of the block; None is outside of the blocks.
        into: `"class"` for an instance of the same class, `"graph"` for a Functional model.
        reason: Why it is a graph although the model has a class; empty otherwise.
    """

    model: keras.Model
    source: Blocks
    order: Sequence[int]
    layers: dict[tuple[int, int | None], Any]
    into: str
    reason: str = ""

    def block_layers(self, index: int) -> list[keras.layers.Layer]:
        """Return the layers of the block at an index, in the order in which they are called."""
        calls = self.source.blocks[self.order[index]].calls
        return list(filter(_is_layer, (self.perform(call, index) for call in calls)))

    def all_layers(self) -> list[keras.layers.Layer]:
        """Return all layers of the model, each once."""
        return list(filter(_is_layer, {id(layer): layer for layer in self.layers.values()}.values()))

    def origins(self) -> Origins:
        """Return where each weight of the model comes from."""
        graph = self.source.graph
        old = {id(layer): layer for layer in [*graph.model.layers, *(call.layer for call in graph.calls)]}
        made_of: dict[int, MadeOf] = {}
        for (key, _), layer in self.layers.items():
            if _is_layer(layer):
                pairs = zip(old[key].weights, layer.weights, strict=True)
                made_of |= {id(new): (weight, 0, (), ()) for weight, new in pairs}
        return read_origins(self.source.copy, self.model, made_of=made_of)

    def perform(self, call: Call, index: int | None) -> Any:
        """Return the layer to call for a call: see `Blocks.run`."""
        return self.layers.get((id(call.layer), index), call.layer)


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.layers.Layer)


def _reorder_as_graph(blocks: Blocks, order: Sequence[int], *, reason: str = "") -> ReorderedModel:
    """Build a Functional model of copies of the layers, with their weights, masks and latent values.

    Args:
        blocks: The blocks of a model.
        order: The numbers of the blocks, one after the other.
        reason: Why it is not built as an instance of the model's class.

    Raises:
        ValueError: If a layer has no configuration.
    """
    source = blocks.graph.model
    inputs = [keras.Input(batch_shape=each.shape, dtype=each.dtype, name=each.name) for each in source.inputs]
    copies = _Copies(blocks)
    outputs = blocks.run(order, inputs=inputs, perform=copies.perform).outputs
    copies.copy_weights()
    model = keras.Model(
        keras.tree.pack_sequence_as(source.input, inputs),
        keras.tree.pack_sequence_as(source.output, outputs),
        name=blocks.copy.name,
    )
    return ReorderedModel(model, blocks, order, copies.layers, "graph", reason)


class _Copies:
    """Copies of the layers and operations of a graph, one for each index at which they are called."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        names = blocks.names()
        self._names = {
            id(call): name_at for block in blocks.blocks for call, name_at in zip(block.calls, names, strict=True)
        }
        self._used_names = {tensor.name for tensor in blocks.graph.model.inputs}
        self._used_names |= {call.layer.name for call in blocks.outside}
        self._copied: list[tuple[Any, Any, str]] = []
        self.layers: dict[tuple[int, int | None], Any] = {}

    def perform(self, call: Call, index: int | None) -> Any:
        """Return the copy to call for a call."""
        key = (id(call.layer), None if self._blocks.is_shared(call.layer) else index)
        if key not in self.layers:
            copy, name = _copy(call.layer), self._name(call, key[1])
            _rename(copy, name)
            self._copied.append((call.layer, copy, name))
            self.layers[key] = copy
        self.layers[id(call.layer), index] = self.layers[key]
        return self.layers[key]

    def _name(self, call: Call, index: int | None) -> str:
        name = call.layer.name
        if index is None:
            return name if name in self._used_names else unused_name(name, self._used_names)
        name_at = self._names[id(call)]
        return unused_name(name_at(index) if name_at else name, self._used_names)

    def copy_weights(self) -> None:
        """Give the copies the weights, which exist once the copies were called, and their own names."""
        for layer, copy, name in self._copied:
            if isinstance(layer, keras.layers.Layer):
                copy_variables(layer, copy)
                _rename(copy, name)


def _copy(layer: Any) -> Any:
    if isinstance(layer, keras.layers.Layer):
        return copy_of(layer)
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))


def _rename(layer: Any, name: str) -> None:
    layer.name = name
    inside = layer_inside(layer)
    if inside is not layer:
        inside.name = name


# A model with its blocks in another order: of the same class if its arguments allow it, else a Functional model.

_WORDS_FOR_A_COUNT_OF_BLOCKS = ("layers", "depth", "blocks")  # in the names of arguments
_TOLERANCE = Tolerance(of_largest=1e-4, absolute=1e-10)


def reorder(blocks: Blocks, order: Sequence[int]) -> ReorderedModel:
    """Build a model of some blocks, each as often as it is named, one after the other.

    Args:
        blocks: The blocks of a model.
        order: The numbers of the blocks.

    Raises:
        ValueError: If a layer cannot be copied.
    """
    reason = ""
    if kind_of(blocks.copy) is Kind.FUNCTIONAL_SUBCLASS:
        try:
            return _reorder_as_class(blocks, order)
        except NoClass as why:
            reason = str(why)
    try:
        return _reorder_as_graph(blocks, order, reason=reason)
    except ValueError as error:
        if not reason:
            raise
        raise ValueError(f"{error} A model of class {type(blocks.copy).__name__} cannot be had: {reason}.") from None


def _reorder_as_class(blocks: Blocks, order: Sequence[int]) -> ReorderedModel:
    """Build a model of the same class by other arguments, with weights, masks and latent values.

    Raises:
        NoClass: If its arguments cannot say how many blocks there are, or it would compute something else.
    """
    model = blocks.copy
    if any(isinstance(layer, Resized) for _, layer in walk(model)):
        raise NoClass("some of its layers have other sizes than its arguments say")
    reasons = [f"no argument of {type(model).__name__} counts its {len(blocks.blocks)} blocks"]
    for config in _configurations(class_config(model), len(blocks.blocks), order):
        try:
            return _built_from(blocks, order, config)
        except NoClass as why:
            reasons.append(str(why))
    raise NoClass(reasons[1] if len(reasons) > 1 else reasons[0])


def _configurations(origin: dict[str, Any], count: int, order: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the configuration with another number of blocks, for each argument that may count them.

    A list with as many entries may have one for each block, or something else: both are tried.
    """
    for index, arguments in enumerate(dicts_in(origin["config"])):
        for name, value in arguments.items():
            if type(value) is int and value == count and any(word in name for word in _WORDS_FOR_A_COUNT_OF_BLOCKS):
                plain = deepcopy(origin)
                list(dicts_in(plain["config"]))[index][name] = len(order)
                reordered = deepcopy(plain)
                _reorder_lists(reordered["config"], count, order)
                yield from (plain, reordered)[: 1 + (reordered != plain)]


def _reorder_lists(config: dict[str, Any], count: int, order: Sequence[int]) -> None:
    """Bring lists that have an entry for each block into the order of the blocks."""
    for arguments in list(dicts_in(config)):
        for name, value in arguments.items():
            if isinstance(value, (list, tuple)) and len(value) == count:
                arguments[name] = [value[number] for number in order]


def _built_from(blocks: Blocks, order: Sequence[int], config: dict[str, Any]) -> ReorderedModel:
    model = blocks.copy
    try:
        new = build_with_arguments(model, config, build=_fresh)
    except NoClass as why:
        raise NoClass(f"its class does not take {len(order)} blocks: {why}") from None
    keep_what_is_beside(Anatomy.of(model), new)
    names = [layer.name for _, layer in walk(new)]
    pairs = _pairs(blocks, order, blocks.flatten(new))
    rename(new, names)
    parts = [part for _, part in walk(new)]
    places = {id(part): index for index, part in enumerate(parts)}
    settings: dict[int, dict[str, Any]] = {}
    for layer, counterpart in pairs.values():
        settings |= {places[key]: own for key, own in _own_settings(layer_inside(layer), counterpart).items()}
        _name_alike(layer_inside(layer), counterpart)
    if settings:
        resize(parts, Exchange(numbers=settings))
    wrapped = wrap_alike(
        new, {id(plain): layer for layer, plain in pairs.values() if layer_inside(layer) is not layer}
    )
    layers: dict[tuple[int, int | None], Any] = {}
    for key, (layer, plain) in pairs.items():
        layers[key] = wrapped.get(id(plain), plain)
        own_names = [part.name for _, part in walk(layers[key])]
        copy_variables(layer, layers[key])
        rename(layers[key], own_names)
    new.name = model.name
    reordered = ReorderedModel(new, blocks, order, layers, "class")
    _check_outputs(reordered, has_own_settings=bool(settings))
    return reordered


def _name_alike(layer: keras.layers.Layer, counterpart: keras.layers.Layer) -> None:
    """Give what is inside of a layer the names that masks find it by: Keras numbers some anew in each block."""
    inner_names = [part.name for _, part in walk(layer)][1:]
    rename(counterpart, [counterpart.name, *inner_names])


def _fresh(model: keras.Model, *, origin: dict[str, Any]) -> keras.Model:
    return build_from_class_config(origin, lambda entry: revive(entry, model))


def _pairs(
    blocks: Blocks, order: Sequence[int], flat: keras.Model
) -> dict[tuple[int, int | None], tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return each layer with its counterpart in a new model, by its id and the index of the block, or None."""
    new = {layer.name: layer for layer in _without_inputs(flat)}
    names = blocks.names()
    pairs: dict[tuple[int, int | None], tuple[keras.layers.Layer, keras.layers.Layer]] = {}
    for index, number in enumerate(order):
        for call, name_at in zip(blocks.blocks[number].calls, names, strict=True):
            if not isinstance(call.layer, keras.layers.Layer):
                continue
            name = name_at(index) if name_at else ""
            if name not in new:
                raise NoClass(f"its class names no layer at place {index} as it names {call.layer.name!r}")
            pairs[id(call.layer), index] = call.layer, new.pop(name)
    inside = {id(call.layer) for block in blocks.blocks for call in block.calls}
    rest = [layer for layer in _without_inputs(blocks.graph.model) if id(layer) not in inside]
    others = list(new.values())
    if [type(layer_inside(layer)) for layer in rest] != [type(layer) for layer in others]:
        raise NoClass(
            f"its class makes {len(others)} layers around {len(order)} blocks, where there were {len(rest)}"
        )
    return pairs | {(id(layer), None): (layer, other) for layer, other in zip(rest, others, strict=True)}


def _without_inputs(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _own_settings(layer: keras.layers.Layer, other: keras.layers.Layer) -> dict[int, dict[str, Any]]:
    """Return what a layer has set otherwise than its class sets it at its new index, by the id of the new part.

    An example is a window, which some classes use in every other block.

    Raises:
        NoClass: If the layer has weights of other shapes there.
    """
    pairs = paired(layer, other)
    if are_alike := all(type(part) is type(counterpart) for part, counterpart in pairs):
        train_alike(pairs)  # LoRA has weights of its own
    shapes = [[tuple(weight.shape) for weight in side.weights] for side in (layer, other)]
    if not are_alike or shapes[0] != shapes[1]:
        raise NoClass(f"its class makes {other.name!r} with weights of other shapes than {layer.name!r}")
    own: dict[int, dict[str, Any]] = {}
    for part, counterpart in pairs:
        old, new = _settings(part), _settings(counterpart)
        if differing := {name: old[name] for name in sorted(old.keys() & new.keys()) if old[name] != new[name]}:
            own[id(counterpart)] = differing
    return own


def _settings(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the numbers and texts among the attributes of a layer, without its names and states."""
    return {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, _SETTING_TYPES) and name not in _STATES
    }


_SETTING_TYPES = (bool, int, float, str, type(None))
_STATES = ("name", "built", "trainable", "autocast", "lora_rank", "lora_alpha", "lora_enabled")


def _check_outputs(reordered: ReorderedModel, *, has_own_settings: bool) -> None:
    """Refuse a model that returns something else than its blocks do, such as an output of each."""
    source = reordered.source.graph.model
    length = usable_length(source)
    if length is None and has_own_settings:
        raise NoClass("its class makes blocks with other settings, and what these change cannot be run")
    if length is None:
        return
    numbers = numbers_for(source.input, length=length)
    returned = reordered.model(numbers, training=False)
    expected = reordered.source.run(reordered.order, inputs=keras.tree.flatten(numbers)).outputs
    if not same_outputs(returned, expected, tolerance=_TOLERANCE):
        raise NoClass("its class returns something else than its blocks one after the other")


# Report of `grow_depth` and `drop_blocks`: the blocks of the new model, and whether its outputs are the same.


@dataclass(frozen=True)
class PlacedBlock(Report):
    """A block of the new model.

    Attributes:
        place: Its index in the new model, from 0.
        block: The index of the block in the original model, from 0.
        layer: The name of its first layer.
        is_copy: Whether the same block occurs before it.
        parameters: The number of entries of its weights.
        nnz: The number of non-zero entries of its kernels, with the masks applied.
        zeroed: The weights that were set to zero, so that it returns its input.
    """

    place: int
    block: int
    layer: str
    is_copy: bool
    parameters: int
    nnz: int
    zeroed: tuple[str, ...] = ()


@dataclass(frozen=True)
class DroppedBlock(Report):
    """A block that was dropped one by one.

    Attributes:
        block: The index of the block in the original model, from 0.
        layer: The name of its first layer.
        loss: The loss of the model without it and the blocks that were dropped before.
    """

    block: int
    layer: str
    loss: float


@dataclass(frozen=True)
class GrowthReport(Report):
    """The blocks of a model after `grow_depth` or `drop_blocks`, and whether its outputs are the same.

    Attributes:
        rows: A row for each block of the new model.
        blocks: The number of blocks of the original model.
        into: `"class"` if the new model is of the same class, `"graph"` if it is a Functional model.
        reason: The reason why a model of a class became a graph; empty otherwise.
        parameters: The number of parameters of the original and of the new model.
        difference: The largest difference of an output, as a fraction of the largest output, on the samples that you
            passed, or on random numbers; None if the model does not run on random numbers.
        samples: The number of samples that it was measured on, 0 for random numbers.
        origins: Where each weight of the new model comes from, for `carry_optimizer`.
        loss: The loss of the original model, if blocks were dropped one by one; None otherwise.
        steps: The blocks that were dropped one by one, in this order, each with the loss after it.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(2)])
        >>> smaller, report = tfprune.transformers.drop_blocks(model, [1])
        >>> report.order, report.is_function_preserving
        ((0, 2), False)
    """

    JSON_NAMES = (
        *("rows", "blocks", "into", "reason", "parameters", "order", "copies", "difference", "samples"),
        *("is_function_preserving", "loss", "steps"),
    )

    rows: tuple[PlacedBlock, ...]
    blocks: int
    into: str
    reason: str
    parameters: tuple[int, int]
    difference: float | None
    samples: int
    origins: Origins = field(default=(), repr=False)
    loss: float | None = None
    steps: tuple[DroppedBlock, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks of the model, in the order in which the new model calls them."""
        return tuple(row.block for row in self.rows)

    @property
    def copies(self) -> tuple[int, ...]:
        """The indices of the copies: `drop_blocks` removes them again."""
        return tuple(row.place for row in self.rows if row.is_copy)

    @property
    def is_function_preserving(self) -> bool | None:
        """Whether the outputs differ by no more than one millionth; None if it was not measured."""
        return None if self.difference is None else self.difference <= 1e-6

    def __str__(self) -> str:
        lines = [
            [
                *(row.place, row.block, row.layer, "yes" if row.is_copy else "", ", ".join(row.zeroed)),
                *(f"{row.parameters:,}", f"{row.nnz:,}"),
            ]
            for row in self.rows
        ]
        header = ["position", "block", "first layer", "copy", "zeroed", "parameters", "non-zeros"]
        return self._steps() + table(header, lines, left=5) + f"\n\n{self._summary()}"

    def _steps(self) -> str:
        if self.loss is None:
            return ""
        lines = [[step.block, step.layer, f"{step.loss:.4f}"] for step in self.steps]
        return table(["dropped", "first layer", "loss"], [["", "", f"{self.loss:.4f}"], *lines], left=2) + "\n\n"

    def _summary(self) -> str:
        kind = "a model of the same class" if self.into == "class" else "a Functional model"
        why = f" ({self.reason})" if self.reason else ""
        sizes = " to ".join(f"{count:,}" for count in self.parameters)
        outputs = difference_in_words(self.difference, is_same=self.is_function_preserving, samples=self.samples)
        return f"{self.blocks} to {len(self.rows)} blocks, {sizes} parameters, {kind}{why}. {outputs}"


def _report_growth(
    reordered: ReorderedModel, data: Batches | None, *, zeroed: Mapping[int, tuple[str, ...]] | None = None
) -> GrowthReport:
    """Return the report of a model with other blocks, compared with the model that it was made of.

    Args:
        reordered: The model.
        data: Inputs to compare on; None compares on random numbers.
        zeroed: The paths of the weights that were set to zero, by the index of their block.
    """
    order, source = list(reordered.order), reordered.source
    rows = []
    for index, number in enumerate(order):
        layers = reordered.block_layers(index)
        nnz = sum(sparsity_report(layer).total_nnz for layer in layers if kernels(layer))
        is_copy, set_to_zero = number in order[:index], (zeroed or {}).get(index, ())
        rows.append(PlacedBlock(index, number, layers[0].name, is_copy, _count(layers), nnz, set_to_zero))
    difference, samples = _difference(reordered, data)
    layers_before = {id(call.layer): call.layer for call in source.graph.calls}.values()
    return GrowthReport(
        rows=tuple(rows),
        blocks=len(source.blocks),
        into=reordered.into,
        reason=reordered.reason,
        parameters=(_count(layers_before), _count(reordered.all_layers())),
        difference=difference,
        samples=samples,
        origins=reordered.origins(),
    )


def _count(layers: Iterable[Any]) -> int:
    """Return the number of parameters of layers, without masks and latent values."""
    plain = [layer_inside(layer) for layer in layers if isinstance(layer, keras.layers.Layer)]
    return sum(layer.count_params() for layer in plain)


def _comparison_data(data: Any, blocks: Blocks) -> Batches | None:
    """Return data batch by batch; None if there are none.

    Raises:
        TypeError: If they are not data, or can be read only once.
    """
    return None if data is None else Batches(data, blocks.graph.model, batch_size=32, argument="samples")


def _sample_inputs(data: Batches | None, blocks: Blocks) -> list[Any] | None:
    """Return two samples of each input, of data or else random; None if the model does not run on random numbers."""
    if data is not None:
        return [array[:2] for array in next(_inputs(data))]
    model = blocks.graph.model
    length = usable_length(model)
    return None if length is None else keras.tree.flatten(numbers_for(model.input, length=length))


def _inputs(data: Batches) -> Iterator[list[np.ndarray]]:
    yield from (arrays for arrays, _ in data)


def _difference(reordered: ReorderedModel, data: Batches | None) -> tuple[float | None, int]:
    """Return the largest difference relative to the largest output, and the number of samples of data."""
    source = reordered.source
    numbers = _sample_inputs(None, source) if data is None else None
    if data is None and numbers is None:
        return None, 0
    difference, samples = LargestDifference(), 0
    for arrays in [numbers or []] if data is None else _inputs(data):
        samples += 0 if data is None else len(arrays[0])
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        inputs = keras.tree.pack_sequence_as(source.graph.model.input, tensors)
        difference.add(reordered.model(inputs, training=False), source.copy(inputs, training=False))
    return difference.fraction, samples


# Drop blocks of a model.


def drop_blocks(
    model: keras.Model,
    drop: Iterable[int] | None = None,
    *,
    samples: Any = None,
    count: int | None = None,
    blocks: str | None = None,
    data: Any = None,
    loss: Any = None,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> tuple[keras.Model, GrowthReport]:
    """Drop some of the repeated blocks of a model.

    Use it to make a deep model smaller and faster on any hardware, then train it. Name the blocks in `drop`, for
    example those that `rank_blocks` ranks lowest. Or pass `count` and `data`: the block whose removal raises the loss
    least is dropped again and again, and each loss is that of the model without the blocks dropped before. The other
    blocks keep their masks and latent values.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        drop: The blocks to drop, counted from 0 in the order in which the model calls them. None (the default) with
            `count` and `data`.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. None (the default)
            takes random numbers.
        count: How many blocks to drop one by one, from 1 to all but one. None (the default) with `drop`.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.
        data: The data on which the loss is measured, for `count`: a tuple (x, y), or a dataset of such batches that
            can be read more than once. To drop k of n blocks, it is evaluated n + (n - 1) + ... times, k terms.
        loss: A loss, its name or a function, for `count`; None (the default) takes the loss that the model is
            compiled with.
        batch_size: Samples in a batch of `data`, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            a bar after three seconds, in a terminal or a notebook.

    Returns:
        An uncompiled model and a `GrowthReport`. The model is of the same class if the number of blocks is an
        argument of the class, and otherwise Functional. The report shows which of the two it is, whether the outputs
        are the same, and the loss after each block that was dropped one by one (`steps`).

    Raises:
        TypeError: If `model` is not a Keras model, or `drop` holds something other than integers.
        ValueError: If the model has no repeated blocks, or not these, or all of them are to be dropped.
        ValueError: If not exactly one of `drop` and `count` is given, or `data` or `loss` come without `count`.
        ValueError: If `count` comes without data, targets or a loss, or the model has several outputs.
        ValueError: If `data` have token ids beyond the vocabulary, or sample weights.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(2, name="out")])
        >>> smaller, report = drop_blocks(model, [1])
        >>> [layer.name for layer in smaller.layers[1:]], report.parameters
        (['block_0', 'block_1', 'out'], (70, 50))
        >>> x = keras.random.normal((64, 4), seed=0)
        >>> smaller, report = drop_blocks(model, count=2, data=(x, x[:, :2]), loss="mse")
        >>> len(report.order), len(report.steps)
        (1, 2)

    Reference:
        Song et al., 2024, "SLEB", arXiv:2402.09025 (one by one, algorithm 1); Men et al., 2024, "ShortGPT",
        arXiv:2403.03853 (layers with similar input and output).
    """
    check_keras(model)
    check_verbose(verbose)
    check_count(batch_size, "batch_size", least=1)
    measured = _loss_for(model, drop, count, data=data, loss=loss)
    dropped = set() if drop is None else check_numbers(drop, "drop", of="blocks")
    source = find_blocks(model, blocks)
    batches = _comparison_data(samples, source)
    whole: float | None = None
    steps: tuple[DroppedBlock, ...] = ()
    if count is not None and measured is not None:
        most = len(source.blocks) - 1
        check_count(count, "count", least=1, most=most)
        judged = Batches(data, source.graph.model, batch_size=batch_size, is_for_loss=True)
        check_token_ids(source.graph, judged, argument="data")
        whole, steps = _steps(source, count, judged, measured, verbose=verbose)
        dropped = {step.block for step in steps}
    _check_known(dropped, source, model.name)
    smaller = reorder(source, [block for block in range(len(source.blocks)) if block not in dropped])
    return smaller.model, replace(_report_growth(smaller, batches), loss=whole, steps=steps)


def _loss_for(model: keras.Model, drop: Any, count: Any, *, data: Any, loss: Any) -> Callable | None:
    """Return the loss by which blocks are dropped; None where they are named.

    Raises:
        ValueError: If both or none are asked for, or the data are missing or superfluous.
    """
    if (drop is None) == (count is None):
        received = "neither" if drop is None else f"drop={drop!r}, count={count!r}"
        raise ValueError(
            f"Expected either `drop`, the blocks to drop, or `count`, how many to drop one by one. Received: "
            f"{received}."
        )
    if count is None and (data is not None or loss is not None):
        raise ArgumentError(
            "count",
            "`count` with `data` and `loss`, which choose the blocks",
            found="`drop` with them",
            advice="To compare the outputs of both models on data, pass samples=...",
        )
    if count is not None and data is None:
        raise ArgumentError(
            "count",
            "`data` with `count`, on which the loss is measured",
            repr(count),
            advice="Pass data=(x, y).",
            beside={"data": None},
        )
    return None if count is None else loss_of(model, loss)


def _steps(
    source: Blocks, count: int, batches: Batches, loss: Callable, *, verbose: int | str
) -> tuple[float, tuple[DroppedBlock, ...]]:
    """Return the loss of the whole model, and the blocks that are dropped one by one."""
    blocks = len(source.blocks)
    measure = functools.partial(mean_loss, source, batches=batches, loss=loss)
    with Progress(1 + sum(range(blocks - count + 1, blocks + 1)), verbose=verbose, unit="evaluation") as progress:

        def counted(order: list[int]) -> float:
            progress.add()
            return measure(order)

        whole = counted(list(range(blocks)))
        pairs = list(itertools.islice(one_by_one(blocks, counted), count))
    return whole, tuple(DroppedBlock(block, source.blocks[block].calls[0].layer.name, loss) for block, loss in pairs)


def _check_known(dropped: set[int], source: Blocks, name: str) -> None:
    count = len(source.blocks)
    unknown = [block for block in dropped if block >= count]
    if unknown or len(dropped) >= count:
        received = f"block {unknown[0]}" if unknown else f"all {count}"
        raise ValueError(
            f"Expected blocks to drop among 0 to {count - 1}, and at least one other block. Received: {received} of "
            f"{name!r}. Its blocks begin with the layers {_first_layers(source)}."
        )


def _first_layers(source: Blocks) -> str:
    names = [block.calls[0].layer.name for block in source.blocks]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


# Set the last weights of blocks to zero, so that each block returns its input at first, and learns from there.


def _zero_outputs(
    reordered: ReorderedModel, indices: Sequence[int], *, inputs: Sequence[Any]
) -> dict[int, tuple[str, ...]]:
    """Set to zero the last weights on each path through some blocks, and return their paths by the block's index.

    Weights before the last ones keep their values, so that the gradients of the last ones are not zero. If zero
    kernels are not enough, because a normalization after them adds something, its weights are set to zero too.

    Args:
        reordered: The model. Its weights are changed.
        indices: The indices of the blocks.
        inputs: Numbers for each input of the model, on which it is tried.

    Raises:
        ValueError: If a block does not return its input even when all its kernels are zero.
    """
    source = reordered.source
    values = source.run(reordered.order, inputs=inputs)
    zeroed: dict[int, tuple[str, ...]] = {}
    for index in indices:
        entry = _random_like(values.stream[index])
        run = functools.partial(
            source.run_block,
            reordered.order[index],
            entry=entry,
            context=values.context,
            perform=functools.partial(reordered.perform, index=index),
        )
        zeroed[index] = _zero_output(reordered, index, entry, run)
    return zeroed


def _zero_output(reordered: ReorderedModel, index: int, entry: Any, run: Callable[[], Any]) -> tuple[str, ...]:
    source, number = reordered.source, reordered.order[index]
    layers, calls = reordered.block_layers(index), source.blocks[number].calls
    shared = [call.layer for call in calls if source.is_shared(call.layer)]
    if any(getattr(layer, "weights", None) for layer in shared):
        raise ValueError(
            f"Expected blocks with weights of their own for zero_output=True. Received: block {number} of "
            f"{source.copy.name!r}, which shares {shared[0].name!r} with others. Pass zero_output=False."
        )
    for has_normalizations in (False, True):
        weights = _in_call_order(layers, run, has_normalizations=has_normalizations)
        values = [as_numpy(weight).copy() for _, weight in weights]
        for _, weight in weights:
            weight.assign(np.zeros(weight.shape))
        if same_outputs(run(), entry, tolerance=EXACT):
            return _restore_first(weights, values, is_identity=lambda: same_outputs(run(), entry, tolerance=EXACT))
        for (_, weight), value in zip(weights, values, strict=True):
            weight.assign(value)
    raise ValueError(
        f"Expected blocks that add something to what they read, for zero_output=True. Received: block {number} of "
        f"{source.copy.name!r}, which begins with {calls[0].layer.name!r} and changes what it reads even if all its "
        f"weights are zero, as a normalization after the sum does. Pass zero_output=False."
    )


def _restore_first(
    weights: list[tuple[str, keras.Variable]], values: list[np.ndarray], *, is_identity: Callable[[], bool]
) -> tuple[str, ...]:
    """Restore the values of weights, the first ones first, as long as the block is the identity.

    Returns the paths of those that stay zero.
    """
    zeroed = []
    for (path, weight), value in zip(weights, values, strict=True):
        weight.assign(value)
        if not is_identity():
            weight.assign(np.zeros(weight.shape))
            zeroed.append(path)
    return tuple(zeroed)


def _random_like(stream: Any) -> Any:
    """Return random numbers in the shape of a block's input, without negative ones if it has none."""
    random = np.random.default_rng(0).normal(size=tuple(stream.shape))
    is_positive = bool(keras.ops.all(stream >= 0))
    return keras.ops.cast(abs(random) if is_positive else random, keras.backend.standardize_dtype(stream.dtype))


def _in_call_order(
    layers: Sequence[keras.layers.Layer], run: Callable[[], Any], *, has_normalizations: bool
) -> list[tuple[str, keras.Variable]]:
    """Return the weights of layers with kernels, in the order in which these are called, with their paths."""
    paths: dict[int, str] = {}
    parts: dict[int, keras.layers.Layer] = {}
    for layer in map(layer_inside, layers):
        inner = {key: holder for key, (_, holder) in holders(layer).items()}
        owners = {id(inner[id(kernel.variable)]) for kernel in kernels(layer)}
        for path, part in walk(layer):
            if id(part) in owners or (has_normalizations and own_weights(part)):
                parts[id(part)] = part
                paths[id(part)] = join_path(layer.name, path)
    called: dict[int, int] = {}

    def note(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        called.setdefault(id(layer), len(called))

    with hooked_calls(parts.values(), note):
        run()
    ordered = sorted(parts.values(), key=lambda part: called.get(id(part), len(parts)))
    return [
        (f"{paths[id(part)]}/{weight.name}", weight)
        for part in ordered
        for weight in own_weights(part)
        if keras.backend.is_float_dtype(weight.dtype) and not weight.name.startswith("moving_")
    ]


# Grow a model in depth.


def grow_depth(
    model: keras.Model,
    repeats: int = 2,
    *,
    samples: Any = None,
    keep_first: int = 0,
    keep_last: int = 0,
    blocks: str | None = None,
    order: str = "interpose",
    zero_output: bool = False,
) -> tuple[keras.Model, GrowthReport]:
    """Repeat the blocks of a model to make it deeper.

    Use it to start from a trained model instead of training a larger one from scratch. Each copy gets the masks and
    latent values of its block, so a pruned model stays as sparse as it was. `drop_blocks(grown, report.copies)`
    undoes it.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        repeats: How often each block occurs in the deeper model, at least 2. Default 2.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. None (the default)
            takes random numbers.
        keep_first: The number of first blocks that are not repeated, at least 0. Default 0.
        keep_last: The number of last blocks that are not repeated, at least 0. Default 0.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.
        order: `"interpose"` (the default) puts each copy after its block: 0, 0, 1, 1, 2, 2. The other two are for
            comparison with the paper, which found them worse for well-trained models. `"stack"` repeats the whole
            sequence: 0, 1, 2, 0, 1, 2. `"stack_tail"` is the order of the paper's code, which also repeats the last
            blocks: 0, 1, 0, 1, 2, 0, 1, 2 with `repeats=3` and `keep_last=1`. With two repeats it is `"stack"`.
        zero_output: Whether to set the last weights of each copy to zero: its last kernels and biases, or the scales
            of normalizations after them. A copy then adds nothing to its input, so that the deeper model returns the
            same outputs before it is trained. Default False.

    Returns:
        An uncompiled model and a `GrowthReport`. The model is of the same class if the number of blocks is an
        argument of the class, and otherwise Functional. The report shows which of the two it is, and whether the
        outputs are the same.

    Raises:
        TypeError: If `model` is not a Keras model, or another argument has a wrong type.
        ValueError: If the model has no repeated blocks, or not enough to keep `keep_first` and `keep_last`.
        ValueError: If `zero_output` is set and a block does not add something to its input.

    Example:
        >>> import keras, tfprune
        >>> x = inputs = keras.Input((4,))
        >>> for index in range(3):
        ...     hidden = keras.layers.Dense(8, "relu", name=f"block_{index}_hidden")(x)
        ...     x = keras.layers.Add()([x, keras.layers.Dense(4, name=f"block_{index}_out")(hidden)])
        >>> grown, report = grow_depth(keras.Model(inputs, x), blocks=r"block_(\\d+)_", keep_last=1, zero_output=True)
        >>> report.order, report.is_function_preserving
        ((0, 0, 1, 1, 2), True)
        >>> report.rows[1].zeroed
        ('block_1_out/kernel',)

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (interposition against stacking).
    """
    check_count(repeats, "repeats", least=2)
    check_choice(order, "order", choices=("interpose", "stack", "stack_tail"))
    check_count(keep_first, "keep_first", least=0)
    check_count(keep_last, "keep_last", least=0)
    check_choice(zero_output, "zero_output", choices=(True, False))
    source = find_blocks(model, blocks)
    count = len(source.blocks)
    if keep_first + keep_last >= count:
        raise ArgumentError(
            "keep_first",
            "`keep_first` and `keep_last` to leave a block to repeat",
            f"{keep_first}, keep_last={keep_last} for the {count} blocks of {model.name!r}",
            advice="Lower one of them.",
        )
    batches = _comparison_data(samples, source)
    numbers = _growth_order(count, repeats, order=order, keep_first=keep_first, keep_last=keep_last)
    grown = reorder(source, numbers)
    zeroed: dict[int, tuple[str, ...]] = {}
    if zero_output:
        copies = [index for index, number in enumerate(numbers) if number in numbers[:index]]
        inputs = _sample_inputs(batches, source)
        if inputs is None:
            raise ArgumentError(
                "samples",
                "`samples` to try zero_output=True on",
                found=f"None for {model.name!r}, which does not run on random numbers",
                advice="Pass a few of its inputs.",
            )
        zeroed = _zero_outputs(grown, copies, inputs=inputs)
    return grown.model, _report_growth(grown, batches, zeroed=zeroed)


def _growth_order(count: int, repeats: int, *, order: str, keep_first: int = 0, keep_last: int = 0) -> list[int]:
    """Return the blocks of the deeper model by their numbers, one after the other.

    Example:
        >>> _growth_order(3, 2, order="interpose", keep_last=1)
        [0, 0, 1, 1, 2]
    """
    last = count - keep_last
    middle = range(keep_first, last)
    if order == "stack_tail":
        return [*range(last), *[*range(keep_first, count)] * (repeats - 1)]
    repeated = [*middle] * repeats if order == "stack" else [block for block in middle for _ in range(repeats)]
    return [*range(keep_first), *repeated, *range(last, count)]
