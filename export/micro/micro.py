"""The microcontroller that a file is for: its budgets, and the arguments that fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfprune.base.spec import check_choice, check_count
from tfprune.export.micro.interpreter import require_interpreter


@dataclass(frozen=True)
class Micro:
    """A microcontroller as the target of a file, and what the file may take there; None for any amount.

    Attributes:
        arena: Bytes of RAM, as the interpreter counts them. With it the smallest file is taken.
        flash: Bytes of the file. With it alone the file with the smallest arena is taken; with neither, the one whose
            flash and arena together are smallest.

    Raises:
        TypeError: If one is neither an integer nor None.
        ValueError: If one is less than 1.
    """

    arena: int | None = None
    flash: int | None = None

    def __post_init__(self) -> None:
        for name in ("arena", "flash"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, least=1)


class OverBudgetError(ValueError):
    """No file keeps to the budgets."""


def read_micro(
    target: Any, *, arena: int | None, flash: int | None, sparse: Any, optimize: Any, compress: Any
) -> Micro | None:
    """Read the arguments `target`, `arena` and `flash`; None for other targets than microcontrollers.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If `target` does not exist, other arguments do not go with it, or a budget is less than 1; or
            (also an ImportError) if the interpreter for microcontrollers is not installed.
    """
    check_choice(target, "target", choices=(None, "micro"))
    micro = Micro(arena=arena, flash=flash)
    if target is None:
        if micro != Micro():
            raise ValueError(
                f"Expected target='micro' with a budget of arena or flash. Received: arena={arena}, flash={flash}. "
                "Only microcontrollers have them."
            )
        return None
    if sparse is True or optimize != "size" or compress is not None:
        raise ValueError(
            "Expected sparse='auto' or False, optimize='size' and compress=None with target='micro', whose file is "
            f"compiled into a program as it is. Received: sparse={sparse!r}, optimize={optimize!r}, "
            f"compress={compress!r}. Leave them out."
        )
    require_interpreter()
    return micro
