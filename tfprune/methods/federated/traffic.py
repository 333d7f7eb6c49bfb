"""Report of the bytes that federated training has sent."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table


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
