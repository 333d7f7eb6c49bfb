"""The machine of this process: its processor, its temperature, and the interpreter that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from pathlib import Path
from typing import Any

from tfprune.export.file.schema import MissingPackage

# The machine that this runs on: its name, how its clock is governed, and how warm it is.

_PROCESSOR = (Path("/proc/device-tree/model"), Path("/proc/cpuinfo"))
_SYSTEM = Path("/sys")


def board_name() -> str:
    """Return the architecture and, where known, the board or processor."""
    return ", ".join(part for part in (platform.machine(), _processor()) if part)


def governor() -> str | None:
    """Name the governor of the first core's clock, such as "ondemand"; None if the system does not say."""
    return _text(_SYSTEM / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None


def temperature() -> float | None:
    """Return the temperature of the warmest sensor in degrees Celsius; None if there is none."""
    texts = [_text(path) for path in _SYSTEM.glob("class/thermal/thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in texts if text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def _processor() -> str:
    board, processors = _PROCESSOR
    if board.exists():
        return _text(board)
    for line in _text(processors).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor().replace(platform.machine(), "")


def _text(path: Path) -> str:
    """Read a file of the system; an empty text if it cannot be read, as that of a sensor that sleeps."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


# The interpreter of TFLite files that is installed.

# The maintained one first; TensorFlow last, because it takes seconds and hundreds of megabytes to load.
_INTERPRETERS = (
    ("ai_edge_litert", "interpreter", "ai-edge-litert"),
    ("tflite_runtime", "interpreter", "tflite-runtime"),
    ("tensorflow", "lite", "tensorflow"),
)
MAX_THREADS = 1024  # an interpreter starts as many as it is asked for, and takes no number beyond 32 bits


def interpreter_module() -> str | None:
    """Return the module of the interpreter that is installed, without importing it; None if there is none."""
    for package, module, _ in _INTERPRETERS:
        if importlib.util.find_spec(package) is not None:
            return package if package == "tensorflow" else f"{package}.{module}"
    return None


def find_interpreter() -> tuple[Any, str]:
    """Return the class of the interpreter that is installed, and its name and version.

    Raises:
        ValueError: If there is none (that one is an ImportError, too).
    """
    for package, module, name in _INTERPRETERS:
        try:
            root = importlib.import_module(package)
            # TensorFlow's `lite` is an attribute; the module of that name is another thing.
            home = getattr(root, module, None) or importlib.import_module(f"{package}.{module}")
            return home.Interpreter, f"{name} {root.__version__}"
        except ImportError:
            continue
    raise MissingPackage(
        "Expected an interpreter for TFLite files. Received: none of "
        f'{", ".join(name for *_, name in _INTERPRETERS)} is installed. Run pip install "tfprune[device]".'
    )
