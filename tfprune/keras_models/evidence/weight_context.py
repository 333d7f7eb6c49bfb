"""What stands around a weight in its model: facts that are read without data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.criteria.facts import UnknownFact
from tfprune.keras_models.evidence.batch_norms import Normalizers, normalizers
from tfprune.keras_models.evidence.loss_gradients import synaptic_flows
from tfprune.keras_models.evidence.scored_weight import FactRequest


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What stands around a weight in its model, for facts that need no data.

    Attributes:
        path: The path of the weight in the model.
        variable: The weight in the user's model.
        layer: The innermost layer that holds the weight.
        hooked: The layer whose outputs are looked at: `layer`, or a loop around it.
        normalizers: A function that returns what `normalizers` does, called only if a fact asks.
        flows: A function that returns what `synaptic_flows` does, likewise.
    """

    path: str
    variable: keras.Variable
    layer: keras.layers.Layer
    hooked: keras.layers.Layer
    normalizers: Callable[[], Normalizers]
    flows: Callable[[], dict[int, np.ndarray] | UnknownFact]

    @property
    def synaptic_flow(self) -> Any:
        """The synaptic flow through each entry of the weight, or why it is not known."""
        flows = self.flows()
        if isinstance(flows, UnknownFact):
            return flows
        return flows.get(id(self.variable), UnknownFact("it is frozen (trainable=False), so it has no gradient"))

    @property
    def normalizer(self) -> keras.layers.BatchNormalization | None:
        """The BatchNormalization that takes the outputs of the layer, None if there is none."""
        return self.normalizers().get(id(self.hooked))


def facts_of_model(model: keras.layers.Layer, requests: Sequence[FactRequest]) -> dict[str, Any]:
    """Return facts that need no data, in float64, by the key of their requests."""
    once = functools.cache(lambda: normalizers(model))
    origins = {
        id(each.subject.kernel.variable): each.subject.origin for each in requests if each.subject.origin is not None
    }
    flows = functools.cache(lambda: synaptic_flows(model, origins))
    facts = {}
    for request in requests:
        subject = request.subject
        variable = subject.kernel.variable if subject.origin is None else subject.origin
        around = Surroundings(subject.path, variable, request.holder, request.hooked, once, flows)
        value = request.fact.reduce(around, ops)
        if not isinstance(value, UnknownFact):
            value = np.asarray(ops.convert_to_numpy(request.checked(value, request.shape)), dtype=np.float64)
        facts[request.key] = value
    return facts
