"""Averages of the models of clients, each entry over the clients that own it, and the agreement of masks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec, check_count, check_number, resolve

# Averages over the owners of an entry: the mean, and means that a few owners cannot move far.


@dataclass(frozen=True)
class Mean(Spec):
    """The mean, weighted by the clients: one client of a large weight decides alone.

    Example:
        >>> Mean()(np.array([[2.0], [4.0]]), np.array([[True], [True]]), np.array([1.0, 3.0]))[0]
        array([3.5])
    """

    _EXAMPLES = "TrimmedMean(0.2)"

    def __call__(self, values: np.ndarray, owned: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average values, (clients, ...), over those that are owned.

        Args:
            values: The values of each client, in float64.
            owned: Which of them count, of the same shape.
            shares: The weight of each client.

        Returns:
            The averages, and where there are any.
        """
        parts = np.where(owned, shares.reshape(-1, *[1] * (values.ndim - 1)), 0.0)
        weight, total = parts.sum(axis=0), (parts * np.where(owned, values, 0.0)).sum(axis=0)
        return np.divide(total, weight, out=np.zeros(weight.shape), where=weight > 0), weight > 0


@dataclass(frozen=True)
class TrimmedMean(Mean):
    """Average each entry without its largest and smallest values, as a defense against malicious clients.

    All owners of an entry count equally, whatever weights they claim; those of weight 0 do not count. It tolerates as
    many malicious clients among the owners of an entry as it drops values at either end.

    Args:
        trim: The fraction of the owners to drop at either end, rounded up, in (0, 0.5]. Default 0.5, the median.
        min_owners: An entry with fewer owners keeps the value of the server, because with two owners nobody can tell
            which one is wrong. At least 1; default 3. With 1, an entry with one owner gets the value of this client.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> values, owned = np.array([[1.0], [2.0], [9e9]]), np.ones((3, 1), bool)
        >>> TrimmedMean(0.2)(values, owned, np.ones(3))[0]
        array([2.])

    Reference:
        Yin et al., 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        arXiv:1803.01498, definitions 1 and 2.
    """

    trim: float = 0.5
    min_owners: int = 3

    def __post_init__(self) -> None:
        self._hold(
            trim=check_number(self.trim, "trim", above=0, most=0.5, meaning="the fraction dropped at either end"),
            min_owners=check_count(self.min_owners, "min_owners", least=1),
        )

    def __call__(self, values: np.ndarray, owned: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        present = owned & (shares > 0).reshape(-1, *[1] * (values.ndim - 1))
        ordered = np.sort(np.where(present, values, math.inf), axis=0)
        count = present.sum(axis=0)
        dropped = np.minimum(np.ceil(self.trim * count).astype(int), np.maximum(count - 1, 0) // 2)
        rank = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
        is_used = (rank >= dropped) & (rank < count - dropped)
        total = np.where(is_used, ordered, 0.0).sum(axis=0)
        return total / np.maximum(count - 2 * dropped, 1), count >= self.min_owners


AVERAGES: dict[str, type[Mean]] = {"mean": Mean, "median": TrimmedMean}  # whose default is the median


MOST_EXAMPLES = 2**53  # no client has more, and sums of such weights stay finite


# Lists of arrays and of masks, as clients and server exchange them: checked, and counted.

Arrays = list[np.ndarray]
Masks = list[np.ndarray | None]  # None: all entries


def check_arrays(value: Any, argument: str, *, like: Sequence[np.ndarray] | None = None) -> Arrays:
    """Return the arrays of a model.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        like: Arrays whose number and shapes they must have; None takes any.

    Raises:
        TypeError: If they are not a list of numbers.
        ValueError: If their number or shapes are others.

    Example:
        >>> check_arrays([[1.0, 2.0]], "server")[0].shape
        (2,)
    """
    arrays = _each(value, argument, "arrays, as get_weights() returns them")
    for index, array in enumerate(arrays):
        if array is None or not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
            raise ArgumentTypeError(
                argument, f"`{argument}` to hold arrays of numbers", found=f"{array!r} at index {index}"
            )
    if like is not None:
        _check_shapes(arrays, argument, like)
    return arrays


def check_masks(value: Any, argument: str, *, like: Sequence[np.ndarray] | None = None) -> Masks:
    """Return masks as booleans; None stands for all entries of an array.

    Args:
        value: The value to check: None for masks that hide nothing, else a list.
        argument: The name of the argument, for the message.
        like: The arrays that the masks are for; None takes any shapes.

    Raises:
        TypeError: If they are not a list.
        ValueError: If a mask holds something other than 0 and 1, or their number or shapes are others.

    Example:
        >>> check_masks([[1, 0], None], "masks")
        [array([ True, False]), None]
    """
    if value is None and like is not None:
        return [None] * len(like)
    masks = _each(value, argument, "masks, None for an array of which all entries are kept")
    for index, mask in enumerate(masks):
        if mask is not None and mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise ArgumentError(
                argument,
                f"`{argument}` to hold zeros and ones",
                found=f"{mask.dtype} at index {index} with other values",
                advice="Pass weight != 0 for the mask of a weight.",
            )
    if like is not None:
        _check_shapes(masks, argument, like)
    return [None if mask is None else mask.astype(bool) for mask in masks]


def check_each(parts: Any, argument: str, *, count: int | None = None) -> list[Any]:
    """Return a list with an entry for each client.

    Args:
        parts: The value to check.
        argument: The name of the argument, for the message.
        count: The number of clients; None takes any number above 0.

    Raises:
        TypeError: If it is not iterable.
        ValueError: If there are not `count`, or none.
    """
    if isinstance(parts, (str, bytes)) or not isinstance(parts, Iterable):
        raise ArgumentTypeError(
            argument, f"`{argument}` to be a list, one entry for each", found=type(parts).__name__
        )
    entries = list(parts)
    if len(entries) != count if count is not None else not entries:
        expected = f"{count} entries" if count is not None else "an entry for each client"
        raise ArgumentError(argument, f"`{argument}` to hold {expected}", found=str(len(entries)))
    return entries


def kept_entries(array: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the entries of an array under its mask, in row-major order."""
    return array.ravel() if mask is None else array[mask]


def count_unmasked(arrays: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> int:
    """Count the entries that masks keep."""
    return sum(
        array.size if mask is None else int(np.count_nonzero(mask)) for array, mask in zip(arrays, masks, strict=True)
    )


def masked(arrays: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> Arrays:
    """Return copies of arrays, with zeros where their masks are 0."""
    return [
        array.copy() if mask is None else np.where(mask, array, array.dtype.type(0))
        for array, mask in zip(arrays, masks, strict=True)
    ]


def _each(value: Any, argument: str, content: str) -> list[Any]:
    if isinstance(value, (str, bytes, dict, np.ndarray)) or not isinstance(value, Iterable):
        raise ArgumentTypeError(
            argument,
            f"`{argument}` to be a list of {content}",
            found=type(value).__name__,
            advice="Pass one entry for each weight of the model.",
        )
    return [None if entry is None else np.asarray(entry) for entry in value]


def _check_shapes(values: list[Any], argument: str, like: Sequence[np.ndarray]) -> None:
    if len(values) != len(like):
        raise ArgumentError(
            argument,
            f"`{argument}` to hold {len(like)} entries, one for each weight of the model",
            found=str(len(values)),
        )
    for index, (value, other) in enumerate(zip(values, like, strict=True)):
        if value is not None and value.shape != other.shape:
            raise ArgumentError(
                argument,
                f"`{argument}` to have the shape {other.shape} at index {index}",
                found=str(value.shape),
                advice="Clients and server need the same model.",
            )


# Average the models of clients, each entry over the clients that own it.


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
        client_weights: The weight of each client, such as its number of samples, from 0 to 2**53, where floats no
            longer count by ones. Pass 1 for each to weigh clients equally, as HeteroFL does.
        server: The arrays of the server. An entry that no client owns keeps this value.
        average: `"mean"` (the default), weighted by `client_weights`. Against malicious clients, `"median"` or a
            `TrimmedMean`, which weigh all clients with a weight above 0 equally.

    Returns:
        New arrays of the dtypes of the server's, computed in float64.

    Raises:
        TypeError: If an argument is not a list of the kind above, or `average` is not one of these averages.
        ValueError: If there are no clients, their weights sum to 0, shapes or numbers differ, or an entry that a
            client owns is NaN or infinite, or its average is.

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
    shares = check_shares(check_each(client_weights, "client_weights", count=len(clients)))
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
            raise ArgumentError(
                argument,
                f"`{argument}` to hold finite numbers",
                found=f"{np.count_nonzero(wrong)} of NaN or infinity at index {index}",
                advice="Leave this client out.",
            )


def check_shares(weights: Sequence[Any]) -> list[float]:
    """Return the weights of clients.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is negative, NaN or above `MOST_EXAMPLES`, or they sum to 0.
    """
    shares = [
        check_number(weight, f"client_weights[{index}]", least=0, most=MOST_EXAMPLES)
        for index, weight in enumerate(weights)
    ]
    if not sum(shares):
        raise ArgumentError(
            "client_weights",
            "`client_weights` with a sum above 0",
            found=repr(weights),
            advice="Weigh clients by their samples, for example.",
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
    if not np.isfinite(mean[is_known]).all():
        raise ArgumentError(
            "updates",
            "`updates` whose average is finite",
            found="numbers so large that a sum of them is not",
            advice="Limit the changes of clients, as `clip_updates` does, or leave out the client with the largest.",
        )
    if not np.issubdtype(old.dtype, np.floating):
        mean = np.rint(mean)
    return np.where(is_known, mean.astype(old.dtype), old)


# Agreement of the masks of clients, and their merge.


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
