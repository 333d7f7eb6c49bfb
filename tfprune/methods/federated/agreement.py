"""Agreement of the masks of clients, and their merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import check_count
from tfprune.methods.federated.arrays import Arrays, Masks, check_each, check_masks


def mask_iou(masks: Sequence[Any], others: Sequence[Any]) -> float:
    """Measure the agreement of two lists of masks: entries that both keep, divided by entries that either keeps.

    Compare clients with it: if their masks overlap little, few entries are averaged. Two random masks that keep a
    fraction p of the entries have p / (2 - p).

    Args:
        masks: The masks of a client; None for an array with all entries. Arrays without a mask in both lists do not
            count.
        others: The masks of another client.

    Returns:
        A number in [0, 1]; 1 if neither keeps anything.

    Raises:
        TypeError: If an argument is not a list of masks.
        ValueError: If shapes or numbers differ, or a mask holds something other than 0 and 1.

    Example:
        >>> mask_iou([np.array([1, 1, 0, 0])], [np.array([0, 1, 1, 0])])
        0.3333333333333333

    Reference:
        Babakniya et al., 2022, "Revisiting Sparsity Hunting in Federated Learning: Why does Sparsity Consensus
        Matter?" (FLASH), arXiv:2208.13092.
    """
    both = either = 0
    for mask, other in zip(*_broadcast([masks, others]), strict=True):
        both += int(np.count_nonzero(mask & other))
        either += int(np.count_nonzero(mask | other))
    return both / either if either else 1.0


def merge_masks(masks: Sequence[Any], *, votes: int) -> Masks:
    """Merge the masks of several clients: an entry is kept if enough clients keep it.

    Args:
        masks: The masks of each client.
        votes: The number of clients that have to keep an entry, at least 1. 1 gives the union, the number of clients
            the intersection.

    Returns:
        Masks; None where no client has a mask.

    Raises:
        TypeError: If `votes` is not an integer, or an entry is not a list of masks.
        ValueError: If there are no clients or fewer than `votes`, or shapes or numbers differ.

    Example:
        >>> merge_masks([[np.array([1, 1, 0])], [np.array([0, 1, 0])], [np.array([0, 1, 1])]], votes=2)
        [array([False,  True, False])]
    """
    clients = check_each(masks, "masks")
    needed = check_count(votes, "votes", least=1, most=len(clients))
    shared = [np.sum(entries, axis=0) >= needed for entries in zip(*_broadcast(clients), strict=True)]
    unmasked = [all(mask is None for mask in entries) for entries in zip(*clients, strict=True)]
    rest = iter(shared)
    return [None if is_whole else next(rest) for is_whole in unmasked]


def _broadcast(clients: Sequence[Any]) -> list[Arrays]:
    """Return the masks of each client in full shapes, without the arrays for which no client has a mask."""
    checked = [check_masks(client, f"masks[{index}]") for index, client in enumerate(clients)]
    if len({len(client) for client in checked}) > 1:
        numbers = ", ".join(str(len(client)) for client in checked)
        raise ValueError(f"Expected masks of one model. Received: lists of {numbers} masks.")
    columns = [
        [np.array(True) if mask is None else mask for mask in entries]
        for entries in zip(*checked, strict=True)
        if any(mask is not None for mask in entries)
    ]
    for index, entries in enumerate(columns):
        shapes = sorted({mask.shape for mask in entries if mask.shape})
        if len(shapes) > 1:
            raise ValueError(f"Expected masks of one shape. Received: {shapes} in masked array {index}.")
        columns[index] = [np.broadcast_to(mask, shapes[0] if shapes else ()) for mask in entries]
    return [[entries[client] for entries in columns] for client in range(len(checked))]
