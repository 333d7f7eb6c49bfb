"""Measure how long a file takes and what memory it needs, in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import TemporaryFolder, read_fields
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, check_count, check_number
from tfprune.export.device.processes import Device, read_job, runner_on, write_job
from tfprune.export.device.runner import (
    MAX_THREADS,
    Runner,
    batch_inputs,
    board_name,
    governor,
    has_avx,
    inputs_from_job,
    inputs_to_job,
    random_inputs,
    temperature,
)
from tfprune.export.device.writer_file import CachedText, PreparedFile, Signatures, is_language_model, signature_names
from tfprune.export.file.container import Source, map_model, read_model, read_source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.xnnpack import Analysis
from tfprune.report import Report, table

# Report of a benchmark: the time and the memory of a file.

_MEBIBYTE = 2**20
_ON_AVX = "x86 processors with AVX have no sparse kernels in XNNPACK; this file is for ARM and browsers"


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
        dense_because: Why a file with sparse weights runs dense on the machine; empty if there is nothing to say.

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
    dense_because: str = ""

    @property
    def decode_speed(self) -> float | None:
        """Of a language model, tokens written in a second; else None."""
        return None if self.prefill_speed is None else 1000 / self.median_ms

    @property
    def spread(self) -> float:
        """How far the medians of the processes lie apart, as a fraction of the median."""
        return (max(self.medians_ms) - min(self.medians_ms)) / self.median_ms if self.medians_ms else 0.0

    def __str__(self) -> str:
        memory = "unknown" if self.peak_memory is None else f"{self.peak_memory / _MEBIBYTE:.1f} MiB"
        rows = [
            ["10 % / 90 % / 99 %", f"{self.p10_ms:.3f} / {self.p90_ms:.3f} / {self.p99_ms:.3f} ms"],
            ["fastest", f"{self.min_ms:.3f} ms"],
            ["peak memory", memory],
            ["file", f"{self.file_bytes:,} bytes"],
            ["runs", f"{self.runs} after {self.warmup}, batch {self.batch_size}, threads {self.threads}"],
            ["runtime", self.runtime],
            ["machine", self.machine],
            *self._state(),
            *([["runs dense", self.dense_because]] if self.dense_because else []),
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


_MODEL = "model.tflite"
_PREFILLS = 3  # timed readings of a prompt
_TIMEOUT = 3600  # a slow board, a large model, and many runs
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class _Measured:
    """The measurements of a process, besides the times."""

    runtime: str
    machine: str
    peak_memory: int | None
    governor: str | None
    temperature: float | None
    prefill_speed: float | None = None
    has_avx: bool = False


def benchmark(
    source: Source,
    samples: Any = None,
    *,
    runs: int = 50,
    warmup: int = 5,
    processes: int | None = None,
    cool_down: float = 1.0,
    threads: int = 1,
    on: Device | None = None,
    batch_size: int = 1,
    verbose: int | str = "auto",
) -> BenchmarkReport:
    """Measure the latency and the peak memory of a file, in a process that does nothing else.

    Each run is a call of `Runner.predict` on the same samples. For a language model of `to_generator`, a run is one
    token that is written, and the report also has the speed at which prompts are read. Use it on the device where the
    file will run, on which alone latency is meaningful.

    Args:
        source: A path, or the bytes of a .tflite file: plain, gzip, xz or packed.
        samples: The samples of each run, in the forms that `Runner.predict` takes. None (the default) draws random
            numbers. Needed for a file that leaves dimensions other than the batch open and does not run with a length
            of 8.
        runs: The number of timed runs, at least 1. Default 50.
        warmup: The number of runs before them, at least 0. Default 5.
        processes: The number of processes that run all of this, one after the other, at least 1. Each has another
            layout in memory, and the report gives the spread between them. None (the default) is 1 on this machine
            and 3 on a device.
        cool_down: Seconds between two processes, at least 0. Default 1.
        threads: Threads of the interpreter, 1 to 1024. Default 1.
        on: The device, such as `Remote("pi@raspberrypi")`; None (the default) is this machine.
        batch_size: The number of random samples in each run, at least 1. Default 1. Not with `samples`.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts the processes.

    Returns:
        A report with the milliseconds of the runs, and the largest memory of a process, which includes Python, NumPy
        and the interpreter. With several processes, the times are those of the process with the median latency. On an
        x86 processor with AVX it says so if the file has sparse kernels elsewhere.

    Raises:
        TypeError: If `source` is neither a path nor bytes, a number is not one, or `on` is not a device.
        ValueError: If a number is out of range, the file cannot be read or does not run, or the device does not
            answer.

    Example:
        >>> print(benchmark("digits.tflite", runs=200))
        median              ... ms
        ------------------  ---...
        10 % / 90 % / 99 %  ... / ... / ... ms
        ...
        runs                200 after 5, batch 1, threads 1
        ...
    """
    settings = {
        "runs": check_count(runs, "runs", least=1),
        "warmup": check_count(warmup, "warmup", least=0),
        "threads": check_count(threads, "threads", least=1, most=MAX_THREADS),
        "batch_size": check_count(batch_size, "batch_size", least=1),
    }
    run = runner_on(on)
    processes = (1 if on is None else 3) if processes is None else check_count(processes, "processes", least=1)
    cool_down = check_number(cool_down, "cool_down", least=0)
    data = read_model(source)
    if is_language_model(signature_names(data)):
        _check_no_samples(samples, batch_size)
    form, arrays = inputs_to_job(samples)
    if samples is not None:
        settings["batch_size"] = _given_batch_size(arrays, batch_size)
    results = []
    check_verbose(verbose)
    with (
        TemporaryFolder() as folder,
        Progress(processes, verbose=verbose, unit="process") as progress,
    ):
        write_job(folder, "job", settings={**settings, "form": form}, arrays=arrays)
        Path(folder, _MODEL).write_bytes(data)
        for process in range(processes):
            if process:
                time.sleep(cool_down)
            completed = run(_benchmark_job, folder, timeout=_TIMEOUT)
            if not completed.ok:
                raise ValueError(_failure(completed.reason.replace(source_name(data), source_name(source))))
            results.append(_read_measured(folder))
            progress.add()
    report = _report(results, file_bytes=len(read_source(source)), settings=settings)
    return replace(report, dense_because=_dense_because(data)) if results[-1][0].has_avx else report


def _dense_on_avx(analysis: Analysis) -> str:
    """Say what becomes of a file on x86 processors with AVX that runs sparse elsewhere.

    A file whose convolutions were rewritten has depthwise kernels with a single entry for each channel, which shift.
    """
    members = {number for group in analysis.groups if group.taken for number in group.members}
    kernels = [
        analysis.graph.values(step.inputs[1])
        for number, step in enumerate(analysis.steps)
        if number in members and step.kind == "DEPTHWISE_CONV_2D"
    ]
    if any(kernel is not None and kernel.nnz == kernel.shape[-1] for kernel in kernels):
        return f"{_ON_AVX}, and 1.2 to 3 times slower here than its dense form (optimize='dense')"
    return _ON_AVX


def _dense_because(data: bytes) -> str:
    """Say why x86 processors with AVX run a file dense; empty for files that have no sparse kernels elsewhere."""
    try:
        file = ModelFile(data)
        return _dense_on_avx(file.analyses[0]) if file.inference.active else ""
    except ValueError:  # a runtime without the schema of files, or a file that nobody can read but run
        return ""


def _failure(reason: str) -> str:
    return (
        f"Expected a file that runs. Received: one whose run failed: {reason}. Check it with `tfprune verify`, or "
        f"pass `samples` that it runs on."
    )


def _read_measured(folder: str) -> tuple[_Measured, np.ndarray]:
    """Read what a process measured, and the milliseconds of each run.

    Raises:
        ValueError: If it is not what `_benchmark_job` writes.
    """
    settings, arrays = read_job(folder, "result")
    times = arrays.get("milliseconds", np.empty(0))
    if times.dtype.kind != "f" or times.ndim != 1 or not times.size or not np.all((times > 0) & (times < np.inf)):
        raise ValueError(
            f"Expected the milliseconds of each run, above 0. Received: an array of shape {times.shape} and type "
            f"{times.dtype}."
        )
    return read_fields(_Measured, settings), times


def _report(
    results: Sequence[tuple[_Measured, np.ndarray]], *, file_bytes: int, settings: dict[str, int]
) -> BenchmarkReport:
    """Return the times of the process in the middle, and what all of them say together."""
    ordered = sorted((times for _, times in results), key=np.median)
    times = ordered[(len(ordered) - 1) // 2]
    devices = [device for device, _ in results]
    p10, p90, p99 = (float(value) for value in np.percentile(times, [10, 90, 99]))
    return BenchmarkReport(
        median_ms=float(np.median(times)),  # as in `medians_ms`: a percentile of 50 may differ in the last bit
        p10_ms=p10,
        p90_ms=p90,
        p99_ms=p99,
        min_ms=float(times.min()),
        peak_memory=_largest(device.peak_memory for device in devices),
        file_bytes=file_bytes,
        runtime=devices[-1].runtime,
        machine=devices[-1].machine,
        medians_ms=tuple(float(np.median(times)) for _, times in results),
        governor=devices[-1].governor,
        temperature=_largest(device.temperature for device in devices),
        prefill_speed=_largest(device.prefill_speed for device in devices),
        dense_because="",  # until it is asked
        **settings,
    )


def _largest(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _benchmark_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    if is_language_model(signature_names(map_model(folder / _MODEL))):
        runtime, times, speed = _written(folder / _MODEL, settings)
    else:
        runtime, times, speed = *_predicted(folder / _MODEL, settings, arrays), None
    device = _Measured(runtime, board_name(), _peak_memory(), governor(), temperature(), speed, has_avx())
    write_job(folder, "result", settings=asdict(device), arrays={"milliseconds": np.array(times)})


def _written(path: Path, settings: dict[str, Any]) -> tuple[str, list[float], float]:
    """Let a language model write, and return its runtime, milliseconds of each token, and tokens read in a second."""
    signatures = Signatures(PreparedFile(path, threads=settings["threads"]).loaded)
    prompt = [0] * min(max(signatures.counts, default=1), signatures.length - 1)
    text = signatures.begin()
    for _ in range(settings["warmup"]):
        text = _with_room(signatures, text)
        text.decode(0)
    seconds = []
    for _ in range(_PREFILLS):
        text = signatures.begin()
        start = time.perf_counter_ns()
        text.prefill(prompt)
        seconds.append((time.perf_counter_ns() - start) / 1e9)
    times = []
    for _ in range(settings["runs"]):
        text = _with_room(signatures, text)
        start = time.perf_counter_ns()
        text.decode(0)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return signatures.runtime, times, len(prompt) / float(np.median(seconds))


def _with_room(signatures: Signatures, text: CachedText) -> CachedText:
    return text if len(text.tokens) < signatures.length else signatures.begin()


def _check_no_samples(samples: Any, batch_size: int) -> None:
    if samples is not None or batch_size != 1:
        seen = "samples" if samples is not None else f"batch_size={batch_size}"
        raise ValueError(
            f"Expected a language model's file without samples or batch_size, as it reads tokens of its own choice, "
            f"one at a time. Received: {seen}. Leave it out."
        )


def _predicted(path: Path, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[str, list[float]]:
    runner = Runner(path.read_bytes(), threads=settings["threads"])
    inputs = inputs_from_job(settings["form"], arrays, draw=partial(_draw, runner, settings["batch_size"]))
    for _ in range(settings["warmup"]):
        runner.predict(inputs)
    times = []
    for _ in range(settings["runs"]):
        start = time.perf_counter_ns()
        runner.predict(inputs)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return runner.runtime, times


def _given_batch_size(arrays: dict[str, np.ndarray], batch_size: int) -> int:
    if batch_size != 1:
        raise ArgumentError(
            "batch_size",
            "either `samples` or `batch_size`",
            found=f"both, batch_size={batch_size}",
            advice=f"Pass {batch_size} samples.",
        )
    return next((len(array) for array in map(np.asarray, arrays.values()) if array.ndim), 1)


def _draw(runner: Runner, batch_size: int) -> list[np.ndarray]:
    if batch_size > 1 and not any(batch_inputs(runner.inputs, runner.outputs)):
        raise ArgumentError(
            "batch_size",
            "batch_size=1 for a file whose inputs and outputs have no batch in common",
            str(batch_size),
            advice="Leave it out.",
        )
    return random_inputs(runner.inputs, runner.outputs, rows=batch_size)


def _peak_memory() -> int | None:
    """Return the high-water mark of this process; what `resource` returns counts the parent's pages, too."""
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


# Several files in turns, in one process: what slows the machine down meets all of them.

_TURN_MS = 2.0  # of each file, at least: a clock that is read less often counts less by itself
_MOST_CALLS = 1000  # in a turn


def times_in_turns(
    files: Sequence[ModelFile], *, turns: int, is_reversed: bool = False, timeout: float = _TIMEOUT
) -> np.ndarray:
    """Measure the processor time of one `predict` of files that take turns on one thread of a new process.

    Processor time does not count what other processes do meanwhile. Memory is laid out in another way in each
    process, which moves the times of both files: the median over several processes is what to compare.

    Args:
        files: The files; each runs on random numbers, the same in all of its turns.
        turns: The number of turns of each.
        is_reversed: Whether the last file is loaded first, and is first in each turn.
        timeout: Seconds after which the process is stopped.

    Returns:
        Milliseconds, (turns, files).

    Raises:
        ValueError: If a file does not run.
    """
    with TemporaryFolder() as folder:
        settings = {"files": len(files), "turns": turns, "is_reversed": is_reversed}
        write_job(folder, "job", settings=settings)
        for index, file in enumerate(files):
            Path(folder, f"{index}.tflite").write_bytes(file.content)
        completed = runner_on(None)(_turns_job, folder, timeout=timeout)
        if not completed.ok:
            raise ValueError(_failure(completed.reason))
        return read_job(folder, "result")[1]["milliseconds"]


def _turns_job(folder: Path) -> None:
    settings, _ = read_job(folder, "job")
    order = [*range(settings["files"])]
    calls: dict[int, Callable[[], Any]] = {}
    for index in reversed(order) if settings["is_reversed"] else order:
        runner = Runner((folder / f"{index}.tflite").read_bytes(), threads=1)
        calls[index] = partial(runner.predict, random_inputs(runner.inputs, runner.outputs, rows=1))
    repeats = max(_repeats(call) for call in calls.values())
    times = np.empty((settings["turns"], len(order)))
    for turn in range(settings["turns"]):
        for index, call in calls.items():  # always in one order: each finds the cache as the others leave it
            call()
            times[turn, index] = _timed(call, repeats)
    write_job(folder, "result", arrays={"milliseconds": times})


def _repeats(call: Callable[[], Any]) -> int:
    """Return how many calls take as long as a turn has to."""
    _timed(call, 5)  # the first ones prepare memory
    return int(np.clip(np.ceil(_TURN_MS / max(_timed(call, 5), 1e-6)), 1, _MOST_CALLS))


def _timed(call: Callable[[], Any], repeats: int) -> float:
    """Return the milliseconds of one call. Windows counts processor time in steps of 16 ms, which are too long."""
    clock = time.perf_counter_ns if sys.platform == "win32" else time.process_time_ns
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / 1e6 / repeats
