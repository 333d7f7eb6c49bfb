"""The blocks of a transformer in the order in which recipes drop them, and the next recipe that drops some."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import keras

import tfprune
from tfprune.export.compressing.trials.recipe import Recipe
from tfprune.keras_models.models.anatomy import Kind, kind_of
from tfprune.keras_models.models.layers import walk

RANKED_SAMPLES = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockOrder:
    """The repeated blocks of a model.

    Attributes:
        order: Their numbers from 0, the least important first; the last one stays.
        share: The fraction of the multiply-adds of the original model in each.
        stay_alike: Whether blocks can still be dropped after channels were removed from them.
    """

    order: tuple[int, ...]
    share: float
    stay_alike: bool = True

    def shallower(self, recipe: Recipe, step: float) -> Recipe | None:
        """Return a recipe that drops more blocks: as many as a step allows, or one; None if it can drop none.

        Args:
            recipe: What is to be dropped from.
            step: How much to remove of the multiply-adds, as a logarithm.
        """
        count = len(recipe.dropped)
        others = len(self.order) - count
        if others < 2 or (recipe.flops < 1 and not self.stay_alike):
            return None
        each = self.share / (1 - count * self.share)  # of the model that is left
        more = min(others - 1, max(1, int((1 - math.exp(-step)) / each + 1e-6)))
        depth = 1 - (count + more) * self.share
        return replace(recipe, dropped=self.order[: count + more], depth=round(depth, 2)) if depth > 0 else None


def block_order_of(model: keras.Model, data: tuple[Any, Any]) -> BlockOrder | None:
    """Rank the blocks of a model with attention, by how little they change their inputs; None if there are none.

    Args:
        model: The original model.
        data: Training data, of which the first samples are run.
    """
    if not any("attention" in type(layer).__name__.lower() for _, layer in walk(model)):
        return None
    first = keras.tree.map_structure(lambda array: array[:RANKED_SAMPLES], data)
    try:
        order = tfprune.transformers.rank_blocks(model, first, criterion="similarity", verbose=0).order
        shallower, _ = tfprune.transformers.drop_blocks(model, order[:1], verbose=0)
        share = 1 - _flops(shallower) / _flops(model)
    except ValueError as error:
        _log.info("no blocks are dropped: %s", error)
        return None
    return BlockOrder(tuple(order), share, stay_alike=kind_of(model) is Kind.GRAPH)


def _flops(model: keras.Model) -> int:
    return tfprune.plan_shrink(model, 0.0, verbose=0).flops
