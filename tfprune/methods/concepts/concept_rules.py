"""Mine rules that recognize concepts in the activations of a model's layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_count
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.concepts.layer_units import UnitsOfModel
from tfprune.methods.concepts.observe import observe, unit_activations
from tfprune.methods.rule_mining.best_split import UnitValues
from tfprune.methods.rule_mining.check_concepts import check_concepts, negation, with_negations
from tfprune.methods.rule_mining.choose_rules import SampleParts
from tfprune.methods.rule_mining.counts import lower_bound, percent
from tfprune.methods.rule_mining.mine_rules import TreeLimits, mine_rules
from tfprune.methods.rule_mining.parts import CHOOSING, MINING, REPORTING, Part, draw_parts, part_of
from tfprune.methods.rule_mining.rule import ConceptRule
from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class ConceptRules(Report):
    """The rules of each layer for each concept, and for its negation; prints as a table.

    Attributes:
        concepts: The names of the concepts. There are rules for `not c` as well, for each concept `c`.
        layers: The layers, with the number of their units.
        rules: The rules by layer and concept, those with the largest support first.
        samples: The number of samples for reporting, on which precision and recall were measured.
        skipped: The layers that have no rules, with the reason.
        parts: The samples for mining, choosing and reporting: their labels, and where each rule holds.

    Example:
        >>> import numpy as np
        >>> import tfprune
        >>> x = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)]
        >>> rules = tfprune.concepts.concept_rules(keras.Sequential(layers), x, {"right": x[:, 0] > 0})
        >>> rules.concepts, rules.layers
        (('right',), {'hidden': 8})
        >>> rules.best("not right").layer
        'hidden'
    """

    JSON_NAMES = ("concepts", "layers", "rules", "samples", "skipped")

    concepts: tuple[str, ...]
    layers: dict[str, int]
    rules: tuple[ConceptRule, ...]
    samples: int
    skipped: tuple[Skipped, ...] = ()
    parts: SampleParts = field(default_factory=dict, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts, followed by their negations."""
        return tuple(with_negations({name: np.empty(0, bool) for name in self.concepts}))

    def of(self, concept: str, *, layer: str) -> tuple[ConceptRule, ...]:
        """Return the rules of a layer for a concept or for `not` a concept, those with the largest support first."""
        return tuple(rule for rule in self.rules if (rule.concept, rule.layer) == (concept, layer))

    def best(self, concept: str) -> ConceptRule:
        """Return the rule for a concept with the highest precision that the samples for choosing can certify.

        Raises:
            ValueError: If there is no rule for the concept.
        """
        rules = [rule for rule in self.rules if rule.concept == concept]
        if not rules:
            listed = ", ".join(dict.fromkeys(repr(rule.concept) for rule in self.rules)) or "none"
            raise ValueError(f"Expected a concept that has rules, of {listed}. Received: {concept!r}.")
        counts = {rule: self.parts[CHOOSING].counts(concept, [rule]) for rule in rules}
        return max(rules, key=lambda rule: lower_bound(counts[rule].hits, counts[rule].matched, error=0.05))

    def evaluate(
        self, model: keras.Model, samples: Any, concepts: Mapping[str, Any], *, batch_size: int = 32
    ) -> ConceptRules:
        """Return the same rules with the precision and recall that they have on other samples.

        Args:
            model: The model that the rules were mined from, or one with the same layers.
            samples: Inputs, as in `concept_rules`. Labels are ignored.
            concepts: 0 or 1 for each sample, for each of the concepts.
            batch_size: Samples in a batch of arrays, at least 1. Default 32.

        Raises:
            ValueError: If a concept is missing, or a layer of the rules is not in the model.
        """
        part = observe(model, samples, concepts=concepts, layers=self.layers, rules=self.rules, batch_size=batch_size)
        return replace(
            self, rules=_counted(self.rules, part), samples=part.size, parts={**self.parts, REPORTING: part}
        )

    def __str__(self) -> str:
        rows = [self._row(layer, concept) for layer in self.layers for concept in self.concepts]
        header = ["layer", "concept", "rules", "units", "support", "precision", "recall"]
        note = (
            f"\n\nPrecision and recall of all leaves together, with 95 % intervals, on {self.samples} samples that "
        )
        return table(header, rows, left=2) + note + "neither mined nor chose rules." + skipped_table(self.skipped)

    def _row(self, layer: str, concept: str) -> list[Any]:
        rules = [rule for rule in self.of(concept, layer=layer) if rule.is_leaf]
        if not rules:
            return [layer, concept, 0, 0, 0, "-", "-"]
        units = {unit for rule in rules for unit in rule.units}
        mining, counts = self.parts[MINING], self.parts[REPORTING].counts(concept, rules)
        support = round(mining.weigh(mining.any_of(rules)))
        precision, recall = percent(counts.precision, counts.precision_interval), counts.recall
        return [layer, concept, len(rules), len(units), support, precision, percent(recall, counts.recall_interval)]


def _counted(rules: Sequence[ConceptRule], part: Part) -> tuple[ConceptRule, ...]:
    return tuple(replace(rule, counts=part.counts(rule.concept, [rule])) for rule in rules)


def concept_rules(
    model: keras.Model,
    samples: Any,
    concepts: Mapping[str, Any],
    *,
    groups: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    validation_split: float = 0.5,
    layers: str | Sequence[str] | None = None,
    max_depth: int = 8,
    min_samples_leaf: int = 10,
    trees: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int | str = "auto",
) -> ConceptRules:
    """Mine rules that recognize concepts in the activations of each layer, as paths of decision trees.

    Use it before `plan_concepts`, to find which units the concepts need. A rule is a path to a node where most
    samples have the concept, for example `hidden[3] > 0.5 and hidden[7] <= 1.2`. A node is split only if the split
    is better than chance, so noisy labels do no harm. A unit of a convolution counts with its mean over positions,
    after the normalization and activation layers that follow it. The same arguments give the same rules.

    The samples are split into three parts: rules are mined from the first, `plan_concepts` chooses among them on the
    second, and every precision and recall in the reports is measured on the third.

    Args:
        model: A built model whose calls can be followed, wrapped or not. It is not changed.
        samples: Some thousand inputs: an array, a tuple (x, y), a dataset or an iterable of batches. Labels are
            ignored.
        concepts: For each concept an array of 0 and 1, (samples,): 1 where the sample has the concept.
        groups: The group of each sample, (samples,), integers or strings. Use it if samples are copies of each other
            or share a source: a group is never split between parts, and counts as one sample. None (the default)
            treats samples as independent.
        validation_split: The fraction of samples that no rule is mined from, in (0, 1): half of them choose rules,
            the others are for reporting. Default 0.5.
        layers: The names of the layers, as `plan_shrink` prints them; None (the default) takes all layers with units
            that can be removed.
        max_depth: The largest number of thresholds in a rule, at least 1. Default 8.
        min_samples_leaf: The smallest number of samples, among those for mining, on which a rule holds, at least 1.
            Default 10.
        trees: The number of trees for each layer and concept, at least 1. Each tree after the first uses a random
            half of the units, which gives `plan_concepts` more rules to choose from. Default 1.
        batch_size: Samples in a batch of arrays, at least 1. Default 32.
        seed: Seed of the split into parts, and of the units of further trees, at least 0. Default 0.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The rules. They print as a table.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, or a layer does not exist or has no units that can be
            removed.
        ValueError: If `samples` are empty, of the wrong shape or not finite.
        ValueError: If a concept has the wrong shape, holds numbers other than 0 and 1, or has only one of both in a
            part.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(400, 2)).astype("float32")
        >>> layers = [keras.Input((2,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> model.layers[0].set_weights([np.array([[1, 0, 0], [0, 1, 0]]), np.zeros(3)])
        >>> rules = concept_rules(model, x, {"corner": (x > 0).all(axis=1)})
        >>> [rule.units for rule in rules.of("corner", layer="hidden")]
        [(0, 1)]

    Reference:
        Gopinath et al., 2023, "Feature-Guided Analysis of Neural Networks"; Formica et al., 2026, arXiv:2604.09988,
        and "Ensembles-based Feature Guided Analysis", arXiv:2603.19653.
    """
    seed, batch_size = check_count(seed, "seed", least=0), check_count(batch_size, "batch_size", least=1)
    limits = TreeLimits(
        check_count(max_depth, "max_depth", least=1), check_count(min_samples_leaf, "min_samples_leaf", least=1)
    )
    trees = check_count(trees, "trees", least=1)
    check_verbose(verbose)
    units = UnitsOfModel(flat_copy(Anatomy.of(model)))
    unit_layers = units.chosen(layers)
    draw_parts(1, validation_split=validation_split, seed=seed)  # refused before the model runs
    activations, reasons = unit_activations(units.copy.plain, unit_layers, samples=samples, batch_size=batch_size)
    if reasons and (layers is not None or not activations):
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"Expected layers whose units can be recorded. Received: {listed}.")
    size = len(next(iter(activations.values())))
    labels = with_negations(check_concepts(concepts, count=size))
    rows_by_part, weights = draw_parts(size, validation_split=validation_split, groups=groups, seed=seed)
    parts = {name: part_of(labels, weights, rows=rows, name=name) for name, rows in rows_by_part.items()}
    rules: list[ConceptRule] = []
    with Progress(len(activations) * len(concepts) * trees, unit="tree", verbose=verbose) as progress:
        for layer, values in activations.items():
            miner = _Miner(
                layer, values[rows_by_part[MINING]], parts[MINING], concepts=tuple(concepts), limits=limits
            )
            own = miner.rules(trees=trees, seed=seed, progress=progress)
            for name, part in parts.items():
                part.add(own, values[rows_by_part[name]])
            rules += own
    counts = {layer: values.shape[1] for layer, values in activations.items()}
    counted = _counted(rules, parts[REPORTING])
    skipped = _skipped(units, reasons, layers)
    return ConceptRules(tuple(concepts), counts, counted, parts[REPORTING].size, skipped, parts)


class _Miner:
    """The trees of one layer."""

    def __init__(
        self, layer: str, activations: np.ndarray, part: Part, *, concepts: Sequence[str], limits: TreeLimits
    ) -> None:
        self._layer, self._values, self._part = layer, UnitValues(activations), part
        self._concepts, self._limits = concepts, limits

    def rules(self, *, trees: int, seed: int, progress: Progress) -> list[ConceptRule]:
        """Mine rules for each concept and its negation, those with the largest support first."""
        distinct: dict[ConceptRule, None] = {}
        for number in range(trees):
            units = self._units(number, seed)
            for concept in self._concepts:
                distinct |= dict.fromkeys(self._of(concept, units))
                progress.add()
        place = {name: index for index, name in enumerate(self._part.labels)}
        return sorted(distinct, key=lambda rule: (place[rule.concept], -rule.support))

    def _units(self, number: int, seed: int) -> np.ndarray:
        """Return the units that a tree may use."""
        if number == 0:
            return np.arange(self._values.units)
        order = np.random.default_rng([seed, number]).permutation(self._values.units)
        return np.sort(order[: (order.size + 1) // 2])

    def _of(self, concept: str, units: np.ndarray) -> Iterator[ConceptRule]:
        labels, weights = self._part.labels[concept], self._part.weights
        for path in mine_rules(self._values, labels, weights=weights, units=units, limits=self._limits):
            name = concept if path.is_there else negation(concept)
            if path.is_there or name not in self._concepts:
                yield ConceptRule(name, self._layer, path.thresholds, round(path.support), path.is_leaf)


def _skipped(units: UnitsOfModel, reasons: dict[str, str], layers: Any) -> tuple[Skipped, ...]:
    left_out = units.reasons | reasons if layers is None else reasons
    return tuple(Skipped(name, reason) for name, reason in left_out.items())
