"""Report of a benchmark: the time and the memory of a file."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table

MEBIBYTE = 2**20


@dataclass(frozen=True)
class BenchmarkReport(Report):
    """The time of one `predict`, or of one token, in a process of its own, and the memory of that process.

    Attributes:
        median_ms: The median over the runs, in milliseconds.
        p10_ms: The 10th percentile, in milliseconds.
        p90_ms: The 90th percentile, in milliseconds.
        p99_ms: The 99th percentile, in milliseconds.
        min_ms: The time of the fastest run, in milliseconds.
        peak_memory: The largest resident memory of the whole process, with interpreter and Python, in bytes; None if
            the system does not report it.
        file_bytes: The size of the file as given, in bytes.
        runtime: The interpreter and its version.
        machine: The architecture and, where known, the processor.
        runs: The number of timed runs.
        warmup: The number of runs before the timed ones.
        threads: The number of threads of the interpreter.
        batch_size: The number of samples in each run.
        medians_ms: The median of each process that measured, in the order in which they ran.
        governor: What sets the clock of the processor; None if the system does not say.
        temperature: The highest one right after a measurement, in degrees Celsius; None if there is no sensor.
        prefill_speed: Of a language model, tokens of a prompt read in a second; else None.

    Example:
        >>> report = tfprune.export.benchmark("digits.tflite", runs=100)
        >>> 0 < report.median_ms <= report.p99_ms
        True
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
    batch_size: int
    medians_ms: tuple[float, ...] = ()
    governor: str | None = None
    temperature: float | None = None
    prefill_speed: float | None = None

    @property
    def decode_speed(self) -> float | None:
        """Of a language model, tokens written in a second; else None."""
        return None if self.prefill_speed is None else 1000 / self.median_ms

    @property
    def spread(self) -> float:
        """How far the medians of the processes lie apart, as a fraction of the median."""
        return (max(self.medians_ms) - min(self.medians_ms)) / self.median_ms if self.medians_ms else 0.0

    def __str__(self) -> str:
        memory = "unknown" if self.peak_memory is None else f"{self.peak_memory / MEBIBYTE:.1f} MiB"
        rows = [
            ["10 % / 90 % / 99 %", f"{self.p10_ms:.3f} / {self.p90_ms:.3f} / {self.p99_ms:.3f} ms"],
            ["fastest", f"{self.min_ms:.3f} ms"],
            ["peak memory", memory],
            ["file", f"{self.file_bytes:,} bytes"],
            ["runs", f"{self.runs} after {self.warmup}, batch {self.batch_size}, threads {self.threads}"],
            ["runtime", self.runtime],
            ["machine", self.machine],
            *self._state(),
        ]
        if len(self.medians_ms) > 1:
            medians = " / ".join(f"{median:.3f}" for median in self.medians_ms)
            rows.insert(1, ["spread", f"{self.spread:.1%}: {medians} ms"])
        if self.prefill_speed is not None:
            rows = [
                ["prefill", f"{self.prefill_speed:,.0f} tokens per second"],
                ["decode", f"{self.decode_speed:,.1f} tokens per second"],
                *rows,
            ]
        return table(["median", f"{self.median_ms:.3f} ms"], rows, left=2)

    def _state(self) -> list[list[str]]:
        warm = [] if self.temperature is None else [["temperature", f"{self.temperature:.1f} °C"]]
        return ([["governor", self.governor]] if self.governor else []) + warm
