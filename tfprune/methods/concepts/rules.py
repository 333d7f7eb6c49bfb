"""Rules that recognize concepts in the activations of a model's layers, and what users may require."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.arrays import output_axes
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count
from tfprune.channels.groups import kernels_by_weight
from tfprune.criteria import Magnitude
from tfprune.evidence import RecordingModel
from tfprune.facts import FACTS
from tfprune.gradients import FactRequest, Subject
from tfprune.masking.strip import FlatCopy, flat_copy
from tfprune.methods.rule_mining import (
    CHOOSING,
    MINING,
    REPORTING,
    ConceptRule,
    Part,
    SampleParts,
    TreeLimits,
    UnitValues,
    check_concepts,
    draw_parts,
    lower_bound,
    mine_rules,
    negation,
    part_of,
    percent,
    with_negations,
)
from tfprune.models.anatomy import Anatomy, Kernel, as_numpy
from tfprune.models.graph import LOOPS, Call, Graph, holders, trace
from tfprune.models.training import batches, check_batch, check_source, size_of
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network

# The layers whose units can be recorded: where, and the channel of the dependency graph of each unit.

_MEANS_OVER_POSITIONS = FACTS["output_moments"]
# Units are recorded behind these layers, as the layers that read the units see them.
_UNITWISE = (
    *(keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU),
    *(keras.layers.ELU, keras.layers.PReLU),
)


@dataclass(frozen=True, eq=False)
class _LayerUnits:
    """The units of one layer.

    Attributes:
        layer: The name of the layer in the flat copy of its model.
        bundles: The bundle of each unit.
        group: The group that these bundles belong to.
        request: The request by which the units are recorded while the model runs.
    """

    layer: str
    bundles: np.ndarray
    group: Group
    request: FactRequest


class UnitsOfModel:
    """The units of a model that may be removed, by layer; and for every other layer the reason why it has none.

    Args:
        copy: The flat copy of the model.
    """

    def __init__(self, copy: FlatCopy) -> None:
        self.copy, self.network = copy, copy.network
        self.layers: dict[str, _LayerUnits] = {}
        self.reasons: dict[str, str] = {}
        self._graph, self._held = trace(copy.model), holders(copy.plain)
        for weight, (_, _, kernel) in kernels_by_weight(self.network, copy.model).items():
            if weight.makes and weight.layer not in self.layers:
                reason = self._add(weight, kernel)
                if reason:
                    self.reasons.setdefault(weight.layer, reason)

    def _add(self, weight: ChanneledWeight, kernel: Kernel) -> str | None:
        """Add the units that a kernel makes, or say why it has none."""
        if len(weight.makes) > 1 or len(output_axes(kernel.axes)) > 1:
            return "its units lie along several axes"
        bundles = weight.bundles_along[weight.makes[0]]
        group = next(group for group in self.network.groups if np.isin(bundles, group.bundles).any())
        reason = "it makes heads of attention" if group.kind == "heads" else group.stuck
        if reason:
            return reason
        hooked, holder = self._held[id(kernel.variable)]
        subject = Subject(weight.path, kernel, Magnitude(), lambda: as_numpy(kernel.variable))
        request = FactRequest(subject, _MEANS_OVER_POSITIONS, _last_of(hooked, self._graph), holder)
        self.layers[weight.layer] = _LayerUnits(weight.layer, bundles, group, request)
        return None

    def chosen(self, layers: str | Sequence[str] | None) -> list[_LayerUnits]:
        """Return the units of some layers; None takes all.

        Raises:
            TypeError: If `layers` is neither None nor names.
            ValueError: If a layer does not exist or has no units that may be removed, or no layer has any.
        """
        names = list(self.layers) if layers is None else [layers] if isinstance(layers, str) else layers
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise ArgumentTypeError("layers", "`layers` to be None or names of layers", repr(layers))
        available = ", ".join(self.layers) or "none"
        if not names:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items()) or "there is no kernel"
            raise ValueError(f"Expected layers with units that may be removed. Received: none, as {reasons}.")
        for name in names:
            if name not in self.layers:
                why = self.reasons.get(name, "no kernel of that name makes units")
                raise ArgumentError(
                    "layers", f"`layers` with units that may be removed: {available}", found=f"{name!r}; {why}"
                )
        return [self.layers[name] for name in dict.fromkeys(names)]


def _last_of(layer: keras.layers.Layer, graph: Graph) -> keras.layers.Layer:
    """Return the last of the layers behind a layer that treat each of its units by itself."""
    if isinstance(layer, LOOPS):
        return layer
    calls = [call for call in graph.calls if call.layer is layer]
    for call in calls if len(calls) == 1 else ():
        *_, layer = (each.layer for each in _chain(call, graph))
    return layer


def _chain(call: Call, graph: Graph) -> Iterator[Call]:
    """Yield a call and those behind it, as long as each takes what the one before returns, and nothing else does."""
    calls: dict[int, int] = {}
    for each in graph.calls:
        calls[id(each.layer)] = calls.get(id(each.layer), 0) + 1
    current: Any = call
    while current is not None:
        yield current
        readers = graph.consumers(current)
        is_last = graph.is_output(current) or len(readers) != 1
        behind = None if is_last else readers[0]
        fits = behind is not None and isinstance(behind.layer, _UNITWISE) and calls[id(behind.layer)] == 1
        current = behind if fits else None


def makers(network: Network, group: Group) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the layers whose kernels make channels of a group, each with the bundle of each of its channels."""
    seen: set[str] = set()
    for weight in network.weights_of(group):
        for axis in weight.making(group.bundles):
            if weight.layer not in seen:
                seen.add(weight.layer)
                yield weight.layer, weight.bundles_along[axis]


# Run a model on samples: record the activations of its units, and where rules hold on them.


def _unit_activations(
    model: keras.Model, units: Sequence[_LayerUnits], *, samples: Any, batch_size: int
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the activations of layers in inference, (samples, units) in float32; a channel counts with its mean.

    Args:
        model: The model that holds the layers.
        units: The layers.
        samples: Inputs in the forms that `batches` accepts; labels are ignored.
        batch_size: Samples in a batch of arrays.

    Returns:
        The activations by layer, and for each layer without them the reason.

    Raises:
        TypeError: If `samples` is not a source of batches.
        ValueError: If `samples` are empty, do not fit the model or hold NaN, or activations are not finite.
    """
    check_source(samples, argument="samples")
    recording = RecordingModel(model, [each.request for each in units])
    parts: dict[str, list[np.ndarray]] = {each.layer: [] for each in units}
    reasons: dict[str, str] = {}
    for batch in batches(samples, rows=batch_size, argument="samples"):
        check_batch(batch, model, argument="samples")
        recorded, size = recording.predict_on_batch(batch.x), size_of(batch)
        for each in units:
            calls = recorded.get(each.request.key, [])
            if len(calls) == 1 and len(calls[0]) == size:
                parts[each.layer].append(calls[0])
            elif calls:
                reasons[each.layer] = "it is called several times" if len(calls) > 1 else "it mixes samples"
    reasons |= {
        each.layer: recording.unknown[each.request.key].reason
        for each in units
        if each.request.key in recording.unknown
    }
    reasons = {each.layer: "it is not called" for each in units if not parts[each.layer]} | reasons
    return {name: _joined(name, part) for name, part in parts.items() if name not in reasons}, reasons


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected finite activations of {name!r}. Received: NaN or infinity. Training has diverged: lower the "
            f"learning rate, or load an earlier checkpoint."
        )
    return values


def observe(
    model: keras.Model,
    samples: Any,
    *,
    concepts: Mapping[str, Any],
    layers: Mapping[str, int],
    rules: Sequence[ConceptRule],
    batch_size: int,
) -> Part:
    """Return where rules hold on other samples than those that they were mined from.

    Args:
        model: The model that the rules were mined from, or one with the same layers.
        samples: Inputs; labels are ignored.
        concepts: 0 or 1 for each sample, for each concept of the rules.
        layers: The layers of the rules, with the number of their units.
        rules: The rules.
        batch_size: Samples in a batch of arrays.

    Raises:
        ValueError: If a concept is missing, or a layer of the rules is not in the model.
    """
    units = check_rule_layers(UnitsOfModel(flat_copy(Anatomy.of(model))), layers)
    activations, reasons = _unit_activations(
        units.copy.plain, units.chosen([*layers]), samples=samples, batch_size=batch_size
    )
    if reasons:
        raise ValueError(f"Expected the layers of the rules in {model.name!r}. Received: {reasons}.")
    size = len(next(iter(activations.values())))
    labels = with_negations(check_concepts(concepts, count=size))
    missing = [name for name in dict.fromkeys(rule.concept for rule in rules) if name not in labels]
    if missing:
        raise ValueError(f"Expected 0 or 1 for all concepts of the rules. Received: none for {missing}.")
    part = Part(labels, np.ones(size))
    for layer, values in activations.items():
        part.add((rule for rule in rules if rule.layer == layer), values)
    return part


def check_rule_layers(units: UnitsOfModel, layers: Mapping[str, int]) -> UnitsOfModel:
    """Return the units of a model, if the layers of rules are among them.

    Args:
        units: The units.
        layers: The layers, with the number of their units.

    Raises:
        ValueError: If they are not, or have another number of units.
    """
    sizes = {name: layer.bundles.size for name, layer in units.layers.items()}
    differing = [name for name, count in layers.items() if sizes.get(name) != count]
    if differing:
        raise ValueError(
            f"Expected the model that the rules were mined from. Received: {units.copy.plain.name!r}, where these "
            f"layers differ: {', '.join(differing)}. Mine rules of this model: "
            f"tfprune.concepts.concept_rules(model, ...)."
        )
    return units


# Mine rules that recognize concepts in the activations of a model's layers.


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
    activations, reasons = _unit_activations(units.copy.plain, unit_layers, samples=samples, batch_size=batch_size)
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


# The requirements of a product, and the concepts that each needs.

Require = Sequence[str] | Mapping[str, Sequence[str]]


def requirements(require: Any, *, concepts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the concepts of each requirement; each concept of a list is a requirement.

    Args:
        require: A list of concepts, or a dict from requirements to lists of concepts.
        concepts: The concepts that rules were mined for.

    Raises:
        TypeError: If it is neither a list of names nor a dict of such lists.
        ValueError: If it is empty, or names a concept that has no rules.
    """
    named = require if isinstance(require, Mapping) else {name: [name] for name in _names(require)}
    required = {name: tuple(dict.fromkeys(_names(needed))) for name, needed in named.items()}
    listed = ", ".join(map(repr, concepts))
    for name, needed in required.items():
        unknown = [concept for concept in needed if concept not in concepts]
        if unknown or not needed:
            received = ", ".join(map(repr, unknown)) or f"no concept for {name!r}"
            raise ArgumentError(
                "require", f"`require` with concepts that rules were mined for: {listed}", found=received
            )
    if not required:
        raise ArgumentError("require", f"`require` with at least one concept of {listed}", found="none")
    return required


def _names(value: Any) -> Sequence[str]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(name, str) for name in value):
        raise ArgumentTypeError(
            "require", "`require` to be a list of concepts, or a dict from requirements to such lists", repr(value)
        )
    return value
