"""Run the trainings of a study as tasks of an executor: processes here, or the workers of Dask or Ray."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from sample_apps.study import results
from sample_apps.study.grid import Settings
from sample_apps.study.training import train
from tfprune.models.tasks import run_tasks

TRAIN = """
import json, sys
from sample_apps.study.training import train
print(json.dumps(train(json.load(sys.stdin))))
"""


def run(
    todo: list[Settings], path: Path, *, jobs: int, backend: str, address: str | None
) -> Iterator[dict[str, Any]]:
    """Run trainings; append each result to a file as it comes, and yield it.

    Args:
        todo: Settings of the trainings.
        path: The file of results.
        jobs: Trainings at a time, each on one core.
        backend: "processes" for processes here, "dask" or "ray".
        address: Address of a running Dask scheduler or Ray cluster; None starts one here.
    """
    work = _train_apart if backend == "dask" else _train
    calls = [{"settings": settings} for settings in todo]
    with _executor(backend, jobs, address) as executor:
        trainings = run_tasks(
            work, calls, state=None, pack=lambda _: b"", opened=_nothing, jobs=jobs, executor=executor
        )
        for _, result in trainings:
            results.append(path, result)
            yield result


def _nothing(content: bytes) -> None:
    """Return what trainings share: each reads its data itself."""


def _train(state: None, *, settings: Settings) -> dict[str, Any]:
    return train(settings)


def _train_apart(state: None, *, settings: Settings) -> dict[str, Any]:
    return train_apart(settings)


def train_apart(settings: Settings) -> dict[str, Any]:
    """Train in a process of its own.

    A worker of Dask trains in one thread and, while that runs, draws from Python's random numbers in another. Keras
    takes the seeds of the first weights from there, too.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        input=json.dumps(settings),
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"Expected a training that ends. Received: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def _executor(backend: str, jobs: int, address: str | None) -> Iterator[Executor | None]:
    """Yield what runs the trainings; None for processes here."""
    if backend == "dask":
        from distributed import Client

        with Client(address) if address else Client(n_workers=jobs, threads_per_worker=1) as client:
            yield client.get_executor()
    elif backend == "ray":
        import ray

        class RayExecutor(Executor):
            def submit(self, function, /, *args, **kwargs):
                return ray.remote(num_cpus=1)(function).remote(*args, **kwargs).future()

        ray.init(address=address, num_cpus=None if address else jobs)
        try:
            yield RayExecutor()
        finally:
            ray.shutdown()
    else:
        yield None
