"""The rows of a concept trace, and the scores of its criterion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfprune.base.axes import output_axes
from tfprune.keras_models.channels.groups import kernels_by_weight
from tfprune.masking.wrapping.choose_channels import location_of
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.methods.concepts.keep_units import KeptUnits
from tfprune.methods.concepts.layer_units import makers
from tfprune.methods.concepts.trace_contents import KeptUnit, TracedLayer


def traced_layers(decision: KeptUnits) -> Iterator[TracedLayer]:
    """Yield a row for each layer that computes units."""
    for group in decision.network.groups:
        for layer, bundles in makers(decision.network, group):
            count = int(np.count_nonzero(decision.keep[bundles]))
            yield TracedLayer(layer, group.name, bundles.size, count, decision.whole(group))


def traced_units(decision: KeptUnits) -> Iterator[KeptUnit]:
    """Yield a row for each kept unit of a layer that may lose some."""
    for group in decision.shrunk:
        for layer, bundles in makers(decision.network, group):
            for unit, bundle in enumerate(bundles.tolist()):
                if decision.keep[bundle]:
                    yield _traced(decision, layer, unit, bundle)


def _traced(decision: KeptUnits, layer: str, unit: int, bundle: int) -> KeptUnit:
    rules = decision.needed.get(bundle, [])
    own = [index for index in rules if decision.rules[index].layer == layer and unit in decision.rules[index].units]
    if own:
        return KeptUnit(layer, unit, tuple(own))
    if rules:
        return KeptUnit(layer, unit, tuple(rules), tuple(decision.read_units(bundle)))
    reason = decision.network.reasons.get(bundle, "so many units stay at least")
    return KeptUnit(layer, unit, (), (), reason)


def scores_of(copy: FlatCopy, decision: KeptUnits) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the path of each kernel whose units may be removed, and 1 or 0 for each of its outputs."""
    kernels = kernels_by_weight(decision.network, copy.model)
    bundles = np.concatenate([group.bundles for group in decision.shrunk] or [np.empty(0, int)])
    for weight, variable in decision.network.variables(copy.model):
        place = location_of(copy.sources[id(variable)])
        if weight in kernels and place is not None and output_axes(kernels[weight][2].axes) == weight.making(bundles):
            (axis,) = weight.making(bundles)
            yield place.path, tuple(decision.keep[weight.bundles_along[axis]].astype(float).tolist())
