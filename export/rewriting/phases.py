"""Convolutions as sparse 1x1 convolutions between shifts of whole maps: the algebra, its forms, and what each costs.

A k x k convolution is a sum of 1x1 convolutions of shifted maps, and a depthwise convolution whose kernels hold a
single one shifts each channel by its own rows and columns. XNNPACK skips the zeros of 1x1 convolutions only.

A map [height, width, channels] may be kept in 2 x 2 phases: [height / 2, width / 2, 4 channels], where channel
(2 p + q) channels + c holds the rows of parity p and the columns of parity q of channel c. DEPTH_TO_SPACE gives the
map back. In phases each channel needs a single shift in each direction for a 3x3 kernel, and there are fewer pixels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

_LARGEST = 9  # rows or columns that a window reads: shifts go by one at a time


@dataclass(frozen=True)
class Window:
    """How a convolution moves over an image; each pair is rows, columns.

    Attributes:
        size: The size of its kernel.
        stride: Pixels from one output to the next.
        padding: Rows above and columns left of the image that count as zeros.
        dilation: Pixels from one entry of the kernel to the next.
        enlarges: Whether it is transposed: input row i is added to the output rows 2 i - padding and behind.
    """

    size: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    enlarges: bool = False

    @property
    def reach(self) -> tuple[int, int]:
        """The rows and columns from its first entry to its last."""
        return (self.size[0] - 1) * self.dilation[0] + 1, (self.size[1] - 1) * self.dilation[1] + 1

    def reads(self, axis: int, *, phases: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
        """Yield output phase, entry of the kernel, input phase and shift, along rows (0) or columns (1)."""
        before, behind = phases
        for phase, entry in itertools.product(range(behind), range(self.size[axis])):
            if self.enlarges:
                row, rest = divmod(phase + self.padding[axis] - entry, 2)
                if not rest:
                    yield phase, entry, 0, row
            else:
                row = self.stride * phase + entry * self.dilation[axis] - self.padding[axis]
                yield phase, entry, row % before, row // before

    def stride_between(self, phases: tuple[int, int]) -> int:
        """Return its stride from maps in some phases to maps in others; 0 if there is none."""
        if self.enlarges:
            return int(phases == (1, 2))
        return stride_between(self.stride, phases)


@dataclass(frozen=True)
class _Taps:
    """A convolution as one matrix for each shift of its input.

    Attributes:
        matrices: Arrays [outputs, inputs], by the rows and columns of the shift: output pixel (i, j) takes input
            pixel (stride i + rows, stride j + columns).
        stride: Pixels of the input for each pixel of the output, 1 or 2.
    """

    matrices: dict[tuple[int, int], np.ndarray]
    stride: int


def stride_between(stride: int, phases: tuple[int, int]) -> int:
    """Return the stride of a convolution from maps in some phases to maps in others; 0 if there is none."""
    before, behind = phases
    inside, rest = divmod(stride * behind, before)
    return inside if not rest and inside in (1, 2) else 0


def _taps_of(kernel: np.ndarray, window: Window, *, phases: tuple[int, int]) -> _Taps:
    """Return the matrices of a convolution between maps in phases.

    Args:
        kernel: Array [outputs, rows, columns, inputs].
        window: How it moves; its size is that of the kernel.
        phases: 1 for a plain map or 2, of its input and of its output.
    """
    before, behind = phases
    outputs, _, _, inputs = kernel.shape
    matrices: dict[tuple[int, int], np.ndarray] = {}
    for p, row, p_in, down in window.reads(0, phases=phases):
        for q, column, q_in, right in window.reads(1, phases=phases):
            entries = kernel[:, row, column]
            if entries.any():
                matrix = matrices.setdefault(
                    (down, right), np.zeros((behind**2 * outputs, before**2 * inputs), np.float32)
                )
                first, start = (p * behind + q) * outputs, (p_in * before + q_in) * inputs
                matrix[first : first + outputs, start : start + inputs] += entries
    if not matrices:  # a kernel of zeros
        matrices[0, 0] = np.zeros((behind**2 * outputs, before**2 * inputs), np.float32)
    return _Taps(matrices, window.stride_between(phases))


@dataclass(frozen=True)
class _Step:
    """One operator: a 1x1 convolution if it has a matrix, a shift if it has amounts, else a sum.

    Attributes:
        sources: The maps that it takes: 0 is the input, others are counted as the steps that make them, from 1.
        matrix: Array [outputs, inputs].
        amounts: Array [channels, 2]: rows and columns by which each channel is shifted, -1, 0 or 1.
        stride: Pixels from one output of a shift to the next.
        clips: Whether what is below zero becomes zero.
        differs: Whether a shift subtracts the map itself from what is shifted.
        copies: Whether a product only copies its inputs.
        constant: What a product adds.
    """

    sources: tuple[int, ...]
    matrix: np.ndarray | None = field(default=None, repr=False)
    amounts: np.ndarray | None = field(default=None, repr=False)
    stride: int = 1
    clips: bool = False
    differs: bool = False
    copies: bool = False
    constant: float = 0.0


class Chain:
    """Steps from one map to another; the last one gives the result.

    Attributes:
        steps: The operators, in order.
        bias: The step that adds the bias.
    """

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.bias = 0
        self._shifted: dict[tuple[int, int, bytes], int] = {}

    def add(self, *sources: int, matrix: np.ndarray | None = None, clips: bool = False, constant: float = 0.0) -> int:
        self.steps.append(_Step(sources, matrix, clips=clips, constant=constant))
        return len(self.steps)

    def copy(self, source: int, matrix: np.ndarray) -> int:
        self.steps.append(_Step((source,), matrix, copies=True))
        return len(self.steps)

    def shift(self, source: int, amounts: np.ndarray, *, stride: int) -> int:
        """Shift a map once, however often it is asked for, in steps of kernels of 3x3."""
        if stride == 1 and not amounts.any():
            return source
        if np.abs(amounts).max() > 1:
            near = np.clip(amounts, -1, 1) if stride == 1 else np.where(np.abs(amounts) > 1, amounts % 2, amounts)
            return self.shift(self.shift(source, near, stride=stride), (amounts - near) // stride, stride=1)
        key = source, stride, amounts.tobytes()
        if key not in self._shifted:
            self.steps.append(_Step((source,), amounts=amounts, stride=stride))
            self._shifted[key] = len(self.steps)
        return self._shifted[key]

    def difference(self, source: int, amounts: np.ndarray, *, clips: bool) -> int:
        """Subtract a map from what it holds elsewhere."""
        self.steps.append(_Step((source,), amounts=amounts, clips=clips, differs=True))
        return len(self.steps)

    def larger(self, first: int, second: int, *, channels: int) -> int:
        negative = self.add(first, matrix=-np.eye(channels, dtype=np.float32))
        return self.add(first, self.add(second, negative, clips=True))

    def take_apart(self, source: int, *, channels: int) -> int:
        """Put a plain map into phases."""
        one = np.eye(4, dtype=np.float32)[:, :, None, None] * np.eye(channels, dtype=np.float32)
        return self.sum(
            [
                self.add(
                    self.shift(source, np.full((channels, 2), divmod(phase, 2)), stride=2),
                    matrix=one[phase].reshape(-1, channels),
                )
                for phase in range(4)
            ]
        )

    def sum(self, maps: list[int]) -> int:
        return functools.reduce(lambda first, second: self.add(first, second), maps)


def _one_sided(taps: _Taps) -> Chain:
    """Shift the input in each way that is needed, multiply each of the shifted maps, and add."""
    (first, *_) = taps.matrices.values()
    channels = first.shape[1]
    wanted = [
        [shift for shift, matrix in taps.matrices.items() if matrix[:, channel].any()] for channel in range(channels)
    ]
    if max(map(len, wanted)) == len(taps.matrices):  # then each map has the same shift for all channels
        wanted = [[*taps.matrices]] * channels
    chain = Chain()
    maps = []
    for number in range(max(1, *map(len, wanted))):
        amounts = np.array([shifts[number] if number < len(shifts) else (0, 0) for shifts in wanted])
        matrix = np.zeros_like(first)
        for channel in range(channels):
            if number < len(wanted[channel]):
                matrix[:, channel] = taps.matrices[wanted[channel][number]][:, channel]
        maps.append((chain.shift(0, amounts, stride=taps.stride), matrix))
    products = [chain.add(source, matrix=matrix) for source, matrix in maps]
    chain.bias = products[0]
    chain.sum(products)
    return chain


def _gathered(taps: _Taps) -> Chain:
    """Copy each channel as often as it is shifted, shift all copies at once, and multiply them once.

    The copies are large, which pays where few inputs make many outputs: in the first layers of a network.
    """
    (first, *_) = taps.matrices.values()
    used = [(shift, np.flatnonzero(matrix.any(axis=0)).tolist()) for shift, matrix in taps.matrices.items()]
    places = [(shift, channel) for shift, channels in used for channel in channels] or [((0, 0), 0)]
    chain = Chain()
    source = chain.copy(0, np.eye(first.shape[1], dtype=np.float32)[[channel for _, channel in places]])
    source = chain.shift(source, np.array([shift for shift, _ in places]), stride=taps.stride)
    matrix = np.stack([taps.matrices.get(shift, first)[:, channel] for shift, channel in places], axis=1)
    chain.bias = chain.add(source, matrix=matrix)
    return chain


def _two_sided(taps: _Taps) -> Chain | None:
    """Shift columns before the products, and rows behind them; None with a stride, which both sides would need.

    In 2 x 2 phases a 3x3 kernel needs two shifts and four products in this form.
    """
    if taps.stride != 1:
        return None
    (first, *_) = taps.matrices.values()
    columns, rows = _sides(taps, axis=1), _sides(taps, axis=0)
    matrices = np.zeros((max(map(len, rows)), max(map(len, columns)), *first.shape), np.float32)
    for (down, right), matrix in taps.matrices.items():
        behind = np.array([found.index(down) if down in found else 0 for found in rows])
        before = np.array([found.index(right) if right in found else 0 for found in columns])
        for side in np.ndindex(matrices.shape[:2]):
            part = np.ix_(behind == side[0], before == side[1])
            matrices[side][part] += matrix[part]
    chain = Chain()
    inputs = [chain.shift(0, _amounts(columns, number, axis=1), stride=1) for number in range(matrices.shape[1])]
    parts: list[int] = []
    products: dict[int, int] = {}
    for number in range(matrices.shape[0]):
        sums = [
            chain.add(source, matrix=matrices[number, side])
            for side, source in enumerate(inputs)
            if matrices[number, side].any()
        ]
        if sums:
            products[number] = sums[0]
            parts.append(chain.shift(chain.sum(sums), _amounts(rows, number, axis=0), stride=1))
    if 0 not in products:  # the bias needs a product that is not shifted
        return None
    chain.bias = products[0]
    chain.sum(parts)
    return chain


def _regrouped(kernel: np.ndarray, window: Window, phases: tuple[int, int]) -> Chain | None:
    """Make a plain map from one in phases, on which a stride of 2 is none, and take that one apart."""
    if phases != (2, 2) or window.stride != 2:
        return None
    chain = _two_sided(_taps_of(kernel, window, phases=(2, 1)))
    if chain is not None:
        chain.take_apart(len(chain.steps), channels=len(kernel))
    return chain


def _sides(taps: _Taps, *, axis: int) -> list[list[int]]:
    """Return for each output (axis 0: rows) or input (axis 1: columns) no shift, and the shifts that it needs."""
    found = [{0} for _ in range(next(iter(taps.matrices.values())).shape[axis])]
    for shift, matrix in taps.matrices.items():
        for channel in np.flatnonzero(matrix.any(axis=1 - axis)):
            found[channel].add(shift[axis])
    return [sorted(each, key=lambda shift: (shift != 0, shift)) for each in found]


def _amounts(found: list[list[int]], number: int, *, axis: int) -> np.ndarray:
    amounts = np.zeros((len(found), 2), int)
    amounts[:, axis] = [each[number] if number < len(each) else 0 for each in found]
    return amounts


def maximum(
    window: Window, *, channels: int, phases: tuple[int, int], border: float = 0.0, is_even: bool = True
) -> Chain:
    """Return the largest entry of each window: of each row of it, and of the columns of these.

    A window grows by max(a, b) = a + relu(b - a), where b is a shifted by one row or column.

    Args:
        window: How it moves.
        channels: Those of the map.
        phases: Those of its input and its output.
        border: What is subtracted outside of the image, where a map holds zeros.
        is_even: Whether the height and the width of the image are.
    """
    before, behind = phases
    if before < window.stride and (is_even or not border):
        return _skipping(window, channels=channels, border=border)
    strides = before < window.stride  # then the largest of every window are found, and every second one is kept
    moved = replace(window, stride=1) if strides else window
    inner = before // moved.stride
    chain, source = Chain(), 0
    for axis in (0, 1):
        shape = (inner if axis else before, before, channels)
        source = _largest(
            chain, source, [*moved.reads(axis, phases=(before, inner))], shape, axis=axis, border=border
        )
    if strides:
        source = chain.shift(source, np.zeros((channels, 2), int), stride=2)
    if inner < behind:
        source = chain.add(source, matrix=np.tile(np.eye(channels, dtype=np.float32), (4, 1)))
        chain.shift(source, np.repeat([(p, q) for p in (0, 1) for q in (0, 1)], channels, axis=0), stride=2)
    return chain


def _skipping(window: Window, *, channels: int, border: float) -> Chain:
    """Take a map apart into its phases, each of which is a map, and compare these."""
    chain = Chain()
    ranges = []
    for axis in (0, 1):
        shifts: dict[int, list[int]] = {}
        for _, _, phase, shift in window.reads(axis, phases=(2, 1)):
            shifts.setdefault(phase, []).append(shift)
        ranges.append({phase: (min(found), max(found)) for phase, found in shifts.items()})

    def largest(maps: dict[int, int], axis: int) -> int:
        groups = np.zeros(channels, int)
        grown = [
            _grown(chain, maps[phase], groups, np.array([limits]), axis=axis, border=border)
            for phase, limits in sorted(ranges[axis].items(), key=lambda each: not each[1][0] <= 0 <= each[1][1])
        ]
        return functools.reduce(lambda first, second: chain.larger(first, second, channels=channels), grown)

    columns = {}
    for q in ranges[1]:
        rows = {p: chain.shift(0, np.full((channels, 2), (p, q)), stride=2) for p in ranges[0]}
        columns[q] = largest(rows, 0)
    largest(columns, 1)
    return chain


def _largest(
    chain: Chain,
    source: int,
    reads: list[tuple[int, int, int, int]],
    shape: tuple[int, int, int],
    *,
    axis: int,
    border: float,
) -> int:
    """Reduce windows along rows (0) or columns (1); channels have the shape [rows, columns, channels]."""
    behind = 1 + max(phase for phase, *_ in reads)
    ranges = {
        (phase, taken): [shift for other, _, each, shift in reads if (other, each) == (phase, taken)]
        for phase in range(behind)
        for taken in range(shape[axis])
    }
    used = {key: (min(shifts), max(shifts)) for key, shifts in ranges.items() if shifts}
    numbers = np.moveaxis(np.arange(np.prod(shape)).reshape(shape), axis, 0)
    if behind == 2:
        source = chain.add(source, matrix=_chosen(np.stack([numbers, numbers]), numbers.size))
    groups = np.concatenate([np.full(numbers[0].size, key) for key in range(len(ranges))])
    if behind == 1:  # the channels are in the order of the file
        groups = np.moveaxis(groups.reshape(numbers.shape), 0, axis).ravel()
    limits = np.array([used.get(key, (0, 0)) for key in ranges])
    source = _grown(chain, source, groups, limits, axis=axis, border=border)
    order = np.arange(groups.size).reshape(behind, *numbers.shape) if behind == 2 else numbers[None]
    parts = [
        [order[key] for key in sorted(used, key=lambda key: not used[key][0] <= 0 <= used[key][1]) if key[0] == phase]
        for phase in range(behind)
    ]
    chosen = [np.moveaxis(np.stack(each), 0, axis) for each in zip(*parts, strict=True)]
    if len(chosen) == 1 and chosen[0].size == groups.size:
        return source
    first, *others = (_chosen(each, groups.size) for each in chosen)
    kept = chain.add(source, matrix=first)
    for other in others:
        kept = chain.add(kept, chain.add(source, matrix=other - first, clips=True))
    return kept


def _grown(chain: Chain, source: int, groups: np.ndarray, limits: np.ndarray, *, axis: int, border: float) -> int:
    """Let each channel hold the largest of a range of rows or columns, which is that of its group."""
    low = np.clip(0, *limits.T)
    high, amounts = low.copy(), np.zeros((len(limits), 2), int)
    amounts[:, axis] = low
    source = chain.shift(source, amounts[groups], stride=1)
    if border and amounts.any():  # only of windows of two rows or columns
        source = chain.add(source, _outside(chain, source, groups, amounts, border=border))
    while (high < limits[:, 1]).any() or (low > limits[:, 0]).any():
        moves = np.where(high < limits[:, 1], 1, np.where(low > limits[:, 0], -1, 0))
        high, low = high + (moves > 0), low - (moves < 0)
        amounts[:, axis] = moves
        more = chain.difference(source, amounts[groups], clips=not border)
        if border:
            outside = _outside(chain, source, groups, amounts, border=border)
            more = chain.add(more, outside, clips=True)
        source = chain.add(source, more)
    return source


def _outside(chain: Chain, source: int, groups: np.ndarray, amounts: np.ndarray, *, border: float) -> int:
    """Make a map of zeros, and of -border where a shift, one for each group, takes what is outside of the image."""
    inside = chain.add(source, matrix=np.zeros((len(amounts), len(groups)), np.float32), constant=border)
    outside = chain.difference(inside, amounts.copy(), clips=False)
    return chain.add(outside, matrix=np.eye(len(amounts), dtype=np.float32)[groups])


def _chosen(channels: np.ndarray, count: int) -> np.ndarray:
    """Return the matrix that takes some channels of so many."""
    return np.eye(count, dtype=np.float32)[channels.ravel()]


# What a chain takes, in multiplications of a dense convolution: fitted to WebAssembly on one processor.

PER_SHIFT = {1: 12.5, 2: 14.0}  # by its stride, for each channel and pixel
PER_PRODUCT, PER_SUM, PER_ENTRY = 2.0, 2.2, 1.4  # for each output and pixel; the last for each non-zero entry
_PER_STEP, _PER_SHIFTED = 6000.0, 200.0  # for each operator, and each channel of a shift, however small
_FEWEST = 6.0  # pixels that such entries take as long for as for one
_FULL = 0.8  # of the entries: such products are written as two, each with every second row
_PER_BLOCK, _PER_PAIR = 3.3, 1.7  # entries of four and of two rows, on average, for which XNNPACK has other kernels


def cost(
    window: Window,
    *,
    sizes: tuple[int, int],
    entries: int,
    phases: tuple[int, int],
    pixels: float = float("inf"),
    slowdown: float = 1.0,
) -> float:
    """Estimate the cheapest chain of a convolution, for each pixel of its output in phases; infinite without one.

    Args:
        window: How it moves.
        sizes: Its inputs and outputs.
        entries: The non-zero entries of its kernel.
        phases: Those of its input and its output.
        pixels: Those of its output in phases.
        slowdown: How many times as long an entry takes, where its inputs are not at hand.
    """
    is_full = entries > _FULL * math.prod((*sizes, *window.size))
    works = (_work(each, sizes, pixels=pixels, is_full=is_full) for each in _forms(window, phases))
    each_entry = PER_ENTRY * slowdown * max(_FEWEST / pixels, 1.0)
    return min(works, default=float("inf")) + each_entry * entries * (1 if window.enlarges else phases[1] ** 2)


@functools.cache
def _forms(window: Window, phases: tuple[int, int]) -> tuple[Chain, ...]:
    """Return the chains of a kernel of ones on one channel."""
    if not window.stride_between(phases) or max(window.reach) > _LARGEST:
        return ()
    return _chains(np.ones((1, *window.size, 1), np.float32), window, phases)


def _chains(kernel: np.ndarray, window: Window, phases: tuple[int, int]) -> tuple[Chain, ...]:
    taps = _taps_of(kernel, window, phases=phases)
    chains = _two_sided(taps), _one_sided(taps), _gathered(taps), _regrouped(kernel, window, phases)
    return tuple(chain for chain in chains if chain is not None)


def _work(
    chain: Chain,
    sizes: tuple[int, int] = (1, 1),
    *,
    per_entry: float = 0.0,
    pixels: float = float("inf"),
    is_full: bool = False,
) -> float:
    """Estimate the steps, for each pixel that the last one makes.

    Args:
        chain: Its steps.
        sizes: How many times the inputs and the outputs that they have.
        per_entry: For each non-zero entry of a product that does not copy.
        pixels: Those of the last map.
        is_full: Whether products are written as two.
    """
    channels, grids, is_product = [0], [1], [False]  # of the input, and of each step behind it
    parts, shifted = [], 0.0
    for step in chain.steps:
        first = step.sources[0]
        is_product.append((step.matrix is not None and not step.copies) or is_product[first])
        grids.append(grids[first] * step.stride)
        size = sizes[is_product[-1]]
        channels.append(channels[first])
        if step.amounts is not None:
            channels[-1] = len(step.amounts)
            parts.append(PER_SHIFT[step.stride] * channels[-1] * size)
            shifted += channels[-1] * size
        elif step.matrix is not None:
            channels[-1] = len(step.matrix)
            each = PER_PRODUCT + PER_ENTRY * step.copies + (PER_PRODUCT + PER_SUM) * (is_full and not step.copies)
            entries = 0.0 if step.copies else float(np.count_nonzero(step.matrix))
            parts.append(each * channels[-1] * size + per_entry * entries)
        else:
            parts.append(PER_SUM * channels[-1] * size)
    fixed = (_PER_STEP * len(parts) + _PER_SHIFTED * shifted) / pixels
    return fixed + sum(part * (grids[-1] / grid) ** 2 for part, grid in zip(parts, grids[1:], strict=True))


def cheapest(kernel: np.ndarray, window: Window, *, phases: tuple[int, int], pixels: float) -> Chain:
    """Return the chain of a convolution that is estimated to be the fastest, for so many pixels of its output."""
    is_full = bool(np.count_nonzero(kernel) > _FULL * kernel.size)
    return min(_chains(kernel, window, phases), key=functools.partial(_work, pixels=pixels, is_full=is_full))


def runs_in_blocks(matrix: np.ndarray) -> bool:
    """Tell whether XNNPACK runs a product on a kernel for blocks of rows, which WebAssembly has without SIMD."""
    for rows, most in ((4, _PER_BLOCK), (2, _PER_PAIR)):
        whole = matrix[: len(matrix) // rows * rows]
        blocks = np.count_nonzero(whole.reshape(-1, rows, matrix.shape[1]).any(axis=1))
        if blocks and np.count_nonzero(whole) > most * blocks:
            return True
    return False


def cost_of_maximum(
    window: Window, *, channels: int, phases: tuple[int, int], border: float = 0.0, is_even: bool = True
) -> float:
    """Estimate `maximum` for each pixel of its output in phases; infinite if it has no form."""
    return channels * _work_of_maximum(window, phases, border, is_even)


@functools.cache
def _work_of_maximum(window: Window, phases: tuple[int, int], border: float, is_even: bool) -> float:
    if not window.stride_between(phases) or max(window.reach) > _LARGEST:
        return float("inf")
    chain = maximum(window, channels=1, phases=phases, border=border, is_even=is_even)
    return _work(chain, per_entry=PER_ENTRY)
