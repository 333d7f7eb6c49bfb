"""How long a file takes, and what memory."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table

MEBIBYTE = 2**20


@dataclass(frozen=True)
class BenchmarkReport(Report):
    """How long one `predict` takes in a process of its own, and what memory that process needed.

    Attributes:
        median_ms: Median over the runs, in milliseconds.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        min_ms: The fastest run.
        peak_memory: Largest resident memory of the whole process, interpreter and Python included, in bytes;
            None where the system does not tell.
        file_bytes: Size of the file as given.
        runtime: The interpreter, with its version.
        machine: Architecture and, where known, processor.
        runs: Number of timed runs.
        warmup: Number of runs before them.
        threads: Threads of the interpreter.
        batch: Rows in each run.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    peak_memory: int | None
    file_bytes: int
    runtime: str
    machine: str
    runs: int
    warmup: int
    threads: int
    batch: int

    def __str__(self) -> str:
        memory = "unknown" if self.peak_memory is None else f"{self.peak_memory / MEBIBYTE:.1f} MiB"
        rows = [
            ["10 % / 90 % / 99 %", f"{self.p10_ms:.3f} / {self.p90_ms:.3f} / {self.p99_ms:.3f} ms"],
            ["fastest", f"{self.min_ms:.3f} ms"],
            ["peak memory", memory],
            ["file", f"{self.file_bytes:,} bytes"],
            ["runs", f"{self.runs} after {self.warmup}, batch {self.batch}, threads {self.threads}"],
            ["runtime", self.runtime],
            ["machine", self.machine],
        ]
        return table(["median", f"{self.median_ms:.3f} ms"], rows, left=2)
