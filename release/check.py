"""Build twice, compare, and try the wheel with each extra in an environment in which nothing else is installed.

    make release-check                          # all extras; downloads what they need
    .venv/bin/python release/check.py device    # those that are named

release/trials.py says what an extra has to make possible. An extra without a trial fails the check.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from distributions import ROOT, build_distributions
from typed_names import check_types

TRIALS = Path(__file__).with_name("trials.py").resolve()
DATA = ("device/page/*", "file/readers/*", "micro/*.json", "micro/templates/*")  # of the package, besides modules
# What tests and other checks install: `make test`, `make test-backends`, `make fuzz`.
TRIED_ELSEWHERE = {"dev", "backends", "fuzz"}
BESIDE_TRAINING = {"plot", "tensorboard"}  # which add something to the extra `train`


def main(wanted: list[str]) -> int:
    os.environ.setdefault("UV_LINK_MODE", "copy" if sys.platform == "win32" else "hardlink")
    files = build_distributions(ROOT / "build" / "dist")
    subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], check=True, stdout=subprocess.DEVNULL
    )
    sdist, wheel = files
    check_content(wheel)
    extras = wanted or ["nothing", *extras_of_setup()]
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(os.cpu_count()) as pool:
        types = pool.submit(check_types, sdist)  # mypy has one process
        again = pool.submit(check_same, files, Path(home) / "again")
        for extra, seconds in zip(extras, pool.map(partial(try_extra, wheel, Path(home)), extras), strict=True):
            print(f"{extra}: installed and tried in {seconds:.0f} s", flush=True)
        types.result()
        again.result()
    return 0


def check_same(files: list[Path], folder: Path) -> None:
    """Build once more, and refuse files that have other bytes."""
    builds = [[path.read_bytes() for path in each] for each in (files, build_distributions(folder))]
    assert builds[0] == builds[1], "two builds of one commit differ"


def extras_of_setup() -> list[str]:
    """Return the extras, those with TensorFlow last: it stays installed, and compiled, from one to the next."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    training = {extra for extra in extras if "tensorflow" in extras[extra]} | BESIDE_TRAINING
    return sorted(set(extras) - TRIED_ELSEWHERE, key=lambda extra: (extra in training, extra))


def check_content(wheel: Path) -> None:
    """Refuse a wheel that lacks a module, or holds something else than the package."""
    folders = {"tfprune": ROOT / "tfprune", "tfprune/export": ROOT / "export"}
    expected = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in [*folder.rglob("*.py"), *(path for pattern in DATA for path in folder.glob(pattern))]
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected.add("tfprune/py.typed")
    assert found == expected, sorted(found ^ expected)


def try_extra(wheel: Path, home: Path, extra: str) -> float:
    """Install the wheel and an extra, remove all else, and run the trial of that extra; return the seconds."""
    start = time.perf_counter()
    venv = home / threading.current_thread().name
    if not venv.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, venv], check=True)
    programs = venv / ("Scripts" if sys.platform == "win32" else "bin")
    names = {"nothing": ""}.get(extra, f"train,{extra}" if extra in BESIDE_TRAINING else extra)
    package = f"{wheel}[{names}]" if names else str(wheel)
    subprocess.run(["uv", "pip", "install", "--quiet", "--exact", "--python", venv, package], check=True)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
    trial = [programs / "python", TRIALS, extra.replace("-", "_")]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(trial, check=True, cwd=folder, env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
