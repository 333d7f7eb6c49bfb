"""Programs run as their users run them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from once import filled_once

ROOT = Path(__file__).parents[2]

WITHOUT_KERAS = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tensorflow"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def printed_by(*arguments, folder):
    """Run Python in a process of its own; return what it printed."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *map(str, arguments)]
    completed = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    return completed.stdout


def output_once(temporary: pytest.TempPathFactory, name: str, *arguments: str | Path) -> tuple[Path, str]:
    """Run a sample app once for all workers; return the folder of its `--output` and what it printed."""

    def run(folder):
        printed = printed_by(*arguments, "--smoke", "--output", folder, folder=ROOT)
        folder.with_name(f"{name}.txt").write_text(printed, encoding="utf-8")

    folder = filled_once(temporary, name, run)
    return folder, folder.with_name(f"{name}.txt").read_text(encoding="utf-8")
