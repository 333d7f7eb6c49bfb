"""What a file for microcontrollers may take, and what goes with such a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfprune.base.spec import check_choice, check_count
from tfprune.export.micro.interpreter import require_interpreter


@dataclass(frozen=True)
class Budgets:
    """What a file may take; None for any amount.

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


def read_target(
    target: Any, *, arena: int | None, flash: int | None, sparse: Any, optimize: Any, compress: Any
) -> Budgets | None:
    """Return what a file for microcontrollers may take; None for other targets.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If `target` does not exist, other arguments do not go with it, or a budget is less than 1; or
            (also an ImportError) if the interpreter for microcontrollers is not installed.
    """
    check_choice(target, "target", choices=(None, "micro"))
    budgets = Budgets(arena=arena, flash=flash)
    if target is None:
        if budgets != Budgets():
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
    return budgets
