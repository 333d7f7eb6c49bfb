"""Hand the trainings of a study to joblib, which runs them in processes here, or on the workers of Dask or Ray."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib

from sample_apps.study import results
from sample_apps.study.grid import Settings
from sample_apps.study.training import train

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
        backend: "loky" for processes of joblib's own, "dask" or "ray".
        address: Address of a running Dask scheduler or Ray cluster; None starts one here.
    """
    # Ray returns the results of a call all together: there, a call holds as many trainings as run at a time.
    work = train_apart if backend == "dask" else train
    size, way = (jobs, "list") if backend == "ray" else (len(todo), "generator_unordered")
    with _workers(backend, jobs, address):
        parallel = joblib.Parallel(n_jobs=jobs, return_as=way, batch_size=1, pre_dispatch=jobs)
        for first in range(0, len(todo), size):
            for result in parallel(joblib.delayed(work)(settings) for settings in todo[first : first + size]):
                results.append(path, result)
                yield result


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
def _workers(backend: str, jobs: int, address: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if backend == "dask":
            from distributed import Client

            stack.enter_context(Client(address) if address else Client(n_workers=jobs, threads_per_worker=1))
        elif backend == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(address=address, num_cpus=None if address else jobs)
            stack.callback(ray.shutdown)
            register_ray()
        stack.enter_context(joblib.parallel_config(backend=backend))
        yield
