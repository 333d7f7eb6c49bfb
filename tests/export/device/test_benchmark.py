"""benchmark: order and units of what it tells; how fast is never tested."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from tfprune.export.device import benchmark as benchmark_module
from tfprune.export.device.benchmark import _Measured, benchmark, times_in_turns
from tfprune.export.device.processes import Completed, read_job, write_job
from tfprune.export.file.container import encode
from tfprune.export.file.model_file import ModelFile


def test_a_packed_file_is_measured(cases):
    packed = encode(cases["int8"].data, "xz")
    start = time.perf_counter()
    report = benchmark(packed, runs=7, warmup=1, threads=2, batch_size=3)
    elapsed_ms = 1000 * (time.perf_counter() - start)
    assert 0 < report.min_ms <= report.p10_ms <= report.median_ms <= report.p90_ms <= report.p99_ms < elapsed_ms
    assert (report.runs, report.warmup, report.threads, report.batch_size) == (7, 1, 2, 3)
    assert report.file_bytes == len(packed)
    assert report.runtime.startswith("ai-edge-litert ")
    assert report.machine
    if report.peak_memory is not None:
        assert 10 * 2**20 < report.peak_memory < 2**30


@pytest.mark.parametrize("name", ["two", "tokens", "fixed"])
def test_every_kind_of_input_is_made_up(cases, name):
    assert benchmark(cases[name].path, runs=1, warmup=0).median_ms > 0


def test_memory_is_that_of_the_child(cases):
    """This process has TensorFlow in memory; the child must not be charged for it."""
    report = benchmark(cases["dense"].path, runs=1)
    if report.peak_memory is not None:
        assert report.peak_memory < benchmark_module._peak_memory()


def test_percentiles_by_hand():
    settings = {"runs": 5, "warmup": 0, "threads": 1, "batch_size": 1}
    times = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    told = {"runtime": "r", "peak_memory": None, "machine": "m", "governor": None, "temperature": None}
    report = benchmark_module._report([(_Measured(**told), times)], file_bytes=9, settings=settings)
    assert (report.min_ms, report.p10_ms, report.median_ms, report.p90_ms) == (1.0, 1.4, 3.0, 4.6)
    assert report.medians_ms == (3.0,) and report.spread == 0 and "spread" not in str(report)


def test_of_several_processes_the_one_in_the_middle_is_told_and_how_far_they_lie_apart():
    settings = {"runs": 1, "warmup": 0, "threads": 1, "batch_size": 1}
    told = {"runtime": "r", "machine": "m", "governor": "ondemand"}
    results = [
        (_Measured(**told, peak_memory=memory, temperature=warm), np.array([time]))
        for time, memory, warm in ((4.0, 5, 40.0), (2.0, 7, 51.5), (5.0, None, None))
    ]
    report = benchmark_module._report(results, file_bytes=9, settings=settings)
    assert (report.median_ms, report.medians_ms, report.spread) == (4.0, (4.0, 2.0, 5.0), 0.75)
    assert (report.peak_memory, report.temperature, report.governor) == (7, 51.5, "ondemand")
    lines = [line.split(maxsplit=1) for line in str(report).splitlines()]
    assert ["spread", "75.0%: 4.000 / 2.000 / 5.000 ms"] in lines and ["temperature", "51.5 °C"] in lines


def test_processes_run_with_pauses_between(cases, monkeypatch):
    slept, calls, run = [], [], benchmark_module.runner_on(None)
    monkeypatch.setattr(benchmark_module, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(
        benchmark_module, "runner_on", lambda on: lambda *args, **kwargs: calls.append(1) or run(*args, **kwargs)
    )
    report = benchmark(cases["dense"].path, runs=2, warmup=0, processes=2, cool_down=0.25)
    assert len(calls) == len(report.medians_ms) == 2 and slept == [0.25]
    assert report.median_ms == min(report.medians_ms)


def test_memory_is_read_where_the_system_tells(tmp_path, monkeypatch):
    status = tmp_path / "status"
    monkeypatch.setattr(benchmark_module, "_STATUS", status)
    assert benchmark_module._peak_memory() is None
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")
    assert benchmark_module._peak_memory() == 2 * 2**20


def test_given_inputs_are_run_and_their_rows_reported(cases):
    case = cases["two"]
    assert benchmark(case.path, samples=case.inputs, runs=1, warmup=0).batch_size == 5
    assert benchmark(case.path, samples=list(case.inputs.values()), runs=1, warmup=0).batch_size == 5
    with pytest.raises(ValueError, match="'vector' 2x9"):
        benchmark(cases["dense"].path, samples=np.zeros((2, 9)), runs=1)
    with pytest.raises(ValueError, match="either `samples` or `batch_size`. Received: both, batch_size=3"):
        benchmark(case.path, samples=case.inputs, batch_size=3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *(({name: -1}, ValueError) for name in ("runs", "warmup", "threads", "batch_size")),
        *(({"batch_size": value}, TypeError) for value in (1.5, True, None, "2")),
        ({"processes": 0}, ValueError),
    ],
)
def test_numbers_out_of_range_are_refused(cases, arguments, error):
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(error, match=f"Expected `{name}` to be an integer.*Received: {name}={value!r}"):
        benchmark(cases["dense"].path, **arguments)


def test_files_that_do_not_run_are_refused_with_the_reason(cases, refused, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="whose run failed: .*cannot load"):
        benchmark(refused)
    path = tmp_path / "refused.tflite"
    path.write_bytes(encode(refused, "xz"))
    with pytest.raises(ValueError, match=r"Received: '.*refused\.tflite', which ai-edge-litert .* cannot load"):
        benchmark(path)
    with pytest.raises(ValueError, match="from 1 to 1024. Received: threads=1099511627776.$"):
        benchmark(path, threads=2**40)
    with pytest.raises(ValueError, match="does not exist"):
        benchmark(tmp_path / "missing")
    crash = Completed(ok=False, reason="killed by SIGBUS", output="")
    monkeypatch.setattr(benchmark_module, "runner_on", lambda on: lambda *args, **kwargs: crash)
    with pytest.raises(ValueError, match="killed by SIGBUS"):
        benchmark(cases["dense"].path)


@pytest.mark.parametrize("is_reversed", [False, True])
def test_files_take_turns_in_one_process(is_reversed, cases):
    files = [ModelFile.open(cases[name].data) for name in ("dense", "int8")]
    times = times_in_turns(files, turns=5, is_reversed=is_reversed)
    assert times.shape == (5, 2) and (times > 0).all() and (times < 1000).all()


def test_a_file_that_does_not_run_takes_no_turn(cases):
    with pytest.raises(ValueError, match="Expected a file that runs. Received: one whose run failed"):
        times_in_turns([ModelFile(cases["dense"].data[:200])], turns=5)


def test_turns_by_a_clock_that_is_known(tmp_path, monkeypatch):
    """Two files whose calls take 1 and 3 milliseconds, after five calls each that count how many make a turn."""
    now, order = [0], []

    class Slow:
        inputs = outputs = ()

        def __init__(self, content, threads):
            self.ms = int(content)

        def predict(self, samples):
            order.append(self.ms)
            now[0] += self.ms * 1_000_000

    monkeypatch.setattr(benchmark_module, "Runner", Slow)
    monkeypatch.setattr(benchmark_module, "random_inputs", lambda *_, rows: [])
    monkeypatch.setattr(benchmark_module.time, "process_time_ns", lambda: now[0])
    for index, content in enumerate(("1", "3")):
        (tmp_path / f"{index}.tflite").write_text(content)
    write_job(tmp_path, "job", settings={"files": 2, "turns": 3, "is_reversed": True})
    benchmark_module._turns_job(tmp_path)
    assert read_job(tmp_path, "result")[1]["milliseconds"].tolist() == [[1, 3]] * 3
    assert order[20:] == [3, 3, 3, 1, 1, 1] * 3  # the last file first; one call that is not timed, and a turn of two
