"""Time files on several devices at once, each against the same dense file on the same device."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tfprune.export.device.processes.device import Device, runner_on
from tfprune.export.device.running.benchmark import benchmark


class DevicePool:
    """Devices of one kind that time files in parallel.

    Two boards of one kind differ by some percent, so only the ratio to a dense file on the same board is used.

    Args:
        devices: The devices, which `check_devices` has seen.
        dense: The bytes of the dense file.
        runs: Timed runs of each file.
    """

    def __init__(self, devices: Sequence[Device], dense: bytes, *, runs: int) -> None:
        self._devices, self._dense_file, self._runs = devices, dense, runs
        self._dense_ms: list[float] = []  # of each device, measured when the first file is timed

    def milliseconds(self, contents: Sequence[bytes]) -> list[float]:
        """Time files, each on the device that is free next.

        Returns:
            For each file its time divided by that of the dense file on the same device, times that of the dense file
            on the first device.

        Raises:
            ValueError: If a file does not run, or a device does not answer.
        """
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(self._devices)):
            free.put(number)

        def timed(content: bytes) -> float:
            number = free.get()
            try:
                return self._dense_ms[0] * self._time(content, number) / self._dense_ms[number]
            finally:
                free.put(number)

        with ThreadPoolExecutor(len(self._devices)) as threads:
            if not self._dense_ms:
                numbers = range(len(self._devices))
                self._dense_ms = [*threads.map(lambda number: self._time(self._dense_file, number), numbers)]
            return [*threads.map(timed, contents)]

    def _time(self, content: bytes, number: int) -> float:
        return benchmark(content, runs=self._runs, on=self._devices[number], verbose=0).median_ms


def check_devices(on: Any) -> None:
    """Check a device, or several of them.

    Raises:
        TypeError: If one is not a device.
        ValueError: If there are none, or the same one twice, on which two files would disturb each other.
    """
    if not isinstance(on, (list, tuple)):
        runner_on(on)
        return
    for device in on:
        if device is None:
            raise TypeError(f"Expected a device in each entry of `on`. Received: on={on!r}. Leave None out.")
        runner_on(device)
    if len(set(map(repr, on))) < max(1, len(on)):
        raise ValueError(
            f"Expected different devices in `on`, at least one. Received: on={on!r}. Name each board once."
        )
