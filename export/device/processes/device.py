"""Where jobs run: on this machine, or on a device that takes its place."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Protocol

from tfprune.export.device.processes.child_process import Completed, Work, run_job


class Device(Protocol):
    """A machine that runs jobs in place of this one."""

    def run_job(self, work: Work, folder: str | os.PathLike[str], *, timeout: float) -> Completed:
        """Do there what the function `run_job` does here."""


def runner_on(
    device: Any, *, package: str | None = None, each_second: Callable[[], None] | None = None
) -> Callable[..., Completed]:
    """Return the function that runs jobs on a `Device`; None is this machine.

    Args:
        device: The device, or None.
        package: What jobs on this machine need, and what is slow to import.
        each_second: Called once in each second that a job runs on this machine, to move a bar.

    Raises:
        TypeError: If it is not a device.
    """
    if device is not None and not hasattr(device, "run_job"):
        raise TypeError(
            f"Expected `on` to be a device, such as tfprune.export.Remote('pi@raspberrypi'). Received: on={device!r}."
        )
    if device is not None:
        return device.run_job
    return functools.partial(run_job, package=package, each_second=each_second)
