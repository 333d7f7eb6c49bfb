"""What Vela, the compiler for Arm's Ethos-U NPUs, makes of a file: cycles, SRAM, and the bytes of its weights."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfprune.base.spec import check_choice
from tfprune.export.device.processes.child_process import run_job
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite.decode_format import OPERATOR
from tfprune.export.file.tflite.reader import read
from tfprune.export.file.tflite.schema import MissingPackage
from tfprune.report import Report, table

PACKAGE = "ethosu"
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
TIMEOUT = 600.0  # seconds
KIBI = 1024
MODEL, COMPILED = "model.tflite", "model_vela.tflite"
ON_NPU = "ethos-u"  # the operator that stands for all that the NPU runs
UNPACKED = ("DENSIFY", OPERATOR)  # make a weight while the model runs, so that no compiler knows it


@dataclass(frozen=True)
class VelaReport(Report):
    """What a file takes on an Arm Ethos-U NPU, as its compiler estimates it.

    Attributes:
        accelerator: The NPU, and how many multiplications it does in a cycle.
        system: The clock and the memories that were assumed, by their name in the compiler's configuration.
        memory: What lies in which of them, by its name there.
        cycles: The cycles of one inference, without what the processor runs.
        microseconds: The same as time.
        sram: The bytes of SRAM for activations, and weights on their way.
        weights: The number of weights, as the compiler counts them.
        weight_bytes: What these take in the compiler's own compressed form.
        storage: The bytes of flash or DRAM for weights, biases and commands.
        on_cpu: The operators that are left to the processor: by name, how often each occurs.
        compiler: The name and version of the compiler.

    Example:
        >>> report = tfprune.export.vela("ethos-u55-128").report(model)
        >>> report.weight_bytes < report.weights  # as nine in ten are 0
        True
    """

    accelerator: str
    system: str
    memory: str
    cycles: int
    microseconds: float
    sram: int
    weights: int
    weight_bytes: int
    storage: int
    on_cpu: dict[str, int]
    compiler: str

    def __str__(self) -> str:
        left = ", ".join(f"{count} {name}" for name, count in self.on_cpu.items())
        rows = [
            ["one inference", f"{self.microseconds:,.1f} us"],
            ["SRAM", f"{self.sram:,} bytes"],
            ["weights", f"{self.weight_bytes:,} bytes for {self.weights:,} of 8 bits"],
            ["flash or DRAM", f"{self.storage:,} bytes"],
            ["on the processor", left or "none"],
            ["assumed", f"{self.system}, {self.memory}"],
            ["estimated by", self.compiler],
        ]
        return table([f"on {self.accelerator}", f"{self.cycles:,} cycles"], rows, left=2)


def check_accelerator(accelerator: Any) -> None:
    """Refuse NPUs that do not exist, and all of them without the compiler.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If there is no such NPU; or (also an ImportError) if ethos-u-vela is not installed.
    """
    check_choice(accelerator, "accelerator", choices=ACCELERATORS)
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingPackage(
            "Expected ethos-u-vela, the compiler for Arm's Ethos-U. Received: it is not installed. "
            'Run pip install "tfprune[vela]".'
        )


def compile_file(source: Source, accelerator: str, *, system: str | None, memory: str | None) -> VelaReport:
    """Compile a file in a process of its own; see `vela`.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or an argument has another type.
        ValueError: If the file cannot be read, makes its weights while it runs, or holds nothing for the NPU, or the
            compiler refuses it or a name.
    """
    check_accelerator(accelerator)
    file = ModelFile.open(source)
    content, ops = file.content, file.graph.ops
    runtime = [name for name in UNPACKED if name in ops]
    if runtime:
        raise ValueError(
            f"Expected a file with its weights as they are, which the compiler packs itself. Received: {runtime[0]}, "
            "which makes them while the model runs. Write the file with optimize='dense' and without target='micro'."
        )
    with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(content)
        options = {"--accelerator-config": accelerator, "--system-config": system, "--memory-mode": memory}
        write_job(folder, "job", settings={option: value for option, value in options.items() if value is not None})
        completed = run_job(_run_job, folder, timeout=TIMEOUT)
        if not completed.ok:
            said = completed.reason.rpartition("Error: ")[2].rstrip("'")
            raise ValueError(
                f"Expected a file that Vela compiles for {accelerator}, and names of its configuration. Received: "
                f"{said}. It takes dense int8 files: to_tflite(quantize='int8', optimize='dense')."
            )
        with next(folder.glob("*_summary_*.csv")).open(encoding="utf-8", newline="") as stream:
            summary = next(csv.DictReader(stream))
        left = {name: count for name, count in read((folder / COMPILED).read_bytes()).ops.items() if name != ON_NPU}
    return _report(summary, accelerator, on_cpu=left, ops=ops)


def _report(summary: dict[str, str], accelerator: str, *, on_cpu: dict[str, int], ops: dict[str, int]) -> VelaReport:
    cycles = int(summary["cycles_total"])
    if not cycles:
        raise ValueError(
            f"Expected a file with operators for {accelerator}, which computes with integers. Received: none of "
            f"{', '.join(ops)} runs there. Write an int8 file: to_tflite(quantize='int8', io_dtype='int8')."
        )
    stores = ("dram_memory_used", "on_chip_flash_memory_used", "off_chip_flash_memory_used")
    return VelaReport(
        accelerator=accelerator,
        system=summary["system_config"],
        memory=summary["memory_mode"],
        cycles=cycles,
        microseconds=float(summary["inference_time"]) * 1e6,
        sram=math.ceil(float(summary["sram_memory_used"]) * KIBI),
        weights=int(summary["total_original_weights"]),
        weight_bytes=int(summary["total_npu_encoded_weights"]),
        storage=math.ceil(sum(float(summary[store]) for store in stores) * KIBI),
        on_cpu=on_cpu,
        compiler=f"Vela {importlib.metadata.version('ethos-u-vela')}",
    )


def _run_job(folder: Path) -> None:
    from ethosu.vela.vela import main

    settings, _ = read_job(folder, "job")
    options = [part for pair in settings.items() for part in pair]
    if main([str(folder / MODEL), "--output-dir", str(folder), *options]):
        raise ValueError("Vela ended with an error")
