"""The norms of the weights by block, which tell whether a model is trained long enough to repeat its blocks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.find_blocks import find_blocks
from tfprune.report import Report, table

_LEAST_RISE = 0.05  # of the mean norm, from the first block to the last one
_LEAST_TAU = 0.5  # of the pairs of blocks, three rise for each that falls


@dataclass(frozen=True)
class BlockNorm(Report):
    """The norm of a block.

    Attributes:
        block: The block, counted from 0.
        layer: The name of its first layer.
        norm: The mean over its kernels of the root of the mean square of their entries.
    """

    block: int
    layer: str
    norm: float


@dataclass(frozen=True)
class NormProfile(Report):
    """The norms of the blocks of a model, from the first one to the last.

    Attributes:
        rows: A row for each block, in the order in which the model calls them.

    Example:
        >>> rows = [BlockNorm(index, f"block_{index}", norm) for index, norm in enumerate([0.030, 0.033, 0.035])]
        >>> profile = NormProfile(tuple(rows))
        >>> profile.trend, round(profile.rise, 3), round(profile.seam, 1)
        ('rising', 0.153, 2.0)
    """

    JSON_NAMES = ("rows", "trend", "rise", "seam")

    rows: tuple[BlockNorm, ...]

    @property
    def rise(self) -> float:
        """How much the norm rises from the first block to the last one, by a fitted line, in parts of its mean."""
        if len(self.rows) < 2:
            return 0.0
        norms = np.array([row.norm for row in self.rows])
        slope = np.polyfit(np.arange(len(norms)), norms, 1)[0]
        return float(slope * (len(norms) - 1) / max(norms.mean(), np.finfo(float).tiny))

    @property
    def trend(self) -> str:
        """`"rising"` or `"falling"` by at least 5 % and in three pairs of blocks of four, otherwise `"flat"`."""
        norms = [row.norm for row in self.rows]
        signs = [np.sign(after - before) for before, after in itertools.combinations(norms, 2)]
        if abs(self.rise) < _LEAST_RISE or np.sign(self.rise) * np.mean(signs) < _LEAST_TAU:
            return "flat"
        return "rising" if self.rise > 0 else "falling"

    @property
    def seam(self) -> float:
        """The step from the last block to the first one, where stacks meet, in mean steps between neighbors."""
        norms = np.array([row.norm for row in self.rows])
        steps = np.abs(np.diff(norms))
        return float(abs(norms[-1] - norms[0]) / steps.mean()) if steps.any() else 0.0

    def __str__(self) -> str:
        lines = [[row.block, row.layer, f"{row.norm:.4g}"] for row in self.rows]
        typical = {
            "rising": "as in a language model after long training: interposed copies keep this profile",
            "falling": "unlike those of a language model after long training",
            "flat": "as in a model at the start of its training",
        }
        return table(["block", "first layer", "norm"], lines, left=2) + (
            f"\n\nThe norms are {self.trend} ({self.rise:+.1%} of the mean over the depth), {typical[self.trend]}.\n"
            f"If you stacked two copies of all blocks, the norm would jump between the copies by {self.seam:.1f} "
            f"times the mean\ndifference between neighboring blocks."
        )


def norm_profile(model: keras.Model, *, blocks: str | None = None) -> NormProfile:
    """Measure the norms of the kernels of each repeated block.

    Use it before `grow_depth`. In language models that are trained for long, norms rise with the depth; the source
    found interposition better than stacking for such models, and stacking for those that are trained less.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        blocks: A regular expression for the names of the layers in blocks, whose group is the number of the block,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.

    Returns:
        A profile: a row for each block, and whether the norms rise.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no repeated blocks, or they have no kernels.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(64, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((64,)), *map(block, range(3)), keras.layers.Dense(1)])
        >>> tfprune.growth.norm_profile(model).trend
        'flat'

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (figure 2: Frobenius norm over the root of the
        number of entries).
    """
    source = find_blocks(model, blocks)
    return NormProfile(tuple(_row(source, number) for number in range(len(source.blocks))))


def _row(source: Blocks, number: int) -> BlockNorm:
    layers = {
        id(call.layer): call.layer
        for call in source.blocks[number].calls
        if isinstance(call.layer, keras.layers.Layer)
    }
    first, *_ = layers.values()
    values = [as_numpy(kernel.variable).astype(np.float64) for layer in layers.values() for kernel in kernels(layer)]
    if not values:
        raise ValueError(
            f"Expected blocks with kernels. Received: block {number} of {source.copy.name!r}, which begins with "
            f"{first.name!r} and has none. Name other blocks: blocks=r'block_(\\d+)_'."
        )
    return BlockNorm(number, first.name, float(np.mean([np.sqrt(np.mean(value**2)) for value in values])))
