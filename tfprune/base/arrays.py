"""Arrays: axis letters of weights, the largest entries, streams of similar bytes, and the coders that pack them."""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# Axis letters of weights, such as `hwio`, and the einsum equations that follow from them.
#
# The axes of a weight are written as one letter per dimension: `o` output, `i` input, `c` a channel that is both (a
# depthwise kernel), any other letter a kernel position. `hwio` is the kernel of a 2D convolution.

INPUT, OUTPUT, CHANNEL = "i", "o", "c"

_TERM = r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)"
_EQUATION = re.compile(rf"{_TERM},([a-zA-Z]+)->{_TERM}")


def output_axes(letters: str) -> list[int]:
    """Return the dimensions that are outputs, including channels that are both.

    Example:
        >>> output_axes("hwio"), output_axes("hwco")
        ([3], [2, 3])
    """
    return [axis for axis, letter in enumerate(letters) if letter in (OUTPUT, CHANNEL)]


def input_axes(letters: str) -> list[int]:
    """Return the dimensions that are inputs; if there are none, the channels that are both.

    Example:
        >>> input_axes("hwio"), input_axes("hwco")
        ([2], [2])
    """
    kind = INPUT if INPUT in letters else CHANNEL
    return [axis for axis, letter in enumerate(letters) if letter == kind]


def matrix_axes(letters: str) -> tuple[list[int], list[int], list[int]]:
    """Return the dimensions that are outputs, kernel positions and inputs in the matrix view, each dimension once.

    Example:
        >>> matrix_axes("hwio"), matrix_axes("hwco")
        (([3], [0, 1], [2]), ([2, 3], [0, 1], []))
    """
    outputs = output_axes(letters)
    inputs = [axis for axis in input_axes(letters) if axis not in outputs]
    return outputs, [axis for axis in range(len(letters)) if axis not in outputs + inputs], inputs


@dataclass(frozen=True)
class _Equation:
    """An einsum equation of an input and a kernel.

    Attributes:
        inputs: Letters of the input's axes, `...` for any number of axes.
        kernel: Letters of the kernel's axes.
        outputs: Letters of the output's axes, `...` for those of the input.
    """

    inputs: str
    kernel: str
    outputs: str

    @property
    def axes(self) -> str:
        """The kernel's axes as letters of a weight: an axis that is summed over is an input, any other an output."""
        return "".join(INPUT if letter in self.summed else OUTPUT for letter in self.kernel)

    @property
    def summed(self) -> str:
        """The kernel's letters that are summed over with those of the input."""
        return "".join(letter for letter in self.kernel if letter in self.inputs and letter not in self.outputs)

    @property
    def batched(self) -> str:
        """The kernel's letters that the input and the output have as well: a kernel for each position."""
        return "".join(letter for letter in self.kernel if letter in self.inputs and letter in self.outputs)

    @property
    def lost(self) -> str:
        """Letters of a single term: they are summed over on their own."""
        inputs = self.inputs.replace("...", "")
        letters = [letter for letter in inputs + self.kernel if (letter in inputs) != (letter in self.kernel)]
        return "".join(letter for letter in letters if letter not in self.outputs)


def parse_equation(text: str) -> _Equation:
    """Parse an einsum equation of an input and a kernel.

    Raises:
        ValueError: If `text` is not such an equation.

    Example:
        >>> parse_equation("...x,xyz->...yz")
        _Equation(inputs='...x', kernel='xyz', outputs='...yz')
    """
    match = _EQUATION.fullmatch(text)
    if match is None:
        raise ValueError(f"Expected an equation of an input and a kernel, such as 'abc,cd->abd'. Received: {text!r}.")
    return _Equation(*match.groups())


def spell_out(term: str, rank: int) -> list[str]:
    """Return a letter for each axis of a tensor, `.0`, `.1` and so on for those of the ellipsis.

    A term without an ellipsis names the last axes of a tensor of more: those of a layer that is called step by step.

    Example:
        >>> spell_out("a...b", 4), spell_out("ab", 3)
        (['a', '.0', '.1', 'b'], ['.0', 'a', 'b'])
    """
    before, _, after = term.rpartition("...")
    dots = rank - len(before) - len(after)
    return [*before, *(f".{index}" for index in range(dots)), *after]


def other_axes(rank: int, axis: int) -> tuple[int, ...]:
    """Return all axes but one.

    Example:
        >>> other_axes(4, 2)
        (0, 1, 3)
    """
    return tuple(other for other in range(rank) if other != axis)


def shape_along(rank: int, axis: int) -> tuple[int, ...]:
    """Return the shape that lays a vector along one axis of an array, to be broadcast along the others.

    Example:
        >>> shape_along(4, 2)
        (1, 1, -1, 1)
    """
    return tuple(-1 if other == axis else 1 for other in range(rank))


# Keep the largest entries, exactly and fast.

_SMALLEST_SAMPLE = 1 << 14
_LARGEST_STRIDE = 1 << 8  # between the values of a sample
_BRACKET_DEVIATIONS = 4  # standard deviations of the rank of a value in a sample
CACHED_VALUES = 1 << 17  # as many as stay in the processor's cache


def kept_count(size: int, sparsity: float, *, round_to: int = 1) -> int:
    """Count the entries to keep of `size`: size - round(sparsity * size), half to even, and at least one.

    Args:
        size: The number of entries, at least 1.
        sparsity: The fraction of zeros, in [0, 1).
        round_to: The count is rounded up to a multiple of this number, but to no more than `size`.

    Example:
        >>> kept_count(6, 0.5), kept_count(100, 0.9), kept_count(10, 0.99), kept_count(100, 0.9, round_to=8)
        (3, 10, 1, 16)
    """
    count = max(size - round(sparsity * size), 1)
    return min(-(-count // round_to) * round_to, size)


def keep_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return a mask that keeps the `count` largest scores; among equal scores the earlier in row-major order stay.

    It selects instead of sorting, in time linear in the number of entries.

    Args:
        scores: Finite numbers, in an array of any shape.
        count: The number of scores to keep, from 1 to `scores.size`.

    Example:
        >>> keep_largest(np.array([0.1, 0.1, 0.3, 0.1]), 2)
        array([ True, False,  True, False])
    """
    if count >= scores.size:
        return np.ones_like(scores, dtype=bool)
    order = np.argsort([-abs(stride) for stride in scores.strides], kind="stable")
    laid_out = scores.transpose(order)  # as in memory, where one part after another takes no copy
    threshold, ties = _at_rank(laid_out.reshape(-1), scores.size - count)
    keep = scores >= threshold
    surplus = np.count_nonzero(keep) - count
    if surplus:
        indices = np.array(np.unravel_index(ties, laid_out.shape))[np.argsort(order)]
        in_order = np.sort(np.ravel_multi_index(tuple(indices), scores.shape))
        keep[np.unravel_index(in_order[-surplus:], scores.shape)] = False
    return keep


def rank_first(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Lower scores so that some entries rank before all others, each group in its own order.

    Args:
        scores: Numbers in an array of any shape; NaN, which has no rank, stays NaN.
        first: Booleans of the same shape: True for the entries that come first; the other scores are lowered.

    Example:
        >>> rank_first(np.array([1.0, 4.0, 2.0, 3.0]), np.array([True, False, True, False]))
        array([ 1., -2.,  2., -3.])
    """
    with np.errstate(over="ignore"):  # an infinite spread loses only the order among the lowered
        spread = np.nanmax(scores) - np.nanmin(scores)
        return np.where(first, scores, scores - (2 * spread or 1))


def _at_rank(values: np.ndarray, rank: int) -> tuple[np.floating, np.ndarray]:
    """Return the value that would have the index `rank` if the values were sorted, and its indices.

    A sorted sample gives a bracket for the value, so that only the few values in the bracket are searched.

    Reference:
        Floyd & Rivest, 1975, "Expected time bounds for selection", Communications of the ACM 18(3).
    """
    low, high = _bracket(values, rank)
    rank_inside, positions = rank, []
    for start in range(0, values.size, CACHED_VALUES):
        part = values[start : start + CACHED_VALUES]
        is_inside = part >= low
        rank_inside -= part.size - int(np.count_nonzero(is_inside))
        is_inside &= part <= high
        positions.append(start + np.flatnonzero(is_inside))
    inside = np.concatenate(positions)
    if not 0 <= rank_inside < inside.size:  # the sample misled: unlikely, and only slower
        value = np.partition(values, rank)[rank]
        return value, np.flatnonzero(values == value)
    candidates = values[inside]
    value = np.partition(candidates, rank_inside)[rank_inside]
    return value, inside[candidates == value]


def _bracket(values: np.ndarray, rank: int) -> tuple[float, float]:
    """Return two numbers between which the value of a rank lies, almost certainly."""
    # Odd, or the sample would be of a few columns only: widths are multiples of powers of two.
    sample = np.sort(values[:: min(max(values.size // _SMALLEST_SAMPLE, 1), _LARGEST_STRIDE) | 1])
    share = rank / values.size
    index, margin = (
        int(share * sample.size),
        2 + int(_BRACKET_DEVIATIONS * (share * (1 - share) * sample.size) ** 0.5),
    )
    low = sample[index - margin] if index > margin else -np.inf
    high = sample[index + margin] if index + margin < sample.size else np.inf
    return low, high


# Split the entries of a tensor into streams of similar bytes, which a coder of single bytes packs well.

_LONGEST_RUN = 255  # in one byte: such a run continues in the next
_ROW_CLASSES = 6  # fewer mix rows that differ, more need more tables


class Split(NamedTuple):
    """A way to split entries into streams.

    Attributes:
        width: Bytes of an entry.
        kind: `plain`, one stream for the first bytes of all entries, one for the second bytes, and so on; `steps`,
            the same for the difference to the entry before; `folded`, the same for entries with their sign in the
            lowest bit, so that small ones begin with zeros; `runs` and `mask`, a stream that says where the
            entries lie that differ from the most common one, and the plain streams of these; `rows`, runs, a stream
            that gives each row a class, and the others class by class; `scaled`, no stream at all, because the
            entries are another piece's times a number; `near`, one stream with what these lie beside.
    """

    width: int
    kind: str

    @property
    def streams(self) -> int:
        """The number of streams."""
        more = {"scaled": -self.width, "near": 1 - self.width, "runs": 1, "mask": 1, "rows": 1 + _ROW_CLASSES}
        return self.width + more.get(self.kind, 0)


ROWS, SCALED, NEAR = Split(1, "rows"), Split(4, "scaled"), Split(4, "near")
_FIRST = tuple(Split(width, kind) for kind in ("plain", "steps", "runs", "mask") for width in (1, 2, 4))
SPLITS = (*_FIRST, Split(4, "folded"))  # those that fit any entries
FORMS = (*_FIRST, SCALED, Split(4, "folded"), ROWS, NEAR)  # their numbers are part of the format: new ones come last


def split(data: bytes | memoryview, form: Split) -> tuple[int, list[bytes]]:
    """Split entries into streams.

    Args:
        data: The entries, a multiple of the form's width.
        form: The way to split, one of SPLITS; `split_rows` splits by rows.

    Returns:
        The most common entry, as an unsigned number (0 if the form does not need it), and the streams.

    Example:
        >>> split(bytes([0, 0, 7, 0, 0, 0, 9, 0]), Split(1, "runs"))
        (0, [b'\\x02\\x03', b'\\x07\\t'])
    """
    entries = np.frombuffer(data, f"<u{form.width}")
    if form.kind == "plain":
        return 0, _planes(entries)
    if form.kind == "steps":
        return 0, _planes(np.diff(entries, prepend=entries.dtype.type(0)))
    if form.kind == "folded":
        return 0, _planes(entries << 1 ^ -(entries >> 31))
    values, counts = np.unique(entries, return_counts=True)
    common = values[np.argmax(counts)]
    differs = entries != common
    indices = np.packbits(differs) if form.kind == "mask" else _runs(np.flatnonzero(differs))
    return int(common), [indices.tobytes(), *_planes(entries[differs])]


def split_rows(data: bytes | memoryview, length: int) -> tuple[int, list[bytes]]:
    """Split entries of one byte into streams, rows with entries of similar size together.

    Each row of quantized weights is scaled by its largest entry, so rows differ in the size of the others.

    Args:
        data: The entries.
        length: Entries of a row, at least 1; the last row may be shorter.

    Returns:
        The most common entry plus 2^32 times the length, and the streams.

    Example:
        >>> common, streams = split_rows(bytes([0, 0, 7, 0, 0, 0, 90, 0]), length=4)
        >>> streams[:2]
        [b'\\x02\\x03', b'\\x00\\x03']
    """
    common, (indices, values) = split(data, Split(1, "runs"))
    row = np.flatnonzero(np.frombuffer(data, np.uint8) != common) // length
    rows = -(-len(data) // length)
    sizes = np.abs((np.frombuffer(values, np.uint8) - np.uint8(common)).view(np.int8).astype(np.int64))
    mean = np.bincount(row, sizes, rows) / np.maximum(np.bincount(row, minlength=rows), 1)
    classes = np.empty(rows, np.uint8)
    classes[np.argsort(mean, kind="stable")] = np.arange(rows) * _ROW_CLASSES // rows
    parts = [
        np.frombuffer(values, np.uint8)[classes[row] == row_class].tobytes() for row_class in range(_ROW_CLASSES)
    ]
    return common + length * 2**32, [indices, classes.tobytes(), *parts]


def join(read: Callable[[int], bytes], form: Split, *, size: int, common: int) -> bytes:
    """Join the streams of `split` or `split_rows`.

    Args:
        read: Returns the next stream; takes the largest number of bytes that it may have.
        form: The way in which the entries were split.
        size: Bytes of all entries.
        common: The number that `split` or `split_rows` returned before the streams.

    Returns:
        The entries.

    Raises:
        ValueError: If the streams do not fit each other, the form or the size.
    """
    count, rest = divmod(size, form.width)
    if rest:
        raise ValueError(f"{size:,} bytes are not a whole number of entries of {form.width} bytes.")
    if form.kind == "plain":
        return _entries(read, count, form.width).tobytes()
    if form.kind == "steps":
        steps = _entries(read, count, form.width)
        return np.cumsum(steps, dtype=steps.dtype).tobytes()
    if form.kind == "folded":
        folded = _entries(read, count, form.width)
        return (folded >> 1 ^ -(folded & 1)).tobytes()
    if form.kind == "rows":
        return _join_rows(read, count, *divmod(common, 2**32))
    indices = _marked(read, count) if form.kind == "mask" else _after_runs(read, count)
    if common >= 256**form.width:
        raise ValueError(f"the common entry {common} does not fit {form.width} bytes.")
    entries = np.full(count, common, f"<u{form.width}")
    entries[indices] = _entries(read, len(indices), form.width)
    return entries.tobytes()


def _join_rows(read: Callable[[int], bytes], count: int, length: int, common: int) -> bytes:
    if not length or common > 255:
        raise ValueError(f"rows of {length:,} entries around {common:,} do not exist.")
    indices = _after_runs(read, count)
    classes = np.frombuffer(_exactly(read, -(-count // length)), np.uint8)
    if classes.max(initial=0) >= _ROW_CLASSES:
        raise ValueError(f"a row has the class {classes.max()}, which does not exist.")
    entries, class_of = np.full(count, common, np.uint8), classes[indices // length]
    for row_class in range(_ROW_CLASSES):
        members = indices[class_of == row_class]
        entries[members] = np.frombuffer(_exactly(read, len(members)), np.uint8)
    return entries.tobytes()


def _planes(entries: np.ndarray) -> list[bytes]:
    table = entries.reshape(-1, 1).view(np.uint8)
    return [table[:, byte].tobytes() for byte in range(table.shape[1])]


def _entries(read: Callable[[int], bytes], count: int, width: int) -> np.ndarray:
    table = np.empty((count, width), np.uint8)
    for byte in range(width):
        table[:, byte] = np.frombuffer(_exactly(read, count), np.uint8)
    return table.view(f"<u{width}")[:, 0]


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    stream = read(count)
    if len(stream) != count:
        raise ValueError(f"a stream has {len(stream):,} bytes, not {count:,}.")
    return stream


def _runs(indices: np.ndarray) -> np.ndarray:
    """Return the number of common entries before each index; those after the last are not stored."""
    full, last = np.divmod(np.diff(indices, prepend=-1) - 1, _LONGEST_RUN)
    runs = np.full(int(full.sum()) + len(indices), _LONGEST_RUN, np.uint8)
    runs[np.cumsum(full + 1) - 1] = last
    return runs


def _after_runs(read: Callable[[int], bytes], count: int) -> np.ndarray:
    runs = np.frombuffer(read(count), np.uint8)
    ends = runs < _LONGEST_RUN
    indices = np.cumsum(runs + ends, dtype=np.int64)[ends] - 1
    if len(indices) and indices[-1] >= count:
        raise ValueError(f"runs end at {indices[-1]:,} in {count:,} entries.")
    return indices


def _marked(read: Callable[[int], bytes], count: int) -> np.ndarray:
    mask = np.frombuffer(_exactly(read, (count + 7) // 8), np.uint8)
    return np.flatnonzero(np.unpackbits(mask, count=count))


# Pack one stream of bytes with the standard library, by the coder that makes it smallest.

_STORED, _DEFLATE, _LZMA, FAR_LZMA = range(4)  # numbers in the format: new ones come last
_RAW_DEFLATE = -15  # wbits of zlib without header and checksum, which the container has
# Almost random streams have no repeats worth a search: codes of single bytes come within 1 % of the entropy.
_FAST_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)
_DICTIONARY_BYTES = {_LZMA: 2**22, FAR_LZMA: 2**26}  # the memory that unpacking needs
# LZMA models all bytes alike, or bytes by their position in entries of four bytes, such as floats.
_CONTEXTS = ({"lc": 0, "lp": 0, "pb": 0}, {"lc": 2, "lp": 2, "pb": 2})
_XZ_CONTEXT = {"lc": 3, "lp": 0, "pb": 2}
_SAMPLE_BYTES = 2**14  # to compare coders before a slow one gets a long stream
_SAMPLE_SLICES = 4


def compress(data: bytes) -> tuple[int, bytes]:
    """Pack a stream, or leave it as it is if no coder makes it smaller.

    Args:
        data: The stream.

    Returns:
        The coder's number and the packed bytes. The same bytes give the same result with the same zlib and liblzma.

    Example:
        >>> coder, packed = compress(bytes(1000))
        >>> expand(packed, coder, limit=1000) == bytes(1000)
        True
    """
    quick, contexts = compress_quickly(data), [*_CONTEXTS]
    if len(data) > 2 * _SAMPLE_BYTES:
        sample = _sample(data)
        sizes = [len(_lzma(sample, context)) for context in _CONTEXTS]
        if min(sizes) >= len(compress_quickly(sample)[1]):
            return quick
        contexts = [_CONTEXTS[sizes.index(min(sizes))]]
    return min(quick, *((_LZMA, _lzma(data, context)) for context in contexts), key=_size)


def compress_whole(data: bytes) -> tuple[int, bytes]:
    """Pack a file as gzip and xz do at their strongest, without their headers: the smaller of both."""
    coder = _LZMA if len(data) <= _DICTIONARY_BYTES[_LZMA] else FAR_LZMA
    ways = [(_DEFLATE, _deflate(data, zlib.Z_DEFAULT_STRATEGY)), (coder, _lzma(data, _XZ_CONTEXT, coder))]
    return min([(_STORED, data), *ways], key=_size)


def compress_quickly(data: bytes) -> tuple[int, bytes]:
    """Pack a stream as `compress` does, without a search for repeats: megabytes in a tenth of a second."""
    return min([(_STORED, data), *((_DEFLATE, _deflate(data, strategy)) for strategy in _FAST_STRATEGIES)], key=_size)


def _size(entry: tuple[int, bytes]) -> int:
    return len(entry[1])


def _deflate(data: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, zlib.DEF_MEM_LEVEL + 1, strategy)
    return packer.compress(data) + packer.flush()


def _lzma(data: bytes, context: dict[str, int], coder: int = _LZMA) -> bytes:
    size = min(max(len(data), 2**12), _DICTIONARY_BYTES[coder])
    settings = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size, **context}
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=[settings])


def _sample(data: bytes) -> bytes:
    step, size = len(data) // _SAMPLE_SLICES // 4 * 4, _SAMPLE_BYTES // _SAMPLE_SLICES  # whole entries of four bytes
    return b"".join(data[start : start + size] for start in range(0, step * _SAMPLE_SLICES, step))


def expand(packed: bytes | memoryview, coder: int, *, limit: int) -> bytes:
    """Unpack a stream, with memory for no more than its limit.

    Args:
        packed: The packed bytes, exactly.
        coder: The number of the coder.
        limit: The largest number of bytes of the stream.

    Returns:
        The stream.

    Raises:
        ValueError: If the stream is damaged or cut short, holds more than `limit` bytes, or has an unknown coder.
    """
    if coder == _STORED:
        whole, data = True, bytes(packed)
    elif coder in (_DEFLATE, _LZMA, FAR_LZMA):
        whole, data = _expand(_decompressor(coder), packed, limit)
    else:
        raise ValueError(f"a stream has the coder {coder}, which does not exist.")
    if len(data) > limit:
        raise ValueError(f"a stream holds more than its {limit:,} bytes.")
    if not whole:
        raise ValueError("a stream is cut short, or goes on after its end.")
    return data


def _decompressor(coder: int) -> Any:
    if coder == _DEFLATE:
        return zlib.decompressobj(_RAW_DEFLATE)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": _DICTIONARY_BYTES[coder]}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


def _expand(decompressor: Any, packed: bytes | memoryview, limit: int) -> tuple[bool, bytes]:
    try:
        data = decompressor.decompress(packed, limit + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"a stream is damaged ({error}).") from error
    return decompressor.eof and not decompressor.unused_data, data
