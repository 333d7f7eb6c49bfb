"""Rewrite a model, without changing what it computes, into one whose 1x1 convolutions XNNPACK can run sparse."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.masking.strip import plain_copy
from tfprune.models.anatomy import Anatomy, check_keras, walk
from tfprune.models.graph import Call, Graph, flatten, grouped, is_plain, retrace, trace, unused_name
from tfprune.report import Report, table

# Where the windows of a convolution or a pool lie along one axis, forwards and mirrored.

_Padding = tuple[int, int]


@dataclass(frozen=True)
class _Window:
    """The windows that a kernel sees along one axis.

    Attributes:
        size: Length of the axis.
        kernel: Length of the kernel, the gaps of a dilation included.
        stride: Distance from one window to the next.
        padding: Entries added before and after; negative where entries are cropped.
    """

    size: int
    kernel: int
    stride: int
    padding: _Padding

    @property
    def unused(self) -> int:
        """How many entries at the end no window reaches."""
        return (self.size + sum(self.padding) - self.kernel) % self.stride

    @property
    def half(self) -> int:
        """The padding on each side that puts the first window's center on the first entry."""
        return (self.kernel - 1) // 2

    def mirrored(self) -> _Window:
        """Return the windows on the mirrored axis that see the same entries, in reverse order."""
        before, after = self.padding
        return _Window(self.size, self.kernel, self.stride, (after - self.unused, before))

    @property
    def is_centered(self) -> bool:
        """Whether padding by half the kernel on both sides gives the same windows."""
        before, after = self.padding
        needed = after - self.unused  # up to a stride more adds no window
        return before == self.half and needed <= self.half < needed + self.stride

    def centered(self) -> _Window:
        """Return the same windows with symmetric padding where that is possible."""
        return _Window(self.size, self.kernel, self.stride, (self.half, self.half)) if self.is_centered else self

    @property
    def is_symmetric(self) -> bool:
        """Whether the mirrored windows are the same."""
        return self.unused == 0 and self.padding[0] == self.padding[1]


def _same_padding(size: int, *, kernel: int, stride: int) -> _Padding:
    """Compute the entries that TensorFlow adds before and after with `padding="same"`."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _window_of(layer: Any, size: int, *, axis: int, padded: _Padding = (0, 0)) -> _Window:
    """Return the windows of a convolution or pooling layer.

    Args:
        layer: The layer, channels last.
        size: Length of the axis, before the padding of a layer in front.
        axis: 1 (rows) or 2 (columns).
        padded: What a layer in front adds before and after; only where the layer itself adds nothing.
    """
    lengths = layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size
    dilation = getattr(layer, "dilation_rate", (1, 1))
    dilation = dilation[axis - 1] if isinstance(dilation, tuple | list) else dilation
    kernel, stride = (lengths[axis - 1] - 1) * dilation + 1, layer.strides[axis - 1]
    padding = _same_padding(size, kernel=kernel, stride=stride) if layer.padding == "same" else padded
    return _Window(size, kernel, stride, padding)


# Which layers turn a mirrored map into the mirrored result, given mirrored kernels.

_layers = keras.layers

_CONVOLUTIONS = (_layers.Conv2D, _layers.DepthwiseConv2D, _layers.SeparableConv2D)
_SPATIAL = {*_CONVOLUTIONS, _layers.ZeroPadding2D, _layers.Cropping2D}
_POOLS = {_layers.MaxPooling2D, _layers.AveragePooling2D}
_GLOBAL_POOLS = {_layers.GlobalAveragePooling2D, _layers.GlobalMaxPooling2D}
_POINTWISE = {
    *(
        _layers.Activation,
        _layers.ReLU,
        _layers.LeakyReLU,
        _layers.ELU,
        _layers.Identity,
        _layers.ActivityRegularization,
    ),
    *(
        _layers.Dropout,
        _layers.SpatialDropout2D,
        _layers.GaussianDropout,
        _layers.GaussianNoise,
        _layers.AlphaDropout,
    ),
    *(_layers.Add, _layers.Subtract, _layers.Multiply, _layers.Average, _layers.Maximum, _layers.Minimum),
    _layers.Dense,
}
_ALONG_CHANNELS = {  # pointwise if their axis is the channels
    *(_layers.BatchNormalization, _layers.LayerNormalization, _layers.RMSNormalization, _layers.UnitNormalization),
    *(_layers.GroupNormalization, _layers.Normalization, _layers.Softmax, _layers.Concatenate),
}
# Operations that an expression such as `x * 2 + y`, or a function of keras.ops, puts into a graph, by class name.
_POINTWISE_OPERATIONS = (
    "Abs Absolute Add Cast Clip Divide Elu Exp Gelu HardSigmoid HardSilu HardSwish HardTanh Identity LeakyRelu Log "
    "Maximum Minimum Multiply Negative Power Relu Relu6 Rsqrt Selu Sigmoid Silu Softplus Softsign Sqrt Square "
    "Subtract Swish Tanh TrueDivide"
)
_REDUCTIONS = {"Mean", "Max", "Sum"}


def _is_mirrorable(call: Call, axis: int) -> bool:
    """Return True if a call on maps mirrored along an axis gives the mirrored result; False for an unknown layer.

    Args:
        call: The call.
        axis: 1 (rows) or 2 (columns) of maps with channels last.
    """
    layer, kind = call.layer, type(call.layer)
    if not _takes_maps(call) or not _has_pointwise_activation(layer) or _is_channels_first(layer):
        return False
    if kind in _SPATIAL or kind in _GLOBAL_POOLS or _is_pointwise(layer):
        return True
    if kind in _POOLS:
        size = call.inputs[0].shape[axis]
        return size is not None and _window_of(layer, size, axis=axis).is_symmetric
    if kind in _ALONG_CHANNELS:
        axes = layer.axis if isinstance(layer.axis, tuple | list) else (layer.axis,)
        return set(axes) <= {-1, 3}
    if kind is _layers.PReLU:
        return axis in (layer.shared_axes or ())
    if kind is _layers.UpSampling2D:
        return layer.interpolation in ("nearest", "bilinear")
    return _is_global_reduction(layer)


def _is_pointwise(layer: Any) -> bool:
    """Return True if it is a layer or operation of Keras that treats each position of a map alike."""
    if isinstance(layer, _layers.Rescaling):
        return type(layer) is _layers.Rescaling and max(np.ndim(layer.scale), np.ndim(layer.offset)) < 2
    return type(layer) in _POINTWISE or _operation_name(layer) in _POINTWISE_OPERATIONS.split()


def _operation_name(layer: Any) -> str:
    """Return the class name of an operation of Keras that is not a layer; an empty string for anything else."""
    is_operation = not isinstance(layer, _layers.Layer) and type(layer).__module__.startswith("keras.")
    return type(layer).__name__ if is_operation else ""


def _is_global_reduction(layer: Any) -> bool:
    """Return True if it is an operation of Keras that reduces rows and columns, and nothing else."""
    axis = getattr(layer, "axis", None)
    return _operation_name(layer) in _REDUCTIONS and isinstance(axis, tuple | list) and sorted(axis) == [1, 2]


def _takes_maps(call: Call) -> bool:
    """Return True if all tensors are images with channels, and all constants numbers or vectors over channels."""
    leaves = [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if hasattr(leaf, "shape")]
    return all(
        len(leaf.shape) == 4 if isinstance(leaf, keras.KerasTensor) else len(leaf.shape) < 2 for leaf in leaves
    )


def _has_pointwise_activation(layer: Any) -> bool:
    """Return True if a layer's activation, if it has one, is Keras' own: these never look at other pixels."""
    activation = getattr(layer, "activation", None)
    return activation is None or (
        isinstance(activation, types.FunctionType) and activation.__module__.startswith("keras.")
    )


def _is_channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


# The plan of the mirror rewrite: which calls work on mirrored maps, and what padding they then need.

_AXES = {1: "rows", 2: "columns"}
_KERNELS = [kind.__name__ for kind in _CONVOLUTIONS]


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
    padding: tuple[_Padding, _Padding] | None = None

    @property
    def changes(self) -> bool:
        """Whether the layer differs from the original one; many work on mirrored maps as they are."""
        return self.padding is not None or (bool(self.mirrored) and self.kind in _KERNELS)


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
            [step.layer, step.kind, " and ".join(_AXES[axis] for axis in step.mirrored) or "-", _text(step.padding)]
            for step in self.steps
            if step.changes
        ]
        return table(["layer", "kind", "mirrored", "padding"], rows, left=4)


def _text(padding: tuple[_Padding, _Padding] | None) -> str:
    return "as it is" if padding is None else " ".join(f"{before}+{after}" for before, after in padding)


def _plan_mirroring(graph: Graph) -> MirrorPlan:
    """Decide what to mirror, along rows and columns apart, so that most strided convolutions get symmetric padding.

    Maps are mirrored in whole regions: calls that take each other's maps. Layers that are not known to work on
    mirrored maps bound a region and keep the original maps.

    Raises:
        ValueError: If a strided convolution has maps of unknown size, or a layer that is called several times would
            have to be changed in different ways.
    """
    mirrored: dict[int, tuple[int, ...]] = {id(call): () for call in graph.calls}
    for axis in _AXES:
        for region in _regions(graph, axis):
            if _gain(graph, region, axis) > 0:
                mirrored.update({id(call): (*mirrored[id(call)], axis) for call in region})
    paddings: dict[int, tuple[_Padding, _Padding]] = {}
    for call in graph.calls:
        if isinstance(call.layer, _layers.ZeroPadding2D | _layers.Cropping2D):
            _swap(call, mirrored[id(call)], paddings)
    for call in graph.calls:
        if type(call.layer) in _CONVOLUTIONS and _is_mirrorable(call, 1):
            _pad(graph, call, mirrored[id(call)], paddings)
    steps = tuple(
        MirrorStep(call.layer.name, type(call.layer).__name__, mirrored[id(call)], paddings.get(id(call)))
        for call in graph.calls
    )
    _check_shared(graph, steps)
    return MirrorPlan(steps)


def _regions(graph: Graph, axis: int) -> list[list[Call]]:
    """Return the calls that have to be mirrored together, in groups."""
    passing = {id(call): call for call in graph.calls if _is_mirrorable(call, axis)}
    links = [
        (passing[id(producer)], call)
        for call in passing.values()
        for tensor in call.inputs
        if tensor.shape[axis] != 1 and id(producer := graph.producer(tensor)) in passing
    ]
    return grouped(list(passing.values()), links)


def _gain(graph: Graph, region: list[Call], axis: int) -> int:
    """Return how many more convolutions of a region have symmetric padding when it is mirrored."""
    windows = [_window(graph, call, axis) for call in region if type(call.layer) in _CONVOLUTIONS]
    return sum(window.mirrored().is_centered - window.is_centered for window in windows)


def _pad_in_front(graph: Graph, call: Call) -> Call | None:
    """Return the call of a padding layer whose only purpose is the padding of a convolution."""
    producer = graph.producer(call.inputs[0])
    if call.layer.padding != "valid" or producer is None or type(producer.layer) is not _layers.ZeroPadding2D:
        return None
    is_alone = len(graph.consumers(producer)) == 1 and not graph.is_output(producer)
    return producer if is_alone and _is_mirrorable(producer, 1) else None


def _window(graph: Graph, call: Call, axis: int) -> _Window:
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
    return _window_of(call.layer, size, axis=axis, padded=front.layer.padding[axis - 1] if front else (0, 0))


def _swap(call: Call, mirrored: tuple[int, ...], paddings: dict[int, Any]) -> None:
    """Reverse the argument of a padding or cropping layer along the axes that are mirrored."""
    before = call.layer.padding if isinstance(call.layer, _layers.ZeroPadding2D) else call.layer.cropping
    after = tuple(pair[::-1] if axis in mirrored else pair for axis, pair in zip(_AXES, before, strict=True))
    if after != before:
        paddings[id(call)] = after


def _pad(graph: Graph, call: Call, mirrored: tuple[int, ...], paddings: dict[int, Any]) -> None:
    """Find the padding of a convolution, which a layer in front of it may add."""
    windows = [_window(graph, call, axis) for axis in _AXES]
    turned = [window.mirrored() if axis in mirrored else window for axis, window in zip(_AXES, windows, strict=True)]
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
            first_step.padding != step.padding and type(call.layer) not in _CONVOLUTIONS
        ):
            raise ValueError(
                f"Expected a layer that is called several times to need the same padding each time. Received: "
                f"{step.layer!r}, whose maps differ in size. Give each call a layer of its own."
            )


# Rewrite the layers after a global pool: a gate as 1x1 convolutions on 1x1 maps, a classifier as dense layers.
#
# A pooled map holds one number per channel, and a tensor of shape (batch, channels) holds the same. Keras computes
# the same with either; XNNPACK runs only the right one sparse.

_MAP, _VECTOR = 4, 2  # ranks
_ARGUMENTS = (  # that a dense layer and a convolution have in common
    *("activation", "use_bias", "kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer"),
    *("activity_regularizer", "kernel_constraint", "bias_constraint", "name", "dtype", "trainable"),
)


def _rewrite_vectors(model: keras.Model) -> keras.Model:
    """Return a flat model whose gates work on 1x1 maps and whose classifiers on vectors; its layers are changed."""
    graph = trace(model)
    ranks = _ranks(graph)
    return _Rewriting(graph, ranks).apply() if ranks else model


def _ranks(graph: Graph) -> dict[int, int]:
    """Return the rank that calls on vectors get, by the call's id; calls that stay as they are have none."""
    map_layers = {id(call.layer) for call in graph.calls if not _works_on_vectors(call)}
    members = {id(call): call for call in graph.calls if id(call.layer) not in map_layers}
    links = [
        (members[id(producer)], call)
        for call in members.values()
        for tensor in call.inputs
        if id(producer := graph.producer(tensor)) in members and type(call.layer) not in _GLOBAL_POOLS
    ]
    ranks: dict[int, int] = {}
    for group in grouped(list(members.values()), links):
        takers = [taker for call in group for taker in graph.consumers(call) if id(taker) not in members]
        rank = _rank(group, takers)
        ranks |= {id(call): rank for call in group if rank}
    return ranks


def _rank(group: list[Call], takers: list[Call]) -> int | None:
    """Choose the rank for a group of calls on vectors, given who else takes their outputs; None keeps it."""
    has_pool = any(type(call.layer) in _GLOBAL_POOLS for call in group)
    scales_maps = any(not _is_vector(tensor) for taker in takers for tensor in taker.inputs)
    if has_pool and scales_maps and all(len(tensor.shape) == _MAP for taker in takers for tensor in taker.inputs):
        return _MAP
    has_convolution = any(type(call.layer) is _layers.Conv2D for call in group)
    takes_maps = any(len(tensor.shape) == _MAP for taker in takers for tensor in taker.inputs)
    # The last maps of a small image are 1x1 as well: layers before the pool have to stay convolutions.
    return _VECTOR if has_pool and has_convolution and not takes_maps else None


def _is_vector(tensor: keras.KerasTensor) -> bool:
    shape = tensor.shape
    return shape[-1] is not None and (len(shape) == _VECTOR or (len(shape) == _MAP and tuple(shape[1:3]) == (1, 1)))


def _works_on_vectors(call: Call) -> bool:
    """Return True if a call gives the same numbers for a vector and for a 1x1 map."""
    layer, kind = call.layer, type(call.layer)
    if not all(map(_is_vector, call.outputs)) or not _has_pointwise_activation(layer):
        return False
    if kind in _GLOBAL_POOLS:
        return layer.data_format == "channels_last"
    if not all(map(_is_vector, call.inputs)) or len({len(tensor.shape) for tensor in call.inputs}) != 1:
        return False
    if kind in (_layers.Reshape, _layers.Flatten):
        return call.inputs[0].shape[-1] == call.outputs[0].shape[-1]
    if kind is _layers.Conv2D:
        return math.prod(layer.kernel_size) == layer.groups == 1 and layer.data_format == "channels_last"
    if kind is _layers.BatchNormalization:
        return layer.axis == -1
    # SpatialDropout2D takes maps alone.
    return _is_pointwise(layer) and kind is not _layers.SpatialDropout2D and _has_numbers_only(call)


def _has_numbers_only(call: Call) -> bool:
    """Return True if all arguments of a call besides tensors are numbers, not arrays."""
    leaves = keras.tree.flatten((call.args, call.kwargs))
    return not any(hasattr(leaf, "shape") and not isinstance(leaf, keras.KerasTensor) for leaf in leaves)


class _Rewriting:
    """Repeat the calls of a model, those on vectors with the rank that was chosen for them."""

    def __init__(self, graph: Graph, ranks: dict[int, int]) -> None:
        self.graph, self.ranks = graph, ranks
        self.calls = iter(graph.calls)
        self.names = {operation.name for operation in graph.model.operations}
        self.replaced: dict[int, Any] = {}

    def apply(self) -> keras.Model:
        """Return the model made of the changed layers."""
        model = retrace(self.graph.model, self.call)
        outputs = [
            self.shaped(tensor, original, len(original.shape))
            for tensor, original in zip(model.outputs, self.graph.model.outputs, strict=True)
        ]
        return keras.Model(model.input, keras.tree.pack_sequence_as(model.output, outputs), name=model.name)

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer, or what replaces it, on tensors of the right rank."""
        call = next(self.calls)
        rank = self.ranks.get(id(call))
        input_rank = None if type(layer) in _GLOBAL_POOLS else rank
        args, kwargs = keras.tree.map_structure(
            lambda value, original: self.shaped(value, original, input_rank), (args, kwargs), (call.args, call.kwargs)
        )
        if rank is None:
            return layer(*args, **kwargs)
        if id(layer) not in self.replaced:
            self.replaced[id(layer)] = _replacement(layer, rank)
        new, activation = self.replaced[id(layer)]
        if rank == _MAP and _operation_name(new) in ("Add", "Multiply"):
            args, kwargs = keras.tree.map_structure(lambda value: _spread(value, call.outputs[0]), (args, kwargs))
        return activation(new(*args, **kwargs))

    def shaped(self, value: Any, original: Any, rank: int | None) -> Any:
        """Return a tensor with the rank wanted, or that of the original; anything else unchanged."""
        if not isinstance(value, keras.KerasTensor) or not _is_vector(original):
            return value
        new_rank = rank or len(original.shape)
        if len(value.shape) == new_rank:
            return value
        form = (1, 1, value.shape[-1])[-1 if new_rank == _VECTOR else 0 :]
        return _layers.Reshape(form, name=unused_name("reshape", self.names))(value)


def _replacement(layer: Any, rank: int) -> tuple[Any, Callable]:
    """Return a layer that computes the same on tensors of a rank, and a function to apply to its output."""
    if type(layer) in (_layers.Reshape, _layers.Flatten):
        return _layers.Identity(name=layer.name, dtype=layer.dtype_policy.name), _unchanged
    if type(layer) in _GLOBAL_POOLS:
        layer.keepdims = rank == _MAP
    after = _unchanged
    if rank == _MAP and getattr(layer, "activation", None) is keras.activations.hard_sigmoid:
        layer.activation, after = keras.activations.linear, _hard_sigmoid
    if type(layer) is (_layers.Conv2D if rank == _VECTOR else _layers.Dense):
        layer = _converted(layer, rank)
    if type(layer) is _layers.BatchNormalization:  # takes only the rank that it was built for
        layer = _normalization(layer, rank)
    return layer, after


def _converted(layer: Any, rank: int) -> Any:
    """Return a 1x1 convolution as a dense layer, or the other way round."""
    config = layer.get_config()
    common = {name: config[name] for name in _ARGUMENTS if name in config}
    if rank == _VECTOR:
        new = _layers.Dense(layer.filters, **common)
        new.build((None, layer.kernel.shape[-2]))
    else:
        new = _layers.Conv2D(layer.units, 1, data_format="channels_last", **common)
        new.build((None, 1, 1, layer.kernel.shape[0]))
    for old, variable in zip(layer.weights, new.weights, strict=True):
        variable.assign(keras.ops.reshape(old, variable.shape))
    return new


def _normalization(layer: Any, rank: int) -> Any:
    new = _layers.BatchNormalization.from_config(layer.get_config())
    new.build((None, *[1] * (rank - 2), layer.moving_mean.shape[0]))
    for old, variable in zip(layer.weights, new.weights, strict=True):
        variable.assign(old)
    return new


def _unchanged(value: Any) -> Any:
    return value


def _hard_sigmoid(value: keras.KerasTensor) -> keras.KerasTensor:
    """Return the hard sigmoid in a form whose constants the converter leaves maps, as XNNPACK needs."""
    return keras.ops.relu6(value + _spread(3.0, value)) * _spread(1 / 6, value)


def _spread(value: Any, like: keras.KerasTensor) -> Any:
    """Return a number as a 1x1 map; anything else unchanged."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return np.full((1, 1, 1, like.shape[-1]), value, like.dtype) if is_number else value


# Rewrite a model, without changing what it computes, into one that XNNPACK can run sparse.


def make_sparse_ready(model: keras.Model) -> keras.Model:
    """Return an equal model in the form that XNNPACK, the runtime's library of kernels, can run sparse.

    What it computes stays the same up to rounding; so do the names of its layers, and its inputs and outputs.

    - Convolutions with a stride get the same padding on both sides. With `padding="same"` on an even size TensorFlow
      pads after the last row only. So the image is mirrored, and every kernel with it: then the padding comes
      before the first row, and one more after the last row changes nothing.
    - 1x1 convolutions after the last global pool become `Dense` layers, and `Dense` layers in a squeeze-and-excite
      gate 1x1 convolutions.

    Layers that are not known to work on mirrored maps get the original maps. `tfprune.export.sparse_inference` says
    what then still runs dense, and why. Call it before or after training and pruning: a wrapped model is stripped
    first, and comes back with its zeros and without wrappers.

    Args:
        model: A built Sequential or Functional model, channels last, nested models included. It is left untouched.

    Returns:
        An uncompiled Functional model without nested models, which loads without tfprune.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not a graph of layers, has no convolution or takes channels first, if a convolution
            with a stride has maps of unknown size, or if a shared layer would have to be changed in two ways.

    Example:
        >>> image = keras.Input((32, 32, 3))
        >>> maps = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(image)
        >>> model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))
        >>> ready = make_sparse_ready(model)
        >>> ready.get_layer("stem_pad").padding, ready.get_layer("stem").padding
        (((1, 1), (1, 1)), 'valid')
    """
    check_keras(model)
    # Stripped again, because the layers of the copy have been called several times and so look shared.
    return plain_copy(Anatomy.of(become_sparse_ready(plain_copy(Anatomy.of(model)))))


def become_sparse_ready(plain: keras.Model) -> keras.Model:
    """Do what `make_sparse_ready` does to a plain model in place: its layers change, and the model is used up.

    Raises:
        ValueError: As `make_sparse_ready` does.
    """
    _check(plain)
    return _mirror(_rewrite_vectors(flatten(plain)))


def _check(model: keras.Model) -> None:
    """Refuse a model that cannot be rewritten, or that has no convolution."""
    if not is_plain(model):
        raise ValueError(
            f"Expected a Sequential or Functional model. Received: {model.name!r} of class {type(model).__name__}, "
            f"whose own code calls its layers. Build it as keras.Model(inputs, outputs)."
        )
    convolutions = [layer for _, layer in walk(model) if type(layer) in _CONVOLUTIONS]
    if not convolutions:
        raise ValueError(
            f"Expected a model with 2-D convolutions. Received: {model.name!r}, which has none. Export it without "
            f"this step: XNNPACK's sparse kernels are for convolutional networks."
        )
    for layer in convolutions:
        if layer.data_format == "channels_first":
            raise ValueError(
                f"Expected channels last. Received: layer {layer.name!r} with data_format='channels_first', which "
                f"TFLite has no operators for. Build the model again with data_format='channels_last'."
            )


def _mirror(model: keras.Model) -> keras.Model:
    """Return a flat model with symmetric padding where its layers allow; its layers are changed."""
    graph = trace(model)
    steps = _plan_mirroring(graph)
    return _Mirroring(graph, steps).apply() if steps.changes else model


class _Mirroring:
    """Apply the plan: reverse kernels, and mirror maps where regions begin and end."""

    def __init__(self, graph: Graph, steps: MirrorPlan) -> None:
        self.graph = graph
        self.steps = iter(steps.steps)
        self.names = {operation.name for operation in graph.model.operations}
        # The tensors that are mirrored, and along which axes; each is kept alive, so that its id stays its own.
        self.mirrored: dict[int, tuple[keras.KerasTensor, tuple[int, ...]]] = {}
        self.flipped: dict[tuple[int, tuple[int, ...]], keras.KerasTensor] = {}
        self.layers: dict[int, Any] = {}
        for call, step in zip(graph.calls, steps.steps, strict=True):
            if id(call.layer) not in self.layers:
                self.layers[id(call.layer)] = _changed(call, step)

    def apply(self) -> keras.Model:
        """Return the model made of the changed layers."""
        model = retrace(self.graph.model, self.call)
        outputs = keras.tree.map_structure(lambda tensor: self.oriented(tensor, ()), model.output)
        return keras.Model(model.input, outputs, name=model.name)

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer on maps that are mirrored as planned."""
        step = next(self.steps)
        args, kwargs = keras.tree.map_structure(lambda leaf: self.oriented(leaf, step.mirrored), (args, kwargs))
        if step.padding is not None and type(layer) in _CONVOLUTIONS:
            args = (self.padded(args[0], step.padding, layer), *args[1:])
        outputs = self.layers[id(layer)](*args, **kwargs)
        for tensor in keras.tree.flatten(outputs):
            self.mirrored[id(tensor)] = tensor, step.mirrored
        return outputs

    def oriented(self, value: Any, wanted: tuple[int, ...]) -> Any:
        """Return a map mirrored along the axes that are wanted; anything else unchanged."""
        if not isinstance(value, keras.KerasTensor) or len(value.shape) != 4:
            return value
        _, mirrored = self.mirrored.get(id(value), (value, ()))
        axes = tuple(axis for axis in (1, 2) if (axis in wanted) != (axis in mirrored) and value.shape[axis] != 1)
        if not axes:
            return value
        if (id(value), axes) not in self.flipped:
            mirrored = value
            for axis in axes:  # one at a time: of several axes tflite-runtime 2.14 takes the first alone, silently
                mirrored = keras.ops.flip(mirrored, (axis,))
            self.flipped[id(value), axes] = mirrored
        return self.flipped[id(value), axes]

    def padded(self, value: Any, padding: Any, layer: Any) -> Any:
        """Return the input of a convolution with zeros around it, or with entries cropped."""
        zeros = tuple((max(before, 0), max(after, 0)) for before, after in padding)
        crops = tuple((max(-before, 0), max(-after, 0)) for before, after in padding)
        nothing = ((0, 0), (0, 0))
        if zeros != nothing:
            name = unused_name(f"{layer.name}_pad", self.names)
            value = _layers.ZeroPadding2D(zeros, name=name, dtype=layer.dtype_policy)(value)
        if crops != nothing:
            name = unused_name(f"{layer.name}_crop", self.names)
            value = _layers.Cropping2D(crops, name=name, dtype=layer.dtype_policy)(value)
        return value


def _changed(call: Call, step: MirrorStep) -> Any:
    """Return the layer of a call with its kernel reversed and its new padding."""
    layer = call.layer
    if type(layer) in _CONVOLUTIONS:
        layer = layer if step.padding is None else _without_padding(layer, call.inputs[0].shape[-1])
        kernel = layer.depthwise_kernel if isinstance(layer, _layers.SeparableConv2D) else layer.kernel
        kernel.assign(np.flip(keras.ops.convert_to_numpy(kernel), tuple(axis - 1 for axis in step.mirrored)))
    elif step.padding is not None:
        setattr(layer, "padding" if isinstance(layer, _layers.ZeroPadding2D) else "cropping", step.padding)
    return layer


def _without_padding(layer: Any, channels: int) -> Any:
    """Return a copy of a convolution that adds no padding; a layer itself remembers the sizes that it saw first."""
    copy = type(layer).from_config({**layer.get_config(), "padding": "valid"})
    copy.build((None, None, None, channels))
    for variable, counterpart in zip(layer.weights, copy.weights, strict=True):
        counterpart.assign(variable)
    return copy
