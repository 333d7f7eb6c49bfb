"""Patterns: which shapes the zeros of a weight form.

A pattern is a pure function from scores and a sparsity to a 0/1 mask. Scores come in the matrix view: outputs along
the first axis, inputs along the last, and the kernel positions of a convolution between them, so that a block or a
group of inputs never covers two positions. Among equal scores the earlier entry, in row-major order, is kept. To
add a pattern, derive a frozen dataclass from `Pattern` and define `__call__`.

Functions take a pattern or its identifier: `"2:4"` for `NM(2, 4)`, `"1x4"` for `Block(1, 4)`, or a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tfprune.base.arrays import keep_largest, kept_count
from tfprune.base.spec import ArgumentError, Spec, check_count, resolve

__all__ = ["NM", "Block", "Channel", "Head", "Pattern", "Unstructured"]


class Pattern(Spec):
    """Base of all patterns.

    Attributes:
        kind: "channels" or "heads" for a pattern that removes these from all weights of a model that make or read
            them; None for a pattern that masks each weight by itself.

    Example:
        >>> @dataclass(frozen=True)
        ... class WholeOutputs(Pattern):
        ...     def __call__(self, scores, sparsity):
        ...         sums = scores.reshape(len(scores), -1).sum(axis=1)
        ...         kept = sums >= np.quantile(sums, sparsity)
        ...         return np.broadcast_to(kept.reshape(-1, *[1] * (scores.ndim - 1)), scores.shape)
        >>> WholeOutputs()(np.array([[1, 2], [3, 4], [5, 6], [7, 8]]), 0.5)[:, 0]
        array([False, False,  True,  True])
    """

    kind: ClassVar[str | None] = None
    _EXAMPLES: ClassVar[str] = "patterns.NM(2, 4), in short '2:4', or patterns.Block(1, 4), in short '1x4'"

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Return a boolean mask, True = keep.

        Args:
            scores: Finite numbers of shape (outputs, inputs) or (outputs, positions, inputs); larger = keep.
            sparsity: The fraction of zeros, in [0, 1).
        """
        raise NotImplementedError

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Return why a matrix view of this shape cannot take the pattern, or None if it can."""
        return None

    def check(self, sparsity: float) -> None:
        """Refuse a sparsity that the pattern cannot reach.

        Raises:
            ValueError: If the pattern cannot reach `sparsity`.
        """

    def allows(self, mask: np.ndarray) -> bool:
        """Return whether a mask in the matrix view has its zeros in the shapes of this pattern."""
        return True

    def sparsity_of(self, mask: np.ndarray) -> float:
        """Return the sparsity of a mask in the matrix view, counted as in this pattern."""
        return 1 - float(np.mean(mask))


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Zeros anywhere: exactly N - round(s * N) of N entries stay, and at least one.

    Example:
        >>> Unstructured()(np.array([[4.0, 1.0], [2.0, 3.0]]), 0.5)
        array([[ True, False],
               [False,  True]])
    """

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        return keep_largest(scores, kept_count(scores.size, sparsity))


@dataclass(frozen=True)
class Block(Pattern):
    """Zeros in whole blocks of `rows` outputs by `cols` inputs, for runtimes that have kernels for blocks.

    Blocks start at output 0 and input 0; if a size is not a multiple of the block's, the last block is smaller. The
    score of a block is the mean over the entries in it, and the sparsity is the fraction of blocks.

    Args:
        rows: The number of outputs in a block, at least 1.
        cols: The number of inputs in a block, at least 1. TFLite's own block kernel takes `Block(1, 4)`.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is not positive.

    Example:
        >>> Block(1, 2)(np.array([[1.0, 9.0, 4.0, 5.0]]), 0.5)
        array([[ True,  True, False, False]])
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        self._hold(rows=check_count(self.rows, "rows", least=1), cols=check_count(self.cols, "cols", least=1))

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        if self.cols > 1 and shape[-1] == 1 and len(shape) == 3:
            return f"{self!r} runs along the inputs, and each kernel position has only one"
        return None

    def allows(self, mask: np.ndarray) -> bool:
        means, _, _ = self._means(mask)
        return bool(np.isin(means, (0, 1)).all())

    def sparsity_of(self, mask: np.ndarray) -> float:
        means, _, _ = self._means(mask)
        return float(np.mean(means == 0))

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        means, heights, widths = self._means(scores)
        keep = keep_largest(means, kept_count(means.size, sparsity))
        return np.repeat(np.repeat(keep, heights, axis=0), widths, axis=-1)

    def _means(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean of every block, and the heights and widths of the blocks."""
        rows = np.arange(0, values.shape[0], self.rows)
        cols = np.arange(0, values.shape[-1], self.cols)
        sums = np.add.reduceat(np.add.reduceat(values, cols, axis=-1, dtype=np.float64), rows, axis=0)
        heights = np.diff(rows, append=values.shape[0])
        widths = np.diff(cols, append=values.shape[-1])
        return sums / (heights.reshape(-1, *[1] * (values.ndim - 1)) * widths), heights, widths


@dataclass(frozen=True)
class NM(Pattern):
    """At most `n` non-zeros in every group of `m` consecutive inputs.

    At the sparsity 1 - n/m all groups have zeros. At a smaller sparsity s, the fraction s / (1 - n/m) of the groups
    has zeros: those that lose least. If m does not divide the number of inputs, the last t inputs keep min(n, t).

    Args:
        n: The number of non-zeros in a group, at least 1.
        m: The length of a group, greater than n.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is out of range; when it is called, if the sparsity is above 1 - n/m.

    Example:
        >>> NM(2, 4)(np.array([[0.1, 0.9, 0.3, 0.2]]), 0.5).astype(int)
        array([[0, 1, 1, 0]])

    Reference:
        Mishra et al., 2021, "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        self._hold(n=check_count(self.n, "n", least=1), m=check_count(self.m, "m", least=2))
        if self.n >= self.m:
            raise ArgumentError(
                "n",
                "`n` below `m`: n non-zeros in every m inputs",
                str(self.n),
                advice="Where n counts the zeros, as in tfmot, pass m - n.",
                beside={"m": self.m},
            )

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        if shape[-1] <= self.n:
            return f"{self!r} runs along the inputs, and {shape[-1]} of them make no group with a zero"
        return None

    def allows(self, mask: np.ndarray) -> bool:
        starts = np.arange(0, mask.shape[-1], self.m)
        counts = np.add.reduceat(mask, starts, axis=-1, dtype=np.int64)
        # A sparsity below 1 - n/m leaves some groups without zeros.
        return bool(((counts <= self.n) | (counts == np.diff(starts, append=mask.shape[-1]))).all())

    @property
    def _most(self) -> float:
        return 1 - self.n / self.m

    def check(self, sparsity: float) -> None:
        if sparsity > self._most + 1e-9:
            raise ValueError(
                f"Expected a sparsity of at most 1 - n/m = {self._most:g} for {self!r}. Received: {sparsity:g}. "
                f"Lower the schedule's final sparsity, or choose a smaller n/m."
            )

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        self.check(sparsity)
        tail = -scores.shape[-1] % self.m
        padding = [(0, 0)] * (scores.ndim - 1) + [(0, tail)]
        if not np.issubdtype(scores.dtype, np.floating):  # counts and ranks have no -inf
            scores = scores.astype(np.float64)
        # Scores are finite, so -inf ranks the padding below every real entry.
        groups = np.pad(scores, padding, constant_values=-np.inf).reshape(-1, self.m)
        order = np.argsort(-groups, axis=1, kind="stable")
        keep = np.empty_like(groups, dtype=bool)
        np.put_along_axis(keep, order, np.arange(self.m) < self.n, axis=1)
        self._spare_groups(keep, groups, min(sparsity / self._most, 1.0))
        padded_shape = (*scores.shape[:-1], scores.shape[-1] + tail)
        return keep.reshape(padded_shape)[..., : scores.shape[-1]]

    @staticmethod
    def _spare_groups(keep: np.ndarray, groups: np.ndarray, fraction: float) -> None:
        """Keep all of the groups that would lose most, so that only `fraction` of the groups have zeros."""
        lost = np.where(~keep & np.isfinite(groups), groups, 0).sum(axis=1, dtype=np.float64)
        candidates = np.flatnonzero((~keep & np.isfinite(groups)).any(axis=1))
        spared = candidates.size - round(fraction * candidates.size)
        if spared:
            keep[candidates[keep_largest(lost[candidates], spared)]] = True


@dataclass(frozen=True)
class Channel(Pattern):
    """Zeros in whole channels, of every kernel that makes or reads them, so that `shrink` can remove them.

    The sparsity is the fraction of channels: at 0.5, a kernel between two halved layers keeps a quarter of its
    entries. Channels that meet, for example in an addition, are pruned together; their score is the mean over the
    entries that make them. In a weight by itself the pattern masks whole outputs, the rows of its matrix view.

    Args:
        makes: Whether the channels that the kernels of the layer make may be pruned. It is False for a layer that is
            wrapped only because its kernels read the channels of other layers.
        round_to: The number of channels that stay is rounded up to a multiple of this, at least 1. Most kernels run
            best with a multiple of 8.

    Raises:
        TypeError: If `round_to` is not an integer.
        ValueError: If `round_to` is not positive.

    Example:
        >>> Channel()(np.array([[4.0, 1.0], [2.0, 2.0]]), 0.5)
        array([[ True,  True],
               [False, False]])
    """

    kind: ClassVar[str] = "channels"
    makes: bool = True
    round_to: int = 1

    def __post_init__(self) -> None:
        self._hold(round_to=check_count(self.round_to, "round_to", least=1))

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        means = scores.reshape(len(scores), -1).mean(axis=1, dtype=np.float64)
        keep = keep_largest(means, kept_count(means.size, sparsity, round_to=self.round_to))
        return np.broadcast_to(keep.reshape(-1, *[1] * (scores.ndim - 1)), scores.shape).copy()

    def allows(self, mask: np.ndarray) -> bool:
        rows = mask.any(axis=tuple(range(1, mask.ndim)), keepdims=True)
        inputs = mask.any(axis=tuple(range(mask.ndim - 1)), keepdims=True)
        return bool((mask.astype(bool) == (rows & inputs)).all())


@dataclass(frozen=True)
class Head(Channel):
    """Zeros in whole attention heads, in every weight that makes or reads a head.

    Use it for models with `MultiHeadAttention` or `GroupQueryAttention`. Heads that share their keys are pruned
    together. The sparsity is the fraction of heads.

    Args:
        makes: As in `Channel`.
        round_to: As in `Channel`.

    Example:
        >>> import keras
        >>> from tfprune import update_masks, wrap
        >>> tokens = keras.Input((6, 8))
        >>> attention = keras.layers.MultiHeadAttention(4, 2, name="attention")
        >>> model = wrap(keras.Model(tokens, attention(tokens, tokens)), pattern=Head())
        >>> update_masks(model, 0.75).sparsity
        0.75
    """

    kind: ClassVar[str] = "heads"


PATTERNS: dict[str, type[Pattern]] = {"unstructured": Unstructured, "channel": Channel, "head": Head}
_BY_SIGN: dict[str, type[NM | Block]] = {":": NM, "x": Block}


def as_pattern(value: Any) -> Pattern:
    """Return the pattern of an identifier: `"2:4"`, `"1x4"`, or a name such as `"unstructured"`; a pattern as it is.

    Raises:
        TypeError: If `value` is neither a string nor a pattern.
        ValueError: If there is no such pattern.

    Example:
        >>> as_pattern("2:4"), as_pattern("1x4"), as_pattern("unstructured")
        (NM(n=2, m=4), Block(rows=1, cols=4), Unstructured())
    """
    return resolve(value, PATTERNS, Pattern, "pattern", other=pattern_of_sizes)


def pattern_of_sizes(value: str) -> Pattern | None:
    """Return the pattern of `"2:4"` or `"1x4"`; None for a string without sizes.

    Raises:
        ValueError: If the sizes are out of range.
    """
    sizes = re.fullmatch("([0-9]{1,9})([:x])([0-9]{1,9})", value)
    if sizes is None:
        return None
    try:
        return _BY_SIGN[sizes[2]](int(sizes[1]), int(sizes[3]))
    except ArgumentError as error:  # which names sizes that nobody gave by name
        expected = "`pattern` to be N:M with N below M and at least 1, or ROWSxCOLS of at least 1 each"
        advice = "N counts the weights that stay." if sizes[2] == ":" else ""
        raise ArgumentError("pattern", expected, repr(value), advice=advice) from error


def as_weight_pattern(value: Any, *, advice: str) -> Pattern:
    """Return the pattern of an identifier, as `as_pattern` does, for weights that are pruned without their neighbors.

    Args:
        value: The pattern or its identifier.
        advice: What to do instead where whole channels or heads are meant, in a sentence.

    Raises:
        TypeError: If `value` is neither a string nor a pattern.
        ValueError: If there is no such pattern, or it is for whole channels, or from outside of this module.
    """
    pattern = as_pattern(value)
    if not isinstance(pattern, (Unstructured, NM, Block)):
        raise ArgumentError(
            "pattern",
            "`pattern` to be 'unstructured', N:M such as '2:4', or blocks such as '1x4'",
            repr(value),
            advice=advice,
        )
    return pattern
