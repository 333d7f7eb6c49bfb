"""From each unit that stays back to what keeps it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfprune.base.axes import output_axes
from tfprune.keras_models.channels.choose_groups import kernels_by_weight
from tfprune.masking.wrapping.choose_channels import place_of
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.methods.concepts.concept_trace import KeptUnit, TracedLayer
from tfprune.methods.concepts.keep_units import KeptUnits
from tfprune.methods.concepts.layer_units import makers


def traced_layers(kept: KeptUnits) -> Iterator[TracedLayer]:
    """Yield each layer that makes units, and how many of them stay."""
    for group in kept.network.groups:
        for layer, bundles in makers(kept.network, group):
            stay = int(np.count_nonzero(kept.keep[bundles]))
            yield TracedLayer(layer, group.name, bundles.size, stay, kept.whole(group))


def traced_units(kept: KeptUnits) -> Iterator[KeptUnit]:
    """Yield each unit that stays in a layer that may lose some."""
    for group in kept.shrunk:
        for layer, bundles in makers(kept.network, group):
            for unit, bundle in enumerate(bundles.tolist()):
                if kept.keep[bundle]:
                    yield _traced(kept, layer, unit, bundle)


def _traced(kept: KeptUnits, layer: str, unit: int, bundle: int) -> KeptUnit:
    rules = kept.needed.get(bundle, [])
    own = [index for index in rules if kept.rules[index].layer == layer and unit in kept.rules[index].units]
    if own:
        return KeptUnit(layer, unit, tuple(own))
    if rules:
        return KeptUnit(layer, unit, tuple(rules), tuple(kept.asking(bundle)))
    reason = kept.network.reasons.get(bundle, "so many units stay at least")
    return KeptUnit(layer, unit, (), (), reason)


def scores_of(copy: FlatCopy, kept: KeptUnits) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield for each kernel whose units may go its path in the model, and 1 or 0 for each of its outputs."""
    known = kernels_by_weight(kept.network, copy.model)
    bundles = np.concatenate([group.bundles for group in kept.shrunk] or [np.empty(0, int)])
    for weight, variable in kept.network.variables(copy.model):
        place = place_of(copy.sources[id(variable)])
        if weight in known and place is not None and output_axes(known[weight][2].axes) == weight.making(bundles):
            (axis,) = weight.making(bundles)
            yield place.path, tuple(kept.keep[weight.bundles_along[axis]].astype(float).tolist())
