"""Gather evidence: one pass over data in which a model is watched and nothing of it changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.criteria.base import FACTS, OF_LOSS, WITHOUT_DATA, Criterion, UnknownFact
from tfprune.evidence.activations import SIDES, Activations, FactRequest
from tfprune.evidence.batch_norms import gamma, normalisers
from tfprune.evidence.layer_hooks import holders
from tfprune.evidence.loss_gradients import Gradients, Recorder, loss_of
from tfprune.models.batches import batches, check_batch, check_source
from tfprune.models.kernels import Kernel

Facts = dict[str, dict[str, Any]]  # by path, then by the names of `FACTS`


@dataclass(frozen=True, eq=False)
class Subject:
    """A weight to gather evidence of.

    Attributes:
        path: Its place in the model.
        kernel: The weight, which holds its masked values while evidence is gathered.
        criterion: Which says what is needed.
        latent: Returns its latent values.
        mask: Its mask, or None for a weight that has none.
    """

    path: str
    kernel: Kernel
    criterion: Criterion
    latent: Callable[[], np.ndarray]
    mask: keras.Variable | None = None


def check_needs(criteria: Iterable[Criterion], *, data: Any, loss: Any) -> None:
    """Refuse evidence that is missing, and data or a loss that nothing looks at.

    Raises:
        ValueError: If a criterion needs data and there is none, or `data` or `loss` would have no effect, or a
            criterion needs a fact that nothing gathers.
    """
    criteria = list(dict.fromkeys(criteria))
    needs = {fact: criterion for criterion in criteria for fact in criterion.needs}
    for fact, criterion in needs.items():
        if fact not in FACTS:
            raise ValueError(f"Expected `needs` among {', '.join(FACTS)}. Received: {fact!r}, of {criterion!r}.")
        if data is None and fact not in WITHOUT_DATA:
            raise ValueError(
                f"Expected data, as {criterion!r} needs evidence: {FACTS[fact]}. Received: data=None. Pass "
                f"data=(x, y) or a data set to update_masks, PruningCallback or plan_shrink."
            )
    names = ", ".join(map(repr, criteria)) or "nothing"
    if data is not None and not set(needs) - set(WITHOUT_DATA):
        raise ValueError(f"Expected no `data`, as nothing would look at it: {names}. Leave it out.")
    if loss is not None and not set(needs) & set(OF_LOSS):
        raise ValueError(f"Expected no `loss`, as nothing would look at it: {names}. Leave it out.")


class Gatherer:
    """Gathers evidence of a model's weights from data, and remembers `Movement` from one pass to the next.

    A pass calls the model in inference on each batch once, and where gradients are needed once more to differentiate
    its loss. Batches are reduced as they come, so memory does not grow with their number. Nothing of the model is
    written. Padding counts as any other position.

    Args:
        model: The model, wrapped or not.
        data: A tuple (x, y) of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or an iterable of batches.
        loss: A name, function or `keras.losses.Loss` for gradients; None takes what `compiled` was compiled with.
        compiled: The model whose loss it is; None takes `model`.

    Raises:
        TypeError: If `data` is no source of batches.
        ValueError: If it has no end.

    Example:
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
        self._movement: dict[str, np.ndarray] = {}
        self._pass: _Pass | None = None

    def gather(self, subjects: Sequence[Subject]) -> Facts:
        """Return the facts that the criteria of some weights need, from one pass over the data.

        Raises:
            ValueError: For data that is empty, of the wrong shape or has NaN, and for missing labels or loss.
        """
        names = [(subject.path, subject.criterion) for subject in subjects]
        if self._pass is None or self._pass.names != names:
            self._pass = _Pass(self.model, subjects, lambda: loss_of(self._compiled, self.loss))
        facts = self._pass.over(self.data)
        for subject in subjects:
            gradient = facts[subject.path].get("movement")
            if isinstance(gradient, np.ndarray):
                moved = self._movement.get(subject.path, 0.0) - gradient * subject.latent()
                facts[subject.path]["movement"] = self._movement[subject.path] = moved
        return facts


class _Pass:
    """What is compiled to gather some facts, kept from pass to pass."""

    def __init__(self, model: keras.layers.Layer, subjects: Sequence[Subject], loss: Callable) -> None:
        self.names = [(subject.path, subject.criterion) for subject in subjects]
        self._model, self._subjects, held = model, subjects, holders(model)
        wanted = [
            FactRequest(f"{place} {fact}", fact, subject.kernel, *held[id(subject.kernel.variable)])
            for place, subject in enumerate(subjects)
            for fact in subject.criterion.needs
            if fact in SIDES
        ]
        self._activations = Activations(model, wanted) if wanted else None
        trained = {id(variable) for variable in model.trainable_variables}
        derived = [s for s in subjects if set(s.criterion.needs) & set(OF_LOSS) and id(s.kernel.variable) in trained]
        self._derived = {subject.path: place for place, subject in enumerate(derived)}
        self._gradients: Gradients | None = None
        if derived:
            facts = [fact for fact in OF_LOSS if any(fact in subject.criterion.needs for subject in derived)]
            masks = [subject.mask for subject in derived if subject.mask is not None]
            self._gradients = Gradients(model, loss(), masks, Recorder([one.kernel for one in derived], facts))

    def over(self, data: Any) -> Facts:
        """Read the data once."""
        parts = [part for part in (self._activations, self._gradients) if part is not None]
        for part in parts:
            part.reset()
        for batch in batches(data):
            check_batch(batch, self._model)
            for part in parts:
                part.record(batch)
        return self._facts()

    def _facts(self) -> Facts:
        facts: Facts = defaultdict(dict)
        hooked = {} if self._activations is None else self._activations.facts()
        for place, subject in enumerate(self._subjects):
            for fact in subject.criterion.needs:
                if fact in SIDES:
                    facts[subject.path][fact] = hooked[f"{place} {fact}"]
                elif fact in OF_LOSS:
                    facts[subject.path][fact] = self._gradient(subject.path, fact)
        return facts

    def _gradient(self, path: str, fact: str) -> Any:
        if self._gradients is None or path not in self._derived:
            return UnknownFact("it is frozen (trainable=False), so it has no gradient")
        return self._gradients.recorder.mean(fact, self._derived[path])


def gather(model: keras.layers.Layer, subjects: Sequence[Subject], *, gatherer: Gatherer | None) -> Facts:
    """Return the facts that the criteria of some weights need: of the model, and with a gatherer of its data."""
    needing = [subject for subject in subjects if set(subject.criterion.needs) - set(WITHOUT_DATA)]
    facts: Facts = {subject.path: {} for subject in subjects}
    if gatherer is not None and needing:  # all of them may be frozen
        facts |= gatherer.gather(needing)
    scaled = [subject for subject in subjects if "gamma" in subject.criterion.needs]
    if scaled:
        found, held = normalisers(model), holders(model)
        for subject in scaled:
            facts[subject.path]["gamma"] = gamma(held[id(subject.kernel.variable)][0], found)
    return facts
