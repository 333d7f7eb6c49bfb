"""What other calls of the library do with a file of several signatures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tfprune.export import Runner, benchmark, inspect, pack, rewrite, share_weights, unpack, verify
from tfprune.export.device.runner import find_interpreter
from tfprune.export.device.writer_file import InterpretedFile, Signatures
from tfprune.export.file.document import load_objects, save_objects

PROMPT = [3, 5, 7, 9, 2]


@pytest.fixture(scope="module")
def call(writer):
    """Return inputs of `decode`, and what an interpreter gives for them."""
    runner = find_interpreter()[0](model_path=str(writer)).get_signature_runner("decode")
    random = np.random.default_rng(1)
    inputs = {
        name: random.normal(size=detail["shape"]).astype(np.float32)
        for name, detail in runner.get_input_details().items()
    }
    inputs |= {"tokens": np.int32([[7]]), "input_pos": np.int32([3])}
    return inputs, runner(**inputs)


def scores(path):
    text = Signatures(InterpretedFile(str(path), threads=1)).begin()
    text.prefill(PROMPT[:-1])
    return np.array([text.decode(token) for token in PROMPT])


@pytest.mark.programs
def test_rewrite_and_pack_change_no_score(writer, tmp_path):
    expected = scores(writer)
    rewrite(writer, tmp_path / "rewritten.tflite")
    np.testing.assert_array_equal(scores(tmp_path / "rewritten.tflite"), expected)
    assert unpack(pack(writer)) == writer.read_bytes()
    assert inspect(writer).file_bytes == writer.stat().st_size
    assert verify(writer).passed


def test_caches_take_one_line_of_a_report(writer):
    report = inspect(writer)
    assert str(report).count("kv_cache_k_") == 4  # of two blocks, as inputs and outputs
    (cache,) = [info for info in report.inputs if info.name.endswith("kv_cache_k_0")]
    caches = tuple(dataclasses.replace(cache, name=cache.name[:-1] + str(number)) for number in range(18))
    lines = str(dataclasses.replace(report, inputs=(cache, *caches[1:]), outputs=caches[:3])).splitlines()
    assert [line.removeprefix("input").strip() for line in lines if line.startswith("input")] == [
        f"{cache}, and 17 more like it"
    ]
    assert sum(line.startswith("output") for line in lines) == 3


def test_weights_of_float32_are_not_shared(writer):
    with pytest.raises(ValueError, match="a file with 8-bit weights"):
        share_weights(writer)


def test_zeros_leave_the_packed_file(writer):
    model = load_objects(writer.read_bytes())
    random = np.random.default_rng(0)
    sizes = []
    for share in (0, 0.5, 0.9):
        for buffer in model.buffers:
            if buffer.data is not None and len(buffer.data) >= 512:
                entries = random.integers(-127, 128, len(buffer.data)).astype(np.int8)
                buffer.data = (entries * (random.random(len(entries)) >= share)).view(np.uint8)
        sizes.append(len(pack(save_objects(model))))
    assert sizes[2] < sizes[1] < sizes[0]


@pytest.mark.programs
def test_benchmark_counts_tokens(writer):
    report = benchmark(writer, runs=20, verbose=0)
    assert report.prefill_speed > 0 and report.decode_speed == pytest.approx(1000 / report.median_ms)
    assert report.runtime.endswith("in place") and "tokens per second" in str(report)


@pytest.mark.parametrize(("settings", "error"), [({"samples": np.zeros(3)}, "samples"), ({"batch_size": 2}, "=2")])
def test_benchmark_takes_no_samples_for_a_language_model(writer, settings, error):
    with pytest.raises(ValueError, match=f"without samples or batch_size.*Received: .*{error}"):
        benchmark(writer, **settings)


def test_the_signature_with_a_name_runs(writer, call):
    runner = Runner(writer, signature="decode")
    outputs = runner.predict(call[0])
    assert {*outputs} == {*call[1]} and set(runner.signatures) == {"decode", "prefill_2", "prefill_4"}
    assert all(np.array_equal(outputs[name], value) for name, value in call[1].items())
    with pytest.raises(ValueError, match="'decode', 'prefill_2', 'prefill_4' or None"):
        Runner(writer, signature="encode")


@pytest.mark.programs
def test_all_signatures_are_verified(writer, call):
    inputs, outputs = call
    assert verify(writer, {"decode": inputs}, {"decode": outputs}).passed
    wrong = {**outputs, "logits": outputs["logits"] + 1}
    report = verify(writer, {"decode": inputs}, {"decode": wrong})
    assert not report.passed and "'decode/logits' differs by up to 1" in report.reason
    report = verify(writer, {"decode": {**inputs, "tokens": np.int32([[[7]]])}})
    assert not report.passed and "shapes for 'decode' of" in report.reason and "'tokens' 1x1x1" in report.reason
    assert "'prefill_2'" in verify(writer, {"encode": inputs}).reason
