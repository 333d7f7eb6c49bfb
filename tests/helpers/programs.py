"""Programs run as their users run them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

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
