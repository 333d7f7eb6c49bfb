"""benchmark: order and units of what it tells; how fast is never tested."""

import time

import numpy as np
import pytest

from tfprune.export.files.codec import encode
from tfprune.export.report import TensorInfo
from tfprune.export.running import benchmark as benchmark_module
from tfprune.export.running.benchmark import benchmark
from tfprune.export.running.child_process import Completed
from tfprune.export.running.io_tensor import random_input


def test_a_packed_file_is_measured(cases):
    packed = encode(cases["int8"].data, "xz")
    start = time.perf_counter()
    report = benchmark(packed, runs=7, warmup=1, threads=2, batch=3)
    elapsed_ms = 1000 * (time.perf_counter() - start)
    assert 0 < report.min_ms <= report.p10_ms <= report.median_ms <= report.p90_ms <= report.p99_ms < elapsed_ms
    assert (report.runs, report.warmup, report.threads, report.batch) == (7, 1, 2, 3)
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


def test_inputs_are_the_same_each_time():
    info = TensorInfo("x", (None, None, 3), "float32")
    first, second = random_input(info, 4), random_input(info, 4)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4, 8, 3)
    tokens = random_input(TensorInfo("t", (1, 6), "int32"), 2)
    assert tokens.shape == (2, 6)
    assert set(tokens.ravel()) <= {0, 1}
    assert random_input(TensorInfo("s", (), "float32"), 2).shape == ()


def test_a_random_input_larger_than_memory_is_refused():
    with pytest.raises(
        ValueError, match=r"Expected an input 'x' of at most .* Received: the shape \(1, 2147483647\)"
    ):
        random_input(TensorInfo("x", (None, 2**31 - 1), "float32"), 1)


def test_percentiles_by_hand():
    settings = {"runs": 5, "warmup": 0, "threads": 1, "batch": 1}
    times = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    report = benchmark_module._report(times, file_bytes=9, settings=settings, runtime="r", peak_memory=None)
    assert (report.min_ms, report.p10_ms, report.median_ms, report.p90_ms) == (1.0, 1.4, 3.0, 4.6)


def test_memory_and_processor_are_read_where_the_system_tells(tmp_path, monkeypatch):
    status = tmp_path / "status"
    monkeypatch.setattr(benchmark_module, "STATUS", status)
    assert benchmark_module._peak_memory() is None
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")
    assert benchmark_module._peak_memory() == 2 * 2**20
    board, processors = tmp_path / "model", tmp_path / "cpuinfo"
    monkeypatch.setattr(benchmark_module, "PROCESSOR", (board, processors))
    processors.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert benchmark_module._processor() == "Some CPU @ 2 GHz"
    board.write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    assert benchmark_module._machine().endswith(", Raspberry Pi 4 Model B Rev 1.4")


@pytest.mark.parametrize(
    "arguments", [{"runs": 0}, {"warmup": -1}, {"threads": 0}, {"batch": 1.5}, {"batch": True}, {"runs": None}]
)
def test_numbers_out_of_range_are_refused(cases, arguments):
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"Expected `{name}` to be an integer.*Received: {name}={value}"):
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
    monkeypatch.setattr(benchmark_module, "run_module", lambda *args, **kwargs: crash)
    with pytest.raises(ValueError, match="killed by SIGBUS"):
        benchmark(cases["dense"].path)
