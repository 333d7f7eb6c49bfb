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

from tfprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune.compact.narrowing.narrow import narrow as narrow
    from tfprune.compact.narrowing.narrow_report import NarrowReport as NarrowReport
    from tfprune.compact.shrinking.rank_heads import rank_heads as rank_heads
    from tfprune.compact.shrinking.transformer_budget import transformer_budget as transformer_budget
    from tfprune.compact.shrinking.transformer_plan import TransformerPlan as TransformerPlan
    from tfprune.compact.vocabulary.trim_vocabulary import trim_vocabulary as trim_vocabulary
    from tfprune.compact.vocabulary.vocabulary_report import VocabularyReport as VocabularyReport
    from tfprune.methods.growth.block_ranking import BlockRanking as BlockRanking
    from tfprune.methods.growth.drop_blocks import drop_blocks as drop_blocks
    from tfprune.methods.growth.rank_blocks import rank_blocks as rank_blocks

_HOMES = {
    "compact.narrowing.narrow": ["narrow"],
    "compact.narrowing.narrow_report": ["NarrowReport"],
    "compact.shrinking.rank_heads": ["rank_heads"],
    "compact.shrinking.transformer_budget": ["transformer_budget"],
    "compact.shrinking.transformer_plan": ["TransformerPlan"],
    "compact.vocabulary.trim_vocabulary": ["trim_vocabulary"],
    "compact.vocabulary.vocabulary_report": ["VocabularyReport"],
    "methods.growth.block_ranking": ["BlockRanking"],
    "methods.growth.drop_blocks": ["drop_blocks"],
    "methods.growth.rank_blocks": ["rank_blocks"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {}, elsewhere=_HOMES, package="tfprune")
