"""Growth: make a trained model deeper, decide when, and carry its optimizer along.

The methods are those of "Beyond Sunk Costs" (arXiv:2510.08008). `tfprune.experts.grow` makes a mixture of experts
wider, and `tfprune.transformers.drop_blocks` undoes `grow_depth`.

Example:
    >>> import keras, tfprune
    >>> block = lambda index: keras.layers.Dense(4, name=f"block_{index}")
    >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(2)), keras.layers.Dense(1)])
    >>> deeper, report = tfprune.growth.grow_depth(model)
    >>> report.order
    (0, 0, 1, 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune.methods.experts.growth_compute import GrowthCompute as GrowthCompute
    from tfprune.methods.experts.growth_compute import growth_compute as growth_compute
    from tfprune.methods.growth.grow_depth import grow_depth as grow_depth
    from tfprune.methods.growth.growth_report import GrowthReport as GrowthReport
    from tfprune.methods.growth.norm_profile import NormProfile as NormProfile
    from tfprune.methods.growth.norm_profile import norm_profile as norm_profile
    from tfprune.methods.moments.carry_optimizer import carry_optimizer as carry_optimizer
    from tfprune.methods.moments.moment_cosines import MomentCosines as MomentCosines
    from tfprune.methods.moments.moment_cosines import moment_cosines as moment_cosines

_HOMES = {
    "methods.experts.growth_compute": ["GrowthCompute", "growth_compute"],
    "methods.growth.grow_depth": ["grow_depth"],
    "methods.growth.growth_report": ["GrowthReport"],
    "methods.growth.norm_profile": ["NormProfile", "norm_profile"],
    "methods.moments.carry_optimizer": ["carry_optimizer"],
    "methods.moments.moment_cosines": ["MomentCosines", "moment_cosines"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {}, elsewhere=_HOMES, package="tfprune")
