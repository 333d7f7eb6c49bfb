"""Updates of clients: entries under a mask and masks, packed; their traffic; and a client's model without Keras."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tfprune.base.arrays import SPLITS, Split, compress, expand, join, split
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count
from tfprune.methods.federated.averages import (
    Arrays,
    Masks,
    check_arrays,
    check_masks,
    count_unmasked,
    kept_entries,
)
from tfprune.report import Report, table
from tfprune.solving.dependency_graph import StatisticsOwners

if TYPE_CHECKING:
    import keras

    from tfprune.export import Trainer

# Masks as bytes: one bit for each entry, compressed, with their shapes and a hash.

_MASKS_MAGIC, _MASKS_VERSION = b"TFM", 1
_MASKS_HEAD = struct.Struct("<3sB8sH")  # magic, version, hash of what follows, number of arrays
_PACKED = struct.Struct("<BI")  # coder, number of bytes
_NO_MASK = 255  # in place of the number of dimensions
_MOST_ENTRIES = 2**33  # a gigabyte of bits


def pack_masks(masks: Sequence[Any]) -> bytes:
    """Pack masks, bit for bit: the same masks always give the same bytes.

    Args:
        masks: Arrays of booleans of any size, None for an array of which all entries are kept.

    Returns:
        Bytes with a version, the shapes, and a hash.

    Raises:
        TypeError: If `masks` is not a list of masks.
        ValueError: If a mask holds something other than 0 and 1.

    Example:
        >>> packed = pack_masks([np.array([[1, 0, 1]]), None])
        >>> len(packed), unpack_masks(packed)
        (30, [array([[ True, False,  True]]), None])
    """
    checked = check_masks(masks, "masks")
    shapes = b"".join(
        bytes([_NO_MASK]) if mask is None else struct.pack(f"<B{mask.ndim}I", mask.ndim, *mask.shape)
        for mask in checked
    )
    coder, bits = compress(_bits(checked))
    body = shapes + _PACKED.pack(coder, len(bits)) + bits
    return _MASKS_HEAD.pack(_MASKS_MAGIC, _MASKS_VERSION, _hash(body), len(checked)) + body


def unpack_masks(source: bytes, *, like: Sequence[np.ndarray] | None = None) -> Masks:
    """Return the masks that `pack_masks` packed.

    Args:
        source: The packed masks.
        like: Arrays with the shapes that the masks must have, so that a malicious header cannot demand memory. None
            (the default) accepts any shapes.

    Raises:
        TypeError: If `source` is not bytes.
        ValueError: If they are not packed masks, of another version, damaged, cut short, or of other shapes.

    Example:
        >>> unpack_masks(b"weights")
        Traceback (most recent call last):
        ValueError: Expected packed masks. Received: 7 bytes that begin with b'wei'. Pack them by pack_masks.
    """
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise ArgumentTypeError("source", "`source` to be bytes", found=type(source).__name__)
    data = bytes(source)
    if len(data) < _MASKS_HEAD.size or not data.startswith(_MASKS_MAGIC):
        raise ValueError(
            f"Expected packed masks. Received: {len(data)} bytes that begin with {data[:3]!r}. Pack them by "
            f"pack_masks."
        )
    _, version, digest, count = _MASKS_HEAD.unpack_from(data)
    if version != _MASKS_VERSION:
        raise ValueError(
            f"Expected packed masks of version {_MASKS_VERSION}. Received: {version}. Install the same tfprune."
        )
    if _hash(data[_MASKS_HEAD.size :]) != digest:
        raise ValueError("Expected whole packed masks. Received: bytes that are damaged. Send them again.")
    try:
        return _masks(data[_MASKS_HEAD.size :], count, like=like)
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"Expected whole packed masks. Received: damaged ones ({error}).") from error


def layout_of(arrays: Sequence[np.ndarray], masks: Masks) -> bytes:
    """Return a hash of 8 bytes of shapes, dtypes and masks: which entries of which arrays are sent."""
    names = ";".join(
        f"{array.dtype.str[1:]}{array.shape}{'' if mask is None else '*'}"
        for array, mask in zip(arrays, masks, strict=True)
    )
    return _hash(names.encode() + b"\0" + _bits(masks))


def _bits(masks: Masks) -> bytes:
    flat = [mask.ravel() for mask in masks if mask is not None]
    return np.packbits(np.concatenate(flat)).tobytes() if flat else b""


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _masks(body: bytes, count: int, *, like: Sequence[np.ndarray] | None) -> Masks:
    shapes, at = _shapes_in(body, count)
    if like is not None and not _fit(shapes, like):
        raise ValueError("their shapes are those of another model")
    coder, length = _PACKED.unpack_from(body, at)
    sizes = [0 if shape is None else int(np.prod(shape, dtype=object)) for shape in shapes]
    total = sum(sizes)
    if total > _MOST_ENTRIES or at + _PACKED.size + length != len(body):
        raise ValueError("their sizes do not fit")
    bits = expand(body[at + _PACKED.size :], coder, limit=(total + 7) // 8)
    if len(bits) != (total + 7) // 8:
        raise ValueError("too few bits")
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=total).astype(bool)
    parts = np.split(flat, np.cumsum(sizes))  # and an empty one after the last
    return [None if shape is None else part.reshape(shape) for part, shape in zip(parts, shapes, strict=False)]


def _shapes_in(body: bytes, count: int) -> tuple[list[tuple[int, ...] | None], int]:
    """Return the shapes at the head of packed masks, None for an array without a mask, and where they end."""
    at, shapes = 0, []
    for _ in range(count):
        rank = body[at]
        shapes.append(None if rank == _NO_MASK else struct.unpack_from(f"<{rank}I", body, at + 1))
        at += 1 + (0 if rank == _NO_MASK else 4 * rank)
    return shapes, at


def _fit(shapes: Sequence[tuple[int, ...] | None], like: Sequence[np.ndarray]) -> bool:
    return len(shapes) == len(like) and all(
        shape is None or shape == array.shape for shape, array in zip(shapes, like, strict=True)
    )


# Updates between server and client: the entries under a mask, packed by the coders of the library.

_MAGIC, _VERSION = b"TFU", 2
_HEAD = struct.Struct("<3sBI8sII")  # magic, version, round, layout, checksum of all the rest, bytes of packed masks
_STREAM = struct.Struct("<BI")  # coder, number of bytes
_PLANES = {width: Split(width, "plain") for width in (1, 2, 4)}
assert set(_PLANES.values()) <= set(SPLITS)


@dataclass(frozen=True, eq=False)
class Update:
    """Weights under masks, from a client to the server or back.

    Use it if you exchange updates without Flower; `MaskedFedAvg` and `MaskedClient` do so for you.

    Args:
        weights: The arrays of the model.
        masks: A mask for each array, or None for an array with all entries. None instead of the list keeps all
            entries of all arrays.
        round: The round of the update, counted from 1, so that late answers are recognized. Default 0.

    Raises:
        TypeError: If `weights` or `masks` is not a list of arrays, or `round` is not an integer.
        ValueError: If numbers or shapes differ, or a mask holds something other than 0 and 1.

    Example:
        >>> weights, masks = [np.arange(8, dtype="float32")], [np.arange(8) % 2 == 0]
        >>> update = Update(weights, masks, round=3)
        >>> data = update.encode()
        >>> back = Update.decode(data, like=weights)
        >>> back.round, back.weights[0].tolist()
        (3, [0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 6.0, 0.0])

        A receiver that knows the masks needs the entries alone.

        >>> short = update.encode(known_masks=masks)
        >>> Update.decode(short, like=weights, known_masks=masks).weights[0].tolist() == back.weights[0].tolist()
        True
        >>> len(short) < len(data)
        True
    """

    weights: Sequence[Any]
    masks: Sequence[Any] | None
    round: int = 0

    def __post_init__(self) -> None:
        arrays = check_arrays(self.weights, "weights")
        object.__setattr__(self, "weights", arrays)
        object.__setattr__(self, "masks", check_masks(self.masks, "masks", like=arrays))
        check_count(self.round, "round", least=0, most=2**32 - 1)

    @property
    def layout(self) -> bytes:
        """A hash of the shapes and dtypes of the weights and of the masks."""
        return layout_of(self.weights, self._keep)

    @property
    def _keep(self) -> Masks:
        assert self.masks is not None
        return list(self.masks)

    def encode(self, *, known_masks: Sequence[Any] | None = None) -> bytes:
        """Pack the entries that the masks keep, without loss, and the masks themselves.

        Args:
            known_masks: The masks that the receiver has. If they equal the masks of this update, a hash of 8 bytes is
                sent instead of the masks. None (the default) always sends the masks.

        Returns:
            The bytes to send: header, masks and entries.
        """
        has_masks = layout_of(self.weights, check_masks(known_masks, "known_masks", like=self.weights)) == self.layout
        masks = b"" if has_masks else pack_masks(self._keep)
        body = masks + b"".join(_packed(self.weights, self._keep))
        checksum = _checksum(_VERSION, self.round, self.layout, len(masks), body)
        return _HEAD.pack(_MAGIC, _VERSION, self.round, self.layout, checksum, len(masks)) + body

    @staticmethod
    def decode(source: bytes, *, like: Sequence[Any], known_masks: Sequence[Any] | None = None) -> Update:
        """Unpack an update that `encode` packed.

        Args:
            source: The bytes.
            like: Arrays with the shapes and dtypes of the model; their values do not matter.
            known_masks: The masks that the receiver has, for an update that was sent without them. Default None.

        Returns:
            An update whose weights are 0 where its masks are.

        Raises:
            TypeError: If `source` is not bytes, or `like` is not a list of arrays.
            ValueError: If the bytes are not an update, of another version, damaged, of a model of other shapes, or
                under masks that are not known.
        """
        arrays = check_arrays(like, "like")
        round_, layout, packed, entries = _read_header(source)
        keep = check_masks(unpack_masks(packed, like=arrays) if packed else known_masks, "known_masks", like=arrays)
        if layout_of(arrays, keep) != layout:
            raise ValueError(
                "Expected an update of this model under the masks that both sides know. Received: one of other "
                "shapes or dtypes, or under other masks. Send it with its masks."
            )
        try:
            return Update(_unpacked(entries, arrays, keep), keep, round_)
        except (struct.error, ValueError) as error:
            raise ValueError(f"Expected a whole update. Received: a damaged one ({error}).") from error


def _read_header(source: Any) -> tuple[int, bytes, bytes, bytes]:
    """Return the round, the layout, the packed masks and the packed entries of an update."""
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise ArgumentTypeError("source", "`source` to be bytes", found=type(source).__name__)
    data = bytes(source)
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise ValueError(f"Expected an update. Received: {len(data)} bytes that begin with {data[:3]!r}.")
    _, version, round_, layout, checksum, length = _HEAD.unpack_from(data)
    if version not in (1, _VERSION):
        raise ValueError(
            f"Expected an update of version 1 or {_VERSION}. Received: {version}. Install the same tfprune."
        )
    body = data[_HEAD.size :]
    if _checksum(version, round_, layout, length, body) != checksum or length > len(body):
        raise ValueError("Expected a whole update. Received: bytes that are damaged or cut short. Send them again.")
    return round_, layout, body[:length], body[length:]


def _checksum(version: int, round_: int, layout: bytes, length: int, body: bytes) -> int:
    """Return the checksum of an update; version 1 left the header out, so that nothing noticed another round."""
    start = b"" if version == 1 else _HEAD.pack(_MAGIC, version, round_, layout, 0, length)
    return zlib.crc32(body, zlib.crc32(start))


def layout_in(data: bytes) -> bytes:
    """Return the layout in the header of an update.

    Raises:
        TypeError, ValueError: As `Update.decode` does.
    """
    return _read_header(data)[1]


def _by_dtype(arrays: Sequence[np.ndarray]) -> dict[np.dtype, list[int]]:
    indices: dict[np.dtype, list[int]] = {}
    for index, array in enumerate(arrays):
        indices.setdefault(array.dtype, []).append(index)
    return indices


def _packed(arrays: Arrays | Sequence[Any], masks: Masks) -> list[bytes]:
    """Return the entries of all arrays of a dtype together, split into streams of like bytes."""
    parts = []
    for dtype, indices in _by_dtype(arrays).items():
        entries = np.concatenate([kept_entries(arrays[index], masks[index]) for index in indices])
        data = entries.astype(dtype.newbyteorder("<")).tobytes()
        for stream in split(data, _form(dtype))[1]:
            coder, packed = compress(stream)
            parts += [_STREAM.pack(coder, len(packed)), packed]
    return parts


def _form(dtype: np.dtype) -> Split:
    return _PLANES[min(dtype.itemsize, 4)]  # entries of 8 bytes are two of 4


def _unpacked(data: bytes, like: Arrays, masks: Masks) -> Arrays:
    at, arrays = 0, [np.zeros(array.shape, array.dtype) for array in like]

    def read(limit: int) -> bytes:
        nonlocal at
        coder, length = _STREAM.unpack_from(data, at)
        start = at + _STREAM.size
        at = start + length
        if at > len(data):
            raise ValueError("a stream is cut short")
        return expand(data[start:at], coder, limit=limit)

    for dtype, indices in _by_dtype(like).items():
        sizes = [count_unmasked([like[index]], [masks[index]]) for index in indices]
        content = join(read, _form(dtype), size=sum(sizes) * dtype.itemsize, common=0)
        entries = np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype)
        for index, part in zip(indices, np.split(entries, np.cumsum(sizes)[:-1]), strict=True):
            mask = masks[index]
            arrays[index][... if mask is None else mask] = part.reshape(like[index].shape) if mask is None else part
    if at != len(data):
        raise ValueError("it goes on after its end")
    return arrays


# Report of the bytes that federated training has sent.


@dataclass(frozen=True)
class RoundTraffic(Report):
    """The bytes of one round.

    Attributes:
        round: The round, counted from 1.
        sent: How many updates the server sent.
        received: How many updates came back and were averaged.
        down: Bytes of what it sent, all headers and masks included.
        up: Bytes of all that came back, of updates that were left out, too.
        dense: Bytes of the same updates as plain arrays.
    """

    round: int
    sent: int
    received: int
    down: int
    up: int
    dense: int


@dataclass(frozen=True)
class Traffic(Report):
    """The bytes of federated training, round by round. Flower's own envelopes are not counted.

    Attributes:
        rows: One row per round.

    Example:
        >>> print(Traffic((RoundTraffic(1, sent=2, received=2, down=300, up=200, dense=1000),)))
        round  sent  received  down, bytes  up, bytes  as plain arrays
        -----  ----  --------  -----------  ---------  ---------------
        1         2         2          300        200            1,000
        all       2         2          300        200            1,000
    """

    JSON_NAMES = ("rows", "bytes", "dense")

    rows: tuple[RoundTraffic, ...] = ()

    @property
    def bytes(self) -> int:
        """The bytes of all rounds, in both directions."""
        return sum(row.down + row.up for row in self.rows)

    @property
    def dense(self) -> int:
        """The bytes of the same updates as plain arrays."""
        return sum(row.dense for row in self.rows)

    def __str__(self) -> str:
        names = ("sent", "received", "down", "up", "dense")
        lines = [[row.round, *(f"{getattr(row, name):,}" for name in names)] for row in self.rows]
        lines.append(["all", *(f"{sum(getattr(row, name) for row in self.rows):,}" for name in names)])
        return table(["round", "sent", "received", "down, bytes", "up, bytes", "as plain arrays"], lines)


# The model of a client: `MaskedModel` where Keras is installed, and `MaskedTrainer` on a device.


@runtime_checkable
class ClientModel(Protocol):
    """What a client needs of its model: a list of arrays, their masks, and gradients at all entries."""

    @property
    def weights(self) -> Arrays:
        """The weights, with zeros where masks hide them; copies."""

    @property
    def masks(self) -> Masks:
        """The masks; None for a weight of which all entries are kept."""

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the weights; entries that the masks hide become zero."""

    def set_masks(self, masks: Sequence[Any]) -> None:
        """Set the masks."""

    def check_masks(self, masks: Sequence[Any]) -> Masks:
        """Return masks that fit this model; refuse others."""

    def batch_gradients(self, data: Any, *, loss: Any = None) -> Iterator[Arrays]:
        """Yield the gradients of each batch at all entries."""

    def train_batches(
        self, data: Any, *, loss: Any = None, optimizer: keras.optimizers.Optimizer | None = None
    ) -> Iterator[Arrays]:
        """Train one step on each batch, and yield its gradients at all entries."""


def check_client_model(model: Any) -> None:
    """Refuse what is not the model of a client.

    Raises:
        TypeError: If a method is missing.
    """
    if not isinstance(model, ClientModel):
        raise ArgumentTypeError("model", "`model` to be a MaskedModel or a MaskedTrainer", found=type(model).__name__)


class MaskedTrainer:
    """The weights and masks of a `tfprune.export.Trainer`, as `MaskedModel` has those of a Keras model.

    Use it for clients without Keras: it needs NumPy alone, and the trainer LiteRT. The arrays are those that the file
    trains, with its statistics, in the order of the exported model. If all weights are trained, they are the arrays
    of its `MaskedModel`. Train with the methods of the trainer. As in `MaskedModel`, statistics have the masks of
    the channels that the other masks leave, and a mask of a bias is kept beside the file, and holds when weights are
    set.

    Args:
        trainer: A trainer. It is used as it is, not copied. If masks should change, export its file with
            `to_trainer(max_density=...)`.

    Raises:
        TypeError: If `trainer` is not a `tfprune.export.Trainer`.

    Attributes:
        trainer: The trainer.
        paths: The paths of the weights.

    Example:
        >>> client = MaskedTrainer(tfprune.export.Trainer("digits_trainer.tfz"))
        >>> update = Update(client.weights, client.masks)
    """

    def __init__(self, trainer: Trainer) -> None:
        if not isinstance(trainer, _Trains):
            raise ArgumentTypeError(
                "trainer", "`trainer` to be a tfprune.export.Trainer", found=type(trainer).__name__
            )
        held = trainer.weights
        self.trainer = trainer
        self.paths = tuple(path for path in trainer.task.paths if path in held)
        self._others: dict[str, np.ndarray] = {}  # masks of biases, which the file trains whole
        shapes = {path: array.shape for path, array in held.items()}
        self._statistics = StatisticsOwners.from_lists(trainer.task.channels, shapes)

    @property
    def weights(self) -> Arrays:
        """The weights, with zeros where masks hide them; copies."""
        held = self.trainer.weights
        return [held[path] for path in self.paths]

    @property
    def masks(self) -> Masks:
        """The masks; None for a weight of which all entries are kept."""
        own = {path: None if mask.all() else mask for path, mask in self.trainer.masks.items()}
        own |= self._others
        own |= self._statistics.masks(own)
        return [own.get(path) for path in self.paths]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the weights; entries that the masks hide become zero.

        Raises:
            TypeError: If they are not a list of arrays.
            ValueError: If their number or shapes are others, or one is not finite.
        """
        arrays = dict(zip(self.paths, check_arrays(weights, "weights", like=self.weights), strict=True))
        for path, mask in self._others.items():
            arrays[path] = np.where(mask, arrays[path], 0)
        self.trainer.set_weights(arrays)

    def set_masks(self, masks: Sequence[Any]) -> None:
        """Set the masks: entries that return are 0 until weights are set, and the optimizer forgets theirs.

        Raises:
            TypeError: If they are not a list of masks.
            ValueError: If their number or shapes are others, or the file has no room for them.
        """
        checked, room = dict(zip(self.paths, self.check_masks(masks), strict=True)), self.trainer.room
        shapes = {path: mask.shape for path, mask in self.trainer.masks.items()}
        self.trainer.set_masks(
            {path: np.ones(shapes[path], bool) if checked[path] is None else checked[path] for path in room}
        )
        trained = {weight.path for weight in self.trainer.task.weights} - room.keys()
        self._others = {path: mask for path in trained if (mask := checked[path]) is not None and not mask.all()}
        self.set_weights(self.weights)

    def check_masks(self, masks: Sequence[Any]) -> Masks:
        """Return masks that fit this model, its shapes and the room of its file.

        Raises:
            TypeError: If they are not a list of masks.
            ValueError: If their number or shapes are others, or the file has no room for them.
        """
        arrays, room = self.weights, self.trainer.room
        checked = check_masks(masks, "masks", like=arrays)
        for path, array, mask in zip(self.paths, arrays, checked, strict=True):
            kept = count_unmasked([array], [mask])
            if path in room and kept > room[path]:
                limit = f"at most {room[path]:,} entries of {path!r}, for which the file has room"
            elif path not in room and array.ndim > 1 and kept < array.size:
                limit = f"all {array.size:,} entries of {path!r}, which the file holds without a mask"
            else:
                continue
            advice = "Export the model with to_trainer(max_density=1.0)."
            raise ArgumentError("masks", f"`masks` that keep {limit}", found=f"{kept:,}", advice=advice)
        return checked

    def batch_gradients(self, data: Any, *, loss: Any = None) -> Iterator[Arrays]:
        """Yield the gradients of each batch at all entries, at the weights and masks of that moment.

        Args:
            data: A tuple (x, y) of arrays, which are cut into batches of the file's size, or an iterable of batches
                (x, y).
            loss: None, because the file has a loss.

        Raises:
            ValueError: If data does not fit the file, or the file has no gradients or another loss.
        """
        self._check_own(loss=loss)
        for step, (x, y) in enumerate(self._batches(data), start=self.trainer.step):
            yield self._listed(self.trainer.gradients(x, y, seed=step))

    def train_batches(
        self, data: Any, *, loss: Any = None, optimizer: keras.optimizers.Optimizer | None = None
    ) -> Iterator[Arrays]:
        """Train one step on each batch, and yield the gradients before it at all entries.

        Args:
            data: As in `batch_gradients`.
            loss: None, because the file has a loss.
            optimizer: None, because the file has an optimizer.

        Raises:
            ValueError: If data does not fit the file, or the file has no gradients or another loss or optimizer.
        """
        self._check_own(loss=loss, optimizer=optimizer)
        for x, y in self._batches(data):
            gradients = self._listed(self.trainer.gradients(x, y))
            self.trainer.train_on_batch(x, y)
            yield gradients

    def _check_own(self, **parts: Any) -> None:
        """Refuse a loss and an optimizer: those of the file were chosen when it was exported."""
        task = self.trainer.task
        for name, value in parts.items():
            if value is not None:
                own = getattr(task, name)
                raise ArgumentError(
                    name, f"`{name}` to be None, as the file has {own}", repr(value), advice="Leave it out."
                )

    def _batches(self, data: Any) -> Iterator[tuple[Any, Any]]:
        size, is_empty = self.trainer.task.batch, True
        for batch in [data] if isinstance(data, tuple) else data:
            if not isinstance(batch, tuple) or len(batch) != 2 or not hasattr(batch[1], "__len__"):
                raise ArgumentTypeError("data", "`data` to be (x, y), or batches of (x, y)", type(batch).__name__)
            x, y = batch
            counts = {len(part) for part in _parts(x)} | {len(y)}
            if len(counts) > 1:
                raise ArgumentError("data", "`data` with a label for each sample", " and ".join(map(str, counts)))
            for start in range(0, len(y), size):
                rows, is_empty = slice(start, start + size), False
                yield _rows(x, rows), y[rows]
        if is_empty:
            advice = "Is an iterator used up?"
            raise ArgumentError("data", "`data` with at least one sample", "none", advice=advice)

    def _listed(self, gradients: Mapping[str, np.ndarray]) -> Arrays:
        """Return gradients in order; zeros for statistics."""
        return [
            gradients[path].astype(np.float64) if path in gradients else np.zeros(array.shape)
            for path, array in zip(self.paths, self.weights, strict=True)
        ]


@runtime_checkable
class _Trains(Protocol):
    """The methods of a trainer, which is a class of `tfprune.export`."""

    @property
    def weights(self) -> Mapping[str, np.ndarray]: ...

    @property
    def masks(self) -> Mapping[str, np.ndarray]: ...

    @property
    def room(self) -> Mapping[str, int]: ...

    def set_weights(self, weights: Mapping[str, Any]) -> None: ...

    def set_masks(self, masks: Mapping[str, Any]) -> None: ...

    def gradients(self, x: Any, y: Any, *, seed: int | None = None) -> dict[str, np.ndarray]: ...

    def train_on_batch(self, x: Any, y: Any, *, learning_rate: float | None = None) -> float: ...


def _parts(x: Any) -> list[Any]:
    """Return the arrays of an array, or of a list or dict of arrays."""
    return list(x.values()) if isinstance(x, Mapping) else list(x) if isinstance(x, (list, tuple)) else [x]


def _rows(x: Any, rows: slice) -> Any:
    """Return some samples of an array, or of a list or dict of arrays."""
    if isinstance(x, Mapping):
        return {name: array[rows] for name, array in x.items()}
    return [array[rows] for array in x] if isinstance(x, (list, tuple)) else x[rows]
