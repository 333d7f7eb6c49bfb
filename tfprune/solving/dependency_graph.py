"""The dependency graph of a Keras model or a .tflite file: which channels can only be removed together.

Every channel has a number. A layout gives, for each axis of a tensor or a weight, the numbers of the channels along
it, or None for an axis that has none (batch, positions, the taps of a filter). A `ChannelFlow` carries these
numbers from call to call, by one rule for each kind of layer or operator. Where two channels meet, for example in
an addition, they are tied: one cannot be removed without the other. Tied channels are a bundle, and bundles that
are ranked with each other are a `Group`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from tfprune.base.arrays import keep_largest, kept_count, other_axes, shape_along
from tfprune.report import table

_FIXED_TOO = "its layer is called on channels that are fixed, too"

Layout = tuple["np.ndarray | None", ...]
Size = int | np.ndarray  # an array stands for the number of its channels
Work = tuple[int, tuple[Size, ...]]  # multiplications: a factor, and the sizes that it is multiplied by


class NoRule(ValueError):  # noqa: N818
    """Raise it in a rule of `register_shrinkable` where channels cannot be followed through a call.

    The channels that the call takes then stay, and the plan lists the message as the reason.

    Example:
        >>> import keras
        >>> import tfprune
        >>> class Shuffle(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return keras.random.shuffle(inputs, axis=-1)
        >>> def shuffle(flow, call):
        ...     raise tfprune.NoRule("it shuffles channels")
        >>> tfprune.register_shrinkable(Shuffle, shuffle)
        >>> stack = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), Shuffle(name="shuffle")]
        >>> plan = tfprune.plan_shrink(keras.Sequential([*stack, keras.layers.Dense(6), keras.layers.Dense(2)]), 0.5)
        >>> plan.skipped[0].layer, plan.skipped[0].reason
        ('hidden', 'shuffle: it shuffles channels')
    """


# Numbers of channels, and their ties


@dataclass(frozen=True, eq=False)
class _ChannelSource:
    """Channels that one layer makes.

    Attributes:
        name: The name of the layer, with a suffix if the layer makes several kinds.
        kind: "channels", or "heads" of attention.
        channels: Their numbers.
    """

    name: str
    kind: str
    channels: np.ndarray


class _Channels:
    """The channels of a network, with their ties and the reasons why some have to stay."""

    def __init__(self) -> None:
        self.sources: list[_ChannelSource] = []
        self._count = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._pins: list[tuple[np.ndarray, str]] = []

    def fresh(self, count: int, *, name: str, kind: str = "channels") -> np.ndarray:
        """Return the numbers of `count` new channels."""
        numbers = self.copies(count)
        self.sources.append(_ChannelSource(name, kind, numbers))
        return numbers

    def copies(self, count: int) -> np.ndarray:
        """Return the numbers of channels that no layer makes, and that stay or go with those they are tied to."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def fixed(self, count: int, reason: str) -> np.ndarray:
        """Return the numbers of channels that have to stay and that no layer of the network makes."""
        numbers = self.copies(count)
        self.pin([numbers], reason)
        return numbers

    def name_heads(self, given: Iterable[np.ndarray]) -> None:
        """Let channels count as heads from now on, those of all sources that make some of these."""
        numbers = np.concatenate([np.empty(0, int), *(channels.ravel() for channels in given)])
        for index, source in enumerate(self.sources):
            if source.kind != "heads" and np.isin(source.channels, numbers).any():
                name = f"{source.name.partition('/')[0]}/heads"
                self.sources[index] = _ChannelSource(name, "heads", source.channels)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Let channels stay or go together, entry by entry."""
        self._ties.append((first, second))

    def tie_layouts(self, first: Layout, second: Layout, reason: str = _FIXED_TOO) -> None:
        """Let the channels along each axis be the same; those that meet none, or other numbers, have to stay."""
        if len(first) != len(second):
            self.pin([*first, *second], reason)
            return
        for ours, theirs in zip(first, second, strict=True):
            if ours is not None and theirs is not None and ours.size == theirs.size:
                self.tie(ours, theirs)
            else:
                self.pin([ours, theirs], reason)

    def tie_groups(self, inputs: np.ndarray | None, outputs: np.ndarray, *, count: int, reason: str) -> np.ndarray:
        """Tie the channels of each group of a convolution, and return one output of each.

        Args:
            inputs: The channels that it reads, which go with those that their group makes.
            outputs: The channels that it makes.
            count: The number of groups.
            reason: Why the channels that it makes stay if it reads none.
        """
        by_group = outputs.reshape(count, -1)
        self.tie(by_group[:, :-1], by_group[:, 1:])
        if inputs is None:
            self.pin([outputs], reason)
        else:
            inputs_by_group = inputs.reshape(count, -1)
            self.tie(inputs_by_group[:, :-1], inputs_by_group[:, 1:])
            self.tie(inputs_by_group[:, 0], by_group[:, 0])
        return by_group[:, 0]

    def meet(self, along: Iterable[tuple[int | None, np.ndarray | None]], reason: str) -> np.ndarray | None:
        """Tie what is combined along an axis entry by entry, unless one entry is spread over all.

        Args:
            along: The size of each operand along the axis, and its channels there.
            reason: Why channels stay that meet others which are fixed.

        Returns:
            The channels along the axis of the result.
        """
        operands = list(along)
        met = [channels for size, channels in operands if size != 1] or [channels for _, channels in operands]
        given = [channels for channels in met if channels is not None]
        if len(given) < len(met):
            self.pin(given, reason)
        for channels in given[1:]:
            self.tie_layouts((given[0],), (channels,), reason)
        return given[0] if given else None

    def join(
        self, operands: Sequence[tuple[Sequence[int | None], Layout]], axis: int, *, outside: str, beside: str
    ) -> Layout:
        """Return the layout of tensors that are put beside each other along an axis.

        Args:
            operands: The shape and the layout of each.
            axis: The axis, from 0 on.
            outside: Why the entries of a tensor without channels stay.
            beside: Why channels along another axis stay that meet none.
        """
        layouts = [layout for _, layout in operands]
        result = list(layouts[0])
        for other in range(len(result)):
            if other != axis:
                self.meet([(None, layout[other]) for layout in layouts], beside)
        if any(layout[axis] is not None for layout in layouts):
            parts = [
                self.fixed(int(shape[axis] or 1), outside) if layout[axis] is None else layout[axis]
                for shape, layout in operands
            ]
            result[axis] = np.concatenate(parts)  # type: ignore[arg-type]
        return tuple(result)

    def line(self, numbers: np.ndarray, axes: Iterable[int], reason: str) -> tuple[int, np.ndarray | None]:
        """Return the axis that can lose entries as a whole, and the channels along it; tie those that it joins.

        Args:
            numbers: The number of a channel in place of each entry of a tensor.
            axes: Those of the `differing_axes` that may lose entries; the first that can counts.
            reason: Why channels stay that lie along no axis.

        Raises:
            NoRule: If channels lie in no line.
        """
        axes = list(axes)
        is_only_one = len(differing_axes(numbers)) == 1
        for axis in axes:
            lines = [np.unique(line) for line in np.moveaxis(numbers, axis, 0)]
            if is_only_one or sum(map(len, lines)) == np.unique(numbers).size:
                for line in lines:
                    self.tie(line[:-1], line[1:])
                return axis, np.array([line[0] for line in lines])
        if axes:
            raise NoRule("it mixes channels with positions in a way that cannot be followed")
        self.pin([np.unique(numbers)], reason)
        return 0, None

    def pin(self, layouts: Iterable[np.ndarray | None], reason: str) -> None:
        """Note why these channels have to stay; the first reason counts."""
        self._pins += [(numbers, reason) for numbers in layouts if numbers is not None and numbers.size]

    def bundles(self) -> np.ndarray:
        """Return the bundle of each channel: tied channels share one, and bundles are numbered in order."""
        labels = np.arange(self._count)
        firsts = np.concatenate([np.empty(0, int), *(first.ravel() for first, _ in self._ties)])
        seconds = np.concatenate([np.empty(0, int), *(second.ravel() for _, second in self._ties)])
        while np.any(labels[firsts] != labels[seconds]):
            least = np.minimum(labels[firsts], labels[seconds])
            for ends in (firsts, seconds):
                np.minimum.at(labels, labels[ends], least)
                np.minimum.at(labels, ends, least)
            labels = _roots(labels)
        return np.unique(labels, return_inverse=True)[1]

    def reasons(self, bundles: np.ndarray) -> dict[int, str]:
        """Return why a bundle has to stay, for each that does."""
        first_reasons: dict[int, str] = {}
        for numbers, reason in self._pins:
            for bundle in np.unique(bundles[numbers]):
                first_reasons.setdefault(int(bundle), reason)
        return first_reasons


def _roots(labels: np.ndarray) -> np.ndarray:
    while np.any(labels[labels] != labels):
        labels = labels[labels]
    return labels


# Layouts


def differing_axes(numbers: np.ndarray) -> list[int]:
    """Return the axes along which some entries differ."""
    return [axis for axis in range(numbers.ndim) if np.any(numbers != numbers.take([0], axis))]


def has_channels(layout: Layout) -> bool:
    """Return True if a tensor has channels along any axis."""
    return any(channels is not None for channels in layout)


def along(layout: Layout, axis: int) -> np.ndarray | None:
    """Return the channels along one axis of a layout that has none along any other.

    Raises:
        NoRule: If it has.
    """
    axis %= len(layout)
    if has_channels((*layout[:axis], *layout[axis + 1 :])):
        raise NoRule(f"it takes channels along axis {axis} only")
    return layout[axis]


def placed(rank: int, axis: int, channels: np.ndarray | None) -> Layout:
    """Return the layout of a tensor that has channels along one axis.

    Raises:
        NoRule: If the tensor has no axes.
    """
    if channels is not None and not rank:
        raise NoRule("it makes a tensor without axes from channels")
    return tuple(channels if index == axis % rank else None for index in range(rank))


def positions(shape: Sequence[int | None], *axes: int) -> int:
    """Return the positions per sample of a tensor, without the given axes; an unknown size counts as 1."""
    left_out = {0, *(axis % max(len(shape), 1) for axis in axes)}
    return int(np.prod([size or 1 for index, size in enumerate(shape) if index not in left_out], dtype=np.int64))


def sizes(shape: Iterable[int], layout: Layout) -> tuple[Size, ...]:
    """Return the sizes of a weight, channels in place of a number where it has them."""
    return tuple(int(size) if channels is None else channels for size, channels in zip(shape, layout, strict=True))


def check_fits(layout: Layout, shape: Sequence[int | None], name: str) -> None:
    """Refuse a layout with other sizes than a tensor or weight has.

    Raises:
        NoRule: With its name.
    """
    counts = [None if channels is None else channels.size for channels in layout]
    fits = len(counts) == len(shape) and all(
        count is None or count == length for count, length in zip(counts, shape, strict=True)
    )
    if not fits:
        raise NoRule(f"its rule gives {name} of shape {tuple(shape)} channels of sizes {counts}")


# What a layer or an operator has of channels


@dataclass(frozen=True, eq=False)
class ChannelIndices:
    """An argument that names channels by their indices, which change where others are removed.

    Attributes:
        along: The channels along the axis that the indices count on.
        indices: The indices, from 0 on.
    """

    along: np.ndarray
    indices: np.ndarray

    def kept(self, keep: np.ndarray) -> tuple[int, ...]:
        """Return where the channels that are kept are among each other.

        Args:
            keep: Whether each channel, or bundle where `along` holds bundles, is kept.
        """
        places = np.cumsum(keep[self.along]) - 1
        return tuple(places[self.indices[keep[self.along[self.indices]]]].tolist())


@dataclass
class Recorded:
    """What a layer or an operator has of channels.

    Attributes:
        weights: The channels along the axes of each of its weights, by their index among its weights or inputs.
        arguments: Its arguments that count channels: an array in place of a number, alone, in a tuple or in a dict;
            or that name them (`ChannelIndices`).
        work: Its multiplications on one sample.
    """

    weights: dict[int, Layout] = field(default_factory=dict)
    arguments: dict[Any, Any] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)

    def in_bundles(self, bundles: np.ndarray) -> Recorded:
        """Return the same with the bundle of each channel in place of its number."""
        return Recorded(*(in_bundles(each, bundles) for each in (self.weights, self.arguments, self.work)))


def in_bundles(value: Any, bundles: np.ndarray) -> Any:
    """Return a layout or an argument with the bundle of each channel in place of its number."""
    if isinstance(value, np.ndarray):
        return bundles[value]
    if isinstance(value, ChannelIndices):
        return replace(value, along=bundles[value.along])
    if isinstance(value, dict):
        return {name: in_bundles(entry, bundles) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(in_bundles(entry, bundles) for entry in value)
    return value


def counted(value: Any, keep: np.ndarray) -> Any:
    """Return an argument that counts or names bundles as it is where only those in `keep` are left."""
    if isinstance(value, np.ndarray):
        return int(np.count_nonzero(keep[value]))
    if isinstance(value, ChannelIndices):
        return value.kept(keep)
    if isinstance(value, dict):
        return {name: counted(entry, keep) for name, entry in value.items()}
    return type(value)(counted(entry, keep) for entry in value) if isinstance(value, tuple | list) else value


def _product(counts: Iterable[Size], keep: np.ndarray) -> int:
    """Return a product of sizes where only the bundles in `keep` are left."""
    result = 1
    for size in counts:
        result *= counted(size, keep)
    return result


def flops(work: Iterable[Work], keep: np.ndarray) -> int:
    """Return the floating-point operations where only the bundles in `keep` are left: two a multiplication."""
    return sum(2 * factor * _product(counts, keep) for factor, counts in work)


def channels_in(argument: Any) -> Iterator[np.ndarray]:
    """Yield the channels that an argument counts or names."""
    if isinstance(argument, np.ndarray):
        yield argument
    elif isinstance(argument, ChannelIndices):
        yield argument.along
    elif isinstance(argument, tuple | list):
        for entry in argument:
            yield from channels_in(entry)


# From call to call


class _FlowGraph(Protocol):
    """A network as the calls that it makes."""

    @property
    def calls(self) -> Sequence[Any]:
        """The calls, in an order in which they can be made.

        Each has `inputs` and `outputs`, the tensors that it takes and makes; a `name` for reasons; and a `holder`,
        under which its weights are recorded: all calls of one layer have the same.
        """

    @property
    def outputs(self) -> Sequence[Any]:
        """The tensors that it returns."""

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        """Return the shape of a tensor."""

    def is_constant(self, tensor: Any) -> bool:
        """Return True if a tensor depends on no input."""


class ChannelFlow(_Channels):
    """The channels of a network, followed from call to call.

    Args:
        graph: The network.

    Attributes:
        layouts: For each tensor that has channels, those along each axis.
        recorded: What each layer or operator has of channels.
        unfollowed: Why, for each layer without a rule that no channels lead into.
    """

    def __init__(self, graph: _FlowGraph) -> None:
        super().__init__()
        self.graph = graph
        self.layouts: dict[Any, Layout] = {}
        self.recorded: dict[Any, Recorded] = {}
        self.unfollowed: dict[Hashable, str] = {}
        self._refused: dict[Hashable, NoRule] = {}  # another call of the same layer is not followed, either

    def follow_calls(self, rule_of: Callable[[Any], Any], *, reason: str) -> None:
        """Follow the channels through all calls.

        Args:
            rule_of: Returns the rule of a call, a function of the flow and the call that returns a layout for each
                output; raises `NoRule` if there is none.
            reason: Why the channels of the outputs stay.
        """
        for call in self.graph.calls:
            layouts = self.follow(call, rule_of)
            self.layouts |= {
                tensor: layout for tensor, layout in zip(call.outputs, layouts, strict=True) if has_channels(layout)
            }
        for tensor in self.graph.outputs:
            self.pin(self.layout(tensor), reason)

    def layout(self, tensor: Any) -> Layout:
        """Return the channels along the axes of a tensor; an input of the network and a constant have none."""
        unknown = (None,) * len(self.graph.shape(tensor))
        return unknown if self.graph.is_constant(tensor) else self.layouts.get(tensor, unknown)

    def inputs(self, call: Any) -> list[Layout]:
        """Return the layouts of the tensors that a call takes, in order."""
        return [self.layout(tensor) for tensor in call.inputs]

    def follow(self, call: Any, rule_of: Callable[[Any], Any]) -> Sequence[Layout]:
        """Return the layouts of what a call returns; if it has no rule, the channels of its inputs have to stay."""
        count = len(self.sources)
        try:
            if call.holder in self._refused:
                raise self._refused[call.holder]
            layouts = rule_of(call)(self, call)
            if len(layouts) != len(call.outputs):
                raise NoRule(f"its rule returns {len(layouts)} layouts for {len(call.outputs)} outputs")
            for layout, tensor in zip(layouts, call.outputs, strict=True):
                check_fits(layout, self.graph.shape(tensor), "an output")
            return layouts
        except NoRule as reason:
            del self.sources[count:]
            held = self.recorded.pop(call.holder, Recorded())
            given = [*self.inputs(call), *held.weights.values(), tuple(channels_in(tuple(held.arguments.values())))]
            for layout in given:
                self.pin(layout, f"{call.name}: {reason}")
            if any(map(has_channels, given)):
                self._refused[call.holder] = reason
            else:
                self.unfollowed[call.holder] = str(reason)
            return [(None,) * len(self.graph.shape(tensor)) for tensor in call.outputs]


# Groups


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are ranked with each other: those of one layer, and of all layers it is added to.

    Attributes:
        name: The first layer or weight that makes them, with a suffix if it makes several kinds; no two groups share
            a name.
        kind: "channels", or "heads" of attention.
        bundles: The numbers of its bundles; a bundle is what can only go as a whole.
        free: Whether each of them may go.
        reason: Why the first of the others has to stay; None if there are none.
        parts: Bundles of which one stays at least, so that no axis gets empty.
        members: The layers that make, read or pass the channels.
    """

    name: str
    kind: str
    bundles: np.ndarray
    free: np.ndarray
    reason: str | None = None
    parts: tuple[np.ndarray, ...] = ()
    members: tuple[str, ...] = ()

    @property
    def stuck(self) -> str | None:
        """Why none of the channels may go; None if some may."""
        if self.bundles.size < 2:
            return "only one"
        return None if self.free.any() else self.reason

    def free_part(self) -> Group:
        """Return the group without the bundles that have to stay."""
        return replace(self, bundles=self.bundles[self.free], free=self.free[self.free])

    def kept(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Return which bundles stay where those with the lowest scores go: at least one of each part.

        Args:
            scores: The score of each bundle of the group.
            count: How many stay; more do if more have to.
        """
        keep = ~self.free
        self.keep_one_of_each_part(keep, scores)
        more = count - int(np.count_nonzero(keep))
        if more > 0:
            others = np.flatnonzero(~keep)
            keep[others[keep_largest(scores[others], more)]] = True
        return keep

    def keep_one_of_each_part(self, keep: np.ndarray, scores: np.ndarray) -> None:
        """Let the best bundle of each part stay that would get empty, such as one of several that are concatenated.

        Args:
            keep: Which bundles of the group stay; it is changed.
            scores: The score of each.
        """
        for part in self.parts:
            indices = np.searchsorted(self.bundles, part)
            if not keep[indices].any():
                keep[indices[keep_largest(scores[indices], 1)]] = True

    def __str__(self) -> str:
        return f"{self.name}: {self.bundles.size} {self.kind} of {', '.join(self.members)}"


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """The channels of a network as data.

    Attributes:
        groups: Its groups of channels.
        reasons: Why a bundle has to stay, by its number, for those that do.
        size: The number of bundles.
    """

    groups: tuple[Group, ...]
    reasons: dict[int, str]
    size: int

    def all_kept(self) -> np.ndarray:
        """Return the choice that keeps all bundles, True for each."""
        return np.ones(self.size, dtype=bool)

    def keep_best(
        self, groups: Sequence[Group], scores: np.ndarray, split: Sequence[float | None], *, round_to: Sequence[int]
    ) -> np.ndarray:
        """Return which bundles stay where each group loses its share of its lowest-scored free bundles.

        At least one bundle of each axis of a weight stays.

        Args:
            groups: The groups that lose channels.
            scores: The score of every bundle.
            split: The fraction of each group that goes; None leaves a group as it is.
            round_to: For each group, the number kept is rounded up to a multiple of this.
        """
        keep = self.all_kept()
        for group, share, multiple in zip(groups, split, round_to, strict=True):
            if share is not None:
                count = kept_count(group.bundles.size, share, round_to=multiple)
                keep[group.bundles] = group.kept(scores[group.bundles], count)
        return keep


def form_groups(
    channels: _Channels,
    bundles: np.ndarray,
    *,
    axes: Iterable[frozenset[int]],
    holders: Mapping[str, Iterable[frozenset[int]]] | None = None,
) -> tuple[tuple[Group, ...], dict[int, str], int]:
    """Return the fields of a `DependencyGraph`: sources whose channels are tied, directly or through others, are one.

    Args:
        channels: The channels.
        bundles: The bundle of each.
        axes: The bundles along each axis that may not get empty, other than those of weights.
        holders: The bundles along each axis of the weights of a layer, by the name of the layer.
    """
    sources, reasons = _joined(channels.sources, bundles), channels.reasons(bundles)
    wholes = [np.unique(np.concatenate([bundles[source.channels] for source in same])) for same in sources]
    sets = [frozenset(whole.tolist()) for whole in wholes]
    group_of = {bundle: index for index, whole in enumerate(sets) for bundle in whole}
    parts: list[dict[frozenset[int], None]] = [{} for _ in sets]  # in order
    members: list[dict[str, None]] = [{} for _ in sets]
    for holder, some in [(None, axes), *(holders or {}).items()]:
        for axis in some:
            for index in {group_of[bundle] for bundle in axis if bundle in group_of}:
                parts[index] |= {axis & sets[index]: None} if not sets[index] <= axis else {}
                members[index] |= {holder: None} if holder is not None else {}
    names: set[str] = set()
    groups = []
    for same, whole, own_parts, own_members in zip(sources, wholes, parts, members, strict=True):
        held = [reasons.get(bundle) for bundle in whole.tolist()]
        groups.append(
            Group(
                *_name_and_kind(same, names),
                bundles=whole,
                free=np.array([reason is None for reason in held], dtype=bool),
                reason=next(filter(None, held), None),
                parts=tuple(np.array(sorted(part)) for part in own_parts),
                members=tuple(own_members),
            )
        )
    return tuple(groups), reasons, int(bundles.max(initial=-1)) + 1


def _name_and_kind(sources: list[_ChannelSource], names: set[str]) -> tuple[str, str]:
    """Return a name that is not taken: that of the first source; for heads of several layers, what theirs share."""
    kind = "heads" if any(source.kind == "heads" for source in sources) else sources[0].kind
    layers = [source.name.partition("/")[0] for source in sources if source.kind == kind]
    common = os.path.commonprefix(layers).rstrip("_")
    name = f"{common}/heads" if kind == "heads" and len(layers) > 1 and common else sources[0].name
    while name in names:
        name += "_"
    names.add(name)
    return name, kind


def _joined(sources: Sequence[_ChannelSource], bundles: np.ndarray) -> list[list[_ChannelSource]]:
    """Group the sources that share a bundle, directly or through others, in order."""
    owner: dict[int, list[int]] = {}
    groups: list[list[int]] = []
    for index, source in enumerate(sources):
        own_bundles = np.unique(bundles[source.channels]).tolist()
        met = list({id(owner[bundle]): owner[bundle] for bundle in own_bundles if bundle in owner}.values())
        group = [member for earlier in met for member in earlier] + [index]
        groups = [other for other in groups if not any(other is earlier for earlier in met)] + [group]
        for member in group:
            owner.update(dict.fromkeys(bundles[sources[member].channels].tolist(), group))
    return [[sources[index] for index in group] for group in sorted(sorted(group) for group in groups)]


# A Keras model as data


@dataclass(frozen=True, eq=False)
class ChanneledWeight:
    """What one weight holds of channels.

    Attributes:
        layer: The name of its layer.
        name: Its path in its layer, `kernel`.
        shape: Its shape.
        bundles_along: The bundle of the channel at each index along an axis, for each axis that has channels.
        itemsize: Bytes of an entry.
        reads: The axes whose channels it mixes into others.
        makes: The axes whose channels it makes.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    bundles_along: dict[int, np.ndarray]
    itemsize: int
    reads: tuple[int, ...] = ()
    makes: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Its path in the flat model, `hidden/kernel`."""
        return f"{self.layer}/{self.name}"

    def size(self, keep: np.ndarray) -> int:
        """Return the number of entries where only the bundles in `keep` are left."""
        return _product((self.bundles_along.get(axis, size) for axis, size in enumerate(self.shape)), keep)

    def reading(self, bundles: np.ndarray) -> list[int]:
        """Return the axes along which it reads any of these bundles."""
        return [axis for axis in self.holding(bundles) if axis in self.reads]

    def making(self, bundles: np.ndarray) -> list[int]:
        """Return the axes along which it makes any of these bundles."""
        return [axis for axis in self.holding(bundles) if axis in self.makes]

    def holding(self, bundles: np.ndarray) -> list[int]:
        """Return the axes that have any of these bundles; a bias has some that it neither reads nor makes."""
        return [axis for axis, along in self.bundle_sets.items() if not along.isdisjoint(bundles.tolist())]

    @cached_property
    def bundle_sets(self) -> dict[int, frozenset[int]]:
        """The bundles along each axis that has channels, in no order."""
        return {axis: frozenset(along.tolist()) for axis, along in self.bundles_along.items()}

    def is_empty(self, keep: np.ndarray, axes: Iterable[int]) -> bool:
        """Return True if no channel is left along one of some axes."""
        return any(not keep[self.bundles_along[axis]].any() for axis in axes)

    def mask(self, keep: np.ndarray) -> np.ndarray:
        """Return where it neither makes nor reads a bundle that is not kept: booleans of its shape."""
        mask = np.ones(self.shape, dtype=bool)
        for axis in (*self.reads, *self.makes):
            mask &= keep[self.bundles_along[axis]].reshape(shape_along(mask.ndim, axis))
        return mask

    def kept(self, values: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Return the entries of an array of its shape that are left where only the bundles in `keep` are."""
        for axis, bundles in self.bundles_along.items():
            values = np.compress(keep[bundles], values, axis=axis)
        return values

    def bundles_read(self, live: np.ndarray) -> np.ndarray:
        """Return the bundles that it reads by an entry that is True in `live`, booleans of its shape."""
        inputs = [self.bundles_along[axis][live.any(axis=other_axes(live.ndim, axis))] for axis in self.reads]
        return np.concatenate([np.empty(0, int), *inputs])


@dataclass(frozen=True, eq=False)
class ChanneledLayer:
    """What one layer holds of channels.

    Attributes:
        name: Its name.
        weights: Its weights.
        config: Its arguments that count channels, with the bundles in place of their number, or that name them.
        work: Its multiplications.
        takes: The bundles along each axis of what it first takes, None along an axis without channels.
    """

    name: str
    weights: tuple[ChanneledWeight, ...]
    config: dict[str, Any]
    work: tuple[Work, ...]
    takes: tuple[np.ndarray | None, ...] = ()

    def reads_nothing(self, keep: np.ndarray) -> bool:
        """Return True if it returns a constant where only the bundles in `keep` are left."""
        ends = [weight for weight in self.weights if weight.is_empty(keep, weight.reads)]
        written = {bundle for end in ends for axis in end.makes for bundle in end.bundles_along[axis].tolist()}
        rest = [weight for weight in self.weights if not weight.is_empty(keep, (*weight.reads, *weight.makes))]
        return bool(ends) and not any(written & weight.bundle_sets[axis] for weight in rest for axis in weight.makes)

    def taken_by_index(self) -> Iterator[frozenset[int]]:
        """Yield the bundles that an operation takes by their indices."""
        for value in self.config.values():
            if isinstance(value, ChannelIndices):
                yield frozenset(value.along[value.indices].tolist())

    @property
    def mixes(self) -> bool:
        """Whether it has a weight that may be a kernel."""
        return any(len(weight.shape) > 1 for weight in self.weights)

    def counted(self, keep: np.ndarray) -> dict[str, Any]:
        """Return its arguments that count channels where only the bundles in `keep` are left."""
        return counted(self.config, keep)

    def changes(self, keep: np.ndarray) -> bool:
        """Return True if it has other sizes where only the bundles in `keep` are left."""
        is_smaller = any(weight.size(keep) != math.prod(weight.shape) for weight in self.weights)
        return is_smaller or self.counted(keep) != self.counted(np.ones_like(keep))

    def values_kept(self, layer: Any, values: Iterable[np.ndarray], keep: np.ndarray) -> list[np.ndarray]:
        """Return the values of the variables of the layer itself that are left where only `keep` are."""
        weights = dict(zip(map(id, layer.weights), self.weights, strict=True))
        return [
            weights[id(variable)].kept(value, keep) if id(variable) in weights else value
            for variable, value in zip(layer.variables, values, strict=True)
        ]

    def flops(self, keep: np.ndarray) -> int:
        """Return twice its multiplications on one sample."""
        return flops(self.work, keep)


@dataclass(frozen=True, eq=False)
class Network(DependencyGraph):
    """The dependency graph of a flat model: its channels, and which weights make and read them.

    Attributes:
        layers: Its layers, by name, in the model's order.
        unfollowed: Why a layer with kernels could not be looked into, by its name.
        takers: What takes the outputs of an input, layer or operation, by its name; the outputs of the
            model are taken by "".

    Example:
        A channel of "hidden" goes from its kernel, its bias and the kernel of "out"; those of "out" are outputs.

        >>> import keras
        >>> from tfprune.channels.groups import analyze
        >>> hidden, out = keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="out")
        >>> x = keras.Input((3,))
        >>> network = analyze(keras.Model(x, out(hidden(x))))
        >>> print(network)
        group   weight         axis  role   channels  may go
        ------  -------------  ----  -----  --------  ------
        hidden  hidden/kernel  1     makes         4       4
        hidden  hidden/bias    0     holds         4       4
        hidden  out/kernel     0     reads         4       4
        out     out/kernel     1     makes         2       0
        out     out/bias       0     holds         2       0
        >>> [weight.path for weight in network.weights_of(network.groups[0])]
        ['hidden/kernel', 'out/kernel']
    """

    layers: dict[str, ChanneledLayer] = field(default_factory=dict)
    unfollowed: dict[str, str] = field(default_factory=dict)
    takers: dict[str, frozenset[str]] = field(default_factory=dict)

    def weights_of(self, group: Group) -> list[ChanneledWeight]:
        """Return the weights that make or read channels of a group."""
        weights = (weight for name in group.members for weight in self.layers[name].weights)
        return [weight for weight in weights if weight.reading(group.bundles) or weight.making(group.bundles)]

    def scores(self, scored: Iterable[tuple[ChanneledWeight, np.ndarray]]) -> np.ndarray:
        """Return the mean score of the entries that make each bundle; NaN where no kernel makes it.

        Args:
            scored: Kernels that make channels, each with its scores in its own shape.
        """
        sums, counts = np.zeros(self.size), np.zeros(self.size)
        for weight, scores in scored:
            for axis in weight.makes:
                of_channels = scores.sum(axis=other_axes(scores.ndim, axis), dtype=np.float64)
                np.add.at(sums, weight.bundles_along[axis], of_channels)
                np.add.at(counts, weight.bundles_along[axis], scores.size / of_channels.size)
        with np.errstate(invalid="ignore"):
            return sums / counts

    def variables(self, model: Any) -> Iterator[tuple[ChanneledWeight, Any]]:
        """Yield each weight with its variable in a flat model of these layers."""
        layers = {layer.name: layer for layer in model.layers}
        for layer in self.layers.values():
            yield from zip(layer.weights, layers[layer.name].weights, strict=True) if layer.weights else ()

    def branch_ends(self, keep: np.ndarray) -> frozenset[str]:
        """Return the layers that read nothing any more: the last ones of branches that are removed whole."""
        return frozenset(name for name, layer in self.layers.items() if layer.reads_nothing(keep))

    def unread(self, keep: np.ndarray) -> frozenset[str]:
        """Return the inputs, layers and operations whose outputs lead into removed branches only."""
        return _unread(self.takers, ends=self.branch_ends(keep))

    def weights_left(self, keep: np.ndarray) -> Iterator[ChanneledWeight]:
        """Yield the weights that are left: the end of a branch that is removed whole keeps its biases."""
        ends = self.branch_ends(keep)
        for name in self.layers.keys() - self.unread(keep):
            yield from (each for each in self.layers[name].weights if name not in ends or not each.reads + each.makes)

    def parameters(self, keep: np.ndarray) -> int:
        """Return the number of entries of all weights."""
        return sum(weight.size(keep) for weight in self.weights_left(keep))

    def bytes(self, keep: np.ndarray) -> int:
        """Return the bytes of all weights as they are in the model."""
        return sum(weight.itemsize * weight.size(keep) for weight in self.weights_left(keep))

    def flops(self, keep: np.ndarray) -> int:
        """Return the floating-point operations of one sample: two for each multiplication."""
        gone = self.unread(keep) | self.branch_ends(keep)
        return sum(layer.flops(keep) for name, layer in self.layers.items() if name not in gone)

    def __str__(self) -> str:
        rows = [
            [group.name, weight.path, axis, _role(weight, axis), group.bundles.size, int(group.free.sum())]
            for group in self.groups
            for name in group.members
            for weight in self.layers[name].weights
            for axis in weight.holding(group.bundles)
        ]
        return table(["group", "weight", "axis", "role", "channels", "may go"], rows, left=4)


def _role(weight: ChanneledWeight, axis: int) -> str:
    return "reads" if axis in weight.reads else "makes" if axis in weight.makes else "holds"


def _unread(takers: Mapping[str, Collection[str]], *, ends: Collection[str]) -> frozenset[str]:
    """Return the inputs, layers and operations that lead into the ends of removed branches only.

    Args:
        takers: What takes the outputs of each.
        ends: The layers that read nothing any more.

    Example:
        x -> hidden -> out, and the result is added to x:

        >>> takers = {"x": {"hidden", "add"}, "hidden": {"out"}, "out": {"add"}, "add": {""}}
        >>> sorted(_unread(takers, ends={"out"}))
        ['hidden']
    """
    names: set[str] = set()
    count = -1
    while ends and len(names) > count:  # again, as a layer that is called twice leads into what comes before others
        count = len(names)
        names |= {name for name, some in takers.items() if all(taker in ends or taker in names for taker in some)}
    return frozenset(names)


def is_cut_off(takers: Mapping[str, Collection[str]], *, ends: Collection[str]) -> bool:
    """Return True if the outputs of the model would no longer depend on its inputs.

    Args:
        takers: What takes the outputs of each.
        ends: The layers that read nothing any more.
    """
    inputs = takers.keys() - {taker for some in takers.values() for taker in some}
    return inputs <= _unread(takers, ends=ends)


# Statistics of channels under masks.

Along = tuple[Any, int, np.ndarray]  # a weight by its index or path, an axis, and the bundles along it


@dataclass(frozen=True, eq=False)
class StatisticsOwners:
    """Which statistics, such as those of BatchNormalization, are of channels that a model makes under masks.

    Attributes:
        makers: What makes channels.
        statistics: The statistics of these channels.
    """

    makers: Sequence[Along] = ()
    statistics: Sequence[Along] = ()

    @classmethod
    def of(cls, weights: Iterable[tuple[Any, ChanneledWeight]], *, untrained: Collection[Any]) -> StatisticsOwners:
        """Find the statistics among weights with channels: vectors that are not trained."""
        every = list(weights)
        makers = [(key, axis, weight.bundles_along[axis]) for key, weight in every for axis in weight.makes]
        made = {bundle for *_, bundles in makers for bundle in bundles.tolist()}
        vectors = [weight for weight in every if weight[0] in untrained and len(weight[1].shape) == 1]
        found = [(key, 0, weight.bundles_along[0]) for key, weight in vectors if 0 in weight.bundles_along]
        return cls(makers, [along for along in found if made.issuperset(along[2].tolist())])

    def masks(self, masks: Mapping[Any, np.ndarray | None]) -> dict[Any, np.ndarray]:
        """Return the masks of statistics of which some channels are made by no entry that the masks keep."""
        made: set[int] = set()
        for key, axis, bundles in self.makers:
            mask = masks.get(key)
            kept = bundles if mask is None else bundles[mask.any(axis=other_axes(mask.ndim, axis))]
            made.update(kept.tolist())
        found = {key: np.isin(bundles, list(made)) for key, _, bundles in self.statistics}
        return {key: mask for key, mask in found.items() if not mask.all()}

    def as_lists(self, names: Mapping[Any, str]) -> list[list[Any]]:
        """Return plain lists, with weights by name and bundles as runs (first, number)."""
        every = (self.makers, self.statistics)
        return [[[names[key], axis, _runs(bundles)] for key, axis, bundles in alongs] for alongs in every]

    @classmethod
    def from_lists(cls, lists: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]) -> StatisticsOwners:
        """Read what `as_lists` returned, for weights of these shapes; others have no masks and no statistics.

        Raises:
            ValueError: If they do not fit the shapes.
        """
        found: list[list[Along]] = [[], []]
        for alongs, entries in zip(found, lists, strict=False):
            for name, axis, runs in entries:
                count, most = sum(number for _, number in runs), 2**24
                if not 0 <= count <= most or name in shapes and count != shapes[name][axis]:
                    raise ValueError(f"Expected the channels of {name!r}. Received: {count} along axis {axis}.")
                alongs.append((name, axis, np.concatenate([first + np.arange(number) for first, number in runs])))
        return cls(found[0], [along for along in found[1] if along[0] in shapes])


def _runs(bundles: np.ndarray) -> list[list[int]]:
    """Return runs of consecutive numbers, each as its first one and how many they are."""
    parts = np.split(bundles, np.flatnonzero(np.diff(bundles) != 1) + 1)
    return [[int(part[0]), len(part)] for part in parts if len(part)]
