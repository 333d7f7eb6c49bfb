"""The JSON of a page, which comes from a browser somewhere: bounded, and refused in one sentence."""

import json

import pytest

from tfprune.export.command_line import cli
from tfprune.export.device.web import read_web_result

FILE = {"name": "dense.tflite", "passed": True, "reason": "", "tolerance": 1e-4, "difference": 1.5e-7}
FILE |= {"wire_bytes": 342420, "bytes": 342420, "fetch_ms": 3.0, "unpack_ms": 0, "compile_ms": 21.25}
FILE |= {"median_ms": 8.5, "p10_ms": 8, "p90_ms": 9, "times_faster": 1}
RESULT = {"kind": "tfprune web", "version": 1, "rounds": 25, "errors": [], "runtime": "@litertjs/core 2.5.3"}
RESULT |= {"start_ms": 210.5, "browser": "Chrome", "cores": None}


def written(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_result_prints_as_a_table(tmp_path, capsys):
    sparse = {**FILE, "name": "sparse.tfz", "wire_bytes": 20000, "median_ms": 2.0, "times_faster": 4.25}
    path = written(tmp_path, {**RESULT, "files": [FILE, sparse]})
    assert cli.main(["bench", "--web", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[2].split() == ["dense.tflite", "342,420", "21.2", "8.5", "1", "1.5e-07", "yes"]
    assert printed.splitlines()[3].split() == ["sparse.tfz", "20,000", "21.2", "2", "4.25", "1.5e-07", "yes"]
    assert "Chrome" in printed and "unknown" in printed
    assert cli.main(["bench", "--json", "--web", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["files"][1]["times_faster"] == 4.25


def test_a_failed_file_and_an_error_of_the_console_end_with_1(tmp_path, capsys):
    failed = {"name": "\x1b[2Jbad", "passed": False, "tolerance": 1e-4, "reason": "it is damaged"}
    for fields in ({"files": [FILE, failed]}, {"files": [FILE], "errors": ["it is damaged"]}):
        assert cli.main(["bench", "--web", str(written(tmp_path, {**RESULT, **fields}))]) == 1
        printed = capsys.readouterr().out
        assert "it is damaged" in printed and "\x1b" not in printed


WRONG = [
    ("", "JSON"),
    ("[" * 100_000, "JSON"),
    ([], "fields of a WebResult"),
    ({}, "none named"),
    ({**RESULT, "files": [{}]}, "none named"),
    ({**RESULT, "files": [{**FILE, "name": 3}]}, "'name' to be of type str"),
    ({**RESULT, "files": [{**FILE, "more": 3}]}, "one named 'more'"),
    ({**RESULT, "files": [FILE] * 101}, "more than 100"),
    ({**RESULT, "files": [], "errors": [[]]}, "not a text"),
    ({**RESULT, "files": [], "version": 2}, "kind and version"),
    ({**RESULT, "files": [], "kind": "other"}, "kind and version"),
    ({**RESULT, "files": [], "start_ms": 10**400}, "64 bits"),
]


@pytest.mark.parametrize(("content", "match"), WRONG)
def test_what_is_not_a_result_is_refused(tmp_path, content, match):
    with pytest.raises(ValueError, match=f"JSON of a page of `tfprune web`.*{match}"):
        read_web_result(written(tmp_path, content))
    with pytest.raises(ValueError, match="JSON of a page"):
        read_web_result(tmp_path / "none.json")


def test_bench_takes_a_model_or_a_result(tmp_path, capsys):
    path = str(written(tmp_path, {**RESULT, "files": [FILE]}))
    assert cli.main(["bench"]) == 2
    assert "Expected a MODEL, or --web RESULT" in capsys.readouterr().err
    assert cli.main(["bench", "--web", path, "--runs", "3"]) == 2
    assert "--runs with a MODEL only" in capsys.readouterr().err
