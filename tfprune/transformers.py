"""Transformers: rank and remove heads, blocks, dimensions and tokens, by methods that need no training.

Heads by the loss without them are from "Prune, Update and Trim" (arXiv:2605.18331), as is the split of
`transformer_budget`; blocks by their influence are from "ShortGPT" (arXiv:2403.03853). `tfprune.plan_transformer`
removes parts of all kinds under one budget, and `tfprune.prune_units` removes hidden units.

Example:
    >>> import keras, tfprune
    >>> block = lambda index: keras.layers.Dense(4, name=f"block_{index}")
    >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(1)])
    >>> smaller, report = tfprune.transformers.drop_blocks(model, [1])
    >>> report.order
    (0, 2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.compact.narrow import NarrowReport as NarrowReport
    from tfprune.compact.narrow import narrow as narrow
    from tfprune.compact.plan import TransformerPlan as TransformerPlan
    from tfprune.compact.plan import transformer_budget as transformer_budget
    from tfprune.compact.rank import rank_heads as rank_heads
    from tfprune.compact.vocabulary import VocabularyReport as VocabularyReport
    from tfprune.compact.vocabulary import trim_vocabulary as trim_vocabulary
    from tfprune.methods.growth.blocks import BlockRanking as BlockRanking
    from tfprune.methods.growth.blocks import rank_blocks as rank_blocks
    from tfprune.methods.growth.change import drop_blocks as drop_blocks

_HOMES = {
    "compact.narrow": ["narrow", "NarrowReport"],
    "compact.plan": ["transformer_budget", "TransformerPlan"],
    "compact.rank": ["rank_heads"],
    "compact.vocabulary": ["trim_vocabulary", "VocabularyReport"],
    "methods.growth.change": ["drop_blocks"],
    "methods.growth.blocks": ["BlockRanking", "rank_blocks"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
