"""Mine rules that tell concepts from the activations of a model's layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_count
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.concepts.check_concepts import check_both, check_concepts, held_out
from tfprune.methods.concepts.choose_rules import best_of
from tfprune.methods.concepts.layer_units import UnitsOfModel
from tfprune.methods.concepts.mine_rules import mine_rules
from tfprune.methods.concepts.rule import ConceptRule
from tfprune.methods.concepts.unit_activations import unit_activations
from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class ConceptRules(Report):
    """The rules of each layer for each concept; prints as a table.

    Attributes:
        concepts: The names of the concepts.
        layers: The layers, with the number of their units.
        rules: The rules by layer and concept, those with the largest support first.
        samples: The number of samples that precision and recall were measured on.
        skipped: The layers that have no rules, with the reason.

    Example:
        >>> import numpy as np
        >>> import tfprune
        >>> x = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)]
        >>> rules = tfprune.concept_rules(keras.Sequential(layers), x, {"right": x[:, 0] > 0})
        >>> rules.concepts, rules.layers
        (('right',), {'hidden': 8})
        >>> rules.best("right").layer
        'hidden'
    """

    concepts: tuple[str, ...]
    layers: dict[str, int]
    rules: tuple[ConceptRule, ...]
    samples: int
    skipped: tuple[Skipped, ...] = ()

    def of(self, concept: str, *, layer: str) -> tuple[ConceptRule, ...]:
        """Return the rules of a layer for a concept, those with the largest support first."""
        return tuple(rule for rule in self.rules if (rule.concept, rule.layer) == (concept, layer))

    def best(self, concept: str) -> ConceptRule:
        """Return the most precise rule for a concept, of those the one that matches most held-out samples.

        Raises:
            ValueError: If there is no rule for the concept.
        """
        rules = [rule for rule in self.rules if rule.concept == concept]
        if not rules:
            listed = ", ".join(map(repr, self.concepts))
            raise ValueError(f"Expected a concept that has rules, of {listed}. Received: {concept!r}.")
        return best_of(rules)

    def evaluate(
        self, model: keras.Model, data: Any, concepts: Mapping[str, Any], *, batch_size: int = 32
    ) -> ConceptRules:
        """Return the same rules with the precision and recall that they have on other samples.

        Args:
            model: The model that the rules were mined from, or one with the same layers.
            data: The samples, as in `concept_rules`.
            concepts: 0 or 1 for each sample, for each of the concepts.
            batch_size: Samples in a batch of arrays, at least 1. Default 32.

        Raises:
            ValueError: If a concept is missing, or a layer of the rules is not in the model.
        """
        units = units_for(self, UnitsOfModel(flat_copy(Anatomy.of(model))))
        chosen = units.chosen([*self.layers])
        activations, reasons = unit_activations(units.copy.plain, chosen, data=data, batch_size=batch_size)
        if reasons:
            raise ValueError(f"Expected the layers of the rules in {model.name!r}. Received: {reasons}.")
        size = len(next(iter(activations.values())))
        labels = check_concepts(concepts, samples=size)
        missing = [name for name in self.concepts if name not in labels]
        if missing:
            raise ValueError(f"Expected 0 or 1 for all concepts of the rules. Received: none for {missing}.")
        measured = tuple(rule.measured(activations[rule.layer], labels[rule.concept]) for rule in self.rules)
        return replace(self, rules=measured, samples=size)

    def __str__(self) -> str:
        rows = [self._row(layer, concept) for layer in self.layers for concept in self.concepts]
        header = ["layer", "concept", "rules", "units", "support", "precision", "recall"]
        note = f"\n\nPrecision and recall of all rules together, on {self.samples} held-out samples."
        return table(header, rows, left=2) + note + skipped_table(self.skipped)

    def _row(self, layer: str, concept: str) -> list[Any]:
        rules = self.of(concept, layer=layer)
        units = {unit for rule in rules for unit in rule.units}
        matched = sum(rule.matched for rule in rules)
        precision = f"{sum(rule.hits for rule in rules) / matched:.1%}" if matched else "-"
        recall = f"{sum(rule.recall for rule in rules):.1%}"
        return [layer, concept, len(rules), len(units), sum(rule.support for rule in rules), precision, recall]


def concept_rules(
    model: keras.Model,
    data: Any,
    concepts: Mapping[str, Any],
    *,
    layers: str | Sequence[str] | None = None,
    validation: float = 0.25,
    seed: int = 0,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> ConceptRules:
    """Mine rules that tell concepts from activations: for each layer and concept, the paths of a decision tree.

    Use it before `plan_concepts`, to find which units the concepts need. A rule is a path to a leaf that holds only
    samples with the concept, for example `hidden[3] > 0.5 and hidden[7] <= 1.2`. A unit of a convolution counts with
    its mean over positions, behind the normalization and activation layers that follow it. The same arguments give
    the same rules.

    Args:
        model: A built model whose calls can be followed, wrapped or not. It is left unchanged.
        data: Samples, some thousands: an array, a tuple (x, y), a dataset or an iterable of batches. Labels in it are
            not looked at.
        concepts: For each concept an array of 0 and 1, (samples,): whether it is there.
        layers: The names of the layers, as `plan_shrink` prints them; None (the default) takes all whose units may be
            removed.
        validation: The fraction of samples that are held out, in (0, 1): precision and recall are measured on them.
            Default 0.25.
        seed: Draws the held-out samples, and decides between splits of a tree that are equally good. Default 0.
        batch_size: Samples in a batch of arrays, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The rules. They print as a table.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, a layer does not exist or has no units that may be removed,
            `data` are empty, of the wrong shape or not finite, or scikit-learn is not installed.
        ValueError: If a concept has another shape, holds other numbers than 0 and 1, or is the same for all samples.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(400, 2)).astype("float32")
        >>> layers = [keras.Input((2,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> model.layers[0].set_weights([np.array([[1, 0, 0], [0, 1, 0]]), np.zeros(3)])
        >>> rules = concept_rules(model, x, {"corner": (x > 0).all(axis=1)})
        >>> [rule.units for rule in rules.of("corner", layer="hidden")]
        [(0, 1)]

    Reference:
        Gopinath et al., 2023, "Feature-Guided Analysis of Neural Networks"; Formica et al., 2026, arXiv:2604.09988.
    """
    seed, batch_size = check_count(seed, "seed", least=0), check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    units = UnitsOfModel(flat_copy(Anatomy.of(model)))
    chosen = units.chosen(layers)
    held_out(1, validation=validation, seed=seed)  # refused before the model runs
    activations, reasons = unit_activations(units.copy.plain, chosen, data=data, batch_size=batch_size)
    if reasons and (layers is not None or not activations):
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"Expected layers whose units can be looked at. Received: {listed}.")
    size = len(next(iter(activations.values())))
    labels = check_concepts(concepts, samples=size)
    is_held = held_out(size, validation=validation, seed=seed)
    for name, values in labels.items():
        check_both(name, values[~is_held], where="the samples that rules are mined from")
        check_both(name, values[is_held], where="the held-out samples")
    rules: list[ConceptRule] = []
    with Progress(len(activations) * len(labels), verbose=verbose, unit="tree") as progress:
        for (layer, values), (concept, there) in itertools.product(activations.items(), labels.items()):
            rules += _mine(concept, layer, values, there, is_held=is_held, seed=seed)
            progress.add()
    counts = {layer: values.shape[1] for layer, values in activations.items()}
    return ConceptRules(tuple(labels), counts, tuple(rules), int(is_held.sum()), _skipped(units, reasons, layers))


def _mine(
    concept: str, layer: str, values: np.ndarray, there: np.ndarray, *, is_held: np.ndarray, seed: int
) -> list[ConceptRule]:
    paths = mine_rules(values[~is_held], there[~is_held], seed=seed)
    rules = [ConceptRule(concept, layer, thresholds, support) for thresholds, support in paths]
    return [rule.measured(values[is_held], there[is_held]) for rule in rules]


def _skipped(units: UnitsOfModel, reasons: dict[str, str], layers: Any) -> tuple[Skipped, ...]:
    left_out = units.reasons | reasons if layers is None else reasons
    return tuple(Skipped(name, reason) for name, reason in left_out.items())


def units_for(rules: ConceptRules, units: UnitsOfModel) -> UnitsOfModel:
    """Return the units of a model, if the layers of the rules are among them.

    Raises:
        ValueError: If they are not, or have another number of units.
    """
    sizes = {name: layer.bundles.size for name, layer in units.layers.items()}
    differing = [name for name, count in rules.layers.items() if sizes.get(name) != count]
    if differing:
        raise ValueError(
            f"Expected the model that the rules were mined from. Received: {units.copy.plain.name!r}, where these "
            f"layers differ: {', '.join(differing)}. Mine rules of this model: tfprune.concept_rules(model, ...)."
        )
    return units
