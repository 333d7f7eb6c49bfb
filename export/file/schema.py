"""The generated classes of the TFLite format, by their names: `schema.ModelT`. The one module that imports them.

They are loaded when the first is used, so that running a file needs nothing but NumPy and an interpreter.
"""

from __future__ import annotations

from typing import Any

from tfprune.report import install


class MissingPackage(ImportError, ValueError):  # noqa: N818 (said in words, not with a suffix)
    """No interpreter, or no reader of the file format, is installed."""


def require_schema() -> None:
    """Load the classes.

    Raises:
        MissingPackage: If ai-edge-litert, which brings them, is not installed.
    """
    _generated()


def _generated() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingPackage(
            "Expected ai-edge-litert, which knows the format of TFLite files. Received: it is not installed. "
            f"Run {install('device')}."
        ) from error
    return schema_py_generated


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(_generated(), name)
    return value
