"""Public names, each loaded when it is first used, so that importing a package loads neither Keras nor TensorFlow."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def lazy_names(
    package: str, rooms: Mapping[str, Iterable[str]], *, modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose public names live in modules of the same names.

    Args:
        package: The name of the package.
        rooms: The public names by sub-package. `Pruned` is in `pruned.py` there, and so on.
        modules: The public modules of the package itself.

    Example:
        >>> getattribute, names = lazy_names("tfprune", {"wrapping": ["wrap", "Pruned"]}, modules=["schedules"])
        >>> names()
        ['Pruned', 'schedules', 'wrap']
    """
    homes = {name: f"{package}.{room}.{module_of(name)}" for room, names in rooms.items() for name in names}
    offered = set(modules)

    def getattribute(name: str) -> Any:
        if name in offered:
            return importlib.import_module(f"{package}.{name}")
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute, lambda: sorted({*homes, *offered})


def module_of(name: str) -> str:
    """Return the name of the module that holds a public name: the same name in snake case.

    Example:
        >>> module_of("PruningCallback"), module_of("wrap")
        ('pruning_callback', 'wrap')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
