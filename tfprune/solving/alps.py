"""ALPS: which weights to remove and new values for the others, found together by ADMM on the inputs' moments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfprune.patterns import Pattern
from tfprune.solving.least_squares import GramMoments

MOST_STEPS = 300
LEAST_STEPS = 30  # after which a support that hardly changes is taken
PENALTY = 0.1  # that weights pay for entries outside the support, at the beginning
STEPS_BETWEEN = 3  # updates of the penalty
HARDLY = 3e-4  # of the kept entries
# What the penalty is multiplied by where more than this part of the support has changed, as in the paper.
FACTORS = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
LOWER = 5  # what it is divided by where it holds the support from the beginning
LEAST_PENALTY = 1e-9  # a support that has not moved by then never will: hardly any entry goes
GRADIENT_STEPS = 10
_EXACT = 512  # inputs up to which it computes in double precision: single precision takes half of the time


def alps(
    moments: GramMoments,
    weights: np.ndarray,
    *,
    inputs: int,
    pattern: Pattern,
    sparsity: float,
    ridge: float,
    positions: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the entries to keep and their values together, so that the outputs change least.

    Use it above 60 % zeros, where masks that are chosen column by column cost more. It takes an eigendecomposition of
    the moments and some tens of products with them.

    Args:
        moments: The moments of the inputs, and the outputs that are wanted.
        weights: The weights, of shape (outputs, inputs), positions before inputs, and a bias as a last input.
        inputs: The number of inputs that may be removed: all but the one of the bias.
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
        sparsity: The fraction of zeros.
        ridge: How strongly the new weights are pulled towards the old ones: the number added to the diagonal, as a
            fraction of its mean.
        positions: The number of positions of the kernel.

    Returns:
        The mask and the weights, both of the shape of the weights.

    Raises:
        ValueError: If the moments are not finite.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(2, 1)
        >>> moments.add_inputs(np.array([[1.0, 1.0], [2.0, 2.0]]))
        >>> weights = np.array([[1.0, 3.0]])
        >>> moments = moments.aimed_at(weights)
        >>> mask, updated = alps(moments, weights, inputs=2, pattern=Unstructured(), sparsity=0.5, ridge=1e-9)
        >>> mask, updated.round(3)
        (array([[False,  True]]), array([[0., 4.]]))

    Reference:
        Meng, Behdin, Wang & Mazumder, 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
        Language Models", arXiv:2406.07831, algorithms 1 and 2. The gradient steps have their own length for each
        output here; in the paper all outputs share one.
    """
    if not np.isfinite(moments.gram).all():
        raise ValueError(
            "Expected finite moments of the inputs. Received: NaN or infinity; check the data and weights."
        )
    damping = ridge * np.trace(moments.gram) / len(moments.gram)
    diagonal = moments.gram.diagonal() + damping
    scales = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    dtype = np.float64 if len(scales) <= _EXACT else np.float32
    gram = ((moments.gram + damping * np.eye(len(scales))) / np.outer(scales, scales)).astype(dtype)
    cross = ((moments.cross + damping * weights) / scales).astype(dtype)

    def kept(values: np.ndarray) -> np.ndarray:
        mask = np.ones(values.shape, dtype=bool)
        squares = np.square(values[:, :inputs]).reshape(len(values), positions, -1)
        mask[:, :inputs] = pattern(squares, sparsity).reshape(len(values), inputs)
        return mask

    values = _constrained(gram, cross, (weights * scales).astype(dtype), kept=kept)
    mask = kept(values)
    return mask, _on_support(gram, cross, values * mask, mask=mask) / scales


def _constrained(
    gram: np.ndarray, cross: np.ndarray, weights: np.ndarray, *, kept: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return weights near their best values of the wanted number of entries, by the alternating direction method."""
    spectrum, vectors = np.linalg.eigh(gram)
    first = weights * kept(weights)
    sparse, dual, penalty = first, np.zeros_like(weights), PENALTY
    inverse = (vectors / (spectrum + penalty)) @ vectors.T
    support, has_moved = sparse != 0, False
    for step in range(1, MOST_STEPS + 1):
        dense = (cross - dual + penalty * sparse) @ inverse
        shifted = dense + dual / penalty
        sparse = shifted * kept(shifted)
        dual += penalty * (dense - sparse)
        if step % STEPS_BETWEEN:
            continue
        changed = int(np.count_nonzero((sparse != 0) != support)) / max(int(np.count_nonzero(support)), 1)
        support = sparse != 0
        has_moved |= changed > FACTORS[1][0]
        if has_moved and (not changed or (step >= LEAST_STEPS and changed < HARDLY)) or penalty < LEAST_PENALTY:
            break
        if has_moved:
            penalty *= next(factor for least, factor in FACTORS if changed > least)
        else:  # the support is that of the largest weights, because the penalty is too large
            penalty /= LOWER
            sparse, dual, support = first, np.zeros_like(weights), first != 0
        inverse = (vectors / (spectrum + penalty)) @ vectors.T
    return sparse


def _on_support(gram: np.ndarray, cross: np.ndarray, weights: np.ndarray, *, mask: np.ndarray) -> np.ndarray:
    """Return values of least error for the entries of a mask, by conjugate gradients, each output by itself."""
    residual = (cross - weights @ gram) * mask
    direction, size = residual, np.einsum("oi,oi->o", residual, residual)
    for _ in range(GRADIENT_STEPS):
        image = direction @ gram
        curvature = np.einsum("oi,oi->o", direction, image)
        length = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
        weights = weights + length[:, np.newaxis] * direction
        residual = residual - length[:, np.newaxis] * (image * mask)
        before, size = size, np.einsum("oi,oi->o", residual, residual)
        ratio = np.divide(size, before, out=np.zeros_like(size), where=before > 0)
        direction = residual + ratio[:, np.newaxis] * direction
    return weights
