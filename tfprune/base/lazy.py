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
    moved: Mapping[str, str] | None = None,
    package: str | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a module whose public names live in other modules.

    Args:
        facade: The name of the module that offers the names.
        rooms: Names by the sub-package that holds their modules, which have the same names: `Pruned` is in
            `pruned.py` there, and so on.
        elsewhere: Names by their module, which has another name. `"rank_experts as rank"` offers a name of the module
            under another one.
        modules: Public modules of the package.
        beside: Those of the modules with lazy names, where a user may look for a name that is not here.
        moved: The full new names of what users may look for here, by the old ones.
        package: The package that the rooms and modules are in. None (the default) is the facade itself.

    Example:
        >>> getattribute, names = lazy_names("tfprune", {"wrapping": ["wrap", "Pruned"]}, modules=["schedules"])
        >>> names()
        ['Pruned', 'schedules', 'wrap']
    """
    package = package or facade
    homes = {name: (f"{room}.{module_of(name)}", name) for room, names in rooms.items() for name in names}
    for module, entries in (elsewhere or {}).items():
        homes |= {_public(entry): (module, entry.partition(" as ")[0]) for entry in entries}
    submodules = set(modules)

    def getattribute(name: str) -> Any:
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        if name in homes:
            module, own_name = homes[name]
            return getattr(importlib.import_module(f"{package}.{module}"), own_name)
        if moved and name in moved:
            advice = f". Use {moved[name]}."
        else:
            others = [f"{package}.{module}" for module in beside]
            advice = "" if name.startswith("_") else _advice(name, names(), others)
        raise AttributeError(f"module {facade!r} has no attribute {name!r}{advice}")

    def names() -> list[str]:
        return sorted({*homes, *submodules})

    return getattribute, names


def _public(entry: str) -> str:
    """Return the public name of an entry of a table: `rank` of `experts.rank as rank`."""
    return entry.rpartition(" as ")[2]


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
