"""The gate, against tables by hand and SciPy: what passes, what fails, and what nobody could measure."""

import hashlib
import json
import math
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from file_graphs import FileGraph
from scipy import stats

from tfprune.export import Quantization, check, pack, to_tflite, vela
from tfprune.export.comparing import gate
from tfprune.export.comparing.damage_report import mean_interval
from tfprune.export.comparing.gate import _RULES, first_policy
from tfprune.export.file import schema
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.schema import MissingPackage

RNG = np.random.default_rng(0)
CLASSES, PER_CLASS = 3, 200


def linear(kernel, bias):
    """Return a file that computes kernel @ x + bias."""
    graph = FileGraph(0, shape=(1, len(kernel[0])))
    inputs = [graph.input, graph.constant(np.float32(kernel)), graph.constant(np.float32(bias))]
    shape = (1, len(kernel))
    return graph.content(
        graph.operator("FULLY_CONNECTED", inputs, shape, kind="FullyConnectedOptions", fusedActivationFunction=0)
    )


def noted(content):
    """Return another file with the same outputs: it has one more entry of metadata."""
    with ModelFile.open(content).edit() as edit:
        edit.model.buffers.append(schema.BufferT(data=np.zeros(100, np.uint8)))
        edit.model.metadata = [schema.MetadataT(name=b"note", buffer=len(edit.model.buffers) - 1)]
    return edit.file.content


# The scores are the samples: class 2 beats the others by 0.01, 0.02, ... 2.00.
Y = np.repeat(np.arange(CLASSES), PER_CLASS)
X = 5 * np.eye(CLASSES, dtype=np.float32)[Y]
X[Y == 2] = [0, -9, 0]
X[Y == 2, 2] = 0.01 * np.arange(1, PER_CLASS + 1)
BASE = linear(np.eye(CLASSES), [0, 0, 0])


def harmed(lost):
    """Return a file that gets so many samples of class 2 wrong."""
    return linear(np.eye(CLASSES), [0, 0, -(0.01 * lost + 0.005)])


def verdicts(report):
    return {row.rule: row.verdict for row in report.rows}


def checked(content, policy, **arguments):
    return check(content, policy, baseline=BASE, data=(X, Y), verbose=0, **arguments)


def test_sizes_are_those_of_the_bytes():
    for name, size in {"max_bytes": len(BASE), "max_packed_bytes": len(pack(BASE))}.items():
        assert check(BASE, {name: size}).passed
        report = check(BASE, {name: size - 1})
        assert (report.exit_code, report.rows[0].figures[0].value) == (1, size)
        assert f"{size:,} bytes, where at most {size - 1:,} bytes is allowed" in str(report)
    larger = noted(BASE)
    ratio = len(larger) / len(BASE)
    assert checked(larger, {"max_bytes_ratio": ratio}).passed
    assert checked(larger, {"max_bytes_ratio": ratio - 1e-6}).exit_code == 1


def test_a_packed_file_is_as_large_as_it_is_stored_and_compared_unpacked():
    packed = pack(BASE)
    report = checked(packed, {"max_bytes": len(packed), "max_bytes_ratio": 1.0})
    assert report.passed and report.rows[0].figures[0].value == len(packed)


def test_zeros_are_those_of_the_weights():
    kernel = np.ones((4, 5))
    kernel[:, :2] = 0
    content = linear(kernel, np.zeros(4))
    assert check(content, {"min_zeros": 0.4}).passed
    report = check(content, {"min_zeros": 0.41})
    assert report.exit_code == 1 and report.rows[0].measured_text == "0.4"


def test_an_operator_outside_of_the_list_fails():
    assert check(BASE, {"operators": ["FULLY_CONNECTED", "SOFTMAX"]}).passed
    report = check(BASE, {"operators": ["SOFTMAX"]})
    assert report.exit_code == 1 and "FULLY_CONNECTED is not in the list" in str(report)


def test_the_drop_of_a_class_has_the_interval_of_its_pairs():
    report = checked(harmed(12), {"max_drop_per_class": 0.02, "max_drop": 0.01})
    worst = report.rows[0].figures[0]
    differences = np.repeat([1, -1, 0], [13, 1, PER_CLASS - 12])  # after one more loss and one more gain
    scale = differences.std() / math.sqrt(PER_CLASS + 2)
    expected = stats.norm.interval(0.95, loc=differences.mean(), scale=scale)
    assert (worst.part, worst.value) == ("class 2", pytest.approx(0.06))
    assert (worst.low, worst.high) == pytest.approx(expected)
    assert report.rows[1].figures[0].value == pytest.approx(0.02)  # 12 of 600


@pytest.mark.parametrize(
    ("limit", "verdict", "code"), [(0.02, "fails", 1), (0.06, "not measured", 2), (0.12, "passes", 0)]
)
def test_a_limit_inside_of_the_interval_is_no_answer(limit, verdict, code):
    report = checked(harmed(12), {"max_drop_per_class": limit})
    assert (report.rows[0].verdict, report.exit_code, report.passed) == (verdict, code, code == 0)
    assert ("add samples" in str(report)) is (code == 2)


@pytest.mark.parametrize("content", [BASE, noted(BASE)], ids=["same", "same outputs"])
def test_an_unchanged_file_has_lost_exactly_nothing_however_few_samples_there_are(content):
    few = [0, PER_CLASS, 2 * PER_CLASS]
    policy = {"max_drop": 0.0, "max_drop_per_class": 0.0, "max_output_difference": 0.0}
    report = check(content, policy, baseline=BASE, data=(X[few], Y[few]))
    assert report.passed
    assert {(figure.low, figure.high) for row in report.rows for figure in row.figures} == {(0, 0)}


def test_the_largest_difference_of_an_output_by_hand():
    kernel = np.eye(CLASSES)
    kernel[1, 1] = 1.5
    expected = np.abs(0.5 * X[:, 1]).max() / np.abs(X).max()
    report = checked(linear(kernel, [0, 0, 0]), {"max_output_difference": 0.1})
    assert report.exit_code == 1
    assert report.rows[0].figures[0].value == pytest.approx(expected)


def test_groups_are_compared_beside_the_classes():
    groups = {"room": np.where((Y == 2) & (X[:, 2] < 0.2), "dark", "light")}
    report = checked(harmed(12), {"max_drop_per_group": 0.2}, groups=groups)
    assert report.exit_code == 1
    assert report.rows[0].figures[0].part == "room dark"
    assert [figure.verdict for figure in report.rows[0].figures].count("fails") == 1


# Latency: the interval of the medians of processes.


class Turns:
    """Stands for processes whose median ratios are drawn around a true one."""

    def __init__(self, ratio, spread, seed=0):
        self.random, self.ratio, self.spread, self.logs = np.random.default_rng(seed), ratio, spread, []

    def __call__(self, files, *, turns, is_reversed, timeout):
        assert is_reversed is bool(len(self.logs) % 2)
        self.logs.append(self.random.normal(math.log(self.ratio), self.spread))
        times = np.ones((turns, 2))
        times[:, 0] = math.exp(self.logs[-1])
        return times


@pytest.mark.parametrize(
    ("ratio", "spread", "verdict"),
    [(1.0, 0.01, "passes"), (1.3, 0.01, "fails"), (1.1, 0.05, "not measured"), (1.3, 0.1, "fails")],
)
def test_processes_are_added_until_the_interval_leaves_the_limit(ratio, spread, verdict, monkeypatch):
    drawn = Turns(ratio, spread)
    monkeypatch.setattr(gate, "times_in_turns", drawn)
    row = checked(BASE, {"max_latency_ratio": 1.1}).rows[0]
    ends = {}
    for look in (4, 6, 9, 13, 19):
        logs = np.array(drawn.logs[:look])
        level = 1 - 0.05 / 5  # five looks share the error
        ends[look] = np.exp(stats.t.interval(level, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs)))
        if not ends[look][0] <= 1.1 < ends[look][1]:
            break
    assert (row.verdict, len(drawn.logs)) == (verdict, look)
    assert (row.figures[0].low, row.figures[0].high) == pytest.approx(tuple(ends[look]), rel=1e-6)
    assert ("quieter machine" in row.reason) is (verdict == "not measured")


def test_a_file_at_the_limit_fails_and_passes_in_at_most_5_percent_of_the_checks(monkeypatch):
    counts = dict.fromkeys(("passes", "fails", "not measured"), 0)
    monkeypatch.setattr(gate, "mean_interval", _quick_interval)
    subject = gate._Subject(BASE, ModelFile.open(BASE), ModelFile.open(BASE), *[None] * 5, 0.95, "", 60)
    for seed in range(1000):
        monkeypatch.setattr(gate, "times_in_turns", Turns(1.1, 0.03, seed))
        counts[gate._row("max_latency_ratio", 1.1, subject, line=None).verdict] += 1
    assert counts["fails"] + counts["passes"] <= stats.binom.ppf(0.999, 1000, 0.05)


def _quick_interval(values, *, level):
    return stats.t.interval(level, len(values) - 1, loc=values.mean(), scale=stats.sem(values))


def test_the_quick_interval_is_that_of_the_gate():
    values = RNG.normal(size=6)
    assert _quick_interval(values, level=0.99) == pytest.approx(mean_interval(values, level=0.99))


def test_milliseconds_are_measured_only_when_asked(monkeypatch):
    monkeypatch.setattr(gate, "times_in_turns", Turns(2.0, 0.001))
    assert check(BASE, {"max_latency_ms": 2.5}).passed
    report = check(BASE, {"max_latency_ms": 1.5})
    assert report.exit_code == 1 and " ms" in report.rows[0].measured_text


# What cannot be measured does not pass.


def test_labels_that_are_wrong_are_found():
    report = check(BASE, {"max_drop": 0.5}, baseline=BASE, data=(X, (Y + 1) % CLASSES))
    assert report.exit_code == 2 and "check the labels" in str(report)


def test_numbers_have_no_classes():
    report = check(BASE, {"max_drop_per_class": 0.1}, baseline=BASE, data=(X, X + 0.5))
    assert report.exit_code == 2 and "not scores of classes" in str(report)


def test_an_error_that_grew_is_a_drop_of_numbers():
    near = linear(np.eye(CLASSES), [0.25, 0.25, 0.25])
    report = check(near, {"max_drop": 0.2}, baseline=BASE, data=(X, X))
    assert report.exit_code == 1
    assert report.rows[0].figures[0].value == pytest.approx(0.25)


def test_a_class_without_samples_is_not_measured():
    few = Y != 1
    report = check(BASE, {"max_drop_per_class": 0.1}, baseline=BASE, data=(X[few], Y[few]))
    assert report.exit_code == 2 and "no samples of class 1" in str(report)

    policy, groups = {"max_drop_per_group": 0.1}, {"room": Y[few] % 2}
    assert check(BASE, policy, baseline=BASE, data=(X[few], Y[few]), groups=groups).exit_code == 2


def test_no_samples_at_all_pass_nothing():
    report = check(BASE, {"max_output_difference": 0.1}, baseline=BASE, data=X[:0])
    assert report.exit_code == 2


def test_a_group_is_not_a_class_by_its_name():
    groups = {"class of room": np.where((Y == 2) & (X[:, 2] < 0.2), "dark", "light")}
    report = checked(harmed(12), {"max_drop_per_class": 0.2}, groups=groups)
    assert [figure.part for figure in report.rows[0].figures] == ["class 2", "class 0", "class 1"]


def test_samples_of_another_shape_are_not_measured():
    policy = {"max_output_difference": 0.1, "runtimes": ["litert"], "max_bytes": 10**6}
    report = check(BASE, policy, baseline=BASE, data=np.zeros((10, 7), np.float32))
    assert verdicts(report) == {
        "max_output_difference": "not measured",
        "runtimes": "not measured",
        "max_bytes": "passes",
    }
    assert report.exit_code == 2 and "10x7" in str(report)


def test_a_file_of_other_outputs_fails():
    report = checked(linear(np.ones((2, CLASSES)), [0, 0]), {"max_output_difference": 0.1})
    assert report.exit_code == 1 and "shape" in report.rows[0].reason


def test_a_file_that_gives_no_numbers_fails_where_it_has_to_run():
    report = check(linear(np.full((2, 2), np.nan), [0, 0]), {"runtimes": ["litert"]})
    assert report.exit_code == 1 and "not finite" in str(report)


def test_a_missing_interpreter_of_microcontrollers_is_not_measured(monkeypatch):
    def missing(file):
        raise MissingPackage("Expected tflite-micro. Received: not installed.")

    monkeypatch.setattr(gate, "support_of_file", missing)
    report = check(BASE, {"max_arena": 1000, "runtimes": ["litert", "micro"]})
    assert report.exit_code == 2 and str(report).count("tflite-micro") == 2
    by_runtime = {figure.part: figure.verdict for figure in report.rows[1].figures}
    assert by_runtime == {"litert": "passes", "micro": "not measured"}


def test_an_arena_with_pointers_of_64_bits_is_not_that_of_a_chip(monkeypatch):
    pytest.importorskip("tflite_micro")
    known = gate.support_of_file(BASE)
    monkeypatch.setattr(gate, "support_of_file", lambda file: replace(known, on_chip=None))
    report = check(BASE, {"max_arena": 10**6, "runtimes": ["micro"]})
    assert report.exit_code == 2 and str(report).count("install mcufit and Node") == 2


def test_an_arena_of_a_file_that_microcontrollers_do_not_run(monkeypatch):
    pytest.importorskip("tflite_micro")
    known = gate.support_of_file(BASE)
    monkeypatch.setattr(gate, "support_of_file", lambda file: replace(known, runs=False, reason="it has no X"))
    report = check(BASE, {"max_arena": 1000})
    assert report.exit_code == 2 and "has no arena" in str(report) and "it has no X" in str(report)
    assert check(BASE, {"runtimes": ["micro"]}).exit_code == 1


@pytest.mark.programs
def test_cycles_on_an_npu_are_those_that_its_compiler_estimates(tmp_path):
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed: see the extra `vela`")
    keras = pytest.importorskip("keras")
    x = np.random.default_rng(0).random((8, 16), np.float32)
    model = keras.Sequential([keras.Input((16,), batch_size=1), keras.layers.Dense(8)])
    path = tmp_path / "a.tflite"
    form = Quantization("int8", io_dtype="int8")
    to_tflite(model, path, quantize=form, optimize="dense", calibration=x)
    cycles = vela("ethos-u55-128").report(path).cycles
    policy = {"max_cycles": cycles, "npu": "ethos-u55-128"}
    assert check(path, policy).exit_code == 0
    report = check(path, {**policy, "max_cycles": cycles - 1})
    assert report.exit_code == 1 and f"{cycles:,} cycles" in str(report)
    to_tflite(model, path, quantize="int8", optimize="dense", calibration=x)  # its borders stay on the processor
    report = check(path, policy)
    assert report.exit_code == 2 and "leaves them to the processor" in str(report)


def test_a_policy_with_cycles_names_the_npu(tmp_path):
    (tmp_path / "policy.toml").write_text("max_bytes = 1\nmax_cycles = 1000\n")
    with pytest.raises(ValueError, match=r"NPU of max_cycles in line 2 of .*Add npu"):
        check(BASE, tmp_path / "policy.toml")
    with pytest.raises(ValueError, match="npu .* one of 'ethos-u55-32'.*Did you mean 'ethos-u55-128'"):
        check(BASE, {"max_cycles": 1000, "npu": "ethos-u55-129"})
    with pytest.raises(TypeError, match="npu"):
        check(BASE, {"max_cycles": 1000, "npu": 55})


def test_a_browser_is_believed_for_the_file_that_it_ran(tmp_path):
    def result(content, **fields):
        row = {"name": "a.tflite", "passed": True, "tolerance": 1e-4, "sha256": hashlib.sha256(content).hexdigest()}
        told = {"kind": "tfprune web", "version": 1, "rounds": 0, "files": [row | fields], "errors": []}
        path = tmp_path / "result.json"
        path.write_text(json.dumps(told))
        return path

    policy = {"runtimes": ["browser"]}
    assert check(BASE, policy, web_result=result(BASE)).passed
    failed = check(BASE, policy, web_result=result(BASE, passed=False, reason="outputs differ"))
    assert failed.exit_code == 1 and "outputs differ" in str(failed)
    other = check(BASE, policy, web_result=result(noted(BASE)))
    assert other.exit_code == 2 and "other files (a.tflite)" in str(other)
    assert check(BASE, policy, web_result=result(BASE, sha256="")).exit_code == 2
    assert check(BASE, policy).exit_code == 2


def test_a_broken_rule_is_told_even_if_another_one_cannot_be_measured():
    report = check(BASE, {"max_bytes": 1, "runtimes": ["browser"]})
    assert report.exit_code == 1
    assert report.headline().endswith("FAILS the policy. Broken: max_bytes. Not measured: runtimes.")


# The policy: each mistake with its line.


def refused(tmp_path, text, error=ValueError, **arguments):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(error) as raised:
        check(BASE, path, **arguments)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("# sizes\n\nmax_byte = 3", ValueError, "line 3 of policy.toml. Received: max_byte. Did you mean max_bytes?"),
        (
            "max_bytes = 9\nmin-zeros = 0.5",
            ValueError,
            "line 2 of policy.toml. Received: min-zeros. Did you mean min_zeros?",
        ),
        (
            'max_bytes = 9\nmax_drop = "1 %"',
            TypeError,
            "max_drop in line 2 of policy.toml to be a number of at least 0",
        ),
        ("min_zeros = 90", ValueError, "from 0 to 1. Received: 90. Write 0.9 for 90 percent."),
        ("max_bytes = true", TypeError, "an integer of at least 1. Received: True."),
        ("max_bytes = 0", ValueError, "line 1 of policy.toml"),
        ("max_drop = nan", ValueError, "Received: nan"),
        ('operators = "ADD"', TypeError, "a list of names. Received: 'ADD'."),
        ("operators = []", ValueError, "a list of names. Received: []."),
        ('runtimes = ["litert", "browsr"]', ValueError, "Did you mean 'browser'?"),
        ("confidence = 0.95", ValueError, "Expected a rule in policy.toml. Received: none"),
        ("confidence = 95\nmax_bytes = 1", ValueError, "confidence in line 1"),
        (
            "max_bytes = 9\n[limits]\nmin_zeros = 0.5",
            ValueError,
            "without tables in line 2 of policy.toml. Received: [limits]",
        ),
        ("max_bytes == 3", ValueError, "at line 1"),
        ("max_bytes = 1\nmax_bytes = 2", ValueError, "max_bytes for a second time at line 2, after line 1"),
        ('# a\noperators = ["ADD"\n\n', ValueError, "at line 3, the last"),
    ],
)
def test_a_mistake_in_a_policy_is_reported_with_its_line(text, error, expected, tmp_path):
    assert expected in refused(tmp_path, text, error)


@pytest.mark.parametrize("name", [name for name, rule in _RULES.items() if rule.needs])
def test_a_rule_says_what_it_lacks_before_anything_runs(name, tmp_path):
    assert f"for the rule {name} in line 2 of policy.toml. Received: none." in refused(tmp_path, f"\n{name} = 0.5")


def test_labels_and_groups_are_asked_for(tmp_path):
    both = {"baseline": BASE, "data": X}
    assert "labels in `data`" in refused(tmp_path, "max_drop = 0.1", **both)
    text = refused(tmp_path, "max_drop_per_group = 0.1", **{**both, "data": (X, Y)})
    assert "`groups`" in text and "max_drop_per_class" in text


def test_python_3_10_reads_policies_with_the_package_tomli(tmp_path, monkeypatch):
    tomllib = pytest.importorskip("tomllib")
    monkeypatch.setattr(gate.sys, "version_info", (3, 10, 0))
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", tomllib)
    (tmp_path / "policy.toml").write_text("max_bytes = 3")
    assert check(BASE, tmp_path / "policy.toml").exit_code == 1
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ImportError, match="tomli"):
        check(BASE, tmp_path / "policy.toml")


def test_what_is_no_policy_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`policy` to be the path of a TOML file, or a dict"):
        check(BASE, 3)
    with pytest.raises(ValueError, match="Expected a policy in TOML. Received: .*missing.toml"):
        check(BASE, tmp_path / "missing.toml")
    with pytest.raises(ValueError, match="in the policy. Received: rules"):
        check(BASE, {"rules": 3})
    with pytest.raises(ValueError, match="Expected a rule"):
        check(BASE, {})


# Reports, and a policy of a file as it is.


def test_the_report_as_markdown_and_junit():
    report = replace(check(BASE, {"max_bytes": 1, "min_zeros": 0.1, "runtimes": ["browser"]}), file="a|b<i>_*.tflite")
    lines = report.markdown().splitlines()
    assert lines[0].startswith(r"### a\|b&lt;i&gt;\_\*.tflite FAILS the policy")
    assert lines[4] == f"| `max_bytes` | at most 1 bytes | {len(BASE):,} bytes | **fails** |"
    suite = ElementTree.fromstring(report.junit())
    assert suite.attrib == {"name": "tfprune check", "tests": "3", "failures": "1", "errors": "1"}
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    assert kinds == {"max_bytes": ["failure"], "min_zeros": [], "runtimes": ["error"]}
    assert {case.get("classname") for case in suite} == {"a|b<i>_*.tflite"}
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["verdict"] == "fails"


def test_a_new_policy_is_kept_by_its_file_and_broken_by_a_larger_one(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(first_policy(BASE, baseline=BASE, data=(X, Y)))
    policy = gate._Policy.read(path)
    off = {"max_drop_per_group", "max_latency_ms", "max_cycles", *({"max_arena"} - policy.limits.keys())}
    assert policy.limits.keys() == _RULES.keys() - off
    assert policy.limits["max_bytes"] == math.ceil(1.01 * len(BASE))
    assert policy.limits["min_zeros"] == 0.666  # 6 of 9, rounded down
    without_latency = {name: limit for name, limit in policy.limits.items() if name != "max_latency_ratio"}
    assert checked(BASE, without_latency).passed
    report = checked(noted(BASE), without_latency)
    assert report.exit_code == 1 and verdicts(report)["max_bytes"] == verdicts(report)["max_bytes_ratio"] == "fails"


def test_a_new_policy_of_a_file_alone_has_the_other_rules_switched_off(tmp_path):
    path = tmp_path / "policy.toml"
    text = first_policy(BASE)
    path.write_text(text)
    limits = gate._Policy.read(path).limits
    assert not any(_RULES[name].needs for name in limits)
    assert all(f"\n# {name} = " in text for name, rule in _RULES.items() if rule.needs)
    path.write_text(
        text.replace("\n# max", "\nmax").replace("\n# conf", "\nconf").replace("\n# npu", "\nnpu")
    )  # switched on as a reader would
    assert {*_RULES} <= {*gate._Policy.read(path).limits} | {"min_zeros", "max_arena"}
