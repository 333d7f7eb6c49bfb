"""Average the models of clients, each entry over the clients that own it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import check_number, resolve
from tfprune.methods.federated.arrays import Arrays, Masks, check_arrays, check_each, check_masks
from tfprune.methods.federated.averages import AVERAGES, Mean


def masked_average(
    updates: Sequence[Any],
    masks: Sequence[Any],
    *,
    client_weights: Sequence[float],
    server: Sequence[Any],
    average: str | Mean = "mean",
) -> Arrays:
    """Average the models of clients, each entry over the clients whose masks keep it.

    Without masks, an average would count zeros of clients that never had the entry. Statistics of BatchNormalization
    have masks as well, with the channels that a client owns (see `MaskedModel`).

    Args:
        updates: For each client, a list of arrays, as `get_weights` returns them.
        masks: For each client, a list of masks, or None for a client that has all entries. A mask is an array of
            booleans, or None for an array of which the client has all entries.
        client_weights: The weight of each client, such as its number of samples, at least 0. Pass 1 for each to weigh
            clients equally, as HeteroFL does.
        server: The arrays of the server. An entry that no client owns keeps this value.
        average: `"mean"` (the default), weighted by `client_weights`. Against malicious clients, `"median"` or a
            `TrimmedMean`, which weigh all clients with a weight above 0 equally.

    Returns:
        New arrays of the dtypes of the server's, computed in float64.

    Raises:
        TypeError: If an argument is not a list of the kind above, or `average` is not one of these averages.
        ValueError: If there are no clients, their weights sum to 0, shapes or numbers differ, or an entry that a
            client owns is NaN or infinite.

    Example:
        >>> first, second = [np.array([2.0, 4, 9])], [np.array([4.0, 8, 9])]
        >>> masks = [[np.array([1, 1, 0])], [np.array([1, 0, 0])]]
        >>> masked_average([first, second], masks, client_weights=[1, 3], server=[np.full(3, 7.0)])
        [array([3.5, 4. , 7. ])]

    Reference:
        McMahan et al., 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        arXiv:1602.05629; Li et al., 2020, "LotteryFL", arXiv:2008.03371.
    """
    average = resolve(average, AVERAGES, Mean, "average")
    old = check_arrays(server, "server")
    clients = check_each(updates, "updates")
    client_masks = check_each(masks, "masks", count=len(clients))
    shares = _shares(check_each(client_weights, "client_weights", count=len(clients)))
    models = [check_arrays(client, f"updates[{index}]", like=old) for index, client in enumerate(clients)]
    owned = [check_masks(client, f"masks[{index}]", like=old) for index, client in enumerate(client_masks)]
    for number, (model, keep) in enumerate(zip(models, owned, strict=True)):
        check_finite(model, keep, argument=f"updates[{number}]")
    columns = zip(old, zip(*models, strict=True), zip(*owned, strict=True), strict=True)
    return [_average(arrays, keep, shares, old=array, average=average) for array, arrays, keep in columns]


def clip_updates(
    updates: Sequence[Any], masks: Sequence[Any], *, server: Sequence[Any], clip_norm: float
) -> list[Arrays]:
    """Limit the distance of each client's model from the server's.

    Use it before `masked_average`, so that no client moves the average by more than its share of `clip_norm`.

    Args:
        updates: For each client, a list of arrays.
        masks: For each client, a list of masks, or None.
        server: The arrays that the clients started from.
        clip_norm: The largest Euclidean norm of a client's change, over all entries that it owns, above 0.

    Returns:
        New arrays for each client. The change of a client beyond the norm is scaled down to it.

    Raises:
        TypeError: If an argument is not a list of the kind above.
        ValueError: If numbers or shapes differ, or `clip_norm` is out of range.

    Example:
        >>> clip_updates([[np.array([3.0, 4.0])]], [None], server=[np.zeros(2)], clip_norm=1.0)
        [[array([0.6, 0.8])]]

    Reference:
        Sun et al., 2019, "Can You Really Backdoor Federated Learning?", arXiv:1911.07963.
    """
    old, limit = check_arrays(server, "server"), check_number(clip_norm, "clip_norm", above=0)
    clients = check_each(updates, "updates")
    client_masks = check_each(masks, "masks", count=len(clients))
    return [
        _clipped(
            check_arrays(client, f"updates[{index}]", like=old),
            check_masks(client_masks[index], f"masks[{index}]", like=old),
            old=old,
            norm=limit,
        )
        for index, client in enumerate(clients)
    ]


def _clipped(arrays: Arrays, masks: Masks, *, old: Arrays, norm: float) -> Arrays:
    changes = [
        np.where(True if mask is None else mask, array.astype(np.float64) - start, 0.0)
        for array, mask, start in zip(arrays, masks, old, strict=True)
    ]
    length = np.sqrt(sum(float(np.sum(np.square(change))) for change in changes))
    if length <= norm:
        return [array.copy() for array in arrays]
    return [
        np.where(True if mask is None else mask, start + change * (norm / length), array).astype(array.dtype)
        for array, change, mask, start in zip(arrays, changes, masks, old, strict=True)
    ]


def check_finite(arrays: Arrays, masks: Masks, *, argument: str) -> None:
    """Refuse NaN and infinity among the entries that masks keep.

    Raises:
        ValueError: If there are any.
    """
    for index, (array, mask) in enumerate(zip(arrays, masks, strict=True)):
        wrong = ~np.isfinite(array) if mask is None else ~np.isfinite(array) & mask
        if wrong.any():
            raise ValueError(
                f"Expected `{argument}` to hold finite numbers. Received: {np.count_nonzero(wrong)} of NaN or "
                f"infinity at index {index}. Leave this client out."
            )


def _shares(weights: list[Any]) -> list[float]:
    shares = [check_number(weight, f"client_weights[{index}]", least=0) for index, weight in enumerate(weights)]
    if not sum(shares):
        raise ValueError(
            f"Expected `client_weights` with a sum above 0. Received: {weights!r}. Weigh clients by their samples, "
            f"for example."
        )
    return shares


def _average(
    arrays: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    shares: list[float],
    *,
    old: np.ndarray,
    average: Mean,
) -> np.ndarray:
    owned = [np.ones(old.shape, bool) if mask is None else mask for mask in masks]
    values = np.stack([np.where(mask, array, 0) for array, mask in zip(arrays, owned, strict=True)]).astype(
        np.float64
    )
    mean, is_known = average(values, np.stack(owned), np.array(shares))
    if not np.issubdtype(old.dtype, np.floating):
        mean = np.rint(mean)
    return np.where(is_known, mean.astype(old.dtype), old)
