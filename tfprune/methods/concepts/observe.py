"""Run a model on samples: record the activations of its units, and where rules hold on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.evidence.activations import RecordingModel
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import batches, check_batch, check_source, size_of
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.concepts.layer_units import LayerUnits, UnitsOfModel
from tfprune.methods.rule_mining.check_concepts import check_concepts, with_negations
from tfprune.methods.rule_mining.parts import Part
from tfprune.methods.rule_mining.rule import ConceptRule


def unit_activations(
    model: keras.Model, units: Sequence[LayerUnits], *, samples: Any, batch_size: int
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
    activations, reasons = unit_activations(
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
