"""Files on several devices: at once, each compared with the dense file on the same device."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from tfprune.export import Remote
from tfprune.export.device import remote
from tfprune.export.device.remote import DevicePool, check_devices

SPEEDS = {"slow": 1.0, "fast": 10.0}


def pool_of(monkeypatch, *names, parties=1):
    """Return a pool of made-up boards, on which a file takes as many milliseconds as it has bytes, by their speed."""
    barrier, timed = threading.Barrier(parties), []

    def benchmark(content, *, runs, on, verbose):
        barrier.wait(20)
        timed.append((on, len(content)))
        return SimpleNamespace(median_ms=len(content) / SPEEDS[on])

    monkeypatch.setattr(remote, "benchmark", benchmark)
    return DevicePool(names, bytes(100), runs=3), timed


@pytest.mark.parametrize("names", [("slow", "fast"), ("fast", "slow"), ("fast",)])
def test_times_are_those_of_the_first_device(names, monkeypatch):
    pool, timed = pool_of(monkeypatch, *names)
    files = [bytes(size) for size in (50, 10, 80)]
    assert pool.milliseconds(files) == pytest.approx([len(file) / SPEEDS[names[0]] for file in files])
    assert pool.milliseconds(files[:1]) == pytest.approx([50 / SPEEDS[names[0]]])
    assert sorted(name for name, size in timed if size == 100) == sorted(names), "the dense file once on each"


def test_devices_work_at_the_same_time(monkeypatch):
    pool, timed = pool_of(monkeypatch, "slow", "fast", parties=2)  # each call waits for another one
    assert pool.milliseconds([bytes(50)] * 4) == pytest.approx([50.0] * 4)
    assert len(timed) == 2 + 4


def test_what_is_not_a_list_of_different_devices_is_refused():
    first, second = Remote("pi@one"), Remote("pi@other")
    for devices in (None, first, [first], (first, second)):
        check_devices(devices)
    with pytest.raises(ValueError, match="different devices in `on`, at least one. .* Name each board once"):
        check_devices([first, second, Remote("pi@one")])
    with pytest.raises(ValueError, match="at least one. Received: on=\\[\\]"):
        check_devices([])
    for wrong in ([first, None], [first, "pi@other"], "pi@one"):
        with pytest.raises(TypeError, match="device"):
            check_devices(wrong)
