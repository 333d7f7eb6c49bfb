"""Executors of true workers: pools of this machine, and clusters on loopback that end with their block."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SECONDS = 120  # within which processes start; a busy machine takes longer than the usual moment


@dataclass
class DaskCluster:
    """A scheduler and workers, each a process of its own, on ports that the system chose."""

    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def address(self) -> str:
        file, end = self.folder / "scheduler.json", time.monotonic() + SECONDS
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.1)
        return json.loads(file.read_text(encoding="utf-8"))["address"]

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder)
        self.processes.append(process)
        return process

    def start_worker(self) -> subprocess.Popen:
        quiet = ("--host", "127.0.0.1", "--no-dashboard", "--no-nanny")
        return self.start("dask_worker", self.address, "--nthreads", "1", *quiet)


@contextmanager
def dask_cluster(folder: Path, *, workers: int) -> Iterator[DaskCluster]:
    pytest.importorskip("distributed", reason="needs `pip install distributed`")
    cluster = DaskCluster(folder)
    try:
        file = ("--scheduler-file", "scheduler.json")
        cluster.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *file)
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.kill()
            process.wait()


@contextmanager
def spawned(folder: Path, jobs: int) -> Iterator[Executor]:
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def loky(folder: Path, jobs: int) -> Iterator[Executor]:
    with pytest.importorskip("loky", reason="needs `pip install loky`").ProcessPoolExecutor(jobs) as pool:
        yield pool


@contextmanager
def dask(folder: Path, jobs: int) -> Iterator[Executor]:
    with dask_cluster(folder, workers=jobs) as cluster:
        from distributed import Client

        with Client(cluster.address) as client:
            client.wait_for_workers(jobs, timeout=SECONDS)
            yield client.get_executor()


@contextmanager
def ray(folder: Path, jobs: int) -> Iterator[Executor]:
    rays = pytest.importorskip("ray", reason="needs `pip install ray`")

    class RayExecutor(Executor):
        def submit(self, function, /, *args, **kwargs):
            return rays.remote(function).remote(*args, **kwargs).future()

    rays.init(address="local", num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    try:
        yield RayExecutor()
    finally:
        rays.shutdown()


EXECUTORS = {"spawned": spawned, "loky": loky, "dask": dask, "ray": ray}
