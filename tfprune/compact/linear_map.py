"""Layers as linear maps, the moments of their inputs, and the walk through a graph that gathers them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import parse_equation, spell_out
from tfprune.base.folders import TemporaryFolder
from tfprune.models.anatomy import Kernel, as_numpy, from_matrix, kernels, sublayers, to_matrix
from tfprune.models.graph import LOOPS, Call, Graph, hooked_calls
from tfprune.models.training import Batches, token_masks, without_padding
from tfprune.models.twin import layer_inside
from tfprune.report import Skipped
from tfprune.solving.least_squares import GramMoments

# Layers as linear maps: the rows of numbers that the kernel of a layer multiplies.

_layers = keras.layers
Rows = Callable[[Any], np.ndarray]


class NotLinear(ValueError):  # noqa: N818
    """Says why a layer is not treated as a linear map."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A layer's kernel and bias as one matrix for each of its groups, and the rows that it multiplies.

    Attributes:
        kernel: The kernel.
        bias: The bias, one number for each output, or None.
        groups: The number of groups that inputs and outputs are split into, each with its own matrix.
        rows: A function from the first argument of `leaf` to what the kernel multiplies, of shape (groups, rows,
            inputs).
        layer: The layer.
        leaf: The layer, or the layer inside it, that multiplies the rows by the kernel.
        is_by_position: Whether each row is of one position of the input, so that those of padding can be left out.
    """

    kernel: Kernel
    bias: keras.Variable | None
    groups: int
    rows: Rows
    layer: keras.layers.Layer
    leaf: keras.layers.Layer
    is_by_position: bool = False

    def weights(self) -> np.ndarray:
        """Return the kernel, with the bias as its last input, of shape (groups, outputs, inputs)."""
        matrix = self._matrix(as_numpy(self.kernel.variable))
        if self.bias is None:
            return matrix.copy()
        return np.concatenate([matrix, as_numpy(self.bias).reshape(*matrix.shape[:2], 1)], axis=2)

    def free(self) -> np.ndarray:
        """Return where the kernel is not zero, in the form of `weights`; the bias is free where any of its row is."""
        free = self._matrix(as_numpy(self.kernel.variable)) != 0
        return free if self.bias is None else np.concatenate([free, free.any(axis=2, keepdims=True)], axis=2)

    def assign(self, weights: np.ndarray) -> None:
        """Set kernel and bias to a matrix in the form of `weights`."""
        if self.bias is not None:
            self.bias.assign(weights[..., -1].reshape(self.bias.shape))
            weights = weights[..., :-1]
        matrix = np.ascontiguousarray(weights).reshape(self.kernel.matrix_shape)
        self.kernel.variable.assign(from_matrix(matrix, self.kernel))

    def seen(self, x: Any, masks: Iterable[np.ndarray] = ()) -> np.ndarray:
        """Return the rows that the matrices multiply, of shape (groups, rows, inputs).

        Args:
            x: An input of `leaf`.
            masks: Where texts have tokens; positions of padding are left out.
        """
        if self.is_by_position:
            x = keras.ops.convert_to_numpy(x)
            tokens = without_padding(x, masks)
            x = x if tokens is x else tokens[np.newaxis]
        rows = self.rows(x)
        return rows if self.bias is None else np.concatenate([rows, np.ones_like(rows[..., :1])], axis=2)

    def inputs(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return the same for the arguments of a call of the layer, which is called."""
        rows: list[np.ndarray] = []
        with hooked_calls([self.leaf], lambda leaf, x, outputs: rows.append(self.seen(x))):
            self.layer(*args, **kwargs)
        return rows[0]

    def _matrix(self, kernel: np.ndarray) -> np.ndarray:
        matrix = to_matrix(kernel, self.kernel)
        return matrix.reshape(self.groups, len(matrix) // self.groups, -1)


_OfLoop = Callable[[keras.layers.Layer, str], tuple[list[LinearMap], list[Skipped]]]


def linear_map(layer: Any) -> LinearMap:
    """Return a layer as a linear map.

    Raises:
        NotLinear: If the inputs of its kernel are not known.
    """
    for kind, view in _VIEWS.items():
        if isinstance(layer, kind):
            if type(layer).call is not kind.call:
                raise NotLinear(f"its class {type(layer).__name__} computes something else than {kind.__name__}")
            if getattr(layer, "lora_enabled", False) or not kernels(layer):
                raise NotLinear("its kernel is quantized, or has a LoRA beside it")
            return view(layer)
    raise NotLinear(f"what the kernels of {type(layer).__name__} multiply is not known")


def _dense(layer: Any) -> LinearMap:
    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_numpy(x)
        return x.reshape(1, -1, x.shape[-1])

    return LinearMap(kernels(layer)[0], layer.bias, 1, rows, layer, layer, is_by_position=True)


def _einsum_dense(layer: Any) -> LinearMap:
    """View axes that the kernel shares with the input as inputs, and other axes of the input as rows."""
    equation = parse_equation(layer.equation)
    if equation.batched or equation.lost:
        raise NotLinear(f"its equation {layer.equation} is more than a product over the axes of the kernel")
    outputs = [letter for letter in equation.kernel if letter not in equation.inputs]
    if layer.bias is not None and [letter for letter in equation.outputs if letter in layer.bias_axes] != outputs:
        raise NotLinear(f"its bias_axes {layer.bias_axes!r} are not its outputs {''.join(outputs)!r}, in their order")

    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_numpy(x)
        letters = spell_out(equation.inputs, x.ndim)
        axes = [letters.index(letter) for letter in equation.summed]
        x = np.moveaxis(x, axes, range(-len(axes), 0))
        return x.reshape(1, -1, math.prod(x.shape[x.ndim - len(axes) :]))

    return LinearMap(kernels(layer)[0], layer.bias, 1, rows, layer, layer, is_by_position=True)


def _convolution(layer: Any) -> LinearMap:
    return LinearMap(kernels(layer)[0], layer.bias, layer.groups, _patches(layer, layer.groups), layer, layer)


def _depthwise(layer: Any) -> LinearMap:
    kernel = kernels(layer)[0]
    channels = int(kernel.variable.shape[-2])
    return LinearMap(kernel, layer.bias, channels, _patches(layer, channels), layer, layer)


def _patches(layer: Any, groups: int) -> Rows:
    """Return a function from feature maps to the patches that a kernel sees, positions before channels, by group."""

    def rows(x: Any) -> np.ndarray:
        x = keras.ops.convert_to_numpy(x)
        if layer.data_format == "channels_first":
            x = np.moveaxis(x, 1, -1)
        seen = np.stack(list(_shifted(x, layer)), axis=-2)  # (..., positions, channels)
        positions, channels = seen.shape[-2:]
        patches = seen.reshape(-1, positions, groups, channels // groups)
        return np.moveaxis(patches, 2, 0).reshape(groups, len(patches), -1)

    return rows


def _shifted(x: np.ndarray, layer: Any) -> Iterator[np.ndarray]:
    """Yield the inputs of each position of a kernel."""
    spans = [_span(*axis, layer.padding) for axis in _along(layer, x.shape[1:-1])]
    x = np.pad(x, [(0, 0), *(padding for padding, _ in spans), (0, 0)])
    for position in np.ndindex(*layer.kernel_size):
        starts = [index * rate for index, rate in zip(position, layer.dilation_rate, strict=True)]
        ends = zip(starts, layer.strides, spans, strict=True)
        yield x[(slice(None), *(slice(a, a + (count - 1) * step + 1, step) for a, step, (_, count) in ends))]


def _along(layer: Any, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield for each axis of feature maps its length, the reach of the kernel and the stride."""
    for size, taps, rate, step in zip(sizes, layer.kernel_size, layer.dilation_rate, layer.strides, strict=True):
        yield size, (taps - 1) * rate + 1, step


def _span(size: int, reach: int, step: int, padding: str) -> tuple[tuple[int, int], int]:
    """Return the zeros to put before and after an axis, and the number of outputs along it."""
    if padding == "valid":
        return (0, 0), (size - reach) // step + 1
    count = -(-size // step)
    missing = max((count - 1) * step + reach - size, 0)
    before = reach - 1 if padding == "causal" else missing // 2
    return (before, max(missing - before, 0)), count


def _attention(layer: Any) -> LinearMap:
    """View the projection of what the heads return: it is all that is linear in attention."""
    kernel = next(kernel for kernel in kernels(layer) if kernel.path.endswith("attention_output/kernel"))
    leaf = next(part for part in sublayers(layer) if kernels(part) and kernels(part)[0].variable is kernel.variable)
    inside = _einsum_dense(leaf)
    return LinearMap(kernel, inside.bias, 1, inside.rows, layer, leaf, is_by_position=True)


_VIEWS: dict[Any, Callable[[Any], LinearMap]] = {
    _layers.Dense: _dense,
    _layers.EinsumDense: _einsum_dense,
    **dict.fromkeys([_layers.Conv1D, _layers.Conv2D, _layers.Conv3D], _convolution),
    **dict.fromkeys([_layers.DepthwiseConv1D, _layers.DepthwiseConv2D], _depthwise),
    **dict.fromkeys([_layers.MultiHeadAttention, _layers.GroupQueryAttention], _attention),
}


def _inner_maps(
    layer: keras.layers.Layer, *, name: str, of_loop: _OfLoop | None = None
) -> tuple[list[LinearMap], list[Skipped]]:
    """Return the maps of a layer, their kernels with paths below it, and the parts with kernels that are left alone.

    Args:
        layer: The layer: a linear map, or a layer that holds linear maps.
        name: How it is called where it is left alone.
        of_loop: Returns the same of a recurrent layer; None leaves those alone.
    """
    if kernels(layer) and not layer.trainable:
        return [], [Skipped(name, "frozen (trainable=False)", Skipped.FROZEN)]
    if of_loop and isinstance(layer, _layers.RNN):
        return of_loop(layer, name)
    parts = [] if isinstance(layer, LOOPS) else sublayers(layer)
    inside = {id(kernel.variable) for part in parts for kernel in kernels(part)}
    maps: list[LinearMap] = []
    others: list[Skipped] = []
    if any(id(kernel.variable) not in inside for kernel in kernels(layer)):
        try:
            return [linear_map(layer)], []
        except NotLinear as reason:
            others.append(Skipped(name, str(reason), Skipped.NO_RULE))
    for part in {id(part): part for part in parts}.values():
        inner, skipped_inside = _inner_maps(part, name=f"{name}/{part.name}", of_loop=of_loop)
        maps += [replace(each, kernel=replace(each.kernel, path=f"{part.name}/{each.kernel.path}")) for each in inner]
        others += skipped_inside
    return maps, others


# Tensors of many batches, kept in files until they are needed again.


class _MaskOf(keras.layers.Layer):
    """Returns the Keras mask of a tensor, None if it has none."""

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.supports_masking = True

    def call(self, x: Any, mask: Any = None) -> Any:
        return mask


class _Masked(keras.layers.Layer):
    """Gives a tensor a Keras mask."""

    def __init__(self, mask: Any) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.supports_masking = True
        self._given = mask

    def call(self, x: Any) -> Any:
        return keras.ops.copy(x)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self._given


class _Spool:
    """Tensors in files of a folder that goes with the object, so that memory does not grow with their number.

    A tensor comes back with its type and its Keras mask.
    """

    def __init__(self) -> None:
        self._folder = TemporaryFolder()
        self._types: dict[tuple[int, int], str] = {}
        self._mask_of = _MaskOf()

    def put(self, tensor: int, batch: int, value: Any) -> None:
        """Store the value that a tensor has in a batch."""
        value = keras.ops.convert_to_tensor(value)
        self._types[tensor, batch] = keras.backend.standardize_dtype(value.dtype)
        mask = self._mask_of(value)
        with self._folder.writing():
            np.save(self._path(tensor, batch), _storable(value))
            if mask is not None:
                np.save(self._path(tensor, batch, "mask"), keras.ops.convert_to_numpy(mask))

    def get(self, tensor: int, batch: int) -> Any:
        """Return the value that was stored for a tensor and a batch."""
        stored = np.load(self._path(tensor, batch))
        value = keras.ops.convert_to_tensor(stored, dtype=self._types[tensor, batch])
        mask = self._path(tensor, batch, "mask")
        return _Masked(keras.ops.convert_to_tensor(np.load(mask)))(value) if mask.exists() else value

    def holds(self, tensor: int) -> bool:
        """Return True if a tensor is stored."""
        return any(number == tensor for number, _ in self._types)

    def drop(self, tensor: int) -> None:
        """Forget a tensor in all batches."""
        for key in [key for key in self._types if key[0] == tensor]:
            del self._types[key]
            for kind in ("value", "mask"):
                self._path(*key, kind).unlink(missing_ok=True)

    def _path(self, tensor: int, batch: int, kind: str = "value") -> Path:
        return Path(self._folder.name, f"{tensor}_{batch}_{kind}.npy")


def _storable(value: Any) -> np.ndarray:
    """Return a tensor as an array of a type that NumPy can save; float32 holds all values of shorter floats."""
    array = keras.ops.convert_to_numpy(keras.ops.stop_gradient(value))
    return array if array.dtype.kind in "biufc" else array.astype("float32")


# Run a graph part by part on all batches, so that a part sees the new weights of the parts before it.


class GraphWalk:
    """A graph that is run on data from its first call to its last, each batch of each part when it is asked for.

    The data are read once. What later parts need of earlier ones lies in files, and one batch is in memory.

    Args:
        graph: The graph.
        batches: The arrays for the inputs of the model, batch by batch.
        weights: Returns variables with the values to use in their place; None takes all as they are.
    """

    def __init__(
        self, graph: Graph, batches: Iterable[Sequence[Any]], *, weights: Callable[[], list[tuple]] | None = None
    ) -> None:
        self._calls, self._weights = graph.calls, weights
        self._position, self._spool, self.count = 0, _Spool(), 0
        self._inputs = [id(tensor) for tensor in graph.model.inputs]
        self._outputs = [id(tensor) for tensor in graph.model.outputs]
        self._token_masks: list[list[np.ndarray]] = []
        for arrays in batches:
            self._token_masks.append(list(token_masks(graph, arrays).values()))
            for tensor, array in zip(self._inputs, arrays, strict=True):
                self._spool.put(tensor, self.count, array)
            self.count += 1

    def inputs(self) -> Iterator[list[Any]]:
        """Yield the arrays for the inputs of the model again, as long as no call was left behind."""
        for batch in range(self.count):
            yield [self._spool.get(tensor, batch) for tensor in self._inputs]

    def seen(self, maps: Sequence[LinearMap], *, end: int) -> Iterator[list[tuple[int, Any]]]:
        """Run the calls up to `end`, and yield for each batch what the kernels of some maps multiply.

        Yields:
            The index of a map, and its rows of inputs without those of padding, for each call of it.
        """
        for batch, masks in enumerate(self._token_masks):
            yield self._taken(batch, maps, end=end, take=functools.partial(_seen, masks=masks))

    def first_inputs(self, maps: Sequence[LinearMap], *, end: int) -> list[tuple[int, Any]]:
        """Return the index of a map and the tensor that it is called on, for each call of it on the first batch."""
        return self._taken(0, maps, end=end, take=lambda each, x: x)

    def _taken(
        self, batch: int, maps: Sequence[LinearMap], *, end: int, take: Callable[[LinearMap, Any], Any]
    ) -> list[tuple[int, Any]]:
        results: list[tuple[int, Any]] = []

        def listen(leaf: Any, inputs: Any, outputs: Any) -> None:
            own = [index for index, each in enumerate(maps) if each.leaf is leaf]  # a recurrent layer has two maps
            results.extend((index, take(maps[index], inputs)) for index in own)

        with hooked_calls([each.leaf for each in maps], listen):
            self._run(batch, end, keep=set())
        return results

    def outputs(self, batch: int) -> list[Any]:
        """Run all later calls on one batch, and return the outputs of the model, in its order."""
        made = self._run(batch, len(self._calls), keep=set(self._outputs))
        return [made[tensor] if tensor in made else self._spool.get(tensor, batch) for tensor in self._outputs]

    def advance(self, end: int) -> None:
        """Run the calls up to `end`, and go on from there; stay where they have been run."""
        if end <= self._position:
            return
        later = self._needed(end, len(self._calls)) | set(self._outputs)
        before = self._needed(self._position, len(self._calls)) | set(self._inputs)
        for batch in range(self.count):
            for tensor, value in self._run(batch, end, keep=later).items():
                self._spool.put(tensor, batch, value)
        for tensor in before - later:
            self._spool.drop(tensor)
        self._position = end

    def _needed(self, start: int, end: int) -> set[int]:
        """Return the tensors that calls take and none of them makes."""
        tensor_ids: set[int] = set()
        returned: set[int] = set()
        for call in self._calls[start:end]:
            tensor_ids |= {id(tensor) for tensor in call.inputs} - returned
            returned |= {id(tensor) for tensor in call.outputs}
        return tensor_ids

    def _run(self, batch: int, end: int, *, keep: set[int]) -> dict[int, Any]:
        """Run the calls up to `end` on one batch; return of what they make the tensors to keep."""
        calls = self._calls[self._position : end]
        values = {tensor: self._spool.get(tensor, batch) for tensor in self._needed(self._position, end)}
        last = {id(tensor): index for index, call in enumerate(calls) for tensor in call.inputs}
        to_return: dict[int, Any] = {}
        with keras.StatelessScope(state_mapping=self._weights()) if self._weights else nullcontext():
            for index, call in enumerate(calls):
                for tensor, value in zip(call.outputs, _outputs(call, values), strict=True):
                    values[id(tensor)] = value
                    if id(tensor) in keep:
                        to_return[id(tensor)] = value
                for tensor in call.inputs:
                    if last[id(tensor)] == index:
                        values.pop(id(tensor), None)
        return to_return


def _seen(linear: LinearMap, x: Any, masks: Sequence[np.ndarray]) -> np.ndarray:
    return linear.seen(x, masks)


def _outputs(call: Call, values: Mapping[int, Any]) -> list[Any]:
    def value(leaf: Any) -> Any:
        return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
    return keras.tree.flatten(call.layer(*args, **kwargs))


# Second moments of the inputs of layers, and of the outputs they should have, over calibration data.

_Rows = list[tuple[int, np.ndarray]]  # of each call: the index of a map, and what its matrices multiply
IsHeld = Callable[[int], bool]  # by the number of a batch
_ROWS = 8192  # taken to double precision at a time


def none_held(number: int) -> bool:
    """Keep no batch apart."""
    return False


def every(part: float) -> IsHeld:
    """Return which batches to keep apart, so that they are this part of all."""
    return (lambda number: number % round(1 / part) == 0) if part else none_held


@dataclass(frozen=True, eq=False)
class Site:
    """A linear map in a layer of a graph, with the calls of the layer."""

    name: str
    map: LinearMap
    calls: list[Call]
    graph: Graph


def sites_of(
    ours: Graph, theirs: Graph, *, of_loop: _OfLoop | None = None
) -> tuple[list[tuple[Site, Site]], list[Skipped]]:
    """Return the kernels to solve for with their counterparts in the reference, and the layers left alone.

    Args:
        ours: The pruned model.
        theirs: The reference.
        of_loop: As in `inner_maps`.
    """
    calls, others = calls_by_name(ours), calls_by_name(theirs)
    _check_same(calls, others)
    pairs: list[tuple[Site, Site]] = []
    skipped: list[Skipped] = []
    for name, own_calls in calls.items():
        layer, other = _plain(own_calls[0]), _plain(others[name][0])
        maps, left_alone = _inner_maps(layer, name=name, of_loop=of_loop)
        skipped += left_alone
        if maps:
            places, meant = _places(layer), _places(other)  # paths may hold names that Keras numbers anew in a copy
            counterparts = _inner_maps(other, name=name, of_loop=of_loop)[0]
            partners = {meant[id(own.kernel.variable)]: own for own in counterparts}
            pairs += [
                (
                    _checked(Site(name, own, own_calls, ours)),
                    Site(name, partners[places[id(own.kernel.variable)]], others[name], theirs),
                )
                for own in maps
            ]
    if not pairs:
        listed = "; ".join(f"{entry.layer}: {entry.reason}" for entry in skipped)
        raise ValueError(
            f"Expected layers to solve for. Received: {ours.model.name!r}, with {listed or 'no kernels'}."
        )
    return pairs, skipped


def _places(layer: keras.layers.Layer) -> dict[int, int]:
    return {id(variable): place for place, variable in enumerate(layer.weights)}


def _checked(site: Site) -> Site:
    if not np.isfinite(site.map.weights()).all():
        raise ValueError(f"Expected finite weights. Received: NaN or infinity in {site.name}/{site.map.kernel.path}.")
    return site


def calls_by_name(graph: Graph) -> dict[str, list[Call]]:
    """Return the calls of each layer that has weights."""
    by_name: dict[str, list[Call]] = {}
    for call in graph.calls:
        if isinstance(call.layer, keras.layers.Layer) and call.layer.weights:
            by_name.setdefault(call.layer.name, []).append(call)
    return by_name


def _plain(call: Call) -> keras.layers.Layer:
    return layer_inside(call.layer)


def _check_same(ours: dict[str, list[Call]], theirs: dict[str, list[Call]]) -> None:
    def shapes(calls: dict[str, list[Call]]) -> dict[str, Any]:
        return {
            name: (
                len(of_layer),
                type(_plain(of_layer[0])),
                [tuple(weight.shape) for weight in _plain(of_layer[0]).weights],
            )
            for name, of_layer in calls.items()
        }

    pruned, reference = shapes(ours), shapes(theirs)
    differing = [name for name in {**pruned, **reference} if pruned.get(name) != reference.get(name)]
    if differing:
        raise ValueError(
            f"Expected the reference to be the model that was pruned, with the same layers and weights of the same "
            f"shapes. Received models where these differ: {', '.join(differing[:5])}. Shrink after "
            f"reconstruct: tfprune.shrink(reconstructed, plan)."
        )


def moments_of(references: Sequence[Site], batches: Batches) -> list[list[GramMoments]]:
    """Return the moments of each group of some layers of one model: of their inputs, and of their outputs."""
    return sums_of(references, batches).moments()


def sums_of(references: Sequence[Site], batches: Batches, *, is_held: IsHeld = none_held) -> MomentSums:
    """Return the sums of some layers of one model, in one pass over the data."""
    graph = references[0].graph
    walk = GraphWalk(graph, (inputs for inputs, _ in batches))
    maps = [site.map for site in references]
    sums = MomentSums(maps, [each.weights() for each in maps], is_held=is_held)
    end = max(graph.calls.index(call) + 1 for site in references for call in site.calls)
    for number, batch in enumerate(walk.seen(maps, end=end)):
        sums.add(number, batch)
    return sums


class MomentSums:
    """The moments of some linear maps, added up batch by batch.

    Args:
        maps: The maps.
        dense: The weights that make the outputs that they should have.
        is_held: Tells by its number whether a batch is kept apart.
    """

    def __init__(
        self, maps: Sequence[LinearMap], dense: Sequence[np.ndarray], *, is_held: IsHeld = none_held
    ) -> None:
        self._dense, self._is_held = [weights.astype(np.float64) for weights in dense], is_held
        self._sums = {
            part: [[GramMoments(group.shape[1], group.shape[0]) for group in some] for some in dense]
            for part in (False, True)
        }
        self._has_outputs = False

    def add(self, number: int, batch: _Rows, *, meant: _Rows | None = None) -> None:
        """Add a batch: rows of inputs, and the rows in the reference where its outputs are wanted.

        Args:
            number: The number of the batch.
            batch: The index of a map and its rows, for each call.
            meant: The same of the reference; None wants what the dense weights make of the rows themselves.
        """
        self._has_outputs = meant is not None
        for (index, rows), (_, others) in zip(batch, meant or batch, strict=True):
            every = zip(self._sums[self._is_held(number)][index], self._dense[index], rows, others, strict=True)
            for moments, weights, group, reference in every:
                for start in range(0, len(group), _ROWS):
                    some = slice(start, start + _ROWS)
                    if meant is None:
                        moments.add_inputs(group[some])
                    else:
                        moments.add(group[some], reference[some] @ weights.T)

    def moments(self, *, held: bool = False) -> list[list[GramMoments]]:
        """Return the moments of each group of each map, of the batches that are kept apart or of the others."""
        if self._has_outputs:
            return self._sums[held]
        return [
            [moments.aimed_at(weights) for moments, weights in zip(some, groups, strict=True)]
            for some, groups in zip(self._sums[held], self._dense, strict=True)
        ]
