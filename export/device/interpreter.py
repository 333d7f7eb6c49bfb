"""The interpreter of TFLite files that is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from tfprune.export.file.tflite.schema import MissingPackage

# The maintained one first; TensorFlow last, because it takes seconds and hundreds of megabytes to load.
INTERPRETERS = (
    ("ai_edge_litert", "interpreter", "ai-edge-litert"),
    ("tflite_runtime", "interpreter", "tflite-runtime"),
    ("tensorflow", "lite", "tensorflow"),
)
MAX_THREADS = 1024  # an interpreter starts as many as it is asked for, and takes no number beyond 32 bits


def interpreter_module() -> str | None:
    """Return the module of the interpreter that is installed, without importing it; None if there is none."""
    for package, module, _ in INTERPRETERS:
        if importlib.util.find_spec(package) is not None:
            return package if package == "tensorflow" else f"{package}.{module}"
    return None


def find_interpreter() -> tuple[Any, str]:
    """Return the class of the interpreter that is installed, and its name and version.

    Raises:
        ValueError: If there is none (that one is an ImportError, too).
    """
    for package, module, name in INTERPRETERS:
        try:
            root = importlib.import_module(package)
            # TensorFlow's `lite` is an attribute; the module of that name is another thing.
            home = getattr(root, module, None) or importlib.import_module(f"{package}.{module}")
            return home.Interpreter, f"{name} {root.__version__}"
        except ImportError:
            continue
    raise MissingPackage(
        "Expected an interpreter for TFLite files. Received: none of "
        f'{", ".join(name for *_, name in INTERPRETERS)} is installed. Run pip install "tfprune[device]".'
    )
