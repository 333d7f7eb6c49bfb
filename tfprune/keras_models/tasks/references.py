"""References to functions, classes and data, which workers look up themselves instead of getting them."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.run_folder import checksum
from tfprune.base.untrusted import LONGEST_REASON, UNREADABLE
from tfprune.keras_models.tasks.packed_model import WITHOUT_WORKERS
from tfprune.report import shortened


def import_path(thing: Any, *, expected: str) -> str:
    """Return the path by which another process imports a function or class, `"module:name"`.

    Args:
        thing: The function or class.
        expected: What it is, for the message.

    Raises:
        ValueError: If another process cannot import it.
    """
    path = f"{getattr(thing, '__module__', None)}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    try:
        is_there = not path.startswith("__main__:") and _imported(path) is thing
    except (ImportError, AttributeError, ValueError):
        is_there = False
    if not is_there:
        raise ValueError(
            f"Expected {expected} that workers can import. Received: {path!r}. Move it to the top of a module that "
            f"is installed on each worker: workers import neither lambdas and inner functions nor the main program. "
            f"{WITHOUT_WORKERS}"
        )
    return path


def imported(path: str, *, expected: str) -> Any:
    """Return the function or class of a path.

    Args:
        path: What `import_path` returned in another process.
        expected: What it is, for the message.

    Raises:
        ValueError: If it cannot be imported here.
    """
    try:
        return _imported(path)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Expected workers that can import {expected}. Received, on {platform.node()}: {path!r}: {error}. "
            f"Install its module there. {WITHOUT_WORKERS}"
        ) from error


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return attrgetter(name)(importlib.import_module(module))


@dataclass(frozen=True)
class DataReference:
    """Data that each worker reads itself.

    Attributes:
        source: A function without arguments, or the path of an .npz file with the arrays `x` and `y`.
        argument: What the user calls the data.
    """

    source: Any
    argument: str = "data"

    @classmethod
    def of(cls, data: Any, *, argument: str = "data") -> DataReference | None:
        """Return a reference if data are given as a path or a function; None if they are data."""
        is_data = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
        if isinstance(data, str | os.PathLike):
            return cls(Path(data).resolve(), argument)
        return cls(data, argument) if callable(data) and not is_data else None

    def load(self) -> Any:
        """Return the data: what the function returns, or the tuple (x, y) of the file.

        Raises:
            ValueError: If the file or what the function reads cannot be read.
        """
        try:
            if not isinstance(self.source, Path):
                return self.source()
            with np.load(self.source, allow_pickle=False) as arrays:
                return arrays["x"], arrays["y"]
        except UNREADABLE as error:
            reason = shortened(" ".join(str(error).split()).removesuffix(".") or type(error).__name__, LONGEST_REASON)
            raise ValueError(
                f"Expected `{self.argument}` to be an .npz file with the arrays x and y, or a function that returns "
                f"(x, y). Received, on {platform.node()}: {self.source!s}: {reason}. Each worker has to see "
                f"the file, or the files that the function reads."
            ) from error

    def settings(self) -> dict[str, str]:
        """Return the reference as values of JSON.

        Raises:
            ValueError: If workers cannot import the function.
        """
        if isinstance(self.source, Path):
            return {"argument": self.argument, "file": str(self.source)}
        path = import_path(self.source, expected=f"a function in `{self.argument}`")
        return {"argument": self.argument, "function": path}

    @classmethod
    def read(cls, settings: dict[str, str]) -> DataReference:
        """Return the reference of which `settings` were made in another process.

        Raises:
            ValueError: If the function cannot be imported here.
        """
        argument = settings["argument"]
        if "file" in settings:
            return cls(Path(settings["file"]), argument)
        return cls(imported(settings["function"], expected=f"the function of `{argument}`"), argument)


def referred(reference: DataReference, data: Any) -> dict[str, Any]:
    """Return where a worker finds data, as values of JSON, with the checksum of what was read there.

    Args:
        reference: The reference.
        data: Its arrays, in any structure.

    Raises:
        ValueError: If workers cannot import the function.
    """
    return {"reference": reference.settings(), "checksum": checksum(keras.tree.flatten(data))}


def read_referred(settings: dict[str, Any], read: Callable[[Any], Any]) -> Any:
    """Read the data again that `referred` has described in another process.

    Args:
        settings: What it returned there.
        read: Turns what the user's function returns into the structure of arrays.

    Raises:
        ValueError: If the data cannot be read here, or are others.
    """
    reference = DataReference.read(settings["reference"])
    data = read(reference.load())
    if checksum(keras.tree.flatten(data)) != settings["checksum"]:
        raise ValueError(
            f"Expected the same `{reference.argument}` on each worker. Received, on {platform.node()}: others from "
            f"{reference.source!s} than were read at the start. Copy the data, or pass a function that always "
            f"returns the same."
        )
    return data
