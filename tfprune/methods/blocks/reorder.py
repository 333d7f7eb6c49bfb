"""A model with its blocks in another order: of the same class where its arguments can say so, else a graph."""

from __future__ import annotations

from collections.abc import Sequence

from tfprune.compact.same_class.class_arguments import NoClass
from tfprune.keras_models.models.kinds import rebuilds_as_class
from tfprune.methods.blocks.find_blocks import Blocks
from tfprune.methods.blocks.reorder_as_class import arranged_class
from tfprune.methods.blocks.reorder_as_graph import arranged_graph
from tfprune.methods.blocks.reordered_model import Arranged


def arrange(found: Blocks, order: Sequence[int]) -> Arranged:
    """Return a model with some blocks, each as often as it is named, one after the other.

    Args:
        found: The blocks of a model.
        order: The numbers of the blocks.

    Raises:
        ValueError: If a layer cannot be copied.
    """
    reason = ""
    if rebuilds_as_class(found.copy):
        try:
            return arranged_class(found, order)
        except NoClass as why:
            reason = str(why)
    try:
        return arranged_graph(found, order, reason=reason)
    except ValueError as error:
        if not reason:
            raise
        raise ValueError(f"{error} A model of class {type(found.copy).__name__} cannot be had: {reason}.") from None
