"""Searches for an NPU, on made-up trials: the fewest cycles, limits of cycles, and what does not go with them."""

import json

import pytest
from stub_trials import StubRunner, stub_search

from tfprune.base.limit import Limit
from tfprune.export import Micro, Search
from tfprune.export.compressing.compress import _check_search, _SearchLimit
from tfprune.export.compressing.evaluate import FileMetric
from tfprune.export.compressing.report import _optuna_study
from tfprune.export.keras_side.ask import Vela

NPU = Vela("ethos-u55-128")  # the function `vela` would need the compiler
FEWEST = {"target": NPU, "optimize": "latency"}


def npu_runner():
    return StubRunner(formats=("int8",))


def test_the_file_with_the_fewest_cycles(tmp_path):
    report = stub_search(tmp_path, runner=npu_runner(), **FEWEST)
    cycles = [file.cycles for file in report.front]
    assert cycles == sorted(cycles) and cycles[0] < report.dense.cycles
    assert cycles[0] == min(file.cycles for file in report.tried if file.drop <= report.max_drop)
    assert all(file.latency_ms is None for file in (*report.tried, *report.front)), "nothing is timed"
    assert (report.target, report.cost) == ("ethos-u55-128", "cycles")
    assert f"takes {cycles[0] / report.dense.cycles:.1%} of its cycles" in str(report)
    header, _, first, *_ = str(report).splitlines()
    assert header.split()[4] == "cycles" and first.split()[3] == f"{cycles[0]:,}"
    assert f"| cycles on ethos-u55-128, estimated by its compiler | {cycles[0]:,} |" in report.card()
    page = (tmp_path / "report.html").read_text()
    assert "cycles of one inference" in page and f"{cycles[0]:,}" in page and "milliseconds" not in page
    assert [row["cycles"] for row in json.loads((tmp_path / "report.json").read_text())["front"]] == cycles


def test_the_smallest_file_within_a_limit_of_cycles(tmp_path):
    npu = npu_runner()
    report = stub_search(tmp_path, runner=npu, target=NPU, max_drop=0.02, max_cycles=30_000)
    assert npu.evaluator.npu == NPU and npu.evaluator.micro is None
    assert [file.bytes for file in report.front] == sorted(file.bytes for file in report.front)
    assert report.front and all(file.cycles <= 30_000 for file in report.front)
    assert any(file.cycles > 30_000 for file in report.tried)
    assert report.budgets == {"cycles": 30_000} and "| largest cycles | 30,000 |" in report.card()
    with pytest.raises(ValueError, match="of the same run"):
        stub_search(tmp_path, target=Vela("ethos-u85-256"), max_drop=0.02, max_cycles=30_000)


def test_all_limits_hold_together(tmp_path):
    limit, bounds = Limit(0.02, max_drop_per_class=0.3), {"max_cycles": 30_000, "max_bytes": 12_000}
    report = stub_search(tmp_path, runner=npu_runner(), max_drop=limit, trials=20, **bounds, **FEWEST)
    assert report.budgets == {"cycles": 30_000, "bytes": 12_000}
    for file in report.front:
        assert file.cycles <= 30_000 and file.bytes <= 12_000 and file.drop <= 0.02
    with pytest.raises(ValueError, match=r"at most 9 cycles\. Received: .*The closest: .* has [\d,]+ cycles"):
        stub_search(tmp_path / "few", runner=npu_runner(), max_drop=0.02, max_cycles=9, trials=1, **FEWEST)


def test_a_search_that_was_stopped_knows_the_cycles(tmp_path):
    stub_search(tmp_path / "stopped", runner=npu_runner(), trials=3, **FEWEST)
    continued = stub_search(tmp_path / "stopped", runner=npu_runner(), trials=6, **FEWEST)
    whole = stub_search(tmp_path / "whole", runner=npu_runner(), trials=6, **FEWEST)
    assert continued.front == whole.front


def test_optuna_gets_the_cycles(tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed (extra `search`)")
    report = stub_search(tmp_path, runner=npu_runner(), trials=3, **FEWEST)
    study = _optuna_study(report, None)
    assert study.metric_names == ["cycles", "drop of accuracy"]
    assert [trial.values[0] for trial in study.trials] == [file.cycles for file in report.tried]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_cycles": 9}, r"Expected an NPU as `target` with `max_cycles`.*target=None\. Pass"),
        ({"target": NPU}, r"Expected optimize='latency' with an NPU .* or a limit, such as max_cycles="),
        ({"target": NPU, "max_latency_ms": 9}, "no `max_latency_ms` with .* Pass `max_cycles`"),
        ({**FEWEST, "target": Vela("ethos-u55-128", "sram")}, "Expected counts='cycles' .*counts='sram'"),
        (
            {**FEWEST, "formats": ["int8", "int16x8"]},
            "Expected no `formats` and no recipe for a microcontroller or an NPU",
        ),
        ({**FEWEST, "on": type("Board", (), {"run_job": None})()}, "Expected `on` without `target`"),
    ],
)
def test_what_does_not_go_with_an_npu_is_refused(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        stub_search(tmp_path, **changes)
    assert not [*tmp_path.iterdir()]


def test_a_microcontroller_has_no_cycles_and_estimates_may_be_made_at_once():
    limit, search = _SearchLimit(Limit(0.1), FileMetric()), Search(max_cycles=9, jobs=4)
    with pytest.raises(
        ValueError, match=r"Expected an NPU as `target` .*target=Micro\(arena=None, flash=9000, firmware=None\)"
    ):
        _check_search(search, optimize="size", target=Micro(flash=9000))
    _check_search(search, optimize="latency", target=NPU)
    goal = limit.goal("latency_ms", 0.9, NPU, samples=500, search=search)
    assert (goal.by, goal.budgets, goal.needs_channels) == ("cycles", {"cycles": 9}, True)
    assert limit.goal("bytes", 0.9, NPU, samples=500, search=search).needs_channels
