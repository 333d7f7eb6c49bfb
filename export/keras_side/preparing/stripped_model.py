"""The stripped copy that a file is made of, and what it is without the channels that no kernel reads."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import keras

import tfprune
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.criteria.base import finite
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.masking.wrapping.pruned import holds_pruned
from tfprune.masking.wrapping.strip import plain_copy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StrippedModel:
    """A model without wrappers, which may lose channels once its outputs are known.

    Attributes:
        model: A copy that computes what the wrapped model computes; the model itself where it cannot be copied.
        source: The model of the user.
        flat: The flat copy over the same layers; None if no channel is to be removed.
        plan: The channels that some kernel reads; None without `flat`.
    """

    model: keras.Model
    source: keras.Model | None = None
    flat: FlatCopy | None = None
    plan: ShrinkPlan | None = None

    def __post_init__(self) -> None:
        """Refuse weights that are not finite: a file could not be compared with what they compute."""
        for weight in self.model.weights:
            finite(as_numpy(weight), weight.path)

    def without_unread(self) -> keras.Model:
        """Return an equal model without the channels that no kernel reads; the copy is used up by this."""
        if self.flat is None or self.plan is None:
            return self.model
        if self.plan.keep.all():
            return self.flat.hand_out()
        return tfprune.shrink(self.source, self.plan)  # from the copy that the plan has kept


def strip_for_export(model: keras.Model, *, finds_unread: bool) -> StrippedModel:
    """Strip a model; one that cannot be copied is exported as it is, if it has no wrappers.

    Args:
        model: The model of the user. It is left as it is.
        finds_unread: Whether channels are looked for that no kernel reads; the plan's copy is then the stripped one.

    Raises:
        ValueError: If a wrapped model cannot be copied, or a weight is not finite.
    """
    if finds_unread:
        try:
            plan = tfprune.plan_shrink(model)
        except ValueError as error:  # not a graph of layers, or a layer would lose all of its channels
            _log.info("channels that no kernel reads stay in %r: %s", model.name, error)
        else:
            flat = plan.planned_copy.of(model) if plan.planned_copy else None
            if flat is not None:
                return StrippedModel(flat.plain, model, flat, plan)
            if not plan.keep.all():
                return StrippedModel(tfprune.shrink(model, plan))
    try:
        return StrippedModel(plain_copy(Anatomy.of(model)))
    except ValueError as error:
        if holds_pruned(model):
            raise
        _log.info("%r is exported as it is, not a copy: %s", model.name, error)
        return StrippedModel(model)
