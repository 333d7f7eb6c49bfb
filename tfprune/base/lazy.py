"""Public names, each loaded when it is first used, so that importing a package loads neither Keras nor TensorFlow."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def lazy_names(
    facade: str,
    rooms: Mapping[str, Iterable[str]],
    *,
    elsewhere: Mapping[str, Iterable[str]] | None = None,
    modules: Iterable[str] = (),
    beside: Iterable[str] = (),
    package: str | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a module whose public names live in other modules.

    Args:
        facade: The name of the module that offers the names.
        rooms: Names by the sub-package that holds their modules, which have the same names: `Pruned` is in
            `pruned.py` there, and so on.
        elsewhere: Names by their module, which has another name.
        modules: Public modules of the package.
        beside: Those of the modules with lazy names, where a user may look for a name that is not here.
        package: The package that the rooms and modules are in. None (the default) is the facade itself.

    Example:
        >>> getattribute, names = lazy_names("tfprune", {"wrapping": ["wrap", "Pruned"]}, modules=["schedules"])
        >>> names()
        ['Pruned', 'schedules', 'wrap']
    """
    package = package or facade
    homes = {name: f"{package}.{room}.{module_of(name)}" for room, names in rooms.items() for name in names}
    homes |= {name: f"{package}.{module}" for module, names in (elsewhere or {}).items() for name in names}
    offered = set(modules)

    def getattribute(name: str) -> Any:
        if name in offered:
            return importlib.import_module(f"{package}.{name}")
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        advice = "" if name.startswith("_") else _advice(name, names(), [f"{package}.{module}" for module in beside])
        raise AttributeError(f"module {facade!r} has no attribute {name!r}{advice}")

    def names() -> list[str]:
        return sorted({*homes, *offered})

    return getattribute, names


def _advice(name: str, names: Sequence[str], modules: Iterable[str]) -> str:
    homes = [module for module in modules if name in dir(importlib.import_module(module))]
    if homes:
        return f". Use {homes[0]}.{name}."
    close = difflib.get_close_matches(name, names, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


def module_of(name: str) -> str:
    """Return the name of the module that holds a public name: the same name in snake case.

    Example:
        >>> module_of("PruningCallback"), module_of("wrap")
        ('pruning_callback', 'wrap')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
