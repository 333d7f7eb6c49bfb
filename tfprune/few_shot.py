"""Few-shot models: draw episodes, prune in stages, and meta-train after each of them.

The system is that of "PMP-DACIS" (arXiv:2601.02353). Its scores are `tfprune.criteria.DACIS`, and its thresholds
`tfprune.allocation.LayerThreshold`.

Example:
    >>> import numpy as np, tfprune
    >>> y = np.arange(60) % 6
    >>> tasks = tfprune.few_shot.Episodes(np.eye(6)[y], y, ways=3, shots=2, queries=2, episodes=4)
    >>> len(tasks)
    4
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.gradients import Episodes as Episodes
    from tfprune.gradients import MetaGradients as MetaGradients
    from tfprune.methods.few_shot.learners import MAML as MAML
    from tfprune.methods.few_shot.learners import Prototypes as Prototypes
    from tfprune.methods.few_shot.prune import ChannelTaxonomy as ChannelTaxonomy
    from tfprune.methods.few_shot.prune import FewShotReport as FewShotReport
    from tfprune.methods.few_shot.prune import FewShotStage as FewShotStage
    from tfprune.methods.few_shot.prune import prune_few_shot as prune_few_shot

_HOMES = {
    "gradients": ["Episodes", "MetaGradients"],
    "methods.few_shot.learners": ["MAML", "Prototypes"],
    "methods.few_shot.prune": ["ChannelTaxonomy", "FewShotReport", "FewShotStage", "prune_few_shot"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
