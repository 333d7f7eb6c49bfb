"""The files of sample_apps/fast_zeros.py against the dense ones, in turns, in processor time of one thread.

    python sample_apps/fast_zeros.py --seeds 3
    python bench/trained_zeros.py fast-zeros-output               # WebAssembly in Node, and this processor
    python bench/trained_zeros.py fast-zeros-output --emulated    # also emulated ARM processors, first seed only

Writes a line of JSON for each comparison to times.jsonl in the folder; those that are there are not measured again.
`python sample_apps/fast_zeros.py --seeds 3 --resume` then prints the tables with the times.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kernels
import numpy as np

from tfprune.export.file.model_file import ModelFile

sys.path.append(str(kernels.ROOT))
from sample_apps.data.lines import Line, gathered, read

PAIRS = {"WebAssembly": 15, platform.machine(): 51} | dict.fromkeys(kernels.PROCESSORS, 3)
DENSE, INT8 = ("dense", "float32"), "int8"  # ways, with forms
Runtime = tuple[Callable[[Path, int], list[str]], dict[str, str] | None]  # the command, and its environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--emulated", action="store_true")
    options = parser.parse_args()
    lines = read(options.folder / "results.jsonl")
    dense = {(line["seed"], line["network"]): line["file"] for line in lines if (line["way"], line["form"]) == DENSE}
    wanted = {
        (line["file"], where): partial(
            measured, line, dense[line["seed"], line["network"]], where, runtime, options.folder
        )
        for where, runtime in runtimes(is_emulated=options.emulated)
        for line in lines
        if (line["way"], line["form"]) != DENSE and (where not in kernels.PROCESSORS or is_emulated(line))
    }
    gathered(options.folder / "times.jsonl", wanted, resume=True, key=lambda line: (line["file"], line["where"]))


def is_emulated(line: Line) -> bool:
    """Tell whether a file runs on emulated processors: those of a seed, and none in int8.

    QEMU computes floats by software, and so makes any file of integers look fast.
    """
    return line["seed"] == 0 and line["form"] != INT8


def runtimes(*, is_emulated: bool) -> Iterator[tuple[str, Runtime]]:
    """Yield each runtime that this machine has."""
    home, reason = kernels.litert_js()
    if reason:
        sys.exit(f"LiteRT.js: {reason}")
    yield "WebAssembly", (partial(kernels.node_command, home), None)
    here = kernels.environment_of(Path(sysconfig.get_path("purelib")))
    yield platform.machine(), (partial(kernels.paired_command, Path(sys.executable)), here)
    if is_emulated:
        (python, reason), (site, missing) = kernels.arm_python(), kernels.arm_site(kernels.WHEELS[0])
        if reason or missing:
            sys.exit(f"emulated ARM: {reason or missing}")
        for processor in kernels.PROCESSORS:
            environment = {**kernels.environment_of(site), "QEMU_CPU": processor}
            yield processor, (partial(kernels.paired_command, python), environment)


def measured(line: Line, dense: str, where: str, runtime: Runtime, folder: Path) -> list[Line]:
    command, environment = runtime
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        shutil.copy(folder / dense, home / "dense.tflite")
        shutil.copy(folder / line["file"], home / "sparse.tflite")
        shape = ModelFile.open((home / "dense.tflite").read_bytes()).graph.inputs[0].shape
        np.random.default_rng(0).random(shape, dtype=np.float32).tofile(home / "image.bin")
        done = subprocess.run(
            command(home, PAIRS[where]), env=environment, capture_output=True, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(line["file"], where, f"{found['ratio']:.2f}x", found["milliseconds"], sep="\t", flush=True)
    kept = {name: line[name] for name in ("file", "seed", "network", "way", "form")}
    return [kept | {"where": where} | found]


if __name__ == "__main__":
    main()
