"""The export module's reports: JSON and tables."""

import dataclasses
import json

import pytest

from tfprune.export.device.benchmark import BenchmarkReport
from tfprune.export.device.verify import VerifyReport
from tfprune.export.file.report import TensorInfo, fraction_of_zeros, open_batch, shape_text
from tfprune.export.rewriting.rewrite import Candidate, ExportReport

CANDIDATES = (Candidate("float32", 4000, 900, verified=True), Candidate("sparse", 3000, 950, False, "it crashed"))
EXPORT = ExportReport(
    path="out/net.tflite",
    bytes=900,
    tflite_bytes=4000,
    nnz=250,
    size=1000,
    sparsity=0.75,
    max_abs_diff=2.5e-7,
    tolerance=1e-4,
    ops={"CONV_2D": 2, "FULLY_CONNECTED": 1},
    candidates=CANDIDATES,
    runtime="ai-edge-litert 2.3.0",
    sparse_inference=TensorInfo("stands for a report", (), "float32"),
)
VERIFY = VerifyReport(False, "killed by SIGSEGV", None, None, 1e-4, "")
BENCHMARK = BenchmarkReport(1.5, 1.25, 2.0, 3.0, 1.0, 50 * 2**20, 1234, "litert 2", "aarch64", 50, 5, 1, 2)


@pytest.mark.parametrize("report", [EXPORT, VERIFY, BENCHMARK], ids=lambda report: type(report).__name__)
def test_as_dict_is_json_with_every_field(report):
    values = report.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == [field.name for field in dataclasses.fields(report)]


@pytest.mark.parametrize("report", [EXPORT, VERIFY, BENCHMARK], ids=lambda report: type(report).__name__)
def test_reports_cannot_be_changed(report):
    name = dataclasses.fields(report)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(report, name, None)


def test_nested_parts_turn_into_dicts():
    assert EXPORT.as_dict()["candidates"][1]["reason"] == "it crashed"
    info = TensorInfo("image", (None, 28, 28, 1), "float32")
    assert info.as_dict() == {"name": "image", "shape": [None, 28, 28, 1], "dtype": "float32"}


def test_the_export_table_says_what_was_written():
    lines = {line.split("  ")[0]: line for line in str(EXPORT).splitlines()}
    assert "out/net.tflite" in lines["exported"]
    assert "900" in lines["bytes"]
    assert "4,000" in lines["unpacked bytes"]
    assert "250 of 1,000 entries non-zero (75.0% zeros)" in lines["all kernels"]
    assert "2.5e-07 (limit: 0.0001 x the largest output)" in lines["difference"]
    scaled = str(dataclasses.replace(EXPORT, scale=4.0))
    assert "2.5e-07 (limit: 0.0004 = 0.0001 x the largest output)" in scaled
    assert "2 CONV_2D, 1 FULLY_CONNECTED" in lines["operators"]
    assert "it crashed" in lines["sparse"]


def test_many_operators_take_several_lines():
    names = [f"OPERATOR_{number}" for number in range(11)]
    lines = str(dataclasses.replace(EXPORT, ops=dict.fromkeys(names, 1))).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("operators"))
    assert lines[first].endswith("1 OPERATOR_7") and lines[first + 1].split("  ")[-1].startswith("1 OPERATOR_8, ")


def test_a_single_candidate_needs_no_table():
    assert "candidate" not in str(dataclasses.replace(EXPORT, candidates=CANDIDATES[:1]))


def test_a_failure_is_told_first():
    first, _, reason = str(VERIFY).splitlines()[:3]
    assert first.split() == ["verified", "NO"]
    assert "killed by SIGSEGV" in reason


def test_the_benchmark_table_has_units():
    text = str(BENCHMARK)
    assert "1.500 ms" in text
    assert "1.250 / 2.000 / 3.000 ms" in text
    assert "50.0 MiB" in text
    assert "unknown" in str(dataclasses.replace(BENCHMARK, peak_memory=None))


def test_open_batch_names_the_inputs_with_a_free_dimension():
    infos = [TensorInfo("image", (None, 8, 8, 1), "float32"), TensorInfo("state", (1, 4), "float32")]
    assert open_batch(infos) == ("image",)
    assert open_batch([TensorInfo("rate", (), "float32")]) == ()
    assert "rewrite(..., batch=1)" in str(dataclasses.replace(VERIFY, open_batch=("image",)))
    assert "LiteRT.js" not in str(VERIFY)


def test_small_helpers():
    assert fraction_of_zeros(1, 4) == 0.75
    assert fraction_of_zeros(0, 0) == 0.0
    assert shape_text((None, 3)) == "?x3"
    assert shape_text(()) == "scalar"
