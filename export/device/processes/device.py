"""Where jobs run: on this machine, or on a device that takes its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from tfprune.export.device.processes.child_process import Completed, run_module


class Device(Protocol):
    """A machine that runs jobs in place of this one."""

    def run_module(self, module: str, folder: str | os.PathLike[str], *, timeout: float) -> Completed:
        """Do there what the function `run_module` does here."""


def runner_on(device: Any) -> Callable[..., Completed]:
    """Return the function that runs jobs on a `Device`; None is this machine.

    Raises:
        TypeError: If it is not a device.
    """
    if device is not None and not hasattr(device, "run_module"):
        raise TypeError(
            f"Expected `on` to be a device, such as tfprune.export.Remote('pi@raspberrypi'). Received: on={device!r}."
        )
    return run_module if device is None else device.run_module
