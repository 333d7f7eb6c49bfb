"""Convolutions as sparse 1x1 convolutions between shifts of whole maps: the algebra, its forms, and what each costs.

A k x k convolution is a sum of 1x1 convolutions of shifted maps, and a depthwise convolution whose kernels hold a
single one shifts each channel by its own rows and columns. XNNPACK skips the zeros of 1x1 convolutions only.

A map [height, width, channels] may be kept in 2 x 2 phases: [height / 2, width / 2, 4 channels], where channel
(2 p + q) channels + c holds the rows of parity p and the columns of parity q of channel c. DEPTH_TO_SPACE gives the
map back. In phases each channel needs a single shift in each direction for a 3x3 kernel, and there are fewer pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

FARTHEST = 2  # rows or columns: depthwise kernels of 5x5 are the largest that XNNPACK takes in a group


@dataclass(frozen=True)
class Window:
    """How a convolution moves over an image; each pair is rows, columns.

    Attributes:
        size: The size of its kernel.
        stride: Pixels from one output to the next.
        padding: Rows above and columns left of the image that count as zeros.
        dilation: Pixels from one entry of the kernel to the next.
    """

    size: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def reads(self, axis: int, *, phases: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
        """Yield output phase, entry of the kernel, input phase and shift, along rows (0) or columns (1)."""
        before, behind = phases
        for phase in range(behind):
            for entry in range(self.size[axis]):
                row = self.stride * phase + entry * self.dilation[axis] - self.padding[axis]
                yield phase, entry, row % before, row // before


@dataclass(frozen=True)
class Taps:
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


def taps_of(kernel: np.ndarray, window: Window, *, phases: tuple[int, int]) -> Taps:
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
    return Taps(matrices, stride_between(window.stride, phases))


@dataclass(frozen=True)
class Step:
    """One operator: a 1x1 convolution if it has a matrix, a shift if it has amounts, else a sum.

    Attributes:
        sources: The maps that it takes: 0 is the input, others are counted as the steps that make them, from 1.
        matrix: Array [outputs, inputs].
        amounts: Array [channels, 2]: rows and columns by which each channel is shifted.
        stride: Pixels from one output of a shift to the next.
        clips: Whether what is below zero becomes zero.
    """

    sources: tuple[int, ...]
    matrix: np.ndarray | None = field(default=None, repr=False)
    amounts: np.ndarray | None = field(default=None, repr=False)
    stride: int = 1
    clips: bool = False

    @property
    def size(self) -> int:
        """The rows and columns of the kernel that shifts: 3 or 5."""
        assert self.amounts is not None
        return 5 if self.amounts.size and np.abs(self.amounts).max() > 1 else 3


class Chain:
    """Steps from one map to another; the last one gives the result.

    Attributes:
        steps: The operators, in order.
        bias: The step that adds the bias.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.bias = 0

    def add(self, *sources: int, matrix: np.ndarray | None = None, clips: bool = False) -> int:
        self.steps.append(Step(sources, matrix, clips=clips))
        return len(self.steps)

    def shift(self, source: int, amounts: np.ndarray, *, stride: int) -> int:
        if stride == 1 and not amounts.any():
            return source
        self.steps.append(Step((source,), amounts=amounts, stride=stride))
        return len(self.steps)

    def sum(self, maps: list[int]) -> int:
        return functools.reduce(lambda first, second: self.add(first, second), maps)

    @property
    def fits(self) -> bool:
        """Whether XNNPACK's kernels reach as far as the shifts go."""
        shifts = [step.amounts for step in self.steps if step.amounts is not None]
        return all(np.abs(amounts).max(initial=0) <= FARTHEST for amounts in shifts)


def one_sided(taps: Taps) -> Chain:
    """Shift the input in each way that is needed, multiply each of the shifted maps, and add."""
    (first, *_) = taps.matrices.values()
    channels = first.shape[1]
    wanted = [
        [shift for shift, matrix in taps.matrices.items() if matrix[:, channel].any()] for channel in range(channels)
    ]
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


def two_sided(taps: Taps) -> Chain | None:
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


def _sides(taps: Taps, *, axis: int) -> list[list[int]]:
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


def maximum(window: Window, *, channels: int, phases: tuple[int, int]) -> Chain:
    """Return the largest entry of each window of a map without negative values, which zeros around it do not change.

    Copies of the map are shifted, and then compared in a tree: max(a, b) = a + relu(b - a).
    """
    before, behind = phases
    ones = np.eye(channels, dtype=np.float32)[:, None, None]
    copies, amounts = [], []
    for down in range(window.size[0]):
        for right in range(window.size[1]):
            kernel = np.zeros((channels, *window.size, channels), np.float32)
            kernel[:, down, right] = ones[:, 0, 0]
            matrices = taps_of(kernel, window, phases=phases).matrices
            copies.append(sum(matrices.values()))
            taken = {shift: np.asarray(matrix.any(axis=1)) for shift, matrix in matrices.items()}
            amounts.append(sum(rows[:, None] * np.array(shift) for shift, rows in taken.items()))
    chain = Chain()
    width = behind**2 * channels
    source = chain.add(0, matrix=np.concatenate(copies))
    source = chain.shift(source, np.concatenate(amounts), stride=stride_between(window.stride, phases))
    values = [
        np.eye(len(copies) * width, dtype=np.float32)[number * width :][:width] for number in range(len(copies))
    ]
    while len(values) > 1:
        pairs = list(zip(values[::2], values[1::2], strict=False))
        made = [part for first, second in pairs for part in (first, second - first)] + values[2 * len(pairs) :]
        source = chain.add(source, matrix=np.concatenate(made), clips=True)
        kept = np.eye(len(made) * width, dtype=np.float32)
        parts = [kept[number * width :][:width] for number in range(len(made))]
        values = [parts[2 * number] + parts[2 * number + 1] for number in range(len(pairs))] + parts[2 * len(pairs) :]
    chain.bias = chain.add(source, matrix=values[0])
    return chain


# What a chain takes, in multiplications of a dense convolution: fitted to WebAssembly on one processor.

PER_SHIFT = {3: 11.0, 5: 26.0}  # for each channel and pixel
PER_PRODUCT, PER_SUM, PER_ENTRY = 4.5, 3.5, 1.8  # for each output and pixel; the last for each non-zero entry
_FULL, _FULL_TIMES = 0.8, 4.0  # such products run on a kernel for blocks of rows, which WebAssembly has without SIMD


def cost(window: Window, *, sizes: tuple[int, int], entries: int, phases: tuple[int, int]) -> float:
    """Estimate the cheapest chain of a convolution, for each pixel of its output in phases; infinite without one.

    Args:
        window: How it moves.
        sizes: Its inputs and outputs.
        entries: The non-zero entries of its kernel.
        phases: Those of its input and its output.
    """
    is_full = entries > _FULL * sizes[0] * sizes[1] * window.size[0] * window.size[1]
    each_entry = PER_ENTRY * (_FULL_TIMES if is_full else 1.0)
    work = min((_work(each, sizes) for each in _forms(window, phases)), default=float("inf"))
    return work + each_entry * entries * phases[1] ** 2


@functools.cache
def _forms(window: Window, phases: tuple[int, int]) -> tuple[Chain, ...]:
    """Return the chains of a kernel of ones on one channel."""
    if not stride_between(window.stride, phases):
        return ()
    return chains(taps_of(np.ones((1, *window.size, 1), np.float32), window, phases=phases))


def chains(taps: Taps) -> tuple[Chain, ...]:
    """Return the chains of a convolution that XNNPACK's kernels can follow."""
    return tuple(chain for chain in (two_sided(taps), one_sided(taps)) if chain is not None and chain.fits)


def _work(chain: Chain, sizes: tuple[int, int]) -> float:
    total = 0.0
    for step in chain.steps:
        if step.amounts is not None:
            total += PER_SHIFT[step.size] * len(step.amounts) * sizes[step.sources != (0,)]
        elif step.matrix is not None:
            total += PER_PRODUCT * len(step.matrix) * sizes[1]
        else:
            total += PER_SUM * _channels(chain, step) * sizes[1]
    return total


def _channels(chain: Chain, step: Step) -> int:
    while step.matrix is None:
        step = chain.steps[step.sources[-1] - 1]
    return len(step.matrix)


def cheapest(kernel: np.ndarray, window: Window, *, phases: tuple[int, int]) -> Chain:
    """Return the chain of a convolution that is estimated to be the fastest.

    Raises:
        ValueError: If there is none.
    """
    sizes = kernel.shape[3], kernel.shape[0]
    forms = [_work(each, sizes) for each in _forms(window, phases)]
    found = chains(taps_of(kernel, window, phases=phases))
    order = sorted(range(len(found)), key=lambda number: forms[number] if len(forms) == len(found) else number)
    return found[order[0]]


def cost_of_maximum(window: Window, *, channels: int, phases: tuple[int, int]) -> float:
    """Estimate `maximum` for each pixel of its output in phases."""
    chain = _maximum_of_one(window, phases)
    if chain is None:
        return float("inf")
    entries = sum(int(np.count_nonzero(step.matrix)) for step in chain.steps if step.matrix is not None)
    return channels * (_work(chain, (1, 1)) + PER_ENTRY * entries)


@functools.cache
def _maximum_of_one(window: Window, phases: tuple[int, int]) -> Chain | None:
    chain = maximum(window, channels=1, phases=phases) if stride_between(window.stride, phases) else None
    return chain if chain is not None and chain.fits else None
