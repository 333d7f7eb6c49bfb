"""Research: methods that brought no gain in our measurements, and tools to compare ways to train sparse models.

Use them to repeat a comparison, or on data where they may do better. `docs/papers/index.md` has the
measurements.

- AC/DC (arXiv:2106.12379) is the schedule `Alternating`.
- SNIP (arXiv:1810.02340), GraSP (arXiv:2002.07376) and SynFlow (arXiv:2006.05467) are criteria; `tfprune.wrap` also
  takes their names, `criterion="snip"`, `"grasp"` and `"synflow"`.
- STR (arXiv:2002.03231) is `learn_allocation`, and GReg (arXiv:2012.09243) the callback `GrowingPenalty`.
- OWL (arXiv:2310.05175) and AlphaPruning (arXiv:2410.10912) have names only: `allocation="owl"` and
  `"alpha_pruning"` of `tfprune.prune_weights`.
- `TrainingCost` counts the multiply-adds of sparse training, and `scale_initial_weights` prepares a model whose masks
  never change.

Example:
    >>> import tfprune
    >>> schedule = tfprune.research.Alternating(0.9, begin=10, end=30, cycles=2)
    >>> [schedule(step) for step in (9, 10, 15, 20, 25, 30)]
    [0.0, 0.9, 0.0, 0.9, 0.0, 0.9]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.compact.rank import GrowingPenalty as GrowingPenalty
    from tfprune.criteria import SNIP as SNIP
    from tfprune.criteria import GraSP as GraSP
    from tfprune.criteria import SynFlow as SynFlow
    from tfprune.masking.callback import TrainingCost as TrainingCost
    from tfprune.masking.grow import learn_allocation as learn_allocation
    from tfprune.masking.grow import scale_initial_weights as scale_initial_weights
    from tfprune.schedules import Alternating as Alternating

_HOMES = {
    "compact.rank": ["GrowingPenalty"],
    "criteria": ["SNIP", "GraSP", "SynFlow"],
    "masking.callback": ["TrainingCost"],
    "masking.grow": ["learn_allocation", "scale_initial_weights"],
    "schedules": ["Alternating"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
