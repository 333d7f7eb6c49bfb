"""`tfprune check` and the action for GitHub: what they print and write, and their exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.export import check
from tfprune.export.command_line.cli import main

ROOT = Path(__file__).parents[3]
CLASSES = 3
LABELS = np.repeat(np.arange(CLASSES), 50)


def linear(bias):
    graph = FileGraph(0, shape=(1, CLASSES))
    inputs = [graph.input, graph.constant(np.eye(CLASSES, dtype=np.float32)), graph.constant(np.float32(bias))]
    options = {"kind": "FullyConnectedOptions", "fusedActivationFunction": 0}
    return graph.content(graph.operator("FULLY_CONNECTED", inputs, (1, CLASSES), **options))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write a file, one that never answers class 2, samples with labels, and a policy."""
    monkeypatch.chdir(tmp_path)
    Path("base.tflite").write_bytes(linear([0, 0, 0]))
    Path("worse.tflite").write_bytes(linear([0, 0, -9]))
    np.save("x.npy", 5 * np.eye(CLASSES, dtype=np.float32)[LABELS])
    np.save("y.npy", LABELS)
    np.save("room.npy", LABELS % 2)
    Path("policy.toml").write_text("max_bytes = 100_000\nmax_drop_per_class = 0.03\n")
    return tmp_path


COMPARED = ["--policy", "policy.toml", "--baseline", "base.tflite", "--data", "x.npy,y.npy"]


def run(capsys, *arguments):
    code = main(["check", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_exit_code_and_the_table(files, capsys):
    code, out, err = run(capsys, "base.tflite", *COMPARED)
    data = np.load("x.npy"), np.load("y.npy")
    assert (code, err) == (0, "")
    assert out == f"{check('base.tflite', 'policy.toml', baseline='base.tflite', data=data)}\n"
    assert out.startswith("base.tflite passes policy.toml.")
    code, out, _ = run(capsys, "worse.tflite", *COMPARED)
    assert code == 1 and "Broken: max_drop_per_class." in out and "(line 2): class 2: 1" in out
    Path("policy.toml").write_text('runtimes = ["browser"]')
    code, out, _ = run(capsys, "base.tflite", "--policy", "policy.toml")
    assert code == 2 and "Not measured: runtimes." in out


def test_reports_are_written_beside_the_text(files, capsys):
    written = ["--markdown", "check.md", "--junit", "check.xml", "--json", "check.json"]
    code, out, _ = run(capsys, "worse.tflite", *COMPARED, *written)
    assert code == 1 and out.startswith("worse.tflite FAILS policy.toml.")
    assert Path("check.md").read_text().startswith("### worse.tflite FAILS policy.toml.")
    assert ElementTree.parse("check.xml").getroot().get("failures") == "1"
    report = json.loads(Path("check.json").read_text())
    assert (report["verdict"], report["exit_code"]) == ("fails", 1)
    code, out, _ = run(capsys, "worse.tflite", *COMPARED, "--json")
    assert code == 1 and json.loads(out) == report


def test_groups_and_one_file_of_samples(files, capsys):
    Path("policy.toml").write_text("max_drop_per_group = 0.03")
    code, out, _ = run(capsys, "worse.tflite", *COMPARED, "--groups", "room.npy")
    assert code == 1 and "room 0" in out  # the classes 0 and 2
    Path("policy.toml").write_text("max_output_difference = 0.03")
    assert run(capsys, "base.tflite", *COMPARED[:-1], "x.npy")[0] == 0


def test_a_first_policy_is_kept_and_never_overwrites_one(files, capsys):
    code, out, _ = run(capsys, "base.tflite", "--init", "new.toml")
    assert code == 0 and "tfprune check FILE --policy new.toml" in out
    assert run(capsys, "base.tflite", "--policy", "new.toml")[0] == 0
    Path("new.toml").write_text("edited")
    code, _, err = run(capsys, "base.tflite", "--init", "new.toml")
    assert code == 2 and "Expected a new file with --init. Received: 'new.toml', which exists." in err
    assert Path("new.toml").read_text() == "edited"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["base.tflite", "--policy", "none.toml"], "Expected a policy in TOML. Received: 'none.toml'"),
        (["none.tflite", "--policy", "policy.toml", *COMPARED[2:]], "none.tflite"),
        (["base.tflite", "--policy", "policy.toml"], "Expected --baseline, the file before the change, for the rule"),
        (["base.tflite", *COMPARED[:4]], "Expected --data, samples that both files run on, for the rule"),
        (["base.tflite", *COMPARED[:5], "x.npy"], "Expected labels in --data, the class of each sample"),
        (["base.tflite", *COMPARED[:5], "x.npy,y.npy,z.npy"], "Expected --data X or --data X,Y"),
        (["base.tflite", *COMPARED, "--markdown", "base.tflite"], "that is not read as well"),
        (["base.tflite", *COMPARED, "--json", "y.npy"], "that is not read as well"),
        (["base.tflite", *COMPARED, "--junit", "none/check.xml"], "none/check.xml"),
        (["base.tflite", *COMPARED, "--junit", "check", "--json", "./check"], "Expected a file for each report."),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments, expected, files, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err and "`" not in err.replace("`tfprune check FILE --init PATH`", "")


# The action for GitHub: its steps run as they are, with the variables that GitHub would set.


@pytest.fixture(scope="module")
def action():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def filled(text, values):
    """Replace the expressions of GitHub by their values."""
    return re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda match: values[match[1]], text)


def run_step(step, values, folder, programs):
    """Run the line of a step as a composite action does; return the process."""
    variables = {name: filled(text, values) for name, text in step.get("env", {}).items()}
    github = {"GITHUB_ACTION_PATH": str(ROOT), "RUNNER_TEMP": str(folder / "temp")}
    github |= {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    environment = {**os.environ, **variables, **github, "PATH": f"{programs}:{os.environ['PATH']}"}
    (folder / "temp").mkdir(exist_ok=True)
    script = folder / "step.sh"
    script.write_text(step["run"])
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run_action(action, folder, **inputs):
    """Run the steps after the installation; return the exit code of the job, its summary, and its outputs."""
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "tfprune"
    lines = ["import sys", "from tfprune.export.command_line.cli import main", "sys.exit(main())"]
    program.write_text("\n".join([f"#!{sys.executable}", *lines]))
    program.chmod(0o755)
    given = {name: str(settings.get("default", "")) for name, settings in action["inputs"].items()} | inputs
    values = {f"inputs.{name}": value for name, value in given.items()}
    _, checks, summary = action["runs"]["steps"]
    assert "if" not in checks and summary["if"] == "always()"
    done = run_step(checks, values, folder, programs)
    outputs = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    values |= {f"steps.check.outputs.{name}": value for name, value in outputs.items()}
    assert run_step(summary, values, folder, programs).returncode == 0
    told = {name: filled(settings["value"], values) for name, settings in action["outputs"].items()}
    return done, (folder / "summary.md").read_text(), told


@pytest.mark.parametrize(("file", "code"), [("base.tflite", 0), ("worse.tflite", 1)])
def test_the_action_checks_the_file_and_adds_to_the_summary(file, code, files, action):
    Path("with space.toml").write_text(Path("policy.toml").read_text())
    inputs = {"file": file, "policy": "with space.toml", "baseline": "base.tflite", "data": "x.npy,y.npy"}
    done, summary, outputs = run_action(action, files, **inputs, groups="room.npy")
    assert done.returncode == code, done.stderr
    assert summary == Path(outputs["markdown"]).read_text()
    assert summary.startswith(f"### {file} {'FAILS' if code else 'passes'} with space.toml.")
    assert json.loads(Path(outputs["json"]).read_text())["exit_code"] == code
    assert ElementTree.parse(outputs["junit"]).getroot().get("tests") == "2"


def test_the_action_fails_where_nothing_could_be_checked_and_runs_no_input(files, action):
    done, summary, outputs = run_action(action, files, file="$(touch owned).tflite", policy="none.toml")
    assert done.returncode == 2 and "none.toml" in done.stderr
    assert "could not check the file" in summary
    assert not Path(outputs["markdown"]).exists() and not Path("owned").exists()


def test_the_action_installs_the_checkout_with_an_extra_that_exists(files, action, tmp_path):
    programs = tmp_path / "stub"
    programs.mkdir()
    (programs / "python").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > called')
    (programs / "python").chmod(0o755)
    install, *_ = action["runs"]["steps"]
    extra = action["inputs"]["extra"]["default"]
    assert run_step(install, {"inputs.extra": extra}, tmp_path, programs).returncode == 0
    *words, target = (tmp_path / "called").read_text().splitlines()
    assert words == ["-m", "pip", "install", "--quiet"] and target == f"{ROOT}[{extra}]"
    assert (ROOT / "setup.cfg").is_file()
    extras = (ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2]
    assert re.search(rf"^{extra} =", extras, re.MULTILINE) and re.search(r"^micro =", extras, re.MULTILINE)


def test_the_action_is_one_that_github_reads(action):
    assert action["runs"]["using"] == "composite" and {"name", "description"} <= action.keys()
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an input in a script is code: pass it by the environment"
        used = set(re.findall(r"inputs\.(\w+)", str(step.get("env", {}))))
        assert used <= action["inputs"].keys()
