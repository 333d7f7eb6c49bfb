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

from tfprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune.keras_models.evidence.episodes import Episodes as Episodes
    from tfprune.keras_models.evidence.meta_gradients import MetaGradients as MetaGradients
    from tfprune.methods.few_shot.channel_taxonomy import ChannelTaxonomy as ChannelTaxonomy
    from tfprune.methods.few_shot.few_shot_report import FewShotReport as FewShotReport
    from tfprune.methods.few_shot.few_shot_stage import FewShotStage as FewShotStage
    from tfprune.methods.few_shot.maml import MAML as MAML
    from tfprune.methods.few_shot.prototypes import Prototypes as Prototypes
    from tfprune.methods.few_shot.prune_few_shot import prune_few_shot as prune_few_shot

_HOMES = {
    "keras_models.evidence.episodes": ["Episodes"],
    "keras_models.evidence.meta_gradients": ["MetaGradients"],
    "methods.few_shot.channel_taxonomy": ["ChannelTaxonomy"],
    "methods.few_shot.few_shot_report": ["FewShotReport"],
    "methods.few_shot.few_shot_stage": ["FewShotStage"],
    "methods.few_shot.maml": ["MAML"],
    "methods.few_shot.prototypes": ["Prototypes"],
    "methods.few_shot.prune_few_shot": ["prune_few_shot"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {}, elsewhere=_HOMES, package="tfprune")
