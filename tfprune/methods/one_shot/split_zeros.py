"""Split a sparsity over the kernels of a model by what their inputs, their spectra or their errors say."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfprune.allocation import ALLOCATIONS, Allocation, Weight, allocate, check_allocation
from tfprune.base.spec import check_choice
from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.reconstruction.layer_moments import Site
from tfprune.keras_models.models.graph import Graph
from tfprune.methods.one_shot.error_curves import error_curves
from tfprune.methods.one_shot.mask_kernel import UPDATING, MaskSettings, path_of
from tfprune.patterns import NM, Pattern
from tfprune.solving.split_by_block import outlier_ratio, split_by_outliers, split_by_tails, tail_exponent
from tfprune.solving.split_by_error import split_by_error

BY_ERROR = ("error", "outputs")  # measured with zeros in each kernel alone
BY_BLOCK = ("owl", "alpha_pruning")  # one sparsity for all kernels of a block
Split = str | Mapping[str, float | None] | Allocation


@dataclass(frozen=True)
class Calibration:
    """A model and the data that its kernels are measured on.

    Attributes:
        graph: The model.
        batches: Yields the arrays for the inputs of the model, batch by batch, anew in each call.
    """

    graph: Graph
    batches: Callable[[], Iterable[Sequence[Any]]]


def checked_split(allocation: Split | None, settings: MaskSettings) -> Split:
    """Return the allocation, or the default one of a criterion and a pattern.

    Raises:
        TypeError, ValueError: If it is not an allocation, or does not fit the criterion or the pattern.
    """
    is_free = not isinstance(settings.pattern, NM)
    if allocation is None:
        return "error" if is_free and settings.criterion in UPDATING else "uniform"
    if not isinstance(allocation, str):
        check_allocation(allocation)
    else:
        others = "a dict from regular expressions to sparsities, or a function"
        check_choice(allocation, "allocation", choices=(*BY_ERROR, *BY_BLOCK, *ALLOCATIONS), others=others)
    if allocation in BY_ERROR and not (is_free and settings.criterion in UPDATING):
        raise ValueError(
            f"Expected allocation='uniform' with criterion={settings.criterion!r} and pattern={settings.pattern!r}. "
            f"Received: allocation={allocation!r}, which is for unstructured zeros or blocks by 'alps' or "
            f"'sparsegpt'."
        )
    if isinstance(allocation, str) and allocation != "uniform" and not is_free:
        raise ValueError(
            f"Expected allocation='uniform' with pattern={settings.pattern!r}, whose groups have the same zeros in "
            f"all kernels, or a dict. Received: allocation={allocation!r}. To leave kernels without zeros, pass for "
            f"example allocation={{'out/kernel': None}}."
        )
    return allocation


def split_zeros(
    sites: Sequence[Site], calibration: Calibration, *, sparsity: float, allocation: Split, settings: MaskSettings
) -> dict[Site, float | None]:
    """Return the sparsity of each kernel: None for one that stays as it is. One that is not called is left out.

    Args:
        sites: The kernels.
        calibration: The model and the data.
        sparsity: The fraction of zeros of all kernels together.
        allocation: A name, a dict from regular expressions to sparsities, or a function.
        settings: How kernels are masked.

    Raises:
        ValueError: If a kernel would get a sparsity outside [0, 1) or one that the pattern does not allow, or a dict
            has an expression without a match.
    """
    if allocation in BY_ERROR:
        curves = error_curves(sites, calibration.batches(), graph=calibration.graph, settings=settings, by=allocation)
        return dict(zip(curves, split_by_error([*curves.values()], sparsity), strict=True))
    scores = _WandaScores(sites, calibration)
    if allocation in BY_BLOCK:
        return _by_block(sites, scores, sparsity=sparsity, allocation=allocation)
    weights = [
        Weight(path_of(site), tuple(site.map.kernel.variable.shape), functools.partial(scores.of, site))
        for site in sites
    ]
    shares = allocate(weights, sparsity, allocation)
    for weight, share in zip(weights, shares, strict=True):
        _check_pattern(settings.pattern, weight.path, share)
    return dict(zip(sites, shares, strict=True))


def _check_pattern(pattern: Pattern, path: str, share: float | None) -> None:
    try:
        pattern.check(share or 0)
    except ValueError as error:
        raise ValueError(
            f"Expected an `allocation` that pattern={pattern!r} allows. Received: {share:g} for {path}. {error}"
        ) from error


def _by_block(
    sites: Sequence[Site], scores: _WandaScores, *, sparsity: float, allocation: str
) -> dict[Site, float | None]:
    """Give the kernels of a block, which is a layer of the graph, the same sparsity."""
    blocks: dict[str, list[Site]] = {}
    for site in sites:
        blocks.setdefault(site.name, []).append(site)
    sizes = [sum(math.prod(site.map.kernel.variable.shape) for site in some) for some in blocks.values()]
    if allocation == "owl":
        ratios = [outlier_ratio([scores.of(site) for site in some]) for some in blocks.values()]
        shares = split_by_outliers(ratios, sizes=sizes, sparsity=sparsity)
    else:
        exponents = [
            float(
                np.mean([tail_exponent(matrix) for site in some for matrix in replace(site.map, bias=None).weights()])
            )
            for some in blocks.values()
        ]
        shares = split_by_tails(exponents, sizes=sizes, sparsity=sparsity)
    for name, share in zip(blocks, shares, strict=True):
        if not 0 <= share < 1:
            raise ValueError(
                f"Expected a sparsity that allocation={allocation!r} can split. Received: sparsity={sparsity!r}, of "
                f"which {name} would get {share:.3f}. Pass allocation='error', or a sparsity nearer to 0.5."
            )
    return {site: share for some, share in zip(blocks.values(), shares, strict=True) for site in some}


class _WandaScores:
    """The sizes of weights times the norms of their inputs, which are measured when they are first asked for.

    Args:
        sites: The kernels.
        calibration: The model and the data.
    """

    def __init__(self, sites: Sequence[Site], calibration: Calibration) -> None:
        self._sites, self._calibration = sites, calibration
        self._norms: dict[Site, np.ndarray] = {}

    def of(self, site: Site) -> np.ndarray:
        """Return the scores of a kernel, of shape (outputs, inputs)."""
        if not self._norms:
            self._norms = self._measured()
        kernel = replace(site.map, bias=None).weights()
        return np.concatenate(np.abs(kernel) * self._norms[site])

    def _measured(self) -> dict[Site, np.ndarray]:
        def squared(rows: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
            return lambda x: np.square(rows(x), dtype=np.float64).sum(axis=1, keepdims=True)

        maps = [replace(site.map, bias=None, rows=squared(site.map.rows)) for site in self._sites]
        sums = [np.zeros((each.groups, 1, each.weights().shape[2])) for each in maps]
        walk = GraphWalk(self._calibration.graph, self._calibration.batches())
        for rows in walk.seen(maps, end=len(self._calibration.graph.calls)):
            for index, powers in rows:
                sums[index] += powers
        return {site: np.sqrt(power) for site, power in zip(self._sites, sums, strict=True)}
