"""Layers in operators whose gradients TFLite has: what functions of TensorFlow become while a step is traced.

The converter takes no gradient of a convolution, a pool, ReLU or a crop. Each of these is computed here from
operators whose gradients are builtin ones: a convolution is one matrix product of shifted maps, a pool the largest or
the mean of them. TensorFlow differentiates the whole model by itself; by hand is the gradient of slices alone.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

_LOWEST = -3.4e38  # behind the border of a map of which the largest entry is taken
_SLICE = "TfpruneSlice"  # the name of a gradient
_LOCK = threading.Lock()  # the functions are exchanged for the whole process


@contextmanager
def trainable_forms(tf: Any, *, seed: Any = None) -> Iterator[None]:
    """Exchange the functions of TensorFlow that have no gradient in TFLite while a model is traced.

    Args:
        tf: TensorFlow.
        seed: A tensor of one int32 that chooses what dropout leaves out; None if nothing is left out by dropout.

    Yields:
        Nothing. Shapes have to be known while a model is traced, the batch among them.
    """
    forms = _Forms(tf, seed)
    pairs = [(tf.nn, name, getattr(forms, name)) for name in _REPLACED]
    pairs += [(tf.image, "resize", partial(forms.resize, original=tf.image.resize))]
    pairs += [(tf.nn.experimental, "stateless_dropout", forms.stateless_dropout)]
    pairs += [(tf, "repeat", partial(forms.repeat, original=tf.repeat))]
    with _LOCK, ExitStack() as stack:
        for home, name, form in pairs:
            stack.enter_context(mock.patch.object(home, name, form))
        stack.enter_context(tf.compat.v1.get_default_graph().gradient_override_map({"StridedSlice": _SLICE}))
        yield


@contextmanager
def trainable_dropout(tf: Any, seed: Any) -> Iterator[None]:
    """Exchange dropout alone, for a step of Keras that leaves out the same entries."""
    form = _Forms(tf, seed).stateless_dropout
    with _LOCK, mock.patch.object(tf.nn.experimental, "stateless_dropout", form):
        yield


_REPLACED = (
    *("convolution", "conv_transpose", "depthwise_conv2d", "separable_conv2d", "max_pool", "avg_pool"),
    *("relu", "relu6", "leaky_relu", "elu", "softsign", "gelu"),
    "moments",
)


class _Forms:
    """The functions, with the arguments of those that they stand for.

    Args:
        tf: TensorFlow.
        seed: As of `trainable_forms`.
    """

    def __init__(self, tf: Any, seed: Any) -> None:
        self._tf = tf
        self._seed = seed
        self._dropouts = itertools.count(1)

    def convolution(
        self,
        x: Any,
        filters: Any,
        strides: Any = 1,
        padding: str = "VALID",
        data_format: str | None = None,
        dilations: Any = 1,
        name: str | None = None,
    ) -> Any:
        del name
        if _is_channels_first(data_format):
            return self._last(self.convolution, x, filters, strides, padding, None, dilations)
        tf, count = self._tf, len(x.shape) - 2
        window = _Window.of(x.shape, filters.shape[:count], strides, dilations, padding)
        maps = [part for _, part in self._shifted(x, window, behind=0.0)]
        groups = x.shape[-1] // filters.shape[-2]
        inputs, outputs = len(maps) * filters.shape[-2], filters.shape[-1]
        if groups == 1:
            rows = tf.reshape(_concat(tf, maps), (-1, inputs))
            products = tf.matmul(rows, tf.reshape(filters, (inputs, outputs)))
        else:
            rows = _concat(tf, [tf.reshape(part, (-1, groups, filters.shape[-2])) for part in maps])
            weights = tf.transpose(tf.reshape(filters, (inputs, groups, outputs // groups)), (1, 0, 2))
            products = tf.transpose(tf.matmul(tf.transpose(rows, (1, 0, 2)), weights), (1, 0, 2))
        return tf.reshape(products, (x.shape[0], *window.outputs, outputs))

    def conv_transpose(
        self,
        x: Any,
        filters: Any,
        output_shape: Any,
        strides: Any,
        padding: str = "SAME",
        data_format: str | None = None,
        dilations: Any = 1,
        name: str | None = None,
    ) -> Any:
        del name
        tf, count = self._tf, len(x.shape) - 2
        shape = [int(size) for size in tf.get_static_value(tf.convert_to_tensor(output_shape))]
        if _is_channels_first(data_format):
            shape = [shape[0], *shape[2:], shape[1]]
            return self._last(self.conv_transpose, x, filters, shape, strides, padding, None, dilations)
        window = _Window.of(shape, filters.shape[:count], strides, dilations, padding)
        spread, before, after = x, [], []
        for axis, stride in enumerate(window.strides, start=1):
            spread = self._spread(spread, axis, stride)
            reach = (window.sizes[axis - 1] - 1) * window.dilations[axis - 1]
            before.append(reach - window.before[axis - 1])
            after.append(shape[axis] - spread.shape[axis] - before[-1] + reach)
        spread = self._resized(spread, before, after)
        turned = tf.reverse(filters, list(range(count)))
        order = (*range(count), count + 1, count)
        return self.convolution(spread, tf.transpose(turned, order), dilations=window.dilations)

    def depthwise_conv2d(
        self,
        x: Any,
        kernel: Any,
        strides: Any,
        padding: str,
        data_format: str | None = None,
        dilations: Any = None,
        name: str | None = None,
    ) -> Any:
        del name
        if _is_channels_first(data_format):
            strides = [strides[0], *strides[2:], strides[1]]
            return self._last(self.depthwise_conv2d, x, kernel, strides, padding, None, dilations)
        tf, multiplier = self._tf, kernel.shape[-1]
        window = _Window.of(x.shape, kernel.shape[:2], strides, dilations or 1, padding)
        total = None
        for place, part in self._shifted(x, window, behind=0.0):
            if multiplier > 1:  # each channel as often in turn as it has filters
                part = tf.reshape(part, (-1, x.shape[-1], 1))
            weights = kernel[place] if multiplier > 1 else kernel[(*place, slice(None), 0)]
            total = part * weights if total is None else total + part * weights
        return tf.reshape(total, (x.shape[0], *window.outputs, x.shape[-1] * multiplier))

    def separable_conv2d(
        self,
        x: Any,
        depthwise_filter: Any,
        pointwise_filter: Any,
        strides: Any,
        padding: str,
        data_format: str | None = None,
        dilations: Any = None,
        name: str | None = None,
    ) -> Any:
        del name
        maps = self.depthwise_conv2d(x, depthwise_filter, strides, padding, data_format, dilations)
        return self.convolution(maps, pointwise_filter, data_format=data_format)

    def max_pool(
        self,
        x: Any,
        ksize: Any,
        strides: Any,
        padding: str,
        data_format: str | None = None,
        name: str | None = None,
    ) -> Any:
        del name
        if _is_channels_first(data_format):
            return self._last(self.max_pool, x, ksize, strides, padding)
        largest = None
        window = _Window.of(x.shape, _spatial(ksize, x.shape), strides, 1, padding)
        for _, part in self._shifted(x, window, behind=_LOWEST):
            largest = part if largest is None else self._tf.where(part > largest, part, largest)
        return largest

    def avg_pool(
        self,
        x: Any,
        ksize: Any,
        strides: Any,
        padding: str,
        data_format: str | None = None,
        name: str | None = None,
    ) -> Any:
        del name
        if _is_channels_first(data_format):
            return self._last(self.avg_pool, x, ksize, strides, padding)
        window = _Window.of(x.shape, _spatial(ksize, x.shape), strides, 1, padding)
        total = sum(part for _, part in self._shifted(x, window, behind=0.0))
        return total * window.one_by_count()

    def relu(self, features: Any, name: str | None = None) -> Any:
        del name
        return self._tf.where(features > 0, features, self._tf.zeros_like(features))

    def relu6(self, features: Any, name: str | None = None) -> Any:
        del name
        inside = self._tf.where(features < 6, features, 6 * self._tf.ones_like(features))
        return self._tf.where(features > 0, inside, self._tf.zeros_like(features))

    def leaky_relu(self, features: Any, alpha: float = 0.2, name: str | None = None) -> Any:
        del name
        return self._tf.where(features > 0, features, alpha * features)

    def elu(self, features: Any, name: str | None = None) -> Any:
        del name
        below = self._tf.where(features < 0, features, self._tf.zeros_like(features))
        return self._tf.where(features > 0, features, self._tf.exp(below) - 1)

    def softsign(self, features: Any, name: str | None = None) -> Any:
        del name
        return features / (1 + self._tf.where(features > 0, features, -features))

    def gelu(self, features: Any, approximate: bool = False, name: str | None = None) -> Any:
        del name
        tf = self._tf
        if approximate:
            inner = math.sqrt(2 / math.pi) * (features + 0.044715 * features * features * features)
            return 0.5 * features * (1 + tf.tanh(inner))
        return 0.5 * features * (1 + self._erf(features / math.sqrt(2)))

    def _erf(self, x: Any) -> Any:
        """Compute the error function to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
        tf = self._tf
        size = tf.where(x > 0, x, -x)
        t = 1 / (1 + 0.3275911 * size)
        coefficients = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
        total: Any = 0.0
        for coefficient in coefficients:
            total = (total + coefficient) * t
        rest = 1 - total * tf.exp(-size * size)
        return tf.where(x > 0, rest, -rest)

    def resize(
        self,
        images: Any,
        size: Any,
        method: Any = "bilinear",
        preserve_aspect_ratio: bool = False,
        antialias: bool = False,
        name: str | None = None,
        *,
        original: Callable[..., Any],
    ) -> Any:
        """Interpolate by one constant matrix for each axis, which the original function gives for unit vectors."""
        del name, preserve_aspect_ratio
        tf = self._tf
        batch, height, width, channels = images.shape
        rows, columns = (int(each) for each in tf.get_static_value(tf.convert_to_tensor(size)))
        with tf.init_scope():
            down, across = (
                original(np.eye(n, dtype=np.float32)[..., None, None], (m, 1), method=method, antialias=antialias)
                for n, m in ((height, rows), (width, columns))
            )
            down, across = (np.asarray(matrix)[:, :, 0, 0].T for matrix in (down, across))
        maps = tf.matmul(down, tf.reshape(images, (batch, height, width * channels)))
        maps = tf.matmul(across, tf.reshape(maps, (batch * rows, width, channels)))
        return tf.reshape(maps, (batch, rows, columns, channels))

    def repeat(
        self, x: Any, repeats: Any, axis: int | None = None, name: str | None = None, *, original: Callable[..., Any]
    ) -> Any:
        """Repeat each entry of an axis as often; the gradient adds what stood side by side."""
        if not isinstance(repeats, int) or axis is None:
            return original(x, repeats, axis, name)
        axis %= len(x.shape)
        before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
        part = self._tf.reshape(x, (before * x.shape[axis], 1, after))
        copies = self._tf.concat([part] * repeats, 1)
        return self._tf.reshape(copies, (*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :]))

    def moments(
        self, x: Any, axes: Sequence[int], shift: Any = None, keepdims: bool = False, name: str | None = None
    ) -> tuple[Any, Any]:
        """Average one axis after the other: TFLite adds the thousands of numbers of several axes one by one."""
        del shift, name
        tf = self._tf
        mean = self._mean(x, axes)
        variance = self._mean(tf.math.squared_difference(x, tf.stop_gradient(mean)), axes)
        return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))

    def _mean(self, x: Any, axes: Sequence[int]) -> Any:
        for axis in axes:
            x = self._tf.reduce_mean(x, axis, keepdims=True)
        return x

    def stateless_dropout(
        self, x: Any, rate: float, seed: Any, rng_alg: Any = None, noise_shape: Any = None, name: str | None = None
    ) -> Any:
        """Leave entries out that the seed of the step chooses, by integers alone: the same ones on every machine."""
        del seed, rng_alg, name
        tf = self._tf
        shape = list(x.shape) if noise_shape is None else [int(n) for n in tf.get_static_value(noise_shape)]
        noise = tf.reshape(self._noise(math.prod(shape[:-1]), shape[-1], next(self._dropouts)), shape)
        kept = tf.cast(noise >= math.ceil(rate * _PRIME), x.dtype)
        return x * kept * (1 / (1 - rate))

    def _noise(self, rows: int, columns: int, number: int) -> Any:
        """Return integers of [0, `_PRIME`) that look random; no product of two leaves 32 bits."""
        tf = self._tf
        down, across = (np.arange(count, dtype=np.int64) for count in (rows, columns))
        start = tf.math.floormod(self._seed, _PRIME) * (7919 + number % 1000)
        noise: Any = tf.math.floormod(start, _PRIME)
        for step in (16807, 31153, 24007):
            by_row = (down * step * step % _PRIME).astype(np.int32)[:, None]
            by_column = (across * step % _PRIME + number * step % _PRIME).astype(np.int32)
            noise = tf.math.floormod(noise + by_row, _PRIME)  # between, so that no constant is as large as the map
            noise = tf.math.floormod(noise + by_column, _PRIME)
            noise = tf.math.floormod(noise * noise, _PRIME)
            noise = tf.math.floormod(noise * step + by_column, _PRIME)
        return noise

    def _shifted(self, x: Any, window: _Window, *, behind: float) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Give the map that each entry of the window reads, in the size of the output."""
        tf, channels = self._tf, x.shape[-1]
        needed = [
            (size - 1) * dilation + stride * output
            for size, dilation, stride, output in zip(
                window.sizes, window.dilations, window.strides, window.outputs, strict=True
            )
        ]
        after = [n - size - before for n, size, before in zip(needed, x.shape[1:-1], window.before, strict=True)]
        x = self._resized(x, window.before, after, value=behind)
        for place in itertools.product(*map(range, window.sizes)):
            start = [at * dilation for at, dilation in zip(place, window.dilations, strict=True)]
            sizes = [stride * output for stride, output in zip(window.strides, window.outputs, strict=True)]
            part = tf.slice(x, (0, *start, 0), (x.shape[0], *sizes, channels))
            for axis, (stride, output) in enumerate(zip(window.strides, window.outputs, strict=True), start=1):
                part = self._first_of_each(part, axis, stride, output)
            yield place, part

    def _first_of_each(self, x: Any, axis: int, stride: int, count: int) -> Any:
        """Keep the first of each `stride` entries of an axis."""
        if stride == 1:
            return x
        before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
        parts = self._tf.reshape(x, (before, count, stride, after))
        parts = self._tf.slice(parts, (0, 0, 0, 0), (before, count, 1, after))
        return self._tf.reshape(parts, (*x.shape[:axis], count, *x.shape[axis + 1 :]))

    def _spread(self, x: Any, axis: int, stride: int) -> Any:
        """Put `stride` - 1 zeros between the entries of an axis."""
        if stride == 1:
            return x
        before, count, after = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
        parts = self._tf.pad(
            self._tf.reshape(x, (before, count, 1, after)), ((0, 0), (0, 0), (0, stride - 1), (0, 0))
        )
        parts = self._tf.reshape(parts, (*x.shape[:axis], count * stride, *x.shape[axis + 1 :]))
        return self._cut(parts, axis, count * stride - stride + 1)

    def _resized(self, x: Any, before: Sequence[int], after: Sequence[int], *, value: float = 0.0) -> Any:
        """Pad the middle axes, or cut them at the end where `after` is negative."""
        pads = [(0, 0), *((low, max(high, 0)) for low, high in zip(before, after, strict=True)), (0, 0)]
        x = self._tf.pad(x, pads, constant_values=value) if any(map(any, pads)) else x
        for axis, high in enumerate(after, start=1):
            x = self._cut(x, axis, x.shape[axis] + high) if high < 0 else x
        return x

    def _cut(self, x: Any, axis: int, size: int) -> Any:
        shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
        return self._tf.slice(x, [0] * len(shape), shape)

    def _last(self, form: Callable[..., Any], x: Any, *others: Any) -> Any:
        """Compute with channels last what is given with channels first."""
        count = len(x.shape)
        moved = form(self._tf.transpose(x, (0, *range(2, count), 1)), *others)
        return self._tf.transpose(moved, (0, count - 1, *range(1, count - 1)))


_PRIME = 46_337  # the largest one whose square is below 2 ** 31


class _Window:
    """What each entry of an output reads of a map with channels last.

    Attributes:
        sizes: Entries of the window along each axis.
        strides: Steps between two outputs.
        dilations: Steps between two entries of the window.
        before: Entries that are added before the map.
        outputs: The size of the output.
    """

    def __init__(
        self, shape: Sequence[int], sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int], same: bool
    ) -> None:
        self.sizes, self.strides, self.dilations, self._shape = sizes, strides, dilations, shape
        reaches = [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=True)]
        self.outputs, self.before = [], []
        for length, reach, stride in zip(shape, reaches, strides, strict=True):
            count = -(-length // stride) if same else (length - reach) // stride + 1
            self.outputs.append(count)
            self.before.append(max((count - 1) * stride + reach - length, 0) // 2 if same else 0)

    @classmethod
    def of(cls, shape: Sequence[Any], sizes: Sequence[Any], strides: Any, dilations: Any, padding: str) -> _Window:
        same = padding.upper() == "SAME"
        return cls(
            list(shape[1:-1]), list(map(int, sizes)), _spatial(strides, shape), _spatial(dilations, shape), same
        )

    def one_by_count(self) -> np.ndarray:
        """Return one by the number of entries of the map in each window, of the output's shape without the batch."""
        total: Any = np.ones((), np.float32)
        for length, size, stride, count, before in zip(
            self._shape, self.sizes, self.strides, self.outputs, self.before, strict=True
        ):
            starts = np.arange(count) * stride - before
            inside = np.minimum(starts + size, length) - np.maximum(starts, 0)
            total = total[..., None] * inside.astype(np.float32)
        return (1 / total)[..., None].astype(np.float32)


def _spatial(value: Any, shape: Sequence[Any]) -> list[int]:
    """Return one number for each axis between batch and channels."""
    count = len(shape) - 2
    values = [int(each) for each in np.ravel(value)]
    if len(values) == count + 2:
        return values[1:-1]
    return values * count if len(values) == 1 else values


def _is_channels_first(data_format: str | None) -> bool:
    return data_format is not None and data_format.startswith("NC")


def _concat(tf: Any, parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tf.concat(parts, -1)


def register_gradients(tf: Any) -> None:
    """Give slices with steps, and single entries, a gradient of builtin operators, once for a process."""
    if _REGISTERED.is_set():
        return
    _REGISTERED.set()

    @tf.RegisterGradient(_SLICE)
    def _(operation: Any, gradient: Any) -> list[Any]:
        shape = operation.inputs[0].shape
        size = math.prod(shape)
        names = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        masks = {name: operation.get_attr(name) for name in names}
        bounds = [tf.get_static_value(each) for each in operation.inputs[1:]]
        with tf.init_scope():
            order = np.arange(size, dtype=np.int32).reshape(shape)
            places = np.asarray(
                tf.raw_ops.StridedSlice(input=order, **dict(zip(_BOUNDS, bounds, strict=True)), **masks)
            )
        flat = tf.scatter_nd(places.reshape(-1, 1), tf.reshape(gradient, (-1,)), (size,))
        return [tf.reshape(flat, shape), None, None, None]


_BOUNDS = ("begin", "end", "strides")
_REGISTERED = threading.Event()
