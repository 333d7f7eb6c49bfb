"""Gather evidence: one pass over data that records facts of a model and changes nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from tfprune.criteria.base import Criterion
from tfprune.criteria.facts import HESSIAN_GRADIENTS, UnknownFact
from tfprune.keras_models.evidence.activations import Activations
from tfprune.keras_models.evidence.hessian_gradients import HessianGradients
from tfprune.keras_models.evidence.loss_gradients import Gradients, Loss, training_loss
from tfprune.keras_models.evidence.scored_weight import FactRequest, Subject, requests_of
from tfprune.keras_models.evidence.weight_context import facts_of_model
from tfprune.keras_models.models.batches import batches, check_batch, check_source

Facts = dict[str, dict[str, Any]]  # by the path of the weight, then by the name of the fact


def check_needs(criteria: Iterable[Criterion], *, data: Any, loss: Any) -> None:
    """Refuse missing evidence, and data or a loss that no criterion uses.

    Raises:
        ValueError: If a criterion needs data and there is none, `data` or `loss` would have no effect, or a criterion
            needs a fact that is not registered.
    """
    criteria = list(dict.fromkeys(criteria))
    needed = {fact: criterion for criterion in criteria for fact in criterion.needed_facts()}
    for fact, criterion in needed.items():
        if data is None and fact.needs_data:
            raise ValueError(
                f"Expected data, as {criterion!r} needs evidence: {fact}. Received: data=None. Pass data=(x, y) or a "
                f"dataset to update_masks, PruningCallback or plan_shrink."
            )
    uses = {"data": any(fact.needs_data for fact in needed), "loss": any(fact.needs_loss for fact in needed)}
    for name, value in (("data", data), ("loss", loss)):
        if value is not None and not uses[name]:
            raise ValueError(
                f"Expected no `{name}`, because no criterion uses it. Received: {name} of type "
                f"{type(value).__name__}; criteria: {', '.join(map(repr, criteria)) or 'none'}. Leave it out."
            )


class Gatherer:
    """Gather evidence of a model's weights from data, and keep facts that add up from one pass to the next.

    Pass a gatherer as `data` to `update_masks` in a custom training loop, so that `criteria.Movement` adds up over
    the updates. A pass calls the model in inference once on each batch, and once more to differentiate the loss if a
    fact needs gradients. Memory does not grow with the number of batches. The model does not change. Padding counts
    like any other position.

    Args:
        model: The model, wrapped or not.
        data: A tuple (x, y) of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or an iterable of batches.
        loss: A name, function or `keras.losses.Loss` for gradients. None (the default) takes the loss of `compiled`.
        compiled: The model that was compiled with the loss. None (the default) takes `model`.

    Raises:
        TypeError: If `data` is not a source of batches.
        ValueError: If `data` does not end.

    Example:
        >>> import numpy as np
        >>> from tfprune import update_masks, wrap
        >>> model = wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), criterion="wanda")
        >>> gatherer = Gatherer(model, np.ones((8, 4)))
        >>> update_masks(model, 0.5, data=gatherer).sparsity
        0.5
    """

    def __init__(
        self, model: keras.layers.Layer, data: Any, *, loss: Any = None, compiled: keras.Model | None = None
    ) -> None:
        check_source(data)
        self.model, self.data, self.loss = model, data, loss
        self._compiled = model if compiled is None else compiled
        self._before: dict[str, Any] = {}
        self._pass: _Pass | None = None

    def gather(self, subjects: Sequence[Subject]) -> Facts:
        """Return the facts that the criteria of some weights need, from one pass over the data.

        Raises:
            ValueError: If the data are empty, do not fit the model or hold NaN, or labels or a loss are missing.
        """
        facts: Facts = {subject.path: {} for subject in subjects}
        requests = requests_of(self.model, subjects, of_data=True)
        if not requests:  # all weights that need data may be frozen
            return facts
        compiled_for = [(request.subject.path, request.fact) for request in requests]
        if self._pass is None or self._pass.compiled_for != compiled_for:
            self._pass = _Pass(self.model, requests, lambda: training_loss(self._compiled, self.loss))
        results = self._pass.over(self.data)
        for request in requests:
            facts[request.subject.path][request.fact.name] = self._finished(request, results[request.key])
        return facts

    def _finished(self, request: FactRequest, value: Any) -> Any:
        fact = request.fact
        if isinstance(value, UnknownFact):
            return value
        value = value if fact.finish is None else fact.finish(value)
        if fact.over_passes is not None:
            value = fact.over_passes(self._before.get(request.key, 0.0), value, request.subject.latent())
            self._before[request.key] = value
        return value


class _Pass:
    """The compiled models that gather some facts, kept from pass to pass."""

    def __init__(self, model: keras.layers.Layer, requests: Sequence[FactRequest], loss: Callable[[], Loss]) -> None:
        self.compiled_for = [(request.subject.path, request.fact) for request in requests]
        self._model = model
        trained = {id(variable) for variable in model.trainable_variables}
        of_layers = [request for request in requests if not request.fact.needs_loss]
        of_loss = [request for request in requests if request.fact.needs_loss]
        derived = [request for request in of_loss if id(request.subject.kernel.variable) in trained]
        reason = UnknownFact("it is frozen (trainable=False), so it has no gradient")
        self._frozen = {request.key: reason for request in of_loss if request not in derived}
        once = [request for request in derived if request.fact.recorded != HESSIAN_GRADIENTS]
        twice = [request for request in derived if request not in once]
        self._reads: list[list[Activations | Gradients | HessianGradients]] = [[]]  # the parts of each reading
        if of_layers:
            self._reads[0].append(Activations(model, of_layers))
        if once:
            self._reads[0].append(Gradients(model, loss(), once))
        if twice:
            products = HessianGradients(model, loss(), twice)
            self._reads[0].append(products.first)
            self._reads.append([products])

    def over(self, data: Any) -> dict[str, Any]:
        """Read the data, and return what was recorded, by the key of its request."""
        records: dict[str, Any] = dict(self._frozen)
        for parts in self._reads:
            for part in parts:
                part.reset()
            for batch in batches(data):
                check_batch(batch, self._model)
                for part in parts:
                    part.record(batch)
            for part in parts:
                records |= part.combined()
        return records


def gather(model: keras.layers.Layer, subjects: Sequence[Subject], *, gatherer: Gatherer | None) -> Facts:
    """Return the facts that the criteria of some weights need: from the model, and from the gatherer's data."""
    facts: Facts = {subject.path: {} for subject in subjects} if gatherer is None else gatherer.gather(subjects)
    requests = requests_of(model, subjects, of_data=False)
    values = facts_of_model(model, requests)
    for request in requests:
        facts[request.subject.path][request.fact.name] = values[request.key]
    return facts
