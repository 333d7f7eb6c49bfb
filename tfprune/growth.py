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

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.methods.experts.change import GrowthCompute as GrowthCompute
    from tfprune.methods.experts.change import growth_compute as growth_compute
    from tfprune.methods.growth.blocks import NormProfile as NormProfile
    from tfprune.methods.growth.blocks import norm_profile as norm_profile
    from tfprune.methods.growth.change import GrowthReport as GrowthReport
    from tfprune.methods.growth.change import grow_depth as grow_depth
    from tfprune.methods.moments import MomentCosines as MomentCosines
    from tfprune.methods.moments import carry_optimizer as carry_optimizer
    from tfprune.methods.moments import moment_cosines as moment_cosines

_HOMES = {
    "methods.experts.change": ["GrowthCompute", "growth_compute"],
    "methods.growth.change": ["grow_depth", "GrowthReport"],
    "methods.growth.blocks": ["NormProfile", "norm_profile"],
    "methods.moments": ["carry_optimizer", "MomentCosines", "moment_cosines"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
