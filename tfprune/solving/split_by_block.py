"""Split zeros over the blocks of a network by figures of each block: outliers of scores, and the tail of spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OUTLIER = 5.0  # times the mean: a score above that is an outlier
WIDEST_DENSITIES = 0.08  # by which the density of a block may differ from the mean
WIDEST_SPARSITIES = 0.2  # by which the sparsity of a block may differ from the mean, as a fraction of it
_SMALLEST = 1e-12  # of the largest eigenvalue: below that there is rounding alone


def outlier_ratio(scores: Sequence[np.ndarray]) -> float:
    """Return the fraction of the scores of a block that are above `OUTLIER` times their mean.

    Example:
        >>> outlier_ratio([np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), np.array([60.0])])
        0.125
    """
    mean = sum(float(each.sum()) for each in scores) / sum(each.size for each in scores)
    outliers = sum(int(np.count_nonzero(each > OUTLIER * mean)) for each in scores)
    return outliers / sum(each.size for each in scores)


def split_by_outliers(ratios: Sequence[float], *, sizes: Sequence[int], sparsity: float) -> list[float]:
    """Give blocks with more outliers fewer zeros: densities follow the ratios, within twice `WIDEST_DENSITIES`.

    Args:
        ratios: The `outlier_ratio` of each block.
        sizes: The number of weights of each block.
        sparsity: The fraction of zeros of all blocks together.

    Example:
        >>> [round(share, 2) for share in split_by_outliers([0.0, 0.1], sizes=[10, 10], sparsity=0.5)]
        [0.58, 0.42]

    Reference:
        Yin et al., 2024, "Outlier Weighed Layerwise Sparsity (OWL)", arXiv:2310.05175. Blocks of other sizes have the
        weight of their size in the mean here.
    """
    densities = 2 * WIDEST_DENSITIES * _from_0_to_1(ratios)
    return [float(share) for share in sparsity + np.average(densities, weights=sizes) - densities]


def tail_exponent(matrix: np.ndarray) -> float:
    """Return the exponent of the power law that the larger half of the eigenvalues of W W^T follows.

    It is Hill's estimator: of n values at least x, 1 + n / sum(ln(value / x)), with their median as x. The heavier
    the tail, the smaller the exponent.

    Example:
        >>> round(tail_exponent(np.diag(np.exp([0.0, 1.0, 2.0, 3.0]) ** 0.5)), 6)
        3.0
    """
    values = np.square(np.linalg.svd(matrix, compute_uv=False))[::-1]
    logarithms = np.log(np.maximum(values, _SMALLEST * max(float(values[-1]), 1e-300)))
    tail = logarithms[len(values) // 2 :] - logarithms[len(values) // 2]
    return 1 + len(tail) / max(float(tail.sum()), _SMALLEST)


def split_by_tails(exponents: Sequence[float], *, sizes: Sequence[int], sparsity: float) -> list[float]:
    """Give blocks with a heavier tail fewer zeros: sparsities follow the exponents, within `WIDEST_SPARSITIES`.

    Args:
        exponents: The mean `tail_exponent` of the weights of each block.
        sizes: The number of weights of each block.
        sparsity: The fraction of zeros of all blocks together.

    Example:
        >>> [round(share, 2) for share in split_by_tails([2.0, 3.0], sizes=[10, 10], sparsity=0.5)]
        [0.4, 0.6]

    Reference:
        Lu et al., 2024, "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning
        of Large Language Models", arXiv:2410.10912.
    """
    shares = 1 + WIDEST_SPARSITIES * (2 * _from_0_to_1(exponents) - 1)
    return [float(share) for share in sparsity * shares / np.average(shares, weights=sizes)]


def _from_0_to_1(values: Sequence[float]) -> np.ndarray:
    """Stretch values from 0 to 1; equal ones are all 0."""
    lowest, highest = min(values), max(values)
    return (np.asarray(values) - lowest) / ((highest - lowest) or 1.0)
