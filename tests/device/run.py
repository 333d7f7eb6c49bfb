"""Run the files of make_files.py on the interpreters that devices have, and compare them with Keras.

python run.py FOLDER [native] [emulated] [tflite-runtime]: without a name, all three.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import root
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TIMEOUT = 1800
BAD = {"wrong": "WRONG", "crash": "CRASH"}
OLD = "tflite-runtime"  # has not all operators of newer files: only there is a refusal an answer


class MissingError(Exception):
    """What a runtime needs and this machine does not have."""


@dataclass(frozen=True)
class Device:
    """A Python that has the device half of tfprune and nothing else, and what its environment adds."""

    python: Path
    environment: dict[str, str]


def _native(home: Path, wheel: Path) -> Device:
    """The interpreter of the `device` extra on this machine's processor."""
    python = _venv(home / "native", sys.executable)
    _pip(python, f"{wheel}[device]")
    _pip(python, "--no-deps", "--force-reinstall", str(wheel))  # of the same version, and still not the one there
    return Device(python, {})


def _emulated(home: Path, wheel: Path) -> Device:
    """The same interpreter on the processor of a Raspberry Pi 4."""
    if root.obstacle():
        raise MissingError(root.obstacle())
    python, site = root.build(home / "aarch64"), home / "aarch64-tfprune"
    shutil.rmtree(site, ignore_errors=True)
    _pip(Path(sys.executable), "--no-deps", f"--target={site}", str(wheel))
    return Device(python, {"PYTHONPATH": str(site)})


def _old(home: Path, wheel: Path) -> Device:
    """The last tflite-runtime, which 32-bit systems have: Python 3.11 at most, NumPy 1."""
    program = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if not program:
        raise MissingError("python3.11 not found: tflite-runtime 2.14 has nothing newer")
    python = _venv(home / "old", program)
    _pip(python, "tflite-runtime==2.14.0", "numpy<2")
    _pip(python, "--no-deps", "--force-reinstall", str(wheel))
    return Device(python, {})


RUNTIMES: dict[str, Callable[[Path, Path], Device]] = {
    "native": _native,
    "emulated": _emulated,
    OLD: _old,
}


def _venv(folder: Path, python: str) -> Path:
    program = folder / "bin/python"
    if not program.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return program


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


def make_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        f"--wheel-dir={folder}",
        str(HERE.parents[1]),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("tfprune-*.whl"))


def devices(names: Iterable[str], home: Path, console: Console) -> dict[str, Device]:
    """Set up the runtimes of these names; say which cannot be had here."""
    wheel, paths = make_wheel(home / "wheel"), {}
    with ThreadPoolExecutor() as pool:  # most of it waits for downloads
        jobs = {name: pool.submit(RUNTIMES[name], home, wheel) for name in names}
    for name, job in jobs.items():
        try:
            paths[name] = job.result()
        except MissingError as reason:
            console.print(f"skipped: {name} ({reason})")
    return paths


def results(devices: Mapping[str, Device], folder: Path, files: Mapping[str, list[dict]]) -> dict:
    """Run all files on all devices; return what became of each, by the names of device and file."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            (name, model): pool.submit(_of_model, device, folder, model, [row["file"] for row in rows])
            for name, device in devices.items()
            for model, rows in files.items()
        }
    return {(name, row["file"]): row for (name, _), job in jobs.items() for row in job.result()}


def _of_model(device: Device, folder: Path, model: str, files: list[str]) -> list[dict]:
    """Check a model's files in one process, and in a new one those after a file that ended it."""
    rows: list[dict] = []
    while len(rows) < len(files):
        new_rows, ending = _run(device, [str(folder), model, str(len(rows))])
        rows += new_rows
        if len(rows) < len(files):
            rows.append({"file": files[len(rows)], "crash": ending})
    return rows


def _run(device: Device, arguments: list[str]) -> tuple[list[dict], str]:
    """Return what check.py says of the files that it came to the end of, and how it ended."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | device.environment
    command = [str(device.python), str(HERE / "check.py"), *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told, tempfile.TemporaryFile("w+") as errors:
        try:
            code = subprocess.run(
                command, env=environment, stdout=told, stderr=errors, timeout=TIMEOUT, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"nothing after {TIMEOUT} s"
        told.seek(0)
        errors.seek(0)
        lines = [json.loads(line) for line in told if line.startswith("{")]
        return [line for line in lines if "begun" not in line], f"ended with {code}: {errors.read().strip()[-300:]}"


def main() -> int:
    folder, console = Path(sys.argv[1]).resolve(), Console(width=150)
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    runtimes = devices(sys.argv[2:] or RUNTIMES, folder.parent, console)
    by_file = results(runtimes, folder, files)
    table = Table("file", "bytes", "allowed", *runtimes, title="largest difference from Keras")
    for row in (row for rows in files.values() for row in rows):
        outcomes = [outcome(by_file[name, row["file"]]) for name in runtimes]
        table.add_row(row["file"], f"{(folder / row['file']).stat().st_size:,}", f"{row['tolerance']:g}", *outcomes)
    console.print(table)
    tell(by_file, console)
    return int(any(is_bad(name, row) for (name, _), row in by_file.items()))


def is_bad(runtime: str, row: Mapping[str, object]) -> bool:
    """Tell whether what became of a file on a runtime is a failure."""
    return bool(row.keys() & set(BAD)) or ("refused" in row and runtime != OLD)


def tell(by_file: Mapping[tuple[str, str], dict], console: Console) -> None:
    """Print why files are wrong or were refused."""
    for (name, file), row in by_file.items():
        for kind in (*BAD, "refused"):
            if kind in row:
                console.print(f"{kind}: {file} on {name}: {row[kind]}", soft_wrap=True, markup=False)


def outcome(row: dict) -> str:
    """Put what became of a file into a word or a number."""
    for kind, word in (*BAD.items(), ("refused", "refused")):
        if kind in row:
            return word
    if "same" in row:
        return "same bytes"
    time = f", {row['milliseconds']:.3g} ms" if "milliseconds" in row else ""
    return f"{row['difference']:.1e}{time}"


if __name__ == "__main__":
    sys.exit(main())
