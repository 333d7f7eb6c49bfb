"""The plan of the mirror rewrite: which calls work on mirrored maps, and what padding they then need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from tfprune.export.keras_side.sparse_ready.mirrorable import CONVOLUTIONS, is_mirrorable
from tfprune.export.keras_side.sparse_ready.window import Padding, Window, window_of
from tfprune.keras_models.models.graph import Call, Graph, grouped
from tfprune.report import Report, table

layers = keras.layers
AXES = {1: "rows", 2: "columns"}
KERNELS = [kind.__name__ for kind in CONVOLUTIONS]


@dataclass(frozen=True)
class MirrorStep(Report):
    """The change to one call.

    Attributes:
        layer: Name of the layer or operation.
        kind: Its class.
        mirrored: The axes along which its maps, and its kernel, are mirrored: 1 (rows), 2 (columns).
        padding: None where nothing changes. For a padding or cropping layer, its new argument; for a convolution, the
            number of entries to add before and after on each axis, negative to crop.
    """

    layer: str
    kind: str
    mirrored: tuple[int, ...] = ()
    padding: tuple[Padding, Padding] | None = None

    @property
    def changes(self) -> bool:
        """Whether the layer differs from the original one; many work on mirrored maps as they are."""
        return self.padding is not None or (bool(self.mirrored) and self.kind in KERNELS)


@dataclass(frozen=True)
class MirrorPlan(Report):
    """The change to each call of a model.

    Attributes:
        steps: One entry per call, in the order of the calls.
    """

    steps: tuple[MirrorStep, ...]

    @property
    def changes(self) -> bool:
        """Whether any layer differs from the original one."""
        return any(step.changes for step in self.steps)

    def __str__(self) -> str:
        rows = [
            [step.layer, step.kind, " and ".join(AXES[axis] for axis in step.mirrored) or "-", _text(step.padding)]
            for step in self.steps
            if step.changes
        ]
        return table(["layer", "kind", "mirrored", "padding"], rows, left=4)


def _text(padding: tuple[Padding, Padding] | None) -> str:
    return "as it is" if padding is None else " ".join(f"{before}+{after}" for before, after in padding)


def plan_mirroring(graph: Graph) -> MirrorPlan:
    """Decide what to mirror, along rows and columns apart, so that most strided convolutions get symmetric padding.

    Maps are mirrored in whole regions: calls that take each other's maps. Layers that are not known to work on
    mirrored maps bound a region and keep the original maps.

    Raises:
        ValueError: If a strided convolution has maps of unknown size, or a layer that is called several times would
            have to be changed in different ways.
    """
    mirrored: dict[int, tuple[int, ...]] = {id(call): () for call in graph.calls}
    for axis in AXES:
        for region in _regions(graph, axis):
            if _gain(graph, region, axis) > 0:
                mirrored.update({id(call): (*mirrored[id(call)], axis) for call in region})
    paddings: dict[int, tuple[Padding, Padding]] = {}
    for call in graph.calls:
        if isinstance(call.layer, layers.ZeroPadding2D | layers.Cropping2D):
            _swap(call, mirrored[id(call)], paddings)
    for call in graph.calls:
        if type(call.layer) in CONVOLUTIONS and is_mirrorable(call, 1):
            _pad(graph, call, mirrored[id(call)], paddings)
    steps = tuple(
        MirrorStep(call.layer.name, type(call.layer).__name__, mirrored[id(call)], paddings.get(id(call)))
        for call in graph.calls
    )
    _check_shared(graph, steps)
    return MirrorPlan(steps)


def _regions(graph: Graph, axis: int) -> list[list[Call]]:
    """Return the calls that have to be mirrored together, in groups."""
    passing = {id(call): call for call in graph.calls if is_mirrorable(call, axis)}
    links = [
        (passing[id(producer)], call)
        for call in passing.values()
        for tensor in call.inputs
        if tensor.shape[axis] != 1 and id(producer := graph.producer(tensor)) in passing
    ]
    return grouped(list(passing.values()), links)


def _gain(graph: Graph, region: list[Call], axis: int) -> int:
    """Return how many more convolutions of a region have symmetric padding when it is mirrored."""
    windows = [_window(graph, call, axis) for call in region if type(call.layer) in CONVOLUTIONS]
    return sum(window.mirrored().is_centered - window.is_centered for window in windows)


def _pad_in_front(graph: Graph, call: Call) -> Call | None:
    """Return the call of a padding layer whose only purpose is the padding of a convolution."""
    producer = graph.producer(call.inputs[0])
    if call.layer.padding != "valid" or producer is None or type(producer.layer) is not layers.ZeroPadding2D:
        return None
    is_alone = len(graph.consumers(producer)) == 1 and not graph.is_output(producer)
    return producer if is_alone and is_mirrorable(producer, 1) else None


def _window(graph: Graph, call: Call, axis: int) -> Window:
    front = _pad_in_front(graph, call)
    size = (front or call).inputs[0].shape[axis]
    if size is None:
        if call.layer.strides[axis - 1] != 1:
            raise ValueError(
                f"Expected maps of fixed size before convolutions with a stride. Received: {call.layer.name!r} on "
                f"{tuple(call.inputs[0].shape)}, whose padding depends on the size. Build the model again with the "
                f"size in `keras.Input(shape)`, and load its weights."
            )
        size = 2**16  # any size does: with a stride of 1 every entry is reached
    return window_of(call.layer, size, axis=axis, padded=front.layer.padding[axis - 1] if front else (0, 0))


def _swap(call: Call, mirrored: tuple[int, ...], paddings: dict[int, Any]) -> None:
    """Reverse the argument of a padding or cropping layer along the axes that are mirrored."""
    before = call.layer.padding if isinstance(call.layer, layers.ZeroPadding2D) else call.layer.cropping
    after = tuple(pair[::-1] if axis in mirrored else pair for axis, pair in zip(AXES, before, strict=True))
    if after != before:
        paddings[id(call)] = after


def _pad(graph: Graph, call: Call, mirrored: tuple[int, ...], paddings: dict[int, Any]) -> None:
    """Find the padding of a convolution, which a layer in front of it may add."""
    windows = [_window(graph, call, axis) for axis in AXES]
    turned = [window.mirrored() if axis in mirrored else window for axis, window in zip(AXES, windows, strict=True)]
    is_strided = max(call.layer.strides) > 1
    is_centered = all(window.is_centered for window in turned)
    # Symmetric padding on one axis alone does not help.
    needed = tuple(window.centered().padding if is_centered else window.padding for window in turned)
    front = _pad_in_front(graph, call)
    if front is not None:
        paddings[id(front)] = tuple((max(before, 0), max(after, 0)) for before, after in needed)
        needed = tuple((min(before, 0), min(after, 0)) for before, after in needed)
        if needed != ((0, 0), (0, 0)):
            paddings[id(call)] = needed
    elif needed != tuple(window.padding for window in windows) or (
        # Also where "same" is symmetric already: XNNPACK only reads numbers.
        is_strided and is_centered and call.layer.padding == "same" and max(map(max, needed)) > 0
    ):
        paddings[id(call)] = needed


def _check_shared(graph: Graph, steps: tuple[MirrorStep, ...]) -> None:
    """Refuse a layer whose calls need different padding."""
    first: dict[int, MirrorStep] = {}
    for call, step in zip(graph.calls, steps, strict=True):
        first_step = first.setdefault(id(call.layer), step)
        if (first_step.padding is None) != (step.padding is None) or (
            first_step.padding != step.padding and type(call.layer) not in CONVOLUTIONS
        ):
            raise ValueError(
                f"Expected a layer that is called several times to need the same padding each time. Received: "
                f"{step.layer!r}, whose maps differ in size. Give each call a layer of its own."
            )
