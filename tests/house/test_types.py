"""What editors and mypy see of the public names, in a folder laid out as installed, by mypy's own answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from once import filled_once
from public_names import DOORS

import tfprune
import tfprune.export
import tfprune.tfmot

pytest.importorskip("mypy")
pytestmark = pytest.mark.programs
ROOT = Path(__file__).parents[2]
CALLS = Path(__file__).with_name("typed_calls.py")
HOMES = (tfprune, tfprune.export, tfprune.tfmot, *(getattr(tfprune, door) for door in DOORS))
NAMES = [f"{home.__name__}.{name}" for home in HOMES for name in home.__all__]

# Keras ships no types, so its objects are `Any`; and data may be arrays, batches or datasets, in any structure.
LOOSE = {
    *(
        "model",
        "new",
        "model_or_layer",
        "model_or_source",
        "layer",
        "pruned",
        "reference",
        "teacher",
        *("to_prune", "to_annotate", "to_cluster", "to_quantize", "to_strip"),
        "compiled",
        "optimizer",
        "loss",
        "judge",
        "tokenizer",
        *("before", "after"),
    ),
    *(
        "data",
        "samples",
        "train_data",
        "validation_data",
        "test_data",
        "calibration",
        "check_on",
        "inputs",
        "expected",
        "evaluate_on",
        "metrics",
    ),
    *("_args", "_kwds", "kwargs"),  # passed on to Keras
    *("message", "context"),  # Flower's, which need not be installed
}
RETURN_A_KERAS_OBJECT = {
    *("tfprune.strip", "tfprune.wrap", "tfprune.shrink", "tfprune.zero_channels", "tfprune.export.make_sparse_ready"),
    *("tfprune.tfmot.prune_low_magnitude", "tfprune.tfmot.strip_pruning", "tfprune.quantize_aware"),
    *("tfprune.equalize", "tfprune.distilled", "tfprune.growth.carry_optimizer"),
    *(f"tfprune.tfmot.quantize_{what}" for what in ("annotate_layer", "annotate_model", "model", "apply")),
    *("tfprune.tfmot.cluster_weights", "tfprune.tfmot.strip_clustering", "tfprune.tfmot.strip_clustering_cqat"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Ask mypy once about both files; return its answers by file and line."""
    folder = filled_once(tmp_path_factory, "typing", ask)
    printed = (folder / "answers.txt").read_text(encoding="utf-8")
    errors = {"revealed.py": defaultdict(list), CALLS.name: defaultdict(list)}
    for path, line, kind, text in re.findall(r"^(.+?):(\d+): (error|note): (.*)$", printed, re.MULTILINE):
        errors[Path(path).name][int(line)].append((kind, text))
    return errors


def ask(folder):
    (folder / "tfprune").mkdir()
    for path in [*(ROOT / "tfprune").iterdir(), ROOT / "export"]:  # as installed: export/ is tfprune.export
        (folder / "tfprune" / path.name).symlink_to(path)
    imports = f"import {', '.join(home.__name__ for home in HOMES)}\n"
    revealed = folder / "revealed.py"
    revealed.write_text(imports + "\n".join(f"reveal_type({name})" for name in NAMES), encoding="utf-8")
    cache = ROOT / "build" / "mypy"  # of `make lint`; mypy compares the contents of files
    options = ["--config-file", str(ROOT / "setup.cfg"), "--cache-dir", str(cache), "--no-pretty"]
    command = [sys.executable, "-m", "mypy", *options, str(revealed), str(CALLS)]
    environment = {**os.environ, "MYPYPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 2: mypy itself failed
    (folder / "answers.txt").write_text(done.stdout, encoding="utf-8")


@pytest.fixture(scope="module")
def types(answers):
    """The type that mypy reveals of each public name."""
    told = answers["revealed.py"]
    return {name: told[line][0][1].partition("Revealed type is ")[2].strip('"') for line, name in enumerate(NAMES, 2)}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_type(types, name):
    assert types[name] not in ("", "Any")
    assert set(re.findall(r"(\w+): Any\b", types[name])) <= LOOSE, types[name]
    assert not types[name].endswith("-> Any") or name in RETURN_A_KERAS_OBJECT, types[name]


def test_right_calls_pass_and_each_wrong_call_is_an_error(answers):
    lines = enumerate(CALLS.read_text(encoding="utf-8").splitlines(), 1)
    expected = {line: mark[1] for line, text in lines if (mark := re.search(r"# error: ([a-z-]+)", text))}
    reported = {
        line: "; ".join(re.sub(r".*\[([a-z-]+)\]$", r"\1", text) for kind, text in told if kind == "error")
        for line, told in answers[CALLS.name].items()
    }
    assert {line: code for line, code in reported.items() if code} == expected
    assert len(expected) > 40
