"""Whether the newest runtimes still have XNNPACK's sparse kernels: a sparse file against its dense one.

The files are a MobileNet of 128 pixels whose 1x1 kernels have 90 % zeros. They run in Node, by the newest
@litertjs/core (WebAssembly on this processor), and on emulated ARM processors, by the newest ai-edge-litert and the
newest nightly build of it. Times of an emulator count as ratios only. What cannot be downloaded is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, at_least, at_most

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/kernels"
SIZE, PAIRS_IN_NODE, PAIRS_EMULATED = 128, 25, 5
LEAST = 2.0  # times faster: without sparse kernels it is 1
CLOSE = 1e-4  # a runtime was seen to have kernels that return NaN
WHEELS = ("ai-edge-litert", "ai-edge-litert-nightly")
PROCESSORS = {"cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
sys.path.append(str(ROOT / "tests/device"))


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder))
        return [*in_node(Path(folder)), *emulated(Path(folder))]


def _write_files(folder: Path) -> None:
    import keras
    from device import write_files

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), batch_size=1)
    write_files(keras.applications.MobileNet(input_tensor=image, alpha=0.5, weights=None), folder)
    np.load(folder / "image.npz")["x"].tofile(folder / "image.bin")


def in_node(folder: Path, *, pairs: int = PAIRS_IN_NODE, least: float = LEAST) -> list[Row]:
    """Compare dense.tflite and sparse.tflite of a folder in WebAssembly, on the image in image.bin."""
    home, reason = litert_js()
    if reason:
        return _skipped(f"LiteRT.js: {reason}")
    command = node_command(home, folder, pairs)
    return _rows("@litertjs/core", "WebAssembly in Node", command, dict(os.environ), least=least)


def memory_in_node(folder: Path, *, most: float) -> list[Row]:
    """Compare the most memory that a process of Node takes with each of the same files."""
    home, reason = litert_js()
    if reason:
        return _skipped(f"LiteRT.js: {reason}")
    kilobytes = {}
    for name in ("dense", "sparse"):
        script, file = str(Path(__file__).with_suffix(".mjs")), str(folder / f"{name}.tflite")
        command = ["node", script, str(home), file, file, str(folder / "image.bin"), "0"]
        done = subprocess.run(command, capture_output=True, check=True)
        kilobytes[name] = json.loads(done.stdout.splitlines()[-1])["kilobytes"]
    what = f"most memory of Node, {kilobytes['sparse'] / 1e3:.0f} MB / dense, {kilobytes['dense'] / 1e3:.0f} MB"
    return [at_most(what, kilobytes["sparse"] / kilobytes["dense"], most)]


def litert_js() -> tuple[Path, str]:
    """Install the newest LiteRT.js; return its folder, and why it cannot be used, or an empty text."""
    home = BUILD / "node"
    if missing := [tool for tool in ("node", "npm") if shutil.which(tool) is None]:
        return home, f"{' and '.join(missing)} not found"
    home.mkdir(parents=True, exist_ok=True)
    return home, _failure(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), "@litertjs/core@latest"]
    )


def node_command(home: Path, folder: Path, pairs: int) -> list[str]:
    names = [str(folder / name) for name in ("dense.tflite", "sparse.tflite", "image.bin")]
    return ["node", str(Path(__file__).with_suffix(".mjs")), str(home), *names, str(pairs)]


def emulated(
    folder: Path, *, wheels: Sequence[str] = WHEELS, pairs: int = PAIRS_EMULATED, least: float = LEAST
) -> list[Row]:
    """Compare the same files on emulated processors."""
    python, reason = arm_python()
    if reason:
        return _skipped(f"emulated ARM: {reason}")
    rows = []
    for wheel in wheels:
        site, reason = arm_site(wheel)
        if reason:
            rows += _skipped(f"{wheel}: {reason}")
            continue
        for processor, board in PROCESSORS.items():
            environment = {**environment_of(site), "QEMU_CPU": processor}
            command = paired_command(python, folder, pairs)
            rows += _rows(wheel, f"emulated {processor} ({board})", command, environment, least=least)
    return rows


def arm_python() -> tuple[Path, str]:
    """Return a Python for emulated processors, and why it cannot be used, or an empty text."""
    import root

    if root.obstacle():
        return Path(), root.obstacle()
    try:
        return root.build(ROOT / "build/aarch64"), ""
    except SystemExit as error:  # no network
        return Path(), str(error)


def arm_site(wheel: str) -> tuple[Path, str]:
    """Install the newest wheel for ARM; return its folder, and why it cannot be used, or an empty text."""
    import root

    site = BUILD / wheel
    platforms = [f"--platform={tag}" for tag in root.TAGS]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--pre", "--upgrade"]
    pip += ["--only-binary=:all:", "--python-version=3.13", *platforms, f"--target={site}", wheel]
    return site, _failure(pip)


def paired_command(python: Path, folder: Path, pairs: int) -> list[str]:
    return [str(python), __file__, "--paired", str(folder), str(pairs)]


def environment_of(site: Path) -> dict[str, str]:
    """Return the environment in which `paired_command` finds LiteRT in a folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parent)])}


def _rows(package: str, where: str, command: list[str], environment: dict[str, str], *, least: float) -> list[Row]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:  # it is there and does not run: more than a bar is missed
        sys.stderr.write(done.stderr[-2000:])
        return [Row(f"{package}, {where}", f"exit code {done.returncode}", "runs", holds=False)]
    result = json.loads(done.stdout.splitlines()[-1])
    what = f"{package} {result['version']}, {where}: dense / sparse"
    difference = float("inf") if result["difference"] is None else result["difference"]  # NaN in JSON of JavaScript
    return [
        at_least(what, result["ratio"], least),
        at_most("  outputs of the sparse file from the dense one's, relative", difference, CLOSE, unit="", digits=7),
    ]


def _failure(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["failed"])[-1] if done.returncode else ""


def _skipped(reason: str) -> list[Row]:
    sys.stderr.write(f"skipped: {reason}\n")
    return []


def differences(folder: Path) -> dict[str, dict[str, float]]:
    """Compare the same files of each folder in one on emulated processors.

    Returns:
        For each processor the relative differences, by the names of the folders; infinite for a crash or a refusal.
    """
    import root

    python, by_processor = root.build(ROOT / "build/aarch64"), {}
    for processor in PROCESSORS:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "QEMU_CPU": processor}
        command = [str(python), __file__, "--differences", str(folder)]
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        values = dict(line.split("\t") for line in printed.splitlines())
        by_processor[processor] = {
            each.name: float(values.get(each.name, "inf")) for each in sorted(folder.iterdir())
        }
    return by_processor


def print_differences(folder: Path) -> None:
    """Print a line for each folder in one, each from a child, as a crash ends its process."""
    for each in sorted(folder.iterdir()):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _, difference = _loaded(each)
            print(each.name, difference, sep="\t", flush=True)
            os._exit(0)
        os.waitpid(child, 0)


def paired(folder: Path, pairs: int) -> dict[str, Any]:
    """Time both files in turn, on the processor that this runs on."""
    from importlib.metadata import distributions

    runs, difference = _loaded(folder)
    seconds = [(_seconds(runs[0]), _seconds(runs[1])) for _ in range(pairs)]
    ratio = statistics.median(dense / sparse for dense, sparse in seconds)
    milliseconds = [1e3 * statistics.median(each) for each in zip(*seconds, strict=True)]
    site = os.environ["PYTHONPATH"].partition(os.pathsep)[0]
    version = next(each.version for each in distributions(path=[site]))
    return {"version": version, "ratio": ratio, "milliseconds": milliseconds, "difference": difference}


def _loaded(folder: Path) -> tuple[list[Any], float]:
    """Return the interpreters of both files after a call each, and how far any of their outputs are apart."""
    from ai_edge_litert.interpreter import Interpreter

    image, runs = np.fromfile(folder / "image.bin", np.float32), []
    for name in ("dense", "sparse"):
        interpreter = Interpreter(str(folder / f"{name}.tflite"), num_threads=1)
        interpreter.allocate_tensors()
        (taken,) = interpreter.get_input_details()
        interpreter.set_tensor(taken["index"], image.reshape(taken["shape"]))
        runs.append(interpreter)
    for interpreter in runs:  # the first call may still arrange something
        interpreter.invoke()
    made = ([run.get_tensor(each["index"]) for each in run.get_output_details()] for run in runs)
    return runs, float(np.max([_difference(*pair) for pair in zip(*made, strict=True)]))  # of NaN, NaN


def _difference(dense: np.ndarray, sparse: np.ndarray) -> float:
    """Return the largest difference of an output by its largest entry; NaN if one is NaN, or if that entry is 0."""
    most = float(np.abs(dense - sparse).max())
    return most / float(np.abs(dense).max() or np.nan) if most else 0.0


def _seconds(interpreter: Any) -> float:
    start = time.process_time()
    interpreter.invoke()
    return time.process_time() - start


if __name__ == "__main__":
    if sys.argv[1:2] == ["--paired"]:
        print(json.dumps(paired(Path(sys.argv[2]), int(sys.argv[3]))))
    elif sys.argv[1:2] == ["--differences"]:
        print_differences(Path(sys.argv[2]))
    else:
        for row in measure():
            print("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]))
