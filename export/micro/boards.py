"""Common boards, and whether a file and its arena fit on them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tfprune.report import Report


@dataclass(frozen=True)
class Board(Report):
    """A board: what its chip has for the program, the model and the arena together.

    Attributes:
        name: How it is asked for.
        title: What it says on the box, and its chip.
        flash: The bytes of flash memory.
        ram: The bytes of RAM.
    """

    name: str
    title: str
    flash: int
    ram: int


KB = 1024
# By the makers' data sheets.
BOARDS = {
    board.name: board
    for board in (
        Board("zero", "Arduino Zero, Nano 33 IoT (SAMD21)", 256 * KB, 32 * KB),
        Board("uno-r4", "Arduino Uno R4 (RA4M1)", 256 * KB, 32 * KB),
        Board("microbit", "BBC micro:bit v2 (nRF52833)", 512 * KB, 128 * KB),
        Board("nano33", "Arduino Nano 33 BLE Sense (nRF52840)", 1024 * KB, 256 * KB),
        Board("pico", "Raspberry Pi Pico (RP2040)", 2048 * KB, 264 * KB),
        Board("pico2", "Raspberry Pi Pico 2 (RP2350)", 4096 * KB, 520 * KB),
        Board("l4r5zi", "ST Nucleo-L4R5ZI, that of MLPerf Tiny (STM32L4R5)", 2048 * KB, 640 * KB),
        Board("esp32", "ESP32-DevKitC (ESP32)", 4096 * KB, 520 * KB),
        Board("esp32-s3", "ESP32-S3-DevKitC (ESP32-S3)", 8192 * KB, 512 * KB),
    )
}


@dataclass(frozen=True)
class BoardFit(Report):
    """Whether a file and its arena fit on a board.

    Attributes:
        board: The name of the board.
        title: Its name in full.
        flash_left: The bytes of flash that are left for the program; negative if some are missing.
        ram_left: The bytes of RAM that are left for it; negative if some are missing.
    """

    board: str
    title: str
    flash_left: int
    ram_left: int

    @property
    def fits(self) -> bool:
        """Whether nothing is missing."""
        return self.flash_left >= 0 and self.ram_left >= 0

    def __str__(self) -> str:
        kinds = {"flash": self.flash_left, "RAM": self.ram_left}
        lacking = [f"{-left:,} bytes of {kind}" for kind, left in kinds.items() if left < 0]
        if lacking:
            return f"lacks {' and '.join(lacking)}"
        return f"FITS, leaves {self.flash_left:,} bytes of flash and {self.ram_left:,} of RAM for the program"


def find_board(name: str) -> Board:
    """Return a board of the table.

    Raises:
        TypeError: If the name is no string.
        ValueError: If it is not in the table.
    """
    if not isinstance(name, str):
        raise TypeError(f"Expected the name of a board. Received: {name!r} of type {type(name).__name__}.")
    if name in BOARDS:
        return BOARDS[name]
    close = difflib.get_close_matches(name, BOARDS, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else " For another one compare its flash and RAM with the report."
    raise ValueError(f"Expected a board of {', '.join(BOARDS)}. Received: {name!r}.{meant}")


def fits(flash: int, arena: int, *, board: str | None = None) -> tuple[BoardFit, ...]:
    """Say for one board, or for all, whether a file of so many bytes and its arena fit."""
    boards = BOARDS.values() if board is None else [find_board(board)]
    return tuple(BoardFit(each.name, each.title, each.flash - flash, each.ram - arena) for each in boards)
