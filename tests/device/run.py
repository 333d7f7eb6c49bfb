"""Run the files of make_files.py on the interpreters that devices have, and compare them with Keras.

python run.py FOLDER [native] [emulated] [tflite-runtime]: without a name, all three.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import root
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TIMEOUT = 1800


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
    found = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if not found:
        raise MissingError("python3.11 not found: tflite-runtime 2.14 has nothing newer")
    python = _venv(home / "old", found)
    _pip(python, "tflite-runtime==2.14.0", "numpy<2")
    _pip(python, "--no-deps", "--force-reinstall", str(wheel))
    return Device(python, {})


RUNTIMES: dict[str, Callable[[Path, Path], Device]] = {
    "native": _native,
    "emulated": _emulated,
    "tflite-runtime": _old,
}


def _venv(folder: Path, python: str) -> Path:
    made = folder / "bin/python"
    if not made.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return made


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


def results(device: Device, folder: Path, model: str) -> list[dict]:
    """Check a model's files in one process; the file on which it ended before its time is wrong."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | device.environment
    command = [str(device.python), str(HERE / "check.py"), str(folder), model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    by_file = {line["file"]: line for line in lines} or {model: {"file": model, "begun": True}}
    ending = f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    return [row | ({"wrong": ending} if "begun" in row else {}) for row in by_file.values()]


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    names, home = sys.argv[2:] or list(RUNTIMES), folder.parent
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    wheel = make_wheel(home / "wheel")
    devices, console = {}, Console(width=150)
    for name in names:
        try:
            devices[name] = RUNTIMES[name](home, wheel)
        except MissingError as reason:
            console.print(f"skipped: {name} ({reason})")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            (name, model): pool.submit(results, devices[name], folder, model) for name in devices for model in files
        }
    found = {(name, row["file"]): row for (name, _), job in jobs.items() for row in job.result()}
    table = Table("file", "bytes", "allowed", *devices, title="largest difference from Keras")
    for row in (row for rows in files.values() for row in rows):
        told = [_told(found.get((name, row["file"]), {"wrong": "not reached"})) for name in devices]
        table.add_row(row["file"], f"{(folder / row['file']).stat().st_size:,}", f"{row['tolerance']:g}", *told)
    console.print(table)
    for (name, file), row in found.items():
        for kind in ("wrong", "refused"):
            if kind in row:
                console.print(f"{kind}: {file} on {name}: {row[kind]}", soft_wrap=True)
    reached = len(found) == len(devices) * sum(map(len, files.values()))
    return int(not reached or any("wrong" in row for row in found.values()))


def _told(row: dict) -> str:
    if "wrong" in row:
        return "WRONG"
    if "refused" in row:
        return "refused"
    time = f", {row['milliseconds']:.3g} ms" if "milliseconds" in row else ""
    return f"{row['difference']:.1e}{time}"


if __name__ == "__main__":
    sys.exit(main())
