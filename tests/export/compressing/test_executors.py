"""True searches on true workers: the same files as in this process, and workers, schedulers and drivers that die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clusters
import numpy as np
import pytest
import small_search
from small_search import runner, search

from tfprune.base.folders import RunFolder
from tfprune.base.output import ProcessPool
from tfprune.export.compressing.evaluate import workers_of
from tfprune.export.compressing.trials import Recipe

pytestmark = pytest.mark.slow

TRIALS = 2
HALF = Recipe(0.5, 0.0, "unstructured", False, 64, 2, 1, 1e-3, 0)


def files_of(folder):
    """Return the bytes of all files that a search made, trial by trial."""
    contents = []
    for path in [folder / "trials" / "dense.npz", *sorted((folder / "trials").glob("trial-*.npz"))]:
        with np.load(path) as arrays:
            contents.append({name: arrays[name].tobytes() for name in arrays if name.startswith("file_")})
    return contents


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Files of a search in this process, of one more trial than the others."""
    folder = tmp_path_factory.mktemp("here")
    search(folder, trials=TRIALS + 1)
    return files_of(folder)


@pytest.mark.parametrize("name", clusters.EXECUTORS)
def test_one_worker_makes_the_same_files_as_this_process(name, here, tmp_path):
    (tmp_path / "cluster").mkdir()
    with clusters.EXECUTORS[name](tmp_path / "cluster", 1) as executor:
        report = search(tmp_path / "found", trials=TRIALS, jobs=1, executor=executor)
    assert not report.failed
    assert files_of(tmp_path / "found") == here[: TRIALS + 1]


def test_a_worker_that_reads_the_data_itself_makes_the_same_files(here, tmp_path):
    with ProcessPool(1, environment={}) as executor:
        report = search(tmp_path, data=small_search.train_data, trials=TRIALS, jobs=1, executor=executor)
    assert not report.failed
    assert files_of(tmp_path) == here[: TRIALS + 1]


def test_a_killed_driver_is_gone_on_with_on_the_same_cluster(here, tmp_path):
    (tmp_path / "cluster").mkdir()
    found = tmp_path / "found"
    with clusters.dask_cluster(tmp_path / "cluster", workers=1) as cluster:
        command = [sys.executable, small_search.__file__, str(found), str(TRIALS + 1), "1", cluster.address]
        driver = subprocess.Popen(command)
        while driver.poll() is None and not (found / "trials" / "trial-00000.npz").exists():
            time.sleep(0.01)
        driver.kill()
        driver.wait()
        assert not (found / "trials" / f"trial-{TRIALS:05}.npz").exists()
        subprocess.run(command, check=True)
    assert files_of(found) == here


def test_a_worker_that_is_killed_costs_no_trial(tmp_path):
    folder = RunFolder(tmp_path, settings={}, arrays=[])
    with (
        ProcessPool(2, environment={}) as pool,
        workers_of(runner(), folder, jobs=2, executor=pool, seconds=600.0) as workers,
    ):
        pid = pool.submit(os.getpid).result()
        workers.start(HALF, 600.0, None)  # on the process that was idle last
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        recipe, arrays = workers.wait(600.0)
        assert recipe == HALF
        assert "file_0" in arrays
        workers.start(HALF, 0.0, None)
        assert workers.wait(600.0) == (HALF, None), "it was late"


def test_workers_of_dask_that_are_killed_cost_no_trial_and_a_lost_scheduler_is_an_error(tmp_path):
    from distributed import Client

    folder = RunFolder(tmp_path / "found", settings={}, arrays=[])
    (tmp_path / "cluster").mkdir()
    with clusters.dask_cluster(tmp_path / "cluster", workers=1) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(1, timeout=clusters.SECONDS)
        executor = client.get_executor()
        with workers_of(runner(), folder, jobs=1, executor=executor, seconds=600.0) as workers:
            workers.start(HALF, 600.0, None)
            time.sleep(0.5)
            cluster.processes[1].kill()
            cluster.start_worker()
            recipe, arrays = workers.wait(600.0)
            assert recipe == HALF
            assert "file_0" in arrays
            workers.start(HALF, 600.0, None)
            cluster.processes[0].kill()
            with pytest.raises(ValueError, match="it canceled one, as when a scheduler is lost"):
                workers.wait(300.0)


def test_ranks_of_mpi_search_and_scan(tmp_path):
    pytest.importorskip("mpi4py", reason="needs `pip install mpi4py`")
    mpiexec = shutil.which("mpiexec")
    if (
        mpiexec is None
        or "Open MPI" not in subprocess.run([mpiexec, "--version"], capture_output=True, text=True).stdout
    ):
        pytest.skip("needs Open MPI (Debian: apt-get install openmpi-bin)")
    program = Path(small_search.__file__).with_name("mpi_program.py")
    options = ["-n", "3", "--oversubscribe", "--mca", "btl", "self,sm"]  # on this machine alone
    command = [mpiexec, *options, sys.executable, "-m", "mpi4py.futures", str(program), str(tmp_path / "found")]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **root, "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.endswith("True 2 0 True True\n"), done.stdout + done.stderr[-2000:]
