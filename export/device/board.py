"""The machine that this runs on: its name, how its clock is governed, and how warm it is."""

from __future__ import annotations

import platform
from pathlib import Path

PROCESSOR = (Path("/proc/device-tree/model"), Path("/proc/cpuinfo"))
SYSTEM = Path("/sys")


def name() -> str:
    """Return the architecture and, where known, the board or processor."""
    return ", ".join(part for part in (platform.machine(), _processor()) if part)


def governor() -> str | None:
    """Name the governor of the first core's clock, such as "ondemand"; None if the system does not say."""
    return _text(SYSTEM / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None


def temperature() -> float | None:
    """Return the temperature of the warmest sensor in degrees Celsius; None if there is none."""
    texts = [_text(path) for path in SYSTEM.glob("class/thermal/thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in texts if text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def _processor() -> str:
    board, processors = PROCESSOR
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
