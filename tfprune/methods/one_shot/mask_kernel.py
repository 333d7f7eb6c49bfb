"""Put zeros into one kernel by a criterion, from the moments of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfprune.compact.reconstruction.in_order import Pair
from tfprune.compact.reconstruction.layer_moments import Site
from tfprune.compact.reconstruction.linear_map import LinearMap
from tfprune.compact.reconstruction.reconstruction_report import ReconstructionRow
from tfprune.patterns import Pattern
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.rounding import Rounding, grid_of
from tfprune.solving.weight_masks import ria_mask, wanda_mask
from tfprune.solving.zero_solver import ZeroSolver, relative_error

UPDATING = ("alps", "sparsegpt")  # criteria that give the remaining weights new values
MASKS: dict[str, Callable[..., np.ndarray]] = {"wanda": wanda_mask, "ria": ria_mask}
CRITERIA = (*UPDATING, *MASKS)


@dataclass(frozen=True)
class MaskSettings:
    """How kernels are masked.

    Attributes:
        criterion: One of `CRITERIA`.
        pattern: The shape of the zeros.
        ridge: As in `ZeroSolver`.
        rounding: The integers that weights are rounded to; None for none.
    """

    criterion: str
    pattern: Pattern
    ridge: float
    rounding: Rounding | None = None


def zero_solver(linear: LinearMap, ridge: float) -> ZeroSolver:
    """Return what puts zeros into a kernel."""
    weights = linear.weights()
    shape = linear.kernel.matrix_shape
    inputs = weights.shape[2] - (linear.bias is not None)
    return ZeroSolver(weights, inputs=inputs, positions=shape[1] if len(shape) == 3 else 1, ridge=ridge)


def path_of(site: Site) -> str:
    """Return the path of a kernel in the model."""
    return f"{site.name}/{site.map.kernel.path}"


def check_inputs(site: Site, moments: list[GramMoments], *, inputs: int) -> None:
    """Refuse moments that say nothing about a kernel.

    Raises:
        ValueError: If all inputs of the kernel were 0, or it got none.
    """
    if not any(sums.gram.diagonal()[:inputs].any() for sums in moments):
        raise ValueError(
            f"Expected samples that give each pruned layer inputs other than 0. Received: samples for which all "
            f"inputs of {path_of(site)} are 0. Pass more samples, or leave the layer out by `filters`."
        )


def mask_kernel(
    pair: Pair, moments: list[GramMoments], *, sparsity: float, settings: MaskSettings
) -> ReconstructionRow:
    """Set the weights of a kernel, and return its error with zeros alone and with the update.

    Raises:
        ValueError: If the inputs of the kernel are all 0.
    """
    site = pair[0]
    solver = zero_solver(site.map, settings.ridge)
    check_inputs(site, moments, inputs=solver.inputs)
    if settings.criterion in UPDATING:
        start = solver.weights if pair[1].graph is site.graph else solver.refit(moments)
        if settings.criterion == "alps":
            updated = solver.by_alps(moments, start, pattern=settings.pattern, sparsity=sparsity)
        else:
            masking = solver.masking(moments, start, pattern=settings.pattern)
            updated = masking(sparsity)
            if settings.rounding is not None:
                updated = masking(
                    sparsity, [grid_of(each[:, : solver.inputs], settings.rounding) for each in updated]
                )
        masked = np.where(updated == 0, 0, solver.weights)
    else:
        masked = updated = solver.weights.copy()
        mask = MASKS[settings.criterion]
        for sums, weights in zip(moments, masked[..., : solver.inputs], strict=True):
            weights *= mask(sums, weights, pattern=settings.pattern, sparsity=sparsity, positions=solver.positions)
    site.map.assign(updated)
    before, after = (relative_error(moments, weights) for weights in (masked, updated))
    return ReconstructionRow(site.name, site.map.kernel.path, before, after)
