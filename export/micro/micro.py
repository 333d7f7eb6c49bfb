"""Micro: a microcontroller as the target of a file, with its budgets, and the arguments that fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfprune.base.spec import check_choice, check_count
from tfprune.export.micro.interpreter import require_interpreter


@dataclass(frozen=True)
class Micro:
    """A microcontroller as the target of a file, with the flash and RAM that the file may use there.

    Pass it as `target=` to `to_tflite`, `rewrite` or `compress`. `"micro"` is short for `Micro()`, without budgets.

    Args:
        arena: The bytes of RAM that the file may use, as the interpreter for microcontrollers counts them, at least
            1. Large layers are then computed in parts, and the smallest file within the budget is written. None (the
            default) sets no budget.
        flash: The bytes that the file may have, at least 1. With `flash` alone the file that uses the least RAM is
            written; with neither, the file with the smallest sum of flash and RAM. None (the default) sets no budget.

    Raises:
        TypeError: If a budget is neither an integer nor None.
        ValueError: If a budget is less than 1.

    Example:
        >>> Micro(arena=60_000)
        Micro(arena=60000, flash=None)
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
    target: Any,
    *,
    others: tuple[str, ...] = (),
    objects: str = "or a Micro",
    optimize: Any = "size",
    compress: Any = None,
) -> Micro | None:
    """Read the argument `target`; None for other targets than microcontrollers, such as `others`.

    Args:
        target: The argument.
        others: The names of other targets.
        objects: The objects that it may be, for the message.
        optimize: The argument `optimize`.
        compress: The argument `compress`.

    Raises:
        TypeError: If it has another type.
        ValueError: If there is no such target, or other arguments do not go with it; or (also an ImportError) if the
            interpreter for microcontrollers is not installed.
    """
    if not isinstance(target, Micro):
        check_choice(target, "target", choices=(None, "micro", *others), others=objects)
    if target is None or target in others:
        return None
    if optimize != "size" or compress is not None:
        raise ValueError(
            "Expected optimize='size' and compress=None with target='micro', whose file is compiled into a program "
            f"as it is. Received: optimize={optimize!r}, compress={compress!r}. Leave them out."
        )
    require_interpreter()
    return target if isinstance(target, Micro) else Micro()
