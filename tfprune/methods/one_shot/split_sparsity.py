"""Split a sparsity of a transformer into numbers of hidden units and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfprune.base.spec import check_sparsity
from tfprune.compact.shrinking.transformer_budget import attention_layers
from tfprune.methods.one_shot.remove_in_order import Removal
from tfprune.solving.dependency_graph import Network

PARTS = ("units", "heads")
_SHOWN = 3  # names in a line of text


@dataclass(frozen=True)
class SparsitySplit:
    """The numbers of hidden units and heads.

    Attributes:
        units: The number of hidden units that each group keeps, by its name.
        heads: The number of heads that all layers together lose in each round of choosing them.
        asked: The number of parameters that the sparsity asks for.
        parameters: The number of parameters of all hidden units and heads.
    """

    units: dict[str, int]
    heads: tuple[int, ...]
    asked: int
    parameters: int


def check_sparsities(sparsity: float | Mapping[str, float]) -> float | dict[str, float]:
    """Return a checked sparsity, or one for each part.

    Raises:
        TypeError: If it is neither a number nor a dict of numbers.
        ValueError: If a number is outside [0, 1), or a part is not one of "units" and "heads".
    """
    if not isinstance(sparsity, Mapping):
        return check_sparsity(sparsity, "sparsity")
    unknown = sorted(map(str, sparsity.keys() - set(PARTS)))
    if unknown or not sparsity:
        raise ValueError(
            f"Expected sparsities of 'units', 'heads' or both. Received: sparsity={dict(sparsity)!r}. Pass, for "
            f"example, {{'units': 0.5, 'heads': 0.25}}."
        )
    return {part: check_sparsity(sparsity.get(part, 0.0), f"sparsity[{part!r}]") for part in PARTS}


def split_sparsity(
    sparsity: float | Mapping[str, float], network: Network, *, units: Sequence[Removal], heads: Sequence[Removal]
) -> SparsitySplit:
    """Split a sparsity, by the rule of the paper if it is one number.

    More layers of attention go than the rule says where the hidden units alone do not have as many parameters as are
    left to remove, and fewer where its layers have more than the sparsity asks for.
    """
    forward = sum(_parameters(network, removal) for removal in units)
    attention = sum(_parameters(network, removal) for removal in heads)
    count = sum(removal.group.bundles.size for removal in heads)
    most = count - sum(removal.least for removal in heads)
    if isinstance(sparsity, Mapping):
        lost_units, lost_heads = sparsity["units"], round(sparsity["heads"] * count)
        asked = sparsity["units"] * forward + sparsity["heads"] * attention
    else:
        asked = sparsity * (forward + attention)
        layers = _layers_lost(sparsity, asked, forward=forward, attention=attention, count=len(heads))
        lost_heads = min(round(layers * count / max(len(heads), 1)), most)
        lost_units = (asked - attention * lost_heads / max(count, 1)) / (forward or 1)
    kept = {}
    for removal in units:
        size = removal.group.bundles.size
        kept[removal.group.name] = min(max(round(size * (1 - lost_units)), removal.least), size)
    heads_of_a_layer = max(round(count / max(len(heads), 1)), 1)
    lost_heads = min(lost_heads, most)
    rounds = (*[heads_of_a_layer] * (lost_heads // heads_of_a_layer), lost_heads % heads_of_a_layer)
    return SparsitySplit(kept, tuple(number for number in rounds if number), round(asked), forward + attention)


def _layers_lost(sparsity: float, asked: float, *, forward: int, attention: int, count: int) -> int:
    """Return how many layers of attention are removed: by the rule of the paper, as near as the others allow."""
    if not count or not forward:
        return 0
    layers = attention_layers(sparsity, block_count=count, attention=attention / count, feed_forward=forward / count)
    least, most = (asked - forward) * count / attention, asked * count / attention
    return int(np.clip(layers, np.ceil(least), np.floor(most)))


def _parameters(network: Network, removal: Removal) -> int:
    """Return the number of entries of all weights that go with the channels of a group, but for the last of them."""
    without = network.all_kept()
    without[removal.group.bundles] = False
    if not removal.least:
        return network.parameters(network.all_kept()) - network.parameters(without)
    without[removal.group.bundles[0]] = True
    size = removal.group.bundles.size
    return (network.parameters(network.all_kept()) - network.parameters(without)) * size // (size - 1)


def limits(removals: Sequence[Removal]) -> tuple[str, ...]:
    """Return the reasons why the removed number of parameters differs from the requested one."""
    held = [removal.group.name for removal in removals if removal.least]
    coarse = [removal.group.name for removal in removals if len(removal.parts) == 1]
    lines = []
    if held:
        lines.append(f"one unit or head is kept in {_listed(held)}, as the model has no way around them")
    if coarse:
        lines.append(f"all heads of {_listed(coarse)} share one key and value, and are removed together")
    return (*lines, "units and heads are removed whole, and the same number of units from each feed-forward network")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
