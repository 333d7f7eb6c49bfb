"""How many hidden units and heads a sparsity takes from each part of a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfprune.base.spec import check_sparsity
from tfprune.compact.shrinking.transformer_budget import attention_layers
from tfprune.keras_models.channels.network import Group, Network

_PARTS = ("units", "heads")


@dataclass(frozen=True)
class Split:
    """What is removed.

    Attributes:
        units: How many hidden units each group keeps, by its name.
        heads: How many heads go from all layers together, for each round of choosing them.
    """

    units: dict[str, int]
    heads: tuple[int, ...]


def checked(sparsity: float | Mapping[str, float]) -> float | dict[str, float]:
    """Return a sparsity, or one for each part.

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


def split(
    sparsity: float | Mapping[str, float], network: Network, *, units: list[Group], heads: list[Group]
) -> Split:
    """Split a sparsity, by the rule of the paper where it is one number.

    A head stays in each layer of attention; what this holds back comes from the hidden units.

    Raises:
        ValueError: If a network would lose all its units, or a layer of attention all its heads.
    """
    count = sum(group.bundles.size for group in heads)
    most = count - len(heads)
    if isinstance(sparsity, Mapping):
        gone = round(sparsity["heads"] * count)
        if gone > most:
            raise ValueError(
                f"Expected a sparsity that leaves a head in each layer of attention. Received: "
                f"sparsity={dict(sparsity)!r}, where {gone} of {count} heads go and {most} may. Lower it."
            )
        part = sparsity["units"]
    else:
        part, gone = _by_the_rule(sparsity, network, units=units, heads=heads, most=most)
    kept = {group.name: round(group.bundles.size * (1 - part)) for group in units}
    empty = [name for name, left in kept.items() if left < 1]
    if empty:
        raise ValueError(
            f"Expected a sparsity that leaves a unit in each feed-forward network. Received: sparsity={sparsity!r}, "
            f"with none left in {', '.join(empty[:3])}; attention can lose {most} of {count} heads. Lower it."
        )
    step = max(round(count / max(len(heads), 1)), 1)  # as many as one layer of attention has
    rounds = (*[step] * (gone // step), gone % step)
    return Split(kept, tuple(number for number in rounds if number))


def _by_the_rule(
    sparsity: float, network: Network, *, units: list[Group], heads: list[Group], most: int
) -> tuple[float, int]:
    """Return the part of the units and the number of heads that go."""
    forward = sum(_parameters(network, group) for group in units)
    attention = sum(_parameters(network, group) for group in heads)
    gone = 0
    if heads and units:
        count = sum(group.bundles.size for group in heads)
        layers = attention_layers(
            sparsity, blocks=len(heads), attention=attention / len(heads), feed_forward=forward / len(heads)
        )
        gone = min(round(layers * count / len(heads)), most)
        lost = attention * gone / count
    else:
        lost = 0.0
    return max(sparsity * (forward + attention) - lost, 0) / (forward or 1), gone


def _parameters(network: Network, group: Group) -> int:
    """Return the entries of all weights that a group's channels would take along."""
    every = network.all_kept()
    without = every.copy()
    without[group.bundles] = False
    return network.parameters(every) - network.parameters(without)
