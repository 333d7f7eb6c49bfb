"""Split a sparsity of a transformer into numbers of hidden units and heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfprune.base.spec import check_sparsity
from tfprune.compact.shrinking.transformer_budget import attention_layers
from tfprune.keras_models.channels.network import Group, Network

_PARTS = ("units", "heads")


@dataclass(frozen=True)
class SparsitySplit:
    """The numbers of hidden units and heads.

    Attributes:
        units: The number of hidden units that each group keeps, by its name.
        heads: The number of heads that all layers together lose in each round of choosing them.
    """

    units: dict[str, int]
    heads: tuple[int, ...]


def check_sparsities(sparsity: float | Mapping[str, float]) -> float | dict[str, float]:
    """Return a checked sparsity, or one for each part.

    Raises:
        TypeError: If it is neither a number nor a dict of numbers.
        ValueError: If a number is outside [0, 1), or a part is not one of "units" and "heads".
    """
    if not isinstance(sparsity, Mapping):
        return check_sparsity(sparsity, "sparsity")
    unknown = sorted(map(str, sparsity.keys() - set(_PARTS)))
    if unknown or not sparsity:
        raise ValueError(
            f"Expected sparsities of 'units', 'heads' or both. Received: sparsity={dict(sparsity)!r}. Pass, for "
            f"example, {{'units': 0.5, 'heads': 0.25}}."
        )
    return {part: check_sparsity(sparsity.get(part, 0.0), f"sparsity[{part!r}]") for part in _PARTS}


def split_sparsity(
    sparsity: float | Mapping[str, float], network: Network, *, units: list[Group], heads: list[Group]
) -> SparsitySplit:
    """Split a sparsity, by the rule of the paper if it is one number.

    Each layer of attention keeps a head; if this keeps too many heads, more hidden units are removed.

    Raises:
        ValueError: If a network would lose all its units, or a layer of attention all its heads.
    """
    count = sum(group.bundles.size for group in heads)
    most = count - len(heads)
    if isinstance(sparsity, Mapping):
        lost_heads = round(sparsity["heads"] * count)
        if lost_heads > most:
            raise ValueError(
                f"Expected a sparsity that leaves a head in each layer of attention. Received: "
                f"sparsity={dict(sparsity)!r}, where {lost_heads} of {count} heads go and {most} may. Lower it."
            )
        lost_units = sparsity["units"]
    else:
        lost_units, lost_heads = _by_the_rule(sparsity, network, units=units, heads=heads, most=most)
    kept = {group.name: round(group.bundles.size * (1 - lost_units)) for group in units}
    empty = [name for name, number in kept.items() if number < 1]
    if empty:
        raise ValueError(
            f"Expected a sparsity that leaves a unit in each feed-forward network. Received: sparsity={sparsity!r}, "
            f"with none left in {', '.join(empty[:3])}; attention can lose {most} of {count} heads. Lower it."
        )
    heads_of_a_layer = max(round(count / max(len(heads), 1)), 1)
    rounds = (*[heads_of_a_layer] * (lost_heads // heads_of_a_layer), lost_heads % heads_of_a_layer)
    return SparsitySplit(kept, tuple(number for number in rounds if number))


def _by_the_rule(
    sparsity: float, network: Network, *, units: list[Group], heads: list[Group], most: int
) -> tuple[float, int]:
    """Return the fraction of the units and the number of the heads to remove."""
    forward = sum(_parameters(network, group) for group in units)
    attention = sum(_parameters(network, group) for group in heads)
    if not heads or not units:
        return sparsity * (forward + attention) / (forward or 1), 0
    count = sum(group.bundles.size for group in heads)
    layers = attention_layers(
        sparsity, blocks=len(heads), attention=attention / len(heads), feed_forward=forward / len(heads)
    )
    lost_heads = min(round(layers * count / len(heads)), most)
    lost = attention * lost_heads / count
    return max(sparsity * (forward + attention) - lost, 0) / (forward or 1), lost_heads


def _parameters(network: Network, group: Group) -> int:
    """Return the number of entries of all weights that would go with the channels of a group."""
    dense = network.all_kept()
    without = dense.copy()
    without[group.bundles] = False
    return network.parameters(dense) - network.parameters(without)
